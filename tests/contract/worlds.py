"""The same small world, in memory and in PostgreSQL, for the contract suite."""

import json
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import asyncpg
from tests.doubles import MemoryStore, Processor

from dory_orchestrator.core.answering import Question, QuestionKind
from dory_orchestrator.core.model import (
    Drill,
    DrillPhase,
    Order,
    OrderKind,
    Pause,
    Pod,
    PodPhase,
    PodSpec,
    ProcessorConfig,
)
from dory_orchestrator.core.plan import Adopt, Choice, Create, Delete, Failure, Forget, Reason
from dory_orchestrator.ports import Event, NodeSummary, Store

ENDED = ("terminated", "failed")
Shown = tuple[str | None, str | None, str | None]
_CONFIG = ProcessorConfig(
    processor_id=UUID(int=0),
    organization_id=None,
    name=None,
    node_type="edge",
    namespace="default",
    status="running",
    template_slug="camera",
    versions=(),
    sensor_id=None,
    sensor_config=None,
    sensor_location=None,
)


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

    async def move_heartbeat(self, edge_node_id: UUID, seconds: float) -> None:
        """Let the last heartbeat of a node be so many seconds from now."""
        ...

    async def touch_desired(self, processor_id: UUID) -> None:
        """Change what is desired, so that whoever listens is woken."""
        ...

    async def desire(self, status: str = "running") -> UUID:
        """A processor with a template and an active version."""
        ...

    async def end(self, processor_id: UUID, status: str) -> None:
        """Give its row another status."""
        ...

    async def remove(self, processor_id: UUID) -> None:
        """Delete its row."""
        ...

    async def link(self, processor_id: UUID, edge_node_id: UUID) -> None:
        """An active link that the platform made."""
        ...

    async def pause(self, seconds: float) -> None:
        """An operator pauses everything; 0: the pause is over."""
        ...

    async def order(self, processor_id: UUID, kind: OrderKind) -> None:
        """An operator orders it away or home."""
        ...

    async def ask(self, kind: str, text: str) -> int:
        """An operator asks, with these parameters as JSON; the question's id."""
        ...

    async def answered(self, number: int) -> object:
        """The answer; None: there is none."""
        ...

    async def drill(self, edge_node_id: UUID) -> None:
        """An operator starts a drill of an edge node."""
        ...

    async def withdraw(self, processor_id: UUID) -> None:
        """An operator takes an order back."""
        ...

    async def explanations(self) -> list[Any]:
        """Of every event, in order."""
        ...

    async def trace_ids(self) -> list[str | None]:
        """Of every event, in order."""
        ...

    async def forget_beat(self, processor_id: UUID, seconds: float) -> None:
        """Make its last word so old."""
        ...

    async def shown_of(self, processor_id: UUID) -> Shown:
        """What the platform's pages show: pod name, address, node."""
        ...

    async def status_of(self, processor_id: UUID) -> str: ...

    async def events(self) -> list[tuple[Event, int | None]]:
        """In order, with their terms."""
        ...

    async def states(self) -> Mapping[UUID, tuple[object, ...]]:
        """Of each processor what is shown: state, reason, detail, pod name, uid, epoch."""
        ...

    async def nodes(self) -> Mapping[str, NodeSummary]: ...

    async def shown_term(self) -> int:
        """Of which leader is what is shown."""
        ...

    async def guard(self) -> tuple[dict[str, int], str]:
        """What the guard holds for, by group, and in words."""
        ...

    async def confirm(self, counts: Mapping[str, int]) -> None:
        """An operator accepts counts."""
        ...


