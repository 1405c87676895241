"""Nodes of the local cluster that crash, are cut off, and come back."""

import pytest
from msgspec.structs import replace
from tests.cluster.machine import SERVE, answer, eventually, is_silent, listening
from tests.contract.cluster_worlds import QUICK, a_node, a_spec, watching
from tests.patience import patient

from dory_orchestrator.ports import ClusterRefused, Refusal

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]

BEAT = (
    SERVE
    + """
import threading, urllib.request
def beat():
    while True:
        try:
            url = os.environ["DORY_ORCHESTRATOR_URL"] + "/beat/" + os.environ["NODE_NAME"]
            urllib.request.urlopen(url, timeout=0.3).read()
        except OSError as error:
            print(error, flush=True)
        time.sleep(0.05)
threading.Thread(target=beat, daemon=True).start()
serve()
"""
)


def beating(**changes):
    return a_spec(command=("python", "-I", "-c"), args=(BEAT,), **changes)


async def test_a_cut_node_is_unheard_and_its_processes_go_on(machines, cluster):
    await cluster.declare_nodes([a_node("a"), a_node("b")])
    cut, other = beating(node_name="a"), beating(node_name="b")
    async with listening() as orchestrator, watching(cluster) as seen:
        await cluster.configure(orchestrator.url, None)
        for spec in (cut, other):
            await cluster.create_pod(spec)
        pods = [await seen.pod(spec.name, ready=True) for spec in (cut, other)]
        await eventually(
            lambda: {"/beat/a", "/beat/b"} <= {b.split()[1] for b in orchestrator.heard}
        )
        running = set(machines.pods())

        await cluster.cut_node("a")
        assert await is_silent(pods[0].address)
        assert await answer(pods[1].address) == "200"
        node = await seen.until(lambda now: None if now.nodes["a"].ready else now.nodes["a"])
        assert {taint.effect for taint in node.taints} == {"NoSchedule", "NoExecute"}
        assert {taint.key for taint in node.taints} == {"node.kubernetes.io/unreachable"}
        pod = await seen.pod(cut.name, ready=False)
        assert (pod.phase, pod.restart_count) == ("Running", 0)
        orchestrator.heard.clear()
        for _ in range(5):
            assert "/beat/b" in await orchestrator.next()
        assert set(machines.pods()) == running

        await cluster.restore_node("a")
        await eventually(lambda: any("/beat/a" in beat for beat in orchestrator.heard))
        await seen.until(lambda now: now.nodes["a"].ready and not now.nodes["a"].taints)
        assert (await seen.pod(cut.name, ready=True)).restart_count == 0
        assert await answer(pods[0].address) == "200"
        assert set(machines.pods()) == running


async def test_the_uplink_leads_to_where_the_orchestrator_is_now(cluster):
    spec = beating()
    async with watching(cluster) as seen:
        await cluster.create_pod(spec)  # before anybody said where the orchestrator is
        await seen.pod(spec.name, ready=True)
        for _ in range(2):
            async with listening() as orchestrator:
                await cluster.configure(orchestrator.url, None)
                await orchestrator.next()
        assert (await seen.pod(spec.name)).restart_count == 0


async def test_what_left_the_books_of_a_cut_node_ends_when_it_is_back(machines, cluster):
    forced, kept = a_spec(), a_spec()
    async with watching(cluster) as seen:
        for spec in (forced, kept):
            await cluster.create_pod(spec)
        pods = [await seen.pod(spec.name, ready=True) for spec in (forced, kept)]
        await cluster.cut_node("a")
        await seen.until(lambda now: not now.nodes["a"].ready)
        await cluster.delete_pod(pods[0], force=True)
        await seen.gone(forced.name)
        # The same name once more, elsewhere, while the old one still runs.
        await cluster.declare_nodes([a_node("a"), a_node("b")])
        await cluster.create_pod(forced)
        again = await seen.pod(forced.name, ready=True, node_name="b")
        assert len(machines.pods()) == 3
        await cluster.restore_node("a")
        await seen.pod(kept.name, ready=True)
        await eventually(lambda: len(machines.pods()) == 2)
        assert pods[0].uid not in {p.environ()["POD_UID"] for p in machines.pods()}
        assert again.uid in seen.now.pods


async def test_a_crashed_node_comes_back_with_its_pods(machines, cluster):
    kept, deleted = a_spec(), a_spec()
    async with watching(cluster) as seen:
        for spec in (kept, deleted):
            await cluster.create_pod(spec)
        before = [await seen.pod(spec.name, ready=True) for spec in (kept, deleted)]
        await cluster.crash_node("a")
        await eventually(lambda: not machines.pods())
        assert await is_silent(before[0].address)
        await seen.until(lambda now: not now.nodes["a"].ready)
        pod = await seen.pod(kept.name, ready=False)
        assert (pod.phase, pod.restart_count) == ("Running", 0)
        await cluster.delete_pod(before[1])
        await seen.pod(deleted.name, terminating=True)

        await cluster.restore_node("a")
        pod = await seen.pod(kept.name, ready=True, restart_count=1)
        assert pod.uid == before[0].uid
        await seen.gone(deleted.name)
        assert len(machines.pods()) == 1
        assert await answer(pod.address) == "200"


async def test_a_short_crash_is_not_noticed_but_by_its_restarts(own_machines):
    # Time for one call, however slow the machine is.
    unhurried = replace(QUICK, not_ready_after_seconds=patient(5.0))
    cluster = await own_machines.start(timing=unhurried)
    await cluster.declare_nodes([a_node("a")])
    spec = a_spec()
    async with watching(cluster) as seen:
        await cluster.create_pod(spec)
        await seen.pod(spec.name, ready=True)
        changed_at = seen.now.nodes["a"].ready_changed_at
        await cluster.crash_node("a")
        await cluster.restore_node("a")
        await seen.pod(spec.name, ready=True, restart_count=1)
        assert seen.now.nodes["a"].ready_changed_at == changed_at


async def test_the_pods_of_a_removed_node_end(machines, cluster):
    async with watching(cluster) as seen:
        for fate in (None, cluster.cut_node, cluster.crash_node):
            await cluster.declare_nodes([a_node("a")])
            spec = a_spec()
            await cluster.create_pod(spec)
            await seen.pod(spec.name, ready=True)
            if fate is not None:
                await fate("a")
            await cluster.declare_nodes([])
            await seen.gone(spec.name)
            await seen.until(lambda now: not now.nodes)
            await eventually(lambda: not machines.pods())


async def test_unknown_names_are_answered_with_those_that_exist(cluster):
    spec = a_spec(node_name="nowhere")
    await cluster.create_pod(spec)
    for call, known in [
        (cluster.crash_node, "a"),
        (cluster.cut_node, "a"),
        (cluster.restore_node, "a"),
        (cluster.crash_pod, spec.name),
        (cluster.stop_pod, spec.name),
    ]:
        with pytest.raises(ClusterRefused, match=f"there are: {known}") as refused:
            await call("missing")
        assert refused.value.reason == Refusal.NOT_FOUND
    await cluster.crash_node("a")
    with pytest.raises(ClusterRefused, match="restore it"):
        await cluster.cut_node("a")
