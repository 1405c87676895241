"""Recorded heartbeats a second, and two ratios measured in the same run.

`python -m benchmarks.heartbeats` starts all it needs: an embedded PostgreSQL, the command as
shipped, the same without a database, and one plain transaction for each beat. They take
turns, several rounds long, since machines are shared and noisy: what counts is the median of
the ratios within a round. In the end the database itself is asked what it has written.

Exit codes: 0 fine, 1 a target was missed or a beat was lost, 2 the call is wrong.
"""

import argparse
import asyncio
import os
import platform
import secrets
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import command, fleet, load, servers
from benchmarks.compare import BATCH_SIZE, Compared, Variant, started
from dory_orchestrator.ports import StoreError
from dory_orchestrator.store.migrate import upgrade

_NO_DATABASE_MIN = 0.6
_PLAIN_MIN = 5.0
_RECORDED = 'dory_heartbeats_total{outcome="recorded"}'
_TROUBLES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio that the median over the rounds must reach."""

    name: str
    ratios: Sequence[float]
    least: float

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def missed(self) -> bool:
        return self.median < self.least


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything that is printed and judged."""

    compared: Compared
    written: fleet.Written
    batch_max: float
    troubles: Sequence[str]
    problems: Sequence[str]


def main() -> int:
    """Measure, print, judge."""
    arguments = _arguments()
    if not load.is_there():
        print("wrk is needed: apt-get install wrk", file=sys.stderr)
        return 2
    return command.run(lambda: _bench(arguments), load.LoadError, servers.ServerError, StoreError)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recorded heartbeats a second, as ratios.")
    parser.add_argument("--seconds", type=int, default=8, help="length of a round (8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--connections", type=int, default=64, help="kept-alive connections (64)")
    parser.add_argument("--processors", type=int, default=10_000, help="size of the fleet (10000)")
    parser.add_argument("--no-targets", action="store_true", help="print the ratios, judge none")
    arguments = parser.parse_args()
    if min(arguments.seconds, arguments.rounds, arguments.connections) < 1:
        parser.error("--seconds, --rounds and --connections: at least 1")
    if arguments.processors < 10 * arguments.connections:
        parser.error("--processors: at least 10 for each connection, or beats of one could meet")
    return arguments


def _bench(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="dory-bench-") as name:
        folder = Path(name)
        with command.postgres(folder / "data") as url:
            _, version = asyncio.run(fleet.describe(url))
            _print_machine(arguments, version)
            finding = _find(folder, url, arguments)
    targets = _targets(finding.compared)
    _print_table(finding)
    _print_targets(targets)
    _print_lean(finding.compared)
    missed = [] if arguments.no_targets else _missed(targets)
    problems = [*finding.problems, *missed]
    for trouble in finding.troubles:
        print(trouble)
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _find(folder: Path, url: str, arguments: argparse.Namespace) -> Finding:
    """Measure all, then ask the database."""
    members = fleet.make_fleet(arguments.processors)
    plain_url = _prepare(url, members)
    by = load.Load(folder / "bodies", secrets.token_hex(16), arguments.connections)
    fleet.write_bodies(members, by.bodies)
    began_at, _ = asyncio.run(fleet.describe(url))
    with started(folder, url, plain_url, by.token) as compared:
        compared.take_turns(by, arguments.rounds, arguments.seconds)
        batch_max = compared.real.server.samples()[f"{BATCH_SIZE}_max"]
        problems = _impostor(compared.no_database)
    ended_at, _ = asyncio.run(fleet.describe(url))
    written = asyncio.run(fleet.written(url, began_at, ended_at))
    problems += _lost(compared.real, written, arguments)
    return Finding(compared, written, batch_max, _troubles(compared), problems)


def _prepare(url: str, members: Sequence[fleet.Member]) -> str:
    """A database for each way of writing: each is counted, and vacuumed, for itself."""
    plain_url = urlsplit(url)._replace(path="/plain").geturl()
    asyncio.run(fleet.create_database(url, "plain"))
    for each in (url, plain_url):
        upgrade(each)
        asyncio.run(fleet.seed(each, members))
    return plain_url


# What is wrong