class MemoryWorld:
    """Over the double."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.store: Store = self.memory

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
        self.memory.processors[key] = Processor(
            status, "unknown", edge_node_id, left, owner, owner_ready
        )
        return key

    async def declare_adopted(self, processor_id: UUID) -> None:
        """As an operator does."""
        self.memory.to_adopt.add(processor_id)  # type: ignore[attr-defined]

    async def archived(self, processor_id: UUID, reason: str) -> list[bytes]:
        """The states that are archived for this reason, the first one first."""
        kept = getattr(self.memory, "archive", {}).get((processor_id, reason), [])
        return [one.payload for one in kept]

    async def health_of(self, processor_id: UUID) -> str:
        return self.memory.processors[processor_id].health_status

    async def last_heartbeat_of(self, edge_node_id: UUID) -> object:
        return self.memory.nodes[edge_node_id].last_heartbeat_at

    async def move_heartbeat(self, edge_node_id: UUID, seconds: float) -> None:
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        node = self.memory.nodes[edge_node_id]
        self.memory.nodes[edge_node_id] = replace(node, last_heartbeat_at=at)

    async def touch_desired(self, processor_id: UUID) -> None:
        self.memory.notify()

    async def desire(self, status: str = "running") -> UUID:
        key = uuid4()
        self.memory.processors[key] = Processor()
        await self.end(key, status)
        return key

    async def end(self, processor_id: UUID, status: str) -> None:
        if status in ENDED:
            self.memory.undesire(processor_id, status)
        else:
            self.memory.desire(replace(_CONFIG, processor_id=processor_id, status=status))

    async def remove(self, processor_id: UUID) -> None:
        self.memory.undesire(processor_id)

    async def link(self, processor_id: UUID, edge_node_id: UUID) -> None:
        self.memory.processors[processor_id].edge_node_id = edge_node_id

    async def pause(self, seconds: float) -> None:
        self.memory.pause = Pause(self.memory.clock() + seconds, "eva", "why")

    async def order(self, processor_id: UUID, kind: OrderKind) -> None:
        self.memory.orders[processor_id] = Order(kind, "eva", "why")

    async def ask(self, kind: str, text: str) -> int:
        number = len(self.memory.questions) + 1
        question = Question(number, QuestionKind(kind), json.loads(text))
        self.memory.questions.append(question)
        return number

    async def answered(self, number: int) -> object:
        return self.memory.answers.get(number)

    async def drill(self, edge_node_id: UUID) -> None:
        name, at = self.memory.nodes[edge_node_id].name, self.memory.clock()
        self.memory.drill = Drill(1, edge_node_id, name, DrillPhase.RUNNING, at, at + 60, "eva")

    async def withdraw(self, processor_id: UUID) -> None:
        del self.memory.orders[processor_id]

    async def explanations(self) -> list[Any]:
        return [e.explanation and json.loads(e.explanation) for e in self.memory.events]

    async def trace_ids(self) -> list[str | None]:
        return [event.trace_id for event in self.memory.events]

    async def forget_beat(self, processor_id: UUID, seconds: float) -> None:
        row = self.memory.processors[processor_id]
        row.last_health_check_at = row.heartbeat_at = self.memory.clock() - seconds

    async def shown_of(self, processor_id: UUID) -> Shown:
        row = self.memory.processors[processor_id]
        return row.pod_name, row.pod_ip, row.node_name

    async def status_of(self, processor_id: UUID) -> str:
        return self.memory.processors[processor_id].status

    async def events(self) -> list[tuple[Event, int | None]]:
        return [(told.event, told.term) for told in self.memory.told]

    async def states(self) -> Mapping[UUID, tuple[object, ...]]:
        return {
            key: (
                found.state,
                found.reason,
                found.detail,
                found.pod and found.pod.name,
                found.pod and found.pod.uid,
                found.pod and found.pod.epoch,
            )
            for key, found in self.memory.states.items()
        }

    async def nodes(self) -> Mapping[str, NodeSummary]:
        return self.memory.node_rows

    async def shown_term(self) -> int:
        return self.memory.shown_term

    async def guard(self) -> tuple[dict[str, int], str]:
        return self.memory.guard_counts, self.memory.guard_detail

    async def confirm(self, counts: Mapping[str, int]) -> None:
        self.memory.confirm(counts)


class PostgresWorld:
    """Over a database; `connection` is a foreign one, like the portal's."""

    def __init__(self, store: Store, connection: "asyncpg.Connection[Any]") -> None:
        self.store = store
        self.connection = connection

    async def declare_adopted(self, processor_id: UUID) -> None:
        await self.connection.execute(
            "INSERT INTO orchestrator.adopted_documents (processor_id, by) VALUES ($1, 'eve')",
            processor_id,
        )

    async def archived(self, processor_id: UUID, reason: str) -> list[bytes]:
        rows = await self.connection.fetch(
            "SELECT body FROM orchestrator.archived_states"
            " WHERE processor_id = $1 AND reason = $2 ORDER BY place",
            processor_id,
            reason,
        )
        return [zlib.decompress(row["body"]) for row in rows]

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
            await self.link(key, edge_node_id)
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

    async def move_heartbeat(self, edge_node_id: UUID, seconds: float) -> None:
        await self.connection.execute(
            "UPDATE edge_nodes SET last_heartbeat_at = now() + make_interval(secs => $2)"
            " WHERE id = $1",
            edge_node_id,
            seconds,
        )

    async def touch_desired(self, processor_id: UUID) -> None:
        await self.connection.execute(
            "UPDATE processors SET k8s_namespace = 'other' WHERE id = $1", processor_id
        )

    async def desire(self, status: str = "running") -> UUID:
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

    async def end(self, processor_id: UUID, status: str) -> None:
        await self.connection.execute(
            "UPDATE processors SET status = $2 WHERE id = $1", processor_id, status
        )

    async def remove(self, processor_id: UUID) -> None:
        await self.connection.execute("DELETE FROM processors WHERE id = $1", processor_id)

    async def link(self, processor_id: UUID, edge_node_id: UUID) -> None:
        await self.connection.execute(
            "INSERT INTO edge_node_apps (edge_node_id, processor_id, status)"
            " VALUES ($1, $2, 'active')",
            edge_node_id,
            processor_id,
        )

    async def pause(self, seconds: float) -> None:
        await self.connection.execute(
            "UPDATE orchestrator.pause SET until = extract(epoch FROM now()) + $1::float8,"
            " by = 'eva', reason = 'why'",
            seconds,
        )

    async def order(self, processor_id: UUID, kind: OrderKind) -> None:
        await self.connection.execute(
            "INSERT INTO orchestrator.orders VALUES ($1, $2, 'eva', 'why')", processor_id, str(kind)
        )

    async def ask(self, kind: str, text: str) -> int:
        number: int = await self.connection.fetchval(
            "INSERT INTO orchestrator.questions (kind, parameters) VALUES ($1, $2) RETURNING id",
            kind,
            text,
        )
        return number

    async def answered(self, number: int) -> object:
        text = await self.connection.fetchval(
            "SELECT answer::text FROM orchestrator.questions WHERE id = $1", number
        )
        return None if text is None else json.loads(text)

    async def drill(self, edge_node_id: UUID) -> None:
        await self.connection.execute(
            "INSERT INTO orchestrator.drills (edge_node_id, node_name, by, reason, until)"
            " SELECT id, name, 'eva', 'why', now() + interval '1 minute' FROM edge_nodes"
            " WHERE id = $1",
            edge_node_id,
        )

    async def withdraw(self, processor_id: UUID) -> None:
        await self.connection.execute(
            "DELETE FROM orchestrator.orders WHERE processor_id = $1", processor_id
        )

    async def explanations(self) -> list[Any]:
        rows = await self.connection.fetch(
            "SELECT explanation::text FROM orchestrator.events ORDER BY id"
        )
        return [row[0] and json.loads(row[0]) for row in rows]

    async def trace_ids(self) -> list[str | None]:
        rows = await self.connection.fetch("SELECT trace_id FROM orchestrator.events ORDER BY id")
        return [row[0] for row in rows]

    async def forget_beat(self, processor_id: UUID, seconds: float) -> None:
        await self.connection.execute(
            "UPDATE processors SET last_health_check_at = now() - make_interval(secs => $2)"
            " WHERE id = $1",
            processor_id,
            seconds,
        )

    async def shown_of(self, processor_id: UUID) -> Shown:
        row = await self.connection.fetchrow(
            "SELECT pod_name, pod_ip, node_name FROM processors WHERE id = $1", processor_id
        )
        assert row is not None
        return row[0], row[1], row[2]

    async def status_of(self, processor_id: UUID) -> str:
        status: str = await self.connection.fetchval(
            "SELECT status FROM processors WHERE id = $1", processor_id
        )
        return status

    async def events(self) -> list[tuple[Event, int | None]]:
        rows = await self.connection.fetch(
            "SELECT kind, reason, detail, processor_id, node_name, pod_name, pod_uid, epoch, term"
            " FROM orchestrator.events ORDER BY id"
        )
        return [(Event(*list(row)[:-1]), row["term"]) for row in rows]

    async def states(self) -> Mapping[UUID, tuple[object, ...]]:
        rows = await self.connection.fetch(
            "SELECT processor_id, state, reason, detail, pod_name, pod_uid, epoch"
            " FROM orchestrator.processor_states"
        )
        return {row[0]: tuple(row)[1:] for row in rows}

    async def nodes(self) -> Mapping[str, NodeSummary]:
        rows = await self.connection.fetch(
            "SELECT name, kind, ready, extract(epoch FROM ready_changed_at)::float8,"
            " unschedulable, cpu_millicores, memory_bytes, gpu_count, pods_max, pods, utilisation"
            " FROM orchestrator.nodes"
        )
        return {row["name"]: NodeSummary(*row) for row in rows}

    async def shown_term(self) -> int:
        term: int = await self.connection.fetchval("SELECT shown_term FROM orchestrator.fleet")
        return term

    async def guard(self) -> tuple[dict[str, int], str]:
        row = await self.connection.fetchrow("SELECT held, detail FROM orchestrator.guard")
        assert row is not None
        return json.loads(row["held"]), row["detail"]

    async def confirm(self, counts: Mapping[str, int]) -> None:
        await self.connection.execute(
            "UPDATE orchestrator.guard SET confirmed = $1::text::jsonb, confirmed_at = now()",
            json.dumps(dict(counts)),
        )


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection of somebody else's."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


