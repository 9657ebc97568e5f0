"""Tasks that apply migrations, show their state and write new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from pgratchet.console import commands, migrations, output
from pgratchet.console.findings import show_findings
from pgratchet.console.result import RunResult
from pgratchet.errors import ConfigurationError, HistoryDisagrees, RatchetError, ServerNotRunning, Unreachable
from pgratchet.events import Planned
from pgratchet.operations.migrate import AppliedMigrations, Migrate, ReadHistory, ReadTexts
from pgratchet.remote import dispatch
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import consent, read_migrations, reported, task, unread_entries
from pgratchet.variables import DatabaseVariables

if TYPE_CHECKING:
    from pgratchet.checks.findings import Finding
    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.migrations.files import Migration
    from pgratchet.migrations.plan import Plan


@task("env", "sql", "to", "phase", "dry_run", "without_backup", "not_empty", "yes", "limit", "json")
def migrate(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    to: str | None = None,
    phase: str | None = None,
    dry_run: bool = False,
    without_backup: str | None = None,
    not_empty: bool = False,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Apply the pending migrations, after a verified backup."""
    files = read_migrations(project, project.sql(sql))
    for entry, target in [(t, _settings(project, t, start=not dry_run)) for t in project.targets(env, limit)]:
        run_id = os.urandom(6).hex()
        request = Migrate(run_id, (), to, without_backup, not_empty, stops_at_contract=_is_expand(phase))
        location = target.location if target else _stopped_location(project, entry)
        result = RunResult(entry.environment, entry.name, request.run_id, location=location)
        with reported(result, json=json, dry_run=dry_run), _advised_for_bundled_server(target):
            if target:
                plan = _migrate_target(
                    project, entry, target, files, request, result, yes=yes, dry_run=dry_run, json=json
                )
            else:
                plan = _plan_without_history(files, request, result, json=json)
        if not json and not dry_run:
            migrations.show_outcome(result, plan)


def _is_expand(phase: str | None) -> bool:
    """Return whether --phase is expand; ConfigurationError when it is no phase."""
    if phase not in (None, "expand", "contract"):
        raise ConfigurationError(
            f'"{phase}" is not a phase',
            detail="The phases are expand and contract. Nothing was changed.",
            hint="Write --phase=expand to stop before the first contract file.",
        )
    return phase == "expand"


def _settings(project: Project, entry: InventoryTarget, *, start: bool) -> RenderedTarget | None:
    """The settings of a target; None for a bundled server that does not run, which is said in a note."""
    try:
        return project.connect_settings(entry, start=start)
    except ServerNotRunning as error:
        name = entry.environment
        note = (
            f"the bundled PostgreSQL of {name} does not exist yet, so every file is pending; `invoke migrate` makes it"
            if error.is_new
            else f"the bundled PostgreSQL of {name} is not running, so its history is not known and every file is "
            f"shown as pending; `invoke up --env={name}` starts it"
        )
        output.say(commands.typed(f"note: {note}"))
        return None


def _stopped_location(project: Project, entry: InventoryTarget) -> str:
    """Where the database of a target is whose bundled server does not run."""
    return f"{project.variables(entry, DatabaseVariables).pg_dbname} on the bundled server"


def _plan_without_history(files: tuple[Migration, ...], request: Migrate, result: RunResult, *, json: bool) -> Plan:
    """Show the plan of a dry run for a database without a history, and return it."""
    from pgratchet.migrations.plan import make_plan
    from pgratchet.migrations.scripts import is_contract, prepare_plan

    plan = make_plan(files, (), request.to, is_contract if request.stops_at_contract else None)
    names = tuple(script.name for script in prepare_plan(plan))
    result.take(Planned(names, plan.total, plan.pending_count))
    if not json:
        migrations.show_plan(result, plan, is_dry_run=True)
    return plan


