"""Checkpoints: what a processor's state is, which of two is newer, and what proves a restore.

States are kept as the bytes that the client library would write, never as values: they may hold
NaN or NUL, which PostgreSQL's jsonb and msgspec refuse. The standard library's parser is the one
that the client library uses, so what it can read we can, and the checksums agree.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import zip_longest
from typing import Any, NamedTuple

SAME_READY_SECONDS = 2.0
"""`captured_at` is cut to whole seconds, so one incarnation's ready time varies by one."""

CUT_SECONDS = 1.0
"""How much later than it says a capture may have been taken: its moment is cut."""

_POSITION_KEY = "dory_position"
_RECEIVED_KEY = "dory_received_at"
"""In the metadata of documents that we write: the client library ignores them."""


class Position(NamedTuple):
    """Where a checkpoint stands: the greater one is newer. `sequence` counts what we received."""

    epoch: int
    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """The client library takes no more than 1 MiB with POST (platform facts 8.3), which is what a
    ConfigMap holds too; what is around a state must fit as well."""

    size_bytes_max: int = 1_000_000
    document_bytes_max: int = 8 * 1024 * 1024


# Payloads -----------------------------------------------------------------------------------


def payload_of(state: Mapping[str, Any]) -> bytes:
    """A state as the client library would write it. Keys keep their order: programs may mean it."""
    return json.dumps(state).encode()


def sha256_of(payload: bytes) -> bytes:
    """Tells payloads apart."""
    return hashlib.sha256(payload).digest()


def checksum_of(state: Mapping[str, Any]) -> str:
    """The client library's checksum (platform facts 12.3)."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def is_empty(payload: bytes) -> bool:
    """Whether there is nothing in it."""
    return payload == b"{}"


def _parse(content: bytes) -> Any:
    """Any JSON, NaN included. Raises ValueError, whatever is wrong."""
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _write(state: Mapping[str, Any]) -> bytes:
    """Raises ValueError where it was only just not too deep to be read."""
    try:
        return payload_of(state)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _number(value: object) -> float | None:
    """A finite number; to Python, `true` is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# What a pod answers to GET /state -----------------------------------------------------------


class CaptureReason(StrEnum):
    """Why an answer is no checkpoint."""

    MALFORMED = "malformed"
    ERROR = "error"
    NO_DATA = "no_data"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    NOT_READY = "not_ready"
    ANOTHER_POD = "another_pod"


