"""What a Kubernetes API server sends, as far as it concerns us.

Decoded straight into these structs: the models that the official client generates take eleven
times the CPU. Fields that are missing, or null, are what Kubernetes means by that.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from dory_orchestrator.cluster.reading import CONTAINER_NAME, epoch_of, processor_id_of
from dory_orchestrator.core.model import (
    CONFIG_HASH_ANNOTATION,
    FLEET_ANNOTATION,
    Bearer,
    Node,
    Pod,
    PodPhase,
    Resources,
    Taint,
    TaintEffect,
)
from dory_orchestrator.core.quantity import millicores, whole

T = TypeVar("T")

GPU = "nvidia.com/gpu"
_PORT = 8080
_PHASES = {phase.value: phase for phase in PodPhase}
_EFFECTS = {effect.value: effect for effect in TaintEffect}
_PODS_MAX = 110


class _Object(msgspec.Struct, rename="camel", frozen=True):
    """Of these there are tens of thousands, and none refers to itself."""


class Metadata(_Object, frozen=True):
    """Of every object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Condition(_Object, frozen=True):
    """One of a status."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None
    last_transition_time: datetime | None = None


class Waiting(_Object, frozen=True):
    """A container that does not run yet, or not at the moment."""

    reason: str | None = None
    message: str | None = None


class Running(_Object, frozen=True):
    """A container that runs."""

    started_at: datetime | None = None


class Terminated(_Object, frozen=True):
    """A container that has ended."""

    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None


class ContainerState(_Object, frozen=True):
    """One of the three."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Object, frozen=True):
    """What a kubelet says of a container."""

    name: str = ""
    restart_count: int = 0
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class ContainerPort(_Object, frozen=True):
    """A port that a container names."""

    container_port: int = _PORT


class Requirements(_Object, frozen=True):
    """Quantities by resource; numbers are quantities, too."""

    requests: dict[str, str | int | float] | None = None


class Container(_Object, frozen=True):
    """One of a pod's."""

    name: str = ""
    ports: list[ContainerPort] | None = None
    resources: Requirements | None = None


class PodSpecification(_Object, frozen=True):
    """`spec` of a pod."""

    node_name: str | None = None
    containers: list[Container] | None = None


class PodStatus(_Object, frozen=True):
    """`status` of a pod."""

    phase: str = ""
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    message: str | None = None
    reason: str | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None


class KubePod(_Object, frozen=True):
    """A pod."""

    metadata: Metadata
    spec: PodSpecification = PodSpecification()
    status: PodStatus = PodStatus()


class BareObject(_Object, frozen=True):
    """An object of which nothing but its metadata matters."""

    metadata: Metadata


class KubeTaint(_Object, frozen=True):
    """A taint."""

    key: str = ""
    value: str | None = None
    effect: str = ""


class NodeSpecification(_Object, frozen=True):
    """`spec` of a node."""

    unschedulable: bool | None = None
    taints: list[KubeTaint] | None = None


class NodeStatus(_Object, frozen=True):
    """`status` of a node."""

    allocatable: dict[str, str | int | float] | None = None
    conditions: list[Condition] | None = None


class KubeNode(_Object, frozen=True):
    """A node."""

    metadata: Metadata
    spec: NodeSpecification = NodeSpecification()
    status: NodeStatus = NodeStatus()


class ConfigMap(_Object, frozen=True):
    """A ConfigMap."""

    metadata: Metadata
    data: dict[str, str] | None = None


class ListMetadata(_Object, frozen=True):
    """Of a list: where a watch goes on, and the next page, if there is one."""

    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class ObjectList(_Object, Generic[T], frozen=True):
    """A page of objects."""

    metadata: ListMetadata
    items: list[T] | None = None


class WatchEvent(_Object, frozen=True):
    """A line of a watch. The object is decoded once it is known what it is."""

    type: str
    object: msgspec.Raw = msgspec.Raw(b"{}")


class StatusCause(_Object, frozen=True):
    """Why something is invalid."""

    reason: str | None = None
    message: str | None = None
    field: str | None = None


class StatusDetails(_Object, frozen=True):
    """What a failure is about."""

    name: str | None = None
    kind: str | None = None
    retry_after_seconds: int | None = None
    causes: list[StatusCause] | None = None


class Status(_Object, frozen=True):
    """How a request ended, when it is no object."""

    status: str = ""
    message: str | None = None
    reason: str | None = None
    code: int | None = None
    details: StatusDetails | None = None


class Bookmark(_Object, frozen=True):
    """Only says how far a watch has come."""

    metadata: Metadata


# To the nouns of our own -------------------------------------------------------------------


