"""Writes `docs/openapi.json`: what `/openapi.json` serves, for programs that are made from it.

    python -m tests.api.openapi_page               # as it is now
    python -m tests.api.openapi_page --baseline    # at a release: what comes later is compared with

The second also writes `docs/openapi-baseline.json`, and forgets what was broken on purpose before.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
from tests.doubles import MemoryStore
from tests.views_double import MemoryViews

from dory_orchestrator.api.asking import AskingApi
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.edge import EdgeApi
from dory_orchestrator.api.fleet import FleetApi
from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.service import build
from dory_orchestrator.metrics import Metrics

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "openapi.json"
BASELINE = DOCS / "openapi-baseline.json"
ACCEPTED = DOCS / "openapi-accepted.txt"

_ACCEPTED_HEAD = """\
# Changes of the API since docs/openapi-baseline.json that break clients, and are meant to: one a
# line, as the test says it. CONTRIBUTING.md tells when that is right.
"""


async def served() -> dict[str, Any]:
    """The document, as a client gets it."""
    store, metrics = MemoryStore(), Metrics()
    recorder = HeartbeatRecorder(store, metrics=metrics)
    edge = EdgeApi(recorder=recorder, nodes=store, tokens=Tokens(()), metrics=metrics)
    fleet = FleetApi(MemoryViews(), tokens=Tokens(()), cluster="local")
    asking = AskingApi(MemoryViews(), tokens=Tokens(()))
    app = build(
        health=Health(metrics), render_metrics=metrics.render, edge=edge, fleet=fleet, asking=asking
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as http:
        document: dict[str, Any] = (await http.get("/openapi.json")).json()
        return document


def text(document: dict[str, Any]) -> str:
    """As it stands in the file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def accepted() -> list[str]:
    """What is broken on purpose."""
    lines = ACCEPTED.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
    page = text(asyncio.run(served()))
    PAGE.write_text(page)
    if "--baseline" in sys.argv[1:]:
        BASELINE.write_text(page)
        ACCEPTED.write_text(_ACCEPTED_HEAD)
