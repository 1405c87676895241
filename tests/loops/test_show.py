"""What people are shown: only what changed, and nothing that was lost."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from tests.doubles import MemoryStore

from dory_orchestrator.core.model import (
    Desired,
    GuardRecord,
    Node,
    Observation,
    Pod,
    PodPhase,
    Resources,
    Snapshot,
)
from dory_orchestrator.core.plan import Finding, GuardVerdict, NodeLoad, Plan, Reason
from dory_orchestrator.core.why import Rule
from dory_orchestrator.loops.show import Display
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Event, Lease, NodeSummary, StoreUnavailable

ONE, TWO, THREE = (UUID(int=n) for n in (1, 2, 3))
WRITES = ("record_findings", "record_nodes", "record_guard", "record_events")
RUNNING = Finding(Reason.RUNNING, "")
HELD = GuardVerdict({"all": (9, 2)}, (Pod("u", "n", "p", ONE, PodPhase.RUNNING, 1.0),))


class Rig:
    def __init__(self) -> None:
        self.store = MemoryStore(clock=lambda: 100.0)
        self.store.leader.term, self.store.leader.holder = 1, "me"
        self.store.leader.expires_at = 1e9
        self.metrics = Metrics()
        self.display = Display(self.store, self.metrics)
        self.lease = Lease("me", 1)
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, Pod] = {}

    async def show(self, findings: dict[UUID, Finding] | None = None, **parts: Any) -> None:
        desired = Desired(now=100.0, fleet_id="f", configs={}, guard=self.store.guard)
        plan = Plan(findings=findings or {}, **parts)
        observed = Observation(self.nodes, self.pods)
        snapshot = Snapshot(desired=desired, observed=observed)
        await self.display.show(self.lease, plan, snapshot)

    async def show_in_vain(self, failing: str, *arguments: Any, **parts: Any) -> None:
        self.store.errors[failing] = StoreUnavailable("down")
        with pytest.raises(StoreUnavailable):
            await self.show(*arguments, **parts)
        self.store.errors.clear()

    def next_leader(self) -> None:
        """The same store, led by another process."""
        self.store.leader.term, self.store.leader.holder = 2, "other"
        self.lease = Lease("other", 2)
        self.display = Display(self.store, self.metrics)

    def writes(self) -> dict[str, int]:
        done = {name: self.store.calls.pop(name, 0) for name in WRITES}
        return {name: count for name, count in done.items() if count}

    def told(self) -> list[tuple[str, str]]:
        return [(event.kind, event.reason) for event in self.store.events]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def stranger(uid: str, fleet_id: str | None = None) -> Pod:
    return Pod(uid, "default", f"pod-{uid}", ONE, PodPhase.RUNNING, 1.0, fleet_id, node_name="n1")


def node(name: str = "n1", **fields: Any) -> Node:
    return Node(name, True, allocatable=Resources(4000, 2**30, 1), pods_max=10, **fields)


# Only what changed is written


async def test_what_did_not_change_is_not_written(rig):
    rig.nodes = {"n1": node()}
    await rig.show({ONE: RUNNING, TWO: Finding(Reason.STARTING, "not ready")})
    assert rig.writes() == dict.fromkeys(WRITES, 1)
    for _ in range(3):
        await rig.show(
            {ONE: Finding(Reason.RUNNING, ""), TWO: Finding(Reason.STARTING, "not ready")}
        )
    assert rig.writes() == {}
    await rig.show({ONE: RUNNING, TWO: Finding(Reason.STARTING, "waits")})
    assert rig.writes() == {"record_findings": 1}
    assert rig.store.states == {ONE: RUNNING, TWO: Finding(Reason.STARTING, "waits")}
    await rig.show({ONE: RUNNING})
    assert rig.writes() == {"record_findings": 1}
    assert rig.store.states == {ONE: RUNNING}


async def test_only_changed_findings_are_sent(rig):
    sent: list[tuple[set[UUID], list[UUID]]] = []
    record = rig.store.record_findings

    async def note(lease, findings, gone):
        sent.append((set(findings), list(gone)))
        await record(lease, findings, gone)

    rig.store.record_findings = note
    await rig.show({ONE: RUNNING, TWO: RUNNING})
    await rig.show({ONE: RUNNING, THREE: RUNNING})
    assert sent == [({ONE, TWO}, []), ({THREE}, [TWO])]


async def test_nodes_are_written_when_they_or_their_load_change(rig):
    rig.nodes = {"n1": node(labels={"node-type": "edge"}), "n2": node("n2", unschedulable=True)}
    loads = {"n1": NodeLoad(3, 0.5)}
    await rig.show(node_loads=loads)
    assert rig.store.node_rows == {
        "n1": NodeSummary("n1", "edge", True, None, False, 4000, 2**30, 1, 10, 3, 0.5),
        "n2": NodeSummary("n2", "other", True, None, True, 4000, 2**30, 1, 10, 0, 0.0),
    }
    rig.writes()
    await rig.show(node_loads=loads)
    assert rig.writes() == {}
    del rig.nodes["n2"]
    rig.nodes["n1"] = node(labels={"workload-type": "application"})
    await rig.show(node_loads={"n1": NodeLoad(4, 0.75)})
    assert rig.store.node_rows.keys() == {"n1"}
    assert (rig.store.node_rows["n1"].kind, rig.store.node_rows["n1"].pods) == ("application", 4)


@pytest.mark.parametrize("failing", WRITES)
async def test_what_was_lost_is_written_again_and_told_once(rig, failing):
    rig.nodes = {"n1": node()}
    findings = {ONE: RUNNING, TWO: Finding(Reason.NO_ACTIVE_VERSION, "none")}
    parts = {"strangers": (stranger("s"),), "guard": HELD}
    for _ in range(2):
        await rig.show_in_vain(failing, findings, **parts)
    await rig.show(findings, **parts)
    await rig.show(findings, **parts)
    assert rig.store.states == findings
    assert rig.store.node_rows.keys() == {"n1"}
    assert rig.store.guard.held_since == 100.0
    assert sorted(rig.told()) == [
        ("error", "no_active_version"),
        ("guard", "held"),
        ("ready", "running"),
        ("stranger", "foreign_fleet"),
    ]


async def test_what_the_leader_before_showed_is_corrected(rig):
    rig.nodes = {"n1": node(), "n2": node("n2")}
    await rig.show({ONE: RUNNING, TWO: RUNNING})
    rig.next_leader()
    rig.nodes = {"n1": node()}
    await rig.show({ONE: Finding(Reason.STARTING, "not ready")})
    assert rig.store.states.keys() == {ONE}
    assert rig.store.states[ONE].reason is Reason.STARTING
    assert rig.store.node_rows.keys() == {"n1"}


@pytest.mark.parametrize("failing", [*WRITES, "mark_shown"])
async def test_a_term_is_marked_once_all_was_written(rig, failing):
    """Until then what people see is what the leader before left."""
    rig.nodes = {"n1": node()}
    parts = {"strangers": (stranger("s"),), "guard": HELD}
    await rig.show_in_vain(failing, {ONE: RUNNING}, **parts)
    assert rig.store.shown_term == 0
    await rig.show({ONE: RUNNING}, **parts)
    assert rig.store.shown_term == 1
    marks = rig.store.calls["mark_shown"]
    await rig.show({ONE: Finding(Reason.STARTING, "")}, **parts)
    assert rig.store.calls["mark_shown"] == marks
    rig.next_leader()
    await rig.show({ONE: RUNNING}, **parts)
    assert rig.store.shown_term == 2


async def test_a_term_that_cannot_begin_begins_later(rig):
    await rig.show({ONE: RUNNING, TWO: RUNNING})
    rig.next_leader()
    await rig.show_in_vain("shown", {ONE: RUNNING})
    await rig.show({ONE: RUNNING})
    assert rig.store.states.keys() == {ONE}


# Events


async def test_each_change_is_told_once(rig):
    order = [
        (Reason.STARTING, []),
        (Reason.RUNNING, [("ready", "running")]),
        (Reason.RUNNING, []),
        (Reason.NO_ACTIVE_VERSION, [("error", "no_active_version")]),
        (Reason.SEVERAL_ACTIVE_VERSIONS, [("error", "several_active_versions")]),
        (Reason.SEVERAL_ACTIVE_VERSIONS, []),
        (Reason.GUARD_HELD, [("held", "guard_held")]),
        (Reason.BACK_OFF, []),
        (Reason.RUNNING, [("ready", "running")]),
    ]
    for number, (reason, expected) in enumerate(order):
        before = len(rig.told())
        await rig.show({ONE: Finding(reason, f"detail {number}")})
        assert rig.told()[before:] == expected, number


async def test_an_event_names_the_pod(rig):
    pod = stranger("u", "f")
    await rig.show({ONE: Finding(Reason.RUNNING, "", replace(pod, epoch=4)), TWO: RUNNING})
    one, two = rig.store.events
    assert None not in (one.explanation, two.explanation)
    wanted = Event("ready", "running", "", ONE, "n1", "pod-u", "u", 4)
    assert one._replace(explanation=None) == wanted
    assert two._replace(explanation=None) == Event("ready", "running", "", TWO)


async def test_an_event_carries_the_rules_that_were_asked(rig):
    asked = {ONE: [(Rule.ACTING, False, ()), (Rule.READY, True, ("pod-u", "n1"))]}
    await rig.show({ONE: RUNNING}, answers=asked)
    told = json.loads(rig.store.events[0].explanation)
    assert (told["outcome"], told["reason"]) == ("ready", "running")
    assert [(rule["rule"], rule["held"]) for rule in told["rules"]] == [
        ("acting", False),
        ("ready", True),
    ]
    assert told["rules"][1]["numbers"] == {"pod": "pod-u", "node": "n1"}


async def test_another_leader_tells_nothing_that_was_told_before(rig):
    findings = {
        ONE: RUNNING,
        TWO: Finding(Reason.NO_ACTIVE_VERSION, "none"),
        THREE: Finding(Reason.EPOCH_AHEAD, "x"),
    }
    await rig.show(findings, guard=HELD)
    before = rig.told()
    rig.next_leader()
    await rig.show(findings, guard=HELD)
    assert rig.told() == before
    await rig.show({**findings, TWO: RUNNING}, guard=HELD)
    assert rig.told() == [*before, ("ready", "running")]


async def test_another_leader_tells_what_changed_in_between(rig):
    await rig.show({ONE: Finding(Reason.STARTING, "")})
    rig.next_leader()
    await rig.show({ONE: RUNNING})
    assert rig.told() == [("ready", "running")]


async def test_strangers_are_told_when_they_appear(rig):
    await rig.show(strangers=(stranger("a"), stranger("b", "f2")))
    await rig.show(strangers=(stranger("b", "f2"), stranger("c")))
    await rig.show(strangers=(stranger("a"),))
    assert [event.pod_uid for event in rig.store.events] == ["a", "b", "c", "a"]
    assert "no fleet" in rig.store.events[0].detail
    assert "fleet f2" in rig.store.events[1].detail
    assert rig.value("dory_foreign_pods") == 1


# The guard


async def test_the_guard_is_told_when_it_begins_to_hold_and_when_it_ends(rig):
    await rig.show()
    with capture_logs() as logs:
        await rig.show(guard=HELD)
    assert [log["log_level"] for log in logs] == ["error"]
    assert rig.value("dory_deletion_guard_held_pods") == 1
    await rig.show(guard=HELD)
    assert rig.told() == [("guard", "held")]
    more = GuardVerdict({"all": (9, 1)}, HELD.held)
    await rig.show(guard=more)
    assert rig.store.guard_counts == {"all": 1}
    await rig.show()
    await rig.show()
    assert rig.told() == [("guard", "held"), ("guard", "held"), ("guard", "released")]
    assert rig.store.guard.held_since is None
    assert rig.value("dory_deletion_guard_held_pods") == 0


async def test_the_number_of_kept_pods_is_kept_right_without_another_event(rig):
    await rig.show(guard=HELD)
    two = GuardVerdict(HELD.tripped, (*HELD.held, *HELD.held))
    await rig.show(guard=two)
    assert rig.store.guard_detail == two.detail
    assert rig.told() == [("guard", "held")]


async def test_a_guard_that_another_leader_held_is_released(rig):
    rig.store.guard = GuardRecord(held_since=1.0)
    await rig.show()
    assert rig.store.guard.held_since is None
    assert rig.told() == [("guard", "released")]


async def test_a_guard_that_never_held_is_not_told_of(rig):
    await rig.show()
    assert rig.told() == []


# Rollouts


async def test_a_rollout_that_stops_is_told_once_for_its_template(rig):
    waits = Finding(Reason.ROLLOUT_STOPPED, "camera: stopped")
    stopped = {"stopped_rollouts": {"camera": "stopped: the last 2 did not become ready"}}
    with capture_logs() as logs:
        for _ in range(3):
            await rig.show({ONE: waits, TWO: waits}, **stopped)
    assert rig.told() == [("rollout", "rollout_stopped")]
    assert rig.store.events[0].detail.startswith("camera: stopped")
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "a rollout has stopped: activate a version that becomes ready"
    ]
    assert rig.value("dory_stopped_rollouts") == 1
    await rig.show({ONE: RUNNING, TWO: RUNNING})
    assert rig.value("dory_stopped_rollouts") == 0
    await rig.show({ONE: waits, TWO: waits}, **stopped)
    assert rig.told().count(("rollout", "rollout_stopped")) == 2


# Metrics


async def test_metrics_are_those_of_the_moment(rig):
    rig.nodes = {"n1": node(), "n2": node("n2")}
    pod = Pod("a", "d", "a", ONE, PodPhase.RUNNING, 1.0)
    rig.pods = {
        "a": pod,
        "b": replace(pod, uid="b", phase=PodPhase.PENDING),
        "c": replace(pod, uid="c", terminating=True),
        "d": replace(pod, uid="d"),
    }
    findings = {ONE: RUNNING, TWO: Finding(Reason.BACK_OFF, "")}
    await rig.show(findings, node_loads={"n1": NodeLoad(3, 0.9)})
    assert [
        rig.value("dory_pods_total", status=s) for s in ("running", "pending", "terminating")
    ] == [
        2,
        1,
        1,
    ]
    assert rig.value("dory_nodes_total") == 2
    assert rig.value("dory_node_utilization_ratio", node="n1") == 0.3
    assert rig.value("dory_node_utilization_ratio", node="n2") == 0
    assert rig.value("dory_processors", state="running") == 1
    assert rig.value("dory_processors", state="waiting") == 1
    assert rig.value("dory_processors", state="held") == 0
    del rig.nodes["n2"]
    await rig.show({})
    assert rig.value("dory_node_utilization_ratio", node="n2") is None
    assert rig.value("dory_processors", state="running") == 0


async def test_the_guard_says_which_groups_shrank(rig):
    await rig.show({}, guard=HELD)
    told = json.loads(rig.store.events[-1].explanation)
    assert told["outcome"] == "guard"
    assert told["facts"] == {"held_pods": 1, "all: most": 9, "all: left": 2}
    assert told["rules"][0]["numbers"] == {"groups": "all"}