@contextmanager
def _advised_for_bundled_server(target: RenderedTarget | None) -> Iterator[None]:
    """Add to the hint what is possible on a bundled server, whose data is the developer's own."""
    try:
        yield
    except RatchetError as error:
        if target and target.embedded:
            error.advise_inventory_roles()
            if isinstance(error, HistoryDisagrees) and error.location:  # files that changed, and not other tables
                error.hint += (
                    f"\nOr, if the files are not merged yet, run `invoke down --env={target.environment} --remove`, "
                    "which deletes the data of this bundled server, and `invoke migrate` again."
                )
        raise


def _migrate_target(
    project: Project,
    entry: InventoryTarget,
    target: RenderedTarget,
    files: tuple[Migration, ...],
    request: Migrate,
    result: RunResult,
    *,
    yes: bool,
    dry_run: bool,
    json: bool,
) -> Plan:
    """Migrate one target, and return the plan that the run began with."""
    from pgratchet.console import progress

    with dispatch.prepare_migration(target, files, request, project.root) as run:
        result.take(run.planned)
        if not json:
            migrations.show_plan(result, run.plan, is_dry_run=dry_run)
        if result.plan and run.plan.names("applied"):  # a new database has no drift, and nobody who would wait
            result.rehearsed_ms = _follow_policies(project, entry, target, files, result.plan, dry_run=dry_run)
        if not dry_run:
            if result.plan and target.variables.confirm:
                consent(target.environment, yes)
            progress.draw(run.apply(), result, quiet=json)
        return run.plan


def _follow_policies(
    project: Project,
    entry: InventoryTarget,
    target: RenderedTarget,
    files: tuple[Migration, ...],
    todo: Sequence[str],
    *,
    dry_run: bool,
) -> int | None:
    """Raise the error of what the inventory asks for before a run, or warn. `todo` are the migrations to run.

    Returns their duration in a rehearsal, in milliseconds, where the inventory asks for one.
    """
    if target.variables.drift != "off":
        from pgratchet.tasks.schema import require_no_drift

        require_no_drift(project, target, files)
    if target.variables.rehearsal != "off":
        from pgratchet.tasks.rehearsing import require_rehearsal

        return require_rehearsal(project, entry, target, files, todo, dry_run=dry_run)
    return None


@task("env", "sql", "limit", "check", "json")
def status(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    limit: str | None = None,
    check: bool = False,
    json: bool = False,
) -> None:
    """Show applied and pending migrations."""
    from pgratchet.migrations.plan import lacks_first_version, make_plan, require_agreement

    files = read_migrations(project, project.sql(sql))
    pending = 0
    for entry in project.targets(env, limit):
        target = _settings(project, entry, start=False)
        query = ReadHistory(without_first=lacks_first_version(files))
        history = dispatch.ask(target, query, project.root) if target else AppliedMigrations((), ())
        plan = make_plan(files, history.rows)
        location = target.location if target else _stopped_location(project, entry)
        if json:
            output.write_json({"env": entry.environment, "target": entry.name, **migrations.status_json(plan)})
        else:
            migrations.show_status(f"{entry.environment}: {entry.name} ({location})", plan)
        if plan.disagreements() and not check and not json:
            output.say(commands.typed("HINT: `invoke status --check` shows how files and history differ."))
        for warning in history.warnings:
            output.say(commands.typed(f"WARNING: {warning}"))
        if check and target:
            names = plan.compared_names
            require_agreement(plan, dispatch.ask(target, ReadTexts(names), project.root) if names else {})
        pending += plan.pending_count
    if check and pending:
        raise Exit(code=3)


@task("env", "sql", "limit", "write_sizes", "json")
def doctor(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    limit: str | None = None,
    write_sizes: str | None = None,
    json: bool = False,
) -> None:
    """Check for problems that would make a migration fail."""
    exit_code = 0
    if write_sizes:
        from pgratchet.tasks.sizes import write_sizes_of

        write_sizes_of(project, project.targets(env, limit), Path(write_sizes))
    for target in project.targets(env, limit):
        findings: list[Finding] = []
        name, code = _examine(project, target, project.sql(sql), findings)
        if json:
            shape = [asdict(finding) | {"remedy": commands.typed(finding.remedy)} for finding in findings]
            output.write_json({"env": target.environment, "target": target.name, "findings": shape})
        else:
            show_findings(name, findings)
        exit_code = max(exit_code, code)
    if exit_code:
        raise Exit(code=exit_code)


