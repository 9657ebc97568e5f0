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
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TypeVar

import psycopg

from pgratchet import events
from pgratchet.database import blockers, simple_query
from pgratchet.database.blockers import FindNames
from pgratchet.database.connection import first_line, sentence, translate_errors
from pgratchet.database.environment_record import EnvironmentRecord, RecordedDatabase
from pgratchet.database.history import HISTORY_COLUMNS, History, failed_assertion
from pgratchet.database.identity import Identity
from pgratchet.database.inspection import Server, inspect_and_ask, refuse_unfit
from pgratchet.database.pooler import refuse_pooled
from pgratchet.database.replication import Replication
from pgratchet.database.session_settings import (
    reset_in_block_statements,
    reset_statements,
    session_settings,
)
from pgratchet.database.simple_query import Answer
from pgratchet.errors import Location, LockBusy, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.formatting import format_count, join_names
from pgratchet.migrations.plan import HistoryRow

Connect = Callable[[], psycopg.Connection]
_T = TypeVar("_T")

_MOST_NOTICES = 1000
_LONGEST_NOTICE = 10_000
"""Limits of the messages that are kept until the answer to a text is complete: a file can raise millions."""

_TEXT_SETTINGS = ((b"client_encoding", b"UTF8"), (b"standard_conforming_strings", b"on"))
"""How the server has to read a file's text, and the rows of its COPY statements: the lexer reads them the same way."""


def migration_lock_busy(holder: str, wait: int) -> LockBusy:
    """The error for a lock that was not free within `wait` milliseconds; `holder` is a phrase."""
    return LockBusy(
        "another run holds the migration lock",
        detail=f"Held by {holder}. Waited {wait / 1000:g} s.",
        hint="Wait until it ends, or raise migration_timeout.",
    )


