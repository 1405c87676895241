"""A checkpointer at work over a store, a cluster and programs in memory, in simulated time."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from tests.checkpoints_double import MemoryCheckpointStore
from tests.cluster_double import MemoryCluster
from tests.pods_double import FakePods, FakeProgram

from dory_orchestrator.core.checkpoint import CaptureLimits, document, payload_of, read_document
from dory_orchestrator.core.model import Ownership, Pod, PodPhase, PodSpec
from dory_orchestrator.loops.checkpoint import Checkpointer, Owned
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Event, Lease

START = 1_700_000_000.0
LIMITS = CaptureLimits()


class Rig:
    """A checkpointer at work. Time is told from its start, on all clocks."""

    def __init__(self, *, store: MemoryCheckpointStore | None = None, **options: Any) -> None:
        self.metrics = Metrics()
        self.pods = FakePods()
        self.store = store or MemoryCheckpointStore()
        self.store.clock = self.clock
        self.cluster = MemoryCluster(clock=self.clock)
        self.running: dict[str, Owned] = {}
        self.told: list[Event] = []
        self.times_restored = 0
        self.lease: Lease | None = None
        self.began_at: float | None = None
        self.checkpointer = Checkpointer(
            pods=self.pods,
            store=self.store,
            cluster=self.cluster,
            lease=lambda: self.lease,
            running=self.look,
            tell=self.told.append,
            metrics=self.metrics,
            on_restored=self.note_restored,
            **options,
        )

    def note_restored(self) -> None:
        self.times_restored += 1

    def clock(self) -> float:
        began_at = self.began_at or 0.0
        return START + asyncio.get_running_loop().time() - began_at

    def look(self) -> Iterable[Owned]:
        return list(self.running.values())

    def add(
        self,
        number: int,
        state: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        epoch: int = 1,
        interval_seconds: float = 10.0,
        proof: tuple[str, ...] = (),
        backend: str = "",
        **fields: Any,
    ) -> FakeProgram:
        """A pod that runs, is ready, and owns the processor of this number."""
        name = name or f"pod-{number}"
        pod = Pod(
            uid=f"uid of {name}",
            namespace="default",
            name=name,
            processor_id=UUID(int=number),
            phase=PodPhase.RUNNING,
            created_at=self.clock(),
            address=f"{name}:8080",
            ready=True,
            epoch=epoch,
        )
        pod = replace(pod, **fields)
        program = FakeProgram(name, state or {}, self.clock() - 0.1, self.clock)
        self.running[name] = Owned(pod, epoch, interval_seconds, proof, backend)
        self.store.owners[UUID(int=number)] = Ownership(epoch, pod.uid, name)
        self.pods.programs[f"{name}:8080"] = program
        return program

    def restart(self, name: str, state: dict[str, Any], *, told: bool = True) -> FakeProgram:
        """Its container begins anew, in place, from this state."""
        program = self.pods.programs[f"{name}:8080"]
        program.state, program.ready_at = state, self.clock() - 0.1
        if told:
            self.tell_restart(name)
        return program

    def load(self, number: int = 1) -> dict[str, Any]:
        """What the client library would begin with."""
        state: dict[str, Any] = json.loads(self.document(number).payload)
        return state

    def archived(self, reason: str, number: int = 1) -> list[Any]:
        """The states that are archived for this reason."""
        kept = self.store.archive.get((UUID(int=number), reason), [])
        return [json.loads(one.payload) for one in kept]

    def tell_restart(self, name: str) -> None:
        owned = self.running[name]
        pod = replace(owned.pod, restart_count=owned.pod.restart_count + 1)
        self.running[name] = owned._replace(pod=pod)

    async def __aenter__(self) -> "Rig":
        self.began_at = asyncio.get_running_loop().time()
        for program in self.pods.programs.values():
            program.ready_at = START - 5
        await self.lead()
        self.task = asyncio.create_task(self.checkpointer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def lead(self) -> None:
        term = await self.store.hold_lease("leader", None, 1_000_000)
        assert term is not None
        self.lease = Lease("leader", term)

    async def until(self, seconds: float) -> None:
        assert self.began_at is not None
        await asyncio.sleep(self.began_at + seconds - asyncio.get_running_loop().time())

    def newest(self, number: int = 1) -> Any:
        """The newest state; None when nothing is stored."""
        found = self.store._newest(UUID(int=number))
        return None if found is None else json.loads(found.payload)

    def position(self, number: int = 1) -> Any:
        found = self.store._newest(UUID(int=number))
        return None if found is None else found.position

    def restored(self, name: str = "pod-1") -> bool:
        return self.checkpointer.restored(self.running[name].pod.uid)

    def count(self, outcome: str) -> float:
        found = self.metrics.registry.get_sample_value(
            "dory_checkpoints_total", {"outcome": outcome}
        )
        return found or 0.0

    def of_age(self, le: str) -> float:
        found = self.metrics.registry.get_sample_value("dory_checkpoint_age_seconds", {"le": le})
        assert found is not None
        return found

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(event.kind, event.reason) for event in self.told]

    def save_document(self, state: dict[str, Any], pod_name: str, at: float, n: int = 1) -> None:
        """What the client library does at the end of a pod."""
        content = document(
            payload_of(state), processor_id=UUID(int=n), pod_name=pod_name, timestamp=START + at
        )
        self.cluster.states[UUID(int=n)] = content

    def document(self, number: int = 1) -> Any:
        return read_document(self.cluster.states[UUID(int=number)], LIMITS)

    async def prepare(self, names: tuple[str, ...], **options: Any) -> Any:
        """As before a pod is created: the epoch before has ended."""
        assert self.lease is not None
        spec = PodSpec(
            name="pod-new",
            namespace="default",
            processor_id=UUID(int=1),
            app="camera",
            labels={},
            annotations={},
            image="image",
        )
        cluster = options.pop("cluster", self.cluster)
        return await self.checkpointer.prepare(self.lease, cluster, spec, names, **options)
