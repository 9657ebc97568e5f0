"""Migrations without a transaction: progress, evidence, and never an INVALID index passed over."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.errors import (
    ConfigurationError,
    HistoryDisagrees,
    LockBusy,
    MigrationFailed,
    RatchetError,
    StoppedPartWay,
)
from tests.servers.databases import Database
from tests.support.migrations import RunEvents, WriteMigrations

pytestmark = pytest.mark.every_major

HEAD = "-- migrate: no-transaction\n"


def migrate(database: Database, files: object, **options: object) -> RunEvents:
    given = MigrateOptions(**{"run_id": "run", **options})  # type: ignore[arg-type]
    return RunEvents(list(applier.migrate(database.connect, History(), files, None, given)))  # type: ignore[arg-type]


def row(database: Database) -> tuple[object, ...]:
    columns = "statements_done, statement_begun, executed_at IS NOT NULL"
    (found,) = database.rows(f"SELECT {columns} FROM ratchet.migrations ORDER BY id DESC LIMIT 1")
    return found


def valid(database: Database, name: str) -> object:
    found = database.rows(
        "SELECT indisvalid, indexrelid::bigint FROM pg_index WHERE indexrelid = to_regclass(%s)", name
    )
    return found[0][0] if found else None


@pytest.fixture
def doubles(database: Database) -> Database:
    """A table on which no unique index can be built."""
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1), (1)")
    return database


def test_statements_run_one_by_one_and_each_is_recorded(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a=HEAD + "create table t (x int);\ninsert into t select generate_series(1, 9);\n"
        "create unique index concurrently i on t (x);\nvacuum t;\n"
        "do $$ begin for n in 1..3 loop insert into t values (100 + n); commit; end loop; end $$;\n"
        "drop index concurrently i;",
        m2_b="create table after ()",
    )
    ran = migrate(database, files)
    assert ran.applied == ["1_a", "2_b"]
    assert [(e.number, e.total) for e in ran.events if isinstance(e, events.StatementDone)] == [
        (n, 6) for n in range(1, 7)
    ]
    assert database.rows("SELECT count(*) FROM t") == [(12,)]
    assert database.rows(
        "SELECT statements_done, executed_at > created_at FROM ratchet.migrations WHERE name = '1_a'"
    ) == [(6, True)]
    assert migrate(database, files).applied == []


def test_it_stops_at_the_statement_and_goes_on_there(doubles: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a=HEAD + "create table one ();\ncreate table t2 (x int);\n  insert into t2 values (1 / 0);\nselect 1"
    )
    with pytest.raises(
        StoppedPartWay, match="stopped at statement 3 of 4, line 4, column 3: division by zero"
    ) as caught:
        migrate(doubles, files)
    assert caught.value.detail.endswith("Statements 1 to 2 took effect, and that stays.")
    assert row(doubles) == (2, None, False)
    fixed = write(m1_a=files[0].text().decode().replace("1 / 0", "7"))
    assert migrate(doubles, fixed).applied == ["1_a"]
    assert doubles.rows("SELECT x FROM t2") == [(7,)]
    assert doubles.rows("SELECT checksum FROM ratchet.migrations") == [(fixed[0].checksum,)]


def test_a_file_that_fails_behind_it_says_that_it_was_applied(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=HEAD + "create table a ()", m2_b="select 1 / 0")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files)
    assert caught.value.detail == "1_a was applied; 2_b was rolled back."


def test_the_part_that_ran_cannot_be_changed(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=HEAD + "create table one ();\nselect 1 / 0")
    with pytest.raises(StoppedPartWay):
        migrate(database, files)
    with pytest.raises(HistoryDisagrees, match="changed in the part that has already run"):
        migrate(database, write(m1_a=HEAD + "create table other ();\nselect 1"))
    with pytest.raises(HistoryDisagrees, match="changed in the part that has already run"):
        migrate(database, write(m1_a=HEAD))
    assert row(database) == (1, None, False)


@pytest.mark.parametrize("exists", ["", "if not exists "])
def test_the_invalid_index_that_our_statement_left_is_built_anew(
    doubles: Database, write: WriteMigrations, exists: str
) -> None:
    files = write(m1_a=HEAD + f"create unique index concurrently {exists}i on t (x);")
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match="could not create unique index"):
            migrate(doubles, files)
        assert valid(doubles, "i") is False
        assert row(doubles) == (0, 1, False)
    doubles.run("TRUNCATE t; INSERT INTO t VALUES (1), (2)")
    assert migrate(doubles, files).applied == ["1_a"]
    assert valid(doubles, "i") is True


def test_an_invalid_index_of_someone_elses_is_named_with_its_repair(doubles: Database, write: WriteMigrations) -> None:
    with pytest.raises(Exception, match="could not create"):
        doubles.run("CREATE UNIQUE INDEX CONCURRENTLY i ON t (x)")
    doubles.run("TRUNCATE t")
    doubles.run("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (x)")
    assert valid(doubles, "i") is False, "the server passes it over and reports success"
    files = write(m1_a=HEAD + "create unique index concurrently if not exists i on t (x);")
    with pytest.raises(StoppedPartWay, match="i is there already, and it is INVALID") as caught:
        migrate(doubles, files)
    (repair,) = [line for line in caught.value.hint.splitlines() if line.startswith("DROP")]
    assert repair == 'DROP INDEX CONCURRENTLY "public"."i";'
    doubles.run(repair)
    assert migrate(doubles, files).applied == ["1_a"]
    assert valid(doubles, "i") is True


@pytest.mark.parametrize(
    ("statement", "left", "repeated"),
    [
        ("create index concurrently i on t (x)", "CREATE INDEX i ON t (x)", False),
        ("create index concurrently i on t (x)", "", True),
        ("drop index concurrently gone", "", False),
        ("vacuum t", "", True),
    ],
)
def test_a_statement_in_doubt_is_decided_by_the_catalog(
    database: Database, write: WriteMigrations, statement: str, left: str, repeated: bool
) -> None:
    """As a runner leaves it that was killed between the statement's end and its record."""
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=HEAD + f"select 1;\n{statement};\nselect 2")
    database.run("CREATE TABLE keep ()")
    with database.connect() as session:
        History().create(session)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version, statements_done, statement_begun)"
        f" VALUES ('1_a', '{files[0].checksum}', 'dead', '0', 1, 2)"
    )
    if left:
        database.run(left)
    before = database.rows("SELECT to_regclass('i')::oid::bigint")
    assert migrate(database, files).applied == ["1_a"]
    after = database.rows("SELECT to_regclass('i')::oid::bigint")
    assert (before == after) is (not (repeated and "index" in statement))
    assert row(database) == (3, None, True)


