"""The watcher: reads the desired configurations on each poll and on each notification."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

from dory_orchestrator.core.changes import Changes, compare
from dory_orchestrator.core.health import watcher
from dory_orchestrator.core.model import ComponentHealth, ProcessorConfig
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.report import WatcherProgress
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import ConfigStore, StoreError

_log = get_logger(__name__)
_RETRY_SECONDS = 1.0


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class Watcher:
    """Holds the newest configurations and counts what changed.

    Notifications only wake it: what counts is what it then reads. Notifications during a
    reading lead to exactly one more.
    """

    def __init__(
        self, store: ConfigStore, *, metrics: Metrics, poll_interval_seconds: float
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._interval_seconds = poll_interval_seconds
        self._wake = asyncio.Event()
        self._configs: Mapping[UUID, ProcessorConfig] | None = None
        self._succeeded_at: float | None = None
        self._error: str | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._poll())

    async def _poll(self) -> None:
        while True:
            self._wake.clear()
            delay = self._interval_seconds if await self.read() else self._retry_seconds
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                continue

    @property
    def _retry_seconds(self) -> float:
        return min(_RETRY_SECONDS, self._interval_seconds)

    async def read(self) -> bool:
        """Read once; False when it failed. What was read before stays: an error is not an empty list."""
        try:
            configs = await self._store.list_processor_configs()
        except StoreError as error:
            self._fail(error)
            return False
        if self._error is not None:
            _log.info("configurations are read again")
        self._error = None
        self._succeeded_at = _now()
        self._take(configs)
        self._metrics.watcher_healthy.set(1)
        return True

    def _fail(self, error: StoreError) -> None:
        self._metrics.watcher_errors.inc()
        if self._error is None:
            _log.warning("configurations cannot be read", error=str(error))
        self._error = str(error)

    def _take(self, configs: Mapping[UUID, ProcessorConfig]) -> None:
        # The first reading is where counting begins: after a restart nothing was added.
        changes = Changes() if self._configs is None else compare(self._configs, configs)
        self._configs = configs
        self._metrics.applications.set(len(configs))
        if not changes:
            return
        counts = {
            "added": len(changes.added),
            "removed": len(changes.removed),
            "modified": len(changes.modified),
        }
        for change_type, count in counts.items():
            self._metrics.config_changes.labels(change_type).inc(count)
        _log.info("configurations changed", processors=len(configs), **counts)

    async def _listen(self) -> None:
        """Keep listening. A lost connection costs the wake-ups of a moment: polling goes on,
        and one reading follows each new start."""
        while True:
            try:
                async with self._store.changes() as changes:
                    self._wake.set()
                    async for _ in changes:
                        self._wake.set()
            except StoreError as error:
                _log.debug("not listening for changes", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)

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
