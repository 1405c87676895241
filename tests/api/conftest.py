"""The application in process, over a store in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.types import ASGIApp
from tests.doubles import MemoryStore, Processor
from tests.views_double import MemoryViews

from dory_orchestrator.api.asking import AskingApi
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.edge import EdgeApi
from dory_orchestrator.api.fleet import FleetApi
from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.api.health import Health, database_check
from dory_orchestrator.api.page.handlers import Page
from dory_orchestrator.api.service import build
from dory_orchestrator.metrics import Metrics

NOBODY = "00000000-0000-4000-8000-000000000001"
"""The id of a processor that there is not."""
HEARTBEAT = "/api/v1/edge/heartbeat"
NODES = "/api/v1/edge/nodes"
DECOMMISSION = "/api/v1/edge/nodes/decommission"


@dataclass
class Service:
    """What a test sees of the service."""

    http: httpx.AsyncClient
    store: MemoryStore
    health: Health
    metrics: Metrics
    views: MemoryViews
    page: Page
    app: ASGIApp

    def processor(self, **values: object) -> UUID:
        key = uuid4()
        self.store.processors[key] = Processor(**values)  # type: ignore[arg-type]
        return key

    async def beat(self, **fields: object) -> dict[str, object]:
        answer = await self.http.post(HEARTBEAT, json=fields)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        content: dict[str, object] = answer.json()
        return content


@pytest.fixture
def tokens() -> tuple[str, ...]:
    """Override to close the edge API."""
    return ()


@pytest.fixture
def operator_tokens() -> tuple[str, ...]:
    """Override to ask operators for a token."""
    return ()


@pytest.fixture
async def service(
    tokens: tuple[str, ...], operator_tokens: tuple[str, ...]
) -> AsyncIterator[Service]:
    store, metrics = MemoryStore(), Metrics()
    recorder = HeartbeatRecorder(store, metrics=metrics)
    health = Health(metrics)
    health.add("database", database_check(store), readiness=True)
    edge = EdgeApi(recorder=recorder, nodes=store, tokens=Tokens(tokens), metrics=metrics)
    views = MemoryViews()
    operators = Tokens(operator_tokens)
    fleet = FleetApi(views, tokens=operators, cluster="local")
    asking = AskingApi(views, tokens=operators)
    page = Page(
        views,
        health=health,
        operator_token=next(iter(operator_tokens), None),
        cluster="local",
    )
    app = build(
        health=health,
        render_metrics=metrics.render,
        edge=edge,
        fleet=fleet,
        asking=asking,
        page=page,
    )
    recording = asyncio.create_task(recorder.run())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as http:
        yield Service(http, store, health, metrics, views, page, app)
    recorder.close()
    await recording
