"""Events of loops that have no transaction of their own: written together, once a second."""

import asyncio
from collections import deque
from collections.abc import Callable

from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import Event, FleetStore, Lease, StoreError

_log = get_logger(__name__)
_SECONDS = 1.0
_WAITING_MAX = 1_000
"""The oldest are dropped: an event is for people, and the log has it as well."""


class Teller:
    """Takes events at any time, and writes them while this process leads."""

    def __init__(self, store: FleetStore, lease: Callable[[], Lease | None]) -> None:
        self._store = store
        self._lease = lease
        self._waiting: deque[Event] = deque(maxlen=_WAITING_MAX)

    def tell(self, event: Event) -> None:
        """Have it written soon."""
        self._waiting.append(event)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            lease = self._lease()
            if lease is None or not self._waiting:
                continue
            events = list(self._waiting)
            try:
                await self._store.record_events(lease, events)
            except StoreError as error:
                _log.debug("events wait for the store", events=len(events), error=str(error))
                continue
            for _ in events:
                self._waiting.popleft()
