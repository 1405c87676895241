"""A fleet at work: real processors, built with the published library, on the local cluster."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from tests.acceptance.real import (
    COMMAND,
    RealService,
    clean_environment,
    eventually,
    is_gone,
    running,
)
from tests.acceptance.record import Record
from tests.contract.worlds import connected
from tests.patience import patient

from dory_orchestrator.settings import Settings

pytestmark = pytest.mark.timeout(120)

EXAMPLES = Path(__file__).parents[2] / "examples"
RECORDER = Path(__file__).parent / "recorder.py"
RUNNING = "/api/v1/fleet/processors?limit=1000"


class Fleet:
    """A running `dev`, its database, and its pods."""

    def __init__(self, service: RealService, data_dir: Path, database_url: str) -> None:
        self.service = service
        self.data_dir = data_dir
        self.database_url = database_url
        self.given_up: dict[str, float] = {}
        """When pods were cut off that nobody could end. What they counted since was nobody's."""

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Processors of the fleet API by name, or id when they have none."""
        status, answer = await self.service.get(RUNNING)
        assert status == 200, answer
        return {row["name"] or row["id"]: row for row in answer["processors"]}

    async def ready(self) -> dict[str, dict[str, Any]]:
        """The rows, once all desired are running."""
        rows = await self.rows()
        wanted = [row for row in rows.values() if row["status"] is not None]
        all_run = wanted and all(row["state"] == "running" for row in wanted)
        return rows if all_run else {}

    async def pods(self) -> dict[str, str]:
        """Uids of the running pods by processor."""
        return {name: row["pod_uid"] for name, row in (await self.rows()).items()}

    async def execute(self, statement: str, *arguments: object) -> None:
        async with connected(self.database_url) as connection:
            await connection.execute(statement, *arguments)

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        async with connected(self.database_url) as connection:
            return await connection.fetch(statement, *arguments)

    async def state(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the pod of a row says its state is."""
        token = (self.data_dir / "state-token").read_text()
        url = f"http://{row['pod_ip']}:8080/state"
        headers = {"Authorization": f"Bearer {token}"}
        async with self.service.http.get(url, headers=headers) as answer:
            content = await answer.json()
            assert answer.status == 200, content
            return dict(content["data"])

    def processes(self) -> dict[str, psutil.Process]:
        """The programs of this fleet's pods, by pod name: whoever is their parent."""
        return {
            environment["DORY_POD_NAME"]: process
            for process in psutil.process_iter()
            if (environment := environment_of(process)).get("DORY_POD_NAME")
            and str(self.data_dir) in environment.values()
        }

    def record(self, processor_id: str) -> Record:
        """What the program of a processor wrote down itself (`recorder.py`)."""
        record = Record.read(records_folder(self.data_dir) / processor_id)
        for pod, moment in self.given_up.items():
            record = record.without(pod, since=moment)
        return record

    async def events(self, **filters: str) -> list[dict[str, Any]]:
        query = "&".join(f"{key}={value}" for key, value in filters.items())
        _, answer = await self.service.get(f"/api/v1/fleet/events?limit=1000&{query}")
        return list(answer["events"])


def records_folder(data_dir: Path) -> Path:
    """Beside a data directory: nothing of the orchestrator's knows it."""
    return data_dir.parent / "records"


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return {} if is_gone(process) else process.environ()
    except psutil.Error:
        return {}


@asynccontextmanager
async def dev(data_dir: Path, *arguments: str) -> AsyncIterator[Fleet]:
    async with running(
        *("dev", "--data-dir", str(data_dir), "--port", "0", "--log-format", "json"),
        *arguments,
        ready=False,
    ) as service:
        yield await up(service, data_dir)


async def up(service: RealService, data_dir: Path) -> Fleet:
    def told() -> list[dict[str, Any]]:
        assert service.process.returncode is None, service.log()
        return service.events("everything is up")

    (line,) = await eventually(told, 120)
    service.url = line["http"]
    endpoints = json.loads((data_dir / "endpoints.json").read_text())
    return Fleet(service, data_dir, endpoints["database"])


