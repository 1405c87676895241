"""What every Store grants of moves, and what is stored of nodes and of the brake."""

import asyncio
import time
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from tests.contract.worlds import a_pod, create, delete, forget, owner_of
from tests.patience import patient

from dory_orchestrator.core.brake import BrakeReason, BrakeRecord, BrakeVerdict
from dory_orchestrator.core.grants import GrantRefusal
from dory_orchestrator.core.model import MoveKind, MoveRetry
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.plan import CancelMove, EndMove, MoveStart, Reason, Record
from dory_orchestrator.ports import Beat, EdgeNodeRegistration, LeaseLost, NodeHealth

ORGANIZATION = uuid4()
MOMENT = 1_700_000_000.25


async def a_home(world, name="edge-1"):
    given = EdgeNodeRegistration(name=name, organization_id=ORGANIZATION)
    return await world.store.register_edge_node(given)


async def at_home(world, lease):
    """An edge processor with a pod on its edge node."""
    home = await a_home(world)
    key = await world.desire()
    await world.link(key, home.id)
    assert await world.store.grant(lease, [create(key, node=home.name)]) == [True]
    pod = a_pod(key, 1, node_name=home.name, ready=True)
    await world.store.record_pods(lease, [Record(key, 1, pod)])
    return home, key, pod


async def start(world, kind, pod, home_id, **changes) -> MoveStart:
    desired = await world.store.read_desired()
    row = desired.edge_nodes.get(home_id)
    said = {
        "kind": kind,
        "from_node": pod.node_name,
        "old_uid": pod.uid,
        "edge_node_id": home_id,
        "last_alive_at": desired.now - 40,
        "suspect_at": desired.now - 30,
        "heartbeat_at": row.last_heartbeat_at if row else None,
        "decided_at": desired.now,
        "link_id": desired.links.get(pod.processor_id),
    }
    return MoveStart(**(said | changes))


async def moved(world, lease, home, key, pod, *, epoch=2, **changes):
    """A failover is granted, and its new pod owns; returns that pod."""
    begun = await start(world, MoveKind.FAILOVER, pod, home.id, **changes)
    action = replace(create(key, epoch, node="cloud-1"), move=begun)
    assert await world.store.grant(lease, [action]) == [True]
    new = a_pod(key, epoch, uid=f"new-{epoch}", name=f"new-{epoch}", node_name="cloud-1")
    await world.store.record_pods(lease, [Record(key, epoch, new)])
    return new


async def ready(world, lease, key, pod, epoch) -> None:
    await world.store.record_pods(lease, [Record(key, epoch, replace(pod, ready=True))])


def an_end(key: UUID, pod, epoch: int) -> EndMove:
    return EndMove(key, epoch, pod, Reason.MOVED, "done", 12.5, 3.25)


async def test_a_failover_leaves_the_link_for_the_way_home(world, lease):
    home, key, pod = await at_home(world, lease)
    await moved(world, lease, home, key, pod)
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes) == ({}, {key: home.id})
    move = desired.moves[key]
    assert (move.kind, move.from_node, move.old_uid) == (MoveKind.FAILOVER, "edge-1", pod.uid)
    assert move.edge_node_id == home.id
    assert move.last_alive_at == pytest.approx(desired.now - 40, abs=5)
    assert move.suspect_at == pytest.approx(desired.now - 30, abs=5)
    assert desired.ownership[key].epoch == move.epoch == 2
    kinds = [event.kind for event, _ in await world.events()]
    assert kinds == ["create", "failover"]


async def test_a_heartbeat_in_between_refuses_it(world, lease):
    home, key, pod = await at_home(world, lease)
    begun = await start(world, MoveKind.FAILOVER, pod, home.id)
    await world.store.record_heartbeats(
        [Beat(key, home.name, True)], canary=False, timeout_seconds=patient(5)
    )
    action = replace(create(key, 2, node="cloud-1"), move=begun)
    assert await world.store.grant(lease, [action]) == [False]
    desired = await world.store.read_desired()
    assert (desired.links, desired.moves) == ({key: home.id}, {})
    assert desired.ownership[key].epoch == 1


