"""Carrying out what was granted: one call to the cluster each, bounded in number and time."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.model import Limits, Move, Pod, PodSpec
from dory_orchestrator.core.plan import Create, Delete, Record
from dory_orchestrator.core.reconcile import refused
from dory_orchestrator.core.specify import continuing
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.move_traces import move_of
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Cluster,
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    Event,
    FleetStore,
    Lease,
    LeaseLost,
    Refusal,
    StoreError,
)
from dory_orchestrator.tracing import NO_TRACER, Tracer

_log = get_logger(__name__)
_CALL_SECONDS = 15.0
_ASKING_SECONDS = 30.0
_BACKOFF = Backoff(first_seconds=1.0, most_seconds=30.0, forgotten_after_seconds=0.0)
_CAPTURE_BACKOFF = Backoff(first_seconds=1.0, most_seconds=8.0, forgotten_after_seconds=0.0)
"""A move that waits for a state is given up after a time: it is to be tried often before that."""
_ALREADY_DONE = (Refusal.NOT_FOUND, Refusal.CONFLICT)
_LATE_SAVE_SECONDS = 15.0
"""After so long a pod that was forced away has saved, if it runs on where nobody reaches it."""
CONCURRENCY = 16

Work = Create | Delete


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the loop: where its work runs, the lease it acts under, since when it was
    wanted, on the loop's clock, and which moves were under way."""

    group: asyncio.TaskGroup
    lease: Lease
    woken_at: float | None
    moves: Mapping[UUID, Move] = field(default_factory=dict)


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class _NotPrepared(Exception):
    """The state could not be laid out, or not be captured: nothing was created or ended, and it
    is tried again."""


class States(Protocol):
    """What keeps the state of processors."""

    async def prepare(self, lease: Lease, create: Create) -> float | None:
        """Have the newest state lie where the pod that is created will look for it.

        Returns when that state was last seen (Unix seconds of the database), None when there
        is none. Raises StoreError, ClusterError.
        """
        ...

    async def capture(self, lease: Lease, pod: Pod, epoch: int) -> str | None:
        """Capture the state of a running pod, and store it. Returns why that could not be done."""
        ...

    async def undo_late_save(self, pod: Pod) -> bool:
        """Put the newest state in place of what this pod saved, which was forced away; whether it
        had saved. Raises StoreError, ClusterError."""
        ...


class Leading(Protocol):
    """Whether we lead."""

    @property
    def lease(self) -> Lease | None:
        """The lease while it may be acted on."""
        ...


