"""How a change reaches the processors of a template: in steps, never all at once.

The state of a rollout is not stored: it is read off the pods. A step waits until what was
replaced before is ready; two in a row that do not become ready stop it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from dory_orchestrator.core.model import Limits, Pod
from dory_orchestrator.core.plan import Reason


@dataclass(slots=True)
class Progress:
    """The processors of one template. Grows while the fleet is looked through.

    `moving` have no pod at the moment, or one with the present configuration that is not ready
    yet. `settled` are those with the present configuration that became ready, or did not in
    time, or failed: (created at, uid, became ready). `outdated` are pods with another
    configuration that could be replaced.
    """

    total: int = 0
    moving: int = 0
    settled: list[tuple[float, str, bool]] = field(default_factory=list)
    outdated: list[tuple[UUID, Pod]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """Which outdated pods are replaced now, and why the others wait."""

    replaced: Sequence[tuple[UUID, Pod]]
    waiting: Sequence[tuple[UUID, Pod]]
    reason: Reason
    detail: str


def next_step(progress: Progress, limits: Limits) -> Step:
    """At most a share of the template's processors, or one, in motion at once."""
    outdated = sorted(progress.outdated, key=lambda one: (one[1].ready, one[0].int))
    failed = _failed_in_a_row(progress)
    if failed >= limits.rollout_failures_max:
        detail = f"stopped: the last {failed} that were replaced did not become ready"
        return Step((), outdated, Reason.ROLLOUT_STOPPED, detail)
    at_once = max(1, int(progress.total * limits.rollout_share))
    free = max(0, at_once - progress.moving)
    detail = f"{len(outdated)} of {progress.total} to replace, {at_once} at once"
    return Step(outdated[:free], outdated[free:], Reason.ROLLOUT_WAITS, detail)


def _failed_in_a_row(progress: Progress) -> int:
    failed = 0
    for _, _, became_ready in sorted(progress.settled, reverse=True):
        if became_ready:
            break
        failed += 1
    return failed
