"""What only PostgreSQL can show of the statements of the one that leads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs
from tests.contract.test_moves import a_home
from tests.contract.test_records import answer
from tests.contract.worlds import (
    PostgresWorld,
    a_pod,
    adopt,
    connected,
    create,
    delete,
    failure,
    forget,
    owner_of,
)
from tests.patience import patient
from tests.store.test_takeover import (
    CREATE_SCHEMA,
    ORGANIZATION,
    PORTAL_TABLES,
    READ,
    WRITE_HEALTH,
    WRITE_NODES,
)

from dory_orchestrator.core.directive import DirectiveReason
from dory_orchestrator.core.grants import GrantRefusal
from dory_orchestrator.core.model import Directive, MoveKind
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.plan import Create, Finding, GuardVerdict, MoveStart, Reason, Record
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Beat,
    Event,
    Lease,
    NodeHealth,
    NodeSummary,
    PodFinding,
    StoreBusy,
)
from dory_orchestrator.store.migrate import upgrade
from dory_orchestrator.store.postgres import PostgresStore

LOCK_SECONDS = 2.0

STRICT_TABLES = """
    CREATE TYPE node_state AS ENUM ('online', 'offline', 'decommissioned');
    CREATE TYPE link_state AS ENUM ('stopped', 'failed_over', 'active');
    CREATE TYPE processor_state AS ENUM ('pending', 'running', 'terminated', 'failed', 'paused');
    CREATE TYPE kind AS ENUM ('edge', 'managed');
    CREATE TYPE health AS ENUM ('unknown', 'healthy', 'unhealthy');
    CREATE TABLE edge_nodes (
        id uuid PRIMARY KEY, organization_id uuid NOT NULL, name varchar(253) NOT NULL,
        status node_state NOT NULL, failover_enabled boolean NOT NULL,
        failover_target_node_id uuid REFERENCES edge_nodes,
        last_heartbeat_at timestamptz(0), created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL
    );
    CREATE TABLE processor_templates (id uuid PRIMARY KEY, slug varchar(80), name varchar(80));
    CREATE TABLE processor_template_versions (
        id uuid PRIMARY KEY, processor_template_id uuid NOT NULL REFERENCES processor_templates,
        version varchar(20), image_uri varchar(200), digest char(71), is_active boolean,
        runtime_config_template json, created_at timestamptz
    );
    CREATE TABLE sensors (
        id uuid PRIMARY KEY, name varchar(10), location_point point, config json
    );
    CREATE TABLE processors (
        id uuid PRIMARY KEY, organization_id uuid, name varchar(80),
        processor_template_id uuid NOT NULL REFERENCES processor_templates,
        sensor_id uuid REFERENCES sensors, node_type kind NOT NULL, k8s_namespace varchar(63),
        status processor_state NOT NULL, health_status health NOT NULL DEFAULT 'unknown',
        last_health_check_at timestamptz(0), pod_name varchar(20), pod_ip char(45),
        node_name varchar(63), created_at timestamptz(0) DEFAULT now(),
        updated_at timestamptz(0) DEFAULT now()
    );
    CREATE TABLE edge_node_apps (
        id uuid PRIMARY KEY, edge_node_id uuid NOT NULL REFERENCES edge_nodes,
        processor_id uuid NOT NULL REFERENCES processors, status link_state NOT NULL,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
    );
    CREATE UNIQUE INDEX ON edge_node_apps (processor_id) WHERE status = 'active';
