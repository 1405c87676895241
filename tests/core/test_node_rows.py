"""The same node name in several organizations: everything is about the row that is meant."""

from dataclasses import replace
from itertools import permutations
from uuid import UUID

import pytest
from tests.core.world import (
    LIMITS,
    START,
    a_node,
    a_pod,
    a_processor,
    a_snapshot,
    an_edge_node,
)

from dory_orchestrator.core import fleet_health
from dory_orchestrator.core.answering import Question, answer
from dory_orchestrator.core.model import EdgeNodeRow, Pod, ProcessorConfig, Snapshot
from dory_orchestrator.core.node_health import NodeReason, NodeRecord, NodeState
from dory_orchestrator.core.node_rows import NodeRows
from dory_orchestrator.core.plan import Plan, Reason
from dory_orchestrator.core.reconcile import compute
from dory_orchestrator.core.supposing import Experience

OURS, GONE, DEAD = UUID(int=0xA1), UUID(int=0xA2), UUID(int=0xA3)
ORDERS = [pytest.param(one, id="".join(map(str, one))) for one in permutations((1, 2, 3))]
"""Of the ids of the three rows: none of them may be taken for being first or last."""
SILENT_AT = START - LIMITS.heartbeat_stale_seconds - LIMITS.node_failure_grace_seconds - 600


def a_row(number: int, organization: UUID, **changes: object) -> EdgeNodeRow:
    said = {"name": "edge-1", "status": "online", "last_heartbeat_at": START - 1} | changes
    return EdgeNodeRow(UUID(int=number), organization, **said)  # type: ignore[arg-type]


def a_worker(organization: UUID) -> tuple[ProcessorConfig, Pod]:
    config = a_processor(organization, node_type="edge", organization_id=organization)
    since, ready_since = SILENT_AT - 500, SILENT_AT - 490
    return config, a_pod(config, node_name="edge-1", started_at=since, ready_changed_at=ready_since)


def three(ids: tuple[int, ...]) -> tuple[EdgeNodeRow, EdgeNodeRow, EdgeNodeRow]:
    """Of ours, which is well; of one that was decommissioned; of one that is silent."""
    return (
        a_row(ids[0], OURS),
        a_row(ids[1], GONE, status="decommissioned"),
        a_row(ids[2], DEAD, last_heartbeat_at=SILENT_AT),
    )


def world(rows, workers, links, *, nodes=None, silent=(), mute=()) -> Snapshot:
    """`silent`: rows whose pods do not answer, and that were known to be dead; `mute`: other
    organizations whose pods do not answer."""
    configs, pods = zip(*workers, strict=True)
    snapshot = a_snapshot(
        configs,
        pods,
        nodes=nodes or [an_edge_node("edge-1"), a_node("cloud-1")],
        edge_nodes=rows,
        links=links,
    )
    quiet = {*mute, *(row.organization_id for row in silent)}
    fell_at = SILENT_AT + LIMITS.heartbeat_stale_seconds
    record = NodeRecord(
        NodeState.OFFLINE,
        NodeReason.DEAD_SILENT,
        fell_at,
        suspect_since=fell_at,
        last_well_at=fell_at,
        falls=(fell_at,),
    )
    return replace(
        snapshot,
        desired=replace(
            snapshot.desired, node_records={f"edge {row.id}": record for row in silent}
        ),
        answers={
            pod.uid: config.organization_id not in quiet
            for config, pod in zip(configs, pods, strict=True)
        },
    )


def planned(snapshot: Snapshot) -> Plan:
    return compute(snapshot, LIMITS)


@pytest.mark.parametrize("ids", ORDERS)
@pytest.mark.parametrize("is_linked", [True, False])
def test_one_stays_though_others_of_that_name_left_or_died(ids, is_linked):
    rows = ours, _, dead = three(ids)
    config, pod = a_worker(OURS)
    links = {config.processor_id: ours.id} if is_linked else {}
    snapshot = world(rows, [(config, pod), a_worker(DEAD)], links, silent=[dead])
    plan = planned(snapshot)
    assert plan.findings[config.processor_id].reason is Reason.RUNNING
    assert pod.uid not in {delete.pod.uid for delete in plan.deletes if delete.pod}


