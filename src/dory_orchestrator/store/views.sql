-- Every statement behind what operators see, by name. They read the platform's tables in
-- whatever form these have: states as text, rows that stand twice shown once, only columns that
-- we hold a right to.
--
-- Pages: each row has a sort key as text; a page begins behind the (key, name, id) at which the
-- one before ended. Text is compared byte by byte ("C"), the same on every server.

-- plan_each_time --
-- These statements have many filters, mostly absent: a plan for all of them together is slow for
-- each, and to compile it takes longer than to run it.
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)

-- limit_lock_waits --
-- $1 milliseconds, for this transaction.
SELECT set_config('lock_timeout', $1, true)

-- list_processors --
-- $1 limit, $2 sort, $3 key, $4 name, $5 id of the last row before (null: from the start),
-- $6 states, $7 node, $8 template, $9 organization, $10 namespace, $11 health, $12 beginning of
-- name or id, $13 id.
WITH stored AS (
    SELECT DISTINCT ON (p.id)
        p.id, p.name::text AS name, p.organization_id, p.processor_template_id,
        p.node_type::text AS node_type, p.k8s_namespace::text AS namespace,
        p.status::text AS status, p.health_status::text AS health_status,
        p.last_health_check_at
    FROM processors p
    WHERE p.id IS NOT NULL
        AND ($13::uuid IS NULL OR p.id = $13)
        AND (
            COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
            OR EXISTS (
                SELECT FROM orchestrator.processor_states s WHERE s.processor_id = p.id
            )
        )
    -- Of several rows of one id the one that is desired counts.
    ORDER BY p.id, COALESCE(p.status::text, '') IN ('terminated', 'failed')
),
template AS (
    SELECT DISTINCT ON (id) id, slug::text AS slug FROM processor_templates ORDER BY id, slug
),
found AS (
    SELECT * FROM orchestrator.processor_states WHERE $13::uuid IS NULL OR processor_id = $13
),
known AS (
    SELECT
        COALESCE(p.id, s.processor_id) AS id,
        -- Of one whose row is gone: as it was last.
        CASE WHEN p.id IS NULL THEN l.name ELSE p.name END AS name,
        CASE WHEN p.id IS NULL THEN l.organization_id ELSE p.organization_id END
            AS organization_id,
        CASE WHEN p.id IS NULL THEN l.template ELSE t.slug END AS template,
        p.processor_template_id,
        p.node_type,
        COALESCE(s.namespace, p.namespace) AS namespace,
        p.status,
        COALESCE(p.health_status, l.health_status, 'unknown') AS health_status,
        p.last_health_check_at,
        COALESCE(s.state, 'unknown') AS state,
        COALESCE(s.reason, 'not_looked_at') AS reason,
        COALESCE(s.detail, 'the leader has not looked at it yet') AS detail,
        -- Once the leader looked, only what it saw counts: there may be no pod any more.
        CASE WHEN s.processor_id IS NULL THEN o.node_name ELSE s.node_name END AS node_name,
        CASE WHEN s.processor_id IS NULL THEN o.pod_name ELSE s.pod_name END AS pod_name,
        CASE WHEN s.processor_id IS NULL THEN o.pod_ip ELSE s.pod_ip END AS pod_ip,
        CASE WHEN s.processor_id IS NULL THEN o.pod_uid ELSE s.pod_uid END AS pod_uid,
        o.epoch,
        s.epoch AS pod_epoch,
        s.restart_count,
        s.since
    FROM stored p
    FULL JOIN found s ON s.processor_id = p.id
    LEFT JOIN orchestrator.ownership o ON o.processor_id = COALESCE(p.id, s.processor_id)
    LEFT JOIN template t ON t.id = p.processor_template_id
    LEFT JOIN orchestrator.last_known l ON l.processor_id = s.processor_id AND p.id IS NULL
),
keyed AS (
    SELECT
        k.*,
        (CASE $2::text
            WHEN 'state' THEN state
            WHEN 'node' THEN COALESCE(node_name, '')
            -- The newest first, and those without a moment last.
            WHEN 'since' THEN COALESCE(
                to_char(100000000000 - extract(epoch FROM since), 'FM000000000000.000000'), '~'
            )
            ELSE ''
        END) COLLATE "C" AS sort_key,
        COALESCE(name, '') COLLATE "C" AS sort_name,
        id::text COLLATE "C" AS sort_id
    FROM known k
    WHERE ($6::text[] IS NULL OR state = ANY ($6))
        AND ($7::text IS NULL OR node_name = $7)
        AND ($8::text IS NULL OR template = $8)
        AND ($9::uuid IS NULL OR organization_id = $9)
        AND ($10::text IS NULL OR namespace = $10)
        AND ($11::text IS NULL OR health_status = $11)
        AND (
            $12::text IS NULL
            OR starts_with(lower(name), lower($12))
            OR starts_with(id::text, lower($12))
        )
),
page AS (
    SELECT * FROM keyed
    WHERE $3::text IS NULL OR (sort_key, sort_name, sort_id) > ($3, $4::text, $5::text)
    ORDER BY sort_key, sort_name, sort_id
    LIMIT $1
)
SELECT
    id, name, organization_id, template,
    (
        SELECT string_agg(v.version::text, ', ' ORDER BY v.version::text)
        FROM processor_template_versions v
        WHERE v.processor_template_id = page.processor_template_id AND v.is_active
    ) AS version,
    node_type, namespace, status, health_status, last_health_check_at,
    state, reason, detail, node_name, pod_name, pod_ip, pod_uid, epoch, pod_epoch,
    restart_count, since, sort_key, sort_name, sort_id
