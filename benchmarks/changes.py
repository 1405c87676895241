"""What people do to a fleet while it runs, from a process and a connection of its own.

At random moments it inserts a processor (edge or managed), each a sample of the reaction;
between them it changes sensors, and terminates what it inserted before. On standard output it
tells, for each inserted processor, when the statement was sent: the clock runs before the
commit, not after it.
"""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

_CONNECT_SECONDS = 10.0
_STATEMENT_SECONDS = 60.0
_SEED = 3
_KEPT = 30
"""So many of the inserted ones run before the first of them is terminated."""

_INSERT = """
INSERT INTO processors (id, organization_id, name, processor_template_id, node_type, status)
SELECT $1, organization_id, 'inserted', processor_template_id, node_type, 'pending'
FROM processors WHERE id = $2
"""
_CHANGE_SENSOR = """
UPDATE sensors SET config = jsonb_set(config, '{threshold}', to_jsonb($2::float8)) WHERE id = $1
"""
_TERMINATE = "UPDATE processors SET status = 'terminated' WHERE id = $1"
_MODELS = "SELECT id FROM processors WHERE status = 'running' ORDER BY id LIMIT 1000"
_SENSORS = "SELECT id FROM sensors ORDER BY id"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: `samples` insertions (0: until ended), `pause_seconds` apart on the
    mean; `notify_seconds` apart a bare notification, if not 0."""

    url: str
    samples: int
    pause_seconds: float
    notify_seconds: float = 0.0

    def command(self) -> list[str]:
        """This process."""
        options = ["--samples", str(self.samples), "--pause-seconds", str(self.pause_seconds)]
        options += ["--notify-seconds", str(self.notify_seconds)]
        return [sys.executable, "-m", "benchmarks.changes", "--url", self.url, *options]


def read_sent(path: Path) -> dict[UUID, float]:
    """When each insertion was sent, from what the process has written; each is committed."""
    moments = {}
    for line in path.read_text().splitlines():
        key, at = line.split()
        moments[UUID(key)] = float(at)
    return moments


async def _change(plan: Plan) -> None:
    connection = await _connect(plan.url)
    models = [row[0] for row in await connection.fetch(_MODELS)]
    sensors = [row[0] for row in await connection.fetch(_SENSORS)]
    numbers = random.Random(_SEED)
    inserted: deque[UUID] = deque()
    done = 0
    while plan.samples == 0 or done < plan.samples:
        await asyncio.sleep(numbers.expovariate(1 / plan.pause_seconds))
        key = uuid.uuid4()
        sent_at = time.monotonic()
        await connection.execute(_INSERT, key, numbers.choice(models))
        print(key, sent_at, flush=True)
        done += 1
        inserted.append(key)
        if done % 3 == 0:
            await connection.execute(_CHANGE_SENSOR, numbers.choice(sensors), numbers.random())
        if len(inserted) > _KEPT:
            await connection.execute(_TERMINATE, inserted.popleft())
    await connection.close()


async def _notify(plan: Plan) -> None:
    """As if somebody changed something all the time."""
    connection = await _connect(plan.url)
    while plan.notify_seconds:
        await connection.execute("NOTIFY orchestrator_changed")
        await asyncio.sleep(plan.notify_seconds)


async def _run(plan: Plan) -> None:
    notifying = asyncio.create_task(_notify(plan))
    await _change(plan)
    notifying.cancel()


async def _connect(url: str) -> Any:
    return await asyncpg.connect(
        url,
        timeout=_CONNECT_SECONDS,
        command_timeout=_STATEMENT_SECONDS,
        server_settings={"application_name": "benchmark"},
    )


def main() -> None:
    """Change until everything is done, or until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--pause-seconds", type=float, required=True)
    parser.add_argument("--notify-seconds", type=float, required=True)
    arguments = parser.parse_args()
    asyncio.run(
        _run(
            Plan(
                arguments.url, arguments.samples, arguments.pause_seconds, arguments.notify_seconds
            )
        )
    )


if __name__ == "__main__":
    main()
