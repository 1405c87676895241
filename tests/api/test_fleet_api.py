"""The fleet API over HTTP: shapes, parameters, errors, who may decide."""

import re
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
from tests.api.conftest import NOBODY, Service
from tests.contract.fleet_worlds import MemoryFleet

from dory_orchestrator.api.fleet_bodies import StateName
from dory_orchestrator.core.plan import State
from dory_orchestrator.ports import StoreBusy, StoreTimeout

FLEET = "/api/v1/fleet"
READS = (
    *("/nodes", "/processors", f"/processors/{NOBODY}", "/events", "/moves"),
    *("/guard", "/brake", "/summary", "/webhooks", "/webhooks/dead-letters"),
    *("/plan", "/what-if", "/pause", "/nodes/explanation?node=a"),
    *(f"/processors/{NOBODY}/explanation", f"/processors/{NOBODY}/directive"),
    *("/events/stream", "/events/export"),
)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture
def fleet(service: Service) -> MemoryFleet:
    world = MemoryFleet()
    world.views = service.views
    return world


async def get(service: Service, path: str, status: int = 200, **query: Any):
    answer = await service.http.get(FLEET + path, params=query)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def test_every_state_can_be_asked_for():
    assert set(get_args(StateName)) == {*State, "unknown"}


async def test_processors_in_pages(service, fleet):
    for name in "cab":
        await fleet.add_processor(name, state="running")
    first = await get(service, "/processors", limit=2)
    assert [p["name"] for p in first["processors"]] == ["a", "b"]
    second = await get(service, "/processors", limit=2, cursor=first["next_cursor"])
    assert [p["name"] for p in second["processors"]] == ["c"]
    assert second["next_cursor"] is None


async def test_the_fields_of_a_processor(service, fleet):
    await fleet.add_processor("a", state="running", epoch=1)
    (processor,) = (await get(service, "/processors"))["processors"]
    assert processor.keys() == {
        *("id", "name", "organization_id", "template", "version", "node_type", "namespace"),
        *("status", "health_status", "last_health_check_at", "state", "reason", "detail"),
        *("node_name", "pod_name", "pod_ip", "pod_uid", "epoch", "pod_epoch"),
        *("restart_count", "since"),
    }
    assert RFC3339.fullmatch(processor["since"])
    assert UUID(processor["id"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"state": "held"}, "b"),
        ({"state": "held,running"}, "ab"),
        ({"q": "A"}, "a"),
        ({"node": "n1"}, "a"),
        ({"organization": str(UUID(int=7))}, "a"),
        ({"health": "healthy"}, "b"),
        ({"namespace": "other"}, "b"),
        ({"template": "camera"}, "a"),
        ({"sort": "state"}, "ba"),
    ],
)
async def test_filters_of_processors_reach_the_store(service, fleet, query, names):
    await fleet.add_processor(
        "a", state="running", node="n1", organization_id=UUID(int=7), template="camera"
    )
    await fleet.add_processor(
        "b", key=UUID(int=2), state="held", health_status="healthy", namespace="other"
    )
    found = await get(service, "/processors", **query)
    assert [p["name"] for p in found["processors"]] == list(names)


async def test_one_processor_with_its_events(service, fleet):
    key = await fleet.add_processor("a", state="running")
    for _ in range(21):
        await fleet.tell("create", "not_running", processor_id=key)
    found = await get(service, f"/processors/{key}")
    assert found["processor"]["name"] == "a"
    assert [event["id"] for event in found["events"]] == list(range(21, 1, -1))


async def test_an_unknown_processor_is_404(service):
    key = uuid4()
    assert str(key) in (await get(service, f"/processors/{key}", 404))["error"]


async def test_nodes(service, fleet):
    await fleet.add_node("a", kind="edge", organization_id=uuid4(), utilisation=0.5)
    await fleet.add_node("b", kind="application", ready=False)
    await fleet.add_processor("p", state="running", node="a")
    found = await get(service, "/nodes")
    assert [node["name"] for node in found["nodes"]] == ["a", "b"]
    assert found["nodes"][0]["processors"] == {"running": 1}
    found = await get(service, "/nodes", ready="false", kind="application", sort="utilisation")
    assert [node["name"] for node in found["nodes"]] == ["b"]


