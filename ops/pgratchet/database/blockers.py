"""Who is in the way: the sessions that one of ours waits for, by pid, user, program and how long they have been there.

Owns the questions to pg_stat_activity and their words. Refuses to end anyone's session. What a role may not see
of others' sessions (facts: all but pid and user, without pg_read_all_stats) is left out of the words.

A statement that waits cannot be asked whom it waits for: the Watch looks from a second connection, which is made
only once a statement takes long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg

from pgratchet.errors import RatchetError

_WHO = """
SELECT a.pid, a.usename::text, coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend')),
       a.state, extract(epoch FROM clock_timestamp()
                        - CASE a.state WHEN 'active' THEN a.query_start ELSE a.state_change END)::int,
       extract(epoch FROM clock_timestamp() - a.xact_start)::int, a.xact_start::text
FROM pg_stat_activity AS a
"""
_ARE_BLOCKING = "WHERE a.pid = ANY (pg_blocking_pids(%s)) ORDER BY a.xact_start"
_HOLD_LOCK = """
JOIN pg_locks AS l USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""
_HOLD_SNAPSHOT = """
WHERE a.backend_xmin IS NOT NULL AND a.xact_start IS NOT NULL AND a.datname = current_database()
  AND a.pid <> pg_backend_pid() AND a.backend_type IN ('client backend', 'parallel worker')
"""
_PREPARED = "SELECT 0 = ANY (pg_blocking_pids(%s))"
_Row = tuple[int, str | None, str | None, str | None, int | None, int | None, str | None]


def lock_holder(connection: psycopg.Connection, key: int) -> str:
    """Who holds an advisory lock, in a phrase."""
    found = _who(connection, _HOLD_LOCK, key)
    return _phrase(found[0]) if found else "a session that has just ended"


def snapshots(connection: psycopg.Connection) -> dict[tuple[int, str], str]:
    """The transactions with an open snapshot in this database, each in a phrase: what builds of indexes wait for."""
    return {(row[0], str(row[6])): _phrase(row) for row in _who(connection, _HOLD_SNAPSHOT)}


def blocking(connection: psycopg.Connection, pid: int) -> tuple[str, ...]:
    """Whom the session `pid` waits for at this moment, each in a phrase."""
    found = _who(connection, _ARE_BLOCKING, pid)
    prepared = connection.execute(_PREPARED, (pid,)).fetchone()
    orphan = ("a prepared transaction, listed in pg_prepared_xacts",) if prepared and prepared[0] else ()
    return (*map(_phrase, found), *orphan)


def _who(connection: psycopg.Connection, which: str, *values: int) -> list[_Row]:
    return connection.execute(f"{_WHO}{which}".encode(), values or None).fetchall()


def _phrase(row: _Row) -> str:
    pid, user, program, state, seconds, transaction, _ = row
    known = "a running pg_dump" if program == "pg_dump" else program or "unnamed"
    words = [f"pid {pid}", f"{known} as {user}" if user else known]
    if state and seconds is not None:
        words.append(f"{state} for {seconds} s")
    if transaction is not None and state != "idle":
        words.append(f"its transaction open for {transaction} s")
    return ", ".join(words)


class BlockerMonitor:
    """Looks at who blocks a session, while a statement of it takes longer than `after` seconds."""

    def __init__(self, connect: Callable[[], psycopg.Connection], after: float) -> None:
        self._connect = connect
        self._after = after
        self._current: tuple[int, float] | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.seen: tuple[str, ...] = ()

    @contextmanager
    def over(self, pid: int) -> Iterator[None]:
        """For the length of the block; `seen` then holds the last blockers that were met in it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        self.seen = ()
        self._current = (pid, time.monotonic())
        try:
            yield
        finally:
            self._current = None

    def close(self) -> None:
        self._stopped.set()

    def _look(self) -> None:
        connection: psycopg.Connection | None = None
        # Who cannot be asked is not named: a watch never disturbs what it watches.
        with suppress(psycopg.Error, RatchetError):
            while not self._stopped.wait(self._after / 4):
                current = self._current
                if current and time.monotonic() - current[1] >= self._after:
                    connection = connection or self._connect()
                    found = blocking(connection, current[0])
                    if found and self._current is current:
                        self.seen = found
        if connection:
            connection.close()
