"""One visit to a pod: its state is asked for and, where its incarnation is new, given first."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

from dory_orchestrator.core.checkpoint import (
    Capture,
    CaptureLimits,
    CaptureReason,
    CaptureRefused,
    Incarnation,
    StoredCheckpoint,
    is_empty,
    is_same_incarnation,
    prove,
    read_capture,
    sha256_of,
)
from dory_orchestrator.core.model import Pod
from dory_orchestrator.loops.seed import Seeder
from dory_orchestrator.ports import (
    Begun,
    Checkpoint,
    CheckpointStore,
    Cluster,
    ClusterUnavailable,
    Confirmation,
    Lease,
    PodRefused,
    Pods,
    PodUnreachable,
)
from dory_orchestrator.tracing import NO_TRACER, MoveTrace, Tracer

BODY_BYTES_MAX = 2 * 1024 * 1024
"""Twice what can be restored: enough to say that it is too large."""
_GIVE_SECONDS = 10.0
_GIVES_MAX = 3
"""Each one sets the program back: what does not help three times is not tried again."""
_EMPTY_SHA256 = sha256_of(b"{}")
_UNAUTHORIZED = 401
_TOO_LARGE = 413


class Owned(NamedTuple):
    """A pod that owns its processor and is ready. `interval_seconds` 0: no checkpoints."""

    pod: Pod
    epoch: int
    interval_seconds: float
    proof: tuple[str, ...] = ()


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
    any that is not empty is stored of its processor; `gives` counts those in vain.
    """

    epoch: int
    incarnation: Incarnation
    stored_sha256: bytes | None = None
    has_state: bool = False
    previous: Incarnation | None = None
    gives: int = 0


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
        self._still_ready = still_ready
        self._tokens: Sequence[str | None] = tokens or (None,)
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
            capture = await self._give(lease, owned, life, capture)
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
        if life is not None and life.epoch == owned.epoch and _is_of(life, pod, capture):
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
        )
        if known is not None and known.incarnation.number == begun.incarnation.number:
            life.gives, life.previous = known.gives, known.previous
        self._lives[owned.pod.uid] = life
        return life

    # Restore

    async def _give(self, lease: Lease, owned: Owned, life: Life, capture: Capture) -> Capture:
        """Put the newest checkpoint into it, unless it is there; returns what it then says."""
        newest = None
        # If it was given, it is the store that has forgotten: restored from a backup, it has an
        # older state, and to give that would set the program back.
        if not self._was_given(owned.pod, capture):
            newest = await self._newest(lease, owned, life, capture)
        if newest is not None:
            life.has_state = not is_empty(newest.payload)
            if not _continues(newest, capture, owned.proof):
                capture = await self._post(owned, life, newest)
        marked = await self._store.mark_given(
            lease, _processor(owned.pod), owned.epoch, life.incarnation
        )
        if not marked:
            self.forget(owned.pod.uid)
            raise NotTaken("not_owner", "another pod owns the processor", told=False)
        life.incarnation = replace(life.incarnation, given=True)
        return capture

    def _was_given(self, pod: Pod, capture: Capture) -> bool:
        given = self._given.get(pod.uid)
        return given is not None and is_same_incarnation(
            given, pod_uid=pod.uid, restart_count=pod.restart_count, ready_at=capture.ready_at
        )

    async def _newest(
        self, lease: Lease, owned: Owned, life: Life, capture: Capture
    ) -> StoredCheckpoint | None:
        before, now = life.previous, life.incarnation
        same_pod = before is not None and before.pod_uid == now.pod_uid
        try:
            return await self._seeder.take_own(
                lease,
                self._cluster,
                owned.pod,
                previous=before,
                # Of a life in between nothing is known.
                restarted=same_pod
                and before is not None
                and now.restart_count - before.restart_count > 1,
                ready_at=capture.ready_at,
                proof=owned.proof,
            )
        except ClusterUnavailable as error:
            detail = f"what it saved cannot be read: {error}"
            raise NotTaken("not_given", detail, told=False) from error

    async def _post(self, owned: Owned, life: Life, newest: StoredCheckpoint) -> Capture:
        if life.gives >= _GIVES_MAX:
            raise NotTaken("not_given", "its state could not be restored")
        if not self._still_ready(owned):
            raise NotTaken("not_given", "it is not ready any more", told=False)
        try:
            move = self._move_of(_processor(owned.pod))
            with self._tracer.span(
                "pods.put_state", move=move, pod=owned.pod.name, bytes=len(newest.payload)
            ):
                await self._put(owned.pod, b'{"data": ' + newest.payload + b"}")
        except PodUnreachable as error:
            raise NotTaken("not_given", f"restoring: {error}") from error
        except PodRefused as error:
            if error.final and error.status != _UNAUTHORIZED:
                life.gives = _GIVES_MAX
            raise NotTaken("not_given", f"restoring: {error}") from error
        capture = await self._capture(owned.pod)
        if not _is_of(life, owned.pod, capture):
            raise NotTaken("not_given", "it restarted while it was restored", told=False)
        wrong = prove(newest.payload, capture.payload, owned.proof)
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


def _processor(pod: Pod) -> UUID:
    assert pod.processor_id is not None  # noqa: S101 - only such pods are visited
    return pod.processor_id


def _is_of(life: Life, pod: Pod, capture: Capture) -> bool:
    return is_same_incarnation(
        life.incarnation,
        pod_uid=pod.uid,
        restart_count=pod.restart_count,
        ready_at=capture.ready_at,
    )


def _continues(newest: StoredCheckpoint, capture: Capture, proof: Sequence[str]) -> bool:
    """Whether it started from the newest checkpoint by itself: giving it again would only set
    it back. Without pointers, only the very same state shows that."""
    if newest.sha256 == capture.sha256:
        return True
    return bool(proof) and prove(newest.payload, capture.payload, proof) is None


def _outcome(error: PodRefused) -> str:
    if error.status == _UNAUTHORIZED:
        return "unauthorized"
    return "too_large" if error.status == _TOO_LARGE else "refused"
