"""Runs a migration without a transaction, statement by statement, and records each statement in the history.

Where possible a statement shares a transaction with the record: the statement took effect exactly when the history says
so. Other statements (CREATE INDEX CONCURRENTLY, VACUUM, procedures with COMMIT) are recorded as begun before, and as
done after. When the end of a statement is not known, the catalog shows whether the statement took effect; where the
catalog shows nothing, a person decides.

The index of a CREATE INDEX CONCURRENTLY is looked up before and after: a failed build leaves an INVALID index, and with
IF NOT EXISTS the next build does nothing and succeeds (`apply.catalog` has the source).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from pgratchet import events
from pgratchet.apply import catalog, stops
from pgratchet.apply.catalog import ObjectState
from pgratchet.apply.numbered import NumberedStatements
from pgratchet.apply.retry import Retry
from pgratchet.database.blockers import snapshot_holders
from pgratchet.database.connection import first_line
from pgratchet.database.history import RunColumns, StepProgress, failed_assertion
from pgratchet.database.session import Session
from pgratchet.database.simple_query import Answer
from pgratchet.errors import RatchetError
from pgratchet.formatting import elapsed_ms
from pgratchet.migrations.effects import Effect
from pgratchet.migrations.scripts import Script

_T = TypeVar("_T")
_SNAPSHOT_POLL = 0.2
"""Seconds between looks at open transactions; one that is shorter is not reported."""


def run(session: Session, script: Script, columns: RunColumns, lock_timeout: int) -> Iterator[events.Event]:
    """Run the remaining statements; StoppedPartWay for a failed statement, where the next run continues."""
    yield from _Execution(session, script, NumberedStatements.read(script), lock_timeout, columns).run()


@dataclass(slots=True)
class _Execution:
    session: Session
    script: Script
    statements: NumberedStatements
    lock_timeout: int
    columns: RunColumns
    _ready: psycopg.Connection | None = None  # the connection that has the file's settings, while it has them

    @property
    def name(self) -> str:
        return self.script.name

    def run(self) -> Iterator[events.Event]:
        total = len(self.statements)
        started, progress = time.monotonic(), self._retry(self._begin)
        done = progress.done if progress else 0
        for number in range(done + 1, total + 1):
            yield events.BatchSent((self.name,))
            yield from self._execute(number, in_doubt=progress is not None and self._is_in_doubt(number, progress))
            yield from self.session.take_notices()
            yield events.StatementDone(self.name, number, total)
        self.session.reset()
        duration = None if progress is None else elapsed_ms(started, time.monotonic())
        yield events.MigrationApplied(self.name, self._retry(lambda connection: self._finish(connection, duration)))

    def _is_in_doubt(self, number: int, progress: StepProgress) -> bool:
        return progress.begun == number and not self.statements.is_replacement(number, progress.body)

    def _begin(self, connection: psycopg.Connection) -> StepProgress | None:
        """Insert the row, or resume an existing row; returns the earlier progress."""
        history, statements = self.session.history, self.statements
        progress = history.read_progress(connection, self.name)
        if progress is None:
            history.begin_steps(connection, self.script, statements.record_of(0), self.columns)
        else:
            self._require_same_beginning(progress)
            history.resume_steps(connection, self.script, statements.record_of(progress.done), self.columns)
        return progress

    def _finish(self, connection: psycopg.Connection, duration: int | None) -> int:
        """Finish the row; returns the duration. After a lost answer the row can be finished already."""
        history, digest = self.session.history, self._digest(len(self.statements))
        duration = history.finish_steps(connection, self.columns.run_id, self.name, digest, duration)
        if duration is not None:
            return duration
        for row in history.read_run(connection, self.columns.run_id, [self.name]):
            return row.duration_ms or 0
        raise self._row_lost(len(self.statements))

    def _retry(self, query: Callable[[psycopg.Connection], _T]) -> _T:
        return self.session.retry_after_reconnecting([self.name], query)

    def _send(self, text: bytes) -> Answer:
        answer = self.session.send(text, [self.name])
        if answer.error is not None:
            self._ready = None  # an error resets the session, or replaces its connection
        return answer

    def _require_same_beginning(self, progress: StepProgress) -> None:
        """Raise when completed statements have changed since. Later statements may change."""
        if progress.checksum == self.script.migration.checksum:
            return
        if progress.body is None or not self.statements.begin_with(progress.body.encode(), progress.done):
            raise stops.part_changed(self.name, progress.done)

    def _set_up(self, number: int) -> None:
        """Set timeouts and the file's own settings before a statement, unless the connection has them.

        The settings of a file do not last beyond the session, so they are repeated after every reset and reconnection.
        """
        directives = self.script.directives
        # A concurrent build that times out leaves an INVALID index, so it may wait as long as a whole run.
        lock = self.session.wait if directives.lock_timeout is None else directives.lock_timeout
        timeouts = (
            b"SET statement_timeout = %d" % (directives.statement_timeout or 0),
            b"SET lock_timeout = %d" % lock,
        )
        text = b";\n".join((*timeouts, *self.statements.settings_before(number)))
        while self._ready is not self.session.connection:
            answer = self._send(text)
            if answer.error is not None and not answer.lost:
                raise self._failed(number, answer.error)
            self._ready = None if answer.lost else self.session.connection

    def _execute(self, number: int, *, in_doubt: bool) -> Iterator[events.Event]:
        if not in_doubt and self.statements.can_share_transaction(number):
            yield from self._execute_in_transaction(number)
            return
        yield from self._wait_for_snapshots(number)
        if not (in_doubt and self._retry(lambda _: self._settle(number))):
            self._execute_alone(number)

    def _execute_in_transaction(self, number: int) -> Iterator[events.Event]:
        """Run a statement and the record in a transaction, again after lock timeouts."""
        run_id, history, timeout = self.columns.run_id, self.session.history, self.script.directives.lock_timeout
        record = history.record_step_done_query(
            self.session.connection, run_id, self.name, number, self._digest(number)
        )
        lock_timeout = self.lock_timeout if timeout is None else timeout
        opening = b"BEGIN READ WRITE;\nSET LOCAL lock_timeout = %d;\n" % lock_timeout
        text = b"%b%b\n;\n%b;\nCOMMIT" % (opening, self.statements.text_of(number), record)
        retry = Retry(self.session.wait)
        while True:
            self._set_up(number)
            answer = self._send(text)
            if answer.error is None or (answer.lost and self._read_done() >= number):
                return
            if answer.lost or failed_assertion(answer.error):
                self._require_own_row(number - 1)
            if answer.error.sqlstate == "25001":  # only the server knew that the statement needs to run alone
                return self._execute_alone(number)
            if not retry.allows(answer.error):
                raise self._failed(number, answer.error, opening=len(opening))
            yield from retry.pause(self.name, first_line(answer.error), self.session.blockers)

    def _wait_for_snapshots(self, number: int) -> Iterator[events.Event]:
        """Wait for open snapshots before a concurrent command begins.

        The command blocks no other session, but waits without a limit for every older transaction with a snapshot.
        Transactions begun during this wait are not waited for: the command's lock_timeout limits the wait for them.
        """
        if not self.statements.waits_for_snapshots(number):
            return
        retry, first = Retry(self.session.wait), self._retry(snapshot_holders)
        time.sleep(_SNAPSHOT_POLL if first else 0)
        announced = False
        while holders := [phrase for key, phrase in self._retry(snapshot_holders).items() if key in first]:
            if retry.is_over():
                raise stops.kept_waiting(self.statements, number, holders)
            if not announced:
                yield events.SnapshotsAwaited(self.name, tuple(holders))
                announced = True
            time.sleep(_SNAPSHOT_POLL)

    def _execute_alone(self, number: int) -> None:
        """Run a statement outside a transaction, with records and a look at the catalog before and after."""
        effect = self.statements.effect(number)
        self._set_up(number)
        self._refuse_reindex_leftovers(number)
        before = self._read_state(effect) if effect and effect.creates else ObjectState.ABSENT
        if effect and before is ObjectState.HALF:
            raise self._invalid_index(number, effect)
        if before is ObjectState.ABSENT:  # an object that exists is not of this statement, and must not prove its end
            self._record_begun(number, number)
        self._set_up(number)
        answer = self._send(self.statements.text_of(number))
        failed = self._failed(number, answer.error) if answer.error else None  # now, while the blockers are known
        if answer.lost:
            self._require_own_row(number - 1)
            if before is ObjectState.ABSENT and self._retry(lambda _: self._settle(number)):
                return
        if failed:
            self._clear_failure(number, effect, answer)
            raise failed
        if effect and effect.creates:
            self._require_created(number, effect)
        self._record_done(number)

    def _require_created(self, number: int, effect: Effect) -> None:
        """Raise when a successful statement created nothing, or left an INVALID index: IF NOT EXISTS ignores both."""
        state = self._read_state(effect)
        if state is ObjectState.HALF:
            raise self._invalid_index(number, effect)
        if state is ObjectState.ABSENT and self.statements.ignores_existing(number):
            raise stops.name_taken(self.statements, number, effect.name)

    def _clear_failure(self, number: int, effect: Effect | None, answer: Answer) -> None:
        """Remove the record of a failed statement, except when the next run must repair a half-done object."""
        self._set_up(number)
        if not answer.lost and not (effect and self._read_state(effect) is ObjectState.HALF):
            self._record_begun(number, None)
        self._refuse_reindex_leftovers(number, answer.error)

    def _refuse_reindex_leftovers(self, number: int, error: psycopg.Error | None = None) -> None:
        """Raise when an interrupted REINDEX CONCURRENTLY left INVALID indexes: the next REINDEX ignores them."""
        reindexed = self.statements.reindexed(number)
        if reindexed is None:
            return
        indexes = self._retry(lambda connection: catalog.find_reindex_leftovers(connection, *reindexed))
        if indexes:
            drops = [catalog.drop_statement(self.session.connection, index) for index in indexes]
            raise stops.reindex_left(self.statements, number, error, indexes, drops)

    def _record_begun(self, number: int, begun: int | None) -> None:
        history, run_id = self.session.history, self.columns.run_id
        self._record(number - 1, lambda c: history.record_step_begun(c, run_id, self.name, begun))

    def _record_done(self, number: int) -> None:
        history, run_id = self.session.history, self.columns.run_id
        self._record(number, lambda c: history.record_step_done(c, run_id, self.name, number, self._digest(number)))

    def _record(self, done: int, query: Callable[[psycopg.Connection], None]) -> None:
        try:
            self._retry(query)
        except psycopg.Error as error:
            if not failed_assertion(error):
                raise
            raise self._row_lost(done) from None

    def _settle(self, number: int) -> bool:
        """Return whether a statement took effect, by the catalog, after the end became unknown.

        A half-done object is removed or completed first. A statement without an effect in the catalog, such as VACUUM,
        runs again. StoppedPartWay for CALL and DO, because the catalog cannot show their effects.
        """
        self._set_up(number)  # with the file's search_path: names must mean the same after reconnecting
        if self.statements.commits_inside(number):
            raise stops.outcome_unknown(self.statements, number)
        effect = self.statements.effect(number)
        if effect is None:
            return False
        if self._read_state(effect) is ObjectState.HALF and (
            repair := catalog.repair_statement(self.session.connection, effect)
        ):
            answer = self._send(repair.encode())
            if answer.error is not None:
                raise self._failed(number, answer.error)
        if self._read_state(effect) is not (ObjectState.WHOLE if effect.creates else ObjectState.ABSENT):
            return False
        self._record_done(number)
        return True

    def _require_own_row(self, done: int) -> None:
        """Raise when the row does not belong to this run any more."""
        history, run_id = self.session.history, self.columns.run_id
        if not self._retry(lambda connection: history.read_run(connection, run_id, [self.name])):
            raise self._row_lost(done)

    def _digest(self, number: int) -> str | None:
        return self.statements.digests[number] if self.statements.digests else None

    def _row_lost(self, done: int) -> RatchetError:
        """Return the error for a row resumed by another run, or deleted."""
        if self._retry(lambda connection: self.session.history.has_row(connection, self.name)):
            return stops.resumed_by_other_run(self.statements, done)
        return stops.row_missing(self.statements, done)

    def _read_state(self, effect: Effect) -> ObjectState:
        return catalog.read_object_state(self.session.connection, effect)

    def _read_done(self) -> int:
        progress = self._retry(lambda connection: self.session.history.read_progress(connection, self.name))
        return progress.done if progress else 0

    def _failed(self, number: int, error: psycopg.Error, *, opening: int = 0) -> RatchetError:
        return stops.statement_failed(self.statements, number, error, opening=opening, blockers=self.session.blockers)

    def _invalid_index(self, number: int, effect: Effect) -> RatchetError:
        repair = catalog.repair_statement(self.session.connection, effect)
        return stops.invalid_index(self.statements, number, effect.name, repair)
