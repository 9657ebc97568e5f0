-- name: relations
-- Every relation of users, with its file node, the table of an index, and the size that VACUUM or ANALYZE has noted.
-- Objects of a user have oids from 16384 on (https://www.postgresql.org/docs/current/system-catalog-initial-data.html).
SELECT c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind, pg_relation_filenode(c.oid)::bigint,
       i.indrelid::bigint, greatest(c.reltuples, 0)::bigint, c.relpages::bigint * current_setting('block_size')::bigint,
       n.nspname = 'pg_toast' OR c.relpersistence = 't'
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
WHERE c.oid >= 16384;

-- name: locks
-- The relations that the transaction has locked, with the work on each since the session began, and the end of the WAL.
-- The statistics of a transaction are not zeroed at its begin, so only differences count. Partitioned tables and views
-- have no size.
SELECT l.relation, l.modes, pg_catalog.pg_relation_filenode(l.relation::oid)::bigint, pg_catalog.pg_stat_get_xact_numscans(l.relation::oid),
       pg_catalog.pg_stat_get_xact_tuples_returned(l.relation::oid), pg_catalog.pg_stat_get_xact_tuples_inserted(l.relation::oid),
       pg_catalog.pg_stat_get_xact_tuples_updated(l.relation::oid), pg_catalog.pg_stat_get_xact_tuples_deleted(l.relation::oid),
       pg_catalog.pg_relation_size(l.relation::oid), w.lsn
FROM (SELECT (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::bigint AS lsn) AS w
LEFT JOIN (SELECT relation::bigint, pg_catalog.array_agg(mode) AS modes FROM pg_catalog.pg_locks
           WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND relation >= 16384
           GROUP BY relation) AS l ON true;

-- name: counters
-- The work of the session on some relations, which is zeroed whenever the session has reported it.
SELECT oid, pg_stat_get_xact_numscans(oid::oid), pg_stat_get_xact_tuples_returned(oid::oid),
       pg_stat_get_xact_tuples_inserted(oid::oid), pg_stat_get_xact_tuples_updated(oid::oid),
       pg_stat_get_xact_tuples_deleted(oid::oid)
FROM unnest(%(oids)s::bigint[]) AS oid;

-- name: observed
-- The locks of another session on relations of users, and those that it waits for.
SELECT relation::bigint, mode, granted FROM pg_catalog.pg_locks
WHERE pid = %(pid)s AND locktype = 'relation' AND relation >= 16384;
