"""Takes a backup: a dump, the roles and tablespaces, and the manifest.

The manifest is written last, after the other files were verified. Files without a valid manifest are not a backup.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pgratchet import events
from pgratchet.backups import encryption, pg_programs
from pgratchet.backups import manifest as manifests
from pgratchet.backups.copying import finish_draft
from pgratchet.backups.dump_writer import DumpWriter
from pgratchet.backups.listing import list_backups
from pgratchet.backups.manifest import Contents, Database, Manifest, SequenceState
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.processes import ProgramFailed
from pgratchet.backups.signing import Signer
from pgratchet.backups.size_estimate import SizeEstimate, estimate_size
from pgratchet.backups.store import Store
from pgratchet.backups.verification import BackupReader, verify_files
from pgratchet.errors import BackupFailed
from pgratchet.formatting import elapsed_ms, format_size
from pgratchet.version import __version__

if TYPE_CHECKING:
    import psycopg

    from pgratchet.backups.snapshot import Snapshot
    from pgratchet.backups.table_progress import TableProgress
    from pgratchet.database.history import History


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
    signer: Signer | None = None


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
    from pgratchet.database.timeouts import without_timeouts

    moment, started = datetime.now(timezone.utc), time.monotonic()
    backup_id = manifests.new_id(moment, secrets.randbelow(16))
    with store.draft(backup_id) as draft, ThreadPoolExecutor(1) as background:
        compression = background.submit(programs.compression)
        with open_snapshot(source.connect, pg_programs.LOCK_WAIT) as snapshot, source.client_environment() as environ:
            database, size = snapshot.read_database()
            yield from _check_space(store, snapshot.connection, size)
            environ = without_timeouts(environ, snapshot.connection)
            writer = DumpWriter(draft, programs, environ, options, snapshot, compression.result())
            sequences = snapshot.read_sequences()
            with _counting(snapshot, source.history, sequences, writer.progress) as counting:
                yield from writer.write(database.name, size)
                contents = replace(counting.result(), sequences=snapshot.read_latest_sequences(sequences))
        if contents.left_out:
            yield events.LeftOut(tuple(contents.left_out))
        dumped = time.monotonic()
        dump = _Dump(backup_id, moment, database, size, contents, elapsed_ms(started, dumped))
        manifest = _describe(dump, source, programs, options, writer)
        reader = BackupReader(manifest, draft.read, draft.folder)
        yield from verify_files(reader, programs, archive_was_read=writer.form == "custom")
        manifest = replace(manifest, verify_ms=elapsed_ms(dumped, time.monotonic()))
        finish_draft(draft, manifest, options.signer)
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
def _counting(
    snapshot: Snapshot, history: History, sequences: Mapping[str, SequenceState], progress: TableProgress
) -> Iterator[Future[Contents]]:
    """Read the contents of the database while the block dumps them. Reading is cancelled if the block fails.

    After that the same session watches the progress of the dump, whose tables' rows are known by then.
    """
    from pgratchet.backups.snapshot import TableLocked

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(snapshot.read_contents, history, sequences)
        pool.submit(progress.watch, snapshot.read_copied, lambda: future.result().tables, snapshot.read_text_sizes)
        try:
            yield future
        except BaseException as error:
            cause = future.exception() if future.done() else None
            while not future.done():  # a cancel between two queries has no effect
                with suppress(Exception):
                    snapshot.cancel()
                wait([future], timeout=0.5)
            if isinstance(error, ProgramFailed) and cause is not None and not isinstance(cause, TableLocked):
                raise cause from error  # it ended the transaction whose snapshot pg_dump was to import
            raise
        finally:
            progress.stop()


def _check_space(store: Store, connection: psycopg.Connection, database_size: int) -> events.Stream:
    """Warn when a backup may not fit into the store, and raise BackupFailed when it certainly does not."""
    free = store.free_space()
    if free is None or free >= 2 * database_size:  # no dump is so large
        return
    estimate = estimated_size(store, connection)
    if free < estimate.lowest:
        raise BackupFailed(
            f"not enough space for a backup in {store.location}",
            detail=f"{format_size(free)} are free, and the smallest backup of this database needs "
            f"{format_size(estimate.lowest)}. Nothing was written.",
            hint="Free space there, or set backup_dir, backup_keep_count or backup_keep_days in the inventory.",
        )
    if free < estimate.expected:
        yield events.SpaceLow(store.location, free, estimate.expected)


def estimated_size(store: Store, connection: psycopg.Connection) -> SizeEstimate:
    """Estimate the size of a backup of the connection's database from its data and the backups in the store."""
    from pgratchet.database.data_size import read_data_size

    earlier = (entry.manifest for entry in list_backups(store) if entry.manifest)
    return estimate_size(read_data_size(connection), earlier)
