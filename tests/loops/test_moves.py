"""Edge nodes die and come back: the whole loop, in simulated time."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from tests.doubles import MemoryStore
from tests.loops.fleet_rig import Rig, TrickyCluster, cloud, config, now, version

from dory_orchestrator.core.model import Limits, Node, Pod, Resources, Taint, TaintEffect
from dory_orchestrator.core.plan import Create
from dory_orchestrator.ports import EdgeNode, EdgeNodeRegistration, Lease

ORGANIZATION = UUID(int=5)
LIMITS = Limits(
    heartbeat_stale_seconds=6.0, node_failure_grace_seconds=3.0, failback_stable_seconds=12.0
)
PRECISION_SECONDS = 1.5

pytestmark = pytest.mark.looptime


def edge(name: str) -> Node:
    return Node(
        name,
        ready=True,
        labels={"node-type": "edge"},
        taints=(Taint("edge-node", "true", TaintEffect.NO_SCHEDULE),),
        allocatable=Resources(1_000_000, 2**50),
        pods_max=1000,
    )


def row(number: int, name: str, **changes) -> EdgeNode:
    said: dict[str, Any] = {
        "id": UUID(int=1000 + number),
        "organization_id": ORGANIZATION,
        "name": name,
        "status": "online",
        "failover_enabled": True,
        "failover_target_node_id": None,
        "last_heartbeat_at": None,
    }
    return EdgeNode(**(said | changes))


class States:
    """Keeps no state, and says how old what it gives is."""

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.captured: list[str] = []
        self.looked_for: list[tuple[float, str]] = []
        self.can_capture = True
        self.without_state: set[UUID] = set()
        """Of these no state can ever be taken."""
        self.age_seconds = 2.0

    async def prepare(self, lease: Lease, create: Create) -> float | None:
        self.prepared.append(create.spec.name)
        return now() - self.age_seconds

    async def capture(self, lease: Lease, pod: Pod, epoch: int) -> str | None:
        self.captured.append(pod.name)
        may = self.can_capture and pod.processor_id not in self.without_state
        return None if may else "its state is too large"

    async def undo_late_save(self, pod: Pod) -> bool:
        self.looked_for.append((now(), pod.name))
        return False


class Site:
    """Edge nodes whose pods beat once a second, an application node, and the loop over them.

    `mute` are nodes that nothing is heard of; their pods answer our poller unless `unreachable`.
    """

    def __init__(self, nodes: int = 1, processors: int = 1, **options) -> None:
        self.names = [f"edge-{number}" for number in range(1, nodes + 1)]
        self.rows = [row(number, name) for number, name in enumerate(self.names)]
        self.mute: set[str] = set()
        self.unreachable: set[str] = set()
        self.has_state = True
        self.states = States()
        store = MemoryStore(clock=now)
        store.nodes = {one.id: one for one in self.rows}
        cluster = TrickyCluster([cloud(), *(edge(name) for name in self.names)])
        limits = options.pop("limits", LIMITS)
        self.rig = Rig(store, cluster, limits=limits, evidence=self, states=self.states, **options)
        for number in range(processors):
            home = self.rows[number % nodes]
            store.desire(
                config(number, node_type="edge", organization_id=ORGANIZATION),
                edge_node_id=home.id,
            )

    # Evidence

    def answers(self) -> Mapping[str, bool]:
        """A lost node takes its pods with it."""
        nodes = self.rig.cluster.nodes
        return {
            uid: pod.node_name not in self.unreachable
            and ((node := nodes.get(pod.node_name or "")) is None or node.ready)
            for uid, pod in self.rig.cluster.pods.items()
        }

    def is_restored(self, pod: Pod) -> bool:
        return self.has_state and pod.ready

    def unprotected(self) -> Mapping[str, str]:
        return {}

    def ahead(self) -> Mapping[UUID, str]:
        return {}

    def attended_since(self) -> float | None:
        return None

    async def __aenter__(self) -> "Site":
        await self.rig.__aenter__()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beating.cancel()
        await self.rig.stop()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            store, at = self.rig.store, datetime.fromtimestamp(now(), UTC)
            heard = set()
            for pod in self.rig.cluster.pods.values():
                node = self.rig.cluster.nodes.get(pod.node_name or "")
                if pod.node_name in self.mute or node is None or not node.ready:
                    continue
                heard.add(pod.node_name)
                if pod.processor_id in store.processors:
                    store.processors[pod.processor_id].heartbeat_at = now()
            for one in list(store.nodes.values()):
                if one.name in heard:
                    store.nodes[one.id] = replace(one, last_heartbeat_at=at)

    def place_of(self, number: int = 0) -> list[str]:
        """Where its living pods are."""
        return sorted(p.node_name or "-" for p in self.rig.pods_of(number) if not p.terminating)

    async def until_at(self, place: str, number: int = 0, seconds: float = 60.0) -> float:
        return await self.rig.until(
            lambda: self.place_of(number) == [place] and not self.rig.store.moves, seconds
        )


async def test_a_dead_node_s_processor_lives_on_in_the_cloud_and_comes_home():
    async with Site() as site:
        await site.until_at("edge-1")
        await asyncio.sleep(5)
        (old,) = site.rig.pods_of(0)

        site.rig.cluster.lose_node("edge-1")
        took = await site.until_at("cloud-1")
        assert LIMITS.node_failure_grace_seconds <= took <= 10
        new = site.rig.pod_of(0)
        assert new.epoch == 2
        assert new.labels["migrated-from-edge"] == "true"
        assert new.labels["original-edge-node"] == "edge-1"
        spec = site.rig.cluster.specs[new.uid]
        assert spec.environment["DORY_IS_MIGRATING"] == "true"
        assert spec.environment["DORY_MIGRATED_FROM"] == old.name
        assert spec.environment["DORY_NODE_TYPE"] == "managed"
        # The replacement had a place before the old one was forced away.
        assert site.rig.cluster.deleted == [(old.name, True)]
        (forced_at,) = site.rig.cluster.moments("delete")
        await asyncio.sleep(16)
        ((at, name),) = site.states.looked_for
        assert (round(at - forced_at), name) == (15, old.name)
        assert site.rig.store.nodes[site.rows[0].id].status == "offline"
        (key, move, outcome) = site.rig.store.ended_moves[-1]
        assert (key, move.from_node, outcome) == (UUID(int=0), "edge-1", "done")
        assert site.rig.value("dory_move_rto_seconds_count") == 1

        site.rig.cluster.restore_node("edge-1")
        await asyncio.sleep(LIMITS.failback_stable_seconds - PRECISION_SECONDS)
        assert site.place_of() == ["cloud-1"]
        await site.until_at("edge-1")
        home = site.rig.pod_of(0)
        assert home.epoch == 3
        assert "migrated-from-edge" not in home.labels
        assert site.states.captured == [new.name]
        assert site.rig.store.nodes[site.rows[0].id].status == "online"
        assert max(site.rig.cluster.most_live.values()) == 2  # the old one, in the books only
        kinds = [kind for kind, _ in site.rig.told("failover", "failback", "moved")]
        assert kinds == ["failover", "moved", "failback", "moved"]


async def test_a_silent_node_moves_only_when_its_pods_do_not_answer_either():
    async with Site() as site:
        await site.until_at("edge-1")
        await asyncio.sleep(3)
        site.mute.add("edge-1")
        await asyncio.sleep(60)
        assert site.place_of() == ["edge-1"]
        site.unreachable.add("edge-1")
        await site.rig.until(lambda: "cloud-1" in site.place_of())


async def test_home_that_is_back_before_the_replacement_has_a_place_keeps_its_pod():
    async with Site() as site:
        await site.until_at("edge-1")
        await asyncio.sleep(3)
        (old,) = site.rig.pods_of(0)
        site.rig.cluster.remove_node("cloud-1")
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(lambda: len(site.rig.pods_of(0)) == 2)
        await asyncio.sleep(5)
        assert {pod.name for pod in site.rig.pods_of(0)} >= {old.name}
        site.rig.cluster.restore_node("edge-1")
        await site.until_at("edge-1")
        assert site.rig.pod_of(0).uid == old.uid
        assert site.rig.store.ended_moves[-1][2] == "cancelled"
        assert site.rig.store.processors[UUID(int=0)].edge_node_id == site.rows[0].id
        assert not any(force for _, force in site.rig.cluster.deleted)
        # Once more, to the end: the cancelled move has left nothing behind.
        site.rig.cluster.add_node(cloud())
        await asyncio.sleep(3)
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")


async def test_a_home_that_falls_while_its_processor_is_on_the_way_home():
    async with Site() as site:
        await site.until_at("edge-1")
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")
        site.rig.cluster.finish_deletions = False
        site.rig.cluster.restore_node("edge-1")
        await site.rig.until(lambda: any(pod.terminating for pod in site.rig.pods_of(0)))
        (old,) = site.rig.pods_of(0)
        site.rig.cluster.lose_node("edge-1")
        site.rig.cluster.finish_deletion(old)
        site.rig.cluster.finish_deletions = True
        await site.until_at("cloud-1")
        assert site.rig.pod_of(0).uid != old.uid
        assert max(site.rig.cluster.most_live.values()) <= 2


async def test_the_second_home_dies_too():
    async with Site() as site:
        await site.until_at("edge-1")
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")
        site.rig.cluster.add_node(cloud("cloud-2"))
        site.rig.cluster.lose_node("cloud-1")
        await site.until_at("cloud-2")
        pod = site.rig.pod_of(0)
        assert pod.labels["original-edge-node"] == "edge-1"
        assert site.rig.store.processors[UUID(int=0)].home_id == site.rows[0].id
        site.rig.cluster.restore_node("edge-1")
        await site.until_at("edge-1")


async def test_what_cannot_be_captured_is_not_ended():
    async with Site() as site:
        await site.until_at("edge-1")
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")
        site.states.can_capture = False
        site.rig.cluster.restore_node("edge-1")
        await site.rig.until(lambda: site.states.captured)
        await asyncio.sleep(30)
        assert site.place_of() == ["cloud-1"]
        assert not any(pod.terminating for pod in site.rig.pods_of(0))
        site.states.can_capture = True
        await site.until_at("edge-1")


async def test_a_state_that_cannot_be_given_keeps_nobody_else_from_moving():
    limits = replace(LIMITS, moves_max=1, restore_seconds=20.0)
    async with Site(1, 2, limits=limits) as site:
        await site.rig.until(lambda: site.rig.running == 2)
        await asyncio.sleep(2)
        site.has_state = False
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(
            lambda: all(site.place_of(n) == ["cloud-1"] for n in range(2)), seconds=60
        )
        await site.rig.until(lambda: ("moved", "unproven") in site.rig.told("moved"))
        # Without its state it does not go on to the next place.
        site.rig.cluster.restore_node("edge-1")
        await asyncio.sleep(120)
        assert [site.place_of(n) for n in range(2)] == [["cloud-1"]] * 2


async def test_a_move_is_complete_only_with_its_state():
    async with Site() as site:
        await site.until_at("edge-1")
        site.has_state = False
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(lambda: site.place_of() == ["cloud-1"])
        await asyncio.sleep(10)
        assert site.rig.store.moves
        assert site.rig.reason_of(0) == "moving"
        assert site.rig.value("dory_moves_open") == 1
        site.has_state = True
        await site.until_at("cloud-1")


@pytest.mark.parametrize(
    ("nodes", "lost", "moves"),
    [
        pytest.param(9, 6, False, id="two-thirds"),
        pytest.param(9, 3, True, id="one-third"),
        pytest.param(2, 2, True, id="two-of-two"),
    ],
)
async def test_the_brake(nodes, lost, moves):
    async with Site(nodes, nodes) as site:
        await site.rig.until(lambda: site.rig.running == nodes)
        await asyncio.sleep(3)
        for name in site.names[:lost]:
            site.rig.cluster.lose_node(name)
            await asyncio.sleep(0.3)
        await asyncio.sleep(60)
        moved = sum(site.place_of(number) == ["cloud-1"] for number in range(nodes))
        assert moved == (lost if moves else 0)
        assert site.rig.value("dory_brake_engaged") == (0 if moves else 1)
        if not moves:
            assert {site.rig.reason_of(number) for number in range(lost)} == {"brake_held"}
            assert ("brake", "engaged") in site.rig.told("brake")


async def test_who_may_not_fail_over_stays():
    async with Site() as site:
        only = site.rows[0]
        site.rig.store.nodes[only.id] = replace(only, failover_enabled=False)
        await site.until_at("edge-1")
        site.rig.cluster.lose_node("edge-1")
        await asyncio.sleep(60)
        assert site.place_of() == ["edge-1"]
        assert site.rig.reason_of(0) == "failover_disabled"


async def test_the_target_of_an_edge_node_takes_its_processors():
    async with Site(2) as site:
        first, second = site.rows
        store = site.rig.store
        store.nodes[first.id] = replace(first, failover_target_node_id=second.id)
        await site.until_at("edge-1")
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("edge-2")
        site.rig.cluster.restore_node("edge-1")
        await site.until_at("edge-1")


async def test_so_many_are_on_their_way_at_once_the_most_important_first():
    limits = replace(LIMITS, moves_max=2)
    async with Site(2, 0, limits=limits) as site:
        site.has_state = True
        for number in range(6):
            important = version(1)[0]
            if number >= 4:
                text = '{"orchestrator": {"priority": 5}}'
                important = replace(important, runtime_config_template=text)
            site.rig.store.desire(
                config(
                    number,
                    node_type="edge",
                    organization_id=ORGANIZATION,
                    template_slug=f"camera-{number >= 4}",
                    versions=(important,),
                ),
                edge_node_id=site.rows[0].id,
            )
        await site.rig.until(lambda: site.rig.running == 6)
        await asyncio.sleep(2)
        site.has_state = False
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(lambda: site.rig.store.moves)
        # They do not arrive, and hold their places for ten seconds.
        await asyncio.sleep(limits.failover_slot_seconds / 2)
        moved = [n for n in range(6) if site.place_of(n) == ["cloud-1"]]
        assert moved == [4, 5]
        assert site.rig.reason_of(0) == "move_limit"
        site.has_state = True
        await site.rig.until(
            lambda: all(site.place_of(n) == ["cloud-1"] for n in range(6)), seconds=90
        )


async def test_one_after_another_goes_home():
    async with Site(1, 3) as site:
        await site.rig.until(lambda: site.rig.running == 3)
        await asyncio.sleep(2)
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(
            lambda: all(site.place_of(n) == ["cloud-1"] for n in range(3)), seconds=60
        )
        site.rig.cluster.restore_node("edge-1")
        most = 0
        while any(site.place_of(n) != ["edge-1"] for n in range(3)):
            most = max(most, len(site.rig.store.moves))
            await asyncio.sleep(0.01)
        assert most == 1


async def test_manual_failback_stays_away():
    text = '{"orchestrator": {"failback": "manual"}}'
    async with Site(1, 0) as site:
        manual = replace(version(1)[0], runtime_config_template=text)
        site.rig.store.desire(
            config(0, node_type="edge", organization_id=ORGANIZATION, versions=(manual,)),
            edge_node_id=site.rows[0].id,
        )
        await site.until_at("edge-1")
        assert site.rig.value("dory_processors_away") == 0
        site.rig.cluster.lose_node("edge-1")
        await site.until_at("cloud-1")
        site.rig.cluster.restore_node("edge-1")
        await asyncio.sleep(120)
        assert site.place_of() == ["cloud-1"]
        assert site.rig.reason_of(0) == "away"
        assert site.rig.value("dory_moves_open") == 0
        assert site.rig.value("dory_processors_away") == 1


async def test_a_new_leader_goes_on_with_a_move_where_it_is():
    async with Site() as site:
        await site.until_at("edge-1")
        site.has_state = False
        site.rig.cluster.lose_node("edge-1")
        await site.rig.until(lambda: site.place_of() == ["cloud-1"])
        uid = site.rig.pod_of(0).uid
        await site.rig.stop()
        second = Rig(
            site.rig.store,
            site.rig.cluster,
            holder="other",
            limits=LIMITS,
            evidence=site,
            states=site.states,
        )
        async with second:
            await asyncio.sleep(20)
            assert [pod.uid for pod in site.rig.pods_of(0)] == [uid]
            site.has_state = True
            await site.until_at("cloud-1")
            assert site.rig.pod_of(0).uid == uid


async def test_a_node_that_is_decommissioned_is_left_with_state_and_gets_nothing_back():
    async with Site(2, 4) as site:
        await site.rig.until(lambda: site.rig.running == 4)
        await asyncio.sleep(2)
        store = site.rig.store
        await store.decommission_edge_node("edge-1", ORGANIZATION)
        store.notify()
        moved = [0, 2]
        await site.rig.until(
            lambda: all(site.place_of(n) == ["cloud-1"] for n in moved) and not store.moves
        )
        assert [site.place_of(n) for n in (1, 3)] == [["edge-2"]] * 2
        kinds = [outcome for _, move, outcome in store.ended_moves if move.kind == "departure"]
        assert kinds == ["done", "done"]
        assert not any(force for _, force in site.rig.cluster.deleted)
        assert max(site.rig.cluster.most_live.values()) == 1
        pod = site.rig.pod_of(0)
        assert pod.labels["original-edge-node"] == "edge-1"
        # It registers anew: it is online, and gets no work until it is uncordoned.
        given = EdgeNodeRegistration(name="edge-1", organization_id=ORGANIZATION)
        await store.register_edge_node(given)
        store.notify()
        await asyncio.sleep(60)
        assert [site.place_of(n) for n in moved] == [["cloud-1"]] * 2
        store.cordoned.clear()
        store.notify()
        await site.rig.until(lambda: all(site.place_of(n) == ["edge-1"] for n in moved), seconds=90)


async def test_a_node_that_dies_after_it_was_decommissioned_is_left_all_the_same():
    async with Site(1, 1) as site:
        await site.until_at("edge-1")
        await asyncio.sleep(2)
        site.rig.cluster.lose_node("edge-1")
        await site.rig.store.decommission_edge_node("edge-1", ORGANIZATION)
        site.rig.store.notify()
        await site.until_at("cloud-1", seconds=400)
