"""Processes of pods that nobody looks after any more, and how they are ended.

Two marks lead to them: a note of each process that was started, and a variable in its
environment. The variable is there from its first moment, also when we died before we could
write the note; the note is there also when the process has overwritten its environment.
"""

import contextlib
import time
from collections.abc import Iterator, Set
from pathlib import Path

import psutil

from dory_orchestrator.cluster.local.places import Places

MARK = "DORY_LOCAL_CLUSTER"
"""The variable: its value is the data directory."""

_ROUNDS_SECONDS = 5.0
_LOOK_SECONDS = 0.02
_CLOCK_SECONDS = 5.0
"""How far the start of a process may seem to move when the machine's clock is set."""


def note(places: Places, pid: int) -> None:
    """Write down a process that was just started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        (places.processes / str(pid)).write_text(repr(psutil.Process(pid).create_time()))


def strike(places: Places, pid: int) -> None:
    """It has ended."""
    (places.processes / str(pid)).unlink(missing_ok=True)


def end_all(places: Places) -> int:
    """Kill every process of this data directory; returns how many there were.

    Again and again, until none is found: they may be starting others.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + _ROUNDS_SECONDS
    while found := [*_noted(places), *_marked(places.data_dir)]:
        for process in found:
            ended.add(process.pid)
            _kill(process)
        if time.monotonic() > deadline:
            break
        time.sleep(_LOOK_SECONDS)
    for path in places.processes.iterdir():
        path.unlink(missing_ok=True)
    return len(ended)


def end_strays(data_dir: Path, uids: Set[str]) -> None:
    """Kill what is left of these pods: what had left their process group."""
    for process in _marked(data_dir):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("POD_UID") in uids:
                _kill(process)


def is_gone(process: psutil.Process) -> bool:
    """Also true of a zombie, which stays where nobody collects orphans, as in some containers."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


def _noted(places: Places) -> Iterator[psutil.Process]:
    for path in places.processes.iterdir():
        with contextlib.suppress(psutil.Error, ValueError, OSError):
            process = psutil.Process(int(path.name))
            off_seconds = abs(process.create_time() - float(path.read_text()))
            if off_seconds < _CLOCK_SECONDS and not is_gone(process):
                yield process


def _marked(data_dir: Path) -> Iterator[psutil.Process]:
    own = psutil.Process().pid
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            marked = process.pid != own and process.environ().get(MARK) == str(data_dir)
            if marked and not is_gone(process):
                yield process