async def test_a_decision_that_is_old_is_refused(world, lease):
    home, key, pod = await at_home(world, lease)
    begun = await start(world, MoveKind.FAILOVER, pod, home.id)
    late = replace(begun, decided_at=begun.decided_at - 6)
    assert await world.store.grant(lease, [replace(create(key, 2), move=late)]) == [False]
    assert await world.store.grant(lease, [replace(create(key, 2), move=begun)]) == [True]


async def test_the_brake_refuses_it_unless_it_is_overridden(world, lease):
    home, key, pod = await at_home(world, lease)
    engaged = BrakeRecord(engaged_at=time.time() - 1, reason=BrakeReason.MANY_SUSPECT)
    verdict = BrakeVerdict(True, engaged, BrakeReason.MANY_SUSPECT, "6 of 9", frozenset(), 9)
    await world.store.record_health(lease, [], [], verdict)
    begun = await start(world, MoveKind.FAILOVER, pod, home.id)
    action = replace(create(key, 2), move=begun)
    assert await world.store.grant(lease, [action]) == [False]
    released = replace(verdict, record=BrakeRecord())
    await world.store.record_health(lease, [], [], released)
    assert await world.store.grant(lease, [action]) == [True]


async def test_the_instance_that_was_left_is_told_to_end_once_the_owner_is_ready(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    beat = [Beat(key, home.name, True)]
    (facts,) = await world.store.record_heartbeats(beat, canary=False, timeout_seconds=patient(5))
    assert (facts.left_node_name, facts.owner_ready) == (home.name, False)
    await ready(world, lease, key, new, 2)
    (facts,) = await world.store.record_heartbeats(beat, canary=False, timeout_seconds=patient(5))
    assert (facts.owner_node_name, facts.owner_ready) == ("cloud-1", True)
    # It is a sign of life of the node that was left.
    assert (await world.store.read_desired()).edge_nodes[home.id].last_heartbeat_at is not None


async def test_without_fencing_it_is_not(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod, fencing=False)
    await ready(world, lease, key, new, 2)
    beat = [Beat(key, home.name, True)]
    (facts,) = await world.store.record_heartbeats(beat, canary=False, timeout_seconds=patient(5))
    assert not facts.owner_ready


async def test_a_move_ends_once_and_only_with_its_owner(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    await world.store.record_move_state(lease, key, 2, MOMENT)
    assert (await world.store.read_desired()).moves[key].state_at == MOMENT
    assert await world.store.grant(lease, [an_end(key, pod, 2)]) == [False]
    assert await world.store.grant(lease, [an_end(key, new, 1)]) == [False]
    assert await world.store.grant(lease, [an_end(key, new, 2)]) == [True]
    assert await world.store.grant(lease, [an_end(key, new, 2)]) == [False]
    assert (await world.store.read_desired()).moves == {}


async def test_home_again(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    await ready(world, lease, key, new, 2)
    assert await world.store.grant(lease, [an_end(key, new, 2)]) == [True]
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    action = replace(delete(new, 2, Reason.GOES_HOME), move=begun, captures=True)
    assert await world.store.grant(lease, [action]) == [True]
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes) == ({key: home.id}, {})
    assert desired.moves[key].kind is MoveKind.FAILBACK
    assert desired.moves[key].epoch == 2
    beat = [Beat(key, home.name, True)]
    (facts,) = await world.store.record_heartbeats(beat, canary=False, timeout_seconds=patient(5))
    assert facts.left_node_name is None


async def test_a_failback_that_is_cancelled_leaves_home_once_more(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    await world.store.grant(lease, [replace(delete(new, 2, Reason.GOES_HOME), move=begun)])
    cancel = CancelMove(key, 2, 3, new, Reason.HOME_FAILED, "", MoveKind.FAILBACK, home.id)
    assert await world.store.grant(lease, [cancel]) == [True]
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes, desired.moves) == ({}, {key: home.id}, {})
    assert desired.ownership[key].pod_uid == new.uid
    await ready(world, lease, key, new, 3)
    beat = [Beat(key, home.name, True)]
    (facts,) = await world.store.record_heartbeats(beat, canary=False, timeout_seconds=patient(5))
    assert (facts.left_node_name, facts.owner_ready) == (home.name, True)


async def test_a_failover_that_is_cancelled_has_never_been(world, lease):
    home, key, pod = await at_home(world, lease)
    await moved(world, lease, home, key, pod)
    cancel = CancelMove(key, 2, 3, pod, Reason.HOME_CAME_BACK, "", MoveKind.FAILOVER, home.id)
    assert await world.store.grant(lease, [cancel]) == [True]
    assert await world.store.grant(lease, [cancel]) == [False]
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes, desired.moves) == ({key: home.id}, {}, {})
    own = await owner_of(world, key)
    assert (own.epoch, own.pod_uid, own.node_name) == (3, pod.uid, home.name)
    beat = [Beat(key, home.name, True)]
    (facts,) = await world.store.record_heartbeats(beat, canary=False, timeout_seconds=patient(5))
    assert facts.left_node_name is None


async def test_a_second_failover_goes_on_from_the_first(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    first = (await world.store.read_desired()).moves[key]
    begun = await start(world, MoveKind.FAILOVER, new, None)
    assert begun.last_alive_at != first.last_alive_at
    action = replace(create(key, 3, node="cloud-2"), move=begun)
    assert await world.store.grant(lease, [action]) == [True]
    desired = await world.store.read_desired()
    assert desired.homes == {key: home.id}
    assert desired.moves[key].from_node == "cloud-1"
    assert desired.moves[key].last_alive_at == pytest.approx(first.last_alive_at, abs=0.001)
    # Whoever was left first still is.
    await ready(world, lease, key, a_pod(key, 3, uid="n3", name="n3", node_name="cloud-2"), 3)
    beat = [Beat(key, home.name, True)]
    (facts,) = await world.store.record_heartbeats(beat, canary=False, timeout_seconds=patient(5))
    assert (facts.left_node_name, facts.owner_ready) == (home.name, True)


async def test_of_many_at_once_one_moves(world, lease):
    home, key, pod = await at_home(world, lease)
    begun = await start(world, MoveKind.FAILOVER, pod, home.id)
    action = replace(create(key, 2, node="cloud-1"), move=begun)
    granted = await asyncio.gather(*(world.store.grant(lease, [action]) for _ in range(8)))
    assert sorted(granted) == [[False]] * 7 + [[True]]


async def test_what_is_not_desired_any_more_does_not_move(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    await world.end(key, "terminated")
    assert await world.store.grant(lease, [forget(key, 2)]) == [True]
    assert (await world.store.read_desired()).moves == {}
    assert await world.store.grant(lease, [an_end(key, new, 2)]) == [False]


async def test_how_nodes_are_comes_back_as_it_was(world, lease):
    home = await a_home(world)
    record = NodeRecord(
        NodeState.OFFLINE,
        NodeReason.DEAD_SILENT,
        MOMENT,
        MOMENT - 30.5,
        None,
        MOMENT - 31.125,
        (MOMENT - 100, MOMENT),
    )
    rows = [
        NodeHealth(f"edge {home.id}", home.name, home.id, "silent", True, record),
        NodeHealth("node cloud-1", "cloud-1", None, "", False, replace(record, falls=())),
    ]
    await world.store.record_health(lease, rows, [], None)
    desired = await world.store.read_desired()
    assert desired.node_records == {row.key: row.record for row in rows}
    assert desired.edge_nodes[home.id].status == "offline"
    well = replace(record, state=NodeState.RECOVERING, suspect_since=None, well_since=MOMENT)
    again = rows[0]._replace(is_dead=False, record=well)
    await world.store.record_health(lease, [again], ["node cloud-1"], None)
    desired = await world.store.read_desired()
    assert desired.node_records == {again.key: well}
    assert desired.edge_nodes[home.id].status == "online"


async def test_a_decommissioned_node_stays_so_however_it_is_judged(world, lease):
    home = await a_home(world)
    await world.store.decommission_edge_node(home.name, ORGANIZATION)
    record = NodeRecord(NodeState.ONLINE, NodeReason.WELL, MOMENT)
    row = NodeHealth(f"edge {home.id}", home.name, home.id, "", False, record)
    for is_dead in (True, False):
        await world.store.record_health(lease, [row._replace(is_dead=is_dead)], [], None)
        desired = await world.store.read_desired()
        assert desired.edge_nodes[home.id].status == "decommissioned"


async def test_the_brake_comes_back_as_it_was(world, lease):
    population = frozenset({uuid4(), uuid4()})
    record = BrakeRecord(MOMENT, BrakeReason.ALL_SILENT_BUT_READY, population)
    reason = BrakeReason.ALL_SILENT_BUT_READY
    verdict = BrakeVerdict(True, record, reason, "all", population, 2)
    await world.store.record_health(lease, [], [], verdict)
    assert (await world.store.read_desired()).brake == record


async def test_without_the_lease_nothing_of_it_is_written(world, lease):
    home, key, _ = await at_home(world, lease)
    await world.store.release_lease(lease)
    record = NodeRecord(NodeState.OFFLINE, NodeReason.DEAD_SILENT, MOMENT)
    row = NodeHealth(f"edge {home.id}", home.name, home.id, "", True, record)
    with pytest.raises(LeaseLost):
        await world.store.record_health(lease, [row], [], None)
    with pytest.raises(LeaseLost):
        await world.store.record_move_state(lease, key, 1, MOMENT)
    desired = await world.store.read_desired()
    assert (desired.node_records, desired.edge_nodes[home.id].status) == ({}, "online")


async def test_a_departure_needs_a_node_that_leaves_and_stops_no_link_twice(world, lease):
    home, key, pod = await at_home(world, lease)
    begun = await start(world, MoveKind.DEPARTURE, pod, home.id)
    action = replace(delete(pod, 1, Reason.NODE_LEAVES), move=begun)
    assert await world.store.grant(lease, [action]) == [False]
    await world.store.decommission_edge_node(home.name, ORGANIZATION)
    # That stopped its link: what was decided on before does not hold any more.
    granted = await world.store.grant(lease, [action])
    assert granted.refusals == [GrantRefusal.LINK_CHANGED]
    begun = await start(world, MoveKind.DEPARTURE, pod, home.id)
    assert await world.store.grant(lease, [replace(action, move=begun)]) == [True]
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes) == ({}, {key: home.id})
    assert desired.moves[key].kind is MoveKind.DEPARTURE
    # Should the node come back and be uncordoned, there is a way home.
    await world.store.register_edge_node(
        EdgeNodeRegistration(name=home.name, organization_id=ORGANIZATION)
    )
    back = await start(world, MoveKind.FAILBACK, pod, home.id)
    action = replace(delete(pod, 1, Reason.GOES_HOME), move=back)
    assert await world.store.grant(lease, [action]) == [False]  # still cordoned


async def test_who_does_not_arrive_at_home_has_no_link_there(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    back = replace(delete(new, 2, Reason.GOES_HOME), move=begun)
    assert await world.store.grant(lease, [back]) == [True]
    assert (await world.store.read_desired()).links == {key: home.id}
    # The node that it leaves dies before its pod has ended.
    begun = await start(world, MoveKind.FAILOVER, new, None)
    action = replace(create(key, 3, node="cloud-2"), move=begun)
    assert await world.store.grant(lease, [action]) == [True]
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes) == ({}, {key: home.id})


async def test_a_home_that_is_decommissioned_on_the_way_there_is_still_known(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    back = replace(delete(new, 2, Reason.GOES_HOME), move=begun)
    assert await world.store.grant(lease, [back]) == [True]
    await world.store.decommission_edge_node(home.name, ORGANIZATION)
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes) == ({}, {key: home.id})
    cancel = CancelMove(key, 2, 3, new, Reason.HOME_FAILED, "", MoveKind.FAILBACK, home.id)
    assert await world.store.grant(lease, [cancel]) == [True]
    desired = await world.store.read_desired()
    assert (desired.links, desired.homes, desired.moves) == ({}, {key: home.id}, {})


async def test_a_move_that_was_given_up_waits_until_one_has_ended_well(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    await world.store.grant(lease, [replace(delete(new, 2, Reason.GOES_HOME), move=begun)])
    for error in ("its state is too large", "HTTP 401"):
        await world.store.record_move_error(lease, key, error)
    move = (await world.store.read_desired()).moves[key]
    assert move.error == "HTTP 401"
    retry = MoveRetry(2, MOMENT, "HTTP 401")
    cancel = CancelMove(key, 2, 3, new, Reason.MOVE_GIVEN_UP, "", MoveKind.FAILBACK, home.id, retry)
    assert await world.store.grant(lease, [cancel]) == [True]
    desired = await world.store.read_desired()
    assert (desired.moves, desired.move_retries) == ({}, {key: retry})
    # Of a move that ended nothing is written any more.
    await world.store.record_move_error(lease, key, "late")
    again = await start(world, MoveKind.FAILBACK, new, home.id)
    await world.store.grant(lease, [replace(delete(new, 3, Reason.GOES_HOME), move=again)])
    assert (await world.store.read_desired()).moves[key].error is None
    await world.store.record_pods(lease, [Record(key, 3, new)])
    assert await world.store.grant(lease, [an_end(key, new, 3)]) == [True]
    assert (await world.store.read_desired()).move_retries == {}


async def test_a_dead_node_that_was_decommissioned_is_left_though_failover_was_disabled(
    world, lease
):
    home, key, pod = await at_home(world, lease)
    await world.store.register_edge_node(
        EdgeNodeRegistration(
            name=home.name,
            organization_id=ORGANIZATION,
            failover_enabled=False,
            given=frozenset({"failover_enabled"}),
        )
    )
    begun = await start(world, MoveKind.FAILOVER, pod, home.id)
    action = replace(create(key, 2, node="cloud-1"), move=begun)
    granted = await world.store.grant(lease, [action])
    assert granted.refusals == [GrantRefusal.FAILOVER_DISABLED]
    await world.store.decommission_edge_node(home.name, ORGANIZATION)
    begun = await start(world, MoveKind.FAILOVER, pod, home.id)
    assert await world.store.grant(lease, [replace(action, move=begun)]) == [True]
    assert (await world.store.read_desired()).homes == {key: home.id}


async def test_what_only_goes_on_is_not_told_again(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    back = delete(new, 2, Reason.GOES_HOME)
    before = len(await world.events())
    assert await world.store.grant(lease, [replace(back, move=begun)]) == [True]
    for _ in range(3):
        assert await world.store.grant(lease, [replace(back, told=False)]) == [True]
    assert [event.kind for event, _ in (await world.events())[before:]] == ["failback"]


async def test_on_the_way_home_only_what_is_said_at_home_keeps_home_fresh(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    await world.store.grant(lease, [replace(delete(new, 2, Reason.GOES_HOME), move=begun)])
    elsewhere = [Beat(key, "cloud-1", True)]
    (facts,) = await world.store.record_heartbeats(elsewhere, canary=False, timeout_seconds=5)
    assert facts.recorded
    assert (await world.store.read_desired()).edge_nodes[home.id].last_heartbeat_at is None
    there = [Beat(key, home.name, True)]
    await world.store.record_heartbeats(there, canary=False, timeout_seconds=5)
    assert (await world.store.read_desired()).edge_nodes[home.id].last_heartbeat_at is not None
