"""Edge nodes die and come back: real processors, a real PostgreSQL, things killed and cut."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.acceptance.history import LATE_SECONDS, lost_since, recorded
from tests.acceptance.on_kubernetes import on_kubernetes
from tests.acceptance.real import eventually
from tests.acceptance.test_fleet import Fleet, command, dev, fleet_file, records_folder

from dory_orchestrator.cluster.local.client import LocalCluster

pytestmark = pytest.mark.timeout(180)

BEAT_SECONDS = 1.0
STALE_SECONDS, GRACE_SECONDS, STABLE_SECONDS, INTERVAL_SECONDS = 3.0, 3.0, 2.0, 1.0
SHORT = (
    *("--heartbeat-stale", f"{STALE_SECONDS:g}s"),
    *("--node-failure-grace", f"{GRACE_SECONDS:g}s"),
    *("--failback-stable", f"{STABLE_SECONDS:g}s"),
    *("--health-poll-interval", "500ms"),
    *("--checkpoint-interval", f"{INTERVAL_SECONDS:g}s"),
)
STEADY = (*SHORT, "--heartbeat-stale", "10m", "--node-failure-grace", "10m")
"""For tests in which no node dies: none is to pass for dead because the machine is slow."""
THRESHOLDS = STALE_SECONDS + GRACE_SECONDS
LOSS_SECONDS_MAX = INTERVAL_SECONDS + LATE_SECONDS
"""What a death may cost: what was counted since the last checkpoint."""
COUNTED_MIN = 10 * int(LOSS_SECONDS_MAX) + 10
"""More than a death may cost, so that a lost state is seen."""
NOTICED_SECONDS = 30.0
"""The longest from a kill to a move, on a busy machine: the node's lease, the grace, the move."""

NAMES = ("one", "two", "three", "four", "five", "six")


def fleet_yaml(count: int, records: Path) -> str:
    """So many edge nodes with a program on each that writes down what it counts, and two
    application nodes."""
    homes = [f"edge-{number}" for number in range(1, count + 1)]
    lines = [
        "organization: example",
        "nodes:",
        *(f"  - {{name: {home}, kind: edge}}" for home in homes),
        "  - {name: cloud-1, kind: application}",
        "  - {name: cloud-2, kind: application}",
        "templates:",
        "  - slug: recorder",
        "    version: 1.0.0",
        "    command: [python, recorder.py]",
        "    env:",
        "      DORY_SHUTDOWN_TIMEOUT_SEC: 5",
        '      OTEL_CONSOLE_EXPORT: "false"',
        f"      RECORD_FOLDER: {records}",
        "processors:",
        *(
            f"  - {{name: {name}, template: recorder, node: {home}}}"
            for name, home in zip(NAMES, homes, strict=False)
        ),
    ]
    return "\n".join(lines)


TABLES = (
    *("public.processors", "public.edge_nodes", "public.edge_node_apps"),
    *("orchestrator.ownership", "orchestrator.moves", "orchestrator.checkpoints"),
    *("orchestrator.incarnations", "orchestrator.node_health", "orchestrator.brake"),
    # Else the rows would name the pod of now beside the epoch of then, until the next cycle.
    "orchestrator.processor_states",
)
BACKUP = "CREATE SCHEMA backup;" + "".join(
    f"CREATE TABLE backup.{name.replace('.', '_')} AS SELECT * FROM {name};" for name in TABLES
)
RESTORE = "\n".join(
    [
        "BEGIN;",
        # What is written back is not what was accepted.
        "ALTER TABLE orchestrator.checkpoints DISABLE TRIGGER note_checkpoint;",
        *(
            f"DELETE FROM {name};"
            f"INSERT INTO {name} OVERRIDING SYSTEM VALUE"
            f" SELECT * FROM backup.{name.replace('.', '_')};"
            for name in TABLES
        ),
        "ALTER TABLE orchestrator.checkpoints ENABLE TRIGGER note_checkpoint;",
        "COMMIT;",
    ]
)


