"""Two processes of one command, kept running.

Python work beside the heartbeats in the same process would hold them up, so they have a
process of their own; either may die and come back without the other.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.logs import get_logger

_log = get_logger(__name__)

GIVE_UP = 78
"""Exit code of a process that cannot work however often it is started (EX_CONFIG of sysexits)."""

STOP_SECONDS = 8.0
"""How long a process may take to end: its longest waits, and a little."""

_ORDERLY = (0, -signal.SIGTERM)
"""Exit codes after our SIGTERM. Killed by it: it came before the process had a handler, and
so before it had accepted any work."""

URGED = 128 + signal.SIGTERM
"""Our exit code when a second signal cut the orderly end short."""

_BACKOFF = Backoff(first_seconds=0.1, most_seconds=10.0, forgotten_after_seconds=60.0)


class Signals:
    """`asked` after the first SIGTERM or SIGINT, `urged` after the second."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.urged = asyncio.Event()

    def listen(self) -> None:
        """Take over the signals of this process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Under nohup the end of the terminal is not ours.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._receive, number)

    def _receive(self, number: int) -> None:
        if self.asked.is_set():
            self.urged.set()
        self.asked.set()
        _log.info("stopping", signal=signal.Signals(number).name, at_once=self.urged.is_set())


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A process to keep running.

    `payload(restarts)` is written to its standard input, as one line; the pipe then stays
    open, so that the child notices our own death, however sudden, by its end.
    """

    name: str
    module: str
    arguments: Sequence[str]
    payload: Callable[[int], bytes]
    inherited_fds: Sequence[int] = ()


async def supervise(
    children: Sequence[ChildProcess], signals: Signals, stop_seconds: float = STOP_SECONDS
) -> int:
    """Keep all children running until asked to stop; returns our exit code.

    One that takes longer than `stop_seconds` to end is killed.
    0 after an orderly end; URGED after a second signal; 1 when a child had to be killed,
    or gave up.
    """
    keeping = [asyncio.create_task(_keep(child, signals, stop_seconds)) for child in children]
    asked = asyncio.create_task(signals.asked.wait())
    done, _ = await asyncio.wait({asked, *keeping}, return_when=asyncio.FIRST_COMPLETED)
    # Ended without being asked: a child gave up, and the other is of no use alone.
    gave_up = asked not in done
    signals.asked.set()
    orderly = all(await asyncio.gather(*keeping))
    asked.cancel()
    if signals.urged.is_set():
        return URGED
    return 0 if orderly and not gave_up else 1


async def _keep(child: ChildProcess, signals: Signals, stop_seconds: float) -> bool:
    """Returns True if the child ended by itself when asked to."""
    failures = restarts = 0
    while True:
        process = await _start(child, restarts)
        started_at = asyncio.get_running_loop().time()
        ended = asyncio.create_task(process.wait())
        asked = asyncio.create_task(signals.asked.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if signals.asked.is_set():
            return await _stop(child, process, ended, signals, stop_seconds)
        code = await ended
        if code == GIVE_UP:
            return False
        ran_seconds = asyncio.get_running_loop().time() - started_at
        failures = _BACKOFF.count(failures, ran_seconds)
        restarts += 1
        delay = _BACKOFF.delay_seconds(failures)
        _log.error("a process ended", process=child.name, exit_code=code, restart_in_seconds=delay)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await signals.asked.wait()
                return True


async def _start(child: ChildProcess, restarts: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        child.module,
        *child.arguments,
        stdin=asyncio.subprocess.PIPE,
        pass_fds=tuple(child.inherited_fds),
        # A session of its own: Ctrl-C in a terminal reaches only us, and we decide the order.
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    process.stdin.write(child.payload(restarts) + b"\n")
    with contextlib.suppress(ConnectionError):  # it died at once; its exit code tells
        await process.stdin.drain()
    _log.debug("a process started", process=child.name, pid=process.pid)
    return process


async def _stop(
    child: ChildProcess,
    process: asyncio.subprocess.Process,
    ended: "asyncio.Task[int]",
    signals: Signals,
    stop_seconds: float,
) -> bool:
    if not ended.done() and not signals.urged.is_set():
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        urged = asyncio.create_task(signals.urged.wait())
        await asyncio.wait(
            {ended, urged}, timeout=stop_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        urged.cancel()
    if ended.done():
        return await ended in _ORDERLY
    if not signals.urged.is_set():
        _log.error("a process did not end in time and is killed", process=child.name)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await ended
    return False
