"""What every Store is told of the cluster, and what it then says to others."""

import asyncio
from uuid import uuid4

import pytest
from tests.contract.worlds import a_pod, create, delete, forget, owner_of
from tests.patience import patient

from dory_orchestrator.core.directive import DirectiveReason, decide
from dory_orchestrator.core.model import Directive, GuardRecord, Ownership
from dory_orchestrator.core.picture import UnownedPod
from dory_orchestrator.core.plan import Finding, GuardVerdict, Reason, Record
from dory_orchestrator.ports import Beat, Event, Lease, LeaseLost, NodeSummary, PodFinding

# Who owns


async def test_a_pod_becomes_the_owner_and_the_platform_shows_it(world, lease):
    key = await world.desire("pending")
    await world.store.grant(lease, [create(key)])
    pod = a_pod(key, uid="u", name="p", node_name=None, ip=None)
    await world.store.record_pods(lease, [Record(key, 1, pod)])
    assert await world.store.show_pods(lease, [Record(key, 1, pod)]) == set()
    assert await owner_of(world, key) == Ownership(1, "u", "p", None, "n1", namespace="default")
    assert await world.shown_of(key) == ("p", None, None)

    placed = a_pod(key, uid="u", name="p", node_name="n2", ip="10.0.0.2", ready=True)
    await world.store.record_pods(lease, [Record(key, 1, placed)])
    assert await world.store.show_pods(lease, [Record(key, 1, placed)]) == set()
    assert await owner_of(world, key) == Ownership(
        1, "u", "p", "10.0.0.2", "n2", True, namespace="default"
    )
    assert await world.shown_of(key) == ("p", "10.0.0.2", "n2")
    assert await world.status_of(key) == "pending"


@pytest.mark.parametrize("epoch", [1, 3])
async def test_a_pod_of_another_epoch_is_not_written(world, lease, epoch):
    key = await world.desire()
    await world.store.grant(lease, [create(key)])
    await world.store.grant(lease, [create(key, 2, node="n2")])
    await world.store.record_pods(lease, [Record(key, epoch, a_pod(key, epoch))])
    await world.store.show_pods(lease, [Record(key, epoch, a_pod(key, epoch))])
    assert await owner_of(world, key) == Ownership(2, node_name="n2")
    assert await world.shown_of(key) == (None, None, None)


async def test_a_pod_of_what_nobody_owns_is_not_written(world, lease):
    key = await world.desire()
    await world.store.record_pods(lease, [Record(key, 1, a_pod(key))])
    await world.store.show_pods(lease, [Record(key, 1, a_pod(key))])
    assert await owner_of(world, key) is None
    assert await world.shown_of(key) == (None, None, None)


async def test_a_pod_whose_row_is_gone_still_owns(world, lease):
    key, other = await world.desire(), await world.desire()
    await world.store.grant(lease, [create(key), create(other)])
    await world.remove(key)
    records = [Record(k, 1, a_pod(k, uid=f"of {k}")) for k in (key, other)]
    await world.store.record_pods(lease, records)
    for k in (key, other):
        assert (await owner_of(world, k)).pod_uid == f"of {k}"
    await world.store.record_pods(lease, [])


async def test_what_is_recorded_wakes_nobody(world, lease):
    key = await world.desire()
    await world.store.grant(lease, [create(key)])
    async with world.store.changes() as changes:
        await world.store.record_pods(lease, [Record(key, 1, a_pod(key))])
        await world.store.record_findings(lease, {key: Finding(Reason.RUNNING, "")}, [])
        await world.store.record_guard(lease, GuardVerdict({"all": (9, 0)}, (a_pod(key),)))
        await world.store.record_events(lease, [Event("a", "b", "c")])
        await world.store.record_pod_health([PodFinding(key, True)])
        await world.store.record_heartbeats(
            [Beat(key, "n", True)], canary=True, timeout_seconds=patient(5)
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(changes), 0.2)


