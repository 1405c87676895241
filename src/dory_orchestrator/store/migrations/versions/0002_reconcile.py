"""One leader, the deletion guard, and what people are shown of the fleet."""

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    """
    ALTER TABLE orchestrator.ownership
        ADD COLUMN pod_name text,
        ADD COLUMN pod_ip text,
        ADD COLUMN failures integer NOT NULL DEFAULT 0,
        ADD COLUMN failed_pod_uid text,
        ADD COLUMN retry_at timestamptz,
        ADD COLUMN exit_code integer,
        ADD COLUMN restart_reason text
    """,
    """
    CREATE TABLE orchestrator.leader (
        term bigint NOT NULL,
        holder text,
        expires_at timestamptz NOT NULL
    )
    """,
    """
    CREATE UNIQUE INDEX leader_single_row_key ON orchestrator.leader ((true))
    """,
    """
    INSERT INTO orchestrator.leader (term, expires_at) VALUES (0, '-infinity')
    """,
    """
    CREATE TABLE orchestrator.guard (
        held_since timestamptz,
        held jsonb NOT NULL DEFAULT '{}',
        detail text NOT NULL DEFAULT '',
        confirmed_at timestamptz,
        confirmed jsonb NOT NULL DEFAULT '{}',
        confirmed_by text
    )
    """,
    """
    CREATE UNIQUE INDEX guard_single_row_key ON orchestrator.guard ((true))
    """,
    """
    INSERT INTO orchestrator.guard DEFAULT VALUES
    """,
    """
    CREATE TABLE orchestrator.processor_states (
        processor_id uuid NOT NULL,
        state text NOT NULL,
        reason text NOT NULL,
        detail text NOT NULL,
        namespace text,
        pod_name text,
        pod_uid text,
        node_name text,
        pod_ip text,
        phase text,
        epoch bigint,
        restart_count integer,
        since timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT processor_states_pkey PRIMARY KEY (processor_id)
    )
    """,
    """
    CREATE TABLE orchestrator.nodes (
        name text NOT NULL,
        kind text NOT NULL,
        ready boolean NOT NULL,
        ready_changed_at timestamptz,
        unschedulable boolean NOT NULL,
        cpu_millicores bigint NOT NULL,
        memory_bytes bigint NOT NULL,
        gpu_count integer NOT NULL,
        pods_max integer NOT NULL,
        pods integer NOT NULL,
        utilisation double precision NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT nodes_pkey PRIMARY KEY (name),
        CONSTRAINT nodes_kind_check CHECK (kind IN ('edge', 'application', 'other'))
    )
    """,
    """
    CREATE TABLE orchestrator.events (
        id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        at timestamptz NOT NULL DEFAULT now(),
        kind text NOT NULL,
        reason text NOT NULL,
        detail text NOT NULL,
        processor_id uuid,
        node_name text,
        pod_name text,
        pod_uid text,
        epoch bigint,
        term bigint,
        CONSTRAINT events_pkey PRIMARY KEY (id)
    )
    """,
    """
    CREATE INDEX events_processor_id_idx ON orchestrator.events (processor_id, id)
    """,
    """
    CREATE INDEX events_at_idx ON orchestrator.events (at)
    """,
    """
    CREATE TABLE orchestrator.pod_health (
        processor_id uuid NOT NULL,
        written_at timestamptz NOT NULL,
        CONSTRAINT pod_health_pkey PRIMARY KEY (processor_id)
    ) WITH (fillfactor = 50)
    """,
)


def upgrade() -> None:
    """Each statement for itself: several in one fail over asyncpg."""
    for statement in _STATEMENTS:
        op.execute(statement)
