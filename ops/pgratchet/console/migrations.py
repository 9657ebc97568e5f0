"""Shows the plan, the state and the result of migrations."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pgratchet.console.output import say, show_table, write
from pgratchet.formatting import format_count, format_duration

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.migrations.plan import Entry, Plan

_MOST_ROWS = 40
"""The number of migrations in the table of a plan. `invoke status` lists all."""


def status_json(plan: Plan) -> dict[str, Any]:
    """The counts and the list of `status --json`."""
    return {
        "total": len(plan.entries),
        "applied": len(plan.names("applied")),
        "pending": len(plan.names("pending")),
        "migrations": [_entry_json(entry) for entry in plan.entries],
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    row, file = entry.row, entry.migration
    return {
        "name": entry.name,
        "status": entry.state,
        "applied_at": _iso(row.moment) if row and row.moment else None,
        "checksum": file.checksum if file else row.checksum if row else None,
        "duration_ms": row.duration_ms if row else None,
    }


def show_status(environment: str, target: str, plan: Plan) -> None:
    """Show the table of `status` and the counts."""
    rows = [(e.name, e.state, _time(e), format_duration(e.row.duration_ms if e.row else None)) for e in plan.entries]
    show_table(f"{environment}: {target}", ("migration", "state", "applied at", "took"), rows)
    counts = [f"total {len(plan.entries)}"]
    counts += [f"{name} {len(plan.names(name))}" for name in ("applied", "pending")]
    disagreements = plan.disagreements()
    write(", ".join(counts) + (f", {len(disagreements)} to be settled" if disagreements else ""))


def show_plan(result: RunResult, *, is_dry_run: bool) -> None:
    """Show the migrations of a run before its start: on standard error, or for a dry run on standard output."""
    name, todo = f"{result.environment}: {result.target}", result.plan
    title = f"{name}: {format_count(len(todo), 'migration')} to apply"
    rows = [(str(number), migration) for number, migration in enumerate(todo[:_MOST_ROWS], 1)]
    show_table(title, ("", "migration"), rows, on_stderr=not is_dry_run)
    if len(todo) > _MOST_ROWS:
        show = write if is_dry_run else say
        show(f"... and {len(todo) - _MOST_ROWS} more, up to {todo[-1]}")
    if not todo and is_dry_run:
        write(f"{name}: nothing to apply")


def show_outcome(result: RunResult) -> None:
    """Show the last lines of a successful run."""
    if not result.applied:
        name = f"{result.environment}: {result.target}"
        write(f"{name}: nothing to apply: total {result.total}, pending {result.pending}")
        return
    applied = format_count(len(result.applied), "migration")
    write(f"{applied} applied in {format_duration(result.duration_ms)}, {result.pending} pending")
    write(f"backup before it: {result.backup_path}" if result.backup_path else "no backup was taken before it")


def _time(entry: Entry) -> str:
    moment = entry.row.moment if entry.row else None
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if moment else ""


def _iso(moment: datetime) -> str:
    """The time in UTC with milliseconds and a Z, like JavaScript's toISOString."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
