"""Formats sizes, durations, counts, lists of names and texts of others for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

_ESCAPE = re.compile(
    r"""\x1b \[ [0-?]* [ -/]* [@-~]                            # colours and movements of the cursor
      | \x1b [\]PX^_] [^\x07\x1b]* (?: \x07 | \x1b\\ )?        # titles, links, the clipboard
      | \x1b [ -/]* [0-~]?
      | [\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]  # control characters, and changes of direction
    """,
    re.VERBOSE,
)
"""Escape sequences (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html), and characters that a terminal obeys."""


def printable(text: str) -> str:
    """Remove what a terminal would obey instead of showing, from a text of another program, file or server."""
    return _ESCAPE.sub("", text.replace("\r", "\n")) if not text.isprintable() else text


def format_size(number: int) -> str:
    """Format bytes in decimal units: 512 B, 12.3 kB, 4.5 GB."""
    if number < 1000:
        return f"{number} B"
    scaled, units = float(number), iter(("kB", "MB", "GB", "TB", "PB"))
    unit = "B"
    while scaled >= 1000 and (larger := next(units, None)):
        scaled, unit = scaled / 1000, larger
    return f"{scaled:.1f} {unit}"


def format_duration(milliseconds: int | None) -> str:
    """Format milliseconds: 512 ms, 12.3 s, 4 min 5 s; an empty text for None."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def format_count(number: int, noun: str) -> str:
    """Format a number with its noun, in the plural where needed: 1 file, 2 files."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


class _Contents(Protocol):
    @property
    def tables(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def sequences(self) -> int: ...
    @property
    def materialized_views(self) -> int: ...


def format_contents(compared: _Contents) -> str:
    """Format the numbers of a comparison: 2 tables with 4 rows, 1 sequence."""
    parts = [f"{format_count(compared.tables, 'table')} with {format_count(compared.rows, 'row')}"]
    parts += [format_count(compared.sequences, "sequence")] if compared.sequences else []
    parts += [format_count(compared.materialized_views, "materialized view")] if compared.materialized_views else []
    return ", ".join(parts)


def join_names(names: Sequence[str]) -> str:
    """Join migration names for a sentence: up to four in full, otherwise the first, the last and the count."""
    if len(names) > 4:
        return f"{names[0]} to {names[-1]} ({len(names)} migrations)"
    return " and ".join(names)


def were_applied(names: Sequence[str]) -> str:
    """A clause that says which migrations were applied."""
    return f"{join_names(names)} {was_or_were(names)} applied"


def was_or_were(names: Sequence[str]) -> str:
    """The verb that follows the names in a sentence."""
    return "was" if len(names) == 1 else "were"


def abbreviate_names(names: Sequence[str]) -> str:
    """Join names for a table cell: up to two in full, otherwise the first, the last and the count."""
    return ", ".join(names) if len(names) < 3 else f"{names[0]} to {names[-1]}, {len(names)}"


def suggest(word: str, words: Iterable[str]) -> str:
    """Return a question that names the most similar word, after a space; an empty text when none is similar.

    A word is also similar to its own beginning, as production is to prod.
    """
    import difflib

    known, typed = list(words), word.lower()
    near = difflib.get_close_matches(typed, known, n=1, cutoff=0.6) or [
        each for each in known if min(len(each), len(typed)) > 2 and (each.startswith(typed) or typed.startswith(each))
    ]
    return f" Did you mean {near[0]}?" if near else ""


def elapsed_ms(start: float, end: float) -> int:
    """Convert the time between two readings of a clock, in seconds, to milliseconds."""
    return round((end - start) * 1000)
