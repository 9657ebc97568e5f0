"""Rehearses migrations on a backup: on this machine, or on the target's own host."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgratchet.backups.manifest import Setting
from pgratchet.database.history import History
from pgratchet.database.target import Target, TargetStorage
from pgratchet.errors import ConfigurationError
from pgratchet.migrations.files import Migration
from pgratchet.operations.base import Machine
from pgratchet.operations.migrate import TransferredMigration

if TYPE_CHECKING:
    from pathlib import Path

    from pgratchet.apply.run import MigrateOptions
    from pgratchet.backups.loading import BackupArchive
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.pg_programs import Programs
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.backups.store import Store
    from pgratchet.events import Event
    from pgratchet.rehearsal.report import Report
    from pgratchet.variables import RehearsalVariables

    RehearsalStream = Generator[Event, None, Report | None]

_SETTINGS = {"autovacuum": 0, "max_wal_size": 8192}
"""No other work on the server while statements are timed: max_wal_size, in megabytes, keeps checkpoints away."""


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The major version of a live server, the settings of its database, and the applied migrations with checksums."""

    major: int
    settings: tuple[Setting, ...]
    history: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReadDatabaseState:
    """Read the state of the live database for the verdict about a rehearsal."""

    def run(self, target: Target, machine: Machine) -> DatabaseState:
        from pgratchet.backups.snapshot import read_database
        from pgratchet.database.replication import read_own_rows

        with target.connected() as connection:
            database, _ = read_database(connection, target.connection["dbname"])
            rows, _ = read_own_rows(connection, target.history, target.identity)
            history = {row.name: row.checksum for row in rows if row.executed_at is not None}
            return DatabaseState(connection.info.server_version // 10_000, tuple(database.settings), history)


@dataclass(frozen=True, slots=True)
class EarlierDuration:
    """How long a migration took in an earlier rehearsal, in milliseconds."""

    name: str
    checksum: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Rehearse:
    """Rehearse the pending migrations on a backup. The result is the report, or None when nothing is pending.

    Durations are in milliseconds. `run` works on the target's own host, with the server programs installed there and
    with `files`: the rows stay there, and only the report comes back.
    """

    backup_id: str
    to: str | None
    history_schema: str
    history_table: str
    wait: int
    lock_timeout: int
    batch_size: int
    jobs: int
    earlier: tuple[EarlierDuration, ...] = ()
    files: tuple[TransferredMigration, ...] = ()

    def run(self, target: TargetStorage, machine: Machine) -> RehearsalStream:
        from pgratchet.backups.listing import inspect_backup, require_manifest

        store = machine.backup_store(target)
        manifest = require_manifest(inspect_backup(store, self.backup_id))
        with _host_server(self.history, manifest) as (server, programs):
            archive = _archive(manifest, store, target.variables.identity_file, programs)
            return (yield from self._rehearse(server, archive, self.files, is_own_server=True))

    def run_here(
        self,
        files: Sequence[Migration],
        manifest: Manifest,
        store: Store,
        identity: Path | None,
        scratch: Target | None,
        *,
        same_server: bool,
    ) -> RehearsalStream:
        """Run on the server of `scratch`, or on a bundled server.

        Without `same_server`, the backup's own server is refused.
        """
        with _scratch_server(scratch, self.history, manifest, same_server=same_server) as (server, programs):
            archive = _archive(manifest, store, identity, programs)
            return (yield from self._rehearse(server, archive, files, is_own_server=scratch is None))

    @property
    def history(self) -> History:
        return History(self.history_schema, self.history_table)

    def _rehearse(
        self, server: RestoreServer, archive: BackupArchive, files: Sequence[Migration], *, is_own_server: bool
    ) -> RehearsalStream:
        from pgratchet.rehearsal.rehearse import Rehearsal

        earlier = {(each.name, each.checksum): each.duration_ms for each in self.earlier}
        rehearsal = Rehearsal(server, archive, files, self._options(), self.jobs, is_own_server, earlier)
        return (yield from rehearsal.run())

    def _options(self) -> MigrateOptions:
        from pgratchet.apply.run import MigrateOptions

        return MigrateOptions(
            "rehearsal",
            to=self.to,
            wait=self.wait,
            lock_timeout=self.lock_timeout,
            statement_timeout=self.wait,
            batch_size=self.batch_size,
        )


def _archive(manifest: Manifest, store: Store, identity: Path | None, programs: Programs) -> BackupArchive:
    from pgratchet.backups import verification
    from pgratchet.backups.loading import BackupArchive

    return BackupArchive(manifest, verification.open_content(manifest, store, identity), programs)


def rehearse_request(manifest: Manifest, variables: RehearsalVariables, to: str | None, store: Store) -> Rehearse:
    """The rehearsal of a backup as the inventory says."""
    from pgratchet.rehearsal.records import read_records, rehearsed_durations

    durations = rehearsed_durations(read_records(store))
    return Rehearse(
        manifest.backup_id,
        to,
        variables.history_schema,
        variables.history_table,
        variables.migration_timeout,
        variables.lock_timeout,
        variables.migration_batch_size,
        variables.backup_jobs,
        tuple(EarlierDuration(*key, duration) for key, duration in durations.items()),
    )


@contextmanager
def _host_server(history: History, manifest: Manifest) -> Iterator[tuple[RestoreServer, Programs]]:
    """A scratch server of the backup's major version, of this machine's own programs, on a socket alone."""
    from pgratchet.backups.pg_programs import find_programs, find_server_folder
    from pgratchet.backups.restore_server import bundled_server
    from pgratchet.rehearsal.rehearse import require_room

    require_room(manifest)
    folder = find_server_folder(manifest.server_version // 10_000)
    programs = find_programs(manifest.server_version, archive_version=manifest.client_version)
    tables, owner = len(manifest.contents.tables), manifest.database.owner
    with bundled_server(history, tables, owner, _SETTINGS, folder) as server:
        yield server, programs


@contextmanager
def _scratch_server(
    scratch: Target | None, history: History, manifest: Manifest, *, same_server: bool
) -> Iterator[tuple[RestoreServer, Programs]]:
    from pgratchet.operations.drill import bundled_scratch_server
    from pgratchet.rehearsal.rehearse import require_room

    if scratch is None:
        require_room(manifest)
        with bundled_scratch_server(history, manifest, manifest.database.owner, _SETTINGS) as bundled:
            yield bundled
    else:
        yield _server_of(scratch, history, manifest, same_server=same_server)


def _server_of(
    scratch: Target, history: History, manifest: Manifest, *, same_server: bool
) -> tuple[RestoreServer, Programs]:
    from pgratchet.backups.pg_programs import find_programs
    from pgratchet.database.inspection import inspect
    from pgratchet.operations.drill import require_major
    from pgratchet.operations.restore import restore_server

    server = replace(restore_server(scratch), history=history)
    with closing(server.open_session(server.maintenance)) as connection:
        version, tls = connection.info.server_version, connection.pgconn.ssl_in_use
        if not same_server and inspect(connection).system_identifier == manifest.system_identifier:
            raise _own_server(scratch, manifest)
    require_major(version // 10_000, manifest, "the server of the rehearsal with PostgreSQL")
    return server, find_programs(version, tls=tls, archive_version=manifest.client_version)


def _own_server(scratch: Target, manifest: Manifest) -> ConfigurationError:
    return ConfigurationError(
        f"{scratch.environment} is on the server that backup {manifest.backup_id} was taken on",
        detail="A rehearsal there competes with the live database for memory and disks, and its roles are the live "
        "ones.",
        hint="Name another environment with --on=NAME, or leave --on out for the bundled server. With --yes it runs "
        "there.",
    )
