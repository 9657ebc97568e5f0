"""Matches another tool's files with its rows, and converts the files to our form. Pure: nothing is read or written.

Only a row with a checksum of its file proves that the file ran. A tool may have skipped a file silently, so each row is
matched separately (tests/integration/adopt/test_adoption.py::test_a_history_that_cannot_be_adopted_is_refused). A row
of a failed or unfinished run proves nothing.

A migration with a condition, such as a context of Liquibase, may be left out of this database on purpose. Without a row
it is `excluded`, and a person chooses whether it is pending or left out.

A repeatable whose text is not the one that the tool ran last is pending, as it is for the tool.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal

from pgratchet.adopt.conversion import Conversion, ConvertedFile
from pgratchet.adopt.repeatable_names import repeatable_names
from pgratchet.adopt.requirements import with_requirements
from pgratchet.adopt.tools.tool import ToolMigration, ToolRow, is_empty
from pgratchet.migrations.files import Migration

State = Literal[
    "verified",
    "claimed",
    "applied",
    "pending",
    "rolled back",
    "left out",
    "replaced",
    "changed",
    "no file",
    "skipped",
    "failed",
    "cannot run",
    "excluded",
]
ADOPTED: tuple[State, ...] = ("verified", "claimed")
"""The states of migrations that become rows of our history."""
PENDING: tuple[State, ...] = ("pending", "rolled back")
"""The states of migrations that become files only. `applied` is a pending one that we have applied since the adoption.
A migration in any other state must be settled by a person, unless it is in SETTLED."""
SETTLED: tuple[State, ...] = (*ADOPTED, *PENDING, "applied", "left out", "replaced")
_TITLE_LIMIT = 120


@dataclass(frozen=True, slots=True)
class Choice:
    """The choices of the user, as names or patterns with * and ?.

    `include` become pending and `exclude` are left out, of the excluded migrations. `exclude` also leaves out
    repeatables that it names. `mended` have a file in our folder that is adopted in place of the tool's.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()

    def drops(self, repeatable: str) -> bool:
        """Return whether a repeatable is left out by its name. The pattern * is for excluded migrations only."""
        return is_named(repeatable, [pattern for pattern in self.exclude if pattern != "*"])


@dataclass(frozen=True, slots=True)
class AdoptionItem:
    """A migration of the other tool. `original` is the tool's name for the migration, and `remarks` are sentences.

    `file` is None when the tool has a row but no file, and for migrations that are left out. `unused_checksum` is the
    checksum that our file of a migration would have that is left out.
    """

    original: str
    state: State
    file: ConvertedFile | None = None
    row: ToolRow | None = None
    remarks: tuple[str, ...] = ()
    unused_checksum: str = ""

    @property
    def is_repeatable(self) -> bool:
        return self.file is not None and self.file.is_repeatable

    @property
    def has_run(self) -> bool:
        """Return whether the database has the changes, or for a pending repeatable those of an earlier text."""
        if self.state in PENDING:
            return self.is_repeatable and self.row is not None and self.row.outcome in ("applied", "repeats")
        return self.state in (*ADOPTED, "applied")


@dataclass(frozen=True, slots=True)
class Ours:
    """Our side: the files in our folder and the checksums in our history, by name."""

    files: Mapping[str, Migration] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)


def match_rows(
    tool: str,
    files: Sequence[ToolMigration],
    rows: Sequence[ToolRow],
    ours: Ours | None = None,
    *,
    choice: Choice | None = None,
    tables: Sequence[str] = (),
    elsewhere: bool = False,
) -> tuple[tuple[AdoptionItem, ...], tuple[str, ...]]:
    """Every migration in our order and form with its state, and notes about all of them.

    `tables` are the tool's own tables. With `elsewhere` the rows come from another server, and every migration is
    pending here.
    """
    ours, choice = ours or Ours(), choice or Choice()
    pairs, orphans = pair_rows(files, rows)
    ordered = [*_in_our_order([pair for pair in pairs if not pair[0].repeatable]), *_repeatables(pairs)]
    newest = max((at for at, (file, row) in enumerate(ordered) if _is_applied(row) and not file.repeatable), default=-1)
    states = [
        _chosen(file, row, state_of(file, row, late=at < newest), choice) for at, (file, row) in enumerate(ordered)
    ]
    names, notes = _names(ordered, states, tool)
    conversion = Conversion(tool, tuple(tables), ours.files, ours.checksums, choice.mended)
    items = []
    for (file, row), state, name in zip(ordered, states, names, strict=True):
        item = AdoptionItem(file.name, state, None, row, (*_remark_of(row), *_conditions(file), *file.remarks))
        item = _as_pending(item) if elsewhere and state != "excluded" else item
        is_kept = state not in ("excluded", "left out")
        items.append(_convert(item, file, name, conversion) if is_kept else _unused(item, file, conversion))
    items = _with_requirements(items, [file for file, _ in ordered], files)
    if elsewhere:
        return tuple(items), (*notes, *(f"{row.keys[0]} has a row there, and no file." for row in orphans))
    return (*items, *(_item_without_file(row, choice) for row in orphans)), notes


