"""`fleet apply` against a real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.contract.worlds import connected
from tests.store.test_takeover import PORTAL_TABLES

from dory_orchestrator.core.fleet import COLUMNS, Fleet, Table
from dory_orchestrator.fleet_file import parse
from dory_orchestrator.ports import (
    RequestRefused,
    SchemaError,
    StoreBusy,
    StoreDataError,
    StoreUnavailable,
)
from dory_orchestrator.store.fleet import apply_fleet, fleet_namespace, plan_fleet

NAMESPACE = UUID("7e1c3b2a-0000-4000-8000-000000000001")
PORTAL = UUID("00000000-0000-4000-8000-0000000000aa")
EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet.yaml"
TABLES = (
    "edge_nodes",
    "edge_node_apps",
    "processors",
    "processor_templates",
    "processor_template_versions",
    "sensors",
)
ONE = """
nodes:
  - {name: edge-1, kind: edge}
  - {name: edge-2, kind: edge, failover_target: edge-1}
templates:
  - {slug: counter, version: "1", command: [count], env: {A: x}}
sensors:
  - {name: s, location: [13.4, 52.5], config: {a: 1.0, b: [true, text]}}
processors:
  - {name: p, template: counter, node: edge-1, sensor: s}
  - {name: q, template: counter}
"""


def fleet_of(text: str) -> Fleet:
    return parse(text.encode(), name="fleet.yaml", folder=Path("/srv/fleet"), namespace=NAMESPACE)


@pytest.fixture
async def portal(database_url: str) -> AsyncIterator[Any]:
    """A foreign connection, like the portal's."""
    async with connected(database_url) as connection:
        yield connection


async def rows_of(connection: Any) -> dict[str, list[Any]]:
    """Every row with the transaction that wrote it last."""
    return {
        table: await connection.fetch(f"SELECT *, xmin::text FROM {table} ORDER BY id")
        for table in TABLES
    }


async def processor(connection: Any, name: str) -> Any:
    return await connection.fetchrow("SELECT * FROM processors WHERE name = $1", name)


async def links(connection: Any) -> list[tuple[str, str, str]]:
    found = await connection.fetch(
        "SELECT p.name, n.name AS node, a.status FROM edge_node_apps a"
        " JOIN processors p ON p.id = a.processor_id JOIN edge_nodes n ON n.id = a.edge_node_id"
        " ORDER BY 1, 2, 3"
    )
    return [tuple(row) for row in found]


async def versions(connection: Any) -> list[tuple[str, bool]]:
    found = await connection.fetch(
        "SELECT version, is_active FROM processor_template_versions ORDER BY version"
    )
    return [tuple(row) for row in found]


async def test_everything_is_written(database_url, portal):
    changes = await apply_fleet(database_url, fleet_of(ONE))
    assert len(changes.changes) == 8
    row = await processor(portal, "p")
    assert (row["node_type"], row["status"], row["k8s_namespace"]) == ("edge", "pending", "default")
    assert row["health_status"] == "unknown"
    sensor = await portal.fetchrow("SELECT * FROM sensors")
    assert (sensor["id"], sensor["location_point"]) == (row["sensor_id"], asyncpg.Point(13.4, 52.5))
    assert json.loads(sensor["config"]) == {"a": 1, "b": [True, "text"]}
    (version,) = await portal.fetch("SELECT * FROM processor_template_versions")
    assert version["is_active"]
    assert version["image_uri"] == "local/counter:1"
    assert json.loads(version["runtime_config_template"]) == {
        "container": {"command": ["count"]},
        "env_vars": {"A": "x", "DORY_LOCAL_WORKING_DIR": "/srv/fleet"},
    }
    assert await links(portal) == [("p", "edge-1", "active")]
    target = await portal.fetchval(
        "SELECT t.name FROM edge_nodes n JOIN edge_nodes t ON t.id = n.failover_target_node_id"
        " WHERE n.name = 'edge-2'"
    )
    assert target == "edge-1"


@pytest.mark.parametrize("text", [ONE, EXAMPLE.read_text(encoding="utf-8")])
async def test_a_second_time_nothing_is_written(database_url, portal, text):
    await apply_fleet(database_url, fleet_of(text))
    before = await rows_of(portal)
    woken: list[object] = []
    await portal.add_listener("orchestrator_changed", lambda *event: woken.append(event))

    changes = await apply_fleet(database_url, fleet_of(text), prune=True)

    assert not changes
    assert await rows_of(portal) == before
    assert woken == []


