"""What operators see and decide; run over PostgreSQL and over the double that other tests use."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.contract.fleet_worlds import MOMENT, FleetWorld, MemoryFleet, PostgresFleet
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.core.answering import QuestionKind
from dory_orchestrator.core.model import OrderKind
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    EdgeNodeAmbiguous,
    EventQuery,
    MoveQuery,
    MoveView,
    NobodyAnswers,
    NodeQuery,
    NotKnown,
    OperatorRefused,
    ProcessorQuery,
    ProcessorView,
)
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


async def names(world: FleetWorld, **query: object) -> list[str | None]:
    """Of all pages, in order."""
    wanted = ProcessorQuery(**query)  # type: ignore[arg-type]
    found: list[ProcessorView] = []
    while True:
        page = await world.views.list_processors(wanted)
        assert len(page.processors) <= wanted.limit
        found += page.processors
        if page.next is None:
            return [processor.name for processor in found]
        wanted = replace(wanted, after=page.next)


class TestProcessors:
    async def test_of_none_there_are_none(self, world):
        page = await world.views.list_processors(ProcessorQuery())
        assert (list(page.processors), page.next) == ([], None)

    async def test_all_of_one_is_told(self, world):
        key = await world.add_processor(
            "camera-1",
            template="camera",
            organization_id=ORGANIZATION,
            namespace="berlin",
            health_status="healthy",
            state="running",
            reason="running",
            node="edge-1",
            epoch=3,
            pod_epoch=3,
            minutes=5,
        )
        (found,) = (await world.views.list_processors(ProcessorQuery())).processors
        assert found == ProcessorView(
            id=key,
            name="camera-1",
            organization_id=ORGANIZATION,
            template="camera",
            version="1.0",
            node_type="edge",
            namespace="berlin",
            status="running",
            health_status="healthy",
            last_health_check_at=None,
            state="running",
            reason="running",
            detail="because",
            node_name="edge-1",
            pod_name="pod",
            pod_ip=None,
            pod_uid="uid",
            epoch=3,
            pod_epoch=3,
            restart_count=0,
            since=MOMENT + timedelta(minutes=5),
        )

    async def test_one_that_nobody_looked_at_is_unknown(self, world):
        await world.add_processor("new")
        (found,) = (await world.views.list_processors(ProcessorQuery())).processors
        assert (found.state, found.reason, found.since) == ("unknown", "not_looked_at", None)
        assert found.detail

    async def test_one_whose_row_is_gone_is_told_as_it_was_last(self, world):
        told = {"template": "camera", "organization_id": ORGANIZATION, "health_status": "healthy"}
        key = await world.add_processor(
            "gone", status=None, state="held", reason="guard_held", node="n1", **told
        )
        await world.tell("held", "guard_held", processor_id=key)
        await world.move(key)
        await world.hold(all=0)
        (found,) = (await world.views.list_processors(ProcessorQuery(prefix="gon"))).processors
        (held,) = (await world.views.guard_status()).processors
        for one in (found, held):
            assert {name: getattr(one, name) for name in told} == told
            assert (one.id, one.name) == (key, "gone")
        (event,) = (await world.views.list_events(EventQuery())).events
        (move,) = (await world.views.list_moves(MoveQuery())).moves
        assert (event.processor_name, move.processor_name) == ("gone", "gone")

    async def test_undesired_ones_are_told_as_long_as_something_is_left(self, world):
        await world.add_processor("ended", status="terminated")
        await world.add_processor("failed", status="failed")
        await world.add_processor("leaving", status="terminated", state="removing")
        await world.add_processor("gone", status=None, state="held", reason="guard_held")
        page = await world.views.list_processors(ProcessorQuery(sort="state"))
        assert [(p.state, p.status) for p in page.processors] == [
            ("held", None),
            ("removing", "terminated"),
        ]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"states": ("held",)}, ["b"]),
            ({"states": ("held", "unknown")}, ["b", "c"]),
            ({"node": "n1"}, ["a"]),
            ({"template": "camera"}, ["a"]),
            ({"organization_id": ORGANIZATION}, ["a"]),
            ({"namespace": "other"}, ["b"]),
            ({"health_status": "healthy"}, ["a"]),
            ({"prefix": "B"}, ["b"]),
            ({"prefix": "00000000-0000-0000-0000-00000000000C"}, ["c"]),
            ({"prefix": "%"}, []),
            ({"node": "n1", "states": ("held",)}, []),
        ],
    )
    async def test_filters(self, world, query, expected):
        await world.add_processor(
            "a",
            key=UUID(int=10),
            template="camera",
            state="running",
            node="n1",
            organization_id=ORGANIZATION,
            health_status="healthy",
        )
        await world.add_processor(
            "b", key=UUID(int=11), template="radar", state="held", namespace="other"
        )
        await world.add_processor("c", key=UUID(int=12))
        assert await names(world, **query) == expected

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            ("name", [None, "B", "a", "a", "ä"]),
            ("state", ["B", None, "a", "a", "ä"]),
            ("node", ["a", "ä", "a", None, "B"]),
            ("since", ["B", "a", None, "ä", "a"]),
        ],
    )
    async def test_order_over_all_pages(self, world, sort, expected, limit):
        await world.add_processor("a", key=UUID(int=1), state="running", node="n1", minutes=3)
        await world.add_processor("a", key=UUID(int=2))
        await world.add_processor("B", key=UUID(int=3), state="error", node="n2", minutes=4)
        await world.add_processor(None, key=UUID(int=4), state="running", node="n2", minutes=2)
        await world.add_processor("ä", key=UUID(int=5), state="waiting", minutes=1)
        assert await names(world, sort=sort, limit=limit) == expected

    async def test_pages_are_stable_under_inserts(self, world):
        for name in "bdf":
            await world.add_processor(name)
        page = await world.views.list_processors(ProcessorQuery(limit=2))
        for name in "ace":
            await world.add_processor(name)
        rest = await world.views.list_processors(ProcessorQuery(limit=9, after=page.next))
        assert [p.name for p in page.processors] == ["b", "d"]
        assert [p.name for p in rest.processors] == ["e", "f"]

    async def test_one_with_its_last_events(self, world):
        key, other = await world.add_processor("a", state="running"), uuid4()
        for number in range(5):
            await world.tell("create", f"r{number}", processor_id=key)
            await world.tell("create", "other", processor_id=other)
        processor, events = await world.views.get_processor(key, events_max=3)
        assert processor.name == "a"
        assert [event.reason for event in events] == ["r4", "r3", "r2"]
        assert {event.processor_name for event in events} == {"a"}

    async def test_an_unknown_one_is_none(self, world):
        ended = await world.add_processor("ended", status="terminated")
        assert await world.views.get_processor(ended, events_max=3) is None
        assert await world.views.get_processor(uuid4(), events_max=3) is None


class TestNodes:
    async def test_the_cluster_and_the_platform_are_joined_by_name(self, world):
        await world.add_node("both", kind="edge", organization_id=ORGANIZATION, utilisation=0.25)
        await world.add_node("cloud", kind="application", ready=False)
        await world.add_node("lost", organization_id=ORGANIZATION, cordon="decommissioned")
        await world.add_processor("a", state="running", node="both")
        await world.add_processor("b", state="held", node="both")
        await world.add_processor("c", state="running", node="both")
        page = await world.views.list_nodes(NodeQuery())
        both, cloud, lost = page.nodes
        assert page.next is None

        assert (both.kind, both.ready, both.status) == ("edge", True, "online")
        assert (both.organization_id, both.utilisation) == (ORGANIZATION, 0.25)
        assert dict(both.processors) == {"running": 2, "held": 1}
        assert {node.heartbeat_age_seconds for node in page.nodes} == {None}
        assert (cloud.kind, cloud.ready, cloud.edge_node_id) == ("application", False, None)
        assert (cloud.status, dict(cloud.processors), cloud.cordoned) == (None, {}, False)
        assert (lost.kind, lost.ready, lost.utilisation) == ("edge", None, None)
        assert (lost.cordoned, lost.cordon_cause) == (True, "decommissioned")

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({}, ["a", "b", "c"]),
            ({"sort": "kind"}, ["c", "a", "b"]),
            ({"sort": "utilisation"}, ["c", "a", "b"]),
            ({"kind": "application"}, ["c"]),
            ({"ready": True}, ["a"]),
            ({"ready": False}, ["b", "c"]),
            ({"status": "online"}, ["b"]),
            ({"organization_id": ORGANIZATION}, ["b"]),
            ({"prefix": "C"}, ["c"]),
        ],
    )
    @pytest.mark.parametrize("limit", [1, 2, 100])
    async def test_filters_and_order_over_all_pages(self, world, query, expected, limit):
        await world.add_node("a", kind="edge", utilisation=0.1)
        await world.add_node("b", organization_id=ORGANIZATION)
        await world.add_node("c", kind="application", ready=False, utilisation=0.9)
        wanted, found = NodeQuery(limit=limit, **query), []
        while True:
            page = await world.views.list_nodes(wanted)
            found += page.nodes
            if page.next is None:
                break
            wanted = replace(wanted, after=page.next)
        assert [node.name for node in found] == expected

    async def test_how_the_leader_judged_them(self, world):
        await world.add_node("cloud", kind="application", health="online")
        await world.add_node("new", organization_id=ORGANIZATION)
        await world.add_node("there", kind="edge", organization_id=ORGANIZATION, health="suspect")
        await world.add_node("twin", organization_id=ORGANIZATION, health="offline")
        await world.add_node("twin", organization_id=uuid4(), health="recovering")
        cloud, new, there, *twins = (await world.views.list_nodes(NodeQuery())).nodes
        assert (cloud.health, there.health) == ("online", "suspect")
        assert (there.health_reason, there.health_detail, there.health_since) == (
            "why",
            "because",
            MOMENT,
        )
        assert {(twin.organization_id == ORGANIZATION, twin.health) for twin in twins} == {
            (True, "offline"),
            (False, "recovering"),
        }
        assert (new.health, new.health_reason, new.health_detail, new.health_since) == (
            *(None, None, None, None),
        )

    async def test_a_name_in_two_organizations_is_two_nodes(self, world):
        await world.add_node("twin", organization_id=ORGANIZATION)
        await world.add_node("twin", organization_id=uuid4())
        first = await world.views.list_nodes(NodeQuery(limit=1))
        second = await world.views.list_nodes(NodeQuery(limit=1, after=first.next))
        assert second.next is None
        assert first.nodes[0].edge_node_id != second.nodes[0].edge_node_id


class TestEvents:
    async def test_newest_first_in_pages(self, world):
        ids = [await world.tell("create", "not_running") for _ in range(5)]
        page = await world.views.list_events(EventQuery(limit=2))
        assert [event.id for event in page.events] == ids[:2:-1]
        assert (page.more, page.follow_id) == (True, ids[-1])
        rest = await world.views.list_events(EventQuery(limit=9, before_id=ids[3]))
        assert [event.id for event in rest.events] == ids[2::-1]
        assert not rest.more

    async def test_following_sees_each_once_in_order(self, world):
        ids = [await world.tell("create", "not_running") for _ in range(5)]
        seen, after, more = [], ids[0], True
        while more:
            page = await world.views.list_events(EventQuery(limit=2, after_id=after))
            seen += [event.id for event in page.events]
            after, more = page.follow_id, page.more
        assert (seen, after) == (ids[1:], ids[-1])

    async def test_following_with_a_filter_does_not_look_twice(self, world):
        await world.tell("create", "not_running")
        newest = await world.tell("create", "not_running")
        page = await world.views.list_events(EventQuery(after_id=0, kind="delete"))
        assert (list(page.events), page.follow_id) == ([], newest)

    async def test_before_the_first(self, world):
        page = await world.views.list_events(EventQuery())
        assert (list(page.events), page.follow_id, page.more) == ([], 0, False)
        await world.tell("create", "not_running")
        page = await world.views.list_events(EventQuery(after_id=page.follow_id))
        assert len(page.events) == 1

    @pytest.mark.parametrize(
        "query",
        [
            {"kind": "delete"},
            {"reason": "changed"},
            {"node": "n2"},
            {"processor_id": UUID(int=2)},
            {"since": MOMENT + timedelta(hours=1)},
            {"until": MOMENT + timedelta(hours=3), "kind": "delete"},
        ],
    )
    @pytest.mark.parametrize("direction", [{}, {"after_id": 0}])
    async def test_filters(self, world, query, direction):
        await world.tell(
            "create", "not_running", node_name="n1", processor_id=UUID(int=1), at=MOMENT
        )
        wanted = await world.tell(
            "delete",
            "changed",
            node_name="n2",
            processor_id=UUID(int=2),
            pod_name="p",
            pod_uid="u",
            epoch=2,
            term=7,
            at=MOMENT + timedelta(hours=2),
        )
        (event,) = (await world.views.list_events(EventQuery(**query, **direction))).events
        assert event.id == wanted
        assert (event.pod_name, event.pod_uid, event.epoch, event.term) == ("p", "u", 2, 7)
        assert event.processor_name is None

    async def test_until_excludes_its_own_moment(self, world):
        early = await world.tell("create", "not_running", at=MOMENT)
        await world.tell("create", "not_running", at=MOMENT + timedelta(hours=2))
        query = EventQuery(after_id=0, until=MOMENT + timedelta(hours=2))
        assert [e.id for e in (await world.views.list_events(query)).events] == [early]

    async def test_up_to_an_id(self, world):
        ids = [await world.tell("create", "not_running") for _ in range(5)]
        query = EventQuery(limit=2, after_id=ids[0], until_id=ids[3])
        page = await world.views.list_events(query)
        assert [e.id for e in page.events] == ids[1:3]
        assert (page.follow_id, page.more) == (ids[2], True)
        page = await world.views.list_events(replace(query, after_id=page.follow_id))
        assert [e.id for e in page.events] == ids[3:4]
        assert (page.follow_id, page.more) == (ids[3], False)

    async def test_the_newest_that_is_settled(self, world):
        assert await world.views.settled_event() == 0
        newest = await world.tell("create", "not_running")
        assert await world.views.settled_event() == newest

    async def test_where_events_of_a_time_are(self, world):
        ids = [
            await world.tell("create", "not_running", at=MOMENT + timedelta(hours=hour))
            for hour in range(0, 10, 2)
        ]
        assert await world.views.event_bounds(None, None) == (0, None)
        bounds = await world.views.event_bounds(
            MOMENT + timedelta(hours=4), MOMENT + timedelta(hours=6)
        )
        # An hour more on either side, as ids and moments may cross.
        assert bounds == (ids[1], ids[4])
        assert await world.views.event_bounds(MOMENT, MOMENT + timedelta(hours=9)) == (0, None)


class TestGuard:
    async def test_nothing_waits(self, world):
        status = await world.views.guard_status()
        assert not status.held
        assert (status.processors_count, status.frozen_count, status.strangers_count) == (0, 0, 0)
        with pytest.raises(OperatorRefused, match="nothing is held"):
            await world.views.confirm_guard("eva", None)
        with pytest.raises(OperatorRefused, match="nothing is frozen"):
            await world.views.adopt(None, "eva")
        assert await world.woken() == 0

    async def test_what_is_held_is_told(self, world):
        await world.hold(all=2, camera=0)
        for number in range(103):
            await world.add_processor(f"p{number}", state="held", reason="guard_held", node="n1")
        await world.add_processor("frozen", state="held", reason="epoch_ahead", pod_epoch=9)
        await world.add_processor("foreign", state="held", reason="foreign_fleet")
        status = await world.views.guard_status()
        assert (status.held, status.held_since) == (True, MOMENT)
        assert dict(status.groups) == {"all": 2, "camera": 0}
        assert (status.processors_count, len(status.processors)) == (103, 100)
        assert {held.node_name for held in status.processors} == {"n1"}
        (frozen,) = status.frozen
        assert (frozen.name, frozen.pod_epoch, status.frozen_count) == ("frozen", 9, 1)
        assert frozen.health_status == "unknown"
        (stranger,) = status.strangers
        assert (stranger.detail, status.strangers_count) == ("because", 1)

    async def test_confirming_accepts_the_counts_as_they_were_seen(self, world):
        await world.hold(all=2)
        with pytest.raises(OperatorRefused, match="changed"):
            await world.views.confirm_guard("eva", {"all": 3})
        assert (await world.views.guard_status()).confirmed_at is None

        status = await world.views.confirm_guard("eva", {"all": 2})
        assert dict(status.confirmed) == {"all": 2}
        assert status.confirmed_by == "eva"
        assert status.confirmed_at is not None
        (event,) = (await world.views.list_events(EventQuery())).events
        assert (event.kind, event.reason) == ("guard", "confirmed")
        assert "eva" in event.detail

    async def test_confirming_keeps_what_was_confirmed_a_moment_ago(self, world):
        await world.hold(all=2, camera=1)
        await world.views.confirm_guard("eva", None)
        await world.hold(all=1, radar=0)
        status = await world.views.confirm_guard("eva", None)
        assert dict(status.confirmed) == {"all": 1, "camera": 1, "radar": 0}

    async def test_adopting_takes_the_epoch_of_the_pod(self, world):
        ahead = {"state": "held", "reason": "epoch_ahead", "pod_epoch": 9, "node": "n1"}
        known = await world.add_processor("known", epoch=4, **ahead)
        unknown = await world.add_processor("unknown", **ahead)
        running = await world.add_processor("running", state="running", epoch=1, pod_epoch=1)
        with pytest.raises(OperatorRefused, match=str(running)):
            await world.views.adopt([known, running], "eva")

        assert list(await world.views.adopt([known], "eva")) == [known]
        processor, (event,) = await world.views.get_processor(known, events_max=9)
        assert processor.epoch == 9
        assert (event.kind, event.reason) == ("guard", "adopted")
        assert set(await world.views.adopt(None, "eva")) == {known, unknown}
        processor, _ = await world.views.get_processor(unknown, events_max=9)
        assert processor.epoch == 9

    async def test_a_document_that_is_ahead_waits_for_an_operator_too(self, world):
        ahead = {"state": "held", "reason": "document_ahead", "pod_epoch": 4, "epoch": 4}
        key = await world.add_processor("frozen", **ahead)
        gone = await world.add_processor("gone", state="held", reason="document_ahead")
        status = await world.views.guard_status()
        assert ({row.id for row in status.frozen}, status.frozen_count) == ({key, gone}, 2)
        assert set(await world.views.adopt(None, "eva")) == {key, gone}
        processor, (event,) = await world.views.get_processor(key, events_max=9)
        assert processor.epoch == 4, "its pod's epoch was in order"
        assert (event.kind, event.reason) == ("guard", "adopted")


class TestBrake:
    async def test_it_is_off(self, world):
        status = await world.views.brake_status()
        assert (status.engaged, status.engaged_at, status.reason) == (False, None, None)
        assert (status.population_count, status.nodes_count, list(status.nodes)) == (0, 0, [])
        assert (status.override_until, status.override_by, status.override_reason) == (
            *(None, None, None),
        )
        assert not (await world.views.summary()).brake_engaged

    async def test_it_holds(self, world):
        await world.engage("many_suspect", "3 of 4", population=4)
        for number in range(103):
            state = "offline" if number % 2 else "suspect"
            await world.add_node(f"n{number:03}", organization_id=ORGANIZATION, health=state)
        await world.add_node("well", organization_id=ORGANIZATION, health="recovering")
        await world.add_node("cloud", kind="application", health="offline")
        status = await world.views.brake_status()
        assert (status.engaged, status.engaged_at) == (True, MOMENT)
        assert (status.reason, status.detail) == ("many_suspect", "3 of 4")
        assert (status.population_count, status.nodes_count) == (4, 103)
        assert [node.name for node in status.nodes] == [f"n{number:03}" for number in range(100)]
        first, second, *_ = status.nodes
        assert (first.state, second.state) == ("suspect", "offline")
        assert (first.reason, first.detail, first.since) == ("why", "because", MOMENT)
        nodes = (await world.views.list_nodes(NodeQuery(prefix="n000"))).nodes
        assert [node.edge_node_id for node in nodes] == [first.id]
        assert (await world.views.summary()).brake_engaged

    async def test_an_override_lasts_its_time(self, world):
        await world.engage("many_suspect", "3 of 4", population=4)
        began_at = datetime.now(UTC)
        status = await world.views.override_brake(90, "I looked: they are gone", "eva")
        assert (status.engaged, status.engaged_at) == (False, MOMENT)
        assert (status.override_by, status.override_reason) == ("eva", "I looked: they are gone")
        left_seconds = (status.override_until - began_at).total_seconds()
        assert 89 < left_seconds < 95
        assert await world.views.brake_status() == status
        assert not (await world.views.summary()).brake_engaged
        (event,) = (await world.views.list_events(EventQuery())).events
        assert (event.kind, event.reason) == ("brake", "overridden")
        until = f"{status.override_until:%Y-%m-%dT%H:%M:%SZ}"
        assert event.detail == f"eva overrode the brake until {until}: I looked: they are gone"

        await world.let_the_override_end()
        status = await world.views.brake_status()
        assert (status.engaged, status.override_until) == (True, None)
        assert (status.override_by, status.override_reason) == (None, None)
        assert (await world.views.summary()).brake_engaged

    async def test_a_later_override_counts(self, world):
        first = await world.views.override_brake(600, "first", "eva")
        second = await world.views.override_brake(60, "second", "otto")
        assert second.override_until < first.override_until
        assert (second.override_by, second.override_reason) == ("otto", "second")

    async def test_one_that_is_not_engaged_can_be_overridden(self, world):
        status = await world.views.override_brake(60, "works on the network", "eva")
        assert (status.engaged, status.engaged_at) == (False, None)
        assert status.override_until is not None

    async def test_clearing(self, world):
        await world.engage("many_suspect", "3 of 4", population=4)
        await world.views.override_brake(60, "why", "eva")
        status = await world.views.clear_brake_override("otto")
        assert (status.engaged, status.override_until) == (True, None)
        event, _ = (await world.views.list_events(EventQuery())).events
        assert (event.kind, event.reason) == ("brake", "override_cleared")
        assert event.detail == "otto ended the override of the brake"

    async def test_what_is_not_overridden_cannot_be_cleared(self, world):
        with pytest.raises(OperatorRefused, match="not overridden"):
            await world.views.clear_brake_override("eva")
        await world.views.override_brake(60, "why", "eva")
        await world.let_the_override_end()
        with pytest.raises(OperatorRefused, match="not overridden"):
            await world.views.clear_brake_override("eva")
        assert len((await world.views.list_events(EventQuery())).events) == 1


class TestMoves:
    async def test_of_none_there_are_none(self, world):
        page = await world.views.list_moves(MoveQuery())
        assert (list(page.moves), page.more) == ([], False)
        assert (await world.views.summary()).moves_open == 0

    async def test_all_of_one_is_told(self, world):
        key = await world.add_processor("camera-1", state="running")
        number = await world.move(key, from_node="edge-1", to_node="cloud", outcome="done")
        (found,) = (await world.views.list_moves(MoveQuery())).moves
        assert found == MoveView(
            id=number,
            processor_id=key,
            processor_name="camera-1",
            kind="failover",
            detail="because",
            from_node="edge-1",
            to_node="cloud",
            edge_node_id=UUID(int=5),
            old_uid="uid",
            epoch=2,
            began_at=MOMENT,
            last_alive_at=MOMENT - timedelta(seconds=20),
            state_at=MOMENT - timedelta(seconds=25),
            ended_at=MOMENT + timedelta(seconds=9),
            outcome="done",
            rto_seconds=29.5,
            rpo_seconds=5.0,
            suspect_at=MOMENT - timedelta(seconds=10),
        )

    async def test_one_under_way_of_a_processor_that_is_gone(self, world):
        await world.move(uuid4())
        (found,) = (await world.views.list_moves(MoveQuery())).moves
        assert (found.processor_name, found.to_node) == (None, None)
        assert (found.ended_at, found.outcome, found.rto_seconds, found.rpo_seconds) == (
            *(None, None, None, None),
        )
        assert (await world.views.summary()).moves_open == 1

    async def test_newest_first_in_pages(self, world):
        ids = [await world.move(uuid4()) for _ in range(5)]
        page = await world.views.list_moves(MoveQuery(limit=2))
        assert ([move.id for move in page.moves], page.more) == (ids[:2:-1], True)
        rest = await world.views.list_moves(MoveQuery(limit=3, before_id=ids[3]))
        assert ([move.id for move in rest.moves], rest.more) == (ids[2::-1], False)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"processor_id": UUID(int=1)}, [2, 0]),
            ({"node": "edge-1"}, [2, 0]),
            ({"node": "cloud"}, [2, 1]),
            ({"kind": "failback"}, [2]),
            ({"under_way": True}, [2]),
            ({"under_way": False}, [1, 0]),
            ({"outcome": "done"}, [1]),
            ({"outcome": "done", "node": "edge-1"}, []),
        ],
    )
    async def test_filters(self, world, query, expected):
        one, other = UUID(int=1), UUID(int=2)
        ids = [
            await world.move(one, from_node="edge-1", outcome="superseded"),
            await world.move(other, from_node="edge-2", to_node="cloud", outcome="done"),
            await world.move(one, kind="failback", from_node="cloud", to_node="edge-1"),
        ]
        page = await world.views.list_moves(MoveQuery(**query))
        assert [ids.index(move.id) for move in page.moves] == expected


class TestCordon:
    async def find(self, world: Any, name: str = "edge-1") -> Any:
        (found,) = (await world.views.list_nodes(NodeQuery(prefix=name))).nodes
        return found

    async def test_it_and_its_end(self, world):
        await world.add_node("edge-1", kind="edge", organization_id=ORGANIZATION)
        assert await world.views.cordon("edge-1", None, "a new disk", "eva")
        found = await self.find(world)
        assert (found.cordoned, found.cordon_cause) == (True, "a new disk")
        assert not await world.views.cordon("edge-1", ORGANIZATION, "another reason", "otto")
        assert (await self.find(world)).cordon_cause == "a new disk"

        assert await world.views.uncordon("edge-1", None, "otto")
        found = await self.find(world)
        assert (found.cordoned, found.cordon_cause) == (False, None)
        assert not await world.views.uncordon("edge-1", None, "otto")
        events = (await world.views.list_events(EventQuery(kind="cordon"))).events
        assert [(event.reason, event.detail, event.node_name) for event in events] == [
            ("uncordoned", "by otto", "edge-1"),
            ("cordoned", "by eva: a new disk", "edge-1"),
        ]

    async def test_one_that_was_decommissioned_and_registered_anew(self, world):
        await world.add_node("edge-1", organization_id=ORGANIZATION, cordon="decommissioned")
        assert await world.views.uncordon("edge-1", None, "eva")
        assert not (await self.find(world)).cordoned

    async def test_only_edge_nodes_that_are_known(self, world):
        await world.add_node("cloud-1", kind="application")
        for name in ("cloud-1", "nowhere"):
            for work in (
                world.views.cordon(name, None, "why", "eva"),
                world.views.uncordon(name, None, "eva"),
            ):
                with pytest.raises(OperatorRefused, match=f"no edge node {name}"):
                    await work
        assert (await world.views.list_events(EventQuery())).events == []

    async def test_of_two_with_one_name_the_organization_tells_which(self, world):
        other = uuid4()
        await world.add_node("edge-1", organization_id=ORGANIZATION)
        await world.add_node("edge-1", organization_id=other)
        with pytest.raises(EdgeNodeAmbiguous, match="2 organizations have a node edge-1") as told:
            await world.views.cordon("edge-1", None, "why", "eva")
        candidates = told.value.candidates
        assert [one.organization_id for one in candidates] == sorted([ORGANIZATION, other])
        assert all(str(one.id) in str(told.value) for one in candidates)
        assert await world.views.cordon("edge-1", other, "why", "eva")
        nodes = (await world.views.list_nodes(NodeQuery())).nodes
        assert {node.organization_id for node in nodes if node.cordoned} == {other}


class TestPause:
    async def test_it_and_its_end(self, world):
        assert not (await world.views.pause_status()).paused
        begun = await world.views.pause(60, "the network is rebuilt", "eva")
        assert (begun.paused, begun.by, begun.reason) == (True, "eva", "the network is rebuilt")
        assert 50 < (begun.until - datetime.now(UTC)).total_seconds() < 70
        summary = await world.views.summary()
        assert (summary.pause_until, summary.pause_by) == (begun.until, "eva")
        ended = await world.views.resume("otto")
        assert (ended.paused, ended.until, ended.by, ended.began_at) == (False, None, None, None)
        assert (await world.views.summary()).pause_until is None
        events = (await world.views.list_events(EventQuery(kind="pause"))).events
        assert [event.reason for event in events] == ["resumed", "paused"]
        assert events[1].detail.endswith("the network is rebuilt")

    async def test_one_that_is_over_is_none(self, world):
        await world.views.pause(60, "why", "eva")
        await world.end_pause()
        assert not (await world.views.pause_status()).paused
        with pytest.raises(OperatorRefused, match="nothing is paused"):
            await world.views.resume("eva")


class TestOrders:
    async def at_home(self, world: Any) -> UUID:
        await world.add_node("edge-1", kind="edge", organization_id=ORGANIZATION, health="online")
        await world.add_node("cloud-1", kind="application")
        key: UUID = await world.add_processor("a", state="running", node="edge-1")
        return key

    async def test_away_and_home(self, world):
        key = await self.at_home(world)
        await world.link(key, "edge-1")
        said = await world.views.order(key, OrderKind.FAILOVER, "clean", "eva")
        assert said.startswith("it leaves edge-1")
        assert await world.orders() == {key: ("failover", "eva", "clean")}
        said = await world.views.order(key, OrderKind.FAILBACK, "done", "eva")
        assert "after all" in said
        assert await world.orders() == {}
        events = (await world.views.list_events(EventQuery(processor_id=key))).events
        assert [(event.kind, event.reason) for event in events] == [
            ("order", "failback"),
            ("order", "failover"),
        ]

    async def test_who_is_away_goes_home_or_stays_away(self, world):
        key = await self.at_home(world)
        await world.send_away(key, "edge-1")
        said = await world.views.order(key, OrderKind.FAILOVER, "stay", "eva")
        assert said.startswith("it stays away from edge-1")
        with pytest.raises(OperatorRefused, match="away from edge-1 already"):
            await world.views.order(key, OrderKind.FAILOVER, "stay", "eva")
        said = await world.views.order(key, OrderKind.FAILBACK, "home", "eva")
        assert said.startswith("it goes home to edge-1")
        assert await world.orders() == {key: ("failback", "eva", "home")}

    async def test_refusals(self, world):
        key = await self.at_home(world)
        with pytest.raises(OperatorRefused, match="no edge node yet"):
            await world.views.order(key, OrderKind.FAILOVER, "x", "eva")
        await world.link(key, "edge-1")
        with pytest.raises(OperatorRefused, match="at home on edge-1"):
            await world.views.order(key, OrderKind.FAILBACK, "x", "eva")
        await world.move(key)
        with pytest.raises(OperatorRefused, match="on its way already"):
            await world.views.order(key, OrderKind.FAILOVER, "x", "eva")
        await world.engage("many_suspect", "6 of 8", population=8)
        with pytest.raises(OperatorRefused, match="brake holds"):
            await world.views.order(key, OrderKind.FAILOVER, "x", "eva")
        await world.views.pause(60, "x", "eva")
        with pytest.raises(OperatorRefused, match="everything is paused"):
            await world.views.order(key, OrderKind.FAILOVER, "x", "eva")
        with pytest.raises(NotKnown, match="no processor"):
            await world.views.order(uuid4(), OrderKind.FAILOVER, "x", "eva")
        assert await world.orders() == {}

    async def test_a_home_that_is_not_well(self, world):
        await world.add_node("edge-1", kind="edge", organization_id=ORGANIZATION, health="offline")
        key = await world.add_processor("a", state="running")
        await world.send_away(key, "edge-1")
        with pytest.raises(OperatorRefused, match=r"not well \(offline\)"):
            await world.views.order(key, OrderKind.FAILBACK, "x", "eva")
        await world.views.cordon("edge-1", None, "x", "eva")
        with pytest.raises(OperatorRefused, match="is cordoned"):
            await world.views.order(key, OrderKind.FAILBACK, "x", "eva")

    async def test_what_failed_is_tried_again(self, world):
        key = await world.add_processor("a", state="waiting", reason="back_off")
        await world.fail(key, 3, due_in_seconds=300)
        said = await world.views.retry(key, "mended", "eva")
        assert said.startswith("it failed 3 times in a row")
        well = await world.add_processor("b", state="running")
        with pytest.raises(OperatorRefused, match="nothing of it waits"):
            await world.views.retry(well, "x", "eva")
        with pytest.raises(NotKnown):
            await world.views.retry(uuid4(), "x", "eva")
        await world.views.pause(60, "x", "eva")
        with pytest.raises(OperatorRefused, match="paused"):
            await world.views.retry(key, "x", "eva")


class TestDrills:
    async def ready(self, world: Any) -> UUID:
        await world.add_node("edge-1", kind="edge", organization_id=ORGANIZATION, health="online")
        await world.add_node("cloud-1", kind="application")
        key: UUID = await world.add_processor("a", state="running", node="edge-1")
        await world.link(key, "edge-1")
        return key

    async def start(self, world: Any) -> Any:
        return await world.views.start_drill("edge-1", None, 300.0, "monthly", "eva")

    async def test_one_and_its_end(self, world):
        await self.ready(world)
        begun = await self.start(world)
        assert (begun.node_name, begun.phase, begun.by, begun.outcome) == (
            "edge-1",
            "running",
            "eva",
            None,
        )
        assert 290 < (begun.until - begun.began_at).total_seconds() < 310
        summary = await world.views.summary()
        assert (summary.drill_node, summary.drill_phase) == ("edge-1", "running")
        with pytest.raises(OperatorRefused, match="one node at a time"):
            await self.start(world)
        stopped = await world.views.stop_drill("otto")
        assert (stopped.phase, stopped.outcome) == ("returning", "aborted")
        assert stopped.left_at is not None
        assert "otto stopped it" in stopped.detail
        (listed,) = await world.views.list_drills(5)
        assert listed == stopped
        ended = await world.views.stop_drill("otto")
        assert (ended.phase, ended.outcome) == ("ended", "aborted")
        with pytest.raises(OperatorRefused, match="no drill runs"):
            await world.views.stop_drill("otto")
        events = (await world.views.list_events(EventQuery(kind="drill"))).events
        assert [event.reason for event in events] == ["aborted", "aborted", "started"]

    async def test_what_forbids_one(self, world):
        key = await self.ready(world)
        with pytest.raises(OperatorRefused, match="no edge node nowhere"):
            await world.views.start_drill("nowhere", None, 300.0, "x", "eva")
        await world.move(key)
        with pytest.raises(OperatorRefused, match="1 moves are under way"):
            await self.start(world)
        await world.views.pause(60, "x", "eva")
        with pytest.raises(OperatorRefused, match="everything is paused"):
            await self.start(world)
        assert await world.views.list_drills(5) == []


class TestQuestions:
    async def test_an_answer(self, world):
        leader = await world.lead({"b": 1, "a": [None, "\u00e9"]})
        found = await world.views.ask(QuestionKind.PLAN, {}, timeout_seconds=patient(5))
        assert dict(found) == {"b": 1, "a": [None, "\u00e9"]}
        await leader

    async def test_what_is_not_known(self, world):
        leader = await world.lead({"unknown": "node: no node x is judged"})
        with pytest.raises(NotKnown, match="no node x"):
            await world.views.ask(QuestionKind.NODE, {"name": "x"}, timeout_seconds=patient(5))
        await leader

    async def test_nobody_leads(self, world):
        with pytest.raises(NobodyAnswers, match="no leader answered"):
            await world.views.ask(QuestionKind.PLAN, {}, timeout_seconds=0.2)


async def test_decisions_wake_the_leader(world):
    await world.hold(all=0)
    await world.add_processor("a", state="held", reason="epoch_ahead", pod_epoch=2)
    if isinstance(world, PostgresFleet):
        await world.listen()
    await world.views.confirm_guard("eva", None)
    assert await world.woken() == 1
    await world.views.adopt(None, "eva")
    assert await world.woken() == 2
    await world.views.override_brake(60, "why", "eva")
    assert await world.woken() == 3
    await world.views.clear_brake_override("eva")
    assert await world.woken() == 4
    await world.add_node("edge-1", organization_id=ORGANIZATION)
    woken = await world.woken()
    await world.views.cordon("edge-1", None, "why", "eva")
    assert await world.woken() == woken + 1
    await world.views.uncordon("edge-1", None, "eva")
    assert await world.woken() == woken + 2
    await world.views.pause(60, "why", "eva")
    assert await world.woken() == woken + 3
    await world.views.resume("eva")
    assert await world.woken() == woken + 4
    with pytest.raises(NobodyAnswers):
        await world.views.ask(QuestionKind.PLAN, {}, timeout_seconds=0.01)
    assert await world.woken() == woken + 5


async def test_summary(world):
    summary = await world.views.summary()
    assert (summary.desired, summary.ready, dict(summary.states)) == (0, 0, {})
    assert (summary.leader, summary.lease_seconds, summary.guard_held) == (None, None, False)

    await world.add_processor("a", state="running")
    await world.add_processor("b", state="error")
    await world.add_processor("c")
    await world.add_processor("d", status="terminated", state="removing")
    await world.add_node("n1", kind="edge")
    await world.add_node("n2", kind="edge", ready=False)
    await world.hold(all=0)
    summary = await world.views.summary()
    assert (summary.desired, summary.ready) == (3, 1)
    assert dict(summary.states) == {"running": 1, "error": 1, "unknown": 1, "removing": 1}
    assert (summary.nodes, summary.nodes_ready, summary.guard_held) == (2, 1, True)
