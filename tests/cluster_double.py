"""A cluster in memory: places pods as a real one does, and starts nothing."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from dory_orchestrator.cluster.local.scheduler import Load, loads_of, place
from dory_orchestrator.cluster.reading import is_ours, new_pod
from dory_orchestrator.core.announcing import Announcement
from dory_orchestrator.core.model import Node, Observation, Pod, PodPhase, PodSpec
from dory_orchestrator.core.start import Carrier
from dory_orchestrator.ports import ClusterError, ClusterRefused, Refusal, StoredState

_QUIET_SECONDS = 60.0
"""After so long it says that nothing changed."""


class MemoryCluster:
    """Set `error` to have every call and every stream fail with it; `hold` to have calls wait.

    `on_create(spec)` is called before a pod is created, and may raise. Pods that have a place
    run at once; they are ready at once if `ready_at_once`, else after `set_ready`. Pods that
    are deleted go away in the next round of the event loop if `finish_deletions`, else with
    `finish_deletion`; never while their node is lost.
    """

    hold: asyncio.Event | None = None
    uid: str | None = None
    on_create: Callable[[PodSpec], None] | None = None

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        *,
        ready_at_once: bool = False,
        finish_deletions: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.nodes: dict[str, Node] = {node.name: node for node in nodes}
        self.pods: dict[str, Pod] = {}
        self.specs: dict[str, PodSpec] = {}
        self.states: dict[UUID, bytes] = {}
        self.ready_at_once = ready_at_once
        self.finish_deletions = finish_deletions
        self.created: list[PodSpec] = []
        self.announced: dict[str, Announcement] = {}
        """By key."""
        self.deleted: list[tuple[str, bool]] = []
        """Names of pods whose end was asked for, and whether by force."""
        self._clock = clock
        self._error: ClusterError | None = None
        self._streams: set[asyncio.Event] = set()

    # The port --------------------------------------------------------------------------

    async def version(self) -> str:
        await self._answer()
        return "memory"

    @asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[Observation]]:
        await self._answer()
        event = asyncio.Event()
        event.set()
        self._streams.add(event)
        try:
            yield self._pictures(event)
        finally:
            self._streams.discard(event)

    def look_in(self, namespaces: frozenset[str]) -> None:
        """All are looked at."""

    async def create_pod(self, spec: PodSpec) -> Pod:
        await self._answer()
        if self.on_create is not None:
            self.on_create(spec)
        if self._named(spec.namespace, spec.name) is not None:
            raise ClusterRefused(Refusal.ALREADY_EXISTS, f"pod {spec.name} exists")
        pod = new_pod(spec, uid=str(uuid4()), created_at=self._clock())
        self.pods[pod.uid], self.specs[pod.uid] = pod, spec
        self.created.append(spec)
        self._changed()
        return self.pods[pod.uid]

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        await self._answer()
        found = self._named(pod.namespace, pod.name)
        if found is None:
            raise ClusterRefused(Refusal.NOT_FOUND, f"no pod {pod.name}")
        if found.uid != pod.uid:
            raise ClusterRefused(Refusal.CONFLICT, f"pod {pod.name} has uid {found.uid}")
        self.deleted.append((pod.name, force))
        if force or found.node_name is None:
            self.remove(found)
        elif not found.terminating:
            self._put(found, terminating=True, **self._readiness(found, False))
            if self.finish_deletions:
                asyncio.get_running_loop().call_soon(self._finish, found.uid)

    async def find_pod(self, namespace: str, name: str) -> Pod | None:
        await self._answer()
        return self._named(namespace, name)

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        await self._answer()
        document = self.states.get(processor_id)
        return None if document is None else StoredState(document, _version(document))

    async def seed_state(
        self, namespace: str, processor_id: UUID, document: bytes, *, version: str | None
    ) -> None:
        await self._answer()
        found = self.states.get(processor_id)
        if (None if found is None else _version(found)) != version:
            raise ClusterRefused(Refusal.CONFLICT, "another version stands there")
        self.states[processor_id] = document

    async def remove_state(self, namespace: str, processor_id: UUID, *, version: str) -> None:
        """See Cluster."""
        await self._answer()
        found = self.states.get(processor_id)
        if found is None:
            raise ClusterRefused(Refusal.NOT_FOUND, "there is no document")
        if _version(found) != version:
            raise ClusterRefused(Refusal.CONFLICT, "another version stands there")
        del self.states[processor_id]

    def carrier(self, backend: str) -> Carrier:
        """As of a Kubernetes."""
        if backend in ("", "configmap"):
            return Carrier.READABLE
        return Carrier.NONE if backend == "local" else Carrier.UNKNOWN

    async def announce(self, said: Announcement) -> None:
        """See Cluster."""
        await self._answer()
        self.announced[said.key] = said

    async def close(self) -> None:
        """Nothing to let go of."""

    # What tests do to it ---------------------------------------------------------------

    @property
    def error(self) -> ClusterError | None:
        """What every call and stream fails with."""
        return self._error

    @error.setter
    def error(self, error: ClusterError | None) -> None:
        self._error = error
        self._wake()

    def pod(self, name: str) -> Pod:
        """The pod that has this name now."""
        return next(pod for pod in self.pods.values() if pod.name == name)

    def set_ready(self, pod: Pod | str, ready: bool = True) -> None:
        """The pod's container is ready, or no longer."""
        found = self._found(pod)
        self._put(found, **self._readiness(found, ready))

    def crash(self, pod: Pod | str, exit_code: int = 1, *, crash_loop: bool = False) -> None:
        """Its container ended; it runs again at once, or waits in a crash loop."""
        found = self._found(pod)
        self._put(
            found,
            restart_count=found.restart_count + 1,
            exit_code=exit_code,
            exit_reason="Completed" if exit_code == 0 else "Error",
            waiting_reason="CrashLoopBackOff" if crash_loop else None,
            started_at=None if crash_loop else self._clock(),
            **self._readiness(found, False),
        )

    def fail(self, pod: Pod | str) -> None:
        """It is in phase Failed, as after an eviction."""
        found = self._found(pod)
        self._put(found, phase=PodPhase.FAILED, message="evicted", **self._readiness(found, False))

    def remove(self, pod: Pod | str) -> None:
        """It is gone at once, whoever did it."""
        found = self._found(pod)
        del self.pods[found.uid], self.specs[found.uid]
        self._changed()

    def finish_deletion(self, pod: Pod | str) -> None:
        """A pod whose end was asked for has ended."""
        found = self._found(pod)
        assert found.terminating, f"nobody deleted {found.name}"
        self.remove(found)

    def add_node(self, node: Node) -> None:
        """A new node, or another description of one."""
        self.nodes[node.name] = node
        self._changed()

    def remove_node(self, name: str) -> None:
        """A node and its pods are gone."""
        del self.nodes[name]
        for pod in [pod for pod in self.pods.values() if pod.node_name == name]:
            self.remove(pod)
        self._changed()

    def lose_node(self, name: str) -> None:
        """It is not ready, and neither are its pods. What shall end there does not."""
        self._set_node(name, ready=False)
        for pod in [pod for pod in self.pods.values() if pod.node_name == name]:
            self._put(pod, **self._readiness(pod, False))

    def restore_node(self, name: str) -> None:
        """It is ready again, and its pods as after their start."""
        self._set_node(name, ready=True)
        for pod in [pod for pod in self.pods.values() if pod.node_name == name]:
            if pod.terminating and self.finish_deletions:
                self.remove(pod)
            elif self.ready_at_once:
                self._put(pod, **self._readiness(pod, True))

    # How -------------------------------------------------------------------------------

    async def _answer(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self._error is not None:
            raise self._error

    async def _pictures(self, event: asyncio.Event) -> AsyncIterator[Observation]:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_QUIET_SECONDS):
                    await event.wait()
            event.clear()
            if self._error is not None:
                raise self._error
            ours = {uid: pod for uid, pod in self.pods.items() if is_ours(pod.labels)}
            yield Observation(dict(self.nodes), ours, cluster_uid=self.uid)

    def _finish(self, uid: str) -> None:
        pod = self.pods.get(uid)
        if pod is None:
            return
        node = self.nodes.get(pod.node_name or "")
        if node is None or node.ready:
            self.remove(pod)

    def _found(self, pod: Pod | str) -> Pod:
        return self.pod(pod) if isinstance(pod, str) else self.pods[pod.uid]

    def _named(self, namespace: str, name: str) -> Pod | None:
        wanted = (namespace, name)
        return next((p for p in self.pods.values() if (p.namespace, p.name) == wanted), None)

    def _set_node(self, name: str, *, ready: bool) -> None:
        self.add_node(replace(self.nodes[name], ready=ready, ready_changed_at=self._clock()))

    def _readiness(self, pod: Pod, ready: bool) -> dict[str, Any]:
        changed_at = pod.ready_changed_at if pod.ready == ready else self._clock()
        return {"ready": ready, "ready_changed_at": changed_at}

    def _put(self, pod: Pod, **changes: Any) -> None:
        self.pods[pod.uid] = replace(pod, **changes)
        self._wake()

    def _changed(self) -> None:
        """Give places to pods that have none."""
        loads = loads_of(self.pods.values())
        for pod in [pod for pod in self.pods.values() if pod.node_name is None]:
            spec = self.specs[pod.uid]
            node_name, message = place(spec, self.nodes, loads)
            if node_name is None:
                self._put(pod, message=message)
            else:
                loads.setdefault(node_name, Load()).add(spec.requests)
                self._run(pod, node_name)
        self._wake()

    def _run(self, pod: Pod, node_name: str) -> None:
        ip = f"127.0.0.{len(self.created) % 250 + 1}"
        self._put(
            pod,
            node_name=node_name,
            message=None,
            phase=PodPhase.RUNNING,
            ip=ip,
            address=f"{ip}:8080",
            started_at=self._clock(),
            **self._readiness(pod, self.ready_at_once),
        )

    def _wake(self) -> None:
        for event in self._streams:
            event.set()


def _version(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()
