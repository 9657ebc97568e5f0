"""The limits of the inventory for a rehearsed run, and excesses. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgratchet.errors import ConfigurationError
from pgratchet.formatting import format_duration, format_size, suggest
from pgratchet.rehearsal.report import Position, Report, Stop

_DURATIONS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS: Mapping[str, Mapping[str, int]] = {
    "blocks_reads": _DURATIONS,
    "blocks_writes": _DURATIONS,
    "total": _DURATIONS,
    "rewrite": _SIZES,
}
"""The limits, with units in milliseconds or bytes."""
_VALUE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Excess:
    """An exceeded limit. `locked_at` and `spent_at` are None for the total."""

    limit: str
    allowed: int
    actual: int
    relation: str = ""
    locked_at: Position | None = None
    spent_at: Position | None = None

    def describe(self) -> str:
        """A sentence with both lines."""
        form = format_size if self.limit == "rewrite" else format_duration
        amounts = f"{form(self.actual)}, and the limit is {form(self.allowed)}"
        if self.limit == "total":
            return f"The migrations took {amounts}."
        if self.limit == "rewrite":
            return f"{self.relation} is rewritten at {self.locked_at}: {amounts}."
        what = "Reads and writes" if self.limit == "blocks_reads" else "Writes"
        cause = f"locked at {self.locked_at}"
        if self.spent_at != self.locked_at:
            cause += f", and {self.spent_at} takes the time"
        return f"{what} of {self.relation} wait {amounts}: {cause}."


def parse_budget(values: Mapping[str, str]) -> dict[str, int]:
    """Return the limits in milliseconds and bytes. Raises ConfigurationError with the name of a wrong limit."""
    return {name: _parse(name, text) for name, text in values.items()}


def _parse(name: str, text: str) -> int:
    units = _UNITS.get(name)
    if units is None:
        raise ConfigurationError(
            f'the inventory\'s rehearsal_budget has no limit "{name}"',
            detail=f"The limits are {', '.join(_UNITS)}.{suggest(name, _UNITS)}",
            hint="Correct the name in the inventory.",
        )
    match = _VALUE.fullmatch(text.strip())
    if match is None or match["unit"] not in units:
        raise ConfigurationError(
            f'"{text}" is no value of {name} in the inventory\'s rehearsal_budget',
            detail=f"A value is a number with a unit: {', '.join(units)}.",
            hint=f"Write {name}: {'1GB' if units is _SIZES else '500ms'}, for example.",
        )
    return round(float(match["number"]) * units[match["unit"]])


def find_excesses(report: Report, budget: Mapping[str, int]) -> list[Excess]:
    """Return the excesses: each table once for each limit."""
    excesses = [*_long_stops(report, budget), *_large_rewrites(report, budget)]
    if "total" in budget and report.duration_ms > budget["total"]:
        excesses.append(Excess("total", budget["total"], round(report.duration_ms)))
    return excesses


def _long_stops(report: Report, budget: Mapping[str, int]) -> Iterator[Excess]:
    """Yield the longest stop of each table over a limit. A lock against reads blocks writes too."""
    for limit, kinds in (("blocks_reads", ("reads",)), ("blocks_writes", ("reads", "writes"))):
        longest: dict[str, Stop] = {}
        for stop in report.stops:
            if stop.blocks in kinds and stop.duration_ms > getattr(longest.get(stop.relation), "duration_ms", 0):
                longest[stop.relation] = stop
        for stop in longest.values():
            actual = round(stop.duration_ms)
            if limit in budget and actual > budget[limit]:
                yield Excess(limit, budget[limit], actual, stop.relation, stop.locked_at, stop.spent_at)


def _large_rewrites(report: Report, budget: Mapping[str, int]) -> Iterator[Excess]:
    for statement in report.statements:
        for rewrite in statement.rewrites:
            if "rewrite" in budget and rewrite.bytes > budget["rewrite"]:
                at = statement.position
                yield Excess("rewrite", budget["rewrite"], rewrite.bytes, rewrite.relation, at, at)
