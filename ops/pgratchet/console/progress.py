"""Shows a running task: a progress bar on a terminal, lines of text elsewhere. Everything goes to standard error.

An event that is not handled here is a type error, because the functions below end in `assert_never`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from pgratchet import events
from pgratchet.console.output import on_terminal, say
from pgratchet.formatting import format_duration, format_size

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult

_PHASES = {"dump": "dumping", "verify": "reading back", "copy": "copying", "restore": "restoring"}


def draw(stream: events.Stream, result: RunResult, *, quiet: bool = False) -> None:
    """Run a stream to the end. Every event is added to the result, and shown unless `quiet`."""
    with _screen(len(result.plan), quiet) as screen:

        def show(event: events.Event) -> None:
            result.take(event)
            screen.show(event)

        follow(stream, show)


def follow(stream: events.Stream, show: Callable[[events.Event], None]) -> None:
    """Run a stream to the end and show every event.

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
                for event in stream:
                    show(event)
                return
            except StopIteration:  # noqa: PERF203  the stream ended at the signal, without another event
                return
            except KeyboardInterrupt as stop:
                if inspect.getgeneratorstate(stream) == inspect.GEN_CLOSED:
                    raise
                signal = stop


@contextmanager
def _screen(todo: int, quiet: bool) -> Iterator[_Lines]:
    if quiet or not on_terminal(sys.stderr):
        yield _Lines(quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=18),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    ) as progress:
        yield _Bar(progress, todo)


class _Lines:
    """Shows events as lines of text; nothing when a program reads the result."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def show(self, event: events.Event) -> None:
        line = _line(event)
        if line and not self._quiet:
            self.write(line)

    def write(self, line: str) -> None:
        say(line)


class _Bar(_Lines):
    """Shows events as lines above a progress bar."""

    def __init__(self, progress: Any, todo: int) -> None:
        super().__init__(quiet=False)
        self._progress = progress
        self._todo = todo
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
                written = f", {format_size(event.written)}" if event.written else ""
                description = f"{_PHASES[event.phase]}{written}"
                self._progress.update(
                    self._task, description=description, total=event.total or None, completed=event.done
                )
            case events.BatchSent(names):
                self._update(f"applying {len(names)}, from {names[0]}" if len(names) > 1 else f"applying {names[0]}")
            case events.MigrationApplied():
                self._applied += 1
                self._update("applying")
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
                pass  # shown as a line, if at all
            case _:
                assert_never(event)

    def _update(self, description: str) -> None:
        width = max(20, self._progress.console.width - 45)
        short = description if len(description) <= width else description[: width - 3] + "..."
        self._progress.update(self._task, description=short, total=self._todo, completed=self._applied)


def _line(event: events.Event) -> str:
    """An event as a line of text, empty for events that only move the bar."""
    match event:
        case events.LockAwaited(holder):
            return f"waiting for the migration lock: held by {holder}"
        case events.StatementDone(name, number, total):
            return f"{name}: statement {number} of {total}"
        case events.Retrying(name, reason, delay_ms, blockers):
            waiting = f", waiting for {'; '.join(blockers)}" if blockers else ""
            return f"{name}: {reason}{waiting}; trying again in {format_duration(delay_ms)}"
        case events.SnapshotsAwaited(name, holders):
            return f"{name}: waiting for open transactions: {'; '.join(holders)}"
        case events.MigrationApplied(name, duration_ms):
            return f"applied {name}, {format_duration(duration_ms)}"
        case events.ServerNotice(severity, message):
            return f"{severity}: {message}"
        case events.Planned() | events.BackupProgress() | events.BatchSent() | events.Finished():
            return ""
        case _:
            return _backup_line(event)


_BackupEvent = (
    events.BackupTaken
    | events.BackupRetried
    | events.BackupsRemoved
    | events.Restored
    | events.Compared
    | events.Swapped
)


def _backup_line(event: _BackupEvent) -> str:
    match event:
        case events.BackupTaken(backup_id, path, size, duration_ms):
            content = f"{format_size(size)}, read back whole" if size is not None else path
            return f"backup {backup_id}: {content}, {format_duration(duration_ms)}"
        case events.BackupRetried(reason):
            return f"pg_dump failed, and is tried once more: {reason}"
        case events.BackupsRemoved(backup_ids):
            return f"deleted, as no longer kept: {', '.join(backup_ids)}"
        case events.Restored(database, duration_ms):
            return f'restored into the database "{database}", {format_duration(duration_ms)}'
        case events.Compared(tables, rows, differences):
            result = "all as in the manifest" if not differences else f"{len(differences)} differences"
            return f"compared {tables} tables with {rows} rows: {result}"
        case events.Swapped(database, old):
            suffix = f'; the old one is kept as "{old}"' if old else ""
            return f'"{database}" is what was restored{suffix}'
        case _:
            assert_never(event)
