"""The applier: look, lock, plan, back up, apply, verify. There is one, wherever it runs.

Owns the order of a run and what becomes of each failure. It is given a way to connect, the migrations and a
backup to call; it knows no terminal, no SSH and no settings files. It yields events and raises one error.

What it rests on, measured (facts 2a to 2e): the lock is a courtesy, and the history row, inserted first in each
transaction under a unique name, is the proof; whatever a file SETs outlives its transaction, so each transaction
begins by clearing the session; a COMMIT whose answer was lost may have happened, so the history is asked, and not
the answer, what was committed. Files that declare no-transaction are run by steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import psycopg

from ops import batch as batches
from ops import connection as sessions
from ops import events, steps
from ops.errors import HistoryDisagrees, Interrupted, LockBusy, MigrationFailed, Place, StoppedPartWay
from ops.history import Ledger, Run
from ops.migrations import Migration, Plan, Record, Script, check, judge, plan
from ops.session import Connect, Retry, Session, listed

Backup = Callable[[psycopg.Connection, Sequence[Record]], Generator[events.Event, None, str]]


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may take. Times in milliseconds.

    `wait` is how long to wait for the migration lock, and for a lock inside a migration over all its tries;
    each try waits `lock_timeout`. `statement_timeout` bounds each statement; 0 is no bound.
    """

    run_id: str
    to: str | None = None
    waiver: str | None = None
    wait: int = 30_000
    lock_timeout: int = 3_000
    statement_timeout: int = 30_000
    batch_size: int = 10
    pinned_identifier: str = ""


def _agreed(connection: psycopg.Connection, ledger: Ledger, made: Plan) -> Plan:
    """The same plan, once it is sure that files and history agree; HistoryDisagrees where they do not."""
    check(made, ledger.bodies(connection, made.names("changed")))
    return made


def migrate(
    connect: Connect, ledger: Ledger, files: Sequence[Migration], backup: Backup | None, options: Options
) -> Generator[events.Event, None, None]:
    """Apply what is pending; yields events, the first of them Planned and the last Finished.

    Whoever wants a person's consent, or no more than the plan, stops reading after the first event.

    `backup` is called once, under the lock, before the first statement, and returns the backup's id. With
    nothing pending neither lock nor backup is taken. Raises the error of the first failure; what was reported
    as applied by then is applied, and stays.
    """
    session = Session(connect, ledger, options.wait, options.pinned_identifier)
    with closing(session), sessions.translated():
        session.open()
        made = _agreed(session.connection, ledger, plan(files, ledger.read(session.connection), options.to))
        scripts = judge(made.todo)
        todo = tuple(migration.name for migration in made.todo)
        yield events.Planned(todo, total=len(made.entries), pending=_left(made))
        if todo:
            yield from session.lock()
            yield from _under_lock(session, options, files, scripts, backup)
            made = _agreed(session.connection, ledger, plan(files, ledger.read(session.connection), options.to))
        yield events.Finished(total=len(made.entries), pending=_left(made))


def _left(made: Plan) -> int:
    return len(made.names("pending", "unfinished"))


def _under_lock(
    session: Session, options: Options, files: Sequence[Migration], judged: Sequence[Script], backup: Backup | None
) -> Iterator[events.Event]:
    """Plan again, since another run may have been first; back up; apply what is left of the judged, batch by batch."""
    history = session.ledger.read(session.connection)
    made = _agreed(session.connection, session.ledger, plan(files, history, options.to))
    todo = {migration.name for migration in made.todo}
    scripts = [script for script in judged if script.migration.name in todo]
    if not scripts:
        return
    _refuse_half_done(scripts, made)
    backup_id = (yield from backup(session.connection, history)) if backup else None
    session.ledger.create(session.connection)
    work = _Work(session, options, Run(options.run_id, backup_id, options.waiver))
    for group in batches.batches(scripts, options.batch_size):
        yield from work.apply(group) if group[0].directives.transactional else work.step_through(group[0])


