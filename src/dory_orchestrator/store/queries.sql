-- Every statement of the service, by name. Literals instead of parameters stand for states
-- on purpose: a state column may be an enum of the platform's, and a literal takes its type.

-- record_heartbeats --
-- $1 processor ids, $2 node names, $3 healthy: one entry a beat. Of several of one processor
-- the last decides its health. $4 whether a cluster is configured.
-- Rows are locked in order of id, so that two writers cannot wait for each other, and rows
-- that somebody else holds are skipped: one forgotten transaction must not stop all beats.
-- Each row is looked up once, when it is locked, and then written in its place (ctid). One that
-- moved in between, under a concurrent update, counts as held by somebody else.
WITH beat AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::boolean[])
        WITH ORDINALITY AS b (processor_id, node_name, healthy, ordinal)
),
-- Where there is a cluster no row alone ends a program. That there is one is also said by a leader.
picture AS MATERIALIZED (
    SELECT c.has_cluster, p.is_whole,
        c.has_cluster AND (p.seen_at BETWEEN now() - make_interval(secs => p.interval_seconds)
            AND now() + interval '1 second') IS NOT TRUE AS is_missing
    FROM orchestrator.picture p,
        LATERAL (SELECT $4 OR EXISTS (
            SELECT FROM orchestrator.leader WHERE term > 0) AS has_cluster) c
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
        l.id IS NULL OR (l.status IN ('terminated', 'failed')) IS TRUE AS gone,
        link.edge_node_id,
        CASE WHEN departed.name = b.node_name THEN departed.id END AS seen_edge_node_id,
        departed.name AS left_node_name,
        -- The owner matters only where a move left somebody behind.
        CASE WHEN departed.id IS NOT NULL THEN o.node_name END AS owner_node_name,
        -- Without fencing the instance that was left is never told to end.
        departed.id IS NOT NULL AND o.ready AND o.fencing AS owner_ready
    FROM beat b
    LEFT JOIN processor_lock l ON l.id = b.processor_id
    -- Also of a processor whose row is gone or held by somebody else: it lives, and so does its
    -- node. Rows that vanish must not make the nodes of a healthy fleet look silent.
    LEFT JOIN LATERAL (
        SELECT a.edge_node_id FROM edge_node_apps a
        WHERE a.processor_id = b.processor_id AND a.status = 'active'
            -- While it is on its way home, what it says elsewhere tells nothing of its home.
            AND NOT EXISTS (
                SELECT FROM orchestrator.moves m
                WHERE m.processor_id = b.processor_id AND m.ended_at IS NULL
                    AND m.kind = 'failback'
                    AND NOT EXISTS (
                        SELECT FROM edge_nodes n
                        WHERE n.id = a.edge_node_id AND n.name = b.node_name
                    )
            )
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
    undecided,
    no_picture,
    unowned_pod,
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
            AS recorded,
        -- Of what is neither missing nor ended nothing of this matters. The deletion guard holds;
        -- or the leader has not yet decided on the pod that it still has.
        CASE WHEN k.gone THEN
            (SELECT held_since IS NOT NULL FROM orchestrator.guard)
            OR (SELECT has_cluster FROM picture) AND EXISTS (
                SELECT FROM orchestrator.ownership o
                WHERE o.processor_id = k.processor_id AND NOT o.end_granted
                    AND (o.pod_uid IS NOT NULL OR o.node_name IS NOT NULL)
            )
        ELSE false END AS undecided,
        CASE WHEN k.gone THEN COALESCE((SELECT is_missing FROM picture), true)
        ELSE false END AS no_picture,
        CASE WHEN k.gone AND (SELECT has_cluster FROM picture) THEN
            EXISTS (
                SELECT FROM orchestrator.unowned_pods u WHERE u.processor_id = k.processor_id
            )
            -- A pod in a namespace that is not looked at would not be seen.
            OR NOT (SELECT is_whole FROM picture) AND NOT EXISTS (
                SELECT FROM orchestrator.ownership o
                WHERE o.processor_id = k.processor_id AND o.end_granted
            )
        ELSE false END AS unowned_pod
    FROM known k
) told
GROUP BY found, recorded, status, left_node_name, owner_node_name, owner_ready, undecided,
    no_picture, unowned_pod

-- renew_canary --
-- $1 longest time in seconds between canary beats that is no gap. In the transaction of the
-- batch that the canary came in; a statement of its own, so that no other batch pays for it.
WITH canary_gap AS (
    INSERT INTO orchestrator.gaps (cause, began_at, ended_at)
    SELECT 'canary', last_beat_at, now() FROM orchestrator.canary
    WHERE now() - last_beat_at > make_interval(secs => $1)
),
-- The clock was set back, as where a replica took over: a beat that lies ahead would keep a dead
-- node fresh for as long as the step was. It counts as of now; a second is what two servers'
-- transactions may differ by.
clock_step AS (
    UPDATE edge_nodes SET last_heartbeat_at = now()
    WHERE ctid IN (
        SELECT ctid FROM edge_nodes WHERE last_heartbeat_at > now() + interval '1 second'
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    )
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
SELECT id, organization_id, status::text AS status FROM edge_nodes
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
WHERE p.id IS NOT NULL AND COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
-- By all columns: of two rows of one id the same one counts each time.
ORDER BY id, version_id, organization_id, name, node_type, namespace, status, template_slug,
    sensor_id, sensor_config, sensor_location

-- list_active_versions --
SELECT id, version::text AS version, image_uri::text AS image_uri, digest::text AS digest,
    runtime_config_template::text AS runtime_config_template
FROM processor_template_versions
WHERE is_active
ORDER BY id, version, image_uri, digest, runtime_config_template

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

-- read_now --
SELECT extract(epoch FROM now())::float8 AS now, id::text AS fleet_id FROM orchestrator.fleet

-- list_edge_nodes --
SELECT n.id, n.organization_id, n.name::text AS name, n.status::text AS status,
    c.edge_node_id IS NOT NULL AS cordoned, n.failover_enabled, n.failover_target_node_id,
    extract(epoch FROM n.last_heartbeat_at)::float8 AS last_heartbeat_at
FROM edge_nodes n
LEFT JOIN orchestrator.cordons c ON c.edge_node_id = n.id
WHERE n.id IS NOT NULL
ORDER BY id, organization_id, name, status

-- list_heartbeats --
-- $1 seconds. The last heartbeat of each processor whose edge node has been silent for so long:
-- only of such a node it matters who has beaten.
SELECT p.id AS processor_id, extract(epoch FROM max(
    CASE WHEN p.last_health_check_at IS DISTINCT FROM h.written_at
        THEN p.last_health_check_at ELSE h.heartbeat_at END
))::float8 AS heartbeat_at
FROM edge_nodes n
JOIN edge_node_apps a ON a.edge_node_id = n.id AND a.status = 'active'
JOIN processors p ON p.id = a.processor_id
LEFT JOIN orchestrator.pod_health h ON h.processor_id = p.id
WHERE n.last_heartbeat_at < now() - make_interval(secs => $1)
GROUP BY p.id

-- list_links --
-- A table of the platform's may hold several active ones: the oldest counts.
SELECT DISTINCT ON (processor_id) processor_id, edge_node_id
FROM edge_node_apps
WHERE status = 'active' AND processor_id IS NOT NULL AND edge_node_id IS NOT NULL
ORDER BY processor_id, created_at, id

-- list_homes --
-- Of those that live elsewhere: the edge node that they have failed over from; or that they left
-- when it was decommissioned, which stops the link; or that they are on their way home to, and
-- that was decommissioned meanwhile.
SELECT DISTINCT ON (h.processor_id) h.processor_id, h.edge_node_id
FROM (
    SELECT a.processor_id, a.edge_node_id, 0 AS rank, a.updated_at, a.id
    FROM edge_node_apps a
    WHERE a.status = 'failed_over' AND a.processor_id IS NOT NULL AND a.edge_node_id IS NOT NULL
    UNION ALL
    SELECT o.processor_id, o.left_edge_node_id, 1, o.updated_at, o.processor_id
    FROM orchestrator.ownership o
    WHERE o.left_edge_node_id IS NOT NULL
    UNION ALL
    SELECT m.processor_id, m.edge_node_id, 2, m.began_at, m.processor_id
    FROM orchestrator.moves m
    WHERE m.ended_at IS NULL AND m.kind = 'failback' AND m.edge_node_id IS NOT NULL
) h
WHERE NOT EXISTS (
    SELECT FROM edge_node_apps e
    WHERE e.processor_id = h.processor_id AND e.status = 'active'
)
ORDER BY h.processor_id, h.rank, h.updated_at DESC, h.id

-- list_moves --
SELECT processor_id, kind, from_node, old_uid, edge_node_id, epoch, error,
    extract(epoch FROM began_at)::float8 AS began_at,
    extract(epoch FROM last_alive_at)::float8 AS last_alive_at,
    extract(epoch FROM suspect_at)::float8 AS suspect_at,
    extract(epoch FROM state_at)::float8 AS state_at
FROM orchestrator.moves
WHERE ended_at IS NULL

-- list_move_retries --
SELECT processor_id, failures, extract(epoch FROM retry_at)::float8, error
FROM orchestrator.move_retries

-- record_move_retries --
-- $1 processor ids, $2 how often in a row a planned move was given up, $3 when the next may begin
-- (Unix seconds), $4 why the last one was.
INSERT INTO orchestrator.move_retries (processor_id, failures, retry_at, error)
SELECT a.processor_id, a.failures, to_timestamp(a.retry_at), a.error
FROM unnest($1::uuid[], $2::int[], $3::float8[], $4::text[])
    AS a (processor_id, failures, retry_at, error)
ON CONFLICT (processor_id) DO UPDATE
SET failures = excluded.failures, retry_at = excluded.retry_at, error = excluded.error

-- forget_move_retries --
-- $1 processor ids.
DELETE FROM orchestrator.move_retries WHERE processor_id = ANY ($1::uuid[])

-- list_gaps --
-- $1 seconds that an ended gap matters for, $2 the longest time between canary beats that is no
-- gap. One that has not ended is not stored yet.
SELECT extract(epoch FROM began_at)::float8 AS began_at,
    extract(epoch FROM ended_at)::float8 AS ended_at, cause
FROM orchestrator.gaps
WHERE ended_at > now() - make_interval(secs => $1)
UNION ALL
SELECT extract(epoch FROM last_beat_at)::float8, extract(epoch FROM now())::float8, 'canary'
FROM orchestrator.canary
WHERE now() - last_beat_at > make_interval(secs => $2)
ORDER BY 1, 2

-- list_node_health --
SELECT key, state, reason, since, suspect_since, well_since, last_well_at, falls
FROM orchestrator.node_health

-- read_brake --
SELECT engaged_at, reason, population, override_until FROM orchestrator.brake

-- list_ownership --
SELECT processor_id, epoch, pod_uid, pod_name, pod_ip, node_name, ready, failures,
    failed_pod_uid, extract(epoch FROM retry_at)::float8 AS retry_at, exit_code, restart_reason,
    last_pod_name, namespace, extract(epoch FROM updated_at)::float8 AS changed_at, end_granted
FROM orchestrator.ownership

-- read_pause --
-- One that is over is none.
SELECT until, by, reason FROM orchestrator.pause WHERE until > extract(epoch FROM now())

-- check_pause --
-- Held until the end of the transaction: a pause that is begun meanwhile waits for what was granted
-- before it.
SELECT COALESCE(until > extract(epoch FROM clock_timestamp()), false)
FROM orchestrator.pause FOR SHARE

-- list_orders --
SELECT processor_id, kind, by, reason FROM orchestrator.orders

-- read_drill --
SELECT id, edge_node_id, node_name, phase, extract(epoch FROM began_at)::float8 AS began_at,
    extract(epoch FROM until)::float8 AS until, by
FROM orchestrator.drills WHERE phase <> 'ended'

-- step_drill --
-- $1 drill, $2 the phase before, $3 the next one, $4 outcome, $5 in words. The first outcome stays.
UPDATE orchestrator.drills
SET phase = $3, detail = $5, left_at = COALESCE(left_at, now()),
    outcome = CASE WHEN outcome = 'aborted' THEN outcome ELSE $4 END,
    ended_at = CASE WHEN $3 = 'ended' THEN now() END
WHERE id = $1 AND phase = $2
RETURNING true

-- fulfil_orders --
-- $1 processor ids. To go home: their move has begun.
DELETE FROM orchestrator.orders WHERE processor_id = ANY ($1::uuid[]) AND kind = 'failback'

-- forget_orders --
-- $1 processor ids.
DELETE FROM orchestrator.orders WHERE processor_id = ANY ($1::uuid[])

-- open_questions --
-- $1 how old at most (seconds), $2 how many.
SELECT id, kind, parameters::text AS parameters FROM orchestrator.questions
WHERE answered_at IS NULL AND asked_at > now() - make_interval(secs => $1)
ORDER BY id LIMIT $2

-- answer_questions --
-- $1 ids, $2 answers as JSON.
UPDATE orchestrator.questions q SET answered_at = now(), answer = a.answer::json
FROM unnest($1::bigint[], $2::text[]) AS a (id, answer)
WHERE q.id = a.id AND q.answered_at IS NULL

-- failover_experience --
-- The median time of failovers from their grant to their end, of the last hundred.
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)::float8 FROM (
    SELECT extract(epoch FROM ended_at - began_at)::float8 AS seconds FROM orchestrator.moves
    WHERE kind = 'failover' AND outcome = 'done' ORDER BY id DESC LIMIT 100
) last

-- read_guard --
SELECT extract(epoch FROM held_since)::float8 AS held_since,
    extract(epoch FROM confirmed_at)::float8 AS confirmed_at, confirmed::text AS confirmed
FROM orchestrator.guard

-- renew_lease --
-- $1 holder, $2 its term, $3 seconds. It changes no key, so it waits for nobody who writes under
-- this lease: one after the other would let them share the row, and the lease would end.
UPDATE orchestrator.leader SET expires_at = clock_timestamp() + make_interval(secs => $3)
WHERE holder = $1 AND term = $2 AND expires_at > clock_timestamp()
RETURNING term

-- take_lease --
-- $1 holder, $2 seconds. Waits for whoever still writes under the lease before. A holder that
-- begins anew (its process was restarted) takes its own lease over at once, in a new term.
WITH free AS MATERIALIZED (
    SELECT FROM orchestrator.leader
    WHERE holder IS NULL OR holder = $1 OR expires_at <= clock_timestamp()
    FOR UPDATE
)
UPDATE orchestrator.leader
SET term = term + 1, holder = $1, expires_at = clock_timestamp() + make_interval(secs => $2)
FROM free
RETURNING term

-- release_lease --
UPDATE orchestrator.leader SET holder = NULL, expires_at = now() WHERE holder = $1 AND term = $2

-- check_lease --
-- Held until the end of the transaction: who takes the lease over waits for it, and so sees
-- what it wrote; who renews it does not.
SELECT true FROM orchestrator.leader
WHERE holder = $1 AND term = $2 AND expires_at > clock_timestamp()
FOR KEY SHARE

-- hold_links --
-- $1 processor ids. Holds their links until the end of the transaction, so that what a grant
-- writes to them waits for nobody; returns those of whose links somebody else holds one.
WITH free AS MATERIALIZED (
    SELECT id FROM edge_node_apps
    WHERE processor_id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
SELECT DISTINCT processor_id FROM edge_node_apps
WHERE processor_id = ANY ($1::uuid[]) AND id NOT IN (SELECT id FROM free)

-- move_facts --
-- $1 processor ids, $2 the edge node of each move (null: it leaves an application node): what
-- says whether it may begin. Of several active links the oldest counts, as for everybody.
SELECT a.processor_id,
    extract(epoch FROM clock_timestamp())::float8 AS now,
    EXISTS (
        SELECT FROM orchestrator.brake
        WHERE engaged_at IS NOT NULL
            AND COALESCE(override_until, 0) <= extract(epoch FROM clock_timestamp())
    ) AS brake_engaged,
    link.edge_node_id AS link_id,
    n.status::text AS status,
    c.edge_node_id IS NOT NULL AS cordoned,
    COALESCE(n.failover_enabled, true) AS failover_enabled,
    extract(epoch FROM n.last_heartbeat_at)::float8 AS heartbeat_at,
    o.kind AS order_kind,
    EXISTS (
        SELECT FROM orchestrator.drills d
        WHERE d.edge_node_id = a.edge_node_id AND d.phase = 'running'
            AND d.until > clock_timestamp()
    ) AS drill_runs,
    EXISTS (
        SELECT FROM orchestrator.moves m
        WHERE m.processor_id = a.processor_id AND m.ended_at IS NULL
            AND m.kind = 'failback' AND m.edge_node_id = a.edge_node_id
    ) AS comes_home
FROM unnest($1::uuid[], $2::uuid[]) AS a (processor_id, edge_node_id)
LEFT JOIN LATERAL (
    SELECT e.edge_node_id FROM edge_node_apps e
    WHERE e.processor_id = a.processor_id AND e.status = 'active' AND e.edge_node_id IS NOT NULL
    ORDER BY e.created_at, e.id LIMIT 1
) link ON true
LEFT JOIN edge_nodes n ON n.id = a.edge_node_id
LEFT JOIN orchestrator.cordons c ON c.edge_node_id = a.edge_node_id
LEFT JOIN orchestrator.orders o ON o.processor_id = a.processor_id

-- supersede_moves --
UPDATE orchestrator.moves SET ended_at = now(), outcome = 'superseded'
WHERE processor_id = ANY ($1::uuid[]) AND ended_at IS NULL
RETURNING processor_id, kind, edge_node_id

-- begin_moves --
-- $1 processor ids, $2 kinds, $3 from nodes, $4 to nodes, $5 edge nodes, $6 uids of the pods
-- that are left, $7 epochs, $8 last signs of life, $9 when the evidence began, $10 details. A
-- move that was superseded a moment ago goes on in this one: it counts from the same sign of life.
INSERT INTO orchestrator.moves (
    processor_id, kind, from_node, to_node, edge_node_id, old_uid, epoch, last_alive_at,
    suspect_at, detail
)
SELECT a.processor_id, a.kind, a.from_node, a.to_node, a.edge_node_id, a.old_uid, a.epoch,
    COALESCE(
        (
            SELECT m.last_alive_at FROM orchestrator.moves m
            WHERE m.processor_id = a.processor_id AND m.ended_at = now()
                AND m.outcome = 'superseded'
            ORDER BY m.id DESC LIMIT 1
        ),
        to_timestamp(a.last_alive_at)
    ),
    to_timestamp(a.suspect_at),
    a.detail
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::bigint[],
    $8::float8[], $9::float8[], $10::text[]
) AS a (
    processor_id, kind, from_node, to_node, edge_node_id, old_uid, epoch, last_alive_at,
    suspect_at, detail
)

-- leave_edge_nodes --
-- $1 processor ids, $2 edge nodes. A failover: the link stands for the way home.
UPDATE edge_node_apps e SET status = 'failed_over', updated_at = now()
FROM unnest($1::uuid[], $2::uuid[]) AS a (processor_id, edge_node_id)
WHERE e.processor_id = a.processor_id AND e.edge_node_id = a.edge_node_id
    AND e.status = 'active'

-- note_left_nodes --
-- $1 processor ids, $2 edge nodes that were left (null: an application node; what was left
-- before still is), $3 whether the old instance is told to shut down.
UPDATE orchestrator.ownership o
SET left_edge_node_id = COALESCE(a.edge_node_id, o.left_edge_node_id), fencing = a.fencing
FROM unnest($1::uuid[], $2::uuid[], $3::boolean[]) AS a (processor_id, edge_node_id, fencing)
WHERE o.processor_id = a.processor_id

-- return_to_edge_nodes --
-- $1 processor ids, $2 edge nodes. The oldest link of the two counts, as for everybody.
UPDATE edge_node_apps e SET status = 'active', updated_at = now()
WHERE e.id IN (
        SELECT DISTINCT ON (h.processor_id) h.id
        FROM edge_node_apps h
        JOIN unnest($1::uuid[], $2::uuid[]) AS a (processor_id, edge_node_id)
            ON h.processor_id = a.processor_id AND h.edge_node_id = a.edge_node_id
        WHERE h.status <> 'active'
        ORDER BY h.processor_id, h.status = 'failed_over' DESC, h.updated_at DESC, h.id
    )
    AND NOT EXISTS (
        SELECT FROM edge_node_apps o
        WHERE o.processor_id = e.processor_id AND o.status = 'active'
    )

-- forget_left_nodes --
UPDATE orchestrator.ownership SET left_edge_node_id = NULL WHERE processor_id = ANY ($1::uuid[])

-- record_move_states --
-- $1 processor ids, $2 epochs, $3 when the state that is given was last seen (Unix seconds).
UPDATE orchestrator.moves m SET state_at = to_timestamp(a.state_at)
FROM unnest($1::uuid[], $2::bigint[], $3::float8[]) AS a (processor_id, epoch, state_at)
WHERE m.processor_id = a.processor_id AND m.ended_at IS NULL

-- record_move_error --
-- $1 processor, $2 why its state could not be captured.
UPDATE orchestrator.moves SET error = $2
WHERE processor_id = $1 AND ended_at IS NULL AND error IS DISTINCT FROM $2

-- end_moves --
-- $1 processor ids, $2 epochs, $3 pod uids, $4 nodes, $5 RTO, $6 RPO in seconds, $7 when the pod
-- was created and $8 ready (Unix seconds).
UPDATE orchestrator.moves m
SET ended_at = now(), outcome = 'done', to_node = a.node_name, rto_seconds = a.rto_seconds,
    rpo_seconds = a.rpo_seconds, created_at = to_timestamp(a.created_at),
    ready_at = to_timestamp(a.ready_at)
FROM unnest(
    $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::float8[], $6::float8[], $7::float8[],
    $8::float8[]
) AS a (processor_id, epoch, pod_uid, node_name, rto_seconds, rpo_seconds, created_at, ready_at)
JOIN orchestrator.ownership o
    ON o.processor_id = a.processor_id AND o.epoch = a.epoch AND o.pod_uid = a.pod_uid
WHERE m.processor_id = a.processor_id AND m.ended_at IS NULL
RETURNING m.processor_id

-- cancel_moves --
-- $1 processor ids, $2 epochs before, $3 pod uids, $4 pod names, $5 nodes, $6 edge nodes that are
-- left behind after all (null: none).
WITH granted AS (
    UPDATE orchestrator.ownership o
    SET epoch = o.epoch + 1, pod_uid = a.pod_uid, pod_name = a.pod_name, node_name = a.node_name,
        pod_ip = NULL, ready = false, left_edge_node_id = a.left_edge_node_id,
        end_granted = false, updated_at = now()
    FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::uuid[])
        AS a (processor_id, epoch, pod_uid, pod_name, node_name, left_edge_node_id)
    WHERE o.processor_id = a.processor_id AND o.epoch = a.epoch
    RETURNING o.processor_id
),
ended AS (
    UPDATE orchestrator.moves m SET ended_at = now(), outcome = 'cancelled'
    FROM granted WHERE m.processor_id = granted.processor_id AND m.ended_at IS NULL
)
SELECT processor_id FROM granted

