"""The loop: snapshot, compute, grant, act, record. It decides nothing itself.

Notifications, changes of the cluster and the poll interval only wake it; what counts is what
it then reads. Wakes during a cycle lead to exactly one more.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

from dory_orchestrator.core import guard
from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.grants import REFUSALS
from dory_orchestrator.core.health import INTERVALS_UNTIL_UNHEALTHY, by_age
from dory_orchestrator.core.model import (
    ComponentHealth,
    Desired,
    Limits,
    Observation,
    Pod,
    Snapshot,
)
from dory_orchestrator.core.namespaces import namespaces
from dory_orchestrator.core.plan import Create, Decision, Delete, EndMove, Plan, Record
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.act import Actor, States, Turn
from dory_orchestrator.loops.answer import Answerer
from dory_orchestrator.loops.judged import Judged
from dory_orchestrator.loops.lead import Leadership
from dory_orchestrator.loops.lookups import Lookups
from dory_orchestrator.loops.move_traces import MoveTraces
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.loops.picture import Picture
from dory_orchestrator.loops.show import Display
from dory_orchestrator.loops.shown_pods import ShownPods
from dory_orchestrator.loops.wake import Wake
from dory_orchestrator.loops.watch import Watcher
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Action,
    Cluster,
    FleetStore,
    LeaseLost,
    StoreBusy,
    StoreDataError,
    StoreError,
    StoreTimeout,
    kind_of,
)
from dory_orchestrator.tracing import NO_TRACER, Span, Tracer

_log = get_logger(__name__)
_GRANTS_MAX = 1_000
_BUCKET_SECONDS = 10.0
_FAULTS_MAX = 20
_MOVING_SECONDS = 0.5
_CYCLE_SECONDS_MAX = 60.0
"""A cycle that does much may take so long, however short the interval is."""
_MOMENT_SECONDS = 0.001
_REST_SHARE = 0.25
_MANY_REST_SHARE = 1.0
_MANY = 100
"""While so many calls to the cluster are under way, they need the time more than the next cycle."""
_BACKOFF = Backoff(first_seconds=0.5, most_seconds=15.0, forgotten_after_seconds=0.0)

T = TypeVar("T", Record, Action)
Refused = dict[UUID, str]
"""Of each processor for which something was not done, why not."""


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class Evidence(Protocol):
    """What else decisions rest on, from the loops that ask pods."""

    def answers(self) -> Mapping[str, bool]:
        """Of each pod that was asked lately, by uid, whether it answered."""
        ...

    def is_restored(self, pod: Pod) -> bool:
        """Whether the present incarnation of a pod has its state."""
        ...

    def unprotected(self) -> Mapping[str, str]:
        """The pods, by uid, that could not be given their state, and why."""
        ...

    def ahead(self) -> Mapping[UUID, str]:
        """The processors whose document is newer than the database, in words."""
        ...

    def attended_since(self) -> float | None:
        """Since when checkpoints are taken without interruption, by the event loop's clock."""
        ...


class NoEvidence:
    """Nobody asks pods: then no silence is proven, and no move is complete."""

    def answers(self) -> Mapping[str, bool]:
        """None."""
        return {}

    def is_restored(self, pod: Pod) -> bool:
        """Not known."""
        return False

    def unprotected(self) -> Mapping[str, str]:
        """None."""
        return {}

    def ahead(self) -> Mapping[UUID, str]:
        """None."""
        return {}

    def attended_since(self) -> float | None:
        """Not known."""
        return None


