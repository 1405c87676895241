"""Who may leave a node, who may go home, and what a move has cost."""

from dataclasses import replace

import pytest
from tests.core.world import START, a_node, an_edge_node, an_edge_row, an_id

from dory_orchestrator.core.brake import BrakeReason, BrakeRecord, BrakeVerdict
from dory_orchestrator.core.model import Gap, Move, MoveKind
from dory_orchestrator.core.moving import Home, may_go_home, may_leave, measure
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState, NodeVerdict
from dory_orchestrator.core.plan import Reason
from dory_orchestrator.core.why import Trail

ROW = an_edge_row("edge-1")
OFF = BrakeVerdict(False, BrakeRecord(), BrakeReason.CLEAR, "", frozenset(), 0)
ON = replace(OFF, engaged=True, reason=BrakeReason.MANY_SUSPECT, detail="6 of 9")


def verdict(state: NodeState, *, failback_at: float | None = None) -> NodeVerdict:
    return NodeVerdict(
        state,
        NodeReason.WELL,
        "said",
        NodeRecord(state, NodeReason.WELL, START),
        is_dead=state is NodeState.OFFLINE,
        failback_at=failback_at,
    )


DEAD, SUSPECT = verdict(NodeState.OFFLINE), verdict(NodeState.SUSPECT)


@pytest.mark.parametrize(
    ("row", "found", "brake", "reason"),
    [
        (ROW, DEAD, OFF, None),
        (None, DEAD, OFF, None),
        (ROW, SUSPECT, OFF, Reason.NODE_SUSPECT),
        (ROW, SUSPECT, ON, Reason.NODE_SUSPECT),
        (ROW, DEAD, ON, Reason.BRAKE_HELD),
        (None, DEAD, ON, Reason.BRAKE_HELD),
        (replace(ROW, failover_enabled=False), DEAD, OFF, Reason.FAILOVER_DISABLED),
        (replace(ROW, failover_enabled=False), DEAD, ON, Reason.FAILOVER_DISABLED),
    ],
)
def test_who_may_leave(row, found, brake, reason):
    no = may_leave("edge-1", row, found, brake, Trail())
    assert (no.reason if no else None) is reason
    assert no is None or "edge-1" in no.detail


WELL = verdict(NodeState.ONLINE, failback_at=START)
HOME = Home(row=ROW, node=an_edge_node("edge-1"), verdict=WELL, is_taken=False)


@pytest.mark.parametrize(
    ("home", "changes", "said"),
    [
        pytest.param(HOME, {}, None, id="all-is-well"),
        pytest.param(replace(HOME, row=None), {}, "not in the database", id="no-row"),
        pytest.param(
            replace(HOME, row=replace(ROW, status="offline")), {}, "is offline", id="offline"
        ),
        pytest.param(
            replace(HOME, row=replace(ROW, status="decommissioned")),
            {},
            "is decommissioned",
            id="decommissioned",
        ),
        pytest.param(HOME, {"is_manual": True}, "no automatic failback", id="manual"),
        pytest.param(replace(HOME, row=replace(ROW, cordoned=True)), {}, "cordoned", id="cordoned"),
        pytest.param(replace(HOME, verdict=None), {}, "unknown", id="not-judged"),
        pytest.param(replace(HOME, verdict=SUSPECT), {}, "said", id="suspect"),
        pytest.param(replace(HOME, node=None), {}, "said", id="not-in-the-cluster"),
        pytest.param(replace(HOME, node=a_node("edge-1", ready=False)), {}, "said", id="not-ready"),
        pytest.param(HOME, {"now": START - 0.5}, "if it stays well", id="just-before"),
        pytest.param(HOME, {"now": START}, None, id="at"),
        pytest.param(HOME, {"brake": ON}, "while the brake holds", id="brake"),
        pytest.param(HOME, {"ready": False}, "once it is ready", id="itself-not-ready"),
        pytest.param(replace(HOME, is_taken=True), {}, "after another", id="taken"),
    ],
)
def test_who_may_go_home(home, changes, said):
    given = {"brake": OFF, "now": START + 1, "is_manual": False, "ready": True} | changes
    no = may_go_home(home, given.pop("brake"), Trail(), **given)
    if said is None:
        assert no is None
    else:
        assert no is not None
        assert (no.reason, said in no.detail) == (Reason.AWAY, True)


