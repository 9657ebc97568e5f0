-- name: tables
-- The tables that hold rows of their own, without the history and the tables of extensions, as quoted names.
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ratchet')
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
ORDER BY 1;

-- name: sequences
-- The position of each sequence; null for one that was never used.
SELECT format('%I.%I', schemaname, sequencename), last_value::text
FROM pg_sequences WHERE schemaname <> 'ratchet' ORDER BY 1;
