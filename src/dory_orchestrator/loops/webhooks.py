"""Events leave the house: the leader sends them to webhooks, each in order, at least once.

Each webhook has a task and a place in the store of its own: one that is slow or fails holds up
no other. What is wanted of events is decided by `core.webhook`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from dory_orchestrator.core.webhook import (
    LETTERS_MAX,
    Dead,
    Delivered,
    DeliveryLimits,
    Retry,
    Verdict,
    decide,
    is_wanted,
    signature,
)
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    EventQuery,
    EventView,
    FleetViews,
    Lease,
    LeaseLost,
    StoreError,
    WebhookProgress,
    WebhookSender,
    WebhookStore,
    WebhookTarget,
    WebhookUnreachable,
)
from dory_orchestrator.settings import Webhook

_log = get_logger(__name__)
_SECONDS = 1.0
_PAGE = 100
_LETTERS = 10
_TURNS = 2
"""Of the store's connections so many at most: those that decide want some, too."""
_QUIET_SECONDS = 3_600.0
"""A webhook is told of so often at most, however many of its events die."""
_LATE_SECONDS = 60.0
_OUTCOMES: dict[type, str] = {Delivered: "delivered", Retry: "failed", Dead: "dead"}


class _Body(msgspec.Struct):
    """What is sent."""

    id: int
    webhook: str
    fleet_id: str
    event: EventView


_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Around:
    """What all webhooks share while one lease is held."""

    lease: Lease
    holds: Callable[[], bool]
    fleet_id: str
    store: WebhookStore
    views: FleetViews
    sender: WebhookSender
    metrics: Metrics
    limits: DeliveryLimits
    clock: Callable[[], float]
    turns: asyncio.Semaphore

    async def write(self, work: Awaitable[None]) -> None:
        """Do it when it is its turn. Raises StoreError."""
        async with self.turns:
            await work


class Webhooks:
    """Sends while this process leads. `clock` is Unix seconds."""

    def __init__(
        self,
        hooks: Sequence[Webhook],
        *,
        store: WebhookStore,
        views: FleetViews,
        sender: WebhookSender,
        lease: Callable[[], Lease | None],
        fleet_id: Callable[[], str | None],
        metrics: Metrics,
        limits: DeliveryLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hooks = hooks
        self._store, self._views, self._sender = store, views, sender
        self._lease, self._fleet_id = lease, fleet_id
        self._metrics = metrics
        self._limits = limits or DeliveryLimits()
        self._clock = clock

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            lease, fleet_id = self._lease(), self._fleet_id()
            if lease is not None and fleet_id is not None:
                try:
                    await self._lead(self._around(lease, fleet_id))
                except StoreError as error:
                    _log.debug("webhooks wait for the store", error=str(error))
            await asyncio.sleep(_SECONDS)

    def _around(self, lease: Lease, fleet_id: str) -> _Around:
        return _Around(
            lease=lease,
            holds=lambda: self._lease() == lease,
            fleet_id=fleet_id,
            store=self._store,
            views=self._views,
            sender=self._sender,
            metrics=self._metrics,
            limits=self._limits,
            clock=self._clock,
            turns=asyncio.Semaphore(_TURNS),
        )

    async def _lead(self, around: _Around) -> None:
        """As long as the lease is held. Raises StoreError before anything was begun."""
        targets = [WebhookTarget(h.name, h.shown_url, list(h.kinds)) for h in self._hooks]
        found = await self._store.open_webhooks(around.lease, targets)
        couriers = [Courier(hook, found[hook.name], around) for hook in self._hooks]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(courier.run()) for courier in couriers]
                await _keep_looking(around, couriers, tasks)
                for task in tasks:
                    task.cancel()
        finally:
            for hook in self._hooks:
                self._metrics.webhook_lag.remove(hook.name)


async def _keep_looking(
    around: _Around, couriers: Sequence["Courier"], tasks: Sequence[asyncio.Task[None]]
) -> None:
    """Tell of new events: one question for all, however many webhooks there are.

    Until the lease is lost, or one of them has ended since it was: a lease that is renewed late is
    the same one afterwards, and not held in between, for less than there is between two looks.
    """
    while around.holds() and not any(task.done() for task in tasks):
        try:
            newest = await around.views.settled_event() if couriers else None
        except StoreError as error:
            _log.debug("events are not read", error=str(error))
            newest = None
        for courier in couriers:
            courier.look(newest)
        await asyncio.sleep(_SECONDS)


