"""The blackboard between the two processes."""

import os
import tempfile
import time

from dory_orchestrator.app.api_process import ControlReports
from dory_orchestrator.core.model import HealthStatus
from dory_orchestrator.loops.report import Blackboard, Report, WatcherProgress
from dory_orchestrator.metrics import MergedRegistry, Metrics


def report(message: str) -> Report:
    return Report(1.5, WatcherProgress(1.0, message), Metrics().samples())


def test_the_last_report_is_read_whatever_its_length():
    with tempfile.TemporaryFile() as file:
        board = Blackboard(file.fileno())
        assert board.read() is None
        for message in ("short", "long" * 1000, "x"):
            board.write(report(message))
            read = board.read()
            assert read is not None
            assert read.watcher.error == message
            assert read.families


def test_a_half_written_report_is_none():
    with tempfile.TemporaryFile() as file:
        board = Blackboard(file.fileno())
        board.write(report("whole"))
        os.pwrite(file.fileno(), b"\xff\xff", 100)
        assert board.read() is None


async def test_a_restart_of_the_control_process_does_not_undo_its_reading():
    control = Metrics()
    control.watcher_healthy.set(1)
    with tempfile.TemporaryFile() as file:
        board, merged = Blackboard(file.fileno()), MergedRegistry(Metrics())
        reports = ControlReports(board, merged, poll_interval_seconds=30)
        assert (await reports.watcher()).status is HealthStatus.UNHEALTHY

        def write(written_at: float, succeeded_at: float | None) -> None:
            board.write(Report(written_at, WatcherProgress(succeeded_at, None), control.samples()))

        now = time.monotonic()
        write(now, None)
        assert (await reports.watcher()).status is HealthStatus.UNHEALTHY
        write(now, now - 1)
        assert (await reports.watcher()).status is HealthStatus.HEALTHY
        write(now, None)  # it came back, and has not read yet
        assert (await reports.watcher()).status is HealthStatus.HEALTHY
        assert b"dory_config_watcher_healthy 1.0" in merged.render()

        write(now - 6, now - 6)
        assert "reported 6 s ago" in (await reports.watcher()).message
        assert b"dory_config_watcher_healthy 0.0" in merged.render()
