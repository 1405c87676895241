"""The books of a local cluster: what its API says of nodes and pods.

What the processes of a node really do, its kubelet knows; while the node is cut off, the
books do not.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from uuid import uuid4

from dory_orchestrator.cluster.local.messages import Frame, Revision
from dory_orchestrator.core.model import Node, Pod, PodSpec


class Books:
    """Nodes and pods, each with the number of its last change."""

    def __init__(self) -> None:
        self._boot = uuid4().hex
        self._number = 0
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, Pod] = {}
        self._specs: dict[str, PodSpec] = {}
        self._uids: dict[tuple[str, str], str] = {}
        self._changed_at: dict[str, int] = {}
        self._listeners: set[asyncio.Event] = set()

    @property
    def revision(self) -> Revision:
        """This moment."""
        return Revision(self._boot, self._number)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """By name."""
        return self._nodes

    @property
    def pods(self) -> Mapping[str, Pod]:
        """By uid."""
        return self._pods

    def spec(self, uid: str) -> PodSpec:
        """What was asked for."""
        return self._specs[uid]

    def named(self, namespace: str, name: str) -> Pod | None:
        """The pod that has this name now."""
        uid = self._uids.get((namespace, name))
        return None if uid is None else self._pods[uid]

    def on_node(self, name: str) -> dict[str, Pod]:
        """The pods that have a place there, by uid."""
        return {uid: pod for uid, pod in self._pods.items() if pod.node_name == name}

    def add(self, pod: Pod, spec: PodSpec) -> None:
        """A new pod."""
        self._specs[pod.uid] = spec
        self._uids[pod.namespace, pod.name] = pod.uid
        self._pods[pod.uid] = pod
        self._changed(pod.uid)

    def put(self, pod: Pod) -> None:
        """A pod as it is now; nothing happens when it is the same."""
        if self._pods[pod.uid] != pod:
            self._pods[pod.uid] = pod
            self._changed(pod.uid)

    def drop(self, uid: str) -> None:
        """The pod is gone, and its name is free."""
        pod = self._pods.pop(uid)
        del self._specs[uid], self._uids[pod.namespace, pod.name], self._changed_at[uid]
        self._changed(None)

    def put_node(self, node: Node) -> None:
        """A node as it is now."""
        if self._nodes.get(node.name) != node:
            self._nodes[node.name] = node
            self._changed(f"node/{node.name}")

    def drop_node(self, name: str) -> None:
        """There is no such node any more."""
        del self._nodes[name], self._changed_at[f"node/{name}"]
        self._changed(None)

    def watch(self) -> "Watch":
        """Follow the changes."""
        return Watch(self)

    def _changed(self, key: str | None) -> None:
        self._number += 1
        if key is not None:
            self._changed_at[key] = self._number
        for event in self._listeners:
            event.set()


class Watch:
    """One who follows the books. Whoever is slow gets several changes as one."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._sent = 0
        self._known_nodes: set[str] = set()
        self._known_pods: set[str] = set()
        self._event = asyncio.Event()
        self._event.set()

    def __enter__(self) -> "Watch":
        self._books._listeners.add(self._event)
        return self

    def __exit__(self, *_error: object) -> None:
        self._books._listeners.discard(self._event)

    async def next(self, timeout_seconds: float) -> Frame:
        """What changed since the last frame; nothing, when the time is over.

        Also then it is looked: a change may have come as the time ended, and a frame must not
        bear the number of a change that it does not tell of.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        self._event.clear()
        return self._frame()

    def _frame(self) -> Frame:
        books, sent = self._books, self._sent
        changed = {key for key, number in books._changed_at.items() if number > sent}
        frame = Frame(
            books.revision,
            nodes=tuple(node for node in books.nodes.values() if f"node/{node.name}" in changed),
            pods=tuple(pod for pod in books.pods.values() if pod.uid in changed),
            gone_nodes=tuple(self._known_nodes - books.nodes.keys()),
            gone_pods=tuple(self._known_pods - books.pods.keys()),
        )
        self._sent = books.revision.number
        self._known_nodes, self._known_pods = set(books.nodes), set(books.pods)
        return frame
