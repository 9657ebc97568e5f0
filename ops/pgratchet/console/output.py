"""Writes to the terminal: data to standard output, talk to standard error.

Colour and drawn tables appear only on a terminal; NO_COLOR and TERM=dumb are honoured (https://no-color.org).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import IO, Literal, NamedTuple

from pgratchet.console import commands
from pgratchet.console.text_layout import break_name, cell_width, format_excerpt, wrap
from pgratchet.errors import Location, RatchetError, combine_parts
from pgratchet.formatting import printable

_PLACE = re.compile(r"\.sql:\d+:\d+: ")
_PIPE_WIDTH = 120
"""Columns of a shown line of a file where the output is not a terminal."""
_COLOURS = {
    "applied": "green",
    "complete": "green",
    "pending": "yellow",
    "pending, contract": "yellow",
    "up to date": "green",
    "new": "yellow",
    "changed": "red",
    "missing": "red",
    "out-of-order": "red",
    "unfinished": "red",
    "half-squashed": "red",
    "ok": "green",
    "warning": "yellow",
    "problem": "red",
    "verified": "green",
    "within budget": "green",
    "over budget": "red",
    "claimed": "yellow",
    "rolled back": "yellow",
    "no file": "red",
    "skipped": "red",
    "failed": "red",
    "cannot run": "red",
}
"""The colours of the words in a table's second column."""


def on_terminal(stream: IO[str] | None) -> bool:
    """Return whether a stream is a terminal with cursor movement."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def say(text: str) -> None:
    """Print a line for the person, to standard error. On a terminal it is broken between words."""
    text = printable(text)
    shown = wrap(text, terminal_width(), "  ") if on_terminal(sys.stderr) else text
    print(shown, file=sys.stderr, flush=True)


def terminal_width() -> int:
    """Return the number of columns of the terminal, at least 40."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def write(text: str) -> None:
    """Print a line of data, to standard output."""
    print(text, flush=True)


def write_wrapped(text: str) -> None:
    """Print a line of data, to standard output. On a terminal it is broken between words."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    write(wrap(printable(text), terminal_width(), indent) if on_terminal(sys.stdout) else printable(text))


def format_time(moment: datetime, *, on_stderr: bool = False) -> str:
    """Format a time in the user's zone on a terminal, as 2026-11-26 22:49:42+01, and in UTC with a Z elsewhere."""
    is_local = on_terminal(sys.stderr if on_stderr else sys.stdout)
    shown = moment.astimezone(None if is_local else timezone.utc)
    offset = shown.strftime("%z")
    zone = "Z" if not shown.utcoffset() else f"{offset[:3]}:{offset[3:]}".removesuffix(":00")
    return f"{shown:%Y-%m-%d %H:%M:%S}{zone}"


def format_short_time(moment: datetime) -> str:
    """Format a time for a narrow column, in the user's zone: as 11-26 22:49 in this year, else as 2025-11-26."""
    local = moment.astimezone()
    return f"{local:%m-%d %H:%M}" if local.year == datetime.now().astimezone().year else f"{local:%Y-%m-%d}"


def write_json(shape: object) -> None:
    """Print a value as a line of JSON, to standard output."""
    write(json.dumps(shape, ensure_ascii=False))


