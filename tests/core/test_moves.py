"""Moves: where they go, what cancels them, what is captured first, and what others are left."""

from dataclasses import replace

import pytest
from tests.core.world import (
    LIMITS,
    START,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    an_edge_node,
    an_edge_row,
    an_id,
    owned_by,
    processors,
)

from dory_orchestrator.core.brake import BrakeReason, BrakeRecord
from dory_orchestrator.core.grants import GrantRefusal, MoveFacts, refusal_of
from dory_orchestrator.core.model import Move, MoveKind, MoveRetry, OrderKind, PodPhase, Snapshot
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.plan import CancelMove, MoveStart, Reason
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.why import Rule

ONE = a_processor(0, node_type="edge")
KEY = ONE.processor_id
HOME, TARGET = an_edge_row("edge-1"), an_edge_row("edge-2")
DEAD_SINCE = START - 300.0
DEAD = NodeRecord(
    NodeState.OFFLINE, NodeReason.DEAD_NOT_READY, DEAD_SINCE, DEAD_SINCE, None, DEAD_SINCE
)
WELL = NodeRecord(NodeState.ONLINE, NodeReason.WELL, DEAD_SINCE, None, DEAD_SINCE, START, falls=())
AT_HOME = a_pod(ONE, node_name="edge-1")
IN_CLOUD = a_pod(ONE, 2, node_name="cloud-1")


def lost(name: str):
    return an_edge_node(name, ready=False, ready_changed_at=DEAD_SINCE)


def a_move(kind: MoveKind, old_uid: str | None, **changes) -> Move:
    said = {
        "kind": kind,
        "from_node": "edge-1",
        "old_uid": old_uid,
        "edge_node_id": HOME.id,
        "began_at": START - 5,
    }
    return Move(**(said | changes))


def fleet(pods, nodes, rows, *, own=None, records=None, **desired) -> Snapshot:
    """ONE, whose home is edge-1. `records` are by the name of an edge node."""
    ownership = {KEY: own or owned_by(pods[0])}
    snapshot = a_snapshot([ONE], pods, nodes=nodes, edge_nodes=rows, ownership=ownership)
    kept = {f"edge {an_id(name)}": record for name, record in (records or {}).items()}
    known = replace(snapshot.desired, node_records=kept, **desired)
    return replace(snapshot, desired=known)


# Where to ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("silent", "place"), [(False, "edge-2"), (True, "cloud-1")])
def test_a_failover_target_that_is_dead_itself_is_none(silent, place):
    """The cluster calls it ready, and its row says that it takes work: but nothing is heard of it,
    and what runs there does not answer."""
    home = replace(HOME, failover_target_node_id=TARGET.id)
    heard_at = START - (LIMITS.heartbeat_stale_seconds * 4 if silent else 1)
    target = replace(TARGET, last_heartbeat_at=heard_at)
    there = a_processor("there", node_type="edge")
    pod = a_pod(there, node_name="edge-2", started_at=START - 3600, ready_changed_at=START - 3600)
    snapshot = fleet(
        [AT_HOME],
        [a_node("cloud-1"), lost("edge-1"), an_edge_node("edge-2")],
        [home, target],
        records={"edge-1": DEAD, "edge-2": WELL},
        links={KEY: HOME.id, there.processor_id: TARGET.id},
    )
    pods = {**snapshot.observed.pods, pod.uid: pod}
    observed = replace(snapshot.observed, pods=pods)
    snapshot = replace(snapshot, observed=observed, answers={pod.uid: not silent})
    (create,) = compute(snapshot, LIMITS).creates
    assert (create.choice.node_name, create.reason) == (place, Reason.NODE_DEAD)


# While the brake holds ---------------------------------------------------------------------


@pytest.mark.parametrize("braked", [False, True])
def test_who_is_on_the_way_to_a_home_in_trouble_moves_nowhere_while_the_brake_holds(braked):
    names = [f"edge-{number}" for number in range(1, 5)]
    rows = [an_edge_row(name) for name in names]
    suspect = NodeRecord(NodeState.SUSPECT, NodeReason.NOT_READY, START - 5, START - 5, None, START)
    nodes = [
        an_edge_node(name, ready=False, ready_changed_at=START - 5)
        if braked or name == "edge-1"
        else an_edge_node(name)
        for name in names
    ]
    engaged = BrakeRecord(START - 4, BrakeReason.MANY_SUSPECT, frozenset(row.id for row in rows))
    records = {name: suspect if braked or name == "edge-1" else WELL for name in names}
    snapshot = fleet(
        [],
        [a_node("cloud-1"), *nodes],
        rows,
        own=owned_by(IN_CLOUD),
        records=records,
        links={KEY: HOME.id},
        moves={KEY: a_move(MoveKind.FAILBACK, IN_CLOUD.uid)},
        brake=engaged if braked else BrakeRecord(),
    )
    plan = compute(snapshot, LIMITS)
    assert plan.brake is not None
    assert plan.brake.engaged is braked
    (create,) = plan.creates
    # Else it goes back to the cloud at once; now it is made at home, and moves nowhere.
    assert (create.move is None) is braked
    assert create.spec.node_name == ("edge-1" if braked else None)


