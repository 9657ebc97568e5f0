"""The task that rehearses migrations on a backup, and the inventory's policy about rehearsals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.console import output, rehearsal, rehearsal_page
from pgratchet.console.backups import show_skipped
from pgratchet.console.result import RunResult
from pgratchet.errors import ConfigurationError, MigrationFailed
from pgratchet.remote import dispatch
from pgratchet.tasks.backups import choose_backup, take_backup
from pgratchet.tasks.project import ChosenBackup, Project
from pgratchet.tasks.support import read_migrations, task
from pgratchet.variables import RehearsalVariables

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.store import Store
    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.events import Stream
    from pgratchet.migrations.files import Migration
    from pgratchet.rehearsal.records import Circumstances
    from pgratchet.rehearsal.report import Report


@task(
    *("env", "backup", "fresh", "sql", "to", "on", "html", "markdown", "yes", "limit", "json"),
    help_texts={"yes": "rehearse also on the server that the backup was taken on"},
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
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress
    from pgratchet.operations.rehearse import rehearse_request
    from pgratchet.rehearsal.budget import parse_budget

    files = read_migrations(project, project.sql(sql))
    if fresh:
        backup = _fresh_backup(project, env, limit, backup, json=json)
    chosen = choose_backup(project, env, limit, backup)
    variables, manifest = project.variables(chosen.target, RehearsalVariables), require_manifest(chosen.entry)
    budget = parse_budget(variables.rehearsal_budget)
    show_skipped(chosen.skipped)
    scratch = project.other_target("--on", on) if on else project.drill_target(variables)
    if not json:
        output.say(rehearsal.title(chosen.target.environment, chosen.target.name, manifest.backup_id))
    request = rehearse_request(manifest, variables, to, chosen.store)
    storage = project.storage(chosen.target)
    reports: list[Report | None] = []

    def run() -> Stream:
        stream = dispatch.rehearse(storage, request, files, manifest, scratch, project.root, same_server=yes)
        reports.append((yield from stream))

    progress.draw(run(), RunResult(chosen.target.environment, chosen.target.name, ""), quiet=json)
    if (report := reports[-1]) is None:
        rehearsal.show_nothing(chosen.target.environment, chosen.target.name, manifest.backup_id, json=json)
        return
    _report(chosen, manifest, report, budget, html, markdown, json=json)


def _fresh_backup(project: Project, env: str | None, limit: str | None, backup: str | None, *, json: bool) -> str:
    """Take a backup of the first target, and return its id."""
    if backup:
        raise ConfigurationError(
            "--fresh and --backup cannot be given together",
            detail="--fresh takes a new backup and rehearses on that.",
            hint="Leave out one of them.",
        )
    return take_backup(project, project.targets(env, limit)[0], quiet=json).backup_id or ""


def _report(
    chosen: ChosenBackup,
    manifest: Manifest,
    report: Report,
    budget: dict[str, int],
    html: str | None,
    markdown: str | None,
    *,
    json: bool,
) -> None:
    """Store and show a report. Raises MigrationFailed for a migration that failed, NotRehearsed over the budget."""
    from pgratchet.rehearsal.budget import find_excesses
    from pgratchet.rehearsal.records import as_json, write_record
    from pgratchet.rehearsal.remedies import find_remedies
    from pgratchet.rehearsal.verdict import over_budget

    excesses, now = find_excesses(report, budget), datetime.now(timezone.utc)
    remedies = find_remedies(report)
    shape = as_json(chosen.target.environment, chosen.target.name, report, excesses, remedies, manifest, now)
    write_record(chosen.store, shape)
    rehearsal.show_report(shape, json=json)
    if html:
        _write(Path(html), rehearsal_page.render(shape))
    if markdown:
        _write(Path(markdown), rehearsal.markdown(shape))
    if report.failure or excesses:
        error = _failed(report) if report.failure else over_budget([each.describe() for each in excesses])
        error.printed = json
        raise error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    output.say(f"wrote {path}")


def _failed(report: Report) -> MigrationFailed:
    assert report.failure is not None
    failure = report.failure
    return MigrationFailed(
        f"migration {failure.migration} failed at line {failure.line}: {failure.message}",
        detail=rehearsal.describe_obstacle(failure.relation, failure.rows, failure.key_columns, failure.keys),
        hint="Correct these rows in an earlier migration, or change the statement; then rehearse again. The live "
        "database was not touched.",
    )


def require_rehearsal(
    project: Project, entry: InventoryTarget, target: RenderedTarget, files: Sequence[Migration], todo: Sequence[str]
) -> int | None:
    """Follow the inventory's policy about rehearsals before a run: NotRehearsed to refuse it, or a warning.

    `todo` are the names of the migrations that are going to run. Returns their duration in the rehearsal, in
    milliseconds, if there is one.
    """
    from pgratchet.console import commands
    from pgratchet.rehearsal.records import find_fitting, read_records
    from pgratchet.rehearsal.verdict import judge

    checksums = {file.name: file.checksum for file in files}
    circumstances = _circumstances(project, target, [(name, checksums[name]) for name in todo])
    store = project.backup_store(entry)
    records = read_records(store)
    max_age = timedelta(seconds=target.variables.rehearsal_max_age)
    error = judge(records, circumstances, _backup_hashes(store, target), datetime.now(timezone.utc), max_age)
    if error and target.variables.rehearsal == "required":
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
    """The hashes of the good backups of a target, by which records name them."""
    from pgratchet.backups.listing import list_backups
    from pgratchet.backups.signing import trusted_keys
    from pgratchet.rehearsal.records import manifest_hash

    entries = list_backups(store, trusted_keys(target.variables))
    return {manifest_hash(each.manifest) for each in entries if each.manifest and not each.distrust}
