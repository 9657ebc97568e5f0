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
    assert "/2_b.sql:3:24: duplicate key" in error.message
    assert "1_a was applied; 2_b was rolled back." in error.detail
    assert error.location is not None
    assert (error.location.line, error.location.column, error.location.sqlstate) == (3, 24, "23505")
    assert history(database) == [("1_a", True)]
    assert database.rows("SELECT to_regclass('b'), to_regclass('c')") == [(None, None)]
    assert migrate(database, write(m2_b="create table b ()")).applied == ["2_b", "3_c"]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_files_before_a_syntax_error_are_applied(database: Database, write: WriteMigrations, batch_size: int) -> None:
    """The server parses a whole message before it runs any of it."""
    files = write(m9_a="create table a ()", m10_b="-- ä😀\n\n create tabel b ();", m11_c="create table c ()")
    with pytest.raises(MigrationFailed, match=r"10_b\.sql:3:9: syntax error") as caught:
        migrate(database, files, batch_size=batch_size)
    assert caught.value.detail == "9_a was applied; 10_b was rolled back."
    assert history(database) == [("9_a", True)]


def test_an_unfinished_statement_is_located_at_its_end(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(MigrationFailed, match=":1:15: syntax error"):
        migrate(database, write(m1_a="create table a"))


def test_an_error_inside_a_function_is_located_at_its_line(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="select 1;\ndo $$ begin\n perform nothing(); end $$;")
    with pytest.raises(MigrationFailed, match=r"1_a\.sql:3:2: function nothing") as caught:
        migrate(database, files)
    assert "PL/pgSQL function" in caught.value.detail


FUNCTION = "create function f() returns int language plpgsql as $$\nbegin\n  %s\nend $$;"
ROWS = ",\n".join(f"({number}, 'name {number}')" for number in range(1, 40))


@pytest.mark.parametrize("directive", ["", "-- migrate: no-transaction"])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (FUNCTION % "RETUN 1;", "4:3"),
        (FUNCTION % "perform 1\n  return 1;", "5:10"),
        (FUNCTION % "perform (1 + 2;\n  return 1;", "4:17"),
        (FUNCTION % "return nothing +;", "4:19"),
        ("create procedure p() language plpgsql as $b$\nbegin\n  -- é\n  selct 1;\nend $b$;", "5:3"),
        ("create function f() returns trigger language plpgsql as '\nbegin\n  RETUN new;\nend';", "4:3"),
        ("create function f() returns bigint language sql as $$\nselect count(*)\n  from nothing $$;", "4:8"),
        ("create table t (); create function f() returns int language sql as $$\nselect x\nfrom t $$;", "3:8"),
        ("create procedure p() language sql as $$\n insert into nothing values ('a') $$;", "3:14"),
        ("do $$\nbegin\n  perfrm 1;\nend $$;", "4:3"),
        (f"create table t (x int, y text check (length(y) < 7)); insert into t values\n{ROWS};", "12:1"),
        (f"create table t (x int primary key, y text); insert into t (x, y) values\n{ROWS},\n(7, 'x');", "42:1"),
    ],
    ids=range(12),
)
def test_errors_in_code_and_rows_are_located_in_long_statements(
    database: Database, write: WriteMigrations, directive: str, text: str, place: str
) -> None:
    """The server gives no position in the text: the code is there twice, in the file and in the history's row."""
    with pytest.raises((MigrationFailed, StoppedPartWay)) as caught:
        migrate(database, write(m1_a=f"{directive}\n{text}"))
    assert f"1_a.sql:{place}: " in caught.value.message


def test_the_lines_of_a_long_statement_without_a_position_are_named(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=f"create table t (x int, y varchar(6));\ninsert into t values\n{ROWS};")
    with pytest.raises(MigrationFailed, match=r"1_a\.sql:2:1, in the statement of lines 2 to 41: value too long"):
        migrate(database, files)


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
        (
            "set local statement_timeout = 20; select pg_sleep(5)",
            "Allow more time with `-- migrate: statement-timeout=5",
        ),
        ("delete from ratchet.migrations where name = '3_c'", "Remove what changes the history table"),
        ("select pg_terminate_backend(pg_backend_pid())", "Find the reason in the server's log, and check"),
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
    with pytest.raises(ConfigurationError, match="another cluster") as caught:
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

    with pytest.raises(OutcomeUnknown, match="unknown whether 1_a took effect"):
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
    assert "Remove what changes the history table" in caught.value.hint
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
    with pytest.raises(MigrationFailed, match="refused to create or change the history: permission denied") as caught:
        migrate(weak, write(m1_a="select 1"))
    assert caught.value.hint
    assert database.fingerprint() == before


