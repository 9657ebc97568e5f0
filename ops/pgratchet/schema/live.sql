-- name: roles
-- The roles of the server, without PostgreSQL's own.
SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1;

-- name: extensions
-- The extensions of the database, with their versions.
SELECT extname::text, extversion FROM pg_extension ORDER BY 1;

-- name: unreadable
-- The tables that pg_dump cannot lock as this role, as quoted names.
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
ORDER BY 1;
