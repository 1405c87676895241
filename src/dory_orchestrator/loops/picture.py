"""Says in the database that a leader sees the cluster, and whose ids its pods bear there.

Without that nobody is told to end for a missing row: of an empty or a wrong database every row is
missing.
"""

import asyncio
from collections.abc import Callable, Mapping
from uuid import UUID

from dory_orchestrator.core.model import Desired, Observation
from dory_orchestrator.core.picture import UnownedPod, is_fresh, unknown_pods, unowned
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.observe import Observer
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Event, FleetStore, Lease, LeaseLost, StoreError

_log = get_logger(__name__)
_INTERVAL_SECONDS_MIN = 1.0
"""A shorter one could not be kept up with: each half of it is a statement."""
_SHOWN_MAX = 5


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class Picture:
    """Writes when there is something new, and at least each half poll interval."""

    def __init__(
        self,
        store: FleetStore,
        observer: Observer,
        *,
        metrics: Metrics,
        poll_interval_seconds: float,
        lease: Callable[[], Lease | None],
        desired: Callable[[], Desired | None],
    ) -> None:
        self._store = store
        self._observer = observer
        self._metrics = metrics
        self._poll_interval_seconds = poll_interval_seconds
        self._interval_seconds = max(poll_interval_seconds, _INTERVAL_SECONDS_MIN)
        self._lease = lease
        self._desired = desired
        self._writing = asyncio.Lock()
        self._written: tuple[Lease, Mapping[UUID, UnownedPod], str | None, bool] | None = None
        self._written_at = 0.0

    async def keep(self) -> None:
        """Write in time, also while no cycle ends; until cancelled."""
        while True:
            await asyncio.sleep(self._interval_seconds / 4)
            try:
                await self.write()
            except LeaseLost as error:
                _log.debug("the picture is not recorded", error=str(error))
            except StoreError as error:
                _log.info("the picture is not recorded", error=str(error))

    async def write(self) -> None:
        """Write what is seen now, where that is due. Raises StoreError."""
        # One after the other: an older picture must not stand over a newer one.
        async with self._writing:
            lease, desired, observed = self._lease(), self._desired(), self._observer.current
            age_seconds = self._observer.picture_age_seconds
            if lease is None or desired is None or observed is None or age_seconds is None:
                return
            if is_fresh(age_seconds, self._poll_interval_seconds):
                await self._write(lease, desired, observed)

    async def _write(self, lease: Lease, desired: Desired, observed: Observation) -> None:
        found = unowned(desired, observed)
        said = (lease, found, observed.cluster_uid, observed.is_whole)
        began_at = _now()
        if said == self._written and began_at - self._written_at < self._interval_seconds / 4:
            return
        before = await self._store.record_picture(
            lease,
            interval_seconds=self._interval_seconds,
            cluster_uid=observed.cluster_uid,
            is_whole=observed.is_whole,
            # Also what stands there already: somebody may have emptied the database.
            unowned=found,
        )
        self._written, self._written_at = said, began_at
        unknown = {key: pod for key, pod in found.items() if pod.is_unknown}
        self._metrics.unknown_pods.set(len(unknown))
        # What the leader before told is not told again.
        if unknown and not before.has_unknown_pods:
            await self._tell(lease, "unknown_pods", _named(unknown, desired))
        if not before.is_taken and before.cluster_uid != observed.cluster_uid:
            detail = f"the cluster {observed.cluster_uid} is not the one that this database is of"
            await self._tell(lease, "another_cluster", detail)

    async def _tell(self, lease: Lease, reason: str, detail: str) -> None:
        _log.error("the database may be the wrong one: nobody is told to end", detail=detail)
        await self._store.record_events(lease, [Event("database", reason, detail)])


def _named(unknown: Mapping[UUID, UnownedPod], desired: Desired) -> str:
    names = sorted(f"{pod.namespace}/{pod.name}" for pod in unknown.values())
    return unknown_pods(f"the fleet {desired.fleet_id}", len(names), names[:_SHOWN_MAX])
