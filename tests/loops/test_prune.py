"""What is old is deleted, step by step."""

import asyncio

import pytest

from dory_orchestrator.loops.prune import keep_pruning
from dory_orchestrator.ports import StoreError, StoreUnavailable

pytestmark = pytest.mark.looptime


class Store:
    """Has `steps` of events to forget."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.calls: list[tuple[str, float, float]] = []
        self.error: StoreError | None = None

    def _note(self, call: str, seconds: float) -> None:
        self.calls.append((call, seconds, asyncio.get_running_loop().time()))
        if self.error is not None:
            raise self.error

    async def forget_events(self, older_than_seconds: float) -> bool:
        self._note("events", older_than_seconds)
        self.steps -= 1
        return self.steps > 0

    async def forget_dead_letters(self, older_than_seconds: float) -> None:
        self._note("letters", older_than_seconds)

    async def forget_checkpoints(self, older_than_seconds: float) -> None:
        self._note("checkpoints", older_than_seconds)


async def prune(store: Store, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await keep_pruning(store, event_retention_seconds=7.0)


async def test_as_many_steps_as_it_takes_with_pauses():
    store = Store(steps=3)
    await prune(store, 700)
    assert [call[:2] for call in store.calls] == [
        *[("events", 7.0)] * 3,
        ("letters", 7.0),
        ("checkpoints", 30 * 86_400.0),
    ]
    moments = [at for _, _, at in store.calls[:3]]
    assert moments[2] - moments[0] == pytest.approx(0.4)


async def test_a_store_that_is_away_is_asked_again():
    store = Store(steps=1)
    store.error = StoreUnavailable("gone")
    await prune(store, 1900)
    assert [call for call, _, _ in store.calls] == ["events"] * 3
