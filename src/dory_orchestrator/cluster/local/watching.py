"""The stream of changes of a local cluster, put together to whole pictures."""

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import msgspec

from dory_orchestrator.cluster.local.messages import Frame, Revision, decode
from dory_orchestrator.cluster.reading import is_ours
from dory_orchestrator.core.model import Node, Observation, Pod
from dory_orchestrator.ports import ClusterUnavailable

_LINE_BYTES_MAX = 64 * 1024 * 1024


class Pictures:
    """Reads one stream as fast as it comes; whoever looks gets the newest picture.

    `least` says the moment that a picture must have reached to be shown: that of the last
    thing which the looker did himself.
    """

    def __init__(
        self,
        answer: aiohttp.ClientResponse,
        least: Callable[[], Revision | None],
        cluster_uid: str | None = None,
    ) -> None:
        self._cluster_uid = cluster_uid
        self._answer = answer
        self._least = least
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, Pod] = {}
        self._revision: Revision | None = None
        self._event = asyncio.Event()
        self._failure: ClusterUnavailable | None = None

    async def read(self) -> None:
        """Follow the stream until it breaks."""
        try:
            async for line in self._lines():
                self._take(decode(line, Frame))
            self._fail("it has ended the stream of changes")
        except TimeoutError:
            self._fail("its stream of changes is silent")
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            self._fail(f"its stream of changes broke: {error}")

    async def __aiter__(self) -> AsyncIterator[Observation]:
        """Raises ClusterUnavailable when the stream is broken."""
        while True:
            await self._event.wait()
            self._event.clear()
            if self._failure is not None:
                raise self._failure
            if self._is_new_enough():
                yield Observation(
                    dict(self._nodes), dict(self._pods), cluster_uid=self._cluster_uid
                )

    def _is_new_enough(self) -> bool:
        least = self._least()
        return self._revision is not None and (least is None or not self._revision.lacks(least))

    def _take(self, frame: Frame) -> None:
        self._revision = frame.revision
        self._nodes.update({node.name: node for node in frame.nodes})
        self._pods.update({pod.uid: pod for pod in frame.pods if is_ours(pod.labels)})
        for name in frame.gone_nodes:
            self._nodes.pop(name, None)
        for uid in frame.gone_pods:
            self._pods.pop(uid, None)
        self._event.set()

    def _fail(self, message: str) -> None:
        self._failure = ClusterUnavailable(f"the local cluster: {message}")
        self._event.set()

    async def _lines(self) -> AsyncIterator[bytes]:
        rest = bytearray()
        async for chunk in self._answer.content.iter_any():
            rest += chunk
            *lines, last = rest.split(b"\n") if b"\n" in chunk else (rest,)
            for line in lines:
                yield bytes(line)
            rest = bytearray(last)
            if len(rest) > _LINE_BYTES_MAX:
                raise OSError("a line without end")
