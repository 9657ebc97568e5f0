"""Restores a backup into a new database, compares with the manifest, and swaps the new database with the live one.

Nothing is restored over a live database, where a failing pg_restore would leave a mix of old and new rows.
Replication slots and subscriptions belong to a database's oid, so they stay with the old database after a swap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups import pg_programs
from pgratchet.backups.database_settings import restore_settings
from pgratchet.backups.kept_databases import derive_name
from pgratchet.backups.manifest import Contents, Manifest, differences, other_versions
from pgratchet.backups.pg_programs import PgRestoreOptions, Programs
from pgratchet.backups.restore_server import (
    RestoreServer,
    fetch,
    find_missing,
    new_database,
    take_lock,
    translate_errors,
)
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.backups.swap import Names, allow_connections, swap
from pgratchet.backups.throttle import Throttle
from pgratchet.database import inspection
from pgratchet.database.session import Session
from pgratchet.errors import BackupFailed, ConfigurationError
from pgratchet.formatting import elapsed_ms


@dataclass(frozen=True, slots=True)
class BackupArchive:
    """A verified backup to restore: manifest, archive as a path or as chunks, and programs to read the archive."""

    manifest: Manifest
    content: Path | Iterator[bytes]
    programs: Programs


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """Options of a restore.

    `into` names a new database to restore into, beside the live database; nothing is then swapped. `leave_behind` lets
    slots and subscriptions stay with the old database. `accept` swaps in spite of differences from the manifest. `wait`
    is how long to wait for the migration lock, in milliseconds.
    """

    into: str | None = None
    jobs: int = 1
    leave_behind: bool = False
    accept: bool = False
    wait: int = 30_000


@dataclass(frozen=True, slots=True)
class RestorePreview:
    """The consequences of a restore.

    `lost` are the migrations applied since the backup. `obstacles` are sentences about objects staying with the old
    database, `missing` sentences about roles and extensions missing on the server. `encrypted` tells whether the
    connection uses TLS.
    """

    exists: bool
    server: inspection.Server
    lost: tuple[str, ...]
    obstacles: tuple[str, ...]
    missing: tuple[str, ...]
    encrypted: bool


def preview(server: RestoreServer, database: str, manifest: Manifest) -> RestorePreview:
    """Find the consequences of a restore, without changing anything. Raises ConfigurationError for another cluster."""
    with translate_errors(), closing(server.connect(server.maintenance)) as maintenance:
        identity = inspection.inspect(maintenance)
        inspection.refuse_other_cluster(identity, server.pinned_identifier)
        inspection.refuse_pooled(identity, "nothing can be restored")
        rows = fetch(maintenance, "database", name=database)
        obstacles = [f"The {kind} {name}." for kind, name in fetch(maintenance, "obstacles", name=database)]
        roles, extensions = find_missing(maintenance, manifest)
        encrypted = maintenance.pgconn.ssl_in_use
    absent = [f"The role {name}." for name in roles] + [f"The extension {name}." for name in extensions]
    lost: list[str] = []
    if rows and rows[0][1]:
        with translate_errors(), closing(server.connect(database)) as live:
            applied = [row.name for row in server.history.read(live) if row.executed_at]
            lost = [name for name in applied if name not in manifest.contents.history]
    return RestorePreview(bool(rows), identity, tuple(lost), tuple(obstacles), tuple(absent), encrypted)


def require_restorable(preview: RestorePreview, manifest: Manifest, options: RestoreOptions) -> None:
    """Raise ConfigurationError when a restore would fail, or would silently take something along."""
    if preview.missing:
        raise ConfigurationError(
            f"backup {manifest.backup_id} cannot be restored on this server",
            detail="\n".join(["It lacks:", *preview.missing]),
            hint="Make the roles, as globals.sql in the backup has them, and install the extensions; then run again.",
        )
    if any("prepared transaction" in obstacle for obstacle in preview.obstacles) and options.into is None:
        raise ConfigurationError(
            "the live database has prepared transactions",
            detail="\n".join([*preview.obstacles, "A database that has one cannot be renamed."]),
            hint="End each with COMMIT PREPARED or ROLLBACK PREPARED; or restore beside it with --into=NAME.",
        )
    if preview.obstacles and not options.leave_behind and options.into is None:
        raise ConfigurationError(
            "the live database has what a swap would leave behind",
            detail="\n".join([*preview.obstacles, "They stay with the old database, under its new name."]),
            hint="End them first, or give --leave-behind; or restore beside it with --into=NAME.",
        )


def restore(server: RestoreServer, database: str, archive: BackupArchive, options: RestoreOptions) -> events.Stream:
    """Restore an archive. The last event is Compared for a new database, Swapped for the live database.

    After an error, or when the stream is closed early, the live database is unchanged. A restored database is kept for
    inspection if different from the manifest, and otherwise dropped.
    """
    with translate_errors(), closing(server.connect(server.maintenance)) as maintenance:
        if options.into is not None:
            yield from _fill(server, maintenance, options.into, archive, options)
            return
        _require_other_database(server, database)
        take_lock(maintenance, database)
        allow_connections(maintenance, database)
        restored = derive_name(database, "restore")
        if not fetch(maintenance, "database", name=database):
            yield from _fill(server, maintenance, restored, archive, options)
            rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            maintenance.execute(rename.format(sql.Identifier(restored), sql.Identifier(database)))
            yield events.Swapped(database, None)
            return
        session = Session(
            lambda: server.connect(database), server.history, options.wait, 3_000, server.pinned_identifier
        )
        with closing(session):
            session.open()
            yield from session.lock()
            require_restorable(preview(server, database, archive.manifest), archive.manifest, options)
            yield from _fill(server, maintenance, restored, archive, options)
        names = Names(database, restored, old=derive_name(database, "old"))
        swap(server, maintenance, names, options.wait)
        yield events.Swapped(database, names.old)


def _require_other_database(server: RestoreServer, database: str) -> None:
    if database == server.maintenance:
        raise ConfigurationError(
            f"the database {database} cannot be swapped from within itself",
            detail="It is the maintenance database, and no session can rename the database that it is in.",
            hint="Name another of the server's as pg_maintenance_dbname in the inventory, or give --into=NAME.",
        )


def _fill(
    server: RestoreServer, maintenance: psycopg.Connection, name: str, archive: BackupArchive, options: RestoreOptions
) -> events.Stream:
    """Create a database, restore the archive and the database's settings, and compare with the manifest."""
    manifest, started = archive.manifest, time.monotonic()
    with new_database(server, maintenance, name, manifest.database):
        yield from load_archive(server, archive, PgRestoreOptions(name, options.jobs))
        yield events.Restored(name, elapsed_ms(started, time.monotonic()))
        contents = read_contents(server, name)
        for statement in restore_settings(manifest.database, name, manifest.contents.roles):
            maintenance.execute(statement)
    sentences = (*differences(manifest.contents, contents), *other_versions(manifest.contents, contents))
    yield events.Compared(len(contents.tables), contents.rows, sentences)
    if sentences and not options.accept:
        raise BackupFailed(
            f"what was restored is not what backup {manifest.backup_id} says",
            detail="\n".join([*sentences[:20], f'It is in the database "{name}"; nothing else was changed.']),
            hint="Look at it there. To go on in spite of that, give --accept-differences.",
        )


def load_archive(server: RestoreServer, archive: BackupArchive, options: PgRestoreOptions) -> events.Stream:
    """Restore an archive into an empty database, and analyze the database."""
    contents, throttle = archive.manifest.contents, Throttle()
    rows = {table.replace('"', ""): count for table, count in contents.tables.items()}
    with server.client_environment() as environ:
        for tables in pg_programs.restore(archive.programs, environ, options, archive.content):
            if throttle.is_due():
                count = sum(rows.get(table.replace('"', ""), 0) for table in tables[: -options.jobs])
                yield events.BackupProgress("restore", count, contents.rows)
    with closing(server.connect(options.database)) as connection:
        connection.execute("ANALYZE")  # archives contain no statistics before 18, and queries need them for good plans


def read_contents(server: RestoreServer, name: str) -> Contents:
    """Read the contents of a database of the server."""
    with open_snapshot(lambda: server.connect(name)) as snapshot:
        return snapshot.read_contents(server.history)