async def test_numbers_survive_the_database(database_url):
    text = (
        "sensors: [{name: s, config: {a: 0.1, b: 100000000000000000000.0, c: -0.0, d: 1.5e-7,"
        " e: 123456789012345678901234567890, f: 0.00000012345678901234567, g: 2.50}}]"
    )
    await apply_fleet(database_url, fleet_of(text))
    assert not await plan_fleet(database_url, fleet_of(text))


async def test_a_plan_writes_nothing_and_tells_the_same(database_url, portal):
    before = await rows_of(portal)
    plan = await plan_fleet(database_url, fleet_of(ONE))
    assert await rows_of(portal) == before
    assert await apply_fleet(database_url, fleet_of(ONE)) == plan


async def test_a_plan_needs_no_right_to_write(database_url, portal):
    await portal.execute(
        "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
    )
    try:
        url = database_url.replace("postgres:@", "reader:@")
        assert url != database_url
        assert len((await plan_fleet(url, fleet_of(ONE))).changes) == 8
        with pytest.raises(Exception, match="permission denied"):
            await apply_fleet(url, fleet_of(ONE))
    finally:
        await portal.execute("DROP OWNED BY reader; DROP ROLE reader")


async def test_changed_content_is_written_in_place(database_url, portal):
    await apply_fleet(database_url, fleet_of(ONE))
    (before,) = await portal.fetch("SELECT id FROM processor_template_versions")
    changes = await apply_fleet(database_url, fleet_of(ONE.replace("A: x", "A: z")))
    assert len(changes.changes) == 1
    (after,) = await portal.fetch("SELECT * FROM processor_template_versions")
    assert after["id"] == before["id"]
    assert json.loads(after["runtime_config_template"])["env_vars"]["A"] == "z"


async def test_a_new_version_is_the_only_active_one_at_every_moment(database_url, portal):
    await portal.execute(
        "CREATE UNIQUE INDEX ON processor_template_versions (processor_template_id) WHERE is_active"
    )
    await apply_fleet(database_url, fleet_of(ONE))
    counts: set[int] = set()
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            counts.add(
                await portal.fetchval(
                    "SELECT count(*) FROM processor_template_versions WHERE is_active"
                )
            )

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for number in range(2, 6):
            text = ONE.replace('version: "1"', f'version: "{number}"')
            await apply_fleet(database_url, fleet_of(text))
        done.set()
    assert counts == {1}
    assert await versions(portal) == [(str(n), n == 5) for n in range(1, 6)]

    await apply_fleet(database_url, fleet_of(ONE))
    assert (await versions(portal))[0] == ("1", True)


async def test_status_is_left_alone_but_for_what_had_ended(database_url, portal):
    await apply_fleet(database_url, fleet_of(ONE))
    await portal.execute("UPDATE processors SET status = 'running', pod_name = 'p-1'")
    await portal.execute("UPDATE processors SET status = 'failed' WHERE name = 'q'")
    moved = ONE.replace("template: counter}", "template: counter, namespace: moved}").replace(
        "sensor: s}", "sensor: s, namespace: moved}"
    )
    await apply_fleet(database_url, fleet_of(moved))
    p, q = await processor(portal, "p"), await processor(portal, "q")
    assert (p["status"], p["pod_name"], p["k8s_namespace"]) == ("running", "p-1", "moved")
    assert q["status"] == "pending"


async def test_a_processor_moves_and_a_failover_stays(database_url, portal):
    await apply_fleet(database_url, fleet_of(ONE))
    await portal.execute("UPDATE edge_node_apps SET status = 'failed_over'")
    assert not await apply_fleet(database_url, fleet_of(ONE))

    await apply_fleet(database_url, fleet_of(ONE.replace("node: edge-1", "node: edge-2")))
    assert await links(portal) == [("p", "edge-1", "stopped"), ("p", "edge-2", "active")]

    await apply_fleet(database_url, fleet_of(ONE))
    assert await links(portal) == [("p", "edge-1", "active"), ("p", "edge-2", "stopped")]


async def test_prune(database_url, portal):
    await apply_fleet(database_url, fleet_of(ONE))
    await portal.execute(
        "INSERT INTO processors (organization_id, name, processor_template_id, status)"
        " VALUES ($1, 'theirs', $1, 'running')",
        PORTAL,
    )
    theirs = await processor(portal, "theirs")
    nodes = await portal.fetch("SELECT * FROM edge_nodes ORDER BY id")
    fewer = fleet_of(ONE.rsplit("processors:", 1)[0])

    assert not await apply_fleet(database_url, fewer)
    changes = await apply_fleet(database_url, fewer, prune=True)

    assert [change.sign for change in changes.changes] == ["-"] * 3
    assert (await processor(portal, "p"))["status"] == "terminated"
    assert (await processor(portal, "q"))["status"] == "terminated"
    assert await links(portal) == [("p", "edge-1", "stopped")]
    assert await processor(portal, "theirs") == theirs
    assert await portal.fetch("SELECT * FROM edge_nodes ORDER BY id") == nodes

    await apply_fleet(database_url, fleet_of(ONE))
    assert (await processor(portal, "p"))["status"] == "pending"
    assert await links(portal) == [("p", "edge-1", "active")]