# What people are shown


async def test_findings_are_shown_until_their_processor_is_gone(world, lease):
    one, two = uuid4(), uuid4()
    pod = a_pod(one, 4, uid="u", name="p")
    await world.store.record_findings(
        lease,
        {one: Finding(Reason.RUNNING, "", pod), two: Finding(Reason.BACK_OFF, "failed once")},
        [],
    )
    assert await world.states() == {
        one: ("running", "running", "", "p", "u", 4),
        two: ("waiting", "back_off", "failed once", None, None, None),
    }
    assert (await world.store.shown())[0] == {one: "running", two: "back_off"}
    await world.store.record_findings(lease, {two: Finding(Reason.NO_EDGE_NODE, "x")}, [one])
    assert await world.states() == {two: ("pending", "no_edge_node", "x", None, None, None)}


async def test_nodes_are_shown_until_they_are_gone(world, lease):
    edge = NodeSummary("a", "edge", True, 1000.5, False, 4000, 2**40, 1, 110, 7, 0.25)
    other = NodeSummary("b", "other", False, None, True, 0, 0, 0, 0, 0, 0.0)
    await world.store.record_nodes(lease, [edge, other], [])
    assert await world.nodes() == {"a": edge, "b": other}
    assert (await world.store.shown())[1] == {"a", "b"}
    fuller = edge._replace(kind="application", pods=8, utilisation=0.5)
    await world.store.record_nodes(lease, [fuller], ["b", "c"])
    assert await world.nodes() == {"a": fuller}


async def test_what_is_shown_is_of_a_term(world, lease):
    assert await world.shown_term() == 0
    await world.store.mark_shown(lease)
    assert await world.shown_term() == lease.term


async def test_the_guard_is_held_since_its_first_moment(world, lease):
    assert (await world.store.read_desired()).guard == GuardRecord()
    pod = a_pod(uuid4())
    await world.store.record_guard(lease, GuardVerdict({"all": (9, 2)}, (pod,)))
    since = (await world.store.read_desired()).guard.held_since
    assert since is not None
    verdict = GuardVerdict({"all": (9, 0), "template a": (9, 0)}, (pod, pod))
    await world.store.record_guard(lease, verdict)
    assert (await world.store.read_desired()).guard.held_since == since
    assert await world.guard() == ({"all": 0, "template a": 0}, verdict.detail)

    await world.confirm({"all": 0})
    await world.store.record_guard(lease, GuardVerdict())
    desired = await world.store.read_desired()
    assert (desired.guard.held_since, desired.guard.confirmed) == (None, {"all": 0})
    assert abs(desired.now - desired.guard.confirmed_at) < 5
    assert await world.guard() == ({}, "")


async def test_events_keep_their_order_and_the_term(world, lease):
    key = uuid4()
    events = [Event("a", "b", "c"), Event("d", "e", "f\n\U0001f41f", key, "n", "p", "u", 2**40)]
    await world.store.record_events(lease, events)
    await world.store.record_events(lease, [])
    await world.store.record_events(lease, events[:1])
    expected = [(event, lease.term) for event in (*events, events[0])]
    assert await world.events() == expected
    await world.store.forget_events(60.0)
    assert await world.events() == expected
    await world.store.forget_events(-1.0)
    assert await world.events() == []


async def test_events_keep_the_trace_that_they_are_part_of(world, lease):
    one, two = await world.desire(), await world.desire()
    actions = [create(one), create(two)]
    assert await world.store.grant(lease, actions, {two: "ab" * 16}) == [True, True]
    await world.store.record_events(lease, [Event("a", "b", "c", trace_id="cd" * 16)])
    assert await world.trace_ids() == [None, "ab" * 16, "cd" * 16]


