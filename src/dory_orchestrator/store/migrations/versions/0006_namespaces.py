"""In which namespace a pod of a processor was seen last."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Of those that run, the next cycle writes it."""
    op.execute("ALTER TABLE orchestrator.ownership ADD COLUMN namespace text")
