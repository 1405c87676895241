"""The store of each contract test, over PostgreSQL and over the double."""

from collections.abc import AsyncIterator

import pytest
from tests.contract.worlds import MemoryWorld, PostgresWorld, World, connected
from tests.patience import patient

from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Lease
from dory_orchestrator.store.postgres import PostgresStore


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    url = request.getfixturevalue("database_url")
    store = PostgresStore(url, metrics=Metrics(), pool_size=3, timeout_seconds=patient(5))
    async with connected(url) as connection:
        yield PostgresWorld(store, connection)
    await store.close()


@pytest.fixture
async def lease(world: World) -> Lease:
    """The lease of somebody who leads for the whole test."""
    term = await world.store.hold_lease("leader", None, 60)
    assert term is not None
    return Lease("leader", term)
