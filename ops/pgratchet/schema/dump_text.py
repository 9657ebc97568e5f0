"""The text of pg_dump's schema: its statements, and its lines in an order that does not depend on the dump."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgratchet.migrations import lexer
from pgratchet.migrations.statement import Statement

NAME = r'(?:"(?:[^"]|"")+"|[^\s".()]+)'
"""A pattern for an identifier without its schema, as pg_dump writes it."""
_SESSION_STATEMENTS = ("SET", "SELECT", "RESET")
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
    text = without_meta_commands(dump)
    parsed = lexer.split_statements(text, rows=False)
    statements = (text[s.start : s.end] for s in parsed if not is_session_statement(s) or _is_default(s.head))
    public = (without_private_option(statement) for statement in statements)
    return [statement for statement in public if not statement.endswith(b" SET ()")]


def without_meta_commands(dump: bytes) -> bytes:
    """The text without psql's commands, which pg_dump writes with a random word."""
    return _META_COMMAND.sub(b"", dump)


def without_private_option(statement: bytes) -> bytes:
    """A statement without the option of columns that only Debian's PostgreSQL has."""
    return _PRIVATE_OPTION.sub(b"", statement) if _SETS_OPTIONS.fullmatch(statement) else statement


def is_session_statement(statement: Statement) -> bool:
    """Return whether a statement only sets up the restoring session."""
    return statement.head[0] in _SESSION_STATEMENTS


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


def unquote(name: str) -> str:
    """The name that an SQL identifier stands for."""
    return name[1:-1].replace('""', '"') if len(name) > 1 and name.startswith('"') and name.endswith('"') else name


def ignored_names(*dumps: bytes) -> re.Pattern[str]:
    """The names of NOT NULL constraints that are no difference between dumps."""
    return AUTOMATIC_NAME if all(map(has_not_null_names, dumps)) else ANY_NAME


def has_not_null_names(dump: bytes) -> bool:
    """Return whether the server of a dump stores the names of NOT NULL constraints."""
    major = major_version(dump)
    return major is None or major >= _NAMES_NOT_NULL


def major_version(dump: bytes) -> int | None:
    """The major version of the server that was dumped, if the dump says so."""
    match = _DUMPED_FROM.search(dump)
    return int(match[1]) if match else None
