"""What the fleet API takes and gives, as types. See `bodies`."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

# Queries -----------------------------------------------------------------------------------

_NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*$"
Limit = Annotated[int, Meta(ge=1, le=1000, description="How many at most.")]
Cursor = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        pattern=r"^[A-Za-z0-9_-]*$",
        description="`next_cursor` of the page before; only with the same `sort`.",
    ),
]
Word = Annotated[str, Meta(min_length=1, max_length=253, pattern=_NO_CONTROL_CHARACTERS)]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339, with an offset.")]
Explained = Annotated[
    Literal["true", "false"], Meta(description="`true`: with the decisions behind them.")
]
StateName = Literal[
    "running",
    "starting",
    "pending",
    "waiting",
    "moving",
    "held",
    "error",
    "removing",
    "unknown",
]
States = Annotated[list[StateName], Meta(min_length=1)]
_INT64_MAX = 2**63 - 1
OVERRIDE_SECONDS_MAX = 86_400


class NoQuery(Struct):
    """No parameter."""


class ProcessorsQuery(Struct):
    """Which processors."""

    limit: Limit = 100
    cursor: Cursor | UnsetType = UNSET
    sort: Annotated[
        Literal["name", "state", "node", "since"],
        Meta(description="`since`: what changed last comes first."),
    ] = "name"
    state: Annotated[
        States | UnsetType,
        Meta(description="One state, or several with commas."),
    ] = UNSET
    node: Annotated[Word | UnsetType, Meta(description="Name of the node it runs on.")] = UNSET
    template: Annotated[Word | UnsetType, Meta(description="Slug of the template.")] = UNSET
    organization: UUID | UnsetType = UNSET
    namespace: Word | UnsetType = UNSET
    health: Literal["unknown", "healthy", "unhealthy"] | UnsetType = UNSET
    q: Annotated[
        Word | UnsetType,
        Meta(description="How the name or the id begins, in upper or lower case."),
    ] = UNSET


class NodesQuery(Struct):
    """Which nodes."""

    limit: Limit = 100
    cursor: Cursor | UnsetType = UNSET
    sort: Annotated[
        Literal["name", "kind", "utilisation"],
        Meta(description="`utilisation`: the highest comes first."),
    ] = "name"
    kind: Literal["edge", "application", "other"] | UnsetType = UNSET
    ready: Annotated[
        Literal["true", "false"] | UnsetType,
        Meta(description="`false`: also those that are not in the cluster."),
    ] = UNSET
    status: Annotated[
        Word | UnsetType, Meta(description="Of an edge node: `online`, `decommissioned`, ...")
    ] = UNSET
    organization: UUID | UnsetType = UNSET
    q: Annotated[
        Word | UnsetType, Meta(description="How the name begins, in upper or lower case.")
    ] = UNSET


class EventsQuery(Struct):
    """Which events."""

    limit: Limit = 100
    cursor: Cursor | UnsetType = UNSET
    after: Annotated[
        Annotated[int, Meta(ge=0, le=_INT64_MAX)] | UnsetType,
        Meta(
            description="To follow: events above this id, the oldest first. Take `follow` of"
            " the last answer. Not together with `cursor`.",
        ),
    ] = UNSET
    processor: Annotated[UUID | UnsetType, Meta(description="Its id.")] = UNSET
    node: Word | UnsetType = UNSET
    kind: Word | UnsetType = UNSET
    reason: Word | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    explained: Explained = "false"


class MovesQuery(Struct):
    """Which moves."""

    limit: Limit = 100
    cursor: Cursor | UnsetType = UNSET
    processor_id: Annotated[UUID | UnsetType, Meta(description="The processor's id.")] = UNSET
    node: Annotated[
        Word | UnsetType, Meta(description="Name of the node that is left or reached.")
    ] = UNSET
    kind: Literal["failover", "failback", "departure"] | UnsetType = UNSET
    open: Annotated[
        Literal["true", "false"] | UnsetType,
        Meta(description="`true`: those that are under way; `false`: those that have ended."),
    ] = UNSET
    outcome: Literal["done", "cancelled", "superseded", "dropped"] | UnsetType = UNSET


class ProcessorPath(Struct):
    """Which processor."""

    id: Annotated[UUID, Meta(description="The processor's id.")]


# Answers -----------------------------------------------------------------------------------

NextCursor = Annotated[
    str | None, Meta(description="`cursor` of the next page; null: this is the last one.")
]


class ProcessorRow(Struct):
    """A processor: what is desired, what the leader found, and who owns it."""

    id: UUID
    name: str | None
    organization_id: UUID | None
    template: Annotated[str | None, Meta(description="Slug; null: the template is missing.")]
    version: Annotated[
        str | None, Meta(description="The active version; several in error, with commas.")
    ]
    node_type: str | None
    namespace: str | None
    status: Annotated[
        str | None, Meta(description="As the platform has it; null: its row is gone.")
    ]
    health_status: str
    last_health_check_at: datetime | None
    state: Annotated[str, Meta(description="In one word, for people.")]
    reason: Annotated[str, Meta(description="Why, in one word.")]
    detail: Annotated[str, Meta(description="Why, in a sentence.")]
    node_name: str | None
    pod_name: str | None
    pod_ip: str | None
    pod_uid: str | None
    epoch: Annotated[int | None, Meta(description="Of its owner, in the database.")]
    pod_epoch: Annotated[int | None, Meta(description="That the pod carries.")]
    restart_count: int | None
    since: Annotated[datetime | None, Meta(description="Since when it is in this state.")]


class ProcessorsAnswer(Struct):
    """A page of processors."""

    processors: list[ProcessorRow]
    next_cursor: NextCursor


Scalar = str | float | int | bool | None


class RuleRow(Struct):
    """A rule that was asked."""

    rule: str
    question: str
    held: Annotated[bool, Meta(description="Whether the answer was yes. The last one decided.")]
    numbers: Annotated[dict[str, Scalar], Meta(description="What it was answered with.")]


class CandidateRow(Struct):
    """A node that was looked at for a new pod."""

    node: str
    chosen: bool
    why_not: Annotated[str | None, Meta(description="In one word.")]


class DecisionRow(Struct):
    """What was decided, and what it rests on."""

    outcome: str
    reason: str
    detail: str
    facts: Annotated[
        dict[str, Scalar],
        Meta(description="What was known. `_seconds`: durations and ages; `_ago`: since then."),
    ]
    rules: Annotated[list[RuleRow], Meta(description="Those that were asked, in their turn.")]
    candidates: list[CandidateRow]
    other_candidates: Annotated[
        dict[str, int], Meta(description="How many more were looked at, by why not.")
    ]


class EventRow(Struct):
    """An action, or something that was found, and its reason."""

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
    term: Annotated[int | None, Meta(description="Of the leader that did it.")]
    explanation: Annotated[
        DecisionRow | None, Meta(description="The decision behind it, if `explained`.")
    ]
    trace_id: Annotated[
        str | None, Meta(description="Of the trace that it is part of, if traces are kept.")
    ]


class ProcessorAnswer(Struct):
    """One processor."""

    processor: ProcessorRow
    events: Annotated[list[EventRow], Meta(description="Its last 20, the newest first.")]


class EventsAnswer(Struct):
    """A page of events."""

    events: list[EventRow]
    next_cursor: Annotated[
        str | None,
        Meta(description="`cursor` of the next page; null at the end, and with `after`."),
    ]
    follow: Annotated[
        int, Meta(description="`after` of the request that goes on here and misses nothing.")
    ]


class NodeRow(Struct):
    """A node of the cluster, an edge node, or both when they have the same name."""

    name: str
    kind: Annotated[str, Meta(description="`edge`, `application` or `other`.")]
    ready: Annotated[bool | None, Meta(description="Null: it is not in the cluster.")]
    ready_changed_at: datetime | None
    unschedulable: bool | None
    cordoned: Annotated[bool, Meta(description="It gets no work until an operator says so.")]
    cordon_cause: str | None
    edge_node_id: Annotated[UUID | None, Meta(description="Null: it is no edge node.")]
    organization_id: UUID | None
    status: Annotated[str | None, Meta(description="Of the edge node, as the platform has it.")]
    failover_enabled: bool | None
    failover_target_node_id: UUID | None
    last_heartbeat_at: datetime | None
    heartbeat_age_seconds: Annotated[float | None, Meta(description="By the database's clock.")]
    health: Annotated[
        str | None,
        Meta(
            description="As the leader judged it: `online`, `suspect`, `offline`, `recovering`,"
            " `quarantined` or `decommissioned`; null: it was not judged."
        ),
    ]
    health_reason: Annotated[str | None, Meta(description="Why, in one word.")]
    health_detail: Annotated[str | None, Meta(description="Why, in a sentence.")]
    health_since: Annotated[datetime | None, Meta(description="Since when, with the same reason.")]
    cpu_millicores: int | None
    memory_bytes: int | None
    gpu_count: int | None
    pods: int | None
    pods_max: int | None
    utilisation: Annotated[float | None, Meta(description="Share of the fullest resource.")]
    processors: Annotated[
        dict[str, int], Meta(description="How many processors on it are in which state.")
    ]


class NodesAnswer(Struct):
    """A page of nodes."""

    nodes: list[NodeRow]
    next_cursor: NextCursor


class HeldRow(Struct):
    """A processor that waits for an operator's word, and the pod that runs for it."""

    id: UUID
    name: Annotated[str | None, Meta(description="Where the row is gone: the last one.")]
    organization_id: UUID | None
    template: str | None
    health_status: str
    namespace: str | None
    pod_name: str | None
    node_name: str | None
    epoch: Annotated[int | None, Meta(description="Of its owner, in the database.")]
    pod_epoch: Annotated[int | None, Meta(description="That the pod carries.")]


