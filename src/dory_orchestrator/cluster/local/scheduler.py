"""Which node a pod gets, by the rules of kube-scheduler. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dory_orchestrator.core.model import (
    Node,
    Pod,
    PodPhase,
    PodSpec,
    Resources,
    Taint,
    TaintEffect,
    Toleration,
)

_ENDED = (PodPhase.SUCCEEDED, PodPhase.FAILED)


class Placement(NamedTuple):
    """The node that was chosen, or why there is none."""

    node_name: str | None
    message: str | None


@dataclass(slots=True)
class Load:
    """What the pods of a node ask for together."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpu_count: int = 0
    pods: int = 0

    def add(self, requests: Resources) -> None:
        """Count one more pod."""
        self.cpu_millicores += requests.cpu_millicores
        self.memory_bytes += requests.memory_bytes
        self.gpu_count += requests.gpu_count
        self.pods += 1


def loads_of(pods: Iterable[Pod]) -> dict[str, Load]:
    """What is taken, by node. A terminating pod counts until it is gone."""
    loads: dict[str, Load] = {}
    for pod in pods:
        if pod.node_name is not None and pod.phase not in _ENDED:
            loads.setdefault(pod.node_name, Load()).add(pod.requests)
    return loads


def place(spec: PodSpec, nodes: Mapping[str, Node], loads: Mapping[str, Load]) -> Placement:
    """The preferred node if it fits, else the most utilised that does."""
    obstacles = {
        name: obstacle(spec, node, loads.get(name, Load())) for name, node in nodes.items()
    }
    fitting = [name for name, found in obstacles.items() if found is None]
    if not fitting:
        return Placement(None, _unplaced([text for text in obstacles.values() if text]))
    if spec.preferred_node_name in fitting:
        return Placement(spec.preferred_node_name, None)
    return Placement(
        min(fitting, key=lambda name: (-_utilisation(nodes[name], loads.get(name, Load())), name)),
        None,
    )


def obstacle(spec: PodSpec, node: Node, load: Load) -> str | None:
    """Why the pod cannot be on this node, in kube-scheduler's words; None when it can."""
    if spec.node_name is not None and spec.node_name != node.name:
        return "node(s) didn't match Pod's node affinity/selector"
    if any(node.labels.get(key) != value for key, value in spec.node_selector.items()):
        return "node(s) didn't match Pod's node affinity/selector"
    if not node.ready:
        return "node(s) were not ready"
    if node.unschedulable:
        return "node(s) were unschedulable"
    for taint in node.taints:
        if _keeps_away(taint, spec.tolerations):
            return f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
    return _shortage(spec.requests, node, load)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether this toleration puts up with this taint."""
    if toleration.effect is not None and toleration.effect != taint.effect:
        return False
    if toleration.operator == "Exists":
        return toleration.key in ("", taint.key)
    return (toleration.key, toleration.value) == (taint.key, taint.value)


def _keeps_away(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    if taint.effect == TaintEffect.PREFER_NO_SCHEDULE:
        return False
    return not any(tolerates(toleration, taint) for toleration in tolerations)


def _shortage(requests: Resources, node: Node, load: Load) -> str | None:
    has = node.allocatable
    if load.pods + 1 > node.pods_max:
        return "Too many pods"
    if (
        requests.cpu_millicores
        and load.cpu_millicores + requests.cpu_millicores > has.cpu_millicores
    ):
        return "Insufficient cpu"
    if requests.memory_bytes and load.memory_bytes + requests.memory_bytes > has.memory_bytes:
        return "Insufficient memory"
    if requests.gpu_count and load.gpu_count + requests.gpu_count > has.gpu_count:
        return "Insufficient nvidia.com/gpu"
    return None


def _utilisation(node: Node, load: Load) -> float:
    return (
        load.cpu_millicores / max(node.allocatable.cpu_millicores, 1)
        + load.memory_bytes / max(node.allocatable.memory_bytes, 1)
        + load.pods / max(node.pods_max, 1)
    )


def _unplaced(obstacles: list[str]) -> str:
    counted = sorted(Counter(obstacles).items())
    reasons = ", ".join(f"{count} {text}" for text, count in counted)
    return f"0/{len(obstacles)} nodes are available" + (f": {reasons}." if reasons else ".")
