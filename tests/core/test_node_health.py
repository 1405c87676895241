"""Silence that we caused is not death, and real deaths are found (promise S2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.world import a_node

from dory_orchestrator.core.model import Gap, Limits
from dory_orchestrator.core.node_health import (
    CLOCKS_DIFFER_SECONDS,
    Answering,
    NodeFacts,
    NodeReason,
    NodeRecord,
    NodeState,
    NodeVerdict,
    heard_seconds,
    heard_until,
    judge,
)

LIMITS = Limits()
STALE = LIMITS.heartbeat_stale_seconds
GRACE = LIMITS.node_failure_grace_seconds
STABLE = LIMITS.failback_stable_seconds
WINDOW = LIMITS.flapping_window_seconds
T = 1_000_000.0
"""The moment that things happen at."""

YES, NO, UNKNOWN = Answering.YES, Answering.NO, Answering.UNKNOWN
WELL = NodeRecord(
    NodeState.ONLINE, NodeReason.WELL, T - 9000, well_since=T - 9000, last_well_at=T - 1
)


def facts(**said: Any) -> NodeFacts:
    """A node that last beat at T, and was well. `ready_at` is when `ready` changed."""
    ready, ready_at = said.pop("ready", True), said.pop("ready_at", T - 9000)
    known: dict[str, Any] = {
        "node": a_node("edge-1", ready=ready, ready_changed_at=ready_at),
        "status": "online",
        "last_heartbeat_at": T,
        "beating_since": T - 9000,
        "answering": NO,
        "record": WELL,
    }
    return NodeFacts(**(known | said))


def not_ready(**said: Any) -> NodeFacts:
    """Not ready since T; its last beat is half a minute older."""
    return facts(**({"ready": False, "ready_at": T, "last_heartbeat_at": T - 30} | said))


def judged(known: NodeFacts, now: float, gaps: Sequence[Gap] = ()) -> NodeVerdict:
    return judge(known, now=now, gaps=gaps, limits=LIMITS)


def gap(began: float, ended: float) -> Gap:
    return Gap(T + began, T + ended)


@dataclass
class Watch:
    """One node over time; the record is carried from judgement to judgement."""

    record: NodeRecord | None = WELL
    gaps: tuple[Gap, ...] = ()

    def see(self, known: NodeFacts, now: float) -> NodeVerdict:
        verdict = judged(replace(known, record=self.record), now, self.gaps)
        self.record = verdict.record
        return verdict

    def died_at(self, known: NodeFacts, until: float) -> float | None:
        """Judge every second after T; when it is dead, in seconds after T."""
        for second in range(int(until) + 1):
            if self.see(known, T + second).is_dead:
                return second
        return None

    def fall(self, now: float) -> NodeVerdict:
        """It is not ready, and dies of it."""
        known = facts(ready=False, ready_at=now, last_heartbeat_at=now - 30)
        self.see(known, now)
        return self.see(known, now + GRACE)

    def come_back(self, now: float) -> NodeVerdict:
        return self.see(beating(now), now)


def beating(now: float) -> NodeFacts:
    return facts(last_heartbeat_at=now, answering=YES)


# The table ---------------------------------------------------------------------------------

STATES = {
    NodeReason.WELL: NodeState.ONLINE,
    NodeReason.SILENT_BUT_ANSWERING: NodeState.ONLINE,
    NodeReason.BEATING_THOUGH_NOT_READY: NodeState.ONLINE,
    NodeReason.NOT_READY_BUT_ANSWERING: NodeState.ONLINE,
    NodeReason.SILENCE_UNDECIDED: NodeState.SUSPECT,
    NodeReason.SILENT: NodeState.SUSPECT,
    NodeReason.NOT_READY: NodeState.SUSPECT,
    NodeReason.MISSING: NodeState.SUSPECT,
    NodeReason.NOT_IN_CLUSTER: NodeState.SUSPECT,
    NodeReason.DEAD_SILENT: NodeState.OFFLINE,
    NodeReason.DEAD_NOT_READY: NodeState.OFFLINE,
    NodeReason.DEAD_MISSING: NodeState.OFFLINE,
    NodeReason.DECOMMISSIONED: NodeState.DECOMMISSIONED,
}
LIVES = NodeReason.BEATING_THOUGH_NOT_READY
ANSWERS = NodeReason.NOT_READY_BUT_ANSWERING
READY, JUST_NOT, LONG_NOT, GONE = "ready", "just not ready", "long not ready", "gone"
BEATS, QUIET, SILENT, MUTE = "beats", "quiet", "silent long enough", "never beat"


@pytest.mark.parametrize(
    ("cluster", "voice", "reasons"),
    [
        # Of the three reasons: its pods answer the poller, do not, were not asked.
        (READY, BEATS, (NodeReason.WELL,) * 3),
        (
            READY,
            QUIET,
            (NodeReason.SILENT_BUT_ANSWERING, NodeReason.SILENT, NodeReason.SILENCE_UNDECIDED),
        ),
        (
            READY,
            SILENT,
            (NodeReason.SILENT_BUT_ANSWERING, NodeReason.DEAD_SILENT, NodeReason.SILENCE_UNDECIDED),
        ),
        (READY, MUTE, (NodeReason.WELL,) * 3),
        (JUST_NOT, BEATS, (LIVES,) * 3),
        (JUST_NOT, QUIET, (ANSWERS, NodeReason.NOT_READY, NodeReason.NOT_READY)),
        (JUST_NOT, SILENT, (ANSWERS, NodeReason.DEAD_NOT_READY, NodeReason.NOT_READY)),
        (JUST_NOT, MUTE, (ANSWERS, NodeReason.NOT_READY, NodeReason.NOT_READY)),
        (LONG_NOT, BEATS, (LIVES,) * 3),
        (LONG_NOT, QUIET, (ANSWERS, NodeReason.DEAD_NOT_READY, NodeReason.DEAD_NOT_READY)),
        (LONG_NOT, SILENT, (ANSWERS, NodeReason.DEAD_NOT_READY, NodeReason.DEAD_NOT_READY)),
        (LONG_NOT, MUTE, (ANSWERS, NodeReason.DEAD_NOT_READY, NodeReason.DEAD_NOT_READY)),
        (GONE, BEATS, (LIVES,) * 3),
        (GONE, QUIET, (ANSWERS, NodeReason.MISSING, NodeReason.MISSING)),
        (GONE, SILENT, (ANSWERS, NodeReason.DEAD_MISSING, NodeReason.MISSING)),
        (GONE, MUTE, (ANSWERS, NodeReason.MISSING, NodeReason.MISSING)),
    ],
)
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_ready_and_silence_and_poller(cluster, voice, reasons, asked):
    now = T
    age = {BEATS: 3.0, QUIET: STALE, SILENT: STALE + GRACE, MUTE: None}[voice]
    # The first two last less than the threshold: of a quiet node, no beat came since.
    since = {READY: 9000.0, JUST_NOT: 20.0, LONG_NOT: 45.0, GONE: 0.0}[cluster]
    said = {"node": None} if cluster == GONE else {}
    known = facts(
        ready=cluster == READY,
        ready_at=now - since,
        last_heartbeat_at=None if age is None else now - age,
        beating_since=None if age is None else now - 9000,
        answering=(YES, NO, UNKNOWN)[asked],
        **said,
    )
    verdict = judged(known, now)
    assert verdict.reason is reasons[asked]
    assert verdict.state is STATES[verdict.reason]
    assert verdict.is_dead is (verdict.state is NodeState.OFFLINE)
    assert verdict.is_suspect is (not verdict.is_well)
    assert verdict.is_deaf_sign is (cluster == READY and voice in (QUIET, SILENT))
    assert verdict.detail
    assert (verdict.record.suspect_since is None) is verdict.is_well
    assert (verdict.record.well_since is None) is verdict.is_suspect


@pytest.mark.parametrize("known", [facts(), not_ready(), facts(node=None), not_ready(record=None)])
def test_a_decommissioned_node_is_never_dead(known):
    verdict = judged(replace(known, status="decommissioned"), T + 10_000, [gap(9_999, 10_001)])
    assert verdict.reason is NodeReason.DECOMMISSIONED
    assert not verdict.is_dead
    assert not verdict.is_suspect
    assert not verdict.is_well
    assert verdict.wake_at is None


def test_a_node_that_comes_back_from_decommission_waits_the_whole_grace():
    watch = Watch()
    watch.see(replace(not_ready(), status="decommissioned"), T + 500)
    assert watch.see(not_ready(), T + 1000).record.suspect_since == T + 1000
    assert not watch.see(not_ready(), T + 1000 + GRACE - 0.1).is_dead
    assert watch.see(not_ready(), T + 1000 + GRACE).is_dead


# Boundaries --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "after", "reason"),
    [
        pytest.param(facts(), STALE - 0.1, NodeReason.WELL, id="not-yet-silent"),
        pytest.param(facts(), STALE, NodeReason.SILENT, id="silent-now"),
        pytest.param(facts(), STALE + 0.1, NodeReason.SILENT, id="silent"),
        pytest.param(facts(), STALE + GRACE - 0.1, NodeReason.SILENT, id="dead-soon"),
        pytest.param(facts(), STALE + GRACE, NodeReason.DEAD_SILENT, id="dead-now"),
        pytest.param(facts(), STALE + GRACE + 0.1, NodeReason.DEAD_SILENT, id="dead"),
        pytest.param(not_ready(), 0, NodeReason.NOT_READY, id="not-ready-now"),
        pytest.param(not_ready(), GRACE - 0.1, NodeReason.NOT_READY, id="not-ready"),
        pytest.param(not_ready(), GRACE, NodeReason.DEAD_NOT_READY, id="dead-not-ready-now"),
        pytest.param(not_ready(), GRACE + 0.1, NodeReason.DEAD_NOT_READY, id="dead-not-ready"),
        pytest.param(
            not_ready(beating_since=None, last_heartbeat_at=None),
            GRACE,
            NodeReason.DEAD_NOT_READY,
            id="dead-without-a-voice",
        ),
    ],
)
def test_just_before_at_and_just_after(known, after, reason):
    assert judged(known, T + after).reason is reason


@pytest.mark.parametrize(
    ("beat", "dies_after"),
    [
        pytest.param(-30.0, GRACE, id="long-before"),
        pytest.param(-CLOCKS_DIFFER_SECONDS, GRACE, id="clearly-before"),
        pytest.param(-CLOCKS_DIFFER_SECONDS + 1, STALE + GRACE - 4, id="perhaps-before"),
        pytest.param(0.0, STALE + GRACE, id="at-the-same-moment"),
        pytest.param(1.0, STALE + GRACE + 1, id="just-after"),
        pytest.param(20.0, STALE + GRACE + 20, id="after"),
    ],
)
def test_a_beat_of_about_the_time_it_became_not_ready_leads_to_waiting(beat, dies_after):
    """When nobody answers the poller, and when that is not known."""
    for answering in (NO, UNKNOWN):
        known = not_ready(last_heartbeat_at=T + beat, answering=answering)
        assert not judged(known, T + dies_after - 0.1).is_dead
        assert judged(known, T + dies_after).is_dead


def test_not_ready_but_beating_lives_until_it_stops():
    watch = Watch()
    for second in range(0, 600, 10):
        verdict = watch.see(not_ready(last_heartbeat_at=T + second), T + second + 9)
        assert verdict.reason is NodeReason.BEATING_THOUGH_NOT_READY
        assert verdict.wake_at == T + second + STALE
        assert verdict.failback_at is None
    last = not_ready(last_heartbeat_at=T + 590)
    assert watch.see(last, T + 590 + STALE - 0.1).is_well
    assert watch.see(last, T + 590 + STALE).reason is NodeReason.NOT_READY
    assert not watch.see(last, T + 590 + STALE + GRACE - 0.1).is_dead
    assert watch.see(last, T + 590 + STALE + GRACE).is_dead


REMOVED: dict[str, Any] = {"node": None, "pods_removed": True}


def test_a_node_that_is_gone_with_its_pods_is_dead_at_once():
    """Also when it has beaten until now."""
    watch = Watch()
    there = facts(node=None, last_heartbeat_at=T + 9)
    assert watch.see(there, T + 10).reason is NodeReason.BEATING_THOUGH_NOT_READY
    verdict = watch.see(replace(there, pods_removed=True), T + 11)
    assert verdict.is_dead
    assert verdict.reason is NodeReason.DEAD_MISSING
    assert verdict.record.falls == (T + 11,)
    assert verdict.last_alive_at == T + 9
    assert watch.see(replace(there, pods_removed=True), T + 50).is_dead
    # Back in the cluster it is not ready until it beats, or until somebody calls it so.
    assert watch.see(facts(last_heartbeat_at=T + 60), T + 61).is_well


def test_one_that_beats_on_without_its_pods_lives_again_and_does_not_die_of_that_twice():
    watch = Watch()
    verdict = watch.see(facts(**REMOVED), T + 10)
    assert verdict.is_dead
    for second in range(12, 600, 10):
        verdict = watch.see(facts(last_heartbeat_at=T + second, **REMOVED), T + second + 9)
        assert verdict.reason is NodeReason.BEATING_THOUGH_NOT_READY
    assert verdict.record.falls == (T + 10,)


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(facts(pods_removed=True), id="in-the-cluster"),
        pytest.param(facts(node=None), id="with-its-pods"),
        pytest.param(facts(record=None, **REMOVED), id="never-there"),
    ],
)
def test_one_that_may_come_back_is_not_dead_for_that(known):
    assert not judged(known, T + 10).is_dead


def test_while_we_do_not_hear_nobody_dies_of_being_gone():
    assert judged(facts(**REMOVED), T + 10, [gap(5, 15)]).reason is NodeReason.UNHEARD


def test_silence_counts_from_when_the_pod_was_ready_if_that_is_later():
    known = facts(beating_since=T + 40)
    assert judged(known, T + 40 + STALE - 0.1).is_well
    assert judged(known, T + 40 + STALE).reason is NodeReason.SILENT


def test_not_ready_without_a_known_moment_counts_from_when_we_see_it():
    watch = Watch()
    known = not_ready(ready_at=None, answering=UNKNOWN)
    assert watch.see(known, T + 100).record.suspect_since == T + 100
    assert not watch.see(known, T + 100 + GRACE - 0.1).is_dead
    assert watch.see(known, T + 100 + GRACE).is_dead
    assert watch.see(known, T + 500).is_dead
    # A beat after we saw it is a sign of life.
    assert watch.see(replace(known, last_heartbeat_at=T + 501), T + 502).is_well


def test_a_node_silent_before_it_was_not_ready_stays_dead():
    """The cluster's finding comes late; it does not begin the grace anew."""
    watch = Watch()
    assert watch.see(facts(), T + 100).reason is NodeReason.DEAD_SILENT
    late = not_ready(ready_at=T + 101, last_heartbeat_at=T)
    assert watch.see(late, T + 102).reason is NodeReason.DEAD_NOT_READY
    assert len(watch.see(late, T + 200).record.falls) == 1


