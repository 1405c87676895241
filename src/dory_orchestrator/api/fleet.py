"""The fleet API: what operators see and decide."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from dory_orchestrator.api.asgi import ambiguous_response, error_response, json_response, read_body
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.bodies import BodyError, parse
from dory_orchestrator.api.fleet_bodies import (
    AdoptAnswer,
    AdoptRequest,
    BrakeAnswer,
    BrakeDecisionAnswer,
    ClearRequest,
    ConfirmRequest,
    CordonAnswer,
    CordonRequest,
    DeadLettersAnswer,
    DeadLettersQuery,
    EventsAnswer,
    EventsQuery,
    GuardAnswer,
    MovesAnswer,
    MovesQuery,
    NodesAnswer,
    NodesQuery,
    NoQuery,
    OverrideRequest,
    ProcessorAnswer,
    ProcessorPath,
    ProcessorsAnswer,
    ProcessorsQuery,
    RetryAnswer,
    RetryRequest,
    SummaryAnswer,
    UncordonRequest,
    WebhooksAnswer,
)
from dory_orchestrator.api.parameters import (
    ParameterError,
    cursor_of,
    given,
    parts_of,
    path_of,
    query_of,
)
from dory_orchestrator.api.parameters import moment as _moment
from dory_orchestrator.api.streams import EventStreams
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    BrakeStatus,
    DeadLetterQuery,
    EdgeNodeAmbiguous,
    EventQuery,
    FleetViews,
    MoveQuery,
    NobodyAnswers,
    NodeQuery,
    NotKnown,
    OperatorRefused,
    Position,
    ProcessorQuery,
    StoreBusy,
    StoreDataError,
    StoreError,
)

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
_log = get_logger(__name__)
_EVENTS_OF_PROCESSOR = 20
_RETRY = {"retry-after": "5"}
_UNAUTHORIZED = {"www-authenticate": "Bearer"}


class FleetApi:
    """The handlers. Reading is open, as the probes are; changing needs the operators' token."""

    def __init__(self, views: FleetViews, *, tokens: Tokens, cluster: str) -> None:
        self._views = views
        self._tokens = tokens
        self._cluster = cluster
        self.streams = EventStreams(views)

    async def nodes(self, request: Request) -> Response:
        """200 with a page of nodes."""
        query = query_of(NodesQuery, request.scope["query_string"])
        page = await self._views.list_nodes(_node_query(query))
        cursor = _next(f"nodes {query.sort}", page.next)
        return answered(NodesAnswer, nodes=page.nodes, next_cursor=cursor)

    async def processors(self, request: Request) -> Response:
        """200 with a page of processors."""
        query = query_of(ProcessorsQuery, request.scope["query_string"])
        page = await self._views.list_processors(_processor_query(query))
        cursor = _next(f"processors {query.sort}", page.next)
        return answered(ProcessorsAnswer, processors=page.processors, next_cursor=cursor)

    async def processor(self, request: Request) -> Response:
        """200 with one processor and its last events; 404."""
        path = path_of(ProcessorPath, request.path_params)
        query_of(NoQuery, request.scope["query_string"])
        found = await self._views.get_processor(path.id, events_max=_EVENTS_OF_PROCESSOR)
        if found is None:
            return error_response(404, f"id: no processor {path.id} is known")
        return answered(ProcessorAnswer, processor=found[0], events=found[1])

    async def events(self, request: Request) -> Response:
        """200 with a page of events."""
        query = query_of(EventsQuery, request.scope["query_string"])
        page = await self._views.list_events(_event_query(query))
        back = page.more and query.after is UNSET
        cursor = cursor_of("events", str(page.events[-1].id)) if back else None
        return answered(EventsAnswer, events=page.events, next_cursor=cursor, follow=page.follow_id)

    async def guard(self, request: Request) -> Response:
        """200 with what waits for an operator's word."""
        query_of(NoQuery, request.scope["query_string"])
        return json_response(_convert(await self._views.guard_status(), GuardAnswer))

    async def brake(self, request: Request) -> Response:
        """200 with the mass-failure brake."""
        query_of(NoQuery, request.scope["query_string"])
        return json_response(_convert(await self._views.brake_status(), BrakeAnswer))

    async def moves(self, request: Request) -> Response:
        """200 with a page of moves."""
        query = query_of(MovesQuery, request.scope["query_string"])
        page = await self._views.list_moves(_move_query(query))
        cursor = cursor_of("moves", str(page.moves[-1].id)) if page.more else None
        return answered(MovesAnswer, moves=page.moves, next_cursor=cursor)

    async def summary(self, request: Request) -> Response:
        """200 with the fleet in a few numbers."""
        query_of(NoQuery, request.scope["query_string"])
        found = await self._views.summary()
        leader = {"holder": found.leader, "term": found.term, "lease_seconds": found.lease_seconds}
        fields = SummaryAnswer.__struct_fields__
        values = {
            name: getattr(found, name) for name in fields if name not in ("cluster", "leader")
        }
        return answered(SummaryAnswer, **values, cluster=self._cluster, leader=leader)

    async def confirm(self, request: Request) -> Response:
        """200 with the guard's status; 409 when nothing, or something else, is held."""
        body = await self._decision(request, ConfirmRequest)
        status = await self._views.confirm_guard(body.by, given(body.groups))
        _log.warning("deletion guard confirmed", by=body.by, groups=status.groups)
        return json_response(_convert(status, GuardAnswer))

    async def adopt(self, request: Request) -> Response:
        """200 with whose pods own them now; 409 naming those that are not frozen."""
        body = await self._decision(request, AdoptRequest)
        wanted = None if body.processors == "all" else body.processors
        adopted = await self._views.adopt(wanted, body.by)
        _log.warning("frozen processors adopted", by=body.by, count=len(adopted))
        return json_response(AdoptAnswer(list(adopted)))

    async def override(self, request: Request) -> Response:
        """200 with the brake, and what the override does."""
        body = await self._decision(request, OverrideRequest)
        status = await self._views.override_brake(body.for_seconds, body.reason, body.by)
        _log.warning(
            "brake overridden", by=body.by, until=str(status.override_until), reason=body.reason
        )
        return _decided(status, _override_does(status))

    async def clear(self, request: Request) -> Response:
        """200 with the brake, and what follows; 409 when it is not overridden."""
        body = await self._decision(request, ClearRequest)
        status = await self._views.clear_brake_override(body.by)
        _log.warning("override of the brake cleared", by=body.by)
        return _decided(status, _clearing_does(status))

    async def cordon(self, request: Request) -> Response:
        """200 with whether it changed anything; 409 when there is no such node, or several."""
        body = await self._decision(request, CordonRequest)
        changed = await self._views.cordon(
            body.node, given(body.organization), body.reason, body.by
        )
        _log.warning("cordoned", node=body.node, by=body.by, reason=body.reason, changed=changed)
        message = "it gets no new work, and nothing comes home to it; what runs there stays"
        return _cordoned(
            body.node, True, changed, message if changed else "it was cordoned already"
        )

    async def uncordon(self, request: Request) -> Response:
        """200 with whether it changed anything; 409 as for `cordon`, and when it is
        decommissioned."""
        body = await self._decision(request, UncordonRequest)
        changed = await self._views.uncordon(body.node, given(body.organization), body.by)
        _log.warning("uncordoned", node=body.node, by=body.by, changed=changed)
        message = "it gets work again, and what is away from home comes back once it is well"
        return _cordoned(body.node, False, changed, message if changed else "it was not cordoned")

    async def webhooks(self, request: Request) -> Response:
        """200 with all webhooks."""
        query_of(NoQuery, request.scope["query_string"])
        return answered(WebhooksAnswer, webhooks=await self._views.list_webhooks())

    async def dead_letters(self, request: Request) -> Response:
        """200 with a page of dead letters."""
        query = query_of(DeadLettersQuery, request.scope["query_string"])
        page = await self._views.list_dead_letters(_dead_letter_query(query))
        cursor = None
        if page.more:
            last = page.dead_letters[-1]
            cursor = cursor_of("dead-letters", str(last.event.id), last.webhook)
        return answered(DeadLettersAnswer, dead_letters=page.dead_letters, next_cursor=cursor)

    async def retry(self, request: Request) -> Response:
        """200 with how many are sent once more; 409 when there is no such webhook, and when some
        of them are no dead letters of it."""
        body = await self._decision(request, RetryRequest)
        wanted = None if body.ids == "all" else body.ids
        count = await self._views.retry_dead_letters(body.webhook, wanted, body.by)
        _log.warning("dead letters are sent again", webhook=body.webhook, by=body.by, count=count)
        return answered(RetryAnswer, webhook=body.webhook, count=count)

    async def _decision(self, request: Request, type_: type[T]) -> T:
        return await decision_of(self._tokens, request, type_)


