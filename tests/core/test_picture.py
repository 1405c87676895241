"""What a picture of the cluster says of the database."""

from dataclasses import replace
from uuid import UUID

import pytest
from tests.contract.worlds import a_pod

from dory_orchestrator.core.model import (
    Bearer,
    Desired,
    HealthStatus,
    Observation,
    Ownership,
)
from dory_orchestrator.core.picture import (
    START_SECONDS,
    Doubts,
    UnownedPod,
    directives_health,
    is_fresh,
    unowned,
)

OURS, THEIRS = "ours", "theirs"
ONE, TWO = UUID(int=1), UUID(int=2)
OWNED = Ownership(1, "u", "p", node_name="n")


def desired(**ownership: Ownership) -> Desired:
    owners = {UUID(int={"one": 1, "two": 2}[name]): own for name, own in ownership.items()}
    return Desired(now=0.0, fleet_id=OURS, configs={}, ownership=owners)


def seen(*pods, elsewhere=()) -> Observation:
    return Observation(
        {},
        {str(number): pod for number, pod in enumerate(pods)},
        elsewhere={str(number): bearer for number, bearer in enumerate(elsewhere)},
    )


def pod(key=ONE, fleet_id=OURS, **fields):
    return replace(a_pod(key), fleet_id=fleet_id, namespace="n", name="p", **fields)


@pytest.mark.parametrize(
    ("own", "fleet_id", "found"),
    [
        pytest.param(None, OURS, UnownedPod("n", "p", True), id="nobody-owned-it"),
        pytest.param(None, THEIRS, UnownedPod("n", "p", True), id="of-another-fleet"),
        pytest.param(None, None, UnownedPod("n", "p", True), id="of-no-fleet"),
        pytest.param(OWNED, OURS, None, id="owned"),
        pytest.param(Ownership(1, node_name="n"), OURS, None, id="on-its-way-to-a-node"),
        pytest.param(OWNED, THEIRS, UnownedPod("n", "p", False), id="another-beside-ours"),
        pytest.param(OWNED.forgotten(), OURS, UnownedPod("n", "p", False), id="forgotten"),
    ],
)
@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_whose_id_a_pod_bears_without_owning_it(own, fleet_id, found, is_elsewhere):
    bearer = Bearer(ONE, "n", "p", fleet_id)
    observed = seen(elsewhere=[bearer]) if is_elsewhere else seen(pod(fleet_id=fleet_id))
    owners = {} if own is None else {"one": own}
    assert unowned(desired(**owners), observed) == ({} if found is None else {ONE: found})


def test_a_pod_without_a_processor_bears_no_id():
    assert unowned(desired(), seen(replace(pod(), processor_id=None))) == {}


def test_of_several_the_same_is_named_in_any_order():
    pods = [replace(pod(fleet_id=THEIRS), name=name) for name in "ba"]
    for order in (pods, pods[::-1]):
        assert unowned(desired(), seen(*order)) == {ONE: UnownedPod("n", "a", True)}


@pytest.mark.parametrize(
    ("age", "interval", "fresh"), [(60, 30, True), (61, 30, False), (10, 1, True), (11, 1, False)]
)
def test_a_picture_is_fresh_while_its_watch_carried_something_within_two_intervals(
    age, interval, fresh
):
    assert is_fresh(age, interval) is fresh


WELL = Doubts("dory", "db:5432", False, 3.0, 30.0, True, "c1", "c1", 0, [])


@pytest.mark.parametrize(
    ("doubts", "said"),
    [
        (replace(WELL, unknown_count=1, unknown_pods=["n/p"]), "database dory on db:5432"),
        (replace(WELL, unknown_count=12, unknown_pods=["n/p"]), "12 pods run that"),
        (replace(WELL, unknown_count=12, unknown_pods=["n/p"]), "n/p and 11 more"),
        (replace(WELL, seen_cluster_uid="c2", age_seconds=None), "this is the cluster c2"),
        (replace(WELL, guard_holds=True), "the deletion guard holds"),
        (replace(WELL, age_seconds=31.0), "last saw the cluster 31 s ago"),
        (replace(WELL, age_seconds=None), "has seen the cluster yet"),
        (replace(WELL, is_whole=False), "in some namespaces only"),
    ],
)
def test_what_keeps_shutdown_from_being_answered_is_told(doubts, said):
    health = directives_health(doubts, START_SECONDS)
    assert health.status is HealthStatus.DEGRADED
    assert said in health.message


def test_it_is_well_when_somebody_could_be_told_to_end():
    assert directives_health(WELL, START_SECONDS).status is HealthStatus.HEALTHY
    assert directives_health(replace(WELL, seen_cluster_uid=None), 99).status == "healthy"


def test_at_the_start_it_is_no_doubt_that_nobody_has_looked():
    none = replace(WELL, age_seconds=None)
    assert directives_health(none, START_SECONDS - 1).status is HealthStatus.HEALTHY
    found = replace(none, unknown_count=1, unknown_pods=["n/p"])
    assert directives_health(found, 0.0).status is HealthStatus.DEGRADED
