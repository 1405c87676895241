"""`dev`: everything on this machine, with an embedded PostgreSQL."""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import aiohttp
import msgspec
from pydantic import SecretStr

from dory_orchestrator.api.server import listen, url_of
from dory_orchestrator.app.run import serve
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.supervise import URGED, Signals
from dory_orchestrator.ports import StoreError
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.migrate import upgrade

_log = get_logger(__name__)
_PORT_SECONDS = 10.0
_CRASH_LOOK_SECONDS = 0.5
_CRASH_WAIT_SECONDS = 2.0
_URGED_SECONDS = 0.3
ENDPOINTS = "endpoints.json"

P = ParamSpec("P")
T = TypeVar("T")


class DataDirInUse(Exception):
    """Another living process works in the data directory."""


def dev(settings: Settings, data_dir: Path, port: int) -> int:
    """Run until told to stop; returns the exit code."""
    data_dir = data_dir.expanduser().resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _claimed(data_dir) as unclean:
            return asyncio.run(_dev(settings, data_dir, port, unclean=unclean))
    except DataDirInUse as error:
        _log.error("the data directory is in use", data_dir=str(data_dir), process=str(error))
    except OSError as error:
        _log.error("dev cannot start", error=str(error), data_dir=str(data_dir), port=port)
    except StoreError as error:
        _log.error("the embedded PostgreSQL cannot be used", error=str(error))
    return 1


@contextlib.contextmanager
def _claimed(data_dir: Path) -> Iterator[bool]:
    """Hold the data directory; the lock ends with us, however suddenly.

    Yields True when the one before was killed: it had no time to erase its process id.
    """
    with (data_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise DataDirInUse(lock.read().strip() or "unknown") from error
        lock.seek(0)
        unclean = bool(lock.read())
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield unclean
        finally:
            lock.truncate(0)


async def _dev(settings: Settings, data_dir: Path, port: int, *, unclean: bool) -> int:
    signals = Signals()
    signals.listen()
    endpoints = data_dir / ENDPOINTS
    sock = await _listen(port, unclean=unclean)
    endpoints.unlink(missing_ok=True)
    postgres = EmbeddedPostgres(data_dir)
    with sock:
        _log.info("starting the embedded PostgreSQL", data_dir=str(data_dir))
        try:
            database_url = await _unless_urged(signals, postgres, postgres.start)
            await _unless_urged(signals, postgres, upgrade, database_url)
            settings = settings.model_copy(
                update={"config_db": SecretStr(database_url), "shutdown_delay": 0.0}
            )
            code = await _serve(settings, sock, signals, postgres, endpoints)
        finally:
            endpoints.unlink(missing_ok=True)
            await _unless_urged(signals, postgres, postgres.stop, signals.urged.is_set())
    return URGED if signals.urged.is_set() else code


async def _unless_urged(
    signals: Signals,
    postgres: EmbeddedPostgres,
    work: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Do `work` on the server. When urged, the server is killed: then `work` ends soon too."""
    working = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    urged = asyncio.create_task(signals.urged.wait())
    await asyncio.wait({working, urged}, return_when=asyncio.FIRST_COMPLETED)
    urged.cancel()
    done, _ = await asyncio.wait({working}, timeout=_URGED_SECONDS)
    if not done:
        await asyncio.to_thread(postgres.kill)
    return await working


async def _listen(port: int, *, unclean: bool) -> socket.socket:
    """Open the port. After an unclean end the old processes may hold it for a moment."""
    deadline = asyncio.get_running_loop().time() + (_PORT_SECONDS if unclean else 0.0)
    while True:
        try:
            return listen("127.0.0.1", port)
        except OSError as error:
            if asyncio.get_running_loop().time() >= deadline:
                raise OSError(f"port {port} on 127.0.0.1: {error.strerror}") from error
        await asyncio.sleep(0.1)


async def _serve(
    settings: Settings,
    sock: socket.socket,
    signals: Signals,
    postgres: EmbeddedPostgres,
    endpoints: Path,
) -> int:
    if signals.asked.is_set():
        return 0
    async with asyncio.TaskGroup() as group:
        beside = [
            group.create_task(_announce(settings, url_of(sock), endpoints)),
            group.create_task(_keep_database(postgres)),
        ]
        code = await serve(settings, sock, signals)
        for task in beside:
            task.cancel()
    return code


async def _announce(settings: Settings, url: str, endpoints: Path) -> None:
    """Write where everything is, once it is ready. Whoever reads the file may use it."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
        while not await _is_well(session, url):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.1)
    assert settings.config_db is not None  # noqa: S101 - set above
    content = {"http": url, "database": settings.config_db.get_secret_value()}
    temporary = endpoints.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_bytes(msgspec.json.encode(content) + b"\n")
    temporary.replace(endpoints)
    _log.info("everything is up", http=url, endpoints=str(endpoints))


async def _is_well(session: aiohttp.ClientSession, url: str) -> bool:
    """Ready, and every component was heard of and is healthy."""
    try:
        async with session.get(f"{url}/readyz") as ready, session.get(f"{url}/healthz") as health:
            return ready.status == 200 and (await health.json())["status"] == "healthy"
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _keep_database(postgres: EmbeddedPostgres) -> None:
    """Start a server that was killed once more. One that was stopped in order stays stopped:
    somebody wanted it so."""
    while True:
        await asyncio.sleep(_CRASH_LOOK_SECONDS)
        if not postgres.crashed():
            continue
        _log.error("the embedded PostgreSQL was killed", restart_in_seconds=_CRASH_WAIT_SECONDS)
        await asyncio.sleep(_CRASH_WAIT_SECONDS)
        if postgres.crashed():
            try:
                await asyncio.to_thread(postgres.start)
                _log.info("the embedded PostgreSQL is up again")
            except StoreError as error:
                _log.error("the embedded PostgreSQL does not start", error=str(error))
