"""`dev` as a developer uses, and abuses, it: with a PostgreSQL that it has to look after."""

import asyncio
import json
import os
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from tests.acceptance.real import (
    HEARTBEAT,
    RealService,
    add_edge_processor,
    clear,
    eventually,
    free_port,
    is_free,
    is_gone,
    running,
)
from tests.contract.worlds import connected
from tests.deploy.metrics_page import described

from dory_orchestrator.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.timeout(90)

NODES = "SELECT name FROM edge_nodes ORDER BY name"


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory in somebody's private home."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    folder = home / "project" / ".dory"
    yield folder
    clear(folder)


@asynccontextmanager
async def dev(data_dir: Path, *arguments: str, port: int = 0) -> AsyncIterator[RealService]:
    """`dev` with an empty fleet, not waited for."""
    if "--fleet" not in arguments:
        empty = data_dir.parent.parent / "empty.yaml"
        empty.touch()
        arguments = (*arguments, "--fleet", str(empty))
    async with running(
        *("dev", "--data-dir", str(data_dir), "--port", str(port), "--log-format", "json"),
        *arguments,
        ready=False,
    ) as service:
        yield service


async def is_up(service: RealService) -> None:
    """Wait until it says so."""
    (told,) = await eventually(lambda: _told(service, "everything is up"), 30)
    service.url = told["http"]


def _told(service: RealService, event: str) -> list[dict[str, Any]]:
    assert service.process.returncode is None, service.log()
    return service.events(event)


def everything_of(service: RealService, data_dir: Path) -> list[psutil.Process]:
    """The process itself, those that it supervises, and those of PostgreSQL."""
    postmaster = EmbeddedPostgres(data_dir).pid
    roots = [psutil.Process(pid) for pid in (service.process.pid, postmaster) if pid]
    return [p for root in roots for p in (root, *root.children(recursive=True))]


async def register(service: RealService, name: str) -> None:
    status, _ = await service.post(
        "/api/v1/edge/nodes", {"name": name, "organization_id": str(uuid4())}
    )
    assert status == 201


async def check_metrics(service: RealService, names: set[str]) -> None:
    """All metrics of both processes, and what each of them costs."""
    costs = {"process_cpu_seconds_total", "dory_control_process_resident_memory_bytes"}
    async with service.http.get(f"{service.url}/metrics") as answer:
        text = await answer.text()
    assert names | costs <= {line.split()[2] for line in text.splitlines() if line[:6] == "# TYPE"}


async def nodes(data_dir: Path) -> list[str]:
    endpoints = json.loads((data_dir / "endpoints.json").read_text())
    async with connected(endpoints["database"]) as connection:
        return [row["name"] for row in await connection.fetch(NODES)]


def modes_above(folder: Path) -> list[tuple[Path, int]]:
    return [(parent, stat.S_IMODE(parent.stat().st_mode)) for parent in folder.parents]


async def test_everything_is_there_when_it_says_so_and_gone_when_it_ends(data_dir, tmp_path):
    endpoints = data_dir / "endpoints.json"
    fleet = tmp_path / "empty.yaml"
    fleet.touch()
    data_dir.parent.mkdir(mode=0o700)
    modes = modes_above(data_dir)
    async with dev(data_dir, "--fleet", str(fleet)) as service:
        await eventually(endpoints.exists, 30)
        told = json.loads(endpoints.read_text())
        assert set(told) == {"http", "database"}
        service.url = told["http"]
        status, health = await service.get("/healthz")
        assert (status, health["status"]) == (200, "healthy")
        assert set(health["components"]) == {
            *("database", "heartbeats", "watcher", "kubernetes"),
            *("health-poller", "reconciler"),
        }
        assert stat.S_IMODE(endpoints.stat().st_mode) == 0o600
        await check_metrics(service, {metric.name for metric in described()})
        await register(service, "edge-1")
        assert await nodes(data_dir) == ["edge-1"]
        await is_up(service)

        # Neither the directory nor the port can be had twice.
        async with dev(data_dir) as second:
            assert await second.ended() == 1
            (error,) = second.events("the data directory is in use")
            assert (error["data_dir"], error["process"]) == (
                str(data_dir),
                str(service.process.pid),
            )
        other = tmp_path / "other"
        port = int(service.url.rpartition(":")[2])
        async with dev(other, port=port) as second:
            assert await second.ended() == 1
            assert str(port) in second.events("dev cannot start")[0]["error"]
            assert not EmbeddedPostgres(other).is_alive()
        assert (await service.get("/readyz"))[0] == 200

        processes = everything_of(service, data_dir)
        assert {"postgres"} < {process.name() for process in processes}
        service.signal(signal.SIGINT)
        assert await service.ended() == 0
        assert all(is_gone(process) for process in processes)
        assert not endpoints.exists()
        assert is_free(port)
    assert modes_above(data_dir) == modes


