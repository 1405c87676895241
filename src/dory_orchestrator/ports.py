"""What the rooms ask of one another, and how it fails.

StoreError                  the database did not do what was asked
  StoreUnavailable          it cannot be reached, is not writable, or the breaker is open
    StoreTimeout            it did not answer in time
  StoreBusy                 somebody else holds a row that is needed: try again
  StoreDataError            it refused these very values; others may be fine
  SchemaError               its tables are not what this version needs
  RequestRefused            the request contradicts what is stored; the database is well
    LeaseLost               somebody else leads by now: nothing of it was done
    RegistrationRefused     names the field (400)
    EdgeNodeNotFound        no such edge node (500, as the reference says)
    EdgeNodeAmbiguous       the name stands in several organizations (409)
    OperatorRefused         there is nothing of this kind to decide (409)
    NobodyAnswers           no leader answered what an operator asked (503)
    NotKnown                what an operator asks about is not known (404)

ClusterError                the cluster did not do what was asked
  ClusterUnavailable        it cannot be reached, or does not answer in time
  ClusterRefused            it said no, with a `reason`; it is well

PodUnreachable              a pod's HTTP server gave no usable answer
PodRefused                  it answered, and did not do what was asked

WebhookUnreachable          the receiver of a webhook gave no answer
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from dory_orchestrator.core.announcing import Announcement
from dory_orchestrator.core.answering import Question, QuestionKind, explanation
from dory_orchestrator.core.brake import BrakeVerdict
from dory_orchestrator.core.checkpoint import Capture, Document, Incarnation, StoredCheckpoint
from dory_orchestrator.core.checkpoint import Position as CheckpointPosition
from dory_orchestrator.core.directive import BeatFacts
from dory_orchestrator.core.drill import DrillStep
from dory_orchestrator.core.grants import Granted
from dory_orchestrator.core.model import Desired, Observation, OrderKind, Pod, PodSpec
from dory_orchestrator.core.node_health import NodeRecord
from dory_orchestrator.core.node_rows import Candidate, ambiguous
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
    Record,
)
from dory_orchestrator.core.start import Carrier, Start


class StoreError(Exception):
    """The database did not do what was asked."""


class StoreUnavailable(StoreError):
    """It cannot be reached, is not writable, or the circuit breaker is open."""


class StoreTimeout(StoreUnavailable):
    """It did not answer in time."""


class StoreBusy(StoreError):
    """Somebody else holds a row that is needed. The database itself is well: try again."""


class StoreDataError(StoreError):
    """It refused these very values. Others may be fine."""


class SchemaError(StoreError):
    """Its tables are not what this version needs. The message names table and column."""


class RequestRefused(StoreError):
    """The request contradicts what is stored. The database is well."""


class RegistrationRefused(RequestRefused):
    """A registration contradicts what is stored. The message names the field."""


class EdgeNodeNotFound(RequestRefused):
    """No edge node has this name."""


class EdgeNodeAmbiguous(RequestRefused):
    """Edge nodes of several organizations have this name: the `candidates`."""

    def __init__(self, field: str, name: str, candidates: Sequence[Candidate]) -> None:
        super().__init__(f"{field}: {ambiguous(name, candidates)}")
        self.candidates = sorted(candidates)


class ClusterError(Exception):
    """The cluster did not do what was asked."""


class ClusterUnavailable(ClusterError):
    """It cannot be reached, or does not answer in time. What was asked may have been done."""


class Refusal(StrEnum):
    """Why a cluster says no."""

    ALREADY_EXISTS = "already_exists"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    """Something else stands there by now: another uid, another version."""
    QUOTA = "quota"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    """It keeps nothing of this size."""
    FORBIDDEN = "forbidden"
    NAMESPACE_MISSING = "namespace_missing"
    NAMESPACE_TERMINATING = "namespace_terminating"


class ClusterRefused(ClusterError):
    """It said no; the same question will get the same answer for a while."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PodUnreachable(Exception):
    """A pod's HTTP server gave no usable answer in time."""


