"""Checkpoints: what is read and refused, which is newer, and what proves a restore."""

import asyncio
import json
import math
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from dory.migration.serialization import StateSerializer
from dory.migration.state_manager import StateManager
from dory.utils.errors import DoryStateError
from hypothesis import given, settings
from hypothesis import strategies as st

from dory_orchestrator.core.checkpoint import (
    Capture,
    CaptureLimits,
    CaptureReason,
    CaptureRefused,
    Document,
    DocumentReason,
    DocumentRefused,
    Incarnation,
    Position,
    StoredCheckpoint,
    document,
    expected_restart_count,
    has_grown,
    is_same_incarnation,
    judge_document,
    payload_of,
    place_document,
    prove,
    read_capture,
    read_document,
    sha256_of,
)

LIMITS = CaptureLimits()
KEY = UUID(int=7)
STATES = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def answer(data: Any = None, **changes: Any) -> dict[str, Any]:
    """What the client library serves."""
    return {
        "pod_name": "pod-a",
        "app_name": "camera",
        "captured_at": "2026-01-01T00:00:10Z",
        "state_version": "1.0",
        "data": {"count": 1} if data is None else data,
        "metrics": {},
        "connections": [],
        "active_sessions": 0,
        "session_data": {},
        "uptime_seconds": 4.25,
        "request_count": 0,
        "last_health_time": "2026-01-01T00:00:10Z",
    } | changes


def captured(content: Any, **options: Any) -> Capture:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_capture(body, LIMITS, **options)


# Captures


def test_an_answer_of_the_client_library_is_read():
    capture = captured(answer({"b": 1, "a": [None, "é\0"]}), pod_name="pod-a")
    assert capture.payload == b'{"b": 1, "a": [null, "\\u00e9\\u0000"]}'
    assert capture.sha256 == sha256_of(capture.payload)
    assert capture.pod_name == "pod-a"
    assert capture.captured_at == 1767225610.0
    assert capture.ready_at == capture.captured_at - 4.25


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_kept(number):
    body = json.dumps(answer({"x": 0})).replace('"x": 0', f'"x": {number}').encode()
    assert captured(body).payload == f'{{"x": {number}}}'.encode()


@settings(max_examples=100)
@given(STATES)
def test_the_payload_is_what_the_client_library_would_write(state):
    assert captured(answer(state)).payload == json.dumps(state).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", CaptureReason.MALFORMED),
        (b"{", CaptureReason.MALFORMED),
        (b"\xff", CaptureReason.MALFORMED),
        (b"[]", CaptureReason.MALFORMED),
        (b"[" * 100_000, CaptureReason.MALFORMED),
        (b'{"data": ' + b"9" * 5000 + b"}", CaptureReason.MALFORMED),
        ({"error": "x"}, CaptureReason.ERROR),
        (answer(error="x"), CaptureReason.ERROR),
        (answer(error=None), CaptureReason.ERROR),
        ({}, CaptureReason.NO_DATA),
        (answer() | {"data": None}, CaptureReason.NO_DATA),
        (answer([]), CaptureReason.NO_DATA),
        (answer("text"), CaptureReason.NO_DATA),
        (answer({"x": "a" * 1_000_000}), CaptureReason.TOO_LARGE),
        (answer({"x": "é" * 200_000}), CaptureReason.TOO_LARGE),
        (answer(pod_name=None), CaptureReason.MALFORMED),
        (answer(pod_name="pod-b"), CaptureReason.ANOTHER_POD),
        (answer(captured_at="soon"), CaptureReason.MALFORMED),
        (answer(captured_at="2026-01-01T00:00:10"), CaptureReason.MALFORMED),
        (answer(captured_at=5), CaptureReason.MALFORMED),
        (answer(uptime_seconds="4"), CaptureReason.MALFORMED),
        (answer(uptime_seconds=True), CaptureReason.MALFORMED),
        (answer(uptime_seconds=float("nan")), CaptureReason.MALFORMED),
        (answer(uptime_seconds=10**400), CaptureReason.MALFORMED),
        (answer(uptime_seconds=0.0), CaptureReason.NOT_READY),
        (answer({}), CaptureReason.EMPTY),
    ],
)
def test_what_is_no_checkpoint(content, reason):
    with pytest.raises(CaptureRefused) as caught:
        captured(content, pod_name="pod-a", had_state=True)
    assert caught.value.reason is reason
    assert len(str(caught.value)) < 300