async def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment() | environment,
    )
    async with asyncio.timeout(patient(30)):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def fleet_file(folder: Path, **files: str) -> Path:
    """A folder with a fleet file and the programs of the examples."""
    folder.mkdir(exist_ok=True)
    for program in (*EXAMPLES.glob("*.py"), RECORDER):
        shutil.copy(program, folder)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder / "fleet.yaml"


COUNTERS = """
processors:
  - name: counter
    command: [python, counter.py]
    replicas: 3
"""


def recorders(data_dir: Path, tmp_path: Path) -> Path:
    """The fleet file of as many programs that write down what they count."""
    records = records_folder(data_dir)
    records.mkdir()
    text = COUNTERS.replace("counter.py]", f"recorder.py]\n    env: {{RECORD_FOLDER: {records}}}")
    return fleet_file(tmp_path / "mine", fleet_yaml=text)


async def test_the_example_comes_up_and_follows_the_database(data_dir: Path) -> None:
    async with dev(data_dir) as fleet:
        rows = await eventually(fleet.ready, 30)
        assert len(rows) == 8
        await eventually(lambda: said(fleet, "fleet: all 8 processors are ready"))
        assert {row["node_name"] for row in rows.values()} <= {
            *("edge-1", "edge-2", "cloud-1", "cloud-2")
        }
        _, health = await fleet.service.get("/readyz")
        assert set(health["components"]) == {"database", "kubernetes"}
        shown = await fleet.fetch("SELECT id, pod_name, pod_ip, node_name FROM processors")
        assert {(str(r["id"]), r["pod_name"], r["pod_ip"], r["node_name"]) for r in shown} == {
            (r["id"], r["pod_name"], r["pod_ip"], r["node_name"]) for r in rows.values()
        }

        # They beat, as edge pods do, through the node's uplink.
        heartbeats = "SELECT count(*) FROM edge_nodes WHERE last_heartbeat_at IS NOT NULL"
        await eventually(lambda: has(fleet, heartbeats, 2))

        # Not desired any more: gone, with its process; the others are not touched.
        victim = rows.pop("counter-lagos")
        asked_at = time.monotonic()
        terminate = "UPDATE processors SET status = 'terminated' WHERE id = $1"
        await fleet.execute(terminate, UUID(victim["id"]))
        await eventually(lambda: victim["pod_name"] not in fleet.processes())
        assert time.monotonic() - asked_at < Settings().poll_interval, "it was told"
        pods = await fleet.pods()
        assert {name: pods[name] for name in rows} == {n: r["pod_uid"] for n, r in rows.items()}

        # Desired again: back, with the state that it saved when it was stopped.
        await fleet.execute(
            "UPDATE processors SET status = 'pending' WHERE id = $1", UUID(victim["id"])
        )
        again = (await eventually(fleet.ready))["counter-lagos"]
        assert again["pod_uid"] != victim["pod_uid"]
        assert (again["epoch"], again["node_name"]) == (2, victim["node_name"])

    assert not fleet.processes()
    assert not await leftovers(data_dir)


def said(fleet: Fleet, start: str) -> bool:
    return any(line["event"].startswith(start) for line in fleet.service.log())


async def has(fleet: Fleet, statement: str, count: int) -> bool:
    (row,) = await fleet.fetch(statement)
    return bool(row[0] == count)


async def leftovers(data_dir: Path) -> list[psutil.Process]:
    """Processes that know the data directory, once there is no reason for any."""
    known = str(data_dir)

    def found() -> list[psutil.Process]:
        processes = [p for p in psutil.process_iter() if known in environment_of(p).values()]
        for process in psutil.process_iter():
            try:
                if any(known in word for word in process.cmdline()):
                    processes.append(process)
            except psutil.Error:
                continue
        return [process for process in processes if not is_gone(process)]

    try:
        await eventually(lambda: not found(), 5)
    except TimeoutError:
        return found()
    return []


