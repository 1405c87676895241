"""What a leader says of the cluster in the database, and what heartbeats are answered by it."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

import pytest
from tests.doubles import MemoryStore
from tests.loops.fleet_rig import Rig, cloud, now
from tests.loops.fleet_rig import TrickyCluster as Cluster

from dory_orchestrator.core.directive import decide
from dory_orchestrator.ports import Beat, ClusterUnavailable, LeaseLost, StoreUnavailable

pytestmark = pytest.mark.looptime

KNOWN = range(1, 1_001)


async def answers(store: MemoryStore, numbers: Iterable[int]) -> set[tuple[str, str]]:
    """Directive and reason of a beat of each."""
    beats = [Beat(UUID(int=number), "cloud-1", True) for number in numbers]
    found = await store.record_heartbeats(beats, canary=False, timeout_seconds=5)
    return {(str(d), str(r)) for d, r in (decide(facts, "cloud-1") for facts in found)}


async def test_a_tenth_of_a_thousand_that_is_deleted_is_told_to_end_within_two_seconds():
    cluster = Cluster([cloud(pods_max=2_000)], finish_deletions=False)
    async with Rig(cluster=cluster) as rig:
        rig.desire(*KNOWN)
        await rig.until(lambda: rig.running == 1_000, 300)
        await rig.until(lambda: all(own.ready for own in rig.store.owners.values()))
        deleted, ended = range(1, 51), range(51, 101)
        began_at = now()
        for number in deleted:
            rig.store.undesire(UUID(int=number))
        for number in ended:
            rig.store.undesire(UUID(int=number), "terminated")
        assert await answers(rig.store, range(1, 101)) == {("continue", "deletion_undecided")}
        keys = [UUID(int=number) for number in range(1, 101)]
        await rig.until(lambda: all(rig.store.owners[key].end_granted for key in keys), 2)
        assert await answers(rig.store, deleted) == {("shutdown", "not_found")}
        assert await answers(rig.store, ended) == {("shutdown", "ended")}
        assert await answers(rig.store, range(101, 1_001)) == {("continue", "desired")}
        # Simulated time: what it takes is what the loops wait for, whatever the machine does.
        assert now() - began_at < 2


async def fleet(cluster: Cluster) -> None:
    """Three processors of a first database run there."""
    async with Rig(cluster=cluster) as rig:
        rig.desire(1, 2, 3)
        await rig.until(lambda: rig.running == 3)


def empty(**fields: object) -> MemoryStore:
    return MemoryStore(clock=now, fleet_id="another", **fields)  # type: ignore[arg-type]


def told(rig: Rig) -> list[tuple[str, str]]:
    return rig.told("database")


async def test_an_empty_database_ends_nobody_and_is_told_of_once():
    cluster = Cluster()
    await fleet(cluster)
    store = empty()
    async with Rig(store, cluster) as rig:
        await rig.until(lambda: store.unowned)
        for _ in range(50):
            assert await answers(store, (1, 2, 3)) <= {
                ("continue", "unowned_pod"),
                ("continue", "no_picture"),
            }
            await asyncio.sleep(2)
        assert await answers(store, (1, 2, 3)) == {("continue", "unowned_pod")}
        assert await answers(store, (4,)) == {("shutdown", "not_found")}, "no pod bears its id"
        assert told(rig) == [("database", "unknown_pods")]
        assert rig.value("dory_unknown_pods") == 3
        assert (await store.read_doubts()).unknown_count == 3
    # Who leads next tells it no second time.
    store.leader.expires_at = now()
    async with Rig(store, cluster, holder="another") as rig:
        await rig.until(lambda: rig.value("dory_unknown_pods") == 3)
        assert told(rig) == [("database", "unknown_pods")]
        for pod in list(cluster.pods.values()):
            cluster.remove(pod)
        await rig.until(lambda: not store.unowned)
        assert await answers(store, (1, 2, 3)) == {("shutdown", "not_found")}
        assert rig.value("dory_unknown_pods") == 0


async def test_a_quiet_fleet_keeps_its_picture_fresh():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        for _ in range(300):
            assert await answers(rig.store, (9,)) == {("shutdown", "not_found")}
            await asyncio.sleep(1.0)


async def test_while_the_cluster_is_away_nobody_is_told_to_end():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        rig.cluster.error = ClusterUnavailable("away")
        # One interval after it was seen last.
        await asyncio.sleep(31)
        assert await answers(rig.store, (9,)) == {("continue", "no_picture")}
        rig.cluster.error = None
        await asyncio.sleep(15)
        assert await answers(rig.store, (9,)) == {("shutdown", "not_found")}


async def test_the_picture_is_kept_while_cycles_fail():
    async with Rig() as rig:
        rig.desire(1, 2)
        await rig.until(lambda: rig.running == 2)
        rig.store.errors["record_health"] = rig.store.errors["grant"] = StoreUnavailable("down")
        rig.undesire(1)
        for _ in range(100):
            await asyncio.sleep(1)
            assert await answers(rig.store, (9,)) == {("shutdown", "not_found")}
        assert await answers(rig.store, (1,)) == {("continue", "deletion_undecided")}


async def test_the_picture_is_kept_evenly_while_no_cycle_gets_as_far():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        await asyncio.sleep(20)
        rig.store.errors["read_desired"] = StoreUnavailable("down")
        for _ in range(100):
            await asyncio.sleep(1)
            assert now() - (rig.store.picture.seen_at or 0) <= 15.5, "half an interval"
            assert await answers(rig.store, (9,)) == {("shutdown", "not_found")}


@pytest.mark.parametrize("error", [StoreUnavailable("down"), LeaseLost("another leads")])
async def test_a_picture_that_could_not_be_written_is_written_later(error):
    async with Rig() as rig:
        rig.desire(1, 2)
        await rig.until(lambda: rig.running == 2)
        # No cycle gets as far as that it writes.
        rig.store.errors["read_desired"] = StoreUnavailable("down")
        rig.store.errors["record_picture"] = error
        await asyncio.sleep(50)
        assert await answers(rig.store, (9,)) == {("continue", "no_picture")}
        del rig.store.errors["record_picture"]
        await asyncio.sleep(15)
        assert await answers(rig.store, (9,)) == {("shutdown", "not_found")}


async def test_a_watch_that_says_nothing_any_more_shows_nothing():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        rig.cluster.lag_seconds = 1e9
        # Two intervals, and the one for which the last picture counts.
        await asyncio.sleep(95)
        assert await answers(rig.store, (9,)) == {("continue", "no_picture")}


async def test_a_database_that_is_emptied_twice_ends_nobody():
    cluster = Cluster()
    await fleet(cluster)
    store = empty()
    async with Rig(store, cluster) as rig:
        await rig.until(lambda: store.unowned)
        store.unowned.clear()
        store.picture = replace(store.picture, seen_at=None)
        for _ in range(60):
            await asyncio.sleep(1)
            assert ("shutdown", "not_found") not in await answers(store, (1, 2, 3))
        assert await answers(store, (1, 2, 3)) == {("continue", "unowned_pod")}


async def test_all_rows_that_end_while_nobody_leads_end_nobody_before_the_guard_has_looked():
    cluster, store = Cluster(), MemoryStore(clock=now)
    async with Rig(store, cluster) as rig:
        rig.desire(*range(1, 9))
        await rig.until(lambda: rig.running == 8)
    for number in range(1, 9):
        store.undesire(UUID(int=number), "terminated")
    undecided = {("continue", "deletion_undecided")}
    assert await answers(store, range(1, 9)) == undecided
    store.leader.expires_at = now()
    async with Rig(store, cluster, holder="another") as rig:
        while not rig.is_guarded():
            assert await answers(store, range(1, 9)) == undecided
            await asyncio.sleep(0.01)
        assert await answers(store, range(1, 9)) == undecided


async def test_another_cluster_ends_nobody_and_is_told_of_once():
    store = MemoryStore(clock=now)
    cluster, other = Cluster(), Cluster()
    cluster.uid, other.uid = "c1", "c2"
    async with Rig(store, cluster) as rig:
        await rig.until(lambda: store.picture.seen_at is not None)
        assert await answers(store, (9,)) == {("shutdown", "not_found")}
    store.leader.expires_at = now()
    async with Rig(store, other, holder="another") as rig:
        await rig.until(lambda: told(rig))
        await asyncio.sleep(40)
        assert await answers(store, (9,)) == {("continue", "no_picture")}
        assert told(rig) == [("database", "another_cluster")]
