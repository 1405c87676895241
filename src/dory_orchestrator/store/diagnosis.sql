-- What `doctor` asks a database, by name. Nothing is changed.

-- server --
SELECT
    current_setting('server_version_num')::int / 10000 AS version,
    current_setting('server_version') AS version_text,
    current_user::text AS role,
    pg_is_in_recovery() AS is_standby,
    current_setting('default_transaction_read_only')::bool AS is_read_only,
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int AS connections_max,
    extract(epoch FROM clock_timestamp())::float8 AS now

-- namespaces --
SELECT DISTINCT k8s_namespace::text AS namespace FROM processors
WHERE k8s_namespace IS NOT NULL AND COALESCE(status::text, '') NOT IN ('terminated', 'failed')
ORDER BY 1

-- edge_nodes --
SELECT DISTINCT name::text AS name FROM edge_nodes WHERE status::text <> 'decommissioned'
