"""Migrations: what they make, whoever runs them, however often."""

import asyncio
from importlib.resources import files
from typing import Any

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from dory_orchestrator.ports import SchemaError, StoreError, StoreUnavailable
from dory_orchestrator.store.migrate import WAKING_COLUMNS, current, upgrade
from dory_orchestrator.store.revision import MIGRATIONS, revisions, verify

_CATALOG = {
    "tables": """
        SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
            c.reloptions, c.relrowsecurity
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'orchestrator') ORDER BY 1, 2
    """,
    "columns": """
        SELECT a.attrelid::regclass::text, a.attname::text, a.attnum,
            format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
            a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE n.nspname IN ('public', 'orchestrator') AND a.attnum > 0 ORDER BY 1, 3
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
        FROM pg_constraint
        WHERE connamespace::regnamespace::text IN ('public', 'orchestrator') ORDER BY 1, 2
    """,
    "indexes": """
        SELECT schemaname::text, tablename::text, indexname::text, indexdef FROM pg_indexes
        WHERE schemaname IN ('public', 'orchestrator') ORDER BY 1, 2, 3
    """,
    "triggers": """
        SELECT tgrelid::regclass::text, tgname::text, tgenabled::text, pg_get_triggerdef(oid)
        FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
    """,
    "functions": """
        SELECT oid::regprocedure::text, prosrc, prosecdef, proconfig FROM pg_proc
        WHERE pronamespace::regnamespace::text IN ('public', 'orchestrator') ORDER BY 1
    """,
    "sequences": """
        SELECT schemaname::text, sequencename::text, data_type::text, start_value FROM pg_sequences
        ORDER BY 1, 2
    """,
    "rows": """
        SELECT version_num, (SELECT count(*) FROM orchestrator.fleet),
            (SELECT count(*) FROM orchestrator.canary)
        FROM orchestrator.alembic_version
    """,
}


async def test_migrations_and_schema_file_make_the_same_database(
    empty_database_url: str, database_url: str
) -> None:
    schema = files("dory_orchestrator.store").joinpath("schema.sql").read_text(encoding="utf-8")
    await _execute(empty_database_url, schema)

    from_file, migrated = await _catalog(empty_database_url), await _catalog(database_url)

    assert len(migrated["triggers"]) == len(WAKING_COLUMNS)
    for part in _CATALOG:
        assert from_file[part] == migrated[part], part
    await asyncio.to_thread(upgrade, empty_database_url)
    assert await _catalog(empty_database_url) == migrated


async def test_a_second_upgrade_changes_nothing(database_url: str) -> None:
    before = await _catalog(database_url)
    fleet = await _fetch(database_url, "SELECT * FROM orchestrator.fleet")
    triggers = "SELECT oid, xmin FROM pg_trigger WHERE NOT tgisinternal ORDER BY oid"
    triggers_before = await _fetch(database_url, triggers)

    await asyncio.to_thread(upgrade, database_url)

    assert await _catalog(database_url) == before
    assert await _fetch(database_url, "SELECT * FROM orchestrator.fleet") == fleet
    assert await _fetch(database_url, triggers) == triggers_before


async def test_several_upgrades_at_once(empty_database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(upgrade, empty_database_url) for _ in range(4)))

    assert len(await _fetch(empty_database_url, "SELECT * FROM orchestrator.fleet")) == 1


async def test_a_failed_upgrade_leaves_nothing(empty_database_url: str) -> None:
    await _execute(empty_database_url, "CREATE SCHEMA orchestrator CREATE TABLE gaps (id int)")

    with pytest.raises(StoreError, match="gaps"):
        await asyncio.to_thread(upgrade, empty_database_url)

    left = await _fetch(
        empty_database_url,
        "SELECT relname::text FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace::regnamespace::text IN ('public', 'orchestrator')",
    )
    assert [row[0] for row in left] == ["gaps"]


async def test_current_names_revision_and_need(empty_database_url: str) -> None:
    newest = revisions()[-1]
    assert await asyncio.to_thread(current, empty_database_url) == (None, newest)
    await asyncio.to_thread(upgrade, empty_database_url)
    assert await asyncio.to_thread(current, empty_database_url) == (newest, newest)


async def test_verify_accepts_what_upgrade_makes(database_url: str) -> None:
    await _verify(database_url)


async def test_verify_refuses_a_database_without_migrations(empty_database_url: str) -> None:
    with pytest.raises(SchemaError, match=r'revision none.*run "dory-orchestrator db upgrade"'):
        await _verify(empty_database_url)


async def test_a_newer_database_is_refused(database_url: str) -> None:
    await _execute(database_url, "UPDATE orchestrator.alembic_version SET version_num = '9999'")

    with pytest.raises(SchemaError, match=r"newer than this program.*9999"):
        await _verify(database_url)
    with pytest.raises(SchemaError, match=r"newer than this program.*9999"):
        await asyncio.to_thread(upgrade, database_url)


