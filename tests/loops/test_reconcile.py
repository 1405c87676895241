"""The loop over a store and a cluster in memory, in simulated time."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest
from tests.doubles import MemoryStore, RefusingStore
from tests.loops.fleet_rig import Rig, TrickyCluster, cloud, config, now, version

from dory_orchestrator.core.model import Limits, Node, Resources
from dory_orchestrator.loops.reconcile import History
from dory_orchestrator.ports import (
    NO_TRACES,
    ClusterRefused,
    ClusterUnavailable,
    EdgeNode,
    Refusal,
    StoreBusy,
    StoreDataError,
    StoreTimeout,
    StoreUnavailable,
)

pytestmark = pytest.mark.looptime

ORGANIZATION = UUID(int=5)


# Bringing it about


async def test_a_fleet_comes_up_and_then_nothing_more_happens():
    rig = Rig()
    rig.desire(*range(1, 31))
    async with rig:
        assert await rig.until(lambda: rig.running == 30) < 1
        await asyncio.sleep(2)
        assert len(rig.store.configs) == 30
        owners = rig.store.owners
        assert {own.epoch for own in owners.values()} == {1}
        assert {own.pod_uid for own in owners.values()} == rig.cluster.pods.keys()
        assert all(own.ready and own.node_name == "cloud-1" for own in owners.values())
        assert rig.told("create") == [("create", "not_running")] * 30
        assert rig.told("ready") == [("ready", "running")] * 30
        assert {str(found.reason) for found in rig.store.states.values()} == {"running"}
        before, writes = rig.cycles, rig.store.calls.copy()
        await asyncio.sleep(300)
        assert rig.cycles == before + 10, "one each interval, and no other"
        for name in ("grant", "record_pods", "record_findings", "record_nodes", "record_guard"):
            assert rig.store.calls[name] == writes[name], name


async def test_an_edge_processor_is_placed_on_a_node_of_its_organization_and_linked():
    edge = Node("edge-1", True, {"node-type": "edge"}, allocatable=Resources(10**6, 2**40))
    rig = Rig(cluster=TrickyCluster([cloud(), edge]))
    row = EdgeNode(
        id=UUID(int=9),
        organization_id=ORGANIZATION,
        name="edge-1",
        status="online",
        failover_enabled=True,
        failover_target_node_id=None,
        last_heartbeat_at=None,
    )
    rig.store.nodes[row.id] = row
    rig.desire(1, node_type="edge", organization_id=ORGANIZATION)
    rig.desire(2, node_type="edge", organization_id=UUID(int=6))
    async with rig:
        await rig.until(lambda: rig.running == 1)
        await asyncio.sleep(1)
        assert rig.pod_of(1).node_name == "edge-1"
        assert rig.store.processors[UUID(int=1)].edge_node_id == row.id
        assert (rig.reason_of(1), rig.reason_of(2)) == ("running", "no_edge_node")
        assert rig.told("pending") == []


async def test_what_is_removed_ends_gracefully_and_is_forgotten():
    rig = Rig()
    rig.desire(*range(1, 11))
    async with rig:
        await rig.until(lambda: rig.running == 10)
        rig.undesire(3)
        assert await rig.until(lambda: not rig.pods_of(3)) < 1
        await asyncio.sleep(1)
        own = rig.store.owners[UUID(int=3)]
        assert (own.epoch, own.pod_uid, own.node_name) == (1, None, None)
        assert rig.told("delete", "forget") == [
            ("delete", "not_desired"),
            ("forget", "not_desired"),
        ]
        assert UUID(int=3) not in rig.store.states
        before = rig.cycles
        await asyncio.sleep(300)
        assert rig.cycles <= before + 11, "what was forgotten is not forgotten again"
        rig.desire(3)
        await rig.until(lambda: rig.running == 10)
        assert rig.pod_of(3).epoch == 2


async def test_a_pod_that_nobody_owns_is_adopted_and_not_restarted():
    """As after a lost database, or a cluster that ran before us."""
    cluster = TrickyCluster()
    rig = Rig(cluster=cluster)
    rig.desire(1)
    async with rig:
        await rig.until(lambda: rig.running == 1)
    pod = rig.pod_of(1)
    cluster.pods[pod.uid] = replace(pod, epoch=None)
    store = MemoryStore(clock=now)
    store.desire(config(1))
    async with Rig(store, cluster) as again:
        await asyncio.sleep(2)
        assert again.pod_of(1).uid == pod.uid
        assert store.owners[UUID(int=1)].pod_uid == pod.uid
        assert again.reason_of(1) == "running"


async def test_a_pod_of_an_epoch_that_was_never_given_is_frozen():
    cluster = TrickyCluster()
    rig = Rig(cluster=cluster)
    rig.desire(1)
    async with rig:
        await rig.until(lambda: rig.running == 1)
    store = MemoryStore(clock=now)
    store.desire(config(1))
    async with Rig(store, cluster) as again:
        await asyncio.sleep(100)
        assert again.reason_of(1) == "epoch_ahead"
        assert again.told("held") == [("held", "epoch_ahead")]
        assert cluster.deleted == []


# Reacting


async def test_a_notification_reacts_within_a_fraction_of_a_second():
    async with Rig() as rig:
        await asyncio.sleep(17)
        rig.desire(1)
        assert await rig.until(lambda: rig.cluster.pods) < 0.1
        await asyncio.sleep(1)
        assert rig.value("dory_reconciliation_reaction_seconds_count") == 1
        assert rig.value("dory_reconciliation_reaction_seconds_sum") < 0.1


async def test_a_pod_that_disappears_is_replaced_at_once():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        await asyncio.sleep(5)
        gone = rig.pod_of(1)
        rig.cluster.remove(gone)
        assert await rig.until(lambda: rig.running == 1) < 0.5
        assert rig.pod_of(1).uid != gone.uid


async def test_polling_is_the_safety_net():
    async with Rig() as rig:
        await asyncio.sleep(5)
        rig.store.configs[UUID(int=1)] = config(1)
        assert 20 < await rig.until(lambda: rig.cluster.pods) < 31


async def test_wakes_during_a_cycle_lead_to_exactly_one_more():
    async with Rig() as rig:
        await asyncio.sleep(5)
        rig.store.holds["read_desired"] = asyncio.Event()
        before = rig.cycles
        rig.wake.set()
        await asyncio.sleep(0.1)
        for _ in range(5):
            rig.store.notify()
            await asyncio.sleep(0.1)
        rig.store.holds.pop("read_desired").set()
        await asyncio.sleep(3)
        assert rig.cycles == before + 2


class SlowStore(MemoryStore):
    """A reading takes its time, and says what was so at its beginning."""

    reading_seconds = 0.5

    async def read_desired(self):
        desired = await super().read_desired()
        await asyncio.sleep(self.reading_seconds)
        return desired


async def test_a_storm_of_changes_leaves_time_for_others():
    """Sixty cycles would take all of it."""
    async with Rig(SlowStore(clock=now)) as rig:

        async def storm() -> None:
            while True:
                await asyncio.sleep(0.05)
                rig.store.notify()

        storming = asyncio.create_task(storm())
        await asyncio.sleep(30)
        storming.cancel()
        assert 35 <= rig.cycles <= 52


# When the database fails


async def test_an_error_of_the_store_ends_a_cycle_and_is_counted_with_back_off():
    async with Rig() as rig:
        await asyncio.sleep(5)
        before = rig.cycles
        rig.store.errors["read_desired"] = StoreUnavailable("down")
        rig.wake.set()
        await asyncio.sleep(100)
        assert 8 <= rig.cycles - before <= 12
        assert rig.value("dory_reconciliation_errors_total", error_type="general") >= 8
        rig.store.errors.clear()
        rig.desire(1)
        assert await rig.until(lambda: rig.running == 1) < 16


async def test_a_database_that_does_not_answer_in_time_is_counted_as_such():
    async with Rig() as rig:
        await asyncio.sleep(5)
        rig.store.errors["read_desired"] = StoreTimeout("no answer within 5 s")
        rig.wake.set()
        await asyncio.sleep(60)
        assert rig.value("dory_reconciliation_errors_total", error_type="timeout") >= 2
        assert rig.value("dory_reconciliation_errors_total", error_type="general") == 0


async def test_a_pod_that_gets_no_node_is_counted_once():
    full = replace(cloud(), ready=False)
    rig = Rig(cluster=TrickyCluster([full]))
    rig.desire(1)
    async with rig:
        await asyncio.sleep(100)
        assert rig.value("dory_scheduling_decisions_total", decision="provision_node") == 1
        assert rig.value("dory_reconciliation_errors_total", error_type="scheduling") == 1


# Whether it gets to an end


async def test_it_is_healthy_while_cycles_get_to_their_end():
    async with Rig() as rig:
        assert rig.reconciler.health().status == "unhealthy"
        await asyncio.sleep(5)
        assert rig.reconciler.health().status == "healthy"
        await asyncio.sleep(300)
        assert rig.reconciler.health().status == "healthy"
        rig.store.errors["record_guard"] = StoreUnavailable("down")
        rig.store.errors["grant"] = StoreUnavailable("down")
        rig.desire(1)
        await asyncio.sleep(80)
        assert rig.reconciler.health().status == "healthy", "not at once"
        await asyncio.sleep(20)
        health = rig.reconciler.health()
        assert (health.status, "down" in health.message) == ("unhealthy", True)
        rig.store.errors.clear()
        await asyncio.sleep(20)
        assert rig.reconciler.health().status == "healthy"


async def test_a_leader_without_a_picture_is_not_healthy():
    rig = Rig()
    rig.cluster.error = ClusterUnavailable("down")
    async with rig:
        await rig.until(lambda: rig.leadership.lease is not None)
        await asyncio.sleep(200)
        assert rig.cycles > 3
        assert rig.reconciler.health().status == "unhealthy"
        rig.cluster.error = None
        await rig.until(lambda: rig.reconciler.health().status == "healthy")


async def test_one_that_does_not_lead_is_healthy_while_it_reads():
    leader = Rig()
    async with leader, Rig(leader.store, leader.cluster, holder="other") as other:
        await asyncio.sleep(200)
        assert other.leadership.lease is None
        assert other.reconciler.health().status == "healthy"


@pytest.mark.parametrize("name", ["grant", "record_pods", "record_findings", "record_nodes"])
async def test_a_writing_that_fails_is_made_up_for(name):
    rig = Rig()
    rig.store.errors[name] = StoreUnavailable("down")
    rig.desire(1, 2)
    async with rig:
        await asyncio.sleep(60)
        assert not rig.reconciling.done()
        assert rig.value("dory_reconciliation_errors_total", error_type="general") >= 1
        rig.store.errors.clear()
        await asyncio.sleep(16)
        assert rig.running == 2
        assert max(rig.cluster.most_live.values()) == 1
        assert {own.pod_uid for own in rig.store.owners.values()} == rig.cluster.pods.keys()
        assert rig.reason_of(1) == "running"
        assert rig.store.node_rows.keys() == {"cloud-1"}


@pytest.mark.parametrize("error", [StoreBusy("held"), StoreDataError("refused")])
@pytest.mark.parametrize("call", ["grant", "record_pods"])
async def test_a_row_that_cannot_be_written_holds_up_no_other(error, call):
    """A forgotten transaction of the platform's must not stop the fleet."""

    class HeldStore(MemoryStore):
        held = UUID(int=13)

        async def grant(self, lease, actions, trace_ids=NO_TRACES):
            if call == "grant" and any(a.processor_id == self.held for a in actions):
                self.calls["refused"] += 1
                raise error
            return await super().grant(lease, actions, trace_ids)

        async def record_pods(self, lease, records):
            if call == "record_pods" and any(r.processor_id == self.held for r in records):
                self.calls["refused"] += 1
                raise error
            await super().record_pods(lease, records)

    store = HeldStore(clock=now)
    rig = Rig(store)
    rig.desire(*range(1, 31))
    async with rig:
        await asyncio.sleep(5)
        assert rig.running >= 29
        assert sum(own.pod_uid is not None for own in store.owners.values()) == 29
        rig.desire(31)
        await rig.until(lambda: len(rig.pods_of(31)) == 1, 20)
        before = rig.cycles, store.calls["refused"]
        await asyncio.sleep(300)
        assert rig.cycles - before[0] < 60, "and it is not asked all the time"
        assert rig.value("dory_reconciliation_errors_total", error_type="general") >= 1
        store.held = UUID(int=0)
        await rig.until(lambda: rig.running == 31)
        await asyncio.sleep(20)
        assert len({own.pod_uid for own in store.owners.values()} - {None}) == 31
        assert max(rig.cluster.most_live.values()) == 1


