"""The platform's tables where they are missing, and the first of our own.

A table of the platform's that exists is left as it is: it is not ours. Each statement is
executed for itself, because several in one fail over asyncpg.
"""

from collections.abc import Iterable

from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None

_PLATFORM_TABLES = {
    "edge_nodes": (
        """
        CREATE TABLE edge_nodes (
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            organization_id uuid NOT NULL,
            name text NOT NULL,
            status text NOT NULL DEFAULT 'online',
            failover_enabled boolean NOT NULL DEFAULT true,
            failover_target_node_id uuid,
            last_heartbeat_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT edge_nodes_pkey PRIMARY KEY (id),
            CONSTRAINT edge_nodes_organization_id_name_key UNIQUE (organization_id, name),
            CONSTRAINT edge_nodes_status_check
                CHECK (status IN ('online', 'offline', 'decommissioned'))
        ) WITH (fillfactor = 50)
        """,
    ),
    "edge_node_apps": (
        """
        CREATE TABLE edge_node_apps (
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            edge_node_id uuid NOT NULL,
            processor_id uuid NOT NULL,
            status text NOT NULL DEFAULT 'active',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT edge_node_apps_pkey PRIMARY KEY (id),
            CONSTRAINT edge_node_apps_status_check
                CHECK (status IN ('active', 'failed_over', 'stopped'))
        )
        """,
        "CREATE INDEX edge_node_apps_edge_node_id_idx ON edge_node_apps (edge_node_id)",
        """
        CREATE UNIQUE INDEX edge_node_apps_active_processor_id_key
            ON edge_node_apps (processor_id) WHERE status = 'active'
        """,
    ),
    "processors": (
        """
        CREATE TABLE processors (
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            organization_id uuid,
            name text,
            processor_template_id uuid NOT NULL,
            sensor_id uuid,
            node_type text NOT NULL DEFAULT 'managed',
            k8s_namespace text NOT NULL DEFAULT 'default',
            status text NOT NULL DEFAULT 'pending',
            health_status text NOT NULL DEFAULT 'unknown',
            last_health_check_at timestamptz,
            pod_name text,
            pod_ip text,
            node_name text,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT processors_pkey PRIMARY KEY (id),
            CONSTRAINT processors_health_status_check
                CHECK (health_status IN ('unknown', 'healthy', 'unhealthy'))
        ) WITH (fillfactor = 50)
        """,
    ),
    "processor_templates": (
        """
        CREATE TABLE processor_templates (
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            slug text NOT NULL,
            name text,
            CONSTRAINT processor_templates_pkey PRIMARY KEY (id),
            CONSTRAINT processor_templates_slug_key UNIQUE (slug)
        )
        """,
    ),
    "processor_template_versions": (
        """
        CREATE TABLE processor_template_versions (
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            processor_template_id uuid NOT NULL,
            version text NOT NULL,
            image_uri text NOT NULL,
            digest text,
            is_active boolean NOT NULL DEFAULT false,
            runtime_config_template jsonb DEFAULT '{}',
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT processor_template_versions_pkey PRIMARY KEY (id)
        )
        """,
        """
        CREATE INDEX processor_template_versions_processor_template_id_idx
            ON processor_template_versions (processor_template_id)
        """,
    ),
    "sensors": (
        """
        CREATE TABLE sensors (
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            name text,
            location_point point,
            config jsonb DEFAULT '{}',
            CONSTRAINT sensors_pkey PRIMARY KEY (id)
        )
        """,
    ),
}

# Not indented: the database keeps the body as it stands here.
_NOTIFY_CHANGED = """
CREATE FUNCTION orchestrator.notify_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('orchestrator_changed', '');
    RETURN NULL;
END
$$
"""

_OUR_OWN = (
    """
    CREATE TABLE orchestrator.fleet (
        id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT fleet_pkey PRIMARY KEY (id)
    )
    """,
    "CREATE UNIQUE INDEX fleet_single_row_key ON orchestrator.fleet ((true))",
    "INSERT INTO orchestrator.fleet (id) VALUES (gen_random_uuid())",
    """
    CREATE TABLE orchestrator.canary (
        last_beat_at timestamptz
    ) WITH (fillfactor = 50)
    """,
    "CREATE UNIQUE INDEX canary_single_row_key ON orchestrator.canary ((true))",
    "INSERT INTO orchestrator.canary (last_beat_at) VALUES (NULL)",
    """
    CREATE TABLE orchestrator.gaps (
        id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        cause text NOT NULL,
        began_at timestamptz NOT NULL,
        ended_at timestamptz NOT NULL,
        CONSTRAINT gaps_pkey PRIMARY KEY (id),
        CONSTRAINT gaps_ended_at_check CHECK (ended_at >= began_at)
    )
    """,
    "CREATE INDEX gaps_ended_at_idx ON orchestrator.gaps (ended_at)",
    """
    CREATE TABLE orchestrator.ownership (
        processor_id uuid NOT NULL,
        epoch bigint NOT NULL,
        pod_uid text,
        node_name text,
        ready boolean NOT NULL DEFAULT false,
        left_edge_node_id uuid,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ownership_pkey PRIMARY KEY (processor_id)
    )
    """,
    """
    CREATE TABLE orchestrator.cordons (
        edge_node_id uuid NOT NULL,
        cause text NOT NULL,
        cordoned_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT cordons_pkey PRIMARY KEY (edge_node_id)
    )
    """,
    _NOTIFY_CHANGED,
)


def upgrade() -> None:
    """Create what is missing."""
    for table, statements in _PLATFORM_TABLES.items():
        if _is_missing(table):
            _execute(statements)
    _execute(_OUR_OWN)


def _is_missing(table: str) -> bool:
    found = text("SELECT to_regclass(:name) IS NULL").bindparams(name=table)
    return bool(op.get_bind().scalar(found))


def _execute(statements: Iterable[str]) -> None:
    for statement in statements:
        op.execute(statement)
