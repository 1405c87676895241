"""Fire drills, and what came of them."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """None was held yet."""
    op.execute(
        """
        CREATE TABLE orchestrator.drills (
            id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
            edge_node_id uuid NOT NULL,
            node_name text NOT NULL,
            by text NOT NULL,
            reason text NOT NULL,
            phase text NOT NULL DEFAULT 'running',
            began_at timestamptz NOT NULL DEFAULT now(),
            until timestamptz NOT NULL,
            left_at timestamptz,
            ended_at timestamptz,
            outcome text,
            detail text NOT NULL DEFAULT '',
            CONSTRAINT drills_pkey PRIMARY KEY (id),
            CONSTRAINT drills_phase_check CHECK (phase IN ('running', 'returning', 'ended'))
        )
        """
    )
    op.execute("CREATE INDEX moves_edge_node_id_idx ON orchestrator.moves (edge_node_id, began_at)")
    op.execute(
        "CREATE UNIQUE INDEX drills_open_key ON orchestrator.drills ((true)) WHERE phase <> 'ended'"
    )
