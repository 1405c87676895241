"""What a container that starts is given: nothing where it went on by itself."""

import json
from typing import Any
from uuid import UUID

import pytest
from tests.loops.checkpoint_rig import START, Rig
from tests.pods_double import FakeProgram

from dory_orchestrator.core.checkpoint import Position, document, payload_of
from dory_orchestrator.ports import (
    ClusterUnavailable,
    DocumentAhead,
    PodRefused,
    PodUnreachable,
    StoreUnavailable,
)

pytestmark = pytest.mark.looptime

LOCAL: dict[str, Any] = {"seed_every_seconds": 0.0}
KEY = UUID(int=1)


async def test_a_restart_in_place_that_loaded_the_newest_is_left_alone():
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 50, "at": 1.0})
    async with rig:
        await rig.until(11.5)
        state = rig.load() | {"count": 63}
        rig.restart("pod-1", state)
        await rig.until(16)
        assert (program.puts, rig.restored()) == ([], True)
        assert rig.newest() == state
        assert rig.archived("set_back") == []


@pytest.mark.parametrize("could_read", [True, None])
async def test_also_after_a_long_time_without_us(could_read):
    """Without proof, and without a database: what it did meanwhile is what counts."""
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 376})
    async with rig:
        await rig.until(11.5)
        rig.lease = None
        await rig.until(12)
        loaded = rig.load()
        program = rig.restart("pod-1", loaded)
        program.could_read = could_read
        await rig.until(212)
        program.state = {"count": loaded["count"] + 2_000}
        await rig.lead()
        await rig.until(240)
        assert program.puts == []
        assert rig.newest() == {"count": 2_376}
        assert rig.restored()


async def test_a_replacement_that_began_with_what_was_seeded_is_left_alone():
    rig = Rig()
    rig.add(1, {"count": 50}, name="old")
    async with rig:
        await rig.until(11)
        del rig.running["old"]
        await rig.prepare(("old",))
        program = rig.add(1, rig.load() | {"count": 71}, name="new", epoch=2)
        await rig.until(14)
        assert (program.puts, rig.newest()) == ([], {"count": 71})


async def test_what_its_predecessor_saved_at_the_end_is_the_newest():
    rig = Rig()
    rig.add(1, {"count": 50}, name="old")
    async with rig:
        await rig.until(11)
        del rig.running["old"]
        rig.save_document({"count": 57}, "old", at=15.5)
        await rig.prepare(("old",))
        program = rig.add(1, {"count": 60}, name="new", epoch=2)
        await rig.until(14)
        assert (program.puts, rig.newest()) == ([], {"count": 60})


async def test_a_start_that_could_not_read_its_store_is_given_its_state():
    """Wrong rights: the document is there, and is the newest, and was not read."""
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 5000})
    async with rig:
        await rig.until(11.5)
        program = rig.restart("pod-1", {"count": 4999})
        program.could_read = False
        await rig.until(14)
        assert program.puts == [{"count": 5000}]
        assert rig.restored()
        assert rig.archived("set_back") == [{"count": 4999}]
        assert ("state_archived", "set_back") in rig.reasons


@pytest.mark.parametrize(("could_read", "puts"), [(False, [{"count": 5000}]), (None, [])])
async def test_while_the_cluster_is_away_only_who_could_not_read_either_is_given(could_read, puts):
    """Its container crashed meanwhile: what lies there is known to nobody, and it began with
    nothing. Where that is not shown, it waits until the document can be read."""
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 5000})
    async with rig:
        await rig.until(11.5)
        rig.cluster.error = ClusterUnavailable("away")
        program = rig.restart("pod-1", {"count": 0})
        program.could_read = could_read
        await rig.until(16)
        assert program.puts == puts
        assert rig.restored() is bool(puts)


async def test_an_unreadable_document_is_one_that_nobody_began_with():
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11.5)
        rig.cluster.states[KEY] = rig.cluster.states[KEY].replace(
            b'"checksum": "', b'"checksum": "0'
        )
        program = rig.restart("pod-1", {"count": 49})
        await rig.until(14)
        assert program.puts == [{"count": 50}]


async def test_a_restore_that_was_passed_over_is_done_anew():
    """The newest lay there and was read, and the program has begun anew all the same."""
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 5000})
    async with rig:
        await rig.until(11.5)
        program = rig.restart("pod-1", {"count": 7})
        program.could_read = True
        await rig.until(14)
        assert program.puts == [{"count": 5000}]


