"""Writes `deploy/grafana/dory-orchestrator.json`: the dashboard, from a description of its panels.

    python -m tests.deploy.dashboard

A panel says what it shows, in which unit, and what to think of it. Where it stands follows from the
order and the sizes. For Grafana 10 and later; the source of data is chosen on the dashboard.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "deploy/grafana/dory-orchestrator.json"
COLUMNS = 24
_SCHEMA_VERSION = 39
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WINDOW = "[$__rate_interval]"
_GOOD, _WARNING, _BAD = "green", "orange", "red"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and how its series are called: `{{label}}` is the value of one."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `steps` colour its values: from each number on, the colour beside it. `words`
    stand in place of numbers."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: Sequence[tuple[float | None, str]] = ((None, _GOOD),)
    words: Mapping[str, str] = field(default_factory=dict)
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


def _of(name: str, **labels: str) -> str:
    """The series of a metric, of the chosen orchestrators."""
    said = "".join(f', {label}=~"{values}"' for label, values in labels.items())
    return f'{name}{{job=~"$job"{said}}}'


def _led(name: str, **labels: str) -> str:
    """The same, as the leader says it: others say what was when they led."""
    return f"({_of(name, **labels)} and on (instance) {_of('dory_leader')} == 1)"


def _rate(name: str, by: str = "", **labels: str) -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({_of(name, **labels)}{_WINDOW}))"


def _count(name: str, by: str = "", **labels: str) -> str:
    """How often, in the time that is shown."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (increase({_of(name, **labels)}[$__range]))"


def _quantiles(name: str, *shares: float, window: str = _WINDOW) -> list[Query]:
    buckets = f"sum by (le) (rate({_of(f'{name}_bucket')}{window}))"
    return [Query(f"histogram_quantile({q}, {buckets})", f"{q:.0%}") for q in shares]


def _stat(title: str, description: str, expression: str, **options: Any) -> Panel:
    return Panel(
        title,
        description,
        options.pop("unit", "short"),
        [Query(expression)],
        kind="stat",
        width=options.pop("width", 3),
        height=4,
        **options,
    )


