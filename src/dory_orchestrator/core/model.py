"""The nouns that decisions are made of. All frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from dory_orchestrator.core.brake import BrakeRecord
    from dory_orchestrator.core.node_health import NodeRecord


class Directive(StrEnum):
    """What a processor is told in answer to its heartbeat (reference: only these two exist)."""

    CONTINUE = "continue"
    SHUTDOWN = "shutdown"


class HealthStatus(StrEnum):
    """Of one component, and of the whole (reference: GET /healthz)."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """One checker's finding."""

    status: HealthStatus
    message: str


@dataclass(frozen=True, slots=True)
class TemplateVersion:
    """One active row of `processor_template_versions`, as far as it says what is desired."""

    id: UUID
    version: str
    image_uri: str
    digest: str | None
    runtime_config_template: str
    """The JSON text of the column, unparsed: a text that cannot be read concerns one processor only."""


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """One desired processor: its row, outer-joined to template, active versions and sensor.

    `template_slug` is None when the template is missing. `versions` holds the active versions
    in order of id: exactly one in a sound database; none or several is an error of this
    processor alone.
    """

    processor_id: UUID
    organization_id: UUID | None
    name: str | None
    node_type: str
    namespace: str | None
    status: str
    template_slug: str | None
    versions: tuple[TemplateVersion, ...]
    sensor_id: UUID | None
    sensor_config: str | None
    sensor_location: str | None


# What runs where ---------------------------------------------------------------------------
#
# Moments are Unix seconds. Those of the database and those of a cluster come from two clocks:
# no rule compares them to better than a few seconds.

FLEET_ANNOTATION = "dory.io/fleet"
EPOCH_ANNOTATION = "dory.io/epoch"
CONFIG_HASH_ANNOTATION = "dory.io/config-hash"
MANAGED_BY = "dory-orchestrator"
"""Value of the label `managed-by` on each of our pods (label contract, platform facts 5.3)."""

EDGE_NODE_SELECTOR: Mapping[str, str] = MappingProxyType({"node-type": "edge"})
APPLICATION_NODE_SELECTOR: Mapping[str, str] = MappingProxyType({"workload-type": "application"})


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of what a node has and a pod asks for."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpu_count: int = 0


NO_RESOURCES = Resources()


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it (Kubernetes)."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


@dataclass(frozen=True, slots=True)
class Taint:
    """A mark on a node that keeps pods away."""

    key: str
    value: str
    effect: TaintEffect


@dataclass(frozen=True, slots=True)
class Toleration:
    """What a pod puts up with. An empty `key` means every key, no `effect` every effect.

    `operator` is `Equal` or `Exists`, as in Kubernetes.
    """

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: TaintEffect | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster. `ready_changed_at` is when `ready` became what it is, if known."""

    name: str
    ready: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready_changed_at: float | None = None
    allocatable: Resources = NO_RESOURCES
    pods_max: int = 110


class PodPhase(StrEnum):
    """Phase of a pod (Kubernetes)."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the cluster that calls itself ours (label `managed-by`).

    `fleet_id`, `epoch` and `config_hash` are None when the annotation is missing or unreadable;
    `processor_id` when the label is no UUID. `address` is `host:port` of its HTTP server as we
    reach it. `waiting_reason` says why its container does not run (`CrashLoopBackOff`,
    `ImagePullBackOff`); `exit_code` and `exit_reason` tell how it last ended. `started_at` is
    the start of the present container, `terminating` that its deletion was asked for.
    """

    uid: str
    namespace: str
    name: str
    processor_id: UUID | None
    phase: PodPhase
    created_at: float
    fleet_id: str | None = None
    epoch: int | None = None
    config_hash: str | None = None
    node_name: str | None = None
    ip: str | None = None
    address: str | None = None
    ready: bool = False
    ready_changed_at: float | None = None
    started_at: float | None = None
    terminating: bool = False
    restart_count: int = 0
    waiting_reason: str | None = None
    exit_code: int | None = None
    exit_reason: str | None = None
    message: str | None = None
    requests: Resources = NO_RESOURCES
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probes:
    """How a kubelet asks a pod for its health (template key `health_probes`)."""

    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 3
    failure_threshold: int = 3
    startup_seconds: int = 120
    """How long the container may take until it is first healthy (DORY_STARTUP_TIMEOUT_SEC)."""


USUAL_PROBES = Probes()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSpec:
    """A pod to create, complete but for what only the cluster knows.

    `environment` holds what is known beforehand; the cluster adds what Kubernetes' Downward API
    would (POD_NAME, POD_IP, NODE_NAME, ...), the orchestrator's URL and the state token.
    `node_name` binds it to one node, `preferred_node_name` is a wish. `limits` of 0 mean none.
    """

    name: str
    namespace: str
    processor_id: UUID
    app: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    image: str
    image_pull_policy: str = "IfNotPresent"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    port: int = 8080
    environment: Mapping[str, str] = field(default_factory=dict)
    requests: Resources = NO_RESOURCES
    limits: Resources = NO_RESOURCES
    node_selector: Mapping[str, str] = field(default_factory=dict)
    node_name: str | None = None
    preferred_node_name: str | None = None
    tolerations: tuple[Toleration, ...] = ()
    probes: Probes = USUAL_PROBES
    grace_seconds: int = 45
    security_context: Mapping[str, Any] = field(default_factory=dict)
    """What its container is allowed beyond the usual, in the words of Kubernetes."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """A pod that bears a processor's id, wherever in the cluster."""

    processor_id: UUID
    namespace: str
    name: str
    fleet_id: str | None


