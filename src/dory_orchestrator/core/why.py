"""Why a decision came out as it did: the rules that were asked, in their turn, with their numbers.

A rule is asked where it decides, and what is kept is that very answer: nothing is worked out a
second time in order to be told.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

Scalar = str | float | int | bool | None

_CANDIDATES_SHOWN_MAX = 20


class Rule(StrEnum):
    """A rule that may decide. Its question, and the names of its numbers, stand in `RULES`."""

    # How a node is.
    DECOMMISSIONED = "decommissioned"
    UNHEARD = "unheard"
    NEVER_IN_CLUSTER = "never_in_cluster"
    NOTHING_BEATS = "nothing_beats"
    BEATING = "beating"
    PODS_ANSWER = "pods_answer"
    PODS_NOT_ASKED = "pods_not_asked"
    GONE_WITH_PODS = "gone_with_pods"
    BEATING_THOUGH_NOT_READY = "beating_though_not_ready"
    NOT_READY_BUT_ANSWERING = "not_ready_but_answering"
    DEAD_ALREADY = "dead_already"
    GRACE_OVER = "grace_over"
    STABILISING = "stabilising"
    DRILL = "drill"
    # Whether the mass-failure brake holds.
    OVERRIDDEN = "overridden"
    ALL_SILENT_BUT_READY = "all_silent_but_ready"
    MANY_SUSPECT = "many_suspect"
    STILL_MANY = "still_many"
    # How a processor is, and what is to be done for it.
    PAUSED = "paused"
    ACTING = "acting"
    NOT_DEFINED = "not_defined"
    NAMESPACE_UNSEEN = "namespace_unseen"
    WITHOUT_POD = "without_pod"
    UNRECOGNISED = "unrecognised"
    FOREIGN_FLEET = "foreign_fleet"
    POD_MISSING = "pod_missing"
    VANISHED = "vanished"
    BACK_OFF = "back_off"
    EPOCH_AHEAD = "epoch_ahead"
    DOCUMENT_AHEAD = "document_ahead"
    HOME_CAME_BACK = "home_came_back"
    NODE_IN_TROUBLE = "node_in_trouble"
    NODE_NOT_DEAD = "node_not_dead"
    FAILOVER_DISABLED = "failover_disabled"
    BRAKE_HELD = "brake_held"
    MOVE_LIMIT = "move_limit"
    TARGET_FITS = "target_fits"
    TERMINATING = "terminating"
    LEFT_BEHIND = "left_behind"
    NOT_OWNER = "not_owner"
    NOT_OWNED = "not_owned"
    CHANGED = "changed"
    READY = "ready"
    UNPROTECTED = "unprotected"
    FAILED = "failed"
    CREATION_LIMIT = "creation_limit"
    NO_EDGE_NODE = "no_edge_node"
    NO_NODE_FITS = "no_node_fits"
    # On its way.
    GOES_HOME = "goes_home"
    HOME_FAILED = "home_failed"
    NODE_LEAVES = "node_leaves"
    ORDERED_AWAY = "ordered_away"
    ARRIVED = "arrived"
    RESTORE_GIVEN_UP = "restore_given_up"
    MOVE_GIVEN_UP = "move_given_up"
    GRANT_REFUSED = "grant_refused"
    # Whether it goes home.
    AWAY = "away"
    HOME_NOT_ONLINE = "home_not_online"
    FAILBACK_BY_HAND = "failback_by_hand"
    KEPT_AWAY = "kept_away"
    HOME_CORDONED = "home_cordoned"
    HOME_NOT_WELL = "home_not_well"
    HOME_NOT_STABLE = "home_not_stable"
    NOT_READY_YET = "not_ready_yet"
    MOVE_BACK_OFF = "move_back_off"
    HOME_TAKEN = "home_taken"
    # Whether it is ended.
    NOT_DESIRED = "not_desired"
    GUARD_HELD = "guard_held"
    REMOVAL_LIMIT = "removal_limit"
    # What a heartbeat is answered with.
    NOT_RECORDED = "not_recorded"
    DELETION_UNDECIDED = "deletion_undecided"
    NO_PICTURE = "no_picture"
    UNOWNED_POD = "unowned_pod"
    NOT_FOUND = "not_found"
    ENDED = "ended"
    MOVED_AWAY = "moved_away"


class Asked(NamedTuple):
    """What a rule asks, and what its numbers are called."""

    question: str
    numbers: tuple[str, ...] = ()


_SILENCE = ("silent_seconds", "heartbeat_stale_seconds")
_COUNTS = ("suspect_nodes", "counted_nodes", "share")

RULES: Mapping[Rule, Asked] = MappingProxyType(
    {
        Rule.DECOMMISSIONED: Asked("Was the node decommissioned?", ("status",)),
        Rule.UNHEARD: Asked("Is this a time in which we do not hear?", ("gaps",)),
        Rule.NEVER_IN_CLUSTER: Asked("Has the cluster never had a node of this name?"),
        Rule.NOTHING_BEATS: Asked("Is it ready, and no running pod on it has beaten yet?"),
        Rule.BEATING: Asked("Is it ready and beating?", ("ready", *_SILENCE)),
        Rule.PODS_ANSWER: Asked(
            "Is it silent but ready, and do its pods answer us?", (*_SILENCE, "pods_answer")
        ),
        Rule.PODS_NOT_ASKED: Asked(
            "Is it silent but ready, and was none of its pods asked lately?", ("pods_answer",)
        ),
        Rule.GONE_WITH_PODS: Asked(
            "Is it gone from the cluster with its pods, and has it not beaten since?",
            ("pods_removed",),
        ),
        Rule.BEATING_THOUGH_NOT_READY: Asked(
            "Is it not ready, but beating?", ("not_ready_seconds", "beat_since", *_SILENCE)
        ),
        Rule.NOT_READY_BUT_ANSWERING: Asked(
            "Is it not ready, and do its pods answer us?", ("not_ready_seconds", "pods_answer")
        ),
        Rule.DEAD_ALREADY: Asked("Was it dead before, and not well since?", ("reason",)),
        Rule.GRACE_OVER: Asked(
            "Has its trouble lasted for the whole grace?",
            ("trouble_seconds", "node_failure_grace_seconds"),
        ),
        Rule.STABILISING: Asked(
            "Is it well for too short a time yet to take its processors home?",
            ("well_seconds", "falls_lately", "failback_in_seconds"),
        ),
        Rule.DRILL: Asked("Does a fire drill treat it as dead?", ("by", "for_seconds")),
        Rule.OVERRIDDEN: Asked("Is the brake overridden by an operator?", ("for_seconds",)),
        Rule.ALL_SILENT_BUT_READY: Asked(
            "Are all nodes that count silent, while the cluster calls them ready?",
            ("silent_but_ready_nodes", "counted_nodes", "engages_at_nodes"),
        ),
        Rule.MANY_SUSPECT: Asked(
            "Do many nodes look dead at once?", (*_COUNTS, "engages_at_share", "engages_at_nodes")
        ),
        Rule.STILL_MANY: Asked(
            "Is it on, and do still many look dead?", (*_COUNTS, "released_below_share")
        ),
        Rule.PAUSED: Asked("Has an operator paused everything?", ("for_seconds", "by", "reason")),
        Rule.ACTING: Asked("Is an earlier decision still being carried out?"),
        Rule.NOT_DEFINED: Asked("Is it not known what should run?", ("error",)),
        Rule.NAMESPACE_UNSEEN: Asked("Can its namespace not be looked at?", ("namespace",)),
        Rule.WITHOUT_POD: Asked("Has it no pod?", ("pods",)),
        Rule.UNRECOGNISED: Asked(
            "Is the pod there that owns it, and does not say any more that it is its own?",
            ("pod", "altered"),
        ),
        Rule.FOREIGN_FLEET: Asked("Does a pod of another fleet run it?", ("pod",)),
        Rule.POD_MISSING: Asked(
            "Is it not known yet whether the pod that owns it is there?", ("pod",)
        ),
        Rule.VANISHED: Asked(
            "Did the pod that owned it vanish, and did we not end it?",
            ("pod", "was_ready", "lasted_seconds"),
        ),
        Rule.BACK_OFF: Asked("Is its next try not due yet?", ("failures", "due_in_seconds")),
        Rule.EPOCH_AHEAD: Asked(
            "Does a pod bear an epoch that the database has not given?", ("pod_epoch", "epoch")
        ),
        Rule.DOCUMENT_AHEAD: Asked(
            "Is a document of its state newer than all that the database has?", ("detail",)
        ),
        Rule.UNPROTECTED: Asked("Could its state not be given to it?", ("detail",)),
        Rule.HOME_CAME_BACK: Asked(
            "Is its node back before the replacement has a place?", ("node", "replacement_node")
        ),
        Rule.NODE_IN_TROUBLE: Asked("Is its node in trouble?", ("node", "state", "reason")),
        Rule.NODE_NOT_DEAD: Asked("Is its node in trouble, but not dead?", ("node", "state")),
        Rule.FAILOVER_DISABLED: Asked(
            "Is failover of its node disabled, and was none ordered?", ("node", "ordered_by")
        ),
        Rule.BRAKE_HELD: Asked(
            "Does the mass-failure brake hold?", ("suspect_nodes", "counted_nodes", "reason")
        ),
        Rule.MOVE_LIMIT: Asked("Are as many moving as may at once?", ("moving", "moves_max")),
        Rule.TARGET_FITS: Asked(
            "Is the failover target of its node well, and has it room?", ("target_node",)
        ),
        Rule.TERMINATING: Asked("Is its old pod still ending?", ("pods",)),
        Rule.LEFT_BEHIND: Asked(
            "Was a pod left on a lost node, and has its replacement a place?",
            ("left_pod", "left_node", "replacement_node"),
        ),
        Rule.NOT_OWNER: Asked("Is a pod there that does not own it?", ("other_pod", "other_epoch")),
        Rule.NOT_OWNED: Asked("Does a pod run it that nobody owned?", ("pod",)),
        Rule.CHANGED: Asked("Is what should run another than its pod runs?", ("version",)),
        Rule.READY: Asked("Is its pod ready?", ("pod", "node")),
        Rule.FAILED: Asked("Did its pod end, or does it crash again and again?", ("restarts",)),
        Rule.CREATION_LIMIT: Asked(
            "Are as many created in this cycle as may be?", ("created", "creations_max")
        ),
        Rule.NO_EDGE_NODE: Asked("Is there no edge node that takes it?", ("node",)),
        Rule.NO_NODE_FITS: Asked("Is there no node on which it fits?", ("candidates",)),
        Rule.GOES_HOME: Asked("Is it on its way home?", ("home_node",)),
        Rule.HOME_FAILED: Asked("Is its home not well any more?", ("home_node",)),
        Rule.NODE_LEAVES: Asked("Was the node that it is on decommissioned?", ("node",)),
        Rule.ORDERED_AWAY: Asked("Did an operator order it away from its home?", ("by", "reason")),
        Rule.ARRIVED: Asked(
            "Is it ready in its new place, and has it its state?", ("node", "ready", "restored")
        ),
        Rule.RESTORE_GIVEN_UP: Asked(
            "Could its state not be given to it in time?", ("ready_seconds", "restore_seconds")
        ),
        Rule.MOVE_GIVEN_UP: Asked(
            "Has its planned move gone on for too long?",
            ("move_seconds", "planned_move_seconds", "last_error"),
        ),
        Rule.GRANT_REFUSED: Asked(
            "Did the database refuse several times in a row what was asked for it?",
            ("refusals", "refusal"),
        ),
        Rule.AWAY: Asked("Does it live away from its home?", ("node",)),
        Rule.HOME_NOT_ONLINE: Asked("Is its home not online?", ("home_node", "status")),
        Rule.FAILBACK_BY_HAND: Asked(
            "Does its template say that it goes home by hand only, and was it not ordered home?",
            ("manual", "ordered_by"),
        ),
        Rule.KEPT_AWAY: Asked("Does an operator keep it away from its home?", ("by",)),
        Rule.HOME_CORDONED: Asked("Is its home cordoned?", ("home_node",)),
        Rule.HOME_NOT_WELL: Asked("Is its home not well?", ("home_node", "state", "reason")),
        Rule.HOME_NOT_STABLE: Asked(
            "Is its home well for too short a time yet, and was it not ordered home?",
            ("home_node", "due_in_seconds", "ordered_by"),
        ),
        Rule.NOT_READY_YET: Asked("Is it not ready with its state where it is?"),
        Rule.MOVE_BACK_OFF: Asked(
            "Was its last planned move given up, and is the next try not due yet?",
            ("failures", "due_in_seconds", "last_error"),
        ),
        Rule.HOME_TAKEN: Asked("Is another on its way to the same home?", ("home_node",)),
        Rule.NOT_DESIRED: Asked("Does no row desire it?"),
        Rule.GUARD_HELD: Asked("Does the deletion guard hold it?", ("groups",)),
        Rule.REMOVAL_LIMIT: Asked(
            "Are as many ended as may be at once?", ("ending", "removals_max")
        ),
        Rule.NOT_RECORDED: Asked("Could the heartbeat not be recorded?"),
        Rule.DELETION_UNDECIDED: Asked(
            "Is its end undecided: the guard holds, or its pod was not decided on?", ("status",)
        ),
        Rule.NO_PICTURE: Asked(
            "Has no leader of this database a fresh picture of its cluster?", ("status",)
        ),
        Rule.UNOWNED_POD: Asked(
            "Does a pod bear its id that this database does not own, or may one unseen?",
            ("status",),
        ),
        Rule.NOT_FOUND: Asked("Is its row missing?"),
        Rule.ENDED: Asked("Is it terminated or failed?", ("status",)),
        Rule.MOVED_AWAY: Asked(
            "Did its latest move leave the sender's node, and is the owner elsewhere and ready?",
            ("sender_node", "left_node", "owner_node", "owner_ready"),
        ),
    }
)


class Tried(NamedTuple):
    """A rule that was asked, whether it held, and the values of its numbers."""

    rule: Rule
    held: bool
    values: tuple[Scalar, ...] = ()


Answer = tuple[Rule, bool, tuple[Scalar, ...]]
"""The same as it is kept. A plain tuple: in each cycle there are a million of them, and the garbage
collector looks at those of a class of their own for ever."""


class Trail:
    """The rules that are asked for one decision, in their turn."""

    __slots__ = ("answers",)

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def ask(self, rule: Rule, held: bool, *values: Scalar) -> bool:
        """Keep the answer, and give it back."""
        self.answers.append((rule, held, values))
        return held


@dataclass(frozen=True, slots=True)
class Why:
    """What a decision rested on. The last rule of those that were tried and held decided.

    `known` tells what was known: most are never asked. `chosen` is the node that was chosen for a
    new pod, `unfit` says of each other candidate why not.
    """

    known: Callable[[], Mapping[str, Scalar]] = dict
    answers: Sequence[Answer] = ()
    chosen: str | None = None
    unfit: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> Mapping[str, Scalar]:
        """What was known."""
        return self.known()

    @property
    def tried(self) -> Sequence[Tried]:
        """The rules that were asked."""
        return [Tried(*answer) for answer in self.answers]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it. Of many candidates the first are named, and the rest counted."""
        return {
            "facts": {name: _finite(value) for name, value in self.facts.items()},
            "rules": [_rule(one) for one in self.tried],
            **self._candidates(),
        }

    def _candidates(self) -> dict[str, Any]:
        named = sorted(self.unfit.items(), key=lambda one: (one[1] == "selector", one[0]))
        shown, rest = named[:_CANDIDATES_SHOWN_MAX], named[_CANDIDATES_SHOWN_MAX:]
        chosen = [] if self.chosen is None else [{"node": self.chosen, "chosen": True}]
        return {
            "candidates": [
                *({**one, "why_not": None} for one in chosen),
                *({"node": name, "chosen": False, "why_not": str(no)} for name, no in shown),
            ],
            "other_candidates": dict(Counter(str(no) for _, no in rest)),
        }


def _rule(tried: Tried) -> dict[str, Any]:
    asked = RULES[tried.rule]
    return {
        "rule": str(tried.rule),
        "question": asked.question,
        "held": tried.held,
        "numbers": {
            name: _finite(value) for name, value in zip(asked.numbers, tried.values, strict=False)
        },
    }


def _finite(value: Scalar) -> Scalar:
    """JSON has no infinity; and a thousandth is fine enough for people."""
    if not isinstance(value, float):
        return value
    return round(value, 3) if math.isfinite(value) else None
