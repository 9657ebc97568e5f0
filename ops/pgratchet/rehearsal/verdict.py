"""Decides by past rehearsals whether a run may begin. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from pgratchet.errors import NotRehearsed
from pgratchet.formatting import format_count
from pgratchet.rehearsal.budget import find_excesses
from pgratchet.rehearsal.records import Circumstances, Shape, difference, find_fitting, report_of

_REHEARSE = "Run `invoke rehearse`, and read its report."


def judge(
    records: Sequence[Shape],
    circumstances: Circumstances,
    backups: Collection[str],
    now: datetime,
    max_age: timedelta,
    budget: Mapping[str, int],
) -> NotRehearsed | None:
    """Return the error of a run without a good rehearsal of these circumstances; None when a rehearsal allows the run.

    `backups` are the hashes of the good backups in the store. The limits are those of `budget` now, and not at the time
    of the rehearsal.
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
    return _refusal(record, circumstances, budget)


def over_budget(texts: Sequence[str]) -> NotRehearsed:
    """The error of a rehearsal over the budget; `texts` are sentences."""
    return NotRehearsed(
        f"the rehearsal exceeds the budget in {format_count(len(texts), 'point')}",
        detail="\n".join(texts),
        hint="Change the migrations as the report says, or raise rehearsal_budget in the inventory; then rehearse "
        "again.",
    )


def _refusal(record: Shape, circumstances: Circumstances, budget: Mapping[str, int]) -> NotRehearsed | None:
    """Return an error for a failed rehearsal of the next migrations, or for an exceeded budget."""
    names = {name for name, _ in circumstances.migrations}
    failure = record["failure"]
    if failure and failure["migration"] in names:
        return NotRehearsed(
            f"the rehearsal of these migrations failed at {failure['migration']}:{failure['line']}",
            detail=failure["message"] + ".",
            hint="Correct the data or the migration. " + _REHEARSE,
        )
    excesses = find_excesses(report_of(record, names), budget)
    return over_budget([each.describe() for each in excesses]) if excesses else None


def _not_rehearsed(records: Sequence[Shape], circumstances: Circumstances) -> NotRehearsed:
    """The error without a fitting rehearsal, with the difference from the newest one."""
    count = format_count(len(circumstances.migrations), "migration")
    detail, hint = "The environment's policy is about rehearsals, and there is no rehearsal yet.", _REHEARSE
    if records:
        newest, changed = records[-1], difference(records[-1], circumstances)
        detail = f"The newest rehearsal, of {newest['at']} on backup {newest['backup']}, was made {changed}."
        if changed == "with another history":
            hint = "Run `invoke rehearse` with --fresh, which takes a backup of the database as it is now."
    return NotRehearsed(f"{count} not rehearsed as the database is now", detail=detail, hint=hint)