class CaptureRefused(Exception):
    """An answer is no checkpoint. The message says what is wrong."""

    def __init__(self, reason: CaptureReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Capture:
    """A state, and when it was taken: moments are by the pod's clock, `uptime_seconds` is below 0
    after that was set back. `asked_at`, by the clock of whoever asked, is when it was asked for:
    what came after that is not in it."""

    payload: bytes
    sha256: bytes
    pod_name: str
    captured_at: float
    uptime_seconds: float
    asked_at: float | None = None

    @property
    def ready_at(self) -> float:
        """When this incarnation became ready: it stays the same for as long as it lives."""
        return self.captured_at - self.uptime_seconds


def read_capture(
    body: bytes, limits: CaptureLimits, *, pod_name: str | None = None, had_state: bool = False
) -> Capture:
    """Understand an ApplicationState (platform facts 8.2). Raises CaptureRefused.

    With `pod_name`, that pod must have written it: addresses are given to others later.
    After a state (`had_state`) an empty one is no progress, but a program that lost it.
    """
    try:
        answer = _parse(body)
    except ValueError as error:
        raise CaptureRefused(CaptureReason.MALFORMED, f"is not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise CaptureRefused(CaptureReason.MALFORMED, "is no object")
    if "error" in answer:
        raise CaptureRefused(CaptureReason.ERROR, f"the program failed: {answer['error']!s:.200}")
    payload = _payload(answer, limits.size_bytes_max)
    capture = _capture(answer, payload)
    if pod_name is not None and capture.pod_name != pod_name:
        raise CaptureRefused(CaptureReason.ANOTHER_POD, f"is of pod {capture.pod_name!s:.100}")
    if had_state and is_empty(payload):
        raise CaptureRefused(CaptureReason.EMPTY, "is empty, and was not before")
    return capture


def _payload(answer: Mapping[str, Any], size_bytes_max: int) -> bytes:
    if "data" not in answer:
        raise CaptureRefused(CaptureReason.NO_DATA, "has no data")
    data = answer["data"]
    if not isinstance(data, dict):
        raise CaptureRefused(CaptureReason.NO_DATA, "data is no object")
    try:
        payload = _write(data)
    except ValueError as error:
        raise CaptureRefused(CaptureReason.MALFORMED, str(error)) from error
    if len(payload) > size_bytes_max:
        raise CaptureRefused(
            CaptureReason.TOO_LARGE, f"is {len(payload)} bytes; {size_bytes_max} can be restored"
        )
    return payload


def _capture(answer: Mapping[str, Any], payload: bytes) -> Capture:
    pod_name, uptime_seconds = answer.get("pod_name"), _number(answer.get("uptime_seconds"))
    captured_at = _moment(answer.get("captured_at"))
    if not isinstance(pod_name, str):
        raise CaptureRefused(CaptureReason.MALFORMED, "pod_name is no text")
    if captured_at is None:
        raise CaptureRefused(CaptureReason.MALFORMED, "captured_at is no moment in UTC")
    if uptime_seconds is None:
        raise CaptureRefused(CaptureReason.MALFORMED, "uptime_seconds is no number")
    # Below 0 the pod's clock was set back since it became ready: only `ready_at` counts, which
    # is right all the same, as both moments are by that clock.
    if uptime_seconds == 0:
        # What was saved is restored just before the uptime begins to count.
        raise CaptureRefused(CaptureReason.NOT_READY, "the program has not restored its state yet")
    return Capture(payload, sha256_of(payload), pod_name, captured_at, uptime_seconds)


def _moment(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


# The document in the client library's store -------------------------------------------------


class DocumentRefused(Exception):
    """A stored document cannot be used: the client library would start from nothing."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document that was read. `saved_at` is by the clock of the pod that saved it; where we
    wrote it, `position` is that of the checkpoint, received at `received_at` by the database's."""

    payload: bytes
    sha256: bytes
    pod_name: str
    saved_at: float
    position: Position | None = None
    received_at: float | None = None


def document(
    payload: bytes,
    *,
    processor_id: object,
    pod_name: str,
    timestamp: float,
    position: Position | None = None,
    received_at: float | None = None,
) -> bytes:
    """What the client library reads at its next start. Raises ValueError for what is no state.

    Without line breaks, which it does not ask for: indented, deep states outgrow a ConfigMap.
    """
    state = _parse(payload)
    moment = datetime.fromtimestamp(math.floor(timestamp), UTC)
    metadata = {
        "timestamp": timestamp,
        "timestamp_iso": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "processor_id": str(processor_id),
        "pod_name": pod_name,
        "restart_count": 0,
    }
    if position is not None:
        metadata[_POSITION_KEY] = list(position)
    if received_at is not None:
        metadata[_RECEIVED_KEY] = received_at
    rest = json.dumps({"metadata": metadata, "checksum": checksum_of(state)})
    return b'{"payload": ' + payload + b", " + rest[1:].encode()


def read_document(content: bytes, limits: CaptureLimits) -> Document:
    """Understand a stored document and verify its checksum. Raises DocumentRefused."""
    try:
        read = _parse(content)
        if not isinstance(read, dict):
            raise DocumentRefused("it is no object")
        state, metadata = read.get("payload"), read.get("metadata")
        if not isinstance(state, dict) or not isinstance(metadata, dict):
            raise DocumentRefused("it has no payload or no metadata")
        payload = _write(state)
        if read.get("checksum") != checksum_of(state):
            raise DocumentRefused("its checksum is wrong")
    except ValueError as error:
        raise DocumentRefused(f"it is not JSON: {error}") from error
    if len(payload) > limits.document_bytes_max:
        raise DocumentRefused(f"its state is {len(payload)} bytes")
    pod_name, saved_at = metadata.get("pod_name"), _number(metadata.get("timestamp"))
    if not isinstance(pod_name, str) or saved_at is None:
        raise DocumentRefused("its metadata do not tell by whom it was saved, and when")
    return Document(
        payload,
        sha256_of(payload),
        pod_name,
        saved_at,
        _position(metadata),
        _number(metadata.get(_RECEIVED_KEY)),
    )


def _position(metadata: Mapping[str, Any]) -> Position | None:
    parts = metadata.get(_POSITION_KEY)
    if isinstance(parts, list) and len(parts) == 3 and all(type(part) is int for part in parts):
        return Position(*parts)
    return None


# Incarnations -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a container, from its start to its end.

    `number` grows with each one of a processor; `given` tells that it goes on from the newest
    there was, or that there was none. One that is `behind` is to be given that, and was not yet;
    `unprotected` says why it never will be. Of one that was adopted `ready_at` is not known until
    it is asked.
    """

    number: int
    pod_uid: str
    pod_name: str
    restart_count: int
    ready_at: float | None
    given: bool = False
    behind: bool = False
    unprotected: str | None = None


def is_same_incarnation(
    known: Incarnation, *, pod_uid: str, restart_count: int, ready_at: float
) -> bool:
    """Whether what was seen is the life that is known. The count of restarts, which the cluster
    tells with a delay, may still be that of an earlier one."""
    return (
        known.pod_uid == pod_uid
        and restart_count <= known.restart_count
        and (known.ready_at is None or abs(ready_at - known.ready_at) <= SAME_READY_SECONDS)
    )


def expected_restart_count(known: Incarnation | None, pod_uid: str, restart_count: int) -> int:
    """The count of a new life that we may have seen before the cluster told of it."""
    if known is None or known.pod_uid != pod_uid:
        return restart_count
    return max(restart_count, known.restart_count + 1)


# Which of two is newer ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as it is stored. `captured_at` is by the pod's clock; the others are by the
    database's: received, last seen unchanged, and how long ago that was when it was read."""

    position: Position
    pod_uid: str
    pod_name: str
    captured_at: float
    received_at: float
    confirmed_at: float
    payload: bytes
    sha256: bytes
    age_seconds: float = field(default=0.0, compare=False)


class DocumentReason(StrEnum):
    """Why a document in the client library's store is taken as a checkpoint, or is not."""

    OURS = "ours"
    STRANGER = "stranger"
    PRESENT = "present"
    FIRST = "first"
    SAME = "same"
    OLDER_POD = "older_pod"
    OLDER = "older"
    DOUBTFUL = "doubtful"
    CONTRADICTED = "contradicted"
    NEWER = "newer"

    @property
    def taken(self) -> bool:
        """Whether it becomes the newest checkpoint."""
        return self in (DocumentReason.FIRST, DocumentReason.NEWER)


def is_ahead(found: Document, newest: StoredCheckpoint | None) -> bool:
    """Whether a document that we wrote is newer than all that the database has: that was rolled
    back since. We write only what it has stored."""
    if found.position is None or (newest is not None and found.sha256 == newest.sha256):
        return False
    return newest is None or found.position > newest.position


def judge_document(
    found: Document,
    newest: StoredCheckpoint | None,
    *,
    pod_names: Sequence[str],
    last: Incarnation | None,
    proof: Sequence[str] = (),
    restarted: bool = False,
    before: float | None = None,
) -> DocumentReason:
    """Whether a document is newer than the newest checkpoint; the first rule that holds decides.

    `pod_names` are those of the owner and of the owner before it, in this order. `last` is the
    last incarnation that is known; `restarted`, that its pod has begun another life of which
    nothing else is known. `before` is when the present life of the pod became ready, by its
    captures, if it goes on.
    """
    if found.position is not None:
        return DocumentReason.OURS
    if found.pod_name not in pod_names:
        return DocumentReason.STRANGER
    if before is not None and found.saved_at >= before + CUT_SECONDS:
        # The pod itself tells more.
        return DocumentReason.PRESENT
    if newest is None:
        return DocumentReason.FIRST
    if found.sha256 == newest.sha256:
        return DocumentReason.SAME
    if _is_of_older_pod(found, newest, pod_names):
        return DocumentReason.OLDER_POD
    # A capture's moment is cut to whole seconds; a save at the end is later than any capture.
    if found.pod_name == newest.pod_name and found.saved_at < newest.captured_at:
        return DocumentReason.OLDER
    if is_empty(found.payload) and not is_empty(newest.payload):
        return DocumentReason.CONTRADICTED
    wrong = prove(newest.payload, found.payload, proof)
    if _is_doubtful(found, last, restarted) and (wrong is not None or not proof):
        was_judged_older = last is not None and last.behind
        if wrong is None and not was_judged_older and has_grown(newest.payload, found.payload):
            # It ended before it could be judged.
            return DocumentReason.NEWER
        # A life that began from an older state, and was ended before it had the newest.
        return DocumentReason.DOUBTFUL
    if proof and found.pod_name == newest.pod_name and wrong is not None:
        # Saved later, and further back: by a life that nobody noticed, as at a leader's change.
        return DocumentReason.DOUBTFUL
    if found.pod_name != newest.pod_name and wrong is not None:
        return DocumentReason.CONTRADICTED
    return DocumentReason.NEWER


def _is_of_older_pod(found: Document, newest: StoredCheckpoint, pod_names: Sequence[str]) -> bool:
    """Any pod that is no owner any more is older than both."""
    if newest.pod_name not in pod_names:
        return False
    return pod_names.index(newest.pod_name) < pod_names.index(found.pod_name)


def _is_doubtful(found: Document, last: Incarnation | None, restarted: bool) -> bool:
    if last is None or last.pod_name != found.pod_name:
        return False
    return restarted or not last.given


def place_document(found: Document, newest: StoredCheckpoint | None) -> tuple[int, int]:
    """Epoch and incarnation of a document that is taken: behind the newest checkpoint, and
    before all that later pods will send."""
    if newest is None:
        return 0, 1
    if newest.pod_name == found.pod_name:
        return newest.position.epoch, newest.position.incarnation
    return newest.position.epoch, newest.position.incarnation + 1


# Proof of a restore -------------------------------------------------------------------------


def prove(given: bytes, found: bytes, proof: Sequence[str]) -> str | None:
    """None when `found` continues from `given`; else what is wrong.

    All top-level keys are there; and what each JSON pointer of `proof` leads to is equal or, of
    numbers, not smaller: the program runs on meanwhile, so plain equality never holds.
    """
    try:
        before, after = _parse(given), _parse(found)
    except ValueError as error:
        return str(error)
    if not isinstance(before, dict) or not isinstance(after, dict):
        return "it is no object"
    missing = [key for key in before if key not in after]
    if missing:
        return f"it lacks {', '.join(repr(key)[:60] for key in missing[:5])}"
    for pointer in proof:
        wrong = _compare(pointer, before, after)
        if wrong is not None:
            return wrong
    return None


class _Nothing:
    """Where a pointer leads nowhere."""


def _compare(pointer: str, before: object, after: object) -> str | None:
    was, is_now = _at(pointer, before), _at(pointer, after)
    if was is _Nothing:
        return None
    if is_now is _Nothing:
        return f"{pointer} is missing"
    least, number = _number(was), _number(is_now)
    if least is not None and number is not None:
        return None if number >= least else f"{pointer} is {number:g}, and was {least:g}"
    # As text, so that NaN is what it was.
    same = json.dumps(was, sort_keys=True) == json.dumps(is_now, sort_keys=True)
    return None if same else f"{pointer} is another value than before"


def _at(pointer: str, value: object) -> object:
    """What a JSON pointer (RFC 6901) leads to; `_Nothing` when it leads nowhere."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and _is_index(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return _Nothing
    return value


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 10


# What became of a state ---------------------------------------------------------------------

_MOMENT_MIN = 1e9
"""Of 2001 in seconds: a number that is as high may be a clock, which grows whatever else is lost."""


def has_grown(before: bytes, after: bytes) -> bool:
    """Whether nothing that was there is missing, no number is lower, and one that is no moment is
    higher: so it looks when a program has gone on from a state. Where it cannot be told, not."""
    grown = False
    for was, now in _leaves(before, after):
        if now is _Nothing or isinstance(was, dict | list):
            return False
        if _is_number(was) and _is_number(now):
            if now < was:
                return False
            grown = grown or was < now < _MOMENT_MIN
    return grown


def numbers_in_both(before: bytes, after: bytes) -> Iterator[tuple[float, float]]:
    """Pairs of finite numbers that stand in the same place of two states. None where the states
    cannot be read."""
    return (
        (was, now) for was, now in _leaves(before, after) if _is_number(was) and _is_number(now)
    )


def _leaves(before: bytes, after: bytes) -> Iterator[tuple[Any, Any]]:
    """What stood in each place of a state, and what stands there now; `_Nothing` where there was
    no such place, or is none any more. Deep ones are met in turn, not by recursion."""
    try:
        waiting = [(_parse(before), _parse(after))]
    except ValueError:
        return
    while waiting:
        was, now = waiting.pop()
        if isinstance(was, dict) and isinstance(now, dict):
            waiting.extend((value, now.get(key, _Nothing)) for key, value in was.items())
        elif isinstance(was, list) and isinstance(now, list):
            waiting.extend(zip_longest(was, now, fillvalue=_Nothing))
        else:
            yield was, now


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not isinstance(value, float) or math.isfinite(value)
