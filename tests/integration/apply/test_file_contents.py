"""Contents of files: rows of COPY, large files, encodings and line ends, and texts that are refused."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import BODY_LIMIT, History
from pgratchet.errors import ConfigurationError, MigrationFailed
from pgratchet.migrations import files as migrations
from pgratchet.migrations.scripts import SIZE_LIMIT
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate

pytestmark = pytest.mark.every_major


ROWS = "create table t (a int, b text);\ncopy t (a, b) from stdin;\n1\tone\n2\t;'\"$$ -- /*\n3\t\\\\.\n4\t\\N\n\\.\n"


def test_rows_of_a_copy_are_data(database: Database, write: WriteMigrations) -> None:
    with database.connect() as shown, pytest.raises(psycopg.Error):
        shown.execute(ROWS.encode())
    files = write(m1_a="select 1", m2_b=ROWS + "select 1;\ncopy t from stdin csv;\n5,five\n\\.\n", m3_c="select 1")
    assert migrate(database, files).applied == ["1_a", "2_b", "3_c"]
    assert database.rows("SELECT a, b FROM t ORDER BY a") == [
        (1, "one"),
        (2, ";'\"$$ -- /*"),
        (3, "\\."),
        (4, None),
        (5, "five"),
    ]
    assert database.rows("SELECT body FROM ratchet.migrations WHERE name = '2_b'") == [(files[1].text().decode(),)]


def test_an_invalid_row_is_located_and_rolled_back(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="select 1;", m2_b="select 1;\n" + ROWS.replace("2\t", "two\t"), m3_c="select 1")
    with pytest.raises(MigrationFailed, match=r"2_b\.sql:3:1: invalid input syntax for type integer") as caught:
        migrate(database, files)
    assert "COPY t, line 2, column a" in caught.value.detail
    assert database.rows("SELECT to_regclass('t')") == [(None,)]
    assert migrate(database, write(m2_b=ROWS)).applied == ["2_b", "3_c"]


def test_many_rows_are_sent_in_pieces(database: Database, write: WriteMigrations) -> None:
    rows = "".join(f"{n}\t{'x' * 100}\n" for n in range(20_000))
    assert migrate(database, write(m1_a=f"create table t (a int, b text);\ncopy t from stdin;\n{rows}\\.")).applied
    assert database.rows("SELECT count(*), max(a) FROM t") == [(20_000, 19_999)]


def test_a_dump_without_psql_commands_is_a_migration(database: Database, write: WriteMigrations) -> None:
    """As pg_dump writes it: settings for the session, an empty search_path, and rows."""
    dump = (
        "SET statement_timeout = 0;\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n"
        "SELECT pg_catalog.set_config('search_path', '', false);\nSET row_security = off;\n"
        "CREATE TABLE public.t (a integer, b text);\nCOPY public.t (a, b) FROM stdin;\n1\té\n\\.\n\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        migrate(database, write(m1_dump="--\n\\restrict abc\n\n" + dump + "\\unrestrict abc\n"))
    assert "1_dump.sql:2:1: a psql meta-command" in caught.value.detail
    files = write(m1_dump=dump, m2_b="create table u ()")
    migrate(database, files)
    assert database.rows("SELECT a, b FROM public.t") == [(1, "é")]
    assert database.rows("SELECT to_regclass('public.u') IS NOT NULL") == [(True,)]


def test_a_large_file_is_sent_in_windows_in_one_transaction(database: Database, write: WriteMigrations) -> None:
    text = "create table t (a int);\n" + "insert into t values (1); -- é\n" * 40_000
    assert len(text) > 4 * SIZE_LIMIT
    assert len(text) > BODY_LIMIT
    migrate(database, write(m1_a=text))
    assert database.rows("SELECT count(*), count(DISTINCT xmin::text) FROM t") == [(40_000, 1)]
    assert database.rows("SELECT body, executed_at IS NOT NULL FROM ratchet.migrations") == [(None, True)]


@pytest.mark.parametrize(
    ("mistake", "place"),
    [
        ("insert into nothing values (1)", ":30002:13: relation"),
        ("select\n 1 / 0", ":30003:4: division"),
        ("insert inti t values (1)", ":30002:8: syntax"),
    ],
)
def test_an_error_deep_in_a_large_file_is_located_and_rolled_back(
    database: Database, write: WriteMigrations, mistake: str, place: str
) -> None:
    text = (
        "create table t (a int);\n" + "insert into t values (1); -- é\n" * 30_000 + mistake + ";\n" + "select 1;\n" * 9
    )
    with pytest.raises(MigrationFailed, match=place):
        migrate(database, write(m1_a="select 1", m2_b=text))
    assert database.rows("SELECT name FROM ratchet.migrations") == [("1_a",)]
    assert database.rows("SELECT to_regclass('t')") == [(None,)]


def test_a_large_file_that_fails_at_its_commit_is_rolled_back(database: Database, write: WriteMigrations) -> None:
    text = (
        "create table p (x int primary key); create table c (x int references p deferrable initially deferred);\n"
        + "insert into c values (1);\n" * 15_000
    )
    with pytest.raises(MigrationFailed, match="migration 1_a failed: insert or update on table"):
        migrate(database, write(m1_a=text))
    assert database.rows("SELECT name FROM ratchet.migrations") == []


def test_a_single_statement_may_be_larger_than_a_window(database: Database, write: WriteMigrations) -> None:
    values = ", ".join(f"({n})" for n in range(60_000))
    migrate(database, write(m1_a=f"create table t (a int);\ninsert into t values {values};\nselect 1"))
    assert database.rows("SELECT count(*) FROM t") == [(60_000,)]


def test_twenty_thousand_statements_are_one_transaction(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table t (a int);" + "insert into t values (1);" * 19_999))
    assert database.rows("SELECT count(*) FROM t") == [(19_999,)]


def test_byte_order_mark_and_line_ends_make_no_difference(database: Database, sql_folder: Path) -> None:
    text = "create table t (a text);\r\ninsert into t values ('x\r\ny');\r\ncopy t from stdin;\r\nz\r\n\\.\r\n"
    (sql_folder / "1_a.sql").write_bytes(b"\xef\xbb\xbf" + text.encode())
    migrate(database, migrations.read(sql_folder))
    assert database.rows("SELECT a FROM t") == [("x\ny",), ("z",)]
    (sql_folder / "1_a.sql").write_bytes(text.replace("\r\n", "\n").encode())
    assert migrate(database, migrations.read(sql_folder)).applied == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"select 1;\nselect\xc2\xa01;", ":2:7: an invisible character, U+00A0"),
        (b"select 1;\n\\copy t from x", ":2:1: a psql meta-command"),
        (b"select 1;\ncopy t to stdout", ":2:1: COPY to the client"),
        (b"select 1; commit", ":1:11: COMMIT in a migration"),
    ],
)
def test_a_file_that_is_not_sql_is_named_and_nothing_runs(
    database: Database, sql_folder: Path, content: bytes, message: str
) -> None:
    (sql_folder / "1_a.sql").write_bytes(b"create table a ()")
    (sql_folder / "2_b.sql").write_bytes(content)
    before = database.fingerprint()
    with pytest.raises(ConfigurationError) as caught:
        migrate(database, migrations.read(sql_folder))
    assert message in caught.value.detail
    assert database.fingerprint() == before


def test_a_string_continues_after_a_comment_as_on_the_server(database: Database, write: WriteMigrations) -> None:
    """Here libpg_query, which the lexer is compared with, differs from the server."""
    migrate(database, write(m1_a="create table t as select E'a' -- c\n  -- d\n '\\'; b' as x;"))
    assert database.rows("SELECT x FROM t") == [("a'; b",)]


def test_a_file_that_changes_after_it_was_read_is_not_sent(
    database: Database, write: WriteMigrations, sql_folder: Path
) -> None:
    files = write(m1_a="create table a ()", m2_b="create table b ()")
    stream = applier.migrate(database.connect, History(), files, None, MigrateOptions("run", batch_size=1))
    for event in stream:
        if getattr(event, "name", "") == "1_a":
            (sql_folder / "2_b.sql").write_text("create table c ()")
            break
    with pytest.raises(ConfigurationError, match=r"2_b\.sql was changed during the run"):
        list(stream)
    assert database.rows("SELECT name FROM ratchet.migrations") == [("1_a",)]
