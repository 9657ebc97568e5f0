-- name: relations
-- Tables, views and sequences that are neither the server's own nor the history: the number and first five names of each
-- kind. Left out are those of extensions and of the provider of a managed server, partitions and sequences of columns. Objects
-- below 16384 were made by initdb (src/include/access/transam.h, FirstNormalObjectId).
SELECT CASE WHEN c.relkind IN ('r', 'p', 'f') THEN 'table' WHEN c.relkind = 'S' THEN 'sequence' ELSE 'view' END AS kind,
       count(*), array_to_string(
           (array_agg(format('%%I.%%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname))[1:5], ', ')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't' AND NOT c.relispartition
  AND c.oid >= 16384 AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> ALL (%(schemas)s)
  AND NOT (n.nspname = %(schema)s AND c.relname = %(table)s)
  AND NOT (pg_get_userbyid(c.relowner) ~ %(owners)s AND pg_get_userbyid(c.relowner) <> current_user)
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
GROUP BY 1
ORDER BY CASE min(c.relkind::text) WHEN 'S' THEN 3 WHEN 'm' THEN 2 WHEN 'v' THEN 2 ELSE 1 END;

-- name: histories
-- Tables named like the history of a migration tool, and histories of pgratchet under another name.
SELECT format('%%I.%%I', n.nspname, c.relname), lower(c.relname), EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname IN ('statements_done', 'backup_waived')
    HAVING count(*) = 2)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND NOT (n.nspname = %(schema)s AND c.relname = %(table)s)
  AND (lower(c.relname) = ANY (%(names)s) OR EXISTS (
       SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname IN ('statements_done', 'backup_waived')
       HAVING count(*) = 2))
ORDER BY 1;
