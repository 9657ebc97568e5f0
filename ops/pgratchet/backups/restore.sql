-- name: database
-- Reads a database's oid and whether it accepts connections. No row when the database does not exist.
SELECT oid::bigint, datallowconn FROM pg_database WHERE datname = %(name)s;

-- name: template
-- Reads whether a database is a template, which cannot be dropped.
SELECT 1 FROM pg_database WHERE datname = %(name)s AND datistemplate;

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

-- name: sessions
-- Names the sessions of a database, the oldest first.
SELECT pid, usename, application_name FROM pg_stat_activity
WHERE datname = %(name)s AND pid <> pg_backend_pid() ORDER BY backend_start LIMIT 5;

-- name: end_session
-- Ends a session of our own whose connection was lost.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND usename = session_user AND application_name = current_setting('application_name');

-- name: kept_databases
-- Lists databases with a record of ours as their comment, or with a name that looks like one that restores make.
SELECT datname, comment
FROM (SELECT datname, shobj_description(oid, 'pg_database') AS comment FROM pg_database) AS d
WHERE starts_with(comment, %(prefix)s) OR datname ~ %(pattern)s
ORDER BY 1;
