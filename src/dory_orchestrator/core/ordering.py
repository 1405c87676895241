"""Whether an operator's word for one processor may be taken: ordered rules, the first that holds
refuses, and says why. What then happens is decided by the leader, who looks at everything again."""

from dataclasses import dataclass

from dory_orchestrator.core.model import OrderKind
from dory_orchestrator.core.node_health import WELL_STATES
from dory_orchestrator.core.plan import Reason

_EDGE = "edge"
_NOT_TOUCHED = {
    Reason.EPOCH_AHEAD: "it is frozen: its pod bears an epoch that the database has not given"
    " (see: guard status)",
    Reason.DOCUMENT_AHEAD: "it is frozen: its document is newer than the database"
    " (see: guard status)",
    Reason.FOREIGN_FLEET: "a pod of another fleet runs it",
    Reason.UNRECOGNISED: "its pod is there, and does not say any more that it is its own",
    Reason.GUARD_HELD: "the deletion guard holds it (see: guard status)",
    Reason.NOT_DESIRED: "it is not desired, and being removed",
    Reason.TEMPLATE_MISSING: "its template is missing",
    Reason.NO_ACTIVE_VERSION: "its template has no active version",
    Reason.SEVERAL_ACTIVE_VERSIONS: "its template has several active versions",
    Reason.CONFIG_UNREADABLE: "its configuration cannot be read",
    Reason.NAMESPACE_UNSEEN: "its namespace cannot be looked at",
}
_TRIED_AGAIN = (Reason.BACK_OFF, Reason.FAILED, Reason.CREATION_REFUSED, Reason.VANISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts:
    """What the database says of one processor and of what may forbid that it is moved.

    `linked_node` is the edge node that it belongs to and lives on, `home_node` the one that it is
    away from. `order` is the one that stands. `waits_seconds` is until the next try of one that
    failed.
    """

    node_type: str | None
    reason: str
    linked_node: str | None
    home_node: str | None
    home_status: str | None
    home_cordoned: bool
    home_ready: bool
    home_health: str | None
    move: str | None
    order: str | None
    brake_engaged: bool
    paused: bool
    application_nodes_ready: int
    failures: int
    waits_seconds: float | None


def refusal(kind: OrderKind, facts: OrderFacts) -> str | None:
    """Why it may not leave, or not go home; None: it may."""
    if facts.node_type != _EDGE:
        return "it is no edge processor: it has no home to leave or to return to"
    if facts.reason in _NOT_TOUCHED:
        return _NOT_TOUCHED[Reason(facts.reason)]
    if facts.paused:
        return "everything is paused (see: resume)"
    if facts.brake_engaged:
        return "the mass-failure brake holds (see: brake status)"
    if facts.move is not None and not _may_call_back(kind, facts):
        return f"it is on its way already ({facts.move})"
    if facts.linked_node is None and facts.home_node is None:
        return "it has no edge node yet"
    return _no_way(facts) if kind is OrderKind.FAILOVER else _no_way_home(facts)


def _may_call_back(kind: OrderKind, facts: OrderFacts) -> bool:
    """Who was ordered away and has not left yet; else it comes home afterwards."""
    return kind is OrderKind.FAILBACK and facts.move == "departure"


def _no_way(facts: OrderFacts) -> str | None:
    if facts.linked_node is None and facts.order == OrderKind.FAILOVER:
        return f"it is away from {facts.home_node} already, and stays there"
    if facts.linked_node is not None and facts.application_nodes_ready == 0:
        return "no application node is ready: it would run nowhere"
    return None


def _no_way_home(facts: OrderFacts) -> str | None:
    if facts.linked_node is not None:
        pending = facts.order == OrderKind.FAILOVER
        return None if pending else f"it is at home on {facts.linked_node}"
    home = facts.home_node
    if facts.home_status != "online":
        return f"its home {home} is {facts.home_status}"
    if facts.home_cordoned:
        return f"its home {home} is cordoned (see: uncordon)"
    if not facts.home_ready or facts.home_health not in WELL_STATES:
        return f"its home {home} is not well ({facts.home_health or 'not judged'})"
    return None


def follows(kind: OrderKind, facts: OrderFacts) -> str:
    """What an order that may be taken leads to, in words."""
    if kind is OrderKind.FAILOVER:
        if facts.linked_node is None:
            return f"it stays away from {facts.home_node} until it is sent home (failback)"
        return (
            f"it leaves {facts.linked_node} with its state, and stays in the cloud until it is"
            " sent home (failback)"
        )
    if facts.linked_node is not None:
        return f"it stays at home on {facts.linked_node} after all"
    return f"it goes home to {facts.home_node} with its state, as soon as none other is on its way"


def retry_refusal(facts: OrderFacts) -> str | None:
    """Why the next try of what failed may not be made due; None: it may."""
    if facts.paused:
        return "everything is paused (see: resume)"
    if facts.reason not in _TRIED_AGAIN and facts.waits_seconds is None:
        return f"nothing of it waits to be tried again ({facts.reason})"
    return None
