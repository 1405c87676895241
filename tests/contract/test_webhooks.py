"""How far webhooks are, and dead letters; run over PostgreSQL and over the doubles that other
tests use."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.contract.fleet_worlds import FleetWorld, MemoryFleet, PostgresFleet
from tests.contract.worlds import connected
from tests.patience import patient
from tests.webhooks_double import MemoryWebhooks

from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    DeadLetterQuery,
    EventQuery,
    EventView,
    FleetViews,
    Lease,
    LeaseLost,
    OperatorRefused,
    WebhookProgress,
    WebhookStore,
    WebhookTarget,
    WebhookView,
)
from dory_orchestrator.store.postgres import PostgresStore
from dory_orchestrator.store.views import PostgresViews

A = WebhookTarget("a", "https://a.example/in", ["*"])
B = WebhookTarget("b", "https://b.example/in", ["node_*", "failover"])


@dataclass
class World:
    fleet: FleetWorld
    store: WebhookStore
    lease: Lease
    leave_out: Any
    """Makes a webhook that is left out so many seconds older."""

    @property
    def views(self) -> FleetViews:
        return self.fleet.views

    async def tell(self, count: int = 1, **values: Any) -> list[EventView]:
        for number in range(count):
            await self.fleet.tell("create", f"r{number}", **values)
        page = await self.views.list_events(EventQuery(limit=count))
        return list(reversed(page.events))

    async def bury(self, event: EventView, name: str = "a", **values: Any) -> None:
        settled: dict[str, Any] = {
            "tries": 1,
            "error": "answered 400",
            "letters_max": 10,
            "tell": False,
        }
        await self.store.bury(self.lease, name, event, **(settled | values))

    async def shown(self, name: str = "a") -> WebhookView:
        return {hook.name: hook for hook in await self.views.list_webhooks()}[name]

    async def letters(self, **query: Any) -> list[tuple[str, int]]:
        page = await self.views.list_dead_letters(DeadLetterQuery(**query))
        return [(letter.webhook, letter.event.id) for letter in page.dead_letters]


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        memory = MemoryFleet()
        lease = Lease("me", 1)

        async def leave_out_in_memory(name: str, seconds: float) -> None:
            memory.views.hooks[name].removed_at -= timedelta(seconds=seconds)

        store = MemoryWebhooks(memory.views, lease)
        yield World(memory, store, lease, leave_out_in_memory)
        return
    url = request.getfixturevalue("database_url")
    views = PostgresViews(url, metrics=Metrics(), timeout_seconds=patient(5))
    postgres = PostgresStore(url, metrics=Metrics(), pool_size=2, timeout_seconds=patient(5))
    async with connected(url) as connection:

        async def leave_out(name: str, seconds: float) -> None:
            await connection.execute(
                "UPDATE orchestrator.webhooks"
                " SET removed_at = removed_at - make_interval(secs => $2) WHERE name = $1",
                name,
                seconds,
            )

        term = await postgres.hold_lease("me", None, 60)
        assert term is not None
        yield World(PostgresFleet(views, connection), postgres, Lease("me", term), leave_out)
    await views.close()
    await postgres.close()


async def test_of_none_there_are_none(world):
    assert await world.store.open_webhooks(world.lease, []) == {}
    assert list(await world.views.list_webhooks()) == []
    assert await world.letters() == []
    assert list(await world.store.due_letters("a", 10)) == []


async def test_a_new_one_begins_behind_the_newest_event(world):
    (*_, newest) = await world.tell(3)
    found = await world.store.open_webhooks(world.lease, [A])
    assert found == {"a": WebhookProgress(newest.id, 0, 0.0)}
    shown = await world.shown()
    assert (shown.url, list(shown.kinds), shown.lag_events) == (A.url, ["*"], 0)
    assert (shown.lag_seconds, shown.failures, shown.dead_letters, shown.dropped) == (0, 0, 0, 0)


async def test_what_it_has_not_had_yet_is_its_lag(world):
    await world.store.open_webhooks(world.lease, [A])
    at = datetime.now(UTC) - timedelta(seconds=100)
    events = await world.tell(2, at=at)
    shown = await world.shown()
    assert shown.lag_events == 2
    assert 100 <= shown.lag_seconds < 110
    await world.store.pass_events(world.lease, "a", events[1].id, delivered=False)
    shown = await world.shown()
    assert (shown.lag_events, shown.lag_seconds, shown.delivered_at) == (0, 0, None)


async def test_the_next_leader_goes_on_where_the_last_one_was(world):
    await world.store.open_webhooks(world.lease, [A])
    events = await world.tell(2)
    await world.store.pass_events(world.lease, "a", events[0].id, delivered=True)
    await world.store.record_failure(
        world.lease, "a", tries=3, error="answered 500", wait_seconds=60
    )
    shown = await world.shown()
    assert (shown.failures, shown.last_error, shown.lag_events) == (1, "answered 500", 1)
    assert shown.delivered_at is not None
    assert shown.last_error_at is not None
    assert shown.next_try_at is not None
    assert 55 < (shown.next_try_at - datetime.now(UTC)).total_seconds() <= 61
    found = (await world.store.open_webhooks(world.lease, [A]))["a"]
    assert (found.position, found.tries) == (events[0].id, 3)
    assert 55 < found.wait_seconds <= 60

    await world.store.pass_events(world.lease, "a", events[1].id, delivered=True)
    shown = await world.shown()
    assert (shown.failures, shown.last_error, shown.next_try_at) == (0, "answered 500", None)
    found = (await world.store.open_webhooks(world.lease, [A]))["a"]
    assert found == WebhookProgress(events[1].id, 0, 0.0)


async def test_nobody_goes_back(world):
    events = await world.tell(2)
    await world.store.open_webhooks(world.lease, [A])
    await world.store.pass_events(world.lease, "a", events[0].id, delivered=True)
    assert (await world.store.open_webhooks(world.lease, [A]))["a"].position == events[1].id


async def test_settings_change(world):
    await world.store.open_webhooks(world.lease, [A, B])
    await world.tell()
    moved = WebhookTarget("a", "https://else.example/", ["create"])
    await world.store.open_webhooks(world.lease, [moved])
    (shown,) = await world.views.list_webhooks()
    assert (shown.name, shown.url, list(shown.kinds)) == ("a", moved.url, ["create"])
    assert shown.lag_events == 1


@pytest.mark.parametrize(("hours", "begins_anew"), [(23, False), (25, True)])
async def test_one_that_is_left_out_for_a_day_is_forgotten(world, hours, begins_anew):
    before = (await world.store.open_webhooks(world.lease, [A, B]))["b"].position
    (event,) = await world.tell()
    await world.bury(event, "b")
    await world.store.open_webhooks(world.lease, [A])
    assert await world.letters() == []
    await world.leave_out("b", hours * 3600)
    await world.store.forget_dead_letters(3600)
    (newest,) = await world.tell()
    found = (await world.store.open_webhooks(world.lease, [A, B]))["b"].position
    assert found == (newest.id if begins_anew else event.id) > before
    assert await world.letters() == ([] if begins_anew else [("b", event.id)])


async def test_what_is_dead_is_told_and_passed(world):
    await world.store.open_webhooks(world.lease, [A])
    key = uuid4()
    (event,) = await world.tell(processor_id=key)
    await world.bury(event, tries=8, error="answered 500, 8 times", tell=True)
    (letter,) = (await world.views.list_dead_letters(DeadLetterQuery())).dead_letters
    assert (letter.webhook, letter.event, letter.tries) == ("a", event, 8)
    assert (letter.error, letter.retrying) == ("answered 500, 8 times", False)
    shown = await world.shown()
    assert (shown.dead_letters, shown.failures) == (1, 1)
    assert shown.last_error == "answered 500, 8 times"
    assert (await world.store.open_webhooks(world.lease, [A]))["a"].position == event.id
    (told,) = (await world.views.list_events(EventQuery(kind="webhook"))).events
    assert (told.reason, told.term) == ("dead_letter", world.lease.term)
    assert told.detail == f"a does not take event {event.id}: answered 500, 8 times"


async def test_two_leaders_bury_once(world):
    await world.store.open_webhooks(world.lease, [A])
    (event,) = await world.tell()
    for _ in range(2):
        await world.bury(event)
    assert await world.letters() == [("a", event.id)]


async def test_too_many_dead_letters_are_dropped_and_counted(world):
    await world.store.open_webhooks(world.lease, [A, B])
    events = await world.tell(5)
    await world.bury(events[0], "b")
    for event in events:
        await world.bury(event, letters_max=3)
    assert await world.letters(webhook="a") == [("a", e.id) for e in reversed(events[2:])]
    assert await world.letters(webhook="b") == [("b", events[0].id)]
    assert ((await world.shown()).dropped, (await world.shown("b")).dropped) == (2, 0)


async def test_dead_letters_in_pages(world):
    await world.store.open_webhooks(world.lease, [A, B])
    events = await world.tell(3)
    for event in events:
        for name in "ab":
            await world.bury(event, name)
    expected = [(name, event.id) for event in reversed(events) for name in "ab"]
    found: list[tuple[str, int]] = []
    after = None
    while True:
        query = DeadLetterQuery(limit=2, after=after)
        page = await world.views.list_dead_letters(query)
        found += [(letter.webhook, letter.event.id) for letter in page.dead_letters]
        if not page.more:
            break
        after = (found[-1][1], found[-1][0])
    assert found == expected
    assert await world.letters(webhook="c") == []


async def test_an_operator_has_some_sent_once_more(world):
    await world.store.open_webhooks(world.lease, [A, B])
    events = await world.tell(3)
    for event in events:
        await world.bury(event)
    await world.bury(events[0], "b")
    ids = [events[2].id, events[0].id, events[0].id]
    assert await world.views.retry_dead_letters("a", ids, "ann") == 2
    due = list(await world.store.due_letters("a", 10))
    assert due == [events[0], events[2]]
    assert list(await world.store.due_letters("a", 1)) == [events[0]]
    assert list(await world.store.due_letters("b", 10)) == []
    (told,) = (await world.views.list_events(EventQuery(kind="webhook"))).events
    assert (told.reason, told.detail) == ("retry", "ann has 2 events sent to a once more")

    await world.store.end_letter(world.lease, "a", events[0].id, None)
    await world.store.end_letter(world.lease, "a", events[2].id, "answered 410")
    assert list(await world.store.due_letters("a", 10)) == []
    letters = (await world.views.list_dead_letters(DeadLetterQuery(webhook="a"))).dead_letters
    assert [(x.event.id, x.tries, x.error, x.retrying) for x in letters] == [
        (events[2].id, 2, "answered 410", False),
        (events[1].id, 1, "answered 400", False),
    ]
    assert await world.views.retry_dead_letters("a", None, "ann") == 2
    await world.store.put_back_letters(world.lease, "a", "no answer")
    letters = (await world.views.list_dead_letters(DeadLetterQuery(webhook="a"))).dead_letters
    assert [(x.tries, x.error, x.retrying) for x in letters] == [
        (2, "no answer", False),
        (1, "no answer", False),
    ]


async def test_what_there_is_not_is_not_sent(world):
    await world.store.open_webhooks(world.lease, [A, B])
    events = await world.tell(2)
    await world.bury(events[0])
    for webhook, ids, error in (
        ("c", None, "webhook: there is no webhook c"),
        ("b", None, "webhook: b has no dead letters"),
        ("a", [events[0].id, events[1].id], f"ids: no dead letters of a: {events[1].id}"),
    ):
        with pytest.raises(OperatorRefused) as caught:
            await world.views.retry_dead_letters(webhook, ids, "ann")
        assert str(caught.value) == error
    assert list(await world.store.due_letters("a", 10)) == []
    assert list((await world.views.list_events(EventQuery(kind="webhook"))).events) == []


async def test_dead_letters_live_as_long_as_their_events(world):
    await world.store.open_webhooks(world.lease, [A])
    (old,) = await world.tell(at=datetime.now(UTC) - timedelta(hours=2))
    (new,) = await world.tell()
    for event in (old, new):
        await world.bury(event)
    await world.store.forget_dead_letters(3600)
    assert await world.letters() == [("a", new.id)]
    assert (await world.shown()).dead_letters == 1


async def test_only_who_leads_writes(world):
    await world.store.open_webhooks(world.lease, [A])
    (event,) = await world.tell()
    other = Lease(world.lease.holder, world.lease.term + 1)
    store = world.store
    for call in (
        lambda: store.open_webhooks(other, [B]),
        lambda: store.pass_events(other, "a", event.id, delivered=True),
        lambda: store.record_failure(other, "a", tries=1, error="", wait_seconds=1),
        lambda: store.bury(other, "a", event, tries=1, error="", letters_max=1, tell=True),
        lambda: store.end_letter(other, "a", event.id, None),
        lambda: store.put_back_letters(other, "a", ""),
    ):
        with pytest.raises(LeaseLost):
            await call()
    shown = await world.shown()
    assert (shown.name, shown.lag_events, shown.failures) == ("a", 1, 0)
    assert await world.letters() == []
