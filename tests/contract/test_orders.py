"""What every Store does with a pause, with orders, and with what operators ask."""

from dataclasses import replace
from uuid import uuid4

import pytest
from tests.contract.test_moves import at_home, moved, ready, start
from tests.contract.worlds import a_pod, adopt, create, delete, failure, forget

from dory_orchestrator.core.answering import QuestionKind
from dory_orchestrator.core.drill import DrillReason, DrillStep
from dory_orchestrator.core.model import DrillPhase, MoveKind, OrderKind
from dory_orchestrator.core.plan import CancelMove, EndMove, Reason
from dory_orchestrator.core.why import Rule, Why
from dory_orchestrator.ports import EdgeNodeRegistration, Event, Lease, LeaseLost


async def test_a_pause_is_read_as_long_as_it_lasts(world, lease):
    assert (await world.store.read_desired()).pause is None
    await world.pause(60)
    pause = (await world.store.read_desired()).pause
    assert (pause.by, pause.reason) == ("eva", "why")
    await world.pause(-1)
    assert (await world.store.read_desired()).pause is None


async def test_while_it_is_paused_nothing_is_granted_that_touches_the_cluster(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    other, stranger = await world.desire(), await world.desire()
    gone = uuid4()
    await world.pause(60)
    cancel = CancelMove(key, 2, 3, pod, Reason.HOME_CAME_BACK, "", MoveKind.FAILOVER, home.id)
    actions = [create(other), delete(new, 2), cancel]
    assert await world.store.grant(lease, actions) == [False] * 3
    # What is only written down goes on.
    owner = a_pod(stranger, 1)
    assert await world.store.grant(lease, [adopt(owner)]) == [True]
    assert await world.store.grant(lease, [failure(stranger, 1, owner)]) == [True]
    assert await world.store.grant(lease, [forget(gone, 1)]) == [False]
    await ready(world, lease, key, new, 2)
    end = EndMove(key, 2, new, Reason.MOVED, "done", 12.5, 3.25)
    assert await world.store.grant(lease, [end]) == [True]
    await world.pause(-1)
    assert await world.store.grant(lease, [create(other)]) == [True]


async def test_orders_are_read(world, lease):
    key = await world.desire()
    await world.order(key, OrderKind.FAILOVER)
    (found,) = (await world.store.read_desired()).orders.values()
    assert (found.kind, found.by, found.reason) == (OrderKind.FAILOVER, "eva", "why")


@pytest.mark.parametrize("kind", [MoveKind.DEPARTURE, MoveKind.FAILOVER])
async def test_who_is_ordered_away_may_leave_where_others_may_not(world, lease, kind):
    home, key, pod = await at_home(world, lease)
    given = EdgeNodeRegistration(
        name=home.name,
        organization_id=home.organization_id,
        failover_enabled=False,
        given=frozenset({"failover_enabled"}),
    )
    await world.store.register_edge_node(given)
    begun = await start(world, kind, pod, home.id)
    action = delete(pod, 1) if kind is MoveKind.DEPARTURE else create(key, 2, node="cloud-1")
    assert await world.store.grant(lease, [replace(action, move=begun)]) == [False]
    await world.order(key, OrderKind.FAILOVER)
    assert await world.store.grant(lease, [replace(action, move=begun)]) == [True]
    assert (await world.store.read_desired()).homes == {key: home.id}


async def test_who_is_ordered_away_does_not_go_home_and_the_order_home_ends_with_it(world, lease):
    home, key, pod = await at_home(world, lease)
    new = await moved(world, lease, home, key, pod)
    await world.order(key, OrderKind.FAILOVER)
    begun = await start(world, MoveKind.FAILBACK, new, home.id)
    action = replace(delete(new, 2), move=begun)
    assert await world.store.grant(lease, [action]) == [False]
    await world.withdraw(key)
    await world.order(key, OrderKind.FAILBACK)
    assert await world.store.grant(lease, [action]) == [True]
    desired = await world.store.read_desired()
    assert (desired.orders, desired.links) == ({}, {key: home.id})


async def test_what_is_forgotten_has_no_order_any_more(world, lease):
    key = await world.desire()
    assert await world.store.grant(lease, [create(key)]) == [True]
    await world.order(key, OrderKind.FAILOVER)
    await world.remove(key)
    assert await world.store.grant(lease, [forget(key, 1)]) == [True]
    assert (await world.store.read_desired()).orders == {}


async def test_questions_are_answered_once_by_who_leads(world, lease):
    first = await world.ask("node", '{"name": "edge-1"}')
    second = await world.ask("plan", "{}")
    one, two = await world.store.open_questions(10)
    assert (one.id, one.kind, dict(one.parameters)) == (
        first,
        QuestionKind.NODE,
        {"name": "edge-1"},
    )
    assert (two.id, two.kind) == (second, QuestionKind.PLAN)
    assert [q.id for q in await world.store.open_questions(1)] == [first]
    with pytest.raises(LeaseLost):
        await world.store.answer_questions(Lease("other", 77), {first: "{}"})
    await world.store.answer_questions(lease, {first: '{"b": 1, "a": "\u00e9"}'})
    assert await world.answered(first) == {"b": 1, "a": "\u00e9"}
    assert await world.answered(second) is None
    assert [q.id for q in await world.store.open_questions(10)] == [second]


async def test_how_long_failovers_take_is_learned_from_those_that_ended(world, lease):
    assert await world.store.failover_seconds() is None


async def test_an_explanation_is_kept_with_its_event(world, lease):
    key = await world.desire()
    told = Why(lambda: {"epoch": 0}, [(Rule.WITHOUT_POD, True, (0,))], "cloud-1")
    assert await world.store.grant(lease, [replace(create(key), why=told)]) == [True]
    await world.store.record_events(lease, [Event("x", "y", "z")])
    explanations = await world.explanations()
    assert explanations[0]["rules"][0]["numbers"] == {"pods": 0}
    assert explanations[0]["candidates"][0]["node"] == "cloud-1"
    assert explanations[1] is None


async def test_a_drill_grants_moves_of_its_node_while_it_runs_though_that_beats(world, lease):
    home, key, pod = await at_home(world, lease)
    begun = await start(world, MoveKind.FAILOVER, pod, home.id, is_drill=True, heartbeat_at=1.0)
    action = replace(create(key, 2, node="cloud-1"), move=begun)
    assert await world.store.grant(lease, [action]) == [False]
    await world.drill(home.id)
    assert await world.store.grant(lease, [action]) == [True]


async def test_a_drill_goes_on_from_phase_to_phase_once(world, lease):
    home, _, _ = await at_home(world, lease)
    await world.drill(home.id)
    drill = (await world.store.read_desired()).drill
    assert (drill.node_name, drill.phase) == (home.name, DrillPhase.RUNNING)
    over = DrillStep(drill, DrillPhase.RETURNING, DrillReason.TIME_OVER, "over")
    await world.store.record_drill(lease, over)
    await world.store.record_drill(lease, over)
    drill = (await world.store.read_desired()).drill
    assert drill.phase is DrillPhase.RETURNING
    done = DrillStep(drill, DrillPhase.ENDED, DrillReason.ALL_HOME, "home")
    await world.store.record_drill(lease, done)
    assert (await world.store.read_desired()).drill is None
    told = [event.reason for event, _ in await world.events() if event.kind == "drill"]
    assert told == ["time_over", "all_home"]


async def test_what_is_told_without_a_lease_is_of_no_term(world):
    await world.store.tell([Event("shutdown", "ended", "why", node_name="edge-1")])
    await world.store.tell([])
    ((event, term),) = await world.events()
    assert (event.kind, event.node_name, term) == ("shutdown", "edge-1", None)
