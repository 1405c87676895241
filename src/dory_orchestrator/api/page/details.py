"""What a click shows: a processor, a node or a move, with what happened to it and why."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from dory_orchestrator.api import explained
from dory_orchestrator.core.model import MoveKind
from dory_orchestrator.ports import (
    EventView,
    FleetViews,
    MoveQuery,
    NodeQuery,
    NodeView,
    NotKnown,
    ProcessorQuery,
    ProcessorView,
)

_ANSWER_SECONDS = 3.0
"""A page is waited for: longer than a cycle takes, and no more."""
_MOVES = 5
_PROCESSORS = 50
_NODES_OF_ONE_NAME_MAX = 1000


async def processor(views: FleetViews, key: UUID) -> dict[str, Any] | None:
    """The values of `processor.html`; None when it is not known."""
    found = await views.get_processor(key, events_max=1)
    if found is None:
        return None
    one, _ = found
    moves = await views.list_moves(MoveQuery(limit=_MOVES, processor_id=key))
    summary = await views.summary()
    return {
        "processor": one,
        "moves": moves,
        "now": summary.at,
        "explanation": await _explained(views, one, key, current=summary.current),
    }


async def node(views: FleetViews, name: str, edge_node_id: UUID | None) -> dict[str, Any] | None:
    """The values of `node.html`; None when it is not known."""
    one = await _node_named(views, name, edge_node_id)
    if one is None:
        return None
    moves = await views.list_moves(MoveQuery(limit=_MOVES, node=name))
    processors = await views.list_processors(
        ProcessorQuery(limit=_PROCESSORS, node=name, sort="state")
    )
    summary = await views.summary()
    return {
        "node": one,
        "drilled": summary.drill_node == one.name and summary.drill_phase == "running",
        "processors": processors,
        "moves": moves,
        "now": summary.at,
        "explanation": await _explained_node(views, one, current=summary.current),
    }


async def _node_named(views: FleetViews, name: str, edge_node_id: UUID | None) -> NodeView | None:
    page = await views.list_nodes(NodeQuery(prefix=name, limit=_NODES_OF_ONE_NAME_MAX))
    found = [node for node in page.nodes if node.name == name]
    exact = [node for node in found if edge_node_id in (None, node.edge_node_id)]
    return next(iter(exact), None)


async def move(views: FleetViews, number: int) -> dict[str, Any] | None:
    """The values of `move.html`; None when it is not known."""
    page = await views.list_moves(MoveQuery(limit=1, before_id=number + 1))
    one = next((move for move in page.moves if move.id == number), None)
    if one is None:
        return None
    summary = await views.summary()
    explanation = await explained.stored_of_processor(views, one.processor_id)
    since = one.last_alive_at or one.began_at
    until = one.ended_at or summary.at
    told = [event for event in explanation["events"] if since <= event.at <= until]
    return {
        "move": one,
        "now": summary.at,
        "explanation": {**explanation, "live": True, "decision": _of_move(told), "events": told},
    }


def _of_move(events: Sequence[EventView]) -> Mapping[str, Any] | None:
    """The decision that began it."""
    found = [event.explanation for event in events if event.kind in list(MoveKind)]
    return found[-1] if found else None


async def _explained(
    views: FleetViews, one: ProcessorView, key: UUID, *, current: bool
) -> dict[str, Any]:
    """The values of `explanation.html`: from the leader, else what it found last."""
    try:
        found = await explained.of_processor(
            views, key, timeout_seconds=_ANSWER_SECONDS if current else 0
        )
    except NotKnown:
        found = await explained.stored_of_processor(views, key)
    if found["decision"] is None:
        found["decision"] = _found(one.state, one.reason, one.detail)
    return found


async def _explained_node(views: FleetViews, one: NodeView, *, current: bool) -> dict[str, Any]:
    try:
        found = await explained.of_node(
            views,
            one.name,
            one.organization_id,
            timeout_seconds=_ANSWER_SECONDS if current else 0,
        )
    except NotKnown:
        found = await explained.stored_of_node(views, one.name)
    if found["decision"] is None and one.health is not None:
        found["decision"] = _found(one.health, one.health_reason, one.health_detail)
    return found


def _found(outcome: str | None, reason: str | None, detail: str | None) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "reason": reason or "",
        "detail": detail,
        "facts": {},
        "rules": [],
        "candidates": [],
        "other_candidates": {},
    }
