"""Shows a running task: a progress bar on a terminal, lines of text elsewhere. Everything goes to stderr."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from typing_extensions import assert_never

from pgratchet import events
from pgratchet.console.output import on_terminal, talk
from pgratchet.console.result import RunResult
from pgratchet.formatting import format_duration, format_size


def draw(stream: events.Stream, result: RunResult, *, quiet: bool = False) -> None:
    """Follow a run to its end. Every event is added to the result, and shown unless `quiet`."""
    with _screen(len(result.plan), quiet) as screen:

        def show(event: events.Event) -> None:
            result.take(event)
            screen.show(event)

        follow(stream, show)


def follow(stream: events.Stream, show: Callable[[events.Event], None]) -> None:
    """Show the events of a stream to its end.

    A KeyboardInterrupt during `show` is thrown into the stream, because only the stream can end the work in order. The
    stream may continue, and further events are shown. Exceptions of the stream are raised here. The stream is always
    closed.
    """
    with closing(stream):
        signal: KeyboardInterrupt | None = None
        while True:
            try:
                event = stream.throw(signal) if signal else next(stream)
                signal = None
                show(event)
            except StopIteration:  # noqa: PERF203
                return
            except KeyboardInterrupt as interrupt:
                if inspect.getgeneratorstate(stream) == inspect.GEN_CLOSED:
                    raise
                signal = interrupt


@contextmanager
def _screen(count: int, quiet: bool) -> Iterator[_Lines]:
    """Where events are shown. `count` is the number of migrations to apply."""
    if quiet or not on_terminal(sys.stderr):
        yield _Lines(quiet)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=18),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    ) as progress:
        yield _Bar(progress, count)


class _Lines:
    """Shows events as lines of text; none when a program reads the result."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def show(self, event: events.Event) -> None:
        line = _line(event)
        if line and not self._quiet:
            self.write(line)

    def write(self, line: str) -> None:
        talk(line)


class _Bar(_Lines):
    """Shows events as lines above a progress bar."""

    def __init__(self, progress: Any, count: int) -> None:
        super().__init__(quiet=False)
        self._progress = progress
        self._count = count
        self._task = progress.add_task("looking", total=None)
        self._applied = 0

    def write(self, line: str) -> None:
        from rich.text import Text

        text = Text(line)
        text.highlight_regex(r"^applied\b", "green")
        self._progress.console.print(text, soft_wrap=True)

    def show(self, event: events.Event) -> None:
        super().show(event)
        match event:
            case events.BackupProgress():
                self._show_backup(event)
            case events.BatchSent():
                count, first = len(event.names), event.names[0]
                self._show_migration(f"applying {count}, from {first}" if count > 1 else f"applying {first}")
            case events.MigrationApplied():
                self._applied += 1
                self._show_migration("applying")
            case (
                events.Planned()
                | events.LockAwaited()
                | events.StatementDone()
                | events.Retrying()
                | events.SnapshotsAwaited()
                | events.ServerNotice()
                | events.Finished()
                | events.BackupTaken()
                | events.BackupRetried()
                | events.BackupsRemoved()
                | events.Restored()
                | events.Compared()
                | events.Swapped()
            ):
                pass
            case _:
                assert_never(event)

    def _show_backup(self, event: events.BackupProgress) -> None:
        verb = {"dump": "dumping", "verify": "reading back", "copy": "copying", "restore": "restoring"}[event.phase]
        written = f", {format_size(event.written)}" if event.written else ""
        self._progress.update(
            self._task, description=f"{verb}{written}", total=event.total or None, completed=event.done
        )

    def _show_migration(self, description: str) -> None:
        width = max(20, self._progress.console.width - 45)
        short = description if len(description) <= width else description[: width - 3] + "..."
        self._progress.update(self._task, description=short, total=self._count, completed=self._applied)


_BackupEvent = (
    events.BackupTaken
    | events.BackupRetried
    | events.BackupsRemoved
    | events.Restored
    | events.Compared
    | events.Swapped
)


def _line(event: events.Event) -> str:  # noqa: C901  a case for each event
    """An event as a line of text, empty for events that only move the bar."""
    match event:
        case events.LockAwaited():
            return f"waiting for the migration lock: held by {event.holder}"
        case events.StatementDone():
            return f"{event.name}: statement {event.number} of {event.total}"
        case events.Retrying():
            waited = f", waiting for {'; '.join(event.blockers)}" if event.blockers else ""
            return f"{event.name}: {event.reason}{waited}; trying again in {format_duration(event.delay_ms)}"
        case events.SnapshotsAwaited():
            return f"{event.name}: waiting for open transactions: {'; '.join(event.holders)}"
        case events.MigrationApplied():
            return f"applied {event.name}, {format_duration(event.duration_ms)}"
        case events.ServerNotice():
            return f"{event.severity}: {event.message}"
        case events.BackupTaken() | events.BackupRetried() | events.BackupsRemoved():
            return _backup_line(event)
        case events.Restored() | events.Compared() | events.Swapped():
            return _backup_line(event)
        case events.Planned() | events.BatchSent() | events.BackupProgress() | events.Finished():
            return ""
        case _:
            assert_never(event)


def _backup_line(event: _BackupEvent) -> str:
    match event:
        case events.BackupTaken():
            content = f"{format_size(event.size)}, read back whole" if event.size is not None else event.path
            return f"backup {event.backup_id}: {content}, {format_duration(event.duration_ms)}"
        case events.BackupRetried():
            return f"pg_dump failed, and is tried once more: {event.reason}"
        case events.BackupsRemoved():
            return f"deleted, as no longer kept: {', '.join(event.backup_ids)}"
        case events.Restored():
            return f'restored into the database "{event.database}", {format_duration(event.duration_ms)}'
        case events.Compared():
            outcome = f"{len(event.differences)} differences" if event.differences else "all as in the manifest"
            return f"compared {event.tables} tables with {event.rows} rows: {outcome}"
        case events.Swapped():
            old = f'; the old one is kept as "{event.kept}"' if event.kept else ""
            return f'"{event.database}" is what was restored{old}'
        case _:
            assert_never(event)