FROM page
ORDER BY sort_key, sort_name, sort_id

-- list_nodes --
-- $1 limit, $2 sort, $3 key, $4 name, $5 id of the last row before (null: from the start),
-- $6 kind, $7 ready, $8 status, $9 organization, $10 beginning of the name.
WITH edge AS (
    SELECT DISTINCT ON (id)
        id, name::text AS name, organization_id, status::text AS status, failover_enabled,
        failover_target_node_id, last_heartbeat_at
    FROM edge_nodes
    WHERE id IS NOT NULL
    ORDER BY id
),
counted AS (
    SELECT node_name, jsonb_object_agg(state, count) AS counts
    FROM (
        SELECT node_name, state, count(*) FROM orchestrator.processor_states
        WHERE node_name IS NOT NULL GROUP BY node_name, state
    ) c
    GROUP BY node_name
),
known AS (
    SELECT
        COALESCE(n.name, e.name, '') AS name,
        COALESCE(n.kind, 'edge') AS kind,
        n.ready,
        n.ready_changed_at,
        n.unschedulable,
        c.edge_node_id IS NOT NULL AS cordoned,
        c.cause AS cordon_cause,
        e.id AS edge_node_id,
        e.organization_id,
        e.status,
        e.failover_enabled,
        e.failover_target_node_id,
        e.last_heartbeat_at,
        CASE WHEN e.last_heartbeat_at IS NOT NULL
            THEN GREATEST(extract(epoch FROM now() - e.last_heartbeat_at), 0)::float8
        END AS heartbeat_age_seconds,
        h.state AS health,
        h.reason AS health_reason,
        h.detail AS health_detail,
        to_timestamp(h.since) AS health_since,
        n.cpu_millicores,
        n.memory_bytes,
        n.gpu_count,
        n.pods,
        n.pods_max,
        n.utilisation
    FROM orchestrator.nodes n
    FULL JOIN edge e ON e.name = n.name
    LEFT JOIN orchestrator.cordons c ON c.edge_node_id = e.id
    -- As `node_key` names them: two edge nodes may have one name.
    LEFT JOIN orchestrator.node_health h ON h.key = COALESCE('edge ' || e.id, 'node ' || n.name)
),
keyed AS (
    SELECT
        k.*,
        (CASE $2::text
            WHEN 'kind' THEN kind
            -- The highest first.
            WHEN 'utilisation' THEN to_char(
                1000 - LEAST(GREATEST(COALESCE(utilisation, -1), -1), 999)::numeric,
                'FM0000.000000'
            )
            ELSE ''
        END) COLLATE "C" AS sort_key,
        name COLLATE "C" AS sort_name,
        COALESCE(edge_node_id::text, '') COLLATE "C" AS sort_id
    FROM known k
    WHERE ($6::text IS NULL OR kind = $6)
        AND ($7::boolean IS NULL OR COALESCE(ready, false) = $7)
        AND ($8::text IS NULL OR status = $8)
        AND ($9::uuid IS NULL OR organization_id = $9)
        AND ($10::text IS NULL OR starts_with(lower(name), lower($10)))
)
SELECT k.*, COALESCE(c.counts, '{}')::text AS processors
FROM keyed k
LEFT JOIN counted c ON c.node_name = k.name
WHERE $3::text IS NULL OR (sort_key, sort_name, sort_id) > ($3, $4::text, $5::text)
ORDER BY sort_key, sort_name, sort_id
LIMIT $1

-- newest_event --
-- The newest event that is committed, and who may have drawn a number below it and not
-- committed yet: a writer locks the table before it draws one, and until it commits.
SELECT
    (SELECT COALESCE(max(id), 0) FROM orchestrator.events) AS id,
    ARRAY(
        SELECT l.virtualtransaction FROM pg_catalog.pg_locks l
        WHERE l.relation = 'orchestrator.events'::regclass AND l.mode = 'RowExclusiveLock'
            AND l.database = (
                SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()
            )
    ) AS writers

