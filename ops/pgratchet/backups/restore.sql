-- name: database
-- Its oid and whether it takes connections; no row where there is none of that name.
SELECT oid::bigint, datallowconn FROM pg_database WHERE datname = %(name)s;

-- name: obstacles
-- What belongs to the live database itself, and would stay with it under its other name.
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
-- Not those of autovacuum, which only a superuser may end: to rename a database ends them by itself.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = %(name)s AND pid <> pg_backend_pid() AND usesysid IS NOT NULL;

-- name: end_session
-- One of our own, whose line was lost.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND usename = session_user AND application_name = current_setting('application_name');

-- name: left
-- What earlier restores left under names of their own.
SELECT datname FROM pg_database WHERE datname ~ %(pattern)s ORDER BY 1;
