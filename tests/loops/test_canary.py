"""The canary over real HTTP, against a server that can be made to misbehave."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp.web
import pytest
from tests.doubles import MemoryStore
from tests.patience import patient

from dory_orchestrator.core.hearing import HearingLimits
from dory_orchestrator.core.model import HealthStatus
from dory_orchestrator.loops.canary import Canary, Counts
from dory_orchestrator.metrics import Metrics

pytestmark = pytest.mark.real

# Longer than a busy machine takes for a beat, which would be a gap of its own.
GAP_SECONDS = patient(0.1)
LIMITS = HearingLimits(canary_gap_seconds=GAP_SECONDS, window_seconds=2.0)


class Rig:
    def __init__(self, url: str) -> None:
        self.store = MemoryStore()
        self.metrics = Metrics()
        self.counts = Counts(0, 0)
        self.canary = Canary(
            url=url,
            processor_id="c",
            token="secret",
            counts=lambda: self.counts,
            store=self.store,
            metrics=self.metrics,
            limits=LIMITS,
            beat_seconds=0.02,
        )

    async def until(self, status: HealthStatus) -> None:
        async with asyncio.timeout(patient(1.5)):
            while self.canary.health().status is not status:
                await asyncio.sleep(0.005)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


class Orchestrator:
    """Answers the canary as it is told to."""

    def __init__(self) -> None:
        self.acknowledged = True
        self.tokens: list[str | None] = []

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.tokens.append(request.headers.get("Authorization"))
        return aiohttp.web.json_response({"acknowledged": self.acknowledged})


@pytest.fixture
async def orchestrator() -> Orchestrator:
    return Orchestrator()


@pytest.fixture
async def rig(orchestrator: Orchestrator) -> AsyncIterator[Rig]:
    app = aiohttp.web.Application()
    app.router.add_post("/api/v1/edge/heartbeat", orchestrator.answer)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    rig = Rig(f"http://127.0.0.1:{runner.addresses[0][1]}")
    task = asyncio.create_task(rig.canary.run())
    yield rig
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await runner.cleanup()


async def test_hearing_is_degraded_until_the_first_beat_is_recorded(rig, orchestrator):
    assert rig.canary.health().status is HealthStatus.DEGRADED
    await rig.until(HealthStatus.HEALTHY)
    assert set(orchestrator.tokens) == {"Bearer secret"}
    assert rig.value("dory_hearing") == 1


async def test_unrecorded_beats_are_a_gap_that_is_counted_when_it_ends(rig, orchestrator):
    await rig.until(HealthStatus.HEALTHY)
    orchestrator.acknowledged = False
    await rig.until(HealthStatus.DEGRADED)
    async with asyncio.timeout(patient(1)):
        while rig.value("dory_hearing") != 0:
            await asyncio.sleep(0.005)
    orchestrator.acknowledged = True
    await rig.until(HealthStatus.HEALTHY)
    assert rig.value("dory_hearing_gaps_total", cause="canary") == 1
    assert rig.value("dory_hearing_gap_seconds_total", cause="canary") >= GAP_SECONDS


async def test_refused_beats_in_numbers_are_stored_as_a_gap(rig):
    await rig.until(HealthStatus.HEALTHY)
    rig.counts = Counts(refused=50, heard=10)
    await rig.until(HealthStatus.DEGRADED)
    async with asyncio.timeout(patient(1)):
        while not rig.store.gaps:
            await asyncio.sleep(0.005)
    cause, since_seconds = rig.store.gaps[0]
    assert cause == "refused"
    # From when it began, which the rig's limit bounds.
    assert 0 <= since_seconds < patient(1)

    await asyncio.sleep(0)
    rig.counts = Counts(refused=50, heard=10_000)
    await rig.until(HealthStatus.HEALTHY)
    async with asyncio.timeout(patient(1)):
        while rig.value("dory_hearing_gaps_total", cause="refused") != 1:
            await asyncio.sleep(0.005)
