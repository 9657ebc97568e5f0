-- name: dependants
-- A view or a routine, and what depends on it: descriptions, and the statements that drop them. The object itself comes
-- first, and each object before those that depend on it. IF EXISTS, because on a new database the migration with these
-- statements runs before the repeatables. A view depends by the rule that holds its query. No row for a routine when
-- there are several of that name: which of them is meant is known to the server only.
WITH RECURSIVE dependant (class, object, depth) AS (
    SELECT class, object, 0
    FROM (SELECT CASE WHEN %(is_routine)s THEN 'pg_proc'::regclass::oid ELSE 'pg_class'::regclass::oid END,
        CASE WHEN %(is_routine)s THEN to_regproc(%(name)s)::oid ELSE to_regclass(%(name)s)::oid END) AS it (class, object)
    WHERE object IS NOT NULL
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
    (SELECT format('DROP %%s IF EXISTS %%s;', kind, i.identity)
     FROM pg_identify_object(class, object, 0) AS i, (
        SELECT CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END
        FROM pg_proc WHERE class = 'pg_proc'::regclass AND oid = object
        UNION ALL
        SELECT CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END
        FROM pg_class WHERE class = 'pg_class'::regclass AND oid = object AND relkind IN ('v', 'm')
     ) AS dropped (kind))
FROM dependant
GROUP BY class, object
ORDER BY max(depth), 1
LIMIT %(most)s;
