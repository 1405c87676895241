"""Group commit: each beat is answered exactly once, in time, whatever happens to the store."""

import asyncio
from uuid import UUID, uuid4

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import MemoryStore, Processor
from tests.tracing_double import KeepingTracer, said

from dory_orchestrator.api.group_commit import Answer, GroupCommitLimits, HeartbeatRecorder
from dory_orchestrator.core.model import Directive
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Beat, StoreDataError, StoreUnavailable
from dory_orchestrator.tracing import NO_TRACER, Tracer

pytestmark = pytest.mark.looptime

LIMITS = GroupCommitLimits(answer_seconds=2.0, queue_size=50, batch_size=10)


def told(answer: Answer) -> tuple[bool, Directive, str]:
    return answer.acknowledged, answer.directive, answer.outcome


class Rig:
    """A recorder at work over a store in memory."""

    def __init__(self, limits: GroupCommitLimits = LIMITS, tracer: Tracer = NO_TRACER) -> None:
        self.store = MemoryStore()
        self.metrics = Metrics()
        self.canary = Beat(uuid4(), "", True)
        self.recorder = HeartbeatRecorder(
            self.store,
            metrics=self.metrics,
            limits=limits,
            canary=self.canary,
            tracer=tracer,
        )

    async def __aenter__(self) -> "Rig":
        self._task = asyncio.create_task(self.recorder.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.recorder.close()
        if self.store.hold is not None:
            self.store.hold.set()
        await self._task

    def processor(self, **values: object) -> UUID:
        key = uuid4()
        self.store.processors[key] = Processor(**values)  # type: ignore[arg-type]
        return key

    def count(self, outcome: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "dory_heartbeats_total", {"outcome": outcome}
        )
        return value or 0.0


async def test_a_lone_beat_is_written_at_once():
    async with Rig() as rig:
        key = rig.processor()
        answer = await rig.recorder.submit(Beat(key, "edge-1", True))

    assert told(answer) == (True, Directive.CONTINUE, "recorded")
    assert rig.store.processors[key].health_status == "healthy"
    assert asyncio.get_running_loop().time() == 0


async def test_what_arrives_during_a_batch_forms_the_next():
    async with Rig() as rig:
        rig.store.hold = asyncio.Event()
        first = rig.recorder.submit(Beat(rig.processor(), "n", True))
        await asyncio.sleep(0.01)
        others = [rig.recorder.submit(Beat(rig.processor(), "n", True)) for _ in range(9)]
        rig.store.hold.set()
        await asyncio.gather(first, *others)

    assert [len(batch) for batch in rig.store.batches] == [1, 9]


async def test_the_last_beat_of_a_processor_wins_and_all_are_answered():
    async with Rig() as rig:
        key = rig.processor()
        answers = await asyncio.gather(
            *(rig.recorder.submit(Beat(key, "n", healthy)) for healthy in (True, True, False))
        )

    assert [a.acknowledged for a in answers] == [True] * 3
    assert [len(batch) for batch in rig.store.batches] == [3]
    assert rig.store.processors[key].health_status == "unhealthy"


async def test_two_senders_of_one_processor_get_their_own_directives():
    async with Rig() as rig:
        key = rig.processor(left_node_name="home", owner_node_name="cloud", owner_ready=True)
        old, new = await asyncio.gather(
            rig.recorder.submit(Beat(key, "home", True)),
            rig.recorder.submit(Beat(key, "cloud", True)),
        )

    assert (old.directive, new.directive) == (Directive.SHUTDOWN, Directive.CONTINUE)


async def test_an_id_that_is_no_uuid_is_not_found_only_if_the_database_answers():
    async with Rig() as rig:
        assert (await rig.recorder.submit(None)).directive is Directive.SHUTDOWN
        rig.store.error = StoreUnavailable("down")
        answer = await rig.recorder.submit(None)
    assert told(answer) == (False, Directive.CONTINUE, "unrecorded")


async def test_a_locked_row_costs_only_its_own_beat():
    async with Rig() as rig:
        locked, free = rig.processor(locked=True, status="terminated"), rig.processor()
        answers = await asyncio.gather(
            rig.recorder.submit(Beat(locked, "n", True)), rig.recorder.submit(Beat(free, "n", True))
        )

    assert told(answers[0]) == (False, Directive.CONTINUE, "locked")
    assert answers[1].acknowledged


async def test_a_hanging_database_never_delays_an_answer_beyond_the_limit():
    loop = asyncio.get_running_loop()
    async with Rig() as rig:
        rig.store.hold = asyncio.Event()
        for _ in range(40):
            began = loop.time()
            answer = await rig.recorder.submit(Beat(rig.processor(), "n", True))
            assert answer.directive is Directive.CONTINUE
            assert not answer.acknowledged
            assert loop.time() - began <= 2.05
            await asyncio.sleep(0.3)


async def test_beyond_the_queue_beats_are_shed_at_once():
    async with Rig() as rig:
        rig.store.hold = asyncio.Event()
        rig.recorder.submit(Beat(rig.processor(), "n", True))
        await asyncio.sleep(0)
        futures = [rig.recorder.submit(Beat(rig.processor(), "n", True)) for _ in range(60)]
        shed = [f for f in futures if f.done()]

    assert {told(f.result()) for f in shed} == {(False, Directive.CONTINUE, "shed")}
    assert len(shed) == rig.count("shed") == 10
    assert all(f.done() for f in futures)


async def test_a_value_that_the_database_refuses_is_its_sender_s_trouble_alone():
    async with Rig() as rig:
        keys = [rig.processor() for _ in range(9)]
        bad = {keys[2], keys[7]}

        def refuse(beats):
            if any(beat.processor_id in bad for beat in beats):
                raise StoreDataError("refused")

        rig.store.before_batch = refuse
        answers = await asyncio.gather(
            rig.recorder.submit(rig.canary),
            *(rig.recorder.submit(Beat(key, "n", True)) for key in keys),
        )

    assert answers[0].acknowledged
    assert {k for k, a in zip(keys, answers[1:], strict=True) if not a.acknowledged} == bad
    assert rig.store.canaries == 1


async def test_closing_writes_what_was_accepted_and_sheds_the_rest():
    rig = Rig()
    async with rig:
        accepted = [rig.recorder.submit(Beat(rig.processor(), "n", True)) for _ in range(25)]
        rig.recorder.close()
        late = rig.recorder.submit(Beat(rig.processor(), "n", True))

    assert all(f.result().acknowledged for f in accepted)
    assert late.result().outcome == "shed"


async def test_a_cancelled_writer_strands_nobody():
    rig = Rig()
    rig.store.hold = asyncio.Event()
    task = asyncio.create_task(rig.recorder.run())
    futures = [rig.recorder.submit(Beat(rig.processor(), "n", True)) for _ in range(25)]
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert {f.result().outcome for f in futures} == {"unrecorded"}


async def test_the_canary_is_not_counted_among_the_heartbeats():
    async with Rig() as rig:
        assert (await rig.recorder.submit(rig.canary)).acknowledged

    assert rig.store.canaries == 1
    assert rig.count("recorded") == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("beat"), st.integers(0, 4)),
        st.tuples(st.just("no-uuid"), st.just(0)),
        st.tuples(st.just("canary"), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 200)),
        st.tuples(st.just("wait"), st.floats(0, 3)),
        st.tuples(st.just("hold"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("down"), st.just(0)),
        st.tuples(st.just("refuse"), st.just(0)),
        st.tuples(st.just("up"), st.just(0)),
    ),
    max_size=60,
)


