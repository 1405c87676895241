"""The canary: a heartbeat of our own, once a second, the way that all others take.

While it is not recorded, nobody's is, and the silence of the fleet is our doing (promise
S2). The statement that records it stores the time since the one before as a gap, by the
database's clock, so a gap survives the end of any process. Sources of gaps that the canary
cannot see, refused heartbeats, are stored from here.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import aiohttp

from dory_orchestrator.core.hearing import Hearing, HearingLimits, judge, refusing
from dory_orchestrator.core.model import ComponentHealth
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import GapStore, StoreError

_log = get_logger(__name__)
_TIMEOUT_SECONDS = 2.5
_GAPS_KEPT_SECONDS = 30 * 86_400.0
_FORGET_SECONDS = 3_600.0


class Counts(NamedTuple):
    """Heartbeats since the start: refused by us (errors and shed), and all others."""

    refused: float
    heard: float


class Canary:
    """Beats once a second and judges how well we hear."""

    def __init__(
        self,
        *,
        url: str,
        processor_id: str,
        token: str | None,
        counts: Callable[[], Counts],
        store: GapStore,
        metrics: Metrics,
        limits: HearingLimits | None = None,
        beat_seconds: float = 1.0,
    ) -> None:
        self._url = f"{url}/api/v1/edge/heartbeat"
        self._body = {"processor_id": processor_id, "node_id": "", "status": "healthy"}
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._counts = counts
        self._store = store
        self._metrics = metrics
        self._limits = limits or HearingLimits()
        self._beat_seconds = beat_seconds
        self._started_at = time.monotonic()
        self._succeeded_at: float | None = None
        self._error: str | None = None
        self._in_gap = False
        self._refusing_since: float | None = None
        self._window: deque[tuple[float, Counts]] = deque()
        self._forgot_at = -_FORGET_SECONDS
        metrics.canary_age.set_function(
            lambda: -1.0 if self.age_seconds is None else self.age_seconds
        )

    @property
    def age_seconds(self) -> float | None:
        """Since the last canary beat that was recorded; None before the first."""
        return None if self._succeeded_at is None else time.monotonic() - self._succeeded_at

    async def run(self) -> None:
        """Beat until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            while True:
                began_at = time.monotonic()
                await self._beat(session)
                await self._reckon()
                await asyncio.sleep(max(0.0, began_at + self._beat_seconds - time.monotonic()))

    async def _beat(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.post(self._url, json=self._body) as answer:
                content = await answer.json()
            if answer.status == 200 and content["acknowledged"]:
                self._succeed()
            else:
                self._fail(content.get("error", "the database did not record it"))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
            self._fail(str(error) or "no answer in time")

    def _succeed(self) -> None:
        age = self.age_seconds
        if age is not None and age > self._limits.canary_gap_seconds:
            self._metrics.gaps.labels("canary").inc()
            self._metrics.gap_seconds.labels("canary").inc(age)
            _log.warning("a gap in our hearing ended", cause="canary", gap_seconds=round(age, 1))
        self._succeeded_at = time.monotonic()
        self._error = None
        self._in_gap = False
        self._metrics.hearing.set(1)

    def _fail(self, error: str) -> None:
        self._error = error
        since = self._succeeded_at if self._succeeded_at is not None else self._started_at
        deaf = time.monotonic() - since >= self._limits.canary_gap_seconds
        if deaf and not self._in_gap:
            self._in_gap = True
            self._metrics.hearing.set(0)
            _log.warning("a gap in our hearing began", cause="canary", error=error)

    # Refused beats

    def hearing(self) -> Hearing:
        """What the last window sounded like."""
        now = self._counts()
        then = self._window[0][1] if self._window else Counts(0, 0)
        return Hearing(
            canary_age_seconds=self.age_seconds,
            canary_error=self._error,
            refused=int(now.refused - then.refused),
            heard=int(now.heard - then.heard),
        )

    def health(self) -> ComponentHealth:
        """The component `heartbeats`."""
        return judge(self.hearing(), self._limits)

    async def _reckon(self) -> None:
        now = time.monotonic()
        self._window.append((now, self._counts()))
        while self._window[0][0] < now - self._limits.window_seconds:
            self._window.popleft()
        try:
            await self._store_refusals(now)
            await self._forget(now)
        except StoreError as error:
            # Not lost: the next call begins the gap as far back as it reaches by then.
            _log.debug("a gap was not stored", error=str(error))

    async def _store_refusals(self, now: float) -> None:
        if not refusing(self.hearing(), self._limits):
            if self._refusing_since is not None:
                self._metrics.gaps.labels("refused").inc()
                self._metrics.gap_seconds.labels("refused").inc(now - self._refusing_since)
                _log.warning("heartbeats are no longer refused in numbers")
            self._refusing_since = None
            return
        if self._refusing_since is None:
            self._refusing_since = self._first_refusal()
            _log.warning("heartbeats are refused in numbers", **self.hearing_counts())
        await self._store.extend_gap("refused", now - self._refusing_since)

    def hearing_counts(self) -> dict[str, int]:
        """For the log: how many were refused and heard in the window."""
        hearing = self.hearing()
        return {"refused": hearing.refused, "heard": hearing.heard}

    def _first_refusal(self) -> float:
        """When, within the window, refusing began."""
        first = self._window[0][1].refused
        return next(
            (at for at, counts in self._window if counts.refused > first), self._window[-1][0]
        )

    async def _forget(self, now: float) -> None:
        if now - self._forgot_at >= _FORGET_SECONDS:
            await self._store.forget_gaps(_GAPS_KEPT_SECONDS)
            self._forgot_at = now
