"""What every Store grants, and what not: compare and set, with the reason as an event."""

import asyncio
from uuid import uuid4

import pytest
from tests.contract.worlds import a_pod, adopt, create, delete, failure, forget, owner_of

from dory_orchestrator.core.model import Ownership, PodPhase
from dory_orchestrator.core.plan import Reason, Record
from dory_orchestrator.ports import EdgeNodeRegistration

ORGANIZATION = uuid4()


async def grant(world, lease, *actions):
    return await world.store.grant(lease, actions)


async def placed(world, lease, *, epoch=1, **pod):
    """A processor with a pod that owns it."""
    key = await world.desire()
    for number in range(1, epoch + 1):
        assert await grant(world, lease, create(key, number)) == [True]
    owner = a_pod(key, epoch, **pod)
    await world.store.record_pods(lease, [Record(key, epoch, owner)])
    return key, owner


# Creation


async def test_a_creation_raises_the_epoch_and_names_the_node(world, lease):
    key = await world.desire()
    assert await grant(world, lease, create(key, node="n7")) == [True]
    assert await owner_of(world, key) == Ownership(1, node_name="n7")
    assert await grant(world, lease, create(key, 2, node=None)) == [True]
    assert await owner_of(world, key) == Ownership(2)


async def test_of_the_same_creation_twice_one_is_refused(world, lease):
    key = await world.desire()
    assert await grant(world, lease, create(key)) == [True]
    assert await grant(world, lease, create(key)) == [False]
    assert await grant(world, lease, create(key, 3)) == [False]
    assert (await owner_of(world, key)).epoch == 1


async def test_of_many_at_once_one_is_granted(world, lease):
    key = await world.desire()
    granted = await asyncio.gather(*(grant(world, lease, create(key)) for _ in range(10)))
    assert sorted(granted) == [[False]] * 9 + [[True]]
    assert len(await world.events()) == 1


async def test_an_epoch_that_nobody_had_before_is_not_granted(world, lease):
    key = await world.desire()
    assert await grant(world, lease, create(key, 2)) == [False]
    assert await owner_of(world, key) is None


@pytest.mark.parametrize("status", ["terminated", "failed", None])
async def test_what_is_not_desired_any_more_is_not_created(world, lease, status):
    key = await world.desire()
    if status is None:
        await world.remove(key)
    else:
        await world.end(key, status)
    assert await grant(world, lease, create(key)) == [False]
    assert await owner_of(world, key) is None
    assert await world.events() == []


async def test_a_creation_takes_the_place_of_the_pod_before(world, lease):
    key, _ = await placed(world, lease, ready=True)
    assert await grant(world, lease, create(key, 2, node="n2")) == [True]
    taken = Ownership(2, node_name="n2", last_pod_name="pod-1", namespace="default")
    assert await owner_of(world, key) == taken
    # Nothing of the second was ever created: what the first saved at its end is the newest.
    assert await grant(world, lease, create(key, 3, node="n3")) == [True]
    assert (await owner_of(world, key)).newest_pod_name == "pod-1"


async def test_a_link_is_made_once_and_one_that_stands_stays(world, lease):
    a, b = [await world.store.register_edge_node(registration(name)) for name in "ab"]
    fresh, linked, cloud = [await world.desire() for _ in range(3)]
    await world.link(linked, b.id)
    await grant(
        world,
        lease,
        create(fresh, edge_node_id=a.id),
        create(linked, edge_node_id=a.id),
        create(cloud),
    )
    assert (await world.store.read_desired()).links == {fresh: a.id, linked: b.id}
    await grant(world, lease, create(fresh, 2, edge_node_id=b.id))
    assert (await world.store.read_desired()).links[fresh] == a.id


async def test_a_creation_that_is_refused_makes_no_link(world, lease):
    node = await world.store.register_edge_node(registration("a"))
    key = await world.desire()
    assert await grant(world, lease, create(key, 2, edge_node_id=node.id)) == [False]
    assert (await world.store.read_desired()).links == {}


def registration(name: str) -> EdgeNodeRegistration:
    return EdgeNodeRegistration(name=name, organization_id=ORGANIZATION)


# Deletion


