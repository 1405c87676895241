"""The tracer itself: ids, shares, what a dead collector does, and that nothing of it is there when
nobody wants it."""

import asyncio
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from uuid import UUID

import pytest
import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from tests.patience import patient
from tests.tracing_double import KeepingTracer, ids, said, seconds

from dory_orchestrator import logs
from dory_orchestrator.tracing import NO_TRACER, MoveTrace, Span, Tracer, open_tracer
from dory_orchestrator.tracing import otlp as adapter

MOVE = MoveTrace(UUID(int=7), "failover", 3)


def tracer_to(url: str) -> Tracer:
    return open_tracer(url, share=1.0, process="api", version="1")


@pytest.fixture
def log() -> Iterator[StringIO]:
    """What is logged, by us and by libraries. Both are left as they were."""
    root, quiet = logging.getLogger(), [logging.getLogger(n) for n in ("opentelemetry", "urllib3")]
    handlers, level, levels = root.handlers[:], root.level, [each.level for each in quiet]
    stream = StringIO()
    logs.configure("debug", "json", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    for each, before in zip(quiet, levels, strict=True):
        each.setLevel(before)


def by_now(condition: Callable[[], bool], limit_seconds: float = 5.0) -> None:
    """Wait for another thread."""
    until = time.monotonic() + patient(limit_seconds)
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.01)


class TestIds:
    def test_of_a_move_follow_from_it_alone(self):
        assert MOVE.ids == MoveTrace(UUID(int=7), "failover", 3).ids
        others = [
            MoveTrace(UUID(int=8), "failover", 3),
            MoveTrace(UUID(int=7), "failback", 3),
            MoveTrace(UUID(int=7), "failover", 4),
        ]
        every = [MOVE.ids, *(other.ids for other in others)]
        assert len({trace for trace, _ in every}) == len({span for _, span in every}) == 4
        assert all(0 < trace < 2**128 and 0 < span < 2**64 for trace, span in every)

    def test_never_change_from_version_to_version(self):
        """Two versions side by side must agree while one takes over from the other."""
        assert [f"{number:x}" for number in MOVE.ids] == [
            "128c09156f8d76e3074e1d2b75db9140",
            "90fa41f314e4b439",
        ]


