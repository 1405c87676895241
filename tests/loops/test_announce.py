"""The leader says on the cluster's objects what it writes down."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.cluster_double import MemoryCluster
from tests.contract.cluster_worlds import a_node, a_spec
from tests.views_double import MemoryViews

from dory_orchestrator.core.model import Observation
from dory_orchestrator.loops.announce import Announcer
from dory_orchestrator.ports import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    Lease,
    Refusal,
    StoreUnavailable,
)

pytestmark = pytest.mark.looptime


class Rig:
    def __init__(self) -> None:
        self.views, self.cluster = MemoryViews(), MemoryCluster(ready_at_once=True)
        self.cluster.add_node(a_node("edge-1"))
        self.lease: Lease | None = Lease("leader", 1)
        self.announcer = Announcer(
            self.views,
            self.cluster,
            observed=lambda: Observation(dict(self.cluster.nodes), dict(self.cluster.pods)),
            lease=lambda: self.lease,
        )

    def tell(self, **values: Any) -> None:
        self.views.tell("node_offline", "dead_not_ready", "for 3 s", node_name="edge-1", **values)

    @property
    def said(self) -> list[str]:
        return [one.reason for one in self.cluster.announced.values()]

    async def until(self, done: Callable[[], bool], limit_seconds: float = 30.0) -> None:
        async with asyncio.timeout(limit_seconds):
            while not done():
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.announcer.run())
    try:
        yield rig
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_happens_is_said_once() -> None:
    async with running() as rig:
        rig.tell()
        await rig.until(lambda: len(rig.said) == 1)
        rig.views.tell("rollout", "rollout_stopped")  # of no pod, and no node
        rig.tell()
        await rig.until(lambda: len(rig.said) == 2)
        await asyncio.sleep(20)
        assert rig.said == ["NodeOffline", "NodeOffline"]


async def test_a_pod_that_is_to_be_created_is_waited_for() -> None:
    async with running() as rig:
        spec = a_spec()
        rig.views.tell("failover", "node_dead", pod_name=spec.name, node_name="edge-1")
        await asyncio.sleep(5)
        assert rig.said == []
        pod = await rig.cluster.create_pod(spec)
        await rig.until(lambda: bool(rig.said))
        [said] = rig.cluster.announced.values()
        assert said.pod is not None
        assert said.pod.uid == pod.uid


async def test_but_not_for_long() -> None:
    async with running() as rig:
        spec = a_spec()
        rig.views.tell("failover", "node_dead", pod_name=spec.name)
        await asyncio.sleep(15)
        await rig.cluster.create_pod(spec)
        await asyncio.sleep(15)
        assert rig.said == []


async def test_only_the_leader_speaks_and_begins_with_what_the_last_one_may_have_left() -> None:
    async with running() as rig:
        rig.lease = None
        rig.tell(at=datetime.now(UTC) - timedelta(hours=1))
        rig.tell()
        await asyncio.sleep(10)
        assert rig.said == []
        rig.lease = Lease("leader", 2)
        await rig.until(lambda: len(rig.said) == 1)
        await asyncio.sleep(10)
        assert len(rig.said) == 1


@pytest.mark.parametrize(
    "error",
    [ClusterUnavailable("gone"), ClusterRefused(Refusal.FORBIDDEN, "may not create events")],
)
async def test_a_cluster_that_does_not_listen_is_left_alone_for_a_minute(
    error: ClusterError,
) -> None:
    async with running() as rig:
        rig.cluster.error = error
        for _ in range(3):
            rig.tell()
        await asyncio.sleep(10)
        rig.cluster.error = None
        rig.tell()
        await asyncio.sleep(30)
        assert rig.said == []
        await asyncio.sleep(40)
        rig.tell()
        await rig.until(lambda: len(rig.said) == 1)


async def test_one_that_is_refused_does_not_hold_up_the_next() -> None:
    async with running() as rig:
        rig.cluster.error = ClusterRefused(Refusal.INVALID, "no")
        rig.tell()
        await asyncio.sleep(3)
        rig.cluster.error = None
        rig.tell()
        await rig.until(lambda: len(rig.said) == 1)


async def test_a_store_that_is_away_is_read_later() -> None:
    async with running() as rig:
        rig.tell()
        rig.views.error = StoreUnavailable("gone")
        await asyncio.sleep(10)
        assert rig.said == []
        rig.views.error = None
        await rig.until(lambda: len(rig.said) == 1)
