"""Shows a running task: a progress bar on a terminal, lines of text elsewhere. Everything goes to standard error.

An event that is not handled here is a type error, because the functions below end in `assert_never`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import assert_never

from pgratchet import events
from pgratchet.console import commands
from pgratchet.console.output import on_terminal, say
from pgratchet.console.progress_bar import ProgressBar, Unit, measures, open_bar
from pgratchet.errors import Interrupted
from pgratchet.formatting import format_contents, format_count, format_duration, format_size

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult

_T = TypeVar("_T")
_PHASES = {
    "dump": "dumping",
    "verify": "reading back",
    "copy": "copying",
    "restore": "restoring",
    "index": "building",
    "analyze": "analyzing the restored database",
    "count": "counting its rows",
    "clone": "copying the restored database",
    "trace": "rehearsing",
    "apply": "applying on a copy",
}
_LINE_INTERVAL = 60.0
"""Seconds between two lines about the same phase, where there is no terminal."""


def draw(stream: Generator[events.Event, None, _T], result: RunResult, *, quiet: bool = False) -> _T:
    """Run a stream to the end, and return its own result. Every event is added to `result`, and shown unless `quiet`.

    After a signal, Interrupted says what a backup or a restore has done: its last event may not have been shown.
    """
    with _screen(len(result.plan), quiet) as screen:

        def show(event: events.Event) -> None:
            result.take(event)
            screen.show(event)

        try:
            return events.follow(stream, show)
        except Interrupted as error:
            error.detail = " ".join(part for part in (error.detail, result.effects()) if part)
            raise
        except KeyboardInterrupt as signal:  # outside the work: before the first step or behind the last one
            if result.plan and not result.applied:
                raise
            detail = result.applied_so_far or result.effects() or "The task was stopped before its end."
            raise Interrupted(signal, detail=detail, hint="Run the same command again to continue.") from None


@contextmanager
def _screen(todo: int, quiet: bool) -> Iterator[_Lines]:
    if quiet or not on_terminal(sys.stderr):
        yield _Lines(quiet)
        return
    with open_bar() as bar:
        yield _Bar(bar, todo)


class _Lines:
    """Shows events as lines of text; nothing when a program reads the result."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._pace = _Pace()

    def show(self, event: events.Event) -> None:
        line = self._pace.line(event) if isinstance(event, events.BackupProgress) else _line(event)
        if line and not self._quiet:
            self.write(commands.typed(line))

    def write(self, line: str) -> None:
        say(line)


@dataclass(slots=True)
class _Pace:
    """Says once a minute how far a long phase is, for those who read a log."""

    phase: str = ""
    started: float = 0.0
    shown: float = 0.0

    def line(self, event: events.BackupProgress) -> str:
        """The event as a line, empty when the last line of this phase is not a minute old."""
        now = time.monotonic()
        if event.phase != self.phase:
            self.phase, self.started, self.shown = event.phase, now, now
        if now - self.shown < _LINE_INTERVAL:
            return ""
        self.shown, elapsed = now, now - self.started
        rate = event.done / elapsed
        remaining = round((event.total - event.done) / rate) if rate and event.total else None
        far = measures(event.done, event.total, _unit(event), rate=rate, remaining=remaining, elapsed=elapsed)
        return f"{_PHASES[event.phase]} {event.item}".rstrip() + f": {' '.join(far.split())}"


class _Bar(_Lines):
    """Shows events as lines above a progress bar."""

    def __init__(self, bar: ProgressBar, todo: int) -> None:
        super().__init__(quiet=False)
        self._bar = bar
        self._todo = todo
        self._applied = 0

    def write(self, line: str) -> None:
        self._bar.write(line)

    def show(self, event: events.Event) -> None:
        match event:
            case events.BackupProgress(phase, done, total, item):
                self._bar.step(_PHASES[phase], done, total, _unit(event), item)
                return
            case events.SessionsAwaited(database):
                self._bar.step("waiting for sessions of", 0, 0, "rows", database)
            case events.BatchSent(names):
                self._apply(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}")
            case events.MigrationBegun(name):
                self._apply(name)
                return
            case events.MigrationApplied():
                self._applied += 1
                self._apply("")
            case _:
                pass  # shown as a line, if at all
        super().show(event)

    def _apply(self, item: str) -> None:
        self._bar.step("applying", self._applied, self._todo, "migrations", item)