def _with_requirements(
    items: Sequence[AdoptionItem], ordered: Sequence[ToolMigration], files: Sequence[ToolMigration]
) -> list[AdoptionItem]:
    """The items with files that require the repeatables that they use. `ordered` are the migrations of the items."""
    places = {id(file): place for place, file in enumerate(files)}
    place_of = [places[id(file)] for file in ordered]
    converted = {place: item.file for place, item in zip(place_of, items, strict=True) if item.file}
    requiring = with_requirements(files, converted)
    return [replace(item, file=requiring.get(place)) for place, item in zip(place_of, items, strict=True)]


def _is_applied(row: ToolRow | None) -> bool:
    return row is not None and row.outcome == "applied"


def _repeatables(pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair[0].repeatable]


def _names(ordered: Sequence[Pair], states: Sequence[State], tool: str) -> tuple[list[str], tuple[str, ...]]:
    """Our name of each migration, empty for those without a number, and notes.

    The name of a repeatable does not depend on what a person has excluded in this database.
    """
    numbered = [
        file
        for (file, _), state in zip(ordered, states, strict=True)
        if not file.repeatable and state not in ("excluded", "left out")
    ]
    names, notes = our_names(numbered, tool)
    named = [
        file
        for (file, _), state in zip(ordered, states, strict=True)
        if file.repeatable and not (state == "left out" and (file.never or _has_no_statement(file)))
    ]
    titles, more = repeatable_names([file.title for file in named])
    of_file = dict(zip(map(id, [*numbered, *named]), [*names, *titles], strict=True))
    return [of_file.get(id(file), "") for file, _ in ordered], (*notes, *more)


def _chosen(file: ToolMigration, row: ToolRow | None, state: State, choice: Choice) -> State:
    """The state after the user's choice. A migration that has not run is excluded while it has a condition."""
    if row and row.outcome == "superseded":
        return "left out"
    if file.repeatable and (_has_no_statement(file) or (state not in ADOPTED and choice.drops(file.name))):
        return "left out"
    has_never_run = row is not None and row.outcome == "never"
    if (row and not has_never_run) or not (file.condition or file.never or has_never_run):
        return state
    if is_named(file.name, choice.include):
        return state
    return "left out" if file.never or is_named(file.name, choice.exclude) else "excluded"


def _has_no_statement(file: ToolMigration) -> bool:
    return not file.obstacle and is_empty(file.up)


