"""Receivers of webhooks over real connections: what they answer, and what bad ones cost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from tests.patience import patient

from dory_orchestrator.pods.receivers import HttpReceivers
from dory_orchestrator.ports import WebhookReply, WebhookUnreachable

pytestmark = pytest.mark.real

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def receivers() -> AsyncIterator[HttpReceivers]:
    receivers = HttpReceivers()
    yield receivers
    await receivers.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A receiver's server; yields its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}/in?key=geheim"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw(*answer: bytes, end: bool = True) -> AsyncIterator[str]:
    """Something that answers whatever it likes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in answer:
            writer.write(part)
        await writer.drain()
        if not end:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/in?key=geheim"
    finally:
        server.close()


async def test_body_and_headers_arrive_as_they_are(receivers):
    got: list[tuple[str, str, bytes, str | None]] = []

    async def handle(request: web.Request) -> web.Response:
        signed = request.headers.get("dory-webhook-signature")
        got.append((request.method, request.path_qs, await request.read(), signed))
        assert request.headers["content-type"] == "application/json"
        assert request.headers["user-agent"] == "dory-orchestrator"
        return web.Response(status=202)

    headers = {"content-type": "application/json", "dory-webhook-signature": "v1=00"}
    async with serving(handle) as url:
        reply = await receivers.send(url, b'{"a":1}', headers, timeout_seconds=patient(5))
        assert reply == WebhookReply(202, None)
    assert got == [("POST", "/in?key=geheim", b'{"a":1}', "v1=00")]


async def test_redirects_are_not_followed(receivers):
    paths = []

    async def handle(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with serving(handle) as url:
        assert (await receivers.send(url, b"", {}, timeout_seconds=patient(5))).status == 307
    assert paths == ["/in"]


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        ("9" * 400, 9e17, 1e18),
        (timedelta(hours=1), 3500, 3600),
        (timedelta(hours=-1), -3700, -3600),
    ],
)
async def test_a_wish_for_patience(receivers, text, least, most):
    if isinstance(text, timedelta):
        text = format_datetime(datetime.now(UTC) + text, usegmt=True)

    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": text})

    async with serving(handle) as url:
        status, wished = await receivers.send(url, b"", {}, timeout_seconds=patient(5))
    assert status == 429
    assert least <= wished <= most


@pytest.mark.parametrize("text", ["soon", "-5", "1.5", "٣", ""])
async def test_what_is_no_wish(receivers, text):
    async with raw(
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: ", text.encode(), b"\r\n\r\n"
    ) as url:
        assert await receivers.send(url, b"", {}, timeout_seconds=patient(5)) == WebhookReply(
            503, None
        )


async def test_of_a_body_no_more_than_4_kib_is_read(receivers):
    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65_536)

    async with serving(handle) as url:
        # Of a whole body it would hear no end.
        assert (await receivers.send(url, b"", {}, timeout_seconds=patient(5))).status == 200


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123"])
async def test_one_that_hangs_costs_its_time_limit(receivers, part):
    async with raw(part, end=False) as url:
        async with asyncio.timeout(patient(2)):
            with pytest.raises(WebhookUnreachable, match=r"^no answer within 0\.2 s$"):
                await receivers.send(url, b"", {}, timeout_seconds=0.2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "it ended the connection without an answer"),
        (b"SSH-2.0-x\r\n\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123", "the connection broke|not HTTP"),
    ],
)
async def test_what_is_no_answer(receivers, answer, said):
    async with raw(answer) as url:
        with pytest.raises(WebhookUnreachable, match=said) as caught:
            await receivers.send(url, b"", {}, timeout_seconds=patient(5))
    assert "geheim" not in str(caught.value)


async def test_nobody_is_there(receivers):
    with pytest.raises(WebhookUnreachable, match="no connection: ") as caught:
        await receivers.send(
            "http://127.0.0.1:1/in?key=geheim", b"", {}, timeout_seconds=patient(5)
        )
    assert "geheim" not in str(caught.value)


async def test_no_certificate_is_taken_on_trust(receivers):
    async with raw(b"\x15\x03\x01\x00\x02\x02\x28") as url:
        with pytest.raises(WebhookUnreachable):
            await receivers.send(
                url.replace("http:", "https:"), b"", {}, timeout_seconds=patient(5)
            )


async def test_connections_are_used_again(receivers):
    peers = set()

    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=b"x" * 100)

    async with serving(handle) as url:
        for _ in range(5):
            await receivers.send(url, b"{}", {}, timeout_seconds=patient(5))
    assert len(peers) == 1