async def test_a_deletion_needs_the_epoch(world, lease):
    key, pod = await placed(world, lease, epoch=2)
    for epoch in (0, 1, 3):
        assert await grant(world, lease, delete(pod, epoch)) == [False]
    assert await grant(world, lease, delete(pod)) == [True]
    assert (await owner_of(world, key)).restart_reason == "changed"


async def test_a_deletion_of_what_nobody_owns(world, lease):
    key = uuid4()
    assert await grant(world, lease, delete(a_pod(key), 1, Reason.NOT_DESIRED)) == [False]
    assert await grant(world, lease, delete(a_pod(key), 0, Reason.NOT_DESIRED)) == [True]
    assert await owner_of(world, key) is None


async def test_what_is_desired_again_is_not_ended_for_not_being_desired(world, lease):
    key, pod = await placed(world, lease)
    assert await grant(world, lease, delete(pod, reason=Reason.NOT_DESIRED)) == [False]
    await world.end(key, "terminated")
    assert await grant(world, lease, delete(pod, reason=Reason.NOT_DESIRED)) == [True]


async def test_the_owner_that_ends_is_not_ready_and_the_cause_is_kept(world, lease):
    key, pod = await placed(world, lease, ready=True)
    assert (await owner_of(world, key)).ready
    stale = a_pod(key, uid="other", name="other")
    assert await grant(world, lease, delete(stale, 1, Reason.STALE_OWNER)) == [True]
    own = await owner_of(world, key)
    assert (own.ready, own.restart_reason) == (True, None)
    assert await grant(world, lease, delete(pod)) == [True]
    own = await owner_of(world, key)
    assert (own.ready, own.restart_reason, own.exit_code) == (False, "changed", None)


async def test_several_pods_of_one_processor_end_together(world, lease):
    key, pod = await placed(world, lease)
    stale = a_pod(key, uid="other")
    assert await grant(world, lease, delete(stale), delete(pod)) == [True, True]
    assert len(await world.events()) == 3


async def test_a_failed_pod_keeps_how_it_ended(world, lease):
    key, pod = await placed(world, lease, exit_code=3, exit_reason="Error")
    await grant(world, lease, failure(key, 1, pod))
    await grant(world, lease, delete(pod, reason=Reason.FAILED))
    own = await owner_of(world, key)
    assert (own.exit_code, own.restart_reason) == (3, "Error")


# Adoption


async def test_only_what_nobody_owns_is_adopted(world, lease):
    key = await world.desire()
    pod = a_pod(key, uid="mine")
    assert await grant(world, lease, adopt(pod)) == [True]
    own = await owner_of(world, key)
    assert (own.epoch, own.pod_uid, own.node_name) == (1, "mine", "n1")
    assert await grant(world, lease, adopt(a_pod(key, uid="other"))) == [False]
    assert (await owner_of(world, key)).pod_uid == "mine"


# Failures


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exit_code": 3, "exit_reason": "OOMKilled"}, (3, "OOMKilled")),
        ({"exit_code": 1, "waiting_reason": "CrashLoopBackOff"}, (1, "CrashLoopBackOff")),
        ({"phase": PodPhase.FAILED}, (None, "Failed")),
    ],
)
async def test_a_failure_says_when_the_next_try_is_due(world, lease, fields, expected):
    key, pod = await placed(world, lease, **fields)
    assert await grant(world, lease, failure(key, 1, pod, failures=4)) == [True]
    desired = await world.store.read_desired()
    own = desired.ownership[key]
    assert (own.failures, own.failed_pod_uid, own.epoch) == (4, pod.uid, 1)
    assert (own.exit_code, own.restart_reason) == expected
    assert 28 < own.retry_at - desired.now <= 30
    assert not own.ready


async def test_a_creation_that_failed_has_no_pod(world, lease):
    key = await world.desire()
    await grant(world, lease, create(key))
    assert await grant(world, lease, failure(key)) == [True]
    own = await owner_of(world, key)
    assert (own.failures, own.failed_pod_uid, own.exit_code) == (1, None, None)
    assert own.retry_at is not None


async def test_a_failure_of_another_epoch_says_nothing(world, lease):
    key, pod = await placed(world, lease, epoch=2)
    assert await grant(world, lease, failure(key, 1, pod)) == [False]
    assert await grant(world, lease, failure(uuid4(), 1, pod)) == [False]
    assert (await owner_of(world, key)).failures == 0