def _refuse_half_done(scripts: Sequence[Script], made: Plan) -> None:
    """A transactional file has a finished row or none: anything else is not our doing."""
    unfinished = made.names("unfinished")
    for script in scripts:
        if script.directives.transactional and script.migration.name in unfinished:
            raise HistoryDisagrees(
                f"{script.migration.name} is in the history without an end, and runs in one transaction",
                detail="Its row was written or changed by something else than a run of it.",
                hint="See whether its changes are there; then finish the row, or delete it, by hand.",
                place=Place(script.migration.name),
            )


@dataclass(slots=True)
class _Work:
    """The applying part of one run. `applied` are the names of all that it has applied so far."""

    session: Session
    options: Options
    run: Run
    applied: list[str] = field(default_factory=list)

    def apply(self, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Apply the scripts, in one round trip where nothing goes wrong; a lock not had in time is tried for again."""
        retry = Retry(self.options.wait)
        while scripts:
            yield events.BatchSent(tuple(script.migration.name for script in scripts))
            sent = batches.compose(scripts, self._frame)
            try:
                answer = self.session.send(sent.text, [script.migration.name for script in scripts])
            except KeyboardInterrupt as signal:
                yield from self._interrupted(signal, scripts)
            yield from self.session.notices()
            committed = yield from self._committed(scripts)
            scripts = [script for script in scripts if script.migration.name not in committed]
            if answer.error is None or not scripts:
                self._insist(scripts)
                continue
            self._refuse_broken_out(scripts)
            error, fault = answer.error, _fault(sent, answer, scripts[0], ran=bool(committed))
            failed = sent.scripts[fault.index]
            if self._is_fence(error):
                scripts = self._applied_elsewhere(scripts, failed)
                continue
            if before := scripts[: scripts.index(failed)]:
                # The server parsed the whole string and found a syntax error before it ran any of it.
                yield from self.apply(before)
            elif retry.allows(error):
                yield from retry.pause(failed.migration.name, error)
                continue
            raise self._failure(error, fault, failed)

    def step_through(self, script: Script) -> Iterator[events.Event]:
        """Run a script that declares no-transaction, statement by statement."""
        try:
            yield from steps.run(self.session, script, self.run, self.options.lock_timeout)
        except KeyboardInterrupt as signal:
            yield from self._interrupted(signal, [script])
        self.applied.append(script.migration.name)

    def _frame(self, script: Script) -> batches.Frame:
        given, options = script.directives, self.options
        lock = options.lock_timeout if given.lock_timeout is None else given.lock_timeout
        statement = options.statement_timeout if given.statement_timeout is None else given.statement_timeout
        connection, ledger = self.session.connection, self.session.ledger
        opening = (
            "BEGIN",
            f"SET LOCAL lock_timeout = {lock}",
            f"SET LOCAL statement_timeout = {statement}",
            ledger.begin(connection, script, self.run),
        )
        closing = ("RESET SESSION AUTHORIZATION", "RESET ROLE", *ledger.finish(connection, script), "COMMIT")
        return batches.Frame(opening, (*closing, *self.session.clearing()))

    def _committed(self, scripts: Sequence[Script]) -> Generator[events.Event, None, set[str]]:
        """Report which of the scripts this run has committed, by the history's own word; returns their names."""
        wanted = {script.migration.name: script.migration.checksum for script in scripts}
        found = set[str]()
        for record in self.session.ledger.read_run(self.session.connection, self.run.run_id, list(wanted)):
            if record.executed_at and record.checksum == wanted[record.name]:
                found.add(record.name)
                self.applied.append(record.name)
                yield events.MigrationApplied(record.name, record.duration_ms or 0)
        return found

    def _is_fence(self, error: psycopg.Error) -> bool:
        """Whether the unique name of the history refused us: another run was first."""
        ledger, told = self.session.ledger, error.diag
        return error.sqlstate == "23505" and (told.schema_name, told.table_name) == (ledger.schema, ledger.table)

    def _refuse_broken_out(self, scripts: Sequence[Script]) -> None:
        """A row of ours without an end, after an error: the file ended our transaction, and part of it stays."""
        names = [script.migration.name for script in scripts]
        rows = self.session.ledger.read_run(self.session.connection, self.run.run_id, names)
        if rows:
            raise StoppedPartWay(
                f"migration {rows[0].name} ended its own transaction and then failed",
                detail="What came before that end took effect, and stays; its row in the history has no end.",
                hint="See what is there, and put it right by hand: finish the row, or undo that part and delete it.",
                place=Place(rows[0].name),
            )

    def _applied_elsewhere(self, scripts: Sequence[Script], failed: Script) -> Sequence[Script]:
        """The lock did not hold another runner off, as behind a pooler; the history's unique name did."""
        rows = self.session.ledger.read(self.session.connection)
        recorded = {record.name: record.checksum for record in rows if record.executed_at}
        ours = [script.migration for script in scripts]
        check(plan(ours, [row for row in rows if row.name in {migration.name for migration in ours}]), {})
        if failed.migration.name not in recorded:
            raise LockBusy(
                f"another run has begun {failed.migration.name} and not finished it",
                detail="Its row is in the history without an end.",
                hint="Wait for that run, then look at `invoke status`.",
                place=Place(failed.migration.name),
            )
        return [script for script in scripts if script.migration.name not in recorded]

    def _interrupted(self, signal: KeyboardInterrupt, scripts: Sequence[Script]) -> Iterator[events.Event]:
        """Ask the history what stays, since part of a batch may have been committed; then raise Interrupted."""
        try:
            self.session.connection.rollback()
            self.session.clear()
            yield from self._committed(scripts)
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
            names = listed([script.migration.name for script in unrecorded])
            raise HistoryDisagrees(
                f"the server acknowledged {names}, but the history has no finished row",
                detail="The migration must have ended its transaction or changed the history itself.",
                hint="See what it did before anything else is run; `invoke rollback` names the backup.",
                place=Place(unrecorded[0].migration.name),
            )

    def _failure(self, error: psycopg.Error, fault: batches.Fault, failed: Script) -> MigrationFailed:
        place, reason = fault.place, sessions.first_line(error)
        at = "" if place.line is None else f" at line {place.line}, column {place.column}"
        done = f"{listed(self.applied)} {_was(self.applied)} applied; " if self.applied else ""
        backup = f" The backup taken before this run is {self.run.backup_id}." if self.run.backup_id else ""
        return MigrationFailed(
            f"migration {failed.migration.name} failed{at}: {reason}",
            detail="\n".join([*sessions.told(error), f"{done}{failed.migration.name} was rolled back."]),
            hint=f"{_advice(error, place)} {failed.migration.path}; then run `invoke migrate` again.{backup}",
            place=place,
        )


def _fault(sent: batches.Batch, answer: sessions.Answer, first: Script, *, ran: bool) -> batches.Fault:
    """Where the error belongs: where something ran, to the first script that is not committed, and no other.

    Of a lost connection that is all that is known; and a rule of the database can add results of its own, so
    that counting them leads astray.
    """
    assert answer.error is not None
    found = batches.locate(sent, answer.answered, _position(answer.error), answer.error.sqlstate)
    expected = sent.scripts.index(first)
    if answer.lost or (ran and found.index != expected):
        return batches.Fault(expected, Place(first.migration.name, sqlstate=answer.error.sqlstate), framing=False)
    return found


def _position(error: psycopg.Error) -> int | None:
    return int(error.diag.statement_position) if error.diag.statement_position else None


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _advice(error: psycopg.Error, place: Place) -> str:
    if error.sqlstate is None or error.sqlstate.startswith("57P"):
        return "The connection was lost, which need not be the fault of"
    if error.sqlstate == "22012" and place.line is None:
        return "It must leave its own row of the history, and its transaction, alone: fix"
    if error.sqlstate == "57014":
        return "Give it time with `-- migrate: statement-timeout=5min` in"
    if error.sqlstate in Retry.ERRORS:
        return "See who holds the lock, or give it time with `-- migrate: lock-timeout=10s` in"
    return "Fix"
