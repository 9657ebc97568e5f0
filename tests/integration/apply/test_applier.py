"""The applier on real servers: what it promises, and what becomes of each failure."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import AdoptedRow, History
from pgratchet.errors import (
    BackupFailed,
    ConfigurationError,
    HistoryDisagrees,
    LockBusy,
    MigrationFailed,
    OutcomeUnknown,
    StoppedPartWay,
    Unreachable,
)
from pgratchet.migrations import files as migrations
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import make_plan
from tests.faults.round_trips import CountedConnections
from tests.servers.databases import Database
from tests.support.migrations import RunEvents, WriteMigrations
from tests.support.waiting import until

pytestmark = pytest.mark.every_major

LEDGER = History()
Files = Sequence[Migration]


def migrate(database: Database, files: Files, backup: applier.Backup | None = None, **options: object) -> RunEvents:
    given = MigrateOptions(**{"run_id": "run", **options})  # type: ignore[arg-type]
    return RunEvents(list(applier.migrate(database.connect, LEDGER, files, backup, given)))


def history(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT name, executed_at IS NOT NULL FROM ratchet.migrations ORDER BY id")


def test_files_are_applied_in_order_with_their_rows(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a="create table a (x int);", m2_b="insert into a values (1); -- no semicolon behind\nselect pg_sleep(0.02)"
    )
    ran = migrate(database, files, without_backup="because")
    assert ran.applied == ["1_a", "2_b"]
    assert isinstance(ran.events[0], events.Planned)
    assert ran.events[-1] == events.Finished(total=2, pending=0)
    rows = database.rows(
        "SELECT name, checksum, body, run_id, backup_id, backup_waived, tool_version, source,"
        " applied_by = session_user, executed_at >= created_at, duration_ms >= 0 FROM ratchet.migrations ORDER BY id"
    )
    assert rows[1][:8] == ("2_b", files[1].checksum, files[1].text().decode(), "run", None, "because", "0.1.0", "run")
    assert rows[1][8:] == (True, True, True)
    applied = [e for e in ran.events if isinstance(e, events.MigrationApplied)]
    assert database.rows("SELECT name, duration_ms FROM ratchet.migrations ORDER BY id") == [
        (e.name, e.duration_ms) for e in applied
    ]
    assert applied[1].duration_ms >= 20


@pytest.mark.parametrize(("count", "trips"), [(1, 4), (100, 4), (101, 5)])
def test_a_hundred_files_take_one_round_trip(
    database: Database, write: WriteMigrations, count: int, trips: int
) -> None:
    """Beside looking at the server, the lock, and the table; what is there in the end comes with the last batch."""
    line = CountedConnections(database.parameters)
    files = write(**{f"m{n}_x": f"create table t{n} ()" for n in range(1, count + 1)})
    ran = list(applier.migrate(line.connect, LEDGER, files, None, MigrateOptions("run")))
    assert ran[-1] == events.Finished(total=count, pending=0)
    assert line.trips == trips


def test_only_the_last_of_a_batch_waits_for_the_disk(database: Database, write: WriteMigrations) -> None:
    """The log is written in order: where that COMMIT is on the disk, all before it are. No file can waive it."""
    files = write(
        m1_a="create table seen (name text, waits text);"
        "create function see() returns trigger language plpgsql as $$ begin"
        " insert into public.seen values (new.name, current_setting('synchronous_commit')); return null; end $$;"
        "create trigger see after update on ratchet.migrations for each row execute function see()",
        m2_b="set synchronous_commit = off",
        m3_c="create table c (x int);\nset synchronous_commit = off;\ncopy c from stdin;\n1\n\\.\n",
        m4_d="select 4",
    )
    migrate(database, files, batch_size=2)
    waits = database.rows("SELECT name, waits FROM seen")
    assert waits == [("1_a", "off"), ("2_b", "on"), ("3_c", "on"), ("4_d", "on")]


def test_a_second_run_does_nothing_and_takes_no_lock(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()")
    migrate(database, files)
    before = database.fingerprint()
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (LEDGER.lock_key,))
        ran = migrate(database, files, wait=0)
    assert [type(e) for e in ran.events] == [events.Planned, events.Finished]
    assert database.fingerprint() == before


def test_a_run_that_another_was_faster_than_does_nothing_and_counts_what_is_there(
    database: Database, write: WriteMigrations
) -> None:
    files = write(m1_a="create table a ()", m2_b="create table b ()")
    stream = applier.migrate(database.connect, LEDGER, files, None, MigrateOptions("run"))
    assert next(stream) == events.Planned(("1_a", "2_b"), total=2, pending=2)
    migrate(database, files, run_id="other")
    rest = RunEvents(list(stream))
    assert rest.applied == []
    assert rest.events[-1] == events.Finished(total=2, pending=0)


def test_reading_the_plan_writes_nothing(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()")
    before = database.fingerprint()
    stream = applier.migrate(database.connect, LEDGER, files, None, MigrateOptions("run"))
    assert next(stream) == events.Planned(("1_a",), total=1, pending=1)
    stream.close()
    with database.connect() as connection:
        assert make_plan(files, LEDGER.read(connection)).names("pending") == ("1_a",)
    assert database.fingerprint() == before


def test_to_stops_there(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()", m2_b="create table b ()")
    ran = migrate(database, files, to="1_a")
    assert ran.events[-1] == events.Finished(total=2, pending=1)
    assert history(database) == [("1_a", True)]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_a_failing_file_leaves_nothing_and_earlier_ones_stay(
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
    assert error.place is not None
    assert (error.place.line, error.place.column, error.place.sqlstate) == (3, 3, "23505")
    assert history(database) == [("1_a", True)]
    assert database.rows("SELECT to_regclass('b'), to_regclass('c')") == [(None, None)]
    assert migrate(database, write(m2_b="create table b ()")).applied == ["2_b", "3_c"]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_a_syntax_error_does_not_hold_back_the_files_before_it(
    database: Database, write: WriteMigrations, batch_size: int
) -> None:
    """The server parses a whole round trip first: nothing of it has run when it finds the error."""
    files = write(m9_a="create table a ()", m10_b="-- ä😀\n\n create tabel b ();", m11_c="create table c ()")
    with pytest.raises(MigrationFailed, match=r"10_b failed at line 3, column 9: syntax error") as caught:
        migrate(database, files, batch_size=batch_size)
    assert caught.value.detail == "9_a was applied; 10_b was rolled back."
    assert history(database) == [("9_a", True)]


def test_an_unfinished_statement_is_placed_at_its_end(database: Database, write: WriteMigrations) -> None:
    with pytest.raises(MigrationFailed, match="line 1, column 15: syntax error"):
        migrate(database, write(m1_a="create table a"))


def test_an_error_inside_a_function_is_placed_at_its_call(database: Database, write: WriteMigrations) -> None:
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


DEFERRED = (
    "create function f() returns trigger language plpgsql as"
    " $$ begin raise exception 'not so' using errcode = '21000'; end $$;"
    "create table d (); create constraint trigger c after insert on d deferrable initially deferred"
    " for each row execute function f(); insert into d default values"
)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("select nothing", "Fix "),
        ("select 1 / 0", "Fix "),
        (DEFERRED, "Fix "),
        (DEFERRED.replace("21000", "23000"), "Fix "),
        ("do $$ begin raise exception 'x' using errcode = '58030'; end $$", "Fix "),
        ("set local statement_timeout = 20; select pg_sleep(5)", "Give it time with `-- migrate: statement-timeout=5"),
        ("delete from ratchet.migrations where name = '3_c'", "It must leave its own row of the history"),
        ("select pg_terminate_backend(pg_backend_pid())", "The connection was lost, which need not be the fault of"),
    ],
)
def test_a_failure_says_what_to_do_and_what_stays(
    database: Database, write: WriteMigrations, text: str, advice: str
) -> None:
    files = write(m1_a="select 1", m2_b="select 2", m3_c=text)
    with pytest.raises(MigrationFailed, match="migration 3_c failed") as caught:
        migrate(database, files)
    assert caught.value.hint.startswith(advice)
    assert f" {files[2].path}; then run `invoke migrate` again." in caught.value.hint
    assert caught.value.detail.endswith("1_a and 2_b were applied; 3_c was rolled back.")


def test_what_a_file_sets_never_reaches_the_next(database: Database, write: WriteMigrations) -> None:
    database.run("DO $$ BEGIN CREATE ROLE someone NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    files = write(
        m1_a="set search_path = pg_catalog; set statement_timeout = '1s';"
        "select set_config('standard_conforming_strings', 'off', false);"
        "create temp table left_behind (); prepare p as select 1; set session_replication_role = replica;"
        "select set_config('my.setting', 'kept', false)",
        m2_b="create table probe as select current_setting('search_path') as path, current_user as who, 'a\\' as s,"
        " current_setting('statement_timeout') as time, coalesce(current_setting('my.setting', true), '') as mine,"
        " to_regclass('left_behind') as temp, (select count(*) from pg_prepared_statements) as prepared,"
        " current_setting('session_replication_role') as role",
        m3_c="set role someone",
        m4_d="create table probe_2 as select current_user as who; set session authorization someone",
        m5_e="create table probe_3 as select session_user as who",
    )
    migrate(database, files, batch_size=2)
    owner = database.parameters["user"]
    assert database.rows("SELECT path, who, s, time, mine, temp, prepared, role FROM public.probe") == [
        ('"$user", public', owner, "a\\", "30s", "", None, 0, "origin")
    ]
    assert database.rows("SELECT probe_2.who, probe_3.who FROM probe_2, probe_3") == [(owner, owner)]


def test_notices_are_passed_on(database: Database, write: WriteMigrations) -> None:
    ran = migrate(database, write(m1_a="do $$ begin raise notice 'seen'; end $$"))
    assert ran.of(events.ServerNotice) == [events.ServerNotice("NOTICE", "seen")], "and none about our own statements"


def test_directives_bound_a_files_statements_and_locks(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="-- migrate: statement-timeout=100ms\nselect pg_sleep(5)")
    with pytest.raises(
        MigrationFailed, match="line 2, column 1: canceling statement due to statement timeout"
    ) as caught:
        migrate(database, files)
    assert "statement-timeout=5min" in caught.value.hint
    files = write(
        m1_a="-- migrate: statement-timeout=0\n-- migrate: lock-timeout=7s\n"
        "create table t as select current_setting('statement_timeout') as a, current_setting('lock_timeout') as b"
    )
    migrate(database, files)
    assert database.rows("SELECT a, b FROM t") == [("0", "7s")]


def test_a_lock_is_tried_for_again_until_it_is_free(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a ()"))
    files = write(m2_b="alter table a add column x int")
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE a IN ACCESS SHARE MODE")
        threading.Timer(1.0, holder.rollback).start()
        ran = migrate(database, files, lock_timeout=200)
    assert ran.of(events.Retrying)
    assert ran.applied == ["2_b"]


def test_a_lock_that_stays_ends_the_run_by_its_deadline(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a ()"))
    files = write(m2_b="alter table a add column x int")
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE a IN ACCESS SHARE MODE")
        with pytest.raises(MigrationFailed, match="lock timeout"):
            migrate(database, files, lock_timeout=100, wait=500)
        holder.rollback()
    assert history(database) == [("1_a", True)]


def test_the_holder_of_the_migration_lock_is_named(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()")
    before = database.fingerprint()
    with database.connect() as holder:
        holder.execute("SET application_name = 'the other one'; SELECT pg_advisory_lock(%s)" % LEDGER.lock_key)  # noqa: UP031
        with pytest.raises(LockBusy) as caught:
            migrate(database, files, wait=300)
        assert f"pid {holder.info.backend_pid}, the other one as " in caught.value.detail
    assert database.fingerprint() == before


@pytest.mark.parametrize("runners", [2, 20])
def test_runners_started_together_apply_each_file_once(
    database: Database, write: WriteMigrations, runners: int
) -> None:
    files = write(**{f"m{n}_x": f"create table t{n} (); select pg_sleep(0.02)" for n in range(1, 8)})
    barrier = threading.Barrier(runners)
    outcomes: list[list[str] | BaseException] = []

    def one(number: int) -> None:
        barrier.wait()
        try:
            outcomes.append(migrate(database, files, run_id=f"run {number}", batch_size=2).applied)
        except BaseException as error:  # noqa: BLE001
            outcomes.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(runners)]
    connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (LEDGER.lock_key,))
        for thread in threads:
            thread.start()
        until(lambda: database.rows(connected) == [(runners + 1,)], 30)
        assert outcomes == [], "all are there, and none has begun"
        holder.execute("SELECT pg_advisory_unlock_all()")
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, outcomes)) == sorted(map(str, [[f.name for f in files], *[[]] * (runners - 1)]))
    assert len(history(database)) == 7


def test_without_the_lock_the_unique_row_keeps_two_runs_apart(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler: both believe that they hold the lock, and meet at the history row."""
    files = write(m1_a="create table a (); select pg_sleep(0.5)", m2_b="create table b ()")
    monkeypatch.setattr(History, "lock_key", property(lambda _: random.getrandbits(62)))
    barrier = threading.Barrier(2)
    applied: list[str] = []

    def one(number: int) -> None:
        barrier.wait()
        applied.extend(migrate(database, files, run_id=f"run {number}").applied)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(applied) == ["1_a", "2_b"]
    assert history(database) == [("1_a", True), ("2_b", True)]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda folder: (folder / "1_a.sql").write_text("create table other ()"), "changed since"),
        (lambda folder: (folder / "1_a.sql").unlink(), "its file is gone"),
        (lambda folder: (folder / "0_late.sql").write_text("create table late ()"), "not applied, but the newer"),
        (lambda folder: (folder / "2_b.sql").rename(folder / "4_b.sql"), "2_b: applied, but its file is gone. 4_b has"),
        (lambda folder: (folder / "1_a.sql").rename(folder / "1_z.sql"), "1_a: applied, but its file is gone. 1_z has"),
        (lambda folder: (folder / "2_b.sql").rename(folder / "02_b.sql"), "gone. 02_b has the same text: it looks ren"),
    ],
)
def test_files_and_history_that_disagree_stop_everything(
    database: Database, write: WriteMigrations, sql_folder: Path, change: object, state: str
) -> None:
    migrate(database, write(m1_a="create table a ()", m2_b="create table b ()"))
    files = write(m3_c="create table c ()")
    with database.connect() as session:
        rows = LEDGER.read(session)
    assert make_plan(files, rows).disagreements() == ()
    change(sql_folder)  # type: ignore[operator]
    assert make_plan(migrations.read(sql_folder), rows).todo, "a run that looked away would go on"
    before = database.fingerprint()
    for to in (None, "3_c"):
        with pytest.raises(HistoryDisagrees, match="disagree about") as caught:
            migrate(database, migrations.read(sql_folder), to=to)
        assert state in caught.value.detail
    assert database.fingerprint() == before


