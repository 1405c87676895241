"""Orders and drills beside everything else that goes on: what a reading of them found."""

from dataclasses import replace
from uuid import UUID

import pytest
from tests.core.test_drill import drilled, moving
from tests.core.world import LIMITS, START, a_node, a_pod, a_processor, an_edge_node, an_edge_row
from tests.leader_double import ONE, a_leader, small_fleet

from dory_orchestrator.core.answering import Question
from dory_orchestrator.core.drill import DrillReason
from dory_orchestrator.core.model import (
    DrillPhase,
    Move,
    MoveKind,
    Order,
    OrderKind,
    Snapshot,
)
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.plan import Reason
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.why import Rule

AWAY = Order(OrderKind.FAILOVER, "eva", "clean")
HOME = Order(OrderKind.FAILBACK, "eva", "done")


def desire(snapshot: Snapshot, **changes) -> Snapshot:
    return replace(snapshot, desired=replace(snapshot.desired, **changes))


def observe(snapshot: Snapshot, **changes) -> Snapshot:
    return replace(snapshot, observed=replace(snapshot.observed, **changes))


def home_id(snapshot: Snapshot, name: str = "edge-1") -> UUID:
    return next(row.id for row in snapshot.desired.edge_nodes.values() if row.name == name)


def departing(snapshot: Snapshot, *, seconds: float = 5.0, order: Order | None = AWAY) -> Snapshot:
    """Its departure was granted, and its pod is still there."""
    own = snapshot.desired.ownership[ONE]
    home = home_id(snapshot)
    move = Move(
        kind=MoveKind.DEPARTURE,
        from_node="edge-1",
        old_uid=own.pod_uid,
        edge_node_id=home,
        began_at=START - seconds,
    )
    links = {key: node for key, node in snapshot.desired.links.items() if key != ONE}
    return desire(
        snapshot,
        links=links,
        homes={ONE: home},
        moves={ONE: move},
        orders={} if order is None else {ONE: order},
    )


def in_trouble(snapshot: Snapshot, *names: str) -> Snapshot:
    """Not ready for a moment: suspect, and well before."""
    nodes = {
        name: replace(node, ready=False, ready_changed_at=START - 10) if name in names else node
        for name, node in snapshot.observed.nodes.items()
    }
    rows = {
        key: replace(row, last_heartbeat_at=START - 100) if row.name in names else row
        for key, row in snapshot.desired.edge_nodes.items()
    }
    answers = {uid: pod.node_name not in names for uid, pod in snapshot.observed.pods.items()}
    return replace(observe(desire(snapshot, edge_nodes=rows), nodes=nodes), answers=answers)


def test_an_order_is_followed():
    plan = compute(desire(small_fleet(), orders={ONE: AWAY}), LIMITS)
    (delete,) = plan.deletes
    assert (delete.reason, delete.captures) == (Reason.ORDERED, True)
    assert delete.move is not None
    assert delete.move.kind is MoveKind.DEPARTURE


def test_nobody_leaves_a_node_in_trouble_by_order():
    snapshot = desire(in_trouble(small_fleet(), "edge-1"), orders={ONE: AWAY})
    plan = compute(snapshot, LIMITS)
    assert not plan.deletes
    assert plan.findings[ONE].reason is Reason.NODE_SUSPECT


def test_who_is_elsewhere_than_the_link_says_is_not_ended():
    fleet = small_fleet()
    other = home_id(fleet, "edge-2")
    pods = {
        uid: replace(pod, node_name="cloud-1") if pod.processor_id == ONE else pod
        for uid, pod in fleet.observed.pods.items()
    }
    links = {**fleet.desired.links, ONE: other}
    snapshot = observe(desire(fleet, links=links, orders={ONE: AWAY}), pods=pods)
    assert not compute(snapshot, LIMITS).deletes


def test_orders_do_not_count_on_the_same_room():
    fleet = small_fleet()
    orders = dict.fromkeys(fleet.desired.links, AWAY)
    nodes = {**fleet.observed.nodes, "cloud-1": a_node("cloud-1", pods_max=3)}
    plan = compute(observe(desire(fleet, orders=orders), nodes=nodes), LIMITS)
    # One runs there, and a tenth stays free.
    assert len(plan.deletes) == 1


def test_a_departure_says_what_was_asked():
    plan = compute(departing(small_fleet()), LIMITS)
    (delete,) = plan.deletes
    assert delete.why is not None
    assert Rule.ORDERED_AWAY in [one.rule for one in delete.why.tried]


@pytest.mark.parametrize(
    ("seconds", "order", "reason"),
    [
        pytest.param(5.0, None, Reason.HOME_CAME_BACK, id="withdrawn"),
        pytest.param(5.0, HOME, Reason.HOME_CAME_BACK, id="called-back"),
        pytest.param(LIMITS.planned_move_seconds, AWAY, Reason.MOVE_GIVEN_UP, id="too-late"),
    ],
)
def test_who_has_not_left_stays_when_it_is_called_back_or_cannot_leave(seconds, order, reason):
    plan = compute(departing(small_fleet(), seconds=seconds, order=order), LIMITS)
    assert not plan.deletes
    (cancel,) = plan.ends
    assert (cancel.reason, cancel.pod.node_name) == (reason, "edge-1")


def test_nobody_goes_on_leaving_a_node_in_trouble():
    snapshot = in_trouble(departing(small_fleet()), "edge-1")
    plan = compute(snapshot, LIMITS)
    assert not plan.deletes


