"""What the tests of the local cluster look at besides: processes, sockets, a listener."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from tests.contract.cluster_worlds import QUICK
from tests.patience import patient

from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.leftovers import MARK
from dory_orchestrator.cluster.local.lifetime import running_process
from dory_orchestrator.cluster.local.messages import Timing
from dory_orchestrator.cluster.local.places import Places
from dory_orchestrator.cluster.local.start import start

HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

SERVE = r"""
import json, os, signal, socket, subprocess, sys, time
def serve(answer=lambda path: 200):
    server = socket.create_server(("0.0.0.0", int(os.environ["DORY_HEALTH_PORT"])))
    while True:
        client, _ = server.accept()
        with client:
            path = client.recv(4096).split(b" ")[1].decode()
            status = answer(path)
            client.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
"""


class Machines:
    """Data directories, and the clusters in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dirs: list[Path] = []
        self.clusters: list[LocalCluster] = []
        self.processes: list[psutil.Process] = []

    async def start(self, name: str = "data", timing: Timing = QUICK) -> LocalCluster:
        data_dir = self.folder / name
        if data_dir not in self.data_dirs:
            self.data_dirs.append(data_dir)
        cluster = await start(data_dir, timing)
        self.clusters.append(cluster)
        self.processes.append(self.process(name))
        return cluster

    def process(self, name: str = "data") -> psutil.Process:
        """The cluster's process."""
        process = running_process(Places(self.folder / name))
        assert process is not None
        return process

    def pods(self, name: str = "data") -> list[psutil.Process]:
        """The processes of all pods."""
        return marked_processes(self.folder / name)


def marked_processes(data_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            marked = process.environ().get(MARK) == str(data_dir.resolve())
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


async def eventually(condition: Callable[[], Any], limit_seconds: float = 8.0) -> Any:
    """Wait until `condition()` (sync, or a coroutine) is true; returns what it returned."""
    async with asyncio.timeout(patient(limit_seconds)):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


async def answer(address: str | None, path: str = "/ready") -> str:
    """How a pod answers: the status, or `refused`."""
    return await _answer(address, path, patient(0.5))


async def is_silent(address: str | None) -> bool:
    """Whether a pod lets whoever asks it wait, for a moment."""
    return await _answer(address, "/ready", 0.5) == "silent"


async def _answer(address: str | None, path: str, timeout_seconds: float) -> str:
    limit = aiohttp.ClientTimeout(total=timeout_seconds)
    async with aiohttp.ClientSession(timeout=limit) as session:
        try:
            async with session.get(f"http://{address}{path}") as found:
                return str(found.status)
        except TimeoutError:
            return "silent"
        except aiohttp.ClientError:
            return "refused"


class Listener:
    """Stands for the orchestrator: counts what it hears, by the first line."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[str] = []
        self._hearing: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._hearing[task] = writer
        try:
            with contextlib.suppress(OSError):
                self.heard.append((await reader.readline()).decode())
                writer.write(HEALTHY)
                await writer.drain()
        finally:
            del self._hearing[task]
            writer.close()

    async def end(self) -> None:
        """Hang up: who is heard at this moment would keep its connection beyond the test."""
        hearing = dict(self._hearing)
        for writer in hearing.values():
            writer.transport.abort()
        await asyncio.gather(*hearing)

    async def next(self, limit_seconds: float = 8.0) -> str:
        """Wait for something new."""
        count = len(self.heard)
        await eventually(lambda: len(self.heard) > count, limit_seconds)
        return self.heard[-1]


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.hear, "127.0.0.1", 0)
    listener.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield listener
    finally:
        server.close()
        await listener.end()
        await server.wait_closed()
