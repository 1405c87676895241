"""The real service over an API server: what it asks for, and what becomes of it.

In a `world`, pods are ready as soon as they have a place, and nobody answers behind them.
"""

import asyncio
import re
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.acceptance.history import lost_since
from tests.acceptance.on_kubernetes import KubernetesFleet, on_kubernetes
from tests.acceptance.real import (
    RealService,
    clean_environment,
    eventually,
    free_port,
    run_on,
    running,
)
from tests.acceptance.test_failover import (
    COUNTED_MIN,
    INTERVAL_SECONDS,
    LOSS_SECONDS_MAX,
    NOTICED_SECONDS,
    SHORT,
    checkpointed,
    counted,
    hurt,
    in_the_cloud,
    recorders,
)
from tests.acceptance.test_fleet import command
from tests.acceptance.test_leaders import desire
from tests.contract.cluster_worlds import KubernetesWorld, a_node, kubernetes_world
from tests.contract.worlds import connected
from tests.e2e.test_cluster import (
    test_create_roll_fail_over_fail_back_and_clean_up as create_roll_fail_over_and_back,
)
from tests.kube.api_server import ApiServer
from tests.kube.control_plane import ControlPlane
from tests.patience import patient

pytestmark = pytest.mark.timeout(120)

NEEDED = {
    ("list", "nodes"),
    ("watch", "nodes"),
    ("list", "pods"),
    ("watch", "pods"),
    ("create", "pods"),
    ("delete", "pods"),
    ("get", "configmaps"),
    ("create", "events"),
    ("get", "namespaces"),
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[KubernetesWorld]:
    async with kubernetes_world(tmp_path) as world:
        await world.declare(a_node("cloud-1", labels={"workload-type": "application"}))
        yield world


def orchestrator(database_url: str, folder: Path) -> Any:
    return run_on(database_url, KUBECONFIG=str(folder / "kubeconfig"))


def ready(world: KubernetesWorld) -> dict[str, Any]:
    """The pods of the API server that are ready and not about to end, by name."""
    return {
        pod["metadata"]["name"]: pod
        for pod in world.server.all("pods")
        if not pod["metadata"].get("deletionTimestamp")
        and any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in pod["status"].get("conditions", [])
        )
    }


async def test_rows_become_pods_and_changes_change_them(database_url, tmp_path, world):
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        ids = await desire(connection, 3)
        await eventually(lambda: len(ready(world)) == 3)
        _, health = await service.get("/healthz")
        assert health["components"]["kubernetes"]["status"] == "healthy"
        assert "Kubernetes 1.36" in health["components"]["kubernetes"]["message"]

        pod = next(iter(ready(world).values()))
        assert pod["spec"]["serviceAccountName"] == "dory-processor"
        before = set(ready(world))
        await connection.execute("UPDATE processor_template_versions SET version = '2'")
        await eventually(lambda: len(ready(world)) == 3 and not set(ready(world)) & before, 60)

        await connection.execute(
            "UPDATE processors SET status = 'terminated' WHERE id = $1", ids[0]
        )
        await eventually(lambda: len(world.server.all("pods")) == 2)
        await eventually(lambda: world.server.seen == NEEDED)


async def test_while_the_api_server_is_away_heartbeats_are_answered_and_nothing_is_doubled(
    database_url, tmp_path, world
):
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        ids = await desire(connection, 3)
        await eventually(lambda: len(ready(world)) == 3)
        port = int(world.server.url.rsplit(":", 1)[1])
        uids = {pod["metadata"]["uid"] for pod in world.server.all("pods")}
        await world.server.stop()

        async def is_told() -> bool:
            return not await service.is_ready()

        await eventually(is_told, 30)
        beat = {"processor_id": str(ids[0]), "node_id": "cloud-1", "status": "healthy"}
        answer = await service.beat(**beat)
        assert answer["directive"] == "continue"

        await world.server.start(port)
        await eventually(service.is_ready, 30)
        more = await desire(connection, 1)
        await eventually(lambda: len(ready(world)) == 4)
        assert more
        assert uids < {pod["metadata"]["uid"] for pod in world.server.all("pods")}