def to_pod(found: KubePod) -> Pod:
    """A pod as decisions see it. What cannot be read of it is as if it were not there."""
    metadata, spec, status = found.metadata, found.spec, found.status
    labels, annotations = metadata.labels or {}, metadata.annotations or {}
    conditions = {one.type: one for one in status.conditions or ()}
    ready, container = conditions.get("Ready"), _container_of(status)
    now = container.state if container is not None else None
    ended = _last_end(container)
    waiting = now.waiting if now is not None else None
    return Pod(
        uid=metadata.uid,
        namespace=metadata.namespace,
        name=metadata.name,
        processor_id=processor_id_of(labels),
        phase=_PHASES.get(status.phase, PodPhase.UNKNOWN),
        created_at=_seconds(metadata.creation_timestamp) or 0.0,
        fleet_id=annotations.get(FLEET_ANNOTATION),
        epoch=epoch_of(annotations),
        config_hash=annotations.get(CONFIG_HASH_ANNOTATION),
        node_name=spec.node_name or None,
        ip=status.pod_ip or None,
        address=_address(status.pod_ip, _port_of(spec)),
        ready=ready is not None and ready.status == "True",
        ready_changed_at=_seconds(ready.last_transition_time) if ready is not None else None,
        started_at=_seconds(now.running.started_at) if now is not None and now.running else None,
        terminating=metadata.deletion_timestamp is not None,
        restart_count=container.restart_count if container is not None else 0,
        waiting_reason=waiting.reason if waiting is not None else None,
        exit_code=ended.exit_code if ended is not None else None,
        exit_reason=ended.reason if ended is not None else None,
        message=_message(status, conditions, waiting),
        requests=_requests(spec),
        labels=labels,
    )


def to_bearer(found: BareObject) -> Bearer | None:
    """Whose id a pod bears; None: of no processor."""
    metadata = found.metadata
    processor_id = processor_id_of(metadata.labels or {})
    if processor_id is None:
        return None
    fleet_id = (metadata.annotations or {}).get(FLEET_ANNOTATION)
    return Bearer(processor_id, metadata.namespace, metadata.name, fleet_id)


def to_node(found: KubeNode) -> Node:
    """A node as decisions see it."""
    metadata, spec, status = found.metadata, found.spec, found.status
    ready = next((one for one in status.conditions or () if one.type == "Ready"), None)
    allocatable = status.allocatable or {}
    return Node(
        name=metadata.name,
        # Unknown, after its kubelet has fallen silent, is not ready.
        ready=ready is not None and ready.status == "True",
        labels=metadata.labels or {},
        taints=tuple(
            Taint(one.key, one.value or "", _EFFECTS[one.effect])
            for one in spec.taints or ()
            if one.effect in _EFFECTS
        ),
        unschedulable=bool(spec.unschedulable),
        ready_changed_at=_seconds(ready.last_transition_time) if ready is not None else None,
        allocatable=_resources(allocatable),
        pods_max=_amount(allocatable.get("pods"), whole) or _PODS_MAX,
    )


def _container_of(status: PodStatus) -> ContainerStatus | None:
    """Of the container that is ours: others may be put beside it."""
    found = status.container_statuses or []
    return next((one for one in found if one.name == CONTAINER_NAME), found[0] if found else None)


def _last_end(container: ContainerStatus | None) -> Terminated | None:
    if container is None:
        return None
    for state in (container.state, container.last_state):
        if state is not None and state.terminated is not None:
            return state.terminated
    return None


def _message(
    status: PodStatus, conditions: Mapping[str, Condition], waiting: Waiting | None
) -> str | None:
    """Why it does not run, in the cluster's words."""
    placed = conditions.get("PodScheduled")
    if placed is not None and placed.status == "False":
        return placed.message or placed.reason
    if waiting is not None and waiting.message:
        return waiting.message
    return status.message or status.reason


def _port_of(spec: PodSpecification) -> int:
    for container in spec.containers or ():
        if container.name == CONTAINER_NAME and container.ports:
            return container.ports[0].container_port
    return _PORT


def _address(ip: str | None, port: int) -> str | None:
    if not ip:
        return None
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _requests(spec: PodSpecification) -> Resources:
    each = [
        _resources(one.resources.requests or {})
        for one in spec.containers or ()
        if one.resources is not None
    ]
    if len(each) == 1:
        return each[0]
    return Resources(
        sum(one.cpu_millicores for one in each),
        sum(one.memory_bytes for one in each),
        sum(one.gpu_count for one in each),
    )


def _resources(found: Mapping[str, str | int | float]) -> Resources:
    return _made(found.get("cpu"), found.get("memory"), found.get(GPU))


@lru_cache(maxsize=4096)
def _made(
    cpu: str | int | float | None, memory: str | int | float | None, gpu: str | int | float | None
) -> Resources:
    """A fleet has few kinds: the same object for all of one."""
    return Resources(_amount(cpu, millicores), _amount(memory, whole), _amount(gpu, whole))


def _amount(text: str | int | float | None, read: Any) -> int:
    """What cannot be read counts as nothing: one odd pod must not hide all others."""
    if text is None:
        return 0
    try:
        amount: int = read(str(text))
    except ValueError:
        return 0
    return amount


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
