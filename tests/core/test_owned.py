"""Whose state is kept, and how often it is asked for."""

from dataclasses import replace

from tests.core.world import FLEET, START, V1, V2, a_pod, a_processor, a_version, owned_by

from dory_orchestrator.core.model import Desired, GuardRecord, Observation
from dory_orchestrator.core.owned import OwnedPod, owned_pods

RUNTIME = {"orchestrator": {"checkpoint_interval_seconds": 3, "proof": ["/count"]}}
ONE = a_processor(0, versions=(a_version("1", runtime=RUNTIME),))
POD = a_pod(ONE)


def owned(*, config=ONE, pod=POD, own=None, before=()):
    desired = Desired(
        now=START,
        fleet_id=FLEET,
        configs={} if config is None else {config.processor_id: config},
        edge_nodes={},
        links={},
        ownership={ONE.processor_id: own or owned_by(POD)},
        guard=GuardRecord(),
    )
    known = {one.pod.uid: one for one in before}
    return list(owned_pods(desired, Observation({}, {pod.uid: pod}), 10.0, known))


def test_as_its_template_says():
    assert owned() == [OwnedPod(POD, 1, 3.0, ("/count",))]


def test_only_of_owners_of_this_fleet():
    assert owned(own=replace(owned_by(POD), pod_uid="another")) == []
    assert owned(pod=replace(POD, fleet_id="another")) == []
    assert owned(pod=replace(POD, processor_id=None)) == []


def test_of_one_whose_row_is_gone_it_is_kept_as_before():
    assert owned(config=None) == [OwnedPod(POD, 1, 10.0, ())]
    assert owned(config=None, before=owned()) == owned()


def test_of_one_whose_template_cannot_be_read_it_is_kept_as_before():
    broken = replace(ONE, versions=(V1, V2))
    assert owned(config=broken) == [OwnedPod(POD, 1, 10.0, ())]
    assert owned(config=broken, before=owned()) == owned()


def test_a_change_of_the_template_counts_at_once():
    never = replace(
        ONE,
        versions=(a_version("2", runtime={"orchestrator": {"checkpoint_interval_seconds": 0}}),),
    )
    assert owned(config=never, before=owned()) == [OwnedPod(POD, 1, 0.0, ())]