def many(count: int) -> Snapshot:
    """So many edge nodes with a processor on each, and a cloud."""
    configs = [a_processor(f"p{n}", node_type="edge") for n in range(count)]
    rows = [an_edge_row(f"edge-{n}", last_heartbeat_at=START - 1) for n in range(count)]
    pods = [
        a_pod(config, node_name=row.name, started_at=START - 900)
        for config, row in zip(configs, rows, strict=True)
    ]
    fleet = small_fleet()
    nodes = [an_edge_node(row.name) for row in rows]
    ownership = {
        config.processor_id: replace(
            fleet.desired.ownership[ONE], pod_uid=pod.uid, pod_name=pod.name, node_name=row.name
        )
        for config, pod, row in zip(configs, pods, rows, strict=True)
    }
    records = {
        f"edge {row.id}": NodeRecord(
            NodeState.ONLINE, NodeReason.WELL, START - 900, None, START - 900, START - 1
        )
        for row in rows
    }
    snapshot = desire(
        fleet,
        configs={config.processor_id: config for config in configs},
        edge_nodes={row.id: row for row in rows},
        links={c.processor_id: r.id for c, r in zip(configs, rows, strict=True)},
        ownership=ownership,
        node_records=records,
    )
    seen = {node.name: node for node in (*nodes, a_node("cloud-1"))}
    return observe(snapshot, nodes=seen, pods={pod.uid: pod for pod in pods})


def test_a_node_that_is_only_being_left_counts_for_the_brake():
    snapshot = many(5)
    leaving = [key for key, node in list(snapshot.desired.links.items())[:2]]
    moves = {
        key: Move(
            kind=MoveKind.DEPARTURE,
            from_node="x",
            old_uid=snapshot.desired.ownership[key].pod_uid,
            edge_node_id=snapshot.desired.links[key],
            began_at=START - 5,
        )
        for key in leaving
    }
    homes = {key: snapshot.desired.links[key] for key in leaving}
    links = {key: node for key, node in snapshot.desired.links.items() if key not in leaving}
    snapshot = desire(
        snapshot, links=links, homes=homes, moves=moves, orders=dict.fromkeys(leaving, AWAY)
    )
    plan = compute(in_trouble(snapshot, "edge-0", "edge-1", "edge-2"), LIMITS)
    assert plan.brake is not None
    assert (plan.brake.engaged, plan.brake.counted) == (True, 5)
    assert not plan.creates


@pytest.mark.parametrize(
    ("state", "goes"), [(NodeState.RECOVERING, True), (NodeState.QUARANTINED, False)]
)
def test_an_order_home_does_not_skip_the_quarantine(state, goes):
    fleet = small_fleet()
    home = home_id(fleet)
    falls = (START - 50,) if state is NodeState.RECOVERING else (START - 90, START - 50)
    record = NodeRecord(state, NodeReason.STABILISING, START - 5, None, START - 5, START - 1, falls)
    pods = {
        uid: replace(pod, node_name="cloud-1") if pod.processor_id == ONE else pod
        for uid, pod in fleet.observed.pods.items()
    }
    links = {key: node for key, node in fleet.desired.links.items() if key != ONE}
    snapshot = observe(
        desire(
            fleet,
            links=links,
            homes={ONE: home},
            orders={ONE: HOME},
            node_records={f"edge {home}": record},
        ),
        pods=pods,
    )
    restored = frozenset(pods)
    plan = compute(replace(snapshot, restored=restored), LIMITS)
    assert bool(plan.deletes) is goes


# Drills


def over(snapshot: Snapshot) -> Snapshot:
    assert snapshot.desired.drill is not None
    drill = replace(snapshot.desired.drill, phase=DrillPhase.RETURNING)
    return desire(snapshot, drill=drill)


def test_who_fails_in_a_drill_goes_home_though_it_never_arrived():
    failing = over(moving(5, waiting_reason="CrashLoopBackOff"))
    home = home_id(failing)
    links = {key: node for key, node in failing.desired.links.items() if key != ONE}
    failing = desire(failing, links=links, homes={ONE: home})
    plan = compute(failing, LIMITS)
    home_goers = [delete for delete in plan.deletes if delete.move is not None]
    (delete,) = home_goers
    assert delete.move is not None
    assert (delete.move.kind, delete.reason) == (MoveKind.FAILBACK, Reason.GOES_HOME)
    # And once its pod is gone, or there was none.
    gone = {u: p for u, p in failing.observed.pods.items() if p.processor_id != ONE}
    (create,) = compute(observe(failing, pods=gone), LIMITS).creates
    assert create.choice.node_name == "edge-1"
    assert create.move is not None
    assert create.move.kind is MoveKind.FAILBACK


def test_while_the_drill_runs_it_does_not():
    failing = moving(5)
    home = home_id(failing)
    links = {key: node for key, node in failing.desired.links.items() if key != ONE}
    plan = compute(desire(failing, links=links, homes={ONE: home}), LIMITS)
    assert not [delete for delete in plan.deletes if delete.move is not None]


def test_a_drill_waits_for_who_is_ordered_home_and_not_for_a_home_that_is_closed():
    away = drilled(DrillPhase.RETURNING)
    home = home_id(away)
    away = desire(away, links={}, homes={ONE: home}, orders={ONE: HOME})
    assert compute(away, LIMITS).drill is None
    rows = {key: replace(row, cordoned=True) for key, row in away.desired.edge_nodes.items()}
    step = compute(desire(away, edge_nodes=rows), LIMITS).drill
    assert step is not None
    assert step.reason is DrillReason.STILL_AWAY


# Questions


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("of_next_year", {}), ("node", {}), ("processor", {"id": "x"}), ("what_if", {"down": 7})],
)
def test_what_a_leader_does_not_understand_ends_nothing(kind, parameters):
    assert "does not understand" in a_leader()(Question(1, kind, parameters))["unknown"]
