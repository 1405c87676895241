"""What only PostgreSQL can show: locks, types, rights, durability, time."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psutil
import pytest
from tests.contract.worlds import PostgresWorld, connected
from tests.patience import patient
from tests.store.test_takeover import ORGANIZATION, PORTAL_TABLES

from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.core.breaker import BreakerLimits
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Beat,
    EdgeNodeNotFound,
    EdgeNodeRegistration,
    SchemaError,
    StoreBusy,
    StoreDataError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from dory_orchestrator.store.errors import translate
from dory_orchestrator.store.migrate import upgrade
from dory_orchestrator.store.postgres import PostgresStore

LIMIT_SECONDS = patient(3)


def make_store(url: str, **options: Any) -> PostgresStore:
    return PostgresStore(
        url,
        metrics=options.pop("metrics", Metrics()),
        pool_size=3,
        timeout_seconds=LIMIT_SECONDS,
        **options,
    )


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[PostgresWorld]:
    store = make_store(database_url)
    async with connected(database_url) as connection:
        yield PostgresWorld(store, connection)
    await store.close()


async def record(store: Any, *beats: Beat, canary: bool = False, seconds: float = LIMIT_SECONDS):
    return await store.record_heartbeats(beats, canary=canary, timeout_seconds=seconds)


class TestOnTheTablesOfAPortal:
    """Enums, domains, no keys, duplicates: every statement works all the same."""

    @pytest.fixture
    async def world(self, empty_database_url: str) -> AsyncIterator[PostgresWorld]:
        async with connected(empty_database_url) as connection:
            await connection.execute(PORTAL_TABLES)
            await asyncio.to_thread(upgrade, empty_database_url)
            store = make_store(empty_database_url)
            yield PostgresWorld(store, connection)
            await store.close()

    async def test_heartbeats_reach_every_row_of_a_doubled_id(self, world):
        key = UUID("00000000-0000-0000-0000-00000000000b")
        (facts,) = await record(world.store, Beat(key, "n", False))
        assert (facts.found, facts.recorded, facts.status) == (True, True, "paused")
        rows = await world.connection.fetch("SELECT health_status FROM processors")
        assert [row[0] for row in rows] == ["unhealthy", "unhealthy"]

    async def test_a_doubled_row_that_is_ended_does_not_shut_the_other_down(self, world):
        key = UUID("00000000-0000-0000-0000-00000000000b")
        await world.connection.execute(
            "UPDATE processors SET status = 'terminated'"
            " WHERE ctid = (SELECT max(ctid) FROM processors)"
        )
        (facts,) = await record(world.store, Beat(key, "n", True))
        assert facts.status == "paused"

    async def test_doubled_nodes_are_one_to_who_registers_and_both_are_decommissioned(self, world):
        given = EdgeNodeRegistration(name="twin", organization_id=ORGANIZATION)
        first = await world.store.register_edge_node(given)
        assert (await world.store.register_edge_node(given)).id == first.id
        fresh = EdgeNodeRegistration(name="fresh", organization_id=ORGANIZATION)
        assert (await world.store.register_edge_node(fresh)).status == "online"

        assert await world.store.decommission_edge_node("twin", None) == 0
        states = await world.connection.fetch("SELECT status FROM edge_nodes WHERE name = 'twin'")
        assert {row[0] for row in states} == {"decommissioned"}

    async def test_configurations_are_listed(self, world):
        (config,) = (await world.store.read_desired()).configs.values()
        assert (config.status, config.template_slug, config.versions) == ("paused", None, ())


async def test_a_row_that_somebody_holds_is_skipped_at_once(world, database_url):
    held, free = await world.add_processor(), await world.add_processor()
    async with connected(database_url) as portal, portal.transaction():
        await portal.execute("UPDATE processors SET name = 'x' WHERE id = $1", held)
        facts = await record(world.store, Beat(held, "", True), Beat(free, "", True))
    assert [fact.recorded for fact in facts] == [False, True]
    assert await world.health_of(held) == "unknown"


async def test_a_held_edge_node_leaves_its_beats_unrecorded(world, database_url):
    node = await world.store.register_edge_node(
        EdgeNodeRegistration(name="a", organization_id=uuid4())
    )
    key = await world.add_processor(edge_node_id=node.id)
    async with connected(database_url) as portal, portal.transaction():
        await portal.execute("SELECT FROM edge_nodes FOR UPDATE")
        (facts,) = await record(world.store, Beat(key, "", True))
    assert not facts.recorded


async def test_a_link_to_a_node_that_is_gone_is_no_link(world):
    key = await world.add_processor(edge_node_id=uuid4())
    (facts,) = await record(world.store, Beat(key, "", True))
    assert facts.recorded


async def test_a_beat_from_the_node_that_was_left_is_its_sign_of_life(world):
    key = await world.add_processor(left="home", owner="cloud")
    await record(world.store, Beat(key, "cloud", True))
    query = "SELECT last_heartbeat_at FROM edge_nodes WHERE name = 'home'"
    assert await world.connection.fetchval(query) is None
    await record(world.store, Beat(key, "home", True))
    assert await world.connection.fetchval(query) is not None


async def test_two_writers_in_opposite_order_do_not_meet(world, database_url):
    other = make_store(database_url)
    keys = [await world.add_processor() for _ in range(50)]

    async def write(store: Any, order: list[UUID]) -> None:
        for _ in range(20):
            await record(store, *(Beat(key, "", True) for key in order))

    await asyncio.gather(write(world.store, keys), write(other, keys[::-1]))
    await other.close()
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await world.connection.fetchval(deadlocks) == 0


async def test_a_row_that_the_database_refuses_is_found_by_halving(world):
    keys = [await world.add_processor() for _ in range(8)]
    await world.connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'not this one'; END$$"
    )
    await world.connection.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE ON processors FOR EACH ROW"
        f" WHEN (OLD.id = '{keys[3]}') EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(StoreDataError, match="not this one"):
        await record(world.store, Beat(keys[3], "", True))

    recorder = HeartbeatRecorder(world.store, metrics=Metrics())
    task = asyncio.create_task(recorder.run())
    answers = await asyncio.gather(*(recorder.submit(Beat(key, "", True)) for key in keys))
    recorder.close()
    await task
    assert [answer.acknowledged for answer in answers] == [key != keys[3] for key in keys]


async def test_only_beats_give_up_durability(world):
    await record(world.store, canary=True)
    connection = world.store._beats
    setting = await connection.run(
        "ping", lambda c: c.fetchval("SHOW synchronous_commit"), timeout_seconds=patient(2)
    )
    assert setting == "on"


async def test_time_without_a_canary_is_stored_as_a_gap(world):
    await record(world.store, canary=True)
    await world.connection.execute(
        "UPDATE orchestrator.canary SET last_beat_at = now() - interval '1 minute'"
    )
    await record(world.store, canary=False)
    assert await world.connection.fetchval("SELECT count(*) FROM orchestrator.gaps") == 0
    await record(world.store, canary=True)
    await record(world.store, canary=True)
    (gap,) = await world.connection.fetch(
        "SELECT cause, extract(epoch FROM ended_at - began_at)::float AS length,"
        " ended_at = (SELECT max(ended_at) FROM orchestrator.gaps) FROM orchestrator.gaps"
    )
    assert gap["cause"] == "canary"
    assert 60 <= gap["length"] < 62


async def test_a_gap_of_refusals_grows_and_a_later_one_is_another(world):
    await world.store.extend_gap("refused", 10.0)
    await world.store.extend_gap("refused", 11.0)
    lengths = "SELECT extract(epoch FROM ended_at - began_at)::float FROM orchestrator.gaps"
    ((length,),) = await world.connection.fetch(lengths)
    assert 10 <= length < 11
    await world.connection.execute(
        "UPDATE orchestrator.gaps SET ended_at = ended_at - interval '6 seconds'"
    )
    await world.store.extend_gap("refused", 1.0)
    assert len(await world.connection.fetch(lengths)) == 2
    await world.store.forget_gaps(5.0)
    assert len(await world.connection.fetch(lengths)) == 1


async def test_a_node_that_comes_back_after_its_decommission_stays_cordoned(world):
    given = EdgeNodeRegistration(name="a", organization_id=uuid4())
    node = await world.store.register_edge_node(given)
    cordons = "SELECT edge_node_id, cause FROM orchestrator.cordons"
    assert await world.connection.fetch(cordons) == []
    await world.connection.execute("UPDATE edge_nodes SET status = 'decommissioned'")
    assert (await world.store.register_edge_node(given)).status == "online"
    ((cordoned, cause),) = await world.connection.fetch(cordons)
    assert (cordoned, cause) == (node.id, "decommissioned")


async def test_two_active_versions_are_both_listed_and_a_missing_template_is_none(world):
    key = await world.desire("pending")
    orphan = await world.add_processor()
    await world.connection.execute(
        "INSERT INTO processor_template_versions"
        " (processor_template_id, version, image_uri, is_active, runtime_config_template)"
        " SELECT processor_template_id, '2', 'image', true, '{\"a\": 1}'"
        " FROM processor_template_versions"
    )
    configs = (await world.store.read_desired()).configs
    assert {v.version for v in configs[key].versions} == {"1", "2"}
    assert configs[orphan].template_slug is None
    assert configs[orphan].versions == ()


async def test_rows_that_a_policy_hides_are_an_error_and_not_missing(world, database_url):
    await world.add_processor()
    for statement in (
        "CREATE ROLE watched LOGIN",
        "GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO watched",
        "GRANT ALL ON SCHEMA orchestrator TO watched",
        "GRANT ALL ON ALL TABLES IN SCHEMA orchestrator TO watched",
        "ALTER TABLE processors ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY none ON processors USING (false)",
    ):
        await world.connection.execute(statement)
    store = make_store(database_url.replace("postgres:@", "watched:@"))
    try:
        with pytest.raises(StoreError, match="row-level security"):
            await store.read_desired()
        with pytest.raises(StoreError, match="row-level security"):
            await record(store, Beat(uuid4(), "", True))
    finally:
        await store.close()
        await world.connection.execute("DROP OWNED BY watched")
        await world.connection.execute("DROP ROLE watched")


async def test_a_lock_that_is_not_given_is_busy_and_no_fault_of_the_database(world, database_url):
    given = EdgeNodeRegistration(name="a", organization_id=uuid4())
    await world.store.register_edge_node(given)
    async with connected(database_url) as portal, portal.transaction():
        await portal.execute("SELECT FROM edge_nodes FOR UPDATE")
        for _ in range(3):
            with pytest.raises(StoreBusy):
                await world.store.register_edge_node(given)
    await world.store.ping(patient(1))


async def test_a_frozen_server_costs_the_timeout_and_then_nothing(own_postgres):
    server = own_postgres()
    url = await asyncio.to_thread(server.start)
    await asyncio.to_thread(upgrade, url)
    metrics = Metrics()
    store = make_store(url, metrics=metrics, breaker=BreakerLimits(2, patient(0.2)))
    await record(store, canary=True)
    backends = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
    try:
        for backend in backends:
            backend.send_signal(signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(StoreTimeout, match=r"no answer within 0\.3 s"):
                await record(store, seconds=0.3)
        # Not after a limit: at once.
        with pytest.raises(StoreUnavailable, match="circuit breaker open: no answer within"):
            await record(store, seconds=3_600)
        assert (
            metrics.registry.get_sample_value(
                "dory_circuit_breaker_state", {"component": "database"}
            )
            == 2
        )
    finally:
        for backend in backends:
            backend.send_signal(signal.SIGCONT)
    async with asyncio.timeout(patient(5)):
        while True:
            try:
                await record(store, canary=True)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    transitions = {
        (s.labels["from_state"], s.labels["to_state"]): s.value
        for s in next(iter(metrics.breaker_transitions.collect())).samples
        if s.name.endswith("_total")
    }
    assert transitions[("closed", "open")] == 1
    assert transitions[("half_open", "closed")] == 1
    baseline = asyncio.all_tasks()
    await store.close()
    assert {task for task in asyncio.all_tasks() if not task.done()} <= baseline


async def test_cancelling_a_call_leaves_no_connection_behind(world):
    task = asyncio.create_task(
        world.store._others.run(
            "ping", lambda c: c.execute("SELECT pg_sleep(3600)"), timeout_seconds=3_600
        )
    )
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND"
        " datname = current_database() AND state = 'active'"
    )
    async with asyncio.timeout(patient(3)):
        while not await world.connection.fetchval(sleeping):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.store.ping(patient(2))
    async with asyncio.timeout(patient(3)):
        while world.store._others.open_connections > 1:
            await asyncio.sleep(0.01)


async def test_the_listener_hears_of_a_lost_connection(world):
    async with world.store.changes() as changes:
        await world.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE '%listener%' AND datname = current_database()"
        )
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(patient(3)):
                await anext(changes)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncpg.TooManyConnectionsError("x"), StoreUnavailable),
        (asyncpg.CannotConnectNowError("x"), StoreUnavailable),
        (asyncpg.ReadOnlySQLTransactionError("x"), StoreUnavailable),
        (asyncpg.InvalidPasswordError("x"), StoreUnavailable),
        (asyncpg.DiskFullError("x"), StoreUnavailable),
        (asyncpg.QueryCanceledError("x"), StoreTimeout),
        (asyncpg.DeadlockDetectedError("x"), StoreBusy),
        (asyncpg.LockNotAvailableError("x"), StoreBusy),
        (asyncpg.CheckViolationError("x"), StoreDataError),
        (asyncpg.DataError("x"), StoreDataError),
        (asyncpg.UndefinedTableError("x"), StoreError),
        (ConnectionRefusedError("x"), StoreUnavailable),
        (TimeoutError(), StoreTimeout),
        (asyncpg.InterfaceError("x"), StoreUnavailable),
    ],
)
def test_each_driver_error_has_a_name_of_ours(error, kind):
    assert type(translate(error)) is kind


async def test_a_right_that_is_missing_on_our_own_tables_is_named(world, database_url):
    for statement in (
        "CREATE ROLE poor LOGIN",
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO poor",
        "GRANT USAGE ON SCHEMA orchestrator TO poor",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA orchestrator TO poor",
        "REVOKE UPDATE ON orchestrator.canary FROM poor",
    ):
        await world.connection.execute(statement)
    store = make_store(database_url.replace("postgres:@", "poor:@"))
    try:
        with pytest.raises(SchemaError, match=r"orchestrator\.canary: the right to UPDATE"):
            await store.verify_schema()
    finally:
        await store.close()
        await world.connection.execute("DROP OWNED BY poor")
        await world.connection.execute("DROP ROLE poor")


async def test_a_locked_table_opens_the_breaker_but_does_not_fail_the_probe(world, database_url):
    async with connected(database_url) as portal, portal.transaction():
        await portal.execute("LOCK TABLE processors IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            with pytest.raises(StoreTimeout):
                await record(world.store, canary=True, seconds=0.2)
        with pytest.raises(StoreUnavailable, match="breaker open"):
            await record(world.store, canary=True, seconds=0.2)
        await world.store.ping(patient(1))


async def test_a_client_s_mistake_is_no_error_of_the_database(database_url):
    metrics = Metrics()
    store = make_store(database_url, metrics=metrics)
    for _ in range(4):
        with pytest.raises(EdgeNodeNotFound):
            await store.decommission_edge_node("nobody", None)
    await store.ping(1)
    await store.close()
    errors = next(iter(metrics.database_errors.collect())).samples
    assert sum(s.value for s in errors if s.name.endswith("_total")) == 0


async def test_a_database_that_was_not_migrated_is_named(empty_database_url):
    store = make_store(empty_database_url)
    with pytest.raises(SchemaError, match="db upgrade"):
        await store.verify_schema()
    await store.close()
