"""Whether a container that started is given the newest checkpoint."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dory_orchestrator.core.checkpoint import (
    Capture,
    Document,
    DocumentReason,
    Incarnation,
    Position,
    StoredCheckpoint,
    payload_of,
    sha256_of,
)
from dory_orchestrator.core.start import (
    Lay,
    Start,
    StartFacts,
    StartReason,
    judge_start,
    looks_reset,
    start_of,
)

NEWEST = Position(1, 4, 40)
OLDER = Position(1, 4, 30)
NOW = 1000.0


def stored(state: dict[str, Any] | None = None, **changes: Any) -> StoredCheckpoint:
    payload = payload_of(state or {"count": 500})
    values: dict[str, Any] = {
        "position": NEWEST,
        "pod_uid": "uid-a",
        "pod_name": "pod-a",
        "captured_at": NOW - 30.0,
        "received_at": NOW - 30.0,
        "confirmed_at": NOW - 30.0,
        "payload": payload,
        "sha256": sha256_of(payload),
        "age_seconds": 30.0,
    }
    return StoredCheckpoint(**(values | changes))


def taken(state: dict[str, Any], uptime_seconds: float = 2.0) -> Capture:
    payload = payload_of(state)
    return Capture(payload, sha256_of(payload), "pod-a", NOW, uptime_seconds)


def ours(position: Position, at: float | None = None, **changes: Any) -> Start:
    return Start(Lay.OURS, position, b"", "pod-a", at, **changes)


def judged(start: Start, capture: Capture, **facts: Any) -> StartReason:
    values: dict[str, Any] = {"newest": stored(), "interval_seconds": 10.0} | facts
    return judge_start(StartFacts(start=start, capture=capture, **values))


ON = {"count": 520}
LONG_AGO = NOW - 90.0
"""A minute before the newest."""


@pytest.mark.parametrize(
    ("start", "capture", "facts", "reason", "gives"),
    [
        (Start(Lay.NONE), taken(ON), {"newest": None}, StartReason.NO_CHECKPOINT, False),
        (Start(Lay.NONE), taken({"count": 500}), {}, StartReason.SAME_STATE, False),
        (ours(NEWEST), taken(ON), {}, StartReason.BEGAN_WITH_NEWEST, False),
        (ours(NEWEST, was_read=True), taken(ON, 3600), {}, StartReason.BEGAN_WITH_NEWEST, False),
        (
            Start(Lay.OWN_SAVE, sha256=stored().sha256),
            taken(ON),
            {},
            StartReason.BEGAN_WITH_NEWEST,
            False,
        ),
        # It was not read, whatever lay there.
        (ours(NEWEST, was_read=False), taken(ON), {}, StartReason.BEGAN_WITH_NOTHING, True),
        (ours(NEWEST, was_read=False), taken(ON, 3600), {}, StartReason.BEGAN_WITH_NOTHING, True),
        (Start(Lay.NONE), taken(ON, 3600), {}, StartReason.BEGAN_WITH_NOTHING, True),
        (Start(Lay.UNREADABLE), taken(ON), {}, StartReason.BEGAN_WITH_NOTHING, True),
        # The template tells.
        (Start(Lay.NONE), taken(ON), {"proof": ["/count"]}, StartReason.PROVEN, False),
        (
            ours(NEWEST),
            taken({"count": 499}),
            {"proof": ["/count"]},
            StartReason.LOST_KEYS,
            True,
        ),
        (ours(NEWEST), taken({"other": 1}), {}, StartReason.LOST_KEYS, True),
        (ours(NEWEST), taken({}), {}, StartReason.LOST_KEYS, True),
        # Where it has just begun, and everything is as if anew.
        (ours(NEWEST, was_read=True), taken({"count": 20}), {}, StartReason.LOOKS_RESET, True),
        (Start(Lay.OTHER), taken({"count": 20}), {}, StartReason.LOOKS_RESET, True),
        (
            Start(Lay.OWN_SAVE, sha256=stored().sha256),
            taken({"count": 20}),
            {},
            StartReason.LOOKS_RESET,
            True,
        ),
        # Where it is unknown, that its numbers fell shows nothing unless the template says so.
        (Start(Lay.UNKNOWN), taken({"count": 20}), {}, StartReason.NOT_SHOWN, False),
        (
            Start(Lay.UNKNOWN),
            taken({"count": 20}),
            {"proof": ["/count"]},
            StartReason.LOST_KEYS,
            True,
        ),
        (Start(Lay.UNKNOWN), taken({"other": 20}), {}, StartReason.LOST_KEYS, True),
        (ours(NEWEST), taken({"count": 20}, 11.0), {}, StartReason.BEGAN_WITH_NEWEST, False),
        (ours(NEWEST), taken({"count": 450}), {}, StartReason.BEGAN_WITH_NEWEST, False),
        # Older: the smaller loss.
        (ours(OLDER, LONG_AGO), taken(ON, 59.0), {}, StartReason.BEGAN_OLDER, True),
        (
            ours(OLDER, LONG_AGO),
            taken(ON, 61.0),
            {"newest": stored(age_seconds=70.0)},
            StartReason.RAN_ON_LONGER,
            False,
        ),
        # Within the time in which it is visited while we are well: whatever it has done, it is given.
        (ours(OLDER, NOW - 31.0), taken(ON, 10.0), {}, StartReason.BEGAN_OLDER, True),
        (ours(OLDER, NOW - 31.0), taken(ON, 10.1), {}, StartReason.RAN_ON_LONGER, False),
        # A clock that jumped ahead does not make it old, and one that was set back not young.
        (ours(OLDER, LONG_AGO), taken(ON, 1e9), {}, StartReason.BEGAN_OLDER, True),
        (ours(OLDER, LONG_AGO), taken(ON, -3600), {}, StartReason.BEGAN_OLDER, True),
        (
            ours(OLDER, LONG_AGO),
            taken(ON, -3600),
            {"newest": stored(age_seconds=70.0)},
            StartReason.RAN_ON_LONGER,
            False,
        ),
        # By the clock of the pod that saved it, if it is the same.
        (
            Start(Lay.OWN_SAVE, None, b"", "pod-a", NOW - 50.0),
            taken(ON, 19.0),
            {},
            StartReason.BEGAN_OLDER,
            True,
        ),
        (
            Start(Lay.OWN_SAVE, None, b"", "pod-a", NOW - 50.0),
            taken(ON, 21.0),
            {},
            StartReason.RAN_ON_LONGER,
            False,
        ),
        (
            Start(Lay.OWN_SAVE, None, b"", "pod-b", NOW - 500.0),
            taken(ON, 11.0),
            {},
            StartReason.RAN_ON_LONGER,
            False,
        ),
        (Start(Lay.BEHIND_SAVE), taken(ON, 3600), {}, StartReason.LIFE_WAS_BEHIND, True),
        # Nothing is shown.
        (Start(Lay.UNKNOWN), taken(ON), {}, StartReason.NOT_SHOWN, False),
        (Start(Lay.OTHER), taken({"count": 499}), {}, StartReason.NOT_SHOWN, False),
    ],
)
def test_what_a_start_is(start, capture, facts, reason, gives):
    assert judged(start, capture, **facts) is reason
    assert reason.gives is gives


@settings(deadline=None)
@given(
    lay=st.sampled_from(Lay),
    position=st.none() | st.builds(Position, st.just(1), st.just(4), st.integers(1, 40)),
    was_read=st.none() | st.booleans(),
    grown=st.integers(0, 10**6),
    uptime_seconds=st.floats(-1e6, 1e9),
    age_seconds=st.floats(0, 1e6),
)
def test_who_is_beyond_the_newest_by_its_templates_word_is_never_set_back(
    lay, position, was_read, grown, uptime_seconds, age_seconds
):
    start = Start(lay, position, b"", "pod-a", NOW - 40.0, was_read)
    capture = taken({"count": 500 + grown}, uptime_seconds)
    newest = stored(age_seconds=age_seconds)
    assert not judged(start, capture, newest=newest, proof=["/count"]).gives


LIFE = Incarnation(3, "uid-a", "pod-a", 0, 1.0, given=True)


def found(state: dict[str, Any], **changes: Any) -> Document:
    payload = payload_of(state)
    values: dict[str, Any] = {
        "payload": payload,
        "sha256": sha256_of(payload),
        "pod_name": "pod-a",
        "saved_at": 900.0,
    }
    return Document(**(values | changes))


@pytest.mark.parametrize(
    ("document", "judged_as", "options", "start"),
    [
        (None, None, {}, (Lay.NONE, None)),
        (None, None, {"unreadable": True}, (Lay.UNREADABLE, None)),
        (
            found({"a": 1}, position=OLDER, received_at=70.0),
            DocumentReason.OURS,
            {},
            (Lay.OURS, 70.0),
        ),
        (found({"a": 1}), DocumentReason.NEWER, {}, (Lay.OWN_SAVE, 900.0)),
        (found({"a": 1}), DocumentReason.OLDER, {}, (Lay.OWN_SAVE, 900.0)),
        (found({}), DocumentReason.CONTRADICTED, {}, (Lay.NONE, 900.0)),
        (found({"a": 1}), DocumentReason.PRESENT, {}, (Lay.UNKNOWN, None)),
        (found({"a": 1}), DocumentReason.STRANGER, {}, (Lay.OTHER, 900.0)),
        (found({"a": 1}), DocumentReason.DOUBTFUL, {"previous": LIFE}, (Lay.OTHER, 900.0)),
        (
            found({"a": 1}),
            DocumentReason.DOUBTFUL,
            {"previous": Incarnation(3, "u", "p", 0, 1.0, behind=True)},
            (Lay.BEHIND_SAVE, 900.0),
        ),
        (
            found({"a": 1}, position=NEWEST, received_at=70.0),
            DocumentReason.OURS,
            {"doubted_from": 60.0},
            (Lay.OURS, 60.0),
        ),
    ],
)
def test_what_a_life_began_with(document, judged_as, options, start):
    begun = start_of(document, judged_as, **options)
    assert (begun.lay, begun.at) == start


def test_of_what_was_written_when_it_may_have_begun_already_its_numbers_tell():
    newest = stored({"count": 500, "limit": 5, "level": 7})
    document = found({"count": 500}, position=NEWEST, received_at=970.0)
    begun = start_of(document, DocumentReason.OURS, doubted_from=960.0)

    def judged_with(seconds: float, **numbers: int) -> StartReason:
        return judged(begun, taken({"limit": 5, "level": 7} | numbers, seconds), newest=newest)

    assert judged_with(2.0, count=490) is StartReason.BEGAN_OLDER
    assert judged_with(20.0, count=490) is StartReason.RAN_ON_LONGER
    # It has more than the newest: it may have begun with that, and would be set back.
    for seconds in (0.7, 2.0, 20.0):
        assert judged_with(seconds, count=520) is StartReason.HAS_MORE
        assert judged_with(seconds, count=520, level=3) is StartReason.HAS_MORE


@pytest.mark.parametrize(
    ("before", "after", "reset"),
    [
        ({"n": 100}, {"n": 3}, True),
        ({"n": 100}, {"n": 0}, True),
        ({"n": 100, "deep": [{"m": 50}]}, {"n": 3, "deep": [{"m": 1}]}, True),
        ({"n": 100, "at": 5.0}, {"n": 3, "at": 6.0}, False),
        ({"n": 100}, {"n": 98}, False),
        ({"n": 21.3}, {"n": 21.2}, False),
        ({"n": 100}, {"n": 100}, False),
        ({"n": 100}, {"n": -5}, False),
        ({"n": 10**400}, {"n": 1}, True),
        ({"n": float("nan")}, {"n": 1}, False),
        ({"text": "b"}, {"text": "a"}, False),
        ({"n": True}, {"n": False}, False),
    ],
)
def test_what_looks_as_if_it_had_begun_anew(before, after, reset):
    assert looks_reset(payload_of(before), payload_of(after)) is reset


@pytest.mark.parametrize("content", [b"{", json.dumps([1]).encode(), b"[" * 100_000])
def test_what_is_no_state_looks_like_nothing(content):
    assert not looks_reset(content, content)
