"""Whether a container that started is given the newest checkpoint.

What it began with decides, not whether two states are equal: a program that went on by itself
from the newest has another state by now, and to give it the newest again would set it back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dory_orchestrator.core.checkpoint import (
    Capture,
    Document,
    DocumentReason,
    Incarnation,
    Position,
    StoredCheckpoint,
    is_empty,
    numbers_in_both,
    prove,
)

_RESET_FACTOR = 2
"""A number that has fallen to less than one part in so many, within the first moments of a life,
did not come down by itself: what is measured wavers by less, and what counts down goes by ones."""

_VISITED_SECONDS = 10.0
"""While we are well a life is visited within so many seconds of being ready: it is looked for each
second, its state takes up to five, its metrics two, and a failed visit is repeated after two."""


class Carrier(StrEnum):
    """What becomes of what a client library saves: we read it, it goes with the container, or it
    lies where we do not look."""

    READABLE = "readable"
    NONE = "none"
    UNKNOWN = "unknown"


class Lay(StrEnum):
    """Which document lay in the client library's store when a life began."""

    OURS = "ours"
    OWN_SAVE = "own_save"
    BEHIND_SAVE = "behind_save"
    """Saved by a life that had lost its state, and was not given it."""
    OTHER = "other"
    NONE = "none"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Start:
    """What a life began with. `was_read` tells whether the client library could read its store;
    None: it does not tell.

    `at` is when that state was taken: of ours by the database's clock, of a save by that of the
    pod that saved it.
    """

    lay: Lay
    position: Position | None = None
    sha256: bytes | None = None
    pod_name: str | None = None
    at: float | None = None
    was_read: bool | None = None


_NOTHING = (Lay.NONE, Lay.UNREADABLE)
_LAY_OF_JUDGED = {
    DocumentReason.OURS: Lay.OURS,
    DocumentReason.STRANGER: Lay.OTHER,
    # Written over what it began with, by itself.
    DocumentReason.PRESENT: Lay.UNKNOWN,
    DocumentReason.DOUBTFUL: Lay.OTHER,
    DocumentReason.CONTRADICTED: Lay.OTHER,
}


def start_of(
    found: Document | None,
    judged: DocumentReason | None,
    *,
    unreadable: bool = False,
    previous: Incarnation | None = None,
    doubted_from: float | None = None,
) -> Start:
    """What a life began with, from the document that lies there at its first visit and how that
    was judged. With `doubted_from`, we wrote it when this life may have begun already: then it
    began with one that was received at that time, or with this one.
    """
    if found is None or judged is None:
        return Start(Lay.UNREADABLE if unreadable else Lay.NONE)
    lay = _LAY_OF_JUDGED.get(judged, Lay.OWN_SAVE)
    if is_empty(found.payload):
        lay = Lay.NONE
    if lay is Lay.OURS and doubted_from is not None:
        # The older of the two: the smaller loss is to take it for that, as a life that is visited
        # late has run on for longer than the two are apart, and is left alone.
        return Start(lay, pod_name=found.pod_name, at=doubted_from)
    if judged is DocumentReason.DOUBTFUL and previous is not None and previous.behind:
        lay = Lay.BEHIND_SAVE
    if lay is Lay.UNKNOWN:
        # That it is the newest by now says nothing of what was there before.
        return Start(lay)
    at = found.received_at if lay is Lay.OURS else found.saved_at
    return Start(lay, found.position, found.sha256, found.pod_name, at)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFacts:
    """What is known of a start. `capture` is the first of this life; `interval_seconds` the time
    between two checkpoints."""

    start: Start
    newest: StoredCheckpoint | None
    capture: Capture
    proof: Sequence[str] = ()
    interval_seconds: float = 0.0

    @property
    def is_same(self) -> bool:
        """Whether it has the very state."""
        return self.newest is not None and self.newest.sha256 == self.capture.sha256

    @property
    def contradiction(self) -> str | None:
        """What shows that it does not go on from the newest: a key that it lacks, or a number
        that has fallen."""
        newest, capture = self.newest, self.capture
        if newest is None:
            return None
        wrong = prove(newest.payload, capture.payload, self.proof)
        if wrong is None and is_empty(capture.payload) and not is_empty(newest.payload):
            return "it is empty"
        return wrong

    @property
    def is_proven(self) -> bool:
        """Whether the template says what shows it, and that shows it."""
        return bool(self.proof) and self.contradiction is None

    @property
    def began_with_nothing(self) -> bool:
        """Whether nothing lay there, or nothing was read."""
        return self.start.lay in _NOTHING or self.start.was_read is False

    @property
    def began_with_newest(self) -> bool:
        """Whether the newest lay there, and was read as far as is known."""
        start, newest = self.start, self.newest
        if newest is None or start.was_read is False:
            return False
        is_as_late = start.position is not None and start.position >= newest.position
        return is_as_late or start.sha256 == newest.sha256

    @property
    def began_older(self) -> bool:
        """Whether what lay there is older than the newest."""
        return self.start.lay in (Lay.OURS, Lay.OWN_SAVE) and not self.began_with_newest

    @property
    def has_more(self) -> bool:
        """Whether it may have begun with the newest, which we wrote at that moment, and has a
        number that is higher than there: whoever began with less would have to have overtaken it."""
        newest, start = self.newest, self.start
        if newest is None or start.lay is not Lay.OURS or start.sha256 is not None:
            return False
        return any(now > was for was, now in numbers_in_both(newest.payload, self.capture.payload))

    @property
    def looks_reset(self) -> bool:
        """Whether it has just begun, and looks as if it did so from nothing, although it is known
        what lay there. Where that is unknown, it may as well have begun with a state whose numbers
        are lower."""
        newest = self.newest
        if newest is None or self.start.lay is Lay.UNKNOWN:
            return False
        if self.ran_seconds > max(self.interval_seconds, 1.0):
            return False
        return looks_reset(newest.payload, self.capture.payload)

    @property
    def ran_seconds(self) -> float:
        """How long it has run on at most. By its own clock, which may have been set meanwhile; by
        ours, no longer than since the newest was seen in the life before."""
        most = self.newest.age_seconds if self.newest is not None else math.inf
        uptime = self.capture.uptime_seconds
        return most if uptime < 0 else min(uptime, most)

    @property
    def gain_seconds(self) -> float:
        """How far the newest is ahead of what it began with. Where two clocks that are not the
        same would have to tell, as far as checkpoints are apart."""
        start, newest = self.start, self.newest
        if newest is None or start.at is None:
            return self.interval_seconds
        if start.lay is Lay.OURS:
            return max(0.0, newest.received_at - start.at)
        if start.pod_name == newest.pod_name:
            return max(0.0, newest.captured_at - start.at)
        return self.interval_seconds


