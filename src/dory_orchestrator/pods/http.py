"""The HTTP servers of pods, asked as a kubelet asks them.

A pod is a program of somebody else. Whatever it sends costs us its time limit, 64 KiB of body
(of a state: what the caller allows) and one connection, and spoils no answer but its own.
"""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import msgspec

from dory_orchestrator.ports import PodAnswer, PodRefused, PodUnreachable

BODY_BYTES_MAX = 64 * 1024
SDK_VERSION_HEADER = "X-Dory-SDK-Version"
_SDK_VERSION_CHARACTERS_MAX = 64
_MESSAGE_CHARACTERS_MAX = 200
_WELL = 200
_NOT_WELL = 503
_TOO_LARGE = 413
_FINAL = (400, 401, 404, 405, _TOO_LARGE)
_TOO_LARGE_WORDS = "entity too large"
"""What the client library answers, with 500, to a body above 1 MiB."""
_METRICS_BYTES_MAX = 256 * 1024
_STATE_LOAD = re.compile(rb"^dory_state_load_duration_seconds(?:\{[^}\n]*\})? +[0-9.eE+-]+", re.M)
_STATE_LOAD_KNOWN = b"# TYPE dory_state_load_duration_seconds "
"""The client library names this metric always, and gives it a value once it could read its store."""
# For servers that do not end a connection when asked to.
_KEEP_ALIVE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer over HTTP; `body` holds its first 64 KiB."""

    status: int
    body: bytes
    sdk_version: str | None


class _ProbeBody(msgspec.Struct):
    """What the client library says with 200 and 503, as far as it is read."""

    message: str = ""


_probe_body = msgspec.json.Decoder(_ProbeBody)


class _ErrorBody(msgspec.Struct):
    """What the client library says with the errors of /state."""

    error: str = ""


_error_body = msgspec.json.Decoder(_ErrorBody)


class HttpPods:
    """The port `Pods` over HTTP. Made where an event loop runs; ends with `close`."""

    def __init__(self, *, connections_max: int = 100) -> None:
        """Whoever asks more pods at once than `connections_max` waits, within their time limit."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections_max, keepalive_timeout=_KEEP_ALIVE_SECONDS
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # What is not compressed cannot grow beyond what was read.
            headers={"Accept-Encoding": "identity", "User-Agent": "dory-orchestrator"},
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(),  # none: each visit has one limit of its own
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def ask(self, address: str, *, timeout_seconds: float) -> PodAnswer:
        """Ask one pod for both probes. Raises PodUnreachable within `timeout_seconds`."""
        async with _within(timeout_seconds):
            ready = await self._get(address, "/ready")
            health = await self._get(address, "/health", last=True)
        return _answer(ready, health)

    async def get_state(
        self, address: str, *, token: str | None, timeout_seconds: float, bytes_max: int
    ) -> bytes:
        """See Pods."""
        async with (
            _within(timeout_seconds),
            self._session.get(
                f"http://{address}/state", headers=_state_headers(token), allow_redirects=False
            ) as reply,
        ):
            body = await _read(
                reply.content, BODY_BYTES_MAX if reply.status != _WELL else bytes_max + 1
            )
        if reply.status != _WELL:
            raise _refusal("GET", reply.status, body)
        if len(body) > bytes_max:
            message = f"GET /state answered more than {bytes_max} bytes"
            raise PodRefused(_TOO_LARGE, message, final=True)
        return body

    async def put_state(
        self, address: str, body: bytes, *, token: str | None, timeout_seconds: float
    ) -> None:
        """See Pods."""
        async with (
            _within(timeout_seconds),
            self._session.post(
                f"http://{address}/state",
                data=io.BytesIO(body),
                headers=_state_headers(token) | {"Content-Type": "application/json"},
                allow_redirects=False,
            ) as reply,
        ):
            answer = await _read(reply.content)
        if reply.status != _WELL:
            raise _refusal("POST", reply.status, answer)

    async def read_its_state(self, address: str, *, timeout_seconds: float) -> bool | None:
        """See Pods."""
        try:
            async with (
                _within(timeout_seconds),
                self._session.get(
                    f"http://{address}/metrics",
                    headers={"Connection": "close"},
                    allow_redirects=False,
                ) as reply,
            ):
                body = await _read(reply.content, _METRICS_BYTES_MAX)
        except PodUnreachable:
            return None
        return _state_was_read(body) if reply.status == _WELL else None

    async def _get(self, address: str, path: str, *, last: bool = False) -> _Reply:
        """GET, without following redirects; the `last` request of a visit ends the connection.

        A new one for each visit proves that the pod still accepts, and idle ones do not add up
        by the thousand. One for both requests saves a third of the work.
        """
        headers = {"Connection": "close"} if last else {}
        async with self._session.get(
            f"http://{address}{path}", headers=headers, allow_redirects=False
        ) as reply:
            version = reply.headers.get(SDK_VERSION_HEADER, "")
            return _Reply(
                status=reply.status,
                body=await _read(reply.content),
                sdk_version=_clean(version, _SDK_VERSION_CHARACTERS_MAX) or None,
            )


@asynccontextmanager
async def _within(timeout_seconds: float) -> AsyncIterator[None]:
    """One visit to a pod; whatever goes wrong comes out as PodUnreachable."""
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError as error:
        raise PodUnreachable(f"no answer within {timeout_seconds:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise PodUnreachable(_clean(_reason(error))) from error


def _state_headers(token: str | None) -> dict[str, str]:
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {"Connection": "close"} | authorization


async def _read(content: aiohttp.StreamReader, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The first bytes. A connection with more to come is closed when it is given back."""
    body = bytearray()
    while chunk := await content.read(bytes_max - len(body)):
        body += chunk
    return bytes(body)


def _refusal(method: str, status: int, body: bytes) -> PodRefused:
    try:
        said = _clean(_error_body.decode(body).error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = ""
    if _TOO_LARGE_WORDS in said.lower():
        status = _TOO_LARGE
    message = f"{method} /state answered {status}" + (f": {said}" if said else "")
    return PodRefused(status, message, final=status in _FINAL)


def _answer(ready: _Reply, health: _Reply) -> PodAnswer:
    """The statuses decide, as for a kubelet; bodies only explain."""
    complaints = [*_complaints("/ready", ready), *_complaints("/health", health)]
    return PodAnswer(
        ready=ready.status == _WELL,
        healthy=health.status == _WELL,
        message="; ".join(complaints) or "ready and healthy",
        sdk_version=health.sdk_version,
    )


def _complaints(path: str, reply: _Reply) -> list[str]:
    if reply.status == _WELL:
        return []
    reason = _message(reply.body) if reply.status == _NOT_WELL else ""
    return [f"{path} answered {reply.status}" + (f": {reason}" if reason else "")]


def _message(body: bytes) -> str:
    """What the body says is wrong; nothing, when it is not in the client library's form."""
    try:
        return _clean(_probe_body.decode(body).message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _state_was_read(body: bytes) -> bool | None:
    if _STATE_LOAD.search(body):
        return True
    return False if _STATE_LOAD_KNOWN in body else None


def _reason(error: Exception) -> str:
    """aiohttp's own words, where they suit somebody who asks why a pod is unreachable."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it ended the connection without an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"its answer is not HTTP: {error.message}"
    return str(error) or type(error).__name__


def _clean(text: str, characters_max: int = _MESSAGE_CHARACTERS_MAX) -> str:
    """Short, and fit for a log line, a page and a terminal."""
    printable = "".join(c if c.isprintable() else " " for c in text[:characters_max])
    return " ".join(printable.split())