MOVE = Move(
    kind=MoveKind.FAILOVER,
    from_node="edge-1",
    old_uid="u",
    edge_node_id=an_id("edge-1"),
    began_at=START + 90,
    last_alive_at=START,
    suspect_at=START + 60,
    state_at=START - 4,
)


@pytest.mark.parametrize(
    ("changes", "interval", "rto", "rpo"),
    [
        pytest.param({}, 10, 100, 10, id="an-interval-at-most"),
        pytest.param({"suspect_at": START + 1}, 10, 100, 5, id="the-evidence-came-before"),
        pytest.param({}, 0, 100, 64, id="no-checkpoints-are-taken"),
        pytest.param({"state_at": START + 8}, 10, 92, 10, id="a-checkpoint-is-a-sign-of-life"),
        pytest.param({"state_at": None}, 10, 100, None, id="no-state"),
        pytest.param({"state_at": START + 61}, 10, 39, 10, id="taken-after-the-evidence"),
        pytest.param({"state_at": START + 88}, 10, 12, 2, id="taken-shortly-before-the-move"),
        pytest.param({"state_at": START - 200}, 10, 100, 260, id="overdue-while-it-lived"),
        pytest.param({"state_at": START - 11}, 10, 100, 11, id="just-in-time"),
        pytest.param(
            {"kind": MoveKind.FAILBACK, "suspect_at": START, "state_at": START + 1},
            10,
            99,
            0,
            id="planned",
        ),
        pytest.param({"last_alive_at": None, "state_at": None}, 10, 10, None, id="no-sign-at-all"),
        pytest.param({"suspect_at": None}, 200, 100, 94, id="no-evidence-is-stored"),
        pytest.param({"last_alive_at": START + 500}, 10, 0, 64, id="a-clock-that-was-set-back"),
    ],
)
def test_what_a_move_costs(changes, interval, rto, rpo):
    found = measure(replace(MOVE, **changes), now=START + 100, interval_seconds=interval)
    assert (found.rto_seconds, found.rpo_seconds) == (rto, rpo)


@pytest.mark.parametrize(
    ("began_at", "ended_at", "rpo"),
    [
        pytest.param(START - 100, START - 4, 10, id="over-before-the-checkpoint"),
        pytest.param(START - 100, START - 3, 94, id="reaches-beyond-it"),
        pytest.param(START + 59, START + 80, 94, id="begins-before-the-evidence"),
        pytest.param(START + 60, START + 80, 10, id="begins-with-it"),
    ],
)
def test_while_we_are_in_trouble_ourselves_no_interval_bounds_the_loss(began_at, ended_at, rpo):
    gaps = [Gap(began_at, ended_at)]
    assert measure(MOVE, now=START + 100, interval_seconds=10, gaps=gaps).rpo_seconds == rpo


@pytest.mark.parametrize(
    ("attended_since", "rpo"),
    [
        pytest.param(START - 5, 10, id="before-the-checkpoint"),
        pytest.param(START - 4, 10, id="with-it"),
        pytest.param(START - 3, 64, id="after-it"),
        pytest.param(None, 10, id="for-ever"),
    ],
)
def test_an_interruption_may_have_cost_a_checkpoint(attended_since, rpo):
    found = measure(MOVE, now=START + 100, interval_seconds=10, attended_since=attended_since)
    assert found.rpo_seconds == rpo


def test_who_only_ends_a_move_did_not_miss_its_checkpoints():
    found = measure(MOVE, now=START + 100, interval_seconds=10, attended_since=MOVE.began_at + 1)
    assert found.rpo_seconds == 10