async def test_data_outlive_every_end(data_dir):
    port = free_port()
    async with dev(data_dir, port=port) as service:
        await is_up(service)
        await register(service, "a")
        processes = everything_of(service, data_dir)
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
        assert all(is_gone(process) for process in processes)

    async with dev(data_dir, port=port) as service:
        await is_up(service)
        assert await nodes(data_dir) == ["a"]
        await register(service, "b")
        lingering = await service.connect(
            f"POST {HEARTBEAT} HTTP/1.1\r\nContent-Length: 9\r\n\r\n{{"
        )
        service.process.kill()
        await service.ended()
        lingering.close()

    async with dev(data_dir, port=port) as service:
        await eventually(lambda: service.children("api"))
        service.process.kill()  # long before it is up
        await service.ended()

    async with dev(data_dir, port=port) as service:
        await is_up(service)
        assert await nodes(data_dir) == ["a", "b"]
        await register(service, "c")
        kill_at_once(everything_of(service, data_dir))
        await service.ended()

    async with dev(data_dir, port=port) as service:
        await is_up(service)
        assert await nodes(data_dir) == ["a", "b", "c"]
        assert len(service.children("api")) == len(service.children("control")) == 1


def kill_at_once(processes: list[psutil.Process]) -> None:
    """PostgreSQL's own processes may be gone by the time it is their turn."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


async def test_a_killed_server_comes_back_and_one_that_was_stopped_does_not(data_dir):
    async with dev(data_dir) as service:
        await is_up(service)
        server = EmbeddedPostgres(data_dir)
        told = json.loads((data_dir / "endpoints.json").read_text())
        async with connected(told["database"]) as connection:
            key = str(await add_edge_processor(connection))
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: service.events("the embedded PostgreSQL is up again"), 20)
        await eventually(lambda: is_recorded(service, key))
        await eventually(service.is_healthy)

        await asyncio.to_thread(server.stop)
        stopped_at = time.monotonic()
        await eventually(lambda: is_unhealthy(service))
        await eventually(lambda: time.monotonic() > stopped_at + 3.0)  # it looks every 0.5 s
        assert not server.is_alive()
        assert await is_unhealthy(service)
        assert not (await service.beat(processor_id=key))["acknowledged"]
        await asyncio.to_thread(server.start)
        await eventually(lambda: is_recorded(service, key))
        await eventually(service.is_healthy)
        assert len(service.events("the embedded PostgreSQL was killed")) == 1


async def is_recorded(service: RealService, processor_id: str) -> bool:
    return bool((await service.beat(processor_id=processor_id))["acknowledged"])


async def is_unhealthy(service: RealService) -> bool:
    return (await service.get("/healthz"))[0] == 503


async def test_asked_twice_it_waits_for_nothing(data_dir):
    """PostgreSQL is frozen: it would be given ten seconds."""
    async with dev(data_dir) as service:
        await is_up(service)
        processes = everything_of(service, data_dir)
        servers = [process for process in processes if process.name() == "postgres"]
        for process in servers:
            process.suspend()
        service.signal(signal.SIGTERM)
        await eventually(lambda: not (service.children("api") + service.children("control")), 10)
        assert service.process.returncode is None
        service.signal(signal.SIGTERM)
        # Less than these ten seconds, however patient.
        assert await service.ended(0.9) == 128 + signal.SIGTERM
        assert all(is_gone(process) for process in processes)
        assert not (data_dir / "endpoints.json").exists()


@pytest.mark.parametrize("event", ["starting the embedded PostgreSQL", "listening"])
async def test_asked_during_its_start_it_ends_in_order(data_dir, event):
    async with dev(data_dir) as service:
        await eventually(lambda: _told(service, event), 20)
        parent = psutil.Process(service.process.pid)
        # Ctrl-C in a terminal goes to the whole group; nothing of ours may die of it.
        (child, *_) = await eventually(parent.children, every_seconds=0.01)
        assert os.getpgid(child.pid) != os.getpgid(parent.pid)
        service.signal(signal.SIGINT)
        assert await service.ended() == 0
        assert not EmbeddedPostgres(data_dir).is_alive()
