"""Pods that somebody takes away, and pods that are not recognised any more, in simulated time."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.loops.fleet_rig import Rig, TrickyCluster

from dory_orchestrator.core.model import Pod, PodSpec
from dory_orchestrator.ports import ClusterUnavailable

pytestmark = pytest.mark.looptime

KEY = UUID(int=1)


async def take_each_away(cluster: TrickyCluster) -> None:
    while True:
        for pod in list(cluster.pods.values()):
            cluster.remove(pod)
        await asyncio.sleep(0.1)


async def test_pods_that_are_taken_away_are_made_with_back_off():
    async with Rig() as rig:
        taking = asyncio.create_task(take_each_away(rig.cluster))
        rig.desire(1)
        await asyncio.sleep(40)
        taking.cancel()
        assert rig.cluster.moments("create") == pytest.approx([0, 1, 3, 7, 15, 31], abs=0.5)
        assert rig.store.owners[KEY].failures == 6
        assert rig.told("failure")[0] == ("failure", "vanished")
        await rig.until(lambda: rig.running == 1, 60)
        # It went well for a while: what takes it then away begins anew.
        await asyncio.sleep(61)
        rig.cluster.calls.clear()
        begun = asyncio.get_running_loop().time()
        taking = asyncio.create_task(take_each_away(rig.cluster))
        await asyncio.sleep(10)
        taking.cancel()
        moments = [at - begun for at in rig.cluster.moments("create")]
        assert moments == pytest.approx([0, 1, 3, 7], abs=0.5)


async def test_a_pod_that_ran_well_is_made_anew_at_once():
    async with Rig() as rig:
        rig.desire(1)
        await rig.until(lambda: rig.running == 1)
        await asyncio.sleep(300)
        rig.cluster.remove(rig.pod_of(1))
        assert await rig.until(lambda: rig.running == 1) < 0.1


class Webhook(TrickyCluster):
    """Somebody changes pods as they are made, or later."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.changes = changes

    async def create_pod(self, spec: PodSpec) -> Pod:
        pod = await super().create_pod(spec)
        return self.alter(pod)

    def alter(self, pod: Pod, changes: Mapping[str, Any] | None = None) -> Pod:
        self._put(self.pods[pod.uid], **(self.changes if changes is None else changes))
        return self.pods[pod.uid]


STRIPPED: dict[str, Any] = {"labels": {}, "processor_id": None}
EMPTIED: dict[str, Any] = {"fleet_id": None, "epoch": None, "config_hash": None}
UNMANAGED: dict[str, Any] = {"labels": {"processor-id": str(KEY)}}


@pytest.mark.parametrize("changes", [STRIPPED, EMPTIED, UNMANAGED, {"processor_id": UUID(int=7)}])
async def test_a_pod_that_is_altered_as_it_is_made_has_no_second_one_beside_it(changes):
    cluster = Webhook(**changes)
    async with Rig(cluster=cluster) as rig:
        rig.desire(1)
        await asyncio.sleep(300)
        assert len(cluster.created) == len(cluster.pods) == 1
        assert rig.reason_of(1) == "unrecognised"
        assert rig.told().count(("held", "unrecognised")) == 1
        [pod] = cluster.pods.values()
        # Whoever sees it ends it, and the webhook with it.
        cluster.changes = {}
        cluster.remove(pod)
        await rig.until(lambda: rig.reason_of(1) == "running")
        assert len(cluster.created) == 2


async def test_a_pod_that_is_altered_later_goes_on_once_it_is_set_right():
    cluster = Webhook()
    async with Rig(cluster=cluster) as rig:
        rig.desire(1, 2)
        await rig.until(lambda: rig.reason_of(1) == rig.reason_of(2) == "running")
        pod = rig.pod_of(1)
        for changes in (STRIPPED, EMPTIED, UNMANAGED, {"processor_id": UUID(int=2)}):
            cluster.alter(pod, changes)
            await rig.until(lambda: rig.reason_of(1) == "unrecognised")
            await asyncio.sleep(60)
            cluster._put(pod)
            await rig.until(lambda: rig.reason_of(1) == "running")
        assert len(cluster.created) == 2
        assert not cluster.deleted


async def test_while_the_cluster_cannot_say_whether_it_is_there_none_is_made():
    class Mute(Webhook):
        mute = True

        async def find_pod(self, namespace: str, name: str) -> Pod | None:
            if self.mute:
                raise ClusterUnavailable("it does not say")
            return await super().find_pod(namespace, name)

    cluster = Mute()
    async with Rig(cluster=cluster) as rig:
        rig.desire(1)
        await rig.until(lambda: rig.reason_of(1) == "running")
        cluster.remove(rig.pod_of(1))
        await rig.until(lambda: rig.reason_of(1) == "pod_missing")
        await asyncio.sleep(60)
        assert len(cluster.created) == 1
        cluster.mute = False
        await rig.until(lambda: rig.reason_of(1) == "running", 10)


async def test_a_picture_that_is_late_leads_to_no_second_pod():
    class Late(TrickyCluster):
        late = True

        async def _pictures(self, event: asyncio.Event):
            async for picture in super()._pictures(event):
                yield replace(picture, pods={}) if self.late else picture

    cluster = Late()
    async with Rig(cluster=cluster) as rig:
        rig.desire(1)
        await asyncio.sleep(60)
        assert len(cluster.created) == 1
        cluster.late = False
        await rig.until(lambda: rig.reason_of(1) == "running", 90)
