"""What `--help` says holds: examples can be called, and the documentation says the same."""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from tests.cli_docs import FILE, PROGRAM, commands, examples, page
from tests.patience import patient
from tests.test_cli import call
from tests.test_cli_fleet import Service

from dory_orchestrator.cli import main

COMMANDS = dict(commands())
ROOT = Path(__file__).parent.parent
INSTALLED = Path(sys.executable).parent / PROGRAM


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_that_can_be_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").touch()
    found = examples(COMMANDS[name])
    assert found, f"{name} has no example in its help"
    for line in found:
        command = parsed(line)
        assert command.startswith(name), f"{line} is an example of {command}, and not of {name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_does(name):
    result = call(*name.split()[1:], "--help")
    assert result.exit_code == 0
    assert COMMANDS[name].get_short_help_str()
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option):
            assert option.help, f"{option.opts} of {name} has no help"


def test_exit_codes_are_told():
    told = call("--help").stdout
    for code in (0, 1, 2, 130):
        assert re.search(rf"^ +{code} +\w", told, re.MULTILINE)


def test_the_documentation_says_the_same():
    assert FILE.read_text(encoding="utf-8") == page(), "run python -m tests.cli_docs"


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {FILE})]
)
def test_what_the_documentation_calls_can_be_called(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("fleet.yaml", "my-fleet.yaml"):
        (tmp_path / name).touch()
    for line in called_in(file):
        parsed(line)


def called_in(file: Path) -> Iterator[str]:
    """Lines of code blocks that call us."""
    for block in re.findall(r"```[a-z]*\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.strip().removeprefix("$ ").startswith(f"{PROGRAM} "):
                yield line.strip().removeprefix("$ ")


def parsed(line: str) -> str:
    """The name of the command that is called; click refuses what it does not understand."""
    program, *words = shlex.split(re.split(r" [>|&] ?", line)[0], comments=True)
    assert program == PROGRAM
    name = program
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        sub, found, words = command.resolve_command(click.Context(command, info_name=name), words)
        assert found is not None
        name, command = f"{name} {sub}", found
    if not isinstance(command, click.Group):
        command.make_context(name, words)
    return name


# Completion --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with Service() as server:
        yield server


@pytest.fixture
def service(server: Service) -> Service:
    server.world.views.__init__()
    for name in ("camera-1", "camera-2", "counter-1", "a\x1bb", "a$(reboot)", "a b", "-a"):
        server.add(name, state="running", node="edge-1")
    with ThreadPoolExecutor(max_workers=1) as executor:
        for name in ("edge-1", "cloud"):
            executor.submit(lambda n: add_node(server, n), name).result()
    return server


def add_node(service: Service, name: str) -> None:
    with pytest.raises(StopIteration):
        service.world.add_node(name, kind="application").send(None)


def complete(url: str, *words: str, shell: str = "bash") -> list[str]:
    """What click answers the script of the shell."""
    environ = {
        **os.environ,
        "DORY_URL": url,
        "_DORY_ORCHESTRATOR_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": shlex.join((PROGRAM, *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [INSTALLED], env=environ, capture_output=True, text=True, timeout=patient(10)
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.real
@pytest.mark.timeout(30)
class TestCompletion:
    def test_names(self, service):
        assert complete(service.url, "processor", "cam") == ["camera-1", "camera-2"]
        assert complete(service.url, "processors", "--node", "") == ["cloud", "edge-1"]
        assert complete(service.url, "cordon", "ed") == ["edge-1"]
        assert complete(service.url, "events", "--processor", "co") == ["counter-1"]
        # These would steer the terminal, or the shell.
        assert complete(service.url, "processor", "a") == []
        assert complete(service.url, "processor", "") == ["camera-1", "camera-2", "counter-1"]

    def test_commands_and_options(self, service):
        assert {"node", "nodes"} <= set(complete(service.url, "no"))
        assert "--watch" in complete(service.url, "nodes", "--w")

    def test_nobody_answers(self):
        assert complete("http://127.0.0.1:1", "node", "ed") == []
        assert complete("ftp://nowhere", "node", "ed") == []

    def test_the_url_of_the_line_counts(self, service):
        words = ("node", "--url", service.url, "ed")
        assert complete("http://127.0.0.1:1", *words) == ["edge-1"]

    def test_someone_answers_late(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            assert complete(url, "node", "ed") == []

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script(self, shell):
        done = subprocess.run([INSTALLED, "completion", shell], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"_DORY_ORCHESTRATOR_COMPLETE={shell}_complete" in done.stdout
        assert PROGRAM in done.stdout

    def test_in_a_bash(self, service):
        script = (
            f'PATH="{INSTALLED.parent}:$PATH"; eval "$({PROGRAM} completion bash)";'
            f"COMP_WORDS=({PROGRAM} node ed); COMP_CWORD=2;"
            f'_dory_orchestrator_completion {PROGRAM}; echo "${{COMPREPLY[@]}}"'
        )
        environ = {**os.environ, "DORY_URL": service.url}
        done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("edge-1\n", "")

    def test_another_shell(self):
        assert call("completion", "tcsh").exit_code == 2


def test_the_version_is_quick():
    """It imports none of what only commands need."""
    code = (
        "import sys; from dory_orchestrator.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('aiohttp', 'asyncpg', 'kubernetes', 'starlette')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["[]"]
