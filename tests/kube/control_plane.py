"""What is behind an API server: scheduler, kubelets, and who finds out about lost nodes."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from tests.kube.api_server import ApiServer, Key, Object, timestamp

from dory_orchestrator.cluster.kubernetes.objects import GPU, KubeNode, KubePod, to_node, to_pod
from dory_orchestrator.cluster.local.scheduler import Load, loads_of, place
from dory_orchestrator.core.model import Node, Pod, PodSpec, TaintEffect, Toleration

_SOON_SECONDS = 0.02
_LOOK_SECONDS = 0.2


class ControlPlane:
    """Gives pods places, has them run, and ends them, as long as their nodes are there.

    Pods run and are ready as soon as they have a place. `lease_seconds` is how long a lost node
    is taken for ready. Without `kubelets`, others are there: it gives places, and finds out which
    nodes have not been heard of for so long.
    """

    def __init__(
        self, server: ApiServer, *, lease_seconds: float = 0.1, kubelets: bool = True
    ) -> None:
        self.server = server
        self.lost: set[str] = set()
        self._lease_seconds = lease_seconds
        self._kubelets = kubelets
        self._heard: dict[str, tuple[str, float]] = {}
        self._is_asked = False
        server.on_change = self._changed
        if kubelets:
            server.on_delete = lambda pod: self._later(self._end, _key(pod))

    # Nodes ------------------------------------------------------------------------------

    def declare(self, nodes: Iterable[Node]) -> None:
        """These are the nodes."""
        wanted = {node.name: node for node in nodes}
        for found in self.server.all("nodes"):
            if found["metadata"]["name"] not in wanted:
                self.server.remove(_key(found, "nodes"))
        for node in wanted.values():
            self.server.put("nodes", raw_node(node))

    def lose_node(self, name: str) -> None:
        """Its network is cut, or its power."""
        self.lost.add(name)
        self._later(self._lease_ends, name, seconds=self._lease_seconds)

    def restore_node(self, name: str) -> None:
        self.lost.discard(name)
        self._later(self._node_returns, name)

    async def watch_nodes(self) -> None:
        """Find out about those that fell silent, and those that speak again, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for node in self.server.all("nodes"):
                name, beat = node["metadata"]["name"], condition(node, "Ready")
                said = beat.get("lastHeartbeatTime")
                # What we write ourselves bears no such moment.
                if said is not None and self._heard.get(name, ("", now))[0] != said:
                    self._heard[name] = said, now
                    if name in self.lost:
                        self.restore_node(name)
                elif name not in self.lost and now - self._heard_at(name) > self._lease_seconds:
                    self.lost.add(name)
                    self._lease_ends(name)

    def _heard_at(self, name: str) -> float:
        return self._heard.get(name, ("", float("inf")))[1]

    def _lease_ends(self, name: str) -> None:
        if name in self.lost:
            self._set_ready(name, "Unknown")
            for key, pod in self._pods_on(name):
                if _is_ready(pod):
                    self.server.change(key, lambda found: set_condition(found, "Ready", "False"))

    def _node_returns(self, name: str) -> None:
        if name in self.lost:
            return
        self._set_ready(name, "True")
        for key, pod in self._pods_on(name):
            if not self._kubelets:
                continue
            if pod["metadata"].get("deletionTimestamp"):
                self._later(self._end, key)
            else:
                self.server.change(key, lambda found: set_condition(found, "Ready", "True"))

    def _set_ready(self, name: str, status: str) -> None:
        def edit(node: Object) -> None:
            set_condition(node, "Ready", status)
            taints = [t for t in node["spec"].get("taints", []) if t["key"] != _UNREACHABLE]
            if status != "True":
                for effect in ("NoSchedule", "NoExecute"):
                    taints.append({"key": _UNREACHABLE, "effect": effect, "timeAdded": timestamp()})
            node["spec"]["taints"] = taints

        self.server.change(("nodes", "", name), edit)

    def _pods_on(self, name: str) -> list[tuple[Key, Object]]:
        pods = self.server.all("pods")
        return [(_key(pod), pod) for pod in pods if pod["spec"].get("nodeName") == name]

    # Pods -------------------------------------------------------------------------------

    def _changed(self, key: Key) -> None:
        if key[0] in ("pods", "nodes") and not self._is_asked:
            self._is_asked = True
            self._later(self._schedule)

    def _schedule(self) -> None:
        self._is_asked = False
        nodes = {node.name: node for node in map(read_node, self.server.all("nodes"))}
        pods = self.server.all("pods")
        loads = loads_of(map(read_pod, pods))
        for pod in pods:
            if not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp"):
                self._place(pod, nodes, loads)

    def _place(self, pod: Object, nodes: dict[str, Node], loads: dict[str, Load]) -> None:
        spec = read_spec(pod)
        name, message = place(spec, nodes, loads)
        if name is None:
            if condition(pod, "PodScheduled").get("message") != message:
                self.server.change(_key(pod), lambda found: unplaced(found, message or ""))
            return
        loads.setdefault(name, Load()).add(spec.requests)

        def bind(found: Object) -> None:
            found["spec"]["nodeName"] = name
            set_condition(found, "PodScheduled", "True")

        self.server.change(_key(pod), bind)
        if self._kubelets:
            self._later(self._run, _key(pod))

    def _run(self, key: Key) -> None:
        """As its kubelet says."""
        pod = self.server.objects.get(key)
        if pod is None or pod["spec"]["nodeName"] in self.lost:
            return

        def run(found: Object) -> None:
            ip = f"127.0.0.{self.server.version % 250 + 1}"
            status = found["status"]
            status |= {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
            status["startTime"] = timestamp()
            status["containerStatuses"] = [
                {
                    "name": found["spec"]["containers"][0]["name"],
                    "state": {"running": {"startedAt": timestamp()}},
                    "lastState": {},
                    "ready": True,
                    "restartCount": 0,
                    "image": found["spec"]["containers"][0]["image"],
                    "imageID": "",
                    "started": True,
                }
            ]
            for kind in ("Initialized", "ContainersReady", "Ready"):
                set_condition(found, kind, "True")

        self.server.change(key, run)

    def _end(self, key: Key) -> None:
        pod = self.server.objects.get(key)
        if pod is not None and pod["spec"].get("nodeName") not in self.lost:
            self.server.remove(key)

    def _later(
        self, work: Callable[..., None], *given: Any, seconds: float = _SOON_SECONDS
    ) -> None:
        asyncio.get_running_loop().call_later(seconds, work, *given)


_UNREACHABLE = "node.kubernetes.io/unreachable"


def raw_node(node: Node) -> Object:
    """A node as an API server has it."""
    amounts = {
        "cpu": f"{node.allocatable.cpu_millicores}m",
        "memory": str(node.allocatable.memory_bytes),
        "pods": str(node.pods_max),
        GPU: str(node.allocatable.gpu_count),
    }
    taints = [{"key": t.key, "value": t.value, "effect": str(t.effect)} for t in node.taints]
    found: Object = {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": node.name, "labels": dict(node.labels)},
        "spec": {"taints": taints, **({"unschedulable": True} if node.unschedulable else {})},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": []},
    }
    set_condition(found, "Ready", "True" if node.ready else "False")
    return found


def read_node(found: Object) -> Node:
    return to_node(msgspec.convert(found, KubeNode))


def read_pod(found: Object) -> Pod:
    return to_pod(msgspec.convert(found, KubePod))


def read_spec(found: Object) -> PodSpec:
    """As far as a scheduler asks."""
    spec, pod = found["spec"], read_pod(found)
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    return PodSpec(
        name=pod.name,
        namespace=pod.namespace,
        processor_id=pod.processor_id,  # type: ignore[arg-type]  # not asked for
        app="",
        labels=pod.labels,
        annotations={},
        image="",
        requests=pod.requests,
        node_selector=spec.get("nodeSelector", {}),
        node_name=_named(required.get("nodeSelectorTerms", [])),
        preferred_node_name=_named([one["preference"] for one in preferred]),
        tolerations=tuple(
            Toleration(
                one.get("key", ""),
                one.get("operator", "Equal"),
                one.get("value", ""),
                TaintEffect(one["effect"]) if one.get("effect") else None,
            )
            for one in spec.get("tolerations", [])
        ),
    )


def _named(terms: list[Object]) -> str | None:
    for term in terms:
        for field in term.get("matchFields", []):
            assert (field["key"], field["operator"]) == ("metadata.name", "In")
            return str(field["values"][0])
    return None


def _key(found: Object, plural: str = "pods") -> Key:
    metadata = found["metadata"]
    return plural, metadata.get("namespace", ""), metadata["name"]


def condition(found: Object, kind: str) -> Object:
    conditions = found["status"].get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def _is_ready(pod: Object) -> bool:
    return bool(condition(pod, "Ready").get("status") == "True")


def set_condition(found: Object, kind: str, status: str, **more: str) -> None:
    conditions = found["status"].setdefault("conditions", [])
    before = condition(found, kind)
    if before.get("status") == status and not more:
        return
    kept = [one for one in conditions if one["type"] != kind]
    now = {"type": kind, "status": status, "lastProbeTime": None}
    found["status"]["conditions"] = [*kept, {**now, "lastTransitionTime": timestamp(), **more}]


def unplaced(found: Object, message: str) -> None:
    set_condition(found, "PodScheduled", "False", reason="Unschedulable", message=message)
