"""Every connection to PostgreSQL is opened here, to a server that takes writes, and looked at here.

A name is resolved anew each time, and of several hosts the first that takes writes is used.
"""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import asyncpg

from dory_orchestrator.core.database_url import DatabaseUrl, KeepAlive
from dory_orchestrator.ports import StoreTimeout, StoreUnavailable
from dory_orchestrator.store.errors import DRIVER_ERRORS
from dory_orchestrator.store.queries import QUERIES

CONNECT_SECONDS = 2.0
CHECK_SECONDS = 2.0
"""A server that has not answered a question about itself by then carries nothing any more."""
_NEXT_HOST_SECONDS = 0.25
"""So long one host is waited for before the next one is asked too: one that is away costs no
more, and the first of those that are well is preferred."""
_NAME = "dory-orchestrator"

if TYPE_CHECKING:
    _Driven = asyncpg.Connection[Any]
else:
    _Driven = asyncpg.Connection


class Connection(_Driven):
    """An asyncpg connection that knows when it was opened and was last found to take writes, on
    the event loop's clock."""

    opened_at = 0.0
    checked_at = 0.0

    @property
    def itself(self) -> "Connection":
        """The connection behind the proxy that a pool hands out: it takes attributes, and can
        be cut also after it has ended."""
        return self


async def connect(
    url: DatabaseUrl,
    purpose: str = "",
    *,
    timeout_seconds: float = CONNECT_SECONDS,
    command_seconds: float | None = None,
    writable: bool = True,
    connection_class: type[Connection] = Connection,
    **asyncpg_options: Any,
) -> Connection:
    """Connect within `timeout_seconds`; `purpose` is what the server shows of us.

    With `writable` false a server that takes no writes is taken too, where there is no other.
    Raises StoreUnavailable where no server takes writes, ValueError, and driver errors.
    """
    settings = {"application_name": f"{url.application_name or _NAME} {purpose}".strip()}
    if url.options is not None:
        settings["options"] = url.options
    options = {
        **asyncpg_options,
        **_security(url),
        "user": url.user,
        "password": url.password,
        "database": url.database,
        "passfile": Path(url.passfile) if url.passfile else None,
        "server_settings": settings,
        "command_timeout": command_seconds,
        "connection_class": connection_class,
        "timeout": None,
    }
    seconds = min(timeout_seconds, url.connect_timeout_seconds or timeout_seconds)
    opened_at = asyncio.get_running_loop().time()
    connection = await _first_of(url, options, writable, seconds)
    connection.opened_at = connection.checked_at = opened_at
    _keep_alive(connection, url.keep_alive)
    return connection


async def _first_of(
    url: DatabaseUrl, options: dict[str, Any], writable: bool, seconds: float
) -> Connection:
    wanted = ("read-write",) if writable else ("read-write", "any")
    async with asyncio.timeout(seconds):
        for attributes in wanted:
            try:
                return await _race(url, {**options, "target_session_attrs": attributes})
            except asyncpg.TargetServerAttributeNotMatched:
                continue
    raise StoreUnavailable(f"{url.place} takes no writes: it is read-only, or a standby")


async def _race(url: DatabaseUrl, options: dict[str, Any]) -> Connection:
    """The first connection that suits. Raises what the last host answered; that a server takes
    no writes counts more than that another is away."""
    waiting = [*(url.places or (("", None),))]
    running: set[asyncio.Task[Connection]] = set()
    errors: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                host, port = waiting.pop(0)
                attempt = asyncpg.connect(host=host or None, port=port, **options)
                running.add(asyncio.create_task(attempt))
            done, running = await asyncio.wait(
                running,
                timeout=_NEXT_HOST_SECONDS if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                if (error := task.exception()) is None:
                    running |= done - {task}
                    return task.result()
                errors.append(error)
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_discard)
    errors.sort(key=lambda error: isinstance(error, asyncpg.TargetServerAttributeNotMatched))
    raise errors[-1]


def _discard(task: "asyncio.Task[Connection]") -> None:
    """Whoever comes second is not needed."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def _security(url: DatabaseUrl) -> dict[str, Any]:
    """The driver takes files of TLS from a URL alone."""
    tls = dict(url.tls)
    context: ssl.SSLContext | None = None
    if tls.get("sslrootcert") == "system":
        context = ssl.create_default_context()
        if "sslcert" in tls:
            context.load_cert_chain(tls["sslcert"], tls.get("sslkey"), tls.get("sslpassword", ""))
        tls = {name: tls[name] for name in ("sslnegotiation",) if name in tls}
    return {"dsn": f"postgresql://?{urlencode(tls)}" if tls else None, "ssl": context}


def _keep_alive(connection: Connection, wanted: KeepAlive) -> None:
    """Let the system notice a connection whose packets vanish, also one that only listens."""
    # The driver hands its socket to nobody.
    transport = connection._transport  # type: ignore[attr-defined]
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(wanted.enabled))
    for name, value in (
        ("TCP_KEEPIDLE", wanted.idle_seconds),
        ("TCP_KEEPINTVL", wanted.interval_seconds),
        ("TCP_KEEPCNT", wanted.count),
        ("TCP_USER_TIMEOUT", wanted.user_timeout_milliseconds),
    ):
        if hasattr(socket, name):  # not every system has every one
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def check(connection: Any) -> None:
    """Return if the server at the other end answers and takes writes, at most after 2 s.

    Else the connection is cut: raises StoreTimeout, StoreUnavailable, and driver errors.
    """
    # Cut from outside: to cancel the question would make the driver open another connection.
    loop = asyncio.get_running_loop()
    cut = loop.call_later(CHECK_SECONDS, connection.terminate)
    try:
        in_recovery, read_only = await connection.fetchrow(QUERIES["ping"])
    except DRIVER_ERRORS as error:
        if loop.time() >= cut.when():
            raise StoreTimeout(f"no answer within {CHECK_SECONDS:g} s") from error
        raise
    finally:
        cut.cancel()
    if in_recovery or read_only:
        connection.terminate()
        raise StoreUnavailable("the database is read-only, or a standby")
