"""Marks files as applied in an existing database without a history, after comparing the schemas.

The files are applied to a scratch database on the same server. pg_dump dumps the schemas of the scratch database and
the live database, and their statements are compared. The live database is only read until the history rows are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import psycopg

from pgratchet import events
from pgratchet.adopt.rebuild import Rebuild
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.database.history import AdoptedRow
from pgratchet.database.session import Session
from pgratchet.errors import ConfigurationError, HistoryDisagrees, RatchetError
from pgratchet.migrations import plan, scripts
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow
from pgratchet.schema import comparison
from pgratchet.schema.build import build
from pgratchet.schema.live import read_search_path
from pgratchet.schema.scratch import Dump, Scratch

_MOST_LINES = 60
"""The number of lines of a difference that an error shows."""


def select(history: Sequence[HistoryRow], files: Sequence[Migration], name: str) -> tuple[Migration, ...]:
    """The files up to this name, without those in the history. Raises when history and files disagree."""
    baseline = plan.make_plan(files, history, name)
    plan.require_agreement(baseline, {})
    return baseline.todo


def differences(server: RestoreServer, database: str, dump: Dump, files: Sequence[Migration], name: str) -> list[str]:
    """The lines of a diff from the schema of the files up to `name` to the schema of the database.

    `dump` returns pg_dump's schema of a database on the server.
    """
    todo = scripts.files_up_to(files, name)
    with open_snapshot(lambda: server.connect(database)) as snapshot:
        like, _ = snapshot.read_database()
    with closing(server.open_session(database)) as session:
        scratch = Scratch(server, dump, like, read_search_path(session))
    with scratch.database("baseline") as built:
        try:
            build(scratch, built, todo, "baseline")
        except RatchetError as error:
            error.rerun_with("adopt")
            error.advise_inventory_roles()
            raise
        files_dump = dump(built)
    return comparison.differences(scratch, files_dump, dump(database), (server.history.schema,))


def may_not_create(error: ConfigurationError) -> bool:
    """Return whether the error says that this role may not create databases on this server."""
    return isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege)


def differences_elsewhere(rebuilt: Rebuild) -> list[str]:
    """The lines of the diff that a trial on another server found. ConfigurationError when it could not compare."""
    if rebuilt.outcome in ("same", "differs"):
        return list(rebuilt.detail)
    raise ConfigurationError(
        "the schema of the files cannot be compared with that of the database",
        detail="\n".join(["This role may not create databases, so another server was tried.", *rebuilt.detail]),
        hint="Grant the right with ALTER ROLE ... CREATEDB, or set drill_environment in the inventory to an "
        "environment whose server has what the files need.",
    )


def abbreviate(lines: Sequence[str]) -> str:
    """The first lines of a difference, as one text."""
    return "\n".join([*lines[:_MOST_LINES], *(["..."] if len(lines) > _MOST_LINES else [])])


def require_equal(lines: Sequence[str], *, yes: bool) -> None:
    """Raise HistoryDisagrees for differences that were not accepted."""
    if lines and not yes:
        raise HistoryDisagrees(
            "the database does not have the schema that the files make",
            detail=abbreviate(lines),
            hint="Give the name of the last file whose changes the database has, or fix the files. To adopt them "
            "despite the differences, give --yes. Nothing was changed.",
        )


def mark(session: Session, files: Sequence[Migration], name: str, run_id: str) -> None:
    """Write the rows of the files up to `name` under the migration lock, in a single transaction."""
    session.refuse_pooled("the files cannot be marked as applied")
    for _ in session.lock():
        pass
    history = session.history.read(session.connection)
    if rows := [_history_row(file, run_id) for file in select(history, files, name)]:
        session.history.adopt(session.connection, rows)
        events.drain(session.record_environment())


def _history_row(file: Migration, run_id: str) -> AdoptedRow:
    return AdoptedRow(file.name, file.checksum, file.text(), "adopted:baseline", run_id)
