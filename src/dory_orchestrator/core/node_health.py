"""Is an edge node alive? Promise S2: silence that we caused is not death.

A node is suspect before it is dead, for the whole grace, and only time in which we could hear
counts. Moments are Unix seconds by the database's clock, except when a node's `ready` changed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from dory_orchestrator.core.backoff import Backoff
from dory_orchestrator.core.model import Gap, Limits, Node
from dory_orchestrator.core.why import Rule, Scalar, Trail, Why

CLOCKS_DIFFER_SECONDS = 5.0
"""How far the cluster's clock may be from the database's."""


class NodeState(StrEnum):
    """An edge node's state in one word."""

    ONLINE = "online"
    SUSPECT = "suspect"
    OFFLINE = "offline"
    RECOVERING = "recovering"
    QUARANTINED = "quarantined"
    DECOMMISSIONED = "decommissioned"


class NodeReason(StrEnum):
    """Why an edge node is in its state."""

    DECOMMISSIONED = "decommissioned"
    UNHEARD = "unheard"
    # It is in trouble.
    NOT_IN_CLUSTER = "not_in_cluster"
    MISSING = "missing"
    NOT_READY = "not_ready"
    SILENT = "silent"
    SILENCE_UNDECIDED = "silence_undecided"
    # It is dead.
    DEAD_MISSING = "dead_missing"
    DEAD_NOT_READY = "dead_not_ready"
    DEAD_SILENT = "dead_silent"
    # It lives.
    BEATING_THOUGH_NOT_READY = "beating_though_not_ready"
    NOT_READY_BUT_ANSWERING = "not_ready_but_answering"
    SILENT_BUT_ANSWERING = "silent_but_answering"
    DRILL = "drill"
    STABILISING = "stabilising"
    FLAPPING = "flapping"
    WELL = "well"


class Answering(StrEnum):
    """Do a node's pods answer our own health poller? Unknown: none was asked lately."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


WELL_STATES = frozenset({NodeState.ONLINE, NodeState.RECOVERING, NodeState.QUARANTINED})
SUSPECT_STATES = frozenset({NodeState.SUSPECT, NodeState.OFFLINE})
SILENT_BUT_READY = frozenset(
    {
        NodeReason.SILENT,
        NodeReason.SILENCE_UNDECIDED,
        NodeReason.DEAD_SILENT,
        NodeReason.SILENT_BUT_ANSWERING,
    }
)
_TROUBLE_OF = {
    NodeReason.DEAD_MISSING: NodeReason.MISSING,
    NodeReason.DEAD_NOT_READY: NodeReason.NOT_READY,
    NodeReason.DEAD_SILENT: NodeReason.SILENT,
}
_DEAD = frozenset(_TROUBLE_OF)
_LIVES_THOUGH_NOT_READY = frozenset(
    {NodeReason.BEATING_THOUGH_NOT_READY, NodeReason.NOT_READY_BUT_ANSWERING}
)
_SEEN_NOT_READY = _LIVES_THOUGH_NOT_READY | {NodeReason.MISSING, NodeReason.NOT_READY}


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What is stored of a node between cycles.

    `since` is when state and reason became what they are, `suspect_since` the beginning of the
    present trouble, `well_since` that of the present health. `last_well_at` moves with every
    judgement of a node that is well: a record that differs in nothing else need not be stored.
    `falls` are the moments it became offline, the oldest first.
    """

    state: NodeState
    reason: NodeReason
    since: float
    suspect_since: float | None = None
    well_since: float | None = None
    last_well_at: float | None = None
    falls: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What is known of one edge node.

    `node` is the cluster's; None: it is not in the cluster. `status` and `last_heartbeat_at`
    stand in `edge_nodes`. `beating_since` is the latest ready time among its running pods whose
    present incarnation has beaten; None: there is none, so that the node has no silence.
    `record` is None when it is judged for the first time. `pods_removed`: pods that own stood on
    it, and are gone though we did not end them.
    """

    node: Node | None
    status: str
    last_heartbeat_at: float | None
    beating_since: float | None
    answering: Answering
    record: NodeRecord | None
    pods_removed: bool = False


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What to think of one edge node, and the record to store.

    `is_dead`: its processors may be moved away, as far as this node tells. `last_alive_at` is
    its last sign of life. `wake_at` is when the verdict may change though nothing happens.
    `failback_at` is the moment from which its processors may come home; None while it is not
    well, not ready, or not heard. `well_ago_seconds` is the hearing since it was last well; None
    if it never was.
    """

    state: NodeState
    reason: NodeReason
    detail: str
    record: NodeRecord
    is_dead: bool = False
    last_alive_at: float | None = None
    wake_at: float | None = None
    failback_at: float | None = None
    well_ago_seconds: float | None = None
    why: Why = field(default=Why(), compare=False)

    @property
    def is_well(self) -> bool:
        """Alive, as far as we know. Not Ready but beating is alive, too."""
        return self.state in WELL_STATES

    @property
    def is_suspect(self) -> bool:
        """Suspect or worse."""
        return self.state in SUSPECT_STATES

    @property
    def is_deaf_sign(self) -> bool:
        """Silent while the cluster calls it Ready: it may be us who do not hear."""
        return self.reason in SILENT_BUT_READY


