"""What is asked of the leader, and ordered, over HTTP."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api.conftest import NOBODY, Service
from tests.contract.fleet_worlds import MemoryFleet
from tests.leader_double import ONE, a_leader, small_fleet

from dory_orchestrator.core.directive import BeatFacts
from dory_orchestrator.ports import StoreTimeout

FLEET = "/api/v1/fleet"
ORGANIZATION = UUID(int=9)
TOLD = {
    "outcome": "failover",
    "reason": "node_dead",
    "detail": "",
    "facts": {"epoch": 1},
    "rules": [],
    "candidates": [],
    "other_candidates": {},
}


@pytest.fixture
def fleet(service: Service) -> MemoryFleet:
    world = MemoryFleet()
    world.views = service.views
    return world


async def get(service: Service, path: str, status: int = 200, **query: Any) -> Any:
    answer = await service.http.get(FLEET + path, params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


async def post(service: Service, path: str, body: Any, status: int = 200) -> Any:
    answer = await service.http.post(FLEET + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


# Explaining


async def test_a_processor_is_explained_by_the_leader_and_by_its_events(service, fleet):
    service.views.answer = a_leader()
    await fleet.tell("failover", "node_dead", processor_id=ONE, explanation=TOLD)
    found = await get(service, f"/processors/{ONE}/explanation")
    assert (found["subject"], found["name"], found["live"]) == ("processor", "a", True)
    assert found["decision"]["outcome"] == "running"
    assert found["decision"]["rules"][-1] == {
        "rule": "ready",
        "question": "Is its pod ready?",
        "held": True,
        "numbers": {"pod": f"pod-{ONE}-1", "node": "edge-1"},
    }
    assert found["because"][0]["name"] == "edge-1"
    assert found["events"][0]["explanation"] == TOLD


async def test_without_a_leader_what_was_stored_is_told(service, fleet):
    await fleet.tell("failover", "node_dead", processor_id=ONE, explanation=TOLD)
    found = await get(service, f"/processors/{ONE}/explanation")
    assert (found["live"], found["decision"]) == (False, None)
    assert "no leader answers" in found["message"]
    assert found["events"][0]["explanation"] == TOLD


async def test_a_node_is_explained(service):
    service.views.answer = a_leader()
    found = await get(service, "/nodes/explanation", node="edge-1")
    assert (found["subject"], found["decision"]["outcome"]) == ("node", "online")
    assert found["because"][0]["subject"] == "brake"


@pytest.mark.parametrize(
    ("path", "query", "status", "said"),
    [
        (f"/processors/{NOBODY}/explanation", {}, 404, "no processor"),
        ("/nodes/explanation", {"node": "nowhere"}, 404, "no node nowhere"),
        ("/nodes/explanation", {}, 400, "node"),
        ("/processors/x/explanation", {}, 400, "id"),
        ("/what-if", {"node_down": "edge-1,nowhere"}, 404, "node_down"),
        ("/what-if", {"node_down": ","}, 400, "node_down"),
        ("/what-if", {"without_cloud": "yes"}, 400, "without_cloud"),
        ("/plan", {"x": 1}, 400, "x"),
    ],
)
async def test_wrong_questions(service, path, query, status, said):
    service.views.answer = a_leader()
    assert said in (await get(service, path, status, **query))["error"]


async def test_a_directive_is_explained(service, fleet):
    service.views.beat = BeatFacts(True, True, "running", "edge-1", "cloud-1", True)
    key = uuid4()
    found = await get(service, f"/processors/{key}/directive", sender="edge-1")
    assert (found["decision"]["outcome"], found["decision"]["reason"]) == ("shutdown", "moved_away")
    assert found["decision"]["rules"][-1]["held"]
    found = await get(service, f"/processors/{key}/directive", sender="cloud-1")
    assert found["decision"]["outcome"] == "continue"


# Plan and what-if


async def test_the_plan(service):
    service.views.answer = a_leader()
    found = await get(service, "/plan")
    assert (found["actions"], found["brake_engaged"], found["paused_for_seconds"]) == (
        [],
        False,
        None,
    )


async def test_what_if(service):
    service.views.answer = a_leader()
    found = await get(service, "/what-if", node_down="edge-1", without_cloud="false")
    assert (found["safe"], found["moves"]) == (True, 2)
    row = found["processors"][0]
    assert (row["from_node"], row["to_node"], row["loss_seconds"]) == ("edge-1", "cloud-1", 3.0)
    found = await get(service, "/what-if", node_down="edge-1,edge-2", without_cloud="true")
    assert (found["safe"], found["waits"]) == (False, 4)


@pytest.mark.parametrize("path", ["/plan", "/what-if?node_down=edge-1"])
async def test_nobody_leads(service, path):
    answer = await service.http.get(FLEET + path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"].startswith("leader: no leader answered")


# Pause


async def test_a_pause_and_its_end(service):
    assert (await get(service, "/pause"))["paused"] is False
    body = {"for_seconds": 60, "reason": "the network is rebuilt", "by": "eva"}
    begun = await post(service, "/pause/begin", body)
    assert (begun["paused"], begun["by"]) == (True, "eva")
    assert "heartbeats go on" in begun["message"]
    assert (await get(service, "/summary"))["pause_until"] == begun["until"]
    ended = await post(service, "/pause/end", {"by": "eva"})
    assert (ended["paused"], ended["until"]) == (False, None)
    assert "nothing is paused" in (await post(service, "/pause/end", {}, 409))["error"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"for_seconds": 60},
        {"for_seconds": 0, "reason": "x"},
        {"for_seconds": 1e9, "reason": "x"},
    ],
)
async def test_a_pause_needs_a_time_and_a_reason(service, body):
    await post(service, "/pause/begin", body, 400)
    assert service.views.paused is None


# Orders


async def test_orders(service, fleet):
    await fleet.add_node("edge-1", kind="edge", organization_id=ORGANIZATION, health="online")
    await fleet.add_node("cloud-1", kind="application")
    key = await fleet.add_processor("a", state="running")
    await fleet.link(key, "edge-1")
    body = {"processor": str(key), "reason": "clean", "by": "eva"}
    found = await post(service, "/orders/failover", body)
    assert (found["processor"], found["message"][:9]) == (str(key), "it leaves")
    assert service.views.orders == {key: ("failover", "eva", "clean")}
    assert "after all" in (await post(service, "/orders/failback", body))["message"]
    assert "nothing of it waits" in (await post(service, "/orders/retry", body, 409))["error"]


@pytest.mark.parametrize("order", ["failover", "failback", "retry"])
async def test_wrong_orders_change_nothing(service, order):
    body = {"processor": str(uuid4()), "reason": "x"}
    assert "no processor" in (await post(service, f"/orders/{order}", body, 404))["error"]
    await post(service, f"/orders/{order}", {"processor": "x", "reason": "x"}, 400)
    await post(service, f"/orders/{order}", {"processor": str(uuid4())}, 400)
    assert service.views.events == []


async def test_a_store_that_fails_is_told(service):
    service.views.error = StoreTimeout("late")
    for path in ("/plan", "/pause", f"/processors/{uuid4()}/directive"):
        assert (await get(service, path, 503))["error"] == "database: not available"


# Drills


async def test_a_drill(service, fleet):
    service.views.answer = a_leader()
    await fleet.add_node("edge-1", kind="edge", organization_id=ORGANIZATION, health="online")
    key = await fleet.add_processor("a", state="running")
    await fleet.link(key, "edge-1")
    body = {"node": "edge-1", "for_seconds": 300, "reason": "monthly", "by": "eva"}
    begun = await post(service, "/drills/start", body)
    assert (begun["drill"]["phase"], begun["drill"]["node_name"]) == ("running", "edge-1")
    assert "after 300 s" in begun["message"]
    assert (await get(service, "/drills", limit=1))["drills"][0]["id"] == begun["drill"]["id"]
    assert (await get(service, "/summary"))["drill_node"] == "edge-1"
    stopped = await post(service, "/drills/stop", {"by": "eva"})
    assert stopped["drill"]["outcome"] == "aborted"
    assert (await post(service, "/drills/stop", {}))["drill"]["phase"] == "ended"
    assert "no drill runs" in (await post(service, "/drills/stop", {}, 409))["error"]


async def test_a_drill_that_would_not_be_safe_does_not_begin(service, fleet):
    fleet_rows = small_fleet()
    rows = {
        key: replace(row, failover_enabled=False)
        for key, row in fleet_rows.desired.edge_nodes.items()
    }
    desired = replace(fleet_rows.desired, edge_nodes=rows)
    service.views.answer = a_leader(replace(fleet_rows, desired=desired))
    body = {"node": "edge-1", "for_seconds": 300, "reason": "monthly"}
    said = (await post(service, "/drills/start", body, 409))["error"]
    assert "2 of its processors would not move" in said
    service.views.answer = None
    assert "no leader" in (await post(service, "/drills/start", body, 503))["error"]
    assert service.views.drills == []
