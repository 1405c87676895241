"""The command line, up to where other rooms take over."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from tests.patience import patient
from tests.test_settings import SAMPLES

from dory_orchestrator import __version__
from dory_orchestrator.cli import main, revision_text
from dory_orchestrator.core.diagnosis import DATABASE_REMEDY
from dory_orchestrator.settings import SECRETS, Settings, environment_name, flag_name

FIELDS = tuple(Settings.model_fields)
SETTLED_IN_DEV = (
    *("config_db", "kubeconfig", "local_dir", "metrics_address", "metrics_port"),
    *("cluster", "role"),
)
# Whatever the shell of the developer says.
NO_SETTINGS: dict[str, str | None] = {environment_name(name): None for name in FIELDS}


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env={**NO_SETTINGS, **environ})


def call_apart(*arguments: str) -> Result:
    """In a thread, where pytest-asyncio's event loop is not taken away."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(call, *arguments).result()


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["run", "--version"]])
def test_version(arguments: list[str]) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (0, f"dory-orchestrator {__version__}\n")


def test_version_as_a_module() -> None:
    command = [sys.executable, "-m", "dory_orchestrator.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(10), check=True)
    assert done.stdout == f"dory-orchestrator {__version__}\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["dev", "--help"], ["db", "upgrade", "--help"]],
)
def test_help(arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 0


def test_help_of_run_tells_every_setting() -> None:
    text = " ".join(call("run", "--help").stdout.split())
    for name in FIELDS:
        assert flag_name(name) in text
        assert environment_name(name) in text


def test_dev_has_no_option_for_what_it_settles_itself() -> None:
    text = call("dev", "--help").stdout
    for name in FIELDS:
        assert (f"{flag_name(name)} " in text or f"{flag_name(name)} /" in text) is (
            name not in SETTLED_IN_DEV
        )


class TestPrintConfig:
    def test_defaults_without_a_database(self) -> None:
        result = call("run", "--print-config")
        assert (result.exit_code, result.stderr) == (0, "")
        assert [line.split()[0] for line in result.stdout.splitlines()] == ["setting", *FIELDS]

    @pytest.mark.parametrize("name", FIELDS)
    def test_each_flag_reaches_its_setting(self, name: str) -> None:
        value = SAMPLES[name].flag
        given = (
            [flag_name(name, value)] if isinstance(value, bool) else [flag_name(name), str(value)]
        )
        result = call("run", "--print-config", *given)
        (line,) = (text for text in result.stdout.splitlines() if text.startswith(f"{name} "))
        assert line.endswith(f"  flag {flag_name(name, value)}")

    @pytest.mark.parametrize("name", FIELDS)
    def test_each_variable_reaches_its_setting(self, name: str) -> None:
        variable = environment_name(name)
        result = call("run", "--print-config", **{variable: SAMPLES[name].environment})
        (line,) = (text for text in result.stdout.splitlines() if text.startswith(f"{name} "))
        assert line.endswith(f"  environment {variable}")

    def test_file(self, tmp_path: Path) -> None:
        file = tmp_path / "settings.yaml"
        file.write_text("poll_interval: 2m\n", encoding="utf-8")
        result = call("run", "--print-config", "--config", str(file))
        assert f"file {file}" in result.stdout

    def test_empty_flags_are_not_given(self) -> None:
        """A manifest may fill flags from variables that are not set."""
        result = call(
            "run", "--print-config", "--config", "", "--config-db", "", "--kubeconfig", ""
        )
        assert result.stdout == call("run", "--print-config").stdout

    def test_secrets_are_masked(self) -> None:
        environ = {environment_name(name): SAMPLES[name].environment for name in SECRETS}
        result = call("run", "--print-config", **environ)
        assert result.exit_code == 0
        for secret in ("geheim", "env-token", "env-old", "env-operator"):
            assert secret not in result.output


class TestBadSettings:
    @pytest.mark.parametrize("name", FIELDS)
    def test_of_the_environment(self, name: str) -> None:
        bad = SAMPLES[name].bad
        result = call("run", "--print-config", **{environment_name(name): bad})
        value = "***" if name in SECRETS else repr(bad)
        assert_refused(
            result,
            f"dory-orchestrator: {name}: {value} (from environment {environment_name(name)}): ",
        )
        assert "geheim" not in result.output

    @pytest.mark.parametrize(
        "name", [name for name in FIELDS if Settings.model_fields[name].annotation is not bool]
    )
    def test_of_a_flag(self, name: str) -> None:
        result = call("run", flag_name(name), SAMPLES[name].bad)
        assert_refused(result, f"{name}: ", f"(from flag {flag_name(name)}): ")
        assert "geheim" not in result.output

    def test_each_on_its_line(self) -> None:
        result = call("run", "--role", "x", "--log-level", "loud", DORY_POLL_INTERVAL="3 parsecs")
        assert_refused(result)
        lines = result.stderr.splitlines()
        assert len(lines) == 3
        assert all(line.startswith("dory-orchestrator: ") for line in lines)

    @pytest.mark.parametrize("command", [["run"], ["db", "upgrade"], ["db", "current"]])
    def test_of_a_missing_file(self, command: list[str], tmp_path: Path) -> None:
        file = tmp_path / "none.yaml"
        assert_refused(call(*command, "--config", str(file)), str(file), "cannot be read")

    @pytest.mark.parametrize("command", [["run"], ["db", "upgrade"], ["db", "current"]])
    def test_no_database(self, command: list[str]) -> None:
        assert_refused(call(*command), "dory-orchestrator: ", "DORY_DATABASE_URL", "--config-db")

    def test_usage(self) -> None:
        assert_refused(call("run", "--colour", "blue"), "--colour")
        assert_refused(call("dance"), "dance")


class TestFleetApply:
    """What is at fault is told by its name: the file before a database is asked for."""

    NOWHERE = "postgresql://127.0.0.1:1/x"

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("nodes: 7", "fleet.yaml:1: nodes"),
            ("# fleet\nx", "fleet.yaml:2"),
            ("processors:\n  - {name: mine, comand: x}\n", "fleet.yaml:2: processors[0].comand"),
        ],
    )
    @pytest.mark.parametrize("database", [(), ("--config-db", NOWHERE)])
    def test_a_mistake_in_the_file(
        self, tmp_path: Path, content: str, told: str, database: tuple[str, ...]
    ) -> None:
        file = tmp_path / "fleet.yaml"
        file.write_text(content, encoding="utf-8")
        result = call_apart("fleet", "apply", str(file), *database)
        assert_refused(result, "dory-orchestrator: ", told)
        assert "database" not in result.stderr

    def test_a_database_that_is_not_there(self, tmp_path: Path) -> None:
        file = tmp_path / "fleet.yaml"
        file.touch()
        result = call_apart("fleet", "apply", str(file), "--config-db", self.NOWHERE)
        assert result.exit_code == 1
        assert result.stderr.startswith("dory-orchestrator: database: ")
        assert f"-> {DATABASE_REMEDY}" in result.stderr

    def test_the_database_of_a_dev_that_ended(self, tmp_path: Path) -> None:
        file = tmp_path / "fleet.yaml"
        file.touch()
        (tmp_path / "endpoints.json").write_text(json.dumps({"database": self.NOWHERE}))
        result = call_apart("fleet", "apply", str(file), "--data-dir", str(tmp_path))
        assert result.exit_code == 1
        assert f"-> look whether `dev` still runs in {tmp_path}" in result.stderr

    def test_a_file_that_takes_what_is_not_its_own(self, tmp_path: Path, database_url: str) -> None:
        file = tmp_path / "fleet.yaml"
        taken = str(UUID(int=7))
        text = 'organization: "{}"\nprocessors: [{{name: p, command: [x], id: "{}"}}]\n'
        results = []
        for organization in ("one", "two"):
            file.write_text(text.format(organization, taken), encoding="utf-8")
            results.append(call_apart("fleet", "apply", str(file), "--config-db", database_url))
        assert results[0].exit_code == 0
        result = results[1]
        assert result.exit_code == 1
        assert f"{file}: cannot be applied: processor p: the id {taken}" in result.stderr
        assert "database" not in result.stderr


