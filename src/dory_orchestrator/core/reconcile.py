"""What is, what should be, and so what is to be done: the one place where it is decided."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from dory_orchestrator.core import guard
from dory_orchestrator.core.cycle import Wanted, backoff_of, failed_times, has_failed, shown
from dory_orchestrator.core.drill import next_step as next_drill_step
from dory_orchestrator.core.explaining import explained
from dory_orchestrator.core.model import (
    FLEET_ANNOTATION,
    MANAGED_BY,
    Limits,
    Move,
    MoveKind,
    Ownership,
    Pod,
    ProcessorConfig,
    Snapshot,
)
from dory_orchestrator.core.pausing import paused
from dory_orchestrator.core.plan import (
    Adopt,
    CancelMove,
    Create,
    EndMove,
    Failure,
    Finding,
    Forget,
    GuardVerdict,
    Missing,
    NodeLoad,
    Plan,
    Reason,
    Record,
)
from dory_orchestrator.core.relocating import LEAVES, Relocating, left_pod
from dory_orchestrator.core.rollout import Progress, next_step
from dory_orchestrator.core.specify import NotDefined, is_outdated, namespace_of
from dory_orchestrator.core.why import Rule

_REFUSALS_TOLD = 3
"""One refusal is a race that was lost, and two are bad luck."""
_EXPLAINED_BY_NODE = (Reason.RUNNING, Reason.STARTING, Reason.TERMINATING, Reason.MOVING)


def compute(
    snapshot: Snapshot, limits: Limits, explained_ids: frozenset[UUID] = frozenset()
) -> Plan:
    """The plan for one snapshot. The same snapshot gives the same plan, in whatever order its
    parts come; and once a plan is carried out, the next one has nothing to do.

    Of processors that simply run the rules are kept only for `explained_ids`: in a large fleet
    these are nearly all, and nobody asks for them.
    """
    cycle = _Cycle(snapshot, limits, explained_ids)
    cycle.look_at_desired()
    cycle.move_away()
    cycle.create()
    cycle.go_home()
    cycle.roll_out()
    verdict = cycle.remove_undesired()
    cycle.forget()
    plan = Plan(
        creates=tuple(cycle.creates),
        deletes=tuple(sorted(cycle.deletes.values(), key=lambda delete: delete.pod.uid)),
        adoptions=tuple(sorted(cycle.adoptions, key=_by_processor)),
        failures=tuple(sorted(cycle.failures.values(), key=_by_processor)),
        forgets=tuple(sorted(cycle.forgets, key=_by_processor)),
        ends=tuple(sorted(cycle.ends, key=_by_processor)),
        records=tuple(sorted(cycle.records, key=_by_processor)),
        missing=tuple(sorted(cycle.missing, key=lambda one: one.pod_uid)),
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
        answers={key: trail.answers for key, trail in cycle.trails.items()},
        choices=cycle.choices,
        drill=next_drill_step(snapshot, cycle.health, limits),
    )
    return paused(snapshot, explained(snapshot, _with_refusals(snapshot, plan)))


def _with_refusals(snapshot: Snapshot, plan: Plan) -> Plan:
    """The plan; of whom the store refused several times in a row what is asked for once more, that
    is what people are told: else it would look as if it were about to be done."""
    often = {
        action.processor_id: snapshot.refusals[action.processor_id]
        for action in plan.actions
        if snapshot.refusals.get(action.processor_id, (0, ""))[0] >= _REFUSALS_TOLD
    }
    if not often:
        return plan
    findings, answers = dict(plan.findings), dict(plan.answers)
    for key, (times, refusal) in often.items():
        found = findings.get(key)
        wanted = "" if found is None else f" ({found.reason}: {found.detail})"
        detail = f"asked for {times} times, the database does not grant it: {refusal}{wanted}"
        findings[key] = Finding(Reason.GRANT_REFUSED, detail, None if found is None else found.pod)
        answers[key] = [*answers.get(key, ()), (Rule.GRANT_REFUSED, True, (times, refusal))]
    return replace(plan, findings=findings, answers=answers)


def refused(create: Create, message: str, failures: int, limits: Limits) -> Failure:
    """A cluster that refuses a pod is asked again with the same back-off as for one that fails;
    `failures` are those in a row before."""
    backoff = backoff_of(limits)
    count = backoff.count(failures, 0.0)
    delay = backoff.delay_seconds(count)
    detail = f"{message}; next try in {delay:g} s"
    return Failure(
        create.processor_id, None, create.epoch, count, delay, Reason.CREATION_REFUSED, detail
    )


def _by_processor(action: Adopt | Failure | Forget | EndMove | CancelMove | Record) -> int:
    return action.processor_id.int


class _Cycle(Relocating):
    """Looks at every processor, and at what is not desired."""

    # Desired processors

    def look_at_desired(self) -> None:
        """Find out of each desired processor how it is, and what it needs."""
        ownership = self.desired.ownership
        for processor_id, config in self.desired.configs.items():
            self._begin_trail(config.processor_id)
            pods = self.ours.get(processor_id, ())
            self._look_at_config(config, ownership.get(processor_id), pods)
            self._end_trail()

    def _look_at_config(
        self, config: ProcessorConfig, own: Ownership | None, pods: Sequence[Pod]
    ) -> None:
        processor_id = config.processor_id
        if self._ask(processor_id, Rule.ACTING, processor_id in self.snapshot.acting):
            self._look_at_acting(config, own, pods)
            return
        try:
            blueprint = self.blueprints.of(config)
            namespace = namespace_of(config, self.limits.namespace)
        except NotDefined as error:
            # Untouched, and so are its pods: what they should be is not known.
            self._ask(processor_id, Rule.NOT_DEFINED, True, str(error))
            self._find(processor_id, error.reason, str(error), pods)
            return
        unseen = self._unseen(namespace, own)
        if unseen is not None:
            self._ask(processor_id, Rule.NAMESPACE_UNSEEN, True, unseen)
            # What runs there is not known: another pod could be one too many.
            detail = f"namespace {unseen} cannot be looked at"
            self._find(processor_id, Reason.NAMESPACE_UNSEEN, detail, pods)
            return
        config_hash = self.blueprints.change_hash(config, blueprint)
        self._look_at(Wanted(config, blueprint, namespace, config_hash), own, pods)

    def _unseen(self, namespace: str, own: Ownership | None) -> str | None:
        """The namespace of a processor that the picture does not show: the one where it shall
        be, or where it was seen last."""
        observed = self.snapshot.observed
        for name in (namespace, own.namespace if own is not None else None):
            if not observed.shows(name):
                return name
        return None

    def _look_at_acting(
        self, config: ProcessorConfig, own: Ownership | None, pods: Sequence[Pod]
    ) -> None:
        self._find(config.processor_id, Reason.ACTING, "being carried out", pods)
        if config.template_slug is not None:
            self.progress[config.template_slug].total += 1
            self._count_missing(config.template_slug, own)
        move = self.desired.moves.get(config.processor_id)
        if move is not None and own is not None and own.node_name:
            self._hold_place(move)
        if own is None or any(own.epoch == pod.epoch or own.pod_uid == pod.uid for pod in pods):
            return
        # A pod that is on its way takes its place already, though it is not seen yet.
        load = self.loads.get(own.node_name or "")
        if load is not None:
            with suppress(NotDefined):
                load.add(self.blueprints.of(config).runtime.requests)

    def _look_at(self, wanted: Wanted, own: Ownership | None, pods: Sequence[Pod]) -> None:
        progress = self.progress[wanted.blueprint.slug]
        progress.total += 1
        processor_id = wanted.config.processor_id
        if self._is_frozen(processor_id, pods):
            self._count_missing(wanted.blueprint.slug, own)
            return
        if self._ask(processor_id, Rule.WITHOUT_POD, not pods, len(pods)):
            self._look_at_missing(wanted, own)
            return
        ahead = _ahead(pods, own)
        if ahead is not None:
            self._ask(processor_id, Rule.EPOCH_AHEAD, True, ahead.epoch, own.epoch if own else 0)
            self.findings[processor_id] = Finding(
                Reason.EPOCH_AHEAD, _ahead_detail(ahead, own), ahead
            )
            return
        owner, move = _owner(pods, own), self.desired.moves.get(processor_id)
        if owner is None or len(pods) > 1:
            self._look_at_others(processor_id, own, owner, move, pods)
        if self._is_cancelled(processor_id, own, owner, move):
            return
        left = owner if owner is not None else left_pod(pods, move)
        no = None if left is None else self._leave_lost_node(wanted, own, left)
        if no is LEAVES:
            return
        if owner is None or owner.terminating:
            self._ask(processor_id, Rule.TERMINATING, True, len(pods))
            if any(not self._is_lost(pod) for pod in pods):
                self._count_missing(wanted.blueprint.slug, own)
            self._find(processor_id, Reason.TERMINATING, "waits until the old pod is gone", pods)
        else:
            self._look_at_owner(wanted, own, owner, progress)
            self._look_at_moved(wanted, own, owner, move)
        if no is not None and self.findings[processor_id].reason in _EXPLAINED_BY_NODE:
            self._is_ordinary = False
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
            is_reachable = self._is_well(pod.node_name, self.rows.of(processor_id, pod.node_name))
            if is_left and (owner is None or owner.node_name is None):
                # One that has failed, or that a try before this one left, on a node that is well,
                # is of no use to anybody, and the next try waits for its end.
                is_of_use = move is not None and pod.uid == move.old_uid and not has_failed(pod)
                if is_of_use or not is_reachable:
                    continue
            elif is_left and not is_reachable:
                place = owner.node_name if owner else None
                self._ask(processor_id, Rule.LEFT_BEHIND, True, pod.name, pod.node_name, place)
                detail = f"its processor has moved to {place}"
                self._delete(processor_id, pod, own, Reason.MOVED_AWAY, detail, force=True)
                continue
            if not pod.terminating:
                self._ask(processor_id, Rule.NOT_OWNER, True, pod.name, pod.epoch)
                detail = f"epoch {pod.epoch} is not that of the owner"
                self._delete(processor_id, pod, own, Reason.STALE_OWNER, detail)

    def _look_at_missing(self, wanted: Wanted, own: Ownership | None) -> None:
        processor_id = wanted.config.processor_id
        stranger = self.foreign.get(processor_id)
        if stranger is not None:
            self._ask(processor_id, Rule.FOREIGN_FLEET, True, stranger.name)
            detail = f"pod {stranger.name} of {_fleet(stranger)} runs it"
            self.findings[processor_id] = Finding(Reason.FOREIGN_FLEET, detail, stranger)
        elif self._is_unrecognised(wanted, own):
            self._count_missing(wanted.blueprint.slug, own)
        elif own is not None and self._must_wait(processor_id, own):
            self._count_missing(wanted.blueprint.slug, own)
            self.findings[processor_id] = Finding(Reason.BACK_OFF, failed_times(own))
        elif own is not None and self._has_vanished(processor_id, own):
            self._count_missing(wanted.blueprint.slug, own)
        elif not self._misses_home(wanted, own):
            self.wanted.append(wanted)

    def _is_unrecognised(self, wanted: Wanted, own: Ownership | None) -> bool:
        """Whether the pod that owns it is there though no picture shows it as its own, or may be:
        somebody may have changed what it says. A second one beside it would be one too many."""
        processor_id = wanted.config.processor_id
        pod = self.altered.get(processor_id)
        if own is None or own.pod_uid is None or own.pod_name is None:
            return False
        looked_up = self.snapshot.looked_up
        if looked_up is not None:
            # Also one that a picture shows: the next may not.
            namespace = own.namespace or wanted.namespace
            self.missing.append(Missing(namespace, own.pod_name, own.pod_uid))
        if pod is None and looked_up is not None:
            pod = looked_up.get(own.pod_uid)
            is_known = pod is not None or own.pod_uid in looked_up
            if self._ask(processor_id, Rule.POD_MISSING, not is_known, own.pod_name):
                detail = f"whether pod {own.pod_name} is there is being asked"
                self.findings[processor_id] = Finding(Reason.POD_MISSING, detail)
                return True
        altered = "" if pod is None else self._altered(processor_id, pod)
        if not self._ask(processor_id, Rule.UNRECOGNISED, pod is not None, own.pod_name, altered):
            return False
        self._wake(self.now + self.limits.look_again_seconds)
        if altered:
            detail = f"pod {own.pod_name} runs it, and was altered: {altered}"
            self.findings[processor_id] = Finding(Reason.UNRECOGNISED, detail, pod)
        else:
            detail = f"pod {own.pod_name} is there, and the picture of the cluster is late"
            self.findings[processor_id] = Finding(Reason.POD_MISSING, detail, pod)
        return True

    def _altered(self, processor_id: UUID, pod: Pod) -> str:
        """What of a pod does not say any more whose it is, in words."""
        fleet = FLEET_ANNOTATION
        is_as_made = {
            "label managed-by": pod.labels.get("managed-by") == MANAGED_BY,
            "label processor-id": pod.processor_id == processor_id,
            f"annotation {fleet}": pod.fleet_id == self.desired.fleet_id,
        }
        return ", ".join(what for what, as_made in is_as_made.items() if not as_made)

    def _has_vanished(self, processor_id: UUID, own: Ownership) -> bool:
        """Whether its pod is gone, and neither we nor the end of its node ended it. That is a
        failure: what takes each new pod away would else be given the next one at once.

        The wait counts from when the pod was made: one that lasted is replaced at once.
        """
        vanished = (
            own.pod_uid is not None
            # What we end, and what failed before it was gone, is written when it is decided.
            and own.restart_reason is None
            and own.failed_pod_uid != own.pod_uid
            and (own.node_name is None or own.node_name in self.snapshot.observed.nodes)
        )
        lasted = math.inf if own.changed_at is None else max(0.0, self.now - own.changed_at)
        said = own.pod_name, own.ready, lasted
        if not self._ask(processor_id, Rule.VANISHED, vanished, *said) or own.pod_uid is None:
            return False
        was_well = own.ready and lasted >= self.limits.vanished_well_seconds
        if was_well and own.failures == 0:
            return False
        failures = 0 if was_well else self.backoff.count(own.failures, lasted)
        delay = 0.0 if was_well else max(0.0, self.backoff.delay_seconds(failures) - lasted)
        detail = f"pod {own.pod_name} is gone, and was not ended by us; next try in {delay:g} s"
        self.failures[own.pod_uid] = Failure(
            *(processor_id, None, own.epoch, failures, delay, Reason.VANISHED, detail),
            vanished_uid=own.pod_uid,
        )
        self.findings[processor_id] = Finding(Reason.VANISHED, detail)
        return True

    def _look_at_owner(
        self, wanted: Wanted, own: Ownership | None, pod: Pod, progress: Progress
    ) -> None:
        processor_id = wanted.config.processor_id
        if own is None:
            self._ask(processor_id, Rule.NOT_OWNED, True, pod.name)
            detail = f"pod {pod.name} runs it, and nobody owned it"
            self.adoptions.append(Adopt(processor_id, pod, 0, 1, Reason.ADOPTED, detail))
            self.findings[processor_id] = Finding(Reason.ADOPTED, detail, pod)
            return
        if _differs(own, pod):
            self.records.append(Record(processor_id, own.epoch, pod))
        outdated = is_outdated(pod.config_hash, wanted.config_hash)
        if self._ask(processor_id, Rule.CHANGED, outdated, wanted.blueprint.version.version):
            self._count_outdated(processor_id, pod, progress)
        elif self._ask(processor_id, Rule.READY, pod.ready, pod.name, pod.node_name):
            progress.settled.append((pod.created_at, pod.uid, True))
            self._is_ordinary = own.ready and own.pod_uid == pod.uid
            self.findings[processor_id] = Finding(Reason.RUNNING, "", pod)
            self._look_at_unprotected(processor_id, pod)
            return
        elif not self._waits_for_node(own, pod):
            self._count_unready(wanted, own, pod, progress)
        if self._ask(processor_id, Rule.FAILED, has_failed(pod), pod.restart_count):
            self._look_at_failed(processor_id, own, pod)
        elif pod.ready:
            # Those that the rollout does not leave out are told of by it.
            detail = f"its node {pod.node_name} is not ready"
            self.findings[processor_id] = Finding(Reason.ROLLOUT_WAITS, detail, pod)
        else:
            self.findings[processor_id] = _starting(pod)

    def _look_at_unprotected(self, processor_id: UUID, pod: Pod) -> None:
        detail = self.snapshot.unprotected.get(pod.uid)
        if detail is not None:
            self._ask(processor_id, Rule.UNPROTECTED, True, detail)
            self._is_ordinary = False
            self.findings[processor_id] = Finding(Reason.UNPROTECTED, detail, pod)

    def _is_frozen(self, processor_id: UUID, pods: Sequence[Pod]) -> bool:
        """Whether its document shows that the database was rolled back: then what it should be
        is not known, and nothing is done until an operator has decided."""
        detail = self.snapshot.ahead.get(processor_id)
        if detail is None:
            return False
        self._ask(processor_id, Rule.DOCUMENT_AHEAD, True, detail)
        pod = shown(pods) if pods else None
        self.findings[processor_id] = Finding(Reason.DOCUMENT_AHEAD, detail, pod)
        return True

    def _count_outdated(self, processor_id: UUID, pod: Pod, progress: Progress) -> None:
        """On a node that is not ready it would not end: the rollout goes on without it, and
        without those that are on their way."""
        if processor_id in self.desired.moves:
            return
        node = self.snapshot.observed.nodes.get(pod.node_name or "")
        if pod.node_name is None or (node is not None and node.ready):
            progress.outdated.append((processor_id, pod))

    def _waits_for_node(self, own: Ownership, pod: Pod) -> bool:
        """Whether its node was away already when it was created: that it is not ready tells
        nothing of its configuration. A node that went away later may be its fault."""
        place = pod.node_name or own.node_name
        node = self.snapshot.observed.nodes.get(place or "")
        if node is None:
            return pod.node_name is None and place is not None
        since = node.ready_changed_at
        return not node.ready and since is not None and since <= pod.created_at

    def _count_unready(self, wanted: Wanted, own: Ownership, pod: Pod, progress: Progress) -> None:
        """One that failed before and is not ready again counts as failed, also while it starts:
        else a rollout would go on in the moments in which its failures start anew."""
        probes = wanted.blueprint.runtime.probes
        may_take = probes.initial_delay_seconds + probes.startup_seconds
        deadline = pod.created_at + max(self.limits.rollout_ready_seconds, may_take)
        if self._fails(own, pod.created_at) or has_failed(pod) or self.now >= deadline:
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
            due_in_seconds = own.retry_at - self.now
            self._ask(processor_id, Rule.BACK_OFF, True, own.failures, due_in_seconds)
            self._wake(own.retry_at)
            self.findings[processor_id] = Finding(Reason.BACK_OFF, failed_times(own), pod)
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
            if self._ask(
                processor_id, Rule.GUARD_HELD, pod.uid in held, ", ".join(verdict.tripped)
            ):
                detail = "the desired set shrank suddenly: confirm its deletion"
                self.findings[processor_id] = Finding(Reason.GUARD_HELD, detail, pod)
        self._wake_for_release(verdict)
        return verdict

    def _look_at_undesired(self, processor_id: UUID, pods: Sequence[Pod]) -> bool:
        """Whether they may be ended."""
        if processor_id in self.snapshot.acting:
            self._find(processor_id, Reason.ACTING, "being carried out", pods)
            return False
        if self._is_frozen(processor_id, pods):
            return False
        own = self.desired.ownership.get(processor_id)
        ahead = _ahead(pods, own)
        if ahead is not None:
            self._ask(processor_id, Rule.EPOCH_AHEAD, True, ahead.epoch, own.epoch if own else 0)
            self.findings[processor_id] = Finding(
                Reason.EPOCH_AHEAD, _ahead_detail(ahead, own), ahead
            )
            return False
        self._ask(processor_id, Rule.NOT_DESIRED, True)
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
        for number, (processor_id, _) in enumerate(candidates):
            self._ask(processor_id, Rule.REMOVAL_LIMIT, number >= free, ending + number, most)
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
                and processor_id not in self.altered
                and processor_id not in self.snapshot.acting
                and own != own.forgotten()
                and self.snapshot.observed.shows(own.namespace)
            ):
                self._ask(processor_id, Rule.NOT_DESIRED, True)
                detail = "not desired, and its pod is gone"
                self.forgets.append(Forget(processor_id, own.epoch, Reason.NOT_DESIRED, detail))


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
        return shown(pods)
    for pod in pods:
        if pod.uid == own.pod_uid:
            return pod
    found = [pod for pod in pods if pod.epoch == own.epoch]
    found = found or [pod for pod in pods if pod.epoch is None]
    return shown(found) if found else None


def _differs(own: Ownership, pod: Pod) -> bool:
    # The node that a pod is meant for stays written until the cluster has placed it.
    return (
        own.pod_uid != pod.uid
        or own.ready != pod.ready
        or own.pod_ip != pod.ip
        or own.pod_name != pod.name
        or own.namespace != pod.namespace
        # Its end was granted, and it is desired again.
        or own.end_granted
        or (pod.node_name is not None and own.node_name != pod.node_name)
    )


def _starting(pod: Pod) -> Finding:
    if pod.node_name is None:
        return Finding(Reason.UNPLACED, pod.message or "waits for a node", pod)
    return Finding(Reason.STARTING, pod.waiting_reason or pod.message or "not ready", pod)


def _end_of(pod: Pod) -> str:
    """How a pod's container ended, in words."""
    code = "" if pod.exit_code is None else f", exit code {pod.exit_code}"
    return f"{pod.waiting_reason or pod.exit_reason or pod.phase}{code}"


def _fleet(pod: Pod) -> str:
    return f"fleet {pod.fleet_id}" if pod.fleet_id else "no fleet"
