"""Pods built with the published client library, unchanged."""

import json
from uuid import uuid4

import aiohttp
import pytest
from tests.cluster.machine import eventually
from tests.contract.cluster_worlds import a_spec, forget_states, watching

from dory_orchestrator.core.model import PodSpec

pytestmark = [pytest.mark.real, pytest.mark.timeout(40)]

COUNTER = """
from dory import BaseProcessor, DoryApp, stateful

class Counter(BaseProcessor):
    counted = stateful(0)

    async def run(self):
        print("begins with", self.counted, flush=True)
        async for _ in self.run_loop(interval=0.05):
            self.counted += 1

DoryApp().run(Counter)
"""


def a_counter(**changes) -> PodSpec:
    return a_spec(command=("python", "-c", COUNTER), args=(), grace_seconds=20, **changes)


async def counted(address: str | None, token: str = "secret") -> int:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.get(f"http://{address}/state") as answer,
    ):
        assert answer.status == 200
        return int((await answer.json())["data"]["counted"])


async def test_state_is_saved_at_the_end_and_restored_at_the_next_begin(cluster):
    await cluster.configure("http://127.0.0.1:1", "secret")
    key = uuid4()
    spec = a_counter(processor_id=key)
    try:
        async with watching(cluster) as seen:
            first = await cluster.create_pod(spec)
            pod = await seen.pod(spec.name, ready=True)
            await eventually(lambda: _above(pod.address, 10))
            await cluster.delete_pod(first)
            await seen.gone(spec.name)
            state = await cluster.read_state("default", key)
            document = json.loads(state.document)
            saved = document["payload"]["counted"]
            assert saved >= 10
            assert document["metadata"]["pod_name"] == spec.name

            await cluster.create_pod(spec)
            pod = await seen.pod(spec.name, ready=True)
            assert await counted(pod.address) >= saved

            # A crash saves nothing: what was saved last counts once more.
            await eventually(lambda: _above(pod.address, saved + 1))
            await cluster.crash_pod(spec.name)
            await seen.pod(spec.name, ready=True, restart_count=1)
            log = (await cluster.log_path(spec.name)).read_text().splitlines()
            began = [line for line in log if line.startswith("begins with")]
            assert began[-1] == f"begins with {saved}"
    finally:
        forget_states([key])


async def _above(address: str | None, count: int) -> bool:
    return await counted(address) >= count
