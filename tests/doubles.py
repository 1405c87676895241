"""A store in memory. It passes the same contract suite as PostgreSQL."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from dory_orchestrator.core.directive import NOT_FOUND, BeatFacts
from dory_orchestrator.core.model import ProcessorConfig
from dory_orchestrator.ports import (
    Beat,
    EdgeNode,
    EdgeNodeAmbiguous,
    EdgeNodeNotFound,
    EdgeNodeRegistration,
    RegistrationRefused,
    StoreError,
    StoreUnavailable,
)


@dataclass
class Processor:
    """What the double keeps of a row of `processors`."""

    status: str = "running"
    health_status: str = "unknown"
    edge_node_id: UUID | None = None
    left_node_name: str | None = None
    owner_node_name: str | None = None
    owner_ready: bool = False
    locked: bool = False


@dataclass
class MemoryStore:
    """Set `error` to have every call fail with it; `hold` to have calls wait."""

    processors: dict[UUID, Processor] = field(default_factory=dict)
    nodes: dict[UUID, EdgeNode] = field(default_factory=dict)
    configs: dict[UUID, ProcessorConfig] = field(default_factory=dict)
    error: StoreError | None = None
    hold: asyncio.Event | None = None
    batches: list[list[Beat]] = field(default_factory=list)
    canaries: int = 0
    gaps: list[tuple[str, float]] = field(default_factory=list)
    before_batch: Callable[[Sequence[Beat]], None] = lambda _beats: None
    _changed: list[asyncio.Event] = field(default_factory=list)

    async def _answer(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error

    async def ping(self, timeout_seconds: float) -> None:
        await self._answer()

    async def record_heartbeats(
        self, beats: Sequence[Beat], *, canary: bool, timeout_seconds: float
    ) -> list[BeatFacts]:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._answer()
        except TimeoutError as error:
            raise StoreUnavailable("no answer in time") from error
        self.before_batch(beats)
        self.batches.append(list(beats))
        self.canaries += canary
        return [self._record(beat) for beat in beats]

    def _record(self, beat: Beat) -> BeatFacts:
        processor = self.processors.get(beat.processor_id)
        if processor is None:
            return NOT_FOUND
        if not processor.locked:
            processor.health_status = "healthy" if beat.healthy else "unhealthy"
            self._touch(processor.edge_node_id)
        return BeatFacts(
            True,
            not processor.locked,
            processor.status,
            processor.left_node_name,
            processor.owner_node_name,
            processor.owner_ready,
        )

    def _touch(self, edge_node_id: UUID | None) -> None:
        if edge_node_id in self.nodes:
            node = self.nodes[edge_node_id]
            self.nodes[edge_node_id] = replace(node, last_heartbeat_at=datetime.now(UTC))

    async def register_edge_node(self, registration: EdgeNodeRegistration) -> EdgeNode:
        await self._answer()
        found = next(
            (
                node
                for node in self.nodes.values()
                if (node.organization_id, node.name)
                == (registration.organization_id, registration.name)
            ),
            None,
        )
        self._check_target(registration, found)
        node = self._registered(registration, found)
        self.nodes[node.id] = node
        return node

    def _check_target(self, registration: EdgeNodeRegistration, found: EdgeNode | None) -> None:
        seen: set[UUID] = set()
        at = registration.failover_target_node_id
        while at is not None and at not in seen:
            node = self.nodes.get(at)
            if node is None or node.organization_id != registration.organization_id:
                raise RegistrationRefused("failover_target_node_id: unknown")
            if found is not None and at == found.id:
                raise RegistrationRefused("failover_target_node_id: a cycle")
            seen.add(at)
            at = node.failover_target_node_id

    def _registered(self, given: EdgeNodeRegistration, found: EdgeNode | None) -> EdgeNode:
        if found is None:
            return EdgeNode(
                id=uuid.uuid4(),
                organization_id=given.organization_id,
                name=given.name,
                status="online",
                failover_enabled=given.failover_enabled,
                failover_target_node_id=given.failover_target_node_id,
                last_heartbeat_at=None,
            )
        changes = {name: getattr(given, name) for name in given.given}
        return replace(found, status="online", **changes)

    async def decommission_edge_node(self, name: str, organization_id: UUID | None) -> int:
        await self._answer()
        found = [
            node
            for node in self.nodes.values()
            if node.name == name and organization_id in (None, node.organization_id)
        ]
        if not found:
            raise EdgeNodeNotFound("node_name: unknown")
        if len({node.organization_id for node in found}) > 1:
            raise EdgeNodeAmbiguous("node_name: in several organizations")
        return sum(self._decommission(node) for node in found)

    def _decommission(self, node: EdgeNode) -> int:
        self.nodes[node.id] = replace(node, status="decommissioned")
        linked = [p for p in self.processors.values() if p.edge_node_id == node.id]
        for processor in linked:
            processor.edge_node_id = None
        return len(linked)

    async def list_processor_configs(self) -> Mapping[UUID, ProcessorConfig]:
        await self._answer()
        return dict(self.configs)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[None]]:
        if self.error is not None:
            raise self.error
        changed = asyncio.Event()
        self._changed.append(changed)
        try:
            yield _wakes(changed)
        finally:
            self._changed.remove(changed)

    def notify(self) -> None:
        """What a trigger does when the desired state changes."""
        for changed in self._changed:
            changed.set()

    async def extend_gap(self, cause: str, since_seconds: float) -> None:
        await self._answer()
        self.gaps.append((cause, since_seconds))

    async def forget_gaps(self, older_than_seconds: float) -> None:
        await self._answer()


async def _wakes(changed: asyncio.Event) -> AsyncIterator[None]:
    while True:
        await changed.wait()
        changed.clear()
        yield
