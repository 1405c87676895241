"""Whatever move is begun ends, and the trouble of one costs nobody else anything."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.loops.fleet_rig import Rig, now
from tests.loops.test_moves import LIMITS, ORGANIZATION, Site

from dory_orchestrator.core.model import Order, OrderKind, PodSpec
from dory_orchestrator.ports import ClusterRefused, Refusal, StoreBusy

pytestmark = pytest.mark.looptime

PLANNED_SECONDS = 20.0
MOST = replace(
    LIMITS,
    planned_move_seconds=PLANNED_SECONDS,
    move_retry_first_seconds=60.0,
    move_retry_most_seconds=240.0,
    rollout_ready_seconds=40.0,
)
RETRY_SECONDS = 9.0
"""A try to capture may have been waiting for so long when the deadline comes: the longest wait
between two captures (8 s), and a second for the cycle."""
DETECTION_SECONDS = 12.0
"""From a node's end to its replacement: the grace of three seconds, the second in which the
condition is looked at, and eight for what a cycle's own rests may cost."""


async def away(site: Site, *numbers: int) -> None:
    """These live in the cloud, and their home is away."""
    await site.rig.until(
        lambda: all(site.place_of(n) == ["cloud-1"] for n in numbers) and not site.rig.store.moves,
        120,
    )


def detail_of(site: Site, number: int = 0) -> str:
    return site.rig.store.states[UUID(int=number)].detail


async def test_a_failback_that_cannot_take_the_state_is_given_up_and_lets_its_neighbours_home():
    async with Site(1, 3, limits=MOST) as site:
        rig = site.rig
        await rig.until(lambda: rig.running == 3)
        await asyncio.sleep(2)
        rig.cluster.lose_node("edge-1")
        await away(site, 0, 1, 2)
        site.states.without_state = {UUID(int=0)}
        rig.cluster.restore_node("edge-1")
        await rig.until(lambda: any(m.error for m in rig.store.moves.values()))
        (began_at,) = [m.began_at for m in rig.store.moves.values()]
        await rig.until(lambda: ("move_cancelled", "move_given_up") in rig.told(), 120)
        assert PLANNED_SECONDS <= now() - began_at <= PLANNED_SECONDS + RETRY_SECONDS
        (cancelled,) = [e for e in rig.store.events if e.kind == "move_cancelled"]
        assert "its state is too large" in cancelled.detail
        # Its home is free for the others, at once.
        await rig.until(lambda: all(site.place_of(n) == ["edge-1"] for n in (1, 2)), 20)
        assert site.place_of(0) == ["cloud-1"]
        assert rig.reason_of(0) == "away"
        assert "its state is too large" in detail_of(site)
        assert "next try in" in detail_of(site)


async def test_it_is_tried_again_ever_later_and_comes_home_when_it_can():
    async with Site(1, 1, limits=MOST) as site:
        rig = site.rig
        await site.until_at("edge-1")
        rig.cluster.lose_node("edge-1")
        await away(site, 0)
        site.states.can_capture = False
        rig.cluster.restore_node("edge-1")
        waited: list[float] = []
        while len(waited) < 4:
            await until_given_up(rig, len(waited) + 1)
            retry = rig.store.move_retries[UUID(int=0)]
            waited.append(round(retry.retry_at - now()))
        # Doubled, and bounded.
        assert waited == [60, 120, 240, 240]
        # One event for each try, however often it was asked for.
        assert len(rig.told("failback")) == 4
        assert ("delete", "goes_home") not in rig.told()
        site.states.can_capture = True
        await site.until_at("edge-1", seconds=300)
        assert rig.store.move_retries == {}


async def until_given_up(rig: Rig, times: int) -> None:
    await rig.until(lambda: len(rig.told("move_cancelled")) == times, 700)


async def test_an_operator_s_word_does_not_wait_for_the_next_try():
    async with Site(1, 1, limits=MOST) as site:
        rig = site.rig
        await site.until_at("edge-1")
        rig.cluster.lose_node("edge-1")
        await away(site, 0)
        site.states.can_capture = False
        rig.cluster.restore_node("edge-1")
        await rig.until(lambda: ("move_cancelled", "move_given_up") in rig.told(), 120)
        site.states.can_capture = True
        rig.store.orders[UUID(int=0)] = Order(OrderKind.FAILBACK, "eva", "now")
        rig.store.notify()
        await site.until_at("edge-1", seconds=20)


