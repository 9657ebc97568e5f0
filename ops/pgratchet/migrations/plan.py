"""Plans a run: compares files and history, and selects the migrations to apply. Pure functions, no database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from pgratchet.errors import ConfigurationError, HistoryDisagrees, Location
from pgratchet.formatting import format_count
from pgratchet.migrations.files import Migration

State = Literal["applied", "pending", "changed", "missing", "out-of-order", "unfinished"]

UNKNOWN = datetime.min.replace(tzinfo=timezone.utc)
"""The time of an adopted migration whose real time is not known."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A row of the history table. `executed_at` is None for an unfinished migration, UNKNOWN for an unknown time.

    `source` is "run", or the tool whose history was adopted.
    """

    name: str
    checksum: str
    executed_at: datetime | None
    duration_ms: int | None
    source: str = "run"

    @property
    def moment(self) -> datetime | None:
        """When the migration finished; None when unfinished or unknown."""
        return None if self.executed_at == UNKNOWN else self.executed_at


@dataclass(frozen=True, slots=True)
class Entry:
    """A migration in a plan: the state, with the file, the history row, or both."""

    name: str
    state: State
    migration: Migration | None = None
    row: HistoryRow | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All migrations in order of version; in `todo` the migrations to apply. `--to` can shorten `todo`."""

    entries: tuple[Entry, ...]
    todo: tuple[Migration, ...] = field(default=())

    def names(self, *states: State) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries if entry.state in states)

    @property
    def pending_count(self) -> int:
        """The number of unfinished and pending migrations."""
        return len(self.names("pending", "unfinished"))

    def disagreements(self) -> tuple[Entry, ...]:
        """Return the entries for a person to settle before any migration runs."""
        return tuple(entry for entry in self.entries if entry.state not in ("applied", "pending", "unfinished"))


def make_plan(files: Sequence[Migration], history: Sequence[HistoryRow], to: str | None = None) -> Plan:
    """Compare the files, in order of version, with the history.

    `to` is the name or the version of the last migration to run; ConfigurationError when no file matches.
    """
    rows = {row.name: row for row in history}
    file_names = {migration.name for migration in files}
    newest = max((m.version for m in files if m.name in rows), default=-1)
    entries = [_entry(m, rows.get(m.name), newest) for m in files]
    entries += [Entry(row.name, "missing", None, row) for row in history if row.name not in file_names]
    entries.sort(key=lambda entry: (_version_of(entry.name), entry.name))
    pending = [e.migration for e in entries if e.state in ("pending", "out-of-order", "unfinished") and e.migration]
    last = _last_version(files, to) if to is not None else None
    return Plan(tuple(entries), tuple(m for m in pending if last is None or m.version <= last))


def _entry(migration: Migration, row: HistoryRow | None, newest: int) -> Entry:
    return Entry(migration.name, _state(migration, row, newest), migration, row)


def _state(migration: Migration, row: HistoryRow | None, newest: int) -> State:
    if row is None:
        return "pending" if migration.version > newest else "out-of-order"
    if row.executed_at is None:
        return "unfinished"  # its checksum may differ: the statements that ran are compared when the file resumes
    return "applied" if row.checksum == migration.checksum else "changed"


def _version_of(name: str) -> int:
    digits = name.partition("_")[0].replace("T", "")
    return int(digits) if digits.isdecimal() else -1


def _last_version(files: Sequence[Migration], to: str) -> int:
    name = to.removesuffix(".sql")
    version = int(name.replace("T", "")) if re.fullmatch(r"[0-9]{1,40}(T[0-9]{1,20})?", name) else None
    for migration in files:
        if name == migration.name or version == migration.version:
            return migration.version
    import difflib

    near = difflib.get_close_matches(name, [m.name for m in files], n=1, cutoff=0.3)
    raise ConfigurationError(
        f'--to names no migration: "{to}"',
        detail=f"The nearest is {near[0]}." if near else "There is none like it.",
        hint="Give a file's name, with or without .sql, or its version; `invoke status` lists them.",
    )


def require_agreement(plan: Plan, bodies: dict[str, str]) -> None:
    """Raise HistoryDisagrees when migrations are changed, missing or out of order, and name all of them.

    `bodies` are the applied texts, by name. The detail shows how a changed file differs from the applied text.
    """
    entries = plan.disagreements()
    if not entries:
        return
    sentences = [_describe_disagreement(entry, plan, bodies) for entry in entries]
    advice = list(dict.fromkeys(_ADVICE[entry.state] for entry in entries))
    raise HistoryDisagrees(
        f"files and history disagree about {format_count(len(entries), 'migration')}",
        detail="\n".join(sentences),
        hint="\n".join(advice),
        location=Location(entries[0].name),
    )


_ADVICE = {
    "changed": "Put the applied text back, and make the change in a new migration.",
    "missing": "Put the file back, as it was applied, from version control.",
    "out-of-order": "Give the late file a newer version than every applied one, and run again.",
}


def _describe_disagreement(entry: Entry, plan: Plan, bodies: dict[str, str]) -> str:
    if entry.state == "changed" and entry.migration and entry.row:
        head = f"{entry.name}: changed since it was applied{_format_moment(entry.row)}."
        return "\n".join([head, *_difference(bodies.get(entry.name), entry.migration.text().decode())])
    if entry.state == "missing" and entry.row:
        twins = [e.name for e in plan.entries if e.migration and e.migration.checksum == entry.row.checksum]
        renamed = f" {twins[0]} has the same text: it looks renamed." if twins else ""
        return f"{entry.name}: applied, but its file is gone.{renamed}"
    newest = max(plan.names("applied", "changed", "unfinished"), key=_version_of)
    return f"{entry.name}: not applied, but the newer {newest} is."


def _format_moment(row: HistoryRow) -> str:
    return f" at {row.moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if row.moment else ""


def _difference(applied: str | None, current: str) -> list[str]:
    if applied is None:
        return []
    import difflib

    lines = list(difflib.unified_diff(applied.splitlines(), current.splitlines(), "applied", "file", n=1, lineterm=""))
    return lines[:20] + (["..."] if len(lines) > 20 else [])