class Interleaving:
    """Plays steps against a rig and keeps every future that came out."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.keys = [rig.processor() for _ in range(4)]
        self.answers: list[asyncio.Future[Answer]] = []
        self.resolved: dict[asyncio.Future[Answer], int] = {}
        self.slowest = 0.0

    async def play(self, what: str, value: float) -> None:
        match what:
            case "beat":
                key = self.keys[int(value)] if value < 4 else uuid4()
                self._submit(Beat(key, f"n{int(value) % 2}", True))
            case "no-uuid":
                self._submit(None)
            case "canary":
                self._submit(self.rig.canary)
            case "cancel" if self.answers:
                self.answers[int(value) % len(self.answers)].cancel()
            case "wait":
                await asyncio.sleep(value)
            case "hold":
                self.rig.store.hold = self.rig.store.hold or asyncio.Event()
            case "release" if self.rig.store.hold:
                self.rig.store.hold.set()
                self.rig.store.hold = None
            case "down":
                self.rig.store.error = StoreUnavailable("down")
            case "refuse":
                self.rig.store.error = StoreDataError("refused")
            case _:
                self.rig.store.error = None

    def _submit(self, beat: Beat | None) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        future = self.rig.recorder.submit(beat)

        def resolved(done: asyncio.Future[Answer]) -> None:
            self.resolved[done] = self.resolved.get(done, 0) + 1
            self.slowest = max(self.slowest, loop.time() - began)

        future.add_done_callback(resolved)
        self.answers.append(future)


@settings(max_examples=150)
@given(steps)
def test_any_interleaving_answers_each_beat_exactly_once(steps):
    async def scenario() -> None:
        async with Rig(GroupCommitLimits(answer_seconds=2.0, queue_size=8, batch_size=3)) as rig:
            interleaving = Interleaving(rig)
            for what, value in steps:
                await interleaving.play(what, value)
            await asyncio.sleep(2.1)
            assert set(interleaving.resolved.values()) <= {1}
            assert len(interleaving.resolved) == len(interleaving.answers)
            assert interleaving.slowest <= 2.06

    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        runner.run(scenario())


# Traces


async def test_one_batch_a_second_is_a_span():
    tracer = KeepingTracer(process="api")
    async with Rig(tracer=tracer) as rig:
        keys = [rig.processor(), rig.processor(locked=True), uuid4()]
        await asyncio.gather(*(rig.recorder.submit(Beat(key, "n", True)) for key in keys))
        await rig.recorder.submit(Beat(keys[0], "n", True))

    (span,) = tracer.named("heartbeats.batch")
    assert span.parent is None
    assert said(span) == {
        "size": 3,
        "wait_seconds": pytest.approx(0.0, abs=0.001),
        "queued": 0,
        "recorded": 2,
        "locked": 1,
    }


async def test_a_batch_that_is_not_recorded_says_so_and_how_long_it_had_waited():
    tracer = KeepingTracer(process="api")
    async with Rig(tracer=tracer) as rig:
        rig.store.error = StoreUnavailable("away")
        await rig.recorder.submit(Beat(uuid4(), "n", True))

    (span,) = tracer.named("heartbeats.batch")
    assert (said(span)["size"], said(span)["unrecorded"]) == (1, 1)
