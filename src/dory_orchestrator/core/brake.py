"""The mass-failure brake (promise S3): when many nodes look dead at once, nothing is moved.

A node waits the whole grace as a suspect before it is dead. So a cut that arrives spread over
one heartbeat interval is seen whole, and the brake is on before the first move.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

from dory_orchestrator.core.model import Limits
from dory_orchestrator.core.node_health import NodeState, NodeVerdict
from dory_orchestrator.core.why import Rule, Trail, Why

DEAF_NODES_MIN = 2
"""One silent node says nothing about us."""


class BrakeReason(StrEnum):
    """Why the brake is on, or is not."""

    MANY_SUSPECT = "many_suspect"
    ALL_SILENT_BUT_READY = "all_silent_but_ready"
    OVERRIDDEN = "overridden"
    RELEASED = "released"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class BrakeRecord:
    """The brake as it is stored.

    `population` are the edge nodes that counted when it engaged, and those that became suspect
    since. `override_until` is set by an operator.
    """

    engaged_at: float | None = None
    reason: BrakeReason | None = None
    population: frozenset[UUID] = frozenset()
    override_until: float | None = None


@dataclass(frozen=True, slots=True)
class BrakeVerdict:
    """Whether nodes may be moved away from, and the record to store.

    While `engaged`, no node is. `suspects` of `counted` nodes are suspect or worse.
    """

    engaged: bool
    record: BrakeRecord
    reason: BrakeReason
    detail: str
    suspects: frozenset[UUID]
    counted: int
    wake_at: float | None = None
    why: Why = field(default=Why(), compare=False)


def judge(
    nodes: Mapping[UUID, NodeVerdict],
    moved_away: frozenset[UUID],
    record: BrakeRecord,
    *,
    now: float,
    limits: Limits,
) -> BrakeVerdict:
    """Judge the fleet; the first rule that holds decides.

    `nodes` holds the verdicts of this cycle by edge node. `moved_away` are those that all
    processors have left: they have nothing to lose, and do not count.
    """
    trail = Trail()
    verdict = _judge(nodes, moved_away, record, now, limits, trail)
    facts = {
        "nodes": len(nodes),
        "counted_nodes": verdict.counted,
        "suspect_nodes": len(verdict.suspects),
        "left_by_all_nodes": len(moved_away),
        "engaged_seconds_ago": None if record.engaged_at is None else now - record.engaged_at,
        "window_seconds": limits.brake_window_seconds,
    }
    return replace(verdict, why=Why(lambda: facts, trail.answers))


def _judge(
    nodes: Mapping[UUID, NodeVerdict],
    moved_away: frozenset[UUID],
    record: BrakeRecord,
    now: float,
    limits: Limits,
    trail: Trail,
) -> BrakeVerdict:
    until = record.override_until
    overridden = trail.ask(
        Rule.OVERRIDDEN, until is not None and now < until, None if until is None else until - now
    )
    held = record.engaged_at is not None and record.override_until is None
    counted = _counted(nodes, moved_away, record, held, limits)
    suspects = frozenset(key for key in counted if nodes[key].is_suspect)
    if overridden:
        return _overridden(record, suspects, counted)
    reason = _engages(nodes, counted, suspects, limits, trail)
    if reason is None and _still_holds(suspects, counted, held, limits, trail):
        reason = record.reason or BrakeReason.MANY_SUSPECT
    if reason is None:
        return _off(record, suspects, counted)
    engaged_at = record.engaged_at if held else now
    return BrakeVerdict(
        True,
        BrakeRecord(engaged_at, reason, counted),
        reason,
        f"{_numbers(suspects, counted)}: no node is moved away from",
        suspects,
        len(counted),
    )


def _counted(
    nodes: Mapping[UUID, NodeVerdict],
    moved_away: frozenset[UUID],
    record: BrakeRecord,
    held: bool,
    limits: Limits,
) -> frozenset[UUID]:
    """Those that were well lately. Once the brake is on, they stay counted, however long it
    lasts, and only further suspects join: new nodes that are well do not release it."""
    present = {
        key: verdict
        for key, verdict in nodes.items()
        if key not in moved_away and verdict.state is not NodeState.DECOMMISSIONED
    }
    return frozenset(
        key
        for key, verdict in present.items()
        if key in record.population
        or (_well_lately(verdict, limits) and (verdict.is_suspect or not held))
    )


def _well_lately(verdict: NodeVerdict, limits: Limits) -> bool:
    ago = verdict.well_ago_seconds
    return ago is not None and ago <= limits.brake_window_seconds


def _engages(
    nodes: Mapping[UUID, NodeVerdict],
    counted: frozenset[UUID],
    suspects: frozenset[UUID],
    limits: Limits,
    trail: Trail,
) -> BrakeReason | None:
    deaf_signs = sum(nodes[key].is_deaf_sign for key in counted)
    deaf = bool(suspects) and len(counted) >= DEAF_NODES_MIN and deaf_signs == len(counted)
    if trail.ask(Rule.ALL_SILENT_BUT_READY, deaf, deaf_signs, len(counted), DEAF_NODES_MIN):
        return BrakeReason.ALL_SILENT_BUT_READY
    share, least = _share(suspects, counted), limits.brake_nodes_min
    many = len(suspects) >= max(least, 1) and share >= limits.brake_share
    numbers = (len(suspects), len(counted), share, limits.brake_share, least)
    return BrakeReason.MANY_SUSPECT if trail.ask(Rule.MANY_SUSPECT, many, *numbers) else None


def _still_holds(
    suspects: frozenset[UUID],
    counted: frozenset[UUID],
    held: bool,
    limits: Limits,
    trail: Trail,
) -> bool:
    """One node alone is no mass: of three nodes it would be a share that never lets go."""
    share, below = _share(suspects, counted), limits.brake_release_share
    holds = held and len(suspects) >= DEAF_NODES_MIN and share >= below
    return trail.ask(Rule.STILL_MANY, holds, len(suspects), len(counted), share, below)


def _overridden(
    record: BrakeRecord, suspects: frozenset[UUID], counted: frozenset[UUID]
) -> BrakeVerdict:
    """The record stays: when the time is over, its population is judged anew."""
    return BrakeVerdict(
        False,
        record,
        BrakeReason.OVERRIDDEN,
        f"{_numbers(suspects, counted)}; an operator overrode the brake",
        suspects,
        len(counted),
        record.override_until,
    )


def _off(record: BrakeRecord, suspects: frozenset[UUID], counted: frozenset[UUID]) -> BrakeVerdict:
    reason = BrakeReason.CLEAR if record.engaged_at is None else BrakeReason.RELEASED
    return BrakeVerdict(
        False, BrakeRecord(), reason, _numbers(suspects, counted), suspects, len(counted)
    )


def _share(suspects: frozenset[UUID], counted: frozenset[UUID]) -> float:
    return len(suspects) / len(counted) if counted else 0.0


def _numbers(suspects: frozenset[UUID], counted: frozenset[UUID]) -> str:
    return f"{len(suspects)} of {len(counted)} edge nodes are suspect or dead"
