"""The same small world, in memory and in PostgreSQL, for the contract suite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import UUID, uuid4

import asyncpg
from tests.doubles import MemoryStore, Processor

from dory_orchestrator.core.model import ProcessorConfig
from dory_orchestrator.ports import Store


class World(Protocol):
    """What a contract test arranges and looks at, beside the store itself."""

    store: Store

    async def add_processor(
        self,
        *,
        status: str = "running",
        edge_node_id: UUID | None = None,
        left: str | None = None,
        owner: str | None = None,
        owner_ready: bool = False,
    ) -> UUID:
        """A processor; `left` is the name of a node that it left in its latest move."""
        ...

    async def health_of(self, processor_id: UUID) -> str: ...

    async def last_heartbeat_of(self, edge_node_id: UUID) -> object: ...

    async def touch_desired(self, processor_id: UUID) -> None:
        """Change what is desired, so that whoever listens is woken."""
        ...

    async def desire(self, status: str) -> UUID:
        """A processor with a template and an active version."""
        ...


class MemoryWorld:
    """Over the double."""

    def __init__(self) -> None:
        self.store: Any = MemoryStore()

    async def add_processor(
        self,
        *,
        status: str = "running",
        edge_node_id: UUID | None = None,
        left: str | None = None,
        owner: str | None = None,
        owner_ready: bool = False,
    ) -> UUID:
        key = uuid4()
        self.store.processors[key] = Processor(
            status, "unknown", edge_node_id, left, owner, owner_ready
        )
        return key

    async def health_of(self, processor_id: UUID) -> str:
        health: str = self.store.processors[processor_id].health_status
        return health

    async def last_heartbeat_of(self, edge_node_id: UUID) -> object:
        return self.store.nodes[edge_node_id].last_heartbeat_at

    async def touch_desired(self, processor_id: UUID) -> None:
        self.store.notify()

    async def desire(self, status: str) -> UUID:
        key = uuid4()
        if status not in {"terminated", "failed"}:
            self.store.configs[key] = ProcessorConfig(
                processor_id=key,
                organization_id=None,
                name=None,
                node_type="edge",
                namespace="default",
                status=status,
                template_slug="camera",
                versions=(),
                sensor_id=None,
                sensor_config=None,
                sensor_location=None,
            )
        return key


class PostgresWorld:
    """Over a database; `connection` is a foreign one, like the portal's."""

    def __init__(self, store: Store, connection: "asyncpg.Connection[Any]") -> None:
        self.store = store
        self.connection = connection

    async def add_processor(
        self,
        *,
        status: str = "running",
        edge_node_id: UUID | None = None,
        left: str | None = None,
        owner: str | None = None,
        owner_ready: bool = False,
    ) -> UUID:
        key: UUID = await self.connection.fetchval(
            "INSERT INTO processors (processor_template_id, status) VALUES ($1, $2) RETURNING id",
            uuid4(),
            status,
        )
        if edge_node_id is not None:
            await self.connection.execute(
                "INSERT INTO edge_node_apps (edge_node_id, processor_id, status)"
                " VALUES ($1, $2, 'active')",
                edge_node_id,
                key,
            )
        if left is not None or owner is not None:
            await self._own(key, left, owner, owner_ready)
        return key

    async def _own(self, key: UUID, left: str | None, owner: str | None, ready: bool) -> None:
        departed = None
        if left is not None:
            departed = await self.connection.fetchval(
                "INSERT INTO edge_nodes (organization_id, name, status)"
                " VALUES ($1, $2, 'offline') RETURNING id",
                uuid4(),
                left,
            )
        await self.connection.execute(
            "INSERT INTO orchestrator.ownership"
            " (processor_id, epoch, node_name, ready, left_edge_node_id)"
            " VALUES ($1, 1, $2, $3, $4)",
            key,
            owner,
            ready,
            departed,
        )

    async def health_of(self, processor_id: UUID) -> str:
        health: str = await self.connection.fetchval(
            "SELECT health_status FROM processors WHERE id = $1", processor_id
        )
        return health

    async def last_heartbeat_of(self, edge_node_id: UUID) -> object:
        return await self.connection.fetchval(
            "SELECT last_heartbeat_at FROM edge_nodes WHERE id = $1", edge_node_id
        )

    async def touch_desired(self, processor_id: UUID) -> None:
        await self.connection.execute(
            "UPDATE processors SET k8s_namespace = 'other' WHERE id = $1", processor_id
        )

    async def desire(self, status: str) -> UUID:
        template = await self.connection.fetchval(
            "INSERT INTO processor_templates (slug) VALUES ($1) RETURNING id", str(uuid4())
        )
        await self.connection.execute(
            "INSERT INTO processor_template_versions"
            " (processor_template_id, version, image_uri, is_active, runtime_config_template)"
            " VALUES ($1, '1', 'image', true, '{}')",
            template,
        )
        key: UUID = await self.connection.fetchval(
            "INSERT INTO processors (processor_template_id, status) VALUES ($1, $2) RETURNING id",
            template,
            status,
        )
        return key


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection of somebody else's."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()
