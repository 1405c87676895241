"""What is decided for one processor, and when to look again."""

from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest
from tests.core.world import (
    LIMITS,
    START,
    V1,
    V2,
    World,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    a_version,
    an_edge_node,
    an_edge_row,
    an_id,
    owned_by,
    processors,
)

from dory_orchestrator.core.model import (
    Limits,
    Move,
    MoveKind,
    Ownership,
    PodPhase,
    Resources,
)
from dory_orchestrator.core.namespaces import namespaces
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.plan import (
    STATES,
    Adopt,
    Create,
    Delete,
    Failure,
    Forget,
    Reason,
    Record,
    State,
    Unfit,
)
from dory_orchestrator.core.reconcile import compute, refused
from dory_orchestrator.core.why import Rule

ONE = a_processor(0)
KEY = ONE.processor_id
RUNS = a_pod(ONE)
OWNS = owned_by(RUNS)
CRASHED = replace(
    RUNS,
    ready=False,
    waiting_reason="CrashLoopBackOff",
    exit_code=137,
    exit_reason="OOMKilled",
    created_at=START - 5,
)
FAILED_ONCE = Ownership(1, failures=1, retry_at=START + 3)


def plan(pods=(), own=None, *, config=ONE, limits=LIMITS, **said):
    ownership = {} if own is None else {KEY: own}
    return compute(a_snapshot([config], pods, ownership=ownership, **said), limits)


def found(*args, **said):
    return plan(*args, **said).findings[KEY]


def test_every_reason_has_a_state_and_every_pod_a_story():
    assert STATES.keys() == set(Reason)


# One processor -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "own", "actions", "reason"),
    [
        pytest.param([], None, [Create], Reason.NOT_RUNNING, id="never-ran"),
        pytest.param([], OWNS, [Create], Reason.NOT_RUNNING, id="pod-gone"),
        pytest.param([], Ownership(7), [Create], Reason.NOT_RUNNING, id="forgotten-once"),
        pytest.param([RUNS], OWNS, [], Reason.RUNNING, id="runs"),
        pytest.param([RUNS], Ownership(1), [], Reason.RUNNING, id="runs-not-recorded"),
        pytest.param([replace(RUNS, epoch=None)], None, [Adopt], Reason.ADOPTED, id="unowned"),
        pytest.param([replace(RUNS, epoch=0)], None, [Adopt], Reason.ADOPTED, id="unowned-zero"),
        pytest.param([replace(RUNS, epoch=None)], Ownership(4), [], Reason.RUNNING, id="no-epoch"),
        pytest.param([RUNS], None, [], Reason.EPOCH_AHEAD, id="ahead"),
        pytest.param([RUNS], Ownership(2), [Delete], Reason.TERMINATING, id="stale"),
        pytest.param(
            [replace(RUNS, terminating=True)], OWNS, [], Reason.TERMINATING, id="terminating"
        ),
        pytest.param(
            [replace(RUNS, terminating=True)], Ownership(2), [], Reason.TERMINATING, id="stale-ends"
        ),
        pytest.param(
            [RUNS, a_pod(ONE, 2)], owned_by(a_pod(ONE, 2)), [Delete], Reason.RUNNING, id="two"
        ),
        pytest.param([CRASHED], OWNS, [Failure], Reason.FAILED, id="crashed"),
        pytest.param(
            [CRASHED],
            replace(OWNS, failures=1, failed_pod_uid=RUNS.uid, retry_at=START + 1),
            [],
            Reason.BACK_OFF,
            id="crashed-and-waits",
        ),
        pytest.param(
            [CRASHED],
            replace(OWNS, failures=1, failed_pod_uid=RUNS.uid, retry_at=START),
            [Delete],
            Reason.FAILED,
            id="crashed-and-due",
        ),
        pytest.param([], FAILED_ONCE, [], Reason.BACK_OFF, id="refused-and-waits"),
        pytest.param(
            [], replace(FAILED_ONCE, retry_at=START), [Create], Reason.NOT_RUNNING, id="due"
        ),
        pytest.param(
            [replace(RUNS, ready=False)], OWNS, [], Reason.STARTING, id="not-ready"
        ),
        pytest.param(
            [replace(RUNS, ready=False, node_name=None)], OWNS, [], Reason.UNPLACED, id="unplaced"
        ),
        pytest.param([replace(RUNS, config_hash=None)], OWNS, [], Reason.RUNNING, id="no-hash"),
        pytest.param([replace(RUNS, config_hash="v9:x")], OWNS, [], Reason.RUNNING, id="new-hash"),
        pytest.param([replace(RUNS, config_hash="v1:x")], OWNS, [Delete], Reason.CHANGED, id="old"),
    ],
)  # fmt: skip
def test_what_is_done_and_why(pods, own, actions, reason):
    said = plan(pods, own)
    assert [type(action) for action in said.actions] == actions
    assert said.findings[KEY].reason is reason
    assert all(action.reason and action.detail for action in said.actions)


