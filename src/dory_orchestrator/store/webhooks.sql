-- Every statement about webhooks, by name.

-- open_webhook --
-- $1 name, $2 URL, $3 kinds. A new one begins behind what there is.
INSERT INTO orchestrator.webhooks AS w (name, url, kinds, position)
VALUES ($1, $2, $3, (SELECT COALESCE(max(id), 0) FROM orchestrator.events))
ON CONFLICT (name) DO UPDATE
SET url = excluded.url, kinds = excluded.kinds, removed_at = NULL
RETURNING w.name, w.position, w.tries,
    GREATEST(0, COALESCE(extract(epoch FROM w.next_try_at - now()), 0))::float8 AS wait_seconds

-- leave_out_webhooks --
-- $1 names of those that there are.
UPDATE orchestrator.webhooks SET removed_at = now()
WHERE removed_at IS NULL AND name <> ALL ($1::text[])

-- pass_events --
-- $1 name, $2 position, $3 whether it was delivered.
UPDATE orchestrator.webhooks
SET position = GREATEST(position, $2),
    tries = 0,
    next_try_at = NULL,
    failures = CASE WHEN $3 THEN 0 ELSE failures END,
    delivered_at = CASE WHEN $3 THEN now() ELSE delivered_at END
WHERE name = $1

-- record_failure --
-- $1 name, $2 tries, $3 error, $4 seconds until the next one.
UPDATE orchestrator.webhooks
SET tries = $2, failures = failures + 1, last_error = $3, last_error_at = now(),
    next_try_at = now() + make_interval(secs => $4)
WHERE name = $1

-- bury --
-- $1 name, $2 event id, $3 its moment, $4 tries, $5 error. Once, though two leaders may try.
INSERT INTO orchestrator.webhook_dead_letters (webhook, event_id, event_at, tries, error)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (webhook, event_id) DO NOTHING

-- pass_buried --
-- $1 name, $2 event id, $3 error.
UPDATE orchestrator.webhooks
SET position = GREATEST(position, $2), tries = 0, next_try_at = NULL, failures = failures + 1,
    last_error = $3, last_error_at = now()
WHERE name = $1

-- drop_letters --
-- $1 name, $2 how many may stay.
WITH dropped AS (
    DELETE FROM orchestrator.webhook_dead_letters
    WHERE webhook = $1 AND event_id IN (
        SELECT event_id FROM orchestrator.webhook_dead_letters
        WHERE webhook = $1 ORDER BY event_id DESC OFFSET $2
    )
    RETURNING true
)
UPDATE orchestrator.webhooks SET dropped = dropped + (SELECT count(*) FROM dropped)
WHERE name = $1 AND EXISTS (SELECT FROM dropped)

-- tell_buried --
-- $1 detail, $2 term.
INSERT INTO orchestrator.events (kind, reason, detail, term)
VALUES ('webhook', 'dead_letter', $1, $2)

-- list_due_letters --
-- $1 name, $2 limit.
SELECT
    e.id, e.at, e.kind, e.reason, e.detail, e.processor_id,
    COALESCE(
        (SELECT p.name::text FROM processors p WHERE p.id = e.processor_id LIMIT 1),
        (SELECT l.name FROM orchestrator.last_known l WHERE l.processor_id = e.processor_id)
    ) AS processor_name,
    e.node_name, e.pod_name, e.pod_uid, e.epoch, e.term, e.trace_id
FROM orchestrator.webhook_dead_letters d JOIN orchestrator.events e ON e.id = d.event_id
WHERE d.webhook = $1 AND d.retry_at IS NOT NULL
ORDER BY d.event_id
LIMIT $2

-- delete_letter --
DELETE FROM orchestrator.webhook_dead_letters WHERE webhook = $1 AND event_id = $2