ALONE = "Put the line `-- migrate: no-transaction` above all statements of"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("create subscription s connection 'host=/nowhere' publication p", ALONE),
        ("do $$ begin create table half (); commit; end $$", ALONE),
        ("do $$ begin create table half (); rollback; end $$", ALONE),
        ("call commits()", ALONE),
        ("do $$ begin execute 'vacuum'; end $$", "Take the statement out of its function or DO block"),
        ("alter type mood add value 'sad'; select 'sad'::mood", "Move what uses the new value to a later migration"),
    ],
)
def test_an_error_about_the_transaction_names_the_remedy(
    database: Database, write: WriteMigrations, text: str, hint: str
) -> None:
    database.run("CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; CREATE TYPE mood AS ENUM ('ok')")
    before = database.fingerprint()
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, write(m1_a=f"create table a ();\n{text}"))
    assert caught.value.hint.startswith(hint)
    assert caught.value.hint.endswith("1_a.sql; then run `invoke migrate` again.")
    assert {row for row in database.fingerprint() if "ratchet" not in row} >= set(before)
    assert database.rows("SELECT to_regclass('a'), to_regclass('half')") == [(None, None)]
    assert history(database) == []


@pytest.mark.parametrize(
    "text", ["do $$ begin create table half (); commit; end $$", "call commits()", "cluster verbose"]
)
def test_a_file_that_follows_the_remedy_is_applied(database: Database, write: WriteMigrations, text: str) -> None:
    database.run("CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'")
    assert migrate(database, write(m1_a=f"-- migrate: no-transaction\n{text}")).applied == ["1_a"]


_POINTS = {
    "alter table a\n  add column n int,\n  add check (x > 1)": (3, 7),
    "alter table a\n  add column n int,\n  add constraint big check (x > 1)": (3, 18),
    "alter table a\n  add column n int,\n  alter column t type int using t::int": (3, 34),
    "alter table a\n  add column n int,\n  drop column emial": (3, 15),
    "create table b (\n  x int,\n  y numeric(1, 2)\n;\ncreate table c ()": (1, 16),
    "do $$\nbegin\n  perform 1;\n  execute 'select 1/0';\nend $$": (4, 3),
    "select 1;\nselect '名前',\temial": (2, 14),
}


def test_an_error_points_at_its_line_inside_a_long_statement(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a (x int, t text); insert into a values (1, 'b')"))
    before = database.fingerprint()
    for text, place in _POINTS.items():
        files = write(m2_b=text + "\n;\nselect 1;\n")
        with pytest.raises(MigrationFailed) as caught:
            migrate(database, files)
        location = caught.value.location
        assert location is not None
        assert (location.line, location.column) == place, text
        assert location.before + location.after == text.split("\n")[place[0] - 1]
        assert caught.value.message.startswith(f"migration 2_b failed at {files[1].path}:{place[0]}:{place[1]}: ")
    assert database.fingerprint() == before


def test_an_error_without_a_transaction_points_at_its_line(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a="create table a (x int); insert into a values (1)",
        m2_b="-- migrate: no-transaction\nalter table a\n  add column n int,\n  add check (x > 1);",
    )
    with pytest.raises(StoppedPartWay, match=r"stopped at statement 1 of 1, .*2_b\.sql:4:7: check constraint"):
        migrate(database, files)


_MISSING = {
    "create extension nothing": "SELECT * FROM pg_available_extensions",
    "grant select on a to nobody_here": 'CREATE ROLE "nobody_here"',
    "create table nowhere.b ()": 'Create the schema "nowhere"',
}


def test_what_the_server_lacks_is_not_called_a_mistake_of_the_file(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a ()"))
    for text, advice in _MISSING.items():
        with pytest.raises(MigrationFailed) as caught:
            migrate(database, write(m2_b=text))
        assert advice in caught.value.hint
        assert "Fix" not in caught.value.hint
        assert "inventory" not in caught.value.hint
        with pytest.raises(StoppedPartWay) as stopped:
            migrate(database, write(m2_b=f"-- migrate: no-transaction\n{text}"))
        assert advice in stopped.value.hint
        database.rows("DELETE FROM ratchet.migrations WHERE name = '2_b' RETURNING name")
