"""Repeatable migrations: their files, the names of their history rows, and which of them to run. Pure, but for files.

A repeatable is a file sql/repeatable/NAME.sql. It runs after the versioned migrations whenever its text differs from
the one that ran last. Its n-th run is the history row `repeatable/NAME@n`. Names are unique in the history, so that of
two runners with the same plan only one writes row n, and the other plans again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pgratchet.errors import combine_mistakes
from pgratchet.migrations import file_names, other_files
from pgratchet.migrations.files import FileMistake, Migration, read_repeatable

if TYPE_CHECKING:
    from pgratchet.migrations.plan import HistoryRow

FOLDER = file_names.REPEATABLE_FOLDER
"""The sub-folder of the migrations folder."""

RepeatableState = Literal["up to date", "changed", "new", "missing"]

_PREFIX = f"{FOLDER}/"
_ROW_NAME = re.compile(rf"(?P<name>{FOLDER}/[^@]+)@(?P<run>[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class RepeatableEntry:
    """A repeatable in a plan: the state, with the file, the newest row, or both. `runs` is the number of that row."""

    name: str
    state: RepeatableState
    migration: Migration | None = None
    row: HistoryRow | None = None
    runs: int = 0

    @property
    def next_row(self) -> str:
        """The name of the history row of the next run."""
        return row_name(self.name, self.runs + 1)


@dataclass(frozen=True, slots=True)
class RepeatablePlan:
    """All repeatables in order of their names."""

    entries: tuple[RepeatableEntry, ...] = ()

    @property
    def todo(self) -> tuple[Migration, ...]:
        """The repeatables to run: those that are new or changed."""
        return tuple(e.migration for e in self.entries if e.migration and e.state in ("new", "changed"))

    def names(self, *states: RepeatableState) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries if entry.state in states)


def plan(files: Iterable[Migration], history: Iterable[HistoryRow]) -> RepeatablePlan:
    """Compare repeatable files with the history. Versioned files and rows are left out.

    A run that did not finish has no row in the history, since file and row share a transaction; an unfinished row was
    written by something else, and its repeatable runs again.
    """
    newest = _newest_rows(history)
    entries = [_entry(file, *newest.pop(file.name, (0, None))) for file in files if file.is_repeatable]
    entries += [RepeatableEntry(name, "missing", None, row, runs) for name, (runs, row) in newest.items()]
    return RepeatablePlan(tuple(sorted(entries, key=lambda entry: entry.name)))


def is_repeatable_row(name: str) -> bool:
    """Return whether a history row with this name is one of a repeatable."""
    return name.startswith(_PREFIX) and _ROW_NAME.fullmatch(name) is not None


def row_name(name: str, run: int) -> str:
    """Return the name of the history row of a run, counted from 1, of the repeatable `repeatable/NAME`."""
    return f"{name}@{run}"


def parse_row_name(name: str) -> tuple[str, int]:
    """Return the repeatable and the number of the run; ValueError for the name of another row."""
    match = _ROW_NAME.fullmatch(name)
    if match is None:
        raise ValueError(name)
    return match["name"], int(match["run"])


def file_name_of_row(name: str) -> str:
    """Return the name of the migration with a history row: without the number of the run of a repeatable."""
    return name.rpartition("@")[0] if is_repeatable_row(name) else name


def read(folder: Path) -> tuple[Migration, ...]:
    """Read the repeatables of a migrations folder, in order of their names; none without a sub-folder for them.

    A single ConfigurationError names every mistake. `files.read` reads them together with the versioned migrations.
    """
    if not (folder / FOLDER).is_dir():
        return ()
    repeatables, mistakes = collect(folder)
    if mistakes:
        raise combine_mistakes("the migrations cannot be used", mistakes, "Fix each file; nothing was run.")
    return repeatables


def collect(folder: Path) -> tuple[tuple[Migration, ...], list[str]]:
    """Read the sub-folder of a migrations folder, which must exist; returns the repeatables and all mistakes."""
    repeatables: list[Migration] = []
    mistakes: list[str] = []
    try:
        with os.scandir(f"{folder}/{FOLDER}") as entries:
            in_order = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        return (), [f"{folder}/{FOLDER}: cannot be read: {error.strerror}."]
    for entry in in_order:
        path = f"{folder}/{FOLDER}/{entry.name}"
        try:
            if reason := _mistake(entry):
                raise FileMistake(reason)
            if _looks_like_sql(entry):
                repeatables.append(read_repeatable(path, entry.name))
        except FileMistake as mistake:
            mistakes.append(f"{path}: {mistake}")
    return tuple(repeatables), [*mistakes, *_same_names(repeatables)]


def _newest_rows(history: Iterable[HistoryRow]) -> dict[str, tuple[int, HistoryRow | None]]:
    """The number of the newest run and its row, by the names of repeatables."""
    newest: dict[str, tuple[int, HistoryRow | None]] = {}
    for row in history:
        if is_repeatable_row(row.name):
            name, run = parse_row_name(row.name)
            if run > newest.get(name, (0, None))[0]:
                newest[name] = run, row
    return newest


def _entry(file: Migration, runs: int, row: HistoryRow | None) -> RepeatableEntry:
    state: RepeatableState = "new"
    if row is not None:
        state = "up to date" if row.executed_at and row.checksum == file.checksum else "changed"
    return RepeatableEntry(file.name, state, file, row, runs)


def _looks_like_sql(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(".sql") and not other_files.is_hidden(entry.name)


def _mistake(entry: os.DirEntry[str]) -> str | None:
    """Why an entry of the sub-folder can be no repeatable and looks like one, in sentences; None for any other."""
    if other_files.is_hidden(entry.name):
        return None
    if entry.is_dir():
        example = next(other_files.sql_below(entry.path), None)
        if example is None:
            return None
        return f"sub-folders are not read, and it holds {example}. Move its files up, or out of the migrations folder."
    if entry.name.strip().lower().endswith(".sql"):
        return file_names.describe_repeatable_fault(entry.name)
    return other_files.mistake(entry)


def _same_names(repeatables: Sequence[Migration]) -> list[str]:
    """Mistakes for names that differ only in case: some file systems have room for one of them."""
    in_order = sorted(repeatables, key=lambda each: each.name.lower())
    return [
        f"{one.path} and {other.path}: the names differ only in case. Rename one of them."
        for one, other in pairwise(in_order)
        if one.name.lower() == other.name.lower()
    ]
