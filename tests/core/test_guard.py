"""A desired set that suddenly shrinks deletes nothing until confirmed (promise S6)."""

from dataclasses import replace
from uuid import UUID

import pytest
from tests.core.world import (
    LIMITS,
    ORGANIZATION,
    START,
    V1,
    V2,
    World,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    an_id,
    owned_by,
    processors,
)

from dory_orchestrator.core import guard
from dory_orchestrator.core.model import GuardRecord, Limits, PodPhase
from dory_orchestrator.core.plan import Plan, Reason
from dory_orchestrator.core.reconcile import compute

CONFIRMATION = LIMITS.guard_confirmation_seconds


def plan_of(before: int, left: int, *, limits=LIMITS, **said) -> Plan:
    """`before` pods run, and rows of `left` are left."""
    configs = processors(before)
    pods = [a_pod(config) for config in configs.values()]
    kept = {key: configs[key] for key in list(configs)[:left]}
    return compute(a_snapshot(kept, pods, **said), limits)


def removed(plan: Plan) -> int:
    return sum(delete.reason is Reason.NOT_DESIRED for delete in plan.deletes)


@pytest.mark.parametrize(
    ("before", "left", "holds"),
    [
        pytest.param(1, 0, True, id="one-to-nothing"),
        pytest.param(5, 0, True, id="few-to-nothing"),
        pytest.param(100, 0, True, id="all-to-nothing"),
        pytest.param(2, 1, False, id="half-of-two"),
        pytest.param(9, 4, False, id="below-half-but-five-fewer"),
        pytest.param(7, 1, True, id="below-half-and-six-fewer"),
        pytest.param(6, 1, False, id="far-below-half-but-five-fewer"),
        pytest.param(12, 6, False, id="six-fewer-but-half"),
        pytest.param(13, 7, False, id="above-half"),
        pytest.param(13, 6, True, id="just-below-half"),
        pytest.param(100, 50, False, id="at-half"),
        pytest.param(100, 49, True, id="just-below-half-of-many"),
        pytest.param(100, 99, False, id="one-fewer"),
    ],
)
def test_below_half_and_more_than_five_fewer_or_to_nothing(before, left, holds):
    plan = plan_of(before, left)
    assert plan.guard.holds is holds
    assert bool(removed(plan)) is not holds
    gone = [plan.findings[an_id(number)].reason for number in range(left, before)]
    assert (set(gone) == {Reason.GUARD_HELD}) is holds
    if holds:
        assert plan.guard.tripped["all"] == (before, left)
        assert f"all: {left} of {before} left" in plan.guard.detail


@pytest.mark.parametrize(
    ("total", "ending", "removed_now"),
    [
        pytest.param(20, 0, 5, id="five"),
        pytest.param(50, 0, 5, id="a-tenth-is-five"),
        pytest.param(69, 0, 6, id="a-tenth-rounded-down"),
        pytest.param(70, 0, 7, id="a-tenth"),
        pytest.param(20, 3, 2, id="three-end-already"),
        pytest.param(20, 5, 0, id="five-end-already"),
        pytest.param(20, 8, 0, id="more-end-already"),
    ],
)
def test_a_tenth_or_five_end_at_once(total, ending, removed_now):
    """Also those count that end for another reason."""
    configs = processors(total)
    pods = [a_pod(config, terminating=n < ending) for n, config in enumerate(configs.values())]
    kept = dict(list(configs.items())[: total - 9])
    plan = compute(a_snapshot(kept, pods), LIMITS)
    assert removed(plan) == removed_now
    waiting = [f for f in plan.findings.values() if f.reason is Reason.REMOVAL_LIMIT]
    assert len(waiting) == 9 - removed_now


def test_pods_that_cannot_end_do_not_hold_up_the_removal_of_others():
    configs = processors(20)
    pods = [
        a_pod(config, terminating=n < 6, node_name="gone" if n < 6 else "cloud-1")
        for n, config in enumerate(configs.values())
    ]
    kept = dict(list(configs.items())[:17])
    away = a_node("gone", ready=False, ready_changed_at=START - 3600)
    plan = compute(a_snapshot(kept, pods, nodes=[a_node("cloud-1"), away]), LIMITS)
    assert removed(plan) == 3


# The misfortunes of section 8 --------------------------------------------------------------


