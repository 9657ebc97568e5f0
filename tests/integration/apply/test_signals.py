"""Signals in this process: the statement is cancelled, and the history shows what stays."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.errors import HistoryDisagrees, Interrupted, LockBusy, Terminated
from tests.servers.databases import Database
from tests.support.migrations import WriteMigrations

SLEEP = "select pg_sleep(20)"
RUNNING = (
    "SELECT count(*)::int FROM pg_stat_activity"
    " WHERE wait_event = 'PgSleep' AND datname = current_database() AND pid <> pg_backend_pid()"
)
FILES = {
    "a batch": {"m2_b": f"create table b (); {SLEEP}"},
    "windows": {"m2_b": "create table b ();\n" + "select 1;\n" * 40_000 + SLEEP},
    "rows": {
        "m2_b": "create table b (x int default pg_sleep(20)::text::int, y int);\ncopy b (y) from stdin;\n1\n\\.\n"
    },
    "steps": {"m2_b": f"-- migrate: no-transaction\ncreate table b ();\n{SLEEP}"},
}


@pytest.fixture
def signal_during_sleep(database: Database) -> Iterator[Callable[[int], None]]:
    """Send this process a signal while the server sleeps in the file. SIGTERM raises, as in the tasks."""

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    threads: list[threading.Thread] = []

    def send(which: int) -> None:
        deadline = time.monotonic() + 20
        while database.rows(RUNNING) != [(1,)] and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), which)

    def begin(which: int) -> None:
        threads.append(threading.Thread(target=send, args=(which,)))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(("which", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_statement_and_names_what_stays(
    database: Database,
    write: WriteMigrations,
    signal_during_sleep: Callable[[int], None],
    kind: str,
    which: int,
    status: int,
) -> None:
    files = write(m1_a="create table a ()", **FILES[kind])
    applied: list[str] = []
    signal_during_sleep(which)
    with pytest.raises(Interrupted) as caught:
        applied += _applied(applier.migrate(database.connect, History(), files, None, MigrateOptions("run")))
    assert caught.value.status == status
    assert caught.value.detail.startswith("1_a was applied and stays.")
    assert database.rows(RUNNING) == [(0,)]
    assert database.locks() == []
    assert database.rows("SELECT name FROM ratchet.migrations WHERE executed_at IS NOT NULL") == [("1_a",)]
    assert database.rows("SELECT to_regclass('b') IS NOT NULL") == [(kind == "steps",)]


def test_a_file_that_catches_the_cancellation_is_reported_as_it_ended(
    database: Database, write: WriteMigrations, signal_during_sleep: Callable[[int], None]
) -> None:
    """The statement is cancelled, and the file's own handler continues. The report follows the history."""
    swallows = "do $$ begin perform pg_sleep(20); exception when query_canceled then null; end $$"
    with database.connect() as session:
        session.execute("SET statement_timeout = '100ms'")
        session.execute(swallows.encode())
    files = write(m1_a="create table a ()", m2_b=f"{swallows}; create table b ()")
    signal_during_sleep(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        list(applier.migrate(database.connect, History(), files, None, MigrateOptions("run")))
    rows = database.rows("SELECT name, executed_at IS NOT NULL FROM ratchet.migrations ORDER BY id")
    assert rows == [("1_a", True), ("2_b", True)]
    assert database.rows("SELECT to_regclass('b') IS NOT NULL") == [(True,)]
    assert caught.value.detail.startswith("1_a and 2_b were applied and stay.")


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ({}, "Nothing was applied. The statement that was running was rolled back."),
        ({"m1_a": "select 1", "m2_b": "select 2"}, "1_a and 2_b were applied and stay. The statement that was running"),
    ],
)
def test_a_signal_names_everything_that_stays(
    database: Database,
    write: WriteMigrations,
    signal_during_sleep: Callable[[int], None],
    before: dict[str, str],
    message: str,
) -> None:
    files = write(**before, m3_c=SLEEP)
    signal_during_sleep(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        list(applier.migrate(database.connect, History(), files, None, MigrateOptions("run")))
    assert caught.value.detail.startswith(message)


def _applied(stream: Iterator[events.Event]) -> list[str]:
    return [event.name for event in stream if isinstance(event, events.MigrationApplied)]


def test_a_signal_while_the_server_is_unreachable_reports_an_unknown_outcome(
    database: Database, write: WriteMigrations, signal_during_sleep: Callable[[int], None]
) -> None:
    """The connection is closed during the cancelled statement, so that the history cannot be read."""
    files = write(m1_a=f"create table a (); {SLEEP}")
    lines: list[psycopg.Connection] = []

    def connect() -> psycopg.Connection:
        lines.append(database.connect())
        return lines[-1]

    def cut(*_: object) -> None:
        database.run(f"SELECT pg_terminate_backend({lines[0].info.backend_pid})")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, cut)
    signal_during_sleep(signal.SIGUSR1)
    try:
        with pytest.raises(Interrupted) as caught:
            list(applier.migrate(connect, History(), files, None, MigrateOptions("run")))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught.value.detail.startswith("The server could not be asked what took effect")


