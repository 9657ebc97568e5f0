"""A baseline: files that an existing database, which has no history, is taken to be made of.

Owns the comparison: the files are migrated into a scratch database of the same server, and its schema as pg_dump has
it is compared with the live one's, statement by statement. Refuses to know terminals and settings. The live database
is only read until its rows are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from difflib import unified_diff

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.apply import applier, run
from pgratchet.backups.kept_databases import derive_name
from pgratchet.backups.restore_server import RestoreServer, new_database
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.database.connection import refuse_pooled
from pgratchet.database.history import AdoptedRow, History
from pgratchet.database.session import Session
from pgratchet.errors import HistoryDisagrees
from pgratchet.migrations import lexer, plan
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow

_SHOWN_AT_MOST = 60
_SESSION = ("SET", "SELECT")
"""What a dump without data says of the session that restores it, and not of the schema: set_config is selected."""


def select(history: Sequence[HistoryRow], files: Sequence[Migration], name: str) -> tuple[Migration, ...]:
    """The files up to that one that are not in the history; raises where history and files disagree."""
    made = plan.make_plan(files, history, name)
    plan.require_agreement(made, {})
    return made.todo


def differences(
    site: RestoreServer, database: str, dump: Callable[[str], bytes], files: Sequence[Migration], name: str
) -> list[str]:
    """How the schema of a database differs from what the files up to that one make, as the lines of a diff."""
    upto = plan.make_plan(files, (), name).todo
    with _scratch(site, database) as scratch:
        options = run.MigrateOptions("baseline", statement_timeout=0)
        events.drain(applier.migrate(lambda: site.connect(scratch), site.history, upto, None, options))
        made, there = schema(dump(scratch), site.history), schema(dump(database), site.history)
    return list(unified_diff(made, there, "files", "database", n=2, lineterm=""))


@contextmanager
def _scratch(site: RestoreServer, database: str) -> Iterator[str]:
    """An empty database like another, gone again behind the block."""
    name = derive_name(database, "baseline")
    with open_snapshot(lambda: site.connect(database)) as snapshot:
        like, _ = snapshot.read_database()
    with closing(site.connect(site.maintenance)) as maintenance:
        with new_database(site, maintenance, name, like, exact=False):
            yield name
        _drop(maintenance, name)


def _drop(maintenance: psycopg.Connection, name: str) -> None:
    maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def schema(dumped: bytes, history: History) -> list[str]:
    """The lines of the statements of a dump, in the order of their text, without what is no part of the schema."""
    text = re.sub(rb"(?m)^\\(un)?restrict .*$", b"", dumped)
    found = [each for each in lexer.scan(text, rows=False) if isinstance(each, lexer.Statement)]
    told = sorted(text[each.start : each.end].decode() for each in found if each.head[0] not in _SESSION)
    ours = {f"CREATE SCHEMA {history.schema}", f'CREATE SCHEMA "{history.schema}"'}
    return [line for each in told if each not in ours for line in f"{each};".splitlines()]


def require_equal(told: Sequence[str], *, yes: bool) -> None:
    """Raise where there are differences that were not accepted."""
    if told and not yes:
        shown = [*told[:_SHOWN_AT_MOST], *(["..."] if len(told) > _SHOWN_AT_MOST else [])]
        raise HistoryDisagrees(
            "the database is not what these files make",
            detail="\n".join(shown),
            hint="Give the name of the last file whose changes are there, or mend the files. To adopt them in spite of "
            "the differences, give --yes. Nothing was changed.",
        )


def mark(session: Session, files: Sequence[Migration], name: str, run_id: str) -> Generator[events.Event, None, None]:
    """Write the rows under the migration lock, in one transaction."""
    refuse_pooled(session.server, "no baseline can be taken")
    history = (yield from session.lock()) or []
    if rows := [_row(each, run_id) for each in select(history, files, name)]:
        session.history.adopt(session.connection, rows)


def _row(migration: Migration, run_id: str) -> AdoptedRow:
    return AdoptedRow(migration.name, migration.checksum, migration.text(), "adopted:baseline", run_id)
