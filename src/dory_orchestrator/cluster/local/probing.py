"""HTTP requests of a kubelet to a pod: its probes, and its hook before the end."""

import asyncio
import time
from collections.abc import Callable

import aiohttp

from dory_orchestrator.core.model import Probes

_FIRST_SECONDS = 0.1
_NOT_READY_SECONDS = 1.0
_READY_SECONDS = 2.0


class Caller:
    """Asks processes on this machine."""

    def __init__(self) -> None:
        # Each probe a connection of its own, as a kubelet does: one that is kept would be
        # answered by a process that takes no new ones.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)

    async def ask(self, port: int, path: str, timeout_seconds: float) -> str | None:
        """None when it answered with success, else what is wrong."""
        limit = aiohttp.ClientTimeout(total=timeout_seconds)
        url = f"http://127.0.0.1:{port}{path}"
        try:
            async with self._session.get(url, timeout=limit, allow_redirects=False) as answer:
                if 200 <= answer.status < 400:
                    return None
                return f"GET {path}: HTTP status {answer.status}"
        except TimeoutError:
            return f"GET {path}: no answer within {timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"GET {path}: {error}"

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()


class ProbeFailed(Exception):
    """The container is to be restarted."""


async def probe(
    caller: Caller, port: int, probes: Probes, on_ready: Callable[[bool], None]
) -> None:
    """Probe one container as long as it runs; `on_ready` hears each time what /ready means.

    Raises ProbeFailed when it does not start in time, or is no longer alive. Until it is
    ready it is asked more often than in Kubernetes: on one machine that costs little.
    """
    await asyncio.sleep(probes.initial_delay_seconds)
    await _started(caller, port, probes)
    readiness = asyncio.create_task(_readiness(caller, port, probes, on_ready))
    try:
        await _liveness(caller, port, probes)
    finally:
        readiness.cancel()


async def _started(caller: Caller, port: int, probes: Probes) -> None:
    deadline = time.monotonic() + probes.startup_seconds
    pause_seconds = _FIRST_SECONDS
    while found := await caller.ask(port, "/health", probes.timeout_seconds):
        if time.monotonic() > deadline:
            raise ProbeFailed(f"not started within {probes.startup_seconds} s: {found}")
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.3, _NOT_READY_SECONDS)


async def _readiness(
    caller: Caller, port: int, probes: Probes, on_ready: Callable[[bool], None]
) -> None:
    ready, failures, pause_seconds = False, 0, _FIRST_SECONDS
    while True:
        failures = failures + 1 if await caller.ask(port, "/ready", probes.timeout_seconds) else 0
        ready = failures == 0 or (ready and failures < probes.failure_threshold)
        on_ready(ready)
        if ready:
            pause_seconds = min(probes.period_seconds, _READY_SECONDS)
        else:
            pause_seconds = min(max(pause_seconds, _FIRST_SECONDS) * 1.3, _NOT_READY_SECONDS)
        await asyncio.sleep(pause_seconds)


async def _liveness(caller: Caller, port: int, probes: Probes) -> None:
    failures = 0
    while True:
        await asyncio.sleep(probes.period_seconds)
        found = await caller.ask(port, "/health", probes.timeout_seconds)
        failures = failures + 1 if found else 0
        if failures >= max(probes.failure_threshold, 1):
            raise ProbeFailed(f"not alive: {found}")
