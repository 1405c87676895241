"""What if these nodes died now: the same decisions, on the same state."""

from dataclasses import replace

import pytest
from tests.core.world import LIMITS, START, a_node, an_edge_row
from tests.leader_double import ONE, small_fleet

from dory_orchestrator.core.brake import BrakeReason, BrakeRecord
from dory_orchestrator.core.model import Gap, Order, OrderKind, Pause
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.supposing import Experience, suppose, what_if


def told(*down, snapshot=None, limits=LIMITS, without_cloud=False, seconds=2.0, ages=None):
    seen = snapshot or small_fleet()
    ages = dict.fromkeys(seen.desired.configs, 3.0) if ages is None else ages
    return what_if(
        seen,
        compute(seen, limits),
        limits,
        down,
        without_cloud=without_cloud,
        experience=Experience(ages, seconds),
    )


def outcomes(found):
    return {row["name"]: (row["outcome"], row["to_node"]) for row in found["processors"]}


def with_rows(snapshot, **changes):
    rows = {key: replace(row, **changes) for key, row in snapshot.desired.edge_nodes.items()}
    return replace(snapshot, desired=replace(snapshot.desired, edge_nodes=rows))


def test_those_of_a_dead_node_move_and_no_others():
    found = told("edge-1")
    assert outcomes(found) == {"a": ("moves", "cloud-1"), "b": ("moves", "cloud-1")}
    assert (found["moves"], found["safe"], found["loss_seconds_most"]) == (2, True, 3.0)
    assert found["nodes_down"] == ["edge-1"]


def test_nothing_dies_nothing_moves():
    found = told()
    assert (found["processors"], found["safe"]) == ([], True)


def test_of_two_edge_nodes_both_may_die():
    found = told("edge-1", "edge-2")
    assert outcomes(found)["c"] == ("moves", "cloud-1")


def test_without_a_cloud_they_wait_for_one():
    found = told("edge-1", without_cloud=True)
    assert {row["outcome"] for row in found["processors"]} == {"waits"}
    assert found["nodes_down"] == ["cloud-1", "edge-1"]
    assert (found["safe"], found["waits"]) == (False, 3)


def test_without_room_they_wait():
    fleet = small_fleet()
    nodes = {**fleet.observed.nodes, "cloud-1": a_node("cloud-1", pods_max=2)}
    snapshot = replace(fleet, observed=replace(fleet.observed, nodes=nodes))
    found = told("edge-1", snapshot=snapshot)
    assert (found["moves"], found["waits"], found["safe"]) == (0, 2, False)


def test_where_failover_is_disabled_they_stay():
    found = told("edge-1", snapshot=with_rows(small_fleet(), failover_enabled=False))
    assert {row["reason"] for row in found["processors"]} == {"failover_disabled"}
    assert (found["stays"], found["safe"]) == (2, False)


def test_a_brake_that_would_hold_is_said():
    found = told("edge-1", "edge-2", limits=replace(LIMITS, brake_nodes_min=2))
    assert found["brake_engaged"]
    assert (found["moves"], found["stays"], found["safe"]) == (0, 3, False)
    assert {row["reason"] for row in found["processors"]} == {"brake_held"}


def test_an_overridden_brake_does_not_hold():
    fleet = small_fleet()
    record = BrakeRecord(START, BrakeReason.MANY_SUSPECT, override_until=START + 60)
    snapshot = replace(fleet, desired=replace(fleet.desired, brake=record))
    found = told("edge-1", "edge-2", snapshot=snapshot, limits=replace(LIMITS, brake_nodes_min=2))
    assert (found["brake_engaged"], found["moves"]) == (False, 3)


def test_loss_is_the_age_of_the_checkpoint_and_unknown_without_one():
    found = told("edge-1", ages={ONE: 7.5})
    losses = {row["name"]: row["loss_seconds"] for row in found["processors"]}
    assert losses == {"a": 7.5, "b": None}


@pytest.mark.parametrize(("moves_max", "seconds"), [(10, [92.0, 92.0]), (1, [92.0, 94.0])])
def test_time_counts_detection_and_waves(moves_max, seconds):
    found = told("edge-1", limits=replace(LIMITS, moves_max=moves_max))
    assert [row["seconds"] for row in found["processors"]] == seconds


def test_who_measured_no_failover_knows_no_time():
    found = told("edge-1", seconds=None)
    assert [row["seconds"] for row in found["processors"]] == [None, None]
    assert found["seconds_most"] is None


def test_a_pause_is_told_and_not_counted():
    fleet = small_fleet()
    paused = replace(fleet, desired=replace(fleet.desired, pause=Pause(START + 60, "eva", "x")))
    found = told("edge-1", snapshot=paused)
    assert (found["paused"], found["moves"]) == (True, 2)


@pytest.mark.parametrize("ended_at", [START - 1, START + 1])
def test_what_we_did_not_hear_says_nothing_of_then(ended_at):
    fleet = small_fleet()
    gaps = (Gap(START - 3600, ended_at),)
    found = told("edge-1", snapshot=replace(fleet, desired=replace(fleet.desired, gaps=gaps)))
    assert (found["moves"], found["safe"]) == (2, True)


def test_to_suppose_changes_nothing_of_the_snapshot():
    fleet = small_fleet()
    before = compute(fleet, LIMITS)
    suppose(fleet, {"edge-1"}, LIMITS)
    assert compute(fleet, LIMITS) == before


def test_an_application_node_dies_as_well():
    found = told("cloud-1")
    assert outcomes(found) == {"totals": ("waits", None)}


def test_the_target_of_a_node_takes_them():
    rows = (an_edge_row("edge-2"), an_edge_row("edge-1"))
    fleet = small_fleet()
    edge_nodes = dict(fleet.desired.edge_nodes)
    source, target = rows[1].id, rows[0].id
    edge_nodes[source] = replace(edge_nodes[source], failover_target_node_id=target)
    snapshot = replace(fleet, desired=replace(fleet.desired, edge_nodes=edge_nodes))
    assert outcomes(told("edge-1", snapshot=snapshot))["a"] == ("moves", "edge-2")


def test_an_order_of_an_operator_does_not_keep_it_from_moving():
    fleet = small_fleet()
    order = {ONE: Order(OrderKind.FAILOVER, "eva", "x")}
    disabled = with_rows(replace(fleet, desired=replace(fleet.desired, orders=order)))
    disabled = with_rows(disabled, failover_enabled=False)
    assert outcomes(told("edge-1", snapshot=disabled))["a"][0] == "moves"
