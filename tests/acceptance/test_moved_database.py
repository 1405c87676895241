"""A database that moves under a running fleet: `run` finds it again by itself, whoever beats is
heard again, and nobody is moved or told to end for it."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest
from tests.acceptance.real import clear, eventually, run_on
from tests.acceptance.test_failover import SHORT, THRESHOLDS, has_beaten, recorders
from tests.acceptance.test_fleet import Fleet
from tests.proxy import proxied
from tests.standby import paired

from dory_orchestrator.cluster.local.start import start
from dory_orchestrator.fleet_file import load
from dory_orchestrator.store.fleet import apply_fleet, fleet_namespace

pytestmark = pytest.mark.timeout(400)

WELL_SECONDS = 10.0
"""As derived in tests/store/test_connections.py. Printed; the limit is that of a slow machine."""


class Moving:
    """A fleet whose database moves, and what must not be seen of that."""

    def __init__(self, fleet: Fleet, processor: UUID) -> None:
        self.fleet = fleet
        self._processor = processor
        self.service = fleet.service

    async def look(self) -> tuple[object, ...]:
        """Everything that stays as it is."""
        moves = await self.fleet.fetch("SELECT count(*) FROM orchestrator.moves")
        owners = await self.fleet.fetch(
            "SELECT processor_id, epoch, pod_uid, node_name FROM orchestrator.ownership"
            " WHERE pod_uid IS NOT NULL ORDER BY 1"
        )
        ours = [psutil.Process(self.service.process.pid)]
        ours += self.service.children("api") + self.service.children("control")
        return (
            moves[0][0],
            [tuple(row) for row in owners],
            sorted(process.pid for process in ours),
            sorted(process.pid for process in self.fleet.processes().values()),
            await self.service.metric('dory_heartbeat_directives_total{directive="shutdown"'),
        )

    async def becomes_well(self) -> None:
        """Beats are acknowledged, a change of a row is noticed (polling is off), one leads."""
        began = time.monotonic()
        await eventually(self._is_heard, WELL_SECONDS)
        await eventually(self._is_woken, WELL_SECONDS)
        await eventually(self._leads, WELL_SECONDS)
        took = time.monotonic() - began
        late = "" if took <= WELL_SECONDS else f": more than {WELL_SECONDS:g} s"
        sys.stderr.write(f"well again after {took:.1f} s{late}\n")

    async def _is_heard(self) -> bool:
        answer = await self.service.beat(processor_id=str(self._processor), node_id="edge-1")
        assert answer["directive"] == "continue"
        return bool(answer["acknowledged"])

    async def _is_woken(self) -> bool:
        """Asked again until it is: what was written before somebody listened wakes nobody."""
        before = len(self.service.events("configurations changed"))
        # Without a template it is in error, alone, and gets no pod.
        await self.fleet.execute(
            "INSERT INTO processors (processor_template_id, status) VALUES ($1, 'running')", uuid4()
        )
        for _ in range(20):
            if len(self.service.events("configurations changed")) > before:
                return True
            await asyncio.sleep(0.05)
        return False

    async def _leads(self) -> bool:
        status, summary = await self.service.get("/api/v1/fleet/summary")
        return status == 200 and bool(summary["current"])


@asynccontextmanager
async def fleet_on(proxy_url: str, admin_url: str, folder: Path) -> AsyncIterator[Fleet]:
    """Real processors on a local cluster; polling is off, so that only notifications wake."""
    data_dir = folder / "dory"
    cluster = await start(data_dir)
    declared = load(recorders(data_dir, folder, 2), await fleet_namespace(admin_url))
    await apply_fleet(admin_url, declared)
    try:
        await cluster.declare_nodes(declared.nodes)
        settings = {
            f"DORY_{name.removeprefix('--').replace('-', '_').upper()}": value
            for name, value in zip(SHORT[::2], SHORT[1::2], strict=True)
        }
        async with run_on(
            proxy_url,
            DORY_CLUSTER="local",
            DORY_LOCAL_DIR=str(data_dir),
            DORY_POLL_INTERVAL="1h",
            **settings,
        ) as service:
            fleet = Fleet(service, data_dir, admin_url)
            await eventually(fleet.ready, 40)
            await eventually(lambda: has_beaten(fleet, 2), 20)
            yield fleet
    finally:
        await cluster.close()
        await asyncio.to_thread(clear, data_dir)


async def test_a_database_that_moves_costs_a_moment_and_nobody_is_moved(own_postgres, tmp_path):
    pair = await paired(own_postgres)
    async with (
        proxied(pair.primary_url) as proxy,
        fleet_on(proxy.url, pair.primary_url, tmp_path) as fleet,
    ):
        rows = await fleet.fetch(
            "SELECT processor_id FROM orchestrator.ownership WHERE node_name = 'edge-1'"
        )
        moving = Moving(fleet, rows[0]["processor_id"])
        await moving.becomes_well()
        before = await moving.look()

        # A firewall forgets what is open.
        proxy.forget()
        await moving.becomes_well()
        assert await moving.look() == before

        # A switchover behind the same address: what is open leads to the old primary.
        await pair.promote()
        await pair.turn_read_only()
        proxy.point_at(pair.standby_url)
        fleet.database_url = pair.standby_url
        await moving.becomes_well()
        assert await moving.look() == before

        # It is away for longer than a node may be silent: what we did not hear is no death.
        await proxy.stop()
        away = time.monotonic()
        await eventually(lambda: time.monotonic() - away > THRESHOLDS + 2, THRESHOLDS + 5)
        await proxy.start()
        await moving.becomes_well()
        settled = time.monotonic()
        await eventually(lambda: time.monotonic() - settled > THRESHOLDS + 2, THRESHOLDS + 5)
        assert await moving.look() == before
        assert not await fleet.events(kind="failover")
        assert not fleet.service.events("a process ended")
        for row in rows:
            assert len(fleet.record(str(row["processor_id"])).incarnations) == 1
