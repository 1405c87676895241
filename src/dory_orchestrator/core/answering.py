"""What the leader answers when an operator asks: from its own snapshot and its own plan.

Answers are plain values, as JSON holds them; the fleet API gives them their form. One that cannot
be answered is `{"unknown": <why>}`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from dory_orchestrator.core.brake import BrakeVerdict
from dory_orchestrator.core.explaining import why
from dory_orchestrator.core.model import EdgeNodeRow, Limits, Snapshot, node_key
from dory_orchestrator.core.node_health import NodeVerdict
from dory_orchestrator.core.node_rows import NodeRows
from dory_orchestrator.core.plan import (
    Adopt,
    CancelMove,
    Create,
    Delete,
    EndMove,
    Failure,
    Finding,
    Forget,
    Plan,
    State,
)
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.supposing import Experience, unknown_nodes, what_if
from dory_orchestrator.core.why import Why

_SHOWN_MAX = 1_000
_ALL_NODES = frozenset({UUID(int=0)})
"""No processor has this id: of nodes the rules are kept for all, once they are for anything."""
_QUIET = (State.RUNNING, State.STARTING)


class QuestionKind(StrEnum):
    """What may be asked."""

    PROCESSOR = "processor"
    NODE = "node"
    PLAN = "plan"
    WHAT_IF = "what_if"


@dataclass(frozen=True, slots=True)
class Question:
    """Asked by an operator, and answered by who leads.

    `parameters`: of a processor `id`; of a node `name` and perhaps `organization`; of what-if
    `down` (names) and `without_cloud`; of the plan none.
    """

    id: int
    kind: str
    parameters: Mapping[str, Any]


def answer(
    question: Question, snapshot: Snapshot, plan: Plan, limits: Limits, experience: Experience
) -> dict[str, Any]:
    """The answer, as of the snapshot that `plan` was computed from. What is not understood, as it
    may be of a later version, is answered so."""
    try:
        answered = _understood(question)
    except (KeyError, TypeError, ValueError) as error:
        return {"unknown": f"question: this leader does not understand it ({error!r})"}
    return answered(snapshot, plan, limits, experience)


def _understood(
    question: Question,
) -> Callable[[Snapshot, Plan, Limits, Experience], dict[str, Any]]:
    """What answers it. Raises KeyError, TypeError, ValueError for parameters of another shape."""
    asked = question.parameters
    match QuestionKind(question.kind):
        case QuestionKind.PROCESSOR:
            key = UUID(asked["id"])
            return lambda snapshot, _plan, limits, _experience: _processor(snapshot, limits, key)
        case QuestionKind.NODE:
            name, organization = asked["name"], asked.get("organization")
            return lambda snapshot, _plan, limits, _experience: _node(
                snapshot, compute(snapshot, limits, _ALL_NODES), name, organization
            )
        case QuestionKind.PLAN:
            return lambda snapshot, plan, _limits, _experience: _plan(snapshot, plan)
        case QuestionKind.WHAT_IF:
            down, without_cloud = list(asked["down"]), bool(asked["without_cloud"])
            return lambda snapshot, plan, limits, experience: _what_if(
                snapshot, plan, limits, down, without_cloud, experience
            )


def _what_if(
    snapshot: Snapshot,
    plan: Plan,
    limits: Limits,
    down: Sequence[str],
    without_cloud: bool,
    experience: Experience,
) -> dict[str, Any]:
    unknown = unknown_nodes(snapshot, down)
    if unknown:
        return {"unknown": f"node_down: no node {', '.join(unknown)} is known"}
    return what_if(snapshot, plan, limits, down, without_cloud=without_cloud, experience=experience)


def decision(outcome: str, reason: str, detail: str, told: Why) -> dict[str, Any]:
    """A decision as people are told it."""
    return {"outcome": outcome, "reason": reason, "detail": detail, **told.as_dict()}


def explanation(outcome: str, reason: str, detail: str, told: Why | None) -> str | None:
    """A decision as it is stored with its event."""
    return None if told is None else json_text(decision(outcome, reason, detail, told))


def json_text(value: Mapping[str, Any]) -> str:
    """As PostgreSQL takes it: it refuses NUL also where that is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("\\u0000", "\\ufffd")


# A processor --------------------------------------------------------------------------------


def _processor(snapshot: Snapshot, limits: Limits, processor_id: UUID) -> dict[str, Any]:
    # The same decisions once more, with what was asked also of what simply runs.
    plan = compute(snapshot, limits, frozenset({processor_id}))
    finding = plan.findings.get(processor_id)
    if finding is None:
        return {"unknown": f"id: no processor {processor_id} is desired, and none runs"}
    config = snapshot.desired.configs.get(processor_id)
    told = why(snapshot, plan, processor_id)
    return {
        "subject": "processor",
        "id": str(processor_id),
        "name": None if config is None else config.name,
        "decision": decision(finding.state, finding.reason, finding.detail, told),
        "because": list(_because(snapshot, plan, processor_id, finding)),
    }


def _because(
    snapshot: Snapshot, plan: Plan, processor_id: UUID, finding: Finding
) -> Iterable[dict[str, Any]]:
    """What else was decided before, and went into it: its node, its home, the brake."""
    desired = snapshot.desired
    concerned: dict[str, tuple[str, EdgeNodeRow | None]] = {}
    for node_id in (desired.links.get(processor_id), desired.homes.get(processor_id)):
        home = desired.edge_nodes.get(node_id) if node_id is not None else None
        if home is not None:
            concerned[node_key(home.id, home.name)] = home.name, home
    if finding.pod is not None and finding.pod.node_name is not None:
        name = finding.pod.node_name
        row = NodeRows(desired).of(processor_id, name)
        concerned[node_key(None if row is None else row.id, name)] = name, row
    for key, (name, row) in sorted(concerned.items(), key=lambda one: (one[1][0], one[0])):
        verdict = plan.nodes.get(key)
        if verdict is not None:
            yield _of_node(name, row, verdict)
    if plan.brake is not None and plan.brake.suspects:
        yield _of_brake(plan.brake)