class TestSpans:
    def test_nest_and_leave_no_trace_of_themselves_behind(self):
        tracer = KeepingTracer()
        with tracer.span("outer", a=1, b=None) as outer:
            assert tracer.trace_id() == outer.trace_id
            with tracer.span("inner") as inner:
                inner.set(c=0.5)
        assert tracer.trace_id() is None
        inner_span, outer_span = tracer.spans
        assert ids(inner_span)[::2] == ids(outer_span)[:2]
        assert (said(outer_span), said(inner_span)) == ({"a": 1}, {"c": 0.5})
        assert structlog.contextvars.get_contextvars() == {}

    def test_say_who_they_are_of(self):
        tracer = KeepingTracer(process="api")
        with tracer.span("before"):
            pass
        tracer.know_fleet("f")
        with tracer.span("after"):
            pass
        before, after = tracer.spans
        resource = before.resource.attributes
        assert (resource["service.name"], resource["service.version"]) == (
            "dory-orchestrator",
            "1.2.3",
        )
        assert resource["dory.process"] == "api"
        assert (said(before), said(after)) == ({}, {"fleet_id": "f"})

    def test_an_error_passes_through_and_only_its_name_is_kept(self):
        tracer = KeepingTracer()
        with pytest.raises(ValueError, match="geheim"), tracer.span("a"):
            raise ValueError("geheim")
        (span,) = tracer.spans
        assert said(span) == {"error.type": "ValueError"}
        assert not span.status.is_ok
        assert "geheim" not in span.to_json()

    def test_what_a_cluster_says_is_cut_and_can_be_sent(self):
        tracer = KeepingTracer()
        with tracer.span("a", half="x\udce4", fish="\U0001f41f", long="x" * 10_000):
            pass
        (span,) = tracer.spans
        assert said(span) == {"half": "x?", "fish": "\U0001f41f", "long": "x" * 2_000}
        encode_spans([span]).SerializeToString()

    async def test_one_that_is_cancelled_has_not_failed(self):
        tracer = KeepingTracer()

        async def work() -> None:
            with tracer.span("a"):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (span,) = tracer.spans
        assert span.status.is_unset
        assert said(span) == {"error.type": "CancelledError"}

    async def test_tasks_side_by_side_do_not_mix(self):
        tracer = KeepingTracer()

        async def work() -> bool:
            with tracer.span("outer") as outer:
                await asyncio.sleep(0)
                with tracer.span("inner") as inner:
                    await asyncio.sleep(0)
                    return inner.trace_id == outer.trace_id == tracer.trace_id()

        assert all(await asyncio.gather(*(work() for _ in range(10))))
        assert len({ids(span)[0] for span in tracer.spans}) == 10

    def test_of_a_move_are_in_its_trace_wherever_they_happen(self):
        tracer = KeepingTracer()
        with tracer.span("cycle") as cycle, tracer.span("step", move=MOVE) as step:
            assert step.trace_id == tracer.trace_id(MOVE) != cycle.trace_id
        tracer.step("late", MOVE, began_seconds_ago=5.0, ended_seconds_ago=2.0)
        tracer.move_ended(MOVE, began_seconds_ago=9.0, outcome="done")
        trace_id, root_id = f"{MOVE.ids[0]:032x}", f"{MOVE.ids[1]:016x}"
        (step_span,), (late,), (root,) = map(tracer.named, ("step", "late", "move.failover"))
        assert ids(step_span)[::2] == ids(late)[::2] == (trace_id, root_id)
        assert ids(root) == (trace_id, root_id, None)
        assert seconds(late) == pytest.approx(3.0)
        assert seconds(root) == pytest.approx(9.0)
        assert said(root) == {
            "processor_id": str(UUID(int=7)),
            "move_kind": "failover",
            "move_epoch": 3,
            "outcome": "done",
        }
        # What comes after it has ids of its own again.
        with tracer.span("next"):
            pass
        assert ids(tracer.spans[-1])[0] != trace_id

    def test_what_is_seldom_comes_once_a_second_unless_it_is_part_of_something(self):
        tracer = KeepingTracer()
        taken: list[Span] = []
        for _ in range(50):
            with tracer.span("beat", seldom=True) as span:
                taken.append(span)
        with tracer.span("outer"), tracer.span("beat", seldom=True):
            pass
        with tracer.span("other", seldom=True):
            pass
        assert [span.trace_id is not None for span in taken] == [True] + [False] * 49
        assert [span.name for span in tracer.spans] == ["beat", "beat", "outer", "other"]

    def test_a_share_is_kept_with_all_its_parts(self):
        tracer = KeepingTracer(share=0.5)
        for _ in range(400):
            with tracer.span("outer") as outer, tracer.span("inner") as inner:
                assert (outer.trace_id is None) == (inner.trace_id is None)
        assert 100 < len(tracer.named("outer")) == len(tracer.named("inner")) < 300

    def test_none_are_kept_of_a_share_of_nothing_but_moves(self):
        tracer = KeepingTracer(share=0.0)
        with tracer.span("cycle") as cycle, tracer.span("step", move=MOVE):
            assert cycle.trace_id is None
        tracer.move_ended(MOVE, began_seconds_ago=1.0)
        assert [span.name for span in tracer.spans] == ["step", "move.failover"]

    def test_lines_of_the_log_bear_their_ids(self, log):
        tracer = KeepingTracer()
        logger = logs.get_logger("x")
        with tracer.span("a") as span:
            logger.info("within")
            logging.getLogger("library").warning("of a library")
        logger.info("without")
        lines = [logs_line for logs_line in log.getvalue().splitlines() if logs_line]
        (recorded,) = tracer.spans
        for line in lines[:2]:
            assert f'"trace_id": "{span.trace_id}"' in line
            assert f'"span_id": "{ids(recorded)[1]}"' in line
        assert "trace_id" not in lines[2]


class Refusing(SpanExporter):
    """Takes spans only while it is `well`."""

    well = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self.well else SpanExportResult.FAILURE


