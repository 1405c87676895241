"""Metrics: those that the platform's dashboards ask for, each set by somebody, all on the page."""

import ast
import re
from enum import StrEnum

import pytest
from tests.deploy.metrics_page import (
    PAGE,
    Described,
    described,
    page,
    setters,
    sources,
    statements,
)

from dory_orchestrator.core.checkpoint import CaptureReason
from dory_orchestrator.core.model import MoveKind
from dory_orchestrator.metrics import VALUES, Metrics
from dory_orchestrator.ports import Action, Refusal

METRICS = {metric.name: metric for metric in described()}

DOCUMENTED: dict[str, tuple[str, dict[str, set[str]]]] = {
    "dory_applications_total": ("gauge", {}),
    "dory_database_query_duration_seconds": (
        "histogram",
        {"query_type": {"list_configs", "get_config", "update_pod_ip"}},
    ),
    "dory_database_connections_active": ("gauge", {}),
    "dory_database_errors_total": ("counter", {"error_type": {"connection", "query", "timeout"}}),
    "dory_circuit_breaker_state": ("gauge", {"component": {"database"}}),
    "dory_circuit_breaker_transitions_total": (
        "counter",
        {"component": set(), "from_state": set(), "to_state": set()},
    ),
    "dory_reconciliation_queue_depth": ("gauge", {}),
    "dory_reconciliation_errors_total": (
        "counter",
        {"error_type": {"pod_creation", "pod_deletion", "scheduling", "timeout", "general"}},
    ),
    "dory_pod_creation_errors_total": (
        "counter",
        {"reason": {"quota", "scheduling", "image_pull", "resource"}},
    ),
    "dory_config_watcher_healthy": ("gauge", {}),
    "dory_config_watcher_errors_total": ("counter", {}),
    "dory_config_changes_total": ("counter", {"change_type": {"added", "removed", "modified"}}),
    "dory_node_utilization_ratio": ("gauge", {"node": set()}),
    "dory_shutdown_duration_seconds": ("histogram", {"component": set()}),
    "dory_startup_duration_seconds": ("histogram", {}),
    "dory_component_healthy": (
        "gauge",
        {"component": {"database", "kubernetes", "watcher", "reconciler"}},
    ),
    "dory_pods_total": ("gauge", {"status": {"running", "pending", "terminating"}}),
    "dory_nodes_total": ("gauge", {}),
    # Its labels are not documented.
    "dory_scheduling_decisions_total": ("counter", {"decision": set()}),
}
"""What the platform documents: type, labels, and those of their values that it names."""

DIFFERENT: dict[tuple[str, str], set[str]] = {
    # Statements of ours have other names: a configuration is never read alone, and where a pod
    # is, is written together with all else that is known of it (`record_pods`).
    ("dory_database_query_duration_seconds", "query_type"): {"get_config", "update_pod_ip"},
    # A cluster that refuses says why; these happen to pods that it accepted, and are told by
    # `dory_processors` and as `scheduling` of `dory_reconciliation_errors_total`.
    ("dory_pod_creation_errors_total", "reason"): {"scheduling", "image_pull", "resource"},
}
"""Documented values that do not occur, each with the reason why."""

UNITS = ("_seconds", "_ratio", "_total")
COUNTS = {
    # Of things that are there now: no unit but their number.
    "dory_database_connections_active",
    "dory_reconciliation_queue_depth",
    "dory_heartbeat_queue_depth",
    "dory_heartbeat_batch_size",
    "dory_heartbeat_batch_size_max",
    "dory_http_connections",
    "dory_processors",
    "dory_processors_away",
    "dory_moves_open",
    "dory_foreign_pods",
    "dory_unknown_pods",
    "dory_stopped_rollouts",
    "dory_deletion_guard_held_pods",
    "dory_edge_nodes",
    # 0 or 1, a state, a number that counts terms.
    "dory_circuit_breaker_state",
    "dory_config_watcher_healthy",
    "dory_component_healthy",
    "dory_hearing",
    "dory_brake_engaged",
    "dory_leader",
    "dory_leader_term",
}
each = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


