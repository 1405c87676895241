"""Fire drills: one edge node is treated as dead, its processors move, and come home again.

A drill is stored, and outlives leaders. While it runs its node counts as dead for moves alone: how
the node really is, is judged and told as ever, and the brake counts it as that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from dory_orchestrator.core.brake import BrakeVerdict
from dory_orchestrator.core.cycle import has_failed
from dory_orchestrator.core.fleet_health import FleetHealth
from dory_orchestrator.core.model import (
    Drill,
    DrillPhase,
    Limits,
    Move,
    OrderKind,
    Snapshot,
)
from dory_orchestrator.core.node_health import NodeState

RETURN_SECONDS_MAX = 3_600.0
"""So long after its end a drill waits for those that are still away; then it is told as it is."""


class DrillReason(StrEnum):
    """Why a drill goes on to its next phase."""

    TIME_OVER = "time_over"
    ABORTED = "aborted"
    ALL_HOME = "all_home"
    STILL_AWAY = "still_away"


@dataclass(frozen=True, slots=True)
class DrillStep:
    """The next phase of a drill, to be stored."""

    drill: Drill
    phase: DrillPhase
    reason: DrillReason
    detail: str

    @property
    def outcome(self) -> str:
        """What comes of the drill, unless an earlier step said it."""
        if self.reason in (DrillReason.ABORTED, DrillReason.STILL_AWAY):
            return str(self.reason)
        return "done"


def next_step(snapshot: Snapshot, health: FleetHealth, limits: Limits) -> DrillStep | None:
    """What the drill that is under way comes to now; None: it stays as it is, or there is none.

    The first rule that holds decides; whatever speaks against it stands above its time.
    """
    drill = snapshot.desired.drill
    if drill is None:
        return None
    if drill.phase is DrillPhase.RETURNING:
        return _returned(snapshot, drill)
    against = _against(snapshot, drill, health, limits)
    if against is not None:
        return DrillStep(drill, DrillPhase.RETURNING, DrillReason.ABORTED, against)
    if snapshot.now >= drill.until:
        detail = "its time is over: its processors go home"
        return DrillStep(drill, DrillPhase.RETURNING, DrillReason.TIME_OVER, detail)
    return None


def _returned(snapshot: Snapshot, drill: Drill) -> DrillStep | None:
    away = len(list(_away(snapshot, drill)))
    moving = any(
        move.edge_node_id == drill.edge_node_id for move in snapshot.desired.moves.values()
    )
    if not away and not moving:
        detail = f"all are at home on {drill.node_name} again"
        return DrillStep(drill, DrillPhase.ENDED, DrillReason.ALL_HOME, detail)
    home = snapshot.desired.edge_nodes.get(drill.edge_node_id)
    is_closed = home is None or not home.takes_work
    if is_closed or snapshot.now >= drill.until + RETURN_SECONDS_MAX:
        detail = f"{away} are still away from {drill.node_name}"
        return DrillStep(drill, DrillPhase.ENDED, DrillReason.STILL_AWAY, detail)
    return None


def _against(snapshot: Snapshot, drill: Drill, health: FleetHealth, limits: Limits) -> str | None:
    """Why it must end now."""
    node = snapshot.desired.edge_nodes.get(drill.edge_node_id)
    verdict = health.judged.get(drill.edge_node_id)
    if node is None or verdict is None or node.status == "decommissioned":
        return f"{drill.node_name} is no edge node any more"
    if not verdict.is_well:
        return f"{drill.node_name} is in trouble itself: {verdict.detail}"
    pause = snapshot.desired.pause
    if pause is not None and pause.until > snapshot.now:
        return f"{pause.by} paused everything"
    return _against_others(drill, health, health.brake) or _not_ready(snapshot, drill, limits)


def _against_others(drill: Drill, health: FleetHealth, brake: BrakeVerdict) -> str | None:
    if brake.engaged:
        return f"the brake holds: {brake.detail}"
    for key, verdict in health.judged.items():
        if key != drill.edge_node_id and verdict.is_dead:
            return f"{health.names.get(key, key)} is dead: one node at a time"
    return None


def _not_ready(snapshot: Snapshot, drill: Drill, limits: Limits) -> str | None:
    """Of those that the drill moved: the first that does not become ready in its new place."""
    for key, move in _moves(snapshot, drill):
        own = snapshot.desired.ownership.get(key)
        pod = snapshot.observed.pods.get(own.pod_uid or "") if own is not None else None
        config = snapshot.desired.configs.get(key)
        name = (config.name if config is not None else None) or str(key)
        if pod is not None and pod.uid != move.old_uid and has_failed(pod):
            return f"{name} fails in its new place"
        if snapshot.now - move.began_at >= limits.rollout_ready_seconds:
            return f"{name} is not ready after {limits.rollout_ready_seconds:g} s"
    return None


def _moves(snapshot: Snapshot, drill: Drill) -> Iterable[tuple[UUID, Move]]:
    for key, move in sorted(snapshot.desired.moves.items(), key=lambda one: one[0].int):
        if move.edge_node_id == drill.edge_node_id and move.began_at >= drill.began_at:
            yield key, move


def _away(snapshot: Snapshot, drill: Drill) -> Iterable[UUID]:
    """Those that an operator keeps away do not count."""
    desired = snapshot.desired
    for key, home_id in desired.homes.items():
        kept = desired.ordered(key, OrderKind.FAILOVER)
        if home_id == drill.edge_node_id and key in desired.configs and kept is None:
            yield key


# Whether one may begin -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillFacts:
    """What the database says of the edge node, and of what forbids a drill. `other_drill` is the
    node of one that has not ended; `processors` are those that live on the node."""

    status: str
    failover_enabled: bool
    cordoned: bool
    ready: bool
    health: str | None
    other_drill: str | None
    brake_engaged: bool
    paused: bool
    guard_held: bool
    moves_open: int
    others_in_trouble: int
    processors: int


def refusal(facts: DrillFacts) -> str | None:
    """Why it may not begin: the first rule that holds; None: it may."""
    if facts.other_drill is not None:
        return f"a drill of {facts.other_drill} has not ended: one node at a time"
    if facts.paused:
        return "everything is paused (see: resume)"
    if facts.brake_engaged:
        return "the mass-failure brake holds (see: brake status)"
    if facts.guard_held:
        return "the deletion guard holds (see: guard status)"
    if facts.others_in_trouble:
        return f"{facts.others_in_trouble} other edge nodes are suspect or dead"
    if facts.moves_open:
        return f"{facts.moves_open} moves are under way"
    return _of_the_node(facts)


def _of_the_node(facts: DrillFacts) -> str | None:
    if facts.status != "online":
        return f"it is {facts.status}"
    if facts.cordoned:
        return "it is cordoned: nothing would come home (see: uncordon)"
    if not facts.failover_enabled:
        return "its failover is disabled: nothing would move"
    if not facts.ready or facts.health != NodeState.ONLINE:
        return f"it is not well ({facts.health or 'not judged'})"
    if not facts.processors:
        return "no processor lives on it"
    return None
