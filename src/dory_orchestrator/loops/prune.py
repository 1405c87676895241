"""What nobody needs any more is deleted, in steps that hold nobody up."""

import asyncio
from typing import Protocol

from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import StoreError

_log = get_logger(__name__)
_SECONDS = 600.0
_PAUSE_SECONDS = 0.2
_CHECKPOINTS_SECONDS = 30 * 86_400.0


class PrunedStore(Protocol):
    """The store, as far as it forgets; see FleetStore, WebhookStore, CheckpointStore."""

    async def forget_events(self, older_than_seconds: float) -> bool: ...

    async def forget_dead_letters(self, older_than_seconds: float) -> None: ...

    async def forget_checkpoints(self, older_than_seconds: float) -> None: ...


async def keep_pruning(store: PrunedStore, *, event_retention_seconds: float) -> None:
    """Every ten minutes, until cancelled."""
    while True:
        await asyncio.sleep(_SECONDS)
        try:
            more = True
            while more:
                more = await store.forget_events(event_retention_seconds)
                await asyncio.sleep(_PAUSE_SECONDS)
            await store.forget_dead_letters(event_retention_seconds)
            await store.forget_checkpoints(_CHECKPOINTS_SECONDS)
        except StoreError as error:
            _log.debug("what is old stays", error=str(error))
