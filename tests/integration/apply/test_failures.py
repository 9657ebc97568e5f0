"""Failing files: what is rolled back, what stays, and the location of the error."""

from __future__ import annotations

import psycopg
import pytest

from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.errors import (
    ConfigurationError,
    HistoryDisagrees,
    MigrationFailed,
    OutcomeUnknown,
    StoppedPartWay,
    Unreachable,
)
from tests.servers.databases import Database
from tests.support.migrations import HISTORY, WriteMigrations, history, migrate

pytestmark = pytest.mark.every_major

DEFERRED = (
    "create function f() returns trigger language plpgsql as"
    " $$ begin raise exception 'not so' using errcode = '21000'; end $$;"
    "create table d (); create constraint trigger c after insert on d deferrable initially deferred"
    " for each row execute function f(); insert into d default values"
)


OTHER_COUNT = "create schema s; create function s.count(timestamptz) returns bigint language sql as 'select 1::bigint';"


@pytest.mark.parametrize("batch_size", [1, 10])
def test_a_failing_file_is_rolled_back_and_earlier_files_stay(
    database: Database, write: WriteMigrations, batch_size: int
) -> None:
    files = write(
        m1_a="create table a (x int primary key);",
        m2_b="create table b ();\ninsert into a values (1);\n  insert into a values (1);",
        m3_c="create table c ()",
    )
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files, batch_size=batch_size)
    error = caught.value
    assert error.message.startswith("migration 2_b failed at line 3, column 3: duplicate key")
    assert "1_a was applied; 2_b was rolled back." in error.detail
    assert error.location is not None
    assert (error.location.line, error.location.column, error.location.sqlstate) == (3, 3, "23505")
    assert history(database) == [("1_a", True)]
    assert database.rows("SELECT to_regclass('b'), to_regclass('c')") == [(None, None)]
    assert migrate(database, write(m2_b="create table b ()")).applied == ["2_b", "3_c"]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_files_before_a_syntax_error_are_applied(database: Database, write: WriteMigrations, batch_size: int) -> None:
    """The server parses a whole message before it runs any of it."""
    files = write(m9_a="create table a ()", m10_b="-- ä😀\n\n create tabel b ();", m11_c="create table c ()")
    with pytest.raises(MigrationFailed, match=r"10_b failed at line 3, column 9: syntax error") as caught:
        migrate(database, files, batch_size=batch_size)
    assert caught.value.detail == "9_a was applied; 10_b was rolled back."
    assert history(database) == [("9_a", True)]


def test_an_unfinished_statement_is_located_at_its_end(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(MigrationFailed, match="line 1, column 15: syntax error"):
        migrate(database, write(m1_a="create table a"))


def test_an_error_inside_a_function_is_located_at_its_call(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="select 1;\ndo $$ begin\n perform nothing(); end $$;")
    with pytest.raises(MigrationFailed, match="1_a failed at line 2, column 1") as caught:
        migrate(database, files)
    assert "PL/pgSQL function" in caught.value.detail


def test_a_deferred_constraint_fails_at_commit_and_rolls_back(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a="create table p (x int primary key); create table c (x int references p deferrable initially deferred)",
        m2_b="insert into c values (1)",
    )
    with pytest.raises(MigrationFailed, match="migration 2_b failed: insert or update on table"):
        migrate(database, files)
    assert history(database) == [("1_a", True)]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("select nothing", "Fix "),
        ("select 1 / 0", "Fix "),
        (DEFERRED, "Fix "),
        (DEFERRED.replace("21000", "23000"), "Fix "),
        (DEFERRED.replace("21000", "22012"), "Fix "),
        (DEFERRED.replace("21000", "22P02"), "Fix "),
        ("select x::int from (values (random()::text || 'x')) as v (x)", "Fix "),
        ("do $$ begin raise exception 'x' using errcode = '58030'; end $$", "Fix "),
        ("set local statement_timeout = 20; select pg_sleep(5)", "Give it time with `-- migrate: statement-timeout=5"),
        ("delete from ratchet.migrations where name = '3_c'", "It must leave its own row of the history"),
        ("select pg_terminate_backend(pg_backend_pid())", "The connection was lost, which need not be the fault of"),
    ],
)
def test_a_failure_has_a_hint_and_names_what_stays(
    database: Database, write: WriteMigrations, text: str, advice: str
) -> None:
    files = write(m1_a="select 1", m2_b="select 2", m3_c=text)
    with pytest.raises(MigrationFailed, match="migration 3_c failed") as caught:
        migrate(database, files)
    assert caught.value.hint.startswith(advice)
    assert f" {files[2].path}; then run `invoke migrate` again." in caught.value.hint
    assert caught.value.detail.endswith("1_a and 2_b were applied; 3_c was rolled back.")


def test_a_changed_file_is_shown_as_a_difference(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a ();\n"))
    with pytest.raises(HistoryDisagrees) as caught:
        migrate(database, write(m1_a="create table b ();\n"))
    assert "-create table a ();\n+create table b ();" in caught.value.detail


def test_a_file_that_cannot_run_is_refused_before_lock_and_backup(database: Database, write: WriteMigrations) -> None:
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="cannot be run"):
        migrate(database, write(m1_a="create table a ()", m2_b="select 1; commit"))
    assert database.fingerprint() == before


