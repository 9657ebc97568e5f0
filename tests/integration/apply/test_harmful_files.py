"""Harmful files. Each is sent unchecked first, to show the harm, and then as a migration."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from pgratchet.database import simple_query
from pgratchet.database.session import Session
from pgratchet.database.simple_query import Answer
from pgratchet.errors import ConfigurationError, MigrationFailed, StoppedPartWay
from pgratchet.migrations import files as migrations
from pgratchet.migrations.scripts import SIZE_LIMIT
from tests.servers.clusters import Clusters
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, history, migrate

HEAD = "-- migrate: no-transaction\n"
LARGE = "select 1;\n" * (SIZE_LIMIT // 10 + 100)
"""With this in front of it a file travels in windows."""
WAYS = {"in a batch": "", "in windows": LARGE, "by steps": HEAD}


def raw(database: Database, text: str | bytes) -> str | None:
    """Send the text unchecked, as one string. Returns the SQLSTATE of an error."""
    with closing(database.connect()) as session:
        error = simple_query.send(session, text if isinstance(text, bytes) else text.encode()).error
    return error.sqlstate if error else None


def exists(database: Database, name: str) -> bool:
    return database.rows("SELECT to_regclass(%s) IS NOT NULL", name) == [(True,)]


def refused(database: Database, folder: Path, content: bytes) -> str:
    """Check that a second file with this content is refused and the first has not run. Returns the error."""
    (folder / "1_a.sql").write_text("create table a ()")
    (folder / "2_b.sql").write_bytes(content)
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match=": 1 mistake") as caught:
        migrate(database, migrations.read(folder))
    assert database.fingerprint() == before
    return caught.value.detail


@pytest.mark.parametrize("way", WAYS)
def test_a_commit_is_refused_with_its_line(database: Database, sql_folder: Path, way: str) -> None:
    for text in ("commit", "COMMIT WORK", "commit and chain", "end transaction", "/* ; */ cOmMiT"):
        assert raw(database, f"begin; create table half (); {text}; select 1 / 0") == "22012"
        assert exists(database, "half"), f"{text}: what failed behind it does not take back what it committed"
        database.run("drop table half")
        message = refused(database, sql_folder, f"{WAYS[way]}create table half ();\n  {text};\nselect 1 / 0".encode())
        line, column = 2 + WAYS[way].count("\n"), 11 if "/" in text else 3
        assert f"2_b.sql:{line}:{column}: {text.split()[-1 if '/' in text else 0].upper()} in a m" in message


def test_a_rollback_is_refused_with_its_line(database: Database, sql_folder: Path) -> None:
    for text in ("rollback", "ABORT", "rollback work and chain"):
        assert raw(database, f"begin; create table lost (); {text}; create table kept (); commit") is None
        assert (exists(database, "lost"), exists(database, "kept")) == (False, True), f"{text}: half is gone, unsaid"
        database.run("drop table kept")
        message = refused(database, sql_folder, f"create table lost ();\n  {text};\nselect 1".encode())
        assert f"2_b.sql:2:3: {text.split()[0].upper()} in a migration." in message


def test_a_begin_is_refused_with_its_line(database: Database, sql_folder: Path) -> None:
    for text in ("begin", "start transaction"):
        with closing(database.connect()) as session:
            assert simple_query.send(session, f"create table half (); {text}; select 1".encode()).error is None
            assert session.info.transaction_status == TransactionStatus.INTRANS, "left open, with what came before"
        assert not exists(database, "half")
        message = refused(database, sql_folder, f"select 1;\n{text}".encode())
        assert f"2_b.sql:2:1: {text.upper()} in a migration." in message


@pytest.fixture
def database_with_prepared_transactions(database: Database, clusters: Clusters) -> Iterator[Database]:
    """The database if its server allows prepared transactions; otherwise a database on another server."""
    if database.rows("SHOW max_prepared_transactions") != [("0",)]:
        yield database
        return
    cluster = clusters.make("preparing", max_prepared_transactions="5")
    yield cluster.database


def test_a_prepare_transaction_is_refused_with_its_line(
    database_with_prepared_transactions: Database, sql_folder: Path
) -> None:
    assert (
        raw(
            database_with_prepared_transactions,
            "begin; create table half (); prepare transaction 'orphan'; select 1 / 0",
        )
        == "22012"
    )
    assert database_with_prepared_transactions.rows("SELECT gid FROM pg_prepared_xacts") == [("orphan",)]
    for text in ("prepare transaction 'mine'", "commit prepared 'orphan'", "rollback prepared 'orphan'"):
        message = refused(database_with_prepared_transactions, sql_folder, f"create table half ();\n  {text}".encode())
        assert "2_b.sql:2:3: " in message
    assert database_with_prepared_transactions.rows("SELECT gid FROM pg_prepared_xacts") == [("orphan",)]
    database_with_prepared_transactions.run("ROLLBACK PREPARED 'orphan'")


LOOK_ALIKES = {
    "a line comment": "-- ; COMMIT; PREPARE TRANSACTION 'x';\nselect 1",
    "a comment in a comment": "/* ; COMMIT; /* ROLLBACK; */ END; */ select 1",
    "a string": "select '; COMMIT; ''; ROLLBACK; '",
    "a string with backslashes": "select '\\', '; COMMIT; '",
    "a string with escapes": "select E'\\'; COMMIT; --', U&'\\0041; END; '",
    "a string in two lines": "select 'a'\n'; COMMIT; '",
    "dollar quotes": "select $$; COMMIT; $a$; ROLLBACK; $$, $a$; END; $$; COMMIT; $a$",
    "a quoted name": 'create table "; COMMIT; ""; END; " ()',
    "names": 'create table commit (rollback int, "end" int); select rollback as begin from commit',
    "the body of a function": "create function f() returns int begin atomic select 1; select 2; end",
    "the body of a procedure": "create procedure p() language plpgsql as 'begin commit; rollback; end'",
    "a block": "do $$ begin if false then commit; end if; end $$",
    "an expression": "select case when true then 1 end",
    "a statement's name": "prepare transaction_ as select 1; prepare commit as select 1; execute commit",
    "a savepoint": "savepoint s; create table undone (); rollback to savepoint s; release savepoint s",
}


@pytest.mark.parametrize("way", ["in a batch", "in windows"])
def test_texts_similar_to_transaction_control_are_applied(database: Database, write: WriteMigrations, way: str) -> None:
    identity = "SELECT pg_current_xact_id()::text"
    for kind, text in LOOK_ALIKES.items():
        with closing(database.connect()) as session:
            session.execute("BEGIN")
            before = session.execute(identity).fetchone()
            assert simple_query.send(session, text.encode()).error is None, kind
            assert session.execute(identity).fetchone() == before, f"{kind}: the server stays in its transaction"
    texts = list(LOOK_ALIKES.values()) if way == "in a batch" else [LARGE + ";\n".join(LOOK_ALIKES.values())]
    files = {
        f"m{number}_x": f"create table first_{number} ();\n{text};\ncreate table last_{number} ()"
        for number, text in enumerate(texts, start=1)
    }
    assert len(migrate(database, write(**files)).applied) == len(files)
    query = "SELECT count(*), count(DISTINCT xmin::text) FROM pg_class WHERE relname ~ '^(first|last)_'"
    assert database.rows(query) == [(2 * len(files), len(files))]
    assert not exists(database, "undone")


def test_rows_similar_to_transaction_control_are_rows(database: Database, write: WriteMigrations) -> None:
    rows = "COMMIT;\n; ROLLBACK;\n'; END; '\n"
    files = write(m1_a=f"create table t (x text);\ncopy t from stdin;\n{rows}\\.\n\nselect 1")
    assert migrate(database, files).applied == ["1_a"]
    assert database.rows("SELECT x FROM t") == [(row,) for row in rows.splitlines()]


SMUGGLED = (
    "select set_config('standard_conforming_strings', 'off', false);\n{large}create table half ();\n"
    "select '\\'' ; commit; -- '"
)


def test_a_setting_of_a_file_does_not_make_a_commit_of_its_text(database: Database, write: WriteMigrations) -> None:
    with closing(database.connect()) as session:
        for text in ("begin; set standard_conforming_strings = off", SMUGGLED.partition("{large}")[2]):
            assert simple_query.send(session, text.encode()).error is None
        assert session.info.transaction_status == TransactionStatus.IDLE, "there it is a COMMIT"
    database.run("drop table half")
    assert migrate(database, write(m1_a=SMUGGLED.format(large=LARGE))).applied == ["1_a"]
    rows = "SELECT count(DISTINCT xmin::text) FROM pg_class WHERE relname = 'half'"
    assert database.rows(rows) == [(1,)]


def test_a_text_that_the_server_splits_differently_is_never_called_applied(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a pooler did not report settings. The row of the history shows the difference."""
    monkeypatch.setattr(Session, "_restore_text_settings", lambda _: None)
    with pytest.raises(StoppedPartWay, match="1_a ended its own transaction"):
        migrate(database, write(m1_a=SMUGGLED.format(large=LARGE)))
    assert history(database) == [("1_a", False)]


