"""Comparing configurations, names of nodes, back-off."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.changes import Changes, compare
from dory_orchestrator.core.model import ProcessorConfig
from dory_orchestrator.core.node_name import why_not_kubernetes

CONFIG = ProcessorConfig(
    processor_id=UUID(int=1),
    organization_id=None,
    name="one",
    node_type="edge",
    namespace="default",
    status="pending",
    template_slug="camera",
    versions=(),
    sensor_id=None,
    sensor_config=None,
    sensor_location=None,
)


def test_each_kind_of_change_is_told_apart():
    kept, gone, new = uuid4(), uuid4(), uuid4()
    before = {kept: CONFIG, gone: CONFIG}
    after = {kept: replace(CONFIG, namespace="other"), new: CONFIG}

    assert compare(before, after) == Changes(
        added=frozenset({new}), removed=frozenset({gone}), modified=frozenset({kept})
    )


def test_the_portal_s_bookkeeping_is_no_change():
    key = uuid4()
    assert not compare({key: CONFIG}, {key: replace(CONFIG, status="running")})


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_every_id_is_in_one_kind_or_unchanged(before, after):
    changes = compare({UUID(int=i): CONFIG for i in before}, {UUID(int=i): CONFIG for i in after})
    assert changes.added == {UUID(int=i) for i in after - before}
    assert changes.removed == {UUID(int=i) for i in before - after}
    assert not changes.modified


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("edge-1", True),
        ("ip-10-0-0-1.internal", True),
        ("a" * 253, True),
        ("a" * 254, False),
        ("Edge", False),
        ("-edge", False),
        ("edge_1", False),
        ("edge..1", False),
        ("køge", False),
        ("edge\n", False),
    ],
)
def test_names_that_a_kubernetes_node_can_have(name, fits):
    assert (why_not_kubernetes(name) is None) is fits


def test_back_off_doubles_to_its_most_and_is_forgotten():
    backoff = Backoff(first_seconds=1, most_seconds=300, forgotten_after_seconds=600)
    assert [backoff.delay_seconds(n) for n in (1, 2, 3, 9, 10, 10_000)] == [1, 2, 4, 256, 300, 300]
    assert backoff.count(7, lasted_seconds=599.9) == 8
    assert backoff.count(7, lasted_seconds=600) == 1
