"""One run of a pod's program: a process in a process group of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dory_orchestrator.cluster.local import leftovers
from dory_orchestrator.cluster.local.places import Places

_LOG_BYTES_MAX = 10_000_000
_GROUP_SECONDS = 0.5
_LOOK_SECONDS = 0.01


class Container:
    """A running process, with all that it starts in its group."""

    def __init__(self, process: "subprocess.Popen[bytes]", places: Places) -> None:
        self.pid = process.pid
        self.started_at = time.time()
        self._process = process
        self._places = places
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._watch()

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path,
        log: Path,
        places: Places,
    ) -> "Container":
        """Raises OSError when there is no such program or folder."""
        starting = asyncio.create_task(
            asyncio.to_thread(_spawn, command, environment, folder, log, places)
        )
        try:
            return cls(await asyncio.shield(starting), places)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: the process would run on, known to nobody.
            with contextlib.suppress(OSError):
                await cls(await starting, places).end()
            raise

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._exit.done()

    async def exit_code(self) -> int:
        """Wait for its end; as a shell would say it, with 128 added to a signal."""
        code = await asyncio.shield(self._exit)
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """SIGTERM to its group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its group."""
        self._signal(signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.kill()
        await self.exit_code()

    def _signal(self, number: int) -> None:
        # Until its end was collected, the number of the group belongs to nobody else.
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if not hasattr(os, "pidfd_open"):
            threading.Thread(target=self._wait, args=(loop,), daemon=True).start()
            return
        fd = os.pidfd_open(self.pid)
        loop.add_reader(fd, self._on_exit, loop, fd)

    def _on_exit(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        loop.remove_reader(fd)
        os.close(fd)
        # Its children in the group end with it, as in a container.
        self.kill()
        self._collected(self._process.wait())

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        code = self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(self._collected, code)

    def _collected(self, code: int) -> None:
        leftovers.strike(self._places, self.pid)
        if not self._exit.done():
            self._exit.set_result(code)


async def group_gone(container: Container) -> None:
    """Wait a little for the last of a killed group: they may still hold the port.

    Where nobody collects orphans their zombies stay for good.
    """
    deadline = time.monotonic() + _GROUP_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(container.pid, 0)
        except (ProcessLookupError, PermissionError):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _spawn(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, places: Places
) -> "subprocess.Popen[bytes]":
    # A file, not a pipe to us: a pod shall neither stop nor die when nobody reads.
    with log.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 - what the fleet says, no shell
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            process_group=0,
        )
    leftovers.note(places, process.pid)
    return process


def trim_log(log: Path) -> None:
    """Keep the log's newest part as `log.old` when it has grown too long, and empty it.

    The pod writes at its end wherever that is, so it need not know.
    """
    with contextlib.suppress(FileNotFoundError):
        size_bytes = log.stat().st_size
        if size_bytes <= _LOG_BYTES_MAX:
            return
        with log.open("r+b") as source, log.with_name("log.old").open("wb") as target:
            source.seek(size_bytes - _LOG_BYTES_MAX)
            shutil.copyfileobj(source, target)
            source.truncate(0)
