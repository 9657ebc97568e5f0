"""Restores what can be restored of a backup, and writes a file with the SQL of the rest."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pgratchet.console.backups import show_restored
from pgratchet.console.result import RunResult
from pgratchet.errors import BackupFailed, ConfigurationError
from pgratchet.formatting import format_count
from pgratchet.remote import dispatch

if TYPE_CHECKING:
    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.tasks.project import Project

_LISTED = 20


def restore_partly(
    project: Project,
    backup: str | None,
    into: str | None,
    env: str | None,
    limit: str | None,
    *,
    json: bool,
    settings_of: Callable[[Project, InventoryTarget], RenderedTarget],
) -> None:
    """Restore a backup into a new database as far as possible. Raises BackupFailed when something is missing there."""
    from pgratchet.backups.listing import require_manifest
    from pgratchet.console import progress
    from pgratchet.operations.salvage import Salvage

    if backup is None or into is None:
        raise ConfigurationError(
            "--salvage needs --into and --backup",
            detail="It restores into a new database, and never replaces the live one.",
            hint="Add --into=NAME --backup=ID. `invoke backups` lists the ids.",
        )
    chosen = project.choose_backup(env, limit, backup)
    target, manifest = settings_of(project, chosen.target), require_manifest(chosen.entry)
    project.refuse_database_of_other(target, into)
    result = RunResult(target.environment, target.target, os.urandom(6).hex(), manifest.backup_id)
    path, file = _create_file(into)
    try:
        with file:
            started = time.monotonic()
            stream = dispatch.restore(target, Salvage(manifest.backup_id, into), result.run_id, manifest, project.root)
            progress.draw(stream, result, quiet=json)
            result.duration_ms = round((time.monotonic() - started) * 1000)
            file.write(_script(result))
    finally:
        if not path.stat().st_size:
            path.unlink()
    show_restored(result, drops_old=False, json=json)
    _require_whole(result, path, printed=json)


def _create_file(name: str) -> tuple[Path, IO[str]]:
    """Create a new file in the current folder, named after the database. An existing file is never written to."""
    stem = re.sub(r"[^\w.-]", "_", name).lstrip(".-") or "database"
    number = 1
    while True:
        path = Path(f"{stem}-not-restored{f'-{number}' if number > 1 else ''}.sql")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            number += 1
        else:
            return path, os.fdopen(descriptor, "w", encoding="utf-8", errors="replace")


def _script(result: RunResult) -> str:
    """The SQL of the items that were not restored, each below its name and its error as comments."""
    lines = []
    for item in result.not_restored:
        comments = f"{item.name}\n{item.error}".splitlines()
        lines += [*(f"-- {comment}" for comment in comments), item.sql]
    return "\n".join(lines)


def _require_whole(result: RunResult, path: Path, *, printed: bool) -> None:
    if not result.not_restored:
        return
    lines = [f"{item.name}: {item.error}" for item in result.not_restored[:_LISTED]]
    lines += [f"and {len(result.not_restored) - _LISTED} more"] if len(result.not_restored) > _LISTED else []
    error = BackupFailed(
        f"{format_count(len(result.not_restored), 'item')} of backup {result.backup_id} could not be restored",
        detail="\n".join([f'Everything else is in the database "{result.database}". Not restored:', *lines]),
        hint=f"Correct the causes, and run the statements of {path} in the new database.",
    )
    error.printed = printed  # the object of --json lists the items
    raise error
