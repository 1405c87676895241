"""Where a pod is placed, and why not."""

import pytest
from tests.contract.cluster_worlds import a_node, a_spec

from dory_orchestrator.cluster.local.scheduler import Load, place, tolerates
from dory_orchestrator.core.model import Resources, Taint, TaintEffect, Toleration

TAINT = Taint("k", "v", TaintEffect.NO_SCHEDULE)


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (Toleration("k", value="v"), True),
        (Toleration("k", value="w"), False),
        (Toleration("k"), False),
        (Toleration("l", value="v"), False),
        (Toleration("k", "Exists"), True),
        (Toleration("l", "Exists"), False),
        (Toleration("", "Exists"), True),
        (Toleration("k", value="v", effect=TaintEffect.NO_SCHEDULE), True),
        (Toleration("", "Exists", effect=TaintEffect.NO_EXECUTE), False),
    ],
)
def test_tolerations(toleration, tolerated):
    assert tolerates(toleration, TAINT) is tolerated


def placed(spec, *nodes, **loads):
    return place(spec, {node.name: node for node in nodes}, loads)


def test_the_most_utilised_that_fits():
    nodes = [a_node(name, pods_max=3) for name in "abcd"]
    loads = {"b": Load(1_000, 0, 0, 1), "c": Load(2_000, 0, 0, 2), "d": Load(0, 0, 0, 3)}
    assert placed(a_spec(), *nodes, **loads).node_name == "c"
    assert placed(a_spec(preferred_node_name="a"), *nodes, **loads).node_name == "a"
    assert placed(a_spec(preferred_node_name="d"), *nodes, **loads).node_name == "c"
    assert placed(a_spec(), a_node("b"), a_node("a")).node_name == "a"


def test_a_preferred_taint_keeps_nobody_away():
    node = a_node("a", taints=(Taint("k", "v", TaintEffect.PREFER_NO_SCHEDULE),))
    assert placed(a_spec(), node).node_name == "a"


@pytest.mark.parametrize(
    ("spec", "node", "load", "message"),
    [
        ({"node_name": "b"}, {}, Load(), "didn't match"),
        ({"node_selector": {"k": "v"}}, {}, Load(), "didn't match"),
        ({}, {"ready": False}, Load(), "not ready"),
        ({}, {"unschedulable": True}, Load(), "unschedulable"),
        ({}, {"taints": (TAINT,)}, Load(), "untolerated taint {k: v}"),
        ({}, {"pods_max": 2}, Load(pods=2), "Too many pods"),
        ({"requests": Resources(1)}, {}, Load(4_000), "Insufficient cpu"),
        ({"requests": Resources(0, 1)}, {}, Load(0, 8_000_000_000), "Insufficient memory"),
        ({"requests": Resources(0, 0, 1)}, {}, Load(0, 0, 1), "Insufficient nvidia.com/gpu"),
    ],
)
def test_why_not(spec, node, load, message):
    found = placed(a_spec(**spec), a_node("a", **node), a=load)
    assert found.node_name is None
    assert message in found.message
    assert found.message.startswith("0/1 nodes are available: 1 ")


def test_what_asks_for_nothing_fits_where_nothing_is_left():
    assert placed(a_spec(), a_node("a"), a=Load(9_000, 9_000_000_000, 5, 1)).node_name == "a"


def test_without_nodes():
    assert placed(a_spec()).message == "0/0 nodes are available."
