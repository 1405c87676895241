"""Why what happened was decided; what operators ask, pause and order; the steps of a move."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Of what happened before, nobody knows why in so many words."""
    for statement in (
        "ALTER TABLE orchestrator.events ADD COLUMN explanation json",
        "ALTER TABLE orchestrator.moves ADD COLUMN created_at timestamptz",
        "ALTER TABLE orchestrator.moves ADD COLUMN ready_at timestamptz",
        """
        CREATE TABLE orchestrator.pause (
            until double precision,
            began_at timestamptz,
            by text,
            reason text
        )
        """,
        "CREATE UNIQUE INDEX pause_single_row_key ON orchestrator.pause ((true))",
        "INSERT INTO orchestrator.pause DEFAULT VALUES",
        """
        CREATE TABLE orchestrator.orders (
            processor_id uuid NOT NULL,
            kind text NOT NULL,
            by text NOT NULL,
            reason text NOT NULL,
            ordered_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT orders_pkey PRIMARY KEY (processor_id),
            CONSTRAINT orders_kind_check CHECK (kind IN ('failover', 'failback'))
        )
        """,
        """
        CREATE TABLE orchestrator.questions (
            id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
            asked_at timestamptz NOT NULL DEFAULT now(),
            kind text NOT NULL,
            parameters jsonb NOT NULL,
            answered_at timestamptz,
            answer json,
            CONSTRAINT questions_pkey PRIMARY KEY (id)
        )
        """,
    ):
        op.execute(statement)
