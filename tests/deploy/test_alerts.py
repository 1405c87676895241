"""Rules for Prometheus: of metrics that there are, each explained, and the same in the docs."""

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from dory_orchestrator.metrics import VALUES as METRIC_VALUES
from dory_orchestrator.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DOCS = (ROOT / "docs/operations.md").read_text()
SUFFIXES: dict[type, tuple[str, ...]] = {
    Counter: ("_total",),
    Gauge: ("",),
    Histogram: ("_bucket", "_count", "_sum"),
}
VALUES: Mapping[tuple[str, str], AbstractSet[str]] = {
    (name, label): set(map(str, values))
    for name, labels in METRIC_VALUES.items()
    for label, values in labels.items()
}

each = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def known() -> dict[str, set[str]]:
    """The labels of each series that our metrics make, by its name."""
    found = {}
    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            [family] = metric.describe()
            for suffix in SUFFIXES[type(metric)]:
                found[family.name + suffix] = set(metric._labelnames)
    return found


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Names of metrics, and what is asked of their labels."""
    for name, said in re.findall(r"(dory_\w+)(?:\{([^}]*)\})?", expression):
        yield name, dict(re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', said))


def grouped(expression: str) -> set[str]:
    return set(re.findall(r"by \((\w+)\)", expression))


def test_there_are_rules_and_no_name_stands_twice() -> None:
    names = [rule["alert"] for rule in RULES]
    assert names
    assert len(names) == len(set(names)), names


@each
def test_it_asks_for_series_that_there_are(rule: dict[str, Any]) -> None:
    asked, labels = list(selectors(rule["expr"])), known()
    assert asked
    for name, said in asked:
        assert name in labels
        assert set(said) <= labels[name]
        assert grouped(rule["expr"]) <= labels[name]
        for label, values in said.items():
            if (name, label) in VALUES:
                assert set(values.split("|")) <= VALUES[name, label]


@each
def test_it_says_what_is_wrong_and_how_bad_it_is(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    summary = rule["annotations"]["summary"]
    assert summary.endswith((".", ")."))
    assert set(rule["annotations"]) == {"summary", "runbook"}
    for label in re.findall(r"\$labels\.(\w+)", summary):
        assert label == "instance" or any(label in known()[n] for n, _ in selectors(rule["expr"]))


@each
def test_the_docs_say_what_to_do(rule: dict[str, Any]) -> None:
    """Under a heading of its name, with the expression as it is."""
    headings = re.findall(rf"^#+ {rule['alert']}$", DOCS, flags=re.MULTILINE)
    assert len(headings) == 1
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    section = DOCS.split(f" {rule['alert']}\n", 1)[1].split("\n#", 1)[0]
    assert f"```promql\n{rule['expr']}\n```" in section
    assert f"For {rule['for']}, {rule['labels']['severity']}." in section


def test_the_docs_name_no_rule_that_there_is_not() -> None:
    told = set(re.findall(r"^#+ (Dory[A-Z]\w+)$", DOCS, flags=re.MULTILINE))
    assert told == {rule["alert"] for rule in RULES}
