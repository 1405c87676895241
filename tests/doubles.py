"""A store in memory. It passes the same contract suite as PostgreSQL."""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from dory_orchestrator.core.answering import Question
from dory_orchestrator.core.brake import BrakeRecord, BrakeVerdict
from dory_orchestrator.core.directive import ENDED, NOT_FOUND, BeatFacts
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
    ProcessorConfig,
)
from dory_orchestrator.core.node_health import NodeRecord
from dory_orchestrator.core.node_rows import Candidate
from dory_orchestrator.core.picture import Doubts, UnownedPod
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
from dory_orchestrator.ports import (
    NO_TRACES,
    Action,
    Beat,
    DepartedState,
    EdgeNode,
    EdgeNodeAmbiguous,
    EdgeNodeNotFound,
    EdgeNodeRegistration,
    Event,
    Lease,
    LeaseLost,
    NodeHealth,
    NodeSummary,
    PictureBefore,
    PodFinding,
    RegistrationRefused,
    Store,
    StoreError,
    StoreUnavailable,
    event_of,
    is_told,
)

_SILENT_SECONDS = 60.0


@dataclass
class Processor:
    """What the double keeps of a row of `processors`, of its link and of its latest move."""

    status: str = "running"
    health_status: str = "unknown"
    edge_node_id: UUID | None = None
    left_node_name: str | None = None
    owner_node_name: str | None = None
    owner_ready: bool = False
    locked: bool = False
    last_health_check_at: float | None = None
    heartbeat_at: float | None = None
    polled_at: float | None = None
    pod_name: str | None = None
    pod_ip: str | None = None
    node_name: str | None = None
    home_id: UUID | None = None


class Told(NamedTuple):
    """An event as it is stored."""

    event: Event
    term: int | None
    at: float


@dataclass
class MemoryLeader:
    """The row of `orchestrator.leader`."""

    term: int = 0
    holder: str | None = None
    expires_at: float = float("-inf")


@dataclass
class MemoryPicture:
    """The row of `orchestrator.picture`."""

    seen_at: float | None = None
    interval_seconds: float = 0.0
    cluster_uid: str | None = None
    is_whole: bool = False


