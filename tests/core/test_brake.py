"""When many edge nodes look dead at once, nothing is moved (promise S3)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.world import a_node, an_id

from dory_orchestrator.core import brake, node_health
from dory_orchestrator.core.brake import BrakeReason, BrakeRecord, BrakeVerdict
from dory_orchestrator.core.model import Gap, Limits
from dory_orchestrator.core.node_health import (
    Answering,
    NodeFacts,
    NodeReason,
    NodeRecord,
    NodeState,
    NodeVerdict,
)

LIMITS = Limits()
WINDOW = LIMITS.brake_window_seconds
T = 1_000_000.0

NOTHING = BrakeRecord()

Fleet = dict[UUID, NodeVerdict]


def verdict(state: NodeState, reason: NodeReason, well_ago: float | None = 0.0) -> NodeVerdict:
    return NodeVerdict(state, reason, "", NodeRecord(state, reason, T), well_ago_seconds=well_ago)


def well() -> NodeVerdict:
    return verdict(NodeState.ONLINE, NodeReason.WELL)


def unready(well_ago: float | None = 0.0) -> NodeVerdict:
    return verdict(NodeState.SUSPECT, NodeReason.NOT_READY, well_ago)


def dead(well_ago: float | None = 0.0) -> NodeVerdict:
    return verdict(NodeState.OFFLINE, NodeReason.DEAD_NOT_READY, well_ago)


def silent(well_ago: float | None = 0.0) -> NodeVerdict:
    return verdict(NodeState.SUSPECT, NodeReason.SILENT, well_ago)


def undecided() -> NodeVerdict:
    return verdict(NodeState.SUSPECT, NodeReason.SILENCE_UNDECIDED)


def answering() -> NodeVerdict:
    return verdict(NodeState.ONLINE, NodeReason.SILENT_BUT_ANSWERING)


def decommissioned() -> NodeVerdict:
    return verdict(NodeState.DECOMMISSIONED, NodeReason.DECOMMISSIONED)


def fleet(*parts: tuple[int, NodeVerdict]) -> Fleet:
    verdicts = [verdict for count, verdict in parts for _ in range(count)]
    return {an_id(number): verdict for number, verdict in enumerate(verdicts)}


def judged(
    nodes: Fleet,
    record: BrakeRecord = NOTHING,
    *,
    now: float = T,
    moved_away: Iterable[UUID] = (),
) -> BrakeVerdict:
    return brake.judge(nodes, frozenset(moved_away), record, now=now, limits=LIMITS)


# On ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        pytest.param({}, None, id="no-nodes"),
        pytest.param(fleet((9, well())), None, id="all-well"),
        pytest.param(fleet((1, unready())), None, id="the-only-one"),
        pytest.param(fleet((1, silent())), None, id="the-only-one-silent"),
        pytest.param(fleet((2, unready())), None, id="two-of-two-not-ready"),
        pytest.param(fleet((2, dead())), None, id="two-of-two-dead"),
        pytest.param(fleet((2, silent())), BrakeReason.ALL_SILENT_BUT_READY, id="two-of-two"),
        pytest.param(fleet((1, silent()), (1, unready())), None, id="one-silent-one-not-ready"),
        pytest.param(fleet((1, silent()), (1, well())), None, id="one-of-two-silent"),
        pytest.param(
            fleet((1, silent()), (1, undecided())),
            BrakeReason.ALL_SILENT_BUT_READY,
            id="silent-and-not-asked",
        ),
        pytest.param(
            fleet((1, silent()), (4, answering())),
            BrakeReason.ALL_SILENT_BUT_READY,
            id="all-silent-though-some-answer",
        ),
        pytest.param(fleet((5, answering())), None, id="all-silent-but-nobody-suspect"),
        pytest.param(fleet((3, unready())), BrakeReason.MANY_SUSPECT, id="three-of-three"),
        pytest.param(fleet((3, unready()), (6, well())), None, id="a-third"),
        pytest.param(fleet((10, unready()), (10, well())), None, id="half"),
        pytest.param(fleet((54, unready()), (46, well())), None, id="just-below-the-share"),
        pytest.param(fleet((55, unready()), (45, well())), BrakeReason.MANY_SUSPECT, id="share"),
        pytest.param(fleet((11, dead()), (9, well())), BrakeReason.MANY_SUSPECT, id="dead-ones"),
        pytest.param(
            fleet((2, unready()), (1, dead()), (2, well())), BrakeReason.MANY_SUSPECT, id="mixed"
        ),
        pytest.param(fleet((2, unready()), (1, well())), None, id="share-but-two"),
        pytest.param(fleet((60, dead(9000)), (1, unready()), (39, well())), None, id="60-dead"),
        pytest.param(
            fleet((60, dead(9000)), (3, unready()), (2, well())),
            BrakeReason.MANY_SUSPECT,
            id="most-of-those-left",
        ),
        pytest.param(fleet((5, unready(None)), (1, well())), None, id="never-well"),
        pytest.param(fleet((5, unready(WINDOW)), (1, well())), "many_suspect", id="window"),
        pytest.param(fleet((5, unready(WINDOW + 1)), (1, well())), None, id="beyond-window"),
        pytest.param(
            fleet((3, unready()), (2, well()), (9, decommissioned())),
            BrakeReason.MANY_SUSPECT,
            id="decommissioned-ones-do-not-count",
        ),
    ],
)
def test_many_suspect_or_all_silent(nodes, reason):
    found = judged(nodes)
    assert found.engaged is (reason is not None)
    assert found.reason == (reason or BrakeReason.CLEAR)
    assert found.record.engaged_at == (T if found.engaged else None)
    assert found.wake_at is None
    assert f"{len(found.suspects)} of {found.counted}" in found.detail


def test_nodes_that_were_moved_away_from_do_not_count():
    nodes = fleet((6, dead()), (4, well()))
    assert judged(nodes).engaged
    gone = [an_id(number) for number in range(2)]
    found = judged(nodes, moved_away=gone)
    assert (len(found.suspects), found.counted) == (4, 8)
    assert not found.engaged
    # Nor do they make the fleet look better than it is.
    home = [an_id(number) for number in (8, 9)]
    assert judged(fleet((6, dead()), (4, well())), moved_away=home).counted == 8


# Off -----------------------------------------------------------------------------------------


def engaged_on(nodes: Fleet) -> BrakeRecord:
    found = judged(nodes)
    assert found.engaged
    assert found.record.population == nodes.keys()
    return found.record


@pytest.mark.parametrize(
    ("left", "engaged"),
    [
        pytest.param(6, True, id="as-before"),
        pytest.param(4, True, id="below-what-engages"),
        pytest.param(3, True, id="at-the-share"),
        pytest.param(2, False, id="below-the-share"),
        pytest.param(0, False, id="none"),
    ],
)
def test_once_on_it_stays_until_most_are_well_again(left, engaged):
    record = engaged_on(fleet((6, unready()), (4, well())))
    found = judged(fleet((left, unready()), (10 - left, well())), record, now=T + 10)
    assert found.engaged is engaged
    if engaged:
        assert found.record.engaged_at == T
        assert found.reason is BrakeReason.MANY_SUSPECT
    else:
        assert found.reason is BrakeReason.RELEASED
        assert found.record == NOTHING
        # It is said once; then it is clear.
        again = judged(fleet((left, unready()), (10 - left, well())), found.record, now=T + 11)
        assert again.reason is BrakeReason.CLEAR


def test_nodes_that_leave_the_window_do_not_release_it():
    nodes = fleet((6, dead()), (4, well()))
    record = engaged_on(nodes)
    much_later = fleet((6, dead(90_000)), (4, well()))
    found = judged(much_later, record, now=T + 90_000)
    assert found.engaged
    assert (len(found.suspects), found.counted) == (6, 10)


def test_new_nodes_that_are_well_do_not_release_it_and_new_suspects_join():
    record = engaged_on(fleet((3, unready()), (2, well())))
    grown = fleet((3, unready()), (2, well()), (95, well()))
    found = judged(grown, record, now=T + 10)
    assert found.engaged
    assert found.counted == 5

    more = grown | {an_id(50): unready(), an_id(51): unready(9000)}
    found = judged(more, found.record, now=T + 10)
    assert found.counted == 6
    assert an_id(50) in found.record.population
    assert an_id(51) not in found.record.population

    # The first ones recover, the new one does not: it counts on.
    recovered = fleet((5, well())) | {an_id(50): unready(9000)}
    found = judged(recovered, found.record, now=T + 9000)
    assert (len(found.suspects), found.counted) == (1, 6)
    assert not found.engaged


def test_nodes_that_are_gone_or_decommissioned_leave_the_population():
    record = engaged_on(fleet((6, unready()), (4, well())))
    nodes = fleet((6, unready()), (4, well()))
    for number in range(3):
        nodes[an_id(number)] = decommissioned()
    assert judged(nodes, record).counted == 7
    del nodes[an_id(3)]
    assert judged(nodes, record).engaged
    del nodes[an_id(4)]
    # One of five is left.
    assert judged(nodes, record).reason is BrakeReason.RELEASED
    assert judged({}, record).reason is BrakeReason.RELEASED


def test_deafness_that_turns_into_few_silent_ones_holds_until_they_are_few():
    record = engaged_on(fleet((4, silent())))
    found = judged(fleet((2, silent()), (2, well())), record, now=T + 10)
    assert found.engaged
    assert found.reason is BrakeReason.ALL_SILENT_BUT_READY
    assert not judged(fleet((1, silent()), (3, well())), record, now=T + 10).engaged


# Overridden ----------------------------------------------------------------------------------


def test_an_operator_overrides_it_for_a_stated_time():
    nodes = fleet((6, dead()), (3, well()))
    record = replace(engaged_on(nodes), override_until=T + 60)
    for second in (0, 30, 59.9):
        found = judged(nodes, record, now=T + second)
        assert not found.engaged
        assert found.reason is BrakeReason.OVERRIDDEN
        assert found.wake_at == T + 60
        assert found.record == record
        assert len(found.suspects) == 6
    found = judged(nodes, record, now=T + 60)
    assert found.engaged
    assert found.record == BrakeRecord(T + 60, BrakeReason.MANY_SUSPECT, frozenset(nodes))


def test_after_an_override_the_old_population_is_judged_anew_by_what_engages():
    nodes = fleet((6, dead(9000)), (3, well()))
    record = replace(engaged_on(fleet((6, dead()), (3, well()))), override_until=T + 9000)
    # They were well long ago, but nobody has moved away: the stated time is over.
    assert judged(nodes, record, now=T + 9000).engaged
    moved = [an_id(number) for number in range(3)]
    found = judged(nodes, record, now=T + 9000, moved_away=moved)
    assert (len(found.suspects), found.counted) == (3, 6)
    assert not found.engaged
    assert found.record == NOTHING


def test_an_override_also_keeps_it_from_engaging():
    record = BrakeRecord(override_until=T + 60)
    assert not judged(fleet((9, unready())), record).engaged
    assert judged(fleet((9, unready())), record, now=T + 60).engaged
    assert judged(fleet((9, well())), record, now=T + 60).record == NOTHING


# Both rules together, over time --------------------------------------------------------------


@dataclass
class Fleeting:
    """Nodes that beat every 10 s, each at its own time; some are cut off at T."""

    count: int
    cut: int
    silent_but_ready: bool = False
    not_ready_after: Callable[[int], float] = lambda number: 40.0 + number
    gaps: tuple[Gap, ...] = ()
    records: dict[UUID, NodeRecord] = field(default_factory=dict)
    record: BrakeRecord = NOTHING

    def facts(self, number: int, now: float) -> NodeFacts:
        is_cut = number < self.cut and now >= T
        phase = 10.0 * number / self.count
        until = T if is_cut else now
        beat = until - (until - phase) % 10
        noticed = T + self.not_ready_after(number)
        ready = not is_cut or self.silent_but_ready or now < noticed
        return NodeFacts(
            node=a_node("edge", ready=ready, ready_changed_at=T - 5000 if ready else noticed),
            status="online",
            last_heartbeat_at=beat,
            beating_since=T - 5000,
            answering=Answering.NO if is_cut else Answering.YES,
            record=self.records.get(an_id(number)),
        )

    def turn(self, now: float) -> tuple[BrakeVerdict, Fleet]:
        nodes = {
            an_id(number): node_health.judge(
                self.facts(number, now), now=now, gaps=self.gaps, limits=LIMITS
            )
            for number in range(self.count)
        }
        self.records = {key: found.record for key, found in nodes.items()}
        found = brake.judge(nodes, frozenset(), self.record, now=now, limits=LIMITS)
        self.record = found.record
        return found, nodes

    def deaths_unbraked(self, seconds: int) -> int:
        """How many are dead, at the most, while the brake is off."""
        most = 0
        for second in range(-10, seconds):
            found, nodes = self.turn(T + second)
            if not found.engaged:
                most = max(most, sum(node.is_dead for node in nodes.values()))
        return most


@pytest.mark.parametrize(
    ("cut", "silent_but_ready", "deaths"),
    [
        pytest.param(6, True, 0, id="two-thirds-silent"),
        pytest.param(6, False, 0, id="two-thirds"),
        pytest.param(9, True, 0, id="we-are-deaf"),
        pytest.param(9, False, 0, id="all"),
        pytest.param(3, True, 3, id="a-third-silent"),
        pytest.param(3, False, 3, id="a-third"),
        pytest.param(1, True, 1, id="one"),
    ],
)
@pytest.mark.parametrize(
    "gaps", [(), (Gap(T + 65, T + 900),), (Gap(T - 5, T + 700),), (Gap(T + 43.5, T + 800),)]
)
def test_a_cut_is_seen_whole_before_the_first_move(cut, silent_but_ready, deaths, gaps):
    world = Fleeting(9, cut, silent_but_ready, gaps=gaps)
    assert world.deaths_unbraked(1200) == deaths
    found, nodes = world.turn(T + 1200)
    assert sum(node.is_dead for node in nodes.values()) == cut
    assert found.engaged is (deaths == 0)


def test_a_cut_that_heals_lets_the_brake_go():
    world = Fleeting(9, 6)
    world.deaths_unbraked(200)
    assert world.record.engaged_at is not None
    world.cut = 0
    found, nodes = world.turn(T + 200)
    assert found.reason is BrakeReason.RELEASED
    assert not any(node.is_dead for node in nodes.values())


@settings(max_examples=25)
@given(
    count=st.integers(2, 12),
    cut_share=st.floats(0.55, 1),
    spread=st.floats(0, 25),
    silent_but_ready=st.booleans(),
)
def test_no_mass_cut_moves_anything(count, cut_share, spread, silent_but_ready):
    cut = max(3, -int(-count * cut_share // 1))
    if cut > count:
        return
    world = Fleeting(count, cut, silent_but_ready, lambda number: 40 + spread * number / count)
    assert world.deaths_unbraked(150) == 0


@given(st.lists(st.sampled_from([well(), unready(), silent(), dead(9000)]), max_size=12))
def test_the_same_fleet_is_judged_the_same_again(verdicts):
    nodes = {an_id(number): verdict for number, verdict in enumerate(verdicts)}
    first = judged(nodes)
    again = judged(nodes, first.record, now=T + 1)
    assert again.engaged is first.engaged
    assert again.reason is first.reason
    assert again.record == first.record


@pytest.mark.parametrize("last", [dead(), silent(), unready()])
def test_one_node_alone_does_not_keep_the_brake(last):
    three = judged(fleet((3, unready())))
    assert three.engaged
    two = judged(fleet((2, unready()), (1, well())), three.record)
    assert two.engaged
    one = judged(fleet((1, last), (2, well())), two.record)
    assert not one.engaged
    assert one.record == NOTHING