-- drop_moves --
UPDATE orchestrator.moves SET ended_at = now(), outcome = 'dropped'
WHERE processor_id = ANY ($1::uuid[]) AND ended_at IS NULL

-- forget_moves --
-- $1 seconds, $2 how many at most.
DELETE FROM orchestrator.moves
WHERE id IN (
    SELECT id FROM orchestrator.moves
    WHERE ended_at < now() - make_interval(secs => $1) ORDER BY ended_at LIMIT $2
)
RETURNING true

-- record_node_health --
INSERT INTO orchestrator.node_health AS h (
    key, name, edge_node_id, state, reason, detail, since, suspect_since, well_since,
    last_well_at, falls
)
SELECT a.key, a.name, a.edge_node_id, a.state, a.reason, a.detail, a.since, a.suspect_since,
    a.well_since, a.last_well_at, ARRAY(SELECT jsonb_array_elements_text(a.falls::jsonb)::float8)
FROM unnest(
    $1::text[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::float8[],
    $8::float8[], $9::float8[], $10::float8[], $11::text[]
) AS a (
    key, name, edge_node_id, state, reason, detail, since, suspect_since, well_since,
    last_well_at, falls
)
ON CONFLICT (key) DO UPDATE
SET name = excluded.name, state = excluded.state, reason = excluded.reason,
    detail = excluded.detail, since = excluded.since, suspect_since = excluded.suspect_since,
    well_since = excluded.well_since, last_well_at = excluded.last_well_at,
    falls = excluded.falls

-- forget_node_health --
DELETE FROM orchestrator.node_health WHERE key = ANY ($1::text[])

-- show_edge_node_states --
-- $1 edge nodes, $2 whether each is dead: for the platform's own pages. A row that somebody else
-- holds is not waited for: it is written with the next verdict that is.
WITH due AS MATERIALIZED (
    SELECT n.id, n.ctid AS place, a.dead
    FROM edge_nodes n
    JOIN unnest($1::uuid[], $2::boolean[]) AS a (edge_node_id, dead) ON n.id = a.edge_node_id
    WHERE n.status::text = CASE WHEN a.dead THEN 'online' ELSE 'offline' END
    ORDER BY n.id FOR NO KEY UPDATE OF n SKIP LOCKED
)
UPDATE edge_nodes n
SET status = CASE WHEN due.dead THEN 'offline' WHEN false THEN n.status ELSE 'online' END,
    updated_at = now()
FROM due WHERE n.ctid = due.place

-- record_brake --
-- An override that is over is forgotten: the brake then holds as if there had been none.
UPDATE orchestrator.brake
SET engaged_at = $1, reason = $2, detail = $3, population = $4::uuid[],
    override_until = NULLIF(override_until, LEAST(override_until, extract(epoch FROM now())))

-- grant_creations --
-- $1 processor ids, $2 epochs, $3 node names. Granted to those that are still desired, and
-- whose epoch is the one before.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[])
        AS a (processor_id, epoch, node_name)
)
INSERT INTO orchestrator.ownership AS o (processor_id, epoch, node_name, ready, updated_at)
SELECT a.processor_id, a.epoch, a.node_name, false, now()
FROM asked a
WHERE EXISTS (
        SELECT FROM processors p
        WHERE p.id = a.processor_id
            AND COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
    )
    AND (a.epoch = 1
        OR EXISTS (SELECT FROM orchestrator.ownership e WHERE e.processor_id = a.processor_id))