async def test_a_database_that_refuses_everything_ends_the_cycle():
    """No halving down to each of a thousand."""
    rig = Rig()
    rig.store.errors["grant"] = StoreDataError("no")
    rig.desire(*range(1, 201))
    async with rig:
        await asyncio.sleep(60)
        assert rig.store.calls["grant"] < 1000
        assert rig.cluster.calls == []
        rig.store.errors.clear()
        await asyncio.sleep(20)
        assert rig.running == 200


async def test_nothing_is_forced_where_nothing_is_granted():
    rig = Rig(RefusingStore(clock=now))
    rig.desire(*range(1, 601))
    async with rig:
        await asyncio.sleep(100)
        assert rig.cluster.calls == []
        assert not rig.reconciling.done()
        assert 5 < rig.cycles < 20
        labels = {"action": "create", "reason": "not_running", "outcome": "refused"}
        assert rig.value("dory_actions_total", **labels) == 500 * rig.store.calls["grant"]
        # Nothing but that it is refused, and of each once.
        assert rig.told() == [("held", "grant_refused")] * 500


# When the cluster fails


async def test_without_a_picture_nothing_is_decided():
    rig = Rig()
    rig.cluster.error = ClusterUnavailable("down")
    rig.desire(1)
    async with rig:
        await asyncio.sleep(60)
        assert rig.store.calls["grant"] == 0
        rig.cluster.error = None
        assert await rig.until(lambda: rig.running == 1) < 11


