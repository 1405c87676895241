"""Do the platform's tables suit us? They may be older than we are, and somebody else's."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dory_orchestrator.ports import SchemaError

Connection = Any
"""An asyncpg connection, or a proxy of one that a pool handed out."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a column must be: one of these types, able to hold the values that we write."""

    types: frozenset[str]
    named: str
    values: tuple[str, ...] = ()


_TEXT_TYPES = frozenset({"text", "varchar", "bpchar", "citext"})
_UUID = Need(frozenset({"uuid"}), "uuid")
_TEXT = Need(_TEXT_TYPES | {"enum"}, "text")
_BOOLEAN = Need(frozenset({"bool"}), "boolean")
_TIMESTAMP = Need(frozenset({"timestamptz"}), "timestamp with time zone")
_JSON = Need(frozenset({"json", "jsonb"}), "jsonb")
_POINT = Need(frozenset({"point"}), "point")


def _state(*values: str) -> Need:
    return Need(_TEXT.types, _TEXT.named, values)


NEEDED: Mapping[str, Mapping[str, Need]] = {
    "edge_nodes": {
        "id": _UUID,
        "organization_id": _UUID,
        "name": _TEXT,
        "status": _state("online", "offline", "decommissioned"),
        "failover_enabled": _BOOLEAN,
        "failover_target_node_id": _UUID,
        "last_heartbeat_at": _TIMESTAMP,
        "created_at": _TIMESTAMP,
        "updated_at": _TIMESTAMP,
    },
    "edge_node_apps": {
        "id": _UUID,
        "edge_node_id": _UUID,
        "processor_id": _UUID,
        "status": _state("active", "failed_over", "stopped"),
        "created_at": _TIMESTAMP,
        "updated_at": _TIMESTAMP,
    },
    "processors": {
        "id": _UUID,
        "organization_id": _UUID,
        "name": _TEXT,
        "processor_template_id": _UUID,
        "sensor_id": _UUID,
        "node_type": _TEXT,
        "k8s_namespace": _TEXT,
        "status": _TEXT,
        "health_status": _state("healthy", "unhealthy"),
        "last_health_check_at": _TIMESTAMP,
        "pod_name": _TEXT,
        "pod_ip": _TEXT,
        "node_name": _TEXT,
        "created_at": _TIMESTAMP,
        "updated_at": _TIMESTAMP,
    },
    "processor_templates": {"id": _UUID, "slug": _TEXT, "name": _TEXT},
    "processor_template_versions": {
        "id": _UUID,
        "processor_template_id": _UUID,
        "version": _TEXT,
        "image_uri": _TEXT,
        "digest": _TEXT,
        "is_active": _BOOLEAN,
        "runtime_config_template": _JSON,
        "created_at": _TIMESTAMP,
    },
    "sensors": {"id": _UUID, "name": _TEXT, "location_point": _POINT, "config": _JSON},
}
"""The columns that we read or write, by table."""

_INSERTED: Mapping[str, tuple[str, ...]] = {
    "edge_nodes": (
        "id",
        "organization_id",
        "name",
        "status",
        "failover_enabled",
        "failover_target_node_id",
        "created_at",
        "updated_at",
    ),
    "edge_node_apps": (
        "id",
        "edge_node_id",
        "processor_id",
        "status",
        "created_at",
        "updated_at",
    ),
}
"""Values that we give in each insert; any other column must do without."""

_UPDATED: Mapping[str, tuple[str, ...]] = {
    "edge_nodes": (
        "status",
        "failover_enabled",
        "failover_target_node_id",
        "last_heartbeat_at",
        "updated_at",
    ),
    "edge_node_apps": ("status", "updated_at"),
    "processors": ("health_status", "last_health_check_at", "pod_name", "pod_ip", "node_name"),
}

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a type",
}

_RELATIONS = """
SELECT needed.name, c.oid, c.relkind::text AS kind, current_user::text AS role
FROM unnest($1::text[]) WITH ORDINALITY AS needed (name, ordinal)
LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(needed.name)
ORDER BY needed.ordinal
"""

