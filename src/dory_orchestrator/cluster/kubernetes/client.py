"""Kubernetes as the rest of us sees it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from dory_orchestrator.cluster.kubernetes.connection import Apis, Connection
from dory_orchestrator.cluster.kubernetes.manifest import Surroundings, manifest_of
from dory_orchestrator.cluster.kubernetes.objects import (
    ConfigMap,
    KubeNode,
    KubePod,
    to_node,
    to_pod,
)
from dory_orchestrator.cluster.kubernetes.watching import USUAL_PACE, Pace, Reflection, Source
from dory_orchestrator.core.model import MANAGED_BY, Node, Observation, Pod, PodSpec
from dory_orchestrator.ports import (
    ClusterRefused,
    ClusterUnavailable,
    Refusal,
    StoredState,
)

T = TypeVar("T")

_VERSION_SECONDS = 1.5
_CALL_SECONDS = 10.0
_SEEN_SECONDS = 5.0
_OURS = f"managed-by={MANAGED_BY}"
_STATE_KEY = "state"


@dataclass(frozen=True, slots=True)
class _Done:
    """What a pod is since something that we did; `pod` is None when it is gone."""

    version: int
    until: float
    pod: Pod | None


class KubernetesCluster:
    """The `Cluster` behind one API server.

    `namespaces` says where processors may be: pods of no others are looked at. A picture holds
    those that it named when the looking began.
    """

    def __init__(
        self,
        connection: Connection,
        around: Surroundings,
        namespaces: Callable[[], Iterable[str]],
        pace: Pace = USUAL_PACE,
    ) -> None:
        self._pace = pace
        self._connection = connection
        self._around = around
        self._namespaces = namespaces
        self._done: dict[str, _Done] = {}

    async def version(self) -> str:
        """See Cluster."""

        body = await self._connection.send(
            lambda apis: apis.version.get_code_without_preload_content(),
            timeout_seconds=_VERSION_SECONDS,
        )
        try:
            said = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ClusterUnavailable(f"no API server: {error}") from error
        return f"Kubernetes {said.get('major', '?')}.{said.get('minor', '?')}"

    @asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[Observation]]:
        """See Cluster."""
        event = asyncio.Event()
        nodes: Reflection[str, Node] = Reflection(self._connection, _NODES, event.set, self._pace)
        pods: list[Reflection[str, Pod]] = [
            Reflection(self._connection, _pods_of(namespace), event.set, self._pace)
            for namespace in sorted(set(self._namespaces()))
        ]
        every: list[Reflection[str, Any]] = [nodes, *pods]
        for found in await asyncio.gather(*(one.begin() for one in every), return_exceptions=True):
            if found is not None:
                raise _failure(found)
        working = [asyncio.create_task(one.keep_up()) for one in every]
        for task in working:
            task.add_done_callback(lambda _task: event.set())
        try:
            yield self._pictures(event, nodes, pods, working)
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def create_pod(self, spec: PodSpec) -> Pod:
        """See Cluster."""
        body = manifest_of(spec, self._around)
        answer = await self._connection.send(
            lambda apis: apis.core.create_namespaced_pod_without_preload_content(
                spec.namespace, body
            ),
            timeout_seconds=_CALL_SECONDS,
        )
        pod, version = _pod(answer)
        self._did(pod.uid, version, pod)
        return pod

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        """See Cluster."""
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": pod.uid},
        }
        if force:
            options["gracePeriodSeconds"] = 0
        answer = await self._connection.send(
            lambda apis: apis.core.delete_namespaced_pod_without_preload_content(
                pod.name, pod.namespace, body=options
            ),
            timeout_seconds=_CALL_SECONDS,
        )
        try:
            ending, version = _pod(answer)
        except ClusterUnavailable:
            # A pod that is gone at once may be answered with a status.
            ending, version = None, 0
        is_gone = force or ending is None or not ending.terminating
        self._did(pod.uid, version, None if is_gone else ending)

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        """See Cluster."""
        name = _state_name(processor_id)
        try:
            answer = await self._connection.send(
                lambda apis: apis.core.read_namespaced_config_map_without_preload_content(
                    name, namespace
                ),
                timeout_seconds=_CALL_SECONDS,
            )
        except ClusterRefused as refused:
            if refused.reason is Refusal.NOT_FOUND:
                return None
            raise
        found = _decoded(answer, ConfigMap)
        document = (found.data or {}).get(_STATE_KEY)
        if document is None:
            return None
        return StoredState(document.encode(), found.metadata.resource_version)

    async def seed_state(
        self, namespace: str, processor_id: UUID, document: bytes, *, version: str | None
    ) -> None:
        """See Cluster."""
        name = _state_name(processor_id)
        body = _state_map(name, namespace, document, version)

        def call(apis: Apis) -> Any:
            core = apis.core
            if version is None:
                return core.create_namespaced_config_map_without_preload_content(namespace, body)
            return core.replace_namespaced_config_map_without_preload_content(name, namespace, body)

        try:
            await self._connection.send(call, timeout_seconds=_CALL_SECONDS)
        except ClusterRefused as refused:
            if refused.reason in (Refusal.ALREADY_EXISTS, Refusal.NOT_FOUND):
                raise ClusterRefused(Refusal.CONFLICT, str(refused)) from refused
            raise

    async def close(self) -> None:
        """See Cluster."""
        await self._connection.close()

    # How -------------------------------------------------------------------------------

    async def _pictures(
        self,
        event: asyncio.Event,
        nodes: Reflection[str, Node],
        pods: list[Reflection[str, Pod]],
        working: list["asyncio.Task[None]"],
    ) -> AsyncIterator[Observation]:
        while True:
            await event.wait()
            event.clear()
            for task in working:
                if task.done():
                    raise _failure(None if task.cancelled() else task.exception())
            yield Observation(dict(nodes.objects), self._with_what_we_did(pods))

    def _did(self, uid: str, version: int, pod: Pod | None) -> None:
        now = asyncio.get_running_loop().time()
        self._done = {key: one for key, one in self._done.items() if one.until > now}
        self._done[uid] = _Done(version, now + _SEEN_SECONDS, pod)

    def _with_what_we_did(self, pods: list[Reflection[str, Pod]]) -> Mapping[str, Pod]:
        """Also what a watch does not tell yet: else it would be decided once more."""
        now = asyncio.get_running_loop().time()
        picture: dict[str, Pod] = {}
        for one in pods:
            picture.update(one.objects)
        come_to = {one.name: _number(one.version) for one in pods}
        for uid, done in self._done.items():
            if done.until <= now:
                continue
            if done.pod is None:
                picture.pop(uid, None)
            elif come_to.get(done.pod.namespace, 0) < done.version:
                picture[uid] = done.pod
        return picture


def _pods_of(namespace: str) -> Source[str, Pod]:
    def call(apis: Apis, **query: Any) -> Any:
        return apis.core.list_namespaced_pod_without_preload_content(
            namespace, label_selector=_OURS, **query
        )

    return Source(namespace, call, KubePod, lambda metadata: metadata.uid, to_pod)


def _list_nodes(apis: Apis, **query: Any) -> Any:
    return apis.core.list_node_without_preload_content(**query)


_NODES: Source[str, Node] = Source(
    "nodes", _list_nodes, KubeNode, lambda metadata: metadata.name, to_node
)


def _failure(error: BaseException | None) -> BaseException:
    """Why a reflection has ended. A right that is missing may be given: it is asked for again."""
    if isinstance(error, ClusterRefused):
        return ClusterUnavailable(f"cannot be watched: {error}")
    return error if error is not None else ClusterUnavailable("the watching has ended")


def _decoded(body: bytes, model: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.DecodeError as error:
        raise ClusterUnavailable(f"the API server: {error}") from error


def _pod(body: bytes) -> tuple[Pod, int]:
    found = _decoded(body, KubePod)
    if not found.metadata.uid:
        raise ClusterUnavailable("the API server: no pod in its answer")
    return to_pod(found), _number(found.metadata.resource_version)


def _number(version: str) -> int:
    """Versions of one kind grow; what is no number is older than everything."""
    return int(version) if version.isdecimal() else 0


# State documents ---------------------------------------------------------------------------


def _state_name(processor_id: UUID) -> str:
    """Where the client library looks (platform facts 12.3)."""
    return f"dory-state-{processor_id}"


def _state_map(name: str, namespace: str, document: bytes, version: str | None) -> dict[str, Any]:
    """As the client library writes it. Raises ClusterRefused for what is no text."""
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise ClusterRefused(Refusal.INVALID, f"a state document is no text: {error}") from error
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "labels": {"dory.io/state-owner": "true"},
        "annotations": {
            "dory.io/state-ttl": "3600",
            "dory.io/created-timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    }
    if version is not None:
        # Whatever stands there by now is not overwritten unless it is what was read.
        metadata["resourceVersion"] = version
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {_STATE_KEY: text},
    }
