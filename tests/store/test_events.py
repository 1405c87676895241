"""What only PostgreSQL can show of reading many events: late commits, indexes, time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.contract.fleet_worlds import PostgresFleet
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.api.following import Follower, history, settled
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import EventQuery, StoreBusy
from dory_orchestrator.store.queries import load
from dory_orchestrator.store.views import PostgresViews

TELL = "INSERT INTO orchestrator.events (kind, reason, detail) VALUES ('create', 'x', '')"


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[PostgresFleet]:
    views = PostgresViews(database_url, metrics=Metrics(), timeout_seconds=patient(5))
    async with connected(database_url) as connection:
        yield PostgresFleet(views, connection)
    await views.close()


async def test_nothing_is_settled_while_somebody_may_bring_a_lower_one(world, database_url):
    first = await world.tell("create", "x")
    async with connected(database_url) as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(TELL)
        newest = await world.tell("create", "x")
        assert await world.views.settled_event() is None
        with pytest.raises(StoreBusy):
            await settled(world.views)
        await transaction.commit()
    assert newest == first + 2
    assert await world.views.settled_event() == newest


async def test_who_follows_misses_none_that_is_committed_late(world, database_url):
    viewer = await Follower(world.views).join(EventQuery())
    async with connected(database_url) as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(TELL)
        await world.tell("create", "x")
        assert list(await viewer.take(10, wait_seconds=1.5)) == []
        await transaction.commit()
    found: list[int] = []
    async with asyncio.timeout(patient(5)):
        while len(found) < 2:
            found += [key for key, _ in await viewer.take(10, wait_seconds=5)]
    assert found == [viewer.position + 1, viewer.position + 2]


async def test_many_events_are_read_by_indexes_and_in_time(world):
    await world.connection.execute(
        "INSERT INTO orchestrator.events (at, kind, reason, detail, node_name)"
        " SELECT now() - make_interval(secs => 200000 - n),"
        "     CASE WHEN n % 50000 = 0 THEN 'rare' ELSE 'create' END, '', '', 'n'"
        " FROM generate_series(1, 200000) n"
    )
    await world.connection.execute("ANALYZE orchestrator.events")
    since = datetime.now(UTC) - timedelta(seconds=100_000)
    bounds = await world.views.event_bounds(since, since + timedelta(seconds=100))
    assert 96_000 < bounds.after_id < 97_000
    assert bounds.until_id is not None
    assert 103_000 < bounds.until_id < 104_500
    statement = load("views.sql")["event_bounds"]
    plan = await world.connection.fetch(f"EXPLAIN {statement}", since, since)
    text = "\n".join(row[0] for row in plan)
    assert text.count("events_at_idx") == 2
    assert "Seq Scan" not in text

    # The rarest are found in steps that look at few events each.
    query, found, steps = EventQuery(limit=1_000, after_id=0, kind="rare"), [], 0
    async for page in history(world.views, query, 200_000, asyncio.Lock()):
        steps += 1
        found += [event.id for event in page]
    assert found == [50_000, 100_000, 150_000, 200_000]
    assert steps >= 10

    everything = replace(query, kind=None, after_id=190_000)
    pages = [len(page) async for page in history(world.views, everything, 200_000, asyncio.Lock())]
    assert pages == [1_000] * 10
