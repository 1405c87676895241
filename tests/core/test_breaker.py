from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator.core.breaker import (
    Breaker,
    BreakerLimits,
    BreakerState,
    admit,
    fail,
    succeed,
)

LIMITS = BreakerLimits(failures_to_open=3, open_seconds=1.0)


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(3):
        breaker = fail(breaker, at, LIMITS)
    return breaker


def test_opens_at_the_third_failure_in_a_row():
    breaker = fail(fail(Breaker(), 0.0, LIMITS), 0.0, LIMITS)
    assert breaker.state is BreakerState.CLOSED
    assert fail(breaker, 0.0, LIMITS).state is BreakerState.OPEN


def test_a_success_forgets_the_failures_before_it():
    breaker = succeed(fail(fail(Breaker(), 0.0, LIMITS), 0.0, LIMITS))
    assert fail(breaker, 0.0, LIMITS).state is BreakerState.CLOSED


def test_open_admits_nothing_until_its_time_is_over_then_one():
    breaker, admitted = admit(opened(), 0.999, LIMITS)
    assert not admitted
    breaker, admitted = admit(breaker, 1.0, LIMITS)
    assert admitted
    assert breaker.state is BreakerState.HALF_OPEN
    assert not admit(breaker, 1.1, LIMITS)[1]


def test_the_trial_closes_it_or_opens_it_again():
    trial, _ = admit(opened(), 1.0, LIMITS)
    assert succeed(trial) == Breaker()
    again = fail(trial, 1.5, LIMITS)
    assert again.state is BreakerState.OPEN
    assert not admit(again, 2.4, LIMITS)[1]
    assert admit(again, 2.5, LIMITS)[1]


def test_a_straggler_does_not_postpone_the_trial():
    assert admit(fail(opened(), 0.9, LIMITS), 1.0, LIMITS)[1]


def test_a_trial_that_never_reports_does_not_shut_it_for_ever():
    trial, _ = admit(opened(), 1.0, LIMITS)
    assert admit(trial, 1.0 + 10 * LIMITS.open_seconds, LIMITS)[1]


@given(st.lists(st.tuples(st.sampled_from(["admit", "ok", "bad"]), st.floats(0, 5))))
def test_it_always_admits_a_call_again(steps):
    breaker, now = Breaker(), 0.0
    for what, passed in steps:
        now += passed
        if what == "admit":
            breaker, _ = admit(breaker, now, LIMITS)
        else:
            breaker = succeed(breaker) if what == "ok" else fail(breaker, now, LIMITS)
    # A little later than then: sums of such numbers are not exact.
    assert admit(breaker, now + 10 * LIMITS.open_seconds + 0.001, LIMITS)[1]