async def test_a_new_version_rolls_through_step_by_step_with_its_state(data_dir, tmp_path):
    file = recorders(data_dir, tmp_path)
    async with dev(data_dir, "--fleet", str(file)) as fleet:
        before = await eventually(fleet.ready, 30)
        await new_version(fleet, "2.0")
        least_running = 3

        async def rolled() -> bool:
            nonlocal least_running
            rows = await fleet.rows()
            running_rows = [row for row in rows.values() if row["state"] == "running"]
            least_running = min(least_running, len(running_rows))
            uids = {row["pod_uid"] for row in running_rows}
            return len(uids - {row["pod_uid"] for row in before.values()}) == 3

        await eventually(rolled, 40)
        assert least_running >= 2  # one at a time
        after = await eventually(fleet.ready)
        for row in after.values():
            # Each saved its state when it was stopped, and goes on from there.
            await eventually(partial(began_with_all, fleet, row))
            environment = fleet.processes()[row["pod_name"]].environ()
            assert environment["DORY_APP_VERSION"] == "2.0"
            assert environment["RESTART_REASON"] == "changed"
            assert environment["RESTART_COUNT"] == "0"

        # One that cannot start stops the rollout after two, and leaves the third alone.
        await fleet.execute(
            "UPDATE processor_template_versions SET runtime_config_template ="
            " jsonb_set(runtime_config_template, '{container,command}',"
            ' \'["python", "-c", "import time; time.sleep(0.5); raise SystemExit(3)"]\') WHERE is_active'
        )

        async def stopped() -> bool:
            return bool(
                [r for r in (await fleet.rows()).values() if r["reason"] == "rollout_stopped"]
            )

        await eventually(stopped, 60)
        (event,) = await fleet.events(kind="rollout")
        assert event["reason"] == "rollout_stopped"
        rows = await fleet.rows()
        assert sum(row["state"] == "running" for row in rows.values()) == 1

        # What failed is created anew with back-off, and told why.
        async def told() -> bool:
            return any(
                environment.get("PREVIOUS_EXIT_CODE") == "3"
                for process in fleet.processes().values()
                if (environment := environment_of(process))
            )

        await eventually(told, 40)
        assert await fleet.events(kind="failure")
        assert len(await fleet.events(kind="rollout")) == 1

        # A version that works again mends all.
        await new_version(fleet, "3.0", command='["python", "counter.py"]')
        await eventually(fleet.ready, 60)


def began_with_all(fleet: Fleet, row: dict[str, Any]) -> bool:
    """Whether the pod of a row has begun to count, and from the last count of the one before it."""
    losses = fleet.record(row["id"]).losses()
    starts = [each for each in losses if each.after.pod == row["pod_name"] != each.before.pod]
    return bool(starts) and starts[0].lost == 0


async def new_version(fleet: Fleet, version: str, command: str | None = None) -> None:
    """Activate a new version of the only template, as the portal does: in one transaction."""
    async with connected(fleet.database_url) as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO processor_template_versions (processor_template_id, version, image_uri,"
            " is_active, runtime_config_template) SELECT processor_template_id, $1, image_uri,"
            " false, CASE WHEN $2::text IS NULL THEN runtime_config_template ELSE"
            " jsonb_set(runtime_config_template, '{container,command}', $2::text::jsonb) END"
            " FROM processor_template_versions WHERE is_active",
            version,
            command,
        )
        await connection.execute(
            "UPDATE processor_template_versions SET is_active = (version = $1)", version
        )


async def test_nothing_is_deleted_until_it_is_confirmed(data_dir, tmp_path):
    file = fleet_file(tmp_path / "mine", fleet_yaml=COUNTERS)
    async with dev(data_dir, "--fleet", str(file)) as fleet:
        before = await eventually(fleet.ready, 30)
        uids = {row["pod_uid"] for row in before.values()}
        await fleet.execute("DELETE FROM processors")

        async def held() -> bool:
            _, guard = await fleet.service.get("/api/v1/fleet/guard")
            return bool(guard["held"] and guard["processors_count"] == 3)

        await eventually(held)
        assert fleet.service.events(
            "the deletion guard holds: put the rows back, and it lets go by itself;"
            " or confirm: dory-orchestrator guard confirm"
        )

        async def counted() -> bool:
            return await fleet.service.metric("dory_deletion_guard_held_pods") == 3

        await eventually(counted)
        assert {row["pod_uid"] for row in (await fleet.rows()).values()} == uids
        for row in before.values():
            beat = await fleet.service.beat(processor_id=row["id"], node_id=row["node_name"])
            assert beat["directive"] == "continue"

        url = fleet.service.url
        code, out, _ = await command("guard", "status", "--url", url)
        assert code == 0
        assert "held" in out
        code, _, err = await command("guard", "confirm", "--yes", "--url", url)
        assert code == 0, err
        await eventually(lambda: not fleet.processes(), 20)

        async def told_to_end() -> bool:
            """Once the leader has seen that the pods are gone, nothing is undecided any more."""
            beats = [
                await fleet.service.beat(processor_id=row["id"], node_id=row["node_name"])
                for row in before.values()
            ]
            return all(beat["directive"] == "shutdown" for beat in beats)

        await eventually(told_to_end)


