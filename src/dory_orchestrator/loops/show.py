"""What people are shown: states of processors, nodes, the guard, events, metrics.

Only what changed since the last cycle is written.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from uuid import UUID

from dory_orchestrator.core.answering import explanation
from dory_orchestrator.core.explaining import why
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    EDGE_NODE_SELECTOR,
    Desired,
    Node,
    Observation,
    Pod,
    PodPhase,
    Snapshot,
)
from dory_orchestrator.core.plan import Finding, GuardVerdict, NodeLoad, Plan, Reason, State
from dory_orchestrator.core.why import Rule, Why
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.move_traces import under_way
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Event, FleetStore, Lease, NodeSummary
from dory_orchestrator.tracing import NO_TRACER, Tracer

_log = get_logger(__name__)
_TOLD_STATES = (State.ERROR, State.HELD)
_READY, _STRANGER, _ROLLOUT = "ready", "stranger", "rollout"
_SAID = {
    _STRANGER: "a stranger's pod: it is not touched",
    _ROLLOUT: "a rollout has stopped: activate a version that becomes ready",
}
_NO_LOAD = NodeLoad(0, 0.0)
_NO_FINDING = Finding(Reason.ACTING, "")
_NO_NODE = NodeSummary("", "other", False, None, False, 0, 0, 0, 0, -1, 0.0)
_HELD_BEFORE = {"": (0, 0)}


class Display:
    """Remembers what was shown last, in one term: another leader may have shown other things."""

    def __init__(self, store: FleetStore, metrics: Metrics, tracer: Tracer = NO_TRACER) -> None:
        self._store = store
        self._metrics = metrics
        self._tracer = tracer
        self._lease: Lease | None = None
        self._is_marked = False
        self._findings: dict[UUID, Finding] = {}
        self._reasons: dict[UUID, str] = {}
        self._nodes: dict[str, NodeSummary] = {}
        self._guard: GuardVerdict | None = None
        self._held: Mapping[str, tuple[int, int]] = {}
        self._strangers: set[str] = set()
        self._stopped: set[str] = set()

    async def show(self, lease: Lease, plan: Plan, snapshot: Snapshot) -> None:
        """Write what changed. Raises StoreError; what was not written is written next time."""
        observed = snapshot.observed
        if lease != self._lease:
            await self._begin(lease, plan, snapshot.desired)
        await self._show_guard(lease, plan.guard, len(snapshot.desired.configs))
        await self._tell(lease, plan, snapshot)
        await self._show_findings(lease, plan.findings)
        await self._show_nodes(lease, plan, observed)
        if not self._is_marked:
            await self._store.mark_shown(lease)
            self._is_marked = True
        self._count(plan, observed, snapshot.desired)

    async def _begin(self, lease: Lease, plan: Plan, desired: Desired) -> None:
        """Everything is written anew; what the leader before told is not told again."""
        self._reasons, nodes = await self._store.shown()
        self._findings = dict.fromkeys(self._reasons, _NO_FINDING)
        self._nodes = dict.fromkeys(nodes, _NO_NODE)
        # Nodes that have gone while another led are in no list of ours.
        self._metrics.node_utilisation.clear()
        self._guard = None
        was_held = desired.guard.held_since is not None
        self._held = (plan.guard.tripped or _HELD_BEFORE) if was_held else {}
        self._is_marked = False
        self._lease = lease

    # The guard

    async def _show_guard(self, lease: Lease, verdict: GuardVerdict, desired: int) -> None:
        before = self._guard
        self._metrics.guard_held.set(len(verdict.held))
        if before is None or (before.tripped, before.detail) != (verdict.tripped, verdict.detail):
            await self._store.record_guard(lease, verdict)
            self._guard = verdict
        if self._held == verdict.tripped:
            return
        said = ("held", verdict.detail) if verdict.holds else ("released", "nothing is held")
        told = explanation("guard", *said, _why_held(verdict))
        event = self._traced(Event("guard", *said, explanation=told))
        await self._store.record_events(lease, [event])
        self._held = verdict.tripped
        if verdict.holds:
            groups = {group: f"{left} of {most}" for group, (most, left) in verdict.tripped.items()}
            _log.error(
                "the deletion guard holds: put the rows back, and it lets go by itself;"
                " or confirm: dory-orchestrator guard confirm",
                run_on=len(verdict.held),
                desired=desired,
                groups=groups,
            )
        else:
            _log.info("the deletion guard holds nothing any more")

    # Events

    async def _tell(self, lease: Lease, plan: Plan, snapshot: Snapshot) -> None:
        events = [
            *self._events(plan, snapshot),
            *self._stranger_events(plan),
            *self._rollout_events(plan),
        ]
        events = [self._traced(event, snapshot.desired) for event in events]
        if events:
            await self._store.record_events(lease, events)
        # Only now: what could not be written is told next time.
        self._reasons = {key: str(finding.reason) for key, finding in plan.findings.items()}
        self._strangers = {pod.uid for pod in plan.strangers}
        self._stopped = set(plan.stopped_rollouts)
        for event in events:
            if event.kind != _READY:
                _log.warning(
                    _SAID.get(event.kind, f"processor {event.kind}"),
                    processor_id=str(event.processor_id),
                    pod=event.pod_name,
                    reason=event.reason,
                    detail=event.detail,
                )

    def _traced(self, event: Event, desired: Desired | None = None) -> Event:
        """With the trace of its processor's move, else of this cycle."""
        key = event.processor_id
        move = None if desired is None or key is None else under_way(key, desired.moves)
        return event._replace(trace_id=self._tracer.trace_id(move))

    def _events(self, plan: Plan, snapshot: Snapshot) -> Iterator[Event]:
        for processor_id, finding in plan.findings.items():
            if self._reasons.get(processor_id) == finding.reason:
                continue
            if finding.reason is Reason.RUNNING or finding.state in _TOLD_STATES:
                kind = _READY if finding.reason is Reason.RUNNING else str(finding.state)
                told = why(snapshot, plan, processor_id)
                said = explanation(kind, finding.reason, finding.detail, told)
                yield _finding_event(kind, processor_id, finding)._replace(explanation=said)

    def _stranger_events(self, plan: Plan) -> Iterator[Event]:
        for pod in plan.strangers:
            if pod.uid not in self._strangers:
                whose = f"fleet {pod.fleet_id}" if pod.fleet_id else "no fleet"
                detail = f"pod {pod.namespace}/{pod.name} calls itself ours and is of {whose}"
                yield Event.of_pod(_STRANGER, Reason.FOREIGN_FLEET, detail, pod.processor_id, pod)

    def _rollout_events(self, plan: Plan) -> Iterator[Event]:
        """One for each template: of its processors there may be thousands."""
        for slug, detail in plan.stopped_rollouts.items():
            if slug not in self._stopped:
                yield Event(_ROLLOUT, Reason.ROLLOUT_STOPPED, f"{slug}: {detail}")

    # Processors

    async def _show_findings(self, lease: Lease, findings: Mapping[UUID, Finding]) -> None:
        changed = {k: f for k, f in findings.items() if self._findings.get(k) != f}
        gone = [key for key in self._findings if key not in findings]
        if changed or gone:
            await self._store.record_findings(lease, changed, gone)
        self._findings = dict(findings)

    # Nodes

    async def _show_nodes(self, lease: Lease, plan: Plan, observed: Observation) -> None:
        nodes = {
            name: _summary(node, plan.node_loads.get(name, _NO_LOAD))
            for name, node in observed.nodes.items()
        }
        changed = [node for name, node in nodes.items() if self._nodes.get(name) != node]
        gone = [name for name in self._nodes if name not in nodes]
        if changed or gone:
            await self._store.record_nodes(lease, changed, gone)
        for node in changed:
            ratio = node.pods / max(node.pods_max, 1)
            self._metrics.node_utilisation.labels(node.name).set(ratio)
        for name in gone:
            self._metrics.node_utilisation.remove(name)
        self._nodes = nodes

    # Metrics

    def _count(self, plan: Plan, observed: Observation, desired: Desired) -> None:
        pods = Counter(_pod_status(pod) for pod in observed.pods.values())
        for status in ("running", "pending", "terminating"):
            self._metrics.pods.labels(status).set(pods[status])
        self._metrics.foreign_pods.set(len(plan.strangers))
        self._metrics.stopped_rollouts.set(len(plan.stopped_rollouts))
        self._metrics.nodes.set(len(observed.nodes))
        self._metrics.processors_away.set(len(desired.homes.keys() & desired.configs.keys()))
        self._metrics.moves_open.set(len(desired.moves))
        states = Counter(finding.state for finding in plan.findings.values())
        for state in State:
            self._metrics.processors.labels(state).set(states[state])


