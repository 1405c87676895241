-- The whole database as this version needs it, to be read. `db upgrade` runs the migrations
-- beside this file instead; a test proves that both make the same database.
-- PostgreSQL 14 or newer.

-- The platform's tables ------------------------------------------------------------------
--
-- They usually exist already, in the platform's own form: then nothing of them is changed.
-- Edge nodes and processors are updated by every heartbeat: half of each page stays free and
-- the heartbeat columns have no index, so that an update stays in its page (HOT).

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
    CONSTRAINT edge_nodes_status_check CHECK (status IN ('online', 'offline', 'decommissioned'))
) WITH (fillfactor = 50);

CREATE TABLE edge_node_apps (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    edge_node_id uuid NOT NULL,
    processor_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT edge_node_apps_pkey PRIMARY KEY (id),
    CONSTRAINT edge_node_apps_status_check CHECK (status IN ('active', 'failed_over', 'stopped'))
);

CREATE INDEX edge_node_apps_edge_node_id_idx ON edge_node_apps (edge_node_id);

-- At most one active link per processor.
CREATE UNIQUE INDEX edge_node_apps_active_processor_id_key ON edge_node_apps (processor_id)
    WHERE status = 'active';

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
) WITH (fillfactor = 50);

CREATE TABLE processor_templates (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    slug text NOT NULL,
    name text,
    CONSTRAINT processor_templates_pkey PRIMARY KEY (id),
    CONSTRAINT processor_templates_slug_key UNIQUE (slug)
);

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
);

CREATE INDEX processor_template_versions_processor_template_id_idx
    ON processor_template_versions (processor_template_id);

CREATE TABLE sensors (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name text,
    location_point point,
    config jsonb DEFAULT '{}',
    CONSTRAINT sensors_pkey PRIMARY KEY (id)
);

-- Our own tables -------------------------------------------------------------------------
--
-- No foreign keys to the platform's tables: they would constrain its deletions.

CREATE SCHEMA orchestrator;

-- Which fleet this is: stands on every pod, so that two fleets in one cluster stay apart.
CREATE TABLE orchestrator.fleet (
    id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Of which term is what operators are shown. Not in `leader`: who leads shares a lock on
    -- that row, and to change it beside a renewal would be a deadlock.
    shown_term bigint NOT NULL DEFAULT 0,
    -- The cluster that its pods run in.
    cluster_uid text,
    CONSTRAINT fleet_pkey PRIMARY KEY (id)
);

CREATE UNIQUE INDEX fleet_single_row_key ON orchestrator.fleet ((true));

INSERT INTO orchestrator.fleet (id) VALUES (gen_random_uuid());