def test_a_changed_file_is_shown_as_a_difference(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a ();\n"))
    with pytest.raises(HistoryDisagrees) as caught:
        migrate(database, write(m1_a="create table b ();\n"))
    assert "-create table a ();\n+create table b ();" in caught.value.detail


def test_the_backup_comes_before_the_first_statement_and_under_the_lock(
    database: Database, write: WriteMigrations
) -> None:
    seen: list[object] = []

    def backup(_: psycopg.Connection) -> events.Stream:
        seen.append(database.rows("SELECT to_regclass('a'), to_regclass('ratchet.migrations')"))
        seen.append(database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"))
        yield events.BackupTaken("id", "path", 1, 1)

    migrate(database, write(m1_a="create table a ()"), backup)
    assert seen == [[(None, None)], [(1,)]]
    assert database.rows("SELECT backup_id FROM ratchet.migrations") == [("id",)]
    assert len(seen) == 2


def test_the_backup_is_named_where_a_migration_fails(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield events.BackupTaken("20250111T093000-abcd", "path", 1, 1)

    files = write(m1_a="select 1 / 0")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files, backup)
    assert caught.value.hint.endswith(" The backup taken before this run is 20250111T093000-abcd.")
    with pytest.raises(MigrationFailed) as caught:
        migrate(database, files)
    assert caught.value.hint.endswith("; then run `invoke migrate` again.")


def test_no_backup_no_migration(database: Database, write: WriteMigrations) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield from ()
        raise BackupFailed("no", hint="None.")

    before = database.fingerprint()
    with pytest.raises(BackupFailed):
        migrate(database, write(m1_a="create table a ()"), backup)
    assert database.fingerprint() == before


def test_what_only_adds_goes_without_a_backup_where_that_is_the_policy(
    database: Database, write: WriteMigrations
) -> None:
    def backup(_: psycopg.Connection) -> events.Stream:
        yield events.BackupTaken("id", "path", 1, 1)

    files = write(m1_a="create table a (x int)", m2_b="insert into a values (1)")
    migrate(database, files, backup, only_destructive=True)
    files = write(m3_c="alter table a add y int", m4_d="drop table a")
    migrate(database, files, backup, only_destructive=True, to="3")
    migrate(database, files, backup, only_destructive=True)
    migrate(database, write(m5_e="create table b ()"), backup, only_destructive=True, without_backup="said so")
    assert database.rows("SELECT name, backup_id, backup_waived FROM ratchet.migrations ORDER BY id") == [
        ("1_a", None, "nothing destructive"),
        ("2_b", None, "nothing destructive"),
        ("3_c", None, "nothing destructive"),
        ("4_d", "id", None),
        ("5_e", None, "said so"),
    ]


def test_what_cannot_run_is_refused_before_lock_and_backup(database: Database, write: WriteMigrations) -> None:
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
    stream = applier.migrate(database.connect, LEDGER, write(m1_a="create table a ()"), None, MigrateOptions("run"))
    with pytest.raises(ConfigurationError, match="is read-only"):
        next(stream)
    assert database.fingerprint() == before


def test_a_server_that_is_not_the_pinned_one_is_refused(database: Database, write: WriteMigrations) -> None:
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="not on the server") as caught:
        migrate(database, write(m1_a="create table a ()"), pinned_identifier="1")
    assert database.fingerprint() == before
    ((own,),) = database.rows("SELECT system_identifier::text FROM pg_control_system()")
    assert str(own) in caught.value.detail
    assert migrate(database, write(), pinned_identifier=str(own)).applied == ["1_a"]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_a_line_cut_during_a_migration_is_resolved_from_the_server(
    database: Database, write: WriteMigrations, batch_size: int
) -> None:
    """The backend ends itself inside the second file: rolled back, said so, and the first stays."""
    files = write(m1_a="create table a ()", m2_b="create table b (); select pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(MigrationFailed, match="2_b failed") as caught:
        migrate(database, files, wait=5000, batch_size=batch_size)
    assert "1_a was applied; 2_b was rolled back" in caught.value.detail
    assert history(database) == [("1_a", True)]
    assert database.locks() == []


def test_an_outcome_that_cannot_be_asked_for_is_said_to_be_unknown(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a (); select pg_terminate_backend(pg_backend_pid())")
    first: list[bool] = []

    def connect() -> psycopg.Connection:
        if first:
            raise Unreachable("gone", hint="None.")
        first.append(True)
        return database.connect()

    with pytest.raises(OutcomeUnknown, match="whether 1_a took effect is unknown"):
        list(applier.migrate(connect, LEDGER, files, None, MigrateOptions("run", wait=600)))


def test_a_history_with_another_name_is_used(database: Database, write: WriteMigrations) -> None:
    ledger = History('odd "schema"', "odd 'table'")
    files = write(m1_a="create table a ()")
    list(applier.migrate(database.connect, ledger, files, None, MigrateOptions("run")))
    with database.connect() as connection:
        assert [r.name for r in ledger.read(connection)] == ["1_a"]
        assert History().read(connection) == []


def test_a_hostile_name_in_a_text_is_only_text(database: Database, write: WriteMigrations) -> None:
    text = "-- '; DROP TABLE ratchet.migrations; -- \\ $$ %s %% {table}\ncreate table a ();\n"
    migrate(database, write(m1_a=text))
    assert database.rows("SELECT body FROM ratchet.migrations") == [(text,)]


def test_many_statements_and_odd_texts(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_empty="",
        m2_comment="-- nothing\n/* at all */",
        m3_many="create table n (x int);" + "insert into n values (1);" * 5000,
        m4_atomic="create function f() returns int language sql begin atomic select 1; select 2; end; select f();",
        m5_dollar="do $x$ begin perform ';'; end $x$",
    )
    assert len(migrate(database, files).applied) == 5
    assert database.rows("SELECT count(*) FROM n") == [(5000,)]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_encodings_and_defaults_that_a_file_sets_never_reach_the_next(
    database: Database, write: WriteMigrations, batch_size: int
) -> None:
    """The server decodes and parses a string before it runs any of it, and begins a transaction by the defaults."""
    files = write(
        m1_a="set client_encoding = 'LATIN1'; set datestyle = 'German';"
        "select set_config('standard_conforming_strings', 'off', false);"
        "set default_transaction_read_only = on; set default_transaction_isolation = 'serializable'",
        m2_b="create table t as select 'café €'::text as a, 'C:\\new'::text as b,"
        " current_setting('transaction_isolation') as c",
    )
    assert migrate(database, files, batch_size=batch_size).applied == ["1_a", "2_b"]
    assert database.rows("SELECT a, b, c FROM t") == [("café €", "C:\\new", "read committed")]
    assert database.rows("SELECT body FROM ratchet.migrations WHERE name = '2_b'") == [(files[1].text().decode(),)]


def test_the_history_is_read_whatever_the_databases_date_style(database: Database, write: WriteMigrations) -> None:
    database.run(f"ALTER DATABASE {database.name} SET datestyle = 'German'")
    database.run(f"ALTER DATABASE {database.name} SET timezone = 'Asia/Kathmandu'")
    migrate(database, write(m1_a="create table a ()"))
    with database.connect() as connection:
        (record,) = LEDGER.read(connection)
    assert record.executed_at is not None
    assert abs(record.executed_at.timestamp() - time.time()) < 60


@pytest.mark.parametrize(
    "text",
    [
        "delete from ratchet.migrations where name = '1_a'",
        "update ratchet.migrations set checksum = 'x' where name = '1_a'",
        "savepoint s; update ratchet.migrations set body = null where name = '1_a'; release s",
    ],
)
def test_a_file_that_meddles_with_its_own_row_is_rolled_back(
    database: Database, write: WriteMigrations, text: str
) -> None:
    files = write(m1_a=f"create table a ();\n{text}")
    with pytest.raises(MigrationFailed, match="1_a failed") as caught:
        migrate(database, files)
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
def test_only_the_unique_name_of_the_history_means_that_another_run_was_first(
    database: Database, write: WriteMigrations, text: str, reason: str
) -> None:
    files = write(m1_a="select 1", m2_b=text, m3_c="select 3")
    with pytest.raises(MigrationFailed, match=f"migration 2_b failed.*: .*{reason}"):
        migrate(database, files)
    assert history(database) == [("1_a", True)]


def test_a_file_that_fakes_the_next_ones_row_is_found_out(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_a="insert into ratchet.migrations (name, checksum, run_id, tool_version, executed_at)"
        " values ('2_b', 'fake', 'r', 't', now())",
        m2_b="create table b ()",
    )
    with pytest.raises(HistoryDisagrees, match="1 migration"):
        migrate(database, files)


def test_what_ends_our_transaction_unseen_is_never_called_rolled_back(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the lexer had been fooled: the net behind it is the row itself."""
    monkeypatch.setattr("pgratchet.migrations.lexer.transaction_control", lambda _: None)
    files = write(m1_a="create table half (); commit; select 1 / 0")
    with pytest.raises(StoppedPartWay, match="1_a ended its own transaction"):
        migrate(database, files)
    assert database.rows("SELECT to_regclass('half') IS NULL") == [(False,)]
    assert history(database) == [("1_a", False)]
    files = write(m1_a="create table half (); commit; select 1", m2_b="create table b ()")
    with pytest.raises(HistoryDisagrees):
        migrate(database, files)


def test_results_that_a_rule_adds_do_not_lead_an_error_astray(database: Database, write: WriteMigrations) -> None:
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


def test_a_lost_session_that_gave_the_lock_away_is_waited_for(database: Database, write: WriteMigrations) -> None:
    """The line is cut on this side only: the backend works on, without the lock, and commits."""
    files = write(m1_a="create table a (); select pg_advisory_unlock_all(); select pg_sleep(3)")
    lines: list[psycopg.Connection] = []

    def connect() -> psycopg.Connection:
        lines.append(database.connect())
        return lines[-1]

    def cut() -> None:
        time.sleep(1.5)
        with socket.socket(fileno=os.dup(lines[0].fileno())) as line:
            line.shutdown(socket.SHUT_RD)

    thread = threading.Thread(target=cut)
    thread.start()
    ran = list(applier.migrate(connect, LEDGER, files, None, MigrateOptions("run", wait=15_000)))
    thread.join()
    assert len(lines) == 2
    assert [e.name for e in ran if isinstance(e, events.MigrationApplied)] == ["1_a"]
    assert history(database) == [("1_a", True)]


def test_a_role_without_rights_is_told_so(database: Database, write: WriteMigrations) -> None:
    database.run(
        "DO $$ BEGIN CREATE ROLE no_rights LOGIN PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    weak = Database({**database.parameters, "user": "no_rights", "password": "x"})
    before = database.fingerprint()
    with pytest.raises(MigrationFailed, match="the server refused what the history needs: permission denied") as caught:
        migrate(weak, write(m1_a="select 1"))
    assert caught.value.hint
    assert database.fingerprint() == before


def test_a_waiver_needs_words() -> None:
    assert applier.needs_backup("always", None)
    assert applier.needs_backup("when-destructive", None)
    assert not applier.needs_backup("always", "a reason")
    assert not applier.needs_backup("never", None)
    with pytest.raises(ConfigurationError, match="needs a reason"):
        applier.needs_backup("always", " ")


def test_what_is_foreseen_is_the_history_of_a_database_that_is_fit(database: Database, write: WriteMigrations) -> None:
    assert applier.read_history(database.connect, LEDGER, "") == []
    migrate(database, write(m1_a="create table a ()"))
    assert [record.name for record in applier.read_history(database.connect, LEDGER, "")] == ["1_a"]
    with pytest.raises(ConfigurationError, match="not on the server"):
        applier.read_history(database.connect, LEDGER, "1")


def test_a_row_that_is_adopted_and_not_there_is_missed(database: Database, write: WriteMigrations) -> None:
    """A trigger swallows it: it was written, and no error came."""
    migrate(database, write(m1_a="create table a ()"))
    database.run(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER swallow BEFORE INSERT ON ratchet.migrations FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    lost = AdoptedRow("0_lost", "0" * 64, b"select 1", "adopted:baseline", "run")
    with database.connect() as session, pytest.raises(HistoryDisagrees, match="not in the history: 0_lost"):
        LEDGER.adopt(session, [lost])
    assert history(database) == [("1_a", True)]
