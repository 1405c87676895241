"""The newest picture of the cluster, in simulated time."""

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest
import structlog
from tests.cluster_double import MemoryCluster

from dory_orchestrator.core.model import HealthStatus, Node, Pod, PodPhase
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.ports import ClusterUnavailable

pytestmark = pytest.mark.looptime


def _now() -> float:
    return asyncio.get_running_loop().time()


class CountingCluster(MemoryCluster):
    """Counts streams and questions; `silent` has it answer no question, in no time."""

    def __init__(self) -> None:
        super().__init__([Node("a", ready=True)], clock=_now)
        self.opened: list[float] = []
        self.asked: list[float] = []
        self.silent = False
        self.ends = asyncio.Event()

    def observe(self):
        self.opened.append(_now())
        return super().observe()

    async def version(self):
        self.asked.append(_now())
        if self.silent:
            await asyncio.sleep(1e9)
        return await super().version()


class Rig:
    def __init__(self) -> None:
        self.cluster = CountingCluster()
        self.changes: list[float] = []
        self.observer = Observer(self.cluster, lambda: self.changes.append(_now()))

    async def __aenter__(self) -> "Rig":
        self._task = asyncio.create_task(self.observer.run())
        await asyncio.sleep(0.001)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def nodes(self) -> set[str] | None:
        current = self.observer.current
        return None if current is None else set(current.nodes)

    def pods(self) -> set[str] | None:
        current = self.observer.current
        return None if current is None else {pod.name for pod in current.pods.values()}

    def last_seen(self) -> set[str] | None:
        last = self.observer.last_seen
        return None if last is None else {pod.name for pod in last.pods.values()}

    @property
    def message(self) -> str:
        health = self.observer.health()
        return "" if health is None else health.message

    @property
    def status(self) -> HealthStatus | None:
        health = self.observer.health()
        return None if health is None else health.status

    def told(self) -> HealthStatus | None:
        """The same; asked again, it may be another."""
        return self.status


async def test_the_first_picture_comes_at_once_and_each_change_is_told():
    rig = Rig()
    assert rig.observer.current is None
    assert rig.observer.health() is None
    async with rig:
        assert rig.nodes == {"a"}
        assert rig.changes == [0]
        rig.cluster.add_node(Node("b", ready=True))
        await asyncio.sleep(0.001)
        assert rig.nodes == {"a", "b"}
        assert len(rig.changes) == 2
        assert rig.status is HealthStatus.HEALTHY
        assert rig.message == "memory answers; its picture is 0 s old"


async def test_a_broken_stream_is_no_picture_and_the_next_one_is_whole():
    async with Rig() as rig:
        await asyncio.sleep(60)
        rig.cluster.error = ClusterUnavailable("down")
        await asyncio.sleep(0.001)
        assert rig.observer.current is None
        assert len(rig.changes) == 1
        await asyncio.sleep(3)
        rig.cluster.error = None
        rig.cluster.add_node(Node("b", ready=True))
        await asyncio.sleep(10)
        assert rig.nodes == {"a", "b"}
        assert len(rig.changes) == 2


async def test_what_was_seen_last_is_kept_for_who_asks_pods():
    rig = Rig()
    there = pod("a", ready=True)
    rig.cluster.pods[there.uid] = there
    assert rig.last_seen() is None
    async with rig:
        assert rig.last_seen() == {"a"}
        rig.cluster.error = ClusterUnavailable("down")
        rig.cluster.pods.clear()
        await asyncio.sleep(3600)
        assert rig.pods() is None
        assert rig.last_seen() == {"a"}
        rig.cluster.error = None
        await asyncio.sleep(10)
        assert rig.pods() == rig.last_seen() == set()


async def test_it_comes_back_with_back_off():
    async with Rig() as rig:
        await asyncio.sleep(60)
        rig.cluster.error = ClusterUnavailable("down")
        await asyncio.sleep(60)
        opened = rig.cluster.opened[1:]
        waits = [round(b - a, 3) for a, b in pairwise(opened)]
        assert opened[0] == pytest.approx(60.2, abs=0.01)
        assert waits == [0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10]
        rig.cluster.error = None
        await asyncio.sleep(10)
        assert rig.nodes == {"a"}


