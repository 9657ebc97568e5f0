"""Shows the runs on hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgratchet.console.output import show_table, write
from pgratchet.formatting import abbreviate_names, format_count

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.operations.protocol import RunInfo


def show_runs(environment: str, target: str, runs: Sequence[RunInfo]) -> None:
    """Show the list of `runs`."""
    rows = [
        (run.run_id, _state(run), run.task, run.started[:19].replace("T", " ") + "Z", abbreviate_names(run.names))
        for run in runs
    ]
    show_table(f"{environment}: {target}", ("run", "state", "task", "started", "migrations"), rows)
    if not rows:
        write(f"{environment}: {target}: no runs")


def _state(run: RunInfo) -> str:
    if run.status is None:
        return run.state
    return "done" if run.status == "0" else f"exit {run.status}"


def show_followed(result: RunResult, run: RunInfo) -> None:
    """Show the last line of `attach`, after the run has ended."""
    applied = f", {format_count(len(result.applied), 'migration')} applied" if run.task == "migrate" else ""
    write(f"{result.environment}: {result.target}: {run.task} {run.run_id} is done{applied}")
