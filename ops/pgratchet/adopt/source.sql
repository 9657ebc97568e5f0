-- name: tables
-- The tables that have one of these names, with their columns.
SELECT n.nspname::text, c.relname::text, array_agg(a.attname::text)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relname = ANY (%(names)s) AND n.nspname !~ '^pg_(toast|temp)'
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: rows
-- Every row, whatever its columns are. Timestamps have the server's text form, so that they can be sent back to it.
SELECT to_jsonb(t) FROM {table} AS t;

-- name: lock
SELECT pg_try_advisory_lock(%(key)s);