# Pods that are in no picture ---------------------------------------------------------------

YOUNG = replace(OWNS, changed_at=START - 0.25)
VANISHED_ONCE = replace(YOUNG, failures=1, failed_pod_uid=RUNS.uid, restart_reason="vanished")
LASTED = replace(OWNS, changed_at=START - 60)
GONE = {RUNS.uid: None}


@pytest.mark.parametrize(
    ("own", "actions", "reason"),
    [
        pytest.param(YOUNG, [Failure], Reason.VANISHED, id="vanished"),
        pytest.param(LASTED, [Create], Reason.NOT_RUNNING, id="was-well"),
        pytest.param(
            replace(LASTED, changed_at=START - 59), [Failure], Reason.VANISHED, id="not-for-long"
        ),
        pytest.param(replace(LASTED, ready=False), [Failure], Reason.VANISHED, id="never-ready"),
        pytest.param(replace(LASTED, failures=3), [Failure], Reason.VANISHED, id="starts-anew"),
        pytest.param(
            replace(YOUNG, restart_reason="changed"), [Create], Reason.NOT_RUNNING, id="ended-by-us"
        ),
        pytest.param(
            replace(YOUNG, node_name="gone"), [Create], Reason.NOT_RUNNING, id="with-its-node"
        ),
        pytest.param(
            replace(VANISHED_ONCE, retry_at=START + 1), [], Reason.BACK_OFF, id="counted-and-waits"
        ),
        pytest.param(
            replace(VANISHED_ONCE, retry_at=START), [Create], Reason.NOT_RUNNING, id="due"
        ),
    ],
)
def test_a_pod_that_nobody_ended_and_that_is_gone_has_failed(own, actions, reason):
    for looked_up in (None, GONE):
        said = plan((), own, looked_up=looked_up)
        assert [type(action) for action in said.actions] == actions
        assert said.findings[KEY].reason is reason


@pytest.mark.parametrize(
    ("own", "failures", "retry_seconds"),
    [
        (YOUNG, 1, 0.75),
        (replace(YOUNG, failures=3), 4, 7.75),
        (replace(YOUNG, changed_at=START - 1.5), 1, 0.0),
        (replace(LASTED, failures=3), 0, 0.0),
        (replace(LASTED, ready=False, failures=8), 9, 196.0),
        (replace(OWNS, ready=False, changed_at=START - 600, failures=8), 1, 0.0),
    ],
)
def test_the_wait_counts_from_when_the_pod_was_made(own, failures, retry_seconds):
    [failure] = plan((), own).failures
    assert (failure.failures, failure.retry_seconds) == (failures, retry_seconds)
    assert (failure.failed_uid, failure.cause) == (RUNS.uid, "vanished")


ALTERED = "was altered: "


@pytest.mark.parametrize(
    ("there", "reason", "said"),
    [
        (None, Reason.POD_MISSING, "is being asked"),
        (RUNS, Reason.POD_MISSING, "the picture of the cluster is late"),
        (replace(RUNS, labels={}), Reason.UNRECOGNISED, ALTERED + "label managed-by"),
        (replace(RUNS, processor_id=None), Reason.UNRECOGNISED, ALTERED + "label processor-id"),
        (
            replace(RUNS, fleet_id=None, processor_id=an_id(9)),
            Reason.UNRECOGNISED,
            ALTERED + "label processor-id, annotation dory.io/fleet",
        ),
    ],
)
def test_no_second_pod_is_made_as_long_as_the_first_may_be_there(there, reason, said):
    looked_up = {} if there is None else {RUNS.uid: there}
    for own in (OWNS, YOUNG, replace(YOUNG, restart_reason="changed")):
        found = plan((), own, looked_up=looked_up)
        assert not found.actions
        assert [one.pod_uid for one in found.missing] == [RUNS.uid]
        assert found.findings[KEY].reason is reason
        assert said in found.findings[KEY].detail
        assert (found.wake_at is None) == (there is None)


