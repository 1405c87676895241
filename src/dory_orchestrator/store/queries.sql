-- Every statement of the service, by name. Literals instead of parameters stand for states
-- on purpose: a state column may be an enum of the platform's, and a literal takes its type.

-- record_heartbeats --
-- $1 processor ids, $2 node names, $3 healthy: one entry a beat. Of several of one processor
-- the last decides its health.
-- Rows are locked in order of id, so that two writers cannot wait for each other, and rows
-- that somebody else holds are skipped: one forgotten transaction must not stop all beats.
-- Each row is looked up once, when it is locked, and then written in its place (ctid). One that
-- moved in between, under a concurrent update, counts as held by somebody else.
WITH beat AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::boolean[])
        WITH ORDINALITY AS b (processor_id, node_name, healthy, ordinal)
),
processor_lock AS MATERIALIZED (
    SELECT id, ctid AS place, status::text AS status
    FROM processors WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
),
processor_written AS (
    UPDATE processors p
    SET last_health_check_at = now(),
        -- The middle branch never holds; it gives the literals the type of the column.
        health_status = CASE WHEN last.healthy THEN 'healthy'
            WHEN false THEN p.health_status ELSE 'unhealthy' END
    FROM processor_lock l
    JOIN (
        SELECT DISTINCT ON (processor_id) processor_id, healthy
        FROM beat ORDER BY processor_id, ordinal DESC
    ) last ON last.processor_id = l.id
    WHERE p.ctid = l.place
    RETURNING p.id
),
known AS (
    SELECT
        b.processor_id,
        b.ordinal,
        l.id IS NOT NULL AS locked,
        l.status,
        link.edge_node_id,
        CASE WHEN departed.name = b.node_name THEN departed.id END AS seen_edge_node_id,
        departed.name AS left_node_name,
        -- The owner matters only where a move left somebody behind.
        CASE WHEN departed.id IS NOT NULL THEN o.node_name END AS owner_node_name,
        departed.id IS NOT NULL AND o.ready AS owner_ready
    FROM beat b
    LEFT JOIN processor_lock l ON l.id = b.processor_id
    LEFT JOIN LATERAL (
        SELECT a.edge_node_id FROM edge_node_apps a
        WHERE a.processor_id = l.id AND a.status = 'active'
        LIMIT 1
    ) link ON true
    LEFT JOIN orchestrator.ownership o ON o.processor_id = l.id
    LEFT JOIN edge_nodes departed ON departed.id = o.left_edge_node_id
),
node_lock AS MATERIALIZED (
    SELECT id, ctid AS place FROM edge_nodes
    WHERE id = ANY (ARRAY(
        SELECT edge_node_id FROM known WHERE edge_node_id IS NOT NULL
        UNION ALL
        SELECT seen_edge_node_id FROM known WHERE seen_edge_node_id IS NOT NULL
    ))
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
),
node_written AS (
    UPDATE edge_nodes n SET last_heartbeat_at = now()
    FROM node_lock l WHERE n.ctid = l.place
    RETURNING n.id
)
-- Beats of which the same is to be said share a row: mostly all of them do, and a row for
-- each would cost the reader more than the rest of its work.
SELECT
    array_agg(ordinal) AS ordinals,
    found,
    recorded,
    status,
    left_node_name,
    owner_node_name,
    owner_ready,
    -- For this transaction only: a crash of the server may forget the last beats, nothing else.
    set_config('synchronous_commit', 'off', true)
FROM (
    SELECT
        k.*,
        CASE WHEN k.locked THEN true
            ELSE EXISTS (SELECT FROM processors p WHERE p.id = k.processor_id) END AS found,
        k.locked
            AND EXISTS (SELECT FROM processor_written w WHERE w.id = k.processor_id)
            AND CASE
                WHEN k.edge_node_id IS NULL THEN true
                WHEN EXISTS (SELECT FROM node_written w WHERE w.id = k.edge_node_id) THEN true
                -- A link to a node that is not there is no link.
                ELSE NOT EXISTS (SELECT FROM edge_nodes n WHERE n.id = k.edge_node_id)
            END
            AND (k.seen_edge_node_id IS NULL
                OR EXISTS (SELECT FROM node_written w WHERE w.id = k.seen_edge_node_id))
            AS recorded
    FROM known k
) told
GROUP BY found, recorded, status, left_node_name, owner_node_name, owner_ready

-- renew_canary --
-- $1 longest time in seconds between canary beats that is no gap. In the transaction of the
-- batch that the canary came in; a statement of its own, so that no other batch pays for it.
WITH canary_gap AS (
    INSERT INTO orchestrator.gaps (cause, began_at, ended_at)
    SELECT 'canary', last_beat_at, now() FROM orchestrator.canary
    WHERE now() - last_beat_at > make_interval(secs => $1)
)
UPDATE orchestrator.canary SET last_beat_at = now()
WHERE ctid IN (SELECT ctid FROM orchestrator.canary FOR NO KEY UPDATE SKIP LOCKED)

-- ping --
SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean

