"""The fleet in plain words. Pure: each text depends on what it is given alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from dory_orchestrator.core.plan import State
from dory_orchestrator.ports import FleetPicture, MoveView, NodeCounts, NodePicture, SuspectNode

_NAMED_MAX = 3
# In text and shape, for who sees no colour.
SHAPES = {
    State.RUNNING: "●",
    State.STARTING: "◐",
    State.PENDING: "○",
    State.WAITING: "◔",
    State.HELD: "■",
    State.MOVING: "▶",
    State.ERROR: "✖",
    State.REMOVING: "▽",
}
NODE_SHAPES = {
    "online": "●",
    "ready": "●",
    "suspect": "◐",
    "not ready": "✖",
    "offline": "✖",
    "recovering": "↻",
    "quarantined": "◫",
    "decommissioned": "▽",
}
UNKNOWN_SHAPE = "?"


class Tone(StrEnum):
    """How urgent something is."""

    WELL = "well"
    NOTICE = "notice"
    TROUBLE = "trouble"


@dataclass(frozen=True, slots=True)
class Sentence:
    """What the fleet is, and how urgent that is."""

    text: str
    tone: Tone


def sentence_of(picture: FleetPicture) -> Sentence:
    """The fleet in a sentence, and what else has to be known in one more each. What stops
    everything stands first."""
    now = picture.summary.at
    first, tone = _stopped(picture, now) or _running(picture)
    others = list(_others(picture, now))
    if others and tone is Tone.WELL:
        tone = Tone.NOTICE
    return Sentence(" ".join([first, *others]), tone)


def without_database(read_at: datetime | None, now: datetime) -> Sentence:
    """When it does not answer; `read_at` is when it last did."""
    text = "The database does not answer"
    if read_at is not None:
        text += f": what is below was so at {clock(read_at, now, seconds=True)}"
    return Sentence(f"{text}.", Tone.TROUBLE)


def _stopped(picture: FleetPicture, now: datetime) -> tuple[str, Tone] | None:
    summary, brake = picture.summary, picture.brake
    if not summary.current:
        return _without_leader(summary.leader, summary.lease_seconds, now), Tone.TROUBLE
    if summary.pause_until is not None:
        until, by = clock(summary.pause_until, now), summary.pause_by
        return f"Paused until {until} by {by}: nothing is created or moved.", Tone.TROUBLE
    if brake.engaged:
        dead, of = brake.nodes_count, max(brake.population_count, brake.nodes_count)
        count = f"{dead:,} of {of:,} edge nodes {_verb(dead, 'look')} dead"
        return f"The brake holds: {count}; nothing is moved.", Tone.TROUBLE
    if picture.guard_held_since is not None:
        since = clock(picture.guard_held_since, now)
        held = picture.summary.states.get("held", 0)
        pods = "1 pod runs on" if held == 1 else f"{held} pods run on"
        text = (
            f"The deletion guard holds since {since}: {pods}, {picture.summary.desired} desired."
            " Put the rows back, or confirm."
        )
        return text, Tone.TROUBLE
    return None


def _without_leader(leader: str | None, lease_seconds: float | None, now: datetime) -> str:
    if leader is None or lease_seconds is None:
        return "No leader looks at the fleet: nobody has led yet."
    if lease_seconds > 0:
        return "A new leader has not looked at the fleet yet: what is below is older."
    since = clock(now + timedelta(seconds=lease_seconds), now, seconds=True)
    return f"No leader looks at the fleet since {since}: what is below was so then."


def _running(picture: FleetPicture) -> tuple[str, Tone]:
    summary = picture.summary
    if not summary.desired:
        return "No processor is desired.", Tone.WELL
    if summary.ready >= summary.desired:
        whole = "The only processor runs." if summary.desired == 1 else None
        return whole or f"All {summary.desired:,} processors run.", Tone.WELL
    states = ", ".join(
        f"{count:,} {state}"
        for state, count in sorted(summary.states.items())
        if state != State.RUNNING and count
    )
    text = f"{summary.ready:,} of {summary.desired:,} processors {_verb(summary.ready, 'run')}"
    urgent = {State.ERROR, State.HELD} & summary.states.keys()
    return f"{text}: {states}." if states else f"{text}.", Tone.TROUBLE if urgent else Tone.NOTICE


def _others(picture: FleetPicture, now: datetime) -> Iterator[str]:
    brake = picture.brake
    if picture.summary.current and picture.summary.pause_until is not None:
        yield _running(picture)[0]
        if brake.engaged:
            yield "The brake holds too."
    if brake.engaged and picture.summary.current and picture.guard_held_since is not None:
        yield "The deletion guard holds too."
    if not brake.engaged:
        yield from _doubtful_nodes(brake.nodes, brake.nodes_count)
    if picture.away:
        since = "" if picture.away_since is None else f" since {clock(picture.away_since, now)}"
        yield f"{picture.away:,} {_verb(picture.away, 'live')} away from home{since}."
    summary = picture.summary
    if summary.drill_node is not None and summary.drill_until is not None:
        until = clock(summary.drill_until, now)
        if summary.drill_phase == "running":
            yield f"A fire drill treats {summary.drill_node} as dead until {until}."
        else:
            yield f"After a fire drill processors go home to {summary.drill_node}."
    if picture.frozen:
        yield f"{picture.frozen:,} {_be(picture.frozen)} frozen until an operator adopts them."
    if brake.override_until is not None:
        yield f"The brake is overridden until {clock(brake.override_until, now)}."


def _doubtful_nodes(nodes: Sequence[SuspectNode], count: int) -> Iterator[str]:
    if not count:
        return
    named = ", ".join(node.name for node in nodes[:_NAMED_MAX])
    more = f" and {count - _NAMED_MAX:,} more" if count > _NAMED_MAX else ""
    dead = all(node.state == "offline" for node in nodes)
    noun = "edge node" if count == 1 else "edge nodes"
    yield f"{count:,} {noun} {_be(count)} {'dead' if dead else 'suspect'}: {named}{more}."


def rest(counts: NodeCounts) -> str:
    """Of nodes that are not shown one by one."""
    noun = "more node" if counts.nodes == 1 else "more nodes"
    trouble = "all well" if not counts.troubled else f"{counts.troubled:,} of them in trouble"
    if counts.nodes == 1 and not counts.troubled:
        trouble = "well"
    run = f"{counts.running:,} of {counts.processors:,} processors"
    if counts.running == counts.processors:
        run = f"{counts.processors:,} {'processor' if counts.processors == 1 else 'processors'}"
    return f"{counts.nodes:,} {noun}, {trouble}, {run} {_verb(counts.running, 'run')}"


def node_state(node: NodePicture) -> str:
    """In one or two words: how it was judged, else what the cluster or the platform says."""
    if node.health is not None and (node.health != "online" or node.ready):
        return node.health
    if node.ready is not None:
        return "ready" if node.ready else "not ready"
    return node.status or "unknown"


def cost(move: MoveView) -> str:
    """What a move has cost, in a sentence."""
    if move.rto_seconds is None:
        return "under way" if move.ended_at is None else f"ended: {move.outcome}"
    lost = "no state was known"
    if move.rpo_seconds is not None:
        lost = f"lost at most {seconds(move.rpo_seconds)} of state"
    return f"{lost}, away {seconds(move.rto_seconds)}"


def seconds(value: float) -> str:
    """A duration to read: `4.2 s`, `38 s`, `12 min`, `3 h`, `2 d`."""
    value = max(value, 0.0)
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h" if value < 172_800 else f"{value / 86_400:.0f} d"


def clock(moment: datetime, now: datetime, *, seconds: bool = False) -> str:
    """The time of day; of another day with the date."""
    moment, now = moment.astimezone(UTC), now.astimezone(UTC)
    day = "" if moment.date() == now.date() else f"{moment:%Y-%m-%d} "
    return f"{day}{moment:%H:%M:%S} UTC" if seconds else f"{day}{moment:%H:%M} UTC"


def _verb(count: int, plural: str) -> str:
    return f"{plural}s" if count == 1 else plural


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
