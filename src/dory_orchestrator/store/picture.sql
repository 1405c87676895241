-- Every statement behind the page, by name. See views.sql for how the platform's tables are read.

-- picture_mark --
-- Differs once the picture does, but for ages. It is asked about once a second: only numbers, no
-- join. What somebody else changes in the platform's tables shows in what the leader finds.
SELECT concat_ws(
    ' ',
    (SELECT max(id) FROM orchestrator.events),
    (
        SELECT concat_ws(',', count(*), max(updated_at), sum(hashtext(state || reason)))
        FROM orchestrator.processor_states
    ),
    (
        SELECT concat_ws(',', count(*), count(*) FILTER (WHERE ready), max(ready_changed_at))
        FROM orchestrator.nodes
    ),
    (
        SELECT concat_ws(',', count(*), sum(hashtext(key || state || reason)), max(since))
        FROM orchestrator.node_health
    ),
    (SELECT concat_ws(',', count(*), max(cordoned_at)) FROM orchestrator.cordons),
    (
        SELECT concat_ws(',', count(*), max(id)) FROM orchestrator.moves WHERE ended_at IS NULL
    ),
    (
        SELECT concat_ws(
            ',', engaged_at, override_until, override_until > extract(epoch FROM now())
        )
        FROM orchestrator.brake
    ),
    (SELECT concat_ws(',', until, until > extract(epoch FROM now())) FROM orchestrator.pause),
    (SELECT concat_ws(',', held_since, held, confirmed_at) FROM orchestrator.guard),
    (
        SELECT concat_ws(',', l.term, l.holder, l.expires_at > now(), f.shown_term)
        FROM orchestrator.leader l, orchestrator.fleet f
    )
)

-- picture_away --
-- Desired processors that live away from home.
SELECT count(DISTINCT a.processor_id) AS away, min(a.updated_at) AS away_since,
    (
        SELECT count(*) FROM orchestrator.processor_states
        WHERE reason IN ('epoch_ahead', 'document_ahead')
    ) AS frozen
FROM edge_node_apps a
WHERE a.status::text = 'failed_over'
    AND NOT EXISTS (
        SELECT FROM edge_node_apps b
        WHERE b.processor_id = a.processor_id AND b.status::text = 'active'
    )
    AND EXISTS (
        SELECT FROM processors p
        WHERE p.id = a.processor_id
            AND COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
    )