def killed_behind(database: Database, checksum: str, number: int) -> None:
    """The history as a runner leaves it that was killed between a statement's end and its record."""
    with database.connect() as session:
        History().create(session)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version, statements_done, statement_begun)"
        f" VALUES ('1_a', '{checksum}', 'dead', '0', {number - 1}, {number})"
    )


def test_a_database_made_by_a_killed_run_is_not_made_again(database: Database, write: WriteMigrations) -> None:
    made = f"{database.name}_made"
    files = write(m1_a=HEAD + f"create database {made};\ncreate table after ()")
    killed_behind(database, files[0].checksum, 1)
    database.run(f"CREATE DATABASE {made}")
    try:
        with pytest.raises(psycopg.errors.DuplicateDatabase):
            database.run(f"CREATE DATABASE {made}")
        assert migrate(database, files).applied == ["1_a"]
        assert row(database) == (2, None, True)
    finally:
        database.run(f"DROP DATABASE {made}")


def test_a_database_of_someone_elses_is_not_taken_for_ours(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=HEAD + f"create database {database.name}")
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match="already exists"):
            migrate(database, files)
        assert row(database) == (0, None, False)


@pytest.fixture
def partitioned(database: Database) -> Database:
    database.run("CREATE TABLE t (x int) PARTITION BY LIST (x); CREATE TABLE p PARTITION OF t FOR VALUES IN (1)")
    return database