def test_a_pod_whose_clock_was_set_back_is_of_the_same_life():
    before = captured(answer(uptime_seconds=4.25))
    an_hour_back = {"captured_at": "2025-12-31T23:00:10Z", "uptime_seconds": 4.25 - 3600}
    after = captured(answer(**an_hour_back))
    assert after.uptime_seconds < 0
    assert after.ready_at == before.ready_at


def test_an_empty_state_is_one_as_long_as_there_was_none():
    assert captured(answer({})).payload == b"{}"


def test_the_largest_state_that_is_taken_fits_into_a_post():
    largest = answer({"x": "a" * (LIMITS.size_bytes_max - len('{"x": ""}'))})
    payload = captured(largest).payload
    assert len(payload) == LIMITS.size_bytes_max
    assert len(b'{"data": ' + payload + b"}") < 1024 * 1024


# Documents, and the client library's own code


def written(state: dict[str, Any], **options: Any) -> bytes:
    return document(
        payload_of(state), processor_id=KEY, pod_name="pod-a", timestamp=10.5, **options
    )


@settings(max_examples=100)
@given(STATES, st.none() | st.just(Position(1, 2, 3)))
def test_the_client_library_reads_what_we_write(state, position):
    content = written(state, position=position)
    assert json.dumps(StateSerializer().deserialize(content.decode())) == json.dumps(state)
    found = read_document(content, LIMITS)
    assert (found.payload, found.pod_name, found.saved_at) == (payload_of(state), "pod-a", 10.5)
    assert found.position == position


@settings(max_examples=100)
@given(STATES)
def test_we_read_what_the_client_library_writes(state):
    content = StateSerializer().serialize(state, str(KEY), "pod-b", 0).encode()
    found = read_document(content, LIMITS)
    assert (found.payload, found.pod_name, found.position) == (payload_of(state), "pod-b", None)
    metadata = json.loads(content)["metadata"]
    assert found.saved_at == metadata["timestamp"]
    assert json.loads(written(state))["metadata"].keys() == metadata.keys()


async def test_the_local_backend_of_the_client_library_loads_it(tmp_path):
    key = uuid4()
    manager = StateManager("local")
    manager.LOCAL_STATE_PATH = str(tmp_path / "any.json")
    (tmp_path / f"dory-state-{key}.json").write_bytes(written({"count": 5, "x": math.inf}))
    assert await manager.load_state(str(key)) == {"count": 5, "x": math.inf}
    await manager.save_state(str(key), {"count": 6})
    saved = await asyncio.to_thread((tmp_path / f"dory-state-{key}.json").read_bytes)
    assert read_document(saved, LIMITS).payload == b'{"count": 6}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"payload": {}}',
        b'{"payload": [], "metadata": {}, "checksum": ""}',
        written({"count": 1}).replace(b"1}", b"2}", 1),
        written({"count": 1}).replace(b'"pod-a"', b"7"),
        written({"count": 1}).replace(b"10.5", b'"soon"'),
        written({"count": 1}).replace(b"10.5", b"NaN"),
        b"[" * 100_000,
    ],
)
def test_documents_that_cannot_be_used(content):
    with pytest.raises(DocumentRefused):
        read_document(content, LIMITS)


def test_what_we_refuse_for_its_checksum_the_client_library_refuses_too():
    content = written({"count": 1}).replace(b'{"count": 1}', b'{"count": 2}')
    with pytest.raises(DocumentRefused, match="checksum"):
        read_document(content, LIMITS)
    with pytest.raises(DoryStateError):
        StateSerializer().deserialize(content.decode())


