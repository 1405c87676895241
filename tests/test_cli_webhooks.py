"""Commands about webhooks and exports, against a real server over a fleet in memory."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from tests.test_cli_fleet import Service, lines
from tests.webhooks_double import Hook

from dory_orchestrator.ports import DeadLetterView, StoreUnavailable

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with Service() as server:
        yield server


@pytest.fixture
def service(server: Service) -> Service:
    """With an empty fleet."""
    server.world.views.__init__()
    return server


def add_hook(service: Service, name: str, **values: Any) -> None:
    hook = Hook(name, f"https://{name}.example/in", ["create", "node_*"], 0, **values)
    service.world.views.hooks[name] = hook


def bury(service: Service, name: str, number: int) -> None:
    views = service.world.views
    views.letters[name, number] = DeadLetterView(
        webhook=name,
        event=views.events[number - 1],
        died_at=datetime.now(UTC),
        tries=8,
        error="answered 500, \x1b[31m8 times",
        retrying=False,
    )


class TestWebhooks:
    def test_none(self, service):
        result = service.call("webhooks")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no webhooks\n")

    def test_as_a_table(self, service):
        soon = datetime.now(UTC) + timedelta(seconds=60)
        add_hook(service, "b", failures=3, next_try_at=soon, last_error="answered 503")
        add_hook(service, "a", last_error="long ago")
        service.tell("create", "x", at=datetime.now(UTC) - timedelta(seconds=90))
        bury(service, "a", 1)
        heading, a, b = lines(service.call("webhooks"))
        assert heading[:3] == ["NAME", "BEHIND", "EVENTS"]
        assert (a[0], a[2], a[4:]) == ("a", "1", ["0", "-", "1", "-"])
        assert re.fullmatch(r"9\ds", a[1])
        assert b[4] == "3"
        assert re.fullmatch(r"in (60|59|58)s", " ".join(b[5:7]))
        assert b[-2:] == ["answered", "503"]
        (wide, *_) = lines(service.call("webhooks", "-o", "wide"))
        assert wide[-3:] == ["URL", "KINDS", "DROPPED"]

    def test_as_json(self, service):
        add_hook(service, "a")
        (found,) = json.loads(service.call("webhooks", "-o", "json").stdout)["webhooks"]
        assert (found["name"], found["url"]) == ("a", "https://a.example/in")


class TestDeadLetters:
    def test_none(self, service):
        result = service.call("webhooks", "dead-letters")
        assert (result.exit_code, result.stderr) == (0, "no dead letters\n")

    def test_as_a_table(self, service):
        for name in "ab":
            add_hook(service, name)
        for number in (1, 2):
            service.tell("create", "x", node_name="edge-1")
            for name in "ab":
                bury(service, name, number)
        heading, *rows = lines(service.call("webhooks", "dead-letters"))
        assert heading[:2] == ["WEBHOOK", "EVENT"]
        assert [row[:2] for row in rows] == [["a", "2"], ["b", "2"], ["a", "1"], ["b", "1"]]
        assert "\x1b" not in service.call("webhooks", "dead-letters").stdout
        _, *rows = lines(service.call("webhooks", "dead-letters", "b", "-o", "wide"))
        assert [row[:2] for row in rows] == [["b", "2"], ["b", "1"]]
        assert "edge-1" in rows[0]
        result = service.call("webhooks", "dead-letters", "--limit", "3", "-o", "json")
        assert len(json.loads(result.stdout)["dead_letters"]) == 3


class TestRetry:
    def test_some_and_all(self, service):
        add_hook(service, "a")
        for number in (1, 2, 3):
            service.tell("create", "x")
            bury(service, "a", number)
        result = service.call("webhooks", "retry", "a", "2", "--by", "ann")
        assert (result.exit_code, result.stdout) == (0, "1 event is sent once more\n")
        assert service.world.views.events[-1].detail.startswith("ann has 1 event sent to a")
        result = service.call("webhooks", "retry", "a", "--all")
        assert (result.exit_code, result.stdout) == (0, "3 events are sent once more\n")
        assert all(letter.retrying for letter in service.world.views.letters.values())
        _, *rows = lines(service.call("webhooks", "dead-letters"))
        assert rows[0][-3:] == ["is", "sent", "again"]

    def test_what_is_refused(self, service):
        add_hook(service, "a")
        result = service.call("webhooks", "retry", "a", "--all")
        assert result.exit_code == 1
        assert "a has no dead letters" in result.stderr

    @pytest.mark.parametrize("arguments", [["a"], ["a", "1", "--all"], ["a", "0"], []])
    def test_wrong_calls(self, service, arguments):
        assert service.call("webhooks", "retry", *arguments).exit_code == 2


class TestExport:
    def test_to_standard_output(self, service):
        for number in range(1500):
            service.tell("create", f"r{number}")
        result = service.call("events-export")
        assert result.exit_code == 0
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert [event["id"] for event in found] == list(range(1, 1501))

    def test_to_a_file_with_filters(self, service, tmp_path: Path):
        key = service.add("camera-1", state="running", key=UUID(int=7))
        for days in (8, 6, 2):
            at = datetime.now(UTC) - timedelta(days=days)
            service.tell("create", "x", at=at, processor_id=key, node_name="n")
            service.tell("delete", "x", at=at)
        file = tmp_path / "events.jsonl"
        for options, expected in (
            (["--since", "7d"], [3, 4, 5, 6]),
            (["--since", "7d", "--until", "5d"], [3, 4]),
            (["--processor", "camera", "--kind", "create"], [1, 3, 5]),
            (["--node", "n", "--since", "3d"], [5]),
            (["--node", "n", "--since", "3d", "--explained"], [5]),
        ):
            result = service.call("events-export", *options, "--to", str(file))
            assert (result.exit_code, result.stdout) == (0, "")
            found = [json.loads(line)["id"] for line in file.read_text().splitlines()]
            assert found == expected
        assert list(tmp_path.iterdir()) == [file]

    def test_what_a_terminal_would_obey_is_written_otherwise(self, service):
        text = "a\x7f\x9b31m\x1bé" * 500
        service.world.views.tell("create", "x", text)
        result = service.call("events-export")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", result.stdout)
        assert json.loads(result.stdout)["detail"] == text

    def test_one_that_is_cut_leaves_the_file_as_it_was(self, service, tmp_path):
        for _ in range(2500):
            service.tell("create", "x")
        service.world.views.failing_behind = 1000
        file = tmp_path / "events.jsonl"
        file.write_text("before")
        result = service.call("events-export", "--to", str(file))
        assert result.exit_code == 1
        assert "not complete" in result.stderr
        assert file.read_text() == "before"
        assert list(tmp_path.iterdir()) == [file]
        assert service.call("events-export").exit_code == 1

    def test_what_goes_wrong_is_said(self, service, tmp_path):
        for options, code, said in (
            (["--since", "yesterday"], 2, "since: "),
            (["--processor", "nobody"], 1, "no processor is called"),
            (["--to", str(tmp_path / "none" / "file")], 1, "cannot be written"),
            (["--url", "http://127.0.0.1:1"], 1, "cannot reach"),
            (["--url", "ftp://x"], 2, "is no URL"),
        ):
            result = service.call("events-export", *options)
            assert result.exit_code == code, options
            assert said in result.stderr
        service.world.views.error = StoreUnavailable("gone")
        result = service.call("events-export")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "database: not available" in result.stderr
