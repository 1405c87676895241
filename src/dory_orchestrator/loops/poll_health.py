"""The health poller: asks each running pod for its probes, once an interval.

The pods of a round are spread over its interval. A pod that hangs takes one of the
`concurrency` places for the time limit, and delays nobody while there are others: with the
defaults 180 pods may hang at once. Findings are written in groups, once a second; those that
cannot be written are dropped, because the next round brings fresher ones.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from dory_orchestrator.core.health import INTERVALS_UNTIL_UNHEALTHY, by_age
from dory_orchestrator.core.model import ComponentHealth, HealthStatus, Pod, PodPhase
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    PodAnswer,
    PodFinding,
    PodHealthStore,
    Pods,
    PodUnreachable,
    StoreError,
)
from dory_orchestrator.tracing import NO_TRACER, Tracer

_log = get_logger(__name__)
_WRITE_SECONDS = 1.0
_GROUP_SIZE_MAX = 1000
_SPREAD_SHARE = 0.9  # the rest of the interval is for answers that come at the last moment


def _now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pod answered last: nothing when it was unreachable, and `message` says why.

    `at` is when that was known, on the event loop's clock.
    """

    at: float
    answer: PodAnswer | None
    message: str

    @property
    def healthy(self) -> bool:
        """Whether it was reached and both probes were well."""
        return self.answer is not None and self.answer.ready and self.answer.healthy


class PollProgress(msgspec.Struct, frozen=True):
    """How the poller gets on; moments are on the monotonic clock.

    `asked` and `answered` are the pods of the last finished round, which took `took_seconds`.
    `round_began_at` is None between two rounds.
    """

    began_at: float | None = None
    round_began_at: float | None = None
    finished_at: float | None = None
    took_seconds: float = 0.0
    asked: int = 0
    answered: int = 0


def judge(progress: PollProgress, *, now: float, interval_seconds: float) -> ComponentHealth:
    """The component `health-poller`: healthy while its last round is younger than three
    intervals; degraded when a round takes longer than the interval."""
    limit_seconds = INTERVALS_UNTIL_UNHEALTHY * interval_seconds
    finished_at = progress.finished_at
    since = progress.began_at if finished_at is None else finished_at
    if since is None or now - since >= limit_seconds:
        age = None if finished_at is None else now - finished_at
        return by_age(age, limit_seconds, never="no round of pods is finished yet")
    message = f"{progress.answered} of {progress.asked} pods answered"
    if finished_at is None:
        message = "the first round of pods is under way"
    round_seconds = _longest_round_seconds(progress, now)
    if round_seconds > interval_seconds:
        message += f"; a round takes {round_seconds:.1f} s, longer than {interval_seconds:g} s"
        return ComponentHealth(HealthStatus.DEGRADED, message)
    return ComponentHealth(HealthStatus.HEALTHY, message)


def _longest_round_seconds(progress: PollProgress, now: float) -> float:
    """Of the last finished round and the one under way."""
    under_way = 0.0 if progress.round_began_at is None else now - progress.round_began_at
    return max(progress.took_seconds, under_way)


