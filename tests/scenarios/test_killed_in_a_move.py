"""The orchestrator is killed at each step of a move, on a real PostgreSQL: the next one goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
from tests.contract.worlds import connected
from tests.patience import patient
from tests.scenarios.ground import PER_SECOND, Ground
from tests.scenarios.mortal import Crossing, Killer, Mortal

from dory_orchestrator.app.control import Control
from dory_orchestrator.fleet_file import load
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Beat
from dory_orchestrator.settings import Settings
from dory_orchestrator.store.fleet import apply_fleet
from dory_orchestrator.store.postgres import PostgresStore

pytestmark = pytest.mark.timeout(300)

SETTINGS = Settings().model_copy(
    update={
        "heartbeat_stale": 0.6,
        "node_failure_grace": 0.3,
        "failback_stable": 0.5,
        "health_poll_interval": 0.2,
        "checkpoint_interval": 0.25,
        "poll_interval": 0.2,
    }
)
FLEET = """
organization: example
nodes:
  - {name: edge-1, kind: edge}
  - {name: cloud-1, kind: application}
processors:
  - {name: one, command: [none], node: edge-1}
"""
STORE_CALLS = (
    *("grant", "record_pods", "record_nodes", "record_findings", "record_events"),
    *("record_health", "begin_incarnation", "note_start", "mark_given", "save_checkpoints"),
    "save_document",
)
CLUSTER_CALLS = ("create_pod", "delete_pod", "seed_state")
WORLDLY = (*CLUSTER_CALLS, "grant", "save_document")
AT_ONCE = 6
AWAY_SECONDS = 1.5
"""Several intervals: what is given then to who went on by itself costs it more than it may lose."""
TRIES_MAX = 5
"""Until a call comes that came in both runs without a kill."""
LATE_SECONDS = 0.6
"""How much later than an interval after the last a checkpoint may be asked for: other tests run
beside this one, on the same cores."""
COUNTED_MIN = 1_500
"""More than may be lost, so that a lost state is seen."""
NUMBERS_MAX = {"save_checkpoints": 2, "record_events": 2, "record_findings": 3, "record_health": 3}
"""Of calls that go on as long as the world turns, only the first are tried."""


class World:
    """A database, machines, and orchestrators one after another."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ground = Ground()
        self.processor_id = UUID(int=0)
        self._service = self._open()
        self._tasks: list[asyncio.Task[Any]] = []
        self._stores = [self._service]

    def _open(self) -> PostgresStore:
        return PostgresStore(self.url, metrics=Metrics(), pool_size=3, timeout_seconds=patient(5))

    async def __aenter__(self) -> "World":
        self.connection: asyncpg.Connection[Any] = await asyncpg.connect(self.url)
        self._tasks.append(asyncio.create_task(self._beat()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for store in self._stores:
            await store.close()
        await self.connection.close()

    async def _beat(self) -> None:
        while True:
            beats = [
                Beat(life.pod.processor_id, life.pod.node_name, True)
                for life in self.ground.lives
                if life.end_count is None
                and life.pod.processor_id is not None
                and life.pod.node_name is not None
            ]
            await self._service.record_heartbeats(beats, canary=True, timeout_seconds=patient(5))
            await asyncio.sleep(0.1)

    def start(self, killer: Killer) -> "asyncio.Task[None]":
        """An orchestrator, as the supervisor starts it again and again: the same holder."""
        store = self._open()
        self._stores.append(store)
        control = Control(
            SETTINGS,
            store=cast(PostgresStore, Mortal(store, killer, *STORE_CALLS)),
            cluster=Mortal(self.ground.cluster, killer, *CLUSTER_CALLS),
            pods=Mortal(self.ground.pods, killer, "put_state"),
            holder="me",
            metrics=Metrics(),
        )
        task = asyncio.create_task(control.run())
        self._tasks.append(task)
        return task

    async def moves(self) -> list[asyncpg.Record]:
        """Open ones, and those that were done. One of which nothing but the grant was done before
        the kill is superseded by the next."""
        return await self.connection.fetch(
            "SELECT kind, outcome, rpo_seconds FROM orchestrator.moves"
            " WHERE outcome IS DISTINCT FROM 'superseded' ORDER BY id"
        )

    async def lives_on(self, node: str, kinds: list[str]) -> bool:
        """Whether it runs there, and these moves and no others have ended."""
        alive = self.ground.alive(self.processor_id)
        if [life.pod.node_name for life in alive] != [node]:
            return False
        return [(m["kind"], m["outcome"]) for m in await self.moves()] == [
            (kind, "done") for kind in kinds
        ]

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Also fails when an orchestrator ended by itself."""
        try:
            async with asyncio.timeout(patient(30)):
                while not await condition():
                    for task in self._tasks:
                        if task.done() and not task.cancelled():
                            task.result()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            told = [tuple(row) for row in await self.moves()]
            events = await self.connection.fetch(
                "SELECT kind, reason, detail FROM orchestrator.events ORDER BY id DESC LIMIT 12"
            )
            said = "\n".join(str(tuple(row)) for row in events)
            raise AssertionError(f"{what}: {told}, {self.ground.lives}\n{said}") from None


@asynccontextmanager
async def world_at(url: str, folder: Path, fleet_text: str = FLEET) -> AsyncIterator[World]:
    file = folder / "fleet.yaml"
    file.write_text(fleet_text)
    fleet = load(file, UUID(int=7))
    async with connected(url) as connection, World(url) as world:
        await apply_fleet(url, fleet)
        for node in fleet.nodes:
            world.ground.cluster.add_node(node)
        world.processor_id = await connection.fetchval("SELECT id FROM processors LIMIT 1")
        yield world


async def go_and_return(url: str, folder: Path, killer: Killer) -> None:
    """A node dies and comes back; whoever is killed is followed by another."""
    async with world_at(url, folder) as world:
        working = world.start(killer)

        async def follow() -> None:
            await killer.struck.wait()
            working.cancel()
            await asyncio.wait([working])
            # What runs goes on by itself meanwhile, and what begins begins with what lies there.
            await asyncio.sleep(AWAY_SECONDS)
            world.start(Killer())

        following = asyncio.create_task(follow())
        await world.until(lambda: world.lives_on("edge-1", []), "it does not start")
        await world.until(lambda: has_checkpoint(world, COUNTED_MIN), "no checkpoint")
        killer.armed = True
        world.ground.crash_node("edge-1")
        await world.until(lambda: world.lives_on("cloud-1", ["failover"]), "no failover")
        world.ground.cluster.restore_node("edge-1")
        await world.until(lambda: world.lives_on("edge-1", ["failover", "failback"]), "no failback")
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        check(world, [row["rpo_seconds"] for row in await world.moves()])


async def has_checkpoint(world: World, least: int) -> bool:
    text = await world.connection.fetchval("SELECT count(*) FROM orchestrator.checkpoints")
    alive = world.ground.alive(world.processor_id)
    return bool(text) and bool(alive) and alive[0].program.count >= least


def check(world: World, rpo_seconds: list[float | None]) -> None:
    """One owner of each epoch, no state lost but what was stated, nothing in a planned move.

    That two programs never run beside each other is seen when they start.
    """
    assert [life.program.set_back for life in world.ground.lives] == [[], [], []]
    edge, cloud, home = world.ground.lives
    epochs = [life.pod.epoch for life in (edge, cloud, home)]
    assert epochs == sorted(set(epochs))  # type: ignore[type-var]
    assert edge.crashed
    assert edge.end_count is not None
    assert cloud.end_count is not None
    failover_rpo, failback_rpo = rpo_seconds
    assert failover_rpo is not None
    assert edge.end_count - cloud.program.base <= (failover_rpo + LATE_SECONDS) * PER_SECOND
    assert failback_rpo == 0
    assert home.program.base >= cloud.end_count - PER_SECOND / 50


def worth_trying(crossed: Iterable[Crossing]) -> list[Crossing]:
    """Before a call is after the one before it, but for those that change the world."""
    return [
        each
        for each in crossed
        if each.number <= NUMBERS_MAX.get(each.name, 99)
        and (each.side == "after" or each.name in WORLDLY)
    ]


async def test_whoever_is_killed_at_any_step_is_followed_by_one_who_ends_the_move(
    new_database_url, tmp_path
):
    unharmed = Killer(), Killer()
    for killer in unharmed:
        await go_and_return(new_database_url(), tmp_path, killer)
    # Two runs are never quite alike: the last of several calls may not come.
    always = set(unharmed[1].crossed)
    crossings = [each for each in worth_trying(unharmed[0].crossed) if each in always]
    # Each begins with what was laid out for it, so nothing is put into any.
    assert {crossing.name for crossing in crossings} == {*STORE_CALLS, *CLUSTER_CALLS}
    places, missed = asyncio.Semaphore(AT_ONCE), []

    async def try_at(crossing: Crossing) -> None:
        async with places:
            folder = tmp_path / str(crossing)
            folder.mkdir()
            for _ in range(TRIES_MAX):
                killer = Killer(crossing)
                try:
                    await go_and_return(new_database_url(), folder, killer)
                except Exception as error:
                    error.add_note(f"killed {crossing}")
                    raise
                if killer.struck.is_set():
                    return
            missed.append(crossing)

    async with asyncio.TaskGroup() as group:
        for crossing in crossings:
            group.create_task(try_at(crossing))
    assert not missed
