"""Documents of running pods: kept at most `seed_every` old, for whoever begins while we are away.

Only what the database has stored is written, and only while the very life that it is of still
answers: a document that was written after the next life had begun would tell of that a wrong
start. Apart from the checkpoints of others: few at a time, and whoever waits too long is late.
"""

import asyncio
import zlib
from collections.abc import Callable
from uuid import UUID

from dory_orchestrator.core.start import Carrier
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.capture import Visitor
from dory_orchestrator.loops.restore import Life, Owned
from dory_orchestrator.loops.seed import Seeder
from dory_orchestrator.ports import (
    CheckpointStore,
    Cluster,
    ClusterError,
    ClusterRefused,
    DocumentAhead,
    Lease,
    Refusal,
    StoreError,
)

_log = get_logger(__name__)
_WRITERS = 8
_CALL_SECONDS = 10.0


class Documents:
    """Writes them beside the checkpoints. `on_ahead` is told of one that is newer than the
    database."""

    def __init__(
        self,
        *,
        store: CheckpointStore,
        cluster: Cluster,
        seeder: Seeder,
        visitor: Visitor,
        lease: Callable[[], Lease | None],
        owned: Callable[[str], Owned | None],
        lock: Callable[[str], asyncio.Lock],
        on_ahead: Callable[[UUID, str, str], None],
        every_seconds: float,
    ) -> None:
        self._store, self._cluster = store, cluster
        self._seeder, self._visitor = seeder, visitor
        self._lease, self._owned, self._lock = lease, owned, lock
        self._on_ahead = on_ahead
        self._every_seconds = every_seconds
        self._due_at: dict[str, float] = {}
        self._waiting: dict[str, None] = {}
        self._is_wanted = asyncio.Event()

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_WRITERS):
                tasks.create_task(self._write_waiting())

    def began(self, uid: str) -> None:
        """A life began that had no document of its own yet: it is due at once."""
        self._due_at[uid] = 0.0

    def stored(self, owned: Owned) -> None:
        """The newest state of a pod is stored: written when it is due."""
        uid, now = owned.pod.uid, asyncio.get_running_loop().time()
        if self._cluster.carrier(owned.backend) is not Carrier.READABLE:
            return
        # Of those that ran when we began to lead nobody knows when: spread, as they are many.
        due_at = self._due_at.setdefault(uid, now + _share(uid) * self._every_seconds)
        if now >= due_at:
            self._waiting[uid] = None
            self._is_wanted.set()

    def forget(self, uid: str) -> None:
        """There is no such pod any more."""
        self._due_at.pop(uid, None)
        self._waiting.pop(uid, None)

    def forget_all(self) -> None:
        """It was another's turn meanwhile."""
        self._due_at.clear()
        self._waiting.clear()

    async def _write_waiting(self) -> None:
        while True:
            await self._is_wanted.wait()
            if not self._waiting:
                self._is_wanted.clear()
                continue
            uid = next(iter(self._waiting))
            del self._waiting[uid]
            await self._write(uid)

    async def _write(self, uid: str) -> None:
        async with self._lock(uid):
            owned, lease = self._owned(uid), self._lease()
            life = self._visitor.lives.get(uid)
            if owned is None or lease is None or life is None or not life.incarnation.given:
                return
            self._due_at[uid] = asyncio.get_running_loop().time() + self._every_seconds
            try:
                await self._refresh(lease, owned, life)
            except DocumentAhead as error:
                self._visitor.forget(uid)
                self._on_ahead(_processor(owned), owned.pod.namespace, str(error))
            except (StoreError, ClusterError, TimeoutError) as error:
                _log.info("a document is not refreshed", pod=owned.pod.name, error=str(error))

    async def _refresh(self, lease: Lease, owned: Owned, life: Life) -> None:
        """Raises StoreError (DocumentAhead), ClusterError, TimeoutError."""
        overwritten: list[float | None] = []
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await self._seeder.refresh(
                    lease, self._cluster, owned.pod, on_write=overwritten.append
                )
        except ClusterRefused as error:
            # Somebody else wrote, or it is too large: nothing was written.
            if error.reason not in (Refusal.CONFLICT, Refusal.TOO_LARGE):
                raise
            return
        finally:
            # Also after a call that failed: it may have been done.
            if overwritten:
                await self._make_sure(lease, owned, life, overwritten[0])

    async def _make_sure(
        self, lease: Lease, owned: Owned, life: Life, overwritten_at: float | None
    ) -> None:
        key, sure = _processor(owned), await self._visitor.is_still(owned, life)
        if sure and life.seed_doubted_from is not None:
            await self._store.doubt_seed(lease, key, life.incarnation, None)
            life.seed_doubted_from = None
        elif not sure:
            # Where nothing lay before, or what another wrote, it may have begun without any.
            doubted_from = 0.0 if overwritten_at is None else overwritten_at
            await self._store.doubt_seed(lease, key, life.incarnation, doubted_from)
            life.seed_doubted_from = doubted_from


def _processor(owned: Owned) -> UUID:
    assert owned.pod.processor_id is not None  # noqa: S101 - only such pods are visited
    return owned.pod.processor_id


def _share(uid: str) -> float:
    """From 0 to 1, always the same for the same pod."""
    return zlib.crc32(uid.encode()) / 2**32
