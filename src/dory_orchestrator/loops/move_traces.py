"""Moves as traces: what a cycle grants begins, goes on with, or ends one.

A move goes through many cycles, and may outlive its leader: nothing of its trace is kept. Its ids
follow from the move itself, and when it began is in the database.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from dory_orchestrator.core.model import Desired, Move, Pod
from dory_orchestrator.core.plan import CancelMove, Create, Delete, EndMove, Forget
from dory_orchestrator.ports import Action
from dory_orchestrator.tracing import MoveTrace, Tracer


def under_way(processor_id: UUID, moves: Mapping[UUID, Move]) -> MoveTrace | None:
    """The trace of the move that a processor is in, if it is in one."""
    move = moves.get(processor_id)
    return None if move is None else MoveTrace(processor_id, str(move.kind), move.epoch)


def begun_by(action: Action) -> MoveTrace | None:
    """The trace of the move that begins with an action, if one does."""
    if isinstance(action, Create | Delete) and action.move is not None:
        return MoveTrace(action.processor_id, str(action.move.kind), action.epoch)
    return None


def move_of(action: Action, moves: Mapping[UUID, Move]) -> MoveTrace | None:
    """The trace of the move that an action is part of, if it is part of one."""
    return begun_by(action) or under_way(action.processor_id, moves)


class MoveTraces:
    """Tells a tracer of the moves of one cycle.

    `read_at` is when `desired` was read, by the same clock as every `now` here.
    """

    def __init__(self, tracer: Tracer, desired: Desired, read_at: float) -> None:
        self._tracer = tracer
        self._desired = desired
        self._read_at = read_at

    def ids_of(self, actions: Sequence[Action]) -> dict[UUID, str]:
        """Of which trace each action is part: of its move's, else of the cycle's."""
        moves = self._desired.moves
        said = {a.processor_id: self._tracer.trace_id(move_of(a, moves)) for a in actions}
        return {key: trace_id for key, trace_id in said.items() if trace_id is not None}

    def granted(self, action: Action, *, asked_at: float, now: float) -> None:
        """An action was granted: what it begins or ends is told."""
        begun = begun_by(action)
        if begun is not None or isinstance(action, EndMove | CancelMove | Forget):
            self._end(action, now)
        if begun is not None and isinstance(action, Create | Delete) and action.move is not None:
            self._tracer.step(
                "move.grant",
                begun,
                began_seconds_ago=now - asked_at,
                from_node=action.move.from_node,
                to_node=action.choice.node_name if isinstance(action, Create) else None,
                reason=str(action.reason),
                detail=action.detail,
            )

    def _end(self, action: Action, now: float) -> None:
        trace = under_way(action.processor_id, self._desired.moves)
        if trace is None:
            return
        move = self._desired.moves[action.processor_id]
        began_seconds_ago = self._seconds_ago(move.began_at, now)
        said: dict[str, Any] = {"outcome": _outcome(action)}
        if isinstance(action, EndMove):
            self._arrival(trace, action.pod, began_seconds_ago, now)
            said |= {
                "to_node": action.pod.node_name,
                "rto_seconds": action.rto_seconds,
                "rpo_seconds": action.rpo_seconds,
            }
        reason, detail = str(action.reason), action.detail
        self._tracer.step("move.end", trace, began_seconds_ago=0.0, reason=reason, **said)
        self._tracer.move_ended(
            trace,
            began_seconds_ago=began_seconds_ago,
            from_node=move.from_node,
            reason=reason,
            detail=detail,
            **said,
        )

    def _arrival(self, trace: MoveTrace, pod: Pod, began_seconds_ago: float, now: float) -> None:
        """The pod told when it was created and when it became ready; the rest of the time it was
        given its state."""

        def within_move(moment: float) -> float:
            return min(max(self._seconds_ago(moment, now), 0.0), began_seconds_ago)

        created = within_move(pod.created_at)
        ready = created if pod.ready_changed_at is None else within_move(pod.ready_changed_at)
        said: dict[str, Any] = {"pod": pod.name, "node": pod.node_name}
        ready = min(ready, created)
        self._tracer.step(
            "pod.start", trace, began_seconds_ago=created, ended_seconds_ago=ready, **said
        )
        self._tracer.step("state.given", trace, began_seconds_ago=ready, **said)

    def _seconds_ago(self, moment: float, now: float) -> float:
        """How long ago a moment of the database's clock was."""
        return self._desired.now - moment + now - self._read_at


def _outcome(action: Action) -> str:
    """As it is stored."""
    match action:
        case EndMove():
            return "done"
        case CancelMove():
            return "cancelled"
        case Forget():
            return "dropped"
        case _:
            return "superseded"
