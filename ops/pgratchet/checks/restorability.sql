-- name: functions
-- Functions in SQL and PL/pgSQL that a restore runs while the search_path is empty, and what runs each: indexes, check
-- and exclusion constraints, generated columns, and materialized views, also through the views that they read. Not
-- those of extensions, those that set a search_path, and those whose body was parsed when it was created. Before 15 a
-- generated column itself depends on its functions, and later its expression.
WITH RECURSIVE view AS (
    SELECT oid, oid AS top FROM pg_class WHERE relkind = 'm'
    UNION
    SELECT c.oid, view.top
    FROM view JOIN pg_rewrite AS r ON r.ev_class = view.oid
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind = 'v'
), use AS (
    SELECT d.refclassid, d.refobjid, 'the materialized view ' || view.top::regclass AS by
    FROM view JOIN pg_rewrite AS r ON r.ev_class = view.oid
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    UNION ALL
    SELECT d.refclassid, d.refobjid, 'the index ' || c.oid::regclass
    FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND c.relkind IN ('i', 'I')
    UNION ALL
    SELECT d.refclassid, d.refobjid, format('the constraint %%I of %%s', c.conname,
        CASE WHEN c.conrelid = 0 THEN c.contypid::regtype::text ELSE c.conrelid::regclass::text END)
    FROM pg_depend AS d JOIN pg_constraint AS c ON c.oid = d.objid
    WHERE d.classid = 'pg_constraint'::regclass AND c.contype IN ('c', 'x')
    UNION ALL
    SELECT d.refclassid, d.refobjid, format('the generated column %%I of %%s', a.attname, a.attrelid::regclass)
    FROM pg_depend AS d JOIN pg_attrdef AS e ON e.oid = d.objid
    JOIN pg_attribute AS a ON a.attrelid = e.adrelid AND a.attnum = e.adnum AND a.attgenerated = 's'
    WHERE d.classid = 'pg_attrdef'::regclass
    UNION ALL
    SELECT d.refclassid, d.refobjid, format('the generated column %%I of %%s', a.attname, a.attrelid::regclass)
    FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.objid AND a.attnum = d.objsubid
    WHERE d.classid = 'pg_class'::regclass AND a.attgenerated = 's'
), called AS (
    SELECT refobjid AS oid, by FROM use WHERE refclassid = 'pg_proc'::regclass
    UNION ALL
    SELECT o.oprcode, by FROM use JOIN pg_operator AS o ON o.oid = refobjid WHERE refclassid = 'pg_operator'::regclass
)
SELECT p.oid::bigint, p.oid::regprocedure::text, l.lanname, p.prosrc, min(called.by)
FROM called JOIN pg_proc AS p ON p.oid = called.oid JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.oid >= 16384 AND l.lanname IN ('sql', 'plpgsql') AND to_jsonb(p) ->> 'prosqlbody' IS NULL
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS setting WHERE starts_with(setting, 'search_path='))
  AND NOT EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
GROUP BY p.oid, l.lanname, p.prosrc
ORDER BY 2;

-- name: unqualified
-- Those of the names that only a search_path finds, with their schemas: functions, relations and types.
SELECT DISTINCT name, nspname::text
FROM (SELECT 'f' AS kind, proname AS name, pronamespace AS schema FROM pg_proc WHERE proname = ANY (%(functions)s)
      UNION ALL
      SELECT 'r', relname, relnamespace FROM pg_class WHERE relname = ANY (%(relations)s)
      UNION ALL
      SELECT 't', typname, typnamespace FROM pg_type WHERE typname = ANY (%(types)s)) AS named
JOIN pg_namespace AS n ON n.oid = named.schema
WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND NOT starts_with(nspname, 'pg_temp_')
  AND NOT EXISTS (SELECT FROM pg_proc WHERE kind = 'f' AND proname = name AND pronamespace = 'pg_catalog'::regnamespace)
  AND NOT EXISTS (SELECT FROM pg_class WHERE kind = 'r' AND relname = name
                  AND relnamespace = 'pg_catalog'::regnamespace)
  AND NOT EXISTS (SELECT FROM pg_type WHERE kind = 't' AND typname = name
                  AND typnamespace = 'pg_catalog'::regnamespace)
ORDER BY 1, 2;