# Hearing -----------------------------------------------------------------------------------


def heard_seconds(since: float, until: float, gaps: Sequence[Gap]) -> float:
    """The time between two moments in which we could hear; 0 when the second is earlier."""
    return sum(max(0.0, min(end, until) - start) for start, end in _heard(since, gaps))


def heard_until(since: float, seconds: float, gaps: Sequence[Gap]) -> float:
    """When `seconds` of hearing have passed, if no further gap comes; infinite if never."""
    left = seconds
    for start, end in _heard(since, gaps):
        if left <= end - start:
            return start + left
        left -= end - start
    return math.inf


def _heard(since: float, gaps: Sequence[Gap]) -> Iterator[tuple[float, float]]:
    """The stretches between the gaps, from `since` on. The last one has no end."""
    start = since
    for gap in sorted(gaps, key=lambda gap: gap.began_at):
        # Also passes over a gap that ends before it began: the clock was set back in it.
        if gap.ended_at <= max(start, gap.began_at):
            continue
        if gap.began_at > start:
            yield start, gap.began_at
        start = gap.ended_at
    yield start, math.inf


# Judging -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Health:
    """It lives. `ends_at` is when that ends if nothing more is heard."""

    reason: NodeReason
    detail: str
    ends_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Trouble:
    """It may be dead. `began_at` is when the evidence began, of which it dies after the grace.

    `death` is the reason that it then has; None: of this no node is dead. `is_certain`: without
    any grace.
    """

    reason: NodeReason
    death: NodeReason | None
    began_at: float
    detail: str
    is_certain: bool = False


def judge(
    facts: NodeFacts,
    *,
    now: float,
    gaps: Sequence[Gap],
    limits: Limits,
    explained: bool = True,
) -> NodeVerdict:
    """Judge one node; the first rule that holds decides. Unless it is `explained`, of one that is
    and was well the rules are not kept.

    What leaves a doubt stands above what makes a node dead. A moment that lies ahead, as after the
    clock was set back, counts as `now`: it must not hide a death for as long as the step was.
    """
    trail = Trail()
    facts = _up_to(facts, now)
    verdict = _judge(facts, now, gaps, limits, trail)
    was = None if facts.record is None else facts.record.reason
    if not explained and verdict.reason is was is NodeReason.WELL:
        return verdict
    return replace(verdict, why=Why(partial(_known, facts, verdict, now), trail.answers))