@pytest.mark.parametrize(
    "altered",
    [
        replace(RUNS, fleet_id=None),
        replace(RUNS, processor_id=None),
        replace(RUNS, processor_id=an_id(9)),
        replace(RUNS, processor_id=an_id(2)),
    ],
)
def test_an_owner_that_says_something_else_counts_for_whom_it_owns(altered):
    """Also where it says to be of a processor that has another pod: it is not ended for that."""
    other = a_processor(2)
    others = a_pod(other)
    configs = [ONE, other]
    ownership = {KEY: YOUNG, other.processor_id: owned_by(others)}
    said = compute(a_snapshot(configs, [altered, others], ownership=ownership), LIMITS)
    assert not said.actions
    assert not said.strangers
    assert said.findings[KEY].reason is Reason.UNRECOGNISED
    assert said.findings[KEY].pod == altered
    assert said.findings[other.processor_id].reason is Reason.RUNNING
    gone = compute(a_snapshot([other], [altered, others], ownership=ownership), LIMITS)
    assert not gone.forgets


def test_a_pod_that_went_with_its_edge_node_is_made_in_the_cloud_at_once():
    """Where it was, it would wait for a node that does not exist."""
    config = a_processor(0, node_type="edge")
    pod = a_pod(config, node_name="edge-1")
    row = an_edge_row("edge-1", last_heartbeat_at=START - 2)
    record = NodeRecord(NodeState.ONLINE, NodeReason.WELL, START - 500, None, START - 500, START)

    def said(pods, looked_up):
        snapshot = a_snapshot(
            *([config], pods),
            ownership={config.processor_id: owned_by(pod, changed_at=START - 1)},
            edge_nodes=[row],
            links={config.processor_id: row.id},
            looked_up=looked_up,
        )
        records = {f"edge {row.id}": record}
        return compute(
            replace(snapshot, desired=replace(snapshot.desired, node_records=records)), LIMITS
        )

    for pods, looked_up in (([pod], {}), ([], {}), ([], {pod.uid: pod})):
        plan = said(pods, looked_up)
        assert not plan.actions
        assert not plan.nodes[f"edge {row.id}"].is_dead
    moved = said([], {pod.uid: None})
    assert moved.nodes[f"edge {row.id}"].is_dead
    [create] = moved.creates
    assert create.choice.node_name == "cloud-1"
    assert create.move is not None
    assert create.move.kind is MoveKind.FAILOVER


def test_a_pod_of_another_fleet_is_foreign_whoever_owns_it():
    """The database is a copy of another fleet's, say."""
    said = plan([replace(RUNS, fleet_id="theirs")], YOUNG, looked_up={})
    assert not said.actions
    assert said.findings[KEY].reason is Reason.FOREIGN_FLEET


@pytest.mark.parametrize("pods", [[RUNS], [], [CRASHED], [replace(RUNS, config_hash="v1:x")]])
@pytest.mark.parametrize("is_desired", [True, False])
def test_a_document_that_is_ahead_freezes_its_processor(pods, is_desired):
    """What it should be is not known: its pod runs on, and none is created or ended."""
    snapshot = a_snapshot([ONE] if is_desired else [], pods, ownership={KEY: OWNS})
    said = compute(replace(snapshot, ahead={KEY: "it is newer"}), LIMITS, frozenset({KEY}))
    assert not [act for act in said.actions if not isinstance(act, Forget)]
    if pods or is_desired:
        finding = said.findings[KEY]
        assert (finding.reason, finding.detail) == (Reason.DOCUMENT_AHEAD, "it is newer")
        assert said.answers[KEY][-1][0] is Rule.DOCUMENT_AHEAD


def test_one_that_could_not_be_given_its_state_runs_and_is_shown_as_unprotected():
    snapshot = a_snapshot([ONE], [RUNS], ownership={KEY: OWNS})
    said = compute(replace(snapshot, unprotected={RUNS.uid: "it raised"}), LIMITS)
    finding = said.findings[KEY]
    assert (finding.reason, finding.state) == (Reason.UNPROTECTED, State.RUNNING)
    assert finding.detail == "it raised"
    assert said.answers[KEY][-1][0] is Rule.UNPROTECTED, "explained, also unasked"
    assert not said.actions


