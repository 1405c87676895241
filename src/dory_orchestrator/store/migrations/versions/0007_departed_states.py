"""In which namespace the cluster may still keep the state of a processor that is gone."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Of those that were gone before, nobody knows."""
    op.execute("ALTER TABLE orchestrator.ownership ADD COLUMN state_namespace text")
