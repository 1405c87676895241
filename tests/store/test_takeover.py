"""A database whose tables exist already: taken over without loss, or refused by name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from dory_orchestrator.ports import SchemaError, StoreError
from dory_orchestrator.store.migrate import upgrade
from dory_orchestrator.store.revision import verify

ORGANIZATION = UUID("00000000-0000-0000-0000-00000000000a")

PORTAL_TABLES = """
    CREATE TYPE node_state AS ENUM ('decommissioned', 'online', 'lost', 'offline');
    CREATE TYPE health AS ENUM ('unknown', 'healthy', 'unhealthy');
    CREATE DOMAIN short_text AS varchar(100);
    CREATE DOMAIN label AS short_text;
    CREATE TABLE edge_nodes (
        site text NOT NULL DEFAULT 'nowhere',
        id uuid, organization_id uuid, name label, status node_state,
        failover_enabled boolean, failover_target_node_id uuid,
        last_heartbeat_at timestamptz, created_at timestamptz, updated_at timestamptz
    );
    CREATE TABLE edge_node_apps (
        id uuid NOT NULL, edge_node_id uuid, processor_id uuid, status varchar(20),
        created_at timestamptz, updated_at timestamptz,
        serial_number bigint NOT NULL GENERATED ALWAYS AS IDENTITY
    );
    CREATE TABLE processors (
        id uuid, organization_id uuid, name text, processor_template_id uuid, sensor_id uuid,
        node_type text, k8s_namespace text, status text, health_status health,
        last_health_check_at timestamptz, pod_name text, pod_ip text, node_name text,
        created_at timestamptz, updated_at timestamptz, secret_of_the_portal text NOT NULL
    );
    CREATE TABLE processor_templates (id uuid, slug char(20), name text);
    CREATE TABLE processor_template_versions (
        id uuid, processor_template_id uuid, version text, image_uri text, digest text,
        is_active boolean, runtime_config_template json, created_at timestamptz
    );
    CREATE TABLE sensors (id uuid, name text, location_point point, config jsonb);
    INSERT INTO edge_nodes (id, organization_id, name, status)
        SELECT gen_random_uuid(), '00000000-0000-0000-0000-00000000000a', 'twin', 'lost'
        FROM generate_series(1, 2);
    INSERT INTO edge_node_apps (id, processor_id, status)
        SELECT gen_random_uuid(), '00000000-0000-0000-0000-00000000000b', 'active'
        FROM generate_series(1, 2);
    INSERT INTO processors (id, status, secret_of_the_portal)
        SELECT '00000000-0000-0000-0000-00000000000b', 'paused', 'x' FROM generate_series(1, 2);