async def test_a_restart_of_the_leader_begins_no_new_time():
    async with Site(1, 1, limits=MOST) as site:
        rig = site.rig
        await site.until_at("edge-1")
        rig.cluster.lose_node("edge-1")
        await away(site, 0)
        site.states.can_capture = False
        rig.cluster.restore_node("edge-1")
        await rig.until(lambda: rig.store.moves)
        (began_at,) = [m.began_at for m in rig.store.moves.values()]
        await asyncio.sleep(PLANNED_SECONDS - 5)
        await rig.stop()
        options: dict[str, Any] = {"limits": MOST, "evidence": site, "states": site.states}
        async with Rig(rig.store, rig.cluster, holder="other", **options) as second:
            await second.until(lambda: not rig.store.moves, 60)
            assert now() - began_at <= PLANNED_SECONDS + RETRY_SECONDS


async def test_twenty_stuck_failbacks_do_not_delay_a_failover():
    took = [await seconds_of_a_failover(stuck) for stuck in (0, 20)]
    # The same cycles: simulated time is exact but for the moments at which a condition is looked at
    # (0.01 s), and a cycle's rest, a quarter of its length, which is nothing here.
    assert took[1] == pytest.approx(took[0], abs=0.5)


async def seconds_of_a_failover(stuck: int) -> float:
    """How long it takes from a node's end to the replacement, while so many are stuck."""
    async with Site(nodes=32, processors=32, limits=MOST) as site:
        rig = site.rig
        await rig.until(lambda: rig.running == 32)
        await asyncio.sleep(3)
        for first in range(0, stuck, 10):
            # So few at a time that the brake lets them go.
            for n in range(first, first + 10):
                rig.cluster.lose_node(f"edge-{n + 1}")
            await away(site, *range(first, first + 10))
        site.states.can_capture = False
        for n in range(stuck):
            rig.cluster.restore_node(f"edge-{n + 1}")
        if stuck:
            await rig.until(lambda: len(rig.store.moves) >= MOST.planned_moves_max)
        # In the middle between two beats: its silence is as long in both.
        await asyncio.sleep(1.5 - now() % 1.0)
        rig.cluster.lose_node("edge-32")
        began_at = now()
        await rig.until(lambda: "cloud-1" in site.place_of(31))
        return now() - began_at


async def test_failovers_that_do_not_arrive_free_their_places():
    limits = replace(MOST, moves_max=2)
    async with Site(nodes=12, processors=12, limits=limits) as site:
        rig = site.rig
        await rig.until(lambda: rig.running == 12)
        await asyncio.sleep(5)
        rig.cluster.ready_at_once = False
        for n in range(1, 5):
            rig.cluster.lose_node(f"edge-{n}")
        # Two at once, and the next two when the first have not arrived within ten seconds.
        await rig.until(
            lambda: all("cloud-1" in site.place_of(n) for n in range(4)),
            DETECTION_SECONDS + limits.failover_slot_seconds + DETECTION_SECONDS,
        )


# Home is lost


@pytest.mark.parametrize("how", ["decommissioned", "deleted", "lost", "cordoned"])
@pytest.mark.parametrize("when", ["before its end", "while it ends", "after its end", "at home"])
async def test_a_home_that_is_lost_at_any_moment_of_a_failback(how, when):
    async with Site(1, 1, limits=MOST) as site:
        rig, store = site.rig, site.rig.store
        await site.until_at("edge-1")
        rig.cluster.lose_node("edge-1")
        await away(site, 0)
        (cloud_pod,) = rig.pods_of(0)
        site.states.can_capture = when != "before its end"
        rig.cluster.finish_deletions = when != "while it ends"
        rig.cluster.ready_at_once = when != "at home"
        if when == "after its end":
            rig.cluster.on_create = refuse_at_home
        rig.cluster.restore_node("edge-1")
        await rig.until(at(when, site))
        await lose_home(how, site)
        await asyncio.sleep(2)
        for pod in rig.pods_of(0):
            if pod.terminating and when == "while it ends":
                rig.cluster.finish_deletion(pod)
        rig.cluster.finish_deletions = rig.cluster.ready_at_once = True
        rig.cluster.on_create = None
        for pod in rig.pods_of(0):
            if rig.cluster.nodes[pod.node_name or "cloud-1"].ready:
                rig.cluster.set_ready(pod)
        # There it has arrived, and a node that takes no more work is not left for that.
        stays_home = when == "at home" and how in ("cordoned", "deleted")
        await site.until_at("edge-1" if stays_home else "cloud-1", seconds=400)
        if when == "before its end":
            assert rig.pod_of(0).uid == cloud_pod.uid
        assert store.moves == {}


