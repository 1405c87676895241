"""The leader sends events to webhooks, in order, at least once, and none slows another."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.views_double import MemoryViews
from tests.webhooks_double import MemoryReceivers, MemoryWebhooks

from dory_orchestrator.core.webhook import signature
from dory_orchestrator.loops.webhooks import Webhooks
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    EventView,
    Lease,
    StoreUnavailable,
    WebhookReply,
    WebhookUnreachable,
)
from dory_orchestrator.settings import Settings

pytestmark = pytest.mark.looptime

SECRET = "s" * 32
A, B = "https://a.example/in?key=1", "https://b.example/in"
UNREACHABLE = WebhookUnreachable("no connection: refused")


def hooks(*named: dict[str, Any]) -> Any:
    given = [{"secret": SECRET, **hook} for hook in named]
    return Settings.model_validate({"webhooks": given}).webhooks or ()


class Rig:
    def __init__(self, *named: dict[str, Any]) -> None:
        self.views = MemoryViews()
        self.lease: Lease | None = Lease("leader", 1)
        self.store = MemoryWebhooks(self.views)
        self.receivers = MemoryReceivers()
        self.metrics = Metrics()
        self.began = asyncio.get_running_loop().time()
        self.moment = datetime.now(UTC).timestamp()
        self.named = named or ({"name": "a", "url": A},)
        self.webhooks = self.make(*self.named)

    def make(self, *named: dict[str, Any]) -> Webhooks:
        return Webhooks(
            hooks(*named),
            store=self.store,
            views=self.views,
            sender=self.receivers,
            lease=lambda: self.lease,
            fleet_id=lambda: "f1ee7",
            metrics=self.metrics,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.moment + asyncio.get_running_loop().time() - self.began

    def tell(self, kind: str = "create", **values: Any) -> EventView:
        at = datetime.fromtimestamp(self.clock(), UTC)
        return self.views.tell(kind, "because", **{"at": at, **values})

    def ids(self, url: str = A) -> list[int]:
        """What came, whatever was answered."""
        return [json.loads(body)["id"] for to, body, _ in self.receivers.got if to == url]

    def count(self, outcome: str, name: str = "a") -> float:
        labels = {"webhook": name, "outcome": outcome}
        value = self.metrics.registry.get_sample_value("dory_webhook_deliveries_total", labels)
        return value or 0.0

    def lag(self, name: str = "a") -> float | None:
        registry = self.metrics.registry
        return registry.get_sample_value("dory_webhook_lag_seconds", {"webhook": name})

    async def until(self, done: Callable[[], bool], limit_seconds: float = 30.0) -> None:
        async with asyncio.timeout(limit_seconds):
            while not done():
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running(*named: dict[str, Any]) -> AsyncIterator[Rig]:
    rig = Rig(*named)
    task = asyncio.create_task(rig.webhooks.run())
    try:
        await asyncio.sleep(0.5)
        yield rig
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_events_are_sent_in_order_once_and_soon():
    async with running() as rig:
        for _ in range(250):
            rig.tell()
        await rig.until(lambda: len(rig.ids()) == 250, 3)
        await asyncio.sleep(60)
        assert rig.ids() == list(range(1, 251))
        assert rig.views.hooks["a"].position == 250
        assert rig.count("delivered") == 250
        assert rig.lag() == 0


async def test_counters_begin_at_zero():
    async with running() as rig:
        await rig.until(lambda: rig.lag() == 0)
        labels = {"webhook": "a", "outcome": "dead"}
        found = rig.metrics.registry.get_sample_value("dory_webhook_deliveries_total", labels)
        assert found == 0


async def test_what_is_sent():
    async with running() as rig:
        event = rig.tell("node_offline", node_name="edge-1", detail="no 'beats' \U0001f41f")
        await rig.until(lambda: bool(rig.ids()))
        ((_, body, headers),) = rig.receivers.got
        sent = json.loads(body)
        assert sent.keys() == {"id", "webhook", "fleet_id", "event"}
        assert (sent["id"], sent["webhook"], sent["fleet_id"]) == (event.id, "a", "f1ee7")
        assert list(sent["event"]) == [
            *("id", "at", "kind", "reason", "detail", "processor_id", "processor_name"),
            *("node_name", "pod_name", "pod_uid", "epoch", "term", "explanation", "trace_id"),
        ]
        assert sent["event"]["node_name"] == "edge-1"
        assert sent["event"]["at"].endswith("Z")
        timestamp = int(headers["dory-webhook-timestamp"])
        assert timestamp == pytest.approx(rig.clock(), abs=2)
        assert headers == {
            "content-type": "application/json",
            "dory-webhook-id": str(event.id),
            "dory-webhook-timestamp": str(timestamp),
            "dory-webhook-signature": signature(SECRET, event.id, timestamp, body),
        }


async def test_only_the_kinds_that_are_wanted_and_never_those_about_webhooks():
    async with running(
        {"name": "a", "url": A}, {"name": "b", "url": B, "kinds": ["node_*"]}
    ) as rig:
        for kind in ("create", "node_offline", "webhook", "delete"):
            rig.tell(kind)
        await rig.until(lambda: rig.views.hooks["a"].position == 4)
        await rig.until(lambda: rig.views.hooks["b"].position == 4)
        assert (rig.ids(A), rig.ids(B)) == ([1, 2, 4], [2])


async def test_while_the_receiver_is_down_everything_waits_in_order():
    async with running() as rig:
        rig.receivers.answers[A] = [UNREACHABLE] * 3
        for _ in range(3):
            rig.tell()
        await asyncio.sleep(4)
        hook = rig.views.hooks["a"]
        assert (hook.failures, hook.tries, hook.position) == (2, 2, 0)
        assert hook.last_error == "no connection: refused"
        assert rig.lag() == pytest.approx(4, abs=1.5)
        await rig.until(lambda: len(rig.ids()) == 6)
        assert rig.ids() == [1, 1, 1, 1, 2, 3]
        await rig.until(lambda: hook.position == 3)
        assert (hook.failures, rig.count("failed"), rig.count("delivered")) == (0, 3, 3)
        await rig.until(lambda: rig.lag() == 0)


async def test_a_receiver_that_asks_for_patience_gets_it():
    async with running() as rig:
        rig.receivers.answers[A] = [WebhookReply(429, 120.0)]
        rig.tell()
        await asyncio.sleep(110)
        assert rig.ids() == [1]
        await asyncio.sleep(15)
        assert rig.ids() == [1, 1]


async def test_after_eight_tries_it_goes_on_with_the_next():
    async with running() as rig:
        rig.receivers.answers[A] = [500] * 8
        rig.tell()
        rig.tell("delete")
        began = rig.clock()
        await rig.until(lambda: len(rig.ids()) == 9, 3600)
        assert 2100 < rig.clock() - began < 2200
        assert rig.ids() == [1] * 8 + [2]
        letter = rig.views.letters[("a", 1)]
        assert (letter.tries, letter.error) == (8, "answered 500, 8 times")
        assert (rig.count("failed"), rig.count("dead"), rig.count("delivered")) == (7, 1, 1)


async def test_what_is_refused_is_dead_at_once_and_told_once_an_hour():
    with capture_logs() as logs:
        async with running() as rig:
            rig.receivers.answers[A] = [410, 404, 200, 400]
            for _ in range(4):
                rig.tell()
            await rig.until(lambda: rig.views.hooks["a"].position >= 4)
            await asyncio.sleep(10)
            # Not the event about the first of them, neither.
            assert rig.ids() == [1, 2, 3, 4]
            assert sorted(rig.views.letters) == [("a", 1), ("a", 2), ("a", 4)]
            (told,) = [event for event in rig.views.events if event.kind == "webhook"]
            assert (told.reason, told.detail) == (
                "dead_letter",
                "a does not take event 1: answered 410",
            )
            rig.receivers.answers[A] = [400]
            await asyncio.sleep(3600)
            rig.tell()
            await rig.until(lambda: len(rig.views.letters) == 4)
    said = [line for line in logs if line["event"] == "a webhook gets dead letters"]
    assert [(line["webhook"], line["error"]) for line in said] == [
        ("a", "answered 410"),
        ("a", "answered 400"),
    ]


async def test_a_dead_letter_makes_no_dead_letters():
    async with running() as rig:
        rig.receivers.answers[A] = [400] * 1000
        rig.tell()
        await asyncio.sleep(7200)
        assert len(rig.receivers.got) == 1


async def test_one_that_hangs_holds_up_no_other():
    async with running({"name": "a", "url": A}, {"name": "b", "url": B, "timeout": "30s"}) as rig:
        rig.receivers.hanging.add(B)
        for _ in range(20):
            rig.tell()
        await rig.until(lambda: len(rig.ids(A)) == 20, 3)
        # One at a time.
        assert rig.ids(B) == [1]
        await asyncio.sleep(29)
        assert rig.ids(B) == [1]
        await rig.until(lambda: rig.ids(B) == [1, 1], 5)


async def test_who_lags_is_told_of_once():
    with capture_logs() as logs:
        async with running() as rig:
            rig.receivers.answers[A] = [503] * 5
            rig.tell()
            await rig.until(lambda: rig.views.hooks["a"].position == 1, 600)
            await asyncio.sleep(10)
    lines = [line["event"] for line in logs if "lags" in line["event"]]
    assert lines == ["a webhook lags", "a webhook lags no more"]


async def test_nobody_leads_and_nothing_is_sent_or_lost():
    async with running() as rig:
        rig.tell()
        await rig.until(lambda: rig.ids() == [1])
        rig.lease = None
        await asyncio.sleep(3)
        for _ in range(3):
            rig.tell()
        await asyncio.sleep(60)
        assert rig.ids() == [1]
        assert rig.lag() is None
        rig.lease = Lease("leader", 2)
        await rig.until(lambda: rig.ids() == [1, 2, 3, 4])


async def test_a_lease_that_is_renewed_late_silences_nobody():
    async with running() as rig:
        rig.receivers.answers[A] = [WebhookReply(503, 5.5)]
        rig.tell()
        await rig.until(lambda: rig.ids() == [1])
        held = rig.lease
        # Looks come each second; the next try comes between two, and just then it is not held.
        await asyncio.sleep(5.2)
        rig.lease = None
        await asyncio.sleep(0.6)
        rig.lease = held
        await rig.until(lambda: rig.views.hooks["a"].position == 1)
        assert rig.ids() == [1, 1]


async def test_the_next_leader_counts_on():
    async with running() as rig:
        rig.receivers.answers[A] = [500] * 5
        rig.tell()
        await rig.until(lambda: rig.views.hooks["a"].tries == 4)
        rig.lease = Lease("other", 2)
        await rig.until(lambda: rig.views.hooks["a"].tries == 5, 120)
        await rig.until(lambda: rig.views.hooks["a"].position == 1, 300)
        assert rig.ids() == [1] * 6


async def test_the_settings_of_the_leader_count():
    async with running() as rig:
        rig.tell()
        await rig.until(lambda: rig.ids() == [1])
        other = asyncio.create_task(rig.make({"name": "b", "url": B}).run())
        await asyncio.sleep(2)
        assert rig.views.hooks["a"].removed_at is not None
        assert rig.views.hooks["b"].removed_at is None
        assert rig.views.hooks["b"].url == B
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def test_of_a_url_its_query_is_not_stored():
    async with running() as rig:
        assert rig.views.hooks["a"].url == "https://a.example/in"


async def test_a_store_that_is_away_is_waited_for_and_nothing_comes_twice():
    async with running() as rig:
        rig.tell()
        await rig.until(lambda: rig.ids() == [1])
        rig.store.error = rig.views.error = StoreUnavailable("gone")
        await asyncio.sleep(10)
        rig.store.error = rig.views.error = None
        rig.tell()
        await rig.until(lambda: rig.ids() == [1, 2])
        rig.store.error = StoreUnavailable("gone")
        rig.tell()
        await asyncio.sleep(10)
        assert rig.ids() == [1, 2, 3]
        rig.store.error = None
        await rig.until(lambda: rig.views.hooks["a"].position == 3)
        assert rig.ids() == [1, 2, 3]


async def test_what_cannot_be_buried_is_sent_again():
    async with running() as rig:
        rig.receivers.answers[A] = [400, 400]
        rig.store.error = StoreUnavailable("gone")
        rig.tell()
        await rig.until(lambda: rig.ids() == [1])
        rig.store.error = None
        await rig.until(lambda: ("a", 1) in rig.views.letters)
        assert rig.ids() == [1, 1]


class TestRetry:
    async def bury(self, rig: Rig, count: int) -> None:
        rig.receivers.answers[A] = [400] * count
        for _ in range(count):
            rig.tell()
        await rig.until(lambda: len(rig.views.letters) == count)
        rig.receivers.got.clear()

    async def test_each_is_sent_once_more(self):
        async with running() as rig:
            await self.bury(rig, 25)
            await rig.views.retry_dead_letters("a", None, "ann")
            rig.receivers.answers[A] = [200, 422]
            await rig.until(lambda: len(rig.ids()) == 25)
            await asyncio.sleep(10)
            assert rig.ids() == list(range(1, 26))
            ((key, letter),) = rig.views.letters.items()
            assert (key, letter.error, letter.tries) == (("a", 2), "answered 422", 2)
            assert not letter.retrying

    async def test_only_those_that_are_named(self):
        async with running() as rig:
            await self.bury(rig, 3)
            await rig.views.retry_dead_letters("a", [2], "ann")
            await rig.until(lambda: rig.ids() == [2])
            assert sorted(rig.views.letters) == [("a", 1), ("a", 3)]

    async def test_a_receiver_that_is_down_gets_one_alone(self):
        async with running() as rig:
            await self.bury(rig, 5)
            await rig.views.retry_dead_letters("a", None, "ann")
            rig.receivers.answers[A] = [UNREACHABLE]
            await rig.until(lambda: rig.ids() == [1])
            await asyncio.sleep(60)
            assert rig.ids() == [1]
            assert len(rig.views.letters) == 5
            assert not any(letter.retrying for letter in rig.views.letters.values())

    async def test_the_next_leader_sends_them_too(self):
        async with running() as rig:
            await self.bury(rig, 1)
            rig.lease = None
            await asyncio.sleep(2)
            await rig.views.retry_dead_letters("a", None, "ann")
            await asyncio.sleep(5)
            assert rig.ids() == []
            rig.lease = Lease("other", 2)
            await rig.until(lambda: rig.ids() == [1])
            assert rig.views.letters == {}


async def test_without_webhooks_nothing_is_read():
    rig = Rig()
    rig.webhooks = rig.make()
    task = asyncio.create_task(rig.webhooks.run())
    rig.views.error = StoreUnavailable("would be told")
    with capture_logs() as logs:
        await asyncio.sleep(30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert rig.store.calls == ["open_webhooks"]
    assert logs == []
