"""Concurrent runs: one lock, and every file applied once."""

from __future__ import annotations

import os
import random
import socket
import threading
import time

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.errors import (
    LockBusy,
    MigrationFailed,
)
from tests.servers.databases import Database
from tests.support.migrations import HISTORY, RunEvents, WriteMigrations, history, migrate
from tests.support.waiting import until

pytestmark = pytest.mark.every_major


def test_a_run_overtaken_by_another_applies_nothing_and_counts_the_history(
    database: Database, write: WriteMigrations
) -> None:
    files = write(m1_a="create table a ()", m2_b="create table b ()")
    stream = applier.migrate(database.connect, HISTORY, files, None, MigrateOptions("run"))
    assert next(stream) == events.Planned(("1_a", "2_b"), total=2, pending=2)
    migrate(database, files, run_id="other")
    rest = RunEvents(list(stream))
    assert rest.applied == []
    assert rest.events[-1] == events.Finished(total=2, pending=0)


def test_a_table_lock_is_retried_until_it_is_free(database: Database, write: WriteMigrations) -> None:
    migrate(database, write(m1_a="create table a ()"))
    files = write(m2_b="alter table a add column x int")
    with database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE a IN ACCESS SHARE MODE")
        threading.Timer(1.0, holder.rollback).start()
        ran = migrate(database, files, lock_timeout=200)
    assert ran.of(events.Retrying)
    assert ran.applied == ["2_b"]


def test_a_table_lock_that_is_not_released_ends_the_run_at_its_deadline(
    database: Database, write: WriteMigrations
) -> None:
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
        holder.execute("SET application_name = 'the other one'; SELECT pg_advisory_lock(%s)" % HISTORY.lock_key)  # noqa: UP031
        with pytest.raises(LockBusy) as caught:
            migrate(database, files, wait=300)
        assert f"pid {holder.info.backend_pid}, the other one as " in caught.value.detail
    assert database.fingerprint() == before


@pytest.mark.parametrize("runners", [2, 20])
def test_concurrent_runners_apply_each_file_once(database: Database, write: WriteMigrations, runners: int) -> None:
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
        holder.execute("SELECT pg_advisory_lock(%s)", (HISTORY.lock_key,))
        for thread in threads:
            thread.start()
        until(lambda: database.rows(connected) == [(runners + 1,)], 30)
        assert outcomes == [], "all are there, and none has begun"
        holder.execute("SELECT pg_advisory_unlock_all()")
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, outcomes)) == sorted(map(str, [[f.name for f in files], *[[]] * (runners - 1)]))
    assert len(history(database)) == 7


def test_the_unique_row_separates_two_runs_without_the_lock(
    database: Database, write: WriteMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler: both runs believe that they hold the lock, and meet at the row of the history."""
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


def test_a_lost_session_without_its_lock_is_waited_for(database: Database, write: WriteMigrations) -> None:
    """The connection is cut on this side only. The backend continues without the lock and commits."""
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
    ran = list(applier.migrate(connect, HISTORY, files, None, MigrateOptions("run", wait=15_000)))
    thread.join()
    assert len(lines) == 2
    assert [e.name for e in ran if isinstance(e, events.MigrationApplied)] == ["1_a"]
    assert history(database) == [("1_a", True)]
