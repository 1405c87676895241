"""How nodes were judged: written when it changed, and told."""

from collections import Counter
from uuid import UUID

from dory_orchestrator.core.answering import explanation
from dory_orchestrator.core.brake import BrakeVerdict
from dory_orchestrator.core.model import Desired, EdgeNodeRow, node_key
from dory_orchestrator.core.node_health import NodeRecord, NodeState, NodeVerdict
from dory_orchestrator.core.plan import Plan
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Event, FleetStore, Lease, NodeHealth
from dory_orchestrator.tracing import NO_TRACER, Tracer

_log = get_logger(__name__)


class Judged:
    """Writes what changed since it was read: the database is what remembers."""

    def __init__(self, store: FleetStore, metrics: Metrics, tracer: Tracer = NO_TRACER) -> None:
        self._store = store
        self._metrics = metrics
        self._tracer = tracer

    async def write(self, lease: Lease, plan: Plan, desired: Desired) -> None:
        """Write verdicts that differ from the records, and the brake; tell what changed."""
        names = {node_key(row.id, row.name): (row.id, row.name) for row in _rows(desired)}
        wrong = _wrongly_shown(plan, desired)
        changed = {
            key: verdict
            for key, verdict in plan.nodes.items()
            if key in wrong or _differs(desired.node_records.get(key), verdict.record)
        }
        gone = [key for key in desired.node_records if key not in plan.nodes]
        brake = plan.brake if _brake_differs(plan, desired) else None
        if changed or gone or brake is not None:
            rows = [_row(key, verdict, names.get(key)) for key, verdict in changed.items()]
            await self._store.record_health(lease, rows, gone, brake)
        events = [
            _event(key, names.get(key), verdict)
            for key, verdict in changed.items()
            if _is_told(desired.node_records.get(key), verdict)
        ]
        if brake is not None:
            events += _brake_events(brake, desired)
        if events:
            trace_id = self._tracer.trace_id()
            traced = [event._replace(trace_id=trace_id) for event in events]
            await self._store.record_events(lease, traced)
        self._tell(events)
        self._count(plan)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            _log.warning(event.kind, reason=event.reason, detail=event.detail, node=event.node_name)

    def _count(self, plan: Plan) -> None:
        counts = Counter(v.state for key, v in plan.nodes.items() if key.startswith("edge "))
        for state in NodeState:
            self._metrics.edge_nodes.labels(state).set(counts[state])
        self._metrics.brake.set(bool(plan.brake is not None and plan.brake.engaged))


def _rows(desired: Desired) -> list[EdgeNodeRow]:
    return list(desired.edge_nodes.values())


def _differs(before: NodeRecord | None, now: NodeRecord) -> bool:
    """`last_well_at` of one that is well moves with the clock, and says nothing new."""
    if before is None:
        return True
    return (before.state, before.reason, before.suspect_since, before.well_since, before.falls) != (
        now.state,
        now.reason,
        now.suspect_since,
        now.well_since,
        now.falls,
    )


def _wrongly_shown(plan: Plan, desired: Desired) -> set[str]:
    """Edge nodes whose row says another thing than the verdict: somebody held it when it was to be
    written, or has written it since."""
    keys = {node_key(row.id, row.name): row.status for row in _rows(desired)}
    wrong = {"online": True, "offline": False}
    return {
        key
        for key, status in keys.items()
        if status in wrong and key in plan.nodes and plan.nodes[key].is_dead is wrong[status]
    }


def _is_told(before: NodeRecord | None, verdict: NodeVerdict) -> bool:
    if before is None:
        return verdict.state not in (NodeState.ONLINE, NodeState.DECOMMISSIONED)
    return before.state is not verdict.state


def _row(key: str, verdict: NodeVerdict, edge: tuple[UUID, str] | None) -> NodeHealth:
    edge_node_id, name = edge if edge is not None else (None, key.partition(" ")[2])
    return NodeHealth(key, name, edge_node_id, verdict.detail, verdict.is_dead, verdict.record)


def _event(key: str, edge: tuple[UUID, str] | None, verdict: NodeVerdict) -> Event:
    name = edge[1] if edge is not None else key.partition(" ")[2]
    said = (f"node_{verdict.state}", verdict.reason, verdict.detail)
    return Event(*said, node_name=name, explanation=explanation(*said, verdict.why))


def _brake_differs(plan: Plan, desired: Desired) -> bool:
    before, now = desired.brake, plan.brake
    if now is None:
        return False
    if before is None:
        return now.record.engaged_at is not None
    return (before.engaged_at, before.reason, before.population) != (
        now.record.engaged_at,
        now.record.reason,
        now.record.population,
    )


def _brake_events(brake: BrakeVerdict, desired: Desired) -> list[Event]:
    was = desired.brake is not None and desired.brake.engaged_at is not None
    engaged = brake.record.engaged_at is not None
    if was == engaged:
        return []
    said = ("brake", "engaged" if engaged else "released", brake.detail)
    return [Event(*said, explanation=explanation(*said, brake.why))]
