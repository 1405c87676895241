"""The document in the client library's store: taken when it is newer, replaced when it is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core.checkpoint import (
    CaptureLimits,
    Document,
    DocumentReason,
    DocumentRefused,
    Incarnation,
    Position,
    StoredCheckpoint,
    document,
    is_ahead,
    judge_document,
    place_document,
    read_document,
)
from dory_orchestrator.core.departed import is_removable
from dory_orchestrator.core.model import Pod, PodSpec
from dory_orchestrator.core.start import Carrier, Lay, Start, start_of
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import (
    Archived,
    CheckpointStore,
    Cluster,
    ClusterRefused,
    ClusterUnavailable,
    DepartedState,
    DocumentAhead,
    Event,
    Lease,
    Refusal,
    StoreBusy,
    StoredState,
)

_log = get_logger(__name__)
_TRIES = 5
_TOLD = (DocumentReason.STRANGER, DocumentReason.DOUBTFUL, DocumentReason.CONTRADICTED)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What the next container starts from. `confirmed_at`, by the database's clock, is when the
    state was last seen in the pod: what came after it is lost."""

    position: Position
    pod_name: str
    captured_at: float
    confirmed_at: float
    sha256: bytes
    size_bytes: int


class Seeder:
    """Reads and writes documents of processors whose pods end or begin."""

    def __init__(
        self,
        store: CheckpointStore,
        *,
        limits: CaptureLimits,
        tell: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._limits = limits
        self._tell = tell
        self._complaints: dict[UUID, tuple[str, str]] = {}
        """What was told last of each: looked at again and again, it is told once."""
        self._unreadable: dict[UUID, str] = {}
        """Of a document that could not be read while its pod ran, which version that was."""

    def forget_complaints(self) -> None:
        """It was another's turn meanwhile."""
        self._complaints.clear()
        self._unreadable.clear()

    async def seed(
        self,
        lease: Lease,
        cluster: Cluster,
        spec: PodSpec,
        pod_names: Sequence[str],
        *,
        proof: Sequence[str],
        restarted: bool,
    ) -> Seeded | None:
        """Make the document the newest state; None when there is no state at all. One that is too
        large for the store is given to the pod itself, once it is ready.

        Raises StoreError, ClusterError: nothing may be created then.
        """
        for tries_left in reversed(range(_TRIES)):
            stored = await cluster.read_state(spec.namespace, spec.processor_id)
            found = self._read(spec.processor_id, stored)
            last = await self._store.last_incarnation(spec.processor_id)
            newest, judged = await self._newest(
                lease,
                spec.processor_id,
                found,
                pod_names=pod_names,
                last=last,
                proof=proof,
                restarted=restarted,
            )
            if newest is None:
                return None
            if found is not None and found.sha256 == newest.sha256:
                return _seeded(newest)
            if found is not None and judged in _TOLD:
                await self._archive(lease, spec.processor_id, found, newest, judged)
            try:
                await cluster.seed_state(
                    spec.namespace,
                    spec.processor_id,
                    _document(spec.processor_id, newest),
                    version=None if stored is None else stored.version,
                )
            except ClusterRefused as error:
                if error.reason is Refusal.TOO_LARGE:
                    _note_too_large(spec, newest, error)
                    return _seeded(newest)
                if error.reason is not Refusal.CONFLICT or not tries_left:
                    raise
                continue
            return _seeded(newest)
        raise AssertionError("unreachable")

    async def look_at_start(
        self,
        lease: Lease,
        cluster: Cluster,
        pod: Pod,
        *,
        backend: str,
        previous: Incarnation | None,
        restarted: bool,
        ready_at: float,
        proof: Sequence[str],
        doubted_from: float | None,
    ) -> tuple[StoredCheckpoint | None, Start]:
        """The newest state of a pod that has begun another life, and what that life began with.
        What the pod saved at the end of its last life is taken, where it is newer.

        Raises StoreError (DocumentAhead), ClusterUnavailable.
        """
        key, carrier = _processor(pod), cluster.carrier(backend)
        if carrier is not Carrier.READABLE:
            lay = Lay.NONE if carrier is Carrier.NONE else Lay.UNKNOWN
            return await self._store.newest_checkpoint(key), Start(lay)
        try:
            stored = await cluster.read_state(pod.namespace, key)
        except ClusterRefused as error:
            # The program may have better luck.
            self._complain(key, "unreadable", f"the stored document: {error}")
            return await self._store.newest_checkpoint(key), Start(Lay.UNKNOWN)
        found = self._read(key, stored)
        newest, judged = await self._newest(
            lease,
            key,
            found,
            pod_names=(pod.name,),
            last=previous,
            proof=proof,
            restarted=restarted,
            before=ready_at,
        )
        return newest, start_of(
            found,
            judged,
            unreadable=stored is not None and found is None,
            previous=previous,
            doubted_from=doubted_from,
        )

    async def refuse_if_ahead(self, cluster: Cluster, pod: Pod, *, backend: str) -> None:
        """Raises DocumentAhead when the document is newer than all that the database has; besides
        StoreError. What cannot be read shows nothing.
        """
        key = _processor(pod)
        if cluster.carrier(backend) is not Carrier.READABLE:
            return
        try:
            found = self._read(key, await cluster.read_state(pod.namespace, key))
        except (ClusterRefused, ClusterUnavailable):
            return
        _refuse_if_ahead(found, await self._store.newest_checkpoint(key))

    async def adopt(self, lease: Lease, cluster: Cluster, namespace: str, key: UUID) -> bool:
        """Make a document that is ahead the newest, as an operator has declared; whether it was.

        Raises StoreError, ClusterError.
        """
        stored = await cluster.read_state(namespace, key)
        found = self._read(key, stored)
        before = await self._store.newest_checkpoint(key)
        if stored is None or found is None or not is_ahead(found, before):
            return False
        if not await self._store.adopt_document(lease, key, found):
            return False
        newest = await self._store.newest_checkpoint(key)
        if newest is not None:
            # Under its new position: the old one would be ahead for ever.
            await cluster.seed_state(namespace, key, _document(key, newest), version=stored.version)
        return True

    async def refresh(
        self, lease: Lease, cluster: Cluster, pod: Pod, *, on_write: Callable[[float | None], None]
    ) -> None:
        """Have the next container of a pod begin with the newest state, as long as that is the
        pod's own. Just before it is written `on_write` is told when what lies there was received;
        None: that is not known.

        Raises StoreError (DocumentAhead), ClusterError: it may have been written.
        """
        key = _processor(pod)
        newest = await self._store.newest_checkpoint(key)
        if newest is None or newest.pod_uid != pod.uid:
            return
        stored = await cluster.read_state(pod.namespace, key)
        is_broken = stored is not None and self._unreadable.get(key) == stored.version
        found = self._read(key, stored, told=is_broken)
        if self._may_be_half_written(key, stored, found):
            return
        _refuse_if_ahead(found, newest)
        if found is not None and found.sha256 == newest.sha256 and not _is_beyond(found, newest):
            return
        if found is not None and found.position is None:
            if found.pod_name == pod.name and found.saved_at >= newest.captured_at:
                # It saved after it was asked: that is newer, and taken when it begins anew.
                return
            if found.pod_name != pod.name:
                await self._archive(lease, key, found, newest, DocumentReason.STRANGER)
        on_write(None if found is None else found.received_at)
        await cluster.seed_state(
            pod.namespace,
            key,
            _document(key, newest),
            version=None if stored is None else stored.version,
        )

    async def undo_late_save(self, lease: Lease, cluster: Cluster, pod: Pod) -> bool:
        """Put the newest state in place of what a pod saved that was forced away: where nobody
        reached it, it ran on. Whether there was such a save. Raises StoreError, ClusterError.
        """
        key = _processor(pod)
        stored = await cluster.read_state(pod.namespace, key)
        found = self._read(key, stored)
        if stored is None or found is None or found.position is not None:
            return False
        newest = await self._store.newest_checkpoint(key)
        if found.pod_name != pod.name or newest is None or newest.sha256 == found.sha256:
            return False
        await self._archive(lease, key, found, newest, "late")
        try:
            await cluster.seed_state(
                pod.namespace, key, _document(key, newest), version=stored.version
            )
        except ClusterRefused as error:
            if error.reason is not Refusal.CONFLICT:
                raise
            # The owner saved meanwhile: that stands.
            return False
        self._complain(key, "late", f"pod {pod.name} saved after it was forced away")
        return True

    async def put_away(self, lease: Lease, cluster: Cluster, state: DepartedState) -> bool:
        """Remove the document of a processor that is gone, after what is newer in it was taken:
        should its row come back, it goes on from that. Whether there was one to remove.

        Raises StoreError, ClusterError (CONFLICT when it was written meanwhile).
        """
        key = state.processor_id
        stored = await cluster.read_state(state.namespace, key)
        found = self._read(key, stored)
        if stored is None or not is_removable(found, state.pod_name):
            return False
        # One that is ahead is the evidence that the database was rolled back: it stays.
        await self._newest(
            lease,
            key,
            found,
            pod_names=() if state.pod_name is None else (state.pod_name,),
            last=await self._store.last_incarnation(key),
            proof=(),
            restarted=False,
        )
        await cluster.remove_state(state.namespace, key, version=stored.version)
        return True

    def _read(
        self, processor_id: UUID, stored: StoredState | None, *, told: bool = True
    ) -> Document | None:
        if stored is None:
            return None
        try:
            return read_document(stored.document, self._limits)
        except DocumentRefused as error:
            if told:
                self._complain(processor_id, "unreadable", f"the stored document: {error}")
            return None

    def _may_be_half_written(
        self, key: UUID, stored: StoredState | None, found: Document | None
    ) -> bool:
        """Whether its program may just be writing what cannot be read: the client library writes
        into its file, and what it saves as it ends would be lost with the file that we replace.
        What is the same at the next look is broken.
        """
        known = self._unreadable.pop(key, None)
        if stored is None or found is not None or known == stored.version:
            return False
        self._unreadable[key] = stored.version
        return True

    async def _newest(
        self,
        lease: Lease,
        processor_id: UUID,
        found: Document | None,
        *,
        pod_names: Sequence[str],
        last: Incarnation | None,
        proof: Sequence[str],
        restarted: bool,
        before: float | None = None,
    ) -> tuple[StoredCheckpoint | None, DocumentReason | None]:
        """The newest checkpoint, after the document was taken where it is newer, and how that was
        judged. Raises DocumentAhead, besides."""
        for _ in range(_TRIES):
            newest = await self._store.newest_checkpoint(processor_id)
            if found is None:
                return newest, None
            _refuse_if_ahead(found, newest)
            reason = judge_document(
                found,
                newest,
                pod_names=pod_names,
                last=last,
                proof=proof,
                restarted=restarted,
                before=before,
            )
            if not reason.taken:
                if newest is not None and _is_told(reason, found, newest):
                    detail = f"the document that pod {found.pod_name} saved is not taken"
                    self._complain(processor_id, reason, detail)
                return newest, reason
            if await self._store.save_document(
                lease,
                processor_id,
                found,
                place=place_document(found, newest),
                newest=None if newest is None else newest.position,
            ):
                _log.info(
                    "the document of the client library is taken",
                    processor_id=str(processor_id),
                    pod=found.pod_name,
                    reason=reason,
                )
                return await self._store.newest_checkpoint(processor_id), reason
        raise StoreBusy("the newest checkpoint changes all the time")

    async def _archive(
        self,
        lease: Lease,
        processor_id: UUID,
        found: Document,
        newest: StoredCheckpoint,
        reason: str,
    ) -> None:
        """Keep a document that is about to be overwritten."""
        archived = Archived(
            processor_id,
            f"document_{reason}",
            newest.position.epoch,
            newest.position.incarnation,
            found.pod_name,
            found.saved_at,
            found.payload,
            found.sha256,
        )
        await self._store.archive_state(lease, archived)

    def _complain(self, processor_id: UUID, reason: str, detail: str) -> None:
        if self._complaints.get(processor_id) == (reason, detail):
            return
        self._complaints[processor_id] = reason, detail
        _log.warning(
            "a stored state is not used",
            processor_id=str(processor_id),
            reason=reason,
            detail=detail,
        )
        self._tell(Event("document_refused", reason, detail, processor_id))


def _processor(pod: Pod) -> UUID:
    assert pod.processor_id is not None  # noqa: S101 - only such pods are looked at
    return pod.processor_id


def _is_beyond(found: Document, newest: StoredCheckpoint) -> bool:
    """Of the newest state, under a position that the database has forgotten: with the next state
    it would be ahead."""
    return found.position is not None and found.position > newest.position


def _refuse_if_ahead(found: Document | None, newest: StoredCheckpoint | None) -> None:
    """Raises DocumentAhead."""
    if found is None or not is_ahead(found, newest):
        return
    known = "nothing" if newest is None else f"position {tuple(newest.position)}"
    raise DocumentAhead(
        f"the document that we wrote of pod {found.pod_name} has position"
        f" {tuple(found.position or ())}, the database has {known}: was it restored from a backup?"
    )


def _is_told(reason: DocumentReason, found: Document, newest: StoredCheckpoint) -> bool:
    """That the pod before has saved is no news, once the newest state is its."""
    is_known = reason is DocumentReason.STRANGER and found.pod_name == newest.pod_name
    return reason in _TOLD and not is_known


def _note_too_large(spec: PodSpec, newest: StoredCheckpoint, error: ClusterRefused) -> None:
    """Whatever lies there, the pod begins with that; at its first visit it is found to be no
    newest state, and is given that."""
    _log.info(
        "a state is too large for the cluster: the pod is given it once it is ready",
        processor_id=str(spec.processor_id),
        pod=spec.name,
        size_bytes=len(newest.payload),
        error=str(error),
    )


def _document(processor_id: UUID, newest: StoredCheckpoint) -> bytes:
    return document(
        newest.payload,
        processor_id=processor_id,
        pod_name=newest.pod_name,
        timestamp=newest.captured_at,
        position=newest.position,
        received_at=newest.received_at,
    )


def _seeded(newest: StoredCheckpoint) -> Seeded:
    return Seeded(
        newest.position,
        newest.pod_name,
        newest.captured_at,
        newest.confirmed_at,
        newest.sha256,
        len(newest.payload),
    )
