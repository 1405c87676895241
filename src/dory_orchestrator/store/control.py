"""The statements of the process that leads: the lease, grants, and what it records.

Each writing transaction begins with the lease: held, or nothing of it happens.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from functools import cached_property, partial
from typing import Any, TypeVar
from uuid import UUID

from dory_orchestrator.core.answering import Question
from dory_orchestrator.core.brake import BrakeReason, BrakeRecord, BrakeVerdict
from dory_orchestrator.core.drill import DrillStep
from dory_orchestrator.core.grants import Granted, GrantRefusal, MoveFacts, refusal_of
from dory_orchestrator.core.model import (
    Desired,
    Drill,
    DrillPhase,
    EdgeNodeRow,
    Gap,
    GuardRecord,
    Move,
    MoveKind,
    MoveRetry,
    Order,
    OrderKind,
    Ownership,
    Pause,
)
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.picture import UnownedPod
from dory_orchestrator.core.plan import (
    Adopt,
    CancelMove,
    Create,
    Delete,
    EndMove,
    Failure,
    Finding,
    Forget,
    GuardVerdict,
    MoveStart,
    Reason,
    Record,
)
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    NO_TRACES,
    Action,
    Event,
    Lease,
    LeaseLost,
    NodeHealth,
    NodeSummary,
    PictureBefore,
    PodFinding,
    StoreDataError,
    event_of,
    is_told,
)
from dory_orchestrator.store.configs import ConfigReader
from dory_orchestrator.store.connections import Connection, Pool
from dory_orchestrator.store.errors import DRIVER_ERRORS, translate
from dory_orchestrator.store.kept import Kept
from dory_orchestrator.store.queries import QUERIES

_log = get_logger(__name__)
T = TypeVar("T")
_Begins = TypeVar("_Begins", Create, Delete)
_Linked = TypeVar("_Linked", CancelMove, Forget)
_READ_SECONDS = 10.0
_WRITE_SECONDS = 10.0
_LOCK_WAIT_MILLISECONDS = "2000"
_QUESTION_SECONDS = 10.0
_ERROR_LENGTH_MAX = 500
_FORGET_STEP = 1_000
"""Rows of a statement that deletes: whoever follows events waits for it."""
_GAPS_SECONDS = 7_200.0
"""Silence is counted over no more than this: flapping looks back over an hour."""


class ControlStore:
    """LeaseStore, FleetStore and PodHealthStore over a pool of connections."""

    _others: Pool
    _timeout_seconds: float
    _canary_gap_seconds: float
    _quiet_seconds: float

    # The lease

    async def hold_lease(self, holder: str, term: int | None, seconds: float) -> int | None:
        """See LeaseStore."""

        async def work(connection: Connection) -> int | None:
            held: int | None = await connection.fetchval(
                QUERIES["renew_lease"], holder, term, seconds
            )
            if held is None:
                held = await connection.fetchval(QUERIES["take_lease"], holder, seconds)
            return held

        return await self._others.run("hold_lease", work, timeout_seconds=self._timeout_seconds)

    async def release_lease(self, lease: Lease) -> None:
        """See LeaseStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(QUERIES["release_lease"], lease.holder, lease.term)

        await self._others.run("release_lease", work, timeout_seconds=self._timeout_seconds)

    async def _leading(
        self, query_type: str, lease: Lease, work: Callable[[Connection], Awaitable[T]]
    ) -> T:
        async def led(connection: Connection) -> T:
            async with connection.transaction():
                await connection.execute(QUERIES["limit_lock_waits"], _LOCK_WAIT_MILLISECONDS)
                if not await connection.fetchval(QUERIES["check_lease"], lease.holder, lease.term):
                    raise LeaseLost(f"the lease of term {lease.term} is not held any more")
                return await work(connection)

        return await self._others.run(query_type, led, timeout_seconds=_WRITE_SECONDS)

    # What is desired

    @cached_property
    def _desired(self) -> "_DesiredReader":
        return _DesiredReader(self._canary_gap_seconds, self._quiet_seconds)

    async def read_desired(self) -> Desired:
        """See FleetStore. All statements read one snapshot of the database."""

        async def work(connection: Connection) -> Desired:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await self._desired.read(connection)

        return await self._others.run("list_configs", work, timeout_seconds=_READ_SECONDS)

    # Grants

    async def grant(
        self, lease: Lease, actions: Sequence[Action], trace_ids: Mapping[UUID, str] = NO_TRACES
    ) -> Granted:
        """See FleetStore. All in one transaction, with their events."""

        async def work(connection: Connection) -> Granted:
            granted = await _Grants(connection).of(actions)
            events = [
                event_of(a, trace_ids.get(a.processor_id))
                for a, ok in zip(actions, granted, strict=True)
                if ok and is_told(a)
            ]
            await _write_events(connection, lease, events)
            return granted

        return await self._leading("grant", lease, work)

    # Records

    async def record_pods(self, lease: Lease, records: Sequence[Record]) -> None:
        """See FleetStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(QUERIES["record_owners"], *_owner_columns(records))

        await self._leading("record_pods", lease, work)

    async def show_pods(self, lease: Lease, records: Sequence[Record]) -> set[UUID]:
        """See FleetStore."""
        try:
            return await self._leading("show_pods", lease, partial(_show_pods, records))
        except StoreDataError:
            return await self._leading("show_pods", lease, partial(_show_what_can_be, records))

    async def record_findings(
        self, lease: Lease, findings: Mapping[UUID, Finding], gone: Sequence[UUID]
    ) -> None:
        """See FleetStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(QUERIES["record_states"], *_state_columns(findings))
            await connection.execute(QUERIES["note_last_known"], list(findings))
            await connection.execute(QUERIES["forget_states"], list(gone))

        await self._leading("record_findings", lease, work)

    async def record_nodes(
        self, lease: Lease, nodes: Sequence[NodeSummary], gone: Sequence[str]
    ) -> None:
        """See FleetStore."""
        columns = _columns(nodes, len(NodeSummary._fields))

        async def work(connection: Connection) -> None:
            await connection.execute(QUERIES["record_nodes"], *columns)
            await connection.execute(QUERIES["forget_nodes"], list(gone))

        await self._leading("record_nodes", lease, work)

    async def mark_shown(self, lease: Lease) -> None:
        """See FleetStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(QUERIES["mark_shown"], lease.term)

        await self._leading("mark_shown", lease, work)

    async def record_picture(
        self,
        lease: Lease,
        *,
        interval_seconds: float,
        cluster_uid: str | None,
        is_whole: bool,
        unowned: Mapping[UUID, UnownedPod],
    ) -> PictureBefore:
        """See FleetStore. Together: whoever reads the one reads the others, too."""

        async def work(connection: Connection) -> PictureBefore:
            before = await connection.fetchrow(QUERIES["picture_before"])
            await connection.execute(QUERIES["remember_cluster"], cluster_uid)
            await connection.execute(QUERIES["forget_unowned_pods"], list(unowned))
            if unowned:
                await connection.execute(
                    QUERIES["record_unowned_pods"],
                    list(unowned),
                    *_columns([astuple(pod) for pod in unowned.values()], 3),
                )
            is_taken = await connection.fetchval(
                QUERIES["record_picture"], lease.term, interval_seconds, cluster_uid, is_whole
            )
            return PictureBefore(is_taken, *before)

        return await self._leading("record_picture", lease, work)

    async def record_guard(self, lease: Lease, verdict: GuardVerdict) -> None:
        """See FleetStore."""
        counts = {group: left for group, (_, left) in verdict.tripped.items()}

        async def work(connection: Connection) -> None:
            if verdict.holds:
                await connection.execute(QUERIES["hold_guard"], json.dumps(counts), verdict.detail)
            else:
                await connection.execute(QUERIES["release_guard"])

        await self._leading("record_guard", lease, work)

    async def record_health(
        self,
        lease: Lease,
        nodes: Sequence[NodeHealth],
        gone: Sequence[str],
        brake: BrakeVerdict | None,
    ) -> None:
        """See FleetStore."""

        async def work(connection: Connection) -> None:
            if nodes:
                await connection.execute(QUERIES["record_node_health"], *_health_columns(nodes))
                edges = [n for n in nodes if n.edge_node_id is not None]
                await connection.execute(
                    QUERIES["show_edge_node_states"],
                    [n.edge_node_id for n in edges],
                    [n.is_dead for n in edges],
                )
            if gone:
                await connection.execute(QUERIES["forget_node_health"], list(gone))
            if brake is not None:
                record = brake.record
                await connection.execute(
                    QUERIES["record_brake"],
                    record.engaged_at,
                    record.reason,
                    brake.detail,
                    sorted(record.population),
                )

        await self._leading("record_health", lease, work)

    async def record_drill(self, lease: Lease, step: DrillStep) -> None:
        """See FleetStore. With its event, once."""

        async def work(connection: Connection) -> None:
            drill, reason = step.drill, str(step.reason)
            done = await connection.fetchval(
                QUERIES["step_drill"],
                drill.id,
                str(drill.phase),
                str(step.phase),
                step.outcome,
                _storable(step.detail),
            )
            if done:
                event = Event("drill", reason, step.detail, node_name=drill.node_name)
                await _write_events(connection, lease, [event])

        await self._leading("record_drill", lease, work)

    async def record_move_state(
        self, lease: Lease, processor_id: UUID, epoch: int, state_at: float
    ) -> None:
        """See FleetStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                QUERIES["record_move_states"], [processor_id], [epoch], [state_at]
            )

        await self._leading("record_move_state", lease, work)

    async def record_move_error(self, lease: Lease, processor_id: UUID, error: str) -> None:
        """See FleetStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                QUERIES["record_move_error"], processor_id, _storable(error)[:_ERROR_LENGTH_MAX]
            )

        await self._leading("record_move_error", lease, work)

    async def record_events(self, lease: Lease, events: Sequence[Event]) -> None:
        """See FleetStore."""

        async def work(connection: Connection) -> None:
            await _write_events(connection, lease, events)

        await self._leading("record_events", lease, work)

    async def tell(self, events: Sequence[Event]) -> None:
        """See TellingStore."""

        async def work(connection: Connection) -> None:
            await _write_events(connection, None, events)

        await self._others.run("record_events", work, timeout_seconds=self._timeout_seconds)

    async def shown(self) -> tuple[dict[UUID, str], set[str]]:
        """See FleetStore."""

        async def work(connection: Connection) -> tuple[dict[UUID, str], set[str]]:
            states = await connection.fetch(QUERIES["list_state_reasons"])
            nodes = await connection.fetch(QUERIES["list_node_names"])
            return {row[0]: row[1] for row in states}, {row[0] for row in nodes}

        return await self._others.run("shown", work, timeout_seconds=_READ_SECONDS)

    async def forget_events(self, older_than_seconds: float) -> bool:
        """See FleetStore."""

        async def work(connection: Connection) -> bool:
            step = (older_than_seconds, _FORGET_STEP)
            events = await connection.fetch(QUERIES["forget_events"], *step)
            moves = await connection.fetch(QUERIES["forget_moves"], *step)
            await connection.execute(QUERIES["forget_last_known"], _FORGET_STEP)
            return max(len(events), len(moves)) == _FORGET_STEP

        return await self._others.run("forget_events", work, timeout_seconds=_WRITE_SECONDS)

    # What operators ask

    async def open_questions(self, limit: int) -> Sequence[Question]:
        """See QuestionStore."""

        async def work(connection: Connection) -> list[Question]:
            rows = await connection.fetch(QUERIES["open_questions"], _QUESTION_SECONDS, limit)
            return [Question(row["id"], row["kind"], json.loads(row["parameters"])) for row in rows]

        return await self._others.run("open_questions", work, timeout_seconds=_READ_SECONDS)

    async def answer_questions(self, lease: Lease, answers: Mapping[int, str]) -> None:
        """See QuestionStore."""

        async def work(connection: Connection) -> None:
            texts = [_storable(text) for text in answers.values()]
            await connection.execute(QUERIES["answer_questions"], list(answers), texts)

        await self._leading("answer_questions", lease, work)

    async def failover_seconds(self) -> float | None:
        """See QuestionStore."""

        async def work(connection: Connection) -> float | None:
            seconds: float | None = await connection.fetchval(QUERIES["failover_experience"])
            return seconds

        return await self._others.run("failover_seconds", work, timeout_seconds=_READ_SECONDS)

    # Health of pods

    async def record_pod_health(self, findings: Sequence[PodFinding]) -> None:
        """See PodHealthStore."""
        columns = _columns(findings, len(PodFinding._fields))

        async def work(connection: Connection) -> None:
            await connection.execute(QUERIES["record_pod_health"], *columns)
            await connection.execute(QUERIES["note_last_known"], columns[0])
            await connection.execute(QUERIES["note_last_health"], *columns)

        await self._others.run("update_pod_health", work, timeout_seconds=self._timeout_seconds)


async def _show_pods(records: Sequence[Record], connection: Connection) -> set[UUID]:
    rows = await connection.fetch(
        QUERIES["show_pods"],
        [r.processor_id for r in records],
        [r.epoch for r in records],
        [r.pod.name for r in records],
        [r.pod.ip for r in records],
        [r.pod.node_name for r in records],
    )
    return {row["id"] for row in rows}


async def _show_what_can_be(records: Sequence[Record], connection: Connection) -> set[UUID]:
    """Halve until what is refused stands alone."""
    try:
        async with connection.transaction():
            return await _show_pods(records, connection)
    except DRIVER_ERRORS as error:
        if not isinstance(translate(error), StoreDataError):
            raise
        if len(records) > 1:
            half = len(records) // 2
            return await _show_what_can_be(records[:half], connection) | await _show_what_can_be(
                records[half:], connection
            )
        _log.warning(
            "the platform's table refuses to show a pod",
            processor_id=str(records[0].processor_id),
            pod=records[0].pod.name,
            error=str(translate(error)),
        )
        return set()


class _DesiredReader:
    """Reads what is desired, and keeps the values of rows that have not changed."""

    def __init__(self, canary_gap_seconds: float, quiet_seconds: float) -> None:
        self._canary_gap_seconds = canary_gap_seconds
        self._quiet_seconds = quiet_seconds
        self._configs = ConfigReader()
        self._owners: Kept[UUID, Any, Ownership] = Kept()
        self._nodes: Kept[UUID, Any, EdgeNodeRow] = Kept()
        self._records: Kept[str, Any, NodeRecord] = Kept()

    async def read(self, connection: Connection) -> Desired:
        """To be called in a transaction: all statements read one snapshot."""
        moment = await connection.fetchrow(QUERIES["read_now"])
        guard = await connection.fetchrow(QUERIES["read_guard"])
        nodes = await connection.fetch(QUERIES["list_edge_nodes"])
        heartbeats = await connection.fetch(QUERIES["list_heartbeats"], self._quiet_seconds)
        links = await connection.fetch(QUERIES["list_links"])
        homes = await connection.fetch(QUERIES["list_homes"])
        moves = await connection.fetch(QUERIES["list_moves"])
        retries = await connection.fetch(QUERIES["list_move_retries"])
        gaps = await connection.fetch(QUERIES["list_gaps"], _GAPS_SECONDS, self._canary_gap_seconds)
        records = await connection.fetch(QUERIES["list_node_health"])
        brake = await connection.fetchrow(QUERIES["read_brake"])
        owners = await connection.fetch(QUERIES["list_ownership"])
        pause = await connection.fetchrow(QUERIES["read_pause"])
        orders = await connection.fetch(QUERIES["list_orders"])
        drill = await connection.fetchrow(QUERIES["read_drill"])
        return Desired(
            now=moment["now"],
            fleet_id=moment["fleet_id"],
            configs=await self._configs.read(connection),
            edge_nodes=self._nodes.take({row[0]: row for row in nodes}, _edge_node),
            heartbeats={row["processor_id"]: row["heartbeat_at"] for row in heartbeats},
            links={row["processor_id"]: row["edge_node_id"] for row in links},
            homes={row["processor_id"]: row["edge_node_id"] for row in homes},
            moves={row["processor_id"]: _move(row) for row in moves},
            move_retries={row[0]: MoveRetry(*tuple(row)[1:]) for row in retries},
            gaps=tuple(Gap(row["began_at"], row["ended_at"], row["cause"]) for row in gaps),
            node_records=self._records.take({row[0]: row for row in records}, _node_record),
            brake=_brake(brake),
            ownership=self._owners.take({row[0]: row for row in owners}, _ownership),
            guard=GuardRecord(
                held_since=guard["held_since"],
                confirmed_at=guard["confirmed_at"],
                confirmed=json.loads(guard["confirmed"]),
            ),
            pause=None if pause is None else Pause(**pause),
            orders={row[0]: Order(OrderKind(row[1]), row[2], row[3]) for row in orders},
            drill=None if drill is None else _drill(drill),
        )


def _ownership(row: Any) -> Ownership:
    return Ownership(*tuple(row)[1:])


def _edge_node(row: Any) -> EdgeNodeRow:
    return EdgeNodeRow(**row)


def _move(row: Any) -> Move:
    _, kind, *_ = tuple(row)
    said = {name: value for name, value in row.items() if name not in ("processor_id", "kind")}
    return Move(kind=MoveKind(kind), **said)


def _node_record(row: Any) -> NodeRecord:
    _, state, reason, since, suspect_since, well_since, last_well_at, falls = tuple(row)
    return NodeRecord(
        state=NodeState(state),
        reason=NodeReason(reason),
        since=since,
        suspect_since=suspect_since,
        well_since=well_since,
        last_well_at=last_well_at,
        falls=tuple(falls),
    )


def _drill(row: Any) -> Drill:
    return Drill(**{**row, "phase": DrillPhase(row["phase"])})


def _brake(row: Any) -> BrakeRecord:
    return BrakeRecord(
        engaged_at=row["engaged_at"],
        reason=None if row["reason"] is None else BrakeReason(row["reason"]),
        population=frozenset(row["population"]),
        override_until=row["override_until"],
    )


def _health_columns(nodes: Sequence[NodeHealth]) -> list[list[Any]]:
    rows = [
        (
            n.key,
            n.name,
            n.edge_node_id,
            n.record.state,
            n.record.reason,
            n.detail,
            n.record.since,
            n.record.suspect_since,
            n.record.well_since,
            n.record.last_well_at,
            json.dumps(n.record.falls),
        )
        for n in nodes
    ]
    return _columns(rows, 11)


class _Grants:
    """One batch of actions, a statement for each kind."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._refused: dict[UUID, GrantRefusal] = {}
        """Moves that may not begin."""

    async def of(self, actions: Sequence[Action]) -> Granted:
        """Whether each is granted, in their order. While everything is paused nothing is that
        touches the cluster."""
        touching = [a for a in actions if isinstance(a, Create | Delete | CancelMove)]
        paused = touching and await self._connection.fetchval(QUERIES["check_pause"])
        if paused:
            touching = []
        creates = await self._creations([a for a in touching if isinstance(a, Create)])
        deletes = await self._deletions([a for a in touching if isinstance(a, Delete)])
        adopts = await self._adoptions([a for a in actions if isinstance(a, Adopt)])
        failures = await self._failures([a for a in actions if isinstance(a, Failure)])
        forgets = await self._forgetting([a for a in actions if isinstance(a, Forget)])
        ends = await self._ends([a for a in actions if isinstance(a, EndMove)])
        cancels = await self._cancels([a for a in touching if isinstance(a, CancelMove)])

        def is_granted(action: Action) -> bool:
            match action:
                case Create():
                    return action.processor_id in creates
                case Delete():
                    return action.pod.uid in deletes
                case Adopt():
                    return action.processor_id in adopts
                case Failure():
                    return action.processor_id in failures
                case Forget():
                    return action.processor_id in forgets
                case EndMove():
                    return action.processor_id in ends
                case CancelMove():
                    return action.processor_id in cancels

        def refusal_of_one(action: Action) -> GrantRefusal | None:
            if is_granted(action):
                return None
            if paused and isinstance(action, Create | Delete | CancelMove):
                return GrantRefusal.PAUSED
            return self._refused.get(action.processor_id, GrantRefusal.CHANGED)

        return Granted([refusal_of_one(action) for action in actions])

    async def _ids(self, query: str, *columns: Sequence[object]) -> set[Any]:
        if not columns[0]:
            return set()
        return {row[0] for row in await self._connection.fetch(QUERIES[query], *columns)}

    async def _creations(self, every: Sequence[Create]) -> set[UUID]:
        asked = await self._still_moving(every)
        granted = await self._ids(
            "grant_creations",
            [a.processor_id for a in asked],
            [a.epoch for a in asked],
            [a.choice.node_name or a.spec.node_name for a in asked],
        )
        links = [a for a in asked if a.edge_node_id is not None and a.processor_id in granted]
        if links:
            await self._connection.execute(
                QUERIES["link_edge_nodes"],
                [a.processor_id for a in links],
                [a.edge_node_id for a in links],
            )
        await self._begin_moves([a for a in asked if a.processor_id in granted])
        return granted

    async def _deletions(self, every: Sequence[Delete]) -> set[str]:
        asked = await self._still_moving(every)
        granted = await self._ids(
            "grant_deletions",
            [a.processor_id for a in asked],
            [a.epoch for a in asked],
            [a.pod.uid for a in asked],
            [a.reason is Reason.NOT_DESIRED for a in asked],
            # How a failed pod ended was noted with its failure, and is the better cause.
            [None if a.reason is Reason.FAILED else str(a.reason) for a in asked],
        )
        await self._begin_moves([a for a in asked if a.pod.uid in granted])
        return granted

    async def _still_moving(self, asked: Sequence[_Begins]) -> Sequence[_Begins]:
        """Those without a move, and those whose move still rests on what it was decided on."""
        moves = {a.processor_id: a.move for a in asked if a.move is not None}
        if not moves:
            return asked
        keys = list(moves)
        held = await self._ids("hold_links", keys)
        nodes = [move.edge_node_id for move in moves.values()]
        for row in await self._connection.fetch(QUERIES["move_facts"], keys, nodes):
            refusal = refusal_of(moves[row["processor_id"]], _move_facts(row, held))
            if refusal is not None:
                self._refused[row["processor_id"]] = refusal
        return [a for a in asked if a.move is None or a.processor_id not in self._refused]

    async def _begin_moves(self, granted: Sequence[Create | Delete]) -> None:
        moves = [(a, a.move) for a in granted if a.move is not None]
        if not moves:
            return
        keys = [a.processor_id for a, _ in moves]
        superseded = await self._connection.fetch(QUERIES["supersede_moves"], keys)
        # Who was on the way home has its link there again: it does not arrive after all.
        failbacks = [row for row in superseded if row["kind"] == MoveKind.FAILBACK]
        if failbacks:
            await self._connection.execute(
                QUERIES["leave_edge_nodes"],
                [row["processor_id"] for row in failbacks],
                [row["edge_node_id"] for row in failbacks],
            )
        await self._connection.execute(
            QUERIES["begin_moves"],
            keys,
            [str(move.kind) for _, move in moves],
            [move.from_node for _, move in moves],
            [_destination(a) for a, _ in moves],
            [move.edge_node_id for _, move in moves],
            [move.old_uid for _, move in moves],
            [a.epoch for a, _ in moves],
            [move.last_alive_at for _, move in moves],
            [move.suspect_at for _, move in moves],
            [a.detail for a, _ in moves],
        )
        await self._leave([(k, m) for k, (_, m) in zip(keys, moves, strict=True)])
        home = [
            (key, move.edge_node_id)
            for key, (_, move) in zip(keys, moves, strict=True)
            if move.kind is MoveKind.FAILBACK
        ]
        if home:
            ids = [key for key, _ in home]
            await self._connection.execute(
                QUERIES["return_to_edge_nodes"], ids, [node for _, node in home]
            )
            await self._connection.execute(QUERIES["forget_left_nodes"], ids)
            await self._connection.execute(QUERIES["fulfil_orders"], ids)

    async def _leave(self, moves: Sequence[tuple[UUID, MoveStart]]) -> None:
        left = [(key, move) for key, move in moves if move.kind is not MoveKind.FAILBACK]
        if not left:
            return
        keys, nodes = [key for key, _ in left], [move.edge_node_id for _, move in left]
        await self._connection.execute(QUERIES["leave_edge_nodes"], keys, nodes)
        await self._connection.execute(
            QUERIES["note_left_nodes"], keys, nodes, [move.fencing for _, move in left]
        )

    async def _ends(self, asked: Sequence[EndMove]) -> set[UUID]:
        ended = await self._ids(
            "end_moves",
            [a.processor_id for a in asked],
            [a.epoch for a in asked],
            [a.pod.uid for a in asked],
            [a.pod.node_name for a in asked],
            [a.rto_seconds for a in asked],
            [a.rpo_seconds for a in asked],
            [a.pod.created_at for a in asked],
            [a.pod.ready_changed_at for a in asked],
        )
        await self._forget_retries(ended)
        return ended

    async def _forget_retries(self, keys: set[UUID]) -> None:
        if keys:
            await self._connection.execute(QUERIES["forget_move_retries"], list(keys))

    async def _with_free_links(self, every: Sequence[_Linked]) -> Sequence[_Linked]:
        """Those whose links may be written without waiting for somebody."""
        if not every:
            return every
        held = await self._ids("hold_links", [a.processor_id for a in every])
        self._refused |= dict.fromkeys(held, GrantRefusal.LINK_HELD)
        return [a for a in every if a.processor_id not in held]

    async def _cancels(self, every: Sequence[CancelMove]) -> set[UUID]:
        """A failover or a departure that is cancelled leaves nothing behind, nor an order to go; a
        failback leaves its home once more."""
        asked = await self._with_free_links(every)
        granted = await self._ids(
            "cancel_moves",
            [a.processor_id for a in asked],
            [a.before_epoch for a in asked],
            [a.pod.uid for a in asked],
            [a.pod.name for a in asked],
            [a.pod.node_name for a in asked],
            [a.edge_node_id if a.kind is MoveKind.FAILBACK else None for a in asked],
        )
        for kind, query in (
            (MoveKind.FAILOVER, "return_to_edge_nodes"),
            (MoveKind.DEPARTURE, "return_to_edge_nodes"),
            (MoveKind.FAILBACK, "leave_edge_nodes"),
        ):
            links = [a for a in asked if a.kind is kind and a.processor_id in granted]
            if links:
                await self._connection.execute(
                    QUERIES[query],
                    [a.processor_id for a in links],
                    [a.edge_node_id for a in links],
                )
        retries = [(a, a.retry) for a in asked if a.retry and a.processor_id in granted]
        if retries:
            await self._connection.execute(
                QUERIES["record_move_retries"],
                [a.processor_id for a, _ in retries],
                [retry.failures for _, retry in retries],
                [retry.retry_at for _, retry in retries],
                [retry.error for _, retry in retries],
            )
        stay = [
            a.processor_id
            for a in asked
            if a.kind is MoveKind.DEPARTURE and a.processor_id in granted
        ]
        if stay:
            await self._connection.execute(QUERIES["forget_orders"], stay)
        return granted

    async def _adoptions(self, asked: Sequence[Adopt]) -> set[UUID]:
        return await self._ids(
            "grant_adoptions",
            [a.processor_id for a in asked],
            [a.epoch for a in asked],
            [a.pod.uid for a in asked],
            [a.pod.node_name for a in asked],
        )

    async def _failures(self, asked: Sequence[Failure]) -> set[UUID]:
        return await self._ids(
            "grant_failures",
            [a.processor_id for a in asked],
            [a.epoch for a in asked],
            [a.failed_uid for a in asked],
            [a.failures for a in asked],
            [a.retry_seconds for a in asked],
            [a.pod and a.pod.exit_code for a in asked],
            [a.cause and _storable(a.cause) for a in asked],
        )

    async def _forgetting(self, every: Sequence[Forget]) -> set[UUID]:
        asked = await self._with_free_links(every)
        forgotten = await self._ids(
            "grant_forgetting", [a.processor_id for a in asked], [a.epoch for a in asked]
        )
        if forgotten:
            await self._connection.execute(QUERIES["stop_links"], list(forgotten))
            await self._connection.execute(QUERIES["drop_moves"], list(forgotten))
            await self._connection.execute(QUERIES["forget_orders"], list(forgotten))
            await self._forget_retries(forgotten)
        return forgotten


