"""Applies the pending migrations of one run, batch by batch, and verifies each batch in the history.

Settings of a file outlive the file's transaction, so each migration is followed by a transaction to reset the session.
When the answer to a COMMIT is lost, the COMMIT may have happened. So the history, and never the answer, shows whether a
migration was committed.

Only the last COMMIT of a batch waits for the disk. The write-ahead log is written in order: with a COMMIT all earlier
ones are on disk, and a crash that loses a migration loses the migration's row and all later migrations too
(https://www.postgresql.org/docs/current/wal-async-commit.html). A migration is reported as applied after the last
COMMIT was answered. When an error prevents the last COMMIT, `_read_committed` commits a transaction that waits.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from pgratchet import events
from pgratchet.apply import failures
from pgratchet.apply.retry import Retry
from pgratchet.database import simple_query
from pgratchet.database.connection import first_line
from pgratchet.database.history import RunColumns
from pgratchet.database.identity import Identity
from pgratchet.database.session import Session, migration_lock_busy
from pgratchet.database.simple_query import Answer
from pgratchet.errors import MigrationFailed
from pgratchet.migrations.directives import Directives
from pgratchet.migrations.plan import HistoryRow, make_plan, require_agreement
from pgratchet.migrations.repeatables import file_name_of_row
from pgratchet.migrations.scripts import Script

if TYPE_CHECKING:
    from pgratchet.apply.batch import Failure, Frame


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """Options of a run. Times are in milliseconds.

    `to` is the last migration to run. With `stops_at_contract` the run ends before the first contract file.
    `without_backup` is the reason for running without a backup. `wait` is how long to wait for the migration lock, and
    for a lock inside a migration over all tries; each try waits `lock_timeout`. `statement_timeout` is the limit of
    each statement; 0 means unlimited. With `only_destructive`, no backup is taken before additive migrations. With
    `not_empty`, the first run is allowed on a database that has tables already. With `identity`, a database of another
    environment is refused.
    """

    run_id: str
    to: str | None = None
    stops_at_contract: bool = False
    without_backup: str | None = None
    wait: int = 30_000
    lock_timeout: int = 3_000
    statement_timeout: int = 30_000
    batch_size: int = 100
    pinned_identifier: str = ""
    only_destructive: bool = False
    not_empty: bool = False
    identity: Identity | None = None


@dataclass(slots=True)
class Run:
    """Applies scripts under the lock of a session. `applied` are the names of all migrations applied so far.

    `recorded` are the names of their rows in the history, which differ for repeatables. The last batch reads the whole
    `history` instead of a few rows, because a run ends with reading the history.
    """

    session: Session
    options: MigrateOptions
    columns: RunColumns
    applied: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    is_last: bool = False
    history: list[HistoryRow] | None = None

    def apply(self, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Apply the scripts of a batch; a script without a transaction, and repeatables, are batches of their own."""
        if scripts[0].is_repeatable:
            from pgratchet.apply import repeatables

            self.history = None
            yield from repeatables.apply(self, scripts)
        elif scripts[0].directives.transactional:
            yield from self._apply_in_transactions(scripts)
        else:
            yield from self._apply_without_transaction(scripts[0])

    def _apply_in_transactions(self, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Apply the scripts in a single round trip unless an error happens, and again after lock timeouts."""
        retry = Retry(self.options.wait)
        while scripts:
            yield events.BatchSent(tuple(script.name for script in scripts))
            try:
                outcome = yield from self._send(scripts)
            except KeyboardInterrupt as signal:
                yield from self.interrupted(signal, scripts)
            yield from self.session.take_notices()
            committed = yield from self.report_committed(scripts, outcome.rows)
            scripts = [script for script in scripts if script.name not in committed]
            if outcome.answer.error is not None and scripts:
                scripts = yield from self._handle_error(outcome, scripts, retry, ran=bool(committed))
            else:
                _require_committed(scripts)

    def _apply_without_transaction(self, script: Script) -> Iterator[events.Event]:
        from pgratchet.apply import nontransactional

        try:
            yield from nontransactional.run(self.session, script, self.columns, self.options.lock_timeout)
        except KeyboardInterrupt as signal:
            yield from self.interrupted(signal, [script])
        self._add_applied(script.name)

    def _add_applied(self, row_name: str) -> str:
        """Note that the migration with this row is applied; returns the name of the migration."""
        name = file_name_of_row(row_name)
        self.applied.append(name)
        self.recorded.append(row_name)
        return name

    def _handle_error(
        self, outcome: _Outcome, scripts: Sequence[Script], retry: Retry, *, ran: bool
    ) -> Generator[events.Event, None, Sequence[Script]]:
        """Return the scripts to send again, or raise. `scripts` are not committed; `ran`: others of the batch are."""
        error = outcome.answer.error
        assert error is not None
        self.refuse_ended_transaction(scripts)
        failure = _attribute(outcome, scripts[0], ran=ran)
        failed = next(script for script in scripts if script.name == failure.location.migration)
        if self.is_duplicate_row(error):
            return self._skip_applied_elsewhere(scripts, failed)
        if len(scripts) > 1 and _is_not_convertible(outcome):
            yield from self._apply_in_transactions(scripts[:1])
            return scripts[1:]
        if before := scripts[: scripts.index(failed)]:
            # A syntax error: the server parsed the whole text and ran nothing.
            yield from self._apply_in_transactions(before)
            raise self.failed(error, failure, failed)
        yield from self.pause(retry, error, failure, failed)
        return scripts

    def pause(
        self, retry: Retry, error: psycopg.Error, failure: Failure, failed: Script, together: Sequence[str] = ()
    ) -> Iterator[events.Event]:
        """Wait before another try; raise when another try cannot help."""
        busy = self.session.is_lock_busy(error, framing=failure.framing)
        if busy and retry.is_over():
            raise migration_lock_busy("another run", self.session.wait)
        if not busy and not retry.allows(error):
            raise self.failed(error, failure, failed, together)
        reason = "another run holds the migration lock" if busy else first_line(error)
        yield from retry.pause(failed.name, reason, self.session.blockers)

    def failed(
        self, error: psycopg.Error, failure: Failure, failed: Script, together: Sequence[str] = ()
    ) -> MigrationFailed:
        """Return the error of a failed script. `together` are the names of those rolled back with it."""
        backup_id, blockers = self.columns.backup_id, self.session.blockers
        return failures.migration_failed(
            error,
            failure,
            failed,
            applied=self.applied,
            backup_id=backup_id,
            blockers=blockers,
            rolled_back=together or (failed.name,),
        )

    def _send(self, scripts: Sequence[Script]) -> Generator[events.Event, None, _Outcome]:
        """Send the scripts with a query for their rows; after an error, read the rows with a second query."""
        from pgratchet.apply.batch import is_sent_alone

        if is_sent_alone(scripts[0]):
            answer, failure = self._send_in_windows(scripts[0])
        else:
            answer, failure = yield from self._send_together(scripts)
        self.history = None
        if answer.lost:
            self.require_applied()
        if answer.error is not None:
            names = [script.name for script in scripts]
            rows = self.session.retry_after_reconnecting(names, lambda _: self.read_committed(scripts))
            return _Outcome(answer, rows, failure)
        rows = self.session.history.read_rows(self.session.connection, answer) or []
        self.history = rows if self.is_last else None
        return _Outcome(answer, rows, failure)

    def _send_together(self, scripts: Sequence[Script]) -> Generator[events.Event, None, tuple[Answer, Failure | None]]:
        from pgratchet.apply.batch import compose, locate
        from pgratchet.apply.diagnosis import Diagnosis

        names, last = [script.name for script in scripts], scripts[-1]
        parts = [(script, script.migration.text()) for script in scripts]
        batch = compose(parts, lambda s, text: self._frame(s, text, durable=s is last), [self._rows_query(names)])
        find_done = partial(self._find_done, names) if len(names) > 1 else None
        answer = yield from self.session.sending(batch.text, names, find_done=find_done)
        return answer, locate(batch, answer.answered, Diagnosis.of(answer.error)) if answer.error else None

    def _find_done(self, names: Sequence[str], connection: psycopg.Connection) -> frozenset[str]:
        rows = self.session.history.read_run(connection, self.columns.run_id, names)
        return frozenset(row.name for row in rows if row.executed_at)

    def _send_in_windows(self, script: Script) -> tuple[Answer, Failure | None]:
        """Send a transaction in as many round trips as the text has windows."""
        from pgratchet.apply.batch import Failure, locate_in_window, whole_file
        from pgratchet.apply.diagnosis import Diagnosis

        names, text = [script.name], script.migration.text()
        frame = self._frame(script, text, durable=True)
        answer = self.session.send(b";\n".join(frame.opening), names)
        if answer.error is not None:
            return answer, Failure(whole_file(script, answer.error.sqlstate), framing=True)
        for window in script.windows:
            rows = memoryview(text)[slice(*window.rows)] if window.rows else None
            answer = self.session.send(text[window.start : window.end], names, rows=rows)
            if answer.error is not None:
                return answer, locate_in_window(script, text, window, answer.answered, Diagnosis.of(answer.error))
        answer = self.session.send(b";\n".join((*frame.closing, self._rows_query(names))), names)
        return answer, Failure(whole_file(script, answer.error.sqlstate)) if answer.error else None

    def _rows_query(self, names: Sequence[str]) -> bytes:
        """Return the query at the end of a batch, to see whether the migrations are committed."""
        history, connection = self.session.history, self.session.connection
        if self.is_last:
            return history.read_query(connection)
        return history.read_run_query(connection, self.columns.run_id, names)

    def read_committed(self, scripts: Sequence[Script]) -> list[HistoryRow]:
        """Read the rows of the scripts after a durable COMMIT, which makes all earlier ones durable."""
        names = [script.name for script in scripts]
        query = self.session.history.read_run_query(self.session.connection, self.columns.run_id, names)
        commit = b"BEGIN READ WRITE; SELECT pg_catalog.pg_current_xact_id(); COMMIT;\n"
        answer = simple_query.send(self.session.connection, commit + query)
        return self.session.history.read_rows(self.session.connection, answer) or []

    def _frame(self, script: Script, text: bytes, *, durable: bool) -> Frame:
        """Return the transaction around a script. A `durable` COMMIT waits for the disk."""
        from pgratchet.apply.batch import Frame

        connection, history, session = self.session.connection, self.session.history, self.session
        opening = (
            *session.before_begin_statements(),
            b"BEGIN",
            *session.after_begin_statements(),
            *self.timeouts(script),
            history.begin_migration_query(connection, script, text, self.columns),
        )
        closing = (
            b"RESET SESSION AUTHORIZATION",
            b"RESET ROLE",
            b"RESET synchronous_commit" if durable else b"SET LOCAL synchronous_commit = off",
            history.finish_migration_query(connection, script),
            b"COMMIT",
        )
        return Frame(opening, (*closing, *session.reset_statements()))

    def timeouts(self, script: Script | None) -> tuple[bytes, bytes]:
        """Return the statements that set the timeouts of a script; None stands for a script without directives."""
        directives, options = script.directives if script else Directives(), self.options
        lock = options.lock_timeout if directives.lock_timeout is None else directives.lock_timeout
        statement = options.statement_timeout if directives.statement_timeout is None else directives.statement_timeout
        return b"SET LOCAL lock_timeout = %d" % lock, b"SET LOCAL statement_timeout = %d" % statement

    def report_committed(
        self, scripts: Sequence[Script], rows: Sequence[HistoryRow]
    ) -> Generator[events.Event, None, set[str]]:
        """Report the scripts with finished rows; returns their names."""
        checksums = {script.name: script.migration.checksum for script in scripts}
        committed = set[str]()
        for row in rows:
            if row.executed_at and row.checksum == checksums.get(row.name):
                committed.add(row.name)
                yield events.MigrationApplied(self._add_applied(row.name), row.duration_ms or 0)
        return committed

    def is_duplicate_row(self, error: psycopg.Error) -> bool:
        """Return whether the history already has a row of the same name, because another run was first."""
        history, diagnostic = self.session.history, error.diag
        table = (diagnostic.schema_name, diagnostic.table_name)
        return error.sqlstate == "23505" and table == (history.schema, history.table)

    def refuse_ended_transaction(self, scripts: Sequence[Script]) -> None:
        """Raise when an unfinished row of this run is committed: the file has ended our transaction."""
        names = [script.name for script in scripts]
        rows = self.session.history.read_run(self.session.connection, self.columns.run_id, names)
        if rows:
            raise failures.ended_own_transaction(rows[0].name)

    def _skip_applied_elsewhere(self, scripts: Sequence[Script], failed: Script) -> Sequence[Script]:
        """Return the scripts not applied by another run, which the lock did not exclude, as behind a pooler."""
        rows = self.session.history.read(self.session.connection)
        finished = {row.name for row in rows if row.executed_at}
        migrations = [script.migration for script in scripts]
        names = {migration.name for migration in migrations}
        require_agreement(make_plan(migrations, [row for row in rows if row.name in names]), {})
        if failed.name not in finished:
            raise failures.begun_by_other_run(failed.name)
        return [script for script in scripts if script.name not in finished]

    def interrupted(self, signal: KeyboardInterrupt, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Report the committed part of the batch, then raise Interrupted."""
        rows = self._read_committed_after_signal(scripts)
        if rows is not None:
            yield from self.report_committed(scripts, rows)
        raise failures.interrupted(signal, None if rows is None else self.applied) from None

    def _read_committed_after_signal(self, scripts: Sequence[Script]) -> list[HistoryRow] | None:
        """Return the rows of the scripts, or None if the server does not answer. Only a third signal ends the wait."""
        for _ in range(2):
            try:
                self.session.reset()
                return self.read_committed(scripts)
            except psycopg.Error:  # noqa: PERF203
                return None
            except KeyboardInterrupt:  # impatience must not hide what took effect
                continue
        return None

    def require_applied(self) -> None:
        """Raise when the server after reconnecting lacks migrations reported as applied."""
        names, history, run_id = self.recorded, self.session.history, self.columns.run_id
        rows = self.session.retry_after_reconnecting(names, lambda c: history.read_run(c, run_id, names))
        if missing := sorted(set(names) - {row.name for row in rows if row.executed_at}):
            raise failures.not_known_to_server(missing)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of sending a batch: the answer, the rows in the history, and the location of an error."""

    answer: Answer
    rows: list[HistoryRow]
    failure: Failure | None


def _require_committed(scripts: Sequence[Script]) -> None:
    """Raise when scripts were acknowledged without an error and have no finished rows."""
    if scripts:
        raise failures.not_in_history([script.name for script in scripts])


def _is_not_convertible(outcome: _Outcome) -> bool:
    """Return whether the server could not convert the text. Sent singly, the scripts show the culprit."""
    error = outcome.answer.error
    return error is not None and not outcome.answer.answered and error.sqlstate in ("22P05", "22021")


def _attribute(outcome: _Outcome, first: Script, *, ran: bool) -> Failure:
    """Attribute the error to a script: when something ran, to the first uncommitted script.

    Nothing more is known after a lost connection. A rule of the database can add results and make counting wrong.
    """
    from pgratchet.apply.batch import Failure, whole_file

    assert outcome.failure is not None
    location = outcome.failure.location
    if outcome.answer.lost or (ran and location.migration != first.name):
        return Failure(whole_file(first, location.sqlstate))
    return outcome.failure
