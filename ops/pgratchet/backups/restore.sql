-- name: database
-- Reads a database's oid and whether it accepts connections. No row when the database does not exist.
SELECT oid::bigint, datallowconn FROM pg_database WHERE datname = %(name)s;

-- name: obstacles
-- Lists objects that belong to a database's oid, and stay with the database when its name changes.
SELECT 'replication slot', slot_name::text FROM pg_replication_slots WHERE database = %(name)s
UNION ALL
SELECT 'prepared transaction', gid FROM pg_prepared_xacts WHERE database = %(name)s
UNION ALL
SELECT 'subscription', s.subname::text
FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid WHERE d.datname = %(name)s
ORDER BY 1, 2;

-- name: missing_roles
SELECT role FROM unnest(%(names)s::text[]) AS role WHERE role NOT IN (SELECT rolname FROM pg_roles) ORDER BY 1;

-- name: missing_extensions
SELECT name FROM unnest(%(names)s::text[]) AS name WHERE name NOT IN (SELECT name FROM pg_available_extensions)
ORDER BY 1;

-- name: lock
SELECT pg_try_advisory_lock(%(key)s);

-- name: end_sessions
-- Leaves autovacuum workers alone: only a superuser may end them, and ALTER DATABASE ... RENAME ends them itself.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = %(name)s AND pid <> pg_backend_pid() AND usesysid IS NOT NULL;

-- name: end_session
-- Ends a session of our own whose connection was lost.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND usename = session_user AND application_name = current_setting('application_name');

-- name: kept_databases
-- Lists databases whose names look like names that restores make.
SELECT datname FROM pg_database WHERE datname ~ %(pattern)s ORDER BY 1;