class PodRefused(Exception):
    """A pod's HTTP server answered, and did not do what was asked.

    `status` is that of HTTP. `final`: the same request will always get the same answer.
    """

    def __init__(self, status: int, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.status = status
        self.final = final


class LeaseLost(RequestRefused):
    """The lease that a statement named is not held any more. Nothing of it was done."""


class Beat(NamedTuple):
    """One heartbeat, as far as it is recorded. A tuple: twelve thousand are made each second."""

    processor_id: UUID
    node_name: str
    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeNode:
    """A row of `edge_nodes`, with exactly the fields that a registration answers with."""

    id: UUID
    organization_id: UUID
    name: str
    status: str
    failover_enabled: bool
    failover_target_node_id: UUID | None
    last_heartbeat_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeNodeRegistration:
    """A request to register. Fields named in `given` came from the caller and are written
    to a row that exists already; the others keep what the row has.
    """

    name: str
    organization_id: UUID
    failover_enabled: bool = True
    failover_target_node_id: UUID | None = None
    given: frozenset[str] = frozenset()


class HeartbeatStore(Protocol):
    """Where heartbeats are written."""

    async def record_heartbeats(
        self, beats: Sequence[Beat], *, canary: bool, timeout_seconds: float
    ) -> list[BeatFacts]:
        """Record a batch in one round trip and say what the database knows of each, in order.

        Of several beats of one processor the last decides its health. `canary` also renews the moment of the last canary beat,
        and stores the time since the one before as a gap when it was too long. An empty batch
        is allowed: it proves that the database takes writes.

        Raises StoreUnavailable (StoreTimeout), StoreDataError. Nothing was recorded then.
        """
        ...


class EdgeNodeStore(Protocol):
    """Edge nodes: few, precious, always written durably."""

    async def register_edge_node(self, registration: EdgeNodeRegistration) -> EdgeNode:
        """Insert, or bring the row of this name and organization back online.

        Raises RegistrationRefused, StoreUnavailable, StoreDataError.
        """
        ...

    async def decommission_edge_node(self, name: str, organization_id: UUID | None) -> int:
        """Stop the node's active apps and mark it; returns how many apps were stopped.

        Raises EdgeNodeNotFound, EdgeNodeAmbiguous, StoreUnavailable, StoreDataError.
        """
        ...


class ChangeStore(Protocol):
    """Who tells of changes."""

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Wake-ups: the iterator yields whenever the desired state may have changed.

        It ends with StoreUnavailable when the connection is lost; notifications of the
        meantime are lost, so read once after each new start.
        """
        ...


class HealthStore(Protocol):
    """What the checkers `database` and `heartbeats` ask."""

    async def read_doubts(self) -> Doubts:
        """What keeps `shutdown` from being answered. Raises StoreUnavailable."""
        ...

    async def ping(self, timeout_seconds: float) -> None:
        """Return if the database answers and takes writes; else raise StoreUnavailable."""
        ...


class GapStore(Protocol):
    """Time in which we did not hear, besides what the canary finds by itself."""

    async def extend_gap(self, cause: str, since_seconds: float) -> None:
        """Make the open gap of `cause` reach until now, or begin one `since_seconds` ago.

        Raises StoreUnavailable, StoreDataError.
        """
        ...

    async def forget_gaps(self, older_than_seconds: float) -> None:
        """Delete gaps that ended longer ago. Raises StoreUnavailable."""
        ...


class Lease(NamedTuple):
    """The right to act: whoever holds it, and in which term."""

    holder: str
    term: int


class LeaseStore(Protocol):
    """One leader at a time (design, section 8)."""

    async def hold_lease(self, holder: str, term: int | None, seconds: float) -> int | None:
        """Get or renew the lease for `seconds` from now; None while somebody else holds it.

        Returns the term: the same only when the lease of `term` is renewed before it ended.
        Each other time it is a new one, so that nothing of an earlier term is granted any more.
        Raises StoreUnavailable.
        """
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Let go of it, if it is still held: another may have it at once. Raises StoreUnavailable."""
        ...


Action = Create | Delete | Adopt | Failure | Forget | EndMove | CancelMove

NO_TRACES: Mapping[UUID, str] = MappingProxyType({})


def kind_of(action: Action) -> str:
    """The sort of event that an action is told as: the beginning of a move is the move."""
    match action:
        case EndMove():
            return "moved"
        case CancelMove():
            return "move_cancelled"
        case Create() | Delete() if action.move is not None:
            return str(action.move.kind)
        case _:
            return type(action).__name__.lower()


class Event(NamedTuple):
    """Something that happened, for people. `kind` is its sort, `reason` a fixed word."""

    kind: str
    reason: str
    detail: str
    processor_id: UUID | None = None
    node_name: str | None = None
    pod_name: str | None = None
    pod_uid: str | None = None
    epoch: int | None = None
    explanation: str | None = None
    """The JSON text of a decision (see core.answering), of what was decided."""
    trace_id: str | None = None
    """Of the trace that it is part of, 32 hexadecimal digits; of a move, the move's."""

    @classmethod
    def of_pod(
        cls, kind: str, reason: str, detail: str, processor_id: UUID | None, pod: Pod
    ) -> "Event":
        """About a pod."""
        return cls(kind, reason, detail, processor_id, pod.node_name, pod.name, pod.uid, pod.epoch)


def is_told(action: Action) -> bool:
    """Whether an action is an event: not when it only goes on with what was told."""
    return not isinstance(action, Delete) or action.told


def event_of(action: Action, trace_id: str | None = None) -> Event:
    """An action that was granted, as an event, with its explanation."""
    said = (kind_of(action), action.reason, action.detail, action.processor_id)
    told = explanation(said[0], action.reason, action.detail, action.why)
    if isinstance(action, Create):
        node_name = action.choice.node_name or action.spec.node_name
        event = Event(*said, node_name, action.spec.name)
    elif isinstance(action, Forget) or action.pod is None:
        event = Event(*said)
    else:
        event = Event.of_pod(*said, action.pod)
    return event._replace(epoch=action.epoch, explanation=told, trace_id=trace_id)


class NodeSummary(NamedTuple):
    """A node of the cluster as people are shown it."""

    name: str
    kind: str
    ready: bool
    ready_changed_at: float | None
    unschedulable: bool
    cpu_millicores: int
    memory_bytes: int
    gpu_count: int
    pods_max: int
    pods: int
    utilisation: float


class NodeHealth(NamedTuple):
    """How a node was judged, to be stored: `key` is its `node_key`."""

    key: str
    name: str
    edge_node_id: UUID | None
    detail: str
    is_dead: bool
    record: NodeRecord


class PictureBefore(NamedTuple):
    """Whether a picture was taken, and what was recorded before it."""

    is_taken: bool
    cluster_uid: str | None
    has_unknown_pods: bool


class FleetStore(Protocol):
    """What the reconcile loop reads and writes. Every writing names the lease, and raises
    LeaseLost, with nothing done, once it is not held any more.
    """

    async def read_desired(self) -> Desired:
        """Everything that the database says, of one moment.

        Raises StoreUnavailable, StoreDataError: never an empty answer in place of an error.
        """
        ...

    async def grant(
        self, lease: Lease, actions: Sequence[Action], trace_ids: Mapping[UUID, str] = NO_TRACES
    ) -> Granted:
        """Which of the actions may be carried out, in their order: those whose evidence still
        holds (the owner's epoch; desired or not). What is granted is written, with an event, which
        says by its processor's id what trace it is part of. Of those that are not granted it says
        why not.

        Raises LeaseLost, StoreUnavailable, StoreBusy, StoreDataError. Nothing is granted then.
        """
        ...

    async def record_pods(self, lease: Lease, records: Sequence[Record]) -> None:
        """Write which pods own, unless the epoch has moved on; raises as `grant`."""
        ...

    async def show_pods(self, lease: Lease, records: Sequence[Record]) -> set[UUID]:
        """Write to the platform's rows which pods run its processors, for its own pages. Returns
        whose rows somebody else holds: they are not waited for. What the columns refuse is not
        shown. Raises as `grant`.
        """
        ...

    async def record_findings(
        self, lease: Lease, findings: Mapping[UUID, Finding], gone: Sequence[UUID]
    ) -> None:
        """Write how processors are, and drop those that are `gone`; raises as `grant`."""
        ...

    async def record_nodes(
        self, lease: Lease, nodes: Sequence[NodeSummary], gone: Sequence[str]
    ) -> None:
        """Write how nodes are, and drop those that are `gone`; raises as `grant`."""
        ...

    async def mark_shown(self, lease: Lease) -> None:
        """From now on everything that was recorded of findings, nodes and the guard is of this
        term; raises as `grant`."""
        ...

    async def record_picture(
        self,
        lease: Lease,
        *,
        interval_seconds: float,
        cluster_uid: str | None,
        is_whole: bool,
        unowned: Mapping[UUID, UnownedPod],
    ) -> PictureBefore:
        """Write that this leader sees the cluster now, and which pods bear ids without owning
        them; raises as `grant`. A picture of another cluster than the first one
        is not taken: then there is none."""
        ...

    async def record_guard(self, lease: Lease, verdict: GuardVerdict) -> None:
        """Write whether the deletion guard holds, and what for; raises as `grant`."""
        ...

    async def record_health(
        self,
        lease: Lease,
        nodes: Sequence[NodeHealth],
        gone: Sequence[str],
        brake: BrakeVerdict | None,
    ) -> None:
        """Write how nodes were judged, drop those that are `gone`, and write the brake unless it
        is None; raises as `grant`. To be done before what was decided by it is granted.
        """
        ...

    async def record_drill(self, lease: Lease, step: DrillStep) -> None:
        """Write the next phase of a drill, with its event; nothing when it is in another phase by
        now. Raises as `grant`."""
        ...

    async def record_move_state(
        self, lease: Lease, processor_id: UUID, epoch: int, state_at: float
    ) -> None:
        """Write when the state that a moving processor is given was last seen; raises as `grant`."""
        ...

    async def record_move_error(self, lease: Lease, processor_id: UUID, error: str) -> None:
        """Write why the state of a processor that is to move could not be captured; raises as
        `grant`."""
        ...

    async def record_events(self, lease: Lease, events: Sequence[Event]) -> None:
        """Write what happened; raises as `grant`."""
        ...

    async def shown(self) -> tuple[dict[UUID, str], set[str]]:
        """The reason of each processor, and the nodes, that people are shown. Raises
        StoreUnavailable.
        """
        ...

    async def forget_events(self, older_than_seconds: float) -> bool:
        """Delete some events, and moves that ended, longer ago; whether there may be more of
        them. Raises StoreUnavailable.
        """
        ...


class TellingStore(Protocol):
    """Events of a process that need not lead."""

    async def tell(self, events: Sequence[Event]) -> None:
        """Write what happened, in no term. Raises StoreUnavailable, StoreDataError."""
        ...


class QuestionStore(Protocol):
    """What operators ask of the leader."""

    async def open_questions(self, limit: int) -> Sequence[Question]:
        """The oldest that wait for an answer. Raises StoreUnavailable."""
        ...

    async def answer_questions(self, lease: Lease, answers: Mapping[int, str]) -> None:
        """Give answers (JSON texts) by the ids of their questions; raises as `grant`."""
        ...

    async def failover_seconds(self) -> float | None:
        """The median time that failovers took of late; None: there was none. Raises
        StoreUnavailable."""
        ...


class PodFinding(NamedTuple):
    """What the health poller found of one processor's pod."""

    processor_id: UUID
    healthy: bool


class PodHealthStore(Protocol):
    """Where the health poller writes."""

    async def record_pod_health(self, findings: Sequence[PodFinding]) -> None:
        """Write `health_status` and `last_health_check_at` of processors that do not beat
        themselves; those that do keep what their last heartbeat said.

        Raises StoreUnavailable, StoreDataError.
        """
        ...


# State --------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """A state that a pod answered with, to be stored. `asked_at`, by the event loop's clock, is
    when it was asked for; None: right now."""

    processor_id: UUID
    epoch: int
    incarnation: int
    pod_uid: str
    pod_name: str
    captured_at: float
    payload: bytes
    sha256: bytes
    asked_at: float | None = None


class Confirmation(NamedTuple):
    """The state of a pod is still the one that is stored. `asked_at` as in Checkpoint."""

    processor_id: UUID
    epoch: int
    incarnation: int
    pod_uid: str
    sha256: bytes
    asked_at: float | None = None


class Begun(NamedTuple):
    """An incarnation, and the newest checkpoint that there was then.

    `previous` is the one before, when it ended just now. `start` and `first` are what was noted of
    its start. `seed_doubted_from`: a document was written while it may have begun already; that
    is when the one that lay there before was received.
    """

    incarnation: Incarnation
    newest_sha256: bytes | None
    previous: Incarnation | None = None
    start: Start | None = None
    first: Capture | None = None
    seed_doubted_from: float | None = None


class Archived(NamedTuple):
    """A state that lost against another. `reason` is a fixed word."""

    processor_id: UUID
    reason: str
    epoch: int
    incarnation: int
    pod_name: str
    captured_at: float
    payload: bytes
    sha256: bytes


class DepartedState(NamedTuple):
    """Where the state document of a processor that is gone may lie, in which epoch it went, and
    which pod it had last."""

    processor_id: UUID
    epoch: int
    namespace: str
    pod_name: str | None


class DocumentAhead(StoreError):
    """A document that we wrote is newer than all that the database has of its processor: the
    database was rolled back. Nothing of that processor is written until an operator decides."""


class CheckpointStore(Protocol):
    """Where state is kept. Every writing names the lease, and raises LeaseLost, with nothing
    done, once it is not held any more; besides, all raise StoreUnavailable, StoreBusy,
    StoreDataError.
    """

    async def begin_incarnation(
        self,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        *,
        pod_uid: str,
        pod_name: str,
        restart_count: int,
        ready_at: float,
    ) -> Begun | None:
        """The incarnation that was seen: the one that is known, or a new one that was given
        nothing yet. None when the owner, by (epoch, pod uid), is another.
        """
        ...

    async def mark_given(
        self, lease: Lease, processor_id: UUID, epoch: int, incarnation: Incarnation
    ) -> bool:
        """It goes on from the newest checkpoint, or there is none: its own are accepted from now
        on. False when the owner is another, or the incarnation is not the last one any more.
        """
        ...

    async def note_start(
        self,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        incarnation: Incarnation,
        *,
        start: Start,
        first: Capture,
        behind: bool,
    ) -> bool:
        """Remember what an incarnation began with, its first capture, and whether it is `behind`:
        to be given the newest. False as in `mark_given`.
        """
        ...

    async def mark_unprotected(
        self, lease: Lease, processor_id: UUID, epoch: int, incarnation: Incarnation, detail: str
    ) -> bool:
        """It will not be given the newest any more, until `mark_given`. False as there."""
        ...

    async def doubt_seed(
        self,
        lease: Lease,
        processor_id: UUID,
        incarnation: Incarnation,
        doubted_from: float | None,
    ) -> None:
        """A document was written while the life after this one may have begun already. The one
        before it was received at `doubted_from`; None: there is no doubt any more.
        """
        ...

    async def documents_to_adopt(self, processor_ids: Sequence[UUID]) -> Sequence[UUID]:
        """Those of them whose document an operator has declared the newest, within the last
        hour."""
        ...

    async def adopt_document(self, lease: Lease, processor_id: UUID, document: Document) -> bool:
        """Make a document the newest checkpoint, later than all that there are, and its word done.
        The life that is known goes on after it. False when nobody declared it.
        """
        ...

    async def archive_state(self, lease: Lease, archived: Archived) -> bool:
        """Keep a state that lost. Of each processor and reason the first and the newest stay.
        Whether it was not there yet.
        """
        ...

    async def save_checkpoints(self, lease: Lease, checkpoints: Sequence[Checkpoint]) -> list[bool]:
        """Store durably, each in place of the one before of its incarnation; one of each
        processor at most. False, in their order, for those whose owner is another, or whose
        incarnation is not the last one or was given nothing: they are not accepted.

        What is accepted stands before any epoch that is granted later.
        """
        ...

    async def confirm_checkpoints(
        self, lease: Lease, confirmations: Sequence[Confirmation]
    ) -> list[bool]:
        """Note that states were seen unchanged; False where another one is stored."""
        ...

    async def save_document(
        self,
        lease: Lease,
        processor_id: UUID,
        document: Document,
        *,
        place: tuple[int, int],
        newest: CheckpointPosition | None,
    ) -> bool:
        """Store a document of the client library's at (epoch, incarnation) `place`. False, with
        nothing done, when the newest checkpoint is another than `newest` by now.
        """
        ...

    async def newest_checkpoint(self, processor_id: UUID) -> StoredCheckpoint | None:
        """What the next container has to continue from; None when nothing was ever stored."""
        ...

    async def last_incarnation(self, processor_id: UUID) -> Incarnation | None:
        """The last one that began; None when none was seen."""
        ...

    async def checkpoint_ages(self) -> dict[UUID, float]:
        """Seconds since the newest checkpoint of each processor was stored or confirmed."""
        ...

    async def departed_states(self, *, gone_seconds: float, limit: int) -> Sequence[DepartedState]:
        """Processors that are neither desired nor owned for so long, and of whose state the
        cluster may still keep a document; none while the deletion guard holds."""
        ...

    async def forget_departed_state(self, lease: Lease, state: DepartedState) -> None:
        """Its document is gone, or is not ours to remove."""
        ...


# What operators see ------------------------------------------------------------------------


class Store(
    HeartbeatStore,
    EdgeNodeStore,
    ChangeStore,
    HealthStore,
    GapStore,
    LeaseStore,
    FleetStore,
    TellingStore,
    QuestionStore,
    PodHealthStore,
    Protocol,
):
    """All of it, as one PostgreSQL database provides it."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A state document in the form that the client library writes (platform facts 12.3).

    `version` changes with each write, and is compared when it is overwritten.
    """

    document: bytes
    version: str


class Cluster(Protocol):
    """Where pods run."""

    async def version(self) -> str:
        """What the cluster is, in a few words; the cheapest proof that it answers.

        Raises ClusterUnavailable within two seconds.
        """
        ...

    def observe(self) -> AbstractAsyncContextManager[AsyncIterator[Observation]]:
        """Nodes and pods as they are now, and again after each change.

        Each item is the whole newest picture: whoever is slow skips pictures, and misses
        nothing. The first comes at once. The same picture comes again, younger, when the cluster
        has said that nothing changed, in quiet times about once a minute. After `create_pod` has returned, no later item lacks
        that pod unless it was deleted; likewise `delete_pod`. The iterator ends with
        ClusterUnavailable when it can no longer be kept up.
        """
        ...

    def look_in(self, namespaces: frozenset[str]) -> None:
        """Show pods of these namespaces, too: a picture says which it shows. Where namespaces
        make no difference, it shows all without being asked."""
        ...

    async def create_pod(self, spec: PodSpec) -> Pod:
        """Create a pod; returns it as it then is.

        Raises ClusterRefused (ALREADY_EXISTS when its name is taken, ...), ClusterUnavailable.
        """
        ...

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        """Ask for the end of this very pod (its uid); it then terminates within its grace.

        `force` takes it out of the books at once: for a pod whose node is gone. Raises
        ClusterRefused (NOT_FOUND when it is gone, CONFLICT when its name belongs to another
        uid by now), ClusterUnavailable.
        """
        ...

    async def find_pod(self, namespace: str, name: str) -> Pod | None:
        """The pod that has this name now, whatever its labels say; None when there is none. Unlike
        a picture this is never late. Raises ClusterUnavailable, ClusterRefused.
        """
        ...

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        """The document that the processor's client library stored last; None if there is none.

        Raises ClusterUnavailable, ClusterRefused.
        """
        ...

    async def seed_state(
        self, namespace: str, processor_id: UUID, document: bytes, *, version: str | None
    ) -> None:
        """Put a document where the client library looks at its next start.

        `version` is that of the document that is overwritten, None when there must be none.
        Raises ClusterRefused (CONFLICT when something else stands there, TOO_LARGE),
        ClusterUnavailable.
        """
        ...

    async def remove_state(self, namespace: str, processor_id: UUID, *, version: str) -> None:
        """Remove the document of this version.

        Raises ClusterRefused (NOT_FOUND when there is none, CONFLICT when something else stands
        there), ClusterUnavailable.
        """
        ...

    async def announce(self, said: Announcement) -> None:
        """Say it of that pod or node, where the cluster keeps such things; once for each `key`.

        Raises ClusterUnavailable, ClusterRefused.
        """
        ...

    def carrier(self, backend: str) -> Carrier:
        """What becomes of what a client library with this `DORY_STATE_BACKEND` saves ("": it was
        not said)."""
        ...

    async def close(self) -> None:
        """Let go of everything; pods stay."""
        ...


@dataclass(frozen=True, slots=True)
class PodAnswer:
    """What a pod said to GET /ready and GET /health.

    `sdk_version` is the header X-Dory-SDK-Version of /health: None for a pod without the SDK.
    """

    ready: bool
    healthy: bool
    message: str
    sdk_version: str | None


class Pods(Protocol):
    """The HTTP servers of pods."""

    async def ask(self, address: str, *, timeout_seconds: float) -> PodAnswer:
        """Ask one pod for both probes. Raises PodUnreachable within `timeout_seconds`."""
        ...

    async def get_state(
        self, address: str, *, token: str | None, timeout_seconds: float, bytes_max: int
    ) -> bytes:
        """The body of GET /state, answered with 200. Raises PodUnreachable within
        `timeout_seconds`; PodRefused, of status 413 also for a body above `bytes_max`.
        """
        ...

    async def put_state(
        self, address: str, body: bytes, *, token: str | None, timeout_seconds: float
    ) -> None:
        """POST /state with this body: `{"data": <state>}`. Only after the pod is ready: before,
        it is overwritten (platform facts 12.4).

        Raises PodUnreachable within `timeout_seconds`: it may have been done; PodRefused.
        """
        ...

    async def read_its_state(self, address: str, *, timeout_seconds: float) -> bool | None:
        """Whether the program's client library could read its store when it began, by GET
        /metrics; None where that does not tell. Within `timeout_seconds`.
        """
        ...


class NobodyAnswers(RequestRefused):
    """No leader answered in time."""


class NotKnown(RequestRefused):
    """There is no such processor or node. The message names the field."""


class OperatorRefused(RequestRefused):
    """An operator asks for what does not stand to be decided. The message says why."""


class Position(NamedTuple):
    """Where a page ended: the sort key, the name and the id of its last row."""

    key: str
    name: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorQuery:
    """Which processors, in which order. `sort` is name, state, node or since (newest first).

    `prefix` is how the name or the id begins, in upper or lower case.
    """

    limit: int = 100
    sort: str = "name"
    after: Position | None = None
    states: tuple[str, ...] | None = None
    node: str | None = None
    template: str | None = None
    organization_id: UUID | None = None
    namespace: str | None = None
    health_status: str | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorView:
    """A processor as operators see it: what is desired, what the leader found, who owns it.

    `status` is None when its row is gone; `epoch` is that of the database, `pod_epoch` that of
    the pod. `version` names all active versions when there are several.
    """

    id: UUID
    name: str | None
    organization_id: UUID | None
    template: str | None
    version: str | None
    node_type: str | None
    namespace: str | None
    status: str | None
    health_status: str
    last_health_check_at: datetime | None
    state: str
    reason: str
    detail: str
    node_name: str | None
    pod_name: str | None
    pod_ip: str | None
    pod_uid: str | None
    epoch: int | None
    pod_epoch: int | None
    restart_count: int | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class ProcessorPage:
    """Processors in order, and where the next page goes on; None at the end."""

    processors: Sequence[ProcessorView]
    next: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeQuery:
    """Which nodes, in which order. `sort` is name, kind or utilisation (the highest first)."""

    limit: int = 100
    sort: str = "name"
    after: Position | None = None
    kind: str | None = None
    ready: bool | None = None
    status: str | None = None
    organization_id: UUID | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node of the cluster, an edge node, or both when they have the same name.

    `ready` and what follows from the cluster is None for an edge node that is not in it;
    `edge_node_id` and what the platform says is None for a node that is no edge node. `health`
    is the state that the leader judged it to be in; None: it was not judged.
    """

    name: str
    kind: str
    ready: bool | None
    ready_changed_at: datetime | None
    unschedulable: bool | None
    cordoned: bool
    cordon_cause: str | None
    edge_node_id: UUID | None
    organization_id: UUID | None
    status: str | None
    failover_enabled: bool | None
    failover_target_node_id: UUID | None
    last_heartbeat_at: datetime | None
    heartbeat_age_seconds: float | None
    health: str | None
    health_reason: str | None
    health_detail: str | None
    health_since: datetime | None
    cpu_millicores: int | None
    memory_bytes: int | None
    gpu_count: int | None
    pods: int | None
    pods_max: int | None
    utilisation: float | None
    processors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NodePage:
    """Nodes in order, and where the next page goes on; None at the end."""

    nodes: Sequence[NodeView]
    next: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events. Newest first, below `before_id`; or, to follow, oldest first above
    `after_id`. `since` is the earliest moment, `until` the first that is too late;
    `explained` asks for explanations, too.

    With `after_id`, `until_id` ends it: an id that was told to be settled (`settled_event`).
    """

    limit: int = 100
    before_id: int | None = None
    after_id: int | None = None
    processor_id: UUID | None = None
    node: str | None = None
    kind: str | None = None
    reason: str | None = None
    since: datetime | None = None
    explained: bool = False
    until: datetime | None = None
    until_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """An action, or something that was found, and its reason. `explanation` is the decision (see
    core.answering), where it was asked for and there is one."""

    id: int
    at: datetime
    kind: str
    reason: str
    detail: str
    processor_id: UUID | None
    processor_name: str | None
    node_name: str | None
    pod_name: str | None
    pod_uid: str | None
    epoch: int | None
    term: int | None
    explanation: Mapping[str, Any] | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order. `follow_id` is the id above which nothing was seen yet: whoever goes
    on there misses no event. `more` says whether the page is not the last one."""

    events: Sequence[EventView]
    follow_id: int
    more: bool


class EventBounds(NamedTuple):
    """Between which ids the events of a time are: above `after_id`, and at most `until_id`, if
    that is not None."""

    after_id: int
    until_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookView:
    """A webhook, as the last leader's settings have it, and how far it is.

    `lag_events` is how many events stand before it, 100,000 at most; `lag_seconds` the age of the
    oldest of them. `failures` are those in a row. `dropped` dead letters were too many to keep.
    """

    name: str
    url: str
    kinds: Sequence[str]
    lag_events: int
    lag_seconds: float
    delivered_at: datetime | None
    failures: int
    last_error: str | None
    last_error_at: datetime | None
    next_try_at: datetime | None
    dead_letters: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterQuery:
    """Which dead letters, the newest event first. `after` is (event id, webhook) of the last one
    that was seen."""

    limit: int = 100
    after: tuple[int, str] | None = None
    webhook: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterView:
    """An event that a webhook's receiver did not take. `retrying`: it is about to be sent again."""

    webhook: str
    event: EventView
    died_at: datetime
    tries: int
    error: str
    retrying: bool


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Dead letters in order. `more` says whether the page is not the last one."""

    dead_letters: Sequence[DeadLetterView]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldProcessor:
    """A processor that waits for an operator's word, with the pod that runs for it. Of one whose
    row is gone, name, organization, template and health are those that it had last."""

    id: UUID
    name: str | None
    organization_id: UUID | None
    template: str | None
    health_status: str
    namespace: str | None
    pod_name: str | None
    node_name: str | None
    epoch: int | None
    pod_epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A pod that calls itself ours but belongs to another fleet, or to none."""

    pod_name: str | None
    node_name: str | None
    processor_id: UUID | None
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardStatus:
    """The deletion guard and all else that waits for an operator's word.

    `groups` are the desired counts, by group, that are to be accepted. Of each list the first
    hundred are named; the counts tell of all.
    """

    held: bool
    held_since: datetime | None
    detail: str
    groups: Mapping[str, int]
    confirmed: Mapping[str, int]
    confirmed_at: datetime | None
    confirmed_by: str | None
    processors_count: int
    processors: Sequence[HeldProcessor]
    frozen_count: int
    frozen: Sequence[HeldProcessor]
    strangers_count: int
    strangers: Sequence[Stranger]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectNode:
    """An edge node that is suspect or offline."""

    id: UUID
    name: str
    state: str
    reason: str
    detail: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeStatus:
    """The mass-failure brake. `engaged` says that it holds now: one that is overridden keeps its
    `engaged_at`. An override that is over is None. The first hundred nodes are named.
    """

    engaged: bool
    engaged_at: datetime | None
    reason: str | None
    detail: str
    population_count: int
    override_until: datetime | None
    override_by: str | None
    override_reason: str | None
    nodes_count: int
    nodes: Sequence[SuspectNode]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveQuery:
    """Which moves, newest first, below `before_id`. `node` is the one left or the one reached;
    `under_way` says whether they have not ended."""

    limit: int = 100
    before_id: int | None = None
    processor_id: UUID | None = None
    node: str | None = None
    kind: str | None = None
    under_way: bool | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveView:
    """A move, under way as long as `ended_at` is None.

    `suspect_at` is when the evidence against the place that was left began; `created_at` and
    `ready_at` are those of the pod that arrived, by the cluster's clock.
    """

    id: int
    processor_id: UUID
    processor_name: str | None
    kind: str
    detail: str
    from_node: str
    to_node: str | None
    edge_node_id: UUID | None
    old_uid: str | None
    epoch: int
    began_at: datetime
    last_alive_at: datetime | None
    state_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    rto_seconds: float | None
    rpo_seconds: float | None
    suspect_at: datetime | None = None
    created_at: datetime | None = None
    ready_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MovePage:
    """Moves in order. `more` says whether the page is not the last one."""

    moves: Sequence[MoveView]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSummary:
    """The fleet in a few numbers. `lease_seconds` is until the leader's lease ends; negative:
    since it ended; None: nobody ever led. `current`: a leader looks at the fleet now; else the
    states are those that one before it left. `away` are edge processors that live away from home."""

    fleet_id: UUID | None
    at: datetime
    current: bool
    desired: int
    ready: int
    states: Mapping[str, int]
    nodes: int
    nodes_ready: int
    leader: str | None
    term: int
    lease_seconds: float | None
    guard_held: bool
    brake_engaged: bool
    moves_open: int
    away: int
    pause_until: datetime | None
    pause_by: str | None
    pause_reason: str | None
    drill_node: str | None
    drill_until: datetime | None
    drill_phase: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillMove:
    """A move that a drill brought about. `rto_seconds` counts from its grant: how long it takes to
    find out that a node is dead is not in it."""

    processor_id: UUID
    processor_name: str | None
    kind: str
    from_node: str
    to_node: str | None
    began_at: datetime
    ended_at: datetime | None
    outcome: str | None
    rto_seconds: float | None
    rpo_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillView:
    """A fire drill. `left_at` is when its node stopped to count as dead; `outcome` is `done`,
    `aborted` or `still_away`, None while it runs. Of the moves the first thousand."""

    id: int
    node_name: str
    by: str
    reason: str
    phase: str
    began_at: datetime
    until: datetime
    left_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    detail: str
    moves: Sequence[DrillMove]


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseStatus:
    """Whether everything is paused: `until` is None when it is not."""

    paused: bool
    until: datetime | None
    began_at: datetime | None
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureQuery:
    """How much of the fleet is shown one by one: nodes behind the first `offset`, of each node
    so many processors, and so many moves."""

    nodes: int = 40
    offset: int = 0
    processors: int = 16
    moves: int = 25


class Trouble(IntEnum):
    """How much a node deserves a look. Decommissioned ones that are gone come last."""

    GONE = -1
    WELL = 0
    UNUSUAL = 1
    """Recovering, quarantined, cordoned, left by processors of its own, or host of others."""
    TROUBLED = 2
    """Suspect, dead, not ready, in a move, or with processors that do not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePicture:
    """A node as the page shows it. `processors` are all on it, `running` those that run, `away`
    those whose home it is and that live elsewhere. See NodeView for the rest."""

    name: str
    kind: str
    ready: bool | None
    cordoned: bool
    cordon_cause: str | None
    edge_node_id: UUID | None
    organization_id: UUID | None
    status: str | None
    failover_enabled: bool | None
    last_heartbeat_at: datetime | None
    health: str | None
    health_detail: str | None
    utilisation: float | None
    processors: int
    running: int
    away: int
    trouble: Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorPicture:
    """A processor as the page shows it, at its `place`: the node that it is on, None for no
    place at all; with `is_shadow` the home that it is away from.

    `beat_at` is its last health, `checkpoint_at` when its newest state was last confirmed.
    """

    id: UUID
    name: str | None
    state: str
    reason: str
    node_name: str | None
    place: str | None
    is_shadow: bool
    home: str | None
    away_since: datetime | None
    beat_at: datetime | None
    checkpoint_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCounts:
    """So many nodes, and what is on them."""

    nodes: int
    troubled: int
    processors: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPicture:
    """The fleet at one moment, as far as PictureQuery asks for it; the counts tell of the rest.

    Nodes stand in the order of their trouble, then of their names. `behind` counts those after
    the last that is given, `placed` and `shadows` tell how many
    processors each place has. Of processors those that do not run stand first.
    """

    summary: FleetSummary
    brake: BrakeStatus
    guard_held_since: datetime | None
    guard_detail: str
    frozen: int
    away: int
    away_since: datetime | None
    nodes: Sequence[NodePicture]
    total: NodeCounts
    behind: NodeCounts
    processors: Sequence[ProcessorPicture]
    placed: Mapping[str | None, int]
    shadows: Mapping[str | None, int]
    moves: Sequence[MoveView]
    more_moves: bool


class FleetViews(Protocol):
    """What operators see and decide.

    Every method raises StoreUnavailable (StoreTimeout), StoreBusy, StoreDataError: never an
    empty list in place of an error.
    """

    async def list_processors(self, query: ProcessorQuery) -> ProcessorPage:
        """Desired processors, and those that are still being removed or held."""
        ...

    async def get_processor(
        self, processor_id: UUID, *, events_max: int
    ) -> tuple[ProcessorView, Sequence[EventView]] | None:
        """One processor with its last events, newest first; None when it is not known."""
        ...

    async def list_nodes(self, query: NodeQuery) -> NodePage:
        """The cluster's nodes and the platform's edge nodes, joined by name."""
        ...

    async def list_events(self, query: EventQuery) -> EventPage:
        """Events; see EventQuery."""
        ...

    async def settled_event(self) -> int | None:
        """The newest event below which no other will appear; None when writers take too long."""
        ...

    async def event_bounds(self, since: datetime | None, until: datetime | None) -> EventBounds:
        """Where to look for events of this time. There may be others, too."""
        ...

    async def list_webhooks(self) -> Sequence[WebhookView]:
        """By name; those that the last leader's settings have."""
        ...

    async def list_dead_letters(self, query: DeadLetterQuery) -> DeadLetterPage:
        """What receivers did not take; see DeadLetterQuery."""
        ...

    async def retry_dead_letters(self, webhook: str, ids: Sequence[int] | None, by: str) -> int:
        """Have dead letters, by the ids of their events, sent once more; None: all. Returns how
        many. Raises OperatorRefused when there is no such webhook, and when some of them, or all,
        are none: nothing was changed then.
        """
        ...

    async def guard_status(self) -> GuardStatus:
        """What waits for an operator's word."""
        ...

    async def confirm_guard(self, by: str, expected: Mapping[str, int] | None) -> GuardStatus:
        """Accept what the deletion guard holds; returns the status after it.

        With `expected`, only if these are still the counts that are held. Raises
        OperatorRefused when nothing, or something else, is held.
        """
        ...

    async def adopt(self, processor_ids: Sequence[UUID] | None, by: str) -> Sequence[UUID]:
        """Take the word of the pods of frozen processors for their epoch; None: of all.

        Returns whom it concerned. Raises OperatorRefused naming ids that are not frozen, and
        when there are none at all; nothing was changed then.
        """
        ...

    async def brake_status(self) -> BrakeStatus:
        """Whether the brake holds, and for which nodes."""
        ...

    async def override_brake(self, for_seconds: float, reason: str, by: str) -> BrakeStatus:
        """Let nodes be moved away from for so long, whatever the brake finds; returns the status
        after it. A brake that is not engaged does not engage until then. An override that is in
        force is replaced.
        """
        ...

    async def clear_brake_override(self, by: str) -> BrakeStatus:
        """End an override; returns the status after it. Raises OperatorRefused when none is in
        force.
        """
        ...

    async def cordon(self, name: str, organization_id: UUID | None, reason: str, by: str) -> bool:
        """Give an edge node no work that it has not; what runs there stays. False: it was
        cordoned already, for whatever reason.

        Raises OperatorRefused when there is no such node, or several, and no organization is
        given.
        """
        ...

    async def uncordon(self, name: str, organization_id: UUID | None, by: str) -> bool:
        """Give it work again. False: it was not cordoned. Raises OperatorRefused as `cordon`, and
        for one that is decommissioned.
        """
        ...

    async def pause_status(self) -> PauseStatus:
        """Whether everything is paused."""
        ...

    async def pause(self, for_seconds: float, reason: str, by: str) -> PauseStatus:
        """From now on for so long nothing is created, ended or moved; returns the status after it.
        A pause that is in force is replaced. What was granted before is still carried out.
        """
        ...

    async def resume(self, by: str) -> PauseStatus:
        """End a pause; returns the status after it. Raises OperatorRefused when there is none."""
        ...

    async def order(self, processor_id: UUID, kind: OrderKind, reason: str, by: str) -> str:
        """Have an edge processor leave its home for the cloud and stay there, or go home; returns
        what follows, in words.

        Raises NotKnown; OperatorRefused when it is there already or may not be moved now.
        """
        ...

    async def retry(self, processor_id: UUID, reason: str, by: str) -> str:
        """Have the next try of a processor that failed be due now; returns what follows, in words.

        Raises NotKnown; OperatorRefused when nothing waits to be tried.
        """
        ...

    async def start_drill(
        self, node: str, organization_id: UUID | None, for_seconds: float, reason: str, by: str
    ) -> DrillView:
        """Treat an edge node as dead for so long. Raises OperatorRefused when that would break a
        promise now: the message says which."""
        ...

    async def stop_drill(self, by: str) -> DrillView:
        """Have the drill that runs end now. Raises OperatorRefused when none does."""
        ...

    async def list_drills(self, limit: int) -> Sequence[DrillView]:
        """The last drills, the newest first, with what came of each."""
        ...

    async def ask(
        self, kind: QuestionKind, parameters: Mapping[str, Any], *, timeout_seconds: float
    ) -> Mapping[str, Any]:
        """What the leader answers, as plain values. Raises NobodyAnswers, NotKnown."""
        ...

    async def directive(
        self, processor_id: UUID, sender_node_name: str | None
    ) -> tuple[BeatFacts, str]:
        """What a heartbeat of a processor would find, and the sender's node: the one given, else
        that of its owner. Nothing is recorded."""
        ...

    async def list_moves(self, query: MoveQuery) -> MovePage:
        """Moves; see MoveQuery."""
        ...

    async def summary(self) -> FleetSummary:
        """The fleet in a few numbers."""
        ...

    async def picture(self, query: PictureQuery) -> FleetPicture:
        """The fleet as the page shows it."""
        ...

    async def picture_mark(self) -> str:
        """A text that differs once the picture does, but for ages; far cheaper than it."""
        ...

    async def close(self) -> None:
        """Close every connection, within about a second."""
        ...


# Webhooks -----------------------------------------------------------------------------------


class WebhookTarget(NamedTuple):
    """A webhook as people are shown it: its URL without a query, and its patterns of kinds."""

    name: str
    url: str
    kinds: Sequence[str]


class WebhookProgress(NamedTuple):
    """How far a webhook is: everything up to event `position` is done with. The next one was
    tried `tries` times, and is due in `wait_seconds`."""

    position: int
    tries: int
    wait_seconds: float


class WebhookStore(Protocol):
    """Where the leader writes how far each webhook is. Every writing names the lease, and raises
    LeaseLost, with nothing done, once it is not held any more; besides, all raise
    StoreUnavailable, StoreBusy, StoreDataError.
    """

    async def open_webhooks(
        self, lease: Lease, targets: Sequence[WebhookTarget]
    ) -> dict[str, WebhookProgress]:
        """These are the webhooks from now on. One that is new begins behind the newest event; one
        that was left out for less than a day goes on where it was.
        """
        ...

    async def pass_events(self, lease: Lease, name: str, position: int, *, delivered: bool) -> None:
        """Everything up to `position` is done with: the last of it was `delivered`, or none of it
        was meant for it."""
        ...

    async def record_failure(
        self, lease: Lease, name: str, *, tries: int, error: str, wait_seconds: float
    ) -> None:
        """The next event was tried so often by now, and is due again in `wait_seconds`."""
        ...

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
        """Put the next event among the dead letters, and go on behind it. Of more than
        `letters_max` the oldest are dropped, and counted. `tell`: with an event of its own.
        """
        ...

    async def due_letters(self, name: str, limit: int) -> Sequence[EventView]:
        """Dead letters that an operator had sent once more, the oldest first."""
        ...

    async def end_letter(self, lease: Lease, name: str, event_id: int, error: str | None) -> None:
        """A dead letter was sent once more: it arrived, or stays for that `error`."""
        ...

    async def put_back_letters(self, lease: Lease, name: str, error: str) -> None:
        """None of those that are to be sent once more can be: they stay, for that `error`."""
        ...

    async def forget_dead_letters(self, older_than_seconds: float) -> None:
        """Delete dead letters of older events, and webhooks that were left out for a day. Raises
        StoreUnavailable.
        """
        ...


class WebhookReply(NamedTuple):
    """What a receiver answered: the status of HTTP, and how many seconds it wishes to be left
    alone; None: it does not say."""

    status: int
    retry_after_seconds: float | None


class WebhookUnreachable(Exception):
    """The receiver of a webhook gave no answer in time. The message never holds the URL."""


class WebhookSender(Protocol):
    """The HTTP servers that webhooks name."""

    async def send(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float
    ) -> WebhookReply:
        """POST the body; redirects are not followed. Raises WebhookUnreachable within
        `timeout_seconds`: it may have arrived.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
