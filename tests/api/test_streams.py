"""Events as streams, over real connections: what is seen, and what one who reads badly costs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from structlog.testing import capture_logs
from tests.patience import patient
from tests.views_double import MemoryViews

from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.fleet import FleetApi
from dory_orchestrator.api.following import Follower, Viewer, history
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.protocol import Connections
from dory_orchestrator.api.server import Server, listen, make_server, url_of
from dory_orchestrator.api.service import build
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import EventPage, EventQuery, EventView, StoreUnavailable

pytestmark = pytest.mark.real

STREAM = "/api/v1/fleet/events/stream"
EXPORT = "/api/v1/fleet/events/export"


class CountingViews(MemoryViews):
    """Counts readings of events."""

    reads = 0

    async def list_events(self, query: EventQuery) -> EventPage:
        self.reads += 1
        return await super().list_events(query)


@dataclass
class Site:
    url: str
    views: CountingViews
    fleet: FleetApi
    server: Server
    shared: Connections
    http: aiohttp.ClientSession

    def follow(self, headers: Any = None, **query: Any) -> Any:
        return self.http.get(self.url + STREAM, params=query, headers=headers)

    async def export(self, **query: Any) -> list[Any]:
        async with self.http.get(self.url + EXPORT, params=query) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/x-ndjson"
            assert answer.headers["transfer-encoding"] == "chunked"
            return [json.loads(line) for line in (await answer.text()).splitlines()]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    metrics, views = Metrics(), CountingViews()
    fleet = FleetApi(views, tokens=Tokens(()), cluster="local")
    fleet.streams.follower.look_seconds = 0.02
    app = build(health=Health(metrics), render_metrics=metrics.render, edge=None, fleet=fleet)
    shared = Connections(metrics=metrics, read_seconds=5.0)
    server = make_server(app, shared=shared, keep_alive_seconds=75)
    sock = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=patient(8))) as http:
        yield Site(url_of(sock), views, fleet, server, shared, http)
    fleet.streams.close()
    server.should_exit = True
    async with asyncio.timeout(patient(5)):
        await serving


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(patient(5)):
        while not condition():
            await asyncio.sleep(0.005)


async def message(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The next message that is no comment and no `retry`; empty at the end of the stream."""
    while True:
        fields: dict[str, str] = {}
        while line := (await answer.content.readline()).decode():
            if line == "\n":
                break
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value
        else:
            return {}
        if "event" in fields:
            return fields


async def ids(answer: aiohttp.ClientResponse, count: int) -> list[int]:
    return [int((await message(answer))["id"]) for _ in range(count)]


