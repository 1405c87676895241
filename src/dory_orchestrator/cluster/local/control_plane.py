"""What a local cluster does: its API, its scheduler, and what can happen to its nodes."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from dory_orchestrator.cluster.local import leftovers
from dory_orchestrator.cluster.local.books import Books
from dory_orchestrator.cluster.local.kubelet import Kubelet
from dory_orchestrator.cluster.local.messages import (
    Configure,
    CreatePod,
    DeclareNodes,
    DeletePod,
    FindPod,
    Named,
    decode,
    encode,
)
from dory_orchestrator.cluster.local.places import write_whole
from dory_orchestrator.cluster.local.running_pod import Machine
from dory_orchestrator.cluster.local.scheduler import Load, loads_of, place
from dory_orchestrator.cluster.reading import new_pod
from dory_orchestrator.core.model import Node, Pod, Taint, TaintEffect
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import ClusterRefused, Refusal

_log = get_logger(__name__)

_PODS_MAX = 5_000
_NODES_MAX = 500
_NAMES_SHOWN_MAX = 20
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
UNREACHABLE = "node.kubernetes.io/unreachable"
_UNREACHABLE_TAINTS = (
    Taint(UNREACHABLE, "", TaintEffect.NO_SCHEDULE),
    Taint(UNREACHABLE, "", TaintEffect.NO_EXECUTE),
)


class Fate(StrEnum):
    """What was done to a node."""

    UP = "up"
    CUT = "cut"
    CRASHED = "crashed"


class _Kept(msgspec.Struct, frozen=True):
    """What outlives the process."""

    nodes: tuple[Node, ...] = ()
    fates: dict[str, Fate] = {}


class ControlPlane:
    """Everything that can be asked of the cluster. `loop` must run beside."""

    def __init__(self, machine: Machine) -> None:
        self.books = Books()
        self._machine = machine
        self._kubelets: dict[str, Kubelet] = {}
        self._retired: list[Kubelet] = []
        self._declared: dict[str, Node] = {}
        self._fates: dict[str, Fate] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._orchestrator_url: str | None = None
        self._unsettled = asyncio.Event()
        self._ended: set[str] = set()
        self._any_ended = asyncio.Event()

    async def open(self) -> None:
        """Take up the nodes of the last run. No pod outlives a run."""
        try:
            kept = decode(self._machine.places.state_file.read_bytes(), _Kept)
        except FileNotFoundError:
            return
        except msgspec.DecodeError as error:
            _log.error("the declared nodes are lost", error=str(error))
            return
        self._fates = dict(kept.fates)
        await self._set_nodes(kept.nodes)

    async def loop(self) -> None:
        """Settle what changed, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._settle_always())
            group.create_task(self._end_strays())

    # Nodes -----------------------------------------------------------------------------

    async def declare_nodes(self, message: DeclareNodes) -> None:
        """Make these the nodes. Pods of nodes that are no longer among them end."""
        if len(message.nodes) > _NODES_MAX:
            raise ClusterRefused(Refusal.QUOTA, f"more than {_NODES_MAX} nodes")
        if len({node.name for node in message.nodes}) < len(message.nodes):
            raise ClusterRefused(Refusal.INVALID, "two nodes have the same name")
        await self._set_nodes(message.nodes)
        self._keep()

    async def crash_node(self, message: Named) -> None:
        """Kill all processes of its pods at once, and let nobody hear of it again."""
        kubelet = self._kubelet(message.name)
        if self._fates[message.name] != Fate.CRASHED:
            kubelet.crash()
            self._lose(message.name, Fate.CRASHED)
            # Now, as the same pods will be running again once the node is restored.
            await self._kill_strays(set(kubelet.running))

    async def cut_node(self, message: Named) -> None:
        """Let its processes run on, unheard."""
        kubelet = self._kubelet(message.name)
        if self._fates[message.name] == Fate.CRASHED:
            raise ClusterRefused(Refusal.CONFLICT, f"node {message.name} is crashed: restore it")
        if self._fates[message.name] == Fate.UP:
            kubelet.cut()
            self._lose(message.name, Fate.CUT)

    async def restore_node(self, message: Named) -> None:
        """The network at once; the node is ready again with its next status."""
        kubelet = self._kubelet(message.name)
        if self._fates[message.name] != Fate.UP:
            self._fates[message.name] = Fate.UP
            self._keep()
            kubelet.reach()
            self._after(self._machine.timing.status_seconds, message.name, self._heard)

    def _lose(self, name: str, fate: Fate) -> None:
        self._fates[name] = fate
        self._keep()
        if self.books.nodes[name].ready:
            self._after(self._machine.timing.not_ready_after_seconds, name, self._not_heard)
        else:
            self._forget_timer(name)

    def _not_heard(self, name: str) -> None:
        self._show(name, ready=False)
        self._kubelets[name].not_heard()

    def _heard(self, name: str) -> None:
        self._show(name, ready=True)
        self._kubelets[name].connect()
        self._settle_soon()

    def _show(self, name: str, *, ready: bool) -> None:
        """Write a node into the books as it was declared, and as we hear of it."""
        declared, shown = self._declared[name], self.books.nodes.get(name)
        same = shown is not None and shown.ready == ready
        self.books.put_node(
            replace(
                declared,
                ready=ready,
                ready_changed_at=shown.ready_changed_at if shown and same else time.time(),
                taints=declared.taints if ready else (*declared.taints, *_UNREACHABLE_TAINTS),
            )
        )

    async def _set_nodes(self, nodes: Iterable[Node]) -> None:
        wanted = {node.name: node for node in nodes}
        for name in self._declared.keys() - wanted.keys():
            self._remove_node(name)
        for name, node in wanted.items():
            known = name in self._declared
            if not known:
                await self._add_kubelet(name)
            self._declared[name] = node
            fate = self._fates.setdefault(name, Fate.UP)
            self._show(name, ready=self.books.nodes[name].ready if known else fate == Fate.UP)
        self._settle_soon()

    async def _add_kubelet(self, name: str) -> None:
        try:
            kubelet = Kubelet(name, self.books, self._machine, self._on_end)
            await kubelet.open()
        except OSError as error:
            raise ClusterRefused(Refusal.QUOTA, f"no address for node {name}: {error}") from error
        if self._orchestrator_url is not None:
            kubelet.lead_to(self._orchestrator_url)
        if self._fates.get(name, Fate.UP) != Fate.UP:
            kubelet.cut()
        self._kubelets[name] = kubelet

    def _remove_node(self, name: str) -> None:
        self._forget_timer(name)
        for uid in self.books.on_node(name):
            self.books.drop(uid)
        del self._declared[name]
        self._fates.pop(name, None)
        self.books.drop_node(name)
        kubelet = self._kubelets.pop(name)
        self._retired.append(kubelet)
        kubelet.connect()

    def _kubelet(self, name: str) -> Kubelet:
        if name not in self._kubelets:
            raise ClusterRefused(
                Refusal.NOT_FOUND, f"no node {name!r}; there are: {_listed(self._declared)}"
            )
        return self._kubelets[name]

    def _after(self, seconds: float, name: str, what: Callable[[str], None]) -> None:
        self._forget_timer(name)
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, what, name)

    def _forget_timer(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def _keep(self) -> None:
        kept = _Kept(tuple(self._declared.values()), self._fates)
        write_whole(self._machine.places.state_file, encode(kept))

    # Pods ------------------------------------------------------------------------------

    async def create_pod(self, message: CreatePod) -> Pod:
        """Enter a pod into the books; it gets its place right after."""
        spec = message.spec
        if not _NAME.fullmatch(spec.name):
            raise ClusterRefused(Refusal.INVALID, f"no name for a pod: {spec.name!r}")
        if self.books.named(spec.namespace, spec.name) is not None:
            raise ClusterRefused(
                Refusal.ALREADY_EXISTS, f"pods {spec.name!r} already exists in {spec.namespace!r}"
            )
        if len(self.books.pods) >= _PODS_MAX:
            raise ClusterRefused(Refusal.QUOTA, f"more than {_PODS_MAX} pods")
        pod = new_pod(spec, uid=str(uuid4()), created_at=time.time())
        self.books.add(pod, spec)
        self._settle_soon()
        return pod

    async def delete_pod(self, message: DeletePod) -> None:
        """End the pod of this uid."""
        pod = self.books.named(message.namespace, message.name)
        if pod is None:
            raise ClusterRefused(Refusal.NOT_FOUND, f"pods {message.name!r} not found")
        if pod.uid != message.uid:
            raise ClusterRefused(
                Refusal.CONFLICT, f"pod {message.name} has uid {pod.uid}, not {message.uid}"
            )
        self._delete(pod, force=message.force)

    async def stop_pod(self, message: Named) -> None:
        """End a pod gracefully, by name."""
        self._delete(self._pod(message.name), force=False)

    async def crash_pod(self, message: Named) -> None:
        """Kill the processes of a pod; its kubelet starts it again."""
        pod = self._pod(message.name)
        kubelet = self._kubelets.get(pod.node_name or "")
        if kubelet is not None and pod.uid in kubelet.running:
            kubelet.running[pod.uid].crash()

    async def find_pod(self, message: FindPod) -> list[Pod]:
        """The pod of this name, also one that is not ours; none when there is none."""
        pod = self.books.named(message.namespace, message.name)
        return [] if pod is None else [pod]

    async def log_path(self, message: Named) -> str:
        """Where the pod's output stands, also when the pod is gone."""
        path = await asyncio.to_thread(self._machine.places.log_of, message.name)
        if path is None:
            raise ClusterRefused(
                Refusal.NOT_FOUND,
                f"no log of a pod {message.name!r}; there are: {_listed(self._pod_names())}",
            )
        return str(path)

    def _delete(self, pod: Pod, *, force: bool) -> None:
        if force or pod.node_name is None:
            self.books.drop(pod.uid)
            if kubelet := self._kubelets.get(pod.node_name or ""):
                kubelet.kill(pod.uid)
        else:
            self.books.put(replace(pod, terminating=True))
        self._settle_soon()

    def _pod(self, name: str) -> Pod:
        found = [pod for pod in self.books.pods.values() if pod.name == name]
        if not found:
            raise ClusterRefused(
                Refusal.NOT_FOUND, f"no pod {name!r}; there are: {_listed(self._pod_names())}"
            )
        return found[0]

    def _pod_names(self) -> list[str]:
        return [pod.name for pod in self.books.pods.values()]

    # All of it -------------------------------------------------------------------------

    async def configure(self, message: Configure) -> None:
        """Lead the uplinks there. Pods that run already keep the token that they have."""
        if not _is_url(message.orchestrator_url):
            raise ClusterRefused(Refusal.INVALID, f"no URL: {message.orchestrator_url!r}")
        self._orchestrator_url = message.orchestrator_url
        self._machine.state_token = message.state_token
        for kubelet in self._kubelets.values():
            kubelet.lead_to(message.orchestrator_url)

    async def stop(self, *, immediate: bool) -> None:
        """End all pods within the time that they have together, cut off or not."""
        for timer in self._timers.values():
            timer.cancel()
        kubelets = [*self._kubelets.values(), *self._retired]
        running = [pod for kubelet in kubelets for pod in kubelet.running.values()]
        seconds = self._machine.timing.stop_seconds
        for pod in running:
            if immediate:
                pod.kill()
            else:
                pod.terminate(seconds)
        waiting = [asyncio.create_task(pod.gone()) for pod in running]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for pod in running if late else ():
                pod.kill()
            await asyncio.wait(waiting, timeout=seconds)
        for kubelet in kubelets:
            kubelet.close()

    def _settle_soon(self) -> None:
        self._unsettled.set()

    async def _settle_always(self) -> None:
        while True:
            await self._unsettled.wait()
            self._unsettled.clear()
            self._settle()

    def _settle(self) -> None:
        """Give places to pods that have none, and tell the kubelets."""
        self._schedule()
        for kubelet in (*self._kubelets.values(), *self._retired):
            kubelet.sync()
        for kubelet in [kubelet for kubelet in self._retired if not kubelet.running]:
            self._retired.remove(kubelet)
            kubelet.close()

    def _schedule(self) -> None:
        homeless = [pod for pod in self.books.pods.values() if pod.node_name is None]
        if not homeless:
            return
        loads = loads_of(self.books.pods.values())
        for pod in homeless:
            spec = self.books.spec(pod.uid)
            node_name, message = place(spec, self.books.nodes, loads)
            self.books.put(replace(pod, node_name=node_name, message=message))
            if node_name is not None:
                loads.setdefault(node_name, Load()).add(spec.requests)

    def _on_end(self, uid: str) -> None:
        self._ended.add(uid)
        self._any_ended.set()
        self._settle_soon()

    async def _end_strays(self) -> None:
        """One look at all processes of the machine for all pods that ended meanwhile."""
        while True:
            await self._any_ended.wait()
            self._any_ended.clear()
            ended, self._ended = self._ended, set()
            await self._kill_strays(ended)
            places = self._machine.places
            keep = {places.pod_folder(pod.name, pod.uid) for pod in self.books.pods.values()}
            await asyncio.to_thread(places.prune, keep)

    async def _kill_strays(self, uids: set[str]) -> None:
        await asyncio.to_thread(leftovers.end_strays, self._machine.places.data_dir, uids)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _listed(names: Iterable[str]) -> str:
    known = sorted(names)
    shown = ", ".join(known[:_NAMES_SHOWN_MAX]) or "none"
    more = len(known) - _NAMES_SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown
