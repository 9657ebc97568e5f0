"""Squash files: which migrations a file replaces, and whether a history has run these. Pure.

A squash file begins with a line for each file that it replaces:

    -- migrate: replaces=0001_init sha256:9f86d0...

A replaced file may have been a squash file itself. Its own lines are there too, behind its name and a slash, because a
database may have run the oldest files, or the squash file that replaced them:

    -- migrate: replaces=0040_squash sha256:60303a...
    -- migrate: replaces=0040_squash/0001_init sha256:9f86d0...
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pgratchet.migrations.files import Migration
    from pgratchet.migrations.plan import HistoryRow

_START = b"-- migrate: replaces="
_LINE = re.compile(rb"-- migrate: replaces=(?P<path>[^\s/]+(?:/[^\s/]+)*) sha256:(?P<checksum>[0-9a-f]{64})\n")
_VALUE = re.compile(r"(?P<path>[^\s/]+(?:/[^\s/]+)*) sha256:(?P<checksum>[0-9a-f]{64})")

Extent = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class Replaced:
    """A replaced file: its name, behind those of the squash files that had replaced it, joined by slashes."""

    path: str
    checksum: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the replaced files a history has run, with their names. `newest` is the last of their rows."""

    extent: Extent
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    newest: HistoryRow | None = None


def parse_header(text: bytes) -> tuple[Replaced, ...]:
    """The files that a text replaces, by the lines at its beginning; none for an ordinary migration."""
    if not text.startswith(_START):
        return ()
    replaced, position = [], 0
    while match := _LINE.match(text, position):
        replaced.append(Replaced(match["path"].decode(), match["checksum"].decode()))
        position = match.end()
    return tuple(replaced)


def is_valid(value: str) -> bool:
    """Return whether the value of a directive names a replaced file."""
    return _VALUE.fullmatch(value) is not None


def header(files: Iterable[Migration]) -> bytes:
    """The lines for the files that a squash file replaces."""
    lines = (line for file in files for line in _lines(file))
    return b"".join(f"-- migrate: replaces={path} sha256:{checksum}\n".encode() for path, checksum in lines)


def _lines(file: Migration) -> Iterator[tuple[str, str]]:
    yield file.name, file.checksum
    yield from ((f"{file.name}/{each.path}", each.checksum) for each in file.replaces)


def names(files: Iterable[Migration]) -> frozenset[str]:
    """The names of all files that are replaced."""
    return frozenset(each.name for file in files for each in file.replaces)


def find_squash(files: Iterable[Migration], name: str) -> Migration | None:
    """The squash file that replaces the file of this name, if any."""
    return next((file for file in files if any(each.name == name for each in file.replaces)), None)


def cover(replaced: Sequence[Replaced], rows: Mapping[str, HistoryRow]) -> Coverage:
    """Compare the replaced files with a history.

    A file counts as run when its row is finished and has its checksum, or when it was a squash file and all files that
    it replaced count as run.
    """
    parts = [_cover_one(each, replaced, rows) for each in replaced if "/" not in each.path]
    extents = {part.extent for part in parts}
    extent: Extent = extents.pop() if len(extents) == 1 else "some"
    present = tuple(name for part in parts for name in part.present)
    absent = tuple(name for part in parts for name in part.absent)
    newest = next((part.newest for part in reversed(parts) if part.newest), None)
    return Coverage(extent, present, absent, newest)


def _cover_one(each: Replaced, replaced: Sequence[Replaced], rows: Mapping[str, HistoryRow]) -> Coverage:
    row = rows.get(each.name)
    if row is not None:
        is_run = row.executed_at is not None and row.checksum == each.checksum
        return Coverage("all", (each.name,), (), row) if is_run else Coverage("some", (), (each.name,), row)
    prefix = f"{each.path}/"
    below = [Replaced(other.path[len(prefix) :], other.checksum) for other in replaced if other.path.startswith(prefix)]
    part = cover(below, rows) if below else Coverage("none")
    return part if part.extent != "none" else Coverage("none", (), (each.name,))
