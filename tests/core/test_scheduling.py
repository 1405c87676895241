"""Which node gets a pod, and for each other node why not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.world import LIMITS, a_node, a_pod, a_processor

from dory_orchestrator.core.model import Limits, PodPhase, Resources, Taint, TaintEffect, Toleration
from dory_orchestrator.core.plan import Choice, Decision, Unfit
from dory_orchestrator.core.scheduling import Load, Request, choose_node, loads, shortlist

NO_SCHEDULE, NO_EXECUTE = TaintEffect.NO_SCHEDULE, TaintEffect.NO_EXECUTE
PREFER = TaintEffect.PREFER_NO_SCHEDULE
NODE = a_node("n", allocatable=Resources(1000, 1000, 2), pods_max=10)
NOTHING = Resources()


def request(resources=NOTHING, *, selector=None, tolerations=(), names=None) -> Request:
    return Request(resources, selector or {}, tuple(tolerations), names)


def load_of(node=NODE, pods=0, **used) -> Load:
    load = Load(node)
    load.add(Resources(**used))
    load.pods = pods
    return load


def chosen(request, *of_nodes: Load) -> Choice:
    return choose_node(request, {load.node.name: load for load in of_nodes}, LIMITS)


def why_not_on(load: Load, request: Request) -> Unfit | None:
    return chosen(request, load).unfit.get(load.node.name)


@pytest.mark.parametrize(
    ("used", "asked", "why_not"),
    [
        pytest.param({}, NOTHING, None, id="nothing on nothing"),
        pytest.param({"cpu_millicores": 800}, Resources(100), None, id="cpu-at-limit"),
        pytest.param({"cpu_millicores": 800}, Resources(101), Unfit.CPU, id="cpu-just-above"),
        pytest.param({"cpu_millicores": 950}, NOTHING, None, id="cpu-full-but-not-asked-for"),
        pytest.param({"memory_bytes": 800}, Resources(0, 100), None, id="memory-at-limit"),
        pytest.param({"memory_bytes": 800}, Resources(0, 101), Unfit.MEMORY, id="memory-above"),
        pytest.param({"gpu_count": 1}, Resources(0, 0, 1), None, id="gpu-the-last-one"),
        pytest.param({"gpu_count": 2}, Resources(0, 0, 1), Unfit.GPU, id="gpu-none-left"),
        pytest.param({"pods": 8}, NOTHING, None, id="pods-at-limit"),
        pytest.param({"pods": 9}, NOTHING, Unfit.PODS, id="pods-just-above"),
        pytest.param({"pods": 9}, Resources(2000), Unfit.PODS, id="the-first-rule-that-holds"),
    ],
)
def test_a_tenth_of_a_node_stays_free(used, asked, why_not):
    assert why_not_on(load_of(**used), request(asked)) is why_not


@pytest.mark.parametrize(
    ("node", "why_not"),
    [
        (NODE, None),
        (replace(NODE, ready=False), Unfit.NOT_READY),
        (replace(NODE, unschedulable=True), Unfit.UNSCHEDULABLE),
        (replace(NODE, labels={}), Unfit.SELECTOR),
        (replace(NODE, labels={"workload-type": "other"}), Unfit.SELECTOR),
        (replace(NODE, taints=(Taint("k", "v", NO_SCHEDULE),)), Unfit.TAINT),
        (replace(NODE, taints=(Taint("k", "v", NO_EXECUTE),)), Unfit.TAINT),
        (replace(NODE, taints=(Taint("k", "v", PREFER),)), None),
        (replace(NODE, pods_max=0), Unfit.PODS),
    ],
)
def test_why_a_node_is_not_chosen(node, why_not):
    asked = request(selector={"workload-type": "application"})
    choice = chosen(asked, Load(node))
    assert choice == Choice("n" if why_not is None else None, {"n": why_not} if why_not else {})
    assert choice.decision is (Decision.PLACE if why_not is None else Decision.PROVISION_NODE)


@pytest.mark.parametrize(
    ("toleration", "taint", "tolerated"),
    [
        (Toleration("k", "Equal", "v", NO_SCHEDULE), Taint("k", "v", NO_SCHEDULE), True),
        (Toleration("k", "Equal", "v"), Taint("k", "v", NO_EXECUTE), True),
        (Toleration("k", "Equal", "v", NO_EXECUTE), Taint("k", "v", NO_SCHEDULE), False),
        (Toleration("k", "Equal", "w"), Taint("k", "v", NO_SCHEDULE), False),
        (Toleration("k", "Equal", ""), Taint("k", "v", NO_SCHEDULE), False),
        (Toleration("k", "Equal", ""), Taint("k", "", NO_SCHEDULE), True),
        (Toleration("k", "Exists"), Taint("k", "v", NO_SCHEDULE), True),
        (Toleration("k", "Exists", "", NO_EXECUTE), Taint("k", "v", NO_SCHEDULE), False),
        (Toleration("other", "Exists"), Taint("k", "v", NO_SCHEDULE), False),
        (Toleration("", "Exists"), Taint("k", "v", NO_SCHEDULE), True),
        (Toleration("", "Exists", "", NO_EXECUTE), Taint("k", "v", NO_SCHEDULE), False),
        (Toleration("", "Equal", "v"), Taint("k", "v", NO_SCHEDULE), False),
        (Toleration(), Taint("", "", NO_SCHEDULE), False),
    ],
)
def test_taints_are_tolerated_as_in_kubernetes(toleration, taint, tolerated):
    node = replace(NODE, taints=(taint,))
    why_not = why_not_on(Load(node), request(tolerations=[toleration]))
    assert why_not is (None if tolerated else Unfit.TAINT)


def test_every_taint_has_to_be_tolerated():
    node = replace(NODE, taints=(Taint("a", "", NO_SCHEDULE), Taint("b", "", NO_EXECUTE)))
    one = Toleration("a", "Exists")
    assert why_not_on(Load(node), request(tolerations=[one])) is Unfit.TAINT
    both = request(tolerations=[one, Toleration("b", "Exists")])
    assert why_not_on(Load(node), both) is None


def test_the_most_utilised_node_that_fits_is_chosen():
    emptier = load_of(replace(NODE, name="a"), cpu_millicores=100)
    fuller = load_of(replace(NODE, name="b"), cpu_millicores=300)
    full = load_of(replace(NODE, name="c"), cpu_millicores=850)
    assert chosen(request(Resources(100)), emptier, fuller, full) == Choice(
        "b", {"a": Unfit.LESS_UTILISED, "c": Unfit.CPU}
    )


@pytest.mark.parametrize("used", ["cpu_millicores", "memory_bytes", "gpu_count"])
def test_the_scarcest_resource_counts(used):
    empty = Load(replace(NODE, name="a"))
    one = load_of(replace(NODE, name="b"), **{used: 1})
    assert chosen(request(), empty, one).node_name == "b"


def test_of_equals_the_first_by_name():
    nodes = [Load(replace(NODE, name=name)) for name in ("b", "a", "c")]
    expected = Choice("a", {"b": Unfit.LESS_UTILISED, "c": Unfit.LESS_UTILISED})
    assert chosen(request(), *nodes) == chosen(request(), *reversed(nodes)) == expected


def test_only_the_named_nodes_are_candidates():
    nodes = [Load(replace(NODE, name=name)) for name in ("a", "b")]
    assert chosen(request(names=frozenset({"b", "gone"})), *nodes) == Choice("b")
    assert chosen(request(names=frozenset({"gone"})), *nodes) == Choice(None)
    assert chosen(request(names=frozenset()), *nodes) == Choice(None)


def test_no_node_at_all():
    assert choose_node(request(), {}, LIMITS).decision is Decision.PROVISION_NODE


def test_a_node_that_tells_no_capacity_takes_who_asks_for_nothing():
    node = replace(NODE, allocatable=NOTHING)
    assert chosen(request(), Load(node)) == Choice("n")
    assert chosen(request(Resources(1)), Load(node)) == Choice(None, {"n": Unfit.CPU})


def test_a_pod_that_ended_takes_no_place():
    pod = a_pod(a_processor(0), requests=Resources(100, 100))
    ended = [replace(pod, phase=phase) for phase in (PodPhase.FAILED, PodPhase.SUCCEEDED)]
    there = [pod, replace(pod, terminating=True), *ended]
    pods = [*(("n", one) for one in there), (None, pod), ("gone", pod)]
    load = loads({"n": NODE}, pods)["n"]
    assert (load.pods, load.cpu_millicores, load.memory_bytes) == (2, 200, 200)
    assert load.utilisation == 0.2


AMOUNTS = st.builds(
    Resources, st.integers(0, 1500), st.integers(0, 1500), st.sampled_from([0, 0, 0, 1])
)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(AMOUNTS, st.integers(0, 12)), max_size=5),
    st.lists(AMOUNTS, max_size=20),
    st.sampled_from([0.0, 0.1, 0.25, 0.5]),
)
def test_no_node_is_filled_beyond_its_buffer(has, asked, buffer):
    nodes = [replace(NODE, name=f"{i}", allocatable=a, pods_max=p) for i, (a, p) in enumerate(has)]
    of_node = {node.name: Load(node) for node in nodes}
    for resources in asked:
        choice = choose_node(request(resources), of_node, Limits(node_buffer=buffer))
        known = shortlist(request(resources), of_node)
        assert choice == choose_node(request(resources), of_node, Limits(node_buffer=buffer), known)
        assert choice.unfit.keys() == of_node.keys() - {choice.node_name}
        if choice.node_name is not None:
            of_node[choice.node_name].add(resources)
    for load in of_node.values():
        share, node = 1 - buffer, load.node
        assert load.pods <= node.pods_max * share
        assert load.cpu_millicores <= node.allocatable.cpu_millicores * share
        assert load.memory_bytes <= node.allocatable.memory_bytes * share
        assert load.gpu_count <= node.allocatable.gpu_count