-- keep_letters --
-- $1 name, $2 event id, null: all that are to be sent once more, $3 error. Only of those that were
-- tried the tries are counted.
UPDATE orchestrator.webhook_dead_letters
SET retry_at = NULL, error = $3, tries = tries + CASE WHEN $2::bigint IS NULL THEN 0 ELSE 1 END
WHERE webhook = $1 AND retry_at IS NOT NULL AND ($2::bigint IS NULL OR event_id = $2)

-- forget_dead_letters --
-- $1 seconds.
DELETE FROM orchestrator.webhook_dead_letters
WHERE event_at < now() - make_interval(secs => $1)

-- forget_left_out --
-- $1 seconds.
WITH gone AS (
    DELETE FROM orchestrator.webhooks WHERE removed_at < now() - make_interval(secs => $1)
    RETURNING name
)
DELETE FROM orchestrator.webhook_dead_letters WHERE webhook IN (SELECT name FROM gone)

-- list_webhooks --
-- $1 how many events are counted at most.
SELECT
    w.name, w.url, w.kinds,
    (
        SELECT count(*) FROM (
            SELECT FROM orchestrator.events e WHERE e.id > w.position LIMIT $1
        ) waiting
    ) AS lag_events,
    COALESCE((
        SELECT GREATEST(0, extract(epoch FROM now() - e.at)) FROM orchestrator.events e
        WHERE e.id > w.position ORDER BY e.id LIMIT 1
    ), 0)::float8 AS lag_seconds,
    w.delivered_at, w.failures, w.last_error, w.last_error_at, w.next_try_at,
    (
        SELECT count(*) FROM orchestrator.webhook_dead_letters d
        JOIN orchestrator.events e ON e.id = d.event_id
        WHERE d.webhook = w.name
    ) AS dead_letters,
    w.dropped
FROM orchestrator.webhooks w
WHERE w.removed_at IS NULL
ORDER BY w.name COLLATE "C"

-- list_dead_letters --
-- $1 limit, $2 event id and $3 webhook of the last one before (null: from the start), $4 webhook.
SELECT
    d.webhook, d.died_at, d.tries, d.error, d.retry_at IS NOT NULL AS retrying,
    e.id, e.at, e.kind, e.reason, e.detail, e.processor_id,
    COALESCE(
        (SELECT p.name::text FROM processors p WHERE p.id = e.processor_id LIMIT 1),
        (SELECT l.name FROM orchestrator.last_known l WHERE l.processor_id = e.processor_id)
    ) AS processor_name,
    e.node_name, e.pod_name, e.pod_uid, e.epoch, e.term, e.trace_id
FROM orchestrator.webhook_dead_letters d
JOIN orchestrator.events e ON e.id = d.event_id
JOIN orchestrator.webhooks w ON w.name = d.webhook AND w.removed_at IS NULL
WHERE ($4::text IS NULL OR d.webhook = $4)
    AND ($2::bigint IS NULL OR d.event_id < $2
        OR (d.event_id = $2 AND d.webhook COLLATE "C" > $3::text COLLATE "C"))
ORDER BY d.event_id DESC, d.webhook COLLATE "C"
LIMIT $1

-- lock_webhook --
SELECT true FROM orchestrator.webhooks WHERE name = $1 AND removed_at IS NULL
FOR NO KEY UPDATE

-- list_letter_ids --
-- $1 webhook, $2 event ids, null: all.
SELECT d.event_id FROM orchestrator.webhook_dead_letters d
JOIN orchestrator.events e ON e.id = d.event_id
WHERE d.webhook = $1 AND ($2::bigint[] IS NULL OR d.event_id = ANY ($2))
ORDER BY d.event_id

-- retry_letters --
-- $1 webhook, $2 event ids.
UPDATE orchestrator.webhook_dead_letters SET retry_at = now()
WHERE webhook = $1 AND event_id = ANY ($2)

-- tell_retry --
-- $1 detail. The leader, which follows events, hears of it by this one.
INSERT INTO orchestrator.events (kind, reason, detail) VALUES ('webhook', 'retry', $1)