def test_an_acknowledged_file_without_a_row_is_reported(database: Database, write: WriteMigrations) -> None:
    """A trigger of the file deletes the row at the very end of its COMMIT."""
    files = write(
        m1_a="create function f() returns trigger language plpgsql as"
        " $$ begin delete from ratchet.migrations; return null; end $$;"
        "create constraint trigger t after update on ratchet.migrations deferrable initially deferred"
        " for each row execute function f()"
    )
    with pytest.raises(HistoryDisagrees, match="the server acknowledged 1_a, but the history has no finished row"):
        list(applier.migrate(database.connect, History(), files, None, MigrateOptions("run")))


def test_an_unfinished_row_of_another_run_needs_a_decision(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler without a lock: another run has begun the file, statement by statement."""
    monkeypatch.setattr(History, "lock_key", property(lambda _: random.getrandbits(62)))
    files = write(m1_a="create table a ()")
    stream = applier.migrate(database.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.BatchSent) for event in stream)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version)"
        f" VALUES ('1_a', '{files[0].checksum}', 'other', '0')"
    )
    with pytest.raises(LockBusy, match="another run began 1_a and did not finish it"):
        list(stream)


def test_a_file_applied_by_another_run_with_another_text_stops_the_run(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(History, "lock_key", property(lambda _: random.getrandbits(62)))
    files = write(m1_a="create table a ()", m2_b="create table b ()")
    stream = applier.migrate(database.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.BatchSent) for event in stream)
    database.run(
        "INSERT INTO ratchet.migrations (name, checksum, run_id, tool_version, executed_at)"
        " VALUES ('1_a', 'of another text', 'other', '0', now())"
    )
    with pytest.raises(HistoryDisagrees, match="about 1 migration"):
        list(stream)
    assert database.rows("SELECT to_regclass('b')") == [(None,)]


@pytest.mark.parametrize("kind", ["a batch", "windows"])
def test_a_file_applied_by_another_run_meanwhile_is_skipped(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(History, "lock_key", property(lambda _: random.getrandbits(62)))
    files = write(m1_a=FILES[kind]["m2_b"].replace(SLEEP, "select 1"))
    stream = applier.migrate(database.connect, History(), files, None, MigrateOptions("run"))
    assert any(isinstance(event, events.BatchSent) for event in stream)
    assert _applied(applier.migrate(database.connect, History(), files, None, MigrateOptions("other"))) == ["1_a"]
    rest = list(stream)
    assert rest == [events.Finished(total=1, pending=0)]


def test_a_signal_while_the_running_migration_is_shown_cancels_it(database: Database, write: WriteMigrations) -> None:
    """The events of a slow batch name the migration that runs; a signal can arrive while one is drawn."""
    files = write(m1_a="create table a ()", m2_b="create table b (); select pg_sleep(0.8)", m3_c=f"{SLEEP}")
    stream = applier.migrate(database.connect, History(), files, None, MigrateOptions("run", lock_timeout=200))
    begun = []
    for event in stream:
        if isinstance(event, events.MigrationBegun):
            begun.append(event.name)
        if begun == ["2_b", "3_c"]:
            break
    assert database.rows(RUNNING) == [(1,)]
    with pytest.raises(Interrupted) as caught:
        _ = [stream.throw(KeyboardInterrupt()), *stream]
    assert "1_a and 2_b were applied and stay" in caught.value.detail
    assert database.rows(RUNNING) == [(0,)]
    assert database.locks() == []
