"""The applier: look, lock, plan, back up, apply, verify. There is one, wherever it runs.

Owns the order of a run and what becomes of each failure. It is given a way to connect, the migrations and a
backup to call; it knows no terminal, no SSH and no settings files. It yields events and raises one error.

What it rests on, measured (facts 2a to 2e): the lock is a courtesy, and the history row, inserted first in each
transaction under a unique name, is the proof; whatever a file SETs outlives its transaction, so each transaction
is followed by one that clears the session; a COMMIT whose answer was lost may have happened, so the history is
asked, and not the answer, what was committed. Files that declare no-transaction are run by steps.

Of the migrations in a batch only the last waits for the disk (synchronous_commit). The log is written in order, so
that one COMMIT on the disk has all earlier ones there with it; and after a crash a migration that is lost is lost
with its row, and so are all behind it. Nothing is reported as applied before that last COMMIT was answered, and
where an error keeps it from coming, `_settled` makes one that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from pgratchet import events
from pgratchet.database import connection as sessions
from pgratchet.database.history import Ledger, Run, records
from pgratchet.database.session import Connect, Retry, Session, listed
from pgratchet.errors import (
    ConfigurationError,
    HistoryDisagrees,
    Interrupted,
    LockBusy,
    MigrationFailed,
    OutcomeUnknown,
    Place,
    StoppedPartWay,
)
from pgratchet.migrations.files import Migration, Plan, Record, Script, check, judge, only_adds, plan

if TYPE_CHECKING:
    from pgratchet.apply.batch import Fault, Frame

Backup = Callable[[psycopg.Connection, Sequence[Record]], Generator[events.Event, None, str]]


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may take. Times in milliseconds.

    `wait` is how long to wait for the migration lock, and for a lock inside a migration over all its tries;
    each try waits `lock_timeout`. `statement_timeout` bounds each statement; 0 is no bound. With
    `only_destructive`, the backup is left out where all that is to run is known to add only.
    """

    run_id: str
    to: str | None = None
    waiver: str | None = None
    wait: int = 30_000
    lock_timeout: int = 3_000
    statement_timeout: int = 30_000
    batch_size: int = 100
    pinned_identifier: str = ""
    only_destructive: bool = False


NOTHING_DESTRUCTIVE = "nothing destructive"
"""What the history says in the place of a backup that the policy when-destructive left out."""


def needs_backup(policy: str, waiver: str | None) -> bool:
    """Whether a run may need a backup: by its environment's policy, unless a reason to go without is given."""
    if waiver is not None and not waiver.strip():
        raise ConfigurationError(
            "--without-backup needs a reason",
            detail="It is kept in the history, for whoever asks later why there is no backup.",
            hint='Write it out: --without-backup="restored from last night, nothing to lose".',
        )
    return policy != "never" and waiver is None


def _agreed(connection: psycopg.Connection, ledger: Ledger, made: Plan) -> Plan:
    """The same plan, once it is sure that files and history agree; HistoryDisagrees where they do not."""
    check(made, ledger.bodies(connection, made.names("changed")))
    return made


def foresee(connect: Connect, ledger: Ledger, pinned_identifier: str) -> list[Record]:
    """The history of a database that migrations may run on; raises where none may."""
    with closing(Session(connect, ledger, 0, 0, pinned_identifier)) as session, sessions.translated():
        return session.open()


def migrate(
    connect: Connect, ledger: Ledger, files: Sequence[Migration], backup: Backup | None, options: Options
) -> Generator[events.Event, None, None]:
    """Apply what is pending; yields events, the first of them Planned and the last Finished.

    Whoever wants a person's consent, or no more than the plan, stops reading after the first event.

    `backup` is called once, under the lock, before the first statement, and returns the backup's id. With
    nothing pending neither lock nor backup is taken. Raises the error of the first failure; what was reported
    as applied by then is applied, and stays.
    """
    session = Session(connect, ledger, options.wait, options.lock_timeout, options.pinned_identifier)
    with closing(session), sessions.translated():
        made = plan(files, session.open(), options.to)
        made = _agreed(session.connection, ledger, made)
        scripts = judge(made.todo)
        if options.only_destructive and all(only_adds(script) for script in scripts):
            backup = None
        _refuse_pooled(session.server, scripts, backup)
        session.lock_timeout = _shortest(scripts, options.lock_timeout)
        todo = tuple(migration.name for migration in made.todo)
        yield events.Planned(todo, total=len(made.entries), pending=made.left)
        if todo:
            history = yield from _under_lock(session, options, files, scripts, backup)
            made = _agreed(session.connection, ledger, plan(files, history, options.to))
        yield events.Finished(total=len(made.entries), pending=made.left)


