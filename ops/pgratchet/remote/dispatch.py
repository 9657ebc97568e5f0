"""Runs an operation on this machine or on the target's host, depending on the inventory's `reach`.

A target with `reach: tunnel` is connected to from this machine, so its operations run here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from pgratchet.database.target import Target, TargetStorage
from pgratchet.errors import ConfigurationError
from pgratchet.operations.base import Machine

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.store import Store
    from pgratchet.events import Event, Planned, Stream
    from pgratchet.migrations.files import Migration
    from pgratchet.migrations.plan import Plan
    from pgratchet.operations.backups import TakeBackup
    from pgratchet.operations.base import Query, StorageQuery
    from pgratchet.operations.migrate import Migrate
    from pgratchet.operations.rehearse import Rehearse
    from pgratchet.operations.restore import Restore
    from pgratchet.operations.salvage import Salvage
    from pgratchet.rehearsal.report import Report

_T = TypeVar("_T")


class PreparedRun(Protocol):
    """A planned run that has changed nothing yet, on this machine or on a host."""

    @property
    def plan(self) -> Plan: ...

    @property
    def planned(self) -> Planned: ...

    def apply(self) -> Stream: ...


@overload
def ask(target: Target, query: Query[_T], root: Path) -> _T: ...
@overload
def ask(target: TargetStorage, query: StorageQuery[_T], root: Path) -> _T: ...
def ask(target: Any, query: Query[_T] | StorageQuery[_T], root: Path) -> _T:
    """The answer to a query."""
    if target.variables.reach == "ssh":
        from pgratchet.remote import client

        return client.ask(target, query)
    return query.run(target, Machine(root))


def prepare_migration(
    target: Target, files: Sequence[Migration], request: Migrate, root: Path
) -> AbstractContextManager[PreparedRun]:
    """Plan a run of the files; the block may show the plan, ask for consent and call `apply()`."""
    from pgratchet.operations import migrate

    if target.variables.reach == "ssh":
        from pgratchet.remote import client

        if migrate.needs_backup(target, request.without_backup):
            _require_signer(target)
        return client.prepare_migration(target, files, request, _store_here(target, root))
    return migrate.prepare(target, Machine(root), files, request)


def backup(target: Target, task: TakeBackup, run_id: str, root: Path) -> Stream:
    """Take a backup."""
    if target.variables.reach == "ssh":
        from pgratchet.operations.protocol import RunInfo
        from pgratchet.remote import client

        _require_signer(target)
        return client.run(target, task, RunInfo(run_id, "backup"), _store_here(target, root))
    return task.run(target, Machine(root))


def restore(target: Target, task: Restore | Salvage, run_id: str, manifest: Manifest, root: Path) -> Stream:
    """Restore a backup. A backup that is kept here is uploaded first when the server is worked on from its host."""
    if target.variables.reach == "ssh":
        from pgratchet.operations.protocol import RunInfo
        from pgratchet.remote import client

        if store := _store_here(target, root):
            yield from client.upload_backup(target, store, manifest, run_id)
        yield from client.run(target, task, RunInfo(run_id, "restore"), store)
    else:
        yield from task.run(target, Machine(root))


def verify(target: TargetStorage, manifest: Manifest, root: Path) -> Stream:
    """Read a backup back where it is kept."""
    from pgratchet.operations.backups import VerifyBackup

    task = VerifyBackup(manifest.backup_id)
    if _is_kept_on_host(target):
        from pgratchet.remote import client

        return client.perform(target, task)
    return task.run(target, Machine(root))


def rehearse(
    target: TargetStorage,
    task: Rehearse,
    files: Sequence[Migration],
    manifest: Manifest,
    scratch: Target | None,
    root: Path,
    *,
    same_server: bool,
) -> Generator[Event, None, Report | None]:
    """Rehearse on the server of `scratch`, or where the backup is kept; returns the report.

    A backup that is kept on its host stays there: the host's own programs make a scratch server.
    """
    if scratch is None and _is_kept_on_host(target):
        from pgratchet.remote import client

        return (yield from client.rehearse(target, task, files, manifest.contents.history))
    store, identity = backup_store(target, root), target.variables.identity_file
    return (yield from task.run_here(files, manifest, store, identity, scratch, same_server=same_server))


def backup_store(target: TargetStorage, root: Path) -> Store:
    """The store of the target's backups, wherever they are kept."""
    if _is_kept_on_host(target):
        from pgratchet.remote.store import HostStore

        return HostStore(target)
    return Machine(root).backup_store(target)


def require_host(target: TargetStorage) -> TargetStorage:
    """The same target; ConfigurationError when its work does not run on its own host."""
    if target.variables.reach != "ssh":
        raise ConfigurationError(
            f"{target.environment}: {target.target} is not reached by SSH",
            detail="Its tasks run on this machine, and end with their process.",
            hint="Use `invoke runs`, `attach` and `cancel` for targets with reach: ssh.",
        )
    return target


def _require_signer(target: Target) -> None:
    """Raise ConfigurationError, before a run on a host begins, if its backup could not be signed here afterwards."""
    from pgratchet.backups.signing import make_signer

    if not target.variables.backup_command:
        make_signer(target.variables)


def is_kept_on_this_disk(target: TargetStorage) -> bool:
    """Return whether the target's backups are kept in a folder of this machine."""
    return not (target.variables.backup_store or _is_kept_on_host(target))


def _is_kept_on_host(target: TargetStorage) -> bool:
    return target.variables.reach == "ssh" and target.variables.backup_at == "host"


def _store_here(target: Target, root: Path) -> Store | None:
    """The store on this machine that a host's backups are copied to; None when they stay on the host."""
    if _is_kept_on_host(target) or target.variables.backup_command:
        return None
    return Machine(root).backup_store(target)
