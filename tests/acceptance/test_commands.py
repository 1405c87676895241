"""The commands that do their work and end."""

import subprocess
from urllib.parse import urlsplit

import pytest
from tests.acceptance.real import COMMAND, clean_environment
from tests.patience import patient

from dory_orchestrator import __version__

pytestmark = pytest.mark.timeout(60)

WORD = "geheim"
SECONDS_MAX = 30


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=patient(SECONDS_MAX),
    )


def test_a_database_is_upgraded_once_and_told_so(empty_database_url):
    def db(command: str) -> subprocess.CompletedProcess[str]:
        return call("db", command, DORY_DATABASE_URL=empty_database_url)

    before = db("current")
    assert before.returncode == 0
    assert before.stdout.startswith("none (needs ")
    assert 'run "dory-orchestrator db upgrade"' in before.stdout
    for _ in range(2):
        done = db("upgrade")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    after = db("current")
    assert after.returncode == 0
    assert after.stdout.endswith(" (up to date)\n")
    assert "Traceback" not in before.stderr + after.stderr


@pytest.mark.parametrize("command", ["upgrade", "current"])
def test_a_database_that_cannot_be_reached_is_named_without_its_password(command, tmp_path):
    url = f"postgresql://dory:{WORD}@/fleet?host={tmp_path}"
    assert urlsplit(url).password == WORD
    done = call("db", command, DORY_DATABASE_URL=url)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dory-orchestrator: cannot connect to the database fleet at {tmp_path}")
    assert WORD not in done.stderr


def test_a_host_that_refuses_is_named_without_the_password():
    done = call("db", "upgrade", DORY_DATABASE_URL=f"postgresql://dory:{WORD}@127.0.0.1:1/fleet")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert WORD not in done.stderr


def test_the_version():
    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"dory-orchestrator {__version__}\n")


def test_settings_are_printed_without_secrets():
    done = call(
        "run",
        "--print-config",
        DORY_STATE_TOKEN=WORD,
        DORY_DATABASE_URL=f"postgresql://dory:{WORD}@localhost/fleet",
    )
    assert done.returncode == 0
    assert "DORY_STATE_TOKEN" in done.stdout
    assert "***" in done.stdout
    assert WORD not in done.stdout + done.stderr
