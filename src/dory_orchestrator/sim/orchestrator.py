"""One orchestrator: the loop as `loops` runs it, on simulated time. It decides with `core` alone.

It can be killed and frozen at any moment: between reading and granting, and between granting and
acting.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.checkpoint import Document, Incarnation
from dory_orchestrator.core.model import (
    Desired,
    Limits,
    MoveKind,
    Observation,
    Pod,
    PodPhase,
    Snapshot,
)
from dory_orchestrator.core.plan import CancelMove, Create, Delete, EndMove, Plan, Record
from dory_orchestrator.core.reconcile import compute, refused
from dory_orchestrator.loops.reconcile import History
from dory_orchestrator.sim.cluster import Cluster, Process
from dory_orchestrator.sim.database import Database, count_of, payload_of
from dory_orchestrator.sim.ground import Fault, Ground, Promise

LEASE_SECONDS = 10.0
_MARGIN_SECONDS = 1.0
_FOLLOW_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_POLL_SECONDS = 30.0
_ASKED_SECONDS = 10.0
_ASKING_SECONDS = 30.0
_REST_SECONDS = 0.25
_BACKOFF = Backoff(first_seconds=0.5, most_seconds=15.0, forgotten_after_seconds=0.0)

Work = Create | Delete


class Orchestrator:
    """A process of ours. `call_faults` is the share of its calls that each kind of trouble hits."""

    def __init__(
        self,
        name: str,
        ground: Ground,
        database: Database,
        cluster: Cluster,
        limits: Limits,
        on_end: Callable[[UUID, EndMove], None],
    ) -> None:
        self.name = name
        self.ground, self.database, self.cluster = ground, database, cluster
        self.limits = limits
        self.on_end = on_end
        self.call_faults = 0.0
        self.is_alive = False
        self.frozen_until = 0.0
        self.stalled_until = 0.0
        self.generation = 0
        self.computed = 0
        self._forget()

    def _forget(self) -> None:
        """What a process that starts does not know."""
        self.began_at = self.ground.now
        self.term: int | None = None
        self.until = 0.0
        self.picture: Observation | None = None
        self.acting: Counter[UUID] = Counter()
        self.history = History()
        self.led: tuple[int, float] | None = None
        """The term, and since when it attends to checkpoints in it without interruption."""
        self.refusals = 0
        self.timer = 0
        self.is_woken = False
        self.is_looking = False
        self.noted_term: int | None = None
        self.counts: dict[UUID, tuple[str, int]] = {}
        self.restarted: dict[UUID, str] = {}

    # Its life

    def start(self) -> None:
        """It begins, knowing nothing."""
        self.generation += 1
        self._forget()
        self.is_alive = True
        self.later(0.1, self._lead)
        self.changed()

    def kill(self) -> None:
        """It ends at once."""
        self.is_alive = False
        self.generation += 1

    def freeze(self, seconds: float) -> None:
        """It stands still, and then goes on as if nothing had been."""
        self.frozen_until = max(self.frozen_until, self.ground.now + seconds)
        self.led = None

    @property
    def is_running(self) -> bool:
        """Whether it does anything at the moment."""
        return self.is_alive and self.ground.now >= self.frozen_until

    def later(self, seconds: float, call: Callable[..., None], *given: Any) -> None:
        """Do something in so many seconds: as long as it lives, and when it is not frozen."""
        self.ground.after(seconds, self._run, self.generation, call, given)

    def _run(self, generation: int, call: Callable[..., None], given: tuple[Any, ...]) -> None:
        if generation != self.generation:
            return
        if self.ground.now < self.frozen_until:
            rest = self.frozen_until - self.ground.now
            self.ground.after(rest, self._run, generation, call, given)
            return
        call(*given)

    # Leading

    @property
    def lease(self) -> int | None:
        """The term that it holds, as far as it knows."""
        return self.term if self.ground.now < self.until else None

    def _lead(self) -> None:
        delay = _RETRY_SECONDS
        if self.database.is_up:
            before = self.lease
            held = self.database.hold_lease(self.name, self.term, LEASE_SECONDS)
            if held is None:
                self.term, self.until, delay = None, 0.0, _FOLLOW_SECONDS
            else:
                self.until = self.ground.now + LEASE_SECONDS - _MARGIN_SECONDS
                delay = LEASE_SECONDS / 4
                self.term = held
                if before != held:
                    self.ground.tell("leader", f"{self.name} leads in term {held}")
                    self.wake()
        self.later(delay, self._lead)

    # The loop

    def changed(self) -> None:
        """The cluster tells of a change."""
        if self.is_alive and not self.is_looking:
            self.is_looking = True
            self.later(self.ground.between(0.05, 0.3), self._look)

    def _look(self) -> None:
        if self.ground.now < self.stalled_until:
            self.later(self.stalled_until - self.ground.now, self._look)
            return
        self.is_looking = False
        self.picture = self.cluster.picture()
        self._note_restarts()
        self.wake()

    def wake(self, seconds: float = _REST_SECONDS) -> None:
        """Have a cycle soon; wakes before it lead to no more."""
        if self.is_alive and not self.is_woken:
            self.is_woken = True
            self.later(seconds, self._cycle)

    def _wake_in(self, seconds: float) -> None:
        self.timer += 1
        self.later(seconds, self._timer_ends, self.timer)

    def _timer_ends(self, timer: int) -> None:
        if timer == self.timer:
            self.wake(0.0)

    def _cycle(self) -> None:
        self.is_woken = False
        lease, picture = self.lease, self.picture
        if lease is None or picture is None:
            return
        if not self.database.is_up:
            self._wake_in(1.0)
            return
        acting = frozenset(key for key, count in self.acting.items() if count)
        desired = self.database.read()
        if self.led is None or self.led[0] != lease:
            self.led = (lease, desired.now)
        plan = self._compute(desired, picture, acting)
        # The moments in which it may be frozen, or the world may change.
        self.later(self.ground.between(0.005, 0.1), self._commit, lease, plan, desired)

    def _compute(self, desired: Desired, picture: Observation, acting: frozenset[UUID]) -> Plan:
        snapshot = Snapshot(
            desired=desired,
            observed=picture,
            acting=acting,
            desired_most=self.history.most(),
            answers=self._answers(picture),
            restored=self._restored(desired, picture),
            attended_since=self.led and self.led[1],
        )
        self.computed += 1
        try:
            plan = compute(snapshot, self.limits)
        except Exception as error:
            self.ground.check(Promise.NEVER_RAISES, False, repr(error))
            raise
        self.ground.checks[Promise.NEVER_RAISES] += 1
        self.history.add(self.ground.now, dict(plan.desired_counts))
        if plan.brake is not None and plan.brake.engaged:
            # What runs nowhere may be planned, and is refused by the store.
            self.ground.check(
                Promise.BRAKE_HOLDS,
                not any(
                    action.move is not None and action.move.old_uid is not None
                    for action in plan.actions
                    if isinstance(action, Create | Delete)
                ),
                "a plan moves though its own brake holds",
            )
        return plan

    def _answers(self, picture: Observation) -> Mapping[str, bool]:
        """What the health poller knows: each running pod is asked every ten seconds."""
        answers: dict[str, bool] = {}
        now, processes = self.ground.now, self.cluster.processes
        for uid, pod in picture.pods.items():
            if pod.phase is not PodPhase.RUNNING or pod.node_name is None:
                continue
            asked_at = now - (now - 0.37 * int(uid[4:])) % _ASKED_SECONDS
            if asked_at < self.began_at:
                continue
            process = processes.get(uid)
            if process is not None and process.since <= asked_at:
                answers[uid] = process.node.answered_at(asked_at)
            elif process is None:
                ended = self.cluster.last_counts.get(uid)
                machine = self.cluster.machines[pod.node_name]
                lived = ended is not None and ended[0] > asked_at
                answers[uid] = lived and machine.answered_at(asked_at)
        return answers

    def _restored(self, desired: Desired, picture: Observation) -> frozenset[str]:
        found = []
        for key in desired.moves.keys() | desired.homes.keys():
            own = desired.ownership.get(key)
            pod = picture.pods.get(own.pod_uid or "") if own is not None else None
            if pod is not None and self.database.given(key, pod):
                found.append(pod.uid)
        return frozenset(found)

    def _commit(self, lease: int, plan: Plan, desired: Desired) -> None:
        database = self.database
        if not database.is_leading(self.name, lease):
            if database.is_up:
                self.until = 0.0
            self._wake_in(1.0)
            return
        database.record_picture(_POLL_SECONDS)
        database.record_health(plan, desired)
        for record in plan.records:
            database.record_pod(record)
        refusals = 0
        for action in plan.actions:
            if not database.grant(action):
                refusals += 1
                continue
            if isinstance(action, Create | Delete):
                own = desired.ownership.get(action.processor_id)
                self._begin(lease, action, own.failures if own is not None else 0)
            else:
                self._tell(action)
                self.wake()
        database.record_guard(plan)
        self.refusals = self.refusals + 1 if refusals else 0
        if refusals:
            self._wake_in(_BACKOFF.delay_seconds(self.refusals))
            return
        due = _POLL_SECONDS if plan.wake_at is None else plan.wake_at - database.ground.database_now
        self._wake_in(max(0.05, min(_POLL_SECONDS, due)))

    def _tell(self, action: Any) -> None:
        if isinstance(action, EndMove):
            self.on_end(action.processor_id, action)
            self.ground.tell("moved", f"{_short(action.processor_id)}: {action.detail}")
        elif isinstance(action, CancelMove):
            self.ground.tell("cancelled", f"{_short(action.processor_id)}: {action.detail}")

    # Acting

    def _begin(self, lease: int, work: Work, failures: int) -> None:
        key = work.processor_id
        self.acting[key] += 1
        if work.move is not None:
            kind = "failover" if work.move.kind is MoveKind.FAILOVER else "failback"
            self.ground.tell(kind, f"{_short(key)}: {work.detail}")
        else:
            name = "create" if isinstance(work, Create) else "delete"
            self.ground.tell(name, f"{_short(key)}: {work.reason}, {work.detail}", notable=False)
        until = self.ground.now + _ASKING_SECONDS
        self.later(self.ground.between(0.002, 0.05), self._try, lease, work, failures, until, 0)

    def _finish(self, work: Work) -> None:
        self.acting[work.processor_id] -= 1
        if not self.acting[work.processor_id]:
            del self.acting[work.processor_id]
        self.wake()

    def _try(self, lease: int, work: Work, failures: int, until: float, tries: int) -> None:
        """Last looked at here whether it still leads: then the call goes out."""
        if self.lease != lease:
            self._finish(work)
            return
        if isinstance(work, Create) and tries and self._is_there(work):
            self._finish(work)
            return
        if tries and (isinstance(work, Delete) or self.ground.now >= until):
            self._finish(work)
            return
        if isinstance(work, Create) and not self._prepare(lease, work):
            self._finish(work)
            return
        if isinstance(work, Delete) and work.captures and not self._capture_now(lease, work):
            self.later(1.0, self._finish, work)
            return
        self._call(lease, work, failures, until, tries)

    def _call(self, lease: int, work: Work, failures: int, until: float, tries: int) -> None:
        roll, share, ground = self.ground.random.random(), self.call_faults, self.ground
        again = (lease, work, failures, until, tries + 1)
        text = f"{self.name}: {type(work).__name__} of {_short(work.processor_id)}"
        if roll < share:
            ground.fault(Fault.CALL_LOST, text, notable=False)
        elif roll < 2 * share:
            ground.fault(Fault.CALL_UNHEARD, text, notable=False)
            ground.after(0.05, self._carry_out, work)
        elif roll < 3 * share:
            ground.fault(Fault.CALL_LATE, text, notable=False)
            ground.after(ground.between(0.5, 25.0), self._carry_out, work)
        elif roll < 4 * share:
            ground.fault(Fault.CALL_REFUSED, text, notable=False)
            if isinstance(work, Create) and self.database.is_leading(self.name, lease):
                failure = refused(work, "the cluster says no", failures, self.limits)
                self.database.grant(failure)
            self.later(0.1, self._finish, work)
            return
        else:
            ground.after(0.03, self._carry_out_heard, lease, work, self.generation)
            return
        self.later(min(30.0, 2.0**tries), self._try, *again)

    def _carry_out(self, work: Work) -> Pod | None:
        """The cluster does it, whatever has become of who asked."""
        if isinstance(work, Create):
            return self.cluster.create(work.spec)
        self.cluster.delete(work.pod.uid, force=work.force)
        return None

    def _carry_out_heard(self, lease: int, work: Work, generation: int) -> None:
        pod = self._carry_out(work)
        if generation == self.generation:
            self.later(0.03, self._heard, lease, work, pod)

    def _heard(self, lease: int, work: Work, pod: Pod | None) -> None:
        if isinstance(work, Delete):
            self._see_deleted(work)
        elif pod is not None:
            self._see_created(pod)
            if self.database.is_leading(self.name, lease):
                self.database.record_pod(Record(work.processor_id, work.epoch, pod))
        self._finish(work)

    def _see_created(self, pod: Pod) -> None:
        if self.picture is not None and pod.uid not in self.picture.pods:
            self.picture = Observation(self.picture.nodes, {**self.picture.pods, pod.uid: pod})

    def _see_deleted(self, work: Delete) -> None:
        if self.picture is None or work.pod.uid not in self.picture.pods:
            return
        pods = dict(self.picture.pods)
        if work.force:
            del pods[work.pod.uid]
        else:
            pods[work.pod.uid] = replace(pods[work.pod.uid], terminating=True)
        self.picture = Observation(self.picture.nodes, pods)

    def _is_there(self, create: Create) -> bool:
        return self.picture is not None and any(
            pod.name == create.spec.name for pod in self.picture.pods.values()
        )

    # States

    def _prepare(self, lease: int, create: Create) -> bool:
        """Have the newest state lie where the new pod looks for it."""
        database = self.database
        if not database.is_leading(self.name, lease):
            return False
        key = create.processor_id
        found = self.cluster.documents.get(key)
        newest = database.newest_for(create, found, restarted=self._has_restarted(create))
        if newest is None:
            return True
        if found is None or found.sha256 != newest.sha256:
            self.cluster.documents[key] = Document(
                newest.payload,
                newest.sha256,
                newest.pod_name,
                newest.captured_at,
                newest.position,
            )
        database.record_move_state(key, newest.confirmed_at)
        return True

    def _has_restarted(self, create: Create) -> bool:
        """Whether its pod was seen to begin another life, by this leader."""
        return self.restarted.get(create.processor_id) in create.previous

    def _note_restarts(self) -> None:
        """As the checkpointer does: only restarts that it sees in its own term."""
        if self.lease != self.noted_term:
            self.noted_term = self.lease
            self.counts.clear()
            self.restarted.clear()
        if self.lease is None or self.picture is None:
            return
        for pod in self.picture.pods.values():
            own = self.database.ownership.get(pod.processor_id) if pod.processor_id else None
            if own is None or own.pod_uid != pod.uid or pod.processor_id is None or not pod.ready:
                continue
            uid, count = self.counts.get(pod.processor_id, (pod.uid, pod.restart_count))
            self.counts[pod.processor_id] = pod.uid, pod.restart_count
            if uid == pod.uid and pod.restart_count > count:
                self.restarted[pod.processor_id] = pod.name

    def visit(self, process: Process) -> bool:
        """Take a checkpoint, or give a container that has begun its state. Whether to come again
        soon."""
        lease, key = self.lease, process.processor_id
        if lease is None or process.ready_at is None or not process.node.is_asked:
            return True
        if not self.database.is_leading(self.name, lease):
            return True
        own = self.database.ownership.get(key)
        pod = self.picture.pods.get(process.uid) if self.picture is not None else None
        if own is None or own.pod_uid != process.uid or pod is None or not pod.ready:
            return True
        if pod.restart_count != process.restart_count:
            return True
        life = self.database.begin_incarnation(key, pod, process.ready_at)
        if not life.given:
            life = self._give(process, life)
        captured = payload_of(process.count_at(self.ground.now)), self.ground.cluster_now
        sequence = self.database.next_sequence()
        delay = self.ground.between(0.05, 0.5)
        self.later(delay, self._write, lease, key, own.epoch, life, sequence, captured)
        return False

    def _give(self, process: Process, life: Incarnation) -> Incarnation:
        newest = self.database.checkpoints.get(process.processor_id)
        now = self.ground.now
        if newest is not None and process.count_at(now) < count_of(newest.payload):
            process.count, process.since = count_of(newest.payload), now
        life = replace(life, given=True)
        self.restarted.pop(process.processor_id, None)
        self.database.incarnations[process.processor_id] = life
        self.wake()
        return life

    def _write(
        self,
        lease: int,
        key: UUID,
        epoch: int,
        life: Incarnation,
        sequence: int,
        captured: tuple[bytes, float],
    ) -> None:
        if self.database.is_leading(self.name, lease):
            self.database.accept(key, epoch, life, sequence, *captured)

    def _capture_now(self, lease: int, work: Delete) -> bool:
        process = self.cluster.processes.get(work.pod.uid)
        if process is None or not process.node.is_asked or process.ready_at is None:
            return False
        if not self.database.is_leading(self.name, lease):
            return False
        life = self.database.incarnations.get(work.processor_id)
        if life is None or not life.given or life.pod_uid != process.uid:
            return False
        if life.restart_count != process.restart_count:
            return False
        payload = payload_of(process.count_at(self.ground.now))
        return self.database.accept(
            work.processor_id,
            work.epoch,
            life,
            self.database.next_sequence(),
            payload,
            self.ground.cluster_now,
        )


def _short(key: UUID) -> str:
    return f"processor {key.int % 1_000_000}"
