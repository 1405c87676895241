"""What was decided, and why: every action and every "no" carries its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from dory_orchestrator.core.brake import BrakeVerdict
from dory_orchestrator.core.model import MoveKind, MoveRetry, Pause, Pod, PodSpec
from dory_orchestrator.core.node_health import NodeVerdict
from dory_orchestrator.core.why import Answer, Why

if TYPE_CHECKING:
    from dory_orchestrator.core.drill import DrillStep


class Reason(StrEnum):
    """Why something is done, or is not."""

    # Why a pod is created or taken over.
    NOT_RUNNING = "not_running"
    ADOPTED = "adopted"
    # Why a pod is deleted.
    NOT_DESIRED = "not_desired"
    CHANGED = "changed"
    FAILED = "failed"
    CREATION_REFUSED = "creation_refused"
    VANISHED = "vanished"
    STALE_OWNER = "stale_owner"
    # Why a processor moves, and how that ends.
    NODE_DEAD = "node_dead"
    MOVED_AWAY = "moved_away"
    GOES_HOME = "goes_home"
    NODE_LEAVES = "node_leaves"
    ORDERED = "ordered"
    MOVED = "moved"
    UNPROVEN = "unproven"
    HOME_CAME_BACK = "home_came_back"
    HOME_FAILED = "home_failed"
    MOVE_GIVEN_UP = "move_given_up"
    # Why nothing is done, though something is to be done.
    GUARD_HELD = "guard_held"
    REMOVAL_LIMIT = "removal_limit"
    EPOCH_AHEAD = "epoch_ahead"
    DOCUMENT_AHEAD = "document_ahead"
    FOREIGN_FLEET = "foreign_fleet"
    UNRECOGNISED = "unrecognised"
    POD_MISSING = "pod_missing"
    NAMESPACE_UNSEEN = "namespace_unseen"
    PAUSED = "paused"
    BACK_OFF = "back_off"
    ROLLOUT_WAITS = "rollout_waits"
    ROLLOUT_STOPPED = "rollout_stopped"
    TERMINATING = "terminating"
    ACTING = "acting"
    CREATION_LIMIT = "creation_limit"
    NO_EDGE_NODE = "no_edge_node"
    NODE_SUSPECT = "node_suspect"
    BRAKE_HELD = "brake_held"
    FAILOVER_DISABLED = "failover_disabled"
    MOVE_LIMIT = "move_limit"
    MOVING = "moving"
    GRANT_REFUSED = "grant_refused"
    # Why nothing can be done.
    TEMPLATE_MISSING = "template_missing"
    NO_ACTIVE_VERSION = "no_active_version"
    SEVERAL_ACTIVE_VERSIONS = "several_active_versions"
    CONFIG_UNREADABLE = "config_unreadable"
    # Nothing is to be done.
    RUNNING = "running"
    UNPROTECTED = "unprotected"
    STARTING = "starting"
    UNPLACED = "unplaced"
    AWAY = "away"


class State(StrEnum):
    """A processor's state in one word, for people."""

    RUNNING = "running"
    STARTING = "starting"
    PENDING = "pending"
    WAITING = "waiting"
    HELD = "held"
    MOVING = "moving"
    ERROR = "error"
    REMOVING = "removing"


STATES: Mapping[Reason, State] = {
    Reason.NOT_RUNNING: State.STARTING,
    Reason.ADOPTED: State.STARTING,
    Reason.NOT_DESIRED: State.REMOVING,
    Reason.CHANGED: State.STARTING,
    Reason.FAILED: State.WAITING,
    Reason.CREATION_REFUSED: State.WAITING,
    Reason.VANISHED: State.WAITING,
    Reason.STALE_OWNER: State.REMOVING,
    Reason.GUARD_HELD: State.HELD,
    Reason.REMOVAL_LIMIT: State.REMOVING,
    Reason.EPOCH_AHEAD: State.HELD,
    Reason.DOCUMENT_AHEAD: State.HELD,
    Reason.FOREIGN_FLEET: State.HELD,
    Reason.UNRECOGNISED: State.HELD,
    Reason.POD_MISSING: State.WAITING,
    Reason.NAMESPACE_UNSEEN: State.PENDING,
    Reason.PAUSED: State.HELD,
    Reason.BACK_OFF: State.WAITING,
    Reason.ROLLOUT_WAITS: State.RUNNING,
    Reason.ROLLOUT_STOPPED: State.RUNNING,
    Reason.TERMINATING: State.WAITING,
    Reason.ACTING: State.STARTING,
    Reason.CREATION_LIMIT: State.WAITING,
    Reason.NO_EDGE_NODE: State.PENDING,
    Reason.NODE_DEAD: State.MOVING,
    Reason.MOVED_AWAY: State.MOVING,
    Reason.GOES_HOME: State.MOVING,
    Reason.NODE_LEAVES: State.MOVING,
    Reason.ORDERED: State.MOVING,
    Reason.MOVED: State.RUNNING,
    Reason.UNPROVEN: State.RUNNING,
    Reason.HOME_CAME_BACK: State.RUNNING,
    Reason.HOME_FAILED: State.MOVING,
    Reason.MOVE_GIVEN_UP: State.RUNNING,
    Reason.NODE_SUSPECT: State.WAITING,
    Reason.BRAKE_HELD: State.HELD,
    Reason.FAILOVER_DISABLED: State.HELD,
    Reason.MOVE_LIMIT: State.WAITING,
    Reason.MOVING: State.MOVING,
    Reason.GRANT_REFUSED: State.HELD,
    Reason.TEMPLATE_MISSING: State.ERROR,
    Reason.NO_ACTIVE_VERSION: State.ERROR,
    Reason.SEVERAL_ACTIVE_VERSIONS: State.ERROR,
    Reason.CONFIG_UNREADABLE: State.ERROR,
    Reason.RUNNING: State.RUNNING,
    Reason.UNPROTECTED: State.RUNNING,
    Reason.STARTING: State.STARTING,
    Reason.UNPLACED: State.PENDING,
    Reason.AWAY: State.RUNNING,
}


