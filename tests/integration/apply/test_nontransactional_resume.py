"""How the next run resumes an interrupted file without a transaction: the catalog shows what took effect."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg
import pytest

from pgratchet import events
from pgratchet.database.history import BODY_LIMIT, History
from pgratchet.errors import (
    HistoryDisagrees,
    StoppedPartWay,
)
from pgratchet.migrations.files import read
from tests.integration.apply.helpers import NO_TRANSACTION, index_state, last_row
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, history, migrate

DETACH = "alter table only t detach partition p concurrently"


pytestmark = pytest.mark.every_major


@pytest.mark.parametrize("exists", ["", "if not exists "])
def test_an_invalid_index_of_the_interrupted_statement_is_rebuilt(
    table_with_duplicates: Database, write: WriteMigrations, exists: str
) -> None:
    files = write(m1_a=NO_TRANSACTION + f"create unique index concurrently {exists}i on t (x);")
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match="could not create unique index"):
            migrate(table_with_duplicates, files)
        assert index_state(table_with_duplicates, "i") is False
        assert last_row(table_with_duplicates) == (0, 1, False)
    table_with_duplicates.run("TRUNCATE t; INSERT INTO t VALUES (1), (2)")
    assert migrate(table_with_duplicates, files).applied == ["1_a"]
    assert index_state(table_with_duplicates, "i") is True


def test_an_invalid_index_of_another_origin_is_named_with_its_repair(
    table_with_duplicates: Database, write: WriteMigrations
) -> None:
    with pytest.raises(Exception, match="could not create"):
        table_with_duplicates.run("CREATE UNIQUE INDEX CONCURRENTLY i ON t (x)")
    table_with_duplicates.run("TRUNCATE t")
    table_with_duplicates.run("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (x)")
    assert index_state(table_with_duplicates, "i") is False, "the server passes it over and reports success"
    files = write(m1_a=NO_TRANSACTION + "create unique index concurrently if not exists i on t (x);")
    with pytest.raises(StoppedPartWay, match="i is there already, and it is INVALID") as caught:
        migrate(table_with_duplicates, files)
    (repair,) = [line for line in caught.value.hint.splitlines() if line.startswith("DROP")]
    assert repair == 'DROP INDEX CONCURRENTLY "public"."i";'
    table_with_duplicates.run(repair)
    assert migrate(table_with_duplicates, files).applied == ["1_a"]
    assert index_state(table_with_duplicates, "i") is True


@pytest.mark.parametrize(
    ("statement", "leftover", "repeated"),
    [
        ("create index concurrently i on t (x)", "CREATE INDEX i ON t (x)", False),
        ("create index concurrently i on t (x)", "", True),
        ("drop index concurrently gone", "", False),
        ("vacuum t", "", True),
    ],
)
def test_the_catalog_decides_whether_a_statement_took_effect(
    database: Database, write: WriteMigrations, statement: str, leftover: str, repeated: bool
) -> None:
    """The state is that of a runner killed between the end of the statement and its record."""
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=NO_TRANSACTION + f"select 1;\n{statement};\nselect 2")
    database.run("CREATE TABLE keep ()")
    with database.connect() as session:
        History().create(session)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version, statements_done, statement_begun)"
        f" VALUES ('1_a', '{files[0].checksum}', 'dead', '0', 1, 2)"
    )
    if leftover:
        database.run(leftover)
    before = database.rows("SELECT to_regclass('i')::oid::bigint")
    assert migrate(database, files).applied == ["1_a"]
    after = database.rows("SELECT to_regclass('i')::oid::bigint")
    assert (before == after) is (not (repeated and "index" in statement))
    assert last_row(database) == (3, None, True)


def killed_behind(database: Database, checksum: str, number: int) -> None:
    """Write the history of a runner that was killed between the end of a statement and its record."""
    with database.connect() as session:
        History().create(session)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version, statements_done, statement_begun)"
        f" VALUES ('1_a', '{checksum}', 'dead', '0', {number - 1}, {number})"
    )


def test_a_database_created_by_a_killed_run_is_not_created_again(database: Database, write: WriteMigrations) -> None:
    name = f"{database.name}_made"
    files = write(m1_a=NO_TRANSACTION + f"create database {name};\ncreate table after ()")
    killed_behind(database, files[0].checksum, 1)
    database.run(f"CREATE DATABASE {name}")
    try:
        with pytest.raises(psycopg.errors.DuplicateDatabase):
            database.run(f"CREATE DATABASE {name}")
        assert migrate(database, files).applied == ["1_a"]
        assert last_row(database) == (2, None, True)
    finally:
        database.run(f"DROP DATABASE {name}")


def test_a_database_of_another_origin_does_not_prove_the_statement_done(
    database: Database, write: WriteMigrations
) -> None:
    files = write(m1_a=NO_TRANSACTION + f"create database {database.name}")
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match="already exists"):
            migrate(database, files)
        assert last_row(database) == (0, None, False)


@pytest.fixture
def partitioned(database: Database) -> Database:
    database.run("CREATE TABLE t (x int) PARTITION BY LIST (x); CREATE TABLE p PARTITION OF t FOR VALUES IN (1)")
    return database


def detachment(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'p'::regclass")


def test_a_partition_detached_by_a_killed_run_is_not_detached_again(
    partitioned: Database, write: WriteMigrations
) -> None:
    files = write(m1_a=NO_TRANSACTION + f"{DETACH};\ncreate table after ()")
    killed_behind(partitioned, files[0].checksum, 1)
    partitioned.run(DETACH.replace("only ", ""))
    with pytest.raises(psycopg.errors.UndefinedTable):
        partitioned.run(DETACH.replace("only ", ""))
    assert migrate(partitioned, files).applied == ["1_a"]


def test_an_interrupted_detachment_is_completed(partitioned: Database, write: WriteMigrations) -> None:
    files = write(m1_a=NO_TRANSACTION + DETACH.replace("only ", ""))
    with partitioned.connect() as reader:
        reader.execute("BEGIN; SELECT * FROM t")  # holds the table's lock, and by then no snapshot
        with pytest.raises(StoppedPartWay, match="lock timeout"):
            migrate(partitioned, files, wait=1_000)
        assert detachment(partitioned) == [(True,)]
        assert last_row(partitioned) == (0, 1, False)
        reader.rollback()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        partitioned.run(DETACH.replace("only ", ""))
    assert migrate(partitioned, files).applied == ["1_a"]
    assert detachment(partitioned) == []


@pytest.mark.parametrize("of", ["index concurrently i", "table concurrently t", "(concurrently) schema public"])
def test_leftovers_of_an_interrupted_reindex_are_named_with_their_repair(
    database: Database, write: WriteMigrations, of: str
) -> None:
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1); CREATE INDEX i ON t (x)")
    files = write(m1_a=NO_TRANSACTION + f"reindex {of}")
    with database.connect() as writer:
        writer.execute("BEGIN; INSERT INTO t VALUES (2)")
        with pytest.raises(StoppedPartWay, match="lock timeout") as first:
            migrate(database, files, wait=1_000)
        writer.rollback()
    assert index_state(database, "i_ccnew") is False
    with pytest.raises(StoppedPartWay, match="an earlier REINDEX CONCURRENTLY broke off") as second:
        migrate(database, files)
    repair = 'DROP INDEX CONCURRENTLY "public"."i_ccnew";'
    for caught in (first, second):
        assert "It left the INVALID index public.i_ccnew." in caught.value.detail
        assert caught.value.hint.splitlines()[1:] == [repair]
    database.run(repair)
    assert migrate(database, files).applied == ["1_a"]
    assert index_state(database, "i") is True
    assert database.rows("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


def test_leftovers_of_another_table_do_not_concern_a_reindex(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t (x int); CREATE INDEX i ON t (x); CREATE TABLE u (x int); CREATE INDEX j ON u (x)")
    with database.connect() as writer, database.connect() as other:
        writer.execute("BEGIN; INSERT INTO u VALUES (2)")
        other.execute("SET lock_timeout = 300")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("REINDEX TABLE CONCURRENTLY u")
        writer.rollback()
    assert index_state(database, "j_ccnew") is False
    assert migrate(database, write(m1_a=NO_TRANSACTION + "reindex table concurrently t")).applied == ["1_a"]


BLOCK = "do $$ begin commit; end $$;"


@pytest.fixture
def interrupted_block(database: Database, write: WriteMigrations) -> Database:
    """A database on which a run ended in the middle of the first statement of 1_a."""
    files = write(m1_a=NO_TRANSACTION + f"{BLOCK}\ncreate table b ()")
    with database.connect() as session:
        History().create(session)
        session.execute(
            "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version, statements_done, statement_begun,"
            " body) VALUES ('1_a', %s, 'dead', '0', 0, 1, %s)",
            (files[0].checksum, files[0].text().decode()),
        )
    return database


@pytest.mark.parametrize("text", [BLOCK, "do   $$ begin commit; end $$ ;"])
def test_an_interrupted_procedure_needs_a_decision(
    interrupted_block: Database, write: WriteMigrations, text: str
) -> None:
    files = write(m1_a=NO_TRANSACTION + f"{text}\ncreate table b ()")
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match=r"statement 1 of 2, .*:2:1, and whether that took") as caught:
            migrate(interrupted_block, files)
        assert "No statement took effect" not in caught.value.detail, "that is not known"
    assert interrupted_block.rows("SELECT to_regclass('b')") == [(None,)]


@pytest.mark.parametrize("text", ["do $$ begin commit; perform 1; end $$;", "select 1;", "call p();", "vacuum;"])
def test_a_procedure_that_the_user_has_replaced_runs(
    interrupted_block: Database, write: WriteMigrations, text: str
) -> None:
    interrupted_block.run("CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'")
    files = write(m1_a=NO_TRANSACTION + f"{text}\ncreate table b ()")
    assert migrate(interrupted_block, files).applied == ["1_a"]
    assert interrupted_block.rows("SELECT to_regclass('b') IS NOT NULL") == [(True,)]


@pytest.mark.parametrize("server", ["outside", "embedded"], indirect=True)  # it waits ten seconds on each
def test_a_build_of_a_terminated_backend_is_never_skipped(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=NO_TRANSACTION + "create index concurrently i on t (x);")
    building = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'create index concurrently%' AND pid <> pg_backend_pid()"
    )
    with database.connect() as snapshot:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("LOCK TABLE t IN ROW EXCLUSIVE MODE")
        ended: list[bool] = []

        def end() -> None:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and not ended:
                for (pid,) in database.rows(building):
                    database.run(f"SELECT pg_terminate_backend({pid})")
                    ended.append(True)
                time.sleep(0.05)

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(StoppedPartWay, match="statement 1 of 1"):
            migrate(database, files, wait=3_000)
        thread.join()
        snapshot.rollback()
    assert ended
    assert last_row(database) == (0, 1, False)
    assert migrate(database, files).applied == ["1_a"]
    assert index_state(database, "i") is True
    assert database.rows("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


def test_a_valid_index_of_another_origin_does_not_prove_the_statement_done(
    database: Database, write: WriteMigrations
) -> None:
    """Its name is that of another index of the file. This run stops, and so does each later one."""
    database.run("CREATE TABLE t (x int, y int); CREATE INDEX i ON t (x)")
    files = write(m1_a=NO_TRANSACTION + "create index concurrently i on t (y)")
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match="already exists"):
            migrate(database, files)
        assert last_row(database) == (0, None, False)


PADDING = f"-- {'x' * 98}\n" * (BODY_LIMIT // 100)
ONE = NO_TRANSACTION + PADDING + "create table one (x int);\n-- {one}\ncreate index concurrently i on one (x);\n"


@pytest.mark.parametrize("mended", ["select 1;", "", "{padding}select 1", "select 1; create table two ()"])
def test_what_has_not_run_of_a_large_file_can_be_mended(
    database: Database, write: WriteMigrations, mended: str
) -> None:
    files = write(m1_a=ONE + "select 1 / 0;\nselect 2")
    assert len(files[0].text()) > BODY_LIMIT
    with pytest.raises(StoppedPartWay, match="statement 3 of 4"):
        migrate(database, files)
    with pytest.raises(StoppedPartWay, match="statement 3 of 3"):
        migrate(database, write(m1_a=ONE + "select 1 / 0"))
    assert last_row(database) == (2, None, False)
    assert migrate(database, write(m1_a=ONE + mended.format(padding=PADDING))).applied == ["1_a"]
    assert database.rows("SELECT body, executed_at IS NOT NULL FROM ratchet.migrations") == [(None, True)]


@pytest.mark.parametrize("small", [False, True])
def test_what_has_run_of_a_large_file_cannot_be_changed(
    database: Database, write: WriteMigrations, *, small: bool
) -> None:
    text = ONE.replace(PADDING, "") if small else ONE
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=ONE + "select 1 / 0"))
    for changed in (text.replace("x int", "x bigint"), text.partition("create index")[0], text.replace("i on", "j on")):
        before = database.fingerprint()
        with pytest.raises(HistoryDisagrees, match="changed in the part that has already run"):
            migrate(database, write(m1_a=changed))
        assert database.fingerprint() == before
    assert migrate(database, write(m1_a=text)).applied == ["1_a"]


def test_a_file_may_grow_beyond_the_limit_before_it_resumes(database: Database, write: WriteMigrations) -> None:
    small = NO_TRANSACTION + "create table one (x int);\n"
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=small + "select 1 / 0;"))
    with pytest.raises(StoppedPartWay, match="statement 3 of 3"):
        migrate(database, write(m1_a=small + PADDING + "create table two ();\nselect 1 / 0;"))
    assert migrate(database, write(m1_a=small + "create table two ();\n" + PADDING)).applied == ["1_a"]


FAILED_AT_ONCE = NO_TRANSACTION + "create index concurrently i on nothing (x);"


@pytest.mark.parametrize(
    "statement", ["create index concurrently i on nothing (x)", "select 1 / 0", "create tabl t ()"]
)
def test_a_file_that_failed_at_its_first_statement_may_be_removed(
    database: Database, write: WriteMigrations, sql_folder: Path, statement: str
) -> None:
    files = write(m1_a="create table a ()", m2_b=NO_TRANSACTION + statement)
    with pytest.raises(StoppedPartWay, match="statement 1 of 1"):
        migrate(database, files)
    assert last_row(database) == (0, None, False)
    (sql_folder / "2_b.sql").unlink()
    assert migrate(database, read(sql_folder)).applied == []
    assert migrate(database, write(m3_c="create table c ()")).applied == ["3_c"]
    assert history(database) == [("1_a", True), ("3_c", True)]


def test_a_file_that_failed_at_its_first_statement_may_be_renamed_or_get_a_transaction(
    database: Database, write: WriteMigrations, sql_folder: Path
) -> None:
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=FAILED_AT_ONCE))
    fixed = write(m1_a="create table nothing (x int); create index i on nothing (x)")
    assert migrate(database, fixed).applied == ["1_a"]
    assert history(database) == [("1_a", True)]
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m2_a=NO_TRANSACTION + "select 1 / 0"))
    (sql_folder / "2_a.sql").unlink()
    assert migrate(database, write(m3_z=NO_TRANSACTION + "select 1")).applied == ["3_z"]
    assert history(database) == [("1_a", True), ("3_z", True)]


def test_the_row_of_a_file_behind_to_stays_until_the_file_goes_on(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=FAILED_AT_ONCE, m2_b=NO_TRANSACTION + "select 1"))
    files = write(m1_a="create table nothing (x int)", m2_b="create table b ()")
    assert migrate(database, files, to="1_a").applied == ["1_a"]
    assert migrate(database, files).applied == ["2_b"]


def test_a_role_that_may_not_delete_leaves_the_row_and_goes_on(
    database: Database, write: WriteMigrations, sql_folder: Path
) -> None:
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=FAILED_AT_ONCE))
    database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END $$;"
        "CREATE TRIGGER t BEFORE DELETE ON ratchet.migrations EXECUTE FUNCTION refuse()"
    )
    (sql_folder / "1_a.sql").unlink()
    files = write(m2_b="create table b ()")
    assert migrate(database, files).applied == ["2_b"]
    assert history(database) == [("1_a", False), ("2_b", True)]
    assert migrate(database, files).applied == []


@pytest.mark.parametrize(
    ("statements", "progress"),
    [
        ("create table t (); select 1 / 0; select 3", "unfinished (1 of 3 statements done)"),
        ("create table t (x int); insert into t values (1), (1); create unique index concurrently i on t (x)", ""),
    ],
)
def test_a_file_with_statements_that_took_effect_may_not_be_removed(
    database: Database, write: WriteMigrations, sql_folder: Path, statements: str, progress: str
) -> None:
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=NO_TRANSACTION + statements))
    before = database.fingerprint()
    (sql_folder / "1_a.sql").unlink()
    with pytest.raises(HistoryDisagrees) as caught:
        migrate(database, write(m2_b="create table b ()"))
    expected = progress or "unfinished (2 of 3 statements done, and statement 3 may have taken effect)"
    assert caught.value.detail == f"1_a: {expected}, and its file is gone."
    assert database.fingerprint() == before


def test_the_duration_of_a_file_that_goes_on_is_that_of_the_last_run(
    database: Database, write: WriteMigrations
) -> None:
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=NO_TRANSACTION + "select 1; select 1 / 0"))
    database.run("UPDATE ratchet.migrations SET created_at = created_at - interval '1 hour'")
    ran = migrate(database, write(m1_a=NO_TRANSACTION + "select 1; select 2"))
    (applied,) = ran.of(events.MigrationApplied)
    assert isinstance(applied, events.MigrationApplied)
    assert 0 <= applied.duration_ms < 60_000
    assert database.rows("SELECT duration_ms FROM ratchet.migrations") == [(applied.duration_ms,)]
