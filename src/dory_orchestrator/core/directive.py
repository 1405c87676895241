"""What a heartbeat is answered with: promise S1, as one ordered table."""

from dataclasses import dataclass
from enum import StrEnum

from dory_orchestrator.core.model import Directive

ENDED = frozenset({"terminated", "failed"})
"""Processor states in which a processor is not desired (reference: edge heartbeat)."""


class DirectiveReason(StrEnum):
    """Why a heartbeat was answered as it was."""

    NOT_RECORDED = "not_recorded"
    NOT_FOUND = "not_found"
    ENDED = "ended"
    MOVED_AWAY = "moved_away"
    DESIRED = "desired"


@dataclass(frozen=True, slots=True)
class BeatFacts:
    """What the database says about one heartbeat, read in the transaction that recorded it.

    `recorded` is False when a row that the beat belongs in was held by another transaction.
    `left_node_name` is the node that the processor left in its latest move.
    """

    found: bool
    recorded: bool
    status: str = ""
    left_node_name: str | None = None
    owner_node_name: str | None = None
    owner_ready: bool = False


NOT_FOUND = BeatFacts(found=False, recorded=True)


def decide(facts: BeatFacts, sender_node_name: str) -> tuple[Directive, DirectiveReason]:
    """Choose the directive; the first rule that holds decides.

    `shutdown` needs a fresh positive finding. Whatever leaves a doubt stands above the
    findings, so that a doubt can only ever lead to `continue`.
    """
    if not facts.recorded:
        return Directive.CONTINUE, DirectiveReason.NOT_RECORDED
    if not facts.found:
        return Directive.SHUTDOWN, DirectiveReason.NOT_FOUND
    if facts.status in ENDED:
        return Directive.SHUTDOWN, DirectiveReason.ENDED
    if (
        facts.left_node_name is not None
        and sender_node_name == facts.left_node_name
        and facts.owner_node_name is not None
        and sender_node_name != facts.owner_node_name
        and facts.owner_ready
    ):
        return Directive.SHUTDOWN, DirectiveReason.MOVED_AWAY
    return Directive.CONTINUE, DirectiveReason.DESIRED
