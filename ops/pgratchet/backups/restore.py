"""Restoring: a backup into a fresh database, compared with its manifest, and swapped in under the live one's name.

Owns the order of a restore and what is done when it fails: nothing is ever restored over a live database. Refuses to
know stores and terminals: it is given an archive that was read back whole, and yields events.

What it rests on, measured (facts 2h): pg_restore over a live database stops half-way and leaves a mix; settings,
privileges and owner belong to the database's oid and not to its name, so they stay with the old one; two names change
hands in one transaction, so that a crash leaves both or neither; a slot stays with the old database, and DROP
DATABASE takes an inactive one along without a word; roles that are missing fail the restore half-way.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups import pg_programs
from pgratchet.backups import snapshot as contents
from pgratchet.backups.manifest import Contents, Manifest, differences, other_versions
from pgratchet.backups.pg_programs import PgRestoreOptions, Programs
from pgratchet.backups.restore_server import (
    RestoreServer,
    _refuse_own,
    _rows,
    derived_name,
    missing,
    new_database,
    translated,
)
from pgratchet.backups.swap import _TICK, _admit, _Swap, _swap, _take_lock
from pgratchet.database import connection as sessions
from pgratchet.database.session import Session
from pgratchet.errors import (
    BackupFailed,
    ConfigurationError,
)


@dataclass(frozen=True, slots=True)
class BackupArchive:
    """What is restored: an archive that was read back whole, as a path or a stream, and the programs for it."""

    manifest: Manifest
    source: Path | Iterator[bytes]
    programs: Programs


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How it is to be done. With `into`, beside the live database and without a swap. `leave_behind` lets slots
    and subscriptions stay with the old one; `accept` swaps in spite of differences."""

    into: str | None = None
    jobs: int = 1
    leave_behind: bool = False
    accept: bool = False
    wait: int = 30_000


@dataclass(frozen=True, slots=True)
class RestorePreview:
    """What a restore would meet and undo. `lost` are migrations that were applied since; `obstacles` stay with the old
    database; `missing` are roles and extensions that the server does not have."""

    exists: bool
    server: sessions.Server
    lost: tuple[str, ...]
    obstacles: tuple[str, ...]
    missing: tuple[str, ...]
    encrypted: bool


def preview(site: RestoreServer, database: str, made: Manifest) -> RestorePreview:
    """Look, without changing anything."""
    with translated(), closing(site.connect(site.maintenance)) as maintenance:
        server = sessions.inspect(maintenance)
        sessions.refuse_other_cluster(server, site.pinned_identifier)
        sessions.refuse_pooled(server, "nothing can be restored")
        found = _rows(maintenance, "database", name=database)
        obstacles = [f"The {kind} {name}." for kind, name in _rows(maintenance, "obstacles", name=database)]
        roles, extensions = missing(maintenance, made)
        encrypted = maintenance.pgconn.ssl_in_use
    lacks = [f"The role {name}." for name in roles] + [f"The extension {name}." for name in extensions]
    lost: list[str] = []
    if found and found[0][1]:
        with translated(), closing(site.connect(database)) as live:
            applied = [record.name for record in site.history.read(live) if record.executed_at]
            lost = [name for name in applied if name not in made.contents.history]
    return RestorePreview(bool(found), server, tuple(lost), tuple(obstacles), tuple(lacks), encrypted)


def require_restorable(outlook: RestorePreview, made: Manifest, wishes: RestoreOptions) -> None:
    """Raise where a restore would fail, or take something along in silence; before anything is changed."""
    if outlook.missing:
        raise ConfigurationError(
            f"backup {made.backup_id} cannot be restored on this server",
            detail="\n".join(["It lacks:", *outlook.missing]),
            hint="Make the roles, as globals.sql in the backup has them, and install the extensions; then run again.",
        )
    if any("prepared transaction" in each for each in outlook.obstacles) and wishes.into is None:
        raise ConfigurationError(
            "the live database has prepared transactions",
            detail="\n".join([*outlook.obstacles, "A database that has one cannot be renamed."]),
            hint="End each with COMMIT PREPARED or ROLLBACK PREPARED; or restore beside it with --into=NAME.",
        )
    if outlook.obstacles and not wishes.leave_behind and wishes.into is None:
        raise ConfigurationError(
            "the live database has what a swap would leave behind",
            detail="\n".join([*outlook.obstacles, "They stay with the old database, under its new name."]),
            hint="End them first, or give --leave-behind; or restore beside it with --into=NAME.",
        )


