"""Promise S9 over real connections: nothing that a client sends stops or slows the service for
others, and nothing of a client stays behind.

A real server on a loopback socket, on the loop that it has in production, with small limits.
Beside every hostile client a neighbour beats all the while; after every test nothing may be left.
"""

import asyncio
import contextlib
import gc
import json
import resource
import socket
import struct
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

import psutil
import pytest
import uvloop
from tests.doubles import MemoryStore, Processor
from tests.patience import patient

from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.edge import EdgeApi
from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.api.health import Health, database_check
from dory_orchestrator.api.protocol import Connections, bounded
from dory_orchestrator.api.server import Server, listen, make_server
from dory_orchestrator.api.service import build
from dory_orchestrator.metrics import Metrics

pytestmark = pytest.mark.real

READ_SECONDS = 0.5
LINGER_SECONDS = 2.0  # how long the server waits for a peer to read the reason of its refusal
HEADERS_MAX = 32 * 1024
BODY_MAX = 64 * 1024
ONE_READ_MAX = 256 * 1024  # what the event loop reads at once
NEIGHBOUR_CPU_SECONDS_MAX = 1.0  # everything of a test runs in one thread
WAIT_SECONDS = 5.0
OPEN_FILES_WANTED = 11_000

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: o\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: o\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n"
BEAT_HEAD = b"POST /api/v1/edge/heartbeat HTTP/1.1\r\nHost: o\r\n"


def beat_request(body: bytes = b"{}", headers: bytes = b"") -> bytes:
    return BEAT_HEAD + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked_beat(*chunks: bytes) -> bytes:
    return BEAT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


async def eventually(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(patient(seconds)):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Answer:
    """An HTTP answer as the client read it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The text of an error body, which is JSON and holds nothing else."""
        assert self.headers["content-type"] == "application/json"
        content = json.loads(self.body)
        assert content.keys() == {"error"}
        return str(content["error"])


class Client:
    """A raw connection: it sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.writer.get_extra_info("sockname")
        return host, port

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def send_without_end(self, piece: bytes, pause_seconds: float = 0.0) -> None:
        """Until the other side does not want it any more."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(patient(WAIT_SECONDS)):
                while not self.writer.is_closing():
                    await self.send(piece)
                    await asyncio.sleep(pause_seconds)

    async def answer(self) -> Answer:
        """The next answer. Raises IncompleteReadError, ConnectionError when there is none."""
        async with asyncio.timeout(patient(WAIT_SECONDS)):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head.decode("latin-1").rstrip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(status_line.split()[1]), headers, body)

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """Everything until the connection ends; proves that it ends."""
        read = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(patient(WAIT_SECONDS)):
                while piece := await self.reader.read(65_536):
                    read += piece
        return read

    async def refusal(self) -> Answer | None:
        """The one answer before the end; None when there is only the end."""
        try:
            answer = await self.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        assert await self.rest() == b""
        return answer

    def reset(self) -> None:
        """Go away without a word: the server sees a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass(frozen=True)
class Limits:
    """Small, so that the tests are quick."""

    connections_max: int = 20_000
    read_seconds: float = READ_SECONDS
    keep_alive_seconds: float = 3_600.0
    tokens: tuple[str, ...] = ()


@dataclass
class Site:
    """A running server and what a test sees of it."""

    server: Server
    shared: Connections
    store: MemoryStore
    metrics: Metrics
    health: Health
    address: tuple[str, int]
    made: "list[weakref.ref[Any]]"
    read: dict[tuple[str, int], int]
    clients: list[Client] = field(default_factory=list)

    async def connect(self, receive_buffer: int | None = None) -> Client:
        """A new connection; a small receive buffer for clients that do not read."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        client = Client(*await asyncio.open_connection(sock=sock))
        self.clients.append(client)
        return client

    def connection(self, client: Client) -> Any:
        """The server's end of it."""
        every: set[Any] = set(self.server.server_state.connections)
        return next((c for c in every if c.client == client.address), None)

    async def accepted(self, client: Client) -> Any:
        await eventually(lambda: self.connection(client))
        return self.connection(client)

    def closed(self, reason: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "dory_http_connections_closed_total", {"reason": reason}
        )
        return value or 0.0

    def processor(self) -> str:
        key = uuid4()
        self.store.processors[key] = Processor()
        return str(key)