async def test_how_a_node_was_judged(service, fleet):
    await fleet.add_node("a", organization_id=uuid4(), health="suspect")
    await fleet.add_node("b", organization_id=uuid4())
    judged, new = (await get(service, "/nodes"))["nodes"]
    names = ("health", "health_reason", "health_detail", "health_since")
    assert [judged[name] for name in names] == ["suspect", "why", "because", "2026-01-01T00:00:00Z"]
    assert [new[name] for name in names] == [None] * 4


async def test_moves_in_pages(service, fleet):
    for _ in range(5):
        await fleet.move(uuid4())
    first = await get(service, "/moves", limit=2)
    assert [move["id"] for move in first["moves"]] == [5, 4]
    second = await get(service, "/moves", limit=9, cursor=first["next_cursor"])
    assert [move["id"] for move in second["moves"]] == [3, 2, 1]
    assert second["next_cursor"] is None


async def test_the_fields_of_a_move(service, fleet):
    key = await fleet.add_processor("a", state="running")
    await fleet.move(key, to_node="cloud", outcome="done")
    (move,) = (await get(service, "/moves"))["moves"]
    assert move == {
        "id": 1,
        "processor_id": str(key),
        "processor_name": "a",
        "kind": "failover",
        "detail": "because",
        "from_node": "edge-1",
        "to_node": "cloud",
        "edge_node_id": str(UUID(int=5)),
        "old_uid": "uid",
        "epoch": 2,
        "began_at": "2026-01-01T00:00:00Z",
        "last_alive_at": "2025-12-31T23:59:40Z",
        "state_at": "2025-12-31T23:59:35Z",
        "suspect_at": "2025-12-31T23:59:50Z",
        "created_at": None,
        "ready_at": None,
        "ended_at": "2026-01-01T00:00:09Z",
        "outcome": "done",
        "rto_seconds": 29.5,
        "rpo_seconds": 5.0,
    }


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"processor_id": str(UUID(int=1))}, [2]),
        ({"node": "cloud"}, [2, 1]),
        ({"node": "edge-2"}, [1]),
        ({"kind": "failback"}, [2]),
        ({"open": "true"}, [2]),
        ({"open": "false"}, [1]),
        ({"outcome": "done"}, [1]),
    ],
)
async def test_filters_of_moves_reach_the_store(service, fleet, query, ids):
    await fleet.move(uuid4(), from_node="edge-2", to_node="cloud", outcome="done")
    await fleet.move(UUID(int=1), kind="failback", from_node="cloud", to_node="edge-1")
    assert [move["id"] for move in (await get(service, "/moves", **query))["moves"]] == ids


async def test_events_in_pages_and_followed(service, fleet):
    for number in range(5):
        await fleet.tell("create", f"r{number}")
    first = await get(service, "/events", limit=2)
    assert [event["id"] for event in first["events"]] == [5, 4]
    second = await get(service, "/events", limit=9, cursor=first["next_cursor"])
    assert [event["id"] for event in second["events"]] == [3, 2, 1]
    assert second["next_cursor"] is None

    assert (await get(service, "/events", after=first["follow"]))["events"] == []
    await fleet.tell("delete", "changed")
    followed = await get(service, "/events", after=first["follow"])
    assert [event["id"] for event in followed["events"]] == [6]
    assert (followed["next_cursor"], followed["follow"]) == (None, 6)


async def test_events_since_a_moment(service, fleet):
    await fleet.tell("create", "old", at=datetime(2026, 1, 1, tzinfo=UTC))
    await fleet.tell("create", "new", at=datetime(2026, 1, 2, tzinfo=UTC))
    found = await get(service, "/events", since="2026-01-02T01:00:00+01:00", kind="create")
    assert [event["reason"] for event in found["events"]] == ["new"]


