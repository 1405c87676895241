"""Everything that decides and acts, joined: it reads, observes, leads, reconciles and polls."""

import asyncio
from collections.abc import Iterable, Mapping
from uuid import UUID

from dory_orchestrator.core.checkpoint import CaptureLimits
from dory_orchestrator.core.model import ComponentHealth, Limits, Pod
from dory_orchestrator.core.owned import OwnedPod, owned_pods
from dory_orchestrator.loops.announce import Announcer
from dory_orchestrator.loops.answer import Answerer
from dory_orchestrator.loops.checkpoint import Checkpointer
from dory_orchestrator.loops.depart import DepartedStates
from dory_orchestrator.loops.evidence import KeptStates, PodEvidence
from dory_orchestrator.loops.lead import Leadership
from dory_orchestrator.loops.move_traces import under_way
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.loops.poll_health import HealthPoller
from dory_orchestrator.loops.prune import keep_pruning
from dory_orchestrator.loops.reconcile import Reconciler
from dory_orchestrator.loops.seed import Seeder
from dory_orchestrator.loops.tell import Teller
from dory_orchestrator.loops.wake import Wake
from dory_orchestrator.loops.watch import Watcher
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Cluster, FleetViews, Pods
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.postgres import PostgresStore
from dory_orchestrator.tracing import NO_TRACER, MoveTrace, Tracer

PROBES_MAX = 500
"""Pods that are asked at once: 1,800 may hang at a time before a round takes too long."""
CAPTURES_MAX = 100
"""Pods whose state is asked for at once."""


class Control:
    """Everything that decides and acts, joined, over a store, a cluster and its pods.

    With `views`, the cluster is told of what happens to its pods and nodes.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: PostgresStore,
        cluster: Cluster,
        pods: Pods,
        holder: str,
        metrics: Metrics,
        views: FleetViews | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.settings, self.metrics, self.tracer = settings, metrics, tracer
        self.store, self.cluster, self.pods = store, cluster, pods
        self.wake = Wake()
        self.observer = Observer(self.cluster, self.wake.set)
        self.leadership = Leadership(
            self.store, holder=holder, metrics=self.metrics, on_change=self.wake.set
        )
        self.watcher = Watcher(
            self.store,
            metrics=self.metrics,
            poll_interval_seconds=settings.poll_interval,
            on_change=self.wake.set,
        )
        self.poller = HealthPoller(
            pods=self.pods,
            store=self.store,
            running=self._running_pods,
            metrics=self.metrics,
            interval_seconds=settings.health_poll_interval,
            concurrency=PROBES_MAX,
            tracer=tracer,
        )
        self._owned: Mapping[str, OwnedPod] = {}
        self.teller = Teller(self.store, lambda: self.leadership.lease)
        self.announcer = self._make_announcer(views)
        self.departed = DepartedStates(
            self.store,
            self.cluster,
            Seeder(self.store, limits=CaptureLimits(), tell=self.teller.tell),
            observed=lambda: self.observer.current,
            lease=lambda: self.leadership.lease,
        )
        self.checkpointer = self._make_checkpointer()
        self.reconciler = self._make_reconciler()

    def _make_announcer(self, views: FleetViews | None) -> Announcer | None:
        if views is None:
            return None
        return Announcer(
            views,
            self.cluster,
            observed=lambda: self.observer.current,
            lease=lambda: self.leadership.lease,
        )

    def _make_checkpointer(self) -> Checkpointer:
        settings = self.settings
        tokens = (settings.state_token, settings.state_token_previous)
        return Checkpointer(
            pods=self.pods,
            store=self.store,
            cluster=self.cluster,
            lease=lambda: self.leadership.lease,
            running=self._owned_pods,
            tell=self.teller.tell,
            metrics=self.metrics,
            tokens=[token.get_secret_value() for token in tokens if token is not None],
            concurrency=CAPTURES_MAX,
            # Files of this machine cost nothing.
            seed_every_seconds=0.0 if settings.cluster == "local" else settings.seed_every,
            on_restored=self.wake.set,
            tracer=self.tracer,
            move_of=self._move_of,
        )

    def _move_of(self, processor_id: UUID) -> MoveTrace | None:
        desired = self.reconciler.desired
        return None if desired is None else under_way(processor_id, desired.moves)

    def _make_reconciler(self) -> Reconciler:
        settings = self.settings
        limits = self._limits()
        return Reconciler(
            store=self.store,
            cluster=self.cluster,
            watcher=self.watcher,
            observer=self.observer,
            leadership=self.leadership,
            limits=limits,
            metrics=self.metrics,
            wake=self.wake,
            poll_interval_seconds=settings.poll_interval,
            evidence=PodEvidence(self.poller, self.checkpointer, settings.health_poll_interval),
            states=KeptStates(self.checkpointer, self.cluster),
            answerer=Answerer(self.store, limits),
            tracer=self.tracer,
        )

    def _limits(self) -> Limits:
        settings = self.settings
        return Limits(
            namespace=settings.namespace,
            guard_release_seconds=settings.deletion_guard_seconds,
            heartbeat_stale_seconds=settings.heartbeat_stale,
            node_failure_grace_seconds=settings.node_failure_grace,
            failback_stable_seconds=settings.failback_stable,
            moves_max=settings.moves_max,
            planned_moves_max=settings.planned_moves_max,
            planned_move_seconds=settings.planned_move_timeout,
            checkpoint_interval_seconds=settings.checkpoint_interval,
        )

    def _owned_pods(self) -> Iterable[tuple[Pod, int, float, tuple[str, ...], str]]:
        """The pods whose state is kept, also while the cluster cannot be seen: they run on, and
        what they lose by a crash must not be as much as the cluster is away."""
        desired, observed = self.reconciler.desired, self.observer.last_seen
        if desired is None or observed is None:
            return ()
        found = owned_pods(desired, observed, self.settings.checkpoint_interval, self._owned)
        self._owned = {one.pod.uid: one for one in found}
        return [
            (one.pod, one.epoch, one.interval_seconds, one.proof, one.backend)
            for one in self._owned.values()
        ]

    def _running_pods(self) -> Iterable[Pod]:
        """The pods to poll. Two processes that poll would only write the same twice."""
        observed = self.observer.last_seen
        if observed is None or self.leadership.lease is None:
            return ()
        fleet_id = self.watcher.fleet_id
        return [pod for pod in observed.pods.values() if pod.fleet_id == fleet_id]

    def components(self) -> Mapping[str, ComponentHealth]:
        """The components that are known of."""
        health = self.observer.health()
        known = {
            "health-poller": self.poller.health(),
            "reconciler": self.reconciler.health(),
        }
        return known if health is None else {"kubernetes": health, **known}

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch())
            for part in (
                self.leadership,
                self.observer,
                self.poller,
                self.checkpointer,
                self.teller,
                self.departed,
            ):
                group.create_task(part.run())
            if self.announcer is not None:
                group.create_task(self.announcer.run())

    async def watch(self) -> None:
        """Without a cluster there is nothing to lead: read what is desired until cancelled."""
        async with asyncio.TaskGroup() as group:
            pruning = keep_pruning(
                self.store, event_retention_seconds=self.settings.event_retention
            )
            for work in (self.watcher.listen(), self.reconciler.run(), pruning):
                group.create_task(work)
