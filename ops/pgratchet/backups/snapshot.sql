-- name: begin
-- Opens and exports one snapshot for the dump and the counts. With row_security off, a query whose rows a policy would
-- filter fails.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL row_security = off;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL search_path = pg_catalog;
SELECT pg_export_snapshot();

-- name: tables
-- Lists the tables whose rows a dump contains. Partitioned tables have no rows, and extensions create their own tables.
-- The size has TOAST values and no indexes, and is at least one page. pg_relation_size() waits for a table that is locked
-- against readers, so the catalog's last count of pages stands in for it there.
WITH locked AS MATERIALIZED (
    SELECT DISTINCT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL
)
SELECT format('%I.%I', n.nspname, c.relname),
       greatest(CASE WHEN c.oid IN (SELECT relation FROM locked) THEN c.relpages::bigint * block.size
                ELSE coalesce(pg_relation_size(c.oid), 0) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)
                END, block.size)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN (SELECT current_setting('block_size')::bigint AS size) AS block
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT 1 FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1;

-- name: index_sizes
-- The bytes of the indexes of each table, as VACUUM or ANALYZE has noted them.
SELECT format('%I.%I', n.nspname, c.relname), sum(x.relpages)::bigint * current_setting('block_size')::bigint
FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.oid >= 16384
GROUP BY 1;

-- name: sequences
-- Lists the sequences whose values a dump contains, and whether they count down and whether they cycle.
SELECT format('%I.%I', n.nspname, c.relname), s.seqincrement < 0, s.seqcycle
FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT 1 FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1;

-- name: materialized_views
-- Lists the materialized views, whether they are populated, and whether this role may count their rows. A dump does not
-- read their rows, so it needs no right to.
SELECT format('%I.%I', n.nspname, c.relname), c.relispopulated,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT 1 FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1;

-- name: schemas
SELECT quote_ident(nspname) FROM pg_namespace
WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
ORDER BY 1;

-- name: left_out
-- Describes what pg_dump leaves out without an error (src/bin/pg_dump/pg_dump.c, getSubscriptions and
-- dumpUserMappings; the view pg_user_mappings hides options in the same cases; selectDumpableNamespace).
SELECT format('The subscription %I: only a superuser can dump it.', s.subname)
FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
WHERE d.datname = current_database() AND NOT current_setting('is_superuser')::bool
UNION ALL
SELECT format('The options of the user mapping of %s for the server %I: this role cannot read them.',
              CASE WHEN u.umuser = 0 THEN 'PUBLIC' ELSE quote_ident(u.usename) END, u.srvname)
FROM pg_user_mappings AS u JOIN pg_foreign_server AS s ON s.oid = u.srvid
WHERE u.umoptions IS NULL AND NOT current_setting('is_superuser')::bool
  AND NOT (u.umuser <> 0 AND u.usename = current_user
           AND (pg_has_role(s.srvowner, 'USAGE') OR has_server_privilege(s.oid, 'USAGE')))
  AND NOT (u.umuser = 0 AND pg_has_role(s.srvowner, 'USAGE'))
UNION ALL
SELECT format('The %s %I.%I: pg_dump skips the schemas of the server.', o.kind, n.nspname, o.name)
FROM (SELECT 'pg_class'::regclass, oid, relnamespace, relname,
             CASE relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
             ELSE 'table' END
      FROM pg_class WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
      UNION ALL
      SELECT 'pg_proc'::regclass, oid, pronamespace, proname, 'function' FROM pg_proc)
     AS o (class, oid, namespace, name, kind)
JOIN pg_namespace AS n ON n.oid = o.namespace
WHERE o.oid >= 16384 AND n.nspname IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype IN ('e', 'i'))
ORDER BY 1;

-- name: large_objects
SELECT count(*) FROM pg_largeobject_metadata;

-- name: extensions
SELECT extname, extversion FROM pg_extension ORDER BY 1;

-- name: invalid_indexes
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relkind = 'i'
ORDER BY 1;