ORDER BY a.processor_id
ON CONFLICT (processor_id) DO UPDATE
SET epoch = excluded.epoch, node_name = excluded.node_name, ready = false, updated_at = now(),
    last_pod_name = COALESCE(o.pod_name, o.last_pod_name),
    pod_uid = NULL, pod_name = NULL, pod_ip = NULL, end_granted = false
WHERE o.epoch = excluded.epoch - 1
RETURNING processor_id

-- link_edge_nodes --
-- $1 processor ids, $2 edge node ids. A link that somebody made in the meantime stays.
INSERT INTO edge_node_apps (id, edge_node_id, processor_id, status, created_at, updated_at)
SELECT gen_random_uuid(), a.edge_node_id, a.processor_id, 'active', now(), now()
FROM unnest($1::uuid[], $2::uuid[]) AS a (processor_id, edge_node_id)
WHERE NOT EXISTS (
    SELECT FROM edge_node_apps e
    WHERE e.processor_id = a.processor_id AND e.status = 'active'
)
ON CONFLICT DO NOTHING

-- grant_deletions --
-- $1 processor ids, $2 epochs (0: nobody owned it), $3 pod uids, $4 whether it is ended for not
-- being desired, $5 what its successor is told as the cause. Returns the granted uids.
WITH asked AS (
    SELECT a.* FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::boolean[], $5::text[])
        AS a (processor_id, epoch, pod_uid, undesired, restart_reason)
    WHERE NOT a.undesired OR NOT EXISTS (
        SELECT FROM processors p
        WHERE p.id = a.processor_id
            AND COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
    )
),
owned AS (
    -- As it is once it is locked: an operator may have changed it while we waited for it.
    SELECT o.processor_id, o.epoch FROM orchestrator.ownership o
    WHERE o.processor_id = ANY ($1) ORDER BY o.processor_id FOR UPDATE
),
noted AS (
    UPDATE orchestrator.ownership o
    SET ready = false, updated_at = now(),
        end_granted = o.end_granted OR a.undesired,
        exit_code = CASE WHEN a.restart_reason IS NULL THEN o.exit_code END,
        restart_reason = COALESCE(a.restart_reason, o.restart_reason)
    FROM asked a, owned
    WHERE owned.processor_id = o.processor_id AND a.processor_id = o.processor_id
        AND o.epoch = a.epoch
        -- Which pod it is may not be written yet.
        AND (o.pod_uid = a.pod_uid OR o.pod_uid IS NULL AND a.undesired)
)
SELECT a.pod_uid FROM asked a
LEFT JOIN owned ON owned.processor_id = a.processor_id
WHERE COALESCE(owned.epoch, 0) = a.epoch

