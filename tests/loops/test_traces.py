"""Cycles, calls and moves as spans; a move is one trace, however many leaders it outlives."""

import asyncio
from collections import Counter
from uuid import UUID

import pytest
from tests.loops.checkpoint_rig import Rig as CheckpointRig
from tests.loops.fleet_rig import Rig
from tests.loops.test_moves import Site
from tests.loops.test_poll_health import Rig as PollRig
from tests.tracing_double import KeepingTracer, ids, said, seconds

from dory_orchestrator.ports import ClusterRefused, Refusal, StoreUnavailable
from dory_orchestrator.tracing import MoveTrace

pytestmark = pytest.mark.looptime


async def test_a_cycle_is_a_trace_with_its_parts_and_its_calls():
    tracer = KeepingTracer()
    rig = Rig(tracer=tracer)
    rig.desire(1, 2)
    async with rig:
        await rig.until(lambda: rig.running == 2)
        await asyncio.sleep(1)

    (cycle,) = [s for s in tracer.named("reconcile.cycle") if said(s).get("actions")]
    trace_id, cycle_id, around = ids(cycle)
    assert around is None
    expected = {
        "processors": 2,
        "actions": 2,
        "moves": 0,
        "refused": 0,
        "leading": True,
        "term": 1,
        "outcome": "done",
        "fleet_id": rig.watcher.fleet_id,
    }
    assert said(cycle) == expected
    of_it = [span for span in tracer.spans if ids(span)[0] == trace_id]
    parts = [span.name for span in of_it if ids(span)[2] == cycle_id]
    assert parts == [f"reconcile.{part}" for part in ("read", "compute", "judge", "grant", "show")]
    (grant,) = [span for span in of_it if span.name == "reconcile.grant"]
    creates = [span for span in of_it if span.name == "pod.create"]
    assert [ids(span)[2] for span in creates] == [ids(grant)[1]] * 2
    calls = [span for span in of_it if span.name == "cluster.create_pod"]
    assert {ids(span)[2] for span in calls} == {ids(span)[1] for span in creates}
    assert {e.trace_id for e in rig.store.events if e.kind == "create"} == {trace_id}


async def test_a_move_is_one_trace_across_two_leaders():
    one, two = KeepingTracer(), KeepingTracer()
    site = Site(tracer=one)
    async with site:
        await site.until_at("edge-1")
        await asyncio.sleep(3)
        site.has_state = False
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(lambda: "cloud-1" in site.place_of())
        await asyncio.sleep(2)
        await site.rig.stop()
        other = Rig(
            site.rig.store,
            site.rig.cluster,
            holder="another",
            evidence=site,
            states=site.states,
            tracer=two,
        )
        async with other:
            await asyncio.sleep(30)
            site.has_state = True
            await other.until(lambda: not other.store.moves)

    move = MoveTrace(UUID(int=0), "failover", 2)
    trace_id, root_id = f"{move.ids[0]:032x}", f"{move.ids[1]:016x}"
    first = [span for span in one.spans if ids(span)[0] == trace_id]
    second = [span for span in two.spans if ids(span)[0] == trace_id]
    steps = [span.name for span in (*first, *second) if ids(span)[2] == root_id]
    assert steps[:3] == ["move.grant", "pod.create", "pod.delete"]
    assert steps[-3:] == ["pod.start", "state.given", "move.end"]
    (create,) = [span for span in first if span.name == "pod.create"]
    within = [span.name for span in first if ids(span)[2] == ids(create)[1]]
    assert within == ["state.prepare", "cluster.create_pod"]
    (root,) = [span for span in second if span.name == "move.failover"]
    assert ids(root) == (trace_id, root_id, None)
    (event,) = [e for e in site.rig.store.events if e.kind == "moved"]
    assert f"RTO {said(root)['rto_seconds']:.1f} s" in event.detail
    assert said(root)["rpo_seconds"] >= 0
    assert (said(root)["outcome"], said(root)["from_node"]) == ("done", "edge-1")
    # From the grant of one leader to the end by the other.
    assert 30 < seconds(root) < 40
    told = {e.kind: e.trace_id for e in site.rig.store.events if e.kind in ("failover", "moved")}
    assert told == {"failover": trace_id, "moved": trace_id}


