"""`run` as a group of processes: killed, frozen, stopped, on a database that is not there."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aiohttp
import psutil
import pytest
from tests.acceptance.real import (
    HEARTBEAT,
    RealService,
    add_edge_processor,
    eventually,
    is_free,
    is_gone,
    run_on,
    running,
)
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.migrate import upgrade

pytestmark = pytest.mark.timeout(60)

CLIENTS = 8
HALF_HEADERS = f"POST {HEARTBEAT} HTTP/1.1\r\nHost: x\r\nContent-Le"
HALF_BODY = f"POST {HEARTBEAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{"
WORD = "state-secret"


class Fleet:
    """Clients that beat all the time, and how that went."""

    def __init__(self, url: str, processors: list[UUID]) -> None:
        self._url = url + HEARTBEAT
        self._processors = processors
        self.acknowledged_at: list[float] = []
        self.not_acknowledged = 0
        self.refused = 0
        self.cut = 0

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=patient(10))
        async with aiohttp.ClientSession(timeout=timeout) as http:
            tasks = [asyncio.create_task(self._beat(http, key)) for key in self._processors]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self, http: aiohttp.ClientSession, processor: UUID) -> None:
        body = {"processor_id": str(processor), "node_id": "n", "status": "healthy"}
        while True:
            try:
                async with http.post(self._url, json=body) as answer:
                    self._count(await answer.json())
            except aiohttp.ClientConnectorError:
                self.refused += 1
            except aiohttp.ClientError:
                self.cut += 1
            await asyncio.sleep(0.02)

    def _count(self, content: dict[str, Any]) -> None:
        if content["acknowledged"]:
            self.acknowledged_at.append(time.monotonic())
        else:
            self.not_acknowledged += 1


@asynccontextmanager
async def fleet_of(service: RealService, database_url: str) -> AsyncIterator[Fleet]:
    async with connected(database_url) as connection:
        fleet = Fleet(service.url, [await add_edge_processor(connection) for _ in range(CLIENTS)])
    async with fleet.beating():
        await eventually(lambda: len(fleet.acknowledged_at) > CLIENTS)
        yield fleet


async def one(service: RealService, role: str) -> psutil.Process:
    """The process of a role, once there is exactly one."""
    found = await eventually(lambda: len(f := service.children(role)) == 1 and f)
    process: psutil.Process = found[0]
    return process


async def successor(service: RealService, role: str, pid: int) -> psutil.Process:
    found = await eventually(
        lambda: len(f := service.children(role)) == 1 and f[0].pid != pid and f
    )
    process: psutil.Process = found[0]
    return process


async def watcher_says(service: RealService, text: str) -> bool:
    status, health = await service.get("/healthz")
    return status == 503 and text in health["components"]["watcher"]["message"]


async def test_each_process_may_die_or_freeze_without_the_other(database_url):
    async with run_on(database_url) as service:
        await eventually(service.is_healthy)
        api, control = await one(service, "api"), await one(service, "control")
        async with fleet_of(service, database_url) as fleet:
            # control killed
            control.kill()
            control = await successor(service, "control", control.pid)
            restarts = 'dory_process_restarts_total{process="control"}'
            await eventually(lambda: _is(service, restarts, 1))
            await eventually(service.is_healthy)

            # control frozen
            control.suspend()
            try:
                heard = len(fleet.acknowledged_at)
                await eventually(lambda: watcher_says(service, "reported"))
                # In five seconds at least, of each client one a second.
                assert len(fleet.acknowledged_at) - heard > 5 * CLIENTS
                assert await watcher_says(service, " s ago")
                assert (await service.get("/livez"))[0] == 200
                assert (await service.get("/readyz"))[0] == 200
            finally:
                control.resume()
            await eventually(service.is_healthy)
            assert (fleet.not_acknowledged, fleet.refused, fleet.cut) == (0, 0, 0)
            assert (await one(service, "api")).pid == api.pid

            # api killed
            began = time.monotonic()
            api.kill()
            await eventually(lambda: any(at > began + 0.1 for at in fleet.acknowledged_at), 5)
            assert fleet.refused == 0  # those who came meanwhile waited in the socket
            assert fleet.cut <= 2 * CLIENTS  # those who were connected
            assert (await successor(service, "api", api.pid)).is_running()
            await eventually(service.is_healthy)
            assert (await one(service, "control")).pid == control.pid
            assert await service.metric('dory_process_restarts_total{process="api"}') == 1
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0


async def _is(service: RealService, metric: str, value: float) -> bool:
    return await service.metric(metric) == value


async def test_changes_of_the_database_are_seen_at_once_and_heartbeats_wake_nobody(database_url):
    """The poll interval is 30 s: it cannot be what finds the changes."""
    async with run_on(database_url) as service, connected(database_url) as portal:
        await eventually(service.is_healthy)
        woken: list[object] = []
        await portal.add_listener("orchestrator_changed", lambda *_: woken.append(1))
        changed = 'dory_config_changes_total{change_type="%s"}'

        key = await add_edge_processor(portal)
        await eventually(lambda: _is(service, changed % "added", 1), 2.5)
        assert await service.metric("dory_applications_total") == 1
        await portal.execute("UPDATE processors SET name = 'new' WHERE id = $1", key)
        await eventually(lambda: _is(service, changed % "modified", 1), 2.5)
        assert woken

        woken.clear()
        for status in ("healthy", "degraded", "healthy"):
            answer = await service.beat(processor_id=str(key), node_id="n", status=status)
            assert answer["acknowledged"]
        await portal.execute("UPDATE processors SET pod_ip = '10.0.0.1' WHERE id = $1", key)
        assert await portal.fetchval("SELECT health_status FROM processors") == "healthy"
        assert not woken

        await portal.execute("DELETE FROM processors WHERE id = $1", key)
        await eventually(lambda: _is(service, changed % "removed", 1), 2.5)
        assert await service.metric("dory_applications_total") == 0
        assert await service.metric(changed % "added") == 1
        assert await service.metric(changed % "modified") == 1
        await portal.reset()


# Stopping


async def is_not_ready(service: RealService, reason: str) -> bool:
    status, health = await service.get("/readyz")
    components = health["components"]
    return status == 503 and reason in components.get("startup", {}).get("message", "")


@asynccontextmanager
async def never_reading(service: RealService) -> AsyncIterator[None]:
    """A client that asks and reads nothing. Small segments make for small buffers: what they
    cannot take keeps the service waiting."""
    host, port = service.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(sock, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        yield


async def test_the_end_is_orderly_whatever_the_clients_do(database_url):
    """The delay and the wait for slow clients together are longer than the usual patience."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(run_on(database_url, DORY_SHUTDOWN_DELAY="9s"))
        portal = await stack.enter_async_context(connected(database_url))
        key = await add_edge_processor(portal)
        name, organization = await edge_node(portal)
        await stack.enter_async_context(never_reading(service))
        for text in (HALF_HEADERS, HALF_BODY):
            stack.callback((await service.connect(text)).close)

        # One request is on its way: the portal holds what it needs.
        transaction = portal.transaction()
        await transaction.start()
        await portal.execute("SELECT FROM edge_nodes WHERE name = $1 FOR UPDATE", name)
        body = {"name": name, "organization_id": str(organization)}
        registering = asyncio.create_task(service.post("/api/v1/edge/nodes", body))
        await eventually(lambda: _is_waiting(database_url))

        service.signal(signal.SIGTERM)
        signalled_at = time.monotonic()
        await eventually(lambda: is_not_ready(service, "shutting down"), 0.5)
        assert (await service.get("/livez"))[0] == 200
        await transaction.rollback()
        assert (await registering)[0] == 201
        assert (await service.beat(processor_id=str(key), status="healthy"))["acknowledged"]
        # The half body again, late in the delay: it is waited for the longest.
        await eventually(lambda: time.monotonic() > signalled_at + 4.5)
        stack.callback((await service.connect(HALF_BODY)).close)
        assert (await service.beat(processor_id=str(key), status="failing"))["acknowledged"]
        assert await service.ended(9) == 0
        assert await portal.fetchval("SELECT health_status FROM processors") == "unhealthy"
        assert not service.events("a process did not end in time and is killed")