async def test_summary(service, fleet):
    await fleet.add_processor("a", state="running")
    found = await get(service, "/summary")
    assert (found["desired"], found["ready"], found["states"]) == (1, 1, {"running": 1})
    assert found["leader"] == {"holder": None, "term": 0, "lease_seconds": None}
    assert (found["cluster"], found["guard_held"], found["current"]) == ("local", False, False)
    assert (found["brake_engaged"], found["moves_open"]) == (False, 0)
    await fleet.engage("many_suspect", "3 of 4", population=4)
    await fleet.move(uuid4())
    found = await get(service, "/summary")
    assert (found["brake_engaged"], found["moves_open"]) == (True, 1)
    service.views.leader = "me"
    assert (await get(service, "/summary"))["current"]


class TestBadParameters:
    @pytest.mark.parametrize("path", READS)
    async def test_unknown_ones_are_named(self, service, path):
        error = (await get(service, path, 400, colour="blue"))["error"]
        assert error.startswith("colour: no such parameter")

    @pytest.mark.parametrize(
        ("path", "query", "error"),
        [
            ("/processors", {"limit": "0"}, "limit: "),
            ("/processors", {"limit": "1001"}, "limit: "),
            ("/processors", {"limit": "1e2"}, "limit: "),
            ("/processors", {"limit": ""}, "limit: "),
            ("/processors", {"limit": "9" * 40}, "limit: "),
            ("/processors", {"sort": "colour"}, "sort: "),
            (
                "/processors",
                {"state": "running,odd"},
                "state: Invalid enum value 'odd' (known: err",
            ),
            ("/processors", {"state": ""}, "state: "),
            ("/processors", {"organization": "7"}, "organization: "),
            ("/processors", {"health": "odd"}, "health: "),
            ("/processors", {"q": ""}, "q: "),
            ("/processors", {"q": "\0"}, "q: a control character"),
            ("/processors", {"node": "n" * 254}, "node: "),
            ("/processors", {"cursor": "!"}, "cursor: "),
            ("/processors", {"cursor": "abc"}, "cursor: is none of ours"),
            ("/processors/7", {}, "id: "),
            ("/nodes", {"ready": "perhaps"}, "ready: "),
            ("/nodes", {"kind": "odd"}, "kind: "),
            ("/events", {"since": "yesterday"}, "since: "),
            ("/events", {"since": "5"}, "since: "),
            ("/events", {"since": "2026-01-01T00:00:00"}, "since: "),
            ("/events", {"since": "0001-01-01T00:00:00+10:00"}, "since: out of range"),
            ("/events", {"after": "-1"}, "after: "),
            ("/events", {"after": str(2**63)}, "after: "),
            ("/events", {"processor": "a"}, "processor: "),
            ("/moves", {"processor_id": "a"}, "processor_id: "),
            ("/moves", {"open": "1"}, "open: "),
            ("/moves", {"kind": "odd"}, "kind: "),
            ("/moves", {"outcome": "odd"}, "outcome: "),
            ("/moves", {"node": ""}, "node: "),
            ("/moves", {"limit": "1001"}, "limit: "),
            ("/events/stream", {"after": "-1"}, "after: "),
            ("/events/stream", {"kind": ""}, "kind: "),
            ("/events/export", {"since": "5"}, "since: "),
            ("/events/export", {"until": "9999-12-31T23:59:59-01:00"}, "until: out of range"),
            ("/webhooks/dead-letters", {"limit": "0"}, "limit: "),
            ("/webhooks/dead-letters", {"cursor": "abc"}, "cursor: is none of ours"),
        ],
    )
    async def test_bad_values_are_named(self, service, path, query, error):
        assert (await get(service, path, 400, **query))["error"].startswith(error)

    @pytest.mark.parametrize(
        ("query", "error"),
        [
            ("q=a&q=b", "q: stands twice"),
            ("q=%ff", "query: is not UTF-8"),
            ("&".join(f"a{n}=1" for n in range(200)), "query: too many parameters"),
        ],
    )
    async def test_odd_queries(self, service, query, error):
        answer = await service.http.get(f"{FLEET}/processors?{query}")
        assert (answer.status_code, answer.json()) == (400, {"error": error})

    async def test_cursors_belong_to_one_order(self, service, fleet):
        for name in "ab":
            await fleet.add_processor(name)
            await fleet.tell("create", name)
        cursor = (await get(service, "/processors", limit=1))["next_cursor"]
        for path, query in (
            ("/processors", {"sort": "node"}),
            ("/nodes", {}),
            ("/events", {}),
            ("/moves", {}),
        ):
            error = (await get(service, path, 400, cursor=cursor, **query))["error"]
            assert error.startswith("cursor: ")
        events = (await get(service, "/events", limit=1))["next_cursor"]
        assert (await get(service, "/moves", 400, cursor=events))["error"].startswith("cursor: ")
        error = (await get(service, "/events", 400, cursor=events, after=1))["error"]
        assert error == "after, cursor: give one of them"