"""
"""Everything as narrow as `db upgrade` accepts it, with keys between the tables."""


def make_store(url: str) -> PostgresStore:
    return PostgresStore(url, metrics=Metrics(), pool_size=12, timeout_seconds=patient(5))


@asynccontextmanager
async def world_of(url: str) -> AsyncIterator[PostgresWorld]:
    store = make_store(url)
    async with connected(url) as connection:
        yield PostgresWorld(store, connection)
    await store.close()


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[PostgresWorld]:
    async with world_of(database_url) as world:
        yield world


async def lead(world: PostgresWorld, holder: str = "leader", seconds: float = 60) -> Lease:
    term = await world.store.hold_lease(holder, None, seconds)
    assert term is not None
    return Lease(holder, term)


async def place(world: PostgresWorld, lease: Lease, **pod: Any) -> UUID:
    key = await world.desire()
    assert await world.store.grant(lease, [create(key)]) == [True]
    await world.store.record_pods(lease, [Record(key, 1, a_pod(key, **pod))])
    return key


# The tables of others


async def fill(connection: Any) -> tuple[UUID, UUID]:
    """A processor with a template, a version and a sensor, and an edge node."""
    template, node, key, sensor = uuid4(), uuid4(), uuid4(), uuid4()
    await connection.execute("INSERT INTO processor_templates VALUES ($1, 'camera')", template)
    await connection.execute(
        "INSERT INTO processor_template_versions (id, processor_template_id, version, image_uri,"
        " is_active, runtime_config_template) VALUES ($1, $2, '1', 'image', true, '{\"a\": 1}')",
        uuid4(),
        template,
    )
    await connection.execute(
        "INSERT INTO sensors (id, location_point, config) VALUES ($1, '(1,2)', '{\"b\": 2}')",
        sensor,
    )
    await connection.execute(
        "INSERT INTO edge_nodes (id, organization_id, name, status, failover_enabled, created_at,"
        " updated_at) VALUES ($1, $2, 'n1', 'online', true, now(), now())",
        node,
        ORGANIZATION,
    )
    columns = await connection.fetch(
        "SELECT FROM pg_attribute WHERE attrelid = 'processors'::regclass"
        " AND attname = 'secret_of_the_portal'"
    )
    secret = (", secret_of_the_portal", ", 'x'") if columns else ("", "")
    await connection.execute(
        "INSERT INTO processors (id, organization_id, processor_template_id, sensor_id, node_type,"
        f" k8s_namespace, status, health_status{secret[0]})"
        f" VALUES ($1, $2, $3, $4, 'edge', 'apps', 'running', 'unknown'{secret[1]})",
        key,
        ORGANIZATION,
        template,
        sensor,
    )
    return key, node


@pytest.mark.parametrize(
    "tables", [PORTAL_TABLES, STRICT_TABLES, None], ids=["lax", "strict", "own"]
)
async def test_every_statement_works_on_all_tables_that_are_accepted(empty_database_url, tables):
    async with connected(empty_database_url) as connection:
        if tables is not None:
            await connection.execute(tables)
        await asyncio.to_thread(upgrade, empty_database_url)
        key, node = await fill(connection)
        async with world_of(empty_database_url) as world:
            await exercise(world, key, node)
            assert await world.status_of(key) == "running"


async def exercise(world: PostgresWorld, key: UUID, node: UUID) -> None:
    """Each statement once, and what it says."""
    store, lease = world.store, await lead(world)
    desired = await store.read_desired()
    config = desired.configs[key]
    assert (config.namespace, config.node_type, config.status) == ("apps", "edge", "running")
    assert (config.template_slug, [v.image_uri for v in config.versions]) == ("camera", ["image"])
    assert (config.sensor_config, config.sensor_location) == ('{"b": 2}', "(1,2)")
    assert (desired.edge_nodes[node].name, desired.edge_nodes[node].takes_work) == ("n1", True)
    assert desired.ownership == {}

    assert await store.grant(lease, [create(key, edge_node_id=node)]) == [True]
    assert (await store.read_desired()).links[key] == node
    pod = a_pod(key, ready=True)
    await store.record_pods(lease, [Record(key, 1, pod)])
    assert await store.show_pods(lease, [Record(key, 1, pod)]) == set()
    assert [t and t.strip() for t in await world.shown_of(key)] == [pod.name, pod.ip, "n1"]
    for healthy, health in ((True, "healthy"), (False, "unhealthy"), (True, "healthy")):
        await store.record_pod_health([PodFinding(key, healthy)])
        assert await world.health_of(key) == health
    (facts,) = await store.record_heartbeats(
        [Beat(key, "n1", False)], canary=True, timeout_seconds=patient(5)
    )
    assert (facts.found, facts.recorded, facts.deletion_undecided) == (True, True, False)
    assert await world.health_of(key) == "unhealthy"

    assert await store.grant(lease, [failure(key, 1, pod), delete(pod)]) == [True, True]
    other = a_pod(uuid4())
    assert await store.grant(lease, [adopt(other), forget(key)]) == [True, False]
    assert other.processor_id is not None
    assert await store.grant(lease, [forget(other.processor_id)]) == [True]
    await store.record_findings(lease, {key: Finding(Reason.RUNNING, "", pod)}, [])
    await store.record_nodes(
        lease, [NodeSummary("n1", "edge", True, 1.0, False, 1, 1, 0, 1, 1, 0.5)], []
    )
    await store.record_guard(lease, GuardVerdict({"all": (9, 0)}, (pod,)))
    await store.record_guard(lease, GuardVerdict())
    await store.record_events(lease, [Event("a", "b", "c")])
    await store.forget_events(60)
    await store.release_lease(lease)


async def test_a_role_needs_the_documented_rights_alone(empty_database_url):
    role = f"limited_{uuid4().hex[:8]}"
    async with connected(empty_database_url) as connection:
        await connection.execute(STRICT_TABLES)
        key, node = await fill(connection)
        database = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"CREATE ROLE {role} LOGIN")
        for grant in (READ, WRITE_NODES, WRITE_HEALTH, CREATE_SCHEMA):
            await connection.execute(grant.format(role=role, database=database))
        url = empty_database_url.replace("postgres:@", f"{role}:@")
        assert url != empty_database_url
        await asyncio.to_thread(upgrade, url)
        try:
            store = make_store(url)
            await exercise(PostgresWorld(store, connection), key, node)
            await store.close()
        finally:
            await connection.execute(f"DROP OWNED BY {role} CASCADE")
            await connection.execute(f"DROP ROLE {role}")


class TestOnTablesWithoutKeys:
    """Doubled rows, and such as lack an id."""

    @pytest.fixture
    async def world(self, empty_database_url: str) -> AsyncIterator[PostgresWorld]:
        async with connected(empty_database_url) as connection:
            await connection.execute(PORTAL_TABLES)
            await connection.execute("DELETE FROM processors; DELETE FROM edge_node_apps")
            await asyncio.to_thread(upgrade, empty_database_url)
            async with world_of(empty_database_url) as world:
                yield world

    async def test_a_doubled_processor_is_one(self, world):
        key, node = await fill(world.connection)
        await world.connection.execute("INSERT INTO processors SELECT * FROM processors")
        await world.connection.execute(
            "INSERT INTO processor_templates SELECT * FROM processor_templates"
        )
        (config,) = (await world.store.read_desired()).configs.values()
        assert len(config.versions) == 1
        lease = await lead(world)
        assert await world.store.grant(lease, [create(key, edge_node_id=node)]) == [True]
        pod = a_pod(key)
        await world.store.record_pods(lease, [Record(key, 1, pod)])
        assert await world.store.show_pods(lease, [Record(key, 1, pod)]) == set()
        await world.store.record_pod_health([PodFinding(key, False)])
        rows = await world.connection.fetch(
            "SELECT DISTINCT pod_name, node_name, health_status FROM processors"
        )
        assert [tuple(row) for row in rows] == [(pod.name, "n1", "unhealthy")]
        await world.store.record_pod_health([PodFinding(key, True)])
        assert await world.health_of(key) == "healthy"

    async def test_two_rows_that_say_different_things_are_read_alike_each_time(self, world):
        key, _ = await fill(world.connection)
        await world.connection.execute(
            "INSERT INTO processors SELECT * FROM processors;"
            "UPDATE processors SET k8s_namespace = 'other', sensor_id = NULL"
            " WHERE ctid = (SELECT max(ctid) FROM processors)"
        )
        first = (await world.store.read_desired()).configs[key]
        # Every beat moves the rows about.
        for n in range(4):
            await world.connection.execute(
                "UPDATE processors SET health_status = 'healthy'"
                " WHERE ctid = (SELECT ctid FROM processors ORDER BY ctid LIMIT 1)"
            )
            assert (await world.store.read_desired()).configs[key] == first, n

    async def test_of_two_active_links_the_oldest_counts(self, world):
        key, node = await fill(world.connection)
        for edge_node_id, minutes in ((uuid4(), 1), (node, 5), (uuid4(), 3)):
            await world.connection.execute(
                "INSERT INTO edge_node_apps (id, edge_node_id, processor_id, status, created_at)"
                " VALUES ($1, $2, $3, 'active', now() - make_interval(mins => $4))",
                uuid4(),
                edge_node_id,
                key,
                minutes,
            )
        assert (await world.store.read_desired()).links == {key: node}

    async def test_rows_without_an_id_are_none(self, world):
        key, node = await fill(world.connection)
        await world.connection.execute(
            "INSERT INTO processors (status, secret_of_the_portal) VALUES ('running', 'x');"
            "INSERT INTO edge_nodes (name, status) VALUES ('nameless', 'online');"
            "INSERT INTO edge_node_apps (id, status) VALUES (gen_random_uuid(), 'active')"
        )
        await world.connection.execute(
            "INSERT INTO edge_node_apps (id, processor_id, status)"
            " VALUES (gen_random_uuid(), $1, 'active')",
            key,
        )
        desired = await world.store.read_desired()
        assert desired.configs.keys() == {key}
        assert None not in desired.edge_nodes
        assert node in desired.edge_nodes
        assert desired.links == {}


async def test_a_name_too_long_for_the_platform_s_column_holds_nobody_up(empty_database_url):
    async with connected(empty_database_url) as connection:
        await connection.execute(STRICT_TABLES)
        await asyncio.to_thread(upgrade, empty_database_url)
        key, _ = await fill(connection)
        await connection.execute(
            "INSERT INTO processors SELECT gen_random_uuid(), organization_id, name,"
            " processor_template_id, sensor_id, node_type, k8s_namespace, status FROM processors"
        )
        async with world_of(empty_database_url) as world:
            lease = await lead(world)
            (other,) = set((await world.store.read_desired()).configs) - {key}
            await world.store.grant(lease, [create(key), create(other)])
            records = [
                Record(key, 1, a_pod(key, name="x" * 21, uid="long")),
                Record(other, 1, a_pod(other, uid="short")),
            ]
            with capture_logs() as logs:
                await world.store.record_pods(lease, records)
                await world.store.show_pods(lease, records)
            owners = (await world.store.read_desired()).ownership
            assert [owners[k].pod_uid for k in (key, other)] == ["long", "short"]
            assert (await world.shown_of(other))[0] == "pod-1"
            (told,) = [log for log in logs if log["log_level"] == "warning"]
            assert told["processor_id"] == str(key)


# Locks


async def test_rows_of_the_platform_that_somebody_holds_keep_nothing_waiting(world, database_url):
    lease = await lead(world)
    keys = [await world.desire() for _ in range(3)]
    await world.store.grant(lease, [create(key) for key in keys])
    records = [Record(key, 1, a_pod(key)) for key in keys]
    async with connected(database_url) as portal, portal.transaction():
        await portal.execute("UPDATE processors SET name = 'x' WHERE id = $1", keys[1])
        # The lock is held for ever, and a statement that waited for it would be an error.
        await world.store.record_pods(lease, records)
        owners = (await world.store.read_desired()).ownership
        assert all(own.pod_uid is not None for own in owners.values())
        assert await world.store.show_pods(lease, records) == {keys[1]}
        assert [(await world.shown_of(key))[0] for key in keys] == ["pod-1", None, "pod-1"]
        assert await world.store.grant(lease, [create(keys[1], 2)]) == [True]
    # By now it has another owner: what was to be shown is not so any more.
    assert await world.store.show_pods(lease, records) == set()
    assert (await world.shown_of(keys[1]))[0] is None
    now = Record(keys[1], 2, a_pod(keys[1], 2, name="pod-2"))
    assert await world.store.show_pods(lease, [now]) == set()
    assert (await world.shown_of(keys[1]))[0] == "pod-2"


async def test_a_link_that_somebody_holds_refuses_its_own_move_alone(world, database_url):
    lease = await lead(world)
    home = await a_home(world)
    held, free = [await world.desire() for _ in range(2)]
    for key in (held, free):
        await world.link(key, home.id)
    await world.store.grant(lease, [create(key) for key in (held, free)])
    desired = await world.store.read_desired()

    def away(key: UUID) -> Create:
        start = MoveStart(
            kind=MoveKind.FAILOVER,
            from_node=home.name,
            old_uid=None,
            edge_node_id=home.id,
            last_alive_at=None,
            suspect_at=None,
            heartbeat_at=None,
            decided_at=desired.now,
            link_id=home.id,
        )
        return replace(create(key, 2), move=start)

    async with connected(database_url) as portal, portal.transaction():
        await portal.execute(
            "UPDATE edge_node_apps SET updated_at = now() WHERE processor_id = $1", held
        )
        granted = await world.store.grant(lease, [away(held), away(free)])
        assert granted.refusals == [GrantRefusal.LINK_HELD, None]


async def test_an_edge_node_that_somebody_holds_keeps_no_verdict_waiting(world, database_url):
    lease = await lead(world)
    home, other = await a_home(world), await a_home(world, "edge-2")
    record = NodeRecord(NodeState.OFFLINE, NodeReason.DEAD_SILENT, 1.0)
    rows = [NodeHealth(f"edge {n.id}", n.name, n.id, "", True, record) for n in (home, other)]
    async with connected(database_url) as portal, portal.transaction():
        await portal.execute("UPDATE edge_nodes SET updated_at = now() WHERE id = $1", home.id)
        await world.store.record_health(lease, rows, [], None)
        desired = await world.store.read_desired()
        assert desired.node_records == {row.key: record for row in rows}
        assert desired.edge_nodes[other.id].status == "offline"
    await world.store.record_health(lease, rows[:1], [], None)
    assert (await world.store.read_desired()).edge_nodes[home.id].status == "offline"


async def test_an_ownership_that_somebody_holds_is_busy_and_nothing_is_granted(world, database_url):
    lease = await lead(world)
    held, free = await world.desire(), await world.desire()
    await world.store.grant(lease, [create(held)])
    before = await world.events()
    async with connected(database_url) as other, other.transaction():
        await other.execute("UPDATE orchestrator.ownership SET failures = 3")
        with pytest.raises(StoreBusy):
            await world.store.grant(lease, [create(free), create(held, 2)])
        assert await world.store.grant(lease, [create(free)]) == [True]
    assert len(await world.events()) == len(before) + 1
    own = await owner_of(world, held)
    assert (own.epoch, own.failures) == (1, 3)


async def test_a_link_that_somebody_is_making_stays_and_is_no_error(world, database_url):
    lease, key = await lead(world), await world.desire()
    _, node = uuid4(), uuid4()
    async with connected(database_url) as portal:
        transaction = portal.transaction()
        await transaction.start()
        await portal.execute(
            "INSERT INTO edge_node_apps (edge_node_id, processor_id) VALUES ($1, $2)", node, key
        )
        granting = asyncio.create_task(
            world.store.grant(lease, [create(key, edge_node_id=uuid4())])
        )
        await waiting_for_lock(world, 1)
        await transaction.commit()
        assert await granting == [True]
    assert (await world.store.read_desired()).links == {key: node}


# Two at once


async def test_a_deletion_is_not_granted_when_the_epoch_moves_at_the_same_time(world, database_url):
    """An operator's word may change who owns, in the moment in which the old owner is ended."""
    lease = await lead(world)
    key = await place(world, lease)
    async with connected(database_url) as operator:
        transaction = operator.transaction()
        await transaction.start()
        await operator.execute("UPDATE orchestrator.ownership SET epoch = 7, pod_uid = 'new'")
        granting = asyncio.create_task(
            world.store.grant(lease, [delete(a_pod(key), reason=Reason.STALE_OWNER)])
        )
        await waiting_for_lock(world, 1)
        await transaction.commit()
        assert await granting == [False]


