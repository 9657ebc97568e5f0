"""Renders the report of a rehearsal as one HTML file: no script, nothing from elsewhere, readable on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from pgratchet.console import rehearsal
from pgratchet.console.rehearsal import milliseconds, place
from pgratchet.formatting import format_count, format_size
from pgratchet.rehearsal.lock_modes import STRENGTH
from pgratchet.rehearsal.report import LEAST_STOP_MS

Shape = Mapping[str, Any]

_TEMPLATE = "rehearsal_page.html"
_WIDTH = 1000
"""Units of the timeline, from the begin of the first statement to the end of the last."""
_THINNEST = 1.5
_MOST_LOCKS = 6
_TICKS = 6
_STEPS = (1, 2, 5)
_CARDS = (
    ("reads", "longest that a table is neither read nor written"),
    ("writes", "longest that only writes to a table wait"),
    ("rows", "longest that only the changed rows are locked"),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A stop on the timeline, by begin and width in units."""

    stop: Shape
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Lane:
    """A table on the timeline. `longest` is the longest stop. Locked rows count only without other stops."""

    relation: str
    bars: Sequence[Bar]
    longest: Shape


def render(shape: Shape) -> str:
    """Return the page for a record."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    end = max([each["started_ms"] + each["duration_ms"] for each in shape["statements"] + shape["stops"]], default=1.0)
    lanes = _lanes(shape["stops"], end)
    failure, count = shape["failure"], format_count(len(shape["migrations"]), "migration")
    return environment.get_template(_TEMPLATE).render(
        record=shape,
        title=f"Rehearsal of {count} for {shape['env']}: {shape['target']}",
        obstacle=failure and _obstacle(failure),
        cards=[_card(kind, title, shape["stops"]) for kind, title in _CARDS],
        lanes=[lane for lane in lanes if lane.longest["duration_ms"] >= LEAST_STOP_MS],
        short_lanes=[lane for lane in lanes if lane.longest["duration_ms"] < LEAST_STOP_MS],
        files=_files(shape["statements"], end),
        ticks=_ticks(end),
        statements=rehearsal.long_statements(shape),
        trust=[line for line in rehearsal.summary_lines(shape)[1:] if line != rehearsal.verdict_line(shape)],
        verdict=rehearsal.verdict_line(shape),
        duration=lambda number: milliseconds(number) or "0 ms",
        **_FORMATS,
    )


def _obstacle(failure: Shape) -> str:
    return rehearsal.describe_obstacle(failure["relation"], failure["rows"], failure["key_columns"], failure["keys"])


def _version(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000}"


def _cause(stop: Shape) -> str:
    """A phrase with both lines of a stop."""
    locked, spent = place(stop["locked_at"]), place(stop["spent_at"])
    if locked == spent:
        return f"{locked} takes {stop['mode']} and runs for {milliseconds(stop['spent_ms']) or '0 ms'}"
    return (
        f"{locked} takes {stop['mode']}, and {spent} then runs for {milliseconds(stop['spent_ms']) or '0 ms'} under it"
    )


def _locks(statement: Shape) -> str:
    """The strongest lock on each relation, without locks of plain reads."""
    strongest: dict[str, str] = {}
    for lock in statement["locks"]:
        relation, mode = lock["relation"], lock["mode"]
        if STRENGTH[mode] > STRENGTH[strongest.get(relation, "ACCESS SHARE")]:
            strongest[relation] = mode
    names = [f"{relation}: {mode}" for relation, mode in strongest.items()]
    return ", ".join(names[:_MOST_LOCKS]) + (
        f" and {len(names) - _MOST_LOCKS} more" if len(names) > _MOST_LOCKS else ""
    )


_FORMATS = {
    "size": format_size,
    "count": format_count,
    "version": _version,
    "place": place,
    "cause": _cause,
    "effects": rehearsal.effects,
    "shorten": rehearsal.shorten,
    "locks": _locks,
}


def _card(kind: str, title: str, stops: Sequence[Shape]) -> dict[str, Any]:
    longest = max((stop for stop in stops if stop["blocks"] == kind), key=lambda s: s["duration_ms"], default=None)
    value = (milliseconds(longest["duration_ms"]) or "under 1 ms") if longest else "never"
    return {"kind": kind, "title": title, "value": value, "stop": longest}


def _lanes(stops: Sequence[Shape], end: float) -> list[Lane]:
    """The tables, the longest wait first. Tables with locked rows alone come last."""
    by_table: dict[str, list[Shape]] = {}
    for stop in stops:
        by_table.setdefault(stop["relation"], []).append(stop)
    lanes = [_lane(relation, of_table, end) for relation, of_table in by_table.items()]
    return sorted(lanes, key=lambda lane: (lane.longest["blocks"] == "rows", -lane.longest["duration_ms"]))


def _lane(relation: str, stops: Sequence[Shape], end: float) -> Lane:
    blocking = [stop for stop in stops if stop["blocks"] != "rows"] or stops
    weakest_first = sorted(stops, key=lambda stop: ("rows", "writes", "reads").index(stop["blocks"]))
    longest = max(blocking, key=lambda stop: stop["duration_ms"])
    return Lane(relation, [_bar(stop, end) for stop in weakest_first], longest)


def _bar(stop: Shape, end: float) -> Bar:
    x, width = _scaled(stop["started_ms"], stop["duration_ms"], end)
    return Bar(stop, x, width)


def _scaled(start: float, duration: float, end: float) -> tuple[float, float]:
    return round(start / end * _WIDTH, 1), round(max(duration / end * _WIDTH, _THINNEST), 1)


def _files(statements: Sequence[Shape], end: float) -> list[dict[str, Any]]:
    by_file: dict[str, list[Shape]] = {}
    for statement in statements:
        by_file.setdefault(statement["migration"], []).append(statement)
    files = []
    for name, of_file in by_file.items():
        start, last = of_file[0]["started_ms"], of_file[-1]
        duration = last["started_ms"] + last["duration_ms"] - start
        x, width = _scaled(start, duration, end)
        files.append({"name": name, "ms": duration, "x": x, "width": width})
    return files


def _ticks(end: float) -> list[dict[str, Any]]:
    """Round times for the axis."""
    scale, step = 1, 1
    while step * _TICKS < end:
        step, scale = next(((s * scale, scale) for s in _STEPS if s * scale > step), (10 * scale, 10 * scale))
    return [
        {"at": round(moment / end * 100, 2), "text": milliseconds(moment) or "0"}
        for moment in range(0, int(end) + 1, step)
    ]
