"""A running local cluster for a data directory."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from dory_orchestrator.cluster.local import lifetime
from dory_orchestrator.cluster.local.client import STOP_SECONDS, ClusterEnding, LocalCluster
from dory_orchestrator.cluster.local.messages import Timing
from dory_orchestrator.cluster.local.places import Places
from dory_orchestrator.ports import ClusterUnavailable

_START_SECONDS = 20.0
_LOOK_SECONDS = 0.05


async def start(data_dir: Path, timing: Timing | None = None) -> LocalCluster:
    """The local cluster of a data directory: the one that runs, else a new one.

    One that runs keeps its timing. Raises ClusterUnavailable, with the end of its log, when
    it does not come up.
    """
    places, cluster = Places(data_dir), LocalCluster(data_dir)
    try:
        async with _alone(places):
            if not await _found(cluster, places):
                await _start(cluster, places, timing or Timing())
    except BaseException:
        await cluster.close()
        raise
    return cluster


@contextlib.asynccontextmanager
async def _alone(places: Places) -> AsyncIterator[None]:
    """Whoever else starts it waits: one would kill what the other is bringing up."""
    try:
        await asyncio.to_thread(places.make)
    except OSError as error:
        raise ClusterUnavailable(f"the local cluster cannot be started: {error}") from error
    with contextlib.ExitStack() as stack:
        claim = places.claimed("starting", STOP_SECONDS + _START_SECONDS)
        await asyncio.to_thread(stack.enter_context, claim)
        yield


async def _found(cluster: LocalCluster, places: Places) -> bool:
    """Whether one runs. One that is ending is waited for: killed, its pods could not save
    their state.
    """
    try:
        await cluster.version()
    except ClusterEnding:
        if (process := lifetime.running_process(places)) is not None:
            await lifetime.wait_until_gone(process, STOP_SECONDS)
    except ClusterUnavailable:
        pass
    else:
        return True
    return False


async def _start(cluster: LocalCluster, places: Places, timing: Timing) -> None:
    process = await asyncio.to_thread(lifetime.launch, places, timing)
    deadline = time.monotonic() + _START_SECONDS
    while not await _answers(cluster):
        if process.returncode is not None or time.monotonic() > deadline:
            process.kill()
            tail = lifetime.log_tail(places)
            raise ClusterUnavailable(f"the local cluster does not come up: {tail}")
        await asyncio.sleep(_LOOK_SECONDS)


async def _answers(cluster: LocalCluster) -> bool:
    try:
        await cluster.version()
    except ClusterUnavailable:
        return False
    return True