class TestTheDatabase:
    @pytest.mark.parametrize("path", READS)
    async def test_slow_or_dead_is_503_and_never_an_empty_list(self, service, path):
        service.views.error = StoreTimeout("no answer within 2 s")
        answer = await service.http.get(FLEET + path)
        assert answer.status_code == 503
        assert answer.json() == {"error": "database: not available"}
        assert answer.headers["retry-after"] == "5"

    async def test_decisions_too(self, service):
        service.views.error = StoreBusy("locked")
        answer = await service.http.post(f"{FLEET}/guard/confirm", json={})
        assert (answer.status_code, answer.json()) == (503, {"error": "database: busy"})


@pytest.mark.parametrize("path", READS)
async def test_wrong_methods_are_405(service, path):
    answer = await service.http.post(FLEET + path, json={})
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize(
    "path",
    [
        *("/guard/confirm", "/guard/adopt", "/brake/override", "/brake/clear"),
        *("/nodes/cordon", "/nodes/uncordon", "/pause/begin", "/pause/end"),
        *(
            "/orders/failover",
            "/orders/failback",
            "/orders/retry",
            "/webhooks/retry",
            "/drills/start",
            "/drills/stop",
        ),
    ],
)
async def test_decisions_are_posts(service, path):
    answer = await service.http.get(FLEET + path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_doubled_slashes(service):
    assert (await service.http.get("/api/v1//fleet//nodes")).status_code == 200


class TestDecisions:
    async def test_confirming(self, service, fleet):
        await fleet.hold(all=2)
        status = await get(service, "/guard")
        assert (status["held"], status["groups"]) == (True, {"all": 2})
        body = {"by": "eva", "groups": status["groups"]}
        answer = await service.http.post(f"{FLEET}/guard/confirm", json=body)
        assert answer.status_code == 200
        assert (answer.json()["confirmed"], answer.json()["confirmed_by"]) == ({"all": 2}, "eva")
        (event,) = (await get(service, "/events"))["events"]
        assert (event["kind"], event["reason"]) == ("guard", "confirmed")

    async def test_nothing_to_confirm_is_409(self, service, fleet):
        answer = await service.http.post(f"{FLEET}/guard/confirm", json={})
        assert answer.status_code == 409
        assert "nothing is held" in answer.json()["error"]
        await fleet.hold(all=2)
        answer = await service.http.post(f"{FLEET}/guard/confirm", json={"groups": {"all": 1}})
        assert answer.status_code == 409
        assert answer.json()["error"].startswith("groups: ")

    async def test_adopting(self, service, fleet):
        key = await fleet.add_processor("a", state="held", reason="epoch_ahead", pod_epoch=3)
        other = await fleet.add_processor("b", state="running")
        answer = await service.http.post(
            f"{FLEET}/guard/adopt", json={"processors": [str(key), str(other)]}
        )
        assert answer.status_code == 409
        assert str(other) in answer.json()["error"]
        answer = await service.http.post(f"{FLEET}/guard/adopt", json={"processors": "all"})
        assert (answer.status_code, answer.json()) == (200, {"adopted": [str(key)]})

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("confirm", {"by": ""}),
            ("confirm", {"by": "a\nb"}),
            ("confirm", {"groups": {"all": -1}}),
            ("confirm", []),
            ("adopt", {}),
            ("adopt", {"processors": []}),
            ("adopt", {"processors": ["a"]}),
            ("adopt", {"processors": "some"}),
        ],
    )
    async def test_bad_bodies_are_400(self, service, path, body):
        answer = await service.http.post(f"{FLEET}/guard/{path}", json=body)
        assert answer.status_code == 400
        assert answer.json().keys() == {"error"}

    async def test_pages_of_other_sites_may_not_decide(self, service, fleet):
        await fleet.hold(all=0)
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
            answer = await service.http.post(
                f"{FLEET}/guard/confirm", content="{}", headers={"sec-fetch-site": site}
            )
            assert answer.status_code == status