def test_silence_is_dead_only_after_its_pods_did_not_answer_for_the_whole_grace():
    watch = Watch()
    assert watch.see(facts(answering=YES), T + 300).reason is NodeReason.SILENT_BUT_ANSWERING
    assert watch.see(facts(answering=NO), T + 310).record.suspect_since == T + 310
    assert not watch.see(facts(answering=NO), T + 310 + GRACE - 0.1).is_dead
    assert watch.see(facts(answering=NO), T + 310 + GRACE).is_dead


def test_undecided_silence_never_kills_but_its_time_counts():
    watch = Watch()
    assert watch.died_at(facts(answering=UNKNOWN), 1000) is None
    assert watch.see(facts(answering=NO), T + 1001).is_dead


def test_readiness_that_comes_and_goes_does_not_shorten_the_silence():
    watch = Watch()
    watch.see(not_ready(ready_at=T + 31, last_heartbeat_at=T), T + 45)
    watch.see(facts(answering=UNKNOWN), T + STALE)
    assert not watch.see(facts(), T + STALE + GRACE - 0.1).is_dead
    assert watch.see(facts(), T + STALE + GRACE).is_dead


# Nodes that are not in the cluster -----------------------------------------------------------


def test_a_node_that_vanished_dies_after_the_grace():
    watch = Watch()
    gone = facts(node=None, beating_since=None)
    assert watch.see(gone, T + 20).record.suspect_since == T + 20
    assert not watch.see(gone, T + 20 + GRACE - 0.1).is_dead
    assert watch.see(gone, T + 20 + GRACE).reason is NodeReason.DEAD_MISSING
    assert watch.see(gone, T + 500).is_dead


