"""The blackboard between the two processes."""

import os
import tempfile

from dory_orchestrator.loops.report import Blackboard, Report, ReportedComponent
from dory_orchestrator.metrics import Metrics


def report(message: str) -> Report:
    return Report(1.5, {"watcher": ReportedComponent("healthy", message)}, Metrics().samples())


def test_the_last_report_is_read_whatever_its_length():
    with tempfile.TemporaryFile() as file:
        board = Blackboard(file.fileno())
        assert board.read() is None
        for message in ("short", "long" * 1000, "x"):
            board.write(report(message))
            read = board.read()
            assert read is not None
            assert read.components["watcher"].message == message
            assert read.families


def test_a_half_written_report_is_none():
    with tempfile.TemporaryFile() as file:
        board = Blackboard(file.fileno())
        board.write(report("whole"))
        os.pwrite(file.fileno(), b"\xff\xff", 100)
        assert board.read() is None
