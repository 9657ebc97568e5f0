"""The events of a run: migrate, backup, restore and drill yield them, and `console` shows them.

Events are plain values. The same stream is shown in a terminal, or written as lines of JSON on a target's host and read
back here (`operations.protocol`). Durations are in milliseconds, sizes in bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeVar

_T = TypeVar("_T")


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
    """Progress of writing, verifying, copying or restoring a backup, and of running migrations on copies of it.

    `done` and `total` count bytes of tables for a dump, bytes of files for a verification or a copy, and rows for a
    restore. The end of a restore (`index`, `analyze`, `count`) has no total, which is then 0. `item` is the table or
    the index that is worked on, if it is known.
    """

    phase: Literal["dump", "verify", "copy", "restore", "index", "analyze", "count", "clone", "trace", "apply"]
    done: int = 0
    total: int = 0
    item: str = ""


@dataclass(frozen=True, slots=True)
class BackupRetried:
    """pg_dump failed and runs once more."""

    reason: str


@dataclass(frozen=True, slots=True)
class BackupsRemoved:
    """Backups beyond the environment's retention were deleted, and abandoned drafts with them."""

    backup_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A dump lacks objects of the database; `objects` are sentences about them."""

    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RetentionSkipped:
    """Retention left out these backups; `reason` is a phrase."""

    backup_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class SpaceLow:
    """The backup may not fit: `location` has `free` bytes, and a backup is estimated to need `expected`."""

    location: str
    free: int
    expected: int


@dataclass(frozen=True, slots=True)
class BackupTaken:
    """A backup was taken and read back whole. `size` is None for a backup of another tool."""

    backup_id: str
    path: str
    size: int | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class RightsMissing:
    """The role that took a backup could not restore it alone; `reasons` are sentences."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup was restored into the new database `database`, beside the live one."""

    database: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class SessionsAwaited:
    """The swap waits until the sessions `holders` of the live `database` have ended; this role may not end them."""

    database: str
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ItemNotRestored:
    """An item of a backup could not be restored. `name` begins with its kind; `sql` is its text in the backup."""

    name: str
    error: str
    sql: str


@dataclass(frozen=True, slots=True)
class Compared:
    """The restored database was compared with the manifest; `differences` and `notes` are sentences.

    Notes are about differences that a restore makes, such as the rows of materialized views.
    """

    tables: int
    rows: int
    differences: tuple[str, ...]
    sequences: int = 0
    materialized_views: int = 0
    notes: tuple[str, ...] = ()


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
class MigrationBegun:
    """The server works on the migration `name` of a batch, and has committed those before it. Only of slow ones."""

    name: str


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
class Rehearsed:
    """A migration ran on a copy of the database, statement by statement."""

    name: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class ServerNotice:
    """A message from the server, such as RAISE NOTICE in a migration, or a warning about it."""

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
    | LeftOut
    | RetentionSkipped
    | SpaceLow
    | BackupTaken
    | RightsMissing
    | Restored
    | ItemNotRestored
    | Compared
    | SessionsAwaited
    | Swapped
    | BatchSent
    | MigrationBegun
    | StatementDone
    | Retrying
    | SnapshotsAwaited
    | MigrationApplied
    | Rehearsed
    | ServerNotice
    | Finished
)

Stream = Generator[Event, None, None]
"""The events of one run. A KeyboardInterrupt that is thrown into the stream reaches the code that does the work."""


def drain(stream: Generator[Event, None, _T]) -> _T:
    """Run a stream to its end without showing its events, and return its result."""
    try:
        while True:
            next(stream)
    except StopIteration as end:
        result: _T = end.value
        return result


def follow(stream: Generator[Event, None, _T], show: Callable[[Event], object]) -> _T:
    """Run a stream to the end, show every event, and return the stream's result.

    A KeyboardInterrupt during `show` is thrown into the stream, because only the stream can end the work in order, here
    or on a host. The stream may continue, and further events are shown. Exceptions of the stream are raised here. The
    stream is always closed.
    """
    signal: KeyboardInterrupt | None = None
    with closing(stream):
        while True:
            try:
                if signal is not None:
                    interrupt, signal = signal, None
                    show(stream.throw(interrupt))
                while True:
                    show(next(stream))
            except StopIteration as end:  # noqa: PERF203  once for the whole stream, and once more for each signal
                result: _T = end.value
                return result
            except KeyboardInterrupt as stop:
                if inspect.getgeneratorstate(stream) == inspect.GEN_CLOSED:
                    raise
                signal = stop