def test_the_grace_of_a_silent_node_that_vanishes_counts_from_then():
    watch = Watch()
    watch.see(facts(answering=UNKNOWN), T + 300)
    gone = facts(node=None, beating_since=None)
    assert watch.see(gone, T + 310).reason is NodeReason.MISSING
    assert not watch.see(gone, T + 310 + GRACE - 0.1).is_dead
    assert watch.see(gone, T + 310 + GRACE).is_dead


def test_a_dead_node_that_vanishes_stays_dead():
    watch = Watch()
    watch.see(not_ready(), T + GRACE)
    assert (
        watch.see(replace(not_ready(), node=None), T + GRACE + 1).reason is NodeReason.DEAD_MISSING
    )


def test_a_node_that_vanished_but_beats_lives():
    watch = Watch()
    for second in range(300):
        beat = T + second - second % 10
        verdict = watch.see(facts(node=None, last_heartbeat_at=beat), T + second)
        assert not verdict.is_dead
        assert verdict.reason is NodeReason.BEATING_THOUGH_NOT_READY


@pytest.mark.parametrize("beat", [None, T])
def test_a_node_that_the_cluster_never_had_is_not_dead(beat):
    watch = Watch(record=None)
    known = facts(node=None, beating_since=None, last_heartbeat_at=beat)
    for second in (0, 40, 10_000):
        verdict = watch.see(known, T + second)
        assert verdict.reason is NodeReason.NOT_IN_CLUSTER
        assert verdict.is_suspect
        assert not verdict.is_dead
        assert verdict.record.last_well_at is None
    assert watch.come_back(T + 10_001).state is NodeState.ONLINE


