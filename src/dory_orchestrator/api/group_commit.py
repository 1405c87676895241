"""Heartbeats are committed in groups.

What arrives while a batch is being written forms the next one, so the size of a batch
follows the load, and one beat alone waits for nobody. One task writes; everyone else only
waits for a future, with a deadline of its own that no database can move.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dory_orchestrator.core.directive import (
    DIRECTIVES,
    BeatFacts,
    DirectiveReason,
    decide,
)
from dory_orchestrator.core.model import Directive
from dory_orchestrator.logs import get_logger
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Beat, HeartbeatStore, StoreDataError, StoreError
from dory_orchestrator.tracing import NO_TRACER, Span, Tracer

_log = get_logger(__name__)
_SWEEP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class GroupCommitLimits:
    """`answer_seconds` is the longest wait of one beat in all; the others bound the queue."""

    answer_seconds: float = 2.0
    queue_size: int = 20_000
    batch_size: int = 1_000

    @property
    def statement_seconds(self) -> float:
        """Leaves a beat that arrives behind a hanging batch the time for one of its own."""
        return self.answer_seconds * 0.75


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What becomes of a beat. There are few, made once: counting them hashes no text.

    `outcome` is a label of `dory_heartbeats_total`, `reason` one of
    `dory_heartbeat_directives_total`.
    """

    acknowledged: bool
    directive: Directive
    outcome: str
    reason: str


_RECORDED: dict[DirectiveReason, Answer] = {
    reason: Answer(True, directive, "recorded", str(reason))
    for reason, directive in DIRECTIVES.items()
    if reason is not DirectiveReason.NOT_RECORDED
}
_NOT_FOUND = _RECORDED[DirectiveReason.NOT_FOUND]
_CANARY = Answer(True, Directive.CONTINUE, "recorded", "canary")
_LOCKED = Answer(False, Directive.CONTINUE, "locked", str(DirectiveReason.NOT_RECORDED))
_UNRECORDED = Answer(False, Directive.CONTINUE, "unrecorded", str(DirectiveReason.NOT_RECORDED))
_SHED = Answer(False, Directive.CONTINUE, "shed", str(DirectiveReason.NOT_RECORDED))


class _Waiting(NamedTuple):
    beat: Beat | None
    future: "asyncio.Future[Answer]"
    deadline: float  # on the event loop's clock


