"""`simulate`: the decisions of production, tried on a fleet that does not exist.

Exit codes: 0 every promise was kept, 1 one was broken, 2 the call is wrong.
"""

import secrets
import sys

import click

from dory_orchestrator.commands.showing import print_data
from dory_orchestrator.sim.report import as_json, as_text
from dory_orchestrator.sim.scenarios import SCENARIOS
from dory_orchestrator.sim.scenarios import simulate as run
from dory_orchestrator.sim.simulation import Setup

_FAILED = 1
_COMPARISON, _GAPS = "compare-and-set", "gaps"
_SEED_MAX = 2**31
_NODES_MAX, _PROCESSORS_MAX, _HOURS_MAX = 10_000, 100_000, 24.0 * 365


@click.command("simulate")
@click.option(
    "--nodes",
    type=click.IntRange(1, _NODES_MAX),
    default=8,
    show_default=True,
    help="How many edge nodes.",
)
@click.option(
    "--processors",
    type=click.IntRange(1, _PROCESSORS_MAX),
    help="How many.  [twice as many as nodes]",
)
@click.option("--seed", type=click.IntRange(0), help="Decides everything.  [a fresh one]")
@click.option(
    "--scenario",
    type=click.Choice(SCENARIOS),
    default="random",
    show_default=True,
    help="What befalls them.",
)
@click.option(
    "--hours",
    type=click.FloatRange(0.0, _HOURS_MAX, min_open=True),
    default=1.0,
    show_default=True,
    help="How long faults come. Then the fleet has to become well again.",
)
@click.option(
    "--fault-every",
    type=click.FloatRange(0.1),
    default=60.0,
    show_default=True,
    help="Mean time between two faults in seconds.",
)
@click.option(
    "--without",
    type=click.Choice([_COMPARISON, _GAPS]),
    multiple=True,
    help="Leave a safety out, to see a promise break.",
)
@click.option("--verbose", is_flag=True, help="Show every moment.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    help="How it is shown.  [text]",
)
def simulate_command(
    nodes: int,
    processors: int | None,
    seed: int | None,
    scenario: str,
    hours: float,
    fault_every: float,
    without: tuple[str, ...],
    verbose: bool,
    output: str,
) -> None:
    """Try the orchestrator's decisions on a simulated fleet, and check its promises.

    \b
    Examples:
      dory-orchestrator simulate --scenario site-outage --seed 42
      dory-orchestrator simulate --nodes 20 --hours 12 -o json
    """
    setup = Setup(
        nodes=nodes,
        processors=2 * nodes if processors is None else processors,
        seed=secrets.randbelow(_SEED_MAX) if seed is None else seed,
        scenario=scenario,
        hours=hours,
        fault_seconds=fault_every,
        compares=_COMPARISON not in without,
        stores_gaps=_GAPS not in without,
    )
    outcome = run(setup)
    if output == "text":
        click.echo(as_text(outcome, verbose=verbose))
    else:
        print_data(output, as_json(outcome, verbose=verbose))
    if not outcome.is_kept:
        sys.exit(_FAILED)
