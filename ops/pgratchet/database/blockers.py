"""Describes blockers and holders of locks: pid, user, program, and how long they have been in their state.

Without the role pg_read_all_stats, pg_stat_activity shows only pid and user of other roles' sessions
(https://www.postgresql.org/docs/current/monitoring-stats.html). Hidden columns are left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg

from pgratchet.database.timeouts import clear_timeouts
from pgratchet.errors import RatchetError

_SESSIONS = """
SELECT a.pid, a.usename::text, coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend')),
       a.state, extract(epoch FROM clock_timestamp()
                        - CASE a.state WHEN 'active' THEN a.query_start ELSE a.state_change END)::int,
       extract(epoch FROM clock_timestamp() - a.xact_start)::int, a.xact_start::text
FROM pg_stat_activity AS a
"""
_THAT_BLOCK = "WHERE a.pid = ANY (pg_blocking_pids(%s)) ORDER BY a.xact_start"
_THAT_HOLD_LOCK = """
JOIN pg_locks AS l USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""
_THAT_HOLD_SNAPSHOT = """
WHERE a.backend_xmin IS NOT NULL AND a.xact_start IS NOT NULL AND a.datname = current_database()
  AND a.pid <> pg_backend_pid() AND a.backend_type IN ('client backend', 'parallel worker')
"""
# pg_blocking_pids has the pid 0 for a prepared transaction.
_BLOCKED_BY_PREPARED = "SELECT 0 = ANY (pg_blocking_pids(%s))"
_Row = tuple[int, str | None, str | None, str | None, int | None, int | None, str | None]


def lock_holder(connection: psycopg.Connection, key: int) -> str:
    """Describe the holder of an advisory lock, in a phrase."""
    sessions = _fetch(connection, _THAT_HOLD_LOCK, key)
    return _describe(sessions[0]) if sessions else "a session that has just ended"


def snapshot_holders(connection: psycopg.Connection) -> dict[tuple[int, str], str]:
    """Describe the transactions of this database with a snapshot; concurrent index builds wait for these.

    The keys identify each transaction by pid and start time; the values are phrases.
    """
    return {(row[0], str(row[6])): _describe(row) for row in _fetch(connection, _THAT_HOLD_SNAPSHOT)}


def find_blockers(connection: psycopg.Connection, pid: int) -> tuple[str, ...]:
    """Describe the current blockers of the session `pid`, each in a phrase."""
    sessions = _fetch(connection, _THAT_BLOCK, pid)
    row = connection.execute(_BLOCKED_BY_PREPARED, (pid,)).fetchone()
    prepared = ("a prepared transaction, listed in pg_prepared_xacts",) if row and row[0] else ()
    return (*map(_describe, sessions), *prepared)


def _fetch(connection: psycopg.Connection, condition: str, *values: int) -> list[_Row]:
    return connection.execute(f"{_SESSIONS}{condition}".encode(), values or None).fetchall()


def _describe(row: _Row) -> str:
    pid, user, program, state, seconds, transaction_seconds, _ = row
    name = "a running pg_dump" if program == "pg_dump" else program or "unnamed"
    words = [f"pid {pid}", f"{name} as {user}" if user else name]
    if state and seconds is not None:
        words.append(f"{state} for {seconds} s")
    if transaction_seconds is not None and state != "idle":
        words.append(f"its transaction open for {transaction_seconds} s")
    return ", ".join(words)


FindNames = Callable[[psycopg.Connection], frozenset[str]]
"""Finds which of a batch's migrations are committed."""


class BlockerMonitor:
    """Looks for the blockers of a session from a second connection, in a thread, and for what it has committed.

    A session that works or waits cannot ask itself. The second connection is opened when a statement first takes longer
    than `after` seconds.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection], after: float) -> None:
        self._connect = connect
        self._after = after
        self._current: tuple[int, float, FindNames | None] | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.blockers: tuple[str, ...] = ()
        self.done: frozenset[str] | None = None

    @contextmanager
    def watch(self, pid: int, find_done: FindNames | None = None) -> Iterator[None]:
        """Watch the session `pid` during the block. `blockers` then holds the last ones of the block.

        `done` holds what `find_done` has found; None as long as it was not asked.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self.blockers, self.done = (), None
        self._current = (pid, time.monotonic(), find_done)
        try:
            yield
        finally:
            self._current = None

    def close(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        connection: psycopg.Connection | None = None
        # Errors end the monitor and not the run: blockers are only information.
        with suppress(psycopg.Error, RatchetError):
            while not self._stopped.wait(self._after / 4):
                current = self._current
                if current and time.monotonic() - current[1] >= self._after:
                    connection = connection or clear_timeouts(self._connect())
                    self._look(connection, current)
        if connection:
            connection.close()

    def _look(self, connection: psycopg.Connection, current: tuple[int, float, FindNames | None]) -> None:
        blockers, find_done = find_blockers(connection, current[0]), current[2]
        done = find_done(connection) if find_done else None
        if self._current is current:
            self.blockers = blockers or self.blockers
            self.done = done
