-- name: missing
-- The rights that this role lacks to restore a backup. Each row is a kind, a name, and a statement that gives the right;
-- the statement is empty where only a superuser can do it. A superuser lacks none.
-- Rules: ALTER ... OWNER TO needs membership of the new owner; only the owner of a database with CREATEDB may rename it
-- (https://www.postgresql.org/docs/current/sql-alterdatabase.html).
WITH me AS (
    SELECT rolname, rolcreatedb, rolcreaterole,
           EXISTS (SELECT FROM pg_roles AS a WHERE a.rolname = ANY (%(administrators)s)
                   AND pg_has_role(a.oid, 'MEMBER')) AS administers
    FROM pg_roles WHERE rolname = current_user AND NOT rolsuper
)
SELECT 'create'::text, ''::text, format('ALTER ROLE %%I CREATEDB;', rolname) FROM me WHERE NOT rolcreatedb
UNION ALL
SELECT 'rename', datname::text, format('ALTER DATABASE %%I OWNER TO %%I;', datname, rolname)
FROM pg_database, me WHERE datname = %(live)s AND NOT pg_has_role(datdba, 'USAGE')
UNION ALL
SELECT 'owner', o.rolname::text, CASE WHEN o.rolsuper THEN '' ELSE format('GRANT %%I TO %%I;', o.rolname, me.rolname) END
FROM pg_roles AS o, me WHERE o.rolname = ANY (%(owners)s) AND NOT pg_has_role(o.oid, %(membership)s)
UNION ALL
SELECT 'extension', v.name::text, ''
FROM pg_available_extension_versions AS v JOIN pg_available_extensions AS a ON (a.name, a.default_version) = (v.name, v.version),
     me
WHERE v.name = ANY (%(extensions)s) AND v.superuser AND NOT v.trusted AND NOT administers
UNION ALL
SELECT 'guest', o.rolname::text, ''
FROM pg_roles AS o, me WHERE o.rolname = ANY (%(guests)s) AND o.rolname <> me.rolname
UNION ALL
SELECT 'object', name, '' FROM unnest(%(objects)s::text[]) AS name, me WHERE NOT administers
UNION ALL
SELECT 'setting', s.name, ''
FROM unnest(%(setting_roles)s::text[], %(setting_names)s::text[]) AS s (role, name) CROSS JOIN me
WHERE s.role <> me.rolname AND NOT me.rolcreaterole
UNION ALL
SELECT 'setting', s.name, format(%(grant_set)s, s.name, me.rolname)
FROM unnest(%(setting_names)s::text[]) AS s (name) CROSS JOIN me LEFT JOIN pg_settings AS p ON p.name = s.name
WHERE coalesce(p.context, '') NOT IN ('user', 'backend') AND NOT has_parameter_privilege(s.name, 'SET');

-- name: sessions_to_wait_for
-- The sessions of a database that this role may not end: those of superusers, and of roles whose rights it does not
-- have (https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SIGNAL).
SELECT pid, usename, application_name
FROM pg_stat_activity AS s JOIN pg_roles AS r ON r.oid = s.usesysid
WHERE s.datname = %(name)s AND s.pid <> pg_backend_pid()
  AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
  AND (r.rolsuper OR NOT (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))
ORDER BY backend_start;
