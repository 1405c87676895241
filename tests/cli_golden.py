"""How the command line looks: of a fleet that never changes, in files that are read in review.

`python -m tests.cli_golden` writes them anew.
"""

import asyncio
import io
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from rich.console import Console
from rich.text import Text
from tests.contract.fleet_worlds import MOMENT, MemoryFleet

from dory_orchestrator.api.asking import AskingApi
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.fleet import FleetApi
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.service import build
from dory_orchestrator.commands import tables
from dory_orchestrator.commands.deciding import brake_status_parts, guard_status_parts
from dory_orchestrator.commands.frame import frame
from dory_orchestrator.commands.listing import node_parts, processor_parts, summary_parts
from dory_orchestrator.commands.showing import Parts, as_yaml
from dory_orchestrator.metrics import Metrics

FOLDER = Path(__file__).parent / "golden" / "cli"
WIDTHS = (80, 100)
_NOW = MOMENT + timedelta(minutes=5)
_ENDLESS = 100_000
_ROWS = 24
_ORGANIZATION = UUID("7b2c1f0e-4d6a-4a53-9a51-0c2f5a9f3f11")
_CAMERA = UUID("63e05b90-3f08-4668-ac3a-dcc4db126494")


def golden() -> dict[str, str]:
    """The text of each file, by its name."""
    with _in_utc(), tables.seen_at(_NOW):
        answers = asyncio.run(_answers())
        files = {name: _file(answers[name], name) for name in (*_LISTS, *_SINGLES)}
        return {**files, "top.txt": _top(answers)}


def _file(answer: Mapping[str, Any], name: str) -> str:
    sections = [
        *((f"{width} columns", _drawn(_parts(name, answer, False), width)) for width in WIDTHS),
        ("wide", _drawn(_parts(name, answer, True), _ENDLESS)),
        ("yaml", as_yaml(answer)),
    ]
    return "\n\n".join(f"=== {title}\n{text}" for title, text in sections) + "\n"


def _parts(name: str, answer: Mapping[str, Any], wide: bool) -> Parts:
    if name in _SINGLES:
        parts: Parts = _SINGLES[name](answer, wide)
        return parts
    key, table = _LISTS[name]
    newest_last = key in ("events", "moves")
    return [table(answer[key][:: -1 if newest_last else 1], wide=wide)]


_LISTS: Mapping[str, tuple[str, Any]] = {
    "nodes.txt": ("nodes", tables.nodes),
    "processors.txt": ("processors", tables.processors),
    "events.txt": ("events", tables.events),
    "moves.txt": ("moves", tables.moves),
}
_SINGLES: Mapping[str, Any] = {
    "node.txt": node_parts,
    "processor.txt": processor_parts,
    "guard.txt": guard_status_parts,
    "brake.txt": brake_status_parts,
    "summary.txt": summary_parts,
}


def _drawn(parts: Any, width: int) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, emoji=False, _environ={})
    for part in parts:
        console.print(Text(part) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _top(answers: Mapping[str, Any]) -> str:
    seen = {
        "summary": answers["summary.txt"],
        "brake": answers["brake.txt"],
        "guard": answers["guard.txt"],
        "health": {"status": "degraded", "components": {"heartbeats": {"status": "degraded"}}},
        **{key: answers[name][key] for name, (key, _) in _LISTS.items()},
    }
    url, notice = "http://127.0.0.1:8080", "no answer for 7s, it is tried again: it is away"
    sections = [
        *((f"{w} columns", _drawn([frame(seen, url=url, rows=_ROWS)], w)) for w in WIDTHS),
        ("lost", _drawn([frame(seen, url=url, rows=_ROWS, notice=notice)], 80)),
        ("never seen", _drawn([frame(None, url=url, rows=_ROWS, notice=notice)], 80)),
    ]
    return "\n\n".join(f"=== {title}\n{text}" for title, text in sections) + "\n"


# The fleet ---------------------------------------------------------------------------------


async def _answers() -> dict[str, Any]:
    world, metrics = MemoryFleet(), Metrics()
    await _fill(world)
    fleet = FleetApi(world.views, tokens=Tokens(()), cluster="kubernetes")
    asking = AskingApi(world.views, tokens=Tokens(()))
    app = build(
        health=Health(metrics), render_metrics=metrics.render, edge=None, fleet=fleet, asking=asking
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as http:

        async def get(path: str, **query: str) -> Any:
            answer = await http.get(f"/api/v1/fleet{path}", params=query)
            assert answer.status_code == 200, answer.text
            return answer.json()

        lists = {name: await get(f"/{key}") for name, (key, _) in _LISTS.items()}
        node = await get("/processors", node="edge-berlin-1")
        events = await get("/events", node="edge-berlin-1")
        summary = {**await get("/summary"), "at": _NOW.isoformat()}
        return {
            **lists,
            "node.txt": {
                "node": lists["nodes.txt"]["nodes"][1],
                "processors": node["processors"],
                "events": events["events"],
            },
            "processor.txt": await get(f"/processors/{_CAMERA}"),
            "guard.txt": await get("/guard"),
            "brake.txt": await get("/brake"),
            "summary.txt": summary,
        }


async def _fill(world: MemoryFleet) -> None:
    await world.add_node("cloud-a", kind="application", utilisation=0.4)
    await world.add_node(
        "edge-berlin-1", kind="edge", utilisation=0.71, organization_id=_ORGANIZATION
    )
    await world.add_node("edge-berlin-2", organization_id=_ORGANIZATION, health="offline")
    await world.add_node(
        "edge-zürich-1", kind="edge", organization_id=_ORGANIZATION, cordon="a new disk"
    )
    edge = {"edge_node_id": UUID(int=5), "heartbeat_age_seconds": 7.0, "last_heartbeat_at": _NOW}
    world.views.nodes[1:] = [replace(node, **edge) for node in world.views.nodes[1:]]
    await world.add_processor(
        "camera-1", key=_CAMERA, state="running", template="camera", node="edge-berlin-1", epoch=3
    )
    await world.add_processor(
        "counter-with-a-rather-long-name", key=UUID(int=1), state="moving", node="cloud-a", epoch=2
    )
    await world.add_processor(
        "camera-2", key=UUID(int=2), state="held", reason="guard_held", node="edge-berlin-2"
    )
    await world.add_processor(
        None, key=UUID(int=3), state="held", reason="epoch_ahead", pod_epoch=5
    )
    await world.move(_CAMERA, outcome="done", from_node="edge-berlin-2", to_node="edge-berlin-1")
    await world.move(UUID(int=1), from_node="edge-berlin-2", to_node="cloud-a")
    await world.tell(
        "create", "not_running", processor_id=_CAMERA, node_name="edge-berlin-1", at=MOMENT
    )
    await world.tell(
        "cordon", "cordoned", node_name="edge-zürich-1", at=MOMENT, detail="a new disk"
    )
    await world.hold(all=4, camera=0)
    await world.engage("many_suspect", "3 of 4 edge nodes are suspect or dead", population=4)
    world.views.leader = "orchestrator-7d9f-1"


@contextmanager
def _in_utc() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def renew() -> None:
    """Write all files, and remove those that are of nothing any more."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in FOLDER.glob("*.txt"):
        file.unlink()
    for name, text in golden().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    renew()
