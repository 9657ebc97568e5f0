"""Other runs, old snapshots and holders of locks. Each is named, and every wait is limited."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgratchet import embedded, events
from pgratchet.database.history import History
from pgratchet.errors import LockBusy, MigrationFailed, StoppedPartWay
from tests.servers.databases import Database
from tests.support.migrations import Attempt, WriteMigrations, history, migrate
from tests.support.waiting import until

HEAD = "-- migrate: no-transaction\n"
BUILD = HEAD + "create index concurrently i on t (x);"


@pytest.fixture
def database_with_table(database: Database) -> Database:
    database.run("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
    return database


def active(database: Database, begin: str) -> bool:
    """Return whether a session executes a statement that begins with this text."""
    query = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND datname = current_database()"
    return bool(database.rows(query, begin + "%"))


def valid(database: Database) -> object:
    """Return whether the index is valid; None if it does not exist."""
    rows = database.rows("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('i')")
    return rows[0][0] if rows else None


def started(attempt: Attempt) -> threading.Thread:
    thread = threading.Thread(target=attempt.run)
    thread.start()
    return thread


class Holder:
    """A session that has run a statement and keeps its transaction open for the block, or until it is ended."""

    def __init__(self, database: Database, statement: str, *, isolation: str = "READ COMMITTED") -> None:
        self._session = database.connect()
        self._session.execute("SET application_name = 'in the way'")
        self._session.execute(f"BEGIN ISOLATION LEVEL {isolation}; {statement}".encode())
        self.pid = self._session.info.backend_pid

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def end(self) -> None:
        self._session.rollback()


def test_a_concurrent_build_and_a_waiting_run_both_finish(
    database_with_table: Database, write: WriteMigrations
) -> None:
    files = write(m1_a=BUILD)
    with Holder(database_with_table, "LOCK TABLE t IN ROW EXCLUSIVE MODE") as holder:
        first = Attempt(database_with_table, files, run_id="first")
        second = Attempt(database_with_table, files, run_id="second")
        threads = [started(first)]
        until(lambda: active(database_with_table, "create index concurrently"))
        threads.append(started(second))
        until(lambda: second.ran.of(events.LockAwaited))
        time.sleep(1.5)  # a deadlock is looked for after one second
        holder.end()
        for thread in threads:
            thread.join(30)
    assert (first.error, second.error) == (None, None)
    assert (first.applied, second.applied) == (["1_a"], [])
    assert valid(database_with_table) is True


def test_waiting_inside_the_lock_function_deadlocks_with_a_concurrent_build(database_with_table: Database) -> None:
    """The reason for polling. One of the two sessions waits as a simple runner would."""
    key = History().lock_key
    failed: list[str | None] = []

    def attempt(session: psycopg.Connection, statement: str) -> None:
        try:
            session.execute(statement.encode())
        except psycopg.Error as error:
            failed.append(error.sqlstate)

    with database_with_table.connect() as holder, database_with_table.connect() as waiter:
        holder.execute("SELECT pg_advisory_lock(%s)", (key,))
        thread = threading.Thread(target=attempt, args=(waiter, f"SELECT pg_advisory_lock({key})"))
        thread.start()
        until(lambda: active(database_with_table, "SELECT pg_advisory_lock"))
        attempt(holder, "CREATE INDEX CONCURRENTLY i ON t (x)")
        holder.execute("SELECT pg_advisory_unlock_all()")
        thread.join(10)
    assert failed == ["40P01"]


def test_an_old_snapshot_is_named_and_nothing_begins(database_with_table: Database, write: WriteMigrations) -> None:
    files = write(m1_a=BUILD)
    with Holder(database_with_table, "SELECT 1", isolation="REPEATABLE READ") as holder:
        with database_with_table.connect() as simple:
            simple.execute("SET statement_timeout = '300ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                simple.execute("CREATE INDEX CONCURRENTLY i ON t (x)")
        assert valid(database_with_table) is False, "the server begins it, waits, and leaves an INVALID index"
        database_with_table.run("DROP INDEX i")
        began = time.monotonic()
        with pytest.raises(StoppedPartWay, match="open transactions would keep it waiting") as caught:
            migrate(database_with_table, files, wait=1_000)
        assert time.monotonic() - began < 3, "the wait is 1 s"
        assert f"pid {holder.pid}, in the way as " in caught.value.detail
        assert "pg_terminate_backend" in caught.value.hint
    assert valid(database_with_table) is None
    assert database_with_table.rows("SELECT statements_done, statement_begun FROM ratchet.migrations") == [(0, None)]
    assert migrate(database_with_table, files).applied == ["1_a"]
    assert valid(database_with_table) is True


def test_a_build_continues_when_the_snapshot_ends_in_time(
    database_with_table: Database, write: WriteMigrations
) -> None:
    attempt = Attempt(database_with_table, write(m1_a=BUILD), wait=20_000)
    with Holder(database_with_table, "SELECT 1", isolation="REPEATABLE READ") as holder:
        thread = started(attempt)
        until(lambda: attempt.ran.of(events.SnapshotsAwaited))
        (awaited,) = attempt.ran.of(events.SnapshotsAwaited)
        holder.end()
        ended = time.monotonic()
        thread.join(30)
    assert isinstance(awaited, events.SnapshotsAwaited)
    assert f"pid {holder.pid}" in awaited.holders[0]
    assert time.monotonic() - ended < 2
    assert (attempt.error, attempt.applied) == (None, ["1_a"])
    assert valid(database_with_table) is True


def test_a_snapshot_taken_during_a_build_is_limited_too(database_with_table: Database, write: WriteMigrations) -> None:
    """It is too late to be noticed before the build: the lock_timeout of the statement ends the wait."""
    files = write(m1_a=BUILD)
    attempt = Attempt(database_with_table, files, wait=1_500, lock_timeout=500)
    with Holder(database_with_table, "LOCK TABLE t IN ROW EXCLUSIVE MODE") as first:
        thread = started(attempt)
        until(lambda: active(database_with_table, "create index concurrently"))
        with Holder(database_with_table, "SELECT 1", isolation="REPEATABLE READ") as second:
            first.end()
            began = time.monotonic()
            thread.join(30)
            assert time.monotonic() - began < 4
            assert isinstance(attempt.error, StoppedPartWay)
            assert "lock timeout" in attempt.error.message
            assert f"It waited for pid {second.pid}, in the way" in attempt.error.detail
    assert valid(database_with_table) is False
    assert migrate(database_with_table, files).applied == ["1_a"]
    assert valid(database_with_table) is True


def test_settings_of_a_file_hold_when_a_lock_is_retried(database_with_table: Database, write: WriteMigrations) -> None:
    database_with_table.run("CREATE SCHEMA s; CREATE TABLE s.t ()")
    files = write(m1_a=HEAD + "set search_path = s;\ncreate temp table kept ();\nalter table t add column y int")
    attempt = Attempt(database_with_table, files, wait=20_000, lock_timeout=200)
    with Holder(database_with_table, "LOCK TABLE s.t IN ACCESS SHARE MODE") as holder:
        thread = started(attempt)
        until(lambda: attempt.ran.of(events.Retrying))
        holder.end()
        thread.join(30)
    assert (attempt.error, attempt.applied) == (None, ["1_a"])
    assert database_with_table.rows("SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'y'") == [
        ("s.t",)
    ]


def test_the_blocker_is_named_with_a_shorter_lock_timeout_too(
    database_with_table: Database, write: WriteMigrations
) -> None:
    attempt = Attempt(
        database_with_table, write(m1_a="-- migrate: lock-timeout=300ms\nalter table t add column y int"), wait=300
    )
    with Holder(database_with_table, "LOCK TABLE t IN ACCESS SHARE MODE") as holder:
        attempt.run()
    assert isinstance(attempt.error, MigrationFailed)
    assert f"It waited for pid {holder.pid}, in the way as " in attempt.error.detail


class Reader:
    """Reads a table repeatedly in its own session and measures the slowest read."""

    def __init__(self, database: Database) -> None:
        self.slowest = 0.0
        self._database = database
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join(30)

    def _read(self) -> None:
        with self._database.connect() as session:
            while not self._done.wait(0.01):
                began = time.monotonic()
                session.execute("SELECT FROM t LIMIT 1")
                self.slowest = max(self.slowest, time.monotonic() - began)


def test_readers_wait_for_one_attempt_at_most_and_the_holder_is_named(
    database_with_table: Database, write: WriteMigrations
) -> None:
    files = write(m1_a="alter table t add column y int")
    attempt = Attempt(database_with_table, files, wait=3_000, lock_timeout=700)
    with Holder(database_with_table, "SELECT 1 FROM t") as holder:
        reader = Reader(database_with_table)
        began = time.monotonic()
        attempt.run()
        took = time.monotonic() - began
        reader.stop()
    assert 0.2 < reader.slowest < 0.7 + 0.4, "readers did queue behind the waiting ALTER, for one try at most"
    assert 3 < took < 3 + 0.7 + 2
    named = f"pid {holder.pid}, in the way as {database_with_table.parameters['user']}"
    tries = [each for each in attempt.ran.events if isinstance(each, events.Retrying)]
    assert len(tries) >= 2
    assert all(named in "".join(each.blockers) for each in tries)
    assert isinstance(attempt.error, MigrationFailed)
    assert f"It waited for {named}" in attempt.error.detail
    assert "lock-timeout=" in attempt.error.hint
    assert history(database_with_table) == []


def test_a_session_named_pg_dump_is_recognised_as_pg_dump(
    database_with_table: Database, write: WriteMigrations
) -> None:
    attempt = Attempt(database_with_table, write(m1_a="alter table t add column y int"), wait=300, lock_timeout=300)
    with Holder(database_with_table, "SET application_name = 'pg_dump'; LOCK TABLE t IN ACCESS SHARE MODE") as holder:
        attempt.run()
    assert isinstance(attempt.error, MigrationFailed)
    assert f"It waited for pid {holder.pid}, a running pg_dump as " in attempt.error.detail


@pytest.fixture
def stopped_pg_dump(database_with_table: Database) -> Iterator[Callable[[], int]]:
    """Start a real pg_dump and stop it while it holds its locks. Nobody reads its output, so it cannot have ended."""
    database_with_table.run("INSERT INTO t SELECT generate_series(1, 100000)")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        parameters = database_with_table.parameters
        address = ["-h", parameters["host"], "-p", parameters["port"], "-U", parameters["user"], parameters["dbname"]]
        environ = {"PGPASSWORD": parameters.get("password", "")}
        running.append(
            subprocess.Popen([str(embedded.programs() / "pg_dump"), *address], stdout=subprocess.PIPE, env=environ)
        )
        query = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = 't'::regclass"
        until(lambda: database_with_table.rows(f"{query} AND application_name = 'pg_dump'"))
        running[-1].send_signal(signal.SIGSTOP)
        ((pid,),) = database_with_table.rows(f"{query} AND application_name = 'pg_dump'")
        return int(str(pid))

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("text", ["alter table t add column y int", BUILD])
def test_a_running_pg_dump_is_recognised(
    database_with_table: Database, stopped_pg_dump: Callable[[], int], write: WriteMigrations, text: str
) -> None:
    pid = stopped_pg_dump()
    attempt = Attempt(database_with_table, write(m1_a=text), wait=500, lock_timeout=300).run()
    assert isinstance(attempt.error, MigrationFailed | StoppedPartWay)
    assert f"pid {pid}, a running pg_dump as " in attempt.error.detail
    assert valid(database_with_table) is None


GIVES_THE_LOCK_AWAY = {
    "a transaction": "select pg_advisory_unlock_all(); {mark}; select pg_sleep(1)",
    "steps": HEAD + "select pg_advisory_unlock_all();\nselect pg_sleep(1);\n{mark};\nselect pg_sleep(1)",
    "steps that discard": HEAD + "discard all;\nselect pg_sleep(1);\n{mark};\nselect pg_sleep(1)",
}


@pytest.mark.every_major
@pytest.mark.parametrize("way", GIVES_THE_LOCK_AWAY)
def test_a_file_that_releases_the_lock_is_still_applied_once(
    database_with_table: Database, write: WriteMigrations, way: str
) -> None:
    """The second run gets the lock during the file of the first. The row of the history separates them."""
    database_with_table.run("CREATE TABLE effects (name text)")
    mark = "insert into effects values ('%s')"
    files = write(m1_a=GIVES_THE_LOCK_AWAY[way].format(mark=mark % "1_a"), m2_b=mark % "2_b")
    first, second = (Attempt(database_with_table, files, run_id=name, wait=20_000) for name in ("first", "second"))
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    threads = [started(first)]
    until(lambda: database_with_table.rows(asleep) and database_with_table.rows(query) == [(0,)])
    threads.append(started(second))
    until(lambda: database_with_table.rows(query) == [(1,)])
    assert threads[0].is_alive(), "both are at work, and the lock is the second one's"
    for thread in threads:
        thread.join(60)
    assert sorted([*first.applied, *second.applied]) == ["1_a", "2_b"]
    assert history(database_with_table) == [("1_a", True), ("2_b", True)]
    assert database_with_table.rows("SELECT name FROM effects ORDER BY name") == [("1_a",), ("2_b",)]
    assert second.error is None
    if way == "a transaction":
        assert (first.error, first.applied[0]) == (None, "1_a")
    else:
        assert isinstance(first.error, LockBusy), "the one that lost it says so"
        assert "another run resumed 1_a" in first.error.message


CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'create unique index concurrently%'"


@pytest.mark.parametrize("exists", ["", "if not exists "])
@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_a_terminated_build_is_never_skipped(
    database_with_table: Database, write: WriteMigrations, how: str, exists: str
) -> None:
    timeout = "-- migrate: statement-timeout=700ms\n" if how == "out of time" else ""
    statement = f"create unique index concurrently {exists}i on t (x)"
    attempt = Attempt(database_with_table, write(m1_a=f"{HEAD}{timeout}{statement};"))
    with Holder(database_with_table, "LOCK TABLE t IN ROW EXCLUSIVE MODE"):
        thread = started(attempt)
        until(lambda: active(database_with_table, "create unique index") and valid(database_with_table) is False)
        if how == "cancelled":
            database_with_table.rows(CANCEL)
        thread.join(20)
    assert isinstance(attempt.error, StoppedPartWay)
    assert attempt.error.message.endswith("user request" if how == "cancelled" else "statement timeout")
    assert valid(database_with_table) is False
    if exists:
        database_with_table.run(statement)
        assert valid(database_with_table) is False, "the server passes it over, and reports success"
    database_with_table.run("INSERT INTO t VALUES (1)")
    again = Attempt(database_with_table, write(m1_a=f"{HEAD}{timeout}{statement};")).run()
    assert isinstance(again.error, StoppedPartWay), "there is a duplicate now: what was built before proves nothing"
    assert again.error.location is not None
    assert again.error.location.sqlstate == "23505"
    database_with_table.run("TRUNCATE t")
    assert migrate(database_with_table, write()).applied == ["1_a"]
    assert valid(database_with_table) is True
