"""Asking pods over real HTTP: programs of somebody else, which send what they like."""

import asyncio
import os
import random
import socket
import struct
import sys
from collections.abc import AsyncIterator

import pytest
from tests.patience import patient
from tests.pods.servers import RawPod, raw_pod, reply

from dory_orchestrator.pods.http import BODY_BYTES_MAX, HttpPods
from dory_orchestrator.ports import PodAnswer, PodUnreachable

pytestmark = pytest.mark.real

LIMIT_SECONDS = 0.3
LONG_SECONDS = patient(5)


@pytest.fixture
async def pods() -> AsyncIterator[HttpPods]:
    pods = HttpPods(connections_max=10)
    yield pods
    await pods.close()


async def ask(pods: HttpPods, pod: RawPod, timeout_seconds: float = LONG_SECONDS) -> PodAnswer:
    return await pods.ask(pod.address, timeout_seconds=timeout_seconds)


async def refused(pods: HttpPods, pod: RawPod, timeout_seconds: float = LIMIT_SECONDS) -> str:
    """Why the pod counts as unreachable, which must show in time."""
    with pytest.raises(PodUnreachable) as caught:
        async with asyncio.timeout(patient(timeout_seconds + 1)):
            await ask(pods, pod, timeout_seconds)
    message = str(caught.value)
    assert 0 < len(message) <= 200
    assert message.isprintable()
    return message


# What is asked


async def test_both_probes_over_one_connection_that_then_ends(pods):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200))
        if "Connection: close" in pod.requests[-1]:
            writer.close()

    async with raw_pod(talk) as pod:
        await ask(pods, pod)
        await ask(pods, pod)
        heads = [head.splitlines() for head in pod.requests]
        assert [head[0] for head in heads] == ["GET /ready HTTP/1.1", "GET /health HTTP/1.1"] * 2
        assert pod.connections == 2
        assert "Accept-Encoding: identity" in heads[0]


async def test_a_connection_that_the_server_keeps_open_ends_soon(pods):
    async with raw_pod(reply(200)) as pod:
        await ask(pods, pod)
        assert pod.open == 1
        async with asyncio.timeout(patient(4)):
            while pod.open:
                await asyncio.sleep(0.01)


async def test_cookies_are_not_kept(pods):
    async with raw_pod(reply(200, Set_Cookie="a=b; Path=/")) as pod:
        await ask(pods, pod)
        await ask(pods, pod)
        assert not any("cookie" in head.lower() for head in pod.requests)


async def test_connections_are_bounded(pods):
    async def slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        most[0] = max(most[0], pod.open)
        await asyncio.sleep(0.01)
        writer.write(reply(200))

    most = [0]
    async with raw_pod(slowly) as pod:
        await asyncio.gather(*(ask(pods, pod) for _ in range(50)))
    assert 5 <= most[0] <= 11  # one that is just ending may overlap with the next


async def test_a_server_that_ends_each_connection_is_asked_over_two(pods):
    async with raw_pod(reply(200, Connection="close")) as pod:
        assert (await ask(pods, pod)).ready
        assert pod.connections == 2


async def test_a_server_that_ends_connections_without_saying_so_is_well(pods):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200))
        writer.close()

    async with raw_pod(talk) as pod:
        assert (await ask(pods, pod)).ready


# What is understood


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (503, b'{"healthy": false, "message": "not yet", "details": {}}', ": not yet"),
        (503, b'{"message": "a\\u0000b\\nc\\u202ed"}', ": a b c d"),
        (503, b'{"message": "' + b"x" * 500 + b'"}', ": " + "x" * 200),
        (503, b'{"message": 7}', ""),
        (503, b'{"message": null}', ""),
        (503, b"[" * 50_000, ""),
        (503, b'{"x":' + b"[" * 50_000, ""),
        (503, b'{"message": "\xff"}', ""),
        (503, b"no", ""),
        (503, b"", ""),
        (404, b'{"message": "no such page"}', ""),
        (500, b"", ""),
        (204, b"", ""),
        (302, b"", ""),
        (401, b"", ""),
    ],
)
async def test_any_status_but_200_is_not_well_and_the_message_says_which(
    pods, status, body, message
):
    async with raw_pod(reply(status, body) if status != 204 else reply(204, b"")) as pod:
        answer = await ask(pods, pod)
    assert (answer.ready, answer.healthy) == (False, False)
    expected = (f"{path} answered {status}{message}" for path in ("/ready", "/health"))
    assert answer.message == "; ".join(expected)


@pytest.mark.parametrize("body", [b"", b"OK", b'{"healthy": false}', b"\x00\xff", b"[" * 50_000])
async def test_with_200_a_pod_is_well_whatever_the_body_says(pods, body):
    async with raw_pod(reply(200, body)) as pod:
        answer = await ask(pods, pod)
    assert answer == PodAnswer(True, True, "ready and healthy", None)


