"""Commands of operators against a real server, over a fleet in memory."""

import asyncio
import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
import uvicorn
from click.testing import CliRunner, Result
from structlog.testing import capture_logs
from tests.contract.fleet_worlds import MemoryFleet
from tests.doubles import MemoryStore
from tests.patience import patient

from dory_orchestrator.api.asking import AskingApi
from dory_orchestrator.api.auth import Tokens
from dory_orchestrator.api.edge import EdgeApi
from dory_orchestrator.api.fleet import FleetApi
from dory_orchestrator.api.group_commit import HeartbeatRecorder
from dory_orchestrator.api.health import Health
from dory_orchestrator.api.service import build
from dory_orchestrator.cli import main
from dory_orchestrator.commands.tables import clean
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import StoreUnavailable

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]
T = TypeVar("T")
COMMAND = [sys.executable, "-m", "dory_orchestrator.cli"]
SILENT: dict[str, str | None] = {"DORY_URL": None, "DORY_OPERATOR_TOKEN": None, "COLUMNS": None}


def invoke(
    arguments: Sequence[str],
    environment: Mapping[str, str | None] = SILENT,
    answer: str | None = None,
) -> Result:
    """In a thread, where pytest-asyncio's event loop is not taken away."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        called = executor.submit(CliRunner().invoke, main, arguments, input=answer, env=environment)
        return called.result()


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of what never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        found: T = end.value
        return found
    raise AssertionError("it waits")


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """What the server logs belongs to the server."""
    with capture_logs():
        yield


class Service:
    """A server in a thread of its own, and the fleet that it tells of."""

    def __init__(self, *tokens: str) -> None:
        self.world = MemoryFleet()
        metrics = Metrics()
        fleet = FleetApi(self.world.views, tokens=Tokens(tokens), cluster="local")
        asking = AskingApi(self.world.views, tokens=Tokens(tokens))
        self.store, self.asked = MemoryStore(), list[tuple[str, str]]()
        recorder = HeartbeatRecorder(self.store, metrics=metrics)
        edge = EdgeApi(recorder=recorder, nodes=self.store, tokens=Tokens(tokens), metrics=metrics)
        health = Health(metrics)
        served = build(
            health=health, render_metrics=metrics.render, edge=edge, fleet=fleet, asking=asking
        )

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.asked.append((scope["method"], scope["path"]))
            await served(scope, receive, send)

        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._run)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> "Service":
        self._socket.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def add(self, name: str | None, **values: Any) -> UUID:
        return now(self.world.add_processor(name, **values))

    def tell(self, kind: str, reason: str, **values: Any) -> int:
        return now(self.world.tell(kind, reason, **values))

    def move(self, processor_id: UUID, **values: Any) -> int:
        return now(self.world.move(processor_id, **values))

    def engage(self) -> None:
        now(self.world.engage("many_suspect", "3 of 4 are suspect", population=4))
        now(self.world.add_node("edge-1", organization_id=uuid4(), health="offline"))

    def hold(self, **groups: int) -> None:
        now(self.world.hold(**groups))

    def call(self, *arguments: str, answer: str | None = None, **environ: str) -> Result:
        environment = {**SILENT, "DORY_URL": self.url, **environ}
        return invoke(arguments, environment, answer)


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    """One for all tests: its end takes longer than most of them."""
    with Service() as server:
        yield server


@pytest.fixture
def service(server: Service) -> Service:
    """With an empty fleet."""
    server.world.views.__init__()
    return server


def lines(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


class TestProcessors:
    def test_as_a_table(self, service):
        service.add("camera-1", state="running", node="edge-1")
        service.add(None, key=UUID(int=7), state="held", reason="guard_held")
        heading, unnamed, named = lines(service.call("processors"))
        assert heading[:3] == ["NAME", "STATE", "SINCE"]
        assert unnamed[:2] == [str(UUID(int=7)), "held"]
        assert named[:2] == ["camera-1", "running"]
        assert "edge-1" in named

    def test_nothing_is_cut_where_no_terminal_is(self, service):
        name, node = "n" * 200, "e" * 200
        key = service.add(name, state="running", node=node)
        result = service.call("processors", "-o", "wide", COLUMNS="40")
        (_, row) = lines(result)
        assert {name, node, str(key)} <= set(row)
        assert "\x1b" not in result.stdout

    def test_as_json_over_several_pages(self, service, monkeypatch):
        monkeypatch.setattr("dory_orchestrator.commands.asking.PAGE", 2)
        for number in range(5):
            service.add(f"p{number}")
        found = json.loads(service.call("processors", "-o", "json").stdout)
        assert [row["name"] for row in found["processors"]] == [f"p{n}" for n in range(5)]
        assert found["next_cursor"] is None

    def test_a_limit_says_that_there_are_more(self, service):
        for name in "abc":
            service.add(name)
        result = service.call("processors", "--limit", "2")
        assert len(lines(result)) == 3
        assert "more processors" in result.stderr
        assert service.call("processors", "--limit", "3").stderr == ""

    def test_none(self, service):
        result = service.call("processors", "--state", "held,error")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no processors\n")

    def test_filters(self, service):
        service.add("a", state="running", node="n1", template="camera")
        service.add("b", key=UUID(int=1), state="held")
        for arguments in (
            ["--state", "running"],
            ["--node", "n1"],
            ["--template", "camera"],
            ["-q", "A"],
        ):
            _, row = lines(service.call("processors", *arguments))
            assert row[0] == "a"
        assert lines(service.call("processors", "--sort", "state"))[1][0] == "b"

    @pytest.mark.parametrize(
        "text", ["camera-1", "CAM", "00000000-0000-0000-0000-0000000000", None]
    )
    def test_one(self, service, text):
        key = service.add("camera-1", key=UUID(int=255), state="running")
        service.tell("create", "not_running", processor_id=key)
        result = service.call("processors", text or str(key))
        shown = lines(result)
        assert ["name", "camera-1"] in shown
        assert shown[-1][1:4] == ["create", "not_running", "camera-1"]
        found = json.loads(service.call("processors", str(key), "-o", "json").stdout)
        assert found["processor"]["id"] == str(key)
        assert len(found["events"]) == 1

    def test_one_of_several(self, service):
        keys = [service.add(name) for name in ("a", "a-1", "b", "b")]
        assert ["id", str(keys[0])] in lines(service.call("processors", "a"))
        result = service.call("processors", "b")
        assert result.exit_code == 2
        assert all(str(key) in result.stderr for key in keys[2:])
        assert "no processor is called 'x'" in service.call("processors", "x").stderr
        key = str(uuid4())
        result = service.call("processors", key)
        assert (result.exit_code, key in result.stderr) == (1, True)
        assert service.call("processors", key, "--state", "held").exit_code == 2

    def test_names_cannot_steer_a_terminal(self, service):
        service.add("a\x1b[31m\x9b\n\u202eb", state="running")
        for output in ("table", "wide"):
            result = service.call("processors", "-o", output)
            assert len(result.stdout.splitlines()) == 2
            assert not any(mark in result.stdout for mark in "\x1b\x9b\u202e")
        result = service.call("processors", "-o", "json")
        assert not any(mark in result.stdout for mark in "\x1b\x9b")


def test_clean_keeps_what_people_write():
    assert clean("Zürich 東京 [red]") == "Zürich 東京 [red]"
    assert clean("a\tb\x00") == "a\\x09b\\x00"


class TestNodes:
    def test_as_a_table(self, service):
        world = service.world
        now(world.add_node("cloud", kind="application", ready=False, utilisation=0.5))
        now(world.add_node("edge-1", kind="edge", organization_id=uuid4()))
        now(world.add_node("lost", organization_id=uuid4(), cordon="decommissioned"))
        service.add("a", state="running", node="edge-1")
        _, cloud, edge, lost = lines(service.call("nodes"))
        assert cloud[:5] == ["cloud", "application", "not", "ready", "-"]
        assert "50%" in cloud
        assert edge[:4] == ["edge-1", "edge", "ready", "online"]
        assert edge[-2:] == ["running", "1"]
        assert lost[2:6] == ["not", "in", "cluster", "cordoned"]
        assert [row[0] for row in lines(service.call("nodes", "--not-ready"))] == [
            "NAME",
            "cloud",
            "lost",
        ]
        assert "decommissioned" in service.call("nodes", "-o", "wide").stdout
        found = json.loads(service.call("nodes", "--ready", "-o", "json").stdout)
        assert [node["name"] for node in found["nodes"]] == ["edge-1"]

    def test_as_the_leader_judged_them(self, service):
        world = service.world
        for name, health, cordon in (
            ("a", "suspect", None),
            ("b", "offline", "drained"),
            ("c", "decommissioned", "decommissioned"),
            ("d", None, None),
        ):
            now(world.add_node(name, organization_id=uuid4(), health=health, cordon=cordon))
        _, *rows = lines(service.call("nodes"))
        assert [" ".join(row[5:]) for row in rows] == [
            "suspect - - - -",
            "offline, cordoned - - - -",
            "decommissioned - - - -",
            "online - - - -",
        ]
        heading, suspect, *_ = lines(service.call("nodes", "-o", "wide"))
        assert (heading[-3:], suspect[-2:]) == (["SINCE", "REASON", "DETAIL"], ["why", "because"])
        found = json.loads(service.call("nodes", "-q", "a", "-o", "json").stdout)
        assert found["nodes"][0]["health_reason"] == "why"


class TestMoves:
    def test_as_a_table_the_newest_last(self, service):
        key = service.add("camera-1", state="running")
        service.move(key, from_node="edge-1", to_node="cloud", outcome="done")
        gone = uuid4()
        service.move(gone, kind="failback", from_node="cloud")
        result = service.call("moves")
        heading, done, under_way = lines(result)
        assert heading == [
            "TIME",
            "KIND",
            "PROCESSOR",
            *["FROM", "TO", "OUTCOME", "RTO", "RPO", "DETAIL"],
        ]
        assert done[2:] == [
            *("failover", "camera-1", "edge-1", "cloud", "done", "29.5s", "5.0s", "because"),
        ]
        assert under_way[2:8] == ["failback", str(gone), "cloud", "-", "under", "way"]
        assert re.fullmatch(r"\d+d", under_way[8])
        assert "uid" not in result.stdout
        found = json.loads(service.call("moves", "-o", "json").stdout)
        assert [move["id"] for move in found["moves"]] == [2, 1]
        assert str(key) in service.call("moves", "-o", "wide").stdout

    def test_filters(self, service):
        key = service.add("camera-1", state="moving")
        service.move(uuid4(), from_node="edge-2", outcome="dropped")
        service.move(key, from_node="edge-1")
        for arguments in (
            ["--open"],
            ["--processor", "cam"],
            ["--node", "edge-1"],
            ["--limit", "1"],
        ):
            _, row = lines(service.call("moves", *arguments))
            assert row[3] == "camera-1"
        result = service.call("moves", "--node", "edge-9")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no moves\n")


class TestEvents:
    def test_the_newest_last(self, service):
        for number in range(3):
            service.tell("create", f"r{number}", node_name="n1")
        _, *rows = lines(service.call("events", "--limit", "2"))
        assert [row[2] for row in rows] == ["r1", "r2"]
        found = json.loads(service.call("events", "-o", "json", "--limit", "2").stdout)
        assert [event["reason"] for event in found["events"]] == ["r2", "r1"]

    def test_filters(self, service):
        key = service.add("camera-1", state="running")
        service.tell("create", "wanted", processor_id=key, node_name="n1")
        service.tell("delete", "other")
        for arguments in (
            ["--processor", "camera"],
            ["--node", "n1"],
            ["--kind", "create"],
            ["--reason", "wanted"],
        ):
            _, row = lines(service.call("events", *arguments))
            assert row[1:4] == ["create", "wanted", "camera-1"]

    def test_since(self, service):
        service.tell("create", "wanted")
        assert len(lines(service.call("events", "--since", "10m"))) == 2
        assert service.call("events", "--since", "2100-01-01T00:00:00Z").stderr == "no events\n"
        assert "since: " in service.call("events", "--since", "yesterday").stderr
        assert service.call("events", "--since", "9" * 400).exit_code == 2

    @pytest.mark.parametrize("output", ["table", "json"])
    def test_following(self, service, output):
        for number in range(3):
            service.tell("create", f"old{number}")
        with Following(service, "--limit", "2", "-o", output) as following:
            reasons = [following.reason(), following.reason()]
            service.tell("create", "new")
            service.world.views.error = StoreUnavailable("down")
            assert "it is tried again" in following.complaint()
            service.tell("delete", "newer")
            service.world.views.error = None
            reasons += [following.reason(), following.reason()]
        assert reasons == ["old1", "old2", "new", "newer"]
        assert following.code == 130


class Following:
    """`events -f` in a process of its own."""

    def __init__(self, service: Service, *arguments: str) -> None:
        self._arguments = [*COMMAND, "events", "-f", "--url", service.url, *arguments]
        self._as_json = "json" in arguments
        self.code: int | None = None

    def __enter__(self) -> "Following":
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._arguments, stdout=pipe, stderr=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(2)
        self._process.communicate(timeout=patient(10))
        self.code = self._process.returncode

    def reason(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return str(json.loads(line)["reason"]) if self._as_json else line.split()[2]

    def complaint(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.readline()


class TestGuard:
    def hold(self, service: Service) -> None:
        service.hold(all=4, camera=0)
        service.add("victim", state="held", reason="guard_held", node="edge-1")
        service.add("frozen", state="held", reason="epoch_ahead", epoch=1, pod_epoch=5)
        service.add("foreign", state="held", reason="foreign_fleet")

    def test_nothing_waits(self, service):
        result = service.call("guard", "status")
        assert result.stdout == "the deletion guard holds nothing\n"
        for command in (["confirm", "--yes"], ["adopt", "--all", "--yes"]):
            result = service.call("guard", *command)
            assert (result.exit_code, result.stdout) == (1, "")
            assert "nothing is" in result.stderr

    def test_status(self, service):
        self.hold(service)
        result = service.call("guard", "status")
        assert result.exit_code == 0
        for words in ("HOLDS", "all 4, camera 0", "victim", "frozen", "guard confirm", "1 proc"):
            assert words in result.stdout
        found = json.loads(service.call("guard", "status", "-o", "json").stdout)
        assert (found["held"], found["frozen_count"]) == (True, 1)

    @pytest.mark.parametrize("answer", ["n\n", "\n", ""])
    def test_confirming_asks(self, service, answer):
        self.hold(service)
        result = service.call("guard", "confirm", answer=answer)
        assert result.exit_code == 1
        assert "victim" in result.output
        assert service.world.views.confirmed_at is None

    @pytest.mark.parametrize(("arguments", "answer"), [([], "y\n"), (["--yes"], None)])
    def test_confirming(self, service, arguments, answer):
        self.hold(service)
        result = service.call("guard", "confirm", "--by", "eva", *arguments, answer=answer)
        assert result.exit_code == 0
        assert result.stdout.endswith("confirmed\n")
        assert service.world.views.confirmed_by == "eva"
        assert "last confirmed by eva" in service.call("guard", "status").stdout

    def test_what_changed_while_it_was_looked_at_is_not_confirmed(self, service, monkeypatch):
        self.hold(service)
        monkeypatch.setattr("click.confirm", lambda *_, **__: service.hold(all=1) or True)
        result = service.call("guard", "confirm")
        assert (result.exit_code, "changed" in result.stderr) == (1, True)
        assert service.world.views.confirmed_at is None

    def test_adopting(self, service):
        self.hold(service)
        assert service.call("guard", "adopt", "--all", answer="n\n").exit_code == 1
        assert service.call("guard", "adopt").exit_code == 2
        assert service.call("guard", "adopt", "--all", str(uuid4())).exit_code == 2
        assert service.call("guard", "adopt", "x").exit_code == 2
        unknown = str(uuid4())
        result = service.call("guard", "adopt", "--yes", unknown)
        assert (result.exit_code, unknown in result.stderr) == (1, True)
        result = service.call("guard", "adopt", "--all", "-y", "-o", "json")
        assert len(json.loads(result.stdout)["adopted"]) == 1

    def test_with_a_token(self):
        with Service("geheim") as service:
            self.hold(service)
            assert service.call("guard", "status").exit_code == 0
            for environ in ({}, {"DORY_OPERATOR_TOKEN": "wrong"}):
                result = service.call("guard", "confirm", "-y", **environ)
                assert result.exit_code == 2
                assert "DORY_OPERATOR_TOKEN" in result.stderr
            result = service.call("guard", "confirm", "-y", DORY_OPERATOR_TOKEN="a\nb")
            assert (result.exit_code, "odd characters" in result.stderr) == (2, True)
            result = service.call("guard", "confirm", "-y", DORY_OPERATOR_TOKEN="geheim")
            assert result.exit_code == 0


class TestBrake:
    def test_it_is_off(self, service):
        result = service.call("brake", "status")
        assert (result.exit_code, result.stdout) == (0, "brake  off\n")
        result = service.call("brake", "clear")
        assert (result.exit_code, "not overridden" in result.stderr) == (1, True)

    def test_status(self, service):
        service.engage()
        result = service.call("brake", "status")
        assert result.exit_code == 0
        for words in ("HOLDS", "many_suspect", "3 of 4 are suspect", "4 edge nodes", "edge-1"):
            assert words in result.stdout
        assert "brake override" in result.stdout
        found = json.loads(service.call("brake", "status", "-o", "json").stdout)
        assert (found["engaged"], found["nodes_count"]) == (True, 1)

    def test_more_nodes_than_are_named(self, service):
        for number in range(102):
            node = service.world.add_node(f"n{number}", organization_id=uuid4(), health="suspect")
            now(node)
        assert service.call("brake", "status").stdout.endswith("\nand 2 more\n")

    @pytest.mark.parametrize("answer", ["n\n", "\n", ""])
    def test_overriding_asks(self, service, answer):
        service.engage()
        result = service.call(
            "brake", "override", "--for", "10m", "--reason", "a fire", answer=answer
        )
        assert result.exit_code == 1
        assert "edge-1" in result.stderr
        assert "for 10m" in result.stderr
        assert service.world.views.override is None

    @pytest.mark.parametrize(("arguments", "answer"), [([], "y\n"), (["--yes"], None)])
    def test_overriding_and_clearing(self, service, arguments, answer):
        service.engage()
        command = ["brake", "override", "--for", "10m", "--reason", "a fire", "--by", "eva"]
        result = service.call(*command, *arguments, answer=answer)
        assert result.exit_code == 0
        assert "overridden until" in result.stdout
        assert "dead nodes are moved away from" in result.stdout
        _, by, reason = service.world.views.override
        assert (by, reason) == ("eva", "a fire")
        shown = service.call("brake", "status").stdout
        for words in ("overridden", "eva", "a fire", "(in 10m)"):
            assert words in shown
        assert "HOLDS" not in shown

        result = service.call("brake", "clear")
        assert (result.exit_code, result.stdout) == (
            *(0, "the brake holds again, unless its cause is gone\n"),
        )
        assert service.world.views.override is None

    def test_ahead_of_time(self, service):
        command = ["brake", "override", "--for", "90s", "--reason", "a drill", "-y"]
        assert "was not engaged" in service.call(*command).stdout
        found = json.loads(service.call(*command, "-o", "json").stdout)
        assert found["override_reason"] == "a drill"
        found = json.loads(service.call("brake", "clear", "-o", "json").stdout)
        assert found["override_until"] is None

    @pytest.mark.parametrize("duration", ["0", "0.5s", "25h", "9" * 400, "soon", "-1"])
    def test_bad_durations_are_named(self, service, duration):
        result = service.call("brake", "override", "--for", duration, "--reason", "a", "-y")
        assert (result.exit_code, "--for" in result.stderr) == (2, True)
        assert service.world.views.override is None

    def test_a_reason_is_needed(self, service):
        result = service.call("brake", "override", "--for", "1m", "-y")
        assert (result.exit_code, "--reason" in result.stderr) == (2, True)
        result = service.call("brake", "override", "--for", "1m", "--reason", "", "-y")
        assert (result.exit_code, "reason: " in result.stderr) == (2, True)

    def test_with_a_token(self):
        with Service("geheim") as service:
            command = ["brake", "override", "--for", "1m", "--reason", "a", "-y"]
            for refused in (command, ["brake", "clear"]):
                result = service.call(*refused)
                assert (result.exit_code, "DORY_OPERATOR_TOKEN" in result.stderr) == (2, True)
            assert service.call(*command, DORY_OPERATOR_TOKEN="geheim").exit_code == 0


class TestWhere:
    def test_nobody_answers(self, tmp_path):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            result = invoke(["nodes", "--url", url])
        assert result.exit_code == 1
        for words in (f"cannot reach {url}", "is the orchestrator running?", "--url"):
            assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1

    @pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://a", "http://a:b", "http://[", "\x1b"])
    def test_no_url(self, url):
        result = invoke(["nodes", "--url", url])
        assert (result.exit_code, "is no URL" in result.stderr) == (2, True)
        assert "\x1b" not in result.stderr

    def test_the_flag_then_the_environment_then_dev(self, service, tmp_path):
        file = tmp_path / "endpoints.json"
        file.write_text(json.dumps({"http": service.url + "/", "database": "x"}))
        service.add("a")
        here = ["processors", "--data-dir", str(tmp_path)]
        wrong = "http://127.0.0.1:1"
        assert service.call(*here, DORY_URL="").exit_code == 0
        assert service.call(*here, DORY_URL=wrong).exit_code == 1
        assert service.call(*here, "--url", service.url, DORY_URL=wrong).exit_code == 0
        file.write_text("{")
        result = service.call(*here, DORY_URL="")
        assert (result.exit_code, str(file) in result.stderr) == (2, True)

    def test_something_else_answers(self, tmp_path):
        with Answering(b"<html>\xff</html>") as url:
            result = invoke(["nodes", "--url", url])
        assert (result.exit_code, "is no orchestrator" in result.stderr) == (1, True)
        with Answering(b'{"error":"Not Found"}', b"404 Not Found") as url:
            result = invoke(["nodes", "--url", url])
        assert (result.exit_code, "no fleet API" in result.stderr) == (1, True)

    def test_the_database_is_down(self, service):
        service.world.views.error = StoreUnavailable("down")
        for command in (
            ["nodes"],
            ["processors"],
            ["events"],
            ["events", "-f"],
            ["guard", "status"],
            ["moves"],
            ["brake", "status"],
        ):
            result = service.call(*command)
            assert (result.exit_code, result.stdout) == (1, "")
            assert "the orchestrator says: database: not available" in result.stderr


class Answering:
    """A server that answers one request with this, and knows nothing of HTTP."""

    def __init__(self, body: bytes, status: bytes = b"200 OK") -> None:
        self._answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        client, _ = self._socket.accept()
        with client:
            client.recv(65_536)
            client.sendall(self._answer)


class TestCordon:
    def test_it_and_its_end(self, service):
        now(service.world.add_node("edge-1", kind="edge", organization_id=uuid4()))
        result = service.call("cordon", "edge-1", "--reason", "a new disk")
        assert (result.exit_code, result.stdout) == (
            0,
            "edge-1: it gets no new work, and nothing comes home to it; what runs there stays\n",
        )
        assert "cordoned" in service.call("nodes").stdout
        found = json.loads(service.call("uncordon", "edge-1", "-o", "json").stdout)
        assert (found["cordoned"], found["changed"]) == (False, True)
        assert service.call("uncordon", "edge-1").stdout == "edge-1: it was not cordoned\n"

    def test_what_is_refused(self, service):
        result = service.call("cordon", "nowhere", "--reason", "a")
        assert (result.exit_code, "no edge node nowhere" in result.stderr) == (1, True)
        assert service.call("cordon", "edge-1").exit_code == 2


def test_help_of_every_command():
    for command in (
        *(["nodes"], ["processors"], ["events"], ["moves"], ["guard"], ["guard", "confirm"]),
        *(["brake"], ["brake", "status"], ["brake", "override"], ["brake", "clear"]),
        *(["cordon"], ["uncordon"]),
    ):
        assert invoke([*command, "--help"]).exit_code == 0


def test_on_a_terminal_it_is_as_wide_as_that(service, monkeypatch):
    service.add("n" * 100, state="error", node="e" * 100)
    shown = _on_a_terminal(service, 80, "processors")
    assert max(len(line) for line in _plain(shown)) <= 80
    assert "\x1b[" in shown
    shown = _on_a_terminal(service, 80, "processors", "-o", "wide")
    assert "n" * 100 in shown


def _on_a_terminal(service: Service, columns: int, *arguments: str) -> str:
    primary, secondary = pty.openpty()
    environment = {
        **{k: v for k, v in os.environ.items() if k != "NO_COLOR"},
        "COLUMNS": str(columns),
        "TERM": "xterm-256color",
    }
    command = [*COMMAND, *arguments, "--url", service.url]
    process = subprocess.Popen(command, stdout=secondary, stdin=secondary, env=environment)
    os.close(secondary)
    shown = b""
    with contextlib.suppress(OSError):  # that is how its end is told
        while piece := os.read(primary, 65_536):
            shown += piece
    os.close(primary)
    assert process.wait(timeout=patient(10)) == 0
    return shown.decode()


def _plain(text: str) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
