-- Queries of the history table. {schema} and {table} are quoted names, other names in braces are literals. Names of
-- functions are qualified where a migration may have changed search_path before the query runs.
--
-- An assertion is a query that fails with SQLSTATE 22P02 and a message that begins with "pgratchet:": the cast of that
-- message to a number fails. pg_catalog.concat is not immutable, so the planner does not evaluate the cast early.
--
-- Queries that read rows turn row_security off for their transaction: the server then refuses them where row-level
-- security could hide a row (https://www.postgresql.org/docs/current/ddl-rowsecurity.html).

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema};

-- name: create_table
-- The history. executed_at is null for an unfinished migration. body is the text that ran, up to 1 MB.
-- For a migration without a transaction with a larger text, body is a hash of the completed statements until the end.
-- For a migration without a transaction, statements_done is the number of statements that took effect, and
-- statement_begun the number of a statement that began outside a transaction and whose end is not recorded.
CREATE TABLE IF NOT EXISTS {table} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    checksum text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    executed_at timestamptz,
    duration_ms bigint,
    applied_by text NOT NULL DEFAULT session_user,
    run_id text NOT NULL,
    backup_id text,
    backup_waived text,
    tool_version text NOT NULL,
    source text NOT NULL DEFAULT 'run',
    body text,
    statements_done integer,
    statement_begun integer
);

-- name: exists
-- One row if the table exists, otherwise none.
SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = {schema_name} AND c.relname = {table_name};

-- name: about
-- The subscriptions that write to the table, the publications that it is part of, the database, and the comment on the
-- table, which names the environment. Roles that are no superusers may read names of subscriptions in the view only. The
-- publications are looked up where there are any: that takes long.
SELECT (SELECT string_agg(DISTINCT s.subname, ', ') FROM pg_catalog.pg_subscription_rel AS r
            JOIN pg_catalog.pg_stat_subscription AS s ON s.subid = r.srsubid
            JOIN pg_catalog.pg_class AS c ON c.oid = r.srrelid
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = {schema_name} AND c.relname = {table_name}),
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_publication) THEN
        (SELECT string_agg(DISTINCT pubname, ', ') FROM pg_catalog.pg_publication_tables
         WHERE schemaname = {schema_name} AND tablename = {table_name}) END,
    pg_catalog.current_database(),
    (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()),
    (SELECT d.description FROM pg_catalog.pg_description AS d
            JOIN pg_catalog.pg_class AS c ON c.oid = d.objoid AND d.classoid = c.tableoid AND d.objsubid = 0
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = {schema_name} AND c.relname = {table_name});

-- name: comment
-- Records the environment. Only the owner of the table may do it.
COMMENT ON TABLE {table} IS {text};

-- name: read
-- All rows, oldest first. Times are milliseconds since 1970: the database's DateStyle does not change these. The time
-- of an adopted row can be -infinity, for unknown; the query returns the first day that Python can represent.
SET LOCAL row_security = off;
SELECT name, checksum, CASE WHEN isfinite(executed_at) THEN round(extract(epoch FROM executed_at) * 1000)::bigint
    WHEN executed_at = '-infinity' THEN -62135596800000 END, duration_ms, source, statements_done, statement_begun
FROM {table}
ORDER BY id;

-- name: read_run
-- The rows of one run with the given names.
SET LOCAL row_security = off;
SELECT name, checksum, round(extract(epoch FROM executed_at) * 1000)::bigint, duration_ms, source, statements_done,
    statement_begun
FROM {table}
WHERE run_id = {run_id} AND name = ANY ({names})
ORDER BY id;

-- name: read_bodies
-- The texts that ran, to show how a file has changed.
SET LOCAL row_security = off;
SELECT name, body FROM {table} WHERE name = ANY ({names});

-- name: lock_transaction
-- Asserts that the migration lock was free, and holds it until the end of the transaction.
SELECT CASE WHEN pg_catalog.pg_try_advisory_xact_lock({lock_key}) THEN 1 ELSE
    pg_catalog.concat('pgratchet: another run holds the migration lock (key ', {lock_key}, ')')::int END;

-- name: begin_migration
-- The first statement of a migration's transaction. A second runner waits here for the first one's transaction, and
-- then fails: the name is unique.
INSERT INTO {table} (name, checksum, run_id, backup_id, backup_waived, tool_version, body)
VALUES ({name}, {checksum}, {run_id}, {backup_id}, {backup_waived}, {tool_version}, {body});

-- name: finish_migration
-- The last statement of a migration's transaction. Asserts that the row of this migration was written by this very
-- transaction: a file that ended our transaction leaves an unfinished row and never a false finished one.
WITH finished AS (
    UPDATE {table}
    SET executed_at = pg_catalog.clock_timestamp(),
        duration_ms = pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - created_at) * 1000)
    WHERE name = {name} AND checksum = {checksum} AND xmin = pg_catalog.pg_current_xact_id()::xid
    RETURNING executed_at
)
SELECT CASE pg_catalog.count(executed_at) WHEN 1 THEN 1 ELSE pg_catalog.concat(
    'pgratchet: the history row of this migration is not the one that this run wrote (',
    pg_catalog.count(executed_at), ' rows finished)')::int END
