"""What only PostgreSQL can show of the views: foreign tables, late commits, time, numbers."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.contract.fleet_worlds import PostgresFleet
from tests.contract.worlds import connected
from tests.patience import patient
from tests.store.test_takeover import PORTAL_TABLES

from dory_orchestrator.core.answering import QuestionKind
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    EventQuery,
    Lease,
    MoveQuery,
    NobodyAnswers,
    NodeQuery,
    ProcessorQuery,
    StoreBusy,
    StoreTimeout,
    StoreUnavailable,
)
from dory_orchestrator.store.fleet import end_lease
from dory_orchestrator.store.migrate import upgrade
from dory_orchestrator.store.postgres import PostgresStore
from dory_orchestrator.store.views import PostgresViews

TWIN = UUID("00000000-0000-0000-0000-00000000000b")


def make_views(
    url: str, seconds: float = patient(5), metrics: Metrics | None = None
) -> PostgresViews:
    return PostgresViews(url, metrics=metrics or Metrics(), timeout_seconds=seconds)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[PostgresFleet]:
    views = make_views(database_url)
    async with connected(database_url) as connection:
        yield PostgresFleet(views, connection)
    await views.close()


class TestOnTheTablesOfAPortal:
    """Enums, domains, no keys, duplicates: every statement works all the same."""

    @pytest.fixture
    async def views(self, empty_database_url: str) -> AsyncIterator[PostgresViews]:
        async with connected(empty_database_url) as connection:
            await connection.execute(PORTAL_TABLES)
            await connection.execute(
                "INSERT INTO processors (secret_of_the_portal) VALUES ('without an id')"
            )
        await asyncio.to_thread(upgrade, empty_database_url)
        views = make_views(empty_database_url)
        yield views
        await views.close()

    async def test_a_doubled_row_is_shown_once(self, views):
        page = await views.list_processors(ProcessorQuery())
        assert [p.id for p in page.processors] == [TWIN]
        assert (page.processors[0].status, page.processors[0].health_status) == (
            "paused",
            "unknown",
        )
        assert (await views.get_processor(TWIN, events_max=1)) is not None
        assert (await views.summary()).desired == 1

    async def test_doubled_nodes_are_two(self, views):
        page = await views.list_nodes(NodeQuery(status="lost"))
        assert [node.name for node in page.nodes] == ["twin", "twin"]

    async def test_the_rest_answers(self, views):
        await views.list_events(EventQuery(processor_id=TWIN))
        await views.list_moves(MoveQuery(processor_id=TWIN))
        assert not (await views.guard_status()).held
        assert not (await views.brake_status()).engaged


async def test_several_active_versions_are_named(world):
    await world.add_processor("a", template="camera")
    await world.connection.execute("UPDATE processor_template_versions SET is_active = true")
    (found,) = (await world.views.list_processors(ProcessorQuery())).processors
    assert found.version == "0.9, 1.0"


async def test_the_age_of_a_heartbeat_is_by_the_database(world):
    await world.add_node("edge", organization_id=uuid4())
    await world.connection.execute(
        "UPDATE edge_nodes SET last_heartbeat_at = now() - interval '90 seconds'"
    )
    (node,) = (await world.views.list_nodes(NodeQuery())).nodes
    assert 90 <= node.heartbeat_age_seconds < 100


async def test_strangers_of_the_last_day_are_told_once(world):
    for _ in range(2):
        await world.tell("stranger", "foreign_fleet", pod_name="p", pod_uid="u")
    await world.tell("stranger", "foreign_fleet", pod_name="q", pod_uid="v")
    await world.connection.execute(
        "UPDATE orchestrator.events SET at = now() - interval '2 days' WHERE pod_uid = 'v'"
    )
    status = await world.views.guard_status()
    assert [stranger.pod_name for stranger in status.strangers] == ["p"]


async def test_the_summary_tells_of_the_lease(world):
    await world.connection.execute(
        "UPDATE orchestrator.leader SET holder = 'me', term = 4,"
        " expires_at = now() + interval '10 seconds'"
    )
    summary = await world.views.summary()
    assert (summary.leader, summary.term) == ("me", 4)
    assert 5 < summary.lease_seconds <= 10
    assert summary.fleet_id is not None


async def test_the_summary_is_current_once_its_leader_has_looked(world):
    leading = "UPDATE orchestrator.leader SET term = $1, expires_at = now() + $2::interval"
    lasts, ended = timedelta(seconds=10), timedelta(seconds=-1)
    assert not (await world.views.summary()).current
    await world.connection.execute(leading, 4, lasts)
    assert not (await world.views.summary()).current
    await world.connection.execute("UPDATE orchestrator.fleet SET shown_term = 4")
    assert (await world.views.summary()).current
    await world.connection.execute(leading, 4, ended)
    assert not (await world.views.summary()).current
    await world.connection.execute(leading, 5, lasts)
    assert not (await world.views.summary()).current
    await world.connection.execute("DELETE FROM orchestrator.fleet")
    assert not (await world.views.summary()).current


async def test_what_a_holder_that_is_gone_saw_is_not_current(world, database_url):
    """Its lease has not run out yet: it was killed a moment ago."""
    await world.connection.execute(
        "UPDATE orchestrator.leader SET holder = 'me', term = 4, expires_at = now() + interval '9 s'"
    )
    await world.connection.execute("UPDATE orchestrator.fleet SET shown_term = 4")
    await end_lease(database_url, "another")
    assert (await world.views.summary()).current
    await end_lease(database_url, "me")
    summary = await world.views.summary()
    assert (summary.current, summary.leader, summary.term) == (False, None, 4)


async def test_who_is_adopted_away_from_home_is_away_and_who_is_adopted_at_home_is_at_home(world):
    """The database was restored: it has forgotten that one moved, and that another came back."""
    ahead = {"state": "held", "reason": "epoch_ahead", "pod_epoch": 9, "epoch": 4}
    home = await world.connection.fetchval(
        "INSERT INTO edge_nodes (organization_id, name) VALUES (gen_random_uuid(), 'edge-1')"
        " RETURNING id"
    )
    moved, stayed, returned = [
        await world.add_processor(node, node=node, **ahead)
        for node in ("cloud-1", "edge-1", "edge-1")
    ]
    await world.connection.executemany(
        "INSERT INTO edge_node_apps (edge_node_id, processor_id, status) VALUES ($1, $2, $3)",
        [(home, moved, "active"), (home, stayed, "active"), (home, returned, "failed_over")],
    )
    await world.connection.execute(
        "UPDATE orchestrator.ownership SET left_edge_node_id = $1 WHERE processor_id = $2",
        home,
        returned,
    )
    await world.views.adopt(None, "eva")
    links = await world.connection.fetch("SELECT processor_id, status FROM edge_node_apps")
    assert {row[0]: row[1] for row in links} == {
        moved: "failed_over",
        stayed: "active",
        returned: "active",
    }
    left = await world.connection.fetch(
        "SELECT processor_id, left_edge_node_id FROM orchestrator.ownership"
    )
    assert {row[0]: row[1] for row in left} == {moved: home, stayed: None, returned: None}


async def test_an_adopted_pod_is_not_set_back_to_what_a_restored_database_has(world, database_url):
    store = PostgresStore(database_url, metrics=Metrics(), pool_size=2, timeout_seconds=patient(5))
    ahead = {"state": "held", "reason": "epoch_ahead", "pod_epoch": 9, "epoch": 4}
    known, unknown = [await world.add_processor(None, node="n", **ahead) for _ in range(2)]
    await world.connection.execute(
        "INSERT INTO orchestrator.checkpoints (processor_id, epoch, incarnation, pod_uid, pod_name,"
        " captured_at, sha256, size_bytes, body) VALUES ($1, 4, 7, 'old', 'old', 1, 'x', 1, 'x')",
        known,
    )
    await world.views.adopt(None, "eva")
    term = await store.hold_lease("me", None, 60)
    assert term is not None
    for key, number in ((known, 8), (unknown, 1)):
        owner = await world.connection.fetchrow(
            "SELECT pod_uid, pod_name FROM orchestrator.ownership WHERE processor_id = $1", key
        )
        said = {"pod_uid": owner["pod_uid"], "pod_name": owner["pod_name"]}
        for ready_at, is_same in ((1000.0, True), (1000.5, True), (1020.0, False)):
            begun = await store.begin_incarnation(
                Lease("me", term), key, 9, restart_count=0, ready_at=ready_at, **said
            )
            assert begun is not None
            assert begun.incarnation.given is is_same
            assert begun.incarnation.number == number + (not is_same)
    await store.close()


class TestLateCommits:
    """Two writers draw numbers and commit in the other order."""

    async def test_a_follower_misses_nothing(self, world, database_url):
        async with connected(database_url) as late:
            transaction = late.transaction()
            await transaction.start()
            first = await PostgresFleet(world.views, late).tell("create", "late")
            second = await world.tell("create", "early")
            following = asyncio.create_task(world.views.list_events(EventQuery(after_id=0)))
            await asyncio.sleep(0.05)
            assert not following.done()
            await transaction.commit()
            page = await following
        assert [event.id for event in page.events] == [first, second]
        assert page.follow_id == second

    async def test_who_takes_too_long_is_not_waited_for_and_not_missed(self, world, database_url):
        async with connected(database_url) as late, late.transaction():
            await PostgresFleet(world.views, late).tell("create", "late")
            second = await world.tell("create", "early")
            shown = await world.views.list_events(EventQuery())
            followed = await world.views.list_events(EventQuery(after_id=0))
            assert [event.id for event in shown.events] == [second]
            assert shown.follow_id < second
            assert (list(followed.events), followed.follow_id) == ([], 0)
        again = await world.views.list_events(EventQuery(after_id=shown.follow_id))
        assert second in [event.id for event in again.events]

    async def test_under_many_writers_each_is_seen_once_and_in_order(self, world, database_url):
        async def write(delay: float) -> list[int]:
            written = []
            async with connected(database_url) as connection:
                for _ in range(30):
                    async with connection.transaction():
                        fleet = PostgresFleet(world.views, connection)
                        written.append(await fleet.tell("create", "x"))
                        await asyncio.sleep(delay)
            return written

        writing = asyncio.gather(*(write(delay) for delay in (0, 0.002, 0.005, 0.01)))
        seen: list[int] = []
        after, settled = 0, False
        while True:
            ended = writing.done()
            page = await world.views.list_events(EventQuery(after_id=after, limit=7))
            seen += [event.id for event in page.events]
            settled = settled or (bool(page.events) and not ended)
            after = page.follow_id
            if ended and not page.more:
                break
        assert seen == sorted(chain.from_iterable(await writing))
        assert settled, "nothing was seen while it was written"


class TestTime:
    async def test_a_table_that_somebody_locks_is_no_empty_list(self, world, database_url):
        views = make_views(database_url, 0.3)
        async with connected(database_url) as portal, portal.transaction():
            await portal.execute(
                "LOCK TABLE processors, orchestrator.events, edge_nodes, orchestrator.brake"
            )
            for call in (
                views.list_processors(ProcessorQuery()),
                views.list_nodes(NodeQuery()),
                views.list_events(EventQuery()),
                views.get_processor(TWIN, events_max=1),
                views.list_moves(MoveQuery()),
                views.brake_status(),
                views.summary(),
            ):
                with pytest.raises(StoreTimeout, match=r"no answer within 0\.3 s"):
                    await call
        await views.close()
        assert list((await world.views.list_processors(ProcessorQuery())).processors) == []

    async def test_no_database_is_no_empty_list(self):
        views = make_views("postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(StoreUnavailable):
            await views.list_nodes(NodeQuery())
        await views.close()

    async def test_a_guard_that_is_held_by_another_is_busy(self, world, database_url):
        await world.hold(all=0)
        async with connected(database_url) as other, other.transaction():
            await other.execute("SELECT FROM orchestrator.guard FOR UPDATE")
            with pytest.raises(StoreBusy):
                await world.views.confirm_guard("eva", None)

    async def test_a_brake_that_is_held_by_another_is_busy_and_not_overridden(
        self, world, database_url
    ):
        async with connected(database_url) as other, other.transaction():
            await other.execute("SELECT FROM orchestrator.brake FOR UPDATE")
            with pytest.raises(StoreBusy):
                await world.views.override_brake(60, "why", "eva")
        assert (await world.views.brake_status()).override_until is None
        assert list((await world.views.list_events(EventQuery())).events) == []

    async def test_slow_pages_do_not_open_the_breaker(self, world, database_url):
        metrics = Metrics()
        views = make_views(database_url, 0.1, metrics)
        async with connected(database_url) as portal, portal.transaction():
            await portal.execute("LOCK TABLE processors")
            for _ in range(8):
                with pytest.raises(StoreTimeout):
                    await views.summary()
        state = metrics.registry.get_sample_value(
            "dory_circuit_breaker_state", {"component": "database"}
        )
        assert state == 0
        await views.close()

    async def test_few_may_wait(self, world, database_url):
        views = make_views(database_url, 1.0)
        async with connected(database_url) as portal, portal.transaction():
            await portal.execute("LOCK TABLE processors")
            answers = await asyncio.gather(
                *(views.summary() for _ in range(40)), return_exceptions=True
            )
        kinds = [type(answer) for answer in answers]
        assert (kinds.count(StoreBusy), kinds.count(StoreTimeout)) == (8, 32)
        await views.close()


@pytest.mark.parametrize("sort", ["name", "state", "node", "since"])
async def test_ten_thousand_processors(world, sort):
    """A page of them costs what reading them costs: `make bench` measures its time."""
    await _fill(world.connection, 1_000)
    few = await _page_seconds(world, sort)
    await world.connection.execute(
        "TRUNCATE processors, processor_templates, processor_template_versions,"
        " orchestrator.processor_states, orchestrator.ownership CASCADE"
    )
    await _fill(world.connection, 10_000)
    many = await _page_seconds(world, sort)
    # Ten times as much, if each is looked at once; a hundred times, if each is held against each.
    # Between the two.
    assert many < 30 * few, (few, many)


async def _page_seconds(world: PostgresFleet, sort: str) -> float:
    page = await world.views.list_processors(ProcessorQuery(sort=sort, limit=100))
    durations = []
    for _ in range(5):
        began = time.perf_counter()
        page = await world.views.list_processors(
            ProcessorQuery(sort=sort, limit=100, after=page.next)
        )
        durations.append(time.perf_counter() - began)
        assert len(page.processors) == 100
    return min(durations)


async def _fill(connection: Any, count: int) -> None:
    await connection.execute(
        """
        WITH template AS (
            INSERT INTO processor_templates (slug)
            SELECT 't' || n FROM generate_series(1, 20) n RETURNING id, slug
        ),
        version AS (
            INSERT INTO processor_template_versions
                (processor_template_id, version, image_uri, is_active)
            SELECT id, '1', 'image', true FROM template
        )
        INSERT INTO processors (name, processor_template_id, node_type)
        SELECT 'processor ' || n, (SELECT id FROM template WHERE slug = 't' || (1 + n % 20)), 'edge'
        FROM generate_series(1, """
        + str(count)
        + """) n
        """
    )
    await connection.execute(
        "INSERT INTO orchestrator.processor_states (processor_id, state, reason, detail,"
        " node_name, epoch, since) SELECT id, 'running', 'running', 'all is well',"
        " 'node ' || (random() * 100)::int, 1, now() - random() * interval '1 day'"
        " FROM processors"
    )
    await connection.execute(
        "INSERT INTO orchestrator.ownership (processor_id, epoch) SELECT id, 1 FROM processors"
    )
    await connection.execute("ANALYZE processors, orchestrator.processor_states")


async def test_only_so_many_wait_for_the_leader(world):
    def plan(seconds: float) -> asyncio.Task[Any]:
        return asyncio.create_task(world.views.ask(QuestionKind.PLAN, {}, timeout_seconds=seconds))

    waiting = [plan(patient(5)) for _ in range(8)]
    async with asyncio.timeout(patient(5)):
        while await world.connection.fetchval("SELECT count(*) FROM orchestrator.questions") < len(
            waiting
        ):
            await asyncio.sleep(0.02)
    with pytest.raises(StoreBusy, match="too many questions"):
        await world.views.ask(QuestionKind.PLAN, {}, timeout_seconds=patient(5))
    # Whoever goes away leaves its place to the next.
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(NobodyAnswers):
        await plan(0.2)