-- event_bounds --
-- $1 the earliest moment, $2 the first that is too late. An event has the moment at which its
-- transaction began, and its id a little later: an hour is more than any of them takes.
SELECT
    COALESCE((
        SELECT id FROM orchestrator.events
        WHERE at < $1::timestamptz - interval '1 hour' ORDER BY at DESC LIMIT 1
    ), 0) AS after_id,
    (
        SELECT id FROM orchestrator.events
        WHERE at >= $2::timestamptz + interval '1 hour' ORDER BY at LIMIT 1
    ) AS until_id

-- list_events --
-- $1 limit, $2 below this id, $3 at most this id, $4 processor, $5 node, $6 kind, $7 reason,
-- $8 the earliest moment, $9 the first that is too late, $10 whether with explanations. The newest
-- first.
SELECT
    e.id, e.at, e.kind, e.reason, e.detail, e.processor_id,
    COALESCE(
        (SELECT p.name::text FROM processors p WHERE p.id = e.processor_id LIMIT 1),
        (SELECT l.name FROM orchestrator.last_known l WHERE l.processor_id = e.processor_id)
    ) AS processor_name,
    e.node_name, e.pod_name, e.pod_uid, e.epoch, e.term,
    CASE WHEN $10::boolean THEN e.explanation::text END AS explanation,
    e.trace_id
FROM orchestrator.events e
WHERE ($2::bigint IS NULL OR e.id < $2)
    AND ($3::bigint IS NULL OR e.id <= $3)
    AND ($4::uuid IS NULL OR e.processor_id = $4)
    AND ($5::text IS NULL OR e.node_name = $5)
    AND ($6::text IS NULL OR e.kind = $6)
    AND ($7::text IS NULL OR e.reason = $7)
    AND ($8::timestamptz IS NULL OR e.at >= $8)
    AND ($9::timestamptz IS NULL OR e.at < $9)
ORDER BY e.id DESC
LIMIT $1

-- follow_events --
-- As list_events, but $2 above this id, and the oldest first.
SELECT
    e.id, e.at, e.kind, e.reason, e.detail, e.processor_id,
    COALESCE(
        (SELECT p.name::text FROM processors p WHERE p.id = e.processor_id LIMIT 1),
        (SELECT l.name FROM orchestrator.last_known l WHERE l.processor_id = e.processor_id)
    ) AS processor_name,
    e.node_name, e.pod_name, e.pod_uid, e.epoch, e.term,
    CASE WHEN $10::boolean THEN e.explanation::text END AS explanation,
    e.trace_id
FROM orchestrator.events e
WHERE e.id > $2::bigint
    AND e.id <= $3::bigint
    AND ($4::uuid IS NULL OR e.processor_id = $4)
    AND ($5::text IS NULL OR e.node_name = $5)
    AND ($6::text IS NULL OR e.kind = $6)
    AND ($7::text IS NULL OR e.reason = $7)
    AND ($8::timestamptz IS NULL OR e.at >= $8)
    AND ($9::timestamptz IS NULL OR e.at < $9)
ORDER BY e.id
LIMIT $1

-- guard --
SELECT held_since, held::text AS groups, detail, confirmed::text AS confirmed, confirmed_at,
    confirmed_by
FROM orchestrator.guard

-- lock_guard --
SELECT held_since, held::text AS groups FROM orchestrator.guard FOR UPDATE

-- list_waiting --
-- $1 reasons, $2 limit. Processors that wait for an operator's word.
SELECT
    s.processor_id AS id,
    CASE WHEN p.id IS NULL THEN l.name ELSE p.name END AS name,
    CASE WHEN p.id IS NULL THEN l.organization_id ELSE p.organization_id END AS organization_id,
    CASE WHEN p.id IS NULL THEN l.template ELSE p.template END AS template,
    COALESCE(p.health_status, l.health_status, 'unknown') AS health_status,
    s.namespace, s.pod_name, s.node_name, o.epoch, s.epoch AS pod_epoch
FROM orchestrator.processor_states s
LEFT JOIN orchestrator.ownership o ON o.processor_id = s.processor_id
LEFT JOIN orchestrator.last_known l ON l.processor_id = s.processor_id
LEFT JOIN LATERAL (
    SELECT p.id, p.name::text AS name, p.organization_id, t.slug::text AS template,
        p.health_status::text AS health_status
    FROM processors p LEFT JOIN processor_templates t ON t.id = p.processor_template_id
    WHERE p.id = s.processor_id LIMIT 1
) p ON true
WHERE s.reason = ANY ($1::text[])
ORDER BY s.processor_id
LIMIT $2

-- count_waiting --
SELECT count(*) FROM orchestrator.processor_states WHERE reason = ANY ($1::text[])

