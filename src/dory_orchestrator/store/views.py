"""What operators see and decide, over PostgreSQL."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from dory_orchestrator.core import drill, ordering
from dory_orchestrator.core.answering import QuestionKind, json_text
from dory_orchestrator.core.database_url import read
from dory_orchestrator.core.directive import BeatFacts
from dory_orchestrator.core.drill import DrillFacts
from dory_orchestrator.core.model import Limits, OrderKind
from dory_orchestrator.core.node_rows import Candidate
from dory_orchestrator.core.ordering import OrderFacts
from dory_orchestrator.core.plan import Reason
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    BrakeStatus,
    DrillMove,
    DrillView,
    EdgeNodeAmbiguous,
    EventBounds,
    EventPage,
    EventQuery,
    EventView,
    FleetPicture,
    FleetSummary,
    GuardStatus,
    HeldProcessor,
    MovePage,
    MoveQuery,
    MoveView,
    NobodyAnswers,
    NodePage,
    NodeQuery,
    NodeView,
    NotKnown,
    OperatorRefused,
    PauseStatus,
    PictureQuery,
    Position,
    ProcessorPage,
    ProcessorQuery,
    ProcessorView,
    StoreBusy,
    Stranger,
    SuspectNode,
)
from dory_orchestrator.store.connections import Connection, Guard, Pool
from dory_orchestrator.store.picture import read_map, read_mark
from dory_orchestrator.store.queries import load
from dory_orchestrator.store.webhooks import WebhookViews

T = TypeVar("T")
_QUERIES = load("views.sql")
_CONNECTIONS = 2
_WAITING_MAX = 32
_LOCK_WAIT_MILLISECONDS = "1000"
_NAMED_MAX = 100
_SETTLE_SECONDS = 0.01
_SETTLE_TRIES = 20
_QUESTIONS_KEPT_SECONDS = 60.0
_ANSWER_POLL_SECONDS = 0.05
_ASKING_MAX = 8
"""As many as a leader answers in a cycle: more would only wait, and keep others from reading."""
_CONFIRMATION_SECONDS = Limits().guard_confirmation_seconds


class PostgresViews(WebhookViews):
    """See FleetViews. Connections of its own: operators never take that of the heartbeats.

    Past the circuit breaker, too: a slow page must not make us refuse heartbeats.
    """

    def __init__(
        self, dsn: str, *, metrics: Metrics, timeout_seconds: float, has_cluster: bool = False
    ) -> None:
        self._has_cluster = has_cluster
        self._timeout_seconds = timeout_seconds
        self._waiting = 0
        self._asking = 0
        self._pool = Pool(read(dsn), size=_CONNECTIONS, guard=Guard(metrics), purpose="operators")

    async def close(self) -> None:
        """See FleetViews."""
        await self._pool.close()

    async def list_processors(self, query: ProcessorQuery) -> ProcessorPage:
        """See FleetViews."""
        arguments = (
            *_paging(query),
            query.states,
            query.node,
            query.template,
            query.organization_id,
            query.namespace,
            query.health_status,
            query.prefix,
            None,
        )

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(_QUERIES["list_processors"], *arguments)
            return rows

        rows, position = _cut(await self._read("list_processors", work), query.limit)
        return ProcessorPage([_processor(row) for row in rows], position)

    async def get_processor(
        self, processor_id: UUID, *, events_max: int
    ) -> tuple[ProcessorView, Sequence[EventView]] | None:
        """See FleetViews."""
        filters = (1, "name", *[None] * 10, processor_id)

        async def work(connection: Connection) -> tuple[Any, list[Any]]:
            row = await connection.fetchrow(_QUERIES["list_processors"], *filters)
            events = await connection.fetch(
                _QUERIES["list_events"], events_max, None, None, processor_id, *[None] * 5, False
            )
            return row, events

        row, events = await self._read("get_processor", work)
        return None if row is None else (_processor(row), [_event(e) for e in events])

    async def list_nodes(self, query: NodeQuery) -> NodePage:
        """See FleetViews."""
        arguments = (
            *_paging(query),
            query.kind,
            query.ready,
            query.status,
            query.organization_id,
            query.prefix,
        )

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(_QUERIES["list_nodes"], *arguments)
            return rows

        rows, position = _cut(await self._read("list_nodes", work), query.limit)
        return NodePage([_node(row) for row in rows], position)

    async def list_events(self, query: EventQuery) -> EventPage:
        """See FleetViews."""
        of_event = (query.processor_id, query.node, query.kind, query.reason)
        filters = (*of_event, query.since, query.until, query.explained)

        async def work(connection: Connection) -> EventPage:
            # An older page is settled long since.
            settled = query.until_id
            if query.before_id is None and settled is None:
                settled = await _settled(connection)
            if query.after_id is None:
                return await _page_back(connection, query, filters, settled)
            if settled is None:
                return EventPage([], query.after_id, more=False)
            return await _page_forward(connection, query, filters, settled, query.after_id)

        # Each statement must see what was committed until then.
        return await self._read("list_events", work, isolation="read_committed")

    async def settled_event(self) -> int | None:
        """See FleetViews."""
        return await self._read("settled_event", _settled, isolation="read_committed")

    async def event_bounds(self, since: datetime | None, until: datetime | None) -> EventBounds:
        """See FleetViews."""

        async def work(connection: Connection) -> EventBounds:
            return EventBounds(*await connection.fetchrow(_QUERIES["event_bounds"], since, until))

        return await self._read("event_bounds", work)

    async def guard_status(self) -> GuardStatus:
        """See FleetViews."""
        return await self._read("guard_status", _guard_status)

    async def confirm_guard(self, by: str, expected: Mapping[str, int] | None) -> GuardStatus:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> GuardStatus:
            held = await connection.fetchrow(_QUERIES["lock_guard"])
            if held["held_since"] is None:
                raise OperatorRefused("nothing is held: there is nothing to confirm")
            groups = json.loads(held["groups"])
            if expected is not None and groups != dict(expected):
                raise OperatorRefused("groups: what is held has changed: look at it again")
            await connection.execute(_QUERIES["confirm_guard"], by, _CONFIRMATION_SECONDS)
            await connection.execute(_QUERIES["tell_confirmed"], _told(by, groups))
            await connection.execute(_QUERIES["wake_leader"])
            return await _guard_status(connection)

        return await self._write("confirm_guard", work)

    async def adopt(self, processor_ids: Sequence[UUID] | None, by: str) -> Sequence[UUID]:
        """See FleetViews. All in one transaction."""
        wanted = None if processor_ids is None else list(dict.fromkeys(processor_ids))

        async def work(connection: Connection) -> list[UUID]:
            rows = await connection.fetch(_QUERIES["lock_frozen"], wanted)
            frozen = [row["processor_id"] for row in rows]
            _check_frozen(wanted, frozen)
            ahead = [row["processor_id"] for row in rows if row["reason"] == Reason.EPOCH_AHEAD]
            await connection.execute(_QUERIES["adopt"], ahead)
            await connection.execute(_QUERIES["adopt_states"], ahead)
            await connection.execute(_QUERIES["adopt_away"], ahead)
            await connection.execute(_QUERIES["adopt_at_home"], ahead)
            # Also of those whose epoch was ahead: their documents may be, too.
            await connection.execute(_QUERIES["adopt_documents"], frozen, by)
            detail = f"{by} took the word of the pod for its epoch"
            await connection.execute(_QUERIES["tell_adopted"], frozen, detail)
            await connection.execute(_QUERIES["wake_leader"])
            return frozen

        return await self._write("adopt", work)

    async def brake_status(self) -> BrakeStatus:
        """See FleetViews."""
        return await self._read("brake_status", _brake_status)

    async def override_brake(self, for_seconds: float, reason: str, by: str) -> BrakeStatus:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> BrakeStatus:
            until = await connection.fetchval(_QUERIES["override_brake"], for_seconds, by, reason)
            told = f"{by} overrode the brake until {_written(until)}: {reason}"
            return await _decided(connection, "overridden", told)

        return await self._write("override_brake", work)

    async def clear_brake_override(self, by: str) -> BrakeStatus:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> BrakeStatus:
            if not await connection.fetchval(_QUERIES["clear_brake_override"]):
                raise OperatorRefused("the brake is not overridden: there is nothing to clear")
            told = f"{by} ended the override of the brake"
            return await _decided(connection, "override_cleared", told)

        return await self._write("clear_brake_override", work)

    async def cordon(self, name: str, organization_id: UUID | None, reason: str, by: str) -> bool:
        """See FleetViews."""

        async def work(connection: Connection) -> bool:
            node = await _locked_node(connection, name, organization_id)
            if not await connection.fetchval(_QUERIES["cordon"], node["id"], reason):
                return False
            await _tell_of_node(connection, "cordon", "cordoned", f"by {by}: {reason}", name)
            return True

        return await self._write("cordon", work)

    async def uncordon(self, name: str, organization_id: UUID | None, by: str) -> bool:
        """See FleetViews."""

        async def work(connection: Connection) -> bool:
            node = await _locked_node(connection, name, organization_id)
            if node["status"] == "decommissioned":
                raise OperatorRefused(f"node: {name} is decommissioned: it has to register first")
            if not await connection.fetchval(_QUERIES["uncordon"], node["id"]):
                return False
            await _tell_of_node(connection, "cordon", "uncordoned", f"by {by}", name)
            return True

        return await self._write("uncordon", work)

    async def pause_status(self) -> PauseStatus:
        """See FleetViews."""
        return await self._read("pause_status", _pause_status)

    async def pause(self, for_seconds: float, reason: str, by: str) -> PauseStatus:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> PauseStatus:
            until = await connection.fetchval(_QUERIES["pause"], for_seconds, by, reason)
            told = f"{by} paused everything until {_written(until)}: {reason}"
            await _tell(connection, "pause", "paused", told)
            return await _pause_status(connection)

        return await self._write("pause", work)

    async def resume(self, by: str) -> PauseStatus:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> PauseStatus:
            if not await connection.fetchval(_QUERIES["resume"]):
                raise OperatorRefused("nothing is paused: there is nothing to resume")
            await _tell(connection, "pause", "resumed", f"{by} ended the pause")
            return await _pause_status(connection)

        return await self._write("resume", work)

    async def order(self, processor_id: UUID, kind: OrderKind, reason: str, by: str) -> str:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> str:
            facts = await _order_facts(connection, processor_id)
            refused = ordering.refusal(kind, facts)
            if refused is not None:
                raise OperatorRefused(f"processor: {refused}")
            if kind is OrderKind.FAILBACK and facts.linked_node is not None:
                await connection.execute(_QUERIES["withdraw_order"], processor_id)
            else:
                await connection.execute(_QUERIES["order"], processor_id, str(kind), by, reason)
            await _tell(connection, "order", str(kind), f"by {by}: {reason}", processor_id)
            return ordering.follows(kind, facts)

        return await self._write("order", work)

    async def start_drill(
        self, node: str, organization_id: UUID | None, for_seconds: float, reason: str, by: str
    ) -> DrillView:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> DrillView:
            row = await _locked_node(connection, node, organization_id)
            facts = await connection.fetchrow(_QUERIES["drill_facts"], row["id"])
            refused = drill.refusal(DrillFacts(**facts))
            if refused is not None:
                raise OperatorRefused(f"node: {refused}")
            wanted = (row["id"], node, by, reason, for_seconds)
            await connection.execute(_QUERIES["start_drill"], *wanted)
            await _tell_of_node(connection, "drill", "started", f"by {by}: {reason}", node)
            return (await _drills(connection, 1))[0]

        return await self._write("start_drill", work)

    async def stop_drill(self, by: str) -> DrillView:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> DrillView:
            going = f"{by} stopped it: its processors go home"
            over = f"{by} ended it: who is still away goes home without it"
            row = await connection.fetchrow(_QUERIES["stop_drill"], going, over)
            if row is None:
                raise OperatorRefused("no drill runs: there is nothing to stop")
            await _tell_of_node(connection, "drill", "aborted", row["detail"], row["node_name"])
            return (await _drills(connection, 1))[0]

        return await self._write("stop_drill", work)

    async def list_drills(self, limit: int) -> Sequence[DrillView]:
        """See FleetViews."""

        async def work(connection: Connection) -> Sequence[DrillView]:
            return await _drills(connection, limit)

        return await self._read("list_drills", work)

    async def retry(self, processor_id: UUID, reason: str, by: str) -> str:
        """See FleetViews. All in one transaction."""

        async def work(connection: Connection) -> str:
            facts = await _order_facts(connection, processor_id)
            refused = ordering.retry_refusal(facts)
            if refused is not None:
                raise OperatorRefused(f"processor: {refused}")
            await connection.execute(_QUERIES["retry"], processor_id)
            await _tell(connection, "order", "retry", f"by {by}: {reason}", processor_id)
            return f"it failed {facts.failures} times in a row, and is tried again now"

        return await self._write("retry", work)

    async def ask(
        self, kind: QuestionKind, parameters: Mapping[str, Any], *, timeout_seconds: float
    ) -> Mapping[str, Any]:
        """See FleetViews. No connection is held while the leader thinks."""

        async def put(connection: Connection) -> int:
            await connection.execute(_QUERIES["forget_questions"], _QUESTIONS_KEPT_SECONDS)
            number: int = await connection.fetchval(
                _QUERIES["ask"], str(kind), json_text(parameters)
            )
            await connection.execute(_QUERIES["wake_leader"])
            return number

        if self._asking >= _ASKING_MAX:
            raise StoreBusy("too many questions wait for the leader")
        self._asking += 1
        try:
            number = await self._write("ask", put)
            text = await self._wait_for_answer(number, timeout_seconds)
        finally:
            self._asking -= 1
        answer: Mapping[str, Any] = json.loads(text)
        if "ambiguous" in answer:
            found = [msgspec.convert(one, Candidate) for one in answer["ambiguous"]]
            raise EdgeNodeAmbiguous("node", str(parameters["name"]), found)
        if "unknown" in answer:
            raise NotKnown(str(answer["unknown"]))
        return answer

    async def _wait_for_answer(self, number: int, timeout_seconds: float) -> str:
        async def look(connection: Connection) -> str | None:
            text: str | None = await connection.fetchval(_QUERIES["answer"], number)
            return text

        until = asyncio.get_running_loop().time() + timeout_seconds
        while asyncio.get_running_loop().time() < until:
            text = await self._read("answer", look)
            if text is not None:
                return text
            await asyncio.sleep(_ANSWER_POLL_SECONDS)
        raise NobodyAnswers(f"no leader answered within {timeout_seconds:g} s")

    async def directive(
        self, processor_id: UUID, sender_node_name: str | None
    ) -> tuple[BeatFacts, str]:
        """See FleetViews."""

        async def work(connection: Connection) -> Any:
            return await connection.fetchrow(
                _QUERIES["beat_facts"], processor_id, self._has_cluster
            )

        row = dict(await self._read("directive", work))
        owner_node = row.pop("owner_node")
        sender = owner_node if sender_node_name is None else sender_node_name
        return BeatFacts(**row), sender

    async def list_moves(self, query: MoveQuery) -> MovePage:
        """See FleetViews."""
        filters = (query.processor_id, query.node, query.kind, query.under_way, query.outcome)

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(
                _QUERIES["list_moves"], query.limit + 1, query.before_id, *filters
            )
            return rows

        rows = await self._read("list_moves", work)
        return MovePage([MoveView(**row) for row in rows[: query.limit]], len(rows) > query.limit)

    async def summary(self) -> FleetSummary:
        """See FleetViews."""

        return await self._read("fleet_summary", _summary)

    async def picture(self, query: PictureQuery) -> FleetPicture:
        """See FleetViews. All of it is of one moment."""

        async def work(connection: Connection) -> FleetPicture:
            guard = await connection.fetchrow(_QUERIES["guard"])
            # Those under way first: an old one may still wait for a place.
            moves = [
                MoveView(**row)
                for under_way in (True, False)
                for row in await connection.fetch(
                    _QUERIES["list_moves"], query.moves + 1, *[None] * 4, under_way, None
                )
            ]
            return FleetPicture(
                summary=await _summary(connection),
                brake=await _brake_status(connection),
                guard_held_since=guard["held_since"],
                guard_detail=guard["detail"],
                moves=moves[: query.moves],
                more_moves=len(moves) > query.moves,
                **await read_map(connection, query),
            )

        return await self._read("fleet_picture", work)

    async def picture_mark(self) -> str:
        """See FleetViews."""
        return await self._read("fleet_picture_mark", read_mark)

    async def _read(
        self,
        query_type: str,
        work: Callable[[Connection], Awaitable[T]],
        *,
        isolation: str = "repeatable_read",
    ) -> T:
        async def within(connection: Connection) -> T:
            async with connection.transaction(isolation=isolation, readonly=True):
                await connection.execute(_QUERIES["plan_each_time"])
                return await work(connection)

        return await self._run(query_type, within)

    async def _write(self, query_type: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def within(connection: Connection) -> T:
            async with connection.transaction():
                await connection.execute(_QUERIES["limit_lock_waits"], _LOCK_WAIT_MILLISECONDS)
                return await work(connection)

        return await self._run(query_type, within)

    async def _run(self, query_type: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        if self._waiting >= _WAITING_MAX:
            raise StoreBusy("too many requests of operators wait for the database")
        self._waiting += 1
        try:
            return await self._pool.run(
                query_type, work, timeout_seconds=self._timeout_seconds, past_breaker=True
            )
        finally:
            self._waiting -= 1


async def _summary(connection: Connection) -> FleetSummary:
    row = dict(await connection.fetchrow(_QUERIES["summary"]))
    return FleetSummary(**{**row, "states": json.loads(row["states"])})


async def _settled(connection: Connection) -> int | None:
    """The newest event below which no other will appear; None when writers take too long.

    Numbers are drawn before they are committed, so a lower one may appear after a higher one.
    Whoever may still bring one is waited for, and nobody who came later.
    """
    newest = await connection.fetchrow(_QUERIES["newest_event"])
    writers = set(newest["writers"])
    for _ in range(_SETTLE_TRIES):
        if not writers:
            return int(newest["id"])
        await asyncio.sleep(_SETTLE_SECONDS)
        writers &= set((await connection.fetchrow(_QUERIES["newest_event"]))["writers"])
    return None


async def _page_back(
    connection: Connection, query: EventQuery, filters: tuple[object, ...], settled: int | None
) -> EventPage:
    """Newest first. While it is not settled what the newest is, all is shown that there is, and
    who follows sees some of it again rather than misses one."""
    rows = await connection.fetch(
        _QUERIES["list_events"], query.limit + 1, query.before_id, settled, *filters
    )
    events = [_event(row) for row in rows[: query.limit]]
    lowest = events[-1].id - 1 if events else 0
    follow_id = lowest if settled is None else settled
    return EventPage(events, follow_id, more=len(rows) > query.limit)


async def _page_forward(
    connection: Connection,
    query: EventQuery,
    filters: tuple[object, ...],
    settled: int,
    after_id: int,
) -> EventPage:
    rows = await connection.fetch(
        _QUERIES["follow_events"], query.limit + 1, after_id, settled, *filters
    )
    events = [_event(row) for row in rows[: query.limit]]
    more = len(rows) > query.limit
    # Behind a complete page nothing is left: whoever filters need not look at it all again.
    return EventPage(events, events[-1].id if more else settled, more)


async def _guard_status(connection: Connection) -> GuardStatus:
    guard = await connection.fetchrow(_QUERIES["guard"])
    held = await _waiting(connection, Reason.GUARD_HELD)
    frozen = await _waiting(connection, Reason.EPOCH_AHEAD, Reason.DOCUMENT_AHEAD)
    strangers = await connection.fetch(_QUERIES["list_strangers"], _NAMED_MAX)
    return GuardStatus(
        held=guard["held_since"] is not None,
        held_since=guard["held_since"],
        detail=guard["detail"],
        groups=json.loads(guard["groups"]),
        confirmed=json.loads(guard["confirmed"]),
        confirmed_at=guard["confirmed_at"],
        confirmed_by=guard["confirmed_by"],
        processors_count=held[0],
        processors=held[1],
        frozen_count=frozen[0],
        frozen=frozen[1],
        strangers_count=strangers[0]["total"] if strangers else 0,
        strangers=[_stranger(row) for row in strangers],
    )


async def _waiting(connection: Connection, *reasons: Reason) -> tuple[int, list[HeldProcessor]]:
    count = await connection.fetchval(_QUERIES["count_waiting"], list(reasons))
    rows = await connection.fetch(_QUERIES["list_waiting"], list(reasons), _NAMED_MAX)
    return count, [HeldProcessor(**row) for row in rows]


async def _locked_node(
    connection: Connection, name: str, organization_id: UUID | None
) -> Mapping[str, Any]:
    """Raises OperatorRefused when it is none, EdgeNodeAmbiguous when it is not the only one."""
    rows = await connection.fetch(_QUERIES["lock_nodes_named"], name, organization_id)
    if not rows:
        raise OperatorRefused(f"node: there is no edge node {name}")
    if len(rows) > 1:
        raise EdgeNodeAmbiguous("node", name, [Candidate(**row) for row in rows])
    found: Mapping[str, Any] = rows[0]
    return found


async def _tell_of_node(
    connection: Connection, kind: str, reason: str, detail: str, name: str
) -> None:
    await connection.execute(_QUERIES["tell_of_node"], kind, reason, detail, name)
    await connection.execute(_QUERIES["wake_leader"])


async def _drills(connection: Connection, limit: int) -> Sequence[DrillView]:
    rows = await connection.fetch(_QUERIES["list_drills"], limit)
    return [DrillView(**{**row, "moves": _drill_moves(row["moves"])}) for row in rows]


def _drill_moves(text: str) -> Sequence[DrillMove]:
    return [
        msgspec.convert({k: v for k, v in move.items() if k != "id"}, DrillMove)
        for move in json.loads(text)
    ]


async def _tell(
    connection: Connection, kind: str, reason: str, detail: str, processor_id: UUID | None = None
) -> None:
    """Who decided what, and why; and the leader is woken."""
    await connection.execute(_QUERIES["tell_decision"], kind, reason, detail, processor_id)
    await connection.execute(_QUERIES["wake_leader"])


async def _pause_status(connection: Connection) -> PauseStatus:
    return PauseStatus(**await connection.fetchrow(_QUERIES["pause_status"]))


async def _order_facts(connection: Connection, processor_id: UUID) -> OrderFacts:
    """Raises NotKnown."""
    await connection.execute(_QUERIES["lock_owner"], processor_id)
    row = await connection.fetchrow(_QUERIES["order_facts"], processor_id)
    if row is None:
        raise NotKnown(f"processor: no processor {processor_id} is known")
    return OrderFacts(**row)


async def _brake_status(connection: Connection) -> BrakeStatus:
    row = dict(await connection.fetchrow(_QUERIES["brake"], _NAMED_MAX))
    nodes = [_suspect(node) for node in json.loads(row["nodes"])]
    return BrakeStatus(**{**row, "nodes": nodes})


async def _decided(connection: Connection, reason: str, told: str) -> BrakeStatus:
    """The brake was changed: the rest of that transaction."""
    await connection.execute(_QUERIES["tell_brake"], reason, told)
    await connection.execute(_QUERIES["wake_leader"])
    return await _brake_status(connection)


def _suspect(node: Mapping[str, Any]) -> SuspectNode:
    since = datetime.fromtimestamp(node["since"], UTC)
    return SuspectNode(**{**node, "id": UUID(node["id"]), "since": since})


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_frozen(wanted: Sequence[UUID] | None, frozen: Sequence[UUID]) -> None:
    if wanted is None and not frozen:
        raise OperatorRefused("nothing is frozen: there is nothing to adopt")
    others = sorted(str(key) for key in set(wanted or ()) - set(frozen))
    if others:
        raise OperatorRefused(f"processors: not frozen: {', '.join(others)}")


def _told(by: str, groups: Mapping[str, int]) -> str:
    counts = ", ".join(f"{group} {count}" for group, count in sorted(groups.items()))
    return f"{by} accepted as desired: {counts or 'nothing'}"


def _paging(query: ProcessorQuery | NodeQuery) -> tuple[object, ...]:
    # One more than asked for: it tells whether another page follows.
    return (query.limit + 1, query.sort, *(query.after or (None, None, None)))


def _cut(rows: Sequence[Any], limit: int) -> tuple[Sequence[Any], Position | None]:
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], Position(last["sort_key"], last["sort_name"], last["sort_id"])


_PROCESSOR_FIELDS = tuple(ProcessorView.__dataclass_fields__)
_NODE_FIELDS = tuple(NodeView.__dataclass_fields__)


def _processor(row: Any) -> ProcessorView:
    return ProcessorView(**{name: row[name] for name in _PROCESSOR_FIELDS})


def _node(row: Any) -> NodeView:
    values = {name: row[name] for name in _NODE_FIELDS}
    return NodeView(**{**values, "processors": json.loads(values["processors"])})


def _event(row: Any) -> EventView:
    said = row["explanation"]
    return EventView(**{**row, "explanation": None if said is None else json.loads(said)})


def _stranger(row: Any) -> Stranger:
    return Stranger(
        pod_name=row["pod_name"],
        node_name=row["node_name"],
        processor_id=row["processor_id"],
        detail=row["detail"],
        at=row["at"],
    )