FROM finished;

-- name: finish_repeatable
-- The last statement of a repeatable, with the same assertion. The rows of all repeatables of a transaction are inserted
-- at its beginning, so the time of the beginning is that of the message that holds the text.
WITH finished AS (
    UPDATE {table}
    SET created_at = pg_catalog.statement_timestamp(), executed_at = pg_catalog.clock_timestamp(),
        duration_ms = pg_catalog.round(
            extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) * 1000)
    WHERE name = {name} AND checksum = {checksum} AND xmin = pg_catalog.pg_current_xact_id()::xid
    RETURNING executed_at
)
SELECT CASE pg_catalog.count(executed_at) WHEN 1 THEN 1 ELSE pg_catalog.concat(
    'pgratchet: the history row of this migration is not the one that this run wrote (',
    pg_catalog.count(executed_at), ' rows finished)')::int END
FROM finished;

-- name: read_progress
-- How many statements of an unfinished migration without a transaction took effect.
SET LOCAL row_security = off;
SELECT statements_done, statement_begun, body, checksum
FROM {table}
WHERE name = {name} AND executed_at IS NULL;

-- name: begin_steps
-- Before the first statement of a migration without a transaction.
INSERT INTO {table} (name, checksum, run_id, backup_id, backup_waived, tool_version, body, statements_done)
VALUES ({name}, {checksum}, {run_id}, {backup_id}, {backup_waived}, {tool_version}, {body}, 0);

-- name: resume_steps
-- The row now belongs to this run. The statements that have not run may have changed since the row was written; the
-- progress, the time of the beginning and the role that began stay as they are.
UPDATE {table}
SET checksum = {checksum}, run_id = {run_id}, backup_id = coalesce({backup_id}, backup_id),
    backup_waived = {backup_waived}, tool_version = {tool_version}, body = {body}
WHERE name = {name} AND executed_at IS NULL;

-- name: record_step_begun
-- Before a statement that cannot share a transaction with its record; a null number after such a statement failed.
-- Asserts that the unfinished row still belongs to this run: after a lost connection another run may have resumed the
-- migration.
WITH updated AS (
    UPDATE {table} SET statement_begun = {number}
    WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
    RETURNING 1
)
SELECT CASE pg_catalog.count(*) WHEN 1 THEN 1 ELSE pg_catalog.concat(
    'pgratchet: this run has no unfinished history row of this migration (', pg_catalog.count(*), ' rows)')::int END
FROM updated;

-- name: record_step_done
-- In the transaction of a statement, or after a statement outside a transaction. The same assertion.
WITH updated AS (
    UPDATE {table} SET statements_done = {number}, statement_begun = NULL, body = coalesce({digest}, body)
    WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
    RETURNING 1
)
SELECT CASE pg_catalog.count(*) WHEN 1 THEN 1 ELSE pg_catalog.concat(
    'pgratchet: this run has no unfinished history row of this migration (', pg_catalog.count(*), ' rows)')::int END
FROM updated;

-- name: finish_steps
-- After the last statement of a migration without a transaction. No row if this run has no row to finish. A run that
-- resumed the migration gives its own duration: the time between the runs is no part of it.
UPDATE {table}
SET executed_at = clock_timestamp(),
    duration_ms = coalesce({duration_ms}, round(extract(epoch FROM clock_timestamp() - created_at) * 1000)),
    body = nullif(body, {digest})
WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
RETURNING duration_ms;

-- name: forget_untouched
-- Removes rows of migrations without a transaction that failed at their first statement: nothing of them took effect.
DELETE FROM {table}
WHERE name = ANY ({names}) AND executed_at IS NULL AND statements_done = 0 AND statement_begun IS NULL;

-- name: has_row
-- One row if the history has a row of that name, from any run.
SET LOCAL row_security = off;
SELECT 1 FROM {table} WHERE name = {name};

-- name: adopt
-- A migration that ran before this history existed: by another tool, or by hand.
INSERT INTO {table} (name, checksum, executed_at, duration_ms, run_id, tool_version, source, body)
VALUES ({name}, {checksum}, {moment}::timestamptz, {duration_ms}, {run_id}, {tool_version}, {source}, {body});

-- name: replace_adopted
-- Gives an adopted row the checksum and the text of the file that a person has written in its place.
UPDATE {table} SET checksum = {checksum}, body = {body} WHERE name = {name} AND source = {source};

-- name: forget_adopted
-- Removes adopted rows, which a baseline replaces.
DELETE FROM {table} WHERE name = ANY ({names}) AND source LIKE 'adopted:%';
