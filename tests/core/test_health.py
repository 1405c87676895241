import pytest

from dory_orchestrator.core.health import by_age, overall, ready
from dory_orchestrator.core.hearing import Hearing, HearingLimits, judge, refusing
from dory_orchestrator.core.model import ComponentHealth, HealthStatus

H, D, U = HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY


def of(*statuses):
    return [ComponentHealth(status, "") for status in statuses]


@pytest.mark.parametrize(
    ("statuses", "whole", "is_ready"),
    [
        ((), H, True),
        ((H, H), H, True),
        ((H, D), D, False),
        ((D, U, H), U, False),
        ((U,), U, False),
    ],
)
def test_the_worst_component_speaks_for_all(statuses, whole, is_ready):
    assert overall(of(*statuses)) is whole
    assert ready(of(*statuses)) is is_ready


@pytest.mark.parametrize(
    ("age", "status"),
    [
        pytest.param(None, U, id="never"),
        pytest.param(0.0, H, id="now"),
        pytest.param(89.9, H, id="just-before"),
        pytest.param(90.0, U, id="at-limit"),
    ],
)
def test_healthy_while_the_last_success_is_young(age, status):
    found = by_age(age, 90.0, never="never", error="why")
    assert found.status is status
    assert (status is H) == ("why" not in found.message)


LIMITS = HearingLimits()


@pytest.mark.parametrize(
    ("hearing", "status"),
    [
        pytest.param(Hearing(0.5, None, 0, 1000), H, id="well"),
        pytest.param(Hearing(None, None, 0, 0), D, id="no-canary-yet"),
        pytest.param(Hearing(2.9, "x", 0, 0), H, id="just-before-a-gap"),
        pytest.param(Hearing(3.0, "x", 0, 0), D, id="deaf"),
        pytest.param(Hearing(0.5, None, 9, 0), H, id="too-few-refused-to-tell"),
        pytest.param(Hearing(0.5, None, 10, 41), H, id="a-small-share-refused"),
        pytest.param(Hearing(0.5, None, 10, 40), D, id="a-fifth-refused"),
    ],
)
def test_hearing_is_never_worse_than_degraded(hearing, status):
    assert judge(hearing, LIMITS).status is status


def test_only_refusals_count_as_refusing():
    assert not refusing(Hearing(None, "down", 0, 0), LIMITS)
    assert refusing(Hearing(0.1, None, 100, 0), LIMITS)
