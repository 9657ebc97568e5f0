-- name: functions
-- The functions that this role may not execute, and the role. A server that lacks one is too old, which is not asked here.
SELECT name, quote_ident(current_user)
FROM unnest(%(names)s::text[]) AS name
WHERE to_regprocedure(name) IS NOT NULL AND NOT has_function_privilege(to_regprocedure(name)::oid, 'EXECUTE')
ORDER BY 1;

-- name: limits
-- Connection limits that apply to this role, the sessions that count towards each, and how to raise it. Superusers are
-- exempt from all (src/backend/utils/init/postinit.c). Without the role pg_read_all_stats backend_type can be hidden.
WITH role AS (SELECT oid, quote_ident(rolname) AS name, rolconnlimit FROM pg_roles
              WHERE rolname = session_user AND NOT rolsuper),
     session AS (SELECT usesysid, datid FROM pg_stat_activity
                 WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend')
SELECT 'the role ' || name, rolconnlimit, (SELECT count(*) FROM session WHERE usesysid = role.oid),
       'ALTER ROLE ' || name || ' CONNECTION LIMIT {};'
FROM role WHERE rolconnlimit >= 0
UNION ALL
SELECT 'the database ' || quote_ident(datname), datconnlimit, (SELECT count(*) FROM session WHERE datid = d.oid),
       'ALTER DATABASE ' || quote_ident(datname) || ' CONNECTION LIMIT {};'
FROM pg_database AS d, role WHERE datname = current_database() AND datconnlimit >= 0
UNION ALL
SELECT 'the server', current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true), '0')::int,
       (SELECT count(*) FROM session), 'ALTER SYSTEM SET max_connections = ...; and restart the server.'
FROM role;

-- name: size
SELECT pg_database_size(current_database());

-- name: maintenance
-- The database of that name: whether it exists, takes connections, may be connected to, and is this one. Then other
-- databases that may be connected to, and the command that allows it.
SELECT d.oid IS NOT NULL, coalesce(d.datallowconn, false),
       coalesce(has_database_privilege(d.oid, 'CONNECT'), false), coalesce(d.datname = current_database(), false),
       (SELECT string_agg(datname, ' or ') FROM (
            SELECT datname::text FROM pg_database AS o
            WHERE datallowconn AND has_database_privilege(o.oid, 'CONNECT')
              AND datname NOT IN (name, current_database(), 'rdsadmin', 'cloudsqladmin', 'azure_maintenance')
            ORDER BY datistemplate, datname LIMIT 2) AS others),
       format('GRANT CONNECT ON DATABASE %%I TO %%I', name, current_user)
FROM (SELECT %(name)s::name AS name) AS wanted LEFT JOIN pg_database AS d ON d.datname = name;

-- name: roles
SELECT rolname::text FROM pg_roles;

-- name: unendable
-- The roles whose sessions this role may not end, of those named and of those that are connected to this database now,
-- and the statement that allows it. Sessions of superusers can be ended by superusers only, and are not among them
-- (https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SIGNAL).
SELECT quote_ident(r.rolname), format('GRANT pg_signal_backend TO %%I;', current_user)
FROM pg_roles AS r
WHERE NOT r.rolsuper AND NOT pg_has_role(r.oid, 'USAGE') AND NOT pg_has_role('pg_signal_backend', 'USAGE')
  AND (r.rolname = ANY (%(names)s)
       OR r.oid IN (SELECT usesysid FROM pg_stat_activity WHERE datname = current_database()))
ORDER BY 1;
