"""Shows backups, restores and drills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pgratchet.console import commands
from pgratchet.console.output import Table, format_short_time, format_time, say, show_table, write, write_json
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import abbreviate_names, format_contents, format_count, format_duration, format_size

if TYPE_CHECKING:
    from pgratchet.backups.drill_records import DrillRecord
    from pgratchet.backups.listing import BackupEntry
    from pgratchet.backups.manifest import Manifest
    from pgratchet.backups.restore import RestorePreview
    from pgratchet.console.result import RunResult


_MOST_DRILLS = 10
"""The number of drills that `backups` lists."""
_BACKUP_COLUMNS = ("backup", "state", "size", "applied", "database", "label")
_REHEARSAL_COLUMNS = ("rehearsed", "result", "took", "migrations", "backup")
_DRILL_COLUMNS = ("drilled", "result", "restore", "trend", "data", "rows", "backup")
_BARS = "▁▂▃▄▅▆▇█"


def show_backups(
    environment: str,
    target: str,
    entries: Sequence[BackupEntry],
    drills: Sequence[DrillRecord],
    rehearsals: Sequence[Mapping[str, Any]],
    command: str = "",
) -> None:
    """Show the backups, newest first, and the last drills and rehearsals, oldest first.

    A backup's id begins with the time in UTC.

    `command` is the program of the inventory's `backup_command`, which keeps further backups if it is set.
    """
    name = f"{environment}: {target}"
    rows = [_backup_row(entry) for entry in entries]
    repeated = ("applied", "database") if _have_one_database(rows) else ("applied",)
    show_table(name, _BACKUP_COLUMNS, rows, narrow=lambda: _without_columns(_BACKUP_COLUMNS, rows, repeated))
    if command:
        from pgratchet.backups.external import kept_by_command

        write(f"{name}: {kept_by_command(command)} It is not asked for a list.")
    elif not rows:
        write(f"{name}: no backups")
    shown = drills[-_MOST_DRILLS:]
    longest = max((record.restore_ms for record in shown if record.good), default=0)

    def drill_rows(format_moment: Callable[[datetime], str]) -> list[tuple[str, ...]]:
        return [_drill_row(record, longest, format_moment) for record in shown]

    show_table(
        f"{name}: drills",
        _DRILL_COLUMNS,
        drill_rows(format_time),
        narrow=lambda: _without_columns(_DRILL_COLUMNS, drill_rows(format_short_time), ("rows",)),
    )

    _show_rehearsals(f"{name}: rehearsals", rehearsals[-_MOST_DRILLS:])


def _show_rehearsals(title: str, records: Sequence[Mapping[str, Any]]) -> None:
    def rows(format_moment: Callable[[datetime], str]) -> list[tuple[str, ...]]:
        return [_rehearsal_row(record, format_moment) for record in records]

    show_table(
        title,
        _REHEARSAL_COLUMNS,
        rows(format_time),
        narrow=lambda: Table(_REHEARSAL_COLUMNS, rows(format_short_time)),
    )


def _rehearsal_row(record: Mapping[str, Any], format_moment: Callable[[datetime], str]) -> tuple[str, ...]:
    names = [each["name"] for each in record["migrations"]]
    took = format_duration(round(record["duration_ms"]))
    moment = format_moment(datetime.fromisoformat(record["at"]))
    return moment, _rehearsal_result(record), took, abbreviate_names(names), record["backup"]


def _rehearsal_result(record: Mapping[str, Any]) -> str:
    if record["failure"]:
        return "failed"
    if not record["verdict"]["ok"]:
        return "over budget"
    return "within budget" if record["budget"] else "no budget"


def _have_one_database(rows: Sequence[Sequence[str]]) -> bool:
    return len({row[_BACKUP_COLUMNS.index("database")] for row in rows} - {""}) < 2


def _without_columns(header: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str]) -> Table:
    """Return a table without some columns, for a narrow terminal."""
    indexes = [index for index, name in enumerate(header) if name not in names]
    return Table([header[index] for index in indexes], [[row[index] for index in indexes] for row in rows])


def _backup_row(entry: BackupEntry) -> tuple[str, ...]:
    from pgratchet.backups.listing import is_in_future

    manifest = entry.manifest
    if manifest is None:
        return entry.backup_id, entry.problem, "", "", "", ""
    state = "complete, kept" if manifest.keep else "complete"
    if entry.distrust:
        state = f"refused: {entry.distrust}"
    return (
        entry.backup_id,
        f"{state}, dated in the future" if is_in_future(entry, datetime.now(timezone.utc)) else state,
        format_size(manifest.size),
        str(_count_migrations(manifest)),
        manifest.database.name,
        manifest.label or "",
    )


def _count_migrations(manifest: Manifest) -> int:
    """The number of versioned migrations in a backup's history; a repeatable can have many rows there."""
    from pgratchet.migrations.repeatables import is_repeatable_row

    return sum(not is_repeatable_row(name) for name in manifest.contents.history)