def _up_to(facts: NodeFacts, now: float) -> NodeFacts:
    """The facts with no moment by the database's clock after `now`."""
    record = facts.record
    if record is not None and _is_ahead(record, now):
        record = replace(
            record,
            since=min(record.since, now),
            suspect_since=_at_most(record.suspect_since, now),
            well_since=_at_most(record.well_since, now),
            last_well_at=_at_most(record.last_well_at, now),
        )
    beat = facts.last_heartbeat_at
    if record is facts.record and (beat is None or beat <= now):
        return facts
    return replace(facts, record=record, last_heartbeat_at=_at_most(beat, now))


def _is_ahead(record: NodeRecord, now: float) -> bool:
    moments = (record.since, record.suspect_since, record.well_since, record.last_well_at)
    return any(at is not None and at > now for at in moments)


def _at_most(at: float | None, now: float) -> float | None:
    return None if at is None else min(at, now)


def _judge(
    facts: NodeFacts, now: float, gaps: Sequence[Gap], limits: Limits, trail: Trail
) -> NodeVerdict:
    gone = facts.status == "decommissioned"
    if trail.ask(Rule.DECOMMISSIONED, gone, facts.status):
        return _decommissioned(facts, now, gaps, limits)
    if facts.record is not None and facts.record.reason is NodeReason.DECOMMISSIONED:
        # It is back: the grace that ran for its processors to leave is not the one of its work.
        facts = replace(facts, record=replace(facts.record, suspect_since=None))
    deaf_until = max((gap.ended_at for gap in gaps if _covers(gap, now)), default=None)
    if trail.ask(Rule.UNHEARD, deaf_until is not None, len(gaps)) and deaf_until is not None:
        return _unheard(facts, now, deaf_until, gaps)
    found = _look(facts, now, gaps, limits, trail)
    if isinstance(found, _Health):
        return _well(facts, found, now, gaps, limits, trail)
    return _troubled(facts, found, now, gaps, limits, trail)


def _known(facts: NodeFacts, verdict: NodeVerdict, now: float) -> dict[str, Scalar]:
    """What the verdict rests on; moments as ages in seconds."""
    node, before = facts.node, facts.record
    return {
        "in_cluster": node is not None,
        "ready": node is not None and node.ready,
        "ready_changed_seconds_ago": _ago(node.ready_changed_at if node else None, now),
        "status": facts.status,
        "last_heartbeat_seconds_ago": _ago(facts.last_heartbeat_at, now),
        "should_beat_since_seconds": _ago(facts.beating_since, now),
        "pods_answer": str(facts.answering),
        "state_before": None if before is None else str(before.state),
        "reason_before": None if before is None else str(before.reason),
        "in_trouble_seconds": _ago(verdict.record.suspect_since, now),
        "well_seconds": _ago(verdict.record.well_since, now),
        "falls_lately": len(verdict.record.falls),
    }


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else now - at


def _covers(gap: Gap, now: float) -> bool:
    return gap.began_at <= now <= gap.ended_at


def _look(
    facts: NodeFacts, now: float, gaps: Sequence[Gap], limits: Limits, trail: Trail
) -> _Health | _Trouble:
    never = facts.node is None and (facts.record is None or facts.record.last_well_at is None)
    if trail.ask(Rule.NEVER_IN_CLUSTER, never):
        # It registered, but never came: nothing runs there that could have died.
        return _Trouble(
            NodeReason.NOT_IN_CLUSTER, None, now, "the cluster has never had a node of this name"
        )
    stale_seconds = limits.heartbeat_stale_seconds
    quiet_at = heard_until(_voice_at(facts), stale_seconds, gaps)
    is_ready = facts.node is not None and facts.node.ready
    if trail.ask(Rule.NOTHING_BEATS, is_ready and facts.beating_since is None):
        return _Health(NodeReason.WELL, "ready; no running pod has beaten yet")
    silence = _Silence(heard_seconds(_voice_at(facts), now, gaps), stale_seconds, quiet_at)
    if trail.ask(Rule.BEATING, is_ready and now < quiet_at, is_ready, *silence.numbers):
        return _Health(NodeReason.WELL, "ready and beating", quiet_at)
    if is_ready:
        return _look_at_silent(facts, silence, trail)
    return _look_at_not_ready(facts, now, limits, silence, trail)


