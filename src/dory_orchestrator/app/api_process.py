"""The process that hears heartbeats and serves everything else over HTTP."""

import asyncio
import contextlib
import gc
import time
import uuid

from prometheus_client import Counter

from dory_orchestrator.api.asking import AskingApi
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.edge import EdgeApi
from dory_orchestrator.api.fleet import FleetApi
from dory_orchestrator.api.group_commit import GroupCommitLimits, HeartbeatRecorder
from dory_orchestrator.api.health import Check, Health, database_check, directives_check
from dory_orchestrator.api.page.handlers import Page
from dory_orchestrator.api.protocol import Connections
from dory_orchestrator.api.server import Server, allow_connections, make_server, url_of
from dory_orchestrator.api.service import build
from dory_orchestrator.api.shutdowns import Shutdowns
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
from dory_orchestrator.core.health import watcher
from dory_orchestrator.core.model import ComponentHealth, HealthStatus
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.canary import Canary, Counts
from dory_orchestrator.loops.report import Blackboard, Report
from dory_orchestrator.metrics import MergedRegistry, Metrics
from dory_orchestrator.ports import Beat, StoreError
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.postgres import PostgresStore

_log = get_logger(__name__)
_REPORT_SECONDS_MAX = 5.0
_SETTLE_SECONDS = 3.0
_LEARN_SECONDS = 5.0
_DRAIN_SECONDS = 2.5
_ORPHAN_GRACE_SECONDS = 1


class ControlReports:
    """What the control process last said, and how long ago.

    What it achieved is remembered here: its restart does not undo a reading.
    """

    def __init__(
        self, board: Blackboard, merged: MergedRegistry, poll_interval_seconds: float
    ) -> None:
        self._board = board
        self._merged = merged
        self._interval_seconds = poll_interval_seconds
        self._last: Report | None = None
        self._succeeded_at: float | None = None
        self._components: dict[str, tuple[float, ComponentHealth]] = {}

    def refresh(self) -> None:
        """Read the board; a half-written report leaves the one before in place."""
        self._last = self._board.read() or self._last
        if self._last is None:
            return
        self._succeeded_at = self._last.watcher.succeeded_at or self._succeeded_at
        for name, found in self._last.components.items():
            health = ComponentHealth(found.status, found.message)
            self._components[name] = (self._last.written_at, health)
        stale = time.monotonic() - self._last.written_at > _REPORT_SECONDS_MAX
        # A process that is gone or hangs cannot take back that it was well.
        doubtful = {"dory_config_watcher_healthy"} if stale else set()
        self._merged.absorb([f for f in self._last.families if f[0] not in doubtful])

    def component(self, name: str) -> Check:
        """The check of a component of the control process."""

        async def check() -> ComponentHealth:
            self.refresh()
            written_at, health = self._components.get(name, (None, None))
            if written_at is None or health is None:
                return ComponentHealth(HealthStatus.UNHEALTHY, "nothing was reported yet")
            # A restarted process has nothing to say at first: what was true then is for a while.
            age_seconds = time.monotonic() - written_at
            if age_seconds > _REPORT_SECONDS_MAX:
                return ComponentHealth(
                    HealthStatus.UNHEALTHY, f"last reported {age_seconds:.0f} s ago"
                )
            return health

        return check

    async def watcher(self) -> ComponentHealth:
        """The component `watcher`: unhealthy too when nobody tells of it."""
        self.refresh()
        if self._last is None:
            return ComponentHealth(HealthStatus.UNHEALTHY, "the control process has not reported")
        now = time.monotonic()
        if now - self._last.written_at > _REPORT_SECONDS_MAX:
            return ComponentHealth(
                HealthStatus.UNHEALTHY,
                f"the control process reported {now - self._last.written_at:.0f} s ago",
            )
        age = None if self._succeeded_at is None else now - self._succeeded_at
        return watcher(age, self._interval_seconds, self._last.watcher.error)


