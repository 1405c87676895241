"""Supervision, with real processes."""

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from tests.patience import patient

from dory_orchestrator.loops.supervise import GIVE_UP, ChildProcess, Signals, supervise

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]

CHILD = """
import os, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
restarts = sys.stdin.buffer.raw.read(16).decode().strip()
(folder / f"{sys.argv[2]}-{restarts}").write_text(str(os.getpid()))
if sys.argv[3] == "gives-up":
    sys.exit(78)
if sys.argv[3] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[3] == "polite":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while sys.stdin.buffer.raw.read(1):
    pass
(folder / f"{sys.argv[2]}-orphaned").touch()
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "supervised_child.py").write_text(textwrap.dedent(CHILD))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, manner: str) -> ChildProcess:
        return ChildProcess(
            name,
            "supervised_child",
            [str(tmp_path), name, manner],
            lambda restarts: str(restarts).encode(),
        )

    return make


async def pid_of(folder: Path, name: str) -> int:
    async with asyncio.timeout(patient(10)):
        while not ((folder / name).exists() and (folder / name).read_text()):
            await asyncio.sleep(0.02)
    return int((folder / name).read_text())


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_either_may_die_and_come_back_without_the_other(tmp_path, child):
    signals = Signals()
    task = asyncio.create_task(supervise([child("a", "polite"), child("b", "polite")], signals))
    a, b = await pid_of(tmp_path, "a-0"), await pid_of(tmp_path, "b-0")
    os.kill(a, signal.SIGKILL)
    a = await pid_of(tmp_path, "a-1")
    assert not gone(b)
    assert not (tmp_path / "b-1").exists()

    signals.asked.set()
    assert await task == 0
    assert gone(a)
    assert gone(b)


async def test_a_child_that_gives_up_ends_all(tmp_path, child):
    task = supervise([child("a", "polite"), child("b", "gives-up")], Signals())
    assert await task == 1
    assert not (tmp_path / "b-1").exists()
    assert GIVE_UP == 78


async def test_urged_ends_a_stubborn_child_at_once(tmp_path, child):
    signals = Signals()
    # Nobody would kill it so soon.
    supervising = supervise([child("a", "stubborn")], signals, stop_seconds=3_600)
    task = asyncio.create_task(supervising)
    pid = await pid_of(tmp_path, "a-0")
    signals.asked.set()
    await asyncio.sleep(0)
    signals.urged.set()
    async with asyncio.timeout(patient(2)):
        assert await task == 143
    assert gone(pid)


PARENT = """
import asyncio, sys
from dory_orchestrator.loops.supervise import ChildProcess, Signals, supervise

child = ChildProcess("a", "supervised_child", [sys.argv[1], "a", "stubborn"], lambda n: b"0")
asyncio.run(supervise([child], Signals()))
"""


async def test_a_child_notices_the_sudden_end_of_its_parent(tmp_path, child):
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, str(tmp_path))
    pid = await pid_of(tmp_path, "a-0")
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(patient(5)):
        while not (tmp_path / "a-orphaned").exists():
            await asyncio.sleep(0.02)
    async with asyncio.timeout(patient(5)):
        while not gone(pid):
            await asyncio.sleep(0.02)
