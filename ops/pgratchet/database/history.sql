-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema};

-- name: create_table
-- The ledger. executed_at is null while a migration is unfinished; body is the text that ran, up to 1 MB.
-- statements_done and statement_begun are for migrations without a transaction: how many of its statements
-- took effect, and the number of the one that was begun on its own and whose end is not known.
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
-- Whether the table is there, as a row or none, by the catalog.
SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = {schema_name} AND c.relname = {table_name};

-- name: read
-- Every row, oldest first; the moment as milliseconds since 1970, which no DateStyle of a database changes. One that is
-- not known, of a row that was adopted, is -infinity, and read as the first day that Python knows.
SELECT name, checksum, CASE WHEN isfinite(executed_at) THEN round(extract(epoch FROM executed_at) * 1000)::bigint
    WHEN executed_at = '-infinity' THEN -62135596800000 END, duration_ms, source
FROM {table}
ORDER BY id;

-- name: read_run
-- The rows of one run among some names, for verifying what was acknowledged.
SELECT name, checksum, round(extract(epoch FROM executed_at) * 1000)::bigint, duration_ms, source
FROM {table}
WHERE run_id = {run_id} AND name = ANY ({names})
ORDER BY id;

-- name: bodies
-- The texts that ran, for showing what changed.
SELECT name, body FROM {table} WHERE name = ANY ({names});

-- name: begin_migration
-- The first statement of a migration's transaction: a second runner waits here, and then fails on the name.
INSERT INTO {table} (name, checksum, run_id, backup_id, backup_waived, tool_version, body)
VALUES ({name}, {checksum}, {run_id}, {backup_id}, {backup_waived}, {tool_version}, {body});

-- name: finish_migration
-- The last one. It finds its row only in the transaction that wrote it, so a file that ended the transaction
-- under our feet leaves an unfinished row, never a false one. Unless exactly this row is finished by it, it fails
-- with a division by zero, and so rolls back.
WITH finished AS (
    UPDATE {table}
    SET executed_at = pg_catalog.clock_timestamp(),
        duration_ms = pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - created_at) * 1000)
    WHERE name = {name} AND checksum = {checksum} AND xmin = pg_catalog.pg_current_xact_id()::xid
    RETURNING executed_at
)
SELECT 1 / pg_catalog.count(executed_at) FROM finished;

-- name: progress
-- How far a migration without a transaction has come.
SELECT statements_done, statement_begun, body, checksum
FROM {table}
WHERE name = {name} AND executed_at IS NULL;

-- name: begin_steps
-- Before the first statement of a migration without a transaction.
INSERT INTO {table} (name, checksum, run_id, backup_id, backup_waived, tool_version, body, statements_done)
VALUES ({name}, {checksum}, {run_id}, {backup_id}, {backup_waived}, {tool_version}, {body}, 0);

-- name: resume_steps
-- The rest of it may have been changed since; what was done, and who began it when, stays.
UPDATE {table}
SET checksum = {checksum}, run_id = {run_id}, backup_id = coalesce({backup_id}, backup_id),
    backup_waived = {backup_waived}, tool_version = {tool_version}, body = {body}
WHERE name = {name} AND executed_at IS NULL;

-- name: step_begun
-- Before a statement that cannot share a transaction with its record; null when it is known to have failed.
-- This and what follows fails with a division by zero where the row is gone or another run has taken it up: one
-- whose line was cut may find that on its return.
WITH begun AS (
    UPDATE {table} SET statement_begun = {number}
    WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
    RETURNING 1
)
SELECT 1 / pg_catalog.count(*) FROM begun;

-- name: step_done
-- With the statement, or right behind it.
WITH done AS (
    UPDATE {table} SET statements_done = {number}, statement_begun = NULL
    WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
    RETURNING 1
)
SELECT 1 / pg_catalog.count(*) FROM done;

-- name: finish_steps
-- Behind the last statement.
UPDATE {table}
SET executed_at = clock_timestamp(),
    duration_ms = round(extract(epoch FROM clock_timestamp() - created_at) * 1000)
WHERE name = {name} AND run_id = {run_id} AND executed_at IS NULL
RETURNING duration_ms;

-- name: taken_up
-- Whether the row is there, whoever writes it.
SELECT 1 FROM {table} WHERE name = {name};

-- name: adopt
-- A migration that was run before this history was there, by another tool or by hand.
INSERT INTO {table} (name, checksum, executed_at, duration_ms, run_id, tool_version, source, body)
VALUES ({name}, {checksum}, {moment}::timestamptz, {duration_ms}, {run_id}, {tool_version}, {source}, {body});
