"""The page in process, over the views in memory."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import httpx
import pytest
from tests.api.conftest import NOBODY, Service
from tests.contract.fleet_worlds import MemoryFleet
from tests.leader_double import ONE, a_leader
from tests.patience import patient

from dory_orchestrator.api.page.decisions import DECISIONS
from dory_orchestrator.api.page.live import LOOK_SECONDS, VIEWERS_MAX, event
from dory_orchestrator.api.page.sessions import (
    FAILURES_MAX,
    SESSION_SECONDS,
    Attempts,
    Sessions,
    TooManyFailures,
)
from dory_orchestrator.core.directive import BeatFacts
from dory_orchestrator.ports import StoreTimeout, StoreUnavailable

TOKEN = "the operators' secret".replace(" ", "-")
HTMX = {"HX-Request": "true"}
READS = (
    *("/", "/page/map", "/page/moves", "/page/processors", "/page/brake", "/page/guard"),
    *("/page/pause", "/page/plan"),
)


@pytest.fixture
def fleet(service: Service) -> MemoryFleet:
    world = MemoryFleet()
    world.views = service.views
    world.views.leader = "a"
    return world


async def text_of(service: Service, path: str, status: int = 200, **query: Any) -> str:
    answer = await service.http.get(path, params=query or None)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    return answer.text


def plain(html: str) -> str:
    """What is read of it."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


class TestReading:
    async def test_an_empty_fleet(self, service, fleet):
        text = plain(await text_of(service, "/"))
        assert "No processor is desired." in text
        assert "No node is known." in text
        assert "No move yet." in text

    async def test_nodes_processors_and_moves(self, service, fleet):
        await fleet.add_node("edge-1", kind="edge", organization_id=uuid4(), health="offline")
        await fleet.add_node("cloud-1", kind="application")
        key = await fleet.add_processor("camera", state="running", node="cloud-1")
        await fleet.send_away(key, "edge-1")
        await fleet.move(key, to_node="cloud-1", outcome="done")
        html = await text_of(service, "/")
        text = plain(html)
        assert "The only processor runs. 1 edge node is dead: edge-1. 1 lives away" in text
        assert "✖ offline" in text
        assert "camera , running" in text
        assert "→ cloud-1" in text
        assert "lost at most 5.0 s of state, away 30 s" in text
        assert "✓ database" in text
        assert f'href="/page/processor?id={key}"' in html

    async def test_the_database_does_not_answer(self, service, fleet):
        service.views.error = StoreTimeout("slow")
        text = plain(await text_of(service, "/", 503))
        assert "The database does not answer." in text
        for path in READS[1:]:
            assert "The database does not answer." in plain(await text_of(service, path, 503))

    async def test_headers_of_every_page(self, service, fleet):
        key = await fleet.add_processor("a", state="running")
        paths = (*READS, f"/page/processor?id={key}", "/page/node?name=none", "/session")
        for path in paths:
            headers = (await service.http.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("path", [*READS, "/live"])
    async def test_other_methods_are_refused(self, service, path):
        answer = await service.http.put(path)
        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]

    async def test_nothing_of_it_stands_in_the_description_of_the_api(self, service):
        document = (await service.http.get("/openapi.json")).json()
        assert not [path for path in document["paths"] if path.startswith(("/page", "/session"))]

    async def test_what_is_left_out_is_counted_and_linked(self, service, fleet):
        for number in range(45):
            await fleet.add_node(f"n{number:02}", kind="edge")
            await fleet.add_processor(f"p{number:02}", state="running", node=f"n{number:02}")
        for number in range(20):
            await fleet.add_processor(f"q{number:02}", state="running", node="n00")
        html = await text_of(service, "/")
        assert "5 more nodes, all well, 5 processors run" in html
        assert 'href="/?nodes=40#nodes-title"' in html
        assert "5 more here" in html
        assert "n44" not in html
        second = await text_of(service, "/", nodes=40)
        assert "Nodes 41 to 45 of 45" in plain(second)
        assert "n44" in second
        assert "more nodes" not in plain(second)
        assert 'hx-get="/page/map?nodes=40"' in second
        everything = await text_of(service, "/page/processors", node="n00")
        assert everything.count("/page/processor?") == 21

    async def test_processors_by_pages(self, service, fleet):
        for number in range(105):
            await fleet.add_processor(f"p{number:03}", state="running", node="n1")
        first = await text_of(service, "/page/processors")
        (link,) = re.findall(r'href="(/page/processors\?[^"]*)"', first)
        second = await text_of(service, link.replace("&amp;", "&"))
        assert re.findall(r">(p\d+)</a>", second) == [f"p{n:03}" for n in range(100, 105)]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({}, "dcba"),
            ({"kind": "failback"}, "c"),
            ({"outcome": "open"}, "d"),
            ({"outcome": "done"}, "cba"),
            ({"node": "edge-2"}, "b"),
            ({"processor": "a"}, "a"),
            ({"processor": "nobody"}, ""),
            ({"kind": "nonsense"}, "dcba"),
        ],
    )
    async def test_moves_are_filtered(self, service, fleet, query, expected):
        for name in "abcd":
            key = await fleet.add_processor(name, state="running")
            await fleet.move(
                key,
                kind="failback" if name == "c" else "failover",
                from_node="edge-2" if name == "b" else "edge-1",
                outcome=None if name == "d" else "done",
            )
        html = await text_of(service, "/page/moves", **query)
        assert re.findall(r'id="v-\d+"[^>]*>(\w+)</a>', html) == list(expected)
        whole = await text_of(service, "/", **query)
        assert re.findall(r'id="v-\d+"[^>]*>(\w+)</a>', whole) == list(expected)

    async def test_earlier_moves_are_linked(self, service, fleet):
        for _ in range(30):
            await fleet.move(uuid4(), outcome="done")
        html = await text_of(service, "/")
        assert 'href="/?before=6#timeline"' in html
        earlier = await text_of(service, "/", before=6)
        assert re.findall(r'id="v-(\d+)"', earlier) == ["5", "4", "3", "2", "1"]


