"""A run as it goes on: its events drawn on a terminal, written as lines elsewhere, gathered into its outcome.

Owns what moves. Everything goes to stderr, so that stdout stays data. Refuses to know where the events come
from: a local applier and one on another machine look the same.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pgratchet import events
from pgratchet.console.report import on_terminal, talk
from pgratchet.console.result import RunResult
from pgratchet.formatting import format_duration, format_size

_T = TypeVar("_T")


def draw(stream: Generator[events.Event, None, _T], outcome: RunResult, *, quiet: bool = False) -> _T:
    """Follow a run: every event is shown as it comes and gathered into the outcome; returns what the run does."""
    with _screen(len(outcome.plan), quiet) as screen:
        while True:
            try:
                event = next(stream)
            except StopIteration as end:
                return cast(_T, end.value)
            outcome.take(event)
            screen.show(event)


@contextmanager
def _screen(todo: int, quiet: bool) -> Iterator[_Lines]:
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

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=18),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns[:3],
        MofNCompleteColumn(),
        columns[3],
        console=Console(stderr=True, highlight=False),
        transient=True,
    ) as progress:
        yield _Bars(progress, todo)


class _Lines:
    """Events as lines of text: for a log, a pipe, a dumb terminal; none where a program reads the result."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def show(self, event: events.Event) -> None:
        line = _line(event)
        if line and not self._quiet:
            self.write(line)

    def write(self, line: str) -> None:
        talk(line)


class _Bars(_Lines):
    """Events as lines above a bar that moves."""

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
        if isinstance(event, events.BackupProgress):
            word = {"dump": "dumping", "verify": "reading back", "copy": "copying", "restore": "restoring"}[event.phase]
            written = f", {format_size(event.written)}" if event.written else ""
            self._progress.update(
                self._task, description=f"{word}{written}", total=event.total or None, completed=event.done
            )
        elif isinstance(event, events.BatchSent):
            several = f"applying {len(event.names)}, from {event.names[0]}"
            self._update(several if len(event.names) > 1 else f"applying {event.names[0]}")
        elif isinstance(event, events.MigrationApplied):
            self._applied += 1
            self._update("applying")

    def _update(self, description: str) -> None:
        width = max(20, self._progress.console.width - 45)
        short = description if len(description) <= width else description[: width - 3] + "..."
        self._progress.update(self._task, description=short, total=self._todo, completed=self._applied)


def _line(event: events.Event) -> str:
    if isinstance(event, events.LockAwaited):
        return f"waiting for the migration lock: held by {event.holder}"
    if isinstance(event, events.StatementDone):
        return f"{event.name}: statement {event.number} of {event.total}"
    if isinstance(event, events.Retrying):
        waited = f", waiting for {'; '.join(event.blockers)}" if event.blockers else ""
        return f"{event.name}: {event.reason}{waited}; trying again in {format_duration(event.delay_ms)}"
    if isinstance(event, events.SnapshotsAwaited):
        return f"{event.name}: waiting for open transactions: {'; '.join(event.holders)}"
    if isinstance(event, events.MigrationApplied):
        return f"applied {event.name}, {format_duration(event.duration_ms)}"
    if isinstance(event, events.ServerNotice):
        return f"{event.severity}: {event.message}"
    return _backup_line(event)


def _backup_line(event: events.Event) -> str:
    if isinstance(event, events.BackupTaken):
        read = f"{format_size(event.size)}, read back whole" if event.size is not None else event.path
        return f"backup {event.backup_id}: {read}, {format_duration(event.duration_ms)}"
    if isinstance(event, events.BackupRetried):
        return f"pg_dump failed, and is tried once more: {event.reason}"
    if isinstance(event, events.BackupsRemoved):
        return f"deleted, as no longer kept: {', '.join(event.backup_ids)}"
    if isinstance(event, events.Restored):
        return f'restored into the database "{event.database}", {format_duration(event.duration_ms)}'
    if isinstance(event, events.Compared):
        told = "all as in the manifest" if not event.differences else f"{len(event.differences)} differences"
        return f"compared {event.tables} tables with {event.rows} rows: {told}"
    if isinstance(event, events.Swapped):
        kept = f'; the old one is kept as "{event.old_database}"' if event.old_database else ""
        return f'"{event.database}" is what was restored{kept}'
    return ""
