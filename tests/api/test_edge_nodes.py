"""Registration and decommission (http-api-reference, "Edge API")."""

import asyncio
from uuid import uuid4

import pytest
from tests.api.conftest import DECOMMISSION, NODES, Service

from dory_orchestrator.ports import StoreUnavailable

ORGANIZATION = str(uuid4())


async def register(service: Service, **fields: object) -> dict[str, object]:
    answer = await service.http.post(NODES, json={"organization_id": ORGANIZATION, **fields})
    assert answer.status_code == 201, answer.text
    content: dict[str, object] = answer.json()
    return content


async def test_a_new_node_is_answered_with_exactly_the_seven_fields(service: Service):
    node = await register(service, name="edge-1")
    assert list(node) == [
        "id",
        "organization_id",
        "name",
        "status",
        "failover_enabled",
        "failover_target_node_id",
        "last_heartbeat_at",
    ]
    assert node | {"id": ""} == {
        "id": "",
        "organization_id": ORGANIZATION,
        "name": "edge-1",
        "status": "online",
        "failover_enabled": True,
        "failover_target_node_id": None,
        "last_heartbeat_at": None,
    }


async def test_registering_again_is_the_same_node_with_what_was_given(service: Service):
    target = await register(service, name="edge-2")
    first = await register(service, name="edge-1", failover_target_node_id=target["id"])
    second = await register(service, name="edge-1", failover_enabled=False)

    assert second["id"] == first["id"]
    assert second["failover_enabled"] is False
    assert second["failover_target_node_id"] == target["id"]
    third = await register(service, name="edge-1", failover_target_node_id=None)
    assert third["failover_target_node_id"] is None
    assert third["failover_enabled"] is False


async def test_two_at_once_are_one_node(service: Service):
    nodes = await asyncio.gather(*(register(service, name="edge-1") for _ in range(5)))
    assert len({node["id"] for node in nodes}) == 1


BAD = [
    ({"organization_id": ORGANIZATION}, "name"),
    ({"organization_id": ORGANIZATION, "name": ""}, "name"),
    ({"organization_id": ORGANIZATION, "name": "x" * 254}, "name"),
    ({"organization_id": ORGANIZATION, "name": "a\nb"}, "name"),
    ({"organization_id": ORGANIZATION, "name": "a\u0000b"}, "name"),
    ({"organization_id": ORGANIZATION, "name": "a\u0085b"}, "name"),
    ({"organization_id": ORGANIZATION, "name": 7}, "name"),
    ({"organization_id": ORGANIZATION, "name": None}, "name"),
    ({"name": "edge-1"}, "organization_id"),
    ({"name": "edge-1", "organization_id": None}, "organization_id"),
    ({"name": "edge-1", "organization_id": "seven"}, "organization_id"),
    ({"name": "edge-1", "organization_id": ""}, "organization_id"),
    ({"name": "e", "organization_id": ORGANIZATION, "failover_enabled": 1}, "failover_enabled"),
    ({"name": "e", "organization_id": ORGANIZATION, "failover_enabled": None}, "failover_enabled"),
    (
        {"name": "e", "organization_id": ORGANIZATION, "failover_target_node_id": "x"},
        "failover_target_node_id",
    ),
    (
        {"name": "e", "organization_id": ORGANIZATION, "failover_target_node_id": str(uuid4())},
        "failover_target_node_id",
    ),
]


@pytest.mark.parametrize(("body", "field"), BAD)
async def test_a_bad_registration_is_400_and_names_the_field(service: Service, body, field):
    answer = await service.http.post(NODES, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(field)
    assert service.store.nodes == {}


async def test_a_target_must_not_lead_back(service: Service):
    a = await register(service, name="a")
    b = await register(service, name="b", failover_target_node_id=a["id"])
    for target in (a, b):
        answer = await service.http.post(
            NODES,
            json={
                "organization_id": ORGANIZATION,
                "name": "a",
                "failover_target_node_id": target["id"],
            },
        )
        assert answer.status_code == 400


@pytest.mark.parametrize("name", ["Edge One", "køge", "x" * 253, "'; drop table edge_nodes; --"])
async def test_a_name_that_kubernetes_cannot_have_is_accepted(service: Service, name):
    assert (await register(service, name=name))["name"] == name


async def test_decommission_stops_the_apps_once(service: Service):
    node = await register(service, name="edge-1")
    service.processor(edge_node_id=next(iter(service.store.nodes)))

    first = await service.http.post(DECOMMISSION, json={"node_name": "edge-1"})
    second = await service.http.post(DECOMMISSION, json={"node_name": "edge-1"})

    assert first.status_code == second.status_code == 200
    assert first.json() == {"status": "decommissioned", "node_name": "edge-1", "apps_stopped": 1}
    assert second.json()["apps_stopped"] == 0
    assert (await register(service, name="edge-1"))["id"] == node["id"]


async def test_an_unknown_node_is_500_with_an_error(service: Service):
    answer = await service.http.post(DECOMMISSION, json={"node_name": "nobody"})
    assert answer.status_code == 500
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("body", [{}, {"node_name": ""}, {"node_name": None}, {"node_name": 3}])
async def test_decommission_needs_a_name(service: Service, body):
    answer = await service.http.post(DECOMMISSION, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("node_name")


async def test_a_name_in_two_organizations_is_409_until_one_is_named(service: Service):
    other = str(uuid4())
    await register(service, name="edge-1")
    await register(service, name="edge-1", organization_id=other)

    answer = await service.http.post(DECOMMISSION, json={"node_name": "edge-1"})
    assert answer.status_code == 409
    answer = await service.http.post(
        DECOMMISSION, json={"node_name": "edge-1", "organization_id": other}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("path", [NODES, DECOMMISSION])
async def test_without_a_database_it_is_503_and_says_when_to_retry(service: Service, path):
    service.store.error = StoreUnavailable("down")
    body = {"name": "e", "node_name": "e", "organization_id": ORGANIZATION}
    answer = await service.http.post(path, json=body)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("path", [NODES, DECOMMISSION])
async def test_any_other_method_is_405(service: Service, path):
    answer = await service.http.get(path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json().keys() == {"error"}
