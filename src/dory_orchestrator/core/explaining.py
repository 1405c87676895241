"""What a plan rested on: of each processor what was known, which rules were asked, and which nodes
were looked at. Nothing is decided here."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar
from uuid import UUID

from dory_orchestrator.core.model import EdgeNodeRow, Ownership, Pod, ProcessorConfig, Snapshot
from dory_orchestrator.core.plan import (
    Adopt,
    CancelMove,
    Create,
    Delete,
    EndMove,
    Failure,
    Forget,
    Plan,
)
from dory_orchestrator.core.why import Scalar, Why

_Explained = TypeVar("_Explained", Create, Delete, Adopt, Failure, Forget, EndMove | CancelMove)


def explained(snapshot: Snapshot, plan: Plan) -> Plan:
    """The plan, each of its actions with why."""

    def each(actions: Iterable[_Explained]) -> tuple[_Explained, ...]:
        return tuple(
            replace(action, why=why(snapshot, plan, action.processor_id)) for action in actions
        )

    return replace(
        plan,
        creates=each(plan.creates),
        deletes=each(plan.deletes),
        adoptions=each(plan.adoptions),
        failures=each(plan.failures),
        forgets=each(plan.forgets),
        ends=each(plan.ends),
    )


def why(snapshot: Snapshot, plan: Plan, processor_id: UUID) -> Why:
    """Why a processor is found as it is, and why what is done for it is done."""
    choice = plan.choices.get(processor_id)
    return Why(
        partial(_known, snapshot, plan, processor_id),
        plan.answers.get(processor_id, ()),
        None if choice is None else choice.node_name,
        {} if choice is None else choice.unfit,
    )


def _known(snapshot: Snapshot, plan: Plan, processor_id: UUID) -> dict[str, Scalar]:
    desired = snapshot.desired
    finding, move = plan.findings.get(processor_id), desired.moves.get(processor_id)
    pod = None if finding is None else finding.pod
    home = desired.edge_nodes.get(desired.homes.get(processor_id, processor_id))
    linked = desired.edge_nodes.get(desired.links.get(processor_id, processor_id))
    return {
        **_of_config(desired.configs.get(processor_id)),
        "linked_node": _name(linked),
        "home_node": _name(home),
        **_of_ownership(desired.ownership.get(processor_id)),
        **({} if pod is None else _of_pod(pod, snapshot)),
        "move": None if move is None else str(move.kind),
        "move_from_node": None if move is None else move.from_node,
        "move_seconds": None if move is None else snapshot.now - move.began_at,
    }


def _of_config(config: ProcessorConfig | None) -> dict[str, Scalar]:
    if config is None:
        return {"desired": False}
    return {
        "desired": True,
        "node_type": config.node_type,
        "template": config.template_slug,
        "versions": ", ".join(version.version for version in config.versions),
    }


def _of_ownership(own: Ownership | None) -> dict[str, Scalar]:
    if own is None:
        return {"epoch": 0}
    return {
        "epoch": own.epoch,
        "owner_pod": own.pod_name,
        "owner_node": own.node_name,
        "failures": own.failures,
        "last_exit_code": own.exit_code,
    }


def _of_pod(pod: Pod, snapshot: Snapshot) -> dict[str, Scalar]:
    return {
        "pod": pod.name,
        "pod_node": pod.node_name,
        "pod_epoch": pod.epoch,
        "pod_phase": str(pod.phase),
        "pod_ready": pod.ready,
        "pod_terminating": pod.terminating,
        "pod_restarts": pod.restart_count,
        "pod_waiting_reason": pod.waiting_reason,
        "pod_answers": snapshot.answers.get(pod.uid),
    }


def _name(row: EdgeNodeRow | None) -> str | None:
    return None if row is None else row.name
