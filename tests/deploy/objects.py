"""The objects that are applied to a cluster: put together as kustomize does, or rendered by Helm."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client
from tests.deploy.render import VALUES, golden

KUSTOMIZE = Path(__file__).parents[2] / "deploy/kustomize"
FOLDERS = sorted(path.parent.name for path in KUSTOMIZE.glob("*/kustomization.yaml"))
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
    "PodDisruptionBudget": client.V1PodDisruptionBudget,
}
WITHOUT_NAMESPACE = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
Object = dict[str, Any]
Key = tuple[str, str | None, str]
"""Kind, namespace and name."""


def kustomization(folder: str) -> Object:
    """What a kustomization says."""
    said: Object = yaml.safe_load((KUSTOMIZE / folder / "kustomization.yaml").read_text())
    return said


def built(folder: str, namespace: str | None = None) -> Iterator[Object]:
    """The objects of a kustomization, or of one of it for a namespace: what ours use of kustomize."""
    said = kustomization(folder)
    assert set(said) <= {"apiVersion", "kind", "namespace", "resources", "images"}
    namespace = namespace or said["namespace"]
    images = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in said.get("images", [])}
    for resource in said["resources"]:
        for found in yaml.safe_load_all((KUSTOMIZE / folder / resource).read_text()):
            if found["kind"] not in WITHOUT_NAMESPACE:
                found["metadata"]["namespace"] = namespace
            for subject in found.get("subjects", []):
                subject.setdefault("namespace", namespace)
            for container in containers(found):
                container["image"] = images.get(container["image"], container["image"])
            yield found


def kustomized() -> list[Object]:
    """The objects of all our kustomizations."""
    return [one for folder in FOLDERS for one in built(folder)]


def charted(case: str) -> list[Object]:
    """The objects of the chart with some values, as Helm rendered them."""
    return parsed(golden(case).read_text())


def parsed(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def installations() -> dict[str, list[Object]]:
    """Every way of installing, by its name."""
    return {"kustomize": kustomized()} | {f"helm {case}": charted(case) for case in VALUES}


def key(found: Object) -> Key:
    metadata = found["metadata"]
    return found["kind"], metadata.get("namespace"), metadata["name"]


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def the(objects: Sequence[Object], kind: str, name: str = "dory-orchestrator") -> Object:
    [found] = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def containers(found: Object) -> list[Object]:
    pod = found.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]
