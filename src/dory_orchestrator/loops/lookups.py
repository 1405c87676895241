"""Asking the cluster by name for pods that own and that no picture shows."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dory_orchestrator.core.model import Limits, Pod
from dory_orchestrator.core.plan import Missing
from dory_orchestrator.logs import get_logger
from dory_orchestrator.ports import Cluster, ClusterError

_log = get_logger(__name__)
_CALL_SECONDS = 5.0
_RETRY_SECONDS = 2.0
CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was said of a uid, and when it is asked for again; None: never, as it never returns."""

    pod: Pod | None
    again_at: float | None


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


class Lookups:
    """Keeps what the cluster said of each pod for as long as it is missing. `on_answer` is called
    with each new answer."""

    def __init__(self, cluster: Cluster, limits: Limits, on_answer: Callable[[], None]) -> None:
        self._cluster = cluster
        self._again_seconds = limits.look_again_seconds
        self._on_answer = on_answer
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._asking: set[str] = set()
        self._answers: dict[str, _Answer] = {}
        self._failed_at: dict[str, float] = {}

    def answers(self) -> Mapping[str, Pod | None]:
        """By uid: the pod, or None when there is none with this uid any more."""
        return {uid: answer.pod for uid, answer in self._answers.items()}

    def ask(self, group: asyncio.TaskGroup, missing: Sequence[Missing]) -> None:
        """These are missing now: ask for those of which nothing is known, or nothing new. All
        others are forgotten."""
        uids = {one.pod_uid for one in missing}
        self._answers = {uid: one for uid, one in self._answers.items() if uid in uids}
        self._failed_at = {uid: at for uid, at in self._failed_at.items() if uid in uids}
        for one in missing:
            if one.pod_uid not in self._asking and self._is_due(one.pod_uid):
                self._asking.add(one.pod_uid)
                group.create_task(self._ask(one))

    def _is_due(self, uid: str) -> bool:
        failed_at, answer = self._failed_at.get(uid), self._answers.get(uid)
        if failed_at is not None and _now() < failed_at + _RETRY_SECONDS:
            return False
        return answer is None or (answer.again_at is not None and _now() >= answer.again_at)

    async def _ask(self, one: Missing) -> None:
        uid = one.pod_uid
        try:
            async with self._places, asyncio.timeout(_CALL_SECONDS):
                found = await self._cluster.find_pod(one.namespace, one.pod_name)
        except (ClusterError, TimeoutError) as error:
            _log.info("a missing pod cannot be asked for", pod=one.pod_name, error=str(error))
            self._failed_at[uid] = _now()
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._on_answer)
            return
        finally:
            self._asking.discard(uid)
        self._failed_at.pop(uid, None)
        is_there = found is not None and found.uid == uid
        self._answers[uid] = (
            _Answer(found, _now() + self._again_seconds) if is_there else _Answer(None, None)
        )
        self._on_answer()
