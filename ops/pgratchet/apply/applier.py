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

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg

from pgratchet import events
from pgratchet.apply.run import MigrateOptions, _Run
from pgratchet.database import connection as sessions
from pgratchet.database.history import History, RunColumns
from pgratchet.database.session import Connect, Session, listed
from pgratchet.errors import (
    ConfigurationError,
    HistoryDisagrees,
    Location,
)
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow, Plan, make_plan, require_agreement
from pgratchet.migrations.scripts import Script, only_adds, prepare

if TYPE_CHECKING:
    pass

Backup = Callable[[psycopg.Connection, Sequence[HistoryRow]], Generator[events.Event, None, str]]


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


def _agreed(connection: psycopg.Connection, ledger: History, made: Plan) -> Plan:
    """The same plan, once it is sure that files and history agree; HistoryDisagrees where they do not."""
    require_agreement(made, ledger.bodies(connection, made.names("changed")))
    return made


def read_history(connect: Connect, ledger: History, pinned_identifier: str) -> list[HistoryRow]:
    """The history of a database that migrations may run on; raises where none may."""
    with closing(Session(connect, ledger, 0, 0, pinned_identifier)) as session, sessions.translate_errors():
        return session.open()


def migrate(
    connect: Connect, ledger: History, files: Sequence[Migration], backup: Backup | None, options: MigrateOptions
) -> Generator[events.Event, None, None]:
    """Apply what is pending; yields events, the first of them Planned and the last Finished.

    Whoever wants a person's consent, or no more than the plan, stops reading after the first event.

    `backup` is called once, under the lock, before the first statement, and returns the backup's id. With
    nothing pending neither lock nor backup is taken. Raises the error of the first failure; what was reported
    as applied by then is applied, and stays.
    """
    session = Session(connect, ledger, options.wait, options.lock_timeout, options.pinned_identifier)
    with closing(session), sessions.translate_errors():
        made = make_plan(files, session.open(), options.to)
        made = _agreed(session.connection, ledger, made)
        scripts = prepare(made.todo)
        if options.only_destructive and all(only_adds(script) for script in scripts):
            backup = None
        _refuse_pooled(session.server, scripts, backup)
        session.lock_timeout = _shortest(scripts, options.lock_timeout)
        todo = tuple(migration.name for migration in made.todo)
        yield events.Planned(todo, total=len(made.entries), pending=made.left)
        if todo:
            history = yield from _under_lock(session, options, files, scripts, backup)
            made = _agreed(session.connection, ledger, make_plan(files, history, options.to))
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
    session: Session,
    options: MigrateOptions,
    files: Sequence[Migration],
    judged: Sequence[Script],
    backup: Backup | None,
) -> Generator[events.Event, None, list[HistoryRow]]:
    """Lock; plan again, since another run may have been first; back up; apply what is left of the judged.

    Returns the history as it then is.
    """
    from pgratchet.apply.batch import batches

    history = yield from session.lock()
    made = _agreed(session.connection, session.ledger, make_plan(files, history or [], options.to))
    todo = {migration.name for migration in made.todo}
    scripts = [script for script in judged if script.name in todo]
    if not scripts:
        return history or []
    _refuse_half_done(scripts, made)
    backup_id = (yield from backup(session.connection, history or [])) if backup else None
    if history is None:
        session.ledger.create(session.connection)
    waiver = options.waiver or (NOTHING_DESTRUCTIVE if options.only_destructive and not backup else None)
    work = _Run(session, options, RunColumns(options.run_id, backup_id, waiver))
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
                place=Location(script.name),
            )