def _move_facts(row: Any, held: set[UUID]) -> MoveFacts:
    return MoveFacts(
        now=row["now"],
        brake_engaged=row["brake_engaged"],
        link_id=row["link_id"],
        link_held=row["processor_id"] in held,
        status=row["status"],
        cordoned=row["cordoned"],
        failover_enabled=row["failover_enabled"],
        heartbeat_at=row["heartbeat_at"],
        order=None if row["order_kind"] is None else OrderKind(row["order_kind"]),
        drill_runs=row["drill_runs"],
        comes_home=row["comes_home"],
    )


def _destination(action: Create | Delete) -> str | None:
    return action.choice.node_name if isinstance(action, Create) else None


async def _write_events(
    connection: Connection, lease: Lease | None, events: Sequence[Event]
) -> None:
    if events:
        columns = _columns(events, len(Event._fields))
        term = None if lease is None else lease.term
        await connection.execute(QUERIES["record_events"], *columns, term)


def _columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows as columns, for unnest."""
    columns: list[list[Any]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(_storable(value) if isinstance(value, str) else value)
    return columns


def _storable(text: str) -> str:
    """What a cluster says may hold what the database cannot: NUL, half a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _owner_columns(records: Sequence[Record]) -> list[list[Any]]:
    return _columns(
        (
            (
                r.processor_id,
                r.epoch,
                r.pod.uid,
                r.pod.name,
                r.pod.ip,
                r.pod.node_name,
                r.pod.ready,
                r.pod.namespace,
            )
            for r in records
        ),
        8,
    )


def _state_columns(findings: Mapping[UUID, Finding]) -> list[list[Any]]:
    return _columns((_state_row(key, finding) for key, finding in findings.items()), 12)


def _state_row(processor_id: UUID, finding: Finding) -> tuple[Any, ...]:
    said = (processor_id, str(finding.state), str(finding.reason), finding.detail)
    pod = finding.pod
    if pod is None:
        return (*said, *(None,) * 8)
    return (
        *said,
        pod.namespace,
        pod.name,
        pod.uid,
        pod.node_name,
        pod.ip,
        str(pod.phase),
        pod.epoch,
        pod.restart_count,
    )
