"""Checkpoints in memory. It passes the same contract suite as PostgreSQL."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from uuid import UUID

from tests.doubles import MemoryStore

from dory_orchestrator.core.checkpoint import (
    Capture,
    Document,
    Incarnation,
    Position,
    StoredCheckpoint,
    expected_restart_count,
    is_same_incarnation,
)
from dory_orchestrator.core.model import GuardRecord, Ownership, ProcessorConfig
from dory_orchestrator.core.start import Start
from dory_orchestrator.ports import (
    Archived,
    Begun,
    Checkpoint,
    Confirmation,
    DepartedState,
    Lease,
)
from dory_orchestrator.store.checkpoints import ARCHIVE_BYTES_MAX

_KEPT = 3


@dataclass
class MemoryCheckpoints:
    """To be mixed into the double of the store, whose owners, lease and clock it asks.

    `checkpoints` holds those of each processor, oldest first.
    """

    checkpoints: dict[UUID, list[StoredCheckpoint]] = field(default_factory=dict)
    incarnations: dict[UUID, Incarnation] = field(default_factory=dict)
    starts: dict[UUID, tuple[Start, Capture]] = field(default_factory=dict)
    doubts: dict[UUID, float] = field(default_factory=dict)
    to_adopt: set[UUID] = field(default_factory=set)
    """Whose documents an operator has declared the newest."""
    archive: dict[tuple[UUID, str], list[Archived]] = field(default_factory=dict)
    """Of each processor and reason the first and the newest."""
    archived_at: dict[bytes, int] = field(default_factory=dict)
    """By hash, in which turn it was archived."""
    _numbers: Any = field(default_factory=lambda: count(1))

    owners: dict[UUID, Ownership] = field(default_factory=dict)
    configs: dict[UUID, ProcessorConfig] = field(default_factory=dict)
    departed: dict[UUID, tuple[DepartedState, float]] = field(default_factory=dict)
    guard: GuardRecord = field(default_factory=GuardRecord)
    clock: Callable[[], float] = lambda: 0.0

    async def _answer(self, name: str) -> None:
        raise NotImplementedError

    async def _leading(self, name: str, lease: Lease) -> None:
        raise NotImplementedError

    def _owns(self, processor_id: UUID, epoch: int, pod_uid: str) -> bool:
        owner = self.owners.get(processor_id)
        return owner is not None and (owner.epoch, owner.pod_uid) == (epoch, pod_uid)

    def _newest(self, processor_id: UUID) -> StoredCheckpoint | None:
        return max(self.checkpoints.get(processor_id, ()), key=_position, default=None)

    async def begin_incarnation(
        self,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        *,
        pod_uid: str,
        pod_name: str,
        restart_count: int,
        ready_at: float,
    ) -> Begun | None:
        await self._leading("begin_incarnation", lease)
        if not self._owns(processor_id, epoch, pod_uid):
            return None
        newest = self._newest(processor_id)
        sha256 = None if newest is None else newest.sha256
        known = self.incarnations.get(processor_id)
        if known is not None and is_same_incarnation(
            known, pod_uid=pod_uid, restart_count=restart_count, ready_at=ready_at
        ):
            start, first = self.starts.get(processor_id, (None, None))
            first = None if known.given else first
            return Begun(known, sha256, None, start, first, self.doubts.get(processor_id))
        used = [each.position.incarnation for each in self.checkpoints.get(processor_id, ())]
        used += [] if known is None else [known.number]
        begun = Incarnation(
            max(used, default=0) + 1,
            pod_uid,
            pod_name,
            expected_restart_count(known, pod_uid, restart_count),
            ready_at,
        )
        self.incarnations[processor_id] = begun
        self.starts.pop(processor_id, None)
        if known is None or known.pod_uid != pod_uid:
            self.doubts.pop(processor_id, None)
        doubted_from = self.doubts.get(processor_id)
        return Begun(begun, sha256, known, seed_doubted_from=doubted_from)

    async def mark_given(
        self, lease: Lease, processor_id: UUID, epoch: int, incarnation: Incarnation
    ) -> bool:
        await self._leading("mark_given", lease)
        known = self._last(processor_id, epoch, incarnation)
        if known is None:
            return False
        self.incarnations[processor_id] = replace(known, given=True, behind=False, unprotected=None)
        self.doubts.pop(processor_id, None)
        return True

    def _last(self, processor_id: UUID, epoch: int, incarnation: Incarnation) -> Incarnation | None:
        known = self.incarnations.get(processor_id)
        if not self._owns(processor_id, epoch, incarnation.pod_uid):
            return None
        return known if known is not None and known.number == incarnation.number else None

    async def note_start(
        self,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        incarnation: Incarnation,
        *,
        start: Start,
        first: Capture,
        behind: bool,
    ) -> bool:
        await self._leading("note_start", lease)
        known = self._last(processor_id, epoch, incarnation)
        if known is None:
            return False
        self.starts[processor_id] = start, replace(first, asked_at=None)
        self.incarnations[processor_id] = replace(known, behind=behind)
        return True

    async def mark_unprotected(
        self,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        incarnation: Incarnation,
        detail: str,
    ) -> bool:
        await self._leading("mark_unprotected", lease)
        known = self._last(processor_id, epoch, incarnation)
        if known is None or known.given:
            return False
        self.incarnations[processor_id] = replace(known, behind=True, unprotected=detail)
        return True

    async def doubt_seed(
        self,
        lease: Lease,
        processor_id: UUID,
        incarnation: Incarnation,
        doubted_from: float | None,
    ) -> None:
        await self._leading("doubt_seed", lease)
        known = self.incarnations.get(processor_id)
        if known is None or known.number != incarnation.number:
            return
        self.doubts.pop(processor_id, None)
        if doubted_from is not None:
            self.doubts[processor_id] = doubted_from

    async def documents_to_adopt(self, processor_ids: Sequence[UUID]) -> list[UUID]:
        await self._answer("documents_to_adopt")
        return [key for key in processor_ids if key in self.to_adopt]

    async def adopt_document(self, lease: Lease, processor_id: UUID, document: Document) -> bool:
        await self._leading("adopt_document", lease)
        if processor_id not in self.to_adopt:
            return False
        self.to_adopt.remove(processor_id)
        kept = self.checkpoints.get(processor_id, [])
        owner, life = self.owners.get(processor_id), self.incarnations.get(processor_id)
        epoch = max([each.position.epoch for each in kept], default=0)
        number = max([each.position.incarnation for each in kept], default=0)
        epoch = max(epoch, 0 if owner is None else owner.epoch)
        number = 1 + max(number, 0 if life is None else life.number)
        self._put(
            processor_id,
            (epoch, number),
            "",
            document.pod_name,
            document.saved_at,
            document.payload,
            document.sha256,
        )
        if life is not None:
            self.incarnations[processor_id] = replace(life, number=number + 1)
        return True

    async def archive_state(self, lease: Lease, archived: Archived) -> bool:
        await self._leading("archive_state", lease)
        kept = self.archive.setdefault((archived.processor_id, archived.reason), [])
        if any(one.sha256 == archived.sha256 for one in kept):
            return False
        self.archive[archived.processor_id, archived.reason] = [*kept[:1], archived]
        self.archived_at[archived.sha256] = next(self._numbers)
        self._bound_archive(archived)
        return True

    def _bound_archive(self, last: Archived) -> None:
        firsts, others = [], []
        for (processor_id, _), kept in self.archive.items():
            if processor_id == last.processor_id:
                firsts += kept[:1]
                others += kept[1:]
        room_bytes = ARCHIVE_BYTES_MAX - len(last.payload)
        for some in (firsts, others):
            for one in sorted(some, key=lambda one: -self.archived_at[one.sha256]):
                if one is last:
                    continue
                room_bytes -= len(one.payload)
                if room_bytes < 0:
                    self.archive[one.processor_id, one.reason].remove(one)

    async def save_checkpoints(self, lease: Lease, checkpoints: Sequence[Checkpoint]) -> list[bool]:
        await self._leading("save_checkpoints", lease)
        return [self._save(each) for each in checkpoints]

    def _save(self, each: Checkpoint) -> bool:
        life, newest = self.incarnations.get(each.processor_id), self._newest(each.processor_id)
        if not self._owns(each.processor_id, each.epoch, each.pod_uid):
            return False
        if life is None or not life.given:
            return False
        if (life.number, life.pod_uid) != (each.incarnation, each.pod_uid):
            return False
        if newest is not None and newest.position[:2] > (each.epoch, each.incarnation):
            return False
        self._put(
            each.processor_id,
            (each.epoch, each.incarnation),
            each.pod_uid,
            each.pod_name,
            each.captured_at,
            each.payload,
            each.sha256,
            _age_seconds(each),
        )
        return True

    def _put(
        self,
        processor_id: UUID,
        place: tuple[int, int],
        pod_uid: str,
        pod_name: str,
        captured_at: float,
        payload: bytes,
        sha256: bytes,
        age_seconds: float = 0.0,
    ) -> None:
        now = self.clock()
        position = Position(*place, next(self._numbers))
        new = StoredCheckpoint(
            position, pod_uid, pod_name, captured_at, now, now - age_seconds, payload, sha256
        )
        before = self.checkpoints.get(processor_id, [])
        others = [each for each in before if each.position[:2] != place]
        self.checkpoints[processor_id] = sorted([*others, new], key=_position)[-_KEPT:]

    async def confirm_checkpoints(
        self, lease: Lease, confirmations: Sequence[Confirmation]
    ) -> list[bool]:
        await self._leading("confirm_checkpoints", lease)
        return [self._confirm(each) for each in confirmations]

    def _confirm(self, asked: Confirmation) -> bool:
        if not self._owns(asked.processor_id, asked.epoch, asked.pod_uid):
            return False
        place = asked.epoch, asked.incarnation
        stored = self.checkpoints.get(asked.processor_id, [])
        for number, each in enumerate(stored):
            if each.position[:2] == place and each.sha256 == asked.sha256:
                stored[number] = replace(each, confirmed_at=self.clock() - _age_seconds(asked))
                return True
        return False

    async def save_document(
        self,
        lease: Lease,
        processor_id: UUID,
        document: Document,
        *,
        place: tuple[int, int],
        newest: Position | None,
    ) -> bool:
        await self._leading("save_document", lease)
        found = self._newest(processor_id)
        if (None if found is None else found.position) != newest:
            return False
        same = found is not None and found.position[:2] == place
        self._put(
            processor_id,
            place,
            found.pod_uid if same and found is not None else "",
            document.pod_name,
            document.saved_at,
            document.payload,
            document.sha256,
        )
        return True

    async def newest_checkpoint(self, processor_id: UUID) -> StoredCheckpoint | None:
        await self._answer("newest_checkpoint")
        newest = self._newest(processor_id)
        if newest is None:
            return None
        return replace(newest, age_seconds=max(0.0, self.clock() - newest.confirmed_at))

    async def last_incarnation(self, processor_id: UUID) -> Incarnation | None:
        await self._answer("last_incarnation")
        return self.incarnations.get(processor_id)

    async def departed_states(self, *, gone_seconds: float, limit: int) -> Sequence[DepartedState]:
        await self._answer("departed_states")
        if self.guard.held_since is not None:
            return []
        return [
            state
            for key, (state, since) in self.departed.items()
            if since + gone_seconds < self.clock()
            and key not in self.configs
            and self.owners[key].pod_uid is None
        ][:limit]

    async def forget_departed_state(self, lease: Lease, state: DepartedState) -> None:
        await self._leading("forget_departed_state", lease)
        if self.owners[state.processor_id].epoch == state.epoch:
            self.departed.pop(state.processor_id, None)

    async def checkpoint_ages(self) -> dict[UUID, float]:
        await self._answer("checkpoint_ages")
        newest = {key: self._newest(key) for key in self.checkpoints}
        return {
            key: self.clock() - each.confirmed_at
            for key, each in newest.items()
            if each is not None
        }


@dataclass
class MemoryCheckpointStore(MemoryStore, MemoryCheckpoints):
    """The double of the store, with checkpoints."""


def _age_seconds(item: Checkpoint | Confirmation) -> float:
    if item.asked_at is None:
        return 0.0
    return asyncio.get_running_loop().time() - item.asked_at


def _position(checkpoint: StoredCheckpoint) -> Position:
    return checkpoint.position
