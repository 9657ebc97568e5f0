"""The chart: every case a group of bars, each bar a ratio to that case's floor, on a logarithmic axis.

Every bar starts at the left edge, so that shorter is faster on both sides of 1, where a line stands for the floor. Ours
stand out. It brings its own background, so that it reads the same on a light page and on a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment

from tests.bench.results import Row, Table, number

_WIDTH, _LEFT, _RIGHT, _TOP, _FOOT = 860, 190, 90, 98, 30
_BAR, _GAP, _HEAD = 15, 4, 30
_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    value: str
    y: int
    length: float
    ours: bool


@dataclass(frozen=True, slots=True)
class _Group:
    title: str
    floor: str
    y: int
    bars: tuple[_Bar, ...]


@dataclass(frozen=True, slots=True)
class _Axis:
    """From ratios to pixels."""

    low: float
    high: float

    def at(self, ratio: float) -> float:
        share = math.log(ratio / self.low) / math.log(self.high / self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> list[float]:
        return [tick for tick in _TICKS if self.low <= tick <= self.high]


def draw(tables: Sequence[Table], machine: str) -> str:
    """The cases that compare tools, as SVG."""
    shown = [table for table in tables if not table.rows[0].ours]
    axis = _axis([row.ratio for table in shown for row in table.rows if row.ratio])
    groups, height = _groups(shown, axis)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_SVG)
    return template.render(
        groups=groups,
        ticks=[(axis.at(tick), f"{tick:g}") for tick in axis.ticks()],
        one=axis.at(1),
        machine=machine,
        width=_WIDTH,
        height=height + _FOOT,
        top=_TOP,
        bottom=height,
        left=_LEFT,
        bar=_BAR,
    )


def _axis(ratios: Sequence[float]) -> _Axis:
    low = max((tick for tick in _TICKS if tick < min(ratios, default=1)), default=_TICKS[0])
    high = min((tick for tick in _TICKS if tick >= max(ratios, default=1)), default=_TICKS[-1])
    return _Axis(min(low, 0.5), max(high, 2))


def _groups(tables: Sequence[Table], axis: _Axis) -> tuple[list[_Group], int]:
    groups, y = list[_Group](), _TOP
    for table in tables:
        first = y + _HEAD
        bars = tuple(_bars(table.rows[1:], axis, first))
        groups.append(_Group(table.title, table.rows[0].tool, y + _HEAD - 9, bars))
        y = first + len(bars) * (_BAR + _GAP) + 4
    return groups, y + 8


def _bars(rows: Sequence[Row], axis: _Axis, y: int) -> Iterator[_Bar]:
    for row in rows:
        length = axis.at(row.ratio) - _LEFT if row.ratio else 0
        value = number(row.ratio) if row.ratio else _short(row.remark)
        yield _Bar(row.tool, value, y, length, row.ours)
        y += _BAR + _GAP


def _short(remark: str) -> str:
    return remark if remark.startswith("more than") else "fails"


_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" \
height="{{ height }}" role="img" aria-label="How long pgratchet takes, beside other tools">
<style>
  text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; font-size: 12px; fill: #334155 }
  .title { font-size: 17px; font-weight: 600; fill: #0f172a }
  .case { font-weight: 600; fill: #0f172a }
  .quiet { font-size: 11px; fill: #64748b }
  .ours { fill: #0f766e }
  text.ours { font-weight: 600 }
  .value { stroke: #ffffff; stroke-width: 3px; paint-order: stroke }
  .other { fill: #a8b5c6 }
</style>
<rect width="100%" height="100%" rx="8" fill="#ffffff"/>
<rect x="0.5" y="0.5" width="{{ width - 1 }}" height="{{ height - 1 }}" rx="8" fill="none" stroke="#cbd5e1"/>
<text class="title" x="20" y="30">How long it takes, as a multiple of a bare floor</text>
<text class="quiet" x="20" y="49">Shorter is better. Whole processes, in turn; the median of the rounds. \
The floor, 1×, is named with each case.</text>
<text class="quiet" x="20" y="64">{{ machine }}</text>
{% for x, label in ticks %}
<line x1="{{ '%.1f' % x }}" x2="{{ '%.1f' % x }}" y1="{{ top }}" y2="{{ bottom }}" \
stroke="#e2e8f0"/>
<text class="quiet" x="{{ '%.1f' % x }}" y="{{ top - 6 }}" text-anchor="middle">{{ label }}×</text>
<text class="quiet" x="{{ '%.1f' % x }}" y="{{ bottom + 15 }}" text-anchor="middle">{{ label }}×</text>
{% endfor %}
{% for group in groups %}
<text x="20" y="{{ group.y }}"><tspan class="case">{{ group.title }}</tspan>\
<tspan class="quiet" dx="8">to {{ group.floor }}</tspan></text>
{% for b in group.bars %}
<text class="{{ 'ours' if b.ours else 'label' }}" x="{{ left - 12 }}" y="{{ b.y + 12 }}" text-anchor="end">\
{{ b.label }}</text>
<rect class="{{ 'ours' if b.ours else 'other' }}" x="{{ left }}" y="{{ b.y }}" \
width="{{ '%.1f' % b.length }}" height="{{ bar }}" rx="1"/>
{% endfor %}
{% endfor %}
<line x1="{{ '%.1f' % one }}" x2="{{ '%.1f' % one }}" y1="{{ top }}" y2="{{ bottom }}" stroke="#0f172a" \
stroke-dasharray="2 3"/>
{% for group in groups %}
{% for b in group.bars %}
<text class="value {{ 'ours' if b.ours else 'label' }}" x="{{ '%.1f' % (left + b.length + 6) }}" y="{{ b.y + 12 }}">\
{{ b.value }}</text>
{% endfor %}
{% endfor %}
</svg>
"""
