"""Restores a backup, and lists and drops the databases that earlier restores kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.backups.restore import RestorePreview
from pgratchet.database.target import Target
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

    def run(self, target: Target, machine: Machine) -> RestorePreview:
        from pgratchet.backups import manifest, restore
        from pgratchet.backups.pg_programs import find_programs

        backup = manifest.loads(self.manifest.encode())
        preview = restore.preview(restore_server(target), target.connection["dbname"], backup)
        find_programs(preview.server.version, tls=preview.encrypted, archive_version=backup.client_version)
        return preview


@dataclass(frozen=True, slots=True)
class Restore:
    """Verify a backup and restore it: in the place of the live database, or with `into` beside it."""

    backup_id: str
    into: str | None = None
    leave_behind: bool = False
    accept_differences: bool = False

    def run(self, target: Target, machine: Machine) -> Stream:
        from pgratchet.backups import listing, restore, verification
        from pgratchet.backups.pg_programs import find_programs

        server, database, store = restore_server(target), target.connection["dbname"], machine.backup_store(target)
        options = self.options(target.variables)
        entry = listing.inspect_backup(store, self.backup_id)
        manifest = listing.require_manifest(entry)
        preview = restore.preview(server, database, manifest)
        restore.require_restorable(preview, manifest, options)
        programs = find_programs(preview.server.version, tls=preview.encrypted, archive_version=manifest.client_version)
        identity = target.variables.identity_file
        content = verification.open_content(manifest, store, identity)
        yield from verification.verify(entry, store, programs, identity)
        archive = restore.BackupArchive(manifest, content, programs)
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
class ListKeptDatabases:
    """List the databases that restores kept beside the live one."""

    def run(self, target: Target, machine: Machine) -> tuple[str, ...]:
        from pgratchet.backups.kept_databases import list_kept_databases

        return tuple(list_kept_databases(restore_server(target), target.connection["dbname"]))


@dataclass(frozen=True, slots=True)
class DropKeptDatabases:
    """Drop some of the databases that restores kept."""

    names: tuple[str, ...]

    def run(self, target: Target, machine: Machine) -> None:
        from pgratchet.backups.kept_databases import drop_kept_databases

        drop_kept_databases(restore_server(target), target.connection["dbname"], self.names)


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
