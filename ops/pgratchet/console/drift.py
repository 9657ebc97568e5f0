"""Shows the differences between a live schema and the one that migrations make."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import ndiff
from typing import TYPE_CHECKING

from pgratchet.console.output import on_terminal, write
from pgratchet.formatting import format_count, printable

if TYPE_CHECKING:
    from pgratchet.schema.differences import Difference
    from pgratchet.schema.drift import Drift

_MOST_LINES = 40
_STYLES = {"-": "red", "+": "green", "!": "bold"}


def show_drift(title: str, drift: Drift) -> None:
    """Show each difference below the target's title: lines of the files with a minus, of the database with a plus."""
    count = len(drift.differences)
    summary = f"{format_count(count, 'difference')} from the migrations" if count else "as the migrations make it"
    if not count and drift.not_compared:
        summary += ", as far as it was compared"
    lines = [("!", f"{title}: {summary}")]
    for difference in drift.differences:
        lines.append(("!", f"{difference.change} {difference.kind} {difference.name}"))
        lines += [(line[0], f"  {line}") for line in _excerpt(difference)]
    lines += [(" ", f"not compared: {each.name}. {each.reason}") for each in drift.not_compared]
    _print(lines)


def _excerpt(difference: Difference) -> list[str]:
    lines = list(_lines(difference))
    return [*lines[:_MOST_LINES], *([f"  ... and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else [])]


def _lines(difference: Difference) -> Iterator[str]:
    if difference.change == "changed":
        diff = ndiff(difference.expected.splitlines(), difference.actual.splitlines())
        yield from (line for line in diff if not line.startswith("?"))
    else:
        mark = "+" if difference.change == "added" else "-"
        yield from (f"{mark} {line}" for line in (difference.actual or difference.expected).splitlines())


def _print(lines: list[tuple[str, str]]) -> None:
    if not on_terminal(sys.stdout):
        write("\n".join(printable(text) for _, text in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for mark, text in lines:
        console.print(Text(printable(text), style=_STYLES.get(mark, "")))
