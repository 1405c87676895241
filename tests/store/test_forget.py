"""What is old is deleted in steps, by indexes."""

from collections.abc import AsyncIterator

import pytest
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.metrics import Metrics
from dory_orchestrator.store.postgres import PostgresStore
from dory_orchestrator.store.queries import QUERIES


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(database_url, metrics=Metrics(), pool_size=2, timeout_seconds=patient(5))
    yield store
    await store.close()


async def test_events_and_moves_are_forgotten_in_steps(database_url, store, monkeypatch):
    monkeypatch.setattr("dory_orchestrator.store.control._FORGET_STEP", 10)
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO orchestrator.events (at, kind, reason, detail)"
            " SELECT now() - make_interval(hours => n), 'create', '', ''"
            " FROM generate_series(1, 25) n"
        )
        await connection.execute(
            "INSERT INTO orchestrator.moves"
            " (processor_id, kind, detail, from_node, epoch, began_at, ended_at)"
            " SELECT gen_random_uuid(), 'failover', '', 'n1', 1, now() - interval '9 days',"
            "     CASE WHEN n < 15 THEN now() - make_interval(hours => n) END"
            " FROM generate_series(1, 15) n"
        )
        left = []
        more = True
        while more:
            more = await store.forget_events(2.5 * 3600)
            left.append(
                [
                    await connection.fetchval(f"SELECT count(*) FROM orchestrator.{table}")
                    for table in ("events", "moves")
                ]
            )
        # The oldest first; a move that has not ended stays, however old it is.
        assert left == [[15, 5], [5, 3], [2, 3]]
        assert await connection.fetchval(
            "SELECT min(at) > now() - interval '150 minutes' FROM orchestrator.events"
        )


async def test_to_forget_uses_indexes(database_url):
    """However many there are, and none of them old."""
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO orchestrator.events (at, kind, reason, detail)"
            " SELECT now() - make_interval(secs => n), 'create', '', ''"
            " FROM generate_series(1, 20000) n"
        )
        await connection.execute(
            "INSERT INTO orchestrator.moves"
            " (processor_id, kind, detail, from_node, epoch, ended_at)"
            " SELECT gen_random_uuid(), 'failover', '', 'n1', 1, now()"
            " FROM generate_series(1, 20000) n"
        )
        await connection.execute("ANALYZE orchestrator.events, orchestrator.moves")
        for query, index in (
            ("forget_events", "events_at_idx"),
            ("forget_moves", "moves_ended_at_idx"),
        ):
            plan = await connection.fetch(f"EXPLAIN {QUERIES[query]}", 86_400.0, 1_000)
            text = "\n".join(row[0] for row in plan)
            assert index in text
            assert "Seq Scan" not in text
