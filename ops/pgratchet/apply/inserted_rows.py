"""Finds the row of an INSERT that a violated constraint is about, by the values in the error's detail. Pure functions.

The detail of a check or of NOT NULL has all values of the row, in the order of the table's columns, each cut after 64
bytes. That of a key has its columns and their values (PostgreSQL's src/backend/executor/execMain.c, and
https://www.postgresql.org/docs/current/protocol-error-fields.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.migrations.statement import Token

_UNIQUE = ("23505", "23P01")
_KEYS = (*_UNIQUE, "23503")
_WHOLE_ROWS = ("23502", "23514")
_KEY = re.compile(r"\((.+?)\)=\((.*)\)", re.DOTALL)
_CONFLICT = re.compile(r"\((.+?)\)=\((.*)\) .*\(\1\)=\(", re.DOTALL)
_ROW = re.compile(r"(?:\([^()]*\) = )?\((.*)\)", re.DOTALL)
_CUT = 64
"""Bytes of a value that the server shows."""
_CONSTANTS = {"NULL": "null", "TRUE": "t", "FALSE": "f"}


@dataclass(frozen=True, slots=True)
class InsertedRow:
    """A row of VALUES: its offset, and the texts of its values; None for an expression."""

    start: int
    values: tuple[str | None, ...]


def find_row(tokens: Sequence[Token], diagnosis: Diagnosis) -> int | None:
    """Return the offset of the row of an INSERT that an error is about; None when no single row fits."""
    if tokens[0].word != "INSERT" or diagnosis.sqlstate not in (*_KEYS, *_WHOLE_ROWS):
        return None
    words = [token.word for token in tokens]
    if "VALUES" not in words:
        return None
    begin = words.index("VALUES")
    rows = list(_read_rows(tokens[begin + 1 :]))
    if diagnosis.sqlstate in _KEYS:
        row = _find_by_key(rows, _read_columns(tokens[:begin]), diagnosis)
    else:
        row = _find_by_values(rows, diagnosis.detail)
    return row.start if row else None


def _read_columns(tokens: Sequence[Token]) -> list[str]:
    """The names in the list of columns; none without a list."""
    words = [token.word for token in tokens]
    if "(" not in words:
        return []
    names = tokens[words.index("(") + 1 :]
    return [each.raw.strip('"') if each.word == '"' else each.raw.lower() for each in names if each.word not in "(),"]


def _read_rows(tokens: Sequence[Token]) -> Iterator[InsertedRow]:
    """The rows in parentheses behind VALUES."""
    depth, start = 0, 0
    values: list[list[Token]] = []
    for token in tokens:
        if depth == 0 and token.word not in "(,":
            return
        depth += (token.word == "(") - (token.word == ")")
        if depth == 1 and token.word == "(" and not values:
            start, values = token.start, [[]]
        elif depth == 0 and token.word == ")":
            yield InsertedRow(start, tuple(map(_read_literal, values)))
            values = []
        elif depth == 1 and token.word == ",":
            values.append([])
        elif values:
            values[-1].append(token)


def _read_literal(tokens: Sequence[Token]) -> str | None:
    """The text of a literal, as the server shows it; None for another expression."""
    words = [token.word for token in tokens]
    if words[1:3] == [":", ":"] or words[2:4] == [":", ":"]:  # a cast
        tokens = tokens[: words.index(":")]
    elif len(tokens) == 2 and words[1] == "'":  # a type before the literal
        tokens = tokens[1:]
    text = "".join(token.raw for token in tokens)
    if len(tokens) == 1 and text.startswith("'"):
        return text[1:-1].replace("''", "'")
    if len(tokens) == 1 and tokens[0].word in _CONSTANTS:
        return _CONSTANTS[tokens[0].word]
    return text if re.fullmatch(r"-?[0-9.]+", text) else None


def _find_by_key(rows: Sequence[InsertedRow], columns: Sequence[str], diagnosis: Diagnosis) -> InsertedRow | None:
    """The row with this key. Of two equal unique keys the second is in the way of the first."""
    match = _CONFLICT.search(diagnosis.detail) or _KEY.search(diagnosis.detail)
    if match is None:
        return None
    names, values = [name.strip('"') for name in match[1].split(", ")], match[2].split(", ")
    if len(names) != len(values):
        return None
    is_mapped = set(names) <= set(columns)
    fitting = [row for row in rows if _has_key(row, [columns.index(n) for n in names] if is_mapped else None, values)]
    if diagnosis.sqlstate in _UNIQUE:
        return fitting[1] if len(fitting) == 2 else _only(fitting)
    return fitting[0] if fitting and is_mapped else _only(fitting)


def _has_key(row: InsertedRow, indexes: Sequence[int] | None, key: Sequence[str]) -> bool:
    """Return whether a row has the values of a key: at these indexes, or anywhere."""
    if indexes is None:
        return set(key) <= set(row.values)
    return max(indexes) < len(row.values) and [row.values[index] for index in indexes] == list(key)


def _find_by_values(rows: Sequence[InsertedRow], detail: str) -> InsertedRow | None:
    """The only row whose values are in the detail in their order, or the only one with most values in it."""
    match = _ROW.search(detail)
    if match is None:
        return None
    shown = f", {match[1]}, "
    texts = [[_cut(value) for value in row.values if value is not None] for row in rows]
    whole = [row for row, known in zip(rows, texts, strict=True) if known and f", {', '.join(known)}, " in shown]
    if row := _only(whole):
        return row
    counts = [sum(f", {value}, " in shown for value in known) for known in texts]
    most = max(counts, default=0)
    return _only([row for row, count in zip(rows, counts, strict=True) if count == most]) if most else None


def _cut(value: str) -> str:
    raw = value.encode()
    return value if len(raw) <= _CUT else raw[:_CUT].decode(errors="ignore") + "..."


def _only(rows: Sequence[InsertedRow]) -> InsertedRow | None:
    return rows[0] if len(rows) == 1 else None
