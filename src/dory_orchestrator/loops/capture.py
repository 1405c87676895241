"""One visit to a pod: its state is asked for and, where its incarnation is new, given first."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from dory_orchestrator.core.checkpoint import (
    Capture,
    CaptureLimits,
    CaptureReason,
    CaptureRefused,
    Incarnation,
    is_empty,
    is_same_incarnation,
    read_capture,
    sha256_of,
)
from dory_orchestrator.core.model import Pod
from dory_orchestrator.loops.restore import Life, NotTaken, Owned, Restorer, is_of
from dory_orchestrator.loops.seed import Seeder
from dory_orchestrator.ports import (
    Begun,
    Checkpoint,
    CheckpointStore,
    Cluster,
    Confirmation,
    Event,
    Lease,
    PodRefused,
    Pods,
    PodUnreachable,
)
from dory_orchestrator.tracing import NO_TRACER, MoveTrace, Tracer

BODY_BYTES_MAX = 2 * 1024 * 1024
"""Twice what can be restored: enough to say that it is too large."""
_EMPTY_SHA256 = sha256_of(b"{}")
_UNAUTHORIZED = 401
_TOO_LARGE = 413


class Visitor:
    """Visits pods, one visit of each at a time: the caller sees to it."""

    def __init__(
        self,
        *,
        pods: Pods,
        store: CheckpointStore,
        cluster: Cluster,
        seeder: Seeder,
        still_ready: Callable[[Owned], bool],
        tell: Callable[[Event], None],
        tokens: Sequence[str],
        limits: CaptureLimits,
        timeout_seconds: float,
        tracer: Tracer = NO_TRACER,
        move_of: Callable[[UUID], MoveTrace | None] = lambda _: None,
    ) -> None:
        self._pods = pods
        self._tracer = tracer
        self._move_of = move_of
        self._store = store
        self._cluster = cluster
        self._seeder = seeder
        self._tokens: Sequence[str | None] = tokens or (None,)
        self._restorer = Restorer(
            pods=pods,
            store=store,
            cluster=cluster,
            seeder=seeder,
            capture=self._capture,
            still_ready=still_ready,
            tell=tell,
            tokens=self._tokens,
            tracer=tracer,
            move_of=move_of,
        )
        self._limits = limits
        self._timeout_seconds = timeout_seconds
        self._lives: dict[str, Life] = {}
        self._given: dict[str, Incarnation] = {}
        """Of each pod the life that we saw go on from the newest state."""

    @property
    def lives(self) -> Mapping[str, Life]:
        """What is known of pods, by uid."""
        return self._lives

    def forget(self, uid: str) -> None:
        """Ask the store anew at the next visit."""
        self._lives.pop(uid, None)

    def is_gone(self, uid: str) -> None:
        """There is no such pod any more."""
        self.forget(uid)
        self._given.pop(uid, None)

    def forget_all(self) -> None:
        """It was another's turn meanwhile."""
        self._lives.clear()
        self._given.clear()

    async def visit(self, lease: Lease, owned: Owned) -> Checkpoint | Confirmation:
        """What is to be written. Raises NotTaken, StoreError (LeaseLost)."""
        capture = await self._capture(owned.pod)
        life = await self._life(lease, owned, capture)
        if not life.incarnation.given:
            capture = await self._settle(lease, owned, life, capture)
        elif not life.is_compared:
            await self._seeder.refuse_if_ahead(self._cluster, owned.pod, backend=owned.backend)
        life.is_compared = True
        self._given[owned.pod.uid] = life.incarnation
        if is_empty(capture.payload) and life.has_state:
            raise NotTaken(CaptureReason.EMPTY, "its state is empty, and was not before")
        pod, number = owned.pod, life.incarnation.number
        key = _processor(pod)
        if capture.sha256 == life.stored_sha256:
            return Confirmation(key, owned.epoch, number, pod.uid, capture.sha256, capture.asked_at)
        return Checkpoint(
            key,
            owned.epoch,
            number,
            pod.uid,
            pod.name,
            capture.captured_at,
            capture.payload,
            capture.sha256,
            capture.asked_at,
        )

    async def is_still(self, owned: Owned, life: Life) -> bool:
        """Whether that life goes on, by its own word."""
        try:
            return is_of(life, owned.pod, await self._capture(owned.pod))
        except NotTaken:
            return False

    async def _settle(self, lease: Lease, owned: Owned, life: Life, capture: Capture) -> Capture:
        if self._was_given(owned.pod, capture):
            # It is the store that has forgotten: restored from a backup, it has an older state,
            # and to give that would set the program back.
            await self._restorer.mark_given(lease, owned, life)
            return capture
        return await self._restorer.settle(lease, owned, life, capture)

    def _was_given(self, pod: Pod, capture: Capture) -> bool:
        given = self._given.get(pod.uid)
        return given is not None and is_same_incarnation(
            given, pod_uid=pod.uid, restart_count=pod.restart_count, ready_at=capture.ready_at
        )

    # Capture

    async def _capture(self, pod: Pod) -> Capture:
        asked_at = asyncio.get_running_loop().time()
        try:
            move = self._move_of(_processor(pod))
            with self._tracer.span(
                "pods.get_state", move=move, seldom=move is None, pod=pod.name
            ) as span:
                body = await self._get(pod)
                span.set(bytes=len(body))
            capture = read_capture(body, self._limits, pod_name=pod.name)
            return replace(capture, asked_at=asked_at)
        except PodUnreachable as error:
            raise NotTaken("unreachable", str(error), told=False) from error
        except PodRefused as error:
            raise NotTaken(_outcome(error), str(error)) from error
        except CaptureRefused as error:
            told = error.reason is not CaptureReason.NOT_READY
            raise NotTaken(error.reason, f"its state {error.detail}", told=told) from error

    async def _get(self, pod: Pod) -> bytes:
        """With the token before, too, while it is rotated."""
        for token in self._tokens[:-1]:
            try:
                return await self._get_with(pod, token)
            except PodRefused as error:
                if error.status != _UNAUTHORIZED:
                    raise
        return await self._get_with(pod, self._tokens[-1])

    async def _get_with(self, pod: Pod, token: str | None) -> bytes:
        return await self._pods.get_state(
            pod.address or "",
            token=token,
            timeout_seconds=self._timeout_seconds,
            bytes_max=BODY_BYTES_MAX,
        )

    async def _life(self, lease: Lease, owned: Owned, capture: Capture) -> Life:
        """The incarnation that this is of. The capture may be the first that tells of it."""
        pod, life = owned.pod, self._lives.get(owned.pod.uid)
        if life is not None and life.epoch == owned.epoch and is_of(life, pod, capture):
            return life
        begun = await self._store.begin_incarnation(
            lease,
            _processor(pod),
            owned.epoch,
            pod_uid=pod.uid,
            pod_name=pod.name,
            restart_count=pod.restart_count,
            ready_at=capture.ready_at,
        )
        if begun is None:
            self.forget(pod.uid)
            raise NotTaken("not_owner", "another pod owns the processor", told=False)
        return self._begin(owned, begun)

    def _begin(self, owned: Owned, begun: Begun) -> Life:
        known = self._lives.get(owned.pod.uid)
        newest = begun.newest_sha256
        life = Life(
            owned.epoch,
            begun.incarnation,
            # If it is of another, the store says so, and it is stored as a whole.
            stored_sha256=newest if begun.incarnation.given else None,
            has_state=newest not in (None, _EMPTY_SHA256),
            previous=begun.previous,
            start=begun.start,
            first=begun.first,
            seed_doubted_from=begun.seed_doubted_from,
        )
        if known is not None and known.incarnation.number == begun.incarnation.number:
            life.gives, life.refusals = known.gives, known.refusals
            life.previous = known.previous
        self._lives[owned.pod.uid] = life
        return life


def _processor(pod: Pod) -> UUID:
    assert pod.processor_id is not None  # noqa: S101 - only such pods are visited
    return pod.processor_id


def _outcome(error: PodRefused) -> str:
    if error.status == _UNAUTHORIZED:
        return "unauthorized"
    return "too_large" if error.status == _TOO_LARGE else "refused"
