"""Migrations without a transaction: one statement at a time, each one's effect known before the next.

Owns progress and evidence. Refuses to know files and plans. A statement that can share a transaction with its
record does, so that it is done exactly when the history says so. One that cannot (CREATE INDEX CONCURRENTLY,
VACUUM, a procedure that commits) is recorded as begun before and as done behind it; in between its outcome can
be in doubt, and is then decided by what is in the catalog: never assumed, and never passed over.

What it rests on, measured (facts 2d): a failed CREATE INDEX CONCURRENTLY leaves an INVALID index, and with
IF NOT EXISTS the next one skips it and reports success; so the index is looked at before and behind.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ops import blockers, events, statements
from ops import connection as sessions
from ops.errors import HistoryDisagrees, Place, StoppedPartWay
from ops.history import Progress, Run
from ops.migrations import Script
from ops.session import Retry, Session
from ops.statements import ConcurrentIndex, Statement

_COMMITS_INSIDE = ("CALL", "DO")
_WAITS_FOR_SNAPSHOTS = (
    "CREATE INDEX CONCURRENTLY",
    "DROP INDEX CONCURRENTLY",
    "REINDEX CONCURRENTLY",
    "DETACH PARTITION CONCURRENTLY",
)
_SHORT = 0.2
"""Seconds; a transaction that lasts no longer is not worth a word."""
_SET_CONFIG = re.compile(rb"select\s+(pg_catalog\s*\.\s*)?set_config\s*\([^()]*\)\s*", re.IGNORECASE)
_INDEX = """
SELECT i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relname = %s AND i.indrelid = to_regclass(%s)
"""
_SCHEMA = """
SELECT nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)
"""


def run(session: Session, script: Script, given: Run, lock_timeout: int) -> Iterator[events.Event]:
    """Run what is left of a script; StoppedPartWay where it stops, after which the next run goes on there."""
    text = script.migration.text()
    found = tuple(piece for piece in statements.scan(text) if isinstance(piece, Statement))
    yield from _Steps(session, script, text, found, lock_timeout).run(given)


@dataclass(slots=True)
class _Steps:
    session: Session
    script: Script
    text: bytes
    statements: tuple[Statement, ...]
    lock_timeout: int

    @property
    def name(self) -> str:
        return self.script.name

    def run(self, given: Run) -> Iterator[events.Event]:
        ledger, total = self.session.ledger, len(self.statements)
        before = ledger.progress(self.session.connection, self.name)
        if before is None:
            ledger.begin_steps(self.session.connection, self.script, self.text, given)
        else:
            self._same_so_far(before)
            ledger.resume_steps(self.session.connection, self.script, self.text, given)
        done = before.done if before else 0
        self._set_up(done)
        for number in range(done + 1, total + 1):
            yield events.BatchSent((self.name,))
            yield from self._step(number, in_doubt=before is not None and before.begun == number)
            yield from self.session.notices()
            yield events.StatementDone(self.name, number, total)
        self.session.clear()
        duration = ledger.finish_steps(self.session.connection, self.name)
        if duration is None:
            raise self._row_gone()
        yield events.MigrationApplied(self.name, duration)

    def _same_so_far(self, before: Progress) -> None:
        """What was done of the file must still be its beginning; the rest may have been mended."""
        if before.checksum == self.script.migration.checksum:
            return
        if before.body is not None:
            body = before.body.encode()
            old = [piece for piece in statements.scan(body) if isinstance(piece, Statement)]
            done = [body[s.start : s.end] for s in old[: before.done]]
            if done == [self._text(number) for number in range(1, min(before.done, len(self.statements)) + 1)]:
                return
        raise HistoryDisagrees(
            f"{self.name} was changed in the part that has already run",
            detail=f"{_statements(before.done)} took effect before it stopped.",
            hint="Put that part back as it was; only what comes behind it can be changed.",
            place=Place(self.name),
        )

    def _set_up(self, done: int) -> None:
        """The timeouts, and what the file has SET so far: that is no effect of its own, and does not last."""
        directives = self.script.directives
        settings = [self._text(number) for number in range(1, done + 1) if self._only_sets(number)]
        # A concurrent build that gives up a lock leaves an INVALID index: it waits as long as a whole run may.
        lock = self.session.wait if directives.lock_timeout is None else directives.lock_timeout
        timeouts = (
            b"SET statement_timeout = %d" % (directives.statement_timeout or 0),
            b"SET lock_timeout = %d" % lock,
        )
        text = b";\n".join((*timeouts, *settings))
        answer = self.session.send(text, [self.name])
        if answer.lost:  # now in the session that was returned to
            answer = self.session.send(text, [self.name])
        if answer.error is not None:
            raise answer.error

    def _step(self, number: int, *, in_doubt: bool) -> Iterator[events.Event]:
        statement = self._statement(number)
        if statement.head[0] not in _COMMITS_INSIDE and statements.outside_transaction(statement) is None:
            yield from self._in_transaction(number)
            return
        yield from self._snapshots_ended(number)
        if not (in_doubt and self._settled(number)):
            self._alone(number)

    def _in_transaction(self, number: int) -> Iterator[events.Event]:
        """The statement and its record in one transaction, tried again while a lock is not to be had."""
        record = self.session.ledger.step_done(self.session.connection, self.name, number)
        timeout = (
            self.lock_timeout if self.script.directives.lock_timeout is None else self.script.directives.lock_timeout
        )
        opening = b"BEGIN;\nSET LOCAL lock_timeout = %d;\n" % timeout
        retry = Retry(self.session.wait)
        while True:
            text = b"%b%b\n;\n%b;\nCOMMIT" % (opening, self._text(number), record)
            answer = self.session.send(text, [self.name])
            if answer.error is None:
                return
            done = answer.lost and self._done() >= number
            self._set_up(number if done else number - 1)  # an error leaves a session that is clear, or another one
            if done:
                return
            if answer.error.sqlstate == "25001":  # what only the server knows to be impossible in a transaction
                return self._alone(number)
            if not retry.allows(answer.error):
                raise self._stopped(number, answer.error, len(opening))
            yield from retry.pause(self.name, sessions.first_line(answer.error), self.session.blockers)

    def _snapshots_ended(self, number: int) -> Iterator[events.Event]:
        """Wait for the open snapshots that a concurrent command would wait for, before it is begun.

        It is lock-free for others, but it waits for every transaction that is older than itself, without end.
        Those that begin while this waits are not waited for here; the command's own lock_timeout bounds them.
        """
        if statements.outside_transaction(self._statement(number)) not in _WAITS_FOR_SNAPSHOTS:
            return
        retry, seen = Retry(self.session.wait), blockers.snapshots(self.session.connection)
        time.sleep(_SHORT if seen else 0)
        announced = False
        while open_ones := [v for k, v in blockers.snapshots(self.session.connection).items() if k in seen]:
            if retry.is_over():
                raise self._stop(
                    number,
                    ": open transactions would keep it waiting",
                    [f"In its way is {holder}." for holder in open_ones],
                    "Wait for them to end, or end them with pg_terminate_backend; then run `invoke migrate` again.",
                )
            if not announced:
                yield events.SnapshotsAwaited(self.name, tuple(open_ones))
                announced = True
            time.sleep(_SHORT)

    def _alone(self, number: int) -> None:
        """A statement in no transaction: recorded before, looked at behind."""
        ledger, index = self.session.ledger, self._index(number)
        if index and index.creates and self._is_valid(index) is False:
            raise self._invalid(number, index)
        ledger.step_begun(self.session.connection, self.name, number)
        answer = self.session.send(self._text(number), [self.name])
        if answer.error is not None:
            # Known to have failed; but an index that is half built stays ours, to be cleared away by the next run.
            if not answer.lost and not (index and index.creates):
                ledger.step_begun(self.session.connection, self.name, None)
            raise self._stopped(number, answer.error, 0)
        if index and index.creates and not self._is_valid(index):
            raise self._invalid(number, index)
        self._note_done(number)

    def _note_done(self, number: int) -> None:
        """Record that a statement is done; once more where the line is lost just then."""
        record = self.session.ledger.step_done(self.session.connection, self.name, number)
        answer = self.session.send(record, [self.name])
        if answer.lost:
            self._set_up(number)
            answer = self.session.send(record, [self.name])
        if answer.error is not None:
            raise self._stopped(number, answer.error, 0)

    def _settled(self, number: int) -> bool:
        """Of a statement that was begun and whose end is not known: whether the catalog shows that it is done.

        What it left half done is cleared away, if it is surely its own. A statement that only repeats itself is
        never done. StoppedPartWay where nothing in the catalog can tell.
        """
        statement, index = self._statement(number), self._index(number)
        if statement.head[0] in _COMMITS_INSIDE:
            raise self._unknown(number)
        if index is None:
            return False
        valid = self._is_valid(index)
        if index.creates and valid is False:
            self._drop(number, index)
        if valid if index.creates else valid is None:
            self._note_done(number)
            return True
        return False

    def _drop(self, number: int, index: ConcurrentIndex) -> None:
        """Clear away what our own interrupted build left."""
        drop = sql.SQL("DROP INDEX CONCURRENTLY {}").format(self._index_name(index))
        answer = self.session.send(drop.as_string(self.session.connection).encode(), [self.name])
        if answer.error is not None:
            raise self._stopped(number, answer.error, 0)

    def _only_sets(self, number: int) -> bool:
        """Whether all that a statement does is to set the session up for those behind it."""
        return self._statement(number).head[0] in ("SET", "RESET") or bool(_SET_CONFIG.fullmatch(self._text(number)))

    def _row_gone(self) -> HistoryDisagrees:
        return HistoryDisagrees(
            f"every statement of {self.name} took effect, but its row in the history is gone",
            detail="The migration, or someone else meanwhile, has changed the history itself.",
            hint="See what it did before anything else is run; `invoke rollback` names the backup.",
            place=Place(self.name),
        )

    def _is_valid(self, index: ConcurrentIndex) -> bool | None:
        """Whether the index is valid; None when there is none of that name."""
        connection = self.session.connection
        if index.creates:
            table = sql.Identifier(*index.table).as_string(connection)
            row = connection.execute(_INDEX, (index.name[-1], table)).fetchone()
        else:
            query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
            row = connection.execute(query, (sql.Identifier(*index.name).as_string(connection),)).fetchone()
        return bool(row[0]) if row else None

    def _index_name(self, index: ConcurrentIndex) -> sql.Identifier:
        """An index is made in the schema of its table."""
        connection = self.session.connection
        table = sql.Identifier(*index.table).as_string(connection)
        row = connection.execute(_SCHEMA, (table,)).fetchone()
        return sql.Identifier(str(row[0]), index.name[-1]) if row else sql.Identifier(index.name[-1])

    def _done(self) -> int:
        progress = self.session.ledger.progress(self.session.connection, self.name)
        return progress.done if progress else 0

    def _statement(self, number: int) -> Statement:
        return self.statements[number - 1]

    def _text(self, number: int) -> bytes:
        statement = self._statement(number)
        return self.text[statement.start : statement.end]

    def _index(self, number: int) -> ConcurrentIndex | None:
        return statements.concurrent_index(self.text, self._statement(number))

    def _stopped(self, number: int, error: psycopg.Error, opening: int) -> StoppedPartWay:
        position = error.diag.statement_position
        within = statements.byte_offset(self._text(number), int(position) - opening) if position else 0
        offset = self._statement(number).start + max(0, within)
        waited = [f"It waited for {blocker}." for blocker in self.session.blockers if error.sqlstate in Retry.ERRORS]
        return self._stop(
            number,
            f": {sessions.first_line(error)}",
            [*sessions.told(error), *waited],
            "Mend the cause, or the file from there on, and run `invoke migrate` again: it goes on at that statement.",
            offset=offset,
            sqlstate=error.sqlstate,
        )

    def _invalid(self, number: int, index: ConcurrentIndex) -> StoppedPartWay:
        repair = sql.SQL("DROP INDEX CONCURRENTLY {};").format(self._index_name(index))
        return self._stop(
            number,
            f": the index {index.name[-1]} is there already, and it is INVALID",
            ["An earlier build of it failed; it is not used, enforces nothing, and IF NOT EXISTS would pass it over."],
            f"Drop it, and run `invoke migrate` again:\n{repair.as_string(self.session.connection)}",
        )

    def _unknown(self, number: int) -> StoppedPartWay:
        return self._stop(
            number,
            ", and whether that took effect is unknown",
            ["It was begun, its end was not heard of, and nothing in the catalog tells."],
            "See what it did. Then take it out of the file, or change it, and run `invoke migrate` again.",
        )

    def _stop(
        self,
        number: int,
        reason: str,
        told: list[str],
        hint: str,
        *,
        offset: int | None = None,
        sqlstate: str | None = None,
    ) -> StoppedPartWay:
        start = self._statement(number).start if offset is None else offset
        line, column = statements.line_and_column(self.text, start)
        before = (
            "No statement took effect." if number == 1 else f"{_statements(number - 1)} took effect, and that stays."
        )
        return StoppedPartWay(
            f"migration {self.name} stopped at statement {number} of {len(self.statements)},"
            f" line {line}, column {column}{reason}",
            detail="\n".join([*told, before]),
            hint=hint,
            place=Place(self.name, line, column, sqlstate),
        )


def _statements(count: int) -> str:
    return "Statement 1" if count == 1 else f"Statements 1 to {count}"