def test_a_placement_raises_the_epoch_by_one():
    [create] = plan(own=Ownership(7)).creates
    assert (create.before_epoch, create.epoch) == (7, 8)
    assert create.spec.annotations["dory.io/epoch"] == "8"
    assert create.choice.node_name == create.spec.preferred_node_name == "cloud-1"


def test_the_owner_is_known_by_its_uid_before_its_epoch():
    """A name may be used twice; who was recorded stays."""
    other = replace(RUNS, uid="other")
    for pods in ([RUNS, other], [other, RUNS]):
        [delete] = plan(pods, OWNS).deletes
        assert (delete.pod, delete.reason) == (other, Reason.STALE_OWNER)


def test_of_two_that_bear_the_epoch_the_living_one_owns_in_any_order():
    dying = replace(RUNS, uid="a-dying", terminating=True)
    starting = replace(RUNS, uid="b-starting", ready=False)
    for pods in ([dying, starting, RUNS], [RUNS, starting, dying]):
        said = plan(pods, Ownership(1))
        assert said.findings[KEY].pod == RUNS
        assert [delete.pod for delete in said.deletes] == [starting]


def test_of_several_strangers_the_same_is_named_in_any_order():
    strangers = [a_pod(ONE, uid=uid, name=uid, fleet_id="other") for uid in "bac"]
    details = {found(order).detail for order in (strangers, strangers[::-1])}
    assert details == {"pod a of fleet other runs it"}


def test_who_acts_already_is_left_alone():
    for pods, own in (([], None), ([CRASHED], OWNS), ([a_pod(ONE, 9)], OWNS)):
        said = plan(pods, own, acting=[KEY])
        assert not said.actions
        assert said.findings[KEY].reason is Reason.ACTING
    gone = compute(a_snapshot([], [RUNS], acting=[KEY]), LIMITS)
    assert not gone.actions
    assert gone.findings[KEY].reason is Reason.ACTING


@pytest.mark.parametrize(
    "changes",
    [
        {"pod_uid": None},
        {"pod_name": None},
        {"pod_ip": "10.9.9.9"},
        {"node_name": "other"},
        {"ready": False},
    ],
)
def test_what_differs_is_recorded_once(changes):
    said = plan([RUNS], replace(OWNS, **changes))
    assert said.records == (Record(KEY, 1, RUNS),)
    assert not said.actions
    assert not plan([RUNS], OWNS).records


def test_the_node_that_a_pod_is_meant_for_is_kept_until_it_has_one():
    waiting = replace(RUNS, node_name=None, ready=False)
    assert not plan([waiting], owned_by(waiting, node_name="cloud-1")).records


# Back-off ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "lasted", "counted", "delay"),
    [
        (0, 5.0, 1, 1.0),
        (1, 5.0, 2, 2.0),
        (7, 5.0, 8, 128.0),
        (8, 5.0, 9, 256.0),
        (9, 5.0, 10, 300.0),
        (5000, 5.0, 5001, 300.0),
        pytest.param(9, 599.9, 10, 300.0, id="just-before-it-is-forgotten"),
        pytest.param(9, 600.0, 1, 1.0, id="at-ten-minutes"),
    ],
)
def test_back_off(failures, lasted, counted, delay):
    pod = replace(CRASHED, created_at=START - lasted)
    [failure] = plan([pod], replace(OWNS, failures=failures, failed_pod_uid="before")).failures
    assert (failure.failures, failure.retry_seconds, failure.pod) == (counted, delay, pod)
    assert failure.detail == f"CrashLoopBackOff, exit code 137; next try in {delay:g} s"


@pytest.mark.parametrize("phase", [PodPhase.FAILED, PodPhase.SUCCEEDED])
def test_a_pod_that_ended_has_failed(phase):
    assert plan([replace(RUNS, phase=phase)], OWNS).failures == ()
    assert plan([replace(RUNS, phase=phase, ready=False)], OWNS).failures