def test_a_read_only_session_is_refused(database: Database, write: WriteMigrations) -> None:
    database.run(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        database.run("create table shown_to_fail ()")
    assert database.rows("SELECT pg_try_advisory_lock(1)") == [(True,)], "the lock could be had"
    before = database.fingerprint()
    stream = applier.migrate(database.connect, HISTORY, write(m1_a="create table a ()"), None, MigrateOptions("run"))
    with pytest.raises(ConfigurationError, match="is read-only"):
        next(stream)
    assert database.fingerprint() == before


def test_a_server_other_than_the_pinned_one_is_refused(database: Database, write: WriteMigrations) -> None:
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="not on the server") as caught:
        migrate(database, write(m1_a="create table a ()"), pinned_identifier="1")
    assert database.fingerprint() == before
    ((own,),) = database.rows("SELECT system_identifier::text FROM pg_control_system()")
    assert str(own) in caught.value.detail
    assert migrate(database, write(), pinned_identifier=str(own)).applied == ["1_a"]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_a_connection_lost_during_a_migration_is_resolved_from_the_history(
    database: Database, write: WriteMigrations, batch_size: int
) -> None:
    """The backend terminates itself inside the second file. That file is rolled back, and the first stays."""
    files = write(m1_a="create table a ()", m2_b="create table b (); select pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(MigrationFailed, match="2_b failed") as caught:
        migrate(database, files, wait=5000, batch_size=batch_size)
    assert "1_a was applied; 2_b was rolled back" in caught.value.detail
    assert history(database) == [("1_a", True)]
    assert database.locks() == []


def test_an_outcome_is_unknown_while_the_server_is_unreachable(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a (); select pg_terminate_backend(pg_backend_pid())")
    first: list[bool] = []

    def connect() -> psycopg.Connection:
        if first:
            raise Unreachable("gone", hint="None.")
        first.append(True)
        return database.connect()

    with pytest.raises(OutcomeUnknown, match="whether 1_a took effect is unknown"):
        list(applier.migrate(connect, HISTORY, files, None, MigrateOptions("run", wait=600)))


@pytest.mark.parametrize(
    "text",
    [
        "delete from ratchet.migrations where name = '1_a'",
        "update ratchet.migrations set checksum = 'x' where name = '1_a'",
        "savepoint s; update ratchet.migrations set body = null where name = '1_a'; release s",
        OTHER_COUNT + "set search_path = s, pg_catalog; delete from ratchet.migrations",
    ],
)
def test_a_file_that_changes_its_own_row_is_rolled_back(database: Database, write: WriteMigrations, text: str) -> None:
    files = write(m1_a=f"create table a ();\n{text}")
    with pytest.raises(MigrationFailed, match="1_a failed") as caught:
        migrate(database, files)
    assert caught.value.message == (
        "migration 1_a failed: the history row of this migration is not the one that this run wrote (0 rows finished)"
    )
    assert "leave its own row of the history" in caught.value.hint
    assert history(database) == []
    assert database.rows("SELECT to_regclass('a')") == [(None,)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "create schema zoo; create table zoo.t (x int primary key); insert into zoo.t values (1), (1)",
            "duplicate key",
        ),
        ("create table a (x int primary key); insert into a values (1), (1)", "duplicate key"),
        ("update ratchet.migrations set checksum = null where name = '2_b'", "null value in column"),
        ("alter table ratchet.migrations add check (name <> '2_b')", "check constraint"),
    ],
)
def test_only_a_duplicate_name_in_the_history_shows_another_run(
    database: Database, write: WriteMigrations, text: str, reason: str
) -> None:
    files = write(m1_a="select 1", m2_b=text, m3_c="select 3")
    with pytest.raises(MigrationFailed, match=f"migration 2_b failed.*: .*{reason}"):
        migrate(database, files)
    assert history(database) == [("1_a", True)]


def test_a_file_that_inserts_the_row_of_the_next_is_detected(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a="insert into ratchet.migrations (name, checksum, run_id, tool_version, executed_at)"
        " values ('2_b', 'fake', 'r', 't', now())",
        m2_b="create table b ()",
    )
    with pytest.raises(HistoryDisagrees, match="1 migration"):
        migrate(database, files)


def test_a_file_that_ends_the_transaction_is_never_called_rolled_back(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the lexer had missed the COMMIT: the row of the history still shows it."""
    monkeypatch.setattr("pgratchet.migrations.classify.transaction_control", lambda _: None)
    files = write(m1_a="create table half (); commit; select 1 / 0")
    with pytest.raises(StoppedPartWay, match="1_a ended its own transaction"):
        migrate(database, files)
    assert database.rows("SELECT to_regclass('half') IS NULL") == [(False,)]
    assert history(database) == [("1_a", False)]
    files = write(m1_a="create table half (); commit; select 1", m2_b="create table b ()")
    with pytest.raises(HistoryDisagrees):
        migrate(database, files)


def test_additional_results_of_a_rule_do_not_move_an_error(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a="create table a (x int); create table l (x int);"
        "create rule r as on insert to a do also (select 1; insert into l values (new.x); select 2);"
        + "insert into a values (1);"
        * 12,
        m2_b="create table p (x int primary key); insert into p values (1); insert into p values (1)",
        m3_c="create table c ()",
    )
    with pytest.raises(MigrationFailed, match=r"2_b failed.*duplicate key"):
        migrate(database, files)
    assert history(database) == [("1_a", True)]


def test_a_role_without_privileges_is_refused_with_a_hint(database: Database, write: WriteMigrations) -> None:
    database.run(
        "DO $$ BEGIN CREATE ROLE no_rights LOGIN PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    weak = Database({**database.parameters, "user": "no_rights", "password": "x"})
    before = database.fingerprint()
    with pytest.raises(MigrationFailed, match="the server refused what the history needs: permission denied") as caught:
        migrate(weak, write(m1_a="select 1"))
    assert caught.value.hint
    assert database.fingerprint() == before
