"""Shows the runs on hosts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pgratchet.console.output import format_time, show_table, write, write_json
from pgratchet.formatting import abbreviate_names, format_count

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.operations.protocol import RunInfo


def show_runs(environment: str, target: str, runs: Sequence[RunInfo]) -> None:
    """Show the list of `runs`."""
    rows = [(run.run_id, _state(run), run.task, _started(run), abbreviate_names(run.names)) for run in runs]
    show_table(f"{environment}: {target}", ("run", "state", "task", "started", "migrations"), rows)
    if not rows:
        write(f"{environment}: {target}: no runs")


def _started(run: RunInfo) -> str:
    from pgratchet.backups.listing import CLOCK_SKEW

    try:
        moment = datetime.fromisoformat(run.started.replace("Z", "+00:00"))
    except ValueError:  # a record that another version wrote
        return run.started
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    is_in_future = moment > datetime.now(timezone.utc) + CLOCK_SKEW
    return format_time(moment) + (", in the future" if is_in_future else "")


def _state(run: RunInfo) -> str:
    if run.status is None:
        return run.state
    return "done" if run.status == "0" else f"exit {run.status}"


def show_followed(result: RunResult, run: RunInfo, *, json: bool) -> None:
    """Show the last line of `attach`, after the run has ended."""
    if json:
        write_json(result.as_json() | {"task": run.task})
        return
    old = f'; the old database is kept as "{result.kept_database}"' if result.kept_database else ""
    applied = f", {format_count(len(result.applied), 'migration')} applied" if run.task == "migrate" else ""
    write(f"{result.environment}: {result.target}: {run.task} {run.run_id} is done{applied}{old}")


def show_cancelled(environment: str, target: str, run_id: str, *, cancelled: bool, json: bool) -> None:
    """Show the result of `cancel`: whether the run is being cancelled, or had ended before."""
    if json:
        write_json({"env": environment, "target": target, "run_id": run_id, "cancelled": cancelled})
    else:
        write(f"{environment}: {target}: {run_id}: {'is being cancelled' if cancelled else 'has already finished'}")