# Home is back before the replacement has a place -------------------------------------------


@pytest.mark.parametrize("failed", [False, True])
def test_a_failover_is_not_cancelled_for_a_pod_that_has_failed(failed):
    old = replace(AT_HOME, phase=PodPhase.FAILED, ready=False) if failed else AT_HOME
    pending = a_pod(ONE, 2, node_name=None, ready=False, phase=PodPhase.PENDING)
    snapshot = fleet(
        [pending, old],
        [an_edge_node("edge-1")],
        [HOME],
        records={"edge-1": WELL},
        homes={KEY: HOME.id},
        moves={KEY: a_move(MoveKind.FAILOVER, old.uid)},
    )
    plan = compute(snapshot, LIMITS)
    assert [end.reason for end in plan.ends] == ([] if failed else [Reason.HOME_CAME_BACK])


# What is taken first -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "old_uid", "captures"),
    [
        pytest.param(IN_CLOUD, IN_CLOUD.uid, True, id="ready"),
        pytest.param(replace(IN_CLOUD, ready=False), IN_CLOUD.uid, True, id="ready-before"),
        pytest.param(replace(IN_CLOUD, ready=False), "another", False, id="never-ready"),
        pytest.param(
            replace(IN_CLOUD, ready=False, waiting_reason="CrashLoopBackOff"),
            IN_CLOUD.uid,
            False,
            id="failed",
        ),
    ],
)
def test_on_the_way_home_a_state_is_taken_where_there_may_be_one(pod, old_uid, captures):
    own = owned_by(IN_CLOUD, failures=1, failed_pod_uid=IN_CLOUD.uid, retry_at=START + 60)
    snapshot = fleet(
        [pod],
        [a_node("cloud-1"), an_edge_node("edge-1")],
        [HOME],
        own=own,
        records={"edge-1": WELL},
        links={KEY: HOME.id},
        moves={KEY: a_move(MoveKind.FAILBACK, old_uid)},
    )
    (delete,) = compute(snapshot, LIMITS).deletes
    assert (delete.reason, delete.captures, delete.told) == (Reason.GOES_HOME, captures, False)


# What a failover left ----------------------------------------------------------------------


@pytest.mark.parametrize("failed", [False, True])
def test_what_a_failover_left_is_kept_only_while_it_is_of_use(failed):
    """On a node that is well, and before there is a replacement: a drill does that."""
    old = replace(AT_HOME, phase=PodPhase.FAILED, ready=False) if failed else AT_HOME
    snapshot = fleet(
        [old],
        [an_edge_node("edge-1")],
        [HOME],
        own=replace(owned_by(old), epoch=2, pod_uid=None, pod_name=None),
        records={"edge-1": WELL},
        homes={KEY: HOME.id},
        moves={KEY: a_move(MoveKind.FAILOVER, old.uid)},
    )
    plan = compute(snapshot, LIMITS)
    assert [one.reason for one in plan.deletes] == ([Reason.STALE_OWNER] if failed else [])


# The guard ---------------------------------------------------------------------------------


def test_pods_that_end_already_do_not_count_for_the_guard():
    configs = processors(12)
    keys = list(configs)
    pods = [a_pod(config) for config in configs.values()]
    # Six end already: of the other six three are desired still, which is half of them.
    ending = [replace(pod, terminating=True) for pod in pods[:6]]
    kept = {key: configs[key] for key in keys[9:]}
    plan = compute(a_snapshot(kept, [*ending, *pods[6:]]), replace(LIMITS, guard_tolerated=2))
    assert not plan.guard.holds


# Planned moves -----------------------------------------------------------------------------


def going_home(began_at: float, error: str | None = None) -> Snapshot:
    return fleet(
        [IN_CLOUD],
        [a_node("cloud-1"), an_edge_node("edge-1")],
        [HOME],
        records={"edge-1": WELL},
        links={KEY: HOME.id},
        moves={KEY: a_move(MoveKind.FAILBACK, IN_CLOUD.uid, began_at=began_at, error=error)},
    )


def test_a_planned_move_is_given_up_at_its_moment_and_woken_for_it():
    seconds = LIMITS.planned_move_seconds
    early = compute(going_home(START - seconds + 0.5, "HTTP 401"), LIMITS)
    assert not early.ends
    assert early.wake_at == pytest.approx(START + 0.5)
    assert "HTTP 401" in early.findings[KEY].detail
    (cancel,) = compute(going_home(START - seconds, "HTTP 401"), LIMITS).ends
    assert isinstance(cancel, CancelMove)
    assert cancel.reason is Reason.MOVE_GIVEN_UP
    assert "HTTP 401" in cancel.detail
    assert cancel.retry == MoveRetry(1, START + LIMITS.move_retry_first_seconds, "HTTP 401")


