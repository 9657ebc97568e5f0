"""Records of drills, stored as notes beside the backups."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from pgratchet.backups.listing import CLOCK_SKEW
from pgratchet.backups.store import Store
from pgratchet.errors import BackupFailed, Unreachable


class Verdict(str, Enum):
    """The result of a drill. UNTESTABLE: the scratch server cannot hold the backup, which may be good or bad."""

    GOOD = "good"
    BAD = "bad"
    UNTESTABLE = "untestable"


class NotTestable(Unreachable):
    """The scratch server cannot hold a backup, so the drill says nothing about the backup."""


@dataclass(frozen=True, slots=True)
class DrillRecord:
    """The result of a drill. Durations are in milliseconds, sizes in bytes. `reason` is empty for a good backup.

    `notes` are sentences about parts of the backup not compared because the scratch server lacks them.
    """

    backup_id: str
    at: str
    backup_size: int
    verdict: Verdict = Verdict.UNTESTABLE
    reason: str = ""
    server_version: int = 0
    restore_ms: int = 0
    compare_ms: int = 0
    database_size: int = 0
    tables: int = 0
    rows: int = 0
    sequences: int = 0
    materialized_views: int = 0
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.verdict is Verdict.GOOD

    @property
    def problem(self) -> str:
        """The fault of the backup; empty when none was found."""
        return self.reason if self.verdict is Verdict.BAD else ""

    def as_json(self) -> dict[str, Any]:
        """The record as it is stored and printed."""
        return {**asdict(self), "verdict": self.verdict.value, "good": self.good, "problem": self.problem}


def write_record(store: Store, record: DrillRecord) -> None:
    """Write a record beside the backups."""
    time = record.at.replace(":", "").replace("-", "").replace("+0000", "")
    store.note(f"{time}-{record.backup_id[-4:]}.json", json.dumps(record.as_json(), indent=2).encode() + b"\n")


def read_records(store: Store) -> tuple[DrillRecord, ...]:
    """Read the records of past drills, oldest first. Other notes are skipped."""
    records = [record for text in store.notes() if (record := _parse(text))]
    return tuple(sorted(records, key=lambda record: record.at))


def dated_in_future(record: DrillRecord, now: datetime) -> bool:
    """Return whether a drill is dated in the future: a clock was wrong then, or is wrong now."""
    try:
        moment = datetime.fromisoformat(record.at)
    except ValueError:
        return False
    return moment.astimezone(timezone.utc) > now + CLOCK_SKEW


def _parse(text: bytes) -> DrillRecord | None:
    try:
        shape = json.loads(text)
        is_good, problem = shape.pop("good"), shape.pop("problem")
        verdict = shape.pop("verdict", None) or ("good" if is_good is True else "bad")  # older records have none
        reason = shape.pop("reason", problem)
        record = DrillRecord(**{**shape, "verdict": Verdict(verdict), "reason": reason, "notes": tuple(shape["notes"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    pairs = zip(astuple(record), astuple(DrillRecord("", "", 0)), strict=True)
    return record if all(type(value) is type(default) for value, default in pairs) else None


def require_good(record: DrillRecord, remedy: str = "") -> None:
    """Raise BackupFailed for a bad backup, and NotTestable when the drill could not test the backup.

    `remedy` is the hint for a backup that could not be tested.
    """
    if record.verdict is Verdict.BAD:
        raise BackupFailed(
            f"the drill of backup {record.backup_id} failed",
            detail=record.reason,
            hint="Correct in the live database what DETAIL names, take another backup, and drill that one. Keep this "
            "one until you know what is wrong with it.",
        )
    if record.verdict is Verdict.UNTESTABLE:
        raise NotTestable(
            f"backup {record.backup_id} could not be tested here",
            detail=f"{record.reason}\nThis says nothing about the backup.",
            hint=remedy or OTHER_SERVER,
        )


OTHER_SERVER = (
    "Set drill_environment in the inventory to an environment with a server like the live one, and run again."
)
