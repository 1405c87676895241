"""State documents of processors that are gone are removed from the cluster, after their time."""

import asyncio
from collections.abc import Callable

from dory_orchestrator.core.departed import GONE_SECONDS, is_gone
from dory_orchestrator.core.model import Observation
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.seed import Seeder
from dory_orchestrator.ports import (
    CheckpointStore,
    Cluster,
    ClusterError,
    ClusterRefused,
    DepartedState,
    DocumentAhead,
    Lease,
    Refusal,
    StoreError,
)

_log = get_logger(__name__)
_SECONDS = 600.0
_AT_ONCE_MAX = 200
_CALL_SECONDS = 15.0
_NOTHING_THERE = (Refusal.NOT_FOUND, Refusal.NAMESPACE_MISSING)


class DepartedStates:
    """Looks now and then, while this process leads. What fails is tried again the next time.

    Only of processors that this database knew: documents bear no name of a fleet.
    """

    def __init__(
        self,
        store: CheckpointStore,
        cluster: Cluster,
        seeder: Seeder,
        *,
        observed: Callable[[], Observation | None],
        lease: Callable[[], Lease | None],
    ) -> None:
        self._store, self._cluster, self._seeder = store, cluster, seeder
        self._observed, self._lease = observed, lease

    async def run(self) -> None:
        """Remove until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            lease = self._lease()
            if lease is None:
                continue
            try:
                await self._remove_all(lease)
            except (StoreError, ClusterError, TimeoutError) as error:
                _log.info("states of processors that are gone stay for now", error=str(error))

    async def _remove_all(self, lease: Lease) -> None:
        """Raises StoreError, ClusterError, TimeoutError: the next would fail likewise."""
        removed = 0
        for state in await self._store.departed_states(
            gone_seconds=GONE_SECONDS, limit=_AT_ONCE_MAX
        ):
            observed = self._observed()
            if observed is None or self._lease() != lease:
                break
            if is_gone(state.processor_id, state.namespace, observed):
                async with asyncio.timeout(_CALL_SECONDS):
                    removed += await self._remove(lease, state)
        if removed:
            _log.info("states of processors that are gone were removed", documents=removed)

    async def _remove(self, lease: Lease, state: DepartedState) -> bool:
        removed = False
        try:
            removed = await self._seeder.put_away(lease, self._cluster, state)
        except DocumentAhead as error:
            # The evidence that the database was rolled back: not ours to remove.
            _log.warning("the state of a processor that is gone stays", error=str(error))
        except ClusterRefused as refused:
            if refused.reason not in _NOTHING_THERE:
                # Somebody writes it, or this namespace gives no right to: others may.
                _log.info(
                    "the state of a processor that is gone stays for now",
                    processor_id=str(state.processor_id),
                    error=str(refused),
                )
                return False
        await self._store.forget_departed_state(lease, state)
        return removed
