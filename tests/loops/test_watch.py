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
    """A watcher that listens; what wakes it is counted."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.store = MemoryStore()
        self.wakes = 0
        self.watcher = Watcher(
            self.store, metrics=self.metrics, poll_interval_seconds=30, on_change=self._wake
        )

    def _wake(self) -> None:
        self.wakes += 1

    async def __aenter__(self) -> "Rig":
        self._task = asyncio.create_task(self.watcher.listen())
        await asyncio.sleep(0.001)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def fail(self) -> None:
        with pytest.raises(StoreUnavailable):
            await self.watcher.read()

    def error(self) -> str | None:
        return self.watcher.progress.error

    def changes(self, change_type: str) -> float:
        labels = {"change_type": change_type}
        return self.metrics.registry.get_sample_value("dory_config_changes_total", labels) or 0.0

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


def config(number: int, **changes: Any) -> dict[UUID, ProcessorConfig]:
    key = UUID(int=number)
    return {key: replace(CONFIG, processor_id=key, **changes)}


async def test_each_start_of_listening_and_each_notification_wakes():
    async with Rig() as rig:
        assert rig.wakes == 1
        for _ in range(3):
            rig.store.notify()
            await asyncio.sleep(0.001)
        assert rig.wakes == 4
        assert rig.store.calls["read_desired"] == 0


async def test_a_lost_connection_is_listened_on_again_and_wakes():
    async with Rig() as rig:
        rig.store.cut_listeners()
        await asyncio.sleep(0.5)
        assert (rig.store.listeners, rig.wakes) == (0, 1)
        await asyncio.sleep(1)
        assert (rig.store.listeners, rig.wakes) == (1, 2)
        rig.store.notify()
        await asyncio.sleep(0.001)
        assert rig.wakes == 3


async def test_while_nobody_can_listen_it_is_tried_once_a_second():
    rig = Rig()
    rig.store.error = StoreUnavailable("down")
    async with rig:
        await asyncio.sleep(10)
        assert rig.wakes == 0
        rig.store.error = None
        await asyncio.sleep(1)
        assert rig.wakes == 1


async def test_what_was_there_at_the_start_was_not_added():
    rig = Rig()
    rig.store.configs = config(1) | config(2)
    assert (await rig.watcher.read()).configs == rig.store.configs
    assert rig.watcher.fleet_id == rig.store.fleet_id
    assert rig.changes("added") == 0
    assert rig.value("dory_applications_total") == 2
    rig.store.configs = config(2, namespace="other") | config(3)
    await rig.watcher.read()
    counted = {kind: rig.changes(kind) for kind in ("added", "removed", "modified")}
    assert counted == {"added": 1, "removed": 1, "modified": 1}


async def test_an_error_removes_nothing_and_makes_it_unhealthy_after_three_intervals():
    rig = Rig()
    rig.store.configs = config(1)
    assert rig.watcher.fleet_id is None
    assert rig.watcher.health().status is HealthStatus.UNHEALTHY
    await rig.watcher.read()
    rig.store.error = StoreUnavailable("down")
    await asyncio.sleep(1)
    await rig.fail()
    assert rig.changes("removed") == 0
    assert rig.value("dory_applications_total") == 1
    assert rig.value("dory_config_watcher_errors_total") == 1
    await asyncio.sleep(88)
    assert rig.watcher.health().status is HealthStatus.HEALTHY
    await asyncio.sleep(2)
    assert rig.watcher.health().status is HealthStatus.UNHEALTHY
    assert "down" in rig.watcher.health().message
    assert rig.value("dory_config_watcher_healthy") == 0
    assert rig.error() == "down"

    rig.store.error = None
    await rig.watcher.read()
    assert rig.watcher.health().status is HealthStatus.HEALTHY
    assert rig.error() is None
    assert rig.changes("removed") == 0