class StrangerRow(Struct):
    """A pod that calls itself ours but belongs to another fleet, or to none."""

    pod_name: str | None
    node_name: str | None
    processor_id: UUID | None
    detail: str
    at: datetime


class GuardAnswer(Struct):
    """All that waits for an operator's word. Of each list the first hundred are named."""

    held: Annotated[bool, Meta(description="Whether the deletion guard holds.")]
    held_since: datetime | None
    detail: str
    groups: Annotated[
        dict[str, int],
        Meta(description="How many processors of each group are still desired: to be accepted."),
    ]
    confirmed: Annotated[dict[str, int], Meta(description="What was accepted last.")]
    confirmed_at: datetime | None
    confirmed_by: str | None
    processors_count: Annotated[
        int, Meta(description="How many processors are kept from deletion.")
    ]
    processors: list[HeldRow]
    frozen_count: Annotated[
        int,
        Meta(description="How many processors have pods of a later epoch than the database's."),
    ]
    frozen: list[HeldRow]
    strangers_count: Annotated[int, Meta(description="Pods of other fleets, of the last day.")]
    strangers: list[StrangerRow]


class SuspectRow(Struct):
    """An edge node that is suspect or offline."""

    id: UUID
    name: str
    state: Annotated[str, Meta(description="`suspect` or `offline`.")]
    reason: Annotated[str, Meta(description="Why, in one word.")]
    detail: Annotated[str, Meta(description="Why, in a sentence.")]
    since: datetime