# Our own gaps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "gaps", "dies_after"),
    [
        pytest.param(facts(), [], 90, id="silent"),
        pytest.param(facts(), [gap(89, 689)], 690, id="silent-before-our-outage"),
        pytest.param(facts(), [gap(90, 690)], 691, id="silent-long-enough-as-it-began"),
        pytest.param(facts(), [gap(0, 600)], 690, id="not-heard-at-all"),
        pytest.param(facts(), [gap(5, 605)], 690, id="silent-for-5-s-before"),
        pytest.param(facts(), [gap(10, 20), gap(30, 40), gap(50, 60)], 120, id="three-outages"),
        pytest.param(facts(), [gap(10, 30), gap(20, 40), gap(25, 35)], 120, id="overlapping"),
        pytest.param(facts(), [gap(20, 30), gap(10, 20)], 110, id="touching-and-unsorted"),
        pytest.param(facts(), [gap(-500, -400)], 90, id="long-past"),
        pytest.param(facts(), [gap(2000, 3000)], 90, id="to-come"),
        pytest.param(facts(), [gap(40, 20)], 90, id="ended-before-it-began"),
        pytest.param(facts(), [gap(10, 3610)], 3690, id="clock-step-of-an-hour"),
        pytest.param(not_ready(), [], 30, id="not-ready"),
        pytest.param(not_ready(), [gap(29, 629)], 630, id="not-ready-before-our-outage"),
        pytest.param(not_ready(), [gap(-10, 600)], 630, id="not-ready-in-our-outage"),
        pytest.param(not_ready(), [gap(5, 10), gap(15, 20), gap(25, 30)], 45, id="three-in-grace"),
    ],
)
def test_exactly_our_own_gap_is_forgiven(known, gaps, dies_after):
    """At the end of a gap we may still be deaf: a death is found in the second after it."""
    assert Watch(gaps=tuple(gaps)).died_at(known, 4000) == dies_after


