"""What a plan asks for, a store that has not changed since grants: whatever came before."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cluster_double import MemoryCluster
from tests.contract.worlds import MemoryWorld, PostgresWorld, World, connected
from tests.core.world import ORGANIZATION, V1, a_node, an_edge_node
from tests.patience import patient

from dory_orchestrator.core.model import (
    Limits,
    MoveRetry,
    Observation,
    OrderKind,
    Pod,
    Resources,
    Snapshot,
)
from dory_orchestrator.core.plan import CancelMove, Create, Delete
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.loops.judged import Judged
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import EdgeNodeRegistration, Lease, kind_of
from dory_orchestrator.store.postgres import PostgresStore

EDGES = ("edge-1", "edge-2", "edge-3")
PROCESSORS = 4
ROOM = Resources(1_000_000, 2**40)
NOW_OR_NEVER = (0.0, 1e6)
_FRESH = """
    TRUNCATE edge_node_apps, processors, processor_templates, processor_template_versions,
        edge_nodes, orchestrator.ownership, orchestrator.moves, orchestrator.move_retries,
        orchestrator.orders, orchestrator.cordons, orchestrator.node_health, orchestrator.events;
    UPDATE orchestrator.brake SET engaged_at = NULL, reason = NULL, population = '{}'
"""


class Play:
    """A fleet whose cluster is in memory, over one of the stores."""

    def __init__(self, world: World, lease: Lease) -> None:
        self.world, self.lease = world, lease
        self.judged = Judged(world.store, Metrics())
        nodes = [a_node("cloud-1", allocatable=ROOM)]
        nodes += [an_edge_node(name, allocatable=ROOM) for name in EDGES]
        self.cluster = MemoryCluster(nodes, ready_at_once=True)
        self.cluster.finish_deletions = False
        self.keys: list[UUID] = []
        self.homes: dict[str, UUID] = {}
        self.limits = Limits(
            node_failure_grace_seconds=0.0, failback_stable_seconds=0.0, brake_nodes_min=3
        )
        self.has_state = True

    async def begin(self) -> None:
        for name in EDGES:
            given = EdgeNodeRegistration(name=name, organization_id=ORGANIZATION)
            self.homes[name] = (await self.world.store.register_edge_node(given)).id
        for number in range(PROCESSORS):
            key = await self.world.desire()
            if isinstance(self.world, MemoryWorld):
                config = self.world.memory.configs[key]
                self.world.memory.configs[key] = replace(config, versions=(V1,))
            await self.world.link(key, self.homes[EDGES[number % 2]])
            self.keys.append(key)

    # What happens

    async def cycle(self, _: int) -> None:
        desired = await self.world.store.read_desired()
        pods = dict(self.cluster.pods)
        restored = frozenset(uid for uid, pod in pods.items() if pod.ready and self.has_state)
        snapshot = Snapshot(
            desired=desired,
            observed=Observation(dict(self.cluster.nodes), pods),
            restored=restored,
        )
        plan = compute(snapshot, self.limits)
        await self.judged.write(self.lease, plan, desired)
        await self.world.store.record_pods(self.lease, plan.records)
        granted = await self.world.store.grant(self.lease, plan.actions)
        told = [(kind_of(one), one.reason, one.detail) for one in plan.actions]
        refused = [pair for pair in zip(told, granted.refusals, strict=True) if pair[1]]
        assert not refused
        for action in plan.actions:
            await self.act(action)

    async def act(self, action: object) -> None:
        if isinstance(action, Create):
            pod = await self.cluster.create_pod(action.spec)
            # Where the scheduler of a cluster would place it.
            place = action.choice.node_name or action.spec.node_name
            if pod.node_name is None and place is not None:
                self.cluster.pods[pod.uid] = replace(pod, node_name=place)
                self.cluster.set_ready(pod.name)
        elif isinstance(action, Delete) and action.pod.uid in self.cluster.pods:
            if not action.captures or self.has_state:
                await self.cluster.delete_pod(action.pod, force=action.force)
            elif action.move is not None or not action.told:
                error = "its state could not be captured"
                await self.world.store.record_move_error(self.lease, action.processor_id, error)
        elif isinstance(action, CancelMove):
            assert action.retry is None or isinstance(action.retry, MoveRetry)

    async def pods_end(self, _: int) -> None:
        for pod in [pod for pod in self.cluster.pods.values() if pod.terminating]:
            if pod.node_name is None or self.cluster.nodes[pod.node_name].ready:
                self.cluster.finish_deletion(pod)

    async def node_down(self, number: int) -> None:
        name = ("cloud-1", *EDGES)[number % 4]
        self.cluster.lose_node(name)
        node = self.cluster.nodes[name]
        self.cluster.nodes[name] = replace(node, ready_changed_at=time.time() - 1000)

    async def node_up(self, number: int) -> None:
        name = ("cloud-1", *EDGES)[number % 4]
        self.cluster.restore_node(name)
        node = self.cluster.nodes[name]
        self.cluster.nodes[name] = replace(node, ready_changed_at=time.time() - 1000)

    async def registered(self, number: int) -> None:
        """With failover or without, also one that was decommissioned."""
        given = frozenset({"failover_enabled"})
        await self.world.store.register_edge_node(
            EdgeNodeRegistration(
                name=EDGES[number % 3],
                organization_id=ORGANIZATION,
                failover_enabled=number % 2 == 0,
                given=given,
            )
        )

    async def decommissioned(self, number: int) -> None:
        await self.world.store.decommission_edge_node(EDGES[number % 3], ORGANIZATION)

    async def ordered(self, number: int) -> None:
        key = self.keys[number % PROCESSORS]
        if key not in (await self.world.store.read_desired()).orders:
            kind = OrderKind.FAILOVER if number % 2 else OrderKind.FAILBACK
            await self.world.order(key, kind)

    async def withdrawn(self, number: int) -> None:
        key = self.keys[number % PROCESSORS]
        if key in (await self.world.store.read_desired()).orders:
            await self.world.withdraw(key)

    async def pod_fails(self, number: int) -> None:
        pods = self._pods()
        if pods:
            self.cluster.crash(pods[number % len(pods)], crash_loop=number % 2 == 0)

    async def pod_vanishes(self, number: int) -> None:
        pods = self._pods()
        if pods:
            self.cluster.remove(pods[number % len(pods)])

    async def state_cannot_be_taken(self, number: int) -> None:
        self.has_state = number % 2 == 0

    async def time_passes(self, number: int) -> None:
        """Moves are late from now on, or never."""
        seconds = NOW_OR_NEVER[number % 2]
        self.limits = replace(
            self.limits, planned_move_seconds=seconds, rollout_ready_seconds=seconds
        )

    def _pods(self) -> list[Pod]:
        return sorted(self.cluster.pods.values(), key=lambda pod: pod.name)


Happening = Callable[[Play, int], Awaitable[None]]
HAPPENS: Sequence[Happening] = (
    *(Play.cycle,) * 8,
    *(Play.pods_end,) * 3,
    Play.node_down,
    Play.node_down,
    Play.node_up,
    Play.node_up,
    Play.registered,
    Play.decommissioned,
    Play.ordered,
    Play.withdrawn,
    Play.pod_fails,
    Play.pod_vanishes,
    Play.state_cannot_be_taken,
    Play.time_passes,
)
SCRIPTS = st.lists(st.tuples(st.sampled_from(HAPPENS), st.integers(0, 11)), min_size=5, max_size=40)
DEAD_AND_DECOMMISSIONED = [
    (Play.cycle, 0),
    (Play.registered, 3),
    (Play.node_down, 1),
    (Play.cycle, 0),
    (Play.decommissioned, 0),
    (Play.cycle, 0),
    (Play.cycle, 0),
]
DISABLED_ON_THE_WAY_HOME = [
    (Play.cycle, 0),
    (Play.node_down, 1),
    (Play.cycle, 0),
    (Play.cycle, 0),
    (Play.node_up, 1),
    (Play.cycle, 0),
    (Play.cycle, 0),
    (Play.registered, 3),
    (Play.node_down, 1),
    (Play.pods_end, 0),
    (Play.cycle, 0),
]


def run(work: Coroutine[Any, Any, Play]) -> Play:
    """On a loop of its own: an example is no test, and the tests' loop is left alone."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