async def test_of_two_that_think_they_lead_one_is_granted(world, database_url):
    """Whoever holds the lease: the epochs alone let one of them through."""
    keys = [await world.desire() for _ in range(20)]
    other = make_store(database_url)
    lease = await lead(world)
    answers = await asyncio.gather(
        *(
            store.grant(lease, [create(key) for key in order])
            for store, order in ((world.store, keys), (other, keys[::-1]))
            for _ in range(5)
        )
    )
    await other.close()
    assert sum(map(sum, answers)) == len(keys)
    assert len(await world.events()) == len(keys)


@pytest.fixture
def patient_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock goes on waiting while the test looks."""
    name = "dory_orchestrator.store.control._LOCK_WAIT_MILLISECONDS"
    monkeypatch.setattr(name, str(int(patient(2_000))))


async def test_who_takes_the_lease_over_waits_for_an_open_grant(world, database_url, patient_locks):
    """So that it sees what was granted, and grants nothing twice."""
    lease = await lead(world)
    key = await world.desire()
    held = await place(world, lease)
    async with connected(database_url) as blocker:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute(
            "SELECT FROM orchestrator.ownership WHERE processor_id = $1 FOR UPDATE", held
        )
        granting = asyncio.create_task(world.store.grant(lease, [create(key), create(held, 2)]))
        await waiting_for_lock(world, 1)
        await world.connection.execute("UPDATE orchestrator.leader SET expires_at = now()")
        taking = asyncio.create_task(world.store.hold_lease("next", None, 60))
        await waiting_for_lock(world, 2)
        assert not taking.done()
        await transaction.commit()
        assert await granting == [True, True]
        assert await taking == lease.term + 1
    assert await owner_of(world, key) is not None


async def test_a_lease_is_renewed_while_many_write(world, database_url, patient_locks):
    """It waits for none of them: one after the other, they would keep it until its end."""
    lease = await lead(world)
    keys = [await place(world, lease) for _ in range(5)]
    async with connected(database_url) as blocker, blocker.transaction():
        await blocker.execute("SELECT FROM orchestrator.ownership FOR UPDATE")
        writing = [asyncio.create_task(world.store.grant(lease, [create(key, 2)])) for key in keys]
        await waiting_for_lock(world, len(writing))
        assert await world.store.hold_lease(*lease, patient(60)) == lease.term
        assert not any(task.done() for task in writing)
    assert await asyncio.gather(*writing) == [[True]] * len(keys)


async def waiting_for_lock(world: PostgresWorld, count: int) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    async with asyncio.timeout(patient(1.5)):
        while await world.connection.fetchval(query) < count:
            await asyncio.sleep(0.01)


async def test_who_empties_the_table_of_the_picture_ends_nobody(world):
    lease = await lead(world)
    seen: dict[str, Any] = {
        "interval_seconds": patient(30.0),
        "cluster_uid": None,
        "is_whole": True,
        "unowned": {},
    }
    await world.store.record_picture(lease, **seen)
    assert await answer(world, uuid4()) == (Directive.SHUTDOWN, DirectiveReason.NOT_FOUND)
    await world.connection.execute("TRUNCATE orchestrator.picture")
    assert await answer(world, uuid4()) == (Directive.CONTINUE, DirectiveReason.NO_PICTURE)
    doubts = await world.store.read_doubts()
    assert (doubts.age_seconds, doubts.is_whole, doubts.guard_holds) == (None, False, False)
    assert doubts.database
    assert (await world.store.record_picture(lease, **seen)).is_taken
    assert await answer(world, uuid4()) == (Directive.SHUTDOWN, DirectiveReason.NOT_FOUND)


async def test_of_a_database_whose_tables_are_all_emptied_health_is_told(world):
    lease = await lead(world)
    await world.store.record_guard(lease, GuardVerdict({"all": (8, 1)}, (a_pod(uuid4()),)))
    await world.connection.execute(
        "TRUNCATE orchestrator.picture, orchestrator.fleet, orchestrator.guard,"
        " orchestrator.leader, orchestrator.ownership, processors CASCADE"
    )
    for _ in range(2):
        directive, _reason = await answer(world, uuid4())
        assert directive is Directive.CONTINUE
    doubts = await world.store.read_doubts()
    assert (doubts.age_seconds, doubts.cluster_uid, doubts.guard_holds) == (None, None, False)
