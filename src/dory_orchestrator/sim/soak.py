"""Fresh seeds until a million node-hours are simulated: `python -m dory_orchestrator.sim.soak`."""

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter

from dory_orchestrator.sim.ground import Fault
from dory_orchestrator.sim.report import as_text
from dory_orchestrator.sim.scenarios import simulate
from dory_orchestrator.sim.simulation import Outcome, Setup

NODE_HOURS = 1_000_000.0
_NODES = 20
_HOURS = 24.0
_FAULT_SECONDS = 600.0
_TOLD_SECONDS = 60.0


def soak(node_hours: float = NODE_HOURS, first: int | None = None) -> int:
    """Returns the exit code: 1 as soon as a promise is broken."""
    first = secrets.randbelow(2**31) if first is None else first
    began_at = told_at = time.monotonic()
    print(f"seeds from {first} on, {node_hours:,.0f} node-hours", flush=True)  # noqa: T201
    faults: Counter[Fault] = Counter()
    done = 0.0
    seeds = range(first, first + int(node_hours / (_NODES * _HOURS)) + 1)
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        # In order: who ends it can go on with the next seed.
        for seed, outcome in zip(seeds, pool.imap(_one, seeds), strict=True):
            if not outcome.is_kept:
                print(as_text(outcome))  # noqa: T201
                pool.terminate()
                return 1
            faults.update(outcome.faults)
            done += _NODES * outcome.simulated_seconds / 3600.0
            if time.monotonic() - told_at >= _TOLD_SECONDS or done >= node_hours:
                told_at = time.monotonic()
                _tell(seed, done, faults, told_at - began_at)
            if done >= node_hours:
                break
    return 0


def _one(seed: int) -> Outcome:
    setup = Setup(
        seed=seed,
        nodes=_NODES,
        processors=_NODES,
        hours=_HOURS,
        fault_seconds=_FAULT_SECONDS,
        keeps_lines=200,
    )
    return simulate(setup)


def _tell(seed: int, done: float, faults: Counter[Fault], seconds: float) -> None:
    print(  # noqa: T201
        f"{done:,.0f} node-hours, {sum(faults.values()):,} faults in {seconds:.0f} s,"
        f" up to seed {seed}",
        flush=True,
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-hours", type=float, default=NODE_HOURS)
    parser.add_argument("--first", type=int, help="the first seed, to go on with a run that ended")
    given = parser.parse_args()
    return soak(given.node_hours, given.first)


if __name__ == "__main__":
    sys.exit(main())
