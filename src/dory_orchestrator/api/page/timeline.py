"""Moves as bars of equal scale: each begins with the last sign of life."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from dory_orchestrator.api.page.words import cost, seconds
from dory_orchestrator.ports import MoveView

WIDTH = 1000.0
_SCALE_SECONDS_MIN = 10.0
_LONGEST_BY_MEDIAN = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a move: its name, where it begins and how long it is, of WIDTH."""

    name: str
    seconds: float
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A move, its steps, and whether it is longer than can be shown. `state_x` is where the state
    was taken that it went on with: at the beginning, if it was before."""

    move: MoveView
    steps: Sequence[Step]
    is_cut: bool
    state_x: float | None
    text: str
    cost: str


def bars(moves: Sequence[MoveView], now: datetime) -> tuple[Sequence[Bar], float]:
    """A bar for each move, and how many seconds the whole width stands for."""
    found = [(move, _steps(move, now)) for move in moves]
    totals = [sum(length for _, length in steps) for _, steps in found]
    scale = _scale(totals)
    return [_bar(move, steps, scale, now) for move, steps in found], scale


def _scale(totals: Sequence[float]) -> float:
    """As long as the longest, unless one is so long that nothing would be seen of the others."""
    if not totals:
        return _SCALE_SECONDS_MIN
    return max(_SCALE_SECONDS_MIN, min(max(totals), _LONGEST_BY_MEDIAN * median(totals)))


def _steps(move: MoveView, now: datetime) -> list[tuple[str, float]]:
    """Names and seconds. Evidence may be older than the last sign of life: then there was no
    silence that it could have come from."""
    end = move.ended_at or now
    points = [("silent", move.last_alive_at), ("suspect", move.suspect_at)]
    known = [(name, at) for name, at in points if at is not None and move.kind == "failover"]
    known.append(("moving", move.began_at))
    steps, last = [], known[0][1]
    for index, (name, _) in enumerate(known):
        until = known[index + 1][1] if index + 1 < len(known) else end
        until = max(until, last)
        steps.append((name, (until - last).total_seconds()))
        last = until
    return steps


def _bar(move: MoveView, steps: Sequence[tuple[str, float]], scale: float, now: datetime) -> Bar:
    drawn, x = [], 0.0
    for name, length in steps:
        width = min(length / scale * WIDTH, WIDTH - x)
        drawn.append(Step(name, length, round(x, 1), round(width, 1)))
        x += width
    total = sum(length for _, length in steps)
    began_at = (move.ended_at or now) - timedelta(seconds=total)
    state_x = None
    if move.state_at is not None:
        after = (move.state_at - began_at).total_seconds()
        state_x = round(min(max(after / scale, 0.0), 1.0) * WIDTH, 1)
    text = ", ".join(f"{name} {seconds(length)}" for name, length in steps if length >= 0.05)
    return Bar(move, drawn, total > scale, state_x, text or "less than 0.1 s", cost(move))