def recorders(data_dir: Path, tmp_path: Path, count: int) -> Path:
    """A fleet file; its programs beat often, and write down what they count."""
    records = records_folder(data_dir)
    records.mkdir()
    file = fleet_file(tmp_path / "fleet", fleet_yaml=fleet_yaml(count, records))
    beats = file.parent / "heartbeats.py"
    beats.write_text(beats.read_text().replace("interval_sec=5.0", f"interval_sec={BEAT_SECONDS}"))
    return file


@asynccontextmanager
async def edge_fleet(
    data_dir: Path,
    tmp_path: Path,
    count: int = 3,
    *arguments: str,
    database_of_run: str | None = None,
) -> AsyncIterator[Fleet]:
    """Programs that count, at home. What happens to them is looked at, and judged at the end by
    what they wrote down. `arguments` in place of SHORT."""
    file = recorders(data_dir, tmp_path, count)
    arguments = arguments or SHORT
    if database_of_run is None:
        started = dev(data_dir, "--fleet", str(file), *arguments)
    else:
        started = on_kubernetes(data_dir, database_of_run, file, *arguments)
    async with started as fleet:
        await eventually(fleet.ready, 40)
        async with recorded(fleet):
            await eventually(lambda: counted(fleet, "one", least=COUNTED_MIN), 30)
            await eventually(lambda: has_beaten(fleet, count), 20)
            yield fleet


async def has_beaten(fleet: Fleet, nodes: int) -> bool:
    rows = await fleet.fetch("SELECT last_heartbeat_at FROM edge_nodes")
    return sum(row[0] is not None for row in rows) == nodes


async def count_of(fleet: Fleet, name: str) -> int:
    row = (await fleet.rows())[name]
    return int((await fleet.state(row))["count"])


async def counted(fleet: Fleet, name: str, *, least: int) -> bool:
    return await count_of(fleet, name) >= least


async def checkpointed(fleet: Fleet, name: str) -> bool:
    """Whether its newest checkpoint is younger than an interval and a half."""
    rows = await fleet.fetch(
        "SELECT extract(epoch FROM now() - max(c.confirmed_at))::float8"
        " FROM orchestrator.checkpoints c JOIN processors p ON p.id = c.processor_id"
        " WHERE p.name = $1",
        name,
    )
    return rows[0][0] is not None and rows[0][0] < 1.5 * INTERVAL_SECONDS


async def hurt(fleet: Fleet, what: str, name: str) -> None:
    """As `dory-orchestrator local` does, at once: a command takes seconds to begin on a busy
    machine, and what is to happen at a moment would happen later."""
    if what == "cut-node":
        now, rows = time.monotonic(), (await fleet.rows()).values()
        fleet.given_up |= {row["pod_name"]: now for row in rows if row["node_name"] == name}
    cluster = LocalCluster(fleet.data_dir)
    try:
        await getattr(cluster, what.replace("-", "_"))(name)
    finally:
        await cluster.close()


async def lives_on(fleet: Fleet, name: str, *nodes: str) -> dict[str, Any]:
    """Its row, once it runs on one of these nodes and no move of it is open."""
    row = (await fleet.rows()).get(name, {})
    if row.get("node_name") not in nodes or row.get("state") != "running":
        return {}
    moves = await fleet.fetch("SELECT 1 FROM orchestrator.moves WHERE ended_at IS NULL")
    return {} if moves else row


async def in_the_cloud(fleet: Fleet, name: str) -> dict[str, Any]:
    return await lives_on(fleet, name, "cloud-1", "cloud-2")


async def moves(fleet: Fleet) -> list[tuple[str, str, str]]:
    rows = await fleet.fetch("SELECT kind, from_node, outcome FROM orchestrator.moves ORDER BY id")
    return [tuple(row) for row in rows]


