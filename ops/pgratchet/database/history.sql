-- Queries of the history table. {schema} and {table} are quoted names, other names in braces are literals. Names of
-- functions are qualified where a migration may have changed search_path before the query runs.
--
-- An assertion is a query that fails with SQLSTATE 22P02 and a message that begins with "pgratchet:": the cast of that
-- message to a number fails. pg_catalog.concat is not immutable, so the planner does not evaluate the cast early.

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema};

-- name: create_table
-- The history. executed_at is null for an unfinished migration. body is the text that ran, up to 1 MB.
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

-- name: read
-- All rows, oldest first. Times are milliseconds since 1970: the database's DateStyle does not change these. The time
-- of an adopted row can be -infinity, for unknown; the query returns the first day that Python can represent.
SELECT name, checksum, CASE WHEN isfinite(executed_at) THEN round(extract(epoch FROM executed_at) * 1000)::bigint
    WHEN executed_at = '-infinity' THEN -62135596800000 END, duration_ms, source
FROM {table}
ORDER BY id;

-- name: read_run
-- The rows of one run with the given names.
SELECT name, checksum, round(extract(epoch FROM executed_at) * 1000)::bigint, duration_ms, source
FROM {table}
WHERE run_id = {run_id} AND name = ANY ({names})
ORDER BY id;

-- name: read_bodies
-- The texts that ran, to show how a file has changed.
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

-- name: read_progress
-- How many statements of an unfinished migration without a transaction took effect.
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
    UPDATE {table} SET statements_done = {number}, statement_begun = NULL
    WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
    RETURNING 1
)
SELECT CASE pg_catalog.count(*) WHEN 1 THEN 1 ELSE pg_catalog.concat(
    'pgratchet: this run has no unfinished history row of this migration (', pg_catalog.count(*), ' rows)')::int END
FROM updated;

-- name: finish_steps
-- After the last statement of a migration without a transaction. No row if this run has no row to finish.
UPDATE {table}
SET executed_at = clock_timestamp(),
    duration_ms = round(extract(epoch FROM clock_timestamp() - created_at) * 1000)
WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
RETURNING duration_ms;

-- name: has_row
-- One row if the history has a row of that name, from any run.
SELECT 1 FROM {table} WHERE name = {name};

-- name: adopt
-- A migration that ran before this history existed: by another tool, or by hand.
INSERT INTO {table} (name, checksum, executed_at, duration_ms, run_id, tool_version, source, body)
VALUES ({name}, {checksum}, {moment}::timestamptz, {duration_ms}, {run_id}, {tool_version}, {source}, {body});