def _refuse_pooled(server: sessions.Server, scripts: Sequence[Script], backup: Backup | None) -> None:
    """Behind a pooler only transactions work: no dump, and no statement that is none."""
    alone = [script.name for script in scripts if not script.directives.transactional]
    if alone:
        sessions.refuse_pooled(server, f"{listed(alone)} cannot run: there is no transaction in it")
    if scripts and backup:
        sessions.refuse_pooled(server, "no backup can be taken")


def _shortest(scripts: Sequence[Script], lock_timeout: int) -> int:
    """The shortest wait for a lock that ends a try: by half of it, who is in the way has to be seen."""
    given = (script.directives.lock_timeout for script in scripts)
    return min([lock_timeout, *(each for each in given if each)])


def _under_lock(
    session: Session, options: Options, files: Sequence[Migration], judged: Sequence[Script], backup: Backup | None
) -> Generator[events.Event, None, list[Record]]:
    """Lock; plan again, since another run may have been first; back up; apply what is left of the judged.

    Returns the history as it then is.
    """
    from pgratchet.apply.batch import batches

    history = yield from session.lock()
    made = _agreed(session.connection, session.ledger, plan(files, history or [], options.to))
    todo = {migration.name for migration in made.todo}
    scripts = [script for script in judged if script.name in todo]
    if not scripts:
        return history or []
    _refuse_half_done(scripts, made)
    backup_id = (yield from backup(session.connection, history or [])) if backup else None
    if history is None:
        session.ledger.create(session.connection)
    waiver = options.waiver or (NOTHING_DESTRUCTIVE if options.only_destructive and not backup else None)
    work = _Work(session, options, Run(options.run_id, backup_id, waiver))
    for group in batches(scripts, options.batch_size):
        work.is_last = group[-1] is scripts[-1]
        yield from work.apply(group) if group[0].directives.transactional else work.step_through(group[0])
    return work.history if work.history is not None else session.ledger.read(session.connection)


def _refuse_half_done(scripts: Sequence[Script], made: Plan) -> None:
    """A transactional file has a finished row or none: anything else is not our doing."""
    unfinished = made.names("unfinished")
    for script in scripts:
        if script.directives.transactional and script.name in unfinished:
            raise HistoryDisagrees(
                f"{script.name} is in the history without an end, and runs in one transaction",
                detail="Its row was written or changed by something else than a run of it.",
                hint="See whether its changes are there; then finish the row, or delete it, by hand.",
                place=Place(script.name),
            )


