"""The watcher, in simulated time."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.core.test_small_rules import CONFIG
from tests.doubles import MemoryStore

from dory_orchestrator.core.model import HealthStatus, ProcessorConfig
from dory_orchestrator.loops.watch import Watcher
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import StoreUnavailable

pytestmark = pytest.mark.looptime


class Rig:
    """A watcher at work; the double counts how often it reads."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.readings: list[float] = []
        self.store = CountingStore(self.readings)
        self.watcher = Watcher(self.store, metrics=self.metrics, poll_interval_seconds=30)

    async def __aenter__(self) -> "Rig":
        self._task = asyncio.create_task(self.watcher.run())
        await asyncio.sleep(0.001)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def changes(self, change_type: str) -> float:
        labels = {"change_type": change_type}
        return self.metrics.registry.get_sample_value("dory_config_changes_total", labels) or 0.0

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


class CountingStore(MemoryStore):
    def __init__(self, readings: list[float]) -> None:
        super().__init__()
        self._readings = readings

    async def list_processor_configs(self):
        self._readings.append(asyncio.get_running_loop().time())
        return await super().list_processor_configs()


def config(number: int, **changes: Any) -> dict[UUID, ProcessorConfig]:
    key = UUID(int=number)
    return {key: replace(CONFIG, processor_id=key, **changes)}


async def test_a_notification_is_followed_by_a_reading_within_a_second():
    async with Rig() as rig:
        await asyncio.sleep(10)
        rig.store.configs = config(1)
        rig.store.notify()
        await asyncio.sleep(0.9)
        assert rig.changes("added") == 1
        assert rig.value("dory_applications_total") == 1


async def test_without_notifications_it_polls():
    async with Rig() as rig:
        before = len(rig.readings)
        await asyncio.sleep(91)
    assert len(rig.readings) == before + 3


async def test_notifications_during_a_reading_lead_to_exactly_one_more():
    async with Rig() as rig:
        await asyncio.sleep(5)
        rig.store.hold = asyncio.Event()
        before = len(rig.readings)
        rig.store.notify()
        await asyncio.sleep(0.1)
        for _ in range(5):
            rig.store.notify()
            await asyncio.sleep(0.1)
        rig.store.hold.set()
        await asyncio.sleep(1)
    assert len(rig.readings) == before + 2


async def test_what_was_there_at_the_start_was_not_added():
    rig = Rig()
    rig.store.configs = config(1) | config(2)
    async with rig:
        assert rig.changes("added") == 0
        rig.store.configs = config(2, namespace="other") | config(3)
        rig.store.notify()
        await asyncio.sleep(0.5)
        counted = {kind: rig.changes(kind) for kind in ("added", "removed", "modified")}
        assert counted == {"added": 1, "removed": 1, "modified": 1}


async def test_an_error_removes_nothing_and_makes_it_unhealthy_after_three_intervals():
    rig = Rig()
    rig.store.configs = config(1)
    async with rig:
        rig.store.error = StoreUnavailable("down")
        rig.store.notify()
        await asyncio.sleep(1)
        assert rig.changes("removed") == 0
        assert rig.value("dory_applications_total") == 1
        assert rig.value("dory_config_watcher_errors_total") >= 1
        await asyncio.sleep(88)
        assert rig.watcher.health().status is HealthStatus.HEALTHY
        await asyncio.sleep(2)
        assert rig.watcher.health().status is HealthStatus.UNHEALTHY
        assert "down" in rig.watcher.health().message
        assert rig.value("dory_config_watcher_healthy") == 0

        rig.store.error = None
        await asyncio.sleep(2)
        assert rig.watcher.health().status is HealthStatus.HEALTHY
        assert rig.changes("removed") == 0
