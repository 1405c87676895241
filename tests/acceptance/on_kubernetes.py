"""A fleet on Kubernetes, as the tests of a fleet on a local cluster see one."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from aiohttp import web
from tests.acceptance.real import RealService, running
from tests.acceptance.test_fleet import Fleet
from tests.contract.worlds import connected
from tests.kube.installation import Installation, installation

from dory_orchestrator.fleet_file import load
from dory_orchestrator.store.fleet import apply_fleet


class KubernetesFleet(Fleet):
    """One whose cluster can be looked at, and hindered."""

    def __init__(
        self, service: RealService, data_dir: Path, database_url: str, kube: Installation
    ) -> None:
        super().__init__(service, data_dir, database_url)
        self.kube = kube

    def saved(self, row: dict[str, Any]) -> dict[str, Any]:
        """The state of a processor in its ConfigMap; empty when there is none."""
        key = ("configmaps", "default", f"dory-state-{row['id']}")
        found = self.kube.server.objects.get(key)
        return {} if found is None else dict(json.loads(found["data"]["state"])["payload"])


@asynccontextmanager
async def on_kubernetes(
    data_dir: Path,
    database_url: str,
    file: Path,
    *arguments: str,
    namespaces: Mapping[str, str] = MappingProxyType({}),
    intercept: Callable[[web.Request], Any] | None = None,
) -> AsyncIterator[KubernetesFleet]:
    """`run --kubeconfig`, with the fleet of a file in its database and its nodes in the cluster.

    `namespaces`: those of processors, by the processor's name, where they are not the usual one.
    `intercept`: see ApiServer; it stands before anything is asked for.
    """
    fleet = load(file, uuid4())
    await apply_fleet(database_url, fleet)
    async with connected(database_url) as connection:
        for name, namespace in namespaces.items():
            await connection.execute(
                "UPDATE processors SET k8s_namespace = $2 WHERE name = $1", name, namespace
            )
    async with installation(data_dir, fleet.nodes) as kube:
        kube.server.namespaces.update(namespaces.values())
        kube.server.intercept = intercept
        async with running(
            *("run", "--kubeconfig", str(kube.kubeconfig), "--log-format", "json"),
            *("--metrics-address", "127.0.0.1", "--metrics-port", "0", "--shutdown-delay", "0s"),
            *arguments,
            environment={
                "DORY_DATABASE_URL": database_url,
                "DORY_STATE_TOKEN": kube.state_token,
                "DORY_REQUIRE_STATE_TOKEN": "false",
            },
        ) as service:
            kube.gateway.orchestrator_url = service.url
            yield KubernetesFleet(service, data_dir, database_url, kube)