@dataclass(slots=True)
class Session:
    """A session on a target's database.

    `wait` is the longest time to wait for the lock, or for the server to answer again, in milliseconds. Blockers of a
    statement are looked for after half of `lock_timeout`, in milliseconds. With an `identity`, databases of other
    environments are refused, and the history can record the environment.
    """

    connect: Connect
    history: History
    wait: int
    lock_timeout: int = 3_000
    pinned_identifier: str = ""
    identity: Identity | None = None
    replication: Replication = field(default_factory=Replication)
    _settings: tuple[bytes, ...] = ()
    _notices: list[events.ServerNotice] = field(default_factory=list)
    _more_notices: int = 0
    _connection: psycopg.Connection | None = None
    _server: Server | None = None
    _monitor: blockers.BlockerMonitor | None = None
    _has_history: bool = False
    _database: RecordedDatabase = field(default_factory=RecordedDatabase)
    _keeps_session: bool = False  # through a pooler in session mode
    _pid: int = 0  # the server's process; libpq forgets it when the connection is lost

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
        """Connect, refuse unfit servers, databases of other environments and replicated histories; read the history.

        Later connections must lead to the same cluster.
        """
        self._connection = self.connect()
        self._connection.add_notice_handler(self._collect_notice)
        queries = (self.history.about_query(self._connection), self.history.read_query(self._connection))
        self._server, answer = inspect_and_ask(self._connection, b";\n".join(queries))
        self._pid = self._server.pid
        if self._keeps_session:
            self._server = replace(self._server, pooled=False)
        refuse_unfit(self._server, self.pinned_identifier)
        self.pinned_identifier = self._server.system_identifier
        self._settings = session_settings(self._server.version)
        history_rows = self.history.read_rows(self.connection, answer)
        self._database = RecordedDatabase.from_result(answer.results[0])
        self._database.require_own(self.identity, lambda: self.server.system_identifier)
        self.replication = Replication.from_result(answer.results[0])
        self.replication.require_own_rows(self.history)
        self._has_history = history_rows is not None
        return history_rows or []

    def create_history(self) -> None:
        """Create the history table where it is missing, with the record of the environment."""
        record = self._own_record()
        self.history.create(self.connection, record.comment("") if record else None)

    def record_environment(self) -> events.Stream:
        """Record the environment in a history that has another record or none, and tell about a copied database."""
        record, before = self._own_record(), self._database.record
        if record is None or record == before:
            return
        self.history.comment(self.connection, record.comment(self._database.comment))
        if before and before.environment != record.environment:
            yield events.ServerNotice(
                "NOTICE", f"the database was one of {before.environment}, and now belongs to {record.environment}"
            )

    def _own_record(self) -> EnvironmentRecord | None:
        return self._database.record_of(self.identity, self.server.system_identifier) if self.identity else None

    def refuse_pooled(self, what: str) -> None:
        """Raise ConfigurationError behind a pooler, unless it is in session mode; `what` names the operation.

        From here on a pooler in session mode is like a direct connection.
        """
        refuse_pooled(self.server, what, self.connection)
        self._keeps_session = self.server.pooled
        self._server = replace(self.server, pooled=False)

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
                raise self.history.unreadable(self.connection, answer.error)
            if simple_query.rows(answer.tables[0])[0][0] == "t":
                return self._read_under_lock(answer)
            holder = blockers.lock_holder(self.connection, self.history.lock_key)
            if time.monotonic() >= deadline:
                raise migration_lock_busy(holder, self.wait)
            if not announced:
                yield events.LockAwaited(holder)
                announced = True
            time.sleep(min(random.uniform(0.05, 0.6), max(0.0, deadline - time.monotonic())))  # noqa: S311

    def send(self, text: bytes, names: Sequence[str], *, rows: memoryview | None = None) -> Answer:
        """Send statements of the migrations `names`, or a COPY with its `rows`.

        After an error the session is reset and usable. After a lost connection the session has a new connection.
        """
        return events.drain(self.sending(text, names, rows=rows))

    def sending(
        self, text: bytes, names: Sequence[str], *, rows: memoryview | None = None, find_done: FindNames | None = None
    ) -> Generator[events.Event, None, Answer]:
        """Send like `send`. With `find_done`, yield the name of each migration that takes a while."""
        answer = yield from self.sending_in_block(text, names, rows=rows, find_done=find_done)
        if answer.error is not None and not answer.lost:
            self.reset()
        return answer

    def sending_in_block(
        self, text: bytes, names: Sequence[str], *, rows: memoryview | None = None, find_done: FindNames | None = None
    ) -> Generator[events.Event, None, Answer]:
        """Send like `sending`, and leave an open transaction as it is after an error."""
        monitor = self._monitor
        with monitor.watch(self._pid, find_done) if monitor else nullcontext():
            if rows is None:
                answer = yield from simple_query.send_migration(
                    self.connection, text, HISTORY_COLUMNS, _report_begun(names, monitor)
                )
            else:
                answer = simple_query.copy(self.connection, text, rows)
            if answer.error is None:
                self._restore_text_settings()
        if answer.error is not None and answer.lost:
            self._reconnect(names, answer.error)
        return answer

    def _restore_text_settings(self) -> None:
        """Set back what changes how the server reads the next text: a file, or a function, may have set it.

        The server reports each change before it is ready for the next text
        (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC).
        """
        status = self.connection.pgconn.parameter_status
        changed = [(name, value) for name, value in _TEXT_SETTINGS if status(name) not in (value, None)]
        if changed:
            simple_query.send(self.connection, b";".join(b"SET %b = '%b'" % setting for setting in changed))

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

    def reset_statements(self) -> tuple[bytes, ...]:
        """Return the statements to reset the session.

        They form a transaction of their own: the next transaction begins with the role's own defaults, and the next
        text is decoded and parsed with these.
        """
        return reset_statements(self._settings, pooled=self.server.pooled)

    def reset_in_block_statements(self) -> tuple[bytes, ...]:
        """Return the statements to reset the session inside a transaction, and to set what it needs again."""
        return reset_in_block_statements(self._settings, pooled=self.server.pooled)

    def reset(self) -> None:
        """Roll back a failed transaction and reset the session."""
        count, more = len(self._notices), self._more_notices
        # In one text: a pooler can hand the server's session to another client between two texts.
        simple_query.send(self.connection, b";".join((b"ROLLBACK", *self.reset_statements())))
        del self._notices[count:]  # such as the warning that there is no transaction
        self._more_notices = more

    def take_notices(self) -> Iterator[events.Event]:
        """Yield the server's messages since the last call, at most _MOST_NOTICES of them."""
        notices, self._notices = self._notices, []
        more, self._more_notices = self._more_notices, 0
        yield from notices
        if more:
            yield events.ServerNotice("NOTICE", f"{format_count(more, 'more message')} of the server")

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
            return self.history.read_rows(self.connection, answer)
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
                    f"the lost session, pid {pid}, is still running",
                    hint=f"Wait until it ends, or end it with SELECT pg_terminate_backend({pid}).",
                )
            time.sleep(0.1)

    def _collect_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if len(self._notices) >= _MOST_NOTICES:
            self._more_notices += 1
            return
        severity = diagnostic.severity_nonlocalized or "NOTICE"
        message = diagnostic.message_primary or ""
        self._notices.append(events.ServerNotice(severity, message[:_LONGEST_NOTICE]))


def _report_begun(
    names: Sequence[str], monitor: blockers.BlockerMonitor | None
) -> Callable[[], Iterator[events.MigrationBegun]]:
    """A function that yields the first migration that is not done, when it is another one than before."""
    reported = ""

    def report() -> Iterator[events.MigrationBegun]:
        nonlocal reported
        done = monitor.done if monitor else None
        name = next((name for name in names if done is not None and name not in done), "")
        if name and name != reported:
            reported = name
            yield events.MigrationBegun(name)

    return report


def _outcome_unknown(names: Sequence[str], lost: psycopg.Error, error: RatchetError) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the connection was lost, and it is unknown whether {join_names(names)} took effect",
        detail=f"{sentence(first_line(lost))} Then: {error.message}. {error.detail}".strip(),
        hint="When the server answers again, `invoke status` shows it, and `invoke migrate` continues from there.",
        location=Location(names[0]),
    )
