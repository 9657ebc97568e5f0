"""Shows the runs on targets' hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgratchet.console.output import abbreviate, data, table
from pgratchet.formatting import count_of

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.operations.protocol import RunInfo


def show_runs(environment: str, target: str, runs: Sequence[RunInfo]) -> None:
    """Print the list of `runs`, on stdout."""
    rows = [
        (run.run_id, _state(run), run.task, run.started[:19].replace("T", " ") + "Z", abbreviate(run.names))
        for run in runs
    ]
    table(f"{environment}: {target}", ("run", "state", "task", "started", "migrations"), rows)
    if not rows:
        data(f"{environment}: {target}: no runs")


def _state(run: RunInfo) -> str:
    if run.status is None:
        return run.state
    return "done" if run.status == "0" else f"exit {run.status}"


def show_followed(result: RunResult, run: RunInfo) -> None:
    """Print the last line of `attach` after a run's end, on stdout."""
    applied = f", {count_of(len(result.applied), 'migration')} applied" if run.task == "migrate" else ""
    data(f"{result.environment}: {result.target}: {run.task} {run.run_id} is done{applied}")