-- When the last canary beat was recorded; none yet: null. Written once a second, in place.
CREATE TABLE orchestrator.canary (
    last_beat_at timestamptz
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX canary_single_row_key ON orchestrator.canary ((true));

INSERT INTO orchestrator.canary (last_beat_at) VALUES (NULL);

-- Times in which we did not hear: silence within them is not death.
CREATE TABLE orchestrator.gaps (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    cause text NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    CONSTRAINT gaps_pkey PRIMARY KEY (id),
    CONSTRAINT gaps_ended_at_check CHECK (ended_at >= began_at)
);

CREATE INDEX gaps_ended_at_idx ON orchestrator.gaps (ended_at);

-- Who owns a processor, and which edge node it left in its latest move.
CREATE TABLE orchestrator.ownership (
    processor_id uuid NOT NULL,
    epoch bigint NOT NULL,
    pod_uid text,
    node_name text,
    ready boolean NOT NULL DEFAULT false,
    left_edge_node_id uuid,
    updated_at timestamptz NOT NULL DEFAULT now(),
    pod_name text,
    pod_ip text,
    -- Failures in a row, the pod of the last one, and when the next try is due.
    failures integer NOT NULL DEFAULT 0,
    failed_pod_uid text,
    retry_at timestamptz,
    -- How the last pod ended.
    exit_code integer,
    restart_reason text,
    -- Whether the instance that its latest move left is told to shut down.
    fencing boolean NOT NULL DEFAULT true,
    -- The owner before `pod_name` was cleared: what it saved at its end is the newest state.
    last_pod_name text,
    -- Where a pod of it was seen last.
    namespace text,
    -- Where the state document of one that is gone may still lie.
    state_namespace text,
    -- Its owner is being ended because no row desires it.
    end_granted boolean NOT NULL DEFAULT false,
    CONSTRAINT ownership_pkey PRIMARY KEY (processor_id)
);

-- Edge nodes that get no work until an operator says so.
CREATE TABLE orchestrator.cordons (
    edge_node_id uuid NOT NULL,
    cause text NOT NULL,
    cordoned_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cordons_pkey PRIMARY KEY (edge_node_id)
);

-- One leader at a time: who holds the lease acts, and each of its statements names the term.
CREATE TABLE orchestrator.leader (
    term bigint NOT NULL,
    holder text,
    expires_at timestamptz NOT NULL
);

CREATE UNIQUE INDEX leader_single_row_key ON orchestrator.leader ((true));

INSERT INTO orchestrator.leader (term, expires_at) VALUES (0, '-infinity');

-- When a leader last had a fresh picture of the cluster, and how long it counts. Null: not since this
-- database is what it is, or it was one of another cluster. Written in place.
CREATE TABLE orchestrator.picture (
    seen_at timestamptz,
    term bigint,
    interval_seconds double precision NOT NULL DEFAULT 0,
    cluster_uid text,
    -- Whether it shows pods of all namespaces that there may be any in.
    is_whole boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX picture_single_row_key ON orchestrator.picture ((true));

INSERT INTO orchestrator.picture DEFAULT VALUES;

-- Processors whose id a pod of that picture bears without owning it here. Mostly there are none.
CREATE TABLE orchestrator.unowned_pods (
    processor_id uuid NOT NULL,
    namespace text NOT NULL,
    pod_name text NOT NULL,
    -- It has no row here, and never had an owner.
    is_unknown boolean NOT NULL,
    CONSTRAINT unowned_pods_pkey PRIMARY KEY (processor_id)
);

-- The deletion guard. `held` and `confirmed` are counts of desired processors by group: what
-- an operator is asked to accept, and what one accepted.
CREATE TABLE orchestrator.guard (
    held_since timestamptz,
    held jsonb NOT NULL DEFAULT '{}',
    detail text NOT NULL DEFAULT '',
    confirmed_at timestamptz,
    confirmed jsonb NOT NULL DEFAULT '{}',
    confirmed_by text
);

CREATE UNIQUE INDEX guard_single_row_key ON orchestrator.guard ((true));

INSERT INTO orchestrator.guard DEFAULT VALUES;

-- How each processor is, and why: what the leader found in its last cycle.
CREATE TABLE orchestrator.processor_states (
    processor_id uuid NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    namespace text,
    pod_name text,
    pod_uid text,
    node_name text,
    pod_ip text,
    phase text,
    epoch bigint,
    restart_count integer,
    since timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT processor_states_pkey PRIMARY KEY (processor_id)
);

-- What each processor was called, and how it was, when its row was last there: for those whose pod
-- runs on without one, and for what is told of them later.
CREATE TABLE orchestrator.last_known (
    processor_id uuid NOT NULL,
    name text,
    organization_id uuid,
    template text,
    health_status text NOT NULL,
    CONSTRAINT last_known_pkey PRIMARY KEY (processor_id)
) WITH (fillfactor = 70);

-- The cluster's nodes, as the leader saw them last.
CREATE TABLE orchestrator.nodes (
    name text NOT NULL,
    kind text NOT NULL,
    ready boolean NOT NULL,
    ready_changed_at timestamptz,
    unschedulable boolean NOT NULL,
    cpu_millicores bigint NOT NULL,
    memory_bytes bigint NOT NULL,
    gpu_count integer NOT NULL,
    pods_max integer NOT NULL,
    pods integer NOT NULL,
    utilisation double precision NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT nodes_pkey PRIMARY KEY (name),
    CONSTRAINT nodes_kind_check CHECK (kind IN ('edge', 'application', 'other'))
);

-- Every action with its reason, in the order of their grants.
CREATE TABLE orchestrator.events (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    processor_id uuid,
    node_name text,
    pod_name text,
    pod_uid text,
    epoch bigint,
    term bigint,
    -- Of what was decided: what was known, and which rules were asked, in their order.
    explanation json,
    -- What it is part of, 32 hexadecimal digits, if traces are kept.
    trace_id text,
    CONSTRAINT events_pkey PRIMARY KEY (id)
);

CREATE INDEX events_processor_id_idx ON orchestrator.events (processor_id, id);

CREATE INDEX events_at_idx ON orchestrator.events (at);

-- When the health poller last wrote a processor's health: if nobody wrote since, it does not
-- beat by itself. `heartbeat_at` is its last heartbeat before that.
CREATE TABLE orchestrator.pod_health (
    processor_id uuid NOT NULL,
    written_at timestamptz NOT NULL,
    heartbeat_at timestamptz,
    CONSTRAINT pod_health_pkey PRIMARY KEY (processor_id)
) WITH (fillfactor = 50);

-- The last life of each processor's container.
CREATE TABLE orchestrator.incarnations (
    processor_id uuid NOT NULL,
    epoch bigint NOT NULL,
    number bigint NOT NULL,
    pod_uid text NOT NULL,
    pod_name text NOT NULL,
    restart_count integer NOT NULL,
    -- By the pod's clock, in Unix seconds. Null: it was adopted, and not asked yet.
    ready_at double precision,
    -- When the newest checkpoint was in it; none of its own is accepted before.
    given_at timestamptz,
    -- Which document lay in the client library's store when it began, and whether it was read.
    start_lay text,
    start_epoch bigint,
    start_incarnation bigint,
    start_sequence bigint,
    start_sha256 bytea,
    start_pod_name text,
    start_at double precision,
    start_read boolean,
    -- Its first capture; the body until it is decided whether it is given the newest.
    first_captured_at double precision,
    first_uptime_seconds double precision,
    first_sha256 bytea,
    first_body bytea,
    -- To be given the newest, and not yet; since when and why it never will be.
    behind boolean NOT NULL DEFAULT false,
    unprotected_at timestamptz,
    unprotected_detail text,
    -- Of a document that was overwritten while the next life may have begun: when it was received.
    seed_doubted_from double precision,
    CONSTRAINT incarnations_pkey PRIMARY KEY (processor_id)
);

ALTER TABLE orchestrator.incarnations ALTER COLUMN first_body SET STORAGE EXTERNAL;

-- States, by (epoch, incarnation): of each incarnation the latest, of the last three. The
-- sequence counts what we received.
CREATE TABLE orchestrator.checkpoints (
    processor_id uuid NOT NULL,
    epoch bigint NOT NULL,
    incarnation bigint NOT NULL,
    sequence bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY,
    pod_uid text NOT NULL,
    pod_name text NOT NULL,
    -- By the pod's clock, in Unix seconds.
    captured_at double precision NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz NOT NULL DEFAULT now(),
    sha256 bytea NOT NULL,
    size_bytes integer NOT NULL,
    -- Compressed, as it is: a state may hold what jsonb refuses.
    body bytea NOT NULL,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (processor_id, epoch, incarnation)
) WITH (fillfactor = 70);

-- It is compressed already.
ALTER TABLE orchestrator.checkpoints ALTER COLUMN body SET STORAGE EXTERNAL;

-- States that lost against others: of each processor and reason the first and the newest.
CREATE TABLE orchestrator.archived_states (
    processor_id uuid NOT NULL,
    reason text NOT NULL,
    place text NOT NULL,
    epoch bigint NOT NULL,
    incarnation bigint NOT NULL,
    pod_name text NOT NULL,
    -- By the clock of the pod that it is of.
    captured_at double precision NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    sha256 bytea NOT NULL,
    size_bytes integer NOT NULL,
    body bytea NOT NULL,
    CONSTRAINT archived_states_pkey PRIMARY KEY (processor_id, reason, place),
    CONSTRAINT archived_states_place_check CHECK (place IN ('first', 'newest'))
);

ALTER TABLE orchestrator.archived_states ALTER COLUMN body SET STORAGE EXTERNAL;

-- Processors whose document an operator has declared the newest; until that is carried out.
CREATE TABLE orchestrator.adopted_documents (
    processor_id uuid NOT NULL,
    by text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT adopted_documents_pkey PRIMARY KEY (processor_id)
);

-- Processors on their way between two places, and how that ended.
CREATE TABLE orchestrator.moves (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    processor_id uuid NOT NULL,
    kind text NOT NULL,
    detail text NOT NULL,
    from_node text NOT NULL,
    to_node text,
    edge_node_id uuid,
    old_uid text,
    epoch bigint NOT NULL,
    began_at timestamptz NOT NULL DEFAULT now(),
    last_alive_at timestamptz,
    suspect_at timestamptz,
    state_at timestamptz,
    ended_at timestamptz,
    outcome text,
    rto_seconds double precision,
    rpo_seconds double precision,
    -- Of the pod that arrived, by the cluster's clock.
    created_at timestamptz,
    ready_at timestamptz,
    -- Why its state could not be captured.
    error text,
    CONSTRAINT moves_pkey PRIMARY KEY (id),
    CONSTRAINT moves_kind_check CHECK (kind IN ('failover', 'failback', 'departure')),
    CONSTRAINT moves_outcome_check
        CHECK (outcome IN ('done', 'cancelled', 'superseded', 'dropped'))
);

CREATE UNIQUE INDEX moves_open_processor_id_key ON orchestrator.moves (processor_id)
    WHERE ended_at IS NULL;

CREATE INDEX moves_processor_id_idx ON orchestrator.moves (processor_id, id);

CREATE INDEX moves_edge_node_id_idx ON orchestrator.moves (edge_node_id, began_at);

CREATE INDEX moves_ended_at_idx ON orchestrator.moves (ended_at);

-- Planned moves that were given up, in a row, and when the next may begin.
CREATE TABLE orchestrator.move_retries (
    processor_id uuid NOT NULL,
    failures integer NOT NULL,
    retry_at timestamptz NOT NULL,
    error text NOT NULL,
    CONSTRAINT move_retries_pkey PRIMARY KEY (processor_id)
);

-- How nodes were judged, and since when: outlives leaders. Moments are Unix seconds.
CREATE TABLE orchestrator.node_health (
    key text NOT NULL,
    name text NOT NULL,
    edge_node_id uuid,
    state text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    since double precision NOT NULL,
    suspect_since double precision,
    well_since double precision,
    last_well_at double precision,
    falls double precision[] NOT NULL DEFAULT '{}',
    CONSTRAINT node_health_pkey PRIMARY KEY (key)
);

-- The mass-failure brake. Moments are Unix seconds.
CREATE TABLE orchestrator.brake (
    engaged_at double precision,
    reason text,
    detail text NOT NULL DEFAULT '',
    population uuid[] NOT NULL DEFAULT '{}',
    override_until double precision,
    override_by text,
    override_reason text
);

CREATE UNIQUE INDEX brake_single_row_key ON orchestrator.brake ((true));

INSERT INTO orchestrator.brake DEFAULT VALUES;

-- Until when nothing is created, ended or moved. Unix seconds.
CREATE TABLE orchestrator.pause (
    until double precision,
    began_at timestamptz,
    by text,
    reason text
);

CREATE UNIQUE INDEX pause_single_row_key ON orchestrator.pause ((true));

INSERT INTO orchestrator.pause DEFAULT VALUES;

-- What operators ordered for single processors. To leave home stands until the order to return,
-- and that until its move begins.
CREATE TABLE orchestrator.orders (
    processor_id uuid NOT NULL,
    kind text NOT NULL,
    by text NOT NULL,
    reason text NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT orders_pkey PRIMARY KEY (processor_id),
    CONSTRAINT orders_kind_check CHECK (kind IN ('failover', 'failback'))
);

-- What operators ask, and what the leader answered. Kept for a minute.
CREATE TABLE orchestrator.questions (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    asked_at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    parameters jsonb NOT NULL,
    answered_at timestamptz,
    answer json,
    CONSTRAINT questions_pkey PRIMARY KEY (id)
);
-- How far each webhook is. Written at each delivery, in place.
CREATE TABLE orchestrator.webhooks (
    name text NOT NULL,
    -- Without its query, in which there may be a key.
    url text NOT NULL,
    kinds text[] NOT NULL,
    -- Everything up to this event was delivered, is dead, or was not meant for it.
    position bigint NOT NULL,
    -- Of the event that comes next.
    tries integer NOT NULL DEFAULT 0,
    -- In a row.
    failures integer NOT NULL DEFAULT 0,
    delivered_at timestamptz,
    last_error text,
    last_error_at timestamptz,
    next_try_at timestamptz,
    -- Dead letters that were too many to keep.
    dropped bigint NOT NULL DEFAULT 0,
    -- Since when it is not in the leader's settings.
    removed_at timestamptz,
    CONSTRAINT webhooks_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50);

-- Events that the receiver of a webhook did not take.
CREATE TABLE orchestrator.webhook_dead_letters (
    webhook text NOT NULL,
    event_id bigint NOT NULL,
    event_at timestamptz NOT NULL,
    died_at timestamptz NOT NULL DEFAULT now(),
    tries integer NOT NULL,
    error text NOT NULL,
    -- When an operator had it sent once more, until that was done.
    retry_at timestamptz,
    CONSTRAINT webhook_dead_letters_pkey PRIMARY KEY (webhook, event_id)
);

CREATE INDEX webhook_dead_letters_due_idx ON orchestrator.webhook_dead_letters (webhook, event_id)
    WHERE retry_at IS NOT NULL;

-- Fire drills, one at a time. `left_at` is when its node stopped to count as dead; moves of its node
-- between its beginning and its end are what came of it.
CREATE TABLE orchestrator.drills (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    edge_node_id uuid NOT NULL,
    node_name text NOT NULL,
    by text NOT NULL,
    reason text NOT NULL,
    phase text NOT NULL DEFAULT 'running',
    began_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz NOT NULL,
    left_at timestamptz,
    ended_at timestamptz,
    outcome text,
    detail text NOT NULL DEFAULT '',
    CONSTRAINT drills_pkey PRIMARY KEY (id),
    CONSTRAINT drills_phase_check CHECK (phase IN ('running', 'returning', 'ended'))
);

CREATE UNIQUE INDEX drills_open_key ON orchestrator.drills ((true)) WHERE phase <> 'ended';

-- Which migration this is.
CREATE TABLE orchestrator.alembic_version (
    version_num character varying(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

INSERT INTO orchestrator.alembic_version (version_num) VALUES ('0016');

-- Wake-ups -------------------------------------------------------------------------------
--
-- Only for columns that change what is desired: a heartbeat must wake nobody.

CREATE FUNCTION orchestrator.notify_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('orchestrator_changed', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER orchestrator_changed
    AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF status, failover_enabled, failover_target_node_id
    ON edge_nodes FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.notify_changed();

CREATE TRIGGER orchestrator_changed
    AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF status, edge_node_id, processor_id
    ON edge_node_apps FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.notify_changed();

CREATE TRIGGER orchestrator_changed
    AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF id, organization_id, name, processor_template_id, sensor_id, node_type,
            k8s_namespace, status
    ON processors FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.notify_changed();

CREATE TRIGGER orchestrator_changed
    AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF slug, name
    ON processor_templates FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.notify_changed();

CREATE TRIGGER orchestrator_changed
    AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF processor_template_id, version, image_uri, digest, is_active,
            runtime_config_template
    ON processor_template_versions
    FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.notify_changed();

CREATE TRIGGER orchestrator_changed
    AFTER INSERT OR DELETE OR TRUNCATE
        OR UPDATE OF name, location_point, config
    ON sensors FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.notify_changed();
