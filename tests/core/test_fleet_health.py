"""What is made of the facts about each node before it is judged."""

from dataclasses import replace

import pytest
from tests.core.world import (
    LIMITS,
    ORGANIZATION,
    START,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    an_edge_node,
    an_edge_row,
    an_id,
)

from dory_orchestrator.core import fleet_health
from dory_orchestrator.core.model import Gap
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState

PROCESSOR = a_processor(0, node_type="edge", organization_id=ORGANIZATION)
POD = a_pod(PROCESSOR, node_name="edge-1", started_at=START - 500, ready_changed_at=START - 490)
WELL = NodeRecord(NodeState.ONLINE, NodeReason.WELL, START - 500, None, START - 500, START - 500)


def judged(*, pods=(POD,), answers=None, node=None, gaps=(), heard_at=START - 300, beats=None):
    row = an_edge_row("edge-1", last_heartbeat_at=heard_at)
    node = node or an_edge_node("edge-1")
    snapshot = a_snapshot([PROCESSOR], pods, nodes=[node], edge_nodes=[row])
    snapshot = replace(
        snapshot,
        desired=replace(
            snapshot.desired,
            gaps=tuple(gaps),
            node_records={f"edge {row.id}": WELL},
            heartbeats=beats or {},
        ),
        answers=answers or {},
    )
    health = fleet_health.judge(snapshot, fleet_health.pods_of_node(pods), LIMITS)
    return health.edge_nodes[an_id("edge-1")]


def test_silence_needs_a_pod_that_has_beaten_since_its_start():
    assert judged(answers={POD.uid: False}).is_dead
    fresh = replace(POD, started_at=START - 200, ready_changed_at=START - 190)
    assert judged(pods=[fresh], answers={fresh.uid: False}).reason is NodeReason.WELL
    assert judged(pods=[], answers={}).reason is NodeReason.WELL
    assert judged(answers={POD.uid: False}, heard_at=None).reason is NodeReason.WELL


@pytest.mark.parametrize(
    ("heartbeat_at", "is_dead"),
    [
        pytest.param(None, False, id="mute: its neighbour beat, and is gone"),
        pytest.param(START - 501, False, id="its container of before beat"),
        pytest.param(START - 300, True, id="it beat itself"),
    ],
)
def test_a_node_is_silent_only_where_a_program_that_runs_has_beaten(heartbeat_at, is_dead):
    """Ready, and our calls do not get to it: else a rollout to a version without heartbeats, or
    the deletion of the only program that sends them, would move its neighbours."""
    found = judged(answers={POD.uid: False}, beats={PROCESSOR.processor_id: heartbeat_at})
    assert found.is_dead is is_dead


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({}, NodeReason.SILENCE_UNDECIDED),
        ({POD.uid: True}, NodeReason.SILENT_BUT_ANSWERING),
        ({POD.uid: False}, NodeReason.DEAD_SILENT),
    ],
)
def test_one_that_answers_is_enough_and_for_a_no_each_is_asked(answers, reason):
    assert judged(answers=answers).reason is reason
    other = replace(POD, uid="other", name="other")
    both = judged(pods=[POD, other], answers={POD.uid: False})
    assert both.reason is NodeReason.SILENCE_UNDECIDED
    assert judged(pods=[POD, other], answers={POD.uid: False, "other": True}).is_well


@pytest.mark.parametrize(
    ("cause", "answers", "is_ready", "is_dead"),
    [
        pytest.param("canary", {POD.uid: False}, True, False, id="silent-and-unheard"),
        pytest.param("refused", {POD.uid: False}, True, False, id="silent-and-refused"),
        pytest.param("canary", {POD.uid: False}, False, False, id="not-ready-and-unheard"),
        pytest.param("refused", {POD.uid: False}, False, True, id="not-ready-and-refused"),
        pytest.param("refused", {POD.uid: True}, False, False, id="not-ready-but-answering"),
        pytest.param("refused", {}, False, False, id="not-ready-and-nobody-asked"),
    ],
)
def test_who_sends_garbage_cannot_hide_what_the_cluster_has_lost(cause, answers, is_ready, is_dead):
    node = an_edge_node("edge-1", ready=is_ready, ready_changed_at=START - 200)
    gap = Gap(START - 299, START + 1, cause)
    assert judged(answers=answers, node=node, gaps=[gap]).is_dead is is_dead


def test_an_application_node_is_judged_by_the_cluster_alone():
    node = a_node("cloud-1", ready=False, ready_changed_at=START - 31)
    record = replace(WELL, last_well_at=START - 31)
    snapshot = a_snapshot([PROCESSOR], [], nodes=[node])
    snapshot = replace(
        snapshot, desired=replace(snapshot.desired, node_records={"node cloud-1": record})
    )
    health = fleet_health.judge(snapshot, {}, LIMITS)
    assert health.application_nodes["cloud-1"].is_dead
    assert set(health.verdicts()) == {"node cloud-1"}


def test_what_was_dead_stays_so_when_its_pods_have_been_moved_away():
    row = an_edge_row("edge-1", last_heartbeat_at=START - 94)
    node = an_edge_node("edge-1", ready=False, ready_changed_at=START - 2)
    dead = NodeRecord(
        NodeState.OFFLINE, NodeReason.DEAD_NOT_READY, START, START - 34, None, START - 34, (START,)
    )
    snapshot = a_snapshot([PROCESSOR], [], nodes=[node], edge_nodes=[row])
    snapshot = replace(
        snapshot, desired=replace(snapshot.desired, node_records={f"edge {row.id}": dead})
    )
    verdict = fleet_health.judge(snapshot, {}, LIMITS).edge_nodes[row.id]
    assert (verdict.state, verdict.is_dead) == (NodeState.OFFLINE, True)
    assert verdict.record.falls == (START,)


def test_a_clock_that_was_set_back_adds_no_falls_to_a_dead_node():
    """Its trouble began later than now: each cycle would count it as fallen once more."""
    row = an_edge_row("edge-1", last_heartbeat_at=START - 94)
    node = an_edge_node("edge-1", ready=False, ready_changed_at=START - 2)
    record = NodeRecord(
        NodeState.OFFLINE, NodeReason.DEAD_NOT_READY, START, START + 60, None, START, (START - 9,)
    )
    for _ in range(3):
        snapshot = a_snapshot([PROCESSOR], [], nodes=[node], edge_nodes=[row])
        records = {f"edge {row.id}": record}
        snapshot = replace(snapshot, desired=replace(snapshot.desired, node_records=records))
        record = fleet_health.judge(snapshot, {}, LIMITS).edge_nodes[row.id].record
    assert (record.state, record.falls) == (NodeState.OFFLINE, (START - 9,))
