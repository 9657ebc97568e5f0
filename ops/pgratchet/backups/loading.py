"""Loads the archive of a backup into an empty database, and reads and compares what the database then contains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgratchet import events
from pgratchet.backups import pg_programs
from pgratchet.backups.manifest import Contents, Manifest, notes
from pgratchet.backups.pg_programs import PgRestoreOptions, Programs
from pgratchet.backups.processes import Progress
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.backups.table_progress import TableProgress, watched
from pgratchet.backups.throttle import Throttle
from pgratchet.database.timeouts import without_timeouts


@dataclass(frozen=True, slots=True)
class BackupArchive:
    """A verified backup to restore: manifest, archive as a path or as chunks, and programs to read the archive."""

    manifest: Manifest
    content: Path | Iterator[bytes]
    programs: Programs


def load_archive(
    server: RestoreServer, archive: BackupArchive, options: PgRestoreOptions, *, vacuum: bool = False
) -> events.Stream:
    """Restore an archive into an empty database, and analyze the database.

    With `vacuum`, the rows get the marks that those of a used database have, which the first reader would write.
    """
    rows, programs = archive.manifest.contents.tables, archive.programs
    with server.client_environment() as plain_environ, closing(server.open_session(options.database)) as connection:
        environ = without_timeouts(plain_environ, connection)
        with watched(TableProgress(rows, options.jobs, rows), connection) as progress:
            yield from _report(pg_programs.restore(programs, environ, options, archive.content), progress)
        yield events.BackupProgress("analyze")
        # archives contain no statistics before 18, and queries need them for good plans
        connection.execute("VACUUM ANALYZE" if vacuum else "ANALYZE")


def _report(restoring: Iterator[Progress], progress: TableProgress) -> events.Stream:
    """Report the restored rows, and then the indexes and constraints, whose number is not known in advance.

    Several workers build the first indexes while they still copy rows.
    """
    throttle = Throttle()
    for begun in restoring:
        if not throttle.is_due():
            continue
        if begun.finishing and not progress.is_copying:
            yield events.BackupProgress("index", item=begun.finishing)
        else:
            done, item = progress.done(begun.tables), progress.item(begun.tables)
            yield events.BackupProgress("restore", done, progress.total, item)


def read_contents(server: RestoreServer, name: str) -> Contents:
    """Read the contents of a database of the server."""
    with open_snapshot(lambda: server.connect(name)) as snapshot:
        return snapshot.read_contents(server.history)


def compared_event(expected: Contents, actual: Contents, sentences: Sequence[str]) -> events.Compared:
    """The event for a comparison that found the differences in `sentences`."""
    return events.Compared(
        len(actual.tables),
        actual.rows,
        tuple(sentences),
        len(actual.sequences or ()),
        len(actual.materialized_views or ()),
        tuple(notes(expected, actual)),
    )