def show_error(error: RatchetError) -> None:
    """Print the three parts of an error, to standard error, and the line of the file that it is about.

    On a terminal, they are broken between words at the terminal's width.
    """
    is_drawn = on_terminal(sys.stderr)
    width = terminal_width() if is_drawn else _PIPE_WIDTH
    message, detail, hint = (_with_excerpt(printable(part), error.location, width) for part in error.parts)
    if not is_drawn:
        say(commands.typed(combine_parts(message, detail, hint)))
        return
    from rich.console import Console
    from rich.text import Text

    named = [(name, part) for name, part in (("", message), ("DETAIL: ", detail), ("HINT: ", hint)) if part]
    shown = [wrap(name + commands.typed(part), width, " " * len(name)) for name, part in named]
    text = Text("\n".join(shown))
    text.stylize("bold red", 0, len(shown[0].partition("\n   ")[0]))
    text.highlight_regex(r"(?m)^ +\d* \|( *\^)?", "blue")
    text.highlight_regex(r"(?m)^(DETAIL|HINT):", "bold")
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def _with_excerpt(part: str, location: Location | None, width: int) -> str:
    """A part of an error, with the line of the file below the line that names its location."""
    lines = part.split("\n")
    if location is None or location.line is None or not location.before + location.after:
        return part
    if sum(bool(_PLACE.search(line)) for line in lines) > 1:  # several mistakes, of which one would be shown
        return part
    for index, line in enumerate(lines):
        if str(location) in line:
            excerpt = format_excerpt(location.line, location.before, location.after, width - len("DETAIL: "))
            return "\n".join([*lines[: index + 1], *excerpt, *lines[index + 1 :]])
    return part


def ask(question: str) -> str | None:
    """Return what a person at a terminal types. Without a terminal, nothing is asked, and the answer is None."""
    if not sys.stdin or not sys.stdin.isatty():
        return None
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


class Table(NamedTuple):
    """Names of columns, and rows with a cell for each."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def show_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    narrow: Callable[[], Table] | None = None,
    on_stderr: bool = False,
) -> None:
    """Print rows under a header: drawn on a terminal, plain columns elsewhere. Prints nothing without rows.

    `narrow` makes the table for a terminal that is too narrow for the rows.
    """
    stream = sys.stderr if on_stderr else sys.stdout
    if not rows:
        return
    if on_terminal(stream):
        _draw_table(title, Table(header, _printable_rows(rows)), narrow, stream)
        return
    rows = _printable_rows(rows)
    lines = [[word.upper() for word in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    print("\n".join([title, *(line.rstrip() for line in padded)]), file=stream, flush=True)


def _printable_rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[printable(cell) for cell in row] for row in rows]


_UNBROKEN = (
    "took",
    "size",
    "applied at",
    "applied",
    "backup",
    "drilled",
    "rehearsed",
    "restore",
    "trend",
    "data",
    "rows",
)
"""Columns whose cells stay on one line."""
_RIGHT = ("took", "size")
_GAP, _NARROW_GAP, _EDGES = 3, 2, 2
"""Spaces between two columns, also where there is no room, and beside the first and the last column."""
_SHORTEST_NAME = 20


def _draw_table(title: str, table: Table, narrow: Callable[[], Table] | None, stream: IO[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as DrawnTable
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    is_narrow = _width(table, _GAP) + _EDGES > console.width
    if is_narrow:
        if narrow:
            header, rows = narrow()
            table = Table(header, _printable_rows(rows))
        table = _with_broken_names(table, console.width)
    drawn = DrawnTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=not is_narrow, collapse_padding=is_narrow)
    for name in table.header:
        justify: Literal["left", "right"] = "right" if name in _RIGHT else "left"
        drawn.add_column(name, overflow="fold", no_wrap=name in _UNBROKEN, justify=justify)
    for row in table.rows:
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "") if i == 1 else "") for i, cell in enumerate(row)))
    console.print(Text(title, style="bold"))
    console.print(drawn)


def _width(table: Table, gap: int) -> int:
    """Return the number of columns of a table without broken cells."""
    return sum(_column_widths(table)) + gap * (len(table.header) - 1)


def _column_widths(table: Table) -> list[int]:
    return [max(map(cell_width, cells)) for cells in zip(table.header, *table.rows, strict=True)]


def _with_broken_names(table: Table, width: int) -> Table:
    """Return the table with the names in its first column broken so that it fits, if the other columns leave room."""
    free = width - _width(table, _NARROW_GAP) + _column_widths(table)[0]
    if table.header[0] != "migration" or free < _SHORTEST_NAME:
        return table
    return Table(table.header, [[break_name(name, free), *others] for name, *others in table.rows])