async def test_pods_that_somebody_takes_away_are_made_with_back_off(database_url, tmp_path, world):
    made: list[float] = []

    def note(plural: str, _body: dict[str, Any]) -> None:
        if plural == "pods":
            made.append(time.monotonic())

    async def take_each_away() -> None:
        while True:
            for pod in world.server.all("pods"):
                world.server.remove(("pods", "default", pod["metadata"]["name"]))
            await asyncio.sleep(0.1)

    world.server.admit = note
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        taking = asyncio.create_task(take_each_away())
        [key] = await desire(connection, 1)
        await eventually(lambda: len(made) == 4, 60)
        # 0, 1, 3 and 7 s, or later on a busy machine. The wait counts from when the answer was
        # recorded or the pod was seen to change, so between two it may be shorter by that.
        waits = [after - before for before, after in pairwise(made)]
        assert all(wait > least for wait, least in zip(waits, (0.8, 1.8, 3.8), strict=True)), waits
        taking.cancel()
        await eventually(lambda: len(ready(world)) == 1, 30)
        _, answer = await service.get(f"/api/v1/fleet/events?processor={key}")
        assert "vanished" in {event["reason"] for event in answer["events"]}


@pytest.mark.parametrize("taken", ["labels", "annotations"])
async def test_a_pod_that_a_webhook_strips_has_no_second_one_beside_it(
    database_url, tmp_path, world, taken
):
    def strip(plural: str, body: dict[str, Any]) -> None:
        if plural == "pods":
            body["metadata"].pop(taken)

    async def is_held() -> bool:
        _, answer = await service.get("/api/v1/fleet/processors")
        return {row["reason"] for row in answer["processors"]} == {"unrecognised"}

    def looked_for() -> int:
        return sum("fieldSelector=metadata.name" in path for _, path in world.server.requests)

    world.server.admit = strip
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        await desire(connection, 1)
        await eventually(is_held, 30)
        # It is asked for again and again: longer than what we did ourselves counts as seen.
        await eventually(lambda: looked_for() >= 3, 60)
        assert await is_held()
        [pod] = world.server.all("pods")
        world.server.admit = lambda _plural, _body: None
        world.server.remove(("pods", "default", pod["metadata"]["name"]))
        await eventually(lambda: len(ready(world)) == 1, 30)
        assert len(world.server.all("pods")) == 1


async def test_an_edge_node_that_is_deleted_with_its_pods_is_left_at_once(
    database_url, tmp_path, data_dir
):
    """Within a minute Kubernetes removes the pods of a node that is not there any more; a real
    one's program ends with it. The settings are those of production, with which it would wait a
    minute and a half."""
    file = recorders(data_dir, tmp_path, 2)
    quick = ("--checkpoint-interval", "1s", "--health-poll-interval", "500ms")
    async with on_kubernetes(data_dir, database_url, file, *quick) as fleet:
        await eventually(fleet.ready, 60)
        await eventually(lambda: checkpointed(fleet, "one"), 30)
        [home] = [row["node_name"] for name, row in (await fleet.rows()).items() if name == "one"]
        killed_at = time.monotonic()
        fleet.kube.remove_node(home)
        # It has beaten until now: by its silence alone it would be dead after 90 s.
        await eventually(lambda: in_the_cloud(fleet, "one"), 60)
        assert (await lost_since(fleet, "one", killed_at)).seconds <= LOSS_SECONDS_MAX