async def edge_node(connection: Any) -> tuple[str, UUID]:
    """Name and organization of the only one."""
    row = await connection.fetchrow("SELECT name, organization_id FROM edge_nodes")
    return row["name"], row["organization_id"]


async def _is_waiting(database_url: str) -> bool:
    async with connected(database_url) as connection:
        return bool(
            await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        )


async def test_a_frozen_database_does_not_hold_up_the_end(own_postgres):
    server = own_postgres()
    url = await asyncio.to_thread(server.start)
    await asyncio.to_thread(upgrade, url)
    async with (
        run_on(url) as once,
        run_on(url, DORY_SHUTDOWN_DELAY="30s") as twice,
        fleet_of(once, url),
    ):
        processes = [psutil.Process(server.pid or 0)]
        processes += processes[0].children(recursive=True)
        try:
            for process in processes:
                process.suspend()
            once.signal(signal.SIGTERM)
            twice.signal(signal.SIGTERM)
            await eventually(lambda: is_not_ready(twice, "shutting down"))
            twice.signal(signal.SIGTERM)
            assert await twice.ended(1.0) == 128 + signal.SIGTERM
            assert await once.ended() == 0
        finally:
            for process in processes:
                process.resume()


async def test_a_signal_right_after_the_start_ends_it_in_order(database_url):
    async with run_ahead(database_url) as service:
        await service.listening()
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_started_under_nohup_it_outlives_its_terminal(database_url):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does; it is inherited
    try:
        async with run_ahead(database_url) as service:
            await service.listening()
            service.signal(signal.SIGHUP)
            await eventually(service.is_ready)
            assert not service.events("stopping")
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_both_processes_end_when_their_parent_is_killed(database_url):
    async with run_on(database_url) as service:
        children = [await one(service, "api"), await one(service, "control")]
        lingering = await service.connect(HALF_BODY)
        service.process.kill()
        await eventually(lambda: all(is_gone(child) for child in children), 5)
        assert is_free(int(service.url.rpartition(":")[2]))
        lingering.close()


