"""The whole control loop over a store and a cluster in memory, in simulated time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from tests.cluster_double import MemoryCluster
from tests.doubles import MemoryStore

from dory_orchestrator.core.model import (
    Limits,
    Node,
    Observation,
    Pod,
    PodSpec,
    ProcessorConfig,
    Resources,
    TemplateVersion,
)
from dory_orchestrator.loops.act import States
from dory_orchestrator.loops.answer import Answerer
from dory_orchestrator.loops.lead import Leadership
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.loops.reconcile import Evidence, Reconciler
from dory_orchestrator.loops.wake import Wake
from dory_orchestrator.loops.watch import Watcher
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import ClusterUnavailable
from dory_orchestrator.tracing import NO_TRACER, Tracer

VERSION = TemplateVersion(UUID(int=77), "1", "image:1", None, "{}")


def now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


def config(number: int, **changes: Any) -> ProcessorConfig:
    """A processor for the cloud."""
    values: dict[str, Any] = {
        "processor_id": UUID(int=number),
        "organization_id": None,
        "name": None,
        "node_type": "managed",
        "namespace": "default",
        "status": "running",
        "template_slug": "camera",
        "versions": (VERSION,),
        "sensor_id": None,
        "sensor_config": None,
        "sensor_location": None,
    }
    return ProcessorConfig(**(values | changes))


def version(number: int) -> tuple[TemplateVersion]:
    """The only active version of its template."""
    said = str(number)
    return (replace(VERSION, id=UUID(int=1000 + number), version=said, image_uri=f"image:{said}"),)


def cloud(name: str = "cloud-1", pods_max: int = 1000) -> Node:
    """A node with room for many."""
    return Node(
        name,
        ready=True,
        labels={"workload-type": "application"},
        allocatable=Resources(1_000_000, 2**50),
        pods_max=pods_max,
    )


class TrickyCluster(MemoryCluster):
    """`lag_seconds`: pictures are on their way for so long. `hung`: creations of these never
    answer. `silent`: so many creations are done, and not answered. `refused`: raised instead of
    a deletion. `most_live` counts the pods that a processor had at once.
    """

    def __init__(self, nodes: Iterable[Node] = (), **options: Any) -> None:
        options.setdefault("ready_at_once", True)
        super().__init__(nodes or [cloud()], clock=now, **options)
        self.lag_seconds = 0.0
        self.hung: set[UUID] = set()
        self.silent = 0
        self.refused: Exception | None = None
        self.slow_seconds = 0.0
        self.calls: list[tuple[float, str, str]] = []
        self.at_once = self.most_at_once = 0
        self.most_live: Counter[UUID] = Counter()

    async def create_pod(self, spec: PodSpec) -> Pod:
        self.calls.append((now(), "create", spec.name))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if spec.processor_id in self.hung:
                await asyncio.sleep(1e9)
            await asyncio.sleep(self.slow_seconds)
            pod = await super().create_pod(spec)
        finally:
            self.at_once -= 1
        key = spec.processor_id
        live = sum(pod.processor_id == key for pod in self.pods.values())
        self.most_live[key] = max(live, self.most_live[key])
        if self.silent:
            self.silent -= 1
            raise ClusterUnavailable("no answer")
        return pod

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        self.calls.append((now(), "delete", pod.name))
        if self.refused is not None:
            raise self.refused
        await super().delete_pod(pod, force=force)

    async def _pictures(self, event: asyncio.Event) -> AsyncIterator[Observation]:
        async for picture in super()._pictures(event):
            if self.lag_seconds:
                await asyncio.sleep(self.lag_seconds)
                yield Observation(dict(self.nodes), dict(self.pods))
            else:
                yield picture

    def moments(self, kind: str) -> list[float]:
        """When something was asked for."""
        return [round(at, 2) for at, what, _ in self.calls if what == kind]


class Rig:
    """One orchestrator at work."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        cluster: TrickyCluster | None = None,
        *,
        holder: str = "me",
        limits: Limits | None = None,
        poll_interval_seconds: float = 30.0,
        evidence: Evidence | None = None,
        states: States | None = None,
        answerer: Answerer | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.store = store if store is not None else MemoryStore(clock=now)
        self.cluster = cluster if cluster is not None else TrickyCluster()
        self.metrics = Metrics()
        self.wake = Wake()
        self.clock_jump = 0.0
        self.leadership = Leadership(
            self.store,
            holder=holder,
            metrics=self.metrics,
            on_change=self.wake.set,
            clock=lambda: now() + self.clock_jump,
        )
        self.observer = Observer(self.cluster, self.wake.set)
        self.watcher = Watcher(
            self.store,
            metrics=self.metrics,
            poll_interval_seconds=poll_interval_seconds,
            on_change=self.wake.set,
        )
        self.reconciler = Reconciler(
            store=self.store,
            cluster=self.cluster,
            watcher=self.watcher,
            observer=self.observer,
            leadership=self.leadership,
            limits=limits or Limits(),
            metrics=self.metrics,
            wake=self.wake,
            poll_interval_seconds=poll_interval_seconds,
            evidence=evidence,
            states=states,
            answerer=answerer,
            tracer=tracer,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Rig":
        for work in (
            self.watcher.listen(),
            self.observer.run(),
            self.leadership.run(),
            self.reconciler.run(),
        ):
            self.tasks.append(asyncio.create_task(work))
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End it; an error that ended it before comes out."""
        ended = [task for task in self.tasks if task.done()]
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for task in ended:
            if not task.cancelled():
                task.result()

    @property
    def reconciling(self) -> "asyncio.Task[None]":
        """The task of the loop."""
        return self.tasks[-1]

    def desire(self, *numbers: int, **changes: Any) -> None:
        """Insert or change rows."""
        for number in numbers:
            self.store.desire(config(number, **changes))

    def undesire(self, *numbers: int) -> None:
        """Delete rows."""
        for number in numbers:
            self.store.undesire(UUID(int=number))

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> float:
        """Wait until it holds; returns how long that took."""
        began_at = now()
        while not condition():
            waited = now() - began_at
            assert waited < seconds, "it did not come about in time"
            await asyncio.sleep(0.01 if waited < 10 else 0.5)
        return now() - began_at

    def pods_of(self, number: int) -> list[Pod]:
        """Every pod of a processor."""
        key = UUID(int=number)
        return [pod for pod in self.cluster.pods.values() if pod.processor_id == key]

    def pod_of(self, number: int) -> Pod:
        """The only pod of a processor."""
        (pod,) = self.pods_of(number)
        return pod

    @property
    def running(self) -> int:
        """How many pods are ready."""
        return sum(pod.ready and not pod.terminating for pod in self.cluster.pods.values())

    def is_guarded(self) -> bool:
        """Whether the deletion guard holds, as far as the database knows."""
        return self.store.guard.held_since is not None

    @property
    def cycles(self) -> int:
        """How many there were."""
        return self.store.calls["read_desired"]

    def reason_of(self, number: int) -> str | None:
        """Why a processor is as people are shown it."""
        finding = self.store.states.get(UUID(int=number))
        return None if finding is None else str(finding.reason)

    def told(self, *kinds: str) -> list[tuple[str, str]]:
        """Events: kind and reason."""
        return [(e.kind, e.reason) for e in self.store.events if not kinds or e.kind in kinds]

    def value(self, name: str, **labels: str) -> float:
        """Of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
