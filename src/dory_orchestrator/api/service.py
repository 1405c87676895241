"""The application: every path, its handler and its description, in one table."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dory_orchestrator.api.asgi import SingleSlashes, handlers
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
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.openapi import Operation, describe, document_response, page_response
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


def build(*, health: Health, render_metrics: Callable[[], bytes], edge: EdgeApi | None) -> ASGIApp:
    """The ASGI application. Without `edge` it serves probes and metrics only."""
    table = _probes(health, render_metrics)
    if edge is not None:
        table = [*_edge(edge), *table]
    document = describe([operation for operation, _ in table])
    routes = [_route(operation, handler) for operation, handler in table]
    routes += [_get("/openapi.json", lambda: document_response(document))]
    routes += [_get("/docs", lambda: page_response(document))]
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
                secured=True,
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
                secured=True,
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
                secured=True,
            ),
            edge.decommission,
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
