"""What is, what should be, and so what is to be done: the one place where it is decided."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core import fleet_health, guard
from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    EDGE_NODE_SELECTOR,
    EdgeNodeRow,
    Limits,
    Move,
    MoveKind,
    Ownership,
    Pod,
    PodPhase,
    ProcessorConfig,
    Snapshot,
)
from dory_orchestrator.core.moving import Home, No, may_go_home, may_leave, measure
from dory_orchestrator.core.node_health import NodeVerdict
from dory_orchestrator.core.plan import (
    Adopt,
    CancelMove,
    Choice,
    Create,
    Delete,
    EndMove,
    Failure,
    Finding,
    Forget,
    GuardVerdict,
    MoveStart,
    NodeLoad,
    Plan,
    Reason,
    Record,
    Unfit,
)
from dory_orchestrator.core.rollout import Progress, next_step
from dory_orchestrator.core.scheduling import Request, Shortlist, choose_node, loads, shortlist
from dory_orchestrator.core.specify import (
    EDGE,
    Blueprint,
    Blueprints,
    NotDefined,
    is_outdated,
    namespace_of,
    specify,
    tolerations_of,
)

CRASH_LOOP = "CrashLoopBackOff"
_SHOWN_NODES_MAX = 5
_UNKNOWN_NODE = "unknown"
_LEAVES = No(Reason.NODE_DEAD, "")
"""It does not stay: there is nothing more to say of it here."""
_EXPLAINED_BY_NODE = (Reason.RUNNING, Reason.STARTING, Reason.TERMINATING, Reason.MOVING)


def compute(snapshot: Snapshot, limits: Limits) -> Plan:
    """The plan for one snapshot. The same snapshot gives the same plan, in whatever order its
    parts come; and once a plan is carried out, the next one has nothing to do.
    """
    cycle = _Cycle(snapshot, limits)
    cycle.look_at_desired()
    cycle.move_away()
    cycle.create()
    cycle.go_home()
    cycle.roll_out()
    verdict = cycle.remove_undesired()
    cycle.forget()
    return Plan(
        creates=tuple(cycle.creates),
        deletes=tuple(sorted(cycle.deletes.values(), key=lambda delete: delete.pod.uid)),
        adoptions=tuple(sorted(cycle.adoptions, key=_by_processor)),
        failures=tuple(sorted(cycle.failures.values(), key=_by_processor)),
        forgets=tuple(sorted(cycle.forgets, key=_by_processor)),
        ends=tuple(sorted(cycle.ends, key=_by_processor)),
        records=tuple(sorted(cycle.records, key=_by_processor)),
        findings=cycle.findings,
        strangers=tuple(sorted(cycle.strangers, key=lambda pod: pod.uid)),
        guard=verdict,
        nodes=cycle.health.verdicts(),
        stopped_rollouts=cycle.stopped_rollouts,
        brake=cycle.health.brake,
        desired_counts=cycle.desired_counts,
        node_loads={
            name: NodeLoad(load.pods, load.utilisation) for name, load in cycle.loads.items()
        },
        wake_at=cycle.wake_at,
    )


def refused(create: Create, message: str, failures: int, limits: Limits) -> Failure:
    """A cluster that refuses a pod is asked again with the same back-off as for one that fails;
    `failures` are those in a row before."""
    backoff = _backoff(limits)
    count = backoff.count(failures, 0.0)
    delay = backoff.delay_seconds(count)
    detail = f"{message}; next try in {delay:g} s"
    return Failure(
        create.processor_id, None, create.epoch, count, delay, Reason.CREATION_REFUSED, detail
    )


def _backoff(limits: Limits) -> Backoff:
    return Backoff(
        limits.failure_first_seconds,
        limits.failure_most_seconds,
        limits.failure_forgotten_after_seconds,
    )


def _by_processor(action: Adopt | Failure | Forget | EndMove | CancelMove | Record) -> int:
    return action.processor_id.int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A processor that needs a pod, with everything that its pod is made of."""

    config: ProcessorConfig
    blueprint: Blueprint
    namespace: str
    config_hash: str


@dataclass(slots=True)
class _Kind:
    """Pods that differ in nothing that a place depends on. `full` is the answer for all of them
    once no node fits: nodes only fill."""

    request: Request
    shortlist: Shortlist
    full: "_Place | None" = None


