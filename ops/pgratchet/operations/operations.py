"""What is done where a database is reached: each job a value that can travel, and the work behind it.

Owns what a job needs to be told, and the order of the rooms it calls. Refuses to know on which machine it runs, and
how its events and its result come back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pgratchet.errors import HistoryDisagrees
from pgratchet.migrations.files import Migration
from pgratchet.migrations.plan import HistoryRow
from pgratchet.operations import wiring

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.backups.restore import RestorePreview
    from pgratchet.backups.store import Store
    from pgratchet.checks.doctor import Finding
    from pgratchet.database.target import Target
    from pgratchet.events import Event

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that a job runs on. `root` is where backups lie; where they are kept on another one, `hand_over`
    returns once that one has the backup of that id, whole, and raises where it does not come to that."""

    root: Path
    hand_over: Callable[[str], None] | None = None


class Operation(Protocol[T_co]):
    """`run` yields what happens, and returns what the job was for."""

    def run(self, given: Target, place: Machine) -> Generator[Event, None, T_co]: ...


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read the history. Where migrations are to run, `fit` asks that they may."""

    fit: bool = False

    def run(self, given: Target, _: Machine) -> Generator[Event, None, tuple[HistoryRow, ...]]:
        from pgratchet.apply import applier

        yield from ()
        ledger = wiring.ledger(given)
        if self.fit:
            pinned = given.variables.pg_system_identifier
            return tuple(applier.read_history(functools.partial(wiring.connect, given), ledger, pinned))
        with wiring.connected(given) as connection:
            return tuple(ledger.read(connection))


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """Read the texts that ran, of some migrations."""

    names: tuple[str, ...]

    def run(self, given: Target, _: Machine) -> Generator[Event, None, dict[str, str]]:
        yield from ()
        with wiring.connected(given) as connection:
            return wiring.ledger(given).bodies(connection, self.names)


@dataclass(frozen=True, slots=True)
class TransferredMigration(Migration):
    """A migration that has come over a line, with its text where it was pending when it was sent."""

    body: bytes | None = None

    def text(self) -> bytes:
        if self.body is None:
            raise HistoryDisagrees(
                f"the history lost {self.name} since it was read",
                detail="It was applied a moment ago, and now it is pending.",
                hint="Run `invoke status` to see what is there now.",
            )
        return self.body


@dataclass(frozen=True, slots=True)
class Migrate:
    """Apply what is pending of the files."""

    run_id: str
    files: tuple[TransferredMigration, ...]
    to: str | None = None
    waiver: str | None = None

    def run(self, given: Target, place: Machine) -> Generator[Event, None, None]:
        yield from migrate(given, place, self.files, self.run_id, self.to, self.waiver)


def migrate(
    given: Target, place: Machine, files: Sequence[Migration], run_id: str, to: str | None, waiver: str | None
) -> Generator[Event, None, None]:
    """Apply what is pending of the files, which are here; the first event is Planned."""
    from pgratchet.apply import applier

    take = functools.partial(_taken, given, place) if wiring.needs_backup(given, waiver) else None
    connect, options = functools.partial(wiring.connect, given), wiring.options(given, run_id, to, waiver)
    yield from applier.migrate(connect, wiring.ledger(given), files, take, options)


def _taken(
    given: Target, place: Machine, connection: Connection, *_: Any, **wishes: Any
) -> Generator[Event, None, str]:
    """A backup, kept here or handed over; what the target's retention lets go is deleted where it is kept."""
    kept = _kept(given, place)
    backup_id = yield from wiring.take_backup(given, kept, connection, **wishes)
    if given.variables.backup_command:
        return backup_id
    if place.hand_over:
        place.hand_over(backup_id)
        kept.remove(backup_id)
    else:
        yield from wiring.prune(given.variables, kept)
    return backup_id


@dataclass(frozen=True, slots=True)
class TakeBackup:
    """Take a backup."""

    label: str | None = None
    keep: bool = False

    def run(self, given: Target, place: Machine) -> Generator[Event, None, None]:
        with wiring.connected(given) as connection:
            yield from _taken(given, place, connection, label=self.label, keep=self.keep)


@dataclass(frozen=True, slots=True)
class PreviewRestore:
    """See what a restore of the backup with that manifest would meet and undo, and that it can be done from here."""

    manifest: str

    def run(self, given: Target, _: Machine) -> Generator[Event, None, RestorePreview]:
        from pgratchet.backups import manifest, restore

        yield from ()
        made = manifest.loads(self.manifest.encode())
        outlook = restore.preview(wiring.site(given), given.connection["dbname"], made)
        wiring.programs_for(outlook.server.version, tls=outlook.encrypted, reads=made.client_version)
        return outlook


@dataclass(frozen=True, slots=True)
class Restore:
    """Read a backup that is kept here back whole, restore it, and swap it in, or put it beside the live database."""

    backup_id: str
    into: str | None = None
    leave_behind: bool = False
    accept: bool = False

    def run(self, given: Target, place: Machine) -> Generator[Event, None, None]:
        from pgratchet.backups import listing, restore, verification

        site, database, kept = wiring.site(given), given.connection["dbname"], _kept(given, place)
        wishes = wiring.wishes(given.variables, self.into, leave_behind=self.leave_behind, accept=self.accept)
        listed = listing.inspect_backup(kept, self.backup_id)
        made = listing.require_manifest(listed)
        outlook = restore.preview(site, database, made)
        restore.require_restorable(outlook, made, wishes)
        programs = wiring.programs_for(outlook.server.version, tls=outlook.encrypted, reads=made.client_version)
        identity = wiring.identity(given.variables)
        source = verification.open_content(made, kept, identity)
        yield from verification.verify(listed, kept, programs, identity)
        yield from restore.restore(site, database, restore.BackupArchive(made, source, programs), wishes)


