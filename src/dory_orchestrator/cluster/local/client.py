"""The local cluster as the rest of us sees it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import aiohttp
import msgspec

from dory_orchestrator.cluster.local import lifetime, states
from dory_orchestrator.cluster.local.messages import (
    ENDING_STATUS,
    KEEPALIVE_SECONDS,
    REFUSED_STATUS,
    Answer,
    Configure,
    CreatePod,
    DeclareNodes,
    DeletePod,
    FindPod,
    Named,
    RefusedAnswer,
    Revision,
    Stop,
    Timing,
    decode,
    encode,
)
from dory_orchestrator.cluster.local.places import Places
from dory_orchestrator.cluster.local.watching import Pictures
from dory_orchestrator.core.announcing import Announcement
from dory_orchestrator.core.model import Node, Observation, Pod, PodSpec
from dory_orchestrator.core.start import Carrier
from dory_orchestrator.ports import ClusterRefused, ClusterUnavailable, StoredState

T = TypeVar("T")


class ClusterEnding(ClusterUnavailable):
    """It is stopping its pods; its process will be gone in a while."""


_VERSION_SECONDS = 1.5
_CALL_SECONDS = 5.0
_SILENCE_SECONDS = 4 * KEEPALIVE_SECONDS
STOP_SECONDS = 2 * Timing().stop_seconds + 5.0
"""After this time one that is ending counts as hung."""


class LocalCluster:
    """The `Cluster` of one data directory, and what can be done to a local one besides.

    Its process may be restarted in between: each call finds it anew.
    """

    def __init__(self, data_dir: Path) -> None:
        self._places = Places(data_dir)
        self._session: aiohttp.ClientSession | None = None
        self._socket: str | None = None
        self._done: Revision | None = None

    # The port --------------------------------------------------------------------------

    async def version(self) -> str:
        """What the cluster is. Raises ClusterUnavailable within two seconds."""
        with self._as_cluster_errors():
            limit = aiohttp.ClientTimeout(total=_VERSION_SECONDS)
            session = await self._connected()
            async with session.get("http://local/version", timeout=limit) as answer:
                text = await answer.text()
                if answer.status == ENDING_STATUS:
                    raise ClusterEnding(f"the local cluster: {text}")
                return text

    @contextlib.asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[Observation]]:
        """Nodes and pods as they are now, and again after each change (see the port).

        A silent stream counts as broken after four seconds.
        """
        answer = await self._open_stream()
        pictures = Pictures(answer, lambda: self._done, self._places.cluster_id())
        reading = asyncio.create_task(pictures.read())
        try:
            yield aiter(pictures)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            answer.close()

    def look_in(self, namespaces: frozenset[str]) -> None:
        """All are looked at."""

    async def create_pod(self, spec: PodSpec) -> Pod:
        """Create a pod. Raises ClusterRefused, ClusterUnavailable."""
        return await self._call("create_pod", CreatePod(spec), Pod)

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        """End this very pod. Raises ClusterRefused, ClusterUnavailable."""
        message = DeletePod(pod.namespace, pod.name, pod.uid, force)
        await self._call("delete_pod", message, type(None))

    async def find_pod(self, namespace: str, name: str) -> Pod | None:
        """The pod of this name. Raises ClusterRefused, ClusterUnavailable."""
        found: list[Pod] = await self._call("find_pod", FindPod(namespace, name), list[Pod])
        return found[0] if found else None

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        """What the client library stored last. Raises ClusterRefused, ClusterUnavailable."""
        return await asyncio.to_thread(states.read_state, states.state_file(processor_id))

    async def seed_state(
        self, namespace: str, processor_id: UUID, document: bytes, *, version: str | None
    ) -> None:
        """Put a document where it looks next. Raises ClusterRefused, ClusterUnavailable."""
        path = states.state_file(processor_id)
        await asyncio.to_thread(states.write_state, path, document, version)

    async def remove_state(self, namespace: str, processor_id: UUID, *, version: str) -> None:
        """Remove it from where it looks. Raises ClusterRefused, ClusterUnavailable."""
        path = states.state_file(processor_id)
        await asyncio.to_thread(states.remove_state, path, version)

    def carrier(self, backend: str) -> Carrier:
        """See Cluster. One file of the machine stands for ConfigMaps and volumes."""
        return Carrier.UNKNOWN if backend.lower() == "s3" else Carrier.READABLE

    async def announce(self, said: Announcement) -> None:
        """Nobody asks a local cluster: `dory-orchestrator events` tells the same."""

    async def close(self) -> None:
        """Let go of the connections; the cluster and its pods go on."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def data_dir(self) -> Path:
        """The data directory whose cluster this is."""
        return self._places.data_dir

    def is_running(self) -> bool:
        """Whether its process is there; whether it answers is another matter."""
        return lifetime.running_process(self._places) is not None

    # What only a local cluster can -----------------------------------------------------

    async def declare_nodes(self, nodes: Iterable[Node]) -> None:
        """Make these the nodes: `name`, `labels`, `taints`, `unschedulable`, `allocatable` and
        `pods_max` count. They outlive the cluster's process.
        """
        await self._call("declare_nodes", DeclareNodes(tuple(nodes)), type(None))

    async def configure(self, orchestrator_url: str, state_token: str | None) -> None:
        """Say where pods find the orchestrator, and the token for those that are to come."""
        await self._call("configure", Configure(orchestrator_url, state_token), type(None))

    async def crash_node(self, name: str) -> None:
        """All processes of its pods die at once; it is found out seconds later."""
        await self._call("crash_node", Named(name), type(None))

    async def cut_node(self, name: str) -> None:
        """Its processes go on, and nobody hears of them."""
        await self._call("cut_node", Named(name), type(None))

    async def restore_node(self, name: str) -> None:
        """The end of `crash_node` and `cut_node`."""
        await self._call("restore_node", Named(name), type(None))

    async def crash_pod(self, name: str) -> None:
        """Kill the processes of a pod."""
        await self._call("crash_pod", Named(name), type(None))

    async def stop_pod(self, name: str) -> None:
        """Delete a pod gracefully, by name."""
        await self._call("stop_pod", Named(name), type(None))

    async def log_path(self, pod: str) -> Path:
        """The file with the output of the pod of this name."""
        return Path(await self._call("log_path", Named(pod), str))

    async def stop(self, *, immediate: bool = False) -> None:
        """End the cluster with all its pods, whatever state it is in: no process is left.

        Raises ClusterUnavailable when even killing does not help.
        """
        if (process := lifetime.running_process(self._places)) is not None:
            # One that hangs, or goes between look and call, is none that can be asked.
            with contextlib.suppress(ClusterUnavailable):
                await self._call("stop", Stop(immediate), type(None))
                await lifetime.wait_until_gone(process, STOP_SECONDS)
        await self.close()
        await asyncio.to_thread(lifetime.clear, self._places)

    # How -------------------------------------------------------------------------------

    async def _call(self, name: str, message: object, kind: type[T]) -> T:
        """Raises ClusterRefused, ClusterUnavailable."""
        with self._as_cluster_errors():
            session = await self._connected()
            url = f"http://local/call/{name}"
            async with session.post(url, data=encode(message)) as response:
                body, status = await response.read(), response.status
            if status == REFUSED_STATUS:
                refused = decode(body, RefusedAnswer)
                raise ClusterRefused(refused.reason, refused.message)
            if status != 200:
                raise ClusterUnavailable(f"the local cluster: {body.decode(errors='replace')}")
            answer = decode(body, Answer)
            # Answers may overtake one another.
            if self._done is None or not answer.revision.lacks(self._done):
                self._done = answer.revision
            return msgspec.convert(answer.result, kind)

    async def _open_stream(self) -> aiohttp.ClientResponse:
        limit = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=_SILENCE_SECONDS)
        with self._as_cluster_errors():
            session = await self._connected()
            answer = await session.get("http://local/watch", timeout=limit)
        if answer.status != 200:
            answer.close()
            raise ClusterUnavailable(f"the local cluster: no stream, status {answer.status}")
        return answer

    async def _connected(self) -> aiohttp.ClientSession:
        """A session to where the cluster listens now. Raises ClusterUnavailable."""
        found = self._places.whereabouts()
        if found is None:
            raise ClusterUnavailable(f"no local cluster runs for {self._places.data_dir}")
        if self._session is None or self._socket != found.socket:
            await self.close()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(found.socket, limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS),
            )
            self._socket = found.socket
        return self._session

    @contextlib.contextmanager
    def _as_cluster_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise ClusterUnavailable("the local cluster does not answer in time") from error
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            raise ClusterUnavailable(f"the local cluster: {error}") from error
