"""What a simulation stands on: its clock and queue, its timeline, faults and broken promises."""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

BEGAN_AT = 1_700_000_000.0
"""What the clocks show at the simulated moment 0."""


class Fault(StrEnum):
    """Kinds of injected trouble."""

    NODE_DOWN = "node_down"
    NODE_CUT = "node_cut"
    NODE_MUTE = "node_mute"
    NODE_DARK = "node_dark"
    NODE_FLAP = "node_flap"
    SITE_OUTAGE = "site_outage"
    APPLICATION_NODE_DOWN = "application_node_down"
    POLLER_CUT = "poller_cut"
    DATABASE_OUTAGE = "database_outage"
    API_OUTAGE = "api_outage"
    LEADER_KILLED = "leader_killed"
    LEADER_FROZEN = "leader_frozen"
    CLOCK_STEP = "clock_step"
    CLOCK_JUMP = "clock_jump"
    WATCH_STALLED = "watch_stalled"
    CALL_LOST = "call_lost"
    CALL_UNHEARD = "call_unheard"
    CALL_LATE = "call_late"
    CALL_REFUSED = "call_refused"
    POD_CRASH = "pod_crash"
    BEAT_LOST = "beat_lost"
    CHECKPOINT_LOST = "checkpoint_lost"
    CONFIG_CHANGE = "config_change"
    REMOVAL = "removal"
    ROWS_VANISH = "rows_vanish"


class Promise(StrEnum):
    """What must hold whatever happens."""

    ONE_OWNER = "never two owners in one epoch"
    EPOCH_ONCE = "an epoch is never given twice"
    NO_FALSE_SHUTDOWN = "a desired owner is never told to shut down"
    NO_FALSE_MOVE = "only what truly is in trouble is left"
    BRAKE_HOLDS = "nothing is moved while the brake is engaged"
    NEWEST_CHECKPOINT = "an accepted checkpoint is never replaced by an older one"
    STATED_LOSS = "no more is lost than the move states"
    NOTHING_DELETED = "a desired set that vanishes deletes nothing"
    RUNS_ONCE = "in the end all runs exactly once, at home where home is well"
    NEVER_RAISES = "a decision never raises"


class Broken(Exception):
    """A promise was broken."""

    def __init__(self, promise: Promise, detail: str) -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise = promise
        self.detail = detail


class Line(NamedTuple):
    """One moment of the timeline."""

    at: float
    kind: str
    text: str
    notable: bool


class Ground:
    """The queue of moments, and what is gathered while they pass.

    `now` is the true time. The database and the cluster have clocks of their own.
    """

    def __init__(self, seed: int, keeps_lines: int | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - no secret hangs on it
        self.now = 0.0
        self.database_offset = 0.0
        self.jumped = 0.0
        self.lines: deque[Line] = deque(maxlen=keeps_lines)
        self.faults: Counter[Fault] = Counter()
        self.checks: Counter[Promise] = Counter()
        self._queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    @property
    def database_now(self) -> float:
        """By the clock of the database."""
        return BEGAN_AT + self.now + self.jumped + self.database_offset

    @property
    def cluster_now(self) -> float:
        """By the clocks of the cluster and of its pods."""
        return BEGAN_AT + self.now + self.jumped

    def after(self, seconds: float, call: Callable[..., object], *given: Any) -> None:
        """Have something happen in so many seconds."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, call, given))

    def run_until(self, end: float) -> None:
        """Let everything happen that is due until then."""
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, call, given = heapq.heappop(queue)
            call(*given)
        self.now = end

    def between(self, least: float, most: float) -> float:
        """A random number of seconds."""
        return least + (most - least) * self.random.random()

    def chance(self, share: float) -> bool:
        """Whether it happens this time."""
        return self.random.random() < share

    def tell(self, kind: str, text: str, *, notable: bool = True) -> None:
        """Add a line to the timeline."""
        self.lines.append(Line(self.now, kind, text, notable))

    def fault(self, fault: Fault, text: str, *, notable: bool = True) -> None:
        """Count an injected fault."""
        self.faults[fault] += 1
        self.tell(fault, text, notable=notable)

    def check(self, promise: Promise, holds: bool, detail: str | Callable[[], str] = "") -> None:
        """Raises Broken unless it holds."""
        self.checks[promise] += 1
        if not holds:
            said = detail if isinstance(detail, str) else detail()
            self.tell("BROKEN", f"{promise}: {said}")
            raise Broken(promise, said)
