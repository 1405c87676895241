"""The fleet as the page shows it, read in a transaction of PostgresViews."""

from collections.abc import Mapping, Sequence
from typing import Any

from dory_orchestrator.ports import (
    NodeCounts,
    NodePicture,
    PictureQuery,
    ProcessorPicture,
    Trouble,
)
from dory_orchestrator.store.connections import Connection
from dory_orchestrator.store.queries import load

_QUERIES = load("picture.sql")
_NODE_FIELDS = tuple(NodePicture.__dataclass_fields__)
_PROCESSOR_FIELDS = tuple(ProcessorPicture.__dataclass_fields__)
_COUNTS = tuple(NodeCounts.__dataclass_fields__)


async def read_mark(connection: Connection) -> str:
    """See FleetViews.picture_mark."""
    return str(await connection.fetchval(_QUERIES["picture_mark"]))


async def read_map(connection: Connection, query: PictureQuery) -> dict[str, Any]:
    """The fields of FleetPicture that tell of nodes and what is on them."""
    rows = await connection.fetch(_QUERIES["picture_nodes"], query.nodes, query.offset)
    nodes = [_node(row) for row in rows if row["name"] is not None]
    names = [node.name for node in nodes]
    processors = await connection.fetch(
        _QUERIES["picture_processors"], names, query.processors, query.offset == 0
    )
    away = await connection.fetchrow(_QUERIES["picture_away"])
    return {
        **away,
        "nodes": nodes,
        "total": NodeCounts(**{name: rows[0][f"{name}_total"] for name in _COUNTS}),
        "behind": _behind(rows[-1]),
        "processors": [_processor(row) for row in processors],
        "placed": _counts(processors, is_shadow=False),
        "shadows": _counts(processors, is_shadow=True),
    }


def _behind(last: Mapping[str, Any]) -> NodeCounts:
    """Of what is not on this page nor on one before; of an empty page: nothing."""
    so_far = {name: last[f"{name}_so_far"] for name in _COUNTS}
    if so_far["nodes"] is None:
        return NodeCounts(nodes=0, troubled=0, processors=0, running=0)
    return NodeCounts(**{name: last[f"{name}_total"] - int(so_far[name]) for name in _COUNTS})


def _counts(rows: Sequence[Any], *, is_shadow: bool) -> dict[str | None, int]:
    return {row["place"]: row["count"] for row in rows if row["is_shadow"] is is_shadow}


def _node(row: Any) -> NodePicture:
    values = {name: row[name] for name in _NODE_FIELDS}
    return NodePicture(**{**values, "trouble": Trouble(values["trouble"])})


def _processor(row: Any) -> ProcessorPicture:
    return ProcessorPicture(**{name: row[name] for name in _PROCESSOR_FIELDS})
