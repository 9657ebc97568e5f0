-- name: tables
-- The tables that have one of these names, with their columns.
SELECT n.nspname::text, c.relname::text, array_agg(a.attname::text)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relname = ANY (%(names)s) AND n.nspname !~ '^pg_(toast|temp)'
    AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s)
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: rows
-- Every row, whatever its columns are. Timestamps have the server's text form, so that they can be sent back to it.
SELECT to_jsonb(t) FROM {table} AS t;

-- name: lock
SELECT pg_try_advisory_lock(%(key)s);

-- name: owned
-- The quoted names of tables and of the sequences that belong to them.
WITH tables AS (
    SELECT c.oid, n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname = %(schema)s AND c.relname = ANY (%(names)s)
)
SELECT format('%%I.%%I', nspname, relname) FROM tables
UNION
SELECT format('%%I.%%I', n.nspname, s.relname)
FROM tables AS t JOIN pg_depend AS d ON d.refobjid = t.oid AND d.refclassid = 'pg_class'::regclass
    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace AS n ON n.oid = s.relnamespace
ORDER BY 1;

-- name: only
-- Whether a schema holds nothing but these relations. Every object in a schema depends on it, except parts of relations.
SELECT NOT EXISTS (
    SELECT FROM pg_depend AS d JOIN pg_namespace AS n ON n.oid = d.refobjid
    WHERE d.refclassid = 'pg_namespace'::regclass AND n.nspname = %(schema)s
        AND NOT (d.classid = 'pg_class'::regclass AND d.objid = ANY (%(relations)s::regclass[]::oid[]))
);

-- name: session
-- The schema in which this session creates objects, and its role.
SELECT current_schema()::text, session_user::text;