def test_a_document_that_is_too_large():
    with pytest.raises(DocumentRefused, match="bytes"):
        read_document(written({"x": "a" * 100}), CaptureLimits(document_bytes_max=100))


# Incarnations

LIFE = Incarnation(3, "uid", "pod-a", restart_count=2, ready_at=100.0, given=True)


@pytest.mark.parametrize(
    ("uid", "restart_count", "ready_at", "same"),
    [
        ("uid", 2, 100.0, True),
        ("uid", 2, 101.0, True),
        ("uid", 2, 99.0, True),
        ("uid", 2, 102.1, False),
        ("uid", 2, 97.0, False),
        ("uid", 3, 100.0, False),
        ("uid", 1, 100.0, True),
        ("other", 2, 100.0, False),
    ],
)
def test_what_is_another_incarnation(uid, restart_count, ready_at, same):
    found = is_same_incarnation(LIFE, pod_uid=uid, restart_count=restart_count, ready_at=ready_at)
    assert found is same


def test_a_restart_that_the_cluster_tells_of_later_is_not_seen_twice():
    count = expected_restart_count(LIFE, "uid", 2)
    assert count == 3
    new = replace(LIFE, restart_count=count, ready_at=150.0)
    for told in (2, 3):
        assert is_same_incarnation(new, pod_uid="uid", restart_count=told, ready_at=150.3)
    assert not is_same_incarnation(new, pod_uid="uid", restart_count=4, ready_at=150.3)
    assert expected_restart_count(LIFE, "uid", 5) == 5
    assert expected_restart_count(LIFE, "other", 0) == 0
    assert expected_restart_count(None, "uid", 1) == 1


# Which is newer


def stored(state: dict[str, Any], pod_name: str = "pod-a", at: float = 10.0) -> StoredCheckpoint:
    payload = payload_of(state)
    return StoredCheckpoint(
        Position(2, 3, 9), "uid", pod_name, at, 0.0, 0.0, payload, sha256_of(payload)
    )


def found_document(state: dict[str, Any], pod_name: str = "pod-a", at: float = 10.5) -> Document:
    payload = payload_of(state)
    return Document(payload, sha256_of(payload), pod_name, at)


NEWEST = stored({"count": 5})
SAVED = found_document({"count": 6})
GIVEN = replace(LIFE, pod_name="pod-a")
UNJUDGED = replace(GIVEN, given=False)
NAMES = ("pod-b", "pod-a")
PROOF = ("/count",)


