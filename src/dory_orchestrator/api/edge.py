"""The edge API: heartbeats, registration, decommission.

Source of the rules: http-api-reference, "Edge API".
"""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dory_orchestrator.api.asgi import (
    BodyTooLarge,
    ClientGone,
    ambiguous_response,
    encode,
    error_response,
    json_response,
    read_body,
    too_large,
)
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.bodies import (
    BodyError,
    DecommissionAnswer,
    DecommissionRequest,
    EdgeNodeAnswer,
    EdgeNodeRequest,
    Heartbeat,
    HeartbeatAnswer,
    heartbeat,
    parse,
)
from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.core.node_name import why_not_kubernetes
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Beat,
    EdgeNodeAmbiguous,
    EdgeNodeNotFound,
    EdgeNodeRegistration,
    EdgeNodeStore,
    RegistrationRefused,
    StoreBusy,
    StoreDataError,
    StoreError,
)

T = TypeVar("T")
_log = get_logger(__name__)
_JSON = (b"content-type", b"application/json")
_RETRY = {"retry-after": "5"}
_UNAUTHORIZED = {"www-authenticate": "Bearer"}


class EdgeApi:
    """The three handlers and what they share."""

    def __init__(
        self,
        *,
        recorder: HeartbeatRecorder,
        nodes: EdgeNodeStore,
        tokens: Tokens,
        metrics: Metrics,
        canary: Beat | None = None,
    ) -> None:
        self._recorder = recorder
        self._nodes = nodes
        self._tokens = tokens
        self._metrics = metrics
        self._canary = canary
        self._canary_id = str(canary.processor_id) if canary else None
        self._anonymous = metrics.heartbeats.labels("anonymous")

    async def heartbeat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Always 200 when the request is sound, whatever the database does.

        An ASGI application of its own: a Request and a Response object for each heartbeat
        cost more than all that is needed of them.
        """
        refusal = await self._hear(scope, receive, send)
        if refusal is not None:
            await refusal(scope, receive, send)

    async def _hear(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Answer, or return what is to be answered instead."""
        if not self._tokens.admit(scope):
            return self._refuse(
                "unauthorized", 401, "authorization: a valid bearer token is needed"
            )
        try:
            beat = heartbeat(await read_body(scope, receive))
        except BodyError as error:
            return self._refuse("malformed", 400, str(error))
        except BodyTooLarge:
            return self._refuse("too_large", 413)
        except ClientGone:
            return self._refuse("incomplete", 400, "body: incomplete")
        if not beat.processor_id:
            self._anonymous.inc()
            await _answer_heartbeat(send, True, "continue")
            return None
        answer = await self._recorder.submit(self._beat(beat))
        await _answer_heartbeat(send, answer.acknowledged, answer.directive)
        return None

    def _beat(self, request: Heartbeat) -> Beat | None:
        if request.processor_id == self._canary_id:
            return self._canary
        try:
            processor_id = msgspec.convert(request.processor_id, UUID)
        except msgspec.ValidationError:
            return None
        return Beat(processor_id, request.node_id, request.status == "healthy")

    def _refuse(self, reason: str, status: int, text: str = "") -> Response:
        self._metrics.heartbeats_refused.labels(reason).inc()
        if status == 413:
            return too_large()
        return error_response(status, text, _UNAUTHORIZED if status == 401 else None)

    async def register(self, request: Request) -> Response:
        """201, also for a node that exists already: registering again is a retry."""
        return await self._change(request, EdgeNodeRequest, self._register)

    async def decommission(self, request: Request) -> Response:
        """200; an unknown node is 500, as the reference says."""
        return await self._change(request, DecommissionRequest, self._decommission)

    async def _change(
        self, request: Request, type_: type[T], act: Callable[[T], Awaitable[Response]]
    ) -> Response:
        if not self._tokens.admit(request.scope):
            return error_response(
                401, "authorization: a valid bearer token is needed", _UNAUTHORIZED
            )
        try:
            return await act(parse(type_, await read_body(request.scope, request.receive)))
        except (BodyError, RegistrationRefused, StoreDataError) as error:
            return error_response(400, str(error))
        except EdgeNodeAmbiguous as error:
            return ambiguous_response(error)
        except EdgeNodeNotFound as error:
            return error_response(500, str(error))
        except StoreError as error:
            _log.warning("an edge node request failed", path=request.url.path, error=str(error))
            busy = isinstance(error, StoreBusy)
            return error_response(503, f"database: {'busy' if busy else 'not available'}", _RETRY)

    async def _register(self, body: EdgeNodeRequest) -> Response:
        if reason := why_not_kubernetes(body.name):
            _log.warning(
                "no Kubernetes node can have the name of this edge node",
                name=body.name,
                reason=reason,
            )
        node = await self._nodes.register_edge_node(_registration(body))
        _log.info("edge node registered", name=node.name, organization_id=node.organization_id)
        return json_response(
            EdgeNodeAnswer(**{f: getattr(node, f) for f in EdgeNodeAnswer.__struct_fields__}), 201
        )

    async def _decommission(self, body: DecommissionRequest) -> Response:
        stopped = await self._nodes.decommission_edge_node(body.node_name, body.organization_id)
        _log.info("edge node decommissioned", name=body.node_name, apps_stopped=stopped)
        return json_response(DecommissionAnswer("decommissioned", body.node_name, stopped))


async def _answer_heartbeat(send: Send, acknowledged: bool, directive: str) -> None:
    body = encode(HeartbeatAnswer(acknowledged, time.time(), directive))
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [_JSON, length]})
    await send({"type": "http.response.body", "body": body})


def _registration(body: EdgeNodeRequest) -> EdgeNodeRegistration:
    given = {
        field
        for field in ("failover_enabled", "failover_target_node_id")
        if getattr(body, field) is not UNSET
    }
    target = body.failover_target_node_id
    return EdgeNodeRegistration(
        name=body.name,
        organization_id=body.organization_id,
        failover_enabled=body.failover_enabled is not False,
        failover_target_node_id=target if isinstance(target, UUID) else None,
        given=frozenset(given),
    )