class HeartbeatRecorder:
    """Takes beats in, hands answers out; each beat gets exactly one answer, in time.

    `run` must be running. A beat of None stands for a processor id that is not a UUID: it
    cannot be found, but only a database that answers may say so.
    """

    def __init__(
        self,
        store: HeartbeatStore,
        *,
        metrics: Metrics,
        limits: GroupCommitLimits | None = None,
        canary: Beat | None = None,
        tracer: Tracer = NO_TRACER,
        on_shutdown: Callable[[Beat, BeatFacts, DirectiveReason], None] | None = None,
    ) -> None:
        """`on_shutdown` hears of each beat that is answered so, and why."""
        self._store = store
        self._on_shutdown = on_shutdown
        self._tracer = tracer
        self._metrics = metrics
        self._limits = limits or GroupCommitLimits()
        self._canary = canary
        self._waiting: deque[_Waiting] = deque()
        self._in_flight: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._sweeping: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it costs a system call
        self._closing = False
        self._failing = False
        self._largest = 0

    def submit(self, beat: Beat | None) -> "asyncio.Future[Answer]":
        """Queue a beat; the future gets an Answer, never an exception."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if self._closing or len(self._waiting) >= self._limits.queue_size:
            self._resolve(future, _SHED)
            self._metrics.heartbeats.labels("shed").inc()
            return future
        self._waiting.append(_Waiting(beat, future, loop.time() + self._limits.answer_seconds))
        self._arrived.set()
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep, loop)
        return future

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer whoever waited too long. One timer for all: one each would cost more than the beat."""
        now = loop.time()
        late = 0
        for waiting in self._in_flight:
            if waiting.deadline > now:
                break
            late += self._resolve(waiting.future, _UNRECORDED)
        while self._waiting and self._waiting[0].deadline <= now:
            late += self._resolve(self._waiting.popleft().future, _UNRECORDED)
        if late:
            self._metrics.heartbeats.labels("unrecorded").inc(late)
        pending = self._in_flight or self._waiting
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep, loop) if pending else None

    @staticmethod
    def _resolve(future: "asyncio.Future[Answer]", answer: Answer) -> bool:
        if future.done():
            return False
        future.set_result(answer)
        return True

    def _now(self) -> float:
        """Seconds on the event loop's clock."""
        return (self._loop or asyncio.get_running_loop()).time()

    def close(self) -> None:
        """Take no more beats; `run` returns once the accepted ones are answered."""
        self._closing = True
        self._arrived.set()

    async def run(self) -> None:
        """Write batches until `close`. When cancelled, everyone who waits is answered."""
        try:
            while not (self._closing and not self._waiting):
                self._arrived.clear()
                if self._waiting:
                    await self._write_next()
                else:
                    await self._arrived.wait()
        finally:
            self._abandon()

    def _abandon(self) -> None:
        self._closing = True
        for waiting in (*self._in_flight, *self._waiting):
            self._resolve(waiting.future, _UNRECORDED)
        self._in_flight = []
        self._waiting.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def _write_next(self) -> None:
        size = min(len(self._waiting), self._limits.batch_size)
        self._in_flight = [self._waiting.popleft() for _ in range(size)]
        self._metrics.heartbeat_queue_depth.set(len(self._waiting))
        self._observe(size)
        started = self._now()
        with self._tracer.span("heartbeats.batch", seldom=True, size=size) as span:
            answers = await self._record(self._in_flight)
            if span.trace_id is not None:
                self._describe(span, started, answers)
        self._metrics.heartbeat_batch_duration.observe(self._now() - started)
        self._deliver(answers)

    def _describe(self, span: Span, started: float, answers: Sequence[Answer]) -> None:
        """How long its oldest beat had waited, and what became of how many."""
        came_at = self._in_flight[0].deadline - self._limits.answer_seconds
        span.set(wait_seconds=started - came_at, queued=len(self._waiting))
        for outcome, count in Counter(answer.outcome for answer in answers).items():
            span.set(**{outcome: count})

    def _observe(self, size: int) -> None:
        self._metrics.heartbeat_batch_size.observe(size)
        if size > self._largest:
            self._largest = size
            self._metrics.heartbeat_batch_size_max.set(size)

    def _deliver(self, answers: Sequence[Answer]) -> None:
        counts: dict[Answer, int] = {}
        for (_, future, _), answer in zip(self._in_flight, answers, strict=True):
            # Who was told already that it took too long is counted already. A client that
            # went away gets no answer, but what it said was recorded.
            if not future.done():
                future.set_result(answer)
            elif not future.cancelled():
                continue
            counts[answer] = counts.get(answer, 0) + 1
        self._in_flight = []
        counts.pop(_CANARY, None)
        for answer, count in counts.items():
            self._metrics.heartbeats.labels(answer.outcome).inc(count)
            self._metrics.heartbeat_directives.labels(answer.directive, answer.reason).inc(count)

    async def _record(self, batch: Sequence[_Waiting]) -> list[Answer]:
        canary = self._canary
        beats = [beat for beat, _, _ in batch if beat is not None and beat is not canary]
        has_canary = any(beat is canary for beat, _, _ in batch if beat is not None)
        deadline = self._now() + self._limits.statement_seconds
        try:
            facts = await self._store_all(beats, has_canary, deadline)
        except StoreError as error:
            self._tell(error)
            return [_UNRECORDED] * len(batch)
        self._tell(None)
        return self._answers(batch, facts)

    def _answers(
        self, batch: Sequence[_Waiting], facts_of_beats: Sequence[BeatFacts | None]
    ) -> list[Answer]:
        answers = []
        same: BeatFacts | None = None
        answer = _UNRECORDED
        remaining = iter(facts_of_beats)
        for beat, _, _ in batch:
            if beat is None:
                answers.append(_NOT_FOUND)
                continue
            if beat is self._canary:
                answers.append(_CANARY)
                continue
            facts = next(remaining)
            # Beats that share their facts share the answer, unless it depends on the sender.
            if facts is None or facts is not same or facts.left_node_name is not None:
                same = facts
                answer = _answer(facts, beat[1])
            answers.append(answer)
            if answer.directive is Directive.SHUTDOWN and facts is not None:
                self._tell_shutdown(beat, facts, answer)
        return answers

    def _tell_shutdown(self, beat: Beat, facts: BeatFacts, answer: Answer) -> None:
        if self._on_shutdown is not None:
            self._on_shutdown(beat, facts, DirectiveReason(answer.reason))

    async def _store_all(
        self, beats: list[Beat], canary: bool, deadline: float
    ) -> list[BeatFacts | None]:
        """Facts of each beat; None for one that the database refuses.

        Raises StoreError when the first attempt fails for a reason that is no beat's own.
        """
        try:
            return [*await self._store_some(beats, canary, deadline)]
        except StoreDataError as error:
            if not beats:
                raise
            _log.warning("the database refuses a heartbeat", beats=len(beats), error=str(error))
        if canary:
            await self._store_some([], canary, deadline)
        return await self._bisect(beats, deadline)

    async def _bisect(self, beats: list[Beat], deadline: float) -> list[BeatFacts | None]:
        """A value that the database refuses is its sender's trouble, not its neighbours'."""
        if len(beats) == 1:
            return [None]
        facts: list[BeatFacts | None] = []
        middle = len(beats) // 2
        for half in (beats[:middle], beats[middle:]):
            try:
                facts += await self._store_some(half, False, deadline)
            except StoreDataError:
                facts += await self._bisect(half, deadline)
            except StoreError:
                facts += [None] * len(half)
        return facts

    async def _store_some(
        self, beats: list[Beat], canary: bool, deadline: float
    ) -> list[BeatFacts]:
        left_seconds = max(0.001, deadline - self._now())
        return await self._store.record_heartbeats(
            beats, canary=canary, timeout_seconds=left_seconds
        )

    def _tell(self, error: StoreError | None) -> None:
        """One line when recording stops and one when it goes on, not one a batch."""
        if error is not None and not self._failing:
            _log.warning("heartbeats are not recorded", error=str(error))
        elif error is None and self._failing:
            _log.info("heartbeats are recorded again")
        self._failing = error is not None


def _answer(facts: BeatFacts | None, sender_node_name: str) -> Answer:
    if facts is None:
        return _UNRECORDED
    _, reason = decide(facts, sender_node_name)
    return _RECORDED.get(reason, _LOCKED)
