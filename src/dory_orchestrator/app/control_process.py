"""The process that decides and acts: it reads, observes, leads, reconciles and polls."""

import asyncio
import gc
from collections.abc import Iterable, Mapping
from pathlib import Path

from dory_orchestrator.api.health import Check, Health, database_check
from dory_orchestrator.api.protocol import Connections
from dory_orchestrator.api.server import allow_connections, make_server
from dory_orchestrator.api.service import build
from dory_orchestrator.app.child import (
    Inheritance,
    Lifetime,
    has_cluster,
    open_store,
    until,
    wait_for_schema,
)
from dory_orchestrator.cluster.absent import AbsentCluster
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.core.model import ComponentHealth, HealthStatus, Limits, Pod
from dory_orchestrator.core.owned import owned_pods
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.checkpoint import Checkpointer
from dory_orchestrator.loops.evidence import KeptStates, PodEvidence
from dory_orchestrator.loops.lead import Leadership
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.loops.poll_health import HealthPoller
from dory_orchestrator.loops.reconcile import Reconciler
from dory_orchestrator.loops.report import Blackboard, keep_reporting
from dory_orchestrator.loops.tell import Teller
from dory_orchestrator.loops.wake import Wake
from dory_orchestrator.loops.watch import Watcher
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.pods.http import HttpPods
from dory_orchestrator.ports import Cluster, ClusterUnavailable, StoreError
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.postgres import PostgresStore

_log = get_logger(__name__)
_CONFIGURE_SECONDS = 5.0
_PROBES_MAX = 500
"""Pods that are asked at once: 1,800 may hang at a time before a round takes too long."""
_CAPTURES_MAX = 100
"""Pods whose state is asked for at once."""
_PRUNE_SECONDS = 600.0
_KEPT_SECONDS = 30 * 86_400.0