class Neighbour:
    """Beats all the while, over one connection, and remembers how much was done for others before it was answered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._request = beat_request()
        self.statuses: list[int] = []
        self.slowest_cpu_seconds = 0.0

    async def beat_for_ever(self) -> None:
        while True:
            began_at = time.thread_time()
            self.statuses.append((await self._client.ask(self._request)).status)
            cost = time.thread_time() - began_at
            self.slowest_cpu_seconds = max(self.slowest_cpu_seconds, cost)
            await asyncio.sleep(0.01)


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop of production."""
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections() -> Iterator[None]:
    """What was there before is not looked at each time that a test looks for leaks."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def limits() -> Limits:
    """Override to have others."""
    return Limits()


@pytest.fixture
async def site(limits: Limits) -> AsyncIterator[Site]:
    """The server alone. When the test is over, nothing of any client may be left."""
    before = asyncio.all_tasks()
    async with _serving(limits) as site:
        yield site
        for client in site.clients:
            client.writer.close()
        await eventually(lambda: not site.server.server_state.connections)
        await eventually(lambda: not site.server.server_state.tasks)
        assert site.shared.idle == {}
        assert site.metrics.registry.get_sample_value("dory_http_connections") == 0
    await eventually(lambda: asyncio.all_tasks() - {asyncio.current_task()} <= before)
    # Timers included: one that still waits would hold its connection.
    site.clients.clear()
    gc.collect()
    assert [alive() for alive in site.made if alive() is not None] == []


@contextlib.asynccontextmanager
async def _serving(limits: Limits) -> AsyncIterator[Site]:
    store, metrics = MemoryStore(), Metrics()
    recorder = HeartbeatRecorder(store, metrics=metrics)
    health = Health(metrics)
    health.add("database", database_check(store), readiness=True)
    edge = EdgeApi(recorder=recorder, nodes=store, tokens=Tokens(limits.tokens), metrics=metrics)
    app = build(health=health, render_metrics=metrics.render, edge=edge)
    shared = Connections(
        metrics=metrics, connections_max=limits.connections_max, read_seconds=limits.read_seconds
    )
    server = make_server(app, shared=shared, keep_alive_seconds=75)
    server.config.timeout_keep_alive = limits.keep_alive_seconds  # type: ignore[assignment]
    made, read = _watch(server, shared)
    sock = listen("127.0.0.1", 0)
    address = sock.getsockname()
    recording = asyncio.create_task(recorder.run())
    # What `serve` does, without its pauses of a tenth of a second.
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[sock])
    await server.on_tick(0)
    yield Site(server, shared, store, metrics, health, address, made, read)
    for listening in server.servers:
        listening.close()
        await listening.wait_closed()
    recorder.close()
    await recording


def _watch(
    server: Server, shared: Connections
) -> "tuple[list[weakref.ref[Any]], dict[tuple[str, int], int]]":
    """Have the server tell of every connection object, and of what it reads."""
    made: list[weakref.ref[Any]] = []
    read: dict[tuple[str, int], int] = {}
    protocol: Any = bounded(shared)

    class Watched(protocol):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing():
                read[self.client] = read.get(self.client, 0) + len(data)
            super().data_received(data)

    server.config.http = Watched
    return made, read


@pytest.fixture
async def neighbour(site: Site) -> AsyncIterator[Neighbour]:
    """Got a fast 200 for each beat, whatever the others did."""
    neighbour = Neighbour(await site.connect())
    beating = asyncio.create_task(neighbour.beat_for_ever())
    await eventually(lambda: neighbour.statuses)
    yield neighbour
    seen = len(neighbour.statuses)
    await eventually(lambda: len(neighbour.statuses) > seen + 2 or beating.done())
    assert not beating.done()
    beating.cancel()
    await asyncio.wait([beating])
    assert set(neighbour.statuses) == {200}
    assert neighbour.slowest_cpu_seconds < NEIGHBOUR_CPU_SECONDS_MAX


beside_a_neighbour = pytest.mark.usefixtures("neighbour")


async def _seconds(work: Awaitable[object]) -> float:
    began_at = time.monotonic()
    await work
    return time.monotonic() - began_at


@beside_a_neighbour
class TestSlowClients:
    """What comes, comes within the limit."""

    async def test_headers_byte_by_byte_are_408(self, site: Site):
        client = await site.connect()
        for byte in LIVEZ[:-2] * 100:
            if site.closed("slow_headers"):
                break
            with contextlib.suppress(ConnectionError):
                await client.send(bytes([byte]))
            await asyncio.sleep(0.05)
        answer = await client.refusal()
        assert answer is None or answer.status == 408
        assert site.closed("slow_headers") == 1

    async def test_headers_that_stop_are_408(self, site: Site):
        client = await site.connect()
        await client.send(BEAT_HEAD)
        answer = await client.refusal()
        assert answer is not None
        assert answer.status == 408
        assert answer.error.startswith("headers: ")
        assert answer.headers["connection"] == "close"

    async def test_a_body_byte_by_byte_is_408(self, site: Site):
        client = await site.connect()
        await client.send(BEAT_HEAD + b"Content-Length: 1000\r\n\r\n")
        began_at = time.monotonic()
        while not site.closed("slow_body") and time.monotonic() < began_at + patient(READ_SECONDS):
            with contextlib.suppress(ConnectionError):
                await client.send(b" ")
            await asyncio.sleep(0.05)
        assert site.closed("slow_body") == 1
        assert time.monotonic() - began_at > READ_SECONDS * 0.8

    async def test_a_body_that_stops_half_way_is_408(self, site: Site):
        client = await site.connect()
        answer = await client.ask(BEAT_HEAD + b"Content-Length: 10\r\n\r\n{}")
        assert answer.status == 408
        assert answer.error.startswith("body: ")
        assert await client.rest() == b""

    async def test_a_second_request_that_stops_is_cut_off_like_a_first_one(self, site: Site):
        client = await site.connect()
        assert (await client.ask(beat_request())).status == 200
        await client.send(BEAT_HEAD)
        answer = await client.refusal()
        assert answer is not None
        assert answer.status == 408

    async def test_a_body_that_nobody_asked_for_is_bounded_too(self, site: Site):
        """Answered before its body is there; the body then never comes."""
        client = await site.connect()
        answer = await client.ask(b"POST /nowhere HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        assert answer.status == 404
        assert await client.rest() == b"", "a second answer to one request"
        assert site.closed("slow_body") == 1

    async def test_a_slow_handler_is_not_the_clients_fault(self, site: Site):
        """The request is complete and waits for its batch longer than the limit for reading."""
        site.store.hold = asyncio.Event()
        client = await site.connect()
        body = json.dumps({"processor_id": site.processor()}).encode()
        await client.send(beat_request(body))
        await asyncio.sleep(READ_SECONDS * 2)  # the time itself is what is tested
        assert site.connection(client) is not None
        site.store.hold.set()
        answer = await client.answer()
        assert answer.status == 200
        assert json.loads(answer.body)["acknowledged"] is True

    async def test_an_earlier_request_may_hold_up_a_later_one(self, site: Site):
        """Reading is paused meanwhile: the later one could not arrive if it wanted to."""
        site.store.hold = asyncio.Event()
        client = await site.connect()
        body = json.dumps({"processor_id": site.processor()}).encode()
        await client.send(beat_request(body) + BEAT_HEAD + b"Content-Length: 2\r\n\r\n{")
        await asyncio.sleep(READ_SECONDS * 1.5)  # the time itself is what is tested
        site.store.hold.set()
        assert (await client.answer()).status == 200
        assert (await client.ask(b"}")).status == 200


@beside_a_neighbour
class TestEndlessClients:
    """What has no end is cut where the limit is, and little of it is kept."""

    async def test_one_endless_header_line_is_cut(self, site: Site):
        client = await site.connect()
        await client.send(b"GET /livez HTTP/1.1\r\nX-Long: ")
        await client.send_without_end(b"a" * 65_536)
        answer = await client.refusal()
        assert answer is None or answer.status == 431
        assert site.read[client.address] <= HEADERS_MAX + ONE_READ_MAX

    async def test_endless_many_headers_are_cut(self, site: Site):
        client = await site.connect()
        await client.send(b"GET /livez HTTP/1.1\r\n")
        await client.send_without_end(b"X-Many: 1\r\n" * 5_000)
        answer = await client.refusal()
        assert answer is None or answer.status == 431
        assert site.read[client.address] <= HEADERS_MAX + ONE_READ_MAX

    @pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["open", "complete"])
    async def test_headers_a_little_beyond_the_limit_are_told_so(self, site: Site, end):
        client = await site.connect()
        answer = await client.ask(b"GET /livez HTTP/1.1\r\nX-A: " + b"a" * HEADERS_MAX + end)
        assert answer.status == 431
        assert answer.error == "headers: larger than 32768 bytes"
        assert await client.rest() == b""

    async def test_a_very_long_url_is_431(self, site: Site):
        client = await site.connect()
        answer = await client.ask(b"GET /" + b"a" * HEADERS_MAX + b" HTTP/1.1\r\n\r\n")
        assert answer.status == 431
        assert answer.error

    async def test_a_long_url_within_the_limit_is_404(self, site: Site):
        client = await site.connect()
        answer = await client.ask(b"GET /" + b"/a" * 8_000 + b" HTTP/1.1\r\n\r\n")
        assert answer.status == 404

    async def test_what_stands_between_two_headers_is_not_counted_as_headers(self, site: Site):
        client = await site.connect()
        await client.send(beat_request(b"{}" + b" " * 60_000) + BEAT_HEAD)
        assert (await client.answer()).status == 200
        assert (await client.ask(b"Content-Length: 2\r\n\r\n{}")).status == 200

    async def test_one_endless_trailer_is_cut(self, site: Site):
        client = await site.connect()
        await client.send(chunked_beat(b"2\r\n{}\r\n0\r\nX-Trailer: "))
        await client.send_without_end(b"a" * 65_536)
        answer = await client.refusal()
        assert answer is None or answer.status in (431, 413)
        assert site.read[client.address] <= 2 * (HEADERS_MAX + ONE_READ_MAX)

    async def test_endless_many_trailers_are_cut(self, site: Site):
        client = await site.connect()
        await client.send(chunked_beat(b"2\r\n{}\r\n0\r\n"))
        await client.send_without_end(b"X-Trailer: a\r\n" * 1_000)
        await client.refusal()
        assert site.read[client.address] <= 2 * (HEADERS_MAX + ONE_READ_MAX)

    async def test_an_endless_chunk_extension_is_cut(self, site: Site):
        client = await site.connect()
        await client.send(chunked_beat(b"2;"))
        await client.send_without_end(b"a" * 65_536)
        await client.refusal()
        assert site.read[client.address] <= 2 * (HEADERS_MAX + ONE_READ_MAX)

    async def test_a_trailer_is_not_a_header(self, site: Site):
        client = await site.connect()
        answer = await client.ask(
            chunked_beat(b"2\r\n{}\r\n0\r\nContent-Length: abc\r\nExpect: 100-continue\r\n\r\n")
        )
        assert answer.status in (200, 400)

    @pytest.mark.parametrize("headers", [b"", b"Expect: 100-continue\r\n"], ids=["", "expect"])
    async def test_10_mb_are_refused_before_they_are_sent(self, site: Site, headers):
        client = await site.connect()
        answer = await client.ask(BEAT_HEAD + headers + b"Content-Length: 10000000\r\n\r\n")
        assert answer.status == 413
        assert answer.error == "body: larger than 65536 bytes"
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""

    @pytest.mark.parametrize("size", [BODY_MAX + 1, 1_000_000, 10_000_000])
    async def test_a_client_that_sends_its_whole_large_body_can_read_the_413(
        self, site: Site, size
    ):
        client = await site.connect()
        await client.send(beat_request(b" " * size))
        answer = await client.answer()
        assert answer.status == 413
        assert answer.error
        assert await client.rest() == b""

    async def test_after_a_413_an_endless_sender_is_cut(self, site: Site):
        client = await site.connect()
        await client.send(BEAT_HEAD + b"Content-Length: 999999999\r\n\r\n")
        await client.send_without_end(b" " * 16_384, 0.01)

    async def test_a_chunked_body_without_end_is_413(self, site: Site):
        client = await site.connect()
        await client.send(chunked_beat())
        chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
        for _ in range(20):
            await client.send(chunk)
        answer = await client.answer()
        assert answer.status == 413
        assert answer.error
        await client.send_without_end(chunk)
        await client.rest()

    async def test_a_chunked_body_in_tiny_chunks_is_read_like_any_other(self, site: Site):
        client = await site.connect()
        body = json.dumps({"processor_id": site.processor(), "role": "x" * 500}).encode()
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        answer = await client.ask(chunked_beat(chunks, b"0\r\n\r\n"))
        assert answer.status == 200
        assert json.loads(answer.body)["acknowledged"] is True

    async def test_empty_lines_for_ever_do_not_hold_anything_up(self, site: Site):
        client = await site.connect()
        await client.send(b"\r\n" * 100_000)
        assert (await client.ask(LIVEZ)).status == 200


@beside_a_neighbour
class TestClientsThatDoNotRead:
    """Their answers wait in a bounded place for a bounded time."""

    async def test_a_client_that_never_reads_is_cut_off(self, site: Site):
        client = await site.connect(receive_buffer=4096)
        connection = await site.accepted(client)
        sending = asyncio.create_task(client.send_without_end(METRICS * 20))
        largest = longest = 0
        async with asyncio.timeout(patient(WAIT_SECONDS)):
            while site.connection(client) is not None:
                largest = max(largest, connection.transport.get_write_buffer_size())
                longest = max(longest, len(connection.pipeline))
                await asyncio.sleep(0.005)
        await sending
        assert site.closed("not_reading") + site.closed("pipelined") == 1
        assert largest < 2 * 65_536
        assert longest <= 100

    async def test_a_client_that_never_reads_is_cut_off_at_its_last_request_too(self, site: Site):
        """What is left to send is below the mark at which the server stops writing."""
        client = await site.connect(receive_buffer=4096)
        connection = await site.accepted(client)
        await self._fill(client, connection)
        await client.send(LAST)
        await eventually(lambda: site.connection(client) is None)

    async def test_half_a_farewell_does_not_keep_a_connection(self, site: Site):
        client = await site.connect(receive_buffer=4096)
        connection = await site.accepted(client)
        site.store.hold = asyncio.Event()
        await self._fill(client, connection)
        await client.send(beat_request(json.dumps({"processor_id": site.processor()}).encode()))
        await eventually(lambda: connection.cycle and not connection.cycle.response_complete)
        client.writer.write_eof()
        await eventually(connection.transport.is_closing)
        site.store.hold.set()
        await eventually(lambda: site.connection(client) is None)

    async def _fill(self, client: Client, connection: Any) -> None:
        """Until some of an answer waits in the server's own memory."""
        async with asyncio.timeout(patient(WAIT_SECONDS)):
            while not connection.transport.get_write_buffer_size():
                answered = connection.server_state.total_requests
                await client.send(METRICS)
                while connection.server_state.total_requests <= answered:
                    await asyncio.sleep(0.001)

    async def test_many_pipelined_requests_at_once_are_cut(self, site: Site):
        """Each would cost a hundred times its 19 bytes in the server's memory."""
        client = await site.connect()
        await client.send(b"GET /livez HTTP/1.1\r\n\r\n" * 5_000)
        assert len((await client.rest()).split(b"HTTP/1.1 200")) < 200
        assert site.closed("pipelined") == 1

    async def test_a_few_pipelined_requests_are_answered_in_order(self, site: Site):
        client = await site.connect()
        await client.send(beat_request() + LIVEZ + beat_request(b"[]") + LIVEZ)
        assert [(await client.answer()).status for _ in range(4)] == [200, 200, 400, 200]


