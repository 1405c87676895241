"""The newest picture of the cluster, and whether the cluster answers."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.health import INTERVALS_UNTIL_UNHEALTHY, by_age
from dory_orchestrator.core.model import ComponentHealth, HealthStatus, Observation, Pod
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import Cluster, ClusterError

_log = get_logger(__name__)
_CHECK_SECONDS = 2.0
_EXPECTED_SECONDS = 5.0
_OLD_SECONDS = 90.0
"""A cluster says about once a minute that nothing changed; a stream of Kubernetes that says
nothing for 75 s is opened anew, within 10 s."""
_BACKOFF = Backoff(first_seconds=0.2, most_seconds=10.0, forgotten_after_seconds=30.0)


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class Observer:
    """Keeps up with a cluster. `current` is None while it cannot: then nothing may be decided."""

    def __init__(self, cluster: Cluster, on_change: Callable[[], None]) -> None:
        self._cluster = cluster
        self._on_change = on_change
        self._last: Observation | None = None
        self._is_blind = True
        self._heard_at: float | None = None
        self._version = ""
        self._answered_at: float | None = None
        self._error: str | None = None
        self._blind_since: float | None = None
        self._blind_because = ""
        self._created: dict[str, tuple[float, Pod]] = {}
        self._deleted: dict[str, float] = {}

    @property
    def current(self) -> Observation | None:
        """The cluster as it is now, as far as we know; None while the stream is broken.

        With what we did ourselves a moment ago, also before the stream tells of it: else the
        same would be decided once more.
        """
        return None if self._is_blind else self.last_seen

    @property
    def last_seen(self) -> Observation | None:
        """The newest picture, also while there is none of now: the pods in it may still be asked
        for their health and state, as each says itself which it is. Nothing is decided on it."""
        if self._last is None or not (self._created or self._deleted):
            return self._last
        pods, now = dict(self._last.pods), _now()
        for uid, (until, pod) in self._created.items():
            if until > now:
                pods.setdefault(uid, pod)
        for uid, until in self._deleted.items():
            if uid in pods and until > now:
                pods[uid] = replace(pods[uid], terminating=True, ready=False)
        return replace(self._last, pods=pods)

    def created(self, pod: Pod) -> None:
        """A pod was created: it is there until a picture tells."""
        self._created[pod.uid] = (_now() + _EXPECTED_SECONDS, pod)

    def deleted(self, pod: Pod) -> None:
        """A pod's deletion was accepted: it terminates, also while a picture says otherwise."""
        self._deleted[pod.uid] = _now() + _EXPECTED_SECONDS

    def _take(self, picture: Observation) -> None:
        """An expectation ends with a picture that fulfils it, or when its time is over: then
        the pod was gone before any picture showed it."""
        now, seen = _now(), picture.pods
        self._created = {
            uid: (until, pod)
            for uid, (until, pod) in self._created.items()
            if uid not in seen and until > now
        }
        self._deleted = {
            uid: until
            for uid, until in self._deleted.items()
            if uid in seen and not seen[uid].terminating and until > now
        }
        is_new = self._is_blind or picture != self._last
        self._last, self._is_blind = picture, False
        self._blind_since, self._blind_because = None, ""
        self._heard_at = now - picture.age_seconds
        if is_new:
            self._on_change()

    @property
    def picture_age_seconds(self) -> float | None:
        """How long ago the newest picture was known to be true, also while there is none any more
        (see `current`); None before the first."""
        return None if self._heard_at is None else _now() - self._heard_at

    async def run(self) -> None:
        """Observe until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._keep_asking())

    async def _follow(self) -> None:
        failures = 0
        while True:
            began_at = _now()
            try:
                async with self._cluster.observe() as pictures:
                    async for picture in pictures:
                        self._take(picture)
                error = "the stream ended"
            except ClusterError as broken:
                error = str(broken)
            if error != self._blind_because:
                _log.warning("the cluster cannot be observed", error=error)
            if self._blind_since is None:
                self._blind_since = _now()
            self._blind_because = error
            # What was seen last is no picture of now: a pod that is not in it may well run.
            self._is_blind = True
            failures = _BACKOFF.count(failures, _now() - began_at)
            await asyncio.sleep(_BACKOFF.delay_seconds(failures))

    async def _keep_asking(self) -> None:
        while True:
            try:
                self._version = await self._cluster.version()
                self._answered_at, self._error = _now(), None
            except ClusterError as error:
                self._error = str(error)
            await asyncio.sleep(_CHECK_SECONDS)

    def health(self) -> ComponentHealth | None:
        """The component `kubernetes`; None before the first answer or error."""
        if self._answered_at is None and self._error is None:
            return None
        age = None if self._answered_at is None else _now() - self._answered_at
        limit_seconds = INTERVALS_UNTIL_UNHEALTHY * _CHECK_SECONDS
        health = by_age(age, limit_seconds, never="the cluster never answered", error=self._error)
        if health.status is not HealthStatus.HEALTHY:
            return health
        if self._blind_since is not None and _now() - self._blind_since >= limit_seconds:
            # It answers, and does not show what is needed: a right that is missing, mostly.
            message = f"it cannot be observed: {self._blind_because}{self._age()}"
            return ComponentHealth(HealthStatus.UNHEALTHY, message)
        picture_age = self.picture_age_seconds
        is_old = picture_age is not None and picture_age >= _OLD_SECONDS
        status = HealthStatus.DEGRADED if is_old else HealthStatus.HEALTHY
        return ComponentHealth(status, f"{self._version} answers{self._age()}{self._hidden()}")

    def _age(self) -> str:
        age = self.picture_age_seconds
        return "" if age is None else f"; its picture is {age:.0f} s old"

    def _hidden(self) -> str:
        """Which namespaces are left out. That is told, and no more: one row that names a wrong one
        must make nobody unready, nor wake anybody; its processor says that it waits for it."""
        hidden = {} if self._last is None or self._is_blind else self._last.hidden
        if not hidden:
            return ""
        name, reason = min(hidden.items())
        more = f" (and {len(hidden) - 1} more)" if len(hidden) > 1 else ""
        return f"; namespace {name}{more} cannot be looked at: {reason}"