def is_named(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name matches one of the patterns, or is one of them."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _conditions(file: ToolMigration) -> tuple[str, ...]:
    return tuple(sentence for sentence in (file.condition, file.never) if sentence)


def _item_without_file(row: ToolRow, choice: Choice) -> AdoptionItem:
    state: State = "failed" if row.outcome == "failed" else "no file"
    if row.repeatable and choice.drops(row.keys[0]):
        state = "left out"
    return AdoptionItem(row.keys[0], state, None, row, _remark_of(row))


def _as_pending(item: AdoptionItem) -> AdoptionItem:
    remark = f"There it is {item.state}." if item.row else "There it was not run."
    return AdoptionItem(item.original, "pending", None, item.row, (*item.remarks, remark))


Pair = tuple[ToolMigration, ToolRow | None]


def pair_rows(files: Sequence[ToolMigration], rows: Sequence[ToolRow]) -> tuple[list[Pair], list[ToolRow]]:
    """Each file with its row, and the rows without a file, except undone rows.

    A key shared by several files identifies none of them.
    """
    by_key: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        for key in dict.fromkeys(file.keys):
            by_key.setdefault(key, []).append(index)
    row_of: dict[int, ToolRow] = {}
    orphans: list[ToolRow] = []
    for row in rows:
        candidates = (_without_row(by_key.get(key, ()), row_of) for key in row.keys)
        match = next((indexes[0] for indexes in candidates if len(indexes) == 1), None)
        if match is not None:
            row_of[match] = row
        elif row.outcome != "undone":
            orphans.append(row)
    return [(file, row_of.get(index)) for index, file in enumerate(files)], orphans


def _without_row(indexes: Sequence[int], row_of: Container[int]) -> list[int]:
    return [index for index in indexes if index not in row_of]


def _in_our_order(pairs: Sequence[Pair]) -> list[Pair]:
    """The order of the runs if the rows have it, else the tool's order.

    Unordered migrations follow: applied ones after the other applied ones, pending ones at the end.
    """
    ordered = [pair for pair in pairs if not pair[0].unordered]
    positions = {id(pair): pair[1].position for pair in ordered if pair[1] and pair[1].position is not None}
    if positions:
        ran = sorted((pair for pair in ordered if id(pair) in positions), key=lambda pair: positions[id(pair)] or 0)
        ordered = [*ran, *(pair for pair in ordered if id(pair) not in positions)]
    applied = [count for count, (_, row) in enumerate(ordered, 1) if row and row.outcome == "applied"]
    newest = max(applied, default=0)
    unordered = [pair for pair in pairs if pair[0].unordered]
    applied_unordered = [pair for pair in unordered if pair[1] and pair[1].outcome == "applied"]
    pending_unordered = [pair for pair in unordered if pair not in applied_unordered]
    return [*ordered[:newest], *applied_unordered, *ordered[newest:], *pending_unordered]


def our_names(files: Sequence[ToolMigration], tool: str) -> tuple[list[str], tuple[str, ...]]:
    """Our names for the files, and notes. The tool's versions are kept when they rise; else names count from 0001."""
    versions = [file.version for file in files]
    if all(_is_version(version) for version in versions) and _rises([int(version) for version in versions]):
        return [our_name(file.version, file.title) for file in files], ()
    width = max(4, len(str(len(files))))
    notes = (f"The files are numbered from {1:0{width}}: {tool}'s versions are not numbers that rise in its order.",)
    return [our_name(f"{number:0{width}}", file.title) for number, file in enumerate(files, 1)], notes


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 40


def _rises(numbers: Sequence[int]) -> bool:
    return all(number < following for number, following in pairwise(numbers))


def our_name(version: str, title: str) -> str:
    """A migration's name from the version and a title."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", title).strip("_.")[:_TITLE_LIMIT]
    return f"{version}_{slug or 'migration'}"


def state_of(file: ToolMigration, row: ToolRow | None, *, late: bool) -> State:
    """The state of a migration, from its file and its row. `late` means a newer migration is applied."""
    late = late and not file.repeatable
    if row is None or row.outcome in ("never", "superseded", "repeats"):
        return "skipped" if late else "pending"
    if row.outcome == "failed":
        return "failed"
    if row.outcome == "undone":
        return "skipped" if late else "rolled back"
    if row.checksum is None or not file.checksums:
        return "claimed"
    if row.checksum in file.checksums:
        return "verified"
    return "pending" if file.repeatable else "changed"


def _convert(item: AdoptionItem, migration: ToolMigration, name: str, conversion: Conversion) -> AdoptionItem:
    """The item with our file, and with remarks about the conversion."""
    converted = conversion.convert(migration, name, is_pending=item.state in PENDING)
    state, remarks = item.state, (*item.remarks, *_about_runs(item, migration), *converted.remarks)
    if migration.repeatable and _is_other_text((conversion.existing or {}).get(name), converted.file):
        remarks = (*remarks, f"{name}.sql exists with another text, which the next migrate runs.")
    if converted.obstacle and state in PENDING:
        state, remarks = "cannot run", (*remarks, converted.obstacle, f"Its name here is {name}.")
    elif converted.obstacle and state in ADOPTED:
        remarks = (*remarks, converted.obstacle, "An empty database cannot be built with this file.")
    return AdoptionItem(item.original, state, converted.file, item.row, remarks)


def _about_runs(item: AdoptionItem, migration: ToolMigration) -> tuple[str, ...]:
    """Say that a repeatable runs although the tool has run it."""
    has_changed = migration.repeatable and item.state == "pending" and _is_applied(item.row)
    return (_CHANGED,) if has_changed else ()


_CHANGED = "Its text has changed since it ran, so it runs again in the next migrate, as in the tool's next run."


def _is_other_text(existing: Migration | None, file: ConvertedFile) -> bool:
    return existing is not None and existing.checksum != file.checksum


def _unused(item: AdoptionItem, migration: ToolMigration, conversion: Conversion) -> AdoptionItem:
    """The item of a migration that is left out, with the checksum of its text."""
    remarks = (*item.remarks, "It has no SQL statement.") if _has_no_statement(migration) else item.remarks
    checksum = conversion.convert(migration, "0_unused", is_pending=False).file.checksum
    return replace(item, remarks=remarks, unused_checksum=checksum)


def _remark_of(row: ToolRow | None) -> tuple[str, ...]:
    return (row.remark,) if row and row.remark else ()
