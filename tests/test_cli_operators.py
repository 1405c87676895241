"""Commands of operators: one for each call of the API, nodes, the summary, and what is watched."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
import yaml
from structlog.testing import capture_logs
from tests.patience import patient
from tests.terminal import OnTerminal
from tests.test_cli_fleet import COMMAND, Service, lines, now

from dory_orchestrator.ports import StoreUnavailable

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]
KEY, ORGANIZATION = str(UUID(int=255)), str(UUID(int=9))
FLEET, EDGE = "/api/v1/fleet", "/api/v1/edge"

COMMANDS = {
    f"GET {FLEET}/nodes": "nodes",
    f"GET {FLEET}/processors": "processors",
    f"GET {FLEET}/processors/{{id}}": f"processor {KEY}",
    f"GET {FLEET}/events": "events",
    f"GET {FLEET}/events/export": "events-export",
    f"GET {FLEET}/webhooks": "webhooks",
    f"GET {FLEET}/webhooks/dead-letters": "webhooks dead-letters",
    f"POST {FLEET}/webhooks/retry": "webhooks retry pager --all",
    f"GET {FLEET}/guard": "guard status",
    f"POST {FLEET}/guard/confirm": "guard confirm -y",
    f"POST {FLEET}/guard/adopt": "guard adopt --all -y",
    f"GET {FLEET}/moves": "moves",
    f"GET {FLEET}/brake": "brake status",
    f"POST {FLEET}/brake/override": "brake override --for 10m --reason a -y",
    f"POST {FLEET}/brake/clear": "brake clear",
    f"POST {FLEET}/nodes/cordon": "cordon edge-1 --reason a",
    f"POST {FLEET}/nodes/uncordon": "uncordon edge-1",
    f"GET {FLEET}/summary": "summary",
    f"GET {FLEET}/processors/{{id}}/explanation": f"explain processor {KEY}",
    f"GET {FLEET}/processors/{{id}}/directive": f"explain directive {KEY}",
    f"GET {FLEET}/nodes/explanation": "explain node edge-1",
    f"GET {FLEET}/plan": "plan",
    f"GET {FLEET}/what-if": "what-if --node-down edge-1",
    f"GET {FLEET}/pause": "pause",
    f"GET {FLEET}/drills": "drill status",
    f"POST {FLEET}/drills/start": "drill start --node edge-1 --reason a -y",
    f"POST {FLEET}/drills/stop": "drill stop",
    f"POST {FLEET}/pause/begin": "pause --for 10m --reason a",
    f"POST {FLEET}/pause/end": "resume",
    f"POST {FLEET}/orders/failover": f"failover {KEY} --reason a -y",
    f"POST {FLEET}/orders/failback": f"failback {KEY} --reason a -y",
    f"POST {FLEET}/orders/retry": f"retry {KEY} --reason a -y",
    f"POST {EDGE}/nodes": f"register-node edge-1 --organization {ORGANIZATION}",
    f"POST {EDGE}/nodes/decommission": "decommission-node edge-1 -y",
    "GET /healthz": "top --once",
}
"""The command of each call."""

NOT_OF_OPERATORS = {
    f"POST {EDGE}/heartbeat",  # of processors
    f"GET {FLEET}/events/stream",  # `events -f` asks for pages, which outlives more
    *("GET /readyz", "GET /livez", "GET /metrics"),  # of the machines that watch over us
}


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with Service() as server:
        yield server


@pytest.fixture
def service(server: Service) -> Iterator[Service]:
    """With an empty fleet."""
    server.world.views.__init__()
    server.store.__init__()  # type: ignore[misc]
    server.asked.clear()
    with capture_logs():
        yield server


def operations(service: Service) -> list[str]:
    with urllib.request.urlopen(f"{service.url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


def test_each_call_has_its_command(service):
    assert set(operations(service)) - NOT_OF_OPERATORS == set(COMMANDS)


@pytest.mark.parametrize("call", COMMANDS)
def test_the_command_makes_its_call(service, call):
    service.add("camera-1", key=UUID(KEY), state="held", reason="guard_held", node="edge-1")
    service.hold(all=1)
    now(service.world.add_node("edge-1", kind="edge", organization_id=UUID(ORGANIZATION)))
    service.call(*COMMANDS[call].split())
    method, path = call.split()
    assert (method, path.replace("{id}", KEY)) in service.asked


class TestNode:
    def add(self, service: Service) -> None:
        for name in ("edge-1", "edge-10", "cloud"):
            now(service.world.add_node(name, kind="edge", organization_id=uuid4()))
        service.add("camera-1", state="running", node="edge-1")
        service.tell("cordon", "cordoned", node_name="edge-1")

    def test_with_its_processors_and_events(self, service):
        self.add(service)
        shown = lines(service.call("node", "edge-1"))
        assert ["name", "edge-1"] in shown
        assert ["processors", "running", "1"] in shown
        assert any(row[:2] == ["camera-1", "running"] for row in shown)
        assert shown[-1][1:3] == ["cordon", "cordoned"]
        found = json.loads(service.call("node", "clo", "-o", "json").stdout)
        assert (found["node"]["name"], found["processors"], found["events"]) == ("cloud", [], [])

    def test_which_is_meant(self, service):
        self.add(service)
        result = service.call("node", "edge")
        assert (result.exit_code, "edge-1 (organization" in result.stderr) == (2, True)
        assert "edge-10" in result.stderr
        result = service.call("node", "nowhere")
        assert (result.exit_code, "no node is called 'nowhere'" in result.stderr) == (1, True)

    def test_of_one_organization(self, service):
        for number in (1, 2):
            now(service.world.add_node("edge-1", organization_id=UUID(int=number)))
        for command in (
            ("node", "edge-1"),
            ("explain", "node", "edge-1"),
            ("cordon", "edge-1", "--reason", "a"),
            ("uncordon", "edge-1"),
        ):
            result = service.call(*command)
            said = " ".join(result.stderr.split())
            assert (result.exit_code, command, said.count("online, id")) == (2, command, 2)
            assert all(str(UUID(int=number)) in said for number in (1, 2))
        result = service.call("node", "edge-1", "--organization", str(UUID(int=2)), "-o", "json")
        assert json.loads(result.stdout)["node"]["organization_id"] == str(UUID(int=2))


@pytest.mark.parametrize("group", ["guard", "brake"])
def test_a_group_alone_tells_its_status(service, group):
    service.engage()
    service.hold(all=1)
    assert service.call(group).stdout == service.call(group, "status").stdout


class TestSummary:
    def test_the_sentence_and_the_numbers(self, service):
        service.world.views.leader = "one"
        service.add("camera-1", state="running")
        result = service.call("summary")
        assert result.exit_code == 0
        assert result.stdout.startswith("The one processor runs.\n\nprocessors")
        assert "1 of 1 run (running 1)" in result.stdout
        service.add("camera-2", state="error")
        shown = service.call("summary").stdout
        assert shown.startswith("1 of 2 processors do not run: 1 error.\n")
        assert json.loads(service.call("summary", "-o", "json").stdout)["ready"] == 1

    def test_what_holds_is_said_first(self, service):
        service.world.views.leader = "one"
        service.hold(all=1)
        assert service.call("summary").stdout.startswith("The deletion guard holds: ")
        service.engage()
        assert service.call("summary").stdout.startswith("The brake holds: ")
        service.world.views.is_stale = True
        assert service.call("summary").stdout.startswith("Nobody looks at the fleet now: ")


class TestYaml:
    @pytest.mark.parametrize(
        "command", ["nodes", "processors", "moves", "events", "guard status", "brake status"]
    )
    def test_it_says_what_json_says(self, service, command):
        service.engage()
        key = service.add("Zürich: 'no'", state="held", reason="guard_held", node="edge-1")
        service.move(key)
        service.tell("create", "yes", processor_id=key)
        as_json = service.call(*command.split(), "-o", "json").stdout
        as_yaml = service.call(*command.split(), "-o", "yaml").stdout
        assert yaml.safe_load(as_yaml) == json.loads(as_json)
        assert "Zürich" in as_yaml or "Zürich" not in as_json

    def test_names_cannot_steer_a_terminal(self, service):
        name = "a\x1b[31m\x9b\n\u202eb"
        service.add(name, state="running")
        shown = service.call("processors", "-o", "yaml").stdout
        assert not any(mark in shown for mark in "\x1b\x9b\u202e")
        assert yaml.safe_load(shown)["processors"][0]["name"] == name

    def test_what_is_simulated(self, service):
        command = ["simulate", "--nodes", "2", "--hours", "0.05", "--seed", "7", "-o"]
        as_json, as_yaml = (service.call(*command, output) for output in ("json", "yaml"))
        assert (as_json.exit_code, as_yaml.exit_code) == (0, 0)
        assert yaml.safe_load(as_yaml.stdout) == json.loads(as_json.stdout)

    def test_what_a_fleet_file_would_change(self, service, database_url, tmp_path):
        file = tmp_path / "fleet.yaml"
        file.write_text("organization: acme\n")
        command = ["fleet", "apply", str(file), "--dry-run", "--config-db", database_url, "-o"]
        as_json, as_yaml = (service.call(*command, output) for output in ("json", "yaml"))
        assert (as_json.exit_code, as_yaml.exit_code) == (0, 0)
        assert yaml.safe_load(as_yaml.stdout) == json.loads(as_json.stdout)

    def test_a_decision(self, service):
        now(service.world.add_node("edge-1", kind="edge", organization_id=uuid4()))
        result = service.call("cordon", "edge-1", "--reason", "a", "-o", "yaml")
        assert yaml.safe_load(result.stdout)["cordoned"] is True


class TestRegistering:
    def test_it_and_its_end(self, service):
        given = ["--organization", ORGANIZATION]
        result = service.call("register-node", "edge-1", *given)
        assert (result.exit_code, result.stdout[:32]) == (0, "edge-1 is registered: online, id")
        result = service.call("decommission-node", "edge-1", answer="n\n")
        assert (result.exit_code, "nothing was done" in result.stderr) == (1, True)
        result = service.call("decommission-node", "edge-1", *given, answer="y\n")
        assert (result.exit_code, result.stdout) == (
            0,
            'edge-1 is decommissioned: what runs there leaves ("dory-orchestrator moves --open")\n',
        )

    def test_where_its_processors_go_first(self, service):
        given = ["--organization", ORGANIZATION, "-o", "json"]
        first = json.loads(service.call("register-node", "edge-2", *given).stdout)
        command = ["register-node", "edge-1", *given, "--no-failover", "--failover-target"]
        found = json.loads(service.call(*command, first["id"]).stdout)
        assert found["failover_target_node_id"] == first["id"]
        assert found["failover_enabled"] is False
        now(service.world.add_node("cloud", kind="application"))
        result = service.call(*command, "cloud")
        assert (result.exit_code, "cloud is no edge node" in result.stderr) == (1, True)

    def test_with_a_token(self):
        with Service("geheim") as service:
            command = ["register-node", "edge-1", "--organization", ORGANIZATION]
            environs: list[dict[str, str]] = [{}, {"DORY_STATE_TOKEN": "wrong"}]
            for environ in (*environs, {"DORY_OPERATOR_TOKEN": "geheim"}):
                result = service.call(*command, **environ)
                assert (result.exit_code, "DORY_STATE_TOKEN" in result.stderr) == (2, True)
            assert service.call(*command, DORY_STATE_TOKEN="geheim").exit_code == 0


@pytest.mark.parametrize("verb", ["failover", "failback", "retry"])
def test_an_order_never_takes_a_name_for_the_start_of_another(service, verb):
    service.add("counter-10", state="running")
    result = service.call(verb, "counter-1", "--reason", "a", "-y")
    assert (result.exit_code, "no processor is called 'counter-1'" in result.stderr) == (1, True)
    # Whoever only looks may shorten it.
    assert service.call("processor", "counter-1").exit_code == 0


class Watching:
    """A command with `-w`, in a process of its own."""

    def __init__(self, service: Service, *arguments: str) -> None:
        self._command = [*COMMAND, *arguments, "-w", "--url", service.url]
        self.code: int | None = None
        self.rest = ""

    def __enter__(self) -> "Watching":
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdout=pipe, stderr=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(2)
        self.rest = self._process.communicate(timeout=patient(10))[0]
        self.code = self._process.returncode

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def complaint(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.readline()


class TestWatching:
    def test_rows_that_change(self, service):
        key = service.add("camera-1", state="starting", node="edge-1")
        other = service.add("camera-2", state="running")
        with Watching(service, "processors") as watching:
            heading, first, second = (watching.line() for _ in range(3))
            assert heading.split()[:2] == ["NAME", "STATE"]
            assert (first.split()[:2], second.split()[0]) == (["camera-1", "starting"], "camera-2")
            service.add("camera-1", key=key, state="running", node="edge-1")
            changed = watching.line()
            assert changed.split()[:2] == ["camera-1", "running"]
            assert changed.index("edge-1") == first.index("edge-1") == heading.index("NODE")
            del service.world.views.processors[other]
            assert watching.line() == f"camera-2 {other}  is no longer listed\n"
        assert (watching.code, watching.rest) == (130, "")

    def test_as_json_through_an_outage(self, service):
        service.add("camera-1", state="running")
        with Watching(service, "processors", "-o", "json") as watching:
            assert json.loads(watching.line())["name"] == "camera-1"
            service.world.views.error = StoreUnavailable("down")
            assert "it is tried again" in watching.complaint()
            service.add("camera-2", state="running")
            service.world.views.error = None
            assert "reached again" in watching.complaint()
            assert json.loads(watching.line())["name"] == "camera-2"
        assert watching.code == 130

    def test_one_thing(self, service):
        with Watching(service, "brake", "status") as watching:
            assert watching.line() == "brake  off\n"
            service.engage()
            assert [watching.line() for _ in range(2)][1].startswith("brake    HOLDS")
        assert watching.code == 130

    def test_one_thing_as_yaml(self, service):
        key = service.add("camera-1", state="starting")
        with Watching(service, "processor", "camera-1", "-o", "yaml") as watching:
            assert watching.line() == "---\n"
            while watching.line() != "events: []\n":
                pass
            service.add("camera-1", key=key, state="running")
            assert [watching.line() for _ in range(2)] == ["---\n", "processor:\n"]

    def test_who_is_not_there_at_first_is_an_error(self, service):
        result = service.call("processor", "nobody", "-w")
        assert (result.exit_code, "no processor is called" in result.stderr) == (1, True)
        service.world.views.error = StoreUnavailable("down")
        assert service.call("nodes", "-w").exit_code == 1


def test_on_a_terminal_it_is_drawn_in_its_place(service):
    service.add("camera-1", state="running")
    with OnTerminal([*COMMAND, "processors", "-w", "--url", service.url]) as terminal:
        terminal.wait_for("camera-1")
        service.add("camera-2", state="error")
        terminal.wait_for("camera-2")
        terminal.send("\x03")
    assert terminal.code == 130
    assert re.search(r"\x1b\[\d*A", terminal.shown)