async def test_rows_of_the_portal_are_taken_over_or_left(database_url, portal):
    """Its template of the same slug is used; everything else of its own stays as it is."""
    template = await portal.fetchval(
        "INSERT INTO processor_templates (slug, name) VALUES ('counter', 'Theirs') RETURNING id"
    )
    await portal.execute(
        "INSERT INTO processor_template_versions"
        " (processor_template_id, version, image_uri, is_active) VALUES ($1, '0', 'i', true)",
        template,
    )
    await portal.execute("INSERT INTO processor_templates (slug) VALUES ('unrelated')")
    await portal.execute(
        "INSERT INTO processors (organization_id, name, processor_template_id, status)"
        " VALUES ($1, 'theirs', $2, 'running')",
        PORTAL,
        template,
    )
    await portal.execute(
        "INSERT INTO edge_nodes (organization_id, name) VALUES ($1, 'edge-1')", PORTAL
    )
    before = await rows_of(portal)

    changes = await apply_fleet(database_url, fleet_of(ONE))

    assert "template counter: processors outside this file use it too: 1" in changes.notes
    assert await versions(portal) == [("0", False), ("1", True)]
    assert (await processor(portal, "p"))["processor_template_id"] == template
    after = await rows_of(portal)
    for table in ("edge_nodes", "processors", "processor_templates"):
        assert all(row in after[table] for row in before[table])


async def test_an_id_of_another_organization_is_refused(database_url, portal):
    theirs = await portal.fetchval(
        "INSERT INTO processors (organization_id, name, processor_template_id)"
        " VALUES ($1, 'theirs', $1) RETURNING id",
        PORTAL,
    )
    before = await rows_of(portal)
    taken = ONE.replace("name: q,", f'name: q, id: "{theirs}",')
    for call in (plan_fleet, apply_fleet):
        with pytest.raises(RequestRefused, match=r"processor q: .*another organization"):
            await call(database_url, fleet_of(taken))
    assert await rows_of(portal) == before


DELETIONS = [
    "DELETE FROM processors",
    "DELETE FROM processors WHERE name = 'p'",
    "DELETE FROM processors WHERE name = 'q'",
    "DELETE FROM edge_node_apps",
    "DELETE FROM edge_nodes WHERE name = 'edge-1'",
    "DELETE FROM edge_nodes",
    "DELETE FROM sensors",
    "DELETE FROM processor_templates",
    "DELETE FROM processor_template_versions",
    "DELETE FROM edge_nodes; DELETE FROM processors; DELETE FROM processor_templates",
    "UPDATE edge_node_apps SET processor_id = gen_random_uuid()",
    "UPDATE edge_node_apps SET edge_node_id = gen_random_uuid()",
    "UPDATE processor_template_versions SET processor_template_id = gen_random_uuid()",
]


@pytest.mark.parametrize("deletion", DELETIONS)
async def test_what_was_deleted_is_put_back_beside_what_was_left(database_url, portal, deletion):
    """Rows have no foreign keys: those of the same id may remain of what is gone."""
    await apply_fleet(database_url, fleet_of(ONE))
    before = await shape(portal)
    await portal.execute(deletion)
    assert await shape(portal) != before

    plan = await plan_fleet(database_url, fleet_of(ONE))
    assert plan
    assert await apply_fleet(database_url, fleet_of(ONE)) == plan

    assert await shape(portal) == before
    assert not await apply_fleet(database_url, fleet_of(ONE), prune=True)


async def shape(connection: Any) -> dict[str, list[tuple[object, ...]]]:
    """Every row, as far as a fleet file speaks of it."""
    return {
        table: [
            tuple(row)
            for row in await connection.fetch(
                f"SELECT id, {', '.join(f'{name}::text' for name in COLUMNS[table])}"
                f" FROM {table} ORDER BY id"
            )
        ]
        for table in Table
    }


async def test_a_link_follows_a_node_that_the_platform_had_made_and_deleted(database_url, portal):
    """Its id is that of the file's node, though it named another one."""
    await portal.execute(
        "INSERT INTO edge_nodes (organization_id, name, status) VALUES ($1, 'edge-1', 'online')",
        fleet_of(ONE).organization_id,
    )
    await apply_fleet(database_url, fleet_of(ONE))
    await portal.execute("DELETE FROM edge_nodes WHERE name = 'edge-1'")
    assert await links(portal) == []
    await apply_fleet(database_url, fleet_of(ONE))
    assert await links(portal) == [("p", "edge-1", "active")]


