"""An edge node is killed: how long until it is noticed, acted on, and over.

`python -m benchmarks.failover` starts the whole thing (`dev`: a PostgreSQL, a local cluster, real
processes built with the client library) with default thresholds, for each number of processors on
the node that dies. All moments are read from the orchestrator's own records, by one clock.

Exit codes: 0 fine, 1 a target was missed or something did not move, 2 the call is wrong.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks import command
from dory_orchestrator.cluster.local.states import state_file
from dory_orchestrator.core.model import Limits
from dory_orchestrator.store.embedded import EmbeddedPostgres

_SIZES = (1, 10, 100)
_REACTION_SECONDS_MAX = 2.0
_UP_SECONDS = 240.0
_MOVED_SECONDS = 400.0
_STOP_SECONDS = 60.0
_EXAMPLES = Path(__file__).parent.parent / "examples"

_FLEET = """
organization: benchmark
nodes:
  - {{name: edge-1, kind: edge, capacity: {{cpu: "200", memory: 400Gi, pods: 500}}}}
  - {{name: edge-2, kind: edge}}
  - {{name: cloud-1, kind: application, capacity: {{cpu: "200", memory: 400Gi, pods: 500}}}}
templates:
  - slug: counter
    version: 1.0.0
    command: [python, counter.py]
    env: {{DORY_SHUTDOWN_TIMEOUT_SEC: 5, OTEL_CONSOLE_EXPORT: "false"}}
processors:
  - {{name: counter, template: counter, node: edge-1, replicas: {size}}}
"""

_READY = "SELECT count(*) FROM orchestrator.ownership WHERE ready"
_KEPT = """
SELECT count(DISTINCT c.processor_id) FROM orchestrator.checkpoints c
JOIN processors p ON p.id = c.processor_id
"""
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_DONE = "SELECT count(*) FROM orchestrator.moves WHERE outcome = 'done'"
_EVENTS = """
SELECT kind, extract(epoch FROM at)::float8 AS at FROM orchestrator.events
WHERE kind IN ('node_suspect', 'node_offline', 'failover', 'moved') AND at > to_timestamp($1)
ORDER BY id
"""
_MOVES = """
SELECT rto_seconds, rpo_seconds, extract(epoch FROM suspect_at)::float8 AS suspect_at
FROM orchestrator.moves WHERE outcome = 'done'
"""


class FailoverError(Exception):
    """The measurement did not come about."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds, of one node. Suspicion and death count from the kill; the reaction from the death
    (as the threshold asks for it) to the first and the last grant of a move, and the last end."""

    size: int
    suspect: float
    dead: float
    first_grant: float
    last_grant: float
    last_end: float
    rto: list[float]
    rpo: list[float]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="An edge node is killed.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(_SIZES))
    arguments = parser.parse_args()
    if min(arguments.sizes) < 1:
        parser.error("--sizes: at least 1")
    return command.run(lambda: _bench(arguments.sizes), FailoverError, OSError, SubprocessError)


def _bench(sizes: Sequence[int]) -> int:
    print(
        f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}; default"
        " thresholds; all processes of the fleet are on this machine, too\n"
        "seconds: suspect and dead since the kill; grants and the end since dead"
    )
    row = "{:>10}{:>10}{:>8}{:>13}{:>12}{:>10}{:>18}{:>18}".format
    head = ("processors", "suspect", "dead", "first grant", "last grant", "all over")
    print(row(*head, "RTO p50, max", "RPO p50, max"), flush=True)
    failed = False
    for size in sizes:
        one = measure(size)
        numbers = (one.suspect, one.dead, one.first_grant, one.last_grant, one.last_end)
        said = [f"{number:.2f}" for number in numbers]
        print(row(size, *said, _middle_and_most(one.rto), _middle_and_most(one.rpo)), flush=True)
        if one.first_grant > _REACTION_SECONDS_MAX:
            print(f"MISSED: the reaction took more than {_REACTION_SECONDS_MAX:g} s")
            failed = True
    return 1 if failed else 0


def _middle_and_most(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.1f}, {ordered[-1]:.1f}"


def measure(size: int) -> Measured:
    """One fleet, from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="dory-bench-") as name:
        folder = Path(name)
        for program in _EXAMPLES.glob("*.py"):
            shutil.copy(program, folder)
        fleet = folder / "fleet.yaml"
        fleet.write_text(_FLEET.format(size=size))
        data_dir = folder / "data"
        keys: list[UUID] = []
        try:
            with _dev(data_dir, fleet) as url:
                return asyncio.run(_measure(size, url, data_dir, keys))
        finally:
            # The client library keeps them in one folder for the whole machine.
            for key in keys:
                state_file(key).unlink(missing_ok=True)


@contextmanager
def _dev(data_dir: Path, fleet: Path) -> Iterator[str]:
    log = data_dir.parent / "log"
    call = [*_command(), "dev", "--data-dir", str(data_dir), "--fleet", str(fleet)]
    with log.open("wb") as output:
        process = subprocess.Popen([*call, "--port", "0"], stdout=output, stderr=output)
    try:
        endpoints = data_dir / "endpoints.json"
        deadline = time.monotonic() + _UP_SECONDS
        while not endpoints.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise FailoverError(f"dev did not come up: {log.read_text()[-1_000:]}")
            time.sleep(0.1)
        yield json.loads(endpoints.read_text())["database"]
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)
        EmbeddedPostgres(data_dir).destroy()


def _command() -> list[str]:
    return [sys.executable, "-m", "dory_orchestrator.cli"]


async def _measure(size: int, url: str, data_dir: Path, keys: list[UUID]) -> Measured:
    """`keys` takes the processors' ids."""
    connection: Any = await asyncpg.connect(url, timeout=10.0, command_timeout=10.0)
    try:
        keys += [row[0] for row in await connection.fetch("SELECT id FROM processors")]
        await _until(connection, _READY, size, _UP_SECONDS, "all are ready")
        await _until(connection, _KEPT, size, _UP_SECONDS, "all have a checkpoint")
        # Into the life of the fleet: beats, captures and polls are all under way.
        await asyncio.sleep(15.0)
        killed_at = float(await connection.fetchval(_NOW))
        crash = [*_command(), "local", "crash-node", "edge-1", "--data-dir", str(data_dir)]
        killing = await asyncio.create_subprocess_exec(*crash, stdout=subprocess.DEVNULL)
        if await killing.wait() != 0:
            raise FailoverError("the node could not be killed")
        await _until(connection, _DONE, size, _MOVED_SECONDS, "all have moved")
        events = await connection.fetch(_EVENTS, killed_at)
        moves = await connection.fetch(_MOVES)
    finally:
        await connection.close()
    moments: dict[str, list[float]] = {}
    for event in events:
        moments.setdefault(event["kind"], []).append(event["at"])
    # What the threshold asks for, and not when we came to see it: that is part of the reaction.
    dead_at = min(move["suspect_at"] for move in moves) + Limits().node_failure_grace_seconds
    return Measured(
        size,
        moments["node_suspect"][0] - killed_at,
        dead_at - killed_at,
        moments["failover"][0] - dead_at,
        moments["failover"][-1] - dead_at,
        moments["moved"][-1] - dead_at,
        [move["rto_seconds"] for move in moves],
        [move["rpo_seconds"] for move in moves if move["rpo_seconds"] is not None],
    )


async def _until(connection: Any, statement: str, count: int, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while await connection.fetchval(statement) < count:
        if time.monotonic() > deadline:
            raise FailoverError(f"not in {seconds:g} s: {what} ({count})")
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