-- grant_adoptions --
-- $1 processor ids, $2 epochs, $3 pod uids, $4 node names. Only where nobody owns yet.
INSERT INTO orchestrator.ownership (processor_id, epoch, pod_uid, node_name, updated_at)
SELECT a.processor_id, a.epoch, a.pod_uid, a.node_name, now()
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[])
    AS a (processor_id, epoch, pod_uid, node_name)
ORDER BY a.processor_id
ON CONFLICT (processor_id) DO NOTHING
RETURNING processor_id

-- grant_failures --
-- $1 processor ids, $2 epochs, $3 pod uids, $4 failures in a row, $5 seconds until the next
-- try, $6 exit codes, $7 causes.
UPDATE orchestrator.ownership o
SET failures = a.failures, failed_pod_uid = a.pod_uid, ready = false, updated_at = now(),
    retry_at = now() + make_interval(secs => a.retry_seconds),
    exit_code = a.exit_code, restart_reason = a.restart_reason
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::int[], $5::float8[], $6::int[], $7::text[])
    AS a (processor_id, epoch, pod_uid, failures, retry_seconds, exit_code, restart_reason)
WHERE o.processor_id = a.processor_id AND o.epoch = a.epoch
RETURNING o.processor_id

-- grant_forgetting --
-- $1 processor ids, $2 epochs. The epoch is kept: should the processor come back, an old pod of
-- it on a node that was cut off must not look newer than its next.
UPDATE orchestrator.ownership o
SET pod_uid = NULL, pod_name = NULL, pod_ip = NULL, node_name = NULL, ready = false,
    failures = 0, failed_pod_uid = NULL, retry_at = NULL, exit_code = NULL,
    restart_reason = NULL, last_pod_name = COALESCE(o.pod_name, o.last_pod_name),
    state_namespace = COALESCE(o.namespace, o.state_namespace), namespace = NULL,
    end_granted = false, updated_at = now()
