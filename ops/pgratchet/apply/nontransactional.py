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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from pgratchet import events
from pgratchet.apply import catalog
from pgratchet.apply.catalog import ObjectState
from pgratchet.database import blockers
from pgratchet.database import connection as sessions
from pgratchet.database.history import RunColumns, StepProgress
from pgratchet.database.session import Retry, Session
from pgratchet.errors import HistoryDisagrees, Location, LockBusy, RatchetError, StoppedPartWay
from pgratchet.migrations import classify, lexer
from pgratchet.migrations.classify import Effect
from pgratchet.migrations.lexer import Statement
from pgratchet.migrations.scripts import Script

_T = TypeVar("_T")
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


def run(session: Session, script: Script, given: RunColumns, lock_timeout: int) -> Iterator[events.Event]:
    """Run what is left of a script; StoppedPartWay where it stops, after which the next run goes on there."""
    text = script.migration.text()
    found = tuple(piece for piece in lexer.scan(text) if isinstance(piece, Statement))
    yield from _Steps(session, script, text, found, lock_timeout, given).run()


@dataclass(slots=True)
class _Steps:
    session: Session
    script: Script
    text: bytes
    statements: tuple[Statement, ...]
    lock_timeout: int
    given: RunColumns
    _ready: psycopg.Connection | None = None  # the session that has what the file has SET, while it has

    @property
    def name(self) -> str:
        return self.script.name

    def run(self) -> Iterator[events.Event]:
        total = len(self.statements)
        before = self._surely(self._begin)
        done = before.done if before else 0
        for number in range(done + 1, total + 1):
            yield events.BatchSent((self.name,))
            yield from self._step(number, in_doubt=before is not None and before.begun == number)
            yield from self.session.notices()
            yield events.StatementDone(self.name, number, total)
        self.session.clear()
        yield events.MigrationApplied(self.name, self._surely(self._finish))

    def _begin(self, connection: psycopg.Connection) -> StepProgress | None:
        """Write the row, or take up the one that is there; how far that had come."""
        history = self.session.history
        before = history.progress(connection, self.name)
        if before is None:
            history.begin_steps(connection, self.script, self.text, self.given)
        else:
            self._same_so_far(before)
            history.resume_steps(connection, self.script, self.text, self.given)
        return before

    def _finish(self, connection: psycopg.Connection) -> int:
        """Finish the row; where that has been done, and was not heard of, it is there."""
        history = self.session.history
        duration = history.finish_steps(connection, self.given.run_id, self.name)
        if duration is not None:
            return duration
        for record in history.read_run(connection, self.given.run_id, [self.name]):
            return record.duration_ms or 0
        raise self._not_ours(len(self.statements))

    def _surely(self, ask: Callable[[psycopg.Connection], _T]) -> _T:
        return self.session.surely([self.name], ask)

    def _send(self, text: bytes) -> sessions.Answer:
        answer = self.session.send(text, [self.name])
        if answer.error is not None:
            self._ready = None  # an error leaves a session that is clear, or another one
        return answer

    def _same_so_far(self, before: StepProgress) -> None:
        """What was done of the file must still be its beginning; the rest may have been mended."""
        if before.checksum == self.script.migration.checksum:
            return
        if before.body is not None:
            body = before.body.encode()
            old = [piece for piece in lexer.scan(body) if isinstance(piece, Statement)]
            done = [body[s.start : s.end] for s in old[: before.done]]
            if done == [self._text(number) for number in range(1, min(before.done, len(self.statements)) + 1)]:
                return
        raise HistoryDisagrees(
            f"{self.name} was changed in the part that has already run",
            detail=f"{_statements(before.done)} took effect before it stopped.",
            hint="Put that part back as it was; only what comes behind it can be changed.",
            place=Location(self.name),
        )

    def _set_up(self, done: int) -> None:
        """The timeouts, and what the file has SET so far: that is no effect of its own, and does not last.

        Nor does it come along to the session that is returned to when the line is cut.
        """
        directives = self.script.directives
        settings = [self._text(number) for number in range(1, done + 1) if self._only_sets(number)]
        # A concurrent build that gives up a lock leaves an INVALID index: it waits as long as a whole run may.
        lock = self.session.wait if directives.lock_timeout is None else directives.lock_timeout
        timeouts = (
            b"SET statement_timeout = %d" % (directives.statement_timeout or 0),
            b"SET lock_timeout = %d" % lock,
        )
        while self._ready is not self.session.connection:
            answer = self._send(b";\n".join((*timeouts, *settings)))
            if answer.error is not None and not answer.lost:
                raise self._stopped(done + 1, answer.error, 0)
            self._ready = None if answer.lost else self.session.connection

    def _step(self, number: int, *, in_doubt: bool) -> Iterator[events.Event]:
        if not in_doubt and self._can_share(number):
            yield from self._in_transaction(number)
            return
        yield from self._snapshots_ended(number)
        if not (in_doubt and self._surely(lambda _: self._settled(number))):
            self._alone(number)

    def _can_share(self, number: int) -> bool:
        """Whether a statement may share a transaction with its record, as far as its words tell."""
        statement = self._statement(number)
        return statement.head[0] not in _COMMITS_INSIDE and classify.outside_transaction(statement) is None

    def _in_transaction(self, number: int) -> Iterator[events.Event]:
        """The statement and its record in one transaction, tried again while a lock is not to be had."""
        record = self.session.history.step_done(self.session.connection, self.given.run_id, self.name, number)
        timeout = (
            self.lock_timeout if self.script.directives.lock_timeout is None else self.script.directives.lock_timeout
        )
        opening = b"BEGIN READ WRITE;\nSET LOCAL lock_timeout = %d;\n" % timeout
        retry = Retry(self.session.wait)
        while True:
            self._set_up(number - 1)
            text = b"%b%b\n;\n%b;\nCOMMIT" % (opening, self._text(number), record)
            answer = self._send(text)
            if answer.error is None or (answer.lost and self._done() >= number):
                return
            if answer.lost or answer.error.sqlstate == "22012":
                self._insist_on_ours(number - 1)
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
        if classify.outside_transaction(self._statement(number)) not in _WAITS_FOR_SNAPSHOTS:
            return
        retry, seen = Retry(self.session.wait), self._surely(blockers.snapshots)
        time.sleep(_SHORT if seen else 0)
        announced = False
        while open_ones := [v for k, v in self._surely(blockers.snapshots).items() if k in seen]:
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
        effect = self._effect(number)
        self._set_up(number - 1)
        self._refuse_leftovers(number)
        before = self._look(effect) if effect and effect.creates else ObjectState.ABSENT
        if effect and before is ObjectState.HALF:
            raise self._invalid(number, effect)
        if before is ObjectState.ABSENT:  # else it is no work of this statement, and proves nothing of it later
            self._note_begun(number, number)
        self._set_up(number - 1)
        answer = self._send(self._text(number))
        stopped = self._stopped(number, answer.error, 0) if answer.error else None  # while its blockers are known
        if answer.lost:
            self._insist_on_ours(number - 1)
            if before is ObjectState.ABSENT and self._surely(lambda _: self._settled(number)):
                return
        if stopped:
            # Known to have failed; but what is half done stays ours, for the next run to clear away or to end.
            self._set_up(number - 1)
            if not answer.lost and not (effect and self._look(effect) is ObjectState.HALF):
                self._note_begun(number, None)
            self._refuse_leftovers(number, answer.error)
            raise stopped
        if effect and effect.creates and self._look(effect) is not ObjectState.WHOLE:
            raise self._invalid(number, effect)
        self._record(number)

    def _refuse_leftovers(self, number: int, error: psycopg.Error | None = None) -> None:
        """A REINDEX CONCURRENTLY that broke off leaves an INVALID index, which the next one does not touch."""
        of = classify.reindexed(self.text, self._statement(number))
        if of is None:
            return
        left = self._surely(lambda connection: catalog.left_by_reindex(connection, *of))
        if left:
            reason = f": {sessions.first_line(error)}" if error else ": an earlier REINDEX CONCURRENTLY broke off"
            raise self._stop(
                number,
                reason,
                [f"It left the INVALID index {'.'.join(index)}." for index in left],
                "Drop what it left, and run `invoke migrate` again:\n"
                + "\n".join(catalog.drop_statement(self.session.connection, index) for index in left),
                sqlstate=error.sqlstate if error else None,
            )

    def _note_begun(self, number: int, begun: int | None) -> None:
        history, run_id = self.session.history, self.given.run_id
        try:
            self._surely(lambda connection: history.step_begun(connection, run_id, self.name, begun))
        except psycopg.errors.DivisionByZero:
            raise self._not_ours(number - 1) from None

    def _record(self, number: int) -> None:
        history, run_id = self.session.history, self.given.run_id
        try:
            self._surely(lambda connection: history.record_step(connection, run_id, self.name, number))
        except psycopg.errors.DivisionByZero:
            raise self._not_ours(number) from None

    def _settled(self, number: int) -> bool:
        """Of a statement that was begun and whose end is not known: whether the catalog shows that it is done.

        What it left half done is cleared away, or brought to its end. One that only repeats itself is never done.
        StoppedPartWay where nothing in the catalog can tell.
        """
        self._set_up(number - 1)  # in a session that was returned to, names have to mean what they did
        if self._statement(number).head[0] in _COMMITS_INSIDE:
            raise self._unknown(number)
        effect = self._effect(number)
        if effect is None:
            return False
        if self._look(effect) is ObjectState.HALF and (
            repair := catalog.repair_statement(self.session.connection, effect)
        ):
            answer = self._send(repair.encode())
            if answer.error is not None:
                raise self._stopped(number, answer.error, 0)
        if self._look(effect) is not (ObjectState.WHOLE if effect.creates else ObjectState.ABSENT):
            return False
        self._record(number)
        return True

    def _only_sets(self, number: int) -> bool:
        """Whether all that a statement does is to set the session up for those behind it."""
        return self._statement(number).head[0] in ("SET", "RESET") or bool(_SET_CONFIG.fullmatch(self._text(number)))

    def _insist_on_ours(self, done: int) -> None:
        """That no other run has taken the file up while the line was cut."""
        history, run_id = self.session.history, self.given.run_id
        if not self._surely(lambda connection: history.read_run(connection, run_id, [self.name])):
            raise self._not_ours(done)

    def _not_ours(self, done: int) -> RatchetError:
        """The row is not there as this run left it: another has taken it up while the line was cut, or it is gone."""
        if self._surely(lambda connection: self.session.history.is_there(connection, self.name)):
            return LockBusy(
                f"another run has taken up {self.name} while the connection was lost",
                detail=f"Statement {done} of {len(self.statements)} was the last that this one knows to be done.",
                hint="Wait for that run to end, then look at `invoke status`.",
                place=Location(self.name),
            )
        return HistoryDisagrees(
            f"statement {done} of {len(self.statements)} of {self.name} took effect, but its history row is gone",
            detail="The migration, or someone else meanwhile, has changed the history itself.",
            hint="See what it did before anything else is run; `invoke rollback` names the backup.",
            place=Location(self.name),
        )

    def _look(self, effect: Effect) -> ObjectState:
        return catalog.object_state(self.session.connection, effect)

    def _done(self) -> int:
        progress = self._surely(lambda connection: self.session.history.progress(connection, self.name))
        return progress.done if progress else 0

    def _statement(self, number: int) -> Statement:
        return self.statements[number - 1]

    def _text(self, number: int) -> bytes:
        statement = self._statement(number)
        return self.text[statement.start : statement.end]

    def _effect(self, number: int) -> Effect | None:
        return classify.effect(self.text, self._statement(number))

    def _stopped(self, number: int, error: psycopg.Error, opening: int) -> StoppedPartWay:
        position = error.diag.statement_position
        within = lexer.byte_offset(self._text(number), int(position) - opening) if position else 0
        offset = self._statement(number).start + max(0, within)
        waited = [f"It waited for {blocker}." for blocker in self.session.blockers if error.sqlstate in Retry.ERRORS]
        return self._stop(
            number,
            f": {sessions.first_line(error)}",
            [*sessions.error_details(error), *waited],
            "Mend the cause, or the file from there on, and run `invoke migrate` again: it goes on at that statement.",
            offset=offset,
            sqlstate=error.sqlstate,
        )

    def _invalid(self, number: int, effect: Effect) -> StoppedPartWay:
        return self._stop(
            number,
            f": the index {effect.name[-1]} is there already, and it is INVALID",
            ["An earlier build of it failed; it is not used, enforces nothing, and IF NOT EXISTS would pass it over."],
            f"Drop it, and run `invoke migrate` again:\n{catalog.repair_statement(self.session.connection, effect)}",
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
        line, column = lexer.line_and_column(self.text, start)
        before = (
            "No statement took effect." if number == 1 else f"{_statements(number - 1)} took effect, and that stays."
        )
        return StoppedPartWay(
            f"migration {self.name} stopped at statement {number} of {len(self.statements)},"
            f" line {line}, column {column}{reason}",
            detail="\n".join([*told, before]),
            hint=hint,
            place=Location(self.name, line, column, sqlstate),
        )


def _statements(count: int) -> str:
    return "Statement 1" if count == 1 else f"Statements 1 to {count}"
