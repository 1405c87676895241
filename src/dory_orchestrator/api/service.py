"""The application: every path, its handler and its description, in one table."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dory_orchestrator.api.asgi import SingleSlashes, handlers
from dory_orchestrator.api.asking import AskingApi
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
from dory_orchestrator.api.bodies import (
    DecommissionAnswer,
    DecommissionRequest,
    EdgeNodeAnswer,
    EdgeNodeRequest,
    HealthAnswer,
    Heartbeat,
    HeartbeatAnswer,
)
from dory_orchestrator.api.edge import EdgeApi
from dory_orchestrator.api.fleet import FleetApi, guarded
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
    ExportQuery,
    GuardAnswer,
    MovesAnswer,
    MovesQuery,
    NodesAnswer,
    NodesQuery,
    OverrideRequest,
    ProcessorAnswer,
    ProcessorPath,
    ProcessorsAnswer,
    ProcessorsQuery,
    RetryAnswer,
    RetryRequest,
    StreamQuery,
    SummaryAnswer,
    UncordonRequest,
    WebhooksAnswer,
)
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.openapi import Operation, describe, document_response, page_response
from dory_orchestrator.api.page.handlers import Page
from dory_orchestrator.api.streams import EVENT_STREAM, JSON_LINES
from dory_orchestrator.core.model import OrderKind
from dory_orchestrator.metrics import CONTENT_TYPE

Handler = Callable[[Request], Awaitable[Response]]
_REQUEST_ERRORS = (400, 401, 408, 413, 431)


class _Asgi:
    """Tells the router that a handler takes the bare ASGI values: a Request object for each
    heartbeat costs more than reading what is needed from the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def build(
    *,
    health: Health,
    render_metrics: Callable[[], bytes],
    edge: EdgeApi | None,
    fleet: FleetApi | None = None,
    asking: AskingApi | None = None,
    page: Page | None = None,
) -> ASGIApp:
    """The ASGI application. Without the rest it serves probes and metrics only.

    Heartbeats stand first: the router tries one path after the other.
    """
    table = [
        *(_edge(edge) if edge is not None else ()),
        *_probes(health, render_metrics),
        *(_fleet(fleet) if fleet is not None else ()),
        *(_asking(asking) if asking is not None else ()),
    ]
    document = describe([operation for operation, _ in table])
    routes: list[BaseRoute] = [_route(operation, handler) for operation, handler in table]
    routes += [_get("/openapi.json", lambda: document_response(document))]
    routes += [_get("/docs", lambda: page_response(document))]
    routes += page.routes() if page is not None else ()
    app = Starlette(routes=routes, exception_handlers=handlers())
    app.router.redirect_slashes = False
    return SingleSlashes(app)


def _route(operation: Operation, handler: Any) -> Route:
    return Route(operation.path, handler, methods=[operation.method], name=operation.summary)


def _get(path: str, make: Callable[[], Response]) -> Route:
    async def handler(_request: Request) -> Response:
        return make()

    return Route(path, handler, methods=["GET"])


def _edge(edge: EdgeApi) -> Sequence[tuple[Operation, Any]]:
    return [
        (
            Operation(
                "POST",
                "/api/v1/edge/heartbeat",
                "Send a heartbeat",
                "Reports that a processor is alive. Answered 200 whatever the database does:"
                " `acknowledged` tells whether it was recorded. `shutdown` is given only on a"
                " fresh finding that the processor is not wanted here.",
                {200: HeartbeatAnswer},
                request=Heartbeat,
                errors=_REQUEST_ERRORS,
                security="stateToken",
            ),
            _Asgi(edge.heartbeat),
        ),
        (
            Operation(
                "POST",
                "/api/v1/edge/nodes",
                "Register an edge node",
                "Registering the same name in the same organization again brings the same node"
                " back online and updates the fields that are given.",
                {201: EdgeNodeAnswer},
                request=EdgeNodeRequest,
                errors=(*_REQUEST_ERRORS, 503),
                security="stateToken",
            ),
            edge.register,
        ),
        (
            Operation(
                "POST",
                "/api/v1/edge/nodes/decommission",
                "Decommission an edge node",
                "Stops the node's active apps and marks it decommissioned, in one transaction.",
                {200: DecommissionAnswer},
                request=DecommissionRequest,
                errors=(*_REQUEST_ERRORS, 409, 500, 503),
                security="stateToken",
            ),
            edge.decommission,
        ),
    ]