async def test_versions_follow_a_template_that_the_platform_had_made_and_deleted(
    database_url, portal
):
    await portal.execute("INSERT INTO processor_templates (slug) VALUES ('counter')")
    await apply_fleet(database_url, fleet_of(ONE))
    await portal.execute("DELETE FROM processor_templates")
    plan = await plan_fleet(database_url, fleet_of(ONE))
    assert await apply_fleet(database_url, fleet_of(ONE)) == plan
    assert await portal.fetchval(
        "SELECT count(*) FROM processor_template_versions v JOIN processor_templates t"
        " ON t.id = v.processor_template_id WHERE v.is_active"
    )


async def test_all_or_nothing(database_url, portal):
    await portal.execute(
        "ALTER TABLE edge_node_apps ADD CONSTRAINT no_q CHECK (status <> 'active')"
    )
    before = await rows_of(portal)
    with pytest.raises(StoreDataError, match="no_q"):
        await apply_fleet(database_url, fleet_of(ONE))
    assert await rows_of(portal) == before


async def test_a_row_that_somebody_holds(database_url, portal, monkeypatch):
    monkeypatch.setattr("dory_orchestrator.store.fleet._LOCK_WAIT_MILLISECONDS", "200")
    await apply_fleet(database_url, fleet_of(ONE))
    async with portal.transaction():
        await portal.execute("SELECT FROM processor_template_versions FOR UPDATE")
        assert not await apply_fleet(database_url, fleet_of(ONE))
        with pytest.raises(StoreBusy, match="nothing was written"):
            await apply_fleet(database_url, fleet_of(ONE.replace("A: x", "A: z")))


async def test_two_at_once(database_url, portal):
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(apply_fleet(database_url, fleet_of(ONE))) for _ in range(4)]
    assert sorted(len(call.result().changes) for call in calls) == [0, 0, 0, 8]


async def test_ids_depend_on_the_database(database_url, portal):
    found = await fleet_namespace(database_url)
    assert found == await portal.fetchval("SELECT id FROM orchestrator.fleet")


async def test_a_database_without_tables(empty_database_url):
    for call in (
        fleet_namespace(empty_database_url),
        plan_fleet(empty_database_url, fleet_of(ONE)),
    ):
        with pytest.raises(SchemaError, match="db upgrade"):
            await call


@pytest.mark.parametrize(
    "url", ["postgresql://127.0.0.1:1/x", "postgresql://u:p@[/x", "nonsense", "postgresql://h:x/y"]
)
async def test_a_database_that_is_not_there(url):
    with pytest.raises(StoreUnavailable):
        await plan_fleet(url, fleet_of(ONE))


async def test_tables_in_the_form_of_the_portal(empty_database_url):
    """Enums, domains, char(20), json instead of jsonb; ids that may be null."""
    async with connected(empty_database_url) as connection:
        await connection.execute(PORTAL_TABLES)
        await connection.execute(
            "ALTER TABLE processors ALTER secret_of_the_portal SET DEFAULT '';"
            "CREATE TYPE state AS ENUM ('pending', 'running', 'paused', 'terminated', 'failed');"
            "ALTER TABLE processors ALTER status TYPE state USING status::state;"
            "CREATE TYPE link_state AS ENUM ('active', 'failed_over', 'stopped');"
            "ALTER TABLE edge_node_apps ALTER status TYPE link_state USING status::link_state"
        )
        await apply_fleet(empty_database_url, fleet_of(ONE))
        assert not await apply_fleet(empty_database_url, fleet_of(ONE))
        changed = ONE.replace("A: x", "A: z").replace("node: edge-1", "node: edge-2")
        assert len((await apply_fleet(empty_database_url, fleet_of(changed))).changes) == 3
        fewer = fleet_of("processors: []")
        assert len((await apply_fleet(empty_database_url, fewer, prune=True)).changes) == 3
        await apply_fleet(empty_database_url, fleet_of(ONE))
        assert (await processor(connection, "p"))["status"] == "pending"


async def test_a_large_fleet(database_url):
    names = "\n".join(f"  - {{name: p{n}, template: counter, node: edge-1}}" for n in range(3000))
    large = fleet_of(ONE + names)
    started = asyncio.get_running_loop().time()
    assert len((await apply_fleet(database_url, large)).changes) == 6008
    assert not await apply_fleet(database_url, large, prune=True)
    assert asyncio.get_running_loop().time() - started < 10
