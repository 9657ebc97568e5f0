"""Tasks that take, list, verify, restore and drill backups."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pgratchet.config.settings import for_restore
from pgratchet.console import output
from pgratchet.console.backups import (
    backups_json,
    no_rollback_error,
    show_backup,
    show_backups,
    show_drill,
    show_dropped,
    show_losses,
    show_restored,
    show_skipped,
    show_verified,
)
from pgratchet.console.findings import show_notes
from pgratchet.console.result import RunResult
from pgratchet.errors import ConfigurationError, RatchetError
from pgratchet.remote import dispatch
from pgratchet.tasks.combinations import RESTORE
from pgratchet.tasks.project import ChosenBackup, Project
from pgratchet.tasks.support import consent, task
from pgratchet.variables import DrillVariables

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
    from pgratchet.checks.findings import Finding
    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.operations.restore import Restore


@task("env", "label", "keep", "limit", "json")
def backup(
    project: Project,
    env: str | None = None,
    label: str | None = None,
    keep: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Take a backup and verify it."""
    for entry in project.targets(env, limit):
        show_backup(take_backup(project, entry, label, keep=keep, quiet=json), json=json)


def take_backup(
    project: Project, entry: InventoryTarget, label: str | None = None, *, keep: bool = False, quiet: bool
) -> RunResult:
    """Take a backup of a target; returns the result, which names it."""
    from pgratchet.console import progress
    from pgratchet.operations.backups import TakeBackup

    target = project.connect_settings(entry, start=True)
    _say_title(target, json=quiet)
    result = RunResult(target.environment, target.target, os.urandom(6).hex())
    stream = dispatch.backup(target, TakeBackup(label, keep), result.run_id, project.root)
    progress.draw(stream, result, quiet=quiet)
    return result


@task("env", "limit", "json")
def backups(project: Project, env: str | None = None, limit: str | None = None, json: bool = False) -> None:
    """List backups, drills and rehearsals."""
    from pgratchet.backups import drill_records, listing
    from pgratchet.backups.signing import trusted_keys
    from pgratchet.checks.stored_backups import check_backups
    from pgratchet.rehearsal import records

    for target in project.targets(env, limit):
        store = project.backup_store(target)
        keys = trusted_keys(project.storage(target).variables)
        entries, drills = listing.list_backups(store, keys), drill_records.read_records(store)
        rehearsals = records.read_records(store)
        leftovers = _find_leftovers(project, target)
        if json:
            databases = None if leftovers is None else [finding.what for finding in leftovers]
            shape = backups_json(entries, drills, rehearsals, store.location, is_checked=keys is not None) | {
                "databases": databases
            }
            output.write_json({"env": target.environment, "target": target.name, **shape})
        else:
            command = project.storage(target).variables.backup_command
            show_backups(target.environment, target.name, entries, drills, rehearsals, *command[:1])
            show_notes([*check_backups(store, datetime.now(timezone.utc)), *(leftovers or ())])


def _find_leftovers(project: Project, entry: InventoryTarget) -> tuple[Finding, ...] | None:
    """The databases that restores and killed runs left on the target's server; None when it cannot be asked.

    Backups are listed without the server too, because it may be the one that is lost.
    """
    from pgratchet.operations.examine import FindLeftovers

    try:
        return dispatch.ask(project.connect_settings(entry, start=False), FindLeftovers(), project.root)
    except RatchetError as error:
        output.say(f"note: databases kept on the server are not listed: {error.message}")
        return None


@task("env", "backup", "limit", "json")
def verify(
    project: Project, backup: str | None = None, env: str | None = None, limit: str | None = None, json: bool = False
) -> None:
    """Read a backup back whole and compare it with its manifest."""
    from pgratchet.backups.listing import require_manifest, require_newest
    from pgratchet.console import progress

    chosen = choose_backup(project, env, limit, backup)
    manifest, target = require_manifest(chosen.entry), project.storage(chosen.target)
    stream = dispatch.verify(target, manifest, project.root)
    result = RunResult(target.environment, target.target, "", manifest.backup_id)
    progress.draw(stream, result, quiet=json)
    is_encrypted = bool(manifest.recipients) and not target.variables.backup_identity
    if not (json and chosen.skipped):
        show_verified(result, is_encrypted=is_encrypted, json=json)
    require_newest(chosen.entry, chosen.skipped)


