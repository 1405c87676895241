"""A pod as Kubernetes wants it (platform facts 5, 11, 12). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dory_orchestrator.cluster.kubernetes.objects import GPU
from dory_orchestrator.cluster.reading import CONTAINER_NAME, VARIABLES_OF_LABELS
from dory_orchestrator.core.model import MANAGED_BY, PodSpec, Probes, Resources, Toleration

_STARTUP_PERIOD_SECONDS = 2
_OF_FIELDS = {
    "POD_NAME": "metadata.name",
    "DORY_POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "DORY_POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
    "POD_IP": "status.podIP",
    "NODE_NAME": "spec.nodeName",
    "SERVICE_ACCOUNT": "spec.serviceAccountName",
}
_RESTRICTED: Mapping[str, Any] = {
    # The profile `restricted` of the Pod Security Standards.
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all pods of an installation are given.

    `orchestrator_url` is where heartbeats go. Names are of what lies in each namespace with
    processors; an empty `state_token_secret`: pods get no token. `sentinel`: a ConfigMap that owns
    all pods of its namespace, if any.
    """

    orchestrator_url: str
    service_account: str
    image_pull_secret: str = ""
    state_token_secret: str = ""
    sentinel: str | None = None
    state_token_key: str = "token"  # noqa: S105 - the name of a key


def manifest_of(
    spec: PodSpec, around: Surroundings, *, sentinel_uid: str | None = None
) -> dict[str, Any]:
    """The body of the request that creates a pod. With a `sentinel_uid` it goes with that."""
    said: dict[str, Any] = {
        "containers": [_container(spec, around)],
        # A node that is cut off restarts its containers by itself.
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": spec.grace_seconds,
        "serviceAccountName": around.service_account,
        # The services of a namespace, one variable each, are nothing that a processor asked for.
        "enableServiceLinks": False,
        "nodeSelector": dict(spec.node_selector),
        "tolerations": [_toleration(one) for one in spec.tolerations],
    }
    if around.image_pull_secret:
        said["imagePullSecrets"] = [{"name": around.image_pull_secret}]
    if (affinity := _affinity(spec)) is not None:
        said["affinity"] = affinity
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": dict(spec.labels),
            "annotations": dict(spec.annotations),
            **_owner(around.sentinel, sentinel_uid),
        },
        "spec": said,
    }


def _owner(name: str | None, uid: str | None) -> dict[str, Any]:
    """Not blocking: who deletes the sentinel must not wait for nodes that are cut off."""
    if uid is None:
        return {}
    return {
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": str(name), "uid": uid}
        ]
    }


def sentinel_of(name: str, namespace: str) -> dict[str, Any]:
    """The body of the request that creates it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"managed-by": MANAGED_BY},
            "annotations": {"dory.io/sentinel": "deleting this deletes every pod that it owns"},
        },
    }


def _container(spec: PodSpec, around: Surroundings) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER_NAME,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "ports": [{"name": "http", "containerPort": spec.port}],
        "env": _environment(spec, around),
        "resources": _resources(spec),
        "lifecycle": {"preStop": {"httpGet": {"path": "/prestop", "port": spec.port}}},
        "securityContext": {**_RESTRICTED, **spec.security_context},
        **_probes(spec.probes, spec.port),
    }
    if spec.command:
        container["command"] = [_literal(word) for word in spec.command]
    if spec.args:
        container["args"] = [_literal(word) for word in spec.args]
    return container


def _environment(spec: PodSpec, around: Surroundings) -> list[dict[str, Any]]:
    """What rows say first; what the platform says wins, as it comes last."""
    fields = _OF_FIELDS | {
        name: f"metadata.labels['{key}']"
        for name, key in VARIABLES_OF_LABELS.items()
        if key in spec.labels
    }
    ours = {"CONTAINER_NAME": CONTAINER_NAME, "DORY_ORCHESTRATOR_URL": around.orchestrator_url}
    secret = "DORY_STATE_TOKEN" if around.state_token_secret else None
    said = {
        name: value
        for name, value in {**spec.environment, **ours}.items()
        if name not in fields and name != secret
    }
    environment: list[dict[str, Any]] = [
        {"name": name, "value": _literal(value)} for name, value in said.items()
    ]
    environment += [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in fields.items()
    ]
    if secret is not None:
        reference = {"name": around.state_token_secret, "key": around.state_token_key}
        environment.append({"name": secret, "valueFrom": {"secretKeyRef": reference}})
    return environment


def _literal(text: str) -> str:
    """Kubernetes would put variables in the place of `$(NAME)`: rows mean what they say."""
    return text.replace("$", "$$")


def _probes(probes: Probes, port: int) -> dict[str, Any]:
    """The client library answers `/health` and `/ready` (platform facts 5.5)."""
    usual = {
        "periodSeconds": probes.period_seconds,
        "timeoutSeconds": probes.timeout_seconds,
        "failureThreshold": probes.failure_threshold,
    }
    tries = -(-probes.startup_seconds // _STARTUP_PERIOD_SECONDS)
    health = {"httpGet": {"path": "/health", "port": port}}
    return {
        "startupProbe": {
            **health,
            "initialDelaySeconds": probes.initial_delay_seconds,
            "periodSeconds": _STARTUP_PERIOD_SECONDS,
            "timeoutSeconds": probes.timeout_seconds,
            "failureThreshold": max(tries, 1),
        },
        "livenessProbe": {**health, **usual},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": port}, **usual},
    }


def _resources(spec: PodSpec) -> dict[str, Any]:
    requests, limits = _amounts(spec.requests), _amounts(spec.limits)
    if spec.requests.gpu_count:
        # Of extended resources, requests and limits must be the same.
        limits[GPU] = requests[GPU]
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def _amounts(resources: Resources) -> dict[str, str]:
    amounts = {}
    if resources.cpu_millicores:
        amounts["cpu"] = f"{resources.cpu_millicores}m"
    if resources.memory_bytes:
        amounts["memory"] = str(resources.memory_bytes)
    if resources.gpu_count:
        amounts[GPU] = str(resources.gpu_count)
    return amounts


def _toleration(toleration: Toleration) -> dict[str, str]:
    said = {"operator": toleration.operator}
    if toleration.key:
        said["key"] = toleration.key
    if toleration.value:
        said["value"] = toleration.value
    if toleration.effect is not None:
        said["effect"] = str(toleration.effect)
    return said


def _affinity(spec: PodSpec) -> dict[str, Any] | None:
    """By the node's name, never `nodeName`: that passes by the scheduler, taints and room."""
    node_affinity: dict[str, Any] = {}
    if spec.node_name is not None:
        required = {"nodeSelectorTerms": [_named(spec.node_name)]}
        node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = required
    if spec.preferred_node_name is not None:
        wish = {"weight": 100, "preference": _named(spec.preferred_node_name)}
        node_affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [wish]
    return {"nodeAffinity": node_affinity} if node_affinity else None


def _named(name: str) -> dict[str, Any]:
    return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
