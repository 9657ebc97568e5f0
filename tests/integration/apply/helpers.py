"""Queries that several tests of this folder make."""

from __future__ import annotations

from tests.servers.databases import Database

NO_TRANSACTION = "-- migrate: no-transaction\n"


def last_row(database: Database) -> tuple[object, ...]:
    columns = "statements_done, statement_begun, executed_at IS NOT NULL"
    (row,) = database.rows(f"SELECT {columns} FROM ratchet.migrations ORDER BY id DESC LIMIT 1")
    return row


def index_state(database: Database, name: str) -> object:
    rows = database.rows("SELECT indisvalid, indexrelid::bigint FROM pg_index WHERE indexrelid = to_regclass(%s)", name)
    return rows[0][0] if rows else None


def count_working_sessions(database: Database) -> int:
    """The number of sessions of runs that execute a statement."""
    (row,) = database.rows(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'pgratchet' AND state = 'active' AND datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    return int(str(row[0]))