-- list_strangers --
-- $1 limit. Those that stand in a processor's way now, and what was told of others lately.
SELECT pod_name, node_name, processor_id, detail, at, count(*) OVER () AS total
FROM (
    SELECT DISTINCT ON (identity) * FROM (
        SELECT COALESCE(s.pod_uid, s.processor_id::text) AS identity, s.pod_name, s.node_name,
            s.processor_id, s.detail, s.since AS at, 0 AS rank
        FROM orchestrator.processor_states s WHERE s.reason = 'foreign_fleet'
        UNION ALL
        SELECT COALESCE(e.pod_uid, e.pod_name, e.id::text), e.pod_name, e.node_name,
            e.processor_id, e.detail, e.at, 1
        FROM orchestrator.events e
        WHERE e.at > now() - interval '1 day'
            AND (e.kind = 'stranger' OR e.reason = 'foreign_fleet')
    ) told
    ORDER BY identity, rank, at DESC
) latest
ORDER BY at DESC, identity
LIMIT $1

-- confirm_guard --
-- $1 by whom, $2 for how many seconds a confirmation holds: one that does not any more must
-- not be renewed by the way.
UPDATE orchestrator.guard
SET confirmed = CASE WHEN confirmed_at > now() - make_interval(secs => $2)
        THEN confirmed ELSE '{}' END || held,
    confirmed_at = now(),
    confirmed_by = $1

-- lock_frozen --
-- $1 processors, null: all. Locked, so that the leader does not drop the finding meanwhile.
SELECT processor_id, reason FROM orchestrator.processor_states
WHERE (reason = 'document_ahead' OR reason = 'epoch_ahead' AND epoch IS NOT NULL)
    AND ($1::uuid[] IS NULL OR processor_id = ANY ($1))
ORDER BY processor_id
FOR UPDATE

-- adopt --
-- $1 processors: the pod that was found owns each, under its own epoch. Its earlier failures
-- are those of another history.
INSERT INTO orchestrator.ownership AS o
    (processor_id, epoch, pod_uid, pod_name, node_name, pod_ip)
SELECT processor_id, epoch, pod_uid, pod_name, node_name, pod_ip
FROM orchestrator.processor_states WHERE processor_id = ANY ($1)
ON CONFLICT (processor_id) DO UPDATE
SET epoch = EXCLUDED.epoch, pod_uid = EXCLUDED.pod_uid, pod_name = EXCLUDED.pod_name,
    node_name = EXCLUDED.node_name, pod_ip = EXCLUDED.pod_ip, ready = false, failures = 0,
    failed_pod_uid = NULL, retry_at = NULL, exit_code = NULL, restart_reason = NULL,
    updated_at = now()
WHERE o.epoch <= EXCLUDED.epoch

-- adopt_documents --
-- $1 processors, $2 by whom. Whoever leads carries it out: the documents lie in the cluster.
INSERT INTO orchestrator.adopted_documents AS a (processor_id, by)
SELECT processor_id, $2 FROM unnest($1::uuid[]) AS w (processor_id)
ON CONFLICT (processor_id) DO UPDATE SET by = excluded.by, at = now()

-- adopt_states --
-- $1 processors. What they have counted is the newest, whatever a restored database has: to give
-- them that would set them back.
INSERT INTO orchestrator.incarnations AS i
    (processor_id, epoch, number, pod_uid, pod_name, restart_count, given_at)
SELECT s.processor_id, s.epoch, 1 + COALESCE((
        SELECT max(c.incarnation) FROM orchestrator.checkpoints c
        WHERE c.processor_id = s.processor_id
    ), 0), s.pod_uid, s.pod_name, COALESCE(s.restart_count, 0), now()
FROM orchestrator.processor_states s
WHERE s.processor_id = ANY ($1) AND s.pod_uid IS NOT NULL AND s.pod_name IS NOT NULL
ON CONFLICT (processor_id) DO UPDATE
SET epoch = excluded.epoch, number = GREATEST(i.number + 1, excluded.number),
    pod_uid = excluded.pod_uid, pod_name = excluded.pod_name,
    restart_count = excluded.restart_count, ready_at = NULL, given_at = now()

-- adopt_away --
-- $1 processors. Of those whose pod is not where their link says: they live away from home, as
-- after the failover that the database has forgotten, and go home when home is well.
WITH away AS (
    UPDATE edge_node_apps e SET status = 'failed_over', updated_at = now()
    FROM orchestrator.processor_states s, edge_nodes n
    WHERE s.processor_id = ANY ($1) AND e.processor_id = s.processor_id AND e.status = 'active'
        AND n.id = e.edge_node_id AND n.name IS DISTINCT FROM s.node_name
    RETURNING e.processor_id, e.edge_node_id
)
UPDATE orchestrator.ownership o SET left_edge_node_id = away.edge_node_id
FROM away WHERE o.processor_id = away.processor_id

