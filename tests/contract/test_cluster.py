"""What every Cluster does; run over Kubernetes, over the local one, and over the double that other
tests use."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.contract.cluster_worlds import (
    QUICK,
    LocalWorld,
    MemoryWorld,
    World,
    a_node,
    a_spec,
    forget_states,
    kubernetes_world,
    said_of,
    version_of,
    watching,
)

from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.core.model import (
    PodPhase,
    Resources,
    Taint,
    TaintEffect,
    Toleration,
)
from dory_orchestrator.core.start import Carrier
from dory_orchestrator.ports import ClusterRefused, ClusterUnavailable, Refusal

pytestmark = pytest.mark.timeout(20)


def _run(work: Coroutine[Any, Any, Any]) -> None:
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(asyncio.run, work).result()


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """The data directory of a local cluster that the tests share."""
    with tempfile.TemporaryDirectory(prefix="dory-test-") as folder:

        async def begin() -> None:
            await (await start(Path(folder), QUICK)).close()

        async def end() -> None:
            await (await start(Path(folder), QUICK)).stop(immediate=True)

        _run(begin())
        yield Path(folder)
        _run(end())


@pytest.fixture(
    params=[
        "memory",
        pytest.param("kubernetes", marks=pytest.mark.real),
        pytest.param("local", marks=pytest.mark.real),
    ]
)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    if request.param == "kubernetes":
        async with kubernetes_world(tmp_path) as found:
            yield found
        return
    local = LocalWorld(request.getfixturevalue("data_dir"))
    yield local
    await (await start(request.getfixturevalue("data_dir"), QUICK)).close()
    await local.clear()


async def refusal(work: Coroutine[Any, Any, Any]) -> Refusal:
    with pytest.raises(ClusterRefused) as refused:
        await work
    assert str(refused.value)
    return refused.value.reason


async def test_it_says_what_it_is(world):
    assert await version_of(world.cluster)


async def test_a_pod_gets_a_place_and_becomes_ready(world):
    await world.declare(a_node("a"))
    spec = a_spec()
    async with watching(world.cluster) as seen:
        created = await world.cluster.create_pod(spec)
        assert (created.name, created.terminating) == (spec.name, False)
        pod = await seen.pod(spec.name, ready=True)
        assert (pod.uid, pod.node_name, pod.phase) == (created.uid, "a", PodPhase.RUNNING)
        assert pod.processor_id == spec.processor_id
        assert pod.address is not None
        assert pod.address.startswith(f"{pod.ip}:")
        assert pod.started_at >= created.created_at - 1
        assert (pod.restart_count, pod.waiting_reason, pod.exit_code) == (0, None, None)
        assert dict(pod.labels) == dict(spec.labels)
        assert seen.now.nodes["a"].ready


async def test_the_annotations_come_back(world):
    annotations = {"dory.io/fleet": "f", "dory.io/config-hash": "h", "dory.io/epoch": "17"}
    pod = await world.cluster.create_pod(a_spec(annotations=annotations))
    assert (pod.fleet_id, pod.config_hash, pod.epoch) == ("f", "h", 17)


@pytest.mark.parametrize("epoch", [None, "", "x", "1.5", "-1", "\u0661", "9" * 30])
async def test_an_unreadable_epoch_is_none(world, epoch):
    annotations = {} if epoch is None else {"dory.io/epoch": epoch}
    pod = await world.cluster.create_pod(a_spec(annotations=annotations))
    assert (pod.fleet_id, pod.config_hash, pod.epoch) == (None, None, None)


async def test_a_pod_that_is_not_ours_is_not_seen(world):
    theirs = a_spec(labels={})
    ours = a_spec(labels={"managed-by": "dory-orchestrator", "processor-id": "no uuid"})
    async with watching(world.cluster) as seen:
        await world.cluster.create_pod(theirs)
        await world.cluster.create_pod(ours)
        pod = await seen.pod(ours.name)
        assert pod.processor_id is None
        assert len(seen.now.pods) == 1


async def test_a_pod_is_found_by_its_name_whatever_it_says(world):
    """Somebody may have changed its labels: no picture shows it then."""
    await world.declare(a_node("a"))
    spec, stranger = a_spec(), a_spec(labels={"app": "somebody-elses"})
    pod = await world.cluster.create_pod(spec)
    other = await world.cluster.create_pod(stranger)
    found = await world.cluster.find_pod("default", spec.name)
    assert (found.uid, found.processor_id, found.epoch) == (pod.uid, pod.processor_id, pod.epoch)
    found = await world.cluster.find_pod("default", stranger.name)
    assert (found.uid, found.labels.get("managed-by")) == (other.uid, None)
    assert await world.cluster.find_pod("default", "nobody") is None
    assert await world.cluster.find_pod("other", spec.name) is None
    await world.cluster.delete_pod(pod, force=True)
    assert await world.cluster.find_pod("default", spec.name) is None


async def test_a_name_is_taken_until_its_pod_is_gone(world):
    await world.declare(a_node("a"))
    spec = a_spec()
    async with watching(world.cluster) as seen:
        pod = await world.cluster.create_pod(spec)
        assert await refusal(world.cluster.create_pod(spec)) == Refusal.ALREADY_EXISTS
        await seen.pod(spec.name, ready=True)
        await world.cluster.delete_pod(pod)
        await seen.gone(spec.name)
        again = await world.cluster.create_pod(spec)
        assert again.uid != pod.uid
        await world.cluster.create_pod(replace(spec, namespace="other"))


async def test_only_the_pod_of_that_uid_is_deleted(world):
    await world.declare(a_node("a"))
    spec = a_spec()
    async with watching(world.cluster) as seen:
        pod = await world.cluster.create_pod(spec)
        await seen.pod(spec.name, ready=True)
        for force in (False, True):
            other = replace(pod, uid=str(uuid4()))
            assert await refusal(world.cluster.delete_pod(other, force=force)) == Refusal.CONFLICT
        missing = replace(pod, name="missing")
        assert await refusal(world.cluster.delete_pod(missing)) == Refusal.NOT_FOUND
        await world.cluster.create_pod(a_spec(name="later"))
        await seen.pod("later")
        assert (await seen.pod(spec.name)).terminating is False


async def test_a_pod_without_a_place_goes_at_once(world):
    await world.declare()
    pod = await world.cluster.create_pod(a_spec())
    await world.cluster.delete_pod(pod)
    assert await refusal(world.cluster.delete_pod(pod)) == Refusal.NOT_FOUND


async def test_a_pod_of_a_lost_node_terminates_until_it_is_forced_away(world):
    await world.declare(a_node("a"))
    async with watching(world.cluster) as seen:
        kept, forced = a_spec(), a_spec()
        for spec in (kept, forced):
            await world.cluster.create_pod(spec)
        for spec in (kept, forced):
            await seen.pod(spec.name, ready=True)
        await world.lose_node("a")
        await seen.until(lambda now: not now.nodes["a"].ready)
        pods = [await seen.pod(spec.name, ready=False) for spec in (kept, forced)]
        assert {pod.phase for pod in pods} == {PodPhase.RUNNING}

        for pod in pods:
            await world.cluster.delete_pod(pod)
            await seen.pod(pod.name, terminating=True)
        await world.cluster.delete_pod(pods[1], force=True)
        await seen.gone(forced.name)
        assert (await seen.pod(kept.name)).terminating
        await world.restore_node("a")
        await seen.until(lambda now: now.nodes["a"].ready)
        await seen.gone(kept.name)


async def test_a_pod_of_a_node_that_comes_back_is_ready_again(world):
    await world.declare(a_node("a"))
    spec = a_spec()
    async with watching(world.cluster) as seen:
        created = await world.cluster.create_pod(spec)
        await seen.pod(spec.name, ready=True)
        await world.lose_node("a")
        lost_at = (await seen.pod(spec.name, ready=False)).ready_changed_at
        assert lost_at is not None
        await world.restore_node("a")
        pod = await seen.pod(spec.name, ready=True)
        assert pod.uid == created.uid


async def test_what_fits_nowhere_waits_for_a_node(world):
    await world.declare(a_node("a", allocatable=Resources(1_000, 1_000)))
    spec = a_spec(requests=Resources(2_000, 10))
    async with watching(world.cluster) as seen:
        await world.cluster.create_pod(spec)
        pod = await seen.until(lambda now: next((p for p in now.pods.values() if p.message), None))
        assert (pod.phase, pod.node_name, pod.ready) == (PodPhase.PENDING, None, False)
        assert "Insufficient cpu" in pod.message
        assert pod.requests == spec.requests
        small = a_node("a", allocatable=Resources(1_000, 1_000))
        await world.declare(small, a_node("b"))
        await seen.pod(spec.name, node_name="b", ready=True, message=None)


async def test_a_bound_pod_goes_to_its_node_or_nowhere(world):
    await world.declare(a_node("a"))
    bound, wishing = a_spec(node_name="b"), a_spec(preferred_node_name="b")
    async with watching(world.cluster) as seen:
        await world.cluster.create_pod(bound)
        await world.cluster.create_pod(wishing)
        await seen.pod(wishing.name, node_name="a")
        assert (await seen.pod(bound.name)).node_name is None
        await world.declare(a_node("a"), a_node("b"))
        await seen.pod(bound.name, node_name="b")
        later = a_spec(preferred_node_name="b")
        await world.cluster.create_pod(later)
        await seen.pod(later.name, node_name="b")


async def test_selectors_taints_and_cordons_are_kept(world):
    edge = Taint("edge-node", "true", TaintEffect.NO_SCHEDULE)
    await world.declare(
        a_node("cloud", labels={"workload-type": "application"}),
        a_node("closed", labels={"node-type": "edge"}, unschedulable=True),
        a_node("edge", labels={"node-type": "edge"}, taints=(edge,)),
    )
    selector = {"node-type": "edge"}
    tolerating = a_spec(
        node_selector=selector, tolerations=(Toleration("edge-node", value="true"),)
    )
    refusing = a_spec(node_selector=selector)
    async with watching(world.cluster) as seen:
        await world.cluster.create_pod(tolerating)
        await world.cluster.create_pod(refusing)
        await seen.pod(tolerating.name, node_name="edge")
        pod = await seen.until(lambda now: next((p for p in now.pods.values() if p.message), None))
        assert pod.name == refusing.name
        assert "untolerated taint" in pod.message


async def test_room_is_free_once_a_pod_is_gone(world):
    await world.declare(a_node("a", pods_max=1))
    first, second = a_spec(), a_spec()
    async with watching(world.cluster) as seen:
        pod = await world.cluster.create_pod(first)
        await seen.pod(first.name, ready=True)
        await world.cluster.create_pod(second)
        await seen.pod(second.name, node_name=None)
        await world.cluster.delete_pod(pod)
        await seen.pod(second.name, node_name="a")


async def test_one_sees_what_one_did(world):
    await world.declare(a_node("a"))
    async with world.cluster.observe() as pictures:
        async for _first in pictures:
            break
        created = await world.cluster.create_pod(a_spec())
        assert created.uid in (await anext(pictures)).pods
        await world.cluster.delete_pod(created, force=True)
        async for picture in pictures:
            assert created.uid not in picture.pods
            break


async def test_whoever_is_slow_gets_the_newest_picture(world):
    await world.declare(a_node("a"))
    async with world.cluster.observe() as pictures:
        assert "a" in (await anext(pictures)).nodes
        specs = [a_spec(node_name="nowhere") for _ in range(20)]
        for spec in specs:
            await world.cluster.create_pod(spec)
        assert len((await anext(pictures)).pods) == 20


async def test_many_watchers_see_the_same(world):
    await world.declare(a_node("a"))
    async with watching(world.cluster) as one, watching(world.cluster) as other:
        spec = a_spec()
        await world.cluster.create_pod(spec)
        assert await one.pod(spec.name, ready=True) == await other.pod(spec.name, ready=True)


async def test_what_becomes_of_what_is_saved(world):
    cluster = world.cluster
    assert cluster.carrier("") is cluster.carrier("configmap") is Carrier.READABLE
    assert cluster.carrier("s3") is Carrier.UNKNOWN


async def test_state_documents(world):
    key, other = uuid4(), uuid4()
    cluster = world.cluster
    try:
        assert await cluster.read_state("default", key) is None
        await cluster.seed_state("default", key, b"one", version=None)
        first = await cluster.read_state("default", key)
        assert first.document == b"one"
        for version in (None, "wrong"):
            seeding = cluster.seed_state("default", key, b"x", version=version)
            assert await refusal(seeding) == Refusal.CONFLICT
        seeding = cluster.seed_state("default", other, b"x", version=first.version)
        assert await refusal(seeding) == Refusal.CONFLICT
        await cluster.seed_state("default", key, b"two", version=first.version)
        second = await cluster.read_state("default", key)
        assert second.document == b"two"
        assert second.version != first.version
        seeding = cluster.seed_state("default", key, b"x", version=first.version)
        assert await refusal(seeding) == Refusal.CONFLICT
        removing = cluster.remove_state("default", key, version=first.version)
        assert await refusal(removing) == Refusal.CONFLICT
        assert await cluster.read_state("default", key) == second
        await cluster.remove_state("default", key, version=second.version)
        assert await cluster.read_state("default", key) is None
        removing = cluster.remove_state("default", key, version=second.version)
        assert await refusal(removing) == Refusal.NOT_FOUND
    finally:
        forget_states([key, other])


async def test_a_cluster_that_is_gone_is_unavailable(world):
    await world.declare(a_node("a"))
    pod = await world.cluster.create_pod(a_spec(node_name="nowhere"))
    async with world.cluster.observe() as pictures:
        await anext(pictures)
        await world.fail()
        with pytest.raises(ClusterUnavailable):
            async for _ in pictures:
                pass
    for work in (
        world.cluster.version(),
        world.cluster.create_pod(a_spec()),
        world.cluster.delete_pod(pod),
    ):
        with pytest.raises(ClusterUnavailable):
            await work
    with pytest.raises(ClusterUnavailable):
        async with world.cluster.observe():
            pass


async def test_what_is_said_twice_is_said_once(world):
    """Kubernetes keeps it; the others forget it at once."""
    await world.declare(a_node("a"))
    pod = await world.cluster.create_pod(a_spec())
    for about in (pod, "a"):
        said = said_of(about)
        await world.cluster.announce(said)
        await world.cluster.announce(said)
    server = getattr(world, "server", None)
    if server is not None:
        assert len(server.all("events")) == 2