class BrakeAnswer(Struct):
    """The mass-failure brake. The first hundred nodes are named."""

    engaged: Annotated[
        bool, Meta(description="Whether it holds now: it engaged, and nobody overrode it.")
    ]
    engaged_at: Annotated[
        datetime | None, Meta(description="Kept while it is overridden; null: it is off.")
    ]
    reason: Annotated[str | None, Meta(description="Why it engaged, in one word.")]
    detail: Annotated[str, Meta(description="What was found last, in a sentence.")]
    population_count: Annotated[
        int, Meta(description="How many edge nodes count while it is engaged.")
    ]
    override_until: Annotated[
        datetime | None, Meta(description="Null: it is not overridden, or not any more.")
    ]
    override_by: str | None
    override_reason: str | None
    nodes_count: Annotated[
        int,
        Meta(
            description="How many edge nodes are suspect or offline: while the brake holds,"
            " nothing is moved away from them."
        ),
    ]
    nodes: list[SuspectRow]


class BrakeDecisionAnswer(BrakeAnswer):
    """The brake after it was changed."""

    message: Annotated[str, Meta(description="What the change does, in a sentence.")]


class MoveRow(Struct):
    """A move of a processor from one node to another."""

    id: int
    processor_id: UUID
    processor_name: str | None
    kind: Annotated[
        str,
        Meta(
            description="`failover`, `failback`, or `departure` from an edge node that was decommissioned."
        ),
    ]
    detail: Annotated[str, Meta(description="Why, in a sentence.")]
    from_node: str
    to_node: Annotated[str | None, Meta(description="Null: it has no place yet.")]
    edge_node_id: Annotated[
        UUID | None, Meta(description="The edge node that is left; null: it is none.")
    ]
    old_uid: Annotated[str | None, Meta(description="Of the pod that is left.")]
    epoch: Annotated[int, Meta(description="Of the owner that the move makes.")]
    began_at: datetime
    last_alive_at: Annotated[
        datetime | None, Meta(description="Last sign of life before it: the RTO counts from it.")
    ]
    state_at: Annotated[
        datetime | None,
        Meta(description="When the state that it was given was seen; null: it got none yet."),
    ]
    suspect_at: Annotated[
        datetime | None, Meta(description="When the evidence against the place it left began.")
    ]
    created_at: Annotated[
        datetime | None, Meta(description="Of the pod that arrived, by the cluster's clock.")
    ]
    ready_at: Annotated[
        datetime | None, Meta(description="When that pod was ready, by the cluster's clock.")
    ]
    ended_at: Annotated[datetime | None, Meta(description="Null: it is under way.")]
    outcome: Annotated[
        str | None,
        Meta(description="`done`, `cancelled`, `superseded` or `dropped`; null: it is under way."),
    ]
    rto_seconds: Annotated[
        float | None,
        Meta(description="From the last sign of life until it was ready with its state."),
    ]
    rpo_seconds: Annotated[
        float | None,
        Meta(description="How old the state was that it was given, at the last sign of life."),
    ]