@dataclass
class MemoryStore:
    """Set `error` to have every call fail with it, `errors` to have those of one name; `hold`
    and `holds` likewise to have calls wait.

    `configs` are the desired processors; `desire` and `undesire` keep their rows in step.
    """

    processors: dict[UUID, Processor] = field(default_factory=dict)
    nodes: dict[UUID, EdgeNode] = field(default_factory=dict)
    configs: dict[UUID, ProcessorConfig] = field(default_factory=dict)
    error: StoreError | None = None
    hold: asyncio.Event | None = None
    errors: dict[str, StoreError] = field(default_factory=dict)
    holds: dict[str, asyncio.Event] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    batches: list[list[Beat]] = field(default_factory=list)
    canaries: int = 0
    gaps: list[tuple[str, float]] = field(default_factory=list)
    before_batch: Callable[[Sequence[Beat]], None] = lambda _beats: None
    clock: Callable[[], float] = time.time
    quiet_seconds: float = 30.0
    fleet_id: str = "00000000-0000-0000-0000-0000000000f1"
    leader: MemoryLeader = field(default_factory=MemoryLeader)
    owners: dict[UUID, Ownership] = field(default_factory=dict)
    departed: dict[UUID, tuple[DepartedState, float]] = field(default_factory=dict)
    """Whose documents may still be there, and since when they are gone."""
    cordoned: set[UUID] = field(default_factory=set)
    guard: GuardRecord = field(default_factory=GuardRecord)
    guard_counts: dict[str, int] = field(default_factory=dict)
    shown_term: int = 0
    links_of_gone: dict[UUID, UUID] = field(default_factory=dict)
    guard_detail: str = ""
    states: dict[UUID, Finding] = field(default_factory=dict)
    node_rows: dict[str, NodeSummary] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    moves: dict[UUID, Move] = field(default_factory=dict)
    ended_moves: list[tuple[UUID, Move, str]] = field(default_factory=list)
    heard_gaps: list[Gap] = field(default_factory=list)
    node_records: dict[str, NodeRecord] = field(default_factory=dict)
    brake: BrakeRecord = field(default_factory=BrakeRecord)
    pause: Pause | None = None
    orders: dict[UUID, Order] = field(default_factory=dict)
    move_retries: dict[UUID, MoveRetry] = field(default_factory=dict)
    held_links: set[UUID] = field(default_factory=set)
    """Processors whose link another transaction holds."""
    drill: Drill | None = None
    questions: list[Question] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    failover_experience_seconds: float | None = None
    fencing: dict[UUID, bool] = field(default_factory=dict)
    has_cluster: bool = False
    cluster_uid: str | None = None
    picture: MemoryPicture = field(default_factory=MemoryPicture)
    unowned: dict[UUID, UnownedPod] = field(default_factory=dict)
    _changed: list["_Listener"] = field(default_factory=list)

    # What tests do to it

    def desire(self, config: ProcessorConfig, edge_node_id: UUID | None = None) -> None:
        """Insert or change a row, and tell of it."""
        self.configs[config.processor_id] = config
        row = self.processors.setdefault(config.processor_id, Processor())
        row.status = config.status
        row.edge_node_id = edge_node_id or row.edge_node_id
        self.notify()

    def undesire(self, processor_id: UUID, status: str | None = None) -> None:
        """Delete a row, or end it by its status; and tell of it."""
        self.configs.pop(processor_id, None)
        if status is None:
            gone = self.processors.pop(processor_id, None)
            if gone is not None and gone.edge_node_id is not None:
                self.links_of_gone[processor_id] = gone.edge_node_id
        else:
            self.processors[processor_id].status = status
        self.notify()

    def confirm(self, counts: Mapping[str, int]) -> None:
        """An operator accepts counts."""
        self.guard = replace(self.guard, confirmed_at=self.clock(), confirmed=dict(counts))
        self.notify()

    def notify(self) -> None:
        """What a trigger does when the desired state changes."""
        for listener in self._changed:
            listener.event.set()

    def cut_listeners(self) -> None:
        """Their connections are lost."""
        for listener in self._changed:
            listener.cut = True
            listener.event.set()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._changed)

    @property
    def events(self) -> list[Event]:
        """What was told."""
        return [told.event for told in self.told]

    # The port

    async def _answer(self, name: str) -> None:
        self.calls[name] += 1
        for hold in (self.hold, self.holds.get(name)):
            if hold is not None:
                await hold.wait()
        error = self.error or self.errors.get(name)
        if error is not None:
            raise error

    async def ping(self, timeout_seconds: float) -> None:
        await self._answer("ping")

    async def record_heartbeats(
        self, beats: Sequence[Beat], *, canary: bool, timeout_seconds: float
    ) -> list[BeatFacts]:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._answer("record_heartbeats")
        except TimeoutError as error:
            raise StoreUnavailable("no answer in time") from error
        self.before_batch(beats)
        self.batches.append(list(beats))
        self.canaries += canary
        facts = [self._record(beat) for beat in beats]
        if canary:
            self._take_in_the_clock_s_step()
        return facts

    def _take_in_the_clock_s_step(self) -> None:
        """Beats that lie ahead count as of now: the clock was set back."""
        now = datetime.now(UTC)
        for key, node in self.nodes.items():
            if node.last_heartbeat_at is not None and node.last_heartbeat_at > now:
                self.nodes[key] = replace(node, last_heartbeat_at=now)

    async def read_doubts(self) -> Doubts:
        await self._answer("read_doubts")
        picture = self.picture
        unknown = [f"{p.namespace}/{p.name}" for p in self.unowned.values() if p.is_unknown]
        return Doubts(
            database="memory",
            server="nowhere",
            guard_holds=self.guard.held_since is not None,
            age_seconds=None if picture.seen_at is None else self.clock() - picture.seen_at,
            interval_seconds=picture.interval_seconds,
            is_whole=picture.is_whole,
            seen_cluster_uid=picture.cluster_uid,
            cluster_uid=self.cluster_uid,
            unknown_count=len(unknown),
            unknown_pods=sorted(unknown)[:5],
        )

    def _doubts(self, processor_id: UUID) -> dict[str, Any]:
        """Of one whose row is missing or has ended."""
        guarded = self.guard.held_since is not None
        if not (self.has_cluster or self.leader.term > 0):
            return {"deletion_undecided": guarded}
        own, picture = self.owners.get(processor_id), self.picture
        is_ending = own is not None and own.end_granted
        has_pod = own is not None and own.has_pod
        age = None if picture.seen_at is None else self.clock() - picture.seen_at
        return {
            "deletion_undecided": guarded or (has_pod and not is_ending),
            "no_picture": age is None or not -1 <= age <= picture.interval_seconds,
            "unowned_pod": processor_id in self.unowned or (not picture.is_whole and not is_ending),
        }

    def _record(self, beat: Beat) -> BeatFacts:
        processor = self.processors.get(beat.processor_id)
        if processor is None:
            self._touch(self.links_of_gone.get(beat.processor_id))
            return replace(NOT_FOUND, **self._doubts(beat.processor_id))
        if not processor.locked:
            processor.health_status = "healthy" if beat.healthy else "unhealthy"
            processor.last_health_check_at = processor.heartbeat_at = self.clock()
            if not self._is_said_on_the_way_home(beat):
                self._touch(processor.edge_node_id)
            if beat.node_name == processor.left_node_name:
                self._touch(processor.home_id)
        owner_node_name, owner_ready = processor.owner_node_name, processor.owner_ready
        own = self.owners.get(beat.processor_id)
        if own is not None and processor.left_node_name is not None:
            owner_node_name = own.node_name
            owner_ready = own.ready and self.fencing.get(beat.processor_id, True)
        return BeatFacts(
            True,
            not processor.locked,
            processor.status,
            processor.left_node_name,
            owner_node_name,
            owner_ready,
            **(self._doubts(beat.processor_id) if processor.status in ENDED else {}),
        )

    def _is_said_on_the_way_home(self, beat: Beat) -> bool:
        move = self.moves.get(beat.processor_id)
        if move is None or move.kind is not MoveKind.FAILBACK or move.edge_node_id is None:
            return False
        home = self.nodes.get(move.edge_node_id)
        return home is None or home.name != beat.node_name

    def _touch(self, edge_node_id: UUID | None) -> None:
        if edge_node_id in self.nodes:
            node = self.nodes[edge_node_id]
            self.nodes[edge_node_id] = replace(node, last_heartbeat_at=datetime.now(UTC))

    async def register_edge_node(self, registration: EdgeNodeRegistration) -> EdgeNode:
        await self._answer("register_edge_node")
        found = next(
            (
                node
                for node in self.nodes.values()
                if (node.organization_id, node.name)
                == (registration.organization_id, registration.name)
            ),
            None,
        )
        self._check_target(registration, found)
        node = self._registered(registration, found)
        self.nodes[node.id] = node
        return node

    def _check_target(self, registration: EdgeNodeRegistration, found: EdgeNode | None) -> None:
        seen: set[UUID] = set()
        at = registration.failover_target_node_id
        while at is not None and at not in seen:
            node = self.nodes.get(at)
            if node is None or node.organization_id != registration.organization_id:
                raise RegistrationRefused("failover_target_node_id: unknown")
            if found is not None and at == found.id:
                raise RegistrationRefused("failover_target_node_id: a cycle")
            seen.add(at)
            at = node.failover_target_node_id

    def _registered(self, given: EdgeNodeRegistration, found: EdgeNode | None) -> EdgeNode:
        if found is None:
            return EdgeNode(
                id=uuid.uuid4(),
                organization_id=given.organization_id,
                name=given.name,
                status="online",
                failover_enabled=given.failover_enabled,
                failover_target_node_id=given.failover_target_node_id,
                last_heartbeat_at=None,
            )
        changes = {name: getattr(given, name) for name in given.given}
        return replace(found, status="online", **changes)

    async def decommission_edge_node(self, name: str, organization_id: UUID | None) -> int:
        await self._answer("decommission_edge_node")
        found = [
            node
            for node in self.nodes.values()
            if node.name == name and organization_id in (None, node.organization_id)
        ]
        if not found:
            raise EdgeNodeNotFound("node_name: unknown")
        if len({node.organization_id for node in found}) > 1:
            raise EdgeNodeAmbiguous("node_name", name, [_candidate(node) for node in found])
        return sum(self._decommission(node) for node in found)

    def _decommission(self, node: EdgeNode) -> int:
        self.nodes[node.id] = replace(node, status="decommissioned")
        self.cordoned.add(node.id)
        linked = [p for p in self.processors.values() if p.edge_node_id == node.id]
        for processor in linked:
            processor.edge_node_id = None
        return len(linked)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[None]]:
        error = self.error or self.errors.get("changes")
        if error is not None:
            raise error
        listener = _Listener(asyncio.Event())
        self._changed.append(listener)
        try:
            yield listener.wakes()
        finally:
            self._changed.remove(listener)

    async def extend_gap(self, cause: str, since_seconds: float) -> None:
        await self._answer("extend_gap")
        self.gaps.append((cause, since_seconds))

    async def forget_gaps(self, older_than_seconds: float) -> None:
        await self._answer("forget_gaps")

    # The lease

    async def hold_lease(self, holder: str, term: int | None, seconds: float) -> int | None:
        await self._answer("hold_lease")
        leader, now = self.leader, self.clock()
        is_free = leader.holder is None or leader.expires_at <= now
        if leader.holder != holder and not is_free:
            return None
        if is_free or leader.term != term:
            leader.term += 1
        leader.holder, leader.expires_at = holder, now + seconds
        return leader.term

    async def release_lease(self, lease: Lease) -> None:
        await self._answer("release_lease")
        if (self.leader.holder, self.leader.term) == lease:
            self.leader.holder, self.leader.expires_at = None, self.clock()

    async def _leading(self, name: str, lease: Lease) -> None:
        await self._answer(name)
        leader = self.leader
        if (leader.holder, leader.term) != lease or leader.expires_at <= self.clock():
            raise LeaseLost(f"the lease of term {lease.term} is not held any more")

    # The fleet

    async def read_desired(self) -> Desired:
        await self._answer("read_desired")
        links = {key: row.edge_node_id for key, row in self.processors.items()}
        return Desired(
            now=self.clock(),
            fleet_id=self.fleet_id,
            configs=dict(self.configs),
            edge_nodes={
                node.id: EdgeNodeRow(
                    node.id,
                    node.organization_id,
                    node.name,
                    node.status,
                    node.id in self.cordoned,
                    node.failover_enabled,
                    node.failover_target_node_id,
                    _seconds(node.last_heartbeat_at),
                )
                for node in self.nodes.values()
            },
            heartbeats=self._heartbeats(),
            links={key: node_id for key, node_id in links.items() if node_id is not None},
            homes=self._homes(),
            ownership=dict(self.owners),
            moves=dict(self.moves),
            move_retries=dict(self.move_retries),
            gaps=tuple(self.heard_gaps),
            node_records=dict(self.node_records),
            brake=self.brake,
            guard=self.guard,
            pause=self._pause(),
            orders=dict(self.orders),
            drill=self.drill,
        )

    def _heartbeats(self) -> dict[UUID, float | None]:
        """Of processors whose nodes have been silent for `quiet_seconds`."""
        found: dict[UUID, float | None] = {}
        for key, row in self.processors.items():
            node = self.nodes.get(row.edge_node_id) if row.edge_node_id is not None else None
            at = None if node is None else _seconds(node.last_heartbeat_at)
            if at is not None and at < self.clock() - self.quiet_seconds:
                found[key] = row.heartbeat_at
        return found

    def _homes(self) -> dict[UUID, UUID]:
        """Of those without a link: what they left, or are on their way home to."""
        coming = {
            key: move.edge_node_id
            for key, move in self.moves.items()
            if move.kind is MoveKind.FAILBACK
        }
        homes = {key: row.home_id or coming.get(key) for key, row in self.processors.items()}
        return {
            key: home_id
            for key, home_id in homes.items()
            if home_id is not None and self.processors[key].edge_node_id is None
        }

    def _pause(self) -> Pause | None:
        in_force = self.pause is not None and self.pause.until > self.clock()
        return self.pause if in_force else None

    async def grant(
        self, lease: Lease, actions: Sequence[Action], trace_ids: Mapping[UUID, str] = NO_TRACES
    ) -> Granted:
        await self._leading("grant", lease)
        granted = Granted([self._refusal_of(action) for action in actions])
        told = [a for a, ok in zip(actions, granted, strict=True) if ok and is_told(a)]
        self._tell(lease, [event_of(a, trace_ids.get(a.processor_id)) for a in told])
        return granted

    def _refusal_of(self, action: Action) -> GrantRefusal | None:
        if isinstance(action, Create | Delete | CancelMove):
            if self._pause() is not None:
                return GrantRefusal.PAUSED
            if not isinstance(action, CancelMove) and action.move is not None:
                refusal = self._refusal_of_move(action.processor_id, action.move)
                if refusal is not None:
                    return refusal
        return None if self._grant(action) else GrantRefusal.CHANGED

    def _grant(self, action: Action) -> bool:
        key, own = action.processor_id, self.owners.get(action.processor_id)
        match action:
            case Create():
                return self._place(action, own)
            case Delete():
                return self._end(action, own)
            case Adopt():
                if own is None:
                    pod = action.pod
                    self.owners[key] = Ownership(action.epoch, pod.uid, node_name=pod.node_name)
                return own is None
            case Failure():
                if own is None or own.epoch != action.epoch:
                    return False
                self.owners[key] = self._failed(own, action)
                return True
            case Forget():
                if own is None or own.epoch != action.epoch or key in self.configs:
                    return False
                self.owners[key] = gone = own.forgotten()
                if own.namespace is not None:
                    state = DepartedState(key, own.epoch, own.namespace, gone.last_pod_name)
                    self.departed[key] = state, self.clock()
                self._end_move(key, "dropped")
                self.orders.pop(key, None)
                self.move_retries.pop(key, None)
                return True
            case EndMove():
                return self._complete(action, own)
            case CancelMove():
                return self._cancel(action, own)

    # Moves

    def _refusal_of_move(self, key: UUID, move: MoveStart) -> GrantRefusal | None:
        """Whether what a decision was made on still holds."""
        now = self.clock()
        row, order, open_move = self.processors.get(key), self.orders.get(key), self.moves.get(key)
        node = self.nodes.get(move.edge_node_id) if move.edge_node_id is not None else None
        facts = MoveFacts(
            now=now,
            brake_engaged=self.brake.engaged_at is not None
            and (self.brake.override_until or 0.0) <= now,
            link_id=None if row is None else row.edge_node_id,
            link_held=key in self.held_links,
            status=None if node is None else node.status,
            cordoned=node is not None and node.id in self.cordoned,
            failover_enabled=node is None or node.failover_enabled,
            heartbeat_at=None if node is None else _seconds(node.last_heartbeat_at),
            order=None if order is None else order.kind,
            drill_runs=self.drill is not None
            and self.drill.edge_node_id == move.edge_node_id
            and self.drill.runs(now),
            comes_home=open_move is not None
            and open_move.kind is MoveKind.FAILBACK
            and open_move.edge_node_id == move.edge_node_id,
        )
        return refusal_of(move, facts)

    def _begin_move(self, key: UUID, start: MoveStart, epoch: int) -> None:
        before = self.moves.get(key)
        self._end_move(key, "superseded")
        row = self.processors.setdefault(key, Processor())
        if before is not None and before.kind is MoveKind.FAILBACK and before.edge_node_id:
            self._leave(row, before.edge_node_id)
        alive_at = start.last_alive_at
        if before is not None and before.last_alive_at is not None:
            alive_at = before.last_alive_at
        self.moves[key] = Move(
            kind=start.kind,
            from_node=start.from_node,
            old_uid=start.old_uid,
            edge_node_id=start.edge_node_id,
            began_at=self.clock(),
            last_alive_at=alive_at,
            suspect_at=start.suspect_at,
            epoch=epoch,
        )
        row = self.processors.setdefault(key, Processor())
        if start.kind is MoveKind.FAILBACK:
            order = self.orders.get(key)
            if order is not None and order.kind is OrderKind.FAILBACK:
                del self.orders[key]
            row.edge_node_id, row.home_id, row.left_node_name = row.home_id, None, None
            return
        self.fencing[key] = start.fencing
        if start.edge_node_id is not None:
            self._leave(row, start.edge_node_id)
            if row.edge_node_id is None and row.home_id is None:
                # Its link was stopped with the node: what was left is the way home.
                row.home_id = start.edge_node_id
            row.left_node_name = start.from_node

    def _leave(self, row: Processor, edge_node_id: UUID) -> None:
        if row.edge_node_id == edge_node_id:
            row.edge_node_id, row.home_id = None, edge_node_id

    def _end_move(self, key: UUID, outcome: str) -> None:
        move = self.moves.pop(key, None)
        if move is not None:
            self.ended_moves.append((key, move, outcome))

    def _complete(self, action: EndMove, own: Ownership | None) -> bool:
        key = action.processor_id
        if own is None or (own.epoch, own.pod_uid) != (action.epoch, action.pod.uid):
            return False
        if key not in self.moves:
            return False
        self._end_move(key, "done")
        self.move_retries.pop(key, None)
        return True

    def _cancel(self, action: CancelMove, own: Ownership | None) -> bool:
        key = action.processor_id
        if own is None or own.epoch != action.before_epoch:
            return False
        pod = action.pod
        self.owners[key] = replace(
            own,
            epoch=action.epoch,
            pod_uid=pod.uid,
            pod_name=pod.name,
            node_name=pod.node_name,
            pod_ip=None,
            ready=False,
            end_granted=False,
        )
        row = self.processors.setdefault(key, Processor())
        if action.kind is MoveKind.DEPARTURE:
            self.orders.pop(key, None)
        if action.kind in (MoveKind.FAILOVER, MoveKind.DEPARTURE):
            row.edge_node_id, row.home_id = row.edge_node_id or row.home_id, None
            row.left_node_name = None
        elif action.edge_node_id is not None:
            self._leave(row, action.edge_node_id)
            # Also where its link was stopped with the node.
            row.home_id = row.home_id or (None if row.edge_node_id else action.edge_node_id)
            node = self.nodes.get(action.edge_node_id)
            row.left_node_name = None if node is None else node.name
        if action.retry is not None:
            self.move_retries[key] = action.retry
        self._end_move(key, "cancelled")
        return True

    def _place(self, create: Create, own: Ownership | None) -> bool:
        key, before = create.processor_id, own.epoch if own is not None else 0
        if key not in self.configs or before != create.epoch - 1:
            return False
        node_name = create.choice.node_name or create.spec.node_name
        self.owners[key] = (own or Ownership(0)).granted(create.epoch, node_name)
        row = self.processors.setdefault(key, Processor())
        row.edge_node_id = row.edge_node_id or create.edge_node_id
        if create.move is not None:
            self._begin_move(key, create.move, create.epoch)
        return True

    def _end(self, delete: Delete, own: Ownership | None) -> bool:
        key = delete.processor_id
        if delete.reason is Reason.NOT_DESIRED and key in self.configs:
            return False
        if delete.epoch != (own.epoch if own is not None else 0):
            return False
        if delete.move is not None:
            self._begin_move(key, delete.move, delete.epoch)
        is_undesired = delete.reason is Reason.NOT_DESIRED
        is_unwritten = own is not None and own.pod_uid is None and is_undesired
        if own is not None and (own.pod_uid == delete.pod.uid or is_unwritten):
            own = replace(own, ready=False, end_granted=own.end_granted or is_undesired)
            if delete.reason is not Reason.FAILED:
                own = replace(own, exit_code=None, restart_reason=str(delete.reason))
            self.owners[key] = own
        return True

    def _failed(self, own: Ownership, failure: Failure) -> Ownership:
        return replace(
            own,
            failures=failure.failures,
            failed_pod_uid=failure.failed_uid,
            ready=False,
            retry_at=self.clock() + failure.retry_seconds,
            exit_code=failure.pod.exit_code if failure.pod is not None else None,
            restart_reason=failure.cause,
            changed_at=self.clock(),
        )

    def _tell(self, lease: Lease, events: Sequence[Event]) -> None:
        self.told += [Told(event, lease.term, self.clock()) for event in events]

    async def record_pods(self, lease: Lease, records: Sequence[Record]) -> None:
        await self._leading("record_pods", lease)
        for record in records:
            own, pod = self.owners.get(record.processor_id), record.pod
            if own is None or own.epoch != record.epoch:
                continue
            is_same = own.pod_uid == pod.uid
            self.owners[record.processor_id] = replace(
                own,
                pod_uid=pod.uid,
                pod_name=pod.name,
                pod_ip=pod.ip,
                namespace=pod.namespace,
                node_name=pod.node_name or own.node_name,
                ready=pod.ready,
                end_granted=False,
                exit_code=own.exit_code if is_same else None,
                restart_reason=own.restart_reason if is_same else None,
                changed_at=self.clock(),
            )

    async def show_pods(self, lease: Lease, records: Sequence[Record]) -> set[UUID]:
        await self._leading("show_pods", lease)
        held = set()
        for record in records:
            own, row = (
                self.owners.get(record.processor_id),
                self.processors.get(record.processor_id),
            )
            if row is None or own is None or own.epoch != record.epoch:
                continue
            if row.locked:
                held.add(record.processor_id)
                continue
            pod = record.pod
            row.pod_name, row.pod_ip, row.node_name = pod.name, pod.ip, pod.node_name
        return held

    async def record_picture(
        self,
        lease: Lease,
        *,
        interval_seconds: float,
        cluster_uid: str | None,
        is_whole: bool,
        unowned: Mapping[UUID, UnownedPod],
    ) -> PictureBefore:
        await self._leading("record_picture", lease)
        before, had = self.picture, any(pod.is_unknown for pod in self.unowned.values())
        self.cluster_uid = self.cluster_uid or cluster_uid
        is_other = cluster_uid is not None and cluster_uid != self.cluster_uid
        seen_at = None if is_other else self.clock()
        self.picture = MemoryPicture(seen_at, interval_seconds, cluster_uid, is_whole)
        self.unowned = dict(unowned)
        return PictureBefore(not is_other, before.cluster_uid, had)

    async def record_findings(
        self, lease: Lease, findings: Mapping[UUID, Finding], gone: Sequence[UUID]
    ) -> None:
        await self._leading("record_findings", lease)
        self.states.update(findings)
        for key in gone:
            self.states.pop(key, None)

    async def record_nodes(
        self, lease: Lease, nodes: Sequence[NodeSummary], gone: Sequence[str]
    ) -> None:
        await self._leading("record_nodes", lease)
        self.node_rows.update({node.name: node for node in nodes})
        for name in gone:
            self.node_rows.pop(name, None)

    async def mark_shown(self, lease: Lease) -> None:
        await self._leading("mark_shown", lease)
        self.shown_term = lease.term

    async def record_guard(self, lease: Lease, verdict: GuardVerdict) -> None:
        await self._leading("record_guard", lease)
        held_since = None
        if verdict.holds:
            held_since = self.guard.held_since or self.clock()
        self.guard = replace(self.guard, held_since=held_since)
        self.guard_counts = {group: left for group, (_, left) in verdict.tripped.items()}
        self.guard_detail = verdict.detail if verdict.holds else ""

    async def record_health(
        self,
        lease: Lease,
        nodes: Sequence[NodeHealth],
        gone: Sequence[str],
        brake: BrakeVerdict | None,
    ) -> None:
        await self._leading("record_health", lease)
        for one in nodes:
            self.node_records[one.key] = one.record
            node = self.nodes.get(one.edge_node_id) if one.edge_node_id is not None else None
            if node is not None and node.status in ("online", "offline"):
                status = "offline" if one.is_dead else "online"
                self.nodes[node.id] = replace(node, status=status)
        for key in gone:
            self.node_records.pop(key, None)
        if brake is not None:
            until = self.brake.override_until
            self.brake = replace(brake.record, override_until=until)

    async def record_move_state(
        self, lease: Lease, processor_id: UUID, epoch: int, state_at: float
    ) -> None:
        await self._leading("record_move_state", lease)
        if processor_id in self.moves:
            self.moves[processor_id] = replace(self.moves[processor_id], state_at=state_at)

    async def record_move_error(self, lease: Lease, processor_id: UUID, error: str) -> None:
        await self._leading("record_move_error", lease)
        if processor_id in self.moves:
            self.moves[processor_id] = replace(self.moves[processor_id], error=error)

    async def record_events(self, lease: Lease, events: Sequence[Event]) -> None:
        await self._leading("record_events", lease)
        self._tell(lease, events)

    async def tell(self, events: Sequence[Event]) -> None:
        await self._answer("tell")
        self.told += [Told(event, None, self.clock()) for event in events]

    async def shown(self) -> tuple[dict[UUID, str], set[str]]:
        await self._answer("shown")
        return {key: str(found.reason) for key, found in self.states.items()}, set(self.node_rows)

    async def forget_events(self, older_than_seconds: float) -> bool:
        await self._answer("forget_events")
        oldest = self.clock() - older_than_seconds
        self.told = [told for told in self.told if told.at >= oldest]
        return False

    async def record_drill(self, lease: Lease, step: DrillStep) -> None:
        await self._leading("record_drill", lease)
        if self.drill is None or self.drill.phase is not step.drill.phase:
            return
        self.drill = replace(self.drill, phase=step.phase)
        if step.phase is DrillPhase.ENDED:
            self.drill = None
        event = Event("drill", str(step.reason), step.detail, node_name=step.drill.node_name)
        self._tell(lease, [event])

    async def open_questions(self, limit: int) -> Sequence[Question]:
        await self._answer("open_questions")
        return [one for one in self.questions if one.id not in self.answers][:limit]

    async def answer_questions(self, lease: Lease, answers: Mapping[int, str]) -> None:
        await self._leading("answer_questions", lease)
        self.answers |= {key: json.loads(text) for key, text in answers.items()}

    async def failover_seconds(self) -> float | None:
        await self._answer("failover_seconds")
        return self.failover_experience_seconds

    async def record_pod_health(self, findings: Sequence[PodFinding]) -> None:
        await self._answer("record_pod_health")
        now = self.clock()
        for finding in findings:
            row = self.processors.get(finding.processor_id)
            if row is None:
                continue
            at = row.last_health_check_at
            if at is None or at == row.polled_at or at < now - _SILENT_SECONDS:
                row.health_status = "healthy" if finding.healthy else "unhealthy"
                row.last_health_check_at = row.polled_at = now


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _is_a_store(store: MemoryStore) -> Store:
    """That it is one is proved by the type checker."""
    return store


class RefusingStore(MemoryStore):
    """Grants nothing, as when the evidence never holds."""

    async def grant(
        self, lease: Lease, actions: Sequence[Action], trace_ids: Mapping[UUID, str] = NO_TRACES
    ) -> Granted:
        await self._leading("grant", lease)
        return Granted([GrantRefusal.CHANGED] * len(actions))


@dataclass(eq=False)
class _Listener:
    event: asyncio.Event
    cut: bool = False

    async def wakes(self) -> AsyncIterator[None]:
        while True:
            await self.event.wait()
            self.event.clear()
            if self.cut:
                raise StoreUnavailable("the connection that listens for changes was lost")
            yield


def _candidate(node: EdgeNode) -> Candidate:
    return Candidate(node.organization_id, node.id, node.status)