@dataclass(frozen=True, slots=True)
class _Silence:
    """How long it was silent while we heard, how long it may be, and when that is reached."""

    seconds: float
    most_seconds: float
    quiet_at: float

    @property
    def numbers(self) -> tuple[float, float]:
        return self.seconds, self.most_seconds

    def __str__(self) -> str:
        return f"no heartbeat in {self.seconds:.0f} s of hearing"


def _look_at_silent(facts: NodeFacts, silence: _Silence, trail: Trail) -> _Health | _Trouble:
    """Of a node that the cluster calls ready."""
    answering, quiet_at = facts.answering, silence.quiet_at
    if trail.ask(Rule.PODS_ANSWER, answering is Answering.YES, *silence.numbers, str(answering)):
        return _Health(
            NodeReason.SILENT_BUT_ANSWERING, f"{silence}, but ready, and its pods answer us"
        )
    if trail.ask(Rule.PODS_NOT_ASKED, answering is Answering.UNKNOWN, str(answering)):
        return _Trouble(
            NodeReason.SILENCE_UNDECIDED,
            None,
            quiet_at,
            f"{silence}, but ready; none of its pods was asked lately",
        )
    return _Trouble(
        NodeReason.SILENT,
        NodeReason.DEAD_SILENT,
        quiet_at,
        f"{silence}, though ready, and none of its pods answers us",
    )


def _rose(facts: NodeFacts, now: float, limits: Limits) -> bool:
    """Whether it has beaten since it fell last: what was taken off the books may run on."""
    falls = _falls(facts.record, now, limits)
    return (
        bool(falls) and facts.last_heartbeat_at is not None and facts.last_heartbeat_at > falls[-1]
    )


def _look_at_not_ready(
    facts: NodeFacts, now: float, limits: Limits, silence: _Silence, trail: Trail
) -> _Health | _Trouble:
    """Also of a node that the cluster no longer has."""
    not_ready_since, quiet_at = _not_ready_since(facts, now), silence.quiet_at
    # The two moments come from two clocks. A beat of about the same time counts as a later one:
    # then we wait until the node has been silent for too long, which a living one never is.
    beaten = (
        facts.last_heartbeat_at is not None
        and facts.last_heartbeat_at > not_ready_since - CLOCKS_DIFFER_SECONDS
    )
    what = "not ready" if facts.node is not None else "gone from the cluster"
    removed = facts.node is None and facts.pods_removed
    if trail.ask(Rule.GONE_WITH_PODS, removed and not _rose(facts, now, limits), removed):
        detail = f"{what}, which has removed its pods"
        return _Trouble(NodeReason.MISSING, NodeReason.DEAD_MISSING, now, detail, is_certain=True)
    numbers = (now - not_ready_since, beaten, *silence.numbers)
    if trail.ask(Rule.BEATING_THOUGH_NOT_READY, beaten and now < quiet_at, *numbers):
        return _Health(NodeReason.BEATING_THOUGH_NOT_READY, f"{what}, but beating", quiet_at)
    answers = facts.answering is Answering.YES
    if trail.ask(Rule.NOT_READY_BUT_ANSWERING, answers, numbers[0], str(facts.answering)):
        # A dead kubelet, mostly: its containers run on, and nobody could end them before others
        # took their place.
        detail = f"{what}, but its pods answer us"
        return _Health(NodeReason.NOT_READY_BUT_ANSWERING, detail)
    began_at = quiet_at if beaten else not_ready_since
    if facts.beating_since is not None and facts.answering is Answering.NO and now >= quiet_at:
        # It was silent to us before it was so to the cluster.
        began_at = min(began_at, quiet_at)
    since = f"{what} for {max(0.0, now - not_ready_since):.0f} s"
    detail = f"{since}, {silence}" if beaten else f"{since}, and no heartbeat since"
    if facts.node is None:
        return _Trouble(NodeReason.MISSING, NodeReason.DEAD_MISSING, began_at, detail)
    return _Trouble(NodeReason.NOT_READY, NodeReason.DEAD_NOT_READY, began_at, detail)