@pytest.mark.parametrize("text", ["nul \x00 within", "half a pair \udce4"])
async def test_a_text_that_the_database_cannot_hold_stops_nothing(world, lease, text):
    """A cluster says what it likes."""
    key = await world.desire()
    await world.store.record_findings(lease, {key: Finding(Reason.STARTING, text)}, [])
    await world.store.record_events(lease, [Event("a", "b", text)])
    assert (await world.states()).keys() == {key}
    assert len(await world.events()) == 1


# Health of pods


async def test_a_silent_pod_s_health_is_what_the_poller_found(world):
    key = await world.desire()
    for healthy, status in ((True, "healthy"), (False, "unhealthy"), (True, "healthy")):
        await world.store.record_pod_health([PodFinding(key, healthy)])
        assert await world.health_of(key) == status


async def test_what_a_processor_says_itself_counts(world):
    beating, mute = await world.desire(), await world.desire()
    both = [PodFinding(beating, True), PodFinding(mute, True)]
    await world.store.record_pod_health(both)
    await world.store.record_heartbeats(
        [Beat(beating, "n", False)], canary=False, timeout_seconds=patient(5)
    )
    for _ in range(2):
        await world.store.record_pod_health(both)
        assert await world.health_of(beating) == "unhealthy"
        assert await world.health_of(mute) == "healthy"


@pytest.mark.parametrize(("seconds", "status"), [(55, "unhealthy"), (61, "healthy")])
async def test_until_it_has_been_silent_for_a_minute(world, seconds, status):
    key = await world.desire()
    await world.store.record_heartbeats(
        [Beat(key, "n", False)], canary=False, timeout_seconds=patient(5)
    )
    await world.forget_beat(key, seconds)
    await world.store.record_pod_health([PodFinding(key, True)])
    assert await world.health_of(key) == status


async def test_health_of_what_is_gone_is_no_error(world):
    await world.store.record_pod_health([PodFinding(uuid4(), True)])
    await world.store.record_pod_health([])


# What heartbeats are answered while a deletion is undecided


async def answer(world, key):
    beat = Beat(key, "n1", True)
    (facts,) = await world.store.record_heartbeats([beat], canary=False, timeout_seconds=patient(5))
    return decide(facts, "n1")


async def hold_guard(world, lease, held=True):
    verdict = GuardVerdict({"all": (9, 0)}, (a_pod(uuid4()),)) if held else GuardVerdict()
    await world.store.record_guard(lease, verdict)


async def owned(world, lease, **fields):
    key = await world.desire()
    await world.store.grant(lease, [create(key, node=fields.get("node_name", "n1"))])
    await world.store.record_pods(lease, [Record(key, 1, a_pod(key, **fields))])
    return key


CONTINUE = (Directive.CONTINUE, DirectiveReason.DELETION_UNDECIDED)
NO_PICTURE = (Directive.CONTINUE, DirectiveReason.NO_PICTURE)
UNOWNED_POD = (Directive.CONTINUE, DirectiveReason.UNOWNED_POD)
NOT_FOUND = (Directive.SHUTDOWN, DirectiveReason.NOT_FOUND)
ENDED = (Directive.SHUTDOWN, DirectiveReason.ENDED)


async def see(world, lease, unowned=None, *, seconds=30.0, uid="c1", is_whole=True):
    """A leader sees the cluster now, and these pods that bear ids without owning them."""
    return await world.store.record_picture(
        lease,
        interval_seconds=seconds,
        cluster_uid=uid,
        is_whole=is_whole,
        unowned=unowned or {},
    )


def unowned(name="p", *, is_unknown=True):
    return UnownedPod("default", name, is_unknown)


async def test_a_pod_whose_row_is_gone_goes_on_until_its_end_is_granted(world, lease):
    await see(world, lease)
    key = await owned(world, lease)
    assert await answer(world, key) == (Directive.CONTINUE, DirectiveReason.DESIRED)
    await world.remove(key)
    assert await answer(world, key) == CONTINUE
    pod = a_pod(key)
    assert await world.store.grant(lease, [delete(pod, reason=Reason.NOT_DESIRED)]) == [True]
    assert await answer(world, key) == NOT_FOUND
    await world.store.grant(lease, [forget(key)])
    assert await answer(world, key) == NOT_FOUND


