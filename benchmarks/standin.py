"""A stand-in for a cluster, in the memory of the process that decides.

What a pod asks for is there at once: it runs and is ready in the next picture, and one that is
deleted ends within a moment. So what is measured is ours, and not a kubelet's.
`python -m benchmarks.standin run ...` is the command with it in place of the local cluster.
"""

import asyncio
import pickle
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

from dory_orchestrator import cli
from dory_orchestrator.app import child, control_process, run
from dory_orchestrator.cluster.reading import new_pod
from dory_orchestrator.core.model import Node, Observation, Pod, PodPhase, PodSpec
from dory_orchestrator.ports import ClusterRefused, Refusal, StoredState

_END_SECONDS = 0.05
_BOOKS = "standin-books"
_CREATED = "standin-created"


def write_books(folder: Path, nodes: Iterable[Node], pods: Iterable[Pod] = ()) -> None:
    """What the cluster of this folder begins with."""
    (folder / _BOOKS).write_bytes(pickle.dumps((list(nodes), list(pods))))


def read_created(folder: Path) -> dict[UUID, float]:
    """When `create_pod` was first called for each processor, on the monotonic clock."""
    moments: dict[UUID, float] = {}
    for line in (folder / _CREATED).read_text().splitlines():
        processor_id, at = line.split()
        moments.setdefault(UUID(processor_id), float(at))
    return moments


def running(spec: PodSpec, uid: str, created_at: float, number: int) -> Pod:
    """The pod of a spec as it is soon after its creation; without a place it waits."""
    place = spec.node_name or spec.preferred_node_name
    pod = new_pod(spec, uid=uid, created_at=created_at)
    if place is None:
        return pod
    return replace(
        pod,
        phase=PodPhase.RUNNING,
        node_name=place,
        ip=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        ready=True,
        ready_changed_at=created_at,
        started_at=created_at,
    )


class StandIn:
    """Takes the place of `LocalCluster`: the same folder, the same calls."""

    def __init__(self, folder: Path) -> None:
        nodes, pods = pickle.loads((folder / _BOOKS).read_bytes())
        self.nodes: dict[str, Node] = {node.name: node for node in nodes}
        self.pods: dict[str, Pod] = {pod.uid: pod for pod in pods}
        self._names = {(pod.namespace, pod.name) for pod in pods}
        self._number = len(pods)
        self._log = (folder / _CREATED).open("a", buffering=1)
        self._changed: set[asyncio.Event] = set()

    async def configure(self, url: str, token: str | None) -> None:
        """Its pods speak to nobody."""

    def look_in(self, namespaces: frozenset[str]) -> None:
        """All are looked at."""

    async def version(self) -> str:
        return "stand-in"

    @asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[Observation]]:
        event = asyncio.Event()
        event.set()
        self._changed.add(event)
        try:
            yield self._pictures(event)
        finally:
            self._changed.discard(event)

    async def _pictures(self, event: asyncio.Event) -> AsyncIterator[Observation]:
        while True:
            await event.wait()
            event.clear()
            yield Observation(self.nodes, dict(self.pods))

    def _tell(self) -> None:
        for event in self._changed:
            event.set()

    async def create_pod(self, spec: PodSpec) -> Pod:
        self._log.write(f"{spec.processor_id} {time.monotonic()}\n")
        if (spec.namespace, spec.name) in self._names:
            raise ClusterRefused(Refusal.ALREADY_EXISTS, f"pod {spec.name} exists")
        self._number += 1
        pod = running(spec, str(uuid.uuid4()), time.time(), self._number)
        self.pods[pod.uid] = pod
        self._names.add((pod.namespace, pod.name))
        await asyncio.sleep(0)
        self._tell()
        # As a cluster answers: it was accepted, and has no place yet.
        return new_pod(spec, uid=pod.uid, created_at=pod.created_at)

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        found = self.pods.get(pod.uid)
        if found is None:
            raise ClusterRefused(Refusal.NOT_FOUND, f"no pod {pod.name}")
        if not found.terminating:
            self.pods[pod.uid] = replace(found, terminating=True, ready=False)
            asyncio.get_running_loop().call_later(_END_SECONDS, self._end, found)
        await asyncio.sleep(0)
        self._tell()

    def _end(self, pod: Pod) -> None:
        del self.pods[pod.uid]
        self._names.discard((pod.namespace, pod.name))
        self._tell()

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        return None

    async def seed_state(
        self, namespace: str, processor_id: UUID, document: bytes, *, version: str | None
    ) -> None:
        """Nobody reads it."""

    async def close(self) -> None:
        self._log.close()


def main() -> int:
    """Be the command or a process of it, as the first argument says."""
    with patch.object(control_process, "LocalCluster", StandIn):
        if sys.argv[1] in ("api", "control"):
            return child.main()
        with patch.object(run, "_MODULE", "benchmarks.standin"):
            cli.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
