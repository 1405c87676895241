"""Fresh seeds until a million node-hours are simulated: `python -m dory_orchestrator.sim.soak`."""

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


def soak(node_hours: float = NODE_HOURS) -> int:
    """Returns the exit code: 1 as soon as a promise is broken."""
    first = secrets.randbelow(2**31)
    began_at = told_at = time.monotonic()
    print(f"seeds from {first} on, {node_hours:,.0f} node-hours", flush=True)  # noqa: T201
    faults: Counter[Fault] = Counter()
    done = 0.0
    count = int(node_hours / (_NODES * _HOURS)) + 1
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for outcome in pool.imap_unordered(_one, range(first, first + count)):
            if not outcome.is_kept:
                print(as_text(outcome))  # noqa: T201
                pool.terminate()
                return 1
            faults.update(outcome.faults)
            done += _NODES * outcome.simulated_seconds / 3600.0
            if time.monotonic() - told_at >= _TOLD_SECONDS or done >= node_hours:
                told_at = time.monotonic()
                _tell(done, faults, told_at - began_at)
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


def _tell(done: float, faults: Counter[Fault], seconds: float) -> None:
    print(  # noqa: T201
        f"{done:,.0f} node-hours, {sum(faults.values()):,} faults in {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(soak())