def test_an_empty_table():
    plan = plan_of(40, 0)
    assert not plan.actions
    assert len(plan.guard.held) == 40


def test_half_a_template_gone():
    """In all it is hardly to be seen: the template tells."""
    cameras = dict(list(processors(14).items())[:6])
    others = {
        a_processor(f"o{n}").processor_id: a_processor(f"o{n}", template_slug="radar")
        for n in range(60)
    }
    pods = [a_pod(config) for config in (*processors(14).values(), *others.values())]
    plan = compute(a_snapshot(cameras | others, pods), LIMITS)
    assert plan.guard.tripped == {"template camera": (14, 6)}
    assert not plan.deletes


@pytest.mark.parametrize("what", ["namespace", "organization_id"])
def test_half_of_another_group_gone(what):
    group = {"namespace": "space", "organization_id": UUID(int=77)}[what]
    ours = [a_processor(number, **{what: group}) for number in range(14)]
    others = [a_processor(f"o{number}") for number in range(60)]
    plan = compute(a_snapshot(ours[:6] + others, map(a_pod, ours + others)), LIMITS)
    assert list(plan.guard.tripped.values()) == [(14, 6)]
    assert str(group) in next(iter(plan.guard.tripped))
    assert not plan.deletes


def test_the_last_of_a_template_may_go_the_last_two_may_not():
    others = [a_processor(f"o{number}", template_slug="radar") for number in range(9)]
    for count, holds in ((1, False), (2, True)):
        pods = [a_pod(config) for config in (*others, *processors(count).values())]
        assert compute(a_snapshot(others, pods), LIMITS).guard.holds is holds


def test_a_database_restored_from_yesterday():
    """Its epochs are behind the pods', and the processors of today are unknown to it."""
    configs = processors(10)
    pods = [a_pod(config, 5) for config in configs.values()]
    pods += [a_pod(a_processor(f"new today {number}"), 1) for number in range(10)]
    ownership = {key: owned_by(a_pod(config, 4)) for key, config in configs.items()}
    yesterday = {key: replace(config, versions=(V2,)) for key, config in configs.items()}
    plan = compute(a_snapshot(yesterday, pods, ownership=ownership), LIMITS)
    assert not plan.actions
    assert not plan.records
    assert {found.reason for found in plan.findings.values()} == {Reason.EPOCH_AHEAD}
    assert "restored from a backup" in plan.findings[an_id(0)].detail


def test_frozen_pods_count_in_what_was_there():
    """30 desired, 25 that are not, and 45 that an older database does not know: 30 of 100."""
    desired = processors(30)
    undesired = [a_processor(f"u{number}") for number in range(25)]
    pods = [a_pod(config) for config in (*desired.values(), *undesired)]
    ownership = {pod.processor_id: owned_by(pod) for pod in pods if pod.processor_id}
    pods += [a_pod(a_processor(f"f{number}")) for number in range(45)]
    plan = compute(a_snapshot(desired, pods, ownership=ownership), LIMITS)
    assert plan.guard.tripped["all"] == (100, 30)
    assert not plan.deletes


@pytest.mark.parametrize(
    ("epoch", "known", "frozen"),
    [
        pytest.param(6, 5, True, id="above"),
        pytest.param(5, 5, False, id="the-same"),
        pytest.param(1, None, True, id="nobody-owns"),
        pytest.param(None, 5, False, id="no-epoch"),
    ],
)
@pytest.mark.parametrize("is_desired", [True, False])
def test_an_epoch_above_the_known_one_freezes(epoch, known, frozen, is_desired):
    config, other = a_processor(0), a_processor(1)
    pods = [a_pod(config, epoch), a_pod(config, 1, uid="older", terminating=True), a_pod(other)]
    ownership = {other.processor_id: owned_by(pods[2])}
    if known is not None:
        ownership[config.processor_id] = owned_by(a_pod(config, known))
    configs = [config, other] if is_desired else [other]
    plan = compute(a_snapshot(configs, pods, ownership=ownership), LIMITS)
    assert (plan.findings[config.processor_id].reason is Reason.EPOCH_AHEAD) is frozen
    assert bool(plan.deletes) is (not frozen and not is_desired)
    assert plan.findings[other.processor_id].reason is Reason.RUNNING


