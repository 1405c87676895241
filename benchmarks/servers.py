"""The servers that are compared, each a process of its own, bounded in its start and its end."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_HTTP_SECONDS = 5.0
_LOG_TAIL_CHARACTERS = 2_000


class ServerError(Exception):
    """A server did not start."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. Its log is a file."""

    name: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 while nothing listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_HTTP_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def samples(self) -> Mapping[str, float]:
        """Metrics by name with labels, as they stand in the text; none where none are served."""
        status, text = self.get("/metrics")
        lines = text.splitlines() if status == 200 else []
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def troubles(self) -> list[str]:
        """Lines of the log, in JSON, that are warnings or worse."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if '"level": "info"' not in line]


def real(database_url: str, port: int) -> list[str]:
    """The command as shipped, with its default settings."""
    program = Path(sys.executable).with_name("dory-orchestrator")
    return [str(program), *_arguments(database_url, port)]


def no_database(database_url: str, port: int) -> list[str]:
    """The same, answering at once."""
    return [sys.executable, "-m", "benchmarks.no_database", *_arguments(database_url, port)]


def _arguments(database_url: str, port: int) -> list[str]:
    arguments = ["run", "--role", "api", "--log-format", "json", "--config-db", database_url]
    return [*arguments, "--metrics-address", "127.0.0.1", "--metrics-port", str(port)]


def plain(database_url: str, port: int, pool_size: int, app: str) -> list[str]:
    """One transaction for each beat."""
    options = ["--database-url", database_url, "--port", str(port), "--pool-size", str(pool_size)]
    options += ["--app", app]
    return [sys.executable, "-m", "benchmarks.plain", *options]


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(server: Server, command: Sequence[str], variables: dict[str, str]) -> Iterator[Server]:
    """Start the server, wait until it is ready, stop it in the end. Raises ServerError."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DORY_")}
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=ours | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A session of its own: Ctrl-C reaches only us, and we decide the order.
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        _stop(process)


def _wait_until_ready(server: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while server.get("/readyz")[0] != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = server.log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
            raise ServerError(f"{server.name} does not get ready:\n{tail}")
        time.sleep(0.05)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask, then kill. A supervisor's child ends with it: its standard input closes."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)