def _unit(event: events.BackupProgress) -> Unit:
    units: dict[str, Unit] = {"restore": "rows", "trace": "migrations", "apply": "migrations"}
    return units.get(event.phase, "bytes")


def _line(event: events.Event) -> str:
    """An event as a line of text, empty for events that only move the bar."""
    match event:
        case events.LockAwaited(holder):
            return f"waiting for the migration lock: held by {holder}"
        case events.ServerNotice(severity, message):
            return f"{severity}: {message}"
        case events.Planned() | events.BackupProgress() | events.BatchSent() | events.Finished():
            return ""
        case (
            events.StatementDone()
            | events.Retrying()
            | events.SnapshotsAwaited()
            | events.MigrationBegun()
            | events.MigrationApplied()
            | events.Rehearsed()
        ):
            return _migration_line(event)
        case _:
            return _backup_line(event)


_MigrationEvent = (
    events.StatementDone
    | events.Retrying
    | events.SnapshotsAwaited
    | events.MigrationBegun
    | events.MigrationApplied
    | events.Rehearsed
)


def _migration_line(event: _MigrationEvent) -> str:
    match event:
        case events.StatementDone(name, number, total):
            return f"{name}: statement {number} of {total}"
        case events.Retrying(name, reason, delay_ms, blockers):
            waiting = f", waiting for {'; '.join(blockers)}" if blockers else ""
            return f"{name}: {reason}{waiting}; trying again in {format_duration(delay_ms)}"
        case events.SnapshotsAwaited(name, holders):
            return f"{name}: waiting for open transactions: {'; '.join(holders)}"
        case events.MigrationBegun(name):
            return f"applying {name}"
        case events.MigrationApplied(name, duration_ms):
            return f"applied {name}, {format_duration(duration_ms)}"
        case events.Rehearsed(name, duration_ms):
            return f"rehearsed {name}, {format_duration(duration_ms)}"
        case _:
            assert_never(event)


_BackupEvent = (
    events.BackupTaken
    | events.BackupRetried
    | events.LeftOut
    | events.BackupsRemoved
    | events.RetentionSkipped
    | events.SpaceLow
    | events.RightsMissing
)
_RestoreEvent = events.Restored | events.ItemNotRestored | events.Compared | events.SessionsAwaited | events.Swapped


def _backup_line(event: _BackupEvent | _RestoreEvent) -> str:
    match event:
        case events.BackupTaken(backup_id, path, size, duration_ms):
            content = f"{format_size(size)}, read back whole" if size is not None else path
            return f"backup {backup_id}: {content}, {format_duration(duration_ms)}"
        case events.BackupRetried(reason):
            return f"pg_dump failed, and is tried once more: {reason}"
        case events.LeftOut(objects):
            return "\n".join(f"not in the backup: {each}" for each in objects)
        case events.BackupsRemoved() | events.RetentionSkipped():
            return _retention_line(event)
        case events.SpaceLow(location, free, expected):
            return (
                f"warning: the backup may not fit: {format_size(free)} free in {location}, "
                f"about {format_size(expected)} needed"
            )
        case events.RightsMissing(reasons):
            more = f" ({len(reasons) - 1} more)" if len(reasons) > 1 else ""
            return f"warning: this role cannot restore the backup alone. {reasons[0]}{more} See `invoke doctor`."
        case _:
            return _restore_line(event)


def _restore_line(event: _RestoreEvent) -> str:
    match event:
        case events.Restored(database, duration_ms):
            return f'restored into the database "{database}", {format_duration(duration_ms)}'
        case events.ItemNotRestored(name, error):
            return f"not restored: {name}: {error}"
        case events.Compared(_, _, differences):
            result = "all as in the manifest" if not differences else format_count(len(differences), "difference")
            return "\n".join([f"compared {format_contents(event)}: {result}", *event.notes])
        case events.SessionsAwaited(database, holders):
            return f'waiting for sessions of "{database}" that this role may not end: {"; ".join(holders[:5])}'
        case events.Swapped():
            return ""  # the result names the database and the old one
        case _:
            assert_never(event)


def _retention_line(event: events.BackupsRemoved | events.RetentionSkipped) -> str:
    names = ", ".join(event.backup_ids)
    if isinstance(event, events.RetentionSkipped):
        return f"not deleted by retention: {names}: {event.reason}"
    return f"deleted by retention: {names}"
