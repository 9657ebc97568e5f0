-- A view or a function, and what depends on it: descriptions, and the statements that drop them. The object itself comes
-- first, and each object before those that depend on it. IF EXISTS, because on a new database the migration with these
-- statements runs before the repeatables. A view depends by the rule that holds its query.

-- name: view
WITH RECURSIVE dependant (class, object, depth) AS (
    SELECT 'pg_class'::regclass::oid, to_regclass(%(name)s)::oid, 0 WHERE to_regclass(%(name)s) IS NOT NULL
    UNION
    SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass::oid END,
        coalesce(r.ev_class, d.objid), dependant.depth + 1
    FROM dependant
        JOIN pg_depend AS d ON d.refclassid = dependant.class AND d.refobjid = dependant.object
            AND d.deptype IN ('n', 'a')
        LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE dependant.depth < 50 AND coalesce(r.ev_class, 0) <> dependant.object
)
SELECT pg_describe_object(class, object, 0),
    (SELECT format('DROP %%s IF EXISTS %%s;', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, i.identity)
     FROM pg_class AS c, pg_identify_object(class, object, 0) AS i
     WHERE class = 'pg_class'::regclass AND c.oid = object AND c.relkind IN ('v', 'm'))
FROM dependant
GROUP BY class, object
ORDER BY max(depth), 1
LIMIT %(most)s;

-- name: routine
-- No row when there are several of that name: which of them is meant is known to the server only.
WITH RECURSIVE dependant (class, object, depth) AS (
    SELECT 'pg_proc'::regclass::oid, to_regproc(%(name)s)::oid, 0 WHERE to_regproc(%(name)s) IS NOT NULL
    UNION
    SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass::oid END,
        coalesce(r.ev_class, d.objid), dependant.depth + 1
    FROM dependant
        JOIN pg_depend AS d ON d.refclassid = dependant.class AND d.refobjid = dependant.object
            AND d.deptype IN ('n', 'a')
        LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE dependant.depth < 50 AND coalesce(r.ev_class, 0) <> dependant.object
)
SELECT pg_describe_object(class, object, 0),
    CASE WHEN class = 'pg_proc'::regclass THEN
        (SELECT format('DROP %%s IF EXISTS %%s;', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, i.identity)
         FROM pg_proc AS p, pg_identify_object(class, object, 0) AS i WHERE p.oid = object)
    ELSE
        (SELECT format('DROP %%s IF EXISTS %%s;', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, i.identity)
         FROM pg_class AS c, pg_identify_object(class, object, 0) AS i
         WHERE class = 'pg_class'::regclass AND c.oid = object AND c.relkind IN ('v', 'm'))
    END
FROM dependant
GROUP BY class, object
ORDER BY max(depth), 1
LIMIT %(most)s;
