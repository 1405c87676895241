"""What every Pods does; run over HTTP and over the double that other tests use."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp.web
import pytest
from tests.patience import patient
from tests.pods_double import FakePods, FakeProgram

from dory_orchestrator.pods.http import HttpPods
from dory_orchestrator.ports import PodAnswer, PodRefused, PodUnreachable
from dory_orchestrator.ports import Pods as PodsPort

pytestmark = pytest.mark.real


class World(Protocol):
    """Where a contract test puts its pods."""

    @property
    def pods(self) -> PodsPort: ...

    async def start(
        self,
        *,
        ready: bool = True,
        healthy: bool = True,
        sdk_version: str | None = "0.0.6",
        hangs: bool = False,
    ) -> str:
        """A pod; returns its address."""
        ...

    async def dead_address(self) -> str:
        """Where nobody listens."""
        ...


class MemoryWorld:
    """Over the double."""

    def __init__(self) -> None:
        self.pods = FakePods()

    async def start(
        self,
        *,
        ready: bool = True,
        healthy: bool = True,
        sdk_version: str | None = "0.0.6",
        hangs: bool = False,
    ) -> str:
        address = f"10.0.0.{len(self.pods.answers) + 1}:8080"
        self.pods.answers[address] = PodAnswer(ready, healthy, "any", sdk_version)
        self.pods.programs[address] = FakeProgram("pod", {"count": 1}, token="secret")
        self.pods.delays_seconds[address] = 60.0 if hangs else 0.0
        return address

    async def dead_address(self) -> str:
        return "10.9.9.9:8080"


class HttpWorld:
    """Over real servers."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.pods = HttpPods()
        self._stack = stack
        stack.push_async_callback(self.pods.close)

    async def start(
        self,
        *,
        ready: bool = True,
        healthy: bool = True,
        sdk_version: str | None = "0.0.6",
        hangs: bool = False,
    ) -> str:
        async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
            await asyncio.sleep(60.0 if hangs else 0.0)
            well = ready if request.path == "/ready" else healthy
            headers = {"X-Dory-SDK-Version": sdk_version} if sdk_version else {}
            return aiohttp.web.json_response(
                {"healthy": well, "message": "any", "details": {}},
                status=200 if well else 503,
                headers=headers if request.path == "/health" else {},
            )

        state = {"count": 1}

        async def answer_state(request: aiohttp.web.Request) -> aiohttp.web.Response:
            await asyncio.sleep(60.0 if hangs else 0.0)
            if request.headers.get("Authorization") != "Bearer secret":
                return aiohttp.web.json_response({"error": "Unauthorized"}, status=401)
            if request.method == "POST":
                state.update((await request.json())["data"])
            return aiohttp.web.json_response({"data": state})

        app = aiohttp.web.Application()
        app.router.add_route("*", "/state", answer_state)
        app.router.add_get("/ready", answer)
        app.router.add_get("/health", answer)
        runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    async def dead_address(self) -> str:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return f"127.0.0.1:{port}"


@pytest.fixture(params=["memory", "http"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield MemoryWorld() if request.param == "memory" else HttpWorld(stack)


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("healthy", [True, False])
@pytest.mark.parametrize("sdk_version", ["0.0.6", None])
async def test_a_pod_says_how_it_is(world, ready, healthy, sdk_version):
    address = await world.start(ready=ready, healthy=healthy, sdk_version=sdk_version)
    answer = await world.pods.ask(address, timeout_seconds=patient(5))
    assert (answer.ready, answer.healthy) == (ready, healthy)
    assert answer.sdk_version == sdk_version
    assert answer.message


async def test_where_nobody_listens_it_is_unreachable(world):
    with pytest.raises(PodUnreachable, match=r"."):
        await world.pods.ask(await world.dead_address(), timeout_seconds=patient(5))


async def test_a_pod_that_hangs_is_unreachable_in_time(world):
    address = await world.start(hangs=True)
    async with asyncio.timeout(patient(1)):
        with pytest.raises(PodUnreachable, match=r"no answer within 0\.2 s"):
            await world.pods.ask(address, timeout_seconds=0.2)


async def test_pods_are_told_apart(world):
    well, ill = await world.start(), await world.start(ready=False)
    hanging = await world.start(hangs=True)
    limits = [(well, patient(0.5)), (ill, patient(0.5)), (hanging, 0.5), (well, patient(0.5))]
    answers = await asyncio.gather(
        *(world.pods.ask(address, timeout_seconds=seconds) for address, seconds in limits),
        return_exceptions=True,
    )
    assert [getattr(answer, "ready", None) for answer in answers] == [True, False, None, True]


LIMIT_SECONDS = patient(0.5)


async def state_of(world, address, *, token="secret", bytes_max=10_000, seconds=LIMIT_SECONDS):
    body = await world.pods.get_state(
        address, token=token, timeout_seconds=seconds, bytes_max=bytes_max
    )
    return json.loads(body)["data"]


async def put(world, address, *, token="secret", seconds=LIMIT_SECONDS):
    body = b'{"data": {"count": 5}}'
    await world.pods.put_state(address, body, token=token, timeout_seconds=seconds)


async def test_a_state_is_what_was_put(world):
    address = await world.start()
    assert await state_of(world, address) == {"count": 1}
    await put(world, address)
    assert await state_of(world, address) == {"count": 5}


@pytest.mark.parametrize("token", [None, "other"])
async def test_without_the_token_there_is_no_state(world, token):
    address = await world.start()
    for work in (state_of(world, address, token=token), put(world, address, token=token)):
        with pytest.raises(PodRefused) as caught:
            await work
        assert (caught.value.status, caught.value.final) == (401, True)
    assert await state_of(world, address) == {"count": 1}


async def test_a_state_longer_than_what_is_taken_is_refused(world):
    with pytest.raises(PodRefused) as caught:
        await state_of(world, await world.start(), bytes_max=10)
    assert (caught.value.status, caught.value.final) == (413, True)


async def test_the_state_of_whoever_does_not_answer(world):
    for address in (await world.dead_address(), await world.start(hangs=True)):
        for work in (state_of(world, address, seconds=0.5), put(world, address, seconds=0.5)):
            with pytest.raises(PodUnreachable):
                await work
