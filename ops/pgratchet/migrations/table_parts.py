"""Recognizes columns, constraints and constants that call no function of a user.

Recognized are the built-in types and functions, by name. An expression, a type of another name (it can be a domain with
a check) and an unknown option are not recognized. An operator class or a base type can hold code too, but only a
superuser can create these (https://www.postgresql.org/docs/current/sql-createopclass.html).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgratchet.migrations.names import read_name
from pgratchet.migrations.statement import Token

_TYPES = frozenset(
    (
        *("SMALLINT", "INT", "INTEGER", "BIGINT", "INT2", "INT4", "INT8", "DECIMAL", "NUMERIC", "REAL", "FLOAT"),
        *("FLOAT4", "FLOAT8", "BOOLEAN", "BOOL", "TEXT", "VARCHAR", "CHAR", "CHARACTER", "BPCHAR", "BYTEA", "NAME"),
        *("DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "TIMETZ", "INTERVAL", "UUID", "JSON", "JSONB", "JSONPATH", "XML"),
        *("INET", "CIDR", "MACADDR", "MACADDR8", "MONEY", "TSVECTOR", "TSQUERY", "BIT", "VARBIT", "OID"),
        *("POINT", "LINE", "LSEG", "BOX", "PATH", "POLYGON", "CIRCLE"),
        *("INT4RANGE", "INT8RANGE", "NUMRANGE", "TSRANGE", "TSTZRANGE", "DATERANGE"),
    )
)
_SERIAL = ("SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL4", "SERIAL8", "SERIAL2")
_TYPE_TAILS = (("PRECISION",), ("VARYING",), ("WITH", "TIME", "ZONE"), ("WITHOUT", "TIME", "ZONE"))
_VALUES = (
    *("NULL", "TRUE", "FALSE", "CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME"),
    *("CURRENT_USER", "SESSION_USER", "CURRENT_ROLE"),
)
_STABLE_FUNCTIONS = ("NOW", "TRANSACTION_TIMESTAMP", "STATEMENT_TIMESTAMP")
_VOLATILE_FUNCTIONS = ("GEN_RANDOM_UUID", "UUIDV7", "CLOCK_TIMESTAMP", "RANDOM")
_OPTIONS = (
    *(("NOT", "NULL"), ("NULL",), ("UNIQUE",), ("PRIMARY", "KEY"), ("NULLS", "DISTINCT"), ("NULLS", "NOT", "DISTINCT")),
    *(("DEFERRABLE",), ("NOT", "DEFERRABLE"), ("INITIALLY", "DEFERRED"), ("INITIALLY", "IMMEDIATE"), ("NOT", "VALID")),
    *(("MATCH", "FULL"), ("MATCH", "SIMPLE"), ("NO", "INHERIT")),
)
_ACTIONS = (("NO", "ACTION"), ("RESTRICT",), ("CASCADE",), ("SET", "NULL"), ("SET", "DEFAULT"))


class Cursor:
    """Reads tokens from left to right. `take` methods move on and return True where they find what they look for."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._words = [token.word for token in tokens]
        self._index = 0

    @property
    def at_end(self) -> bool:
        return self._index >= len(self._words)

    def take(self, *words: str) -> bool:
        end = self._index + len(words)
        if tuple(self._words[self._index : end]) != words:
            return False
        self._index = end
        return True

    def take_any(self, sequences: Sequence[tuple[str, ...]]) -> bool:
        return any(self.take(*words) for words in sequences)

    def take_one_of(self, words: Sequence[str] | frozenset[str]) -> bool:
        matches = not self.at_end and self._words[self._index] in words
        self._index += matches
        return matches

    def take_name(self) -> bool:
        return self.read_name() is not None

    def read_name(self) -> str | None:
        if self.at_end or not (self._words[self._index] == '"' or self._words[self._index][0].isidentifier()):
            return None
        name, self._index = read_name(self._tokens, self._index)
        return name

    def read_group(self) -> Sequence[Token] | None:
        """Return the tokens in parentheses; None where there are none."""
        if not self.take("("):
            return None
        start, depth = self._index, 1
        while depth and not self.at_end:
            depth += {"(": 1, ")": -1}.get(self._words[self._index], 0)
            self._index += 1
        return self._tokens[start : self._index - 1]

    def rest(self) -> Sequence[Token]:
        """Return the tokens that are left."""
        return self._tokens[self._index :]

    def take_columns(self) -> bool:
        """Take names in parentheses, each with options such as DESC or an operator class."""
        group = self.read_group()
        return bool(group) and all(token.word not in "()'" for token in group or ())

    def take_string(self) -> bool:
        """Take a string, which can continue on the next lines."""
        start = self._index
        while self.take("'"):
            pass
        return self._index > start

    def take_number(self) -> bool:
        matches = not self.at_end and self._words[self._index].isdecimal()
        self._index += matches
        return matches

    def take_exponent(self) -> bool:
        word = "" if self.at_end else self._words[self._index]
        matches = word[:1] == "E" and word[1:].isdecimal()
        self._index += matches
        return matches