@pytest.mark.timeout(400)  # five starts of `dev`, each of which may take its limit
async def test_a_deleted_fleet_is_put_back_from_its_file(data_dir, tmp_path):
    """Beside a running `dev`, and at its next start: nothing is lost by a mistake."""
    file = fleet_file(tmp_path / "mine", fleet_yaml=COUNTERS)

    async def counts(fleet: Fleet, rows: dict[str, dict[str, Any]]) -> dict[str, int]:
        return {name: (await fleet.state(row))["count"] for name, row in rows.items()}

    async def holds(fleet: Fleet) -> bool:
        _, guard = await fleet.service.get("/api/v1/fleet/guard")
        return bool(guard["held"])

    async with dev(data_dir, "--fleet", str(file)) as fleet:
        before = await eventually(fleet.ready, 30)
        counted = await counts(fleet, before)
        await fleet.execute("DELETE FROM processors")
        await eventually(lambda: holds(fleet))
        # What runs on is called as before, and is found by its name.
        assert set(await fleet.rows()) == set(before)
        url = fleet.service.url
        code, said, err = await command("guard", "status", "--url", url)
        assert (code, err) == (0, "")
        assert all(name in said for name in before)
        assert "put the rows back" in said
        for asked in (("processor", "counter-1"), ("explain", "processor", "counter-1")):
            code, said, err = await command(*asked, "--url", url)
            assert (code, err, "counter-1" in said) == (0, "", True)
        assert "counter-1" in {event["processor_name"] for event in await fleet.events()}
        code, said, err = await command("summary", "--url", url)
        assert "3 pods run on, 0 desired" in " ".join(said.split())

        code, said, err = await command("fleet", "apply", str(file), *at(data_dir))
        assert (code, err) == (0, "")
        assert "3 new, 0 changed, 0 ended" in said

        async def let_go() -> bool:
            return not await holds(fleet)

        await eventually(let_go)
        after = await eventually(fleet.ready)
        for name, row in after.items():
            same = ("id", "pod_uid", "epoch", "restart_count")
            assert [row[key] for key in same] == [before[name][key] for key in same]
        now = await counts(fleet, after)
        assert all(now[name] >= counted[name] for name in counted)
        assert [event["reason"] for event in await fleet.events(kind="guard")] == [
            *("released", "held")
        ]
        await fleet.execute("DELETE FROM processors")
        await eventually(lambda: holds(fleet))

    # A mistake in the file keeps nothing from starting, and is said by file and line.
    good = file.read_text()
    file.write_text(good.replace("command:", "comand:"))
    async with dev(data_dir, "--fleet", str(file)) as fleet:
        told = fleet.service.events("the fleet file cannot be applied")
        assert f"{file}:4: processors[0].comand" in told[0]["problem"]
        assert not any("PostgreSQL" in line["event"] for line in fleet.service.events("error"))
        assert await fleet.rows() == {}

        file.write_text(good)
        code, _, err = await command("fleet", "apply", str(file), *at(data_dir))
        assert (code, err) == (0, "")
        again = await counts(fleet, await eventually(fleet.ready, 30))
        assert all(again[name] >= now[name] for name in now)
        now = again
        await fleet.execute("DELETE FROM processors")
        await eventually(lambda: holds(fleet))

    async with dev(data_dir, "--fleet", str(file)) as fleet:
        again = await counts(fleet, await eventually(fleet.ready, 30))
        assert all(again[name] >= now[name] for name in now)
        assert not await holds(fleet)
        # What only the database refuses is the file's fault too.
        await fleet.execute(
            "UPDATE processors SET organization_id = gen_random_uuid() WHERE name = 'counter-1'"
        )
        code, _, err = await command("fleet", "apply", str(file), *at(data_dir))
        assert code == 1
        assert f"{file}: cannot be applied: processor counter-1: the id" in err

    async with dev(data_dir, "--fleet", str(file)) as fleet:
        (refused,) = fleet.service.events("the fleet file cannot be applied")
        assert "processor counter-1: the id" in refused["problem"]
        assert await eventually(fleet.ready, 30)