-- picture_nodes --
-- $1 limit, $2 offset. Those that deserve a look first. The numbers `total` are those of all nodes,
-- also in the only row of an empty page; those `so_far` count this node and the ones before it.
WITH edge AS (
    SELECT DISTINCT ON (id)
        id, name::text AS name, organization_id, status::text AS status, failover_enabled,
        last_heartbeat_at
    FROM edge_nodes
    WHERE id IS NOT NULL
    ORDER BY id
),
counted AS (
    SELECT node_name, count(*) AS processors, count(*) FILTER (WHERE state = 'running') AS running
    FROM orchestrator.processor_states
    WHERE node_name IS NOT NULL
    GROUP BY node_name
),
away AS (
    SELECT DISTINCT ON (a.processor_id) a.processor_id, a.edge_node_id
    FROM edge_node_apps a
    WHERE a.status::text = 'failed_over'
        AND NOT EXISTS (
            SELECT FROM edge_node_apps b
            WHERE b.processor_id = a.processor_id AND b.status::text = 'active'
        )
        AND EXISTS (
            SELECT FROM processors p
            WHERE p.id = a.processor_id
                AND COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
        )
    ORDER BY a.processor_id, a.updated_at DESC
),
left_by AS (
    SELECT edge_node_id, count(*) AS away FROM away GROUP BY edge_node_id
),
hosting AS (
    SELECT DISTINCT s.node_name
    FROM away
    JOIN orchestrator.processor_states s ON s.processor_id = away.processor_id
),
moving AS (
    SELECT from_node AS name FROM orchestrator.moves WHERE ended_at IS NULL
    UNION
    SELECT to_node FROM orchestrator.moves WHERE ended_at IS NULL AND to_node IS NOT NULL
),
known AS (
    SELECT
        COALESCE(n.name, e.name, '') AS name,
        COALESCE(n.kind, 'edge') AS kind,
        n.ready,
        n.utilisation,
        c.edge_node_id IS NOT NULL AS cordoned,
        c.cause AS cordon_cause,
        e.id AS edge_node_id,
        e.organization_id,
        e.status,
        e.failover_enabled,
        e.last_heartbeat_at,
        h.state AS health,
        h.detail AS health_detail,
        COALESCE(t.processors, 0) AS processors,
        COALESCE(t.running, 0) AS running,
        COALESCE(l.away, 0) AS away,
        CASE
            WHEN n.name IS NULL AND t.processors IS NULL AND e.status = 'decommissioned' THEN -1
            WHEN h.state IN ('suspect', 'offline') OR n.ready IS NOT TRUE
                OR t.running < t.processors OR m.name IS NOT NULL THEN 2
            WHEN h.state IN ('recovering', 'quarantined') OR c.edge_node_id IS NOT NULL
                OR l.away > 0 OR g.node_name IS NOT NULL THEN 1
            ELSE 0
        END AS trouble
    FROM orchestrator.nodes n
    FULL JOIN edge e ON e.name = n.name
    LEFT JOIN orchestrator.cordons c ON c.edge_node_id = e.id
    LEFT JOIN orchestrator.node_health h ON h.key = COALESCE('edge ' || e.id, 'node ' || n.name)
    LEFT JOIN counted t ON t.node_name = COALESCE(n.name, e.name)
    LEFT JOIN left_by l ON l.edge_node_id = e.id
    LEFT JOIN hosting g ON g.node_name = n.name
    LEFT JOIN moving m ON m.name = COALESCE(n.name, e.name)
),
numbered AS (
    SELECT
        k.*,
        count(*) OVER so_far AS nodes_so_far,
        count(*) FILTER (WHERE trouble = 2) OVER so_far AS troubled_so_far,
        sum(processors) OVER so_far AS processors_so_far,
        sum(running) OVER so_far AS running_so_far
    FROM known k
    WINDOW so_far AS (
        ORDER BY trouble DESC, name COLLATE "C", edge_node_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
),
page AS (
    SELECT * FROM numbered ORDER BY nodes_so_far LIMIT $1 OFFSET $2
)
SELECT
    t.nodes_total::int, t.troubled_total::int, t.processors_total::int, t.running_total::int,
    page.*
FROM (
    SELECT count(*) AS nodes_total, count(*) FILTER (WHERE trouble = 2) AS troubled_total,
        COALESCE(sum(processors), 0) AS processors_total, COALESCE(sum(running), 0) AS running_total
    FROM known
) t
LEFT JOIN page ON true
ORDER BY page.nodes_so_far

-- picture_processors --
-- $1 names of nodes, $2 how many of each, $3 whether those without a place are wanted too. A
-- processor away from home stands at its home too, as a shadow.
WITH stored AS (
    SELECT DISTINCT ON (p.id)
        p.id, p.name::text AS name, p.last_health_check_at,
        COALESCE(p.status::text, '') NOT IN ('terminated', 'failed') AS is_desired
    FROM processors p
    WHERE p.id IS NOT NULL
    ORDER BY p.id, COALESCE(p.status::text, '') IN ('terminated', 'failed')
),
away AS (
    SELECT DISTINCT ON (a.processor_id)
        a.processor_id, e.name::text AS home, a.updated_at AS away_since
    FROM edge_node_apps a
    JOIN edge_nodes e ON e.id = a.edge_node_id
    WHERE a.status::text = 'failed_over'
        AND NOT EXISTS (
            SELECT FROM edge_node_apps b
            WHERE b.processor_id = a.processor_id AND b.status::text = 'active'
        )
    ORDER BY a.processor_id, a.updated_at DESC
),
known AS (
    SELECT
        COALESCE(p.id, s.processor_id) AS id,
        CASE WHEN p.id IS NULL THEN l.name ELSE p.name END AS name,
        COALESCE(s.state, 'unknown') AS state,
        COALESCE(s.reason, 'not_looked_at') AS reason,
        CASE WHEN s.processor_id IS NULL THEN o.node_name ELSE s.node_name END AS node_name,
        p.last_health_check_at AS beat_at,
        a.home,
        a.away_since
    FROM stored p
    FULL JOIN orchestrator.processor_states s ON s.processor_id = p.id
    LEFT JOIN orchestrator.ownership o ON o.processor_id = COALESCE(p.id, s.processor_id)
    LEFT JOIN away a ON a.processor_id = p.id AND p.is_desired
    LEFT JOIN orchestrator.last_known l ON l.processor_id = s.processor_id AND p.id IS NULL
    WHERE p.is_desired OR s.processor_id IS NOT NULL
),
placed AS (
    SELECT known.*, node_name AS place, false AS is_shadow
    FROM known
    WHERE node_name = ANY ($1::text[]) OR (node_name IS NULL AND $3::boolean)
    UNION ALL
    SELECT known.*, home, true
    FROM known
    WHERE home = ANY ($1::text[]) AND node_name IS DISTINCT FROM home
),
ranked AS (
    SELECT
        placed.*,
        row_number() OVER (
            PARTITION BY place, is_shadow
            ORDER BY state = 'running', home IS NULL, name COLLATE "C", id
        ) AS rank,
        count(*) OVER (PARTITION BY place, is_shadow) AS count
    FROM placed
)
SELECT
    id, name, state, reason, node_name, place, is_shadow, home, away_since, beat_at,
    (
        SELECT max(c.confirmed_at) FROM orchestrator.checkpoints c WHERE c.processor_id = ranked.id
    ) AS checkpoint_at,
    count
FROM ranked
WHERE rank <= $2
ORDER BY place NULLS FIRST, is_shadow, rank