def test_the_wrong_database():
    """All pods are another fleet's: none is touched, and none of the same name is made."""
    configs = processors(10)
    pods = [a_pod(config, fleet_id="another") for config in configs.values()]
    plan = compute(a_snapshot(configs, pods, ownership={}), LIMITS)
    assert not plan.actions
    assert len(plan.strangers) == 10
    assert {found.reason for found in plan.findings.values()} == {Reason.FOREIGN_FLEET}

    elsewhere = compute(a_snapshot(processors(0), pods, ownership={}), LIMITS)
    assert not elsewhere.actions
    assert not elsewhere.findings


@pytest.mark.parametrize("fleet_id", ["another", None])
def test_a_second_installation_s_pods_in_the_same_cluster(fleet_id):
    configs = processors(4)
    theirs = [a_pod(a_processor(f"theirs {n}"), fleet_id=fleet_id) for n in range(50)]
    pods = [*map(a_pod, configs.values()), *theirs]
    ownership = {pod.processor_id: owned_by(pod) for pod in pods[:4] if pod.processor_id}
    plan = compute(a_snapshot(configs, pods, ownership=ownership), LIMITS)
    assert not plan.actions
    assert plan.strangers == tuple(sorted(theirs, key=lambda pod: pod.uid))
    assert plan.findings.keys() == configs.keys()


def test_a_pod_without_a_processor_is_a_stranger():
    pod = a_pod(a_processor(0), processor_id=None)
    plan = compute(a_snapshot([], [pod], ownership={}), LIMITS)
    assert plan.strangers == (pod,)
    assert not plan.actions


# What is counted ---------------------------------------------------------------------------


def test_the_highest_count_of_late_is_the_baseline():
    """Nine of twenty were removed step by step; a further four would be below half."""
    assert not plan_of(11, 9).guard.holds
    assert plan_of(11, 9, desired_most={"all": 20}).guard.holds
    assert plan_of(11, 9, desired_most={"all": 18}).guard.holds is False
    assert plan_of(11, 9, desired_most={"template camera": 20}).guard.holds


@pytest.mark.parametrize("node_name", [None, "cloud-1"])
def test_pods_that_never_ran_have_nothing_to_lose(node_name):
    configs = processors(20)
    pods = [
        a_pod(config, node_name=node_name, ready=False, phase=PodPhase.PENDING)
        for config in configs.values()
    ]
    plan = compute(a_snapshot([], pods), LIMITS)
    assert not plan.guard.holds
    assert removed(plan) == 5


def test_those_in_error_are_desired():
    configs = processors(20)
    pods = [a_pod(config) for config in configs.values()]
    broken = {key: replace(config, versions=()) for key, config in list(configs.items())[:15]}
    sound = {key: configs[key] for key in list(configs)[15:19]}
    plan = compute(a_snapshot(broken | sound, pods), LIMITS)
    assert not plan.guard.holds
    assert removed(plan) == 1


def test_groups():
    config = a_processor(0, template_slug="Größe", namespace=None)
    groups = guard.groups_of(config, "default")
    assert groups == guard.groups_of_pod(a_pod(config))
    assert groups[:2] == ("all", "namespace default")
    assert groups[3] == f"organization {ORGANIZATION}"
    bare = a_processor(0, template_slug=None, organization_id=None, versions=())
    assert guard.groups_of(bare, "default") == ("all", "namespace default")
    assert guard.most([{"all": 3, "a": 1}, {"all": 2, "b": 4}]) == {"all": 3, "a": 1, "b": 4}


# Confirming and releasing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "left", "holds"),
    [
        pytest.param(0, 10, False, id="confirmed-now"),
        pytest.param(CONFIRMATION, 10, False, id="at-its-end"),
        pytest.param(CONFIRMATION + 1, 10, True, id="too-long-ago"),
        pytest.param(0, 11, False, id="less-than-confirmed"),
        pytest.param(0, 9, True, id="a-further-shrink"),
        pytest.param(0, 0, True, id="to-nothing-was-not-confirmed"),
    ],
)
def test_a_confirmation_covers_what_was_looked_at(age, left, holds):
    groups = plan_of(30, 10).guard.tripped
    accepted = {group: count for group, (_, count) in groups.items()}
    record = GuardRecord(confirmed_at=START - age, confirmed=accepted)
    plan = plan_of(30, left, guard=record)
    assert plan.guard.holds is holds
    assert removed(plan) == (0 if holds else 5)


