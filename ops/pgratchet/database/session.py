"""The session of a run: a connection to hold the migration lock and to run the migrations.

A run polls for the lock in autocommit, on the connection of the migrations. A session waiting inside pg_advisory_lock
would hold a snapshot, and a CREATE INDEX CONCURRENTLY of the lock's holder would wait for this snapshot: a deadlock
(test_waiting_inside_the_lock_function_deadlocks_with_a_concurrent_build).

When the connection is lost, a COMMIT without an answer may have happened. The session reconnects to the same cluster
and takes the lock again. By then the lost session has ended, and the history shows the committed migrations.

A pooler in transaction mode gives each transaction another of the server's sessions. Behind a pooler each transaction
takes the lock and the settings for itself, and the server's session is reset before and after. The unique names of the
history keep two runs apart even without the lock, behind a pooler too
(test_runners_through_and_past_the_pooler_apply_each_file_once).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg

from pgratchet import events
from pgratchet.database import blockers, simple_query
from pgratchet.database.connection import first_line, sentence, translate_errors
from pgratchet.database.history import History, failed_assertion, read_rows
from pgratchet.database.inspection import Server, inspect_and_ask, refuse_unfit
from pgratchet.database.simple_query import Answer
from pgratchet.errors import Location, LockBusy, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.formatting import join_names
from pgratchet.migrations.plan import HistoryRow

Connect = Callable[[], psycopg.Connection]
_T = TypeVar("_T")

_RESET = (
    b"RESET SESSION AUTHORIZATION",
    b"RESET ROLE",
    b"RESET ALL",
    b"CLOSE ALL",
    b"UNLISTEN *",
    b"DISCARD PLANS",
    b"DISCARD SEQUENCES",
    b"DISCARD TEMP",
)
"""Resets a session as DISCARD ALL does, except for advisory locks; with one of the next two for prepared statements."""
_RESET_DIRECT = (b"DEALLOCATE ALL",)
_RESET_POOLED = (
    # Statements that the pooler prepared by the protocol stay: the pooler counts on them. The pooler also tracks
    # client_encoding, and RESET ALL has set that to the value with which the pooler connected.
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
"""Settings of every session, each with the first server_version_num that has it.

