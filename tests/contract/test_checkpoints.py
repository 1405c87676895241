"""What every CheckpointStore promises: nothing is lost, and nothing older replaces anything."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.checkpoints_double import MemoryCheckpointStore
from tests.contract.worlds import MemoryWorld, PostgresWorld, a_pod, connected, create
from tests.patience import patient

from dory_orchestrator.core.checkpoint import (
    Capture,
    Document,
    Incarnation,
    Position,
    payload_of,
    sha256_of,
)
from dory_orchestrator.core.plan import Forget, GuardVerdict, Reason, Record
from dory_orchestrator.core.start import Lay, Start
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Archived,
    Checkpoint,
    Confirmation,
    DepartedState,
    Lease,
    LeaseLost,
)
from dory_orchestrator.store.checkpoints import ARCHIVE_BYTES_MAX
from dory_orchestrator.store.postgres import PostgresStore


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        world: Any = MemoryWorld()
        world.memory = world.store = MemoryCheckpointStore()
        yield world
        return
    url = request.getfixturevalue("database_url")
    store = PostgresStore(url, metrics=Metrics(), pool_size=3, timeout_seconds=patient(5))
    async with connected(url) as connection:
        yield PostgresWorld(store, connection)
    await store.close()


class Life:
    """A pod that owns a processor, and its incarnations."""

    def __init__(self, world: Any, lease: Lease, key: UUID, epoch: int) -> None:
        self.store, self.lease, self.key, self.epoch = world.store, lease, key, epoch
        self.uid, self.name = f"uid-{epoch}", f"pod-{epoch}"
        self.number = 0

    async def see(self, restart_count: int = 0, ready_at: float = 100.0, **changes: Any) -> Any:
        known = {"pod_uid": self.uid, "pod_name": self.name} | changes
        begun = await self.store.begin_incarnation(
            self.lease,
            self.key,
            self.epoch,
            restart_count=restart_count,
            ready_at=ready_at,
            **known,
        )
        if begun is not None:
            self.number = begun.incarnation.number
        return begun

    async def begin(self, restart_count: int = 0, ready_at: float = 100.0) -> Incarnation:
        """One that was given all there is."""
        begun = await self.see(restart_count, ready_at)
        assert await self.store.mark_given(self.lease, self.key, self.epoch, begun.incarnation)
        incarnation: Incarnation = begun.incarnation
        return incarnation

    def checkpoint(self, count: int, at: float = 110.0, **changes: Any) -> Checkpoint:
        payload = payload_of({"count": count})
        return Checkpoint(
            self.key,
            self.epoch,
            self.number,
            self.uid,
            self.name,
            at,
            payload,
            sha256_of(payload),
        )._replace(**changes)

    async def save(self, count: int, at: float = 110.0, **changes: Any) -> bool:
        [saved] = await self.store.save_checkpoints(
            self.lease, [self.checkpoint(count, at, **changes)]
        )
        return bool(saved)

    async def confirm(self, count: int, **changes: Any) -> bool:
        saved = self.checkpoint(count)
        asked = Confirmation(self.key, self.epoch, self.number, self.uid, saved.sha256)
        [confirmed] = await self.store.confirm_checkpoints(self.lease, [asked._replace(**changes)])
        return bool(confirmed)

    async def newest(self) -> Any:
        return await self.store.newest_checkpoint(self.key)


async def place(world: Any, lease: Lease, key: UUID | None = None, epoch: int = 1) -> Life:
    key = key or await world.desire()
    assert await world.store.grant(lease, [create(key, epoch)]) == [True]
    await world.store.record_pods(lease, [Record(key, epoch, a_pod(key, epoch))])
    return Life(world, lease, key, epoch)


def a_document(count: int, pod_name: str, at: float = 120.5) -> Document:
    payload = payload_of({"count": count})
    return Document(payload, sha256_of(payload), pod_name, at)


async def test_a_checkpoint_is_stored_as_it_is(world, lease):
    life = await place(world, lease)
    await life.begin()
    assert await life.newest() is None
    assert await life.save(5)
    found = await life.newest()
    assert found.position[:2] == (1, 1)
    assert (found.pod_uid, found.pod_name, found.captured_at) == ("uid-1", "pod-1", 110.0)
    assert found.payload == b'{"count": 5}'
    assert found.sha256 == sha256_of(found.payload)
    assert found.received_at == found.confirmed_at


async def test_the_later_one_stands_and_its_sequence_grows_whatever_the_pods_clock_says(
    world, lease
):
    life = await place(world, lease)
    await life.begin()
    await life.save(5, at=110.0)
    first = await life.newest()
    await life.save(6, at=50.0)
    second = await life.newest()
    assert second.payload == b'{"count": 6}'
    assert second.position > first.position
    assert second.position[:2] == first.position[:2]


async def test_an_incarnation_is_known_again(world, lease):
    life = await place(world, lease)
    begun = await life.see()
    assert begun.incarnation == Incarnation(1, "uid-1", "pod-1", 0, 100.0)
    assert (begun.newest_sha256, begun.previous) == (None, None)
    again = await life.see(ready_at=100.9)
    assert again.incarnation == begun.incarnation
    await life.begin()
    await life.save(5)
    again = await life.see()
    assert again.incarnation == replace(begun.incarnation, given=True)
    assert again.newest_sha256 == life.checkpoint(5).sha256
    assert await world.store.last_incarnation(life.key) == again.incarnation
    assert await world.store.last_incarnation(uuid4()) is None


@pytest.mark.parametrize(("restart_count", "ready_at"), [(1, 100.0), (0, 130.0), (1, 130.0)])
async def test_nothing_is_accepted_from_a_new_incarnation_until_it_was_given(
    world, lease, restart_count, ready_at
):
    life = await place(world, lease)
    before = await life.begin()
    await life.save(5)
    begun = await life.see(restart_count, ready_at)
    assert (begun.incarnation.number, begun.incarnation.given) == (2, False)
    assert begun.incarnation.restart_count == 1
    assert begun.previous == replace(before, given=True)
    assert begun.newest_sha256 == life.checkpoint(5).sha256
    assert not await life.save(0)
    assert not await life.save(6, incarnation=1), "the life before has ended"
    assert (await life.newest()).payload == b'{"count": 5}'
    assert await world.store.mark_given(lease, life.key, 1, begun.incarnation)
    assert await life.save(6)
    assert (await life.newest()).position[:2] == (1, 2)
    assert not await world.store.mark_given(lease, life.key, 1, before)


async def test_what_an_older_owner_sends_is_refused(world, lease):
    old = await place(world, lease)
    incarnation = await old.begin()
    await old.save(5)
    new = await place(world, lease, old.key, 2)
    assert not await old.save(6)
    assert not await old.confirm(5)
    assert await old.see() is None
    assert not await world.store.mark_given(lease, old.key, 1, incarnation)
    assert (await new.begin()).number == 2
    assert await new.save(7)
    assert not await old.save(8)
    assert (await new.newest()).position[:2] == (2, 2)


async def test_once_a_place_is_granted_nobody_owns_until_its_pod_is_there(world, lease):
    old = await place(world, lease)
    await old.begin()
    await world.store.grant(lease, [create(old.key, 2)])
    assert not await old.save(5)


@pytest.mark.parametrize("changes", [{"pod_uid": "uid-9"}, {"epoch": 9}, {"incarnation": 9}])
async def test_what_is_of_nobody_is_refused(world, lease, changes):
    life = await place(world, lease)
    await life.begin()
    assert not await life.save(5, **changes)
    assert not await life.save(5, processor_id=uuid4())
    assert await life.newest() is None


async def test_each_of_a_batch_is_judged_by_itself(world, lease):
    lives = [await place(world, lease) for _ in range(3)]
    for life in lives:
        await life.begin()
    await place(world, lease, lives[1].key, 2)
    batch = [life.checkpoint(number) for number, life in enumerate(lives)]
    assert await world.store.save_checkpoints(lease, batch) == [True, False, True]
    assert await world.store.save_checkpoints(lease, []) == []
    assert (await lives[2].newest()).payload == b'{"count": 2}'
    assert await lives[1].newest() is None


async def test_a_state_is_as_old_as_the_question_for_it(world, lease):
    """What a pod did while it waited to be stored is not in it."""
    life = await place(world, lease)
    await life.begin()
    asked_at = asyncio.get_running_loop().time() - 5.0
    assert await life.save(1, asked_at=asked_at)
    first = await life.newest()
    assert 4.9 < first.received_at - first.confirmed_at < 7
    assert await life.save(2, asked_at=asked_at)
    found = await life.newest()
    assert 4.9 < found.received_at - found.confirmed_at < 7
    fresh = asyncio.get_running_loop().time()
    assert await life.confirm(2, asked_at=fresh)
    assert (await life.newest()).confirmed_at > found.confirmed_at + 4.9
    assert await life.confirm(2, asked_at=fresh - 60.0)
    assert (await life.newest()).confirmed_at < found.received_at - 50


async def test_an_unchanged_state_is_confirmed(world, lease):
    life = await place(world, lease)
    await life.begin()
    await life.save(5)
    before = await life.newest()
    await asyncio.sleep(0.01)
    assert await life.confirm(5)
    after = await life.newest()
    assert after.confirmed_at > before.confirmed_at
    assert replace(after, confirmed_at=before.confirmed_at) == before
    for changes in ({"sha256": b"other"}, {"pod_uid": "u"}, {"epoch": 2}, {"incarnation": 2}):
        assert not await life.confirm(5, **changes)
    assert await life.newest() == after
    ages = await world.store.checkpoint_ages()
    assert set(ages) == {life.key}
    assert 0 <= ages[life.key] < 5


async def test_the_last_three_incarnations_are_kept(world, lease):
    life = await place(world, lease)
    for number in range(5):
        await life.begin(number, 100.0 * number)
        await life.save(number)
    if isinstance(world, PostgresWorld):
        kept = await world.connection.fetch("SELECT incarnation FROM orchestrator.checkpoints")
        assert sorted(row[0] for row in kept) == [3, 4, 5]
    else:
        assert len(world.memory.checkpoints[life.key]) == 3
    assert (await life.newest()).payload == b'{"count": 4}'


async def test_a_document_is_stored_while_nothing_newer_came(world, lease):
    life = await place(world, lease)
    await life.begin()
    await life.save(5)
    before = await life.newest()
    await life.save(6)
    newest = await life.newest()

    async def take(document: Document, place: tuple[int, int], expected: Any) -> bool:
        return bool(
            await world.store.save_document(lease, life.key, document, place=place, newest=expected)
        )

    assert not await take(a_document(7, "pod-1"), (1, 1), before.position)
    assert not await take(a_document(7, "pod-1"), (1, 1), None)
    assert (await life.newest()) == newest
    assert await take(a_document(7, "pod-1"), (1, 1), newest.position)
    taken = await life.newest()
    assert (taken.payload, taken.captured_at) == (b'{"count": 7}', 120.5)
    assert (taken.pod_uid, taken.pod_name) == ("uid-1", "pod-1")
    assert taken.position > newest.position
    assert await take(a_document(8, "pod-2"), (1, 2), taken.position)
    assert (await life.newest()).pod_uid == ""
    # No later incarnation stands at the place of a document.
    assert (await life.see(1)).incarnation.number == 3


async def test_a_first_document(world, lease):
    key = await world.desire()
    assert await world.store.save_document(
        lease, key, a_document(1, "pod-0"), place=(0, 1), newest=None
    )
    life = await place(world, lease, key)
    begun = await life.see()
    assert begun.incarnation.number == 2
    assert begun.newest_sha256 == a_document(1, "pod-0").sha256


async def test_without_the_lease_nothing_is_written(world, lease):
    life = await place(world, lease)
    incarnation = await life.begin()
    await life.save(5)
    newest = await life.newest()
    other = Lease("another", lease.term)
    saved = life.checkpoint(6)
    asked = Confirmation(life.key, 1, 1, "uid-1", newest.sha256)
    for refused in (
        world.store.save_checkpoints(other, [saved]),
        world.store.confirm_checkpoints(other, [asked]),
        world.store.mark_given(other, life.key, 1, incarnation),
        world.store.save_document(
            other, life.key, a_document(7, "pod-1"), place=(1, 1), newest=newest.position
        ),
        world.store.begin_incarnation(
            other,
            life.key,
            1,
            pod_uid="uid-1",
            pod_name="pod-1",
            restart_count=9,
            ready_at=900.0,
        ),
    ):
        with pytest.raises(LeaseLost):
            await refused
    assert await life.newest() == newest


async def go(world, lease, life: Life) -> None:
    """Its pod ends, as it is not desired any more."""
    pod = a_pod(life.key, life.epoch, namespace="plants")
    await world.store.record_pods(lease, [Record(life.key, life.epoch, pod)])
    await world.end(life.key, "terminated")
    forget = Forget(life.key, life.epoch, Reason.NOT_DESIRED, "")
    assert await world.store.grant(lease, [forget]) == [True]


async def departed(world, gone_seconds: float = -1.0, limit: int = 10) -> list[DepartedState]:
    return list(await world.store.departed_states(gone_seconds=gone_seconds, limit=limit))


async def test_who_is_gone_may_have_left_a_document(world, lease):
    life, other = await place(world, lease), await place(world, lease)
    assert await departed(world) == []
    await go(world, lease, life)
    [state] = await departed(world)
    assert state == DepartedState(life.key, 1, "plants", life.name)
    assert await departed(world, gone_seconds=3_600) == []
    await go(world, lease, other)
    assert len(await departed(world)) == 2
    assert len(await departed(world, limit=1)) == 1

    await world.store.forget_departed_state(lease, state)
    assert [one.processor_id for one in await departed(world)] == [other.key]
    with pytest.raises(LeaseLost):
        await world.store.forget_departed_state(Lease("another", lease.term), state)


async def test_who_is_desired_again_has_not_left(world, lease):
    life = await place(world, lease)
    await go(world, lease, life)
    [state] = await departed(world)
    await world.end(life.key, "running")
    assert await departed(world) == []
    assert await world.store.grant(lease, [create(life.key, 2)]) == [True]
    # What was read before that is forgotten by nobody.
    await world.store.forget_departed_state(lease, state)
    await world.end(life.key, "terminated")
    assert [one.processor_id for one in await departed(world)] == [life.key]


async def test_while_the_guard_holds_nobody_has_left(world, lease):
    life = await place(world, lease)
    await go(world, lease, life)
    verdict = GuardVerdict({"": (9, 1)}, (a_pod(UUID(int=1)),))
    await world.store.record_guard(lease, verdict)
    assert await departed(world) == []


# Starts, and what loses


A_START = Start(Lay.OURS, Position(1, 2, 3), b"sha", "pod-0", 90.5, was_read=True)


def a_capture(count: int) -> Capture:
    payload = payload_of({"count": count})
    return Capture(payload, sha256_of(payload), "pod-1", 110.0, -5.5)


@pytest.mark.parametrize("start", [A_START, Start(Lay.NONE), Start(Lay.UNKNOWN, was_read=False)])
async def test_what_a_start_began_with_is_remembered_until_the_next(world, lease, start):
    life = await place(world, lease)
    begun = await life.see()
    assert (begun.start, begun.first) == (None, None)
    noted = await life.store.note_start(
        lease, life.key, 1, begun.incarnation, start=start, first=a_capture(7), behind=True
    )
    assert noted
    again = await life.see()
    assert (again.start, again.first) == (start, a_capture(7))
    assert again.incarnation.behind
    assert await life.store.mark_given(lease, life.key, 1, again.incarnation)
    given = await life.see()
    assert (given.start, given.first) == (start, None)
    assert given.incarnation.given
    assert not given.incarnation.behind
    other = await life.see(restart_count=1, ready_at=200.0)
    assert (other.start, other.first, other.incarnation.behind) == (None, None, False)
    assert other.previous is not None
    assert other.previous.given


async def test_who_is_unprotected_stays_so_until_it_is_given_or_begins_anew(world, lease):
    life = await place(world, lease)
    begun = await life.see()
    assert await life.store.mark_unprotected(lease, life.key, 1, begun.incarnation, "raised")
    again = await life.see()
    assert (again.incarnation.unprotected, again.incarnation.behind) == ("raised", True)
    assert not await life.save(5), "its states are not those that a start is given"
    other = await life.see(restart_count=1, ready_at=200.0)
    assert (other.incarnation.unprotected, other.incarnation.behind) == (None, False)
    assert other.previous is not None
    assert (other.previous.unprotected, other.previous.behind) == ("raised", True)
    assert await life.store.mark_given(lease, life.key, 1, other.incarnation)
    assert not await life.store.mark_unprotected(lease, life.key, 1, other.incarnation, "late")


async def test_of_another_owner_or_life_no_start_is_noted(world, lease):
    life = await place(world, lease)
    old = (await life.see()).incarnation
    await life.see(restart_count=1, ready_at=200.0)
    noted = {"start": A_START, "first": a_capture(7), "behind": False}
    assert not await life.store.note_start(lease, life.key, 1, old, **noted)
    assert not await life.store.note_start(lease, life.key, 2, old, **noted)
    assert not await life.store.mark_unprotected(lease, life.key, 1, old, "x")
    assert not await life.store.mark_unprotected(lease, life.key, 2, old, "x")


async def test_a_doubt_about_a_document_is_told_with_the_next_life(world, lease):
    life = await place(world, lease)
    first = await life.begin()
    await life.store.doubt_seed(lease, life.key, first, 77.5)
    assert (await life.see()).seed_doubted_from == 77.5
    await life.store.doubt_seed(lease, life.key, first, None)
    assert (await life.see()).seed_doubted_from is None
    await life.store.doubt_seed(lease, life.key, first, 78.5)
    begun = await life.see(restart_count=1, ready_at=200.0)
    assert begun.seed_doubted_from == 78.5
    assert (await life.see(restart_count=1, ready_at=200.0)).seed_doubted_from == 78.5
    assert await life.store.mark_given(lease, life.key, 1, begun.incarnation)
    assert (await life.see(restart_count=2, ready_at=300.0)).seed_doubted_from is None


async def test_a_doubt_about_a_document_is_not_told_with_another_pod(world, lease):
    """What that begins with was laid out for it, after the doubtful one was written."""
    life = await place(world, lease)
    await life.store.doubt_seed(lease, life.key, await life.begin(), 77.5)
    other = await place(world, lease, life.key, 2)
    assert (await other.see()).seed_doubted_from is None
    assert (await other.see(restart_count=1, ready_at=200.0)).seed_doubted_from is None


async def test_of_what_is_archived_the_first_and_the_newest_stay(world, lease):
    life = await place(world, lease)

    async def archive(count: int, reason: str = "set_back") -> bool:
        payload = payload_of({"count": count})
        archived = Archived(life.key, reason, 1, 2, "pod-1", 110.0, payload, sha256_of(payload))
        return bool(await life.store.archive_state(lease, archived))

    assert [await archive(n) for n in (1, 2, 3)] == [True] * 3
    assert [await archive(n) for n in (1, 3)] == [False] * 2
    assert await archive(1, "unprotected")
    assert await world.archived(life.key, "set_back") == [b'{"count": 1}', b'{"count": 3}']
    assert await world.archived(life.key, "unprotected") == [b'{"count": 1}']


async def test_what_is_archived_of_one_is_bounded_and_the_last_is_kept(world, lease):
    life = await place(world, lease)
    other = await place(world, lease)

    async def archive(number: int, reason: str, size_bytes: int, key: UUID = life.key) -> bytes:
        payload = payload_of({"count": number, "pad": "x" * size_bytes})
        archived = Archived(key, reason, 1, 2, "pod-1", 110.0, payload, sha256_of(payload))
        assert await life.store.archive_state(lease, archived)
        return payload

    async def kept() -> list[list[bytes]]:
        return [await world.archived(life.key, reason) for reason in ("one", "two", "three")]

    third = ARCHIVE_BYTES_MAX // 3 - 100
    await archive(0, "one", third, other.key)
    first = await archive(1, "one", third)
    newest = await archive(2, "one", third)
    second = await archive(3, "two", third)
    assert await kept() == [[first, newest], [second], []]
    # The newest of a reason goes before the first of any, and of those the one that is oldest.
    third_first = await archive(4, "three", third)
    assert await kept() == [[first], [second], [third_first]]
    third_newest = await archive(5, "three", third)
    assert await kept() == [[], [second], [third_first, third_newest]]
    large = await archive(6, "two", ARCHIVE_BYTES_MAX + 1)
    assert await kept() == [[], [large], []]
    assert len(await world.archived(other.key, "one")) == 1


async def test_how_long_ago_the_newest_was_seen(world, lease):
    life = await place(world, lease)
    await life.begin()
    asked_at = asyncio.get_running_loop().time() - 30.0
    await life.save(5, asked_at=asked_at)
    age_seconds = asyncio.get_running_loop().time() - asked_at
    found = await life.newest()
    # What passed between the two clocks' readings is what the statements took.
    assert 29.9 <= found.age_seconds <= age_seconds + 5.0


async def test_a_document_that_an_operator_declared_is_the_newest_and_what_runs_comes_after_it(
    world, lease
):
    life = await place(world, lease)
    await life.begin()
    await life.save(5)
    ahead = a_document(900, "pod-1")
    assert not await life.store.adopt_document(lease, life.key, ahead)
    await world.declare_adopted(life.key)
    assert list(await life.store.documents_to_adopt([life.key, uuid4()])) == [life.key]
    before = await life.newest()
    assert await life.store.adopt_document(lease, life.key, ahead)
    assert list(await life.store.documents_to_adopt([life.key])) == []
    adopted = await life.newest()
    assert (adopted.payload, adopted.pod_uid) == (b'{"count": 900}', "")
    assert adopted.position > before.position
    assert not await life.save(6), "it is of another number by now"
    assert (await life.see()).incarnation.given
    assert await life.save(950)
    assert (await life.newest()).payload == b'{"count": 950}'


async def test_a_document_of_a_processor_that_the_database_does_not_know_is_adopted(world, lease):
    key = await world.desire()
    await world.declare_adopted(key)
    assert await world.store.adopt_document(lease, key, a_document(900, "pod-1"))
    life = await place(world, lease, key)
    assert (await life.newest()).payload == b'{"count": 900}'
    await life.begin()
    assert await life.save(901)
    assert (await life.newest()).payload == b'{"count": 901}'
