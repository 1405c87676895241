"""Documents of processors that are gone are removed; nothing of them is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from tests.checkpoints_double import MemoryCheckpointStore
from tests.cluster_double import MemoryCluster
from tests.contract.cluster_worlds import a_spec

from dory_orchestrator.core.checkpoint import (
    CaptureLimits,
    Position,
    document,
    payload_of,
    sha256_of,
)
from dory_orchestrator.core.model import GuardRecord, Observation, Ownership
from dory_orchestrator.loops.depart import DepartedStates
from dory_orchestrator.loops.seed import Seeder
from dory_orchestrator.ports import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    DepartedState,
    Event,
    Lease,
    Refusal,
)

pytestmark = pytest.mark.looptime

KEY = UUID(int=7)
HOUR = 3_600.0


class Rig:
    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        self.cluster, self.told = cluster or MemoryCluster(), list[Event]()
        loop = asyncio.get_running_loop()
        self.store = MemoryCheckpointStore(clock=lambda: 1_000_000.0 + loop.time())
        self.lease = Lease("leader", 1)
        seeder = Seeder(self.store, limits=CaptureLimits(), tell=self.told.append)
        self.departed = DepartedStates(
            self.store,
            self.cluster,
            seeder,
            observed=lambda: Observation({}, dict(self.cluster.pods)),
            lease=lambda: self.lease,
        )

    async def go(self, key: UUID = KEY, *, saved: int = 5, pod_name: str = "pod-1") -> None:
        """A processor whose last pod, `pod-1`, has ended, and a document that a pod saved."""
        self.store.owners[key] = Ownership(1, last_pod_name="pod-1")
        gone = DepartedState(key, 1, "default", "pod-1")
        self.store.departed[key] = gone, self.store.clock()
        self.cluster.states[key] = document(
            payload_of({"count": saved}), processor_id=key, pod_name=pod_name, timestamp=10.0
        )

    async def count(self, key: UUID = KEY) -> bytes | None:
        newest = await self.store.newest_checkpoint(key)
        return None if newest is None else newest.payload


@asynccontextmanager
async def running(cluster: MemoryCluster | None = None) -> AsyncIterator[Rig]:
    rig = Rig(cluster)
    term = await rig.store.hold_lease("leader", None, 1e9)
    assert term is not None
    rig.lease = Lease("leader", term)
    task = asyncio.create_task(rig.departed.run())
    try:
        yield rig
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_after_its_time_and_what_was_newer_is_kept_here() -> None:
    async with running() as rig:
        await rig.go()
        await asyncio.sleep(HOUR - 1)
        assert KEY in rig.cluster.states
        await asyncio.sleep(700)
        assert KEY not in rig.cluster.states
        assert await rig.count() == b'{"count": 5}'
        assert rig.store.departed == {}


async def test_one_that_we_put_there_goes_too() -> None:
    async with running() as rig:
        await rig.go()
        payload = payload_of({"count": 4})
        rig.store._put(KEY, (1, 1), "uid", "pod-0", 1.0, payload, sha256_of(payload))
        newest = await rig.store.newest_checkpoint(KEY)
        assert newest is not None
        rig.cluster.states[KEY] = document(
            payload,
            processor_id=KEY,
            pod_name="pod-0",
            timestamp=1.0,
            position=newest.position,
        )
        await asyncio.sleep(2 * HOUR)
        assert KEY not in rig.cluster.states


async def test_one_that_the_database_has_forgotten_stays_and_keeps_nobody_else_waiting() -> None:
    """The database was rolled back: it is the only copy."""
    async with running() as rig:
        other = UUID(int=9)
        await rig.go()
        await rig.go(other)
        rig.cluster.states[KEY] = document(
            payload_of({"count": 4}),
            processor_id=KEY,
            pod_name="pod-0",
            timestamp=1.0,
            position=Position(1, 1, 1),
        )
        await asyncio.sleep(2 * HOUR)
        assert KEY in rig.cluster.states
        assert other not in rig.cluster.states
        assert rig.store.departed == {}


async def test_a_document_of_a_pod_that_nobody_knows_stays_and_is_not_asked_for_again() -> None:
    async with running() as rig:
        await rig.go(pod_name="of another fleet")
        await asyncio.sleep(2 * HOUR)
        assert KEY in rig.cluster.states
        assert rig.store.departed == {}
        assert await rig.count() is None


async def test_not_while_a_pod_of_it_is_there() -> None:
    async with running() as rig:
        await rig.go()
        pod = await rig.cluster.create_pod(a_spec(processor_id=KEY))
        await asyncio.sleep(2 * HOUR)
        assert KEY in rig.cluster.states
        rig.cluster.remove(pod)
        await asyncio.sleep(700)
        assert KEY not in rig.cluster.states


async def test_not_while_the_guard_holds_nor_without_the_lease() -> None:
    async with running() as rig:
        await rig.go()
        rig.store.guard = GuardRecord(held_since=1.0)
        await asyncio.sleep(2 * HOUR)
        assert KEY in rig.cluster.states
        rig.store.guard = GuardRecord()
        lease, rig.lease = rig.lease, replace_term(rig.lease)
        await asyncio.sleep(HOUR)
        assert KEY in rig.cluster.states
        rig.lease = lease
        await asyncio.sleep(700)
        assert KEY not in rig.cluster.states


def replace_term(lease: Lease) -> Lease:
    return lease._replace(term=lease.term - 1)


@pytest.mark.parametrize(
    "error",
    [ClusterUnavailable("gone"), ClusterRefused(Refusal.FORBIDDEN, "may not")],
)
async def test_a_cluster_that_does_not_do_it_is_asked_again(error: ClusterError) -> None:
    async with running() as rig:
        await rig.go()
        rig.cluster.error = error
        await asyncio.sleep(2 * HOUR)
        assert KEY in rig.store.departed
        rig.cluster.error = None
        await asyncio.sleep(700)
        assert KEY not in rig.cluster.states


class Guarded(MemoryCluster):
    """Gives no right to remove the document of one processor."""

    async def remove_state(self, namespace: str, processor_id: UUID, *, version: str) -> None:
        if processor_id == KEY:
            raise ClusterRefused(Refusal.FORBIDDEN, "configmaps is forbidden")
        await super().remove_state(namespace, processor_id, version=version)


async def test_one_that_may_not_be_removed_holds_up_no_other() -> None:
    async with running(Guarded()) as rig:
        await rig.go()
        await rig.go(UUID(int=8))
        await asyncio.sleep(2 * HOUR)
        assert list(rig.cluster.states) == [KEY]
        assert list(rig.store.departed) == [KEY]


async def test_where_nothing_is_there_is_nothing_to_do() -> None:
    async with running() as rig:
        await rig.go()
        del rig.cluster.states[KEY]
        await asyncio.sleep(2 * HOUR)
        assert rig.store.departed == {}
