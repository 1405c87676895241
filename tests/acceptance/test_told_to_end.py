"""In normal times a program whose row is deleted or has ended is told to end, soon."""

import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.acceptance.real import eventually
from tests.acceptance.test_failover import SHORT, has_beaten, recorders
from tests.acceptance.test_fleet import dev

pytestmark = pytest.mark.timeout(400)

TOLD_SECONDS_MAX = 2.0
"""The promise, on an idle machine; what it took is printed."""


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM processors WHERE name = 'one'", "not_found"),
        ("UPDATE processors SET status = 'terminated' WHERE name = 'one'", "ended"),
    ],
)
async def test_whose_row_goes_is_told_to_end_and_nobody_else(
    data_dir: Path, tmp_path: Path, statement: str, reason: str
):
    file = recorders(data_dir, tmp_path, 3)
    async with dev(data_dir, "--fleet", str(file), *SHORT) as fleet:
        rows = await eventually(fleet.ready, 60)
        await eventually(lambda: has_beaten(fleet, len(rows)), 30)
        processes = fleet.processes()
        gone = rows.pop("one")

        async def directive(row: dict[str, str]) -> str:
            beat = await fleet.service.beat(processor_id=row["id"], node_id=row["node_name"])
            return str(beat["directive"])

        async def is_told() -> bool:
            for row in rows.values():
                assert await directive(row) == "continue"
            return await directive(gone) == "shutdown"

        assert not await is_told()
        await fleet.execute(statement)
        gone_at = time.monotonic()
        await eventually(is_told, TOLD_SECONDS_MAX, every_seconds=0.01)
        sys.stderr.write(f"told to end after {time.monotonic() - gone_at:.2f} s\n")
        # It was told of the row, and not because somebody else lives.
        answered = f'dory_heartbeat_directives_total{{directive="shutdown",reason="{reason}"'
        assert await fleet.service.metric(answered) >= 1
        ending = processes.pop(gone["pod_name"])
        await eventually(lambda: ending.pid not in pids(fleet.processes()), 30)
        assert pids(fleet.processes()) == pids(processes)


def pids(processes: dict[str, psutil.Process]) -> set[int]:
    return {process.pid for process in processes.values()}