class StartReason(StrEnum):
    """What a start is, and so what is done."""

    NO_CHECKPOINT = "no_checkpoint"
    SAME_STATE = "same_state"
    PROVEN = "proven"
    LOST_KEYS = "lost_keys"
    LOOKS_RESET = "looks_reset"
    BEGAN_WITH_NEWEST = "began_with_newest"
    BEGAN_WITH_NOTHING = "began_with_nothing"
    LIFE_WAS_BEHIND = "life_was_behind"
    HAS_MORE = "has_more"
    RAN_ON_LONGER = "ran_on_longer"
    BEGAN_OLDER = "began_older"
    NOT_SHOWN = "not_shown"

    @property
    def gives(self) -> bool:
        """Whether it is given the newest."""
        return self in _GIVEN

    @property
    def is_told(self) -> bool:
        """Whether it is left alone although the newest may have had more: people are told, and
        the newest is kept."""
        return self in (StartReason.HAS_MORE, StartReason.RAN_ON_LONGER, StartReason.NOT_SHOWN)


_GIVEN = frozenset(
    {
        StartReason.LOST_KEYS,
        StartReason.LOOKS_RESET,
        StartReason.BEGAN_WITH_NOTHING,
        StartReason.LIFE_WAS_BEHIND,
        StartReason.BEGAN_OLDER,
    }
)

# The first that holds decides. Above stands what shows that it goes on; below what shows that it
# is older; last, where nothing is shown, it is left alone.
_RULES: tuple[tuple[StartReason, Callable[[StartFacts], bool]], ...] = (
    (StartReason.NO_CHECKPOINT, lambda facts: facts.newest is None),
    (StartReason.SAME_STATE, lambda facts: facts.is_same),
    # The template's word, whatever lay there: it may have gone on from a save that nobody saw.
    (StartReason.PROVEN, lambda facts: facts.is_proven),
    # Also of one that began with the newest: the client library passes over a restore that fails.
    (StartReason.LOST_KEYS, lambda facts: facts.contradiction is not None),
    (StartReason.LOOKS_RESET, lambda facts: facts.looks_reset),
    (StartReason.BEGAN_WITH_NEWEST, lambda facts: facts.began_with_newest),
    # However long it ran: what it lost is everything, and what it did is archived.
    (StartReason.BEGAN_WITH_NOTHING, lambda facts: facts.began_with_nothing),
    # Its last life was to be given the newest, and was not.
    (StartReason.LIFE_WAS_BEHIND, lambda facts: facts.start.lay is Lay.BEHIND_SAVE),
    # It was killed while its document was written, which it may have begun with: to give it the
    # same again would undo what it did since.
    (StartReason.HAS_MORE, lambda facts: facts.has_more),
    # After an absence of ours. To give it costs what it did since it began; not to give it, what
    # the newest is ahead of what it began with. The smaller loss is taken. While we are well it
    # is given: no more than an interval may be lost then, also where a visit comes late.
    (
        StartReason.RAN_ON_LONGER,
        lambda facts: (
            facts.began_older and facts.ran_seconds > max(facts.gain_seconds, _VISITED_SECONDS)
        ),
    ),
    (StartReason.BEGAN_OLDER, lambda facts: facts.began_older),
    (StartReason.NOT_SHOWN, lambda _: True),
)


def judge_start(facts: StartFacts) -> StartReason:
    """What a start is."""
    return next(reason for reason, holds in _RULES if holds(facts))


def looks_reset(before: bytes, after: bytes) -> bool:
    """Whether every number that differs has fallen to less than half, and there is one at least:
    so it looks when a program began from nothing. One that went on has something that grew."""
    fallen = 0
    for least, number in numbers_in_both(before, after):
        if number == least:
            continue
        # Whole numbers may be beyond what a float holds.
        if number < 0 or number * _RESET_FACTOR >= least:
            return False
        fallen += 1
    return fallen > 0
