"""The process that decides and acts: for now, the watcher."""

import asyncio

from dory_orchestrator.api.health import Health, database_check
from dory_orchestrator.api.protocol import Connections
from dory_orchestrator.api.server import allow_connections, make_server
from dory_orchestrator.api.service import build
from dory_orchestrator.app.child import Inheritance, Lifetime, open_store, until, wait_for_schema
from dory_orchestrator.core.model import ComponentHealth
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.report import Blackboard, keep_reporting
from dory_orchestrator.loops.watch import Watcher
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.settings import Settings

_log = get_logger(__name__)


async def serve(inheritance: Inheritance, lifetime: Lifetime) -> None:
    """Run the loops until the lifetime ends.

    Beside the edge API, health and metrics go to the blackboard; alone, over HTTP.
    """
    settings = Settings.from_json(inheritance.settings)
    alone = inheritance.board_fd is None
    metrics = Metrics(process=alone)
    metrics.process_restarts.labels("control").inc(inheritance.restarts)
    store = open_store(settings, metrics, "control")
    watcher = Watcher(store, metrics=metrics, poll_interval_seconds=settings.poll_interval)
    health = Health(metrics)
    health.add("database", database_check(store), readiness=True)

    async def watcher_check() -> ComponentHealth:
        return watcher.health()

    health.add("watcher", watcher_check)

    async def work() -> None:
        await wait_for_schema(store, health.mark_not_ready)
        health.mark_ready()
        metrics.startup_duration.observe(lifetime.age_seconds)
        _log.info("ready", process="control")
        await watcher.run()

    if inheritance.board_fd is not None:
        board = Blackboard(inheritance.board_fd)
        telling = keep_reporting(board, lambda: watcher.progress, metrics.samples)
    else:
        telling = _serve_probes(inheritance, settings, health, metrics)
    await until(lifetime.ending, work(), telling)
    await store.close()
    _log.info("stopped", process="control")


async def _serve_probes(
    inheritance: Inheritance, settings: Settings, health: Health, metrics: Metrics
) -> None:
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
