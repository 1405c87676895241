"""Traces: what took how long, and what belongs together (docs/decisions/0030).

Rooms take a Tracer. Without a collector it is NO_TRACER, which does nothing; only with one the
adapter is imported, and OpenTelemetry with it.
"""

import hashlib
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import NamedTuple, Protocol
from uuid import UUID

Value = str | int | float | bool | None
"""What a span can say of itself; None is left out."""

EXTRA = "dory-orchestrator[tracing]"
_ADAPTER_NEEDS = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


class MoveTrace(NamedTuple):
    """The trace of a move: the same for every cycle, process and leader that has a part in it.

    `epoch` is the one that the move began with. The kind belongs to it, as the way home begins in
    the epoch that the way away began with.
    """

    processor_id: UUID
    kind: str
    epoch: int

    @property
    def ids(self) -> tuple[int, int]:
        """Of the trace (128 bits), and of the span that all others of it are in (64 bits)."""
        digest = hashlib.sha256(f"{self.processor_id} {self.kind} {self.epoch}".encode()).digest()
        return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


class Span(Protocol):
    """Something that goes on."""

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits; None if it is not recorded."""
        ...

    def set(self, **attributes: Value) -> None:
        """Say more of it."""
        ...


class Tracer(Protocol):
    """Takes note of spans, and hands them on in a thread of its own. Nothing here waits, and
    nothing raises."""

    def span(
        self,
        name: str,
        *,
        move: MoveTrace | None = None,
        seldom: bool = False,
        **attributes: Value,
    ) -> AbstractContextManager[Span]:
        """A span as long as the block; within the span around it, or in the trace of a move.

        `seldom`: one a second of this name at most, for what happens all the time; within another
        span all of them.
        """
        ...

    def step(
        self,
        name: str,
        move: MoveTrace,
        *,
        began_seconds_ago: float,
        ended_seconds_ago: float = 0.0,
        **attributes: Value,
    ) -> None:
        """A part of a move that was seen only afterwards."""
        ...

    def move_ended(self, move: MoveTrace, *, began_seconds_ago: float, **attributes: Value) -> None:
        """The span of a move as a whole: to be told once, by whoever ends it."""
        ...

    def trace_id(self, move: MoveTrace | None = None) -> str | None:
        """Of the move, else of the span around; None if there is none that is recorded."""
        ...

    def know_fleet(self, fleet_id: str) -> None:
        """From now on spans say which fleet they are of."""
        ...

    def close(self) -> None:
        """Hand on what is left, for two seconds at most."""
        ...


class _NoSpan:
    """One for all: entering it keeps nothing."""

    __slots__ = ()

    @property
    def trace_id(self) -> None:
        """See Span."""
        return

    def set(self, **attributes: Value) -> None:
        """See Span."""

    def __enter__(self) -> "_NoSpan":
        return self

    def __exit__(self, *_: object) -> None:
        pass


NO_SPAN = _NoSpan()


class _NoTracer:
    """Nobody wants to know."""

    def span(
        self,
        name: str,
        *,
        move: MoveTrace | None = None,
        seldom: bool = False,
        **attributes: Value,
    ) -> AbstractContextManager[Span]:
        """See Tracer."""
        return NO_SPAN

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

    def move_ended(self, move: MoveTrace, *, began_seconds_ago: float, **attributes: Value) -> None:
        """See Tracer."""

    def trace_id(self, move: MoveTrace | None = None) -> str | None:
        """See Tracer."""
        return None

    def know_fleet(self, fleet_id: str) -> None:
        """See Tracer."""

    def close(self) -> None:
        """See Tracer."""


NO_TRACER: Tracer = _NoTracer()


def is_installed() -> bool:
    """Whether the extra is there. Imports no more than the packages around what is looked for."""
    try:
        return all(find_spec(name) is not None for name in _ADAPTER_NEEDS)
    except ModuleNotFoundError:
        return False


def open_tracer(endpoint: str | None, *, share: float, process: str, version: str) -> Tracer:
    """A tracer that hands spans to the collector at `endpoint` (OTLP over HTTP), if there is one.

    `share` is that of the traces that are kept; moves are always kept. Raises ImportError when
    there is an endpoint and the extra is not installed.
    """
    if endpoint is None:
        return NO_TRACER
    from dory_orchestrator.tracing.otlp import collector_tracer

    return collector_tracer(endpoint, share=share, process=process, version=version)
