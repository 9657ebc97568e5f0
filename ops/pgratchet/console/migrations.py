"""Shows the plan, the state and the result of migrations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pgratchet.console.output import Table, format_short_time, format_time, say, show_table, write
from pgratchet.formatting import abbreviate_names, format_count, format_duration

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.migrations.plan import Entry, Plan
    from pgratchet.migrations.repeatables import RepeatableEntry

_MOST_ROWS = 40
"""The number of migrations in the table of a plan. `invoke status` lists all."""


def status_json(plan: Plan) -> dict[str, Any]:
    """The counts and the list of `status --json`."""
    return {
        **_counts(plan),
        "migrations": [_entry_json(entry) for entry in plan.entries],
        "repeatables": [_repeatable_json(entry) for entry in plan.repeatables.entries],
    }


def _counts(plan: Plan) -> dict[str, int]:
    """The numbers of versioned and repeatable migrations together."""
    return {
        "total": plan.total,
        "applied": len(plan.names("applied")) + len(plan.repeatables.names("up to date")),
        "pending": len(plan.names("pending")) + len(plan.repeatables.todo),
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    duration = entry.row.duration_ms if entry.row else None
    return _common_json(entry) | {"duration_ms": duration, "phase": _phase(entry)}


def _phase(entry: Entry | RepeatableEntry) -> str | None:
    """The phase of a pending file; None for any other entry, whose file is not read for it."""
    from pgratchet.migrations.scripts import is_contract

    if entry.state != "pending" or entry.migration is None:
        return None
    return "contract" if is_contract(entry.migration) else "expand"


def _repeatable_json(entry: RepeatableEntry) -> dict[str, Any]:
    return _common_json(entry) | {"runs": entry.runs}


def _common_json(entry: Entry | RepeatableEntry) -> dict[str, Any]:
    row, file = entry.row, entry.migration
    return {
        "name": entry.name,
        "status": entry.state,
        "applied_at": _iso(row.moment) if row and row.moment else None,
        "checksum": file.checksum if file else row.checksum if row else None,
    }


def show_status(title: str, plan: Plan) -> None:
    """Show the table of `status` and the counts, below the target's title. Repeatables follow the versioned files."""
    header = ("migration", "state", "applied at", "took")
    entries: tuple[Entry | RepeatableEntry, ...] = (*plan.entries, *plan.repeatables.entries)
    rows = [_row(entry, format_time) for entry in entries]
    show_table(title, header, rows, narrow=lambda: Table(header, [_row(entry, format_short_time) for entry in entries]))
    counts = [f"{name} {number}" for name, number in _counts(plan).items()]
    if unfinished := plan.names("unfinished"):
        counts.append(f"unfinished {len(unfinished)}")
    if disagreements := plan.disagreements():
        counts.append(format_count(len(disagreements), "disagreement"))
    write(("" if rows else f"{title}: ") + ", ".join(counts))


def show_plan(result: RunResult, plan: Plan, *, is_dry_run: bool) -> None:
    """Show the migrations of a run before its start: on standard error, or for a dry run on standard output."""
    name, todo = result.title, result.plan
    title = f"{name}: {format_count(len(todo), 'migration')} to apply"
    rows = [(str(number), migration) for number, migration in enumerate(todo[:_MOST_ROWS], 1)]
    show_table(title, ("", "migration"), rows, on_stderr=not is_dry_run)
    if len(todo) > _MOST_ROWS:
        show = write if is_dry_run else say
        show(f"... and {len(todo) - _MOST_ROWS} more, up to {todo[-1]}")
    if not todo and is_dry_run:
        write(f"{name}: nothing to apply{_already_applied(plan)}")


def show_outcome(result: RunResult, plan: Plan) -> None:
    """Show the last lines of a successful run. `plan` is the one that it began with."""
    if not result.applied:
        counts = f": total {result.total}, pending {result.pending}"
        write(f"{result.title}: nothing to apply{_already_applied(plan) or counts}")
        return
    applied = format_count(len(result.applied), "migration")
    rehearsed = "" if result.rehearsed_ms is None else f" (rehearsed: {format_duration(result.rehearsed_ms)})"
    write(f"{applied} applied in {format_duration(result.duration_ms)}{rehearsed}, {result.pending} pending")
    if plan.stopped_before:
        write(f"stopped before {plan.stopped_before}, a contract file")
    write(f"backup: {result.backup_path}" if result.backup_path else "no backup was taken")


def _row(entry: Entry | RepeatableEntry, format_moment: Callable[[datetime], str]) -> tuple[str, ...]:
    row = entry.row
    time = format_moment(row.moment) if row and row.moment else ""
    return entry.name, _state(entry), time, format_duration(row.duration_ms if row else None)


def _state(entry: Entry | RepeatableEntry) -> str:
    if _phase(entry) == "contract":
        return "pending, contract"
    is_unfinished = entry.row is not None and entry.row.executed_at is None
    return "unfinished, missing" if entry.state == "missing" and is_unfinished else entry.state


def _already_applied(plan: Plan) -> str:
    """The reason why a run with `--to` or `--phase` has nothing to apply, although migrations are pending."""
    if plan.stopped_before and not plan.todo:
        return f": the next migration is {plan.stopped_before}, a contract file"
    if plan.last is None or plan.todo or not plan.pending_after:
        return ""
    return f": {plan.last} is already applied; pending after it: {abbreviate_names(plan.pending_after)}"


def _iso(moment: datetime) -> str:
    """The time in UTC with milliseconds and a Z, like JavaScript's toISOString."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
