"""Proves that migrations only add, for the policy when-destructive, which then takes no backup.

A statement that may call a function of a user may do anything. So a statement only adds when its words prove two
things: it changes and removes no object or row, and it evaluates nothing but constants and built-in functions. A new
table has no rows, so its defaults and checks are not evaluated. Rows fire triggers, and evaluate defaults, checks and
the expressions of indexes; rows are proven to only add when the same run has created their table, without any of these.
After CREATE TABLE IF NOT EXISTS this holds unless the table exists before the run, which the server knows.

The server's event triggers, which run with every DDL statement, are a question for the server and not for this module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from pgratchet.migrations.classify import copies_from_client
from pgratchet.migrations.lexer import read_tokens
from pgratchet.migrations.names import skip_if_exists
from pgratchet.migrations.statement import Statement, Token
from pgratchet.migrations.table_parts import (
    Cursor,
    split_elements,
    take_constant,
    take_plain_column,
    take_plain_constraint,
)

_PERSISTENCE = frozenset(("GLOBAL", "LOCAL", "TEMP", "TEMPORARY", "UNLOGGED"))
_CREATED = (
    *("DOMAIN", "SEQUENCE", "VIEW", "FUNCTION", "PROCEDURE", "OPERATOR", "COLLATION", "ROLE", "POLICY"),
    *("CAST", "DATABASE", "USER"),
)
"""Kinds of objects whose creation evaluates nothing."""
_HARMLESS = ("COMMENT", "GRANT", "SET", "RESET", "SAVEPOINT", "RELEASE")
# Extensions of PostgreSQL itself whose scripts only create their own objects.
_EXTENSIONS = frozenset(
    (
        *("pgcrypto", "uuid-ossp", "citext", "hstore", "ltree", "pg_trgm", "btree_gin", "btree_gist", "unaccent"),
        *("intarray", "tablefunc", "fuzzystrmatch", "cube", "earthdistance", "isn", "pg_stat_statements"),
        *("postgres_fdw", "dblink", "plpgsql"),
    )
)
_EVALUATING_VACUUM = frozenset(("FULL", "ANALYZE", "ANALYSE"))


class AdditionProof:
    """Judges the statements of a run one after the other, as it remembers the tables that the run has created.

    `required_absent` are the tables that must not exist before the run for the proof to hold.
    """

    def __init__(self) -> None:
        self.required_absent: set[str] = set()
        self._own_tables: set[str] = set()
        self._perhaps_existing: set[str] = set()
        self._has_set = False

    def only_adds(self, text: bytes, statement: Statement) -> bool:
        """Return whether the next statement of the run, in the file `text`, is proven to only add."""
        piece = text[statement.start : statement.end].lower()
        if b"pg_temp" in piece:  # its types come before the built-in ones
            return False
        head = statement.head
        if head[0] == "INSERT" or copies_from_client(statement):
            return self._adds_rows(read_tokens(text, statement))
        if head[0] in ("SET", "RESET"):
            self._forget_tables()
            self._has_set = True
            return b"pg_catalog" not in piece  # otherwise pg_catalog comes first in every search_path
        if head[0] == "CREATE" and "REPLACE" not in head[:3]:
            return self._creates(read_tokens(text, statement))
        if head[:2] == ("ALTER", "TABLE"):
            return self._alters_table(read_tokens(text, statement))
        if head[:2] == ("ALTER", "TYPE"):
            return "ADD" in head and "VALUE" in head
        if head[0] == "VACUUM":
            return _EVALUATING_VACUUM.isdisjoint(token.word for token in read_tokens(text, statement))
        return head[0] in _HARMLESS

    def end_file(self) -> None:
        """The next statement is of another file, where the names of tables can mean others after a SET."""
        if self._has_set:
            self._forget_tables()
        self._has_set = False

    def _forget_tables(self) -> None:
        self._own_tables.clear()

    def _adds_rows(self, tokens: Sequence[Token]) -> bool:
        cursor = Cursor(tokens)
        copies = cursor.take("COPY")
        if not (copies or cursor.take("INSERT", "INTO")):
            return False
        table = _fold(cursor.read_name() or "")
        if table not in self._own_tables:
            return False
        self.required_absent |= self._perhaps_existing & {table}
        if copies:
            return "WHERE" not in [token.word for token in tokens]
        cursor.read_group()
        cursor.take_any((("OVERRIDING", "SYSTEM", "VALUE"), ("OVERRIDING", "USER", "VALUE")))
        if not (cursor.take("DEFAULT", "VALUES") or _take_rows(cursor)):
            return False
        if cursor.take("ON", "CONFLICT"):
            cursor.take_columns()
            return cursor.take("DO", "NOTHING") and cursor.at_end
        return cursor.at_end

    def _creates(self, tokens: Sequence[Token]) -> bool:
        tokens = [tokens[0], *_without_persistence(tokens[1:])]
        kind = tokens[1].word if len(tokens) > 1 else ""
        if kind == "TABLE":
            return self._creates_table(tokens)
        if kind in ("INDEX", "UNIQUE"):
            return _is_plain_index(tokens)
        self._forget_tables()
        words = [token.word for token in tokens]
        if kind == "TYPE":
            cursor = Cursor(tokens[2:])
            return cursor.take_name() and cursor.take("AS") and (cursor.take("ENUM") or cursor.take("("))
        if kind == "MATERIALIZED":
            return words[-3:] == ["WITH", "NO", "DATA"]
        if kind == "EXTENSION":
            name = tokens[skip_if_exists(tokens, 2)].raw
            return name.strip('"') in _EXTENSIONS
        if kind == "SCHEMA":
            return words.count("CREATE") == 1 and "GRANT" not in words
        if kind == "STATISTICS":
            return "(" not in words[words.index("ON") :] if "ON" in words else False
        return kind in _CREATED or words[1:3] == ["RECURSIVE", "VIEW"]

    def _creates_table(self, tokens: Sequence[Token]) -> bool:
        start = skip_if_exists(tokens, 2)
        cursor = Cursor(tokens[start:])
        name, group = cursor.read_name(), cursor.read_group()
        if name is None or group is None or not _has_plain_tail(cursor):
            self._forget_tables()
            return False
        elements = list(split_elements(group))
        if all(_is_plain_element(element) for element in elements):
            if start > 2 and _fold(name) not in self._own_tables:
                self._perhaps_existing.add(_fold(name))
            self._own_tables.add(_fold(name))
        else:
            self._forget_tables()
        return all(_is_harmless_when_empty(element) for element in elements)

    def _alters_table(self, tokens: Sequence[Token]) -> bool:
        cursor = Cursor(tokens[skip_if_exists(tokens, 2) :])
        cursor.take("ONLY")
        if not cursor.take_name():
            return False
        cursor.take("*")
        rest = cursor.rest()
        return bool(rest) and all(self._adds_to_table(action) for action in split_elements(rest))

    def _adds_to_table(self, action: Sequence[Token]) -> bool:
        words = [token.word for token in action]
        if words[:1] != ["ADD"]:
            return False
        if _is_plain_constraint(action[1:]):
            return True
        if "CHECK" in words[1:4] and words[-2:] == ["NOT", "VALID"]:
            self._forget_tables()  # new rows are checked
            return words[1] in ("CHECK", "CONSTRAINT")
        start = skip_if_exists(action, 2 if words[1:2] == ["COLUMN"] else 1)
        return take_plain_column(Cursor(action[start:]), new_table=False)


def _fold(name: str) -> str:
    """Fold the case of a name without quotes, as far as every encoding does."""
    return name if '"' in name else re.sub("[A-Z]+", lambda match: match[0].lower(), name)


def _without_persistence(tokens: Sequence[Token]) -> list[Token]:
    skipped = 0
    while skipped < len(tokens) and tokens[skipped].word in _PERSISTENCE:
        skipped += 1
    return list(tokens[skipped:])


def _take_rows(cursor: Cursor) -> bool:
    """Take VALUES with rows of constants."""
    if not cursor.take("VALUES"):
        return False
    while (row := cursor.read_group()) is not None:
        if not all(_is_constant(value) for value in split_elements(row)):
            return False
        if not cursor.take(","):
            return True
    return False


def _is_constant(tokens: Sequence[Token]) -> bool:
    cursor = Cursor(tokens)
    return (cursor.take("DEFAULT") or take_constant(cursor, volatile=True)) and cursor.at_end


def _is_plain_constraint(tokens: Sequence[Token]) -> bool:
    return take_plain_constraint(Cursor(tokens))


def _is_plain_element(tokens: Sequence[Token]) -> bool:
    return _is_plain_constraint(tokens) or take_plain_column(Cursor(tokens), new_table=True)


def _is_harmless_when_empty(tokens: Sequence[Token]) -> bool:
    """Return whether an element of a new table evaluates nothing at its creation.

    The server plans the expressions of generated columns and of indexes, and so can evaluate functions of constants.
    """
    words = [token.word for token in tokens]
    generated = any(pair == ("AS", "(") for pair in pairwise(words))
    return not generated and words[0] != "LIKE" and "EXCLUDE" not in words[:3]


def _has_plain_tail(cursor: Cursor) -> bool:
    """Take what follows the columns of a new table."""
    while not cursor.at_end:
        if cursor.take("PARTITION", "BY") and cursor.take_name():
            matches = cursor.take_columns()
        elif cursor.take("WITH"):
            matches = cursor.read_group() is not None
        elif cursor.take("ON", "COMMIT"):
            matches = cursor.take_any((("DROP",), ("DELETE", "ROWS"), ("PRESERVE", "ROWS")))
        else:
            is_named = cursor.take_one_of(("TABLESPACE", "USING")) and cursor.take_name()
            matches = is_named or cursor.take("WITHOUT", "OIDS")
        if not matches:
            return False
    return True


def _is_plain_index(tokens: Sequence[Token]) -> bool:
    """Return whether a new index has columns only, and no condition but for tests for null."""
    words = [token.word for token in tokens]
    if "ON" not in words:
        return False
    cursor = Cursor(tokens[words.index("ON") + 1 :])
    cursor.take("ONLY")
    if not cursor.take_name() or (cursor.take("USING") and not cursor.take_name()) or not cursor.take_columns():
        return False
    while not cursor.at_end:
        if cursor.take("WHERE"):
            return _tests_for_null(cursor)
        matches = cursor.take_any((("NULLS", "DISTINCT"), ("NULLS", "NOT", "DISTINCT")))
        matches = matches or (cursor.take("INCLUDE") and cursor.take_columns())
        matches = matches or (cursor.take("WITH") and cursor.read_group() is not None)
        if not matches and not (cursor.take("TABLESPACE") and cursor.take_name()):
            return False
    return True


def _tests_for_null(cursor: Cursor) -> bool:
    """Take a condition of columns and of tests for null, which call no function."""
    while True:
        cursor.take("NOT")
        if not cursor.take_name():
            return False
        cursor.take_any((("IS", "NULL"), ("IS", "NOT", "NULL")))
        if not cursor.take_one_of(("AND", "OR")):
            return cursor.at_end
