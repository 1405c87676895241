"""Fire drills: what begins one, what ends it, and that its node counts as dead for moves alone."""

from dataclasses import replace

import pytest
from tests.core.world import LIMITS, START, a_node, a_pod
from tests.leader_double import ONE, small_fleet

from dory_orchestrator.core.drill import DrillFacts, DrillReason, refusal
from dory_orchestrator.core.model import Drill, DrillPhase, Move, MoveKind, Pause
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.reconcile import compute

READY = DrillFacts(
    status="online",
    failover_enabled=True,
    cordoned=False,
    ready=True,
    health="online",
    other_drill=None,
    brake_engaged=False,
    paused=False,
    guard_held=False,
    moves_open=0,
    others_in_trouble=0,
    processors=2,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"other_drill": "edge-9"}, "one node at a time"),
        ({"paused": True}, "paused"),
        ({"brake_engaged": True}, "brake holds"),
        ({"guard_held": True}, "deletion guard"),
        ({"others_in_trouble": 1}, "suspect or dead"),
        ({"moves_open": 3}, "3 moves"),
        ({"status": "offline"}, "offline"),
        ({"cordoned": True}, "cordoned"),
        ({"failover_enabled": False}, "failover is disabled"),
        ({"ready": False}, "not well"),
        ({"health": "recovering"}, "not well (recovering)"),
        ({"health": None}, "not judged"),
        ({"processors": 0}, "no processor"),
    ],
)
def test_which_may_begin(changes, said):
    refused = refusal(replace(READY, **changes))
    assert (refused is None) if said is None else said in (refused or "")


def drilled(phase=DrillPhase.RUNNING, *, until=START + 60, **changes):
    fleet = small_fleet()
    row = next(row for row in fleet.desired.edge_nodes.values() if row.name == "edge-1")
    drill = Drill(7, row.id, "edge-1", phase, START - 10, until, "eva")
    return replace(fleet, desired=replace(fleet.desired, drill=drill, **changes))


def step(snapshot, limits=LIMITS):
    found = compute(snapshot, limits).drill
    return None if found is None else (found.phase, found.reason)


ABORTED = (DrillPhase.RETURNING, DrillReason.ABORTED)


def test_its_processors_move_and_the_node_is_judged_as_it_is():
    snapshot = drilled()
    plan = compute(snapshot, LIMITS)
    assert {create.choice.node_name for create in plan.creates} == {"cloud-1"}
    assert len(plan.creates) == 2
    for create in plan.creates:
        assert create.move is not None
        assert (create.move.is_drill, create.move.suspect_at) == (True, START)
    assert {verdict.state for verdict in plan.nodes.values()} == {NodeState.ONLINE}
    assert plan.brake is not None
    assert not plan.brake.suspects
    assert plan.drill is None


def test_without_a_drill_nothing_moves():
    assert not compute(small_fleet(), LIMITS).actions


@pytest.mark.parametrize("phase", [DrillPhase.RETURNING])
def test_on_the_way_home_the_node_counts_as_it_is(phase):
    assert not compute(drilled(phase), LIMITS).creates


def test_when_its_time_is_over_it_ends():
    snapshot = drilled(until=START)
    assert step(snapshot) == (DrillPhase.RETURNING, DrillReason.TIME_OVER)
    assert not compute(snapshot, LIMITS).creates


def test_a_pause_aborts_it():
    assert step(drilled(pause=Pause(START + 60, "otto", "x"))) == ABORTED


def test_another_node_that_dies_aborts_it():
    fleet = drilled()
    row = next(row for row in fleet.desired.edge_nodes.values() if row.name == "edge-2")
    record = NodeRecord(
        NodeState.OFFLINE, NodeReason.DEAD_NOT_READY, START, START - 60, last_well_at=START - 60
    )
    lost = replace(fleet.observed.nodes["edge-2"], ready=False, ready_changed_at=START - 60)
    rows = {**fleet.desired.edge_nodes, row.id: replace(row, last_heartbeat_at=START - 90)}
    snapshot = replace(
        fleet,
        desired=replace(fleet.desired, edge_nodes=rows, node_records={f"edge {row.id}": record}),
        observed=replace(fleet.observed, nodes={**fleet.observed.nodes, "edge-2": lost}),
        answers={},
    )
    assert step(snapshot) == ABORTED


def test_trouble_of_its_own_aborts_it():
    fleet = drilled()
    lost = replace(fleet.observed.nodes["edge-1"], ready=False, ready_changed_at=START - 60)
    nodes = {**fleet.observed.nodes, "edge-1": lost}
    rows = {
        key: replace(row, last_heartbeat_at=START - 90)
        for key, row in fleet.desired.edge_nodes.items()
    }
    snapshot = replace(
        fleet,
        desired=replace(fleet.desired, edge_nodes=rows),
        observed=replace(fleet.observed, nodes=nodes),
        answers={},
    )
    assert step(snapshot) == ABORTED


def moving(seconds, **pod):
    """A processor that the drill moved so long ago, with its new pod."""
    fleet = drilled()
    assert fleet.desired.drill is not None
    move = Move(
        kind=MoveKind.FAILOVER,
        from_node="edge-1",
        old_uid="old",
        edge_node_id=fleet.desired.drill.edge_node_id,
        began_at=START - seconds,
    )
    new = a_pod(fleet.desired.configs[ONE], 2, node_name="cloud-1", ready=False, **pod)
    own = replace(fleet.desired.ownership[ONE], epoch=2, pod_uid=new.uid)
    drill = replace(fleet.desired.drill, began_at=START - 1000)
    return replace(
        fleet,
        desired=replace(
            fleet.desired,
            drill=drill,
            moves={ONE: move},
            ownership={**fleet.desired.ownership, ONE: own},
        ),
        observed=replace(fleet.observed, pods={**fleet.observed.pods, new.uid: new}),
    )


@pytest.mark.parametrize(
    ("seconds", "pod", "expected"),
    [
        (5, {}, None),
        (LIMITS.rollout_ready_seconds - 1, {}, None),
        (LIMITS.rollout_ready_seconds, {}, ABORTED),
        (5, {"waiting_reason": "CrashLoopBackOff"}, ABORTED),
    ],
)
def test_who_does_not_become_ready_aborts_it(seconds, pod, expected):
    assert step(moving(seconds, **pod)) == expected


def test_it_has_ended_once_all_are_home():
    assert step(drilled(DrillPhase.RETURNING)) == (DrillPhase.ENDED, DrillReason.ALL_HOME)
    away = drilled(DrillPhase.RETURNING)
    assert away.desired.drill is not None
    home = away.desired.drill.edge_node_id
    away = replace(away, desired=replace(away.desired, links={}, homes={ONE: home}))
    assert step(away) is None
    late = replace(away.desired.drill, until=START - 3600)
    away = replace(away, desired=replace(away.desired, drill=late))
    assert step(away) == (DrillPhase.ENDED, DrillReason.STILL_AWAY)


def test_a_full_cloud_leaves_them_waiting_and_is_noticed():
    fleet = drilled()
    nodes = {**fleet.observed.nodes, "cloud-1": a_node("cloud-1", pods_max=2)}
    plan = compute(replace(fleet, observed=replace(fleet.observed, nodes=nodes)), LIMITS)
    assert {create.choice.node_name for create in plan.creates} == {None}
