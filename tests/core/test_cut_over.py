"""Pods that another orchestrator made: taken over by an annotation, without a restart."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.core.world import (
    FLEET,
    V2,
    World,
    a_node,
    a_pod,
    a_processor,
    an_edge_node,
    an_edge_row,
    an_id,
)

from dory_orchestrator.core.model import Ownership, Pod, ProcessorConfig
from dory_orchestrator.core.plan import Adopt, Delete, Plan, Reason

CLOUD = {"cloud-1": a_node("cloud-1"), "cloud-2": a_node("cloud-2")}
OTHER_HASH = "v1:another"


def of_another(config: ProcessorConfig, **changes: Any) -> Pod:
    """A pod as another orchestrator leaves it: labels as agreed, no annotation of ours."""
    said: dict[str, Any] = {"fleet_id": None, "config_hash": None, "uid": f"theirs-{config.name}"}
    return a_pod(config, None, **(said | changes))


def a_world(count: int = 1, **changes: Any) -> tuple[World, Mapping[UUID, ProcessorConfig]]:
    configs = {c.processor_id: c for c in (a_processor(n, **changes) for n in range(count))}
    world = World(configs=dict(configs), nodes=dict(CLOUD))
    for config in configs.values():
        pod = of_another(config)
        world.pods[pod.uid] = pod
    return world, configs


def annotate(world: World, **annotations: Any) -> None:
    """`kubectl annotate`, of every pod."""
    world.pods = {uid: replace(pod, **annotations) for uid, pod in world.pods.items()}


def uids(world: World) -> set[str]:
    return set(world.pods)


def ends(plan: Plan) -> list[Delete]:
    return [action for action in plan.actions if isinstance(action, Delete)]


def test_before_it_is_annotated_it_is_a_stranger_and_nothing_is_made_beside_it():
    world, configs = a_world(3)
    plan = world.settle()
    assert plan.actions == ()
    assert len(plan.strangers) == 3
    assert {finding.reason for finding in plan.findings.values()} == {Reason.FOREIGN_FLEET}
    assert world.ownership == {}
    assert configs.keys() == plan.findings.keys()


def test_with_the_id_of_the_fleet_it_is_adopted_kept_and_not_restarted():
    world, configs = a_world(3)
    before = dict(world.pods)
    annotate(world, fleet_id=FLEET)
    _, plan = world.compute()
    assert [type(action) for action in plan.actions] == [Adopt] * 3
    plan = world.settle()
    assert {uid: replace(pod, fleet_id=None) for uid, pod in world.pods.items()} == before
    assert {finding.reason for finding in plan.findings.values()} == {Reason.RUNNING}
    assert {key: (own.epoch, own.pod_uid) for key, own in world.ownership.items()} == {
        key: (1, f"theirs-{config.name}") for key, config in configs.items()
    }


def test_its_successor_has_the_next_epoch():
    world, configs = a_world()
    annotate(world, fleet_id=FLEET)
    world.settle()
    world.vanish("theirs-0")
    world.settle()
    [pod] = world.pods.values()
    assert (pod.epoch, world.ownership[next(iter(configs))].epoch) == (2, 2)


def test_with_an_epoch_it_is_frozen_until_an_operator_adopts_it():
    """It claims that another database gave the epoch: whether that is right an operator says, and
    then also that its state is the newest."""
    world, configs = a_world(3)
    annotate(world, fleet_id=FLEET, epoch=1)
    before = uids(world)
    plan = world.settle()
    assert (plan.actions, world.ownership) == ((), {})
    assert {finding.reason for finding in plan.findings.values()} == {Reason.EPOCH_AHEAD}
    world.ownership = {key: Ownership(1, f"theirs-{one.name}") for key, one in configs.items()}
    plan = world.settle()
    assert uids(world) == before
    assert {finding.reason for finding in plan.findings.values()} == {Reason.RUNNING}


def test_without_a_change_hash_no_rollout_reaches_it():
    world, configs = a_world(3)
    annotate(world, fleet_id=FLEET)
    world.settle()
    world.configs = {key: replace(config, versions=(V2,)) for key, config in configs.items()}
    before = uids(world)
    world.settle()
    assert uids(world) == before


def test_with_another_change_hash_all_are_replaced_step_by_step():
    """So an operator has them made anew: those that were adopted, or those with an old token."""
    world, _ = a_world(20)
    annotate(world, fleet_id=FLEET)
    world.settle()
    annotate(world, config_hash=OTHER_HASH)
    before, most = uids(world), 0
    for _ in range(200):
        most = max(most, len(ends(world.turn())))
        world.start()
        world.now += 1.0
    assert most == 2
    assert not uids(world) & before
    assert {(pod.epoch, pod.ready) for pod in world.pods.values()} == {(2, True)}
    assert OTHER_HASH not in {pod.config_hash for pod in world.pods.values()}
    assert world.settle().actions == ()


def on_the_edge(*, runs_on: str, failed_over: bool) -> World:
    config = a_processor(0, node_type="edge")
    pod = of_another(config, node_name=runs_on, fleet_id=FLEET)
    world = World(
        configs={config.processor_id: config},
        nodes={**CLOUD, "edge-1": an_edge_node("edge-1")},
        edge_nodes={an_id("edge-1"): an_edge_row("edge-1")},
    )
    world.pods[pod.uid] = pod
    links = world.homes if failed_over else world.links
    links[config.processor_id] = an_id("edge-1")
    return world


@pytest.mark.parametrize(
    ("runs_on", "failed_over", "ends_on"),
    [
        pytest.param("edge-1", False, "edge-1", id="at-home"),
        pytest.param("cloud-1", True, "edge-1", id="away-and-the-link-says-so"),
        pytest.param("cloud-1", False, "cloud-1", id="away-and-the-link-says-it-is-at-home"),
    ],
)
def test_where_one_of_an_edge_node_ends_up(runs_on, failed_over, ends_on):
    world = on_the_edge(runs_on=runs_on, failed_over=failed_over)
    world.settle()
    assert [pod.node_name for pod in world.pods.values()] == [ends_on]
    assert ("theirs-0" in world.pods) is (runs_on == ends_on)
