"""What goes over the wire, as types: requests are decoded into them, answers encoded from
them, and `/openapi.json` is generated from them.

Source of every field: http-api-reference, "Edge API" and "Observability & health".
"""

import json
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

BODY_BYTES_MAX = 64 * 1024

_INT64 = 2**63
Int64 = Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)]
# An integer beyond 64 bits is refused in a float's place too.
Number = Annotated[float, Meta(ge=-float(_INT64), le=float(_INT64))]
# Documented here; refused by `_check_text`, which a pattern for each string would make dearer.
Text = Annotated[str, Meta(extra_json_schema={"pattern": r"^[^\x00]*$"})]
NodeName = Annotated[
    str,
    # No control characters: the name goes into labels, logs and pages.
    Meta(min_length=1, max_length=253, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"),
]


class BodyError(ValueError):
    """A body that is not what it must be; the text names the field. Answered with 400."""


class Heartbeat(Struct):
    """A processor's report. Every field is optional."""

    processor_id: Annotated[Text, Meta(description="The processor's UUID.")] = ""
    node_id: Annotated[Text, Meta(description="Name of the node that the sender runs on.")] = ""
    role: Text = ""
    epoch: Annotated[
        Int64 | None, Meta(description="The client's own fencing counter; never compared.")
    ] = None
    timestamp: Annotated[Number, Meta(description="The sender's Unix time, in seconds.")] = 0.0
    status: Text = ""
    last_state_sync: Number | None = None
    state_size_bytes: Int64 | None = None
    uptime_sec: Number = 0.0


class HeartbeatAnswer(Struct):
    """The answer to a heartbeat."""

    acknowledged: Annotated[bool, Meta(description="Whether the heartbeat was recorded.")]
    orchestrator_time: Annotated[float, Meta(description="Unix time, in seconds.")]
    directive: Annotated[str, Meta(description="`continue` or `shutdown`; nothing else.")]


class EdgeNodeRequest(Struct):
    """Registers an edge node, or brings it back online."""

    name: NodeName
    organization_id: UUID
    failover_enabled: bool | UnsetType = UNSET
    failover_target_node_id: Annotated[
        UUID | UnsetType | None,
        Meta(description="Another edge node of the same organization, preferred on failover."),
    ] = UNSET


class EdgeNodeAnswer(Struct):
    """A registered edge node."""

    id: UUID
    organization_id: UUID
    name: str
    status: str
    failover_enabled: bool
    failover_target_node_id: UUID | None
    last_heartbeat_at: datetime | None


class DecommissionRequest(Struct):
    """Decommissions an edge node."""

    node_name: NodeName
    organization_id: Annotated[
        UUID | None, Meta(description="Needed when several organizations use the name.")
    ] = None


class DecommissionAnswer(Struct):
    """A decommissioned edge node."""

    status: str
    node_name: str
    apps_stopped: int


class ComponentAnswer(Struct):
    """One component's health."""

    status: str
    message: str
    last_check: Annotated[str, Meta(description="RFC 3339, UTC.")]


class HealthAnswer(Struct):
    """Health of the orchestrator."""

    status: Annotated[str, Meta(description="`healthy`, `degraded` or `unhealthy`.")]
    timestamp: Annotated[str, Meta(description="RFC 3339, UTC.")]
    version: str
    components: dict[str, ComponentAnswer]


class NodeCandidate(Struct):
    """An edge node that may be meant by a name."""

    organization_id: UUID
    id: UUID
    status: str


class ErrorAnswer(Struct, omit_defaults=True):
    """What is wrong, naming the field."""

    error: str
    candidates: Annotated[
        list[NodeCandidate] | UnsetType,
        Meta(description="With a name that several organizations have a node of: those nodes."),
    ] = UNSET


T = TypeVar("T")

_heartbeat = msgspec.json.Decoder(Heartbeat)
_HEARTBEAT_KEYS = tuple(f'"{field}"'.encode() for field in Heartbeat.__struct_fields__)


def heartbeat(body: bytes) -> Heartbeat:
    """Decode a heartbeat. Raises BodyError.

    The checks that msgspec does not make are expensive, so they run only on bodies in which
    their trouble can be: an escape may hide a NUL or a key, a field named twice is ambiguous.
    """
    decoded = _decode(_heartbeat, body)
    if b"\\u" in body or any(body.count(key) > 1 for key in _HEARTBEAT_KEYS):
        _check_text(body)
    return decoded


def parse(type_: type[T], body: bytes) -> T:
    """Decode any other request. Raises BodyError."""
    decoded = _decode(msgspec.json.Decoder(type_), body)
    _check_text(body)
    return decoded


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BodyError(named(str(error))) from error
    except msgspec.DecodeError as error:
        raise BodyError(f"body: {error}") from error
    except UnicodeDecodeError as error:
        # msgspec lets these two leave as they are.
        raise BodyError("body: a string is not UTF-8") from error
    except RecursionError as error:
        raise BodyError("body: nested too deeply") from error


def named(text: str) -> str:
    """`Expected ... - at `$.field`` with the field in front."""
    message, separator, place = text.partition(" - at `$.")
    if separator:
        if "matching regex" in message:
            message = "a control character is not allowed"
        return f"{place.rstrip('`')}: {message}"
    if text.startswith("Object missing required field `"):
        return f"{text.split('`')[1]}: required"
    return f"body: {text}"


def _check_text(body: bytes) -> None:
    """Refuse NUL characters (PostgreSQL stores none) and keys that stand twice."""
    try:
        json.loads(body, object_pairs_hook=_object)
    except BodyError:
        raise
    except (ValueError, RecursionError) as error:
        raise BodyError(f"body: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = set()
    for key, value in pairs:
        if key in keys:
            raise BodyError(f"{key[:100]}: stands twice")
        keys.add(key)
        if "\0" in key or _holds_nul(value):
            raise BodyError(f"{key[:100]!r}: holds a NUL character")
    return dict(pairs)


def _holds_nul(value: Any) -> bool:
    """In a string or a list of them; objects were looked at before."""
    if isinstance(value, list):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value