async def test_a_crash_costs_no_more_than_an_interval_although_documents_are_older():
    rig = Rig(seed_every_seconds=60.0)
    program = rig.add(1, {"count": 0})
    async with rig:
        for second in range(45):
            program.state = {"count": 100 * (second + 10)}
            await rig.until(second + 1)
        newest, loaded = rig.newest(), rig.load()
        assert loaded["count"] < newest["count"]
        program = rig.restart("pod-1", loaded)
        await rig.until(48)
        assert program.puts == [newest]


async def test_who_began_older_and_ran_on_for_longer_is_left_alone():
    rig = Rig(seed_every_seconds=60.0)
    program = rig.add(1, {"count": 0})
    async with rig:
        for second in range(45):
            program.state = {"count": 100 * (second + 10)}
            await rig.until(second + 1)
        newest, loaded = rig.newest(), rig.load()
        rig.lease = None
        await rig.until(46)
        program = rig.restart("pod-1", loaded)
        await rig.until(146)
        program.state = {"count": loaded["count"] + 10_000}
        await rig.lead()
        await rig.until(165)
        assert (program.puts, rig.newest()) == ([], {"count": loaded["count"] + 10_000})
        assert rig.archived("superseded") == [newest]
        assert ("state_archived", "ran_on_longer") in rig.reasons


@pytest.mark.parametrize("count", [298, 20])
@pytest.mark.parametrize("backend", ["s3", "pvc"])
async def test_of_what_lies_elsewhere_nothing_is_known_and_nothing_given(backend, count):
    """An ordered move: what the old pod saved is newer than what we captured before. Also
    a number that fell shows nothing: the template does not say that it only grows."""
    rig = Rig()
    rig.add(1, {"count": 237}, name="old", backend=backend)
    async with rig:
        await rig.until(11)
        del rig.running["old"]
        program = rig.add(1, {"count": count}, name="new", epoch=2, backend=backend)
        await rig.until(14)
        assert (program.puts, rig.newest()) == ([], {"count": count})
        assert ("state_archived", "not_shown") in rig.reasons
        assert rig.archived("superseded") == [{"count": 237}]
        assert KEY not in rig.cluster.states, "nobody would read it there"


@pytest.mark.parametrize(("state", "proof"), [({"other": 1}, ()), ({"count": 236}, ("/count",))])
async def test_unless_it_lacks_a_key_or_a_proven_number_has_fallen(state, proof):
    rig = Rig()
    rig.add(1, {"count": 237}, name="old", backend="s3", proof=proof)
    async with rig:
        await rig.until(11)
        del rig.running["old"]
        program = rig.add(1, state, name="new", epoch=2, backend="s3", proof=proof)
        await rig.until(14)
        assert program.puts == [{"count": 237}]


async def test_a_file_in_a_container_of_kubernetes_is_gone_with_it():
    rig = Rig()
    rig.add(1, {"count": 50}, backend="local")
    async with rig:
        await rig.until(11)
        program = rig.restart("pod-1", {"count": 49})
        await rig.until(14)
        assert program.puts == [{"count": 50}]


async def test_what_could_not_be_given_for_long_is_not_set_back_afterwards():
    rig = Rig(seed_every_seconds=60.0)
    program = rig.add(1, {"count": 0})
    async with rig:
        for second in range(45):
            program.state = {"count": 100 * (second + 10)}
            await rig.until(second + 1)
        program = rig.restart("pod-1", rig.load())
        program.put_refusal = PodUnreachable("no route")
        await rig.until(200)
        program.state = {"count": 20_000}
        program.put_refusal = None
        await rig.until(220)
        assert (program.puts, rig.newest()) == ([], {"count": 20_000})


# A restore that fails for good


async def unprotected(rig: Rig) -> FakeProgram:
    """A processor whose new life refuses its state, until that is given up."""
    await rig.until(11.5)
    program = rig.restart("pod-1", {"count": 0})
    program.could_read = False
    program.put_refusal = PodRefused(500, "restore_state raised", final=False)
    for second in range(60):
        program.state = {"count": second}
        await rig.until(13 + second)
    return program


async def test_a_restore_that_fails_for_good_is_told_once_and_captures_go_on():
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 5000})
    async with rig:
        await unprotected(rig)
        uid = rig.running["pod-1"].pod.uid
        assert rig.checkpointer.unprotected[uid] == "restoring: restore_state raised"
        assert not rig.restored()
        assert rig.newest() == {"count": 5000}
        first, newest = rig.archived("unprotected")
        assert first["count"] < newest["count"]
        assert newest["count"] >= 40, "the last one is at most an interval old"
        told = len(rig.told)
        await rig.until(300)
        assert len(rig.told) == told
        assert rig.reasons.count(("unprotected", "restore_failed")) == 1
        assert rig.count("unprotected") > 15


