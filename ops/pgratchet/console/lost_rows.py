"""Shows what a restore would lose, or has lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pgratchet.console.output import show_table, write, write_json
from pgratchet.formatting import format_count

if TYPE_CHECKING:
    from pgratchet.backups.lost_counts import CountChange, CountedLosses
    from pgratchet.backups.lost_rows import Losses


def show_lost_rows(environment: str, target: str, losses: Losses, folder: str | None, *, json: bool) -> None:
    """Show the rows that the restored database does not have, or has differently."""
    if json:
        shape = {key: value for key, value in asdict(losses).items() if key != "load_order"}
        write_json({"env": environment, "target": target, **shape, "folder": folder})
        return
    name = f"{environment}: {target}"
    rows = [(loss.table, "" if loss.rows is None else str(loss.rows), loss.note) for loss in losses.tables]
    title = f'{name}: rows of "{losses.old_database}" that "{losses.database}" does not have, or has differently'
    show_table(title, ("table", "rows", "note"), rows)
    number, tables = sum(loss.rows or 0 for loss in losses.tables), sum(bool(loss.rows) for loss in losses.tables)
    write(f"{format_count(number, 'lost row')} in {tables} of {format_count(losses.compared, 'table')}")
    rows = [(each.sequence, str(each.old), _count(each.now)) for each in losses.sequences]
    show_table(f"{name}: sequences", ("sequence", "old", "now"), rows)
    _show_migrations(losses.migrations)
    if losses.large_objects != losses.large_objects_now:
        write(f"large objects: {losses.large_objects} in the old database, {losses.large_objects_now} now")
    if folder is not None:
        write(f"the rows are in {folder}; {folder}/README.txt says how to load them")


def show_counted_losses(environment: str, target: str, backup_id: str, losses: CountedLosses, *, json: bool) -> None:
    """Show the counts that have changed since a backup."""
    if json:
        write_json({"env": environment, "target": target, "backup": backup_id, **asdict(losses)})
        return
    name = f"{environment}: {target}"
    show_table(f"{name}: numbers of rows", ("table", "in backup", "now"), _change_rows(losses.tables))
    show_table(f"{name}: sequences", ("sequence", "in backup", "now"), _change_rows(losses.sequences))
    _show_migrations(losses.migrations)
    objects = losses.large_objects
    if objects.in_backup != objects.now:
        write(f"large objects: {objects.in_backup} in the backup, {objects.now} now")
    write(
        f"{format_count(len(losses.tables), 'table')} of {losses.compared} with another number of rows; "
        "changed rows do not show in a count"
    )


def _change_rows(changes: Sequence[CountChange]) -> list[tuple[str, str, str]]:
    return [(change.name, _count(change.in_backup), _count(change.now)) for change in changes]


def _count(number: int | None) -> str:
    return "absent" if number is None else str(number)


def _show_migrations(names: Sequence[str]) -> None:
    if names:
        write(f"migrations applied since the backup: {', '.join(names)}")
