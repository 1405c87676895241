"""What is applied to a cluster: put together as kustomize does, and checked against the API's own
models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from dory_orchestrator.settings import Settings, environment_name

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDERS = sorted(path.parent.name for path in DEPLOY.glob("kustomize/*/kustomization.yaml"))
MODELS: dict[str, Any] = {
    "Namespace": client.V1Namespace,
    "ServiceAccount": client.V1ServiceAccount,
    "ClusterRole": client.V1ClusterRole,
    "ClusterRoleBinding": client.V1ClusterRoleBinding,
    "Role": client.V1Role,
    "RoleBinding": client.V1RoleBinding,
    "ConfigMap": client.V1ConfigMap,
    "Deployment": client.V1Deployment,
    "Service": client.V1Service,
    "NetworkPolicy": client.V1NetworkPolicy,
}
WITHOUT_NAMESPACE = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
Object = dict[str, Any]


def built(folder: str) -> Iterator[Object]:
    """The objects of a kustomization: what ours use of kustomize."""
    home = DEPLOY / "kustomize" / folder
    said = yaml.safe_load((home / "kustomization.yaml").read_text())
    assert set(said) <= {"apiVersion", "kind", "namespace", "resources", "images"}
    images = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in said.get("images", [])}
    for resource in said["resources"]:
        for found in yaml.safe_load_all((home / resource).read_text()):
            if found["kind"] not in WITHOUT_NAMESPACE:
                found["metadata"]["namespace"] = said["namespace"]
            for subject in found.get("subjects", []):
                subject.setdefault("namespace", said["namespace"])
            for container in containers(found):
                container["image"] = images.get(container["image"], container["image"])
            yield found


def containers(found: Object) -> list[Object]:
    pod = found.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def the(kind: str, name: str = "dory-orchestrator", folder: str = "orchestrator") -> Object:
    [found] = [
        one for one in built(folder) if (one["kind"], one["metadata"]["name"]) == (kind, name)
    ]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_one_of_the_api(folder: str) -> None:
    """Unknown and misspelt fields, and wrong types, are refused by the models."""
    found = list(built(folder))
    assert found
    for one in found:
        MODELS[one["kind"]].model_validate(one)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_named(folder: str) -> None:
    home = DEPLOY / "kustomize" / folder
    said = yaml.safe_load((home / "kustomization.yaml").read_text())
    there = {path.name for path in home.iterdir()} - {"kustomization.yaml"}
    assert there == set(said["resources"])


def test_the_deployment_is_as_documented() -> None:
    deployment = the("Deployment")
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    assert deployment["metadata"]["namespace"] == "dory-system"
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert pod["serviceAccountName"] == "dory-orchestrator"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (
        65534,
        65534,
    )
    assert pod["nodeSelector"] == {"role": "system"}
    [toleration] = pod["tolerations"]
    assert toleration == {
        "key": "node-role",
        "operator": "Equal",
        "value": "system",
        "effect": "NoSchedule",
    }
    [container] = pod["containers"]
    assert container["ports"] == [{"name": "metrics", "containerPort": 8080}]
    assert container["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi"},
    }
    live = container["livenessProbe"]
    assert live["httpGet"]["path"] == "/livez"
    numbers = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
    assert [live[name] for name in numbers] == [30, 10, 5, 3]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_no_container_may_do_more_than_it_must() -> None:
    for container in containers(the("Deployment")):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_no_image_is_one_that_may_be_moved() -> None:
    for container in containers(the("Deployment")):
        name, _, tag = container["image"].partition(":")
        assert name == "dory-orchestrator"
        assert tag not in ("", "latest")
        assert "imagePullPolicy" not in container


def test_settings_are_settings_and_secrets_are_only_referred_to() -> None:
    known = {environment_name(name) for name in Settings.model_fields}
    secrets = {environment_name(name) for name in ("config_db", "state_token", "operator_token")}
    assert the("ConfigMap")["data"].keys() <= known - secrets
    for container in containers(the("Deployment")):
        for one in container["env"]:
            assert one["name"] in known
            assert "secretKeyRef" in one["valueFrom"], one["name"]


@pytest.mark.parametrize("name", ["dory-orchestrator", "dory-orchestrator-metrics"])
def test_heartbeats_arrive_also_while_it_is_not_ready(name: str) -> None:
    service = the("Service", name)["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert [port["port"] for port in service["ports"]] == [8080]
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_the_metrics_are_scraped() -> None:
    annotations = the("Service", "dory-orchestrator-metrics")["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == "8080"


def test_bindings_lead_to_what_is_there() -> None:
    everything = [one for folder in FOLDERS for one in built(folder)]
    there = {(one["kind"], one["metadata"]["name"]) for one in everything}
    for binding in everything:
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            role = binding["roleRef"]
            assert (role["kind"], role["name"]) in there
            for subject in binding["subjects"]:
                assert ("ServiceAccount", subject["name"]) in there
