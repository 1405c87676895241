"""Nobody is set back: what programs wrote down themselves, whatever ended or froze in between.

Templates without `proof`, programs of the published client library. What happens, happens at
random moments: SET_BACK_SEED repeats those that a run has printed.
"""

import asyncio
import json
import os
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from tests.acceptance.history import LATE_SECONDS, recorded, settled
from tests.acceptance.on_kubernetes import KubernetesFleet, on_kubernetes
from tests.acceptance.real import eventually
from tests.acceptance.record import Record
from tests.acceptance.test_failover import (
    INTERVAL_SECONDS,
    LOSS_SECONDS_MAX,
    NOTICED_SECONDS,
    has_beaten,
    hurt,
    in_the_cloud,
    lives_on,
    open_moves,
    replacement_of,
)
from tests.acceptance.test_fleet import Fleet, dev, fleet_file, records_folder

from dory_orchestrator.cluster.local.states import state_file

pytestmark = pytest.mark.timeout(900)

SETTINGS = (
    *("--checkpoint-interval", f"{INTERVAL_SECONDS:g}s"),
    # Long enough that a busy machine kills no node that nobody has killed.
    *("--heartbeat-stale", "10s"),
    *("--node-failure-grace", "5s"),
    *("--failback-stable", "2s"),
    *("--health-poll-interval", "500ms"),
)
FROZEN_SECONDS = 45.0
FIRST_SECONDS = 30.0
"""Of the time that it is frozen: who is killed in it begins, and works on, before it ends."""
SEED_SECONDS = 5.0
"""The age on Kubernetes of what a container begins with while we are away; else an interval."""
COUNTED_MIN = 10 * int(FROZEN_SECONDS)
"""So much has been counted before anything happens that who began from zero is not beyond it when
the orchestrator is back: what it is given then is more than it has."""
ALL_SECONDS = 120.0
"""A wait, not a promise: for pods that start beside each other on a busy machine."""
FLEET = """
organization: example
nodes:
  - {{name: edge-1, kind: edge}}
  - {{name: edge-2, kind: edge}}
  - {{name: edge-3, kind: edge}}
  - {{name: cloud-1, kind: application}}
  - {{name: cloud-2, kind: application}}
templates:
  - slug: recorder
    version: 1.0.0
    command: [python, recorder.py]
    env: &env
      DORY_SHUTDOWN_TIMEOUT_SEC: 5
      OTEL_CONSOLE_EXPORT: "false"
      RECORD_FOLDER: {records}
  - slug: rolled
    version: 1.0.0
    command: [python, recorder.py]
    env: *env
processors:
  - {{name: restarted, template: recorder, node: edge-1}}
  - {{name: replaced, template: recorder, node: edge-1}}
  - {{name: torn, template: recorder, node: edge-1}}
  - {{name: moved, template: recorder, node: edge-2}}
  - {{name: rolled, template: rolled, node: edge-3}}
  - {{name: idle, template: recorder, node: edge-3}}
"""
NAMES = ("restarted", "replaced", "torn", "moved", "rolled", "idle")


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SET_BACK_SEED") or secrets.randbelow(10**9))
    sys.stderr.write(f"SET_BACK_SEED={seed}\n")
    return random.Random(seed)


class Losses:
    """What programs have lost, by what they wrote down. Their ids are known while nobody answers."""

    def __init__(self, fleet: Fleet, ids: dict[str, str]) -> None:
        self._fleet = fleet
        self._ids = ids

    def id_of(self, name: str) -> str:
        return self._ids[name]

    def record(self, name: str) -> Record:
        return self._fleet.record(self._ids[name])

    def check(self, name: str, since: float, *, seconds_max: float) -> None:
        """What began since has lost no more than that; with 0, not one count."""
        losses = self.record(name).losses(since)
        assert losses, f"{name}: nothing began since"
        for loss in losses:
            sys.stderr.write(f"{name}: {loss.lost} counts, {loss.seconds:.1f} s: {loss}\n")
        for loss in losses:
            assert loss.seconds <= seconds_max, (name, loss)
            assert loss.lost == 0 or seconds_max > 0, (name, loss)

    def check_all(self) -> None:
        """Nobody was given what it had begun with, or counted beside another, and where nothing
        happened nothing was lost."""
        for name in NAMES:
            record = self.record(name)
            assert record.set_back() == [], name
            assert record.overlap_seconds() <= 0, name
        assert self.record("idle").losses() == []


