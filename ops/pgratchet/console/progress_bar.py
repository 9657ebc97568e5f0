"""Draws a progress bar on a terminal: what is done, how much of how much, how fast, and the time that is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pgratchet.console.text_layout import cut_middle
from pgratchet.formatting import format_size

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID
    from rich.text import Text

Unit = Literal["bytes", "rows", "migrations"]
_BAR_WIDTH = 10
_SHORTEST_DESCRIPTION, _SHORTEST_ITEM = 12, 9
_MEASURES: dict[Unit, int] = {"bytes": 52, "rows": 52, "migrations": 28}
_SHORT_MEASURES = 14
"""Columns that the description leaves free for the measures: with a total, and without one."""


class ProgressBar:
    """A bar below the lines of a task. It is hidden until its first step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._phase = ""

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        from rich.text import Text

        text = Text(line)
        text.highlight_regex(r"^applied\b", "green")
        self._progress.console.print(text, soft_wrap=True)

    def step(self, phase: str, done: int, total: int, unit: Unit, item: str = "") -> None:
        """Show a phase of the task, and the item that it works on. A `total` of 0 is an unknown one.

        Rate and time are those of the phase.
        """
        description = self._describe(phase, item, _MEASURES[unit] if total else _SHORT_MEASURES)
        if self._task is None or phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._phase = self._progress.add_task(description, total=total or None, unit=unit), phase
        self._progress.update(self._task, completed=done, description=description)

    def _describe(self, phase: str, item: str, measures_width: int) -> str:
        """The phase and the item. The middle of the item is cut: names of files begin alike."""
        width = max(_SHORTEST_DESCRIPTION, self._progress.console.width - _BAR_WIDTH - measures_width)
        shortened = cut_middle(item, max(_SHORTEST_ITEM, width - len(phase) - 1))
        return f"{phase} {shortened}".rstrip()


@contextmanager
def open_bar() -> Iterator[ProgressBar]:
    """A progress bar on standard error, which disappears at the end of the block."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    class Measures(ProgressColumn):
        def render(self, task: Task) -> Text:
            remaining = None if task.time_remaining is None else round(task.time_remaining)
            total, unit = round(task.total or 0), task.fields["unit"]
            return Text(
                measures(
                    round(task.completed), total, unit, rate=task.speed, remaining=remaining, elapsed=task.elapsed or 0
                )
            )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=_BAR_WIDTH), Measures())
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True) as progress:
        yield ProgressBar(progress)


def measures(
    done: int, total: int, unit: Unit, *, rate: float | None = None, remaining: int | None = None, elapsed: float = 0
) -> str:
    """Describe how far a phase is. `rate` is in units per second, `remaining` and `elapsed` are seconds."""
    time = _coarse(round(elapsed)) if remaining is None else f"{_coarse(remaining)} left"
    if unit == "migrations" or not total:
        return "  ".join([*([f"{done} of {total}"] if total else []), _coarse(round(elapsed))])
    percentage = f"{100 * done // total:3} %"
    if unit == "bytes":
        speed = f"{format_size(round(rate))}/s" if rate else ""
        return "  ".join(part for part in (percentage, _sizes(done, total), speed, time) if part)
    speed = f"{rate:,.0f}/s" if rate else ""
    return "  ".join(part for part in (percentage, f"{done:,} rows", speed, time) if part)


def _sizes(done: int, total: int) -> str:
    """Two sizes, with one unit when it is the same."""
    first, second = format_size(done), format_size(total)
    number, unit = first.split(" ")
    return f"{number if second.endswith(' ' + unit) else first} of {second}"


def _coarse(seconds: int) -> str:
    """A duration with one or two units: 8 s, 1 min 5 s, 12 min, 3 h 20 min."""
    minutes, hours = seconds // 60, seconds // 3600
    if not minutes:
        return f"{seconds} s"
    if minutes < 10:
        return f"{minutes} min {seconds % 60} s"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
