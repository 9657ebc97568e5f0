"""Finds the lines in a migration that are for other programs: marks of other migration tools, and merge conflicts.

Several tools keep the SQL that undoes a migration in the same file, below a comment. Here the whole file runs. Only a
comment of exactly a tool's form counts, alone on its line, so a comment in prose may name a tool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgratchet.migrations.lexer import read_tokens, split_statements
from pgratchet.migrations.statement import LexicalError

_COMMENTS = (
    ("dbmate", r"migrate:(?:up|(?P<down>down))(?:\s+\w+:\w+)*"),
    ("goose", r"\+goose\s+(?:up|(?P<down>down)|statement(?:begin|end)|no transaction|envsub (?:on|off))"),
    ("liquibase", r"liquibase\s+formatted\s+sql\b.*"),
    ("MyBatis Migrations", r"(?://\s*)?@(?P<down>undo)"),
    ("node-pg-migrate", r"[\s-]*(?:up|(?P<down>down))\s+migration"),
    ("Play", r"[\s-]*!(?:ups|(?P<down>downs))"),
    ("rambler", r"rambler\s+(?:up|(?P<down>down))"),
    ("sql-migrate", r"\+migrate\s+(?:up|(?P<down>down)|statement(?:begin|end))(?:\s+notransaction)?"),
    ("sqitch", r"(?P<down>revert)\s+\S+:\S+\s+from\s+(?:pg|cockroach)"),
    ("tern", r"-*\s*create above / (?P<down>drop) below\s*-*"),
)
"""The comments of each tool, behind the first two hyphens. SQL that undoes the migration is below those of `down`."""
_PATTERNS = tuple((tool, re.compile(rf"--\s*{form}\s*", re.IGNORECASE)) for tool, form in _COMMENTS)
_ADOPTED = ("dbmate", "goose", "liquibase", "node-pg-migrate")
"""The tools that `adopt` knows, by its names for them."""
_LABELLED = (b"<<<<<<< ", b"||||||| ", b">>>>>>> ")
_CONFLICT = re.compile(rb"^(?:(?:<{7}|\|{7}|>{7}) \S.*|={7})$", re.MULTILINE)
"""The lines that `git merge` writes around the two texts. https://git-scm.com/docs/git-merge"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A comment that another tool reads. With `undoes`, that tool undoes the migration with the SQL below it."""

    tool: str
    text: str
    undoes: bool

    @property
    def reason(self) -> str:
        """Why a file with this comment is refused, and how to mend it."""
        if self.undoes:
            effect = f"{self.tool} undoes the migration with the SQL below this comment, which would run here too"
            return f"`{self.text}`: {effect}. Remove that SQL, and the comments for {self.tool}."
        return f"`{self.text}`: a comment for {self.tool}, without an effect here. Remove it, and SQL that undoes."

    @property
    def advice(self) -> str:
        """A line for a database that the tool has migrated; empty for a tool that `adopt` does not know."""
        if self.tool not in _ADOPTED:
            return ""
        return (
            f"If {self.tool} has migrated a database, move its files to a folder of their own instead, and run "
            f"`invoke adopt --from={self.tool} --files=DIR`. It writes each file without the part that undoes."
        )


def find_mark(comment: str) -> Mark | None:
    """Return the mark of another tool that a `--` comment is; None for any other comment."""
    for tool, pattern in _PATTERNS:
        if match := pattern.fullmatch(comment):
            return Mark(tool, comment.rstrip(), bool(match.groupdict().get("down")))
    return None


def begins_line(text: bytes, offset: int) -> bool:
    """Return whether only spaces are before the offset on its line."""
    return not text[text.rfind(b"\n", 0, offset) + 1 : offset].strip()


def find_conflict(text: bytes) -> int | None:
    """Return the offset of the first line of a merge conflict; None without a conflict.

    `=======` alone may be an ornament in a comment or a string, and counts outside of these only.
    """
    if b"=======" not in text and not any(mark in text for mark in _LABELLED):
        return None
    lines = [match.start() for match in _CONFLICT.finditer(text)]
    labelled = [start for start in lines if text[start] != ord("=")]
    return next(iter(labelled or [start for start in lines if _is_token(text, start)]), None)


def _is_token(text: bytes, offset: int) -> bool:
    try:
        around = [each for each in split_statements(text) if each.start <= offset < each.end]
    except LexicalError:
        return False
    return any(token.start == offset for each in around for token in read_tokens(text, each))
