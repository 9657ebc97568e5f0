"""The way that a target's inventory says: its work is done here, or on its own host.

Owns that choice, and nothing of what is done. A tunnel is no choice of this kind: by it the work is done here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pgratchet.database.target import Access, Carried
from pgratchet.errors import ConfigurationError
from pgratchet.operations import operations, wiring

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.store import Store
    from pgratchet.config.inventory import Variables
    from pgratchet.events import Event
    from pgratchet.migrations.files import Migration

_T = TypeVar("_T")


def perform(given: Access, job: operations.Job[_T], kind: type[_T] | Any, root: Path) -> Generator[Event, None, _T]:
    """Do a job that only looks, or is done in a moment; returns its result, which is of that type."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        return client.perform(given, job, kind)
    return job.run(given, operations.Place(root))


def migrate(
    given: Access, files: Sequence[Migration], run_id: str, to: str | None, waiver: str | None, root: Path
) -> Generator[Event, None, None]:
    """Apply what is pending; the first event is Planned."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        wiring.needs_backup(given, waiver)
        return client.migrate(given, files, operations.Migrate(run_id, (), to, waiver), _kept_here(given, root))
    return operations.migrate(given, operations.Place(root), files, run_id, to, waiver)


def backup(given: Access, job: operations.Backup, run_id: str, root: Path) -> Generator[Event, None, None]:
    """Take a backup."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        return client.run(given, job, client.About(run_id, "backup"), _kept_here(given, root))
    return job.run(given, operations.Place(root))


def restore(
    given: Access, job: operations.Restore, run_id: str, made: Manifest, root: Path
) -> Generator[Event, None, None]:
    """Restore a backup, which is carried to the host first where it is kept here and the server is there."""
    if given.variables.reach == "ssh":
        from pgratchet.remote import client

        if here := _kept_here(given, root):
            yield from client.deliver(given, here, made, run_id)
        yield from client.run(given, job, client.About(run_id, "restore"), here)
    else:
        yield from job.run(given, operations.Place(root))


def verify(
    environment: str, target: str, variables: Variables, made: Manifest, root: Path
) -> Generator[Event, None, None]:
    """Read a backup back whole, where it is kept."""
    job, given = operations.Verify(made.backup_id), _unconnected(environment, target, variables)
    if _is_on_host(variables):
        from pgratchet.remote import client

        return client.perform(given, job, type(None))
    return job.run(given, operations.Place(root))


def kept(environment: str, target: str, variables: Variables, root: Path) -> Store:
    """Where the backups of a target lie. Of its settings no more is needed than where that is."""
    if _is_on_host(variables):
        from pgratchet.remote.store import HostStore

        return HostStore(_unconnected(environment, target, variables))
    return wiring.backups(environment, target, variables, root)


def on_host(environment: str, target: str, variables: Variables) -> Access:
    """A target whose work is done on its own host, for what concerns no more than that host."""
    if variables.reach != "ssh":
        raise ConfigurationError(
            f"{environment}: {target} is not reached by SSH",
            detail="What runs for it runs here, and ends with its process.",
            hint="Only a target with reach: ssh has runs of its own.",
        )
    return _unconnected(environment, target, variables)


def _unconnected(environment: str, target: str, variables: Variables) -> Access:
    """For what concerns no more than where backups lie: no secret need be fetched for that."""
    return Carried(environment, target, variables, {}, "", "", "")


def _is_on_host(variables: Variables) -> bool:
    return variables.reach == "ssh" and variables.backup_at == "host"


def _kept_here(given: Access, root: Path) -> Store | None:
    """Where backups of a target on another host come to on this machine; None where they stay there."""
    if _is_on_host(given.variables) or given.variables.backup_command:
        return None
    return wiring.backups(given.environment, given.target, given.variables, root)
