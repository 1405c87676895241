"""The whole story on the cluster of KUBECONFIG: create, roll, fail over, fail back, clean up.

    KUBECONFIG=~/.kube/config .venv/bin/pytest tests/e2e --with-e2e

The orchestrator runs on this machine, beside an embedded PostgreSQL. Two nodes of the cluster are
the test's own: an edge node that dies and comes back, and one for the cloud. What the test makes
bears a name of its own, and is gone afterwards.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.acceptance.real import RealService, eventually, run_on
from tests.acceptance.test_fleet import command
from tests.contract.worlds import connected
from tests.e2e.kubelet import Api, Kubelet, counted

from dory_orchestrator.cluster.kubernetes.connection import Connection
from dory_orchestrator.fleet_file import load
from dory_orchestrator.store.fleet import apply_fleet

pytestmark = pytest.mark.timeout(600)

INTERVAL_SECONDS = 2.0
NOTICED_SECONDS = 150.0
"""Kubernetes itself takes 40 to 50 s to call a silent node not ready."""
_GONE_SECONDS = 120.0

FLEET = """
organization: e2e
nodes:
  - {{name: {edge}, kind: edge}}
  - {{name: {cloud}, kind: application}}
templates:
  - {{slug: counter, version: "1", image: "none:1", command: [none]}}
processors:
  - {{name: home, template: counter, node: {edge}}}
  - {{name: away, template: counter}}
