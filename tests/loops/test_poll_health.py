"""The health poller, in simulated time."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import structlog
from tests.pods_double import WELL, FakePods

from dory_orchestrator.core.model import Pod, PodPhase
from dory_orchestrator.loops.poll_health import HealthPoller, PollProgress, judge
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import PodFinding, StoreUnavailable

pytestmark = pytest.mark.looptime

NOT_READY = replace(WELL, ready=False, message="/ready answered 503")
SICK = replace(WELL, healthy=False, message="/health answered 503")


class Findings:
    """A store that keeps what it is told, and when."""

    def __init__(self) -> None:
        self.groups: list[tuple[float, list[PodFinding]]] = []
        self.error: Exception | None = None
        self.calls = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def record_pod_health(self, findings: Sequence[PodFinding]) -> None:
        self.calls += 1
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        self.groups.append((asyncio.get_running_loop().time(), list(findings)))

    def of(self, number: int) -> list[bool]:
        """What was written of a processor, in order."""
        return [f.healthy for _, group in self.groups for f in group if f[0] == UUID(int=number)]


class Rig:
    """A poller at work. Time is told from its start."""

    def __init__(self, **options: Any) -> None:
        self.metrics = Metrics()
        self.pods = FakePods()
        self.store = Findings()
        self.running: dict[str, Pod] = {}
        self.poller = HealthPoller(
            pods=self.pods,
            store=self.store,
            running=self.look,
            metrics=self.metrics,
            **options,
        )

    def look(self) -> Iterable[Pod]:
        return self.running.values()

    def add(self, number: int, answer: Any = WELL, *, delay_seconds: float = 0, **fields: Any):
        """A pod of this number: processor, uid and address are made of it."""
        pod = pod_of(number, **fields)
        self.running[pod.uid] = pod
        if answer is not None and pod.address is not None:
            self.pods.answers[pod.address] = answer
            self.pods.delays_seconds[pod.address] = delay_seconds
        return pod

    async def __aenter__(self) -> "Rig":
        self.began_at = asyncio.get_running_loop().time()
        self.task = asyncio.create_task(self.poller.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, seconds: float) -> None:
        """Wait until so long after the start."""
        await asyncio.sleep(self.began_at + seconds - asyncio.get_running_loop().time())

    def asked(self, number: int) -> list[float]:
        """When the pod was asked."""
        moments = self.pods.moments(pod_of(number).address or "")
        return [round(at - self.began_at, 3) for at in moments]

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def status(self) -> str:
        return self.poller.health().status

    @property
    def message(self) -> str:
        return self.poller.health().message


def pod_of(number: int, **fields: Any) -> Pod:
    values: dict[str, Any] = {
        "uid": f"uid-{number:05}",
        "namespace": "default",
        "name": f"pod-{number}",
        "processor_id": UUID(int=number),
        "phase": PodPhase.RUNNING,
        "created_at": float(number),
        "address": f"10.0.{number // 256}.{number % 256}:8080",
    }
    return Pod(**(values | fields))


# Whom it asks, and when


async def test_each_pod_is_asked_once_an_interval_and_no_two_at_once():
    rig = Rig()
    for number in range(100):
        rig.add(number, delay_seconds=0.01)
    async with rig:
        await rig.until(29.9)
    for number in range(100):
        turns = rig.asked(number)
        assert [int(at / 10) for at in turns] == [0, 1, 2]
        assert turns == [pytest.approx(turns[0] + 10 * k) for k in range(3)]
    assert rig.pods.at_once_max == 1


async def test_the_pods_of_a_round_are_spread_evenly():
    rig = Rig()
    for number in range(72):
        rig.add(number)
    async with rig:
        await rig.until(9.9)
    moments = sorted(at - rig.began_at for at, _ in rig.pods.asked)
    distances = {round(b - a, 6) for a, b in pairwise(moments)}
    assert distances == {0.1}


async def test_only_running_pods_of_a_processor_that_have_an_address_are_asked():
    rig = Rig()
    rig.add(1)
    rig.add(2, phase=PodPhase.PENDING)
    rig.add(3, terminating=True)
    rig.add(4, processor_id=None)
    rig.add(5, address=None)
    rig.add(6, phase=PodPhase.FAILED)
    async with rig:
        await rig.until(25)
    assert {address for _, address in rig.pods.asked} == {pod_of(1).address}


async def test_a_new_pod_is_asked_in_the_next_round():
    rig = Rig()
    rig.add(1)
    async with rig:
        await rig.until(12)
        rig.add(2)
        await rig.until(28)
    assert rig.asked(2) == [23.6]


async def test_a_pod_that_goes_in_mid_round_is_not_asked():
    rig = Rig()
    rig.add(1)
    last = rig.add(2)
    async with rig:
        await rig.until(1)
        del rig.running[last.uid]
        await rig.until(9)
        assert rig.asked(2) == []
        assert rig.message == "1 of 1 pods answered"


async def test_a_pod_that_moved_to_another_address_is_asked_there():
    rig = Rig()
    rig.add(1)
    rig.add(2)
    async with rig:
        await rig.until(1)
        moved = rig.add(2, address="10.9.9.9:8080")
        await rig.until(9)
        assert rig.poller.answers[moved.uid].healthy
    assert rig.asked(2) == []


# Pods that hang


async def test_hanging_pods_delay_no_other():
    rig = Rig()
    for number in range(200):
        rig.add(number, delay_seconds=60 if number % 2 else 0)
    async with rig:
        await rig.until(39)
        assert rig.status == "healthy"
        assert rig.message == "100 of 200 pods answered"
    for number in range(200):
        turn = 7.2 * number / 200
        assert rig.asked(number) == [pytest.approx(10 * k + turn, abs=0.001) for k in range(4)]


async def test_it_waits_for_a_bounded_number_of_pods():
    rig = Rig(concurrency=7)
    for number in range(100):
        rig.add(number, delay_seconds=60)
    async with rig:
        await rig.until(60)
    assert rig.pods.at_once_max == 7


async def test_even_the_last_pod_of_a_round_may_hang_for_the_whole_limit():
    rig = Rig()
    for number in range(999):
        rig.add(number, delay_seconds=60 if number == 998 else 0)
    async with rig:
        await rig.until(29.9)
        assert rig.status == "healthy"


async def test_a_limit_as_long_as_the_interval_still_works():
    rig = Rig(interval_seconds=1, timeout_seconds=2)
    rig.add(1)
    rig.add(2, delay_seconds=60)
    async with rig:
        await rig.until(9)
        assert rig.status == "degraded"
        assert len(rig.asked(1)) >= 4


# What it finds


@pytest.mark.parametrize(
    ("answer", "healthy", "outcome"),
    [
        (WELL, True, "ready"),
        (NOT_READY, False, "not_ready"),
        (SICK, False, "not_ready"),
        (replace(SICK, ready=False), False, "not_ready"),
        (None, False, "unreachable"),
    ],
)
async def test_healthy_is_who_says_so_twice(answer, healthy, outcome):
    rig = Rig()
    pod = rig.add(1, answer)
    async with rig:
        await rig.until(2)
        asked = rig.poller.answers[pod.uid]
        assert (asked.at, asked.answer, asked.healthy) == (rig.began_at, answer, healthy)
        assert asked.message == (answer.message if answer else "connection refused")
    assert rig.store.of(1) == [healthy]
    assert rig.value("dory_pod_probes_total", outcome=outcome) == 1
    assert rig.value("dory_pod_probe_duration_seconds_count") == 1


async def test_outcomes_are_counted_from_zero():
    rig = Rig()
    for outcome in ("ready", "not_ready", "unreachable"):
        labels = {"outcome": outcome}
        assert rig.metrics.registry.get_sample_value("dory_pod_probes_total", labels) == 0


async def test_findings_are_written_within_a_second_and_once():
    rig = Rig()
    for number in range(100):
        rig.add(number)
    async with rig:
        await rig.until(9.5)
        for at, group in rig.store.groups:
            for finding in group:
                waited = at - rig.began_at - rig.asked(finding.processor_id.int)[0]
                assert 0 <= waited <= 1
    written = [finding.processor_id.int for _, group in rig.store.groups for finding in group]
    assert sorted(written) == list(range(100))


async def test_groups_are_bounded():
    rig = Rig(interval_seconds=2, timeout_seconds=1.5)
    for number in range(2500):
        rig.add(number)
    async with rig:
        await rig.until(1.95)
    assert sorted(len(group) for _, group in rig.store.groups) == [500, 1000, 1000]


async def test_nothing_is_written_when_nothing_was_found():
    rig = Rig()
    async with rig:
        await rig.until(30)
    assert rig.store.calls == 0


async def test_of_two_pods_of_a_processor_the_newest_owner_counts():
    rig = Rig()
    left = rig.add(1, None, epoch=3, created_at=50.0)
    owner = rig.add(2, WELL, epoch=4, created_at=40.0, processor_id=UUID(int=1))
    stray = rig.add(3, None, created_at=60.0, processor_id=UUID(int=1))
    async with rig:
        await rig.until(19)
        assert rig.poller.answers.keys() == {left.uid, owner.uid, stray.uid}
    assert rig.store.of(1) == [True, True]


async def test_a_pod_that_was_just_taken_away_is_not_called_unhealthy():
    rig = Rig()
    pod = rig.add(1, None)
    async with rig:
        await rig.until(0.5)
        assert pod.uid in rig.poller.answers
        rig.running[pod.uid] = replace(pod, terminating=True)
        await rig.until(5)
    assert rig.store.calls == 0


# What it forgets


async def test_pods_that_are_gone_are_forgotten_within_a_second():
    rig = Rig()
    pod = rig.add(1)
    rig.add(2)
    async with rig:
        answers = rig.poller.answers
        await rig.until(15)
        assert len(answers) == 2
        del rig.running[pod.uid]
        await rig.until(16.1)
        assert list(answers) == [pod_of(2).uid]


async def test_an_answer_of_a_pod_that_went_meanwhile_is_not_kept():
    rig = Rig()
    pod = rig.add(1, delay_seconds=1.9)
    async with rig:
        await rig.until(0.5)
        del rig.running[pod.uid]
        await rig.until(5)
        assert not rig.poller.answers
    assert rig.store.calls == 0


# When the database does not take it


async def test_store_errors_end_nothing_and_are_logged_once_a_streak():
    rig = Rig()
    rig.add(1)
    with structlog.testing.capture_logs() as log:
        async with rig:
            rig.store.error = StoreUnavailable("down")
            await rig.until(35)
            assert rig.value("dory_pod_health_write_errors_total") == rig.store.calls == 4
            assert rig.status == "healthy"
            rig.store.error = None
            await rig.until(45)
            rig.store.error = StoreUnavailable("down again")
            await rig.until(65)
    assert rig.store.of(1) == [True]
    assert [line["log_level"] for line in log] == ["warning", "info", "warning"]


async def test_a_store_that_hangs_stops_no_asking():
    rig = Rig()
    rig.add(1)
    async with rig:
        rig.store.hold.clear()
        await rig.until(35)
        assert len(rig.asked(1)) == 4
        rig.store.hold.set()
        await rig.until(37)
    assert rig.store.of(1) == [True, True]  # the one that hung, and the newest


async def test_a_pod_that_goes_and_comes_while_the_store_hangs_begins_anew():
    rig = Rig()
    rig.add(1)
    other = rig.add(2)
    async with rig:
        rig.store.hold.clear()
        await rig.until(9)
        del rig.running[other.uid]
        await rig.until(11)
        rig.running[other.uid] = other
        await rig.until(21)
        rig.store.hold.set()
        await rig.until(22)
        assert rig.store.of(2) == []
        await rig.until(25)
    assert rig.store.of(2) == [True]


async def test_what_is_not_expected_ends_it():
    rig = Rig()
    rig.add(1)
    async with rig:
        rig.store.error = AttributeError("a mistake of ours")
        await rig.until(2)
        assert rig.task.done()
        with pytest.raises(ExceptionGroup) as caught:
            await rig.task
    assert caught.group_contains(AttributeError)


# Its own health


async def test_without_pods_it_is_healthy():
    rig = Rig()
    assert rig.status == "unhealthy"
    async with rig:
        for second in (0.1, 9, 29, 60):
            await rig.until(second)
            assert rig.status == "healthy"
            assert rig.message == "0 of 0 pods answered"


async def test_the_first_round_is_waited_for_then_it_says_how_many_answered():
    rig = Rig()
    rig.add(1)
    rig.add(2, None)
    async with rig:
        await rig.until(1)
        assert (rig.status, rig.message) == ("healthy", "the first round of pods is under way")
        await rig.until(8)
        assert (rig.status, rig.message) == ("healthy", "1 of 2 pods answered")
        assert rig.poller.progress.round_began_at is None
        await rig.until(11)
        assert rig.poller.progress.round_began_at == rig.began_at + 10


async def test_more_pods_than_an_interval_has_room_for_is_degraded_until_there_is_room():
    rig = Rig(concurrency=2)
    for number in range(20):
        rig.add(number, delay_seconds=1.5)
    async with rig:
        await rig.until(16)
        assert rig.status == "degraded"
        assert rig.message == "20 of 20 pods answered; a round takes 15.4 s, longer than 10 s"
        rig.running = {uid: pod for uid, pod in rig.running.items() if pod.created_at < 5}
        await rig.until(45)
        assert rig.status == "healthy"


async def test_a_round_that_takes_three_intervals_is_unhealthy():
    rig = Rig(concurrency=1)
    for number in range(20):
        rig.add(number, delay_seconds=1.9)
    async with rig:
        for second, status in ((29.9, "degraded"), (30, "unhealthy"), (38.5, "degraded")):
            await rig.until(second)
            assert rig.status == status


PROGRESS = PollProgress(began_at=0, finished_at=100, took_seconds=8, asked=3, answered=2)


@pytest.mark.parametrize(
    ("progress", "now", "status"),
    [
        (PollProgress(), 0, "unhealthy"),
        (PollProgress(began_at=70, round_began_at=70), 80, "healthy"),
        (PollProgress(began_at=70, round_began_at=70), 80.1, "degraded"),
        (PollProgress(began_at=70, round_began_at=70), 99.9, "degraded"),
        (PollProgress(began_at=70), 100, "unhealthy"),
        (PollProgress(began_at=70), 100.1, "unhealthy"),
        (PROGRESS, 129.9, "healthy"),
        (PROGRESS, 130, "unhealthy"),
        (PROGRESS, 130.1, "unhealthy"),
        (PollProgress(began_at=0, finished_at=100, took_seconds=10), 101, "healthy"),
        (PollProgress(began_at=0, finished_at=100, took_seconds=10.1), 101, "degraded"),
        (PollProgress(began_at=0, finished_at=100, round_began_at=102), 112, "healthy"),
        (PollProgress(began_at=0, finished_at=100, round_began_at=102), 112.1, "degraded"),
        (PollProgress(began_at=0, finished_at=100, round_began_at=102), 130, "unhealthy"),
    ],
)
def test_its_health_just_before_at_and_after_each_limit(progress, now, status):
    assert judge(progress, now=now, interval_seconds=10).status == status