def restore(
    site: RestoreServer, database: str, archived: BackupArchive, wishes: RestoreOptions
) -> Generator[events.Event, None, None]:
    """Restore an archive; yields events, the last of them Compared or Swapped.

    Whatever fails leaves the live database as it was, under its name. What was restored and does not compare stays,
    for a person to look at; anything else that was begun is dropped.
    """
    with translated(), closing(site.connect(site.maintenance)) as maintenance:
        if wishes.into is not None:
            yield from _fill(site, maintenance, wishes.into, archived, wishes)
            return
        _refuse_own(site, database)
        _take_lock(maintenance, database)
        _admit(maintenance, database)
        restored = derived_name(database, "restore")
        if not _rows(maintenance, "database", name=database):
            yield from _fill(site, maintenance, restored, archived, wishes)
            rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            maintenance.execute(rename.format(sql.Identifier(restored), sql.Identifier(database)))
            yield events.Swapped(database, None)
            return
        session = Session(lambda: site.connect(database), site.history, wishes.wait, 3_000, site.pinned_identifier)
        with closing(session):
            session.open()
            yield from session.lock()
            require_restorable(preview(site, database, archived.manifest), archived.manifest, wishes)
            yield from _fill(site, maintenance, restored, archived, wishes)
        kept = derived_name(database, "old")
        _swap(site, maintenance, _Swap(database, restored, kept), wishes.wait)
        yield events.Swapped(database, kept)


def _fill(
    site: RestoreServer, maintenance: psycopg.Connection, name: str, archived: BackupArchive, wishes: RestoreOptions
) -> Generator[events.Event, None, None]:
    """A new database that holds what the archive holds, compared, with what belongs to the database itself."""
    made, started = archived.manifest, time.monotonic()
    with new_database(site, maintenance, name, made.database):
        yield from pour(site, archived, PgRestoreOptions(name, wishes.jobs))
        yield events.Restored(name, round((time.monotonic() - started) * 1000))
        held = measure(site, name)
        for statement in contents.reapply(made.database, name, made.contents.roles):
            maintenance.execute(statement)
    told = (*differences(made.contents, held), *other_versions(made.contents, held))
    yield events.Compared(len(held.tables), held.rows, told)
    if told and not wishes.accept:
        raise BackupFailed(
            f"what was restored is not what backup {made.backup_id} says",
            detail="\n".join([*told[:20], f'It is in the database "{name}"; nothing else was changed.']),
            hint="Look at it there. To go on in spite of that, give --accept-differences.",
        )


def pour(site: RestoreServer, archived: BackupArchive, given: PgRestoreOptions) -> Generator[events.Event, None, None]:
    """Restore an archive into an empty database."""
    expected = archived.manifest.contents
    rows = {table.replace('"', ""): count for table, count in expected.tables.items()}
    shown = 0.0
    with site.client_environment() as environ:
        for begun in pg_programs.restore(archived.programs, environ, given, archived.source):
            if time.monotonic() - shown > _TICK:
                shown = time.monotonic()
                done = sum(rows.get(table.replace('"', ""), 0) for table in begun[: -given.jobs])
                yield events.BackupProgress("restore", done, expected.rows)
    with closing(site.connect(given.database)) as connection:
        connection.execute("ANALYZE")  # an archive holds no statistics before 18, and a plan without them is a bad one


def measure(site: RestoreServer, name: str) -> Contents:
    """What a database of the site holds."""
    with contents.snapshot(lambda: site.connect(name)) as snapshot:
        return snapshot.contents(site.history)
