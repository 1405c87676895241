"""What a picture of the cluster says of the database: whose ids its pods bear without being owned
here, and whether anybody may be told to end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from dory_orchestrator.core.model import (
    ComponentHealth,
    Desired,
    HealthStatus,
    Observation,
)

WATCH_INTERVALS_MAX = 2
"""A picture is fresh while its watch carried something within so many poll intervals."""
WATCH_SECONDS_MIN = 10.0
"""However short the interval is: a watch that has nothing to tell is opened anew after 5 s."""

START_SECONDS = 30.0
"""After its start an orchestrator may take so long until its leader has looked."""


@dataclass(frozen=True, slots=True)
class UnownedPod:
    """A pod that bears a processor's id and does not own it here. `is_unknown`: this database has
    no row of the processor, and never had an owner of it."""

    namespace: str
    name: str
    is_unknown: bool


@dataclass(frozen=True, slots=True)
class Doubts:
    """What keeps `shutdown` from being answered, as it is stored. `age_seconds` is that of the
    picture, None when there is none; the uids are those of the cluster that is remembered, and of
    the one that is looked at."""

    database: str
    server: str
    guard_holds: bool
    age_seconds: float | None
    interval_seconds: float
    is_whole: bool
    seen_cluster_uid: str | None
    cluster_uid: str | None
    unknown_count: int
    unknown_pods: Sequence[str]


def is_fresh(age_seconds: float, poll_interval_seconds: float) -> bool:
    """Whether a picture counts whose watch carried something so long ago."""
    limit = max(WATCH_INTERVALS_MAX * poll_interval_seconds, WATCH_SECONDS_MIN)
    return age_seconds <= limit


def unowned(desired: Desired, observed: Observation) -> dict[UUID, UnownedPod]:
    """Of each processor one of the pods that bear its id and do not own it: those of another
    fleet or none, and ours where nobody owns."""
    found: dict[UUID, UnownedPod] = {}
    for processor_id, namespace, name, fleet_id in _bearers(observed):
        own = desired.ownership.get(processor_id)
        if own is not None and own.has_pod and fleet_id == desired.fleet_id:
            continue
        is_unknown = own is None and processor_id not in desired.configs
        pod = UnownedPod(namespace, name, is_unknown)
        before = found.get(processor_id, pod)
        # Always the same one of several, so that nothing is written anew.
        found[processor_id] = min(before, pod, key=lambda one: (one.namespace, one.name))
    return found


def _bearers(observed: Observation) -> Iterator[tuple[UUID, str, str, str | None]]:
    for pod in observed.pods.values():
        if pod.processor_id is not None:
            yield pod.processor_id, pod.namespace, pod.name, pod.fleet_id
    for bearer in observed.elsewhere.values():
        yield bearer.processor_id, bearer.namespace, bearer.name, bearer.fleet_id


def unknown_pods(where: str, count: int, names: Sequence[str]) -> str:
    """In words: what runs, and which database knows nothing of it."""
    more = f" and {count - len(names)} more" if count > len(names) else ""
    runs = "pod runs" if count == 1 else "pods run"
    return f"{count} {runs} that {where} never owned: {', '.join(names)}{more}"


def directives_health(doubts: Doubts, up_seconds: float) -> ComponentHealth:
    """Degraded while a missing row is answered `continue`. Until it is up for a while it is no
    doubt that no leader has looked."""
    where = f"database {doubts.database} on {doubts.server}"
    found = list(_doubtful(doubts, where, is_starting=up_seconds < START_SECONDS))
    if found:
        return ComponentHealth(
            HealthStatus.DEGRADED, f"no program is told to end for a missing row: {found[0]}"
        )
    age = doubts.age_seconds or 0.0
    return ComponentHealth(HealthStatus.HEALTHY, f"the cluster was seen {age:.1f} s ago")


def _doubtful(doubts: Doubts, where: str, *, is_starting: bool) -> Iterator[str]:
    """The one that says most comes first."""
    seen, remembered = doubts.seen_cluster_uid, doubts.cluster_uid
    if seen is not None and remembered is not None and seen != remembered:
        yield f"{where} is of the cluster {remembered}, and this is the cluster {seen}"
    if doubts.unknown_count:
        yield unknown_pods(where, doubts.unknown_count, doubts.unknown_pods)
    if doubts.guard_holds:
        yield "the deletion guard holds"
    if is_starting:
        return
    if doubts.age_seconds is None:
        yield f"no leader of {where} has seen the cluster yet"
    elif doubts.age_seconds > doubts.interval_seconds:
        yield f"a leader of {where} last saw the cluster {doubts.age_seconds:.0f} s ago"
    if not doubts.is_whole:
        yield "pods may be listed and watched in some namespaces only, so who runs is not known"