class ApiProcess:
    """Everything in it, joined."""

    def __init__(self, settings: Settings, board: Blackboard | None, url: str) -> None:
        self.settings = settings
        self.metrics = Metrics(process=True)
        self.merged = MergedRegistry(self.metrics)
        self.store: PostgresStore = open_store(settings, self.metrics, "api")
        self.views = open_views(settings, self.metrics)
        self.tracer = tracer_of(settings, "api")
        # Made anew at each start, and known to nobody: a client cannot pose as the canary.
        canary_beat = Beat(uuid.uuid4(), "", True)
        self.shutdowns = Shutdowns(self.store)
        self.recorder = HeartbeatRecorder(
            self.store,
            metrics=self.metrics,
            limits=GroupCommitLimits(
                answer_seconds=settings.heartbeat_timeout,
                queue_size=settings.heartbeat_queue_size,
                batch_size=settings.heartbeat_batch_size,
            ),
            canary=canary_beat,
            tracer=self.tracer,
            on_shutdown=self.shutdowns.tell,
        )
        tokens = accepted_tokens(settings)
        self.canary = Canary(
            url=url,
            processor_id=str(canary_beat.processor_id),
            token=tokens[0] if tokens else None,
            counts=lambda: counts(self.metrics),
            store=self.store,
            metrics=self.metrics,
        )
        self.health = Health(self.metrics)
        self.reports = (
            ControlReports(board, self.merged, settings.poll_interval)
            if board is not None
            else None
        )
        self._add_checks()
        self.operators = self._operator_tokens()
        self.fleet = FleetApi(self.views, tokens=self.operators, cluster=settings.cluster)
        self.page = self._make_page()
        self.server = self._make_server(Tokens(tokens), canary_beat)

    def _add_checks(self) -> None:
        self.health.add("database", database_check(self.store), readiness=True)
        if self.reports is not None:
            self.health.add("watcher", self.reports.watcher)
            if has_cluster(self.settings):
                self.health.add("kubernetes", self.reports.component("kubernetes"), readiness=True)
                for name in ("health-poller", "reconciler"):
                    self.health.add(name, self.reports.component(name))

        directives = directives_check(self.store)

        async def heartbeats() -> ComponentHealth:
            health = self.canary.health()
            if health.status is not HealthStatus.HEALTHY or not has_cluster(self.settings):
                return health
            found = await directives()
            return health if found.status is HealthStatus.HEALTHY else found

        self.health.add("heartbeats", heartbeats)

    def _make_server(self, tokens: Tokens, canary_beat: Beat) -> Server:
        if tokens.open:
            _log.warning("the edge API is open to everyone: DORY_STATE_TOKEN is not set")
        edge = EdgeApi(
            recorder=self.recorder,
            nodes=self.store,
            tokens=tokens,
            metrics=self.metrics,
            canary=canary_beat,
        )
        app = build(
            health=self.health,
            render_metrics=self.render_metrics,
            edge=edge,
            fleet=self.fleet,
            asking=AskingApi(self.views, tokens=self.operators),
            page=self.page,
        )
        shared = Connections(
            metrics=self.metrics,
            connections_max=allow_connections(self.settings.http_connections),
            read_seconds=self.settings.http_read_timeout,
        )
        return make_server(app, shared=shared, keep_alive_seconds=self.settings.http_keep_alive)

    def _operator_tokens(self) -> Tokens:
        token = self.settings.operator_token
        if token is None:
            _log.warning("everyone may change the fleet: DORY_OPERATOR_TOKEN is not set")
        return Tokens(() if token is None else (token.get_secret_value(),))

    def _make_page(self) -> Page:
        token = self.settings.operator_token
        return Page(
            self.views,
            health=self.health,
            operator_token=None if token is None else token.get_secret_value(),
            cluster=self.settings.cluster,
        )

    def render_metrics(self) -> bytes:
        """Both processes' metrics as one text."""
        if self.reports is not None:
            self.reports.refresh()
        return self.merged.render()

    async def set_up(self, lifetime: Lifetime) -> None:
        """Ready once the database is there and fits, and we heard of every part of us."""
        await wait_for_schema(self.store, self.health.mark_not_ready)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._settle()
        if not lifetime.ending.is_set():
            self.health.mark_ready()
        self.metrics.startup_duration.observe(lifetime.age_seconds)
        _log.info("ready", process="api")

    async def learn_fleet(self) -> None:
        """Have spans say which fleet they are of, once that is known."""
        while self.settings.tracing_endpoint is not None:
            try:
                fleet_id = (await self.views.summary()).fleet_id
            except StoreError as error:
                _log.debug("the fleet is not known yet", error=str(error))
                fleet_id = None
            if fleet_id is not None:
                self.tracer.know_fleet(str(fleet_id))
                return
            await asyncio.sleep(_LEARN_SECONDS)

    async def _settle(self) -> None:
        """The first canary beat is recorded and the watcher has read: nobody who comes as soon
        as we are ready sees us unhealthy. Neither is waited for long: we can serve without."""
        while self.canary.age_seconds is None or not await self._control_is_well():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _control_is_well(self) -> bool:
        if self.reports is None:
            return True
        checks: list[Check] = [self.reports.watcher]
        if has_cluster(self.settings):
            checks += [self.reports.component(name) for name in ("kubernetes", "reconciler")]
        found = [await check() for check in checks]
        return all(health.status is HealthStatus.HEALTHY for health in found)


