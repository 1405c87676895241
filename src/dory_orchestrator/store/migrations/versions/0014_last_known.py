"""What processors were called when their rows were last there."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Those that are there are known at once."""
    op.execute(
        """
        CREATE TABLE orchestrator.last_known (
            processor_id uuid NOT NULL,
            name text,
            organization_id uuid,
            template text,
            health_status text NOT NULL,
            CONSTRAINT last_known_pkey PRIMARY KEY (processor_id)
        ) WITH (fillfactor = 70)
        """
    )
    op.execute(
        """
        INSERT INTO orchestrator.last_known
            (processor_id, name, organization_id, template, health_status)
        SELECT DISTINCT ON (p.id) p.id, p.name::text, p.organization_id, t.slug::text,
            COALESCE(p.health_status::text, 'unknown')
        FROM processors p LEFT JOIN processor_templates t ON t.id = p.processor_template_id
        WHERE p.id IS NOT NULL
        ORDER BY p.id
        """
    )
