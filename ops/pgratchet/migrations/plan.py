"""Plans a run: compares files and history, and selects the migrations to apply. Pure functions, no database."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from pgratchet.errors import ConfigurationError, HistoryDisagrees, Location
from pgratchet.formatting import abbreviate_names, format_count
from pgratchet.migrations import repeatables, squashed
from pgratchet.migrations.files import Migration
from pgratchet.migrations.repeatables import RepeatablePlan
from pgratchet.migrations.squashed import Coverage

State = Literal["applied", "pending", "changed", "missing", "out-of-order", "unfinished", "half-squashed"]

DIGEST = "SHA-256 of the statements that are done: "
"""The beginning of what the history keeps in place of a large text without a transaction, until it is finished."""

UNKNOWN = datetime.min.replace(tzinfo=timezone.utc)
"""The time of an adopted migration whose real time is not known."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A row of the history table. `executed_at` is None for an unfinished migration, UNKNOWN for an unknown time.

    `source` is "run", or the tool whose history was adopted. The statements are those of a migration without a
    transaction: the number of those done, and the one that began outside a transaction without a record of its end.
    """

    name: str
    checksum: str
    executed_at: datetime | None
    duration_ms: int | None
    source: str = "run"
    statements_done: int | None = None
    statement_begun: int | None = None

    @property
    def is_untouched(self) -> bool:
        """True for an unfinished migration of which no statement took effect."""
        return self.executed_at is None and self.statements_done == 0 and self.statement_begun is None

    @property
    def moment(self) -> datetime | None:
        """When the migration finished; None when unfinished or unknown."""
        return None if self.executed_at == UNKNOWN else self.executed_at


@dataclass(frozen=True, slots=True)
class Entry:
    """A migration in a plan: the state, with the file, the history row, or both.

    `coverage` says how many of the files that a squash file replaces were run; None where the history has its own row.
    """

    name: str
    state: State
    migration: Migration | None = None
    row: HistoryRow | None = None
    coverage: Coverage | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All versioned migrations in order of version, and the repeatable ones; in `todo` the migrations to apply.

    With `--to`, `last` is the last migration to apply, and `todo` can be shorter. With `--phase=expand`, `todo` ends
    before the contract file `stopped_before`. Neither has repeatables then: these belong to the newest schema.
    `scripts.prepare_plan` adds those that a versioned file requires.
    """

    entries: tuple[Entry, ...]
    todo: tuple[Migration, ...] = field(default=())
    last: str | None = None
    stopped_before: str | None = None
    repeatables: RepeatablePlan = field(default_factory=RepeatablePlan)

    def names(self, *states: State) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries if entry.state in states)

    @property
    def pending_count(self) -> int:
        """The number of unfinished and pending migrations, and of repeatables that are new or changed."""
        return len(self.names("pending", "unfinished")) + len(self.repeatables.todo)

    @property
    def total(self) -> int:
        """The number of all migrations, without repeatables whose file is gone."""
        return len(self.entries) + sum(entry.migration is not None for entry in self.repeatables.entries)

    @property
    def pending_after(self) -> tuple[str, ...]:
        """The names of the unfinished and pending migrations behind the last one to apply."""
        todo = {migration.name for migration in self.todo}
        pending = (*self.names("pending", "unfinished"), *(each.name for each in self.repeatables.todo))
        return tuple(name for name in pending if name not in todo)

    @property
    def compared_names(self) -> tuple[str, ...]:
        """The names whose recorded texts `require_agreement` needs."""
        unfinished = (e.name for e in self.entries if e.state == "missing" and e.row and e.row.executed_at is None)
        return (*self.names("changed"), *unfinished)

    def disagreements(self) -> tuple[Entry, ...]:
        """Return the entries for a person to settle before any migration runs."""
        return tuple(entry for entry in self.entries if entry.state not in ("applied", "pending", "unfinished"))