class TestDetails:
    async def test_a_processor(self, service, fleet):
        key = await fleet.add_processor("camera", state="held", reason="brake_held", node="edge-1")
        await fleet.tell("failover", "node_dead", processor_id=key)
        await fleet.move(key, outcome="done")
        text = plain(await text_of(service, "/page/processor", id=key))
        assert "camera" in text
        assert "held (brake held)" in text
        assert "failover node dead" in text
        assert "lost at most 5.0 s of state" in text

    async def test_a_node(self, service, fleet):
        await fleet.add_node("a/b&c", kind="edge", organization_id=uuid4(), cordon="a new disk")
        await fleet.add_processor("p", state="running", node="a/b&c")
        html = await text_of(service, "/")
        link = re.search(r'href="(/page/node\?[^"]*)"', html)
        assert link is not None
        text = plain(await text_of(service, link[1].replace("&amp;", "&")))
        assert "a/b&amp;c" in text
        assert "a new disk" in text
        assert "Uncordon" in text

    async def test_a_move(self, service, fleet):
        key = await fleet.add_processor("camera", state="running")
        number = await fleet.move(key, to_node="cloud-1", outcome="done")
        text = plain(await text_of(service, "/page/move", id=number))
        assert "Failover of camera" in text
        assert "Last sign of life" in text
        assert "-20.0 s" in text
        assert "+9.0 s" in text

    @pytest.mark.parametrize(
        "path",
        [
            "/page/processor?id=nonsense",
            f"/page/processor?id={NOBODY}",
            "/page/node?name=nowhere",
            "/page/move?id=7",
            "/page/move",
            "/page/decide/nothing",
        ],
    )
    async def test_what_is_not_there(self, service, fleet, path):
        assert "no such" in await text_of(service, path, 404)

    async def test_beside_the_map_it_is_no_page_of_its_own(self, service, fleet):
        alone = await service.http.get("/page/brake")
        beside = await service.http.get("/page/brake", headers=HTMX)
        assert "<html" in alone.text
        assert "<html" not in beside.text
        assert beside.text.lstrip().startswith("<h2")

    async def test_an_explanation_in_full(self, service):
        rule = {
            "rule": "brake_held",
            "question": "Does the mass-failure brake hold?",
            "held": True,
            "numbers": {"suspect_nodes": 1},
        }
        decision = {
            "outcome": "moving",
            "reason": "node_dead",
            "detail": "because",
            "facts": {"silent_seconds": 92.1},
            "rules": [rule, {**rule, "held": False, "question": "Is <b>it</b> deaf?"}],
            "candidates": [
                {"node": "cloud-1", "chosen": True, "why_not": None},
                {"node": "cloud-2", "chosen": False, "why_not": "less_utilised"},
            ],
            "other_candidates": {"selector": 7},
        }
        told = {"kind": "failover", "reason": "node_dead", "detail": "", "at": datetime.now(UTC)}
        html = service.page._renderer.render(
            "explanation.html",
            now=datetime.now(UTC),
            explanation={
                "live": True,
                "at": None,
                "subject": "processor",
                "id": "1",
                "name": "a",
                "decision": decision,
                "because": [{"subject": "node", "name": "edge-1", "decision": decision}],
                "events": [{**told, "processor_name": "a", "explanation": decision}],
            },
        )
        text = plain(html)
        assert "silent seconds 92.1" in text
        assert "Does the mass-failure brake hold? brake_held ✓ yes suspect nodes 1" in text
        assert "✓ chosen" in text
        assert "less utilised" in text
        assert "&lt;b&gt;it" in html
        assert html.count("<summary>Why") == 1
        assert "Because of node edge-1: moving" in text
        assert "7 more selector" in text

    async def test_the_leader_explains_a_processor_and_a_node(self, service, fleet):
        service.views.answer = a_leader()
        await fleet.add_processor("a", key=ONE, state="running", node="edge-1")
        await fleet.add_node("edge-1", kind="edge", organization_id=uuid4())
        text = plain(await text_of(service, f"/page/processor?id={ONE}"))
        assert "Is its pod ready? ready ✓ yes" in text
        assert "Because of node edge-1: online" in text
        text = plain(await text_of(service, "/page/node?name=edge-1"))
        assert "What if it died now?" in text

    async def test_without_a_leader_what_was_found_last_is_told(self, service, fleet):
        service.views.leader = None
        key = await fleet.add_processor("a", state="error", reason="no_active_version")
        text = plain(await text_of(service, f"/page/processor?id={key}"))
        assert "This was found earlier: no leader looks at it now." in text
        assert "no active version" in text

    async def test_a_move_says_why_it_began(self, service, fleet):
        key = await fleet.add_processor("a", state="running")
        number = await fleet.move(key, to_node="cloud-1", outcome="done")
        told: dict[str, Any] = {
            "outcome": "failover",
            "reason": "node_dead",
            "detail": "because it is dead",
        }
        told |= {"facts": {}, "rules": [], "candidates": [], "other_candidates": {}}
        at = service.views.moves[0].began_at
        await fleet.tell("failover", "node_dead", processor_id=key, explanation=told, at=at)
        text = plain(await text_of(service, f"/page/move?id={number}"))
        assert "because it is dead" in text

    async def test_what_a_heartbeat_is_answered(self, service, fleet):
        service.views.beat = BeatFacts(True, True, "terminated")
        text = plain(await text_of(service, f"/page/directive?id={ONE}"))
        assert "shutdown : a heartbeat of it from no node is answered shutdown" in text
        assert "Is it terminated or failed? ended ✓ yes status terminated" in text
        await text_of(service, "/page/directive?id=nonsense", 404)

    async def test_what_is_done_next(self, service, fleet):
        assert "No leader answers" in await text_of(service, "/page/plan")
        service.views.answer = a_leader()
        assert "Nothing is to be done now" in await text_of(service, "/page/plan")

    async def test_what_if_a_node_died(self, service, fleet):
        assert "No leader answers" in await text_of(service, "/page/what-if?node=edge-1")
        service.views.answer = a_leader()
        text = plain(await text_of(service, "/page/what-if?node=edge-1"))
        assert "✓ Safe : 2 would move" in text
        assert "move to cloud-1" in text
        await text_of(service, "/page/what-if?node=nowhere", 404)


