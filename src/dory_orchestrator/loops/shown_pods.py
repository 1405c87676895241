"""Which pod runs a processor, written to the platform's own rows for its own pages.

Nothing rests on it. It is written after everything that was decided, and a row that somebody else
holds is skipped, and tried again in the next cycle.
"""

from collections.abc import Sequence
from uuid import UUID

from dory_orchestrator.core.model import Snapshot
from dory_orchestrator.core.plan import Record
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import FleetStore, Lease, LeaseLost, StoreError

_log = get_logger(__name__)
_STEP = 500
"""Rows in one transaction."""
_STEPS_MAX = 10
"""In one cycle: after a change of leader every row is looked at once."""


class ShownPods:
    """Remembers what is still to be shown, in one term: what another leader left is not known."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._lease: Lease | None = None
        self._due: dict[UUID, Record] = {}

    def note(self, record: Record) -> None:
        """It was written who owns: to be shown in the next cycle."""
        self._due[record.processor_id] = record

    async def show(self, lease: Lease, records: Sequence[Record], snapshot: Snapshot) -> None:
        """Write what is due. Raises LeaseLost; any other error costs this turn only."""
        if lease != self._lease:
            self._due = _owners(snapshot)
            self._lease = lease
        self._due |= {record.processor_id: record for record in records}
        due = list(self._due.values())
        for start in range(0, min(len(due), _STEP * _STEPS_MAX), _STEP):
            step = due[start : start + _STEP]
            try:
                held = await self._store.show_pods(lease, step)
            except LeaseLost:
                raise
            except StoreError as error:
                _log.info("pods are not shown", pods=len(step), error=str(error))
                return
            for record in step:
                if record.processor_id not in held:
                    del self._due[record.processor_id]
        # Those that are held go last: they must not keep the others from being shown.
        for record in due[: _STEP * _STEPS_MAX]:
            if record.processor_id in self._due:
                self._due[record.processor_id] = self._due.pop(record.processor_id)


def _owners(snapshot: Snapshot) -> dict[UUID, Record]:
    """What is known of every owner."""
    owned = (
        (key, own, snapshot.observed.pods.get(own.pod_uid or ""))
        for key, own in snapshot.desired.ownership.items()
    )
    return {key: Record(key, own.epoch, pod) for key, own, pod in owned if pod is not None}