async def decision_of(tokens: Tokens, request: Request, type_: type[T]) -> T:
    """The body of a request that changes the fleet. Raises BodyError, Denied."""
    if not tokens.admit(request.scope):
        raise Denied(401, "authorization: the operators' token is needed", _UNAUTHORIZED)
    # Where no token is set, a page that an operator's browser shows must not decide.
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Denied(403, "sec-fetch-site: pages of other sites may not change the fleet")
    query_of(NoQuery, request.scope["query_string"])
    return parse(type_, await read_body(request.scope, request.receive))


class Denied(Exception):
    """Who asks may not. Answered with `status`."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


def guarded(handler: Handler) -> Handler:
    """`handler`, with what it raises turned into answers."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Denied as error:
            return error_response(error.status, str(error), error.headers)
        except (BodyError, StoreDataError) as error:
            return error_response(400, str(error))
        except EdgeNodeAmbiguous as error:
            return ambiguous_response(error)
        except OperatorRefused as error:
            return error_response(409, str(error))
        except NotKnown as error:
            return error_response(404, str(error))
        except NobodyAnswers as error:
            return error_response(503, f"leader: {error}", _RETRY)
        except StoreError as error:
            _log.warning("a fleet request failed", path=request.url.path, error=str(error))
            busy = isinstance(error, StoreBusy)
            return error_response(503, f"database: {'busy' if busy else 'not available'}", _RETRY)

    return answer


