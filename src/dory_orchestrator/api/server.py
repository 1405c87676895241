"""uvicorn, started and stopped by us."""

import contextlib
import resource
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from dory_orchestrator.api.protocol import Connections, bounded
from dory_orchestrator.logs import get_logger

_log = get_logger(__name__)
_GRACE_SECONDS = 4
_OTHER_FILES = 100
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - all interfaces, seen from here


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals come to the process that supervises; it decides what they mean."""
        yield


def make_server(app: ASGIApp, *, shared: Connections, keep_alive_seconds: float) -> Server:
    """A server for `app`; run it with `serve(sockets=[...])`, end it with `should_exit`."""
    config = uvicorn.Config(
        app,
        http=bounded(shared),
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(keep_alive_seconds),
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=4096,
    )
    return Server(config)


def listen(address: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError, such as for a port in use."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(4096)
    except OSError:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    """Where this machine reaches the socket, as `http://host:port`."""
    host, port, *_ = sock.getsockname()
    host = _LOOPBACK.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allow_connections(wanted: int) -> int:
    """Raise the limit of open files; returns how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    target = wanted + _OTHER_FILES if unlimited else min(hard, wanted + _OTHER_FILES)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    allowed = min(wanted, target - _OTHER_FILES)
    if allowed < wanted:
        _log.warning(
            "the limit of open files allows fewer connections", wanted=wanted, allowed=allowed
        )
    return allowed