@dataclass(frozen=True, slots=True)
class Observation:
    """A cluster at one moment: nodes by name, and the pods that call themselves ours, by uid.

    `namespaces` are those that it shows pods of; None: all. `hidden` says of those that may not be
    looked at why. `age_seconds` is how long ago its oldest part was heard of: nothing is known to
    have changed since, and nothing is known not to have.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Mapping[str, Pod] = field(default_factory=dict)
    namespaces: frozenset[str] | None = None
    hidden: Mapping[str, str] = field(default_factory=dict)
    age_seconds: float = field(default=0.0, compare=False)
    elsewhere: Mapping[str, Bearer] = field(default_factory=dict)
    """Pods that bear the id of a processor in any other namespace, by uid."""
    is_whole: bool = True
    """Whether no pod that bears one can be missing."""
    cluster_uid: str | None = None
    """Which cluster it is, if that is known."""

    def shows(self, namespace: str | None) -> bool:
        """Whether pods of this namespace would be in it; None is none that could hide a pod."""
        return self.namespaces is None or namespace is None or namespace in self.namespaces


def node_key(edge_node_id: UUID | None, name: str) -> str:
    """What the record of a node's health is found by: edge nodes of two organizations may have
    one name."""
    return f"edge {edge_node_id}" if edge_node_id is not None else f"node {name}"


# What the database says --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EdgeNodeRow:
    """A row of `edge_nodes`. `name` is that of the cluster's node."""

    id: UUID
    organization_id: UUID
    name: str
    status: str
    cordoned: bool = False
    failover_enabled: bool = True
    failover_target_node_id: UUID | None = None
    last_heartbeat_at: float | None = None

    @property
    def takes_work(self) -> bool:
        """Whether a processor may be placed there for the first time."""
        return self.status == "online" and not self.cordoned


CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which we did not hear: silence within it is our own doing.

    `cause` is `canary`: nothing could be heard, by proof; or `refused`: so many heartbeats were
    refused that a node's own may be among them.
    """

    began_at: float
    ended_at: float
    cause: str = CANARY


class MoveKind(StrEnum):
    """Why a processor is on its way between two places."""

    FAILOVER = "failover"
    FAILBACK = "failback"
    DEPARTURE = "departure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A move that has not ended: stored when it is granted, so that it outlives every process.

    How far it is, is not stored: that is read off the pods, as everything else is.
    A departure is the planned move off an edge node that was decommissioned. `old_uid` is the pod
    that was left, if there was one; `edge_node_id` the edge node that is left (failover,
    departure) or returned to (failback), None for an application node. `suspect_at` is when
    the evidence against the place that is left began; `state_at` when the state that the new pod
    was given was last seen in the old one.
    """

    kind: MoveKind
    from_node: str
    old_uid: str | None
    edge_node_id: UUID | None
    began_at: float
    last_alive_at: float | None = None
    suspect_at: float | None = None
    state_at: float | None = None
    epoch: int = 0
    """That it began with."""
    error: str | None = None
    """Why its state could not be captured, when it was tried last."""


