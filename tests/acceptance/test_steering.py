"""What an operator asks and orders, from the terminal alone, on a fleet that is hurt."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.real import eventually
from tests.acceptance.test_failover import NOTICED_SECONDS, count_of, edge_fleet
from tests.acceptance.test_fleet import Fleet
from tests.acceptance.test_operators import as_json, call

pytestmark = pytest.mark.timeout(180)


async def place_of(fleet: Fleet, name: str) -> str | None:
    row = (await fleet.ready()).get(name)
    return None if row is None else str(row["node_name"])


async def is_at(fleet: Fleet, name: str, kind: str) -> bool:
    return (await place_of(fleet, name) or "").startswith(kind)


async def test_a_drill_and_a_move_by_hand_keep_the_state(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path, 2) as fleet:
        # Nothing is wrong, and something could be.
        supposed = await as_json(data_dir, "what-if", "--node-down", "edge-1")
        (row,) = supposed["processors"]
        assert (row["name"], row["outcome"], supposed["safe"]) == ("one", "moves", True)
        assert row["loss_seconds"] < 5
        code, out, _ = await call(data_dir, "what-if", "--node-down", "edge-1", "--without-cloud")
        assert (code, "NOT safe" in out) == (3, True)

        # A drill, with its report.
        before = await count_of(fleet, "one")
        report = tmp_path / "report.json"
        start = ("drill", "start", "--node", "edge-1", "--for", "10s", "--reason", "monthly")
        code, out, err = await call(data_dir, *start, "-y", "--report", str(report))
        assert code == 0, err
        drill = json.loads(report.read_text())
        kinds = [(move["kind"], move["outcome"]) for move in drill["moves"]]
        assert kinds == [("failover", "done"), ("failback", "done")]
        assert 0 < drill["moves"][0]["rto_seconds"] < NOTICED_SECONDS
        assert drill["moves"][0]["rpo_seconds"] is not None
        assert await eventually(lambda: is_at(fleet, "one", "edge-1"), 20)
        assert await count_of(fleet, "one") > before
        assert await place_of(fleet, "two") == "edge-2"

        # Away by hand, and home again, with nothing lost.
        code, out, err = await call(data_dir, "failover", "two", "--reason", "clean", "-y")
        assert (code, "leaves edge-2" in out) == (0, True), err
        assert await eventually(lambda: is_at(fleet, "two", "cloud"), 30)
        code, _, err = await call(data_dir, "failover", "two", "--reason", "clean", "-y")
        assert (code, "already" in err) == (1, True)
        code, _, err = await call(data_dir, "failback", "two", "--reason", "done", "-y")
        assert code == 0, err
        assert await eventually(lambda: is_at(fleet, "two", "edge-2"), 30)
        moves = (await as_json(data_dir, "moves", "--processor", "two"))["moves"]
        assert [move["rpo_seconds"] for move in moves] == [0.0, 0.0]


async def test_what_happened_why_what_was_lost_and_how_it_is_stopped(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path, 2) as fleet:
        code, _, err = await call(data_dir, "pause", "--for", "10m", "--reason", "look first")
        assert code == 0, err
        assert (await call(data_dir, "local", "crash-node", "edge-1"))[0] == 0
        assert await eventually(lambda: said(data_dir, "one", "paused"), NOTICED_SECONDS)
        await asyncio.sleep(3)
        assert await fleet.fetch("SELECT FROM orchestrator.moves") == []
        assert (await as_json(data_dir, "summary"))["pause_by"]
        assert (await as_json(data_dir, "plan"))["paused"][0]["move"] == "failover"

        assert (await call(data_dir, "resume"))[0] == 0
        assert await eventually(lambda: is_at(fleet, "one", "cloud"), NOTICED_SECONDS)
        code, out, _ = await call(data_dir, "explain", "processor", "one", "-o", "wide")
        assert code == 0
        assert "YES  Is its node in trouble?" in out
        assert "Does the mass-failure brake hold?" in out
        assert "Was it dead before, and not well since?" in out
        (move,) = (await as_json(data_dir, "moves"))["moves"]
        assert move["rpo_seconds"] is not None
        _, out, _ = await call(data_dir, "events", "--processor", "one")
        assert "RPO at most" in out


async def said(data_dir: Path, name: str, reason: str) -> Any:
    found = await as_json(data_dir, "explain", "processor", name)
    return found["decision"] is not None and found["decision"]["reason"] == reason
