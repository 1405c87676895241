"""`run`: the supervised processes on a database that is already there."""

import asyncio
import os
import socket
import tempfile
import uuid
from typing import IO

import msgspec

from dory_orchestrator.api.server import listen, url_of
from dory_orchestrator.app.child import Inheritance
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.supervise import STOP_SECONDS, ChildProcess, Signals, supervise
from dory_orchestrator.settings import Settings

_log = get_logger(__name__)
_MODULE = "dory_orchestrator.app.child"


def run(settings: Settings) -> int:
    """Run until told to stop; returns the exit code."""
    sock = open_port(settings)
    if sock is None:
        return 1
    with sock:
        return asyncio.run(_run(settings, sock))


def open_port(settings: Settings) -> socket.socket | None:
    """Listen, or say why not."""
    try:
        return listen(settings.metrics_address, settings.metrics_port)
    except OSError as error:
        _log.error(
            "the port cannot be opened",
            address=settings.metrics_address,
            port=settings.metrics_port,
            error=error.strerror or str(error),
        )
        return None


async def _run(settings: Settings, sock: socket.socket) -> int:
    signals = Signals()
    signals.listen()
    return await serve(settings, sock, signals)


async def serve(
    settings: Settings, sock: socket.socket, signals: Signals, holder: str | None = None
) -> int:
    """Keep the processes of the role running; returns the exit code.

    `holder` is the name by which they hold the lease, if it is to outlive this process.
    """
    _log.info("listening", url=url_of(sock), role=settings.role)
    with _open_board() as board:
        children = _children(settings, sock, board.fileno(), holder or str(uuid.uuid4()))
        return await supervise(children, signals, STOP_SECONDS + settings.shutdown_delay)


def _open_board() -> IO[bytes]:
    """In memory where that can be had: a container's file system may be read-only."""
    memfd_create = getattr(os, "memfd_create", None)  # Linux
    if memfd_create is None:
        return tempfile.TemporaryFile()
    return os.fdopen(memfd_create("dory-orchestrator-report"), "w+b")


def _children(
    settings: Settings, sock: socket.socket, board_fd: int, holder: str
) -> list[ChildProcess]:
    names = ("api", "control") if settings.role == "all" else (settings.role,)
    both = len(names) == 2
    return [
        _child(
            name,
            Inheritance(
                settings=settings.to_json(),
                url=url_of(sock),
                holder=holder,
                listen_fd=sock.fileno() if name == names[0] else None,
                board_fd=board_fd if both else None,
                restarts=0,
            ),
        )
        for name in names
    ]


def _child(name: str, inheritance: Inheritance) -> ChildProcess:
    inherited_fds = [fd for fd in (inheritance.listen_fd, inheritance.board_fd) if fd is not None]
    for fd in inherited_fds:
        os.set_inheritable(fd, True)

    def payload(restarts: int) -> bytes:
        return msgspec.json.encode(msgspec.structs.replace(inheritance, restarts=restarts))

    return ChildProcess(name, _MODULE, [name], payload, inherited_fds)