def _impostor(variant: Variant) -> list[str]:
    """Has the server without a database written to one?"""
    recorded = variant.server.samples()[_RECORDED]
    return [f"the server without a database has recorded {recorded:.0f} beats"] if recorded else []


def _lost(real: Variant, written: fleet.Written, arguments: argparse.Namespace) -> list[str]:
    """No two beats of one processor were in flight at once, so each is an update of its own.

    More updates than acknowledged beats: those whose answer came too late for wrk to count.
    """
    acknowledged = sum(run.acknowledged for run in real.runs)
    uncounted = sum(run.not_acknowledged + arguments.connections for run in real.runs)
    problems = []
    for table, updates in (("processors", written.processors), ("edge_nodes", written.edge_nodes)):
        if not acknowledged <= updates <= acknowledged + uncounted:
            problems.append(
                f"{acknowledged} beats were acknowledged, but {updates} rows of {table} updated"
                f" (at most {uncounted} more are explained)"
            )
    if written.heard != arguments.processors:
        problems.append(f"only {written.heard} of {arguments.processors} processors were heard")
    return problems


def _troubles(compared: Compared) -> list[str]:
    """Warnings and errors in the logs, the first few of each: shown, not judged."""
    return [
        f"in the log of {variant.server.name}: {line}"
        for variant in compared.all
        for line in variant.server.troubles()[:_TROUBLES_SHOWN]
    ]


def _targets(compared: Compared) -> list[Target]:
    real, plain = compared.real, compared.best_plain
    return [
        Target("no database", real.ratios_to(compared.no_database), _NO_DATABASE_MIN),
        Target(plain.server.name, real.ratios_to(plain), _PLAIN_MIN),
    ]


def _missed(targets: Sequence[Target]) -> list[str]:
    return [
        f"recorded / {target.name} is {target.median:.2f}, less than {target.least}"
        for target in targets
        if target.missed
    ]


# What is shown


def _print_machine(arguments: argparse.Namespace, version: str) -> None:
    print(
        f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()},"
        f" PostgreSQL {version}; {arguments.connections} connections,"
        f" {arguments.processors} processors, {arguments.rounds} rounds of {arguments.seconds} s;"
        " median (least to most)",
        flush=True,
    )


def _print_table(finding: Finding) -> None:
    compared, written = finding.compared, finding.written
    row = "{:<18}{:>28}{:>24}{:>24}{:>18}".format
    print(row("", "acknowledged beats/s", "p50 ms", "p99 ms", "not acknowledged"))
    for variant in compared.all:
        print(
            row(
                variant.server.name,
                _spread(variant.rates, "{:.0f}"),
                _spread([run.p50_us / 1e3 for run in variant.rounds], "{:.1f}"),
                _spread([run.p99_us / 1e3 for run in variant.rounds], "{:.1f}"),
                sum(run.not_acknowledged for run in variant.runs),
            )
        )
    real = compared.real
    memory = [value / 2**20 for value in real.memory_bytes]
    print(
        f"batches: mean {_spread(real.batch_means[1:], '{:.1f}')}, largest {finding.batch_max:.0f};"
        f" memory of the api process: {memory[0]:.0f} MiB warmed up, {memory[-1]:.0f} MiB at the end"
    )
    print(
        f"database: {sum(run.acknowledged for run in real.runs)} acknowledged;"
        f" updated rows: {written.processors} of processors, {written.edge_nodes} of edge_nodes;"
        f" heard in the run: {written.heard} processors on their nodes"
    )


def _print_targets(targets: Sequence[Target]) -> None:
    for target in targets:
        print(
            f"recorded / {target.name}: {_spread(target.ratios, '{:.2f}')},"
            f" target {target.least}: {'missed' if target.missed else 'met'}"
        )


def _print_lean(compared: Compared) -> None:
    """For orientation: how much of the distance to plain is its framework's."""
    ratios = compared.real.ratios_to(compared.lean)
    print(f"recorded / {compared.lean.server.name}: {_spread(ratios, '{:.2f}')}")


def _spread(values: Sequence[float], form: str) -> str:
    show: Callable[[float], str] = form.format
    return f"{show(statistics.median(values))} ({show(min(values))} to {show(max(values))})"


if __name__ == "__main__":
    sys.exit(main())
