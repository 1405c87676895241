"""`top` on a terminal, through outages, and where no terminal is."""

import json
import re
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from tests.terminal import OnTerminal
from tests.test_cli_fleet import COMMAND, Service, invoke, now

from dory_orchestrator.commands.frame import share
from dory_orchestrator.commands.sentence import is_well, sentence
from dory_orchestrator.commands.top import joined
from dory_orchestrator.ports import StoreUnavailable

pytestmark = [pytest.mark.real, pytest.mark.timeout(40)]
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with Service() as server:
        yield server


@pytest.fixture
def service(server: Service) -> Iterator[Service]:
    """With an empty fleet."""
    server.world.views.__init__()
    with capture_logs():
        yield server


def top(service: Service) -> list[str]:
    return [*COMMAND, "top", "--url", service.url]


def test_each_second_until_q(service):
    service.world.views.leader = "one"
    key = service.add("camera-1", state="starting", node="edge-1")
    with OnTerminal(top(service)) as terminal:
        terminal.wait_for("1 of 1 processors do not run")
        service.add("camera-1", key=key, state="running", node="edge-1")
        terminal.wait_for("The one processor runs.")
        service.tell("cordon", "cordoned", node_name="edge-1")
        terminal.wait_for("cordoned")
        terminal.send("q")
    assert terminal.code == 0
    assert ENTERED in terminal.shown
    assert terminal.shown.rindex(LEFT) > terminal.shown.rindex(ENTERED)


def test_it_goes_on_when_nobody_answers(service):
    service.world.views.leader = "one"
    service.add("camera-1", state="running")
    with OnTerminal(top(service)) as terminal:
        terminal.wait_for("The one processor runs.")
        service.world.views.error = StoreUnavailable("down")
        terminal.wait_for("it is tried again: the orchestrator says")
        terminal.wait_for("The one processor runs.")
        service.world.views.error = None
        terminal.wait_for("Dory Orchestrator")
        terminal.send("\x03")
    assert terminal.code == 130
    assert LEFT in terminal.shown


def test_it_waits_for_one_that_is_not_there_yet():
    with OnTerminal([*COMMAND, "top", "--url", "http://127.0.0.1:1"]) as terminal:
        terminal.wait_for("cannot reach http://127.0.0.1:1")
        terminal.send("q")
    assert terminal.code == 0


def test_it_is_as_large_as_the_terminal(service):
    service.world.views.leader = "l" * 300
    for number in range(60):
        service.tell("create", f"reason{number}")
    with OnTerminal(top(service), columns=80, rows=24) as terminal:
        terminal.wait_for("reason59")
        assert shown(terminal).isdisjoint({"reason30"})
        terminal.resize(120, 60)
        terminal.wait_for("reason30")
        terminal.send("q")
    assert terminal.code == 0


def test_a_tiny_terminal_is_no_failure(service):
    service.add("camera-1", state="running", node="edge-1")
    with OnTerminal(top(service), columns=20, rows=5) as terminal:
        terminal.wait_for("Dory Orchestrator")
        terminal.resize(3, 2)
        terminal.send("q")
    assert terminal.code == 0


def shown(terminal: OnTerminal) -> set[str]:
    return set(plain(terminal.shown).split())


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_one_frame(service):
    service.add("camera-1", state="running", node="edge-1")
    result = service.call("top", "--once", COLUMNS="80", LINES="24")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert service.call("top").stdout.splitlines()[0] == lines[0]
    found = json.loads(service.call("top", "-o", "json").stdout)
    assert [one["name"] for one in found["processors"]] == ["camera-1"]


