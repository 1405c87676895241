"""One cycle: what is gathered while a snapshot is looked through, and what all its parts share."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core import guard
from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.model import (
    EdgeNodeRow,
    Limits,
    Ownership,
    Pod,
    PodPhase,
    ProcessorConfig,
    Snapshot,
)
from dory_orchestrator.core.plan import (
    Adopt,
    Create,
    Delete,
    Failure,
    Finding,
    Forget,
    Missing,
    MoveStart,
    Reason,
    Record,
)
from dory_orchestrator.core.rollout import Progress
from dory_orchestrator.core.scheduling import loads
from dory_orchestrator.core.specify import Blueprint, Blueprints
from dory_orchestrator.core.why import Rule, Scalar, Trail

CRASH_LOOP = "CrashLoopBackOff"


def backoff_of(limits: Limits) -> Backoff:
    """Of pods that fail."""
    return Backoff(
        limits.failure_first_seconds,
        limits.failure_most_seconds,
        limits.failure_forgotten_after_seconds,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A processor that needs a pod, with everything that its pod is made of."""

    config: ProcessorConfig
    blueprint: Blueprint
    namespace: str
    config_hash: str


class Homes:
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


class Cycle:
    """What is gathered while one snapshot is looked through.

    Placing, relocating and the rest of a cycle build upon it, each in a module of its own.
    """

    def __init__(
        self, snapshot: Snapshot, limits: Limits, explained: frozenset[UUID] = frozenset()
    ) -> None:
        self.snapshot, self.limits, self.now = snapshot, limits, snapshot.now
        self.desired = snapshot.desired
        self.blueprints = Blueprints()
        self.backoff = backoff_of(limits)
        self.ours: dict[UUID, list[Pod]] = {}
        self.foreign: dict[UUID, Pod] = {}
        self.altered: dict[UUID, Pod] = {}
        self._owned_uids: dict[str, UUID] | None = None
        self.strangers: list[Pod] = []
        self._sort_pods()
        self.loads = loads(snapshot.observed.nodes, self._pods_with_places())
        self.desired_counts = guard.count_desired(self.desired.configs.values(), limits.namespace)
        self.homes = Homes(self.desired.edge_nodes)
        self.wanted: list[Wanted] = []
        self.progress: defaultdict[str, Progress] = defaultdict(Progress)
        self.creates: list[Create] = []
        self.deletes: dict[str, Delete] = {}  # by uid of the pod
        self.adoptions: list[Adopt] = []
        self.failures: dict[str, Failure] = {}  # by uid of the pod
        self.forgets: list[Forget] = []
        self.stopped_rollouts: dict[str, str] = {}
        self.records: list[Record] = []
        self.missing: list[Missing] = []
        self.findings: dict[UUID, Finding] = {}
        self.trails: dict[UUID, Trail] = {}
        self.explained = explained
        self._about: UUID | None = None
        self._trail = Trail()
        self._is_ordinary = False
        self.wake_at: float | None = None

    def _sort_pods(self) -> None:
        """Ours are those that bear our fleet's id. All others are told of, and never touched. What
        owns by its uid and says something else was altered: it counts for the processor that it
        owns, and for no other."""
        fleet_id = self.desired.fleet_id
        for pod in self.snapshot.observed.pods.values():
            owned_id = self._altered_owner(pod, fleet_id)
            if owned_id is not None:
                self.altered[owned_id] = pod
            elif pod.processor_id is None or pod.fleet_id != fleet_id:
                self.strangers.append(pod)
                if pod.processor_id is not None:
                    known = self.foreign.get(pod.processor_id, pod)
                    self.foreign[pod.processor_id] = min(known, pod, key=lambda one: one.uid)
            elif pod.processor_id in self.ours:
                self.ours[pod.processor_id].append(pod)
            else:
                self.ours[pod.processor_id] = [pod]

    def _altered_owner(self, pod: Pod, fleet_id: str) -> UUID | None:
        """The processor that a pod owns which it does not say to be of."""
        own = None
        if pod.processor_id is not None:
            own = self.desired.ownership.get(pod.processor_id)
        if own is not None and own.pod_uid == pod.uid:
            return None if pod.fleet_id is not None else pod.processor_id
        if pod.fleet_id not in (None, fleet_id):
            return None
        if self._owned_uids is None:
            # Made for the first that is not plainly an owner: in most cycles there is none.
            self._owned_uids = {
                own.pod_uid: key
                for key, own in self.desired.ownership.items()
                if own.pod_uid is not None
            }
        return self._owned_uids.get(pod.uid)

    def _pods_with_places(self) -> Iterable[tuple[str | None, Pod]]:
        """A pod that the cluster has not placed yet counts on the node that it is meant for."""
        ownership = self.desired.ownership
        for pod in self.snapshot.observed.pods.values():
            place = pod.node_name
            if place is None and pod.processor_id is not None:
                own = ownership.get(pod.processor_id)
                place = own.node_name if own is not None and own.epoch == pod.epoch else None
            yield place, pod

    def _ask(self, processor_id: UUID, rule: Rule, held: bool, *values: Scalar) -> bool:
        """Whether a rule holds for a processor; it is kept that it was asked."""
        if processor_id is self._about:
            # Asked half a million times in a large fleet: no further call.
            self._trail.answers.append((rule, held, values))
            return held
        return self._trail_of(processor_id).ask(rule, held, *values)

    def _trail_of(self, processor_id: UUID) -> Trail:
        """What was asked for it so far. That of the one that is looked at is not looked up: an id
        is slow to hash, and most are asked for once."""
        about = self._about
        if about is not None and (processor_id is about or processor_id == about):
            return self._trail
        return self.trails.setdefault(processor_id, Trail())

    def _begin_trail(self, processor_id: UUID) -> None:
        """Look at one from now on."""
        self._about, self._is_ordinary = processor_id, False
        self._trail.answers.clear()

    def _end_trail(self) -> None:
        """Keep what was asked, unless it simply runs, and did so before."""
        if self._about is not None and (not self._is_ordinary or self._about in self.explained):
            self.trails[self._about] = self._trail
            self._trail = Trail()
        self._about = None

    def _wake(self, at: float) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at

    def _must_wait(self, processor_id: UUID, own: Ownership) -> bool:
        """Whether the next try is not due yet. Not for another configuration: it may be the
        cure."""
        due_at = own.retry_at
        waits = due_at is not None and due_at > self.now and own.restart_reason != Reason.CHANGED
        if waits and due_at is not None:
            self._wake(due_at)
        due_in_seconds = None if due_at is None else due_at - self.now
        return self._ask(processor_id, Rule.BACK_OFF, waits, own.failures, due_in_seconds)

    def _count_missing(self, slug: str, own: Ownership | None) -> None:
        """One that has no pod at the moment: in motion, unless it failed. While those that failed
        are made anew, a rollout that stopped stays so."""
        progress = self.progress[slug]
        if own is not None and own.restart_reason != Reason.CHANGED and self._fails(own, self.now):
            progress.settled.append((self.now, "", False))
        else:
            progress.moving += 1

    def _fails(self, own: Ownership, at: float) -> bool:
        """Whether its last failure was not yet forgotten `at` a moment."""
        if own.failures == 0:
            return False
        return own.retry_at is None or at - own.retry_at < self.backoff.forgotten_after_seconds

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

    def _find(
        self, processor_id: UUID, reason: Reason, detail: str, pods: Sequence[Pod] = ()
    ) -> None:
        self.findings[processor_id] = Finding(reason, detail, shown(pods) if pods else None)

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
        told: bool = True,
    ) -> None:
        epoch = own.epoch if own is not None else 0
        self.deletes[pod.uid] = Delete(
            processor_id, pod, epoch, reason, detail, force, move, captures, told
        )


def has_failed(pod: Pod) -> bool:
    """Whether it ended, or crashes again and again."""
    return pod.phase in (PodPhase.FAILED, PodPhase.SUCCEEDED) or pod.waiting_reason == CRASH_LOOP


def failed_times(own: Ownership) -> str:
    """How its pods failed, in words."""
    times = "once" if own.failures == 1 else f"{own.failures} times in a row"
    code = "" if own.exit_code is None else f", last with exit code {own.exit_code}"
    return f"failed {times}{code}"


def shown(pods: Sequence[Pod]) -> Pod:
    """The one of several that matters most: it lives, it is ready, it is the oldest."""
    return min(pods, key=lambda pod: (pod.terminating, not pod.ready, pod.created_at, pod.uid))
