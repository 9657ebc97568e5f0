"""Applies repeatable migrations: all of a batch in one transaction, in an order that is found by trying.

A file that fails because something does not exist is rolled back to its savepoint and runs again behind the others, as
long as another one succeeds. Any other error rolls back all.

The history rows of all files are inserted before the first text. So a second runner with the same plan waits there for
this transaction, and then fails: the names are unique, and the second runner plans again. A row belongs to this
transaction and not to a savepoint, so that the assertion at a file's end can compare the row's xmin
(https://www.postgresql.org/docs/current/subxacts.html).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg

from pgratchet import events
from pgratchet.apply import batch, failures, replacing, unresolved
from pgratchet.apply.batch import Failure, Frame
from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.retry import Retry
from pgratchet.errors import MigrationFailed
from pgratchet.migrations import repeatables
from pgratchet.migrations.plan import HistoryRow
from pgratchet.migrations.scripts import Script

if TYPE_CHECKING:
    from pgratchet.apply.run import Run
    from pgratchet.database.simple_query import Answer

MISSING = ("42P01", "42883", "42704", "42703", "42P02", "3F000")
"""SQLSTATEs of what does not exist: a relation, a function, another object, a column, a parameter, a schema
(https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""
_SAVEPOINT = b"pgratchet_file"


@dataclass(frozen=True, slots=True)
class Stop:
    """The error that stopped a repeatable. `lost`: the connection broke."""

    script: Script
    error: psycopg.Error
    failure: Failure
    lost: bool = False

    @property
    def is_missing(self) -> bool:
        return not self.lost and not self.failure.framing and self.error.sqlstate in MISSING


def apply(run: Run, scripts: Sequence[Script]) -> Iterator[events.Event]:
    """Apply the repeatables of a batch, in order of their names; those that another run has applied are left out."""
    retry = Retry(run.options.wait)
    while recorded := _with_row_names(run, scripts):
        transaction = _Transaction(run, scripts, recorded)
        yield events.BatchSent(transaction.names)
        try:
            stops = yield from transaction.play()
            rows = transaction.read_rows(stops)
        except KeyboardInterrupt as signal:
            yield from run.interrupted(signal, list(recorded.values()))
        yield from run.session.take_notices()
        committed = yield from run.report_committed(list(recorded.values()), rows)
        if len(committed) == len(recorded):
            return
        if not stops:
            raise failures.not_in_history(transaction.names)
        yield from transaction.handle(stops, retry)


def _with_row_names(run: Run, scripts: Sequence[Script]) -> dict[str, Script]:
    """The scripts to run, by name, each with the name of its next history row: not those whose text ran last."""
    session, names = run.session, [script.name for script in scripts]
    rows = session.retry_after_reconnecting(names, session.history.read)
    plan = repeatables.plan([script.migration for script in scripts], rows)
    todo = {migration.name for migration in plan.todo}
    next_rows = {entry.name: entry.next_row for entry in plan.entries}
    return {
        script.name: replace(script, migration=replace(script.migration, name=next_rows[script.name]))
        for script in scripts
        if script.name in todo or script.runs_again
    }


class _Transaction:
    """One try to run repeatables. `recorded` are the scripts with the names of their history rows."""

    def __init__(self, run: Run, scripts: Sequence[Script], recorded: dict[str, Script]) -> None:
        self.run = run
        self.session = run.session
        self.recorded = recorded
        self.scripts = sorted((s for s in scripts if s.name in recorded), key=lambda script: script.name)
        self.names = tuple(script.name for script in self.scripts)
        self.rows: list[HistoryRow] = []

    def play(self) -> Generator[events.Event, None, Sequence[Stop]]:
        """Run all and commit; returns the errors that prevented it. The session is usable afterwards."""
        answer = yield from self._send(b";\n".join(self._opening()))
        if answer.error is not None:
            return self._roll_back([self._stop_of_transaction(answer, framing=True)])
        waiting: Sequence[Script] = self.scripts
        while waiting:
            stops = yield from self._try_each(waiting)
            is_over = any(not stop.is_missing for stop in stops) or len(stops) == len(waiting)
            if is_over:
                return self._roll_back(stops)
            waiting = [stop.script for stop in reversed(stops)]  # in turns, so that a long chain takes two passes
        answer = yield from self._send(b";\n".join(self._closing()))
        if answer.error is not None:
            return self._roll_back([self._stop_of_transaction(answer)])
        self.rows = self.session.history.read_rows(self.session.connection, answer) or []
        return ()

    def read_rows(self, stops: Sequence[Stop]) -> list[HistoryRow]:
        """Read the rows of this run, also after a COMMIT whose answer was lost."""
        if not stops:
            return self.rows
        if any(stop.lost for stop in stops):
            self.run.require_applied()
        recorded = list(self.recorded.values())
        return self.session.retry_after_reconnecting(self.names, lambda _: self.run.read_committed(recorded))

    def handle(self, stops: Sequence[Stop], retry: Retry) -> Iterator[events.Event]:
        """Wait before another try, or raise."""
        run, stop = self.run, stops[-1]
        run.refuse_ended_transaction(list(self.recorded.values()))
        if run.is_duplicate_row(stop.error):
            return  # another run was first, which the lock did not exclude
        if len(stops) > 1 and all(each.is_missing for each in stops):
            stops = sorted(stops, key=lambda each: each.script.name)
            raise unresolved.unresolved(stops, self.names, run.applied, run.columns.backup_id)
        try:
            yield from run.pause(retry, stop.error, stop.failure, stop.script, self.names)
        except MigrationFailed as failed:
            if advice := unresolved.advise(stop) or replacing.find_advice(self.session.connection, stop):
                backup_id = run.columns.backup_id
                failed.hint = (
                    advice if backup_id is None else f"The backup taken before this run is {backup_id}. {advice}"
                )
            raise

    def _try_each(self, scripts: Sequence[Script]) -> Generator[events.Event, None, list[Stop]]:
        """Run the scripts once; returns the errors of those that were rolled back, and ends at one that is fatal."""
        stops: list[Stop] = []
        for script in scripts:
            text = script.migration.text()
            part = batch.compose([(script, text)], lambda each, _: self._frame(each))
            answer = yield from self._send(part.text)
            if answer.error is None:
                continue
            failure = batch.locate(part, answer.answered, Diagnosis.of(answer.error))
            stop = Stop(script, answer.error, failure, answer.lost)
            if stop.is_missing:
                answer = yield from self._send(b"ROLLBACK TO SAVEPOINT %b" % _SAVEPOINT)
            stops.append(stop if answer.error is None or not stop.is_missing else self._stop_of_transaction(answer))
            if not stops[-1].is_missing:
                break
        return stops

    def _send(self, text: bytes) -> Generator[events.Event, None, Answer]:
        return (yield from self.session.sending_in_block(text, self.names))

    def _roll_back(self, stops: Sequence[Stop]) -> Sequence[Stop]:
        if not any(stop.lost for stop in stops):
            self.session.reset()
        return stops

    def _stop_of_transaction(self, answer: Answer, *, framing: bool = False) -> Stop:
        """The error of a statement of ours: of the first file at the beginning (`framing`), of the last one later."""
        assert answer.error is not None
        script = self.scripts[0 if framing else -1]
        failure = Failure(batch.whole_file(script, answer.error.sqlstate), framing=framing)
        return Stop(script, answer.error, failure, answer.lost)

    def _opening(self) -> tuple[bytes, ...]:
        session, connection, columns = self.session, self.session.connection, self.run.columns
        rows = (
            session.history.begin_migration_query(connection, self.recorded[s.name], s.migration.text(), columns)
            for s in self.scripts
        )
        before, after = session.before_begin_statements(), session.after_begin_statements()
        return (*before, b"BEGIN", *after, *self.run.timeouts(None), *rows)

    def _frame(self, script: Script) -> Frame:
        """Return the statements around a file: it begins with a session as new, and ends as the role of the run."""
        session = self.session
        finish = session.history.finish_repeatable_query(session.connection, self.recorded[script.name])
        return Frame(
            (b"SAVEPOINT %b" % _SAVEPOINT, *session.reset_in_block_statements(), *self.run.timeouts(script)),
            (b"RESET SESSION AUTHORIZATION", b"RESET ROLE", finish, b"RELEASE SAVEPOINT %b" % _SAVEPOINT),
        )

    def _closing(self) -> tuple[bytes, ...]:
        session, run_id = self.session, self.run.columns.run_id
        row_names = [script.name for script in self.recorded.values()]
        rows_query = session.history.read_run_query(session.connection, run_id, row_names)
        return (b"RESET synchronous_commit", b"COMMIT", *session.reset_statements(), rows_query)
