"""Which state documents are removed."""

from dataclasses import replace

from tests.core.world import a_pod, a_processor, an_id

from dory_orchestrator.core.checkpoint import Document, Position
from dory_orchestrator.core.departed import is_gone, is_removable
from dory_orchestrator.core.model import Observation

POD = a_pod(a_processor("one"))
DOCUMENT = Document(b"{}", b"", "pod-1", 0.0, None)


def test_what_its_last_pod_saved_and_what_we_put_there() -> None:
    assert is_removable(DOCUMENT, "pod-1")
    assert is_removable(replace(DOCUMENT, position=Position(1, 1, 1)), "pod-2")


def test_what_is_of_nobody_we_know_or_unreadable_stays() -> None:
    assert not is_removable(DOCUMENT, "pod-2")
    assert not is_removable(DOCUMENT, None)
    assert not is_removable(None, "pod-1")


def test_who_has_a_pod_is_not_gone_whichever_fleet_it_is_of() -> None:
    for pod in (POD, replace(POD, fleet_id="another"), replace(POD, terminating=True)):
        assert not is_gone(an_id("one"), "default", Observation({}, {pod.uid: pod}))
    assert is_gone(an_id("two"), "default", Observation({}, {POD.uid: POD}))


def test_who_would_not_be_seen_is_not_gone() -> None:
    observed = Observation({}, {}, frozenset({"default"}))
    assert is_gone(an_id("one"), "default", observed)
    assert not is_gone(an_id("one"), "other", observed)