class TestCollector:
    def test_one_that_takes_nothing_is_told_of_once_a_minute(self, log):
        clock, inner = [0.0], Refusing()
        exporter = adapter.CalmExporter(inner, "http://c/v1/traces", clock=lambda: clock[0])
        for second in range(150):
            clock[0] = float(second)
            exporter.export([])
        assert log.getvalue().count("nobody takes traces") == 3
        inner.well = True
        exporter.export([])
        exporter.export([])
        assert log.getvalue().count("taken again") == 1
        inner.well = False
        exporter.export([])
        assert log.getvalue().count("nobody takes traces") == 3

    def test_one_that_refuses_delays_nobody_and_is_told_of_once(self, log):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        tracer = tracer_to(f"http://127.0.0.1:{port}")
        spans_of(tracer, 200)
        by_now(lambda: "nobody takes traces" in log.getvalue(), 9.0)
        with tracer.span("again"):
            pass
        tracer.close()
        lines = log.getvalue().splitlines()
        assert len(lines) == 1, lines

    def test_one_that_hangs_delays_nobody_and_the_end_by_two_seconds(self, log, monkeypatch):
        monkeypatch.setattr(adapter, "_SEND_SECONDS", 3_600.0)
        with socket.create_server(("127.0.0.1", 0)) as server:
            tracer = tracer_to(f"http://127.0.0.1:{server.getsockname()[1]}")
            # More than the queue holds: the oldest are dropped, and nobody waits for an hour.
            spans_of(tracer, 5_000)
            tracer.close()

    def test_what_is_left_is_handed_on_at_the_end(self, monkeypatch):
        """With the headers that the environment names, under the path of OTLP."""
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
        got: list[tuple[str, str | None, int]] = []

        class Collector(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.append((self.path, self.headers["Authorization"], len(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not on the terminal."""

        with HTTPServer(("127.0.0.1", 0), Collector) as server:
            serving = threading.Thread(target=server.handle_request)
            serving.start()
            tracer = tracer_to(f"http://127.0.0.1:{server.server_port}/")
            with tracer.span("a"):
                pass
            tracer.close()
            serving.join(patient(5))
        ((path, header, size),) = got
        assert (path, header) == ("/v1/traces", "Bearer x")
        assert size > 0


def spans_of(tracer: Tracer, count: int) -> None:
    for _ in range(count):
        with tracer.span("a"):
            pass


class TestOff:
    def test_the_tracer_that_does_nothing(self):
        assert open_tracer(None, share=1.0, process="api", version="1") is NO_TRACER
        with NO_TRACER.span("a", move=MOVE, seldom=True, b=1) as span:
            span.set(c=2)
            assert span.trace_id is None
        NO_TRACER.step("a", MOVE, began_seconds_ago=1.0)
        NO_TRACER.move_ended(MOVE, began_seconds_ago=1.0)
        NO_TRACER.know_fleet("f")
        NO_TRACER.close()
        assert NO_TRACER.trace_id(MOVE) is None

    def test_nothing_of_opentelemetry_is_imported(self):
        """By both processes, the supervisor and the command line, made as far as they can be."""
        program = """
import asyncio, sys
from dory_orchestrator import cli
from dory_orchestrator.app import api_process, child, control_process, dev, run
from dory_orchestrator.settings import Settings
from dory_orchestrator.tracing import NO_TRACER
settings = Settings(config_db="postgresql://a@127.0.0.1:1/b", cluster="local")
inheritance = child.Inheritance(settings.to_json(), "http://127.0.0.1:1", "me", None, None, 0)
async def make():
    api = api_process.ApiProcess(settings, None, "http://127.0.0.1:1")
    control = control_process.ControlProcess(inheritance)
    assert api.tracer is control.tracer is NO_TRACER
    await control.close()
asyncio.run(make())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=patient(30)
        )
        assert (done.stdout.splitlines()[-1:], done.returncode) == (["[]"], 0), done.stderr


class TestWithoutTheExtra:
    @pytest.mark.parametrize(
        "command", [["run", "--config-db", "postgresql://a@127.0.0.1:1/b"], ["dev"]]
    )
    def test_an_endpoint_is_a_mistake_that_names_the_setting_and_the_cure(self, tmp_path, command):
        done = _without_the_extra(tmp_path, *command, "--tracing-endpoint", "http://collector:4318")
        assert (done.returncode, done.stdout) == (2, "")
        assert "tracing_endpoint (from flag --tracing-endpoint)" in done.stderr
        assert "pip install 'dory-orchestrator[tracing]'" in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_missed_while_nobody_wants_it(self, tmp_path):
        done = _without_the_extra(tmp_path, "run")
        assert done.returncode == 2
        assert "DORY_DATABASE_URL" in done.stderr
        assert "tracing" not in done.stderr


def _without_the_extra(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "from dory_orchestrator.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=patient(30),
        cwd=folder,
    )