@dataclass(frozen=True, slots=True)
class MoveRetry:
    """Planned moves of a processor that were given up, `failures` in a row: why the last one was,
    and when the next may begin."""

    failures: int
    retry_at: float
    error: str


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which pod owns a processor, by (epoch, pod uid), and how its pods failed lately.

    `pod_uid` is None between the grant of a placement and the pod's creation. `failures` are
    those in a row; `failed_pod_uid` is the pod of the last one, and `retry_at` when the next
    try is due. `exit_code` and `restart_reason` tell how the last pod ended. `last_pod_name` is
    the pod that owned it before `pod_name` was cleared: what it saved at its end is the newest.
    `namespace` is where a pod of it was seen last. `changed_at` is when any of this changed last:
    mostly, since when its pod is what it is.
    `end_granted`: its owner is being ended because no row desires it.
    """

    epoch: int
    pod_uid: str | None = None
    pod_name: str | None = None
    pod_ip: str | None = None
    node_name: str | None = None
    ready: bool = False
    failures: int = 0
    failed_pod_uid: str | None = None
    retry_at: float | None = None
    exit_code: int | None = None
    restart_reason: str | None = None
    last_pod_name: str | None = None
    namespace: str | None = None
    changed_at: float | None = field(default=None, compare=False)
    end_granted: bool = False

    @property
    def has_pod(self) -> bool:
        """Whether a pod of it runs, or is on its way to a node."""
        return self.pod_uid is not None or self.node_name is not None

    @property
    def newest_pod_name(self) -> str | None:
        """The owner; where none was created yet, the one before it."""
        return self.pod_name or self.last_pod_name

    def granted(self, epoch: int, node_name: str | None) -> "Ownership":
        """What the grant of a placement makes of it: nobody runs yet; its failures stay."""
        return replace(
            self,
            epoch=epoch,
            node_name=node_name,
            ready=False,
            pod_uid=None,
            pod_name=None,
            pod_ip=None,
            last_pod_name=self.newest_pod_name,
            end_granted=False,
        )

    def forgotten(self) -> "Ownership":
        """What stays of it when its processor is not desired any more, and nothing runs."""
        return Ownership(self.epoch, last_pod_name=self.newest_pod_name)


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """The deletion guard as it is stored.

    `confirmed` are the counts of desired processors by group that an operator accepted at
    `confirmed_at`: a desired set that is no smaller is not held again.
    """

    held_since: float | None = None
    confirmed_at: float | None = None
    confirmed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator's word that nothing is created, ended or moved `until` a moment."""

    until: float
    by: str
    reason: str


