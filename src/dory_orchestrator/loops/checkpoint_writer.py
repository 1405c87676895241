"""Writing checkpoints: in groups, in the order in which they were received, until it is done."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import UUID

from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Checkpoint,
    CheckpointStore,
    Confirmation,
    Lease,
    LeaseLost,
    StoreDataError,
    StoreError,
)

_log = get_logger(__name__)
_WRITE_SECONDS = 0.5
_GROUP_SIZE_MAX = 200
_GROUP_BYTES_MAX = 8 * 1024 * 1024

Item = Checkpoint | Confirmation


class CheckpointWriter:
    """Holds the newest item of each processor until it is written or refused.

    One writing at a time, so that what was received later is never written earlier.
    `on_written(item, accepted)` is called for each.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        lease: Callable[[], Lease | None],
        metrics: Metrics,
        on_written: Callable[[Item, bool], None],
    ) -> None:
        self._store = store
        self._lease = lease
        self._metrics = metrics
        self._on_written = on_written
        self._waiting: dict[UUID, Item] = {}
        self._writing = asyncio.Lock()
        self._error: str | None = None

    def put(self, item: Item) -> None:
        """Have it written soon, in place of what waits of the same processor."""
        self._waiting[item.processor_id] = item

    def forget(self) -> None:
        """Write nothing of what waits: it is another's turn."""
        self._waiting.clear()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            await self.write_waiting()

    async def write_waiting(self) -> None:
        """One round. What the store did not take stays, unless something newer came."""
        async with self._writing:
            lease, waiting = self._lease(), self._waiting
            if lease is None or not waiting:
                return
            self._waiting = {}
            groups = list(_groups(waiting.values()))
            for number, group in enumerate(groups):
                try:
                    await self._write(lease, group)
                except LeaseLost:
                    self.forget()
                    return
                except StoreError as error:
                    self._fail(error)
                    for item in [item for left in groups[number:] for item in left]:
                        self._waiting.setdefault(item.processor_id, item)
                    return
            self._succeed()

    async def write_now(self, lease: Lease, item: Item) -> bool:
        """Write it at once; whether it was accepted. Raises StoreError: it may be written."""
        async with self._writing:
            self._waiting.pop(item.processor_id, None)
            try:
                [accepted] = await self._write(lease, [item])
            except StoreError as error:
                self._fail(error)
                raise
            return accepted

    async def _write(self, lease: Lease, group: Sequence[Item]) -> list[bool]:
        try:
            accepted = await self._try(lease, group)
        except StoreDataError as error:
            if len(group) == 1:
                _log.error("the database refuses a state", error=str(error))
                accepted = [False]
            else:
                return [(await self._write(lease, [item]))[0] for item in group]
        for item, ok in zip(group, accepted, strict=True):
            self._on_written(item, ok)
        return accepted

    async def _try(self, lease: Lease, group: Sequence[Item]) -> list[bool]:
        saves = [item for item in group if isinstance(item, Checkpoint)]
        confirmations = [item for item in group if isinstance(item, Confirmation)]
        accepted: dict[UUID, bool] = {}
        if saves:
            saved = await self._store.save_checkpoints(lease, saves)
            accepted.update(zip((item.processor_id for item in saves), saved, strict=True))
        if confirmations:
            confirmed = await self._store.confirm_checkpoints(lease, confirmations)
            ids = (item.processor_id for item in confirmations)
            accepted.update(zip(ids, confirmed, strict=True))
        return [accepted[item.processor_id] for item in group]

    def _fail(self, error: StoreError) -> None:
        self._metrics.checkpoints.labels("store_error").inc()
        if self._error is None:
            _log.warning("checkpoints cannot be stored", error=str(error))
        self._error = str(error)

    def _succeed(self) -> None:
        if self._error is not None:
            _log.info("checkpoints are stored again")
        self._error = None


def _groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    group: list[Item] = []
    size_bytes = 0
    for item in items:
        item_bytes = len(item.payload) if isinstance(item, Checkpoint) else 0
        if group and (len(group) >= _GROUP_SIZE_MAX or size_bytes + item_bytes > _GROUP_BYTES_MAX):
            yield group
            group, size_bytes = [], 0
        group.append(item)
        size_bytes += item_bytes
    if group:
        yield group
