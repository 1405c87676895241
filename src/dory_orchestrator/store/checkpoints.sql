-- Statements on checkpoints and incarnations, by name.

-- check_owner --
-- $1 processor, $2 epoch, $3 pod uid. Held until the end of the transaction: a later epoch waits
-- for it, and so sees what it wrote.
SELECT true FROM orchestrator.ownership
WHERE processor_id = $1 AND epoch = $2 AND pod_uid = $3
FOR SHARE

-- last_incarnation --
SELECT number, pod_uid, pod_name, restart_count, ready_at, given_at IS NOT NULL AS given,
    behind, CASE WHEN unprotected_at IS NOT NULL THEN unprotected_detail END AS unprotected
FROM orchestrator.incarnations
WHERE processor_id = $1

-- start_of_last --
-- What was noted of the start of the last incarnation.
SELECT start_lay, start_epoch, start_incarnation, start_sequence, start_sha256, start_pod_name,
    start_at, start_read, first_captured_at, first_uptime_seconds, first_sha256, first_body,
    seed_doubted_from
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
    restart_count = excluded.restart_count, ready_at = excluded.ready_at, given_at = NULL,
    start_lay = NULL, start_epoch = NULL, start_incarnation = NULL, start_sequence = NULL,
    start_sha256 = NULL, start_pod_name = NULL, start_at = NULL, start_read = NULL,
    first_captured_at = NULL, first_uptime_seconds = NULL, first_sha256 = NULL, first_body = NULL,
    behind = false, unprotected_at = NULL, unprotected_detail = NULL,
    -- Of the life before: it tells what this one may have begun with. For another pod a document
    -- was laid out since.
    seed_doubted_from = CASE WHEN i.pod_uid = excluded.pod_uid THEN i.seed_doubted_from END
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
UPDATE orchestrator.incarnations
SET given_at = COALESCE(given_at, now()), behind = false, unprotected_at = NULL,
    unprotected_detail = NULL, first_body = NULL, seed_doubted_from = NULL
WHERE processor_id = $1 AND number = $2 AND pod_uid = $3
RETURNING true

-- note_start --
-- $1 processor, $2 number, $3 pod uid, $4 lay, $5 epoch, $6 incarnation, $7 sequence, $8 hash,
-- $9 pod name, $10 at, $11 read, of the first capture: $12 captured at, $13 uptime, $14 hash,
-- $15 body; $16 behind.
UPDATE orchestrator.incarnations
SET start_lay = $4, start_epoch = $5, start_incarnation = $6, start_sequence = $7,
    start_sha256 = $8, start_pod_name = $9, start_at = $10, start_read = $11,
    first_captured_at = $12, first_uptime_seconds = $13, first_sha256 = $14, first_body = $15,
    behind = $16
WHERE processor_id = $1 AND number = $2 AND pod_uid = $3
RETURNING true

-- mark_unprotected --
-- $1 processor, $2 number, $3 pod uid, $4 detail.
UPDATE orchestrator.incarnations
SET behind = true, unprotected_at = COALESCE(unprotected_at, now()), unprotected_detail = $4
WHERE processor_id = $1 AND number = $2 AND pod_uid = $3 AND given_at IS NULL
RETURNING true

-- doubt_seed --
-- $1 processor, $2 number, $3 pod uid, $4 when what was overwritten was received; null: no doubt.
UPDATE orchestrator.incarnations SET seed_doubted_from = $4
WHERE processor_id = $1 AND number = $2 AND pod_uid = $3

-- archive_state --
-- $1 processor, $2 reason, $3 epoch, $4 incarnation, $5 pod name, $6 captured at, $7 hash, $8 size,
-- $9 body. The first of its reason stays; of those after it the newest.
INSERT INTO orchestrator.archived_states AS a
    (processor_id, reason, place, epoch, incarnation, pod_name, captured_at, sha256, size_bytes,
    body)
SELECT $1, $2, CASE WHEN EXISTS (
        SELECT FROM orchestrator.archived_states f
        WHERE f.processor_id = $1 AND f.reason = $2 AND f.place = 'first'
    ) THEN 'newest' ELSE 'first' END, $3, $4, $5, $6, $7, $8, $9
WHERE NOT EXISTS (
    SELECT FROM orchestrator.archived_states s
    WHERE s.processor_id = $1 AND s.reason = $2 AND s.sha256 = $7
)
ON CONFLICT (processor_id, reason, place) DO UPDATE
SET epoch = excluded.epoch, incarnation = excluded.incarnation, pod_name = excluded.pod_name,
    captured_at = excluded.captured_at, archived_at = now(), sha256 = excluded.sha256,
    size_bytes = excluded.size_bytes, body = excluded.body
RETURNING place

-- documents_to_adopt --
-- $1 processors.
SELECT processor_id FROM orchestrator.adopted_documents
WHERE processor_id = ANY ($1::uuid[]) AND at > now() - interval '1 hour'

-- take_adoption --
-- $1 processor.
DELETE FROM orchestrator.adopted_documents
WHERE processor_id = $1 AND at > now() - interval '1 hour'
RETURNING true

-- adopt_document --
-- $1 processor, $2 pod name, $3 saved at, $4 hash, $5 size, $6 body. Behind all that there is, in
-- the epoch that owns: later ones come behind it.
INSERT INTO orchestrator.checkpoints
    (processor_id, epoch, incarnation, pod_uid, pod_name, captured_at, sha256, size_bytes, body)
SELECT $1,
    GREATEST(
        COALESCE((SELECT epoch FROM orchestrator.ownership WHERE processor_id = $1), 0),
        COALESCE((SELECT max(epoch) FROM orchestrator.checkpoints WHERE processor_id = $1), 0)
    ),
    1 + GREATEST(
        COALESCE((SELECT number FROM orchestrator.incarnations WHERE processor_id = $1), 0),
        COALESCE((SELECT max(incarnation) FROM orchestrator.checkpoints WHERE processor_id = $1), 0)
    ),
    '', $2, $3, $4, $5, $6
RETURNING incarnation

-- go_on_after --
-- $1 processor, $2 incarnation.
UPDATE orchestrator.incarnations SET number = $2 + 1 WHERE processor_id = $1

-- bound_archive --
-- $1 processor, $2 bytes. Of the newest ones the oldest go first, never the one stored last.
DELETE FROM orchestrator.archived_states a
USING (
    SELECT reason, place,
        sum(size_bytes) OVER (
            ORDER BY archived_at = max_at DESC, place = 'first' DESC, archived_at DESC, reason
        ) AS total_bytes, archived_at = max_at AS is_last
    FROM (
        SELECT *, max(archived_at) OVER () AS max_at
        FROM orchestrator.archived_states WHERE processor_id = $1
    ) each
) b
WHERE a.processor_id = $1 AND a.reason = b.reason AND a.place = b.place
    AND b.total_bytes > $2 AND NOT b.is_last

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
    extract(epoch FROM confirmed_at)::float8 AS confirmed_at, sha256, body,
    GREATEST(extract(epoch FROM clock_timestamp() - confirmed_at)::float8, 0) AS age_seconds
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

-- forget_orphaned_archive --
-- $1 seconds. Likewise.
DELETE FROM orchestrator.archived_states
WHERE (processor_id, reason, place) IN (
    SELECT a.processor_id, a.reason, a.place FROM orchestrator.archived_states a
    WHERE a.archived_at < now() - make_interval(secs => $1)
        AND NOT EXISTS (SELECT FROM processors p WHERE p.id = a.processor_id)
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
