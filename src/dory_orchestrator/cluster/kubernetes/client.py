"""Kubernetes as the rest of us sees it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from dory_orchestrator.cluster.kubernetes.connection import Apis, Connection
from dory_orchestrator.cluster.kubernetes.events import event_of
from dory_orchestrator.cluster.kubernetes.manifest import Surroundings, manifest_of, sentinel_of
from dory_orchestrator.cluster.kubernetes.objects import (
    BareObject,
    ConfigMap,
    KubeNode,
    KubePod,
    ObjectList,
    to_bearer,
    to_node,
    to_pod,
)
from dory_orchestrator.cluster.kubernetes.watching import USUAL_PACE, Pace, Reflection, Source
from dory_orchestrator.core.announcing import Announcement
from dory_orchestrator.core.model import MANAGED_BY, Bearer, Node, Observation, Pod, PodSpec
from dory_orchestrator.core.start import Carrier
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    ClusterRefused,
    ClusterUnavailable,
    Refusal,
    StoredState,
)

T = TypeVar("T")
V = TypeVar("V")

_log = get_logger(__name__)

_VERSION_SECONDS = 1.5
_CALL_SECONDS = 10.0
_SEEN_SECONDS = 5.0
_REFUSED_SECONDS = 30.0
_OURS = f"managed-by={MANAGED_BY}"
_STATE_KEY = "state"
_SYSTEM_NAMESPACE = "kube-system"


@dataclass(frozen=True, slots=True)
class _Done:
    """What a pod is since something that we did; `pod` is None when it is gone."""

    version: int
    until: float
    pod: Pod | None


class KubernetesCluster:
    """The `Cluster` behind one API server.

    Pods of no other namespaces are looked at than `look_in` names; before the first call there is
    no picture. One that may not be looked at is left out of pictures, and asked for again.
    """

    def __init__(
        self,
        connection: Connection,
        around: Surroundings,
        pace: Pace = USUAL_PACE,
    ) -> None:
        self._pace = pace
        self._connection = connection
        self._around = around
        self._wanted: frozenset[str] = frozenset()
        self._named = asyncio.Event()
        self._looking: set[_Looking] = set()
        self._done: dict[str, _Done] = {}

    async def version(self) -> str:
        """See Cluster. Where storage is away the server still tells its version, so something that
        is stored is asked for, too."""
        body, _ = await asyncio.gather(
            self._connection.send(
                lambda apis: apis.version.get_code_without_preload_content(),
                timeout_seconds=_VERSION_SECONDS,
            ),
            self._read_storage(),
        )
        said = _decoded(body, dict[str, Any])
        return f"Kubernetes {said.get('major', '?')}.{said.get('minor', '?')}"

    def look_in(self, namespaces: frozenset[str]) -> None:
        """See Cluster."""
        if namespaces <= self._wanted:
            return
        self._wanted |= namespaces
        self._named.set()
        for looking in self._looking:
            looking.event.set()

    @asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[Observation]]:
        """See Cluster."""
        await self._named.wait()
        looking = _Looking(self._connection, self._pace)
        self._looking.add(looking)
        try:
            await looking.begin(self._wanted)
            yield self._pictures(looking)
        finally:
            self._looking.discard(looking)
            await looking.end()

    async def create_pod(self, spec: PodSpec) -> Pod:
        """See Cluster."""
        sentinel_uid = await self._sentinel_uid(spec.namespace)
        body = manifest_of(spec, self._around, sentinel_uid=sentinel_uid)
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
        # A pod that is gone at once may be answered with a status: it bears no uid. What cannot be
        # read is no proof that it is gone.
        found = _decoded(answer, KubePod)
        is_gone = force or not found.metadata.uid or found.metadata.deletion_timestamp is None
        version = _number(found.metadata.resource_version)
        self._did(pod.uid, version, None if is_gone else to_pod(found))

    async def find_pod(self, namespace: str, name: str) -> Pod | None:
        """See Cluster. By a list, which needs no right that is not there already."""
        answer = await self._connection.send(
            lambda apis: apis.core.list_namespaced_pod_without_preload_content(
                namespace, field_selector=f"metadata.name={name}"
            ),
            timeout_seconds=_CALL_SECONDS,
        )
        found = _decoded(answer, ObjectList[KubePod]).items or ()
        return next(map(to_pod, found), None)

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        """See Cluster."""
        found = await self._config_map(namespace, _state_name(processor_id))
        document = None if found is None else (found.data or {}).get(_STATE_KEY)
        if found is None or document is None:
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

    async def remove_state(self, namespace: str, processor_id: UUID, *, version: str) -> None:
        """See Cluster."""
        name = _state_name(processor_id)
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": version},
        }
        await self._connection.send(
            lambda apis: apis.core.delete_namespaced_config_map_without_preload_content(
                name, namespace, body=options
            ),
            timeout_seconds=_CALL_SECONDS,
        )

    def carrier(self, backend: str) -> Carrier:
        """See Cluster. Our pods mount nothing: a file goes with its container."""
        if backend.lower() in ("", "configmap"):
            return Carrier.READABLE
        return Carrier.NONE if backend.lower() == "local" else Carrier.UNKNOWN

    async def announce(self, said: Announcement) -> None:
        """See Cluster. As an Event of Kubernetes, which forgets it after an hour."""
        body = event_of(said)
        try:
            await self._connection.send(
                lambda apis: apis.core.create_namespaced_event_without_preload_content(
                    body["metadata"]["namespace"], body
                ),
                timeout_seconds=_CALL_SECONDS,
            )
        except ClusterRefused as refused:
            if refused.reason is not Refusal.ALREADY_EXISTS:
                raise

    async def close(self) -> None:
        """See Cluster."""
        await self._connection.close()

    # How -------------------------------------------------------------------------------

    async def _pictures(self, looking: "_Looking") -> AsyncIterator[Observation]:
        while True:
            await looking.event.wait()
            looking.event.clear()
            looking.check()
            if looking.lacks(self._wanted):
                await looking.begin(self._wanted)
            pods = list(looking.pods.values())
            yield Observation(
                dict(looking.nodes.objects),
                self._with_what_we_did(pods),
                frozenset(looking.pods),
                dict(looking.hidden),
                looking.age_seconds,
                looking.elsewhere(),
                looking.is_whole,
                looking.cluster_uid,
            )

    async def _read_storage(self) -> None:
        """Raises ClusterUnavailable. That nodes may not be listed is told by who observes them."""
        with suppress(ClusterRefused):
            await self._connection.send(
                lambda apis: apis.core.list_node_without_preload_content(limit=1),
                timeout_seconds=_VERSION_SECONDS,
            )

    async def _sentinel_uid(self, namespace: str) -> str | None:
        """Of the sentinel there, made where there is none. Asked each time: a pod whose owner is
        another one by now, or in another namespace, is deleted at once."""
        name = self._around.sentinel
        if name is None:
            return None
        if (found := await self._config_map(namespace, name)) is None:
            await self._make_sentinel(namespace, name)
            found = await self._config_map(namespace, name)
        if found is None:
            raise ClusterUnavailable(f"the sentinel {name} was deleted as it was made")
        return found.metadata.uid

    async def _make_sentinel(self, namespace: str, name: str) -> None:
        """Creations run side by side: each of the first ones finds none, and one of them makes
        it."""
        body = sentinel_of(name, namespace)
        try:
            await self._connection.send(
                lambda apis: apis.core.create_namespaced_config_map_without_preload_content(
                    namespace, body
                ),
                timeout_seconds=_CALL_SECONDS,
            )
        except ClusterRefused as refused:
            if refused.reason is not Refusal.ALREADY_EXISTS:
                raise

    async def _config_map(self, namespace: str, name: str) -> ConfigMap | None:
        """None when there is none. Raises ClusterRefused, ClusterUnavailable."""
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
        return _decoded(answer, ConfigMap)

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


class _Looking:
    """One observation: a reflection of the nodes, and one of the pods of each namespace."""

    def __init__(self, connection: Connection, pace: Pace) -> None:
        self._connection, self._pace = connection, pace
        self.event = asyncio.Event()
        self.nodes: Reflection[str, Node] = self._reflect(_NODES)
        self.pods: dict[str, Reflection[str, Pod]] = {}
        self._working: list[asyncio.Task[None]] = []
        self._refused: dict[str, float] = {}
        """When namespaces are asked for again that may not be looked at."""
        self.hidden: dict[str, str] = {}
        """Why not."""
        self._everywhere: Reflection[str, Bearer | None] | None = None
        self._ask_everywhere_at = 0.0
        self.cluster_uid: str | None = None

    def lacks(self, namespaces: frozenset[str]) -> bool:
        """Whether there is something to begin with now."""
        now = asyncio.get_running_loop().time()
        return (self._everywhere is None and self._ask_everywhere_at <= now) or any(
            name not in self.pods and self._refused.get(name, 0.0) <= now for name in namespaces
        )

    @property
    def age_seconds(self) -> float:
        """How long ago the part was heard of that is silent longest."""
        heard_at = [self.nodes.heard_at, *(one.heard_at for one in self.pods.values())]
        if self._everywhere is not None:
            heard_at.append(self._everywhere.heard_at)
        return asyncio.get_running_loop().time() - min(heard_at)

    async def begin(self, namespaces: frozenset[str]) -> None:
        """Have whole lists of what is lacking, and keep up with them. Raises ClusterUnavailable."""
        begun: list[Reflection[str, Any]] = []
        if not self._working:
            try:
                await self.nodes.read_all()
            except ClusterRefused as refused:
                raise ClusterUnavailable(f"nodes cannot be watched: {refused}") from refused
            begun.append(self.nodes)
            self.cluster_uid = await self._read_cluster_uid()
        if self._everywhere is None and (everywhere := await self._look_everywhere()):
            begun.append(everywhere)
        names = sorted(namespaces - self.pods.keys())
        reflections = [self._reflect(pods_of(name)) for name in names]
        beginnings = await asyncio.gather(
            *(one.read_all() for one in reflections), return_exceptions=True
        )
        for name, reflection, failure in zip(names, reflections, beginnings, strict=True):
            if failure is None:
                self.hidden.pop(name, None)
                self.pods[name] = reflection
                begun.append(reflection)
            elif isinstance(failure, ClusterRefused):
                self._leave_out(name, failure)
            else:
                raise failure
        for reflection in begun:
            task = asyncio.create_task(reflection.keep_up())
            task.add_done_callback(lambda _task: self.event.set())
            self._working.append(task)
        self.event.set()

    @property
    def is_whole(self) -> bool:
        """Whether no pod that bears a processor's id can be missing."""
        return self._everywhere is not None

    def elsewhere(self) -> Mapping[str, Bearer]:
        """Pods that bear the id of a processor in namespaces that are not looked at."""
        if self._everywhere is None:
            return {}
        return {
            uid: bearer
            for uid, bearer in self._everywhere.objects.items()
            if bearer is not None and bearer.namespace not in self.pods
        }

    async def _read_cluster_uid(self) -> str | None:
        """That of the namespace that every cluster has; None where it may not be read."""
        try:
            answer = await self._connection.send(
                lambda apis: apis.core.read_namespace_without_preload_content(_SYSTEM_NAMESPACE),
                timeout_seconds=_CALL_SECONDS,
            )
        except ClusterRefused as refused:
            _log.info("which cluster this is cannot be read", error=str(refused))
            return None
        return _decoded(answer, BareObject).metadata.uid or None

    async def _look_everywhere(self) -> Reflection[str, Bearer | None] | None:
        """None where that is not allowed: then it is asked for again in a while."""
        loop = asyncio.get_running_loop()
        reflection = self._reflect(_EVERYWHERE)
        try:
            await reflection.read_all()
        except ClusterRefused as refused:
            if not self._ask_everywhere_at:
                _log.warning("pods of all namespaces cannot be looked at", error=str(refused))
            self._ask_everywhere_at = loop.time() + _REFUSED_SECONDS
            loop.call_later(_REFUSED_SECONDS, self.event.set)
            return None
        self._everywhere = reflection
        return reflection

    def check(self) -> None:
        """Raises ClusterUnavailable when something cannot be kept up with any more."""
        for task in self._working:
            if not task.done():
                continue
            failure = None if task.cancelled() else task.exception()
            if isinstance(failure, ClusterRefused) or failure is None:
                # A right was taken away: what can be seen without it is seen anew.
                failure = ClusterUnavailable(f"a watch has ended: {failure}")
            raise failure

    async def end(self) -> None:
        """Let go of all streams."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    def _leave_out(self, name: str, refused: ClusterRefused) -> None:
        loop = asyncio.get_running_loop()
        if name not in self._refused:
            _log.error("a namespace cannot be looked at", namespace=name, error=str(refused))
        self._refused[name] = loop.time() + _REFUSED_SECONDS
        self.hidden[name] = str(refused)
        loop.call_later(_REFUSED_SECONDS, self.event.set)

    def _reflect(self, source: Source[str, V]) -> Reflection[str, V]:
        return Reflection(self._connection, source, self.event.set, self._pace)


def pods_of(namespace: str) -> Source[str, Pod]:
    """Ours, in one namespace."""

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


def _list_pods(apis: Apis, **query: Any) -> Any:
    return apis.core.list_pod_for_all_namespaces_without_preload_content(
        label_selector=_OURS, **query
    )


_EVERYWHERE: Source[str, Bearer | None] = Source(
    "all namespaces", _list_pods, BareObject, lambda metadata: metadata.uid, to_bearer
)


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
