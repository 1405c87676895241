"""What a heartbeat is answered with: promise S1, as one ordered table."""

from dataclasses import dataclass
from enum import StrEnum

from dory_orchestrator.core.model import Directive

ENDED = frozenset({"terminated", "failed"})
"""Processor states in which a processor is not desired (reference: edge heartbeat)."""


class DirectiveReason(StrEnum):
    """Why a heartbeat was answered as it was."""

    NOT_RECORDED = "not_recorded"
    DELETION_UNDECIDED = "deletion_undecided"
    NOT_FOUND = "not_found"
    ENDED = "ended"
    MOVED_AWAY = "moved_away"
    DESIRED = "desired"


@dataclass(frozen=True, slots=True)
class BeatFacts:
    """What the database says about one heartbeat, read in the transaction that recorded it.

    `recorded` is False when a row that the beat belongs in was held by another transaction.
    `left_node_name` is the node that the processor left in its latest move; only of a
    processor that has left one is the owner told. `deletion_undecided` while the deletion guard
    holds, and while a processor whose row is gone still has a pod that nobody decided to end.
    """

    found: bool
    recorded: bool
    status: str = ""
    left_node_name: str | None = None
    owner_node_name: str | None = None
    owner_ready: bool = False
    deletion_undecided: bool = False


NOT_FOUND = BeatFacts(found=False, recorded=True)


DIRECTIVES = {
    DirectiveReason.NOT_RECORDED: Directive.CONTINUE,
    DirectiveReason.DELETION_UNDECIDED: Directive.CONTINUE,
    DirectiveReason.NOT_FOUND: Directive.SHUTDOWN,
    DirectiveReason.ENDED: Directive.SHUTDOWN,
    DirectiveReason.MOVED_AWAY: Directive.SHUTDOWN,
    DirectiveReason.DESIRED: Directive.CONTINUE,
}


def decide(facts: BeatFacts, sender_node_name: str) -> tuple[Directive, DirectiveReason]:
    """Choose the directive; the first rule that holds decides.

    `shutdown` needs a fresh positive finding. Whatever leaves a doubt stands above the
    findings, so that a doubt can only ever lead to `continue`.
    """
    reason = _reason(facts, sender_node_name)
    return DIRECTIVES[reason], reason


def _reason(facts: BeatFacts, sender_node_name: str) -> DirectiveReason:
    if not facts.recorded:
        return DirectiveReason.NOT_RECORDED
    if facts.deletion_undecided and (not facts.found or facts.status in ENDED):
        return DirectiveReason.DELETION_UNDECIDED
    if not facts.found:
        return DirectiveReason.NOT_FOUND
    if facts.status in ENDED:
        return DirectiveReason.ENDED
    if (
        facts.left_node_name is not None
        and sender_node_name == facts.left_node_name
        and facts.owner_node_name is not None
        and sender_node_name != facts.owner_node_name
        and facts.owner_ready
    ):
        return DirectiveReason.MOVED_AWAY
    return DirectiveReason.DESIRED