async def test_a_stream_that_breaks_soon_again_and_again_backs_off_too():
    async with Rig() as rig:
        for _ in range(600):
            await asyncio.sleep(0.1)
            rig.cluster.error = ClusterUnavailable("down")
            await asyncio.sleep(0.001)
            rig.cluster.error = None
        assert len(rig.cluster.opened) < 20


async def test_health_is_the_age_of_the_last_answer():
    async with Rig() as rig:
        await asyncio.sleep(59.5)
        answered_at = rig.cluster.asked[-1]
        rig.cluster.error = ClusterUnavailable("no route")
        for seconds, status in (
            (5.9, HealthStatus.HEALTHY),
            (5.999, HealthStatus.HEALTHY),
            (6, HealthStatus.UNHEALTHY),
            (6.001, HealthStatus.UNHEALTHY),
        ):
            await asyncio.sleep(answered_at + seconds - _now())
            assert rig.status is status, seconds
        assert "no route" in rig.message
        rig.cluster.error = None
        await asyncio.sleep(2)
        assert rig.status is HealthStatus.HEALTHY


async def test_a_cluster_that_never_answered_says_so():
    rig = Rig()
    rig.cluster.error = ClusterUnavailable("no route")
    async with rig:
        assert rig.status is HealthStatus.UNHEALTHY
        assert "never answered" in rig.message
        assert "no route" in rig.message


async def test_one_that_hangs_is_unhealthy_too():
    async with Rig() as rig:
        await asyncio.sleep(60)
        rig.cluster.silent = True
        await asyncio.sleep(8.1)
        assert rig.status is HealthStatus.UNHEALTHY
        assert rig.nodes == {"a"}, "the stream is another matter"


async def test_a_picture_is_as_old_as_what_was_heard_last():
    async with Rig() as rig:
        assert rig.observer.picture_age_seconds == pytest.approx(0, abs=0.01)
        await asyncio.sleep(50)
        assert rig.observer.picture_age_seconds == pytest.approx(50, abs=0.01)
        await asyncio.sleep(20)
        assert rig.observer.picture_age_seconds == pytest.approx(10, abs=0.01), "said at 60 s"
        assert len(rig.changes) == 1, "that nothing changed wakes nobody"
        rig.cluster.error = ClusterUnavailable("down")
        await asyncio.sleep(5)
        assert rig.observer.current is None
        assert rig.observer.picture_age_seconds == pytest.approx(15, abs=0.01)
        rig.cluster.error = None
        await asyncio.sleep(10)
        assert rig.nodes == {"a"}
        assert len(rig.changes) == 2, "the same one as before, and news"


class Deaf(CountingCluster):
    """It answers, its stream is open, and of a part of its picture nothing is heard any more."""

    silent_since = 0.0

    @asynccontextmanager
    async def observe(self):
        async with super().observe() as pictures:
            yield (replace(one, age_seconds=_now() - self.silent_since) async for one in pictures)


async def test_an_old_picture_degrades_health_also_where_the_cluster_answers():
    rig = Rig()
    rig.cluster = Deaf()
    rig.observer = Observer(rig.cluster, lambda: None)
    async with rig:
        await asyncio.sleep(89.9)
        assert rig.told() is HealthStatus.HEALTHY
        await asyncio.sleep(0.2)
        assert rig.told() is HealthStatus.DEGRADED
        assert rig.message == "memory answers; its picture is 90 s old"
        rig.cluster.add_node(Node("b", ready=True))
        await asyncio.sleep(0.001)
        assert rig.told() is HealthStatus.DEGRADED, "another part is heard of"


# What we did ourselves


def pod(name: str, **fields) -> Pod:
    return Pod(
        f"uid-{name}",
        "default",
        name,
        UUID(int=1),
        PodPhase.RUNNING,
        1.0,
        node_name="a",
        labels={"managed-by": "dory-orchestrator"},
        **fields,
    )