@pytest.mark.parametrize("status", ["terminated", "failed"])
async def test_a_pod_whose_row_has_ended_goes_on_until_its_end_is_granted(world, lease, status):
    await see(world, lease)
    key, other = await owned(world, lease), await owned(world, lease)
    await world.end(key, status)
    assert await answer(world, key) == CONTINUE
    pod = a_pod(key)
    assert await world.store.grant(lease, [delete(pod, reason=Reason.NOT_DESIRED)]) == [True]
    assert await answer(world, key) == ENDED
    assert (await owner_of(world, key)).end_granted
    assert not (await owner_of(world, other)).end_granted


async def test_a_pod_that_is_ended_for_another_reason_is_not_told_to_end(world, lease):
    await see(world, lease)
    key = await owned(world, lease)
    assert await world.store.grant(lease, [delete(a_pod(key), reason=Reason.CHANGED)]) == [True]
    await world.remove(key)
    assert await answer(world, key) == CONTINUE


async def test_the_end_is_granted_also_before_it_is_written_which_pod_it_is(world, lease):
    await see(world, lease)
    key = await world.desire()
    await world.store.grant(lease, [create(key)])
    await world.remove(key)
    assert await answer(world, key) == CONTINUE, "its pod may run already"
    await world.store.grant(lease, [delete(a_pod(key), reason=Reason.NOT_DESIRED)])
    assert await answer(world, key) == NOT_FOUND


async def end_granted(world, lease):
    """One whose end was granted, and that is desired again."""
    await see(world, lease)
    key = await owned(world, lease)
    await world.end(key, "terminated")
    await world.store.grant(lease, [delete(a_pod(key), reason=Reason.NOT_DESIRED)])
    await world.end(key, "running")
    return key


async def test_a_grant_of_the_end_is_over_with_a_new_pod(world, lease):
    key = await end_granted(world, lease)
    await world.store.grant(lease, [create(key, 2)])
    await world.end(key, "terminated")
    assert await answer(world, key) == CONTINUE


async def test_a_grant_of_the_end_is_over_once_its_pod_is_desired_again(world, lease):
    key = await end_granted(world, lease)
    await world.store.record_pods(lease, [Record(key, 1, a_pod(key))])
    await world.end(key, "terminated")
    assert await answer(world, key) == CONTINUE


async def test_a_row_that_nobody_owns_is_not_found(world, lease):
    await see(world, lease)
    assert await answer(world, uuid4()) == NOT_FOUND


async def test_without_a_cluster_the_row_alone_decides(world):
    assert await answer(world, uuid4()) == NOT_FOUND
    assert await answer(world, await world.desire("terminated")) == ENDED


async def test_nobody_is_told_to_end_before_a_leader_has_seen_the_cluster(world, lease):
    ended = await world.desire("terminated")
    for key in (uuid4(), ended):
        assert await answer(world, key) == NO_PICTURE
    await see(world, lease)
    assert await answer(world, ended) == ENDED


async def test_a_picture_counts_for_one_poll_interval(world, lease):
    await see(world, lease, seconds=0.0)
    await asyncio.sleep(0.01)  # by the database's clock: more than no time at all
    assert await answer(world, uuid4()) == NO_PICTURE
    doubts = await world.store.read_doubts()
    assert doubts.age_seconds > 0
    assert doubts.interval_seconds == 0


