"""The adapter to OpenTelemetry: spans of ours become its spans, which a thread sends by OTLP.

The thread takes from a queue that is full at some time: then the oldest spans are dropped. What
nobody takes is counted and told in the log, once a minute at most.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from dory_orchestrator.tracing import NO_SPAN, MoveTrace, Span, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
SERVICE = "dory-orchestrator"
QUEUE_SIZE = 2_048
_BATCH_SIZE = 512
_SEND_EACH_SECONDS = 1.0
_SEND_SECONDS = 3.0
"""Longest time that one sending may take, its repetitions included."""
_CLOSE_SECONDS = 2.0
_SELDOM_SECONDS = 1.0
_WARN_SECONDS = 60.0
_VALUE_CHARACTERS_MAX = 2_000
_PATH = "/v1/traces"

_wished_ids: ContextVar[tuple[int, int] | None] = ContextVar("wished_ids", default=None)


def collector_tracer(endpoint: str, *, share: float, process: str, version: str) -> "OtlpTracer":
    """A tracer that sends to a collector. Headers come from OTEL_EXPORTER_OTLP_HEADERS."""
    # Its words for a collector that is gone are many, and some hold what it answered.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    base = endpoint.rstrip("/")
    url = base if base.endswith(_PATH) else base + _PATH
    sender = CalmExporter(OTLPSpanExporter(endpoint=url, timeout=_SEND_SECONDS), url)
    sending = BatchSpanProcessor(
        sender,
        max_queue_size=QUEUE_SIZE,
        schedule_delay_millis=_SEND_EACH_SECONDS * 1_000,
        max_export_batch_size=_BATCH_SIZE,
        export_timeout_millis=_SEND_SECONDS * 1_000,
    )
    return OtlpTracer(sending, share=share, process=process, version=version)


class CalmExporter(SpanExporter):
    """Tells that spans are lost, once a minute at most, and that they are taken again."""

    def __init__(
        self, inner: SpanExporter, url: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._url = url
        self._clock = clock
        self._lost = 0
        self._failing = False
        self._told_at: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called in the thread that sends."""
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._failing:
                _log.info("traces are taken again", collector=self._url)
            self._failing = False
            return result
        self._failing = True
        self._lost += len(spans)
        if self._told_at is None or self._clock() - self._told_at >= _WARN_SECONDS:
            _log.warning("nobody takes traces", collector=self._url, lost_spans=self._lost)
            self._told_at, self._lost = self._clock(), 0
        return result

    def shutdown(self) -> None:
        """Take no more."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Keeps nothing back."""
        return self._inner.force_flush(timeout_millis)


