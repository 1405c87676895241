"""What becomes of an event that is sent to a webhook, and how a receiver knows it is ours. Pure."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

OWN_KIND = "webhook"
"""Of events about webhooks. They are sent to none: one that says that a receiver takes nothing
would be the next that it does not take."""
LETTERS_MAX = 10_000
"""Dead letters of a webhook that are kept."""
_PUT_OFF = (408, 425, 429)
"""Of all 4xx only these say that another time may do."""


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """How often, and how far apart, an event is sent before it is given up.

    With the defaults after 1 s, 4 s, 16 s and so on, but never later than 15 minutes: 36 minutes
    in all.
    """

    tries_max: int = 8
    first_seconds: float = 1.0
    factor: float = 4.0
    most_seconds: float = 900.0
    wished_seconds_max: float = 3_600.0
    """The receiver may wish for more patience, up to this."""

    def delay_seconds(self, tries: int) -> float:
        """The wait after so many tries, at least one."""
        # Bounded exponent: the power would else grow with the tries.
        return min(self.most_seconds, self.first_seconds * self.factor ** min(tries - 1, 32))


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """It is sent again after this long."""

    after_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Dead:
    """It is not sent again, unless an operator says so."""

    error: str


Verdict = Delivered | Retry | Dead


def decide(
    status: int | None,
    error: str,
    *,
    tries: int,
    wished_seconds: float | None = None,
    limits: DeliveryLimits | None = None,
) -> Verdict:
    """What the answer to try number `tries` (from 1) means.

    `status` is that of HTTP; None when there was no answer, and `error` says why.
    `wished_seconds` is how long the receiver asked to be left alone.
    """
    limits = limits or DeliveryLimits()
    if status is not None and 200 <= status < 300:
        return Delivered()
    said = error if status is None else f"answered {status}"
    if status is not None and 400 <= status < 500 and status not in _PUT_OFF:
        return Dead(said)
    if tries >= limits.tries_max:
        return Dead(f"{said}, {tries} times")
    wished = min(max(wished_seconds or 0.0, 0.0), limits.wished_seconds_max)
    return Retry(max(limits.delay_seconds(tries), wished), said)


def is_wanted(kind: str, patterns: Sequence[str]) -> bool:
    """Whether an event of this kind is sent to a webhook with these patterns."""
    return kind != OWN_KIND and any(fnmatchcase(kind, pattern) for pattern in patterns)


def signature(secret: str, event_id: int, timestamp: int, body: bytes) -> str:
    """The header that proves that a body, and the moment in Unix seconds, come from who knows
    the secret."""
    signed = b"%d.%d.%b" % (event_id, timestamp, body)
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