-- name: roles
-- Lists the roles that own objects, or are named in grants, policies or settings, and the owner of the database.
-- pg_shdepend has no entries for pinned roles, the bootstrap superuser and the predefined roles, so they are searched
-- separately (PostgreSQL's src/backend/catalog/catalog.c, IsPinnedObject). A dump has no temporary objects.
WITH temporary AS (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_')
SELECT r.rolname
FROM pg_shdepend AS s JOIN pg_roles AS r ON r.oid = s.refobjid
WHERE s.refclassid = 'pg_authid'::regclass
  AND NOT EXISTS (SELECT FROM pg_class AS c WHERE s.classid = 'pg_class'::regclass AND c.oid = s.objid
                  AND s.dbid <> 0 AND c.relnamespace IN (SELECT oid FROM temporary))
  AND (s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
       OR (s.classid = 'pg_database'::regclass
           AND s.objid = (SELECT oid FROM pg_database WHERE datname = current_database())))
UNION
SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()
UNION
SELECT r.rolname
FROM pg_database AS d CROSS JOIN aclexplode(d.datacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee
WHERE d.datname = current_database()
UNION
SELECT r.rolname
FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase JOIN pg_roles AS r ON r.oid = s.setrole
WHERE d.datname = current_database()
UNION
SELECT rolname FROM pg_roles
WHERE oid = 10
  AND 10 IN (SELECT relowner FROM pg_class
             WHERE oid >= 16384 AND relnamespace NOT IN (SELECT oid FROM temporary)
             UNION ALL SELECT nspowner FROM pg_namespace
             WHERE oid >= 16384 AND oid NOT IN (SELECT oid FROM temporary)
             UNION ALL SELECT proowner FROM pg_proc
             WHERE oid >= 16384 AND pronamespace NOT IN (SELECT oid FROM temporary)
             UNION ALL SELECT typowner FROM pg_type
             WHERE oid >= 16384 AND typnamespace NOT IN (SELECT oid FROM temporary)
             UNION ALL SELECT lomowner FROM pg_largeobject_metadata)
ORDER BY 1;

-- name: database
-- Reads columns through to_jsonb when their names differ between versions of PostgreSQL.
SELECT to_jsonb(d) ->> 'datname' AS name, pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding),
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), d.datcollate, d.datctype,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
       shobj_description(d.oid, 'pg_database'), d.datconnlimit, d.datacl IS NOT NULL,
       CASE WHEN d.datname = current_database() THEN pg_database_size(d.oid) ELSE 0 END,
       d.datistemplate, nullif(t.spcname, 'pg_default')::text, to_jsonb(d) ->> 'daticurules',
       array_remove(ARRAY[
           CASE WHEN NOT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'public') THEN 'SCHEMA public' END,
           CASE WHEN NOT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'plpgsql') THEN 'EXTENSION plpgsql' END],
           NULL)
FROM pg_database AS d JOIN pg_tablespace AS t ON t.oid = d.dattablespace
WHERE d.datname = %(name)s;

-- name: settings
SELECT r.rolname, split_part(e.setting, '=', 1), substr(e.setting, strpos(e.setting, '=') + 1)
FROM pg_db_role_setting AS s
JOIN pg_database AS d ON d.oid = s.setdatabase
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
CROSS JOIN unnest(s.setconfig) AS e (setting)
WHERE d.datname = %(name)s
ORDER BY 1 NULLS FIRST, 2;

-- name: grants
SELECT r.rolname, a.privilege_type, a.is_grantable
FROM pg_database AS d CROSS JOIN aclexplode(d.datacl) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
WHERE d.datname = %(name)s AND (a.grantee = 0 OR r.rolname IS NOT NULL)
ORDER BY 1 NULLS FIRST, 2;