def _voice_at(facts: NodeFacts) -> float:
    """The moment from which its silence counts."""
    known = [at for at in (facts.last_heartbeat_at, facts.beating_since) if at is not None]
    return max(known, default=-math.inf)


def _not_ready_since(facts: NodeFacts, now: float) -> float:
    """By the cluster, or else since we see it: that is the word of the database's clock, which
    may have been set back behind the cluster's."""
    node = facts.node
    if node is not None and node.ready_changed_at is not None and node.ready_changed_at <= now:
        return node.ready_changed_at
    record = facts.record
    if record is None:
        return now
    if record.reason in _DEAD and record.suspect_since is not None:
        return record.suspect_since
    return record.since if record.reason in _SEEN_NOT_READY else now


def with_fresh_grace(verdict: NodeVerdict, now: float, limits: Limits) -> NodeVerdict:
    """A suspect of a mass failure that is over: others came back, and this one may be about to."""
    if not verdict.is_suspect:
        return verdict
    reason = _TROUBLE_OF.get(verdict.record.reason, verdict.record.reason)
    state = NodeState.SUSPECT
    record = replace(verdict.record, state=state, reason=reason, since=now, suspect_since=now)
    dead_at = now + limits.node_failure_grace_seconds
    return replace(
        verdict, state=state, reason=reason, record=record, is_dead=False, wake_at=dead_at
    )


def pretended(verdict: NodeVerdict, by: str, until: float, now: float) -> NodeVerdict:
    """A node that is well, and is treated as dead for a drill. Its record stays what it is."""
    detail = f"a drill by {by} treats it as dead"
    asked = [*verdict.why.answers, (Rule.DRILL, True, (by, until - now))]
    return replace(
        verdict,
        state=NodeState.OFFLINE,
        reason=NodeReason.DRILL,
        detail=detail,
        is_dead=True,
        last_alive_at=now,
        wake_at=until,
        failback_at=None,
        why=replace(verdict.why, answers=asked),
    )


# Verdicts ----------------------------------------------------------------------------------


def _decommissioned(
    facts: NodeFacts, now: float, gaps: Sequence[Gap], limits: Limits
) -> NodeVerdict:
    """What is on it leaves: in peace, unless it is found dead as any other would be."""
    state, reason = NodeState.DECOMMISSIONED, NodeReason.DECOMMISSIONED
    troubled = _trouble_of(facts, now, gaps, limits)
    record = NodeRecord(
        state,
        reason,
        _since(facts.record, state, reason, now),
        suspect_since=None if troubled is None else troubled.record.suspect_since,
        last_well_at=facts.record.last_well_at if facts.record else None,
        falls=_falls(facts.record, now, limits),
    )
    return NodeVerdict(
        state,
        reason,
        "it was decommissioned" if troubled is None else f"decommissioned; {troubled.detail}",
        record,
        is_dead=troubled is not None and troubled.is_dead,
        last_alive_at=_last_alive_at(facts, record.last_well_at),
        wake_at=None if troubled is None else troubled.wake_at,
    )


def _trouble_of(
    facts: NodeFacts, now: float, gaps: Sequence[Gap], limits: Limits
) -> NodeVerdict | None:
    """The verdict on a node that was decommissioned, as if it had not been, if it is in trouble."""
    if any(_covers(gap, now) for gap in gaps):
        return None
    found = _look(facts, now, gaps, limits, Trail())
    if isinstance(found, _Health):
        return None
    return _troubled(facts, found, now, gaps, limits, Trail())


