"""The published client, unchanged, in a process of its own, against the real service."""

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

import pytest
from tests.acceptance.real import add_edge_processor, clean_environment, eventually, run_on
from tests.contract.worlds import connected
from tests.patience import patient

pytestmark = pytest.mark.timeout(60)

# What a processor's program does (the SDK starts no heartbeats by itself).
PROGRAM = """
import asyncio, json, logging, sys
from dory.edge.fencing import FencingToken
from dory.edge.heartbeat import HeartbeatConfig, HeartbeatManager
from dory.edge.role import ProcessorRole

url, processor_id, epoch = sys.argv[1:]

class Told(HeartbeatManager):
    async def _handle_directive(self, directive):
        print(json.dumps({"directive": directive, "connectivity": self.status.value}), flush=True)

async def main():
    manager = Told(HeartbeatConfig(orchestrator_url=url, interval_sec=0.1))
    token = None
    if epoch != "null":
        import dataclasses, inspect
        names = inspect.signature(FencingToken).parameters
        values = {"processor_id": processor_id, "epoch": int(epoch), "node_id": "edge-1"}
        token = FencingToken(**{n: values.get(n, 0.0) for n, p in names.items()
                                if n in values or p.default is p.empty})
    manager.set_processor_info(processor_id, "edge-1", ProcessorRole.PRIMARY, token)
    await manager.start()
    for _ in range(300):
        await asyncio.sleep(0.1)
        if manager.metrics.failed_heartbeats:
            print(json.dumps({"connectivity": manager.status.value,
                              "failed": manager.metrics.failed_heartbeats}), flush=True)

asyncio.run(main())
"""


class Client:
    """The program above, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(patient(15)):
            line = await self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line)
        return said

    async def until(self, **wanted: object) -> None:
        async with asyncio.timeout(patient(15)):
            while not wanted.items() <= (await self.said()).items():
                pass

    async def end(self) -> None:
        self._process.kill()
        await self._process.communicate()


async def start_client(url: str, processor_id: UUID, epoch: str, token: str | None) -> Client:
    environment = clean_environment() | ({"DORY_STATE_TOKEN": token} if token else {})
    return Client(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "ignore",
            "-c",
            PROGRAM,
            url,
            str(processor_id),
            epoch,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
    )


@pytest.mark.parametrize("epoch", ["null", "7"])
@pytest.mark.parametrize("url_end", ["", "/"])
async def test_it_is_connected_and_shut_down_when_no_longer_desired(database_url, epoch, url_end):
    async with run_on(database_url) as service, connected(database_url) as connection:
        key = await add_edge_processor(connection)
        client = await start_client(service.url + url_end, key, epoch, None)
        await client.until(directive="continue", connectivity="connected")
        (row,) = await connection.fetch(
            "SELECT p.health_status, now() - p.last_health_check_at < interval '5 seconds',"
            " now() - n.last_heartbeat_at < interval '5 seconds'"
            " FROM processors p JOIN edge_node_apps a ON a.processor_id = p.id"
            " JOIN edge_nodes n ON n.id = a.edge_node_id WHERE p.id = $1",
            key,
        )
        assert tuple(row) == ("healthy", True, True)

        await connection.execute("UPDATE processors SET status = 'terminated' WHERE id = $1", key)
        await client.until(directive="shutdown", connectivity="connected")
        await client.end()


async def test_tokens_while_they_are_rotated(database_url):
    tokens = {"DORY_STATE_TOKEN": "new", "DORY_STATE_TOKEN_PREVIOUS": "old"}
    async with run_on(database_url, **tokens) as service, connected(database_url) as connection:
        key = await add_edge_processor(connection)
        for token in ("new", "old"):
            client = await start_client(service.url, key, "null", token)
            await client.until(directive="continue", connectivity="connected")
            await client.end()
        for refused in (None, "wrong"):
            client = await start_client(service.url, key, "null", refused)
            await client.until(connectivity="disconnected")
            await client.end()
        assert await service.metric('dory_heartbeats_refused_total{reason="unauthorized"}') >= 6
        # The canary knows the token.
        await eventually(service.is_healthy)
        log = json.dumps(service.log())
        assert '"new"' not in log
        assert "Bearer" not in log
