"""Which processor has beaten, and when: its node alone does not tell."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Of those that the poller writes now, no heartbeat is known."""
    op.execute("ALTER TABLE orchestrator.pod_health ADD COLUMN heartbeat_at timestamptz")
