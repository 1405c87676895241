"""The statements on checkpoints and incarnations. States are bytes here, compressed."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar
from uuid import UUID

from dory_orchestrator.core.checkpoint import (
    Capture,
    Document,
    Incarnation,
    Position,
    StoredCheckpoint,
    expected_restart_count,
    is_same_incarnation,
)
from dory_orchestrator.core.start import Lay, Start
from dory_orchestrator.ports import (
    Archived,
    Begun,
    Checkpoint,
    Confirmation,
    DepartedState,
    Lease,
)
from dory_orchestrator.store.connections import Connection, Pool
from dory_orchestrator.store.queries import load

T = TypeVar("T")
_QUERIES = load("checkpoints.sql")
_READ_SECONDS = 10.0
ARCHIVE_BYTES_MAX = 16 * 1024 * 1024
"""Of what is archived of one processor, as it was: twice the largest state that is read."""
_COMPRESSION = 1
"""States are written each ten seconds and read once in a while: fast is better than small."""


class _Led(Protocol):
    """What the statements need of the store that they are part of."""

    _others: Pool

    async def _leading(
        self, query_type: str, lease: Lease, work: Callable[[Connection], Awaitable[T]]
    ) -> T: ...


class CheckpointStatements:
    """CheckpointStore over a pool of connections."""

    async def begin_incarnation(
        self: _Led,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        *,
        pod_uid: str,
        pod_name: str,
        restart_count: int,
        ready_at: float,
    ) -> Begun | None:
        """See CheckpointStore."""

        async def work(connection: Connection) -> Begun | None:
            if not await connection.fetchval(_QUERIES["check_owner"], processor_id, epoch, pod_uid):
                return None
            newest = await connection.fetchval(_QUERIES["newest_sha256"], processor_id)
            known = await _last_incarnation(connection, processor_id)
            if known is not None and is_same_incarnation(
                known, pod_uid=pod_uid, restart_count=restart_count, ready_at=ready_at
            ):
                if known.ready_at is None:
                    await connection.execute(_QUERIES["note_ready"], processor_id, ready_at)
                    known = replace(known, ready_at=ready_at)
                noted = await connection.fetchrow(_QUERIES["start_of_last"], processor_id)
                start, first = _start(noted), _first(known, noted)
                return Begun(known, newest, None, start, first, noted["seed_doubted_from"])
            count = expected_restart_count(known, pod_uid, restart_count)
            number = await connection.fetchval(
                _QUERIES["begin_incarnation"],
                processor_id,
                epoch,
                pod_uid,
                pod_name,
                count,
                ready_at,
            )
            begun = Incarnation(number, pod_uid, pod_name, count, ready_at)
            noted = await connection.fetchrow(_QUERIES["start_of_last"], processor_id)
            return Begun(begun, newest, known, seed_doubted_from=noted["seed_doubted_from"])

        return await self._leading("begin_incarnation", lease, work)

    async def mark_given(
        self: _Led, lease: Lease, processor_id: UUID, epoch: int, incarnation: Incarnation
    ) -> bool:
        """See CheckpointStore."""

        async def work(connection: Connection) -> bool:
            pod_uid = incarnation.pod_uid
            if not await connection.fetchval(_QUERIES["check_owner"], processor_id, epoch, pod_uid):
                return False
            marked = await connection.fetchval(
                _QUERIES["mark_given"], processor_id, incarnation.number, pod_uid
            )
            return bool(marked)

        return await self._leading("mark_given", lease, work)

    async def note_start(
        self: _Led,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        incarnation: Incarnation,
        *,
        start: Start,
        first: Capture,
        behind: bool,
    ) -> bool:
        """See CheckpointStore."""
        [body] = await asyncio.to_thread(_compress_all, [first.payload])
        position = start.position or (None, None, None)

        async def work(connection: Connection) -> bool:
            pod_uid = incarnation.pod_uid
            if not await connection.fetchval(_QUERIES["check_owner"], processor_id, epoch, pod_uid):
                return False
            noted = await connection.fetchval(
                _QUERIES["note_start"],
                processor_id,
                incarnation.number,
                pod_uid,
                start.lay.value,
                *position,
                start.sha256,
                start.pod_name,
                start.at,
                start.was_read,
                first.captured_at,
                first.uptime_seconds,
                first.sha256,
                body,
                behind,
            )
            return bool(noted)

        return await self._leading("note_start", lease, work)

    async def mark_unprotected(
        self: _Led,
        lease: Lease,
        processor_id: UUID,
        epoch: int,
        incarnation: Incarnation,
        detail: str,
    ) -> bool:
        """See CheckpointStore."""

        async def work(connection: Connection) -> bool:
            pod_uid = incarnation.pod_uid
            if not await connection.fetchval(_QUERIES["check_owner"], processor_id, epoch, pod_uid):
                return False
            marked = await connection.fetchval(
                _QUERIES["mark_unprotected"], processor_id, incarnation.number, pod_uid, detail
            )
            return bool(marked)

        return await self._leading("mark_unprotected", lease, work)

    async def doubt_seed(
        self: _Led,
        lease: Lease,
        processor_id: UUID,
        incarnation: Incarnation,
        doubted_from: float | None,
    ) -> None:
        """See CheckpointStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                _QUERIES["doubt_seed"],
                processor_id,
                incarnation.number,
                incarnation.pod_uid,
                doubted_from,
            )

        await self._leading("doubt_seed", lease, work)

    async def documents_to_adopt(self: _Led, processor_ids: Sequence[UUID]) -> list[UUID]:
        """See CheckpointStore."""

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(
                _QUERIES["documents_to_adopt"], list(processor_ids)
            )
            return rows

        rows = await self._others.run("documents_to_adopt", work, timeout_seconds=_READ_SECONDS)
        return [row["processor_id"] for row in rows]

    async def adopt_document(
        self: _Led, lease: Lease, processor_id: UUID, document: Document
    ) -> bool:
        """See CheckpointStore. One transaction."""
        [body] = await asyncio.to_thread(_compress_all, [document.payload])

        async def work(connection: Connection) -> bool:
            if not await connection.fetchval(_QUERIES["take_adoption"], processor_id):
                return False
            number = await connection.fetchval(
                _QUERIES["adopt_document"],
                processor_id,
                document.pod_name,
                document.saved_at,
                document.sha256,
                len(document.payload),
                body,
            )
            await connection.execute(_QUERIES["go_on_after"], processor_id, number)
            await connection.execute(_QUERIES["forget_incarnations"], [processor_id])
            return True

        return await self._leading("adopt_document", lease, work)

    async def archive_state(self: _Led, lease: Lease, archived: Archived) -> bool:
        """See CheckpointStore."""
        [body] = await asyncio.to_thread(_compress_all, [archived.payload])

        async def work(connection: Connection) -> bool:
            place = await connection.fetchval(
                _QUERIES["archive_state"],
                archived.processor_id,
                archived.reason,
                archived.epoch,
                archived.incarnation,
                archived.pod_name,
                archived.captured_at,
                archived.sha256,
                len(archived.payload),
                body,
            )
            await connection.execute(
                _QUERIES["bound_archive"], archived.processor_id, ARCHIVE_BYTES_MAX
            )
            return place is not None

        return await self._leading("archive_state", lease, work)

    async def save_checkpoints(
        self: _Led, lease: Lease, checkpoints: Sequence[Checkpoint]
    ) -> list[bool]:
        """See CheckpointStore. One transaction."""
        bodies = await asyncio.to_thread(_compress_all, [c.payload for c in checkpoints])
        by_processor = {c.processor_id: (c, b) for c, b in zip(checkpoints, bodies, strict=True)}

        async def work(connection: Connection) -> list[bool]:
            owners = await _lock_owners(connection, checkpoints)
            rows = [by_processor[key] for key in owners]
            saved = await connection.fetch(
                _QUERIES["save_checkpoints"],
                [c.processor_id for c, _ in rows],
                [c.epoch for c, _ in rows],
                [c.incarnation for c, _ in rows],
                [c.pod_uid for c, _ in rows],
                [c.pod_name for c, _ in rows],
                [c.captured_at for c, _ in rows],
                [c.sha256 for c, _ in rows],
                [len(c.payload) for c, _ in rows],
                [body for _, body in rows],
                [_age_seconds(c) for c, _ in rows],
            )
            begun = [row["processor_id"] for row in saved if row["inserted"]]
            if begun:
                await connection.execute(_QUERIES["forget_incarnations"], begun)
            written = {row["processor_id"] for row in saved}
            return [c.processor_id in written for c in checkpoints]

        return await self._leading("save_checkpoints", lease, work)

    async def confirm_checkpoints(
        self: _Led, lease: Lease, confirmations: Sequence[Confirmation]
    ) -> list[bool]:
        """See CheckpointStore."""

        async def work(connection: Connection) -> list[bool]:
            owners = set(await _lock_owners(connection, confirmations))
            asked = [c for c in confirmations if c.processor_id in owners]
            rows = await connection.fetch(
                _QUERIES["confirm_checkpoints"],
                [c.processor_id for c in asked],
                [c.epoch for c in asked],
                [c.incarnation for c in asked],
                [c.sha256 for c in asked],
                [_age_seconds(c) for c in asked],
            )
            confirmed = {row["processor_id"] for row in rows}
            return [c.processor_id in confirmed for c in confirmations]

        return await self._leading("confirm_checkpoints", lease, work)

    async def save_document(
        self: _Led,
        lease: Lease,
        processor_id: UUID,
        document: Document,
        *,
        place: tuple[int, int],
        newest: Position | None,
    ) -> bool:
        """See CheckpointStore."""
        [body] = await asyncio.to_thread(_compress_all, [document.payload])

        async def work(connection: Connection) -> bool:
            found = await connection.fetchrow(_QUERIES["lock_newest"], processor_id)
            if (None if found is None else Position(*found)) != newest:
                return False
            await connection.execute(
                _QUERIES["save_document"],
                processor_id,
                *place,
                document.pod_name,
                document.saved_at,
                document.sha256,
                len(document.payload),
                body,
            )
            await connection.execute(_QUERIES["forget_incarnations"], [processor_id])
            return True

        return await self._leading("save_document", lease, work)

    async def newest_checkpoint(self: _Led, processor_id: UUID) -> StoredCheckpoint | None:
        """See CheckpointStore."""

        async def work(connection: Connection) -> Any:
            return await connection.fetchrow(_QUERIES["newest_checkpoint"], processor_id)

        row = await self._others.run("newest_checkpoint", work, timeout_seconds=_READ_SECONDS)
        if row is None:
            return None
        return StoredCheckpoint(
            position=Position(row["epoch"], row["incarnation"], row["sequence"]),
            pod_uid=row["pod_uid"],
            pod_name=row["pod_name"],
            captured_at=row["captured_at"],
            received_at=row["received_at"],
            confirmed_at=row["confirmed_at"],
            payload=zlib.decompress(row["body"]),
            sha256=row["sha256"],
            age_seconds=row["age_seconds"],
        )

    async def last_incarnation(self: _Led, processor_id: UUID) -> Incarnation | None:
        """See CheckpointStore."""

        async def work(connection: Connection) -> Incarnation | None:
            return await _last_incarnation(connection, processor_id)

        return await self._others.run("last_incarnation", work, timeout_seconds=_READ_SECONDS)

    async def forget_checkpoints(self: _Led, older_than_seconds: float) -> None:
        """Delete what is stored of processors whose rows are gone, if it was not seen for so
        long. Raises StoreUnavailable.
        """

        async def work(connection: Connection) -> None:
            await connection.execute(_QUERIES["forget_orphaned_checkpoints"], older_than_seconds)
            await connection.execute(_QUERIES["forget_orphaned_archive"], older_than_seconds)
            await connection.execute(_QUERIES["forget_orphaned_incarnations"])

        await self._others.run("forget_checkpoints", work, timeout_seconds=_READ_SECONDS)

    async def departed_states(
        self: _Led, *, gone_seconds: float, limit: int
    ) -> list[DepartedState]:
        """See CheckpointStore."""

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(
                _QUERIES["list_departed_states"], gone_seconds, limit
            )
            return rows

        rows = await self._others.run("departed_states", work, timeout_seconds=_READ_SECONDS)
        return [DepartedState(*row) for row in rows]

    async def forget_departed_state(self: _Led, lease: Lease, state: DepartedState) -> None:
        """See CheckpointStore."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                _QUERIES["forget_departed_state"], state.processor_id, state.epoch
            )

        await self._leading("forget_departed_state", lease, work)

    async def checkpoint_ages(self: _Led) -> dict[UUID, float]:
        """See CheckpointStore."""

        async def work(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(_QUERIES["checkpoint_ages"])
            return rows

        rows = await self._others.run("checkpoint_ages", work, timeout_seconds=_READ_SECONDS)
        return {row["processor_id"]: row["age_seconds"] for row in rows}


async def _last_incarnation(connection: Connection, processor_id: UUID) -> Incarnation | None:
    row = await connection.fetchrow(_QUERIES["last_incarnation"], processor_id)
    return None if row is None else Incarnation(*row)


def _start(row: Any) -> Start | None:
    if row["start_lay"] is None:
        return None
    position = row["start_epoch"], row["start_incarnation"], row["start_sequence"]
    return Start(
        Lay(row["start_lay"]),
        None if None in position else Position(*position),
        row["start_sha256"],
        row["start_pod_name"],
        row["start_at"],
        row["start_read"],
    )


def _first(life: Incarnation, row: Any) -> Capture | None:
    """Kept until it is decided what the life is given."""
    if row["first_body"] is None:
        return None
    return Capture(
        zlib.decompress(row["first_body"]),
        row["first_sha256"],
        life.pod_name,
        row["first_captured_at"],
        row["first_uptime_seconds"],
    )


async def _lock_owners(
    connection: Connection, asked: Sequence[Checkpoint | Confirmation]
) -> list[UUID]:
    rows = await connection.fetch(
        _QUERIES["lock_owners"],
        [one.processor_id for one in asked],
        [one.epoch for one in asked],
        [one.pod_uid for one in asked],
    )
    return [row["processor_id"] for row in rows]


def _age_seconds(item: Checkpoint | Confirmation) -> float:
    if item.asked_at is None:
        return 0.0
    return max(0.0, asyncio.get_running_loop().time() - item.asked_at)


def _compress_all(payloads: Sequence[bytes]) -> list[bytes]:
    return [zlib.compress(payload, _COMPRESSION) for payload in payloads]
