"""The chart: it does what the kustomizations do, and refuses values that it does not know.

What Helm makes of it lies in `golden/helm`. Where there is Helm, it is rendered anew and compared;
everywhere it is seen to that it was made of the chart as it is now.
"""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from tests.deploy.objects import (
    Key,
    Object,
    built,
    charted,
    containers,
    key,
    kustomization,
    kustomized,
    of_kind,
    parsed,
    the,
)
from tests.deploy.render import CHART, GOLDEN, NAMESPACE, VALUES, golden, helm, is_sealed, rendered

from dory_orchestrator.settings import SECRETS, Settings, environment_name

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: Object = yaml.safe_load((CHART / "values.yaml").read_text())
KEEP = "helm.sh/resource-policy"
REFUSED: dict[str, Object] = {
    "a misspelt name": {"replica": 2},
    "a misspelt name within": {"image": {"repo": "x"}},
    "a misspelt name of a resource": {"resources": {"limit": {}}},
    "a misspelt field of a toleration": {"tolerations": [{"keys": "x"}]},
    "a tag that moves": {"image": {"tag": "latest"}},
    "a tag within the name": {"image": {"repository": "registry.example/dory:latest"}},
    "half a digest": {"image": {"digest": "sha256:abc"}},
    "a policy that there is not": {"image": {"pullPolicy": "Sometimes"}},
    "no name of a secret": {"database": {"secretName": ""}},
    "nothing where something must be": {"database": {"upgrade": None}},
    "fewer than none": {"replicas": -1},
    "a number that is a text": {"replicas": "2"},
    "a setting that is no text": {"settings": {"DORY_MOVES_MAX": 20}},
    "a setting of others": {"settings": {"PATH": "x"}},
    "a setting in small letters": {"settings": {"DORY_log_level": "info"}},
    "a port that nothing leads to": {"settings": {"DORY_METRICS_PORT": "9090"}},
    "an account in two places": {"settings": {"DORY_POD_SERVICE_ACCOUNT": "x"}},
    "a namespace twice": {"processors": {"namespaces": ["video", "video"]}},
    "a namespace that is none": {"processors": {"namespaces": ["Video"]}},
    "a label that the selectors ask for": {"podLabels": {"app": "x"}},
    "no interval": {"serviceMonitor": {"interval": "often"}},
    "webhooks in place of their secret": {"webhooks": [{"name": "pager", "secret": "x"}]},
    "a webhook beside their secret": {"webhooks": {"pager": {"secret": "x"}}},
    "no key of the webhooks": {"webhooks": {"secretKey": ""}},
}
for _name in sorted(SECRETS):
    REFUSED[f"{_name} in clear"] = {"settings": {environment_name(_name): "postgresql://u:p@h/d"}}

each = pytest.mark.parametrize("case", VALUES)
each_refused = pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED.keys())
needs_helm = pytest.mark.skipif(
    shutil.which("helm") is None, reason="there is no Helm here (.ci/helm FOLDER brings one)"
)


def merged(values: Any, given: Any) -> Any:
    """Values with others over them, as Helm does it: null takes away."""
    if not (isinstance(values, dict) and isinstance(given, dict)):
        return given
    both = values | {name: merged(values.get(name), value) for name, value in given.items()}
    return {name: value for name, value in both.items() if value is not None}


def without_what_only_helm_needs(found: Object) -> Object:
    """An object as kustomize would make it."""
    bare = deepcopy(found)
    for annotated in (bare, bare.get("spec", {}).get("template", {})):
        annotations = annotated.get("metadata", {}).get("annotations", {})
        annotations.pop(KEEP, None)
        annotations.pop("checksum/config", None)
        if annotations == {}:
            annotated.get("metadata", {}).pop("annotations", None)
    return bare


def bare(objects: list[Object]) -> dict[Key, Object]:
    return {key(one): without_what_only_helm_needs(one) for one in objects}


@each
def test_what_helm_made_is_of_the_chart_as_it_is(case: str) -> None:
    says = f"{golden(case).name} is not what the chart and its values make now; make it anew"
    assert is_sealed(case), f"{says}: python -m tests.deploy.render"


def test_nothing_is_left_of_values_that_are_gone() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == VALUES.keys()


@pytest.mark.real
@pytest.mark.timeout(60)
@needs_helm
@each
def test_helm_still_makes_it(case: str) -> None:
    # Versions of Helm differ in empty lines.
    assert parsed(rendered(case)) == charted(case)


@pytest.mark.real
@pytest.mark.timeout(60)
@needs_helm
def test_helm_finds_nothing_to_blame() -> None:
    found = helm("lint", "--strict", CHART)
    assert found.returncode == 0, found.stdout


