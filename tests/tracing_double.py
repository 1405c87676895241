"""A tracer whose spans are kept in memory."""

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dory_orchestrator.tracing.otlp import OtlpTracer


class KeepingTracer(OtlpTracer):
    """The adapter as it is, with an exporter that keeps what it is given."""

    def __init__(self, *, share: float = 1.0, process: str = "control") -> None:
        self.exporter = InMemorySpanExporter()
        super().__init__(
            SimpleSpanProcessor(self.exporter), share=share, process=process, version="1.2.3"
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """In the order of their ends."""
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of a name."""
        return [span for span in self.spans if span.name == name]


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Of its trace, its own, and of the one around it."""
    context = span.context
    assert context is not None
    around = None if span.parent is None else f"{span.parent.span_id:016x}"
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", around


def said(span: ReadableSpan) -> dict[str, Any]:
    """What it says of itself, without the prefix."""
    return {name.removeprefix("dory."): value for name, value in (span.attributes or {}).items()}


def seconds(span: ReadableSpan) -> float:
    """How long it took."""
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9
