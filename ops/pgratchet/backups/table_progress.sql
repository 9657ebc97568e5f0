-- name: copied
-- Reads how many rows the sessions of this role have copied of each table that they are copying now. A transaction sees
-- such statistics as it first read them, until they are cleared.
SELECT pg_catalog.pg_stat_clear_snapshot();
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), max(p.tuples_processed)
FROM pg_catalog.pg_stat_progress_copy AS p
JOIN pg_catalog.pg_class AS c ON c.oid = p.relid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.datname = pg_catalog.current_database()
GROUP BY 1;
