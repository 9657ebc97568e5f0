"""Converts positions in a text: byte offsets, the server's character positions, lines and columns."""

from __future__ import annotations

from pgratchet.errors import Location
from pgratchet.migrations.files import Migration

_LONGEST_SOURCE = 1000
"""Bytes of a line that an error keeps on each side of its position: a line of a dump can be long."""


def location_at(migration: Migration, text: bytes, offset: int, sqlstate: str | None = None) -> Location:
    """Return the location of a byte offset in the text of a migration."""
    line, column = line_and_column(text, offset)
    start, end = text.rfind(b"\n", 0, offset) + 1, text.find(b"\n", offset)
    before = text[max(start, offset - _LONGEST_SOURCE) : offset]
    after = text[offset : min(end if end >= 0 else len(text), offset + _LONGEST_SOURCE)]
    before_text, after_text = (part.decode(errors="replace") for part in (before, after))
    return Location(migration.name, line, column, sqlstate, migration.path, before_text, after_text)


def line_and_column(text: bytes, offset: int) -> tuple[int, int]:
    """Convert a byte offset to line and column, both counted from 1; columns count characters, as editors do."""
    line_start = text.rfind(b"\n", 0, offset) + 1
    return text.count(b"\n", 0, line_start) + 1, len(text[line_start:offset].decode(errors="replace")) + 1


def byte_offset(text: bytes, position: int) -> int:
    """Convert a position from the server, in characters counted from 1, to a byte offset."""
    return position - 1 if text.isascii() else len(text.decode()[: position - 1].encode())
