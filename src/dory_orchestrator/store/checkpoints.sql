-- Statements on checkpoints and incarnations, by name.

-- check_owner --
-- $1 processor, $2 epoch, $3 pod uid. Held until the end of the transaction: a later epoch waits
-- for it, and so sees what it wrote.
SELECT true FROM orchestrator.ownership
WHERE processor_id = $1 AND epoch = $2 AND pod_uid = $3
FOR SHARE

-- last_incarnation --
SELECT number, pod_uid, pod_name, restart_count, ready_at, given_at IS NOT NULL AS given
FROM orchestrator.incarnations
WHERE processor_id = $1

-- begin_incarnation --
-- $1 processor, $2 epoch, $3 pod uid, $4 pod name, $5 restart count, $6 ready at.
-- Numbers are never used twice: also not those that documents were stored under.
INSERT INTO orchestrator.incarnations AS i
    (processor_id, epoch, number, pod_uid, pod_name, restart_count, ready_at)
SELECT $1, $2, COALESCE(max(incarnation), 0) + 1, $3, $4, $5, $6
FROM orchestrator.checkpoints WHERE processor_id = $1
ON CONFLICT (processor_id) DO UPDATE
SET epoch = excluded.epoch, number = GREATEST(i.number + 1, excluded.number),
    pod_uid = excluded.pod_uid, pod_name = excluded.pod_name,
    restart_count = excluded.restart_count, ready_at = excluded.ready_at, given_at = NULL
RETURNING number

-- note_ready --
-- $1 processor, $2 ready at.
UPDATE orchestrator.incarnations SET ready_at = $2 WHERE processor_id = $1

-- newest_sha256 --
SELECT sha256 FROM orchestrator.checkpoints
WHERE processor_id = $1
ORDER BY epoch DESC, incarnation DESC LIMIT 1

-- mark_given --
-- $1 processor, $2 number, $3 pod uid.
UPDATE orchestrator.incarnations SET given_at = COALESCE(given_at, now())
WHERE processor_id = $1 AND number = $2 AND pod_uid = $3
RETURNING true

-- lock_owners --
-- $1 processors, $2 epochs, $3 pod uids. Those that are owners; see check_owner.
SELECT o.processor_id FROM orchestrator.ownership o
JOIN unnest($1::uuid[], $2::bigint[], $3::text[]) AS a (processor_id, epoch, pod_uid)
    ON o.processor_id = a.processor_id AND o.epoch = a.epoch AND o.pod_uid = a.pod_uid
ORDER BY o.processor_id
FOR SHARE OF o

-- save_checkpoints --
-- $1 processors, $2 epochs, $3 incarnations, $4 pod uids, $5 pod names, $6 captured at,
-- $7 hashes, $8 sizes, $9 bodies, $10 seconds since they were asked for: what came after that is
-- not in them. In the last incarnation, and only once it was given the newest.
INSERT INTO orchestrator.checkpoints AS c
    (processor_id, epoch, incarnation, pod_uid, pod_name, captured_at, sha256, size_bytes, body,
    confirmed_at)
SELECT a.processor_id, a.epoch, a.incarnation, a.pod_uid, a.pod_name, a.captured_at, a.sha256,
    a.size_bytes, a.body, now() - make_interval(secs => a.age_seconds)
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::float8[],
        $7::bytea[], $8::integer[], $9::bytea[], $10::float8[])
    AS a (processor_id, epoch, incarnation, pod_uid, pod_name, captured_at, sha256, size_bytes,
        body, age_seconds)
JOIN orchestrator.incarnations i ON i.processor_id = a.processor_id
    AND i.number = a.incarnation AND i.pod_uid = a.pod_uid AND i.given_at IS NOT NULL
WHERE NOT EXISTS (
    -- Of an epoch that was taken back, or of a database that was.
    SELECT FROM orchestrator.checkpoints n
    WHERE n.processor_id = a.processor_id AND (n.epoch, n.incarnation) > (a.epoch, a.incarnation)
)
ORDER BY a.processor_id
ON CONFLICT (processor_id, epoch, incarnation) DO UPDATE
SET sequence = excluded.sequence, pod_uid = excluded.pod_uid, pod_name = excluded.pod_name,
    captured_at = excluded.captured_at, received_at = now(), confirmed_at = excluded.confirmed_at,
    sha256 = excluded.sha256, size_bytes = excluded.size_bytes, body = excluded.body
WHERE c.sequence < excluded.sequence
RETURNING processor_id, xmax = 0 AS inserted