async def played(world: World, script: Sequence[tuple[Happening, int]]) -> Play:
    term = await world.store.hold_lease("leader", None, 3600)
    assert term is not None
    play = Play(world, Lease("leader", term))
    await play.begin()
    for happens, number in script:
        await happens(play, number)
    await play.cycle(0)
    return play


async def in_postgres(url: str, script: Sequence[tuple[Happening, int]]) -> Play:
    store = PostgresStore(url, metrics=Metrics(), pool_size=2, timeout_seconds=patient(5))
    try:
        async with connected(url) as connection:
            await connection.execute(_FRESH)
            return await played(PostgresWorld(store, connection), script)
    finally:
        await store.close()


@settings(deadline=None, max_examples=150)
@given(SCRIPTS)
def test_the_double_grants_every_plan(script):
    run(played(MemoryWorld(), script))


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=SCRIPTS)
def test_postgresql_grants_every_plan(database_url, script):
    run(in_postgres(database_url, script))


@pytest.mark.parametrize("script", [DEAD_AND_DECOMMISSIONED, DISABLED_ON_THE_WAY_HOME])
@pytest.mark.parametrize("where", ["memory", "postgres"])
def test_what_was_refused_for_ever_once(request, where, script):
    if where == "memory":
        play = run(played(MemoryWorld(), script))
    else:
        url = request.getfixturevalue("database_url")
        play = run(in_postgres(url, script))
    # Whatever lived on edge-1 is in the cloud.
    places = {pod.processor_id: pod.node_name for pod in play.cluster.pods.values()}
    assert places[play.keys[0]] == places[play.keys[2]] == "cloud-1"
