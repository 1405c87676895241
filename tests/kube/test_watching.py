"""Keeping up with an API server that behaves as real ones do on bad days."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from tests.contract.cluster_worlds import (
    AROUND,
    QUICK_PACE,
    KubernetesWorld,
    a_node,
    a_spec,
    kubernetes_world,
    version_of,
    watching,
)
from tests.kube.api_server import Failure
from tests.patience import patient

from dory_orchestrator.cluster.kubernetes.client import KubernetesCluster
from dory_orchestrator.cluster.kubernetes.connection import Connection
from dory_orchestrator.cluster.kubernetes.watching import Pace
from dory_orchestrator.core.model import PodSpec
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.ports import ClusterRefused, ClusterUnavailable, Refusal

pytestmark = [pytest.mark.real, pytest.mark.timeout(20)]


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[KubernetesWorld]:
    async with kubernetes_world(tmp_path, getattr(request, "param", QUICK_PACE)) as found:
        yield found


WATCHES = 4
"""Nodes, and the pods of two namespaces."""


def paced(pace: Pace) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("world", [pytest.param(pace, id="paced")], indirect=True)


THREE_A_PAGE = paced(Pace(page=3))
IMPATIENT = paced(Pace(silence_seconds=0.4))
LESS_IMPATIENT = paced(Pace(silence_seconds=1.5))


def lists(world: KubernetesWorld) -> int:
    """How often pods were listed."""
    paths = [path for method, path in world.server.requests if "/default/pods?" in path]
    return sum("watch=" not in path for path in paths)


async def until(condition: Callable[[], Any], limit_seconds: float = 8.0) -> None:
    async with asyncio.timeout(patient(limit_seconds)):
        while not condition():
            await asyncio.sleep(0.01)


@THREE_A_PAGE
async def test_a_long_list_comes_in_pages(world):
    specs = [a_spec(node_name="nowhere") for _ in range(8)]
    for spec in specs:
        await world.cluster.create_pod(spec)
    async with watching(world.cluster) as seen:
        assert {pod.name for pod in seen.now.pods.values()} == {spec.name for spec in specs}
    assert lists(world) == 3


@THREE_A_PAGE
async def test_a_page_that_has_expired_is_listed_again_without_pages(world):
    for _ in range(8):
        await world.cluster.create_pod(a_spec(node_name="nowhere"))

    def expire(request: web.Request) -> None:
        if "continue" in request.query:
            raise Failure(410, "Expired", "The provided continue parameter is too old")

    world.server.intercept = expire
    async with watching(world.cluster) as seen:
        assert len(seen.now.pods) == 8


async def test_a_stream_that_ends_goes_on_where_it_was(world):
    await world.declare(a_node("a"))
    async with watching(world.cluster) as seen:
        for _ in range(3):
            spec = a_spec()
            world.server.break_watches()
            await world.cluster.create_pod(spec)
            await seen.pod(spec.name, ready=True)
        assert seen.failure is None
    assert lists(world) == 1


async def test_a_watch_that_is_too_old_is_listed_again(world):
    await world.declare(a_node("a"))
    first, second = a_spec(), a_spec()
    async with watching(world.cluster) as seen:
        await world.cluster.create_pod(first)
        pod = await seen.pod(first.name, ready=True)
        world.server.intercept = _refuse_watches()
        world.server.break_watches()
        await until(lambda: not world.server.watches)
        await world.cluster.delete_pod(pod, force=True)
        await world.cluster.create_pod(second)
        world.server.compact()
        world.server.intercept = None
        await seen.pod(second.name, ready=True)
        await seen.gone(first.name)
        assert seen.failure is None
    assert lists(world) == 2


def _refuse_watches() -> Callable[[web.Request], None]:
    def refuse(request: web.Request) -> None:
        if "watch" in request.query:
            raise Failure(500, "InternalError", "etcd is away")

    return refuse


@IMPATIENT
async def test_a_silent_stream_is_opened_anew(world):
    """Between us and the server somebody may forget a connection, and tell neither."""
    await world.declare(a_node("a"))
    async with watching(world.cluster) as seen:
        await until(lambda: len(world.server.watches) == WATCHES)
        for watch in list(world.server.watches):
            world.server.watches.discard(watch)  # it stays open, and says nothing any more
        spec = a_spec()
        await world.cluster.create_pod(spec)
        await seen.pod(spec.name, ready=True)
        await until(lambda: len(world.server.watches) == WATCHES)
        assert seen.failure is None


@LESS_IMPATIENT
async def test_bookmarks_keep_a_quiet_stream_alive(world):
    world.server.bookmark_seconds = 0.1
    async with watching(world.cluster):
        await until(lambda: len(world.server.watches) == WATCHES)
        begun, end = len(world.server.requests), world.server.bookmarks + 25 * WATCHES
        await until(lambda: world.server.bookmarks >= end)
        assert len(world.server.requests) == begun


@LESS_IMPATIENT
async def test_a_picture_is_as_old_as_the_stream_that_says_nothing(world):
    """That one stream is heard of says nothing about what another one tells."""
    world.server.bookmark_seconds = 0.1
    async with watching(world.cluster) as seen:
        await until(lambda: len(world.server.watches) == WATCHES)
        assert await seen.until(lambda picture: picture.age_seconds < 0.5) is True
        silent = next(watch for watch in world.server.watches if watch.plural == "pods")
        # It stays open, and neither tells of changes nor bears bookmarks.
        silent.mute = True
        # Less than the 1.5 s after which it is opened anew; the nodes are heard of meanwhile.
        await seen.until(lambda picture: picture.age_seconds > 1.0)
        # Opened anew, it speaks again.
        await seen.until(lambda picture: picture.age_seconds < 0.5)
        assert seen.failure is None


async def test_where_storage_is_away_it_does_not_answer(world):
    """The version is told without it."""

    def refuse(request: web.Request) -> None:
        if request.path != "/version/":
            raise Failure(500, "InternalError", "etcdserver: request timed out")

    assert await world.cluster.version()
    world.server.intercept = refuse
    with pytest.raises(ClusterUnavailable, match="etcdserver"):
        await world.cluster.version()
    world.server.intercept = None
    world.server.forbidden.add(("list", "nodes"))
    assert await world.cluster.version(), "who observes tells of missing rights"


async def test_what_is_no_json_breaks_the_picture_and_not_the_process(world):
    def garble(request: web.Request) -> Any:
        if request.path.endswith("/nodes"):
            raise web.HTTPOk(text="<html>a proxy</html>")

    world.server.intercept = garble
    with pytest.raises(ClusterUnavailable, match="nodes"):
        async with world.cluster.observe():
            pass


async def test_a_missing_right_is_named(world):
    world.server.forbidden.add(("list", "nodes"))
    with pytest.raises(ClusterUnavailable, match=r"nodes is forbidden: User .* cannot list"):
        async with world.cluster.observe():
            pass
    world.server.forbidden = {("create", "pods")}
    with pytest.raises(ClusterRefused, match="cannot create resource") as refused:
        await world.cluster.create_pod(a_spec())
    assert refused.value.reason is Refusal.FORBIDDEN


async def test_nobody_asks_before_the_server_wants_to_be_asked(world):
    busy = [Failure(429, "TooManyRequests", "too many requests", Retry_After="1")]

    def refuse(_request: web.Request) -> None:
        if busy:
            raise busy.pop()

    world.server.intercept = refuse
    with pytest.raises(ClusterUnavailable, match="too many requests"):
        await world.cluster.create_pod(a_spec())
    began_at = time.monotonic()
    await world.cluster.create_pod(a_spec())
    assert time.monotonic() - began_at > 0.8


async def test_what_is_asked_in_vain_ends_in_time(world):
    async def hang() -> None:
        await asyncio.sleep(3_600)

    world.server.intercept = lambda _request: hang()
    # That may take longer.
    creating = asyncio.create_task(world.cluster.create_pod(a_spec()))
    with pytest.raises(ClusterUnavailable, match="in time"):
        await world.cluster.version()
    assert not creating.done()
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        pytest.param(
            Failure(403, "Forbidden", 'pods "x" is forbidden: exceeded quota: q, requested: cpu=1'),
            Refusal.QUOTA,
            id="quota",
        ),
        pytest.param(Failure(422, "Invalid", "spec: Invalid"), Refusal.INVALID, id="invalid"),
        pytest.param(Failure(413, "", "too large"), Refusal.TOO_LARGE, id="too-large"),
    ],
)
async def test_refusals_have_reasons(world, failure, reason):
    def refuse(_request: web.Request) -> None:
        raise failure

    world.server.intercept = refuse
    with pytest.raises(ClusterRefused) as refused:
        await world.cluster.create_pod(a_spec())
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("namespaces", "terminating", "reason"),
    [
        (set(), set(), Refusal.NAMESPACE_MISSING),
        ({"default"}, {"default"}, Refusal.NAMESPACE_TERMINATING),
    ],
)
async def test_namespaces_that_take_no_pods(world, namespaces, terminating, reason):
    world.server.namespaces, world.server.terminating = namespaces, terminating
    with pytest.raises(ClusterRefused) as refused:
        await world.cluster.create_pod(a_spec())
    assert refused.value.reason is reason


async def test_a_token_that_has_changed_is_read_again(world, tmp_path):
    world.server.token = "first"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(world.server.kubeconfig())
    assert await version_of(world.cluster)
    world.server.token = "second"
    with pytest.raises(ClusterUnavailable, match="refuses our credentials"):
        await world.cluster.create_pod(a_spec())
    kubeconfig.write_text(world.server.kubeconfig())
    assert await version_of(world.cluster)


ROTATIONS = 7


class Rotated:
    """The token of a world, which its kubeconfig leads to by a file."""

    def __init__(self, world: KubernetesWorld, folder: Path) -> None:
        self._server, self._file, self._number = world.server, folder / "token", 0
        kubeconfig = json.loads(world.server.kubeconfig())
        kubeconfig["users"][0]["user"] = {"tokenFile": str(self._file)}
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
        self.next()

    def next(self) -> None:
        """Only another token is good from now on, and it lies in the file."""
        self._number += 1
        self._server.token = f"token-{self._number}"
        self._file.write_text(self._server.token)


async def test_a_rotated_token_costs_one_refusal_and_ends_the_streams(world, tmp_path):
    """Streams of the session before would else say nothing, and not end, for 75 s."""
    token = Rotated(world, tmp_path)
    await world.declare(a_node("a"))
    with capture_logs() as logs:
        async with watching(world.cluster) as seen:
            await until(lambda: len(world.server.watches) == WATCHES)
            for number in range(1, ROTATIONS + 1):
                # The server notices that a stream is gone when it has something to say.
                before = set(world.server.watches)
                token.next()
                spec = a_spec()
                await world.cluster.create_pod(spec)
                await seen.pod(spec.name, ready=True)
                await until(lambda: len(world.server.watches - before) == WATCHES)  # noqa: B023
                assert world.server.unauthorized == number
            assert seen.failure is None
    assert lists(world) == 1, "the streams went on where they were"
    told = [log for log in logs if log["event"] == "the credentials are read anew"]
    assert len(told) == ROTATIONS
    assert {log["log_level"] for log in told} == {"warning"}


async def test_a_rotated_token_hurts_nothing_that_is_under_way(world, tmp_path, monkeypatch):
    """Whatever is inside a session while another request of it is refused comes to its end."""
    limit = "dory_orchestrator.cluster.kubernetes.client._VERSION_SECONDS"
    monkeypatch.setattr(limit, patient(1.5))  # so many at once
    token, calling = Rotated(world, tmp_path), 8
    done = dict.fromkeys(range(calling), 0)
    await world.declare(a_node("a"))

    async def call_always(caller: int) -> None:
        while True:
            await asyncio.gather(
                world.cluster.version(), world.cluster.read_state("default", uuid4())
            )
            done[caller] += 1

    observer = Observer(world.cluster, lambda: None)
    tasks = [asyncio.create_task(observer.run())]
    tasks += [asyncio.create_task(call_always(caller)) for caller in done]

    def ended() -> list[BaseException | None]:
        """Of what is to go on, what has failed, and how."""
        return [task.exception() for task in tasks if task.done()]

    with capture_logs() as logs:
        try:
            await until(lambda: observer.current is not None)
            for _ in range(ROTATIONS):
                begun = dict(done)
                world.server.break_watches()  # they are opened anew in the same moment
                token.next()
                spec = a_spec()
                await world.cluster.create_pod(spec)
                await until(lambda: spec.name in names(observer))  # noqa: B023
                # A call is tried twice, so it must not see two rotations. Of two rounds that end
                # after a rotation the second has begun after it: with its end the new token is in
                # use, and no round that begins later is refused before the next rotation.
                await until(lambda: ended() or all(done[one] > begun[one] + 1 for one in done))  # noqa: B023
                assert ended() == []
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert not [log for log in logs if log["event"] == "the cluster cannot be observed"]
    # Each caller has three requests under way, the observer two, and so many streams are opened.
    assert world.server.unauthorized <= ROTATIONS * (3 * calling + 2 + WATCHES + 1)


def names(observer: Observer) -> set[str]:
    return {pod.name for pod in observer.current.pods.values()} if observer.current else set()


async def test_what_is_under_way_while_the_connection_is_closed_is_unavailable(world):
    held = asyncio.Event()

    def hold(_request: web.Request) -> Any:
        return held.wait()

    world.server.intercept = hold
    calls = [asyncio.create_task(world.cluster.read_state("default", uuid4())) for _ in range(3)]
    await until(lambda: len(world.server.requests) == len(calls))
    await world.cluster.close()
    held.set()
    for failure in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(failure, ClusterUnavailable), failure


async def test_a_kubeconfig_that_is_not_there_is_named():
    connection = Connection("/nowhere/kubeconfig")
    with pytest.raises(ClusterUnavailable, match="there is no file /nowhere/kubeconfig"):
        await connection.send(_version, timeout_seconds=patient(5))


async def test_neither_a_kubeconfig_nor_a_pod(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterUnavailable, match="neither a kubeconfig is named, nor"):
        await Connection(None).send(_version, timeout_seconds=patient(5))


@pytest.mark.parametrize("text", ["", "[]", "{", "apiVersion: v1\nkind: Config\n"])
async def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ClusterUnavailable, match="kubeconfig"):
        await Connection(str(path)).send(_version, timeout_seconds=patient(5))


async def _version(apis: Any) -> Any:
    return await apis.version.get_code_without_preload_content()


async def test_pods_of_other_namespaces_are_not_looked_at(world):
    world.server.namespaces.add("theirs")
    theirs: PodSpec = a_spec(namespace="theirs")
    await KubernetesCluster(world.connection, AROUND).create_pod(theirs)
    async with watching(world.cluster) as seen:
        assert not seen.now.pods
    assert not any("theirs" in path for method, path in world.server.requests if method == "GET")


async def test_a_namespace_that_is_named_later_is_shown_once_it_is_listed(world):
    world.server.namespaces.add("later")
    spec = a_spec(namespace="later")
    await world.cluster.create_pod(spec)
    async with watching(world.cluster) as seen:
        assert seen.now.namespaces == frozenset({"default", "other"})
        world.cluster.look_in(frozenset({"default", "later"}))
        pod = await seen.until(
            lambda now: now.namespaces == frozenset({"default", "later", "other"}) and now
        )
        assert [one.name for one in pod.pods.values()] == [spec.name]


async def test_a_namespace_that_may_not_be_looked_at_is_left_out(world):
    """One row with a wrong namespace must not stop the fleet."""

    def refuse(request: web.Request) -> None:
        if "/closed/" in request.path:
            raise Failure(403, "Forbidden", "pods is forbidden: not there")

    world.server.intercept = refuse
    world.cluster.look_in(frozenset({"closed"}))
    spec = a_spec(node_name="nowhere")
    async with watching(world.cluster) as seen:
        assert seen.now.namespaces == frozenset({"default", "other"})
        await world.cluster.create_pod(spec)
        await seen.pod(spec.name)
        assert not seen.now.shows("closed")
        assert seen.now.hidden == {"closed": "pods is forbidden: not there"}


async def test_without_a_namespace_nothing_is_shown(world):
    cluster = KubernetesCluster(world.connection, AROUND)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), cluster.observe():
            pass


async def test_an_answer_that_cannot_be_read_is_no_proof_of_an_end(world):
    pod = await world.cluster.create_pod(a_spec(node_name="nowhere"))

    def garble(request: web.Request) -> None:
        if request.method == "DELETE":
            raise web.HTTPOk(text="<html>a proxy</html>")

    async with watching(world.cluster) as seen:
        world.server.intercept = garble
        with pytest.raises(ClusterUnavailable):
            await world.cluster.delete_pod(pod)
        world.server.intercept = None
        other = await world.cluster.create_pod(a_spec(node_name="nowhere"))
        await seen.pod(other.name)
        assert pod.uid in seen.now.pods
