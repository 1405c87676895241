"""What only PostgreSQL can show of checkpoints."""

import asyncio
from uuid import UUID

import pytest
from tests.contract.test_checkpoints import Life, place
from tests.contract.worlds import PostgresWorld, create
from tests.store.test_control import lead, world

from dory_orchestrator.core.checkpoint import sha256_of
from dory_orchestrator.store.postgres import PostgresStore

__all__ = ["world"]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"x": NaN, "y": -Infinity}',
        b'{"x": "\\u0000", "y": "\\ud800"}',
        b"\x00\xff any bytes",
        b"{}",
        b'{"x": "' + b"a" * 999_990 + b'"}',
    ],
    ids=["nan", "nul", "bytes", "empty", "large"],
)
async def test_every_byte_comes_back(world: PostgresWorld, payload: bytes):
    lease = await lead(world)
    life = await place(world, lease)
    await life.begin()
    assert await life.save(0, payload=payload, sha256=sha256_of(payload))
    assert (await life.newest()).payload == payload
    row = await world.connection.fetchrow(
        "SELECT size_bytes, octet_length(body), pg_column_compression(body) IS NULL"
        " FROM orchestrator.checkpoints"
    )
    assert row is not None
    assert row[0] == len(payload)
    assert row[1] < len(payload) + 100
    assert row[2], "compressed once is enough"


async def test_a_grant_waits_for_a_checkpoint_that_is_being_stored(world: PostgresWorld):
    """So that whoever reads the newest after the grant sees everything that was accepted."""
    lease = await lead(world)
    life = await place(world, lease)
    await life.begin()
    async with world.connection.transaction():
        await world.connection.execute("LOCK TABLE orchestrator.checkpoints")
        saving = asyncio.create_task(life.save(5))
        await asyncio.sleep(0.2)
        granting = asyncio.create_task(world.store.grant(lease, [create(life.key, 2)]))
        await asyncio.sleep(0.2)
        assert not saving.done()
        assert not granting.done()
    assert await saving
    assert await granting == [True]
    assert (await life.newest()).payload == b'{"count": 5}'


async def test_many_at_once(world: PostgresWorld):
    lease = await lead(world)
    lives: list[Life] = [await place(world, lease) for _ in range(50)]
    for life in lives:
        await life.begin()
    for count in range(3):
        batch = [life.checkpoint(count) for life in lives]
        assert all(await life.store.save_checkpoints(lease, batch))
    ages = await lives[0].store.checkpoint_ages()
    assert len(ages) == 50
    assert all(isinstance(key, UUID) for key in ages)


async def test_what_is_stored_of_processors_that_are_gone_goes_in_the_end(world: PostgresWorld):
    assert isinstance(world.store, PostgresStore)
    lease = await lead(world)
    gone, ended, kept = [await place(world, lease) for _ in range(3)]
    for life in (gone, ended, kept):
        await life.begin()
        await life.save(5)
    await world.remove(gone.key)
    await world.end(ended.key, "terminated")
    await world.store.forget_checkpoints(60)
    assert await gone.newest() is not None
    await world.connection.execute(
        "UPDATE orchestrator.checkpoints SET confirmed_at = now() - interval '61 seconds'"
    )
    await world.store.forget_checkpoints(60)
    left = [life for life in (gone, ended, kept) if await life.newest() is not None]
    assert left == [ended, kept]
    known = await world.connection.fetch("SELECT processor_id FROM orchestrator.incarnations")
    assert {row[0] for row in known} == {ended.key, kept.key}
