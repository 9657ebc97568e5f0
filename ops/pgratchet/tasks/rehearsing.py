"""The task for rehearsals of migrations on a backup, and the inventory's policy about rehearsals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.console import output, rehearsal, rehearsal_page
from pgratchet.console.backups import show_skipped
from pgratchet.console.result import RunResult
from pgratchet.errors import MigrationFailed, RatchetError
from pgratchet.remote import dispatch
from pgratchet.tasks.backups import choose_backup, take_backup
from pgratchet.tasks.combinations import REHEARSE
from pgratchet.tasks.project import ChosenBackup, Project
from pgratchet.tasks.support import read_migrations, task
from pgratchet.variables import RehearsalVariables

if TYPE_CHECKING:
    from pgratchet.backups.store import Store
    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.migrations.files import Migration
    from pgratchet.rehearsal.records import Circumstances
    from pgratchet.rehearsal.report import Failure, Report


@task(
    *("env", "backup", "fresh", "sql", "to", "on", "html", "markdown", "yes", "limit", "json"),
    help_texts={"yes": "rehearse also on the server that the backup was taken on"},
    combinations=REHEARSE,
)
def rehearse(
    project: Project,
    env: str | None = None,
    backup: str | None = None,
    fresh: bool = False,
    sql: str | None = None,
    to: str | None = None,
    on: str | None = None,
    html: str | None = None,
    markdown: str | None = None,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Run the pending migrations on a restored backup."""
    from pgratchet.rehearsal.budget import parse_budget

    files = read_migrations(project, project.sql(sql))
    if fresh:
        backup = take_backup(project, project.targets(env, limit)[0], quiet=json).backup_id
    chosen = choose_backup(project, env, limit, backup)
    budget = parse_budget(project.variables(chosen.target, RehearsalVariables).rehearsal_budget)
    show_skipped(chosen.skipped)
    report = _rehearse(project, chosen, files, to, on, same_server=yes, quiet=json)
    if report is None:
        rehearsal.show_nothing(chosen.target.environment, chosen.target.name, chosen.entry.backup_id, json=json)
    else:
        _report(chosen, report, budget, html, markdown, json=json)


def _rehearse(
    project: Project,
    chosen: ChosenBackup,
    files: Sequence[Migration],
    to: str | None,
    on: str | None,
    *,
    same_server: bool,
    quiet: bool,
) -> Report | None:
    """Rehearse on a backup and show the progress; returns the report, or None when nothing is pending."""
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress
    from pgratchet.operations.rehearse import rehearse_request

    target, manifest = chosen.target, require_manifest(chosen.entry)
    variables = project.variables(target, RehearsalVariables)
    scratch = project.other_target("--on", on) if on else project.drill_target(variables)
    if not quiet:
        output.say(rehearsal.title(target.environment, target.name, manifest.backup_id))
    request = rehearse_request(manifest, variables, to, chosen.store)
    storage = project.storage(target)
    stream = dispatch.rehearse(storage, request, files, manifest, scratch, project.root, same_server=same_server)
    return progress.draw(stream, RunResult(target.environment, target.name, ""), quiet=quiet)


def _report(
    chosen: ChosenBackup,
    report: Report,
    budget: dict[str, int],
    html: str | None,
    markdown: str | None,
    *,
    json: bool,
) -> None:
    """Store and show a report. Raises MigrationFailed for a failed migration, NotRehearsed over the budget."""
    from pgratchet.backups.listing import require_manifest
    from pgratchet.rehearsal.records import as_json, write_record

    target, manifest = chosen.target, require_manifest(chosen.entry)
    shape = as_json(target.environment, target.name, report, budget, manifest, datetime.now(timezone.utc))
    write_record(chosen.store, shape)
    error = _error_of(report, [each["text"] for each in shape["verdict"]["over_budget"]])
    rehearsal.show_report(shape, error, json=json)
    if html:
        _write(Path(html), rehearsal_page.render(shape))
    if markdown:
        _write(Path(markdown), rehearsal.markdown(shape))
    if error:
        error.printed = json
        raise error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    output.say(f"wrote {path}")


def _error_of(report: Report, excesses: Sequence[str]) -> RatchetError | None:
    from pgratchet.rehearsal.verdict import over_budget

    if report.failure:
        return _failed(report.failure)
    return over_budget(excesses) if excesses else None


def _failed(failure: Failure) -> MigrationFailed:
    obstacle = rehearsal.describe_obstacle(failure.relation, failure.rows, failure.key_columns, failure.keys)
    remedy = "Correct these rows in an earlier migration, or change the statement" if obstacle else "Correct the file"
    return MigrationFailed(
        f"migration {failure.migration} failed at line {failure.line}: {failure.message}",
        detail=obstacle or "The migrations before it ran on the copy.",
        hint=f"{remedy}; then rehearse again.",
    )


def require_rehearsal(
    project: Project,
    entry: InventoryTarget,
    target: RenderedTarget,
    files: Sequence[Migration],
    todo: Sequence[str],
    *,
    dry_run: bool,
) -> int | None:
    """Follow the inventory's policy about rehearsals before a run: NotRehearsed to refuse it, or a warning.

    `todo` are the names of the migrations to run. Returns the duration in the rehearsal, in milliseconds, if any.
    """
    from pgratchet.console import commands
    from pgratchet.rehearsal.budget import parse_budget
    from pgratchet.rehearsal.records import find_fitting, read_records
    from pgratchet.rehearsal.verdict import judge

    budget = parse_budget(target.variables.rehearsal_budget)
    checksums = {file.name: file.checksum for file in files}
    circumstances = _circumstances(project, target, [(name, checksums[name]) for name in todo])
    store = project.backup_store(entry)
    records = read_records(store)
    max_age = timedelta(seconds=target.variables.rehearsal_max_age)
    hashes, now = _backup_hashes(store, target), datetime.now(timezone.utc)
    error = judge(records, circumstances, hashes, now, max_age, budget)
    if error and target.variables.rehearsal == "required" and not dry_run:
        raise error
    if error:
        output.say(commands.typed(f"WARNING: {error}"))
    record = find_fitting(records, circumstances)
    return round(record["duration_ms"]) if record else None


def _circumstances(project: Project, target: RenderedTarget, migrations: Sequence[tuple[str, str]]) -> Circumstances:
    from pgratchet.operations.rehearse import ReadDatabaseState
    from pgratchet.rehearsal.records import Circumstances

    state = dispatch.ask(target, ReadDatabaseState(), project.root)
    return Circumstances(migrations, state.history, state.settings, state.major)


def _backup_hashes(store: Store, target: RenderedTarget) -> set[str]:
    """The hashes of the good backups of a target, as in records."""
    from pgratchet.backups.listing import list_backups
    from pgratchet.backups.signing import trusted_keys
    from pgratchet.rehearsal.records import manifest_hash

    entries = list_backups(store, trusted_keys(target.variables))
    return {manifest_hash(each.manifest) for each in entries if each.manifest and not each.distrust}
