"""Restores a backup into a new database, compares with the manifest, and swaps the new database with the live one.

Nothing is restored over a live database, where a failing pg_restore would leave a mix of old and new rows.
Replication slots and subscriptions belong to a database's oid, so they stay with the old database after a swap.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups.database_settings import after_data, before_data, comment_on, lacking
from pgratchet.backups.kept_databases import KeptRecord, derive_name, find_restored
from pgratchet.backups.live_database import MigrationLock, migrations_since
from pgratchet.backups.loading import BackupArchive, compared_event, load_archive, read_contents
from pgratchet.backups.manifest import Manifest, differences, other_versions
from pgratchet.backups.pg_programs import PgRestoreOptions
from pgratchet.backups.restore_rights import (
    MissingRight,
    find_missing_rights,
    require_rights,
    sessions_to_wait_for,
)
from pgratchet.backups.restore_server import (
    RestoreServer,
    database_into,
    drop_database,
    fetch,
    find_missing,
    new_database,
    require_usable,
    take_lock,
    translate_errors,
)
from pgratchet.backups.snapshot import read_database
from pgratchet.backups.swap import (
    CONTINUE,
    Names,
    NewComments,
    allow_connections,
    await_sessions,
    swap,
    take_free_name,
)
from pgratchet.database import inspection
from pgratchet.database.pooler import refuse_pooled
from pgratchet.errors import BackupFailed, ConfigurationError, Interrupted
from pgratchet.formatting import elapsed_ms


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """Options of a restore.

    `into` names a database to restore into, beside the live database; nothing is then swapped. `leave_behind` lets
    slots and subscriptions stay with the old database. `accept` swaps in spite of differences from the manifest. `wait`
    is how long to wait for the migration lock, or for sessions of the live database that this role may not end, in
    milliseconds.
    """

    into: str | None = None
    jobs: int = 1
    leave_behind: bool = False
    accept: bool = False
    wait: int = 30_000


@dataclass(frozen=True, slots=True)
class RestorePreview:
    """The consequences of a restore.

    `lost` are the migrations applied since the backup; if the live database cannot be read, `unread` says why.
    `obstacles` are sentences about objects staying with the old database, `missing` sentences about roles and
    extensions missing on the server, `rights` the rights that this role lacks. The swap will wait for `sessions`,
    each a phrase. `encrypted` tells whether the connection uses TLS.
    """

    exists: bool
    server: inspection.Server
    lost: tuple[str, ...]
    unread: str
    obstacles: tuple[str, ...]
    missing: tuple[str, ...]
    encrypted: bool
    rights: tuple[MissingRight, ...] = ()
    sessions: tuple[str, ...] = ()


def preview(server: RestoreServer, database: str, manifest: Manifest, into: str | None = None) -> RestorePreview:
    """Find the consequences of a restore, without changing anything. Raises ConfigurationError for another cluster."""
    with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
        identity = inspection.inspect(maintenance)
        inspection.refuse_other_cluster(identity, server.pinned_identifier)
        refuse_pooled(identity, "nothing can be restored")
        if into is not None:
            require_usable(server, maintenance, into)
        rows = fetch(maintenance, "database", name=database)
        obstacles = [f"The {kind} {name}." for kind, name in fetch(maintenance, "obstacles", name=database)]
        roles, extensions = find_missing(maintenance, manifest)
        rights = find_missing_rights(maintenance, database, manifest.contents, manifest.database)
        if into is not None and fetch(maintenance, "database", name=into):
            rights = tuple(right for right in rights if right.kind != "create")
        waiting = sessions_to_wait_for(maintenance, database)
        encrypted = maintenance.pgconn.ssl_in_use
    absent = [f"The role {name}." for name in roles] + [f"The extension {name}." for name in extensions]
    lost, unread = migrations_since(server, database, manifest) if rows and rows[0][1] else ((), "")
    return RestorePreview(
        bool(rows), identity, lost, unread, tuple(obstacles), tuple(absent), encrypted, rights, waiting
    )


def require_restorable(preview: RestorePreview, manifest: Manifest, options: RestoreOptions) -> None:
    """Raise ConfigurationError when a restore would fail, or would silently take something along."""
    if preview.missing:
        raise ConfigurationError(
            f"backup {manifest.backup_id} cannot be restored on this server",
            detail="\n".join(["It lacks:", *preview.missing]),
            hint="Create the roles (see globals.sql in the backup) and install the extensions. Then restore again.",
        )
    needless = {"rename"} if options.into is not None else set[str]()
    needless |= {"setting"} if options.accept else set()
    rights = [right for right in preview.rights if right.kind not in needless]
    require_rights(preview.server.user, rights, swaps=options.into is None)
    _require_movable(preview, options)


def _require_movable(preview: RestorePreview, options: RestoreOptions) -> None:
    if options.into is not None:
        return
    if any("prepared transaction" in obstacle for obstacle in preview.obstacles):
        raise ConfigurationError(
            "the live database has prepared transactions",
            detail="\n".join([*preview.obstacles, "A database with a prepared transaction cannot be renamed."]),
            hint="End each with COMMIT PREPARED or ROLLBACK PREPARED, or restore elsewhere with --into=NAME.",
        )
    if preview.obstacles and not options.leave_behind:
        raise ConfigurationError(
            "the live database has objects that cannot follow the swap",
            detail="\n".join([*preview.obstacles, "They would stay with the old database, which gets a new name."]),
            hint="Drop them first, or add --leave-behind, or restore into another database with --into=NAME.",
        )


def restore(server: RestoreServer, database: str, archive: BackupArchive, options: RestoreOptions) -> events.Stream:
    """Restore an archive. The last event is Compared for a new database, Swapped for the live database.

    After an error, or when the stream is closed early, the live database is unchanged. A restored database whose rows
    are complete is kept after an error, and after a signal while the swap waits for sessions. It is dropped when the
    stream is closed early.
    """
    manifest = archive.manifest
    with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
        work = _Work(server, maintenance, manifest, options)
        if options.into is not None:
            place = database_into(server, maintenance, options.into, manifest.database)
            sentences = yield from work.fill(place, options.into, archive)
            work.require_equal(options.into, sentences)
            work.require_settings(options.into, work.apply_settings(options.into))
            maintenance.execute(comment_on(options.into, manifest.database.comment))
            return
        _begin(work, database)
        names = Names(database, restored=derive_name(database, "restore"), old=derive_name(database, "old"))
        with _dropped_when_interrupted(server, maintenance, names.restored):
            with closing(MigrationLock(server, database)) as lock:
                yield from work.lock(lock, database)
                place = new_database(server, maintenance, names.restored, manifest.database)
                sentences = yield from work.fill(place, names.restored, archive)
                record = KeptRecord("restored", database, manifest.backup_id, equal=not sentences)
                maintenance.execute(comment_on(names.restored, record.as_comment()))
                work.require_equal(names.restored, sentences)
            yield from work.finish(names)


def continue_restore(
    server: RestoreServer, database: str, manifest: Manifest, options: RestoreOptions
) -> events.Stream:
    """Repeat the last steps of a restore that kept its restored database: the settings, and the swap."""
    with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
        work = _Work(server, maintenance, manifest, options)
        _begin(work, database)
        restored, record = find_restored(maintenance, database, manifest.backup_id)
        if not record.equal and not options.accept:
            raise _differs(manifest, restored, ["Its rows differed from the manifest when it was restored."])
        names = Names(database, restored, old=derive_name(database, "old"))
        with closing(MigrationLock(server, database)) as lock:
            yield from work.lock(lock, database)
        yield from work.finish(names)


class _StoppedWaiting(Interrupted):
    """A signal while the swap waited for sessions: the restored database is complete, and kept."""


@contextmanager
def _dropped_when_interrupted(server: RestoreServer, maintenance: psycopg.Connection, restored: str) -> Iterator[None]:
    """Drop the restored database when the block is interrupted before the swap. After the swap its name is free."""
    try:
        yield
    except _StoppedWaiting:
        raise
    except (KeyboardInterrupt, GeneratorExit, Interrupted):
        drop_database(server, maintenance, restored)
        raise


def _begin(work: _Work, database: str) -> None:
    """Lock the database against other restores, and let it accept connections again after an interrupted swap."""
    if database == work.server.maintenance:
        raise ConfigurationError(
            f"the database {database} is the maintenance database and cannot be replaced",
            detail="A session cannot rename the database to which it is connected.",
            hint="Set pg_maintenance_dbname in the inventory to another database of the server, or use --into=NAME.",
        )
    take_lock(work.maintenance, database)
    allow_connections(work.maintenance, database)


@dataclass(frozen=True, slots=True)
class _Work:
    """The steps of a restore, on a maintenance session of its server."""

    server: RestoreServer
    maintenance: psycopg.Connection
    manifest: Manifest
    options: RestoreOptions

    def lock(self, lock: MigrationLock, database: str) -> events.Stream:
        """Wait for the migration lock, and check again what may have changed since the preview."""
        if fetch(self.maintenance, "database", name=database):
            yield from lock.acquire(self.options.wait)
            require_restorable(preview(self.server, database, self.manifest), self.manifest, self.options)

    def fill(
        self, place: AbstractContextManager[None], name: str, archive: BackupArchive
    ) -> Generator[events.Event, None, list[str]]:
        """Restore the archive into a database. Returns the differences from the manifest, in sentences."""
        manifest, started = self.manifest, time.monotonic()
        with place:
            self._execute(before_data(manifest.database, name, manifest.contents.roles))
            yield from load_archive(self.server, archive, PgRestoreOptions(name, self.options.jobs))
            yield events.Restored(name, elapsed_ms(started, time.monotonic()))
            yield events.BackupProgress("count")
            contents = read_contents(self.server, name)
        sentences = [*differences(manifest.contents, contents), *other_versions(manifest.contents, contents)]
        yield compared_event(manifest.contents, contents, sentences)
        return sentences

    def require_equal(self, name: str, sentences: Sequence[str]) -> None:
        if sentences and not self.options.accept:
            raise _differs(self.manifest, name, sentences)

    def apply_settings(self, name: str) -> list[str]:
        """Give the restored database the properties of the database in the backup. Returns the statements refused."""
        database, roles = self.manifest.database, self.manifest.contents.roles
        self._execute(after_data(database, name, roles))
        restored, _ = read_database(self.maintenance, name)
        return [f"{each.as_string(self.maintenance)};" for each in lacking(database, restored, name, roles)]

    def require_settings(self, name: str, refused: Sequence[str]) -> None:
        if refused and not self.options.accept:
            raise BackupFailed(
                "the server refused settings of the restored database",
                detail="\n".join([*refused, f'It is in the database "{name}"; nothing else was changed.']),
                hint="Run these statements as a role that may. "
                + (CONTINUE if self.options.into is None else "Nothing else is missing."),
            )

    def finish(self, names: Names) -> events.Stream:
        """Apply the settings, and give the restored database the live name."""
        self.require_settings(names.restored, self.apply_settings(names.restored))
        comment = self.manifest.database.comment
        if not fetch(self.maintenance, "database", name=names.live):
            take_free_name(self.maintenance, names, comment)
            yield events.Swapped(names.live, None)
            return
        is_waiting = False
        try:
            for event in await_sessions(self.maintenance, names.live, self.options.wait):
                is_waiting = True
                yield event
        except KeyboardInterrupt as signal:
            if not is_waiting:
                raise
            detail = f'The restored database is complete and kept as "{names.restored}"; the live one was not changed.'
            raise _StoppedWaiting(signal, detail=detail, hint=CONTINUE) from None
        live, _ = read_database(self.maintenance, names.live)
        old = KeptRecord("old", names.live, self.manifest.backup_id, comment=live.comment)
        swap(self.server, self.maintenance, names, NewComments(comment, old.as_comment()), self.options.wait)
        yield events.Swapped(names.live, names.old)

    def _execute(self, statements: Sequence[sql.Composed]) -> None:
        """Run statements. What is refused is found afterwards, by what the restored database lacks."""
        for statement in statements:
            with suppress(psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError):
                self.maintenance.execute(statement)


def _differs(manifest: Manifest, name: str, sentences: Sequence[str]) -> BackupFailed:
    return BackupFailed(
        f"the restored database differs from the manifest of backup {manifest.backup_id}",
        detail="\n".join([*sentences[:20], f'It is in the database "{name}"; nothing else was changed.']),
        hint="Look at the restored database. "
        "`invoke restore --continue --accept-differences` swaps it in spite of them.",
    )
