"""Whether what a move was decided on still holds when it is granted: one table for every store,
so that what a plan asks for is what an unchanged database grants."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from dory_orchestrator.core.model import MoveKind, OrderKind
from dory_orchestrator.core.plan import MoveStart

EVIDENCE_SECONDS = 5.0
"""A decision that is older rests on what may not be true any more."""


class GrantRefusal(StrEnum):
    """Why a store does not grant an action."""

    CHANGED = "changed"
    PAUSED = "paused"
    OLD_DECISION = "old_decision"
    BRAKE_HELD = "brake_held"
    LINK_HELD = "link_held"
    LINK_CHANGED = "link_changed"
    NODE_MISSING = "node_missing"
    HOME_NOT_ONLINE = "home_not_online"
    HOME_CORDONED = "home_cordoned"
    KEPT_AWAY = "kept_away"
    NOT_LEAVING = "not_leaving"
    DRILL_OVER = "drill_over"
    FAILOVER_DISABLED = "failover_disabled"
    HEARD_FROM = "heard_from"


REFUSALS = {
    GrantRefusal.CHANGED: "its owner, or what is desired of it, has changed",
    GrantRefusal.PAUSED: "everything is paused",
    GrantRefusal.OLD_DECISION: "the decision was too old",
    GrantRefusal.BRAKE_HELD: "the brake holds",
    GrantRefusal.LINK_HELD: "another transaction holds its row of edge_node_apps",
    GrantRefusal.LINK_CHANGED: "its link to an edge node has changed",
    GrantRefusal.NODE_MISSING: "the edge node is not in the database",
    GrantRefusal.HOME_NOT_ONLINE: "its home is not online",
    GrantRefusal.HOME_CORDONED: "its home is cordoned",
    GrantRefusal.KEPT_AWAY: "an operator keeps it away from its home",
    GrantRefusal.NOT_LEAVING: "its node is not decommissioned, and no order stands",
    GrantRefusal.DRILL_OVER: "the drill is over",
    GrantRefusal.FAILOVER_DISABLED: "failover of its node is disabled",
    GrantRefusal.HEARD_FROM: "its node was heard from meanwhile",
}
"""In words."""


class Granted(list[bool]):
    """Whether each of several actions is granted, in their order; `refusals` says why not, and is
    None for those that are."""

    def __init__(self, refusals: Sequence[GrantRefusal | None]) -> None:
        super().__init__(refusal is None for refusal in refusals)
        self.refusals = refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFacts:
    """What the database says, at the moment of the grant, of a processor that begins a move and of
    the edge node of the move.

    `status` is None when there is no such row. `link_held`: another transaction holds the row of
    its link, which the move would write. `comes_home`: a move home to that node is open.
    """

    now: float
    brake_engaged: bool
    link_id: UUID | None
    link_held: bool = False
    status: str | None = None
    cordoned: bool = False
    failover_enabled: bool = True
    heartbeat_at: float | None = None
    order: OrderKind | None = None
    drill_runs: bool = False
    comes_home: bool = False


def refusal_of(move: MoveStart, facts: MoveFacts) -> GrantRefusal | None:
    """Why a move may not begin; the first rule that holds decides. None: it may."""
    if facts.now >= move.decided_at + EVIDENCE_SECONDS:
        return GrantRefusal.OLD_DECISION
    if facts.brake_engaged:
        return GrantRefusal.BRAKE_HELD
    if facts.link_held:
        return GrantRefusal.LINK_HELD
    if facts.link_id != move.link_id:
        return GrantRefusal.LINK_CHANGED
    if move.edge_node_id is None:
        # An application node: it has no row that could say anything else.
        return None
    if facts.status is None:
        return GrantRefusal.NODE_MISSING
    if move.kind is MoveKind.FAILBACK:
        return _refusal_of_failback(facts)
    if move.kind is MoveKind.DEPARTURE:
        may_leave = facts.status == "decommissioned" or facts.order is OrderKind.FAILOVER
        return None if may_leave else GrantRefusal.NOT_LEAVING
    if move.is_drill:
        return None if facts.drill_runs else GrantRefusal.DRILL_OVER
    return _refusal_of_failover(move, facts)


def _refusal_of_failback(facts: MoveFacts) -> GrantRefusal | None:
    if facts.status != "online":
        return GrantRefusal.HOME_NOT_ONLINE
    if facts.cordoned:
        return GrantRefusal.HOME_CORDONED
    return GrantRefusal.KEPT_AWAY if facts.order is OrderKind.FAILOVER else None


def _refusal_of_failover(move: MoveStart, facts: MoveFacts) -> GrantRefusal | None:
    may_leave = (
        facts.failover_enabled
        or facts.order is OrderKind.FAILOVER
        # Its work is to go elsewhere, whoever wanted it to stay before.
        or facts.status == "decommissioned"
        # Nothing of it runs any more: there is nobody who could stay.
        or facts.comes_home
    )
    if not may_leave:
        return GrantRefusal.FAILOVER_DISABLED
    return None if facts.heartbeat_at == move.heartbeat_at else GrantRefusal.HEARD_FROM
