"""What the pages of the tools are written in: a tool, a migration of its files, a row of its table.

Owns these values and the few things that several pages do to a text. A page is pure but for reading the folder it is
given: its rows come to it as plain data, one mapping a row. What becomes of files and rows is decided in `adoption`.
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

Raw = Mapping[str, Any]
"""A row by its columns, as JSON has them: moments are text."""


class HistoryTable(NamedTuple):
    """Where a tool keeps its history."""

    database: str
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolMigration:
    """A migration of another tool's files.

    `keys` are what a row may know it by; `version` are its digits, empty where it has none that order it; `title` is
    what our file is called behind the number. `obstacle` says, as a sentence, why `up` cannot be run as it is. A
    `loose` one has no place in the order: it follows what is applied. `needs` are the first keys of those it stands on.
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
    loose: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolRow:
    """What a tool's table says of one migration. `keys` are looked for in the files in this order.

    `moment` is when it was run, in the server's form, None where the tool does not keep that. `told` is a sentence on
    what is out of the ordinary.
    """

    keys: tuple[str, ...]
    outcome: Literal["applied", "undone", "failed"] = "applied"
    checksum: str | None = None
    moment: str | None = None
    duration_ms: int | None = None
    told: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. Its table is told by its name, by the `columns` that it has and by those `without` which it is.

    `folders` are where its files usually are. `files` are in the tool's order. `busy` is a table beside it whose
    column `locked` says that a run is under way; `lock` gives the key of the advisory lock that a run holds.
    """

    name: str
    table: str
    columns: frozenset[str]
    folders: tuple[str, ...]
    files: Callable[[Path], Sequence[ToolMigration]]
    rows: Callable[[Sequence[Raw], Sequence[ToolMigration]], Sequence[ToolRow]]
    without: frozenset[str] = field(default=frozenset())
    busy: str = ""
    lock: Callable[[HistoryTable], int] | None = None


def key(number: int) -> Callable[[HistoryTable], int]:
    """The lock of a tool that has the same for every table."""
    return lambda _: number


def read(path: Path) -> tuple[bytes, str]:
    """A file as it is, and its text with LF line ends and without a BOM."""
    raw = path.read_bytes()
    try:
        return raw, raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8",
            detail=f"Byte 0x{raw[error.start]:02x} at byte {error.start + 1}.",
            hint="Save it as UTF-8, and run again.",
        ) from error


def sha256(raw: bytes) -> frozenset[str]:
    """The SHA-256, in hex, of a text as it is, with LF and with CRLF: a checkout may have changed its line ends."""
    unix = raw.replace(b"\r\n", b"\n")
    return frozenset(hashlib.sha256(text).hexdigest() for text in (raw, unix, unix.replace(b"\n", b"\r\n")))


def named(folder: Path, pattern: re.Pattern[str], *, deep: bool = False) -> Iterator[tuple[Path, re.Match[str]]]:
    """The files whose whole name matches, by name."""
    for path in sorted(folder.rglob("*") if deep else folder.glob("*")):
        if path.is_file() and (match := pattern.fullmatch(path.name)):
            yield path, match


def closed(text: str) -> str:
    """A piece of a text with a semicolon behind it, where it has none: what stood behind it is now one file with it."""
    stripped = text.strip()
    return stripped if not stripped or stripped.endswith(";") else f"{stripped}\n;"


def runs_alone(text: str) -> bool:
    """Whether something in it cannot be run in a transaction, which its tool then leaves out by itself."""
    return any(classify.outside_transaction(each) for each in _statements(text))


def without_frame(text: str) -> str:
    """A text without the BEGIN and the COMMIT around all of it: each migration is in a transaction here."""
    found, raw = _statements(text), text.encode()
    if len(found) < 2 or found[0].head not in _OPENING or found[-1].head not in _CLOSING:
        return text
    before, inner = raw[: found[0].start], raw[found[0].end : found[-1].start]
    return (before + inner.lstrip(b"; \n") + raw[found[-1].end :].lstrip(b"; ")).decode()


_OPENING = (("BEGIN",), ("BEGIN", "TRANSACTION"), ("BEGIN", "WORK"), ("START", "TRANSACTION"))
_CLOSING = (("COMMIT",), ("COMMIT", "TRANSACTION"), ("COMMIT", "WORK"), ("END",), ("END", "TRANSACTION"))


def _statements(text: str) -> list[lexer.Statement]:
    """Those of a text; none where it is no SQL of PostgreSQL's, which is told when it is to be run."""
    try:
        return [each for each in lexer.scan(text.encode()) if isinstance(each, lexer.Statement)]
    except lexer.LexicalError:
        return []


def by_dependence(names: Iterable[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Names in their order, but each behind those that it needs; a circle is left where it closes."""
    done: dict[str, None] = {}
    for name in names:
        waiting = {name: None} if name in needs and name not in done else {}
        while waiting:
            last = next(reversed(waiting))
            further = (each for each in needs[last] if each in needs and each not in done and each not in waiting)
            if (other := next(further, None)) is not None:
                waiting[other] = None
            else:
                done[last] = waiting.pop(last)
    return list(done)