def refuse_at_home(spec: PodSpec) -> None:
    if spec.node_name == "edge-1":
        raise ClusterRefused(Refusal.INVALID, "not there")


def at(when: str, site: Site) -> Callable[[], object]:
    rig = site.rig
    if when == "before its end":
        return lambda: any(move.error for move in rig.store.moves.values())
    if when == "at home":
        return lambda: site.place_of(0) == ["edge-1"]
    if when == "after its end":
        return lambda: not rig.pods_of(0)
    return lambda: any(pod.terminating for pod in rig.pods_of(0))


async def lose_home(how: str, site: Site) -> None:
    store, home = site.rig.store, site.rows[0].id
    if how == "decommissioned":
        await store.decommission_edge_node("edge-1", ORGANIZATION)
    elif how == "deleted":
        del store.nodes[home]
    elif how == "cordoned":
        store.cordoned.add(home)
    else:
        site.rig.cluster.lose_node("edge-1")
    store.notify()


async def test_a_home_where_it_does_not_become_ready_is_left_again():
    async with Site(1, 1, limits=MOST) as site:
        rig = site.rig
        await site.until_at("edge-1")
        rig.cluster.lose_node("edge-1")
        await away(site, 0)
        rig.cluster.ready_at_once = False
        rig.cluster.restore_node("edge-1")
        await rig.until(lambda: site.place_of(0) == ["edge-1"], 60)
        arrived_at = now()
        await rig.until(lambda: site.place_of(0) != ["edge-1"], 200)
        given = MOST.planned_move_seconds + MOST.rollout_ready_seconds
        assert now() - arrived_at <= given + RETRY_SECONDS
        rig.cluster.ready_at_once = True
        for pod in rig.pods_of(0):
            rig.cluster.set_ready(pod)
        await site.until_at("cloud-1", seconds=60)
        assert rig.store.move_retries[UUID(int=0)].failures == 1


async def test_a_dead_node_that_is_decommissioned_frees_its_work_at_once():
    async with Site(2, 2, limits=MOST) as site:
        rig, store, home = site.rig, site.rig.store, site.rows[0]
        store.nodes[home.id] = replace(home, failover_enabled=False)
        await rig.until(lambda: rig.running == 2)
        await asyncio.sleep(3)
        rig.cluster.lose_node("edge-1")
        await rig.until(lambda: rig.reason_of(0) == "failover_disabled", 30)
        await store.decommission_edge_node("edge-1", ORGANIZATION)
        store.notify()
        # It is known to be dead already: nothing is waited for.
        await site.until_at("cloud-1", seconds=5)
        assert rig.reason_of(0) in ("running", "away")


# What the store refuses


async def test_who_is_refused_for_ever_changes_nothing_for_others_and_is_told():
    took = [await seconds_beside_a_refused_one(refused) for refused in (False, True)]
    assert took[1] == pytest.approx(took[0], abs=0.5)


async def seconds_beside_a_refused_one(refused: bool) -> float:
    async with Site(nodes=6, processors=6, limits=MOST) as site:
        rig = site.rig
        await rig.until(lambda: rig.running == 6)
        await asyncio.sleep(5)
        if refused:
            rig.store.held_links.add(UUID(int=0))
            rig.cluster.lose_node("edge-1")
            # Long enough for its retries to be at their rarest.
            await asyncio.sleep(300)
            assert rig.reason_of(0) == "grant_refused"
            assert "another transaction holds its row" in detail_of(site)
            assert rig.told("held") == [("held", "grant_refused")]
        await asyncio.sleep(1.5 - now() % 1.0)
        rig.cluster.lose_node("edge-2")
        began_at = now()
        await rig.until(lambda: "cloud-1" in site.place_of(1), 60)
        took = now() - began_at
        if refused:
            rig.store.held_links.clear()
            await rig.until(lambda: "cloud-1" in site.place_of(0), 20)
        return took


async def test_rows_of_the_platform_that_others_hold_delay_no_failover():
    took = [await seconds_beside_held_rows(held) for held in (0, 30)]
    assert took[1] == pytest.approx(took[0], abs=0.5)


