"""What is asked of the leader, and what is ordered of it, besides the lists of `fleet`."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from dory_orchestrator.api import explained
from dory_orchestrator.api.asking_bodies import (
    DrillAnswer,
    DrillsAnswer,
    DrillsQuery,
    DrillStartRequest,
    DrillStopRequest,
    ExplainAnswer,
    NodeQuery,
    OrderAnswer,
    OrderRequest,
    PauseAnswer,
    PauseDecisionAnswer,
    PauseRequest,
    PlanAnswer,
    ResumeRequest,
    SenderQuery,
    WhatIfAnswer,
    WhatIfQuery,
)
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.fleet import answered, decision_of
from dory_orchestrator.api.fleet_bodies import NoQuery, ProcessorPath
from dory_orchestrator.api.parameters import given, path_of, query_of
from dory_orchestrator.core.answering import QuestionKind
from dory_orchestrator.core.model import OrderKind
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import DrillView, FleetViews, OperatorRefused

_log = get_logger(__name__)


class AskingApi:
    """The handlers. Asking is open, as reading is; orders need the operators' token."""

    def __init__(self, views: FleetViews, *, tokens: Tokens) -> None:
        self._views = views
        self._tokens = tokens

    # Asking

    async def explain_processor(self, request: Request) -> Response:
        """200 with why a processor is as it is; 404."""
        key = path_of(ProcessorPath, request.path_params).id
        query_of(NoQuery, request.scope["query_string"])
        return answered(ExplainAnswer, **await explained.of_processor(self._views, key))

    async def explain_node(self, request: Request) -> Response:
        """200 with why a node is as it is; 404."""
        query = query_of(NodeQuery, request.scope["query_string"])
        found = await explained.of_node(self._views, query.node, given(query.organization))
        return answered(ExplainAnswer, **found)

    async def explain_directive(self, request: Request) -> Response:
        """200 with what a heartbeat is answered, and why. Also of one that is not known: it is."""
        key = path_of(ProcessorPath, request.path_params).id
        query = query_of(SenderQuery, request.scope["query_string"])
        found = await explained.of_directive(self._views, key, given(query.sender))
        return answered(ExplainAnswer, **found)

    async def plan(self, request: Request) -> Response:
        """200 with what is being done and what waits; 503 when nobody leads."""
        query_of(NoQuery, request.scope["query_string"])
        found = await self._views.ask(
            QuestionKind.PLAN, {}, timeout_seconds=explained.ANSWER_SECONDS
        )
        return answered(PlanAnswer, **found)

    async def what_if(self, request: Request) -> Response:
        """200 with what would happen; 404 of an unknown node; 503 when nobody leads."""
        query = query_of(WhatIfQuery, request.scope["query_string"])
        down = given(query.node_down) or []
        asked = {"down": down, "without_cloud": query.without_cloud == "true"}
        found = await self._views.ask(
            QuestionKind.WHAT_IF, asked, timeout_seconds=explained.ANSWER_SECONDS
        )
        return answered(WhatIfAnswer, **found)

    async def pause_status(self, request: Request) -> Response:
        """200 with whether everything is paused."""
        query_of(NoQuery, request.scope["query_string"])
        return answered(PauseAnswer, **_values(await self._views.pause_status()))

    # Ordering

    async def pause(self, request: Request) -> Response:
        """200 with the pause."""
        body = await decision_of(self._tokens, request, PauseRequest)
        status = await self._views.pause(body.for_seconds, body.reason, body.by)
        _log.warning("paused", by=body.by, until=str(status.until), reason=body.reason)
        message = (
            "until then nothing is created, ended or moved; heartbeats go on, and what was begun"
            " is carried out within half a minute"
        )
        return answered(PauseDecisionAnswer, **_values(status), message=message)

    async def resume(self, request: Request) -> Response:
        """200 with the pause, which is over; 409 when there is none."""
        body = await decision_of(self._tokens, request, ResumeRequest)
        status = await self._views.resume(body.by)
        _log.warning("resumed", by=body.by)
        message = "what waited is done now, if it is still right"
        return answered(PauseDecisionAnswer, **_values(status), message=message)

    def order(self, kind: OrderKind) -> Callable[[Request], Awaitable[Response]]:
        """The handler of one kind of order: 200 with what follows; 404; 409 with why not."""

        async def handler(request: Request) -> Response:
            body = await decision_of(self._tokens, request, OrderRequest)
            message = await self._views.order(body.processor, kind, body.reason, body.by)
            self._tell(str(kind), body)
            return answered(OrderAnswer, processor=body.processor, message=message)

        return handler

    async def drills(self, request: Request) -> Response:
        """200 with the last drills."""
        query = query_of(DrillsQuery, request.scope["query_string"])
        return answered(DrillsAnswer, drills=await self._views.list_drills(query.limit))

    async def start_drill(self, request: Request) -> Response:
        """200 with the drill; 409 when it would break a promise now; 503 when nobody leads."""
        body = await decision_of(self._tokens, request, DrillStartRequest)
        found = await start_drill(
            self._views, body.node, given(body.organization), body.for_seconds, body.reason, body.by
        )
        _log.warning("a drill begins", node=body.node, by=body.by, reason=body.reason)
        message = (
            f"its processors move now; after {body.for_seconds:g} s, or as soon as one does not"
            " become ready, they come home"
        )
        return answered(DrillAnswer, drill=found, message=message)

    async def stop_drill(self, request: Request) -> Response:
        """200 with the drill, whose processors go home; 409 when none runs."""
        body = await decision_of(self._tokens, request, DrillStopRequest)
        found = await self._views.stop_drill(body.by)
        _log.warning("a drill is stopped", node=found.node_name, by=body.by)
        return answered(DrillAnswer, drill=found, message="its processors go home now")

    async def retry(self, request: Request) -> Response:
        """200 with what follows; 404; 409 when nothing waits to be tried."""
        body = await decision_of(self._tokens, request, OrderRequest)
        message = await self._views.retry(body.processor, body.reason, body.by)
        self._tell("retry", body)
        return answered(OrderAnswer, processor=body.processor, message=message)

    def _tell(self, order: str, body: OrderRequest) -> None:
        key = str(body.processor)
        _log.warning("ordered", order=order, processor_id=key, by=body.by, reason=body.reason)


async def start_drill(
    views: FleetViews,
    node: str,
    organization_id: UUID | None,
    for_seconds: float,
    reason: str,
    by: str,
) -> DrillView:
    """Only what the leader says would be safe is begun. Raises OperatorRefused, NotKnown,
    NobodyAnswers, StoreError."""
    asked = {"down": [node], "without_cloud": False}
    seconds = explained.ANSWER_SECONDS
    found = await views.ask(QuestionKind.WHAT_IF, asked, timeout_seconds=seconds)
    if not found["safe"]:
        first, stuck = found["processors"][0], found["waits"] + found["stays"]
        name = first["name"] or first["id"]
        raise OperatorRefused(
            f"node: {stuck} of its processors would not move: {name}: {first['detail']}"
        )
    return await views.start_drill(node, organization_id, for_seconds, reason, by)


def _values(status: Any) -> dict[str, Any]:
    return {name: getattr(status, name) for name in PauseAnswer.__struct_fields__}
