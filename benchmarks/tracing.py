"""What traces cost the path of heartbeats: batches over a database that answers at once, without
a tracer, and with one whose spans nobody takes away slowly.

`python -m benchmarks.tracing`. Rounds take turns, so that a busy machine is busy for all.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from uuid import UUID

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.core.directive import BeatFacts
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import Beat
from dory_orchestrator.tracing import NO_TRACER, Tracer
from dory_orchestrator.tracing.otlp import OtlpTracer

_SIZES = (1, 100)
_ROUNDS = 21
_BEATS_A_ROUND = 20_000
_SPANS = 200_000


class _Store:
    """Records everything, and takes no time for it."""

    async def record_heartbeats(
        self, beats: Sequence[Beat], *, canary: bool, timeout_seconds: float
    ) -> list[BeatFacts]:
        facts = BeatFacts(found=True, recorded=True, status="running")
        return [facts] * len(beats)


class _Sink(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def _batch_seconds(tracer: Tracer, size: int) -> float:
    """Of one batch, on average over a round."""
    recorder = HeartbeatRecorder(_Store(), metrics=Metrics(), tracer=tracer)
    task = asyncio.create_task(recorder.run())
    beats = [Beat(UUID(int=number), "node", True) for number in range(size)]
    batches = _BEATS_A_ROUND // size
    began_at = time.perf_counter()
    for _ in range(batches):
        await asyncio.gather(*(recorder.submit(beat) for beat in beats))
    seconds = (time.perf_counter() - began_at) / batches
    recorder.close()
    await task
    return seconds


def _span_seconds(tracer: Tracer) -> float:
    """Of one span that is not taken, as by most batches."""
    began_at = time.perf_counter()
    for _ in range(_SPANS):
        with tracer.span("heartbeats.batch", seldom=True, size=1):
            pass
    with_span = time.perf_counter() - began_at
    began_at = time.perf_counter()
    for _ in range(_SPANS):
        pass
    return (with_span - (time.perf_counter() - began_at)) / _SPANS


def _on() -> OtlpTracer:
    return OtlpTracer(BatchSpanProcessor(_Sink()), share=1.0, process="api", version="bench")


async def _measure() -> None:
    on = _on()
    off_span, on_span = _span_seconds(NO_TRACER), _span_seconds(on)
    print(f"a span that is not taken: off {off_span * 1e9:.0f} ns, on {on_span * 1e9:.0f} ns")
    for size in _SIZES:
        rounds: dict[str, list[float]] = {"off": [], "on": []}
        for _ in range(_ROUNDS):
            rounds["off"].append(await _batch_seconds(NO_TRACER, size))
            rounds["on"].append(await _batch_seconds(on, size))
        off, with_it = (statistics.median(rounds[name]) for name in ("off", "on"))
        print(
            f"a batch of {size:>3}: off {off * 1e6:.1f} us, on {with_it * 1e6:.1f} us"
            f" ({with_it / off - 1:+.1%}); the span is {off_span / off:.2%} of it when off"
        )
    on.close()


if __name__ == "__main__":
    asyncio.run(_measure())