async def test_when_the_cause_goes_away_nothing_is_set_back_but_the_next_start_is_given():
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 5000})
    async with rig:
        program = await unprotected(rig)
        program.put_refusal = None
        rig.lease = None
        await rig.until(80)
        await rig.lead()
        await rig.until(120)
        assert (program.puts, rig.newest()) == ([], {"count": 5000})
        assert rig.checkpointer.unprotected
        # What it saved at its end does not count either.
        rig.save_document({"count": 59}, "pod-1", at=119.0)
        program = rig.restart("pod-1", {"count": 59})
        program.could_read = True
        await rig.until(125)
        assert program.puts == [{"count": 5000}]
        assert rig.restored()
        assert not rig.checkpointer.unprotected


async def test_what_the_template_proves_protects_it_again():
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 50}, proof=("/count",))
    async with rig:
        program = await unprotected(rig)
        await rig.until(90)
        assert rig.restored()
        assert rig.newest() == program.state
        assert ("protected", "proven") in rig.reasons
        assert rig.archived("superseded") == [{"count": 50}]


async def test_a_document_of_nobody_is_told_once_however_often_it_is_looked_at():
    rig = Rig()
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11)
        rig.save_document({"count": 9}, "pod-of-somebody", at=1.0)
        program = rig.restart("pod-1", {})
        program.put_refusal = PodUnreachable("no route")
        for _ in range(5):
            rig.store.errors["note_start"] = StoreUnavailable("away")
            await rig.until(rig.clock() - START + 10)
        assert rig.reasons.count(("document_refused", "stranger")) == 1


# The document while it runs


async def test_documents_are_refreshed_each_period():
    rig = Rig(seed_every_seconds=60.0)
    program = rig.add(1, {"count": 0})
    async with rig:
        seen = set()
        for second in range(300):
            program.state = {"count": second}
            await rig.until(second + 1)
            if KEY in rig.cluster.states:
                seen.add(rig.document().position)
                # An interval until the state is captured, one until a turn finds it due.
                assert second - rig.load()["count"] <= 60 + 2 * 10 + 1
        assert 4 <= len(seen) <= 6


async def test_each_checkpoint_on_one_machine():
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 0})
    async with rig:
        before = None
        for second in range(60):
            program.state = {"count": second}
            await rig.until(second + 1)
            if before is not None:
                # What was stored a second ago; what is stored right now is being written.
                assert rig.document().position >= before
            before = rig.position()


async def test_what_a_pod_saved_after_it_was_asked_is_not_overwritten():
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 0})
    async with rig:
        await rig.until(11)
        program.state = {"count": 1}
        rig.save_document({"count": 99}, "pod-1", at=1000.0)
        await rig.until(40)
        assert rig.load() == {"count": 99}


async def test_what_another_saved_is_archived_before_it_is_overwritten():
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 0})
    async with rig:
        await rig.until(11)
        program.state = {"count": 1}
        rig.save_document({"count": 99}, "pod-of-somebody", at=1000.0)
        await rig.until(40)
        assert rig.load() == {"count": 1}
        assert rig.archived("document_stranger") == [{"count": 99}]


async def crash_while_written(rig: Rig, program: Any, *, loaded_before: bool) -> None:
    """The program crashes between the capture of 2000 and the writing of the document, which is the
    newest then. The container that follows has loaded it, or the one before, and counts one on."""
    await rig.until(11.5)
    plain_seed = rig.cluster.seed_state

    async def seed_state(*args: Any, **options: Any) -> None:
        before = rig.load()
        rig.cluster.seed_state = plain_seed  # type: ignore[method-assign]
        if loaded_before:
            rig.restart("pod-1", {"count": before["count"] + 1}, told=False)
        await plain_seed(*args, **options)
        if not loaded_before:
            assert rig.load() == {"count": 2000}
            rig.restart("pod-1", {"count": 2001}, told=False)

    program.state = {"count": 2000}
    rig.cluster.seed_state = seed_state  # type: ignore[method-assign]
    await rig.until(24)
    rig.tell_restart("pod-1")


async def test_who_loaded_the_document_before_the_one_written_as_it_began_is_given_the_newest():
    rig = Rig(seed_every_seconds=0.0)
    program = rig.add(1, {"count": 1000})
    async with rig:
        await crash_while_written(rig, program, loaded_before=True)
        await rig.until(40)
        assert program.puts == [{"count": 2000}]