@dataclass(frozen=True, slots=True)
class VerifyBackup:
    """Read a backup that is kept here back whole."""

    backup_id: str

    def run(self, given: Target, place: Machine) -> Generator[Event, None, None]:
        from pgratchet.backups import listing, verification

        kept = _kept(given, place)
        listed = listing.inspect_backup(kept, self.backup_id)
        programs = wiring.programs_for(None, reads=listing.require_manifest(listed).client_version)
        yield from verification.verify(listed, kept, programs, wiring.identity(given.variables))


@dataclass(frozen=True, slots=True)
class ListKeptDatabases:
    """The databases that restores have left beside the live one."""

    def run(self, given: Target, _: Machine) -> Generator[Event, None, tuple[str, ...]]:
        from pgratchet.backups import restore_server

        yield from ()
        return tuple(restore_server.kept_databases(wiring.site(given), given.connection["dbname"]))


@dataclass(frozen=True, slots=True)
class DropKeptDatabases:
    """Drop some of those."""

    names: tuple[str, ...]

    def run(self, given: Target, _: Machine) -> Generator[Event, None, None]:
        from pgratchet.backups import restore_server

        yield from ()
        restore_server.drop_databases(wiring.site(given), given.connection["dbname"], self.names)


@dataclass(frozen=True, slots=True)
class SettleRun:
    """The rows of a run among some names, once no run is under way: what is true of one that was not heard out."""

    run_id: str
    names: tuple[str, ...]

    def run(self, given: Target, _: Machine) -> Generator[Event, None, tuple[HistoryRow, ...]]:
        from pgratchet.database.connection import translate_errors
        from pgratchet.database.session import Session

        variables, ledger = given.variables, wiring.ledger(given)
        connect, pinned = functools.partial(wiring.connect, given), variables.pg_system_identifier
        with translate_errors(), closing(Session(connect, ledger, variables.migration_timeout, 0, pinned)) as session:
            session.open()
            yield from session.lock()
            return tuple(ledger.read_run(session.connection, self.run_id, self.names))


@dataclass(frozen=True, slots=True)
class Examine:
    """See what stands in the way of a migration, on the server and on the machine that reaches it."""

    extensions: tuple[str, ...] = ()

    def run(self, given: Target, place: Machine) -> Generator[Event, None, tuple[Finding, ...]]:
        from pgratchet.checks import doctor

        yield from ()
        variables = given.variables
        dumps = variables.backup_policy != "never" and not variables.backup_command
        asked = doctor.DoctorOptions(wiring.ledger(given), variables.pg_system_identifier, dumps, self.extensions)
        with closing(wiring.connect(given)) as connection:
            found = list(doctor.server(connection, asked))
            here = list(_this_machine(given, place, connection)) if dumps and not connection.closed else []
        return (*found, *here)


def _this_machine(given: Target, place: Machine, connection: Connection) -> Iterator[Finding]:
    """What a backup needs here: programs, and room."""
    from pgratchet.backups import backup
    from pgratchet.checks import doctor
    from pgratchet.database.connection import database_size, translate_errors

    version, tls = connection.info.server_version, connection.pgconn.ssl_in_use
    found: list[doctor.Finding] = []
    with doctor.collecting(found, "pg_dump"):
        chosen = wiring.programs_for(version, tls=tls)
        found.append(doctor.program(chosen.version, chosen.folder, version, tls=tls, packaged=wiring.packaged()))
    with doctor.collecting(found, "room"):
        if not given.variables.backup_store:
            found += doctor.writable(place.root / given.variables.backup_dir)
        kept = _kept(given, place)
        with translate_errors():
            size = database_size(connection)
        found.append(doctor.room(kept.where, kept.room(), backup.expected_size(kept, size), size))
    yield from found


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """What lies below the name of a backup: each file's size in bytes and the mark of when it was written, as text."""

    files: Mapping[str, tuple[str, ...]]
    manifest: str | None


@dataclass(frozen=True, slots=True)
class BackupListing:
    """What a folder of backups holds: `notes` are those beside them."""

    where: str
    backups: Mapping[str, StoredFiles]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListBackups:
    """See what backups are kept here."""

    def run(self, given: Target, place: Machine) -> Generator[Event, None, BackupListing]:
        yield from ()
        kept = _kept(given, place)
        found = {backup_id: _files(kept, backup_id) for backup_id in kept.ids()}
        return BackupListing(kept.where, found, tuple(note.decode(errors="replace") for note in kept.notes()))


def _files(kept: Store, backup_id: str) -> StoredFiles:
    from pgratchet.backups import manifest

    folder = kept.folder(backup_id)
    assert folder is not None
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    found = {name: (str(stat.size), stat.stamp) for name in names if (stat := kept.stat(backup_id, name))}
    text = b"".join(kept.read(backup_id, manifest.NAME)) if manifest.NAME in found else None
    return StoredFiles(found, None if text is None else text.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class WriteNote:
    """Write something down beside the backups."""

    name: str
    text: str

    def run(self, given: Target, place: Machine) -> Generator[Event, None, None]:
        yield from ()
        _kept(given, place).note(self.name, self.text.encode())


def _kept(given: Target, place: Machine) -> Store:
    return wiring.backups(given.environment, given.target, given.variables, place.root)


ALL: dict[str, type[Operation[Any]]] = {
    kind.__name__: kind
    for kind in (
        ReadHistory,
        ReadTexts,
        Migrate,
        TakeBackup,
        PreviewRestore,
        Restore,
        VerifyBackup,
        ListKeptDatabases,
        DropKeptDatabases,
        SettleRun,
        Examine,
        ListBackups,
        WriteNote,
    )
}
"""The jobs by name, as they travel."""
