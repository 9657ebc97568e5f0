"""PgBouncer in transaction mode: transactional files are applied exactly once through it, and leave nothing there."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.database.pooler import keeps_session
from pgratchet.errors import ConfigurationError, LockBusy, MigrationFailed, RatchetError, StoppedPartWay
from tests.servers.databases import Database
from tests.servers.pgbouncer import StartPooler
from tests.support.migrations import RunEvents, WriteMigrations, migrate

SLOW = "select pg_sleep(0.05);"


def applied(database: Database) -> list[object]:
    rows = database.rows("SELECT name FROM ratchet.migrations WHERE executed_at IS NOT NULL ORDER BY id")
    return [name for (name,) in rows]


def test_a_session_lock_stays_behind_in_the_pooler(database: Database, pool: StartPooler) -> None:
    """The problem that the other tests are about: the state of a session stays on a shared connection."""
    pooled, _ = pool(1)
    with pooled.connect() as one:
        one.execute("SELECT pg_advisory_lock(7)")
        one.execute("SET search_path = ''")
    with pooled.connect() as other:
        assert other.execute("SHOW search_path").fetchall() == [('""',)]
    assert database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)]


def test_runners_through_and_past_the_pooler_apply_each_file_once(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, _ = pool()
    files = write(**{f"m{n}_x": f"create table t{n} (); {SLOW} insert into e values ({n})" for n in range(2, 12)})
    files = write(m1_e="create table e (n int)")
    barrier = threading.Barrier(6)
    outcomes: list[list[str] | BaseException] = []

    def one(number: int) -> None:
        way = database if number == 0 else pooled
        barrier.wait()
        try:
            outcomes.append(migrate(way, files, run_id=f"run {number}", batch_size=3).applied)
        except BaseException as error:  # noqa: BLE001
            outcomes.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(isinstance(outcome, list) for outcome in outcomes), outcomes
    assert sorted(name for outcome in outcomes for name in outcome) == sorted(f.name for f in files)  # type: ignore[union-attr]
    assert applied(database) == [f.name for f in files]
    assert database.rows("SELECT n, count(*) FROM e GROUP BY n ORDER BY n") == [(n, 1) for n in range(2, 12)]
    assert database.locks() == []


LEFT_BEHIND = (
    "SELECT current_setting('search_path'), current_user::text, current_setting('statement_timeout'),"
    " current_setting('lock_timeout'), current_setting('session_replication_role'), to_regclass('left_behind'),"
    " (SELECT count(*)::int FROM pg_listening_channels()),"
    " (SELECT count(*)::int FROM pg_prepared_statements WHERE from_sql), current_setting('client_encoding'),"
    " coalesce(current_setting('my.setting', true), ''), current_setting('idle_in_transaction_session_timeout')"
)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_on_the_poolers_connections(
    database: Database, pool: StartPooler, write: WriteMigrations, *, fails: bool
) -> None:
    database.run(f"ALTER DATABASE {database.name} SET idle_in_transaction_session_timeout = '7s'")
    database.run("DO $$ BEGIN CREATE ROLE someone NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    database.run("GRANT ALL ON SCHEMA public TO someone")
    pooled, _ = pool(1)
    before = pooled.rows(LEFT_BEHIND)
    with pooled.connect() as other:
        other.pgconn.prepare(b"kept", b"SELECT 42")
    files = write(
        m1_a="set search_path = ''; set statement_timeout = '9s'; create temp table left_behind (); listen x;"
        "prepare p as select 1; set session_replication_role = replica; select set_config('my.setting', 'x', false);"
        "set client_encoding = 'LATIN1'; set role someone;" + ("select 1 / 0" if fails else ""),
        m2_b="create table t as select 'café'::text as x",
    )
    if fails:
        with pytest.raises(MigrationFailed, match=r"1_a\.sql:1"):
            migrate(pooled, files)
    else:
        assert migrate(pooled, files).applied == ["1_a", "2_b"]
        assert database.rows("SELECT x FROM public.t") == [("café",)]
    assert pooled.rows(LEFT_BEHIND) == before
    assert pooled.rows("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql") == [(1,)], "not ours to end"


def test_leftovers_of_others_on_the_connections_do_not_matter(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, _ = pool(1)
    with pooled.connect() as other:
        other.execute("SET search_path = pg_catalog; SET statement_timeout = '40ms'")
    assert migrate(pooled, write(m1_a=f"create table t (); {SLOW}")).applied == ["1_a"]
    assert database.rows("SELECT to_regclass('public.t') IS NOT NULL") == [(True,)]


def test_leftovers_of_others_during_a_run_do_not_matter(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, _ = pool(1)
    files = write(m1_a=f"create table t (); {SLOW}")
    stream = applier.migrate(pooled.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.BatchSent) for event in stream)
    with pooled.connect() as other:
        other.execute("SET search_path = pg_catalog")
    assert list(stream)[-1] == events.Finished(total=1, pending=0)
    assert database.rows("SELECT to_regclass('public.t') IS NOT NULL") == [(True,)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("select 1 / 0", "division by zero"),
        ("select x::int from (values (random()::text || 'x')) as v (x)", "invalid input syntax for type integer"),
    ],
)
def test_an_error_is_located_and_earlier_files_stay(
    database: Database, pool: StartPooler, write: WriteMigrations, text: str, reason: str
) -> None:
    pooled, _ = pool()
    files = write(m1_a="create table a ()", m2_b=f"select 1;\n{text}", m3_c="create table c ()")
    with pytest.raises(MigrationFailed, match=rf"2_b\.sql:2:\d+: {reason}"):
        migrate(pooled, files)
    assert applied(database) == ["1_a"]


def test_large_files_and_rows_pass_the_pooler(database: Database, pool: StartPooler, write: WriteMigrations) -> None:
    pooled, _ = pool(1)
    files = write(
        m1_a="create table a (x int);\n" + "insert into a values (1);\n" * 20_000,
        m2_b="create table b (x int, y text);\ncopy b from stdin;\n1\tone\n2\t;'\n\\.\nselect 1;",
    )
    assert migrate(pooled, files).applied == ["1_a", "2_b"]
    assert database.rows("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)") == [(20_000, 2)]


def test_a_run_reconnects_after_the_pooler_was_restarted(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, running = pool()
    files = write(m1_a="create table e (n int)", m2_b="insert into e values (1); select pg_sleep(1.5)")
    migrate(pooled, files[:1])
    outcome: list[RunEvents | RatchetError] = []

    def run() -> None:
        try:
            outcome.append(migrate(pooled, files, run_id="second", wait=20_000))
        except RatchetError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.7)
    running.kill()
    running.start()
    thread.join(30)
    assert len(running.processes) == 2
    (ended,) = outcome
    done = applied(database)
    assert database.rows("SELECT count(*)::int FROM e") == [(len(done) - 1,)]
    if isinstance(ended, RunEvents):
        assert done == ["1_a", "2_b"]
    else:
        assert isinstance(ended, MigrationFailed), ended
        assert "2_b was rolled back" in ended.detail
        assert done == ["1_a"]
        assert migrate(pooled, files, run_id="third").applied == ["2_b"]


def no_backup(*_: object) -> events.Stream:
    raise AssertionError("a backup was begun")
    yield


@pytest.mark.parametrize(
    ("text", "backup", "reason"),
    [
        ("-- migrate: no-transaction\nvacuum", None, "1_a cannot run without a transaction"),
        ("create table a ()", no_backup, "no backup can be taken"),
    ],
)
def test_a_file_without_a_transaction_is_refused_before_anything_runs(
    database: Database, pool: StartPooler, write: WriteMigrations, text: str, backup: applier.Backup | None, reason: str
) -> None:
    pooled, _ = pool(1)
    files = write(m1_a=text)
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="through a connection pooler, where") as caught:
        list(applier.migrate(pooled.connect, History(), files, backup, MigrateOptions("run")))
    assert reason in caught.value.message
    assert "pg_direct_host" in caught.value.hint
    assert database.fingerprint() == before


def test_a_pooler_in_session_mode_is_like_a_direct_connection(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, _ = pool(5, "session")
    files = write(
        m1_a="create table t (x int)",
        m2_b="-- migrate: no-transaction\nset search_path = public;\ncreate index concurrently i on t (x);\nvacuum t",
        m3_c="set search_path = ''; create table public.u ()",
    )
    backups: list[object] = []

    def backup(session: psycopg.Connection) -> events.Stream:
        backups.extend(session.execute("SELECT pg_export_snapshot() IS NOT NULL").fetchall())
        yield events.BackupTaken("id", "path", 1, 1)

    ran = list(applier.migrate(pooled.connect, History(), files, backup, MigrateOptions("run")))
    assert ran[-1] == events.Finished(total=3, pending=0)
    assert backups == [(True,)]
    assert applied(database) == ["1_a", "2_b", "3_c"]
    assert database.locks() == []
    assert pooled.rows("SHOW search_path") == [('"$user", public',)]


def test_a_direct_run_waits_for_one_through_a_pooler_in_session_mode(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, _ = pool(5, "session")
    files = write(m1_a="-- migrate: no-transaction\ncreate table t ();\ncreate table u ()")
    stream = applier.migrate(pooled.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.StatementDone) for event in stream)
    with pytest.raises(LockBusy):
        migrate(database, files, wait=300, run_id="second")
    assert list(stream)[-1] == events.Finished(total=1, pending=0)


def test_a_run_resumes_after_the_pooler_in_session_mode_was_restarted(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, running = pool(5, "session")
    files = write(m1_a="-- migrate: no-transaction\n" + "".join(f"create table t{n} ();\n" for n in range(5)))
    stream = applier.migrate(pooled.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.StatementDone) for event in stream)
    running.kill()
    running.start()
    with pytest.raises(StoppedPartWay, match=r"statement 2 of 5.*closed the connection"):
        list(stream)
    assert migrate(pooled, files, run_id="second").applied == ["1_a"]
    assert database.rows("SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]$'") == [(5,)]


@pytest.mark.parametrize("size", [1, 2, 10])
@pytest.mark.parametrize("busy", [False, True])
def test_transaction_mode_is_never_taken_for_session_mode(
    database: Database, pool: StartPooler, size: int, *, busy: bool
) -> None:
    pooled, _ = pool(size)
    ended = threading.Event()

    def work() -> None:
        with pooled.connect() as other:
            while not ended.is_set():
                other.execute("SELECT pg_sleep(0.001)")

    threads = [threading.Thread(target=work) for _ in range(3 if busy else 0)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with pooled.connect() as session:
                assert not keeps_session(session)
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


def test_a_full_pool_in_session_mode_is_refused(
    database: Database, pool: StartPooler, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no second session to find out its mode with."""
    monkeypatch.setattr("pgratchet.database.pooler._PATIENCE", 0.5)
    pooled, _ = pool(1, "session")
    before = database.fingerprint()
    with pytest.raises(ConfigurationError, match="through a connection pooler") as caught:
        migrate(pooled, write(m1_a="-- migrate: no-transaction\nvacuum"))
    assert "has no free session" in caught.value.detail
    assert database.fingerprint() == before