@asynccontextmanager
async def programs(
    data_dir: Path, tmp_path: Path, database_of_run: str | None, *, counted_min: int
) -> AsyncIterator[tuple[Fleet, Losses]]:
    """They have all counted for a while, and their states are kept."""
    records = records_folder(data_dir)
    records.mkdir()
    file = fleet_file(tmp_path / "fleet", fleet_yaml=FLEET.format(records=records))
    beats = file.parent / "heartbeats.py"
    beats.write_text(beats.read_text().replace("interval_sec=5.0", "interval_sec=1.0"))
    if database_of_run is None:
        started: Any = dev(data_dir, "--fleet", str(file), *SETTINGS)
    else:
        seeds = ("--seed-every", f"{SEED_SECONDS:g}s")
        started = on_kubernetes(data_dir, database_of_run, file, *SETTINGS, *seeds)
    async with started as fleet:
        rows = await eventually(fleet.ready, ALL_SECONDS)
        losses = Losses(fleet, {name: rows[name]["id"] for name in NAMES})
        await eventually(lambda: has_beaten(fleet, 3), NOTICED_SECONDS)
        await eventually(lambda: have_counted(losses, counted_min), ALL_SECONDS)
        try:
            yield fleet, losses
        except AssertionError:
            await tell(fleet)
            raise


async def tell(fleet: Fleet) -> None:
    """Why it was so, by what was decided."""
    rows = await fleet.fetch(
        "SELECT extract(epoch FROM e.at)::float8, p.name, e.kind, e.reason, e.detail, e.pod_name"
        " FROM orchestrator.events e JOIN processors p ON p.id = e.processor_id ORDER BY e.id"
    )
    for row in rows:
        sys.stderr.write(f"{tuple(row)}\n")


def have_counted(losses: Losses, least: int) -> bool:
    lasts = [losses.record(name).last for name in NAMES]
    return all(line is not None and line.counted >= least for line in lasts)


@asynccontextmanager
async def frozen(fleet: Fleet) -> AsyncIterator[float]:
    """No process of the orchestrator does anything for a while; yields since when. The cluster,
    the pods and the database go on."""
    service = fleet.service
    processes = [
        psutil.Process(service.process.pid),
        *service.children("api"),
        *service.children("control"),
    ]
    for process in processes:
        process.suspend()
    began_at = time.monotonic()
    try:
        yield began_at
        await until(began_at + FROZEN_SECONDS)
    finally:
        for process in processes:
            process.resume()


async def until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def pod_of(fleet: Fleet, name: str) -> str:
    """Also while nobody answers."""
    ((pod,),) = await fleet.fetch("SELECT pod_name FROM processors WHERE name = $1", name)
    return str(pod)


async def kill(fleet: Fleet, name: str) -> float:
    """Kill a program; the cluster starts it again in its place. When that was."""
    await hurt(fleet, "crash-pod", await pod_of(fleet, name))
    return time.monotonic()


async def tear(fleet: Fleet, losses: Losses) -> None:
    """What `torn` would begin with can be read by nobody, or not by it."""
    key = losses.id_of("torn")
    if isinstance(fleet, KubernetesFleet):
        fleet.kube.gateway.barred.add(f"dory-state-{key}")
        return
    path = state_file(UUID(key))
    document = {"checksum": "", "payload": {"count": 0}, "metadata": {}}
    if path.exists():
        document |= json.loads(path.read_text()) | {"checksum": "0" * 64}
    path.write_text(json.dumps(document))


async def roll(fleet: Fleet) -> None:
    await fleet.execute(
        "UPDATE processor_template_versions SET version = '2.0.0' WHERE processor_template_id ="
        " (SELECT processor_template_id FROM processors WHERE name = 'rolled')"
    )


async def has_begun_anew(fleet: Fleet, losses: Losses, name: str, since: float) -> bool:
    """Whether it was started after a moment, runs and is kept."""
    row = (await fleet.rows())[name]
    if row["state"] != "running" or not losses.record(name).losses(since):
        return False
    return await settled(fleet, row["id"])


async def all_anew(fleet: Fleet, losses: Losses, since: dict[str, float]) -> None:
    for name, moment in since.items():
        await eventually(partial(has_begun_anew, fleet, losses, name, moment), ALL_SECONDS, 0.2)