@dataclass(slots=True)
class _Work:
    """The applying part of one run. `applied` are the names of all that it has applied so far.

    The last batch asks for the whole `history` where the others ask for their own rows: a run ends with what is there.
    """

    session: Session
    options: Options
    run: Run
    applied: list[str] = field(default_factory=list)
    is_last: bool = False
    history: list[Record] | None = None

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
            committed = yield from self._committed(scripts, sent.records)
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

    def _pause(self, retry: Retry, error: psycopg.Error, fault: Fault, failed: Script) -> Iterator[events.Event]:
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
        found = records(answer) or []
        self.history = found if self.is_last else None
        return _Sent(answer, found, fault)

    def _send_together(self, scripts: Sequence[Script]) -> tuple[sessions.Answer, Fault | None]:
        from pgratchet.apply.batch import compose, locate

        names, last = [script.name for script in scripts], scripts[-1]
        parts = [(script, script.migration.text()) for script in scripts]
        batch = compose(parts, lambda s, text: self._frame(s, text, waits=s is last), [self._question(names)])
        answer = self.session.send(batch.text, names)
        return answer, locate(batch, answer.answered, *_told(answer.error)) if answer.error else None

    def _send_in_windows(self, script: Script) -> tuple[sessions.Answer, Fault | None]:
        """One transaction over as many round trips as the text has windows."""
        from pgratchet.apply.batch import Fault, locate_in_window

        names, text = [script.name], script.migration.text()
        frame = self._frame(script, text, waits=True)
        answer = self.session.send(b";\n".join(frame.opening), names)
        if answer.error is not None:
            return answer, Fault(Place(script.name, sqlstate=answer.error.sqlstate), framing=True)
        for window in script.windows:
            rows = memoryview(text)[slice(*window.rows)] if window.rows else None
            answer = self.session.send(text[window.start : window.end], names, rows=rows)
            if answer.error is not None:
                return answer, locate_in_window(script, text, window, answer.answered, *_told(answer.error))
        answer = self.session.send(b";\n".join((*frame.closing, self._question(names))), names)
        return answer, Fault(Place(script.name, sqlstate=answer.error.sqlstate)) if answer.error else None

    def _question(self, names: Sequence[str]) -> bytes:
        """What a batch ends with: what became of it."""
        if self.is_last:
            return self.session.ledger.reading(self.session.connection)
        return self.session.ledger.reading_run(self.session.connection, self.run.run_id, names)

    def _settled(self, scripts: Sequence[Script]) -> list[Record]:
        """The history's own word on what is committed, once a COMMIT behind all of it is on the disk."""
        names = [script.name for script in scripts]
        question = self.session.ledger.reading_run(self.session.connection, self.run.run_id, names)
        commit = b"BEGIN READ WRITE; SELECT pg_catalog.pg_current_xact_id(); COMMIT;\n"
        return records(sessions.send(self.session.connection, commit + question)) or []

    def _frame(self, script: Script, text: bytes, *, waits: bool) -> Frame:
        """The transaction around a script; its COMMIT `waits` for the disk or leaves that to a later one."""
        from pgratchet.apply.batch import Frame

        given, options = script.directives, self.options
        lock = options.lock_timeout if given.lock_timeout is None else given.lock_timeout
        statement = options.statement_timeout if given.statement_timeout is None else given.statement_timeout
        connection, ledger, session = self.session.connection, self.session.ledger, self.session
        opening = (
            *session.entering(),
            b"BEGIN",
            *session.guarding(),
            b"SET LOCAL lock_timeout = %d" % lock,
            b"SET LOCAL statement_timeout = %d" % statement,
            ledger.begin(connection, script, text, self.run),
        )
        closing = (
            b"RESET SESSION AUTHORIZATION",
            b"RESET ROLE",
            b"RESET synchronous_commit" if waits else b"SET LOCAL synchronous_commit = off",
            ledger.finish(connection, script),
            b"COMMIT",
        )
        return Frame(opening, (*closing, *session.clearing()))

    def _committed(self, scripts: Sequence[Script], found: Sequence[Record]) -> Generator[events.Event, None, set[str]]:
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
        ledger, told = self.session.ledger, error.diag
        return error.sqlstate == "23505" and (told.schema_name, told.table_name) == (ledger.schema, ledger.table)

    def _refuse_broken_out(self, scripts: Sequence[Script]) -> None:
        """A row of ours without an end, after an error: the file ended our transaction, and part of it stays."""
        names = [script.name for script in scripts]
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
        if failed.name not in recorded:
            raise LockBusy(
                f"another run has begun {failed.name} and not finished it",
                detail="Its row is in the history without an end.",
                hint="Wait for that run, then look at `invoke status`.",
                place=Place(failed.name),
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
                place=Place(unrecorded[0].name),
            )

    def _insist_on_applied(self) -> None:
        """What was reported as applied is there, or the server that was returned to has an older history."""
        names, ledger, run_id = self.applied, self.session.ledger, self.run.run_id
        there = self.session.surely(names, lambda connection: ledger.read_run(connection, run_id, names))
        if gone := sorted(set(names) - {record.name for record in there if record.executed_at}):
            raise OutcomeUnknown(
                f"the server that was returned to does not know of {listed(gone)}",
                detail="The connection was lost, and what this run had committed before is not in the history there: "
                "it was restored from an older state, or another server has taken its place.",
                hint="Find out which server is the right one before anything else is run.",
                place=Place(gone[0]),
            )

    def _failure(self, error: psycopg.Error, fault: Fault, failed: Script) -> MigrationFailed:
        place, reason = fault.place, sessions.first_line(error)
        at = "" if place.line is None else f" at line {place.line}, column {place.column}"
        done = f"{listed(self.applied)} {_was(self.applied)} applied; " if self.applied else ""
        backup = f" The backup taken before this run is {self.run.backup_id}." if self.run.backup_id else ""
        waited = [f"It waited for {blocker}." for blocker in self.session.blockers if error.sqlstate in Retry.ERRORS]
        return MigrationFailed(
            f"migration {failed.name} failed{at}: {reason}",
            detail="\n".join([*sessions.told(error), *waited, f"{done}{failed.name} was rolled back."]),
            hint=f"{_advice(error, place)} {failed.migration.path}; then run `invoke migrate` again.{backup}",
            place=place,
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    """What became of a batch: the answer, the rows that the history has of it, and where an error belongs."""

    answer: sessions.Answer
    records: list[Record]
    fault: Fault | None


def _is_unread(sent: _Sent) -> bool:
    """Whether the server could not convert the string to its own encoding; where in it, one by one shows."""
    error = sent.answer.error
    return error is not None and not sent.answer.answered and error.sqlstate in ("22P05", "22021")


def _attributed(sent: _Sent, first: Script, *, ran: bool) -> Fault:
    """Where the error belongs: where something ran, to the first script that is not committed, and no other.

    Of a lost connection that is all that is known; and a rule of the database can add results of its own, so
    that counting them leads astray.
    """
    from pgratchet.apply.batch import Fault

    assert sent.fault is not None
    if sent.answer.lost or (ran and sent.fault.place.migration != first.name):
        return Fault(Place(first.name, sqlstate=sent.fault.place.sqlstate))
    return sent.fault


def _told(error: psycopg.Error) -> tuple[int | None, str | None]:
    """The position and the code of an error."""
    position = error.diag.statement_position
    return int(position) if position else None, error.sqlstate


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