FROM unnest($1::uuid[], $2::bigint[]) AS a (processor_id, epoch)
WHERE o.processor_id = a.processor_id AND o.epoch = a.epoch
    AND NOT EXISTS (
        SELECT FROM processors p
        WHERE p.id = a.processor_id
            AND COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
    )
RETURNING o.processor_id

-- stop_links --
-- Of processors whose row is gone. One that was terminated may come back, and then home.
UPDATE edge_node_apps a SET status = 'stopped', updated_at = now()
WHERE a.processor_id = ANY ($1::uuid[]) AND a.status = 'active'
    AND NOT EXISTS (SELECT FROM processors p WHERE p.id = a.processor_id)

-- record_owners --
-- $1 processor ids, $2 epochs, $3 pod uids, $4 pod names, $5 pod ips, $6 node names, $7 ready,
-- $8 namespaces. With its new pod the cause of the last one's end has been told.
UPDATE orchestrator.ownership o
SET exit_code = CASE WHEN o.pod_uid = a.pod_uid THEN o.exit_code END,
    restart_reason = CASE WHEN o.pod_uid = a.pod_uid THEN o.restart_reason END,
    pod_uid = a.pod_uid, pod_name = a.pod_name, pod_ip = a.pod_ip,
    node_name = COALESCE(a.node_name, o.node_name), ready = a.ready, namespace = a.namespace,
    end_granted = false, updated_at = now()