-- adopt_at_home --
-- $1 processors. The other way round: their pod is at the home that they are said to have left.
WITH home AS (
    UPDATE edge_node_apps e SET status = 'active', updated_at = now()
    FROM orchestrator.processor_states s, edge_nodes n
    WHERE s.processor_id = ANY ($1) AND e.processor_id = s.processor_id
        AND e.status = 'failed_over' AND n.id = e.edge_node_id AND n.name = s.node_name
        AND NOT EXISTS (
            SELECT FROM edge_node_apps a
            WHERE a.processor_id = e.processor_id AND a.status = 'active'
        )
    RETURNING e.processor_id
)
UPDATE orchestrator.ownership o SET left_edge_node_id = NULL
FROM home WHERE o.processor_id = home.processor_id

-- tell_adopted --
-- $1 processors, $2 detail.
INSERT INTO orchestrator.events
    (kind, reason, detail, processor_id, node_name, pod_name, pod_uid, epoch)
SELECT 'guard', 'adopted', $2, processor_id, node_name, pod_name, pod_uid, epoch
FROM orchestrator.processor_states WHERE processor_id = ANY ($1) ORDER BY processor_id

-- tell_confirmed --
-- $1 detail.
INSERT INTO orchestrator.events (kind, reason, detail) VALUES ('guard', 'confirmed', $1)

-- brake --
-- $1 how many nodes to name. An override that is over is none. One statement: all of it is of one
-- moment, also while it is being changed.
WITH suspect AS (
    SELECT edge_node_id, name, state, reason, detail, since FROM orchestrator.node_health
    WHERE edge_node_id IS NOT NULL AND state IN ('suspect', 'offline')
),
brake AS (
    SELECT
        to_timestamp(engaged_at) AS engaged_at, reason, detail,
        cardinality(population) AS population,
        CASE WHEN override_until > extract(epoch FROM now()) THEN override_until END AS until,
        override_by, override_reason
    FROM orchestrator.brake
)
SELECT
    engaged_at IS NOT NULL AND until IS NULL AS engaged,
    engaged_at, reason, detail,
    population AS population_count,
    to_timestamp(until) AS override_until,
    CASE WHEN until IS NOT NULL THEN override_by END AS override_by,
    CASE WHEN until IS NOT NULL THEN override_reason END AS override_reason,
    (SELECT count(*) FROM suspect) AS nodes_count,
    (
        SELECT COALESCE(jsonb_agg(named ORDER BY name, id), '[]')::text FROM (
            SELECT edge_node_id AS id, name, state, reason, detail, since FROM suspect
            ORDER BY name, edge_node_id LIMIT $1
        ) named
    ) AS nodes
FROM brake

-- override_brake --
-- $1 seconds, $2 by whom, $3 why.
UPDATE orchestrator.brake
SET override_until = extract(epoch FROM now()) + $1::float8, override_by = $2, override_reason = $3
RETURNING to_timestamp(override_until)

-- clear_brake_override --
-- One that is over is left alone: it is none any more.
UPDATE orchestrator.brake
SET override_until = NULL, override_by = NULL, override_reason = NULL
WHERE override_until > extract(epoch FROM now())
RETURNING true

-- tell_brake --
-- $1 reason, $2 detail.
INSERT INTO orchestrator.events (kind, reason, detail) VALUES ('brake', $1, $2)

-- lock_nodes_named --
-- $1 name, $2 organization, if it is given.
SELECT id, organization_id, status::text AS status FROM edge_nodes
WHERE name = $1 AND ($2::uuid IS NULL OR organization_id = $2)
ORDER BY id
FOR NO KEY UPDATE

-- cordon --
-- $1 edge node, $2 why. No row when it was cordoned before.
INSERT INTO orchestrator.cordons (edge_node_id, cause, cordoned_at) VALUES ($1, $2, now())
ON CONFLICT (edge_node_id) DO NOTHING
RETURNING true

-- uncordon --
DELETE FROM orchestrator.cordons WHERE edge_node_id = $1 RETURNING true

-- tell_of_node --
-- $1 kind, $2 reason, $3 detail, $4 name of the node.
INSERT INTO orchestrator.events (kind, reason, detail, node_name) VALUES ($1, $2, $3, $4)

-- pause_status --
-- One that is over is none.
SELECT until IS NOT NULL AS paused, to_timestamp(until) AS until,
    CASE WHEN until IS NOT NULL THEN began_at END AS began_at,
    CASE WHEN until IS NOT NULL THEN by END AS by,
    CASE WHEN until IS NOT NULL THEN reason END AS reason
FROM (
    SELECT CASE WHEN until > extract(epoch FROM now()) THEN until END AS until, began_at, by, reason
    FROM orchestrator.pause
) present

-- pause --
-- $1 seconds, $2 by whom, $3 why.
UPDATE orchestrator.pause
SET until = extract(epoch FROM now()) + $1::float8, began_at = now(), by = $2, reason = $3
RETURNING to_timestamp(until)

