"""Prepares a rehearsal: the server for it, the programs and the content of the backup. It runs on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgratchet.backups.manifest import Setting
from pgratchet.database.history import History
from pgratchet.database.target import Target
from pgratchet.errors import ConfigurationError
from pgratchet.migrations.files import Migration
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.pg_programs import Programs
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.backups.store import Store
    from pgratchet.rehearsal.rehearse import Rehearsal
    from pgratchet.variables import RehearsalVariables

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
    """Read what a rehearsal depends on, besides the files."""

    def run(self, target: Target, machine: Machine) -> DatabaseState:
        from pgratchet.backups.snapshot import read_database
        from pgratchet.database.replication import read_own_rows

        with target.connected() as connection:
            database, _ = read_database(connection, target.connection["dbname"])
            rows, _ = read_own_rows(connection, target.history, target.identity)
            history = {row.name: row.checksum for row in rows if row.executed_at is not None}
            return DatabaseState(connection.info.server_version // 10_000, tuple(database.settings), history)


@contextmanager
def rehearsing(
    manifest: Manifest,
    store: Store,
    variables: RehearsalVariables,
    scratch: Target | None,
    files: Sequence[Migration],
    to: str | None,
    *,
    same_server: bool,
) -> Iterator[Rehearsal]:
    """A rehearsal on the server of `scratch`, or on a bundled server that ends with the block.

    Without `same_server`, the server that the backup was taken on is refused.
    """
    from pgratchet.apply.run import MigrateOptions
    from pgratchet.backups import verification
    from pgratchet.backups.loading import BackupArchive
    from pgratchet.rehearsal.records import read_records, rehearsed_durations
    from pgratchet.rehearsal.rehearse import Rehearsal

    history = History(variables.history_schema, variables.history_table)
    options = MigrateOptions(
        "rehearsal",
        to=to,
        wait=variables.migration_timeout,
        lock_timeout=variables.lock_timeout,
        statement_timeout=variables.migration_timeout,
        batch_size=variables.migration_batch_size,
    )
    content = verification.open_content(manifest, store, variables.identity_file)
    with _scratch_server(scratch, history, manifest, same_server=same_server) as (server, programs):
        yield Rehearsal(
            server,
            BackupArchive(manifest, content, programs),
            files,
            options,
            variables.backup_jobs,
            create_roles=scratch is None,
            earlier=rehearsed_durations(read_records(store)),
        )


@contextmanager
def _scratch_server(
    scratch: Target | None, history: History, manifest: Manifest, *, same_server: bool
) -> Iterator[tuple[RestoreServer, Programs]]:
    from pgratchet.operations.drill import bundled_scratch_server
    from pgratchet.rehearsal.rehearse import require_room

    if scratch is None:
        require_room(manifest)
        with bundled_scratch_server(history, manifest, _SETTINGS, manifest.database.owner) as bundled:
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