The lexer needs standard_conforming_strings. No timeout of the role or the database may end the session with the lock.
The server ends the statement of a dead client, and ends the session when the network has swallowed the client: without
tcp_user_timeout the lock stays until TCP gives up (test_both_sides_give_up_when_packets_are_dropped).
"""


@dataclass(slots=True)
class Session:
    """A session on a target's database.

    `wait` is the longest time to wait for the lock, or for the server to answer again, in milliseconds. Blockers of a
    statement are looked for after half of `lock_timeout`, in milliseconds.
    """

    connect: Connect
    history: History
    wait: int
    lock_timeout: int = 3_000
    pinned_identifier: str = ""
    _settings: tuple[bytes, ...] = ()
    _notices: list[events.ServerNotice] = field(default_factory=list)
    _connection: psycopg.Connection | None = None
    _server: Server | None = None
    _monitor: blockers.BlockerMonitor | None = None
    _has_history: bool = False
    _pid: int = 0  # kept here because libpq forgets the pid of a lost connection

    @property
    def connection(self) -> psycopg.Connection:
        assert self._connection is not None
        return self._connection

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    @property
    def blockers(self) -> tuple[str, ...]:
        """The blockers of the last statement, each in a phrase; empty when not known."""
        return self._monitor.blockers if self._monitor else ()

    def open(self) -> list[HistoryRow]:
        """Connect, refuse unfit servers, and read the history. Later connections must lead to the same cluster."""
        self._connection = self.connect()
        self._connection.add_notice_handler(self._collect_notice)
        self._pid = self._connection.info.backend_pid
        self._server, answer = inspect_and_ask(self._connection, self.history.read_query(self._connection))
        refuse_unfit(self._server, self.pinned_identifier)
        self.pinned_identifier = self._server.system_identifier
        self._settings = tuple(setting for since, setting in _SETTINGS if self._server.version >= since)
        history_rows = read_rows(answer)
        self._has_history = history_rows is not None
        return history_rows or []

    def close(self) -> None:
        """Close the connection, and so release the lock."""
        if self._monitor is not None:
            self._monitor.close()
        if self._connection is not None:
            self._connection.close()

    def lock(self) -> Generator[events.Event, None, list[HistoryRow] | None]:
        """Poll for the migration lock; returns the history as read under the lock, None when there is no table.

        Raises LockBusy with the lock's holder after `wait`.
        """
        self._start_monitor()
        deadline = time.monotonic() + self.wait / 1000
        announced = False
        while True:
            answer = simple_query.send(self.connection, self._lock_text())
            if answer.error is not None:
                raise answer.error
            if simple_query.rows(answer.tables[0])[0][0] == "t":
                return self._read_under_lock(answer)
            holder = blockers.lock_holder(self.connection, self.history.lock_key)
            if time.monotonic() >= deadline:
                raise self.lock_busy(holder)
            if not announced:
                yield events.LockAwaited(holder)
                announced = True
            time.sleep(min(random.uniform(0.05, 0.6), max(0.0, deadline - time.monotonic())))  # noqa: S311

    def send(self, text: bytes, names: Sequence[str], *, rows: memoryview | None = None) -> Answer:
        """Send statements of the migrations `names`, or a COPY with its `rows`.

        After an error the session is reset and usable. After a lost connection the session has a new connection.
        """
        monitor = self._monitor
        if monitor is None:
            answer = self._send(text, rows)
        else:
            with monitor.watch(self._pid):
                answer = self._send(text, rows)
        if answer.error is not None and answer.lost:
            self._reconnect(names, answer.error)
        elif answer.error is not None:
            self.reset()
        return answer

    def _send(self, text: bytes, rows: memoryview | None) -> Answer:
        if rows is None:
            return simple_query.send(self.connection, text)
        return simple_query.copy(self.connection, text, rows)

    def retry_after_reconnecting(self, names: Sequence[str], query: Callable[[psycopg.Connection], _T]) -> _T:
        """Call `query`, which must be repeatable; after a lost connection reconnect and call `query` again.

        Gives up after `wait`. `names` are the migrations with a then unknown outcome.
        """
        deadline = time.monotonic() + self.wait / 1000
        while True:
            try:
                return query(self.connection)
            except psycopg.Error as error:  # noqa: PERF203
                if not self.connection.closed or time.monotonic() >= deadline:
                    raise
                self._reconnect(names, error)

    def before_begin_statements(self) -> tuple[bytes, ...]:
        """Return the statements before the BEGIN of a migration's transaction."""
        return self.reset_statements() if self.server.pooled else ()

    def after_begin_statements(self) -> tuple[bytes, ...]:
        """Return the statements after the BEGIN: behind a pooler, settings and lock for the transaction."""
        if not self.server.pooled:
            return ()
        settings = (b"SET LOCAL " + setting for setting in self._settings)
        return (*settings, self.history.lock_transaction_query(self.connection))

    def is_lock_busy(self, error: psycopg.Error, *, framing: bool) -> bool:
        """Return whether another run holds the lock, by an error of `after_begin_statements` (`framing`)."""
        return self.server.pooled and framing and failed_assertion(error) is not None

    def lock_busy(self, holder: str) -> LockBusy:
        return LockBusy(
            "another run holds the migration lock",
            detail=f"Held by {holder}. Waited {self.wait / 1000:g} s.",
            hint="Wait for it to end, or raise MIGRATION_TIMEOUT.",
        )

    def reset_statements(self) -> tuple[bytes, ...]:
        """Return the statements to reset the session.

        They form a transaction of their own: the next transaction begins with the role's own defaults, and the next
        text is decoded and parsed with these.
        """
        if self.server.pooled:
            return (b"BEGIN READ WRITE", *_RESET, *_RESET_POOLED, b"COMMIT")
        settings = (b"SET " + setting for setting in self._settings)
        return (b"BEGIN READ WRITE", *_RESET, *_RESET_DIRECT, *settings, b"COMMIT")

    def reset(self) -> None:
        """Roll back a failed transaction and reset the session."""
        count = len(self._notices)
        # In one text: a pooler can hand the server's session to another client between two texts.
        simple_query.send(self.connection, b";".join((b"ROLLBACK", *self.reset_statements())))
        del self._notices[count:]  # such as the warning that there is no transaction

    def take_notices(self) -> Iterator[events.Event]:
        """Yield the server's messages since the last call."""
        notices, self._notices = self._notices, []
        yield from notices

    def _lock_text(self) -> bytes:
        """Return the text to try for the lock and read the history.

        Two transactions, because the second must see the last commits of the previous holder of the lock.
        """
        history_query = self.history.read_query if self._has_history else self.history.exists_query
        function = b"pg_try_advisory_xact_lock" if self.server.pooled else b"pg_try_advisory_lock"
        return b";\n".join(
            (
                *self.reset_statements(),
                b"BEGIN",
                b"SELECT pg_catalog.%b(%d)" % (function, self.history.lock_key),
                b"COMMIT",
                b"BEGIN ISOLATION LEVEL READ COMMITTED",
                history_query(self.connection),
                b"COMMIT",
            )
        )

    def _read_under_lock(self, answer: Answer) -> list[HistoryRow] | None:
        """Read the history from the answer, or from a table created by another run since `open`."""
        if self._has_history:
            return read_rows(answer)
        self._has_history = answer.tables[-1].ntuples > 0
        return self.history.read(self.connection) if self._has_history else None

    def _start_monitor(self) -> None:
        # Behind a pooler our own pid is not known, and with it the blockers.
        if self._monitor is None and not self.server.pooled:
            self._monitor = blockers.BlockerMonitor(self.connect, max(0.02, self.lock_timeout / 2000))

    def _reconnect(self, names: Sequence[str], lost: psycopg.Error) -> None:
        """Connect and lock again; OutcomeUnknown after failing for longer than `wait`."""
        deadline = time.monotonic() + self.wait / 1000
        lost_pid = self._pid
        while True:
            try:
                with translate_errors():
                    self.connection.close()
                    self.open()
                    for _ in self.lock():
                        pass
                    self._wait_for_end(lost_pid, deadline)
                return
            except RatchetError as error:
                if time.monotonic() >= deadline or not isinstance(error, Unreachable):
                    raise _outcome_unknown(names, lost, error) from error
            time.sleep(0.5)

    def _wait_for_end(self, pid: int, deadline: float) -> None:
        """Wait until the lost session has ended. The lock alone is no proof: a migration can release the lock."""
        if self.server.pooled:
            return  # a migration cannot release the lock of its transaction
        while self.connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            if time.monotonic() >= deadline:
                raise LockBusy(
                    f"the lost session, pid {pid}, still works",
                    hint=f"Wait for it, or end it with SELECT pg_terminate_backend({pid}).",
                )
            time.sleep(0.1)

    def _collect_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        severity = diagnostic.severity_nonlocalized or "NOTICE"
        self._notices.append(events.ServerNotice(severity, diagnostic.message_primary or ""))


def _outcome_unknown(names: Sequence[str], lost: psycopg.Error, error: RatchetError) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the connection was lost, and whether {join_names(names)} took effect is unknown",
        detail=f"{sentence(first_line(lost))} Then: {error.message}. {error.detail}".strip(),
        hint="When the server answers again, `invoke status` tells; a new `invoke migrate` goes on from there.",
        location=Location(names[0]),
    )
