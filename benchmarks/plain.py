"""The plain way: one transaction for each heartbeat, over a pool of connections.

The behaviour that the reference describes, statement by statement: the linked edge node, the
processor, then the look-up that decides the directive. `synchronous_commit` is the server's
default. Two of them, on the same server software (uvicorn with uvloop and httptools, asyncpg):
with FastAPI, as such a service is mostly written, and *lean*, with Starlette and msgspec, for
who wants to know what of the difference is the framework's.
"""

import argparse
import hmac
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_NODE_HEARD = """
UPDATE edge_nodes n SET last_heartbeat_at = now()
FROM edge_node_apps a
WHERE a.processor_id = $1 AND a.status = 'active' AND n.id = a.edge_node_id
"""
_PROCESSOR_HEARD = """
UPDATE processors SET last_health_check_at = now(), health_status = $2
WHERE id = $1
"""
_LOOK_UP = "SELECT status FROM processors WHERE id = $1"


class Heartbeat(msgspec.Struct):
    """The nine keys of the SDK."""

    processor_id: UUID
    node_id: str = ""
    role: str = ""
    epoch: int | None = None
    timestamp: float = 0.0
    status: str = ""
    last_state_sync: float | None = None
    state_size_bytes: int | None = None
    uptime_sec: float = 0.0


class Answer(msgspec.Struct):
    """As the reference has it."""

    acknowledged: bool
    orchestrator_time: float
    directive: str


_decode = msgspec.json.Decoder(Heartbeat).decode
_encode = msgspec.json.Encoder().encode


class Plain:
    """The handlers and what they share."""

    def __init__(self, url: str, pool_size: int, token: str) -> None:
        self._url = url
        self._pool_size = pool_size
        self._authorization = f"Bearer {token}".encode()
        self._pool: Any = None

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """All connections are opened before the first request."""
        size = self._pool_size
        async with asyncpg.create_pool(self._url, min_size=size, max_size=size) as self._pool:
            yield

    def admit(self, request: Request) -> bool:
        """Does the request carry the token?"""
        given = request.headers.get("authorization", "").encode()
        return hmac.compare_digest(given, self._authorization)

    async def record(self, processor_id: UUID, status: str) -> str:
        """One transaction: the node, the processor, and what the processor should do."""
        health = "healthy" if status == "healthy" else "unhealthy"
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_NODE_HEARD, processor_id)
            await connection.execute(_PROCESSOR_HEARD, processor_id, health)
            found = await connection.fetchval(_LOOK_UP, processor_id)
        return "shutdown" if found in (None, "terminated", "failed") else "continue"

    async def lean_heartbeat(self, request: Request) -> Response:
        """As little around the transaction as there can be."""
        if not self.admit(request):
            return Response(status_code=401)
        beat = _decode(await request.body())
        directive = await self.record(beat.processor_id, beat.status)
        return Response(
            _encode(Answer(True, time.time(), directive)), media_type="application/json"
        )

    async def ready(self, _request: Request) -> Response:
        """The server listens only once the pool is open."""
        return Response()


def lean(plain: Plain) -> Starlette:
    """With Starlette and msgspec."""
    routes = [
        Route("/api/v1/edge/heartbeat", plain.lean_heartbeat, methods=["POST"]),
        Route("/readyz", plain.ready),
    ]
    return Starlette(routes=routes, lifespan=plain.lifespan)


class HeartbeatModel(BaseModel):
    """The nine keys of the SDK, for FastAPI."""

    processor_id: UUID
    node_id: str = ""
    role: str = ""
    epoch: int | None = None
    timestamp: float = 0.0
    status: str = ""
    last_state_sync: float | None = None
    state_size_bytes: int | None = None
    uptime_sec: float = 0.0


class AnswerModel(BaseModel):
    """As the reference has it, for FastAPI."""

    acknowledged: bool
    orchestrator_time: float
    directive: str


def with_fastapi(plain: Plain) -> FastAPI:
    """With FastAPI and pydantic."""
    app = FastAPI(lifespan=plain.lifespan)

    @app.post("/api/v1/edge/heartbeat")
    async def heartbeat(beat: HeartbeatModel, request: Request) -> AnswerModel:
        if not plain.admit(request):
            raise HTTPException(401)
        directive = await plain.record(beat.processor_id, beat.status)
        return AnswerModel(acknowledged=True, orchestrator_time=time.time(), directive=directive)

    app.add_route("/readyz", plain.ready)
    return app


_APPS = {"fastapi": with_fastapi, "lean": lean}


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pool-size", type=int, required=True)
    parser.add_argument("--app", choices=_APPS, required=True)
    arguments = parser.parse_args()
    plain = Plain(arguments.database_url, arguments.pool_size, os.environ["DORY_STATE_TOKEN"])
    uvicorn.run(
        _APPS[arguments.app](plain),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
