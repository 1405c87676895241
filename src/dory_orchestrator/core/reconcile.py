"""What is, what should be, and so what is to be done: the one place where it is decided."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core import guard
from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.model import (
    APPLICATION_NODE_SELECTOR,
    EDGE_NODE_SELECTOR,
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
    Choice,
    Create,
    Delete,
    Failure,
    Finding,
    Forget,
    GuardVerdict,
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


def compute(snapshot: Snapshot, limits: Limits) -> Plan:
    """The plan for one snapshot. The same snapshot gives the same plan, in whatever order its
    parts come; and once a plan is carried out, the next one has nothing to do.
    """
    cycle = _Cycle(snapshot, limits)
    cycle.look_at_desired()
    cycle.create()
    cycle.roll_out()
    verdict = cycle.remove_undesired()
    cycle.forget()
    return Plan(
        creates=tuple(cycle.creates),
        deletes=tuple(sorted(cycle.deletes.values(), key=lambda delete: delete.pod.uid)),
        adoptions=tuple(sorted(cycle.adoptions, key=_by_processor)),
        failures=tuple(sorted(cycle.failures.values(), key=_by_processor)),
        forgets=tuple(sorted(cycle.forgets, key=_by_processor)),
        records=tuple(sorted(cycle.records, key=_by_processor)),
        findings=cycle.findings,
        strangers=tuple(sorted(cycle.strangers, key=lambda pod: pod.uid)),
        guard=verdict,
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


def _by_processor(action: Adopt | Failure | Forget | Record) -> int:
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
        self.records: list[Record] = []
        self.findings: dict[UUID, Finding] = {}
        self.wake_at: float | None = None

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
        owner = _owner(pods, own)
        for pod in pods:
            if pod is not owner and not pod.terminating:
                detail = f"epoch {pod.epoch} is not that of the owner"
                self._delete(processor_id, pod, own, Reason.STALE_OWNER, detail)
        if owner is None or owner.terminating:
            progress.moving += any(not self._is_lost(pod) for pod in pods)
            self._find(processor_id, Reason.TERMINATING, "waits until the old pod is gone", pods)
        else:
            self._look_at_owner(wanted, own, owner, progress)

    def _look_at_missing(self, wanted: _Wanted, own: Ownership | None) -> None:
        processor_id = wanted.config.processor_id
        stranger = self.foreign.get(processor_id)
        if stranger is not None:
            detail = f"pod {stranger.name} of {_fleet(stranger)} runs it"
            self.findings[processor_id] = Finding(Reason.FOREIGN_FLEET, detail, stranger)
        elif own is not None and self._must_wait(own):
            self._count_missing(wanted, own)
            self.findings[processor_id] = Finding(Reason.BACK_OFF, _failed_times(own))
        else:
            self.wanted.append(wanted)

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
        """On a node that is not ready it would not end: the rollout goes on without it."""
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

    def _place_in_cloud(self, wanted: _Wanted) -> None:
        place = self._choose(wanted, APPLICATION_NODE_SELECTOR, None)
        self._create(wanted, place, home=None)

    def _place_on_edge(self, wanted: _Wanted) -> None:
        """On the node of its link; without one on a node of its own organization."""
        processor_id = wanted.config.processor_id
        linked = self.desired.links.get(processor_id)
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
                tolerations_of(wanted.config, blueprint),
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
        )
        self._count_missing(wanted, own)
        if choice.node_name is not None:
            self.loads[choice.node_name].add(spec.requests)
        detail = f"on {choice.node_name}" if choice.node_name else f"no node fits{place.why_not}"
        self.creates.append(
            Create(processor_id, before, before + 1, spec, choice, Reason.NOT_RUNNING, detail, link)
        )
        self.findings[processor_id] = Finding(Reason.NOT_RUNNING, detail)

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
        self, processor_id: UUID, pod: Pod, own: Ownership | None, reason: Reason, detail: str
    ) -> None:
        epoch = own.epoch if own is not None else 0
        self.deletes[pod.uid] = Delete(processor_id, pod, epoch, reason, detail)


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
