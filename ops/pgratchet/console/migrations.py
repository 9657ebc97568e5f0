"""Shows the plan, the state and the result of migrations."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pgratchet.console.output import data, table, talk
from pgratchet.formatting import count_of, format_duration

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.migrations.plan import Entry, Plan

_MOST_ROWS = 40
"""The number of migrations in the table of a plan. `invoke status` lists all."""


def show_status(environment: str, target: str, plan: Plan) -> None:
    """Print the table of `status` and the counts, on stdout."""
    rows = [
        (entry.name, entry.state, _time(entry), format_duration(entry.record.duration_ms if entry.record else None))
        for entry in plan.entries
    ]
    table(f"{environment}: {target}", ("migration", "state", "applied at", "took"), rows)
    counts = [f"total {len(plan.entries)}"]
    counts += [f"{name} {len(plan.names(name))}" for name in ("applied", "pending")]
    disagreements = plan.disagreements()
    data(", ".join(counts) + (f", {len(disagreements)} to be settled" if disagreements else ""))


def _time(entry: Entry) -> str:
    moment = entry.record.moment if entry.record else None
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if moment else ""


def status_as_json(plan: Plan) -> dict[str, Any]:
    """The counts and the list of `status --json`."""
    return {
        "total": len(plan.entries),
        "applied": len(plan.names("applied")),
        "pending": len(plan.names("pending")),
        "migrations": [_entry_as_json(entry) for entry in plan.entries],
    }


def _entry_as_json(entry: Entry) -> dict[str, Any]:
    record, file = entry.record, entry.migration
    return {
        "name": entry.name,
        "status": entry.state,
        "applied_at": _iso(record.moment) if record and record.moment else None,
        "checksum": file.checksum if file else record.checksum if record else None,
        "duration_ms": record.duration_ms if record else None,
    }


def _iso(moment: datetime) -> str:
    """The time in UTC with milliseconds and a Z, in the form of JavaScript's toISOString."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def show_plan(result: RunResult, *, is_dry_run: bool) -> None:
    """Print the migrations of a run before the start: on stderr, or for a dry run on stdout."""
    name, todo = f"{result.environment}: {result.target}", result.plan
    rows = [(str(number), migration) for number, migration in enumerate(todo[:_MOST_ROWS], 1)]
    table(f"{name}: {count_of(len(todo), 'migration')} to apply", ("", "migration"), rows, on_stderr=not is_dry_run)
    if len(todo) > _MOST_ROWS:
        line = data if is_dry_run else talk
        line(f"... and {len(todo) - _MOST_ROWS} more, up to {todo[-1]}")
    if not todo and is_dry_run:
        data(f"{name}: nothing to apply")


def show_finished(result: RunResult) -> None:
    """Print the last lines of a successful run, on stdout."""
    if not result.applied:
        name = f"{result.environment}: {result.target}"
        data(f"{name}: nothing to apply: total {result.total}, pending {result.pending}")
        return
    applied = count_of(len(result.applied), "migration")
    data(f"{applied} applied in {format_duration(result.duration_ms)}, {result.pending} pending")
    data(f"backup before it: {result.backup_path}" if result.backup_path else "no backup was taken before it")