def accepted_tokens(settings: Settings) -> list[str]:
    """The present token first, then the previous one; none when the edge API is open."""
    if not settings.require_state_token:
        return []
    tokens = (settings.state_token, settings.state_token_previous)
    return [token.get_secret_value() for token in tokens if token is not None]


def counts(metrics: Metrics) -> Counts:
    """Heartbeats refused and heard since the start."""
    shed = metrics.registry.get_sample_value("dory_heartbeats_total", {"outcome": "shed"}) or 0.0
    return Counts(
        refused=_total(metrics.heartbeats_refused) + shed, heard=_total(metrics.heartbeats) - shed
    )


def _total(counter: Counter) -> float:
    return sum(
        sample.value
        for family in counter.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


async def serve(inheritance: Inheritance, lifetime: Lifetime) -> None:
    """Serve until the lifetime ends; then answer, write and close, in this order."""
    settings = Settings.from_json(inheritance.settings)
    sock = inheritance.listening_socket()
    board = None if inheritance.board_fd is None else Blackboard(inheritance.board_fd)
    process = ApiProcess(settings, board, url_of(sock))
    process.metrics.process_restarts.labels("api").inc(inheritance.restarts)
    # What was made until now lives as long as the process: no need to look through it. And
    # requests leave hardly any cycles: the default looks for them after every few requests.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    async with asyncio.TaskGroup() as group:
        recording = group.create_task(process.recorder.run())
        serving = group.create_task(process.server.serve(sockets=[sock]))
        await until(
            lifetime.ending,
            process.set_up(lifetime),
            process.learn_fleet(),
            process.canary.run(),
            process.health.keep_checking(),
            process.shutdowns.run(),
        )
        # Not ready at once; what is on its way by then is still answered.
        process.health.mark_not_ready("shutting down")
        process.fleet.streams.close()
        if lifetime.orphaned:
            # The next one may want the port and the database already.
            process.server.config.timeout_graceful_shutdown = _ORPHAN_GRACE_SECONDS
        else:
            await asyncio.sleep(settings.shutdown_delay)
        process.page.close()
        with process.metrics.shutdown_duration.labels("http").time():
            process.server.should_exit = True
            await serving
        with process.metrics.shutdown_duration.labels("heartbeats").time():
            process.recorder.close()
            await asyncio.wait({recording}, timeout=_DRAIN_SECONDS)
            recording.cancel()
    await asyncio.gather(process.store.close(), process.views.close())
    await asyncio.to_thread(process.tracer.close)
    _log.info("stopped", process="api")