class Courier:
    """Brings events to one webhook, one after the other, while one lease is held."""

    def __init__(self, hook: Webhook, progress: WebhookProgress, around: _Around) -> None:
        self._hook, self._around = hook, around
        self._position = self._saved = progress.position
        self._tries = progress.tries
        self._due_at = asyncio.get_running_loop().time() + progress.wait_seconds
        self._newest = progress.position
        self._news = asyncio.Event()
        self._news.set()
        self._at: float | None = None
        """The moment of the event that is being sent."""
        self._quiet_until = 0.0
        self._is_late = False
        for outcome in _OUTCOMES.values():
            # From none to one is no increase to Prometheus.
            around.metrics.webhook_deliveries.labels(hook.name, outcome)

    def look(self, newest: int | None) -> None:
        """There are events up to this one; None: nobody knows. Tells how late it is."""
        if newest is not None and newest > self._newest:
            self._newest = newest
            self._news.set()
        lag_seconds = 0.0 if self._at is None else max(0.0, self._around.clock() - self._at)
        self._around.metrics.webhook_lag.labels(self._hook.name).set(lag_seconds)
        if (lag_seconds > _LATE_SECONDS) is self._is_late:
            return
        self._is_late = not self._is_late
        if self._is_late:
            _log.warning("a webhook lags", webhook=self._hook.name, seconds=round(lag_seconds))
        else:
            _log.info("a webhook lags no more", webhook=self._hook.name)

    async def run(self) -> None:
        """Until cancelled, or the lease is lost."""
        while True:
            try:
                await self._news.wait()
                self._news.clear()
                while await self._bring() or await self._retry():
                    pass
                self._at = None
            except LeaseLost:
                return
            except StoreError as error:
                _log.debug(
                    "a webhook waits for the store", webhook=self._hook.name, error=str(error)
                )
                self._news.set()
                await asyncio.sleep(_SECONDS)

    async def _bring(self) -> bool:
        """A page of events; whether there are more. Raises StoreError."""
        if self._newest <= self._saved:
            return False
        query = EventQuery(limit=_PAGE, after_id=self._position, until_id=self._newest)
        page = await self._around.views.list_events(query)
        for event in page.events:
            if is_wanted(event.kind, self._hook.kinds):
                await self._deliver(event)
        if page.follow_id > self._saved:
            await self._pass(page.follow_id, delivered=False)
        return page.more

    async def _deliver(self, event: EventView) -> None:
        """Until the receiver has it, or it is dead. Raises StoreError."""
        self._at = event.at.timestamp()
        while True:
            await asyncio.sleep(self._due_at - asyncio.get_running_loop().time())
            self._tries += 1
            match await self._send(event, self._tries):
                case Delivered():
                    return await self._pass(event.id, delivered=True)
                case Retry(after_seconds, error):
                    await self._put_off(after_seconds, error)
                case Dead(error):
                    return await self._bury(event, error)

    async def _pass(self, position: int, *, delivered: bool) -> None:
        # First: if it cannot be written down, it is done all the same.
        self._position, self._tries = position, 0
        around = self._around
        name = self._hook.name
        await around.write(
            around.store.pass_events(around.lease, name, position, delivered=delivered)
        )
        self._saved = position

    async def _put_off(self, after_seconds: float, error: str) -> None:
        self._due_at = asyncio.get_running_loop().time() + after_seconds
        around = self._around
        _log.debug("a webhook is tried again", webhook=self._hook.name, error=error)
        await around.write(
            around.store.record_failure(
                around.lease,
                self._hook.name,
                tries=self._tries,
                error=error,
                wait_seconds=after_seconds,
            )
        )

    async def _bury(self, event: EventView, error: str) -> None:
        around, now = self._around, asyncio.get_running_loop().time()
        tell = now >= self._quiet_until
        await around.write(
            around.store.bury(
                around.lease,
                self._hook.name,
                event,
                tries=self._tries,
                error=error,
                letters_max=LETTERS_MAX,
                tell=tell,
            )
        )
        self._position, self._tries, self._saved = event.id, 0, event.id
        if tell:
            self._quiet_until = now + _QUIET_SECONDS
            _log.warning(
                "a webhook gets dead letters", webhook=self._hook.name, id=event.id, error=error
            )

    async def _retry(self) -> bool:
        """Some dead letters that an operator had sent once more, once each; whether there were
        any. Raises StoreError."""
        around, name = self._around, self._hook.name
        letters = await around.store.due_letters(name, _LETTERS)
        for event in letters:
            match await self._send(event, 1):
                case Retry(error=reason):
                    # The others would fare no better, and new events wait.
                    await around.write(around.store.put_back_letters(around.lease, name, reason))
                    return True
                case verdict:
                    error = verdict.error if isinstance(verdict, Dead) else None
                    await around.write(around.store.end_letter(around.lease, name, event.id, error))
        return bool(letters)

    async def _send(self, event: EventView, tries: int) -> Verdict:
        """Raises LeaseLost."""
        around, hook = self._around, self._hook
        if not around.holds():
            raise LeaseLost("the lease is not held any more")
        body = _encode(_Body(event.id, hook.name, around.fleet_id, event))
        timestamp = int(around.clock())
        headers = {
            "content-type": "application/json",
            "dory-webhook-id": str(event.id),
            "dory-webhook-timestamp": str(timestamp),
            "dory-webhook-signature": signature(
                hook.secret.get_secret_value(), event.id, timestamp, body
            ),
        }
        try:
            status, wished = await around.sender.send(
                hook.url, body, headers, timeout_seconds=hook.timeout
            )
            verdict = decide(status, "", tries=tries, wished_seconds=wished, limits=around.limits)
        except WebhookUnreachable as error:
            verdict = decide(None, str(error), tries=tries, limits=around.limits)
        self._count(verdict)
        return verdict

    def _count(self, verdict: Verdict) -> None:
        labels = (self._hook.name, _OUTCOMES[type(verdict)])
        self._around.metrics.webhook_deliveries.labels(*labels).inc()