async def test_what_was_created_is_there_until_a_picture_shows_it():
    rig = Rig()
    rig.observer.created(pod("early"))
    assert rig.pods() is None
    async with rig:
        rig.observer.created(pod("a"))
        assert rig.pods() == {"early", "a"}
        rig.cluster.add_node(Node("b", ready=True))
        await asyncio.sleep(0.001)
        assert rig.pods() == {"early", "a"}, "a picture may have been on its way"
        ready = pod("a", ready=True)
        rig.cluster.pods[ready.uid] = ready
        rig.cluster.add_node(Node("c", ready=True))
        await asyncio.sleep(0.001)
        assert rig.observer.current is not None
        assert rig.observer.current.pods["uid-a"].ready
        del rig.cluster.pods[ready.uid]
        rig.cluster.add_node(Node("d", ready=True))
        await asyncio.sleep(0.001)
        assert rig.pods() == {"early"}, "it was seen, and is gone"


async def test_what_no_picture_shows_in_time_was_gone_before():
    async with Rig() as rig:
        rig.observer.created(pod("a"))
        await asyncio.sleep(4.99)
        assert rig.pods() == {"a"}
        await asyncio.sleep(0.02)
        assert rig.pods() == set(), "also when no other picture comes"


async def test_what_was_deleted_terminates_until_a_picture_tells_otherwise_for_long():
    rig = Rig()
    there = pod("a", ready=True)
    rig.cluster.pods[there.uid] = there
    async with rig:
        rig.observer.deleted(there)
        assert rig.observer.current is not None
        seen = rig.observer.current.pods[there.uid]
        assert (seen.terminating, seen.ready) == (True, False)
        await asyncio.sleep(5.01)
        assert rig.observer.current.pods[there.uid] == there
        rig.observer.deleted(there)
        del rig.cluster.pods[there.uid]
        rig.cluster.add_node(Node("b", ready=True))
        await asyncio.sleep(0.001)
        assert rig.pods() == set()


class Blind(CountingCluster):
    """It answers, and shows nothing."""

    def observe(self):
        self.opened.append(_now())
        return self._refuse()

    @asynccontextmanager
    async def _refuse(self):
        raise ClusterUnavailable("nodes cannot be watched: nodes is forbidden")
        yield  # type: ignore[unreachable]  # what makes it a context manager


async def test_what_it_is_that_cannot_be_seen_is_told():
    rig = Rig()
    rig.cluster = Blind()
    rig.observer = Observer(rig.cluster, lambda: None)
    with structlog.testing.capture_logs() as logs:
        async with rig:
            await asyncio.sleep(1)
            assert rig.told() is HealthStatus.HEALTHY, "it may be a broken stream"
            await asyncio.sleep(60)
            assert rig.told() is HealthStatus.UNHEALTHY
            assert rig.message == (
                "it cannot be observed: nodes cannot be watched: nodes is forbidden"
            )
            assert rig.observer.picture_age_seconds is None, "there never was one"
    told = [log for log in logs if log["event"] == "the cluster cannot be observed"]
    assert [log["error"] for log in told] == ["nodes cannot be watched: nodes is forbidden"]


class Hiding(CountingCluster):
    """Some of its namespaces may not be looked at."""

    hidden: Mapping[str, str] = {}

    @asynccontextmanager
    async def observe(self):
        async with super().observe() as pictures:
            yield (replace(picture, hidden=self.hidden) async for picture in pictures)


async def test_a_namespace_that_may_not_be_looked_at_is_told():
    rig = Rig()
    rig.cluster = Hiding()
    rig.cluster.hidden = {"plants": "pods is forbidden", "zoo": "pods is forbidden"}
    rig.observer = Observer(rig.cluster, lambda: None)
    async with rig:
        assert rig.status is HealthStatus.HEALTHY, "one wrong row makes nobody unready"
        assert rig.message == (
            "memory answers; its picture is 0 s old; namespace plants (and 1 more)"
            " cannot be looked at: pods is forbidden"
        )
        assert rig.nodes == {"a"}
        rig.cluster.hidden = {}
        rig.cluster.add_node(Node("b", ready=True))
        await asyncio.sleep(0.001)
        assert rig.message == "memory answers; its picture is 0 s old"