class Unfit(StrEnum):
    """Why a node was not chosen."""

    NOT_READY = "not_ready"
    UNSCHEDULABLE = "unschedulable"
    SELECTOR = "selector"
    TAINT = "taint"
    CPU = "cpu"
    MEMORY = "memory"
    GPU = "gpu"
    PODS = "pods"
    LESS_UTILISED = "less_utilised"


class Decision(StrEnum):
    """What the scheduler decided for a new pod."""

    PLACE = "place"
    PROVISION_NODE = "provision_node"


@dataclass(frozen=True, slots=True)
class Choice:
    """The node for a pod, and for each other candidate why not.

    No node fits: `node_name` is None, and the pod is created Pending, so that an autoscaler
    adds a node.
    """

    node_name: str | None
    unfit: Mapping[str, Unfit] = field(default_factory=dict)

    @property
    def decision(self) -> Decision:
        """Placed, or a node is needed."""
        return Decision.PROVISION_NODE if self.node_name is None else Decision.PLACE


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveStart:
    """A move that begins with an action: written in the same transaction, if what it was
    decided on still holds.

    `edge_node_id` is the edge node that is left (failover) or returned to (failback).
    `heartbeat_at` is the last heartbeat of the node that is left: with a newer one it lives.
    `decided_at` is when the snapshot was taken. `fencing` is whether the old instance is told
    to shut down once the new one is ready. `is_drill`: the node only counts as dead, and beats.
    `link_id` is the edge node of its active link when it was decided.
    """

    kind: MoveKind
    from_node: str
    old_uid: str | None
    edge_node_id: UUID | None
    last_alive_at: float | None
    suspect_at: float | None
    heartbeat_at: float | None
    decided_at: float
    fencing: bool = True
    is_drill: bool = False
    link_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """Place a processor: raise its epoch from `before_epoch` to `epoch`, and create its pod.

    `edge_node_id` is the edge node that it is linked to by this, if it had no link. `previous`
    are the names of the pods whose saved state may be newer than what we have stored, and `proof`
    the JSON pointers that show it.
    """

    processor_id: UUID
    before_epoch: int
    epoch: int
    spec: PodSpec
    choice: Choice
    reason: Reason
    detail: str
    edge_node_id: UUID | None = None
    previous: tuple[str, ...] = ()
    move: MoveStart | None = None
    proof: tuple[str, ...] = ()
    why: Why | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Delete:
    """End a pod, gracefully or by `force`: out of the books at once, as its node is gone.

    `epoch` is that of the ownership it was decided on (0: none). With `move` its state is
    captured first, and it stays if that fails. `told`: not when it is only asked for again.
    """

    processor_id: UUID
    pod: Pod
    epoch: int
    reason: Reason
    detail: str
    force: bool = False
    move: MoveStart | None = None
    captures: bool = False
    told: bool = True
    why: Why | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take a pod's word for who owns the processor: it runs, and nobody else does."""

    processor_id: UUID
    pod: Pod
    before_epoch: int
    epoch: int
    reason: Reason
    detail: str
    why: Why | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Remember that a pod failed, could not be created or vanished (`vanished_uid`), and when the
    next try is due."""

    processor_id: UUID
    pod: Pod | None
    epoch: int
    failures: int
    retry_seconds: float
    reason: Reason
    detail: str
    vanished_uid: str | None = None
    why: Why | None = field(default=None, compare=False)

    @property
    def failed_uid(self) -> str | None:
        """The pod that is counted by it."""
        return self.vanished_uid if self.pod is None else self.pod.uid

    @property
    def cause(self) -> str | None:
        """What its successor is told."""
        if self.pod is None:
            return None if self.vanished_uid is None else str(self.reason)
        return self.pod.exit_reason or self.pod.waiting_reason or str(self.pod.phase)


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is left of a processor that is not desired: drop its ownership."""

    processor_id: UUID
    epoch: int
    reason: Reason
    detail: str
    why: Why | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class EndMove:
    """A move has ended: its processor runs in its new place, and has its state.

    `rpo_seconds` is an upper bound, None when there was no state to be given.
    """

    processor_id: UUID
    epoch: int
    pod: Pod
    reason: Reason
    detail: str
    rto_seconds: float
    rpo_seconds: float | None
    why: Why | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class CancelMove:
    """A failover ends before the replacement has a place: `pod`, which was left, owns again.

    The epoch rises once more: whatever was granted to the replacement is void. With a `retry` the
    next planned move waits for its moment.
    """

    processor_id: UUID
    before_epoch: int
    epoch: int
    pod: Pod
    reason: Reason
    detail: str
    kind: MoveKind
    edge_node_id: UUID | None
    retry: MoveRetry | None = None
    why: Why | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Record:
    """What the store says of the owning pod is not what is observed: write what is observed."""

    processor_id: UUID
    epoch: int
    pod: Pod


