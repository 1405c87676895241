"""Which orders of operators are taken, and why others are not."""

from dataclasses import replace

import pytest

from dory_orchestrator.core.model import OrderKind
from dory_orchestrator.core.ordering import OrderFacts, follows, refusal, retry_refusal

AT_HOME = OrderFacts(
    node_type="edge",
    reason="running",
    linked_node="edge-1",
    home_node=None,
    home_status=None,
    home_cordoned=False,
    home_ready=False,
    home_health=None,
    move=None,
    order=None,
    brake_engaged=False,
    paused=False,
    application_nodes_ready=1,
    failures=0,
    waits_seconds=None,
)
AWAY = replace(
    AT_HOME,
    linked_node=None,
    home_node="edge-1",
    home_status="online",
    home_ready=True,
    home_health="recovering",
)


@pytest.mark.parametrize("kind", OrderKind)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"node_type": "managed"}, "no edge processor"),
        ({"node_type": None}, "no edge processor"),
        ({"reason": "epoch_ahead"}, "frozen"),
        ({"reason": "foreign_fleet"}, "another fleet"),
        ({"reason": "guard_held"}, "deletion guard"),
        ({"reason": "not_desired"}, "not desired"),
        ({"reason": "no_active_version"}, "no active version"),
        ({"paused": True}, "everything is paused"),
        ({"brake_engaged": True}, "brake holds"),
        ({"move": "failback"}, "on its way already (failback)"),
        ({"linked_node": None, "home_node": None}, "no edge node yet"),
    ],
)
@pytest.mark.parametrize("facts", [AT_HOME, AWAY])
def test_what_no_order_may_do(kind, changes, said, facts):
    refused = refusal(kind, replace(facts, **changes))
    assert refused is not None
    assert said in refused


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        (OrderKind.FAILOVER, AT_HOME, None),
        (OrderKind.FAILOVER, replace(AT_HOME, application_nodes_ready=0), "run nowhere"),
        (OrderKind.FAILOVER, AWAY, None),
        (OrderKind.FAILOVER, replace(AWAY, application_nodes_ready=0), None),
        (OrderKind.FAILOVER, replace(AWAY, order="failover"), "already, and stays there"),
        (OrderKind.FAILBACK, AT_HOME, "at home on edge-1"),
        (OrderKind.FAILBACK, replace(AT_HOME, order="failover"), None),
        (OrderKind.FAILBACK, AWAY, None),
        (OrderKind.FAILBACK, replace(AWAY, order="failover"), None),
        (OrderKind.FAILBACK, replace(AWAY, home_status="decommissioned"), "decommissioned"),
        (OrderKind.FAILBACK, replace(AWAY, home_cordoned=True), "cordoned"),
        (OrderKind.FAILBACK, replace(AWAY, home_ready=False), "not well"),
        (OrderKind.FAILBACK, replace(AWAY, home_health="suspect"), "not well (suspect)"),
        (OrderKind.FAILBACK, replace(AWAY, home_health=None), "not judged"),
    ],
)
def test_who_may_be_ordered(kind, facts, said):
    refused = refusal(kind, facts)
    if said is None:
        assert refused is None
        assert follows(kind, facts)
    else:
        assert refused is not None
        assert said in refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing of it waits"),
        ({"reason": "back_off"}, None),
        ({"reason": "failed"}, None),
        ({"reason": "creation_refused"}, None),
        ({"waits_seconds": 12.0}, None),
        ({"reason": "back_off", "paused": True}, "paused"),
    ],
)
def test_what_may_be_tried_again(changes, said):
    refused = retry_refusal(replace(AT_HOME, **changes))
    assert (refused is None) if said is None else said in (refused or "")