async def test_while_the_orchestrator_is_well(data_dir, tmp_path, database_of_run, chance):
    least = 10 * int(LOSS_SECONDS_MAX) + 10
    async with (
        programs(data_dir, tmp_path, database_of_run, counted_min=least) as (fleet, losses),
        recorded(fleet),
    ):
        began_at = time.monotonic()

        async def later() -> None:
            await asyncio.sleep(chance.uniform(0, 2 * INTERVAL_SECONDS))

        await later()
        await kill(fleet, "restarted")
        await later()
        await tear(fleet, losses)
        await kill(fleet, "torn")
        await later()
        await hurt(fleet, "stop-pod", await pod_of(fleet, "replaced"))
        await later()
        await hurt(fleet, "crash-node", "edge-2")
        await roll(fleet)
        await eventually(lambda: in_the_cloud(fleet, "moved"), ALL_SECONDS)
        names = ("restarted", "torn", "replaced", "moved", "rolled")
        await all_anew(fleet, losses, dict.fromkeys(names, began_at))
        for name in ("restarted", "torn", "moved"):
            losses.check(name, began_at, seconds_max=LOSS_SECONDS_MAX)
        for name in ("replaced", "rolled"):
            losses.check(name, began_at, seconds_max=0)

        restored_at = time.monotonic()
        await hurt(fleet, "restore-node", "edge-2")
        await eventually(lambda: lives_on(fleet, "moved", "edge-2"), ALL_SECONDS)
        await all_anew(fleet, losses, {"moved": restored_at})
        losses.check("moved", restored_at, seconds_max=0)
        losses.check_all()


async def test_while_the_orchestrator_is_frozen(data_dir, tmp_path, database_of_run, chance):
    async with programs(data_dir, tmp_path, database_of_run, counted_min=COUNTED_MIN) as (
        fleet,
        losses,
    ):
        # In the middle of a failover; others die, or are replaced, while it is away.
        began_at = time.monotonic()
        await hurt(fleet, "crash-node", "edge-2")
        await eventually(lambda: replacement_of(fleet, "moved"), NOTICED_SECONDS, 0.01)
        away: dict[str, float] = {}
        moments = sorted(
            (chance.uniform(0, FIRST_SECONDS), name) for name in ("restarted", "torn", "replaced")
        )
        async with frozen(fleet) as frozen_at:
            for moment, name in moments:
                await until(frozen_at + moment)
                if name == "replaced":
                    await hurt(fleet, "stop-pod", await pod_of(fleet, name))
                    continue
                if name == "torn":
                    await tear(fleet, losses)
                away[name] = min(await kill(fleet, name) - frozen_at, FROZEN_SECONDS)
        await eventually(fleet.service.is_ready, ALL_SECONDS)
        await eventually(lambda: in_the_cloud(fleet, "moved"), ALL_SECONDS)
        since = {"moved": began_at, **dict.fromkeys((*away, "replaced"), frozen_at)}
        await all_anew(fleet, losses, since)
        losses.check("moved", began_at, seconds_max=LOSS_SECONDS_MAX)
        losses.check("replaced", frozen_at, seconds_max=0)
        seeded_seconds = INTERVAL_SECONDS if database_of_run is None else SEED_SECONDS
        for name, away_seconds in away.items():
            # What it begins with is no older than that; nobody took what came after it.
            most = seeded_seconds + LATE_SECONDS + away_seconds
            losses.check(name, frozen_at, seconds_max=most)

        # In the middle of a failback, and of a rollout.
        restored_at = time.monotonic()
        await hurt(fleet, "restore-node", "edge-2")
        await eventually(lambda: open_moves(fleet), ALL_SECONDS, 0.01)
        await roll(fleet)
        await asyncio.sleep(chance.uniform(0, LATE_SECONDS))
        async with frozen(fleet):
            pass
        await eventually(fleet.service.is_ready, ALL_SECONDS)
        await eventually(lambda: lives_on(fleet, "moved", "edge-2"), ALL_SECONDS)
        await all_anew(fleet, losses, dict.fromkeys(("moved", "rolled"), restored_at))
        for name in ("moved", "rolled"):
            losses.check(name, restored_at, seconds_max=0)
        losses.check_all()
