"""The assertions of the history's queries, on every server."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pgratchet.database.history import History, RunColumns, failed_assertion
from pgratchet.database.simple_query import send
from pgratchet.migrations.files import read
from pgratchet.migrations.scripts import Script, prepare_scripts
from tests.servers.databases import Database

pytestmark = pytest.mark.every_major

HISTORY = History()
NO_ROW = "this run has no unfinished history row of this migration (0 rows)"


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "1_a.sql").write_text("select 1")
    return prepare_scripts(read(tmp_path))[0]


def failed_text(connection: psycopg.Connection, text: bytes) -> str | None:
    """The assertion that fails in a text; None when nothing fails."""
    error = send(connection, text).error
    if error is None:
        return None
    assert connection.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE
    assert error.diag.statement_position is None
    connection.execute("ROLLBACK")
    return failed_assertion(error)


def test_a_migration_finishes_only_the_row_that_its_own_transaction_wrote(database: Database, script: Script) -> None:
    with database.connect() as connection:
        HISTORY.create(connection)
        begin = HISTORY.begin_migration_query(connection, script, b"select 1", RunColumns("run"))
        finish = HISTORY.finish_migration_query(connection, script)
        missing = "the history row of this migration is not the one that this run wrote (0 rows finished)"
        assert failed_text(connection, b"BEGIN; " + finish) == missing
        assert failed_text(connection, b"BEGIN; %b; COMMIT; BEGIN; %b" % (begin, finish)) == missing
        connection.execute("DELETE FROM ratchet.migrations")
        assert failed_text(connection, b"BEGIN; %b; %b; COMMIT" % (begin, finish)) is None
        assert [row.name for row in HISTORY.read(connection) if row.executed_at] == ["1_a"]


def test_steps_are_recorded_only_in_the_unfinished_row_of_the_run(database: Database, script: Script) -> None:
    with database.connect() as connection:
        HISTORY.create(connection)
        HISTORY.begin_steps(connection, script, b"select 1", RunColumns("run"))
        HISTORY.record_step_begun(connection, "run", "1_a", 1)
        HISTORY.record_step_done(connection, "run", "1_a", 1)
        with pytest.raises(psycopg.Error) as caught:
            HISTORY.record_step_begun(connection, "other", "1_a", 1)
        assert failed_assertion(caught.value) == NO_ROW
        with pytest.raises(psycopg.Error) as caught:
            HISTORY.record_step_done(connection, "run", "2_b", 1)
        assert failed_assertion(caught.value) == NO_ROW
        HISTORY.finish_steps(connection, "run", "1_a")
        with pytest.raises(psycopg.Error) as caught:
            HISTORY.record_step_done(connection, "run", "1_a", 1)
        assert failed_assertion(caught.value) == NO_ROW


def test_the_lock_of_a_transaction_is_acquired_or_the_assertion_fails(database: Database) -> None:
    with database.connect() as connection, database.connect() as other:
        take = HISTORY.lock_transaction_query(connection)
        assert failed_text(connection, b"BEGIN; %b" % take) is None
        text = failed_text(other, b"BEGIN; %b" % take)
        assert text == f"another run holds the migration lock (key {HISTORY.lock_key})"
        connection.execute("COMMIT")
        assert failed_text(other, b"BEGIN; %b; COMMIT" % take) is None


@pytest.mark.parametrize("query", ["select 1 / 0", "select 'x'::text::int", "select 'pgratchet'::text::int", "selekt"])
def test_other_errors_are_not_failed_assertions(database: Database, query: str) -> None:
    with database.connect() as connection:
        error = send(connection, query.encode()).error
    assert error is not None
    assert failed_assertion(error) is None