async def test_a_broken_stream_is_no_empty_cluster():
    async with Rig() as rig:
        rig.desire(1, 2, 3)
        await rig.until(lambda: rig.running == 3)
        rig.cluster.error = ClusterUnavailable("down")
        await asyncio.sleep(100)
        rig.cluster.error = None
        await asyncio.sleep(20)
        assert len(rig.cluster.created) == 3
        assert rig.cluster.deleted == []


@pytest.mark.parametrize("lag_seconds", [0.0, 0.3, 3.0])
async def test_a_creation_without_an_answer_is_tried_anew_and_never_twice(lag_seconds):
    """It may have been done, and its picture may be on its way."""
    rig = Rig()
    rig.cluster.silent = 5
    rig.cluster.lag_seconds = lag_seconds
    rig.desire(*range(1, 11))
    async with rig:
        await rig.until(lambda: rig.running == 10)
        await asyncio.sleep(30)
        assert rig.running == 10
        assert max(rig.cluster.most_live.values()) == 1
        assert rig.cluster.deleted == []
        assert {own.epoch for own in rig.store.owners.values()} == {1}
        owners = {own.pod_uid for own in rig.store.owners.values()}
        assert owners == rig.cluster.pods.keys()


async def test_a_pod_that_vanishes_before_any_picture_shows_it_is_replaced():
    """It is expected for a moment only, also when no other picture comes."""
    rig = Rig()
    async with rig:
        await asyncio.sleep(10)
        rig.cluster.lag_seconds = 2.0
        rig.desire(1)
        await rig.until(lambda: rig.cluster.pods)
        await asyncio.sleep(1)
        rig.cluster.remove(rig.pod_of(1))
        rig.cluster.lag_seconds = 0.0
        assert await rig.until(lambda: rig.running == 1) < 35


