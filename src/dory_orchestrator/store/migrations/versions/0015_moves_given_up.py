"""Planned moves that cannot take the state along are given up, and tried again later."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Moves say why their state could not be captured; who was given up waits for its next try."""
    op.execute("ALTER TABLE orchestrator.moves ADD COLUMN error text")
    op.execute(
        """
        CREATE TABLE orchestrator.move_retries (
            processor_id uuid NOT NULL,
            failures integer NOT NULL,
            retry_at timestamptz NOT NULL,
            error text NOT NULL,
            CONSTRAINT move_retries_pkey PRIMARY KEY (processor_id)
        )
        """
    )
