"""Shows the report of a rehearsal: in the terminal, as JSON, and as Markdown for a pull request.

The functions take the record of `pgratchet.rehearsal.records`: all outputs show the stored report.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pgratchet.console import commands, output
from pgratchet.errors import RatchetError
from pgratchet.formatting import format_count, format_duration, format_size
from pgratchet.rehearsal.report import LEAST_STOP_MS

Shape = Mapping[str, Any]

_MOST_STATEMENTS = 10
_LEAST_STATEMENT_MS = 10
_LONGEST_TEXT = 60
WAIT_HEADER = ("table", "what waits", "for", "locked at", "time spent at")
_WAITING = {"reads": "reads and writes", "writes": "writes", "rows": "writes of changed rows"}


def title(environment: str, target: str, backup: str) -> str:
    return f"{environment}: {target}: rehearsal on backup {backup}"


def show_nothing(environment: str, target: str, backup: str, *, json: bool) -> None:
    """Report that nothing is pending, without a verdict."""
    if json:
        output.write_json({"env": environment, "target": target, "backup": backup, "migrations": [], "verdict": None})
    else:
        output.write(f"nothing to rehearse: backup {backup} has all migrations")


def show_report(shape: Shape, error: RatchetError | None, *, json: bool) -> None:
    """Show the report of a rehearsal: the blocked tables, the long statements, and remedies."""
    if json:
        output.write_json({**shape, **({"error": commands.typed_error(error)} if error else {})})
        return
    name = f"{shape['env']}: {shape['target']}"
    _show_waits(f"{name}: who waits", shape)
    _show_statements(f"{name}: what takes the time", shape)
    for line in [*_remedy_lines(shape), *summary_lines(shape)]:
        output.write_wrapped(commands.typed(line))


def _show_waits(heading: str, shape: Shape) -> None:
    rows = [wait_cells(stop) for stop in longest_waits(shape)]
    output.show_table(heading, WAIT_HEADER, rows)
    if short := count_short(shape):
        output.write(f"{format_count(short, 'table')} blocked for less than {LEAST_STOP_MS} ms")


def longest_waits(shape: Shape) -> list[Shape]:
    """The longest stop of each table and kind, from LEAST_STOP_MS on, the longest first."""
    longest: dict[tuple[str, str], Shape] = {}
    for stop in sorted(shape["stops"], key=lambda stop: -stop["duration_ms"]):
        if stop["duration_ms"] >= LEAST_STOP_MS:
            longest.setdefault((stop["relation"], stop["blocks"]), stop)
    return list(longest.values())


def count_short(shape: Shape) -> int:
    """The number of tables with short stops only."""
    long = {stop["relation"] for stop in longest_waits(shape)}
    return len({table["relation"] for table in shape["tables"]} - long)


def wait_cells(stop: Shape) -> tuple[str, ...]:
    """The cells of a row about a stop."""
    cells = stop["relation"], _WAITING[stop["blocks"]], milliseconds(stop["duration_ms"])
    return (*cells, place(stop["locked_at"]), place(stop["spent_at"]))


def _show_statements(heading: str, shape: Shape) -> None:
    rows = [
        (
            f"{each['migration']}:{each['line']}",
            milliseconds(each["duration_ms"]),
            format_size(each["wal_bytes"]),
            effects(each),
        )
        for each in long_statements(shape)
    ]
    output.show_table(heading, ("statement", "took", "WAL", "does"), rows)


def long_statements(shape: Shape) -> list[Shape]:
    """The longest statements, the longest first."""
    statements = [each for each in shape["statements"] if each["duration_ms"] >= _LEAST_STATEMENT_MS]
    return sorted(statements, key=lambda each: -each["duration_ms"])[:_MOST_STATEMENTS]


def effects(statement: Shape) -> str:
    """A phrase for each effect of a statement."""
    unseen = "runs outside a transaction, so its rows are not counted" if statement["is_sampled"] else ""
    return "; ".join(_effects(statement)) or unseen or shorten(statement["text"])


def _effects(statement: Shape) -> Iterator[str]:
    for rewrite in statement["rewrites"]:
        yield f"rewrites {rewrite['relation']} ({format_size(rewrite['bytes'])})"
    rewritten = {rewrite["relation"] for rewrite in statement["rewrites"]}
    for scan in statement["scans"]:
        if scan["relation"] not in rewritten:
            yield f"reads {scan['relation']} ({_count_rows(scan['rows'])})"
    for change in statement["changes"]:
        count = change["inserted"] + change["updated"] + change["deleted"]
        yield f"changes {_count_rows(count)} of {change['relation']}"
    if statement["indexes_built"]:
        yield f"builds {', '.join(statement['indexes_built'])}"
    if statement["constraints_validated"]:
        yield f"validates {', '.join(statement['constraints_validated'])}"


def _count_rows(number: int) -> str:
    return f"{number:,} row" + ("" if number == 1 else "s")


def shorten(text: str, limit: int = _LONGEST_TEXT) -> str:
    """The beginning of a statement, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def milliseconds(number: float) -> str:
    """Format a duration. Empty below half a millisecond."""
    return format_duration(round(number)) if number >= 0.5 else ""