def test_a_creation_that_is_refused_backs_off_too():
    [create] = plan().creates
    failure = refused(create, "quota", 3, LIMITS)
    assert (failure.pod, failure.failures, failure.retry_seconds) == (None, 4, 8.0)
    assert failure.reason is Reason.CREATION_REFUSED
    assert failure.detail == "quota; next try in 8 s"


def test_a_crash_loop_ends_in_five_minutes_between_tries_and_tells_the_cause():
    world = World(configs={KEY: ONE}, nodes={"cloud-1": a_node("cloud-1")})
    world.broken_images = {V1.image_uri}
    tries = []
    for _ in range(400):
        said = world.turn()
        tries += [(world.now, create) for create in said.creates]
        world.start()
        world.now = max(world.now + 0.25, said.wake_at or 0.0)
    between = [later - earlier for (earlier, _), (later, _) in pairwise(tries)]
    assert between[-1] == pytest.approx(300, abs=3)
    assert between[:4] == pytest.approx([1, 2, 4, 8], abs=3)
    assert [create.epoch for _, create in tries] == list(range(1, len(tries) + 1))
    told = [create.spec.environment for _, create in tries]
    assert {environment["RESTART_COUNT"] for environment in told} == {"0"}
    assert "PREVIOUS_EXIT_CODE" not in told[0]
    assert {environment["PREVIOUS_EXIT_CODE"] for environment in told[1:]} == {"1"}
    assert {environment["RESTART_REASON"] for environment in told[1:]} == {"Error"}


# What is no longer desired -----------------------------------------------------------------


def test_what_is_gone_is_forgotten_once_and_its_epoch_kept():
    world = World(configs=processors(3), nodes={"cloud-1": a_node("cloud-1")})
    world.settle()
    name = world.ownership[KEY].pod_name
    del world.configs[KEY]
    world.settle()
    # What that pod saved at its end is what it goes on from, should it come back.
    assert world.ownership[KEY] == Ownership(1, last_pod_name=name)
    assert not world.compute()[1].actions

    world.configs[KEY] = ONE
    world.settle()
    assert world.ownership[KEY].epoch == 2


@pytest.mark.parametrize(
    ("own", "forgets"),
    [
        pytest.param(Ownership(3), False, id="nothing-left"),
        pytest.param(OWNS, True, id="pod"),
        pytest.param(Ownership(3, node_name="cloud-1"), True, id="place"),
        pytest.param(Ownership(3, failures=2, retry_at=START), True, id="failures"),
    ],
)
def test_what_there_is_to_forget(own, forgets):
    said = compute(a_snapshot([], ownership={KEY: own}), LIMITS)
    expected = (Forget(KEY, own.epoch, Reason.NOT_DESIRED, "not desired, and its pod is gone"),)
    assert said.forgets == (expected if forgets else ())
    assert said.actions == said.forgets
    acts = compute(a_snapshot([], ownership={KEY: own}, acting=[KEY]), LIMITS)
    assert not acts.actions


# Where to ----------------------------------------------------------------------------------

EDGE = a_processor(0, node_type="edge")


def edge_plan(*, rows=("edge-1", "edge-2"), nodes=("edge-1", "edge-2"), **said):
    rows = [row if not isinstance(row, str) else an_edge_row(row) for row in rows]
    nodes = [node if not isinstance(node, str) else an_edge_node(node) for node in nodes]
    return plan(config=EDGE, edge_nodes=rows, nodes=[*nodes, a_node("cloud-1")], **said)


def test_an_edge_processor_is_bound_to_the_node_of_its_link():
    [create] = edge_plan(links={KEY: an_id("edge-2")}).creates
    assert (create.spec.node_name, create.choice.node_name) == ("edge-2", "edge-2")
    assert create.edge_node_id is None


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(an_edge_node("edge-2", ready=False), id="not-ready"),
        pytest.param(an_edge_node("edge-2", pods_max=0), id="full"),
        pytest.param(an_edge_node("edge-9"), id="absent"),
    ],
)
def test_also_when_that_does_not_take_it_now(node):
    said = edge_plan(nodes=["edge-1", node], links={KEY: an_id("edge-2")})
    [create] = said.creates
    assert (create.spec.node_name, create.choice.node_name) == ("edge-2", None)
    assert not edge_plan(rows=[], links={KEY: an_id("edge-2")}).creates