async def test_whose_id_a_pod_bears_unowned_is_not_told_to_end(world, lease):
    first, second, ended = uuid4(), uuid4(), await world.desire("terminated")
    found = {first: unowned("a"), second: unowned("b"), ended: unowned("c", is_unknown=False)}
    assert not (await see(world, lease, found)).has_unknown_pods
    for key in found:
        assert await answer(world, key) == UNOWNED_POD
    assert (await see(world, lease, found)).has_unknown_pods
    assert await answer(world, first) == UNOWNED_POD
    doubts = await world.store.read_doubts()
    assert (doubts.unknown_count, list(doubts.unknown_pods)) == (2, ["default/a", "default/b"])
    await see(world, lease, {second: unowned("b", is_unknown=False)})
    assert await answer(world, first) == NOT_FOUND
    assert await answer(world, second) == UNOWNED_POD
    assert (await world.store.read_doubts()).unknown_count == 0


async def test_a_pod_of_another_fleet_keeps_also_whose_end_was_granted(world, lease):
    key = await end_granted(world, lease)
    await world.end(key, "terminated")
    assert await answer(world, key) == ENDED
    await see(world, lease, {key: unowned(is_unknown=False)})
    assert await answer(world, key) == UNOWNED_POD


async def test_where_namespaces_are_not_seen_only_who_was_granted_its_end_is_told(world, lease):
    key = await end_granted(world, lease)
    await world.end(key, "terminated")
    await see(world, lease, {}, is_whole=False)
    assert await answer(world, key) == ENDED
    assert await answer(world, uuid4()) == UNOWNED_POD


async def test_another_cluster_is_no_picture(world, lease):
    assert (await see(world, lease)).is_taken
    assert await answer(world, uuid4()) == NOT_FOUND
    said = await see(world, lease, uid="c2")
    assert (said.is_taken, said.cluster_uid) == (False, "c1")
    assert await answer(world, uuid4()) == NO_PICTURE
    doubts = await world.store.read_doubts()
    assert (doubts.cluster_uid, doubts.seen_cluster_uid) == ("c1", "c2")
    assert (await see(world, lease, uid="c2")).cluster_uid == "c2", "it was told of already"
    assert (await see(world, lease, uid="c1")).is_taken
    assert await answer(world, uuid4()) == NOT_FOUND


async def test_a_cluster_that_does_not_say_which_it_is_is_any(world, lease):
    assert (await see(world, lease, uid=None)).is_taken
    assert (await see(world, lease, uid="c1")).is_taken
    assert (await see(world, lease, uid=None)).is_taken


async def test_whoever_does_not_lead_sees_nothing(world, lease):
    with pytest.raises(LeaseLost):
        await see(world, Lease("somebody", lease.term))
    assert await answer(world, uuid4()) == NO_PICTURE


async def test_while_the_guard_holds_nobody_is_shut_down_for_a_missing_or_ended_row(world, lease):
    await see(world, lease)
    ended, failed = await world.desire("terminated"), await world.desire("failed")
    running = await owned(world, lease)
    await hold_guard(world, lease)
    for key in (ended, failed, uuid4()):
        assert await answer(world, key) == CONTINUE
    assert (await world.store.read_doubts()).guard_holds
    assert (await answer(world, running))[1] is DirectiveReason.DESIRED
    await hold_guard(world, lease, held=False)
    for key in (ended, failed):
        assert await answer(world, key) == ENDED
    assert (await answer(world, uuid4()))[0] is Directive.SHUTDOWN


async def test_each_beat_of_a_batch_gets_its_own_answer(world, lease):
    gone, ended, never = await owned(world, lease), await world.desire("terminated"), uuid4()
    running, borne = await world.desire(), uuid4()
    await see(world, lease, {borne: unowned()})
    await world.remove(gone)
    order = [gone, ended, never, running, borne, gone, never]
    facts = await world.store.record_heartbeats(
        [Beat(key, "n1", True) for key in order], canary=False, timeout_seconds=patient(5)
    )
    assert [decide(fact, "n1")[1].value for fact in facts] == [
        "deletion_undecided",
        "ended",
        "not_found",
        "desired",
        "unowned_pod",
        "deletion_undecided",
        "not_found",
    ]
