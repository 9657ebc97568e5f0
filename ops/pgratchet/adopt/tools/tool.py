"""Describes a migration tool, a migration in its files and a row of its table, and helps to read its files.

A tool's module reads only the given folder, and receives the table's rows as plain data, a mapping for each row.
`matching.py` compares files and rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pgratchet.errors import ConfigurationError
from pgratchet.migrations import classify, lexer
from pgratchet.migrations.statement import LexicalError, Statement

JsonRow = Mapping[str, Any]
"""A table row as JSON, by column. Timestamps are text."""


class HistoryTable(NamedTuple):
    """The table of a tool's history."""

    database: str
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolMigration:
    """A migration as another tool's files define it.

    A row of the tool's table refers to the migration by any of `keys`. `version` is a string of digits, empty without a
    version for the order. `title` becomes part of our file's name. `up` is the SQL to apply. `obstacle` is a sentence
    about why `up` cannot run here. A `repeatable` one runs again when its text has changed, behind all others.
    `unordered` migrations have no position among the others and follow the applied migrations. `depends_on` holds the
    first keys of other migrations. `condition` is a sentence about why the tool may leave the migration out of this
    database; `never` is one about why the tool never runs it here. `guard` is one about a check that the tool makes
    before it runs the migration. `paths` are the files that the migration is read from.
    """

    name: str
    keys: tuple[str, ...]
    version: str
    title: str
    up: str = ""
    transactional: bool = True
    checksums: frozenset[str] = frozenset()
    obstacle: str = ""
    remarks: tuple[str, ...] = ()
    unordered: bool = False
    repeatable: bool = False
    depends_on: tuple[str, ...] = ()
    condition: str = ""
    never: str = ""
    guard: str = ""
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A row of a tool's history. The first of `keys` that a file has identifies the row's file.

    `moment` is the time of the run in the server's text form, None if not recorded. `remark` is a sentence about
    anything unusual. `never` and `superseded` rows belong to migrations that did not run: nothing, or another
    migration, has the changes. A `repeats` row belongs to one that the tool has run, and will run again. `position` is
    the place in the order of the runs; None if the files have the order.
    """

    keys: tuple[str, ...]
    outcome: Literal["applied", "undone", "failed", "never", "superseded", "repeats"] = "applied"
    checksum: str | None = None
    moment: str | None = None
    duration_ms: int | None = None
    remark: str = ""
    position: int | None = None
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A migration tool. The table is recognised by name, by `columns` and by the absence of `excluded_columns`.

    `folders` are the usual places of the files. `files` returns the migrations of a folder in the tool's order. `rows`
    interprets the rows of the table. `complete` adds the migrations that only rows know. `lock_table` is a second
    table, whose column `locked` is true during a run. `other_tables` are further tables of the tool. `lock_key` returns
    the key of a run's advisory lock. `companions` matches names of files that hold no SQL to apply, such as those that
    undo a migration. `suffixes` are the endings of files that may be migrations, besides those of SQL. `elsewhere`
    matches names of files that the tool is often set to read from a second folder.
    """

    name: str
    table: str
    columns: frozenset[str]
    folders: tuple[str, ...]
    files: Callable[[Path], Sequence[ToolMigration]]
    rows: Callable[[Sequence[JsonRow], Sequence[ToolMigration]], Sequence[ToolRow]]
    excluded_columns: frozenset[str] = field(default=frozenset())
    complete: Callable[[Sequence[JsonRow], Sequence[ToolMigration]], Sequence[ToolMigration]] | None = None
    lock_table: str = ""
    other_tables: tuple[str, ...] = ()
    lock_key: Callable[[HistoryTable], int] | None = None
    companions: re.Pattern[str] | None = None
    suffixes: tuple[str, ...] = ()
    elsewhere: re.Pattern[str] | None = None


def fixed_key(number: int) -> Callable[[HistoryTable], int]:
    """A `lock_key` that is the same for every table."""
    return lambda _: number


def read_file(path: Path) -> tuple[bytes, str]:
    """A file's bytes and text, the text with LF line ends and without a byte order mark."""
    content = path.read_bytes()
    try:
        return content, content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8",
            detail=f"Byte 0x{content[error.start]:02x} at byte {error.start + 1}.",
            hint="Save the file as UTF-8 and run again.",
        ) from error


def checksum_variants(content: bytes) -> frozenset[str]:
    """SHA-256 in hex of the content unchanged, with LF and with CRLF, because a checkout may convert line ends."""
    unix = content.replace(b"\r\n", b"\n")
    return frozenset(hashlib.sha256(text).hexdigest() for text in (content, unix, unix.replace(b"\n", b"\r\n")))


def find_files(folder: Path, pattern: re.Pattern[str], *, deep: bool = False) -> Iterator[tuple[Path, re.Match[str]]]:
    """The files whose whole name matches, sorted; `deep` includes folders below."""
    for path in sorted(folder.rglob("*") if deep else folder.glob("*")):
        if path.is_file() and (match := pattern.fullmatch(path.name)):
            yield path, match


def with_semicolon(text: str) -> str:
    """The SQL with a semicolon at the end, so another piece can follow in the same file."""
    stripped = text.strip()
    return stripped if not stripped or stripped.endswith(";") else f"{stripped}\n;"


def refuses_transaction(text: str) -> bool:
    """Return whether a statement cannot run in a transaction. Some tools detect such files by themselves."""
    return any(classify.outside_transaction(statement) for statement in statements_of(text))


def statements_of(text: str) -> list[Statement]:
    """The statements of a text. Unreadable SQL has none; the applier reports the mistake later."""
    try:
        return lexer.split_statements(text.encode())
    except LexicalError:
        return []


def is_empty(text: str) -> bool:
    """Return whether a text has nothing but comments. Unreadable SQL is not empty."""
    try:
        return not lexer.split_statements(text.encode())
    except LexicalError:
        return False


def sort_by_dependency(names: Iterable[str], dependencies: Mapping[str, Sequence[str]]) -> list[str]:
    """The names in their order, each after its dependencies. A cycle is broken at its last name."""
    done: dict[str, None] = {}
    for name in names:
        waiting = {name: None} if name in dependencies and name not in done else {}
        while waiting:
            last = next(reversed(waiting))
            following = (other for other in dependencies[last] if other in dependencies)
            other = next((other for other in following if other not in done and other not in waiting), None)
            if other is not None:
                waiting[other] = None
            else:
                done[last] = waiting.pop(last)
    return list(done)