async def test_a_crashed_node_costs_an_interval_of_state_and_gets_it_back(
    data_dir, tmp_path, database_of_run
):
    async with edge_fleet(data_dir, tmp_path, database_of_run=database_of_run) as fleet:
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        killed_at = time.monotonic()
        await hurt(fleet, "crash-node", "edge-1")
        row = await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        took = time.monotonic() - killed_at
        (measured,) = await fleet.fetch(
            "SELECT rto_seconds, rpo_seconds FROM orchestrator.moves WHERE outcome = 'done'"
        )
        assert 0 < measured["rto_seconds"] <= took + INTERVAL_SECONDS + 5
        assert 0 <= measured["rpo_seconds"] <= INTERVAL_SECONDS
        assert (await lost_since(fleet, "one", killed_at)).seconds <= LOSS_SECONDS_MAX
        assert row["epoch"] == 2

        restored_at = time.monotonic()
        await hurt(fleet, "restore-node", "edge-1")
        await eventually(lambda: lives_on(fleet, "one", "edge-1"), 40)
        # A planned move loses nothing.
        assert (await lost_since(fleet, "one", restored_at)).lost == 0
        assert await moves(fleet) == [
            ("failover", "edge-1", "done"),
            ("failback", row["node_name"], "done"),
        ]


async def test_a_cut_node_s_old_pod_is_told_to_end_and_its_late_save_loses(
    data_dir, tmp_path, database_of_run
):
    async with edge_fleet(data_dir, tmp_path, database_of_run=database_of_run) as fleet:
        old = (await fleet.rows())["one"]["pod_name"]
        process = fleet.processes()[old]
        await hurt(fleet, "cut-node", "edge-1")
        await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        assert process.is_running()  # nobody reached it
        # It saves, late, what it has counted alone: into the very place where states are.
        process.send_signal(signal.SIGUSR1)
        beat = {"processor_id": (await fleet.rows())["one"]["id"], "node_id": "edge-1"}
        answer = await fleet.service.beat(**beat, status="healthy")
        assert answer["directive"] == "shutdown"
        assert (await fleet.service.beat(**beat | {"node_id": "cloud-1"}))["directive"] == (
            "continue"
        )
        restored_at = time.monotonic()
        await hurt(fleet, "restore-node", "edge-1")
        await eventually(lambda: lives_on(fleet, "one", "edge-1"), 40)
        await eventually(lambda: not process.is_running(), 20)
        assert (await lost_since(fleet, "one", restored_at)).lost == 0


async def test_a_container_restarted_in_place_goes_on_from_its_checkpoint(
    data_dir, tmp_path, database_of_run
):
    async with edge_fleet(data_dir, tmp_path, 3, *STEADY, database_of_run=database_of_run) as fleet:
        await eventually(lambda: checkpointed(fleet, "two"), 10)
        row = (await fleet.rows())["two"]
        killed_at = time.monotonic()
        await hurt(fleet, "crash-pod", row["pod_name"])

        async def goes_on() -> bool:
            now = (await fleet.rows())["two"]
            return bool(now["restart_count"] == 1 and now["state"] == "running")

        await eventually(goes_on, 30)
        assert (await lost_since(fleet, "two", killed_at)).seconds <= LOSS_SECONDS_MAX
        assert (await fleet.rows())["two"]["pod_uid"] == row["pod_uid"]


async def test_the_second_home_dies_too(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path) as fleet:
        await hurt(fleet, "crash-node", "edge-1")
        row = await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        killed_at = time.monotonic()
        await hurt(fleet, "crash-node", row["node_name"])
        (other,) = {"cloud-1", "cloud-2"} - {row["node_name"]}
        await eventually(lambda: lives_on(fleet, "one", other), NOTICED_SECONDS)
        assert (await lost_since(fleet, "one", killed_at)).seconds <= LOSS_SECONDS_MAX


async def test_two_thirds_cut_at_once_move_nothing_until_overridden(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path, 6) as fleet:
        pods = await fleet.pods()
        await asyncio.gather(*(hurt(fleet, "cut-node", f"edge-{n}") for n in range(1, 5)))
        await eventually(lambda: is_told(fleet, "brake", "engaged"), NOTICED_SECONDS)
        await asyncio.sleep(2 * THRESHOLDS)
        assert await fleet.pods() == pods
        assert await moves(fleet) == []
        code, out, err = await command(
            *("brake", "override", "--for", "10m", "--reason", "it is the site", "--yes"),
            *("--url", fleet.service.url),
        )
        assert code == 0, out + err
        for name in NAMES[:4]:
            await eventually(partial(in_the_cloud, fleet, name), NOTICED_SECONDS)
        now = await fleet.pods()
        assert {name: now[name] for name in NAMES[4:]} == {name: pods[name] for name in NAMES[4:]}