@pytest.mark.real
@pytest.mark.timeout(60)
@needs_helm
@each_refused
def test_helm_refuses_it_too(values: Object, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    found = helm("template", "dory-orchestrator", CHART, "--values", tmp_path / "values.yaml")
    assert found.returncode != 0
    assert "values don't meet the specifications of the schema" in found.stderr


def test_it_makes_what_the_kustomizations_make() -> None:
    """All of it, and nothing else; the namespace is Helm's to make."""
    made, wanted = bare(charted("default")), {key(one): one for one in kustomized()}
    wanted.pop(("Namespace", None, NAMESPACE))
    settings = made["ConfigMap", NAMESPACE, "dory-orchestrator"]["data"]
    # The chart says these where the kustomization leaves them as they are.
    assert settings.pop("DORY_ORCHESTRATOR_URL") == f"http://dory-orchestrator.{NAMESPACE}:8080"
    for name in ("pod_service_account", "image_pull_secret", "state_token_secret"):
        assert settings.pop(environment_name(name)) == Settings.model_fields[name].default
    assert made.keys() == wanted.keys()
    for one, what in wanted.items():
        assert made[one] == what


def test_every_namespace_with_processors_gets_what_the_kustomization_gives() -> None:
    made = bare(charted("large"))
    for namespace in ("video", "8080"):
        for one in built("processors", namespace):
            for account in accounts(one):
                account["name"] = account["name"].replace("dory-processor", "processor")
            assert made[key(one)] == one
        assert ("Namespace", None, namespace) in made
    rights = [one for one in made if one[0] in ("Role", "RoleBinding") and one[1] is not None]
    assert {one[1] for one in rights} == {"video", "8080"}


def accounts(found: Object) -> list[Object]:
    """Where an object names a ServiceAccount: its own name, or that of those who are given rights."""
    own = [found["metadata"]] if found["kind"] == "ServiceAccount" else []
    return own + list(found.get("subjects", []))


def test_without_namespaces_it_has_no_rights_in_any() -> None:
    found = charted("minimal")
    assert not of_kind(found, "Role")
    assert not of_kind(found, "NetworkPolicy")
    assert "DORY_NAMESPACE" not in the(found, "ConfigMap")["data"]
    pod = the(found, "Deployment")["spec"]["template"]["spec"]
    assert not {"nodeSelector", "tolerations", "imagePullSecrets"} & pod.keys()


@pytest.mark.parametrize("case", ["default", "large"])
def test_what_pods_need_outlives_the_release(case: str) -> None:
    """They run on without an orchestrator, and keep their states with what is there."""
    kept = {
        (one["kind"], one["metadata"]["name"])
        for one in charted(case)
        if one["metadata"].get("annotations", {}).get(KEEP) == "keep"
    }
    account = "dory-processor" if case == "default" else "processor"
    namespaces = set() if case == "default" else {("Namespace", "video"), ("Namespace", "8080")}
    assert kept - namespaces == {
        ("ServiceAccount", account),
        ("Role", "dory-processor"),
        ("RoleBinding", "dory-processor"),
    }
    assert namespaces <= kept


def test_every_right_has_its_reason() -> None:
    for template in (CHART / "templates").glob("*.yaml"):
        lines = template.read_text().splitlines()
        for before, line in pairwise(lines):
            if line.startswith("  - apiGroups:"):
                assert before.startswith("  # "), f"{template.name}: {line}"


def test_values_come_where_they_belong() -> None:
    found = charted("large")
    deployment = the(found, "Deployment")
    template = deployment["spec"]["template"]
    assert deployment["spec"]["replicas"] == 3
    assert template["metadata"]["labels"] == {"app": "dory-orchestrator", "team": "fleet"}
    assert template["metadata"]["annotations"]["example.com/owner"] == "fleet"
    assert template["spec"]["imagePullSecrets"] == [{"name": "registry-secret"}]
    upgrade, run = containers(deployment)
    for container in (upgrade, run):
        # The digest counts, and not the tag beside it.
        assert container["image"].startswith("registry.example/dory-orchestrator@sha256:0123")
        assert container["imagePullPolicy"] == "IfNotPresent"
    assert secrets(upgrade) == {"DORY_DATABASE_URL": ("platform-db-migrate", "url", False)}
    assert secrets(run) == {
        "DORY_DATABASE_URL": ("platform-db", "database-url", False),
        "DORY_STATE_TOKEN": ("dory-state-token", "token", False),
        "DORY_STATE_TOKEN_PREVIOUS": ("dory-state-token", "previous", True),
        "DORY_OPERATOR_TOKEN": ("operators", "bearer", False),
        "DORY_WEBHOOKS": ("dory-webhooks", "webhooks", False),
    }
    assert the(found, "ConfigMap")["data"] == {
        "DORY_NAMESPACE": "video",
        "DORY_POLL_INTERVAL": "30s",
        "DORY_LOG_LEVEL": "debug",
        "DORY_LOG_FORMAT": "json",
        "DORY_MOVES_MAX": "20",
        "DORY_ORCHESTRATOR_URL": "http://dory.example:8080",
        "DORY_POD_SERVICE_ACCOUNT": "processor",
        "DORY_IMAGE_PULL_SECRET": "registry-secret",
        "DORY_STATE_TOKEN_SECRET": "dory-state-token",
    }


def secrets(container: Object) -> dict[str, tuple[str, str, bool]]:
    """Name, key and whether it may be missing, of the secret behind each variable."""
    references = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
    return {
        name: (one["name"], one["key"], one.get("optional", False))
        for name, one in references.items()
    }


def test_the_docs_give_webhooks_to_the_kustomization_as_the_chart_does() -> None:
    docs = (ROOT / "docs/operations.md").read_text()
    blocks = re.findall("```yaml\n(.*?)```", docs, re.DOTALL)
    [patched] = [block for block in blocks if "DORY_WEBHOOKS" in block]
    [patch] = yaml.safe_load(patched)["patches"]
    deployment = yaml.safe_load(patch["patch"])
    assert key(deployment) == key(the(charted("large"), "Deployment"))
    [container] = containers(deployment)
    [_, run] = containers(the(charted("large"), "Deployment"))
    assert container["name"] == run["name"]
    [variable] = container["env"]
    assert variable in run["env"]


def test_other_settings_start_it_anew() -> None:
    found = {checksum(case) for case in VALUES}
    assert len(found) == len(VALUES)
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in found)


