"""A whole Kubernetes for tests and for looking at it: an API server, machines behind it, and a
kubeconfig that leads there."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kube.api_server import ApiServer
from tests.kube.machines import Gateway, Machines

from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.core.model import Node


@dataclass(frozen=True)
class Installation:
    """Nodes are hurt with `dory-orchestrator local`, on the data directory."""

    server: ApiServer
    gateway: Gateway
    kubeconfig: Path
    state_token: str
    machines: Machines

    def remove_node(self, name: str) -> None:
        """As `kubectl delete node`, and what Kubernetes then does with its pods: they are out of
        the books at once, and end."""
        self.machines.removed.add(name)
        self.server.remove(("nodes", "", name))
        for pod in self.server.all("pods"):
            if pod["spec"].get("nodeName") == name:
                self.server.remove(("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]))


@asynccontextmanager
async def installation(data_dir: Path, nodes: Iterable[Node]) -> AsyncIterator[Installation]:
    """One that ends with all its pods. Its files lie in `data_dir`."""
    folder = data_dir / "kube"
    folder.mkdir(parents=True)
    token = secrets.token_hex(16)
    (data_dir / "state-token").write_text(token)
    server = ApiServer(token=secrets.token_hex(16))
    server.namespaces.add("default")
    await server.start()
    gateway = Gateway(server)
    await gateway.start()
    local = await start(data_dir)
    try:
        machines = Machines(server, local, folder, state_token=token)
        await machines.declare(tuple(nodes), gateway.url)
        running = asyncio.create_task(machines.run())
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(server.kubeconfig())
        try:
            yield Installation(server, gateway, kubeconfig, token, machines)
            if running.done():
                running.result()  # what broke it
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    finally:
        await local.stop(immediate=True)
        await gateway.stop()
        await server.stop()
