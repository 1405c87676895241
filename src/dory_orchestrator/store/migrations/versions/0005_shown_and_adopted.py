"""Of which term is what operators are shown; adopted incarnations; who owned before."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Nothing that is shown is of a term yet."""
    op.execute("ALTER TABLE orchestrator.fleet ADD COLUMN shown_term bigint NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE orchestrator.ownership ADD COLUMN last_pod_name text")
    op.execute("ALTER TABLE orchestrator.incarnations ALTER COLUMN ready_at DROP NOT NULL")