async def test_who_could_not_be_given_the_newest_and_has_more_by_now_is_not_given_it():
    rig = Rig(seed_every_seconds=0.0)
    program = rig.add(1, {"count": 1000})
    async with rig:
        program.put_refusal = PodUnreachable("no route")
        await crash_while_written(rig, program, loaded_before=True)
        await rig.until(26)
        assert rig.archived("set_back") == [{"count": 1001}], "it was to be given the newest"
        program.state = {"count": 2500}
        program.put_refusal = None
        await rig.until(40)
        assert program.puts == []
        assert rig.archived("superseded") == [{"count": 2000}]


async def test_who_loaded_the_document_that_was_written_as_it_began_goes_on_by_itself():
    rig = Rig(seed_every_seconds=0.0)
    program = rig.add(1, {"count": 1000})
    async with rig:
        await crash_while_written(rig, program, loaded_before=False)
        await rig.until(40)
        assert program.puts == []
        assert rig.archived("superseded") == [{"count": 2000}]


# A document that is ahead of the database


def write_ahead(rig: Rig, state: dict[str, Any]) -> bytes:
    content = document(
        payload_of(state),
        processor_id=KEY,
        pod_name="pod-1",
        timestamp=START + 500,
        position=Position(1, 1, 900),
    )
    rig.cluster.states[KEY] = content
    return content


@pytest.mark.parametrize("has_checkpoint", [True, False])
async def test_a_document_ahead_of_the_database_freezes_the_processor(has_checkpoint):
    rig = Rig(**LOCAL)
    if has_checkpoint:
        rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11.5)
        rig.running.clear()
        await rig.until(13)
        content = write_ahead(rig, {"count": 900})
        program = rig.add(1, {"count": 950}, name="pod-1")
        rig.lease = None
        await rig.until(15)
        await rig.lead()
        await rig.until(60)
        assert program.puts == []
        assert rig.newest() == ({"count": 50} if has_checkpoint else None)
        assert rig.cluster.states[KEY] is content
        assert list(rig.checkpointer.frozen) == [KEY]
        assert "(1, 1, 900)" in rig.checkpointer.frozen[KEY]
        with pytest.raises(DocumentAhead, match="was it restored from a backup"):
            await rig.prepare(("pod-1",))
        assert rig.cluster.states[KEY] is content
        assert json.loads(rig.cluster.states[KEY])["payload"] == {"count": 900}


async def test_an_operator_adopts_a_document_that_is_ahead():
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11.5)
        rig.running.clear()
        await rig.until(13)
        write_ahead(rig, {"count": 900})
        program = rig.add(1, {"count": 950}, name="pod-1")
        rig.lease = None
        await rig.until(15)
        await rig.lead()
        await rig.until(30)
        assert rig.checkpointer.frozen
        rig.store.to_adopt.add(KEY)
        await rig.until(33)
        assert rig.checkpointer.frozen == {}
        assert ("guard", "document_adopted") in rig.reasons
        program.state = {"count": 960}
        await rig.until(60)
        assert (program.puts, rig.newest()) == ([], {"count": 960})
        assert rig.document().position == rig.position()
        assert rig.restored()


async def test_one_whose_pod_is_gone_is_made_anew_from_the_document_that_was_adopted():
    rig = Rig(**LOCAL)
    async with rig:
        await rig.until(1)
        write_ahead(rig, {"count": 900})
        with pytest.raises(DocumentAhead):
            await rig.prepare(("pod-1",))
        rig.store.to_adopt.add(KEY)
        await rig.until(5)
        assert rig.checkpointer.frozen == {}
        seeded = await rig.prepare(("pod-1",))
        assert rig.newest() == rig.load() == {"count": 900}
        assert rig.document().position == seeded.position == rig.position()


async def test_a_change_of_the_leader_under_way_freezes_nobody():
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 1})
    async with rig:
        for turn in range(1, 6):
            await rig.until(11.5 * turn)
            program.state = {"count": turn}
            rig.lease = None
            await rig.until(11.5 * turn + 2)
            await rig.lead()
        await rig.until(80)
        assert rig.checkpointer.frozen == {}
        assert rig.newest() == rig.load() == {"count": 5}