# A node -------------------------------------------------------------------------------------


def _node(snapshot: Snapshot, plan: Plan, name: str, organization: str | None) -> dict[str, Any]:
    found = [
        (key, row)
        for key, row in _keys(snapshot, name)
        if key in plan.nodes
        and (organization is None or (row and str(row.organization_id) == organization))
    ]
    if len(found) > 1:
        rows = [row for _, row in found if row is not None]
        return {
            "ambiguous": [
                {"organization_id": str(r.organization_id), "id": str(r.id), "status": r.status}
                for r in rows
            ]
        }
    if not found:
        return {"unknown": f"node: no node {name} is judged"}
    key, row = found[0]
    because = [] if plan.brake is None else [_of_brake(plan.brake)]
    return {**_of_node(name, row, plan.nodes[key]), "because": because}


def _keys(snapshot: Snapshot, name: str) -> list[tuple[str, EdgeNodeRow | None]]:
    rows = [row for row in snapshot.desired.edge_nodes.values() if row.name == name]
    edges: list[tuple[str, EdgeNodeRow | None]] = [(node_key(row.id, name), row) for row in rows]
    return edges or [(node_key(None, name), None)]


def _of_node(name: str, row: EdgeNodeRow | None, verdict: NodeVerdict) -> dict[str, Any]:
    return {
        "subject": "node",
        "id": None if row is None else str(row.id),
        "name": name,
        "decision": decision(verdict.state, verdict.reason, verdict.detail, verdict.why),
    }


def _of_brake(brake: BrakeVerdict) -> dict[str, Any]:
    outcome = "engaged" if brake.engaged else "off"
    return {
        "subject": "brake",
        "id": None,
        "name": None,
        "decision": decision(outcome, brake.reason, brake.detail, brake.why),
    }


# The plan -----------------------------------------------------------------------------------

_VERBS: Mapping[type, str] = {
    Create: "create",
    Delete: "end",
    Adopt: "adopt",
    Failure: "note failure",
    Forget: "forget",
    EndMove: "end move",
    CancelMove: "cancel move",
}

_Action = Create | Delete | Adopt | Failure | Forget | EndMove | CancelMove


def _plan(snapshot: Snapshot, plan: Plan) -> dict[str, Any]:
    """What is done now, what would be done but for the pause, and what waits for something."""
    waiting = [
        (key, finding) for key, finding in plan.findings.items() if finding.state not in _QUIET
    ]
    waiting.sort(key=lambda one: (str(one[1].state), one[0].int))
    pause = snapshot.desired.pause
    troubled = {key: verdict for key, verdict in plan.nodes.items() if verdict.is_suspect}
    return {
        "actions": [_action(snapshot, one) for one in plan.actions[:_SHOWN_MAX]],
        "actions_count": len(plan.actions),
        "paused": [_action(snapshot, one) for one in plan.paused[:_SHOWN_MAX]],
        "paused_count": len(plan.paused),
        "paused_for_seconds": None
        if plan.pause is None or pause is None
        else pause.until - snapshot.now,
        "waiting": [_waiting(snapshot, *one) for one in waiting[:_SHOWN_MAX]],
        "waiting_count": len(waiting),
        "nodes": [
            {
                "name": key.partition(" ")[2] if key.startswith("node ") else _name(snapshot, key),
                "state": str(verdict.state),
                "reason": str(verdict.reason),
                "detail": verdict.detail,
            }
            for key, verdict in sorted(troubled.items())[:_SHOWN_MAX]
        ],
        "nodes_count": len(troubled),
        "brake_engaged": plan.brake is not None and plan.brake.engaged,
        "brake": "" if plan.brake is None else plan.brake.detail,
        "guard": plan.guard.detail if plan.guard.holds else "",
        "changes_in_seconds": None if plan.wake_at is None else max(plan.wake_at - snapshot.now, 0),
    }


def _name(snapshot: Snapshot, key: str) -> str:
    row = snapshot.desired.edge_nodes.get(UUID(key.partition(" ")[2]))
    return key if row is None else row.name


def _action(snapshot: Snapshot, action: _Action) -> dict[str, Any]:
    moves = action.move if isinstance(action, Create | Delete) else None
    return {
        "action": _VERBS[type(action)],
        **_of_processor(snapshot, action.processor_id),
        "move": None if moves is None else str(moves.kind),
        "from_node": None if moves is None else moves.from_node,
        "node": _node_of(action),
        "reason": str(action.reason),
        "detail": action.detail,
    }


def _node_of(action: _Action) -> str | None:
    if isinstance(action, Create):
        return action.choice.node_name
    if isinstance(action, Forget) or action.pod is None:
        return None
    return action.pod.node_name


def _waiting(snapshot: Snapshot, processor_id: UUID, finding: Finding) -> dict[str, Any]:
    return {
        **_of_processor(snapshot, processor_id),
        "state": str(finding.state),
        "reason": str(finding.reason),
        "detail": finding.detail,
    }


def _of_processor(snapshot: Snapshot, processor_id: UUID) -> dict[str, Any]:
    config = snapshot.desired.configs.get(processor_id)
    return {"id": str(processor_id), "name": None if config is None else config.name}
