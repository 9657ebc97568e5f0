"""The applier on real servers: order, round trips, settings and the history."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import AdoptedRow, History
from pgratchet.errors import (
    ConfigurationError,
    HistoryDisagrees,
    MigrationFailed,
)
from pgratchet.migrations import files as migrations
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import make_plan
from tests.faults.round_trips import CountedConnections
from tests.servers.databases import Database
from tests.support.migrations import HISTORY, WriteMigrations, history, migrate

pytestmark = pytest.mark.every_major

Files = Sequence[Migration]


def test_files_are_applied_in_order_and_recorded(database: Database, write: WriteMigrations) -> None:
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


@pytest.mark.parametrize(("count", "trips"), [(1, 5), (100, 5), (101, 6)])
def test_a_hundred_files_take_one_round_trip(
    database: Database, write: WriteMigrations, count: int, trips: int
) -> None:
    """Besides the round trips for inspection, contents, lock and table. The final history comes with the last batch."""
    line = CountedConnections(database.parameters)
    files = write(**{f"m{n}_x": f"create table t{n} ()" for n in range(1, count + 1)})
    ran = list(applier.migrate(line.connect, HISTORY, files, None, MigrateOptions("run")))
    assert ran[-1] == events.Finished(total=count, pending=0)
    assert line.trips == trips


def test_only_the_last_of_a_batch_waits_for_the_disk(database: Database, write: WriteMigrations) -> None:
    """The log is written in order: once the last COMMIT is on disk, all earlier ones are. No file can turn this off."""
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
        holder.execute("SELECT pg_advisory_lock(%s)", (HISTORY.lock_key,))
        ran = migrate(database, files, wait=0)
    assert [type(e) for e in ran.events] == [events.Planned, events.Finished]
    assert database.fingerprint() == before


def test_reading_the_plan_writes_nothing(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()")
    before = database.fingerprint()
    stream = applier.migrate(database.connect, HISTORY, files, None, MigrateOptions("run"))
    assert next(stream) == events.Planned(("1_a",), total=1, pending=1)
    stream.close()
    with database.connect() as connection:
        assert make_plan(files, HISTORY.read(connection)).names("pending") == ("1_a",)
    assert database.fingerprint() == before


def test_to_stops_after_the_named_file(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="create table a ()", m2_b="create table b ()")
    ran = migrate(database, files, to="1_a")
    assert ran.events[-1] == events.Finished(total=2, pending=1)
    assert history(database) == [("1_a", True)]


def test_settings_of_a_file_do_not_reach_the_next(database: Database, write: WriteMigrations) -> None:
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


def test_notices_of_the_server_are_reported(database: Database, write: WriteMigrations) -> None:
    ran = migrate(database, write(m1_a="do $$ begin raise notice 'seen'; end $$"))
    assert ran.of(events.ServerNotice) == [events.ServerNotice("NOTICE", "seen")], "and none about our own statements"


def test_directives_limit_statements_and_locks_of_their_file(database: Database, write: WriteMigrations) -> None:
    files = write(m1_a="-- migrate: statement-timeout=100ms\nselect pg_sleep(5)")
    with pytest.raises(MigrationFailed, match=":2:1: canceling statement due to statement timeout") as caught:
        migrate(database, files)
    assert "statement-timeout=5min" in caught.value.hint
    files = write(
        m1_a="-- migrate: statement-timeout=0\n-- migrate: lock-timeout=7s\n"
        "create table t as select current_setting('statement_timeout') as a, current_setting('lock_timeout') as b"
    )
    migrate(database, files)
    assert database.rows("SELECT a, b FROM t") == [("0", "7s")]


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
def test_a_disagreement_of_files_and_history_stops_the_run(
    database: Database, write: WriteMigrations, sql_folder: Path, change: object, state: str
) -> None:
    migrate(database, write(m1_a="create table a ()", m2_b="create table b ()"))
    files = write(m3_c="create table c ()")
    with database.connect() as session:
        rows = HISTORY.read(session)
    assert make_plan(files, rows).disagreements() == ()
    change(sql_folder)  # type: ignore[operator]
    assert make_plan(migrations.read(sql_folder), rows).todo, "a run that looked away would go on"
    before = database.fingerprint()
    for to in (None, "3_c"):
        with pytest.raises(HistoryDisagrees, match="disagree about") as caught:
            migrate(database, migrations.read(sql_folder), to=to)
        assert state in caught.value.detail
    assert database.fingerprint() == before


def test_the_history_table_can_have_another_name(database: Database, write: WriteMigrations) -> None:
    ledger = History('odd "schema"', "odd 'table'")
    files = write(m1_a="create table a ()")
    list(applier.migrate(database.connect, ledger, files, None, MigrateOptions("run")))
    with database.connect() as connection:
        assert [r.name for r in ledger.read(connection)] == ["1_a"]
        assert History().read(connection) == []


def test_sql_in_a_text_value_is_not_executed(database: Database, write: WriteMigrations) -> None:
    text = "-- '; DROP TABLE ratchet.migrations; -- \\ $$ %s %% {table}\ncreate table a ();\n"
    migrate(database, write(m1_a=text))
    assert database.rows("SELECT body FROM ratchet.migrations") == [(text,)]


def test_many_statements_and_unusual_texts_are_applied(database: Database, write: WriteMigrations) -> None:
    files = write(
        m1_empty="-- migrate: empty",
        m2_comment="-- nothing\n/* at all */\n-- migrate: empty",
        m3_many="create table n (x int);" + "insert into n values (1);" * 5000,
        m4_atomic="create function f() returns int language sql begin atomic select 1; select 2; end; select f();",
        m5_dollar="do $x$ begin perform ';'; end $x$",
    )
    assert len(migrate(database, files).applied) == 5
    assert database.rows("SELECT count(*) FROM n") == [(5000,)]


@pytest.mark.parametrize("batch_size", [1, 10])
def test_encodings_and_defaults_of_a_file_do_not_reach_the_next(
    database: Database, write: WriteMigrations, batch_size: int
) -> None:
    """The server decodes and parses a whole string before it runs it, and begins a transaction with the defaults."""
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


def test_the_history_is_read_with_any_date_style(database: Database, write: WriteMigrations) -> None:
    database.run(f"ALTER DATABASE {database.name} SET datestyle = 'German'")
    database.run(f"ALTER DATABASE {database.name} SET timezone = 'Asia/Kathmandu'")
    migrate(database, write(m1_a="create table a ()"))
    with database.connect() as connection:
        (record,) = HISTORY.read(connection)
    assert record.executed_at is not None
    assert abs(record.executed_at.timestamp() - time.time()) < 60


def test_read_history_returns_the_rows_of_a_suitable_database(database: Database, write: WriteMigrations) -> None:
    assert applier.read_history(database.connect, HISTORY, "") == []
    migrate(database, write(m1_a="create table a ()"))
    assert [record.name for record in applier.read_history(database.connect, HISTORY, "")] == ["1_a"]
    with pytest.raises(ConfigurationError, match="another cluster"):
        applier.read_history(database.connect, HISTORY, "1")


def test_adopting_a_row_that_is_missing_raises(database: Database, write: WriteMigrations) -> None:
    """A trigger discards the row without an error."""
    migrate(database, write(m1_a="create table a ()"))
    database.run(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER swallow BEFORE INSERT ON ratchet.migrations FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    lost = AdoptedRow("0_lost", "0" * 64, b"select 1", "adopted:baseline", "run")
    with database.connect() as session, pytest.raises(HistoryDisagrees, match="not in the history: 0_lost"):
        HISTORY.adopt(session, [lost])
    assert history(database) == [("1_a", True)]
