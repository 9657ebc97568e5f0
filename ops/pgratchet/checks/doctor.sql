-- name: history
-- This role's privileges for the history: whether the schema exists, may be used and created in, whether a schema may
-- be created, whether the table exists, may be written, and has row-level security that applies to this role. The
-- catalog is queried because casts to regclass fail in a schema without USAGE.
SELECT n.oid IS NOT NULL,
       coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
       has_database_privilege(current_database(), 'CREATE'), c.oid IS NOT NULL,
       coalesce(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                AND has_table_privilege(c.oid, 'UPDATE'), false),
       coalesce(row_security_active(c.oid), false)
FROM (SELECT %(schema)s::name AS schema_name, %(table)s::name AS table_name) AS names
LEFT JOIN pg_namespace AS n ON n.nspname = schema_name
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = table_name;

-- name: unreadable
-- Tables and sequences that a dump has to read and this role cannot: a grant is missing, or row security applies to the
-- role, which pg_dump treats as an error. Tables of extensions are dumped only if the extension says so.
SELECT format('%%I.%%I', n.nspname, c.relname), row_security_active(c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
           AND NOT row_security_active(c.oid))
  AND NOT EXISTS (SELECT 1 FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                    AND NOT c.oid = ANY (coalesce(e.extconfig, '{}')))
ORDER BY 1;

-- name: invalid_indexes
-- Invalid indexes that are not being built now, and whether REINDEX CONCURRENTLY left them. An index on a partitioned
-- table is invalid until all partitions have theirs, which is no fault.
SELECT format('%%I.%%I', n.nspname, c.relname), format('%%I.%%I', t.relnamespace::regnamespace::name, t.relname),
       c.relname ~ '_cc(new|old)[0-9]*$'
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
     JOIN pg_class AS t ON t.oid = i.indrelid
WHERE NOT i.indisvalid AND c.relkind = 'i'
  AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index AS p WHERE p.relid = i.indrelid)
ORDER BY 1;

-- name: transactions
-- Transactions of this database that have been open for `age` seconds.
SELECT pid, usename::text, nullif(application_name, ''), state,
       extract(epoch FROM clock_timestamp() - xact_start)::bigint
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND extract(epoch FROM clock_timestamp() - xact_start) >= %(age)s
ORDER BY xact_start;

-- name: prepared
SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::bigint
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared;

-- name: slots
-- Inactive replication slots, and the bytes of WAL that each retains.
SELECT slot_name::text, coalesce(database::text, 'physical'), wal_status,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                       restart_lsn)::bigint
FROM pg_replication_slots WHERE NOT active AND NOT temporary ORDER BY 1;

-- name: waiting
-- Sessions of this database that wait for a lock, and the first session that blocks each.
SELECT pid, usename::text, left(regexp_replace(query, '\s+', ' ', 'g'), 60), (pg_blocking_pids(pid))[1]
FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
ORDER BY query_start;

-- name: exclusive
-- Tables with an ACCESS EXCLUSIVE lock by a transaction of at least a second, so that short statements do not count.
SELECT format('%%I.%%I', c.relnamespace::regnamespace::name, c.relname), l.pid, a.usename::text,
       extract(epoch FROM clock_timestamp() - a.xact_start)::bigint
FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND c.relkind IN ('r', 'p', 'm') AND extract(epoch FROM clock_timestamp() - a.xact_start) >= 1
ORDER BY 1;

-- name: migration_lock
-- Whether a session holds the migration lock.
SELECT EXISTS (
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) | objid::bigint = %(key)s);

-- name: extensions
-- The extensions that this server does not have (false), or that this role may not create (true).
SELECT pending.name, a.name IS NOT NULL
FROM unnest(%(names)s::text[]) AS pending (name)
LEFT JOIN pg_available_extensions AS a ON a.name = pending.name
WHERE a.installed_version IS NULL AND (a.name IS NULL OR NOT EXISTS (
    SELECT 1 FROM pg_available_extension_versions AS v
    WHERE v.name = pending.name AND (NOT v.superuser OR current_setting('is_superuser')::bool
          OR (v.trusted AND has_database_privilege(current_database(), 'CREATE')))))
ORDER BY 1;
