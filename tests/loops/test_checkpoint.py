"""Checkpoints, in simulated time: what is taken, what is given, and what is refused."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest
import structlog
from tests.checkpoints_double import MemoryCheckpointStore
from tests.cluster_double import MemoryCluster
from tests.loops.checkpoint_rig import LIMITS, START, Rig

from dory_orchestrator.core.checkpoint import (
    read_document,
)
from dory_orchestrator.ports import (
    ClusterRefused,
    ClusterUnavailable,
    Lease,
    LeaseLost,
    PodRefused,
    PodUnreachable,
    Refusal,
    StoreDataError,
    StoreUnavailable,
)

pytestmark = pytest.mark.looptime


# Taking


async def test_each_pod_is_asked_once_an_interval_and_stored_when_it_changed():
    rig = Rig()
    program = rig.add(1, {"count": 0})
    async with rig:
        for second in range(30):
            program.state["count"] = second
            await rig.until(second + 1)
        assert len(program.gets) == 4, "and once after its document was written"
        await rig.until(30.6)
        assert rig.newest()["count"] >= 19
        assert rig.count("stored") == 3
        program.state = {"count": 99}
        await rig.until(41)
        assert rig.newest() == {"count": 99}
        await rig.until(61)
        assert rig.count("confirmed") >= 1
        assert program.puts == []
        assert rig.restored()


async def test_turns_are_spread_over_the_interval():
    rig = Rig()
    programs = [rig.add(number, {"x": number}) for number in range(200)]
    async with rig:
        await rig.until(20.2)
        rounds = [int(program.gets[0] - (rig.began_at or 0)) % 10 for program in programs]
        # Once more after the document of each was written: right after its first turn.
        assert all(len(program.gets) == 3 for program in programs)
        assert max(rounds.count(second) for second in range(10)) < 40
        assert all(rig.newest(number) == {"x": number} for number in range(200))


async def test_a_pod_that_appears_is_asked_at_once_and_one_that_went_away_no_more():
    rig = Rig()
    rig.add(1)
    async with rig:
        await rig.until(5)
        program = rig.add(2, {"a": 1})
        await rig.until(6.5)
        assert rig.newest(2) == {"a": 1}
        del rig.running["pod-2"]
        await rig.until(7.1)
        count = len(program.gets)
        await rig.until(40)
        assert len(program.gets) == count
        assert rig.newest(2) == {"a": 1}


@pytest.mark.parametrize(
    "fields", [{"ready": False}, {"terminating": True}, {"address": None}, {"processor_id": None}]
)
async def test_who_is_not_asked(fields):
    rig = Rig()
    program = rig.add(1, **fields)
    async with rig:
        await rig.until(20)
        assert program.gets == []
        assert not rig.restored()


async def test_pods_that_hang_hold_up_nobody():
    rig = Rig(concurrency=20, timeout_seconds=5.0)
    for number in range(20):
        rig.add(number)
        rig.pods.delays_seconds[f"pod-{number}:8080"] = 3600.0
    well = [rig.add(number, {"x": 1}) for number in range(20, 40)]
    async with rig:
        await rig.until(40)
        assert all(len(program.gets) >= 3 for program in well)
        assert rig.pods.at_once_max <= 20
        assert rig.count("unreachable") > 0


async def test_without_an_interval_nothing_is_stored_and_yet_state_is_given():
    rig = Rig()
    program = rig.add(1, {"count": 5}, interval_seconds=0)
    async with rig:
        await rig.until(30)
        assert len(program.gets) == 1
        rig.running.clear()
        await rig.until(32)
        late = rig.add(1, {"count": 5}, interval_seconds=0)
        await rig.until(60)
        assert len(late.gets) == 1
        assert rig.newest() is None
        assert rig.restored()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b'{"error": "no"}', "error"),
        (b"{", "malformed"),
        (b"{}", "no_data"),
        (b"x" * 3_000_000, "too_large"),
        (PodRefused(401, "no", final=True), "unauthorized"),
        (PodRefused(413, "no", final=True), "too_large"),
        (PodRefused(503, "no", final=False), "refused"),
    ],
)
async def test_what_is_refused_is_told_once_and_leaves_the_newest(answer, outcome):
    rig = Rig()
    program = rig.add(1, {"count": 5})
    async with rig:
        await rig.until(11)
        if isinstance(answer, bytes):
            program.answer = answer
        else:
            program.refusal = answer
        with structlog.testing.capture_logs() as logs:
            await rig.until(45)
        assert rig.newest() == {"count": 5}
        assert rig.count(outcome) >= 3
        told = [event for event in rig.told if event.kind == "checkpoint_refused"]
        assert [event.reason for event in told] == [outcome]
        assert told[0].pod_name == "pod-1"
        warned = [log for log in logs if log["event"] == "no checkpoint is taken"]
        assert len(warned) == 1
        program.answer = program.refusal = None
        program.state = {"count": 6}
        await rig.until(56)
        assert rig.newest() == {"count": 6}


async def test_an_empty_state_after_one_that_was_not_is_refused():
    rig = Rig()
    program = rig.add(1, {})
    async with rig:
        await rig.until(11)
        assert rig.newest() == {}
        program.state = {"a": 1}
        await rig.until(22)
        program.state = {}
        await rig.until(33)
        assert rig.newest() == {"a": 1}
        assert rig.count("empty") == 1


async def test_a_pod_whose_clock_was_set_back_goes_on_giving_checkpoints():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        # By its own clock it became ready in an hour; the client library takes both by that.
        program.clock = lambda: rig.clock() - 3600.0
        program.state = {"count": 51}
        await rig.until(22)
        assert rig.newest() == {"count": 51}
        assert (rig.count("malformed"), program.puts) == (0, [])
        assert rig.position()[:2] == (1, 1), "it is the same life"


async def test_another_pod_at_the_same_address_is_not_taken_for_it():
    rig = Rig()
    program = rig.add(1, {"a": 1})
    async with rig:
        await rig.until(11)
        program.pod_name, program.state = "pod-2", {"b": 1}
        await rig.until(22)
        assert rig.newest() == {"a": 1}
        assert rig.count("another_pod") == 1


async def test_the_token_before_is_tried_while_it_is_rotated():
    rig = Rig(tokens=("new", "old"))
    new, old, none = rig.add(1, {"a": 1}), rig.add(2, {"a": 2}), rig.add(3, {"a": 3})
    new.token, old.token, none.token = "new", "old", "other"
    async with rig:
        await rig.until(11)
        assert (rig.newest(1), rig.newest(2), rig.newest(3)) == ({"a": 1}, {"a": 2}, None)
        old2 = rig.add(2, {"a": 0}, name="pod-2b", epoch=2)
        old2.token = "old"
        await rig.until(22)
        assert old2.puts == [{"a": 2}]


# New incarnations


async def test_a_new_pod_is_given_the_newest_before_anything_is_taken_from_it():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.running.clear()
        program = rig.add(1, {"count": 0}, name="pod-b", epoch=2)
        assert not rig.restored("pod-b")
        await rig.until(13)
        assert program.puts == [{"count": 50}]
        assert program.state == {"count": 50}
        assert rig.restored("pod-b")
        assert rig.newest() == {"count": 50}
        assert rig.position()[:2] == (2, 2)
        program.state = {"count": 51}
        await rig.until(24)
        assert rig.newest() == {"count": 51}
        assert program.puts == [{"count": 50}]
        assert rig.times_restored == 2


async def test_an_old_owner_is_refused():
    rig = Rig()
    old = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.add(1, {"count": 50}, name="pod-b", epoch=2)
        old.state = {"count": 99}
        await rig.until(35)
        assert rig.newest() == {"count": 50}
        assert rig.count("not_owner") >= 1
        assert not rig.restored("pod-1")


@pytest.mark.parametrize("told", [True, False])
async def test_a_container_that_restarts_in_place_is_given_the_newest(told):
    """Also when its capture tells of it earlier than the cluster."""
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0}, told=told)
        if told:
            assert rig.restored(), "as far as we have looked"
        await rig.until(22)
        assert program.puts == [{"count": 50}]
        assert rig.newest() == {"count": 50}
        assert rig.restored()
        if not told:
            rig.tell_restart("pod-1")
            await rig.until(44)
            assert program.puts == [{"count": 50}], "it is the same incarnation"
            assert rig.restored()


async def test_a_restart_that_was_told_is_seen_within_a_second_or_two():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0})
        await rig.until(12.5)
        assert program.puts == [{"count": 50}]


async def test_a_program_that_has_not_restored_its_state_is_neither_asked_nor_given():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0})
        program.ready_at = None
        await rig.until(25)
        assert (program.puts, rig.newest()) == ([], {"count": 50})
        program.ready_at = rig.clock() - 0.1
        await rig.until(36)
        assert program.puts == [{"count": 50}]
        assert rig.reasons == [("state_archived", "set_back")]


async def test_who_started_from_the_newest_is_not_set_back():
    rig = Rig()
    rig.add(1, {"count": 50}, proof=("/count",))
    async with rig:
        await rig.until(11)
        rig.running.clear()
        ahead = rig.add(1, {"count": 53}, name="pod-b", epoch=2, proof=("/count",))
        await rig.until(13)
        assert (ahead.puts, rig.newest()) == ([], {"count": 53})
        rig.running.clear()
        behind = rig.add(1, {"count": 49}, name="pod-c", epoch=3, proof=("/count",))
        await rig.until(15)
        assert (behind.puts, rig.newest()) == ([{"count": 53}], {"count": 53})


async def test_what_is_not_proven_is_not_taken_and_given_three_times_at_most():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.running.clear()
        program = rig.add(1, {"count": 0}, name="pod-b", epoch=2, proof=("/count",))

        def forget() -> None:
            program.state = {"count": 1}

        program.on_put = forget
        await rig.until(60)
        assert len(program.puts) == 3
        assert rig.newest() == {"count": 50}
        assert not rig.restored("pod-b")
        assert ("checkpoint_refused", "not_given") in rig.reasons
        program.state = {"count": 60}
        await rig.until(75)
        assert rig.restored("pod-b")
        assert rig.newest() == {"count": 60}


@pytest.mark.parametrize(
    "refusal",
    [PodRefused(413, "too large", final=True), PodRefused(500, "no", final=False)],
)
async def test_a_state_that_cannot_be_given_is_told_and_kept(refusal):
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0})
        program.put_refusal = refusal
        await rig.until(30)
        assert rig.newest() == {"count": 50}
        assert not rig.restored()
        told = [("state_archived", "set_back"), ("checkpoint_refused", "not_given")]
        given_up = [("unprotected", "restore_failed")] if refusal.final else []
        assert sorted(rig.reasons) == sorted([*told, *given_up])
        program.put_refusal = None
        await rig.until(60)
        assert rig.restored() is not refusal.final


async def test_a_pod_that_does_not_answer_is_given_its_state_later():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0})
        program.put_refusal = PodUnreachable("gone")
        await rig.until(40)
        program.put_refusal = None
        await rig.until(51)
        assert program.puts == [{"count": 50}]
        assert rig.restored()


async def test_a_restored_database_does_not_set_back_what_runs():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        backup = (
            dict(rig.store.incarnations),
            {k: list(v) for k, v in rig.store.checkpoints.items()},
        )
        rig.restart("pod-1", {"count": 0})
        await rig.until(25)
        assert program.puts == [{"count": 50}]
        program.state = {"count": 200}
        await rig.until(41)
        assert rig.newest() == {"count": 200}
        program.state = {"count": 300}
        rig.store.incarnations, rig.store.checkpoints = backup
        await rig.until(70)
        assert program.puts == [{"count": 50}]
        assert rig.newest() == {"count": 300}
        # Another life is given what there is by now.
        rig.restart("pod-1", {"count": 0})
        await rig.until(80)
        assert program.puts == [{"count": 50}, {"count": 300}]


async def test_what_restarts_while_it_is_given_is_given_again():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0})

        def crash() -> None:
            program.on_put = lambda: None
            program.state, program.ready_at = {"count": 0}, rig.clock() + 3

        program.on_put = crash
        await rig.until(30)
        assert program.puts == [{"count": 50}] * 2
        assert rig.newest() == {"count": 50}
        assert rig.restored()


async def test_what_it_saved_at_its_end_counts_when_it_restarts_in_place():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(14)
        rig.save_document({"count": 58}, "pod-1", at=13.9)
        program = rig.restart("pod-1", {"count": 58})
        await rig.until(16)
        assert rig.newest() == {"count": 58}
        assert rig.restored()
        assert program.puts == [], "it is there already"


async def test_what_a_life_between_two_looks_saved_is_doubtful():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(14)
        rig.tell_restart("pod-1")
        rig.save_document({"count": 3}, "pod-1", at=13.9)
        program = rig.restart("pod-1", {"count": 3})
        await rig.until(16)
        assert program.puts == [{"count": 50}]
        assert rig.newest() == {"count": 50}
        assert ("document_refused", "doubtful") in rig.reasons


async def test_while_the_cluster_is_silent_nothing_is_given_that_may_have_gone_on():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.cluster.error = ClusterUnavailable("away")
        program = rig.restart("pod-1", {"count": 0})
        await rig.until(20)
        assert (program.puts, rig.newest()) == ([], {"count": 50})
        rig.cluster.error = None
        program.could_read = False
        await rig.until(31)
        assert program.puts == [{"count": 50}]


# Who leads


async def test_a_new_leader_goes_on_where_the_old_one_was():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.lease = None
        await rig.until(13)
        assert not rig.restored()
        program.state = {"count": 51}
        gets = len(program.gets)
        await rig.until(40)
        assert len(program.gets) == gets
        assert rig.newest() == {"count": 50}
        await rig.lead()
        await rig.until(51)
        assert rig.newest() == {"count": 51}
        assert rig.restored()
        assert program.puts == []


async def test_whoever_lost_the_lease_writes_nothing():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.store.leader.holder = "another"
        program.state = {"count": 51}
        await rig.until(31)
        assert rig.newest() == {"count": 50}


# The store fails


async def test_what_the_store_did_not_take_is_stored_later():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.store.errors["save_checkpoints"] = StoreUnavailable("away")
        rig.store.errors["confirm_checkpoints"] = StoreUnavailable("away")
        program.state = {"count": 51}
        with structlog.testing.capture_logs() as logs:
            await rig.until(22)
            del rig.running["pod-1"]
            await rig.until(40)
            assert rig.newest() == {"count": 50}
            assert rig.count("store_error") > 3
            rig.store.errors.clear()
            await rig.until(41)
        assert rig.newest() == {"count": 51}
        events = [log["event"] for log in logs]
        assert events.count("checkpoints cannot be stored") == 1
        assert events.count("checkpoints are stored again") == 1


class Picky(MemoryCheckpointStore):
    """Refuses the state of one processor."""

    async def save_checkpoints(self, lease, checkpoints):
        if any(each.processor_id == UUID(int=3) for each in checkpoints):
            raise StoreDataError("no")
        return await super().save_checkpoints(lease, checkpoints)


async def test_one_value_that_the_store_refuses_spoils_no_other():
    rig = Rig(store=Picky())
    programs = [rig.add(number, {"x": 1}) for number in range(1, 6)]
    async with rig:
        await rig.until(11)
        assert [rig.newest(number) for number in (1, 2, 4, 5)] == [{"x": 1}] * 4
        assert rig.newest(3) is None
        assert all(program.gets for program in programs)


# Before a pod is created


async def test_the_newest_is_seeded_before_a_pod_is_created():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(21)
        seeded = await rig.prepare(("pod-1",))
        assert rig.document().payload == b'{"count": 50}'
        assert rig.document().position == seeded.position == rig.position()
        assert START + 10 <= seeded.confirmed_at <= START + 21
        assert seeded.size_bytes == len(b'{"count": 50}')
        version = rig.cluster.states[UUID(int=1)]
        assert await rig.prepare(("pod-1",)) == seeded
        assert rig.cluster.states[UUID(int=1)] is version, "it is there already"


async def test_without_any_state_nothing_is_seeded():
    rig = Rig()
    async with rig:
        assert await rig.prepare(()) is None
        rig.save_document({"count": 9}, "pod-of-somebody", at=1)
        assert await rig.prepare(("pod-1",)) is None
        assert rig.document().pod_name == "pod-of-somebody"
        assert rig.newest() is None


async def test_what_a_pod_saves_after_it_was_forced_away_is_undone():
    rig = Rig()
    rig.add(1, {"count": 50}, name="old")
    async with rig:
        await rig.until(11)
        old = rig.running.pop("old").pod
        await rig.prepare(("old",))
        rig.add(1, {"count": 50}, name="new", epoch=2)
        assert not await rig.checkpointer.undo_late_save(rig.cluster, old), "it did not save"
        rig.save_document({"count": 99}, "old", at=20)
        assert await rig.checkpointer.undo_late_save(rig.cluster, old)
        assert (rig.document().payload, rig.document().position[:2]) == (b'{"count": 50}', (1, 1))
        assert ("document_refused", "late") in rig.reasons
        # The newest is its successor's by now.
        await rig.until(21)
        rig.pods.programs["new:8080"].state = {"count": 70}
        await rig.until(35)
        assert rig.newest() == {"count": 70}
        rig.save_document({"count": 100}, "old", at=36)
        assert await rig.checkpointer.undo_late_save(rig.cluster, old)
        assert rig.document().payload == b'{"count": 70}'


async def test_what_its_successor_saved_stands():
    rig = Rig()
    rig.add(1, {"count": 50}, name="old")
    async with rig:
        await rig.until(11)
        old = rig.running["old"].pod
        rig.save_document({"count": 60}, "new", at=20)
        assert not await rig.checkpointer.undo_late_save(rig.cluster, old)
        assert rig.document().payload == b'{"count": 60}'
        rig.cluster.states.clear()
        assert not await rig.checkpointer.undo_late_save(rig.cluster, old)


async def test_what_the_owner_saved_last_is_taken():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.save_document({"count": 57}, "pod-1", at=15.5)
        seeded = await rig.prepare(("pod-1",))
        assert rig.newest() == {"count": 57}
        assert seeded.captured_at == START + 15.5
        assert rig.document().position is None, "the document is left as it is"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (("pod-1", 1.0), None),
        (("pod-of-somebody", 100.0), "stranger"),
        (b"broken", "unreadable"),
    ],
)
async def test_whatever_else_lies_there_is_overwritten(content, told):
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        if isinstance(content, bytes):
            rig.cluster.states[UUID(int=1)] = content
        else:
            rig.save_document({"count": 9}, *content)
        await rig.prepare(("pod-1",))
        assert rig.document().payload == b'{"count": 50}'
        assert rig.newest() == {"count": 50}
        assert rig.reasons == ([] if told is None else [("document_refused", told)])


async def test_what_an_older_pod_saved_late_is_overwritten():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.running.clear()
        rig.add(1, {"count": 50}, name="pod-b", epoch=2)
        await rig.until(13)
        rig.save_document({"count": 51}, "pod-1", at=100.0)
        await rig.prepare(("pod-b", "pod-1"))
        assert rig.document().payload == b'{"count": 50}'


async def test_what_was_saved_by_a_life_that_was_given_nothing_is_doubtful():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0})
        program.put_refusal = PodUnreachable("no")
        await rig.until(14)
        rig.save_document({"count": 3}, "pod-1", at=14.0)
        await rig.prepare(("pod-1",))
        assert rig.document().payload == b'{"count": 50}'
        assert ("document_refused", "doubtful") in rig.reasons


async def test_what_a_life_saved_that_we_never_reached_is_doubtful():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 0})
        program.refusal = PodUnreachable("no")
        await rig.until(13)
        rig.running.clear()
        rig.save_document({"count": 3}, "pod-1", at=13.0)
        await rig.until(15)
        await rig.prepare(("pod-1",))
        assert rig.document().payload == b'{"count": 50}'


class Racing(MemoryCluster):
    """Somebody writes just before we do, so many times."""

    times = 1

    async def seed_state(self, namespace, processor_id, document, *, version):
        if self.times:
            self.times -= 1
            raise ClusterRefused(Refusal.CONFLICT, "another version stands there")
        await super().seed_state(namespace, processor_id, document, version=version)


async def test_who_writes_at_the_same_time_is_read_anew_and_not_for_ever():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        racing = Racing()
        await rig.prepare(("pod-1",), cluster=racing)
        assert read_document(racing.states[UUID(int=1)], LIMITS).payload == b'{"count": 50}'
        racing.states.clear()
        racing.times = 100
        with pytest.raises(ClusterRefused):
            await rig.prepare(("pod-1",), cluster=racing)
        assert racing.times == 95


class Small(MemoryCluster):
    """Keeps no document."""

    async def seed_state(self, namespace, processor_id, document, *, version):
        raise ClusterRefused(Refusal.TOO_LARGE, "Too long: may not be more than 1048576 bytes")


async def test_what_the_cluster_is_too_small_for_is_given_once_the_pod_is_ready():
    rig = Rig()
    rig.add(1, {"count": 50}, name="old")
    async with rig:
        await rig.until(11)
        seeded = await rig.prepare(("old",), cluster=Small())
        assert seeded.position == rig.position()
        del rig.running["old"]
        program = rig.add(1, {}, name="new", epoch=2, ready=False)
        await rig.until(21)
        assert program.state == {}
        rig.running["new"] = rig.running["new"]._replace(
            pod=replace(rig.running["new"].pod, ready=True)
        )
        await rig.until(35)
        assert program.state == {"count": 50}
        assert rig.newest() == {"count": 50}


async def test_nothing_is_prepared_without_the_store_the_cluster_or_the_lease():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.store.errors["newest_checkpoint"] = StoreUnavailable("away")
        with pytest.raises(StoreUnavailable):
            await rig.prepare(("pod-1",))
        rig.store.errors.clear()
        rig.cluster.error = ClusterUnavailable("away")
        with pytest.raises(ClusterUnavailable):
            await rig.prepare(("pod-1",))
        rig.cluster.error = None
        rig.save_document({"count": 57}, "pod-1", at=15.5)
        rig.lease = Lease("another", 1)
        with pytest.raises(LeaseLost):
            await rig.prepare(("pod-1",))
        assert rig.newest() == {"count": 50}


# At once


async def test_a_planned_move_captures_at_once():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        assert rig.lease is not None
        program.state = {"count": 77}
        pod = rig.running["pod-1"].pod
        assert await rig.checkpointer.capture_now(rig.lease, pod, 1) is None
        assert rig.newest() == {"count": 77}
        assert await rig.checkpointer.capture_now(rig.lease, pod, 1) is None
        assert await rig.checkpointer.capture_now(rig.lease, pod, 2)
        program.answer = b'{"error": "no"}'
        assert await rig.checkpointer.capture_now(rig.lease, pod, 1)
        program.answer = None
        program.state = {"count": 78}
        rig.store.errors["save_checkpoints"] = StoreUnavailable("away")
        assert await rig.checkpointer.capture_now(rig.lease, pod, 1)
        del rig.pods.programs["pod-1:8080"]
        assert await rig.checkpointer.capture_now(rig.lease, pod, 1)
        assert rig.newest() == {"count": 77}


async def test_what_was_received_earlier_is_not_written_later():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        assert rig.lease is not None
        rig.store.holds["save_checkpoints"] = hold = asyncio.Event()
        program.state = {"count": 51}
        await rig.until(21.5)
        program.state = {"count": 52}
        pod = rig.running["pod-1"].pod
        taking = asyncio.create_task(rig.checkpointer.capture_now(rig.lease, pod, 1))
        await rig.until(23)
        hold.set()
        assert await taking is None
        await rig.until(24)
        assert rig.newest() == {"count": 52}


# Ages, and pods without a state


async def test_ages_are_shown_and_late_ones_told_once():
    rig = Rig()
    program = rig.add(1, {"count": 50})
    rig.add(2, {"count": 50})
    async with rig:
        # Looked at each five seconds; in that of 20 s one is just being written.
        await rig.until(26)
        assert (rig.of_age("10"), rig.of_age("+Inf")) == (2, 2)
        program.refusal = PodUnreachable("gone")
        await rig.until(90)
        assert (rig.of_age("20"), rig.of_age("120"), rig.of_age("+Inf")) == (1, 2, 2)
        late = [event for event in rig.told if event.kind == "checkpoint_late"]
        assert [event.processor_id for event in late] == [UUID(int=1)]
        program.refusal = None
        await rig.until(110)
        assert rig.of_age("20") == 2
        rig.lease = None
        await rig.until(120)
        assert rig.of_age("+Inf") == 0


async def test_a_pod_that_never_answered_is_late_too():
    rig = Rig()
    rig.add(1).refusal = PodUnreachable("gone")
    async with rig:
        await rig.until(29)
        assert rig.told == []
        await rig.until(40)
        assert rig.reasons == [("checkpoint_late", "late")]


async def test_a_pod_without_a_state_has_none_to_lose():
    rig = Rig()
    rig.add(1).refusal = PodRefused(404, "not found", final=True)
    rig.add(2, {"count": 1})
    async with rig:
        await rig.until(16)
        assert rig.restored()
        rig.running.clear()
        rig.add(2, {"count": 0}, name="pod-b", epoch=2).refusal = PodRefused(404, "", final=True)
        await rig.until(35)
        assert not rig.restored("pod-b")