def _processor_query(query: ProcessorsQuery) -> ProcessorQuery:
    return ProcessorQuery(
        limit=query.limit,
        sort=query.sort,
        after=_position(query.cursor, f"processors {query.sort}"),
        states=tuple(query.state) if query.state is not UNSET else None,
        node=given(query.node),
        template=given(query.template),
        organization_id=given(query.organization),
        namespace=given(query.namespace),
        health_status=given(query.health),
        prefix=given(query.q),
    )


def _node_query(query: NodesQuery) -> NodeQuery:
    return NodeQuery(
        limit=query.limit,
        sort=query.sort,
        after=_position(query.cursor, f"nodes {query.sort}"),
        kind=given(query.kind),
        ready=None if query.ready is UNSET else query.ready == "true",
        status=given(query.status),
        organization_id=given(query.organization),
        prefix=given(query.q),
    )


def _event_query(query: EventsQuery) -> EventQuery:
    if query.after is not UNSET and query.cursor is not UNSET:
        raise ParameterError("after, cursor: give one of them")
    return EventQuery(
        limit=query.limit,
        before_id=_row_id(query.cursor, "events"),
        after_id=given(query.after),
        processor_id=given(query.processor),
        node=given(query.node),
        kind=given(query.kind),
        reason=given(query.reason),
        since=_moment(query.since),
        explained=query.explained == "true",
    )


def _move_query(query: MovesQuery) -> MoveQuery:
    return MoveQuery(
        limit=query.limit,
        before_id=_row_id(query.cursor, "moves"),
        processor_id=given(query.processor_id),
        node=given(query.node),
        kind=given(query.kind),
        under_way=None if query.open is UNSET else query.open == "true",
        outcome=given(query.outcome),
    )


def _override_does(status: BrakeStatus) -> str:
    if status.engaged_at is None:
        return "the brake was not engaged: until then it does not engage"
    return "the brake does not hold until then: dead nodes are moved away from"


def _clearing_does(status: BrakeStatus) -> str:
    if status.engaged_at is None:
        return "the brake is not engaged; from now on it may engage"
    return "the brake holds again, unless its cause is gone"


def _decided(status: BrakeStatus, message: str) -> Response:
    values = {name: getattr(status, name) for name in BrakeAnswer.__struct_fields__}
    return answered(BrakeDecisionAnswer, **values, message=message)


def _cordoned(node: str, cordoned: bool, changed: bool, message: str) -> Response:
    return answered(CordonAnswer, node=node, cordoned=cordoned, changed=changed, message=message)


def _position(cursor: str | UnsetType, order: str) -> Position | None:
    if isinstance(cursor, UnsetType):
        return None
    return Position(*parts_of(cursor, order, 3))


def _dead_letter_query(query: DeadLettersQuery) -> DeadLetterQuery:
    after = None
    if query.cursor is not UNSET:
        number, webhook = parts_of(query.cursor, "dead-letters", 2)
        after = (_id(number), webhook)
    return DeadLetterQuery(limit=query.limit, after=after, webhook=given(query.webhook))


def _row_id(cursor: str | UnsetType, order: str) -> int | None:
    if isinstance(cursor, UnsetType):
        return None
    (number,) = parts_of(cursor, order, 1)
    return _id(number)


def _id(number: str) -> int:
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise ParameterError("cursor: is none of ours")
    return int(number)


def _next(order: str, position: Position | None) -> str | None:
    return None if position is None else cursor_of(order, *position)


def answered(type_: type[msgspec.Struct], **values: Any) -> Response:
    """200 with these values as a body of that type."""
    return json_response(_convert(values, type_))


def _convert(value: Any, type_: type[T]) -> T:
    return msgspec.convert(value, type_, from_attributes=True)
