"""Traces of the real thing, as a collector gets them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.acceptance.real import HEARTBEAT, eventually
from tests.acceptance.test_fleet import command, dev, fleet_file

from dory_orchestrator import __version__

pytestmark = pytest.mark.timeout(90)

FLEET = """
nodes:
  - {name: edge-1, kind: edge}
  - {name: cloud-1, kind: application}
processors:
  - {name: counter, command: [python, counter.py], node: edge-1}
"""
FOREIGN = "4bf92f3577b34da6a3ce929d0e0e4736"


class Seen(NamedTuple):
    """A span that a collector got."""

    name: str
    process: str
    trace_id: str
    parent_id: str
    said: dict[str, Any]


class Collector:
    """Takes OTLP over HTTP, as protobuf."""

    def __init__(self) -> None:
        self.resources: list[dict[str, Any]] = []
        self.spans: list[Seen] = []
        self.paths: set[str] = set()

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _said(of_resource.resource.attributes)
            self.resources.append(resource)
            for scope in of_resource.scope_spans:
                self.spans += [
                    Seen(
                        span.name,
                        resource["dory.process"],
                        span.trace_id.hex(),
                        span.parent_span_id.hex(),
                        _said(span.attributes),
                    )
                    for span in scope.spans
                ]

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]


def _said(attributes: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes
    }


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector, and where it listens."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_a_crash_and_what_comes_of_it_is_one_trace(data_dir: Path, tmp_path: Path) -> None:
    file = fleet_file(tmp_path / "fleet", fleet_yaml=FLEET)
    with collecting() as (collector, url):
        async with dev(
            data_dir,
            *("--fleet", str(file), "--tracing-endpoint", url),
            *("--node-failure-grace", "1s", "--checkpoint-interval", "1s"),
        ) as fleet:
            (row,) = (await eventually(fleet.ready, 30)).values()
            token = (data_dir / "state-token").read_text()
            headers = {
                "Authorization": f"Bearer {token}",
                "traceparent": f"00-{FOREIGN}-00f067aa0ba902b7-01",
            }
            beat = {"processor_id": row["id"], "node_name": "edge-1", "healthy": True}
            async with fleet.service.http.post(
                fleet.service.url + HEARTBEAT, json=beat, headers=headers
            ) as answer:
                assert answer.status == 200

            code, _, error = await command(
                "local", "crash-node", "edge-1", "--data-dir", str(data_dir)
            )
            assert code == 0, error
            await eventually(lambda: collector.named("move.failover"), 20)
            (event,) = await fleet.events(kind="failover")
            (moved,) = await fleet.events(kind="moved")
            log = fleet.service.log()
        # The last of them come at the end.
        (root,) = collector.named("move.failover")

    assert collector.paths == {"/v1/traces"}
    assert {(r["service.name"], r["service.version"]) for r in collector.resources} == {
        ("dory-orchestrator", __version__)
    }
    assert event["trace_id"] == moved["trace_id"] == root.trace_id
    of_move = {span.name for span in collector.spans if span.trace_id == root.trace_id}
    assert of_move >= {"move.grant", "pod.create", "state.prepare", "cluster.create_pod"}
    assert of_move >= {"pods.get_state", "pod.start", "state.given", "move.end", "move.failover"}
    assert root.parent_id == ""
    assert root.said["dory.rto_seconds"] > 0
    assert root.said["dory.processor_id"] == row["id"]
    (created,) = [line for line in log if line["event"] == "pod created" and line["epoch"] == 2]
    assert created["trace_id"] == root.trace_id

    batches, cycles = collector.named("heartbeats.batch"), collector.named("reconcile.cycle")
    assert {span.process for span in batches} == {"api"}
    assert {span.process for span in cycles} == {"control"}
    assert all(span.said["dory.size"] >= 1 for span in batches)
    assert collector.named("pods.poll_round")
    fleets = {span.said.get("dory.fleet_id") for span in collector.spans} - {None}
    assert len(fleets) == 1
    assert {span.process for span in collector.spans if "dory.fleet_id" in span.said} == {
        *("api", "control")
    }
    # Who posts a heartbeat does not choose what trace ours are part of.
    assert FOREIGN not in {span.trace_id for span in collector.spans}
