"""Defines operations: values that describe work on a target, on whichever machine they are run.

Operations are dataclasses so that they can be sent to a host as JSON. A query returns a value; the type that its `run`
is annotated with is also the type that the answer of a host is read as. A task reports what happens as events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from pgratchet.backups.store import Store
    from pgratchet.database.target import Target, TargetStorage
    from pgratchet.events import Stream

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that an operation runs on.

    `root` is the folder that relative backup folders are below. `hand_over` is set when backups are kept on another
    machine: it returns once that machine has the whole backup of this id, and raises BackupFailed otherwise.
    """

    root: Path
    hand_over: Callable[[str], None] | None = None

    def backup_store(self, target: TargetStorage) -> Store:
        """The store of the target's backups on this machine, or the object store that this machine uses."""
        from pgratchet.backups.store import open_store

        variables = target.variables
        folder = self.root / variables.backup_dir
        return open_store(
            variables.backup_store, variables.backup_store_options, folder, target.environment, target.target
        )


class Query(Protocol[T_co]):
    """Reads something through the target's connection and returns it."""

    def run(self, target: Target, machine: Machine) -> T_co: ...


class StorageQuery(Protocol[T_co]):
    """Reads something about the target's backups and returns it. It needs no connection."""

    def run(self, target: TargetStorage, machine: Machine) -> T_co: ...


class Task(Protocol):
    """Changes something and yields what happens."""

    def run(self, target: Target, machine: Machine) -> Stream: ...


class StorageTask(Protocol):
    """Works on the target's backups and yields what happens. It needs no connection."""

    def run(self, target: TargetStorage, machine: Machine) -> Stream: ...