"""


class Ground:
    """What the test has made in the cluster."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.namespace = api, name
        self.edge = Kubelet(api, f"{name}-edge", {"node-type": "edge"}, 1)
        self.cloud = Kubelet(api, f"{name}-cloud", {"workload-type": "application"}, 2)
        self.kubelets = [self.edge, self.cloud]

    async def make(self) -> None:
        named = {"metadata": {"name": self.namespace}}
        account = {"metadata": {"name": "dory-processor"}}
        await self.api.send(lambda core: core.create_namespace_without_preload_content(named))
        await self.api.send(
            lambda core: core.create_namespaced_service_account_without_preload_content(
                self.namespace, account
            )
        )
        for kubelet in self.kubelets:
            await kubelet.register()

    async def remove(self) -> None:
        """Nothing is left: pods of nodes that are gone would stay for ever."""
        for pod in await self.pods():
            await self.api.delete_pod(pod)
        for kubelet in self.kubelets:
            await kubelet.remove()
        await self.api.gone(
            lambda core: core.delete_namespace_without_preload_content(self.namespace)
        )
        await eventually(self._is_gone, _GONE_SECONDS, 0.5)

    async def pods(self) -> list[dict[str, Any]]:
        listed = await self.api.send(
            lambda core: core.list_namespaced_pod_without_preload_content(self.namespace)
        )
        return list(listed.get("items") or [])

    async def events_on(self, name: str, namespace: str) -> set[str]:
        listed = await self.api.send(
            lambda core: core.list_namespaced_event_without_preload_content(
                namespace, field_selector=f"involvedObject.name={name}"
            )
        )
        return {event["reason"] for event in listed.get("items") or []}

    async def _is_gone(self) -> bool:
        listed = await self.api.send(lambda core: core.list_namespace_without_preload_content())
        nodes = await self.api.send(lambda core: core.list_node_without_preload_content())
        names = {one["metadata"]["name"] for one in (*listed["items"], *nodes["items"])}
        return not any(name.startswith(self.namespace) for name in names)


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    kubeconfig = os.environ.get("KUBECONFIG")
    assert kubeconfig, "KUBECONFIG names no cluster"
    connection = Connection(kubeconfig)
    made = Ground(Api(connection), f"dory-e2e-{uuid4().hex[:8]}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        stack.push_async_callback(made.remove)
        await made.make()
        tasks = [asyncio.create_task(kubelet.run()) for kubelet in made.kubelets]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            failures = [one for one in ended if isinstance(one, Exception)]
            assert not failures

        stack.push_async_callback(end)
        yield made


async def row_of(service: RealService, name: str, node: str | None = None) -> dict[str, Any]:
    """Its row once it runs, on this node; empty until then."""
    status, answer = await service.get("/api/v1/fleet/processors?limit=100")
    rows = answer["processors"] if status == 200 else []
    for row in rows:
        if row["name"] == name and row["state"] == "running" and node in (None, row["node_name"]):
            return dict(row)
    return {}


async def test_create_roll_fail_over_fail_back_and_clean_up(database_url: str, tmp_path: Path):
    async with ground() as made, connected(database_url) as connection:
        edge, cloud = made.edge.name, made.cloud.name
        file = tmp_path / "fleet.yaml"
        file.write_text(FLEET.format(edge=edge, cloud=cloud))
        await apply_fleet(database_url, load(file, uuid4()))
        await connection.execute("UPDATE processors SET k8s_namespace = $1", made.namespace)
        settings = {
            "KUBECONFIG": os.environ["KUBECONFIG"],
            "DORY_NAMESPACE": made.namespace,
            "DORY_NODE_FAILURE_GRACE": "3s",
            "DORY_FAILBACK_STABLE": "5s",
            "DORY_HEALTH_POLL_INTERVAL": "500ms",
            "DORY_CHECKPOINT_INTERVAL": f"{INTERVAL_SECONDS:g}s",
        }
        async with run_on(database_url, **settings) as service:
            await story(made, service, connection)


async def story(made: Ground, service: RealService, connection: Any) -> None:
    edge, cloud = made.edge.name, made.cloud.name

    def count(row: dict[str, Any]) -> int:
        return counted(made.kubelets, row["pod_uid"]) or 0

    # Create.
    first = await eventually(lambda: row_of(service, "home", edge), 60)
    await eventually(lambda: row_of(service, "away", cloud), 60)
    await eventually(lambda: count(first) > 50, 20)

    # Roll: each goes on from its state.
    before = count(first)
    await connection.execute("UPDATE processor_template_versions SET version = '2'")

    async def is_new() -> dict[str, Any]:
        row = await row_of(service, "home", edge)
        return row if row and row["pod_uid"] != first["pod_uid"] else {}

    rolled = await eventually(is_new, 90)
    await eventually(lambda: count(rolled) >= before, 20)
    await eventually(lambda: row_of(service, "away", cloud), 90)
    await eventually(lambda: is_kept(connection, rolled), 30)

    # Fail over.
    before = count(rolled)
    await made.edge.die()
    moved = await eventually(lambda: row_of(service, "home", cloud), NOTICED_SECONDS)
    await eventually(lambda: count(moved) >= before - 10 * (INTERVAL_SECONDS + 2), 20)
    await eventually(lambda: is_told(made, moved["pod_name"], "Failover"), 30)
    await eventually(lambda: is_told(made, edge, "NodeOffline", "default"), 30)

    # Fail back: nothing is lost.
    made.edge.revive()
    before = count(moved)
    home = await eventually(lambda: row_of(service, "home", edge), NOTICED_SECONDS)
    await eventually(lambda: count(home) >= before, 20)
    moves = await connection.fetch("SELECT kind, outcome FROM orchestrator.moves ORDER BY id")
    assert [tuple(move) for move in moves] == [("failover", "done"), ("failback", "done")]

    # Clean up.
    await connection.execute("UPDATE processors SET status = 'terminated'")
    await eventually(lambda: is_cleaned(made, service), 60)


async def is_kept(connection: Any, row: dict[str, Any]) -> bool:
    """Whether there is a checkpoint of this very pod."""
    kept = "SELECT EXISTS (SELECT FROM orchestrator.checkpoints WHERE pod_uid = $1)"
    return bool(await connection.fetchval(kept, row["pod_uid"]))


async def is_told(made: Ground, name: str, reason: str, namespace: str | None = None) -> bool:
    return reason in await made.events_on(name, namespace or made.namespace)


async def is_cleaned(made: Ground, service: RealService) -> bool:
    """The guard holds when all go at once: an operator says that it is meant."""
    if (await service.get("/api/v1/fleet/summary"))[1]["guard_held"]:
        await command("guard", "confirm", "--yes", "--url", service.url)
    return not await made.pods()
