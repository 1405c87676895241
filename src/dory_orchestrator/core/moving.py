"""Who may move, and why not: ordered rules, the first that holds (design, section 8)."""

from dataclasses import dataclass

from dory_orchestrator.core.brake import BrakeVerdict
from dory_orchestrator.core.model import EdgeNodeRow, Move, Node
from dory_orchestrator.core.node_health import NodeVerdict
from dory_orchestrator.core.plan import Reason


@dataclass(frozen=True, slots=True)
class No:
    """Why a processor stays where it is."""

    reason: Reason
    detail: str


def may_leave(
    node_name: str, row: EdgeNodeRow | None, verdict: NodeVerdict, brake: BrakeVerdict
) -> No | None:
    """Whether processors of a node that is in trouble may be moved away; None: they may.

    `row` is None for an application node: nobody can have forbidden it.
    """
    if not verdict.is_dead:
        return No(Reason.NODE_SUSPECT, f"{node_name}: {verdict.detail}")
    if row is not None and not row.failover_enabled:
        return No(Reason.FAILOVER_DISABLED, f"{node_name} is dead, and its failover is disabled")
    if brake.engaged:
        return No(Reason.BRAKE_HELD, f"{node_name} looks dead, and the brake holds: {brake.detail}")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What is known of the edge node that a processor has failed over from."""

    row: EdgeNodeRow | None
    node: Node | None
    verdict: NodeVerdict | None
    is_taken: bool
    """Whether another processor is on its way there."""


def may_go_home(
    home: Home, brake: BrakeVerdict, *, now: float, is_manual: bool, ready: bool
) -> No | None:
    """Whether a processor that lives elsewhere may return; None: it may, if there is room."""
    row, verdict = home.row, home.verdict
    if row is None or row.status != "online":
        said = "is not in the database" if row is None else f"is {row.status}"
        return No(Reason.AWAY, f"its home {said}")
    if is_manual:
        return No(
            Reason.AWAY, f"stays away from {row.name}: its template has no automatic failback"
        )
    if row.cordoned:
        return No(Reason.AWAY, f"stays away from {row.name}, which is cordoned")
    if verdict is None or verdict.failback_at is None or home.node is None or not home.node.ready:
        said = "unknown" if verdict is None else verdict.detail
        return No(Reason.AWAY, f"stays away from {row.name}: {said}")
    if verdict.failback_at > now:
        return No(
            Reason.AWAY,
            f"goes home to {row.name} in {verdict.failback_at - now:.0f} s,"
            f" if it stays well ({verdict.state})",
        )
    if brake.engaged:
        return No(Reason.AWAY, f"stays away from {row.name} while the brake holds")
    if not ready:
        return No(Reason.AWAY, f"goes home to {row.name} once it is ready")
    if home.is_taken:
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


def measure(move: Move, *, now: float, interval_seconds: float) -> Measured:
    """RTO and RPO of a move that ends `now`.

    RTO counts from the last sign of life: a heartbeat, or a checkpoint that was taken.
    RPO is how old the state was when the first evidence came that its processor had ended, and
    no more than an interval (0: none are taken): had it lived so long, the next checkpoint would
    have been there. When it really ended nobody knows: the figure is a bound, not a guess.
    """
    signs = [at for at in (move.last_alive_at, move.state_at) if at is not None]
    alive_at = min(max(signs, default=move.began_at), now)
    if move.state_at is None:
        return Measured(now - alive_at, None)
    ended_at = move.began_at if move.suspect_at is None else move.suspect_at
    age = max(0.0, ended_at - move.state_at)
    return Measured(now - alive_at, min(age, interval_seconds) if interval_seconds > 0 else age)