async def is_told(fleet: Fleet, kind: str, reason: str) -> bool:
    return any(event["reason"] == reason for event in await fleet.events(kind=kind))


async def test_a_frozen_database_moves_nothing(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path) as fleet:
        pods = await fleet.pods()
        pid = int((Path(await data_folder(fleet)) / "postmaster.pid").read_text().split()[0])
        frozen = [pid, *children_of(pid)]
        for each in frozen:
            send(each, signal.SIGSTOP)
        await asyncio.sleep(3 * THRESHOLDS)
        for each in frozen:
            send(each, signal.SIGCONT)
        await eventually(fleet.service.is_ready, 20)
        await asyncio.sleep(THRESHOLDS)
        assert await fleet.pods() == pods
        assert await moves(fleet) == []


async def test_a_node_that_died_while_nobody_watched_is_found(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path) as fleet:
        pods = await fleet.pods()
        frozen = [*fleet.service.children("api"), *fleet.service.children("control")]
        for process in frozen:
            process.suspend()
        await asyncio.sleep(THRESHOLDS)
        await hurt(fleet, "crash-node", "edge-1")
        await asyncio.sleep(2 * THRESHOLDS)
        for process in frozen:
            process.resume()
        await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        now = await fleet.pods()
        assert {name: now[name] for name in ("two", "three")} == {
            name: pods[name] for name in ("two", "three")
        }


async def test_one_third_cut_at_once_moves(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path, 6) as fleet:
        pods = await fleet.pods()
        for node in ("edge-2", "edge-5"):
            await hurt(fleet, "cut-node", node)
        for name in ("two", "five"):
            await eventually(partial(in_the_cloud, fleet, name), NOTICED_SECONDS)
        now = await fleet.pods()
        assert all(now[name] == pods[name] for name in ("one", "three", "four", "six"))
        assert not await is_told(fleet, "brake", "engaged")


async def test_a_node_that_crashes_while_its_processor_comes_home(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path) as fleet:
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        await hurt(fleet, "crash-node", "edge-1")
        await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        restored_at = time.monotonic()
        await hurt(fleet, "restore-node", "edge-1")
        await eventually(lambda: open_moves(fleet), 40, 0.01)
        await hurt(fleet, "crash-node", "edge-1")
        await eventually(lambda: in_the_cloud(fleet, "one"), 2 * NOTICED_SECONDS)
        # It may have worked at home for a moment: that is what may be lost.
        assert (await lost_since(fleet, "one", restored_at)).seconds <= LOSS_SECONDS_MAX
        ended = await moves(fleet)
        assert ended[0] == ("failover", "edge-1", "done")
        assert ended[1][0] == "failback"
        assert len([process for process in fleet.processes().values() if still_runs(process)]) == 3