def checksum(case: str) -> str:
    template = the(charted(case), "Deployment")["spec"]["template"]
    found: str = template["metadata"]["annotations"]["checksum/config"]
    return found


def test_the_monitor_asks_each_pod_once() -> None:
    found = charted("large")
    monitor = the(found, "ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"] == {
        "name": "dory-orchestrator",
        "namespace": NAMESPACE,
        "labels": {"release": "prometheus"},
    }
    assert monitor["spec"].keys() == {"selector", "endpoints"}
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint == {"port": "metrics", "path": "/metrics", "interval": "15s"}
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    asked = [
        port
        for service in of_kind(found, "Service")
        if wanted <= service["metadata"]["labels"].items()
        for port in service["spec"]["ports"]
        if port["name"] == endpoint["port"]
    ]
    assert len(asked) == 1
    assert not of_kind(charted("default"), "ServiceMonitor")


def test_the_version_is_the_same_everywhere() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [image] = kustomization("orchestrator")["images"]
    assert (chart["version"], chart["appVersion"], image["newTag"]) == (version,) * 3


@each
def test_the_values_fit_the_schema(case: str) -> None:
    given = yaml.safe_load(VALUES[case].read_text()) or {}
    jsonschema_rs.validate(SCHEMA, merged(DEFAULTS, given))


@each_refused
def test_the_schema_refuses_what_cannot_be_meant(values: Object) -> None:
    assert not jsonschema_rs.is_valid(SCHEMA, merged(DEFAULTS, values))


def test_the_schema_takes_every_setting_that_has_no_place_of_its_own() -> None:
    refused = {
        name
        for name in map(environment_name, Settings.model_fields)
        if not jsonschema_rs.is_valid(SCHEMA, merged(DEFAULTS, {"settings": {name: "x"}}))
    }
    assert refused == {environment_name(name) for name in SECRETS} | {
        "KUBECONFIG",
        "DORY_METRICS_PORT",
        "DORY_POD_SERVICE_ACCOUNT",
        "DORY_IMAGE_PULL_SECRET",
        "DORY_STATE_TOKEN_SECRET",
    }


def test_no_part_of_the_schema_takes_names_that_it_does_not_know() -> None:
    maps = [one for one in parts(SCHEMA) if one.get("type") == "object"]
    free = [one for one in maps if one.get("additionalProperties") is not False]
    assert len(maps) > len(free)
    for one in free:
        # Helm's own, and maps of labels and the like: any name, yet no longer any value.
        assert "properties" not in one
        assert one is SCHEMA["properties"]["global"] or one["additionalProperties"].get("type")


def parts(schema: Object) -> Iterator[Object]:
    """A schema and all that is within."""
    yield schema
    for value in schema.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                yield from parts(one)


def test_the_schema_knows_each_value_that_there_is() -> None:
    """The other way round, each value that it knows has a default that says it is there."""
    assert SCHEMA["properties"].keys() - {"global"} == DEFAULTS.keys()
    for name, what in SCHEMA["properties"].items():
        if "properties" in what and name != "resources":
            assert what["properties"].keys() == DEFAULTS[name].keys()
