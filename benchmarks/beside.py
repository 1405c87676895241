"""Heartbeats beside a control process that reconciles without end, and beside one that sleeps.

The real service, both processes supervised as always; only its cluster is a stand-in. In quiet
rounds the control process is stopped (SIGSTOP): it then costs nothing at all. In busy ones
notifications wake it again and again, and rows are changed for it to act on.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import msgspec
import psutil

from benchmarks import changes, cycles, servers, standin
from benchmarks.beats import Beaten, Beating, percentile

_CYCLES = "dory_reconciliation_duration_seconds_count"
_CYCLE_SECONDS = "dory_reconciliation_duration_seconds_sum"
_NOTIFY_SECONDS = 0.02
_PAUSE_SECONDS = 0.2
_AWAKE_SECONDS = 60.0
_GRACE_SECONDS = 30.0
_CALM_SECONDS = 3.0
_CHANGES = "changes"


class BesideError(Exception):
    """The measurement did not come about."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the generator, and how many cycles ended during it."""

    beaten: Beaten
    cycles: int
    cycle_seconds: float

    def latency_ms(self, share: float) -> float:
        return percentile(self.beaten.latencies, share) * 1e3

    @property
    def max_ms(self) -> float:
        return max(self.beaten.latencies) * 1e3

    def late_ms(self, share: float) -> float:
        """Of the generator itself."""
        return percentile(self.beaten.lateness, share) * 1e3


@dataclass(slots=True)
class Beside:
    """All rounds; each busy one follows its quiet one."""

    quiet: list[Round] = field(default_factory=list)
    busy: list[Round] = field(default_factory=list)
    reactions: list[float] = field(default_factory=list)
    lost_reactions: int = 0

    @property
    def ratios(self) -> list[float]:
        """p99 with cycles over p99 without, by round."""
        pairs = zip(self.busy, self.quiet, strict=True)
        return [busy.latency_ms(0.99) / quiet.latency_ms(0.99) for busy, quiet in pairs]


def measure(folder: Path, database_url: str, beating: Beating, port: int, rounds: int) -> Beside:
    """Quiet and busy in turns. The books of the stand-in are in the folder."""
    result = Beside()
    server = servers.Server("service", port, folder / "service.log")
    variables = {"DORY_STATE_TOKEN": beating.token}
    with servers.running(server, _command(folder, database_url, port), variables):
        control = _process(server.port, "control")
        plan = changes.Plan(database_url, 0, _PAUSE_SECONDS, _NOTIFY_SECONDS)
        with _changing(plan, folder):
            _wait_for_cycles(server)
        sent: dict[UUID, float] = {}
        for number in range(rounds):
            print(f"heartbeats: round {number + 1} of {rounds}", file=sys.stderr)
            _wait_until_calm(server)
            with _stopped(control):
                result.quiet.append(_round(beating, server))
            with _changing(plan, folder):
                _wait_for_cycles(server)
                result.busy.append(_round(beating, server))
            sent.update(changes.read_sent(folder / _CHANGES))
        _wait_until_calm(server)
        found = cycles.reactions(sent, standin.read_created(folder))
        result.reactions, result.lost_reactions = found
    return result


def _command(folder: Path, database_url: str, port: int) -> list[str]:
    arguments = ["run", "--log-format", "json", "--config-db", database_url]
    arguments += ["--cluster", "local", "--local-dir", str(folder)]
    arguments += ["--metrics-address", "127.0.0.1", "--metrics-port", str(port)]
    return [sys.executable, "-m", "benchmarks.standin", *arguments]


def _process(port: int, role: str) -> psutil.Process:
    """The supervised process of a role, found below us by its command line."""
    for process in psutil.Process().children(recursive=True):
        if process.cmdline()[-3:] == ["-m", "benchmarks.standin", role]:
            return process
    raise BesideError(f"the process {role} does not run (port {port})")


@contextmanager
def _stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def _changing(plan: changes.Plan, folder: Path) -> Iterator[None]:
    """Rows are changed, and notifications sent."""
    with (folder / _CHANGES).open("wb") as output:
        process = subprocess.Popen(plan.command(), stdout=output)
        try:
            yield
            if process.poll() is not None:
                raise BesideError("the process that changes rows has ended")
        finally:
            process.terminate()
            process.wait()


def _wait_for_cycles(server: servers.Server) -> None:
    """Until the control process leads, and two more cycles have ended."""
    deadline = time.monotonic() + _AWAKE_SECONDS
    first: float | None = None
    while time.monotonic() < deadline:
        samples = server.samples()
        if samples.get("dory_leader") == 1.0:
            first = samples[_CYCLES] if first is None else first
            if samples[_CYCLES] >= first + 2:
                return
        time.sleep(0.2)
    raise BesideError("the control process does not reconcile")


def _wait_until_calm(server: servers.Server) -> None:
    """Until no cycle has ended for a while: whoever is stopped then holds no lock."""
    deadline = time.monotonic() + _AWAKE_SECONDS
    before, since = server.samples().get(_CYCLES), time.monotonic()
    while time.monotonic() - since < _CALM_SECONDS:
        time.sleep(0.2)
        now = server.samples().get(_CYCLES)
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() > deadline:
            raise BesideError("the control process does not come to rest")


def _round(beating: Beating, server: servers.Server) -> Round:
    before = server.samples()
    try:
        done = subprocess.run(beating.command(), timeout=beating.seconds + _GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BesideError("the generator does not end") from error
    if done.returncode != 0:
        raise BesideError(f"the generator ended with {done.returncode}")
    time.sleep(1.0)  # the control process reports twice a second
    after = server.samples()
    return Round(
        msgspec.json.decode(beating.result.read_bytes(), type=Beaten),
        round(_grown(before, after, _CYCLES)),
        _grown(before, after, _CYCLE_SECONDS),
    )


def _grown(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)
