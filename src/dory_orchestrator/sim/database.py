"""The database as the statements of `store` make it: every grant is a compare-and-set."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

from dory_orchestrator.core import checkpoint
from dory_orchestrator.core.brake import BrakeRecord
from dory_orchestrator.core.checkpoint import (
    Document,
    Incarnation,
    Position,
    StoredCheckpoint,
    judge_document,
    place_document,
)
from dory_orchestrator.core.directive import NOT_FOUND, BeatFacts
from dory_orchestrator.core.grants import MoveFacts, refusal_of
from dory_orchestrator.core.model import (
    Desired,
    EdgeNodeRow,
    Gap,
    GuardRecord,
    Move,
    MoveKind,
    MoveRetry,
    Ownership,
    Pod,
    PodPhase,
    ProcessorConfig,
)
from dory_orchestrator.core.node_health import NodeRecord
from dory_orchestrator.core.plan import (
    Adopt,
    CancelMove,
    Create,
    Delete,
    EndMove,
    Failure,
    Forget,
    MoveStart,
    Plan,
    Reason,
    Record,
)
from dory_orchestrator.sim.ground import Ground, Promise

FLEET_ID = "00000000-0000-0000-0000-0000000051ab"
PROOF = ("/count",)
CANARY_GAP_SECONDS = 3.0
_GAPS_KEPT_SECONDS = 7200.0

Action = Create | Delete | Adopt | Failure | Forget | EndMove | CancelMove


@dataclass(slots=True)
class Leader:
    """The row of the lease. `expires_at` is by the database's clock."""

    term: int = 0
    holder: str | None = None
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that has ended."""

    processor_id: UUID
    kind: MoveKind
    from_node: str
    to_node: str | None
    outcome: str
    at: float
    old_uid: str | None = None
    lived_on: bool = False
    """Whether its state was still seen after the evidence had begun that it had ended."""
    rto_seconds: float | None = None
    rpo_seconds: float | None = None


class Database:
    """Rows. Whoever asks has made sure that it `is_up`; the writing methods say no themselves.

    `compares` and `stores_gaps` exist to be switched off, to see the promises break.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.compares = True
        self.stores_gaps = True
        self.keeps_links = False
        self.outages = 0
        self.configs: dict[UUID, ProcessorConfig] = {}
        self.vanished: dict[UUID, ProcessorConfig] = {}
        self.edge_nodes: dict[UUID, EdgeNodeRow] = {}
        self.heard_at: dict[UUID, float] = {}
        self.links: dict[UUID, UUID] = {}
        self.homes: dict[UUID, UUID] = {}
        self.ownership: dict[UUID, Ownership] = {}
        self.left: dict[UUID, UUID] = {}
        self.moves: dict[UUID, Move] = {}
        self.move_retries: dict[UUID, MoveRetry] = {}
        self.ended: list[Moved] = []
        self.gaps: list[Gap] = []
        self.canary_at: float | None = None
        """When the last canary beat was recorded, while none are; None while they are."""
        self.node_records: dict[str, NodeRecord] = {}
        self.brake = BrakeRecord()
        self.guard = GuardRecord()
        self.picture_until: float | None = None
        self.leader = Leader()
        self.given_epochs: set[tuple[UUID, int]] = set()
        self.checkpoints: dict[UUID, StoredCheckpoint] = {}
        self.incarnations: dict[UUID, Incarnation] = {}
        self.sequence = 0
        self.on_move: Callable[[UUID, MoveStart], None] = lambda _key, _start: None
        self.on_change: Callable[[], None] = lambda: None
        self.is_living: Callable[[str], bool] = lambda _uid: False

    @property
    def is_up(self) -> bool:
        """Whether it answers."""
        return self.outages == 0

    # The canary

    def deafened(self) -> None:
        """From now on no beat is recorded."""
        if self.canary_at is None:
            self.canary_at = self.ground.database_now - self.ground.random.random()

    def hears(self) -> None:
        """Beats are recorded again: what was missed becomes a gap."""
        if self.canary_at is not None:
            self._add_gap(self.canary_at, self.ground.database_now)
            self.canary_at = None

    def clock_changed(self, before: float) -> None:
        """The next canary beat finds it."""
        if self.canary_at is None:
            self._add_gap(before - self.ground.random.random(), self.ground.database_now)

    def _add_gap(self, began_at: float, ended_at: float) -> None:
        if self.stores_gaps and ended_at - began_at > CANARY_GAP_SECONDS:
            self.gaps.append(Gap(began_at, ended_at))
            oldest = ended_at - _GAPS_KEPT_SECONDS
            self.gaps = [gap for gap in self.gaps if gap.ended_at > oldest]

    # Reading

    def read(self) -> Desired:
        """Everything at one moment."""
        now, gaps = self.ground.database_now, tuple(self.gaps)
        if (
            self.stores_gaps
            and self.canary_at is not None
            and now - self.canary_at > CANARY_GAP_SECONDS
        ):
            gaps = (*gaps, Gap(self.canary_at, now))
        heard_at = self.heard_at
        return Desired(
            now=now,
            fleet_id=FLEET_ID,
            configs=dict(self.configs),
            edge_nodes={
                key: replace(row, last_heartbeat_at=heard_at.get(key))
                for key, row in self.edge_nodes.items()
            },
            links=dict(self.links),
            homes={key: home for key, home in self.homes.items() if key not in self.links},
            ownership=dict(self.ownership),
            moves=dict(self.moves),
            move_retries=dict(self.move_retries),
            gaps=gaps,
            node_records=dict(self.node_records),
            brake=self.brake,
            guard=self.guard,
        )

    def beat(self, processor_id: UUID, node_name: str) -> BeatFacts:
        """Record a heartbeat, and say what is known of its sender."""
        own = self.ownership.get(processor_id)
        held = self.guard.held_since is not None
        config, link = self.configs.get(processor_id), self.links.get(processor_id)
        if config is None:
            if link is not None:
                self.heard_at[link] = self.ground.database_now
            undecided = own is not None and own.has_pod and not own.end_granted
            until = self.picture_until
            return replace(
                NOT_FOUND,
                deletion_undecided=held or undecided,
                no_picture=until is None or self.ground.database_now > until,
            )
        now = self.ground.database_now
        if link is not None:
            self.heard_at[link] = now
        left = self.left.get(processor_id)
        left_name = self.edge_nodes[left].name if left is not None else None
        if left is not None and left_name == node_name:
            self.heard_at[left] = now
        return BeatFacts(
            found=True,
            recorded=True,
            status=config.status,
            left_node_name=left_name,
            owner_node_name=own.node_name if own is not None and left is not None else None,
            owner_ready=own is not None and left is not None and own.ready,
            deletion_undecided=held,
        )

    # The lease

    def hold_lease(self, holder: str, term: int | None, seconds: float) -> int | None:
        """The term that is held, if it is."""
        leader, now = self.leader, self.ground.database_now
        is_free = leader.holder is None or leader.expires_at <= now
        if self.compares and leader.holder != holder and not is_free:
            return None
        if is_free or leader.term != term:
            leader.term += 1
        leader.holder, leader.expires_at = holder, now + seconds
        return leader.term

    def is_leading(self, holder: str, term: int) -> bool:
        """Whether a statement under this lease is carried out."""
        leader = self.leader
        if not self.is_up:
            return False
        if not self.compares:
            return True
        return (leader.holder, leader.term) == (
            holder,
            term,
        ) and leader.expires_at > self.ground.database_now

    # What the leader writes

    def record_health(self, plan: Plan, desired: Desired) -> None:
        """Verdicts that differ from the records, and the brake."""
        for key, verdict in plan.nodes.items():
            if _differs(desired.node_records.get(key), verdict.record):
                self.node_records[key] = verdict.record
                row = next((r for r in self.edge_nodes.values() if key == f"edge {r.id}"), None)
                if row is not None and row.status in ("online", "offline"):
                    status = "offline" if verdict.is_dead else "online"
                    self.edge_nodes[row.id] = replace(row, status=status)
        for key in desired.node_records:
            if key not in plan.nodes:
                self.node_records.pop(key, None)
        if plan.brake is not None and plan.brake.record != desired.brake:
            self.brake = plan.brake.record

    def record_picture(self, interval_seconds: float) -> None:
        """A leader sees the cluster now."""
        self.picture_until = self.ground.database_now + interval_seconds

    def record_guard(self, plan: Plan) -> None:
        """Whether the deletion guard holds."""
        since = None
        if plan.guard.holds:
            since = self.guard.held_since or self.ground.database_now
        if since != self.guard.held_since:
            self.guard = replace(self.guard, held_since=since)

    def record_pod(self, record: Record) -> None:
        """What is observed of the owner."""
        key, pod, own = record.processor_id, record.pod, self.ownership.get(record.processor_id)
        if own is None or (self.compares and own.epoch != record.epoch):
            return
        is_same = own.pod_uid == pod.uid
        self.ground.check(
            Promise.ONE_OWNER,
            is_same
            or own.pod_uid is None
            or own.epoch != record.epoch
            or not self.is_living(own.pod_uid),
            f"{key} in epoch {record.epoch}: {own.pod_uid} and {pod.uid}",
        )
        self.ownership[key] = replace(
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
            changed_at=self.ground.database_now,
        )

    def record_move_state(self, processor_id: UUID, state_at: float) -> None:
        """When the state that the new pod is given was last seen."""
        move = self.moves.get(processor_id)
        if move is not None:
            self.moves[processor_id] = replace(move, state_at=state_at)

    # Grants

    def grant(self, action: Action) -> bool:
        """Carry out one action, if what it was decided on still holds."""
        key, own = action.processor_id, self.ownership.get(action.processor_id)
        match action:
            case Create():
                return self._grant_creation(action, own)
            case Delete():
                return self._grant_deletion(action, own)
            case Adopt():
                if own is None:
                    self._give(key, action.epoch)
                    self.ownership[key] = Ownership(
                        action.epoch, action.pod.uid, node_name=action.pod.node_name
                    )
                return own is None
            case Failure():
                return self._grant_failure(action, own)
            case Forget():
                if own is None or own.epoch != action.epoch or key in self.configs:
                    return False
                self.ownership[key] = own.forgotten()
                self.links.pop(key, None)
                self._end_move(key, "dropped", None)
                return True
            case EndMove():
                if own is None or (own.epoch, own.pod_uid) != (action.epoch, action.pod.uid):
                    return False
                if key not in self.moves:
                    return False
                self._end_move(key, "done", action)
                self.move_retries.pop(key, None)
                return True
            case CancelMove():
                return self._grant_cancelling(action, own)

    def _give(self, key: UUID, epoch: int) -> None:
        self.ground.check(
            Promise.EPOCH_ONCE, (key, epoch) not in self.given_epochs, f"{key}, epoch {epoch}"
        )
        self.given_epochs.add((key, epoch))

    def _holds(self, key: UUID, start: MoveStart) -> bool:
        now, before = self.ground.database_now, self.moves.get(key)
        row = self.edge_nodes.get(start.edge_node_id) if start.edge_node_id is not None else None
        facts = MoveFacts(
            now=now,
            brake_engaged=self.brake.engaged_at is not None
            and (self.brake.override_until or 0.0) <= now,
            link_id=self.links.get(key),
            status=None if row is None else row.status,
            cordoned=row is not None and row.cordoned,
            failover_enabled=row is None or row.failover_enabled,
            heartbeat_at=None if row is None else self.heard_at.get(row.id),
            comes_home=before is not None
            and before.kind is MoveKind.FAILBACK
            and before.edge_node_id == start.edge_node_id,
        )
        return refusal_of(start, facts) is None

    def _grant_creation(self, action: Create, own: Ownership | None) -> bool:
        key = action.processor_id
        before = own.epoch if own is not None else 0
        if self.compares and (key not in self.configs or before != action.epoch - 1):
            return False
        if action.move is not None and self.compares and not self._holds(key, action.move):
            return False
        if action.move is not None:
            self.on_move(key, action.move)
        self._give(key, action.epoch)
        self.ownership[key] = (own or Ownership(0)).granted(
            action.epoch, action.choice.node_name or action.spec.node_name
        )
        if action.edge_node_id is not None:
            self.links.setdefault(key, action.edge_node_id)
        if action.move is not None:
            self._begin_move(key, action.move, action.epoch)
        return True

    def _grant_deletion(self, action: Delete, own: Ownership | None) -> bool:
        key = action.processor_id
        undesired = action.reason is Reason.NOT_DESIRED
        if self.compares and undesired and key in self.configs:
            return False
        if self.compares and (own.epoch if own is not None else 0) != action.epoch:
            return False
        if action.move is not None:
            if self.compares and not self._holds(key, action.move):
                return False
            self.on_move(key, action.move)
            self._begin_move(key, action.move, action.epoch)
        if undesired:
            self.ground.check(
                Promise.NOTHING_DELETED,
                # One that never ran has nothing to lose.
                key not in self.vanished or action.pod.phase is PodPhase.PENDING,
                f"{key}: {action.detail}",
            )
        is_unwritten = own is not None and own.pod_uid is None and undesired
        if own is not None and (own.pod_uid == action.pod.uid or is_unwritten):
            own = replace(own, ready=False, end_granted=own.end_granted or undesired)
            if action.reason is not Reason.FAILED:
                own = replace(own, exit_code=None, restart_reason=str(action.reason))
            self.ownership[key] = own
        return True

    def _grant_failure(self, action: Failure, own: Ownership | None) -> bool:
        if own is None or own.epoch != action.epoch:
            return False
        pod = action.pod
        self.ownership[action.processor_id] = replace(
            own,
            failures=action.failures,
            failed_pod_uid=action.failed_uid,
            ready=False,
            retry_at=self.ground.database_now + action.retry_seconds,
            exit_code=pod.exit_code if pod else None,
            restart_reason=action.cause,
            changed_at=self.ground.database_now,
        )
        return True

    def _grant_cancelling(self, action: CancelMove, own: Ownership | None) -> bool:
        key, pod = action.processor_id, action.pod
        if own is None or own.epoch != action.before_epoch:
            return False
        self._give(key, action.epoch)
        self.ownership[key] = replace(
            own,
            epoch=action.epoch,
            pod_uid=pod.uid,
            pod_name=pod.name,
            node_name=pod.node_name,
            pod_ip=None,
            end_granted=False,
            ready=False,
        )
        if action.kind is MoveKind.FAILOVER:
            self.left.pop(key, None)
            self._return(key, action.edge_node_id)
        elif action.edge_node_id is not None:
            self._leave(key, action.edge_node_id)
            self.left[key] = action.edge_node_id
        if action.retry is not None:
            self.move_retries[key] = action.retry
        self._end_move(key, "cancelled", None)
        return True

    def _begin_move(self, key: UUID, start: MoveStart, epoch: int) -> None:
        before = self.moves.get(key)
        self._end_move(key, "superseded", None)
        alive_at = start.last_alive_at
        if before is not None and before.last_alive_at is not None:
            alive_at = before.last_alive_at
        self.moves[key] = Move(
            kind=start.kind,
            from_node=start.from_node,
            old_uid=start.old_uid,
            edge_node_id=start.edge_node_id,
            began_at=self.ground.database_now,
            last_alive_at=alive_at,
            suspect_at=start.suspect_at,
            epoch=epoch,
        )
        if start.kind is MoveKind.FAILBACK:
            self._return(key, start.edge_node_id)
            self.left.pop(key, None)
            return
        if not self.keeps_links and before is not None and before.kind is MoveKind.FAILBACK:
            self._leave(key, before.edge_node_id)
        if start.edge_node_id is not None:
            self._leave(key, start.edge_node_id)
            self.left[key] = start.edge_node_id

    def _return(self, key: UUID, edge_node_id: UUID | None) -> None:
        if key not in self.links and self.homes.get(key) == edge_node_id is not None:
            self.links[key] = self.homes.pop(key)

    def _leave(self, key: UUID, edge_node_id: UUID | None) -> None:
        if edge_node_id is not None and self.links.get(key) == edge_node_id:
            self.homes[key] = self.links.pop(key)

    def _end_move(self, key: UUID, outcome: str, end: EndMove | None) -> None:
        move = self.moves.pop(key, None)
        if move is None:
            return
        self.ended.append(
            Moved(
                key,
                move.kind,
                move.from_node,
                None if end is None else end.pod.node_name,
                outcome,
                self.ground.now,
                move.old_uid,
                None not in (move.suspect_at, move.state_at)
                and (move.suspect_at or 0.0) < (move.state_at or 0.0),
                None if end is None else end.rto_seconds,
                None if end is None else end.rpo_seconds,
            )
        )

    # Checkpoints

    def begin_incarnation(self, key: UUID, pod: Pod, ready_at: float) -> Incarnation:
        """The life of a container that is seen for the first time, or is known."""
        known = self.incarnations.get(key)
        if (
            known is not None
            and known.pod_uid == pod.uid
            and known.restart_count == pod.restart_count
        ):
            return known
        number = 1 if known is None else known.number + 1
        newest = self.checkpoints.get(key)
        if newest is not None:
            number = max(number, newest.position.incarnation + 1)
        begun = Incarnation(number, pod.uid, pod.name, pod.restart_count, ready_at)
        self.incarnations[key] = begun
        return begun

    def given(self, key: UUID, pod: Pod) -> bool:
        """Whether the present incarnation of a pod has its state."""
        known = self.incarnations.get(key)
        return (
            known is not None
            and known.given
            and (known.pod_uid, known.restart_count) == (pod.uid, pod.restart_count)
        )

    def next_sequence(self) -> int:
        """Of a state that is received now."""
        self.sequence += 1
        return self.sequence

    def accept(
        self,
        key: UUID,
        epoch: int,
        life: Incarnation,
        sequence: int,
        payload: bytes,
        captured_at: float,
    ) -> bool:
        """Store a checkpoint of the owner, unless there is a newer one."""
        own = self.ownership.get(key)
        if own is None or (own.epoch, own.pod_uid) != (epoch, life.pod_uid):
            return False
        newest = self.checkpoints.get(key)
        position = Position(epoch, life.number, sequence)
        if newest is not None and position <= newest.position:
            return False
        self._store(key, position, life.pod_uid, life.pod_name, payload, captured_at)
        return True

    def _store(
        self,
        key: UUID,
        position: Position,
        pod_uid: str,
        pod_name: str,
        payload: bytes,
        captured_at: float,
    ) -> None:
        before, now = self.checkpoints.get(key), self.ground.database_now
        if before is not None:
            self.ground.check(
                Promise.NEWEST_CHECKPOINT,
                position > before.position and count_of(payload) >= count_of(before.payload) - 1e-6,
                lambda: (
                    f"{key}: {before.payload!r} of {before.pod_name} at {before.position}"
                    f" by {payload!r} of {pod_name} at {position}"
                ),
            )
        sha256 = checkpoint.sha256_of(payload)
        self.checkpoints[key] = StoredCheckpoint(
            position, pod_uid, pod_name, captured_at, now, now, payload, sha256
        )

    def newest_for(
        self, create: Create, found: Document | None, *, restarted: bool
    ) -> StoredCheckpoint | None:
        """The state that a new pod begins from: a document that is newer becomes a checkpoint."""
        key = create.processor_id
        newest = self.checkpoints.get(key)
        if found is None:
            return newest
        reason = judge_document(
            found,
            newest,
            pod_names=create.previous,
            last=self.incarnations.get(key),
            proof=PROOF,
            restarted=restarted,
        )
        if reason.taken:
            epoch, incarnation = place_document(found, newest)
            position = Position(epoch, incarnation, self.next_sequence())
            self._store(key, position, "", found.pod_name, found.payload, found.saved_at)
        return self.checkpoints.get(key)


def payload_of(count: float) -> bytes:
    """The state of a processor that counts seconds."""
    # As `core.checkpoint.payload_of` writes it, in a tenth of the time.
    return f'{{"count": {round(count, 3)!r}}}'.encode()


def count_of(payload: bytes) -> float:
    """What it had counted. Written by `payload_of`."""
    return float(payload[10:-1])


def _differs(before: NodeRecord | None, now: NodeRecord) -> bool:
    if before is None:
        return True
    return (before.state, before.reason, before.suspect_since, before.well_since, before.falls) != (
        now.state,
        now.reason,
        now.suspect_since,
        now.well_since,
        now.falls,
    )