FROM unnest(
    $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[],
    $8::text[]
) AS a (processor_id, epoch, pod_uid, pod_name, pod_ip, node_name, ready, namespace)
WHERE o.processor_id = a.processor_id AND o.epoch = a.epoch
RETURNING o.processor_id

-- show_pods --
-- $1 processor ids, $2 epochs, $3 pod names, $4 pod ips, $5 node names: for the platform's own
-- pages. A row that somebody else holds is not waited for: its id is returned.
WITH due AS MATERIALIZED (
    SELECT p.id, a.pod_name, a.pod_ip, a.node_name
    FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[])
        AS a (processor_id, epoch, pod_name, pod_ip, node_name)
    JOIN processors p ON p.id = a.processor_id
    JOIN orchestrator.ownership o ON o.processor_id = a.processor_id AND o.epoch = a.epoch
    WHERE (p.pod_name::text, p.pod_ip::text, p.node_name::text)
        IS DISTINCT FROM (a.pod_name, a.pod_ip, a.node_name)
),
free AS MATERIALIZED (
    SELECT id, ctid AS place FROM processors
    WHERE id IN (SELECT id FROM due) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
),
written AS (
    UPDATE processors p
    SET pod_name = due.pod_name, pod_ip = due.pod_ip, node_name = due.node_name
    FROM free JOIN due ON due.id = free.id
    WHERE p.ctid = free.place
    RETURNING p.id
)
SELECT DISTINCT id FROM due WHERE id NOT IN (SELECT id FROM written)