class TestTheBrake:
    async def test_it_is_off(self, service):
        assert await get(service, "/brake") == {
            "engaged": False,
            "engaged_at": None,
            "reason": None,
            "detail": "",
            "population_count": 0,
            "override_until": None,
            "override_by": None,
            "override_reason": None,
            "nodes_count": 0,
            "nodes": [],
        }

    async def test_it_holds(self, service, fleet):
        await fleet.engage("many_suspect", "3 of 4", population=4)
        await fleet.add_node("edge-1", organization_id=uuid4(), health="suspect")
        status = await get(service, "/brake")
        assert (status["engaged"], status["reason"], status["population_count"]) == (
            *(True, "many_suspect", 4),
        )
        assert RFC3339.fullmatch(status["engaged_at"])
        (node,) = status["nodes"]
        assert UUID(node.pop("id"))
        assert node == {
            "name": "edge-1",
            "state": "suspect",
            "reason": "why",
            "detail": "because",
            "since": "2026-01-01T00:00:00Z",
        }

    async def test_overriding_and_clearing(self, service, fleet):
        await fleet.engage("many_suspect", "3 of 4", population=4)
        body = {"for_seconds": 600, "reason": "a fire", "by": "eva"}
        answer = await service.http.post(f"{FLEET}/brake/override", json=body)
        assert answer.status_code == 200
        status = answer.json()
        assert "dead nodes are moved away from" in status.pop("message")
        assert (status["engaged"], status["override_by"], status["override_reason"]) == (
            *(False, "eva", "a fire"),
        )
        assert await get(service, "/brake") == status

        answer = await service.http.post(f"{FLEET}/brake/clear", json={"by": "otto"})
        assert answer.status_code == 200
        assert (answer.json()["engaged"], answer.json()["override_until"]) == (True, None)
        assert "holds again" in answer.json()["message"]
        cleared, overridden = (await get(service, "/events"))["events"]
        assert (overridden["kind"], overridden["reason"]) == ("brake", "overridden")
        assert (cleared["kind"], cleared["reason"]) == ("brake", "override_cleared")

    async def test_it_says_that_the_brake_was_not_engaged(self, service):
        body = {"for_seconds": 1.5, "reason": "a drill"}
        answer = await service.http.post(f"{FLEET}/brake/override", json=body)
        assert answer.status_code == 200
        assert "was not engaged" in answer.json()["message"]
        answer = await service.http.post(f"{FLEET}/brake/clear", json={})
        assert "is not engaged" in answer.json()["message"]

    async def test_nothing_to_clear_is_409(self, service):
        answer = await service.http.post(f"{FLEET}/brake/clear", json={})
        assert answer.status_code == 409
        assert "not overridden" in answer.json()["error"]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"reason": "a"}, "for_seconds"),
            ({"for_seconds": 60}, "reason"),
            ({"for_seconds": 0, "reason": "a"}, "for_seconds"),
            ({"for_seconds": 0.5, "reason": "a"}, "for_seconds"),
            ({"for_seconds": 86_401, "reason": "a"}, "for_seconds"),
            ({"for_seconds": "60", "reason": "a"}, "for_seconds"),
            ({"for_seconds": True, "reason": "a"}, "for_seconds"),
            ({"for_seconds": None, "reason": "a"}, "for_seconds"),
            ({"for_seconds": 60, "reason": ""}, "reason"),
            ({"for_seconds": 60, "reason": "a" * 501}, "reason"),
            ({"for_seconds": 60, "reason": "a\nb"}, "reason"),
            ({"for_seconds": 60, "reason": "a", "by": ""}, "by"),
            ([], "body"),
        ],
    )
    async def test_bad_overrides_are_400_and_change_nothing(self, service, body, field):
        answer = await service.http.post(f"{FLEET}/brake/override", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(f"{field}: ")
        assert service.views.override is None
        assert service.views.wakes == 0

    async def test_no_number_at_all(self, service):
        for text in (
            '{"for_seconds": Infinity, "reason": "a"}',
            '{"for_seconds": 1e999, "reason":"a"}',
        ):
            answer = await service.http.post(f"{FLEET}/brake/override", content=text)
            assert answer.status_code == 400

    async def test_pages_of_other_sites_may_not_override_it(self, service):
        answer = await service.http.post(
            f"{FLEET}/brake/override",
            json={"for_seconds": 60, "reason": "a"},
            headers={"sec-fetch-site": "cross-site"},
        )
        assert answer.status_code == 403
        assert service.views.override is None


class TestWithATokenOfOperators:
    @pytest.fixture
    def tokens(self) -> tuple[str, ...]:
        return ("state",)

    @pytest.fixture
    def operator_tokens(self) -> tuple[str, ...]:
        return ("operator",)

    @pytest.mark.parametrize(
        "path",
        [
            *("guard/confirm", "guard/adopt", "brake/override", "brake/clear"),
            *("nodes/cordon", "nodes/uncordon", "pause/begin", "pause/end"),
            *("orders/failover", "orders/failback", "orders/retry"),
        ],
    )
    @pytest.mark.parametrize("header", [{}, {"authorization": "Bearer state"}])
    async def test_changes_need_it(self, service, fleet, path, header):
        await fleet.hold(all=0)
        body = {"processors": "all", "for_seconds": 60, "reason": "a", "node": "edge-1"}
        body["processor"] = str(uuid4())
        answer = await service.http.post(f"{FLEET}/{path}", json=body, headers=header)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert service.views.wakes == 0

    async def test_and_are_made_with_it(self, service, fleet):
        await fleet.hold(all=0)
        answer = await service.http.post(
            f"{FLEET}/guard/confirm", json={}, headers={"authorization": "Bearer operator"}
        )
        assert answer.status_code == 200
        answer = await service.http.post(
            f"{FLEET}/brake/override",
            json={"for_seconds": 60, "reason": "a"},
            headers={"authorization": "Bearer operator"},
        )
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "path", ["/nodes", "/processors", "/events", "/moves", "/guard", "/brake", "/summary"]
    )
    async def test_reading_is_open(self, service, path):
        await get(service, path)


