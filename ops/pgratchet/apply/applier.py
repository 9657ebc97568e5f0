"""Applies pending migrations: connect, plan, lock, plan again, back up, apply, verify. There is one applier.

It receives a way to connect, the migrations and a backup to take. It knows nothing of terminals, SSH and settings
files. It yields events and raises one error.

The advisory lock is a courtesy. The history row, inserted first in each transaction under a unique name, is the proof
that a migration runs once (tests/integration: concurrent runners, also through a pooler).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import psycopg

from pgratchet import events
from pgratchet.apply.run import MigrateOptions, Run
from pgratchet.database import connection as sessions
from pgratchet.database import contents, inspection
from pgratchet.database.history import History, RunColumns
from pgratchet.database.identity import Identity
from pgratchet.database.session import Connect, Session
from pgratchet.errors import ConfigurationError, HistoryDisagrees, Location
from pgratchet.formatting import join_names
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, Plan, lacks_first_version, make_plan, require_agreement
from pgratchet.migrations.scripts import Script, is_contract, prepare_plan, prove_additive

Backup = Callable[[psycopg.Connection], events.Stream]
"""Takes a backup of the database that the connection leads to; its BackupTaken event names the backup."""

NOTHING_DESTRUCTIVE = "nothing destructive"
"""The history's reason for a missing backup when the policy when-destructive did not need one."""


def needs_backup(policy: str, without_backup: str | None) -> bool:
    """Return whether a run may need a backup, by the environment's policy and the reason given to go without one."""
    if without_backup is not None and not without_backup.strip():
        raise ConfigurationError(
            "--without-backup needs a reason",
            detail="The reason is stored in the history.",
            hint='Give one, such as --without-backup="an empty database".',
        )
    return policy != "never" and without_backup is None


def read_history(
    connect: Connect,
    history: History,
    pinned_identifier: str,
    identity: Identity | None = None,
    *,
    must_be_empty: bool = False,
    without_first: bool = True,
) -> list[HistoryRow]:
    """The history of a database that migrations may run on; ConfigurationError where they must not.

    With `must_be_empty`, HistoryDisagrees for a database that is not empty though its history is. `without_first` is
    for its hint: the files have none that begins with 001.
    """
    with closing(Session(connect, history, 0, 0, pinned_identifier, identity)) as session, sessions.translate_errors():
        rows = session.open()
        if rows or not must_be_empty:
            return rows
        return contents.require_empty(session.connection, history, without_first=without_first)


def migrate(
    connect: Connect, history: History, files: Sequence[Migration], backup: Backup | None, options: MigrateOptions
) -> events.Stream:
    """Apply what is pending without asking anyone; the first event is Planned, the last one Finished."""
    with prepare(connect, history, files, backup, options) as run:
        yield run.planned
        yield from run.apply()


@contextmanager
def prepare(
    connect: Connect, history: History, files: Sequence[Migration], backup: Backup | None, options: MigrateOptions
) -> Iterator[PreparedRun]:
    """Connect, read the history and plan. Nothing is locked or changed until the block calls `apply()`.

    `backup` is called once, under the lock, before the first statement; with nothing pending neither lock nor backup is
    taken. The session, and the lock with it, ends with the block.
    """
    session = Session(connect, history, options.wait, options.lock_timeout, options.pinned_identifier, options.identity)
    with closing(session), sessions.translate_errors():
        yield _prepare(session, files, backup, options)


def _prepare(
    session: Session, files: Sequence[Migration], backup: Backup | None, options: MigrateOptions
) -> PreparedRun:
    rows = session.open()
    plan = _plan(files, rows, options)
    if plan.todo and not rows and not options.not_empty:
        without_first = lacks_first_version(files)
        rows = contents.require_empty(session.connection, session.history, without_first=without_first)
        plan = _plan(files, rows, options)
    _require_agreement(session, plan)
    scripts = prepare_plan(plan)
    if options.only_destructive and _is_additive(session.connection, scripts):
        backup = None
    inspection.refuse_unconvertible(session.server, [script.name for script in scripts if not script.is_ascii])
    _refuse_pooled(session, scripts, backup)
    session.lock_timeout = _shortest_lock_timeout(scripts, options.lock_timeout)
    return PreparedRun(session, options, files, scripts, backup, plan)


def _plan(files: Sequence[Migration], rows: Sequence[HistoryRow], options: MigrateOptions) -> Plan:
    return make_plan(files, rows, options.to, is_contract if options.stops_at_contract else None)


def _require_agreement(session: Session, plan: Plan) -> None:
    """Raise HistoryDisagrees where files and history differ; the texts that ran are read to show what changed."""
    require_agreement(plan, session.history.read_bodies(session.connection, plan.compared_names))


def _is_additive(connection: psycopg.Connection, scripts: Sequence[Script]) -> bool:
    if any(script.is_repeatable for script in scripts):
        return False  # they replace what exists
    new_tables = prove_additive(scripts)
    return new_tables is not None and not inspection.may_run_other_code(connection, new_tables)


