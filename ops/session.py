"""The session of a run: the connection that holds the migration lock and does the work, and the way back to it.

Owns the lock, what every session is set to, how it is cleared between migrations, and returning to the server
when the line is cut. Refuses to know what is run in it.

What it rests on, measured (facts 2a, 2b, 2e): waiting inside pg_advisory_lock deadlocks with CREATE INDEX
CONCURRENTLY, so the lock is polled in autocommit, on the connection that works; whatever a file SETs outlives
its transaction; a COMMIT whose answer was lost may have happened, and once the lock is ours again, the lost
session has ended, one way or the other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import psycopg

from ops import connection as sessions
from ops import events
from ops.errors import LockBusy, OutcomeUnknown, Place, RatchetError, Unreachable
from ops.history import Ledger

Connect = Callable[[], psycopg.Connection]

CLEAR = (
    "RESET SESSION AUTHORIZATION",
    "RESET ROLE",
    "RESET ALL",
    "CLOSE ALL",
    "UNLISTEN *",
    "DEALLOCATE ALL",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "DISCARD TEMP",
)
"""Leaves the session as new, but for advisory locks, which DISCARD ALL would drop with the rest."""

_SETTINGS = (
    (130000, "SET standard_conforming_strings = on"),
    (130000, "SET client_min_messages = notice"),
    (130000, "SET statement_timeout = 0"),
    (130000, "SET lock_timeout = 0"),
    (130000, "SET idle_in_transaction_session_timeout = 0"),
    (140000, "SET idle_session_timeout = 0"),
    (140000, "SET client_connection_check_interval = '5s'"),
    (170000, "SET transaction_timeout = 0"),
)
"""By the server_version_num that knows them. No timeout of the role or database may end the session that holds
the lock, a dead client's statement ends, and strings are read as the lexer reads them."""

_HOLDER = """
SELECT 'pid ' || a.pid || ', ' || coalesce(nullif(a.application_name, ''), 'unnamed') || ' as ' || a.usename
       || coalesce(' from ' || host(a.client_addr), '') || to_char(a.backend_start, '", since "HH24:MI:SS TZ')
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""


@dataclass(slots=True)
class Session:
    """`wait` is how long to wait for the lock, or for the server to answer again, in milliseconds."""

    connect: Connect
    ledger: Ledger
    wait: int
    pinned_identifier: str = ""
    settings: tuple[str, ...] = ()
    _notices: list[events.ServerNotice] = field(default_factory=list)
    _connection: psycopg.Connection | None = None
    _pid: int = 0

    @property
    def connection(self) -> psycopg.Connection:
        assert self._connection is not None
        return self._connection

    def open(self) -> None:
        """Connect and judge where that led: once opened, a session only ever returns to the same cluster."""
        self._connection = self.connect()
        server = sessions.inspect(self._connection)
        sessions.refuse_unfit(server, self.pinned_identifier)
        self.pinned_identifier = server.system_identifier
        self.settings = tuple(statement for since, statement in _SETTINGS if server.version >= since)
        self._connection.add_notice_handler(self._take_notice)
        self._pid = self._connection.info.backend_pid

    def close(self) -> None:
        """End the session, and the lock with it."""
        if self._connection is not None:
            self._connection.close()

    def lock(self) -> Iterator[events.Event]:
        """Poll for the migration lock; LockBusy, naming the holder, when the wait is over."""
        self.clear()
        deadline = time.monotonic() + self.wait / 1000
        announced = False
        while not _try_lock(self.connection, self.ledger):
            holder = _holder(self.connection, self.ledger)
            if time.monotonic() >= deadline:
                raise LockBusy(
                    "another run holds the migration lock",
                    detail=f"Held by {holder}. Waited {self.wait / 1000:g} s.",
                    hint="Wait for it to end, or raise MIGRATION_TIMEOUT.",
                )
            if not announced:
                yield events.LockAwaited(holder)
                announced = True
            time.sleep(min(random.uniform(0.05, 0.6), max(0.0, deadline - time.monotonic())))  # noqa: S311

    def send(self, text: str, names: Sequence[str]) -> sessions.Answer:
        """Send statements of the migrations `names`; the session is usable afterwards, be it another one."""
        answer = sessions.send(self.connection, text)
        if answer.lost and answer.error:
            self._return(names, answer.error)
        else:
            self.connection.rollback()
            if answer.error:
                self.clear()
        return answer

    def clearing(self) -> tuple[str, ...]:
        """Statements that leave the session as new. In a transaction of their own: the next one then begins with
        the role's own defaults, and what follows in another string is decoded and parsed by them."""
        return ("BEGIN READ WRITE", *CLEAR, *self.settings, "COMMIT")

    def clear(self) -> None:
        sessions.send(self.connection, ";".join(self.clearing()))

    def notices(self) -> Iterator[events.Event]:
        """The server's messages since they were last asked for."""
        waiting, self._notices = self._notices, []
        yield from waiting

    def _return(self, names: Sequence[str], lost: psycopg.Error) -> None:
        """Return to the server and to the lock; OutcomeUnknown when neither comes within the wait."""
        deadline = time.monotonic() + self.wait / 1000
        gone = self._pid
        while True:
            try:
                self.close()
                self.open()
                for _ in self.lock():
                    pass
                self._wait_for_end(gone, deadline)
                return
            except RatchetError as error:
                if time.monotonic() >= deadline or not isinstance(error, Unreachable):
                    raise _unknown(names, lost, error) from error
            time.sleep(0.5)

    def _wait_for_end(self, pid: int, deadline: float) -> None:
        """The lock alone does not prove the lost session's end: what it ran may have given the lock away."""
        while self.connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            if time.monotonic() >= deadline:
                raise LockBusy(
                    f"the lost session, pid {pid}, still works",
                    hint=f"Wait for it, or end it with SELECT pg_terminate_backend({pid}).",
                )
            time.sleep(0.1)

    def _take_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        severity = diagnostic.severity_nonlocalized or "NOTICE"
        self._notices.append(events.ServerNotice(severity, diagnostic.message_primary or ""))


