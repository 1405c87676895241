"""PostgreSQL stopped, frozen, restarted, full, read-only, locked, killed: under load.

Every heartbeat is answered 200 within 2.5 s with `continue`, probes tell the truth, and
recording resumes by itself.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import psutil
import pytest
from tests.acceptance.real import HEARTBEAT, RealService, add_edge_processor, eventually, run_on
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.migrate import upgrade

pytestmark = pytest.mark.timeout(90)

ANSWER_SECONDS_MAX = 2.5
RESUME_SECONDS_MAX = 5.0
CLIENTS = 24


class Load:
    """Clients that beat all the time, each for a processor of its own, over one connection."""

    def __init__(self, url: str, processors: list[UUID], pause_seconds: float = 0.05) -> None:
        self._url = url + HEARTBEAT
        self._pause_seconds = pause_seconds
        self.processors = processors
        self.answers: list[tuple[float, float, dict[str, Any]]] = []  # sent at, took, answer
        self.acknowledged_at: dict[UUID, float] = {}  # wall clock, when the answer came
        self.recorded_at: dict[UUID, float] = {}  # wall clock, at the earliest
        self.failures: list[str] = []

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=patient(10))
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as group:
            for processor in self.processors:
                group.create_task(self._beat(http, processor))

    async def _beat(self, http: aiohttp.ClientSession, processor: UUID) -> None:
        body = {"processor_id": str(processor), "node_id": "n", "status": "healthy"}
        while True:
            sent_at, asked_at = time.monotonic(), time.time()
            try:
                async with http.post(self._url, json=body) as answer:
                    content = await answer.json()
            except (aiohttp.ClientError, TimeoutError) as error:
                self.failures.append(repr(error))
                continue
            if answer.status != 200:
                self.failures.append(f"{answer.status} {content}")
            elif content["acknowledged"]:
                self.acknowledged_at[processor] = time.time()
                self.recorded_at[processor] = asked_at
            self.answers.append((sent_at, time.monotonic() - sent_at, content))
            await asyncio.sleep(self._pause_seconds)

    def since(self, moment: float) -> list[dict[str, Any]]:
        return [content for sent_at, _, content in self.answers if sent_at >= moment]

    def check(self) -> None:
        """What holds at all times."""
        assert not self.failures
        took = sorted(took for _, took, _ in self.answers)
        # A busy machine delays some, for as long as it likes; the limit itself delays every one.
        assert took[int(0.95 * len(took))] < ANSWER_SECONDS_MAX
        assert {content["directive"] for _, _, content in self.answers} == {"continue"}


class Rig:
    """A service on a server of its own, with a role that has just the rights it needs."""

    def __init__(self, server: EmbeddedPostgres, admin_url: str) -> None:
        self.server = server
        self.admin_url = admin_url
        self.url = admin_url.replace("postgres:@", "app:@")

    async def prepare(self, count: int) -> list[UUID]:
        await asyncio.to_thread(upgrade, self.admin_url)
        async with connected(self.admin_url) as admin:
            for statement in GRANTS:
                await admin.execute(statement)
            return [await add_edge_processor(admin) for _ in range(count)]

    def signal(self, number: int) -> None:
        """To the postmaster and each of its backends."""
        assert self.server.pid is not None
        postmaster = psutil.Process(self.server.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            process.send_signal(number)


GRANTS = (
    "CREATE ROLE app LOGIN",
    "GRANT USAGE ON SCHEMA orchestrator TO app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, orchestrator TO app",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA orchestrator TO app",
)


@asynccontextmanager
async def rigged(
    own_postgres: Callable[[], EmbeddedPostgres], clients: int = CLIENTS
) -> AsyncIterator[tuple[Rig, RealService, Load]]:
    """A service under load; the load ends before the service does."""
    server = own_postgres()
    rig = Rig(server, await asyncio.to_thread(server.start))
    processors = await rig.prepare(clients)
    async with run_on(rig.url) as service:
        await eventually(service.is_healthy)
        load = Load(service.url, processors)
        async with loading(load):
            await eventually(lambda: len(load.acknowledged_at) == clients)
            yield rig, service, load


@asynccontextmanager
async def loading(load: Load) -> AsyncIterator[None]:
    task = asyncio.create_task(load.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Stopped:
    async def begin(self, rig: Rig) -> None:
        await asyncio.to_thread(rig.server.stop)

    async def end(self, rig: Rig) -> None:
        await asyncio.to_thread(rig.server.start)


class Frozen:
    async def begin(self, rig: Rig) -> None:
        rig.signal(signal.SIGSTOP)

    async def end(self, rig: Rig) -> None:
        rig.signal(signal.SIGCONT)


class ReadOnly:
    async def begin(self, rig: Rig) -> None:
        await self._set(rig, "on")

    async def end(self, rig: Rig) -> None:
        await self._set(rig, "off")

    async def _set(self, rig: Rig, value: str) -> None:
        async with connected(rig.admin_url) as admin:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            await admin.execute("SELECT pg_reload_conf()")


class OutOfConnections:
    async def begin(self, rig: Rig) -> None:
        async with connected(rig.admin_url) as admin:
            await admin.execute("ALTER ROLE app CONNECTION LIMIT 0")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
            )

    async def end(self, rig: Rig) -> None:
        async with connected(rig.admin_url) as admin:
            await admin.execute("ALTER ROLE app CONNECTION LIMIT -1")


@pytest.mark.parametrize("outage", [Stopped(), Frozen(), ReadOnly(), OutOfConnections()])
async def test_an_outage_is_answered_told_and_survived(own_postgres, outage):
    async with rigged(own_postgres) as (rig, service, load):
        ill_at = time.monotonic()
        await outage.begin(rig)
        try:
            await eventually(lambda: _is_unhealthy(service), 6)
            began = time.monotonic()
            status, health = await service.get("/healthz")
            assert status == 503
            assert health["components"]["database"]["message"]
            assert (await service.get("/livez"))[0] == 200
            assert (await service.get("/readyz"))[0] == 503
            await eventually(lambda: time.monotonic() - began > 4)
            during = load.since(began)
            assert len(during) > CLIENTS
            assert not any(content["acknowledged"] for content in during)
            unknown = await service.beat(processor_id=str(uuid4()))
            assert unknown["directive"] == "continue"
            assert not unknown["acknowledged"]
            assert await service.metric("dory_hearing ") == 0
            assert await service.metric("dory_circuit_breaker_transitions_total") >= 1
        finally:
            await outage.end(rig)
        back = time.time()
        await eventually(
            lambda: all(at > back for at in load.acknowledged_at.values()), RESUME_SECONDS_MAX
        )
        await eventually(service.is_healthy, 10)
        load.check()
        async with connected(rig.admin_url) as admin:
            gap = await admin.fetchval(
                "SELECT extract(epoch FROM max(ended_at - began_at)) FROM orchestrator.gaps"
            )
        assert 4 <= gap <= time.monotonic() - ill_at + patient(1)


async def _is_unhealthy(service: RealService) -> bool:
    return (await service.get("/healthz"))[0] == 503


async def test_a_restart_of_the_database_costs_a_moment(own_postgres):
    async with rigged(own_postgres) as (rig, _, load):
        await asyncio.to_thread(rig.server.stop, True)
        await asyncio.to_thread(rig.server.start)
        back = time.time()
        await eventually(
            lambda: all(at > back for at in load.acknowledged_at.values()), RESUME_SECONDS_MAX
        )
        load.check()


async def test_a_locked_row_costs_only_its_own_beats(own_postgres):
    async with rigged(own_postgres) as (rig, service, load), connected(rig.admin_url) as portal:
        transaction = portal.transaction()
        await transaction.start()
        locked = load.processors[0]
        await portal.execute("UPDATE processors SET name = 'held' WHERE id = $1", locked)
        held, held_at = time.monotonic(), time.time()
        await eventually(lambda: time.monotonic() - held > 3)
        during = [answer for answer in load.answers if answer[0] >= held]
        refused = [content for _, _, content in during if not content["acknowledged"]]

        # One of the clients is not recorded, at its own pace; all others are, at theirs.
        assert 0 < len(refused) <= 1.5 * len(during) / CLIENTS
        assert all(load.acknowledged_at[other] > held_at for other in load.processors[1:])
        # Were they held up, each would take the limit.
        assert sorted(took for _, took, _ in during)[len(during) // 2] < 1.0
        assert (await service.get("/healthz"))[0] == 200
        await transaction.rollback()
        back = time.time()
        await eventually(lambda: load.acknowledged_at[locked] > back)
        load.check()


async def test_a_locked_edge_node_does_not_block_beats_or_the_breaker(own_postgres):
    async with rigged(own_postgres) as (rig, service, load), connected(rig.admin_url) as portal:
        (node,) = await portal.fetch("SELECT name, organization_id FROM edge_nodes LIMIT 1")
        name, organization = node
        transaction = portal.transaction()
        await transaction.start()
        await portal.execute("SELECT FROM edge_nodes WHERE name = $1 FOR UPDATE", name)
        body = {"name": name, "node_name": name, "organization_id": str(organization)}
        for _ in range(4):
            answers = await asyncio.gather(
                service.post("/api/v1/edge/nodes", body),
                service.post("/api/v1/edge/nodes/decommission", body),
            )
            assert {status for status, _ in answers} == {503}
        assert await service.metric("dory_circuit_breaker_transitions_total") == 0
        await transaction.rollback()
        assert (await service.post("/api/v1/edge/nodes", body))[0] == 201
        load.check()


@pytest.mark.timeout(150)
async def test_memory_does_not_grow_during_a_minute_of_outage_under_load(own_postgres):
    async with rigged(own_postgres) as (rig, service, load):
        (process,) = service.children("api")
        rig.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            await eventually(lambda: time.monotonic() - began > 10, 12)  # pools and buffers fill
            sizes = []
            while time.monotonic() - began < 70:
                sizes.append(process.memory_info().rss)
                await asyncio.sleep(0.5)
        finally:
            rig.signal(signal.SIGCONT)
        half = len(sizes) // 2
        grown = sorted(sizes[half:])[half // 2] - sorted(sizes[:half])[half // 2]
        assert grown < 512 * 1024, sizes
        back = time.time()
        await eventually(
            lambda: all(at > back for at in load.acknowledged_at.values()), RESUME_SECONDS_MAX
        )
        load.check()


async def test_a_killed_database_forgets_at_most_a_second_of_beats(own_postgres):
    async with rigged(own_postgres) as (rig, service, load):
        done: dict[str, str] = {}
        changing = asyncio.create_task(change_nodes(service, done))
        await eventually(lambda: len(done) > 20)
        killed_at = time.time()
        assert rig.server.pid is not None
        os.kill(rig.server.pid, signal.SIGKILL)
        changing.cancel()
        recorded, finished = dict(load.recorded_at), dict(done)
        await eventually(lambda: not rig.server.is_alive())
        async with paused(service, load):
            await asyncio.to_thread(rig.server.start)
            async with connected(rig.admin_url) as admin:
                rows = await admin.fetch("SELECT id, last_health_check_at FROM processors")
                nodes = dict(await admin.fetch("SELECT name, status FROM edge_nodes"))
        written = {row["id"]: row["last_health_check_at"].timestamp() for row in rows}
        for processor, at in recorded.items():
            assert written[processor] >= min(at, killed_at) - 1.0
        assert {name: nodes.get(name) for name in finished} == finished
        back = time.time()
        await eventually(
            lambda: all(at > back for at in load.acknowledged_at.values()), RESUME_SECONDS_MAX
        )


@asynccontextmanager
async def paused(service: RealService, load: Load) -> AsyncIterator[None]:
    """No beat is written meanwhile: the process that writes them stands still."""
    (process,) = service.children("api")
    process.suspend()
    try:
        yield
    finally:
        process.resume()


async def change_nodes(service: RealService, done: dict[str, str]) -> None:
    """Register nodes and decommission every second one; what is answered is done."""
    organization = str(uuid4())
    while True:
        name = f"node-{len(done)}"
        try:
            status, _ = await service.post(
                "/api/v1/edge/nodes", {"name": name, "organization_id": organization}
            )
            if status == 201:
                done[name] = "online"
            if status == 201 and len(done) % 2:
                del done[name]  # until it is answered either may be true
                status, _ = await service.post(
                    "/api/v1/edge/nodes/decommission", {"node_name": name}
                )
                if status == 200:
                    done[name] = "decommissioned"
        except (aiohttp.ClientError, asyncpg.PostgresError):
            done.pop(name, None)


async def test_one_connection_is_kept_for_a_client_that_beats_every_15_seconds(database_url):
    async with run_on(database_url) as service:
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for pause_seconds in (0.0, 15.0, 15.0):
            await asyncio.sleep(pause_seconds)  # the time itself is what is tested
            writer.write(
                b"POST /api/v1/edge/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
            )
            async with asyncio.timeout(patient(2)):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
