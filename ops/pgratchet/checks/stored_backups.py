"""Checks the stored backups of a target for what retention and restores leave out: unfinished ones, and wrong dates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pgratchet.backups import manifest
from pgratchet.backups.drill_records import dated_in_future, read_records
from pgratchet.backups.listing import BackupEntry, is_in_future
from pgratchet.backups.store import PARTIAL, Store
from pgratchet.checks.findings import Finding
from pgratchet.formatting import format_duration

_CLOCK = "Correct the clock of this machine, or of the one that wrote it."


def check_backups(store: Store, now: datetime) -> Iterator[Finding]:
    """Check the names of backups, and the dates of drills. No file of a backup is read."""
    for backup_id in store.ids():
        if is_in_future(BackupEntry(backup_id, None), now):
            what = f"{backup_id} is dated in the future, and retention leaves it out"
            remedy = f"{_CLOCK} If the backup is not needed, run `{store.removal(backup_id)}`."
            yield Finding("warning", "backups", what, remedy)
        elif backup_id.endswith(PARTIAL) or store.stat(backup_id, manifest.NAME) is None:
            what = f"{backup_id} is unfinished{_age(backup_id, now)}: a backup still runs, or was killed"
            yield Finding("warning", "backups", what, f"If no backup is running, run `{store.removal(backup_id)}`.")
    for record in read_records(store):
        if dated_in_future(record, now):
            what = f"the drill of {record.backup_id} is dated in the future, {record.at}"
            yield Finding("warning", "backups", what, _CLOCK)


def _age(backup_id: str, now: datetime) -> str:
    moment = manifest.moment_of(backup_id)
    return f", begun {format_duration(round((now - moment).total_seconds()) * 1000)} ago" if moment else ""