def test_without_a_link_the_fullest_node_of_its_organization_is_linked():
    other = a_processor(1, node_type="edge")
    pod = a_pod(other, node_name="edge-2", requests=Resources(100))
    snapshot = a_snapshot(
        [EDGE, other],
        [pod],
        nodes=[an_edge_node("edge-1"), an_edge_node("edge-2"), an_edge_node("edge-3")],
        edge_nodes=[an_edge_row("edge-1"), an_edge_row("edge-2")],
    )
    [create] = compute(snapshot, LIMITS).creates
    assert (create.spec.node_name, create.edge_node_id) == ("edge-2", an_id("edge-2"))
    assert create.choice.unfit == {"edge-1": Unfit.LESS_UTILISED}


@pytest.mark.parametrize(
    ("rows", "links", "detail"),
    [
        pytest.param([], {}, "no edge node of its organization", id="none"),
        pytest.param([an_edge_row("edge-1", organization_id=UUID(int=99))], {}, "no edge", id="others"),
        pytest.param([an_edge_row("edge-1", status="offline")], {}, "no edge", id="offline"),
        pytest.param([an_edge_row("edge-1", cordoned=True)], {}, "no edge", id="cordoned"),
        pytest.param([], {KEY: an_id("edge-1")}, "is not in the database", id="link-to-nothing"),
        pytest.param(
            [an_edge_row("edge-1", status="decommissioned")],
            {KEY: an_id("edge-1")},
            "is decommissioned",
            id="decommissioned",
        ),
    ],
)  # fmt: skip
def test_without_an_edge_node_it_waits(rows, links, detail):
    said = edge_plan(rows=rows, links=links)
    assert not said.actions
    assert said.findings[KEY].reason is Reason.NO_EDGE_NODE
    assert detail in said.findings[KEY].detail


def test_a_cordoned_or_offline_node_keeps_its_own():
    for changes in ({"cordoned": True}, {"status": "offline"}):
        rows = [an_edge_row("edge-1", **changes)]
        [create] = edge_plan(rows=rows, links={KEY: an_id("edge-1")}).creates
        assert create.spec.node_name == "edge-1"


def test_where_one_finds_no_place_a_smaller_one_still_does():
    """Of one kind the second is not looked for a place again; of another it is."""
    huge = a_version("1", runtime={"resources": {"cpu_request": "64"}})
    edge = {"node_type": "edge"}
    configs = [
        a_processor("h1", versions=(huge,), template_slug="huge", **edge),
        a_processor("h2", versions=(huge,), template_slug="huge", **edge),
        a_processor(
            "nobody's", versions=(huge,), template_slug="huge", organization_id=None, **edge
        ),
        a_processor("small", **edge),
        a_processor("cloud", versions=(huge,), template_slug="huge"),
        a_processor("cloud2", versions=(huge,), template_slug="huge"),
    ]
    nodes = [
        an_edge_node("edge-1"),
        an_edge_node("edge-2"),
        a_node("c", allocatable=Resources(99_000, 1)),
    ]
    rows = [an_edge_row("edge-1"), an_edge_row("edge-2")]
    said = compute(a_snapshot(configs, nodes=nodes, edge_nodes=rows), LIMITS)
    placed = {create.spec.processor_id: create.choice.node_name for create in said.creates}
    assert placed[an_id("small")] == "edge-1"
    assert sorted(filter(None, (placed[an_id("cloud")], placed[an_id("cloud2")]))) == ["c"]
    unplaced = {key for key, one in said.findings.items() if one.reason is Reason.NO_EDGE_NODE}
    assert unplaced == {an_id("h1"), an_id("h2"), an_id("nobody's")}


