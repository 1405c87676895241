"""A database that moves, is turned read-only, or is not heard of any more: the store finds the
one to write to again by itself, on every kind of connection that it keeps.

How long that may take, on the event loop's clock, from when the database can be reached: a
listener asks each second and is answered within `CHECK_SECONDS`; then the watcher waits for a
second and connects. Whoever writes is told by its next call, which is over after 2 s, of one
connection that it holds; the breaker opens after three failures and lets a call through after a
second. So 6 s are enough on a machine that has the time; the figure is printed, and whether it is
more than the 10 s that are promised. The limit is that of a machine without time.
"""

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.contract.worlds import connected
from tests.patience import patient
from tests.pooler import needs_pgbouncer, pooled
from tests.proxy import proxied
from tests.standby import Pair, paired

from dory_orchestrator.core.database_url import read
from dory_orchestrator.core.model import Desired
from dory_orchestrator.loops.watch import Watcher
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Beat, StoreError, StoreUnavailable
from dory_orchestrator.store import driver
from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.migrate import connect, current, upgrade
from dory_orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.timeout(300)

WELL_SECONDS = 10.0
LIMIT_SECONDS = patient(WELL_SECONDS)


class Fleet:
    """One store with everything that holds connections: beats, lease, reading, a listener."""

    def __init__(self, store: PostgresStore, processor: UUID) -> None:
        self.store = store
        self.processor = processor
        self.wakes = 0
        self.watcher = Watcher(
            store, metrics=Metrics(), poll_interval_seconds=3600.0, on_change=self._woken
        )
        self.reads: list[Desired] = []

    def _woken(self) -> None:
        self.wakes += 1

    async def beats(self) -> bool:
        beat = Beat(self.processor, "n", True)
        (facts,) = await self.store.record_heartbeats([beat], canary=True, timeout_seconds=1.5)
        return facts.recorded

    async def leads(self) -> bool:
        return await self.store.hold_lease("us", None, 60.0) is not None

    async def reads_desired(self) -> bool:
        return self.processor in (await self.store.read_desired()).configs

    async def answers(self) -> bool:
        await self.store.ping(2.0)
        return True

    async def hears(self, url: str) -> bool:
        """Does a change of a row, on the server that is to be written to, wake us?"""
        before = self.wakes
        async with connected(url) as connection:
            await connection.execute("UPDATE processors SET name = $1", str(uuid4()))
        async with asyncio.timeout(1.0):
            while self.wakes == before:
                await asyncio.sleep(0.01)
        return True

    async def is_well(self, url: str) -> bool:
        """All at once, each for itself: what fails says so, and is asked again."""
        asked = (self.beats(), self.leads(), self.reads_desired(), self.answers(), self.hears(url))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(
                answer, StoreError | TimeoutError
            ):
                raise answer
        return all(answer is True for answer in answers)

    async def becomes_well(self, url: str) -> None:
        """Within the limit, by itself; `url` is that of the server to write to."""
        began = time.monotonic()
        async with asyncio.timeout(LIMIT_SECONDS):
            while not await self.is_well(url):
                await asyncio.sleep(0.1)
        took = time.monotonic() - began
        late = "" if took <= WELL_SECONDS else f": more than {WELL_SECONDS:g} s"
        sys.stderr.write(f"well again after {took:.1f} s{late}\n")


@asynccontextmanager
async def fleet_on(url: str, admin_url: str) -> AsyncIterator[Fleet]:
    """Each connection of it is open and has been used, so that it has something to lose."""
    async with connected(admin_url) as connection:
        processor = await connection.fetchval(
            "INSERT INTO processors (processor_template_id, status) VALUES ($1, 'running')"
            " RETURNING id",
            uuid4(),
        )
    store = PostgresStore(url, metrics=Metrics(), pool_size=3, timeout_seconds=2.0)
    fleet = Fleet(store, processor)
    listening = asyncio.create_task(fleet.watcher.listen())
    try:
        await fleet.becomes_well(admin_url)
        # Several at once: as many connections lie in the pool as it may hold.
        await asyncio.gather(*(store.read_desired() for _ in range(3)))
        yield fleet
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await store.close()


