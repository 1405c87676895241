"""The control process as it is, in this process, over a real database and a stand-in cluster:
from nothing to a running fleet, full idle cycles, and reactions to changes.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from unittest.mock import patch
from uuid import UUID

import uvloop

from benchmarks import changes, standin
from benchmarks.servers import ServerError
from dory_orchestrator.app import control_process
from dory_orchestrator.app.child import Inheritance
from dory_orchestrator.app.control_process import ControlProcess
from dory_orchestrator.core.plan import Plan
from dory_orchestrator.core.reconcile import compute as original_compute
from dory_orchestrator.loops.reconcile import Reconciler
from dory_orchestrator.loops.show import Display
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.postgres import PostgresStore

P = ParamSpec("P")
T = TypeVar("T")

_CREATION_SECONDS = 120.0
_SETTLE_SECONDS = 60.0
_CHANGES_SECONDS = 120.0
_PAUSE_SECONDS = 0.1
_IDLE_CYCLES = 20


@dataclass(slots=True)
class Cycle:
    """Where the time of one cycle went; `cpu` is that of this process, within the whole."""

    whole: float = 0.0
    cpu: float = 0.0
    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0
    actions: int = 0

    @property
    def rest(self) -> float:
        return self.whole - self.reading - self.computing - self.writing


@dataclass(slots=True)
class Reconciled:
    """What was measured."""

    processors: int
    created_seconds: float = 0.0
    idle: list[Cycle] = field(default_factory=list)
    reactions: list[float] = field(default_factory=list)
    lost: int = 0
    """Insertions that no creation was seen for."""
    changing: list[Cycle] = field(default_factory=list)
    """The cycles of the reactions."""


def measure(folder: Path, url: str, processors: int, samples: int) -> Reconciled:
    """All three, one after the other. In the end the books hold the running fleet."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(folder, url, processors, samples))


async def _measure(folder: Path, url: str, processors: int, samples: int) -> Reconciled:
    result = Reconciled(processors)
    with _timed() as cycles:
        async with _running(folder, url) as process:
            cluster = cast(standin.StandIn, process.cluster)
            result.created_seconds = await _create_all(cluster, processors)
            await _settle(process, cycles)
            result.idle = await _idle_cycles(process, cycles)
            before = len(cycles)
            await _react(folder, url, samples, result)
            result.changing = cycles[before:]
            await _settle(process, cycles)
            standin.write_books(folder, cluster.nodes.values(), cluster.pods.values())
    return result


@asynccontextmanager
async def _running(folder: Path, url: str) -> AsyncIterator[ControlProcess]:
    """The control process with all its loops, as its own `serve` runs them."""
    settings = Settings.model_validate(
        {"config_db": url, "cluster": "local", "local_dir": str(folder)}
    )
    inheritance = Inheritance(
        settings=settings.to_json(),
        url="http://127.0.0.1:8080",
        holder=str(uuid.uuid4()),
        listen_fd=None,
        board_fd=None,
        restarts=0,
    )
    with patch.object(control_process, "LocalCluster", standin.StandIn):
        process = ControlProcess(inheritance)
    working = asyncio.create_task(process.run())
    try:
        yield process
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working  # it failed: say why
        await process.close()


@contextmanager
def _timed() -> Iterator[list[Cycle]]:
    """Have every cycle that ends told of. Cycles do not overlap."""
    done: list[Cycle] = []
    now = Cycle()

    def part(name: str, original: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        async def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            began_at = time.perf_counter()
            try:
                return await original(*args, **kwargs)
            finally:
                spent = time.perf_counter() - began_at
                setattr(now, name, getattr(now, name) + spent)

        return timed

    def compute(*args: Any) -> Plan:
        began_at = time.perf_counter()
        plan = original_compute(*args)
        now.computing += time.perf_counter() - began_at
        now.actions += len(plan.actions)
        return plan

    def whole(original: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        async def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            nonlocal now
            now = Cycle()
            began_at, cpu_at = time.perf_counter(), time.process_time()
            result = await original(*args, **kwargs)
            now.whole = time.perf_counter() - began_at
            now.cpu = time.process_time() - cpu_at
            done.append(now)
            return result

        return timed

    cycle, read = Reconciler._cycle, PostgresStore.read_desired
    # What is written within a cycle, and not by the actions that it has started.
    in_cycle = {
        "_carry_out": Reconciler,
        "show": Display,
    }
    with (
        patch("dory_orchestrator.loops.reconcile.compute", compute),
        patch.object(PostgresStore, "read_desired", part("reading", read)),
        patch.object(Reconciler, "_cycle", whole(cycle)),
        _patched(in_cycle, lambda original: part("writing", original)),
    ):
        yield done


@contextmanager
def _patched(
    names: Mapping[str, type], wrap: Callable[[Callable[..., Awaitable[Any]]], Any]
) -> Iterator[None]:
    patches = [
        patch.object(owner, name, wrap(getattr(owner, name))) for name, owner in names.items()
    ]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


async def _create_all(cluster: standin.StandIn, processors: int) -> float:
    began_at = time.perf_counter()
    async with asyncio.timeout(_CREATION_SECONDS):
        while len(cluster.pods) < processors:  # noqa: ASYNC110 - another's state
            await asyncio.sleep(0.02)
    return time.perf_counter() - began_at


async def _settle(process: ControlProcess, cycles: list[Cycle]) -> None:
    """Until a cycle has nothing to do, and neither has the next."""
    async with asyncio.timeout(_SETTLE_SECONDS):
        calm = 0
        while calm < 2:
            seen = len(cycles)
            process.control.wake.set()
            while len(cycles) == seen:  # noqa: ASYNC110 - another's state
                await asyncio.sleep(0.01)
            calm = calm + 1 if cycles[-1].actions == 0 else 0
            await asyncio.sleep(0.3)


async def _idle_cycles(process: ControlProcess, cycles: list[Cycle]) -> list[Cycle]:
    seen = len(cycles)
    while len(cycles) < seen + _IDLE_CYCLES:
        process.control.wake.set()
        await asyncio.sleep(0.01)
    return cycles[seen:]


async def _react(folder: Path, url: str, samples: int, result: Reconciled) -> None:
    """Another process changes rows; the two clocks are the same one."""
    told = folder / "changes"
    plan = changes.Plan(url, samples, _PAUSE_SECONDS)
    with told.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*plan.command(), stdout=output)
        try:
            async with asyncio.timeout(_CHANGES_SECONDS):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
    if code != 0:
        raise ServerError(f"the process that changes rows ended with {code}")
    await asyncio.sleep(2.0)  # the last ones too
    result.reactions, result.lost = reactions(changes.read_sent(told), standin.read_created(folder))


def reactions(sent: Mapping[UUID, float], created: Mapping[UUID, float]) -> tuple[list[float], int]:
    """From the sending of the row to the call, for each that was created; and how many were not."""
    found = [created[key] - at for key, at in sent.items() if key in created]
    return found, len(sent) - len(found)
