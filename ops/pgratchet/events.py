"""The events of a run: migrate, backup, restore and drill yield them, and `console` shows them.

Events are plain values. The same stream is shown in a terminal, or written as lines of JSON on a target's host and read
back here (`operations.protocol`). Durations are in milliseconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan of a run. Always the first event, before the run locks or changes anything.

    `todo` are the names of the migrations to apply, `pending` is the number of all pending ones, `total` of all.
    """

    todo: tuple[str, ...]
    total: int
    pending: int


@dataclass(frozen=True, slots=True)
class LockAwaited:
    """Another session holds the migration lock; `holder` describes that session in a phrase."""

    holder: str


@dataclass(frozen=True, slots=True)
class BackupProgress:
    """Progress of writing, verifying, copying or restoring a backup.

    `done` and `total` count bytes of tables for a dump, bytes of files for a verification or a copy, and rows for a
    restore. `written` is the size of the archive so far.
    """

    phase: Literal["dump", "verify", "copy", "restore"]
    done: int
    total: int
    written: int = 0


@dataclass(frozen=True, slots=True)
class BackupRetried:
    """pg_dump failed and runs once more."""

    reason: str


@dataclass(frozen=True, slots=True)
class BackupsRemoved:
    """Backups beyond the environment's retention were deleted, and abandoned drafts with them."""

    backup_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackupTaken:
    """A backup was taken and read back whole. `size` is None for a backup of another tool."""

    backup_id: str
    path: str
    size: int | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup was restored into the new database `database`, beside the live one."""

    database: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Compared:
    """The restored database was compared with the manifest; `differences` are sentences."""

    tables: int
    rows: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Swapped:
    """The restored database now has the live name `database`.

    `old_database` is the new name of the database that had the live name before; None when there was no such database.
    """

    database: str
    old_database: str | None


@dataclass(frozen=True, slots=True)
class BatchSent:
    """The migrations `names` are being sent to the server, in one round trip."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StatementDone:
    """A statement of a migration without a transaction took effect and was recorded."""

    name: str
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class Retrying:
    """A lock could not be acquired in time; the batch that begins with `name` is tried again.

    `blockers` describes the sessions that held the lock, each in a phrase; empty when they are not known.
    """

    name: str
    reason: str
    delay_ms: int
    blockers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotsAwaited:
    """The next statement of `name` waits until the transactions `holders` have ended."""

    name: str
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationApplied:
    """The migration `name` was committed, acknowledged by the server and read back from the history."""

    name: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class ServerNotice:
    """A message from the server: RAISE NOTICE in a migration, or a warning."""

    severity: str
    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The run ended and did everything in its plan."""

    total: int
    pending: int


Event = (
    Planned
    | LockAwaited
    | BackupProgress
    | BackupRetried
    | BackupsRemoved
    | BackupTaken
    | Restored
    | Compared
    | Swapped
    | BatchSent
    | StatementDone
    | Retrying
    | SnapshotsAwaited
    | MigrationApplied
    | ServerNotice
    | Finished
)

Stream = Generator[Event, None, None]
"""The events of one run. A KeyboardInterrupt that is thrown into the stream reaches the code that does the work."""


def drain(stream: Stream) -> None:
    """Run a stream to its end without showing its events."""
    for _ in stream:
        pass
