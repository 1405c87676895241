"""How all nodes are, and whether the brake holds: judged once a cycle, before anything moves."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from dory_orchestrator.core import brake, node_health
from dory_orchestrator.core.brake import BrakeReason, BrakeRecord, BrakeVerdict
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    CANARY,
    EdgeNodeRow,
    Gap,
    Limits,
    MoveKind,
    Node,
    Pod,
    PodPhase,
    Snapshot,
    node_key,
)
from dory_orchestrator.core.node_health import (
    Answering,
    NodeFacts,
    NodeVerdict,
    pretended,
    with_fresh_grace,
)
from dory_orchestrator.core.node_rows import NodeRows

_MANAGED = "managed"
"""Application nodes have no row that could say that they are decommissioned."""


@dataclass(frozen=True, slots=True)
class FleetHealth:
    """The verdicts: of edge nodes by id, of application nodes by name."""

    edge_nodes: Mapping[UUID, NodeVerdict]
    """As moves see them: the node of a drill is dead."""
    application_nodes: Mapping[str, NodeVerdict]
    brake: BrakeVerdict
    names: Mapping[UUID, str] = field(default_factory=dict)
    judged: Mapping[UUID, NodeVerdict] = field(default_factory=dict)
    """The edge nodes as they are."""

    def verdicts(self) -> dict[str, NodeVerdict]:
        """All of them, by `node_key`."""
        found = {node_key(key, self.names[key]): one for key, one in self.judged.items()}
        return found | {node_key(None, key): one for key, one in self.application_nodes.items()}

    @property
    def wake_at(self) -> float | None:
        """When the first of them changes by the passing of time alone."""
        verdicts = (*self.edge_nodes.values(), *self.application_nodes.values())
        moments = [one.wake_at for one in verdicts if one.wake_at is not None]
        if self.brake.wake_at is not None:
            moments.append(self.brake.wake_at)
        return min(moments, default=None)


def judge(
    snapshot: Snapshot,
    pods_of_node: Mapping[str, Iterable[Pod]],
    limits: Limits,
    *,
    explained: bool = False,
) -> FleetHealth:
    """Judge every edge node of the database and every application node of the cluster."""
    desired, nodes = snapshot.desired, snapshot.observed.nodes
    rows = NodeRows(desired)
    removed_from = _removed_from(snapshot, rows)

    def judged(row: EdgeNodeRow | None, name: str) -> NodeVerdict:
        pods, removed = pods_of_node.get(name, ()), False
        if row is not None:
            pods = rows.pods_of(row, pods)
            removed = row.id in removed_from and not pods
        return _judge(snapshot, row, nodes.get(name), pods, limits, explained, removed)

    edge_nodes = {row.id: judged(row, row.name) for row in desired.edge_nodes.values()}
    application_nodes = {
        name: judged(None, name) for name, node in nodes.items() if _is_application_node(node)
    }
    verdict = brake.judge(
        edge_nodes,
        _moved_away(snapshot),
        desired.brake or BrakeRecord(),
        now=snapshot.now,
        limits=limits,
    )
    if verdict.reason is BrakeReason.RELEASED:
        # A site mostly comes back node by node: the last ones must not be moved as they return.
        edge_nodes |= {
            key: with_fresh_grace(edge_nodes[key], snapshot.now, limits) for key in verdict.suspects
        }
    names = {row.id: row.name for row in desired.edge_nodes.values()}
    effective = {**edge_nodes, **_drilled(snapshot, edge_nodes)}
    return FleetHealth(effective, application_nodes, verdict, names, edge_nodes)


def _removed_from(snapshot: Snapshot, rows: NodeRows) -> frozenset[UUID]:
    """Edge nodes that the cluster does not have any more, and whose pods it has removed: of each
    pod that owns and that we did not end it says that there is none."""
    desired, observed, looked_up = snapshot.desired, snapshot.observed, snapshot.looked_up
    if all(row.name in observed.nodes for row in desired.edge_nodes.values()):
        return frozenset()
    removed: set[UUID] = set()
    left: set[UUID] = set()
    for key, own in desired.ownership.items():
        if own.node_name is None or own.node_name in observed.nodes or own.pod_uid is None:
            continue
        row = rows.of(key, own.node_name)
        if row is None:
            continue
        is_known = looked_up is None or own.pod_uid in looked_up
        is_there = looked_up is not None and looked_up.get(own.pod_uid) is not None
        if own.pod_uid in observed.pods or is_there or not is_known:
            left.add(row.id)
        elif own.restart_reason is None:
            removed.add(row.id)
    return frozenset(removed - left)


def _drilled(
    snapshot: Snapshot, edge_nodes: Mapping[UUID, NodeVerdict]
) -> Mapping[UUID, NodeVerdict]:
    drill, now = snapshot.desired.drill, snapshot.now
    verdict = edge_nodes.get(drill.edge_node_id) if drill is not None else None
    if drill is None or verdict is None or not verdict.is_well or not drill.runs(now):
        return {}
    return {drill.edge_node_id: pretended(verdict, drill.by, drill.until, now)}


def pods_of_node(pods: Iterable[Pod]) -> Mapping[str, list[Pod]]:
    """Our pods by the node that they are on."""
    found: defaultdict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.node_name is not None:
            found[pod.node_name].append(pod)
    return found


def _judge(
    snapshot: Snapshot,
    row: EdgeNodeRow | None,
    node: Node | None,
    pods: Iterable[Pod],
    limits: Limits,
    explained: bool,
    pods_removed: bool,
) -> NodeVerdict:
    name = row.name if row is not None else node.name if node is not None else ""
    heard_at = None if row is None else row.last_heartbeat_at
    facts = NodeFacts(
        node=node,
        status=_MANAGED if row is None else row.status,
        last_heartbeat_at=heard_at,
        beating_since=_beating_since(pods, heard_at, snapshot.desired.heartbeats),
        answering=_answering(pods, snapshot.answers),
        record=snapshot.desired.node_records.get(node_key(row.id if row else None, name)),
        pods_removed=pods_removed,
    )
    gaps = _gaps_that_count(snapshot.desired.gaps, facts)
    return node_health.judge(facts, now=snapshot.now, gaps=gaps, limits=limits, explained=explained)


def _gaps_that_count(gaps: Sequence[Gap], facts: NodeFacts) -> Sequence[Gap]:
    """That beats were refused, whoever reaches our port can bring about. It explains silence; it
    does not explain a node that the cluster has lost too, and whose pods do not answer us."""
    is_ready = facts.node is not None and facts.node.ready
    if is_ready or facts.answering is not Answering.NO:
        return gaps
    return [gap for gap in gaps if gap.cause == CANARY]


def _beating_since(
    pods: Iterable[Pod], heard_at: float | None, heartbeats: Mapping[UUID, float | None]
) -> float | None:
    """Since when the node should be heard: a running pod that has not beaten since its start may
    be one that never does. Of a processor that `heartbeats` does not know the node's word
    counts."""
    if heard_at is None:
        return None

    def has_beaten(pod: Pod) -> bool:
        at = heartbeats.get(pod.processor_id, heard_at) if pod.processor_id else heard_at
        return at is not None and pod.started_at is not None and pod.started_at <= at

    moments = [
        pod.ready_changed_at if pod.ready and pod.ready_changed_at else pod.started_at
        for pod in pods
        if pod.phase is PodPhase.RUNNING and not pod.terminating and has_beaten(pod)
    ]
    return max((moment for moment in moments if moment is not None), default=None)


def _answering(pods: Iterable[Pod], answers: Mapping[str, bool]) -> Answering:
    """One that answers is enough; for a no, each has to be asked."""
    asked = [answers.get(pod.uid) for pod in pods if pod.phase is PodPhase.RUNNING]
    if any(asked):
        return Answering.YES
    return Answering.UNKNOWN if not asked or None in asked else Answering.NO


def _moved_away(snapshot: Snapshot) -> frozenset[UUID]:
    """Edge nodes that nothing is left on to be moved. One whose processor only leaves, and runs on
    there until its state was taken, is not: it must not be missing where the brake counts."""
    desired = snapshot.desired
    left = frozenset(desired.homes.values()) - frozenset(desired.links.values())
    return left - {
        move.edge_node_id
        for move in desired.moves.values()
        if move.kind is MoveKind.DEPARTURE and move.old_uid in snapshot.observed.pods
    }


def _is_application_node(node: Node) -> bool:
    return all(node.labels.get(key) == value for key, value in APPLICATION_NODE_SELECTOR.items())