async def test_another_namespace_is_looked_at_when_a_row_names_it(database_url, tmp_path, world):
    name = f"n{uuid4().hex[:8]}"
    world.server.namespaces.add(name)
    async with (
        connected(database_url) as connection,
        orchestrator(database_url, tmp_path) as service,
    ):
        [key] = await desire(connection, 1)
        await eventually(lambda: len(ready(world)) == 1)
        await connection.execute(
            "UPDATE processors SET k8s_namespace = $2 WHERE id = $1", key, name
        )
        [other] = await desire(connection, 1)
        await connection.execute(
            "UPDATE processors SET k8s_namespace = $2 WHERE id = $1", other, name
        )

        def there() -> bool:
            return any(pod["metadata"]["namespace"] == name for pod in ready(world).values())

        await eventually(there)
        assert await service.is_ready()


async def test_what_a_healed_pod_saves_late_is_not_gone_on_from(database_url, tmp_path, data_dir):
    """Nobody told it to leave without saving: its kubelet ends it, and it saves as it goes."""
    file = recorders(data_dir, tmp_path, 2)
    stays = ("--failback-stable", "30m")
    async with on_kubernetes(data_dir, database_url, file, *SHORT, *stays) as fleet:
        await eventually(fleet.ready, 40)
        await eventually(lambda: counted(fleet, "one", least=COUNTED_MIN), 20)
        await hurt(fleet, "cut-node", "edge-1")
        row = await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        await eventually(lambda: said_of(fleet, "edge-1") >= {"NodeSuspect", "NodeOffline"})
        await eventually(lambda: said_of(fleet, row["pod_name"]) >= {"Failover", "Moved"})
        fleet.kube.gateway.unheard.add("edge-1")
        given = fleet.saved(row)
        await hurt(fleet, "restore-node", "edge-1")
        late = await eventually(lambda: fleet.saved(row) != given and fleet.saved(row), 30)
        assert late["count"] != given["count"]

        # Both have counted alone since the cut. Once it is far beyond what the old one saved, going
        # on from that would cost more than a death may.
        beyond = late["count"] + COUNTED_MIN
        await eventually(lambda: counted(fleet, "one", least=beyond), 40)
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        killed_at = time.monotonic()
        await hurt(fleet, "crash-pod", row["pod_name"])

        async def is_restarted() -> bool:
            now = (await fleet.rows())["one"]
            return bool(now["restart_count"] == 1 and now["state"] == "running")

        await eventually(is_restarted, 30)
        assert (await lost_since(fleet, "one", killed_at)).seconds <= LOSS_SECONDS_MAX


async def test_a_state_that_no_config_map_holds_moves_all_the_same(
    database_url, tmp_path, data_dir
):
    file = recorders(data_dir, tmp_path, 2)
    async with on_kubernetes(data_dir, database_url, file, *SHORT) as fleet:
        fleet.kube.server.config_map_bytes_max = 100
        await eventually(fleet.ready, 40)
        await eventually(lambda: counted(fleet, "one", least=COUNTED_MIN), 20)
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        killed_at = time.monotonic()
        await hurt(fleet, "crash-node", "edge-1")
        row = await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        assert (await lost_since(fleet, "one", killed_at)).seconds <= LOSS_SECONDS_MAX
        assert fleet.saved(row) == {}


async def test_while_the_api_server_is_away_pods_are_asked_as_before(
    database_url, tmp_path, data_dir
):
    """They run on, and so does the database: what a crash costs must not grow with the outage."""
    file = recorders(data_dir, tmp_path, 2)
    async with on_kubernetes(data_dir, database_url, file, *SHORT) as fleet:
        await eventually(fleet.ready, 40)
        await eventually(lambda: counted(fleet, "one", least=COUNTED_MIN), 20)
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        before = await epochs(fleet)
        port = int(fleet.kube.server.url.rsplit(":", 1)[1])
        await fleet.kube.server.stop()

        async def is_told() -> bool:
            return not await fleet.service.is_ready()

        await eventually(is_told, 30)
        [[blind_at]] = await fleet.fetch("SELECT now()")

        async def is_kept(seconds: float) -> bool:
            rows = await fleet.fetch(
                "SELECT p.name FROM orchestrator.checkpoints c"
                " JOIN processors p ON p.id = c.processor_id GROUP BY p.name"
                " HAVING max(c.confirmed_at) > $1",
                blind_at + timedelta(seconds=seconds),
            )
            return {row[0] for row in rows} == {"one", "two"}

        # Three times, each later than three intervals after the one before.
        for number in (1, 2, 3):
            await eventually(lambda: is_kept(number * 3 * INTERVAL_SECONDS), 30)  # noqa: B023
        _, health = await fleet.service.get("/healthz")
        assert health["components"]["kubernetes"]["status"] == "unhealthy"
        assert "2 of 2 pods answered" in health["components"]["health-poller"]["message"]
        await fleet.kube.server.start(port)
        await eventually(fleet.service.is_ready, 30)
        assert await epochs(fleet) == before, "nothing was decided"


