"""Every metric name, once.

The first group is documented by the platform and keeps its names and labels. One process
serves `/metrics`; the samples of the other reach it as a value (`samples`, `absorb`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from dory_orchestrator.core.breaker import BreakerState
from dory_orchestrator.core.checkpoint import CaptureReason
from dory_orchestrator.core.directive import DirectiveReason
from dory_orchestrator.core.model import Directive
from dory_orchestrator.core.node_health import NodeState
from dory_orchestrator.core.plan import Decision, Reason, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_MOVE_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

CHECKPOINT_AGES_SECONDS = (5, 10, 15, 20, 30, 60, 120, 300, 900, 3600)

VALUES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "dory_circuit_breaker_state": {"component": ("database",)},
    "dory_circuit_breaker_transitions_total": {
        "component": ("database",),
        "from_state": tuple(BreakerState),
        "to_state": tuple(BreakerState),
    },
    "dory_webhook_deliveries_total": {"outcome": ("delivered", "failed", "dead")},
    "dory_database_errors_total": {"error_type": ("connection", "query", "timeout")},
    "dory_config_changes_total": {"change_type": ("added", "removed", "modified")},
    "dory_component_healthy": {
        "component": (
            "database",
            "kubernetes",
            "watcher",
            "reconciler",
            "health-poller",
            "heartbeats",
        )
    },
    "dory_shutdown_duration_seconds": {"component": ("http", "heartbeats")},
    "dory_reconciliation_errors_total": {
        "error_type": ("pod_creation", "pod_deletion", "scheduling", "timeout", "general")
    },
    "dory_pod_creation_errors_total": {
        "reason": (
            "quota",
            "invalid",
            "too_large",
            "forbidden",
            "already_exists",
            "not_found",
            "conflict",
            "namespace_missing",
            "namespace_terminating",
        )
    },
    "dory_pods_total": {"status": ("running", "pending", "terminating")},
    "dory_scheduling_decisions_total": {"decision": tuple(Decision)},
    "dory_heartbeats_total": {"outcome": ("recorded", "unrecorded", "locked", "shed", "anonymous")},
    "dory_heartbeats_refused_total": {
        "reason": ("malformed", "unauthorized", "too_large", "incomplete")
    },
    "dory_heartbeat_directives_total": {
        "directive": tuple(Directive),
        "reason": tuple(DirectiveReason),
    },
    "dory_hearing_gaps_total": {"cause": ("canary", "refused")},
    "dory_hearing_gap_seconds_total": {"cause": ("canary", "refused")},
    "dory_http_connections_closed_total": {
        "reason": (
            "idle",
            "room",
            "full",
            "slow_headers",
            "slow_body",
            "not_reading",
            "pipelined",
        )
    },
    "dory_processors": {"state": tuple(State)},
    "dory_edge_nodes": {"state": tuple(NodeState)},
    "dory_actions_total": {
        "action": (
            "create",
            "delete",
            "adopt",
            "failure",
            "forget",
            "failover",
            "failback",
            "departure",
            "moved",
            "move_cancelled",
        ),
        "reason": tuple(Reason),
        "outcome": ("granted", "refused"),
    },
    "dory_process_restarts_total": {"process": ("api", "control")},
    "dory_pod_probes_total": {"outcome": ("ready", "not_ready", "unreachable")},
    "dory_checkpoints_total": {
        "outcome": (
            "stored",
            "confirmed",
            "not_owner",
            "not_given",
            "unprotected",
            "frozen",
            "store_error",
            "unreachable",
            "unauthorized",
            "refused",
            *CaptureReason,
        )
    },
    "dory_checkpoint_age_seconds": {"le": (*map(str, CHECKPOINT_AGES_SECONDS), "+Inf")},
}
"""Of each label all values that there are, as words of the code: no label of these can grow.

