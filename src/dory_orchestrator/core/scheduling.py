"""Which node gets a pod: first fit on the most utilised healthy node (design, section 8)."""

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dory_orchestrator.core.model import (
    Limits,
    Node,
    Pod,
    PodPhase,
    Resources,
    Taint,
    TaintEffect,
    Toleration,
)
from dory_orchestrator.core.plan import Choice, Unfit

_ENDED = (PodPhase.SUCCEEDED, PodPhase.FAILED)


@dataclass(frozen=True, slots=True)
class Request:
    """What a pod needs of a node. `names` are the only nodes that it may go to, if not None."""

    resources: Resources
    selector: Mapping[str, str]
    tolerations: tuple[Toleration, ...] = ()
    names: frozenset[str] | None = None


class Load:
    """What the pods of one node ask for in all. Grows while a plan is made."""

    __slots__ = ("cpu_millicores", "gpu_count", "memory_bytes", "node", "pods")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cpu_millicores = self.memory_bytes = self.gpu_count = self.pods = 0

    def add(self, requests: Resources) -> None:
        """Count one more pod."""
        self.cpu_millicores += requests.cpu_millicores
        self.memory_bytes += requests.memory_bytes
        self.gpu_count += requests.gpu_count
        self.pods += 1

    @property
    def utilisation(self) -> float:
        """The share of its scarcest resource that is asked for; 0 of nothing is 0."""
        has = self.node.allocatable
        return max(
            _share(self.cpu_millicores, has.cpu_millicores),
            _share(self.memory_bytes, has.memory_bytes),
            _share(self.gpu_count, has.gpu_count),
            _share(self.pods, self.node.pods_max),
        )


def _share(used: int, has: int) -> float:
    return used / has if has > 0 else 0.0


def loads(nodes: Mapping[str, Node], pods: Iterable[tuple[str | None, Pod]]) -> dict[str, Load]:
    """The load of each node. `pods` come with the node that they are on, or are meant for."""
    of_node = {name: Load(node) for name, node in nodes.items()}
    for node_name, pod in pods:
        load = of_node.get(node_name or "")
        if load is not None and pod.phase not in _ENDED:
            load.add(pod.requests)
    return of_node


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The nodes that take a kind of pod if they have room, and why the others never do.

    It does not change while a plan is made. In a fleet of edge nodes few are left: who places
    many pods of a kind asks all nodes once, and not for each pod.
    """

    loads: Mapping[str, Load]
    unfit: dict[str, Unfit]


def shortlist(request: Request, of_node: Mapping[str, Load]) -> Shortlist:
    """All that can be said of nodes before their load is looked at."""
    fit: dict[str, Load] = {}
    unfit: dict[str, Unfit] = {}
    for name in of_node if request.names is None else request.names & of_node.keys():
        why_not = _never_fits(request, of_node[name].node)
        if why_not is None:
            fit[name] = of_node[name]
        else:
            unfit[name] = why_not
    return Shortlist(fit, unfit)


def choose_node(
    request: Request,
    of_node: Mapping[str, Load],
    limits: Limits,
    known: Shortlist | None = None,
) -> Choice:
    """The most utilised node on which the pod fits, and for each other candidate why not.

    Of two that are equally utilised the first by name: the order of input changes nothing.
    No node fits: `provision_node`. `known` is the shortlist of this request, where there is one.
    """
    known = shortlist(request, of_node) if known is None else known
    unfit: dict[str, Unfit] = {}
    best: tuple[float, str] | None = None
    for name, load in known.loads.items():
        why_not = _short_of(request.resources, load, limits)
        if why_not is not None:
            unfit[name] = why_not
            continue
        rank = (-load.utilisation, name)
        if best is None or rank < best:
            if best is not None:
                unfit[best[1]] = Unfit.LESS_UTILISED
            best = rank
        else:
            unfit[name] = Unfit.LESS_UTILISED
    return Choice(best[1] if best else None, ChainMap(unfit, known.unfit))


def _never_fits(request: Request, node: Node) -> Unfit | None:
    """Why a pod does not go to a node, empty or full; the first rule that holds."""
    if not node.ready:
        return Unfit.NOT_READY
    if node.unschedulable:
        return Unfit.UNSCHEDULABLE
    if any(node.labels.get(key) != value for key, value in request.selector.items()):
        return Unfit.SELECTOR
    if any(not _tolerated(taint, request.tolerations) for taint in node.taints):
        return Unfit.TAINT
    return None


def _short_of(asked: Resources, load: Load, limits: Limits) -> Unfit | None:
    """What a node has too little of; the first rule that holds. None: it fits.

    A share of CPU, memory and pods stays free; GPUs are whole, and few.
    """
    has, usable = load.node.allocatable, 1.0 - limits.node_buffer
    if load.pods + 1 > load.node.pods_max * usable:
        return Unfit.PODS
    if _exceeds(asked.cpu_millicores, load.cpu_millicores, has.cpu_millicores * usable):
        return Unfit.CPU
    if _exceeds(asked.memory_bytes, load.memory_bytes, has.memory_bytes * usable):
        return Unfit.MEMORY
    if _exceeds(asked.gpu_count, load.gpu_count, has.gpu_count):
        return Unfit.GPU
    return None


def _exceeds(asked: int, used: int, usable: float) -> bool:
    # Who asks for nothing of it does not mind that it is used up.
    return asked > 0 and used + asked > usable


def _tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    if taint.effect is TaintEffect.PREFER_NO_SCHEDULE:
        return True
    return any(_matches(toleration, taint) for toleration in tolerations)


def _matches(toleration: Toleration, taint: Taint) -> bool:
    """As in Kubernetes: no key with `Exists` matches everything."""
    if toleration.effect is not None and toleration.effect is not taint.effect:
        return False
    if toleration.key == "":
        return toleration.operator == "Exists"
    if toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or toleration.value == taint.value