MOMENTS = {
    "before-a-byte": b"",
    "in-the-first-line": b"POST /api",
    "in-the-headers": BEAT_HEAD,
    "in-the-body": BEAT_HEAD + b"Content-Length: 10\r\n\r\n{",
    "in-a-chunk": chunked_beat(b"10\r\n{"),
    "between-chunks": chunked_beat(b"1\r\n{\r\n"),
}


@beside_a_neighbour
class TestClientsThatGoAway:
    """At every moment, politely and not."""

    @pytest.mark.parametrize("sent", MOMENTS.values(), ids=MOMENTS.keys())
    @pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
    async def test_nothing_of_it_is_left(self, site: Site, sent, leave):
        client = await site.connect()
        await client.send(sent)
        connection = await site.accepted(client)
        await eventually(lambda: site.read.get(client.address, 0) == len(sent))
        {
            "close": client.writer.close,
            "reset": client.reset,
            "half-close": client.writer.write_eof,
        }[leave]()
        await eventually(lambda: connection not in site.server.server_state.connections)

    @pytest.mark.parametrize("leave", ["close", "reset"])
    async def test_before_the_answer(self, site: Site, leave):
        """What it said is recorded all the same."""
        site.store.hold = asyncio.Event()
        client = await site.connect()
        connection = await site.accepted(client)
        await client.send(beat_request(json.dumps({"processor_id": site.processor()}).encode()))
        await eventually(lambda: connection.cycle is not None)
        (client.reset if leave == "reset" else client.writer.close)()
        await eventually(lambda: connection not in site.server.server_state.connections)
        site.store.hold.set()
        await eventually(lambda: sum(map(len, site.store.batches)) == 1)


