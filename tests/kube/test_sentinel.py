"""A sentinel: deleting one ConfigMap deletes all pods of its namespace. Only if it is wished."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kubernetes import client
from tests.contract.cluster_worlds import AROUND, KubernetesWorld, a_spec, kubernetes_world

from dory_orchestrator.cluster.kubernetes.client import KubernetesCluster
from dory_orchestrator.cluster.kubernetes.manifest import sentinel_of
from dory_orchestrator.core.model import PodSpec

pytestmark = [pytest.mark.real, pytest.mark.timeout(20)]


@asynccontextmanager
async def world_with_sentinel(folder: Path) -> AsyncIterator[KubernetesWorld]:
    async with kubernetes_world(folder) as world:
        around = replace(AROUND, sentinel="dory-sentinel")
        world.cluster = KubernetesCluster(world.connection, around)
        yield world


def owners_of(world: KubernetesWorld, spec: PodSpec) -> list[tuple[str, str]]:
    metadata = world.server.objects["pods", spec.namespace, spec.name]["metadata"]
    return [(one["name"], one["uid"]) for one in metadata.get("ownerReferences", [])]


def sentinel_uid(world: KubernetesWorld, namespace: str) -> str:
    found = world.server.objects["configmaps", namespace, "dory-sentinel"]
    return str(found["metadata"]["uid"])


async def test_each_namespace_has_its_own(tmp_path: Path) -> None:
    async with world_with_sentinel(tmp_path) as world:
        specs = [a_spec(), a_spec(), a_spec(namespace="other")]
        for spec in specs:
            await world.cluster.create_pod(spec)
            assert owners_of(world, spec) == [
                ("dory-sentinel", sentinel_uid(world, spec.namespace))
            ]
        assert len(world.server.all("configmaps")) == 2


async def test_first_creations_side_by_side_share_one(tmp_path: Path) -> None:
    async with world_with_sentinel(tmp_path) as world:
        specs = [a_spec() for _ in range(8)]
        await asyncio.gather(*(world.cluster.create_pod(spec) for spec in specs))
        uid = sentinel_uid(world, "default")
        assert all(owners_of(world, spec) == [("dory-sentinel", uid)] for spec in specs)


async def test_a_new_one_owns_pods_to_come(tmp_path: Path) -> None:
    """A reference to the one before would delete them at once."""
    async with world_with_sentinel(tmp_path) as world:
        await world.cluster.create_pod(a_spec())
        before = sentinel_uid(world, "default")
        world.server.remove(("configmaps", "default", "dory-sentinel"))
        spec = a_spec()
        await world.cluster.create_pod(spec)
        assert owners_of(world, spec) == [("dory-sentinel", sentinel_uid(world, "default"))]
        assert sentinel_uid(world, "default") != before


async def test_usually_there_is_none(tmp_path: Path) -> None:
    async with kubernetes_world(tmp_path) as world:
        spec = a_spec()
        await world.cluster.create_pod(spec)
        assert owners_of(world, spec) == []
        assert world.server.all("configmaps") == []


def test_it_is_a_config_map() -> None:
    client.V1ConfigMap.model_validate(sentinel_of("dory-sentinel", "default"))