DETACH = "alter table only t detach partition p concurrently"


def detachment(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'p'::regclass")


def test_a_partition_detached_by_a_killed_run_is_not_detached_again(
    partitioned: Database, write: WriteMigrations
) -> None:
    files = write(m1_a=HEAD + f"{DETACH};\ncreate table after ()")
    killed_behind(partitioned, files[0].checksum, 1)
    partitioned.run(DETACH.replace("only ", ""))
    with pytest.raises(psycopg.errors.UndefinedTable):
        partitioned.run(DETACH.replace("only ", ""))
    assert migrate(partitioned, files).applied == ["1_a"]


def test_a_detachment_that_was_broken_off_is_brought_to_its_end(partitioned: Database, write: WriteMigrations) -> None:
    files = write(m1_a=HEAD + DETACH.replace("only ", ""))
    with partitioned.connect() as reader:
        reader.execute("BEGIN; SELECT * FROM t")  # holds the table's lock, and by then no snapshot
        with pytest.raises(StoppedPartWay, match="lock timeout"):
            migrate(partitioned, files, wait=1_000)
        assert detachment(partitioned) == [(True,)]
        assert row(partitioned) == (0, 1, False)
        reader.rollback()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        partitioned.run(DETACH.replace("only ", ""))
    assert migrate(partitioned, files).applied == ["1_a"]
    assert detachment(partitioned) == []


@pytest.mark.parametrize("of", ["index concurrently i", "table concurrently t", "(concurrently) schema public"])
def test_what_a_reindex_that_broke_off_left_is_named_with_its_repair(
    database: Database, write: WriteMigrations, of: str
) -> None:
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1); CREATE INDEX i ON t (x)")
    files = write(m1_a=HEAD + f"reindex {of}")
    with database.connect() as writer:
        writer.execute("BEGIN; INSERT INTO t VALUES (2)")
        with pytest.raises(StoppedPartWay, match="lock timeout") as first:
            migrate(database, files, wait=1_000)
        writer.rollback()
    assert valid(database, "i_ccnew") is False
    with pytest.raises(StoppedPartWay, match="an earlier REINDEX CONCURRENTLY broke off") as second:
        migrate(database, files)
    repair = 'DROP INDEX CONCURRENTLY "public"."i_ccnew";'
    for caught in (first, second):
        assert "It left the INVALID index public.i_ccnew." in caught.value.detail
        assert caught.value.hint.splitlines()[1:] == [repair]
    database.run(repair)
    assert migrate(database, files).applied == ["1_a"]
    assert valid(database, "i") is True
    assert database.rows("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


def test_a_reindex_of_another_table_is_no_business_of_its_leftovers(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t (x int); CREATE INDEX i ON t (x); CREATE TABLE u (x int); CREATE INDEX j ON u (x)")
    with database.connect() as writer, database.connect() as other:
        writer.execute("BEGIN; INSERT INTO u VALUES (2)")
        other.execute("SET lock_timeout = 300")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("REINDEX TABLE CONCURRENTLY u")
        writer.rollback()
    assert valid(database, "j_ccnew") is False
    assert migrate(database, write(m1_a=HEAD + "reindex table concurrently t")).applied == ["1_a"]


def test_a_role_that_the_file_has_set_holds_for_its_statements_and_not_for_the_record(
    database: Database, write: WriteMigrations
) -> None:
    role = f"{database.name}_role"
    database.run(f"CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}")
    try:
        files = write(
            m1_a=HEAD + f"set role {role};\ncreate table one (x int);\ncreate index concurrently i on one (x);\n"
            "reset role;\ncreate table two ();\nset default_transaction_read_only = on;\nselect 1"
        )
        assert migrate(database, files).applied == ["1_a"]
        owners = database.rows("SELECT relname, relowner::regrole::text FROM pg_class WHERE relname IN ('i', 'one')")
        assert sorted(owners) == [("i", role), ("one", role)]
        assert database.rows("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'two'") != [(role,)]
    finally:
        database.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_procedure_in_doubt_is_for_a_person_to_decide(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=HEAD + "do $$ begin commit; end $$;\ncreate table b ()")
    with database.connect() as session:
        History().create(session)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version, statements_done, statement_begun, body)"
        f" VALUES ('1_a', '{files[0].checksum}', 'dead', '0', 0, 1, 'x')"
    )
    with pytest.raises(
        StoppedPartWay, match="statement 1 of 2, line 2, column 1, and whether that took effect is unknown"
    ):
        migrate(database, files)
    assert database.rows("SELECT to_regclass('b')") == [(None,)]