class MovesAnswer(Struct):
    """A page of moves, the newest first."""

    moves: list[MoveRow]
    next_cursor: NextCursor


class LeaderRow(Struct):
    """Who acts."""

    holder: Annotated[str | None, Meta(description="Null: nobody ever did.")]
    term: int
    lease_seconds: Annotated[
        float | None, Meta(description="Until its lease ends; negative: since it ended.")
    ]


class SummaryAnswer(Struct):
    """The fleet in a few numbers."""

    fleet_id: UUID | None
    cluster: Annotated[str, Meta(description="`kubernetes` or `local`.")]
    at: datetime
    current: Annotated[
        bool,
        Meta(description="A leader looks at the fleet now; else states are as one before left it."),
    ]
    desired: int
    ready: Annotated[int, Meta(description="Of the desired ones, how many run.")]
    states: Annotated[dict[str, int], Meta(description="How many are in which state.")]
    nodes: int
    nodes_ready: int
    leader: LeaderRow
    guard_held: bool
    brake_engaged: Annotated[bool, Meta(description="Whether the mass-failure brake holds.")]
    moves_open: Annotated[int, Meta(description="How many moves are under way.")]
    away: Annotated[int, Meta(description="How many live away from their home.")]
    pause_until: Annotated[
        datetime | None, Meta(description="Until then nothing is moved; null: it is not paused.")
    ]
    pause_by: str | None
    pause_reason: str | None
    drill_node: Annotated[
        str | None, Meta(description="Treated as dead, or filled again; null: no drill.")
    ]
    drill_until: datetime | None
    drill_phase: Annotated[str | None, Meta(description="`running` or `returning`.")]


# Requests ----------------------------------------------------------------------------------

By = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=_NO_CONTROL_CHARACTERS,
        description="Who decides, for the record.",
    ),
]
Why = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=500,
        pattern=_NO_CONTROL_CHARACTERS,
        description="Why, for the record.",
    ),
]
GroupName = Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*$")]
ProcessorIds = Annotated[list[UUID], Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0, le=_INT64_MAX)]


class ConfirmRequest(Struct):
    """Accepts that what the deletion guard holds is deleted."""

    by: By = "an operator"
    groups: Annotated[
        dict[GroupName, Count] | UnsetType,
        Meta(description="As you saw them: refused when they have changed since."),
    ] = UNSET


class AdoptRequest(Struct):
    """Takes the word of the pods of frozen processors for their epoch."""

    processors: Annotated[
        ProcessorIds | Literal["all"], Meta(description="Ids, or `all` that are frozen.")
    ]
    by: By = "an operator"


class OverrideRequest(Struct):
    """Lets nodes be moved away from, whatever the mass-failure brake finds."""

    for_seconds: Annotated[
        float, Meta(ge=1, le=OVERRIDE_SECONDS_MAX, description="For how long, from now on.")
    ]
    reason: Why
    by: By = "an operator"