-- record_states --
-- `since` moves only with the state or its reason.
INSERT INTO orchestrator.processor_states AS s (
    processor_id, state, reason, detail, namespace, pod_name, pod_uid, node_name, pod_ip,
    phase, epoch, restart_count
)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::text[], $11::bigint[], $12::int[]
)
ON CONFLICT (processor_id) DO UPDATE
SET state = excluded.state, reason = excluded.reason, detail = excluded.detail,
    namespace = excluded.namespace, pod_name = excluded.pod_name, pod_uid = excluded.pod_uid,
    node_name = excluded.node_name, pod_ip = excluded.pod_ip, phase = excluded.phase,
    epoch = excluded.epoch, restart_count = excluded.restart_count, updated_at = now(),
    since = CASE WHEN (s.state, s.reason) = (excluded.state, excluded.reason) THEN s.since
        ELSE now() END

-- note_last_known --
-- $1 processors. Only what is another way is written.
INSERT INTO orchestrator.last_known (
    processor_id, name, organization_id, template, health_status
)
SELECT n.id, n.name, n.organization_id, n.template, n.health_status
FROM (
    SELECT DISTINCT ON (p.id) p.id, p.name::text AS name, p.organization_id,
        t.slug::text AS template, COALESCE(p.health_status::text, 'unknown') AS health_status
    FROM processors p
    LEFT JOIN processor_templates t ON t.id = p.processor_template_id
    WHERE p.id = ANY ($1::uuid[])
    -- Of several rows of one id the one that is desired counts.
    ORDER BY p.id, COALESCE(p.status::text, '') IN ('terminated', 'failed')
) n
LEFT JOIN orchestrator.last_known k ON k.processor_id = n.id
WHERE k.processor_id IS NULL OR (k.name, k.organization_id, k.template, k.health_status)
    IS DISTINCT FROM (n.name, n.organization_id, n.template, n.health_status)
ORDER BY n.id
ON CONFLICT (processor_id) DO UPDATE
SET name = excluded.name, organization_id = excluded.organization_id,
    template = excluded.template, health_status = excluded.health_status

-- note_last_health --
-- $1 processors, $2 healthy. Of those whose row is gone: their pods are asked on.
UPDATE orchestrator.last_known k
SET health_status = CASE WHEN f.healthy THEN 'healthy' ELSE 'unhealthy' END
FROM unnest($1::uuid[], $2::boolean[]) AS f (processor_id, healthy)
WHERE k.processor_id = f.processor_id
    AND k.health_status <> CASE WHEN f.healthy THEN 'healthy' ELSE 'unhealthy' END
    AND NOT EXISTS (SELECT FROM processors p WHERE p.id = f.processor_id)

-- forget_last_known --
-- $1 how many at most. Of those of whom nothing is told any more.
DELETE FROM orchestrator.last_known
WHERE processor_id IN (
    SELECT k.processor_id FROM orchestrator.last_known k
    WHERE NOT EXISTS (SELECT FROM processors p WHERE p.id = k.processor_id)
        AND NOT EXISTS (
            SELECT FROM orchestrator.processor_states s WHERE s.processor_id = k.processor_id
        )
        AND NOT EXISTS (SELECT FROM orchestrator.events e WHERE e.processor_id = k.processor_id)
        AND NOT EXISTS (SELECT FROM orchestrator.moves m WHERE m.processor_id = k.processor_id)
    LIMIT $1
)

-- forget_states --
DELETE FROM orchestrator.processor_states WHERE processor_id = ANY ($1::uuid[])

-- list_state_reasons --
SELECT processor_id, reason FROM orchestrator.processor_states

-- record_nodes --
INSERT INTO orchestrator.nodes (
    name, kind, ready, ready_changed_at, unschedulable, cpu_millicores, memory_bytes, gpu_count,
    pods_max, pods, utilisation
)
SELECT a.name, a.kind, a.ready, to_timestamp(a.ready_changed_at), a.unschedulable,
    a.cpu_millicores, a.memory_bytes, a.gpu_count, a.pods_max, a.pods, a.utilisation
FROM unnest(
    $1::text[], $2::text[], $3::boolean[], $4::float8[], $5::boolean[], $6::bigint[],
    $7::bigint[], $8::int[], $9::int[], $10::int[], $11::float8[]
) AS a (
    name, kind, ready, ready_changed_at, unschedulable, cpu_millicores, memory_bytes, gpu_count,
    pods_max, pods, utilisation
)
ON CONFLICT (name) DO UPDATE
SET kind = excluded.kind, ready = excluded.ready, ready_changed_at = excluded.ready_changed_at,
    unschedulable = excluded.unschedulable, cpu_millicores = excluded.cpu_millicores,
    memory_bytes = excluded.memory_bytes, gpu_count = excluded.gpu_count,
    pods_max = excluded.pods_max, pods = excluded.pods, utilisation = excluded.utilisation,
    updated_at = now()

-- mark_shown --
-- $1 term.
UPDATE orchestrator.fleet SET shown_term = $1

-- remember_cluster --
-- $1 the uid of the cluster that is looked at, or null. The first one is remembered.
UPDATE orchestrator.fleet SET cluster_uid = $1
WHERE cluster_uid IS NULL AND $1::text IS NOT NULL

