"""Whole sites over time: whole snapshots go through `compute`, as a leader's cycles would."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
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
    an_edge_row,
)

from dory_orchestrator.core.brake import BrakeRecord, BrakeVerdict
from dory_orchestrator.core.model import Snapshot
from dory_orchestrator.core.node_health import NodeReason, NodeRecord
from dory_orchestrator.core.plan import Plan
from dory_orchestrator.core.reconcile import compute

GRACE = LIMITS.node_failure_grace_seconds
NOT_READY = (NodeReason.NOT_READY, NodeReason.NOT_READY_BUT_ANSWERING)


@dataclass
class Site:
    """`count` nodes with one processor each, all well at START, and as many to spare.

    A node in `dark` is away; one in `without_kubelet` is not ready, and its pods run on and answer.
    What does not beat has never beaten. Moves are counted, and not carried out.
    """

    count: int
    kind: str = "edge"
    beats: bool = True
    dark: set[int] = field(default_factory=set)
    without_kubelet: set[int] = field(default_factory=set)
    moved_at: dict[str, float] = field(default_factory=dict)
    _records: dict[str, NodeRecord] = field(default_factory=dict)
    _brake: BrakeRecord | None = None
    _not_ready_since: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        edge = self.kind == "edge"
        names = [f"{self.kind}-{number}" for number in range(self.count)]
        configs = [a_processor(name, node_type="edge" if edge else "managed") for name in names]
        pods = [
            a_pod(config, node_name=name, started_at=START - 900)
            for config, name in zip(configs, names, strict=True)
        ]
        make = an_edge_node if edge else a_node
        nodes = [a_node(f"spare-{number}") for number in range(self.count)]
        nodes += [make(name, ready_changed_at=START - 9000) for name in names]
        rows = [an_edge_row(name) for name in names] if edge else []
        links: dict[UUID, UUID] = {
            config.processor_id: row.id for config, row in zip(configs, rows, strict=False)
        }
        self._start = a_snapshot(configs, pods, nodes=nodes, edge_nodes=rows, links=links)
        self._numbers = {name: number for number, name in enumerate(names)}
        self._beat_at = dict.fromkeys(range(self.count), START - 1)

    def at(self, seconds: float) -> Plan:
        """One cycle, so many seconds after START."""
        now = START + seconds
        plan = compute(self._snapshot(now), LIMITS)
        self._records = {key: verdict.record for key, verdict in plan.nodes.items()}
        assert plan.brake is not None
        self._brake = plan.brake.record
        for create in plan.creates:
            if create.move is not None:
                self.moved_at.setdefault(create.move.from_node, seconds)
        return plan

    def run(self, seconds: Iterable[int]) -> BrakeVerdict:
        """A cycle at each of these seconds; the brake after the last."""
        brake = [self.at(second).brake for second in seconds][-1]
        assert brake is not None
        return brake

    def _snapshot(self, now: float) -> Snapshot:
        is_not_ready = self.dark | self.without_kubelet
        self._not_ready_since = {
            number: self._not_ready_since.get(number, now) for number in is_not_ready
        }
        nodes = dict(self._start.observed.nodes)
        for name, number in self._numbers.items():
            if number in is_not_ready:
                since = self._not_ready_since[number]
                nodes[name] = replace(nodes[name], ready=False, ready_changed_at=since)
        if self.beats:
            self._beat_at |= dict.fromkeys(set(range(self.count)) - self.dark, now)
        rows = {
            key: replace(
                row,
                last_heartbeat_at=self._beat_at[self._numbers[row.name]] if self.beats else None,
            )
            for key, row in self._start.desired.edge_nodes.items()
        }
        answers = {
            pod.uid: self._numbers[pod.node_name or ""] not in self.dark
            for pod in self._start.observed.pods.values()
        }
        return replace(
            self._start,
            desired=replace(
                self._start.desired,
                now=now,
                edge_nodes=rows,
                node_records=self._records,
                brake=self._brake,
            ),
            observed=replace(self._start.observed, nodes=nodes),
            answers=answers,
        )


@pytest.mark.parametrize("kind", ["edge", "cloud"])
def test_a_dead_kubelet_moves_nothing_while_its_pods_answer_us(kind):
    """Most programs send no heartbeats, and containers outlive their kubelet: what is moved then
    runs twice."""
    site = Site(3, kind, beats=False)
    site.at(0)
    site.without_kubelet = {0}
    site.run(range(1, 3600, 5))
    (verdict,) = [one for one in site.at(3600).nodes.values() if one.reason in NOT_READY]
    assert verdict.reason is NodeReason.NOT_READY_BUT_ANSWERING
    assert verdict.failback_at is None
    assert site.moved_at == {}
    # Then its machine dies, too: the whole grace begins with the last sign of life.
    site.dark = {0}
    site.run(range(3601, 3700))
    assert site.moved_at == {f"{kind}-0": 3600 + GRACE}


def test_half_of_the_application_nodes_without_their_leases_move_nothing():
    """A fault of the control plane: their pods run on."""
    site = Site(12, "cloud")
    site.at(0)
    site.without_kubelet = set(range(6))
    site.run(range(1, 600, 5))
    assert site.moved_at == {}


def test_the_last_nodes_of_a_site_are_not_moved_as_they_return():
    site = Site(10)
    site.at(0)
    site.dark = set(range(10))
    assert site.run(range(1, 300)).engaged
    for second in range(300, 400):
        if second % 4 == 0:
            site.dark.discard((second - 300) // 4)
        site.at(second)
    assert (site.moved_at, site.dark) == ({}, set())
    assert not site.run([400]).engaged


def test_what_stays_dark_after_a_site_came_back_is_moved_a_whole_grace_later():
    site = Site(10)
    site.at(0)
    site.dark = set(range(10))
    site.run(range(1, 300))
    site.dark = {9}
    assert not site.run(range(300, 340)).engaged
    assert site.moved_at == {"edge-9": 300 + GRACE}


@pytest.mark.parametrize(
    ("beats", "moved_at"),
    [
        # A beat of about the moment that it became not ready: it waits for the silence, too.
        pytest.param(True, LIMITS.heartbeat_stale_seconds + GRACE, id="beats"),
        pytest.param(False, GRACE, id="mute"),
    ],
)
def test_a_clock_that_was_set_back_does_not_hide_a_death(beats, moved_at):
    """As where a replica took over whose clock is behind: what is stored lies an hour ahead."""
    site = Site(4, beats=beats)
    site.at(3600)
    site.dark = {0}
    # The canary has the beats that lie ahead count as of now, once.
    site._beat_at = dict.fromkeys(range(4), START)
    site._not_ready_since = {0: START + 3600}
    site.run(range(200))
    assert site.moved_at == {"edge-0": moved_at}
