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
-- The size is an estimate, and at least one page, because pg_table_size() would wait for a lock on the table.
SELECT format('%I.%I', n.nspname, c.relname),
       greatest(1, c.relpages)::bigint * current_setting('block_size')::int
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT 1 FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
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
-- separately (PostgreSQL's src/backend/catalog/catalog.c, IsPinnedObject).
SELECT r.rolname
FROM pg_shdepend AS s JOIN pg_roles AS r ON r.oid = s.refobjid
WHERE s.refclassid = 'pg_authid'::regclass
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
  AND 10 IN (SELECT relowner FROM pg_class WHERE oid >= 16384
             UNION ALL SELECT nspowner FROM pg_namespace WHERE oid >= 16384
             UNION ALL SELECT proowner FROM pg_proc WHERE oid >= 16384
             UNION ALL SELECT typowner FROM pg_type WHERE oid >= 16384
             UNION ALL SELECT lomowner FROM pg_largeobject_metadata)
ORDER BY 1;

-- name: database
-- Reads columns through to_jsonb when their names differ between versions of PostgreSQL.
SELECT to_jsonb(d) ->> 'datname' AS name, pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding),
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), d.datcollate, d.datctype,
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
       shobj_description(d.oid, 'pg_database'), d.datconnlimit, d.datacl IS NOT NULL, pg_database_size(d.oid)
FROM pg_database AS d
WHERE d.datname = current_database();

-- name: settings
SELECT r.rolname, split_part(e.setting, '=', 1), substr(e.setting, strpos(e.setting, '=') + 1)
FROM pg_db_role_setting AS s
JOIN pg_database AS d ON d.oid = s.setdatabase
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
CROSS JOIN unnest(s.setconfig) AS e (setting)
WHERE d.datname = current_database()
ORDER BY 1 NULLS FIRST, 2;

-- name: grants
SELECT r.rolname, a.privilege_type, a.is_grantable
FROM pg_database AS d CROSS JOIN aclexplode(d.datacl) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
WHERE d.datname = current_database() AND (a.grantee = 0 OR r.rolname IS NOT NULL)
ORDER BY 1 NULLS FIRST, 2;
