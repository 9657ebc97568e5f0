"""Formats sizes, durations, counts and lists of names for people."""

from __future__ import annotations

from collections.abc import Sequence


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


def join_names(names: Sequence[str]) -> str:
    """Join migration names for a sentence: up to four in full, otherwise the first, the last and the count."""
    if len(names) > 4:
        return f"{names[0]} to {names[-1]} ({len(names)} migrations)"
    return " and ".join(names)


def abbreviate_names(names: Sequence[str]) -> str:
    """Join names for a table cell: up to two in full, otherwise the first, the last and the count."""
    return ", ".join(names) if len(names) < 3 else f"{names[0]} to {names[-1]}, {len(names)}"


def elapsed_ms(start: float, end: float) -> int:
    """Convert the time between two readings of a clock, in seconds, to milliseconds."""
    return round((end - start) * 1000)
