"""Bring a database to what this version needs, or say why it is not.

`upgrade` and `current` block and start an event loop of their own: call them in a thread.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from dory_orchestrator.core.database_url import read
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    SchemaError,
    StoreBusy,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from dory_orchestrator.store import platform_tables
from dory_orchestrator.store.driver import connect as dial
from dory_orchestrator.store.errors import DRIVER_ERRORS, translate
from dory_orchestrator.store.revision import (
    MIGRATIONS,
    SCHEMA,
    UPGRADE_HINT,
    head,
    refuse_newer,
    revision_of,
)

Connection = Any
"""An asyncpg connection, or a proxy of one that a pool handed out."""

_log = get_logger(__name__)
_SERVER_MAJOR_MIN = 14
_CONNECT_SECONDS = 10.0
_LOCK_MILLISECONDS = 10_000
_STATEMENT_MILLISECONDS = 300_000
# Later than the server's own limit: only a server that is itself stuck is given up here.
_COMMAND_SECONDS = 310.0
_LOOK_SECONDS = 2.0

WAKING_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "edge_nodes": ("status", "failover_enabled", "failover_target_node_id"),
    "edge_node_apps": ("status", "edge_node_id", "processor_id"),
    "processors": (
        "id",
        "organization_id",
        "name",
        "processor_template_id",
        "sensor_id",
        "node_type",
        "k8s_namespace",
        "status",
    ),
    "processor_templates": ("slug", "name"),
    "processor_template_versions": (
        "processor_template_id",
        "version",
        "image_uri",
        "digest",
        "is_active",
        "runtime_config_template",
    ),
    "sensors": ("name", "location_point", "config"),
}
"""The columns whose change may change what is desired. A heartbeat writes none of them."""

_LIMIT = "SELECT set_config($1, $2, true)"
"""A setting for this transaction."""

# Two numbers that nobody else uses: "dory", "schm".
_ADVISORY_LOCK = "SELECT pg_advisory_xact_lock(1685025401, 1935894637)"
# Without our own schema: to a role named `orchestrator`, "$user" makes it the default one.
_SEARCH_PATH = """
SELECT string_agg(quote_ident(name), ', ' ORDER BY ordinal)
FROM unnest(current_schemas(false)) WITH ORDINALITY AS s (name, ordinal)
WHERE name <> 'orchestrator'
"""
_RIGHTS = """
SELECT
    quote_ident(current_user) AS role,
    quote_ident(current_database()) AS database,
    quote_ident(current_schema()) AS schema,
    has_schema_privilege(current_schema(), 'CREATE') AS may_create_tables,
    has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
    (
        SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
        FROM pg_namespace WHERE nspname = 'orchestrator'
    ) AS may_create_in_ours
"""
_SESSION = """
SELECT state_change, state = 'active' AS is_working FROM pg_stat_activity WHERE pid = $1
"""
_HAS_SCHEMA = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'orchestrator')"
# 60: a statement trigger after INSERT, DELETE, UPDATE and TRUNCATE.
_TRIGGER = """
SELECT
    c.oid::regclass::text AS table,
    quote_ident(current_user) AS role,
    has_table_privilege(c.oid, 'TRIGGER') AS allowed,
    ARRAY(
        SELECT a.attname::text FROM pg_trigger t
        JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr)
        WHERE t.tgrelid = c.oid AND t.tgname = 'orchestrator_changed' AND t.tgtype = 60
            AND t.tgfoid = 'orchestrator.notify_changed()'::regprocedure
    ) AS columns