async def test_one_probe_of_two_is_told(pods):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = pod.requests[-1].startswith("GET /ready")
        writer.write(reply(503 if ready else 200, b'{"message": "starting"}'))

    async with raw_pod(talk) as pod:
        answer = await ask(pods, pod)
    assert answer == PodAnswer(False, True, "/ready answered 503: starting", None)


@pytest.mark.parametrize(
    ("header", "version"),
    [
        ("0.0.6", "0.0.6"),
        ("2.1.9", "2.1.9"),
        ("", None),
        (" \t ", None),
        ("9" * 5000, "9" * 64),
        ("1\x1b[31m2\x7f\t3", None),  # aiohttp refuses some, and `_clean` the rest
        ("1\t2", "1 2"),
        ("1\xa02", "1 2"),
        ("\xff\xfe", None),
    ],
)
async def test_the_version_of_the_client_library_is_short_and_clean(pods, header, version):
    async with raw_pod(reply(200, X_Dory_SDK_Version=header)) as pod:
        try:
            answer = await ask(pods, pod)
        except PodUnreachable:
            assert "\x1b" in header
            return
    assert answer.healthy
    assert answer.sdk_version == version or "\x1b" in header
    assert (answer.sdk_version or "").isprintable()


async def test_redirects_are_not_followed(pods):
    async with raw_pod(reply(200)) as other:
        there = f"http://{other.address}/ready"
        async with raw_pod(reply(302, Location=there)) as pod:
            answer = await ask(pods, pod)
        assert answer.message == "/ready answered 302; /health answered 302"
        assert other.requests == []


# What is no answer


def repeating(first: bytes, again: bytes, every_seconds: float):
    """Sends `first`, and then `again` and `again` until the client has enough."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing():
            await writer.drain()
            await asyncio.sleep(every_seconds)
            writer.write(again)

    return talk


OK_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

TOO_SLOW = {
    "silence": repeating(b"", b"", 0.01),
    "slow status": repeating(b"H", b"", 0.01),
    "slow headers": repeating(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.01),
    "slow body": repeating(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x", 0.01),
    "slow chunks": repeating(OK_CHUNKED, b"1\r\nx\r\n", 0.01),
    "body without an end": repeating(b"HTTP/1.0 200 OK\r\n\r\n", b"x", 0.01),
    "provisional answers": repeating(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, b"", 0.01),
    "endless provisional answers": repeating(b"", b"HTTP/1.1 103 Hints\r\n\r\n" * 100, 0.001),
    "endless chunk extension": repeating(OK_CHUNKED + b"1;", b"x" * 10_000, 0.001),
}


@pytest.mark.parametrize("kind", TOO_SLOW)
async def test_what_comes_too_slowly_is_no_answer(pods, kind):
    async with raw_pod(TOO_SLOW[kind]) as pod:
        message = await refused(pods, pod)
        if "extension" not in kind:  # aiohttp may refuse that one sooner
            assert message == "no answer within 0.3 s"


HUGE = b"x" * 100_000
GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x16",
    "binary": bytes(range(256)) * 10,
    "huge header": b"HTTP/1.1 200 OK\r\nX: " + HUGE + b"\r\n\r\n",
    "huge header name": b"HTTP/1.1 200 OK\r\n" + HUGE + b": 1\r\n\r\n",
    "huge reason": b"HTTP/1.1 200 " + HUGE + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "bad header": b"HTTP/1.1 200 OK\r\nX y\r\n\r\n",
    "huge status": b"HTTP/1.1 99999999999 OK\r\n\r\n",
    "status without a number": b"HTTP/1.1 OK\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "bad chunk": OK_CHUNKED + b"zz\r\n",
    "other version": b"HTTP/9.9 200 OK\r\n\r\n",
    "nothing": b"",
    "cut header": b"HTTP/1.1 200 OK\r\nX: ",
    "cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
    "cut chunk": OK_CHUNKED + b"ff\r\nxx",
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_no_answer(pods, kind):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GARBAGE[kind])
        await writer.drain()
        writer.close()

    async with raw_pod(talk) as pod:
        message = await refused(pods, pod, patient(LIMIT_SECONDS))
        assert message.startswith(("its answer is not HTTP", "it ended the connection")) or (
            "cut" in kind and "not completed" in message
        )


async def test_a_reset_connection_is_no_answer(pods):
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger_of_zero = struct.pack("ii", 1, 0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_of_zero)
        writer.transport.abort()

    async with raw_pod(reset) as pod:
        await refused(pods, pod, patient(LIMIT_SECONDS))


@pytest.mark.parametrize("address", ["", "a b:1", "127.0.0.1:99999", "127.0.0.1:x", "[::1:80", ":"])
async def test_an_address_that_is_none_is_unreachable(pods, address):
    with pytest.raises(PodUnreachable, match=r"."):
        await pods.ask(address, timeout_seconds=1)


async def test_a_port_that_accepts_nobody_is_unreachable_in_time(pods):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filling = [socket.socket() for _ in range(3)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        address = "{}:{}".format(*full.getsockname())
        with pytest.raises(PodUnreachable, match="no answer within"):
            await pods.ask(address, timeout_seconds=LIMIT_SECONDS)
        for sock in filling:
            sock.close()


async def test_answers_that_were_damaged_on_the_way_end_nothing(pods):
    chance = random.Random(7)
    whole = reply(503, b'{"message": "no"}', X_Dory_SDK_Version="1", Set_Cookie="a=b", Link="<x>")
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)

        async def talk(
            _: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes = bytes(damaged)
        ) -> None:
            writer.write(content)
            writer.close()

        async with raw_pod(talk) as pod:
            try:
                message = (await ask(pods, pod, timeout_seconds=patient(1))).message
            except PodUnreachable as error:
                message = str(error)
            assert message
            assert message.isprintable()


# Bodies without measure


class Flood:
    """Sends a body as fast as it is taken, and counts what was."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self.sent_bytes = 0
        self._head = head
        self._piece = piece

    async def talk(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._head)
        while not writer.is_closing():
            writer.write(self._piece)
            await writer.drain()
            self.sent_bytes += len(self._piece)