def make_plan(
    files: Sequence[Migration],
    history: Sequence[HistoryRow],
    to: str | None = None,
    stops_before: Callable[[Migration], bool] | None = None,
) -> Plan:
    """Compare the files, as `files.read` returns them, with the history.

    A row without a file of a migration that failed at its first statement does not count: nothing took effect.
    `to` names the last migration to run, by its name, version or path; ConfigurationError when no single file matches.
    The migrations to apply end before the first for which `stops_before` is true.
    """
    versioned = [file for file in files if not file.is_repeatable]
    rows = {row.name: row for row in history if not repeatables.is_repeatable_row(row.name)}
    entries = _versioned_entries(versioned, rows)
    pending = [e.migration for e in entries if e.state in ("pending", "out-of-order", "unfinished") and e.migration]
    last = None if to is None else _find_last(versioned, to)
    todo = [migration for migration in pending if last is None or migration.version <= last.version]
    stop = next((migration for migration in todo if stops_before and stops_before(migration)), None)
    changed = repeatables.plan(files, history)
    if stop:
        todo = todo[: todo.index(stop)]
    elif last is None:
        todo += changed.todo
    return Plan(tuple(entries), tuple(todo), last.name if last else None, stop.name if stop else None, changed)


def _versioned_entries(files: Sequence[Migration], rows: Mapping[str, HistoryRow]) -> list[Entry]:
    known = {migration.name for migration in files} | squashed.names(files)
    covers = {m.name: squashed.cover(m.replaces, rows) for m in files if m.replaces and m.name not in rows}
    applied = rows.keys() | {name for name, coverage in covers.items() if coverage.extent == "all"}
    newest = max((m.version for m in files if m.name in applied), default=-1)
    entries = [_entry(m, rows.get(m.name), newest, covers.get(m.name)) for m in files]
    missing = [row for row in rows.values() if row.name not in known and not row.is_untouched]
    entries += [Entry(row.name, "missing", None, row) for row in missing]
    return sorted(entries, key=lambda entry: (_version_of(entry.name), entry.name))


def lacks_first_version(files: Sequence[Migration]) -> bool:
    """Return whether a file 001 would come before all files."""
    return all(migration.version > 1 for migration in files if not migration.is_repeatable)


def _entry(migration: Migration, row: HistoryRow | None, newest: int, coverage: Coverage | None) -> Entry:
    """The entry of a file. A squash file is applied when all files that it replaces are; it then has the last row."""
    if coverage and coverage.extent != "none":
        state: State = "applied" if coverage.extent == "all" else "half-squashed"
        return Entry(migration.name, state, migration, coverage.newest, coverage)
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


def _find_last(files: Sequence[Migration], to: str) -> Migration:
    """The file that a text names: by its name or path, by its version, or by what follows the version if unique."""
    name = to.strip().replace("\\", "/").rpartition("/")[2].removesuffix(".sql")
    version = int(name.replace("T", "")) if re.fullmatch(r"[0-9]{1,40}(T[0-9]{1,20})?", name) else None
    for migration in files:
        if name == migration.name or version == migration.version:
            return migration
    if squash := squashed.find_squash(files, name):
        raise ConfigurationError(
            f'the migration "{to}" was squashed into {squash.name}',
            detail="Its file is gone, and its changes are in that file.",
            hint=f"Give {squash.name}, or a later migration. `invoke status` lists the names.",
        )
    titled = [migration for migration in files if name and migration.name.partition("_")[2] == name]
    if len(titled) == 1:
        return titled[0]
    if titled:
        raise ConfigurationError(
            f'{len(titled)} migrations are named "{to}"',
            detail=f"They are: {', '.join(migration.name for migration in titled)}.",
            hint="Give the version too.",
        )
    raise ConfigurationError(
        f'no migration is named "{to}"',
        detail=_most_similar(name, files) if version is None else _newest(files),
        hint="Give the file's name or its version. `invoke status` lists the names.",
    )


def _most_similar(name: str, files: Sequence[Migration]) -> str:
    import difflib

    near = difflib.get_close_matches(name, [m.name for m in files], n=1, cutoff=0.3)
    return f"The most similar name is {near[0]}." if near else "No name is similar."


