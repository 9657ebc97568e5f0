-- name: session
-- Every session writes the same value as the same text.
SET search_path = pg_catalog;
SET row_security = off;
SET lock_timeout = '30s';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET extra_float_digits = 1;
SET bytea_output = 'hex';
SET xmlbinary = 'base64';
SET lc_monetary = 'C';
SET quote_all_identifiers = off;

-- name: tables
-- Lists the tables that have rows of their own, with columns, types, and whether each column is generated.
SELECT format('%%I.%%I', n.nspname, c.relname),
       array_agg(quote_ident(a.attname) ORDER BY a.attnum) FILTER (WHERE a.attnum IS NOT NULL),
       array_agg(a.attgenerated <> '' ORDER BY a.attnum) FILTER (WHERE a.attnum IS NOT NULL)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT (n.nspname = %(schema)s AND c.relname = %(table)s)
  AND NOT EXISTS (SELECT 1 FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
GROUP BY n.nspname, c.relname
ORDER BY 1;

-- name: history
-- Lists the history and the sequences of its columns.
SELECT format('%%I.%%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname = %(schema)s AND c.relname = %(table)s) OR c.relkind = 'S' AND EXISTS (
    SELECT 1 FROM pg_depend AS d JOIN pg_class AS t ON t.oid = d.refobjid
         JOIN pg_namespace AS m ON m.oid = t.relnamespace
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
      AND m.nspname = %(schema)s AND t.relname = %(table)s);

-- name: references
-- Lists tables with the tables that their foreign keys refer to.
SELECT format('%I.%I', n.nspname, c.relname), format('%I.%I', m.nspname, r.relname)
FROM pg_constraint AS f JOIN pg_class AS c ON c.oid = f.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
     JOIN pg_class AS r ON r.oid = f.confrelid JOIN pg_namespace AS m ON m.oid = r.relnamespace
WHERE f.contype = 'f' AND c.oid <> r.oid
ORDER BY 1, 2;

-- name: large_objects
SELECT count(*) FROM pg_largeobject_metadata;
