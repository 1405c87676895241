"""The Store over PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from dory_orchestrator.core.breaker import BreakerLimits
from dory_orchestrator.core.database_url import read
from dory_orchestrator.core.directive import ENDED, NOT_FOUND, BeatFacts
from dory_orchestrator.core.node_rows import Candidate
from dory_orchestrator.core.picture import Doubts
from dory_orchestrator.metrics import Metrics
from dory_orchestrator.ports import (
    Beat,
    EdgeNode,
    EdgeNodeAmbiguous,
    EdgeNodeNotFound,
    EdgeNodeRegistration,
    RegistrationRefused,
    StoreDataError,
    StoreUnavailable,
)
from dory_orchestrator.store import driver
from dory_orchestrator.store.checkpoints import CheckpointStatements
from dory_orchestrator.store.connections import Connection, Guard, OwnConnection, Pool
from dory_orchestrator.store.control import ControlStore
from dory_orchestrator.store.errors import DRIVER_ERRORS, translate
from dory_orchestrator.store.queries import QUERIES
from dory_orchestrator.store.revision import verify
from dory_orchestrator.store.webhooks import WebhookStatements

CHANNEL = "orchestrator_changed"
_LISTENER_CHECK_SECONDS = 1.0
"""A connection that only listens hears nothing of its end: so often it asks."""
_LOCK_WAIT_MILLISECONDS = "1000"
_UNKNOWN_SHOWN_MAX = 5


class PostgresStore(ControlStore, CheckpointStatements, WebhookStatements):
    """One database, one process's view of it.

    Heartbeats have a connection of their own, so that nothing else can hold them up.
    """

    def __init__(
        self,
        dsn: str,
        *,
        metrics: Metrics,
        pool_size: int,
        timeout_seconds: float,
        canary_gap_seconds: float = 3.0,
        quiet_seconds: float = 30.0,
        breaker: BreakerLimits | None = None,
        role: str = "all",
        has_cluster: bool = False,
    ) -> None:
        """`has_cluster`: a row alone ends no program."""
        self._has_cluster = has_cluster
        self._url = read(dsn)
        self._timeout_seconds = timeout_seconds
        self._canary_gap_seconds = canary_gap_seconds
        self._quiet_seconds = quiet_seconds
        guard = Guard(metrics, breaker)
        self._guard = guard
        self._beats = OwnConnection(self._url, guard=guard, purpose=f"{role} heartbeats")
        self._others = Pool(self._url, size=pool_size, guard=guard, purpose=role)
        self._listeners = 0
        metrics.connections_active.set_function(self._open_connections)

    def _open_connections(self) -> float:
        return self._beats.open_connections + self._others.open_connections + self._listeners

    async def close(self) -> None:
        """Close every connection, within about a second."""
        await asyncio.gather(self._beats.close(), self._others.close())

    async def verify_schema(self) -> None:
        """Raise SchemaError unless the database is what this version needs; StoreUnavailable."""
        await self._others.run("verify_schema", verify, timeout_seconds=10.0)

    async def ping(self, timeout_seconds: float) -> None:
        """See HealthStore."""
        await self._others.run(
            "ping", driver.check, timeout_seconds=timeout_seconds, past_breaker=True
        )

    async def read_doubts(self) -> Doubts:
        """See HealthStore."""

        async def work(connection: Connection) -> Any:
            return await connection.fetchrow(QUERIES["read_doubts"], _UNKNOWN_SHOWN_MAX)

        row = await self._others.run("read_doubts", work, timeout_seconds=self._timeout_seconds)
        return Doubts(**row)

    # Heartbeats

    async def record_heartbeats(
        self, beats: Sequence[Beat], *, canary: bool, timeout_seconds: float
    ) -> list[BeatFacts]:
        """See HeartbeatStore. A deadlock is tried once more."""

        arguments = (
            [beat[0] for beat in beats],
            [beat[1] for beat in beats],
            [beat[2] for beat in beats],
            self._has_cluster,
        )

        async def record(connection: Connection) -> list[Any]:
            rows: list[Any] = await connection.fetch(QUERIES["record_heartbeats"], *arguments)
            return rows

        async def record_with_canary(connection: Connection) -> list[Any]:
            async with connection.transaction():
                rows = await record(connection)
                await connection.execute(QUERIES["renew_canary"], self._canary_gap_seconds)
            return rows

        once = record_with_canary if canary else record

        async def work(connection: Connection) -> list[Any]:
            try:
                return await once(connection)
            except asyncpg.DeadlockDetectedError:
                return await once(connection)

        rows = await self._beats.run("record_heartbeats", work, timeout_seconds=timeout_seconds)
        return _facts(rows, len(beats))

    async def extend_gap(self, cause: str, since_seconds: float) -> None:
        """See GapStore."""
        await self._execute("extend_gap", cause, since_seconds)

    async def forget_gaps(self, older_than_seconds: float) -> None:
        """See GapStore."""
        await self._execute("forget_gaps", older_than_seconds)

    async def _execute(self, query: str, *arguments: object) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(QUERIES[query], *arguments)

        await self._others.run(query, work, timeout_seconds=self._timeout_seconds)

    # Edge nodes

    async def register_edge_node(self, registration: EdgeNodeRegistration) -> EdgeNode:
        """See EdgeNodeStore. A row that the portal inserted in between is found the second time."""
        try:
            return await self._register(registration)
        except StoreDataError as error:
            if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                raise
            return await self._register(registration)

    async def _register(self, registration: EdgeNodeRegistration) -> EdgeNode:
        async def work(connection: Connection) -> EdgeNode:
            async with connection.transaction():
                await connection.execute(QUERIES["limit_lock_waits"], _LOCK_WAIT_MILLISECONDS)
                organization = registration.organization_id
                await connection.execute(QUERIES["lock_organization"], str(organization))
                found = await connection.fetchrow(
                    QUERIES["find_edge_node"], organization, registration.name
                )
                await _check_failover_target(connection, registration, found)
                return await _write_edge_node(connection, registration, found)

        return await self._others.run(
            "register_edge_node", work, timeout_seconds=self._timeout_seconds
        )

    async def decommission_edge_node(self, name: str, organization_id: UUID | None) -> int:
        """See EdgeNodeStore. All in one transaction."""

        async def work(connection: Connection) -> int:
            async with connection.transaction():
                await connection.execute(QUERIES["limit_lock_waits"], _LOCK_WAIT_MILLISECONDS)
                nodes = await connection.fetch(
                    QUERIES["find_edge_nodes_by_name"], name, organization_id
                )
                ids = _of_one_organization(nodes, name)
                stopped: int = await connection.fetchval(QUERIES["stop_edge_node_apps"], ids)
                await connection.execute(QUERIES["decommission_edge_nodes"], ids)
                await connection.execute(QUERIES["cordon_edge_nodes"], ids, "decommissioned")
                return stopped

        return await self._others.run(
            "decommission_edge_node", work, timeout_seconds=self._timeout_seconds
        )

    # Configurations

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[None]]:
        """See ConfigStore. A connection of its own: LISTEN holds it."""
        changed = asyncio.Event()
        try:
            connection = await driver.connect(self._url, "listener")
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        self._listeners += 1
        try:
            connection.add_termination_listener(lambda _connection: changed.set())
            await _listen(connection, changed)
            yield self._wakes(connection, changed)
        finally:
            self._listeners -= 1
            connection.terminate()

    async def _wakes(self, connection: Connection, changed: asyncio.Event) -> AsyncIterator[None]:
        while True:
            try:
                async with asyncio.timeout(_LISTENER_CHECK_SECONDS):
                    await changed.wait()
            except TimeoutError:
                await self._check_listener(connection)
            if connection.is_closed() or self._guard.is_given_up(connection):
                raise StoreUnavailable("the connection that listens for changes was lost")
            if changed.is_set():
                changed.clear()
                yield

    async def _check_listener(self, connection: Connection) -> None:
        try:
            await driver.check(connection)
        except (StoreUnavailable, *DRIVER_ERRORS) as error:
            self._guard.give_up(connection, error)


async def _listen(connection: Connection, changed: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(driver.CONNECT_SECONDS):
            await connection.add_listener(CHANNEL, lambda *_: changed.set())
    except DRIVER_ERRORS as error:
        raise translate(error) from error


def _facts(rows: Sequence[Any], count: int) -> list[BeatFacts]:
    """Facts by the ordinals, from 1, of the beats that share them."""
    facts = [NOT_FOUND] * count
    for ordinals, found, recorded, status, left, owner, ready, *doubts, _ in rows:
        if not found and not any(doubts):
            continue
        shared = BeatFacts(found, recorded or not found, status or "", left, owner, ready, *doubts)
        for ordinal in ordinals:
            before = facts[ordinal - 1]
            # A table without a key may hold an id twice: the row that keeps it alive counts.
            if before is NOT_FOUND or before.status in ENDED:
                facts[ordinal - 1] = shared
    return facts


async def _check_failover_target(
    connection: Connection, registration: EdgeNodeRegistration, found: Any
) -> None:
    target = registration.failover_target_node_id
    if target is None:
        return
    rows = await connection.fetch(QUERIES["failover_chain"], registration.organization_id, target)
    chain = {row["id"] for row in rows}
    if target not in chain:
        raise RegistrationRefused(
            "failover_target_node_id: no edge node of this organization has this id"
        )
    if found is not None and found["id"] == target:
        raise RegistrationRefused("failover_target_node_id: a node cannot be its own target")
    if found is not None and found["id"] in chain:
        raise RegistrationRefused("failover_target_node_id: the targets would form a cycle")


async def _write_edge_node(
    connection: Connection, registration: EdgeNodeRegistration, found: Any
) -> EdgeNode:
    if found is None:
        row = await connection.fetchrow(
            QUERIES["insert_edge_node"],
            registration.organization_id,
            registration.name,
            registration.failover_enabled,
            registration.failover_target_node_id,
        )
        return EdgeNode(**row)
    if found["status"] == "decommissioned":
        # It comes back without work: an operator decides when it is trusted again.
        await connection.execute(QUERIES["cordon_edge_nodes"], [found["id"]], "decommissioned")
    row = await connection.fetchrow(
        QUERIES["bring_edge_node_online"],
        found["id"],
        "failover_enabled" in registration.given,
        registration.failover_enabled,
        "failover_target_node_id" in registration.given,
        registration.failover_target_node_id,
    )
    return EdgeNode(**row)


def _of_one_organization(nodes: Sequence[Any], name: str) -> list[UUID]:
    if not nodes:
        raise EdgeNodeNotFound(f"node_name: no edge node is called {name!r}")
    if len({node["organization_id"] for node in nodes}) > 1:
        raise EdgeNodeAmbiguous("node_name", name, [Candidate(**node) for node in nodes])
    return [node["id"] for node in nodes]