HOSTILE = "<script>alert(1)</script>\"' onload=x\r\nevent: top\n\x1b[0m\u202e&"


class TestHostileTexts:
    async def test_nothing_of_it_becomes_markup(self, service, fleet):
        key = await fleet.add_processor(HOSTILE, state="error", reason=HOSTILE, node=HOSTILE)
        await fleet.add_node(HOSTILE, kind="edge", organization_id=uuid4(), health="suspect")
        await fleet.tell(HOSTILE, HOSTILE, processor_id=key, node_name=HOSTILE, detail=HOSTILE)
        await fleet.move(key, from_node=HOSTILE, to_node=HOSTILE)
        await fleet.engage(HOSTILE, HOSTILE, population=3)
        pages = [
            *("/", "/page/brake", "/page/processors", f"/page/processor?id={key}"),
            *("/page/move?id=1", f"/page/node?{urlencode({'name': HOSTILE})}"),
            f"/page/decide/cordon?{urlencode({'node': HOSTILE})}",
            f"/?{urlencode({'node': HOSTILE, 'processor': HOSTILE})}",
        ]
        for path in pages:
            html = await text_of(service, path)
            assert "&lt;script&gt;alert" in html, path
            assert "<script>" not in html
            assert "\x1b" not in html
            assert "\u202e" not in html
            assert "\r" not in html

    async def test_nothing_of_it_becomes_an_event(self, service, fleet):
        await fleet.add_node(HOSTILE, kind="edge")
        async with streaming(service) as stream:
            await stream.until("event: map")
            names = {line for line in stream.text.split("\n") if line.startswith("event:")}
        assert names == {f"event: {n}" for n in ("alive", "sentence", "strip", "map", "moves")}

    def test_an_event_has_no_other_line_ends(self):
        assert event("map", "a\r\nb\rc", 3) == b"id: 3\nevent: map\ndata: a\ndata: bc\n\n"

    @pytest.mark.parametrize("query", ["name=%00", "name=a&id=x%00", "name=" + "a" * 5000])
    async def test_strange_queries(self, service, query):
        answer = await service.http.get(f"/page/node?{query}")
        assert answer.status_code in (400, 404)


