"""Tasks that take, list, verify, restore and drill backups."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pgratchet.console import output
from pgratchet.console.backups import (
    backups_json,
    no_rollback_error,
    show_backup,
    show_backups,
    show_drill,
    show_losses,
    show_restored,
    show_verified,
)
from pgratchet.console.result import RunResult
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import format_count
from pgratchet.remote import dispatch
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import consent, task
from pgratchet.variables import DrillVariables

if TYPE_CHECKING:
    from pgratchet.backups.manifest import Manifest
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
    """Take a backup now, and read it back whole."""
    from pgratchet.console import progress
    from pgratchet.operations.backups import TakeBackup

    for entry in project.targets(env, limit):
        target = project.connect_settings(entry, start=True)
        result = RunResult(target.environment, target.target, os.urandom(6).hex())
        stream = dispatch.backup(target, TakeBackup(label, keep), result.run_id, project.root)
        progress.draw(stream, result, quiet=json)
        show_backup(result, json=json)


@task("env", "limit", "json")
def backups(project: Project, env: str | None = None, limit: str | None = None, json: bool = False) -> None:
    """List the backups, newest first, and the last drills."""
    from pgratchet.backups import drill_records, listing

    for target in project.targets(env, limit):
        store = project.backup_store(target)
        entries, drills = listing.list_backups(store), drill_records.read_records(store)
        if json:
            shape = backups_json(entries, drills, store.location)
            output.write_json({"env": target.environment, "target": target.name, **shape})
        else:
            show_backups(target.environment, target.name, entries, drills)


@task("env", "backup", "limit")
def verify(project: Project, backup: str | None = None, env: str | None = None, limit: str | None = None) -> None:
    """Read a backup back whole, against its manifest."""
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress

    target_entry, _store, backup_entry = project.choose_backup(env, limit, backup)
    manifest, target = require_manifest(backup_entry), project.storage(target_entry)
    stream = dispatch.verify(target, manifest, project.root)
    progress.draw(stream, RunResult(target.environment, target.target, ""))
    show_verified(manifest, is_encrypted=bool(manifest.recipients) and not target.variables.backup_identity)


@task("backup", "into", "env", "leave_behind", "accept_differences", "drop_old", "yes", "limit", "json")
def restore(
    project: Project,
    backup: str | None = None,
    into: str | None = None,
    env: str | None = None,
    leave_behind: bool = False,
    accept_differences: bool = False,
    drop_old: bool = False,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Swap a backup in, keeping the old database; with --into beside it."""
    from pgratchet.operations.restore import Restore

    if backup is not None:
        request = Restore(backup, into, leave_behind, accept_differences)
        _restore(project, request, env, limit, drop_old=drop_old, yes=yes, json=json)
    elif drop_old:
        _drop_kept_databases(project, env, limit, yes)
    else:
        raise ConfigurationError(
            "no backup was named",
            detail="A restore is of one backup, and which one is for you to say.",
            hint="Give --backup=ID; `invoke backups` lists them.",
        )


def _restore(
    project: Project, request: Restore, env: str | None, limit: str | None, *, drop_old: bool, yes: bool, json: bool
) -> None:
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress
    from pgratchet.operations.restore import DropKeptDatabases

    target_entry, _store, backup_entry = project.choose_backup(env, limit, request.backup_id)
    target = project.connect_settings(target_entry, start=True)
    manifest = require_manifest(backup_entry)
    _show_preview(project, target, manifest, request, yes)
    result = RunResult(target.environment, target.target, os.urandom(6).hex(), manifest.backup_id)
    started = time.monotonic()
    progress.draw(dispatch.restore(target, request, result.run_id, manifest, project.root), result, quiet=json)
    result.duration_ms = round((time.monotonic() - started) * 1000)
    show_restored(result, json=json)
    if drop_old and result.kept_database:
        dispatch.ask(target, DropKeptDatabases((result.kept_database,)), project.root)


def _show_preview(project: Project, target: RenderedTarget, manifest: Manifest, request: Restore, yes: bool) -> None:
    """Say what the restore meets and undoes, and ask for consent; raise where it cannot be done."""
    from pgratchet.backups.manifest import dumps
    from pgratchet.backups.restore import require_restorable
    from pgratchet.operations.restore import PreviewRestore

    preview = dispatch.ask(target, PreviewRestore(dumps(manifest).decode()), project.root)
    require_restorable(preview, manifest, request.options(target.variables))
    if request.into is None:
        show_losses(manifest, target.connection["dbname"], preview)
        consent(target.environment, yes)


def _drop_kept_databases(project: Project, env: str | None, limit: str | None, yes: bool) -> None:
    from pgratchet.operations.restore import DropKeptDatabases, ListKeptDatabases

    for entry in project.targets(env, limit):
        target = project.connect_settings(entry, start=False)
        names = dispatch.ask(target, ListKeptDatabases(), project.root)
        for name in names:
            output.say(f'to be dropped: "{name}"')
        if names:
            consent(target.environment, yes)
            dispatch.ask(target, DropKeptDatabases(names), project.root)
        output.write(f"{target.environment}: {target.target}: {format_count(len(names), 'database')} dropped")


@task("env", "backup", "limit", "json")
def drill(
    project: Project, env: str | None = None, backup: str | None = None, limit: str | None = None, json: bool = False
) -> None:
    """Prove on a scratch server that the newest backup restores."""
    from pgratchet.backups import drill_records
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress
    from pgratchet.operations.drill import drilling

    target_entry, store, backup_entry = project.choose_backup(env, limit, backup)
    variables, manifest = project.variables(target_entry, DrillVariables), require_manifest(backup_entry)
    name = variables.drill_environment
    scratch = project.connect_settings(project.targets(name)[0], start=True) if name else None
    with drilling(backup_entry, manifest, store, variables, scratch) as run:
        progress.draw(run.run(), RunResult(target_entry.environment, target_entry.name, ""), quiet=json)
    drill_records.write_record(store, run.record)
    show_drill(target_entry.environment, target_entry.name, run.record, json=json)
    drill_records.require_good(run.record)


@task("env", "limit")
def rollback(project: Project, env: str | None = None, limit: str | None = None) -> None:
    """Explain why there is none, and name the backup instead."""
    from pgratchet.backups.listing import list_backups

    target = project.targets(env, limit)[0]
    entries = list_backups(project.backup_store(target))
    newest = next((entry.manifest for entry in entries if entry.manifest), None)
    raise no_rollback_error(target.environment, target.name, newest)
