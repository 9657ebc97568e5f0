"""Tasks that apply migrations, show their state and write new ones."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from pgratchet.console import migrations, output
from pgratchet.console.findings import show_findings
from pgratchet.console.result import RunResult
from pgratchet.errors import RatchetError, Unreachable
from pgratchet.operations.migrate import ReadHistory, ReadTexts
from pgratchet.remote import dispatch
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import consent, reported, task

if TYPE_CHECKING:
    from pgratchet.checks.doctor import Finding
    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.migrations.files import Migration


@task("env", "sql", "to", "dry_run", "without_backup", "yes", "limit", "json")
def migrate(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    to: str | None = None,
    dry_run: bool = False,
    without_backup: str | None = None,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Apply what is pending, behind a backup that was read back whole."""
    from pgratchet.migrations.files import read

    files = read(project.sql(sql))
    for target in [project.connect_settings(t, start=not dry_run) for t in project.targets(env, limit)]:
        result = RunResult(target.environment, target.target, os.urandom(6).hex())
        with reported(result, json=json, dry_run=dry_run):
            _migrate_target(project, target, files, result, to, without_backup, yes=yes, dry_run=dry_run, json=json)
        if not json and not dry_run:
            migrations.show_outcome(result)


def _migrate_target(
    project: Project,
    target: RenderedTarget,
    files: tuple[Migration, ...],
    result: RunResult,
    to: str | None,
    without_backup: str | None,
    *,
    yes: bool,
    dry_run: bool,
    json: bool,
) -> None:
    from pgratchet.console import progress

    with dispatch.prepare_migration(target, files, result.run_id, to, without_backup, project.root) as run:
        result.take(run.planned)
        if not json:
            migrations.show_plan(result, is_dry_run=dry_run)
        if dry_run:
            return
        if result.plan and target.variables.confirm:
            consent(target.environment, yes)
        progress.draw(run.apply(), result, quiet=json)


@task("env", "sql", "limit", "check", "json")
def status(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    limit: str | None = None,
    check: bool = False,
    json: bool = False,
) -> None:
    """Show what is applied and what is pending; writes nothing."""
    from pgratchet.migrations.files import read
    from pgratchet.migrations.plan import make_plan, require_agreement

    files = read(project.sql(sql))
    pending = 0
    for entry in project.targets(env, limit):
        target = project.connect_settings(entry, start=False)
        plan = make_plan(files, dispatch.ask(target, ReadHistory(), project.root))
        if json:
            output.write_json({"env": target.environment, "target": target.target, **migrations.status_json(plan)})
        else:
            migrations.show_status(target.environment, target.target, plan)
        if check:
            changed = plan.names("changed")
            require_agreement(plan, dispatch.ask(target, ReadTexts(changed), project.root) if changed else {})
        pending += plan.pending_count
    if check and pending:
        raise Exit(code=3)


@task("env", "sql", "limit", "json")
def doctor(
    project: Project, env: str | None = None, sql: str | None = None, limit: str | None = None, json: bool = False
) -> None:
    """Check for what would make a migration fail."""
    exit_code = 0
    for target in project.targets(env, limit):
        findings: list[Finding] = []
        code = _examine(project, target, project.sql(sql), findings)
        if json:
            shape = [asdict(finding) for finding in findings]
            output.write_json({"env": target.environment, "target": target.name, "findings": shape})
        else:
            show_findings(target.environment, target.name, findings)
        exit_code = max(exit_code, code)
    if exit_code:
        raise Exit(code=exit_code)


def _examine(project: Project, entry: InventoryTarget, sql: Path, findings: list[Finding]) -> int:
    """Add the findings about a target; returns the exit code for them."""
    from pgratchet.checks.doctor import collecting, finding_of
    from pgratchet.checks.files import check_files, created_extensions, pending_files
    from pgratchet.operations.examine import Examine

    files, others = _read_files(sql)
    pending = files
    try:
        target = project.connect_settings(entry, start=False)
        with collecting(others, "history", past=(Unreachable,)):
            history = dispatch.ask(target, ReadHistory(), project.root)
            others += check_files(files, history)
            pending = pending_files(files, history)
        findings += dispatch.ask(target, Examine(created_extensions(pending)), project.root)
    except RatchetError as error:
        findings.append(finding_of(error, "login" if isinstance(error, Unreachable) else "settings"))
        return error.exit_code
    finally:
        findings += others
    return 2 if any(finding.severity == "problem" for finding in findings) else 0


def _read_files(sql: Path) -> tuple[tuple[Migration, ...], list[Finding]]:
    """The migrations of a folder, or none and the finding that says why."""
    from pgratchet.checks.doctor import collecting
    from pgratchet.migrations.files import read

    findings: list[Finding] = []
    files: tuple[Migration, ...] = ()
    with collecting(findings, "files"):
        files = read(sql)
    return files, findings


@task("name", "sql")
def new(project: Project, name: str, sql: str | None = None) -> None:
    """Write an empty migration, named by the time in UTC."""
    from pgratchet.migrations.files import create

    output.write(str(create(project.sql(sql), name, datetime.now(timezone.utc))))
