"""Prepares a drill: the scratch server, the programs and the content of the backup. It runs on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError, RatchetError

if TYPE_CHECKING:
    from pgratchet.backups.drill import Drill, UntestableDrill
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.pg_programs import Programs
    from pgratchet.backups.restore_server import RestoreServer
    from pgratchet.backups.store import Store
    from pgratchet.database.target import Target
    from pgratchet.events import Stream
    from pgratchet.variables import DrillVariables


@contextmanager
def drilling(
    entry: BackupEntry, manifest: Manifest, store: Store, variables: DrillVariables, scratch: Target | None
) -> Iterator[Drill | UntestableDrill]:
    """A drill of a backup on the server of `scratch`, or on a bundled server that ends with the block."""
    from pgratchet.backups import verification
    from pgratchet.backups.drill import Drill, UntestableDrill
    from pgratchet.backups.loading import BackupArchive

    identity = variables.identity_file
    history = History(variables.history_schema, variables.history_table)
    with ExitStack() as stack:
        try:
            server, programs = stack.enter_context(_scratch_server(scratch, history, manifest))
            archive = BackupArchive(manifest, verification.open_content(manifest, store, identity), programs)
        except RatchetError as error:
            cause = error
        else:
            yield Drill(
                server,
                archive,
                verification.verify(entry, store, programs, identity),
                jobs=variables.backup_jobs,
                create_roles=scratch is None,
                open_archive=lambda: verification.open_content(manifest, store, identity),
            )
            return
        yield UntestableDrill(manifest, cause, _verify_with_any_programs(entry, manifest, store, variables))


def _verify_with_any_programs(
    entry: BackupEntry, manifest: Manifest, store: Store, variables: DrillVariables
) -> Stream:
    from pgratchet.backups import verification
    from pgratchet.backups.pg_programs import find_programs

    programs = find_programs(None, archive_version=manifest.client_version)
    yield from verification.verify(entry, store, programs, variables.identity_file)


@contextmanager
def _scratch_server(
    scratch: Target | None, history: History, manifest: Manifest
) -> Iterator[tuple[RestoreServer, Programs]]:
    from pgratchet.backups.pg_programs import find_programs

    if scratch is None:
        with bundled_scratch_server(history, manifest) as server:
            yield server
        return
    from pgratchet.operations.restore import restore_server

    with scratch.connected() as connection:
        version, tls = connection.info.server_version, connection.pgconn.ssl_in_use
    require_major(version // 10_000, manifest, "the scratch server with PostgreSQL")
    yield restore_server(scratch), find_programs(version, tls=tls, archive_version=manifest.client_version)


@contextmanager
def bundled_scratch_server(
    history: History, manifest: Manifest, user: str = "", settings: Mapping[str, int] = MappingProxyType({})
) -> Iterator[tuple[RestoreServer, Programs]]:
    """A bundled server for a backup, and programs for both. `user` is the name of the superuser of its sessions."""
    from pgratchet import embedded
    from pgratchet.backups.pg_programs import find_programs, version_of
    from pgratchet.backups.restore_server import bundled_server

    version = int(float(version_of(embedded.programs() / "postgres") or 0)) * 10_000
    require_major(version // 10_000, manifest, "the bundled PostgreSQL")
    programs = find_programs(version, archive_version=manifest.client_version)
    with bundled_server(history, len(manifest.contents.tables), user, settings) as server:
        yield server, programs


def require_major(ours: int, manifest: Manifest, server: str) -> None:
    """Raise ConfigurationError for a server that is older than the backup; `server` is a phrase that ends before it."""
    theirs = manifest.server_version // 10_000
    if ours < theirs:
        raise ConfigurationError(
            f"a backup of PostgreSQL {theirs} cannot be restored on {server} {ours}",
            detail="It needs a server of the same major version or a newer one.",
            hint="Set drill_environment in the inventory to an environment with such a server.",
        )
