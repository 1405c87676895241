"""A program is told to end only by who has a fresh picture of the cluster."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Until a leader of this version has looked nobody is told to end."""
    op.execute("ALTER TABLE orchestrator.fleet ADD COLUMN cluster_uid text")
    op.execute(
        "ALTER TABLE orchestrator.ownership ADD COLUMN end_granted boolean NOT NULL DEFAULT false"
    )
    op.execute("""
        CREATE TABLE orchestrator.picture (
            seen_at timestamptz,
            term bigint,
            interval_seconds double precision NOT NULL DEFAULT 0,
            cluster_uid text,
            is_whole boolean NOT NULL DEFAULT false
        ) WITH (fillfactor = 50)
    """)
    op.execute("CREATE UNIQUE INDEX picture_single_row_key ON orchestrator.picture ((true))")
    op.execute("INSERT INTO orchestrator.picture DEFAULT VALUES")
    op.execute("""
        CREATE TABLE orchestrator.unowned_pods (
            processor_id uuid NOT NULL,
            namespace text NOT NULL,
            pod_name text NOT NULL,
            is_unknown boolean NOT NULL,
            CONSTRAINT unowned_pods_pkey PRIMARY KEY (processor_id)
        )
    """)
