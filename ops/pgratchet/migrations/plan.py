"""The plan: what a run applies, decided from the files and the history alone. Pure functions, without a database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from pgratchet.errors import ConfigurationError, HistoryDisagrees, Location
from pgratchet.migrations.files import Migration

if TYPE_CHECKING:
    pass


State = Literal["applied", "pending", "changed", "missing", "out-of-order", "unfinished"]


UNKNOWN = datetime.min.replace(tzinfo=timezone.utc)
"""When a migration was run of which no more is known than that it was: before anything else."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A row of the history. `executed_at` is None while unfinished, and UNKNOWN where it was not kept.

    `source` is what the row came by: a run, or the adoption of another tool's.
    """

    name: str
    checksum: str
    executed_at: datetime | None
    duration_ms: int | None
    source: str = "run"

    @property
    def moment(self) -> datetime | None:
        """When it was finished, where that is known."""
        return None if self.executed_at == UNKNOWN else self.executed_at


@dataclass(frozen=True, slots=True)
class Entry:
    """One migration as a plan sees it, with its file, its record, or both."""

    name: str
    state: State
    migration: Migration | None = None
    record: HistoryRow | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`entries` in order of version; `todo` what a run would apply, which `--to` may cut short of all pending."""

    entries: tuple[Entry, ...]
    todo: tuple[Migration, ...] = field(default=())

    def names(self, *states: State) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries if entry.state in states)

    @property
    def left(self) -> int:
        """How many have not run to their end."""
        return len(self.names("pending", "unfinished"))

    def disagreements(self) -> tuple[Entry, ...]:
        """What must be settled by a person before anything may run."""
        return tuple(entry for entry in self.entries if entry.state not in ("applied", "pending", "unfinished"))


def make_plan(files: Sequence[Migration], history: Sequence[HistoryRow], to: str | None = None) -> Plan:
    """What is applied, what is pending and what does not fit, from the two lists alone.

    `files` are in order of version, as `read` gives them. `to` names the last migration to run, by name or by
    version. ConfigurationError when it names none.
    """
    records = {record.name: record for record in history}
    by_name = {migration.name: migration for migration in files}
    newest = max((m.version for m in files if m.name in records), default=-1)
    entries = [_entry(m, records.get(m.name), newest) for m in files]
    entries += [Entry(r.name, "missing", None, r) for r in history if r.name not in by_name]
    entries.sort(key=lambda entry: (_version_of(entry.name), entry.name))
    pending = [e.migration for e in entries if e.state in ("pending", "out-of-order", "unfinished") and e.migration]
    last = _last_version(files, to) if to is not None else None
    return Plan(tuple(entries), tuple(m for m in pending if last is None or m.version <= last))


def _entry(migration: Migration, record: HistoryRow | None, newest: int) -> Entry:
    return Entry(migration.name, _state(migration, record, newest), migration, record)


def _state(migration: Migration, record: HistoryRow | None, newest: int) -> State:
    if record is None:
        return "pending" if migration.version > newest else "out-of-order"
    if record.executed_at is None:
        return "unfinished"  # its rest may be mended: what was done of it is compared when it goes on
    return "applied" if record.checksum == migration.checksum else "changed"


def _version_of(name: str) -> int:
    digits = name.partition("_")[0].replace("T", "")
    return int(digits) if digits.isdecimal() else -1


def _last_version(files: Sequence[Migration], to: str) -> int:
    wanted = to.removesuffix(".sql")
    number = int(wanted.replace("T", "")) if re.fullmatch(r"[0-9]{1,40}(T[0-9]{1,20})?", wanted) else None
    for migration in files:
        if wanted == migration.name or number == migration.version:
            return migration.version
    import difflib

    near = difflib.get_close_matches(wanted, [m.name for m in files], n=1, cutoff=0.3)
    raise ConfigurationError(
        f'--to names no migration: "{to}"',
        detail=f"The nearest is {near[0]}." if near else "There is none like it.",
        hint="Give a file's name, with or without .sql, or its version; `invoke status` lists them.",
    )


def require_agreement(plan: Plan, bodies: dict[str, str]) -> None:
    """Raise HistoryDisagrees, naming everything that is changed, missing or out of order.

    `bodies` are the texts that ran, by name, for showing what changed.
    """
    found = plan.disagreements()
    if not found:
        return
    sentences = [_disagreement(entry, plan, bodies) for entry in found]
    advice = list(dict.fromkeys(_ADVICE[entry.state] for entry in found))
    count = f"{len(found)} migrations" if len(found) > 1 else "1 migration"
    raise HistoryDisagrees(
        f"files and history disagree about {count}",
        detail="\n".join(sentences),
        hint="\n".join(advice),
        place=Location(found[0].name),
    )


_ADVICE = {
    "changed": "Put the applied text back, and make the change in a new migration.",
    "missing": "Put the file back, as it was applied, from version control.",
    "out-of-order": "Give the late file a newer version than every applied one, and run again.",
}


def _disagreement(entry: Entry, plan: Plan, bodies: dict[str, str]) -> str:
    if entry.state == "changed" and entry.migration and entry.record:
        head = f"{entry.name}: changed since it was applied{_when(entry.record)}."
        return "\n".join([head, *_difference(bodies.get(entry.name), entry.migration.text().decode())])
    if entry.state == "missing" and entry.record:
        twin = [e.name for e in plan.entries if e.migration and e.migration.checksum == entry.record.checksum]
        renamed = f" {twin[0]} has the same text: it looks renamed." if twin else ""
        return f"{entry.name}: applied, but its file is gone.{renamed}"
    newest = max(plan.names("applied", "changed", "unfinished"), key=_version_of)
    return f"{entry.name}: not applied, but the newer {newest} is."


def _when(record: HistoryRow) -> str:
    moment = record.moment
    return f" at {moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if moment else ""


def _difference(applied: str | None, now: str) -> list[str]:
    if applied is None:
        return []
    import difflib

    lines = list(difflib.unified_diff(applied.splitlines(), now.splitlines(), "applied", "file", n=1, lineterm=""))
    return lines[:20] + (["..."] if len(lines) > 20 else [])
