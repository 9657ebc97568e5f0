"""Shows plans, the state of migrations, and the outcome of a run."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pgratchet.console.output import show_table, write
from pgratchet.formatting import format_count, format_duration

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.migrations.plan import Entry, Plan

_SHOWN_AT_MOST = 40
"""Rows of a plan's table; the count is told, and `invoke status` lists all."""


def status_json(plan: Plan) -> dict[str, Any]:
    """The counts and the list of `status --json`."""
    return {
        "total": len(plan.entries),
        "applied": len(plan.names("applied")),
        "pending": len(plan.names("pending")),
        "migrations": [_entry(entry) for entry in plan.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    record, file = entry.row, entry.migration
    return {
        "name": entry.name,
        "status": entry.state,
        "applied_at": _iso(record.moment) if record and record.moment else None,
        "checksum": file.checksum if file else record.checksum if record else None,
        "duration_ms": record.duration_ms if record else None,
    }


def show_status(environment: str, target: str, plan: Plan) -> None:
    """The table of `status` and its last line, on stdout."""
    rows = [(e.name, e.state, _when(e), format_duration(e.row.duration_ms if e.row else None)) for e in plan.entries]
    show_table(f"{environment}: {target}", ("migration", "state", "applied at", "took"), rows)
    counts = [f"total {len(plan.entries)}"]
    counts += [f"{name} {len(plan.names(name))}" for name in ("applied", "pending")]
    others = plan.disagreements()
    write(", ".join(counts) + (f", {len(others)} to be settled" if others else ""))


def show_plan(outcome: RunResult, *, only: bool) -> None:
    """What a run is going to do, on stderr; where that is all that was asked for, on stdout."""
    stream = sys.stdout if only else sys.stderr
    where, todo = f"{outcome.environment}: {outcome.target}", outcome.plan
    rows = [(str(number), name) for number, name in enumerate(todo[:_SHOWN_AT_MOST], 1)]
    show_table(f"{where}: {format_count(len(todo), 'migration')} to apply", ("", "migration"), rows, stream)
    if len(todo) > _SHOWN_AT_MOST:
        print(f"... and {len(todo) - _SHOWN_AT_MOST} more, up to {todo[-1]}", file=stream, flush=True)
    if not todo and only:
        write(f"{where}: nothing to apply")


def show_outcome(outcome: RunResult) -> None:
    """The last lines of a run that went well, on stdout."""
    if not outcome.applied:
        where = f"{outcome.environment}: {outcome.target}"
        write(f"{where}: nothing to apply: total {outcome.total}, pending {outcome.pending}")
        return
    applied = format_count(len(outcome.applied), "migration")
    write(f"{applied} applied in {format_duration(outcome.duration_ms)}, {outcome.pending} pending")
    write(f"backup before it: {outcome.backup_path}" if outcome.backup_path else "no backup was taken before it")


def _when(entry: Entry) -> str:
    moment = entry.row.moment if entry.row else None
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if moment else ""


def _iso(moment: datetime) -> str:
    """UTC with milliseconds and a Z, as JavaScript's toISOString has it."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