def test_no_node_dies_in_a_gap_and_each_keeps_its_state():
    watch = Watch(gaps=(gap(80, 680),))
    suspect = watch.see(facts(), T + 70)
    for second in (80, 200, 680):
        verdict = watch.see(facts(), T + second)
        assert (verdict.state, verdict.reason) == (NodeState.SUSPECT, NodeReason.UNHEARD)
        assert verdict.record == suspect.record
        assert not verdict.is_dead
        assert verdict.failback_at is None
    assert watch.see(facts(), T + 80).wake_at == T + 680
    assert watch.see(facts(), T + 690.0).is_dead


def test_an_end_that_is_not_known_wakes_nobody():
    verdict = judged(facts(), T + 100, [Gap(T, math.inf)])
    assert verdict.reason is NodeReason.UNHEARD
    assert verdict.wake_at is None


def test_a_dead_node_is_still_offline_in_a_gap_but_nothing_begins_for_it():
    watch = Watch(gaps=(gap(200, 300),))
    assert watch.see(not_ready(), T + 100).is_dead
    verdict = watch.see(not_ready(), T + 250)
    assert verdict.state is NodeState.OFFLINE
    assert not verdict.is_dead
    after = watch.see(not_ready(), T + 301)
    assert after.is_dead
    assert after.record.falls == (T + 100,)


@pytest.mark.parametrize(("ready", "state"), [(True, NodeState.ONLINE), (False, NodeState.SUSPECT)])
def test_a_node_first_seen_in_a_gap_is_judged_after_it(ready, state):
    watch = Watch(record=None, gaps=(gap(-10, 10),))
    known = facts(ready=ready, ready_at=T - 5000, last_heartbeat_at=T - 5000)
    assert watch.see(known, T).state is state
    assert watch.see(known, T + 11).record.suspect_since == T + 11
    assert not watch.see(known, T + 11 + GRACE - 0.1).is_dead
    assert watch.see(known, T + 11 + GRACE).is_dead


@pytest.mark.parametrize("back", [1.0, 3600.0, 1e9])
@pytest.mark.parametrize("known", [facts(), not_ready(), facts(node=None, beating_since=None)])
def test_a_clock_that_is_set_back_kills_nobody(known, back):
    watch = Watch()
    watch.see(known, T + 20)
    assert not watch.see(known, T + 20 - back).is_dead
    assert not watch.see(known, T + 29).is_dead