def _fleet(fleet: FleetApi) -> Sequence[tuple[Operation, Any]]:
    return [
        *((operation, guarded(handler)) for operation, handler in _views(fleet)),
        *((operation, guarded(handler)) for operation, handler in _decisions(fleet)),
        *((operation, guarded(handler)) for operation, handler in _leaving(fleet)),
    ]


def _leaving(fleet: FleetApi) -> Sequence[tuple[Operation, Handler]]:
    """What tells others of events."""
    return [
        (
            Operation(
                "GET",
                "/api/v1/fleet/events/stream",
                "Follow events",
                "Server-sent events, without an end: `id` is that of the event, `event` its kind,"
                " `data` the event. One that reads too slowly gets `overrun` at last, whose `id`"
                " and `after` say where to go on. 50 may follow at once.",
                {200: str},
                errors=(400, 409, 503),
                media_type=EVENT_STREAM,
                query_type=StreamQuery,
            ),
            fleet.streams.stream,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/events/export",
                "Export events",
                "All events of a time, the oldest first, one JSON object on each line, up to the"
                " newest. A body that cannot be completed is cut.",
                {200: str},
                errors=(400, 503),
                media_type=JSON_LINES,
                query_type=ExportQuery,
            ),
            fleet.streams.export,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/webhooks",
                "List webhooks",
                "Where events are sent to, how far each is, and what it does not take.",
                {200: WebhooksAnswer},
                errors=(400, 503),
            ),
            fleet.webhooks,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/webhooks/dead-letters",
                "List dead letters",
                "Events that receivers of webhooks did not take, the newest first.",
                {200: DeadLettersAnswer},
                errors=(400, 503),
                query_type=DeadLettersQuery,
            ),
            fleet.dead_letters,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/webhooks/retry",
                "Send dead letters once more",
                "Each once, by the leader; what is not taken stays among the dead letters.",
                {200: RetryAnswer},
                request=RetryRequest,
                errors=(*_REQUEST_ERRORS, 403, 409, 503),
                security="operatorToken",
            ),
            fleet.retry,
        ),
    ]


def _views(fleet: FleetApi) -> Sequence[tuple[Operation, Handler]]:
    return [
        (
            Operation(
                "GET",
                "/api/v1/fleet/nodes",
                "List nodes",
                "The cluster's nodes and the platform's edge nodes, joined by name.",
                {200: NodesAnswer},
                errors=(400, 503),
                query_type=NodesQuery,
            ),
            fleet.nodes,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/processors",
                "List processors",
                "Desired processors, and those that are still being removed or held, each with"
                " its state and the reason for it.",
                {200: ProcessorsAnswer},
                errors=(400, 503),
                query_type=ProcessorsQuery,
            ),
            fleet.processors,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/processors/{id}",
                "Show a processor",
                "One processor with its last events.",
                {200: ProcessorAnswer},
                errors=(400, 404, 503),
                path_type=ProcessorPath,
            ),
            fleet.processor,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/events",
                "List events",
                "Every action and its reason, the newest first; with `after` the oldest first,"
                " to follow what happens.",
                {200: EventsAnswer},
                errors=(400, 503),
                query_type=EventsQuery,
            ),
            fleet.events,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/guard",
                "Show what waits for an operator",
                "What the deletion guard holds, frozen processors, and pods of other fleets.",
                {200: GuardAnswer},
                errors=(400, 503),
            ),
            fleet.guard,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/moves",
                "List moves",
                "Processors on their way between two nodes, and those that have arrived, the"
                " newest first.",
                {200: MovesAnswer},
                errors=(400, 503),
                query_type=MovesQuery,
            ),
            fleet.moves,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/brake",
                "Show the mass-failure brake",
                "Whether it holds, why, and which edge nodes look dead.",
                {200: BrakeAnswer},
                errors=(400, 503),
            ),
            fleet.brake,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/summary",
                "Show the fleet in a few numbers",
                "Counts of processors and nodes, who leads, and whether anything is held.",
                {200: SummaryAnswer},
                errors=(400, 503),
            ),
            fleet.summary,
        ),
    ]


