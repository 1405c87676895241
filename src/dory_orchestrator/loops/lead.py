"""One leader at a time, by a lease in the store (design, section 8).

Who leads stops in time by itself: its own clock, read before the lease was asked for, says
until when it may act, whether or not the store can be reached. That clock runs on while the
process is stopped or the machine sleeps.
"""

import asyncio
import time
from collections.abc import Callable

from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Lease, LeaseStore, StoreError

_log = get_logger(__name__)
LEASE_SECONDS = 10.0
_RENEWALS = 4
_FOLLOW_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_MARGIN_SECONDS = 1.0
"""How much earlier than the store we think that the lease is over: a call that was already on
its way when it ended has this long to arrive."""


def boot_clock() -> float:
    """Seconds since the machine started, its sleep included where the system tells of it."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Leadership:
    """Holds the lease as long as it can, and knows whether it does."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        holder: str,
        metrics: Metrics,
        on_change: Callable[[], None],
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._store = store
        self._holder = holder
        self._metrics = metrics
        self._on_change = on_change
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lease: Lease | None = None
        self._until = 0.0
        self._told: Lease | None = None

    @property
    def lease(self) -> Lease | None:
        """The lease while it may be acted on; None when it may not."""
        return self._lease if self._clock() < self._until else None

    async def run(self) -> None:
        """Ask for the lease, and keep it, until cancelled."""
        while True:
            delay = await self._ask()
            self._tell()
            await asyncio.sleep(delay)

    async def _ask(self) -> float:
        """Ask once; returns how long to wait before the next time."""
        asked_at = self._clock()
        term = self._lease.term if self._lease is not None else None
        try:
            held = await self._store.hold_lease(self._holder, term, self._lease_seconds)
        except StoreError as error:
            _log.debug("the lease cannot be asked for", error=str(error))
            return _RETRY_SECONDS
        if held is None:
            self._lease, self._until = None, 0.0
            return _FOLLOW_SECONDS
        # From before the question: the store's time began later, and so ends later.
        self._until = asked_at + self._lease_seconds - _MARGIN_SECONDS
        if self._lease is None or self._lease.term != held:
            self._lease = Lease(self._holder, held)
        return self._lease_seconds / _RENEWALS

    def lost(self) -> None:
        """The store said that another leads."""
        self._until = 0.0
        self._tell()

    def _tell(self) -> None:
        lease = self.lease
        self._metrics.leader.set(lease is not None)
        if lease is not None:
            self._metrics.leader_term.set(lease.term)
        if lease == self._told:
            return
        if lease is not None:
            _log.info("leads", term=lease.term)
        else:
            _log.info("leads no more", term=self._told.term if self._told else None)
        self._told = lease
        self._on_change()

    async def resign(self) -> None:
        """Let go of the lease, so that another need not wait for its end."""
        lease, self._until = self._lease, 0.0
        if lease is None:
            return
        try:
            await self._store.release_lease(lease)
        except StoreError as error:
            _log.debug("the lease cannot be released; it ends by itself", error=str(error))