@pytest.mark.parametrize("lag_seconds", [0.01, 0.5, 5.0])
async def test_pictures_that_come_late_lead_to_nothing_twice(lag_seconds):
    rig = Rig()
    rig.cluster.lag_seconds = lag_seconds
    rig.desire(*range(1, 21))
    async with rig:
        await asyncio.sleep(30)
        assert rig.running == 20
        rig.undesire(7)
        rig.desire(*range(1, 7), versions=version(2))
        await asyncio.sleep(200)
        assert rig.running == 19
        assert max(rig.cluster.most_live.values()) == 1
        assert len(rig.cluster.created) == 26
        assert len(rig.cluster.moments("delete")) == 7


async def test_a_cluster_that_takes_nothing_is_not_stormed():
    rig = Rig()

    def refuse(_spec: object) -> None:
        raise ClusterUnavailable("no route")

    rig.cluster.on_create = refuse
    rig.desire(1)
    async with rig:
        await asyncio.sleep(300)
        assert 5 < len(rig.cluster.calls) < 80
        assert rig.cycles < 200
        assert len(rig.store.told) < 60
        assert rig.value("dory_reconciliation_errors_total", error_type="pod_creation") > 5
        rig.cluster.on_create = None
        await rig.until(lambda: rig.running == 1)


