"""Tasks for the runs on the targets' hosts: list, follow and cancel them."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from pgratchet.console import output
from pgratchet.console.result import RunResult
from pgratchet.console.runs import show_cancelled, show_followed, show_runs
from pgratchet.errors import ConfigurationError
from pgratchet.remote.dispatch import require_host
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import task

if TYPE_CHECKING:
    from pgratchet.database.target import TargetStorage
    from pgratchet.operations.protocol import RunInfo


@task("env", "run", "limit", "json")
def attach(
    project: Project, env: str | None = None, run: str | None = None, limit: str | None = None, json: bool = False
) -> None:
    """Follow a run on a host again."""
    from pgratchet.console import progress
    from pgratchet.remote import client

    target, chosen = _choose_run(project, env, limit, run)
    result = RunResult(target.environment, target.target, chosen.run_id, plan=chosen.names)
    started = time.monotonic()
    progress.draw(client.attach(target, chosen), result, quiet=json)
    result.duration_ms = round((time.monotonic() - started) * 1000)
    show_followed(result, chosen, json=json)


@task("env", "limit", "json")
def runs(project: Project, env: str | None = None, limit: str | None = None, json: bool = False) -> None:
    """List the runs on the targets' hosts."""
    from pgratchet.remote import client

    for entry in project.targets(env, limit):
        target = require_host(project.storage(entry))
        rows = client.list_runs(target)
        if json:
            shape = [asdict(row) for row in rows]
            output.write_json({"env": target.environment, "target": target.target, "runs": shape})
        else:
            show_runs(target.environment, target.target, rows)


@task("env", "run", "limit", "json")
def cancel(
    project: Project, env: str | None = None, run: str | None = None, limit: str | None = None, json: bool = False
) -> None:
    """Cancel a run on a host and release its lock."""
    from pgratchet.remote import client

    target, chosen = _choose_run(project, env, limit, run)
    cancelled = client.cancel(target, chosen.run_id)
    show_cancelled(target.environment, target.target, chosen.run_id, cancelled=cancelled, json=json)


def _choose_run(
    project: Project, env: str | None, limit: str | None, run_id: str | None
) -> tuple[TargetStorage, RunInfo]:
    """The run of that id on the host of one of the targets, or the newest run."""
    from pgratchet.remote import client

    for entry in project.targets(env, limit):
        target = require_host(project.storage(entry))
        for run in client.list_runs(target):
            if run_id in (None, run.run_id):
                return target, run
    raise ConfigurationError(
        f"there is no run{f' {run_id}' if run_id else ''}",
        detail="A host keeps its last 100 runs for 30 days.",
        hint="`invoke runs` lists the runs; `invoke status` shows what the database has.",
    )
