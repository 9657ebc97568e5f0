"""Applies the pending migrations of one run, batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from pgratchet import events
from pgratchet.database import connection as sessions
from pgratchet.database.history import RunColumns, read_rows
from pgratchet.database.session import Retry, Session, listed
from pgratchet.errors import (
    HistoryDisagrees,
    Interrupted,
    Location,
    LockBusy,
    MigrationFailed,
    OutcomeUnknown,
    StoppedPartWay,
)
from pgratchet.migrations.plan import HistoryRow, make_plan, require_agreement
from pgratchet.migrations.scripts import Script

if TYPE_CHECKING:
    from pgratchet.apply.batch import Failure, Frame


@dataclass(slots=True)
class _Run:
    """The applying part of one run. `applied` are the names of all that it has applied so far.

    The last batch asks for the whole `history` where the others ask for their own rows: a run ends with what is there.
    """

    session: Session
    options: MigrateOptions
    run: RunColumns
    applied: list[str] = field(default_factory=list)
    is_last: bool = False
    history: list[HistoryRow] | None = None

    def apply(self, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Apply the scripts, in one round trip where nothing goes wrong; a lock not had in time is tried for again."""
        retry = Retry(self.options.wait)
        while scripts:
            yield events.BatchSent(tuple(script.name for script in scripts))
            try:
                sent = self._send(scripts)
            except KeyboardInterrupt as signal:
                yield from self._interrupted(signal, scripts)
            yield from self.session.notices()
            committed = yield from self._committed(scripts, sent.rows)
            scripts = [script for script in scripts if script.name not in committed]
            error = sent.answer.error
            if error is None or not scripts:
                self._insist(scripts)
                continue
            self._refuse_broken_out(scripts)
            fault = _attributed(sent, scripts[0], ran=bool(committed))
            failed = next(script for script in scripts if script.name == fault.place.migration)
            if self._is_fence(error):
                scripts = self._applied_elsewhere(scripts, failed)
            elif len(scripts) > 1 and _is_unread(sent):
                yield from self.apply(scripts[:1])
                scripts = scripts[1:]
            elif before := scripts[: scripts.index(failed)]:
                # The server parsed the whole string and found a syntax error before it ran any of it.
                yield from self.apply(before)
                raise self._failure(error, fault, failed)
            else:
                yield from self._pause(retry, error, fault, failed)

    def _pause(self, retry: Retry, error: psycopg.Error, fault: Failure, failed: Script) -> Iterator[events.Event]:
        """Wait before another try, where one can help; else raise what the error comes to."""
        busy = self.session.is_busy(error, framing=fault.framing)
        if busy and retry.is_over():
            raise self.session.busy("another run")
        if not busy and not retry.allows(error):
            raise self._failure(error, fault, failed)
        reason = "another run holds the migration lock" if busy else sessions.first_line(error)
        yield from retry.pause(failed.name, reason, self.session.blockers)

    def step_through(self, script: Script) -> Iterator[events.Event]:
        """Run a script that declares no-transaction, statement by statement."""
        from pgratchet.apply import nontransactional

        try:
            yield from nontransactional.run(self.session, script, self.run, self.options.lock_timeout)
        except KeyboardInterrupt as signal:
            yield from self._interrupted(signal, [script])
        self.applied.append(script.name)

    def _send(self, scripts: Sequence[Script]) -> _Sent:
        """Send the scripts and the question what became of them; where that got no answer, ask once more."""
        from pgratchet.apply.batch import travels_alone

        if travels_alone(scripts[0]):
            answer, fault = self._send_in_windows(scripts[0])
        else:
            answer, fault = self._send_together(scripts)
        self.history = None
        if answer.lost:
            self._insist_on_applied()
        if answer.error is not None:
            names = [script.name for script in scripts]
            return _Sent(answer, self.session.surely(names, lambda _: self._settled(scripts)), fault)
        found = read_rows(answer) or []
        self.history = found if self.is_last else None
        return _Sent(answer, found, fault)

    def _send_together(self, scripts: Sequence[Script]) -> tuple[sessions.Answer, Failure | None]:
        from pgratchet.apply.batch import compose, locate

        names, last = [script.name for script in scripts], scripts[-1]
        parts = [(script, script.migration.text()) for script in scripts]
        batch = compose(parts, lambda s, text: self._frame(s, text, waits=s is last), [self._question(names)])
        answer = self.session.send(batch.text, names)
        return answer, locate(batch, answer.answered, *_told(answer.error)) if answer.error else None

    def _send_in_windows(self, script: Script) -> tuple[sessions.Answer, Failure | None]:
        """One transaction over as many round trips as the text has windows."""
        from pgratchet.apply.batch import Failure, locate_in_window

        names, text = [script.name], script.migration.text()
        frame = self._frame(script, text, waits=True)
        answer = self.session.send(b";\n".join(frame.opening), names)
        if answer.error is not None:
            return answer, Failure(Location(script.name, sqlstate=answer.error.sqlstate), framing=True)
        for window in script.windows:
            rows = memoryview(text)[slice(*window.rows)] if window.rows else None
            answer = self.session.send(text[window.start : window.end], names, rows=rows)
            if answer.error is not None:
                return answer, locate_in_window(script, text, window, answer.answered, *_told(answer.error))
        answer = self.session.send(b";\n".join((*frame.closing, self._question(names))), names)
        return answer, Failure(Location(script.name, sqlstate=answer.error.sqlstate)) if answer.error else None

    def _question(self, names: Sequence[str]) -> bytes:
        """What a batch ends with: what became of it."""
        if self.is_last:
            return self.session.history.reading(self.session.connection)
        return self.session.history.reading_run(self.session.connection, self.run.run_id, names)

    def _settled(self, scripts: Sequence[Script]) -> list[HistoryRow]:
        """The history's own word on what is committed, once a COMMIT behind all of it is on the disk."""
        names = [script.name for script in scripts]
        question = self.session.history.reading_run(self.session.connection, self.run.run_id, names)
        commit = b"BEGIN READ WRITE; SELECT pg_catalog.pg_current_xact_id(); COMMIT;\n"
        return read_rows(sessions.send(self.session.connection, commit + question)) or []

    def _frame(self, script: Script, text: bytes, *, waits: bool) -> Frame:
        """The transaction around a script; its COMMIT `waits` for the disk or leaves that to a later one."""
        from pgratchet.apply.batch import Frame

        given, options = script.directives, self.options
        lock = options.lock_timeout if given.lock_timeout is None else given.lock_timeout
        statement = options.statement_timeout if given.statement_timeout is None else given.statement_timeout
        connection, history, session = self.session.connection, self.session.history, self.session
        opening = (
            *session.entering(),
            b"BEGIN",
            *session.guarding(),
            b"SET LOCAL lock_timeout = %d" % lock,
            b"SET LOCAL statement_timeout = %d" % statement,
            history.begin(connection, script, text, self.run),
        )
        closing = (
            b"RESET SESSION AUTHORIZATION",
            b"RESET ROLE",
            b"RESET synchronous_commit" if waits else b"SET LOCAL synchronous_commit = off",
            history.finish(connection, script),
            b"COMMIT",
        )
        return Frame(opening, (*closing, *session.clearing()))

    def _committed(
        self, scripts: Sequence[Script], found: Sequence[HistoryRow]
    ) -> Generator[events.Event, None, set[str]]:
        """Report which of the scripts this run has committed, by the history's own word; returns their names."""
        wanted = {script.name: script.migration.checksum for script in scripts}
        committed = set[str]()
        for record in found:
            if record.executed_at and record.checksum == wanted.get(record.name):
                committed.add(record.name)
                self.applied.append(record.name)
                yield events.MigrationApplied(record.name, record.duration_ms or 0)
        return committed

    def _is_fence(self, error: psycopg.Error) -> bool:
        """Whether the unique name of the history refused us: another run was first."""
        history, told = self.session.history, error.diag
        return error.sqlstate == "23505" and (told.schema_name, told.table_name) == (history.schema, history.table)

    def _refuse_broken_out(self, scripts: Sequence[Script]) -> None:
        """A row of ours without an end, after an error: the file ended our transaction, and part of it stays."""
        names = [script.name for script in scripts]
        rows = self.session.history.read_run(self.session.connection, self.run.run_id, names)
        if rows:
            raise StoppedPartWay(
                f"migration {rows[0].name} ended its own transaction and then failed",
                detail="What came before that end took effect, and stays; its row in the history has no end.",
                hint="See what is there, and put it right by hand: finish the row, or undo that part and delete it.",
                place=Location(rows[0].name),
            )

    def _applied_elsewhere(self, scripts: Sequence[Script], failed: Script) -> Sequence[Script]:
        """The lock did not hold another runner off, as behind a pooler; the history's unique name did."""
        rows = self.session.history.read(self.session.connection)
        recorded = {record.name: record.checksum for record in rows if record.executed_at}
        ours = [script.migration for script in scripts]
        require_agreement(
            make_plan(ours, [row for row in rows if row.name in {migration.name for migration in ours}]), {}
        )
        if failed.name not in recorded:
            raise LockBusy(
                f"another run has begun {failed.name} and not finished it",
                detail="Its row is in the history without an end.",
                hint="Wait for that run, then look at `invoke status`.",
                place=Location(failed.name),
            )
        return [script for script in scripts if script.name not in recorded]

    def _interrupted(self, signal: KeyboardInterrupt, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Ask the history what stays, since part of a batch may have been committed; then raise Interrupted."""
        try:
            self.session.clear()
            yield from self._committed(scripts, self._settled(scripts))
            stays = "stays" if len(self.applied) == 1 else "stay"
            done = f"{listed(self.applied)} {_was(self.applied)} applied, and {stays}."
            told = done if self.applied else "Nothing was applied."
        except psycopg.Error:
            told = "What took effect could not be asked: `invoke status` tells."
        raise Interrupted(
            signal,
            detail=f"{told} What was under way was rolled back; a file without a transaction keeps what it finished.",
            hint="Run `invoke migrate` again to go on.",
        ) from None

    def _insist(self, unrecorded: Sequence[Script]) -> None:
        """No error and yet no row: what the server acknowledged is not what the history holds."""
        if unrecorded:
            names = listed([script.name for script in unrecorded])
            raise HistoryDisagrees(
                f"the server acknowledged {names}, but the history has no finished row",
                detail="The migration must have ended its transaction or changed the history itself.",
                hint="See what it did before anything else is run; `invoke rollback` names the backup.",
                place=Location(unrecorded[0].name),
            )

    def _insist_on_applied(self) -> None:
        """What was reported as applied is there, or the server that was returned to has an older history."""
        names, history, run_id = self.applied, self.session.history, self.run.run_id
        there = self.session.surely(names, lambda connection: history.read_run(connection, run_id, names))
        if gone := sorted(set(names) - {record.name for record in there if record.executed_at}):
            raise OutcomeUnknown(
                f"the server that was returned to does not know of {listed(gone)}",
                detail="The connection was lost, and what this run had committed before is not in the history there: "
                "it was restored from an older state, or another server has taken its place.",
                hint="Find out which server is the right one before anything else is run.",
                place=Location(gone[0]),
            )

    def _failure(self, error: psycopg.Error, fault: Failure, failed: Script) -> MigrationFailed:
        place, reason = fault.place, sessions.first_line(error)
        at = "" if place.line is None else f" at line {place.line}, column {place.column}"
        done = f"{listed(self.applied)} {_was(self.applied)} applied; " if self.applied else ""
        backup = f" The backup taken before this run is {self.run.backup_id}." if self.run.backup_id else ""
        waited = [f"It waited for {blocker}." for blocker in self.session.blockers if error.sqlstate in Retry.ERRORS]
        return MigrationFailed(
            f"migration {failed.name} failed{at}: {reason}",
            detail="\n".join([*sessions.error_details(error), *waited, f"{done}{failed.name} was rolled back."]),
            hint=f"{_advice(error, place)} {failed.migration.path}; then run `invoke migrate` again.{backup}",
            place=place,
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    """What became of a batch: the answer, the rows that the history has of it, and where an error belongs."""

    answer: sessions.Answer
    rows: list[HistoryRow]
    fault: Failure | None


def _is_unread(sent: _Sent) -> bool:
    """Whether the server could not convert the string to its own encoding; where in it, one by one shows."""
    error = sent.answer.error
    return error is not None and not sent.answer.answered and error.sqlstate in ("22P05", "22021")


def _attributed(sent: _Sent, first: Script, *, ran: bool) -> Failure:
    """Where the error belongs: where something ran, to the first script that is not committed, and no other.

    Of a lost connection that is all that is known; and a rule of the database can add results of its own, so
    that counting them leads astray.
    """
    from pgratchet.apply.batch import Failure

    assert sent.fault is not None
    if sent.answer.lost or (ran and sent.fault.place.migration != first.name):
        return Failure(Location(first.name, sqlstate=sent.fault.place.sqlstate))
    return sent.fault


def _told(error: psycopg.Error) -> tuple[int | None, str | None]:
    """The position and the code of an error."""
    position = error.diag.statement_position
    return int(position) if position else None, error.sqlstate


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _advice(error: psycopg.Error, place: Location) -> str:
    if error.sqlstate is None or error.sqlstate.startswith("57P"):
        return "The connection was lost, which need not be the fault of"
    if error.sqlstate == "22012" and place.line is None:
        return "It must leave its own row of the history, and its transaction, alone: fix"
    if error.sqlstate == "57014":
        return "Give it time with `-- migrate: statement-timeout=5min` in"
    if error.sqlstate in Retry.ERRORS:
        return "See who holds the lock, or give it time with `-- migrate: lock-timeout=10s` in"
    return "Fix"


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """What a run may take. Times in milliseconds.

    `wait` is how long to wait for the migration lock, and for a lock inside a migration over all its tries;
    each try waits `lock_timeout`. `statement_timeout` bounds each statement; 0 is no bound. With
    `only_destructive`, the backup is left out where all that is to run is known to add only.
    """

    run_id: str
    to: str | None = None
    without_backup: str | None = None
    wait: int = 30_000
    lock_timeout: int = 3_000
    statement_timeout: int = 30_000
    batch_size: int = 100
    pinned_identifier: str = ""
    only_destructive: bool = False