class TestStaticFiles:
    async def test_each_is_cached_for_ever_by_its_content(self, service):
        html = await text_of(service, "/")
        urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
        assert len(urls) == 4
        for url in urls:
            answer = await service.http.get(url)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-type"].startswith("text/")

    @pytest.mark.parametrize(
        "path",
        [
            *("page.css", "../words.py", "..%2fwords.py", "%2e%2e/words.py", "vendor/README.md"),
            *("page.0000000000000000.css", ""),
        ],
    )
    async def test_there_is_nothing_else(self, service, path):
        assert (await service.http.get(f"/static/{path}")).status_code == 404

    async def test_the_page_asks_for_nothing_from_elsewhere(self, service):
        html = await text_of(service, "/")
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', html)
        assert " style=" not in html
        assert not re.findall(r"<script(?! src=)", html)
        assert not re.findall(r"\son\w+=", html)


# Deciding ------------------------------------------------------------------------------------


async def post(service: Service, path: str, form: dict[str, str], **headers: str) -> httpx.Response:
    content = urlencode(form)
    kind = {"content-type": "application/x-www-form-urlencoded"}
    return await service.http.post(path, content=content, headers=kind | headers)


class TestDecidingWhenAllMay:
    async def test_a_pause_and_its_end(self, service, fleet):
        assert "Nothing is paused" in await text_of(service, "/page/pause")
        form = {"for_seconds": "1800", "reason": "the network is rebuilt", "by": "eva"}
        answer = await post(service, "/page/decide/pause", form)
        assert "Heartbeats go on" in answer.text
        text = plain(await text_of(service, "/page/pause"))
        assert "Everything is paused by eva until" in text
        assert (await post(service, "/page/decide/pause-end", {"by": "eva"})).status_code == 200
        answer = await post(service, "/page/decide/pause-end", {"by": "eva"})
        assert (answer.status_code, "nothing is paused" in answer.text) == (409, True)

    async def test_a_processor_is_sent_away_and_home(self, service, fleet):
        await fleet.add_node("edge-1", kind="edge", organization_id=uuid4(), health="online")
        await fleet.add_node("cloud-1", kind="application")
        key = await fleet.add_processor("a", state="running", node="edge-1")
        await fleet.link(key, "edge-1")
        page = await text_of(service, f"/page/processor?id={key}")
        assert f"/page/decide/failover?processor={key}" in page
        form = {"processor": str(key), "reason": "clean", "by": "eva"}
        answer = await post(service, "/page/decide/failover", form)
        assert "It leaves edge-1 with its state" in answer.text
        answer = await post(service, "/page/decide/failback", form)
        assert "stays at home" in answer.text
        answer = await post(service, "/page/decide/retry", form)
        assert (answer.status_code, "nothing of it waits" in answer.text) == (409, True)

    async def test_cordon_and_back(self, service, fleet):
        organization = uuid4()
        await fleet.add_node("edge-1", kind="edge", organization_id=organization)
        link = f"/page/decide/cordon?node=edge-1&organization={organization}"
        form = await text_of(service, link)
        assert "what runs there stays" in form
        assert "edge-1" in form
        given = {"node": "edge-1", "organization": str(organization), "by": "eva"}
        answer = await post(service, "/page/decide/cordon", {**given, "reason": "a new disk"})
        assert answer.status_code == 200
        assert "edge-1 gets no new work" in answer.text
        assert service.views.nodes[0].cordon_cause == "a new disk"
        assert service.views.events[-1].detail == "by eva: a new disk"
        answer = await post(service, "/page/decide/uncordon", given)
        assert answer.status_code == 200
        assert not service.views.nodes[0].cordoned

    async def test_the_brake(self, service, fleet):
        await fleet.engage("many_suspect", "3 of 4", population=4)
        form = {"for_seconds": "600", "reason": "they are gone", "by": "eva"}
        answer = await post(service, "/page/decide/brake-override", form)
        assert answer.status_code == 200
        assert "does not hold until then" in answer.text
        assert "overridden" in plain(await text_of(service, "/page/brake")).lower()
        answer = await post(service, "/page/decide/brake-clear", {"by": "eva"})
        assert answer.status_code == 200
        answer = await post(service, "/page/decide/brake-clear", {"by": "eva"})
        assert answer.status_code == 409
        assert "not overridden" in answer.text

    async def test_the_guard_with_the_counts_that_were_shown(self, service, fleet):
        await fleet.hold(all=4)
        html = await text_of(service, "/page/decide/guard-confirm")
        groups = re.search(r'name="groups" value="([^"]*)"', html)
        assert groups is not None
        shown = groups[1].replace("&#34;", '"')
        assert json.loads(shown) == {"all": 4}
        await fleet.hold(all=3)
        form = {"groups": shown, "by": "eva"}
        answer = await post(service, "/page/decide/guard-confirm", form)
        assert answer.status_code == 409
        assert "has changed" in answer.text
        assert service.views.confirmed_by is None
        await fleet.hold(all=4)
        assert (await post(service, "/page/decide/guard-confirm", form)).status_code == 200
        assert service.views.confirmed_by == "eva"

    @pytest.mark.parametrize(
        ("name", "form", "words"),
        [
            ("cordon", {"node": "edge-1", "by": "eva"}, "reason: required"),
            ("cordon", {"node": "edge-1", "by": "", "reason": "x"}, "by:"),
            ("cordon", {"node": "edge-1", "by": "e\0", "reason": "x"}, "NUL"),
            ("brake-override", {"for_seconds": "0", "by": "e", "reason": "x"}, "for_seconds"),
            ("brake-override", {"for_seconds": "x", "by": "e", "reason": "x"}, "for_seconds"),
            ("guard-confirm", {"by": "e"}, "groups: required"),
            ("guard-confirm", {"by": "e", "groups": "nonsense"}, "groups"),
            ("guard-confirm", {"by": "e", "groups": "[[" * 9000}, "groups"),
        ],
    )
    async def test_what_is_wrong_is_told_in_the_form(self, service, fleet, name, form, words):
        answer = await post(service, f"/page/decide/{name}", form)
        assert answer.status_code == 400
        assert words in answer.text
        assert "<form" in answer.text
        assert service.views.wakes == 0

    @pytest.mark.parametrize(
        "headers",
        [
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": "http://elsewhere"},
            {"origin": "null"},
            {"origin": "null", "sec-fetch-site": "none"},
            {"origin": "http://elsewhere", "sec-fetch-site": "same-origin"},
        ],
    )
    async def test_pages_of_others_may_not(self, service, fleet, headers):
        form = {"for_seconds": "600", "reason": "x", "by": "eva"}
        answer = await post(service, "/page/decide/brake-override", form, **headers)
        assert answer.status_code == 403
        assert service.views.override is None

    async def test_our_own_may(self, service, fleet):
        form = {"for_seconds": "600", "reason": "x", "by": "eva"}
        for origin in ("http://orchestrator", "null"):
            own = {"sec-fetch-site": "same-origin", "origin": origin}
            answer = await post(service, "/page/decide/brake-override", form, **own)
            assert answer.status_code == 200

    async def test_a_form_too_large(self, service):
        answer = await post(service, "/page/decide/cordon", {"reason": "x" * 70_000})
        assert answer.status_code == 413

    async def test_nothing_is_decided_by_looking(self, service, fleet):
        await fleet.hold(all=0)
        for name in DECISIONS:
            await text_of(service, f"/page/decide/{name}")
        assert service.views.wakes == 0


