"""What operators order and ask, carried out by the whole loop in simulated time."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.doubles import MemoryStore
from tests.loops.fleet_rig import Rig, now
from tests.loops.test_moves import LIMITS, Site

from dory_orchestrator.core.answering import Question, QuestionKind
from dory_orchestrator.core.model import Drill, DrillPhase, Order, OrderKind, Pause
from dory_orchestrator.core.plan import Reason
from dory_orchestrator.loops.answer import Answerer
from dory_orchestrator.ports import NO_TRACES, Lease, StoreUnavailable

ZERO = UUID(int=0)

pytestmark = pytest.mark.looptime


def order(site: Site, kind: OrderKind) -> None:
    site.rig.store.orders[ZERO] = Order(kind, "eva", "why")
    site.rig.store.notify()


def pause(rig: Rig, seconds: float) -> None:
    rig.store.pause = Pause(now() + seconds, "eva", "the network is rebuilt")
    rig.store.notify()


# Orders


async def test_who_is_ordered_away_leaves_with_its_state_and_stays_until_it_is_sent_home():
    async with Site() as site:
        await site.until_at("edge-1")
        old = site.rig.pod_of(0)
        order(site, OrderKind.FAILOVER)
        await site.until_at("cloud-1")
        assert site.states.captured == [old.name]
        assert site.rig.cluster.deleted == [(old.name, False)]
        assert max(site.rig.cluster.most_live.values()) == 1
        await asyncio.sleep(10 * LIMITS.failback_stable_seconds)
        assert site.place_of() == ["cloud-1"]
        detail = site.rig.store.states[ZERO].detail
        assert "eva moved it away: why" in detail

        order(site, OrderKind.FAILBACK)
        await site.until_at("edge-1", seconds=5)
        assert site.rig.store.orders == {}
        assert site.rig.pod_of(0).epoch == 3


async def test_what_cannot_be_captured_does_not_leave():
    async with Site() as site:
        await site.until_at("edge-1")
        site.states.can_capture = False
        order(site, OrderKind.FAILOVER)
        await asyncio.sleep(40)
        assert site.place_of() == ["edge-1"]
        assert site.rig.cluster.deleted == []
        site.states.can_capture = True
        await site.until_at("cloud-1")


async def test_without_room_in_the_cloud_nobody_leaves():
    async with Site() as site:
        await site.until_at("edge-1")
        site.rig.cluster.lose_node("cloud-1")
        order(site, OrderKind.FAILOVER)
        await asyncio.sleep(20)
        assert site.place_of() == ["edge-1"]
        assert "no node fits" in site.rig.store.states[ZERO].detail
        site.rig.cluster.restore_node("cloud-1")
        await site.until_at("cloud-1")


async def test_an_order_lets_a_dead_node_be_left_whose_failover_is_disabled():
    async with Site() as site:
        await site.until_at("edge-1")
        (row,) = site.rows
        site.rig.store.nodes[row.id] = replace(row, failover_enabled=False)
        site.rig.cluster.lose_node("edge-1")
        await asyncio.sleep(30)
        assert site.rig.reason_of(0) == Reason.FAILOVER_DISABLED
        order(site, OrderKind.FAILOVER)
        await site.until_at("cloud-1")


async def test_home_by_order_does_not_wait_for_long_health():
    async with Site() as site:
        await site.until_at("edge-1")
        await asyncio.sleep(2)
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")
        site.rig.cluster.restore_node("edge-1")
        await asyncio.sleep(1)
        order(site, OrderKind.FAILBACK)
        assert await site.until_at("edge-1") < LIMITS.failback_stable_seconds / 2


# Pause


async def test_while_it_is_paused_a_dead_node_s_processor_waits_and_then_moves():
    async with Site() as site:
        await site.until_at("edge-1")
        await asyncio.sleep(2)
        pause(site.rig, 60)
        site.rig.cluster.lose_node("edge-1")
        await asyncio.sleep(40)
        assert site.place_of() == ["edge-1"]
        assert site.rig.reason_of(0) == Reason.PAUSED
        assert (
            "eva paused everything (the network is rebuilt)" in site.rig.store.states[ZERO].detail
        )
        assert ("held", "paused") in site.rig.told("held")
        assert await site.until_at("cloud-1") < 30


async def test_while_it_is_paused_nothing_is_created_or_ended():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        pause(rig, 30)
        calls = len(rig.cluster.calls)
        rig.desire(2)
        rig.undesire(1)
        await asyncio.sleep(20)
        assert len(rig.cluster.calls) == calls
        assert rig.reason_of(2) == Reason.PAUSED
        await rig.until(lambda: rig.reason_of(2) == Reason.RUNNING)
        assert now() >= 30


async def test_a_pause_that_is_ended_early_is_over_at_once():
    async with Rig() as rig:
        pause(rig, 3600)
        rig.desire(1)
        await asyncio.sleep(5)
        assert rig.running == 0
        rig.store.pause = None
        rig.store.notify()
        assert await rig.until(lambda: rig.running == 1) < 2


async def test_a_pause_that_comes_between_plan_and_grant_is_kept():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        store, grant = rig.store, rig.store.grant

        async def paused_before(lease, actions, trace_ids=NO_TRACES):
            store.pause = Pause(now() + 20, "eva", "why")
            return await grant(lease, actions, trace_ids)

        store.grant = paused_before  # type: ignore[method-assign]
        calls = len(rig.cluster.calls)
        rig.desire(2)
        await asyncio.sleep(10)
        assert len(rig.cluster.calls) == calls


# Questions


class AskedStore(MemoryStore):
    """With a checkpoint of one processor, and what is needed for answers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answered_together: list[list[int]] = []

    async def checkpoint_ages(self) -> dict[UUID, float]:
        return {UUID(int=1): 4.0}

    async def answer_questions(self, lease: Lease, answers: Mapping[int, str]) -> None:
        self.answered_together.append(sorted(answers))
        await super().answer_questions(lease, answers)

    def ask(self, kind: QuestionKind, **parameters: Any) -> int:
        question = Question(len(self.questions) + 1, kind, parameters)
        self.questions.append(question)
        self.notify()
        return question.id