class TestCordon:
    async def test_it_and_its_end(self, service, fleet):
        await fleet.add_node("edge-1", organization_id=uuid4())
        body = {"node": "edge-1", "reason": "a new disk", "by": "eva"}
        answer = await service.http.post(f"{FLEET}/nodes/cordon", json=body)
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "node": "edge-1",
                "cordoned": True,
                "changed": True,
                "message": "it gets no new work, and nothing comes home to it; what runs there"
                " stays",
            },
        )
        answer = await service.http.post(f"{FLEET}/nodes/cordon", json=body)
        assert (answer.json()["changed"], answer.json()["message"]) == (
            *(False, "it was cordoned already"),
        )
        body = {"node": "edge-1", "organization": str(service.views.nodes[0].organization_id)}
        answer = await service.http.post(f"{FLEET}/nodes/uncordon", json=body)
        assert (answer.json()["cordoned"], answer.json()["changed"]) == (False, True)

    async def test_what_cannot_be_is_refused_with_a_reason(self, service, fleet):
        body = {"node": "nowhere", "reason": "a"}
        answer = await service.http.post(f"{FLEET}/nodes/cordon", json=body)
        assert (answer.status_code, answer.json()) == (
            409,
            {"error": "node: there is no edge node nowhere"},
        )
        for wrong in ({}, {"node": "a"}, {"node": "", "reason": "a"}, {"node": "a", "reason": ""}):
            answer = await service.http.post(f"{FLEET}/nodes/cordon", json=wrong)
            assert answer.status_code == 400