def test_a_commit_that_answers_rollback_is_never_called_applied(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a proxy had hidden an error."""
    with closing(database.connect()) as session:
        assert simple_query.send(session, b"begin; create table half (); select 1 / 0").error is not None
        answer = simple_query.send(session, b"commit")
        assert answer.error is None
        assert answer.results[-1].command_status == b"ROLLBACK"
    swallowed: list[psycopg.Error] = []
    real = simple_query.send_migration

    def swallow(session: psycopg.Connection, text: bytes, *more: Any) -> Generator[Any, None, Answer]:
        answer = yield from real(session, text, *more)
        if b"1 / 0" not in text or answer.error is None:
            return answer
        swallowed.append(answer.error)
        return Answer(answer.results, None)

    monkeypatch.setattr(simple_query, "send_migration", swallow)
    with pytest.raises(MigrationFailed, match="1_a failed"):
        migrate(database, write(m1_a=f"create table half ();\n{LARGE}select 1 / 0", m2_b="create table b ()"))
    assert [error.sqlstate for error in swallowed] == ["22012"]
    assert history(database) == []
    assert not exists(database, "half")
    assert not exists(database, "b")


CAUGHT = "do $$ begin create table gone (); perform 1 / 0; exception when division_by_zero then null; end $$"


@pytest.mark.parametrize("way", WAYS)
def test_an_error_that_the_file_catches_is_not_an_error_of_the_run(
    database: Database, write: WriteMigrations, way: str
) -> None:
    """The effects of the block are undone, and the COMMIT succeeds."""
    assert raw(database, f"begin; {CAUGHT}; create table kept (); commit") is None
    assert (exists(database, "gone"), exists(database, "kept")) == (False, True)
    database.run("drop table kept")
    assert migrate(database, write(m1_a=f"{WAYS[way]}{CAUGHT};\ncreate table kept ()")).applied == ["1_a"]
    assert (exists(database, "gone"), exists(database, "kept")) == (False, True)
    assert history(database) == [("1_a", True)]


def test_a_nul_byte_is_located(database: Database, sql_folder: Path) -> None:
    half, large = b"create table half ();\n", LARGE.encode()
    for content, place in (
        (half + b"\0select 1 / 0", "byte 23 (line 2)"),
        (half + b"-- a\0b\nselect 1 / 0", "byte 27 (line 2)"),
        (half + large + b"\0", f"byte {23 + len(large)} (line {2 + LARGE.count(chr(10))})"),
    ):
        assert raw(database, content) is None, "what is behind it is not even sent"
        assert exists(database, "half"), "and what is before it has run"
        database.run("drop table half")
        message = refused(database, sql_folder, content)
        assert f"2_b.sql: a NUL byte at {place}, which PostgreSQL cannot store" in message


def test_a_text_that_the_server_refuses_is_named_with_its_line(database: Database, sql_folder: Path) -> None:
    for content, state, message in (
        (b"select 1;\nselect\xc2\xa01 + 1;", "42601", ":2:7: an invisible character, U+00A0"),
        (b"select 1;\n  \\d t", "42601", ":2:3: a psql meta-command"),
        (b"\\restrict x\nselect 1", "42601", ":1:1: a psql meta-command"),
        (b"select 1;\n-- caf\xe9", "22021", "not UTF-8: byte 0xe9 at byte 17 (line 2)"),
        ("select 1".encode("utf-16"), "22021", "the file is UTF-16. Save it as UTF-8."),
        (b"select 1;\nselect 'a", "42601", ":2:8: unterminated quoted string"),
        (b"select 1;\nvacuum", "25001", ":2:1: VACUUM cannot run inside a transaction"),
    ):
        assert raw(database, b"begin;" + content) == state, content
        assert message in refused(database, sql_folder, content)


@pytest.mark.parametrize("text", ["copy t from stdin", "copy t to stdout"])
def test_a_failing_copy_leaves_no_connection_waiting_for_rows(
    database: Database, sql_folder: Path, write: WriteMigrations, text: str
) -> None:
    database.run("create table t (x int)")
    with closing(database.connect()) as session:
        session.pgconn.exec_(text.encode())
        assert session.info.transaction_status == TransactionStatus.ACTIVE
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    assert "2_b.sql:2:1: " in refused(database, sql_folder, f"select 1;\n{text}".encode())
    dynamic = f"do $$ begin execute '{text}'; end $$"
    with pytest.raises(MigrationFailed, match=r"2_b\.sql:2:4: cannot COPY"):
        migrate(database, write(m2_b=f"create table half ();\n{dynamic}"))
    assert history(database) == [("1_a", True)]
    assert not exists(database, "half")
    assert migrate(database, write(m2_b="select 1")).applied == ["2_b"]


def test_byte_order_mark_and_windows_line_ends_are_harmless(database: Database, sql_folder: Path) -> None:
    text = "create table t as select 'x\r\ny'::text as x;\r\n"
    assert raw(database, b"\xef\xbb\xbf" + text.encode()) == "42601"
    assert raw(database, text) is None
    assert database.rows("SELECT x FROM t") == [("x\r\ny",)], "the file of another checkout would make another table"
    database.run("drop table t")
    (sql_folder / "1_a.sql").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert migrate(database, migrations.read(sql_folder)).applied == ["1_a"]
    assert database.rows("SELECT x FROM t") == [("x\ny",)]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_file_of_200_megabytes_is_one_transaction(database: Database, sql_folder: Path) -> None:
    row = f"1\t{'x' * 997}\n"
    with (sql_folder / "1_a.sql").open("w") as file:
        file.write("create unlogged table t (a int, b text);\ncopy t from stdin;\n")
        file.writelines(row for _ in range(200_000))
        file.write("\\.\n")
    assert migrate(database, migrations.read(sql_folder), statement_timeout=0).applied == ["1_a"]
    assert database.rows("SELECT count(*), count(DISTINCT xmin::text) FROM t") == [(200_000, 1)]


LEAKS = {
    "search_path": ("set search_path = ''", "current_setting('search_path')"),
    "a dump's search_path": ("select set_config('search_path', '', false)", "current_setting('search_path')"),
    "role": ("set role someone", "current_user::text"),
    "authorization": ("set session authorization someone", "session_user::text"),
    "replica": ("set session_replication_role = replica", "current_setting('session_replication_role')"),
    "read only": ("set default_transaction_read_only = on", "current_setting('transaction_read_only')"),
    "isolation": ("set default_transaction_isolation = serializable", "current_setting('transaction_isolation')"),
    "a timeout": ("set statement_timeout = '1h'", "current_setting('statement_timeout')"),
    "row security": ("set row_security = off", "current_setting('row_security')"),
    "a time zone": ("set timezone = 'Asia/Kathmandu'", "current_setting('timezone')"),
    "a setting of its own": (
        "select set_config('my.own', 'x', false)",
        "coalesce(current_setting('my.own', true), '')",
    ),
    "a table": ("create temp table probed (x int)", "coalesce(to_regclass('probed')::text, '')"),
    "a statement": ("prepare p as select 1", "(select count(*)::text from pg_catalog.pg_prepared_statements)"),
    "a cursor": ("declare c cursor with hold for select 1", "(select count(*)::text from pg_catalog.pg_cursors)"),
    "a channel": ("listen c", "(select count(*)::text from pg_catalog.pg_listening_channels())"),
}


@pytest.mark.parametrize("way", ["in a batch", "alone", "by steps"])
def test_session_state_reaches_neither_the_next_file_nor_the_history(
    database: Database, write: WriteMigrations, way: str
) -> None:
    database.run("DO $$ BEGIN CREATE ROLE someone NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    expected, files = [], {}
    for number, (leak, probe) in enumerate(LEAKS.values(), start=1):
        with closing(database.connect()) as session:
            session.execute("SET statement_timeout = '30s'")  # what a run sets for a migration
            before = session.execute(f"SELECT {probe}".encode()).fetchone()
            assert simple_query.send(session, f"begin; {leak}; commit".encode()).error is None
            assert session.execute(f"SELECT {probe}".encode()).fetchone() != before, f"{leak}: the session keeps it"
        expected += [before]
        files[f"m{number * 2}_leak"] = f"{HEAD if way == 'by steps' else ''}{leak}"
        files[f"m{number * 2 + 1}_probe"] = f"create table public.found_{number} as select {probe} as it"
    migrate(database, write(**files), batch_size=1 if way == "alone" else 10)
    first_rows = [database.rows(f"SELECT it FROM found_{number}")[0] for number in range(1, len(LEAKS) + 1)]
    assert first_rows == expected
    rows = "SELECT count(*), count(executed_at) FROM ratchet.migrations WHERE applied_by = session_user"
    assert database.rows(rows) == [(2 * len(LEAKS), 2 * len(LEAKS))]
