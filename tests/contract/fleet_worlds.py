"""The same small fleet, in memory and in PostgreSQL, for the contract suite of the views."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import asyncpg
from tests.views_double import MemoryViews

from dory_orchestrator.core.model import node_key
from dory_orchestrator.ports import FleetViews, MoveView, NodeView, ProcessorView

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_ENDED = ("terminated", "failed")


class FleetWorld(Protocol):
    """What a contract test arranges, beside the views themselves."""

    views: FleetViews

    async def add_processor(
        self,
        name: str | None,
        *,
        key: UUID | None = None,
        status: str | None = "running",
        template: str | None = None,
        organization_id: UUID | None = None,
        namespace: str = "default",
        health_status: str = "unknown",
        state: str | None = None,
        reason: str = "running",
        node: str | None = None,
        epoch: int | None = None,
        pod_epoch: int | None = None,
        minutes: int = 0,
    ) -> UUID:
        """A processor; without `status` it has no row, and the rest is what it was last; without
        `state` nobody looked at it."""
        ...

    async def add_node(
        self,
        name: str,
        *,
        kind: str | None = None,
        ready: bool = True,
        utilisation: float = 0.0,
        organization_id: UUID | None = None,
        cordon: str | None = None,
        health: str | None = None,
    ) -> None:
        """With `kind` it is in the cluster, with `organization_id` it is an edge node, with
        `health` it was judged."""
        ...

    async def tell(self, kind: str, reason: str, **values: Any) -> int:
        """An event; its id."""
        ...

    async def hold(self, **groups: int) -> None: ...

    async def engage(self, reason: str, detail: str, *, population: int) -> None:
        """The brake."""
        ...

    async def let_the_override_end(self) -> None:
        """As time does."""
        ...

    async def move(
        self,
        processor_id: UUID,
        *,
        kind: str = "failover",
        from_node: str = "edge-1",
        to_node: str | None = None,
        outcome: str | None = None,
    ) -> int:
        """A move, under way without `outcome`; its id."""
        ...

    async def send_away(self, processor_id: UUID, home: str, *, minutes: int = 0) -> None:
        """It lives away from this edge node, which was added before."""
        ...

    async def checkpoint(self, processor_id: UUID, *, minutes: int = 0) -> None:
        """Its newest state was confirmed then."""
        ...

    async def link(self, processor_id: UUID, node: str) -> None:
        """It belongs to that edge node, and lives there."""
        ...

    async def fail(self, processor_id: UUID, failures: int, *, due_in_seconds: float) -> None:
        """So often in a row."""
        ...

    async def lead(self, answer: Mapping[str, Any]) -> "asyncio.Task[None]":
        """A leader gives this answer to the next question; nothing else does."""
        ...

    async def end_pause(self) -> None:
        """As time does."""
        ...

    async def orders(self) -> dict[UUID, tuple[str, str, str]]:
        """Those that stand: kind, by whom, and why."""
        ...

    async def woken(self) -> int:
        """How often the leader was woken by what was decided."""
        ...


class MemoryFleet:
    """Over the double."""

    def __init__(self) -> None:
        self.views: Any = MemoryViews()

    async def add_processor(
        self,
        name: str | None,
        *,
        key: UUID | None = None,
        status: str | None = "running",
        template: str | None = None,
        organization_id: UUID | None = None,
        namespace: str = "default",
        health_status: str = "unknown",
        state: str | None = None,
        reason: str = "running",
        node: str | None = None,
        epoch: int | None = None,
        pod_epoch: int | None = None,
        minutes: int = 0,
    ) -> UUID:
        key = key or uuid4()
        if state is None and (status is None or status in _ENDED):
            return key
        seen = state is not None
        self.views.processors[key] = ProcessorView(
            id=key,
            name=name,
            organization_id=organization_id,
            template=template,
            version="1.0" if template and status else None,
            node_type="edge" if status else None,
            namespace=namespace,
            status=status,
            health_status=health_status,
            last_health_check_at=None,
            state=state or "unknown",
            reason=reason if seen else "not_looked_at",
            detail="because" if seen else "the leader has not looked at it yet",
            node_name=node,
            pod_name="pod" if seen else None,
            pod_ip=None,
            pod_uid="uid" if seen else None,
            epoch=epoch,
            pod_epoch=pod_epoch,
            restart_count=0 if seen else None,
            since=MOMENT + timedelta(minutes=minutes) if seen else None,
        )
        return key

    async def add_node(
        self,
        name: str,
        *,
        kind: str | None = None,
        ready: bool = True,
        utilisation: float = 0.0,
        organization_id: UUID | None = None,
        cordon: str | None = None,
        health: str | None = None,
    ) -> None:
        edge, inside = organization_id is not None, kind is not None
        self.views.nodes.append(
            NodeView(
                name=name,
                kind=kind or "edge",
                ready=ready if inside else None,
                ready_changed_at=None,
                unschedulable=False if inside else None,
                cordoned=cordon is not None,
                cordon_cause=cordon,
                edge_node_id=uuid4() if edge else None,
                organization_id=organization_id,
                status="online" if edge else None,
                failover_enabled=True if edge else None,
                failover_target_node_id=None,
                last_heartbeat_at=None,
                heartbeat_age_seconds=None,
                health=health,
                health_reason="why" if health else None,
                health_detail="because" if health else None,
                health_since=MOMENT if health else None,
                cpu_millicores=1000 if inside else None,
                memory_bytes=2000 if inside else None,
                gpu_count=0 if inside else None,
                pods=1 if inside else None,
                pods_max=110 if inside else None,
                utilisation=utilisation if inside else None,
                processors={},
            )
        )

    async def tell(self, kind: str, reason: str, **values: Any) -> int:
        event: int = self.views.tell(kind, reason, **values).id
        return event

    async def hold(self, **groups: int) -> None:
        self.views.held_since, self.views.groups = MOMENT, groups

    async def engage(self, reason: str, detail: str, *, population: int) -> None:
        self.views.engaged_at, self.views.population_count = MOMENT, population
        self.views.brake_reason, self.views.brake_detail = reason, detail

    async def let_the_override_end(self) -> None:
        self.views.override = (MOMENT, *self.views.override[1:])

    async def move(
        self,
        processor_id: UUID,
        *,
        kind: str = "failover",
        from_node: str = "edge-1",
        to_node: str | None = None,
        outcome: str | None = None,
    ) -> int:
        known = self.views.processors.get(processor_id)
        done = outcome == "done"
        found = MoveView(
            id=len(self.views.moves) + 1,
            processor_id=processor_id,
            processor_name=known.name if known else None,
            kind=kind,
            detail="because",
            from_node=from_node,
            to_node=to_node,
            edge_node_id=UUID(int=5),
            old_uid="uid",
            epoch=2,
            began_at=MOMENT,
            last_alive_at=MOMENT - timedelta(seconds=20),
            state_at=MOMENT - timedelta(seconds=25),
            ended_at=MOMENT + timedelta(seconds=9) if outcome else None,
            outcome=outcome,
            rto_seconds=29.5 if done else None,
            rpo_seconds=5.0 if done else None,
            suspect_at=MOMENT - timedelta(seconds=10),
        )
        self.views.moves.append(found)
        return found.id

    async def send_away(self, processor_id: UUID, home: str, *, minutes: int = 0) -> None:
        self.views.homes[processor_id] = home, MOMENT + timedelta(minutes=minutes)

    async def checkpoint(self, processor_id: UUID, *, minutes: int = 0) -> None:
        self.views.checkpoints[processor_id] = MOMENT + timedelta(minutes=minutes)

    async def link(self, processor_id: UUID, node: str) -> None:
        self.views.links[processor_id] = node

    async def fail(self, processor_id: UUID, failures: int, *, due_in_seconds: float) -> None:
        self.views.failures[processor_id] = (failures, due_in_seconds)

    async def lead(self, answer: Mapping[str, Any]) -> "asyncio.Task[None]":
        self.views.answer = lambda question: answer
        return asyncio.create_task(asyncio.sleep(0))

    async def end_pause(self) -> None:
        self.views.paused = None

    async def orders(self) -> dict[UUID, tuple[str, str, str]]:
        return dict(self.views.orders)

    async def woken(self) -> int:
        wakes: int = self.views.wakes
        return wakes


class PostgresFleet:
    """Over a database; `connection` is the leader's and the portal's at once."""

    def __init__(self, views: FleetViews, connection: "asyncpg.Connection[Any]") -> None:
        self.views = views
        self.connection = connection
        self._wakes = 0

    async def listen(self) -> None:
        """Count wake-ups from now on."""
        await self.connection.add_listener("orchestrator_changed", self._wake)

    def _wake(self, *_: object) -> None:
        self._wakes += 1

    async def add_processor(
        self,
        name: str | None,
        *,
        key: UUID | None = None,
        status: str | None = "running",
        template: str | None = None,
        organization_id: UUID | None = None,
        namespace: str = "default",
        health_status: str = "unknown",
        state: str | None = None,
        reason: str = "running",
        node: str | None = None,
        epoch: int | None = None,
        pod_epoch: int | None = None,
        minutes: int = 0,
    ) -> UUID:
        key = key or uuid4()
        if status is not None:
            await self.connection.execute(
                "INSERT INTO processors (id, name, status, processor_template_id,"
                " organization_id, k8s_namespace, health_status, node_type)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, 'edge')",
                key,
                name,
                status,
                await self._template(template),
                organization_id,
                namespace,
                health_status,
            )
        elif name is not None:
            await self.connection.execute(
                "INSERT INTO orchestrator.last_known"
                " (processor_id, name, organization_id, template, health_status)"
                " VALUES ($1, $2, $3, $4, $5)",
                key,
                name,
                organization_id,
                template,
                health_status,
            )
        if state is not None:
            await self.connection.execute(
                "INSERT INTO orchestrator.processor_states (processor_id, state, reason, detail,"
                " namespace, pod_name, pod_uid, node_name, epoch, restart_count, since)"
                " VALUES ($1, $2, $3, 'because', $4, 'pod', 'uid', $5, $6, 0, $7)",
                key,
                state,
                reason,
                namespace,
                node,
                pod_epoch,
                MOMENT + timedelta(minutes=minutes),
            )
        if epoch is not None:
            await self.connection.execute(
                "INSERT INTO orchestrator.ownership (processor_id, epoch) VALUES ($1, $2)",
                key,
                epoch,
            )
        return key

    async def _template(self, slug: str | None) -> UUID:
        if slug is None:
            return uuid4()
        found: UUID | None = await self.connection.fetchval(
            "SELECT id FROM processor_templates WHERE slug = $1", slug
        )
        if found is not None:
            return found
        key: UUID = await self.connection.fetchval(
            "INSERT INTO processor_templates (slug) VALUES ($1) RETURNING id", slug
        )
        await self.connection.execute(
            "INSERT INTO processor_template_versions"
            " (processor_template_id, version, image_uri, is_active)"
            " VALUES ($1, '1.0', 'image', true), ($1, '0.9', 'image', false)",
            key,
        )
        return key

    async def add_node(
        self,
        name: str,
        *,
        kind: str | None = None,
        ready: bool = True,
        utilisation: float = 0.0,
        organization_id: UUID | None = None,
        cordon: str | None = None,
        health: str | None = None,
    ) -> None:
        if kind is not None:
            await self.connection.execute(
                "INSERT INTO orchestrator.nodes (name, kind, ready, unschedulable,"
                " cpu_millicores, memory_bytes, gpu_count, pods_max, pods, utilisation)"
                " VALUES ($1, $2, $3, false, 1000, 2000, 0, 110, 1, $4)",
                name,
                kind,
                ready,
                utilisation,
            )
        key = None
        if organization_id is not None:
            key = await self.connection.fetchval(
                "INSERT INTO edge_nodes (name, organization_id) VALUES ($1, $2) RETURNING id",
                name,
                organization_id,
            )
            if cordon is not None:
                await self.connection.execute(
                    "INSERT INTO orchestrator.cordons (edge_node_id, cause) VALUES ($1, $2)",
                    key,
                    cordon,
                )
        if health is not None:
            await self.connection.execute(
                "INSERT INTO orchestrator.node_health"
                " (key, name, edge_node_id, state, reason, detail, since)"
                " VALUES ($1, $2, $3, $4, 'why', 'because', $5)",
                node_key(key, name),
                name,
                key,
                health,
                MOMENT.timestamp(),
            )

    async def tell(self, kind: str, reason: str, **values: Any) -> int:
        names = ("at", "processor_id", "node_name", "pod_name", "pod_uid", "epoch", "term")
        event: int = await self.connection.fetchval(
            "INSERT INTO orchestrator.events (kind, reason, detail, at, processor_id, node_name,"
            " pod_name, pod_uid, epoch, term)"
            " VALUES ($1, $2, '', COALESCE($3, now()), $4, $5, $6, $7, $8, $9) RETURNING id",
            kind,
            reason,
            *(values.get(name) for name in names),
        )
        return event

    async def hold(self, **groups: int) -> None:
        await self.connection.execute(
            "UPDATE orchestrator.guard SET held_since = $1, held = $2", MOMENT, json.dumps(groups)
        )

    async def engage(self, reason: str, detail: str, *, population: int) -> None:
        await self.connection.execute(
            "UPDATE orchestrator.brake"
            " SET engaged_at = $1, reason = $2, detail = $3, population = $4",
            MOMENT.timestamp(),
            reason,
            detail,
            [uuid4() for _ in range(population)],
        )

    async def let_the_override_end(self) -> None:
        await self.connection.execute(
            "UPDATE orchestrator.brake SET override_until = extract(epoch FROM now())"
        )

    async def move(
        self,
        processor_id: UUID,
        *,
        kind: str = "failover",
        from_node: str = "edge-1",
        to_node: str | None = None,
        outcome: str | None = None,
    ) -> int:
        done = outcome == "done"
        found: int = await self.connection.fetchval(
            "INSERT INTO orchestrator.moves (processor_id, kind, detail, from_node, to_node,"
            " edge_node_id, old_uid, epoch, began_at, last_alive_at, state_at, ended_at, outcome,"
            " rto_seconds, rpo_seconds, suspect_at) VALUES ($1, $2, 'because', $3, $4, $5, 'uid', 2,"
            " $6, $7, $8, $9, $10, $11, $12, $13) RETURNING id",
            processor_id,
            kind,
            from_node,
            to_node,
            UUID(int=5),
            MOMENT,
            MOMENT - timedelta(seconds=20),
            MOMENT - timedelta(seconds=25),
            MOMENT + timedelta(seconds=9) if outcome else None,
            outcome,
            29.5 if done else None,
            5.0 if done else None,
            MOMENT - timedelta(seconds=10),
        )
        return found

    async def send_away(self, processor_id: UUID, home: str, *, minutes: int = 0) -> None:
        await self.connection.execute(
            "INSERT INTO edge_node_apps (edge_node_id, processor_id, status, updated_at)"
            " SELECT id, $1, 'failed_over', $3 FROM edge_nodes WHERE name = $2",
            processor_id,
            home,
            MOMENT + timedelta(minutes=minutes),
        )

    async def checkpoint(self, processor_id: UUID, *, minutes: int = 0) -> None:
        await self.connection.execute(
            "INSERT INTO orchestrator.checkpoints (processor_id, epoch, incarnation, pod_uid,"
            " pod_name, captured_at, confirmed_at, sha256, size_bytes, body)"
            " VALUES ($1, 1, $2, 'uid', 'pod', 0, $3, '', 0, '')",
            processor_id,
            minutes,
            MOMENT + timedelta(minutes=minutes),
        )

    async def link(self, processor_id: UUID, node: str) -> None:
        await self.connection.execute(
            "INSERT INTO edge_node_apps (edge_node_id, processor_id, status)"
            " SELECT id, $1, 'active' FROM edge_nodes WHERE name = $2",
            processor_id,
            node,
        )

    async def fail(self, processor_id: UUID, failures: int, *, due_in_seconds: float) -> None:
        await self.connection.execute(
            "INSERT INTO orchestrator.ownership (processor_id, epoch, failures, retry_at)"
            " VALUES ($1, 1, $2, now() + make_interval(secs => $3))",
            processor_id,
            failures,
            due_in_seconds,
        )

    async def lead(self, answer: Mapping[str, Any]) -> "asyncio.Task[None]":
        return asyncio.create_task(self._answer(json.dumps(answer)))

    async def _answer(self, text: str) -> None:
        for _ in range(200):
            done = await self.connection.execute(
                "UPDATE orchestrator.questions SET answer = $1, answered_at = now()"
                " WHERE answered_at IS NULL",
                text,
            )
            if done != "UPDATE 0":
                return
            await asyncio.sleep(0.02)

    async def end_pause(self) -> None:
        await self.connection.execute(
            "UPDATE orchestrator.pause SET until = extract(epoch FROM now())"
        )

    async def orders(self) -> dict[UUID, tuple[str, str, str]]:
        rows = await self.connection.fetch(
            "SELECT processor_id, kind, by, reason FROM orchestrator.orders"
        )
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    async def woken(self) -> int:
        await self.connection.execute("SELECT 1")  # what was sent before arrived with this
        return self._wakes