class TestWithAToken:
    @pytest.fixture
    def operator_tokens(self) -> tuple[str, ...]:
        return (TOKEN,)

    async def log_in(self, service: Service, token: str = TOKEN, **headers: str) -> httpx.Response:
        return await post(service, "/session", {"token": token}, **headers)

    async def test_without_a_session_it_is_to_be_read(self, service, fleet):
        await fleet.add_node("edge-1", kind="edge", organization_id=uuid4())
        assert "Log in to decide" in await text_of(service, "/")
        for path in ("/page/node?name=edge-1", "/page/brake", "/page/guard"):
            html = await text_of(service, path)
            assert "/page/decide" not in html
            assert "You only look." in html
        await text_of(service, "/page/decide/cordon", 401)
        answer = await post(service, "/page/decide/cordon", {"node": "edge-1", "by": "eva"})
        assert answer.status_code == 401

    async def test_a_decision(self, service, fleet):
        await fleet.add_node("edge-1", kind="edge", organization_id=uuid4())
        answer = await self.log_in(service)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "Log out" in await text_of(service, "/")
        assert "/page/decide/cordon" in await text_of(service, "/page/node?name=edge-1")
        html = await text_of(service, "/page/decide/cordon?node=edge-1")
        csrf = re.search(r'name="csrf" value="(\w+)"', html)
        assert csrf is not None
        form = {"node": "edge-1", "reason": "a new disk", "by": "eva"}
        for wrong in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "é"}):
            answer = await post(service, "/page/decide/cordon", form | wrong)
            assert answer.status_code == 403
        assert not service.views.nodes[0].cordoned
        answer = await post(service, "/page/decide/cordon", form | {"csrf": csrf[1]})
        assert answer.status_code == 200
        assert service.views.nodes[0].cordoned

    async def test_the_cookie(self, service):
        cookie = (await self.log_in(service)).headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {*cookie.split("; ")}
        assert f"Max-Age={SESSION_SECONDS}" in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        cookie = (await self.log_in(service, **{"x-forwarded-proto": "https"})).headers[
            "set-cookie"
        ]
        assert "Secure" in cookie

    async def test_logging_out(self, service):
        await self.log_in(service)
        answer = await post(service, "/session/end", {})
        assert answer.status_code == 303
        assert "Log in to decide" in await text_of(service, "/")

    @pytest.mark.looptime
    async def test_guessing_is_slow_and_ends(self, service):
        loop = asyncio.get_running_loop()
        for token in ("", "wrong", TOKEN[:-1], TOKEN + "x", "é"):
            began_at = loop.time()
            answer = await self.log_in(service, token)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
            assert loop.time() - began_at >= 1
        answer = await self.log_in(service)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0

    async def test_pages_of_others_log_nobody_in(self, service):
        answer = await self.log_in(service, **{"sec-fetch-site": "cross-site"})
        assert answer.status_code == 403

    async def test_the_fleet_api_takes_no_session(self, service):
        await self.log_in(service)
        answer = await service.http.post("/api/v1/fleet/brake/clear", json={})
        assert answer.status_code == 401