def test_a_cluster_whose_clock_is_ahead_makes_us_wait():
    watch = Watch()
    ahead = not_ready(ready_at=T + 4)
    assert watch.see(ahead, T).record.suspect_since == T
    assert not watch.see(ahead, T + 4 + GRACE - 0.1).is_dead
    assert watch.see(ahead, T + 4 + GRACE).is_dead


# Changes of the leader ------------------------------------------------------------------------


@pytest.mark.parametrize("known", [facts(), not_ready()])
def test_a_new_leader_that_has_the_record_goes_on(known):
    watch = Watch()
    began = watch.see(known, T + STALE).record.suspect_since
    again = Watch(record=watch.record).see(replace(known, answering=UNKNOWN), T + STALE + 10)
    assert again.record.suspect_since == began
    assert Watch(record=again.record).see(known, T + STALE + GRACE).is_dead


@pytest.mark.parametrize("known", [facts(), not_ready()])
def test_without_a_record_a_node_is_suspect_from_now_on(known):
    watch = Watch(record=None)
    first = watch.see(known, T + 5000)
    assert first.state is NodeState.SUSPECT
    assert first.wake_at == T + 5000 + GRACE
    assert not watch.see(known, T + 5000 + GRACE - 0.1).is_dead
    assert watch.see(known, T + 5000 + GRACE).is_dead


def test_without_a_record_a_node_that_beat_was_well_until_its_trouble():
    assert judged(facts(record=None), T + 100).record.last_well_at == T + STALE
    assert judged(not_ready(record=None), T + 100).record.last_well_at == T
    never = not_ready(record=None, last_heartbeat_at=None, beating_since=None)
    assert judged(never, T + 100).record.last_well_at is None


def test_a_death_that_a_new_leader_doubts_for_a_while_is_one_fall():
    watch = Watch()
    assert watch.see(facts(), T + 100).is_dead
    doubt = watch.see(facts(answering=UNKNOWN), T + 5000)
    assert doubt.reason is NodeReason.SILENCE_UNDECIDED
    assert not doubt.is_dead
    assert watch.see(facts(), T + 5010).record.falls == (T + 100,)


# Health and flapping --------------------------------------------------------------------------


def test_a_node_that_never_fell_takes_its_processors_at_once():
    first = Watch(record=None).come_back(T)
    assert first.state is NodeState.ONLINE
    assert first.failback_at == T
    blip = Watch()
    blip.see(not_ready(), T + 10)
    assert blip.come_back(T + 20).failback_at == T + 20
    assert blip.come_back(T + 21).failback_at == T + 20


def test_after_a_fall_it_is_recovering_until_it_was_well_for_long_enough():
    watch = Watch()
    assert watch.fall(T).record.falls == (T + GRACE,)
    back = watch.come_back(T + 100)
    assert (back.state, back.reason) == (NodeState.RECOVERING, NodeReason.STABILISING)
    assert back.failback_at == T + 100 + STABLE
    before = watch.come_back(T + 100 + STABLE - 0.1)
    assert before.state is NodeState.RECOVERING
    assert before.wake_at == T + 100 + STABLE
    at = watch.come_back(T + 100 + STABLE)
    assert (at.state, at.reason) == (NodeState.ONLINE, NodeReason.WELL)
    assert at.failback_at == T + 100 + STABLE


def test_each_fall_doubles_the_wait_up_to_its_most():
    watch, now, waits = Watch(), T, []
    for _ in range(7):
        watch.fall(now)
        back = watch.come_back(now + 60)
        assert back.failback_at is not None
        waits.append(back.failback_at - (now + 60))
        assert back.state is (
            NodeState.RECOVERING if len(back.record.falls) == 1 else NodeState.QUARANTINED
        )
        now += 100
    assert waits == [120, 240, 480, 960, 1800, 1800, 1800]


def test_falls_are_forgotten_after_the_window():
    watch = Watch()
    watch.fall(T)
    watch.come_back(T + 60)
    watch.come_back(T + 60 + STABLE)
    fell = T + GRACE
    assert watch.come_back(fell + WINDOW - 0.1).record.falls == (fell,)
    assert watch.come_back(fell + WINDOW).record.falls == ()
    later = fell + WINDOW + 100
    assert watch.fall(later).record.falls == (later + GRACE,)
    assert watch.come_back(later + 60).state is NodeState.RECOVERING


