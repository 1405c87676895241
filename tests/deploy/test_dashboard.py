"""The dashboard: made of its description, of metrics that there are, in expressions that parse."""

import json
import re
from collections.abc import Iterator
from itertools import combinations, count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector
from tests.deploy.dashboard import COLUMNS, PAGE, ROWS, text
from tests.deploy.metrics_page import described
from tests.deploy.promtool import needs_promtool, parse
from tests.deploy.test_alerts import RULES, known

from dory_orchestrator.metrics import VALUES

BOARD: dict[str, Any] = json.loads(PAGE.read_text())
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]
OF_SCRAPING = {"job", "instance"}
"""Labels that Prometheus gives to all."""

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["id"]))
each_query = pytest.mark.parametrize(
    ("panel", "target"), TARGETS, ids=[f"{p['id']}-{t['refId']}" for p, t in TARGETS]
)


def labels_of() -> dict[str, set[str]]:
    """Of each series that is served, `le` of a histogram's buckets too."""
    found = {name: set(labels) for name, labels in known().items()}
    for name, labels in found.items():
        if name.endswith("_bucket"):
            labels.add("le")
    for namespace in ("", "dory_control"):
        registry = CollectorRegistry()
        ProcessCollector(namespace=namespace, registry=registry)
        for family in registry.collect():
            found |= {sample.name: set() for sample in family.samples}
    return found


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    for name, said in re.findall(r"\b(\w+)\{([^}]*)\}", expression):
        yield name, dict(re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', said))


def test_it_is_made_of_its_description():
    assert PAGE.read_text() == text(), "run: python -m tests.deploy.dashboard"


def test_it_has_a_source_of_data_to_choose_and_leads_nowhere_else():
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert all(t["datasource"]["uid"] == "${datasource}" for _, t in TARGETS)
    assert "://" not in PAGE.read_text()
    assert BOARD["schemaVersion"] >= 39
    used = set(re.findall(r"\$\{?(\w+)", PAGE.read_text()))
    assert used - variables.keys() == {"__rate_interval", "__range"}


@each_panel
def test_each_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]):
    assert panel["title"]
    assert len(panel["description"]) > 15
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    if len(panel["targets"]) > 1:
        assert all(target["legendFormat"] != "__auto" for target in panel["targets"])
    for alert in re.findall(r"Dory[A-Z]\w+", panel["description"]):
        assert alert in {rule["alert"] for rule in RULES}


def test_no_two_panels_stand_on_each_other_and_none_beyond_the_edge():
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= COLUMNS
        return {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}

    for one, other in combinations(BOARD["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    for row in ROWS:
        titles = [panel.title for panel in row.panels]
        assert len(titles) == len(set(titles))


@each_query
def test_each_query_asks_for_what_is_served(panel: dict[str, Any], target: dict[str, Any]):
    expression, served = target["expr"], labels_of()
    asked = list(selectors(expression))
    assert asked
    names = set(re.findall(r"\b(?:dory|process)_\w+", expression))
    assert names == {name for name, _ in asked}, "each is asked for of the chosen job"
    for name, said in asked:
        assert said["job"] == "$job"
        assert said.keys() <= served[name] | OF_SCRAPING
        values = VALUES.get(re.sub(r"_(bucket|count|sum)$", "", name), {})
        for label, text_ in said.items():
            if label in values:
                words = text_.replace(r"\\+", "+").split("|")
                assert set(words) <= set(map(str, values[label]))
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    everything = set().union(*(served[name] for name, _ in asked)) | OF_SCRAPING
    assert grouped | shown <= everything
    # What was added up has only the labels that it was grouped by.
    assert shown <= grouped or "sum" not in expression


def test_gauges_of_the_leader_are_asked_of_the_leader():
    """Others say what was when they led."""
    led = {
        metric.name
        for metric in described()
        if metric.type == "gauge"
        and metric.modules & {"loops/show.py", "loops/judged.py", "loops/act.py"}
    }
    assert len(led) > 8
    for _, target in TARGETS:
        for name, _ in selectors(target["expr"]):
            if name in led:
                assert re.search(
                    rf"{name}\{{[^}}]*\}} and on \(instance\) dory_leader", target["expr"]
                )


def test_it_shows_every_metric_but_those_named_here():
    shown = {name for _, target in TARGETS for name, _ in selectors(target["expr"])}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    missing = {metric.name for metric in described()} - shown
    assert missing == {
        "dory_circuit_breaker_transitions_total",  # its state is shown
        "dory_config_watcher_healthy",  # as a component
        "dory_shutdown_duration_seconds",  # told in the last moments only
        "dory_heartbeat_batch_size_max",
        "dory_hearing",  # the age of the canary tells more
        "dory_hearing_gaps_total",  # their length is shown
        "dory_leader_term",
        "dory_pod_health_write_errors_total",  # an error of the database, too
    }


@pytest.mark.real
@needs_promtool
@pytest.mark.timeout(60)
def test_each_query_parses(tmp_path: Path):
    numbers = count()
    expressions = {
        f"e{next(numbers)}": target["expr"]
        .replace("$__rate_interval", "5m")
        .replace("$__range", "3h")
        .replace("$job", ".*")
        for _, target in TARGETS
    }
    done = parse(expressions, tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{len(TARGETS)} rules found" in done.stdout
    broken = parse({"broken": "sum by (state ("}, tmp_path)
    assert broken.returncode != 0, "what does not parse is noticed"


def test_the_docs_tell_how_to_give_it_to_grafana():
    docs = (PAGE.parents[2] / "docs/operations.md").read_text()
    section = docs.split("\n## Dashboard\n", 1)[1].split("\n## ", 1)[0]
    assert "kubectl create configmap" in section
    assert "deploy/grafana/dory-orchestrator.json" in section
    assert "grafana_dashboard=1" in section
