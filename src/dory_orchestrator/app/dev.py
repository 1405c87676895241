"""`dev`: everything on this machine: an embedded PostgreSQL, a local cluster, a fleet."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import aiohttp
import msgspec
from pydantic import SecretStr

from dory_orchestrator.api.server import listen, url_of
from dory_orchestrator.app.dev_fleet import keep_telling, load_fleet, restart_on_save
from dory_orchestrator.app.run import serve
from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.supervise import URGED, Signals
from dory_orchestrator.ports import ClusterError, StoreError
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.fleet import end_lease, fleet_namespace
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


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked of `dev`. Without a `fleet_file` the example is loaded, once.

    `watch` restarts pods whose sources were saved.
    """

    data_dir: Path
    port: int
    fleet_file: Path | None
    watch: bool


def dev(settings: Settings, wishes: Wishes) -> int:
    """Run until told to stop; returns the exit code."""
    data_dir, port = wishes.data_dir, wishes.port
    data_dir = data_dir.expanduser().resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _claimed(data_dir) as unclean:
            wishes = replace(wishes, data_dir=data_dir)
            return asyncio.run(_dev(settings, wishes, unclean=unclean))
    except DataDirInUse as error:
        _log.error("the data directory is in use", data_dir=str(data_dir), process=str(error))
    except OSError as error:
        _log.error("dev cannot start", error=str(error), data_dir=str(data_dir), port=port)
    except StoreError as error:
        _log.error("the embedded PostgreSQL cannot be used", error=str(error))
    except ClusterError as error:
        _log.error("the local cluster cannot be used", error=str(error))
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


async def _dev(settings: Settings, wishes: Wishes, *, unclean: bool) -> int:
    signals = Signals()
    signals.listen()
    data_dir = wishes.data_dir
    endpoints = data_dir / ENDPOINTS
    sock = await _listen(wishes.port, unclean=unclean)
    endpoints.unlink(missing_ok=True)
    postgres = EmbeddedPostgres(data_dir)
    with sock:
        _log.info("starting the embedded PostgreSQL", data_dir=str(data_dir))
        try:
            database_url = await _unless_urged(signals, postgres, postgres.start)
            await _unless_urged(signals, postgres, upgrade, database_url)
            settings = _settled(settings, database_url, data_dir)
            async with _cluster(data_dir, signals) as cluster:
                code = await _serve(settings, wishes, sock, signals, postgres, cluster)
        finally:
            endpoints.unlink(missing_ok=True)
            await _unless_urged(signals, postgres, postgres.stop, signals.urged.is_set())
    return URGED if signals.urged.is_set() else code


def _settled(settings: Settings, database_url: str, data_dir: Path) -> Settings:
    """The settings that only `dev` knows. Its pods have a token; its edge API asks for one only
    if somebody chose it."""
    chosen = settings.state_token
    return settings.model_copy(
        update={
            "config_db": SecretStr(database_url),
            "local_dir": str(data_dir),
            "shutdown_delay": 0.0,
            "state_token": chosen or SecretStr(_state_token(data_dir)),
            "require_state_token": chosen is not None and settings.require_state_token,
        }
    )


def _state_token(data_dir: Path) -> str:
    """Made once for a data directory: pods that outlive us have the one that we know."""
    file = data_dir / "state-token"
    if not file.exists():
        temporary = file.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_hex(32))
        temporary.replace(file)
    return file.read_text().strip()


@contextlib.asynccontextmanager
async def _cluster(data_dir: Path, signals: Signals) -> AsyncIterator[LocalCluster]:
    """The local cluster, which ends with us: pods are stopped as a kubelet would, and when
    urged at once."""
    cluster = await start(data_dir)
    try:
        yield cluster
    finally:
        stopping = asyncio.create_task(cluster.stop(immediate=signals.urged.is_set()))
        urged = asyncio.create_task(signals.urged.wait())
        await asyncio.wait({stopping, urged}, return_when=asyncio.FIRST_COMPLETED)
        urged.cancel()
        if not stopping.done():
            await cluster.stop(immediate=True)
        await stopping


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
    wishes: Wishes,
    sock: socket.socket,
    signals: Signals,
    postgres: EmbeddedPostgres,
    cluster: LocalCluster,
) -> int:
    if signals.asked.is_set():
        return 0
    assert settings.config_db is not None and settings.state_token is not None  # noqa: S101, PT018
    url, database_url = url_of(sock), settings.config_db.get_secret_value()
    namespace = await fleet_namespace(database_url)
    # The same each time: whoever held the lease for this data directory is gone. Until it ran out,
    # what that one saw last would pass for what is now.
    holder = f"dev {namespace}"
    await end_lease(database_url, holder)
    fleet = await load_fleet(database_url, cluster, namespace, wishes.fleet_file)
    await cluster.configure(url, settings.state_token.get_secret_value())
    async with asyncio.TaskGroup() as group:
        beside = [
            group.create_task(_announce(settings, url, wishes.data_dir / ENDPOINTS)),
            group.create_task(_keep_database(postgres)),
            group.create_task(_keep_cluster(wishes.data_dir, cluster)),
            group.create_task(keep_telling(url)),
        ]
        if wishes.watch:
            beside.append(group.create_task(restart_on_save(cluster, fleet)))
        code = await serve(settings, sock, signals, holder=holder)
        for task in beside:
            task.cancel()
    return code


async def _keep_cluster(data_dir: Path, cluster: LocalCluster) -> None:
    """Start a local cluster that was killed once more. It remembers its nodes."""
    while True:
        await asyncio.sleep(_CRASH_LOOK_SECONDS)
        if cluster.is_running():
            continue
        _log.error("the local cluster was killed; it is started again")
        try:
            await (await start(data_dir)).close()
        except ClusterError as error:
            _log.error("the local cluster does not start", error=str(error))
            await asyncio.sleep(_CRASH_WAIT_SECONDS)


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
