"""The kubelet of one node: makes the node's processes what the books say, while it hears them."""

import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from dory_orchestrator.cluster.local.books import Books
from dory_orchestrator.cluster.local.fronts import Front, Target
from dory_orchestrator.cluster.local.running_pod import Machine, RunningPod


class Kubelet:
    """The pods of one node. Its uplink is the node's only way to the orchestrator.

    `on_end(uid)` is called when a pod has ended.
    """

    def __init__(
        self, node_name: str, books: Books, machine: Machine, on_end: Callable[[str], None]
    ) -> None:
        self.node_name = node_name
        self.running: dict[str, RunningPod] = {}
        self.connected = True
        self._books = books
        self._machine = machine
        self._on_end = on_end
        self._uplink = Front(machine.slots.take(), None)
        self._scheme, self._path = "http", ""
        self._in_sync = False

    async def open(self) -> None:
        """Begin to carry what its pods say to the orchestrator."""
        await self._uplink.open()

    def close(self) -> None:
        """After the last pod has ended."""
        self._uplink.close()

    def lead_to(self, orchestrator_url: str) -> None:
        """From now on the uplink leads there; its pods need not know."""
        parts = urlsplit(orchestrator_url)
        assert parts.hostname is not None  # noqa: S101 - checked when it was given
        target: Target = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        self._uplink.target = target
        self._scheme, self._path = parts.scheme, parts.path.rstrip("/")

    def sync(self) -> None:
        """Start, end and report what differs between the books and what runs."""
        # Whatever changes on the way is found by the same round: no round within a round.
        if not self.connected or self._in_sync:
            return
        self._in_sync = True
        try:
            booked = self._books.on_node(self.node_name)
            for uid, running in list(self.running.items()):
                self._settle(uid, running)
            for uid in booked.keys() - self.running.keys():
                self._admit(uid)
        finally:
            self._in_sync = False

    def _settle(self, uid: str, running: RunningPod) -> None:
        booked = self._books.pods.get(uid)
        if booked is None or booked.terminating:
            running.terminate()
        if running.ended:
            del self.running[uid]
            if booked is not None:
                self._books.drop(uid)
        elif booked is not None:
            self._books.put(replace(running.pod, terminating=booked.terminating))

    def _admit(self, uid: str) -> None:
        pod = self._books.pods.get(uid)
        if pod is None:
            return
        if pod.terminating:
            self._books.drop(uid)
            return
        url = f"{self._scheme}://{self._uplink.slot.address}{self._path}"
        self.running[uid] = RunningPod(
            pod, self._books.spec(uid), self._machine, url, lambda: self._on_change(uid)
        )

    def _on_change(self, uid: str) -> None:
        running = self.running.get(uid)
        if running is None:
            return
        if self.connected and not self._in_sync:
            self._settle(uid, running)
        if running.ended:
            self._on_end(uid)

    # What happens to the node ----------------------------------------------------------

    def cut(self) -> None:
        """Nobody hears the node any more, and it hears nobody. Its processes run on."""
        self.connected = False
        self._uplink.darken()
        for running in self.running.values():
            running.darken()

    def crash(self) -> None:
        """The node loses power."""
        self.cut()
        for running in self.running.values():
            running.power_off()

    def reach(self) -> None:
        """The network is back."""
        self._uplink.lighten()
        for running in self.running.values():
            running.lighten()

    def connect(self) -> None:
        """It hears the books again: pods that are not in them end, the others go on."""
        self.connected = True
        self.sync()
        for running in list(self.running.values()):
            running.power_on()

    def not_heard(self) -> None:
        """Its pods count as not ready, as nobody knows better."""
        for pod in self._books.on_node(self.node_name).values():
            if pod.ready:
                self._books.put(replace(pod, ready=False, ready_changed_at=time.time()))

    def kill(self, uid: str) -> None:
        """End a pod without grace, if the node hears us."""
        if self.connected and (running := self.running.get(uid)) is not None:
            running.kill()