def _unheard(facts: NodeFacts, now: float, deaf_until: float, gaps: Sequence[Gap]) -> NodeVerdict:
    """While we do not hear, a node stays what it was, and nothing is begun on account of it."""
    record = facts.record
    if record is None:
        # Neither well nor in trouble since any moment: it is judged when we hear.
        seen_ready = facts.node is not None and facts.node.ready
        state = NodeState.ONLINE if seen_ready else NodeState.SUSPECT
        record = NodeRecord(state, NodeReason.UNHEARD, now)
    return NodeVerdict(
        record.state,
        NodeReason.UNHEARD,
        f"we do not hear; before that: {record.reason}",
        record,
        last_alive_at=_last_alive_at(facts, record.last_well_at),
        wake_at=_later(deaf_until, now),
        well_ago_seconds=_well_ago_seconds(record.last_well_at, now, gaps),
    )


def _well(
    facts: NodeFacts,
    found: _Health,
    now: float,
    gaps: Sequence[Gap],
    limits: Limits,
    trail: Trail,
) -> NodeVerdict:
    ready = found.reason not in _LIVES_THOUGH_NOT_READY
    well_since = now
    if ready and facts.record is not None and facts.record.well_since is not None:
        well_since = facts.record.well_since
    falls = _falls(facts.record, now, limits)
    failback_at = _failback_at(well_since, len(falls), gaps, limits)
    numbers = (now - well_since, len(falls), max(failback_at - now, 0.0))
    waits = trail.ask(Rule.STABILISING, now < failback_at, *numbers)
    state, told = _state_after(len(falls)) if waits else (NodeState.ONLINE, NodeReason.WELL)
    reason = told if found.reason is NodeReason.WELL else found.reason
    ends = (found.ends_at, failback_at if waits and ready else None)
    return NodeVerdict(
        state,
        reason,
        f"{found.detail}; falls lately: {len(falls)}" if waits else found.detail,
        NodeRecord(
            state,
            reason,
            _since(facts.record, state, reason, now),
            well_since=well_since,
            last_well_at=now,
            falls=falls,
        ),
        last_alive_at=now,
        wake_at=min((at for at in map(_finite, ends) if at is not None), default=None),
        failback_at=_finite(failback_at) if ready else None,
        well_ago_seconds=0.0,
    )


def _troubled(
    facts: NodeFacts,
    found: _Trouble,
    now: float,
    gaps: Sequence[Gap],
    limits: Limits,
    trail: Trail,
) -> NodeVerdict:
    suspect_since = _suspect_since(facts.record, found, now)
    counts_from = max(suspect_since, found.began_at)
    grace_seconds = limits.node_failure_grace_seconds
    dead_at = heard_until(counts_from, grace_seconds, gaps)
    state, reason, wake_at = NodeState.SUSPECT, found.reason, None
    falls = _falls(facts.record, now, limits)
    if found.death is not None:
        # Dead is dead until it is well: other evidence, as when its pods have been moved away,
        # does not begin another grace.
        was = None if facts.record is None else str(facts.record.reason)
        is_dead_already = trail.ask(Rule.DEAD_ALREADY, _is_dead(facts.record), was)
        wake_at = None if is_dead_already else _later(dead_at, now)
        trouble_seconds = heard_seconds(counts_from, now, gaps)
        if is_dead_already or trail.ask(
            Rule.GRACE_OVER, found.is_certain or now >= dead_at, trouble_seconds, grace_seconds
        ):
            state, reason = NodeState.OFFLINE, found.death
            if not is_dead_already:
                falls = _with_fall(falls, suspect_since, now)
    last_well_at = _last_well_at(facts, found, suspect_since, now)
    return NodeVerdict(
        state,
        reason,
        found.detail,
        NodeRecord(
            state,
            reason,
            _since(facts.record, state, reason, now),
            suspect_since=suspect_since,
            last_well_at=last_well_at,
            falls=falls,
        ),
        is_dead=state is NodeState.OFFLINE,
        last_alive_at=_last_alive_at(facts, last_well_at),
        wake_at=wake_at,
        well_ago_seconds=_well_ago_seconds(last_well_at, now, gaps),
    )