def _drill_row(record: DrillRecord, longest: int, format_moment: Callable[[datetime], str]) -> tuple[str, ...]:
    """The columns of a drill. The trend is a bar, as high as the restore took beside the `longest`."""
    has_bar = record.good and longest
    return (
        format_moment(datetime.fromisoformat(record.at.replace("Z", "+00:00"))),
        _drill_result(record),
        format_duration(record.restore_ms),
        _BARS[record.restore_ms * (len(_BARS) - 1) // longest] if has_bar else "",
        format_size(record.database_size),
        str(record.rows),
        record.backup_id,
    )


def _drill_result(record: DrillRecord) -> str:
    from pgratchet.backups.drill_records import dated_in_future

    result = record.verdict.value
    if record.verdict == "untestable":
        result = f"not testable here: {record.reason.partition(chr(10))[0]}"
    return f"{result}, dated in the future" if dated_in_future(record, datetime.now(timezone.utc)) else result


def backups_json(
    entries: Sequence[BackupEntry],
    drills: Sequence[DrillRecord],
    rehearsals: Sequence[Mapping[str, Any]],
    location: str,
    *,
    is_checked: bool = False,
) -> dict[str, Any]:
    """The lists of `backups --json`. With `is_checked`, the signatures of the backups were checked."""
    return {
        "where": location,
        "backups": [_backup_json(entry, is_checked) for entry in entries],
        "drills": [record.as_json() for record in drills],
        "rehearsals": [
            {name: record[name] for name in ("at", "backup", "migrations", "duration_ms", "failure", "verdict")}
            for record in rehearsals
        ],
    }


def _backup_json(entry: BackupEntry, is_checked: bool) -> dict[str, Any]:
    from pgratchet.backups.listing import is_in_future

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
        "signed": not entry.distrust if is_checked and manifest else None,
        "in_future": is_in_future(entry, datetime.now(timezone.utc)),
    }


def show_backup(result: RunResult, *, json: bool) -> None:
    """Show the result of `backup`."""
    if json:
        shape = {"env": result.environment, "target": result.target}
        write_json(shape | {"backup": result.backup_id, "path": result.backup_path, "left_out": result.left_out})
    else:
        write(f"{result.backup_id} in {result.backup_path}")


def show_verified(result: RunResult, *, is_encrypted: bool, json: bool) -> None:
    """Show the result of `verify`. With `is_encrypted` only the hashes of the files were verified."""
    name = result.backup_id
    if json:
        shape = {"env": result.environment, "target": result.target, "backup": name}
        write_json(shape | {"read": not is_encrypted})
    elif is_encrypted:
        write(f"{name}: all files match the manifest; the content was not read, because it is encrypted")
    else:
        write(f"{name}: read back whole, matches its manifest")


def show_skipped(skipped: Sequence[BackupEntry]) -> None:
    """Warn of newer backups than the chosen one that cannot be used."""
    for entry in skipped:
        say(f"WARNING: {entry.describe_fault()}")


def show_dropped(environment: str, target: str, names: Sequence[str], *, json: bool) -> None:
    """Show the databases that `restore --drop-old` has dropped."""
    if json:
        write_json({"env": environment, "target": target, "dropped": list(names)})
    else:
        write(f"{environment}: {target}: {format_count(len(names), 'database')} dropped")


