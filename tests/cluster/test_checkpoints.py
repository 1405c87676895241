"""Programs built with the published client library keep their state, however they end."""

import asyncio
import contextlib
from uuid import uuid4

import pytest
from tests.checkpoints_double import MemoryCheckpointStore
from tests.cluster.machine import eventually
from tests.cluster.test_sdk import a_counter, counted
from tests.contract.cluster_worlds import forget_states, watching

from dory_orchestrator.core.model import Ownership
from dory_orchestrator.loops.checkpoint import Checkpointer, Owned
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.pods.http import HttpPods
from dory_orchestrator.ports import Lease

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


async def test_what_was_counted_outlives_a_crash_and_a_lost_pod(cluster):
    await cluster.configure("http://127.0.0.1:1", "secret")
    key, store, pods = uuid4(), MemoryCheckpointStore(), HttpPods()
    lease = Lease("leader", await store.hold_lease("leader", None, 600) or 0)
    spec = a_counter(processor_id=key)
    async with watching(cluster) as seen:

        def running():
            ours = [pod for pod in seen.now.pods.values() if pod.processor_id == key]
            return [Owned(pod, 1, 0.5, ("/counted",)) for pod in ours if pod.ready]

        checkpointer = Checkpointer(
            pods=pods,
            store=store,
            cluster=cluster,
            lease=lambda: lease,
            running=running,
            tell=lambda _event: None,
            metrics=Metrics(),
            tokens=("secret",),
        )
        task = asyncio.create_task(checkpointer.run())

        async def stored(count: int) -> bool:
            newest = await store.newest_checkpoint(key)
            return newest is not None and int(newest.payload[len('{"counted": ') : -1]) >= count

        try:
            pod = await cluster.create_pod(spec)
            store.owners[key] = Ownership(1, pod.uid)
            await eventually(lambda: stored(30))

            await cluster.crash_pod(spec.name)
            pod = await seen.pod(spec.name, ready=True, restart_count=1)
            await eventually(lambda: _is(checkpointer.restored(pod.uid, restart_count=1)))
            assert await counted(pod.address) >= 30
            await eventually(lambda: stored(60))

            await cluster.delete_pod(pod, force=True)
            await seen.gone(spec.name)
            forget_states([key])
            seeded = await checkpointer.prepare(lease, cluster, spec, (spec.name,))
            assert seeded is not None
            pod = await cluster.create_pod(spec)
            store.owners[key] = Ownership(1, pod.uid)
            pod = await seen.pod(spec.name, ready=True)
            assert await counted(pod.address) >= 60
            await eventually(lambda: _is(checkpointer.restored(pod.uid)))
            assert await checkpointer.capture_now(lease, pod, 1) is None
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await pods.close()
            forget_states([key])


async def _is(value: bool) -> bool:
    return value