class TestSessions:
    def test_it_is_good_for_twelve_hours_and_with_every_orchestrator_of_the_token(self):
        now = [1000.0]
        one, other = Sessions(TOKEN, lambda: now[0]), Sessions(TOKEN, lambda: now[0])
        session = one.begin()
        assert other.is_good(session)
        assert other.made_form(session, one.form_token(session))
        now[0] += SESSION_SECONDS - 1
        assert other.is_good(session)
        now[0] += 1
        assert not other.is_good(session)

    def test_nothing_else_is_good(self):
        sessions = Sessions(TOKEN)
        until, rest, proof = sessions.begin().split(".")
        wrong = (
            *(None, "", ".", "..", "a.b.c", f"{int(until) + 1}.{rest}.{proof}"),
            *(f"{until}.{rest}.{proof[:-1]}", f"{until}.{rest}.é", f"{until}.{rest}."),
        )
        assert not [session for session in wrong if sessions.is_good(session)]
        assert not Sessions("another").is_good(sessions.begin())
        assert not Sessions(None).is_good(sessions.begin())
        assert sessions.begin() != sessions.begin()

    async def test_of_many_addresses_the_latest_are_remembered(self):
        attempts = Attempts(lambda: 0.0, penalty_seconds=0.0)
        for number in range(1100):
            async with attempts.one(str(number)) as fail:
                fail()
        assert len(attempts._failures) == 1024
        for _ in range(FAILURES_MAX - 1):
            async with attempts.one("1099") as fail:
                fail()
        with pytest.raises(TooManyFailures):
            async with attempts.one("1099"):
                pass
        async with attempts.one("another"):
            pass