@pytest.mark.parametrize(
    "error", [ClusterUnavailable("no route"), ClusterRefused(Refusal.FORBIDDEN, "no")]
)
async def test_a_deletion_that_fails_is_tried_anew_without_a_storm(error):
    async with Rig() as rig:
        rig.desire(1, 2)
        await rig.until(lambda: rig.running == 2)
        rig.cluster.refused = error
        rig.undesire(1)
        await asyncio.sleep(300)
        assert 3 < len(rig.cluster.moments("delete")) < 20
        assert rig.cycles < 100
        assert len(rig.told("delete_refused")) < 20
        rig.cluster.refused = None
        await rig.until(lambda: not rig.pods_of(1))


async def test_a_refused_creation_is_told_and_tried_with_back_off():
    rig = Rig()

    def refuse(_spec: object) -> None:
        raise ClusterRefused(Refusal.QUOTA, "exceeded quota")

    rig.cluster.on_create = refuse
    rig.desire(1)
    async with rig:
        await asyncio.sleep(1500)
        moments = rig.cluster.moments("create")
        waits = [round(b - a) for a, b in pairwise(moments)]
        assert waits[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
        assert set(waits[10:]) == {300}
        assert rig.value("dory_pod_creation_errors_total", reason="quota") == len(moments)
        assert len(rig.told("create_refused")) == len(moments)
        assert rig.told("create_refused")[0] == ("create_refused", "quota")
        refused = [e for e in rig.store.events if e.kind == "create_refused"]
        assert refused[0].detail == "exceeded quota"
        assert refused[0].processor_id == UUID(int=1)
        assert rig.reason_of(1) == "back_off"
        rig.cluster.on_create = None
        await rig.until(lambda: rig.running == 1, 301)


async def test_a_hung_creation_holds_up_no_other():
    rig = Rig()
    rig.cluster.hung = {UUID(int=n) for n in range(1, 4)}
    rig.desire(*range(1, 41))
    async with rig:
        await rig.until(lambda: rig.running == 37, 1)
        rig.undesire(30)
        await rig.until(lambda: not rig.pods_of(30), 1)
        assert rig.reason_of(1) == "acting"
        await asyncio.sleep(300)
        assert len([name for _, what, name in rig.cluster.calls if what == "create"]) < 110
        rig.cluster.hung = set()
        await rig.until(lambda: rig.running == 39, 90)
        assert max(rig.cluster.most_live.values()) == 1


async def test_calls_at_once_are_bounded():
    rig = Rig()
    rig.cluster.slow_seconds = 0.5
    rig.desire(*range(1, 101))
    async with rig:
        took = await rig.until(lambda: rig.running == 100)
        assert rig.cluster.most_at_once == 16
        assert took < 5
        assert rig.value("dory_reconciliation_queue_depth") == 0


# Leading


async def test_who_does_not_lead_only_reads():
    store, cluster = MemoryStore(clock=now), TrickyCluster()
    store.desire(config(1))
    async with Rig(store, cluster, holder="a") as one, Rig(store, cluster, holder="b") as other:
        await asyncio.sleep(100)
        assert len(cluster.created) == 1
        assert one.value("dory_leader") + other.value("dory_leader") == 1
        assert other.watcher.health().status == "healthy"


async def test_the_next_leader_takes_over_and_restarts_nothing():
    store, cluster = MemoryStore(clock=now), TrickyCluster()
    for number in range(1, 21):
        store.desire(config(number))
    async with Rig(store, cluster, holder="a") as one, Rig(store, cluster, holder="b") as other:
        await one.until(lambda: one.running == 20)
        await asyncio.sleep(2)
        pods, told = set(cluster.pods), len(store.told)
        await one.stop()
        one.tasks.clear()
        store.desire(config(21))
        assert await other.until(lambda: other.running == 21) < 12
        assert pods < cluster.pods.keys()
        assert cluster.deleted == []
        await asyncio.sleep(5)
        assert [told.term for told in store.told[told:]] == [2] * 2
        assert other.told()[told:] == [("create", "not_running"), ("ready", "running")]


async def test_after_the_loss_of_the_lease_nothing_is_called():
    """Between the grant and the call."""

    class LosingStore(MemoryStore):
        async def grant(self, lease, actions, trace_ids=NO_TRACES):
            granted = await super().grant(lease, actions, trace_ids)
            self.leader.holder, self.leader.term = "other", lease.term + 1
            self.leader.expires_at = now() + 1e6
            return granted

    rig = Rig(LosingStore(clock=now))
    rig.desire(*range(1, 31))
    async with rig:
        await asyncio.sleep(60)
        assert rig.cluster.calls == []
        assert rig.leadership.lease is None
        assert not rig.reconciling.done()
        assert len(rig.store.owners) == 30


async def test_what_waits_for_its_turn_is_not_called_once_the_lease_is_lost():
    rig = Rig()
    rig.desire(*range(1, 31))
    rig.cluster.slow_seconds = 1.0
    async with rig:
        await rig.until(lambda: len(rig.cluster.calls) == 16)
        rig.store.leader.holder, rig.store.leader.term = "other", 9
        rig.store.leader.expires_at = now() + 1e6
        rig.leadership.lost()
        await asyncio.sleep(60)
        assert len(rig.cluster.calls) == 16
        assert not rig.reconciling.done()


async def test_who_was_frozen_between_grant_and_call_calls_nothing():
    rig = Rig()
    rig.desire(*range(1, 11))

    class FreezingStore(MemoryStore):
        async def grant(self, lease, actions, trace_ids=NO_TRACES):
            granted = await super().grant(lease, actions, trace_ids)
            rig.clock_jump = 60.0
            return granted

    rig.store.__class__ = FreezingStore
    async with rig:
        await asyncio.sleep(0.5)
        assert rig.cluster.calls == []
        rig.store.__class__ = MemoryStore
        await rig.until(lambda: rig.running == 10)
        assert {own.epoch for own in rig.store.owners.values()} == {2}


async def test_a_lease_that_the_store_calls_lost_is_given_up():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        rig.store.leader.holder, rig.store.leader.term = "other", 9
        rig.store.leader.expires_at = now() + 20
        rig.desire(2)
        await asyncio.sleep(1)
        assert rig.leadership.lease is None
        assert rig.running == 1
        assert not rig.reconciling.done()
        await rig.until(lambda: rig.running == 2)


async def test_an_unexpected_error_ends_the_loop_with_it():
    async with Rig() as rig:

        def fail(_spec: object) -> None:
            raise ZeroDivisionError("a bug")

        rig.cluster.on_create = fail
        rig.desire(1)
        await asyncio.sleep(1)
        assert rig.reconciling.done()
        with pytest.RaisesGroup(ZeroDivisionError):
            rig.reconciling.result()
        rig.tasks.pop()


async def test_an_unexpected_error_of_the_store_ends_the_loop_with_it():
    class BrokenStore(MemoryStore):
        async def read_desired(self):
            raise ZeroDivisionError("a bug")

    async with Rig(BrokenStore(clock=now)) as rig:
        await asyncio.sleep(1)
        with pytest.RaisesGroup(ZeroDivisionError):
            rig.reconciling.result()
        rig.tasks.pop()


# Crash loops, changes, the guard


async def test_a_crash_looping_pod_comes_back_later_and_later():
    async with Rig(cluster=TrickyCluster(ready_at_once=False)) as rig:
        rig.desire(1)

        async def crash() -> None:
            while True:
                await asyncio.sleep(0.4)
                for pod in rig.pods_of(1):
                    if pod.waiting_reason is None and not pod.terminating:
                        rig.cluster.crash(pod, 3, crash_loop=True)

        crashing = asyncio.create_task(crash())
        await asyncio.sleep(1500)
        moments = rig.cluster.moments("create")
        waits = [b - a for a, b in pairwise(moments)]
        for wait, expected in zip(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256], strict=False):
            assert expected <= wait <= expected + 1
        assert len(waits) > 11
        assert all(300 <= wait <= 301 for wait in waits[9:])
        assert rig.cluster.most_live[UUID(int=1)] == 1
        spec = rig.cluster.created[-1]
        assert spec.environment["PREVIOUS_EXIT_CODE"] == "3"
        assert rig.store.owners[UUID(int=1)].failures == len(waits) + 1
        crashing.cancel()