async def test_verify_refuses_a_table_that_was_dropped_since(database_url: str) -> None:
    await _execute(database_url, "DROP TABLE sensors")

    with pytest.raises(SchemaError, match="sensors is missing"):
        await _verify(database_url)


async def test_fleet_and_canary_hold_one_row(database_url: str) -> None:
    for statement in (
        "INSERT INTO orchestrator.fleet (id) VALUES (gen_random_uuid())",
        "INSERT INTO orchestrator.canary VALUES (now())",
    ):
        with pytest.raises(asyncpg.UniqueViolationError):
            await _execute(database_url, statement)


async def test_one_active_link_per_processor(database_url: str) -> None:
    link = "INSERT INTO edge_node_apps (edge_node_id, processor_id, status) VALUES " + (
        "(gen_random_uuid(), '00000000-0000-0000-0000-000000000001', '{}')"
    )
    for status in ("active", "stopped", "failed_over", "stopped"):
        await _execute(database_url, link.format(status))

    with pytest.raises(asyncpg.UniqueViolationError):
        await _execute(database_url, link.format("active"))


async def test_heartbeats_update_rows_in_place(database_url: str) -> None:
    """HOT: no index is touched, so no bloat at thousands of beats a second."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "INSERT INTO processors (processor_template_id)"
            " SELECT gen_random_uuid() FROM generate_series(1, 100)"
        )
        for _ in range(5):
            await connection.execute(
                "UPDATE processors SET last_health_check_at = now(), health_status = 'healthy'"
            )
        await connection.execute("SELECT pg_stat_force_next_flush()")
        updates = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'processors'"
        )
    finally:
        await connection.close()
    assert updates is not None
    assert updates["n_tup_upd"] == 500
    assert updates["n_tup_hot_upd"] >= 400


@pytest.mark.parametrize(("table", "columns"), WAKING_COLUMNS.items())
async def test_each_change_of_what_is_desired_wakes(
    database_url: str, table: str, columns: tuple[str, ...]
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        heard = await _listen(connection)
        for column in columns:
            await connection.execute(f"UPDATE {table} SET {column} = {column}")
        await connection.execute(f"INSERT INTO {table} SELECT * FROM {table}")
        await connection.execute(f"DELETE FROM {table}")
        await connection.execute(f"TRUNCATE {table}")
        await connection.execute("SELECT 1")
    finally:
        await connection.close()
    assert len(heard) == len(columns) + 3


async def test_heartbeats_wake_nobody(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        heard = await _listen(connection)
        await connection.execute(
            "UPDATE processors SET last_health_check_at = now(), health_status = 'healthy',"
            " pod_name = 'p', pod_ip = '10.0.0.1', node_name = 'n', updated_at = now()"
        )
        await connection.execute(
            "UPDATE edge_nodes SET last_heartbeat_at = now(), updated_at = now()"
        )
        await connection.execute("UPDATE orchestrator.canary SET last_beat_at = now()")
        await connection.execute("SELECT 1")
    finally:
        await connection.close()
    assert heard == []


async def test_a_long_transaction_bounds_the_upgrade(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dory_orchestrator.store.migrate._LOCK_MILLISECONDS", 200)
    await asyncio.to_thread(upgrade, empty_database_url)
    await _execute(empty_database_url, "DROP TRIGGER orchestrator_changed ON processors")
    connection = await asyncpg.connect(empty_database_url)
    try:
        async with connection.transaction():
            await connection.execute("UPDATE processors SET status = 'pending'")
            with pytest.raises(StoreError, match="another session holds a lock"):
                await asyncio.to_thread(upgrade, empty_database_url)
        await asyncio.to_thread(upgrade, empty_database_url)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://somebody:s3cret@127.0.0.1:1/dory",
        "postgresql://somebody:s3cret@127.0.0.1:1/dory?sslmode=nonsense",
        "postgresql://somebody:s3cret/x@127.0.0.1:1/dory",
        "postgresql://somebody:1/s3cret@127.0.0.1/dory",
        "postgresql://127.0.0.1:1/dory?user=somebody&password=s3cret",
        "postgresql://somebody:a?s3cret@127.0.0.1:1/dory",
        "postgresql://somebody:a#s3cret@127.0.0.1:1/dory",
        "postgresql://somebody:s3cret@127.0.0.1:1,127.0.0.1:2/dory",
        "s3cret",
    ],
)
async def test_no_error_shows_the_password(url: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await asyncio.to_thread(current, url)

    assert "s3cret" not in str(caught.value)
    assert "somebody" not in str(caught.value)


async def _listen(connection: Any) -> list[str]:
    heard: list[str] = []
    await connection.add_listener("orchestrator_changed", lambda *event: heard.append(event[2]))
    return heard


async def _catalog(url: str) -> dict[str, list[Any]]:
    return {part: await _fetch(url, statement) for part, statement in _CATALOG.items()}


async def _fetch(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _verify(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await verify(connection)
    finally:
        await connection.close()


def test_the_revisions_in_file_names_are_those_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert revisions() == [script.revision for script in scripts.walk_revisions()][::-1]
