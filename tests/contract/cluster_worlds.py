"""The same small world in several clusters, for the contract suite of the port."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

from tests.cluster_double import MemoryCluster
from tests.kube.api_server import ApiServer
from tests.kube.control_plane import ControlPlane
from tests.patience import patient

from dory_orchestrator.cluster.kubernetes.client import KubernetesCluster
from dory_orchestrator.cluster.kubernetes.connection import Connection
from dory_orchestrator.cluster.kubernetes.manifest import Surroundings
from dory_orchestrator.cluster.kubernetes.watching import Pace
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.messages import Timing
from dory_orchestrator.cluster.local.states import state_file
from dory_orchestrator.core.announcing import Announcement
from dory_orchestrator.core.model import (
    MANAGED_BY,
    Node,
    Observation,
    Pod,
    PodSpec,
    Probes,
    Resources,
)
from dory_orchestrator.ports import Cluster, ClusterError, ClusterUnavailable

QUICK = Timing(
    not_ready_after_seconds=0.4,
    status_seconds=0.2,
    crash_first_seconds=0.4,
    crash_most_seconds=1.0,
    stop_seconds=4.0,
)

AROUND = Surroundings(
    orchestrator_url="http://dory-orchestrator.dory-system:8080", service_account="dory-processor"
)
QUICK_PACE = Pace(patience_seconds=patient(1.0))

PROGRAM = r"""
import os, socket
server = socket.create_server(("0.0.0.0", int(os.environ["DORY_HEALTH_PORT"])))
while True:
    client, _ = server.accept()
    with client:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