async def test_a_change_is_rolled_out_in_steps():
    rig = Rig(cluster=TrickyCluster(ready_at_once=False))
    rig.desire(*range(1, 21))
    async with rig:
        await rig.until(lambda: len(rig.cluster.pods) == 20)
        for pod in list(rig.cluster.pods.values()):
            rig.cluster.set_ready(pod)
        await asyncio.sleep(1)
        rig.desire(*range(1, 21), versions=version(2))
        fewest = 20
        for _ in range(200):
            await asyncio.sleep(0.5)
            fewest = min(fewest, rig.running)
            for pod in [p for p in rig.cluster.pods.values() if not p.ready]:
                if now() - pod.created_at > 2 and not pod.terminating:
                    rig.cluster.set_ready(pod)
        assert rig.running == 20
        assert fewest == 18
        assert {spec.image for spec in rig.cluster.specs.values()} == {"image:2"}
        assert len(rig.cluster.created) == 40


async def test_what_shrinks_suddenly_is_held_until_it_is_confirmed():
    rig = Rig(limits=Limits(removals_min=100))
    rig.desire(*range(1, 21))
    async with rig:
        await rig.until(lambda: rig.running == 20)
        await asyncio.sleep(60)
        rig.undesire(*range(3, 21))
        await asyncio.sleep(100)
        assert rig.running == 20
        assert rig.cluster.deleted == []
        assert rig.is_guarded()
        assert rig.store.guard_counts["all"] == 2
        assert rig.value("dory_deletion_guard_held_pods") == 18
        assert rig.told("guard") == [("guard", "held")]
        assert len(rig.told("held")) == 18
        rig.store.confirm(rig.store.guard_counts)
        await rig.until(lambda: rig.running == 2, 5)
        await asyncio.sleep(2)
        assert not rig.is_guarded()
        assert rig.told("guard") == [("guard", "held"), ("guard", "released")]
        assert rig.value("dory_deletion_guard_held_pods") == 0


async def test_rows_that_come_back_release_the_guard():
    async with Rig() as rig:
        rig.desire(*range(1, 21))
        await rig.until(lambda: rig.running == 20)
        rig.undesire(*range(1, 21))
        await asyncio.sleep(5)
        assert rig.is_guarded()
        rig.desire(*range(1, 21))
        await asyncio.sleep(5)
        assert not rig.is_guarded()
        assert rig.cluster.deleted == []
        assert len(rig.cluster.created) == 20


async def test_the_back_off_counts_that_was_written_while_the_database_was_read():
    """A refusal is written between the reading and the deciding: the reading is older."""
    rig = Rig()

    def refuse(_spec: object) -> None:
        raise ClusterRefused(Refusal.QUOTA, "exceeded quota")

    rig.cluster.on_create = refuse
    rig.cluster.slow_seconds = 0.2
    rig.desire(1)

    rig.store.__class__ = SlowStore
    async with rig:

        async def wake() -> None:
            while True:
                await asyncio.sleep(0.05)
                rig.wake.set()

        waking = asyncio.create_task(wake())
        await asyncio.sleep(40)
        waking.cancel()
        waits = [b - a for a, b in pairwise(rig.cluster.moments("create"))]
        assert len(waits) >= 4
        for wait, least in zip(waits, (1, 2, 4, 8, 16), strict=False):
            assert wait >= least


def test_the_history_is_of_ten_minutes():
    history = History()
    history.add(0.0, {"all": 9, "a": 1})
    history.add(5.0, {"all": 5, "a": 2})
    assert history.most() == {"all": 9, "a": 2}
    history.add(599.0, {"all": 3})
    assert history.most() == {"all": 9, "a": 2}
    history.add(620.0, {"all": 1})
    assert history.most() == {"all": 3}
