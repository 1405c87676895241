"""What the rooms ask of one another, and how it fails.

StoreError                  the database did not do what was asked
  StoreUnavailable          it cannot be reached, is not writable, or the breaker is open
    StoreTimeout            it did not answer in time
  StoreBusy                 somebody else holds a row that is needed: try again
  StoreDataError            it refused these very values; others may be fine
  SchemaError               its tables are not what this version needs
  RequestRefused            the request contradicts what is stored; the database is well
    RegistrationRefused     names the field (400)
    EdgeNodeNotFound        no such edge node (500, as the reference says)
    EdgeNodeAmbiguous       the name stands in several organizations (409)

ClusterError                the cluster did not do what was asked
  ClusterUnavailable        it cannot be reached, or does not answer in time
  ClusterRefused            it said no, with a `reason`; it is well

PodUnreachable              a pod's HTTP server gave no usable answer
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from dory_orchestrator.core.directive import BeatFacts
from dory_orchestrator.core.model import Observation, Pod, PodSpec, ProcessorConfig


class StoreError(Exception):
    """The database did not do what was asked."""


class StoreUnavailable(StoreError):
    """It cannot be reached, is not writable, or the circuit breaker is open."""


class StoreTimeout(StoreUnavailable):
    """It did not answer in time."""


class StoreBusy(StoreError):
    """Somebody else holds a row that is needed. The database itself is well: try again."""


class StoreDataError(StoreError):
    """It refused these very values. Others may be fine."""


class SchemaError(StoreError):
    """Its tables are not what this version needs. The message names table and column."""


class RequestRefused(StoreError):
    """The request contradicts what is stored. The database is well."""


class RegistrationRefused(RequestRefused):
    """A registration contradicts what is stored. The message names the field."""


class EdgeNodeNotFound(RequestRefused):
    """No edge node has this name."""


class EdgeNodeAmbiguous(RequestRefused):
    """Edge nodes of several organizations have this name."""


class ClusterError(Exception):
    """The cluster did not do what was asked."""


class ClusterUnavailable(ClusterError):
    """It cannot be reached, or does not answer in time. What was asked may have been done."""


class Refusal(StrEnum):
    """Why a cluster says no."""

    ALREADY_EXISTS = "already_exists"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    """Something else stands there by now: another uid, another version."""
    QUOTA = "quota"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    NAMESPACE_MISSING = "namespace_missing"
    NAMESPACE_TERMINATING = "namespace_terminating"


class ClusterRefused(ClusterError):
    """It said no; the same question will get the same answer for a while."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PodUnreachable(Exception):
    """A pod's HTTP server gave no usable answer in time."""


class Beat(NamedTuple):
    """One heartbeat, as far as it is recorded. A tuple: twelve thousand are made each second."""

    processor_id: UUID
    node_name: str
    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeNode:
    """A row of `edge_nodes`, with exactly the fields that a registration answers with."""

    id: UUID
    organization_id: UUID
    name: str
    status: str
    failover_enabled: bool
    failover_target_node_id: UUID | None
    last_heartbeat_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeNodeRegistration:
    """A request to register. Fields named in `given` came from the caller and are written
    to a row that exists already; the others keep what the row has.
    """

    name: str
    organization_id: UUID
    failover_enabled: bool = True
    failover_target_node_id: UUID | None = None
    given: frozenset[str] = frozenset()


class HeartbeatStore(Protocol):
    """Where heartbeats are written."""

    async def record_heartbeats(
        self, beats: Sequence[Beat], *, canary: bool, timeout_seconds: float
    ) -> list[BeatFacts]:
        """Record a batch in one round trip and say what the database knows of each, in order.

        Of several beats of one processor the last decides its health. `canary` also renews the moment of the last canary beat,
        and stores the time since the one before as a gap when it was too long. An empty batch
        is allowed: it proves that the database takes writes.

        Raises StoreUnavailable (StoreTimeout), StoreDataError. Nothing was recorded then.
        """
        ...


class EdgeNodeStore(Protocol):
    """Edge nodes: few, precious, always written durably."""

    async def register_edge_node(self, registration: EdgeNodeRegistration) -> EdgeNode:
        """Insert, or bring the row of this name and organization back online.

        Raises RegistrationRefused, StoreUnavailable, StoreDataError.
        """
        ...

    async def decommission_edge_node(self, name: str, organization_id: UUID | None) -> int:
        """Stop the node's active apps and mark it; returns how many apps were stopped.

        Raises EdgeNodeNotFound, EdgeNodeAmbiguous, StoreUnavailable, StoreDataError.
        """
        ...


