"""Takes, verifies and lists the backups of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pgratchet.database.target import Target, TargetStorage
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from psycopg import Connection

    from pgratchet.backups.backup import BackupSource
    from pgratchet.backups.store import Store
    from pgratchet.events import Event, Stream
    from pgratchet.variables import BackupVariables


@dataclass(frozen=True, slots=True)
class TakeBackup:
    """Take a backup and read it back."""

    label: str | None = None
    keep: bool = False

    def run(self, target: Target, machine: Machine) -> Stream:
        from pgratchet.database.environment_record import require_own_database

        with target.connected() as connection:
            require_own_database(connection, target.history, target.identity)
            yield from take_backup(target, machine, connection, label=self.label, keep=self.keep)
            if not (target.variables.backup_command or target.variables.restore_environment):
                yield from _tell_missing_rights(connection)


def _tell_missing_rights(connection: Connection) -> Stream:
    from pgratchet.backups.restore_rights import missing_rights_of
    from pgratchet.events import RightsMissing

    if missing := missing_rights_of(connection):
        yield RightsMissing(tuple(map(str, missing)))


def take_backup(
    target: Target, machine: Machine, connection: Connection, *, label: str | None = None, keep: bool = False
) -> Stream:
    """Take a backup of the database that the connection leads to, then delete those that are no longer kept.

    The BackupTaken event names the backup. When another machine keeps the backups, this one is copied there and deleted
    here.
    """
    if target.variables.backup_command:
        yield from _run_backup_command(target)
        return
    store = machine.backup_store(target)
    for event in _dump(target, store, connection, label, keep):
        yield event
        if machine.hand_over and (backup_id := _taken_id(event)):
            machine.hand_over(backup_id)
            store.remove(backup_id)
    if not machine.hand_over:
        yield from prune(target.variables, store)


def _taken_id(event: Event) -> str | None:
    from pgratchet.events import BackupTaken

    return event.backup_id if isinstance(event, BackupTaken) else None


def _run_backup_command(target: Target) -> Stream:
    from pgratchet.backups.external import run_command

    variables = target.variables
    with target.client_environment() as environ:
        environ |= {"PGRATCHET_ENV": target.environment, "PGRATCHET_TARGET": target.target}
        yield from run_command(
            variables.backup_command, environ, variables.backup_max_age, variables.backup_command_timeout
        )


def _dump(target: Target, store: Store, connection: Connection, label: str | None, keep: bool) -> Stream:
    from pgratchet.backups import backup
    from pgratchet.backups.pg_programs import find_programs
    from pgratchet.backups.signing import make_signer

    variables = target.variables
    signer = make_signer(variables)
    source = backup_source(target, connection)
    programs = find_programs(source.server_version, tls=connection.pgconn.ssl_in_use)
    options = backup.BackupOptions(
        label, keep, variables.backup_jobs, variables.backup_parallel_from, variables.backup_recipients, signer
    )
    yield from backup.take(source, store, programs, options)


def backup_source(target: Target, connection: Connection) -> BackupSource:
    """Describe the source of a backup. Raises ConfigurationError for another cluster or a connection pooler."""
    from pgratchet.backups.backup import BackupSource
    from pgratchet.database.inspection import inspect, refuse_other_cluster
    from pgratchet.database.pooler import refuse_pooled

    server = inspect(connection)
    refuse_other_cluster(server, target.variables.pg_system_identifier)
    refuse_pooled(server, "no backup can be taken", connection)
    return BackupSource(
        environment=target.environment,
        target=target.target,
        server_version=server.version,
        system_identifier=server.system_identifier,
        history=target.history,
        connect=target.connect,
        client_environment=target.client_environment,
    )


def prune(variables: BackupVariables, store: Store) -> Stream:
    """Delete the backups that the target's retention no longer keeps."""
    from pgratchet.backups import retention
    from pgratchet.backups.signing import trusted_keys

    policy = retention.Retention(variables.backup_keep_count, variables.backup_keep_days)
    yield from retention.prune(store, policy, datetime.now(timezone.utc), trusted_keys(variables))


@dataclass(frozen=True, slots=True)
class VerifyBackup:
    """Read a backup back and compare every file with its manifest."""

    backup_id: str

    def run(self, target: TargetStorage, machine: Machine) -> Stream:
        from pgratchet.backups.listing import inspect_backup, require_manifest
        from pgratchet.backups.pg_programs import find_programs
        from pgratchet.backups.signing import trusted_keys
        from pgratchet.backups.verification import verify

        store = machine.backup_store(target)
        entry = inspect_backup(store, self.backup_id, trusted_keys(target.variables))
        programs = find_programs(None, archive_version=require_manifest(entry).client_version)
        yield from verify(entry, store, programs, target.variables.identity_file)


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """The files of one backup: by name the size in bytes and the modification stamp, both as text."""

    files: Mapping[str, tuple[str, ...]]
    manifest: str | None


@dataclass(frozen=True, slots=True)
class BackupListing:
    """The content of a folder of backups. `notes` are the records kept beside them, such as those of drills."""

    where: str
    backups: Mapping[str, StoredFiles]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListBackups:
    """List the backups that are kept on this machine."""

    def run(self, target: TargetStorage, machine: Machine) -> BackupListing:
        store = machine.backup_store(target)
        backups = {backup_id: _stored_files(store, backup_id) for backup_id in store.ids()}
        return BackupListing(store.location, backups, tuple(note.decode(errors="replace") for note in store.notes()))


def _stored_files(store: Store, backup_id: str) -> StoredFiles:
    from pgratchet.backups import manifest

    folder = store.folder(backup_id)
    assert folder is not None
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    files = {name: (str(stat.size), stat.stamp) for name in names if (stat := store.stat(backup_id, name))}
    text = b"".join(store.read(backup_id, manifest.NAME)) if manifest.NAME in files else None
    return StoredFiles(files, None if text is None else text.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class WriteNote:
    """Write a record beside the backups."""

    name: str
    text: str

    def run(self, target: TargetStorage, machine: Machine) -> None:
        machine.backup_store(target).note(self.name, self.text.encode())