@pytest.mark.parametrize(
    ("pods", "own"),
    [
        pytest.param([], Ownership(1, node_name="edge-1"), id="on-its-way"),
        pytest.param(
            [a_pod(ONE, node_name=None, ready=False, requests=Resources(2000))],
            Ownership(1, node_name="edge-1"),
            id="there-without-a-place",
        ),
        pytest.param([a_pod(ONE, node_name="edge-1", requests=Resources(2000))], OWNS, id="placed"),
    ],
)
def test_what_is_on_its_way_takes_its_place_once(pods, own):
    """2000 of 3600 are taken by the first: the second fits, the third does not."""
    version = a_version("1", runtime={"resources": {"cpu_request": "1500m"}})
    first = a_processor(
        0, node_type="edge", versions=(a_version("1", runtime={"resources": {"cpu_request": "2"}}),)
    )
    others = [
        a_processor(n, node_type="edge", versions=(version,), template_slug="x") for n in (1, 2)
    ]
    snapshot = a_snapshot(
        [first, *others],
        pods,
        ownership={KEY: own},
        nodes=[an_edge_node("edge-1")],
        edge_nodes=[an_edge_row("edge-1")],
        acting=[KEY],
    )
    said = compute(snapshot, LIMITS)
    assert len(said.creates) == 1
    assert said.node_loads["edge-1"].utilisation == pytest.approx(3500 / 4000)


def test_who_was_placed_before_and_is_missing_takes_no_place_twice():
    version = a_version("1", runtime={"resources": {"cpu_request": "2500m"}})
    said = plan(own=Ownership(1, node_name="cloud-1"), config=replace(ONE, versions=(version,)))
    assert said.creates[0].choice.node_name == "cloud-1"


def test_nothing_fits_it_is_made_all_the_same():
    said = plan(nodes=[a_node("cloud-1", ready=False), an_edge_node("edge-1")])
    [create] = said.creates
    assert create.choice.decision == "provision_node"
    assert create.spec.preferred_node_name is None
    assert create.detail == "no node fits (cloud-1: not_ready, edge-1: selector)"


def test_the_most_important_first_and_not_all_in_one_cycle():
    versions = [a_version(f"{n}", runtime={"orchestrator": {"priority": n}}) for n in (0, 5, -5)]
    configs = [
        a_processor(f"{slug}{n}", versions=(version,), template_slug=slug)
        for slug, version in zip("abc", versions, strict=True)
        for n in range(3)
    ]
    said = compute(a_snapshot(configs, ownership={}), Limits(creations_max=4))
    slugs = [create.spec.app for create in said.creates]
    assert slugs == ["b", "b", "b", "a"]
    limited = [one for one in said.findings.values() if one.reason is Reason.CREATION_LIMIT]
    assert len(limited) == 5
    assert said.wake_at == START
    assert compute(a_snapshot(configs[:4], ownership={}), Limits(creations_max=4)).wake_at is None


# When to look again ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "own", "due"),
    [
        pytest.param([RUNS], OWNS, None, id="all-is-well"),
        pytest.param([], FAILED_ONCE, START + 3, id="the-next-try-of-a-creation"),
        pytest.param(
            [CRASHED],
            replace(OWNS, failures=1, failed_pod_uid=RUNS.uid, retry_at=START + 40),
            START + 40,
            id="the-next-try-of-a-pod",
        ),
        pytest.param(
            [replace(RUNS, ready=False, created_at=START - 10)], OWNS, START + 170, id="deadline"
        ),
        pytest.param(
            [replace(RUNS, ready=False, created_at=START - 180)], OWNS, None, id="deadline-passed"
        ),
        pytest.param([], None, None, id="nothing-but-what-is-done-now"),
    ],
)
def test_wake_at(pods, own, due):
    assert plan(pods, own).wake_at == due


def test_the_earliest_counts():
    retries = (START + 9, START + 2, START + 5)
    ownership = {an_id(n): Ownership(1, failures=1, retry_at=at) for n, at in enumerate(retries)}
    assert compute(a_snapshot(processors(3), ownership=ownership), LIMITS).wake_at == START + 2


# Namespaces ---------------------------------------------------------------------------------


def shown(snapshot, *namespaces):
    return replace(snapshot, observed=replace(snapshot.observed, namespaces=frozenset(namespaces)))


@pytest.mark.parametrize(
    ("config", "own", "unseen"),
    [
        pytest.param(replace(ONE, namespace="dark"), None, "dark", id="where-it-shall-be"),
        pytest.param(ONE, replace(FAILED_ONCE, namespace="dark"), "dark", id="where-it-was-seen"),
    ],
)
def test_where_nobody_can_look_nothing_is_done(config, own, unseen):
    """A pod may run there: another would be one too many."""
    snapshot = a_snapshot([config], ownership={} if own is None else {KEY: own})
    said = compute(shown(snapshot, "default"), LIMITS)
    assert not said.actions
    assert said.findings[KEY].reason is Reason.NAMESPACE_UNSEEN
    assert f"namespace {unseen} " in said.findings[KEY].detail
    assert compute(snapshot, LIMITS).actions or own is not None


