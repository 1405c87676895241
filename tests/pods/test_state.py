"""The states of pods over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from dory.health.server import HealthServer
from dory.metrics.collector import MetricsCollector
from tests.patience import patient
from tests.pods.servers import RawPod, raw_pod, reply

from dory_orchestrator.pods.http import HttpPods
from dory_orchestrator.ports import PodRefused, PodUnreachable

pytestmark = pytest.mark.real

LIMIT_SECONDS = 0.3


@pytest.fixture
async def pods() -> AsyncIterator[HttpPods]:
    pods = HttpPods(connections_max=10)
    yield pods
    await pods.close()


async def get(
    pods: HttpPods, address: str, token: str | None = "secret", bytes_max: int = 1000
) -> bytes:
    return await pods.get_state(
        address, token=token, timeout_seconds=patient(5), bytes_max=bytes_max
    )


async def put(pods: HttpPods, address: str, body: bytes, token: str | None = "secret") -> None:
    await pods.put_state(address, body, token=token, timeout_seconds=patient(5))


async def refusal(work) -> PodRefused:
    with pytest.raises(PodRefused) as caught:
        await work
    message = str(caught.value)
    assert 0 < len(message) <= 300
    assert message.isprintable()
    return caught.value


async def test_a_state_is_asked_for_with_the_token_and_comes_as_it_is(pods):
    async with raw_pod(reply(200, b'{"data": {"x": NaN}}')) as pod:
        assert await get(pods, pod.address) == b'{"data": {"x": NaN}}'
        [head] = pod.requests
        assert head.startswith("GET /state HTTP/1.1")
        assert "Authorization: Bearer secret" in head
    async with raw_pod(reply(200, b"{}")) as pod:
        await get(pods, pod.address, token=None)
        assert "Authorization" not in pod.requests[0]


async def test_a_state_is_put(pods):
    got = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(len(body)))
        writer.write(reply(200))

    body = b'{"data": {"count": 5}}'
    async with raw_pod(talk) as pod:
        await put(pods, pod.address, body)
        head = pod.requests[0]
    assert head.startswith("POST /state HTTP/1.1")
    assert "Content-Type: application/json" in head
    assert "Authorization: Bearer secret" in head
    assert got == [body]


@pytest.mark.parametrize(
    ("status", "body", "told", "final"),
    [
        (401, b'{"error": "Invalid token"}', 401, True),
        (404, b"not found", 404, True),
        (413, b'{"error": "too big", "size_exceeded": true}', 413, True),
        (500, b'{"error": "Failed"}', 500, False),
        (500, b'{"error": "Failed to restore state: Request Entity Too Large"}', 413, True),
        (503, b"", 503, False),
        (504, b'{"error": 7}', 504, False),
        (302, b"", 302, False),
        (500, b"\xff" * 70_000, 500, False),
        (500, b'{"error": "\\u0000\\u001b[31m' + b"x" * 5000 + b'"}', 500, False),
        (500, b"[" * 60_000, 500, False),
    ],
)
async def test_what_a_pod_refuses(pods, status, body, told, final):
    async with raw_pod(reply(status, body, Location="http://127.0.0.1:1/state")) as pod:
        for work in (get(pods, pod.address), put(pods, pod.address, b"{}")):
            error = await refusal(work)
            assert (error.status, error.final) == (told, final)
        assert [head.split()[1] for head in pod.requests] == ["/state", "/state"]


@pytest.mark.parametrize("length", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
async def test_a_body_without_end_is_too_large(pods, length):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
        piece = b"x" * 1000
        while True:
            writer.write(b"3e8\r\n" + piece + b"\r\n" if "chunked" in length else piece)
            await writer.drain()

    async with raw_pod(talk) as pod:
        error = await refusal(get(pods, pod.address))
        assert (error.status, error.final) == (413, True)


async def test_the_largest_body_that_may_come(pods):
    async with raw_pod(reply(200, b"x" * 1000)) as pod:
        assert len(await get(pods, pod.address, bytes_max=1000)) == 1000
        assert (await refusal(get(pods, pod.address, bytes_max=999))).status == 413


async def _silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("talk", [_silent, _slow, b"\0garbage\r\n\r\n", reply(200)[:30]])
async def test_whoever_does_not_answer_is_unreachable_in_time(pods, talk):
    async with raw_pod(talk) as pod:
        for work in (
            pods.get_state(
                pod.address, token=None, timeout_seconds=LIMIT_SECONDS, bytes_max=10_000
            ),
            pods.put_state(pod.address, b"{}", token=None, timeout_seconds=LIMIT_SECONDS),
        ):
            async with asyncio.timeout(patient(LIMIT_SECONDS + 1)):
                with pytest.raises(PodUnreachable):
                    await work


async def test_where_nobody_listens(pods):
    async with raw_pod(b"") as pod:
        assert isinstance(pod, RawPod)
        address = pod.address
    with pytest.raises(PodUnreachable):
        await get(pods, address)
    with pytest.raises(PodUnreachable):
        await put(pods, address, b"{}")


async def test_the_client_library_takes_and_refuses(pods):
    """Its own server, with the limit that its framework has."""
    state = {"data": {"count": 1}}

    async def restore(body):
        state.update(body)

    server = HealthServer(
        port=0, state_getter=lambda: state, state_restorer=restore, state_token="secret"
    )
    await server.start()
    try:
        assert server._runner is not None
        address = f"127.0.0.1:{server._runner.addresses[0][1]}"
        assert json.loads(await get(pods, address)) == {"data": {"count": 1}}
        await put(pods, address, b'{"data": {"count": 5, "x": NaN}}')
        assert json.loads(await get(pods, address))["data"]["count"] == 5
        assert (await refusal(get(pods, address, token="wrong"))).status == 401
        assert (await refusal(put(pods, address, b"{}", token=None))).status == 401
        largest = b'{"data": {"x": "' + b"a" * 999_990 + b'"}}'
        await put(pods, address, largest)
        error = await refusal(put(pods, address, largest + b" " * 200_000))
        assert (error.status, error.final) == (413, True)
        assert (await refusal(put(pods, address, b"{"))).status == 400
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("status", "body", "was_read"),
    [
        (200, b"dory_state_load_duration_seconds 0.0123\n", True),
        (200, b'a 1\ndory_state_load_duration_seconds{pod="x"} 1e-05\nb 2\n', True),
        (200, b"# TYPE dory_state_load_duration_seconds gauge\n", False),
        (200, b"# TYPE dory_state_load_duration_seconds gauge\nb 2\n", False),
        (200, b"# No metrics collector configured\n", None),
        (200, b"other_dory_state_load_duration_seconds 1\n", None),
        (404, b"dory_state_load_duration_seconds 1\n", None),
    ],
)
async def test_whether_a_program_could_read_its_store(pods, status, body, was_read):
    async with raw_pod(reply(status, body)) as pod:
        assert await pods.read_its_state(pod.address, timeout_seconds=5) is was_read
        assert pod.requests[0].startswith("GET /metrics HTTP/1.1")


async def test_as_the_client_library_tells_it(pods):
    """It names the metric always, and gives it a value once it could read its store."""
    collector = MetricsCollector()
    server = HealthServer(port=0, metrics_collector=collector)
    await server.start()
    try:
        assert server._runner is not None
        address = f"127.0.0.1:{server._runner.addresses[0][1]}"
        assert await pods.read_its_state(address, timeout_seconds=5) is False
        collector.record_state_load(0.01)
        assert await pods.read_its_state(address, timeout_seconds=5) is True
    finally:
        await server.stop()


async def test_who_does_not_answer_tells_nothing_of_its_store(pods):
    assert await pods.read_its_state("127.0.0.1:1", timeout_seconds=LIMIT_SECONDS) is None