async def test_failures_and_causes_survive_the_next_creation_until_its_pod_is_known(world, lease):
    key, pod = await placed(world, lease, exit_code=3, exit_reason="Error")
    await grant(world, lease, failure(key, 1, pod))
    await grant(world, lease, create(key, 2))
    own = await owner_of(world, key)
    assert (own.failures, own.exit_code, own.restart_reason) == (1, 3, "Error")
    await world.store.record_pods(lease, [Record(key, 2, a_pod(key, 2))])
    own = await owner_of(world, key)
    assert (own.failures, own.exit_code, own.restart_reason) == (1, None, None)


# Forgetting


async def test_forgetting_keeps_the_epoch_alone_and_the_way_home(world, lease):
    node = await world.store.register_edge_node(registration("a"))
    key, pod = await placed(world, lease, epoch=3)
    await world.link(key, node.id)
    await grant(world, lease, failure(key, 3, pod))
    assert await grant(world, lease, forget(key, 3)) == [False], "it is desired"
    await world.end(key, "terminated")
    assert await grant(world, lease, forget(key, 2)) == [False], "another epoch"
    assert await grant(world, lease, forget(key, 3)) == [True]
    desired = await world.store.read_desired()
    assert desired.ownership[key] == Ownership(3, last_pod_name="pod-3")
    assert desired.links == {key: node.id}


async def test_forgetting_what_has_no_row_any_more_stops_its_link(world, lease):
    node = await world.store.register_edge_node(registration("a"))
    key, _ = await placed(world, lease)
    await world.link(key, node.id)
    await world.remove(key)
    assert await grant(world, lease, forget(key)) == [True]
    assert (await world.store.read_desired()).links == {}


async def test_what_comes_back_goes_on_with_the_next_epoch(world, lease):
    key, _ = await placed(world, lease)
    await world.end(key, "terminated")
    await grant(world, lease, forget(key))
    await world.end(key, "running")
    assert (await world.store.read_desired()).configs.keys() == {key}
    assert await grant(world, lease, create(key)) == [False]
    assert await grant(world, lease, create(key, 2)) == [True]


# All of them


async def test_answers_come_in_the_order_of_the_actions(world, lease):
    one, pod = await placed(world, lease)
    two, three, four = [await world.desire() for _ in range(3)]
    gone, _ = await placed(world, lease)
    await world.remove(gone)
    actions = [
        forget(gone),
        create(two, 2),
        delete(pod),
        create(three),
        failure(uuid4()),
        adopt(a_pod(four, uid="f")),
        failure(one, 1, pod),
        adopt(pod),
    ]
    expected = [True, False, True, True, False, True, True, False]
    before = len(await world.events())
    assert await grant(world, lease, *actions) == expected
    told = [event.kind for event, _ in (await world.events())[before:]]
    assert told == ["forget", "delete", "create", "adopt", "failure"]


async def test_what_is_granted_is_told_with_reason_and_term(world, lease):
    key = await world.desire()
    await grant(world, lease, create(key, node="n7"))
    pod = a_pod(key, uid="u", name="p")
    await world.store.record_pods(lease, [Record(key, 1, pod)])
    await grant(world, lease, failure(key, 1, pod))
    await grant(world, lease, failure(key, 1))
    await grant(world, lease, delete(pod))
    await grant(world, lease, delete(pod, 9))
    await world.remove(key)
    await grant(world, lease, forget(key))

    told = await world.events()
    assert {term for _, term in told} == {lease.term}
    assert [event[:3] for event, _ in told] == [
        ("create", "not_running", "why"),
        ("failure", "failed", "why"),
        ("failure", "creation_refused", "why"),
        ("delete", "changed", "why"),
        ("forget", "not_desired", "why"),
    ]
    assert {event.processor_id for event, _ in told} == {key}
    assert {event.epoch for event, _ in told} == {1}
    assert [event[4:7] for event, _ in told] == [
        ("n7", "pod-1", None),
        ("n1", "p", "u"),
        (None, None, None),
        ("n1", "p", "u"),
        (None, None, None),
    ]


async def test_nothing_to_grant_is_no_error(world, lease):
    assert await grant(world, lease) == []
