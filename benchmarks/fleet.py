"""The fleet that beats: its rows, its bodies, and what the database knows of it afterwards."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

_CONNECT_SECONDS = 10.0
_STATEMENT_SECONDS = 60.0
_SESSIONS_SECONDS = 20.0
_SEED = 1

# Sessions of the measured server, other than our own: they bring their counts when they end.
_SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'dory-orchestrator%'
"""
_UPDATES = """
SELECT relname::text AS name, n_tup_upd FROM pg_stat_user_tables
WHERE schemaname = 'public' AND relname IN ('processors', 'edge_nodes')
"""
# $1, $2: begin and end of the run.
_HEARD = """
SELECT count(*) FROM processors p
JOIN edge_node_apps a ON a.processor_id = p.id AND a.status = 'active'
JOIN edge_nodes n ON n.id = a.edge_node_id
WHERE p.last_health_check_at BETWEEN $1 AND $2 AND n.last_heartbeat_at BETWEEN $1 AND $2
    AND p.health_status = 'healthy'
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A processor on an edge node of its own."""

    processor_id: uuid.UUID
    edge_node_id: uuid.UUID
    node_name: str


@dataclass(frozen=True, slots=True)
class Written:
    """What the database counted itself: updated rows, and processors heard in the run."""

    processors: int
    edge_nodes: int
    heard: int


def make_fleet(size: int) -> list[Member]:
    """The same fleet each time; ids in no order, as in production."""
    numbers = random.Random(_SEED)

    def new_id() -> uuid.UUID:
        return uuid.UUID(int=numbers.getrandbits(128), version=4)

    return [Member(new_id(), new_id(), f"edge-{number:05}") for number in range(size)]


def write_bodies(fleet: Sequence[Member], path: Path) -> None:
    """One body a line: the nine keys of the SDK, in its order and with its spaces."""
    path.write_text("".join(f"{json.dumps(_body(member))}\n" for member in fleet))


def _body(member: Member) -> dict[str, object]:
    return {
        "processor_id": str(member.processor_id),
        "node_id": member.node_name,
        "role": "primary",
        "epoch": 1,
        "timestamp": time.time(),
        "status": "healthy",
        "last_state_sync": None,
        "state_size_bytes": None,
        "uptime_sec": 3600.123456,
    }


async def create_database(url: str, name: str) -> None:
    """An empty database on the server of `url`."""
    connection = await _connect(url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()


async def seed(url: str, fleet: Sequence[Member]) -> None:
    """Every processor with its node, its active link and its ownership, as in production."""
    connection = await _connect(url)
    try:
        for table, columns, rows in _rows(fleet):
            schema, _, name = table.rpartition(".")
            await connection.copy_records_to_table(
                name, schema_name=schema or None, columns=columns.split(), records=rows
            )
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


def _rows(fleet: Sequence[Member]) -> Iterator[tuple[str, str, list[tuple[object, ...]]]]:
    """Table, columns and rows of each."""
    organization, template = uuid.UUID(int=1), uuid.UUID(int=2)
    yield (
        "edge_nodes",
        "id organization_id name",
        [(m.edge_node_id, organization, m.node_name) for m in fleet],
    )
    yield (
        "processors",
        "id organization_id name processor_template_id node_type status",
        [(m.processor_id, organization, m.node_name, template, "edge", "running") for m in fleet],
    )
    yield (
        "edge_node_apps",
        "edge_node_id processor_id",
        [(m.edge_node_id, m.processor_id) for m in fleet],
    )
    yield (
        "orchestrator.ownership",
        "processor_id epoch pod_uid node_name ready",
        [(m.processor_id, 1, str(m.edge_node_id), m.node_name, True) for m in fleet],
    )


async def describe(url: str) -> tuple[datetime, str]:
    """The server's time and its version."""
    connection = await _connect(url)
    try:
        row = await connection.fetchrow("SELECT now(), current_setting('server_version')")
        assert row is not None
        return row[0], row[1]
    finally:
        await connection.close()


async def written(url: str, began_at: datetime, ended_at: datetime) -> Written:
    """What was written between two moments of the database's clock.

    The sessions that wrote must be over: then their counts are in, and no beat is on its way.
    """
    connection = await _connect(url)
    try:
        async with asyncio.timeout(_SESSIONS_SECONDS):
            while await connection.fetchval(_SESSIONS):  # noqa: ASYNC110 - the server's state
                await asyncio.sleep(0.1)
        updates = {row["name"]: row["n_tup_upd"] for row in await connection.fetch(_UPDATES)}
        heard = await connection.fetchval(_HEARD, began_at, ended_at)
        return Written(updates["processors"], updates["edge_nodes"], heard)
    finally:
        await connection.close()


async def _connect(url: str) -> Any:
    return await asyncpg.connect(
        url,
        timeout=_CONNECT_SECONDS,
        command_timeout=_STATEMENT_SECONDS,
        server_settings={"application_name": "benchmark"},
    )
