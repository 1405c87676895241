"""What every Store does for the edge; run over PostgreSQL and over the double that other tests use."""

import asyncio
from uuid import uuid4

import pytest
from tests.contract.worlds import World
from tests.patience import patient

from dory_orchestrator.ports import (
    Beat,
    EdgeNodeAmbiguous,
    EdgeNodeNotFound,
    EdgeNodeRegistration,
    PodFinding,
    RegistrationRefused,
)

ORGANIZATION = uuid4()


async def record(world: World, *beats: Beat, canary: bool = False):
    return await world.store.record_heartbeats(beats, canary=canary, timeout_seconds=patient(5))


def registration(name: str, **fields) -> EdgeNodeRegistration:
    return EdgeNodeRegistration(
        name=name,
        organization_id=fields.pop("organization_id", ORGANIZATION),
        given=frozenset(fields),
        **fields,
    )


async def test_ping_returns(world):
    await world.store.ping(2)


async def test_facts_come_in_the_order_of_the_beats(world):
    running = await world.add_processor()
    ended = await world.add_processor(status="terminated")
    facts = await record(
        world, Beat(ended, "n", True), Beat(uuid4(), "n", True), Beat(running, "n", False)
    )

    assert [(f.found, f.recorded, f.status) for f in facts] == [
        (True, True, "terminated"),
        (False, True, ""),
        (True, True, "running"),
    ]
    assert await world.health_of(running) == "unhealthy"
    assert await world.health_of(ended) == "healthy"


async def test_an_empty_batch_proves_that_writing_works(world):
    assert await record(world) == []
    assert await record(world, canary=True) == []


async def test_the_linked_node_is_fresh_and_no_other(world):
    linked = await world.store.register_edge_node(registration("linked"))
    other = await world.store.register_edge_node(registration("other"))
    key = await world.add_processor(edge_node_id=linked.id)
    await record(world, Beat(key, "other", True))

    assert await world.last_heartbeat_of(linked.id) is not None
    assert await world.last_heartbeat_of(other.id) is None


async def test_a_beat_that_lies_ahead_counts_as_of_now_from_the_next_canary_on(world):
    node = await world.store.register_edge_node(registration("edge"))
    await world.move_heartbeat(node.id, 3600)
    await record(world)
    seen = await world.store.read_desired()
    assert seen.edge_nodes[node.id].last_heartbeat_at > seen.now + 3000
    await record(world, canary=True)
    taken = (await world.store.read_desired()).edge_nodes[node.id].last_heartbeat_at
    # Not moved on by the canaries that follow: silence counts from there.
    await record(world, canary=True)
    seen = await world.store.read_desired()
    assert seen.edge_nodes[node.id].last_heartbeat_at == taken <= seen.now


async def test_of_a_silent_node_each_processor_s_last_heartbeat_is_known(world):
    """Also once the poller has written over it."""
    node = await world.store.register_edge_node(registration("edge"))
    beating, mute = [await world.add_processor(edge_node_id=node.id) for _ in range(2)]
    await record(world, Beat(beating, "edge", True))
    assert (await world.store.read_desired()).heartbeats == {}
    await world.forget_beat(beating, 61)
    await world.move_heartbeat(node.id, -61)
    first = await world.store.read_desired()
    assert first.heartbeats == {beating: first.heartbeats[beating], mute: None}
    assert first.heartbeats[beating] <= first.now - 61
    for _ in range(2):
        await world.store.record_pod_health([PodFinding(beating, True), PodFinding(mute, True)])
        assert (await world.store.read_desired()).heartbeats == first.heartbeats


async def test_the_last_beat_of_a_processor_decides_its_health(world):
    key = await world.add_processor()
    beats = [Beat(key, "a", True), Beat(key, "b", True), Beat(key, "a", False)]
    facts = await record(world, *beats)
    assert [fact.recorded for fact in facts] == [True] * 3
    assert await world.health_of(key) == "unhealthy"