def show_losses(manifest: Manifest, database: str, preview: RestorePreview, *, drops_old: bool) -> None:
    """Show the losses of a restore, before asking for consent. With `drops_old` the old database will be dropped."""
    age = datetime.now(timezone.utc) - manifest.moment
    time = format_time(manifest.moment, on_stderr=True)
    say(f'backup {manifest.backup_id} of {time} replaces the database "{database}"')
    for sentence in manifest.contents.left_out:
        say(f"not in the backup: {sentence}")
    if not preview.exists:
        say("this database does not exist now, so nothing is lost")
        return
    say(f"writes of the last {_format_age(max(0, int(age.total_seconds())))} will be lost")
    since = f"unknown: {preview.unread}" if preview.unread else ", ".join(preview.lost) or "none"
    say(f"migrations applied since the backup: {since}")
    if drops_old:
        say("the old database will be dropped: what was written since the backup is lost for good")
    if preview.sessions:
        say(f"the swap will wait for sessions that this role may not end: {'; '.join(preview.sessions[:5])}")


def _format_age(seconds: int) -> str:
    """Format an age for a sentence with "the last": 25 minutes, or minute alone for one."""
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    unit, length = next((each for each in units if seconds >= each[1]), units[-1])
    number = seconds // length
    return unit if number == 1 else format_count(number, unit)


def show_restored(result: RunResult, *, drops_old: bool, json: bool) -> None:
    """Show the result of `restore`. With `drops_old` the old database is going to be dropped."""
    database, old = result.database, result.kept_database
    if json:
        shape = {"env": result.environment, "target": result.target, "backup": result.backup_id}
        items = [{"item": each.name, "error": each.error} for each in result.not_restored]
        rest = {"database": database, "kept": old, "duration_ms": result.duration_ms, "not_restored": items}
        write_json(shape | rest)
        return
    write(f'backup {result.backup_id} was restored as the database "{database}"')
    if old and not drops_old:
        drop = f"`invoke restore --env={result.environment} --drop-old`"
        write(commands.typed(f'the old database is kept as "{old}"; to drop it: {drop}'))


def show_drill(environment: str, target: str, record: DrillRecord, *, json: bool) -> None:
    """Show the result of `drill`."""
    if json:
        write_json({"env": environment, "target": target, **record.as_json()})
        return
    if record.good:
        rate = record.database_size * 1000 // max(1, record.restore_ms)
        write(
            f"{record.backup_id} restores: {format_size(record.database_size)} "
            f"in {format_duration(record.restore_ms)}, {format_size(rate)} a second; "
            f"{format_contents(record)} as in the manifest"
        )
    for note in record.notes:
        write(f"not compared: {note}")


def no_rollback_error(
    environment: str, target: str, backup: Manifest | None, last: str | None = None, command: str = ""
) -> ConfigurationError:
    """The error of `rollback`, which explains the missing rollback and names a backup.

    `last` is the last migration of the history; None when it is not known, or there is none.
    `command` is the program of the inventory's `backup_command`, which keeps the backups if it is set.
    """
    detail = "A down migration cannot bring back deleted data. A backup can."
    if command:
        from pgratchet.backups.external import kept_by_command

        return ConfigurationError(
            "there is no rollback",
            detail=f"{detail}\n{kept_by_command(command)}",
            hint="Write a new migration that repairs the schema, or restore with the tool of the backup_command. The "
            "column backup_id of the history names the backup that was taken before each migration.",
        )
    if backup is None:
        return ConfigurationError(
            "there is no rollback, and there is no backup",
            detail=detail,
            hint=f"Write a new migration that repairs the schema. `invoke backup --env={environment}` takes a backup.",
        )
    applied = format_count(_count_migrations(backup), "migration")
    is_before = last is not None and last not in backup.contents.history
    which = f"newest backup of {target} from before {last}" if is_before else f"newest backup of {target}"
    warning = f" It already has {last}, the last migration." if last and not is_before else ""
    return ConfigurationError(
        "there is no rollback",
        detail=f"{detail}\nThe {which} is {backup.backup_id}, of {format_time(backup.moment, on_stderr=True)}, "
        f"of the database {backup.database.name} with {applied} applied.{warning}",
        hint="Write a new migration that repairs the schema, or restore the backup (the current database is kept):\n"
        f"invoke restore --env={environment} --backup={backup.backup_id}\n"
        f"Add --into={backup.database.name}_restored to restore it into a new database and change nothing else.",
    )