def _suspect_since(record: NodeRecord | None, found: _Trouble, now: float) -> float:
    """The beginning of the present trouble; it lasts over gaps and changes of the leader."""
    if record is not None and record.suspect_since is not None:
        return record.suspect_since
    if record is None or record.well_since is None:
        # Nobody has watched it so far.
        return now
    if record.reason is NodeReason.SILENT_BUT_ANSWERING:
        # Its silence is older, but until now its pods answered.
        return now
    # Not before it was well: that its beats were lost in a gap of ours is no trouble of its own.
    return max(min(found.began_at, now), record.well_since)


def _last_well_at(
    facts: NodeFacts, found: _Trouble, suspect_since: float, now: float
) -> float | None:
    record = facts.record
    if record is not None and record.last_well_at is not None:
        if record.well_since is None:
            return record.last_well_at
        return max(record.last_well_at, suspect_since)
    if found.reason is NodeReason.NOT_IN_CLUSTER or facts.last_heartbeat_at is None:
        return None
    # The record was lost, or never made. That it has beaten shows that it was well.
    return min(found.began_at, now)


def _well_ago_seconds(last_well_at: float | None, now: float, gaps: Sequence[Gap]) -> float | None:
    """After a long outage of ours, nodes that died in it were still well a moment ago: else a
    mass failure would not be seen as one."""
    return None if last_well_at is None else heard_seconds(last_well_at, now, gaps)


def _last_alive_at(facts: NodeFacts, last_well_at: float | None) -> float | None:
    """Its last beat. Of a node where nothing beats: when it was last well, if that is later."""
    if facts.beating_since is not None and facts.last_heartbeat_at is not None:
        return facts.last_heartbeat_at
    known = [at for at in (facts.last_heartbeat_at, last_well_at) if at is not None]
    return max(known, default=None)


# Flapping ----------------------------------------------------------------------------------


def _falls(record: NodeRecord | None, now: float, limits: Limits) -> tuple[float, ...]:
    if record is None:
        return ()
    recent = tuple(at for at in record.falls if now - at < limits.flapping_window_seconds)
    if recent or record.state is NodeState.ONLINE:
        return recent
    # However long ago it fell, it comes back by way of `recovering`.
    return record.falls[-1:]


def _with_fall(falls: tuple[float, ...], suspect_since: float, now: float) -> tuple[float, ...]:
    """One trouble is one fall, also when the death was in doubt for a while."""
    return falls if falls and falls[-1] >= suspect_since else (*falls, now)


def _failback_at(well_since: float, falls: int, gaps: Sequence[Gap], limits: Limits) -> float:
    if falls == 0:
        return well_since
    wait = Backoff(
        first_seconds=limits.failback_stable_seconds,
        most_seconds=limits.failback_stable_most_seconds,
        forgotten_after_seconds=limits.flapping_window_seconds,
    )
    return heard_until(well_since, wait.delay_seconds(falls), gaps)


def _state_after(falls: int) -> tuple[NodeState, NodeReason]:
    if falls > 1:
        return NodeState.QUARANTINED, NodeReason.FLAPPING
    return NodeState.RECOVERING, NodeReason.STABILISING


def _since(record: NodeRecord | None, state: NodeState, reason: NodeReason, now: float) -> float:
    if record is not None and (record.state, record.reason) == (state, reason):
        return record.since
    return now


def _is_dead(record: NodeRecord | None) -> bool:
    return record is not None and record.state is NodeState.OFFLINE and record.reason in _DEAD


def _finite(at: float | None) -> float | None:
    return at if at is not None and math.isfinite(at) else None


def _later(at: float, now: float) -> float | None:
    return at if now < at < math.inf else None