def still_runs(process: psutil.Process) -> bool:
    """Whether it runs: it may have ended and not be waited for yet."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("step", ["granted", "created", "going_home"])
async def test_the_orchestrator_is_killed_in_the_middle_of_a_move(data_dir, tmp_path, step):
    async with edge_fleet(data_dir, tmp_path) as fleet:
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        began_at = time.monotonic()
        await hurt(fleet, "crash-node", "edge-1")
        if step == "going_home":
            await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
            await eventually(lambda: checkpointed(fleet, "one"), 10)
            began_at = time.monotonic()
            await hurt(fleet, "restore-node", "edge-1")
        await eventually(lambda: open_moves(fleet), NOTICED_SECONDS, 0.01)
        if step == "created":
            await eventually(lambda: replacement_of(fleet, "one"), 10, 0.01)
        (control,) = fleet.service.children("control")
        control.kill()
        home = ("edge-1",) if step == "going_home" else ("cloud-1", "cloud-2")
        await eventually(lambda: lives_on(fleet, "one", *home), NOTICED_SECONDS)
        loss = await lost_since(fleet, "one", began_at)
        if step == "going_home":
            assert loss.lost == 0
        assert loss.seconds <= LOSS_SECONDS_MAX
        kinds = [kind for kind, _, outcome in await moves(fleet) if outcome == "done"]
        assert kinds == ["failover", "failback"][: len(kinds)]


async def replacement_of(fleet: Fleet, name: str) -> list[Any]:
    """The pod of its second epoch, once the store knows it."""
    return await fleet.fetch(
        "SELECT 1 FROM orchestrator.ownership o JOIN processors p ON p.id = o.processor_id"
        " WHERE p.name = $1 AND o.epoch = 2 AND o.pod_uid IS NOT NULL",
        name,
    )


async def test_a_database_restored_from_before_a_failover(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path) as fleet:
        await eventually(lambda: checkpointed(fleet, "one"), 10)
        await fleet.execute(BACKUP)
        await hurt(fleet, "crash-node", "edge-1")
        row = await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        before = await fleet.pods()
        key = row["id"]
        lives = fleet.record(key).incarnations
        await eventually(lambda: checkpointed(fleet, "one"), 10)

        restored_at = time.monotonic()
        await fleet.execute(RESTORE)
        await eventually(lambda: is_frozen(fleet, 1), 20)
        await asyncio.sleep(2 * THRESHOLDS)
        pods = fleet.processes()
        assert await is_frozen(fleet, 1)
        assert row["pod_name"] in pods
        assert len([process for process in pods.values() if still_runs(process)]) == 3

        code, out, err = await command(
            *("guard", "adopt", "--all", "--yes", "--url", fleet.service.url)
        )
        assert code == 0, out + err
        await eventually(lambda: in_the_cloud(fleet, "one"), 20)
        assert await fleet.pods() == before
        assert fleet.record(key).incarnations == lives
        assert fleet.record(key).losses(restored_at) == []
        await hurt(fleet, "restore-node", "edge-1")
        await eventually(lambda: lives_on(fleet, "one", "edge-1"), 40)
        assert (await lost_since(fleet, "one", restored_at)).lost == 0


async def test_a_decommissioned_node_is_left_with_its_state_and_gets_no_work(data_dir, tmp_path):
    async with edge_fleet(data_dir, tmp_path) as fleet:
        began_at = time.monotonic()
        status, answer = await fleet.service.post(
            "/api/v1/edge/nodes/decommission", {"node_name": "edge-1"}
        )
        assert (status, answer["apps_stopped"]) == (200, 1)
        row = await eventually(lambda: in_the_cloud(fleet, "one"), NOTICED_SECONDS)
        assert (await lost_since(fleet, "one", began_at)).lost == 0
        assert await moves(fleet) == [("departure", "edge-1", "done")]
        code, out, err = await command("nodes", "--url", fleet.service.url)
        assert code == 0, err
        assert "decommissioned" in next(line for line in out.splitlines() if "edge-1" in line)

        # It registers anew, and gets nothing back until an operator wants it to.
        ((organization,),) = await fleet.fetch(
            "SELECT organization_id::text FROM edge_nodes WHERE name = 'edge-1'"
        )
        node = {"name": "edge-1", "organization_id": organization}
        status, answer = await fleet.service.post("/api/v1/edge/nodes", node)
        assert (status, answer["status"]) == (201, "online"), answer
        await asyncio.sleep(2 * STABLE_SECONDS)
        assert (await fleet.rows())["one"]["pod_uid"] == row["pod_uid"]
        began_at = time.monotonic()
        code, out, err = await command("uncordon", "edge-1", "--url", fleet.service.url)
        assert code == 0, out + err
        await eventually(lambda: lives_on(fleet, "one", "edge-1"), 40)
        assert (await lost_since(fleet, "one", began_at)).lost == 0


async def is_frozen(fleet: Fleet, count: int) -> bool:
    _, guard = await fleet.service.get("/api/v1/fleet/guard")
    return bool(guard["frozen_count"] == count)


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


async def open_moves(fleet: Fleet) -> list[Any]:
    return await fleet.fetch("SELECT 1 FROM orchestrator.moves WHERE ended_at IS NULL")


async def data_folder(fleet: Fleet) -> str:
    ((folder,),) = await fleet.fetch("SHOW data_directory")
    return str(folder)