def test_a_node_that_was_dead_for_longer_than_the_window_still_waits():
    watch = Watch()
    watch.fall(T)
    assert watch.see(not_ready(), T + 3 * WINDOW).is_dead
    back = watch.come_back(T + 3 * WINDOW + 1)
    assert back.state is NodeState.RECOVERING
    assert back.failback_at == T + 3 * WINDOW + 1 + STABLE


def test_only_heard_time_proves_health():
    watch = Watch(gaps=(gap(150, 450),))
    watch.fall(T)
    watch.come_back(T + 100)
    assert watch.come_back(T + 100 + STABLE + 299).state is NodeState.RECOVERING
    assert watch.come_back(T + 100 + STABLE + 300).state is NodeState.ONLINE


def test_trouble_in_between_begins_the_wait_anew():
    watch = Watch()
    watch.fall(T)
    watch.come_back(T + 100)
    watch.see(facts(ready=False, ready_at=T + 150, last_heartbeat_at=T + 140), T + 151)
    assert watch.come_back(T + 160).failback_at == T + 160 + STABLE
    unready = facts(ready=False, ready_at=T + 170, last_heartbeat_at=T + 175)
    held = watch.see(unready, T + 176)
    assert (held.state, held.failback_at) == (NodeState.RECOVERING, None)
    assert watch.come_back(T + 200).failback_at == T + 176 + STABLE


# What a verdict tells -------------------------------------------------------------------------


def test_the_last_sign_of_life():
    assert judged(facts(), T + 10).last_alive_at == T + 10
    assert judged(facts(), T + 100).last_alive_at == T
    assert judged(not_ready(), T + 100).last_alive_at == T - 30
    mute = not_ready(beating_since=None, last_heartbeat_at=None)
    assert judged(mute, T + 100).last_alive_at == T
    assert judged(replace(mute, record=None), T + 100).last_alive_at is None


def test_a_node_was_last_well_when_its_trouble_began():
    watch = Watch()
    assert watch.see(facts(), T + 10).record.last_well_at == T + 10
    for second in (STALE, STALE + GRACE, 5000):
        verdict = watch.see(facts(), T + second)
        assert verdict.record.last_well_at == T + STALE
        assert verdict.well_ago_seconds == second - STALE


def test_how_long_ago_it_was_well_is_counted_in_hearing():
    watch = Watch(gaps=(gap(20, 1020),))
    assert watch.see(not_ready(), T + 10).well_ago_seconds == 10
    assert watch.see(not_ready(), T + 520).well_ago_seconds == 20
    assert watch.see(not_ready(), T + 1030).well_ago_seconds == 30
    in_it = judged(not_ready(ready_at=T + 500), T + 1030, [gap(20, 1020)])
    assert in_it.well_ago_seconds == 10
    assert watch.come_back(T + 1040).well_ago_seconds == 0
    assert judged(not_ready(record=None, last_heartbeat_at=None), T).well_ago_seconds is None


@pytest.mark.parametrize("known", [facts(), not_ready(), not_ready(last_heartbeat_at=T + 3)])
@pytest.mark.parametrize("gaps", [(), (gap(10, 25), gap(61, 71.5))])
def test_waking_when_told_is_enough(known, gaps):
    """Who judges only then finds the death in the same moment as who judges every second."""
    watch, now, seen = Watch(gaps=gaps), T + 4, []
    while (verdict := watch.see(known, now)).wake_at is not None:
        assert verdict.wake_at > now
        now = verdict.wake_at
        # At the end of a gap we may still be deaf.
        now += 0.001 if any(now == gap.ended_at for gap in gaps) else 0
        seen.append(verdict.state)
    assert verdict.is_dead
    assert len(seen) < 10
    assert Watch(gaps=gaps).died_at(known, 300) == math.ceil(now - T)


def test_since_is_when_state_and_reason_became_what_they_are():
    watch = Watch()
    assert watch.see(facts(), T + 70).record.since == T + 70
    assert watch.see(facts(), T + 80).record.since == T + 70
    assert watch.see(facts(), T + 95).record.since == T + 95


# Whatever happens -----------------------------------------------------------------------------