def test_others_go_on_where_one_can_look():
    dark = a_processor(1, namespace="dark")
    said = compute(shown(a_snapshot([ONE, dark], ownership={}), "default"), LIMITS)
    assert [create.processor_id for create in said.creates] == [KEY]


def test_what_nobody_can_see_is_not_forgotten():
    own = replace(OWNS, namespace="dark")
    snapshot = a_snapshot([], ownership={KEY: own})
    assert not compute(shown(snapshot, "default"), LIMITS).forgets
    assert compute(shown(snapshot, "default", "dark"), LIMITS).forgets


def test_namespaces_to_look_in():
    strange = a_processor(2, namespace="No Namespace")
    named, unnamed = a_processor(1, namespace="named"), replace(ONE, namespace=None)
    gone = {an_id("gone"): Ownership(1, namespace="left")}
    snapshot = a_snapshot([unnamed, named, strange], ownership=gone)
    assert namespaces(snapshot.desired, "usual") == {"usual", "named", "left"}


# On its way home ---------------------------------------------------------------------------

EDGE_ONE = a_processor("goes home", node_type="edge")
HOME = an_edge_row("edge-1")


def going_home(pod, *, old_uid="left", ready=True):
    """A failback was granted, its creation was not."""
    snapshot = a_snapshot(
        [EDGE_ONE],
        [pod],
        nodes=[a_node("cloud-1"), an_edge_node("edge-1")],
        edge_nodes=[HOME],
        links={EDGE_ONE.processor_id: HOME.id},
    )
    move = Move(
        kind=MoveKind.FAILBACK,
        from_node="cloud-1",
        old_uid=old_uid,
        edge_node_id=HOME.id,
        began_at=START - 5,
    )
    desired = replace(snapshot.desired, moves={EDGE_ONE.processor_id: move})
    restored = frozenset({pod.uid} if ready else ())
    return compute(replace(snapshot, desired=desired, restored=restored), LIMITS)


def test_a_creation_that_came_to_pass_late_does_not_pass_for_the_arrival_at_home():
    late = a_pod(EDGE_ONE, 3, node_name="cloud-1")
    said = going_home(late)
    assert not said.ends
    [delete] = said.deletes
    assert (delete.pod, delete.reason, delete.captures) == (late, Reason.GOES_HOME, True)


@pytest.mark.parametrize(
    ("changes", "old_uid", "captures"),
    [
        pytest.param({"ready": False}, "left", False, id="late-and-never-ready"),
        pytest.param({"ready": False}, None, True, id="not-ready-for-a-moment"),
        pytest.param(
            {"ready": False, "waiting_reason": "CrashLoopBackOff"}, None, False, id="has-failed"
        ),
    ],
)
def test_who_has_failed_goes_home_without_being_asked_for_its_state(changes, old_uid, captures):
    pod = a_pod(EDGE_ONE, 3, node_name="cloud-1", **changes)
    said = going_home(pod, old_uid=old_uid or pod.uid, ready=False)
    [delete] = said.deletes
    assert (delete.reason, delete.captures) == (Reason.GOES_HOME, captures)
    assert not said.failures


def test_who_is_at_home_has_arrived():
    said = going_home(a_pod(EDGE_ONE, 3, node_name="edge-1"))
    assert [end.reason for end in said.ends] == [Reason.MOVED]
    assert not said.deletes


# Many --------------------------------------------------------------------------------------


def test_no_kind_of_processor_makes_it_slow():
    """Ten thousand that find no place, a thousand nodes, a template that cannot be read: with
    a search of all for each, this would take a minute."""
    broken = processors(3000, versions=(V1, V2), template_slug="broken")
    homeless = [a_processor(f"e{n}", node_type="edge") for n in range(5000)]
    nodes = [an_edge_node(f"edge-{n}", pods_max=0) for n in range(500)]
    rows = [an_edge_row(node.name) for node in nodes]
    snapshot = a_snapshot([*broken.values(), *homeless], nodes=nodes, edge_nodes=rows, ownership={})
    said = compute(snapshot, LIMITS)
    assert not said.actions
    assert len(said.findings) == 8000