-- record_picture --
-- $1 term, $2 poll interval in seconds, $3 the uid of the cluster or null, $4 whether it shows all
-- namespaces. A picture of another cluster than the remembered one is none.
-- Somebody may have emptied the table.
INSERT INTO orchestrator.picture AS p (term, interval_seconds, cluster_uid, is_whole, seen_at)
VALUES ($1, $2, $3, $4, CASE WHEN EXISTS (
    SELECT FROM orchestrator.fleet f WHERE f.cluster_uid <> $3::text
) THEN NULL ELSE now() END)
ON CONFLICT ((true)) DO UPDATE
SET term = excluded.term, interval_seconds = excluded.interval_seconds,
    cluster_uid = excluded.cluster_uid, is_whole = excluded.is_whole, seen_at = excluded.seen_at
RETURNING p.seen_at IS NOT NULL

-- forget_unowned_pods --
-- $1 processor ids that pods still bear.
DELETE FROM orchestrator.unowned_pods WHERE NOT processor_id = ANY ($1::uuid[])

-- record_unowned_pods --
-- $1 processor ids, $2 namespaces, $3 pod names, $4 whether this database knows nothing of it.
INSERT INTO orchestrator.unowned_pods AS u (processor_id, namespace, pod_name, is_unknown)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[])
ON CONFLICT (processor_id) DO UPDATE
SET namespace = excluded.namespace, pod_name = excluded.pod_name, is_unknown = excluded.is_unknown
WHERE (u.namespace, u.pod_name, u.is_unknown)
    IS DISTINCT FROM (excluded.namespace, excluded.pod_name, excluded.is_unknown)

-- picture_before --
SELECT (SELECT cluster_uid FROM orchestrator.picture) AS cluster_uid,
    EXISTS (SELECT FROM orchestrator.unowned_pods WHERE is_unknown) AS has_unknown_pods

-- read_doubts --
-- $1 how many pods are named. What keeps `shutdown` from being answered.
SELECT
    current_database()::text AS database,
    COALESCE(host(inet_server_addr()) || ':' || inet_server_port(), 'a local socket') AS server,
    EXISTS (SELECT FROM orchestrator.guard WHERE held_since IS NOT NULL) AS guard_holds,
    extract(epoch FROM now() - p.seen_at)::float8 AS age_seconds,
    COALESCE(p.interval_seconds, 0) AS interval_seconds,
    COALESCE(p.is_whole, false) AS is_whole,
    p.cluster_uid AS seen_cluster_uid,
    f.cluster_uid,
    (SELECT count(*) FROM orchestrator.unowned_pods WHERE is_unknown) AS unknown_count,
    ARRAY(
        SELECT namespace || '/' || pod_name FROM orchestrator.unowned_pods WHERE is_unknown
        ORDER BY 1 LIMIT $1
    ) AS unknown_pods
-- Also where somebody has emptied these tables.
FROM (SELECT) one LEFT JOIN orchestrator.picture p ON true LEFT JOIN orchestrator.fleet f ON true

-- forget_nodes --
DELETE FROM orchestrator.nodes WHERE name = ANY ($1::text[])

-- list_node_names --
SELECT name FROM orchestrator.nodes

-- hold_guard --
-- $1 counts of desired processors by group that shrank too far, as JSON; $2 in words.
UPDATE orchestrator.guard
SET held_since = COALESCE(held_since, now()), held = $1::text::jsonb, detail = $2

-- release_guard --
UPDATE orchestrator.guard SET held_since = NULL, held = '{}', detail = ''
WHERE held_since IS NOT NULL

-- record_events --
INSERT INTO orchestrator.events (
    kind, reason, detail, processor_id, node_name, pod_name, pod_uid, epoch, explanation, trace_id,
    term
)
SELECT a.kind, a.reason, a.detail, a.processor_id, a.node_name, a.pod_name, a.pod_uid, a.epoch,
    a.explanation::json, a.trace_id, $11::bigint
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::text[], $10::text[]
) AS a (
    kind, reason, detail, processor_id, node_name, pod_name, pod_uid, epoch, explanation, trace_id
)

-- forget_events --
-- $1 seconds, $2 how many at most.
DELETE FROM orchestrator.events
WHERE id IN (
    SELECT id FROM orchestrator.events
    WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2
)
RETURNING true

-- record_pod_health --
-- $1 processor ids, $2 healthy. Whoever's health was written by somebody else since our last
-- writing beats by itself, and what it says counts; until it has been silent for a while.
WITH found AS (
    SELECT * FROM unnest($1::uuid[], $2::boolean[]) AS f (processor_id, healthy)
),
mute AS MATERIALIZED (
    SELECT p.id, p.ctid AS place,
        -- Its last heartbeat, which is written over.
        CASE WHEN p.last_health_check_at IS DISTINCT FROM h.written_at
            THEN p.last_health_check_at ELSE h.heartbeat_at END AS heartbeat_at
    FROM processors p
    LEFT JOIN orchestrator.pod_health h ON h.processor_id = p.id
    WHERE p.id = ANY ($1)
        AND (p.last_health_check_at IS NULL
            OR p.last_health_check_at IS NOT DISTINCT FROM h.written_at
            OR p.last_health_check_at < now() - interval '60 seconds')
    ORDER BY p.id FOR NO KEY UPDATE OF p SKIP LOCKED
),
written AS (
    UPDATE processors p
    SET last_health_check_at = now(),
        health_status = CASE WHEN f.healthy THEN 'healthy'
            WHEN false THEN p.health_status ELSE 'unhealthy' END
    FROM mute m JOIN found f ON f.processor_id = m.id
    WHERE p.ctid = m.place
    -- As it stands there: the platform's column may be coarser than now().
    RETURNING p.id, p.last_health_check_at, m.heartbeat_at
)
INSERT INTO orchestrator.pod_health (processor_id, written_at, heartbeat_at)
SELECT DISTINCT ON (id) id, last_health_check_at, heartbeat_at FROM written
ON CONFLICT (processor_id) DO UPDATE
SET written_at = excluded.written_at, heartbeat_at = excluded.heartbeat_at
