"""What it costs to look after a fleet: deciding, whole cycles, reactions, and what heartbeats
notice of it.

`python -m benchmarks.reconcile` starts all it needs: an embedded PostgreSQL, the control
process with a stand-in for the cluster, and the whole service. Ratios compare what was
measured in the same run: machines are shared and noisy.

Exit codes: 0 fine, 1 a target was missed or something was lost, 2 the call is wrong.
"""

import argparse
import asyncio
import os
import platform
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import beats, beside, command, computing, cycles, servers, standin, world
from benchmarks.beats import percentile
from dory_orchestrator import logs
from dory_orchestrator.app.control_process import collect_garbage_rarely
from dory_orchestrator.ports import StoreError
from dory_orchestrator.store.migrate import upgrade

_SIZES = (1_000, 10_000, 100_000)
_ROUNDS = 5
_GROWTH_MAX = 1.5
_COMPUTE_SECONDS_MAX = 2.0
_REACTION_SECONDS_MAX = 1.0
_BEAT_MS_MAX = 50.0
_BEAT_RATIO_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that may not be above `most`."""

    name: str
    value: float
    most: float
    unit: str = ""

    @property
    def missed(self) -> bool:
        return not self.value <= self.most

    def __str__(self) -> str:
        verdict = "MISSED" if self.missed else "met"
        return (
            f"{self.name}: {self.value:.2f}{self.unit}, at most {self.most:g}{self.unit}: {verdict}"
        )


@dataclass(slots=True)
class Verdict:
    """What is judged: targets, and what else is wrong."""

    targets: list[Target] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.problems) or any(target.missed for target in self.targets)


def main() -> int:
    """Measure, print, judge."""
    arguments = _arguments()
    logs.configure("error", "text")
    collect_garbage_rarely()
    return command.run(
        lambda: _bench(arguments), beside.BesideError, servers.ServerError, StoreError
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What it costs to look after a fleet.")
    parser.add_argument("--processors", type=int, default=10_000, help="size of the fleet (10000)")
    parser.add_argument("--samples", type=int, default=200, help="reactions (200)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of heartbeats (3)")
    parser.add_argument("--seconds", type=int, default=10, help="length of half a round (10)")
    parser.add_argument("--rate", type=int, default=2_000, help="heartbeats a second (2000)")
    parser.add_argument("--connections", type=int, default=200, help="kept alive (200)")
    parser.add_argument("--no-targets", action="store_true", help="print, judge nothing")
    parser.add_argument(
        "--only",
        choices=("compute", "cycles"),
        help="only compute, or all but compute",
    )
    arguments = parser.parse_args()
    numbers = (arguments.samples, arguments.rounds, arguments.seconds, arguments.rate)
    if min(*numbers, arguments.connections) < 1:
        parser.error("--samples, --rounds, --seconds, --rate and --connections: at least 1")
    if arguments.processors < max(1_000, arguments.connections):
        parser.error("--processors: at least 1000, and one for each connection")
    return arguments


def _bench(arguments: argparse.Namespace) -> int:
    began_at = time.monotonic()
    verdict = Verdict()
    print(
        f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()},"
        f" load {os.getloadavg()[0]:.1f} at the start",
        flush=True,
    )
    if arguments.only != "cycles":
        _compute(verdict)
    if arguments.only != "compute":
        _live(arguments, verdict)
    print(f"\n{time.monotonic() - began_at:.0f} s in all; load {os.getloadavg()[0]:.1f} at the end")
    for target in verdict.targets:
        print(target)
    for problem in verdict.problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if verdict.failed and not arguments.no_targets else 0


# Deciding


def _compute(verdict: Verdict) -> None:
    print(f"\ncompute: {_ROUNDS} rounds of all sizes, the collector as in the control process")
    row = "{:>12}{:>10}{:>10}{:>10}{:>12}{:>12}{:>18}".format
    print(row("processors", "nodes", "fleet", "actions", "best ms", "median ms", "µs a processor"))
    for kind in ("steady", "busy"):
        found = computing.measure(_SIZES, _ROUNDS, steady=kind == "steady")
        for one in found:
            figures = (f"{one.best * 1e3:.1f}", f"{one.median * 1e3:.1f}")
            each = f"{one.microseconds_each:.1f}"
            print(row(one.size, one.nodes, kind, one.actions, *figures, each), flush=True)
        least, most = found[0], found[-1]
        growth = f"compute, {kind}: cost of one of {most.size:,} by that of one of {least.size:,}"
        whole = f"compute, {kind}: {most.size:,} processors, median"
        verdict.targets += [
            Target(growth, most.growth_from(least), _GROWTH_MAX),
            Target(whole, most.median, _COMPUTE_SECONDS_MAX, " s"),
        ]


# Cycles and heartbeats


def _live(arguments: argparse.Namespace, verdict: Verdict) -> None:
    with tempfile.TemporaryDirectory(prefix="dory-bench-") as name:
        folder = Path(name)
        with command.postgres(folder / "data") as url:
            described = world.make_world(arguments.processors)
            upgrade(url)
            asyncio.run(_seed(url, described))
            standin.write_books(folder, described.nodes.values())
            _cycles(arguments, folder, url, verdict)
            _heartbeats(arguments, folder, url, described, verdict)


async def _seed(url: str, described: world.World) -> None:
    connection: Any = await asyncpg.connect(url, timeout=10.0, command_timeout=60.0)
    try:
        for table, columns, rows in world.rows(described):
            await connection.copy_records_to_table(table, columns=columns.split(), records=rows)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


def _cycles(arguments: argparse.Namespace, folder: Path, url: str, verdict: Verdict) -> None:
    found = cycles.measure(folder, url, arguments.processors, arguments.samples)
    print(f"\ncycles over {found.processors:,} processors, with PostgreSQL")
    print(
        f"from nothing to all created: {found.created_seconds:.1f} s,"
        f" {found.processors / found.created_seconds:.0f} a second"
    )
    print(f"a full idle cycle: {_split(found.idle)}")
    p50, p99 = (percentile(found.reactions, share) for share in (0.5, 0.99))
    print(
        f"reaction, {len(found.reactions)} inserted rows among other changes:"
        f" p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, most {max(found.reactions) * 1e3:.0f} ms"
    )
    print(f"a cycle meanwhile: {_split(found.changing)}", flush=True)
    if found.lost:
        verdict.problems.append(f"{found.lost} inserted processors were never created")
    verdict.targets.append(
        Target(
            "reaction from a committed row to the create call, p99",
            p99,
            _REACTION_SECONDS_MAX,
            " s",
        )
    )


def _split(of: Sequence[cycles.Cycle]) -> str:
    """Where the time went: the medians of each part."""
    parts: dict[str, Callable[[cycles.Cycle], float]] = {
        "whole": lambda cycle: cycle.whole,
        "reading": lambda cycle: cycle.reading,
        "computing": lambda cycle: cycle.computing,
        "writing and showing": lambda cycle: cycle.writing,
        "the rest": lambda cycle: cycle.rest,
        "CPU of the process": lambda cycle: cycle.cpu,
    }
    said = [
        f"{name} {statistics.median(part(cycle) for cycle in of) * 1e3:.0f} ms"
        for name, part in parts.items()
    ]
    return f"{', '.join(said)} (medians of {len(of)})"


def _heartbeats(
    arguments: argparse.Namespace,
    folder: Path,
    url: str,
    described: world.World,
    verdict: Verdict,
) -> None:
    members = folder / "members"
    beats.write_members(
        members,
        [
            (key, described.edge_nodes[described.links[key]].name if key in described.links else "")
            for key in described.configs
        ],
    )
    port = servers.free_port()
    beating = beats.Beating(
        f"http://127.0.0.1:{port}",
        secrets.token_hex(16),
        members,
        folder / "beaten",
        arguments.connections,
        arguments.rate,
        arguments.seconds,
    )
    found = beside.measure(folder, url, beating, port, arguments.rounds)
    _print_heartbeats(arguments, found)
    p99 = statistics.median(one.latency_ms(0.99) for one in found.busy)
    verdict.targets += [
        Target("heartbeats beside cycles, p99, median of rounds", p99, _BEAT_MS_MAX, " ms"),
        Target(
            "p99 of heartbeats beside cycles by that without, median of rounds",
            statistics.median(found.ratios),
            _BEAT_RATIO_MAX,
        ),
    ]
    verdict.problems += _wrong(arguments, found)


def _print_heartbeats(arguments: argparse.Namespace, found: beside.Beside) -> None:
    print(
        f"\n{arguments.rate} heartbeats a second (open loop) over {arguments.connections}"
        f" connections, {arguments.rounds} rounds of {arguments.seconds} s each way"
    )
    row = "{:<18}{:>10}{:>10}{:>10}{:>10}{:>22}{:>12}{:>8}".format
    print(
        row(
            "",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "sent late p99, max",
            "generator",
            "cycles",
        )
    )
    for kind, rounds in (("without cycles", found.quiet), ("beside cycles", found.busy)):
        for one in rounds:
            late = f"{one.late_ms(0.99):.1f}, {one.late_ms(1.0):.1f} ms"
            figures = [one.latency_ms(share) for share in (0.5, 0.99, 0.999)]
            cpu = f"{one.beaten.cpu_share:.0%}"
            shown = [f"{ms:.1f}" for ms in (*figures, one.max_ms)]
            print(row(kind, *shown, late, cpu, one.cycles))
    print(
        f"p99 beside cycles by that without: {', '.join(f'{r:.2f}' for r in found.ratios)};"
        f" reactions meanwhile ({len(found.reactions)}):"
        f" p50 {percentile(found.reactions, 0.5) * 1e3:.0f} ms,"
        f" p99 {percentile(found.reactions, 0.99) * 1e3:.0f} ms",
        flush=True,
    )


def _wrong(arguments: argparse.Namespace, found: beside.Beside) -> list[str]:
    """What makes the figures worthless, or is wrong whatever they are."""
    problems = []
    for one in (*found.quiet, *found.busy):
        if one.beaten.lost:
            problems.append(f"{one.beaten.lost} heartbeats were not acknowledged")
        if len(one.beaten.latencies) != arguments.rate * arguments.seconds:
            problems.append(f"only {len(one.beaten.latencies)} heartbeats were answered")
    if any(one.cycles for one in found.quiet):
        problems.append("there were cycles in a round without them")
    if any(one.cycles < arguments.seconds / 2 for one in found.busy):
        problems.append("there were hardly any cycles to measure beside")
    if found.lost_reactions:
        problems.append(f"{found.lost_reactions} inserted processors were never created")
    return problems


if __name__ == "__main__":
    sys.exit(main())