async def seconds_beside_held_rows(held: int) -> float:
    """The portal's open transaction updated so many rows, and their pods get other addresses."""
    async with Site(nodes=40, processors=40, limits=MOST) as site:
        rig = site.rig
        await rig.until(lambda: rig.running == 40)
        await asyncio.sleep(5)
        for number in range(held):
            rig.store.processors[UUID(int=number)].locked = True
            pod = rig.pod_of(number)
            rig.cluster.pods[pod.uid] = replace(pod, ip="10.9.9.9")
            rig.cluster.set_ready(pod.name)
        await asyncio.sleep(3.5 - now() % 1.0)
        rig.cluster.lose_node("edge-40")
        began_at = now()
        await rig.until(lambda: "cloud-1" in site.place_of(39), 60)
        took = now() - began_at
        shown = [rig.store.processors[UUID(int=n)].pod_ip for n in range(held)]
        assert "10.9.9.9" not in shown
        for number in range(held):
            rig.store.processors[UUID(int=number)].locked = False
        await asyncio.sleep(31)
        # Once they are free they are shown, in the next cycle.
        shown = [rig.store.processors[UUID(int=n)].pod_ip for n in range(held)]
        assert shown == ["10.9.9.9"] * held
        return took


async def test_that_showing_fails_costs_no_cycle():
    async with Site(2, 2, limits=MOST) as site:
        rig = site.rig
        await rig.until(lambda: rig.running == 2)
        rig.store.errors["show_pods"] = StoreBusy("somebody holds the table")
        await asyncio.sleep(3)
        rig.cluster.lose_node("edge-1")
        await rig.until(lambda: "cloud-1" in site.place_of(0), 20)
        assert rig.value("dory_reconciliation_errors_total", type="general") == 0
        rig.store.errors.clear()
        await rig.until(lambda: rig.store.processors[UUID(int=0)].node_name == "cloud-1", 40)


# Whatever happens at whichever step


FOREVER = ["capture fails", "restore fails", "home lost", "store refuses", "cluster refuses"]


@pytest.mark.parametrize("trouble", FOREVER)
@pytest.mark.parametrize("kind", ["failover", "failback", "departure", "order"])
async def test_every_move_ends_whatever_trouble_lasts_for_ever(kind, trouble):
    async with Site(2, 4, limits=MOST) as site:
        rig = site.rig
        await rig.until(lambda: rig.running == 4)
        await asyncio.sleep(3)
        if kind == "failback":
            rig.cluster.lose_node("edge-1")
            await away(site, 0, 2)
        if trouble not in ("restore fails", "home lost"):
            await begin_trouble(trouble, site)
        await begin_move(kind, site)
        # As soon as it has begun; what is never granted begins not.
        latest_at = now() + DETECTION_SECONDS + LIMITS.failback_stable_seconds
        await rig.until(lambda: UUID(int=0) in rig.store.moves or now() >= latest_at)
        await begin_trouble(trouble, site)
        bound = MOST.planned_move_seconds + MOST.rollout_ready_seconds + 2 * RETRY_SECONDS
        await rig.until(lambda: takes_no_place(site), bound + MOST.restore_seconds)
        # And one that has no trouble of its own moves as if nothing were.
        site.has_state = True
        rig.cluster.lose_node("edge-2")
        await rig.until(lambda: "cloud-1" in site.place_of(1), 2 * DETECTION_SECONDS)


def takes_no_place(site: Site) -> bool:
    """Whether the move of the one in trouble has ended, was never granted, or holds up nobody."""
    move = site.rig.store.moves.get(UUID(int=0))
    given = MOST.planned_move_seconds + MOST.rollout_ready_seconds
    return move is None or now() - move.began_at >= given


async def begin_trouble(trouble: str, site: Site) -> None:
    key = UUID(int=0)
    if trouble == "capture fails":
        site.states.without_state.add(key)
    elif trouble == "restore fails":
        site.has_state = False
    elif trouble == "home lost":
        site.rig.store.nodes.pop(site.rows[0].id, None)
        site.rig.store.notify()
    elif trouble == "store refuses":
        site.rig.store.held_links.add(key)
    elif trouble == "cluster refuses":
        site.rig.cluster.refused = ClusterRefused(Refusal.FORBIDDEN, "no")


async def begin_move(kind: str, site: Site) -> None:
    rig, store = site.rig, site.rig.store
    if kind == "failover":
        rig.cluster.lose_node("edge-1")
    elif kind == "failback":
        rig.cluster.restore_node("edge-1")
    elif kind == "departure":
        await store.decommission_edge_node("edge-1", ORGANIZATION)
    else:
        store.orders[UUID(int=0)] = Order(OrderKind.FAILOVER, "eva", "why")
    store.notify()
