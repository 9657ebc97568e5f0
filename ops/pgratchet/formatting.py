"""How numbers are told to people, wherever that is done: sizes, durations, counts."""

from __future__ import annotations

from collections.abc import Sequence


def format_size(number: int) -> str:
    """Bytes for people: 512 B, 12.3 kB, 4.5 GB."""
    if number < 1000:
        return f"{number} B"
    scaled, units = float(number), iter(("kB", "MB", "GB", "TB", "PB"))
    unit = "B"
    while scaled >= 1000 and (following := next(units, None)):
        scaled, unit = scaled / 1000, following
    return f"{scaled:.1f} {unit}"


def format_duration(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def milliseconds(since: float, until: float) -> int:
    return round((until - since) * 1000)


def few(names: Sequence[str]) -> str:
    """Names for a line: all of a few, the ends of many."""
    return ", ".join(names) if len(names) < 3 else f"{names[0]} to {names[-1]}, {len(names)}"