@pytest.mark.parametrize(
    ("found", "newest", "options", "reason"),
    [
        (replace(SAVED, position=Position(1, 1, 1)), NEWEST, {}, DocumentReason.OURS),
        (replace(SAVED, pod_name="pod-x"), NEWEST, {}, DocumentReason.STRANGER),
        (replace(SAVED, pod_name="pod-x"), None, {}, DocumentReason.STRANGER),
        (SAVED, None, {"before": 9.5}, DocumentReason.PRESENT),
        (SAVED, None, {"before": 9.6}, DocumentReason.FIRST),
        (SAVED, None, {}, DocumentReason.FIRST),
        (found_document({"count": 5}), NEWEST, {}, DocumentReason.SAME),
        (SAVED, stored({"count": 1}, "pod-b", at=1.0), {}, DocumentReason.OLDER_POD),
        (replace(SAVED, saved_at=9.9), NEWEST, {}, DocumentReason.OLDER),
        # Captures are cut to whole seconds: a tie goes to the document.
        (replace(SAVED, saved_at=10.0), NEWEST, {}, DocumentReason.NEWER),
        (SAVED, NEWEST, {"before": 10.6}, DocumentReason.NEWER),
        (SAVED, NEWEST, {"last": None}, DocumentReason.NEWER),
        (found_document({}), NEWEST, {}, DocumentReason.CONTRADICTED),
        # Of a life that was not judged: its numbers tell.
        (SAVED, NEWEST, {"restarted": True}, DocumentReason.NEWER),
        (SAVED, NEWEST, {"last": UNJUDGED}, DocumentReason.NEWER),
        (
            found_document({"count": 6, "limit": 5}),
            stored({"count": 5, "limit": 5}),
            {"last": UNJUDGED},
            DocumentReason.NEWER,
        ),
        (SAVED, NEWEST, {"last": replace(UNJUDGED, behind=True)}, DocumentReason.DOUBTFUL),
        (found_document({"count": 4}), NEWEST, {"restarted": True}, DocumentReason.DOUBTFUL),
        (
            found_document({"count": 4, "at": 9}),
            stored({"count": 5, "at": 1}),
            {"last": UNJUDGED},
            DocumentReason.DOUBTFUL,
        ),
        (
            found_document({"count": 5, "word": "b"}),
            stored({"count": 5, "word": "a"}),
            {"last": UNJUDGED},
            DocumentReason.DOUBTFUL,
        ),
        (
            found_document({"count": 6}),
            stored({"count": 5, "word": "a"}),
            {"last": UNJUDGED},
            DocumentReason.DOUBTFUL,
        ),
        (
            found_document({"words": [], "at": 1.7e9}),
            stored({"words": ["a"], "at": 1.6e9}),
            {"last": UNJUDGED},
            DocumentReason.DOUBTFUL,
        ),
        (
            found_document({"count": 4}),
            NEWEST,
            {"restarted": True, "proof": PROOF},
            DocumentReason.DOUBTFUL,
        ),
        (SAVED, NEWEST, {"restarted": True, "proof": PROOF}, DocumentReason.NEWER),
        # Of a later pod, whatever the clocks say.
        (replace(SAVED, pod_name="pod-b", saved_at=1.0), NEWEST, {}, DocumentReason.NEWER),
        (
            found_document({"count": 0}, "pod-b"),
            NEWEST,
            {"proof": PROOF},
            DocumentReason.CONTRADICTED,
        ),
        (found_document({"x": 0}, "pod-b"), NEWEST, {}, DocumentReason.CONTRADICTED),
        (SAVED, stored({"count": 1}, "pod-of-long-ago"), {}, DocumentReason.NEWER),
    ],
)
def test_whether_a_document_is_taken(found, newest, options, reason):
    given_options = {"pod_names": NAMES, "last": GIVEN} | options
    assert judge_document(found, newest, **given_options) is reason


@pytest.mark.parametrize(
    ("before", "after", "grown"),
    [
        ({"n": 5}, {"n": 6}, True),
        ({"n": 5}, {"n": 5}, False),
        ({"n": 5, "m": 5}, {"n": 6, "m": 4}, False),
        ({"n": 5, "m": 5}, {"n": 6, "m": 5}, True),
        ({"n": 5}, {"n": 6, "new": 0}, True),
        ({"n": 5, "word": "a"}, {"n": 6, "word": "b"}, True),
        # What is missing.
        ({"n": 5, "m": 5}, {"n": 6}, False),
        ({"n": 5, "of": {"m": 5}}, {"n": 6, "of": {}}, False),
        ({"n": 5, "of": {"m": 5}}, {"n": 6, "of": None}, False),
        ({"n": 5, "words": ["a"]}, {"n": 6, "words": []}, False),
        ({"n": 5, "words": ["a"]}, {"n": 6, "words": ["b", "c"]}, True),
        ({"n": 5, "words": ["a"]}, {"n": 6, "words": "a"}, False),
        # What is nested, and what is deep.
        ({"of": [{"n": 5}]}, {"of": [{"n": 6}]}, True),
        ({"of": [{"n": 5}, {"n": 5}]}, {"of": [{"n": 6}, {"n": 4}]}, False),
        # A clock grows whatever else is lost.
        ({"at": 1.6e9}, {"at": 1.7e9}, False),
        ({"at": 1.6e9, "n": 5}, {"at": 1.7e9, "n": 6}, True),
        ({"at": 1.7e9, "n": 5}, {"at": 1.6e9, "n": 6}, False),
        ({"n": 10**400}, {"n": 10**400 + 1}, False),
    ],
)
def test_whether_a_program_has_gone_on_from_a_state(before, after, grown):
    assert has_grown(payload_of(before), payload_of(after)) is grown


