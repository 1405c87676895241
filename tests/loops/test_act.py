"""Carrying out what was granted, in simulated time."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from tests.contract.worlds import a_pod, delete
from tests.doubles import MemoryStore
from tests.loops.fleet_rig import Rig as FleetRig
from tests.loops.fleet_rig import TrickyCluster, cloud, now

from dory_orchestrator.core.model import APPLICATION_NODE_SELECTOR, Limits, Pod, PodSpec
from dory_orchestrator.core.plan import Choice, Create, Delete, Reason
from dory_orchestrator.loops.act import Actor, Turn
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    ClusterRefused,
    ClusterUnavailable,
    Lease,
    Refusal,
    StoreBusy,
    StoreUnavailable,
)

pytestmark = pytest.mark.looptime

LEASE = Lease("me", 1)


class Leading:
    """Set `lease` to None to have it lost."""

    lease: Lease | None = LEASE


class Rig:
    """An actor with a group for its work."""

    def __init__(self, **options: Any) -> None:
        self.store = MemoryStore(clock=now)
        self.store.leader.term, self.store.leader.holder = LEASE.term, LEASE.holder
        self.store.leader.expires_at = 1e9
        self.cluster = TrickyCluster([cloud()])
        self.metrics = Metrics()
        self.leading = Leading()
        self.done: list[float] = []
        self.observer = Observer(self.cluster, lambda: None)
        self.actor = Actor(
            store=self.store,
            cluster=self.cluster,
            observer=self.observer,
            leading=self.leading,
            limits=Limits(),
            metrics=self.metrics,
            on_done=lambda: self.done.append(now()),
            **options,
        )
        self.group = asyncio.TaskGroup()

    async def __aenter__(self) -> "Rig":
        await self.group.__aenter__()
        self.observing = asyncio.create_task(self.observer.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.observing.cancel()
        await self.group.__aexit__(*error)

    def start(self, *work: Create | Delete, woken_at: float | None = None, failures: int = 0):
        turn = Turn(self.group, LEASE, woken_at)
        for one in work:
            self.actor.start(turn, one, failures)

    async def finish(self, seconds: float = 100.0) -> None:
        async with asyncio.timeout(seconds):
            while self.actor.acting:
                await asyncio.sleep(0.05)

    async def granted(self, *numbers: int) -> list[Create]:
        """Creations that the store has granted."""
        actions = [creation(number) for number in numbers]
        for number in numbers:
            self.store.configs[UUID(int=number)] = None  # type: ignore[assignment]
        assert await self.store.grant(LEASE, actions) == [True] * len(actions)
        return actions

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def creation(number: int, epoch: int = 1) -> Create:
    key = UUID(int=number)
    spec = PodSpec(
        name=f"pod-{number}-{epoch}",
        namespace="default",
        processor_id=key,
        app="camera",
        labels={"managed-by": "dory-orchestrator", "processor-id": str(key)},
        annotations={"dory.io/epoch": str(epoch)},
        image="image",
        node_selector=APPLICATION_NODE_SELECTOR,
    )
    return Create(key, epoch - 1, epoch, spec, Choice("cloud-1"), Reason.NOT_RUNNING, "why")


async def test_a_creation_is_called_recorded_and_done():
    async with Rig() as rig:
        (create,) = await rig.granted(1)
        rig.start(create)
        assert rig.actor.acting == {UUID(int=1)}
        assert rig.value("dory_reconciliation_queue_depth") == 1
        await rig.finish()
        (pod,) = rig.cluster.pods.values()
        assert rig.store.owners[UUID(int=1)].pod_uid == pod.uid
        assert rig.value("dory_reconciliation_queue_depth") == 0
        assert len(rig.done) == 1
        assert rig.observer.current is not None
        assert pod.uid in rig.observer.current.pods


async def test_who_is_acted_for_twice_is_free_after_both():
    async with Rig() as rig:
        rig.cluster.slow_seconds = 1
        (create,) = await rig.granted(1)
        rig.start(create, delete(a_pod(UUID(int=1))))
        await asyncio.sleep(0.5)
        assert len(rig.done) == 1
        assert rig.actor.acting == {UUID(int=1)}
        await rig.finish()
        assert len(rig.done) == 2


async def test_the_reaction_is_that_of_the_first_call_of_a_turn():
    async with Rig() as rig:
        await asyncio.sleep(5)
        rig.cluster.slow_seconds = 1
        rig.start(*await rig.granted(*range(1, 41)), woken_at=4.5)
        await rig.finish()
        rig.start(*await rig.granted(41))
        await rig.finish()
        assert rig.value("dory_reconciliation_reaction_seconds_count") == 1
        assert rig.value("dory_reconciliation_reaction_seconds_sum") == 0.5


async def test_as_many_at_once_as_are_allowed():
    async with Rig(concurrency=3) as rig:
        rig.cluster.slow_seconds = 1
        rig.start(*await rig.granted(*range(1, 11)))
        await rig.finish()
        assert rig.cluster.most_at_once == 3
        assert 4 <= now() < 4.1


async def test_without_the_lease_nothing_is_called():
    async with Rig() as rig:
        work: list[Create | Delete] = [*await rig.granted(1, 2), delete(a_pod(UUID(int=3)))]
        for lease in (None, Lease("me", 2), Lease("other", 1)):
            rig.leading.lease = lease
            rig.start(*work)
            await rig.finish()
        assert rig.cluster.calls == []
        assert len(rig.done) == 9


async def test_a_lease_that_is_lost_while_a_creation_is_asked_for_again_ends_it():
    async with Rig() as rig:
        rig.cluster.on_create = unavailable
        rig.start(*await rig.granted(1))
        await asyncio.sleep(2)
        calls = len(rig.cluster.calls)
        assert calls == 2
        rig.leading.lease = None
        await rig.finish()
        assert len(rig.cluster.calls) == calls


@pytest.mark.parametrize("reason", [Refusal.NOT_FOUND, Refusal.CONFLICT])
async def test_what_is_gone_need_not_be_deleted(reason):
    async with Rig() as rig:
        rig.cluster.refused = ClusterRefused(reason, "gone")
        rig.start(delete(a_pod(UUID(int=1))))
        await rig.finish()
        assert now() < 0.1
        assert rig.store.told == []
        assert rig.value("dory_reconciliation_errors_total", error_type="pod_deletion") == 0


async def test_a_deletion_that_is_refused_is_decided_anew_later_and_later():
    async with Rig() as rig:
        rig.cluster.refused = ClusterRefused(Refusal.FORBIDDEN, "no right")
        waits = []
        for _ in range(7):
            began_at = now()
            rig.start(delete(a_pod(UUID(int=1))))
            await rig.finish()
            waits.append(round(now() - began_at))
        assert waits == [1, 2, 4, 8, 16, 30, 30]
        assert [(e.kind, e.reason) for e in rig.store.events] == [
            ("delete_refused", "forbidden")
        ] * 7
        assert rig.value("dory_reconciliation_errors_total", error_type="pod_deletion") == 7
        gone, unanswered = ClusterRefused(Refusal.NOT_FOUND, "gone"), ClusterUnavailable("no route")
        before = now()
        for rig.cluster.refused in (gone, unanswered):
            rig.start(delete(a_pod(UUID(int=1))))
            await rig.finish()
        assert round(now() - before) == 1, "what succeeded begins anew"


@pytest.mark.parametrize("reason", list(Refusal))
async def test_a_refused_creation_is_written_as_a_failure(reason):
    async with Rig() as rig:

        def refuse(_spec: object) -> None:
            raise ClusterRefused(reason, "said no")

        rig.cluster.on_create = refuse
        rig.start(*await rig.granted(1), failures=3)
        await rig.finish()
        own = rig.store.owners[UUID(int=1)]
        assert (own.failures, own.retry_at) == (4, 8.0)
        assert [(e.kind, e.reason) for e in rig.store.events] == [
            ("create", "not_running"),
            ("failure", "creation_refused"),
            ("create_refused", reason),
        ]
        assert rig.value("dory_pod_creation_errors_total", reason=reason) == 1
        assert rig.value("dory_reconciliation_errors_total", error_type="pod_creation") == 1
        assert len(rig.cluster.calls) == 1


@pytest.mark.parametrize("failing", ["grant", "record_events", "record_pods"])
async def test_a_store_that_fails_then_ends_nothing(failing):
    async with Rig() as rig:
        first, second = await rig.granted(1, 2)
        rig.cluster.refused = ClusterRefused(Refusal.FORBIDDEN, "no")

        def refuse(spec: PodSpec) -> None:
            if spec.processor_id == UUID(int=2):
                raise ClusterRefused(Refusal.QUOTA, "no")

        rig.cluster.on_create = refuse
        rig.store.errors[failing] = StoreUnavailable("down")
        rig.start(first, second, delete(a_pod(UUID(int=3))))
        await rig.finish()
        assert len(rig.cluster.calls) == 3
        assert len(rig.done) == 3


def unavailable(_spec: object) -> None:
    raise ClusterUnavailable("no route")


async def test_a_creation_without_an_answer_is_asked_for_again_in_its_epoch():
    async with Rig() as rig:
        rig.cluster.on_create = unavailable
        rig.start(*await rig.granted(1))
        await asyncio.sleep(5)
        assert rig.actor.acting == {UUID(int=1)}
        rig.cluster.on_create = None
        await rig.finish()
        assert rig.cluster.moments("create") == [0, 1, 3, 7]
        assert rig.store.owners[UUID(int=1)].pod_uid in rig.cluster.pods
        assert rig.store.owners[UUID(int=1)].epoch == 1


async def test_one_that_was_done_is_found_in_a_picture():
    async with Rig() as rig:
        rig.cluster.silent = 1
        rig.start(*await rig.granted(1))
        await rig.finish()
        assert len(rig.cluster.calls) == 1
        assert now() < 1.1


async def test_one_that_was_done_and_is_not_seen_yet_is_waited_for():
    """Its name is taken: by itself."""
    async with Rig() as rig:
        rig.cluster.lag_seconds = 6.0
        rig.cluster.silent = 1
        rig.start(*await rig.granted(1))
        await rig.finish()
        assert rig.cluster.moments("create") == [0, 1, 3]
        assert 6 < now() < 8
        assert [event.kind for event in rig.store.events] == ["create"]


async def test_after_half_a_minute_it_is_decided_anew():
    async with Rig() as rig:
        rig.cluster.on_create = unavailable
        rig.start(*await rig.granted(1))
        await rig.finish()
        assert rig.cluster.moments("create") == [0, 1, 3, 7, 15]
        assert 30 <= now() < 32
        rig.start(*await rig.granted(2), creation(1, 2))
        await asyncio.sleep(29)
        assert [name for _, _, name in rig.cluster.calls].count("pod-1-2") == 1
        await rig.finish()


async def test_one_that_hangs_is_cut_off():
    async with Rig() as rig:
        rig.cluster.hung = {UUID(int=1)}
        rig.start(*await rig.granted(1))
        await asyncio.sleep(14.9)
        assert rig.value("dory_reconciliation_errors_total", error_type="timeout") == 0
        await asyncio.sleep(0.2)
        assert rig.value("dory_reconciliation_errors_total", error_type="timeout") == 1
        assert rig.value("dory_reconciliation_errors_total", error_type="pod_creation") == 0
        rig.cluster.hung = set()
        await rig.finish()
        assert rig.cluster.moments("create") == [0, 16]


async def test_a_store_that_hangs_after_the_creation_is_no_reason_to_create_again():
    async with Rig() as rig:
        (create,) = await rig.granted(1)
        rig.store.holds["record_pods"] = asyncio.Event()
        rig.start(create)
        await asyncio.sleep(60)
        rig.store.holds["record_pods"].set()
        await rig.finish()
        assert len(rig.cluster.calls) == 1
        assert rig.store.owners[UUID(int=1)].pod_uid in rig.cluster.pods


async def test_an_unexpected_error_comes_out():
    def fail(_spec: object) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.RaisesGroup(ZeroDivisionError):
        async with Rig() as rig:
            rig.cluster.on_create = fail
            rig.start(*await rig.granted(1))
            await asyncio.sleep(1e6)


class Unprepared:
    """States that cannot be laid out for a while, or ever."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.asked_at: list[float] = []

    async def prepare(self, lease: Lease, create: Create) -> float | None:
        self.asked_at.append(now())
        if len(self.asked_at) <= self.tries:
            raise StoreBusy("the newest checkpoint changes all the time")
        return None

    async def capture(self, lease: Lease, pod: Pod, epoch: int) -> str | None:
        return None

    async def undo_late_save(self, pod: Pod) -> bool:
        return False


async def test_a_state_that_cannot_be_laid_out_is_tried_again_in_the_same_epoch():
    states = Unprepared(tries=3)
    rig = FleetRig(states=states)
    rig.desire(0)
    async with rig:
        await rig.until(lambda: rig.running == 1)
        assert rig.store.owners[UUID(int=0)].epoch == 1
        assert len(rig.cluster.created) == 1
        assert states.asked_at[-1] >= 1 + 2 + 4  # further and further apart


async def test_one_whose_state_can_never_be_laid_out_is_no_storm():
    states = Unprepared(tries=10**6)
    rig = FleetRig(states=states)
    rig.desire(0, 1)
    async with rig:
        await asyncio.sleep(600)
        assert rig.cluster.created == []
        assert len(states.asked_at) <= 2 * (600 / 30 + 10)
        assert rig.store.owners[UUID(int=0)].epoch <= 600 / 30 + 2
