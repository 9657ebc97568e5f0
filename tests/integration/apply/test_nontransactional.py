"""Migrations without a transaction: statement by statement, with recorded progress, and never past an INVALID index."""

from __future__ import annotations

import threading

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
from tests.integration.apply.helpers import NO_TRANSACTION, index_state, last_row
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations, migrate

pytestmark = pytest.mark.every_major


def test_statements_run_one_by_one_and_each_is_recorded(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a=NO_TRANSACTION + "create table t (x int);\ninsert into t select generate_series(1, 9);\n"
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


def test_a_failed_file_stops_at_its_statement_and_resumes_there(
    table_with_duplicates: Database, write: WriteMigrations
) -> None:
    files = write(
        m1_a=NO_TRANSACTION
        + "create table one ();\ncreate table t2 (x int);\n  insert into t2 values (1 / 0);\nselect 1"
    )
    with pytest.raises(StoppedPartWay, match=r"stopped at statement 3 of 4, .*:4:28: division by zero") as caught:
        migrate(table_with_duplicates, files)
    assert caught.value.detail.endswith("Statements 1 to 2 took effect and stay.")
    assert last_row(table_with_duplicates) == (2, None, False)
    fixed = write(m1_a=files[0].text().decode().replace("1 / 0", "7"))
    assert migrate(table_with_duplicates, fixed).applied == ["1_a"]
    assert table_with_duplicates.rows("SELECT x FROM t2") == [(7,)]
    assert table_with_duplicates.rows("SELECT checksum FROM ratchet.migrations") == [(fixed[0].checksum,)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("select x::int from (values (random()::text || 'x')) as v (x)", "invalid input syntax for type integer: .*x"),
        (
            "update ratchet.migrations set executed_at = now()",
            r"this run has no unfinished history row of this migration \(0 rows\)",
        ),
    ],
)
def test_an_error_of_a_statement_is_distinguished_from_an_error_of_its_record(
    database: Database, write: WriteMigrations, text: str, reason: str
) -> None:
    with pytest.raises(StoppedPartWay, match=f"stopped at statement 2 of 2, .*:3:1: {reason}"):
        migrate(database, write(m1_a=NO_TRANSACTION + f"create table a ();\n{text}"))
    assert last_row(database) == (1, None, False)


def test_a_failure_in_a_later_file_names_the_applied_file(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=NO_TRANSACTION + "create table a ()", m2_b="select 1 / 0")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files)
    assert caught.value.detail == "1_a was applied; 2_b was rolled back."


def test_the_executed_part_of_a_file_cannot_be_changed(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=NO_TRANSACTION + "create table one ();\nselect 1 / 0")
    with pytest.raises(StoppedPartWay):
        migrate(database, files)
    with pytest.raises(HistoryDisagrees, match="changed in the part that has already run"):
        migrate(database, write(m1_a=NO_TRANSACTION + "create table other ();\nselect 1"))
    with pytest.raises(HistoryDisagrees, match="changed in the part that has already run"):
        migrate(database, write(m1_a=NO_TRANSACTION + "select 1"))
    assert last_row(database) == (1, None, False)


