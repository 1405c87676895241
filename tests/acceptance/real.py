"""The real thing: the command as its users start it, and how to get at its processes."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import psutil
from tests.patience import patient

from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.states import state_file
from dory_orchestrator.store.embedded import EmbeddedPostgres

COMMAND = [sys.executable, "-m", "dory_orchestrator.cli"]
HEARTBEAT = "/api/v1/edge/heartbeat"
_TOLD_LINES_MAX = 2_000


async def eventually(
    condition: Callable[[], Any], limit_seconds: float = 15.0, every_seconds: float = 0.05
) -> Any:
    """Wait until `condition()` (sync, or a coroutine) is true; returns what it returned."""
    async with asyncio.timeout(patient(limit_seconds)):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(every_seconds)


class RealService:
    """A running `dory-orchestrator`, its log, and its HTTP."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log
        self.url = ""
        self.http: aiohttp.ClientSession = None  # type: ignore[assignment]

    def log(self) -> list[dict[str, Any]]:
        """Every line, which must be a JSON object each."""
        text = self._log.read_text()
        complete = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in complete.splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == event]

    def tell(self) -> None:
        """Show what it said, for whoever reads of a test that failed."""
        for line in self._log.read_text().splitlines()[-_TOLD_LINES_MAX:]:
            if '"level": "debug"' not in line:
                sys.stderr.write(line + "\n")

    def children(self, role: str) -> list[psutil.Process]:
        """The processes of a role; one, when all is well."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [p for p in found if p.cmdline()[-1:] == [role]]
        except psutil.NoSuchProcess:
            return []

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.http.get(self.url + path) as answer:
            return answer.status, await answer.json()

    async def post(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        async with self.http.post(self.url + path, json=body) as answer:
            return answer.status, await answer.json()

    async def beat(self, **fields: object) -> dict[str, Any]:
        status, answer = await self.post(HEARTBEAT, fields)
        assert status == 200, answer
        return answer

    async def is_ready(self) -> bool:
        try:
            status, _ = await self.get("/readyz")
        except (aiohttp.ClientError, TimeoutError):
            return False
        return status == 200

    async def is_healthy(self) -> bool:
        try:
            _, health = await self.get("/healthz")
        except (aiohttp.ClientError, TimeoutError):
            return False
        return bool(health["status"] == "healthy")

    async def metric(self, line_start: str) -> float:
        """The value of the first sample whose line begins so; 0 if there is none."""
        async with self.http.get(self.url + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next((float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(line_start)), 0.0)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def listening(self, limit_seconds: float = 20.0) -> None:
        """Wait until it says where it listens: for a service that is not ready yet."""
        self.url = await eventually(lambda: _url(self), limit_seconds)

    async def ended(self, limit_seconds: float = 10.0) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(patient(limit_seconds)):
            return await self.process.wait()

    async def connect(self, *texts: str) -> asyncio.StreamWriter:
        """A connection of a client that sends this, as it stands."""
        host, port = self.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        for text in texts:
            writer.write(text.encode())
            await writer.drain()
        return writer


@asynccontextmanager
async def running(
    *arguments: str,
    environment: dict[str, str] | None = None,
    ready: bool = True,
    url: str | None = None,
) -> AsyncIterator[RealService]:
    """Start a command, and leave nothing of it behind."""
    with tempfile.TemporaryDirectory(prefix="dory-test-log-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=clean_environment() | {"DORY_LOG_LEVEL": "debug"} | (environment or {}),
            )
        service = RealService(process, log)
        timeout = aiohttp.ClientTimeout(total=patient(10))
        async with aiohttp.ClientSession(timeout=timeout) as service.http:
            try:
                if ready:
                    service.url = url or await eventually(lambda: _url(service), 30)
                    await eventually(service.is_ready, 30)
                yield service
            except BaseException:
                service.tell()
                raise
            finally:
                await _end(service)


def _url(service: RealService) -> str | None:
    assert service.process.returncode is None, service.log()
    listening = service.events("listening")
    return str(listening[0]["url"]) if listening else None


async def _end(service: RealService) -> None:
    children = service.children("api") + service.children("control")
    if service.process.returncode is None:
        service.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patient(12)):
                await service.process.wait()
        except TimeoutError:
            service.process.kill()
            await service.process.wait()
    for child in children:
        if child.is_running():
            child.kill()


def clean_environment() -> dict[str, str]:
    """Ours, without settings that somebody may have exported."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("DORY_", "KUBECONFIG"))}


def run_on(database_url: str, **environment: str) -> Any:
    """`run` on a database, on a free port of this machine."""
    return running(
        "run",
        "--metrics-address",
        "127.0.0.1",
        "--metrics-port",
        "0",
        "--log-format",
        "json",
        "--shutdown-delay",
        "100ms",
        environment={"DORY_DATABASE_URL": database_url} | environment,
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether one can listen there."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
        return True


def is_gone(process: psutil.Process) -> bool:
    """Also true of a zombie: nobody collects orphans in some containers."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def clear(data_dir: Path) -> None:
    """Leave nothing of a data directory's processes, whatever a test did to them."""
    if data_dir.exists():
        with ThreadPoolExecutor(max_workers=1) as executor:
            stop = LocalCluster(data_dir).stop
            executor.submit(lambda: asyncio.run(stop(immediate=True))).result()
    EmbeddedPostgres(data_dir).destroy()
    _forget_states(data_dir)


def _forget_states(data_dir: Path) -> None:
    """What the client library saved of its pods: it lies in one folder for the whole machine.
    A pod's name holds both ends of its processor's id."""
    for folder in (data_dir / "local" / "pods").glob("*"):
        name = re.search(r"-([0-9a-f]{8})-([0-9a-f]{12})-\d+\.", folder.name)
        if name is not None:
            anywhere = state_file(UUID(int=0))
            for state in anywhere.parent.glob(f"dory-state-{name[1]}-*-{name[2]}.json"):
                state.unlink(missing_ok=True)


async def add_edge_processor(connection: Any) -> UUID:
    """A running processor, linked to an edge node of its own."""
    node = await connection.fetchval(
        "INSERT INTO edge_nodes (organization_id, name, status) VALUES ($1, $2, 'online')"
        " RETURNING id",
        uuid4(),
        str(uuid4()),
    )
    key: UUID = await connection.fetchval(
        "INSERT INTO processors (processor_template_id, status) VALUES ($1, 'running') RETURNING id",
        uuid4(),
    )
    await connection.execute(
        "INSERT INTO edge_node_apps (edge_node_id, processor_id, status) VALUES ($1, $2, 'active')",
        node,
        key,
    )
    return key
