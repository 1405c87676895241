"""Why something is as it is: what the leader answers, and the decisions that were stored."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from dory_orchestrator.core import directive
from dory_orchestrator.core.answering import QuestionKind, decision
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import EventQuery, EventView, FleetViews, NobodyAnswers

_log = get_logger(__name__)
ANSWER_SECONDS = 8.0
"""The leader answers at the end of a cycle: with ten thousand processors in under a second."""
_EVENTS = 20
_NOT_LIVE = "no leader answers now: these are the last decisions that were stored"


async def of_processor(
    views: FleetViews, key: UUID, *, timeout_seconds: float = ANSWER_SECONDS
) -> dict[str, Any]:
    """The fields of ExplainAnswer, of a processor. Raises NotKnown, StoreError."""
    asked = {"id": str(key)}
    told = await _ask(views, QuestionKind.PROCESSOR, asked, timeout_seconds)
    return _explained(told, "processor", str(key), None, await _events_of(views, key))


async def of_node(
    views: FleetViews,
    name: str,
    organization_id: UUID | None,
    *,
    timeout_seconds: float = ANSWER_SECONDS,
) -> dict[str, Any]:
    """The same of a node. Raises NotKnown, StoreError."""
    of = None if organization_id is None else str(organization_id)
    asked = {"name": name, "organization": of}
    told = await _ask(views, QuestionKind.NODE, asked, timeout_seconds)
    stored = await stored_of_node(views, name)
    return _explained(told, "node", None, name, stored["events"])


async def of_directive(views: FleetViews, key: UUID, sender: str | None) -> dict[str, Any]:
    """The same of what a heartbeat is answered; also of a processor that is not known. Raises
    StoreError."""
    facts, node = await views.directive(key, sender)
    answer, reason = directive.decide(facts, node)
    told = directive.explain(facts, node)
    detail = f"a heartbeat of it from {node or 'no node'} is answered {answer}"
    said = {"decision": decision(answer, reason, detail, told), "because": []}
    return _explained(said, "directive", str(key), None, await _events_of(views, key))


async def stored_of_processor(views: FleetViews, key: UUID) -> dict[str, Any]:
    """What is stored of one that is not known any more. Raises StoreError."""
    return _explained(None, "processor", str(key), None, await _events_of(views, key))


async def stored_of_node(views: FleetViews, name: str) -> dict[str, Any]:
    """The same of a node that is not judged. Raises StoreError."""
    query = EventQuery(limit=_EVENTS, node=name, explained=True)
    return _explained(None, "node", None, name, (await views.list_events(query)).events)


async def _events_of(views: FleetViews, key: UUID) -> Sequence[EventView]:
    query = EventQuery(limit=_EVENTS, processor_id=key, explained=True)
    return (await views.list_events(query)).events


async def _ask(
    views: FleetViews, kind: QuestionKind, asked: Mapping[str, Any], timeout_seconds: float
) -> Mapping[str, Any] | None:
    """None: nobody answers. What is stored then has to do."""
    if timeout_seconds <= 0:
        return None
    try:
        return await views.ask(kind, asked, timeout_seconds=timeout_seconds)
    except NobodyAnswers as error:
        _log.info("a question was not answered", kind=str(kind), error=str(error))
        return None


def _explained(
    told: Mapping[str, Any] | None,
    subject: str,
    key: str | None,
    name: str | None,
    events: Sequence[EventView],
) -> dict[str, Any]:
    known = told or {}
    return {
        "subject": subject,
        "id": known.get("id", key),
        "name": known.get("name", name),
        "live": told is not None,
        "message": "" if told is not None else _NOT_LIVE,
        "decision": known.get("decision"),
        "because": known.get("because", []),
        "events": events,
    }
