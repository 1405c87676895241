"""HTTP connections with bounds on everything.

uvicorn alone takes headers without end (191 MB were sent to it), waits for ever for a body
that does not come, keeps any number of connections, and cannot close one whose peer does
not read. A bound here ends one connection; nobody else notices.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from dory_orchestrator.api.asgi import encode
from dory_orchestrator.api.bodies import ErrorAnswer
from dory_orchestrator.metrics import Metrics

HEADER_BYTES_MAX = 32 * 1024
_HEADERS_TOO_LARGE = f"headers: larger than {HEADER_BYTES_MAX} bytes"
# Clients of ours send one request at a time. Each one that waits behind another costs some
# kilobytes, and thousands of them fit into one read.
_PIPELINED_MAX = 32
_LINGER_SECONDS = 2.0


@dataclass(slots=True)
class Connections:
    """What all connections of a server share.

    `idle` holds those without a request in progress, the longest idle first: when there is
    no room, the first of them has to go. Clients that beat are never long idle.
    """

    metrics: Metrics
    connections_max: int = 20_000
    read_seconds: float = 10.0
    idle: "dict[BoundedHttpProtocol, None]" = field(default_factory=dict)


class JoinedWrites:
    """The transport of one answer: its headers leave with the first piece of its body.

    uvicorn writes them apart, which costs a system call more than the rest of a heartbeat's
    answer.
    """

    __slots__ = ("_headers", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._headers: bytes | None = None

    def write(self, data: bytes) -> None:
        """Hold headers back (but not `100 Continue`, which is answered with the body)."""
        if self._headers is not None:
            data, self._headers = self._headers + data, None
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):
            self._headers = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write headers that no body follows: those of an answer to HEAD."""
        if self._headers is not None:
            self.write(b"")

    def close(self) -> None:
        """Close after everything was written."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """As the transport itself."""
        return self._transport.is_closing()


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. A request is *incoming* from its first byte until its body is complete."""

    shared: Connections

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._incoming = False
        self._in_headers = False
        self._unanswered = 0
        self._header_bytes = 0
        self._read_bytes = 0
        self._refusal: tuple[int, str] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._close_deadline: asyncio.TimerHandle | None = None

    # The life of a connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.shared.connections_max:
            self._make_room()
        self.shared.metrics.http_connections.set(len(self.connections))
        if not transport.is_closing():
            self._rest()

    def _make_room(self) -> None:
        longest_idle = next(iter(self.shared.idle), None)
        if longest_idle is None:
            self._abort("full")
        else:
            longest_idle._abort("room")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.shared.idle.pop(self, None)
        self.shared.metrics.http_connections.set(len(self.connections))
        # After an error uvicorn leaves its timer, and with it the connection, in memory.
        self._unset_keepalive_if_required()
        for handle in (self._deadline, self._write_deadline, self._close_deadline):
            if handle is not None:
                handle.cancel()

    def _abort(self, reason: str) -> None:
        self.shared.metrics.http_connections_closed.labels(reason).inc()
        self.shared.idle.pop(self, None)
        self.transport.abort()

    # Requests coming in

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self.transport.is_closing():
            return
        in_headers_before = self._in_headers
        self._read_bytes = len(data)
        self._header_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._incoming:
            self._header_bytes = 0
            self._clear_deadline()
            self._rest_if_idle()
        elif self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(431, _HEADERS_TOO_LARGE)
        else:
            self._set_deadline(restart=in_headers_before and not self._in_headers)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._incoming = self._in_headers = True
        self.shared.idle.pop(self, None)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are dropped: whoever read the headers has not seen them."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        counted = max(self._header_bytes, self._read_bytes)
        if counted > HEADER_BYTES_MAX and self._exact_header_bytes() > HEADER_BYTES_MAX:
            raise self._refused(431, _HEADERS_TOO_LARGE)
        if len(self.pipeline) >= _PIPELINED_MAX:
            self._abort("pipelined")
            raise self._refused(400, "pipelined: too many requests")
        if self.parser.should_upgrade() and self._has_body():
            # The parser skips such a body, and would read it as the next request.
            raise self._refused(400, "upgrade: not possible for a request with a body")
        super().on_headers_complete()
        # In time: the handler's task runs after what was read is parsed.
        joined = JoinedWrites(self.transport)
        self.cycle.transport = joined  # type: ignore[assignment]
        self.cycle.on_response = partial(self._answered, joined)
        self._unanswered += 1
        self._in_headers = False

    def _refused(self, status: int, text: str) -> httptools.HttpParserError:
        """Raised to the parser, which stops; uvicorn then calls `send_400_response`."""
        self._refusal = (status, text)
        return httptools.HttpParserError(text)

    def _exact_header_bytes(self) -> int:
        """What was counted may hold a body, and requests before this one."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 "))
            for name, value in self.headers
        )

    def on_body(self, body: bytes) -> None:
        # What counts is what comes without any body: headers, trailers, chunk extensions.
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._incoming = False
        self._header_bytes = 0
        super().on_message_complete()

    def _answered(self, joined: JoinedWrites) -> None:
        joined.flush()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self.transport.is_closing():
            # Closing waits until the peer has read everything; this one may never do.
            self._close_within(self.shared.read_seconds)
            return
        self.shared.idle.pop(self, None)
        if not self._incoming and not self._unanswered:
            self.shared.idle[self] = None  # uvicorn has armed the keep-alive timer already

    def _rest_if_idle(self) -> None:
        """Once a request has arrived in full and was answered, in whichever order."""
        if self._incoming or self._unanswered or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._rest()

    def _rest(self) -> None:
        """Wait for a first request as long as for any later one."""
        self.shared.idle.setdefault(self)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long. What was not read until now never will be: no lingering."""
        self._abort("idle")

    # Deadlines

    def _set_deadline(self, *, restart: bool) -> None:
        if restart:
            self._clear_deadline()
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.shared.read_seconds, self._too_slow)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self._unanswered > (0 if self._in_headers else 1):
            # An earlier request is being answered, and we may have paused reading for it.
            self._set_deadline(restart=True)
            return
        what = "headers" if self._in_headers else "body"
        self.shared.metrics.http_connections_closed.labels(f"slow_{what}").inc()
        self._refuse(408, f"{what}: not complete after {self.shared.read_seconds:g} s")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(
            self.shared.read_seconds, self._abort, "not_reading"
        )

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is not HTTP, and for what our callbacks refuse."""
        self._refuse(*(self._refusal or (400, msg)))

    def _refuse(self, status: int, text: str) -> None:
        """Answer, if it is this request's turn and no answer has begun, and close."""
        self._refusal = (status, text)
        self._clear_deadline()
        if self._may_answer():
            self.transport.write(_error(status, text))
        if self.cycle is not None and not self.cycle.response_complete:
            # The handler, if one waits for this body, hears that the client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._close_within(_LINGER_SECONDS)

    def _may_answer(self) -> bool:
        """A refusal must not be read as the answer to an earlier request, nor as a second one."""
        if self.transport.is_closing():
            return False
        if self._incoming and not self._in_headers:
            return self._unanswered == 1 and not self.cycle.response_started
        return self._unanswered == 0

    def _close_within(self, seconds: float) -> None:
        if self._close_deadline is None:
            self._close_deadline = self.loop.call_later(seconds, self.transport.abort)


def _error(status: int, text: str) -> bytes:
    body = encode(ErrorAnswer(text))
    return b"".join(
        (
            STATUS_LINE[status],
            b"content-type: application/json\r\ncontent-length: ",
            str(len(body)).encode(),
            b"\r\nconnection: close\r\n\r\n",
            body,
        )
    )


def bounded(shared: Connections) -> type[BoundedHttpProtocol]:
    """The protocol class for one server."""
    return type("Bounded", (BoundedHttpProtocol,), {"shared": shared})