-- resume --
UPDATE orchestrator.pause SET until = NULL WHERE until > extract(epoch FROM now()) RETURNING true

-- tell_decision --
-- $1 kind, $2 reason, $3 detail, $4 processor.
INSERT INTO orchestrator.events (kind, reason, detail, processor_id) VALUES ($1, $2, $3, $4)

-- list_drills --
-- $1 how many. The newest first.
SELECT d.id, d.node_name, d.by, d.reason, d.phase, d.began_at, d.until, d.left_at, d.ended_at,
    d.outcome, d.detail,
    (
        SELECT COALESCE(jsonb_agg(to_jsonb(m) ORDER BY m.began_at, m.id), '[]')::text FROM (
            SELECT m.id, m.processor_id,
                (SELECT p.name::text FROM processors p WHERE p.id = m.processor_id LIMIT 1)
                    AS processor_name,
                m.kind, m.from_node, m.to_node, m.began_at, m.ended_at, m.outcome, m.rto_seconds,
                m.rpo_seconds
            FROM orchestrator.moves m
            WHERE m.edge_node_id = d.edge_node_id AND m.began_at >= d.began_at
                AND m.began_at <= COALESCE(d.ended_at, now())
            ORDER BY m.id LIMIT 1000
        ) m
    ) AS moves
FROM orchestrator.drills d ORDER BY d.id DESC LIMIT $1

-- drill_facts --
-- $1 edge node.
SELECT
    n.status::text AS status,
    n.failover_enabled,
    EXISTS (SELECT FROM orchestrator.cordons c WHERE c.edge_node_id = n.id) AS cordoned,
    COALESCE((SELECT k.ready FROM orchestrator.nodes k WHERE k.name = n.name), false) AS ready,
    (SELECT h.state FROM orchestrator.node_health h WHERE h.edge_node_id = n.id) AS health,
    (SELECT d.node_name FROM orchestrator.drills d WHERE d.phase <> 'ended') AS other_drill,
    EXISTS (
        SELECT FROM orchestrator.brake b
        WHERE b.engaged_at IS NOT NULL
            AND COALESCE(b.override_until <= extract(epoch FROM now()), true)
    ) AS brake_engaged,
    EXISTS (
        SELECT FROM orchestrator.pause u WHERE u.until > extract(epoch FROM now())
    ) AS paused,
    (SELECT held_since IS NOT NULL FROM orchestrator.guard) AS guard_held,
    (SELECT count(*) FROM orchestrator.moves m WHERE m.ended_at IS NULL) AS moves_open,
    (
        SELECT count(*) FROM orchestrator.node_health h
        WHERE h.edge_node_id IS NOT NULL AND h.edge_node_id <> n.id
            AND h.state IN ('suspect', 'offline')
    ) AS others_in_trouble,
    (
        SELECT count(*) FROM edge_node_apps a
        WHERE a.edge_node_id = n.id AND a.status = 'active'
    ) AS processors
FROM edge_nodes n WHERE n.id = $1

-- start_drill --
-- $1 edge node, $2 its name, $3 by whom, $4 why, $5 seconds.
INSERT INTO orchestrator.drills (edge_node_id, node_name, by, reason, until)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))

-- stop_drill --
-- $1 and $2 in words. One that runs goes on to its way home; one whose processors are on their way
-- home has ended: they go on without it.
UPDATE orchestrator.drills
SET phase = CASE phase WHEN 'running' THEN 'returning' ELSE 'ended' END,
    outcome = CASE phase WHEN 'running' THEN 'aborted' ELSE COALESCE(outcome, 'still_away') END,
    detail = CASE phase WHEN 'running' THEN $1 ELSE $2 END,
    left_at = COALESCE(left_at, now()),
    ended_at = CASE phase WHEN 'running' THEN NULL ELSE now() END
WHERE phase <> 'ended'
RETURNING node_name, detail

-- order_facts --
-- $1 processor. No row when nothing is known of it. What may change meanwhile is locked by the
-- statement before.
SELECT
    (SELECT p.node_type::text FROM processors p WHERE p.id = $1 LIMIT 1) AS node_type,
    COALESCE(s.reason, 'not_looked_at') AS reason,
    linked.name AS linked_node,
    home.name AS home_node,
    home.status AS home_status,
    home.cordoned IS TRUE AS home_cordoned,
    home.ready IS TRUE AS home_ready,
    home.health AS home_health,
    (
        SELECT m.kind FROM orchestrator.moves m
        WHERE m.processor_id = $1 AND m.ended_at IS NULL
    ) AS move,
    (SELECT r.kind FROM orchestrator.orders r WHERE r.processor_id = $1) AS order,
    EXISTS (
        SELECT FROM orchestrator.brake b
        WHERE b.engaged_at IS NOT NULL
            AND COALESCE(b.override_until <= extract(epoch FROM now()), true)
    ) AS brake_engaged,
    EXISTS (
        SELECT FROM orchestrator.pause u WHERE u.until > extract(epoch FROM now())
    ) AS paused,
    (
        SELECT count(*) FROM orchestrator.nodes n
        WHERE n.kind = 'application' AND n.ready AND NOT n.unschedulable
    ) AS application_nodes_ready,
    COALESCE(o.failures, 0) AS failures,
    CASE WHEN o.retry_at > now() AND o.failures > 0
        THEN extract(epoch FROM o.retry_at - now())::float8 END AS waits_seconds
