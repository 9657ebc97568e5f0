"""Converts positions in a text: byte offsets, the server's character positions, lines and columns."""

from __future__ import annotations


def line_and_column(text: bytes, offset: int) -> tuple[int, int]:
    """Convert a byte offset to line and column, both counted from 1; columns count characters, as editors do."""
    line_start = text.rfind(b"\n", 0, offset) + 1
    return text.count(b"\n", 0, line_start) + 1, len(text[line_start:offset].decode(errors="replace")) + 1


def byte_offset(text: bytes, position: int) -> int:
    """Convert a position from the server, in characters counted from 1, to a byte offset."""
    return position - 1 if text.isascii() else len(text.decode()[: position - 1].encode())
