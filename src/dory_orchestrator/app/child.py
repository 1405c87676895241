"""One supervised process: the edge API or the control loops.

It is told its settings through standard input, whose end tells it that its parent is gone.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import msgspec
import psutil
import uvloop

from dory_orchestrator import __version__, logs
from dory_orchestrator.loops.supervise import GIVE_UP
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import SchemaError, StoreUnavailable
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.postgres import PostgresStore
from dory_orchestrator.store.views import PostgresViews
from dory_orchestrator.tracing import Tracer, open_tracer

_RETRY_SECONDS = 0.5
_log = logs.get_logger(__name__)


class Inheritance(msgspec.Struct, frozen=True):
    """What a child gets from its parent: one line of JSON on standard input."""

    settings: str
    url: str
    holder: str
    """By which the supervised processes hold the lease: a restarted one is the same holder."""
    listen_fd: int | None
    board_fd: int | None
    restarts: int

    def listening_socket(self) -> socket.socket:
        """The socket that the parent listens on: it outlives any of us."""
        assert self.listen_fd is not None  # noqa: S101 - the parent gives it to who serves
        # Not a copy: once closed here, nothing of it is left in this process.
        return socket.socket(fileno=self.listen_fd)


class Lifetime:
    """Until when to run. `orphaned` when the parent died: nobody waits for a gentle end."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.orphaned = False

    @property
    def age_seconds(self) -> float:
        """Since the operating system started this process: imports take a part of it."""
        return time.time() - psutil.Process().create_time()

    def watch(self) -> None:
        """SIGTERM is the parent's word; the end of standard input is the parent's end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.ending.set)
        os.set_blocking(sys.stdin.fileno(), False)
        loop.add_reader(sys.stdin.fileno(), self._stdin)

    def _stdin(self) -> None:
        if os.read(sys.stdin.fileno(), 1024):
            return
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        self.orphaned = True
        self.ending.set()


def open_store(settings: Settings, metrics: Metrics, role: str) -> PostgresStore:
    """The store that the settings name. Opens no connection yet."""
    assert settings.config_db is not None  # noqa: S101 - checked by the command line
    return PostgresStore(
        settings.config_db.get_secret_value(),
        metrics=metrics,
        pool_size=settings.database_pool_size,
        timeout_seconds=settings.database_timeout,
        # Whether a node is silent is asked of its processors well before it counts as such.
        quiet_seconds=settings.heartbeat_stale / 2,
        role=role,
        has_cluster=has_cluster(settings),
    )


def open_views(settings: Settings, metrics: Metrics) -> PostgresViews:
    """What operators see of the store that the settings name. Opens no connection yet."""
    assert settings.config_db is not None  # noqa: S101 - checked by the command line
    return PostgresViews(
        settings.config_db.get_secret_value(),
        metrics=metrics,
        timeout_seconds=settings.database_timeout,
        has_cluster=has_cluster(settings),
    )


def tracer_of(settings: Settings, process: str) -> Tracer:
    """The tracer that the settings name, of one of the two processes."""
    return open_tracer(
        settings.tracing_endpoint,
        share=settings.tracing_share,
        process=process,
        version=__version__,
    )


def has_cluster(settings: Settings) -> bool:
    """Whether there is a cluster to act on: a local one, or a Kubernetes that is named, or that
    this runs in."""
    return (
        settings.cluster == "local"
        or settings.kubeconfig is not None
        or "KUBERNETES_SERVICE_HOST" in os.environ
    )


async def wait_for_schema(store: PostgresStore, on_wait: Callable[[str], None]) -> None:
    """Return once the database is there and fits. Raises SchemaError when it does not fit."""
    while True:
        try:
            return await store.verify_schema()
        except StoreUnavailable as error:
            on_wait(f"waiting for the database: {error}")
        await asyncio.sleep(_RETRY_SECONDS)


async def until(ending: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run `work` side by side until `ending`, then cancel it. A failure of one ends all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
        await ending.wait()
        for task in tasks:
            task.cancel()


def main() -> int:
    """Entry point of the child processes."""
    from dory_orchestrator.app import api_process, control_process

    serve: dict[str, Callable[[Inheritance, Lifetime], Awaitable[None]]] = {
        "api": api_process.serve,
        "control": control_process.serve,
    }
    role = sys.argv[1]
    inheritance = msgspec.json.decode(os.fsencode(_first_line()), type=Inheritance)
    settings = Settings.from_json(inheritance.settings)
    logs.configure(settings.log_level, settings.log_format)

    async def run() -> None:
        lifetime = Lifetime()
        lifetime.watch()
        await serve[role](inheritance, lifetime)

    # Ctrl-C belongs to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except* SchemaError as group:
        for error in _leaves(group):
            _log.error("the database does not fit this version", process=role, error=str(error))
        code = GIVE_UP
    return code


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _first_line() -> str:
    """Byte by byte, so that nothing is read ahead of the line into a buffer."""
    line = bytearray()
    while (byte := os.read(sys.stdin.fileno(), 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


if __name__ == "__main__":
    sys.exit(main())