# Roles


async def test_each_role_alone(database_url):
    async with (
        run_on(database_url, DORY_ROLE="api", DORY_STATE_TOKEN=WORD) as api,
        run_on(database_url, DORY_ROLE="control", DORY_STATE_TOKEN=WORD) as control,
    ):
        await eventually(api.is_healthy)
        await eventually(control.is_healthy)
        components = {
            service: set((await service.get("/healthz"))[1]["components"])
            for service in (api, control)
        }
        assert components == {api: {"database", "heartbeats"}, control: {"database", "watcher"}}
        for service in (api, control):
            assert (await service.get("/readyz"))[0] == 200
            assert (await service.get("/livez"))[0] == 200
        assert await control.metric("dory_config_watcher_healthy ") == 1
        assert await api.metric("dory_hearing ") == 1
        assert (await control.post(HEARTBEAT, {}))[0] == 404
        assert (await control.post("/api/v1/edge/nodes", {"name": "x"}))[0] == 404

        api.http.headers["Authorization"] = "Bearer wrong-" + WORD
        assert (await api.post(HEARTBEAT, {}))[0] == 401
        api.http.headers["Authorization"] = "Bearer " + WORD
        assert (await api.post(HEARTBEAT, {}))[0] == 200

        for service in (api, control):
            service.signal(signal.SIGINT)
        for service in (api, control):
            assert await service.ended() == 0
            assert WORD not in json.dumps(service.log())


# Starting


@asynccontextmanager
async def run_ahead(database_url: str, *arguments: str, **environment: str) -> Any:
    """`run`, not waited for."""
    async with running(
        "run",
        *("--metrics-address", "127.0.0.1", "--metrics-port", "0", "--log-format", "json"),
        *arguments,
        environment={"DORY_DATABASE_URL": database_url} | environment,
        ready=False,
    ) as service:
        yield service


async def test_a_database_that_is_not_migrated_is_refused(empty_database_url):
    async with run_ahead(empty_database_url) as service:
        assert await service.ended() == 1
        assert "dory-orchestrator db upgrade" in json.dumps(service.log())


async def test_a_database_that_does_not_fit_is_refused(database_url):
    async with connected(database_url) as connection:
        await connection.execute("ALTER TABLE processors RENAME COLUMN health_status TO health")
    async with run_ahead(database_url) as service:
        assert await service.ended() == 1
        errors = {line["error"] for line in service.log() if "error" in line}
        assert any("processors" in error and "health_status" in error for error in errors)


async def test_a_port_in_use_is_named(database_url):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        async with run_ahead(database_url, DORY_METRICS_PORT=str(port)) as service:
            assert await service.ended() == 1
            assert str(port) in json.dumps(service.events("the port cannot be opened"))


async def test_it_starts_without_its_database_and_is_ready_once_that_is_there(
    own_postgres: Callable[[], EmbeddedPostgres],
):
    server = own_postgres()
    url = await asyncio.to_thread(server.start)
    await asyncio.to_thread(upgrade, url)
    await asyncio.to_thread(server.stop)
    with_password = url.replace("postgres:@", f"postgres:{WORD}@")
    assert urlsplit(with_password).password == WORD
    async with run_ahead(with_password) as service:
        await service.listening()
        await eventually(lambda: is_not_ready(service, "waiting for the database"), 10)
        assert set((await service.get("/readyz"))[1]["components"]) == {"startup"}
        assert (await service.get("/healthz"))[0] == 503
        assert (await service.get("/livez"))[0] == 200
        answer = await service.beat(processor_id=str(uuid4()), status="healthy")
        assert (answer["acknowledged"], answer["directive"]) == (False, "continue")

        await asyncio.to_thread(server.start)
        await eventually(service.is_ready)
        await eventually(service.is_healthy)
        assert (await service.beat(processor_id=str(uuid4())))["acknowledged"]
        assert len(service.children("api")) == len(service.children("control")) == 1
        assert WORD not in json.dumps(service.log())