class Retry:
    """Trying again what a lock kept from happening, for so many milliseconds, with full jitter between the tries.

    Lock not available in time, deadlock, serialization failure: the transaction is gone, and may be repeated.
    """

    ERRORS = ("55P03", "40P01", "40001")

    def __init__(self, wait: int) -> None:
        self._deadline = time.monotonic() + wait / 1000
        self._tries = 0

    def allows(self, error: psycopg.Error) -> bool:
        return error.sqlstate in self.ERRORS and time.monotonic() < self._deadline

    def pause(self, name: str, error: psycopg.Error) -> Iterator[events.Event]:
        self._tries += 1
        delay = random.uniform(0.05, min(5.0, 0.2 * 2**self._tries))  # noqa: S311  no secret
        yield events.Retrying(name, sessions.first_line(error), int(delay * 1000))
        time.sleep(delay)


def _unknown(names: Sequence[str], lost: psycopg.Error, error: RatchetError) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the connection was lost, and whether {listed(names)} took effect is unknown",
        detail=f"{sessions.sentence(sessions.first_line(lost))} Then: {error.message}. {error.detail}".strip(),
        hint="When the server answers again, `invoke status` tells; a new `invoke migrate` goes on from there.",
        place=Place(names[0]),
    )


def listed(names: Sequence[str]) -> str:
    """Names for a sentence: all of a few, the ends of many."""
    if len(names) > 4:
        return f"{names[0]} to {names[-1]} ({len(names)} migrations)"
    return " and ".join(names)


def _try_lock(connection: psycopg.Connection, ledger: Ledger) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (ledger.lock_key,)).fetchone()
    return bool(row and row[0])


def _holder(connection: psycopg.Connection, ledger: Ledger) -> str:
    row = connection.execute(_HOLDER, (ledger.lock_key,)).fetchone()
    return str(row[0]) if row else "a session that has just ended"