class TestFollowing:
    async def test_what_happens_from_now_on(self, site: Site):
        site.views.tell("create", "before")
        async with site.follow() as answer:
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            assert await answer.content.readline() == b"retry: 2000\n"
            event = site.views.tell("delete", "now", "two\nlines", node_name="n")
            found = await message(answer)
            assert (found["id"], found["event"]) == (str(event.id), "delete")
            async with site.http.get(f"{site.url}/api/v1/fleet/events") as listed:
                (newest, _) = (await listed.json())["events"]
            assert json.loads(found["data"]) == newest

    async def test_what_was_missed_comes_first(self, site: Site):
        for _ in range(1200):
            site.views.tell("create", "x")
        async with site.follow(after=3) as answer:
            site.views.tell("create", "x")
            assert await ids(answer, 1198) == list(range(4, 1202))

    async def test_the_header_counts_more_than_the_parameter(self, site: Site):
        for _ in range(5):
            site.views.tell("create", "x")
        async with site.follow({"Last-Event-ID": "3"}, after=1) as answer:
            assert await ids(answer, 2) == [4, 5]

    @pytest.mark.parametrize("text", ["x", "-1", "9" * 19])
    async def test_a_header_that_is_no_id_is_400(self, site: Site, text: str):
        async with site.follow({"Last-Event-ID": text}) as answer:
            assert answer.status == 400
            assert await answer.json() == {"error": "last-event-id: is no id of an event"}

    async def test_an_id_that_is_yet_to_come_is_409(self, site: Site):
        """The database was restored: to wait for it would be a hole."""
        site.views.tell("create", "x")
        async with site.follow(after=2) as answer:
            assert answer.status == 409
            error = (await answer.json())["error"]
            assert error == "after: the newest event is 1: 2 is none yet"
        async with site.follow(after=1) as answer:
            assert answer.status == 200

    async def test_filters(self, site: Site):
        key = UUID(int=1)
        wanted = {"kind": "delete", "node": "n", "reason": "r", "processor": str(key)}

        def tell() -> None:
            site.views.tell("delete", "r", node_name="n", processor_id=key)
            site.views.tell("create", "r", node_name="n", processor_id=key)
            site.views.tell("delete", "other", node_name="n", processor_id=key)
            site.views.tell("delete", "r", node_name="n")
            site.views.tell("delete", "r", processor_id=key)

        tell()
        async with site.follow(None, after=0, **wanted) as answer:
            tell()
            tell()
            assert await ids(answer, 3) == [1, 6, 11]

    async def test_one_reading_for_all_and_none_for_nobody(self, site: Site):
        answers = [await site.follow() for _ in range(20)]
        for answer in answers:
            await answer.content.readline()
        site.views.tell("create", "x")
        for answer in answers:
            assert await ids(answer, 1) == [1]
        began, site.views.reads = asyncio.get_running_loop().time(), 0
        await eventually(lambda: site.views.reads >= 5)
        elapsed = asyncio.get_running_loop().time() - began
        assert site.views.reads <= elapsed / 0.02 + 1
        for answer in answers:
            answer.close()
        await eventually(lambda: site.fleet.streams.follower._task is None)
        site.views.reads = 0
        await asyncio.sleep(0.1)
        assert site.views.reads == 0
        # And it begins again.
        async with site.follow() as answer:
            await answer.content.readline()
            site.views.tell("create", "x")
            assert await ids(answer, 1) == [2]

    async def test_too_many_are_503(self, site: Site):
        answers = [await site.follow() for _ in range(50)]
        async with site.follow() as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"] == "5"
            assert await answer.json() == {"error": "events: 50 follow them already"}
        answers.pop().close()

        async def is_let_in() -> bool:
            async with site.follow() as answer:
                return bool(answer.status == 200)

        async with asyncio.timeout(patient(5)):
            while not await is_let_in():
                await asyncio.sleep(0.01)
        for answer in answers:
            answer.close()

    async def test_a_store_that_is_away_ends_nobody(self, site: Site):
        async with site.follow() as answer:
            await answer.content.readline()
            site.views.error = StoreUnavailable("gone")
            before = site.views.reads
            with capture_logs() as logs:
                await eventually(lambda: site.views.reads >= before + 3)
            assert len([one for one in logs if one["log_level"] == "warning"]) == 1
            site.views.error = None
            site.views.tell("create", "x")
            assert await ids(answer, 1) == [1]

    async def test_a_comment_shows_that_it_lives(self, site: Site):
        site.fleet.streams.quiet_seconds = 0.05
        async with site.follow() as answer:
            lines = [await answer.content.readline() for _ in range(3)]
            assert lines == [b"retry: 2000\n", b"\n", b": nothing new\n"]

    async def test_head_has_no_body_and_an_end(self, site: Site):
        for path, kind in ((STREAM, "text/event-stream"), (EXPORT, "application/x-ndjson")):
            async with site.http.head(site.url + path) as answer:
                assert answer.status == 200
                assert answer.headers["content-type"].startswith(kind)

    async def test_shutdown_ends_it_at_once(self, site: Site):
        async with site.follow() as answer:
            await answer.content.readline()
            began = asyncio.get_running_loop().time()
            site.fleet.streams.close()
            assert await message(answer) == {}
            assert asyncio.get_running_loop().time() - began < 0.5
        async with site.follow() as answer:
            assert answer.status == 503
            assert "shutting down" in (await answer.json())["error"]


class TestOneWhoIsTooSlow:
    async def test_is_told_where_to_go_on_and_ended(self, site: Site):
        site.fleet.streams.follower.queue_max = 50
        async with site.follow() as answer:
            await answer.content.readline()
            # Until neither the sockets nor the queue takes more.
            for _ in range(4000):
                site.views.tell("create", "x", "d" * 4000)
            follower = site.fleet.streams.follower
            (viewer,) = follower._viewers
            await eventually(lambda: viewer.overrun_id is not None)
            assert len(viewer._queue) <= 50
            seen = []
            while (found := await message(answer))["event"] != "overrun":
                seen.append(int(found["id"]))
            last = seen[-1]
            assert seen == list(range(1, last + 1))
            assert last < 4000
            assert found == {
                "id": str(last),
                "event": "overrun",
                "data": json.dumps({"after": last}, separators=(",", ":")),
            }
            assert await message(answer) == {}
        async with site.follow({"Last-Event-ID": found["id"]}) as answer:
            assert await ids(answer, 1) == [last + 1]

    async def test_one_that_does_not_read_at_all_is_let_go(self, site: Site):
        site.shared.read_seconds = 0.2
        answer = await site.follow()
        await answer.content.readline()
        answer.connection.transport.pause_reading()
        for _ in range(4000):
            site.views.tell("create", "x", "d" * 4000)
        await eventually(lambda: not site.fleet.streams.follower._viewers)
        answer.close()


