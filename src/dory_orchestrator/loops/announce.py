"""Our events on the cluster's own objects: the leader says there what it writes down."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from dory_orchestrator.core.announcing import Announcement, Happening, announcement, concerns
from dory_orchestrator.core.model import Observation
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    Cluster,
    ClusterError,
    ClusterRefused,
    EventQuery,
    EventView,
    FleetViews,
    Lease,
    Refusal,
    StoreError,
)

_log = get_logger(__name__)
_SECONDS = 1.0
_PAGE = 200
_WAITING_MAX = 1_000
_PATIENCE_SECONDS = 10.0
"""A pod that was to be created is seen within that; what is gone by then is not said."""
_BACK_SECONDS = 30.0
"""So much of what another leader wrote is said again: what was said already counts once."""
_CALL_SECONDS = 5.0
_QUIET_SECONDS = 60.0


class Announcer:
    """Follows the stored events while this process leads. A cluster that cannot be told, or may
    not, costs nothing but that it is not told."""

    def __init__(
        self,
        views: FleetViews,
        cluster: Cluster,
        *,
        observed: Callable[[], Observation | None],
        lease: Callable[[], Lease | None],
    ) -> None:
        self._views, self._cluster = views, cluster
        self._observed, self._lease = observed, lease
        self._waiting: deque[tuple[float, Happening]] = deque(maxlen=_WAITING_MAX)
        """With the moment until which it is tried, on the loop's clock."""
        self._led: Lease | None = None
        self._after_id: int | None = None
        self._quiet_until = 0.0

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            lease = self._lease()
            observed = self._observed()
            if lease is None or observed is None:
                continue
            if lease != self._led:
                self._led, self._after_id = lease, None
                self._waiting.clear()
            try:
                await self._read()
            except StoreError as error:
                _log.debug("events are not read", error=str(error))
            await self._say(observed)

    async def _read(self) -> None:
        """Raises StoreError."""
        since = None
        if self._after_id is None:
            since = datetime.now(UTC) - timedelta(seconds=_BACK_SECONDS)
        query = EventQuery(limit=_PAGE, after_id=self._after_id or 0, since=since)
        page = await self._views.list_events(query)
        self._after_id = page.follow_id
        until = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        found = map(_happening, page.events)
        self._waiting.extend((until, one) for one in found if concerns(one))

    async def _say(self, observed: Observation) -> None:
        now, found = asyncio.get_running_loop().time(), list(self._waiting)
        self._waiting.clear()
        for until, happening in found:
            if self._quiet_until > now:
                return
            said = announcement(happening, observed)
            if said is not None:
                await self._announce(said)
            elif now < until:
                self._waiting.append((until, happening))

    async def _announce(self, said: Announcement) -> None:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await self._cluster.announce(said)
        except ClusterRefused as error:
            if error.reason is Refusal.FORBIDDEN:
                self._be_quiet(error)
            else:
                _log.debug("an event is refused", error=str(error))
        except (ClusterError, TimeoutError) as error:
            self._be_quiet(error)

    def _be_quiet(self, error: Exception) -> None:
        """It would be the same for all others; what waits is dropped, as it grows old."""
        _log.warning("events cannot be written to the cluster", error=str(error) or "no answer")
        self._quiet_until = asyncio.get_running_loop().time() + _QUIET_SECONDS


def _happening(event: EventView) -> Happening:
    return Happening(
        id=event.id,
        at=event.at.timestamp(),
        kind=event.kind,
        reason=event.reason,
        detail=event.detail,
        node_name=event.node_name,
        pod_name=event.pod_name,
        pod_uid=event.pod_uid,
    )