def split_elements(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Split at the commas outside parentheses and brackets."""
    start = depth = 0
    for index, token in enumerate(tokens):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.word, 0)
        if token.word == "," and depth == 0:
            yield tokens[start:index]
            start = index + 1
    if tokens:
        yield tokens[start:]


def take_plain_column(cursor: Cursor, *, new_table: bool) -> bool:
    """Take a column. `new_table`: the default of a column is not evaluated for rows that exist."""
    if not cursor.take_name():
        return False
    if not (_take_type(cursor) or (new_table and cursor.take_one_of(_SERIAL))):
        return False
    while not cursor.at_end:
        matches = _take_option(cursor) or (cursor.take("DEFAULT") and take_constant(cursor, volatile=new_table))
        if not matches and not (new_table and _take_identity(cursor)):
            return False
    return True


def take_plain_constraint(cursor: Cursor) -> bool:
    """Take a table constraint: PRIMARY KEY, UNIQUE or FOREIGN KEY."""
    if cursor.take("CONSTRAINT") and not cursor.take_name():
        return False
    if cursor.take("FOREIGN", "KEY"):
        matches = cursor.take_columns()
    elif cursor.take_any((("PRIMARY", "KEY"), ("UNIQUE",))):
        cursor.take_any((("NULLS", "DISTINCT"), ("NULLS", "NOT", "DISTINCT")))
        matches = cursor.take_columns() or (cursor.take("USING", "INDEX") and cursor.take_name())
    else:
        return False
    while matches and not cursor.at_end:
        matches = _take_option(cursor) or (cursor.take("INCLUDE") and cursor.take_columns())
    return matches


def take_constant(cursor: Cursor, *, volatile: bool) -> bool:
    """Take a constant, or a call of a built-in function: `volatile` allows those with a new result for each row."""
    if cursor.take("("):
        matches = take_constant(cursor, volatile=volatile) and cursor.take(")")
    elif cursor.take("ARRAY", "["):
        matches = _take_array(cursor)
    else:
        matches = _take_simple_constant(cursor, volatile=volatile)
    while matches and cursor.take(":", ":"):
        matches = _take_type(cursor)
    return matches


def _take_simple_constant(cursor: Cursor, *, volatile: bool) -> bool:
    if cursor.take_one_of(_STABLE_FUNCTIONS + (_VOLATILE_FUNCTIONS if volatile else ())):
        return cursor.take("(", ")")
    if volatile and cursor.take("NEXTVAL", "("):
        return take_constant(cursor, volatile=False) and cursor.take(")")
    if cursor.take_one_of(_TYPES):  # such as DATE '2025-01-11'
        return cursor.take("'")
    return cursor.take_one_of(_VALUES) or cursor.take_string() or _take_number(cursor)


def _take_number(cursor: Cursor) -> bool:
    cursor.take_one_of("+-")
    if not cursor.take_number():
        return False
    if cursor.take("."):
        cursor.take_number()
    cursor.take_exponent()
    return True


def _take_array(cursor: Cursor) -> bool:
    if cursor.take("]"):
        return True
    matches = take_constant(cursor, volatile=False)
    while matches and cursor.take(","):
        matches = take_constant(cursor, volatile=False)
    return matches and cursor.take("]")


def _take_type(cursor: Cursor) -> bool:
    cursor.take("PG_CATALOG", ".")
    if not (cursor.take("DOUBLE", "PRECISION") or cursor.take_one_of(_TYPES)):
        return False
    cursor.take("VARYING")
    cursor.read_group()
    cursor.take_any(_TYPE_TAILS)
    cursor.take("ARRAY")
    while cursor.take("["):
        cursor.take_number()
        if not cursor.take("]"):
            return False
    return True


def _take_option(cursor: Cursor) -> bool:
    if cursor.take_any(_OPTIONS):
        return True
    if cursor.take("CONSTRAINT") or cursor.take("COLLATE") or cursor.take("USING", "INDEX", "TABLESPACE"):
        return cursor.take_name()
    if cursor.take("REFERENCES"):
        matches = cursor.take_name()
        cursor.take_columns()
        return matches
    if cursor.take("ON", "DELETE") or cursor.take("ON", "UPDATE"):
        return cursor.take_any(_ACTIONS)
    return False


def _take_identity(cursor: Cursor) -> bool:
    if not cursor.take_any((("GENERATED", "ALWAYS"), ("GENERATED", "BY", "DEFAULT"))):
        return False
    matches = cursor.take("AS", "IDENTITY")
    cursor.read_group()
    return matches