moments = st.integers(-300, 300).map(lambda second: T + second)
some_gaps = st.lists(st.builds(Gap, moments, moments), max_size=5).map(tuple)
records = st.one_of(
    st.none(),
    st.builds(
        NodeRecord,
        state=st.sampled_from(NodeState),
        reason=st.sampled_from(NodeReason),
        since=moments,
        suspect_since=st.none() | moments,
        well_since=st.none() | moments,
        last_well_at=st.none() | moments,
        falls=st.lists(moments, max_size=3).map(lambda falls: tuple(sorted(falls))),
    ),
)
some_nodes = st.none() | st.builds(
    lambda ready, at: a_node("edge-1", ready=ready, ready_changed_at=at),
    st.booleans(),
    st.none() | moments,
)
some_facts = st.builds(
    NodeFacts,
    node=some_nodes,
    status=st.sampled_from(["online", "offline", "decommissioned"]),
    last_heartbeat_at=st.none() | moments,
    beating_since=st.none() | moments,
    answering=st.sampled_from(Answering),
    record=records,
)


DEAD = {NodeReason.DEAD_MISSING, NodeReason.DEAD_NOT_READY, NodeReason.DEAD_SILENT}


@given(some_facts, moments, some_gaps)
def test_a_dead_node_has_evidence(known, now, gaps):
    if not judged(known, now, gaps).is_dead:
        return
    assert known.status != "decommissioned"
    assert not any(gap.began_at <= now <= gap.ended_at for gap in gaps)
    assert known.record is not None
    if known.record.state is NodeState.OFFLINE and known.record.reason in DEAD:
        # The evidence was there when it died. It stays dead while it is in trouble.
        alive = replace(known.record, state=NodeState.ONLINE, reason=NodeReason.WELL)
        assert judged(replace(known, record=alive), now, gaps).is_suspect
        return
    heard = [at for at in (known.last_heartbeat_at, known.beating_since) if at is not None]
    silence = heard_seconds(max(heard, default=-math.inf), now, gaps)
    if known.node is not None and known.node.ready:
        assert known.answering is NO
        assert known.beating_since is not None
        assert silence >= STALE + GRACE
        return
    changed = known.node.ready_changed_at if known.node else None
    if changed is not None:
        assert heard_seconds(changed, now, gaps) >= GRACE or silence >= STALE + GRACE
        if known.last_heartbeat_at is not None and known.last_heartbeat_at >= changed:
            assert silence >= STALE + GRACE
    if known.record.suspect_since is not None:
        assert heard_seconds(known.record.suspect_since, now, gaps) >= GRACE


@given(some_facts, moments, some_gaps, st.builds(Gap, moments, moments))
def test_a_further_gap_makes_no_node_dead(known, now, gaps, another):
    if not judged(known, now, gaps).is_dead:
        assert not judged(known, now, (*gaps, another)).is_dead


@given(some_facts, moments, some_gaps)
def test_judging_again_changes_nothing(known, now, gaps):
    # The second verdict: the first may find a record that no judgement leaves behind.
    record = judged(known, now, gaps).record
    first = judged(replace(known, record=record), now, gaps)
    again = judged(replace(known, record=first.record), now, gaps)
    assert again == first


@given(some_facts, moments, moments, some_gaps)
def test_a_node_in_unbroken_trouble_keeps_its_beginning(known, now, later, gaps):
    first = judged(known, now, gaps)
    if first.record.suspect_since is None or later < now:
        return
    second = judged(replace(known, record=first.record), later, gaps)
    assert second.record.suspect_since in (first.record.suspect_since, None)


@given(moments, moments, some_gaps, st.builds(Gap, moments, moments))
def test_hearing_is_within_the_span_and_shrinks_with_gaps(since, until, gaps, another):
    heard = heard_seconds(since, until, gaps)
    assert 0 <= heard <= max(0, until - since)
    assert heard_seconds(since, until, (*gaps, another)) <= heard
    assert heard_seconds(since, until, (*gaps, *gaps)) == heard
    deaf = sum(
        any(gap.began_at <= second < gap.ended_at for gap in gaps)
        for second in range(int(since), int(until))
    )
    assert heard == max(0, until - since) - deaf


@given(moments, moments, moments, some_gaps)
def test_hearing_adds_up(one, two, three, gaps):
    first, second, third = sorted([one, two, three])
    parts = heard_seconds(first, second, gaps) + heard_seconds(second, third, gaps)
    assert heard_seconds(first, third, gaps) == parts


@given(moments, st.integers(1, 200), some_gaps)
def test_heard_until_is_the_first_moment_at_which_so_much_was_heard(since, seconds, gaps):
    until = heard_until(since, seconds, gaps)
    assert heard_seconds(since, until, gaps) == seconds
    assert heard_seconds(since, until - 0.5, gaps) == seconds - 0.5


def test_nothing_is_heard_after_a_gap_without_end():
    assert heard_until(T, 10, [Gap(T + 5, math.inf)]) == math.inf
    assert heard_seconds(T, T + 1000, [Gap(T + 5, math.inf)]) == 5