async def epochs(fleet: KubernetesFleet) -> list[tuple[Any, ...]]:
    rows = await fleet.fetch(
        "SELECT processor_id, epoch, pod_uid FROM orchestrator.ownership ORDER BY processor_id"
    )
    return [tuple(row) for row in rows]


def said_of(fleet: KubernetesFleet, name: str) -> set[str]:
    """Reasons of the Events on a pod or node."""
    events = fleet.kube.server.all("events")
    return {event["reason"] for event in events if event["involvedObject"]["name"] == name}


async def test_the_story_goes_as_it_is_told(tmp_path):
    """The commands are those that `python -m tests.kube.serve` prints."""
    port = free_port()
    kube = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.kube.serve", str(tmp_path / "kube"), "--port", str(port)),
        cwd=Path(__file__).parents[2],
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert kube.stdout is not None
    try:
        async with asyncio.timeout(patient(40)):
            told = (await kube.stdout.readuntil(b"Ctrl-C")).decode()
        run_words, *story = commands_of(told)
        exported = dict(line.split("=", 1) for line in re.findall(r"export (.*)", told))
        environment = {name: shlex.split(value)[0] for name, value in exported.items()}
        url = f"http://127.0.0.1:{port}"
        async with running(*run_words, environment=environment, url=url) as service:
            look, crash, events, restore = story
            await eventually(lambda: on_edge_1(service, 3), 40)
            assert (await command(*look))[0] == 0
            assert (await command(*crash))[0] == 0
            await eventually(lambda: on_edge_1(service, 0), NOTICED_SECONDS)
            assert (await command(*restore))[0] == 0
            await eventually(lambda: on_edge_1(service, 3), 60)
            code, out, _ = await command(*events)
            assert code == 0
            assert out.count("failback from cloud-") == 3, out
    finally:
        kube.send_signal(signal.SIGINT)
        await asyncio.wait_for(kube.wait(), 30)


async def test_what_is_tried_on_real_clusters_works_here(database_url, tmp_path, monkeypatch):
    """`tests/e2e`, on the double: it shall be right when it is needed."""
    server = ApiServer(token="t")
    server.namespaces.add("default")
    there_before = set(server.objects)
    plane = ControlPlane(server, lease_seconds=5.0, kubelets=False)
    await server.start()
    watching_nodes = asyncio.create_task(plane.watch_nodes())
    try:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(server.kubeconfig())
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        await create_roll_fail_over_and_back(database_url, tmp_path)
        left = {key for key in server.objects if key[0] != "events" or key[1] != "default"}
        assert left == there_before
    finally:
        watching_nodes.cancel()
        await server.stop()


def commands_of(told: str) -> list[list[str]]:
    """What follows `dory-orchestrator` on each line, or several that belong together."""
    lines = [line.strip() for line in told.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("dory-orchestrator ")]


async def on_edge_1(service: RealService, count: int) -> bool:
    """Whether all run, and so many of them there."""
    status, answer = await service.get("/api/v1/fleet/processors?limit=1000")
    rows = answer["processors"] if status == 200 else []
    assert len(rows) in (0, 8)
    there = [row for row in rows if row["node_name"] == "edge-1"]
    return bool(rows) and len(there) == count and all(row["state"] == "running" for row in rows)
