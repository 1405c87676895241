"""What starts began with, states that lost against others, and documents that are adopted."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Of the lives that are under way nobody knows what they began with: they went on."""
    op.execute(
        """
        ALTER TABLE orchestrator.incarnations
            ADD COLUMN start_lay text,
            ADD COLUMN start_epoch bigint,
            ADD COLUMN start_incarnation bigint,
            ADD COLUMN start_sequence bigint,
            ADD COLUMN start_sha256 bytea,
            ADD COLUMN start_pod_name text,
            ADD COLUMN start_at double precision,
            ADD COLUMN start_read boolean,
            ADD COLUMN first_captured_at double precision,
            ADD COLUMN first_uptime_seconds double precision,
            ADD COLUMN first_sha256 bytea,
            ADD COLUMN first_body bytea,
            ADD COLUMN behind boolean NOT NULL DEFAULT false,
            ADD COLUMN unprotected_at timestamptz,
            ADD COLUMN unprotected_detail text,
            ADD COLUMN seed_doubted_from double precision
        """
    )
    op.execute("ALTER TABLE orchestrator.incarnations ALTER COLUMN first_body SET STORAGE EXTERNAL")
    op.execute(
        """
        CREATE TABLE orchestrator.archived_states (
            processor_id uuid NOT NULL,
            reason text NOT NULL,
            place text NOT NULL,
            epoch bigint NOT NULL,
            incarnation bigint NOT NULL,
            pod_name text NOT NULL,
            captured_at double precision NOT NULL,
            archived_at timestamptz NOT NULL DEFAULT now(),
            sha256 bytea NOT NULL,
            size_bytes integer NOT NULL,
            body bytea NOT NULL,
            CONSTRAINT archived_states_pkey PRIMARY KEY (processor_id, reason, place),
            CONSTRAINT archived_states_place_check CHECK (place IN ('first', 'newest'))
        )
        """
    )
    op.execute("ALTER TABLE orchestrator.archived_states ALTER COLUMN body SET STORAGE EXTERNAL")
    op.execute(
        """
        CREATE TABLE orchestrator.adopted_documents (
            processor_id uuid NOT NULL,
            by text NOT NULL,
            at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT adopted_documents_pkey PRIMARY KEY (processor_id)
        )
        """
    )