FROM (SELECT 1) one
LEFT JOIN orchestrator.processor_states s ON s.processor_id = $1
LEFT JOIN orchestrator.ownership o ON o.processor_id = $1
LEFT JOIN LATERAL (
    SELECT n.name::text AS name FROM edge_node_apps a JOIN edge_nodes n ON n.id = a.edge_node_id
    WHERE a.processor_id = $1 AND a.status = 'active' ORDER BY a.created_at, a.id LIMIT 1
) linked ON true
LEFT JOIN LATERAL (
    SELECT n.name::text AS name, n.status::text AS status, c.edge_node_id IS NOT NULL AS cordoned,
        k.ready, h.state AS health
    FROM (
        SELECT a.edge_node_id, 0 AS rank, a.updated_at FROM edge_node_apps a
        WHERE a.processor_id = $1 AND a.status = 'failed_over'
        UNION ALL
        SELECT o.left_edge_node_id, 1, o.updated_at WHERE o.left_edge_node_id IS NOT NULL
    ) left_behind
    JOIN edge_nodes n ON n.id = left_behind.edge_node_id
    LEFT JOIN orchestrator.cordons c ON c.edge_node_id = n.id
    LEFT JOIN orchestrator.nodes k ON k.name = n.name
    LEFT JOIN orchestrator.node_health h ON h.edge_node_id = n.id
    WHERE linked.name IS NULL
    ORDER BY left_behind.rank, left_behind.updated_at DESC LIMIT 1
) home ON true
WHERE s.processor_id IS NOT NULL OR EXISTS (SELECT FROM processors p WHERE p.id = $1)

-- lock_owner --
SELECT epoch FROM orchestrator.ownership WHERE processor_id = $1 FOR UPDATE

