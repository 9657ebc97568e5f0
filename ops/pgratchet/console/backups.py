"""Shows backups, restores and drills."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pgratchet.console import commands
from pgratchet.console.output import say, show_table, write, write_json
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import format_count, format_duration, format_size

if TYPE_CHECKING:
    from pgratchet.backups.drill_records import DrillRecord
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.restore import RestorePreview
    from pgratchet.console.result import RunResult


_MOST_DRILLS = 10
"""The number of drills that `backups` lists."""
_BARS = "▁▂▃▄▅▆▇█"


def show_backups(environment: str, target: str, entries: Sequence[BackupEntry], drills: Sequence[DrillRecord]) -> None:
    """Show the backups, newest first, and the last drills, oldest first. A backup's id begins with the time in UTC."""
    name = f"{environment}: {target}"
    rows = [_backup_row(entry) for entry in entries]
    show_table(name, ("backup", "state", "size", "applied", "database", "label"), rows)
    if not rows:
        write(f"{name}: no backups")
    shown = drills[-_MOST_DRILLS:]
    longest = max((record.restore_ms for record in shown if record.good), default=0)
    show_table(
        f"{name}: drills",
        ("drilled", "result", "restore", "trend", "data", "rows", "backup"),
        [_drill_row(record, longest) for record in shown],
    )


def _backup_row(entry: BackupEntry) -> tuple[str, ...]:
    manifest = entry.manifest
    if manifest is None:
        return entry.backup_id, entry.problem, "", "", "", ""
    return (
        entry.backup_id,
        "complete, kept" if manifest.keep else "complete",
        format_size(manifest.size),
        str(len(manifest.contents.history)),
        manifest.database.name,
        manifest.label or "",
    )


def _drill_row(record: DrillRecord, longest: int) -> tuple[str, ...]:
    """The columns of a drill. The trend is a bar, as high as the restore took beside the `longest`."""
    has_bar = record.good and longest
    return (
        record.at.replace("T", " ").replace("+00:00", "Z"),
        "good" if record.good else "not good",
        format_duration(record.restore_ms),
        _BARS[record.restore_ms * (len(_BARS) - 1) // longest] if has_bar else "",
        format_size(record.database_size),
        str(record.rows),
        record.backup_id,
    )


def backups_json(entries: Sequence[BackupEntry], drills: Sequence[DrillRecord], location: str) -> dict[str, Any]:
    """The lists of `backups --json`."""
    from dataclasses import asdict

    return {
        "where": location,
        "backups": [_backup_json(entry) for entry in entries],
        "drills": [asdict(record) for record in drills],
    }


def _backup_json(entry: BackupEntry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "id": entry.backup_id,
        "complete": manifest is not None,
        "problem": entry.problem or None,
        "database": manifest.database.name if manifest else None,
        "created_at": manifest.created_at if manifest else None,
        "size": manifest.size if manifest else None,
        "label": manifest.label if manifest else None,
        "keep": manifest.keep if manifest else None,
    }


def show_backup(result: RunResult, *, json: bool) -> None:
    """Show the result of `backup`."""
    if json:
        shape = {"env": result.environment, "target": result.target}
        write_json(shape | {"backup": result.backup_id, "path": result.backup_path})
    else:
        write(f"{result.backup_id} in {result.backup_path}")


def show_verified(manifest: Manifest, *, is_encrypted: bool) -> None:
    """Show the result of `verify`. With `is_encrypted` only the hashes of the files were verified."""
    if is_encrypted:
        write(f"{manifest.backup_id}: every file is as its manifest says; it is encrypted, so its content was not read")
    else:
        write(f"{manifest.backup_id} is good: every file is as its manifest says, and the archive reads to its end")


def show_losses(manifest: Manifest, database: str, preview: RestorePreview) -> None:
    """Show the losses of a restore, before asking for consent."""
    age = datetime.now(timezone.utc) - manifest.moment
    say(f'backup {manifest.backup_id} of {manifest.created_at} takes the place of the database "{database}"')
    if not preview.exists:
        say("there is no such database now: nothing is lost")
        return
    say(f"what was written since is not in it: {_format_age(int(age.total_seconds()))}")
    say(f"migrations applied since: {', '.join(preview.lost) if preview.lost else 'none'}")


def _format_age(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return format_count(seconds // length, unit)
    return format_count(max(0, seconds), "second")


def show_restored(result: RunResult, *, json: bool) -> None:
    """Show the result of `restore`."""
    database, old = result.database, result.kept_database
    if json:
        shape = {"env": result.environment, "target": result.target, "backup": result.backup_id}
        write_json(shape | {"database": database, "kept": old, "duration_ms": result.duration_ms})
        return
    write(f'{result.backup_id} is in the database "{database}"')
    if old:
        write(commands.typed(f'the old one is "{old}", until `invoke restore --env={result.environment} --drop-old`'))


def show_drill(environment: str, target: str, record: DrillRecord, *, json: bool) -> None:
    """Show the result of `drill`."""
    if json:
        from dataclasses import asdict

        write_json({"env": environment, "target": target, **asdict(record)})
        return
    if record.good:
        rate = record.database_size * 1000 // max(1, record.restore_ms)
        write(
            f"{record.backup_id} restores: {format_size(record.database_size)} "
            f"in {format_duration(record.restore_ms)}, {format_size(rate)} a second; "
            f"{format_count(record.tables, 'table')}, {format_count(record.rows, 'row')} as in the manifest"
        )
    for note in record.notes:
        write(f"not compared: {note}")


def no_rollback_error(environment: str, target: str, newest: Manifest | None) -> ConfigurationError:
    """The error of `rollback`, which explains the missing rollback and names the newest backup."""
    detail = "Migrations run forward only: undoing DDL by hand-written DDL loses data in silence. A backup does not."
    if newest is None:
        return ConfigurationError(
            "there is no rollback, and there is no backup",
            detail=detail,
            hint=f"Fix forward with a new migration; `invoke backup --env={environment}` takes a backup.",
        )
    applied = format_count(len(newest.contents.history), "migration")
    return ConfigurationError(
        "there is no rollback",
        detail=f"{detail}\nThe newest backup of {target} is {newest.backup_id}, of {newest.created_at}, "
        f"of the database {newest.database.name} with {applied} applied.",
        hint="Fix forward with a new migration; or go back to the backup, which keeps the database of now beside it:\n"
        f"invoke restore --env={environment} --backup={newest.backup_id}\n"
        f"With --into={newest.database.name}_restored it is restored beside it, and nothing else is changed.",
    )