class History:
    """The counts of desired processors of the last ten minutes, for the deletion guard."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[str, int]] = {}

    def add(self, at: float, counts: dict[str, int]) -> None:
        """Remember counts; older ones than the guard looks at are dropped."""
        bucket = int(at / _BUCKET_SECONDS)
        self._buckets[bucket] = guard.most((self._buckets.get(bucket, {}), counts))
        oldest = int((at - guard.HISTORY_SECONDS) / _BUCKET_SECONDS)
        for old in [number for number in self._buckets if number < oldest]:
            del self._buckets[old]

    def most(self) -> dict[str, int]:
        """The highest count of each group."""
        return guard.most(self._buckets.values())


class Reconciler:
    """Brings about what is desired, while this process leads; else it only reads."""

    def __init__(
        self,
        *,
        store: FleetStore,
        cluster: Cluster,
        watcher: Watcher,
        observer: Observer,
        leadership: Leadership,
        limits: Limits,
        metrics: Metrics,
        wake: Wake,
        poll_interval_seconds: float,
        evidence: Evidence | None = None,
        states: States | None = None,
        answerer: Answerer | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._store = store
        self._tracer = tracer
        self._answerer = answerer
        self._cluster = cluster
        self._evidence = evidence or NoEvidence()
        self._judged = Judged(store, metrics, tracer)
        self._watcher = watcher
        self._observer = observer
        self._leadership = leadership
        self._limits = limits
        self._metrics = metrics
        self._wake = wake
        self._interval_seconds = poll_interval_seconds
        self.desired: Desired | None = None
        """What was read last."""
        self._read_at = 0.0
        self._refusals = 0
        self._refused: Mapping[UUID, tuple[int, str]] = {}
        """Of each processor how often in a row what was asked for it was refused, and why."""
        self._faults = 0
        self._succeeded_at: float | None = None
        self._error: str | None = None
        self._history = History()
        self._display = Display(store, metrics, tracer)
        self._pods_shown = ShownPods(store)
        self._lookups = Lookups(cluster, limits, wake.set)
        self._picture = Picture(
            store,
            observer,
            metrics=metrics,
            poll_interval_seconds=poll_interval_seconds,
            lease=lambda: leadership.lease,
            desired=lambda: self.desired,
        )
        self._actor = Actor(
            store=store,
            cluster=cluster,
            observer=observer,
            leading=leadership,
            limits=limits,
            metrics=metrics,
            on_done=wake.set,
            states=states,
            tracer=tracer,
            on_record=self._pods_shown.note,
        )

    async def run(self) -> None:
        """Go on until cancelled. An expected error ends a cycle; any other ends the process."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._picture.keep())
            failures = 0
            while True:
                woken_at = self._wake.take()
                began_at = _now()
                delay, failed = await self._try_cycle(group, woken_at)
                failures = failures + 1 if failed else 0
                if failed:
                    await asyncio.sleep(_BACKOFF.delay_seconds(failures))
                else:
                    # A storm of changes must leave time for everything else in this process.
                    is_busy = len(self._actor.acting) >= _MANY
                    share = _MANY_REST_SHARE if is_busy else _REST_SHARE
                    await asyncio.sleep((_now() - began_at) * share)
                    await self._wake.wait(delay)

    def _succeed(self) -> None:
        self._succeeded_at, self._error = _now(), None

    def health(self) -> ComponentHealth:
        """The component `reconciler`: healthy while the last cycle that got to its end is younger
        than three intervals. Of one that does not lead reading is the whole cycle."""
        age = None if self._succeeded_at is None else _now() - self._succeeded_at
        limit_seconds = max(INTERVALS_UNTIL_UNHEALTHY * self._interval_seconds, _CYCLE_SECONDS_MAX)
        never = "no cycle got to its end yet"
        return by_age(age, limit_seconds, never=never, error=self._error)

    async def _try_cycle(
        self, group: asyncio.TaskGroup, woken_at: float | None
    ) -> tuple[float, bool]:
        """How long to wait for the next one, and whether this one failed."""
        with self._tracer.span("reconcile.cycle") as span:
            try:
                with self._metrics.reconciliation_duration.time():
                    return await self._cycle(group, woken_at, span), False
            except LeaseLost as error:
                _log.info("the cycle ends", error=str(error))
                self._leadership.lost()
                span.set(outcome="lease_lost")
                return self._interval_seconds, False
            except StoreError as error:
                late = isinstance(error, StoreTimeout)
                self._metrics.reconciliation_errors.labels("timeout" if late else "general").inc()
                self._error = str(error)
                _log.warning("the cycle failed", error=str(error))
                span.set(outcome="failed")
                return self._interval_seconds, True

    async def _cycle(self, group: asyncio.TaskGroup, woken_at: float | None, span: Span) -> float:
        """Returns how long to wait for the next one."""
        # Before the reading: what ends during it may be done and not yet be in what is read.
        acting = self._actor.acting
        with self._tracer.span("reconcile.read"):
            desired = await self._watcher.read()
        self.desired, self._read_at = desired, _now()
        self._tracer.know_fleet(desired.fleet_id)
        self._cluster.look_in(namespaces(desired, self._limits.namespace))
        lease, observed = self._leadership.lease, self._observer.current
        span.set(processors=len(desired.configs), leading=lease is not None)
        if lease is None or observed is None:
            # Without a lease another acts; without a picture nothing may be decided.
            if lease is None:
                self._succeed()
            return self._interval_seconds
        snapshot = self._snapshot(desired, observed, acting)
        plan = self._compute(snapshot)
        span.set(actions=len(plan.actions), moves=len(desired.moves), term=lease.term)
        turn = Turn(group, lease, woken_at, desired.moves)
        # Before what may fail: it is what heartbeats are answered by.
        await self._picture.write()
        # Before anything is granted by it: whoever takes over must know what was known.
        with self._tracer.span("reconcile.judge"):
            await self._judged.write(lease, plan, desired)
        self._lookups.ask(group, plan.missing)
        refused = await self._carry_out(turn, plan, desired)
        if plan.drill is not None:
            await self._store.record_drill(lease, plan.drill)
            self._wake.set()
        span.set(outcome="done", refused=refused)
        with self._tracer.span("reconcile.show"):
            await self._pods_shown.show(lease, plan.records, snapshot)
            await self._display.show(lease, plan, snapshot)
        if self._answerer is not None:
            await self._answerer.answer(lease, snapshot, plan)
        self._succeed()
        self._refusals = self._refusals + 1 if refused else 0
        until_due = self._interval_seconds if plan.wake_at is None else plan.wake_at - desired.now
        if refused:
            # Sooner than a moment that is still to come, never later: of all others it says
            # nothing. What is due already was asked for, and would be without end.
            delay_seconds = _BACKOFF.delay_seconds(self._refusals)
            until_due = min(until_due, delay_seconds) if until_due > 0 else delay_seconds
        if desired.moves or plan.ends:
            # That a pod has its state is told by no event.
            until_due = min(until_due, _MOVING_SECONDS)
        # No less than what a clock can tell: what is due in a moment would else be due for ever.
        return min(self._interval_seconds, max(until_due, _MOMENT_SECONDS))

    def _snapshot(
        self, desired: Desired, observed: Observation, acting: frozenset[UUID]
    ) -> Snapshot:
        return Snapshot(
            desired=desired,
            observed=observed,
            acting=acting,
            desired_most=self._history.most(),
            answers=self._evidence.answers(),
            restored=self._restored(desired, observed),
            unprotected=self._evidence.unprotected(),
            ahead=self._evidence.ahead(),
            attended_since=self._attended_since(desired),
            refusals=self._refused,
            looked_up=self._lookups.answers(),
        )

    def _compute(self, snapshot: Snapshot) -> Plan:
        with (
            self._metrics.reconciliation_compute_duration.time(),
            self._tracer.span("reconcile.compute"),
        ):
            plan = compute(snapshot, self._limits)
        self._history.add(_now(), dict(plan.desired_counts))
        return plan

    def _attended_since(self, desired: Desired) -> float | None:
        """By the database's clock."""
        since = self._evidence.attended_since()
        return None if since is None else desired.now - (_now() - since)

    def _restored(self, desired: Desired, observed: Observation) -> frozenset[str]:
        """Of processors that are on their way, or that live elsewhere: of no others it matters."""
        owners = (
            desired.ownership.get(processor_id)
            for processor_id in desired.moves.keys() | desired.homes.keys()
        )
        pods = (observed.pods.get(own.pod_uid or "") for own in owners if own is not None)
        return frozenset(
            pod.uid for pod in pods if pod is not None and self._evidence.is_restored(pod)
        )

    async def _carry_out(self, turn: Turn, plan: Plan, desired: Desired) -> int:
        """Returns how much was not granted or not written: it is decided anew, never forced."""

        async def record(records: Sequence[Record]) -> Refused:
            await self._store.record_pods(turn.lease, records)
            return {}

        async def grant(actions: Sequence[Action]) -> Refused:
            with self._tracer.span("reconcile.grant", actions=len(actions)) as span:
                refused = await self._grant(turn, actions, desired)
                span.set(refused=len(refused))
                return refused

        self._faults = 0
        unwritten = await self._apart(plan.records, record) if plan.records else {}
        refused: Refused = {}
        actions = plan.actions
        for start in range(0, len(actions), _GRANTS_MAX):
            refused |= await self._apart(actions[start : start + _GRANTS_MAX], grant)
        before = self._refused
        self._refused = {
            key: (before.get(key, (0, ""))[0] + 1, why) for key, why in refused.items()
        }
        return len(unwritten) + len(refused)

    async def _apart(
        self, items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[Refused]]
    ) -> Refused:
        """Write items together. What the database cannot write is halved until it stands alone:
        a row that somebody else holds must not stop the fleet.
        """
        try:
            return await write(items)
        except (StoreBusy, StoreDataError) as error:
            if self._faults >= _FAULTS_MAX:
                raise
            if len(items) == 1:
                self._faults += 1
                self._metrics.reconciliation_errors.labels("general").inc()
                processor_id = str(items[0].processor_id)
                _log.warning("cannot be written", processor_id=processor_id, error=str(error))
                return {items[0].processor_id: str(error)}
        half = len(items) // 2
        return await self._apart(items[:half], write) | await self._apart(items[half:], write)

    async def _grant(self, turn: Turn, actions: Sequence[Action], desired: Desired) -> Refused:
        traces, asked_at = MoveTraces(self._tracer, desired, self._read_at), _now()
        granted = await self._store.grant(turn.lease, actions, traces.ids_of(actions))
        for action, is_granted in zip(actions, granted, strict=True):
            self._count(action, is_granted)
            if is_granted:
                traces.granted(action, asked_at=asked_at, now=_now())
            if is_granted and isinstance(action, Create | Delete):
                own = desired.ownership.get(action.processor_id)
                self._actor.start(turn, action, own.failures if own is not None else 0)
            elif is_granted:
                _log.info(
                    kind_of(action),
                    processor_id=str(action.processor_id),
                    reason=action.reason,
                    detail=action.detail,
                )
                # What was only written has no end that wakes the loop.
                self._wake.set()
        refused = {
            action.processor_id: REFUSALS[refusal]
            for action, refusal in zip(actions, granted.refusals, strict=True)
            if refusal is not None
        }
        if refused:
            _log.info(
                "refused by the store",
                actions=granted.count(False),
                reasons=dict(Counter(refused.values())),
            )
        return refused

    def _count(self, action: Action, is_granted: bool) -> None:
        outcome = "granted" if is_granted else "refused"
        self._metrics.actions.labels(kind_of(action), action.reason, outcome).inc()
        if is_granted and isinstance(action, EndMove):
            self._metrics.rto.observe(action.rto_seconds)
            if action.rpo_seconds is not None:
                self._metrics.rpo.observe(action.rpo_seconds)
        if is_granted and isinstance(action, Create):
            self._metrics.scheduling_decisions.labels(action.choice.decision).inc()
            if action.choice.decision is Decision.PROVISION_NODE:
                self._metrics.reconciliation_errors.labels("scheduling").inc()
