"""One leader at a time, in every Store."""

import asyncio

import pytest
from tests.contract.worlds import a_pod, adopt, create, delete, failure, forget, owner_of
from tests.patience import patient

from dory_orchestrator.core.plan import Finding, GuardVerdict, Reason, Record
from dory_orchestrator.ports import Event, Lease, LeaseLost, NodeSummary

MOMENT = 0.15
SHORT = patient(0.15)
"""Long enough for one more call."""
LONG = patient(60.0)


async def test_one_holds_it_and_renewing_keeps_the_term(world):
    term = await world.store.hold_lease("a", None, LONG)
    assert term is not None
    assert await world.store.hold_lease("b", None, LONG) is None
    assert await world.store.hold_lease("b", term, LONG) is None
    assert await world.store.hold_lease("a", term, LONG) == term
    assert await world.store.hold_lease("a", term, LONG) == term


async def test_the_terms_of_all_holders_rise(world):
    terms = [await world.store.hold_lease("a", None, LONG)]
    for holder in ("b", "a", "c"):
        await world.store.release_lease(Lease(terms[-1] and _before(holder), terms[-1]))
        terms.append(await world.store.hold_lease(holder, None, LONG))
    assert terms == sorted(set(terms))
    assert len(terms) == 4


def _before(holder: str) -> str:
    return {"b": "a", "a": "b", "c": "a"}[holder]


async def test_a_renewal_lengthens_it(world):
    term = await world.store.hold_lease("a", None, SHORT)
    assert await world.store.hold_lease("a", term, LONG) == term
    await asyncio.sleep(1.1 * SHORT)
    assert await world.store.hold_lease("b", None, LONG) is None
    assert await world.store.hold_lease("a", term, LONG) == term


async def test_a_lease_that_ended_is_a_new_one_also_for_its_holder(world):
    term = await world.store.hold_lease("a", None, MOMENT)
    await asyncio.sleep(1.5 * MOMENT)
    assert await world.store.hold_lease("a", term, LONG) == term + 1


async def test_a_holder_that_restarts_takes_over_at_once_in_a_new_term(world):
    term = await world.store.hold_lease("a", None, LONG)
    again = await world.store.hold_lease("a", None, LONG)
    assert again == term + 1
    # What the one before it still thinks it may do is refused.
    with pytest.raises(LeaseLost):
        await world.store.grant(Lease("a", term), [])


async def test_another_waits_for_its_end(world):
    term = await world.store.hold_lease("a", None, SHORT)
    assert await world.store.hold_lease("b", None, LONG) is None
    await asyncio.sleep(1.1 * SHORT)
    assert await world.store.hold_lease("b", None, LONG) == term + 1
    assert await world.store.hold_lease("a", term, LONG) is None


async def test_who_lets_go_lets_another_in_at_once(world):
    term = await world.store.hold_lease("a", None, LONG)
    await world.store.release_lease(Lease("a", term))
    assert await world.store.hold_lease("b", None, LONG) == term + 1
    await world.store.release_lease(Lease("a", term))
    await world.store.release_lease(Lease("b", term))
    assert await world.store.hold_lease("a", None, LONG) is None


async def test_of_many_at_once_one_gets_it(world):
    terms = await asyncio.gather(
        *(world.store.hold_lease(f"holder {n}", None, LONG) for n in range(10))
    )
    assert sum(term is not None for term in terms) == 1


@pytest.mark.parametrize("loss", ["released", "ended", "taken", "restarted"])
async def test_who_does_not_hold_it_writes_nothing(world, loss):
    key = await world.desire()
    seconds = MOMENT if loss in ("ended", "taken") else LONG
    term = await world.store.hold_lease("a", None, seconds)
    old = Lease("a", term)
    if loss == "released":
        await world.store.release_lease(old)
    elif loss == "restarted":
        await world.store.hold_lease("a", None, LONG)
    else:
        await asyncio.sleep(1.5 * MOMENT)
    if loss == "taken":
        await world.store.hold_lease("b", None, LONG)

    pod = a_pod(key)
    summary = NodeSummary("n1", "edge", True, None, False, 1, 1, 0, 10, 1, 0.1)
    held = GuardVerdict({"all": (9, 0)}, (pod,))
    for attempt in (
        world.store.grant(old, [create(key)]),
        world.store.grant(old, [adopt(pod)]),
        world.store.grant(old, [delete(pod, 0), failure(key), forget(key)]),
        world.store.record_pods(old, [Record(key, 1, pod)]),
        world.store.record_findings(old, {key: Finding(Reason.RUNNING, "")}, []),
        world.store.record_nodes(old, [summary], []),
        world.store.mark_shown(old),
        world.store.record_guard(old, held),
        world.store.record_events(old, [Event("kind", "reason", "detail")]),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    assert await owner_of(world, key) is None
    assert await world.events() == []
    assert await world.states() == {}
    assert await world.nodes() == {}
    assert await world.guard() == ({}, "")
    assert await world.shown_term() == 0
    assert await world.shown_of(key) == (None, None, None)


async def test_a_lost_lease_is_no_fault_of_the_database(world):
    for _ in range(5):
        with pytest.raises(LeaseLost):
            await world.store.grant(Lease("nobody", 7), [])
    await world.store.read_desired()
