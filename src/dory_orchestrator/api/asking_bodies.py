"""What is asked of the leader, and ordered: what these paths take and give. See `fleet_bodies`."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from dory_orchestrator.api.fleet_bodies import (
    By,
    DecisionRow,
    EventRow,
    NodeName,
    OrganizationId,
    Why,
    Word,
)

PAUSE_SECONDS_MAX = 7 * 86_400
DRILL_SECONDS_MAX = 3_600
_NAME = r"^[^,\x00-\x1f\x7f-\x9f]+$"
Names = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=253, pattern=_NAME)]],
    Meta(min_length=1, max_length=1000),
]


class NodeQuery(Struct):
    """Which node."""

    node: Annotated[Word, Meta(description="Its name.")]
    organization: Annotated[
        UUID | UnsetType, Meta(description="Needed where two organizations have a node of it.")
    ] = UNSET


class SenderQuery(Struct):
    """Where a heartbeat comes from."""

    sender: Annotated[
        Word | UnsetType, Meta(description="Name of a node; else it is that of its owner.")
    ] = UNSET


class SubjectRow(Struct):
    """What else was decided, and went into it."""

    subject: str
    id: str | None
    name: str | None
    decision: DecisionRow


class ExplainAnswer(Struct):
    """Why something is as it is."""

    subject: Annotated[str, Meta(description="`processor`, `node` or `directive`.")]
    id: str | None
    name: str | None
    live: Annotated[
        bool, Meta(description="The leader answered; else only what was stored is known.")
    ]
    message: Annotated[str, Meta(description="Why it is not live; else empty.")]
    decision: Annotated[DecisionRow | None, Meta(description="Null: not live.")]
    because: Annotated[
        list[SubjectRow], Meta(description="What went into it: its node, its home, the brake.")
    ]
    events: Annotated[
        list[EventRow], Meta(description="The last 20, the newest first, with their decisions.")
    ]


class ActionRow(Struct):
    """Something that is done in this cycle."""

    action: str
    id: UUID
    name: str | None
    move: Annotated[str | None, Meta(description="The kind of move that begins with it.")]
    from_node: str | None
    node: str | None
    reason: str
    detail: str


class WaitingRow(Struct):
    """A processor that waits for something, or is held."""

    id: UUID
    name: str | None
    state: str
    reason: str
    detail: str


class TroubledRow(Struct):
    """A node that is suspect or dead."""

    name: str
    state: str
    reason: str
    detail: str


class PlanAnswer(Struct):
    """The plan of the present cycle. Of each list the first thousand."""

    actions: list[ActionRow]
    actions_count: int
    paused: Annotated[list[ActionRow], Meta(description="What would be done but for the pause.")]
    paused_count: int
    paused_for_seconds: float | None
    waiting: list[WaitingRow]
    waiting_count: int
    nodes: list[TroubledRow]
    nodes_count: int
    brake_engaged: bool
    brake: str
    guard: Annotated[str, Meta(description="What the deletion guard holds; empty: nothing.")]
    changes_in_seconds: Annotated[
        float | None, Meta(description="When time alone changes the plan; null: it does not.")
    ]


class WhatIfQuery(Struct):
    """Which nodes die."""

    node_down: Annotated[
        Names | UnsetType, Meta(description="One name, or several with commas; without: none.")
    ] = UNSET
    without_cloud: Annotated[
        Literal["true", "false"], Meta(description="`true`: every application node dies, too.")
    ] = "false"


class SupposedRow(Struct):
    """What would become of one processor."""

    id: UUID
    name: str | None
    from_node: str | None
    outcome: Annotated[
        str, Meta(description="`moves`, `waits` (for room), or `stays` (nothing is done).")
    ]
    to_node: str | None
    reason: str
    detail: str
    loss_seconds: Annotated[
        float | None, Meta(description="Age of its newest checkpoint; null: there is none.")
    ]
    wave: Annotated[int | None, Meta(description="In which wave of moves it goes.")]
    seconds: Annotated[
        float | None,
        Meta(description="Until it runs again, at most; null: no failover was measured yet."),
    ]


class WhatIfAnswer(Struct):
    """What would happen if these nodes died now."""

    nodes_down: list[str]
    processors: Annotated[
        list[SupposedRow],
        Meta(description="The first thousand, those first that would not move."),
    ]
    processors_count: int
    moves: int
    waits: int
    stays: int
    loss_seconds_most: float | None
    seconds_most: float | None
    brake_engaged: Annotated[bool, Meta(description="The brake would hold, and nothing move.")]
    brake: str | None
    paused: Annotated[bool, Meta(description="Everything is paused now: first it has to end.")]
    safe: Annotated[bool, Meta(description="Every processor would move.")]
    detection_seconds: Annotated[
        float, Meta(description="Until a silent node is known to be dead, at most.")
    ]
    failover_seconds: Annotated[
        float | None, Meta(description="What failovers took of late, from their grant: the median.")
    ]


# Decisions ---------------------------------------------------------------------------------


class PauseRequest(Struct):
    """Nothing is created, ended or moved."""

    for_seconds: Annotated[
        float, Meta(ge=1, le=PAUSE_SECONDS_MAX, description="For how long, from now on.")
    ]
    reason: Why
    by: By = "an operator"


class ResumeRequest(Struct):
    """Ends a pause."""

    by: By = "an operator"


class PauseAnswer(Struct):
    """Whether everything is paused."""

    paused: bool
    until: datetime | None
    began_at: datetime | None
    by: str | None
    reason: str | None


class PauseDecisionAnswer(PauseAnswer):
    """The pause after a decision."""

    message: Annotated[str, Meta(description="What that does, in a sentence.")]


class DrillsQuery(Struct):
    """How many."""

    limit: Annotated[int, Meta(ge=1, le=100, description="How many at most.")] = 20


class DrillMoveRow(Struct):
    """A move that a drill brought about."""

    processor_id: UUID
    processor_name: str | None
    kind: str
    from_node: str
    to_node: str | None
    began_at: datetime
    ended_at: datetime | None
    outcome: str | None
    rto_seconds: Annotated[
        float | None,
        Meta(description="From its grant: to find out that a node is dead is not in it."),
    ]
    rpo_seconds: float | None


class DrillRow(Struct):
    """A fire drill, and what came of it."""

    id: int
    node_name: str
    by: str
    reason: str
    phase: Annotated[str, Meta(description="`running`, `returning` or `ended`.")]
    began_at: datetime
    until: datetime
    left_at: Annotated[datetime | None, Meta(description="When the node stopped to count as dead.")]
    ended_at: datetime | None
    outcome: Annotated[
        str | None, Meta(description="`done`, `aborted` or `still_away`; null: it has not ended.")
    ]
    detail: str
    moves: Annotated[list[DrillMoveRow], Meta(description="The first thousand.")]


class DrillsAnswer(Struct):
    """The last drills, the newest first."""

    drills: list[DrillRow]


class DrillStartRequest(Struct):
    """Treats an edge node as dead."""

    node: NodeName
    for_seconds: Annotated[
        float, Meta(ge=10, le=DRILL_SECONDS_MAX, description="For how long at most, from now on.")
    ]
    reason: Why
    organization: OrganizationId = UNSET
    by: By = "an operator"


class DrillStopRequest(Struct):
    """Ends a drill."""

    by: By = "an operator"


class DrillAnswer(Struct):
    """A drill after a decision."""

    drill: DrillRow
    message: Annotated[str, Meta(description="What follows, in a sentence.")]


class OrderRequest(Struct):
    """What is to be done for one processor."""

    processor: Annotated[UUID, Meta(description="Its id.")]
    reason: Why
    by: By = "an operator"


class OrderAnswer(Struct):
    """An order that was taken."""

    processor: UUID
    message: Annotated[str, Meta(description="What follows, in a sentence.")]