def _refuse_pooled(session: Session, scripts: Sequence[Script], backup: Backup | None) -> None:
    """A pooler in transaction mode carries neither a dump nor statements outside a transaction."""
    alone = [script.name for script in scripts if not script.directives.transactional]
    if alone:
        session.refuse_pooled(f"{join_names(alone)} cannot run without a transaction")
    if scripts and backup:
        session.refuse_pooled("no backup can be taken")


def _shortest_lock_timeout(scripts: Sequence[Script], lock_timeout: int) -> int:
    """The shortest lock_timeout of the run: blockers are looked for after half of it."""
    timeouts = (script.directives.lock_timeout for script in scripts)
    return min([lock_timeout, *(timeout for timeout in timeouts if timeout)])


@dataclass(slots=True)
class PreparedRun:
    """A planned run that has changed nothing yet."""

    session: Session
    options: MigrateOptions
    files: Sequence[Migration]
    scripts: tuple[Script, ...]
    backup: Backup | None
    plan: Plan

    @property
    def planned(self) -> events.Planned:
        """The event that begins the run's stream: the migrations to apply."""
        names = tuple(script.name for script in self.scripts)
        return events.Planned(names, total=self.plan.total, pending=self.plan.pending_count)

    def apply(self) -> events.Stream:
        """Apply what is pending; the last event is Finished.

        Raises the error of the first failure. Every migration reported as applied by then is applied, and stays.
        """
        plan = self.plan
        if self.scripts:
            if warning := self.session.replication.warning(self.session.history):
                yield events.ServerNotice("WARNING", warning)
            rows = yield from self._apply_under_lock()
            plan = _plan(self.files, rows, self.options)
            _require_agreement(self.session, plan)
        elif not plan.total and (warning := contents.warning(self.session.connection, self.session.history)):
            yield events.ServerNotice("WARNING", warning)
        yield events.Finished(total=plan.total, pending=plan.pending_count)

    def _apply_under_lock(self) -> Generator[events.Event, None, list[HistoryRow]]:
        """Lock, plan again because another run may have been first, back up and apply; return the history after it."""
        rows = yield from self.session.lock()
        scripts = self._still_pending(rows or [])
        if not scripts:
            return rows or []
        backup_id = yield from self._take_backup()
        if rows is None:
            self.session.create_history()
        else:
            self._forget_untouched(rows, scripts)
            yield from self.session.record_environment()
        return (yield from self._run(scripts, backup_id))

    def _still_pending(self, rows: Sequence[HistoryRow]) -> list[Script]:
        plan = _plan(self.files, rows, self.options)
        _require_agreement(self.session, plan)
        names = {migration.name for migration in (*plan.todo, *plan.repeatables.todo)}
        scripts = [script for script in self.scripts if script.name in names]
        _refuse_half_done(scripts, plan)
        return scripts

    def _forget_untouched(self, rows: Sequence[HistoryRow], scripts: Sequence[Script]) -> None:
        """Remove the rows of files that failed at their first statement, and are gone or run in a transaction now."""
        resumed = {script.name for script in scripts if not script.directives.transactional}
        waiting = {file.name for file in self.files} - {script.name for script in scripts}  # behind --to
        names = [row.name for row in rows if row.is_untouched and row.name not in resumed | waiting]
        with suppress(psycopg.errors.InsufficientPrivilege):  # then they stay, and plans leave them out
            if names:
                self.session.history.forget_untouched(self.session.connection, names)

    def _take_backup(self) -> Generator[events.Event, None, str | None]:
        backup_id = None
        for event in self.backup(self.session.connection) if self.backup else ():
            if isinstance(event, events.BackupTaken):
                backup_id = event.backup_id
            yield event
        return backup_id

    def _run(self, scripts: Sequence[Script], backup_id: str | None) -> Generator[events.Event, None, list[HistoryRow]]:
        from pgratchet.apply.batch import split_into_batches

        options, session = self.options, self.session
        reason = options.without_backup or (
            NOTHING_DESTRUCTIVE if options.only_destructive and not self.backup else None
        )
        run = Run(session, options, RunColumns(options.run_id, backup_id, reason))
        for batch in split_into_batches(scripts, options.batch_size):
            run.is_last = batch[-1] is scripts[-1]
            yield from run.apply(batch)
        return run.history if run.history is not None else session.history.read(session.connection)


def _refuse_half_done(scripts: Sequence[Script], plan: Plan) -> None:
    """A transactional file has a finished row or none. An unfinished one was written by something else."""
    unfinished = {e.name for e in plan.entries if e.state == "unfinished" and e.row and not e.row.is_untouched}
    for script in scripts:
        if script.directives.transactional and script.name in unfinished:
            raise HistoryDisagrees(
                f"{script.name} is unfinished in the history, and runs in one transaction",
                detail="Another program wrote or changed its history row.",
                hint="Check whether its changes took effect. Then finish the row by hand, or delete it.",
                location=Location(script.name),
            )
