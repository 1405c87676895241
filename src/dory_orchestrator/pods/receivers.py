"""The HTTP servers that webhooks name: programs of somebody else, as pods are.

Whatever one answers costs us its time limit, 4 KiB of body and one connection.
"""

import asyncio
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from dory_orchestrator.ports import WebhookReply, WebhookUnreachable

_BODY_BYTES_MAX = 4 * 1024
_REASON_CHARACTERS_MAX = 200
# Enough for a burst. Of what is kept longer the receiver may have ended it, which is a failure.
_KEEP_ALIVE_SECONDS = 2.0


class HttpReceivers:
    """The port `WebhookSender` over HTTP. Made where an event loop runs; ends with `close`."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            # What is not compressed cannot grow beyond what was read.
            headers={"Accept-Encoding": "identity", "User-Agent": "dory-orchestrator"},
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(),  # none: each delivery has one limit of its own
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def send(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float
    ) -> WebhookReply:
        """See WebhookSender."""
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._session.post(
                    url, data=io.BytesIO(body), headers=headers, allow_redirects=False
                ) as reply,
            ):
                await _skim(reply.content)
                return WebhookReply(reply.status, _wish(reply.headers.get("Retry-After")))
        except TimeoutError as error:
            raise WebhookUnreachable(f"no answer within {timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WebhookUnreachable(_reason(error)) from error


async def _skim(content: aiohttp.StreamReader) -> None:
    """So that the connection can be used again, unless there is more: then it is closed."""
    left = _BODY_BYTES_MAX
    while left > 0 and (chunk := await content.read(left)):
        left -= len(chunk)


def _wish(text: str | None) -> float | None:
    """Seconds of a Retry-After, which is a number or a moment; None when it is neither."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal():
        return float(text[:18])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()


def _reason(error: Exception) -> str:
    """In words that hold no URL: in its query there may be a key."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it ended the connection without an answer"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _clean(f"its certificate is not accepted: {error.certificate_error}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return _clean(f"no connection: {error.os_error.strerror or error.os_error}")
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return _clean(f"the connection broke: {type(error).__name__}")
    return _clean(f"its answer is not HTTP: {type(error).__name__}")


def _clean(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:_REASON_CHARACTERS_MAX]
