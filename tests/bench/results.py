"""What came out: ratios and peaks, as tables for a person and as JSON for a program.

Refuses to hold seconds: they say something of the machine, and a ratio to the floor of the same round does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

MEGABYTE = 1_000_000
_HEAD = ("tool", "version", "ratio", "spread", "peak MB", "x bare", "")
_NUMBERS = (2, 3, 4, 5)


@dataclass(slots=True)
class Row:
    """One contestant in one case: its ratios, one a round, and its highest peak in bytes, over all rounds.

    `remark` says what went wrong, where it did.
    """

    tool: str
    version: str
    ratios: list[float] = field(default_factory=list)
    peak: int = 0
    remark: str = ""
    ours: bool = False

    @property
    def ratio(self) -> float | None:
        return median(self.ratios) if self.ratios else None

    def as_json(self, bare: int) -> dict[str, Any]:
        return {
            "tool": self.tool,
            "version": self.version,
            "ratio": _rounded(self.ratio),
            "ratios": [_rounded(each) for each in self.ratios],
            "peak_mb": round(self.peak / MEGABYTE, 1),
            "peak_ratio": round(self.peak / bare, 2),
            "remark": self.remark,
        }


@dataclass(slots=True)
class Table:
    """One case. `notes` are sentences below it."""

    case: str
    title: str
    measure: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def as_json(self, bare: int) -> dict[str, Any]:
        rows = [row.as_json(bare) for row in self.rows]
        return {"case": self.case, "title": self.title, "measure": self.measure, "rows": rows, "notes": self.notes}

    def as_text(self, bare: int) -> str:
        """`bare` is the peak, in bytes, of a bare task that connects and asks one question."""
        lines = [_HEAD, *(_cells(row, bare) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
        below = (*(_aligned(line, widths) for line in lines), *self.notes)
        return "\n  ".join((f"{self.case}: {self.title}; {self.measure}", *below))


def spread(ratios: Sequence[float]) -> str:
    return f"{number(min(ratios))}..{number(max(ratios))}" if ratios else ""


def number(ratio: float) -> str:
    """Three digits that mean something."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def _cells(row: Row, bare: int) -> tuple[str, ...]:
    ratio = number(row.ratio) if row.ratio is not None else "-"
    peaks = (f"{row.peak / MEGABYTE:.1f}", f"{row.peak / bare:.2f}") if row.peak else ("-", "-")
    return (row.tool, row.version, ratio, spread(row.ratios), *peaks, row.remark)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    pairs = enumerate(zip(cells, widths, strict=True))
    return "  ".join(c.rjust(width) if n in _NUMBERS else c.ljust(width) for n, (c, width) in pairs).rstrip()


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 3)