class OtlpTracer:
    """See Tracer."""

    def __init__(
        self, processor: SpanProcessor, *, share: float, process: str, version: str
    ) -> None:
        provider = TracerProvider(
            sampler=ParentBased(_ShareOfRoots(share)),
            resource=Resource.create(
                {
                    "service.name": SERVICE,
                    "service.version": version,
                    "dory.process": process,
                }
            ),
            id_generator=_WishedIds(),
            span_limits=SpanLimits(max_span_attribute_length=_VALUE_CHARACTERS_MAX),
            # We have an end of our own, which takes no longer than it may.
            shutdown_on_exit=False,
        )
        provider.add_span_processor(processor)
        self._processor = processor
        self._tracer = provider.get_tracer(SERVICE, version)
        self._fleet_id: str | None = None
        self._next_at: dict[str, float] = {}

    def span(
        self,
        name: str,
        *,
        move: MoveTrace | None = None,
        seldom: bool = False,
        **attributes: Value,
    ) -> AbstractContextManager[Span]:
        """See Tracer."""
        if seldom and self.trace_id() is None and not self._has_turn(name):
            return NO_SPAN
        return _OpenSpan(lambda: self._start(name, move, None, attributes))

    def step(
        self,
        name: str,
        move: MoveTrace,
        *,
        began_seconds_ago: float,
        ended_seconds_ago: float = 0.0,
        **attributes: Value,
    ) -> None:
        """See Tracer."""
        now = time.time_ns()
        span = self._start(name, move, now - _nanoseconds(began_seconds_ago), attributes)
        span.end(now - _nanoseconds(ended_seconds_ago))

    def move_ended(self, move: MoveTrace, *, began_seconds_ago: float, **attributes: Value) -> None:
        """See Tracer."""
        now = time.time_ns()
        said = {**_of_move(move), **attributes}
        with _with_ids(move.ids):
            span = self._tracer.start_span(
                f"move.{move.kind}",
                context=Context(),
                attributes=self._attributes(said),
                links=_links(),
                start_time=now - _nanoseconds(began_seconds_ago),
            )
        span.end(now)

    def trace_id(self, move: MoveTrace | None = None) -> str | None:
        """See Tracer."""
        return _trace_id(trace.get_current_span()) if move is None else f"{move.ids[0]:032x}"

    def know_fleet(self, fleet_id: str) -> None:
        """See Tracer."""
        self._fleet_id = fleet_id

    def close(self) -> None:
        """See Tracer. A collector that hangs is left to a thread that ends with the process."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _has_turn(self, name: str) -> bool:
        now = time.monotonic()
        if now < self._next_at.get(name, now):
            return False
        self._next_at[name] = now + _SELDOM_SECONDS
        return True

    def _start(
        self,
        name: str,
        move: MoveTrace | None,
        start_time: int | None,
        attributes: dict[str, Value],
    ) -> trace.Span:
        if move is not None:
            attributes = {**_of_move(move), **attributes}
        return self._tracer.start_span(
            name,
            context=None if move is None else _within(move),
            attributes=self._attributes(attributes),
            links=None if move is None else _links(),
            start_time=start_time,
        )

    def _attributes(self, values: dict[str, Value]) -> dict[str, str | int | float | bool]:
        said = _named(values)
        if self._fleet_id is not None:
            said["dory.fleet_id"] = self._fleet_id
        return said


class _OpenSpan:
    """A span that is the one around what happens in its block. Lines of the log bear its ids."""

    __slots__ = ("_logged", "_open", "_span", "_token", "trace_id")

    _span: trace.Span
    _token: "Token[Context]"
    _logged: "dict[str, Token[Any]]"

    def __init__(self, open_: Callable[[], trace.Span]) -> None:
        self._open = open_
        self.trace_id: str | None = None

    def set(self, **attributes: Value) -> None:
        """See Span."""
        self._span.set_attributes(_named(attributes))

    def __enter__(self) -> "_OpenSpan":
        self._span = self._open()
        self.trace_id = _trace_id(self._span)
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        span_id = f"{self._span.get_span_context().span_id:016x}" if self.trace_id else None
        # Of one that is not recorded there is nothing to be found: no ids, not those around it.
        self._logged = (
            dict(structlog.contextvars.bind_contextvars(trace_id=self.trace_id, span_id=span_id))
            if self.trace_id
            else {}
        )
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        structlog.contextvars.reset_contextvars(**self._logged)
        otel_context.detach(self._token)
        if error is not None:
            # Its words may hold secrets; the log, which masks them, has the same ids.
            self._span.set_attribute("error.type", type(error).__name__)
        if isinstance(error, Exception):
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


class _WishedIds(RandomIdGenerator):
    """Random, unless they were wished for."""

    def generate_trace_id(self) -> int:
        wished = _wished_ids.get()
        return super().generate_trace_id() if wished is None else wished[0]

    def generate_span_id(self) -> int:
        wished = _wished_ids.get()
        return super().generate_span_id() if wished is None else wished[1]


class _ShareOfRoots(Sampler):
    """A share of the traces; those of moves all."""

    def __init__(self, share: float) -> None:
        self._share = TraceIdRatioBased(share)

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        sampler = self._share if _wished_ids.get() is None else ALWAYS_ON
        return sampler.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return f"moves, and {self._share.get_description()}"


@contextmanager
def _with_ids(ids: tuple[int, int]) -> "Iterator[None]":
    token = _wished_ids.set(ids)
    try:
        yield
    finally:
        _wished_ids.reset(token)


def _within(move: MoveTrace) -> Context:
    """As if the span of the whole move were open somewhere else: it is told when it ends."""
    trace_id, span_id = move.ids
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    around = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(around), Context())


def _links() -> list[trace.Link]:
    """To the span around: the cycle in which this part of a move was done."""
    around = trace.get_current_span().get_span_context()
    return [trace.Link(around)] if around.is_valid and around.trace_flags.sampled else []


def _of_move(move: MoveTrace) -> dict[str, Value]:
    return {
        "processor_id": str(move.processor_id),
        "move_kind": move.kind,
        "move_epoch": move.epoch,
    }


def _named(values: dict[str, Value]) -> dict[str, str | int | float | bool]:
    return {f"dory.{name}": _sendable(value) for name, value in values.items() if value is not None}


def _sendable(value: str | int | float | bool) -> str | int | float | bool:
    """A cluster says what it likes: half a surrogate pair would cost the whole sending."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode(errors="replace").decode()


def _trace_id(span: trace.Span) -> str | None:
    around = span.get_span_context()
    sampled = around.is_valid and around.trace_flags.sampled
    return f"{around.trace_id:032x}" if sampled else None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
