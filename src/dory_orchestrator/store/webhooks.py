"""How far each webhook is, over PostgreSQL: what the leader writes, and what operators see."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from dory_orchestrator.ports import (
    DeadLetterPage,
    DeadLetterQuery,
    DeadLetterView,
    EventView,
    Lease,
    OperatorRefused,
    WebhookProgress,
    WebhookTarget,
    WebhookView,
)
from dory_orchestrator.store.connections import Connection, Pool
from dory_orchestrator.store.queries import load

T = TypeVar("T")
_QUERIES = load("webhooks.sql")
_READ_SECONDS = 10.0
_LEFT_OUT_SECONDS = 86_400.0
_LAG_EVENTS_MAX = 100_000
_NAMED_MAX = 10
# An explanation is long, and what is shown of a letter says enough.
_EVENT_FIELDS = tuple(name for name in EventView.__dataclass_fields__ if name != "explanation")


class _Led(Protocol):
    _others: Pool

    async def _leading(
        self, query_type: str, lease: Lease, work: Callable[[Connection], Awaitable[T]]
    ) -> T: ...


class WebhookStatements:
    """WebhookStore, over a pool of connections."""

    async def open_webhooks(
        self: _Led, lease: Lease, targets: Sequence[WebhookTarget]
    ) -> dict[str, WebhookProgress]:
        """See WebhookStore."""

        async def work(connection: Connection) -> dict[str, WebhookProgress]:
            await connection.execute(_QUERIES["leave_out_webhooks"], [t.name for t in targets])
            found = {}
            for target in targets:
                row = await connection.fetchrow(_QUERIES["open_webhook"], *target)
                found[target.name] = WebhookProgress(
                    row["position"], row["tries"], row["wait_seconds"]
                )
            return found

        return await self._leading("open_webhooks", lease, work)

    async def pass_events(
        self: _Led, lease: Lease, name: str, position: int, *, delivered: bool
    ) -> None:
        """See WebhookStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(_QUERIES["pass_events"], name, position, delivered)

        await self._leading("pass_events", lease, work)

    async def record_failure(
        self: _Led, lease: Lease, name: str, *, tries: int, error: str, wait_seconds: float
    ) -> None:
        """See WebhookStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(_QUERIES["record_failure"], name, tries, error, wait_seconds)

        await self._leading("record_webhook_failure", lease, work)

    async def bury(
        self: _Led,
        lease: Lease,
        name: str,
        event: EventView,
        *,
        tries: int,
        error: str,
        letters_max: int,
        tell: bool,
    ) -> None:
        """See WebhookStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(_QUERIES["bury"], name, event.id, event.at, tries, error)
            await connection.execute(_QUERIES["pass_buried"], name, event.id, error)
            await connection.execute(_QUERIES["drop_letters"], name, letters_max)
            if tell:
                detail = f"{name} does not take event {event.id}: {error}"
                await connection.execute(_QUERIES["tell_buried"], detail, lease.term)

        await self._leading("bury_event", lease, work)

    async def due_letters(self: _Led, name: str, limit: int) -> Sequence[EventView]:
        """See WebhookStore."""

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(_QUERIES["list_due_letters"], name, limit)
            return rows

        rows = await self._others.run("due_letters", work, timeout_seconds=_READ_SECONDS)
        return [EventView(**row) for row in rows]

    async def end_letter(
        self: _Led, lease: Lease, name: str, event_id: int, error: str | None
    ) -> None:
        """See WebhookStore."""

        async def work(connection: Connection) -> None:
            if error is None:
                await connection.execute(_QUERIES["delete_letter"], name, event_id)
            else:
                await connection.execute(_QUERIES["keep_letters"], name, event_id, error)

        await self._leading("end_letter", lease, work)

    async def put_back_letters(self: _Led, lease: Lease, name: str, error: str) -> None:
        """See WebhookStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(_QUERIES["keep_letters"], name, None, error)

        await self._leading("put_back_letters", lease, work)

    async def forget_dead_letters(self: _Led, older_than_seconds: float) -> None:
        """See WebhookStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(_QUERIES["forget_dead_letters"], older_than_seconds)
            await connection.execute(_QUERIES["forget_left_out"], _LEFT_OUT_SECONDS)

        await self._others.run("forget_dead_letters", work, timeout_seconds=_READ_SECONDS)


class _Viewed(Protocol):
    async def _read(self, query_type: str, work: Callable[[Connection], Awaitable[T]]) -> T: ...

    async def _write(self, query_type: str, work: Callable[[Connection], Awaitable[T]]) -> T: ...


class WebhookViews:
    """What FleetViews tells of webhooks."""

    async def list_webhooks(self: _Viewed) -> Sequence[WebhookView]:
        """See FleetViews."""

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(_QUERIES["list_webhooks"], _LAG_EVENTS_MAX)
            return rows

        return [WebhookView(**row) for row in await self._read("list_webhooks", work)]

    async def list_dead_letters(self: _Viewed, query: DeadLetterQuery) -> DeadLetterPage:
        """See FleetViews."""
        behind = query.after or (None, None)

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(
                _QUERIES["list_dead_letters"], query.limit + 1, *behind, query.webhook
            )
            return rows

        rows = await self._read("list_dead_letters", work)
        found = [_dead_letter(row) for row in rows[: query.limit]]
        return DeadLetterPage(found, len(rows) > query.limit)

    async def retry_dead_letters(
        self: _Viewed, webhook: str, ids: Sequence[int] | None, by: str
    ) -> int:
        """See FleetViews. All in one transaction."""
        wanted = None if ids is None else sorted(set(ids))

        async def work(connection: Connection) -> int:
            if not await connection.fetchval(_QUERIES["lock_webhook"], webhook):
                raise OperatorRefused(f"webhook: there is no webhook {webhook}")
            rows = await connection.fetch(_QUERIES["list_letter_ids"], webhook, wanted)
            found = [row["event_id"] for row in rows]
            _check_letters(webhook, wanted, found)
            await connection.execute(_QUERIES["retry_letters"], webhook, found)
            events = "1 event" if len(found) == 1 else f"{len(found)} events"
            detail = f"{by} has {events} sent to {webhook} once more"
            await connection.execute(_QUERIES["tell_retry"], detail)
            return len(found)

        return await self._write("retry_dead_letters", work)


def _check_letters(webhook: str, wanted: Sequence[int] | None, found: Sequence[int]) -> None:
    if not found and wanted is None:
        raise OperatorRefused(f"webhook: {webhook} has no dead letters")
    others = sorted(set(wanted or ()) - set(found))
    if others:
        named = ", ".join(map(str, others[:_NAMED_MAX])) + (", ..." if others[_NAMED_MAX:] else "")
        raise OperatorRefused(f"ids: no dead letters of {webhook}: {named}")


def _dead_letter(row: Any) -> DeadLetterView:
    return DeadLetterView(
        webhook=row["webhook"],
        event=EventView(**{name: row[name] for name in _EVENT_FIELDS}),
        died_at=row["died_at"],
        tries=row["tries"],
        error=row["error"],
        retrying=row["retrying"],
    )
