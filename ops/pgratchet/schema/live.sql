-- name: roles
-- The roles of the server, without PostgreSQL's own.
SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1;

-- name: extensions
-- The extensions of the database.
SELECT extname::text FROM pg_extension ORDER BY 1;
