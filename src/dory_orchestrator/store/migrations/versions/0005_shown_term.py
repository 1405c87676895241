"""Of which leader's term is what operators are shown."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Nothing that is shown is of a term yet."""
    op.execute("ALTER TABLE orchestrator.fleet ADD COLUMN shown_term bigint NOT NULL DEFAULT 0")
