"""What the demonstration saw, and whether that was a success. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SLACK_SECONDS = 0.3
"""A checkpoint that is due at a moment is taken a little after it. It is told."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A counter's value, as its pod told it, and when. Moments are Unix times."""

    at: float
    count: int
    pod_name: str
    node_name: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """The counter's way from one pod to the next.

    `seeded` is the value in the document that the new pod started from, None when it was not
    seen. `rpo_seconds` is what the orchestrator says may be lost.
    """

    before: Reading | None = None
    after: Reading | None = None
    seeded: int | None = None
    rto_seconds: float | None = None
    rpo_seconds: float | None = None

    @property
    def silent_seconds(self) -> float | None:
        """From the last value of the old pod to the first one of the new."""
        if self.before is None or self.after is None:
            return None
        return self.after.at - self.before.at

    @property
    def lost(self) -> int | None:
        """Counts that the old pod had told of and the new one did not start from; not negative."""
        if self.before is None or self.seeded is None:
            return None
        return max(0, self.before.count - self.seeded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All that counts. `residents` were on the node before it was killed; `away` and `home` say
    of each whose move has ended well where it led."""

    node: str
    counter: str
    rate: float
    residents: Sequence[str]
    out: Trip = field(default_factory=Trip)
    back: Trip = field(default_factory=Trip)
    away: Mapping[str, str] = field(default_factory=dict)
    home: Mapping[str, str] = field(default_factory=dict)


def rate_of(readings: Sequence[Reading]) -> float:
    """Counts a second; 0 where that cannot be said."""
    if len(readings) < 2 or readings[-1].at <= readings[0].at:
        return 0.0
    return (readings[-1].count - readings[0].count) / (readings[-1].at - readings[0].at)


def allowed_loss(observed: Observed) -> float | None:
    """How many counts may be lost when the node dies: by the orchestrator's bound, and the slack."""
    if observed.out.rpo_seconds is None:
        return None
    return (observed.out.rpo_seconds + SLACK_SECONDS) * observed.rate


def judge(observed: Observed) -> list[str]:
    """What was not as promised, a sentence each; nothing: it was a success."""
    if not observed.residents or observed.counter not in observed.residents:
        return [f"{observed.counter} was not on {observed.node} to begin with"]
    if observed.rate <= 0:
        return [f"{observed.counter} did not count on {observed.node} to begin with"]
    return [
        *_carried_over(observed),
        *_brought_back(observed),
        *(
            f"{name} did not move away from {observed.node}"
            for name in observed.residents
            if observed.away.get(name, observed.node) == observed.node
        ),
        *(
            f"{name} did not come home to {observed.node}"
            for name in observed.residents
            if observed.home.get(name) != observed.node
        ),
    ]


def _carried_over(observed: Observed) -> list[str]:
    name, trip = observed.counter, observed.out
    problems = _seen(name, trip, "away from home")
    if problems or trip.before is None or trip.after is None:
        return problems
    allowed = allowed_loss(observed)
    if allowed is None:
        return [f"the orchestrator knew no state of {name} to carry over"]
    least = trip.before.count - allowed
    if least <= 0:
        return [f"{name} was only {trip.before.count}: one that starts from nothing would pass"]
    if trip.after.count < least:
        problems.append(
            f"{name} was {trip.before.count} and went on from {trip.after.count}:"
            f" more was lost than the {allowed:.0f} counts that are allowed"
        )
    elif trip.seeded is not None and trip.seeded < least:
        problems.append(
            f"{name} was {trip.before.count} and was given {trip.seeded}:"
            f" more was lost than the {allowed:.0f} counts that are allowed"
        )
    if trip.after.node_name == observed.node:
        problems.append(f"{name} did not go on elsewhere, but on {observed.node}")
    return problems


def _brought_back(observed: Observed) -> list[str]:
    name, trip = observed.counter, observed.back
    problems = _seen(name, trip, "at home again")
    if problems or trip.before is None or trip.after is None:
        return problems
    if trip.after.count < trip.before.count:
        problems.append(
            f"{name} was {trip.before.count} and is {trip.after.count} at home:"
            " something was lost on the way"
        )
    elif trip.lost:
        problems.append(
            f"{name} was {trip.before.count} and was given {trip.seeded} at home:"
            " something was lost on the way"
        )
    if trip.after.node_name != observed.node:
        problems.append(f"{name} is on {trip.after.node_name}, not on {observed.node}")
    return problems


def _seen(name: str, trip: Trip, where: str) -> list[str]:
    if trip.before is None:
        return [f"{name} was not seen before it went {where}"]
    if trip.after is None:
        return [f"{name} was not seen {where}"]
    if trip.after.epoch <= trip.before.epoch:
        return [f"{name} has no later epoch {where}"]
    return []
