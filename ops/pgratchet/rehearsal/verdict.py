"""Decides whether a run may begin by what was rehearsed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from pgratchet.errors import NotRehearsed
from pgratchet.formatting import format_count
from pgratchet.rehearsal.records import Circumstances, Shape, find_fitting

_REHEARSE = "Run `invoke rehearse`, and read its report."


def judge(
    records: Sequence[Shape],
    circumstances: Circumstances,
    backups: Collection[str],
    now: datetime,
    max_age: timedelta,
) -> NotRehearsed | None:
    """Return why a run must not begin in these circumstances; None when a rehearsal allows it.

    `backups` are the hashes of the good backups in the store.
    """
    record = find_fitting(records, circumstances)
    if record is None:
        return _not_rehearsed(records, circumstances)
    at = datetime.fromisoformat(record["at"])
    if record["bound_to"]["backup_sha256"] not in backups:
        return NotRehearsed(
            "the backup of the rehearsal was changed or deleted",
            detail=f"The rehearsal of {record['at']} used backup {record['backup']}. Its manifest is missing now, or "
            "has another content.",
            hint=_REHEARSE,
        )
    if now - at > max_age:
        return NotRehearsed(
            "the rehearsal of these migrations is too old",
            detail=f"It was made at {record['at']}, and rehearsal_max_age is {round(max_age.total_seconds())} s.",
            hint=_REHEARSE,
        )
    return None if record["verdict"]["ok"] else _refused(record)


def over_budget(texts: Sequence[str]) -> NotRehearsed:
    """The error of a rehearsal that exceeded its budget; `texts` are sentences."""
    return NotRehearsed(
        f"the rehearsal exceeds the budget in {format_count(len(texts), 'point')}",
        detail="\n".join(texts),
        hint="Change the migrations as the report says, or raise rehearsal_budget in the inventory; then rehearse "
        "again.",
    )


def _refused(record: Shape) -> NotRehearsed:
    if failure := record["failure"]:
        return NotRehearsed(
            f"the rehearsal of these migrations failed at {failure['migration']}:{failure['line']}",
            detail=failure["message"] + ".",
            hint="Correct the data or the migration. " + _REHEARSE,
        )
    return over_budget([each["text"] for each in record["verdict"]["over_budget"]])


def _not_rehearsed(records: Sequence[Shape], circumstances: Circumstances) -> NotRehearsed:
    """Say that there is no fitting rehearsal, and what has changed since the newest one."""
    count = format_count(len(circumstances.migrations), "migration")
    if not records:
        detail = "The environment's policy is rehearsal: required, and there is no rehearsal yet."
    else:
        newest = records[-1]
        rehearsed = [(each["name"], each["checksum"]) for each in newest["migrations"]]
        if rehearsed != list(circumstances.migrations):
            changed = "with other files"
        elif newest["scratch_version"] // 10_000 != circumstances.major:
            changed = f"on PostgreSQL {newest['scratch_version'] // 10_000}"
        elif newest["bound_to"]["tool_version"] != circumstances.tool_version:
            changed = f"by version {newest['bound_to']['tool_version']} of pgratchet"
        else:
            changed = "with another history or other settings of the database"
        detail = f"The newest rehearsal, of {newest['at']} on backup {newest['backup']}, was made {changed}."
    return NotRehearsed(f"{count} not rehearsed as the database is now", detail=detail, hint=_REHEARSE)