@pytest.mark.parametrize("server", ["outside", "embedded"], indirect=True)  # it waits ten seconds on each
def test_a_backend_ended_while_it_builds_leaves_nothing_that_is_passed_over(
    database: Database, write: WriteMigrations
) -> None:
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=HEAD + "create index concurrently i on t (x);")
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
    assert row(database) == (0, 1, False)
    assert migrate(database, files).applied == ["1_a"]
    assert valid(database, "i") is True
    assert database.rows("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


def test_settings_of_the_file_hold_for_its_rest_and_no_further(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE SCHEMA s")
    files = write(
        m1_a=HEAD + "set search_path = s;\ncreate table here ();\nselect 1 / 0;\ncreate table there ();",
    )
    with pytest.raises(StoppedPartWay):
        migrate(database, files)
    fixed = write(m1_a=files[0].text().decode().replace("1 / 0", "1"), m2_b="create table outside ()")
    migrate(database, fixed)
    found = database.rows("SELECT to_regclass('s.here'), to_regclass('s.there'), to_regclass('public.outside')")
    assert None not in found[0]


def test_a_lock_is_tried_for_again(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t ()")
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
        threading.Timer(1.0, holder.rollback).start()
        ran = migrate(database, write(m1_a=HEAD + "alter table t add column x int"), lock_timeout=200)
    assert ran.of(events.Retrying)
    assert ran.applied == ["1_a"]


def test_an_unfinished_transactional_file_is_for_a_person(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()")
    with database.connect() as session:
        History().create(session)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version)"
        f" VALUES ('1_a', '{files[0].checksum}', 'x', '0')"
    )
    before = database.fingerprint()
    with pytest.raises(HistoryDisagrees, match="without an end"):
        migrate(database, files)
    assert database.fingerprint() == before


def test_an_index_built_concurrently_has_a_name(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(ConfigurationError) as caught:
        migrate(database, write(m1_a=HEAD + "create index concurrently on t (x)"))
    assert "without a name" in caught.value.detail


def test_what_the_file_has_set_holds_when_a_statement_is_tried_again(
    database: Database, write: WriteMigrations
) -> None:
    """An error clears the session; a table made in another schema than the file said would be the price."""
    database.run("CREATE SCHEMA s; CREATE TABLE s.t (); CREATE TABLE public.t ()")
    files = write(
        m1_a=HEAD + "set search_path = public;\nselect pg_catalog.set_config('search_path', 's', false);\n"
        "alter table t add column x int;\ncreate table here ()"
    )
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE s.t IN ACCESS SHARE MODE")
        threading.Timer(0.6, holder.rollback).start()
        ran = migrate(database, files, lock_timeout=100)
    assert ran.of(events.Retrying)
    assert database.rows("SELECT to_regclass('s.here') IS NOT NULL") == [(True,)]
    columns = "SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'x' AND attrelid IN (%s)"
    assert database.rows(columns % "'s.t'::regclass, 'public.t'::regclass") == [("s.t",)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("create table b ();\ndelete from ratchet.migrations", StoppedPartWay),
        ("create table b ();\ncall give_up()", HistoryDisagrees),
    ],
)
def test_a_file_that_deletes_its_own_row_is_never_called_applied(
    database: Database, write: WriteMigrations, text: str, error: type[RatchetError]
) -> None:
    migrate(database, write(m0_first="create table a ()"))
    database.run(
        "CREATE PROCEDURE give_up() LANGUAGE sql AS 'DELETE FROM ratchet.migrations WHERE executed_at IS NULL'"
    )
    files = write(m1_a=HEAD + text)
    with pytest.raises(error, match="statement 2 of 2"):
        migrate(database, files)


def test_a_row_that_goes_while_the_last_statement_is_done_is_missed(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=HEAD + "create table b ()")
    stream = applier.migrate(database.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.StatementDone) for event in stream)
    database.run("DELETE FROM ratchet.migrations")
    with pytest.raises(HistoryDisagrees, match="its history row is gone"):
        list(stream)


def test_an_open_snapshot_is_waited_for_before_a_build_is_begun(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=HEAD + "create index concurrently i on t (x)")
    with database.connect() as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        threading.Timer(1.0, old.rollback).start()
        ran = migrate(database, files)
        (waited,) = [e for e in ran.events if isinstance(e, events.SnapshotsAwaited)]
        assert f"pid {old.info.backend_pid}, " in waited.holders[0]
    assert valid(database, "i") is True


def test_an_open_snapshot_that_stays_ends_the_wait_by_its_deadline(database: Database, write: WriteMigrations) -> None:
    """Without that the build waits as long as the other transaction is open."""
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=HEAD + "create index concurrently i on t (x)")
    with database.connect() as old, database.connect() as shown:
        old.execute("SET application_name = 'old one'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        shown.execute("SET statement_timeout = '700ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            shown.execute("CREATE INDEX CONCURRENTLY shown_to_wait ON t (x)")
        assert valid(database, "shown_to_wait") is False
        shown.execute("DROP INDEX shown_to_wait")
        with pytest.raises(StoppedPartWay, match=r"1_a stopped at statement 1 of 1.*open transactions") as caught:
            migrate(database, files, wait=700)
        assert f"pid {old.info.backend_pid}, old one as " in caught.value.detail
        old.rollback()
    assert row(database) == (0, None, False)
    assert valid(database, "i") is None
    assert migrate(database, files).applied == ["1_a"]


def test_a_snapshot_taken_while_a_build_goes_on_ends_it_by_the_lock_timeout(
    database: Database, write: WriteMigrations
) -> None:
    """The wait before the build cannot see it; what the build leaves is INVALID, and ours: the next run mends it."""
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
    files = write(m1_a=HEAD + "create index concurrently i on t (x)")
    with database.connect() as old:
        old.execute("BEGIN; LOCK TABLE t IN ROW EXCLUSIVE MODE")
        with pytest.raises(StoppedPartWay, match="lock timeout") as caught:
            migrate(database, files, wait=1500, lock_timeout=600)
        assert f"It waited for pid {old.info.backend_pid}, " in caught.value.detail
        old.rollback()
    assert row(database) == (0, 1, False)
    assert migrate(database, files).applied == ["1_a"]
    assert valid(database, "i") is True


def test_a_run_whose_line_was_cut_leaves_the_file_to_the_one_that_took_it_up(
    database: Database, write: WriteMigrations
) -> None:
    """Its statements would run twice: the other has gone on where the history said."""
    files = write(m1_a=HEAD + "create table e (n int);\ninsert into e values (1);\ninsert into e values (2)")
    first = applier.migrate(database.connect, History(), files, None, MigrateOptions("first"))
    assert any(isinstance(event, events.StatementDone) for event in first)
    ((pid,),) = database.rows("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
    database.rows(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert migrate(database, files, run_id="second").applied == ["1_a"]
    with pytest.raises(LockBusy, match="another run has taken up 1_a"):
        list(first)
    assert database.rows("SELECT n FROM e ORDER BY n") == [(1,), (2,)]


def test_a_valid_index_of_someone_elses_never_proves_a_statement_done(
    database: Database, write: WriteMigrations
) -> None:
    """It has the name that the file gives to another index; the run stops, and so does each one behind it."""
    database.run("CREATE TABLE t (x int, y int); CREATE INDEX i ON t (x)")
    files = write(m1_a=HEAD + "create index concurrently i on t (y)")
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match="already exists"):
            migrate(database, files)
        assert row(database) == (0, None, False)