async def test_the_way_home_is_another_trace_and_links_to_its_cycles():
    tracer = KeepingTracer()
    async with Site(tracer=tracer) as site:
        await site.until_at("edge-1")
        await asyncio.sleep(3)
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")
        site.rig.cluster.restore_node("edge-1")
        await site.until_at("edge-1")

    (away,), (home,) = tracer.named("move.failover"), tracer.named("move.failback")
    assert said(away)["move_epoch"] == said(home)["move_epoch"] == 2
    assert ids(away)[0] != ids(home)[0]
    of_home = [span for span in tracer.spans if ids(span)[0] == ids(home)[0]]
    names = Counter(span.name for span in of_home)
    assert names >= Counter(["move.grant", "state.capture", "cluster.delete_pod", "pod.create"])
    # The creation at home says nothing of the move, and is a part of it all the same.
    events = [e for e in site.rig.store.events if e.trace_id == ids(home)[0]]
    assert [e.kind for e in events if e.kind != "ready"] == ["failback", "create", "moved"]
    cycles = {ids(span)[0] for span in tracer.named("reconcile.cycle")}
    (grant,) = [span for span in of_home if span.name == "move.grant"]
    assert {f"{link.context.trace_id:032x}" for link in grant.links} <= cycles
    assert len(grant.links) == 1


async def test_a_move_that_is_cancelled_ends_its_trace():
    tracer = KeepingTracer()
    async with Site(tracer=tracer) as site:
        await site.until_at("edge-1")
        await asyncio.sleep(3)
        site.rig.cluster.remove_node("cloud-1")
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(lambda: len(site.rig.pods_of(0)) == 2)
        site.rig.cluster.restore_node("edge-1")
        await site.until_at("edge-1")

    (root,) = tracer.named("move.failover")
    assert said(root)["outcome"] == "cancelled"
    assert "rto_seconds" not in said(root)


async def test_with_no_share_moves_are_traced_all_the_same():
    tracer = KeepingTracer(share=0.0)
    async with Site(tracer=tracer) as site:
        await site.until_at("edge-1")
        await asyncio.sleep(3)
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")

    assert {ids(span)[0] for span in tracer.spans} == {ids(tracer.named("move.failover")[0])[0]}
    assert len(tracer.named("pod.create")) == 1
    traced = [e.kind for e in site.rig.store.events if e.trace_id is not None]
    assert sorted(traced) == ["delete", "failover", "moved", "ready"]


async def test_a_cycle_that_fails_says_so():
    tracer = KeepingTracer()
    rig = Rig(tracer=tracer)
    rig.store.error = StoreUnavailable("it is away")
    async with rig:
        await asyncio.sleep(0.2)

    (cycle,) = tracer.named("reconcile.cycle")
    assert said(cycle)["outcome"] == "failed"
    (read,) = tracer.named("reconcile.read")
    assert said(read)["error.type"] == "StoreUnavailable"
    assert "away" not in str(read.to_json())


async def test_what_the_cluster_refused_is_told_with_the_trace_of_the_call():
    tracer = KeepingTracer()
    rig = Rig(tracer=tracer)
    rig.desire(1, 2)
    async with rig:
        await rig.until(lambda: rig.running == 2)
        rig.cluster.refused = ClusterRefused(Refusal.FORBIDDEN, "no")
        rig.undesire(1)
        await rig.until(lambda: rig.told("delete_refused"))

    (event,) = [e for e in rig.store.events if e.kind == "delete_refused"][:1]
    (call,) = [s for s in tracer.named("cluster.delete_pod") if ids(s)[0] == event.trace_id]
    assert said(call)["error.type"] == "ClusterRefused"


async def test_a_round_of_the_poller_is_a_span():
    tracer = KeepingTracer()
    async with PollRig(tracer=tracer) as rig:
        rig.add(1)
        rig.add(2, None)
        await rig.until(19)

    rounds = [(said(s)["asked"], said(s)["answered"]) for s in tracer.named("pods.poll_round")]
    assert rounds[-1] == (2, 1)


async def test_what_is_put_into_a_moving_pod_is_part_of_its_move():
    tracer, moves = KeepingTracer(), dict[UUID, MoveTrace]()
    rig = CheckpointRig(tracer=tracer, move_of=moves.get)
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        before = len(tracer.spans)
        assert {span.name for span in tracer.spans} == {"pods.get_state"}
        move = moves[UUID(int=1)] = MoveTrace(UUID(int=1), "failover", 2)
        rig.running.clear()
        rig.add(1, {"count": 0}, name="pod-b", epoch=2)
        await rig.until(13)
        assert rig.restored("pod-b")

    put_after_get = [span.name for span in tracer.spans[before:]]
    assert put_after_get[:3] == ["pods.get_state", "pods.put_state", "pods.get_state"]
    trace_id = tracer.trace_id(move)
    assert {ids(span)[0] for span in tracer.spans[before:]} == {trace_id}
    assert trace_id not in {ids(span)[0] for span in tracer.spans[:before]}