def _decisions(fleet: FleetApi) -> Sequence[tuple[Operation, Handler]]:
    errors = (*_REQUEST_ERRORS, 403, 409, 503)
    return [
        (
            Operation(
                "POST",
                "/api/v1/fleet/guard/confirm",
                "Confirm the deletion guard",
                "Accepts the present counts of desired processors: what is held is deleted.",
                {200: GuardAnswer},
                request=ConfirmRequest,
                errors=errors,
                security="operatorToken",
            ),
            fleet.confirm,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/guard/adopt",
                "Adopt frozen processors",
                "Takes the word of their pods, whose epoch is later than the database's: for"
                " after a database was restored from a backup.",
                {200: AdoptAnswer},
                request=AdoptRequest,
                errors=errors,
                security="operatorToken",
            ),
            fleet.adopt,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/brake/override",
                "Override the mass-failure brake",
                "Dead nodes are moved away from until then, however many they are. Accepted also"
                " when the brake is not engaged: then it does not engage until then.",
                {200: BrakeDecisionAnswer},
                request=OverrideRequest,
                errors=(*_REQUEST_ERRORS, 403, 503),
                security="operatorToken",
            ),
            fleet.override,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/brake/clear",
                "End an override of the mass-failure brake",
                "From now on it holds again, if it has cause to.",
                {200: BrakeDecisionAnswer},
                request=ClearRequest,
                errors=errors,
                security="operatorToken",
            ),
            fleet.clear,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/nodes/cordon",
                "Cordon an edge node",
                "It gets no new work, and nothing comes home to it; what runs there stays.",
                {200: CordonAnswer},
                request=CordonRequest,
                errors=errors,
                security="operatorToken",
            ),
            fleet.cordon,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/nodes/uncordon",
                "Uncordon an edge node",
                "It gets work again. One that was decommissioned has to register before.",
                {200: CordonAnswer},
                request=UncordonRequest,
                errors=errors,
                security="operatorToken",
            ),
            fleet.uncordon,
        ),
    ]


def _asking(asking: AskingApi) -> Sequence[tuple[Operation, Any]]:
    return [
        *((operation, guarded(handler)) for operation, handler in _questions(asking)),
        *((operation, guarded(handler)) for operation, handler in _orders(asking)),
    ]


def _questions(asking: AskingApi) -> Sequence[tuple[Operation, Handler]]:
    return [
        (
            Operation(
                "GET",
                "/api/v1/fleet/processors/{id}/explanation",
                "Explain a processor",
                "Why it is as it is: what was known, the rules that were asked with their numbers,"
                " the nodes that were looked at. The leader answers from its own decision; without"
                " one, what was stored is told.",
                {200: ExplainAnswer},
                errors=(400, 404, 503),
                path_type=ProcessorPath,
            ),
            asking.explain_processor,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/processors/{id}/directive",
                "Explain a directive",
                "What the next heartbeat of a processor is answered, and why. Nothing is recorded.",
                {200: ExplainAnswer},
                errors=(400, 503),
                path_type=ProcessorPath,
                query_type=SenderQuery,
            ),
            asking.explain_directive,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/nodes/explanation",
                "Explain a node",
                "Why it is judged as it is.",
                {200: ExplainAnswer},
                errors=(400, 404, 409, 503),
                query_type=NodeQuery,
            ),
            asking.explain_node,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/plan",
                "Show the plan",
                "What is done in this cycle, what would be done but for a pause, and what waits.",
                {200: PlanAnswer},
                errors=(400, 503),
            ),
            asking.plan,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/what-if",
                "Suppose that nodes die",
                "Who would move where, who would wait for room, what would be lost, and how long"
                " it would take. Nothing is done.",
                {200: WhatIfAnswer},
                errors=(400, 404, 503),
                query_type=WhatIfQuery,
            ),
            asking.what_if,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/drills",
                "List fire drills",
                "The last drills with what came of each: RTO and RPO of every move.",
                {200: DrillsAnswer},
                errors=(400, 503),
                query_type=DrillsQuery,
            ),
            asking.drills,
        ),
        (
            Operation(
                "GET",
                "/api/v1/fleet/pause",
                "Show the pause",
                "Whether everything is paused, until when, by whom and why.",
                {200: PauseAnswer},
                errors=(400, 503),
            ),
            asking.pause_status,
        ),
    ]