async def test_what_was_saved_by_a_life_that_nobody_could_judge_is_taken():
    """The cluster was away when it began, and it was ended in order before that was back."""
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11.5)
        del rig.running["pod-1"]
        await rig.prepare(("pod-1",))
        program = rig.add(1, rig.load(), name="pod-new", epoch=2)
        rig.cluster.error = ClusterUnavailable("away")
        await rig.until(41)
        assert not rig.restored("pod-new")
        rig.cluster.error = None
        rig.save_document({"count": 350}, "pod-new", 41)
        del rig.running["pod-new"]
        await rig.prepare(("pod-new", "pod-1"))
        assert (program.puts, rig.load(), rig.newest()) == ([], {"count": 350}, {"count": 350})


@pytest.mark.parametrize(
    ("lost", "later", "puts"),
    [
        # It took the state, and went on.
        ({"count": 50, "limit": 5}, {"count": 70, "limit": 5}, 1),
        # It never came to it, or does not go on from that.
        ({"count": 7, "limit": 5}, {"count": 27, "limit": 5}, 2),
        ({"count": 50, "limit": 5}, {"count": 70, "limit": 3}, 2),
        ({"count": 50, "limit": 5}, {"count": 50, "limit": 5}, 1),
    ],
)
async def test_a_state_whose_giving_was_not_answered_is_not_given_over_what_came_of_it(
    lost, later, puts
):
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 50, "limit": 5})

    def loses_its_answer() -> None:
        program.state, program.on_put = lost, lambda: None
        raise PodUnreachable("no answer within 10 s")

    async with rig:
        await rig.until(11.5)
        rig.cluster.states.clear()
        program = rig.restart("pod-1", {"count": 7, "limit": 5})
        program.on_put = loses_its_answer
        await rig.until(12.9)
        assert len(program.puts) == 1
        program.state = later
        await rig.until(16)
        assert (len(program.puts), rig.restored()) == (puts, True)


@pytest.mark.parametrize(
    ("newest", "began", "later", "proof"),
    [
        # It had more before it was to be given anything: that shows nothing.
        ({"count": 50}, {"count": 60}, {"count": 80}, ()),
        ({"count": 50, "words": ["a"]}, {"count": 60}, {"count": 80}, ()),
        ({"count": 50, "words": ["a"]}, {"count": 7, "words": []}, {"count": 80, "words": []}, ()),
        ({"at": 1.6e9, "words": ["a"]}, {"at": 1.7e9}, {"at": 1.7e9 + 2}, ()),
        # The template says what shows it.
        (
            {"count": 50, "word": "a"},
            {"count": 7, "word": ""},
            {"count": 80, "word": ""},
            ("/word",),
        ),
    ],
)
async def test_one_that_was_not_reached_is_given_what_it_lacks_whatever_has_grown(
    newest, began, later, proof
):
    rig = Rig(**LOCAL)
    rig.add(1, newest, proof=proof)
    async with rig:
        await rig.until(11.5)
        rig.cluster.states.clear()
        program = rig.restart("pod-1", began)
        program.put_refusal = PodUnreachable("connection refused")
        await rig.until(12.9)
        program.state, program.put_refusal = later, None
        await rig.until(16)
        assert program.puts == [newest]


async def test_one_that_began_with_nothing_is_given_its_state_however_high_it_counts():
    rig = Rig(**LOCAL)
    rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11.5)
        rig.cluster.states.clear()
        program = rig.restart("pod-1", {"count": 60})
        await rig.until(14)
        assert program.puts == [{"count": 50}]


async def test_what_its_program_is_just_writing_is_not_overwritten():
    """The client library empties its file, and writes then: as a pod ends, this is what it saves."""
    rig = Rig(**LOCAL)
    program = rig.add(1, {"count": 50})
    async with rig:
        await rig.until(11.5)
        program.state = {"count": 60}
        rig.cluster.states[KEY] = b""
        await rig.until(21.5)
        assert (rig.newest(), rig.cluster.states[KEY]) == ({"count": 60}, b"")
        assert ("document_refused", "unreadable") not in rig.reasons
        # What is still the same at the next look is broken.
        program.state = {"count": 70}
        await rig.until(31.5)
        assert rig.load() == {"count": 70}
        assert rig.reasons.count(("document_refused", "unreadable")) == 1
        # Another moment, another save.
        rig.cluster.states[KEY] = b""
        program.state = {"count": 80}
        await rig.until(41.5)
        assert rig.cluster.states[KEY] == b""
        rig.cluster.states[KEY] = b"{"
        program.state = {"count": 90}
        await rig.until(51.5)
        assert rig.cluster.states[KEY] == b"{"