# The stream ----------------------------------------------------------------------------------


@dataclass
class Stream:
    """An open `GET /live`, as its client sees it. While `is_slow` nothing is read."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    pieces: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    running: "asyncio.Task[None] | None" = None

    async def receive(self) -> dict[str, Any]:
        if not self.left.is_set():
            await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            await self.reads.wait()
            self.text += message["body"].decode()
            self.pieces += 1
        self.came.set()

    async def until(self, text: str, limit_seconds: float = 5.0) -> None:
        """Wait until this was read; what was read before is forgotten."""
        async with asyncio.timeout(patient(limit_seconds)):
            while text not in self.text:
                self.came.clear()
                await self.came.wait()

    def forget(self) -> None:
        self.text = ""


@asynccontextmanager
async def streaming(service: Service) -> AsyncIterator[Stream]:
    stream = Stream()
    stream.reads.set()
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/live",
        "raw_path": b"/live",
        "query_string": b"",
        "headers": [],
        "root_path": "",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
    }
    stream.running = asyncio.create_task(service.app(scope, stream.receive, stream.send))  # type: ignore[arg-type]
    try:
        while not stream.status:
            stream.came.clear()
            await stream.came.wait()
        yield stream
    finally:
        stream.left.set()
        stream.reads.set()
        async with asyncio.timeout(patient(5)):
            await stream.running


class TestStream:
    async def test_everything_at_first(self, service, fleet):
        await fleet.add_processor("camera", state="running")
        async with streaming(service) as stream:
            await stream.until("event: moves")
            assert stream.status == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            assert stream.text.startswith("retry: ")
            assert "camera" in stream.text
            for chunk in stream.text.strip("\n").split("\n\n")[1:]:
                for line in chunk.split("\n"):
                    assert re.match(r"(id: \d+|event: \w+|data: ?.*|: alive)$", line), line

    @pytest.mark.looptime
    async def test_later_what_has_changed(self, service, fleet):
        await fleet.add_processor("camera", state="running")
        async with streaming(service) as stream:
            await stream.until("event: moves")
            stream.forget()
            await fleet.add_processor("radar", state="error")
            await stream.until("radar", 2.5)
            assert "event: sentence" in stream.text
            assert "event: moves" not in stream.text

    @pytest.mark.looptime
    async def test_that_it_is_alive(self, service, fleet):
        async with streaming(service) as stream:
            await stream.until("event: moves")
            stream.forget()
            await stream.until(": alive\nevent: alive\n", 11)

    @pytest.mark.looptime
    async def test_all_who_look_share_one_look(self, service, fleet):
        async with AsyncExitStack() as stack:
            for _ in range(20):
                stream = await stack.enter_async_context(streaming(service))
                await stream.until("event: moves")
            await asyncio.sleep(10)
            assert 2 <= service.views.pictures <= 5

    @pytest.mark.looptime
    async def test_nobody_looks_nothing_is_read(self, service, fleet):
        async with streaming(service) as stream:
            await stream.until("event: moves")
        before = service.views.pictures
        await asyncio.sleep(30)
        assert (service.views.pictures, service.page.pictures.viewers) == (before, 0)
        # What was seen then is told to nobody as what is now.
        await fleet.add_processor("radar", state="error")
        async with streaming(service) as stream:
            await stream.until("event: moves")
            assert "radar" in stream.text

    async def test_too_many(self, service, fleet):
        async with AsyncExitStack() as stack:
            for _ in range(VIEWERS_MAX):
                await stack.enter_async_context(streaming(service))
            async with streaming(service) as refused:
                await refused.until("viewers")
                assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        async with streaming(service) as stream:
            await stream.until("event: moves")

    @pytest.mark.looptime
    async def test_who_reads_slowly_gets_the_latest(self, service, fleet):
        async with streaming(service) as stream:
            await stream.until("event: moves")
            stream.reads.clear()
            stream.forget()
            for number in range(5):
                await fleet.add_processor(f"camera-{number}", state="error")
                await asyncio.sleep(1.5)
            stream.reads.set()
            await stream.until("camera-4")
            assert stream.text.count("event: map") <= 2

    @pytest.mark.looptime
    async def test_the_database_breaks_and_comes_back(self, service, fleet):
        await fleet.add_processor("camera", state="running")
        async with streaming(service) as stream:
            await stream.until("The only processor runs.")
            stream.forget()
            service.views.error = StoreUnavailable("gone")
            await stream.until("The database does not answer: what is below was so at", 3)
            assert "event: map" not in stream.text
            stream.forget()
            service.views.error = None
            await stream.until("The only processor runs.", 3)

    @pytest.mark.looptime
    async def test_a_database_that_hangs(self, service, fleet):
        async with streaming(service) as stream:
            await stream.until("event: moves")
            service.views.hold = asyncio.Event()
            await stream.until("The database does not answer", 5)
            service.views.hold.set()
            stream.forget()
            await stream.until("No processor is desired.", 5)

    async def test_of_its_headers_alone_there_is_an_end(self, service, fleet):
        answer = await service.http.head("/live")
        assert (answer.status_code, answer.text) == (200, "")
        assert service.page.pictures.viewers == 0

    async def test_at_the_end_of_the_service(self, service, fleet):
        async with streaming(service) as stream:
            await stream.until("event: moves")
            service.page.close()
            assert stream.running is not None
            async with asyncio.timeout(patient(1)):
                await asyncio.shield(stream.running)
        async with streaming(service) as refused:
            assert refused.status == 503

    @pytest.mark.looptime
    async def test_a_defect_of_ours_lets_viewers_go(self, service, fleet, caplog):
        """They come again, and it is told to the log."""
        async with streaming(service) as stream:
            await stream.until("event: moves")
            service.views.nodes = [object()]
            assert stream.running is not None
            async with asyncio.timeout(patient(5)):
                await asyncio.shield(stream.running)
        service.views.nodes = []
        async with streaming(service) as stream:
            await stream.until("event: moves")


async def test_many_look_at_once(service, fleet):
    """As the whole page: it is read once."""
    answers = await asyncio.gather(*(service.http.get("/") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert service.views.pictures == 1


async def test_so_many_wait_for_the_database_and_no_more(service, fleet):
    service.views.hold = asyncio.Event()
    waiting = [asyncio.create_task(service.http.get("/page/map")) for _ in range(8)]
    await asyncio.sleep(0)
    answer = await service.http.get("/page/map")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "Too many look at once." in answer.text
    service.views.hold.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert (await service.http.get("/page/map")).status_code == 200


@pytest.mark.looptime
async def test_an_old_frame_is_not_shown(service, fleet):
    key = await fleet.add_processor("a", state="running", key=UUID(int=1))
    assert "The only processor runs." in await text_of(service, "/")
    service.views.processors[key] = replace(service.views.processors[key], state="error")
    await asyncio.sleep(LOOK_SECONDS)
    assert "0 of 1 processors run: 1 error." in await text_of(service, "/")


async def test_ages_are_those_of_the_database(service, fleet):
    await fleet.add_node("edge-1", kind="edge", organization_id=uuid4())
    beat_at = datetime.now(UTC) - timedelta(seconds=30)
    service.views.nodes[0] = replace(service.views.nodes[0], last_heartbeat_at=beat_at)
    assert re.search(r"beat\s+[3-5]\d s\s+ago", plain(await text_of(service, "/")))
