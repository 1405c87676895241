"""The deletion guard (promise S6): a desired set that suddenly shrinks deletes nothing.

Processors are counted in groups: all, and each template, namespace and organization. Of each
group the baseline is the larger of the pods observed under our fleet id and the highest desired
count of the last ten minutes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dory_orchestrator.core.model import GuardRecord, Limits, Pod, PodPhase, ProcessorConfig
from dory_orchestrator.core.plan import GuardVerdict
from dory_orchestrator.core.specify import ORGANIZATION_LABEL, label_value

ALL = "all"
HISTORY_SECONDS = 600.0


def groups_of(config: ProcessorConfig, namespace: str) -> tuple[str, ...]:
    """The groups that a desired processor counts in."""
    groups = [ALL, f"namespace {config.namespace or namespace}"]
    if config.template_slug is not None:
        groups.append(f"template {label_value(config.template_slug)}")
    if config.organization_id is not None:
        groups.append(f"organization {config.organization_id}")
    return tuple(groups)


def groups_of_pod(pod: Pod) -> tuple[str, ...]:
    """The groups that a pod counts in whose processor is not desired: its labels tell."""
    groups = [ALL, f"namespace {pod.namespace}"]
    if "app" in pod.labels:
        groups.append(f"template {pod.labels['app']}")
    if ORGANIZATION_LABEL in pod.labels:
        groups.append(f"organization {pod.labels[ORGANIZATION_LABEL]}")
    return tuple(groups)


def count_desired(configs: Iterable[ProcessorConfig], namespace: str) -> Counter[str]:
    """Desired processors by group. Those in error count: they are desired."""
    # Fleets have few kinds of processors: count the kinds first.
    kinds: Counter[tuple[object, ...]] = Counter()
    example: dict[tuple[object, ...], ProcessorConfig] = {}
    for config in configs:
        kind: tuple[object, ...] = (
            config.namespace,
            config.template_slug,
            config.organization_id,
        )
        kinds[kind] += 1
        example[kind] = config
    counts: Counter[str] = Counter()
    for kind, count in kinds.items():
        for group in groups_of(example[kind], namespace):
            counts[group] += count
    return counts


def most(history: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The highest count of each group."""
    highest: dict[str, int] = {}
    for counts in history:
        for group, count in counts.items():
            highest[group] = max(count, highest.get(group, 0))
    return highest


def judge(
    *,
    desired: Mapping[str, int],
    desired_with_pod: Mapping[str, int],
    desired_most: Mapping[str, int],
    undesired: Sequence[Pod],
    untouched: Sequence[Pod] = (),
    record: GuardRecord,
    now: float,
    limits: Limits,
) -> GuardVerdict:
    """Which of the `undesired` pods are kept, and for which groups.

    A pod that never ran has nothing to lose: it is not kept, and keeps nobody. Those
    `untouched` are not desired either, but something else keeps them: they only count.
    """
    endangered = [
        pod for pod in undesired if pod.phase is not PodPhase.PENDING and not pod.terminating
    ]
    if not endangered:
        return GuardVerdict()
    observed = Counter(desired_with_pod)
    for pod in (*endangered, *untouched):
        observed.update(groups_of_pod(pod))
    tripped = dict(_tripped(desired, observed, desired_most, record, now, limits))
    held = tuple(pod for pod in endangered if any(g in tripped for g in groups_of_pod(pod)))
    return GuardVerdict(tripped if held else {}, held)


def _tripped(
    desired: Mapping[str, int],
    observed: Mapping[str, int],
    desired_most: Mapping[str, int],
    record: GuardRecord,
    now: float,
    limits: Limits,
) -> Iterator[tuple[str, tuple[int, int]]]:
    confirmed = _confirmed(record, now, limits)
    for group in sorted(observed):
        baseline = max(observed[group], desired_most.get(group, 0))
        left = desired.get(group, 0)
        if left >= confirmed.get(group, baseline):
            continue
        if _shrank(group, baseline, left, limits) and not _released(left, record, now, limits):
            yield group, (baseline, left)


def _shrank(group: str, baseline: int, left: int, limits: Limits) -> bool:
    """Below half and more than five fewer, or to nothing. A group of one other than the whole
    fleet is no set: to remove it is an ordinary wish."""
    if left == 0:
        return baseline > (0 if group == ALL else 1)
    return left < baseline * limits.guard_share and baseline - left > limits.guard_tolerated


def _confirmed(record: GuardRecord, now: float, limits: Limits) -> Mapping[str, int]:
    """What an operator accepted lately: no smaller desired set is covered by it."""
    if record.confirmed_at is None or now - record.confirmed_at > limits.guard_confirmation_seconds:
        return {}
    return record.confirmed


def _released(left: int, record: GuardRecord, now: float, limits: Limits) -> bool:
    """By time, where that is set; what shrank to nothing never is."""
    if limits.guard_release_seconds is None or record.held_since is None or left == 0:
        return False
    return now - record.held_since >= limits.guard_release_seconds
