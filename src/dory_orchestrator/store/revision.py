"""Which revision a database has, which one this version needs, and whether it fits.

Apart from the migrations themselves: the service checks, and does not carry what migrates.
"""

from pathlib import Path
from typing import Any

import asyncpg

from dory_orchestrator.ports import SchemaError
from dory_orchestrator.store import platform_tables

Connection = Any
"""An asyncpg connection, or a proxy of one that a pool handed out."""

SCHEMA = "orchestrator"
MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_HINT = 'run "dory-orchestrator db upgrade"'

_REVISION = "SELECT version_num FROM orchestrator.alembic_version"
_MISSING_RIGHTS = """
SELECT c.oid::regclass::text AS table, privilege
FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
WHERE c.relnamespace = 'orchestrator'::regnamespace AND c.relkind = 'r'
    AND c.relname <> 'alembic_version' AND NOT has_table_privilege(c.oid, privilege)
ORDER BY 1, 2
"""
# Not by to_regclass: it fails in a schema that may not be used.
_HAS_REVISION = """
SELECT EXISTS (
    SELECT FROM pg_class
    WHERE relname = 'alembic_version' AND relnamespace::regnamespace::text = 'orchestrator'
)
"""


async def verify(connection: Connection) -> None:
    """Return if the database is what this version needs; nothing is changed.

    Raises SchemaError; driver errors come out as they are.
    """
    try:
        revision = await revision_of(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaError(
            f"the schema {SCHEMA} cannot be read ({error}): "
            "grant the role the rights that the documentation lists"
        ) from error
    if revision != head():
        refuse_newer(revision)
        raise SchemaError(
            f"the database is at revision {revision or 'none'}, needed is {head()}: {UPGRADE_HINT}"
        )
    await platform_tables.check(connection)
    await check_rights(connection)


async def check_rights(connection: Connection) -> None:
    """Return if we may work on our own tables. Raises SchemaError, naming what is missing."""
    missing = await connection.fetch(_MISSING_RIGHTS)
    if missing:
        raise SchemaError(
            "; ".join(
                f"{row['table']}: the right to {row['privilege']} is missing" for row in missing
            )
        )


async def revision_of(connection: Connection) -> str | None:
    """The revision in the database; None before the first."""
    if not await connection.fetchval(_HAS_REVISION):
        return None
    revision: str | None = await connection.fetchval(_REVISION)
    return revision


def refuse_newer(revision: str | None) -> None:
    """Raise SchemaError for a database that a later version of this program has migrated."""
    if revision is not None and revision not in revisions():
        raise SchemaError(
            f"the database is newer than this program: it is at revision {revision}, "
            f"which is not known here ({head()} is the newest)"
        )


def head() -> str:
    """The revision that this version needs."""
    return revisions()[-1]


def revisions() -> list[str]:
    """All revisions, the oldest first: the files of migrations begin with theirs."""
    return sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