@pytest.mark.parametrize("open_moves", [0, 10])
def test_planned_moves_take_no_place_of_a_failover_and_failovers_none_of_theirs(open_moves):
    others = processors(open_moves + 1, node_type="edge")
    del others[KEY]
    pods = {key: a_pod(config, node_name="cloud-1") for key, config in others.items()}
    rows = {key: an_edge_row(f"far-{n}") for n, key in enumerate(pods)}
    snapshot = a_snapshot(
        [ONE, *others.values()],
        [AT_HOME, *pods.values()],
        nodes=[
            a_node("cloud-1"),
            lost("edge-1"),
            *(an_edge_node(row.name) for row in rows.values()),
        ],
        edge_nodes=[HOME, *rows.values()],
    )
    moves = {
        key: a_move(MoveKind.FAILBACK, pod.uid, edge_node_id=rows[key].id)
        for key, pod in pods.items()
    }
    links = {KEY: HOME.id} | {key: row.id for key, row in rows.items()}
    records = {f"edge {HOME.id}": DEAD} | {f"edge {row.id}": WELL for row in rows.values()}
    desired = replace(snapshot.desired, moves=moves, links=links, node_records=records)
    plan = compute(replace(snapshot, desired=desired), LIMITS)
    assert [create.processor_id for create in plan.creates] == [KEY]


@pytest.mark.parametrize(("times", "told"), [(2, False), (3, True)])
def test_three_refusals_are_said_and_two_are_not(times, told):
    snapshot = going_home(START - LIMITS.planned_move_seconds)
    refused = replace(snapshot, refusals={KEY: (times, "somebody holds it")})
    plan = compute(refused, LIMITS)
    asked = (Rule.GRANT_REFUSED, True, (times, "somebody holds it"))
    assert (plan.findings[KEY].reason is Reason.GRANT_REFUSED) is told
    assert ("somebody holds it" in plan.findings[KEY].detail) is told
    assert (plan.answers[KEY][-1] == asked) is told


# What a store asks once more ---------------------------------------------------------------

START_OF = MoveStart(
    kind=MoveKind.FAILOVER,
    from_node="edge-1",
    old_uid=None,
    edge_node_id=HOME.id,
    last_alive_at=None,
    suspect_at=None,
    heartbeat_at=START - 60,
    decided_at=START,
    link_id=HOME.id,
)
FACTS = MoveFacts(
    now=START + 1,
    brake_engaged=False,
    link_id=HOME.id,
    status="offline",
    heartbeat_at=START - 60,
)
ORDERED = {"order": OrderKind.FAILOVER}
DISABLED = {"failover_enabled": False}
HOMEWARD = {"kind": MoveKind.FAILBACK}
DEPARTS = {"kind": MoveKind.DEPARTURE}


@pytest.mark.parametrize(
    ("move", "facts", "refusal"),
    [
        ({}, {}, None),
        ({}, {"now": START + 5}, GrantRefusal.OLD_DECISION),
        ({}, {"brake_engaged": True}, GrantRefusal.BRAKE_HELD),
        ({}, {"link_held": True}, GrantRefusal.LINK_HELD),
        ({}, {"link_id": None}, GrantRefusal.LINK_CHANGED),
        ({}, {"link_id": TARGET.id}, GrantRefusal.LINK_CHANGED),
        ({}, {"status": None}, GrantRefusal.NODE_MISSING),
        ({"edge_node_id": None}, {"status": None}, None),
        ({}, DISABLED, GrantRefusal.FAILOVER_DISABLED),
        ({}, DISABLED | ORDERED, None),
        ({}, DISABLED | {"status": "decommissioned"}, None),
        ({}, DISABLED | {"comes_home": True}, None),
        ({}, {"heartbeat_at": START}, GrantRefusal.HEARD_FROM),
        ({"is_drill": True}, {}, GrantRefusal.DRILL_OVER),
        ({"is_drill": True}, {"drill_runs": True, "heartbeat_at": START}, None),
        (HOMEWARD, {}, GrantRefusal.HOME_NOT_ONLINE),
        (HOMEWARD, {"status": "online"}, None),
        (HOMEWARD, {"status": "online", "cordoned": True}, GrantRefusal.HOME_CORDONED),
        (HOMEWARD, {"status": "online"} | ORDERED, GrantRefusal.KEPT_AWAY),
        (DEPARTS, {"status": "online"}, GrantRefusal.NOT_LEAVING),
        (DEPARTS, {"status": "online"} | ORDERED, None),
        (DEPARTS, {"status": "decommissioned"}, None),
    ],
)
def test_what_a_move_rests_on(move, facts, refusal):
    assert refusal_of(replace(START_OF, **move), replace(FACTS, **facts)) is refusal
