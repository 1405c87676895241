"""Moves, the health of nodes, and the brake."""

from alembic import op

revision = "0004"
down_revision = "0003"

_STATEMENTS = (
    """
    ALTER TABLE orchestrator.ownership ADD COLUMN fencing boolean NOT NULL DEFAULT true
    """,
    """
    CREATE TABLE orchestrator.moves (
        id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        processor_id uuid NOT NULL,
        kind text NOT NULL,
        detail text NOT NULL,
        from_node text NOT NULL,
        to_node text,
        edge_node_id uuid,
        old_uid text,
        epoch bigint NOT NULL,
        began_at timestamptz NOT NULL DEFAULT now(),
        last_alive_at timestamptz,
        suspect_at timestamptz,
        state_at timestamptz,
        ended_at timestamptz,
        outcome text,
        rto_seconds double precision,
        rpo_seconds double precision,
        CONSTRAINT moves_pkey PRIMARY KEY (id),
        CONSTRAINT moves_kind_check CHECK (kind IN ('failover', 'failback', 'departure')),
        CONSTRAINT moves_outcome_check
            CHECK (outcome IN ('done', 'cancelled', 'superseded', 'dropped'))
    )
    """,
    """
    CREATE UNIQUE INDEX moves_open_processor_id_key ON orchestrator.moves (processor_id)
        WHERE ended_at IS NULL
    """,
    """
    CREATE INDEX moves_processor_id_idx ON orchestrator.moves (processor_id, id)
    """,
    """
    CREATE TABLE orchestrator.node_health (
        key text NOT NULL,
        name text NOT NULL,
        edge_node_id uuid,
        state text NOT NULL,
        reason text NOT NULL,
        detail text NOT NULL,
        since double precision NOT NULL,
        suspect_since double precision,
        well_since double precision,
        last_well_at double precision,
        falls double precision[] NOT NULL DEFAULT '{}',
        CONSTRAINT node_health_pkey PRIMARY KEY (key)
    )
    """,
    """
    CREATE TABLE orchestrator.brake (
        engaged_at double precision,
        reason text,
        detail text NOT NULL DEFAULT '',
        population uuid[] NOT NULL DEFAULT '{}',
        override_until double precision,
        override_by text,
        override_reason text
    )
    """,
    """
    CREATE UNIQUE INDEX brake_single_row_key ON orchestrator.brake ((true))
    """,
    """
    INSERT INTO orchestrator.brake DEFAULT VALUES
    """,
)


def upgrade() -> None:
    """Each statement for itself: several in one fail over asyncpg."""
    for statement in _STATEMENTS:
        op.execute(statement)