async def test_processes_that_are_killed_and_pods_that_go_on(data_dir, tmp_path):
    file = recorders(data_dir, tmp_path)
    async with running(
        *("dev", "--data-dir", str(data_dir), "--port", "0", "--log-format", "json"),
        *("--fleet", str(file)),
        ready=False,
    ) as service:
        fleet = await up(service, data_dir)
        rows = await eventually(fleet.ready, 30)
        pids = {name: process.pid for name, process in fleet.processes().items()}

        # The deciding process is killed: it comes back, and touches nothing.
        (control,) = service.children("control")
        control.kill()
        await eventually(lambda: service.children("control") not in ([], [control]))
        await eventually(lambda: len(service.events("leads")) == 2)
        assert {n: p.pid for n, p in fleet.processes().items()} == pids

        # A processor crashes: the kubelet starts it again in its place.
        victim = rows["counter-1"]
        code, _, err = await command("local", "crash-pod", victim["pod_name"], *at(data_dir))
        assert code == 0, err

        async def restarted() -> bool:
            row = (await fleet.rows())["counter-1"]
            return bool(row["restart_count"] == 1 and row["state"] == "running")

        await eventually(restarted, 20)
        assert (await fleet.rows())["counter-1"]["pod_uid"] == victim["pod_uid"]
        pids = {name: process.pid for name, process in fleet.processes().items()}

        # Everything of `dev` but the cluster and its pods is killed.
        for child in service.children("api") + service.children("control"):
            child.kill()
        service.process.kill()
        await service.ended()

    async with dev(data_dir, "--fleet", str(file)) as fleet:
        await eventually(fleet.ready, 30)
        assert {name: process.pid for name, process in fleet.processes().items()} == pids
        # Heartbeats find the new one, at another port, without the pods' doing. Whoever's health
        # was not written by the poller beats by itself.
        heard = (
            "SELECT count(*) FROM processors p LEFT JOIN orchestrator.pod_health h"
            " ON h.processor_id = p.id WHERE p.last_health_check_at > now() - interval '9 s'"
            " AND p.last_health_check_at IS DISTINCT FROM h.written_at"
        )
        await eventually(lambda: has(fleet, heard, 3), 20)

        # Stopped in order: saved and back with its state.
        row = (await fleet.rows())["counter-2"]
        code, _, err = await command("local", "stop-pod", row["pod_name"], *at(data_dir))
        assert code == 0, err

        async def replaced() -> dict[str, Any]:
            new = (await fleet.rows())["counter-2"]
            return new if new["pod_uid"] != row["pod_uid"] and new["state"] == "running" else {}

        new = await eventually(replaced, 20)
        await eventually(partial(began_with_all, fleet, new))
        code, out, _ = await command("local", "logs", new["pod_name"], *at(data_dir))
        assert code == 0
        assert "Processor ready" in out

        # Everything at once, as when the power fails.
        cluster = json.loads((data_dir / "local" / "cluster.json").read_text())
        old = fleet.processes()
        service = fleet.service
        for child in service.children("api") + service.children("control"):
            child.kill()
        service.process.kill()
        psutil.Process(cluster["pid"]).kill()
        await service.ended()
        await eventually(
            lambda: (
                is_gone(psutil.Process(cluster["pid"]))
                if psutil.pid_exists(cluster["pid"])
                else True
            )
        )

    async with dev(data_dir, "--fleet", str(file)) as fleet:
        await eventually(lambda: said(fleet, "fleet: all 3 processors are ready"), 30)
        # It is not what the leader before saw that is told.
        told = [line["event"] for line in fleet.service.log()]
        all_ready = next(n for n, line in enumerate(told) if line.startswith("fleet: all"))
        assert told[:all_ready].count("pod created") == 3
        assert all(is_gone(process) for process in old.values())
        assert len(fleet.processes()) == 3
    assert not await leftovers(data_dir)