def choose_backup(project: Project, env: str | None, limit: str | None, backup: str | None) -> ChosenBackup:
    """The backup that --backup names, or the newest good one."""
    from pgratchet.backups.choice import NEWEST

    if backup is None or backup.strip().lower() in NEWEST:
        return project.choose_newest_backup(env, limit)
    return project.choose_backup(env, limit, backup)


@task(
    *("backup", "into", "salvage", "env", "leave_behind", "accept_differences", "continue_", "drop_old"),
    *("show_lost", "export_lost", "old", "max_size", "yes", "limit", "json"),
    combinations=RESTORE,
)
def restore(
    project: Project,
    backup: str | None = None,
    into: str | None = None,
    env: str | None = None,
    leave_behind: bool = False,
    accept_differences: bool = False,
    continue_: bool = False,
    drop_old: bool = False,
    show_lost: bool = False,
    export_lost: str | None = None,
    old: str | None = None,
    max_size: str | None = None,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
    salvage: bool = False,
) -> None:
    """Replace the live database by a backup; the old one is kept."""
    from pgratchet.operations.restore import Restore
    from pgratchet.tasks.lost_rows import LostRowsRequest, max_size_of, report_lost_rows
    from pgratchet.tasks.salvage import restore_partly

    if salvage:
        restore_partly(project, backup, into, env, limit, json=json, settings_of=_restore_settings)
        return
    if show_lost or export_lost is not None:
        lost = LostRowsRequest(env, limit, backup, export_lost, old, max_size_of(max_size))
        report_lost_rows(project, lost, lambda entry: _restore_settings(project, entry), json=json)
        return
    if continue_:
        backup = _find_restored(project, env, limit, backup)
    if backup is not None:
        request = Restore(backup, into, leave_behind, accept_differences, continue_)
        _restore(project, request, env, limit, drop_old=drop_old, yes=yes, json=json)
    elif drop_old:
        _drop_kept_databases(project, env, limit, yes=yes, json=json)
    else:
        raise _no_backup_named()


def _no_backup_named() -> ConfigurationError:
    return ConfigurationError(
        "no backup was named",
        detail="A restore needs the id of the backup, so that it never restores one that you did not choose.",
        hint="Add --backup=ID. `invoke backups` lists the ids.",
    )


def _find_restored(project: Project, env: str | None, limit: str | None, backup_id: str | None) -> str:
    """The backup of the restored database that an earlier restore kept."""
    from pgratchet.operations.restore import FindRestored

    if backup_id is not None:
        backup_id = project.choose_backup(env, limit, backup_id).entry.backup_id
    (entry,) = project.targets(env, limit)[:1]
    return dispatch.ask(_restore_settings(project, entry), FindRestored(backup_id), project.root)


def _restore_settings(project: Project, entry: InventoryTarget) -> RenderedTarget:
    """A target's settings to restore with: those of `restore_environment`, if it is set, with the target's backups."""
    target = project.connect_settings(entry, start=True)
    if not target.variables.restore_environment:
        return target
    return for_restore(target, project.other_target("restore_environment", target.variables.restore_environment))


def _restore(
    project: Project, request: Restore, env: str | None, limit: str | None, *, drop_old: bool, yes: bool, json: bool
) -> None:
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress
    from pgratchet.operations.restore import DropKeptDatabases

    chosen = project.choose_backup(env, limit, request.backup_id)
    request = replace(request, backup_id=chosen.entry.backup_id)
    target = _restore_settings(project, chosen.target)
    manifest = require_manifest(chosen.entry)
    if request.into is not None:
        project.refuse_database_of_other(target, request.into)
    _say_title(target, json=json)
    _show_preview(project, target, manifest, request, drops_old=drop_old, yes=yes)
    result = RunResult(target.environment, target.target, os.urandom(6).hex(), manifest.backup_id)
    started = time.monotonic()
    progress.draw(dispatch.restore(target, request, result.run_id, manifest, project.root), result, quiet=json)
    result.duration_ms = round((time.monotonic() - started) * 1000)
    show_restored(result, drops_old=drop_old, json=json)
    if drop_old and result.kept_database:
        dispatch.ask(target, DropKeptDatabases((result.kept_database,)), project.root)
        if not json:
            output.write(f'the old database "{result.kept_database}" was dropped')