FLOODS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 50_000),
    "chunks": (OK_CHUNKED, b"2710\r\n" + b"x" * 10_000 + b"\r\n"),
    "until closed": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 50_000),
    "compressed": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b" * 25_000),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_of_an_endless_body_only_the_beginning_is_read(pods, kind):
    flood = Flood(*FLOODS[kind])
    async with raw_pod(flood.talk) as pod:
        assert (await ask(pods, pod)).ready
        async with asyncio.timeout(patient(2)):
            while pod.open:
                await asyncio.sleep(0.005)
    # Two probes: what was read, and what the sockets of both sides hold.
    assert flood.sent_bytes < 2 * (BODY_BYTES_MAX + 8_000_000)


async def test_an_upgrade_is_declined(pods):
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    async with raw_pod(head + b"x" * 1000) as pod:
        try:
            answer = await ask(pods, pod, LIMIT_SECONDS)
        except PodUnreachable:
            return
        assert not answer.ready


async def test_bad_pods_spoil_no_answer_of_others(pods):
    async with raw_pod(TOO_SLOW["slow headers"]) as slow, raw_pod(reply(200)) as well:
        asking = [asyncio.create_task(ask(pods, slow, 3_600)) for _ in range(9)]
        async with asyncio.timeout(patient(2)):
            while slow.connections < len(asking):
                await asyncio.sleep(0.005)
        for _ in range(20):
            assert (await ask(pods, well)).ready
        for task in asking:
            task.cancel()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}


async def test_whoever_is_cancelled_leaves_no_connection(pods):
    async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_pod(wait) as pod:
        task = asyncio.create_task(ask(pods, pod))
        async with asyncio.timeout(patient(2)):
            while not pod.requests:
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(patient(2)):
            while pod.open:
                await asyncio.sleep(0.005)


# The published client library, unchanged

PROGRAM = """
import asyncio
from dory import BaseProcessor, DoryApp

class Program(BaseProcessor):
    async def startup(self):
        await asyncio.sleep(1)

    async def run(self):
        while not self.context.is_shutdown_requested():
            await asyncio.sleep(0.05)

    async def shutdown(self):
        pass

    def get_state(self):
        return {}

    async def restore_state(self, state):
        pass

DoryApp().run(Program)
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.timeout(40)
async def test_a_processor_with_the_client_library(pods, tmp_path):
    port = free_port()
    environment = {key: v for key, v in os.environ.items() if not key.startswith("DORY_")} | {
        "DORY_POD_NAME": f"test-{port}",
        "DORY_PROCESSOR_ID": f"test-{port}",
        "DORY_STATE_BACKEND": "local",
        "DORY_HEALTH_PORT": str(port),
        "DORY_STATE_TOKEN": "t",
        "RESTART_COUNT": "0",  # else it counts in a file that all of this machine share
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", PROGRAM),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        starting = await first_answer(pods, port, ready=False)
        assert (starting.healthy, starting.sdk_version) == (True, "0.0.6")
        assert starting.message.startswith("/ready answered 503: ")
        well = await first_answer(pods, port, ready=True)
        assert well == PodAnswer(True, True, "ready and healthy", "0.0.6")
    finally:
        process.kill()
        await process.wait()
    with pytest.raises(PodUnreachable):
        await pods.ask(f"127.0.0.1:{port}", timeout_seconds=2)


async def first_answer(pods: HttpPods, port: int, *, ready: bool) -> PodAnswer:
    async with asyncio.timeout(patient(20)):
        while True:
            try:
                answer = await pods.ask(f"127.0.0.1:{port}", timeout_seconds=patient(2))
            except PodUnreachable:
                await asyncio.sleep(0.02)
                continue
            if answer.ready is ready:
                return answer
            await asyncio.sleep(0.02)
