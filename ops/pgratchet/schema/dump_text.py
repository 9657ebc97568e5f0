"""The text of pg_dump's schema: its statements, and its lines in an order that does not depend on the dump."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgratchet.migrations import lexer

_SESSION_STATEMENTS = ("SET", "SELECT")
"""Statements of a dump without data that set up the restoring session. SELECT is set_config()."""
_META_COMMAND = re.compile(rb"(?m)^\\(un)?restrict .*$")
_PRIVATE_OPTION = re.compile(rb"(?<=[(])pg_attver='?\d+'?(, )?|, pg_attver='?\d+'?")
"""Debian's PostgreSQL 15 keeps an option of its own in pg_attribute; a pg_dump of an older version dumps it."""
_DUMPED_FROM = re.compile(rb"(?m)^-- Dumped from database version (\d+)")
_DEFINES_COLUMNS = re.compile(r"CREATE (UNLOGGED |FOREIGN )?(TABLE|DOMAIN) ")
_NAMES_NOT_NULL = 18
"""The first major version that stores and dumps the names of NOT NULL constraints."""
ANY_NAME = re.compile(r' CONSTRAINT (?:"(?:[^"]|"")+"|[^\s"]+)(?= NOT NULL\b)')
AUTOMATIC_NAME = re.compile(r' CONSTRAINT (?:"(?:[^"]|"")*_not_null\d*"|[^\s"]*_not_null\d*)(?= NOT NULL\b)')
_SETS_OPTIONS = re.compile(rb"\s*ALTER (FOREIGN )?TABLE .* ALTER COLUMN .* SET \(.*\)", re.DOTALL)


def split(dump: bytes) -> list[bytes]:
    """The statements of a dump in its order, without settings of the session."""
    text = _META_COMMAND.sub(b"", dump)
    parsed = lexer.split_statements(text, rows=False)
    statements = [text[s.start : s.end] for s in parsed if s.head[0] not in _SESSION_STATEMENTS or _is_default(s.head)]
    public = (_PRIVATE_OPTION.sub(b"", s) if _SETS_OPTIONS.fullmatch(s) else s for s in statements)
    return [statement for statement in public if not statement.endswith(b" SET ()")]


def _is_default(head: Sequence[str]) -> bool:
    """Return whether a SET decides about later statements: where and how tables are stored."""
    return head[0] == "SET" and head[1:2] in (("DEFAULT_TABLESPACE",), ("DEFAULT_TABLE_ACCESS_METHOD",))


def lines(dump: bytes, left_out: Sequence[str] = (), ignored: re.Pattern[str] = AUTOMATIC_NAME) -> list[str]:
    """The lines of a dump's statements, sorted by statement, without settings and without the schemas `left_out`.

    `ignored` matches names of NOT NULL constraints. An automatic name is that of the table and column at the time: a
    table that was renamed keeps it, and a restore from a server without such names makes a new one.
    """
    ours = {f"CREATE SCHEMA {quoted}" for name in left_out for quoted in (name, f'"{name}"')}
    texts = (text for s in split(dump) if not (text := s.decode()).startswith("SET "))
    statements = sorted(ignored.sub("", text) if _DEFINES_COLUMNS.match(text) else text for text in texts)
    return [line for statement in statements if statement not in ours for line in f"{statement};".splitlines()]


def has_not_null_names(dump: bytes) -> bool:
    """Return whether the server of a dump stores the names of NOT NULL constraints."""
    match = _DUMPED_FROM.search(dump)
    return match is None or int(match[1]) >= _NAMES_NOT_NULL