async def test_a_firewall_that_forgets_open_connections_costs_a_moment(database_url):
    async with proxied(database_url) as proxy, fleet_on(proxy.url, database_url) as fleet:
        proxy.forget()
        await fleet.becomes_well(database_url)


async def test_a_listener_asks_by_itself_whether_it_could_still_hear(database_url):
    """Nothing else of its process uses the database: nobody else would find out."""
    async with proxied(database_url) as proxy:
        store = PostgresStore(proxy.url, metrics=Metrics(), pool_size=3, timeout_seconds=2.0)
        async with store.changes() as changes:
            proxy.forget()
            with pytest.raises(StoreUnavailable, match="was lost"):
                async with asyncio.timeout(LIMIT_SECONDS):
                    await anext(changes)
        await store.close()


async def test_who_may_wait_for_long_is_given_a_connection_that_answers(database_url):
    """Not an error after the whole of its time, for each connection that lies in the pool."""
    async with proxied(database_url) as proxy:
        store = PostgresStore(proxy.url, metrics=Metrics(), pool_size=3, timeout_seconds=2.0)
        await asyncio.gather(*(store.read_desired() for _ in range(3)))
        proxy.forget()
        await store.read_desired()
        await store.close()


async def test_connections_that_are_cut_cost_a_moment(database_url):
    async with proxied(database_url) as proxy, fleet_on(proxy.url, database_url) as fleet:
        proxy.cut()
        await fleet.becomes_well(database_url)


@pytest.fixture
async def pair(own_postgres: Callable[[], EmbeddedPostgres]) -> Pair:
    return await paired(own_postgres)


async def test_a_switchover_behind_the_same_address_is_followed(pair):
    async with proxied(pair.primary_url) as proxy, fleet_on(proxy.url, pair.primary_url) as fleet:
        await pair.promote()
        await pair.turn_read_only()
        proxy.point_at(pair.standby_url)
        await fleet.becomes_well(pair.standby_url)


async def test_a_standby_that_is_promoted_after_its_primary_died_is_found_in_a_list(pair):
    with pytest.raises(StoreUnavailable, match="takes no writes: it is read-only, or a standby"):
        await asyncio.to_thread(upgrade, pair.standby_url)
    # Who only looks is let in: what is wrong there can be told.
    connection = await connect(pair.standby_url)
    await connection.close()
    async with proxied(pair.primary_url) as one, proxied(pair.standby_url) as two:
        # The standby stands first: it answers, and is not the one to write to.
        url = f"postgresql://postgres@127.0.0.1:{two.port},127.0.0.1:{one.port}/dory"
        async with fleet_on(url, pair.primary_url) as fleet:
            await one.stop()
            await pair.promote()
            await fleet.becomes_well(pair.standby_url)


async def test_a_name_that_leads_elsewhere_is_followed(pair, tmp_path):
    # A folder of a socket is the name here: its link is followed anew by each connection.
    name = tmp_path / "db"
    name.symlink_to(_folder(pair.primary_url))
    url = f"postgresql://postgres@/dory?host={name}"
    async with fleet_on(url, pair.primary_url) as fleet:
        await pair.promote()
        await pair.turn_read_only()
        name.unlink()
        name.symlink_to(_folder(pair.standby_url))
        await fleet.becomes_well(pair.standby_url)


async def test_a_host_that_swallows_everything_does_not_hide_the_next(database_url):
    with socket.socket() as hole:
        # Its queue is full: who connects waits for ever.
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        fillers = [await _begin_connecting(port) for _ in range(4)]
        async with proxied(database_url) as proxy:
            hosts = f"127.0.0.1:{port},127.0.0.1:{proxy.port}"
            url = f"postgresql://postgres@{hosts}/{read(database_url).database}"
            async with fleet_on(url, database_url) as fleet:
                assert await fleet.beats()
        for filler in fillers:
            filler.close()