class OrderKind(StrEnum):
    """What an operator may order for one processor."""

    FAILOVER = "failover"
    FAILBACK = "failback"


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's word for one edge processor: leave home and stay away, or go home.

    That to leave stands until the one to return, which ends when its move begins.
    """

    kind: OrderKind
    by: str
    reason: str


class DrillPhase(StrEnum):
    """How far a fire drill is."""

    RUNNING = "running"
    RETURNING = "returning"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Drill:
    """A fire drill that has not ended: its edge node counts as dead while it runs, `until` a
    moment at most."""

    id: int
    edge_node_id: UUID
    node_name: str
    phase: DrillPhase
    began_at: float
    until: float
    by: str

    def runs(self, now: float) -> bool:
        """Whether its node counts as dead."""
        return self.phase is DrillPhase.RUNNING and now < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything that the database says, read at one moment: `now` by its clock.

    `links` leads from a processor to the edge node of its active link, `homes` to the one that
    it has failed over from. `heartbeats` holds the last heartbeat of each processor whose node
    has been silent for a while, None where it has never beaten. `node_records` are by `node_key`.
    `gaps` are those that can matter still.
    """

    now: float
    fleet_id: str
    configs: Mapping[UUID, ProcessorConfig]
    edge_nodes: Mapping[UUID, EdgeNodeRow] = field(default_factory=dict)
    heartbeats: Mapping[UUID, float | None] = field(default_factory=dict)
    links: Mapping[UUID, UUID] = field(default_factory=dict)
    homes: Mapping[UUID, UUID] = field(default_factory=dict)
    ownership: Mapping[UUID, Ownership] = field(default_factory=dict)
    moves: Mapping[UUID, Move] = field(default_factory=dict)
    move_retries: Mapping[UUID, MoveRetry] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    node_records: Mapping[str, "NodeRecord"] = field(default_factory=dict)
    brake: "BrakeRecord | None" = None
    guard: GuardRecord = GuardRecord()
    pause: Pause | None = None
    orders: Mapping[UUID, Order] = field(default_factory=dict)
    drill: Drill | None = None

    def ordered(self, processor_id: UUID, kind: OrderKind) -> Order | None:
        """The order of this kind that stands for a processor."""
        order = self.orders.get(processor_id)
        return order if order is not None and order.kind is kind else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is known at one moment: what decisions are made of.

    `acting` are processors that an earlier decision is still being carried out for.
    `desired_most` is the highest count of desired processors of the last ten minutes, by group
    of the deletion guard. `answers` tells of each pod that our poller asked lately whether it
    answered; `restored` are the pods, by uid, whose present incarnation has its state, and
    `unprotected` those that could not be given it, with why. Of the processors `ahead` a document
    is newer than the database, in words. Checkpoints are taken without interruption since
    `attended_since`; None: not known. `refusals` tells of each processor how often in a row the
    store refused what was asked for it, and why last.
    `looked_up` is what the cluster said, by uid, of pods that own and that it was asked for by
    name: None: there is none. Without it nobody asks, and what no picture shows is gone.
    """

    desired: Desired
    observed: Observation
    acting: frozenset[UUID] = frozenset()
    desired_most: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, bool] = field(default_factory=dict)
    restored: frozenset[str] = frozenset()
    unprotected: Mapping[str, str] = field(default_factory=dict)
    ahead: Mapping[UUID, str] = field(default_factory=dict)
    attended_since: float | None = None
    refusals: Mapping[UUID, tuple[int, str]] = field(default_factory=dict)
    looked_up: Mapping[str, Pod | None] | None = None

    @property
    def now(self) -> float:
        """By the database's clock."""
        return self.desired.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number that decisions depend on.

    `node_buffer` is the share of a node's CPU, memory and pods that stays free; whole GPUs
    have no tenth to spare. `creations_max` bounds one cycle, so that a fleet that starts from
    nothing is acted on while the next one is computed. `moves_max` bounds the failovers that
    are begun at once, `planned_moves_max` the planned moves under way: neither takes a place of the
    other. A failover holds its place until it has arrived, at most for `failover_slot_seconds`. A
    planned move whose state could not be taken for `planned_move_seconds` is given up; its next
    try waits `move_retry_first_seconds`, doubled with each in vain, up to `move_retry_most_seconds`.
    The brake is let go below `brake_release_share`.
    `restore_seconds` is how long a pod that is ready may be without its state until its move ends
    all the same. That a pod vanished which was well for `vanished_well_seconds` is no failure. One
    that is there and not recognised is asked for again after `look_again_seconds`.
    """

    namespace: str = "default"
    node_buffer: float = 0.1
    creations_max: int = 500
    failure_first_seconds: float = 1.0
    failure_most_seconds: float = 300.0
    failure_forgotten_after_seconds: float = 600.0
    rollout_share: float = 0.1
    rollout_ready_seconds: float = 180.0
    rollout_failures_max: int = 2
    removal_share: float = 0.1
    removals_min: int = 5
    guard_share: float = 0.5
    guard_tolerated: int = 5
    guard_confirmation_seconds: float = 600.0
    guard_release_seconds: float | None = None
    heartbeat_stale_seconds: float = 60.0
    node_failure_grace_seconds: float = 30.0
    failback_stable_seconds: float = 120.0
    failback_stable_most_seconds: float = 1800.0
    flapping_window_seconds: float = 3600.0
    brake_share: float = 0.55
    brake_release_share: float = 0.3
    brake_nodes_min: int = 3
    brake_window_seconds: float = 600.0
    moves_max: int = 10
    failover_slot_seconds: float = 10.0
    planned_moves_max: int = 10
    planned_move_seconds: float = 60.0
    move_retry_first_seconds: float = 120.0
    move_retry_most_seconds: float = 3600.0
    checkpoint_interval_seconds: float = 10.0
    restore_seconds: float = 60.0
    vanished_well_seconds: float = 60.0
    look_again_seconds: float = 10.0
