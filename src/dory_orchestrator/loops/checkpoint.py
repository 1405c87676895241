"""Checkpoints (promise S5): the state of each pod that owns, once an interval.

Pods have their turns spread over their interval, always at the same place of it; one that
appears, or begins a new life, is visited at once. A pod that hangs takes one of the places for
its time limit and delays nobody while there are others. What was received is stored in groups,
twice a second, until it is done.
"""

import asyncio
import heapq
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from dory_orchestrator.core.checkpoint import CaptureLimits
from dory_orchestrator.core.model import Pod, PodSpec
from dory_orchestrator.logs import get_logger
from dory_orchestrator.loops.capture import Visitor
from dory_orchestrator.loops.checkpoint_writer import CheckpointWriter, Item
from dory_orchestrator.loops.documents import Documents
from dory_orchestrator.loops.restore import Life, NotTaken, Owned
from dory_orchestrator.loops.seed import Seeded, Seeder
from dory_orchestrator.metrics import CHECKPOINT_AGES_SECONDS, Metrics
from dory_orchestrator.ports import (
    Checkpoint,
    CheckpointStore,
    Cluster,
    ClusterError,
    DocumentAhead,
    Event,
    Lease,
    Pods,
    StoreError,
)
from dory_orchestrator.tracing import NO_TRACER, MoveTrace, Tracer

__all__ = ["Checkpointer", "Owned", "Seeded"]