def test_a_run_with_nothing_to_do_accepts_a_pooler(
    database: Database, pool: StartPooler, write: WriteMigrations
) -> None:
    pooled, _ = pool(1)
    files = write(m1_a="-- migrate: no-transaction\ncreate table a ()")
    migrate(database, files)
    ran = list(applier.migrate(pooled.connect, History(), files, no_backup, MigrateOptions("run")))
    assert [type(event) for event in ran] == [events.Planned, events.Finished]


@pytest.mark.parametrize(
    "text", ["create table a ()", "create table a (x int);\ncopy a from stdin;\n1\n\\.\n"], ids=["a batch", "windows"]
)
@pytest.mark.parametrize("released", [True, False])
def test_a_run_through_the_pooler_yields_to_a_direct_run(
    database: Database, pool: StartPooler, write: WriteMigrations, text: str, *, released: bool
) -> None:
    """The direct run holds the lock for its session. Behind the pooler each transaction asks for the lock again."""
    pooled, _ = pool()
    files = write(m1_a=text)
    stream = applier.migrate(pooled.connect, History(), files, None, MigrateOptions("run", wait=1000))
    assert any(isinstance(event, events.BatchSent) for event in stream)
    with database.connect() as other:
        other.execute("SELECT pg_advisory_lock(%s)", (History().lock_key,))
        if released:
            threading.Timer(0.4, other.close).start()
            rest = list(stream)
            reasons = {e.reason for e in rest if isinstance(e, events.Retrying)}
            assert reasons == {"another run holds the migration lock"}
            assert rest[-1] == events.Finished(total=1, pending=0)
            return
        with pytest.raises(LockBusy, match="another run holds the migration lock"):
            list(stream)
    assert applied(database) == []