class TestExporting:
    async def test_nothing(self, site: Site):
        assert await site.export() == []

    async def test_everything_in_order(self, site: Site):
        for _ in range(2500):
            site.views.tell("create", "x")
        found = await site.export()
        assert [event["id"] for event in found] == list(range(1, 2501))
        assert site.views.reads == 3
        async with site.http.get(f"{site.url}/api/v1/fleet/events") as listed:
            assert (await listed.json())["events"][0] == found[-1]

    async def test_filters(self, site: Site):
        now = datetime.now(UTC)
        key = UUID(int=1)
        for hours in (30, 20, 10, 1):
            at = now - timedelta(hours=hours)
            site.views.tell("create", "x", at=at, node_name="n", processor_id=key)
            site.views.tell("delete", "x", at=at)
        since, until = ((now - timedelta(hours=h)).isoformat() for h in (20, 1))
        for query, expected in (
            ({"since": since}, [3, 4, 5, 6, 7, 8]),
            ({"until": until}, [1, 2, 3, 4, 5, 6]),
            ({"since": since, "until": until}, [3, 4, 5, 6]),
            ({"since": since, "kind": "delete"}, [4, 6, 8]),
            ({"node": "n"}, [1, 3, 5, 7]),
            ({"processor": str(key), "until": until}, [1, 3, 5]),
        ):
            assert [event["id"] for event in await site.export(**query)] == expected

    async def test_with_the_decisions_if_asked_for(self, site: Site):
        decision = {
            "outcome": "create",
            "reason": "x",
            "detail": "",
            "facts": {},
            "rules": [],
            "candidates": [],
            "other_candidates": {},
        }
        site.views.tell("create", "x", explanation=decision)
        (bare,), (told,) = await site.export(), await site.export(explained="true")
        assert (bare["explanation"], told["explanation"]) == (None, decision)
        async with site.http.get(site.url + EXPORT, params={"explained": "perhaps"}) as answer:
            assert answer.status == 400

    async def test_it_ends_though_events_go_on(self, site: Site):
        for _ in range(1500):
            site.views.tell("create", "x")
        async with site.http.get(site.url + EXPORT) as answer:
            await answer.content.readline()
            site.views.tell("create", "late")
            assert b"late" not in await answer.read()

    async def test_one_that_cannot_be_completed_is_cut(self, site: Site):
        for _ in range(2500):
            site.views.tell("create", "x")
        site.views.failing_behind = 1000
        async with site.http.get(site.url + EXPORT) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()

    async def test_a_shutdown_cuts_it(self, site: Site):
        for _ in range(5000):
            site.views.tell("create", "x", "d" * 2000)
        async with site.http.get(site.url + EXPORT) as answer:
            await answer.content.readline()
            site.fleet.streams.close()
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()

    async def test_too_many_are_503(self, site: Site):
        for _ in range(5000):
            site.views.tell("create", "x", "d" * 2000)
        answers = [await site.http.get(site.url + EXPORT) for _ in range(4)]
        async with site.http.get(site.url + EXPORT) as answer:
            assert answer.status == 503
            assert await answer.json() == {"error": "events: 4 exports are under way"}
        for answer in answers:
            answer.close()
        await eventually(lambda: site.fleet.streams._exports == 0)


async def test_a_statement_looks_at_few_ids_however_few_events_are_wanted():
    views = CountingViews()
    for _ in range(3):
        views.tell("create", "x")
    views.events[2] = views.events[2].__class__(
        **{name: getattr(views.events[2], name) for name in EventView.__slots__} | {"id": 50_000}
    )
    found = [
        [event.id for event in page]
        async for page in history(views, EventQuery(after_id=0), 50_000, asyncio.Lock())
    ]
    assert found == [[1, 2], [], [50_000]]


async def test_a_defect_ends_the_viewers_and_is_told():
    class Broken(MemoryViews):
        async def list_events(self, query: EventQuery) -> EventPage:
            raise RuntimeError("a defect")

    follower = Follower(Broken())
    viewer: Viewer = await follower.join(EventQuery())
    assert list(await viewer.take(1, wait_seconds=5)) == []
    assert viewer.is_ended
    follower.leave(viewer)
