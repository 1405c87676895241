"""The fleet as the page shows it; run over PostgreSQL and over the double that other tests use."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.contract.fleet_worlds import MOMENT, FleetWorld, MemoryFleet, PostgresFleet
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import FleetPicture, NodeCounts, PictureQuery, Trouble
from dory_orchestrator.store.views import PostgresViews

ORGANIZATION = uuid4()


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[FleetWorld]:
    if request.param == "memory":
        yield MemoryFleet()
        return
    url = request.getfixturevalue("database_url")
    views = PostgresViews(url, metrics=Metrics(), timeout_seconds=patient(5))
    async with connected(url) as connection:
        yield PostgresFleet(views, connection)
    await views.close()


async def picture(world: FleetWorld, **query: int) -> FleetPicture:
    return await world.views.picture(PictureQuery(**query))


def counts(nodes: int, troubled: int, processors: int, running: int) -> NodeCounts:
    return NodeCounts(nodes=nodes, troubled=troubled, processors=processors, running=running)


async def test_of_nothing(world):
    found = await picture(world)
    assert (list(found.nodes), list(found.processors), list(found.moves)) == ([], [], [])
    assert found.total == found.behind == counts(0, 0, 0, 0)
    assert (found.away, found.away_since, found.frozen, found.more_moves) == (0, None, 0, False)
    assert (found.summary.desired, found.brake.engaged, found.guard_held_since) == (0, False, None)


async def test_a_processor_with_its_ages(world):
    await world.add_node("edge-1", kind="edge", organization_id=ORGANIZATION)
    key = await world.add_processor("a", state="running", node="edge-1")
    await world.checkpoint(key, minutes=1)
    await world.checkpoint(key, minutes=2)
    found = await picture(world)
    (processor,) = found.processors
    assert (processor.id, processor.name, processor.place) == (key, "a", "edge-1")
    assert processor.checkpoint_at == MOMENT + timedelta(minutes=2)
    assert (processor.home, processor.is_shadow, processor.beat_at) == (None, False, None)
    assert found.placed == {"edge-1": 1}


async def test_nodes_in_the_order_of_their_trouble(world):
    """Of two in the same trouble the name decides."""
    where: dict[str, Any] = {"kind": "edge", "organization_id": ORGANIZATION}
    await world.add_node("a-well", **where, health="online")
    await world.add_node("b-cordoned", **where, cordon="a new disk")
    await world.add_node("c-dead", **where, health="offline")
    await world.add_node("d-recovering", **where, health="recovering")
    await world.add_node("e-not-ready", **where, ready=False)
    await world.add_node("f-moving", **where)
    await world.move(uuid4(), from_node="nowhere", to_node="f-moving")
    await world.add_node("g-waiting", **where)
    await world.add_processor("p", state="waiting", node="g-waiting")
    await world.add_node("h-cloud", kind="application")
    found = await picture(world)
    assert [(node.name, node.trouble) for node in found.nodes] == [
        ("c-dead", Trouble.TROUBLED),
        ("e-not-ready", Trouble.TROUBLED),
        ("f-moving", Trouble.TROUBLED),
        ("g-waiting", Trouble.TROUBLED),
        ("b-cordoned", Trouble.UNUSUAL),
        ("d-recovering", Trouble.UNUSUAL),
        ("a-well", Trouble.WELL),
        ("h-cloud", Trouble.WELL),
    ]
    assert found.nodes[4].cordon_cause == "a new disk"
    assert found.nodes[0].health_detail == "because"


async def test_one_that_is_away_stands_at_its_home_too(world):
    await world.add_node("edge-1", kind="edge", organization_id=ORGANIZATION)
    await world.add_node("cloud-1", kind="application")
    key = await world.add_processor("a", state="running", reason="away", node="cloud-1")
    await world.add_processor("b", state="running", node="edge-1")
    await world.send_away(key, "edge-1", minutes=3)
    found = await picture(world)
    assert (found.away, found.away_since) == (1, MOMENT + timedelta(minutes=3))
    assert [(p.name, p.place, p.node_name, p.home, p.is_shadow) for p in found.processors] == [
        ("a", "cloud-1", "cloud-1", "edge-1", False),
        ("b", "edge-1", "edge-1", None, False),
        ("a", "edge-1", "cloud-1", "edge-1", True),
    ]
    assert (found.placed, found.shadows) == ({"cloud-1": 1, "edge-1": 1}, {"edge-1": 1})
    assert [(n.name, n.trouble, n.away) for n in found.nodes] == [
        ("cloud-1", Trouble.UNUSUAL, 0),
        ("edge-1", Trouble.UNUSUAL, 1),
    ]


async def test_what_is_left_out_is_counted(world):
    for number in range(5):
        await world.add_node(f"n{number}", kind="edge")
        for name in "cab":
            state = "error" if (name, number) == ("c", 3) else "running"
            await world.add_processor(f"{name}{number}", state=state, node=f"n{number}")
    first = await picture(world, nodes=2, processors=2)
    assert [node.name for node in first.nodes] == ["n3", "n0"]
    assert [p.name for p in first.processors] == ["a0", "b0", "c3", "a3"]
    assert first.placed == {"n0": 3, "n3": 3}
    assert first.total == counts(5, 1, 15, 14)
    assert first.behind == counts(3, 0, 9, 9)
    second = await picture(world, nodes=2, offset=2)
    assert [node.name for node in second.nodes] == ["n1", "n2"]
    assert second.behind == counts(1, 0, 3, 3)
    last = await picture(world, nodes=2, offset=4)
    assert ([node.name for node in last.nodes], last.behind) == (["n4"], counts(0, 0, 0, 0))
    beyond = await picture(world, nodes=2, offset=99)
    assert (list(beyond.nodes), beyond.total, beyond.behind) == (
        [],
        counts(5, 1, 15, 14),
        counts(0, 0, 0, 0),
    )


async def test_those_without_a_place_come_with_the_first_page(world):
    await world.add_node("n1", kind="edge")
    await world.add_processor("pending", state="pending")
    await world.add_processor("new")
    await world.add_processor("ended", status="terminated")
    found = await picture(world)
    assert [(p.name, p.state, p.place) for p in found.processors] == [
        ("new", "unknown", None),
        ("pending", "pending", None),
    ]
    assert found.placed == {None: 2}
    assert list((await picture(world, offset=1)).processors) == []


async def test_moves_under_way_stand_first(world):
    ids = [
        await world.move(uuid4()),
        await world.move(uuid4(), outcome="done"),
        await world.move(uuid4(), outcome="cancelled"),
    ]
    found = await picture(world)
    assert [ids.index(move.id) for move in found.moves] == [0, 2, 1]
    cut = await picture(world, moves=2)
    assert ([ids.index(move.id) for move in cut.moves], cut.more_moves) == ([0, 2], True)


async def test_what_waits_for_an_operator(world):
    await world.hold(all=0)
    await world.engage("many_suspect", "3 of 4", population=4)
    await world.add_processor("a", state="held", reason="epoch_ahead")
    found = await picture(world)
    assert (found.guard_held_since, found.brake.engaged, found.frozen) == (MOMENT, True, 1)


async def test_the_mark_tells_of_changes(world):
    async def changed() -> bool:
        before, marks[0] = marks[0], await world.views.picture_mark()
        return bool(marks[0] != before)

    marks = [await world.views.picture_mark()]
    assert not await changed()
    key = await world.add_processor("a", key=UUID(int=1), state="running")
    assert await changed()
    await world.move(key)
    assert await changed()
    await world.tell("node_offline", "dead_silent")
    assert await changed()
    await world.add_node("n", kind="edge", organization_id=ORGANIZATION, health="suspect")
    assert await changed()
    assert not await changed()
