"""Adoption: what another tool's rows and files mean together, and what they become here.

Owns the state of each migration, our names for them and our form of their texts. Pure: files and rows come as values,
and what is done with the result stands in `takeover`. Refuses to know any one tool: each is a page in `tools`.

What it rests on (facts 7): a row proves its file only where it has a checksum of it; a tool may have passed over a file
in silence, so rows are matched one by one; a row in the middle of a run, or of one that failed, proves nothing.
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
"""The states that become rows of our history."""
PENDING: tuple[State, ...] = ("pending", "rolled back")
"""Those that become files alone. All others are for a person to settle, but for what a run of ours has applied."""
_TITLE_LIMIT = 120


@dataclass(frozen=True, slots=True)
class ConvertedFile(Migration):
    """A migration in our form, before it is a file."""

    body: bytes = b""

    def text(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class AdoptionItem:
    """One migration of the other tool. `remarks` are sentences; `ours` is None where there is no file of it."""

    theirs: str
    state: State
    ours: ConvertedFile | None = None
    row: ToolRow | None = None
    remarks: tuple[str, ...] = ()


def match_rows(
    tool: str,
    files: Sequence[ToolMigration],
    rows: Sequence[ToolRow],
    ours: Mapping[str, Migration],
    *,
    elsewhere: bool = False,
) -> tuple[tuple[AdoptionItem, ...], tuple[str, ...]]:
    """The migrations in our order and form, each with its state; and notes on all of them.

    `ours` are our files that are there, by name. With `elsewhere` the rows are another server's, and all is
    pending here.
    """
    pairs, orphans = matched(files, rows)
    ordered = _ordered(pairs)
    newest = max((at for at, (_, row) in enumerate(ordered) if row and row.outcome == "applied"), default=-1)
    names, notes = our_names([file for file, _ in ordered], tool)
    items = [
        _item(tool, file, row, name, ours.get(name), late=at < newest, elsewhere=elsewhere)
        for at, ((file, row), name) in enumerate(zip(ordered, names, strict=True))
    ]
    lost = [
        AdoptionItem(row.keys[0], "failed" if row.outcome == "failed" else "no file", None, row, _told(row))
        for row in orphans
    ]
    if elsewhere:
        return tuple(items), (*notes, *(f"{each.theirs} has a row there, and no file." for each in lost))
    return (*items, *lost), notes


Pair = tuple[ToolMigration, ToolRow | None]


def matched(files: Sequence[ToolMigration], rows: Sequence[ToolRow]) -> tuple[list[Pair], list[ToolRow]]:
    """Each file with its row, if it has one, and the rows that have no file, but for those that were taken back.

    A key that several files share tells of none of them.
    """
    by_key: dict[str, list[int]] = {}
    for at, file in enumerate(files):
        for key in dict.fromkeys(file.keys):
            by_key.setdefault(key, []).append(at)
    found: dict[int, ToolRow] = {}
    orphans: list[ToolRow] = []
    for row in rows:
        own = next((free[0] for key in row.keys if len(free := _free(by_key.get(key, ()), found)) == 1), None)
        if own is not None:
            found[own] = row
        elif row.outcome != "undone":
            orphans.append(row)
    return [(file, found.get(at)) for at, file in enumerate(files)], orphans


def _free(files: Sequence[int], found: Container[int]) -> list[int]:
    return [at for at in files if at not in found]


def _ordered(pairs: Sequence[Pair]) -> list[Pair]:
    """In the tool's order; what has no place of its own there follows what is applied, or all, as it is itself."""
    fixed = [pair for pair in pairs if not pair[0].loose]
    applied = [at for at, (_, row) in enumerate(fixed, 1) if row and row.outcome == "applied"]
    newest = max(applied, default=0)
    loose = [pair for pair in pairs if pair[0].loose]
    there = [pair for pair in loose if pair[1] and pair[1].outcome == "applied"]
    return [*fixed[:newest], *there, *fixed[newest:], *(pair for pair in loose if pair not in there)]


def our_names(files: Sequence[ToolMigration], tool: str) -> tuple[list[str], tuple[str, ...]]:
    """Names by our rule: the tool's own versions where they are numbers in its order, else counted from 0001."""
    versions = [file.version for file in files]
    if all(_is_version(each) for each in versions) and _rises([int(each) for each in versions]):
        return [_our_name(file.version, file.title) for file in files], ()
    width = max(4, len(str(len(files))))
    notes = (f"Numbered anew: {tool}'s own versions are not numbers that rise in its order.",)
    return [_our_name(f"{at:0{width}}", file.title) for at, file in enumerate(files, 1)], notes


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 40


def _rises(numbers: Sequence[int]) -> bool:
    return all(one < other for one, other in pairwise(numbers))


def _our_name(version: str, title: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", title).strip("_.")[:_TITLE_LIMIT]
    return f"{version}_{slug or 'migration'}"


def _item(
    tool: str,
    file: ToolMigration,
    row: ToolRow | None,
    name: str,
    there: Migration | None,
    *,
    late: bool,
    elsewhere: bool,
) -> AdoptionItem:
    state = state_of(file, row, late=late)
    remarks = (*_told(row), *file.remarks)
    if elsewhere:
        state, remarks = "pending", (*remarks, f"There it is {state}." if row else "There it was not run.")
    text = _text(file, tool)
    written = there.text() if there and file.obstacle else text
    ours = _migration(name, written)
    obstacle = (file.obstacle if written == text else "") or _unfit(ours)
    if obstacle and state in PENDING:
        return AdoptionItem(file.name, "cannot run", ours, row, (*remarks, obstacle, f"Its name here is {name}."))
    if obstacle and state in ADOPTED:
        remarks = (*remarks, obstacle, _NOT_REPEATABLE)
    return AdoptionItem(file.name, state, ours, row, remarks)


_NOT_REPEATABLE = "An empty database will not get it by this file."


def state_of(file: ToolMigration, row: ToolRow | None, *, late: bool) -> State:
    """What a file and its row are together; `late` says that a newer one is applied."""
    if row is None:
        return "skipped" if late else "pending"
    if row.outcome == "failed":
        return "failed"
    if row.outcome == "undone":
        return "skipped" if late else "rolled back"
    if row.checksum is None or not file.checksums:
        return "claimed"
    return "verified" if row.checksum in file.checksums else "changed"


def _told(row: ToolRow | None) -> tuple[str, ...]:
    return (row.told,) if row and row.told else ()


def _text(file: ToolMigration, tool: str) -> bytes:
    """The migration in our form; where it is no SQL, a file that only stands for it."""
    if not file.up.strip():
        head = f"-- Stands for {' '.join(file.name.split())} of {tool}, which has no SQL that could be taken over.\n"
        return head.encode()
    head = "" if file.transactional else "-- migrate: no-transaction\n"
    return f"{head}{file.up.strip()}\n".encode()


def _migration(name: str, body: bytes) -> ConvertedFile:
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return ConvertedFile(name, int(re.sub("T|_.*", "", name)), hashlib.sha256(text).hexdigest(), f"{name}.sql", text)


def _unfit(ours: ConvertedFile) -> str:
    """Why our rules would not let it run, as sentences; empty where they do."""
    if b"\0" in ours.body:
        return "It has a NUL byte."
    try:
        scripts.prepare([ours])
    except ConfigurationError as error:
        return " ".join(error.detail.splitlines())
    return ""
