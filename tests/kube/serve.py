"""A Kubernetes to try `run` on, without one: an API server with machines behind it, and a database
with the example fleet.

    python -m tests.kube.serve [FOLDER]

It says how to go on, and ends with all that it started on Ctrl-C. The folder must not exist.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from uuid import uuid4

from tests.kube.installation import Installation, installation

from dory_orchestrator.app.dev_fleet import example
from dory_orchestrator.fleet_file import load
from dory_orchestrator.loops.supervise import Signals
from dory_orchestrator.store.embedded import EmbeddedPostgres
from dory_orchestrator.store.fleet import apply_fleet
from dory_orchestrator.store.migrate import upgrade

_WORDS = """
An API server of Kubernetes 1.36 (the tests' own) is at {server}.

The orchestrator, in another terminal:

  export DORY_DATABASE_URL='{database}'
  export DORY_STATE_TOKEN={token}
  dory-orchestrator run --kubeconfig {kubeconfig} --no-require-state-token \\
    --metrics-address 127.0.0.1 --metrics-port {port} --heartbeat-stale 12s \\
    --node-failure-grace 3s --failback-stable 6s --checkpoint-interval 2s

The story, in a third:

  dory-orchestrator processors --url {url}
  dory-orchestrator local crash-node edge-1 --data-dir {folder}
  dory-orchestrator events --url {url}
  dory-orchestrator local restore-node edge-1 --data-dir {folder}

Ctrl-C here ends it all.
"""


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.kube.serve")
    parser.add_argument("folder", nargs="?", type=Path, help="where its files lie")
    parser.add_argument("--port", type=int, default=8080, help="of the orchestrator")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dory-kube-") as temporary:
        folder = (asked.folder or Path(temporary) / "kube").resolve()
        folder.mkdir(parents=True)
        postgres = EmbeddedPostgres(folder)
        try:
            database_url = postgres.start()
            upgrade(database_url)
            asyncio.run(_serve(folder, database_url, asked.port))
        finally:
            postgres.destroy()


async def _serve(folder: Path, database_url: str, port: int) -> None:
    signals = Signals()
    signals.listen()
    fleet = load(example(), uuid4())
    await apply_fleet(database_url, fleet)
    async with installation(folder, fleet.nodes) as kube:
        kube.gateway.orchestrator_url = f"http://127.0.0.1:{port}"
        print(_words(kube, folder, database_url, port), flush=True)  # noqa: T201 - a command speaks
        await signals.asked.wait()


def _words(kube: Installation, folder: Path, database_url: str, port: int) -> str:
    return _WORDS.format(
        server=kube.server.url,
        database=database_url,
        token=kube.state_token,
        kubeconfig=kube.kubeconfig,
        folder=folder,
        port=port,
        url=kube.gateway.orchestrator_url,
    )


if __name__ == "__main__":
    main()
