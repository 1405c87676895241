"""The process that decides and acts: it reads, observes, leads, reconciles and polls."""

import asyncio
import gc
from collections.abc import Mapping
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
    open_views,
    tracer_of,
    until,
    wait_for_schema,
)
from dory_orchestrator.app.control import CAPTURES_MAX, PROBES_MAX, Control
from dory_orchestrator.cluster.absent import AbsentCluster
from dory_orchestrator.cluster.kubernetes.client import KubernetesCluster
from dory_orchestrator.cluster.kubernetes.connection import Connection
from dory_orchestrator.cluster.kubernetes.manifest import Surroundings
from dory_orchestrator.cluster.kubernetes.watching import pace_of
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.core.model import ComponentHealth, HealthStatus
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.report import Blackboard, keep_reporting
from dory_orchestrator.loops.webhooks import Webhooks
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.pods.http import HttpPods
from dory_orchestrator.pods.receivers import HttpReceivers
from dory_orchestrator.ports import Cluster, ClusterUnavailable
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.postgres import PostgresStore

_log = get_logger(__name__)
_CONFIGURE_SECONDS = 5.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_USUAL_NAMESPACE = "dory-system"


class ControlProcess:
    """The control process over the cluster and the database that its settings name."""

    def __init__(self, inheritance: Inheritance) -> None:
        settings = self.settings = Settings.from_json(inheritance.settings)
        self.url = inheritance.url
        is_alone = inheritance.board_fd is None
        self.metrics = Metrics(
            process=is_alone, process_namespace="" if is_alone else "dory_control"
        )
        self.metrics.process_restarts.labels("control").inc(inheritance.restarts)
        self.store: PostgresStore = open_store(settings, self.metrics, "control")
        self.local: LocalCluster | None = None
        self.has_cluster = has_cluster(settings)
        self.cluster = self._make_cluster()
        # Only a Kubernetes is told of events: of others nobody asks.
        is_told = self.has_cluster and self.local is None
        self.views = open_views(settings, self.metrics)
        self.tracer = tracer_of(settings, "control")
        self.pods = HttpPods(connections_max=PROBES_MAX + CAPTURES_MAX + 100)
        self.control = Control(
            settings,
            store=self.store,
            cluster=self.cluster,
            pods=self.pods,
            holder=inheritance.holder,
            metrics=self.metrics,
            views=self.views if is_told else None,
            tracer=self.tracer,
        )
        self.receivers = HttpReceivers()
        self.webhooks = Webhooks(
            settings.webhooks or (),
            store=self.store,
            views=self.views,
            sender=self.receivers,
            lease=lambda: self.control.leadership.lease,
            fleet_id=lambda: self.control.watcher.fleet_id,
            metrics=self.metrics,
        )

    def _make_cluster(self) -> Cluster:
        settings = self.settings
        if not self.has_cluster:
            return AbsentCluster()
        if settings.cluster == "local":
            self.local = LocalCluster(Path(settings.local_dir))
            return self.local
        url = settings.orchestrator_url or f"http://dory-orchestrator.{own_namespace()}:8080"
        around = Surroundings(
            orchestrator_url=url,
            service_account=settings.pod_service_account,
            image_pull_secret=settings.image_pull_secret,
            state_token_secret=settings.state_token_secret if settings.state_token else "",
            sentinel=settings.sentinel,
        )
        connection = Connection(settings.kubeconfig, settings.kube_context)
        return KubernetesCluster(connection, around, pace_of(settings.poll_interval))

    def components(self) -> Mapping[str, ComponentHealth]:
        """The components that are known of."""
        return self.control.components() if self.has_cluster else {}

    def add_checks(self, health: Health) -> None:
        """Have all components checked."""

        async def watcher() -> ComponentHealth:
            return self.control.watcher.health()

        health.add("database", database_check(self.store), readiness=True)
        health.add("watcher", watcher)
        if self.has_cluster:
            for name in ("kubernetes", "health-poller", "reconciler"):
                health.add(name, self._check_of(name), readiness=name == "kubernetes")

    def _check_of(self, name: str) -> Check:
        async def check() -> ComponentHealth:
            unknown = ComponentHealth(HealthStatus.UNHEALTHY, "nothing is known yet")
            return self.components().get(name, unknown)

        return check

    async def run(self) -> None:
        """Work until cancelled."""
        if not self.has_cluster:
            await self.control.watch()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self.control.run())
            group.create_task(self.webhooks.run())
            if self.local is not None:
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

    async def close(self) -> None:
        """Let go of everything; pods stay."""
        await self.control.leadership.resign()
        await self.pods.close()
        await self.receivers.close()
        await self.cluster.close()
        await asyncio.gather(self.store.close(), self.views.close())
        await asyncio.to_thread(self.tracer.close)


def own_namespace() -> str:
    """Of the pod that this runs in; without one, that of the documented deployment."""
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or _USUAL_NAMESPACE
    except OSError:
        return _USUAL_NAMESPACE


def collect_garbage_rarely() -> None:
    """Each reading of ten thousand processors makes a hundred thousand objects that live until
    the next, and hardly any cycles: below that, the collector looks through them several times a
    reading, which costs a third of it."""
    gc.freeze()
    gc.set_threshold(200_000, 10, 20)


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
        telling = [
            keep_reporting(
                Blackboard(inheritance.board_fd),
                lambda: process.control.watcher.progress,
                process.components,
                process.metrics.samples,
            )
        ]
    else:
        telling = [_serve_probes(inheritance, process, health), health.keep_checking()]
    await until(lifetime.ending, work(), *telling)
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
