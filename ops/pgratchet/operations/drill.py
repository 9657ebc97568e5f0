"""Prepares a drill: the scratch server, the programs and the content of the backup. It runs on this machine."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgratchet.database.history import History
from pgratchet.database.target import program_environment
from pgratchet.errors import ConfigurationError

if TYPE_CHECKING:
    from pgratchet.backups.drill import Drill
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.pg_programs import Programs
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.backups.store import Store
    from pgratchet.database.target import Target
    from pgratchet.variables import DrillVariables


@contextmanager
def drilling(
    entry: BackupEntry, manifest: Manifest, store: Store, variables: DrillVariables, scratch: Target | None
) -> Iterator[Drill]:
    """A drill of a backup on the server of `scratch`, or on a bundled server that ends with the block."""
    from pgratchet.backups import verification
    from pgratchet.backups.drill import Drill
    from pgratchet.backups.restore import BackupArchive

    identity = variables.identity_file
    history = History(variables.history_schema, variables.history_table)
    with _scratch_server(scratch, history, manifest) as (server, programs):
        archive = BackupArchive(manifest, verification.open_content(manifest, store, identity), programs)
        reading = verification.verify(entry, store, programs, identity)
        yield Drill(server, archive, reading, jobs=variables.backup_jobs, create_roles=scratch is None)


@contextmanager
def _scratch_server(
    scratch: Target | None, history: History, manifest: Manifest
) -> Iterator[tuple[RestoreServer, Programs]]:
    from pgratchet.backups.pg_programs import find_programs

    if scratch is None:
        with _bundled_server(history, manifest) as server:
            yield server
        return
    from pgratchet.operations.restore import restore_server

    with scratch.connected() as connection:
        version, tls = connection.info.server_version, connection.pgconn.ssl_in_use
    yield restore_server(scratch), find_programs(version, tls=tls, archive_version=manifest.client_version)


@contextmanager
def _bundled_server(history: History, manifest: Manifest) -> Iterator[tuple[RestoreServer, Programs]]:
    from pgratchet import embedded
    from pgratchet.backups.pg_programs import find_programs, version_of
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.database.connection import connect

    version = int(float(version_of(embedded.programs() / "postgres") or 0)) * 10_000
    ours, theirs = version // 10_000, manifest.server_version // 10_000
    if ours < theirs:
        raise ConfigurationError(
            f"a backup of PostgreSQL {theirs} does not go into the package's {ours}",
            hint="Name an environment with such a server as drill_environment in the inventory.",
        )
    programs = find_programs(version, archive_version=manifest.client_version)
    with embedded.scratch() as scratch:
        parameters = scratch.parameters()
        yield (
            RestoreServer(
                lambda database: connect({**parameters, "dbname": database}),
                functools.partial(_without_password, parameters),
                "postgres",
                history,
            ),
            programs,
        )


@contextmanager
def _without_password(parameters: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Environment variables for libpq programs on a server that needs no password."""
    yield {**program_environment(), **{f"PG{key.upper()}": value for key, value in parameters.items()}}