-- limit_statements --
-- $1 milliseconds: the server's own bound, for statements whose client has gone.
-- A policy of the platform's that would hide rows from us becomes an error: rows that we do
-- not see must not look as if they were not there.
SELECT set_config('statement_timeout', $1, false),
    set_config('idle_in_transaction_session_timeout', $1, false),
    set_config('row_security', 'off', false)

-- limit_lock_waits --
-- $1 milliseconds, for this transaction.
SELECT set_config('lock_timeout', $1, true)

-- lock_organization --
-- One registration at a time in an organization: the table may have no unique constraint,
-- and two that name each other as failover targets would else both see no cycle.
SELECT pg_advisory_xact_lock(hashtextextended('dory.edge_nodes.' || $1::text, 0))

-- find_edge_node --
SELECT id, status::text AS status FROM edge_nodes
WHERE organization_id = $1 AND name = $2
ORDER BY status::text = 'decommissioned', created_at, id
LIMIT 1
FOR UPDATE

-- failover_chain --
-- The nodes that are reached from $2 through failover targets, within organization $1.
WITH RECURSIVE chain AS (
    SELECT id, failover_target_node_id FROM edge_nodes WHERE organization_id = $1 AND id = $2
    UNION
    SELECT n.id, n.failover_target_node_id
    FROM edge_nodes n JOIN chain c ON n.id = c.failover_target_node_id
    WHERE n.organization_id = $1
)
SELECT id FROM chain

-- insert_edge_node --
INSERT INTO edge_nodes (
    id, organization_id, name, status, failover_enabled, failover_target_node_id,
    created_at, updated_at
)
VALUES (gen_random_uuid(), $1, $2, 'online', $3, $4, now(), now())
RETURNING id, organization_id, name, status::text AS status, failover_enabled,
    failover_target_node_id, last_heartbeat_at

-- bring_edge_node_online --
-- $2 and $4 say whether the caller gave the value that follows.
UPDATE edge_nodes
SET status = 'online',
    failover_enabled = CASE WHEN $2 THEN $3 ELSE failover_enabled END,
    failover_target_node_id = CASE WHEN $4 THEN $5 ELSE failover_target_node_id END,
    updated_at = now()
WHERE id = $1
RETURNING id, organization_id, name, status::text AS status, failover_enabled,
    failover_target_node_id, last_heartbeat_at

-- cordon_edge_nodes --
INSERT INTO orchestrator.cordons (edge_node_id, cause, cordoned_at)
SELECT id, $2, now() FROM unnest($1::uuid[]) AS id
ON CONFLICT (edge_node_id) DO NOTHING

-- find_edge_nodes_by_name --
SELECT id, organization_id FROM edge_nodes
WHERE name = $1 AND ($2::uuid IS NULL OR organization_id = $2)
ORDER BY id
FOR UPDATE

-- stop_edge_node_apps --
WITH stopped AS (
    UPDATE edge_node_apps SET status = 'stopped', updated_at = now()
    WHERE edge_node_id = ANY ($1::uuid[]) AND status = 'active'
    RETURNING 1
)
SELECT count(*) FROM stopped

-- decommission_edge_nodes --
UPDATE edge_nodes SET status = 'decommissioned', updated_at = now()
WHERE id = ANY ($1::uuid[]) AND status::text <> 'decommissioned'

-- list_processor_configs --
-- Outer joins: a processor without a template or an active version is in error, not undesired.
SELECT
    p.id,
    p.organization_id,
    p.name::text AS name,
    p.node_type::text AS node_type,
    p.k8s_namespace::text AS namespace,
    p.status::text AS status,
    t.slug::text AS template_slug,
    v.id AS version_id,
    s.id AS sensor_id,
    s.config::text AS sensor_config,
    s.location_point::text AS sensor_location
FROM processors p
LEFT JOIN processor_templates t ON t.id = p.processor_template_id
LEFT JOIN processor_template_versions v ON v.processor_template_id = t.id AND v.is_active
LEFT JOIN sensors s ON s.id = p.sensor_id
WHERE COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
ORDER BY p.id, v.id

-- list_active_versions --
SELECT id, version::text AS version, image_uri::text AS image_uri, digest::text AS digest,
    runtime_config_template::text AS runtime_config_template
FROM processor_template_versions
WHERE is_active

-- extend_gap --
-- $1 cause, $2 seconds since it began. A gap that ended a moment ago is still the same one.
WITH reached AS (
    UPDATE orchestrator.gaps SET ended_at = now()
    WHERE id = (
        SELECT id FROM orchestrator.gaps
        WHERE cause = $1 AND ended_at > now() - interval '5 seconds'
        ORDER BY ended_at DESC LIMIT 1
    )
    RETURNING 1
)
INSERT INTO orchestrator.gaps (cause, began_at, ended_at)
SELECT $1, now() - make_interval(secs => $2), now()
WHERE NOT EXISTS (SELECT FROM reached)

-- forget_gaps --
DELETE FROM orchestrator.gaps WHERE ended_at < now() - make_interval(secs => $1)
