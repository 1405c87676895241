"""What if these nodes died now: the decisions of production on a snapshot in which they are dead.

Nothing is estimated that is decided: who moves where comes from `compute`. What a move would lose
is the age of the newest checkpoint; how long it would take rests on moves that were measured.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    Limits,
    Node,
    Snapshot,
    node_key,
)
from dory_orchestrator.core.node_health import (
    CLOCKS_DIFFER_SECONDS,
    NodeReason,
    NodeRecord,
    NodeState,
)
from dory_orchestrator.core.plan import Create, Finding, Plan, Reason
from dory_orchestrator.core.reconcile import compute

_MANY = 10**9
_SHOWN_MAX = 1_000
"""Those that would not move stand first."""


@dataclass(frozen=True, slots=True)
class Experience:
    """What earlier moves and checkpoints tell.

    `state_ages_seconds` are those of the newest checkpoints. `failover_seconds` is the median
    time from the grant of a failover to its end; None: none was measured yet.
    """

    state_ages_seconds: Mapping[UUID, float]
    failover_seconds: float | None = None


def what_if(
    snapshot: Snapshot,
    present: Plan,
    limits: Limits,
    down: Collection[str],
    *,
    without_cloud: bool,
    experience: Experience,
) -> dict[str, Any]:
    """Who would move where, who would wait, what would be lost, and how long it would take.

    `present` is the plan of the snapshot. `down` are names of nodes that the cluster or the database knows. With `without_cloud` every
    application node is down, too.
    """
    dead = set(down) | (_application_nodes(snapshot) if without_cloud else set())
    supposed = suppose(snapshot, dead, limits)
    # So many at once only spreads them over time: where they go is the same.
    plan = compute(
        supposed, replace(limits, moves_max=_MANY, planned_moves_max=_MANY, creations_max=_MANY)
    )
    creates = {create.processor_id: create for create in plan.creates}
    rows = [
        {
            **_named(snapshot, present, key),
            **_outcome(creates.get(key), plan.findings.get(key)),
            "loss_seconds": experience.state_ages_seconds.get(key),
            "seconds": None,
            "wave": None,
        }
        for key in _affected(snapshot, present, plan, dead)
    ]
    movers = [row for row in rows if row["outcome"] == "moves"]
    shown = sorted(rows, key=lambda row: row["outcome"] == "moves")[:_SHOWN_MAX]
    for number, row in enumerate(movers):
        row.update(_times(number, limits, experience))
    brake = plan.brake
    return {
        "nodes_down": sorted(dead),
        "processors": shown,
        "processors_count": len(rows),
        "moves": len(movers),
        "waits": sum(row["outcome"] == "waits" for row in rows),
        "stays": sum(row["outcome"] == "stays" for row in rows),
        "loss_seconds_most": max(
            (row["loss_seconds"] for row in rows if row["loss_seconds"] is not None), default=None
        ),
        "seconds_most": max(
            (row["seconds"] for row in movers if row.get("seconds") is not None), default=None
        ),
        "brake_engaged": brake is not None and brake.engaged,
        "brake": None if brake is None else brake.detail,
        "paused": snapshot.desired.pause is not None,
        "safe": all(row["outcome"] == "moves" for row in rows),
        "detection_seconds": _detection_seconds(limits),
        "failover_seconds": experience.failover_seconds,
    }


def suppose(snapshot: Snapshot, dead: Collection[str], limits: Limits) -> Snapshot:
    """The same moment, had these nodes been dead for just so long that they are known to be, and
    had we heard all the time: what we missed a moment ago says nothing of then."""
    now, grace_seconds = snapshot.now, limits.node_failure_grace_seconds
    fell_at = now - grace_seconds - limits.heartbeat_stale_seconds - 1.0
    silent_at = fell_at - 2 * CLOCKS_DIFFER_SECONDS
    record = NodeRecord(
        NodeState.OFFLINE,
        NodeReason.DEAD_NOT_READY,
        now,
        suspect_since=fell_at,
        last_well_at=fell_at,
        falls=(now,),
    )
    rows = {
        key: replace(row, last_heartbeat_at=silent_at) if row.name in dead else row
        for key, row in snapshot.desired.edge_nodes.items()
    }
    keys = {node_key(row.id, row.name) for row in rows.values() if row.name in dead}
    keys |= {node_key(None, name) for name in dead}
    nodes = snapshot.observed.nodes
    known = {key: record for key in keys if _is_known(key, snapshot)}
    gone = {pod.uid for pod in snapshot.observed.pods.values() if pod.node_name in dead}
    return replace(
        snapshot,
        desired=replace(
            snapshot.desired,
            edge_nodes=rows,
            node_records={**snapshot.desired.node_records, **known},
            pause=None,
            drill=None,
            gaps=(),
        ),
        observed=replace(
            snapshot.observed,
            nodes={
                name: replace(node, ready=False, ready_changed_at=fell_at) if name in dead else node
                for name, node in nodes.items()
            },
        ),
        answers={**snapshot.answers, **dict.fromkeys(gone, False)},
    )


def unknown_nodes(snapshot: Snapshot, names: Collection[str]) -> list[str]:
    """Those that neither the cluster nor the database knows."""
    known = set(snapshot.observed.nodes) | {
        row.name for row in snapshot.desired.edge_nodes.values()
    }
    return sorted(set(names) - known)


def _is_known(key: str, snapshot: Snapshot) -> bool:
    edge = key.startswith("edge ")
    return edge or key.partition(" ")[2] in snapshot.observed.nodes


def _application_nodes(snapshot: Snapshot) -> set[str]:
    return {name for name, node in snapshot.observed.nodes.items() if _is_application(node)}


def _is_application(node: Node) -> bool:
    return all(node.labels.get(key) == value for key, value in APPLICATION_NODE_SELECTOR.items())


def _affected(snapshot: Snapshot, present: Plan, plan: Plan, dead: Collection[str]) -> list[UUID]:
    """Who runs on a node that is down, in the order in which they would move."""
    there = {
        key
        for key in snapshot.desired.configs
        if _place(snapshot, present.findings.get(key), key) in dead
    }
    turn = {create.processor_id: number for number, create in enumerate(plan.creates)}
    return sorted(there, key=lambda key: (turn.get(key, _MANY), key.int))


def _place(snapshot: Snapshot, finding: Finding | None, processor_id: UUID) -> str | None:
    if finding is not None and finding.pod is not None and finding.pod.node_name is not None:
        return finding.pod.node_name
    own = snapshot.desired.ownership.get(processor_id)
    return None if own is None else own.node_name


def _named(snapshot: Snapshot, present: Plan, processor_id: UUID) -> dict[str, Any]:
    return {
        "id": str(processor_id),
        "name": snapshot.desired.configs[processor_id].name,
        "from_node": _place(snapshot, present.findings.get(processor_id), processor_id),
    }


def _outcome(create: Create | None, finding: Finding | None) -> dict[str, Any]:
    if create is not None and create.choice.node_name is not None:
        return {
            "outcome": "moves",
            "to_node": create.choice.node_name,
            "reason": str(create.reason),
            "detail": create.detail,
        }
    reason = Reason.ACTING if finding is None else finding.reason
    detail = "" if finding is None else finding.detail
    waits = create is not None or reason is Reason.NO_EDGE_NODE
    return {
        "outcome": "waits" if waits else "stays",
        "to_node": None,
        "reason": str(reason),
        "detail": detail if create is None else create.detail,
    }


def _times(number: int, limits: Limits, experience: Experience) -> dict[str, Any]:
    """In waves of so many as may move at once; each takes as long as moves have taken."""
    wave = number // max(limits.moves_max, 1) + 1
    each = experience.failover_seconds
    return {
        "wave": wave,
        "seconds": None if each is None else math.fsum((_detection_seconds(limits), wave * each)),
    }


def _detection_seconds(limits: Limits) -> float:
    """At most so long until a node that fell silent is known to be dead."""
    return limits.heartbeat_stale_seconds + limits.node_failure_grace_seconds
