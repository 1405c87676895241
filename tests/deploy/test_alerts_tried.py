"""The rules as Prometheus evaluates them: each fires, not before its time, and each stays quiet."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.metrics_page import described
from tests.deploy.promtool import needs_promtool, promtool
from tests.deploy.test_alerts import RULES, each

from dory_orchestrator.metrics import VALUES

FOLDER = Path(__file__).parents[2] / "deploy"
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    """Of a duration of Prometheus in one unit."""
    return int(text[:-1]) * _UNITS[text[-1]]


def asked(group: dict[str, Any], alert: str) -> list[tuple[int, bool]]:
    """When a group looks at an alert, and whether it is to fire then."""
    return [
        (seconds(test["eval_time"]), bool(test.get("exp_alerts")))
        for test in group["alert_rule_test"]
        if test["alertname"] == alert
    ]


def series(text: str) -> tuple[str, dict[str, str]]:
    """Name and labels."""
    name, labels = re.fullmatch(r"(\w+)\{(.*)\}", text).groups()  # type: ignore[union-attr]
    return name, dict(re.findall(r'(\w+)="([^"]*)"', labels))


@pytest.mark.real
@needs_promtool
@pytest.mark.parametrize("command", ["check rules alerts.yaml", "test rules alerts_test.yaml"])
@pytest.mark.timeout(60)
def test_prometheus_agrees(command: str):
    done = promtool(*command.split(), within=FOLDER)
    assert done.returncode == 0, done.stdout
    assert "SUCCESS" in done.stdout


@each
def test_it_is_tried_and_does_not_fire_before_its_time(rule: dict[str, Any]):
    name, least = rule["alert"], seconds(rule["for"])
    tried = [asked(group, name) for group in GROUPS]
    assert any(fires for looks in tried for _, fires in looks)
    for looks in tried:
        assert all(at >= least for at, fires in looks if fires)
    if least:
        # In the same group, so that it is time alone that makes the difference.
        assert any(
            any(fires for _, fires in looks) and any(not fires for _, fires in looks)
            for looks in tried
        )


@each
def test_it_stays_quiet_when_only_something_of_the_kind_happens(rule: dict[str, Any]):
    names = {name for name, _ in re.findall(r"(dory_\w+)(\{|\b)", rule["expr"])}
    quiet = [
        group
        for group in GROUPS
        if (looks := asked(group, rule["alert"])) and not any(fires for _, fires in looks)
    ]
    assert quiet
    for group in quiet:
        assert max(at for at, _ in asked(group, rule["alert"])) > seconds(rule["for"])
    given = {series(one["series"])[0] for group in quiet for one in group["input_series"]}
    assert names & given, "with nothing there, everything is quiet"


def test_it_is_tried_with_series_that_there_are():
    metrics = {metric.name: metric for metric in described()}
    for group in GROUPS:
        for one in group["input_series"]:
            name, labels = series(one["series"])
            metric = metrics[re.sub(r"_(count|sum|bucket)$", "", name)]
            assert set(labels) - {"instance"} == set(metric.labels), name
            for label, value in labels.items():
                if label in VALUES.get(metric.name, {}):
                    assert value in VALUES[metric.name][label], (name, label)


def test_nothing_is_tried_that_is_no_rule():
    rules = {rule["alert"] for rule in RULES}
    assert {test["alertname"] for group in GROUPS for test in group["alert_rule_test"]} == rules