def _examine(project: Project, entry: InventoryTarget, sql: Path, findings: list[Finding]) -> tuple[str, int]:
    """Add the findings about a target; returns the target's title and the exit code."""
    from pgratchet.checks.files import check_files, created_extensions, pending_files
    from pgratchet.checks.findings import collecting, finding_of
    from pgratchet.checks.stored_backups import check_backups
    from pgratchet.migrations.plan import lacks_first_version
    from pgratchet.operations.examine import Examine

    files, others = _read_files(project, sql)
    pending, title = files, f"{entry.environment}: {entry.name}"
    try:
        target = project.connect_settings(entry, start=False)
        title = target.title
        others += _env_file_findings(project, entry)
        others += [] if target.embedded else _runner_findings(project, entry)
        with collecting(others, "history", past=(Unreachable,)):
            history = dispatch.ask(target, ReadHistory(), project.root).rows
            others += check_files(files, history)
            pending = pending_files(files, history)
        examine = Examine(created_extensions(pending), bool(pending), bool(files), lacks_first_version(files))
        findings += dispatch.ask(target, examine, project.root)
        with collecting(findings, "backups"):
            findings += check_backups(project.backup_store(entry), datetime.now(timezone.utc))
    except RatchetError as error:
        findings.append(finding_of(error, "login" if isinstance(error, Unreachable) else "settings"))
        return title, error.exit_code
    finally:
        findings += others
    return title, 2 if any(finding.severity == "problem" for finding in findings) else 0


def _env_file_findings(project: Project, entry: InventoryTarget) -> list[Finding]:
    """A warning when git would commit the env file that the inventory reads."""
    from pgratchet.checks.findings import Finding
    from pgratchet.config.env_file import is_committable

    name = str(entry.variables.get("env_file") or "")
    if not name or not (project.root / name).exists() or not is_committable(project.root / name):
        return []
    what = f"git does not ignore {name}, which the inventory reads as env_file"
    remedy = f"Add the line {name} to .gitignore. If git has the file, run `git rm --cached {name}`."
    return [Finding("warning", "secrets", what, remedy)]


def _runner_findings(project: Project, entry: InventoryTarget) -> list[Finding]:
    """A warning when this machine is a runner of a CI system, and the backups go to a folder of it."""
    from pgratchet.checks.findings import Finding
    from pgratchet.config.repository import is_runner, keeps_backups_here

    if not is_runner(project.environ) or not keeps_backups_here(entry):
        return []
    folder = entry.variables["backup_dir"]
    what = f"the backups go to the folder {folder} of this machine, a runner of a CI system, and are lost with it"
    return [Finding("warning", "backups", what, "Set backup_store or backup_command in the inventory.")]


def _read_files(project: Project, sql: Path) -> tuple[tuple[Migration, ...], list[Finding]]:
    """The migrations of a folder, or none, and the findings about its entries."""
    from pgratchet.checks.findings import Finding, collecting
    from pgratchet.migrations.files import read

    findings: list[Finding] = []
    files: tuple[Migration, ...] = ()
    with collecting(findings, "files"):
        project.require_migrations(sql)
        files = read(sql)
        if names := unread_entries(project, sql):
            remedy = "Move what is no migration to another folder."
            findings.append(Finding("warning", "files", f"not read in {sql}: {', '.join(names)}", remedy))
    return files, findings


@task("name", "sql", "repeatable")
def new(project: Project, name: str, sql: str | None = None, repeatable: bool = False) -> None:
    """Write an empty migration; its version is the time in UTC."""
    from pgratchet.migrations.files import create, create_repeatable

    if name.startswith("-"):  # Invoke takes the first word behind the task as the name, also a flag
        raise ConfigurationError(
            f'"{name}" is a flag, and new needs a name first',
            detail="Nothing was written.",
            hint='Write `invoke new "create users"`.',
        )
    project.require()
    folder = project.sql(sql)
    path = create_repeatable(folder, name) if repeatable else create(folder, name, datetime.now(timezone.utc))
    output.write(str(path))
