"""The way that a target's inventory says: its work is done here, or on its own host.

Owns that choice, and nothing of what is done. A tunnel is no choice of this kind: by it the work is done here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pgratchet.database.target import ReceivedTarget, Target
from pgratchet.errors import ConfigurationError
from pgratchet.operations import operations, wiring

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.store import Store
    from pgratchet.events import Event
    from pgratchet.migrations.files import Migration
    from pgratchet.variables import Variables

_T = TypeVar("_T")


def perform(
    given: Target, job: operations.Operation[_T], kind: type[_T] | Any, root: Path
) -> Generator[Event, None, _T]:
    """Do a job that only looks, or is done in a moment; returns its result, which is of that type."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        return client.perform(given, job, kind)
    return job.run(given, operations.Machine(root))


def migrate(
    given: Target, files: Sequence[Migration], run_id: str, to: str | None, waiver: str | None, root: Path
) -> Generator[Event, None, None]:
    """Apply what is pending; the first event is Planned."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        wiring.needs_backup(given, waiver)
        return client.migrate(given, files, operations.Migrate(run_id, (), to, waiver), _kept_here(given, root))
    return operations.migrate(given, operations.Machine(root), files, run_id, to, waiver)


def backup(given: Target, job: operations.TakeBackup, run_id: str, root: Path) -> Generator[Event, None, None]:
    """Take a backup."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        return client.run(given, job, client.RunInfo(run_id, "backup"), _kept_here(given, root))
    return job.run(given, operations.Machine(root))


def restore(
    given: Target, job: operations.Restore, run_id: str, made: Manifest, root: Path
) -> Generator[Event, None, None]:
    """Restore a backup, which is carried to the host first where it is kept here and the server is there."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        if here := _kept_here(given, root):
            yield from client.upload_backup(given, here, made, run_id)
        yield from client.run(given, job, client.RunInfo(run_id, "restore"), here)
    else:
        yield from job.run(given, operations.Machine(root))


def verify(
    environment: str, target: str, variables: Variables, made: Manifest, root: Path
) -> Generator[Event, None, None]:
    """Read a backup back whole, where it is kept."""
    job, given = operations.VerifyBackup(made.backup_id), _unconnected(environment, target, variables)
    if _is_on_host(variables):
        from pgratchet.remote import client

        return client.perform(given, job, type(None))
    return job.run(given, operations.Machine(root))


def backup_store(environment: str, target: str, variables: Variables, root: Path) -> Store:
    """Where the backups of a target lie. Of its settings no more is needed than where that is."""
    if _is_on_host(variables):
        from pgratchet.remote.store import HostStore

        return HostStore(_unconnected(environment, target, variables))
    return wiring.backups(environment, target, variables, root)


def host_target(environment: str, target: str, variables: Variables) -> Target:
    """A target whose work is done on its own host, for what concerns no more than that host."""
    if variables.reach != "ssh":
        raise ConfigurationError(
            f"{environment}: {target} is not reached by SSH",
            detail="What runs for it runs here, and ends with its process.",
            hint="Only a target with reach: ssh has runs of its own.",
        )
    return _unconnected(environment, target, variables)


def _unconnected(environment: str, target: str, variables: Variables) -> Target:
    """For what concerns no more than where backups lie: no secret need be fetched for that."""
    return ReceivedTarget(environment, target, variables, {}, "", "", "")


def _is_on_host(variables: Variables) -> bool:
    return variables.reach == "ssh" and variables.backup_at == "host"


def _kept_here(given: Target, root: Path) -> Store | None:
    """Where backups of a target on another host come to on this machine; None where they stay there."""
    if _is_on_host(given.variables) or given.variables.backup_command:
        return None
    return wiring.backups(given.environment, given.target, given.variables, root)
