"""Who leads, and until when, in simulated time."""

import asyncio

import pytest
from structlog.testing import capture_logs
from tests.doubles import MemoryStore

from dory_orchestrator.loops.lead import Leadership, boot_clock
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Lease, StoreUnavailable

pytestmark = pytest.mark.looptime


def _now() -> float:
    return asyncio.get_running_loop().time()


class Clock:
    """A clock that can be made to jump, as after the sleep of a machine."""

    def __init__(self) -> None:
        self.jumped = 0.0

    def __call__(self) -> float:
        return _now() + self.jumped


class Rig:
    """One that wants to lead."""

    def __init__(self, store: MemoryStore, holder: str = "me") -> None:
        self.store = store
        self.clock = Clock()
        self.metrics = Metrics()
        self.told: list[tuple[float, Lease | None]] = []
        self.leadership = Leadership(
            store,
            holder=holder,
            metrics=self.metrics,
            on_change=lambda: self.told.append((_now(), self.leadership.lease)),
            clock=self.clock,
        )

    async def __aenter__(self) -> "Rig":
        self._task = asyncio.create_task(self.leadership.run())
        await asyncio.sleep(0.001)
        return self

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def term(self) -> int | None:
        lease = self.leadership.lease
        return None if lease is None else lease.term

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(clock=_now)


async def test_it_leads_at_once_and_keeps_on(store):
    async with Rig(store) as rig:
        assert rig.leadership.lease == Lease("me", 1)
        for _ in range(100):
            await asyncio.sleep(0.77)
            assert rig.term() == 1
        assert rig.told == [(0.0, Lease("me", 1))]
        assert store.leader.expires_at > _now() + 7
        assert rig.value("dory_leader") == 1
        assert rig.value("dory_leader_term") == 1
        assert store.calls["hold_lease"] < 40


async def test_one_at_a_time(store):
    async with Rig(store, "a") as one, Rig(store, "b") as other:
        for _ in range(60):
            await asyncio.sleep(0.5)
            assert (one.term(), other.term()) == (1, None)
        assert other.told == []
        assert other.value("dory_leader") == 0


async def test_another_takes_over_within_seconds_of_a_resignation(store):
    async with Rig(store, "a") as one, Rig(store, "b") as other:
        await asyncio.sleep(3)
        await one.stop()
        await one.leadership.resign()
        assert one.leadership.lease is None
        await asyncio.sleep(1.1)
        assert other.term() == 2


async def test_another_takes_over_after_the_end_of_a_dead_one_s_lease(store):
    async with Rig(store, "a") as one, Rig(store, "b") as other:
        await asyncio.sleep(3)
        await one.stop()
        stopped_at = _now()
        while other.term() is None:
            await asyncio.sleep(0.01)
        assert 7 <= _now() - stopped_at <= 11.1
        assert one.term() is None


async def test_a_restarted_one_leads_again_at_once(store):
    async with Rig(store, "a") as one:
        await one.stop()
        async with Rig(store, "a") as again:
            assert again.term() == 2
            assert await store.hold_lease("a", 2, 10) == 2


async def test_without_the_store_it_stops_before_its_lease_is_over(store):
    async with Rig(store) as rig:
        await asyncio.sleep(30)
        store.error = StoreUnavailable("down")
        ends_at = store.leader.expires_at
        while rig.term() is not None:
            assert _now() < ends_at - 0.9
            await asyncio.sleep(0.01)
        assert _now() > ends_at - 1.1
        await asyncio.sleep(0.6)
        assert rig.told[-1][1] is None
        assert rig.value("dory_leader") == 0
        store.error = None
        await asyncio.sleep(0.6)
        assert rig.term() is not None
        assert [lease is None for _, lease in rig.told] == [False, True, False]


async def test_a_store_that_hangs_is_no_better_than_none(store):
    """The lease counts from before the question."""
    async with Rig(store) as rig:
        await asyncio.sleep(5)
        store.holds["hold_lease"] = asyncio.Event()
        ends_at = store.leader.expires_at
        await asyncio.sleep(ends_at - 0.9 - _now())
        assert rig.term() is None
        asked_at_latest = _now() - 5
        store.holds["hold_lease"].set()
        await asyncio.sleep(0.001)
        # The answer is about a question that was asked long ago.
        assert store.leader.expires_at > _now() + 9
        assert rig.leadership._until < asked_at_latest + 10
        store.holds.clear()
        await asyncio.sleep(3)
        assert rig.term() is not None


async def test_a_process_that_was_frozen_leads_no_more(store):
    async with Rig(store) as rig:
        await asyncio.sleep(5)
        assert rig.term() == 1
        rig.clock.jumped += 60
        assert rig.leadership.lease is None
        store.leader.expires_at = _now() - 1
        store.leader.term, store.leader.holder = 2, "other"
        store.leader.expires_at = _now() + 100
        await asyncio.sleep(5)
        assert rig.term() is None
        assert rig.told[-1][1] is None


async def test_what_the_store_says_counts_at_once(store):
    async with Rig(store) as rig:
        store.leader.holder, store.leader.term = "other", 7
        rig.leadership.lost()
        assert rig.leadership.lease is None
        assert rig.told[-1][1] is None
        rig.leadership.lost()
        assert len(rig.told) == 2
        await asyncio.sleep(60)
        assert rig.term() == 8, "once the other's lease is over"
        assert rig.leadership.lease == Lease("me", 8)


async def test_a_lease_that_the_store_calls_ended_comes_back_in_a_new_term(store):
    async with Rig(store) as rig:
        store.leader.expires_at = _now()
        await asyncio.sleep(3)
        assert rig.term() == 2
        assert [lease and lease.term for _, lease in rig.told] == [1, 2]


async def test_resigning_without_a_store_or_a_lease_is_no_error(store):
    rig = Rig(store)
    await rig.leadership.resign()
    assert store.calls["release_lease"] == 0
    async with rig:
        pass
    store.error = StoreUnavailable("down")
    await rig.leadership.resign()
    assert rig.leadership.lease is None


async def test_changes_are_told_once(store):
    with capture_logs() as logs:
        async with Rig(store) as rig:
            await asyncio.sleep(60)
            store.error = StoreUnavailable("down")
            await asyncio.sleep(60)
    assert [log["event"] for log in logs if log["log_level"] == "info"] == [
        "leads",
        "leads no more",
    ]
    assert rig.store.calls["hold_lease"] < 200


def test_the_clock_runs_on():
    assert boot_clock() <= boot_clock()
