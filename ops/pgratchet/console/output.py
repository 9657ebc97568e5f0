"""Writes to the terminal: data to standard output, talk to standard error.

Colour and drawn tables appear only on a terminal; NO_COLOR and TERM=dumb are honoured (https://no-color.org).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import IO

from pgratchet.console import commands
from pgratchet.errors import RatchetError

_COLOURS = {
    "applied": "green",
    "complete": "green",
    "pending": "yellow",
    "changed": "red",
    "missing": "red",
    "out-of-order": "red",
    "unfinished": "red",
    "ok": "green",
    "warning": "yellow",
    "problem": "red",
    "verified": "green",
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
    """Print a line for the person, to standard error."""
    print(text, file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Print a line of data, to standard output."""
    print(text, flush=True)


def write_json(shape: object) -> None:
    """Print a value as a line of JSON, to standard output."""
    write(json.dumps(shape, ensure_ascii=False))


def show_error(error: RatchetError) -> None:
    """Print the three parts of an error, to standard error."""
    message = commands.typed(str(error))
    if not on_terminal(sys.stderr):
        say(message)
        return
    from rich.console import Console
    from rich.text import Text

    text = Text(message)
    text.stylize("bold red", 0, len(error.message))
    text.highlight_regex(r"^(DETAIL|HINT):", "bold")
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def confirm(question: str, answer: str) -> bool:
    """Return whether a person at a terminal types the answer. Without a terminal the answer is no."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == answer


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, on_stderr: bool = False) -> None:
    """Print rows under a header: drawn on a terminal, plain columns elsewhere. Prints nothing without rows."""
    stream = sys.stderr if on_stderr else sys.stdout
    if not rows:
        return
    if on_terminal(stream):
        _draw_table(title, header, rows, stream)
        return
    lines = [[word.upper() for word in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    print("\n".join([title, *(line.rstrip() for line in padded)]), file=stream, flush=True)


def _draw_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], stream: IO[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        no_wrap = name in ("took", "size", "applied at", "applied", "backup")
        drawn.add_column(
            name, overflow="fold", no_wrap=no_wrap, justify="right" if name in ("took", "size") else "left"
        )
    for row in rows:
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "") if i == 1 else "") for i, cell in enumerate(row)))
    console = Console(file=stream, highlight=False)
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(drawn)
