"""The fleet in plain words, moves as bars."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from dory_orchestrator.api.page.timeline import WIDTH, bars
from dory_orchestrator.api.page.words import (
    NODE_SHAPES,
    SHAPES,
    clock,
    cost,
    node_state,
    rest,
    seconds,
    sentence_of,
    without_database,
)
from dory_orchestrator.core.node_health import NodeState
from dory_orchestrator.core.plan import State
from dory_orchestrator.ports import (
    BrakeStatus,
    FleetPicture,
    FleetSummary,
    MoveView,
    NodeCounts,
    NodePicture,
    SuspectNode,
    Trouble,
)

NOW = datetime(2026, 3, 1, 14, 2, 30, tzinfo=UTC)
NO_NODES = NodeCounts(nodes=0, troubled=0, processors=0, running=0)


def summary(**values: Any) -> FleetSummary:
    blank: dict[str, Any] = {
        "fleet_id": None,
        "at": NOW,
        "current": True,
        "desired": 8,
        "ready": 8,
        "states": {"running": 8},
        "nodes": 4,
        "nodes_ready": 4,
        "leader": "a",
        "term": 1,
        "lease_seconds": 5.0,
        "guard_held": False,
        "brake_engaged": False,
        "moves_open": 0,
        "away": 0,
        "pause_until": None,
        "pause_by": None,
        "pause_reason": None,
        "drill_node": None,
        "drill_until": None,
        "drill_phase": None,
    }
    return FleetSummary(**blank | values)


def suspects(*states: str) -> dict[str, Any]:
    nodes = [
        SuspectNode(
            id=UUID(int=number), name=f"edge-{number}", state=state, reason="", detail="", since=NOW
        )
        for number, state in enumerate(states, 1)
    ]
    return {"nodes": nodes, "nodes_count": len(nodes)}


def brake(**values: Any) -> BrakeStatus:
    blank: dict[str, Any] = {
        "engaged": False,
        "engaged_at": None,
        "reason": None,
        "detail": "",
        "population_count": 0,
        "override_until": None,
        "override_by": None,
        "override_reason": None,
        "nodes_count": 0,
        "nodes": [],
    }
    return BrakeStatus(**blank | values)


def picture(**values: Any) -> FleetPicture:
    blank: dict[str, Any] = {
        "summary": summary(),
        "brake": brake(),
        "guard_held_since": None,
        "guard_detail": "",
        "frozen": 0,
        "away": 0,
        "away_since": None,
        "nodes": [],
        "total": NO_NODES,
        "behind": NO_NODES,
        "processors": [],
        "placed": {},
        "shadows": {},
        "moves": [],
        "more_moves": False,
    }
    return FleetPicture(**blank | values)


EARLIER = NOW - timedelta(minutes=28, seconds=30)


@pytest.mark.parametrize(
    ("values", "text", "tone"),
    [
        ({}, "All 8 processors run.", "well"),
        (
            {"away": 1, "away_since": EARLIER},
            "All 8 processors run. 1 lives away from home since 13:34 UTC.",
            "notice",
        ),
        (
            {"away": 1200, "away_since": EARLIER - timedelta(days=1)},
            "All 8 processors run. 1,200 live away from home since 2026-02-28 13:34 UTC.",
            "notice",
        ),
        (
            {"summary": summary(desired=1, ready=1, states={"running": 1})},
            "The only processor runs.",
            "well",
        ),
        (
            {"summary": summary(pause_until=NOW + timedelta(minutes=30), pause_by="eva", ready=7)},
            "Paused until 14:32 UTC by eva: nothing is created or moved. 7 of 8 processors run.",
            "trouble",
        ),
        (
            {"summary": summary(desired=0, ready=0, states={})},
            "No processor is desired.",
            "well",
        ),
        (
            {"summary": summary(ready=6, states={"running": 6, "moving": 1, "pending": 1})},
            "6 of 8 processors run: 1 moving, 1 pending.",
            "notice",
        ),
        (
            {"summary": summary(ready=7, states={"running": 7, "error": 1})},
            "7 of 8 processors run: 1 error.",
            "trouble",
        ),
        (
            {"brake": brake(**suspects("suspect"))},
            "All 8 processors run. 1 edge node is suspect: edge-1.",
            "notice",
        ),
        (
            {"brake": brake(**suspects(*["offline"] * 5))},
            "All 8 processors run. 5 edge nodes are dead: edge-1, edge-2, edge-3 and 2 more.",
            "notice",
        ),
        (
            {"brake": brake(engaged=True, population_count=8, **suspects(*["offline"] * 6))},
            "The brake holds: 6 of 8 edge nodes look dead; nothing is moved.",
            "trouble",
        ),
        (
            {
                "brake": brake(engaged=True, population_count=3, **suspects(*["offline"] * 3)),
                "guard_held_since": EARLIER,
            },
            "The brake holds: 3 of 3 edge nodes look dead; nothing is moved."
            " The deletion guard holds too.",
            "trouble",
        ),
        (
            {"brake": brake(override_until=NOW + timedelta(minutes=10))},
            "All 8 processors run. The brake is overridden until 14:12 UTC.",
            "notice",
        ),
        (
            {
                "guard_held_since": EARLIER,
                "summary": summary(desired=0, ready=0, states={"held": 7}),
            },
            "The deletion guard holds since 13:34 UTC: 7 pods run on, 0 desired."
            " Put the rows back, or confirm.",
            "trouble",
        ),
        (
            {"frozen": 2},
            "All 8 processors run. 2 are frozen until an operator adopts them.",
            "notice",
        ),
        (
            {"summary": summary(current=False, leader=None, lease_seconds=None)},
            "No leader looks at the fleet: nobody has led yet.",
            "trouble",
        ),
        (
            {"summary": summary(current=False, lease_seconds=-30.0), "guard_held_since": EARLIER},
            "No leader looks at the fleet since 14:02:00 UTC: what is below was so then.",
            "trouble",
        ),
        (
            {"summary": summary(current=False)},
            "A new leader has not looked at the fleet yet: what is below is older.",
            "trouble",
        ),
    ],
)
def test_the_fleet_in_a_sentence(values, text, tone):
    sentence = sentence_of(picture(**values))
    assert (sentence.text, sentence.tone) == (text, tone)


def test_without_the_database():
    assert without_database(None, NOW).text == "The database does not answer."
    text = without_database(EARLIER, NOW).text
    assert text == "The database does not answer: what is below was so at 13:34:00 UTC."


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((812, 0, 8120, 8120), "812 more nodes, all well, 8,120 processors run"),
        ((1, 0, 1, 1), "1 more node, well, 1 processor runs"),
        ((9, 2, 90, 80), "9 more nodes, 2 of them in trouble, 80 of 90 processors run"),
        ((3, 0, 0, 0), "3 more nodes, all well, 0 processors run"),
    ],
)
def test_what_is_left_out(counts, text):
    names = ("nodes", "troubled", "processors", "running")
    assert rest(NodeCounts(**dict(zip(names, counts, strict=True)))) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, "0.0 s"),
        (4.24, "4.2 s"),
        (38.4, "38 s"),
        (720, "12 min"),
        (10_800, "3 h"),
        (200_000, "2 d"),
    ],
)
def test_durations(value, text):
    assert seconds(value) == text


def test_every_state_has_a_shape_of_its_own():
    assert SHAPES.keys() == {*State}
    assert len({*SHAPES.values()}) == len(SHAPES)
    assert {*NodeState} <= NODE_SHAPES.keys()


@pytest.mark.parametrize(
    ("health", "ready", "status", "expected"),
    [
        ("online", True, "online", "online"),
        ("online", False, "online", "not ready"),
        ("suspect", True, "online", "suspect"),
        (None, True, None, "ready"),
        (None, None, "decommissioned", "decommissioned"),
        (None, None, None, "unknown"),
    ],
)
def test_how_a_node_is(health, ready, status, expected):
    node = NodePicture(
        name="n",
        kind="edge",
        ready=ready,
        cordoned=False,
        cordon_cause=None,
        edge_node_id=None,
        organization_id=None,
        status=status,
        failover_enabled=None,
        last_heartbeat_at=None,
        health=health,
        health_detail=None,
        utilisation=None,
        processors=0,
        running=0,
        away=0,
        trouble=Trouble.WELL,
    )
    assert node_state(node) == expected


MOVE = MoveView(
    id=1,
    processor_id=UUID(int=1),
    processor_name="a",
    kind="failover",
    detail="",
    from_node="edge-1",
    to_node="cloud-1",
    edge_node_id=None,
    old_uid=None,
    epoch=2,
    began_at=NOW,
    last_alive_at=NOW - timedelta(seconds=8),
    state_at=NOW - timedelta(seconds=10),
    ended_at=NOW + timedelta(seconds=2),
    outcome="done",
    rto_seconds=38.0,
    rpo_seconds=4.2,
    suspect_at=NOW - timedelta(seconds=3),
)


def test_what_a_move_cost():
    assert cost(MOVE) == "lost at most 4.2 s of state, away 38 s"
    assert cost(replace(MOVE, rpo_seconds=None)) == "no state was known, away 38 s"
    ended = replace(MOVE, rto_seconds=None, outcome="cancelled")
    assert cost(ended) == "ended: cancelled"
    assert cost(replace(ended, ended_at=None, outcome=None)) == "under way"


def test_the_steps_of_a_move_fill_its_bar():
    (bar,), scale = bars([MOVE], NOW)
    assert scale == 10
    assert [(step.name, step.seconds) for step in bar.steps] == [
        ("silent", 5),
        ("suspect", 3),
        ("moving", 2),
    ]
    assert [(step.x, step.width) for step in bar.steps] == [(0, 500), (500, 300), (800, 200)]
    assert (bar.state_x, bar.is_cut) == (0, False)
    assert bar.text == "silent 5.0 s, suspect 3.0 s, moving 2.0 s"


def test_evidence_older_than_the_last_sign_of_life_is_no_silence():
    early = replace(MOVE, suspect_at=NOW - timedelta(seconds=9))
    (bar,), _ = bars([early], NOW)
    assert [step.seconds for step in bar.steps] == [0, 8, 2]


def test_one_that_goes_on_grows_and_one_that_is_too_long_is_cut():
    other = replace(MOVE, ended_at=None, outcome=None)
    (_, _, bar), scale = bars([MOVE, MOVE, other], NOW + timedelta(hours=1))
    assert scale == 30
    assert bar.is_cut
    assert sum(step.width for step in bar.steps) == pytest.approx(WIDTH)


def test_a_planned_move_has_one_step():
    planned = replace(MOVE, kind="failback", last_alive_at=None, suspect_at=None, state_at=NOW)
    (bar,), _ = bars([planned], NOW)
    assert [step.name for step in bar.steps] == ["moving"]
    assert bar.state_x == 0


def test_the_time_of_another_day_has_its_date():
    assert clock(NOW, NOW) == "14:02 UTC"
    assert clock(NOW - timedelta(days=1), NOW, seconds=True) == "2026-02-28 14:02:30 UTC"