class ClearRequest(Struct):
    """Ends an override of the mass-failure brake."""

    by: By = "an operator"


NodeName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=_NO_CONTROL_CHARACTERS,
        description="Name of an edge node.",
    ),
]
OrganizationId = Annotated[
    UUID | UnsetType, Meta(description="Needed where two organizations have a node of this name.")
]


class CordonRequest(Struct):
    """Gives an edge node no work that it has not."""

    node: NodeName
    reason: Why
    organization: OrganizationId = UNSET
    by: By = "an operator"


class UncordonRequest(Struct):
    """Gives an edge node work again."""

    node: NodeName
    organization: OrganizationId = UNSET
    by: By = "an operator"


class CordonAnswer(Struct):
    """Whether the edge node is cordoned now."""

    node: str
    cordoned: bool
    changed: Annotated[bool, Meta(description="False: it was so before.")]
    message: Annotated[str, Meta(description="What that does, in a sentence.")]


class AdoptAnswer(Struct):
    """Whose pods own them now."""

    adopted: list[UUID]


# Events that leave, and webhooks ------------------------------------------------------------


class StreamQuery(Struct):
    """Which events are followed."""

    after: Annotated[
        Annotated[int, Meta(ge=0, le=_INT64_MAX)] | UnsetType,
        Meta(
            description="Begin behind this id; without it, with what happens from now on. The"
            " header `Last-Event-ID` comes first.",
        ),
    ] = UNSET
    processor: Annotated[UUID | UnsetType, Meta(description="Its id.")] = UNSET
    node: Word | UnsetType = UNSET
    kind: Word | UnsetType = UNSET
    reason: Word | UnsetType = UNSET


class ExportQuery(Struct):
    """Which events are exported."""

    since: Moment | UnsetType = UNSET
    until: Annotated[Moment | UnsetType, Meta(description="The first that is too late.")] = UNSET
    processor: Annotated[UUID | UnsetType, Meta(description="Its id.")] = UNSET
    node: Word | UnsetType = UNSET
    kind: Word | UnsetType = UNSET
    explained: Explained = "false"


class DeadLettersQuery(Struct):
    """Which dead letters."""

    limit: Limit = 100
    cursor: Cursor | UnsetType = UNSET
    webhook: Annotated[Word | UnsetType, Meta(description="Its name.")] = UNSET


class WebhookRow(Struct):
    """A webhook, as the settings of the last leader have it, and how far it is."""

    name: str
    url: Annotated[str, Meta(description="Without its query.")]
    kinds: Annotated[list[str], Meta(description="Of events, with `*` and `?`.")]
    lag_events: Annotated[int, Meta(description="Events that stand before it, 100,000 at most.")]
    lag_seconds: Annotated[float, Meta(description="Age of the oldest of them; 0: none.")]
    delivered_at: Annotated[datetime | None, Meta(description="When it last took one.")]
    failures: Annotated[int, Meta(description="In a row; 0: the last one was delivered.")]
    last_error: str | None
    last_error_at: datetime | None
    next_try_at: Annotated[datetime | None, Meta(description="Null: nothing is put off.")]
    dead_letters: Annotated[int, Meta(description="Events that it did not take.")]
    dropped: Annotated[int, Meta(description="Dead letters that were too many to keep.")]


class WebhooksAnswer(Struct):
    """All webhooks, by name."""

    webhooks: list[WebhookRow]


class DeadLetterRow(Struct):
    """An event that a webhook's receiver did not take."""

    webhook: str
    event: EventRow
    died_at: datetime
    tries: int
    error: str
    retrying: Annotated[bool, Meta(description="It is about to be sent once more.")]


class DeadLettersAnswer(Struct):
    """A page of dead letters, the newest event first."""

    dead_letters: list[DeadLetterRow]
    next_cursor: NextCursor


EventIds = Annotated[list[Annotated[int, Meta(ge=1, le=_INT64_MAX)]], Meta(min_length=1)]
WebhookName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=_NO_CONTROL_CHARACTERS,
        description="Name of a webhook.",
    ),
]


class RetryRequest(Struct):
    """Has dead letters sent once more."""

    webhook: WebhookName
    ids: Annotated[EventIds | Literal["all"], Meta(description="Ids of events, or `all`.")]
    by: By = "an operator"


class RetryAnswer(Struct):
    """How many are sent once more."""

    webhook: str
    count: int
