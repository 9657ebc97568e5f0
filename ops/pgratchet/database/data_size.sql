-- name: data_size
-- Sums the tables that a dump contains, without indexes. pg_relation_size() waits for a table that is locked against
-- readers, so the catalog's last count of pages stands in for it there. The rows of a table are estimated by their
-- number and the mean width of their columns, because pages stay after a DELETE; without statistics, by the share of
-- rows that are not dead.
WITH locked AS MATERIALIZED (
    SELECT DISTINCT l.relation FROM pg_catalog.pg_locks AS l
    WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL
), width AS (
    SELECT s.schemaname, s.tablename, 28 + sum(s.avg_width * (1 - s.null_frac)) AS bytes
    FROM pg_catalog.pg_stats AS s WHERE NOT s.inherited
    GROUP BY 1, 2
), relation AS (
    SELECT c.oid, n.nspname, c.relname, c.reltoastrelid, c.relkind,
           CASE WHEN c.oid IN (SELECT relation FROM locked)
                THEN c.relpages * pg_catalog.current_setting('block_size')::bigint
                ELSE coalesce(pg_catalog.pg_relation_size(c.oid), 0) END AS bytes,
           greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid)) AS live,
           pg_catalog.pg_stat_get_dead_tuples(c.oid) AS dead
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 't') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema'
      AND (n.nspname !~ '^pg_' OR n.nspname = 'pg_toast')
), data AS (
    SELECT least(r.bytes::numeric,
                 coalesce(r.live::numeric * w.bytes,
                          r.bytes * CASE WHEN r.live + r.dead > 0 THEN r.live / (r.live + r.dead) ELSE 1 END::numeric)
                ) AS heap,
           coalesce(t.bytes * CASE WHEN t.live + t.dead > 0 THEN t.live / (t.live + t.dead) ELSE 1 END::numeric, 0)
             AS toast
    FROM relation AS r
    LEFT JOIN relation AS t ON t.oid = r.reltoastrelid
    LEFT JOIN width AS w ON w.schemaname = r.nspname AND w.tablename = r.relname
    WHERE r.relkind = 'r'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = r.oid
                        AND d.deptype = 'e')
)
SELECT count(*), coalesce(sum(heap), 0)::bigint, coalesce(sum(toast), 0)::bigint,
       pg_catalog.pg_relation_size('pg_catalog.pg_largeobject'),
       pg_catalog.pg_database_size(pg_catalog.current_database())
FROM data;

-- name: table_sizes
-- The rows, the bytes with TOAST and the bytes of the indexes of each table, as VACUUM or ANALYZE has noted them. Waits for
-- no lock, and reads no table.
SELECT format('%I.%I', n.nspname, c.relname), greatest(c.reltuples, 0)::bigint,
       (c.relpages + coalesce(t.relpages, 0))::bigint * block.size, coalesce(i.pages, 0)::bigint * block.size
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class AS t ON t.oid = c.reltoastrelid
LEFT JOIN (SELECT x.indrelid, sum(k.relpages) AS pages FROM pg_catalog.pg_index AS x
           JOIN pg_catalog.pg_class AS k ON k.oid = x.indexrelid GROUP BY 1) AS i ON i.indrelid = c.oid
CROSS JOIN (SELECT current_setting('block_size')::bigint AS size) AS block
WHERE c.relkind = 'r' AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_';