-- confirm_checkpoints --
-- $1 processors, $2 epochs, $3 incarnations, $4 hashes, $5 seconds since they were asked for.
UPDATE orchestrator.checkpoints c
SET confirmed_at = now() - make_interval(secs => a.age_seconds)
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bytea[], $5::float8[])
    AS a (processor_id, epoch, incarnation, sha256, age_seconds)
WHERE c.processor_id = a.processor_id AND c.epoch = a.epoch AND c.incarnation = a.incarnation
    AND c.sha256 = a.sha256
RETURNING c.processor_id

-- lock_newest --
SELECT epoch, incarnation, sequence FROM orchestrator.checkpoints
WHERE processor_id = $1
ORDER BY epoch DESC, incarnation DESC LIMIT 1
FOR UPDATE

-- save_document --
-- $1 processor, $2 epoch, $3 incarnation, $4 pod name, $5 saved at, $6 hash, $7 size, $8 body.
INSERT INTO orchestrator.checkpoints
    (processor_id, epoch, incarnation, pod_uid, pod_name, captured_at, sha256, size_bytes, body)
VALUES ($1, $2, $3, '', $4, $5, $6, $7, $8)
ON CONFLICT (processor_id, epoch, incarnation) DO UPDATE
SET sequence = excluded.sequence, pod_name = excluded.pod_name,
    captured_at = excluded.captured_at, received_at = now(), confirmed_at = now(),
    sha256 = excluded.sha256, size_bytes = excluded.size_bytes, body = excluded.body

-- forget_incarnations --
-- $1 processors. The last three that left a checkpoint stay.
DELETE FROM orchestrator.checkpoints c
USING (
    SELECT processor_id, epoch, incarnation,
        row_number() OVER (PARTITION BY processor_id ORDER BY epoch DESC, incarnation DESC) AS place
    FROM orchestrator.checkpoints WHERE processor_id = ANY ($1::uuid[])
) old
WHERE old.place > 3 AND c.processor_id = old.processor_id AND c.epoch = old.epoch
    AND c.incarnation = old.incarnation

-- newest_checkpoint --
SELECT epoch, incarnation, sequence, pod_uid, pod_name, captured_at,
    extract(epoch FROM received_at)::float8 AS received_at,
    extract(epoch FROM confirmed_at)::float8 AS confirmed_at, sha256, body
FROM orchestrator.checkpoints
WHERE processor_id = $1
ORDER BY epoch DESC, incarnation DESC LIMIT 1

-- checkpoint_ages --
SELECT DISTINCT ON (processor_id) processor_id,
    GREATEST(extract(epoch FROM clock_timestamp() - confirmed_at)::float8, 0) AS age_seconds
FROM orchestrator.checkpoints
ORDER BY processor_id, epoch DESC, incarnation DESC

-- forget_orphaned_checkpoints --
-- $1 seconds. Of processors whose rows are gone; some at a time.
DELETE FROM orchestrator.checkpoints
WHERE (processor_id, epoch, incarnation) IN (
    SELECT c.processor_id, c.epoch, c.incarnation FROM orchestrator.checkpoints c
    WHERE c.confirmed_at < now() - make_interval(secs => $1)
        AND NOT EXISTS (SELECT FROM processors p WHERE p.id = c.processor_id)
    LIMIT 5000
)

-- forget_orphaned_incarnations --
DELETE FROM orchestrator.incarnations i
WHERE NOT EXISTS (SELECT FROM processors p WHERE p.id = i.processor_id)
    AND NOT EXISTS (
        SELECT FROM orchestrator.checkpoints c WHERE c.processor_id = i.processor_id
    )

-- list_departed_states --
-- $1 how long they are gone, in seconds, $2 how many at most. Not while the deletion guard holds,
-- nor where a move is under way.
SELECT o.processor_id, o.epoch, o.state_namespace AS namespace, o.last_pod_name AS pod_name
FROM orchestrator.ownership o
WHERE o.state_namespace IS NOT NULL AND o.pod_uid IS NULL
    AND o.updated_at < now() - make_interval(secs => $1)
    AND NOT EXISTS (
        SELECT FROM processors p
        WHERE p.id = o.processor_id
            AND COALESCE(p.status::text, '') NOT IN ('terminated', 'failed')
    )
    AND NOT EXISTS (
        SELECT FROM orchestrator.moves m
        WHERE m.processor_id = o.processor_id AND m.ended_at IS NULL
    )
    AND NOT EXISTS (SELECT FROM orchestrator.guard WHERE held_since IS NOT NULL)
ORDER BY o.updated_at, o.processor_id
LIMIT $2

-- forget_departed_state --
-- $1 processor id, $2 its epoch: one that came back meanwhile has another, or an owner.
UPDATE orchestrator.ownership SET state_namespace = NULL
WHERE processor_id = $1 AND epoch = $2 AND pod_uid IS NULL