def _say_title(target: RenderedTarget, *, json: bool = False) -> None:
    if not json:
        output.say(target.title)


def _show_preview(
    project: Project, target: RenderedTarget, manifest: Manifest, request: Restore, *, drops_old: bool, yes: bool
) -> None:
    """Say what the restore meets and undoes, and ask for consent; raise where it cannot be done."""
    from pgratchet.backups.manifest import dumps
    from pgratchet.backups.restore import require_restorable
    from pgratchet.operations.restore import PreviewRestore

    preview = dispatch.ask(target, PreviewRestore(dumps(manifest).decode(), request.into), project.root)
    require_restorable(preview, manifest, request.options(target.variables))
    if request.into is None:
        show_losses(manifest, target.connection["dbname"], preview, drops_old=drops_old)
        consent(target.environment, yes)


def _drop_kept_databases(project: Project, env: str | None, limit: str | None, *, yes: bool, json: bool) -> None:
    from pgratchet.operations.restore import DropKeptDatabases, ListKeptDatabases

    for entry in project.targets(env, limit):
        target = _restore_settings(project, entry)
        _say_title(target)
        names = dispatch.ask(target, ListKeptDatabases(), project.root)
        for name in names:
            output.say(f'to be dropped: "{name}"')
        if names:
            consent(target.environment, yes)
            dispatch.ask(target, DropKeptDatabases(names), project.root)
        show_dropped(target.environment, target.target, names, json=json)


@task("env", "backup", "limit", "json")
def drill(
    project: Project, env: str | None = None, backup: str | None = None, limit: str | None = None, json: bool = False
) -> None:
    """Restore the newest backup on a scratch server, as a test."""
    from pgratchet.backups import drill_records
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress
    from pgratchet.operations.drill import drilling

    chosen = choose_backup(project, env, limit, backup)
    target_entry, store, backup_entry = chosen.target, chosen.store, chosen.entry
    variables, manifest = project.variables(target_entry, DrillVariables), require_manifest(backup_entry)
    show_skipped(chosen.skipped)
    with drilling(backup_entry, manifest, store, variables, project.drill_target(variables)) as run:
        progress.draw(run.run(), RunResult(target_entry.environment, target_entry.name, ""), quiet=json)
    drill_records.write_record(store, run.record)
    show_drill(target_entry.environment, target_entry.name, run.record, json=json)
    drill_records.require_good(run.record, run.remedy)


@task("env", "limit", "json")
def rollback(project: Project, env: str | None = None, limit: str | None = None, json: bool = False) -> None:  # noqa: ARG001  its error is JSON then
    """Explain why there is no rollback, and name a backup to restore."""
    from pgratchet.backups.listing import list_backups, newer_refused, newest_before, newest_good
    from pgratchet.backups.signing import trusted_keys

    target = project.targets(env, limit)[0]
    keys = trusted_keys(project.storage(target).variables)
    entries, last = list_backups(project.backup_store(target), keys), _last_migration(project, target)
    entry = (newest_before(entries, last) if last else None) or newest_good(entries)
    show_skipped(newer_refused(entries, entry))
    command = project.storage(target).variables.backup_command
    raise no_rollback_error(
        target.environment, target.name, entry.manifest if entry else None, last, "".join(command[:1])
    )


def _last_migration(project: Project, entry: InventoryTarget) -> str | None:
    """The last migration in the history of a target; None when there is none, or the server cannot be asked.

    A backup is named without the server too, because it may be the one that is lost.
    """
    from pgratchet.operations.migrate import ReadHistory

    try:
        rows = dispatch.ask(project.connect_settings(entry, start=False), ReadHistory(), project.root).rows
    except RatchetError as error:
        output.say(f"note: the history was not read, so the newest backup is named: {error.message}")
        return None
    return rows[-1].name if rows else None
