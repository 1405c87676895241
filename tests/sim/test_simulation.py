"""The whole service on simulated time: faults by the thousand, and the promises hold."""

import json
import secrets
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.patience import patient

from dory_orchestrator.cli import main
from dory_orchestrator.sim.ground import Fault, Promise
from dory_orchestrator.sim.report import as_json, as_text
from dory_orchestrator.sim.scenarios import SCENARIOS, simulate
from dory_orchestrator.sim.simulation import LIMITS, Outcome, Setup
from dory_orchestrator.sim.soak import soak

FAULTS_MIN = 20_000
EACH_MIN = 500
SECONDS_MAX = patient(240.0)
SEEDS = Path(__file__).with_name("seeds.txt")

pytestmark = pytest.mark.timeout(60)


def fresh_seed() -> int:
    seed = secrets.randbelow(2**31)
    print(f"seed {seed}")  # noqa: T201 - told when a test fails
    return seed


def kept(setup: Setup) -> Outcome:
    """Run it; whoever breaks a promise is told of with the end of the timeline."""
    outcome = simulate(setup)
    assert outcome.is_kept, as_text(outcome)
    return outcome


def once_failed() -> list[tuple[str, int, float, float]]:
    """Lines of `scenario seed hours fault_seconds`."""
    lines = (line.split("#")[0].split() for line in SEEDS.read_text().splitlines())
    return [(one[0], int(one[1]), float(one[2]), float(one[3])) for one in lines if one]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_promise_is_kept_with_a_fixed_seed_and_a_fresh_one(scenario: str) -> None:
    for seed in (42, fresh_seed()):
        outcome = kept(Setup(scenario=scenario, seed=seed, fault_seconds=60.0))
        assert outcome.faults
        assert outcome.checks[Promise.RUNS_ONCE] == 1


@pytest.mark.parametrize(("scenario", "seed", "hours", "fault_seconds"), once_failed())
def test_a_seed_that_once_failed_does_not_any_more(
    scenario: str, seed: int, hours: float, fault_seconds: float
) -> None:
    kept(Setup(scenario=scenario, seed=seed, hours=hours, fault_seconds=fault_seconds))


def test_one_seed_gives_one_timeline_and_another_seed_another() -> None:
    first, second, other = (simulate(Setup(seed=seed, hours=0.5)) for seed in (7, 7, 8))
    assert json.dumps(as_json(first, verbose=True)) == json.dumps(as_json(second, verbose=True))
    assert first.lines != other.lines


def test_one_site_that_goes_dark_moves_and_comes_home() -> None:
    outcome = kept(Setup(scenario="partition", seed=42, fault_seconds=60.0))
    done = Counter(str(moved.kind) for moved in outcome.moves if moved.outcome == "done")
    assert done["failover"] >= 5
    assert done["failback"] >= 5
    assert any(line.kind == "shutdown" for line in outcome.lines)


@pytest.mark.timeout(patient(600))
@pytest.mark.real
def test_twenty_thousand_faults_of_every_kind_break_no_promise() -> None:
    faults: Counter[Fault] = Counter()
    checks: Counter[Promise] = Counter()
    moves, began_at = 0, time.monotonic()
    while sum(faults.values()) < FAULTS_MIN or min(faults[kind] for kind in Fault) < EACH_MIN:
        assert time.monotonic() - began_at < SECONDS_MAX, faults
        outcome = kept(Setup(seed=fresh_seed(), hours=1.0, fault_seconds=12.0))
        faults.update(outcome.faults)
        checks.update(outcome.checks)
        moves += len(outcome.moves)
    took = time.monotonic() - began_at
    print(f"{sum(faults.values())} faults in {took:.0f} s, {moves} moves: {dict(faults)}")  # noqa: T201
    assert all(checks[promise] > 0 for promise in Promise)


# It bites: broken on purpose, it fails ------------------------------------------------------


def broken_by(setup: Setup, seeds: int = 20) -> set[Promise]:
    """What the first seed breaks that breaks anything."""
    for seed in range(1, seeds + 1):
        broken = simulate(replace(setup, seed=seed)).broken
        if broken is not None:
            return {broken.promise}
    return set()


def test_it_sees_rash_limits_move_healthy_processors_when_we_do_not_hear() -> None:
    rash = replace(LIMITS, node_failure_grace_seconds=0.0, heartbeat_stale_seconds=1.0)
    setup = Setup(scenario="db-outage", limits=rash, stores_gaps=False, fault_seconds=30.0)
    assert Promise.NO_FALSE_MOVE in broken_by(setup)


def test_it_sees_a_store_that_grants_without_comparing() -> None:
    setup = Setup(scenario="restart", compares=False, fault_seconds=20.0)
    assert broken_by(setup, seeds=3) & {Promise.EPOCH_ONCE, Promise.ONE_OWNER}


def test_it_sees_a_service_that_forgets_its_gaps() -> None:
    """A brake that never comes on, and an outage that is longer than a node may be silent."""
    limits = replace(LIMITS, brake_share=2.0, brake_nodes_min=10_000)
    setup = Setup(seed=1, limits=limits, stores_gaps=False, fault_seconds=12.0)
    assert Promise.NO_FALSE_MOVE in broken_by(setup)


def test_it_sees_a_loss_that_is_stated_too_small() -> None:
    """By an orchestrator that believes that it takes checkpoints each second."""
    limits = replace(LIMITS, checkpoint_interval_seconds=1.0)
    setup = Setup(scenario="partition", limits=limits, fault_seconds=60.0)
    assert broken_by(setup) == {Promise.STATED_LOSS}


def test_it_sees_a_store_that_keeps_the_link_to_a_home_that_was_not_reached() -> None:
    setup = Setup(scenario="partition", keeps_links=True, fault_seconds=30.0)
    assert Promise.RUNS_ONCE in broken_by(setup)


# The command --------------------------------------------------------------------------------


def test_the_command_tells_the_timeline_the_moves_and_the_seed() -> None:
    done = CliRunner().invoke(main, ["simulate", "--scenario", "flapping", "--seed", "42"])
    assert done.exit_code == 0, done.output
    assert "seed 42" in done.output.splitlines()[0]
    for said in ("failover", "p99", "promises checked", "every promise was kept (seed 42)"):
        assert said in done.output


def test_the_command_tells_programs_the_same() -> None:
    call = ["simulate", "--scenario", "partition", "--seed", "42", "-o", "json"]
    told = json.loads(CliRunner().invoke(main, call).output)
    assert (told["seed"], told["kept"], told["broken"]) == (42, True, None)
    assert told["rto_seconds"]["failover"]["max"] > 0
    assert told["promises_checked"]["no_false_move"] > 0


def test_the_command_fails_with_the_seed_and_the_end_of_the_timeline() -> None:
    call = ["simulate", "--scenario", "restart", "--seed", "1", "--fault-every", "20"]
    call += ["--without", "compare-and-set"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 1
    assert "BROKEN with seed 1" in done.output


def test_a_soak_tells_which_seed_to_go_on_after(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak(node_hours=1.0, first=42) == 0
    begun, done = capsys.readouterr().out.splitlines()
    assert begun == "seeds from 42 on, 1 node-hours"
    assert done.endswith("up to seed 42")
