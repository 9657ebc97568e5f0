"""Restores as much as possible of a damaged backup into a new database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgratchet.database.target import Target
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from pgratchet.events import Stream


@dataclass(frozen=True, slots=True)
class Salvage:
    """Verify a backup and restore what can be restored into the new database `into`."""

    backup_id: str
    into: str

    def run(self, target: Target, machine: Machine) -> Stream:
        from pgratchet.backups import listing, restore, salvage, verification
        from pgratchet.backups.loading import BackupArchive
        from pgratchet.backups.pg_programs import find_programs
        from pgratchet.backups.signing import trusted_keys
        from pgratchet.operations.restore import restore_server

        server, database, store = restore_server(target), target.connection["dbname"], machine.backup_store(target)
        entry = listing.inspect_backup(store, self.backup_id, trusted_keys(target.variables))
        manifest, jobs = listing.require_manifest(entry), target.variables.backup_jobs
        preview = restore.preview(server, database, manifest, self.into)
        restore.require_restorable(preview, manifest, restore.RestoreOptions(self.into, accept=True))
        programs = find_programs(preview.server.version, tls=preview.encrypted, archive_version=manifest.client_version)
        identity = target.variables.identity_file
        content = verification.open_content(manifest, store, identity)
        yield from verification.verify(entry, store, programs, identity)
        yield from salvage.salvage(
            server,
            BackupArchive(manifest, content, programs),
            lambda: verification.open_content(manifest, store, identity),
            self.into,
            jobs,
        )