_STATE = Row(
    "State",
    [
        _stat(
            "Leader",
            "How many lead: it should be one. See DoryNoLeader.",
            f"sum({_of('dory_leader')})",
            steps=((None, _BAD), (1, _GOOD), (2, _BAD)),
        ),
        _stat(
            "Ready",
            "Whether database and cluster answer, by the one that sees it worst. See the probe"
            " /readyz.",
            f"min({_of('dory_component_healthy', component='database|kubernetes')})",
            unit="bool_yes_no",
            steps=((None, _BAD), (1, _GOOD)),
        ),
        _stat(
            "Desired",
            "Processors that should run.",
            f"max({_led('dory_applications_total')})",
        ),
        _stat(
            "Running",
            "Of the processors that are looked after, the share that runs.",
            f"sum({_led('dory_processors', state='running')}) / sum({_led('dory_processors')})",
            unit="percentunit",
            steps=((None, _BAD), (0.9, _WARNING), (0.999, _GOOD)),
        ),
        _stat(
            "Away",
            "Processors that live elsewhere than on their edge node.",
            f"sum({_led('dory_processors_away')})",
            steps=((None, _GOOD), (1, _WARNING)),
        ),
        _stat(
            "Brake",
            "Whether the mass-failure brake holds all moves. See DoryBrakeEngaged.",
            f"max({_led('dory_brake_engaged')})",
            steps=((None, _GOOD), (1, _BAD)),
            words={"0": "off", "1": "HOLDS"},
        ),
        _stat(
            "Kept by the guard",
            "Pods that the deletion guard keeps: somebody must look. See DoryDeletionGuardHeld.",
            f"max({_led('dory_deletion_guard_held_pods')})",
            steps=((None, _GOOD), (1, _BAD)),
        ),
        _stat(
            "Hearing",
            "Age of the last heartbeat of our own that was recorded, of the one that hears worst. Old:"
            " nobody's reaches the database. See DoryHeartbeatsNotRecorded.",
            f"max({_of('dory_canary_age_seconds')})",
            unit="s",
            steps=((None, _BAD), (0, _GOOD), (3, _WARNING), (10, _BAD)),
        ),
        Panel(
            "Processors by state",
            "What the leader found in its last cycle. `error` and `held` do not get better by"
            " themselves.",
            "short",
            [Query(f"sum by (state) ({_led('dory_processors')})", "{{state}}")],
            width=12,
            stacked=True,
        ),
        Panel(
            "Components",
            "1 while a component is healthy. /healthz says why it is not.",
            "bool_yes_no",
            [
                Query(
                    f"min by (component) ({_of('dory_component_healthy')})",
                    "{{component}}",
                )
            ],
            width=12,
        ),
    ],
)
_HEARTBEATS = Row(
    "Heartbeats",
    [
        Panel(
            "Heartbeats",
            "Answered 200, a second, by what became of them.",
            "reqps",
            [Query(_rate("dory_heartbeats_total", "outcome"), "{{outcome}}")],
            stacked=True,
        ),
        Panel(
            "Not recorded",
            "Answered, and not written: unrecorded (the database refused), locked (another"
            " transaction held the row), shed (too many waited). See DoryHeartbeatsNotAcknowledged.",
            "reqps",
            [
                Query(
                    _rate("dory_heartbeats_total", "outcome", outcome="unrecorded|locked|shed"),
                    "{{outcome}}",
                )
            ],
        ),
        Panel(
            "Refused",
            "Answered with an error, by cause. unauthorized: another token. See"
            " DoryHeartbeatsRefused.",
            "reqps",
            [Query(_rate("dory_heartbeats_refused_total", "reason"), "{{reason}}")],
        ),
        Panel(
            "Time of a batch",
            "From a batch's departure to its answer: what a heartbeat waits for, mostly.",
            "s",
            _quantiles("dory_heartbeat_batch_duration_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Size of a batch, and who waits",
            "Heartbeats that are written together on average, and that wait when a batch leaves.",
            "short",
            [
                Query(
                    f"{_rate('dory_heartbeat_batch_size_sum')} /"
                    f" {_rate('dory_heartbeat_batch_size_count')}",
                    "written together",
                ),
                Query(f"sum({_of('dory_heartbeat_queue_depth')})", "waiting"),
            ],
        ),
        Panel(
            "Told to shut down",
            "Directives `shutdown`, a second, by the rule that chose them.",
            "reqps",
            [
                Query(
                    _rate("dory_heartbeat_directives_total", "reason", directive="shutdown"),
                    "{{reason}}",
                )
            ],
        ),
        Panel(
            "Connections",
            "Open HTTP connections, and those that were closed for their behaviour, a second.",
            "short",
            [
                Query(f"sum({_of('dory_http_connections')})", "open"),
                Query(_rate("dory_http_connections_closed_total", "reason"), "closed: {{reason}}"),
            ],
            width=12,
        ),
        Panel(
            "Gaps in hearing",
            "Share of time in which heartbeats could not be recorded, or were refused in numbers."
            " It is told when a gap has ended.",
            "percentunit",
            [Query(_rate("dory_hearing_gap_seconds_total", "cause"), "{{cause}}")],
            width=12,
        ),
    ],
)
_MOVES = Row(
    "Moves",
    [
        _stat(
            "Under way",
            "Moves that have not ended. See DoryMoveTakesLong.",
            f"sum({_led('dory_moves_open')})",
            steps=((None, _GOOD), (1, _WARNING)),
            width=4,
        ),
        _stat(
            "Complete",
            "Moves that ended with the processor ready and in possession of its state, in the time"
            " that is shown.",
            _count("dory_move_rto_seconds_count"),
            width=4,
        ),
        _stat(
            "Without what it was for",
            "Moves that ended unproven (the state could not be given), or whose home failed on the"
            " way. See DoryMoveFailed.",
            _count("dory_actions_total", reason="unproven|home_failed", outcome="granted"),
            steps=((None, _GOOD), (1, _WARNING)),
            width=4,
        ),
        Panel(
            "Begun and ended",
            "Of each kind, in five minutes.",
            "short",
            [
                Query(
                    "sum by (action) (increase("
                    + _of(
                        "dory_actions_total",
                        action="failover|failback|departure|moved|move_cancelled",
                        outcome="granted",
                    )
                    + "[5m]))",
                    "{{action}}",
                )
            ],
            width=12,
        ),
        Panel(
            "RTO",
            "Of moves that are complete: from the last sign of life until ready with state. Over an"
            " hour, as they are few.",
            "s",
            _quantiles("dory_move_rto_seconds", 0.5, 0.95, window="[1h]"),
        ),
        Panel(
            "RPO",
            "Of moves that are complete: how old the state was at the last sign of life, at most."
            " Over an hour, as they are few.",
            "s",
            _quantiles("dory_move_rpo_seconds", 0.5, 0.95, window="[1h]"),
        ),
        Panel(
            "Edge nodes",
            "By how the leader judges them. See DoryEdgeNodeOffline.",
            "short",
            [Query(f"sum by (state) ({_led('dory_edge_nodes')})", "{{state}}")],
            stacked=True,
        ),
    ],
)
_WEBHOOKS = Row(
    "Webhooks",
    [
        Panel(
            "Deliveries",
            "Events that receivers took, that are tried again, and that are dead letters. See"
            " DoryWebhookDeadLetters.",
            "ops",
            [
                Query(
                    _rate("dory_webhook_deliveries_total", "webhook, outcome"),
                    "{{webhook}} {{outcome}}",
                )
            ],
        ),
        Panel(
            "Lag",
            "Age of the event that each webhook is at. See DoryWebhookLags.",
            "s",
            [Query(f"max by (webhook) ({_of('dory_webhook_lag_seconds')})", "{{webhook}}")],
        ),
    ],
)
_CHECKPOINTS = Row(
    "Checkpoints",
    [
        Panel(
            "Age of the newest checkpoint",
            "How many running processors have one that is no older. What dies now loses as much."
            " See DoryCheckpointsMissing.",
            "short",
            [
                Query(
                    "sum by (le) ("
                    + _of("dory_checkpoint_age_seconds", le=r"15|60|300|3600|\\+Inf")
                    + ")",
                    "{{le}} s",
                )
            ],
        ),
        Panel(
            "Taken",
            "States asked for, a second, by what became of them. confirmed: it was the same.",
            "ops",
            [
                Query(
                    _rate("dory_checkpoints_total", "outcome", outcome="stored|confirmed"),
                    "{{outcome}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            "Not taken",
            "The same, of those from which nothing came. See DoryCheckpointsRefused.",
            "ops",
            [
                Query(
                    "sum by (outcome) (rate("
                    + _of("dory_checkpoints_total").replace("}", ', outcome!~"stored|confirmed"}')
                    + f"{_WINDOW})) > 0",
                    "{{outcome}}",
                )
            ],
        ),
        Panel(
            "Pods asked for their health",
            "A second, by what they said; and how long they took.",
            "ops",
            [Query(_rate("dory_pod_probes_total", "outcome"), "{{outcome}}")],
            width=12,
            stacked=True,
        ),
        Panel(
            "Time of asking a pod",
            "Until its answer, or giving up.",
            "s",
            _quantiles("dory_pod_probe_duration_seconds", 0.5, 0.95, 0.99),
            width=12,
        ),
    ],
)
_DATABASE = Row(
    "Database",
    [
        Panel(
            "Slowest statements",
            "The 95 % quantile of the five that take longest.",
            "s",
            [
                Query(
                    "topk(5, histogram_quantile(0.95, sum by (le, query_type) (rate("
                    + _of("dory_database_query_duration_seconds_bucket")
                    + f"{_WINDOW}))))",
                    "{{query_type}}",
                )
            ],
        ),
        Panel(
            "Statements",
            "A second, of the five that are most frequent.",
            "ops",
            [
                Query(
                    f"topk(5, {_rate('dory_database_query_duration_seconds_count', 'query_type')})",
                    "{{query_type}}",
                )
            ],
        ),
        Panel(
            "Errors",
            "Failed statements, a second. See DoryDatabaseUnreachable.",
            "ops",
            [Query(_rate("dory_database_errors_total", "error_type"), "{{error_type}}")],
        ),
        Panel(
            "Connections",
            "Open ones, of all processes.",
            "short",
            [
                Query(
                    f"sum by (instance) ({_of('dory_database_connections_active')})", "{{instance}}"
                )
            ],
        ),
        Panel(
            "Circuit breaker",
            "Open: calls fail at once, so that nobody waits for a database that is away.",
            "short",
            [Query(f"max by (instance) ({_of('dory_circuit_breaker_state')})", "{{instance}}")],
            words={"0": "closed", "1": "half-open", "2": "open"},
        ),
        Panel(
            "Configurations that changed",
            "Between two readings, in five minutes; and readings that failed.",
            "short",
            [
                Query(
                    f"sum by (change_type) (increase({_of('dory_config_changes_total')}[5m]))",
                    "{{change_type}}",
                ),
                Query(
                    f"sum(increase({_of('dory_config_watcher_errors_total')}[5m]))",
                    "failed readings",
                ),
            ],
        ),
    ],
)
_CLUSTER = Row(
    "Cluster and pods",
    [
        Panel(
            "Pods",
            "Those that call themselves ours, by status, and those of them that are of another"
            " fleet. See DoryForeignPods.",
            "short",
            [
                Query(f"sum by (status) ({_led('dory_pods_total')})", "{{status}}"),
                Query(f"sum({_led('dory_foreign_pods')})", "of another fleet"),
                Query(f"sum({_led('dory_unknown_pods')})", "unknown to the database"),
            ],
        ),
        Panel(
            "Fullest nodes",
            "Our pods by the most pods that the node takes: the ten fullest of"
            " all nodes of the cluster.",
            "percentunit",
            [Query(f"topk(10, {_led('dory_node_utilization_ratio')})", "{{node}}")],
        ),
        Panel(
            "Nodes",
            "Of the cluster, as the leader sees it.",
            "short",
            [Query(f"max({_led('dory_nodes_total')})", "nodes")],
        ),
        Panel(
            "Actions",
            "Granted by the store, in five minutes.",
            "short",
            [
                Query(
                    "sum by (action) (increase("
                    + _of("dory_actions_total", outcome="granted")
                    + "[5m]))",
                    "{{action}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            "Errors",
            "Of cycles and actions, in five minutes; and why the cluster refused pods. See"
            " DoryCyclesFail.",
            "short",
            [
                Query(
                    f"sum by (error_type) (increase({_of('dory_reconciliation_errors_total')}[5m]))"
                    " > 0",
                    "{{error_type}}",
                ),
                Query(
                    f"sum by (reason) (increase({_of('dory_pod_creation_errors_total')}[5m])) > 0",
                    "refused: {{reason}}",
                ),
            ],
        ),
        Panel(
            "Where new pods were placed",
            "provision_node: no node had room, and the pod waits for one that is yet to come. In"
            " five minutes.",
            "short",
            [
                Query(
                    f"sum by (decision) (increase({_of('dory_scheduling_decisions_total')}[5m]))",
                    "{{decision}}",
                )
            ],
        ),
        Panel(
            "Time of a cycle",
            "From reading to the last writing; its deciding part; and from a change to the first"
            " call that it led to.",
            "s",
            [
                Query(
                    f"histogram_quantile(0.95, sum by (le) (rate({_of(f'{name}_bucket')}{_WINDOW})))",
                    legend,
                )
                for name, legend in (
                    ("dory_reconciliation_duration_seconds", "cycle, 95%"),
                    ("dory_reconciliation_compute_duration_seconds", "deciding, 95%"),
                    ("dory_reconciliation_reaction_seconds", "reaction, 95%"),
                )
            ],
            width=12,
        ),
        Panel(
            "Not done yet",
            "Actions that are granted and under way, and rollouts that stopped. See"
            " DoryRolloutStopped.",
            "short",
            [
                Query(f"sum({_led('dory_reconciliation_queue_depth')})", "actions"),
                Query(f"sum({_led('dory_stopped_rollouts')})", "stopped rollouts"),
            ],
            width=12,
        ),
    ],
)
_PROCESS = Row(
    "Process",
    [
        Panel(
            "CPU",
            "Cores that each process uses.",
            "short",
            [
                Query(
                    f"sum by (instance) (rate({_of('process_cpu_seconds_total')}{_WINDOW}))",
                    "{{instance}}: API",
                ),
                Query(
                    "sum by (instance) (rate("
                    + _of("dory_control_process_cpu_seconds_total")
                    + f"{_WINDOW}))",
                    "{{instance}}: control",
                ),
            ],
        ),
        Panel(
            "Memory",
            "Resident, of each process. The limit of the pod holds both.",
            "bytes",
            [
                Query(
                    f"sum by (instance) ({_of('process_resident_memory_bytes')})",
                    "{{instance}}: API",
                ),
                Query(
                    f"sum by (instance) ({_of('dory_control_process_resident_memory_bytes')})",
                    "{{instance}}: control",
                ),
            ],
        ),
        Panel(
            "Restarts of processes",
            "Ends that nobody asked for, in a quarter of an hour. See DoryProcessRestarts.",
            "short",
            [
                Query(
                    "sum by (instance, process) (increase("
                    + _of("dory_process_restarts_total")
                    + "[15m]))",
                    "{{instance}}: {{process}}",
                )
            ],
        ),
        Panel(
            "Open files",
            "Of the process that serves, by the most that it may open.",
            "percentunit",
            [
                Query(
                    f"max by (instance) ({_of('process_open_fds')} / {_of('process_max_fds')})",
                    "{{instance}}",
                )
            ],
            width=12,
        ),
        Panel(
            "Start-up",
            "From the start of a process to ready, on average, of those that began in the time"
            " that is shown.",
            "s",
            [
                Query(
                    f"{_count('dory_startup_duration_seconds_sum', 'instance')} /"
                    f" {_count('dory_startup_duration_seconds_count', 'instance')}",
                    "{{instance}}",
                )
            ],
            width=12,
        ),
    ],
)
ROWS = (_STATE, _HEARTBEATS, _MOVES, _CHECKPOINTS, _WEBHOOKS, _DATABASE, _CLUSTER, _PROCESS)


def _variables() -> list[dict[str, Any]]:
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "current": {},
            "hide": 0,
            "includeAll": False,
            "multi": False,
            "refresh": 1,
            "regex": "",
        },
        {
            "name": "job",
            "label": "Job",
            "type": "query",
            "datasource": _SOURCE,
            "definition": "label_values(dory_leader, job)",
            "query": {"query": "label_values(dory_leader, job)", "refId": "job"},
            "current": {},
            "hide": 0,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "refresh": 2,
            "regex": "",
            "sort": 1,
        },
    ]


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _SOURCE,
            "editorMode": "code",
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            "range": panel.kind != "stat",
            "instant": panel.kind == "stat",
        }
        for i, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _STAT_OPTIONS if panel.kind == "stat" else _LINES_OPTIONS,
    }


_STAT_OPTIONS = {
    "colorMode": "background",
    "graphMode": "none",
    "justifyMode": "auto",
    "orientation": "auto",
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "textMode": "auto",
}
_LINES_OPTIONS = {
    "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


def _defaults(panel: Panel) -> dict[str, Any]:
    steps = [{"color": colour, "value": value} for value, colour in panel.steps]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "mappings": [_mapping(panel.words)] if panel.words else [],
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
    }
    if panel.kind == "timeseries":
        defaults |= {
            "min": 0,
            "custom": {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 20 if panel.stacked else 0,
                "showPoints": "never",
                "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            },
        }
    return defaults


def _mapping(words: Mapping[str, str]) -> dict[str, Any]:
    options = {number: {"text": text, "index": i} for i, (number, text) in enumerate(words.items())}
    return {"type": "value", "options": options}


def _placed() -> Iterator[dict[str, Any]]:
    """Rows one below the other; in each, panels from left to right."""
    number, y = 1, 0
    for row in ROWS:
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        number, y = number + 1, y + 1
        x, height = 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            yield _panel(panel, number, x, y)
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height


def dashboard() -> dict[str, Any]:
    """As Grafana takes it."""
    return {
        "uid": "dory-orchestrator",
        "title": "Dory Orchestrator",
        "description": "Stateful processors across edge and cloud.",
        "tags": ["dory"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_placed()),
    }


def text() -> str:
    """As it stands in the file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text())