-- order --
-- $1 processor, $2 kind, $3 by whom, $4 why. In place of the one before.
INSERT INTO orchestrator.orders (processor_id, kind, by, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (processor_id) DO UPDATE
SET kind = excluded.kind, by = excluded.by, reason = excluded.reason, ordered_at = now()

-- withdraw_order --
DELETE FROM orchestrator.orders WHERE processor_id = $1

-- retry --
UPDATE orchestrator.ownership SET retry_at = now(), updated_at = now() WHERE processor_id = $1

-- forget_questions --
-- $1 older than so many seconds.
DELETE FROM orchestrator.questions WHERE asked_at < now() - make_interval(secs => $1)

-- ask --
-- $1 kind, $2 parameters as JSON.
INSERT INTO orchestrator.questions (kind, parameters) VALUES ($1, $2::text::jsonb) RETURNING id

-- answer --
SELECT answer::text FROM orchestrator.questions WHERE id = $1 AND answered_at IS NOT NULL

-- beat_facts --
-- $1 processor, $2 whether a cluster is configured. What `record_heartbeats` finds out of a beat of
-- it, without writing.
WITH picture AS (
    SELECT c.has_cluster, p.is_whole,
        c.has_cluster AND (p.seen_at BETWEEN now() - make_interval(secs => p.interval_seconds)
            AND now() + interval '1 second') IS NOT TRUE AS is_missing
    FROM orchestrator.picture p,
        LATERAL (SELECT $2 OR EXISTS (
            SELECT FROM orchestrator.leader WHERE term > 0) AS has_cluster) c
)
SELECT
    p.id IS NOT NULL AS found,
    true AS recorded,
    COALESCE(p.status::text, '') AS status,
    departed.name::text AS left_node_name,
    CASE WHEN departed.id IS NOT NULL THEN o.node_name END AS owner_node_name,
    COALESCE(departed.id IS NOT NULL AND o.ready AND o.fencing, false) AS owner_ready,
    (SELECT held_since IS NOT NULL FROM orchestrator.guard)
        OR (
            (p.id IS NULL OR p.status::text IN ('terminated', 'failed'))
            AND picture.has_cluster AND NOT o.end_granted
            AND (o.pod_uid IS NOT NULL OR o.node_name IS NOT NULL)
        ) IS TRUE AS deletion_undecided,
    picture.is_missing AS no_picture,
    picture.has_cluster AND (
        EXISTS (SELECT FROM orchestrator.unowned_pods u WHERE u.processor_id = $1)
        OR NOT picture.is_whole AND o.end_granted IS NOT TRUE
    ) AS unowned_pod,
    COALESCE(o.node_name, '') AS owner_node
FROM picture
LEFT JOIN LATERAL (SELECT p.id, p.status FROM processors p WHERE p.id = $1 LIMIT 1) p ON true
LEFT JOIN orchestrator.ownership o ON o.processor_id = $1
LEFT JOIN edge_nodes departed ON departed.id = o.left_edge_node_id AND p.id IS NOT NULL

-- list_moves --
-- $1 limit, $2 below this id, $3 processor, $4 node that is left or reached, $5 kind, $6 whether
-- it has not ended, $7 outcome. The newest first.
SELECT
    m.id, m.processor_id,
    COALESCE(
        (SELECT p.name::text FROM processors p WHERE p.id = m.processor_id LIMIT 1),
        (SELECT l.name FROM orchestrator.last_known l WHERE l.processor_id = m.processor_id)
    ) AS processor_name,
    m.kind,
    -- Of one that did not get further, what stood in its way.
    CASE WHEN m.error IS NULL OR m.outcome = 'done' THEN m.detail
        ELSE m.detail || ': ' || m.error END AS detail,
    m.from_node, m.to_node, m.edge_node_id, m.old_uid, m.epoch, m.began_at,
    m.last_alive_at, m.suspect_at, m.state_at, m.created_at, m.ready_at, m.ended_at, m.outcome,
    m.rto_seconds, m.rpo_seconds
FROM orchestrator.moves m
WHERE ($2::bigint IS NULL OR m.id < $2)
    AND ($3::uuid IS NULL OR m.processor_id = $3)
    AND ($4::text IS NULL OR m.from_node = $4 OR m.to_node = $4)
    AND ($5::text IS NULL OR m.kind = $5)
    AND ($6::boolean IS NULL OR (m.ended_at IS NULL) = $6)
    AND ($7::text IS NULL OR m.outcome = $7)
ORDER BY m.id DESC
LIMIT $1

-- wake_leader --
SELECT pg_notify('orchestrator_changed', '')

-- summary --
-- A processor is ready when it is desired and runs.
WITH stored AS (
    SELECT DISTINCT id FROM processors
    WHERE id IS NOT NULL AND COALESCE(status::text, '') NOT IN ('terminated', 'failed')
),
known AS (
    SELECT COALESCE(s.state, 'unknown') AS state, p.id IS NOT NULL AS desired
    FROM stored p
    FULL JOIN orchestrator.processor_states s ON s.processor_id = p.id
),
counted AS (
    SELECT state, count(*) AS count, count(*) FILTER (WHERE desired) AS desired
    FROM known GROUP BY state
)
SELECT
    (SELECT id FROM orchestrator.fleet) AS fleet_id,
    now() AS at,
    l.expires_at > now()
        AND EXISTS (SELECT FROM orchestrator.fleet f WHERE f.shown_term = l.term) AS current,
    (SELECT COALESCE(sum(desired), 0)::bigint FROM counted) AS desired,
    (SELECT COALESCE(sum(desired), 0)::bigint FROM counted WHERE state = 'running') AS ready,
    (SELECT COALESCE(jsonb_object_agg(state, count), '{}')::text FROM counted) AS states,
    (SELECT count(*) FROM orchestrator.nodes) AS nodes,
    (SELECT count(*) FROM orchestrator.nodes WHERE ready) AS nodes_ready,
    l.holder AS leader,
    l.term,
    CASE WHEN isfinite(l.expires_at)
        THEN extract(epoch FROM l.expires_at - now())::float8 END AS lease_seconds,
    (SELECT held_since IS NOT NULL FROM orchestrator.guard) AS guard_held,
    EXISTS (
        SELECT FROM orchestrator.brake b
        WHERE b.engaged_at IS NOT NULL
            AND COALESCE(b.override_until <= extract(epoch FROM now()), true)
    ) AS brake_engaged,
    (SELECT count(*) FROM orchestrator.moves m WHERE m.ended_at IS NULL) AS moves_open,
    (
        SELECT count(DISTINCT h.processor_id) FROM edge_node_apps h
        JOIN stored s ON s.id = h.processor_id
        WHERE h.status = 'failed_over' AND NOT EXISTS (
            SELECT FROM edge_node_apps e
            WHERE e.processor_id = h.processor_id AND e.status = 'active'
        )
    ) AS away,
    p.until AS pause_until,
    p.by AS pause_by,
    p.reason AS pause_reason,
    d.node_name AS drill_node,
    d.until AS drill_until,
    d.phase AS drill_phase
FROM orchestrator.leader l
LEFT JOIN orchestrator.drills d ON d.phase <> 'ended'
LEFT JOIN (
    SELECT to_timestamp(until) AS until, by, reason FROM orchestrator.pause
    WHERE until > extract(epoch FROM now())
) p ON true