"""
"""Answers every probe, as quickly as a Python program can start."""

COMMAND = ("python", "-I", "-S", "-u", "-c")


def a_node(name: str, **changes: Any) -> Node:
    fields: dict[str, Any] = {"allocatable": Resources(4_000, 8_000_000_000, 1), "ready": True}
    return Node(name, **(fields | changes))


def a_spec(**changes: Any) -> PodSpec:
    """A pod of a processor of its own."""
    key: UUID = changes.pop("processor_id", None) or uuid4()
    labels = {"managed-by": MANAGED_BY, "app": "small", "processor-id": str(key)}
    fields: dict[str, Any] = {
        "name": f"small-{key}",
        "namespace": "default",
        "processor_id": key,
        "app": "small",
        "labels": labels,
        "annotations": {},
        "image": "small:1",
        "command": COMMAND,
        "args": (PROGRAM,),
        "environment": {"PROCESSOR_ID": str(key)},
        "probes": Probes(period_seconds=1, timeout_seconds=1),
        "grace_seconds": 5,
    }
    return PodSpec(**(fields | changes))


def said_of(about: Pod | str, **changes: Any) -> Announcement:
    """Something, of a pod or of the node of this name."""
    fields: dict[str, Any] = {
        "key": "1-5f",
        "at": 1_700_000_000.0,
        "pod": about if isinstance(about, Pod) else None,
        "node_name": about if isinstance(about, str) else None,
        "reason": "Failover",
        "message": "node_dead: from edge-1: on cloud-1",
        "is_warning": True,
    }
    return Announcement(**(fields | changes))


class World(Protocol):
    """What a contract test arranges, beside the cluster itself."""

    cluster: Cluster

    async def declare(self, *nodes: Node) -> None:
        """These are the nodes."""
        ...

    async def lose_node(self, name: str) -> None:
        """Its network is cut: before long the cluster calls it not ready."""
        ...

    async def restore_node(self, name: str) -> None: ...

    async def fail(self) -> None:
        """From now on the cluster is not there."""
        ...


class MemoryWorld:
    """Over the double."""

    def __init__(self) -> None:
        self.memory = MemoryCluster(ready_at_once=True)
        self.cluster: Cluster = self.memory

    async def declare(self, *nodes: Node) -> None:
        for node in nodes:
            self.memory.add_node(node)

    async def lose_node(self, name: str) -> None:
        self.memory.lose_node(name)

    async def restore_node(self, name: str) -> None:
        self.memory.restore_node(name)

    async def fail(self) -> None:
        self.memory.error = ClusterUnavailable("gone")


class LocalWorld:
    """Over a local cluster, whose process the tests share."""

    def __init__(self, data_dir: Path) -> None:
        self.local = LocalCluster(data_dir)
        self.cluster: Cluster = self.local

    async def declare(self, *nodes: Node) -> None:
        await self.local.declare_nodes(nodes)

    async def lose_node(self, name: str) -> None:
        await self.local.cut_node(name)

    async def restore_node(self, name: str) -> None:
        await self.local.restore_node(name)

    async def fail(self) -> None:
        await self.local.stop(immediate=True)

    async def clear(self) -> None:
        """No pod of one test lives on in the next."""
        await self.local.declare_nodes([])
        async with self.local.observe() as pictures:
            async for picture in pictures:
                for pod in picture.pods.values():
                    await self.local.delete_pod(pod, force=True)
                if not picture.pods and not picture.nodes:
                    break
        await self.local.close()


class KubernetesWorld:
    """Over the adapter and an API server of our own."""

    def __init__(self, server: ApiServer, kubeconfig: Path, pace: Pace) -> None:
        self.server = server
        self.plane = ControlPlane(server)
        self.connection = Connection(str(kubeconfig))
        self.kubernetes = KubernetesCluster(self.connection, AROUND, pace)
        self.kubernetes.look_in(frozenset({"default", "other"}))
        self.cluster: Cluster = self.kubernetes

    async def declare(self, *nodes: Node) -> None:
        self.plane.declare(nodes)

    async def lose_node(self, name: str) -> None:
        self.plane.lose_node(name)

    async def restore_node(self, name: str) -> None:
        self.plane.restore_node(name)

    async def fail(self) -> None:
        await self.server.stop()


@asynccontextmanager
async def kubernetes_world(folder: Path, pace: Pace = QUICK_PACE) -> AsyncIterator[KubernetesWorld]:
    """One whose API server ends with it."""
    server = ApiServer()
    await server.start()
    server.namespaces |= {"default", "other"}
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(server.kubeconfig())
    world = KubernetesWorld(server, kubeconfig, pace)
    try:
        yield world
    finally:
        await world.kubernetes.close()
        await server.stop()


class Watcher:
    """Follows a cluster in the background; `now` is the newest picture."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._event = asyncio.Event()
        self.begun = asyncio.Event()
        self.now = Observation()
        self.failure: ClusterError | None = None

    async def run(self) -> None:
        try:
            async with self._cluster.observe() as pictures:
                async for picture in pictures:
                    self.now = picture
                    self.begun.set()
                    self._event.set()
        except ClusterError as error:
            self.failure = error
            self.begun.set()
            self._event.set()

    async def until(
        self, condition: Callable[[Observation], Any], limit_seconds: float = 8.0
    ) -> Any:
        """Wait for a picture that fulfils it; returns what it returned."""
        try:
            async with asyncio.timeout(patient(limit_seconds)):
                while not (found := condition(self.now)):
                    self._event.clear()
                    await self._event.wait()
        except TimeoutError:
            raise AssertionError(f"not seen in time; now: {self.now}") from None
        return found

    async def pod(self, name: str, limit_seconds: float = 8.0, **fields: object) -> Pod:
        """Wait until the pod of this name is so."""

        def found(picture: Observation) -> Pod | None:
            return next(
                (
                    pod
                    for pod in picture.pods.values()
                    if pod.name == name and all(getattr(pod, k) == v for k, v in fields.items())
                ),
                None,
            )

        pod: Pod = await self.until(found, limit_seconds)
        return pod

    async def gone(self, *names: str, limit_seconds: float = 8.0) -> None:
        """Wait until no pod has one of these names."""
        await self.until(
            lambda picture: not {pod.name for pod in picture.pods.values()} & set(names),
            limit_seconds,
        )


@asynccontextmanager
async def watching(cluster: Cluster) -> AsyncIterator[Watcher]:
    """A watcher that has seen the first picture."""
    watcher = Watcher(cluster)
    task = asyncio.create_task(watcher.run())
    try:
        await watcher.begun.wait()
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def version_of(cluster: Cluster) -> str:
    """What it says that it is. It has little time to: who waits for its health asks again, too."""
    async with asyncio.timeout(patient(2)):
        while True:
            try:
                return await cluster.version()
            except ClusterUnavailable:
                await asyncio.sleep(0.05)


def forget_states(keys: Iterable[UUID]) -> None:
    """Remove what the client library, or a test, left in its fixed folder."""
    for key in keys:
        state_file(key).unlink(missing_ok=True)