def place(position: Shape) -> str:
    return f"{position['migration']}:{position['line']}"


def _remedy_lines(shape: Shape) -> Iterator[str]:
    for remedy in shape["remedies"]:
        yield f"{place(remedy['position'])}: {remedy['problem']}"
        yield f"  {remedy['advice']}"
        for number, text in enumerate(remedy["sql"], 1):
            if len(remedy["sql"]) > 1:
                yield f"    file {number}:"
            yield from (f"    {line}" for line in text.splitlines())


def summary_lines(shape: Shape) -> list[str]:
    """Sentences about the whole rehearsal, with the precision and the limits."""
    return [_measured_line(shape), *_calibration_lines(shape), *_deviations(shape), *_verdict_lines(shape)]


def _measured_line(shape: Shape) -> str:
    restored = (
        f"the backup ({format_size(shape['database_size'])}) was restored in {format_duration(shape['restore_ms'])}"
    )
    if shape["failure"]:
        return restored
    count, took = format_count(len(shape["migrations"]), "migration"), format_duration(round(shape["duration_ms"]))
    return f"{count} took {took} here, alone, with {format_size(shape['wal_bytes'])} of WAL; {restored}"


def _calibration_lines(shape: Shape) -> Iterator[str]:
    calibration = shape["calibration"]
    if calibration["ratio"] is not None:
        migrations = format_count(calibration["migrations"], "earlier migration")
        yield f"{migrations} took {calibration['ratio']:.1f} times as long on this target as in the rehearsal"


def _deviations(shape: Shape) -> Iterator[str]:
    """Sentences about measured waits of another length than the locks tell."""
    for stop in shape["stops"]:
        if stop["confirmed"] is False:
            yield (
                f"note: another session waited {milliseconds(stop['measured_ms']) or '0 ms'} for {stop['relation']} at "
                f"{place(stop['locked_at'])}, and the locks tell {milliseconds(stop['duration_ms'])}"
            )


def _verdict_lines(shape: Shape) -> Iterator[str]:
    yield from (f"note: {note}" for note in shape["notes"])
    if shape["verdict"]["ok"]:
        yield verdict_line(shape)


def verdict_line(shape: Shape) -> str:
    """The verdict of a rehearsal without a failure."""
    if not shape["verdict"]["ok"]:
        return "over the budget"
    return "within the budget" if shape["budget"] else "no limit is set: rehearsal_budget in the inventory has them"


def describe_obstacle(relation: str, rows: int | None, columns: Sequence[str], keys: Sequence[str]) -> str:
    """A sentence with the number of the rows in the way of a migration, and some keys. Empty without a relation."""
    if rows is None:
        return f"The rows of {relation} in the way could not be counted." if relation else ""
    named = f" By {', '.join(columns)}: {'; '.join(keys)}." if keys else ""
    more = " and more" if rows > len(keys) > 0 else ""
    return f"In the way: {format_count(rows, 'row')} of {relation}.{named[:-1] + more + '.' if named else ''}"


def markdown(shape: Shape) -> str:
    """The report as Markdown, for a comment on a pull request."""
    title = f"### Rehearsal for {shape['env']}: {shape['target']}"
    lines = [title, "", f"On backup {shape['backup']}: {_markdown_verdict(shape)}.", "", *_markdown_failure(shape)]
    lines += [f"- {table_cell(each['text'])}" for each in shape["verdict"]["over_budget"]]
    if waits := longest_waits(shape):
        lines += ["", f"| {' | '.join(WAIT_HEADER)} |", "|---|---|--:|---|---|"]
        lines += [f"| {' | '.join(table_cell(cell) for cell in wait_cells(stop))} |" for stop in waits]
    if short := count_short(shape):
        lines += ["", f"{format_count(short, 'table')} blocked for less than {LEAST_STOP_MS} ms."]
    for remedy in shape["remedies"]:
        position, problem, advice = (
            table_cell(text) for text in (place(remedy["position"]), remedy["problem"], remedy["advice"])
        )
        lines += ["", f"**{position}**: {problem} {advice}"]
        lines += [_fenced(text) for text in remedy["sql"]]
    lines += ["", *(f"- {line}" for line in summary_lines(shape) if line != verdict_line(shape))]
    return "\n".join(lines) + "\n"


def _markdown_verdict(shape: Shape) -> str:
    if shape["failure"]:
        return "**a migration fails**"
    return verdict_line(shape) if shape["verdict"]["ok"] else "**over the budget**"


def _markdown_failure(shape: Shape) -> list[str]:
    failure = shape["failure"]
    if not failure:
        return []
    obstacle = describe_obstacle(failure["relation"], failure["rows"], failure["key_columns"], failure["keys"])
    return [f"**{table_cell(place(failure))}**: {table_cell(failure['message'])}. {table_cell(obstacle)}".rstrip(), ""]


def table_cell(text: str) -> str:
    """Escape a text for a cell of a table: names in SQL can contain markup."""
    line = " ".join(text.split())
    return html.escape(line, quote=False).replace("|", "&#124;").replace("`", "&#96;")


def _fenced(text: str) -> str:
    """A block of code with a fence longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n{fence}sql\n{text}\n{fence}"
