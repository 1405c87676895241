"""The real service over an API server: what it asks for, and what becomes of it.

Its pods are ready as soon as they have a place, and nobody answers behind them.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.acceptance.real import eventually, run_on
from tests.acceptance.test_leaders import desire
from tests.contract.cluster_worlds import KubernetesWorld, a_node, kubernetes_world
from tests.contract.worlds import connected

pytestmark = pytest.mark.timeout(120)

NEEDED = {
    ("list", "nodes"),
    ("watch", "nodes"),
    ("list", "pods"),
    ("watch", "pods"),
    ("create", "pods"),
    ("delete", "pods"),
    ("get", "configmaps"),
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[KubernetesWorld]:
    async with kubernetes_world(tmp_path) as world:
        await world.declare(a_node("cloud-1", labels={"workload-type": "application"}))
        yield world


def orchestrator(database_url: str, folder: Path) -> Any:
    return run_on(database_url, KUBECONFIG=str(folder / "kubeconfig"))


def ready(world: KubernetesWorld) -> dict[str, Any]:
    """The pods of the API server that are ready and not about to end, by name."""
    return {
        pod["metadata"]["name"]: pod
        for pod in world.server.all("pods")
        if not pod["metadata"].get("deletionTimestamp")
        and any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in pod["status"].get("conditions", [])
        )
    }


async def test_rows_become_pods_and_changes_change_them(database_url, tmp_path, world):
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        ids = await desire(connection, 3)
        await eventually(lambda: len(ready(world)) == 3)
        _, health = await service.get("/healthz")
        assert health["components"]["kubernetes"]["status"] == "healthy"
        assert "Kubernetes 1.36" in health["components"]["kubernetes"]["message"]

        pod = next(iter(ready(world).values()))
        assert pod["spec"]["serviceAccountName"] == "dory-processor"
        before = set(ready(world))
        await connection.execute("UPDATE processor_template_versions SET version = '2'")
        await eventually(lambda: len(ready(world)) == 3 and not set(ready(world)) & before, 60)

        await connection.execute(
            "UPDATE processors SET status = 'terminated' WHERE id = $1", ids[0]
        )
        await eventually(lambda: len(world.server.all("pods")) == 2)
        assert world.server.seen == NEEDED


async def test_while_the_api_server_is_away_heartbeats_are_answered_and_nothing_is_doubled(
    database_url, tmp_path, world
):
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        ids = await desire(connection, 3)
        await eventually(lambda: len(ready(world)) == 3)
        port = int(world.server.url.rsplit(":", 1)[1])
        uids = {pod["metadata"]["uid"] for pod in world.server.all("pods")}
        await world.server.stop()

        async def is_told() -> bool:
            return not await service.is_ready()

        await eventually(is_told, 30)
        beat = {"processor_id": str(ids[0]), "node_id": "cloud-1", "status": "healthy"}
        answer = await service.beat(**beat)
        assert answer["directive"] == "continue"

        await world.server.start(port)
        await eventually(service.is_ready, 30)
        more = await desire(connection, 1)
        await eventually(lambda: len(ready(world)) == 4)
        assert more
        assert uids < {pod["metadata"]["uid"] for pod in world.server.all("pods")}


async def test_another_namespace_is_looked_at_when_a_row_names_it(database_url, tmp_path, world):
    name = f"n{uuid4().hex[:8]}"
    world.server.namespaces.add(name)
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        [key] = await desire(connection, 1)
        await eventually(lambda: len(ready(world)) == 1)
        await connection.execute(
            "UPDATE processors SET k8s_namespace = $2 WHERE id = $1", key, name
        )
        [other] = await desire(connection, 1)
        await connection.execute(
            "UPDATE processors SET k8s_namespace = $2 WHERE id = $1", other, name
        )

        def there() -> bool:
            return any(pod["metadata"]["namespace"] == name for pod in ready(world).values())

        await eventually(there)
        assert await service.is_ready()
