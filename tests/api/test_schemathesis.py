"""`/openapi.json` tells the truth: schemathesis sends what the document allows and what it does
not, and compares each answer with the document.

Derandomized: the same requests in each run, so that a failure here is a change of ours.
"""

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.api.conftest import DECOMMISSION
from tests.contract.fleet_worlds import MemoryFleet
from tests.doubles import MemoryStore
from tests.leader_double import a_leader
from tests.webhooks_double import Hook

from dory_orchestrator.api.asking import AskingApi
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.edge import EdgeApi
from dory_orchestrator.api.fleet import FleetApi
from dory_orchestrator.api.group_commit import Answer, HeartbeatRecorder
from dory_orchestrator.api.health import Health, database_check
from dory_orchestrator.api.service import build
from dory_orchestrator.core.model import Directive
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Beat, DeadLetterView, EdgeNode, EdgeNodeRegistration

pytestmark = pytest.mark.real

EXAMPLES_MAX = 50
CONFIG = {
    "generation": {"max-examples": EXAMPLES_MAX, "deterministic": True, "mode": "all"},
    "operations": [
        {
            "include-path": DECOMMISSION,
            # An unknown node is 500, as the reference says and the document tells.
            "checks": {
                "not_a_server_error": {"expected-statuses": ["2xx", "4xx", "500"]},
            },
        }
    ],
}


class PromptRecorder(HeartbeatRecorder):
    """Answers at once. The real one needs a task in the loop of the application."""

    def submit(self, beat: Beat | None) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.set_result(Answer(True, Directive.CONTINUE, "recorded", "desired"))
        return future


class TrustingStore(MemoryStore):
    """Takes any failover target: which ones exist is no matter of the document."""

    def _check_target(self, registration: EdgeNodeRegistration, found: EdgeNode | None) -> None:
        """No refusal."""


def _application() -> Any:
    store, metrics = TrustingStore(), Metrics()
    health = Health(metrics)
    health.add("database", database_check(store), readiness=True)
    health.mark_ready()
    recorder = PromptRecorder(store, metrics=metrics)
    edge = EdgeApi(recorder=recorder, nodes=store, tokens=Tokens(()), metrics=metrics)
    views = _fleet().views
    views.answer = a_leader()
    fleet = FleetApi(views, tokens=Tokens(()), cluster="local")
    asking = AskingApi(views, tokens=Tokens(()))
    return build(
        health=health, render_metrics=metrics.render, edge=edge, fleet=fleet, asking=asking
    )


def _fleet() -> MemoryFleet:
    """Something of everything, so that answers hold values."""

    async def fill() -> MemoryFleet:
        world = MemoryFleet()
        key = await world.add_processor("a", state="running", node="edge-1", epoch=1)
        await world.add_processor("b", state="held", reason="guard_held")
        await world.add_processor("c", state="held", reason="epoch_ahead", pod_epoch=2)
        await world.add_node("edge-1", kind="edge", organization_id=key, utilisation=0.5)
        await world.tell("create", "not_running", processor_id=key)
        await world.add_node("edge-2", organization_id=key, health="suspect")
        await world.move(key, outcome="done")
        await world.move(key)
        await world.engage("many_suspect", "3 of 4 are suspect", population=4)
        await world.hold(all=1)
        world.views.hooks["a"] = Hook("a", "https://a.example/in", ["*"], 0)
        (event,) = world.views.events[:1]
        world.views.letters["a", event.id] = DeadLetterView(
            webhook="a", event=event, died_at=event.at, tries=1, error="no", retrying=False
        )
        return world

    return asyncio.run(fill())


schema = schemathesis.openapi.from_asgi(
    "/openapi.json", _application(), config=SchemathesisConfig.from_dict(CONFIG)
).exclude(path="/api/v1/fleet/events/stream")  # it has no end


@schema.hook
def filter_body(_context: schemathesis.HookContext, body: Any) -> bool:
    """JSON Schema cannot tell 1.0 from 1; Go, whose clients we have, and msgspec can."""
    if not isinstance(body, dict):
        return True
    groups = body.get("groups")
    counts = groups.values() if isinstance(groups, dict) else ()
    ids = body.get("ids")
    numbers = ids if isinstance(ids, list) else ()
    integers = (body.get("epoch"), body.get("state_size_bytes"), *counts, *numbers)
    return not any(isinstance(number, float) for number in integers)


@pytest.mark.timeout(60)
@schema.parametrize()
@settings(
    max_examples=EXAMPLES_MAX,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_the_document_is_true(case: schemathesis.Case[Any]):
    # The document cannot tell which cursors there are: they come from answers.
    refusable = isinstance(case.query, dict) and "cursor" in case.query
    case.call_and_validate(excluded_checks=[positive_data_acceptance] if refusable else [])
