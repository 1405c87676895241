"""Which events are said of what."""

from typing import Any

import pytest
from tests.core.world import a_node, a_pod, a_processor

from dory_orchestrator.core.announcing import Announcement, Happening, announcement, concerns
from dory_orchestrator.core.model import Observation

POD = a_pod(a_processor("one"))
OBSERVED = Observation({"edge-1": a_node("edge-1")}, {POD.uid: POD})


def happening(**changes: Any) -> Happening:
    fields: dict[str, Any] = {
        "id": 255,
        "at": 1.5,
        "kind": "node_offline",
        "reason": "dead_not_ready",
        "detail": "not ready for 3 s",
        "node_name": None,
        "pod_name": None,
        "pod_uid": None,
    }
    return Happening(**(fields | changes))


def said(**changes: Any) -> Announcement:
    found = announcement(happening(**changes), OBSERVED)
    assert found is not None
    return found


def test_of_a_node() -> None:
    found = said(node_name="edge-1")
    assert (found.pod, found.node_name) == (None, "edge-1")
    assert (found.reason, found.is_warning) == ("NodeOffline", True)
    assert found.message == "dead_not_ready: not ready for 3 s"
    assert found.at == 1.5


def test_of_a_pod_wherever_it_runs() -> None:
    found = said(kind="moved", pod_uid=POD.uid, pod_name=POD.name, node_name="edge-1")
    assert (found.pod, found.node_name) == (POD, None)
    assert (found.reason, found.is_warning) == ("Moved", False)


def test_of_a_pod_whose_uid_was_not_known_yet() -> None:
    assert said(kind="failover", pod_name=POD.name, node_name="edge-1").pod == POD


@pytest.mark.parametrize(
    "changes",
    [
        {"node_name": "gone"},
        {"pod_name": "gone"},
        {"pod_name": POD.name, "pod_uid": "another"},
        {"pod_name": "gone", "node_name": "edge-1"},
        {},
    ],
)
def test_of_what_is_not_there_nothing_is_said(changes: dict[str, Any]) -> None:
    assert announcement(happening(**changes), OBSERVED) is None


def test_the_key_is_that_of_the_event_alone() -> None:
    assert said(node_name="edge-1").key == said(node_name="edge-1", detail="other words").key
    keys = {
        said(node_name="edge-1", **changes).key
        # After a restore, numbers are given again.
        for changes in ({}, {"id": 256}, {"at": 1.500001})
    }
    assert len(keys) == 3


def test_without_details_the_reason_is_enough() -> None:
    assert said(node_name="edge-1", detail="").message == "dead_not_ready"


def test_what_is_too_long_is_cut() -> None:
    found = said(node_name="edge-1", detail="x" * 5_000, kind="long_" * 100)
    assert (len(found.message), len(found.reason)) == (1_024, 128)


def test_what_concerns_neither_pod_nor_node_is_not_waited_for() -> None:
    assert not concerns(happening())
    assert concerns(happening(node_name="edge-1"))
    assert concerns(happening(pod_name="p"))
