"""Local clusters: one that tests share, or one for a test alone. No process outlives them."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.cluster.machine import Machines, eventually, marked_processes
from tests.contract.cluster_worlds import LocalWorld, a_node
from tests.patience import patient

from dory_orchestrator.cluster.local.client import LocalCluster


@pytest.fixture(scope="session")
def shared_folder() -> Iterator[Path]:
    """Of the cluster that is started by its first test."""
    folder = Path(tempfile.mkdtemp(prefix="dory-test-"))
    yield folder
    with ThreadPoolExecutor(max_workers=1) as executor:
        stopping = executor.submit(lambda: asyncio.run(_stop(folder / "data")))
        stopping.result()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def machines(shared_folder: Path) -> AsyncIterator[Machines]:
    """The shared cluster; no pod and no node of one test is there in the next."""
    made = Machines(shared_folder)
    await made.start()
    yield made
    await LocalWorld(shared_folder / "data").clear()
    await eventually(lambda: not made.pods())
    for cluster in made.clusters:
        await cluster.close()


@pytest.fixture
async def own_machines() -> AsyncIterator[Machines]:
    """Starts clusters in folders of their own."""
    made = Machines(Path(tempfile.mkdtemp(prefix="dory-test-")))
    try:
        yield made
    finally:
        for data_dir in made.data_dirs:
            await _stop(data_dir)
        for cluster in made.clusters:
            await cluster.close()
        shutil.rmtree(made.folder, ignore_errors=True)
        _, alive = await asyncio.to_thread(psutil.wait_procs, made.processes, patient(3))
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
async def cluster(machines: Machines) -> LocalCluster:
    """A running cluster with one node, `a`."""
    started = await machines.start()
    await started.declare_nodes([a_node("a")])
    return started


async def _stop(data_dir: Path) -> None:
    await LocalCluster(data_dir).stop(immediate=True)
    left = [process for process in marked_processes(data_dir) if process.is_running()]
    assert not left, left
