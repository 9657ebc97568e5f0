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


def show_backups(environment: str, target: str, found: Sequence[BackupEntry], drills: Sequence[DrillRecord]) -> None:
    """The list of `backups`, newest first, and the last drills, oldest first; an id begins with the time in UTC."""
    rows = []
    for each in found:
        made = each.manifest
        if made:
            state = "complete, kept" if made.keep else "complete"
            applied = str(len(made.contents.history))
            rows.append((each.backup_id, state, format_size(made.size), applied, made.database.name, made.label or ""))
        else:
            rows.append((each.backup_id, each.problem, "", "", "", ""))
    show_table(f"{environment}: {target}", ("backup", "state", "size", "applied", "database", "label"), rows)
    if not rows:
        write(f"{environment}: {target}: no backups")
    shown = drills[-_DRILLS_SHOWN:]
    longest = max((each.restore_ms for each in shown if each.good), default=0)
    show_table(
        f"{environment}: {target}: drills",
        ("drilled", "result", "restore", "trend", "data", "rows", "backup"),
        [_drilled(each, longest) for each in shown],
    )


_DRILLS_SHOWN = 10


_BARS = "▁▂▃▄▅▆▇█"


def _drilled(each: DrillRecord, longest: int) -> tuple[str, ...]:
    bar = _BARS[each.restore_ms * (len(_BARS) - 1) // longest] if each.good and longest else ""
    result = "good" if each.good else "not good"
    when = each.at.replace("T", " ").replace("+00:00", "Z")
    return (
        when,
        result,
        format_duration(each.restore_ms),
        bar,
        format_size(each.database_size),
        str(each.rows),
        each.backup_id,
    )


def backups_json(found: Sequence[BackupEntry], drills: Sequence[DrillRecord], where: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "where": where,
        "backups": [
            {
                "id": each.backup_id,
                "complete": each.manifest is not None,
                "problem": each.problem or None,
                "database": each.manifest.database.name if each.manifest else None,
                "created_at": each.manifest.created_at if each.manifest else None,
                "size": each.manifest.size if each.manifest else None,
                "label": each.manifest.label if each.manifest else None,
                "keep": each.manifest.keep if each.manifest else None,
            }
            for each in found
        ],
        "drills": [asdict(each) for each in drills],
    }


def show_verified(made: Manifest, *, closed: bool) -> None:
    """The result of `verify`, on stdout; `closed` where it is encrypted to others and only its hashes were read."""
    if closed:
        write(f"{made.backup_id}: every file is as its manifest says; it is encrypted, so its content was not read")
    else:
        write(f"{made.backup_id} is good: every file is as its manifest says, and the archive reads to its end")


def show_losses(made: Manifest, database: str, outlook: RestorePreview) -> None:
    """What a restore undoes, on stderr, before it is asked for."""
    age = datetime.now(timezone.utc) - made.moment
    say(f'backup {made.backup_id} of {made.created_at} takes the place of the database "{database}"')
    if not outlook.exists:
        say("there is no such database now: nothing is lost")
        return
    say(f"what was written since is not in it: {_age(int(age.total_seconds()))}")
    names = outlook.lost
    say(f"migrations applied since: {', '.join(names) if names else 'none'}")


def _age(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return format_count(seconds // length, unit)
    return format_count(max(0, seconds), "second")


def show_restored(outcome: RunResult, *, json: bool) -> None:
    """The result of `restore`, on stdout."""
    database, kept_database = outcome.database, outcome.kept_database
    if json:
        shape = {"env": outcome.environment, "target": outcome.target, "backup": outcome.backup_id}
        write_json(shape | {"database": database, "kept": kept_database, "duration_ms": outcome.duration_ms})
        return
    write(f'{outcome.backup_id} is in the database "{database}"')
    if kept_database:
        write(
            commands.typed(
                f'the old one is "{kept_database}", until `invoke restore --env={outcome.environment} --drop-old`'
            )
        )


def show_drill(environment: str, target: str, record: DrillRecord, *, json: bool) -> None:
    """The result of `drill`, on stdout."""
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


def show_backup(outcome: RunResult, *, json: bool) -> None:
    """The result of `backup`, on stdout."""
    if json:
        write_json(
            {
                "env": outcome.environment,
                "target": outcome.target,
                "backup": outcome.backup_id,
                "path": outcome.backup_path,
            }
        )
    else:
        write(f"{outcome.backup_id} in {outcome.backup_path}")


def no_rollback_error(environment: str, target: str, newest: Manifest | None) -> ConfigurationError:
    """Why nothing is rolled back, and what can be done, as the error that `rollback` ends with."""
    detail = "Migrations run forward only: undoing DDL by hand-written DDL loses data in silence. A backup does not."
    if newest is None:
        return ConfigurationError(
            "there is no rollback, and there is no backup",
            detail=detail,
            hint=f"Mend forward with a new migration; `invoke backup --env={environment}` takes a backup.",
        )
    return ConfigurationError(
        "there is no rollback",
        detail=f"{detail}\nThe newest backup of {target} is {newest.backup_id}, of {newest.created_at}, "
        f"of the database {newest.database.name} with {format_count(len(newest.contents.history), 'migration')} applied.",
        hint="Mend forward with a new migration; or go back to the backup, which keeps the database of now beside it:\n"
        f"invoke restore --env={environment} --backup={newest.backup_id}\n"
        f"With --into={newest.database.name}_restored it is restored beside it, and nothing else is changed.",
    )
