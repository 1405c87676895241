"""What a heartbeat is answered with: promise S1, as one ordered table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dory_orchestrator.core.model import Directive
from dory_orchestrator.core.why import Rule, Scalar, Trail, Why

ENDED = frozenset({"terminated", "failed"})
"""Processor states in which a processor is not desired (reference: edge heartbeat)."""


class DirectiveReason(StrEnum):
    """Why a heartbeat was answered as it was."""

    NOT_RECORDED = "not_recorded"
    DELETION_UNDECIDED = "deletion_undecided"
    NO_PICTURE = "no_picture"
    UNOWNED_POD = "unowned_pod"
    NOT_FOUND = "not_found"
    ENDED = "ended"
    MOVED_AWAY = "moved_away"
    DESIRED = "desired"


@dataclass(frozen=True, slots=True)
class BeatFacts:
    """What the database says about one heartbeat, read in the transaction that recorded it.

    `recorded` is False when a row that the beat belongs in was held by another transaction.
    `left_node_name` is the node that the processor left in its latest move; only of a
    processor that has left one is the owner told.

    The others are of a processor whose row is missing or has ended, and hold only where there is
    a cluster. `deletion_undecided` while the deletion guard holds, and while it owns a pod whose
    end was not granted; `no_picture` while no leader of this database has a fresh picture of its
    cluster; `unowned_pod` while a pod bears its id, or may do so unseen, that it does not own
    here: then it may be the database that is wrong.
    """

    found: bool
    recorded: bool
    status: str = ""
    left_node_name: str | None = None
    owner_node_name: str | None = None
    owner_ready: bool = False
    deletion_undecided: bool = False
    no_picture: bool = False
    unowned_pod: bool = False

    @property
    def gone(self) -> bool:
        """Whether its row is missing or has ended."""
        return not self.found or self.status in ENDED


NOT_FOUND = BeatFacts(found=False, recorded=True)


DIRECTIVES = {
    DirectiveReason.NOT_RECORDED: Directive.CONTINUE,
    DirectiveReason.DELETION_UNDECIDED: Directive.CONTINUE,
    DirectiveReason.NO_PICTURE: Directive.CONTINUE,
    DirectiveReason.UNOWNED_POD: Directive.CONTINUE,
    DirectiveReason.NOT_FOUND: Directive.SHUTDOWN,
    DirectiveReason.ENDED: Directive.SHUTDOWN,
    DirectiveReason.MOVED_AWAY: Directive.SHUTDOWN,
    DirectiveReason.DESIRED: Directive.CONTINUE,
}


_Holds = Callable[[BeatFacts, str], bool]

_RULES: tuple[tuple[DirectiveReason, Rule, _Holds], ...] = (
    (DirectiveReason.NOT_RECORDED, Rule.NOT_RECORDED, lambda facts, _: not facts.recorded),
    (
        DirectiveReason.DELETION_UNDECIDED,
        Rule.DELETION_UNDECIDED,
        lambda facts, _: facts.deletion_undecided and facts.gone,
    ),
    (
        DirectiveReason.NO_PICTURE,
        Rule.NO_PICTURE,
        lambda facts, _: facts.no_picture and facts.gone,
    ),
    (
        DirectiveReason.UNOWNED_POD,
        Rule.UNOWNED_POD,
        lambda facts, _: facts.unowned_pod and facts.gone,
    ),
    (DirectiveReason.NOT_FOUND, Rule.NOT_FOUND, lambda facts, _: not facts.found),
    (DirectiveReason.ENDED, Rule.ENDED, lambda facts, _: facts.status in ENDED),
    (
        DirectiveReason.MOVED_AWAY,
        Rule.MOVED_AWAY,
        lambda facts, sender: (
            facts.left_node_name is not None
            and sender == facts.left_node_name
            and facts.owner_node_name is not None
            and sender != facts.owner_node_name
            and facts.owner_ready
        ),
    ),
)
"""Whatever leaves a doubt stands above the findings, so that a doubt can only ever lead to
`continue`."""


def decide(facts: BeatFacts, sender_node_name: str) -> tuple[Directive, DirectiveReason]:
    """Choose the directive; the first rule that holds decides.

    `shutdown` needs a fresh positive finding.
    """
    for reason, _, holds in _RULES:
        if holds(facts, sender_node_name):
            return DIRECTIVES[reason], reason
    return DIRECTIVES[DirectiveReason.DESIRED], DirectiveReason.DESIRED


def explain(facts: BeatFacts, sender_node_name: str) -> Why:
    """Why `decide` answers as it does: the same rules, up to the one that holds."""
    trail = Trail()
    numbers: Mapping[Rule, tuple[Scalar, ...]] = {
        Rule.DELETION_UNDECIDED: (facts.status,),
        Rule.NO_PICTURE: (facts.status,),
        Rule.UNOWNED_POD: (facts.status,),
        Rule.ENDED: (facts.status,),
        Rule.MOVED_AWAY: (
            sender_node_name,
            facts.left_node_name,
            facts.owner_node_name,
            facts.owner_ready,
        ),
    }
    for _, rule, holds in _RULES:
        if trail.ask(rule, holds(facts, sender_node_name), *numbers.get(rule, ())):
            break
    known = {**_known(facts), "sender_node": sender_node_name}
    return Why(lambda: known, trail.answers)


def _known(facts: BeatFacts) -> dict[str, Scalar]:
    return {
        "row_found": facts.found,
        "status": facts.status,
        "deletion_undecided": facts.deletion_undecided,
        "no_picture": facts.no_picture,
        "unowned_pod": facts.unowned_pod,
        "left_node": facts.left_node_name,
        "owner_node": facts.owner_node_name,
        "owner_ready": facts.owner_ready,
    }