def at(data_dir: Path) -> tuple[str, str]:
    return "--data-dir", str(data_dir)


async def test_saving_a_source_restarts_its_pod_with_its_state(data_dir, tmp_path):
    folder = tmp_path / "mine"
    file = fleet_file(
        folder,
        fleet_yaml=(
            "processors:\n"
            "  - {name: mine, command: [python, counter.py]}\n"
            "  - {name: other, command: [python, sensor.py]}\n"
        ),
    )
    async with dev(data_dir, "--fleet", str(file), "--watch") as fleet:
        before = await eventually(fleet.ready, 30)
        await eventually(lambda: fleet.service.events("watching sources"))
        count = (await fleet.state(before["mine"]))["count"]
        source = folder / "counter.py"
        source.write_text(source.read_text().replace("+ self.step", "+ 1_000_000"))

        async def edited() -> bool:
            rows = await fleet.ready()
            if not rows or rows["mine"]["pod_uid"] == before["mine"]["pod_uid"]:
                return False
            return bool((await fleet.state(rows["mine"]))["count"] > 1_000_000 + count)

        await eventually(edited, 30)
        assert (await fleet.rows())["other"]["pod_uid"] == before["other"]["pod_uid"]


async def test_a_fleet_file_is_applied_to_a_running_fleet(data_dir, tmp_path):
    folder = tmp_path / "mine"
    file = fleet_file(folder, fleet_yaml=COUNTERS)
    async with dev(data_dir, "--fleet", str(file)) as fleet:
        await eventually(fleet.ready, 30)
        file.write_text(COUNTERS.replace("replicas: 3", "replicas: 2"))
        code, out, err = await command(
            "fleet", "apply", str(file), "--prune", "--dry-run", *at(data_dir)
        )
        assert (code, "- processor" in out or "counter-3" in out) == (0, True), out + err
        assert len(await fleet.ready()) == 3
        code, out, err = await command("fleet", "apply", str(file), "--prune", *at(data_dir))
        assert code == 0, out + err

        async def two() -> bool:
            return len(await fleet.ready()) == 2 == len(fleet.processes())

        await eventually(two, 20)
        file.write_text("processors:\n  - {name: mine, comand: [x]}\n")
        code, _, err = await command("fleet", "apply", str(file), *at(data_dir))
        assert code == 2
        assert "fleet.yaml:2" in err
        assert "comand" in err
        code, out, _ = await command("processors", "-o", "json", "--url", fleet.service.url)
        assert code == 0
        assert len(json.loads(out)["processors"]) == 2


async def test_a_cluster_that_hangs_is_told_and_heartbeats_go_on(data_dir, tmp_path):
    file = fleet_file(tmp_path / "mine", fleet_yaml=COUNTERS)
    async with dev(data_dir, "--fleet", str(file)) as fleet:
        rows = await eventually(fleet.ready, 30)
        cluster = psutil.Process(
            json.loads((data_dir / "local" / "cluster.json").read_text())["pid"]
        )
        cluster.suspend()
        try:

            async def not_ready() -> bool:
                status, health = await fleet.service.get("/readyz")
                return bool(
                    status == 503 and health["components"]["kubernetes"]["status"] == "unhealthy"
                )

            await eventually(not_ready, 20)
            # Nothing is taken for gone: what cannot be seen is not decided on.
            await fleet.execute(
                "UPDATE processors SET status = 'terminated' WHERE name = 'counter-3'"
            )
            beat = await fleet.service.beat(processor_id=rows["counter-1"]["id"])
            assert beat["acknowledged"]
            assert len(fleet.processes()) == 3
        finally:
            cluster.resume()
        await eventually(fleet.service.is_ready, 20)

        async def caught_up() -> bool:
            rows = await fleet.ready()
            return len(rows) == 2 and len(fleet.processes()) == 2

        await eventually(caught_up, 20)
        assert {n: r["pod_uid"] for n, r in (await fleet.rows()).items()} == {
            n: r["pod_uid"] for n, r in rows.items() if n != "counter-3"
        }