def a_rig(store: AskedStore) -> Rig:
    """Whose leader answers."""
    return Rig(store, answerer=Answerer(store, LIMITS))


async def test_the_leader_answers_from_its_own_cycle():
    store = AskedStore(clock=now)
    async with a_rig(store) as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        why = store.ask(QuestionKind.PROCESSOR, id=str(UUID(int=1)))
        what_if = store.ask(QuestionKind.WHAT_IF, down=["cloud-1"], without_cloud=False)
        assert await rig.until(lambda: len(rig.store.answers) == 2) < 2
        assert rig.store.answers[why]["decision"]["reason"] == "running"
        (row,) = rig.store.answers[what_if]["processors"]
        assert (row["outcome"], row["loss_seconds"]) == ("waits", 4.0)


async def test_what_cannot_be_read_for_an_answer_stops_nothing():
    store = AskedStore(clock=now)
    async with a_rig(store) as rig:
        store.errors["open_questions"] = StoreUnavailable("down")
        number = store.ask(QuestionKind.PLAN)
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        assert number not in rig.store.answers
        rig.store.errors.clear()
        rig.store.notify()
        await rig.until(lambda: number in rig.store.answers)


async def test_one_at_which_the_leader_fails_ends_no_cycle():
    class Broken(AskedStore):
        async def checkpoint_ages(self) -> Any:
            return {UUID(int=1): math.nan}

    store = Broken(clock=now)
    async with a_rig(store) as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        number = store.ask(QuestionKind.WHAT_IF, down=["cloud-1"], without_cloud=False)
        await rig.until(lambda: number in rig.store.answers)
        assert "the leader failed at it" in rig.store.answers[number]["unknown"]
        rig.desire(2)
        await rig.until(lambda: rig.running == 2)


# Drills


def drill(site: Site, seconds: float) -> None:
    store, home = site.rig.store, site.rows[0]
    at = now()
    store.drill = Drill(1, home.id, home.name, DrillPhase.RUNNING, at, at + seconds, "eva")
    store.notify()


async def test_a_drill_moves_the_processors_of_a_node_and_brings_them_home():
    async with Site(2, 4) as site:
        await site.rig.until(lambda: site.rig.running == 4)
        await asyncio.sleep(5)
        drill(site, 20)
        moved = (0, 2)
        await site.rig.until(
            lambda: all(site.place_of(n) == ["cloud-1"] for n in moved) and not site.rig.store.moves
        )
        assert [site.place_of(n) for n in (1, 3)] == [["edge-2"]] * 2
        assert site.rig.store.nodes[site.rows[0].id].status == "online"
        assert not site.rig.told("node_offline", "node_suspect", "brake")
        await site.rig.until(lambda: site.rig.store.drill is None)
        assert now() >= 20
        assert [site.place_of(n) for n in moved] == [["edge-1"]] * 2
        assert [reason for _, reason in site.rig.told("drill")] == ["time_over", "all_home"]


async def test_a_drill_whose_processors_do_not_become_ready_ends_by_itself():
    async with Site() as site:
        await site.until_at("edge-1")
        await asyncio.sleep(5)
        site.rig.cluster.ready_at_once = False
        drill(site, 3600)
        await site.rig.until(lambda: ("drill", "aborted") in site.rig.told("drill"), seconds=400)
        assert now() <= LIMITS.rollout_ready_seconds + 30
        site.rig.cluster.ready_at_once = True


async def test_who_cannot_leave_is_called_back_and_holds_nobody_up():
    async with Site() as site:
        await site.until_at("edge-1")
        site.states.can_capture = False
        order(site, OrderKind.FAILOVER)
        await asyncio.sleep(10)
        order(site, OrderKind.FAILBACK)
        await site.rig.until(lambda: not site.rig.store.moves)
        assert site.rig.store.orders == {}
        await asyncio.sleep(5)
        assert site.place_of() == ["edge-1"]
        assert ("move_cancelled", "home_came_back") in site.rig.told("move_cancelled")


async def test_one_supposition_in_a_cycle():
    store = AskedStore(clock=now)
    async with a_rig(store) as rig:
        numbers = [
            store.ask(QuestionKind.WHAT_IF, down=["cloud-1"], without_cloud=False) for _ in range(3)
        ]
        await rig.until(lambda: len(store.answers) == len(numbers))
        assert store.answered_together == [[number] for number in numbers]