# A domain counts as what it is made of, through any number of domains.
_COLUMNS = """
WITH RECURSIVE resolved (type, base) AS (
    SELECT oid, oid FROM pg_catalog.pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT t.oid, r.base FROM pg_catalog.pg_type t JOIN resolved r ON r.type = t.typbasetype
    WHERE t.typtype = 'd'
)
SELECT
    a.attname::text AS name,
    pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
    CASE WHEN base.typtype = 'e' THEN 'enum' ELSE base.typname::text END AS base,
    CASE WHEN base.typtype = 'e' THEN ARRAY(
        SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = base.oid
    ) END AS labels,
    CASE WHEN base.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4
        THEN a.atttypmod - 4 END AS characters_max,
    (a.attnotnull OR t.typnotnull) AND NOT a.atthasdef AND a.attidentity = ''
        AND t.typdefault IS NULL AS must_be_given,
    pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS may_select,
    pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'INSERT') AS may_insert,
    pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'UPDATE') AS may_update
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN resolved r ON r.type = a.atttypid
JOIN pg_catalog.pg_type base ON base.oid = r.base
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""


async def check(connection: Connection, *, missing_allowed: bool = False) -> None:
    """Return if every table suits us; with `missing_allowed`, every table that exists.

    Raises SchemaError, which lists all that is wrong, each with its table and column. Driver
    errors come out as they are.
    """
    problems: list[str] = []
    for relation in await connection.fetch(_RELATIONS, list(NEEDED)):
        table = relation["name"]
        if relation["oid"] is None:
            problems += [] if missing_allowed else [f"{table} is missing"]
        elif relation["kind"] not in ("r", "p"):
            kind = _KINDS.get(relation["kind"], "something else")
            problems.append(f"{table} is {kind}, needed is a table")
        else:
            columns = await connection.fetch(_COLUMNS, relation["oid"])
            problems += _problems(table, {c["name"]: c for c in columns}, relation["role"])
    if problems:
        raise SchemaError(f"the platform's tables do not suit: {'; '.join(problems)}")


async def missing(connection: Connection) -> list[str]:
    """The names of the tables that do not exist. Driver errors come out as they are."""
    relations = await connection.fetch(_RELATIONS, list(NEEDED))
    return [relation["name"] for relation in relations if relation["oid"] is None]


def _problems(table: str, columns: Mapping[str, Any], role: str) -> Iterator[str]:
    present = {}
    for name, need in NEEDED[table].items():
        if name in columns:
            present[name] = columns[name]
            yield from _unsuitable(f"{table}.{name}", columns[name], need)
        else:
            yield f"{table}.{name} is missing"
    if table in _INSERTED:
        yield from _not_given(table, columns)
    rights = (
        ("SELECT", "may_select", tuple(NEEDED[table])),
        ("INSERT", "may_insert", _INSERTED.get(table, ())),
        ("UPDATE", "may_update", _UPDATED.get(table, ())),
    )
    for right, flag, names in rights:
        held = {name: present[name][flag] for name in names if name in present}
        yield from _not_granted(table, right, held, role)


def _unsuitable(place: str, column: Any, need: Need) -> Iterator[str]:
    if column["base"] not in need.types:
        yield f"{place} is {column['type']}, needed is {need.named}"
        return
    for value in need.values:
        if column["labels"] is not None and value not in column["labels"]:
            yield f"{place} is {column['type']}, which lacks the value '{value}'"
        if len(value) > (column["characters_max"] or len(value)):
            yield f"{place} is {column['type']}, too short for '{value}'"


def _not_given(table: str, columns: Mapping[str, Any]) -> Iterator[str]:
    for name, column in columns.items():
        if column["must_be_given"] and name not in NEEDED[table]:
            yield f"{table}.{name} is NOT NULL without a default: rows cannot be inserted"


def _not_granted(table: str, right: str, held: Mapping[str, bool], role: str) -> Iterable[str]:
    if held and not any(held.values()):
        return [f"{table}: {right} is not granted to {role}"]
    return [f"{table}.{name}: {right} is not granted to {role}" for name in held if not held[name]]
