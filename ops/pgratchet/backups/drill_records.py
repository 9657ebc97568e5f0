"""Records of drills, stored as notes beside the backups."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass

from pgratchet.backups.store import Store
from pgratchet.errors import BackupFailed


@dataclass(frozen=True, slots=True)
class DrillRecord:
    """The result of a drill. Durations are in milliseconds, sizes in bytes. `problem` is empty for a good backup.

    `notes` are sentences about parts of the backup not compared because the scratch server lacks them.
    """

    backup_id: str
    at: str
    backup_size: int
    good: bool = False
    problem: str = ""
    server_version: int = 0
    restore_ms: int = 0
    compare_ms: int = 0
    database_size: int = 0
    tables: int = 0
    rows: int = 0
    notes: tuple[str, ...] = ()


def write_record(store: Store, record: DrillRecord) -> None:
    """Write a record beside the backups."""
    time = record.at.replace(":", "").replace("-", "").replace("+0000", "")
    store.note(f"{time}-{record.backup_id[-4:]}.json", json.dumps(asdict(record), indent=2).encode() + b"\n")


def read_records(store: Store) -> tuple[DrillRecord, ...]:
    """Read the records of past drills, oldest first. Other notes are skipped."""
    records = [record for text in store.notes() if (record := _parse(text))]
    return tuple(sorted(records, key=lambda record: record.at))


def _parse(text: bytes) -> DrillRecord | None:
    try:
        shape = json.loads(text)
        record = DrillRecord(**{**shape, "notes": tuple(shape["notes"])})
    except (ValueError, TypeError, KeyError):
        return None
    pairs = zip(astuple(record), astuple(DrillRecord("", "", 0)), strict=True)
    return record if all(type(value) is type(default) for value, default in pairs) else None


def require_good(record: DrillRecord) -> None:
    """Raise BackupFailed when the drill did not prove the backup good."""
    if not record.good:
        raise BackupFailed(
            f"the drill of backup {record.backup_id} did not prove it good",
            detail=record.problem,
            hint="Take another backup and drill that one; keep this one until you know what is wrong with it.",
        )