class Actor:
    """Carries out work side by side, each processor's on its own; `acting` tells whose."""

    def __init__(
        self,
        *,
        store: FleetStore,
        cluster: Cluster,
        observer: Observer,
        leading: Leading,
        limits: Limits,
        metrics: Metrics,
        on_done: Callable[[], None],
        concurrency: int = CONCURRENCY,
        states: States | None = None,
        tracer: Tracer = NO_TRACER,
        on_record: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._on_record = on_record
        self._states = states
        self._tracer = tracer
        self._cluster = cluster
        self._observer = observer
        self._leading = leading
        self._limits = limits
        self._metrics = metrics
        self._on_done = on_done
        self._places = asyncio.Semaphore(concurrency)
        self._acting: dict[UUID, int] = {}
        self._unsettled: dict[UUID, int] = {}
        self._reacted: Turn | None = None

    @property
    def acting(self) -> frozenset[UUID]:
        """Processors that something is being done for."""
        return frozenset(self._acting)

    def start(self, turn: Turn, work: Work, failures: int) -> None:
        """Do it in the background. `failures` are those in a row before it."""
        key = work.processor_id
        self._acting[key] = self._acting.get(key, 0) + 1
        self._metrics.reconciliation_queue_depth.inc()
        turn.group.create_task(self._do(turn, work, failures))

    async def _do(self, turn: Turn, work: Work, failures: int) -> None:
        try:
            await self._try(turn, work, failures)
        except StoreError as error:
            # It was done; the next cycle finds that it is not written, and writes it.
            _log.info("not recorded", processor_id=str(work.processor_id), error=str(error))
        finally:
            self._finish(work.processor_id)

    async def _try(self, turn: Turn, work: Work, failures: int) -> None:
        """Return when it is to be decided anew: it is settled, or was not for too long.

        A creation without an answer may have been done. It is asked for again in its own epoch,
        under its own name, so that there is never a second pod beside it.
        """
        key, until, asked = work.processor_id, _now() + _ASKING_SECONDS, False
        while True:
            async with self._places:
                # Last looked at here: what was granted long ago, before we were stopped or lost
                # the lease, is not done any more.
                if self._leading.lease != turn.lease:
                    _log.info("not done: the lease was lost", processor_id=str(key))
                    return
                self._count_reaction(turn)
                if await self._traced_call(turn, work, failures, asked=asked):
                    self._unsettled.pop(key, None)
                    return
            asked = True
            times = self._unsettled[key] = self._unsettled.get(key, 0) + 1
            captures = isinstance(work, Delete) and work.captures
            backoff = _CAPTURE_BACKOFF if captures else _BACKOFF
            await asyncio.sleep(backoff.delay_seconds(times))
            if isinstance(work, Delete) or self._is_there(work) or _now() >= until:
                return

    def _count_reaction(self, turn: Turn) -> None:
        """Of the first call of a turn."""
        if turn.woken_at is not None and turn is not self._reacted:
            self._metrics.reaction.observe(_now() - turn.woken_at)
        self._reacted = turn

    def _is_there(self, create: Create) -> bool:
        observed, place = self._observer.current, (create.spec.namespace, create.spec.name)
        return observed is not None and any(
            (pod.namespace, pod.name) == place for pod in observed.pods.values()
        )

    def _finish(self, processor_id: UUID) -> None:
        self._metrics.reconciliation_queue_depth.dec()
        self._acting[processor_id] -= 1
        if not self._acting[processor_id]:
            del self._acting[processor_id]
        self._on_done()

    def _look_for_late_save(self, turn: Turn, delete: Delete) -> None:
        if self._states is not None:
            turn.group.create_task(self._undo_late_save(self._states, turn, delete.pod))

    async def _undo_late_save(self, states: States, turn: Turn, pod: Pod) -> None:
        """Else the next start of its successor would begin from that; it would be noticed, and
        set right, only once that is ready."""
        await asyncio.sleep(_LATE_SAVE_SECONDS)
        async with self._places:
            if self._leading.lease != turn.lease:
                return
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await states.undo_late_save(pod)
            except (StoreError, ClusterError, TimeoutError) as error:
                _log.info("a late save is not looked for", pod=pod.name, error=str(error))

    async def _traced_call(self, turn: Turn, work: Work, failures: int, *, asked: bool) -> bool:
        with self._tracer.span(
            f"pod.{_name(work)}",
            move=move_of(work, turn.moves),
            processor_id=str(work.processor_id),
            epoch=work.epoch,
            reason=str(work.reason),
        ) as span:
            settled = await self._call(turn, work, failures, asked=asked)
            span.set(settled=settled)
        return settled

    async def _call(self, turn: Turn, work: Work, failures: int, *, asked: bool) -> bool:
        """Whether it is settled. `asked` says that it was called before."""
        lease = turn.lease
        try:
            if isinstance(work, Create):
                await self._create(lease, work)
            else:
                await self._delete(lease, work)
                if work.force:
                    self._look_for_late_save(turn, work)
        except ClusterRefused as refusal:
            if asked and refusal.reason is Refusal.ALREADY_EXISTS:
                # By the call before: a picture will tell.
                return False
            return await self._refuse(lease, work, refusal, failures)
        except (ClusterUnavailable, TimeoutError, _NotPrepared) as error:
            self._count_error(work, late=_is_late(error))
            _log.warning(
                "not done yet",
                action=_name(work),
                processor_id=str(work.processor_id),
                error=str(error) or f"no answer within {_CALL_SECONDS:g} s",
            )
            return False
        return True

    async def _create(self, lease: Lease, create: Create) -> None:
        async with asyncio.timeout(_CALL_SECONDS):
            spec = await self._prepared(lease, create)
            with self._tracer.span("cluster.create_pod", pod=spec.name, namespace=spec.namespace):
                pod = await self._cluster.create_pod(spec)
        self._observer.created(pod)
        _log.info(
            "pod created",
            processor_id=str(create.processor_id),
            pod=pod.name,
            epoch=create.epoch,
            reason=create.reason,
            detail=create.detail,
        )
        record = Record(create.processor_id, create.epoch, pod)
        await self._store.record_pods(lease, [record])
        self._on_record(record)

    async def _prepared(self, lease: Lease, create: Create) -> PodSpec:
        """Its state first: a pod that starts without it would begin anew, and save that."""
        if self._states is None:
            return create.spec
        key, epoch = create.processor_id, create.epoch
        try:
            with self._tracer.span("state.prepare") as span:
                state_at = await self._states.prepare(lease, create)
                span.set(has_state=state_at is not None)
            if state_at is None:
                return create.spec
            await self._store.record_move_state(lease, key, epoch, state_at)
        except LeaseLost:
            raise
        except StoreError as error:
            # Not as when it was done and only not recorded: that is decided anew at once, and each
            # time in a new epoch.
            raise _NotPrepared(f"its state: {error}") from error
        return continuing(create.spec, create.previous)

    async def _delete(self, lease: Lease, delete: Delete) -> None:
        async with asyncio.timeout(_CALL_SECONDS):
            if delete.captures and self._states is not None:
                await self._capture(self._states, lease, delete)
            pod = delete.pod
            with self._tracer.span(
                "cluster.delete_pod", pod=pod.name, namespace=pod.namespace, force=delete.force
            ):
                await self._cluster.delete_pod(pod, force=delete.force)
        self._observer.deleted(delete.pod)
        _log.info(
            "pod deleted",
            processor_id=str(delete.processor_id),
            pod=delete.pod.name,
            reason=delete.reason,
            detail=delete.detail,
        )

    async def _capture(self, states: States, lease: Lease, delete: Delete) -> None:
        """Of what is to move. Why that failed is written down: the move waits for it, and is given
        up at last."""
        with self._tracer.span("state.capture") as span:
            error = await states.capture(lease, delete.pod, delete.epoch)
            span.set(captured=error is None)
        if error is None:
            return
        said = f"its state could not be captured: {error}"
        await self._store.record_move_error(lease, delete.processor_id, said)
        raise _NotPrepared(f"{said}; it is not ended")

    async def _refuse(
        self, lease: Lease, work: Work, refusal: ClusterRefused, failures: int
    ) -> bool:
        """Whether it is settled: a creation is, as its next try is written with a moment."""
        if isinstance(work, Delete) and refusal.reason in _ALREADY_DONE:
            return True
        self._count_error(work)
        _log.warning(
            "the cluster refused",
            action=_name(work),
            processor_id=str(work.processor_id),
            reason=refusal.reason,
            error=str(refusal),
        )
        event = Event(
            f"{_name(work)}_refused",
            refusal.reason,
            str(refusal),
            work.processor_id,
            pod_name=work.spec.name if isinstance(work, Create) else work.pod.name,
            epoch=work.epoch,
            trace_id=self._tracer.trace_id(),
        )
        if isinstance(work, Create):
            self._metrics.pod_creation_errors.labels(refusal.reason).inc()
            failure = refused(work, str(refusal), failures, self._limits)
            await self._store.grant(lease, [failure])
        await self._store.record_events(lease, [event])
        return isinstance(work, Create)

    def _count_error(self, work: Work, *, late: bool = False) -> None:
        kind = "pod_creation" if isinstance(work, Create) else "pod_deletion"
        self._metrics.reconciliation_errors.labels("timeout" if late else kind).inc()


def _is_late(error: Exception) -> bool:
    """Whether nobody answered in time: the adapters say it as the cause."""
    return isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)


def _name(work: Work) -> str:
    return type(work).__name__.lower()
