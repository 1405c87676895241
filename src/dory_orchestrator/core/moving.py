"""Who may move, and why not: ordered rules, the first that holds (design, section 8)."""

from collections.abc import Sequence
from dataclasses import dataclass

from dory_orchestrator.core.brake import BrakeVerdict
from dory_orchestrator.core.model import (
    EdgeNodeRow,
    Gap,
    Move,
    MoveKind,
    MoveRetry,
    Node,
    Order,
    OrderKind,
)
from dory_orchestrator.core.node_health import NodeState, NodeVerdict
from dory_orchestrator.core.plan import Reason
from dory_orchestrator.core.why import Rule, Trail

_LATE_SECONDS = 1.0
"""A checkpoint may be so much later than its interval without anything being wrong."""


@dataclass(frozen=True, slots=True)
class No:
    """Why a processor stays where it is."""

    reason: Reason
    detail: str


def may_leave(
    node_name: str,
    row: EdgeNodeRow | None,
    verdict: NodeVerdict,
    brake: BrakeVerdict,
    trail: Trail,
    order: Order | None = None,
) -> No | None:
    """Whether processors of a node that is in trouble may be moved away; None: they may.

    `row` is None for an application node: nobody can have forbidden it. `order` is an operator's,
    to leave it.
    """
    if trail.ask(Rule.NODE_NOT_DEAD, not verdict.is_dead, node_name, str(verdict.state)):
        return No(Reason.NODE_SUSPECT, f"{node_name}: {verdict.detail}")
    # Of one that was decommissioned the work is to go elsewhere, whoever wanted it to stay before.
    bound = row is not None and not row.failover_enabled and row.status != "decommissioned"
    disabled = bound and order is None
    if trail.ask(Rule.FAILOVER_DISABLED, disabled, node_name, _by(order)):
        return No(Reason.FAILOVER_DISABLED, f"{node_name} is dead, and its failover is disabled")
    if holds(brake, trail):
        return No(Reason.BRAKE_HELD, f"{node_name} looks dead, and the brake holds: {brake.detail}")
    return None


def _by(order: Order | None) -> str | None:
    return None if order is None else order.by


