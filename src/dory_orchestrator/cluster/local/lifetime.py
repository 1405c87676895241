"""Begin and end of a local cluster's process, seen from outside."""

import asyncio
import os
import subprocess
import sys
import threading
import time

import psutil

from dory_orchestrator.cluster.local import leftovers
from dory_orchestrator.cluster.local.messages import Timing, encode
from dory_orchestrator.cluster.local.places import Places
from dory_orchestrator.ports import ClusterUnavailable

MODULE = "dory_orchestrator.cluster.local.process"
_KILL_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_LOG_BYTES_MAX = 5_000_000
_LOG_TAIL_CHARACTERS = 2_000


def running_process(places: Places) -> psutil.Process | None:
    """The process that the data directory names, if it is that one and runs."""
    found = places.whereabouts()
    if found is None:
        return None
    try:
        process = psutil.Process(found.pid)
        command = process.cmdline()
    except psutil.Error:
        return None
    # After a crash or a restart of the machine the process id may belong to anybody.
    ours = MODULE in command and str(places.data_dir) in command
    return process if ours and not leftovers.is_gone(process) else None


def launch(places: Places, timing: Timing) -> "subprocess.Popen[bytes]":
    """Start a process in the place of one that does not answer. Raises ClusterUnavailable."""
    try:
        _kill(places)
        places.make()
        return _spawn(places, timing)
    except (OSError, psutil.Error) as error:
        raise ClusterUnavailable(f"the local cluster cannot be started: {error}") from error


def clear(places: Places) -> None:
    """Leave no process behind, whatever state they are in. Raises ClusterUnavailable."""
    try:
        _kill(places)
        if places.folder.exists():
            leftovers.end_all(places)
            places.forget()
    except (OSError, psutil.Error) as error:
        raise ClusterUnavailable(f"the local cluster does not end: {error}") from error


async def wait_until_gone(process: psutil.Process, limit_seconds: float) -> None:
    """Wait for its end, no longer than that."""
    deadline = time.monotonic() + limit_seconds
    while not leftovers.is_gone(process):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(_LOOK_SECONDS)


def log_tail(places: Places) -> str:
    """What the process said last."""
    log = places.log
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return text.strip()[-_LOG_TAIL_CHARACTERS:]


def _kill(places: Places) -> None:
    if (process := running_process(places)) is not None:
        process.kill()
        process.wait(_KILL_SECONDS)


def _spawn(places: Places, timing: Timing) -> "subprocess.Popen[bytes]":
    if places.log.exists() and places.log.stat().st_size > _LOG_BYTES_MAX:
        places.log.replace(places.log.with_name("cluster.log.old"))
    with places.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", MODULE, str(places.data_dir), encode(timing).decode()],
            cwd="/",
            env=os.environ.copy(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C in our terminal, and our end, do not concern it.
            start_new_session=True,
        )
    # Somebody has to collect it when it ends before us.
    threading.Thread(target=process.wait, daemon=True).start()
    return process
