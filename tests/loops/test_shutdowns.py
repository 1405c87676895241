"""Shutdowns that were answered stand in the events, once, and nobody can flood them."""

import asyncio
import json
from uuid import UUID, uuid4

import pytest
from tests.doubles import MemoryStore, Processor

from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.api.shutdowns import Shutdowns
from dory_orchestrator.core.directive import NOT_FOUND, BeatFacts, DirectiveReason
from dory_orchestrator.core.model import Directive
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Beat, StoreUnavailable

pytestmark = pytest.mark.looptime
ONE = UUID(int=1)
BEAT = Beat(ONE, "edge-1", True)
ENDED = BeatFacts(True, True, "terminated")


class Rig:
    def __init__(self) -> None:
        self.store = MemoryStore(clock=lambda: 100.0)
        self.shutdowns = Shutdowns(self.store)

    async def __aenter__(self) -> "Rig":
        self.task = asyncio.create_task(self.shutdowns.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_one_with_its_facts_and_rules():
    async with Rig() as rig:
        rig.shutdowns.tell(BEAT, ENDED, DirectiveReason.ENDED)
        await asyncio.sleep(2)
        (event,) = rig.store.events
        assert event[:4] == (
            "shutdown",
            "ended",
            "a heartbeat of it from edge-1 was answered shutdown",
            ONE,
        )
        assert event.node_name == "edge-1"
        told = json.loads(event.explanation or "")
        assert told["facts"]["status"] == "terminated"
        assert (told["rules"][-1]["rule"], told["rules"][-1]["held"]) == ("ended", True)


async def test_the_same_once_in_ten_minutes_and_another_at_once():
    async with Rig() as rig:
        for _ in range(119):
            rig.shutdowns.tell(BEAT, ENDED, DirectiveReason.ENDED)
            await asyncio.sleep(5)
        assert len(rig.store.events) == 1
        rig.shutdowns.tell(BEAT, NOT_FOUND, DirectiveReason.NOT_FOUND)
        await asyncio.sleep(5)
        rig.shutdowns.tell(BEAT, ENDED, DirectiveReason.ENDED)
        await asyncio.sleep(2)
        assert [event.reason for event in rig.store.events] == ["ended", "not_found", "ended"]


async def test_a_flood_is_cut():
    async with Rig() as rig:
        for _ in range(10):
            for _ in range(1000):
                rig.shutdowns.tell(Beat(uuid4(), "x", True), NOT_FOUND, DirectiveReason.NOT_FOUND)
            await asyncio.sleep(1)
        await asyncio.sleep(2)
        assert 160 <= len(rig.store.events) <= 200


async def test_a_name_that_no_node_can_have_is_cut():
    async with Rig() as rig:
        rig.shutdowns.tell(Beat(ONE, "x" * 60_000, True), NOT_FOUND, DirectiveReason.NOT_FOUND)
        await asyncio.sleep(2)
        (event,) = rig.store.events
        assert len(str(event)) < 2_500


async def test_a_store_that_is_down_stops_nothing():
    async with Rig() as rig:
        rig.store.errors["tell"] = StoreUnavailable("down")
        rig.shutdowns.tell(BEAT, ENDED, DirectiveReason.ENDED)
        await asyncio.sleep(2)
        rig.store.errors.clear()
        rig.shutdowns.tell(Beat(UUID(int=2), "edge-1", True), ENDED, DirectiveReason.ENDED)
        await asyncio.sleep(2)
        assert [event.processor_id for event in rig.store.events] == [UUID(int=2)]


async def test_the_recorder_tells_of_shutdowns_alone():
    heard = []
    store = MemoryStore(clock=lambda: 100.0)
    recorder = HeartbeatRecorder(
        store, metrics=Metrics(), on_shutdown=lambda *told: heard.append(told)
    )
    running = asyncio.create_task(recorder.run())
    known = UUID(int=7)
    store.processors[known] = Processor()
    answers = [await recorder.submit(beat) for beat in (BEAT, Beat(known, "edge-1", True), None)]
    assert [answer.directive for answer in answers] == [
        Directive.SHUTDOWN,
        Directive.CONTINUE,
        Directive.SHUTDOWN,
    ]
    # Of what is no id nothing can be told.
    assert heard == [(BEAT, NOT_FOUND, DirectiveReason.NOT_FOUND)]
    recorder.close()
    await running
