"""A bulk edit in the portal that stays open holds rows of the platform: nobody waits for it."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from tests.patience import patient
from tests.scenarios.mortal import Killer
from tests.scenarios.test_killed_in_a_move import world_at

HELD = 30
FLEET = "\n".join(
    [
        "organization: example",
        "nodes:",
        *(f"  - {{name: edge-{number}, kind: edge}}" for number in (1, 2, 3)),
        "  - {name: cloud-1, kind: application}",
        "processors:",
        *(f"  - {{name: held-{n}, command: [none], node: edge-1}}" for n in range(HELD)),
        "  - {name: other, command: [none], node: edge-2}",
    ]
)

pytestmark = pytest.mark.timeout(patient(120))


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Long enough for any machine: what holds the rows does not let go meanwhile."""
    until_at = time.monotonic() + patient(90)
    while not await condition():
        assert time.monotonic() < until_at, "it did not come about in time"
        await asyncio.sleep(0.2)


async def test_a_failover_is_granted_while_thirty_rows_are_held(new_database_url, tmp_path):
    url = new_database_url()
    async with world_at(url, tmp_path, FLEET) as world:
        world.start(Killer())
        connection, cluster = world.connection, world.ground.cluster

        async def all_run() -> bool:
            ready = "SELECT count(*) FROM orchestrator.ownership WHERE ready"
            return bool(await connection.fetchval(ready) == HELD + 1)

        await until(all_run)
        other = await connection.fetchval("SELECT id FROM processors WHERE name = 'other'")
        portal = await asyncpg.connect(url)
        try:
            await portal.execute("BEGIN")
            await portal.execute("SELECT FROM processors WHERE name LIKE 'held-%' FOR UPDATE")
            # edge-1 was rebooted: its pods have other addresses, which are to be shown.
            for uid, pod in list(cluster.pods.items()):
                if pod.processor_id != other:
                    cluster.pods[uid] = replace(pod, ip=f"10.8.0.{len(uid)}")
            world.ground.crash_node("edge-2")

            async def is_moved() -> bool:
                moves = "SELECT count(*) FROM orchestrator.moves WHERE processor_id = $1"
                return bool(await connection.fetchval(moves, other))

            # Before the portal lets go, which it does only afterwards.
            await until(is_moved)
            shown = "SELECT count(*) FROM processors WHERE pod_ip LIKE '10.8.0.%'"
            assert await connection.fetchval(shown) == 0
            await portal.execute("ROLLBACK")

            async def all_shown() -> bool:
                return bool(await connection.fetchval(shown) == HELD)

            await until(all_shown)
        finally:
            await portal.close()