class ConfigStore(Protocol):
    """The desired state."""

    async def list_processor_configs(self) -> Mapping[UUID, ProcessorConfig]:
        """Every desired processor (status other than `terminated` and `failed`), by id.

        Raises StoreUnavailable, StoreDataError: never an empty mapping in place of an error.
        """
        ...

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Wake-ups: the iterator yields whenever the desired state may have changed.

        It ends with StoreUnavailable when the connection is lost; notifications of the
        meantime are lost, so read once after each new start.
        """
        ...


class HealthStore(Protocol):
    """What the checker `database` asks."""

    async def ping(self, timeout_seconds: float) -> None:
        """Return if the database answers and takes writes; else raise StoreUnavailable."""
        ...


class GapStore(Protocol):
    """Time in which we did not hear, besides what the canary finds by itself."""

    async def extend_gap(self, cause: str, since_seconds: float) -> None:
        """Make the open gap of `cause` reach until now, or begin one `since_seconds` ago.

        Raises StoreUnavailable, StoreDataError.
        """
        ...

    async def forget_gaps(self, older_than_seconds: float) -> None:
        """Delete gaps that ended longer ago. Raises StoreUnavailable."""
        ...


class Store(HeartbeatStore, EdgeNodeStore, ConfigStore, HealthStore, GapStore, Protocol):
    """All of it, as one PostgreSQL database provides it."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A state document in the form that the client library writes (platform facts 12.3).

    `version` changes with each write, and is compared when it is overwritten.
    """

    document: bytes
    version: str


class Cluster(Protocol):
    """Where pods run."""

    async def version(self) -> str:
        """What the cluster is, in a few words; the cheapest proof that it answers.

        Raises ClusterUnavailable within two seconds.
        """
        ...

    def observe(self) -> AbstractAsyncContextManager[AsyncIterator[Observation]]:
        """Nodes and pods as they are now, and again after each change.

        Each item is the whole newest picture: whoever is slow skips pictures, and misses
        nothing. The first comes at once. After `create_pod` has returned, no later item lacks
        that pod unless it was deleted; likewise `delete_pod`. The iterator ends with
        ClusterUnavailable when it can no longer be kept up.
        """
        ...

    async def create_pod(self, spec: PodSpec) -> Pod:
        """Create a pod; returns it as it then is.

        Raises ClusterRefused (ALREADY_EXISTS when its name is taken, ...), ClusterUnavailable.
        """
        ...

    async def delete_pod(self, pod: Pod, *, force: bool = False) -> None:
        """Ask for the end of this very pod (its uid); it then terminates within its grace.

        `force` takes it out of the books at once: for a pod whose node is gone. Raises
        ClusterRefused (NOT_FOUND when it is gone, CONFLICT when its name belongs to another
        uid by now), ClusterUnavailable.
        """
        ...

    async def read_state(self, namespace: str, processor_id: UUID) -> StoredState | None:
        """The document that the processor's client library stored last; None if there is none.

        Raises ClusterUnavailable, ClusterRefused.
        """
        ...

    async def seed_state(
        self, namespace: str, processor_id: UUID, document: bytes, *, version: str | None
    ) -> None:
        """Put a document where the client library looks at its next start.

        `version` is that of the document that is overwritten, None when there must be none.
        Raises ClusterRefused (CONFLICT when something else stands there), ClusterUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; pods stay."""
        ...


@dataclass(frozen=True, slots=True)
class PodAnswer:
    """What a pod said to GET /ready and GET /health.

    `sdk_version` is the header X-Dory-SDK-Version of /health: None for a pod without the SDK.
    """

    ready: bool
    healthy: bool
    message: str
    sdk_version: str | None


class Pods(Protocol):
    """The HTTP servers of pods."""

    async def ask(self, address: str, *, timeout_seconds: float) -> PodAnswer:
        """Ask one pod for both probes. Raises PodUnreachable within `timeout_seconds`."""
        ...


class PodFinding(NamedTuple):
    """What the health poller found of one processor's pod."""

    processor_id: UUID
    healthy: bool


class PodHealthStore(Protocol):
    """Where the health poller writes."""

    async def record_pod_health(self, findings: Sequence[PodFinding]) -> None:
        """Write `health_status` and `last_health_check_at` of processors that do not beat
        themselves; those that do keep what their last heartbeat said.

        Raises StoreUnavailable, StoreDataError.
        """
        ...
