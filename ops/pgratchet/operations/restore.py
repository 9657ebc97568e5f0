"""Restores a backup, and lists and drops the databases that earlier restores kept."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.backups.restore import RestorePreview
from pgratchet.database.target import Target
from pgratchet.errors import RatchetError
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from pgratchet.backups.restore import RestoreOptions
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.events import Stream
    from pgratchet.variables import Variables


@dataclass(frozen=True, slots=True)
class PreviewRestore:
    """Find out what a restore of the backup with this manifest meets and undoes, and that programs for it exist."""

    manifest: str
    into: str | None = None

    def run(self, target: Target, machine: Machine) -> RestorePreview:
        from pgratchet.backups import manifest, restore
        from pgratchet.backups.pg_programs import find_programs

        _require_own_database(target)
        backup = manifest.loads(self.manifest.encode())
        preview = restore.preview(restore_server(target), target.connection["dbname"], backup, self.into)
        find_programs(preview.server.version, tls=preview.encrypted, archive_version=backup.client_version)
        return preview


@dataclass(frozen=True, slots=True)
class Restore:
    """Verify a backup and restore it: in the place of the live database, or with `into` beside it.

    With `only_last_steps`, a restored database that an earlier restore kept takes the place of the live one.
    """

    backup_id: str
    into: str | None = None
    leave_behind: bool = False
    accept_differences: bool = False
    only_last_steps: bool = False

    def run(self, target: Target, machine: Machine) -> Stream:
        from pgratchet.backups import listing, restore, verification
        from pgratchet.backups.loading import BackupArchive
        from pgratchet.backups.pg_programs import find_programs
        from pgratchet.backups.signing import trusted_keys

        server, database, store = restore_server(target), target.connection["dbname"], machine.backup_store(target)
        options = self.options(target.variables)
        entry = listing.inspect_backup(store, self.backup_id, trusted_keys(target.variables))
        manifest = listing.require_manifest(entry)
        preview = restore.preview(server, database, manifest, self.into)
        restore.require_restorable(preview, manifest, options)
        if self.only_last_steps:
            yield from restore.continue_restore(server, database, manifest, options)
            return
        programs = find_programs(preview.server.version, tls=preview.encrypted, archive_version=manifest.client_version)
        identity = target.variables.identity_file
        content = verification.open_content(manifest, store, identity)
        yield from verification.verify(entry, store, programs, identity)
        archive = BackupArchive(manifest, content, programs)
        yield from restore.restore(server, database, archive, options)

    def options(self, variables: Variables) -> RestoreOptions:
        """The options of the restore, from this request and the target's variables."""
        from pgratchet.backups.restore import RestoreOptions

        return RestoreOptions(
            self.into,
            variables.backup_jobs,
            leave_behind=self.leave_behind,
            accept=self.accept_differences,
            wait=variables.migration_timeout,
        )


@dataclass(frozen=True, slots=True)
class FindRestored:
    """Find the backup whose restored database an earlier restore kept; of one backup, or the newest of any."""

    backup_id: str | None

    def run(self, target: Target, machine: Machine) -> str:
        from contextlib import closing

        from pgratchet.backups.kept_databases import find_restored
        from pgratchet.backups.restore_server import translate_errors

        server = restore_server(target)
        with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
            return find_restored(maintenance, target.connection["dbname"], self.backup_id)[1].backup


@dataclass(frozen=True, slots=True)
class ListKeptDatabases:
    """List the databases that restores kept beside the live one."""

    def run(self, target: Target, machine: Machine) -> tuple[str, ...]:
        from pgratchet.backups.kept_databases import list_kept_databases

        _require_own_database(target)
        return tuple(list_kept_databases(restore_server(target), target.connection["dbname"]))


@dataclass(frozen=True, slots=True)
class DropKeptDatabases:
    """Drop some of the databases that restores kept."""

    names: tuple[str, ...]

    def run(self, target: Target, machine: Machine) -> None:
        from pgratchet.backups.kept_databases import drop_kept_databases

        drop_kept_databases(restore_server(target), target.connection["dbname"], self.names)


def _require_own_database(target: Target) -> None:
    """Raise Unreachable when the live database belongs to another environment. One that accepts no session may."""
    from pgratchet.database.connection import translate_errors
    from pgratchet.database.environment_record import require_own_database

    try:
        connection = target.connect()
    except RatchetError:
        return
    with closing(connection), translate_errors():
        require_own_database(connection, target.history, target.identity, damaged=True)


def restore_server(target: Target) -> RestoreServer:
    """The target's server, to restore on."""
    from pgratchet.backups.restore_server import RestoreServer

    variables = target.variables
    return RestoreServer(
        target.connect_to,
        target.client_environment,
        variables.pg_maintenance_dbname,
        target.history,
        variables.pg_system_identifier,
    )
