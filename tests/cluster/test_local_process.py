"""The process of a local cluster: its begin, its end, and its sudden end."""

import asyncio
import signal
import stat
from pathlib import Path

import pytest
from tests.cluster.machine import answer, eventually
from tests.contract.cluster_worlds import QUICK, a_node, a_spec, version_of, watching
from tests.patience import patient

from dory_orchestrator.cluster.local.client import LocalCluster
from dory_orchestrator.cluster.local.messages import Timing
from dory_orchestrator.cluster.local.places import Places
from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.ports import ClusterRefused, ClusterUnavailable, Refusal

pytestmark = [pytest.mark.real, pytest.mark.timeout(40)]


@pytest.fixture
def machines(own_machines):
    """These tests end and kill the cluster's process: none for all."""
    return own_machines


async def a_ready_pod(cluster):
    spec = a_spec()
    async with watching(cluster) as seen:
        await cluster.create_pod(spec)
        return await seen.pod(spec.name, ready=True)


async def test_a_second_orchestrator_finds_the_same_pods(machines, cluster):
    pod = await a_ready_pod(cluster)
    before, process = set(machines.pods()), machines.process()
    await cluster.close()
    again = await machines.start()
    async with watching(again) as seen:
        assert await seen.pod(pod.name) == pod
    assert set(machines.pods()) == before
    assert machines.process() == process
    assert await answer(pod.address) == "200"


async def test_those_who_start_it_at_once_share_it(machines):
    clusters = await asyncio.gather(*(machines.start() for _ in range(3)))
    await clusters[0].declare_nodes([a_node("a")])
    assert len({await version_of(cluster) for cluster in clusters}) == 1


async def test_after_it_was_killed_nothing_is_left_over(machines, cluster):
    await a_ready_pod(cluster)
    unmarked = a_spec(command=("env", "-i", "/bin/sleep", "600"), args=())
    await cluster.create_pod(unmarked)
    noted = machines.folder / "data" / "local" / "processes"
    await eventually(lambda: len(list(noted.iterdir())) == 2)
    await cluster.cut_node("a")
    async with watching(cluster) as seen:
        await seen.until(lambda now: not now.nodes["a"].ready)
        machines.process().kill()
        await eventually(lambda: seen.failure)
        assert isinstance(seen.failure, ClusterUnavailable)
    pids = [int(path.name) for path in noted.iterdir()]
    assert len(machines.pods()) == 1

    again = await machines.start()
    assert not machines.pods()
    await eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
    async with watching(again) as seen:
        await seen.until(lambda now: "a" in now.nodes)
        # Nodes and what was done to them outlive the process, pods do not.
        assert not seen.now.nodes["a"].ready
        assert not seen.now.pods
        await again.restore_node("a")
        await seen.until(lambda now: now.nodes["a"].ready)
    await a_ready_pod(again)


async def test_one_that_hangs_is_noticed_and_replaced(machines, cluster):
    await a_ready_pod(cluster)
    hung = machines.process()
    async with watching(cluster) as seen:
        hung.send_signal(signal.SIGSTOP)
        await eventually(lambda: seen.failure)
        assert "silent" in str(seen.failure)
    await machines.start()
    assert not hung.is_running()
    assert not machines.pods()


@pytest.mark.parametrize("how", ["stop", "stop at once", "SIGTERM"])
async def test_it_ends_with_all_its_pods(machines, cluster, how):
    await a_ready_pod(cluster)
    process = machines.process()
    if how == "SIGTERM":
        process.terminate()
        await eventually(lambda: not process.is_running())
    else:
        await cluster.stop(immediate=how == "stop at once")
    assert not machines.pods()
    assert not Places(machines.folder / "data").whereabouts_file.exists()
    with pytest.raises(ClusterUnavailable):
        await cluster.version()


async def test_a_pod_that_will_not_end_does_not_keep_it(machines):
    cluster = await machines.start(timing=Timing(stop_seconds=1))
    await cluster.declare_nodes([a_node("a")])
    await cluster.create_pod(
        a_spec(command=("sh", "-c", "trap '' TERM; sleep 600"), args=(), grace_seconds=3_600)
    )
    await eventually(machines.pods)
    async with asyncio.timeout(patient(6)):
        await cluster.stop()
    assert not machines.pods()


async def test_two_clusters_do_not_touch_each_other(machines, cluster):
    other = await machines.start("other")
    await other.declare_nodes([a_node("a")])
    pods = await asyncio.gather(a_ready_pod(cluster), a_ready_pod(other))
    assert pods[0].address != pods[1].address
    await other.stop(immediate=True)
    assert not machines.pods("other")
    assert len(machines.pods()) == 1
    assert await answer(pods[0].address) == "200"


async def test_one_that_is_ending_is_waited_for(machines, cluster):
    slow = a_spec(
        command=("sh", "-c", "trap 'sleep 1; echo saved; exit' TERM; while :; do sleep 0.05; done")
    )
    await cluster.create_pod(slow)
    await eventually(machines.pods)
    process = machines.process()
    log = await cluster.log_path(slow.name)
    process.terminate()
    await eventually(lambda: _is_ending(cluster))
    with pytest.raises(ClusterUnavailable):
        await cluster.create_pod(a_spec())
    await machines.start()
    assert not process.is_running()
    assert log.read_text().endswith("saved\n")


async def _is_ending(cluster) -> bool:
    try:
        await cluster.version()
    except ClusterUnavailable as error:
        return "ending" in str(error)
    return False


async def test_a_long_path(machines):
    name = "/".join(["a-folder-with-a-long-name"] * 6)
    cluster = await machines.start(name)
    await cluster.declare_nodes([a_node("a")])
    await a_ready_pod(cluster)
    whereabouts = Places(machines.folder / name).whereabouts()
    assert whereabouts is not None
    socket = Path(whereabouts.socket)
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    await cluster.stop(immediate=True)
    assert not socket.parent.exists()


async def test_its_folder_is_private(machines, cluster):
    folder = machines.folder / "data" / "local"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_one_that_does_not_come_up_says_why(machines, cluster):
    # Held by a living process that does not say where it is.
    Places(machines.folder / "data").whereabouts_file.rename(machines.folder / "aside")
    with pytest.raises(ClusterUnavailable, match="another process holds"):
        await start(machines.folder / "data", QUICK)
    (machines.folder / "aside").rename(Places(machines.folder / "data").whereabouts_file)
    assert await version_of(cluster)


async def test_what_never_ran_can_be_stopped(machines):
    await LocalCluster(machines.folder / "nothing").stop()
    assert not (machines.folder / "nothing").exists()


async def test_nonsense_is_refused(cluster):
    for work in (
        cluster.create_pod(a_spec(name="../up")),
        cluster.declare_nodes([a_node("a"), a_node("a")]),
        cluster.configure("no url", None),
        cluster.configure("http://[", None),
        cluster.create_pod(a_spec(probes="none")),
        cluster.create_pod(a_spec(name="nul\0")),
    ):
        with pytest.raises(ClusterRefused) as refused:
            await work
        assert refused.value.reason == Refusal.INVALID