def _orders(asking: AskingApi) -> Sequence[tuple[Operation, Handler]]:
    errors = (*_REQUEST_ERRORS, 403, 503)
    return [
        (
            Operation(
                "POST",
                "/api/v1/fleet/drills/start",
                "Start a fire drill",
                "Treats an edge node as dead, for real: its processors move, and come home"
                " afterwards. One node at a time, and only what would be safe. It ends by itself"
                " when a processor does not become ready.",
                {200: DrillAnswer},
                request=DrillStartRequest,
                errors=(*errors, 404, 409),
                security="operatorToken",
            ),
            asking.start_drill,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/drills/stop",
                "Stop the fire drill",
                "Its processors go home now.",
                {200: DrillAnswer},
                request=DrillStopRequest,
                errors=(*errors, 409),
                security="operatorToken",
            ),
            asking.stop_drill,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/pause/begin",
                "Pause everything",
                "Nothing is created, ended or moved until then. Heartbeats go on.",
                {200: PauseDecisionAnswer},
                request=PauseRequest,
                errors=errors,
                security="operatorToken",
            ),
            asking.pause,
        ),
        (
            Operation(
                "POST",
                "/api/v1/fleet/pause/end",
                "End the pause",
                "What waited is done now, if it is still right.",
                {200: PauseDecisionAnswer},
                request=ResumeRequest,
                errors=(*errors, 409),
                security="operatorToken",
            ),
            asking.resume,
        ),
        *(
            (
                Operation(
                    "POST",
                    f"/api/v1/fleet/orders/{name}",
                    summary,
                    description,
                    {200: OrderAnswer},
                    request=OrderRequest,
                    errors=(*errors, 404, 409),
                    security="operatorToken",
                ),
                handler,
            )
            for name, summary, description, handler in (
                (
                    "failover",
                    "Move a processor away",
                    "An edge processor leaves its home for the cloud, with its state, and stays"
                    " there until it is sent home.",
                    asking.order(OrderKind.FAILOVER),
                ),
                (
                    "failback",
                    "Send a processor home",
                    "It goes home with its state, without waiting for its home to be well for"
                    " long.",
                    asking.order(OrderKind.FAILBACK),
                ),
                (
                    "retry",
                    "Try a processor again",
                    "The next try of one that failed is due now.",
                    asking.retry,
                ),
            )
        ),
    ]


def _probes(health: Health, render_metrics: Callable[[], bytes]) -> list[tuple[Operation, Any]]:
    async def metrics(_request: Request) -> Response:
        return Response(render_metrics(), headers={"content-type": CONTENT_TYPE})

    def probe(answer: Callable[[], Awaitable[Response]]) -> Handler:
        async def handler(_request: Request) -> Response:
            return await answer()

        return handler

    return [
        (
            Operation(
                "GET",
                "/healthz",
                "Show health",
                "Runs all health checkers. Unhealthy if any is, degraded if any is.",
                {200: HealthAnswer, 503: HealthAnswer},
            ),
            probe(health.healthz),
        ),
        (
            Operation(
                "GET",
                "/readyz",
                "Show readiness",
                "Ready once set-up is complete, while all readiness checkers are healthy.",
                {200: HealthAnswer, 503: HealthAnswer},
            ),
            probe(health.readyz),
        ),
        (
            Operation(
                "GET",
                "/livez",
                "Show liveness",
                "Always 200: that it answers is the proof.",
                {200: HealthAnswer},
            ),
            probe(health.livez),
        ),
        (
            Operation(
                "GET",
                "/metrics",
                "Show metrics",
                "Prometheus text format.",
                {200: str},
                media_type="text/plain",
            ),
            metrics,
        ),
    ]