def holds(brake: BrakeVerdict, trail: Trail) -> bool:
    """Whether the brake keeps everybody where they are."""
    suspects = len(brake.suspects)
    return trail.ask(Rule.BRAKE_HELD, brake.engaged, suspects, brake.counted, str(brake.reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What is known of the edge node that a processor has failed over from."""

    row: EdgeNodeRow | None
    node: Node | None
    verdict: NodeVerdict | None
    is_taken: bool
    """Whether another processor is on its way there."""
    order: Order | None = None
    """What an operator said of this processor."""
    retry: MoveRetry | None = None
    """What became of its tries to go home, if they were given up."""

    @property
    def ordered_home(self) -> Order | None:
        """By whom it is sent home, if by anybody."""
        return self.order if self.order and self.order.kind is OrderKind.FAILBACK else None

    @property
    def ordered_away(self) -> Order | None:
        """By whom it is kept away, if by anybody."""
        return self.order if self.order and self.order.kind is OrderKind.FAILOVER else None


def may_go_home(
    home: Home, brake: BrakeVerdict, trail: Trail, *, now: float, is_manual: bool, ready: bool
) -> No | None:
    """Whether a processor that lives elsewhere may return; None: it may, if there is room."""
    row, verdict = home.row, home.verdict
    status = None if row is None else row.status
    name = None if row is None else row.name
    offline = trail.ask(Rule.HOME_NOT_ONLINE, status != "online", name, status)
    if row is None or offline:
        said = "is not in the database" if row is None else f"is {row.status}"
        return No(Reason.AWAY, f"its home {said}")
    away, by = home.ordered_away, _by(home.ordered_home)
    if trail.ask(Rule.KEPT_AWAY, away is not None, _by(away)) and away is not None:
        said = f"{away.by} moved it away: {away.reason}"
        return No(Reason.AWAY, f"stays away from {row.name}: {said}")
    if trail.ask(Rule.FAILBACK_BY_HAND, is_manual and by is None, is_manual, by):
        return No(
            Reason.AWAY, f"stays away from {row.name}: its template has no automatic failback"
        )
    if trail.ask(Rule.HOME_CORDONED, row.cordoned, name):
        return No(Reason.AWAY, f"stays away from {row.name}, which is cordoned")
    failback_at = None if verdict is None else verdict.failback_at
    unwell = failback_at is None or home.node is None or not home.node.ready
    judged = (None, None) if verdict is None else (str(verdict.state), str(verdict.reason))
    if trail.ask(Rule.HOME_NOT_WELL, unwell, name, *judged) or verdict is None:
        said = "unknown" if verdict is None else verdict.detail
        return No(Reason.AWAY, f"stays away from {row.name}: {said}")
    left_seconds = max((failback_at or 0.0) - now, 0.0)
    flaps = verdict.state is NodeState.QUARANTINED
    waits = left_seconds > 0 and (by is None or flaps)
    if trail.ask(Rule.HOME_NOT_STABLE, waits, name, left_seconds, by):
        return No(
            Reason.AWAY,
            f"goes home to {row.name} in {left_seconds:.0f} s, if it stays well ({verdict.state})",
        )
    if holds(brake, trail):
        return No(Reason.AWAY, f"stays away from {row.name} while the brake holds")
    if trail.ask(Rule.NOT_READY_YET, not ready):
        return No(Reason.AWAY, f"goes home to {row.name} once it is ready")
    retry = home.retry
    due_in_seconds = 0.0 if retry is None else retry.retry_at - now
    asked = (None, None, None) if retry is None else (retry.failures, due_in_seconds, retry.error)
    backs_off = due_in_seconds > 0 and by is None
    if trail.ask(Rule.MOVE_BACK_OFF, backs_off, *asked) and retry is not None:
        times = "once" if retry.failures == 1 else f"{retry.failures} times in a row"
        return No(
            Reason.AWAY,
            f"stays away from {row.name}: given up {times}, last as {retry.error};"
            f" next try in {due_in_seconds:.0f} s",
        )
    if trail.ask(Rule.HOME_TAKEN, home.is_taken, name):
        return No(Reason.AWAY, f"goes home to {row.name} after another")
    return None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a move has cost: seconds without the processor, and at most so many of its state.

    `rpo_seconds` is None when no state was known.
    """

    rto_seconds: float
    rpo_seconds: float | None

    def __str__(self) -> str:
        lost = "no state" if self.rpo_seconds is None else f"RPO at most {self.rpo_seconds:.1f} s"
        return f"RTO {self.rto_seconds:.1f} s, {lost}"


def measure(
    move: Move,
    *,
    now: float,
    interval_seconds: float,
    gaps: Sequence[Gap] = (),
    attended_since: float | None = None,
) -> Measured:
    """RTO and RPO of a move that ends `now`. See Snapshot for `attended_since`.

    RTO counts from the last sign of life: a heartbeat, or a checkpoint that was taken.
    RPO is how old the state was when the first evidence came that its processor had ended. Where
    checkpoints came as they should, it is no more than an interval: had the processor lived so
    long, the next one would have been there. When it really ended nobody knows: the figure is a
    bound, not a guess. A planned move ends the processor itself, after its state was taken.
    """
    signs = [at for at in (move.last_alive_at, move.state_at) if at is not None]
    alive_at = min(max(signs, default=move.began_at), now)
    if move.state_at is None:
        return Measured(now - alive_at, None)
    ended_at = move.began_at if move.suspect_at is None else move.suspect_at
    if move.kind is MoveKind.FAILOVER and move.state_at > ended_at:
        # The evidence was older than the last checkpoint: it has lived on after that.
        ended_at = move.began_at
    if any(gap.began_at < ended_at and gap.ended_at > move.state_at for gap in gaps):
        # Our own trouble may have kept us from taking checkpoints, and from hearing that it
        # lived on after what was taken for evidence.
        return Measured(now - alive_at, max(0.0, move.began_at - move.state_at))
    age = max(0.0, ended_at - move.state_at)
    # Nobody takes checkpoints between two leaders, or while the leader stands still.
    was_left_alone = attended_since is not None and (
        move.state_at < attended_since <= move.began_at
    )
    if was_left_alone or not _came_as_they_should(move, interval_seconds):
        return Measured(now - alive_at, age)
    # Less than what it is known to have lived on for it cannot be.
    return Measured(now - alive_at, min(age, max(interval_seconds, alive_at - move.state_at)))


def _came_as_they_should(move: Move, interval_seconds: float) -> bool:
    """Not if none are taken, or if one was overdue while the node still gave a sign of life."""
    if interval_seconds <= 0 or move.state_at is None:
        return False
    due_at = move.state_at + interval_seconds + _LATE_SECONDS
    return move.last_alive_at is None or move.last_alive_at <= due_at
