"""The rights that are given are those that are needed: no more, and no less."""

from pathlib import Path
from uuid import uuid4

import pytest
from tests.contract.cluster_worlds import (
    a_node,
    a_spec,
    kubernetes_world,
    said_of,
    version_of,
    watching,
)
from tests.deploy.objects import kustomized, the

pytestmark = [pytest.mark.real, pytest.mark.timeout(20)]


def given(*roles: dict[str, object]) -> set[tuple[str, str]]:
    """Pairs of verb and resource."""
    return {
        (verb, resource)
        for role in roles
        for rule in role["rules"]  # type: ignore[attr-defined]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


async def test_the_orchestrator_may_do_what_it_does(tmp_path: Path) -> None:
    async with kubernetes_world(tmp_path) as world:
        cluster, key = world.cluster, uuid4()
        await world.declare(a_node("a"))
        spec = a_spec()
        async with watching(cluster) as seen:
            await cluster.create_pod(spec)
            pod = await seen.pod(spec.name, ready=True)
            await cluster.delete_pod(pod)
            await seen.gone(spec.name)
        assert await cluster.read_state("default", key) is None
        await cluster.seed_state("default", key, b"{}", version=None)
        found = await cluster.read_state("default", key)
        assert found is not None
        await cluster.seed_state("default", key, b"[]", version=found.version)
        found = await cluster.read_state("default", key)
        assert found is not None
        await cluster.remove_state("default", key, version=found.version)
        assert await version_of(cluster)
        await cluster.announce(said_of(pod))
        nodes = the(kustomized(), "ClusterRole", "dory-orchestrator-nodes")
        namespaced = the(kustomized(), "Role")
        assert world.server.seen == given(nodes, namespaced)


def test_pods_may_keep_their_states() -> None:
    """What the client library does with its ConfigMap (platform facts 12.3)."""
    role = the(kustomized(), "Role", "dory-processor")
    verbs = ("get", "create", "update", "delete")
    assert given(role) == {(verb, "configmaps") for verb in verbs}
