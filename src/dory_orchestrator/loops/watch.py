"""The watcher: reads everything that is desired, and is woken when it changes."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol
from uuid import UUID

from dory_orchestrator.core.changes import Changes, compare
from dory_orchestrator.core.health import watcher
from dory_orchestrator.core.model import ComponentHealth, Desired, ProcessorConfig
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.report import WatcherProgress
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import ChangeStore, FleetStore, StoreError

_log = get_logger(__name__)
_RETRY_SECONDS = 1.0


Configs = Mapping[UUID, ProcessorConfig]


class DesiredStore(ChangeStore, FleetStore, Protocol):
    """What the watcher needs of the store."""


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


def _compare(before: Configs, after: Configs) -> Changes:
    # Mostly they are the same objects: the store does not make anew what has not changed.
    return compare(
        {key: config for key, config in before.items() if after.get(key) is not config},
        {key: config for key, config in after.items() if before.get(key) is not config},
    )


class Watcher:
    """Reads when it is told to, counts what changed, and knows when it last could."""

    def __init__(
        self,
        store: DesiredStore,
        *,
        metrics: Metrics,
        poll_interval_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._interval_seconds = poll_interval_seconds
        self._on_change = on_change
        self._desired: Desired | None = None
        self._succeeded_at: float | None = None
        self._error: str | None = None

    async def read(self) -> Desired:
        """Read once. Raises StoreError; what was read before is no answer in its place."""
        try:
            desired = await self._store.read_desired()
        except StoreError as error:
            self._fail(error)
            raise
        if self._error is not None:
            _log.info("configurations are read again")
        self._error = None
        self._succeeded_at = _now()
        self._take(desired)
        self._metrics.watcher_healthy.set(1)
        return desired

    def _fail(self, error: StoreError) -> None:
        self._metrics.watcher_errors.inc()
        if self._error is None:
            _log.warning("configurations cannot be read", error=str(error))
        self._error = str(error)

    def _take(self, desired: Desired) -> None:
        # The first reading is where counting begins: after a restart nothing was added.
        before, self._desired = self._desired, desired
        changes = Changes() if before is None else _compare(before.configs, desired.configs)
        self._metrics.applications.set(len(desired.configs))
        if not changes:
            return
        counts = {
            "added": len(changes.added),
            "removed": len(changes.removed),
            "modified": len(changes.modified),
        }
        for change_type, count in counts.items():
            self._metrics.config_changes.labels(change_type).inc(count)
        _log.info("configurations changed", processors=len(desired.configs), **counts)

    async def listen(self) -> None:
        """Wake on each notification, until cancelled. A lost connection costs the wake-ups of a
        moment: polling goes on, and one wake-up follows each new start."""
        while True:
            try:
                async with self._store.changes() as changes:
                    self._on_change()
                    async for _ in changes:
                        self._on_change()
            except StoreError as error:
                _log.debug("not listening for changes", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)

    @property
    def fleet_id(self) -> str | None:
        """Of the fleet that was read last."""
        return self._desired.fleet_id if self._desired is not None else None

    @property
    def progress(self) -> WatcherProgress:
        """For the process that serves the probes."""
        return WatcherProgress(self._succeeded_at, self._error)

    def health(self) -> ComponentHealth:
        """Healthy while the last success is younger than three intervals."""
        age = None if self._succeeded_at is None else _now() - self._succeeded_at
        health = watcher(age, self._interval_seconds, self._error)
        self._metrics.watcher_healthy.set(health.status == "healthy")
        return health
