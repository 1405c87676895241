"""Away from nodes that are dead or leave, and home again (design, section 8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core import fleet_health
from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.cycle import Wanted, failed_times, has_failed
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    EDGE_NODE_SELECTOR,
    EdgeNodeRow,
    Limits,
    Move,
    MoveKind,
    MoveRetry,
    OrderKind,
    Ownership,
    Pod,
    Snapshot,
)
from dory_orchestrator.core.moving import Home, No, holds, may_go_home, may_leave, measure
from dory_orchestrator.core.node_health import NodeReason, NodeVerdict
from dory_orchestrator.core.node_rows import NodeRows
from dory_orchestrator.core.placing import Place, Placing
from dory_orchestrator.core.plan import CancelMove, EndMove, Finding, MoveStart, Reason
from dory_orchestrator.core.specify import EDGE
from dory_orchestrator.core.why import Rule

LEAVES = No(Reason.NODE_DEAD, "")
"""It does not stay: there is nothing more to say of it here."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A processor that may be moved away from a dead node. `pod` is what it leaves there, if
    anything; `row` the edge node, None for an application node."""

    wanted: Wanted
    own: Ownership | None
    pod: Pod | None
    node_name: str
    row: EdgeNodeRow | None
    verdict: NodeVerdict


@dataclass(frozen=True, slots=True)
class Away:
    """A processor that lives elsewhere and could go home."""

    wanted: Wanted
    own: Ownership
    pod: Pod
    home_id: UUID


class Relocating(Placing):
    """Moves processors; how far a move is, is read off the pods.

    `failing_over` are the failovers that hold a place, `planned` the planned moves: one that has
    nowhere to go, or that goes on for too long, holds none.
    """

    def __init__(
        self, snapshot: Snapshot, limits: Limits, explained: frozenset[UUID] = frozenset()
    ) -> None:
        super().__init__(snapshot, limits, explained)
        self.ends: list[EndMove | CancelMove] = []
        self.leaving: list[Leaving] = []
        self.away: list[Away] = []
        self.failing_over = 0
        self.planned = 0
        mine = (pod for pods in self.ours.values() for pod in pods)
        self.health = fleet_health.judge(
            snapshot, fleet_health.pods_of_node(mine), limits, explained=bool(explained)
        )
        if self.health.wake_at is not None:
            self._wake(self.health.wake_at)
        rows = sorted(self.desired.edge_nodes.values(), key=lambda row: row.id.int)
        self.rows = NodeRows(self.desired)
        # Of most nodes there is nothing to ask: asked for each pod, it would cost the most.
        self.troubled = {
            row.name
            for row in rows
            if is_leaving_node(row) or self.health.edge_nodes[row.id].is_suspect
        } | {name for name, one in self.health.application_nodes.items() if one.is_suspect}

    def _verdict(self, node_name: str | None, row: EdgeNodeRow | None) -> NodeVerdict | None:
        """Of a node: that of the row that is meant, if there is one. Where a processor has none of
        that name, the machine is as well as any organization that has one there says."""
        if row is not None:
            return self.health.edge_nodes[row.id]
        named = self.rows.named(node_name)
        staying = [one for one in named if not is_leaving_node(one)] or named
        verdicts = [self.health.edge_nodes[one.id] for one in staying]
        if verdicts:
            return min(verdicts, key=lambda one: (not one.is_well, one.is_suspect))
        return self.health.application_nodes.get(node_name or "")

    def _is_well(self, node_name: str | None, row: EdgeNodeRow | None) -> bool:
        node = self.snapshot.observed.nodes.get(node_name or "")
        if node is None or not node.ready:
            return False
        verdict = self._verdict(node_name, row)
        return verdict is None or verdict.is_well

    def _leave_lost_node(self, wanted: Wanted, own: Ownership | None, pod: Pod) -> No | None:
        """Whether it leaves a node that is in trouble, or why it stays there nevertheless; None
        when its node is not in trouble."""
        if pod.node_name is None:
            return self._end_unplaced(wanted, own, pod)
        key = wanted.config.processor_id
        if pod.node_name not in self.troubled:
            self._ask(key, Rule.NODE_IN_TROUBLE, False, pod.node_name)
            return None
        row = self.rows.of(wanted.config.processor_id, pod.node_name)
        verdict = self._verdict(pod.node_name, row)
        judged = (None, None) if verdict is None else (str(verdict.state), str(verdict.reason))
        self._ask(key, Rule.NODE_IN_TROUBLE, True, pod.node_name, *judged)
        if verdict is not None and is_leaving_node(row):
            return self._leave_decommissioned(wanted, own, pod, pod.node_name, row, verdict)
        if verdict is None or not verdict.is_suspect:
            return None
        return self._leave(wanted, own, pod, pod.node_name, row, verdict)

    def _leave_decommissioned(
        self,
        wanted: Wanted,
        own: Ownership | None,
        pod: Pod,
        node_name: str,
        row: EdgeNodeRow | None,
        verdict: NodeVerdict,
    ) -> No | None:
        """Of a node that is dead nothing ends gracefully any more; from one that lives it departs
        (None)."""
        if verdict.is_dead:
            return self._leave(wanted, own, pod, node_name, row, verdict)
        if not self._is_lost(pod):
            return None
        if holds(self.health.brake, self._trail_of(wanted.config.processor_id)):
            return No(Reason.BRAKE_HELD, f"{node_name} is lost, and the brake holds")
        self.leaving.append(Leaving(wanted, own, pod, node_name, row, verdict))
        return LEAVES

    def _end_unplaced(self, wanted: Wanted, own: Ownership | None, pod: Pod) -> No | None:
        """A pod that waits for its dead edge node has nothing to be saved, and must not begin
        when that comes back: it goes first, and its processor moves when it is gone. One that
        is bound to no node is given another by the cluster.
        """
        processor_id = wanted.config.processor_id
        row = self.desired.edge_nodes.get(self.desired.links.get(processor_id, processor_id))
        if row is None or wanted.config.node_type != EDGE or pod.terminating:
            return None
        verdict = self.health.edge_nodes[row.id]
        if not verdict.is_suspect:
            return None
        no = may_leave(row.name, row, verdict, self.health.brake, self._trail_of(processor_id))
        if no is None:
            self._delete(processor_id, pod, own, Reason.NODE_DEAD, f"{row.name} is dead")
        return no

    def _leave(
        self,
        wanted: Wanted,
        own: Ownership | None,
        pod: Pod | None,
        node_name: str,
        row: EdgeNodeRow | None,
        verdict: NodeVerdict,
    ) -> No:
        key = wanted.config.processor_id
        order = self.desired.ordered(key, OrderKind.FAILOVER)
        no = may_leave(node_name, row, verdict, self.health.brake, self._trail_of(key), order)
        if no is not None:
            return no
        if own is not None and self._must_wait(key, own):
            return No(Reason.BACK_OFF, failed_times(own))
        self.leaving.append(Leaving(wanted, own, pod, node_name, row, verdict))
        return LEAVES

    def _misses_home(self, wanted: Wanted, own: Ownership | None) -> bool:
        """Whether it has no pod, and the edge node that its pod should be on is in trouble.

        On its way home nothing of it runs any more: it then goes back to the cloud at once. Else
        it waits until its node is well or dead.
        """
        processor_id = wanted.config.processor_id
        row = self.desired.edge_nodes.get(self.desired.links.get(processor_id, processor_id))
        if row is None or wanted.config.node_type != EDGE:
            return False
        verdict, move = self.health.edge_nodes[row.id], self.desired.moves.get(processor_id)
        if not verdict.is_suspect:
            return False
        is_on_its_way = move is not None and move.kind is MoveKind.FAILBACK
        if is_on_its_way and not self.health.brake.engaged:
            self.leaving.append(Leaving(wanted, own, None, row.name, row, verdict))
            return True
        # As long as it is not known to be dead, the pod is made there all the same.
        return self._leave(wanted, own, None, row.name, row, verdict) is LEAVES

    def _is_cancelled(
        self, processor_id: UUID, own: Ownership | None, owner: Pod | None, move: Move | None
    ) -> bool:
        """Let the pod that was left own again, if its node is back before the replacement has
        a place."""
        if move is None:
            return False
        old = left_pod(self.ours.get(processor_id, ()), move)
        if old is None or own is None or old is owner or old.terminating or has_failed(old):
            return False
        place = None if owner is None else owner.node_name
        row = self.rows.of(processor_id, old.node_name)
        is_back = place is None and self._is_well(old.node_name, row)
        if not self._ask(processor_id, Rule.HOME_CAME_BACK, is_back, old.node_name, place):
            return False
        detail = f"{old.node_name} is back before the replacement has a place"
        self._cancel(processor_id, own, old, move, Reason.HOME_CAME_BACK, detail)
        return True

    def _cancel(
        self,
        processor_id: UUID,
        own: Ownership,
        pod: Pod,
        move: Move,
        reason: Reason,
        detail: str,
        retry: MoveRetry | None = None,
    ) -> None:
        self.ends.append(
            CancelMove(
                processor_id,
                own.epoch,
                own.epoch + 1,
                pod,
                reason,
                detail,
                move.kind,
                move.edge_node_id,
                retry,
            )
        )
        self.findings[processor_id] = Finding(reason, detail, pod)

    def move_away(self) -> None:
        """Grant moves to those that may leave: the most important first, then who is down for
        longest, so many at once."""
        self.leaving.sort(
            key=lambda one: (
                -one.wanted.blueprint.runtime.priority,
                one.verdict.last_alive_at or 0.0,
                one.wanted.config.processor_id.int,
            )
        )
        for one in self.leaving:
            if self._are_enough_failing_over(one.wanted.config.processor_id):
                detail = f"{self.limits.moves_max} are on their way from dead nodes"
                self.findings[one.wanted.config.processor_id] = Finding(
                    Reason.MOVE_LIMIT, detail, one.pod
                )
            else:
                self._move_away(one)

    def _are_enough_failing_over(self, processor_id: UUID) -> bool:
        moving, most = self.failing_over, self.limits.moves_max
        return self._ask(processor_id, Rule.MOVE_LIMIT, moving >= most, moving, most)

    def _are_enough_planned(self, processor_id: UUID) -> bool:
        moving, most = self.planned, self.limits.planned_moves_max
        return self._ask(processor_id, Rule.MOVE_LIMIT, moving >= most, moving, most)

    def _hold_place(self, move: Move) -> None:
        """Count a move that is under way, while it may keep others waiting."""
        due_at = self._free_at(move)
        if self.now >= due_at:
            return
        self._wake(due_at)
        if move.kind is MoveKind.FAILOVER:
            self.failing_over += 1
        else:
            self.planned += 1

    def _free_at(self, move: Move) -> float:
        """When a move frees its place, and its home, though it has not ended: the trouble of one
        must not keep others where they are."""
        if move.kind is MoveKind.FAILOVER:
            return move.began_at + self.limits.failover_slot_seconds
        return self._given_up_at(move) + self.limits.rollout_ready_seconds

    def _given_up_at(self, move: Move) -> float:
        """When a planned move is given up whose processor has not left yet."""
        return move.began_at + self.limits.planned_move_seconds

    def _link_of(self, processor_id: UUID) -> UUID | None:
        return self.desired.links.get(processor_id)

    def _move_away(self, one: Leaving) -> None:
        """To the target of its edge node, if that is well and has room; else to the cloud."""
        config = one.wanted.config
        old = one.pod
        start = MoveStart(
            kind=MoveKind.FAILOVER,
            from_node=one.node_name,
            old_uid=None if old is None else old.uid,
            edge_node_id=None if one.row is None else one.row.id,
            last_alive_at=one.verdict.last_alive_at,
            suspect_at=self._suspect_at(one.verdict),
            heartbeat_at=None if one.row is None else one.row.last_heartbeat_at,
            decided_at=self.now,
            fencing=one.wanted.blueprint.runtime.fencing,
            is_drill=one.verdict.reason is NodeReason.DRILL,
            link_id=self._link_of(config.processor_id),
        )
        target = self._target_of(one)
        if target is not None:
            place = self._choose(one.wanted, EDGE_NODE_SELECTOR, frozenset({target.name}))
            fits = place.choice.node_name is not None
            if self._ask(config.processor_id, Rule.TARGET_FITS, fits, target.name):
                self._create(one.wanted, place, home=target, moved_from=one.row, move=start)
                self._find_moving(config.processor_id, one, place)
                return
        place = self._choose(one.wanted, APPLICATION_NODE_SELECTOR, None)
        moved_from = self._moved_from(config, one.row)
        self._create(one.wanted, place, home=None, moved_from=moved_from, move=start)
        self._find_moving(config.processor_id, one, place)

    def _suspect_at(self, verdict: NodeVerdict) -> float | None:
        """In a drill it is left at this moment."""
        return self.now if verdict.reason is NodeReason.DRILL else verdict.record.suspect_since

    def _target_of(self, one: Leaving) -> EdgeNodeRow | None:
        target_id = None if one.row is None else one.row.failover_target_node_id
        target = self.desired.edge_nodes.get(target_id) if target_id is not None else None
        if one.row is None or target is None:
            return None
        config = one.wanted.config
        # The portal writes the column, too: nothing of one organization goes to another's node.
        is_own = target.organization_id == (config.organization_id or one.row.organization_id)
        if not is_own or not target.takes_work or not self._is_well(target.name, target):
            self._ask(config.processor_id, Rule.TARGET_FITS, False, target.name)
            return None
        return target

    def _find_moving(self, processor_id: UUID, one: Leaving, place: Place) -> None:
        where = place.choice.node_name
        if where is not None:
            # A move that has nowhere to go holds no place: others may fit.
            self.failing_over += 1
        detail = f"from {one.node_name} ({one.verdict.detail}) to {where or 'the next node'}"
        self.findings[processor_id] = Finding(Reason.NODE_DEAD, detail, one.pod)

    def _look_at_moved(
        self, wanted: Wanted, own: Ownership | None, pod: Pod, move: Move | None
    ) -> None:
        """End a move that has arrived; else let who lives elsewhere go home."""
        processor_id = wanted.config.processor_id
        if own is None:
            return
        is_troubled = pod.node_name in self.troubled
        row = self.rows.of(processor_id, pod.node_name) if is_troubled else None
        if move is not None or row is not None:
            self._is_ordinary = False
        if (
            move is not None
            and move.kind is MoveKind.FAILBACK
            and not self._is_home(own, pod, move)
        ):
            self._go_on_home(wanted, own, pod, move)
        elif wanted.config.node_type == EDGE and row is not None and is_leaving_node(row):
            self._ask(processor_id, Rule.NODE_LEAVES, True, row.name)
            self._depart(wanted, own, pod, row)
        elif move is not None and move.kind is MoveKind.DEPARTURE and pod.uid == move.old_uid:
            self._go_on_leaving(wanted, own, pod, move)
        elif move is not None:
            self._look_at_arrival(wanted, own, pod, move)
        elif self.findings[processor_id].reason in (Reason.RUNNING, Reason.UNPROTECTED):
            home_id = self.desired.homes.get(processor_id)
            if home_id is not None and processor_id not in self.desired.links:
                self._is_ordinary = False
                self.away.append(Away(wanted, own, pod, home_id))
            elif self.desired.orders:
                self._follow_order(wanted, own, pod)

    def _is_home(self, own: Ownership, pod: Pod, move: Move) -> bool:
        """Not the pod that goes home, nor one where that was: a creation that the cluster was
        long about may come to pass when that pod has ended."""
        if pod.uid == move.old_uid:
            return False
        home = self.desired.edge_nodes.get(move.edge_node_id) if move.edge_node_id else None
        # The cluster has not placed a pod yet that is meant for home.
        return home is not None and home.name == (pod.node_name or own.node_name)

    def _follow_order(self, wanted: Wanted, own: Ownership, pod: Pod) -> None:
        """Leave home for the cloud because an operator says so, if there is room for it."""
        processor_id = wanted.config.processor_id
        order = self.desired.ordered(processor_id, OrderKind.FAILOVER)
        row = self.desired.edge_nodes.get(self.desired.links.get(processor_id, processor_id))
        is_at_home = row is not None and row.name == pod.node_name
        if order is None or row is None or not is_at_home or wanted.config.node_type != EDGE:
            return
        if not self._is_well(row.name, row):
            # Of a node in trouble nobody knows how it ends: alive, and it is followed; or dead.
            return
        self._is_ordinary = False
        self._ask(processor_id, Rule.ORDERED_AWAY, True, order.by, order.reason)
        if holds(self.health.brake, self._trail_of(processor_id)):
            detail = f"{order.by} ordered it away from {row.name}, but the brake holds"
            self.findings[processor_id] = Finding(Reason.BRAKE_HELD, detail, pod)
            return
        place = self._choose(wanted, APPLICATION_NODE_SELECTOR, None)
        full = place.choice.node_name is None
        if self._ask(processor_id, Rule.NO_NODE_FITS, full, len(place.choice.unfit) + (not full)):
            # It runs: nobody ends it for a place that is not there.
            detail = f"{order.by} ordered it away, but no node fits{place.why_not}"
            self.findings[processor_id] = Finding(Reason.RUNNING, detail, pod)
            return
        self._depart(wanted, own, pod, row, f"{order.by} ordered it away: {order.reason}")
        if place.choice.node_name is not None and pod.uid in self.deletes:
            # So that the next order does not count on the same room.
            self.loads[place.choice.node_name].add(wanted.blueprint.runtime.requests)

    def _depart(
        self, wanted: Wanted, own: Ownership, pod: Pod, row: EdgeNodeRow, said: str | None = None
    ) -> None:
        """Leave an edge node that was decommissioned, or that an operator `said` it leaves,
        gracefully: at its end the pod saves its state. Where it goes is decided when it is gone."""
        processor_id = wanted.config.processor_id
        detail = said or f"{row.name} was decommissioned"
        reason = Reason.NODE_LEAVES if said is None else Reason.ORDERED
        move = self.desired.moves.get(processor_id)
        if move is not None and _departs(move, pod, row):
            # It was granted, and may not have been done: it is asked for again.
            self._hold_place(move)
            self.failures.pop(pod.uid, None)
            self._delete(processor_id, pod, own, reason, detail, told=False)
            self.findings[processor_id] = Finding(reason, detail, pod)
            return
        if holds(self.health.brake, self._trail_of(processor_id)):
            detail = f"{detail}, but the brake holds"
            self.findings[processor_id] = Finding(Reason.BRAKE_HELD, detail, pod)
            return
        if self._are_enough_planned(processor_id):
            detail = f"{detail}; others are on their way"
            self.findings[processor_id] = Finding(Reason.MOVE_LIMIT, detail, pod)
            return
        self.planned += 1
        start = MoveStart(
            kind=MoveKind.DEPARTURE,
            from_node=row.name,
            old_uid=pod.uid,
            edge_node_id=row.id,
            last_alive_at=self.now,
            suspect_at=self.now,
            heartbeat_at=row.last_heartbeat_at,
            decided_at=self.now,
            fencing=wanted.blueprint.runtime.fencing,
            link_id=self._link_of(processor_id),
        )
        self.failures.pop(pod.uid, None)
        # Of what nobody hurries its state is taken first, and it stays if that fails.
        captures = said is not None
        self._delete(processor_id, pod, own, reason, detail, move=start, captures=captures)
        self.findings[processor_id] = Finding(reason, detail, pod)

    def _go_on_leaving(self, wanted: Wanted, own: Ownership, pod: Pod, move: Move) -> None:
        """What was granted may not have been done: it is asked for again, unless it is called back,
        or its state could not be taken for too long. While its node is in trouble, or the brake
        holds, nobody leaves in peace."""
        processor_id = wanted.config.processor_id
        order = self.desired.ordered(processor_id, OrderKind.FAILOVER)
        by, reason = (order.by, order.reason) if order is not None else (None, None)
        wanted_away = self._ask(processor_id, Rule.ORDERED_AWAY, order is not None, by, reason)
        if not wanted_away:
            detail = f"stays on {move.from_node}: it was called back"
            self._cancel(processor_id, own, pod, move, Reason.HOME_CAME_BACK, detail)
            return
        if self._is_given_up_move(processor_id, move):
            self._give_up(processor_id, own, pod, move, f"stays on {move.from_node}")
            return
        row = self.rows.of(processor_id, pod.node_name)
        if not self._is_well(pod.node_name, row) or holds(
            self.health.brake, self._trail_of(processor_id)
        ):
            detail = f"waits on {pod.node_name} until that is well"
            self.findings[processor_id] = Finding(Reason.MOVING, detail, pod)
            return
        self._hold_place(move)
        detail = _with_error(f"leaves {move.from_node}", move)
        captures = pod.ready and not has_failed(pod)
        self.failures.pop(pod.uid, None)
        self._delete(processor_id, pod, own, Reason.ORDERED, detail, captures=captures, told=False)
        self.findings[processor_id] = Finding(Reason.ORDERED, detail, pod)

    def _is_given_up_move(self, processor_id: UUID, move: Move) -> bool:
        """Whether a planned move whose processor has not left yet has gone on for too long."""
        due_at, most_seconds = self._given_up_at(move), self.limits.planned_move_seconds
        if self.now < due_at:
            self._wake(due_at)
        took_seconds = self.now - move.began_at
        over = self.now >= due_at
        return self._ask(
            processor_id, Rule.MOVE_GIVEN_UP, over, took_seconds, most_seconds, move.error
        )

    def _give_up(
        self, processor_id: UUID, own: Ownership, pod: Pod, move: Move, stays: str
    ) -> None:
        before = self.desired.move_retries.get(processor_id)
        failures = 1 if before is None else before.failures + 1
        backoff = Backoff(
            self.limits.move_retry_first_seconds,
            self.limits.move_retry_most_seconds,
            forgotten_after_seconds=0.0,
        )
        error = move.error or "it did not arrive in time"
        retry = None
        if move.kind is MoveKind.FAILBACK:
            # A departure was ordered, and its order ends with it: it is not tried again.
            retry = MoveRetry(failures, self.now + backoff.delay_seconds(failures), error)
        detail = f"{stays}: {error}"
        self._cancel(processor_id, own, pod, move, Reason.MOVE_GIVEN_UP, detail, retry)

    def _look_at_arrival(self, wanted: Wanted, own: Ownership, pod: Pod, move: Move) -> None:
        processor_id = wanted.config.processor_id
        found = self.findings[processor_id]
        # Also with an outdated configuration: the rollout waits for the end of the move.
        restored = pod.uid in self.snapshot.restored
        arrived = pod.ready and restored
        if self._ask(processor_id, Rule.ARRIVED, arrived, pod.node_name, pod.ready, restored):
            self.ends.append(self._end(wanted, own, pod, move))
            return
        if pod.ready and self._is_given_up(processor_id, pod):
            # It must not keep others from moving. It stays where it is until it has its state.
            detail = (
                f"{move.kind} from {move.from_node} to {pod.node_name}: ready, but its state could"
                f" not be given within {self.limits.restore_seconds:g} s"
            )
            rto_seconds = measure(move, now=self.now, interval_seconds=0).rto_seconds
            self.ends.append(
                EndMove(processor_id, own.epoch, pod, Reason.UNPROVEN, detail, rto_seconds, None)
            )
            return
        if not pod.ready and self._call_home(wanted, own, pod, move):
            return
        if not pod.ready and self._has_failed_at_home(wanted, own, pod, move):
            return
        if pod.node_name is not None:
            self._hold_place(move)
        if found.reason in (Reason.RUNNING, Reason.UNPROTECTED, Reason.STARTING):
            waits = "is given its state" if pod.ready else "starts"
            detail = f"{move.kind} from {move.from_node}: {waits} on {pod.node_name}"
            self.findings[processor_id] = Finding(Reason.MOVING, detail, pod)

    def _has_failed_at_home(self, wanted: Wanted, own: Ownership, pod: Pod, move: Move) -> bool:
        """End a pod that came home and does not become ready there: it ran where it came from."""
        if move.kind is not MoveKind.FAILBACK or pod.terminating:
            return False
        processor_id, due_at = wanted.config.processor_id, self._free_at(move)
        if self.now < due_at:
            self._wake(due_at)
            return False
        detail = f"it did not become ready at home on {pod.node_name}"
        self._ask(processor_id, Rule.HOME_FAILED, True, pod.node_name)
        self.failures.pop(pod.uid, None)
        self._delete(processor_id, pod, own, Reason.HOME_FAILED, detail)
        self.findings[processor_id] = Finding(Reason.HOME_FAILED, detail, pod)
        return True

    def _called_home(self, processor_id: UUID, move: Move | None) -> EdgeNodeRow | None:
        """The home of a processor that a drill moved and that did not become ready: once the drill
        is over, it goes home without having arrived."""
        drill = self.desired.drill
        if (
            drill is None
            or drill.runs(self.now)
            or move is None
            or move.kind is not MoveKind.FAILOVER
            or move.edge_node_id != drill.edge_node_id
            or move.began_at < drill.began_at
        ):
            return None
        home = self.desired.edge_nodes.get(drill.edge_node_id)
        if home is None or not home.takes_work or not self._is_well(home.name, home):
            return None
        kept = self.desired.ordered(processor_id, OrderKind.FAILOVER)
        return home if kept is None and not self.health.brake.engaged else None

    def _call_home(self, wanted: Wanted, own: Ownership, pod: Pod, move: Move) -> bool:
        processor_id = wanted.config.processor_id
        home = self._called_home(processor_id, move)
        if home is None:
            return False
        detail = f"home to {home.name}: it did not become ready, and the drill is over"
        start = self._way_home(processor_id, home, pod.node_name or "", pod.uid)
        self._ask(processor_id, Rule.GOES_HOME, True, home.name)
        self.failures.pop(pod.uid, None)
        self._delete(processor_id, pod, own, Reason.GOES_HOME, detail, move=start)
        self.findings[processor_id] = Finding(Reason.GOES_HOME, detail, pod)
        return True

    def _place_on_edge(self, wanted: Wanted) -> None:
        """Also home, who has no pod at all when its drill is over."""
        processor_id = wanted.config.processor_id
        move = self.desired.moves.get(processor_id)
        home = self._called_home(processor_id, move)
        if home is not None:
            self._ask(processor_id, Rule.GOES_HOME, True, home.name)
            place = self._choose(wanted, EDGE_NODE_SELECTOR, frozenset({home.name}))
            start = self._way_home(processor_id, home, "", None)
            self._create(wanted, place, home=home, move=start)
        elif move is not None and move.kind is MoveKind.FAILBACK and not self._may_arrive(move):
            # Nothing of it runs: it goes back to where it came from at once.
            left = self.desired.edge_nodes.get(move.edge_node_id) if move.edge_node_id else None
            name = None if left is None else left.name
            self._ask(processor_id, Rule.HOME_FAILED, True, name)
            self._place_in_cloud(wanted, self._moved_from(wanted.config, left))
        else:
            super()._place_on_edge(wanted)

    def _may_arrive(self, move: Move) -> bool:
        """Whether a home still takes the processor that is on its way there."""
        home = self.desired.edge_nodes.get(move.edge_node_id) if move.edge_node_id else None
        return home is not None and home.takes_work and self.now < self._free_at(move)

    def _way_home(
        self, processor_id: UUID, home: EdgeNodeRow, from_node: str, old_uid: str | None
    ) -> MoveStart:
        return MoveStart(
            kind=MoveKind.FAILBACK,
            from_node=from_node,
            old_uid=old_uid,
            edge_node_id=home.id,
            last_alive_at=self.now,
            suspect_at=self.now,
            heartbeat_at=home.last_heartbeat_at,
            decided_at=self.now,
            link_id=self._link_of(processor_id),
        )

    def _is_given_up(self, processor_id: UUID, pod: Pod) -> bool:
        since = pod.ready_changed_at if pod.ready_changed_at is not None else pod.created_at
        most_seconds = self.limits.restore_seconds
        due_at, ready_seconds = since + most_seconds, self.now - since
        if due_at > self.now:
            self._wake(due_at)
        over = due_at <= self.now
        return self._ask(processor_id, Rule.RESTORE_GIVEN_UP, over, ready_seconds, most_seconds)

    def _end(self, wanted: Wanted, own: Ownership, pod: Pod, move: Move) -> EndMove:
        wished = wanted.blueprint.runtime.checkpoint_interval_seconds
        default = self.limits.checkpoint_interval_seconds
        measured = measure(
            move,
            now=self.now,
            interval_seconds=default if wished is None else wished,
            gaps=self.desired.gaps,
            attended_since=self.snapshot.attended_since,
        )
        detail = f"{move.kind} from {move.from_node} to {pod.node_name}: {measured}"
        return EndMove(
            wanted.config.processor_id,
            own.epoch,
            pod,
            Reason.MOVED,
            detail,
            measured.rto_seconds,
            measured.rpo_seconds,
        )

    def _go_on_home(self, wanted: Wanted, own: Ownership, pod: Pod, move: Move) -> None:
        """What was granted may not have been done: it is asked for again, as long as its home
        is well."""
        processor_id = wanted.config.processor_id
        home = self.desired.edge_nodes.get(move.edge_node_id) if move.edge_node_id else None
        home_name = None if home is None else home.name
        self._ask(processor_id, Rule.GOES_HOME, True, home_name)
        failed = home is None or not home.takes_work or not self._is_well(home.name, home)
        if self._ask(processor_id, Rule.HOME_FAILED, failed, home_name) or home is None:
            detail = f"stays: its home {_why_no_home(home)}"
            self._cancel(processor_id, own, pod, move, Reason.HOME_FAILED, detail)
            return
        if self._is_given_up_move(processor_id, move):
            self._give_up(processor_id, own, pod, move, f"stays away from {home.name}")
            return
        self._hold_place(move)
        detail = _with_error(f"home to {home.name}", move)
        # Of one that has failed, or that has never been ready, there is nothing to be taken.
        captures = not has_failed(pod) and (pod.ready or pod.uid == move.old_uid)
        self.failures.pop(pod.uid, None)
        self._delete(
            processor_id, pod, own, Reason.GOES_HOME, detail, captures=captures, told=False
        )
        self.findings[processor_id] = Finding(Reason.GOES_HOME, detail, pod)

    def go_home(self) -> None:
        """Bring back who lives elsewhere, one at a time for each home: the most important
        first. Nobody goes home while others still have to leave."""
        taken = {
            move.edge_node_id
            for move in self.desired.moves.values()
            if move.kind is MoveKind.FAILBACK and self.now < self._free_at(move)
        }
        self.away.sort(
            key=lambda one: (
                -one.wanted.blueprint.runtime.priority,
                one.wanted.config.processor_id.int,
            )
        )
        for one in self.away:
            if self._go_home(one, is_taken=one.home_id in taken):
                taken.add(one.home_id)

    def _go_home(self, one: Away, *, is_taken: bool) -> bool:
        processor_id = one.wanted.config.processor_id
        row = self.desired.edge_nodes.get(one.home_id)
        self._ask(processor_id, Rule.AWAY, True, one.pod.node_name)
        home = Home(
            row=row,
            node=self.snapshot.observed.nodes.get(row.name) if row is not None else None,
            verdict=self.health.edge_nodes.get(one.home_id),
            is_taken=is_taken,
            order=self.desired.orders.get(processor_id),
            retry=self.desired.move_retries.get(processor_id),
        )
        no = may_go_home(
            home,
            self.health.brake,
            self._trail_of(processor_id),
            now=self.now,
            is_manual=one.wanted.blueprint.runtime.failback_manual,
            ready=one.pod.ready and one.pod.uid in self.snapshot.restored,
        )
        if no is not None or row is None:
            detail = "" if no is None else no.detail
            self.findings[processor_id] = Finding(Reason.AWAY, detail, one.pod)
            if home.verdict is not None and home.verdict.failback_at is not None:
                self._wake_after(home.verdict.failback_at)
            if home.retry is not None:
                self._wake_after(home.retry.retry_at)
            return False
        place = self._choose(one.wanted, EDGE_NODE_SELECTOR, frozenset({row.name}))
        full = self._ask(processor_id, Rule.NO_NODE_FITS, place.choice.node_name is None, 1)
        if full or self._are_enough_planned(processor_id):
            said = f"no room{place.why_not}" if full else "others are on their way"
            detail = f"stays away from {row.name}: {said}"
            self.findings[processor_id] = Finding(Reason.AWAY, detail, one.pod)
            return False
        self.planned += 1
        detail = f"home to {row.name}, which is well again"
        start = self._way_home(processor_id, row, one.pod.node_name or "", one.pod.uid)
        self._delete(
            processor_id, one.pod, one.own, Reason.GOES_HOME, detail, move=start, captures=True
        )
        self.findings[processor_id] = Finding(Reason.GOES_HOME, detail, one.pod)
        return True

    def _wake_after(self, at: float) -> None:
        if at > self.now:
            self._wake(at)


def left_pod(pods: Sequence[Pod], move: Move | None) -> Pod | None:
    """The pod that a failover left, while there is no replacement yet."""
    if move is None or move.kind is not MoveKind.FAILOVER:
        return None
    return next((pod for pod in pods if pod.uid == move.old_uid), None)


def _departs(move: Move, pod: Pod, row: EdgeNodeRow) -> bool:
    """Whether a pod is the one that a departure of this edge node ends."""
    departs = move.kind is MoveKind.DEPARTURE
    return departs and (move.old_uid, move.edge_node_id) == (pod.uid, row.id)


def _with_error(detail: str, move: Move) -> str:
    return detail if move.error is None else f"{detail}: {move.error}"


def _why_no_home(home: EdgeNodeRow | None) -> str:
    if home is None:
        return "is not in the database any more"
    if not home.takes_work:
        return f"{home.name} is {'cordoned' if home.status == 'online' else home.status}"
    return f"{home.name} is not well any more"


def is_leaving_node(row: EdgeNodeRow | None) -> bool:
    return row is not None and row.status == "decommissioned"
