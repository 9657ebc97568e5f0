"""Statements and comments of an SQL text, as the lexer returns them, and the lexer's error."""

from __future__ import annotations

from typing import NamedTuple


class Statement(NamedTuple):
    """A statement of a text, by offsets in bytes. `end` is exclusive, and before the semicolon.

    `head` holds the first tokens, at least one: words in upper case, a quote mark for each quoted name or string, and
    symbols unchanged. `rows` are the offsets of the data of a COPY ... FROM STDIN.
    """

    start: int
    end: int
    head: tuple[str, ...]
    rows: tuple[int, int] | None = None


class Token(NamedTuple):
    """A token: `word` in the form of `Statement.head`, `raw` as the file has it, `start` its offset in bytes."""

    word: str
    raw: str
    start: int = 0


class Comment(NamedTuple):
    """A `--` comment, by offsets in bytes, without the line end."""

    start: int
    end: int


class LexicalError(ValueError):
    """The text is not valid SQL for PostgreSQL. `offset` is in bytes; `hint` says how to fix the text."""

    def __init__(self, reason: str, offset: int, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.hint = hint
