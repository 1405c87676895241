"""What a simulation showed, for people and for programs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dory_orchestrator.core.model import MoveKind
from dory_orchestrator.sim.ground import Line
from dory_orchestrator.sim.simulation import Outcome

LINES_SHOWN = 40
"""Of a timeline whose end matters: where a promise broke."""
_LINES_MAX = 400
_PERCENTS = (50, 90, 99, 100)


def as_text(outcome: Outcome, *, verbose: bool = False) -> str:
    """A header, the timeline, the moves, and what was promised."""
    lines = [_header(outcome), "", *_timeline(outcome, verbose), "", *_moves(outcome), ""]
    lines += [*_faults(outcome), *_promises(outcome), "", _verdict(outcome)]
    return "\n".join(lines)


def as_json(outcome: Outcome, *, verbose: bool = False) -> dict[str, Any]:
    """The same, of plain values."""
    setup, broken = outcome.setup, outcome.broken
    return {
        "seed": setup.seed,
        "scenario": setup.scenario,
        "nodes": setup.nodes,
        "processors": setup.processors,
        "hours": setup.hours,
        "simulated_seconds": round(outcome.simulated_seconds, 1),
        "cycles": outcome.cycles,
        "kept": outcome.is_kept,
        "broken": None
        if broken is None
        else {"promise": broken.promise.name.lower(), "detail": broken.detail},
        "timeline": [
            {"at": round(line.at, 3), "kind": line.kind, "text": line.text}
            for line in _shown(outcome, verbose)
        ],
        "moves": [
            {
                "at": round(moved.at, 3),
                "processor_id": str(moved.processor_id),
                "kind": moved.kind,
                "from_node": moved.from_node,
                "to_node": moved.to_node,
                "outcome": moved.outcome,
                "rto_seconds": moved.rto_seconds,
                "rpo_seconds": moved.rpo_seconds,
            }
            for moved in outcome.moves
        ],
        "rto_seconds": {str(kind): _distribution(_rto(outcome, kind)) for kind in MoveKind},
        "rpo_seconds": {str(kind): _distribution(_rpo(outcome, kind)) for kind in MoveKind},
        "faults": {str(kind): count for kind, count in sorted(outcome.faults.items())},
        "promises_checked": {
            promise.name.lower(): count for promise, count in sorted(outcome.checks.items())
        },
    }


def _header(outcome: Outcome) -> str:
    setup = outcome.setup
    return (
        f"{setup.nodes} edge nodes, {setup.processors} processors, scenario {setup.scenario},"
        f" {setup.hours:g} h of faults, seed {setup.seed}"
    )


def _shown(outcome: Outcome, verbose: bool) -> Sequence[Line]:
    if outcome.broken is not None and not verbose:
        return outcome.lines[-LINES_SHOWN:]
    return [line for line in outcome.lines if verbose or line.notable]


def _timeline(outcome: Outcome, verbose: bool) -> Iterable[str]:
    shown = _shown(outcome, verbose)
    left_out = 0 if verbose else max(0, len(shown) - _LINES_MAX)
    for line in shown[: len(shown) - left_out]:
        yield f"{_clock(line.at)}  {line.kind:<22} {line.text}"
    if left_out:
        yield f"          {left_out} more: --verbose shows all"


def _moves(outcome: Outcome) -> Iterable[str]:
    outcomes = [f"{moved.kind} {moved.outcome}" for moved in outcome.moves]
    counts = ", ".join(f"{outcomes.count(one)} {one}" for one in sorted(set(outcomes)))
    yield f"moves: {counts or 'none'}"
    for kind in MoveKind:
        for name, values in (("RTO", _rto(outcome, kind)), ("RPO", _rpo(outcome, kind))):
            if values:
                found = _distribution(values)
                told = ", ".join(f"{key} {value:.1f} s" for key, value in found.items())
                yield f"  {kind:<9} {name}  {told}"


def _faults(outcome: Outcome) -> Iterable[str]:
    yield f"faults: {sum(outcome.faults.values())}"
    for kind, count in sorted(outcome.faults.items()):
        yield f"  {count:>7}  {kind}"


def _promises(outcome: Outcome) -> Iterable[str]:
    yield f"promises checked: {sum(outcome.checks.values())} times"
    for promise, count in sorted(outcome.checks.items()):
        yield f"  {count:>7}  {promise}"


def _verdict(outcome: Outcome) -> str:
    if outcome.broken is None:
        return f"every promise was kept (seed {outcome.setup.seed})"
    return f"BROKEN with seed {outcome.setup.seed}: {outcome.broken}"


def _rto(outcome: Outcome, kind: MoveKind) -> list[float]:
    found = (m.rto_seconds for m in outcome.moves if m.kind is kind)
    return sorted(value for value in found if value is not None)


def _rpo(outcome: Outcome, kind: MoveKind) -> list[float]:
    found = (m.rpo_seconds for m in outcome.moves if m.kind is kind)
    return sorted(value for value in found if value is not None)


def _distribution(values: Sequence[float]) -> dict[str, float]:
    """Of sorted values."""
    if not values:
        return {}
    found = {}
    for percent in _PERCENTS:
        place = max(0, math.ceil(len(values) * percent / 100) - 1)
        found["max" if percent == 100 else f"p{percent}"] = round(values[place], 1)
    return found


def _clock(at: float) -> str:
    minutes, seconds = divmod(at, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:04.1f}"
