"""What the client and the process of a local cluster say to one another."""

from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from dory_orchestrator.core.model import Node, Pod, PodSpec
from dory_orchestrator.ports import Refusal

T = TypeVar("T")

REFUSED_STATUS = 409
ENDING_STATUS = 503

KEEPALIVE_SECONDS = 1.0
"""How often a stream of changes says something, if only that nothing changed."""


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long things take in a local cluster. The defaults are those of Kubernetes, except
    that a node is found out, and its next status comes, within seconds.
    """

    not_ready_after_seconds: float = 5.0
    status_seconds: float = 1.0
    crash_first_seconds: float = 10.0
    crash_most_seconds: float = 300.0
    crash_forgotten_after_seconds: float = 600.0
    stop_seconds: float = 10.0
    """How long the pods together get to end when the cluster stops."""


class CreatePod(msgspec.Struct, frozen=True):
    """Answered by a Pod."""

    spec: PodSpec


class DeletePod(msgspec.Struct, frozen=True):
    """The pod of this uid; `force` takes it out of the books at once."""

    namespace: str
    name: str
    uid: str
    force: bool


class DeclareNodes(msgspec.Struct, frozen=True):
    """The nodes that there shall be: their names, labels, taints and sizes."""

    nodes: tuple[Node, ...]


class Configure(msgspec.Struct, frozen=True):
    """Where the uplinks of the nodes lead, and the token that new pods get."""

    orchestrator_url: str
    state_token: str | None


class Named(msgspec.Struct, frozen=True):
    """A node or a pod."""

    name: str


class FindPod(msgspec.Struct, frozen=True):
    """A pod by its name."""

    namespace: str
    name: str


class Stop(msgspec.Struct, frozen=True):
    """The end of the cluster and all its pods; `immediate` without any grace."""

    immediate: bool


class Revision(msgspec.Struct, frozen=True):
    """A moment of the books. Those of two runs of the process cannot be compared."""

    boot: str
    number: int

    def lacks(self, other: "Revision") -> bool:
        """Whether this is an earlier moment of the same run."""
        return self.boot == other.boot and self.number < other.number


class Answer(msgspec.Struct, frozen=True):
    """What a call brought, and the moment of the books after it."""

    revision: Revision
    result: Any = None


class RefusedAnswer(msgspec.Struct, frozen=True):
    """Why a call brought nothing."""

    reason: Refusal
    message: str


class Frame(msgspec.Struct, frozen=True):
    """One line of the stream: what changed since the line before; at first everything."""

    revision: Revision
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    gone_nodes: tuple[str, ...] = ()
    gone_pods: tuple[str, ...] = ()


def encode(message: object) -> bytes:
    """As JSON, without a line break."""
    return msgspec.json.encode(message, enc_hook=_plain)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises msgspec.DecodeError (ValidationError is one)."""
    return msgspec.json.decode(data, type=kind)


def _plain(value: object) -> object:
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise NotImplementedError(type(value).__name__)