FROM pg_class c WHERE c.oid = to_regclass($1)
"""


def upgrade(dsn: str) -> None:
    """Bring the database to this version, in one transaction; two at once are safe.

    Existing tables of the platform are checked first and never changed, but for the triggers
    that wake us, where the role may create them. Raises SchemaError, StoreUnavailable, and
    StoreError naming the right that is missing.
    """
    with _as_store_errors():
        asyncio.run(_upgrade(dsn))


def current(dsn: str) -> tuple[str | None, str]:
    """The revision in the database, None before the first, and the one that is needed.

    Raises StoreUnavailable, StoreError.
    """
    with _as_store_errors():
        return asyncio.run(_current(dsn)), head()


async def _upgrade(dsn: str) -> None:
    async def opened() -> Connection:
        return await connect(dsn, writable=True)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=opened, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))  # now the transaction has begun
            driver = (await connection.get_raw_connection()).driver_connection
            async with _watched(dsn, driver):
                await _take_turn(driver)
                await platform_tables.check(driver, missing_allowed=True)
                await _migrate(connection, driver)
                await platform_tables.check(driver)
                await _install_triggers(driver)
    finally:
        await engine.dispose()


@asynccontextmanager
async def _watched(dsn: str, driver: Connection) -> AsyncIterator[None]:
    """Cut the connection once it carries nothing any more: a statement may take minutes, so that
    only the server can say whether it still works on it."""
    watching = asyncio.create_task(_watch(dsn, driver))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(dsn: str, driver: Connection) -> None:
    """Two looks that find the server waiting for us since the same moment: its answer was lost.
    While we ourselves are busy nobody looks, as that holds the event loop. Behind a pooler the
    session is not found, and nothing is concluded."""
    before = None
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            look = await _look_at(dsn, driver.get_server_pid())
        except StoreError:
            continue
        if before is not None and (look is None or (look == before and not look["is_working"])):
            _log.warning("the server's answer to a migration was lost", component="database")
            driver.terminate()
            return
        before = look


async def _look_at(dsn: str, pid: int) -> Any:
    watcher = await connect(dsn)
    try:
        return await watcher.fetchrow(_SESSION, pid)
    except DRIVER_ERRORS as error:
        raise translate(error) from error
    finally:
        watcher.terminate()


async def _take_turn(driver: Connection) -> None:
    """Bound every wait; then wait for another upgrade, longer than for a lock on a table."""
    if (version := driver.get_server_version()).major < _SERVER_MAJOR_MIN:
        raise SchemaError(f"PostgreSQL {_SERVER_MAJOR_MIN} is needed, this is {version.major}")
    await driver.execute(_LIMIT, "statement_timeout", str(_STATEMENT_MILLISECONDS))
    await driver.execute(_LIMIT, "lock_timeout", "0")
    await driver.execute(_ADVISORY_LOCK)
    await driver.execute(_LIMIT, "lock_timeout", str(_LOCK_MILLISECONDS))
    if (search_path := await driver.fetchval(_SEARCH_PATH)) is not None:
        await driver.execute(_LIMIT, "search_path", search_path)


async def _migrate(connection: AsyncConnection, driver: Connection) -> None:
    revision = await revision_of(driver)
    if revision == head():
        return
    refuse_newer(revision)
    await _check_rights(driver)
    if not await driver.fetchval(_HAS_SCHEMA):
        await driver.execute(f"CREATE SCHEMA {SCHEMA}")
    await connection.run_sync(_run_migrations)


def _run_migrations(connection: SyncConnection) -> None:
    config = _alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _check_rights(driver: Connection) -> None:
    """Raise StoreError with the statement that grants what is missing."""
    rights = await driver.fetchrow(_RIGHTS)
    missing = ", ".join(await platform_tables.missing(driver))
    needed: list[tuple[str, str]] = []
    if missing and rights["schema"] is None:
        raise StoreError(f"no schema for the missing tables {missing}: see search_path")
    if missing and not rights["may_create_tables"]:
        needed.append(
            (f"create the missing tables {missing}", f"CREATE ON SCHEMA {rights['schema']}")
        )
    if rights["may_create_in_ours"] is None and not rights["may_create_schema"]:
        needed.append((f"create the schema {SCHEMA}", f"CREATE ON DATABASE {rights['database']}"))
    if rights["may_create_in_ours"] is False:
        needed.append(
            (f"create tables in the schema {SCHEMA}", f"USAGE, CREATE ON SCHEMA {SCHEMA}")
        )
    if needed:
        role = rights["role"]
        acts = " and ".join(f"may not {act}" for act, _ in needed)
        grants = "; ".join(f"GRANT {grant} TO {role}" for _, grant in needed)
        raise StoreError(f"the role {role} {acts}: {grants}")


async def _install_triggers(driver: Connection) -> None:
    """Create the triggers that are missing or outdated, where the role may.

    One that is as it should be is left alone: replacing it would lock the table.
    """
    for table, columns in WAKING_COLUMNS.items():
        found = await driver.fetchrow(_TRIGGER, table)
        if set(found["columns"]) == set(columns):
            continue
        if found["allowed"]:
            await driver.execute(_trigger_statement(found["table"], columns))
            continue
        _log.warning(
            "changes of a table are noticed by polling alone: the trigger may not be created",
            table=found["table"],
            remedy=f"GRANT TRIGGER ON {found['table']} TO {found['role']}; {UPGRADE_HINT}",
        )


def _trigger_statement(table: str, columns: Iterable[str]) -> str:
    return f"""
        CREATE OR REPLACE TRIGGER orchestrator_changed
        AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF {", ".join(columns)}
        ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.notify_changed()
    """


async def _current(dsn: str) -> str | None:
    connection = await connect(dsn)
    try:
        return await revision_of(connection)
    finally:
        await connection.close(timeout=_CONNECT_SECONDS)


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


async def connect(dsn: str, *, writable: bool = False) -> Connection:
    """Connect within 10 s. No part of the URL but host and database reaches a message.

    With `writable` only to a server that takes writes, and for statements that may take
    minutes. Raises StoreUnavailable.
    """
    try:
        url = read(dsn)
    except ValueError as error:
        raise StoreUnavailable(str(error)) from None
    try:
        return await dial(
            url,
            timeout_seconds=_CONNECT_SECONDS,
            command_seconds=_COMMAND_SECONDS if writable else _CONNECT_SECONDS,
            writable=writable,
        )
    except DRIVER_ERRORS as error:
        kind = StoreTimeout if isinstance(error, TimeoutError) else StoreUnavailable
        raise kind(f"cannot connect to {url.place}: {translate(error)}") from error


@contextmanager
def _as_store_errors() -> Iterator[None]:
    """Driver errors, also those that SQLAlchemy has wrapped, become StoreErrors."""
    try:
        yield
    except DBAPIError as error:
        wrapped = error.orig.__cause__ if error.orig else None
        if isinstance(wrapped, DRIVER_ERRORS):
            raise _explained(translate(wrapped)) from error
        raise StoreError(f"the migration failed: {error}") from error
    except DRIVER_ERRORS as error:
        raise _explained(translate(error)) from error


def _explained(error: StoreError) -> StoreError:
    if isinstance(error, StoreBusy):
        return StoreBusy(f"{error}: another session holds a lock on a table; nothing was changed")
    return error