def _newest(files: Sequence[Migration]) -> str:
    return f"The newest migration is {files[-1].name}." if files else "There is no migration."


def require_agreement(plan: Plan, bodies: dict[str, str]) -> None:
    """Raise HistoryDisagrees when migrations are changed, missing or out of order, and name all of them.

    `bodies` are the applied texts, by name. The detail shows how a changed file differs from the applied text.
    """
    entries = plan.disagreements()
    if not entries:
        return
    sentences = [_describe_disagreement(entry, plan, bodies) for entry in entries]
    advice = list(dict.fromkeys(_advice(entry) for entry in entries))
    raise HistoryDisagrees(
        f"files and history disagree about {format_count(len(entries), 'migration')}",
        detail="\n".join(sentences),
        hint="\n".join(advice),
        location=Location(entries[0].name),
    )


_ADVICE = {
    "changed": "Put the applied text back, and make the change in a new migration.",
    "missing": "Put the file back, as it was applied, from version control.",
    "half-squashed": "Check out the commit before the squash, run `invoke migrate` there, and come back.",
    "out-of-order": "Rename the file so that its version is the newest, and run again.",
}


_UNFINISHED = (
    "Put the file back, and run `invoke migrate` again: it goes on behind the statements that are done. The text is in "
    "the column body of the history. Or undo what the statements did, and delete the row from the history."
)


def _advice(entry: Entry) -> str:
    return _UNFINISHED if _is_unfinished(entry) else _ADVICE[entry.state]


def _is_unfinished(entry: Entry) -> bool:
    return entry.state == "missing" and entry.row is not None and entry.row.executed_at is None


def _describe_disagreement(entry: Entry, plan: Plan, bodies: dict[str, str]) -> str:
    if entry.state == "changed" and entry.migration and entry.row:
        head = f"{entry.name}: changed since it was applied{_format_moment(entry.row)}."
        return "\n".join([head, *_difference(bodies.get(entry.name), entry.migration.text().decode())])
    if entry.coverage and entry.migration:
        return _describe_half(entry.migration, entry.coverage)
    if entry.state == "missing" and entry.row:
        twins = [e.name for e in plan.entries if e.migration and e.migration.checksum == entry.row.checksum]
        renamed = f" {twins[0]} has the same text: it looks renamed." if twins else ""
        if _is_unfinished(entry):
            return f"{entry.name}: {_progress(entry.row, bodies.get(entry.name))}, and its file is gone.{renamed}"
        return f"{entry.name}: applied, but its file is gone.{renamed}"
    newest = max(plan.names("applied", "changed", "unfinished"), key=_version_of)
    return f"{entry.name}: not applied, but the newer {newest} is."


def _describe_half(file: Migration, coverage: Coverage) -> str:
    present, absent = (abbreviate_names(names) or "none" for names in (coverage.present, coverage.absent))
    return (
        f"{file.name}: replaces {format_count(len(file.replaces), 'migration')}, and the database has run only a part. "
        f"Applied: {present}. Not applied as they were squashed: {absent}."
    )


def _progress(row: HistoryRow, body: str | None) -> str:
    """Describe how far an unfinished migration came; the recorded text shows the number of its statements."""
    from pgratchet.migrations.lexer import split_statements

    if row.statements_done is None:
        return "unfinished"
    total = "" if body is None or body.startswith(DIGEST) else f" of {len(split_statements(body.encode()))}"
    doubt = f", and statement {row.statement_begun} may have taken effect" if row.statement_begun else ""
    noun = "statement" if row.statements_done == 1 and not total else "statements"
    return f"unfinished ({row.statements_done}{total} {noun} done{doubt})"


def _format_moment(row: HistoryRow) -> str:
    return f" at {row.moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}Z" if row.moment else ""


def _difference(applied: str | None, current: str) -> list[str]:
    if applied is None:
        return []
    import difflib

    lines = list(difflib.unified_diff(applied.splitlines(), current.splitlines(), "applied", "file", n=1, lineterm=""))
    return lines[:20] + (["..."] if len(lines) > 20 else [])