class ControlProcess:
    """Everything in it, joined."""

    def __init__(self, inheritance: Inheritance) -> None:
        settings = self.settings = Settings.from_json(inheritance.settings)
        self.url = inheritance.url
        self.metrics = Metrics(process=inheritance.board_fd is None)
        self.metrics.process_restarts.labels("control").inc(inheritance.restarts)
        self.store: PostgresStore = open_store(settings, self.metrics, "control")
        self.local = LocalCluster(Path(settings.local_dir)) if has_cluster(settings) else None
        self.cluster: Cluster = self.local or AbsentCluster()
        self.wake = Wake()
        self.observer = Observer(self.cluster, self.wake.set)
        self.leadership = Leadership(
            self.store, holder=inheritance.holder, metrics=self.metrics, on_change=self.wake.set
        )
        self.watcher = Watcher(
            self.store,
            metrics=self.metrics,
            poll_interval_seconds=settings.poll_interval,
            on_change=self.wake.set,
        )
        self.pods = HttpPods(connections_max=_PROBES_MAX + _CAPTURES_MAX + 100)
        self.poller = HealthPoller(
            pods=self.pods,
            store=self.store,
            running=self._running_pods,
            metrics=self.metrics,
            interval_seconds=settings.health_poll_interval,
            concurrency=_PROBES_MAX,
        )
        self.teller = Teller(self.store, lambda: self.leadership.lease)
        self.checkpointer = self._make_checkpointer()
        self.reconciler = self._make_reconciler()

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
            concurrency=_CAPTURES_MAX,
            on_restored=self.wake.set,
        )

    def _make_reconciler(self) -> Reconciler:
        settings = self.settings
        return Reconciler(
            store=self.store,
            cluster=self.cluster,
            watcher=self.watcher,
            observer=self.observer,
            leadership=self.leadership,
            limits=Limits(
                namespace=settings.namespace,
                guard_release_seconds=settings.deletion_guard_seconds,
                heartbeat_stale_seconds=settings.heartbeat_stale,
                node_failure_grace_seconds=settings.node_failure_grace,
                failback_stable_seconds=settings.failback_stable,
                moves_max=settings.moves_max,
                checkpoint_interval_seconds=settings.checkpoint_interval,
            ),
            metrics=self.metrics,
            wake=self.wake,
            poll_interval_seconds=settings.poll_interval,
            evidence=PodEvidence(self.poller, self.checkpointer, settings.health_poll_interval),
            states=KeptStates(self.checkpointer, self.cluster),
        )

    def _owned_pods(self) -> Iterable[tuple[Pod, int, float, tuple[str, ...]]]:
        """The pods whose state is kept."""
        desired, observed = self.reconciler.desired, self.observer.current
        if desired is None or observed is None:
            return ()
        interval_seconds = self.settings.checkpoint_interval
        return [
            (one.pod, one.epoch, one.interval_seconds, one.proof)
            for one in owned_pods(desired, observed, interval_seconds)
        ]

    def _running_pods(self) -> Iterable[Pod]:
        """The pods to poll. Two processes that poll would only write the same twice."""
        observed = self.observer.current
        if observed is None or self.leadership.lease is None:
            return ()
        fleet_id = self.watcher.fleet_id
        return [pod for pod in observed.pods.values() if pod.fleet_id == fleet_id]

    def components(self) -> Mapping[str, ComponentHealth]:
        """The components that are known of."""
        if self.local is None:
            return {}
        health = self.observer.health()
        known = {"health-poller": self.poller.health()}
        return known if health is None else {"kubernetes": health, **known}

    def add_checks(self, health: Health) -> None:
        """Have all components checked."""

        async def watcher() -> ComponentHealth:
            return self.watcher.health()

        health.add("database", database_check(self.store), readiness=True)
        health.add("watcher", watcher)
        if self.local is not None:
            for name in ("kubernetes", "health-poller"):
                health.add(name, self._check_of(name), readiness=name == "kubernetes")

    def _check_of(self, name: str) -> Check:
        async def check() -> ComponentHealth:
            unknown = ComponentHealth(HealthStatus.UNHEALTHY, "nothing is known yet")
            return self.components().get(name, unknown)

        return check

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for work in (self.watcher.listen(), self.reconciler.run(), self._prune()):
                group.create_task(work)
            # Without a cluster there is nothing to lead.
            if self.local is not None:
                group.create_task(self.leadership.run())
                group.create_task(self.observer.run())
                group.create_task(self.poller.run())
                group.create_task(self.checkpointer.run())
                group.create_task(self.teller.run())
                group.create_task(self._keep_configured(self.local))

    async def _keep_configured(self, cluster: LocalCluster) -> None:
        """Tell the local cluster again and again where its pods find us: it may be another one
        by now."""
        secret = self.settings.state_token
        token = None if secret is None else secret.get_secret_value()
        while True:
            try:
                await cluster.configure(self.url, token)
            except ClusterUnavailable as error:
                _log.debug("the local cluster cannot be configured", error=str(error))
            await asyncio.sleep(_CONFIGURE_SECONDS)

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_SECONDS)
            try:
                await self.store.forget_events(_KEPT_SECONDS)
                await self.store.forget_checkpoints(_KEPT_SECONDS)
            except StoreError as error:
                _log.debug("what is old stays", error=str(error))

    async def close(self) -> None:
        """Let go of everything; pods stay."""
        await self.leadership.resign()
        await self.pods.close()
        await self.cluster.close()
        await self.store.close()


def collect_garbage_rarely() -> None:
    """Each reading makes some hundred thousand objects that live until the next, and hardly any
    cycles: by default the collector would look through all of them several times a reading."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def serve(inheritance: Inheritance, lifetime: Lifetime) -> None:
    """Run the loops until the lifetime ends.

    Beside the edge API, health and metrics go to the blackboard; alone, over HTTP.
    """
    process = ControlProcess(inheritance)
    collect_garbage_rarely()
    health = Health(process.metrics)
    process.add_checks(health)

    async def work() -> None:
        await wait_for_schema(process.store, health.mark_not_ready)
        health.mark_ready()
        process.metrics.startup_duration.observe(lifetime.age_seconds)
        _log.info("ready", process="control")
        await process.run()

    if inheritance.board_fd is not None:
        telling = keep_reporting(
            Blackboard(inheritance.board_fd),
            lambda: process.watcher.progress,
            process.components,
            process.metrics.samples,
        )
    else:
        telling = _serve_probes(inheritance, process, health)
    await until(lifetime.ending, work(), telling)
    await process.close()
    _log.info("stopped", process="control")


async def _serve_probes(inheritance: Inheritance, process: ControlProcess, health: Health) -> None:
    settings, metrics = process.settings, process.metrics
    shared = Connections(
        metrics=metrics,
        connections_max=allow_connections(settings.http_connections),
        read_seconds=settings.http_read_timeout,
    )
    app = build(health=health, render_metrics=metrics.render, edge=None)
    server = make_server(app, shared=shared, keep_alive_seconds=settings.http_keep_alive)
    sock = inheritance.listening_socket()
    try:
        await server.serve(sockets=[sock])
    except asyncio.CancelledError:
        sock.close()
        raise