What is not named here: `query_type`, the names of our statements, and `node`, the nodes of the
cluster; it goes with its node.
"""
_MADE_WHEN_KNOWN = (
    "dory_component_healthy",
    "dory_process_restarts_total",
    "dory_webhook_deliveries_total",
)
"""Not every process has all of these: 0 would say that something is ill that is not there."""

_MOVE_ACTIONS = (
    ("failover", Reason.NODE_DEAD),
    ("failback", Reason.GOES_HOME),
    ("departure", Reason.NODE_LEAVES),
    ("moved", Reason.MOVED),
    ("moved", Reason.UNPROVEN),
    ("move_cancelled", Reason.HOME_CAME_BACK),
    ("move_cancelled", Reason.HOME_FAILED),
)
"""How moves begin and end: rare, and so that the first of them is seen."""

Family = tuple[str, str, str, list[tuple[str, dict[str, str], float]]]
"""Name, documentation, type, and samples as (name, labels, value)."""


class Metrics:
    """The metrics of one process, in a registry of their own.

    With `process`, also what the process costs; with `process_namespace` the same under other
    names, for a process whose samples another one serves beside its own.
    """

    def __init__(self, *, process: bool = False, process_namespace: str = "") -> None:
        self.registry = CollectorRegistry()
        if process or process_namespace:
            ProcessCollector(namespace=process_namespace, registry=self.registry)
        if process:
            PlatformCollector(registry=self.registry)
            GCCollector(registry=self.registry)
        self._documented()
        self._our_own()
        self._make_known()

    def _documented(self) -> None:
        r = self.registry
        self.applications = Gauge(
            "dory_applications_total", "Desired processors, as read last.", registry=r
        )
        self.query_duration = Histogram(
            "dory_database_query_duration_seconds",
            "Latency of database statements, by name.",
            ["query_type"],
            buckets=_LATENCY_SECONDS,
            registry=r,
        )
        self.connections_active = Gauge(
            "dory_database_connections_active", "Open database connections.", registry=r
        )
        self.database_errors = Counter(
            "dory_database_errors_total",
            "Failed database statements; what a client got wrong is not counted.",
            ["error_type"],
            registry=r,
        )
        self.breaker_state = Gauge(
            "dory_circuit_breaker_state",
            "0 closed, 1 half-open, 2 open.",
            ["component"],
            registry=r,
        )
        self.breaker_transitions = Counter(
            "dory_circuit_breaker_transitions_total",
            "Changes of state of a circuit breaker.",
            ["component", "from_state", "to_state"],
            registry=r,
        )
        self.watcher_healthy = Gauge(
            "dory_config_watcher_healthy",
            "1 if the configurations were read lately; 0 too while the control process does not report.",
            registry=r,
        )
        self.watcher_errors = Counter(
            "dory_config_watcher_errors_total", "Failed readings of configurations.", registry=r
        )
        self.config_changes = Counter(
            "dory_config_changes_total",
            "Configurations that changed between two readings.",
            ["change_type"],
            registry=r,
        )
        self.component_healthy = Gauge(
            "dory_component_healthy",
            "1 if the component is healthy, else 0, as when it is degraded.",
            ["component"],
            registry=r,
        )
        self.startup_duration = Histogram(
            "dory_startup_duration_seconds", "From the start of a process to ready.", registry=r
        )
        self.shutdown_duration = Histogram(
            "dory_shutdown_duration_seconds",
            "How long parts of the API process took to end; told in its last moments only.",
            ["component"],
            registry=r,
        )
        self.reconciliation_queue_depth = Gauge(
            "dory_reconciliation_queue_depth",
            "Actions that are granted and not done yet.",
            registry=r,
        )
        self.reconciliation_errors = Counter(
            "dory_reconciliation_errors_total",
            "Failed cycles (general), actions (pod_creation, pod_deletion), either without an answer in time (timeout), pods that got no node (scheduling).",
            ["error_type"],
            registry=r,
        )
        self.pod_creation_errors = Counter(
            "dory_pod_creation_errors_total",
            "Pods that the cluster refused.",
            ["reason"],
            registry=r,
        )
        self.node_utilisation = Gauge(
            "dory_node_utilization_ratio",
            "Our pods by the most pods that the node takes.",
            ["node"],
            registry=r,
        )
        self.pods = Gauge(
            "dory_pods_total",
            "Pods that call themselves ours, those of another fleet too.",
            ["status"],
            registry=r,
        )
        self.nodes = Gauge("dory_nodes_total", "Nodes of the cluster.", registry=r)
        self.scheduling_decisions = Counter(
            "dory_scheduling_decisions_total",
            "Where new pods were placed: on a node (place), or on one that is yet to come (provision_node).",
            ["decision"],
            registry=r,
        )

    def _our_own(self) -> None:
        r = self.registry
        self.heartbeats = Counter(
            "dory_heartbeats_total",
            "Heartbeats answered 200, by what became of them; without the canary. locked: another transaction held the row; shed: too many waited; anonymous: without processor_id.",
            ["outcome"],
            registry=r,
        )
        self.heartbeats_refused = Counter(
            "dory_heartbeats_refused_total",
            "Heartbeats answered with an error, by cause.",
            ["reason"],
            registry=r,
        )
        self.heartbeat_directives = Counter(
            "dory_heartbeat_directives_total",
            "Directives given, by the rule that chose them.",
            ["directive", "reason"],
            registry=r,
        )
        self.heartbeat_queue_depth = Gauge(
            "dory_heartbeat_queue_depth", "Heartbeats that wait when a batch leaves.", registry=r
        )
        self.heartbeat_batch_size = Histogram(
            "dory_heartbeat_batch_size",
            "Heartbeats written together.",
            buckets=_BATCH_SIZES,
            registry=r,
        )
        self.heartbeat_batch_size_max = Gauge(
            "dory_heartbeat_batch_size_max", "The largest batch since the start.", registry=r
        )
        self.heartbeat_batch_duration = Histogram(
            "dory_heartbeat_batch_duration_seconds",
            "From a batch's departure to its answer.",
            buckets=_LATENCY_SECONDS,
            registry=r,
        )
        self.canary_age = Gauge(
            "dory_canary_age_seconds",
            "Since the last canary heartbeat that was recorded; -1 before the first.",
            registry=r,
        )
        self.hearing = Gauge(
            "dory_hearing", "1 if heartbeats reach the database, 0 in a gap of our own.", registry=r
        )
        self.gaps = Counter(
            "dory_hearing_gaps_total", "Gaps in our hearing that ended.", ["cause"], registry=r
        )
        self.gap_seconds = Counter(
            "dory_hearing_gap_seconds_total",
            "Length of the gaps in our hearing.",
            ["cause"],
            registry=r,
        )
        self.http_connections = Gauge("dory_http_connections", "Open HTTP connections.", registry=r)
        self.http_connections_closed = Counter(
            "dory_http_connections_closed_total",
            "HTTP connections that the service closed for their behaviour. room: it gave way to a new one; full: there was none to give way.",
            ["reason"],
            registry=r,
        )
        self.processors = Gauge(
            "dory_processors", "Processors that are looked after, by state.", ["state"], registry=r
        )
        self.processors_away = Gauge(
            "dory_processors_away",
            "Desired processors that live elsewhere than on their edge node.",
            registry=r,
        )
        self.moves_open = Gauge("dory_moves_open", "Moves that are under way.", registry=r)
        self.foreign_pods = Gauge(
            "dory_foreign_pods",
            "Pods that call themselves ours and belong to another fleet.",
            registry=r,
        )
        self.unknown_pods = Gauge(
            "dory_unknown_pods",
            "Processors that run in the cluster, and that the database has no row of and never owned.",
            registry=r,
        )
        self.stopped_rollouts = Gauge(
            "dory_stopped_rollouts",
            "Templates whose rollout stopped, as what was replaced did not become ready.",
            registry=r,
        )
        self.guard_held = Gauge(
            "dory_deletion_guard_held_pods", "Pods that the deletion guard keeps.", registry=r
        )
        self.edge_nodes = Gauge(
            "dory_edge_nodes", "Edge nodes, by how they are judged.", ["state"], registry=r
        )
        self.brake = Gauge(
            "dory_brake_engaged", "1 while the mass-failure brake holds all moves.", registry=r
        )
        self.rto = Histogram(
            "dory_move_rto_seconds",
            "Of moves that are complete: from the last sign of life to ready with state.",
            buckets=_MOVE_SECONDS,
            registry=r,
        )
        self.rpo = Histogram(
            "dory_move_rpo_seconds",
            "Of moves that are complete: age of the state used, at the last sign of life.",
            buckets=_MOVE_SECONDS,
            registry=r,
        )
        self.leader = Gauge("dory_leader", "1 if this process leads, else 0.", registry=r)
        self.leader_term = Gauge(
            "dory_leader_term", "The term that this process led in last.", registry=r
        )
        self.actions = Counter(
            "dory_actions_total",
            "Actions decided, and whether the store granted them. What begins a move is named as the move.",
            ["action", "reason", "outcome"],
            registry=r,
        )
        self.reconciliation_duration = Histogram(
            "dory_reconciliation_duration_seconds",
            "One cycle, from reading to the last writing.",
            buckets=_LATENCY_SECONDS,
            registry=r,
        )
        self.reconciliation_compute_duration = Histogram(
            "dory_reconciliation_compute_duration_seconds",
            "The deciding part of one cycle.",
            buckets=_LATENCY_SECONDS,
            registry=r,
        )
        self.reaction = Histogram(
            "dory_reconciliation_reaction_seconds",
            "From the first wake-up to the first call to the cluster that it led to.",
            buckets=_LATENCY_SECONDS,
            registry=r,
        )
        self.process_restarts = Counter(
            "dory_process_restarts_total",
            "Ends of a supervised process that were not asked for.",
            ["process"],
            registry=r,
        )
        self.pod_probe_duration = Histogram(
            "dory_pod_probe_duration_seconds",
            "From asking a pod for both probes to its answer, or to giving up.",
            buckets=_LATENCY_SECONDS,
            registry=r,
        )
        self.pod_probes = Counter(
            "dory_pod_probes_total",
            "Pods asked by the health poller, by what they said.",
            ["outcome"],
            registry=r,
        )
        self.pod_health_write_errors = Counter(
            "dory_pod_health_write_errors_total",
            "Groups of findings on pods that the database did not take.",
            registry=r,
        )
        self.checkpoints = Counter(
            "dory_checkpoints_total",
            "States asked for, by what became of them. confirmed: unchanged; all others but stored say why not.",
            ["outcome"],
            registry=r,
        )
        self.checkpoint_ages = Gauge(
            "dory_checkpoint_age_seconds",
            "Running processors whose newest checkpoint is no older than `le` seconds.",
            ["le"],
            registry=r,
        )
        self.webhook_deliveries = Counter(
            "dory_webhook_deliveries_total",
            "Events sent to webhooks: delivered, failed (and tried again), or dead.",
            ["webhook", "outcome"],
            registry=r,
        )
        self.webhook_lag = Gauge(
            "dory_webhook_lag_seconds",
            "Age of the event that a webhook is at; 0 when it has had all.",
            ["webhook"],
            registry=r,
        )

    def _make_known(self) -> None:
        """So that they are there with 0: `rate()` misses what begins with its first count."""
        for metric in vars(self).values():
            if not isinstance(metric, Counter | Gauge):
                continue
            name = name_of(metric)
            labels = VALUES.get(name, {})
            if len(labels) == 1 and name not in _MADE_WHEN_KNOWN:
                for value in next(iter(labels.values())):
                    metric.labels(value)
        for action, reason in _MOVE_ACTIONS:
            self.actions.labels(action, reason, "granted")

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def samples(self) -> list[Family]:
        """Everything counted here, as plain values that another process can absorb."""
        return [
            (
                family.name,
                family.documentation,
                family.type,
                [(s.name, dict(s.labels), s.value) for s in family.samples],
            )
            for family in self.registry.collect()
        ]


def name_of(metric: Counter | Gauge | Histogram) -> str:
    """As it is asked for, but for the suffixes of a histogram."""
    [family] = metric.describe()
    return f"{family.name}_total" if isinstance(metric, Counter) else str(family.name)


class MergedRegistry:
    """This process's metrics and another's, as one exposition without doubled families."""

    def __init__(self, own: Metrics) -> None:
        self._own = own
        self._other: list[Family] = []

    def absorb(self, families: list[Family]) -> None:
        """Replace what is known of the other process."""
        self._other = families

    def render(self) -> bytes:
        """The Prometheus text format."""
        registry = CollectorRegistry()
        registry.register(_Fixed(self._merge()))
        return generate_latest(registry)

    def _merge(self) -> Iterator[Metric]:
        other = {family[0]: family for family in self._other}
        for own in self._own.registry.collect():
            if own.name in other:
                _add(own, other.pop(own.name)[3])
            yield own
        for name, documentation, kind, samples in other.values():
            metric = Metric(name, documentation, kind)
            for sample_name, labels, value in samples:
                metric.add_sample(sample_name, labels, value)
            yield metric


def _add(metric: Metric, samples: Iterable[tuple[str, dict[str, str], float]]) -> None:
    """Counts add up; of two states the worse one stands, so that no trouble is hidden."""
    places = {(s.name, tuple(sorted(s.labels.items()))): i for i, s in enumerate(metric.samples)}
    for name, labels, value in samples:
        place = places.get((name, tuple(sorted(labels.items()))))
        if place is None:
            metric.add_sample(name, labels, value)
            continue
        before = metric.samples[place]
        if name.endswith("_created"):
            merged = min(before.value, value)
        elif name == "dory_circuit_breaker_state":
            merged = max(before.value, value)
        else:
            merged = before.value + value
        metric.samples[place] = before._replace(value=merged)


class _Fixed(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Any]:
        return self._metrics