@needs_pgbouncer
async def test_a_pooler_that_loses_its_servers_and_is_killed_costs_a_moment(database_url, folder):
    async with pooled(database_url, folder) as pooler, fleet_on(pooler.url, database_url) as fleet:
        async with connected(database_url) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await fleet.becomes_well(database_url)
        pooler.kill()
        await pooler.start()
        await fleet.becomes_well(database_url)


@needs_pgbouncer
async def test_tls_as_the_url_says(database_url, folder):
    await asyncio.to_thread(_make_certificate, folder)
    files = {"client_tls_key_file": "key.pem", "client_tls_cert_file": "cert.pem"}
    tls = {name: str(folder / file) for name, file in files.items()}
    async with pooled(database_url, folder, client_tls_sslmode="require", **tls) as pooler:
        authority = f"sslrootcert={folder / 'cert.pem'}"
        by_name = pooler.url.replace("127.0.0.1", "localhost")
        for url in (
            f"{pooler.url}?sslmode=require",
            f"{pooler.url}?ssl=true&channel_binding=prefer",
            f"{pooler.url}?sslmode=verify-ca&{authority}",
            f"{by_name}?sslmode=verify-full&{authority}",
        ):
            connection = await driver.connect(read(url), timeout_seconds=LIMIT_SECONDS)
            assert connection._transport.get_extra_info("ssl_object") is not None  # type: ignore[attr-defined]
            await connection.close()
        for url in (
            f"{pooler.url}?sslmode=disable",
            f"{pooler.url}?sslmode=verify-full&{authority}",  # not its name
            f"{by_name}?sslrootcert=system",  # signed by nobody that is known
        ):
            with pytest.raises((OSError, asyncpg.PostgresError)):
                await driver.connect(read(url), timeout_seconds=LIMIT_SECONDS)


async def test_what_a_url_says_of_the_session_holds(database_url):
    url = (
        f"{database_url}&options=-csearch_path%3Dpg_catalog%20-cgeqo%3Doff&application_name=portal"
    )
    connection = await driver.connect(read(url), "all")
    settings = ("search_path", "geqo", "application_name")
    found = [await connection.fetchval("SELECT current_setting($1)", name) for name in settings]
    assert found == ["pg_catalog", "off", "portal all"]
    await connection.close()


async def test_a_url_goes_the_way_of_the_migrations_too(database_url):
    """SQLAlchemy and Alembic get their connection from us."""
    url = f"{database_url}&connect_timeout=9&keepalives_idle=9&gssencmode=disable&channel_binding=prefer"
    await asyncio.to_thread(upgrade, url)
    assert len(set(await asyncio.to_thread(current, url))) == 1


async def test_a_migration_whose_answer_is_lost_ends(database_url):
    """It waits for minutes for a statement that is worked on, and not for one that is done."""
    async with proxied(database_url) as proxy, connected(database_url) as other:
        await other.execute("SELECT pg_advisory_lock(1685025401, 1935894637)")
        upgrading = asyncio.create_task(asyncio.to_thread(upgrade, proxy.url))
        async with asyncio.timeout(LIMIT_SECONDS):
            while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.05)
        # Two looks and a half: whoever works is left alone.
        assert await asyncio.wait({upgrading}, timeout=5.0) == (set(), {upgrading})
        proxy.forget()
        await other.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(LIMIT_SECONDS):
                await upgrading


async def test_a_connection_is_given_up_by_the_system_too(database_url):
    async with proxied(database_url) as proxy:
        given = "?keepalives_idle=7&keepalives_interval=2&keepalives_count=4&tcp_user_timeout=9000"
        for url, expected in (
            (proxy.url, (1, 3, 1, 3, 5000)),
            (proxy.url + given, (1, 7, 2, 4, 9000)),
        ):
            connection = await driver.connect(read(url))
            sock = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
            options = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)] + [
                sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            ]
            assert tuple(options) == expected
            await connection.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the server's user may enter, as pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="dory-test-") as name:
        yield Path(name)


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )


async def _begin_connecting(port: int) -> socket.socket:
    filler = socket.socket()
    filler.setblocking(False)
    filler.connect_ex(("127.0.0.1", port))
    return filler


def _folder(url: str) -> str:
    return read(url).places[0][0]
