"""Finds what an error of the server is about in a migration's text. Pure functions.

The server gives a position for errors in names and syntax. For others, such as a violated constraint, the fields of the
error name objects, and the statement is searched for them: a name, a literal or a clause that it contains exactly once
(https://www.postgresql.org/docs/current/protocol-error-fields.html).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pgratchet.apply.diagnosis import Diagnosis
from pgratchet.apply.inserted_rows import find_row
from pgratchet.errors import Location
from pgratchet.migrations.files import Migration
from pgratchet.migrations.lexer import read_tokens, split_statements
from pgratchet.migrations.positions import location_at
from pgratchet.migrations.scripts import SIZE_LIMIT
from pgratchet.migrations.statement import Statement, Token

_CLAUSES: dict[str, tuple[tuple[str, ...], ...]] = {
    "22012": (("/",), ("%",), ("MOD",)),
    "23502": (("NOT", "NULL"),),
    "23503": (("REFERENCES",),),
    "23505": (("UNIQUE",), ("PRIMARY",)),
    "23514": (("CHECK",),),
}
"""The words of the clause that an error is about, by SQLSTATE."""
_CASTS = ((":", ":"), ("CAST",), ("USING",))
_CAST_ERRORS = ("22001", "22003", "22007", "22008", "22P02", "42846")
_SYNTAX_ERROR = "42601"
_CONSTRAINT_VIOLATED = "23"
_LONG = 10
"""The number of lines from which on a statement is said to be long."""


def locate_in_statement(migration: Migration, text: bytes, statement: Statement, diagnosis: Diagnosis) -> Location:
    """Locate what an error without a position is about: the statement's start when unknown, with its last line."""
    offset = find_in_statement(text, statement, diagnosis)
    location = location_at(migration, text, statement.start if offset is None else offset, diagnosis.sqlstate)
    lines = text.count(b"\n", statement.start, statement.end)
    if offset is not None or location.line is None or lines < _LONG:
        return location
    return replace(location, last_line=location.line + lines)


def find_in_statement(text: bytes, statement: Statement, diagnosis: Diagnosis) -> int | None:
    """Return the byte offset of what an error without a position is about; None when unknown."""
    if statement.rows or statement.end - statement.start > SIZE_LIMIT:
        return None
    tokens = read_tokens(text, statement)
    offset = _inside_code(text, statement, tokens, diagnosis)
    if offset is None:
        offset = find_row(tokens, diagnosis)
    if offset is None and not _is_about_a_row(tokens, diagnosis):
        offset = next((each for each in _candidates(tokens, diagnosis) if each is not None), None)
    return offset


def _is_about_a_row(tokens: Sequence[Token], diagnosis: Diagnosis) -> bool:
    """Return whether a statement violated a constraint that it does not declare: its names say little there."""
    return tokens[0].word == "INSERT" and (diagnosis.sqlstate or "").startswith(_CONSTRAINT_VIOLATED)


def _inside_code(text: bytes, statement: Statement, tokens: Sequence[Token], diagnosis: Diagnosis) -> int | None:
    """The offset in the code of a function or a DO, by the query that failed in it or by the number of its line.

    The server sends that query with a position in it where it does not find the code once in the text that was sent:
    the history's row has the whole text again.
    """
    for query, position in _forms(diagnosis.inner_query, diagnosis.inner_position):
        if text.count(query, statement.start, statement.end) == 1:
            return text.index(query, statement.start) + position
    if tokens[0].word != "DO" or diagnosis.do_line is None:
        return None
    code = next(token.start for token in tokens if token.word == "'")
    lines = text[code : statement.end].split(b"\n")
    if diagnosis.do_line > len(lines):
        return None
    line = lines[diagnosis.do_line - 1]
    before = sum(len(other) + 1 for other in lines[: diagnosis.do_line - 1])
    return code + before + len(line) - len(line.lstrip(b" \t"))


def _forms(query: str, position: int) -> Iterator[tuple[bytes, int]]:
    """A query as in dollar quotes, and as in single quotes: its bytes, and the offset of the position."""
    if query:
        yield query.encode(), len(query[: position - 1].encode())
    if "'" in query:
        yield query.replace("'", "''").encode(), len(query[: position - 1].replace("'", "''").encode())


def _candidates(tokens: Sequence[Token], diagnosis: Diagnosis) -> Iterator[int | None]:
    """The offsets of names, clauses and quoted words, the most certain first; None for each that is not there once."""
    for name in diagnosis.names:
        yield _find_name(tokens, name)
    clauses = _CASTS if diagnosis.sqlstate in _CAST_ERRORS else _CLAUSES.get(diagnosis.sqlstate or "", ())
    quoted = _find_name(tokens, diagnosis.quoted) if diagnosis.quoted else None
    if clauses is _CASTS:
        yield quoted
    for clause in clauses:
        yield _only([i for i in range(len(tokens)) if _words(tokens, i, len(clause)) == clause], tokens)
    yield quoted


def _words(tokens: Sequence[Token], index: int, count: int) -> tuple[str, ...]:
    return tuple(token.word for token in tokens[index : index + count])


def _find_name(tokens: Sequence[Token], name: str) -> int | None:
    """The offset of the only word, quoted name or string that has this text, or the last part of this name."""
    for text in dict.fromkeys((name, name.rpartition(".")[2])):
        matches = [i for i, token in enumerate(tokens) if token.raw.lower() == text or token.raw[1:-1] == text]
        if (offset := _only(matches, tokens)) is not None:
            return offset
    return None


def _only(indexes: Sequence[int], tokens: Sequence[Token]) -> int | None:
    return tokens[indexes[0]].start if len(indexes) == 1 else None


def find_unclosed(text: bytes, offset: int, diagnosis: Diagnosis) -> int | None:
    """Return the offset of the parenthesis that is still open at a syntax error; None when another thing is wrong.

    The server notices a missing parenthesis at the semicolon behind it, or at the end of the text.
    """
    rest = text[offset : offset + 1]
    if diagnosis.sqlstate != _SYNTAX_ERROR or rest not in (b";", b"") or len(text) > SIZE_LIMIT:
        return None
    statement = next((s for s in reversed(split_statements(text)) if s.start <= offset), None)
    unclosed: list[int] = []
    for token in read_tokens(text, statement) if statement else ():
        if token.start >= offset:
            break
        if token.word == "(":
            unclosed.append(token.start)
        elif token.word == ")" and unclosed:
            unclosed.pop()
    return unclosed[-1] if unclosed else None
