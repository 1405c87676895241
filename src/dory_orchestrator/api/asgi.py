"""Between ASGI and our handlers: bodies in, JSON out, every error as JSON."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dory_orchestrator.api.bodies import BODY_BYTES_MAX, ErrorAnswer, NodeCandidate
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import EdgeNodeAmbiguous

_log = get_logger(__name__)
_SLASHES = re.compile(r"/{2,}")
# What we read and throw away of a body that is too large, so that its sender, still busy
# sending, gets to read our 413: a connection closed with unread data is reset.
_DISCARD_BYTES_MAX = 16 * 1024 * 1024
_DISCARD_SECONDS = 1.0

encode = msgspec.json.Encoder().encode


class BodyTooLarge(Exception):
    """The body exceeds the limit. Answered with 413, and the connection is closed."""


class ClientGone(Exception):
    """The client went away, or was cut off, before its request was complete."""


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer from one of the types in `bodies`."""
    return Response(encode(content), status, headers, media_type="application/json")


def error_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """`{"error": text}`, as everywhere."""
    return json_response(ErrorAnswer(text), status, headers)


def ambiguous_response(error: EdgeNodeAmbiguous) -> Response:
    """Which nodes may be meant, beside the error."""
    found = [NodeCandidate(one.organization_id, one.id, one.status) for one in error.candidates]
    return json_response(ErrorAnswer(str(error), found), 409)


async def read_body(scope: Scope, receive: Receive, limit: int = BODY_BYTES_MAX) -> bytes:
    """The whole body. Raises BodyTooLarge, ClientGone; time is bounded by the server."""
    declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    if len(declared) > 9 or int(declared) > limit:
        raise BodyTooLarge
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge
        return body
    return await _collect(message, receive, limit)


async def _collect(message: Message, receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()


class TooLargeResponse(Response):
    """413; closes the connection, but not before the client could read why."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                await _discard(receive)
        except TimeoutError:
            _log.debug("a body that is too large did not end")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    discarded = 0
    while discarded < _DISCARD_BYTES_MAX:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
        discarded += len(message.get("body", b""))


def too_large() -> Response:
    """The answer to a body beyond the limit."""
    return TooLargeResponse(
        encode(ErrorAnswer(f"body: larger than {BODY_BYTES_MAX} bytes")),
        413,
        {"connection": "close"},
        media_type="application/json",
    )


class SingleSlashes:
    """`//api/v1/...` works: clients append the path to a URL that ends with a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "//" in scope["path"]:
            scope = {**scope, "path": _SLASHES.sub("/", scope["path"])}
        await self._app(scope, receive, send)


async def on_http_exception(_request: Request, error: HTTPException) -> Response:
    """404 and 405 of the router."""
    return error_response(error.status_code, error.detail, error.headers)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours: told to the log in full, to the client not at all."""
    _log.error("unexpected error", path=request.url.path, method=request.method, exc_info=error)
    return error_response(500, "internal error")


async def on_client_gone(_request: Request, _error: Exception) -> Response:
    """Nobody reads this; the router wants an answer."""
    return error_response(400, "body: incomplete")


async def on_too_large(_request: Request, _error: Exception) -> Response:
    """A body beyond the limit, in any handler."""
    return too_large()


def handlers() -> dict[Any, Any]:
    """Exception handlers for the application."""
    return {
        HTTPException: on_http_exception,
        BodyTooLarge: on_too_large,
        ClientGone: on_client_gone,
        Exception: on_unexpected,
    }