def test_a_role_set_by_the_file_applies_to_its_statements_and_not_to_the_record(
    database: Database, write: WriteMigrations
) -> None:
    role = f"{database.name}_role"
    database.run(f"CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}")
    try:
        files = write(
            m1_a=NO_TRANSACTION
            + f"set role {role};\ncreate table one (x int);\ncreate index concurrently i on one (x);\n"
            "reset role;\ncreate table two ();\nset default_transaction_read_only = on;\nselect 1"
        )
        assert migrate(database, files).applied == ["1_a"]
        owners = database.rows("SELECT relname, relowner::regrole::text FROM pg_class WHERE relname IN ('i', 'one')")
        assert sorted(owners) == [("i", role), ("one", role)]
        assert database.rows("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'two'") != [(role,)]
    finally:
        database.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_settings_of_a_file_last_until_its_end(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE SCHEMA s")
    files = write(
        m1_a=NO_TRANSACTION + "set search_path = s;\ncreate table here ();\nselect 1 / 0;\ncreate table there ();",
    )
    with pytest.raises(StoppedPartWay):
        migrate(database, files)
    fixed = write(m1_a=files[0].text().decode().replace("1 / 0", "1"), m2_b="create table outside ()")
    migrate(database, fixed)
    rows = database.rows("SELECT to_regclass('s.here'), to_regclass('s.there'), to_regclass('public.outside')")
    assert None not in rows[0]


def test_a_statement_that_meets_a_lock_is_retried(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t ()")
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
        threading.Timer(1.0, holder.rollback).start()
        ran = migrate(database, write(m1_a=NO_TRANSACTION + "alter table t add column x int"), lock_timeout=200)
    assert ran.of(events.Retrying)
    assert ran.applied == ["1_a"]


def test_an_unfinished_transactional_file_needs_a_decision(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()")
    with database.connect() as session:
        History().create(session)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version)"
        f" VALUES ('1_a', '{files[0].checksum}', 'x', '0')"
    )
    before = database.fingerprint()
    with pytest.raises(HistoryDisagrees, match="is unfinished in the history"):
        migrate(database, files)
    assert database.fingerprint() == before


def test_an_index_built_concurrently_needs_a_name(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(ConfigurationError) as caught:
        migrate(database, write(m1_a=NO_TRANSACTION + "create index concurrently on t (x)"))
    assert "without a name" in caught.value.detail


def test_settings_of_a_file_hold_when_a_statement_is_retried(database: Database, write: WriteMigrations) -> None:
    """An error resets the session; without the settings a table could be created in another schema."""
    database.run("CREATE SCHEMA s; CREATE TABLE s.t (); CREATE TABLE public.t ()")
    files = write(
        m1_a=NO_TRANSACTION + "set search_path = public;\nselect pg_catalog.set_config('search_path', 's', false);\n"
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
    files = write(m1_a=NO_TRANSACTION + text)
    with pytest.raises(error, match="statement 2 of 2"):
        migrate(database, files)


def test_a_row_deleted_during_the_last_statement_is_noticed(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a=NO_TRANSACTION + "create table b ()")
    stream = applier.migrate(database.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.StatementDone) for event in stream)
    database.run("DELETE FROM ratchet.migrations")
    with pytest.raises(HistoryDisagrees, match="its history row is gone"):
        list(stream)


def test_an_open_snapshot_is_waited_for_before_a_build(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=NO_TRANSACTION + "create index concurrently i on t (x)")
    with database.connect() as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        threading.Timer(1.0, old.rollback).start()
        ran = migrate(database, files)
        (waited,) = [e for e in ran.events if isinstance(e, events.SnapshotsAwaited)]
        assert f"pid {old.info.backend_pid}, " in waited.holders[0]
    assert index_state(database, "i") is True


def test_an_open_snapshot_ends_the_wait_at_its_deadline(database: Database, write: WriteMigrations) -> None:
    """Otherwise the build would wait as long as the other transaction is open."""
    database.run("CREATE TABLE t (x int)")
    files = write(m1_a=NO_TRANSACTION + "create index concurrently i on t (x)")
    with database.connect() as old, database.connect() as shown:
        old.execute("SET application_name = 'old one'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        shown.execute("SET statement_timeout = '700ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            shown.execute("CREATE INDEX CONCURRENTLY shown_to_wait ON t (x)")
        assert index_state(database, "shown_to_wait") is False
        shown.execute("DROP INDEX shown_to_wait")
        with pytest.raises(StoppedPartWay, match=r"1_a stopped at statement 1 of 1.*open transactions") as caught:
            migrate(database, files, wait=700)
        assert f"pid {old.info.backend_pid}, old one as " in caught.value.detail
        old.rollback()
    assert last_row(database) == (0, None, False)
    assert index_state(database, "i") is None
    assert migrate(database, files).applied == ["1_a"]


def test_a_snapshot_taken_during_a_build_ends_it_by_the_lock_timeout(
    database: Database, write: WriteMigrations
) -> None:
    """The wait before the build cannot notice it. The build leaves an INVALID index, which the next run repairs."""
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
    files = write(m1_a=NO_TRANSACTION + "create index concurrently i on t (x)")
    with database.connect() as old:
        old.execute("BEGIN; LOCK TABLE t IN ROW EXCLUSIVE MODE")
        with pytest.raises(StoppedPartWay, match="lock timeout") as caught:
            migrate(database, files, wait=1500, lock_timeout=600)
        assert f"It waited for pid {old.info.backend_pid}, " in caught.value.detail
        old.rollback()
    assert last_row(database) == (0, 1, False)
    assert migrate(database, files).applied == ["1_a"]
    assert index_state(database, "i") is True


def test_a_run_that_lost_its_connection_leaves_the_file_to_the_run_that_resumed_it(
    database: Database, write: WriteMigrations
) -> None:
    """Otherwise its statements would run twice: the other run has continued from the history."""
    files = write(m1_a=NO_TRANSACTION + "create table e (n int);\ninsert into e values (1);\ninsert into e values (2)")
    first = applier.migrate(database.connect, History(), files, None, MigrateOptions("first"))
    assert any(isinstance(event, events.StatementDone) for event in first)
    ((pid,),) = database.rows("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
    database.rows(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert migrate(database, files, run_id="second").applied == ["1_a"]
    with pytest.raises(LockBusy, match="another run resumed 1_a"):
        list(first)
    assert database.rows("SELECT n FROM e ORDER BY n") == [(1,), (2,)]


@pytest.mark.parametrize(
    "setting",
    [
        "select set_config('search_path', 's', false)",
        "SELECT /* the ( schema */ pg_catalog . Set_Config('search_path', 's', false) -- )",
        "select set_config('my.setting', '(a)', false); select set_config('search_path', 's', false)",
        'set "search_path" = s',
        "set /* for ( all */ search_path to 's'",
    ],
)
def test_settings_are_repeated_however_they_are_written(
    database: Database, write: WriteMigrations, setting: str
) -> None:
    database.run("CREATE SCHEMA s")
    text = (
        NO_TRANSACTION
        + f"{setting}\n;\nselect 1 / 0;\ncreate table here as select current_setting('my.setting', true) x"
    )
    with pytest.raises(StoppedPartWay):
        migrate(database, write(m1_a=text))
    migrate(database, write(m1_a=text.replace("1 / 0", "1")))
    assert database.rows("SELECT x FROM s.here") == [("(a)" if "my.setting" in setting else None,)]


def test_a_select_that_does_more_than_setting_is_not_repeated(database: Database, write: WriteMigrations) -> None:
    database.run("CREATE SEQUENCE numbers")
    call = "select set_config('my.setting', nextval('numbers')::text, false)"
    text = (
        NO_TRANSACTION + f"{call};\nselect set_config('my.setting', 'x', false) from nextval('numbers');\nselect 1 / 0"
    )
    for _ in range(2):
        with pytest.raises(StoppedPartWay, match="statement 3 of 3"):
            migrate(database, write(m1_a=text))
    assert database.rows("SELECT last_value FROM numbers") == [(2,)]
