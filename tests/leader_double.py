"""A leader that answers what operators ask: the decisions of production on a small fleet."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from tests.core.world import (
    LIMITS,
    START,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    an_edge_node,
    an_edge_row,
)

from dory_orchestrator.core.answering import Question, answer
from dory_orchestrator.core.model import Snapshot
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.supposing import Experience

ONE = UUID(int=1)


def small_fleet(key: UUID = ONE) -> Snapshot:
    """Two edge nodes and a cloud; the processor `key` lives on edge-1 with another beside it."""
    configs = [a_processor("a", processor_id=key, node_type="edge")]
    configs += [a_processor("b", node_type="edge"), a_processor("c", node_type="edge")]
    configs.append(a_processor("totals"))
    places = ("edge-1", "edge-1", "edge-2", "cloud-1")
    pods = [
        a_pod(config, node_name=place, started_at=START - 900.0)
        for config, place in zip(configs, places, strict=True)
    ]
    rows = [an_edge_row(name, last_heartbeat_at=START - 1.0) for name in ("edge-1", "edge-2")]
    found = a_snapshot(
        configs,
        pods,
        nodes=[a_node("cloud-1"), an_edge_node("edge-1"), an_edge_node("edge-2")],
        edge_nodes=rows,
        links={configs[0].processor_id: rows[0].id, configs[1].processor_id: rows[0].id}
        | {configs[2].processor_id: rows[1].id},
    )
    return replace(found, answers={pod.uid: True for pod in pods})


def a_leader(
    snapshot: Snapshot | None = None, experience: Experience | None = None
) -> Callable[[Question], Mapping[str, Any]]:
    """Who answers, from one snapshot."""
    seen = snapshot or small_fleet()
    plan = compute(seen, LIMITS)
    known = experience or Experience(dict.fromkeys(seen.desired.configs, 3.0), 2.5)
    return lambda question: answer(question, seen, plan, LIMITS, known)