class HealthPoller:
    """Asks the pods that `running` names, tells the store, and keeps the last answers.

    `running` is called about once a second. Rounds stay within the interval while no more than
    `concurrency` pods have to be waited for at a time.
    """

    def __init__(
        self,
        *,
        pods: Pods,
        store: PodHealthStore,
        running: Callable[[], Iterable[Pod]],
        metrics: Metrics,
        interval_seconds: float = 10.0,
        timeout_seconds: float = 2.0,
        concurrency: int = 50,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._tracer = tracer
        self._pods = pods
        self._store = store
        self._running = running
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        # The last pod of a round may hang too, and the round still fits into its interval.
        free_seconds = max(interval_seconds - timeout_seconds, interval_seconds / 2)
        self._spread_seconds = _SPREAD_SHARE * free_seconds
        self._places = asyncio.Semaphore(concurrency)
        self._present: dict[str, Pod] = {}
        self._answers: dict[str, Asked] = {}
        self._unwritten: set[str] = set()
        self._store_error: str | None = None
        self._progress = PollProgress()

    @property
    def answers(self) -> Mapping[str, Asked]:
        """The last answer of each running pod that was asked, by uid; a view that goes along."""
        return MappingProxyType(self._answers)

    @property
    def progress(self) -> PollProgress:
        """For the process that serves the probes."""
        return self._progress

    def health(self) -> ComponentHealth:
        """See `judge`."""
        return judge(self._progress, now=_now(), interval_seconds=self._interval_seconds)

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll())
            tasks.create_task(self._write())

    def _look(self) -> None:
        """See which pods there are to ask now, and forget all others."""
        self._present = {pod.uid: pod for pod in self._running() if _is_to_be_asked(pod)}
        for uid in self._answers.keys() - self._present.keys():
            del self._answers[uid]
        self._unwritten &= self._present.keys()

    # Asking

    async def _poll(self) -> None:
        began_at = _now()
        self._progress = msgspec.structs.replace(self._progress, began_at=began_at)
        while True:
            with self._tracer.span("pods.poll_round") as span:
                await self._round(began_at)
                span.set(asked=self._progress.asked, answered=self._progress.answered)
            await _until(began_at + self._interval_seconds)
            began_at = _now()

    async def _round(self, began_at: float) -> None:
        self._progress = msgspec.structs.replace(self._progress, round_began_at=began_at)
        self._look()
        uids = sorted(self._present)  # the same order each time: each pod's turns are even
        asking = []
        async with asyncio.TaskGroup() as tasks:
            for number, uid in enumerate(uids):
                await _until(began_at + self._spread_seconds * number / len(uids))
                asking.append(tasks.create_task(self._ask(uid)))
        self._finish(began_at, [task.result() for task in asking])

    def _finish(self, began_at: float, round_: Sequence[Asked | None]) -> None:
        asked = [each for each in round_ if each is not None]
        self._progress = msgspec.structs.replace(
            self._progress,
            round_began_at=None,
            finished_at=_now(),
            took_seconds=_now() - began_at,
            asked=len(asked),
            answered=sum(each.answer is not None for each in asked),
        )

    async def _ask(self, uid: str) -> Asked | None:
        """Ask a pod when there is a place; None when it is gone by then."""
        async with self._places:
            pod = self._present.get(uid)
            if pod is None or pod.address is None:
                return None
            asked = await self._probe(pod.address)
        self._answers[uid] = asked
        self._unwritten.add(uid)
        return asked

    async def _probe(self, address: str) -> Asked:
        began_at = _now()
        try:
            answer = await self._pods.ask(address, timeout_seconds=self._timeout_seconds)
            asked = Asked(_now(), answer, answer.message)
        except PodUnreachable as error:
            asked = Asked(_now(), None, str(error))
        self._metrics.pod_probe_duration.observe(asked.at - began_at)
        self._metrics.pod_probes.labels(_outcome(asked)).inc()
        return asked

    # Telling the store

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            self._look()  # so that a pod that was just taken away is not called unhealthy
            findings = self._take_findings()
            for start in range(0, len(findings), _GROUP_SIZE_MAX):
                await self._write_group(findings[start : start + _GROUP_SIZE_MAX])

    def _take_findings(self) -> list[PodFinding]:
        """What is not written yet. Of several pods of one processor the newest owner counts."""
        newest = {
            pod.processor_id: pod.uid
            for pod in sorted(self._present.values(), key=_ownership_order)
            if pod.processor_id is not None
        }
        findings = [
            PodFinding(processor_id, self._answers[uid].healthy)
            for processor_id, uid in newest.items()
            if uid in self._unwritten
        ]
        self._unwritten.clear()
        return findings

    async def _write_group(self, findings: Sequence[PodFinding]) -> None:
        try:
            await self._store.record_pod_health(findings)
        except StoreError as error:
            self._metrics.pod_health_write_errors.inc()
            if self._store_error is None:
                _log.warning("the health of pods cannot be written", error=str(error))
            self._store_error = str(error)
            return
        if self._store_error is not None:
            _log.info("the health of pods is written again")
        self._store_error = None


async def _until(moment: float) -> None:
    """Sleep until the event loop's clock shows `moment`; yield once when it is past."""
    await asyncio.sleep(moment - _now())


def _is_to_be_asked(pod: Pod) -> bool:
    return (
        pod.phase is PodPhase.RUNNING
        and not pod.terminating
        and pod.address is not None
        and pod.processor_id is not None
    )


def _ownership_order(pod: Pod) -> tuple[int, float, str]:
    return (-1 if pod.epoch is None else pod.epoch, pod.created_at, pod.uid)


def _outcome(asked: Asked) -> str:
    if asked.answer is None:
        return "unreachable"
    return "ready" if asked.healthy else "not_ready"