def values_of(name: str, label: str) -> set[str]:
    if label == "query_type":
        return set(statements())
    return {str(value) for value in VALUES.get(name, {}).get(label, ())}


def test_the_page_is_what_the_code_gives():
    assert PAGE.read_text() == page(), "run: python -m tests.deploy.metrics_page"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_platform_documents_is_there(name: str):
    type_, labels = DOCUMENTED[name]
    metric = METRICS[name]
    assert (metric.type, set(metric.labels)) == (type_, set(labels))
    for label, documented in labels.items():
        missing = documented - values_of(name, label)
        assert missing == DIFFERENT.get((name, label), set())


@each
def test_somebody_sets_it(metric: Described):
    assert metric.modules, "registered, and set nowhere"
    assert metric.meaning.endswith(".")


def test_each_use_of_a_metric_is_of_one_that_there_is():
    """By name: a metric that was renamed would be found at run time only."""
    names = set(vars(Metrics())) | {"registry", "render", "samples"}
    for module, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _is_own(node.value):
                assert node.attr in names, f"{module}: {node.attr}"


def _is_own(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in ("metrics", "_metrics")
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


@each
def test_its_name_ends_with_its_unit_and_its_labels_are_bounded(metric: Described):
    assert re.fullmatch(r"dory_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith(UNITS) or metric.name in COUNTS
    if metric.type == "counter":
        assert metric.name.endswith("_total")
    elif metric.name.endswith("_total"):
        assert metric.name in DOCUMENTED, "_total is of counters, but where the platform says so"
    for label in metric.labels:
        # Webhooks are those of the settings.
        assert label in ("query_type", "node", "webhook") or VALUES[metric.name][label]
    assert VALUES.get(metric.name, {}).keys() <= set(metric.labels)


def test_values_that_are_written_out_are_listed():
    found = set()
    for _, attribute, call in setters():
        if not (isinstance(call.func, ast.Attribute) and call.func.attr == "labels"):
            continue
        [metric] = [metric for metric in METRICS.values() if metric.attribute == attribute]
        if any(isinstance(argument, ast.Starred) for argument in call.args):
            continue
        for label, argument in zip(metric.labels, call.args, strict=True):
            if not isinstance(argument, ast.JoinedStr):
                found |= {(metric.name, label, word) for word in _words(argument)}
    assert len(found) > 15
    for name, label, word in found:
        assert word in values_of(name, label), (name, label)


def _words(tree: ast.AST) -> set[str]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_each_listed_value_is_a_word_of_the_code():
    """Of a kind, or written somewhere beside `metrics.py`: nothing is listed that never occurs."""
    words = {word for _, tree in sources() for word in _words(tree)}
    # Put together by the code: `slow_{what}`, the names of actions, and the bounds of ages.
    words |= {"slow_headers", "slow_body", "+Inf", "health-poller"}
    words |= {action.__name__.lower() for action in Action.__args__} | set(MoveKind)
    for name, labels in VALUES.items():
        for label, values in labels.items():
            if label != "le":
                assert {str(value) for value in values} <= words, (name, label)


@pytest.mark.parametrize(
    ("name", "label", "kind", "beside"),
    [
        ("dory_pod_creation_errors_total", "reason", Refusal, set()),
        (
            "dory_checkpoints_total",
            "outcome",
            CaptureReason,
            {"stored", "confirmed", "not_owner", "not_given", "store_error"}
            | {"unreachable", "unauthorized", "refused", "unprotected", "frozen"},
        ),
    ],
)
def test_values_are_those_of_their_kind(
    name: str, label: str, kind: type[StrEnum], beside: set[str]
):
    assert values_of(name, label) == set(kind) | beside


def test_what_is_known_is_there_from_the_start_but_for_parts_that_may_not_be_there():
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    assert value("dory_hearing_gaps_total", {"cause": "refused"}) == 0
    assert value("dory_processors", {"state": "error"}) == 0
    assert value("dory_checkpoints_total", {"outcome": "empty"}) == 0
    home_failed = {"action": "move_cancelled", "reason": "home_failed", "outcome": "granted"}
    assert value("dory_actions_total", home_failed) == 0
    assert value("dory_component_healthy", {"component": "kubernetes"}) is None