def test_one_frame_of_nobody():
    result = invoke(["top", "--once", "--url", "http://127.0.0.1:1"])
    assert (result.exit_code, "cannot reach" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("wanted", "rows", "given"),
    [
        ((3, 2, 2), 20, (3, 2, 2)),
        ((50, 50, 50), 20, (9 + 0, 4, 7)),
        ((50, 0, 1), 20, (19, 0, 1)),
        ((0, 0, 50), 20, (0, 0, 20)),
        ((50, 50, 50), 3, (1, 1, 1)),
    ],
)
def test_sections_share_the_rows(wanted, rows, given):
    names = ("nodes", "moves", "events")
    assert tuple(share(dict(zip(names, wanted, strict=True)), rows)[n] for n in names) == given


def test_what_two_answers_tell_is_drawn_once():
    """Between them a second may pass, and a move may end."""
    node = {"name": "edge-1", "organization_id": "a", "heartbeat_age_seconds": 1.0}
    other = {**node, "organization_id": "b"}
    under_way, older = {"id": 7, "ended_at": None}, {"id": 8, "ended_at": "then"}
    answers = {
        **{name: {} for name in ("summary", "brake", "guard", "health")},
        "unready": {"nodes": [node]},
        "nodes": {"nodes": [{**node, "heartbeat_age_seconds": 2.0}, other]},
        "open": {"moves": [under_way]},
        "moves": {"moves": [older, {"id": 7, "ended_at": "now"}, {"id": 6, "ended_at": None}]},
        "processors": {"processors": []},
        "events": {"events": []},
    }
    found = joined(answers)
    assert [one["heartbeat_age_seconds"] for one in found["nodes"]] == [2.0, 1.0]
    assert [one["id"] for one in found["moves"]] == [6, 8, 7]


def test_it_tells_how_many_nodes_it_does_not_show(service):
    for number in range(40):
        now(service.world.add_node(f"n{number:02}", kind="edge"))
    shown = service.call("top", "--once", COLUMNS="80", LINES="24").stdout.splitlines()
    (heading,) = (line for line in shown if line.startswith("NODE"))
    nodes = [line for line in shown if re.match(r"n\d\d ", line)]
    assert heading.split()[:2] == ["NODE", f"(+{40 - len(nodes)})"]
    assert len(nodes) >= 5


WELL = {
    "current": True,
    "brake_engaged": False,
    "guard_held": False,
    "moves_open": 0,
    "desired": 5,
    "ready": 5,
    "nodes": 2,
    "nodes_ready": 2,
    "states": {"running": 5},
    "away": 0,
    "at": "2026-01-01T14:00:00Z",
    "pause_until": None,
    "pause_by": None,
    "drill_node": None,
    "drill_phase": None,
}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "All 5 processors run."),
        ({"desired": 0, "ready": 0}, "No processor is desired."),
        ({"nodes_ready": 1}, "All 5 processors run. 1 of 2 nodes is not ready."),
        (
            {"ready": 2, "moves_open": 1, "states": {"moving": 1, "error": 2}},
            "3 of 5 processors do not run, 1 on their way: 2 error.",
        ),
        ({"current": False, "brake_engaged": True}, "Nobody looks at the fleet now: "),
        ({"brake_engaged": True, "guard_held": True}, "The brake holds: "),
        ({"guard_held": True, "ready": 0}, "The deletion guard holds: "),
        (
            {"pause_until": "2026-01-01T14:30:00Z", "pause_by": "eva", "brake_engaged": True},
            "Paused until 14:30 UTC by eva: nothing is created or moved.",
        ),
        (
            {"pause_until": "2026-01-06T09:00:00Z", "pause_by": "eva"},
            "Paused until 2026-01-06 09:00 UTC by eva: nothing is created or moved.",
        ),
        ({"away": 2, "nodes_ready": 1}, "All 5 processors run. 1 of 2 nodes is not ready. 2 live"),
        (
            {"drill_node": "edge-1", "drill_phase": "running", "moves_open": 1},
            "All 5 processors run. A fire drill treats edge-1 as dead.",
        ),
    ],
)
def test_the_sentence(values, text):
    summary = {**WELL, **values}
    assert sentence(summary).startswith(text)
    assert is_well(summary) is (summary == WELL or not summary["desired"])