_log = get_logger(__name__)
_TICK_SECONDS = 0.1
_LOOK_TICKS = 10
_STALL_SECONDS = 1.0
_RETRY_SECONDS = 2.0
_SPREAD_SECONDS = 10.0
_AGES_SECONDS = 5.0
_INTERVALS_UNTIL_LATE = 3


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class Checkpointer:
    """Keeps the state of every pod that `running` names, and gives it to whoever begins.

    `running` is called once a second; `lease` is asked whenever something is done, and answers
    None while somebody else leads. Events go to `tell`.
    """

    def __init__(
        self,
        *,
        pods: Pods,
        store: CheckpointStore,
        cluster: Cluster,
        lease: Callable[[], Lease | None],
        running: Callable[[], Iterable[Owned | tuple[Pod, int, float, tuple[str, ...], str]]],
        tell: Callable[[Event], None],
        metrics: Metrics,
        tokens: Sequence[str] = (),
        limits: CaptureLimits | None = None,
        timeout_seconds: float = 5.0,
        concurrency: int = 100,
        seed_every_seconds: float = 60.0,
        on_restored: Callable[[], None] = lambda: None,
        tracer: Tracer = NO_TRACER,
        move_of: Callable[[UUID], MoveTrace | None] = lambda _: None,
    ) -> None:
        """`tokens` are tried in their order: the present one, and the one before it.
        `on_restored` is called whenever `restored` became true of a pod. `move_of` tells the move
        that a processor is in.
        """
        limits = limits or CaptureLimits()
        self._lease = lease
        self._running = running
        self._tell = tell
        self._metrics = metrics
        self._store = store
        self._cluster = cluster
        self._seeder = Seeder(store, limits=limits, tell=tell)
        self._visitor = Visitor(
            pods=pods,
            store=store,
            cluster=cluster,
            seeder=self._seeder,
            still_ready=self._is_still_ready,
            tell=tell,
            tokens=tokens,
            limits=limits,
            timeout_seconds=timeout_seconds,
            tracer=tracer,
            move_of=move_of,
        )
        self._writer = CheckpointWriter(
            store, lease=lease, metrics=metrics, on_written=self._written
        )
        self._documents = Documents(
            store=store,
            cluster=cluster,
            seeder=self._seeder,
            visitor=self._visitor,
            lease=lease,
            owned=self._owned,
            lock=lambda uid: self._visiting.setdefault(uid, asyncio.Lock()),
            on_ahead=self._freeze,
            every_seconds=seed_every_seconds,
        )
        self._on_restored = on_restored
        self._places = asyncio.Semaphore(concurrency)
        self._term: Lease | None = None
        self._has_looked = False
        self._present: dict[str, Owned] = {}
        self._first_seen_at: dict[str, float] = {}
        self._turns: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}
        self._visiting: dict[str, asyncio.Lock] = {}
        self._complaints: dict[str, str] = {}
        self._restarted: dict[UUID, str] = {}
        self._frozen: dict[UUID, tuple[str, str]] = {}
        """Why, and in which namespace the document is that shows it."""
        self._counts: dict[UUID, tuple[str, int]] = {}
        self._late: set[UUID] = set()
        self._ages: tuple[float, dict[UUID, float]] | None = None
        self.attended_since: float | None = None
        """Since when all turns are taken in time, by the event loop's clock: in this term, and
        since this process last stood still."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._writer.run())
            tasks.create_task(self._watch_ages())
            tasks.create_task(self._documents.run())
            tasks.create_task(self._watch_adoptions())
            tick, ticked_at = 0, _now()
            while True:
                if _now() - ticked_at > _STALL_SECONDS:
                    self.attended_since = _now()
                ticked_at = _now()
                if tick % _LOOK_TICKS == 0:
                    self._look()
                tick += 1
                self._start_due(tasks)
                await asyncio.sleep(_TICK_SECONDS)

    # What others ask

    def restored(self, uid: str, restart_count: int = 0) -> bool:
        """Whether the present incarnation of a pod continues from the newest state: it was given
        and proven, or there is none. A pod without a usable `/state` has none to lose, when
        nothing is stored of its processor either. With a `restart_count`: an incarnation no older
        than that, which may not have been looked at yet.
        """
        owned = self._present.get(uid)
        if owned is None or owned.pod.restart_count < restart_count:
            return False
        life = self._visitor.lives.get(uid)
        if life is not None and _is_present(life, owned):
            return life.incarnation.given
        return uid in self._complaints and life is None and self._has_nothing(owned)

    @property
    def unprotected(self) -> Mapping[str, str]:
        """The pods, by uid, whose present incarnation could not be given its state, and why."""
        return {
            uid: life.incarnation.unprotected
            for uid, life in self._visitor.lives.items()
            if life.incarnation.unprotected is not None
        }

    def _is_unprotected(self, uid: str) -> bool:
        life = self._visitor.lives.get(uid)
        return life is not None and life.incarnation.unprotected is not None

    @property
    def frozen(self) -> Mapping[UUID, str]:
        """The processors whose document is newer than the database, in words."""
        return {key: detail for key, (detail, _) in self._frozen.items()}

    async def prepare(
        self,
        lease: Lease,
        cluster: Cluster,
        spec: PodSpec,
        last_pod_names: Sequence[str],
        *,
        proof: Sequence[str] = (),
    ) -> Seeded | None:
        """Have the newest state where the pod will look for it, before it is created; None when
        there is none. `last_pod_names`: the owner, and the one before it.

        What ran last must have ended, or have lost its epoch. Raises StoreError (LeaseLost),
        ClusterError: then nothing may be created yet.
        """
        restarted = self._restarted.get(spec.processor_id) in last_pod_names
        try:
            seeded = await self._seeder.seed(
                lease, cluster, spec, tuple(last_pod_names), proof=proof, restarted=restarted
            )
        except DocumentAhead as error:
            self._freeze(spec.processor_id, spec.namespace, str(error))
            raise
        self._restarted.pop(spec.processor_id, None)
        return seeded

    async def undo_late_save(self, cluster: Cluster, pod: Pod) -> bool:
        """See Seeder."""
        lease = self._lease()
        return lease is not None and await self._seeder.undo_late_save(lease, cluster, pod)

    async def capture_now(self, lease: Lease, pod: Pod, epoch: int) -> str | None:
        """Take and durably store a checkpoint at once. Returns why that was not possible."""
        if pod.processor_id is None or pod.address is None:
            return "it has no address"
        owned = self._present.get(pod.uid)
        if owned is None or owned.epoch != epoch:
            proof, backend = ((), "") if owned is None else (owned.proof, owned.backend)
            owned = Owned(pod, epoch, 0.0, proof, backend)
        async with self._visiting.setdefault(pod.uid, asyncio.Lock()):
            try:
                item = await self._visitor.visit(lease, owned)
                accepted = await self._writer.write_now(lease, item)
                if not accepted and not isinstance(item, Checkpoint):
                    # Another one is stored by now.
                    item = await self._visitor.visit(lease, owned)
                    accepted = await self._writer.write_now(lease, item)
            except NotTaken as error:
                self._count(owned, error)
                return str(error)
            except DocumentAhead as error:
                self._visitor.forget(pod.uid)
                self._freeze(_processor(owned), pod.namespace, str(error))
                return str(error)
            except StoreError as error:
                _log.warning("a checkpoint is not stored", pod=pod.name, error=str(error))
                return f"the database: {error}"
            self._complaints.pop(pod.uid, None)
            return None if accepted else "its owner has changed"

    # Turns

    def _look(self) -> None:
        """See which pods there are now, and when their turns come."""
        lease = self._lease()
        if lease != self._term:
            self._begin_term(lease)
        pods = () if lease is None else self._running()
        now, before = _now(), self._present
        is_first, self._has_looked = not self._has_looked, lease is not None
        owned = (Owned(*each) for each in pods)
        self._present = {each.pod.uid: each for each in owned if _is_to_be_visited(each)}
        for uid, each in self._present.items():
            known = before.get(uid)
            has_restarted = self._note_restart(each)
            if known is None:
                self._first_seen_at.setdefault(uid, now)
                self._set_turn(uid, now + _first_wait_seconds(each) if is_first else now)
            elif has_restarted:
                self._set_turn(uid, now)
            elif each.interval_seconds != known.interval_seconds:
                self._set_turn(uid, _next_turn(each, now))
        for uid in before.keys() - self._present.keys():
            self._forget(uid)

    def _note_restart(self, owned: Owned) -> bool:
        """Whether it began another life since it was seen last, also if it was away meanwhile."""
        key, uid, count = _processor(owned), owned.pod.uid, owned.pod.restart_count
        known_uid, known_count = self._counts.get(key, (uid, count))
        self._counts[key] = uid, count
        if known_uid != uid or count <= known_count:
            return False
        self._restarted[key] = owned.pod.name
        return True

    def _begin_term(self, lease: Lease | None) -> None:
        self._term = lease
        self.attended_since = None if lease is None else _now()
        self._visitor.forget_all()
        self._documents.forget_all()
        self._seeder.forget_complaints()
        self._frozen.clear()
        self._writer.forget()
        self._restarted.clear()
        self._counts.clear()
        self._has_looked = False
        self._present = {}
        self._first_seen_at.clear()
        self._turns.clear()
        self._due_at.clear()
        self._complaints.clear()
        self._late.clear()

    def _forget(self, uid: str) -> None:
        self._visitor.is_gone(uid)
        self._documents.forget(uid)
        self._due_at.pop(uid, None)
        self._first_seen_at.pop(uid, None)
        self._complaints.pop(uid, None)
        lock = self._visiting.get(uid)
        if lock is not None and not lock.locked():
            del self._visiting[uid]

    def _set_turn(self, uid: str, at: float | None) -> None:
        """None: no turn, until something happens to it."""
        if at is None:
            self._due_at.pop(uid, None)
            return
        self._due_at[uid] = at
        heapq.heappush(self._turns, (at, uid))

    def _start_due(self, tasks: asyncio.TaskGroup) -> None:
        now = _now()
        while self._turns and self._turns[0][0] <= now:
            at, uid = heapq.heappop(self._turns)
            if self._due_at.get(uid) != at:
                continue  # it has another turn by now
            lock = self._visiting.setdefault(uid, asyncio.Lock())
            if lock.locked():
                self._set_turn(uid, now + _RETRY_SECONDS)
            else:
                self._due_at.pop(uid)
                tasks.create_task(self._take_turn(uid, lock))

    async def _take_turn(self, uid: str, lock: asyncio.Lock) -> None:
        async with lock, self._places:
            owned, lease = self._present.get(uid), self._lease()
            if owned is None or lease is None or lease != self._term:
                return
            await self._visit(lease, owned)
        owned = self._present.get(uid)
        if owned is not None and uid not in self._due_at:
            self._set_turn(uid, self._turn_after(owned, _now()))

    def _turn_after(self, owned: Owned, now: float) -> float | None:
        at = _next_turn(owned, now)
        if self.restored(owned.pod.uid) or self._is_unprotected(owned.pod.uid):
            return at
        if at is not None and _processor(owned) in self._frozen:
            return at
        return now + _RETRY_SECONDS if at is None else min(at, now + _RETRY_SECONDS)

    async def _visit(self, lease: Lease, owned: Owned) -> None:
        was_restored = self.restored(owned.pod.uid)
        await self._keep(lease, owned)
        if self.restored(owned.pod.uid) and not was_restored:
            life = self._visitor.lives.get(owned.pod.uid)
            if life is not None and life.first is not None:
                self._documents.began(owned.pod.uid)
            self._on_restored()

    async def _keep(self, lease: Lease, owned: Owned) -> None:
        try:
            item = await self._visitor.visit(lease, owned)
        except NotTaken as error:
            self._count(owned, error)
        except DocumentAhead as error:
            self._visitor.forget(owned.pod.uid)
            self._freeze(_processor(owned), owned.pod.namespace, str(error))
        except StoreError as error:
            self._metrics.checkpoints.labels("store_error").inc()
            _log.debug("a checkpoint waits for the store", pod=owned.pod.name, error=str(error))
        else:
            self._restarted.pop(_processor(owned), None)
            self._frozen.pop(_processor(owned), None)
            if self._complaints.pop(owned.pod.uid, None) is not None:
                _log.info("checkpoints are taken again", pod=owned.pod.name)
            if owned.interval_seconds > 0:
                self._writer.put(item)

    def _owned(self, uid: str) -> Owned | None:
        return self._present.get(uid)

    def _is_still_ready(self, owned: Owned) -> bool:
        """By the newest picture; a pod that nobody named is asked for by name."""
        present = self._present.get(owned.pod.uid)
        return present is None or present.pod.restart_count <= owned.pod.restart_count

    def _freeze(self, processor_id: UUID, namespace: str, detail: str) -> None:
        """Nothing of it is written any more, until its document is not ahead any more."""
        self._metrics.checkpoints.labels("frozen").inc()
        if processor_id in self._frozen:
            return
        self._frozen[processor_id] = detail, namespace
        _log.error("a processor is frozen", processor_id=str(processor_id), detail=detail)
        self._on_restored()

    async def _watch_adoptions(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            lease = self._lease()
            if lease is None or not self._frozen:
                continue
            try:
                for key in await self._store.documents_to_adopt(list(self._frozen)):
                    await self._adopt(lease, key)
            except (StoreError, ClusterError) as error:
                _log.info("a document is not adopted yet", error=str(error))

    async def _adopt(self, lease: Lease, key: UUID) -> None:
        """Raises StoreError, ClusterError."""
        frozen = self._frozen.get(key)
        if frozen is None:
            return
        try:
            adopted = await self._seeder.adopt(lease, self._cluster, frozen[1], key)
        finally:
            # It may have been done: whoever looks next freezes it anew, if not.
            self._frozen.pop(key, None)
            for uid, owned in self._present.items():
                if _processor(owned) == key:
                    self._visitor.forget(uid)
            self._on_restored()
        if adopted:
            _log.warning("a document was adopted", processor_id=str(key))
            detail = "its document is the newest checkpoint, as an operator has declared"
            self._tell(Event("guard", "document_adopted", detail, key))

    # What became of it

    def _written(self, item: Item, accepted: bool) -> None:
        life = self._visitor.lives.get(item.pod_uid)
        if isinstance(item, Checkpoint):
            self._metrics.checkpoints.labels("stored" if accepted else "not_owner").inc()
            if not accepted:
                self._visitor.forget(item.pod_uid)
        elif accepted:
            self._metrics.checkpoints.labels("confirmed").inc()
        if life is not None and life.incarnation.number == item.incarnation:
            life.stored_sha256 = item.sha256 if accepted else None
            life.has_state = life.has_state or isinstance(item, Checkpoint)
            owned = self._present.get(item.pod_uid)
            if accepted and owned is not None:
                self._documents.stored(owned)

    def _count(self, owned: Owned, error: NotTaken) -> None:
        self._metrics.checkpoints.labels(error.outcome).inc()
        if not error.told or self._complaints.get(owned.pod.uid) == error.outcome:
            return
        self._complaints[owned.pod.uid] = error.outcome
        pod = owned.pod
        _log.warning(
            "no checkpoint is taken",
            processor_id=str(pod.processor_id),
            pod=pod.name,
            reason=error.outcome,
            detail=str(error),
        )
        self._tell(
            Event.of_pod("checkpoint_refused", error.outcome, str(error), pod.processor_id, pod)
        )

    # Ages

    async def _watch_ages(self) -> None:
        while True:
            await asyncio.sleep(_AGES_SECONDS)
            if self._lease() is None:
                self._show(())
                continue
            asked_at = _now()
            try:
                ages = await self._store.checkpoint_ages()
            except StoreError as error:
                _log.debug("the ages of checkpoints are not known", error=str(error))
                continue
            self._ages = (asked_at, ages)
            # Without a state there is nothing to doubt, and so nothing to keep.
            for key in self._counts.keys() - ages.keys():
                del self._counts[key]
            self._judge_ages(ages)

    def _judge_ages(self, ages: dict[UUID, float]) -> None:
        now, shown = _now(), []
        late = dict(self._late_of(ages, now))
        for owned in self._present.values():
            if owned.interval_seconds > 0:
                seen_seconds = now - self._first_seen_at.get(owned.pod.uid, now)
                shown.append(ages.get(_processor(owned), seen_seconds))
        self._show(shown)
        for key in late.keys() - self._late:
            pod, age = late[key]
            detail = f"the newest checkpoint is {age:.0f} s old"
            _log.warning("a checkpoint is late", processor_id=str(key), pod=pod.name, detail=detail)
            self._tell(Event.of_pod("checkpoint_late", "late", detail, key, pod))
        for key in self._late - late.keys():
            _log.info("checkpoints are in time again", processor_id=str(key))
        self._late = set(late)

    def _late_of(
        self, ages: dict[UUID, float], now: float
    ) -> Iterable[tuple[UUID, tuple[Pod, float]]]:
        for owned in self._present.values():
            key = _processor(owned)
            limit_seconds = _INTERVALS_UNTIL_LATE * owned.interval_seconds
            seen_seconds = now - self._first_seen_at.get(owned.pod.uid, now)
            age = ages.get(key, seen_seconds)
            # Who has just begun has had no time yet.
            if limit_seconds > 0 and min(age, seen_seconds) > limit_seconds:
                yield key, (owned.pod, age)

    def _show(self, ages: Sequence[float]) -> None:
        for most in CHECKPOINT_AGES_SECONDS:
            self._metrics.checkpoint_ages.labels(str(most)).set(sum(age <= most for age in ages))
        self._metrics.checkpoint_ages.labels("+Inf").set(len(ages))

    def _has_nothing(self, owned: Owned) -> bool:
        """By what the store said since the pod is there."""
        if self._ages is None:
            return False
        asked_at, ages = self._ages
        first_seen_at = self._first_seen_at.get(owned.pod.uid)
        return (
            first_seen_at is not None
            and asked_at >= first_seen_at
            and _processor(owned) not in ages
        )


def _processor(owned: Owned) -> UUID:
    assert owned.pod.processor_id is not None  # noqa: S101 - see _is_to_be_visited
    return owned.pod.processor_id


def _is_to_be_visited(owned: Owned) -> bool:
    pod = owned.pod
    return (
        pod.ready
        and not pod.terminating
        and pod.address is not None
        and pod.processor_id is not None
    )


def _is_present(life: Life, owned: Owned) -> bool:
    """As far as the cluster has told."""
    return owned.pod.restart_count <= life.incarnation.restart_count


def _next_turn(owned: Owned, now: float) -> float | None:
    """The next moment at the pod's place in the interval; None when it has no turns."""
    interval_seconds = owned.interval_seconds
    if interval_seconds <= 0:
        return None
    place = _share(owned) * interval_seconds
    turns = (now - place) // interval_seconds + 1
    return place + turns * interval_seconds


def _first_wait_seconds(owned: Owned) -> float:
    """When we begin to lead there are many at once."""
    return _share(owned) * min(owned.interval_seconds or _SPREAD_SECONDS, _SPREAD_SECONDS)


def _share(owned: Owned) -> float:
    """The pod's place in every interval, from 0 to 1."""
    return zlib.crc32(owned.pod.uid.encode()) / 2**32
