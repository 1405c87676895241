"""Events say which trace they are part of."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Events of the time before are part of none."""
    op.execute("ALTER TABLE orchestrator.events ADD COLUMN trace_id text")
