"""The swap of two databases: how long clients wait for it, and a session that does not end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg
import pytest

from pgratchet import events
from pgratchet.backups import restore
from pgratchet.backups.restore import RestoreOptions
from pgratchet.errors import BackupFailed, Unreachable
from tests.integration.backups.helpers import RestorableDatabase
from tests.servers.databases import Database
from tests.support.waiting import until

LONGEST = 4.9
"""Seconds: the limit of two seconds, and what a busy machine adds. Without the limit PostgreSQL waits for five."""


class Client:
    """Connects again and again. `longest` is the longest time without an answer, in seconds."""

    def __init__(self, database: Database) -> None:
        self._database, self._over = database, threading.Event()
        self.longest, self.answers = 0.0, 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._over.is_set():
            with suppress(psycopg.Error, Unreachable), psycopg.connect(self._database.url) as session:
                session.execute("SELECT 1")
                self.answers += 1
                now = time.monotonic()
                self.longest, last = max(self.longest, now - last), now
        self.longest = max(self.longest, time.monotonic() - last)

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)


@contextmanager
def clients(database: Database, count: int) -> Iterator[list[Client]]:
    running = [Client(database) for _ in range(count)]
    try:
        yield running
    finally:
        for client in running:
            client.stop()


def signal_backend(database: Database, pid: int, name: str) -> None:
    """Send a signal to a process of the server, as the server's user. The program reads its input to the end."""
    database.run(f"COPY (SELECT) TO PROGRAM 'cat >/dev/null; kill -{name} {pid}'")


@pytest.mark.parametrize("count", [1, 8])
def test_clients_wait_for_a_moment_and_reach_the_restored_database(restorable: RestorableDatabase, count: int) -> None:
    restorable.database.run("CREATE TABLE mark AS SELECT 'backup' AS at")
    archive = restorable.back_up()
    restorable.database.run("UPDATE mark SET at = 'live'")
    with clients(restorable.database, count) as running:
        restorable.restore(archive)
    assert restorable.database.rows("SELECT at FROM mark") == [("backup",)]
    assert all(client.answers for client in running)
    assert max(client.longest for client in running) < LONGEST


def test_a_session_that_does_not_end_is_named_and_nobody_is_shut_out(restorable: RestorableDatabase) -> None:
    """Its process is stopped, so that it cannot react to its termination."""
    archive, oid = restorable.back_up(), restorable.oid()
    restoring = restore.restore(restorable.site, restorable.database.name, archive, RestoreOptions())
    for event in restoring:
        if isinstance(event, events.Compared):
            break
    with closing(restorable.database.connect()) as stuck, clients(restorable.database, 2) as running:
        pid = stuck.info.backend_pid
        signal_backend(restorable.postgres, pid, "STOP")
        try:
            with pytest.raises(BackupFailed, match="could not be given the name") as caught:
                list(restoring)
            assert (restorable.oid(), restorable.is_open()) == (oid, True)
            answers = [client.answers for client in running]
            until(lambda: all(client.answers > before for client, before in zip(running, answers, strict=True)))
        finally:
            signal_backend(restorable.postgres, pid, "CONT")
    assert f"pid {pid}" in caught.value.detail
    assert max(client.longest for client in running) < LONGEST
    (copy,) = restorable.beside()
    assert copy in caught.value.detail, "the finished copy is kept"