"""

TABLES = (
    "edge_nodes",
    "edge_node_apps",
    "processors",
    "processor_templates",
    "processor_template_versions",
    "sensors",
)
READ = f"GRANT SELECT ON {', '.join(TABLES)} TO {{role}}"
WRITE_NODES = "GRANT INSERT, UPDATE ON edge_nodes, edge_node_apps TO {role}"
WRITE_HEALTH = (
    "GRANT UPDATE (health_status, last_health_check_at, pod_name, pod_ip, node_name)"
    " ON processors TO {role}"
)
CREATE_SCHEMA = "GRANT CREATE ON DATABASE {database} TO {role}"
CREATE_TABLES = "GRANT CREATE ON SCHEMA public TO {role}"


class Portal:
    """The database as its owner sees it, and a role that holds only what it is granted."""

    def __init__(self, url: str, role: str) -> None:
        self.url = url
        self.role = role
        self.role_url = urlsplit(url)._replace(netloc=f"{role}:@").geturl()
        self._database = urlsplit(url).path.lstrip("/")

    async def execute(self, statement: str) -> None:
        async with _connected(self.url) as connection:
            await connection.execute(statement.format(role=self.role, database=self._database))

    async def rows(self) -> dict[str, list[Any]]:
        async with _connected(self.url) as connection:
            return {
                table: await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")
                for table in TABLES
            }


@pytest.fixture
async def portal(empty_database_url: str) -> AsyncIterator[Portal]:
    portal = Portal(empty_database_url, f"limited_{uuid4().hex[:8]}")
    await portal.execute("CREATE ROLE {role} LOGIN")
    await portal.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield portal
    await portal.execute("DROP OWNED BY {role} CASCADE")
    await portal.execute("DROP ROLE {role}")


async def test_tables_of_the_owner_are_taken_over_without_loss(portal: Portal) -> None:
    await portal.execute(PORTAL_TABLES)
    shape, rows = await _shape(portal.url), await portal.rows()

    await _upgrade(portal.url)
    await _upgrade(portal.url)

    assert await portal.rows() == rows
    assert await _shape(portal.url) == shape
    await _verify(portal.url)
    assert await _triggers(portal.url) == len(TABLES)


async def test_a_role_with_granted_rights_alone_takes_over(portal: Portal) -> None:
    await portal.execute(PORTAL_TABLES)
    for grant in (READ, WRITE_NODES, WRITE_HEALTH, CREATE_SCHEMA):
        await portal.execute(grant)
    shape, rows = await _shape(portal.url), await portal.rows()

    with capture_logs() as logs:
        await _upgrade(portal.role_url)

    assert await portal.rows() == rows
    assert await _shape(portal.url) == shape
    await _verify(portal.role_url)
    assert await _triggers(portal.url) == 0
    for table in TABLES:
        remedy = f"GRANT TRIGGER ON {table} TO {portal.role}; "
        assert [log["log_level"] for log in logs if log["remedy"].startswith(remedy)] == ["warning"]


async def test_triggers_follow_a_later_grant(portal: Portal) -> None:
    await portal.execute(PORTAL_TABLES)
    for grant in (READ, WRITE_NODES, WRITE_HEALTH, CREATE_SCHEMA):
        await portal.execute(grant)
    await _upgrade(portal.role_url)
    await portal.execute("GRANT TRIGGER ON processors, sensors TO {role}")

    await _upgrade(portal.role_url)

    assert await _triggers(portal.url) == 2
    async with _connected(portal.url) as connection:
        heard: list[object] = []
        await connection.add_listener("orchestrator_changed", lambda *event: heard.append(event))
        await connection.execute("UPDATE processors SET status = 'running'")
        await connection.execute("SELECT 1")
        assert len(heard) == 1


async def test_writers_of_the_platform_need_no_right_of_ours(portal: Portal) -> None:
    """The trigger runs as whoever changes a row; they may know nothing of our schema."""
    await _upgrade(portal.url)
    await portal.execute("GRANT INSERT ON processors TO {role}")

    async with _connected(portal.role_url) as connection:
        await connection.execute(
            "INSERT INTO processors (processor_template_id) VALUES (gen_random_uuid())"
        )


async def test_an_outdated_trigger_is_replaced(portal: Portal) -> None:
    await _upgrade(portal.url)
    await portal.execute(
        "CREATE OR REPLACE TRIGGER orchestrator_changed AFTER UPDATE OF updated_at ON processors"
        " FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.notify_changed()"
    )

    await _upgrade(portal.url)

    async with _connected(portal.url) as connection:
        definition = await connection.fetchval(
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger"
            " WHERE tgname = 'orchestrator_changed' AND tgrelid = 'processors'::regclass"
        )
    assert "INSERT" in definition
    assert "updated_at" not in definition


async def test_missing_tables_are_added_to_those_that_exist(portal: Portal) -> None:
    await portal.execute(PORTAL_TABLES)
    await portal.execute("DROP TABLE sensors, edge_node_apps")

    await _upgrade(portal.url)

    await _verify(portal.url)
    assert len((await portal.rows())["edge_nodes"]) == 2


async def test_a_role_named_as_our_schema_makes_the_platforms_tables_in_public(
    portal: Portal,
) -> None:
    """For such a role, "$user" puts our schema in front of public."""
    await portal.execute('ALTER ROLE {role} SET search_path = orchestrator, "$user", public')
    await portal.execute(CREATE_SCHEMA)
    await portal.execute(CREATE_TABLES)

    await _upgrade(portal.role_url)
    await _verify(portal.role_url)

    async with _connected(portal.url) as connection:
        schema = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = $1"
        assert {await connection.fetchval(schema, table) for table in TABLES} == {"public"}


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        ((), ["create the missing tables edge_nodes, ", "GRANT CREATE ON SCHEMA public TO"]),
        ((CREATE_TABLES,), ["create the schema orchestrator", "GRANT CREATE ON DATABASE"]),
        (
            (CREATE_TABLES, "CREATE SCHEMA orchestrator"),
            [
                "create tables in the schema orchestrator",
                "GRANT USAGE, CREATE ON SCHEMA orchestrator",
            ],
        ),
    ],
)
async def test_a_missing_right_is_named(
    portal: Portal, granted: tuple[str, ...], expected: list[str]
) -> None:
    for grant in granted:
        await portal.execute(grant)

    with pytest.raises(StoreError) as caught:
        await _upgrade(portal.role_url)

    for text in expected:
        assert text in str(caught.value)
    async with _connected(portal.url) as connection:
        assert await connection.fetchval("SELECT to_regclass('processors')") is None


async def test_verify_says_when_our_schema_cannot_be_read(portal: Portal) -> None:
    await _upgrade(portal.url)

    with pytest.raises(SchemaError, match="schema orchestrator cannot be read"):
        await _verify(portal.role_url)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ALTER TABLE processors DROP node_type", "processors.node_type is missing"),
        (
            "ALTER TABLE processors DROP id; ALTER TABLE processors ADD id bigint",
            "processors.id is bigint, needed is uuid",
        ),
        (
            "ALTER TABLE edge_nodes ALTER last_heartbeat_at TYPE timestamp",
            "edge_nodes.last_heartbeat_at is timestamp without time zone,"
            " needed is timestamp with time zone",
        ),
        (
            "ALTER TABLE edge_nodes ALTER failover_enabled TYPE int USING 1",
            "edge_nodes.failover_enabled is integer, needed is boolean",
        ),
        (
            "ALTER TABLE processors ALTER status TYPE int USING 1",
            "processors.status is integer, needed is text",
        ),
        (
            "ALTER TABLE sensors ALTER config TYPE text",
            "sensors.config is text, needed is jsonb",
        ),
        (
            "ALTER TABLE sensors ALTER location_point TYPE text",
            "sensors.location_point is text, needed is point",
        ),
        (
            "CREATE TYPE few AS ENUM ('online', 'offline');"
            "ALTER TABLE edge_nodes ALTER status TYPE few USING 'online'",
            "edge_nodes.status is few, which lacks the value 'decommissioned'",
        ),
        (
            "CREATE TYPE few AS ENUM ('active', 'stopped');"
            "ALTER TABLE edge_node_apps ALTER status TYPE few USING 'active'",
            "edge_node_apps.status is few, which lacks the value 'failed_over'",
        ),
        (
            "CREATE TYPE few AS ENUM ('healthy'); CREATE DOMAIN fewer AS few;"
            "ALTER TABLE processors ALTER health_status TYPE fewer USING 'healthy'",
            "processors.health_status is fewer, which lacks the value 'unhealthy'",
        ),
        (
            "ALTER TABLE edge_nodes ALTER status TYPE varchar(10) USING 'online'",
            "edge_nodes.status is character varying(10), too short for 'decommissioned'",
        ),
        (
            "ALTER TABLE edge_nodes ALTER site DROP DEFAULT",
            "edge_nodes.site is NOT NULL without a default",
        ),
        (
            "CREATE DOMAIN always AS text NOT NULL; DELETE FROM edge_node_apps;"
            "ALTER TABLE edge_node_apps ADD reason always",
            "edge_node_apps.reason is NOT NULL without a default",
        ),
        (
            "DROP TABLE sensors; CREATE VIEW sensors AS SELECT 1 AS id",
            "sensors is a view, needed is a table",
        ),
        (
            "DROP TABLE sensors; CREATE SEQUENCE sensors",
            "sensors is a sequence, needed is a table",
        ),
    ],
)
async def test_unsuitable_tables_are_refused(portal: Portal, change: str, expected: str) -> None:
    await portal.execute(PORTAL_TABLES)
    await portal.execute(change)

    with pytest.raises(SchemaError) as caught:
        await _upgrade(portal.url)

    assert expected in str(caught.value)
    async with _connected(portal.url) as connection:
        assert await connection.fetchval("SELECT to_regnamespace('orchestrator')") is None


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        ((WRITE_NODES, WRITE_HEALTH), "sensors: SELECT is not granted to limited_"),
        ((READ, WRITE_HEALTH), "edge_nodes: INSERT is not granted to limited_"),
        ((READ, WRITE_HEALTH), "edge_node_apps: UPDATE is not granted to limited_"),
        ((READ, WRITE_NODES), "processors: UPDATE is not granted to limited_"),
        (
            (READ, WRITE_NODES, WRITE_HEALTH, "REVOKE UPDATE (pod_ip) ON processors FROM {role}"),
            "processors.pod_ip: UPDATE is not granted to limited_",
        ),
    ],
)
async def test_missing_rights_on_tables_are_refused(
    portal: Portal, granted: tuple[str, ...], expected: str
) -> None:
    await portal.execute(PORTAL_TABLES)
    for grant in (CREATE_SCHEMA, *granted):
        await portal.execute(grant)

    with pytest.raises(SchemaError) as caught:
        await _upgrade(portal.role_url)

    assert expected in str(caught.value)


async def test_all_problems_are_listed_at_once(portal: Portal) -> None:
    await portal.execute(PORTAL_TABLES)
    await portal.execute("ALTER TABLE processors DROP node_type, DROP pod_ip")
    await portal.execute("ALTER TABLE sensors DROP name")

    with pytest.raises(SchemaError) as caught:
        await _upgrade(portal.url)

    for place in ("processors.node_type", "processors.pod_ip", "sensors.name"):
        assert f"{place} is missing" in str(caught.value)


async def test_verify_finds_what_changed_after_the_upgrade(portal: Portal) -> None:
    await portal.execute(PORTAL_TABLES)
    await _upgrade(portal.url)
    await portal.execute("ALTER TABLE processors DROP pod_ip")

    with pytest.raises(SchemaError, match=r"processors\.pod_ip is missing"):
        await _verify(portal.url)


async def _upgrade(url: str) -> None:
    await asyncio.to_thread(upgrade, url)


async def _verify(url: str) -> None:
    async with _connected(url) as connection:
        await verify(connection)


async def _triggers(url: str) -> int:
    async with _connected(url) as connection:
        count = await connection.fetchval("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal")
        assert isinstance(count, int)
        return count


async def _shape(url: str) -> list[Any]:
    """Everything about the platform's tables that we could have changed, but triggers."""
    async with _connected(url) as connection:
        columns = await connection.fetch(
            "SELECT c.relname, c.relfilenode, c.relowner, c.reloptions, c.relhasindex, a.attname,"
            " a.attnum, a.atttypid, a.atttypmod, a.attnotnull, a.atthasdef"
            " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relname = ANY ($1) AND a.attnum > 0 ORDER BY 1, a.attnum",
            TABLES,
        )
        constraints = await connection.fetch(
            "SELECT conname, conrelid FROM pg_constraint WHERE conrelid::regclass::text = ANY ($1)",
            TABLES,
        )
        return [*columns, *constraints]


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
