"""Takes a backup: a dump, the roles and tablespaces, and the manifest.

The manifest is written last, after the other files were verified. Files without a valid manifest are not a backup.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pgratchet import events
from pgratchet.backups import encryption, pg_programs
from pgratchet.backups import manifest as manifests
from pgratchet.backups.dump_writer import DumpWriter
from pgratchet.backups.listing import list_backups
from pgratchet.backups.manifest import Contents, Database, Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.processes import ProgramFailed
from pgratchet.backups.store import Store
from pgratchet.backups.verification import BackupReader, verify_files
from pgratchet.errors import BackupFailed
from pgratchet.formatting import elapsed_ms
from pgratchet.version import __version__

if TYPE_CHECKING:
    import psycopg

    from pgratchet.backups.snapshot import Snapshot
    from pgratchet.database.history import History

_EMPTY_SIZE = 8_000_000
"""Bytes of an empty database, which a dump leaves out."""
_USUAL_RATIO = 0.5
"""The expected size of a first dump, relative to the size of the database on disk."""


@dataclass(frozen=True, slots=True)
class BackupSource:
    """The database to back up, facts about the server, and connections for psycopg and libpq programs."""

    environment: str
    target: str
    server_version: int
    system_identifier: str
    history: History
    connect: Callable[[], psycopg.Connection]
    client_environment: Callable[[], AbstractContextManager[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """Options of a backup. `keep` pins the backup.

    A database of `parallel_from` bytes or more is dumped by `jobs` workers into a folder, if the store is a folder and
    the backup is not encrypted. Otherwise a single worker writes a single file.
    """

    label: str | None = None
    keep: bool = False
    jobs: int = 1
    parallel_from: int = 10_000_000_000
    recipients: Sequence[str] = ()


def take(source: BackupSource, store: Store, programs: Programs, options: BackupOptions) -> events.Stream:
    """Dump the database and verify the dump. The last event is BackupTaken, with the backup's id.

    After a failure pg_dump is run once more. Raises BackupFailed when no backup was taken; the store is then unchanged.
    """
    from pgratchet.backups.snapshot import TableLocked

    encryption.parse_recipients(options.recipients)
    try:
        yield from _take(source, store, programs, options)
    except (ProgramFailed, TableLocked) as error:
        if isinstance(error, ProgramFailed) and error.program != "pg_dump":
            raise
        yield events.BackupRetried(error.detail.splitlines()[0])
        # By one worker, which locks all tables before it begins. Several workers lock each table a second time with
        # NOWAIT (src/bin/pg_dump/parallel.c, lockTableForWorker), which fails if another session waits for the lock.
        yield from _take(source, store, programs, replace(options, jobs=1))


@dataclass(frozen=True, slots=True)
class _Dump:
    """A written dump, and the database as of the dump's snapshot."""

    backup_id: str
    moment: datetime
    database: Database
    database_size: int
    contents: Contents
    duration_ms: int


def _take(source: BackupSource, store: Store, programs: Programs, options: BackupOptions) -> events.Stream:
    from pgratchet.backups.snapshot import open_snapshot

    moment, started = datetime.now(timezone.utc), time.monotonic()
    backup_id = manifests.new_id(moment, secrets.randbelow(16))
    with store.draft(backup_id) as draft:
        with open_snapshot(source.connect, pg_programs.LOCK_WAIT) as snapshot, source.client_environment() as environ:
            database, size = snapshot.read_database()
            _require_space(store, size)
            writer = DumpWriter(draft, programs, environ, options, snapshot)
            with _counting(snapshot, source.history) as counting:
                yield from writer.write(database.name, size)
                contents = counting.result()
        dumped = time.monotonic()
        dump = _Dump(backup_id, moment, database, size, contents, elapsed_ms(started, dumped))
        manifest = _describe(dump, source, programs, options, writer)
        yield from verify_files(BackupReader(manifest, draft.read, draft.folder), programs)
        manifest = replace(manifest, verify_ms=elapsed_ms(dumped, time.monotonic()))
        draft.finish(manifests.NAME, manifests.dumps(manifest))
    duration = manifest.dump_ms + manifest.verify_ms
    yield events.BackupTaken(backup_id, f"{store.location}/{backup_id}", manifest.size, duration)


def _describe(
    dump: _Dump, source: BackupSource, programs: Programs, options: BackupOptions, writer: DumpWriter
) -> Manifest:
    return Manifest(
        backup_id=dump.backup_id,
        environment=source.environment,
        target=source.target,
        created_at=dump.moment.isoformat(timespec="milliseconds"),
        server_version=source.server_version,
        system_identifier=source.system_identifier,
        client_version=programs.version,
        tool_version=__version__,
        archive=writer.form,
        compression=writer.compression,
        files=writer.files,
        database=dump.database,
        database_size=dump.database_size,
        contents=dump.contents,
        dump_ms=dump.duration_ms,
        verify_ms=0,
        label=options.label,
        keep=options.keep,
        recipients=tuple(options.recipients),
    )


@contextmanager
def _counting(snapshot: Snapshot, history: History) -> Iterator[Future[Contents]]:
    """Read the contents of the database while the block dumps them. Reading is cancelled if the block fails."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(snapshot.read_contents, history)
        try:
            yield future
        except BaseException:
            while not future.done():  # a cancel between two queries has no effect
                with suppress(Exception):
                    snapshot.cancel()
                wait([future], timeout=0.5)
            raise


def _require_space(store: Store, database_size: int) -> None:
    """Raise BackupFailed when the store has too little space. A store may still fill up later and fail the backup."""
    free = store.free_space()
    if free is None:
        return
    expected = expected_size(store, database_size)
    if free < expected:
        raise BackupFailed(
            f"there is no room for a backup in {store.location}",
            detail=f"{free:,} bytes are free, and about {expected:,} are needed for a database of {database_size:,}.",
            hint="Make room there, or set backup_dir, or a retention, in the inventory.",
        )


def expected_size(store: Store, database_size: int) -> int:
    """Estimate the size of a backup in bytes from the newest backup in the store."""
    newest = next((entry.manifest for entry in list_backups(store) if entry.manifest), None)
    ratio = newest.size / max(1, newest.database_size) if newest else _USUAL_RATIO
    return round(max(0, database_size - _EMPTY_SIZE) * min(ratio * 1.2, 1.0))