def _why_held(verdict: GuardVerdict) -> Why:
    """Of each group how many were desired at most, and how many are."""
    counts = {
        f"{group}: {word}": count
        for group, numbers in verdict.tripped.items()
        for word, count in zip(("most", "left"), numbers, strict=True)
    }
    known = {"held_pods": len(verdict.held), **counts}
    asked = (Rule.GUARD_HELD, verdict.holds, (", ".join(verdict.tripped),))
    return Why(lambda: known, [asked])


def _summary(node: Node, load: NodeLoad) -> NodeSummary:
    return NodeSummary(
        node.name,
        _kind(node),
        node.ready,
        node.ready_changed_at,
        node.unschedulable,
        node.allocatable.cpu_millicores,
        node.allocatable.memory_bytes,
        node.allocatable.gpu_count,
        node.pods_max,
        load.pods,
        load.utilisation,
    )


def _kind(node: Node) -> str:
    for kind, selector in (
        ("edge", EDGE_NODE_SELECTOR),
        ("application", APPLICATION_NODE_SELECTOR),
    ):
        if all(node.labels.get(key) == value for key, value in selector.items()):
            return kind
    return "other"


def _pod_status(pod: Pod) -> str:
    if pod.terminating:
        return "terminating"
    return "running" if pod.phase is PodPhase.RUNNING else "pending"


def _finding_event(kind: str, processor_id: UUID, finding: Finding) -> Event:
    if finding.pod is None:
        return Event(kind, finding.reason, finding.detail, processor_id)
    return Event.of_pod(kind, finding.reason, finding.detail, processor_id, finding.pod)