-- name: rights
-- Lists what a restore needs more rights for than those of an owner: the owners of objects, and the objects that only a
-- superuser may create. Members of extensions are left out, because CREATE EXTENSION makes them, and so are temporary
-- objects, whose schemas belong to the bootstrap superuser and stay. A guest owns objects in a schema of another role:
-- pg_restore gives it the objects before it gives it CREATE on the schema, which ALTER ... OWNER TO
-- asks of it unless a superuser runs it.
WITH object (class, id, owner, name) AS (
    SELECT 'pg_event_trigger'::regclass, oid, 0, 'event trigger ' || quote_ident(evtname) FROM pg_event_trigger
    UNION ALL
    SELECT 'pg_publication'::regclass, oid, 0, 'publication ' || quote_ident(pubname) || ', which is FOR ALL TABLES'
    FROM pg_publication WHERE puballtables
    UNION ALL
    SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, 'foreign-data wrapper ' || quote_ident(fdwname)
    FROM pg_foreign_data_wrapper
    UNION ALL
    SELECT 'pg_language'::regclass, oid, 0, 'language ' || quote_ident(lanname)
    FROM pg_language WHERE oid >= 16384 AND NOT lanpltrusted
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, 0, 'function ' || p.oid::regprocedure || CASE WHEN p.proleakproof
           THEN ', which is LEAKPROOF' ELSE ', which is in the language ' || l.lanname END
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.oid >= 16384 AND (p.proleakproof OR NOT (l.lanpltrusted OR l.lanname = 'sql'))
    UNION ALL
    SELECT 'pg_type'::regclass, oid, 0, 'base type ' || oid::regtype
    FROM pg_type WHERE oid >= 16384 AND typtype = 'b' AND typcategory <> 'A'
    UNION ALL
    SELECT 'pg_opclass'::regclass, oid, 0, 'operator class ' || quote_ident(opcname) FROM pg_opclass WHERE oid >= 16384
    UNION ALL
    SELECT 'pg_opfamily'::regclass, oid, 0, 'operator family ' || quote_ident(opfname) FROM pg_opfamily WHERE oid >= 16384
    UNION ALL
    SELECT 'pg_cast'::regclass, oid, 0, 'cast from ' || castsource::regtype || ' to ' || casttarget::regtype
    FROM pg_cast WHERE oid >= 16384 AND (castmethod = 'b' OR (castsource < 16384 AND casttarget < 16384))
    UNION ALL
    SELECT 'pg_am'::regclass, oid, 0, 'access method ' || quote_ident(amname) FROM pg_am WHERE oid >= 16384
    UNION ALL
    SELECT 'pg_ts_parser'::regclass, oid, 0, 'text search parser ' || quote_ident(prsname)
    FROM pg_ts_parser WHERE oid >= 16384
    UNION ALL
    SELECT 'pg_ts_template'::regclass, oid, 0, 'text search template ' || quote_ident(tmplname)
    FROM pg_ts_template WHERE oid >= 16384
    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, c.relowner, 'grant by ' || quote_ident(pg_get_userbyid(a.grantor)) || ' on '
           || c.oid::regclass || ', because SET SESSION AUTHORIZATION is for superusers'
    FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS a WHERE c.oid >= 16384 AND a.grantor <> c.relowner
    UNION ALL
    SELECT 'pg_namespace'::regclass, n.oid, n.nspowner, 'grant by ' || quote_ident(pg_get_userbyid(a.grantor))
           || ' on the schema ' || quote_ident(nspname) || ', because SET SESSION AUTHORIZATION is for superusers'
    FROM pg_namespace AS n CROSS JOIN aclexplode(n.nspacl) AS a WHERE n.oid >= 16384 AND a.grantor <> n.nspowner
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, p.proowner, 'grant by ' || quote_ident(pg_get_userbyid(a.grantor)) || ' on '
           || p.oid::regprocedure || ', because SET SESSION AUTHORIZATION is for superusers'
    FROM pg_proc AS p CROSS JOIN aclexplode(p.proacl) AS a WHERE p.oid >= 16384 AND a.grantor <> p.proowner
),
temporary AS (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'),
left_out AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM temporary
    UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace IN (SELECT oid FROM temporary)
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM temporary)
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace IN (SELECT oid FROM temporary)
)
SELECT 'superuser_objects'::text, name FROM object
WHERE (class, id) NOT IN (SELECT classid, objid FROM left_out)
UNION
SELECT 'owners', r.rolname::text
FROM pg_shdepend AS s JOIN pg_roles AS r ON r.oid = s.refobjid
WHERE s.deptype = 'o' AND s.refclassid = 'pg_authid'::regclass AND s.classid <> 'pg_extension'::regclass
  AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (s.classid, s.objid) NOT IN (SELECT classid, objid FROM left_out)
UNION
SELECT 'guests', pg_get_userbyid(o.owner)::text
FROM (SELECT 'pg_class'::regclass, oid, relowner, relnamespace FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
      UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, pronamespace FROM pg_proc
      UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typnamespace FROM pg_type WHERE typtype IN ('e', 'd', 'r')
     ) AS o (class, id, owner, schema)
JOIN pg_namespace AS n ON n.oid = o.schema
WHERE o.id >= 16384 AND (o.class, o.id) NOT IN (SELECT classid, objid FROM left_out)
  AND NOT pg_has_role(o.owner, n.nspowner, 'USAGE')
  AND NOT (n.nspname = 'public' AND current_setting('server_version_num')::int < 150000)
  AND n.nspname !~ '^pg_'
UNION
SELECT 'owners', rolname::text FROM pg_roles
WHERE oid = 10 AND EXISTS (
    SELECT FROM (
        SELECT 'pg_class'::regclass, oid FROM pg_class
        WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relnamespace <> 'pg_toast'::regnamespace
        UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspowner = 10
        UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = 10
        UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typowner = 10 AND typtype IN ('e', 'd', 'r')
    ) AS owned (class, id)
    WHERE id >= 16384 AND (class, id) NOT IN (SELECT classid, objid FROM left_out))
ORDER BY 1, 2;
