"""How many are replaced at once, and when it stops."""

from dataclasses import replace

import pytest
from tests.core.world import (
    LIMITS,
    START,
    V1,
    V2,
    V3,
    World,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    a_version,
    an_edge_node,
    an_edge_row,
    an_id,
    owned_by,
    processors,
)

from dory_orchestrator.core.model import PodPhase
from dory_orchestrator.core.plan import Delete, Plan, Reason
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.rollout import Progress, next_step

DEADLINE = LIMITS.rollout_ready_seconds


def progress(total: int, outdated: int | None = None, **said) -> Progress:
    configs = list(processors(total if outdated is None else outdated).values())
    pods = [(config.processor_id, a_pod(config)) for config in configs]
    return Progress(total=total, outdated=pods, **said)


@pytest.mark.parametrize(
    ("total", "at_once"),
    [(1, 1), (2, 1), (9, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (70, 7), (100, 10)],
)
def test_a_tenth_at_once_or_one(total, at_once):
    step = next_step(progress(total), LIMITS)
    assert (len(step.replaced), len(step.waiting)) == (at_once, total - at_once)


@pytest.mark.parametrize(("moving", "free"), [(0, 2), (1, 1), (2, 0), (3, 0)])
def test_what_moves_already_is_counted(moving, free):
    assert len(next_step(progress(20, moving=moving), LIMITS).replaced) == free


@pytest.mark.parametrize(
    ("settled", "stops"),
    [
        pytest.param([], False, id="none-yet"),
        pytest.param([False], False, id="one-failed"),
        pytest.param([False, False], True, id="two-in-a-row"),
        pytest.param([False, True, False], False, id="one-was-ready-between"),
        pytest.param([False, False, True], False, id="the-newest-is-ready"),
        pytest.param([True, False, False], True, id="the-two-newest-failed"),
        pytest.param([False] * 10, True, id="all"),
    ],
)
def test_two_in_a_row_that_fail_stop_it(settled, stops):
    """`settled` in the order of their creation, told in any order."""
    told = [(float(at), str(at), ready) for at, ready in enumerate(settled)]
    for order in (told, told[::-1]):
        step = next_step(progress(20, settled=list(order)), LIMITS)
        assert (step.reason is Reason.ROLLOUT_STOPPED) is stops
        assert bool(step.replaced) is not stops
        assert ("did not become ready" in step.detail) is stops


def test_who_is_not_ready_anyway_is_replaced_first():
    said = progress(10)
    processor_id, pod = said.outdated[7]
    said.outdated[7] = (processor_id, replace(pod, ready=False))
    assert [one[0] for one in next_step(said, LIMITS).replaced] == [processor_id]


# In a fleet --------------------------------------------------------------------------------


def changed(plan: Plan) -> list[Delete]:
    return [delete for delete in plan.deletes if delete.reason is Reason.CHANGED]


def fleet(total: int, new=(), versions=(V2,)):
    """Configurations of the second version; pods of the first, and `new` ones of the second."""
    configs = processors(total, versions=versions)
    old = processors(total).values()
    pods = [a_pod(config) for config in old]
    for number, changes in enumerate(new):
        config = configs[an_id(number)]
        said = {"created_at": START - 10.0 + number, **changes}
        pods[number] = a_pod(config, 2, **said)
    return configs, pods


NEW_STARTS = {"ready": False}
NEW_CRASHES = {"ready": False, "waiting_reason": "CrashLoopBackOff"}


@pytest.mark.parametrize(
    ("total", "new", "replaced"),
    [
        pytest.param(20, [], 2, id="begins"),
        pytest.param(20, [NEW_STARTS], 1, id="one-starts"),
        pytest.param(20, [NEW_STARTS, NEW_STARTS], 0, id="two-start"),
        pytest.param(20, [{}, {}], 2, id="two-are-ready"),
        pytest.param(20, [NEW_CRASHES], 2, id="one-crashed"),
        pytest.param(20, [NEW_CRASHES, NEW_CRASHES], 0, id="two-crashed"),
        pytest.param(20, [{"terminating": True}], 1, id="one-ends"),
        pytest.param(20, [{"phase": PodPhase.FAILED, "ready": False}] * 2, 0, id="two-evicted"),
    ],
)
def test_steps_in_a_fleet(total, new, replaced):
    configs, pods = fleet(total, new)
    plan = compute(a_snapshot(configs, pods), LIMITS)
    assert len(changed(plan)) == replaced


@pytest.mark.parametrize(
    ("age", "counts_as_failed"),
    [
        pytest.param(DEADLINE - 0.1, False, id="just-before"),
        pytest.param(DEADLINE, True, id="at"),
        pytest.param(DEADLINE + 1, True, id="just-after"),
    ],
)
def test_who_is_not_ready_in_time_failed(age, counts_as_failed):
    configs, pods = fleet(20, [{**NEW_STARTS, "created_at": START - age}] * 2)
    plan = compute(a_snapshot(configs, pods), LIMITS)
    told = {plan.findings[an_id(number)].reason for number in range(2, 20)}
    assert told == {Reason.ROLLOUT_STOPPED if counts_as_failed else Reason.ROLLOUT_WAITS}
    assert not changed(plan)
    assert plan.wake_at == (None if counts_as_failed else START - age + DEADLINE)


def test_a_template_that_starts_slowly_has_its_own_time():
    slow = a_version("2", runtime={"env_vars": {"DORY_STARTUP_TIMEOUT_SEC": "600"}})
    configs, pods = fleet(
        20, [{**NEW_STARTS, "created_at": START - DEADLINE - 1}] * 2, versions=(slow,)
    )
    plan = compute(a_snapshot(configs, pods), LIMITS)
    assert plan.findings[an_id(5)].reason is Reason.ROLLOUT_WAITS
    assert plan.wake_at == START - DEADLINE - 1 + 600


@pytest.mark.parametrize("since", [0.0, 86_400.0])
def test_a_failure_counts_for_ten_minutes_not_for_ever(since):
    """Those that failed long ago are in motion while they start, as all others."""
    configs, pods = fleet(20, [NEW_STARTS, NEW_STARTS])
    ownership = {
        pod.processor_id: owned_by(pod, failures=1, retry_at=pod.created_at - since)
        for pod in pods
        if pod.processor_id
    }
    plan = compute(a_snapshot(configs, pods, ownership=ownership), LIMITS)
    reason = Reason.ROLLOUT_WAITS if since else Reason.ROLLOUT_STOPPED
    assert plan.findings[an_id(5)].reason is reason
    assert not changed(plan)


def test_while_those_that_failed_are_made_anew_it_does_not_go_on():
    configs, pods = fleet(100, [NEW_CRASHES, NEW_CRASHES, {"created_at": START - 100}])
    ownership = {pod.processor_id: owned_by(pod) for pod in pods if pod.processor_id}
    for pod in pods[:2]:
        ownership[pod.processor_id] = owned_by(
            pod, failures=1, failed_pod_uid=pod.uid, retry_at=START - 1
        )
    plan = compute(a_snapshot(configs, pods[2:], ownership=ownership), LIMITS)
    assert len(plan.creates) == 2
    assert plan.findings[an_id(5)].reason is Reason.ROLLOUT_STOPPED


def test_who_has_no_place_to_go_does_not_hold_up_the_others():
    """An edge processor without a node, and one that somebody else's pod runs."""
    configs, pods = fleet(9)
    homeless = a_processor("homeless", node_type="edge", versions=(V2,))
    foreign = a_processor("foreign", versions=(V2,))
    configs |= {config.processor_id: config for config in (homeless, foreign)}
    pods.append(a_pod(foreign, fleet_id="another"))
    plan = compute(a_snapshot(configs, pods), LIMITS)
    assert plan.findings[homeless.processor_id].reason is Reason.NO_EDGE_NODE
    assert plan.findings[foreign.processor_id].reason is Reason.FOREIGN_FLEET
    assert len(changed(plan)) == 1


def test_a_version_that_no_edge_node_takes_does_not_go_on_to_the_next():
    huge = a_version("2", runtime={"resources": {"cpu_request": "64"}})
    configs = processors(9, node_type="edge", versions=(huge,))
    pods = [
        a_pod(config, node_name="edge-1") for config in processors(9, node_type="edge").values()
    ]
    ownership = {pod.processor_id: owned_by(pod) for pod in pods if pod.processor_id}
    snapshot = a_snapshot(
        configs,
        pods[1:],
        ownership=ownership,
        nodes=[an_edge_node("edge-1")],
        edge_nodes=[an_edge_row("edge-1")],
    )
    plan = compute(snapshot, LIMITS)
    assert plan.findings[an_id(0)].reason is Reason.NO_EDGE_NODE
    assert not changed(plan)


class TestNodesThatAreAway:
    """A node may be away for days: nothing waits for it, and nothing is hidden by it."""

    AWAY = a_node("cloud-2", ready=False, ready_changed_at=START - DEADLINE)

    def plan(self, total=10, *, away=AWAY, new=(), there=None):
        """`there` are changes of the pod on the node that is away, which is the first one."""
        configs, pods = fleet(total, new)
        if there is not None:
            pods[0] = replace(pods[0], node_name="cloud-2", **there)
        return compute(a_snapshot(configs, pods, nodes=[a_node("cloud-1"), away]), LIMITS)

    def test_an_old_pod_there_is_left_alone_and_the_others_go_on(self):
        plan = self.plan(there={"ready": False})
        assert [delete.processor_id == an_id(0) for delete in changed(plan)] == [False]
        assert plan.findings[an_id(0)].reason is Reason.NODE_SUSPECT

    def test_also_while_it_still_looks_ready(self):
        plan = self.plan(there={})
        assert [delete.processor_id == an_id(0) for delete in changed(plan)] == [False]
        assert plan.findings[an_id(0)].reason is Reason.ROLLOUT_WAITS
        assert "not ready" in plan.findings[an_id(0)].detail

    @pytest.mark.parametrize(
        ("age", "goes_on"),
        [
            pytest.param(DEADLINE - 1, False, id="just-before"),
            pytest.param(DEADLINE, True, id="at"),
            pytest.param(None, True, id="nobody-knows-since-when"),
        ],
    )
    def test_what_cannot_end_there_is_not_waited_for_long(self, age, goes_on):
        since = None if age is None else START - age
        away = replace(self.AWAY, ready_changed_at=since)
        plan = self.plan(away=away, there={"terminating": True, "ready": False})
        assert bool(changed(plan)) is goes_on
        dead_at = START + LIMITS.node_failure_grace_seconds
        assert plan.wake_at == (dead_at if goes_on else START + 1)

    def test_a_new_pod_that_never_had_its_node_tells_nothing(self):
        plan = self.plan(new=[NEW_STARTS], there={})
        assert len(changed(plan)) == 1

    def test_a_node_that_went_away_under_its_new_pod_may_be_its_fault(self):
        away = replace(self.AWAY, ready_changed_at=START - 5)
        plan = self.plan(new=[NEW_STARTS], away=away, there={})
        assert not changed(plan)


def test_a_cure_is_not_waited_for():
    """The failed pod was ended for another configuration: its back-off is not that one's."""
    config = a_processor(0, versions=(V2,))
    own = owned_by(a_pod(config), failures=9, retry_at=START + 200)
    ended = replace(own, restart_reason=str(Reason.CHANGED))
    waits = compute(a_snapshot([config], ownership={config.processor_id: own}), LIMITS)
    goes = compute(a_snapshot([config], ownership={config.processor_id: ended}), LIMITS)
    assert (len(waits.creates), len(goes.creates)) == (0, 1)
    assert (waits.wake_at, goes.wake_at) == (START + 200, None)


def test_a_failed_pod_that_is_replaced_is_not_waited_for():
    configs, pods = fleet(9)
    pods[3] = replace(pods[3], **NEW_CRASHES)
    plan = compute(a_snapshot(configs, pods), LIMITS)
    assert [delete.pod for delete in changed(plan)] == [pods[3]]
    assert not plan.failures


# From beginning to end ---------------------------------------------------------------------


def a_running_world(count: int) -> World:
    nodes = {name: a_node(name) for name in ("cloud-1", "cloud-2")}
    world = World(configs=processors(count), nodes=nodes)
    world.settle()
    return world


def change(world: World, version) -> None:
    world.configs = {k: replace(c, versions=(version,)) for k, c in world.configs.items()}


@pytest.mark.parametrize(("count", "at_once"), [(1, 1), (9, 1), (19, 1), (20, 2), (35, 3)])
def test_a_good_version_reaches_all_and_never_more_than_a_tenth_are_away(count, at_once):
    world = a_running_world(count)
    change(world, V2)
    fewest = count
    for _ in range(200):
        world.turn()
        fewest = min(fewest, sum(pod.ready for pod in world.pods.values()))
        world.start()
        world.now += 1
    assert fewest == count - at_once
    assert {world.specs[uid].image for uid in world.pods} == {V2.image_uri}


@pytest.mark.parametrize("count", [5, 20, 35])
def test_a_bad_version_stops_says_so_and_the_cure_reaches_all(count):
    world = a_running_world(count)
    change(world, V2)
    world.broken_images = {V2.image_uri}
    plan, stopped = Plan(), []
    for _ in range(100):
        plan = world.turn()
        stopped.append(bool(plan.stopped_rollouts))
        world.start()
        world.now += 30
    # Also in the moments in which what failed is made anew.
    assert all(stopped[stopped.index(True) :])
    old = [uid for uid in world.pods if world.specs[uid].image == V1.image_uri]
    assert len(old) >= count - max(2, count // 10)
    assert all(world.pods[uid].ready for uid in old)
    assert Reason.ROLLOUT_STOPPED in {found.reason for found in plan.findings.values()}
    assert set(plan.stopped_rollouts) == {"camera"}

    change(world, V3)
    assert not world.settle().stopped_rollouts
    assert {world.specs[uid].image for uid in world.pods} == {V3.image_uri}
    assert all(pod.ready for pod in world.pods.values())


def test_our_own_settings_and_places_change_nothing():
    world = a_running_world(5)
    pods = dict(world.pods)
    change(world, a_version("1", runtime={"orchestrator": {"priority": 7, "failback": "manual"}}))
    world.configs = {k: replace(c, namespace="other") for k, c in world.configs.items()}
    first = sorted(world.configs)[0]
    world.configs[first] = replace(world.configs[first], node_type="edge", name="renamed")
    world.settle()
    assert world.pods == pods


@pytest.mark.parametrize("how", ["waits", "terminates", "is-acted-on"])
def test_while_one_that_failed_is_made_anew_a_rollout_stays_stopped(how):
    configs = processors(3, versions=(V2,))
    old = a_pod(a_processor(0, versions=(V1,)))
    first, second = (a_pod(configs[an_id(n)], 2, ready=False) for n in (1, 2))
    ended = {"failures": 1, "restart_reason": "Error", "retry_at": START - 1}
    ownership = {
        an_id(0): owned_by(old),
        an_id(1): owned_by(first, **(ended | {"retry_at": START + 5})),
        an_id(2): owned_by(second, **ended),
    }
    pods = {
        "waits": [old],
        "terminates": [old, replace(second, terminating=True)],
        "is-acted-on": [old],
    }[how]
    if how == "waits":
        ownership[an_id(2)] = replace(ownership[an_id(2)], retry_at=START + 5)
    acting = [an_id(2)] if how == "is-acted-on" else []
    plan = compute(a_snapshot(configs, pods, ownership=ownership, acting=acting), LIMITS)
    assert set(plan.stopped_rollouts) == {"camera"}
    assert plan.findings[an_id(0)].reason is Reason.ROLLOUT_STOPPED
    # One that is on its way for the first time has not failed yet.
    ownership[an_id(2)] = replace(ownership[an_id(2)], failures=0, restart_reason="changed")
    plan = compute(a_snapshot(configs, pods, ownership=ownership, acting=acting), LIMITS)
    assert not plan.stopped_rollouts
