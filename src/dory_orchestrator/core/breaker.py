"""The circuit breaker in front of the database, as a state machine over values.

After `failures_to_open` failures in a row it opens: calls are refused at once, so that a
dead database costs nobody a timeout. After `open_seconds` one trial call is let through
(half-open); its outcome closes the breaker or opens it again.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class BreakerState(StrEnum):
    """Named as in the metric `dory_circuit_breaker_transitions_total`."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When to open, and for how long."""

    failures_to_open: int = 3
    open_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state. `opened_at` is on the caller's monotonic clock, in seconds."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    opened_at: float = 0.0


def admit(breaker: Breaker, now: float, limits: BreakerLimits) -> tuple[Breaker, bool]:
    """May a call go out at `now`? In half-open, only the one that made it so."""
    match breaker.state:
        case BreakerState.CLOSED:
            return breaker, True
        case BreakerState.OPEN if now - breaker.opened_at >= limits.open_seconds:
            return replace(breaker, state=BreakerState.HALF_OPEN, opened_at=now), True
        case BreakerState.HALF_OPEN if now - breaker.opened_at >= 10 * limits.open_seconds:
            # The trial never reported back (its task was cancelled): let another one try.
            return replace(breaker, opened_at=now), True
        case BreakerState.OPEN | BreakerState.HALF_OPEN:
            return breaker, False


def succeed(breaker: Breaker) -> Breaker:
    """A call came back. One success is proof enough: the database answers."""
    return Breaker() if breaker != Breaker() else breaker


def fail(breaker: Breaker, now: float, limits: BreakerLimits) -> Breaker:
    """A call failed for a reason that lies with the database or the way to it."""
    failures = breaker.failures + 1
    if breaker.state is BreakerState.CLOSED and failures < limits.failures_to_open:
        return replace(breaker, failures=failures)
    if breaker.state is BreakerState.OPEN:
        # A straggler of before the opening: it says nothing new, and must not postpone the trial.
        return replace(breaker, failures=failures)
    return Breaker(state=BreakerState.OPEN, failures=failures, opened_at=now)
