"""The blackboard between the two processes."""

import asyncio
import os
import tempfile
import time

import pytest

from dory_orchestrator.app.api_process import ControlReports
from dory_orchestrator.core.model import ComponentHealth, HealthStatus
from dory_orchestrator.loops.report import (
    Blackboard,
    ComponentReport,
    Report,
    WatcherProgress,
    keep_reporting,
)
from dory_orchestrator.metrics import MergedRegistry, Metrics


def report(message: str) -> Report:
    components = {"kubernetes": ComponentReport(HealthStatus.DEGRADED, message)}
    return Report(1.5, WatcherProgress(1.0, message), components, Metrics().samples())


def test_the_last_report_is_read_whatever_its_length():
    with tempfile.TemporaryFile() as file:
        board = Blackboard(file.fileno())
        assert board.read() is None
        for message in ("short", "long" * 1000, "x"):
            board.write(report(message))
            read = board.read()
            assert read is not None
            assert read.watcher.error == message
            assert read.components["kubernetes"] == ComponentReport(HealthStatus.DEGRADED, message)
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
            progress = WatcherProgress(succeeded_at, None)
            board.write(Report(written_at, progress, {}, control.samples()))

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


@pytest.mark.looptime
async def test_it_goes_on_reporting_what_is_then_known():
    known: dict[str, ComponentHealth] = {}
    with tempfile.TemporaryFile() as file:
        board = Blackboard(file.fileno())
        task = asyncio.create_task(
            keep_reporting(board, lambda: WatcherProgress(None, None), lambda: known, list)
        )
        await asyncio.sleep(0.1)
        first = board.read()
        assert first is not None
        assert first.components == {}
        known["kubernetes"] = ComponentHealth(HealthStatus.HEALTHY, "it answers")
        await asyncio.sleep(0.5)
        second = board.read()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert second is not None
    assert second.components == {"kubernetes": ComponentReport(HealthStatus.HEALTHY, "it answers")}
    assert second.written_at >= first.written_at


async def test_a_component_is_as_it_was_reported_until_the_report_is_old():
    with tempfile.TemporaryFile() as file:
        board, merged = Blackboard(file.fileno()), MergedRegistry(Metrics())
        check = ControlReports(board, merged, poll_interval_seconds=30).component("kubernetes")
        assert (await check()).status is HealthStatus.UNHEALTHY

        def write(written_at: float, **components: ComponentReport) -> None:
            board.write(Report(written_at, WatcherProgress(None, None), components, []))

        now = time.monotonic()
        write(now)
        assert (await check()).message == "nothing was reported yet"
        write(now, kubernetes=ComponentReport(HealthStatus.HEALTHY, "it answers"))
        assert await check() == ComponentHealth(HealthStatus.HEALTHY, "it answers")
        write(now)  # it came back, and does not know yet
        assert (await check()).status is HealthStatus.HEALTHY
        write(now - 6, kubernetes=ComponentReport(HealthStatus.HEALTHY, "it answers"))
        assert "last reported 6 s ago" in (await check()).message
