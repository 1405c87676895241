"""What `doctor` asks a database. Each question has a connection of its own, and changes nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from dory_orchestrator.core.diagnosis import ServerFacts, least_offset
from dory_orchestrator.ports import SchemaError
from dory_orchestrator.store import platform_tables
from dory_orchestrator.store.errors import DRIVER_ERRORS, translate
from dory_orchestrator.store.migrate import connect
from dory_orchestrator.store.queries import load
from dory_orchestrator.store.revision import check_rights, revision_of

Connection = Any
"""An asyncpg connection."""

_QUERIES = load("diagnosis.sql")


async def server_facts(dsn: str, now: Callable[[], float]) -> ServerFacts:
    """What the server is; `now` is our clock, in Unix seconds. Raises StoreError."""
    async with _connected(dsn) as connection:
        before = now()
        row = await connection.fetchrow(_QUERIES["server"])
        offset_seconds = least_offset((row["now"], row["now"]), (before, now()))
    names = ("version", "version_text", "role", "is_standby", "is_read_only", "connections_max")
    return ServerFacts(**{name: row[name] for name in names}, offset_seconds=offset_seconds)


async def present_revision(dsn: str) -> str | None:
    """The revision in the database; None before the first. Raises StoreError."""
    async with _connected(dsn) as connection:
        try:
            return await revision_of(connection)
        except asyncpg.InsufficientPrivilegeError as error:
            raise SchemaError(f"the schema orchestrator cannot be read: {error}") from error


async def table_problem(dsn: str) -> str | None:
    """What does not suit or is not granted, of the platform's tables and of ours.

    Raises StoreError.
    """
    problems = []
    async with _connected(dsn) as connection:
        for check in (platform_tables.check, check_rights):
            try:
                await check(connection)
            except SchemaError as error:
                problems.append(str(error))
            except asyncpg.InvalidSchemaNameError:
                problems.append("the schema orchestrator is missing")
    return "; ".join(problems) or None


async def namespaces(dsn: str) -> frozenset[str]:
    """Those that desired processors name. Raises StoreError."""
    async with _connected(dsn) as connection:
        rows = await connection.fetch(_QUERIES["namespaces"])
    return frozenset(row["namespace"] for row in rows)


async def edge_node_names(dsn: str) -> frozenset[str]:
    """Those that are not decommissioned. Raises StoreError."""
    async with _connected(dsn) as connection:
        rows = await connection.fetch(_QUERIES["edge_nodes"])
    return frozenset(row["name"] for row in rows)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    connection = await connect(dsn)
    try:
        yield connection
    except DRIVER_ERRORS as error:
        raise translate(error) from error
    finally:
        # Whoever waits for us has no time for a goodbye.
        connection.terminate()