@dataclass(frozen=True, slots=True)
class _Place:
    """The scheduler's choice, and in words why it chose no node."""

    choice: Choice
    why_not: str


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A processor that may be moved away from a dead node. `pod` is what it leaves there, if
    anything; `row` the edge node, None for an application node."""

    wanted: _Wanted
    own: Ownership | None
    pod: Pod | None
    node_name: str
    row: EdgeNodeRow | None
    verdict: NodeVerdict


@dataclass(frozen=True, slots=True)
class _Away:
    """A processor that lives elsewhere and could go home."""

    wanted: _Wanted
    own: Ownership
    pod: Pod
    home_id: UUID


class _Homes:
    """The edge nodes that take work, by organization and name."""

    def __init__(self, rows: Mapping[UUID, EdgeNodeRow]) -> None:
        self._rows = rows
        self._of: defaultdict[UUID | None, dict[str, EdgeNodeRow]] | None = None

    def of(self, organization_id: UUID | None) -> Mapping[str, EdgeNodeRow]:
        """Those of one organization. Gathered when first asked for."""
        if self._of is None:
            self._of = defaultdict(dict)
            for row in sorted(self._rows.values(), key=lambda row: row.id.int):
                if row.takes_work:
                    self._of[row.organization_id][row.name] = row
        return self._of.get(organization_id, {})


class _Cycle:
    """What is gathered while one snapshot is looked through."""

    def __init__(self, snapshot: Snapshot, limits: Limits) -> None:
        self.snapshot, self.limits, self.now = snapshot, limits, snapshot.now
        self.desired = snapshot.desired
        self.blueprints = Blueprints()
        self.backoff = _backoff(limits)
        self.ours: dict[UUID, list[Pod]] = {}
        self.foreign: dict[UUID, Pod] = {}
        self.strangers: list[Pod] = []
        self._sort_pods()
        self.loads = loads(snapshot.observed.nodes, self._pods_with_places())
        self.desired_counts = guard.count_desired(self.desired.configs.values(), limits.namespace)
        self.homes = _Homes(self.desired.edge_nodes)
        self.kinds: dict[tuple[bool, UUID | None, str, str], _Kind] = {}
        self.wanted: list[_Wanted] = []
        self.progress: defaultdict[str, Progress] = defaultdict(Progress)
        self.creates: list[Create] = []
        self.deletes: dict[str, Delete] = {}  # by uid of the pod
        self.adoptions: list[Adopt] = []
        self.failures: dict[str, Failure] = {}  # by uid of the pod
        self.forgets: list[Forget] = []
        self.ends: list[EndMove | CancelMove] = []
        self.leaving: list[_Leaving] = []
        self.away: list[_Away] = []
        self.stopped_rollouts: dict[str, str] = {}
        self.on_the_way = 0
        self.records: list[Record] = []
        self.findings: dict[UUID, Finding] = {}
        self.wake_at: float | None = None
        mine = (pod for pods in self.ours.values() for pod in pods)
        self.health = fleet_health.judge(snapshot, fleet_health.pods_of_node(mine), limits)
        if self.health.wake_at is not None:
            self._wake(self.health.wake_at)
        rows = sorted(self.desired.edge_nodes.values(), key=lambda row: row.id.int)
        self.rows_by_name = {row.name: row for row in rows}
        # Of most nodes there is nothing to ask: asked for each pod, it would cost the most.
        self.troubled = {
            row.name
            for row in rows
            if _is_leaving_node(row) or self.health.edge_nodes[row.id].is_suspect
        } | {name for name, one in self.health.application_nodes.items() if one.is_suspect}

    def _sort_pods(self) -> None:
        """Ours are those that bear our fleet's id. All others are told of, and never touched."""
        fleet_id = self.desired.fleet_id
        for pod in self.snapshot.observed.pods.values():
            if pod.processor_id is None or pod.fleet_id != fleet_id:
                self.strangers.append(pod)
                if pod.processor_id is not None:
                    known = self.foreign.get(pod.processor_id, pod)
                    self.foreign[pod.processor_id] = min(known, pod, key=lambda one: one.uid)
            elif pod.processor_id in self.ours:
                self.ours[pod.processor_id].append(pod)
            else:
                self.ours[pod.processor_id] = [pod]

    def _pods_with_places(self) -> Iterable[tuple[str | None, Pod]]:
        """A pod that the cluster has not placed yet counts on the node that it is meant for."""
        ownership = self.desired.ownership
        for pod in self.snapshot.observed.pods.values():
            place = pod.node_name
            if place is None and pod.processor_id is not None:
                own = ownership.get(pod.processor_id)
                place = own.node_name if own is not None and own.epoch == pod.epoch else None
            yield place, pod

    def _wake(self, at: float) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at

    # Desired processors

    def look_at_desired(self) -> None:
        """Find out of each desired processor how it is, and what it needs."""
        acting, ownership = self.snapshot.acting, self.desired.ownership
        for processor_id, config in self.desired.configs.items():
            pods = self.ours.get(processor_id, ())
            if processor_id in acting:
                self._look_at_acting(config, ownership.get(processor_id), pods)
                continue
            try:
                blueprint = self.blueprints.of(config)
                namespace = namespace_of(config, self.limits.namespace)
            except NotDefined as error:
                # Untouched, and so are its pods: what they should be is not known.
                self._find(processor_id, error.reason, str(error), pods)
                continue
            config_hash = self.blueprints.change_hash(config, blueprint)
            wanted = _Wanted(config, blueprint, namespace, config_hash)
            self._look_at(wanted, ownership.get(processor_id), pods)

    def _look_at_acting(
        self, config: ProcessorConfig, own: Ownership | None, pods: Sequence[Pod]
    ) -> None:
        self._find(config.processor_id, Reason.ACTING, "being carried out", pods)
        if config.template_slug is not None:
            progress = self.progress[config.template_slug]
            progress.total += 1
            progress.moving += 1
        if own is not None and own.node_name and config.processor_id in self.desired.moves:
            self.on_the_way += 1
        if own is None or any(own.epoch == pod.epoch or own.pod_uid == pod.uid for pod in pods):
            return
        # A pod that is on its way takes its place already, though it is not seen yet.
        load = self.loads.get(own.node_name or "")
        if load is not None:
            with suppress(NotDefined):
                load.add(self.blueprints.of(config).runtime.requests)

    def _look_at(self, wanted: _Wanted, own: Ownership | None, pods: Sequence[Pod]) -> None:
        progress = self.progress[wanted.blueprint.slug]
        progress.total += 1
        processor_id = wanted.config.processor_id
        if not pods:
            self._look_at_missing(wanted, own)
            return
        ahead = _ahead(pods, own)
        if ahead is not None:
            self.findings[processor_id] = Finding(
                Reason.EPOCH_AHEAD, _ahead_detail(ahead, own), ahead
            )
            return
        owner, move = _owner(pods, own), self.desired.moves.get(processor_id)
        if owner is None or len(pods) > 1:
            self._look_at_others(processor_id, own, owner, move, pods)
        if self._is_cancelled(processor_id, own, owner, move):
            return
        left = owner if owner is not None else _left_pod(pods, move)
        no = None if left is None else self._leave_lost_node(wanted, own, left)
        if no is _LEAVES:
            return
        if owner is None or owner.terminating:
            progress.moving += any(not self._is_lost(pod) for pod in pods)
            self._find(processor_id, Reason.TERMINATING, "waits until the old pod is gone", pods)
        else:
            self._look_at_owner(wanted, own, owner, progress)
            self._look_at_moved(wanted, own, owner, move)
        if no is not None and self.findings[processor_id].reason in _EXPLAINED_BY_NODE:
            self.findings[processor_id] = Finding(no.reason, no.detail, left)

    def _look_at_others(
        self,
        processor_id: UUID,
        own: Ownership | None,
        owner: Pod | None,
        move: Move | None,
        pods: Sequence[Pod],
    ) -> None:
        """End what does not own. What a failover left on a dead node is kept until its
        replacement has a place, should the node come back before; then it goes by force: there
        it would never end.
        """
        for pod in pods:
            if pod is owner:
                continue
            is_left = move is not None and move.kind is MoveKind.FAILOVER
            is_reachable = self._is_well(pod.node_name)
            if is_left and (owner is None or owner.node_name is None):
                # One that has failed, or that a try before this one left, on a node that is well,
                # is of no use to anybody, and the next try waits for its end.
                is_of_use = move is not None and pod.uid == move.old_uid and not _has_failed(pod)
                if is_of_use or not is_reachable:
                    continue
            elif is_left and not is_reachable:
                detail = f"its processor has moved to {owner.node_name if owner else None}"
                self._delete(processor_id, pod, own, Reason.MOVED_AWAY, detail, force=True)
                continue
            if not pod.terminating:
                detail = f"epoch {pod.epoch} is not that of the owner"
                self._delete(processor_id, pod, own, Reason.STALE_OWNER, detail)

    # Moves

    def _verdict(self, node_name: str | None, row: EdgeNodeRow | None) -> NodeVerdict | None:
        """Of a node: that of its row, if it has one."""
        row = row or self.rows_by_name.get(node_name or "")
        if row is not None:
            return self.health.edge_nodes[row.id]
        return self.health.application_nodes.get(node_name or "")

    def _is_well(self, node_name: str | None) -> bool:
        node = self.snapshot.observed.nodes.get(node_name or "")
        if node is None or not node.ready:
            return False
        verdict = self._verdict(node_name, None)
        return verdict is None or verdict.is_well

    def _leave_lost_node(self, wanted: _Wanted, own: Ownership | None, pod: Pod) -> No | None:
        """Whether it leaves a node that is in trouble, or why it stays there nevertheless; None
        when its node is not in trouble."""
        if pod.node_name is None:
            return self._end_unplaced(wanted, own, pod)
        if pod.node_name not in self.troubled:
            return None
        row = self._row_of(wanted.config.processor_id, pod.node_name)
        verdict = self._verdict(pod.node_name, row)
        if verdict is not None and _is_leaving_node(row) and self._is_lost(pod):
            # It was decommissioned and is dead: nothing of it ends gracefully any more.
            self.leaving.append(_Leaving(wanted, own, pod, pod.node_name, row, verdict))
            return _LEAVES
        if verdict is None or not verdict.is_suspect:
            return None
        return self._leave(wanted, own, pod, pod.node_name, row, verdict)

    def _end_unplaced(self, wanted: _Wanted, own: Ownership | None, pod: Pod) -> No | None:
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
        no = may_leave(row.name, row, verdict, self.health.brake)
        if no is None:
            self._delete(processor_id, pod, own, Reason.NODE_DEAD, f"{row.name} is dead")
        return no

    def _row_of(self, processor_id: UUID, node_name: str | None) -> EdgeNodeRow | None:
        """The edge node of that name that the processor belongs to, else any of that name."""
        for links in (self.desired.links, self.desired.homes):
            row = self.desired.edge_nodes.get(links.get(processor_id, processor_id))
            if row is not None and row.name == node_name:
                return row
        return self.rows_by_name.get(node_name or "")

    def _leave(
        self,
        wanted: _Wanted,
        own: Ownership | None,
        pod: Pod | None,
        node_name: str,
        row: EdgeNodeRow | None,
        verdict: NodeVerdict,
    ) -> No:
        no = may_leave(node_name, row, verdict, self.health.brake)
        if no is not None:
            return no
        if own is not None and self._must_wait(own):
            return No(Reason.BACK_OFF, _failed_times(own))
        self.leaving.append(_Leaving(wanted, own, pod, node_name, row, verdict))
        return _LEAVES

    def _is_cancelled(
        self, processor_id: UUID, own: Ownership | None, owner: Pod | None, move: Move | None
    ) -> bool:
        """Let the pod that was left own again, if its node is back before the replacement has
        a place."""
        if move is None:
            return False
        old = _left_pod(self.ours.get(processor_id, ()), move)
        if old is None or own is None or old is owner or old.terminating or _has_failed(old):
            return False
        has_place = owner is not None and owner.node_name is not None
        if has_place or not self._is_well(old.node_name):
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
            if self.on_the_way >= self.limits.moves_max:
                detail = f"{self.limits.moves_max} are on their way from dead nodes"
                self.findings[one.wanted.config.processor_id] = Finding(
                    Reason.MOVE_LIMIT, detail, one.pod
                )
            else:
                self._move_away(one)

    def _move_away(self, one: _Leaving) -> None:
        """To the target of its edge node, if that is well and has room; else to the cloud."""
        config = one.wanted.config
        old = one.pod
        start = MoveStart(
            kind=MoveKind.FAILOVER,
            from_node=one.node_name,
            old_uid=None if old is None else old.uid,
            edge_node_id=None if one.row is None else one.row.id,
            last_alive_at=one.verdict.last_alive_at,
            suspect_at=one.verdict.record.suspect_since,
            heartbeat_at=None if one.row is None else one.row.last_heartbeat_at,
            decided_at=self.now,
            fencing=one.wanted.blueprint.runtime.fencing,
        )
        target = self._target_of(one)
        if target is not None:
            place = self._choose(one.wanted, EDGE_NODE_SELECTOR, frozenset({target.name}))
            if place.choice.node_name is not None:
                self._create(one.wanted, place, home=target, moved_from=one.row, move=start)
                self._find_moving(config.processor_id, one, place)
                return
        place = self._choose(one.wanted, APPLICATION_NODE_SELECTOR, None)
        moved_from = self._moved_from(config, one.row)
        self._create(one.wanted, place, home=None, moved_from=moved_from, move=start)
        self._find_moving(config.processor_id, one, place)

    def _moved_from(self, config: ProcessorConfig, row: EdgeNodeRow | None) -> EdgeNodeRow | None:
        """The edge node that an edge processor in the cloud comes from, first of all."""
        if config.node_type != EDGE:
            return None
        home_id = self.desired.homes.get(config.processor_id)
        home = self.desired.edge_nodes.get(home_id) if home_id is not None else None
        return home or row

    def _target_of(self, one: _Leaving) -> EdgeNodeRow | None:
        target_id = None if one.row is None else one.row.failover_target_node_id
        target = self.desired.edge_nodes.get(target_id) if target_id is not None else None
        if target is None or not target.takes_work or not self._is_well(target.name):
            return None
        return target

    def _find_moving(self, processor_id: UUID, one: _Leaving, place: _Place) -> None:
        where = place.choice.node_name
        if where is not None:
            # A move without a place holds no slot: others may fit.
            self.on_the_way += 1
        detail = f"from {one.node_name} ({one.verdict.detail}) to {where or 'the next node'}"
        self.findings[processor_id] = Finding(Reason.NODE_DEAD, detail, one.pod)

    def _look_at_moved(
        self, wanted: _Wanted, own: Ownership | None, pod: Pod, move: Move | None
    ) -> None:
        """End a move that has arrived; else let who lives elsewhere go home."""
        processor_id = wanted.config.processor_id
        if own is None:
            return
        is_troubled = pod.node_name in self.troubled
        row = self._row_of(processor_id, pod.node_name) if is_troubled else None
        if move is not None and move.kind is MoveKind.FAILBACK and pod.uid == move.old_uid:
            self._go_on_home(wanted, own, pod, move)
        elif wanted.config.node_type == EDGE and row is not None and _is_leaving_node(row):
            self._depart(wanted, own, pod, row)
        elif move is not None:
            self._look_at_arrival(wanted, own, pod, move)
        elif self.findings[processor_id].reason is Reason.RUNNING:
            home_id = self.desired.homes.get(processor_id)
            if home_id is not None and processor_id not in self.desired.links:
                self.away.append(_Away(wanted, own, pod, home_id))

    def _depart(self, wanted: _Wanted, own: Ownership, pod: Pod, row: EdgeNodeRow) -> None:
        """Leave an edge node that was decommissioned, gracefully: at its end the pod saves its
        state. Where it goes is decided when it is gone."""
        processor_id = wanted.config.processor_id
        if self.on_the_way >= self.limits.moves_max:
            detail = f"{row.name} was decommissioned; others are on their way"
            self.findings[processor_id] = Finding(Reason.MOVE_LIMIT, detail, pod)
            return
        self.on_the_way += 1
        detail = f"{row.name} was decommissioned"
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
        )
        self.failures.pop(pod.uid, None)
        self._delete(processor_id, pod, own, Reason.NODE_LEAVES, detail, move=start)
        self.findings[processor_id] = Finding(Reason.NODE_LEAVES, detail, pod)

    def _look_at_arrival(self, wanted: _Wanted, own: Ownership, pod: Pod, move: Move) -> None:
        processor_id = wanted.config.processor_id
        found = self.findings[processor_id]
        # Also with an outdated configuration: the rollout waits for the end of the move.
        if pod.ready and pod.uid in self.snapshot.restored:
            self.ends.append(self._end(wanted, own, pod, move))
            return
        if pod.ready and self._is_given_up(pod):
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
        self.on_the_way += pod.node_name is not None
        if found.reason in (Reason.RUNNING, Reason.STARTING):
            waits = "is given its state" if pod.ready else "starts"
            detail = f"{move.kind} from {move.from_node}: {waits} on {pod.node_name}"
            self.findings[processor_id] = Finding(Reason.MOVING, detail, pod)

    def _is_given_up(self, pod: Pod) -> bool:
        since = pod.ready_changed_at if pod.ready_changed_at is not None else pod.created_at
        due_at = since + self.limits.restore_seconds
        if due_at > self.now:
            self._wake(due_at)
        return due_at <= self.now

    def _end(self, wanted: _Wanted, own: Ownership, pod: Pod, move: Move) -> EndMove:
        wished = wanted.blueprint.runtime.checkpoint_interval_seconds
        default = self.limits.checkpoint_interval_seconds
        measured = measure(
            move,
            now=self.now,
            interval_seconds=default if wished is None else wished,
            gaps=self.desired.gaps,
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

    def _go_on_home(self, wanted: _Wanted, own: Ownership, pod: Pod, move: Move) -> None:
        """What was granted may not have been done: it is asked for again, as long as its home
        is well."""
        processor_id = wanted.config.processor_id
        home = self.desired.edge_nodes.get(move.edge_node_id) if move.edge_node_id else None
        if home is None or not self._is_well(home.name):
            detail = f"its home {home.name if home else ''} is not well any more: it stays"
            self._cancel(processor_id, own, pod, move, Reason.HOME_FAILED, detail)
            return
        self.on_the_way += 1
        detail = f"home to {home.name}"
        self._delete(processor_id, pod, own, Reason.GOES_HOME, detail, captures=True)
        self.findings[processor_id] = Finding(Reason.GOES_HOME, detail, pod)

    def go_home(self) -> None:
        """Bring back who lives elsewhere, one at a time for each home: the most important
        first. Nobody goes home while others still have to leave."""
        taken = {
            move.edge_node_id
            for move in self.desired.moves.values()
            if move.kind is MoveKind.FAILBACK
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

    def _go_home(self, one: _Away, *, is_taken: bool) -> bool:
        processor_id = one.wanted.config.processor_id
        row = self.desired.edge_nodes.get(one.home_id)
        home = Home(
            row=row,
            node=self.snapshot.observed.nodes.get(row.name) if row is not None else None,
            verdict=self.health.edge_nodes.get(one.home_id),
            is_taken=is_taken,
        )
        no = may_go_home(
            home,
            self.health.brake,
            now=self.now,
            is_manual=one.wanted.blueprint.runtime.failback_manual,
            ready=one.pod.ready and one.pod.uid in self.snapshot.restored,
        )
        if no is not None or row is None:
            detail = "" if no is None else no.detail
            self.findings[processor_id] = Finding(Reason.AWAY, detail, one.pod)
            if home.verdict is not None and home.verdict.failback_at is not None:
                self._wake_after(home.verdict.failback_at)
            return False
        place = self._choose(one.wanted, EDGE_NODE_SELECTOR, frozenset({row.name}))
        if place.choice.node_name is None or self.on_the_way >= self.limits.moves_max:
            full = place.choice.node_name is None
            said = f"no room{place.why_not}" if full else "others are on their way"
            detail = f"stays away from {row.name}: {said}"
            self.findings[processor_id] = Finding(Reason.AWAY, detail, one.pod)
            return False
        self.on_the_way += 1
        detail = f"home to {row.name}, which is well again"
        start = MoveStart(
            kind=MoveKind.FAILBACK,
            from_node=one.pod.node_name or "",
            old_uid=one.pod.uid,
            edge_node_id=row.id,
            last_alive_at=self.now,
            suspect_at=self.now,
            heartbeat_at=row.last_heartbeat_at,
            decided_at=self.now,
        )
        self._delete(
            processor_id, one.pod, one.own, Reason.GOES_HOME, detail, move=start, captures=True
        )
        self.findings[processor_id] = Finding(Reason.GOES_HOME, detail, one.pod)
        return True

    def _wake_after(self, at: float) -> None:
        if at > self.now:
            self._wake(at)

    def _look_at_missing(self, wanted: _Wanted, own: Ownership | None) -> None:
        processor_id = wanted.config.processor_id
        stranger = self.foreign.get(processor_id)
        if stranger is not None:
            detail = f"pod {stranger.name} of {_fleet(stranger)} runs it"
            self.findings[processor_id] = Finding(Reason.FOREIGN_FLEET, detail, stranger)
        elif own is not None and self._must_wait(own):
            self._count_missing(wanted, own)
            self.findings[processor_id] = Finding(Reason.BACK_OFF, _failed_times(own))
        elif not self._misses_home(wanted, own):
            self.wanted.append(wanted)

    def _misses_home(self, wanted: _Wanted, own: Ownership | None) -> bool:
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
            self.leaving.append(_Leaving(wanted, own, None, row.name, row, verdict))
            return True
        # As long as it is not known to be dead, the pod is made there all the same.
        return self._leave(wanted, own, None, row.name, row, verdict) is _LEAVES

    def _must_wait(self, own: Ownership) -> bool:
        """Whether the next try is not due yet. Not for another configuration: it may be the
        cure."""
        due_at = own.retry_at
        if due_at is None or due_at <= self.now or own.restart_reason == Reason.CHANGED:
            return False
        self._wake(due_at)
        return True

    def _count_missing(self, wanted: _Wanted, own: Ownership | None) -> None:
        progress = self.progress[wanted.blueprint.slug]
        if own is not None and own.restart_reason != Reason.CHANGED and self._fails(own, self.now):
            progress.settled.append((self.now, "", False))
        else:
            progress.moving += 1

    def _fails(self, own: Ownership, at: float) -> bool:
        """Whether its last failure was not yet forgotten `at` a moment."""
        if own.failures == 0:
            return False
        return own.retry_at is None or at - own.retry_at < self.backoff.forgotten_after_seconds

    def _look_at_owner(
        self, wanted: _Wanted, own: Ownership | None, pod: Pod, progress: Progress
    ) -> None:
        processor_id = wanted.config.processor_id
        if own is None:
            detail = f"pod {pod.name} runs it, and nobody owned it"
            self.adoptions.append(Adopt(processor_id, pod, 0, 1, Reason.ADOPTED, detail))
            self.findings[processor_id] = Finding(Reason.ADOPTED, detail, pod)
            return
        if _differs(own, pod):
            self.records.append(Record(processor_id, own.epoch, pod))
        if is_outdated(pod.config_hash, wanted.config_hash):
            self._count_outdated(processor_id, pod, progress)
        elif pod.ready:
            progress.settled.append((pod.created_at, pod.uid, True))
            self.findings[processor_id] = Finding(Reason.RUNNING, "", pod)
            return
        elif not self._waits_for_node(own, pod):
            self._count_unready(wanted, own, pod, progress)
        if _has_failed(pod):
            self._look_at_failed(processor_id, own, pod)
        elif pod.ready:
            # Those that the rollout does not leave out are told of by it.
            detail = f"its node {pod.node_name} is not ready"
            self.findings[processor_id] = Finding(Reason.ROLLOUT_WAITS, detail, pod)
        else:
            self.findings[processor_id] = _starting(pod)

    def _count_outdated(self, processor_id: UUID, pod: Pod, progress: Progress) -> None:
        """On a node that is not ready it would not end: the rollout goes on without it, and
        without those that are on their way."""
        if processor_id in self.desired.moves:
            return
        node = self.snapshot.observed.nodes.get(pod.node_name or "")
        if pod.node_name is None or (node is not None and node.ready):
            progress.outdated.append((processor_id, pod))

    def _is_lost(self, pod: Pod) -> bool:
        """Whether its node is away for so long that nobody waits for what happens there."""
        if pod.node_name is None:
            return False
        node = self.snapshot.observed.nodes.get(pod.node_name)
        if node is None or node.ready or node.ready_changed_at is None:
            return node is None or not node.ready
        lost_at = node.ready_changed_at + self.limits.rollout_ready_seconds
        if self.now < lost_at:
            self._wake(lost_at)
        return self.now >= lost_at

    def _waits_for_node(self, own: Ownership, pod: Pod) -> bool:
        """Whether its node was away already when it was created: that it is not ready tells
        nothing of its configuration. A node that went away later may be its fault."""
        place = pod.node_name or own.node_name
        node = self.snapshot.observed.nodes.get(place or "")
        if node is None:
            return pod.node_name is None and place is not None
        since = node.ready_changed_at
        return not node.ready and since is not None and since <= pod.created_at

    def _count_unready(self, wanted: _Wanted, own: Ownership, pod: Pod, progress: Progress) -> None:
        """One that failed before and is not ready again counts as failed, also while it starts:
        else a rollout would go on in the moments in which its failures start anew."""
        probes = wanted.blueprint.runtime.probes
        may_take = probes.initial_delay_seconds + probes.startup_seconds
        deadline = pod.created_at + max(self.limits.rollout_ready_seconds, may_take)
        if self._fails(own, pod.created_at) or _has_failed(pod) or self.now >= deadline:
            progress.settled.append((pod.created_at, pod.uid, False))
        else:
            progress.moving += 1
            self._wake(deadline)

    def _look_at_failed(self, processor_id: UUID, own: Ownership, pod: Pod) -> None:
        """First remember the failure; its pod stays to be looked at until the next try is due."""
        if own.failed_pod_uid != pod.uid:
            failures = self.backoff.count(own.failures, self.now - pod.created_at)
            delay = self.backoff.delay_seconds(failures)
            detail = f"{_end_of(pod)}; next try in {delay:g} s"
            self.failures[pod.uid] = Failure(
                processor_id, pod, own.epoch, failures, delay, Reason.FAILED, detail
            )
            self.findings[processor_id] = Finding(Reason.FAILED, detail, pod)
        elif own.retry_at is not None and own.retry_at > self.now:
            self._wake(own.retry_at)
            self.findings[processor_id] = Finding(Reason.BACK_OFF, _failed_times(own), pod)
        else:
            self._delete(processor_id, pod, own, Reason.FAILED, _end_of(pod))
            self.findings[processor_id] = Finding(Reason.FAILED, _end_of(pod), pod)

    # Changes

    def roll_out(self) -> None:
        """Replace outdated pods, template by template, in steps."""
        for slug, progress in self.progress.items():
            if not progress.outdated:
                continue
            step = next_step(progress, self.limits)
            if step.reason is Reason.ROLLOUT_STOPPED:
                self.stopped_rollouts[slug] = step.detail
            for processor_id, pod in step.replaced:
                self._replace(processor_id, pod, f"{slug}: {step.detail}")
            for processor_id, pod in step.waiting:
                self._find_waiting(processor_id, pod, step.reason, f"{slug}: {step.detail}")

    def _replace(self, processor_id: UUID, pod: Pod, detail: str) -> None:
        own = self.desired.ownership[processor_id]
        # A pod that is replaced by another configuration is not waited for.
        self.failures.pop(pod.uid, None)
        self._delete(processor_id, pod, own, Reason.CHANGED, detail)
        self.findings[processor_id] = Finding(Reason.CHANGED, detail, pod)

    def _find_waiting(self, processor_id: UUID, pod: Pod, reason: Reason, detail: str) -> None:
        # That a pod does not run is the more urgent thing to say.
        if pod.ready:
            self.findings[processor_id] = Finding(reason, detail, pod)

    # Creation

    def create(self) -> None:
        """Place what has no pod, the most important first."""
        ordered = sorted(
            self.wanted, key=lambda w: (-w.blueprint.runtime.priority, w.config.processor_id.int)
        )
        for wanted in ordered:
            if len(self.creates) >= self.limits.creations_max:
                detail = f"{self.limits.creations_max} are created in this cycle"
                self._find(wanted.config.processor_id, Reason.CREATION_LIMIT, detail)
                self._count_missing(wanted, self.desired.ownership.get(wanted.config.processor_id))
                self._wake(self.now)
            elif wanted.config.node_type == EDGE:
                self._place_on_edge(wanted)
            else:
                self._place_in_cloud(wanted)

    def _place_in_cloud(self, wanted: _Wanted, moved_from: EdgeNodeRow | None = None) -> None:
        place = self._choose(wanted, APPLICATION_NODE_SELECTOR, None)
        self._create(wanted, place, home=None, moved_from=moved_from)

    def _place_on_edge(self, wanted: _Wanted) -> None:
        """On the node of its link; without one on a node of its own organization. Who has failed
        over lives in the cloud until it goes home."""
        processor_id = wanted.config.processor_id
        linked = self.desired.links.get(processor_id)
        if linked is None and processor_id in self.desired.homes:
            self._place_in_cloud(wanted, self._moved_from(wanted.config, None))
            return
        if linked is None:
            self._place_first(wanted)
            return
        home = self.desired.edge_nodes.get(linked)
        if home is None or home.status == "decommissioned":
            detail = "its edge node is " + ("not in the database" if home is None else home.status)
            self._find(processor_id, Reason.NO_EDGE_NODE, detail)
            return
        place = self._choose(wanted, EDGE_NODE_SELECTOR, frozenset({home.name}))
        self._create(wanted, place, home=home)

    def _place_first(self, wanted: _Wanted) -> None:
        processor_id, organization_id = wanted.config.processor_id, wanted.config.organization_id
        rows = self.homes.of(organization_id)
        place = self._choose(wanted, EDGE_NODE_SELECTOR, frozenset(rows))
        if place.choice.node_name is None:
            # Without a node it cannot be created Pending: it might land in another organization.
            detail = f"no edge node of its organization takes it{place.why_not}"
            self._find(processor_id, Reason.NO_EDGE_NODE, detail)
            own = self.desired.ownership.get(processor_id)
            if own is not None:
                # It had a place: that it has none now may be the new configuration's fault.
                self._count_missing(wanted, own)
            return
        home = rows[place.choice.node_name]
        self._create(wanted, place, home=home, link=home.id)

    def _choose(
        self, wanted: _Wanted, selector: Mapping[str, str], names: frozenset[str] | None
    ) -> _Place:
        """What was found out for one holds for others of its kind."""
        blueprint = wanted.blueprint
        organization_id = None if names is None else wanted.config.organization_id
        key = (names is None, organization_id, blueprint.slug, blueprint.digest)
        # A single node is soon looked at, and not the same one for all of a kind.
        is_single = names is not None and len(names) <= 1
        kind = None if is_single else self.kinds.get(key)
        if kind is None:
            request = Request(
                blueprint.runtime.requests,
                {**selector, **blueprint.runtime.node_selector},
                tolerations_of(blueprint, is_edge=names is not None),
                names,
            )
            kind = _Kind(request, shortlist(request, self.loads))
            if not is_single:
                self.kinds[key] = kind
        if kind.full is not None:
            return kind.full
        choice = choose_node(kind.request, self.loads, self.limits, kind.shortlist)
        if choice.node_name is not None:
            return _Place(choice, "")
        kind.full = _Place(choice, _why_not(choice))
        return kind.full

    def _create(
        self,
        wanted: _Wanted,
        place: _Place,
        *,
        home: EdgeNodeRow | None,
        link: UUID | None = None,
        moved_from: EdgeNodeRow | None = None,
        move: MoveStart | None = None,
    ) -> None:
        processor_id, choice = wanted.config.processor_id, place.choice
        own = self.desired.ownership.get(processor_id)
        before = own.epoch if own is not None else 0
        spec = specify(
            wanted.config,
            wanted.blueprint,
            config_hash=wanted.config_hash,
            fleet_id=self.desired.fleet_id,
            namespace=wanted.namespace,
            epoch=before + 1,
            home=home.name if home is not None else None,
            preferred=choice.node_name if home is None else None,
            before=own,
            moved_from=_origin(wanted.config, home, moved_from),
        )
        self._count_missing(wanted, own)
        if choice.node_name is not None:
            self.loads[choice.node_name].add(spec.requests)
        detail = f"on {choice.node_name}" if choice.node_name else f"no node fits{place.why_not}"
        reason = Reason.NOT_RUNNING if move is None else Reason.NODE_DEAD
        if move is not None:
            detail = f"from {move.from_node}: {detail}"
        previous = tuple(
            name
            for name in (own.pod_name if own is not None else None, *self._names_of(processor_id))
            if name is not None
        )
        self.creates.append(
            Create(
                processor_id,
                before,
                before + 1,
                spec,
                choice,
                reason,
                detail,
                link,
                tuple(dict.fromkeys(previous)),
                move,
                wanted.blueprint.runtime.proof,
            )
        )
        self.findings[processor_id] = Finding(Reason.NOT_RUNNING, detail)

    def _names_of(self, processor_id: UUID) -> Iterable[str]:
        return sorted(pod.name for pod in self.ours.get(processor_id, ()))

    # Removal

    def remove_undesired(self) -> GuardVerdict:
        """End what is not desired, as far as the guard and the limit of one cycle let it."""
        configs = self.desired.configs
        candidates: list[tuple[UUID, Pod]] = []
        untouched: list[Pod] = []
        for processor_id, pods in self.ours.items():
            if processor_id in configs:
                continue
            living = [pod for pod in pods if not pod.terminating]
            if self._look_at_undesired(processor_id, pods):
                candidates.extend((processor_id, pod) for pod in living)
            else:
                untouched.extend(pod for pod in living if pod.node_name is not None)
        candidates.sort(key=lambda one: (one[0].int, one[1].uid))
        verdict = guard.judge(
            desired=self.desired_counts,
            desired_with_pod=self._count_desired_with_pod() if candidates else {},
            desired_most=self.snapshot.desired_most,
            undesired=[pod for _, pod in candidates],
            untouched=untouched,
            record=self.desired.guard,
            now=self.now,
            limits=self.limits,
        )
        held = {pod.uid for pod in verdict.held}
        self._remove([one for one in candidates if one[1].uid not in held])
        for processor_id, pod in candidates:
            if pod.uid in held:
                detail = "the desired set shrank suddenly: confirm its deletion"
                self.findings[processor_id] = Finding(Reason.GUARD_HELD, detail, pod)
        self._wake_for_release(verdict)
        return verdict

    def _look_at_undesired(self, processor_id: UUID, pods: Sequence[Pod]) -> bool:
        """Whether they may be ended."""
        if processor_id in self.snapshot.acting:
            self._find(processor_id, Reason.ACTING, "being carried out", pods)
            return False
        own = self.desired.ownership.get(processor_id)
        ahead = _ahead(pods, own)
        if ahead is not None:
            self.findings[processor_id] = Finding(
                Reason.EPOCH_AHEAD, _ahead_detail(ahead, own), ahead
            )
            return False
        self._find(processor_id, Reason.NOT_DESIRED, "terminating", pods)
        return True

    def _count_desired_with_pod(self) -> Counter[str]:
        configs = self.desired.configs
        return guard.count_desired(
            (configs[processor_id] for processor_id in self.ours if processor_id in configs),
            self.limits.namespace,
        )

    def _remove(self, candidates: Sequence[tuple[UUID, Pod]]) -> None:
        ending = sum(
            pod.terminating and not self._is_lost(pod)
            for pods in self.ours.values()
            for pod in pods
        )
        most = max(self.limits.removals_min, int(len(self.ours) * self.limits.removal_share))
        free = max(0, most - ending)
        for processor_id, pod in candidates[:free]:
            own = self.desired.ownership.get(processor_id)
            detail = "no row desires it"
            self._delete(processor_id, pod, own, Reason.NOT_DESIRED, detail)
            self.findings[processor_id] = Finding(Reason.NOT_DESIRED, detail, pod)
        for processor_id, pod in candidates[free:]:
            detail = f"{most} are ended at once"
            self.findings[processor_id] = Finding(Reason.REMOVAL_LIMIT, detail, pod)

    def _wake_for_release(self, verdict: GuardVerdict) -> None:
        since, after = self.desired.guard.held_since, self.limits.guard_release_seconds
        if verdict.holds and since is not None and after is not None and since + after > self.now:
            self._wake(since + after)

    def forget(self) -> None:
        """Drop the ownership of what is neither desired nor there."""
        desired = self.desired
        for processor_id, own in desired.ownership.items():
            if (
                processor_id not in desired.configs
                and processor_id not in self.ours
                and processor_id not in self.snapshot.acting
                and own != Ownership(own.epoch)
            ):
                detail = "not desired, and its pod is gone"
                self.forgets.append(Forget(processor_id, own.epoch, Reason.NOT_DESIRED, detail))

    # Small things

    def _find(
        self, processor_id: UUID, reason: Reason, detail: str, pods: Sequence[Pod] = ()
    ) -> None:
        self.findings[processor_id] = Finding(reason, detail, _shown(pods) if pods else None)

    def _delete(
        self,
        processor_id: UUID,
        pod: Pod,
        own: Ownership | None,
        reason: Reason,
        detail: str,
        *,
        force: bool = False,
        move: MoveStart | None = None,
        captures: bool = False,
    ) -> None:
        epoch = own.epoch if own is not None else 0
        self.deletes[pod.uid] = Delete(
            processor_id, pod, epoch, reason, detail, force, move, captures
        )


def _ahead(pods: Sequence[Pod], own: Ownership | None) -> Pod | None:
    """A pod with an epoch that the database has not given yet: the database was rolled back."""
    known = own.epoch if own is not None else 0
    ahead = [pod for pod in pods if pod.epoch is not None and pod.epoch > known]
    return max(ahead, key=lambda pod: (pod.epoch or 0, pod.uid)) if ahead else None


def _ahead_detail(pod: Pod, own: Ownership | None) -> str:
    known = own.epoch if own is not None else 0
    return (
        f"pod {pod.name} bears epoch {pod.epoch}, the database knows {known}:"
        " was it restored from a backup?"
    )


def _owner(pods: Sequence[Pod], own: Ownership | None) -> Pod | None:
    """By uid; else by epoch, when the uid was not recorded; else one that bears no epoch. Where
    nobody owned yet, none bears an epoch that was given: each is as good."""
    if own is None:
        return _shown(pods)
    for pod in pods:
        if pod.uid == own.pod_uid:
            return pod
    found = [pod for pod in pods if pod.epoch == own.epoch]
    found = found or [pod for pod in pods if pod.epoch is None]
    return _shown(found) if found else None


def _is_leaving_node(row: EdgeNodeRow | None) -> bool:
    return row is not None and row.status == "decommissioned"


def _left_pod(pods: Sequence[Pod], move: Move | None) -> Pod | None:
    """The pod that a failover left, while there is no replacement yet."""
    if move is None or move.kind is not MoveKind.FAILOVER:
        return None
    return next((pod for pod in pods if pod.uid == move.old_uid), None)


def _origin(
    config: ProcessorConfig, home: EdgeNodeRow | None, moved_from: EdgeNodeRow | None
) -> str | None:
    """The edge node that an edge processor comes from, if it is created elsewhere."""
    if moved_from is not None:
        return moved_from.name
    return _UNKNOWN_NODE if home is None and config.node_type == EDGE else None


def _shown(pods: Sequence[Pod]) -> Pod:
    """The one of several that matters most: it lives, it is ready, it is the oldest."""
    return min(pods, key=lambda pod: (pod.terminating, not pod.ready, pod.created_at, pod.uid))


def _differs(own: Ownership, pod: Pod) -> bool:
    # The node that a pod is meant for stays written until the cluster has placed it.
    return (
        own.pod_uid != pod.uid
        or own.ready != pod.ready
        or own.pod_ip != pod.ip
        or own.pod_name != pod.name
        or (pod.node_name is not None and own.node_name != pod.node_name)
    )


def _has_failed(pod: Pod) -> bool:
    return pod.phase in (PodPhase.FAILED, PodPhase.SUCCEEDED) or pod.waiting_reason == CRASH_LOOP


def _starting(pod: Pod) -> Finding:
    if pod.node_name is None:
        return Finding(Reason.UNPLACED, pod.message or "waits for a node", pod)
    return Finding(Reason.STARTING, pod.waiting_reason or pod.message or "not ready", pod)


def _end_of(pod: Pod) -> str:
    """How a pod's container ended, in words."""
    code = "" if pod.exit_code is None else f", exit code {pod.exit_code}"
    return f"{pod.waiting_reason or pod.exit_reason or pod.phase}{code}"


def _failed_times(own: Ownership) -> str:
    times = "once" if own.failures == 1 else f"{own.failures} times in a row"
    code = "" if own.exit_code is None else f", last with exit code {own.exit_code}"
    return f"failed {times}{code}"


def _fleet(pod: Pod) -> str:
    return f"fleet {pod.fleet_id}" if pod.fleet_id else "no fleet"


def _why_not(choice: Choice) -> str:
    """The nodes that come nearest first: those of another role never take it."""
    if not choice.unfit:
        return ""
    shown = heapq.nsmallest(
        _SHOWN_NODES_MAX, choice.unfit.items(), key=lambda one: (one[1] is Unfit.SELECTOR, one[0])
    )
    more = len(choice.unfit) - len(shown)
    said = ", ".join(f"{name}: {unfit}" for name, unfit in shown)
    return f" ({said}{f' and {more} more' if more else ''})"