# Actions ------------------------------------------------------------------------------------


def a_pod(processor_id: UUID, epoch: int = 1, **fields: Any) -> Pod:
    """A pod that runs on `n1`."""
    values: dict[str, Any] = {
        "uid": f"uid-{epoch}",
        "namespace": "default",
        "name": f"pod-{epoch}",
        "processor_id": processor_id,
        "phase": PodPhase.RUNNING,
        "created_at": 1.0,
        "epoch": epoch,
        "node_name": "n1",
        "ip": "10.0.0.1",
    }
    return Pod(**(values | fields))


def create(
    processor_id: UUID, epoch: int = 1, *, node: str | None = "n1", edge_node_id: UUID | None = None
) -> Create:
    spec = PodSpec(
        name=f"pod-{epoch}",
        namespace="default",
        processor_id=processor_id,
        app="camera",
        labels={},
        annotations={},
        image="image",
    )
    choice = Choice(node)
    return Create(
        processor_id, epoch - 1, epoch, spec, choice, Reason.NOT_RUNNING, "why", edge_node_id
    )


def delete(pod: Pod, epoch: int | None = None, reason: Reason = Reason.CHANGED) -> Delete:
    assert pod.processor_id is not None
    decided_on = pod.epoch or 0 if epoch is None else epoch
    return Delete(pod.processor_id, pod, decided_on, reason, "why")


def adopt(pod: Pod, epoch: int = 1) -> Adopt:
    assert pod.processor_id is not None
    return Adopt(pod.processor_id, pod, 0, epoch, Reason.ADOPTED, "why")


def failure(
    processor_id: UUID, epoch: int = 1, pod: Pod | None = None, failures: int = 1
) -> Failure:
    reason = Reason.CREATION_REFUSED if pod is None else Reason.FAILED
    return Failure(processor_id, pod, epoch, failures, 30.0, reason, "why")


def forget(processor_id: UUID, epoch: int = 1) -> Forget:
    return Forget(processor_id, epoch, Reason.NOT_DESIRED, "why")


async def owner_of(world: World, processor_id: UUID) -> Any:
    """Its ownership; None when nobody owns it."""
    return (await world.store.read_desired()).ownership.get(processor_id)