class TestDev:
    @pytest.mark.parametrize("port", ["65536", "-1", "http"])
    def test_bad_port(self, port: str) -> None:
        assert_refused(call("dev", "--port", port), "--port", port)

    def test_missing_fleet(self, tmp_path: Path) -> None:
        assert_refused(call("dev", "--fleet", str(tmp_path / "none.yaml")), "--fleet", "none.yaml")

    def test_what_it_settles_itself_is_not_read(self) -> None:
        """Bad values of the environment for these would be told beside that of the level."""
        environ = {environment_name(name): SAMPLES[name].bad for name in SETTLED_IN_DEV}
        result = call("dev", "--log-level", "loud", **environ)
        assert_refused(result)
        assert len(result.stderr.splitlines()) == 1

    def test_data_dir_that_is_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        assert_refused(call("dev", "--data-dir", str(file)), "--data-dir")


@pytest.mark.parametrize(
    ("present", "needed", "text"),
    [
        ("0001", "0001", "0001 (up to date)"),
        (None, "0001", 'none (needs 0001: run "dory-orchestrator db upgrade")'),
        ("0001", "0002", '0001 (needs 0002: run "dory-orchestrator db upgrade")'),
    ],
)
def test_revision_text(present: str | None, needed: str, text: str) -> None:
    assert revision_text(present, needed) == text
