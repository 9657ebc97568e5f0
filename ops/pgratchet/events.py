"""What happens during a run, as values: the stream that the applier and the backup yield and the report draws.

Owns the events. Refuses to know who makes or shows them, so that the same stream can be drawn in a terminal,
written as JSON lines and read back on another machine. Durations are milliseconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Planned:
    """What the run is about to do, before it locks or changes anything; always the first event.

    `todo` are the names it would apply; `pending` counts all that is pending, `total` all there is.
    """

    todo: tuple[str, ...]
    total: int
    pending: int


@dataclass(frozen=True, slots=True)
class LockAwaited:
    """Another session holds the migration lock; `holder` describes it in a phrase."""

    holder: str


@dataclass(frozen=True, slots=True)
class BackupProgress:
    """How far a backup is written, read back or restored.

    `done` of `total` are, while it is dumped, the bytes of the tables that are done with; while it is read back or
    copied, those of its files; while it is restored, the rows of those tables. `written` are the bytes of the archive.
    """

    phase: Literal["dump", "verify", "copy", "restore"]
    done: int
    total: int
    written: int = 0


@dataclass(frozen=True, slots=True)
class BackupRetried:
    """pg_dump failed, and is tried once more."""

    reason: str


@dataclass(frozen=True, slots=True)
class BackupsRemoved:
    """Backups that the environment's retention lets go were deleted, and drafts that no one writes any more."""

    backup_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackupTaken:
    """A backup that was read back whole; or one that another tool took, whose size it did not say."""

    backup_id: str
    path: str
    size: int | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup is in a database of that name, beside the live one."""

    database: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Compared:
    """What was restored was counted and compared with the manifest; `differences` are sentences."""

    tables: int
    rows: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Swapped:
    """The restored database has the live one's name; that one is `kept` under another, where there was one."""

    database: str
    kept: str | None


@dataclass(frozen=True, slots=True)
class BatchSent:
    """These migrations are on their way to the server, in one round trip."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StatementDone:
    """A statement of a migration without a transaction has taken effect, and that is recorded."""

    name: str
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class Retrying:
    """A lock was not to be had in time; the batch that begins with `name` is tried again.

    `blockers` are those who were in the way, each in a phrase, where they could be seen.
    """

    name: str
    reason: str
    delay_ms: int
    blockers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotsAwaited:
    """Open transactions would keep a statement of `name` waiting; it begins when they have ended."""

    name: str
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationApplied:
    """Committed, acknowledged and read back."""

    name: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class ServerNotice:
    """A message of the server: RAISE NOTICE in a migration, a warning."""

    severity: str
    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a run that did all it set out to do."""

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
"""The events of one run. A KeyboardInterrupt thrown into it reaches whoever runs the work."""


def drain(stream: Stream) -> None:
    """Run a stream to its end without showing its events."""
    for _ in stream:
        pass
