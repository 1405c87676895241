"""Waking a loop, in simulated time."""

import asyncio

import pytest

from dory_orchestrator.loops.wake import Wake

pytestmark = pytest.mark.looptime


def _now() -> float:
    return asyncio.get_running_loop().time()


async def test_it_sleeps_its_time_unless_it_is_set():
    wake = Wake()
    await wake.wait(5)
    assert _now() == 5
    asyncio.get_running_loop().call_later(2, wake.set)
    await wake.wait(5)
    assert _now() == 7
    await wake.wait(5)
    assert _now() == 7


async def test_what_comes_after_the_beginning_of_a_turn_leads_to_exactly_one_more():
    wake = Wake()
    assert wake.take() is None
    wake.set()
    await asyncio.sleep(1)
    wake.set()
    assert wake.take() == 0
    assert wake.take() is None
    before = _now()
    await wake.wait(3)
    assert _now() == before + 3


async def test_a_negative_time_is_none():
    await Wake().wait(-10)
    assert _now() == 0