@dataclass(frozen=True, slots=True)
class Missing:
    """The pod that owns a processor, by what is recorded of it, and is in no picture: before
    another is made, the cluster is asked for it by name."""

    namespace: str
    pod_name: str
    pod_uid: str


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How full a node is: its pods that we see, and the share of its scarcest resource that
    they ask for."""

    pods: int
    utilisation: float


@dataclass(frozen=True, slots=True)
class Finding:
    """How a processor is, and why. `pod` is the pod that counts as its own."""

    reason: Reason
    detail: str
    pod: Pod | None = None

    @property
    def state(self) -> State:
        """In one word."""
        return STATES[self.reason]


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """The deletion guard's answer. `tripped` says of each group that shrank too far how far:
    (baseline, desired). `held` are the pods that are not deleted for it."""

    tripped: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    held: tuple[Pod, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether anything is kept from deletion."""
        return bool(self.held)

    @property
    def detail(self) -> str:
        """In words."""
        groups = ", ".join(
            f"{group}: {left} of {baseline} left"
            for group, (baseline, left) in self.tripped.items()
        )
        return f"{len(self.held)} pods are kept ({groups})"


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole answer. `wake_at` is when something becomes due that no event will tell of.

    `strangers` are pods that call themselves ours but belong to another fleet, or to none.
    `desired_counts` are the guard's counts of this moment. `nodes` are by `node_key`.
    `stopped_rollouts` say of each template whose rollout stopped why. While a `pause` lasts,
    `paused` is what would be done. `drill` is the next phase of a fire drill. `answers` are those to the
    rules that were asked for each processor that does not simply run, or that was to be explained; `choices` the nodes that were looked at for those that need one.
    """

    creates: tuple[Create, ...] = ()
    deletes: tuple[Delete, ...] = ()
    adoptions: tuple[Adopt, ...] = ()
    failures: tuple[Failure, ...] = ()
    forgets: tuple[Forget, ...] = ()
    ends: tuple[EndMove | CancelMove, ...] = ()
    records: tuple[Record, ...] = ()
    missing: tuple[Missing, ...] = ()
    findings: Mapping[UUID, Finding] = field(default_factory=dict)
    strangers: tuple[Pod, ...] = ()
    guard: GuardVerdict = GuardVerdict()
    nodes: Mapping[str, NodeVerdict] = field(default_factory=dict)
    stopped_rollouts: Mapping[str, str] = field(default_factory=dict)
    brake: BrakeVerdict | None = None
    pause: Pause | None = None
    paused: tuple[Create | Delete | CancelMove, ...] = ()
    drill: "DrillStep | None" = None
    desired_counts: Mapping[str, int] = field(default_factory=dict)
    node_loads: Mapping[str, NodeLoad] = field(default_factory=dict)
    wake_at: float | None = None
    answers: Mapping[UUID, Sequence[Answer]] = field(default_factory=dict, compare=False)
    choices: Mapping[UUID, Choice] = field(default_factory=dict, compare=False)

    @property
    def actions(
        self,
    ) -> tuple[Create | Delete | Adopt | Failure | Forget | EndMove | CancelMove, ...]:
        """Everything that is to be done."""
        return (
            *self.adoptions,
            *self.failures,
            *self.ends,
            *self.deletes,
            *self.creates,
            *self.forgets,
        )
