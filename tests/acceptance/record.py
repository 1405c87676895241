"""What a program itself wrote down of its counts (`recorder.py`), and what was lost by that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A count. `wall_at` is to be compared with moments of a database on this machine; `at` is
    the monotonic clock of the machine, the same for all its processes."""

    wall_at: float
    at: float
    counted: int
    incarnation: str
    pod: str


@dataclass(frozen=True)
class Stretch:
    """Counts of one incarnation that follow one another: it was given no other state in between."""

    lines: tuple[Line, ...]

    @property
    def first(self) -> Line:
        return self.lines[0]

    @property
    def last(self) -> Line:
        return self.lines[-1]

    @property
    def base(self) -> int:
        """What it went on from."""
        return self.first.counted - 1


@dataclass(frozen=True)
class Loss:
    """One that began to count, or was given another state while it did, and went on from `base`
    where `highest` had been counted before. `lost` is the difference; `seconds`, for how long the
    program had worked for it.
    """

    before: Line
    """The last line of whoever counted before it."""
    after: Line
    """The first line of what goes on."""
    base: int
    highest: int
    seconds: float
    is_within_life: bool
    """It is the same incarnation: it was set back while it ran."""

    @property
    def lost(self) -> int:
        return max(0, self.highest - self.base)


class Record:
    """All that the incarnations of one processor wrote down."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = tuple(sorted(lines, key=lambda line: line.at))

    @classmethod
    def read(cls, path: Path) -> "Record":
        """A line that is being written is left out; no file: nothing was counted yet."""
        text = path.read_text() if path.exists() else ""
        complete = text[: text.rfind("\n") + 1]
        return cls(_line(words) for words in map(str.split, complete.splitlines()))

    @property
    def last(self) -> Line | None:
        return self.lines[-1] if self.lines else None

    @property
    def incarnations(self) -> tuple[str, ...]:
        """In the order in which they began to count."""
        return tuple(dict.fromkeys(line.incarnation for line in self.lines))

    def of(self, incarnation: str) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.incarnation == incarnation)

    def first_of(self, incarnation: str) -> Line:
        return self.of(incarnation)[0]

    def without(self, pod: str, since: float) -> "Record":
        """Without what a pod counted after it was given up: that counts for nobody."""
        return Record(line for line in self.lines if line.pod != pod or line.at < since)

    def stretches(self) -> tuple[Stretch, ...]:
        """In the order in which they began."""
        found: list[Stretch] = []
        for incarnation in self.incarnations:
            found += _stretches(self.of(incarnation))
        return tuple(sorted(found, key=lambda stretch: stretch.first.at))

    def losses(self, since: float = 0.0) -> list[Loss]:
        """One for each start but the first, and one for each other state that was given to one
        that ran; those that began after a moment. Where a start counts until it is given
        something newer than it began with, it is judged by what it goes on from then.
        """
        found: dict[tuple[str, int], Loss] = {}
        bases: dict[str, int] = {}
        numbers: dict[str, int] = {}
        for stretch in self.stretches():
            life = stretch.first.incarnation
            earlier = [line for line in self.lines if line.at < stretch.first.at]
            is_within_life = life in bases
            if is_within_life and stretch.base > bases[life]:
                found.pop((life, numbers[life]), None)
            bases[life] = stretch.base
            numbers[life] = numbers.get(life, -1) + 1
            if earlier:
                found[life, numbers[life]] = _loss(stretch, earlier, is_within_life)
        return [loss for loss in found.values() if loss.after.at >= since]

    def worst(self, since: float = 0.0) -> Loss | None:
        """What cost most; None when nothing began since."""
        return max(self.losses(since), key=lambda loss: (loss.lost, loss.seconds), default=None)

    def set_back(self) -> list[Loss]:
        """Those that were given, while they ran, what they had begun with or something older."""
        bases: dict[str, int] = {}
        starts = {s.first: bases.setdefault(s.first.incarnation, s.base) for s in self.stretches()}
        return [
            loss
            for loss in self.losses()
            if loss.is_within_life and loss.lost > 0 and loss.base <= starts[loss.after]
        ]

    def overlap_seconds(self) -> float:
        """For how long two incarnations counted beside each other; the longest."""
        lives = [self.of(incarnation) for incarnation in self.incarnations]
        return max(
            (
                min(one[-1].at, other[-1].at) - max(one[0].at, other[0].at)
                for place, one in enumerate(lives)
                for other in lives[place + 1 :]
            ),
            default=0.0,
        )


def _line(words: Sequence[str]) -> Line:
    wall_at, at, count, incarnation, pod = words
    return Line(float(wall_at), float(at), int(count), incarnation, pod)


def _stretches(lines: Sequence[Line]) -> list[Stretch]:
    """Of one incarnation."""
    cuts = [n for n, (one, next_one) in enumerate(pairwise(lines), 1) if next_one[2] != one[2] + 1]
    places = [0, *cuts, len(lines)]
    return [Stretch(tuple(lines[begin:end])) for begin, end in pairwise(places)]


def _loss(stretch: Stretch, earlier: Sequence[Line], is_within_life: bool) -> Loss:
    """`seconds`: from the first count that is lost to the last, each where it was first made."""
    life = stretch.first.incarnation
    before = [line for line in earlier if (line.incarnation == life) is is_within_life]
    highest = max(earlier, key=lambda line: (line.counted, -line.at))
    reached = [
        line.at for line in earlier if line.at <= highest.at and line.counted <= stretch.base + 1
    ]
    lost = highest.counted > stretch.base
    return Loss(
        before[-1],
        stretch.first,
        stretch.base,
        highest.counted,
        highest.at - max(reached, default=earlier[0].at) if lost else 0.0,
        is_within_life,
    )
