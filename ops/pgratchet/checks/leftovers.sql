-- name: databases
-- Lists databases by their names, and the scratch databases of drills, rehearsals, `ci` and schemas, with their sizes and sessions.
-- pg_database_size() needs the right to connect.
SELECT d.datname, d.datname ~ '^pgratchet_(drill_[0-9]{14}|(ci|rehearsal|schema_[a-z]+)_[0-9a-f]{12})$' AS is_scratch,
       CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END,
       (SELECT array_agg(a.pid ORDER BY a.pid) FROM pg_stat_activity AS a WHERE a.datid = d.oid)
FROM pg_database AS d
WHERE d.datname = ANY (%(names)s::text[]) OR d.datname ~ '^pgratchet_(drill_[0-9]{14}|(ci|rehearsal|schema_[a-z]+)_[0-9a-f]{12})$'
ORDER BY 1;

-- name: runs
-- Tells whether another session of pgratchet is in this database, the maintenance database. A restore and a drill keep
-- one open there from their begin to their end.
SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE application_name = 'pgratchet' AND datname = current_database() AND pid <> pg_backend_pid());