def test_what_cannot_be_read_has_not_grown():
    assert not has_grown(b'{"n": 5}', b'{"n": 6')
    assert not has_grown(b"[" * 100_000, b"[" * 100_000)


NAMED = st.sampled_from(["pod-a", "pod-b", "pod-x"])
MOMENTS = st.integers(0, 20)


@given(NAMED, MOMENTS, NAMED, MOMENTS, st.booleans(), st.booleans())
def test_nothing_older_is_ever_taken(saver, saved_at, owner, captured_at, is_given, restarted):
    found = found_document({"count": 1}, saver, saved_at)
    newest = stored({"count": 2}, owner, captured_at)
    last = Incarnation(1, "uid", saver, 0, 0.0, is_given)
    reason = judge_document(found, newest, pod_names=NAMES, last=last, restarted=restarted)
    if reason.taken:
        assert saver in NAMES
        assert saver != owner or saved_at >= captured_at
        assert not (owner == "pod-b" and saver == "pod-a")
        assert is_given
        assert not restarted


@given(st.lists(st.tuples(MOMENTS, MOMENTS, MOMENTS).map(lambda each: Position(*each))))
def test_positions_order_by_epoch_then_incarnation_then_sequence(positions):
    for one in positions:
        for other in positions:
            if one.epoch != other.epoch:
                assert (one > other) == (one.epoch > other.epoch)
            elif one.incarnation != other.incarnation:
                assert (one > other) == (one.incarnation > other.incarnation)


def test_where_a_document_stands():
    assert place_document(SAVED, None) == (0, 1)
    assert place_document(SAVED, NEWEST) == (2, 3)
    assert place_document(replace(SAVED, pod_name="pod-b"), NEWEST) == (2, 4)


# Proof


@pytest.mark.parametrize(
    ("before", "after", "proof", "wrong"),
    [
        ({}, {}, (), None),
        ({"a": 1}, {"a": 0, "b": 2}, (), None),
        ({"a": 1, "b": 2}, {"b": 2}, (), "lacks 'a'"),
        ({"a": 1}, {"a": 1}, ("/a",), None),
        ({"a": 1}, {"a": 1.5}, ("/a",), None),
        ({"a": 2}, {"a": 1}, ("/a",), "/a is 1, and was 2"),
        ({"a": "x"}, {"a": "y"}, ("/a",), "another value"),
        ({"a": 1}, {"a": "1"}, ("/a",), "another value"),
        ({"a": True}, {"a": False}, ("/a",), "another value"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ("/a/b/1",), None),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, ("/a/b/1",), "/a/b/1 is missing"),
        ({"a/b": 1, "~": 2}, {"a/b": 0, "~": 2}, ("/~0", "/a~1b"), "/a~1b is 0"),
        ({"a": 1}, {"a": 0}, ("/nowhere",), None),
        ({"a": float("nan")}, {"a": float("nan")}, ("/a",), None),
        ({"a": float("nan")}, {"a": 1}, ("/a",), "another value"),
        ({"": 1}, {"": 0}, ("/",), "/ is 0"),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, ("/a",), None),
    ],
)
def test_what_proves_a_restore(before, after, proof, wrong):
    said = prove(payload_of(before), payload_of(after), proof)
    assert said is None if wrong is None else wrong in (said or "")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
def test_what_is_no_state_proves_nothing(content):
    assert prove(b"{}", content, ())


@given(STATES)
def test_a_state_continues_from_itself(state):
    payload = payload_of(state)
    proof = [f"/{key.replace('~', '~0').replace('/', '~1')}" for key in state]
    assert prove(payload, payload, proof) is None