GARBAGE = {
    "noise": bytes(range(256)) * 4,
    "text": b"hello, is anybody there?\r\n\r\n",
    "tls-hello": bytes.fromhex("16030100c8010000c40303") + b"\x11" * 200,
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-7": b"GET /livez HTTP/7.3\r\n\r\n",
    "nul-in-path": b"GET /livez\x00/x HTTP/1.1\r\n\r\n",
    "bytes-in-path": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "nul-in-header": b"GET /livez HTTP/1.1\r\nX-A: \x00\r\n\r\n",
    "no-url": b"GET  HTTP/1.1\r\n\r\n",
    "bad-url": b"GET http://[::1 HTTP/1.1\r\n\r\n",
    "upgrade-with-a-body": beat_request(b"{}", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
    "upgrade-with-chunks": BEAT_HEAD
    + b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n",
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "unknown-method": b"BREW /livez HTTP/1.1\r\n\r\n",
    "lower-case-method": b"get /livez HTTP/1.1\r\n\r\n",
    "space-before-colon": b"GET /livez HTTP/1.1\r\nHost : o\r\n\r\n",
    "folded-header": b"GET /livez HTTP/1.1\r\n X-A: 1\r\n\r\n",
    "length-negative": BEAT_HEAD + b"Content-Length: -1\r\n\r\n",
    "length-text": BEAT_HEAD + b"Content-Length: two\r\n\r\n{}",
    "length-plus": BEAT_HEAD + b"Content-Length: +2\r\n\r\n{}",
    "length-empty": BEAT_HEAD + b"Content-Length:\r\n\r\n{}",
    "length-list": BEAT_HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "length-underscore": BEAT_HEAD + b"Content-Length: 1_0\r\n\r\n{}",
    "length-beyond-64-bits": BEAT_HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "lengths-conflicting": BEAT_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "length-and-chunked": BEAT_HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-and-length": BEAT_HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "chunked-not-last": BEAT_HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunk-size-garbage": chunked_beat(b"xyz\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-negative": chunked_beat(b"-2\r\n{}\r\n0\r\n\r\n"),
    "chunk-size-beyond-64-bits": chunked_beat(b"f" * 17 + b"\r\n"),
    "chunk-longer-than-said": chunked_beat(b"2\r\n{}{}\r\n0\r\n\r\n"),
}


@beside_a_neighbour
class TestWhatIsNotHttp:
    """A 400 that says so, or the end; never a 500, and never a second meaning."""

    @pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE.keys())
    async def test_garbage_is_4xx_and_the_end(self, site: Site, sent):
        client = await site.connect()
        await client.send(sent)
        answer = await client.refusal()
        if answer is not None:
            assert 400 <= answer.status < 500
            assert answer.error

    @pytest.mark.parametrize("sent", [GARBAGE["tls-hello"], GARBAGE["text"]], ids=["tls", "text"])
    async def test_garbage_is_told_so(self, site: Site, sent):
        answer = await (await site.connect()).ask(sent)
        assert answer.status == 400
        assert answer.error == "Invalid HTTP request received."

    async def test_garbage_behind_a_request_does_not_replace_its_answer(self, site: Site):
        """The refusal of a later request must not be read as the answer to an earlier one."""
        site.store.hold = asyncio.Event()
        client = await site.connect()
        body = json.dumps({"processor_id": site.processor()}).encode()
        await client.send(beat_request(body) + b"\x16\x03\x01 garbage\r\n\r\n")
        answer = await client.refusal()
        site.store.hold.set()
        assert answer is None or answer.status == 200

    async def test_two_equal_lengths_are_one_meaning_or_refused(self, site: Site):
        client = await site.connect()
        answer = await client.ask(BEAT_HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}")
        assert answer.status in (200, 400)


@beside_a_neighbour
class TestOddButAllowed:
    """HTTP has corners; they are answered, and the connection goes on as it should."""

    @pytest.mark.parametrize(
        ("line", "status"),
        [
            (b"GET /a%00b", 404),
            (b"GET /%ff%fe", 404),
            (b"GET /%zz", 404),
            (b"GET /livez?%00=%ff", 200),
            (b"GET http://elsewhere/livez", 200),
            (b"HEAD /api/v1/edge/heartbeat", 405),
            (b"PROPFIND /api/v1/edge/heartbeat", 405),
            (b"TRACE /livez", 405),
            (b"OPTIONS *", 404),
            (b"GET /..//../etc/passwd", 404),
        ],
        ids=lambda value: value.decode() if isinstance(value, bytes) else str(value),
    )
    async def test_paths_and_methods(self, site: Site, line, status):
        client = await site.connect()
        await client.send(line + b" HTTP/1.1\r\n\r\n")
        if line.startswith(b"HEAD"):
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 405")
        else:
            answer = await client.answer()
            assert answer.status == status
            assert status == 200 or answer.error
        assert (await client.ask(LIVEZ)).status == 200

    async def test_each_of_several_heads_in_a_row_is_answered(self, site: Site):
        client = await site.connect()
        head = b"HEAD /livez HTTP/1.1\r\n\r\n"
        await client.send(head + head + LIVEZ + head)
        for bodiless in (True, True, False, True):
            if bodiless:
                answer = await client.reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200")
            else:
                assert (await client.answer()).status == 200
        assert (await client.ask(beat_request())).status == 200

    async def test_expect_100_continue_is_told_to_go_on(self, site: Site):
        client = await site.connect()
        await client.send(BEAT_HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"{}")).status == 200
        assert (await client.ask(LIVEZ)).status == 200

    @pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.2"])
    async def test_an_upgrade_is_not_made(self, site: Site, protocol):
        client = await site.connect()
        headers = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
        answer = await client.ask(
            b"GET /livez HTTP/1.1\r\n" + headers + b"HTTP2-Settings: AAMAAABk\r\n\r\n"
        )
        assert answer.status == 200
        assert (await client.ask(LIVEZ)).status == 200

    async def test_connection_close_is_honoured(self, site: Site):
        client = await site.connect()
        answer = await client.ask(beat_request(headers=b"Connection: close\r\n"))
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""

    @pytest.mark.parametrize(
        "line",
        [b"GET /livez HTTP/1.0\r\nConnection: keep-alive", b"GET /livez"],
        ids=["1.0", "0.9"],
    )
    async def test_older_http_is_answered_and_closed(self, site: Site, line):
        client = await site.connect()
        answer = await client.ask(line + b"\r\n\r\n")
        assert answer.status == 200
        assert await client.rest() == b""


