"""Webhooks in memory, as the leader writes them and as operators see them. They pass the same
contract suite as PostgreSQL."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dory_orchestrator.ports import (
    DeadLetterPage,
    DeadLetterQuery,
    DeadLetterView,
    EventView,
    Lease,
    LeaseLost,
    OperatorRefused,
    StoreError,
    WebhookProgress,
    WebhookReply,
    WebhookSender,
    WebhookStore,
    WebhookTarget,
    WebhookUnreachable,
    WebhookView,
)


@dataclass
class Hook:
    """A row of `webhooks`."""

    name: str
    url: str
    kinds: Sequence[str]
    position: int
    tries: int = 0
    failures: int = 0
    delivered_at: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    next_try_at: datetime | None = None
    dropped: int = 0
    removed_at: datetime | None = None


@dataclass
class MemoryWebhookViews:
    """A part of MemoryViews. Letters stand by (webhook, event id)."""

    hooks: dict[str, Hook] = field(default_factory=dict)
    letters: dict[tuple[str, int], DeadLetterView] = field(default_factory=dict)

    async def list_webhooks(self: Any) -> Sequence[WebhookView]:
        self._answer()
        found = [hook for hook in self.hooks.values() if hook.removed_at is None]
        return [self._shown(hook) for hook in sorted(found, key=lambda hook: hook.name)]

    def _shown(self: Any, hook: Hook) -> WebhookView:
        ahead = [event for event in self.events if event.id > hook.position]
        age = (datetime.now(UTC) - ahead[0].at).total_seconds() if ahead else 0.0
        return WebhookView(
            name=hook.name,
            url=hook.url,
            kinds=hook.kinds,
            lag_events=min(len(ahead), 100_000),
            lag_seconds=max(0.0, age),
            delivered_at=hook.delivered_at,
            failures=hook.failures,
            last_error=hook.last_error,
            last_error_at=hook.last_error_at,
            next_try_at=hook.next_try_at,
            dead_letters=len(self._letters_of(hook.name)),
            dropped=hook.dropped,
        )

    def _letters_of(self: Any, webhook: str) -> list[int]:
        known = {event.id for event in self.events}
        return [number for name, number in self.letters if name == webhook and number in known]

    async def list_dead_letters(self: Any, query: DeadLetterQuery) -> DeadLetterPage:
        self._answer()
        found = [
            letter
            for (name, number), letter in self.letters.items()
            if query.webhook in (None, name)
            and number in self._letters_of(name)
            and self.hooks[name].removed_at is None
        ]
        found.sort(key=lambda letter: (-letter.event.id, letter.webhook))
        if query.after is not None:
            number, name = query.after
            found = [x for x in found if (-x.event.id, x.webhook) > (-number, name)]
        return DeadLetterPage(found[: query.limit], len(found) > query.limit)

    async def retry_dead_letters(
        self: Any, webhook: str, ids: Sequence[int] | None, by: str
    ) -> int:
        self._answer()
        if webhook not in self.hooks or self.hooks[webhook].removed_at is not None:
            raise OperatorRefused(f"webhook: there is no webhook {webhook}")
        known = self._letters_of(webhook)
        if ids is None and not known:
            raise OperatorRefused(f"webhook: {webhook} has no dead letters")
        wanted = sorted(known if ids is None else set(ids))
        if others := [str(number) for number in wanted if number not in known]:
            raise OperatorRefused(f"ids: no dead letters of {webhook}: {', '.join(others)}")
        for number in wanted:
            key = (webhook, number)
            self.letters[key] = replace(self.letters[key], retrying=True)
        events = "1 event" if len(wanted) == 1 else f"{len(wanted)} events"
        self.tell("webhook", "retry", f"{by} has {events} sent to {webhook} once more")
        return len(wanted)


@dataclass
class MemoryWebhooks:
    """WebhookStore over MemoryViews. Set `error` to have every call fail with it; only the lease
    `lease` may write, if that is set."""

    views: Any
    lease: Lease | None = None
    error: StoreError | None = None
    calls: list[str] = field(default_factory=list)

    def _answer(self, call: str, lease: Lease | None = None) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        if self.lease is not None and lease is not None and lease != self.lease:
            raise LeaseLost("another leads")

    async def open_webhooks(
        self, lease: Lease, targets: Sequence[WebhookTarget]
    ) -> dict[str, WebhookProgress]:
        self._answer("open_webhooks", lease)
        now, hooks = datetime.now(UTC), self.views.hooks
        names = {target.name for target in targets}
        for hook in hooks.values():
            if hook.name not in names and hook.removed_at is None:
                hook.removed_at = now
        for target in targets:
            newest = self.views.events[-1].id if self.views.events else 0
            hook = hooks.setdefault(target.name, Hook(*target, newest))
            hook.url, hook.kinds, hook.removed_at = target.url, target.kinds, None
        return {name: _progress(hooks[name]) for name in names}

    async def pass_events(self, lease: Lease, name: str, position: int, *, delivered: bool) -> None:
        self._answer("pass_events", lease)
        hook = self.views.hooks[name]
        hook.position = max(hook.position, position)
        hook.tries, hook.next_try_at = 0, None
        if delivered:
            hook.failures, hook.delivered_at = 0, datetime.now(UTC)

    async def record_failure(
        self, lease: Lease, name: str, *, tries: int, error: str, wait_seconds: float
    ) -> None:
        self._answer("record_failure", lease)
        hook, now = self.views.hooks[name], datetime.now(UTC)
        hook.tries, hook.last_error, hook.last_error_at = tries, error, now
        hook.failures += 1
        hook.next_try_at = now + timedelta(seconds=wait_seconds)

    async def bury(
        self,
        lease: Lease,
        name: str,
        event: EventView,
        *,
        tries: int,
        error: str,
        letters_max: int,
        tell: bool,
    ) -> None:
        self._answer("bury", lease)
        now, hook, letters = datetime.now(UTC), self.views.hooks[name], self.views.letters
        letter = DeadLetterView(
            webhook=name, event=event, died_at=now, tries=tries, error=error, retrying=False
        )
        letters.setdefault((name, event.id), letter)
        hook.position, hook.tries, hook.next_try_at = max(hook.position, event.id), 0, None
        hook.failures += 1
        hook.last_error, hook.last_error_at = error, now
        kept = sorted(key for key in letters if key[0] == name)
        for key in kept[: max(0, len(kept) - letters_max)]:
            del letters[key]
            hook.dropped += 1
        if tell:
            detail = f"{name} does not take event {event.id}: {error}"
            self.views.tell("webhook", "dead_letter", detail, term=lease.term)

    async def due_letters(self, name: str, limit: int) -> Sequence[EventView]:
        self._answer("due_letters")
        letters = sorted(self.views.letters.items())
        due = [x.event for (hook, _), x in letters if hook == name and x.retrying]
        return due[:limit]

    async def end_letter(self, lease: Lease, name: str, event_id: int, error: str | None) -> None:
        self._answer("end_letter", lease)
        key = (name, event_id)
        letter = self.views.letters.pop(key, None)
        if letter is not None and error is not None:
            tried = letter.tries + 1
            self.views.letters[key] = replace(letter, retrying=False, error=error, tries=tried)

    async def put_back_letters(self, lease: Lease, name: str, error: str) -> None:
        self._answer("put_back_letters", lease)
        for key, letter in self.views.letters.items():
            if key[0] == name and letter.retrying:
                self.views.letters[key] = replace(letter, retrying=False, error=error)

    async def forget_dead_letters(self, older_than_seconds: float) -> None:
        self._answer("forget_dead_letters")
        now, views = datetime.now(UTC), self.views
        oldest, left_out = now - timedelta(seconds=older_than_seconds), now - timedelta(days=1)
        views.hooks = {
            name: hook
            for name, hook in views.hooks.items()
            if hook.removed_at is None or hook.removed_at >= left_out
        }
        views.letters = {
            key: letter
            for key, letter in views.letters.items()
            if letter.event.at >= oldest and key[0] in views.hooks
        }


def _progress(hook: Hook) -> WebhookProgress:
    wait = 0.0
    if hook.next_try_at is not None:
        wait = max(0.0, (hook.next_try_at - datetime.now(UTC)).total_seconds())
    return WebhookProgress(hook.position, hook.tries, wait)


@dataclass
class MemoryReceivers:
    """Receivers of webhooks, by URL. `answers` holds what each says next, a status, a reply or an
    error; then, and else, it says 200. One of `hanging` answers never."""

    answers: dict[str, list[int | WebhookReply | Exception]] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    got: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)

    async def send(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float
    ) -> WebhookReply:
        self.got.append((url, body, dict(headers)))
        if url in self.hanging:
            await asyncio.sleep(timeout_seconds)
            raise WebhookUnreachable(f"no answer within {timeout_seconds:g} s")
        answer = self.answers[url].pop(0) if self.answers.get(url) else 200
        if isinstance(answer, Exception):
            raise answer
        return WebhookReply(answer, None) if isinstance(answer, int) else answer

    async def close(self) -> None:
        """Nothing is open."""


def _fit(store: MemoryWebhooks, sender: MemoryReceivers) -> tuple[WebhookStore, WebhookSender]:
    """That they are what they stand for is proved by the type checker."""
    return store, sender
