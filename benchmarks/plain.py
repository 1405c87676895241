"""The plain way: one transaction for each heartbeat, over a pool of connections.

The behaviour that the reference describes, statement by statement: the linked edge node, the
processor, then the look-up that decides the directive. On the same server software: uvicorn
with uvloop and httptools, Starlette, msgspec, asyncpg. `synchronous_commit` is the server's
default.
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

    async def heartbeat(self, request: Request) -> Response:
        """One transaction: the node, the processor, and what the processor should do."""
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._authorization):
            return Response(status_code=401)
        beat = _decode(await request.body())
        health = "healthy" if beat.status == "healthy" else "unhealthy"
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_NODE_HEARD, beat.processor_id)
            await connection.execute(_PROCESSOR_HEARD, beat.processor_id, health)
            status = await connection.fetchval(_LOOK_UP, beat.processor_id)
        directive = "shutdown" if status in (None, "terminated", "failed") else "continue"
        return Response(
            _encode(Answer(True, time.time(), directive)), media_type="application/json"
        )

    async def ready(self, _request: Request) -> Response:
        """The server listens only once the pool is open."""
        return Response()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pool-size", type=int, required=True)
    arguments = parser.parse_args()
    plain = Plain(arguments.database_url, arguments.pool_size, os.environ["DORY_STATE_TOKEN"])
    routes = [
        Route("/api/v1/edge/heartbeat", plain.heartbeat, methods=["POST"]),
        Route("/readyz", plain.ready),
    ]
    uvicorn.run(
        Starlette(routes=routes, lifespan=plain.lifespan),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
