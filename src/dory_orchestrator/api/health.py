"""Probes: every check at once, each bounded, each result good for a second.

Source of shapes and codes: http-api-reference, "Observability & health".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.responses import Response

from dory_orchestrator import __version__
from dory_orchestrator.api.asgi import json_response
from dory_orchestrator.api.bodies import ComponentAnswer, HealthAnswer
from dory_orchestrator.core.health import overall, ready
from dory_orchestrator.core.model import ComponentHealth, HealthStatus
from dory_orchestrator.core.picture import directives_health
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import HealthStore, StoreError

CHECK_SECONDS_MAX = 2.0
_log = get_logger(__name__)
_CHECK_SECONDS = 5.0
_REUSE_SECONDS = 1.0

Check = Callable[[], Awaitable[ComponentHealth]]


@dataclass(frozen=True, slots=True)
class Checked:
    """A finding and when it was made: wall clock to show, monotonic to tell its age."""

    health: ComponentHealth
    checked_at: datetime
    monotonic: float


class Checker:
    """One component's check; callers at the same time share one run of it."""

    def __init__(self, name: str, check: Check, metrics: Metrics) -> None:
        self._name = name
        self._check = check
        self._gauge = metrics.component_healthy.labels(name)
        self._last: Checked | None = None
        self._running: asyncio.Task[Checked] | None = None

    async def result(self) -> Checked:
        """A finding that is at most a second old."""
        if self._last and asyncio.get_running_loop().time() - self._last.monotonic < _REUSE_SECONDS:
            return self._last
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        # Shielded: a prober that hangs up must not fail the others that wait with it.
        return await asyncio.shield(self._running)

    async def _run(self) -> Checked:
        try:
            async with asyncio.timeout(CHECK_SECONDS_MAX):
                health = await self._check()
        except TimeoutError:
            health = ComponentHealth(
                HealthStatus.UNHEALTHY, f"no answer within {CHECK_SECONDS_MAX:g} s"
            )
        finally:
            self._running = None
        self._gauge.set(health.status is HealthStatus.HEALTHY)
        now = asyncio.get_running_loop().time()
        self._last = Checked(health, datetime.now(UTC), now)
        return self._last


class Health:
    """All checkers of one process, and whether its set-up is complete."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._checkers: dict[str, Checker] = {}
        self._readiness: set[str] = set()
        self._not_ready: str | None = "set-up is not complete"

    def add(self, name: str, check: Check, *, readiness: bool = False) -> None:
        """Have a component checked; with `readiness` it decides on /readyz too."""
        self._checkers[name] = Checker(name, check, self._metrics)
        if readiness:
            self._readiness.add(name)

    def mark_ready(self) -> None:
        """Set-up is complete."""
        self._not_ready = None

    def mark_not_ready(self, reason: str) -> None:
        """From now on /readyz is 503: set-up has not finished, or the end has begun."""
        self._not_ready = reason

    async def check(self, names: set[str] | None = None) -> dict[str, Checked]:
        """Run the named checkers, or all, at the same time."""
        chosen = [name for name in self._checkers if names is None or name in names]
        results = await asyncio.gather(*(self._checkers[name].result() for name in chosen))
        return dict(zip(chosen, results, strict=True))

    async def keep_checking(self) -> None:
        """So that metrics tell of the components also when nobody probes; until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - heartbeats live in this process, too
                _log.error("unexpected error of a health check", error=repr(error))

    async def healthz(self) -> Response:
        """200 when healthy or degraded, else 503."""
        found = await self.check()
        status = overall(checked.health for checked in found.values())
        return _answer(status, found, 503 if status is HealthStatus.UNHEALTHY else 200)

    async def readyz(self) -> Response:
        """200 only after set-up, and while all readiness checkers are healthy."""
        if self._not_ready is not None:
            startup = ComponentHealth(HealthStatus.UNHEALTHY, self._not_ready)
            found = {"startup": Checked(startup, datetime.now(UTC), 0.0)}
            return _answer(HealthStatus.UNHEALTHY, found, 503)
        found = await self.check(self._readiness)
        is_ready = ready(checked.health for checked in found.values())
        status = overall(checked.health for checked in found.values())
        return _answer(status, found, 200 if is_ready else 503)

    async def livez(self) -> Response:
        """Always 200: that it answers is the proof."""
        return _answer(HealthStatus.HEALTHY, {}, 200)


def database_check(store: HealthStore) -> Check:
    """The checker `database`: it answers, and takes writes."""

    async def check() -> ComponentHealth:
        try:
            # Shorter than the checker's own limit, so that the reason is told.
            await store.ping(CHECK_SECONDS_MAX * 0.9)
        except StoreError as error:
            return ComponentHealth(HealthStatus.UNHEALTHY, str(error))
        return ComponentHealth(HealthStatus.HEALTHY, "answers and takes writes")

    return check


def directives_check(store: HealthStore) -> Check:
    """Whether anybody could be told to end. A part of the checker `heartbeats`."""
    began_at = asyncio.get_running_loop().time()

    async def check() -> ComponentHealth:
        age_seconds = asyncio.get_running_loop().time() - began_at
        try:
            return directives_health(await store.read_doubts(), age_seconds)
        except StoreError as error:
            # What keeps the database from answering is told by the checker `database`.
            return ComponentHealth(HealthStatus.DEGRADED, f"nobody is told to end: {error}")

    return check


def _answer(status: HealthStatus, found: Mapping[str, Checked], code: int) -> Response:
    components = {
        name: ComponentAnswer(
            checked.health.status, checked.health.message, _rfc3339(checked.checked_at)
        )
        for name, checked in found.items()
    }
    content = HealthAnswer(status, _rfc3339(datetime.now(UTC)), __version__, components)
    return json_response(content, code, {"cache-control": "no-store"})


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
