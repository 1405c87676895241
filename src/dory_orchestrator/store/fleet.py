"""Writing a fleet file to a database: all of it in one transaction, or nothing.

`plan_fleet` tells what `apply_fleet` would do. Both take the URL of a database and open one
connection of their own: they are for commands, not for the service.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg

from dory_orchestrator.core.database_url import read
from dory_orchestrator.core.fleet import (
    COLUMNS,
    Change,
    Fleet,
    FleetChanges,
    FleetConflict,
    Row,
    Rows,
    Table,
    Value,
    by_key,
    diff,
    json_text_of,
)
from dory_orchestrator.ports import (
    RequestRefused,
    SchemaError,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)
from dory_orchestrator.store import driver
from dory_orchestrator.store.errors import DRIVER_ERRORS, translate
from dory_orchestrator.store.queries import QUERIES, load
from dory_orchestrator.store.revision import UPGRADE_HINT

Connection = Any
"""An asyncpg connection: the stubs of its methods are narrower than what they take."""

_QUERIES = load("fleet.sql")
_CONNECT_SECONDS = 10.0
_STATEMENT_MILLISECONDS = "30000"
# Later than the server's own limit: only one that does not answer is given up here.
_COMMAND_SECONDS = 35.0
_LOCK_WAIT_MILLISECONDS = "5000"
_MISSING_TABLES = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)
# Of these two tables the status is written on its own, or not at all.
_UPDATED: Mapping[Table, tuple[str, ...]] = {
    table: tuple(
        column
        for column in columns
        if column != "status" or table not in (Table.EDGE_NODES, Table.PROCESSORS)
    )
    for table, columns in COLUMNS.items()
}


async def fleet_namespace(dsn: str) -> UUID:
    """The id of the fleet in this database: from it the ids of a fleet file are derived, so that
    every file gets the same ids in the same database, and others elsewhere.

    Raises SchemaError before the first migration, StoreUnavailable, StoreError.
    """
    async with _connected(dsn) as connection:
        found: UUID | None = await connection.fetchval(_QUERIES["fleet_id"])
    if found is None:
        raise SchemaError(f"orchestrator.fleet is empty: {UPGRADE_HINT}")
    return found


async def has_processors(dsn: str) -> bool:
    """Whether there is a row of any processor, desired or not. Raises StoreUnavailable, StoreError."""
    async with _connected(dsn) as connection:
        return bool(await connection.fetchval(_QUERIES["has_processors"]))


async def end_lease(dsn: str, holder: str) -> None:
    """End the lease of a holder that is known to be gone. Raises StoreUnavailable, StoreError."""
    async with _connected(dsn, writable=True) as connection:
        await connection.execute(_QUERIES["end_lease"], holder)


async def plan_fleet(dsn: str, fleet: Fleet, *, prune: bool = False) -> FleetChanges:
    """What `apply_fleet` would write. Reads only.

    Raises RequestRefused when the file takes what belongs to another organization, SchemaError,
    StoreUnavailable, StoreError.
    """
    async with (
        _connected(dsn) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        return await _plan(connection, fleet, prune)


async def apply_fleet(dsn: str, fleet: Fleet, *, prune: bool = False) -> FleetChanges:
    """Make the database what the file says, and tell what was written.

    With `prune`, processors of the organization that the file does not name are terminated.
    Rows that are as they should be are not touched, so a second call writes nothing.

    Raises what `plan_fleet` raises, StoreBusy when somebody holds a row, and StoreDataError when
    the database refuses a value. Nothing was written then.
    """
    async with _connected(dsn, writable=True) as connection, connection.transaction():
        await connection.execute(QUERIES["limit_lock_waits"], _LOCK_WAIT_MILLISECONDS)
        await connection.execute(_QUERIES["lock_fleet"])
        # The edge API registers nodes of an organization under this lock.
        await connection.execute(QUERIES["lock_organization"], str(fleet.organization_id))
        changes = await _plan(connection, fleet, prune)
        await _write(connection, changes)
    return changes


async def _plan(connection: Connection, fleet: Fleet, prune: bool) -> FleetChanges:
    before = await _read(connection, fleet, prune)
    templates = [row.id for row in before.values() if row.table is Table.TEMPLATES]
    processors = [row.id for row in fleet.of(Table.PROCESSORS)]
    users = await connection.fetch(_QUERIES["count_other_users"], templates, processors)
    try:
        return diff(
            before, fleet, prune=prune, other_users={row["id"]: row["users"] for row in users}
        )
    except FleetConflict as error:
        raise RequestRefused(str(error)) from error


async def _read(connection: Connection, fleet: Fleet, prune: bool) -> Rows:
    """The rows that the file speaks of, as they are."""

    async def fetch(table: Table, query: str, *arguments: object) -> list[Row]:
        return [_row(table, found) for found in await connection.fetch(_QUERIES[query], *arguments)]

    organization = fleet.organization_id
    nodes = await fetch(
        Table.EDGE_NODES, "read_edge_nodes", organization, _ids(fleet.of(Table.EDGE_NODES))
    )
    wanted = fleet.of(Table.TEMPLATES)
    slugs = [row.columns["slug"] for row in wanted]
    templates = await fetch(Table.TEMPLATES, "read_templates", slugs, _ids(wanted))
    # Rows have no foreign keys: those of a template or processor that was deleted may remain, with
    # the ids that the file's have.
    versions = await fetch(
        Table.VERSIONS,
        "read_versions",
        _ids([*wanted, *templates]),
        _ids(fleet.of(Table.VERSIONS)),
    )
    sensors = await fetch(Table.SENSORS, "read_sensors", _ids(fleet.of(Table.SENSORS)))
    processors = await fetch(
        Table.PROCESSORS,
        "read_processors",
        _ids(fleet.of(Table.PROCESSORS)),
        organization if prune else None,
    )
    links = await fetch(
        Table.LINKS,
        "read_links",
        _ids([*fleet.of(Table.PROCESSORS), *processors]),
        _ids(fleet.of(Table.LINKS)),
    )
    return by_key([*nodes, *templates, *versions, *sensors, *processors, *links])


def _ids(rows: Iterable[Row]) -> list[UUID]:
    return [row.id for row in rows]


def _row(table: Table, found: Any) -> Row:
    return Row(table, found["id"], {name: _value(name, found[name]) for name in COLUMNS[table]})


def _value(column: str, value: Any) -> Value:
    if column in ("runtime_config_template", "config"):
        return json_text_of(value)
    if isinstance(value, asyncpg.Point):
        return (value.x, value.y)
    plain: Value = UUID(int=value.int) if isinstance(value, UUID) else value
    return plain


async def _write(connection: Connection, changes: FleetChanges) -> None:
    """In the order of the changes; those that take the same statement go together."""
    for statement, group in groupby(changes.changes, key=_statement):
        of_these = list(group)
        table = of_these[0].row.table
        is_insert = statement.startswith("insert")
        columns = COLUMNS[table] if is_insert else _UPDATED[table]
        await connection.executemany(
            _QUERIES[statement], [_arguments(change.row, columns) for change in of_these]
        )
        if table is Table.PROCESSORS and not is_insert:
            await _write_status(connection, of_these)


def _statement(change: Change) -> str:
    return f"{'insert' if change.before is None else 'update'}_{change.row.table}"


def _arguments(row: Row, columns: Sequence[str]) -> tuple[object, ...]:
    return row.id, *(row.columns.get(column) for column in columns)


async def _write_status(connection: Connection, changes: Iterable[Change]) -> None:
    arguments = [
        _arguments(change.row, ("status",)) for change in changes if "status" in change.changed
    ]
    await connection.executemany(_QUERIES["set_processor_status"], arguments)


@asynccontextmanager
async def _connected(dsn: str, *, writable: bool = False) -> AsyncIterator[Connection]:
    """One connection; driver errors come out as StoreErrors."""
    try:
        connection = await _open(dsn, writable)
        try:
            yield connection
        finally:
            connection.terminate()
    except _MISSING_TABLES as error:
        raise SchemaError(f"{error}: {UPGRADE_HINT}") from error
    except DRIVER_ERRORS as error:
        raise _explained(translate(error)) from error


async def _open(dsn: str, writable: bool) -> Connection:
    try:
        url = read(dsn)
    except ValueError as error:
        raise StoreUnavailable(str(error)) from None
    connection = await driver.connect(
        url,
        "fleet",
        timeout_seconds=_CONNECT_SECONDS,
        command_seconds=_COMMAND_SECONDS,
        writable=writable,
    )
    await connection.execute(QUERIES["limit_statements"], _STATEMENT_MILLISECONDS)
    return connection


def _explained(error: StoreError) -> StoreError:
    if isinstance(error, StoreBusy):
        return StoreBusy(f"{error}: somebody holds a row that is needed; nothing was written")
    return error
