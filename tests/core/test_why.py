"""A decision says which rules were asked, with which numbers, and which one decided."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.test_directive import HOME, MOVED
from tests.core.world import (
    LIMITS,
    START,
    World,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    an_edge_row,
    an_id,
    owned_by,
)
from tests.leader_double import ONE, a_leader, small_fleet

from dory_orchestrator.core import node_health
from dory_orchestrator.core.answering import (
    Question,
    QuestionKind,
    answer,
    explanation,
    json_text,
)
from dory_orchestrator.core.directive import BeatFacts, decide, explain
from dory_orchestrator.core.explaining import why
from dory_orchestrator.core.model import Node
from dory_orchestrator.core.node_health import Answering, NodeFacts, NodeReason
from dory_orchestrator.core.plan import Reason
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.supposing import Experience
from dory_orchestrator.core.why import RULES, Rule, Trail, Tried, Why


def tried_of(plan, processor_id):
    """The rules that were asked for a processor."""
    return [Tried(*answer) for answer in plan.answers.get(processor_id, ())]


def fired(tried):
    """The last rule that held."""
    return [one.rule for one in tried if one.held][-1]


def test_every_rule_has_its_question():
    assert RULES.keys() == set(Rule)
    questions = [asked.question for asked in RULES.values()]
    assert all(question.endswith("?") for question in questions)
    assert len(set(questions)) == len(questions)


def test_a_trail_keeps_the_very_answer():
    trail = Trail()
    assert trail.ask(Rule.READY, True, "pod", "node") is True
    assert trail.ask(Rule.FAILED, False, 3) is False
    told = Why(lambda: {"epoch": 2}, trail.answers).as_dict()
    assert told["facts"] == {"epoch": 2}
    assert told["rules"] == [
        {
            "rule": "ready",
            "question": "Is its pod ready?",
            "held": True,
            "numbers": {"pod": "pod", "node": "node"},
        },
        {
            "rule": "failed",
            "question": "Did its pod end, or does it crash again and again?",
            "held": False,
            "numbers": {"restarts": 3},
        },
    ]


def test_of_many_candidates_the_nearest_are_named_and_the_rest_counted():
    unfit = {f"edge-{n:04}": "selector" for n in range(500)} | {"cloud-9": "cpu"}
    told = Why(chosen="cloud-1", unfit=unfit).as_dict()
    assert told["candidates"][0] == {"node": "cloud-1", "chosen": True, "why_not": None}
    assert told["candidates"][1] == {"node": "cloud-9", "chosen": False, "why_not": "cpu"}
    assert len(told["candidates"]) == 21
    assert told["other_candidates"] == {"selector": 481}


@pytest.mark.parametrize(
    ("value", "told"), [(math.inf, None), (-math.inf, None), (math.nan, None), (1.23456, 1.235)]
)
def test_numbers_are_such_as_json_holds(value, told):
    assert Why(lambda: {"seconds": value}).as_dict()["facts"] == {"seconds": told}


def test_what_postgresql_refuses_is_replaced():
    said = explanation("x", "y", "a\0b", Why(lambda: {"pod": "p\0"}))
    assert said is not None
    assert "\\u0000" not in said
    assert json.loads(said)["detail"] == "a\N{REPLACEMENT CHARACTER}b"
    assert explanation("x", "y", "z", None) is None


# Nodes ---------------------------------------------------------------------------------------

NODE = Node("edge-1", ready=True, ready_changed_at=START - 900)
BEATS = NodeFacts(
    node=NODE,
    status="online",
    last_heartbeat_at=START - 1,
    beating_since=START - 800,
    answering=Answering.YES,
    record=None,
)


@pytest.mark.parametrize(
    ("facts", "decided", "rule"),
    [
        (BEATS, NodeReason.WELL, Rule.BEATING),
        (replace(BEATS, status="decommissioned"), NodeReason.DECOMMISSIONED, Rule.DECOMMISSIONED),
        (replace(BEATS, beating_since=None), NodeReason.WELL, Rule.NOTHING_BEATS),
        (replace(BEATS, node=None), NodeReason.NOT_IN_CLUSTER, Rule.NEVER_IN_CLUSTER),
        (
            replace(BEATS, last_heartbeat_at=START - 61),
            NodeReason.SILENT_BUT_ANSWERING,
            Rule.PODS_ANSWER,
        ),
        (
            replace(BEATS, last_heartbeat_at=START - 61, answering=Answering.UNKNOWN),
            NodeReason.SILENCE_UNDECIDED,
            Rule.PODS_NOT_ASKED,
        ),
        (
            replace(BEATS, node=replace(NODE, ready=False, ready_changed_at=START - 20)),
            NodeReason.BEATING_THOUGH_NOT_READY,
            Rule.BEATING_THOUGH_NOT_READY,
        ),
    ],
)
def test_a_node_says_which_rule_decided(facts, decided, rule):
    verdict = node_health.judge(facts, now=START, gaps=(), limits=LIMITS)
    assert verdict.reason is decided
    assert fired(verdict.why.tried) is rule
    assert verdict.why.facts["status"] == facts.status


def grace(verdict):
    (asked,) = [one for one in verdict.why.tried if one.rule is Rule.GRACE_OVER]
    return asked


def test_a_dying_node_says_how_long_it_is_in_trouble_and_how_long_it_may():
    node = replace(NODE, ready=False, ready_changed_at=START)
    lost = replace(BEATS, node=node, last_heartbeat_at=START - 9, answering=Answering.NO)
    suspect = node_health.judge(lost, now=START + 1, gaps=(), limits=LIMITS)
    assert grace(suspect) == Tried(Rule.GRACE_OVER, False, (0, 30))
    lost = replace(lost, record=suspect.record)
    dead = node_health.judge(lost, now=START + 31, gaps=(), limits=LIMITS)
    assert grace(dead) == Tried(Rule.GRACE_OVER, True, (30, 30))
    assert dead.reason is NodeReason.DEAD_NOT_READY


# Directives ----------------------------------------------------------------------------------

FACTS = st.builds(
    BeatFacts,
    found=st.booleans(),
    recorded=st.booleans(),
    status=st.sampled_from(["running", "terminated", "failed", ""]),
    left_node_name=st.sampled_from([None, "a", "b"]),
    owner_node_name=st.sampled_from([None, "a", "b"]),
    owner_ready=st.booleans(),
    deletion_undecided=st.booleans(),
    no_picture=st.booleans(),
    unowned_pod=st.booleans(),
)


@given(FACTS, st.sampled_from(["a", "b", ""]))
def test_a_directive_is_explained_by_the_rule_that_decided_it(facts, sender):
    _, reason = decide(facts, sender)
    tried = explain(facts, sender).tried
    held = [one.rule for one in tried if one.held]
    assert held == ([] if reason == "desired" else [Rule(str(reason))])


def test_a_shutdown_names_where_it_went():
    told = explain(MOVED, HOME).as_dict()["rules"][-1]
    assert (told["rule"], told["held"]) == ("moved_away", True)
    assert told["numbers"]["left_node"] == HOME


# Processors ----------------------------------------------------------------------------------


def test_each_action_carries_why():
    config = a_processor("a")
    plan = compute(a_snapshot([config]), LIMITS)
    (create,) = plan.creates
    assert create.why is not None
    assert fired(create.why.tried) is Rule.WITHOUT_POD
    assert create.why.chosen == "cloud-1"
    assert create.why.facts["template"] == "camera"
    json_text(create.why.as_dict())


def test_a_pod_that_runs_says_so():
    config = a_processor("a")
    snapshot = a_snapshot([config], [a_pod(config)])
    ordinary = compute(snapshot, LIMITS)
    assert config.processor_id not in ordinary.answers
    plan = compute(snapshot, LIMITS, frozenset({config.processor_id}))
    assert plan == ordinary
    told = why(snapshot, plan, config.processor_id)
    assert fired(told.tried) is Rule.READY
    assert told.facts["pod_node"] == "cloud-1"
    assert plan.findings[config.processor_id].reason is Reason.RUNNING


def test_of_one_that_has_just_become_ready_it_is_kept_why():
    config = a_processor("a")
    pod = a_pod(config)
    owned = {config.processor_id: owned_by(pod, ready=False)}
    plan = compute(a_snapshot([config], [pod], ownership=owned), LIMITS)
    assert fired(tried_of(plan, config.processor_id)) is Rule.READY


def test_without_a_place_every_node_says_why_not():
    config = a_processor("a")
    nodes = [a_node("cloud-1", ready=False), a_node("cloud-2", unschedulable=True)]
    (create,) = compute(a_snapshot([config], nodes=nodes), LIMITS).creates
    assert create.why is not None
    assert fired(create.why.tried) is Rule.NO_NODE_FITS
    assert create.why.chosen is None
    assert create.why.unfit == {"cloud-1": "not_ready", "cloud-2": "unschedulable"}


def test_what_is_held_by_the_guard_says_by_which_groups():
    gone = [a_processor(n) for n in range(12)]
    world = World(
        configs={}, nodes={"cloud-1": a_node("cloud-1")}, pods={}, most={"all": len(gone)}
    )
    for config in gone:
        pod = a_pod(config)
        world.pods[pod.uid] = pod
        world.ownership[config.processor_id] = owned_by(pod)
    _, plan = world.compute()
    tried = tried_of(plan, gone[0].processor_id)
    (asked,) = [one for one in tried if one.rule is Rule.GUARD_HELD]
    assert asked.held
    assert "all" in str(asked.values[0])


# Answers -------------------------------------------------------------------------------------


def ask(kind, **parameters):
    return a_leader()(Question(1, kind, parameters))


def test_a_processor_with_its_node():
    told = ask(QuestionKind.PROCESSOR, id=str(ONE))
    assert (told["name"], told["decision"]["outcome"]) == ("a", "running")
    assert [(one["subject"], one["name"]) for one in told["because"]] == [("node", "edge-1")]
    json_text(told)


def test_a_node_with_the_brake():
    told = ask(QuestionKind.NODE, name="edge-1")
    assert (told["decision"]["outcome"], told["because"][0]["subject"]) == ("online", "brake")


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (QuestionKind.PROCESSOR, {"id": str(an_id("unknown"))}),
        (QuestionKind.NODE, {"name": "nowhere"}),
        (QuestionKind.NODE, {"name": "edge-1", "organization": str(an_id("other"))}),
        (QuestionKind.WHAT_IF, {"down": ["edge-1", "nowhere"], "without_cloud": False}),
    ],
)
def test_what_is_not_known_is_said(kind, parameters):
    assert "unknown" in ask(kind, **parameters)


def test_a_node_of_two_organizations_must_be_named_with_one():
    row = an_edge_row("edge-1")
    rows = [row, replace(row, id=an_id("2"), organization_id=an_id("o"))]
    snapshot = a_snapshot([], edge_nodes=rows)
    plan = compute(snapshot, LIMITS)

    def told(**said):
        question = Question(1, QuestionKind.NODE, {"name": "edge-1", **said})
        return answer(question, snapshot, plan, LIMITS, Experience({}))

    assert {one["id"] for one in told()["ambiguous"]} == {str(one.id) for one in rows}
    assert told(organization=str(an_id("o")))["id"] == str(an_id("2"))


def test_the_plan_of_a_well_fleet_has_nothing_to_do():
    told = ask(QuestionKind.PLAN)
    assert (told["actions"], told["waiting"], told["nodes"]) == ([], [], [])
    assert not told["brake_engaged"]


def test_the_plan_says_what_is_done_and_what_waits():
    fleet = small_fleet()
    one = a_processor("new")
    bad = a_processor("bad", versions=())
    configs = {**fleet.desired.configs, one.processor_id: one, bad.processor_id: bad}
    snapshot = replace(fleet, desired=replace(fleet.desired, configs=configs))
    told = a_leader(snapshot)(Question(1, QuestionKind.PLAN, {}))
    (action,) = told["actions"]
    assert (action["action"], action["name"], action["node"]) == ("create", "new", "cloud-1")
    (waiting,) = told["waiting"]
    assert (waiting["name"], waiting["reason"]) == ("bad", "no_active_version")
    json_text(told)
