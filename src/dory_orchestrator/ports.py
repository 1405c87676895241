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
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from dory_orchestrator.core.directive import BeatFacts
from dory_orchestrator.core.model import ProcessorConfig


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
