"""What a life that began is given: nothing where it went on by itself, else the newest state."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

from dory_orchestrator.core.checkpoint import (
    Capture,
    Incarnation,
    StoredCheckpoint,
    has_grown,
    is_empty,
    is_same_incarnation,
    prove,
)
from dory_orchestrator.core.model import Pod
from dory_orchestrator.core.start import (
    Lay,
    Start,
    StartFacts,
    StartReason,
    judge_start,
    looks_reset,
)
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.seed import Seeder
from dory_orchestrator.ports import (
    Archived,
    CheckpointStore,
    Cluster,
    ClusterUnavailable,
    Event,
    Lease,
    PodRefused,
    Pods,
    PodUnreachable,
)
from dory_orchestrator.tracing import NO_TRACER, MoveTrace, Tracer

_log = get_logger(__name__)
_GIVE_SECONDS = 10.0
_METRICS_SECONDS = 2.0
_GIVES_MAX = 3
"""Each one sets the program back: what does not help three times is not tried again."""
_REFUSALS_MAX = 15
"""These change nothing in the program, and come each two seconds: half a minute, in which what it
depends on may come up."""
_UNAUTHORIZED = 401


class Owned(NamedTuple):
    """A pod that owns its processor and is ready. `interval_seconds` 0: no checkpoints; `backend`
    is where its client library saves, "" where the template does not say."""

    pod: Pod
    epoch: int
    interval_seconds: float
    proof: tuple[str, ...] = ()
    backend: str = ""


class NotTaken(Exception):
    """There is no state to store. `outcome` is a fixed word; `told`, whether people should know."""

    def __init__(self, outcome: str, detail: str, *, told: bool = True) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.told = told


@dataclass(slots=True)
class Life:
    """What is known of the present incarnation of a pod.

    `stored_sha256` is that of its own checkpoint, if there is one; `has_state` tells whether
    any that is not empty is stored of its processor; `gives` counts those in vain, `refusals`
    those that the pod refused. `start` and `first` are what it began with, and its first capture.
    `aside_sha256` is what was archived of it last, while it is unprotected. `is_compared`: the
    document that lies there is not ahead of the database. `seed_doubted_from`: see Begun.
    `posted_sha256` is what it may have been given, as the answer was lost: of one that had not
    outgrown that before, so that it shows.
    """

    epoch: int
    incarnation: Incarnation
    stored_sha256: bytes | None = None
    has_state: bool = False
    previous: Incarnation | None = None
    gives: int = 0
    refusals: int = 0
    start: Start | None = None
    first: Capture | None = None
    aside_sha256: bytes | None = None
    is_compared: bool = False
    seed_doubted_from: float | None = None
    posted_sha256: bytes | None = None


class Restorer:
    """Gives lives their state, where they did not go on by themselves."""

    def __init__(
        self,
        *,
        pods: Pods,
        store: CheckpointStore,
        cluster: Cluster,
        seeder: Seeder,
        capture: Callable[[Pod], Awaitable[Capture]],
        still_ready: Callable[[Owned], bool],
        tell: Callable[[Event], None],
        tokens: Sequence[str | None],
        tracer: Tracer = NO_TRACER,
        move_of: Callable[[UUID], MoveTrace | None] = lambda _: None,
    ) -> None:
        self._pods, self._store, self._cluster = pods, store, cluster
        self._seeder, self._capture, self._still_ready = seeder, capture, still_ready
        self._tell, self._tokens = tell, tokens
        self._tracer, self._move_of = tracer, move_of

    async def settle(self, lease: Lease, owned: Owned, life: Life, capture: Capture) -> Capture:
        """See to it that a life goes on from the newest checkpoint; returns what it then says.

        Raises NotTaken, StoreError.
        """
        if life.incarnation.unprotected is not None:
            await self._keep_aside(lease, owned, life, capture, life.incarnation.unprotected)
        else:
            reason, newest = await self._judge(lease, owned, life, capture)
            if newest is not None:
                life.has_state = not is_empty(newest.payload)
                if reason.gives and not _took(owned, life, newest, capture):
                    capture = await self._give(lease, owned, life, capture, newest)
                elif reason.is_told:
                    await self._supersede(lease, owned, life, newest, reason)
        await self.mark_given(lease, owned, life)
        return capture

    async def mark_given(self, lease: Lease, owned: Owned, life: Life) -> None:
        """Its own states are accepted from now on. Raises NotTaken, StoreError."""
        key = _processor(owned.pod)
        _ensure(await self._store.mark_given(lease, key, owned.epoch, life.incarnation))
        life.incarnation = replace(life.incarnation, given=True, behind=False, unprotected=None)
        life.seed_doubted_from = None

    # What it began with

    async def _judge(
        self, lease: Lease, owned: Owned, life: Life, capture: Capture
    ) -> tuple[StartReason, StoredCheckpoint | None]:
        if life.start is not None and life.first is not None:
            newest = await self._store.newest_checkpoint(_processor(owned.pod))
            reason = judge_start(_facts(owned, life.start, newest, life.first))
            return _by_now(reason, _facts(owned, life.start, newest, capture)), newest
        newest, start = await self._look_at_start(lease, owned, life, capture)
        reason = judge_start(_facts(owned, start, newest, capture))
        noted = await self._store.note_start(
            lease,
            _processor(owned.pod),
            owned.epoch,
            life.incarnation,
            start=start,
            first=capture,
            behind=reason.gives,
        )
        _ensure(noted)
        life.start, life.first = start, capture
        life.incarnation = replace(life.incarnation, behind=reason.gives)
        _log.info(
            "a start was judged",
            processor_id=str(owned.pod.processor_id),
            pod=owned.pod.name,
            reason=reason,
            lay=start.lay,
            was_read=start.was_read,
        )
        return reason, newest

    async def _look_at_start(
        self, lease: Lease, owned: Owned, life: Life, capture: Capture
    ) -> tuple[StoredCheckpoint | None, Start]:
        before, now = life.previous, life.incarnation
        same_pod = before is not None and before.pod_uid == now.pod_uid
        was_read = await self._pods.read_its_state(
            owned.pod.address or "", timeout_seconds=_METRICS_SECONDS
        )
        try:
            newest, start = await self._seeder.look_at_start(
                lease,
                self._cluster,
                owned.pod,
                backend=owned.backend,
                previous=before,
                # Of a life in between nothing is known.
                restarted=same_pod
                and before is not None
                and now.restart_count - before.restart_count > 1,
                ready_at=capture.ready_at,
                proof=owned.proof,
                doubted_from=life.seed_doubted_from,
            )
        except ClusterUnavailable as error:
            if was_read is not False:
                detail = f"what it saved cannot be read: {error}"
                raise NotTaken("not_given", detail, told=False) from error
            # It could not read it either, so it began with nothing, whatever lies there: it need
            # not wait for a cluster that is away.
            newest = await self._store.newest_checkpoint(_processor(owned.pod))
            start = Start(Lay.UNKNOWN)
        return newest, replace(start, was_read=was_read)

    # What loses

    async def _supersede(
        self,
        lease: Lease,
        owned: Owned,
        life: Life,
        newest: StoredCheckpoint,
        reason: StartReason,
    ) -> None:
        """It goes on from another state: the newest is kept besides."""
        archived = Archived(
            _processor(owned.pod),
            "superseded",
            newest.position.epoch,
            newest.position.incarnation,
            newest.pod_name,
            newest.captured_at,
            newest.payload,
            newest.sha256,
        )
        detail = "it goes on from another state than the newest checkpoint, which is archived"
        if await self._store.archive_state(lease, archived):
            self._tell_of(owned, "state_archived", reason, detail)

    async def _put_aside(
        self, lease: Lease, owned: Owned, life: Life, capture: Capture, reason: str
    ) -> bool:
        """Archive what it has now. Whether that was not there yet."""
        archived = Archived(
            _processor(owned.pod),
            reason,
            owned.epoch,
            life.incarnation.number,
            owned.pod.name,
            capture.captured_at,
            capture.payload,
            capture.sha256,
        )
        return await self._store.archive_state(lease, archived)

    async def _keep_aside(
        self, lease: Lease, owned: Owned, life: Life, capture: Capture, detail: str
    ) -> None:
        """Of one that is unprotected the first and the newest state are archived. Returns when
        what the template says has caught up with the newest; else raises NotTaken."""
        if owned.proof:
            newest = await self._store.newest_checkpoint(_processor(owned.pod))
            if newest is None or prove(newest.payload, capture.payload, owned.proof) is None:
                if newest is not None:
                    await self._supersede(lease, owned, life, newest, StartReason.PROVEN)
                self._tell_of(owned, "protected", "proven", "its state is beyond the newest")
                return
        if capture.sha256 != life.aside_sha256 and not is_empty(capture.payload):
            await self._put_aside(lease, owned, life, capture, "unprotected")
            life.aside_sha256 = capture.sha256
        raise NotTaken("unprotected", detail, told=False)

    # Restore

    async def _give(
        self,
        lease: Lease,
        owned: Owned,
        life: Life,
        capture: Capture,
        newest: StoredCheckpoint,
    ) -> Capture:
        if (
            not is_empty(capture.payload)
            and not life.gives
            and await self._put_aside(lease, owned, life, capture, "set_back")
        ):
            detail = "what it had is archived: it is given the newest checkpoint"
            self._tell_of(owned, "state_archived", "set_back", detail)
        try:
            return await self._post(owned, life, capture, newest)
        except NotTaken as error:
            if life.gives < _GIVES_MAX and life.refusals < _REFUSALS_MAX:
                raise
            await self._give_up(lease, owned, life, str(error))
            raise

    async def _give_up(self, lease: Lease, owned: Owned, life: Life, detail: str) -> None:
        key = _processor(owned.pod)
        _ensure(
            await self._store.mark_unprotected(lease, key, owned.epoch, life.incarnation, detail)
        )
        life.incarnation = replace(life.incarnation, behind=True, unprotected=detail)
        _log.warning(
            "a processor is unprotected", processor_id=str(key), pod=owned.pod.name, detail=detail
        )
        self._tell_of(owned, "unprotected", "restore_failed", detail)

    async def _post(
        self, owned: Owned, life: Life, before: Capture, newest: StoredCheckpoint
    ) -> Capture:
        if not self._still_ready(owned):
            raise NotTaken("not_given", "it is not ready any more", told=False)
        try:
            move = self._move_of(_processor(owned.pod))
            with self._tracer.span(
                "pods.put_state", move=move, pod=owned.pod.name, bytes=len(newest.payload)
            ):
                await self._put(owned.pod, b'{"data": ' + newest.payload + b"}")
        except PodUnreachable as error:
            if not has_grown(newest.payload, before.payload):
                life.posted_sha256 = newest.sha256
            raise NotTaken("not_given", f"restoring: {error}") from error
        except PodRefused as error:
            if error.status != _UNAUTHORIZED:
                life.refusals = _REFUSALS_MAX if error.final else life.refusals + 1
            raise NotTaken("not_given", f"restoring: {error}") from error
        capture = await self._capture(owned.pod)
        if not is_of(life, owned.pod, capture):
            raise NotTaken("not_given", "it restarted while it was restored", told=False)
        wrong = prove(newest.payload, capture.payload, owned.proof)
        if wrong is None and looks_reset(newest.payload, capture.payload):
            wrong = "all its numbers are as if it had begun anew"
        if wrong is not None:
            life.gives += 1
            raise NotTaken("not_given", f"its state was not restored: {wrong}")
        return capture

    async def _put(self, pod: Pod, body: bytes) -> None:
        for token in self._tokens[:-1]:
            try:
                return await self._put_with(pod, body, token)
            except PodRefused as error:
                if error.status != _UNAUTHORIZED:
                    raise
        return await self._put_with(pod, body, self._tokens[-1])

    async def _put_with(self, pod: Pod, body: bytes, token: str | None) -> None:
        await self._pods.put_state(
            pod.address or "", body, token=token, timeout_seconds=_GIVE_SECONDS
        )

    def _tell_of(self, owned: Owned, kind: str, reason: str, detail: str) -> None:
        pod = owned.pod
        self._tell(Event.of_pod(kind, reason, detail, pod.processor_id, pod))


def is_of(life: Life, pod: Pod, capture: Capture) -> bool:
    """Whether a capture is of this life."""
    return is_same_incarnation(
        life.incarnation,
        pod_uid=pod.uid,
        restart_count=pod.restart_count,
        ready_at=capture.ready_at,
    )


def _processor(pod: Pod) -> UUID:
    assert pod.processor_id is not None  # noqa: S101 - only such pods are visited
    return pod.processor_id


def _ensure(is_owner: bool) -> None:
    if not is_owner:
        raise NotTaken("not_owner", "another pod owns the processor", told=False)


def _took(owned: Owned, life: Life, newest: StoredCheckpoint, capture: Capture) -> bool:
    """Whether it has gone on from what it was posted, although it did not answer: to post that
    again would set it back."""
    return (
        life.posted_sha256 == newest.sha256
        and prove(newest.payload, capture.payload, owned.proof) is None
        and has_grown(newest.payload, capture.payload)
    )


def _facts(
    owned: Owned, start: Start, newest: StoredCheckpoint | None, capture: Capture
) -> StartFacts:
    return StartFacts(
        start=start,
        newest=newest,
        capture=capture,
        proof=owned.proof,
        interval_seconds=owned.interval_seconds,
    )


_LATER = (
    StartReason.SAME_STATE,
    StartReason.PROVEN,
    StartReason.HAS_MORE,
    StartReason.RAN_ON_LONGER,
)


def _by_now(reason: StartReason, facts: StartFacts) -> StartReason:
    """Of one that was to be given its state and could not be reached: it may have gone on for so
    long, or so far, that this would set it back by now."""
    later = judge_start(facts)
    return later if reason.gives and later in _LATER else reason
