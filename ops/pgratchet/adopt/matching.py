"""Matches another tool's files with its rows, and converts the files to our form. Pure: nothing is read or written.

Only a row with a checksum of its file proves that the file ran. A tool may have skipped a file silently, so each row is
matched separately (tests/integration/adopt/test_adoption.py::test_a_history_that_cannot_be_adopted_is_refused). A row
of a failed or unfinished run proves nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pgratchet.adopt.tools.tool import ToolMigration, ToolRow
from pgratchet.errors import ConfigurationError
from pgratchet.migrations import scripts
from pgratchet.migrations.files import Migration

State = Literal[
    "verified", "claimed", "applied", "pending", "rolled back", "changed", "no file", "skipped", "failed", "cannot run"
]
ADOPTED: tuple[State, ...] = ("verified", "claimed")
"""The states of migrations that become rows of our history."""
PENDING: tuple[State, ...] = ("pending", "rolled back")
"""The states of migrations that become files only. `applied` is a pending one that we have applied since the adoption.
A migration in any other state must be settled by a person."""
_TITLE_LIMIT = 120


@dataclass(frozen=True, slots=True)
class ConvertedFile(Migration):
    """Our file made from another tool's migration. The file may not exist on disk yet."""

    body: bytes = b""

    def text(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class AdoptionItem:
    """A migration of the other tool. `original` is the tool's name for the migration, and `remarks` are sentences.

    `file` is None when the tool has a row but no file.
    """

    original: str
    state: State
    file: ConvertedFile | None = None
    row: ToolRow | None = None
    remarks: tuple[str, ...] = ()


def match_rows(
    tool: str,
    files: Sequence[ToolMigration],
    rows: Sequence[ToolRow],
    existing: Mapping[str, Migration],
    *,
    elsewhere: bool = False,
) -> tuple[tuple[AdoptionItem, ...], tuple[str, ...]]:
    """Every migration in our order and form with its state, and notes about all of them.

    `existing` are the files in our folder, by name. With `elsewhere` the rows come from another server, and every
    migration is pending here.
    """
    pairs, orphans = pair_rows(files, rows)
    ordered = _in_our_order(pairs)
    newest = max((index for index, (_, row) in enumerate(ordered) if row and row.outcome == "applied"), default=-1)
    names, notes = our_names([file for file, _ in ordered], tool)
    items = []
    for index, ((file, row), name) in enumerate(zip(ordered, names, strict=True)):
        state = state_of(file, row, late=index < newest)
        item = AdoptionItem(file.name, state, None, row, (*_remark_of(row), *file.remarks))
        item = _as_pending(item) if elsewhere else item
        items.append(_convert(item, file, tool, name, existing.get(name)))
    if elsewhere:
        return tuple(items), (*notes, *(f"{row.keys[0]} has a row there, and no file." for row in orphans))
    return (*items, *(_item_without_file(row) for row in orphans)), notes


def _item_without_file(row: ToolRow) -> AdoptionItem:
    return AdoptionItem(row.keys[0], "failed" if row.outcome == "failed" else "no file", None, row, _remark_of(row))


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
    """The tool's order, with applied unordered migrations after the other applied ones, and pending ones at the end."""
    ordered = [pair for pair in pairs if not pair[0].unordered]
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
        return [_our_name(file.version, file.title) for file in files], ()
    width = max(4, len(str(len(files))))
    notes = (f"Numbered anew: {tool}'s own versions are not numbers that rise in its order.",)
    return [_our_name(f"{number:0{width}}", file.title) for number, file in enumerate(files, 1)], notes


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 40


def _rises(numbers: Sequence[int]) -> bool:
    return all(number < following for number, following in pairwise(numbers))


def _our_name(version: str, title: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", title).strip("_.")[:_TITLE_LIMIT]
    return f"{version}_{slug or 'migration'}"


def state_of(file: ToolMigration, row: ToolRow | None, *, late: bool) -> State:
    """The state of a migration, from its file and its row. `late` means a newer migration is applied."""
    if row is None:
        return "skipped" if late else "pending"
    if row.outcome == "failed":
        return "failed"
    if row.outcome == "undone":
        return "skipped" if late else "rolled back"
    if row.checksum is None or not file.checksums:
        return "claimed"
    return "verified" if row.checksum in file.checksums else "changed"


def _convert(
    item: AdoptionItem, migration: ToolMigration, tool: str, name: str, existing: Migration | None
) -> AdoptionItem:
    """The item with our file. A file in our folder replaces a migration with an obstacle."""
    converted = _converted_text(migration, tool)
    body = existing.text() if existing and migration.obstacle else converted
    file = _converted_file(name, body)
    obstacle = (migration.obstacle if body == converted else "") or _mistakes(file)
    state, remarks = item.state, item.remarks
    if obstacle and state in PENDING:
        state, remarks = "cannot run", (*remarks, obstacle, f"Its name here is {name}.")
    elif obstacle and state in ADOPTED:
        remarks = (*remarks, obstacle, "An empty database will not get it by this file.")
    return AdoptionItem(item.original, state, file, item.row, remarks)


def _remark_of(row: ToolRow | None) -> tuple[str, ...]:
    return (row.remark,) if row and row.remark else ()


def _converted_text(migration: ToolMigration, tool: str) -> bytes:
    """The migration in our form. A migration without SQL becomes a file with only a comment."""
    if not migration.up.strip():
        name = " ".join(migration.name.split())
        return f"-- Stands for {name} of {tool}, which has no SQL that could be taken over.\n".encode()
    head = "" if migration.transactional else "-- migrate: no-transaction\n"
    return f"{head}{migration.up.strip()}\n".encode()


def _converted_file(name: str, body: bytes) -> ConvertedFile:
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return ConvertedFile(name, int(re.sub("T|_.*", "", name)), hashlib.sha256(text).hexdigest(), f"{name}.sql", text)


def _mistakes(file: ConvertedFile) -> str:
    """The mistakes for which the applier would refuse the file, as sentences; empty without mistakes."""
    if b"\0" in file.body:
        return "It has a NUL byte."
    try:
        scripts.prepare_scripts([file])
    except ConfigurationError as error:
        return " ".join(error.detail.splitlines())
    return ""
