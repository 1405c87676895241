-- The statements of `fleet apply`, by name. Parameters that are written take the type of their
-- column, which may be an enum of the platform's; those that are compared are compared as text.

-- lock_fleet --
-- One `fleet apply` at a time in a database.
SELECT pg_advisory_xact_lock(hashtextextended('dory.fleet', 0))

-- has_processors --
SELECT EXISTS (SELECT FROM processors)

-- end_lease --
-- $1 holder.
UPDATE orchestrator.leader SET holder = NULL, expires_at = now() WHERE holder = $1

-- fleet_id --
SELECT id FROM orchestrator.fleet

-- read_edge_nodes --
-- $1 organization, $2 ids.
SELECT id, organization_id, name::text AS name, status::text AS status, failover_enabled,
    failover_target_node_id
FROM edge_nodes
WHERE id IS NOT NULL AND (organization_id = $1 OR id = ANY ($2::uuid[]))

-- read_templates --
-- $1 slugs, $2 ids.
SELECT id, slug::text AS slug, name::text AS name
FROM processor_templates
WHERE id IS NOT NULL AND (slug::text = ANY ($1::text[]) OR id = ANY ($2::uuid[]))

-- read_versions --
-- $1 templates, $2 ids.
SELECT id, processor_template_id, version::text AS version, image_uri::text AS image_uri,
    digest::text AS digest, is_active, runtime_config_template::text AS runtime_config_template
FROM processor_template_versions
WHERE id IS NOT NULL AND (processor_template_id = ANY ($1::uuid[]) OR id = ANY ($2::uuid[]))

-- read_sensors --
-- $1 ids.
SELECT id, name::text AS name, location_point, config::text AS config
FROM sensors
WHERE id = ANY ($1::uuid[])

-- read_processors --
-- $1 ids, $2 organization whose processors are all read; null: none.
SELECT id, organization_id, name::text AS name, processor_template_id, sensor_id,
    node_type::text AS node_type, k8s_namespace::text AS k8s_namespace, status::text AS status
FROM processors
WHERE id IS NOT NULL AND (id = ANY ($1::uuid[]) OR organization_id = $2::uuid)

-- read_links --
-- $1 processors, $2 ids.
SELECT id, edge_node_id, processor_id, status::text AS status
FROM edge_node_apps
WHERE id IS NOT NULL AND (processor_id = ANY ($1::uuid[]) OR id = ANY ($2::uuid[]))

-- count_other_users --
-- $1 templates, $2 processors that do not count.
SELECT processor_template_id AS id, count(*) AS users
FROM processors
WHERE processor_template_id = ANY ($1::uuid[]) AND NOT id = ANY ($2::uuid[])
    AND COALESCE(status::text, '') NOT IN ('terminated', 'failed')
GROUP BY processor_template_id

-- insert_edge_nodes --
INSERT INTO edge_nodes (
    id, organization_id, name, status, failover_enabled, failover_target_node_id,
    created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, $6, now(), now())

-- update_edge_nodes --
-- Never its status: whether a node is online is not for a file to say.
UPDATE edge_nodes
SET organization_id = $2, name = $3, failover_enabled = $4, failover_target_node_id = $5,
    updated_at = now()
WHERE id = $1

-- insert_processor_templates --
INSERT INTO processor_templates (id, slug, name) VALUES ($1, $2, $3)

-- update_processor_templates --
UPDATE processor_templates SET slug = $2, name = $3 WHERE id = $1

-- insert_processor_template_versions --
INSERT INTO processor_template_versions (
    id, processor_template_id, version, image_uri, digest, is_active, runtime_config_template,
    created_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, now())

-- update_processor_template_versions --
UPDATE processor_template_versions
SET processor_template_id = $2, version = $3, image_uri = $4, digest = $5, is_active = $6,
    runtime_config_template = $7
WHERE id = $1

-- insert_sensors --
INSERT INTO sensors (id, name, location_point, config) VALUES ($1, $2, $3, $4)

-- update_sensors --
UPDATE sensors SET name = $2, location_point = $3, config = $4 WHERE id = $1

-- insert_processors --
INSERT INTO processors (
    id, organization_id, name, processor_template_id, sensor_id, node_type, k8s_namespace, status,
    created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now(), now())

-- update_processors --
-- Not its status, which somebody else may change meanwhile: see set_processor_status.
UPDATE processors
SET organization_id = $2, name = $3, processor_template_id = $4, sensor_id = $5, node_type = $6,
    k8s_namespace = $7, updated_at = now()
WHERE id = $1

-- set_processor_status --
UPDATE processors SET status = $2, updated_at = now() WHERE id = $1

-- insert_edge_node_apps --
INSERT INTO edge_node_apps (id, edge_node_id, processor_id, status, created_at, updated_at)
VALUES ($1, $2, $3, $4, now(), now())

-- update_edge_node_apps --
UPDATE edge_node_apps
SET edge_node_id = $2, processor_id = $3, status = $4, updated_at = now()
WHERE id = $1