@pytest.mark.parametrize("ids", ORDERS)
def test_one_leaves_though_others_of_that_name_are_well(ids):
    rows = ours, gone, dead = three(ids)
    (lost, lost_pod), (leaving, leaving_pod) = a_worker(DEAD), a_worker(GONE)
    links = {lost.processor_id: dead.id, leaving.processor_id: gone.id}
    workers = [(lost, lost_pod), (leaving, leaving_pod), a_worker(OURS)]
    links[workers[2][0].processor_id] = ours.id
    plan = planned(world(rows, workers, links, silent=[dead]))
    (create,) = plan.creates
    assert (create.processor_id, create.move and create.move.edge_node_id) == (
        lost.processor_id,
        dead.id,
    )
    (delete,) = plan.deletes
    assert (delete.pod and delete.pod.uid, delete.reason) == (leaving_pod.uid, Reason.NODE_LEAVES)


@pytest.mark.parametrize("ids", ORDERS)
def test_each_row_is_judged_by_its_own_pods(ids):
    """That the others' pods run there, and beat, says nothing of who does not."""
    rows = ours, _, dead = three(ids)
    snapshot = world(rows, [a_worker(OURS), a_worker(DEAD)], {}, silent=[dead])
    pods = fleet_health.pods_of_node(snapshot.observed.pods.values())
    health = fleet_health.judge(snapshot, pods, LIMITS)
    assert health.edge_nodes[dead.id].is_dead
    assert health.edge_nodes[ours.id].is_well

    # Nothing of an organization runs there: nobody has to beat for it.
    idle = replace(ours, last_heartbeat_at=SILENT_AT)
    snapshot = world((idle, rows[1], dead), [a_worker(DEAD)], {}, silent=[dead])
    health = fleet_health.judge(
        snapshot, fleet_health.pods_of_node(snapshot.observed.pods.values()), LIMITS
    )
    assert health.edge_nodes[ours.id].is_well


def test_who_has_no_row_of_that_name_goes_by_the_machine():
    """It is as well as any organization that is there says; one that left it says nothing."""
    rows = three((1, 2, 3))
    config, pod = a_worker(UUID(int=0xA4))
    snapshot = world(rows, [(config, pod), a_worker(DEAD)], {}, silent=[rows[2]])
    assert planned(snapshot).findings[config.processor_id].reason is Reason.RUNNING
    dead = [rows[1], rows[2]]
    workers = [(config, pod), a_worker(DEAD)]
    snapshot = world(dead, workers, {}, silent=[rows[2]], mute=[config.organization_id])
    assert {create.processor_id for create in planned(snapshot).creates} == {
        one.processor_id for one, _ in workers
    }


@pytest.mark.parametrize(
    ("organization", "place"), [(OURS, "edge-2"), (GONE, "cloud-1")], ids=["own", "another's"]
)
def test_a_failover_target_of_another_organization_is_not_used(organization, place):
    target = a_row(2, organization, name="edge-2")
    home = a_row(1, OURS, last_heartbeat_at=SILENT_AT, failover_target_node_id=target.id)
    config, pod = a_worker(OURS)
    nodes = [an_edge_node("edge-1"), an_edge_node("edge-2"), a_node("cloud-1")]
    snapshot = world(
        [home, target], [(config, pod)], {config.processor_id: home.id}, nodes=nodes, silent=[home]
    )
    (create,) = planned(snapshot).creates
    assert create.choice.node_name == place


def test_the_row_of_a_link_comes_before_that_of_the_organization():
    rows = ours, _, dead = three((1, 2, 3))
    config, pod = a_worker(OURS)
    key = config.processor_id
    linked = world(rows, [(config, pod)], {key: dead.id}).desired
    assert NodeRows(linked).of(key, "edge-1") == dead
    assert NodeRows(replace(linked, links={}, homes={key: dead.id})).of(key, "edge-1") == dead
    assert NodeRows(replace(linked, links={})).of(key, "edge-1") == ours
    assert NodeRows(linked).of(key, "edge-2") is None
    # Of a pod that is not desired any more its label tells.
    assert NodeRows(replace(linked, configs={}, links={})).of_pod(pod) == ours


@pytest.mark.parametrize("ids", ORDERS)
def test_what_is_explained_is_about_the_own_row(ids):
    rows = ours, _, dead = three(ids)
    config, pod = a_worker(OURS)
    snapshot = world(rows, [(config, pod), a_worker(DEAD)], {}, silent=[dead])
    plan = planned(snapshot)
    asked = Question(1, "processor", {"id": str(config.processor_id)})
    told = answer(asked, snapshot, plan, LIMITS, Experience({}))
    nodes = [one["id"] for one in told["because"] if one["subject"] == "node"]
    assert nodes == [str(ours.id)]
