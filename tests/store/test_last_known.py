"""What is known of a processor whose row is gone: what it was when the leader saw it last."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.core.plan import Finding, Reason
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Lease, PodFinding
from dory_orchestrator.store.postgres import PostgresStore

ONE, TEMPLATE, ORGANIZATION = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(database_url, metrics=Metrics(), pool_size=2, timeout_seconds=patient(5))
    yield store
    await store.close()


@pytest.fixture
async def portal(database_url: str) -> AsyncIterator[Any]:
    """With one processor."""
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO processor_templates (id, slug) VALUES ($1, 'camera')", TEMPLATE
        )
        await connection.execute(
            "INSERT INTO processors (id, organization_id, name, processor_template_id)"
            " VALUES ($1, $2, 'berlin', $3)",
            *(ONE, ORGANIZATION, TEMPLATE),
        )
        yield connection


async def known(connection: Any) -> list[tuple[object, ...]]:
    rows = await connection.fetch(
        "SELECT name, organization_id, template, health_status FROM orchestrator.last_known"
    )
    return [tuple(row) for row in rows]


async def test_it_is_what_the_leader_and_the_poller_saw_last(store, portal):
    term = await store.hold_lease("leader", None, 60)
    lease = Lease("leader", term)
    await store.record_findings(lease, {ONE: Finding(Reason.STARTING, "")}, [])
    assert await known(portal) == [("berlin", ORGANIZATION, "camera", "unknown")]

    await portal.execute("UPDATE processors SET name = 'lagos'")
    await store.record_pod_health([PodFinding(ONE, True)])
    assert await known(portal) == [("lagos", ORGANIZATION, "camera", "healthy")]
    written = await portal.fetchval("SELECT xmin::text FROM orchestrator.last_known")
    await store.record_pod_health([PodFinding(ONE, True)])
    assert await portal.fetchval("SELECT xmin::text FROM orchestrator.last_known") == written

    # Gone: what it was stays, and its pod is asked on.
    await portal.execute("DELETE FROM processors")
    await store.record_findings(lease, {ONE: Finding(Reason.GUARD_HELD, "")}, [])
    await store.record_pod_health([PodFinding(ONE, True)])
    assert await known(portal) == [("lagos", ORGANIZATION, "camera", "healthy")]
    await store.record_pod_health([PodFinding(ONE, False)])
    assert await known(portal) == [("lagos", ORGANIZATION, "camera", "unhealthy")]


async def test_it_is_forgotten_with_what_is_told_of_it(store, portal):
    await store.record_pod_health([PodFinding(ONE, True)])
    await store.forget_events(3600)
    await portal.execute("DELETE FROM processors")
    await portal.execute(
        "INSERT INTO orchestrator.events (at, kind, reason, detail, processor_id)"
        " VALUES (now() - interval '2 hours', 'create', '', '', $1)",
        ONE,
    )
    await store.forget_events(3 * 3600)
    assert len(await known(portal)) == 1
    await store.forget_events(3600)
    assert await known(portal) == []