BAD = {
    "nul": b'{"processor_id": "a\\u0000b"}',
    "deep": b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "nan": b'{"timestamp": NaN}',
    "thousand-digits": b'{"epoch": ' + b"9" * 1000 + b"}",
    "twice": b'{"processor_id": "a", "processor_id": "b"}',
    "bad-utf-8": b'{"processor_id": "\xff"}',
    "empty": b"",
    "not-json": b"hello",
}


@beside_a_neighbour
class TestBodies:
    """A bad body is 400; the next one, over the same connection, is read."""

    @pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
    async def test_a_bad_body_leaves_the_connection_usable(self, site: Site, body):
        client = await site.connect()
        answer = await client.ask(beat_request(body))
        assert answer.status == 400
        assert answer.error
        assert (await client.ask(beat_request())).status == 200
        assert site.store.batches == []


class TestRoom:
    """When no more connections fit, the one that is idle longest gives way."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connections_max=3)

    async def _beats(self, site: Site, number: int) -> list[Client]:
        clients = [await site.connect() for _ in range(number)]
        for client in clients:
            assert (await client.ask(beat_request())).status == 200
        return clients

    async def test_the_longest_idle_gives_way(self, site: Site):
        first, second, third = await self._beats(site, 3)
        assert (await first.ask(beat_request())).status == 200
        new = await site.connect()
        assert (await new.ask(beat_request())).status == 200
        assert await second.rest() == b""
        assert (await first.ask(beat_request())).status == 200
        assert (await third.ask(beat_request())).status == 200
        assert site.closed("room") == 1

    async def test_one_that_never_spoke_is_idle_too(self, site: Site):
        silent = await site.connect()
        await site.accepted(silent)
        await self._beats(site, 3)
        assert await silent.rest() == b""

    async def test_an_active_one_does_not_give_way(self, site: Site):
        site.store.hold = asyncio.Event()
        busy = [await self._busy(site) for _ in range(2)]
        (idle,) = await self._beats(site, 1)
        new = await site.connect()
        assert (await new.ask(beat_request())).status == 200
        assert await idle.rest() == b""
        site.store.hold.set()
        assert [(await client.answer()).status for client in busy] == [200, 200]

    async def test_with_all_of_them_busy_the_new_one_is_refused(self, site: Site):
        site.store.hold = asyncio.Event()
        busy = [await self._busy(site) for _ in range(3)]
        assert await (await site.connect()).rest() == b""
        assert site.closed("full") == 1
        site.store.hold.set()
        assert [(await client.answer()).status for client in busy] == [200, 200, 200]

    async def test_one_that_was_answered_before_its_body_came_gives_way(self, site: Site):
        """Such a connection was once in no list at all: three of them closed the service."""
        for _ in range(3):
            client = await site.connect()
            answer = await client.ask(b"POST /nowhere HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
            assert answer.status == 404
            await client.send(b"x")
            await eventually(partial(self._idle, site, client))
        assert (await (await site.connect()).ask(beat_request())).status == 200

    def _idle(self, site: Site, client: Client) -> bool:
        return site.connection(client) in site.shared.idle

    async def test_a_hundred_new_ones_at_once_leave_as_many_as_fit(self, site: Site):
        await asyncio.gather(*(site.connect() for _ in range(100)))
        await eventually(lambda: len(site.made) == 100)
        await eventually(lambda: len(site.server.server_state.connections) == 3)
        assert (await (await site.connect()).ask(beat_request())).status == 200

    async def _busy(self, site: Site) -> Client:
        client = await site.connect()
        await client.send(beat_request(json.dumps({"processor_id": site.processor()}).encode()))
        connection = await site.accepted(client)
        await eventually(lambda: connection not in site.shared.idle)
        return client


class TestIdleConnections:
    """Kept for the keep-alive time, and no longer, whatever came before."""

    KEPT_SECONDS = 0.4

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(keep_alive_seconds=self.KEPT_SECONDS, tokens=("secret",))

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"\r\n",
            LIVEZ,
            LIVEZ + b"\r\n",
            b"POST /nowhere HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
            beat_request(b"{}"),
            b"GET /livez HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ],
        ids=["silent", "empty-line", "get", "get-and-line", "404", "401", "upgrade"],
    )
    async def test_closed_after_the_keep_alive_time(self, site: Site, sent):
        client = await site.connect()
        await client.send(sent)
        seconds = await _seconds(client.rest())
        assert seconds > self.KEPT_SECONDS * 0.8
        assert site.closed("idle") == 1

    @pytest.mark.parametrize(
        "head",
        [
            b"POST /nowhere HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
            b"GET /api/v1/edge/heartbeat HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
            BEAT_HEAD + b"Content-Length: 1\r\n\r\n",
        ],
        ids=["404", "405", "401"],
    )
    async def test_closed_also_when_the_body_came_after_the_answer(self, site: Site, head):
        client = await site.connect()
        assert (await client.ask(head)).status in (401, 404, 405)
        assert await _seconds(client.ask(b"x" + LIVEZ)) < self.KEPT_SECONDS
        assert (await client.ask(head)).status in (401, 404, 405)
        await client.send(b"x")
        assert await _seconds(client.rest()) > self.KEPT_SECONDS * 0.8
        assert site.closed("idle") == 1

    async def test_not_closed_before_it(self, site: Site):
        client = await site.connect()
        for _ in range(4):
            await asyncio.sleep(self.KEPT_SECONDS / 2)  # the time itself is what is tested
            assert (await client.ask(LIVEZ)).status == 200


@pytest.mark.timeout(40)
async def test_five_thousand_idle_connections(site: Site, neighbour: Neighbour):
    """Each edge pod of a large fleet keeps one; together they cost little."""
    _allow_open_files()
    gc.collect()
    before = psutil.Process().memory_info().rss
    sockets = await _idle(site, 5_000)
    try:
        grown = psutil.Process().memory_info().rss - before
        assert len(site.server.server_state.connections) == 5_001
        assert grown / 5_000 < 32 * 1024
        seen = len(neighbour.statuses)
        neighbour.slowest_cpu_seconds = 0.0
        await eventually(lambda: len(neighbour.statuses) > seen + 20)
    finally:
        for sock in sockets:
            sock.close()
    await eventually(lambda: len(site.server.server_state.connections) == 1)


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES_WANTED:
        pytest.skip(f"both ends need {OPEN_FILES_WANTED} open files; the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_WANTED:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES_WANTED, hard))


async def _idle(site: Site, number: int) -> list[socket.socket]:
    """Connections that have beaten once, a hundred at a time."""
    loop, request = asyncio.get_running_loop(), beat_request()

    async def beaten() -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, site.address)
        await loop.sock_sendall(sock, request)
        assert (await loop.sock_recv(sock, 1024)).startswith(b"HTTP/1.1 200")
        return sock

    sockets: list[socket.socket] = []
    for _ in range(number // 100):
        sockets += await asyncio.gather(*(beaten() for _ in range(100)))
    return sockets
