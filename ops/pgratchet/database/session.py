"""The session of a run: the connection that holds the migration lock and does the work, and the way back to it.

Owns the lock, what every session is set to, how it is cleared between migrations, and returning to the server
when the line is cut. Refuses to know what is run in it.

What it rests on, measured (facts 2a, 2b, 2e): waiting inside pg_advisory_lock deadlocks with CREATE INDEX
CONCURRENTLY, so the lock is polled in autocommit, on the connection that works; whatever a file SETs outlives
its transaction; a COMMIT whose answer was lost may have happened, and once the lock is ours again, the lost
session has ended, one way or the other.

Behind a pooler in transaction mode there is no session: every transaction may meet another one of the server's,
and whatever it leaves there meets someone else. So each transaction takes the lock for itself alone, by its
transaction-level form, sets what it needs for itself alone, and is cleared before and behind. The unique row of
the history, which keeps two runs apart without any lock, is the same there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg

from pgratchet import events
from pgratchet.database import blockers
from pgratchet.database import connection as sessions
from pgratchet.database.history import History, read_rows
from pgratchet.errors import Location, LockBusy, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.migrations.plan import HistoryRow

Connect = Callable[[], psycopg.Connection]
_T = TypeVar("_T")

_CLEAR = (
    b"RESET SESSION AUTHORIZATION",
    b"RESET ROLE",
    b"RESET ALL",
    b"CLOSE ALL",
    b"UNLISTEN *",
    b"DISCARD PLANS",
    b"DISCARD SEQUENCES",
    b"DISCARD TEMP",
)
"""Leaves the session as new, with the statement for its own case below; advisory locks stay, which DISCARD ALL
would drop with the rest."""
_CLEAR_OWN = (b"DEALLOCATE ALL",)
_CLEAR_POOLED = (
    # A pooler prepares statements of its own by the protocol, and keeps count of them; and it keeps track of this
    # setting, which RESET ALL has put to what the pooler began the session with.
    b"""DO $$DECLARE n text; BEGIN FOR n IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
    EXECUTE pg_catalog.format('DEALLOCATE %I', n); END LOOP; END$$""",
    b"SET client_encoding = 'UTF8'",
)

_SETTINGS = (
    (130000, b"standard_conforming_strings = on"),
    (130000, b"client_min_messages = notice"),
    (130000, b"statement_timeout = 0"),
    (130000, b"lock_timeout = 0"),
    (130000, b"idle_in_transaction_session_timeout = 0"),
    (140000, b"idle_session_timeout = 0"),
    (140000, b"client_connection_check_interval = '5s'"),
    (130000, b"tcp_keepalives_idle = 30"),
    (130000, b"tcp_keepalives_interval = 10"),
    (130000, b"tcp_keepalives_count = 3"),
    (130000, b"tcp_user_timeout = 60000"),
    (170000, b"transaction_timeout = 0"),
)
"""By the server_version_num that knows them. No timeout of the role or database may end the session that holds
the lock; a dead client's statement ends, and its session too where the network has swallowed the client, whose end no
packet tells (measured: without, the lock stays as long as TCP tries); and strings are read as the lexer reads them."""


@dataclass(slots=True)
class Session:
    """`wait` is how long to wait for the lock, or for the server to answer again, in milliseconds.

    Someone who is in the way is looked for once a statement has taken half of `lock_timeout`, in milliseconds.
    """

    connect: Connect
    history: History
    wait: int
    lock_timeout: int = 3_000
    pinned_identifier: str = ""
    _settings: tuple[bytes, ...] = ()
    _notices: list[events.ServerNotice] = field(default_factory=list)
    _connection: psycopg.Connection | None = None
    _server: sessions.Server | None = None
    _watch: blockers.BlockerMonitor | None = None
    _has_history: bool = False
    _pid: int = 0  # libpq forgets it with the connection

    @property
    def connection(self) -> psycopg.Connection:
        assert self._connection is not None
        return self._connection

    @property
    def server(self) -> sessions.Server:
        assert self._server is not None
        return self._server

    @property
    def blockers(self) -> tuple[str, ...]:
        """Who kept the last statement waiting, each in a phrase; none where no one did or no one could be asked."""
        return self._watch.seen if self._watch else ()

    def open(self) -> list[HistoryRow]:
        """Connect, judge where that led, and read the history.

        Once opened, a session only ever returns to the same cluster.
        """
        self._connection = self.connect()
        self._connection.add_notice_handler(self._take_notice)
        self._pid = self._connection.info.backend_pid
        self._server, answer = sessions.inspect_and_ask(self._connection, self.history.reading(self._connection))
        sessions.refuse_unfit(self._server, self.pinned_identifier)
        self.pinned_identifier = self._server.system_identifier
        self._settings = tuple(setting for since, setting in _SETTINGS if self._server.version >= since)
        found = read_rows(answer)
        self._has_history = found is not None
        return found or []

    def close(self) -> None:
        """End the session, and the lock with it."""
        if self._watch is not None:
            self._watch.close()
        if self._connection is not None:
            self._connection.close()

    def lock(self) -> Generator[events.Event, None, list[HistoryRow] | None]:
        """Poll for the migration lock; returns the history as it is under it, None where there is none yet.

        LockBusy, naming the holder, when the wait is over.
        """
        self._begin_watch()
        deadline = time.monotonic() + self.wait / 1000
        announced = False
        while True:
            answer = sessions.send(self.connection, self._locking())
            if answer.error is not None:
                raise answer.error
            if sessions.rows(answer.tables[0])[0][0] == "t":
                return self._history(answer)
            holder = blockers.lock_holder(self.connection, self.history.lock_key)
            if time.monotonic() >= deadline:
                raise self.busy(holder)
            if not announced:
                yield events.LockAwaited(holder)
                announced = True
            time.sleep(min(random.uniform(0.05, 0.6), max(0.0, deadline - time.monotonic())))  # noqa: S311

    def send(self, text: bytes, names: Sequence[str], *, rows: memoryview | None = None) -> sessions.Answer:
        """Send statements of the migrations `names`, or a COPY and its `rows`.

        Behind an error the session is out of its transaction, clear and usable, be it another one.
        """
        watch = self._watch
        if watch is None:
            answer = self._send(text, rows)
        else:
            with watch.over(self._pid):
                answer = self._send(text, rows)
        if answer.error is not None and answer.lost:
            self._return(names, answer.error)
        elif answer.error is not None:
            self.clear()
        return answer

    def _send(self, text: bytes, rows: memoryview | None) -> sessions.Answer:
        if rows is None:
            return sessions.send(self.connection, text)
        return sessions.copy(self.connection, text, rows)

    def surely(self, names: Sequence[str], ask: Callable[[psycopg.Connection], _T]) -> _T:
        """What `ask` returns, which can be repeated: asked again in the session that is returned to where the line
        is cut under it, while that lasts no longer than the wait."""
        deadline = time.monotonic() + self.wait / 1000
        while True:
            try:
                return ask(self.connection)
            except psycopg.Error as error:  # noqa: PERF203
                if not self.connection.closed or time.monotonic() >= deadline:
                    raise
                self._return(names, error)

    def entering(self) -> tuple[bytes, ...]:
        """What comes before a transaction's BEGIN."""
        return self.clearing() if self.server.pooled else ()

    def guarding(self) -> tuple[bytes, ...]:
        """What comes right behind a transaction's BEGIN: behind a pooler the lock and the settings, for it alone.

        Where another run has the lock, that fails with a division by zero, which `is_busy` tells.
        """
        if not self.server.pooled:
            return ()
        locked = b"SELECT 1 / pg_catalog.pg_try_advisory_xact_lock(%d)::int" % self.history.lock_key
        return (*(b"SET LOCAL " + setting for setting in self._settings), locked)

    def is_busy(self, error: psycopg.Error, *, framing: bool) -> bool:
        return self.server.pooled and framing and error.sqlstate == "22012"

    def busy(self, holder: str) -> LockBusy:
        return LockBusy(
            "another run holds the migration lock",
            detail=f"Held by {holder}. Waited {self.wait / 1000:g} s.",
            hint="Wait for it to end, or raise MIGRATION_TIMEOUT.",
        )

    def clearing(self) -> tuple[bytes, ...]:
        """Statements that leave the session as new. In a transaction of their own: the next one then begins with
        the role's own defaults, and what follows in another string is decoded and parsed by them."""
        if self.server.pooled:
            return (b"BEGIN READ WRITE", *_CLEAR, *_CLEAR_POOLED, b"COMMIT")
        settings = (b"SET " + setting for setting in self._settings)
        return (b"BEGIN READ WRITE", *_CLEAR, *_CLEAR_OWN, *settings, b"COMMIT")

    def clear(self) -> None:
        """Leave a transaction that failed, and all that was set; in one string, since a pooler may take the session
        away behind the first half of it."""
        told = len(self._notices)
        sessions.send(self.connection, b";".join((b"ROLLBACK", *self.clearing())))
        del self._notices[told:]  # such as that there was no transaction

    def notices(self) -> Iterator[events.Event]:
        """The server's messages since they were last asked for."""
        waiting, self._notices = self._notices, []
        yield from waiting

    def _locking(self) -> bytes:
        """Try for the lock, then read the history: two transactions, so that the second sees what the lock guards."""
        history = self.history.reading if self._has_history else self.history.asking
        function = b"pg_try_advisory_xact_lock" if self.server.pooled else b"pg_try_advisory_lock"
        return b";\n".join(
            (
                *self.clearing(),
                b"BEGIN",
                b"SELECT pg_catalog.%b(%d)" % (function, self.history.lock_key),
                b"COMMIT",
                b"BEGIN ISOLATION LEVEL READ COMMITTED",
                history(self.connection),
                b"COMMIT",
            )
        )

    def _history(self, answer: sessions.Answer) -> list[HistoryRow] | None:
        """The history under the lock; another run may have made its table since this one looked."""
        if self._has_history:
            return read_rows(answer)
        self._has_history = answer.tables[-1].ntuples > 0
        return self.history.read(self.connection) if self._has_history else None

    def _begin_watch(self) -> None:
        # Behind a pooler our own pid is not known, and so neither is who blocks it.
        if self._watch is None and not self.server.pooled:
            self._watch = blockers.BlockerMonitor(self.connect, max(0.02, self.lock_timeout / 2000))

    def _return(self, names: Sequence[str], lost: psycopg.Error) -> None:
        """Return to the server and to the lock; OutcomeUnknown when neither comes within the wait."""
        deadline = time.monotonic() + self.wait / 1000
        gone = self._pid
        while True:
            try:
                with sessions.translate_errors():
                    self.connection.close()
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
        if self.server.pooled:
            return  # the lock was the transaction's, and could not be given away
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
        return error.sqlstate in self.ERRORS and not self.is_over()

    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def pause(self, name: str, reason: str, blockers: Sequence[str]) -> Iterator[events.Event]:
        self._tries += 1
        delay = random.uniform(0.05, min(5.0, 0.2 * 2**self._tries))  # noqa: S311  no secret
        yield events.Retrying(name, reason, int(delay * 1000), tuple(blockers))
        time.sleep(delay)


def _unknown(names: Sequence[str], lost: psycopg.Error, error: RatchetError) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the connection was lost, and whether {listed(names)} took effect is unknown",
        detail=f"{sessions.sentence(sessions.first_line(lost))} Then: {error.message}. {error.detail}".strip(),
        hint="When the server answers again, `invoke status` tells; a new `invoke migrate` goes on from there.",
        place=Location(names[0]),
    )


def listed(names: Sequence[str]) -> str:
    """Names for a sentence: all of a few, the ends of many."""
    if len(names) > 4:
        return f"{names[0]} to {names[-1]} ({len(names)} migrations)"
    return " and ".join(names)
