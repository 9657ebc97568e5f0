"""Shows the runs on hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgratchet.console.output import show_table, write
from pgratchet.formatting import abbreviate_names, format_count

if TYPE_CHECKING:
    from pgratchet.console.result import RunResult
    from pgratchet.operations.protocol import RunInfo


def show_runs(environment: str, target: str, found: Sequence[RunInfo]) -> None:
    """The list of `runs`, on stdout."""
    rows = []
    for each in found:
        state = each.state if each.status is None else "done" if each.status == "0" else f"exit {each.status}"
        rows.append(
            (each.run_id, state, each.task, each.started[:19].replace("T", " ") + "Z", abbreviate_names(each.names))
        )
    show_table(f"{environment}: {target}", ("run", "state", "task", "started", "migrations"), rows)
    if not rows:
        write(f"{environment}: {target}: no runs")


def show_followed(outcome: RunResult, about: RunInfo) -> None:
    """The last line of a run that was followed to its end, on stdout."""
    told = f", {format_count(len(outcome.applied), 'migration')} applied" if about.task == "migrate" else ""
    write(f"{outcome.environment}: {outcome.target}: {about.task} {about.run_id} is done{told}")