async def test_the_facts_tell_of_owner_and_departure(world):
    key = await world.add_processor(left="home", owner="cloud", owner_ready=True)
    (facts,) = await record(world, Beat(key, "home", True))
    assert (facts.left_node_name, facts.owner_node_name, facts.owner_ready) == (
        "home",
        "cloud",
        True,
    )


async def test_registering_again_updates_what_was_given(world):
    first = await world.store.register_edge_node(registration("a", failover_enabled=False))
    again = await world.store.register_edge_node(registration("a"))
    assert again == first
    assert (first.status, first.failover_enabled, first.last_heartbeat_at) == (
        "online",
        False,
        None,
    )


async def test_two_registrations_at_once_are_one_row(world):
    nodes = await asyncio.gather(
        *(world.store.register_edge_node(registration("a")) for _ in range(8))
    )
    assert len({node.id for node in nodes}) == 1


async def test_targets_are_of_the_organization_and_never_lead_back(world):
    a = await world.store.register_edge_node(registration("a"))
    b = await world.store.register_edge_node(registration("b", failover_target_node_id=a.id))
    foreign = await world.store.register_edge_node(registration("f", organization_id=uuid4()))
    for target in (a.id, b.id, foreign.id, uuid4()):
        with pytest.raises(RegistrationRefused, match=r"^failover_target_node_id"):
            await world.store.register_edge_node(registration("a", failover_target_node_id=target))
    again = await world.store.register_edge_node(registration("b", failover_target_node_id=None))
    assert again.failover_target_node_id is None


async def test_a_beat_is_its_node_s_sign_of_life_also_when_the_processor_s_row_is_gone(world):
    """Rows that vanish must not make the nodes of a healthy fleet look silent."""
    node = await world.store.register_edge_node(registration("a"))
    key = await world.add_processor(edge_node_id=node.id)
    await world.remove(key)
    (facts,) = await record(world, Beat(key, "a", True))
    assert not facts.found
    assert await world.last_heartbeat_of(node.id) is not None


async def test_decommission_stops_the_node_s_apps_once(world):
    node = await world.store.register_edge_node(registration("a"))
    keys = [await world.add_processor(edge_node_id=node.id) for _ in range(3)]
    assert await world.store.decommission_edge_node("a", None) == 3
    assert await world.store.decommission_edge_node("a", ORGANIZATION) == 0

    await record(world, Beat(keys[0], "a", True))
    assert await world.last_heartbeat_of(node.id) is None
    assert (await world.store.register_edge_node(registration("a"))).status == "online"


async def test_decommission_needs_one_organization_s_node(world):
    await world.store.register_edge_node(registration("a"))
    await world.store.register_edge_node(registration("a", organization_id=uuid4()))
    with pytest.raises(EdgeNodeNotFound):
        await world.store.decommission_edge_node("b", None)
    with pytest.raises(EdgeNodeNotFound):
        await world.store.decommission_edge_node("a", uuid4())
    with pytest.raises(EdgeNodeAmbiguous):
        await world.store.decommission_edge_node("a", None)
    assert await world.store.decommission_edge_node("a", ORGANIZATION) == 0


async def test_ended_processors_are_not_desired(world):
    keys = {
        status: await world.desire(status)
        for status in ("pending", "running", "terminated", "failed", "odd")
    }
    configs = (await world.store.read_desired()).configs
    assert configs.keys() == {keys["pending"], keys["running"], keys["odd"]}
    assert {config.status for config in configs.values()} == {"pending", "running", "odd"}


async def test_a_change_of_the_desired_state_wakes_the_listener(world):
    key = await world.add_processor()
    async with world.store.changes() as changes:
        await world.touch_desired(key)
        async with asyncio.timeout(patient(2)):
            await anext(changes)


async def test_gaps_are_taken(world):
    await world.store.extend_gap("refused", 12.5)
    await world.store.extend_gap("refused", 13.5)
    await world.store.forget_gaps(0.0)