def test_to_nothing_can_be_confirmed():
    accepted = dict.fromkeys(plan_of(30, 0).guard.tripped, 0)
    record = GuardRecord(confirmed_at=START, confirmed=accepted)
    assert removed(plan_of(30, 0, guard=record)) == 5


def test_another_group_needs_its_own_confirmation():
    record = GuardRecord(confirmed_at=START, confirmed={"all": 10})
    assert plan_of(30, 10, guard=record).guard.tripped.keys() == {
        "namespace default",
        "template camera",
        f"organization {ORGANIZATION}",
    }


@pytest.mark.parametrize(
    ("release", "held_for", "left", "holds"),
    [
        pytest.param(None, 1e9, 10, True, id="never-by-itself"),
        pytest.param(60.0, None, 10, True, id="not-held-yet"),
        pytest.param(60.0, 59.9, 10, True, id="just-before"),
        pytest.param(60.0, 60.0, 10, False, id="at"),
        pytest.param(60.0, 61.0, 10, False, id="just-after"),
        pytest.param(60.0, 1e9, 0, True, id="never-to-nothing"),
    ],
)
def test_release_by_time(release, held_for, left, holds):
    since = None if held_for is None else START - held_for
    limits = Limits(guard_release_seconds=release)
    plan = plan_of(30, left, limits=limits, guard=GuardRecord(held_since=since))
    assert plan.guard.holds is holds
    due = since is not None and release is not None and held_for < release
    assert plan.wake_at == (START - held_for + release if due else None)


def test_from_the_hold_over_the_confirmation_to_the_end():
    world = World(configs=processors(30), nodes={"cloud-1": a_node("cloud-1")})
    world.settle()
    world.configs = processors(10)
    assert world.settle().guard.holds
    assert len(world.pods) == 30

    world.confirm()
    plans = []
    while len(world.pods) > 10:
        plans.append(world.turn())
        world.configs = processors(10)
    assert max(removed(plan) for plan in plans) == 5
    assert all(pod.ready for pod in world.pods.values())

    world.configs = {}
    assert world.settle().guard.holds
    assert len(world.pods) == 10


def test_rows_that_come_back_end_the_hold():
    world = World(configs=processors(30), nodes={"cloud-1": a_node("cloud-1")})
    world.settle()
    before = dict(world.pods)
    world.configs = {}
    assert world.settle().guard.holds
    world.configs = processors(30)
    assert not world.settle().guard.holds
    assert world.guard.held_since is None
    assert world.pods == before


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (a_processor(0, versions=()), Reason.NO_ACTIVE_VERSION),
        (a_processor(0, versions=(V1, V2)), Reason.SEVERAL_ACTIVE_VERSIONS),
        (a_processor(0, versions=(), template_slug=None), Reason.TEMPLATE_MISSING),
        (
            a_processor(0, versions=(replace(V1, runtime_config_template="{"),)),
            Reason.CONFIG_UNREADABLE,
        ),
        (a_processor(0, namespace="No Label"), Reason.CONFIG_UNREADABLE),
    ],
)
@pytest.mark.parametrize("runs", [True, False])
def test_one_in_error_is_left_alone_and_the_others_go_on(config, reason, runs):
    other = a_processor(1)
    pods = [a_pod(a_processor(0)), a_pod(a_processor(0), 0, uid="old")] if runs else []
    plan = compute(a_snapshot([config, other], pods), LIMITS)
    found = plan.findings[config.processor_id]
    assert found.reason is reason
    assert found.detail
    assert found.pod == (pods[0] if runs else None)
    assert [action.processor_id for action in plan.actions] == [other.processor_id]


def test_what_ends_already_neither_counts_nor_is_held():
    configs = list(processors(12).values())
    pods = [a_pod(config) for config in configs]
    ending = [replace(pod, terminating=True) for pod in pods[:6]]

    kept = guard.count_desired(configs[9:], LIMITS.namespace)

    def judged(undesired):
        return guard.judge(
            desired=kept,
            desired_with_pod=kept,
            desired_most={},
            undesired=undesired,
            record=GuardRecord(),
            now=START,
            limits=LIMITS,
        )

    # Three of six are left, which is half of them; three of twelve would be too few.
    assert not judged([*ending, *pods[6:9]]).holds
    assert judged(pods[:9]).holds
