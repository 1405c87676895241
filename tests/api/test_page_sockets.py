"""The stream of the page over real connections: who does not read, and the end of the service."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import pytest
from tests.contract.fleet_worlds import MemoryFleet
from tests.patience import patient

from dory_orchestrator.api.health import Health
from dory_orchestrator.api.page.handlers import Page
from dory_orchestrator.api.protocol import Connections
from dory_orchestrator.api.server import listen, make_server
from dory_orchestrator.api.service import build
from dory_orchestrator.metrics import Metrics

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]

READ_SECONDS = 0.3


@asynccontextmanager
async def served(fleet: MemoryFleet) -> AsyncIterator[tuple[Page, int, Callable[[], None]]]:
    """The page, its port, and how to end the server; waits for its end, for two seconds."""
    metrics = Metrics()
    health = Health(metrics)
    page = Page(fleet.views, health=health, operator_token=None, cluster="local", look_seconds=0.02)
    app = build(health=health, render_metrics=metrics.render, edge=None, page=page)
    shared = Connections(metrics, read_seconds=READ_SECONDS)
    server = make_server(app, shared=shared, keep_alive_seconds=75)
    sock = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[sock]))

    def end() -> None:
        page.close()
        server.should_exit = True

    try:
        yield page, sock.getsockname()[1], end
    finally:
        end()
        async with asyncio.timeout(patient(2)):
            await serving
        sock.close()


def connected(port: int) -> socket.socket:
    """To `/live`, with room for little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /live HTTP/1.1\r\nHost: page\r\n\r\n")
    return client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(patient(15)):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_service_ends_at_once_whoever_looks():
    async with served(MemoryFleet()) as (page, port, end):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /live HTTP/1.1\r\nHost: page\r\n\r\n")
        await reader.readuntil(b"event: moves")
        end()
        async with asyncio.timeout(patient(1)):
            assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()
        await until(lambda: page.pictures.viewers == 0)


async def test_who_does_not_read_is_let_go():
    """It costs the latest frame, and only until the server gives up on it."""
    fleet = MemoryFleet()
    for number in range(400):
        node = f"n{number % 40}"
        if number < 40:
            await fleet.add_node(node, kind="edge")
        await fleet.add_processor("p" * 250, key=UUID(int=number), state="running", node=node)
    async with served(fleet) as (page, port, _end):
        with connected(port):
            await until(lambda: page.pictures.viewers == 1)
            changes = 0
            while page.pictures.viewers:
                changes += 1
                assert changes < 1000
                one = fleet.views.processors[UUID(int=1)]
                fleet.views.processors[UUID(int=1)] = replace(one, name=f"p{changes}")
                await asyncio.sleep(0.02)


async def test_who_leaves_is_forgotten():
    async with served(MemoryFleet()) as (page, port, _end):
        with connected(port):
            await until(lambda: page.pictures.viewers == 1)
        await until(lambda: page.pictures.viewers == 0)
