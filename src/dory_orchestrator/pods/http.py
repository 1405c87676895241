"""The HTTP servers of pods, asked as a kubelet asks them.

A pod is a program of somebody else. Whatever it sends costs us its time limit, 64 KiB of body
and one connection, and spoils no answer but its own.
"""

import asyncio
from dataclasses import dataclass

import aiohttp
import msgspec

from dory_orchestrator.ports import PodAnswer, PodUnreachable

BODY_BYTES_MAX = 64 * 1024
SDK_VERSION_HEADER = "X-Dory-SDK-Version"
_SDK_VERSION_CHARACTERS_MAX = 64
_MESSAGE_CHARACTERS_MAX = 200
_WELL = 200
_NOT_WELL = 503
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
        try:
            async with asyncio.timeout(timeout_seconds):
                ready = await self._get(address, "/ready")
                health = await self._get(address, "/health", last=True)
        except TimeoutError as error:
            raise PodUnreachable(f"no answer within {timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PodUnreachable(_clean(_reason(error))) from error
        return _answer(ready, health)

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


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The first 64 KiB. A connection with more to come is closed when it is given back."""
    body = bytearray()
    while chunk := await content.read(BODY_BYTES_MAX - len(body)):
        body += chunk
    return bytes(body)


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
