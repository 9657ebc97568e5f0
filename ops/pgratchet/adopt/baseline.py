"""Marks files as applied in an existing database without a history, after comparing the schemas.

The files are applied to a scratch database on the same server. pg_dump dumps the schemas of the scratch database and
the live database, and their statements are compared. The live database is only read until the history rows are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from difflib import unified_diff

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.apply import applier, run
from pgratchet.backups.kept_databases import derive_name
from pgratchet.backups.restore_server import RestoreServer, new_database
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.database.history import AdoptedRow, History
from pgratchet.database.inspection import refuse_pooled
from pgratchet.database.session import Session
from pgratchet.errors import HistoryDisagrees
from pgratchet.migrations import lexer, plan
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow

_MOST_LINES = 60
"""The number of lines of a difference that an error shows."""
_SESSION_STATEMENTS = ("SET", "SELECT")
"""Statements of a dump without data that set up the restoring session. SELECT is set_config()."""


def select(history: Sequence[HistoryRow], files: Sequence[Migration], name: str) -> tuple[Migration, ...]:
    """The files up to this name, without those in the history. Raises when history and files disagree."""
    baseline = plan.make_plan(files, history, name)
    plan.require_agreement(baseline, {})
    return baseline.todo


def differences(
    server: RestoreServer, database: str, dump: Callable[[str], bytes], files: Sequence[Migration], name: str
) -> list[str]:
    """The lines of a diff from the schema of the files up to `name` to the schema of the database.

    `dump` returns pg_dump's schema of a database on the server.
    """
    todo = plan.make_plan(files, (), name).todo
    with _scratch_database(server, database) as scratch:
        options = run.MigrateOptions("baseline", statement_timeout=0)
        events.drain(applier.migrate(lambda: server.connect(scratch), server.history, todo, None, options))
        expected, live = schema(dump(scratch), server.history), schema(dump(database), server.history)
    return list(unified_diff(expected, live, "files", "database", n=2, lineterm=""))


@contextmanager
def _scratch_database(server: RestoreServer, database: str) -> Iterator[str]:
    """The name of an empty database with another database's encoding and locale. The block's end drops the database."""
    name = derive_name(database, "baseline")
    with open_snapshot(lambda: server.connect(database)) as snapshot:
        like, _ = snapshot.read_database()
    with closing(server.connect(server.maintenance)) as maintenance:
        with new_database(server, maintenance, name, like, exact=False):
            yield name
        _drop(maintenance, name)


def _drop(maintenance: psycopg.Connection, name: str) -> None:
    maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def schema(dump: bytes, history: History) -> list[str]:
    """The lines of a dump's statements, sorted by statement, without session settings and the history's schema."""
    text = re.sub(rb"(?m)^\\(un)?restrict .*$", b"", dump)
    parsed = lexer.split_statements(text, rows=False)
    statements = sorted(text[s.start : s.end].decode() for s in parsed if s.head[0] not in _SESSION_STATEMENTS)
    ours = {f"CREATE SCHEMA {history.schema}", f'CREATE SCHEMA "{history.schema}"'}
    return [line for statement in statements if statement not in ours for line in f"{statement};".splitlines()]


def require_equal(lines: Sequence[str], *, yes: bool) -> None:
    """Raise HistoryDisagrees for differences that were not accepted."""
    if lines and not yes:
        shown = [*lines[:_MOST_LINES], *(["..."] if len(lines) > _MOST_LINES else [])]
        raise HistoryDisagrees(
            "the database is not what these files make",
            detail="\n".join(shown),
            hint="Give the name of the last file whose changes are there, or fix the files. To adopt them in spite of "
            "the differences, give --yes. Nothing was changed.",
        )


def mark(session: Session, files: Sequence[Migration], name: str, run_id: str) -> None:
    """Write the rows of the files up to `name` under the migration lock, in a single transaction."""
    refuse_pooled(session.server, "no baseline can be taken")
    for _ in session.lock():
        pass
    history = session.history.read(session.connection)
    if rows := [_history_row(file, run_id) for file in select(history, files, name)]:
        session.history.adopt(session.connection, rows)


def _history_row(file: Migration, run_id: str) -> AdoptedRow:
    return AdoptedRow(file.name, file.checksum, file.text(), "adopted:baseline", run_id)
