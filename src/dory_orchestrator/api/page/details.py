"""What a click shows: a processor, a node or a move, with what happened to it and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from dory_orchestrator.ports import (
    EventQuery,
    EventView,
    FleetViews,
    MoveQuery,
    NodeQuery,
    NodeView,
    ProcessorQuery,
    ProcessorView,
)

_EVENTS = 20
_MOVES = 5
_PROCESSORS = 50
_NODES_OF_ONE_NAME_MAX = 1000


async def processor(views: FleetViews, key: UUID) -> dict[str, Any] | None:
    """The values of `processor.html`; None when it is not known."""
    found = await views.get_processor(key, events_max=_EVENTS)
    if found is None:
        return None
    one, events = found
    moves = await views.list_moves(MoveQuery(limit=_MOVES, processor_id=key))
    summary = await views.summary()
    return {
        "processor": one,
        "moves": moves,
        "now": summary.at,
        "explanation": await explanation_of_processor(views, one, events, current=summary.current),
    }


async def node(views: FleetViews, name: str, edge_node_id: UUID | None) -> dict[str, Any] | None:
    """The values of `node.html`; None when it is not known."""
    one = await _node_named(views, name, edge_node_id)
    if one is None:
        return None
    events = await views.list_events(EventQuery(limit=_EVENTS, node=name))
    moves = await views.list_moves(MoveQuery(limit=_MOVES, node=name))
    processors = await views.list_processors(
        ProcessorQuery(limit=_PROCESSORS, node=name, sort="state")
    )
    summary = await views.summary()
    return {
        "node": one,
        "processors": processors,
        "moves": moves,
        "now": summary.at,
        "explanation": await explanation_of_node(
            views, one, events.events, current=summary.current
        ),
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
    events = await views.list_events(
        EventQuery(limit=_EVENTS, processor_id=one.processor_id, since=one.last_alive_at)
    )
    summary = await views.summary()
    return {
        "move": one,
        "now": summary.at,
        "explanation": await explanation_of_processor(
            views, None, events.events, current=summary.current, key=one.processor_id
        ),
    }


async def explanation_of_processor(
    _views: FleetViews,
    one: ProcessorView | None,
    events: Sequence[EventView],
    *,
    current: bool,
    key: UUID | None = None,
) -> dict[str, Any]:
    """The values of `explanation.html`, of what the leader found last."""
    return {
        "live": current,
        "at": None,
        "subject": "processor",
        "id": str(one.id if one is not None else key),
        "name": None if one is None else one.name,
        "decision": None if one is None else _found(one.state, one.reason, one.detail),
        "events": [_event(event) for event in events],
    }


async def explanation_of_node(
    _views: FleetViews, one: NodeView, events: Sequence[EventView], *, current: bool
) -> dict[str, Any]:
    """The values of `explanation.html`, of how the node was judged last."""
    judged = one.health is not None
    return {
        "live": current,
        "at": None,
        "subject": "node",
        "id": one.name,
        "name": one.name,
        "decision": _found(one.health, one.health_reason, one.health_detail) if judged else None,
        "events": [_event(event) for event in events],
    }


def _found(outcome: str | None, reason: str | None, detail: str | None) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "reason": reason,
        "detail": detail,
        "facts": {},
        "rules": [],
        "candidates": [],
    }


def _event(event: EventView) -> Mapping[str, Any]:
    return {**asdict(event), "explanation": None}
