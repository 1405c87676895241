"""Machines and programs in memory, as far as moves can tell: programs count, save when they are
ended in order, and go on from the document that they find."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.cluster_double import MemoryCluster
from tests.pods_double import WELL, FakePods, FakeProgram

from dory_orchestrator.core.checkpoint import CaptureLimits, document, read_document
from dory_orchestrator.core.model import Pod

PER_SECOND = 1000
_START_SECONDS = 0.03


@dataclass
class Counting(FakeProgram):
    """Counts while it runs, from what it was given."""

    base: int = 0
    since: float = 0.0
    begun_from: int = 0
    set_back: list[tuple[int, int]] = field(default_factory=list)
    """What it had, and what it was given, where that was no more than it had begun with."""

    @property
    def count(self) -> int:
        return self.base + int((self.clock() - self.since) * PER_SECOND)

    def get(self) -> bytes:
        self.state = {"count": self.count}
        return super().get()

    def put(self, body: bytes) -> None:
        had = self.count
        super().put(body)
        if self.state["count"] <= min(self.begun_from, had - 1):
            self.set_back.append((had, self.state["count"]))
        self.base, self.since = self.state["count"], self.clock()


@dataclass
class Life:
    """One program, from its start to its end. `end_count` is known once it has ended."""

    pod: Pod
    program: Counting
    end_count: int | None = None
    crashed: bool = False


@dataclass
class Ground:
    """A cluster whose pods run programs."""

    pods: FakePods = field(default_factory=FakePods)
    lives: list[Life] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = _Cluster(self)

    def alive(self, processor_id: UUID) -> list[Life]:
        """Programs that run now."""
        return [
            life
            for life in self.lives
            if life.end_count is None and life.pod.processor_id == processor_id
        ]

    def crash_node(self, name: str) -> None:
        """Everything on it is gone, and nobody said goodbye."""
        for life in self.lives:
            if life.end_count is None and life.pod.node_name == name:
                self.end(life, crashed=True)
        self.cluster.lose_node(name)

    def begin(self, pod: Pod) -> None:
        assert pod.processor_id is not None
        found = self.cluster.states.get(pod.processor_id)
        state: dict[str, Any] = {}
        if found is not None:
            state = json.loads(read_document(found, CaptureLimits()).payload)
        now = time.time()
        count = state.get("count", 0)
        program = Counting(
            pod.name, state, now, clock=time.time, base=count, since=now, begun_from=count
        )
        assert not self.alive(pod.processor_id), f"{pod.name} starts beside another"
        self.lives.append(Life(pod, program))
        assert pod.address is not None
        self.pods.programs[pod.address] = program
        self.pods.answers[pod.address] = WELL
        self.cluster.set_ready(pod)

    def end(self, life: Life, *, crashed: bool = False) -> None:
        life.end_count, life.crashed = life.program.count, crashed
        assert life.pod.address is not None
        del self.pods.programs[life.pod.address], self.pods.answers[life.pod.address]

    def ended_in_order(self, pod: Pod) -> None:
        """It saves, as `preStop` has it do."""
        for life in self.lives:
            if life.pod.uid == pod.uid and life.end_count is None:
                assert pod.processor_id is not None
                self.end(life)
                self.cluster.states[pod.processor_id] = document(
                    json.dumps({"count": life.end_count}).encode(),
                    processor_id=pod.processor_id,
                    pod_name=pod.name,
                    timestamp=time.time(),
                )

    def forced_away(self, pod: Pod) -> None:
        for life in self.lives:
            if life.pod.uid == pod.uid and life.end_count is None:
                self.end(life)


class _Cluster(MemoryCluster):
    def __init__(self, ground: Ground) -> None:
        super().__init__(clock=time.time)
        self._ground = ground

    def _run(self, pod: Pod, node_name: str) -> None:
        super()._run(pod, node_name)
        asyncio.get_running_loop().call_later(_START_SECONDS, self._start, pod.uid)

    def _start(self, uid: str) -> None:
        pod = self.pods.get(uid)
        node = self.nodes.get(pod.node_name or "") if pod is not None else None
        if pod is not None and node is not None and node.ready and not pod.terminating:
            self._ground.begin(pod)

    def _finish(self, uid: str) -> None:
        pod = self.pods.get(uid)
        node = self.nodes.get(pod.node_name or "") if pod is not None else None
        if pod is not None and (node is None or node.ready):
            self._ground.ended_in_order(pod)
        super()._finish(uid)

    def remove(self, pod: Pod | str) -> None:
        self._ground.forced_away(self._found(pod))
        super().remove(pod)
