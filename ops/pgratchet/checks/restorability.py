"""Finds functions that make a database impossible to restore: pg_restore runs them with an empty search_path.

The server's own validators parse a body under an empty search_path, and create nothing. The validator of PL/pgSQL does
not look at the names in SQL statements, so these are read from the body.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from pgratchet.checks.findings import Finding
from pgratchet.database import queries
from pgratchet.database.connection import first_line
from pgratchet.migrations import lexer
from pgratchet.migrations.statement import LexicalError, Statement, Token

_TIME_LIMIT = 5.0
"""Seconds after which the rest of the functions is not checked."""
_MISSING_NAME = ("42P01", "42883", "42704", "3F000")
_VALIDATORS = {"sql": "fmgr_sql_validator", "plpgsql": "plpgsql_validator"}
_BEFORE_RELATION = ("FROM", "JOIN", "UPDATE")
_FROM_WITHIN = ("EXTRACT", "SUBSTRING", "TRIM", "OVERLAY", "POSITION")
"""Functions with FROM between their arguments."""


def check_functions_of_restores(connection: psycopg.Connection) -> Iterator[Finding]:
    """Warn about functions that a restore runs and whose bodies need a search_path. Changes nothing."""
    deadline = time.monotonic() + _TIME_LIMIT
    with connection.transaction(force_rollback=True):
        (path,) = connection.execute("SELECT current_schemas(false)::text[]").fetchone() or ([],)
        connection.execute("SET LOCAL search_path = ''; SET LOCAL lock_timeout = '500ms'")
        connection.execute("SET LOCAL statement_timeout = '5s'; SET LOCAL check_function_bodies = on")
        rows = _query(connection, "functions")
        for number, (oid, function, language, body, user) in enumerate(rows):
            if time.monotonic() > deadline:
                what = f"{len(rows) - number} of {len(rows)} functions that a restore runs were not checked, for time"
                yield Finding("warning", "search_path", what, "Run `invoke drill`, which restores them.")
                return
            reason, schemas = _find_need(connection, oid, language, body, path)
            if reason:
                yield _finding(connection, function, user, reason, schemas)


def _finding(connection: psycopg.Connection, function: str, user: str, reason: str, schemas: Sequence[str]) -> Finding:
    what = f"{function}, which {user} runs, needs a search_path, and a restore has an empty one: {reason}"
    path = sql.SQL(", ").join([*map(sql.Identifier, schemas), sql.SQL("pg_temp")]).as_string(connection)
    return Finding("warning", "search_path", what, f"ALTER FUNCTION {function} SET search_path = {path};")


def _find_need(
    connection: psycopg.Connection, oid: int, language: str, body: str, path: Sequence[str]
) -> tuple[str, Sequence[str]]:
    """Why a body needs a search_path, and which; an empty text if it needs none. `path` is that of this session."""
    names = _read_names(body) if language == "plpgsql" else None
    if names and (rows := _query(connection, "unqualified", **names.as_lists())):
        schemas = {str(name): [str(schema) for each, schema in rows if each == name] for name, _ in rows}
        first = [next((each for each in path if each in places), places[0]) for places in schemas.values()]
        return f"its body does not qualify {', '.join(schemas)}", list(dict.fromkeys(first))
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"SELECT pg_catalog.{_VALIDATORS[language]}(%s::oid)".encode(), (oid,))
    except psycopg.Error as error:
        if connection.closed:
            raise
        return (first_line(error), path) if error.sqlstate in _MISSING_NAME else ("", ())
    return "", ()


@dataclass(slots=True)
class _Names:
    """Unqualified names in a body, by the kind of object that each stands for."""

    functions: set[str] = field(default_factory=set)
    relations: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.functions or self.relations or self.types)

    def as_lists(self) -> dict[str, list[str]]:
        return {"functions": sorted(self.functions), "relations": sorted(self.relations), "types": sorted(self.types)}


def _read_names(body: str) -> _Names:
    """Read the names that a PL/pgSQL body does not qualify. Text of dynamic statements is not read."""
    names, text = _Names(), body.encode()
    try:
        for part in lexer.scan(text):
            if isinstance(part, Statement):
                _read_statement(lexer.read_tokens(text, part), names)
    except LexicalError:
        return _Names()
    return names


def _read_statement(tokens: Sequence[Token], names: _Names) -> None:
    words = ["", "", *(token.word for token in tokens), ""]
    openers: list[str] = []
    for index, token in enumerate(tokens):
        words_before, word_after = words[index : index + 2], words[index + 3]
        if token.word == "(":
            openers.append(words_before[1])
        elif token.word == ")" and openers:
            openers.pop()
        if _is_name(token) and "." not in (words_before[1], word_after):
            _add_name(names, _fold(token.raw), words_before, word_after, openers[-1] if openers else "")
    for name, following, opening in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if following.word == "AS" and opening.word in ("(", "MATERIALIZED", "NOT"):  # WITH name AS (...)
            names.relations.discard(_fold(name.raw))


def _add_name(names: _Names, name: str, words_before: Sequence[str], word_after: str, opener: str) -> None:
    """Add a name by its place: behind a cast, before arguments, or where a statement names a relation."""
    second, before = words_before
    if before == ":" and second == ":":
        names.types.add(name)
    elif before == "INTO" and second == "INSERT":
        names.relations.add(name)
    elif word_after == "(":
        if before not in ("INTO", "TABLE", "JOIN", "AS", "WITH"):
            names.functions.add(name)
    elif before in _BEFORE_RELATION and not (before == "FROM" and (second == "DISTINCT" or opener in _FROM_WITHIN)):
        names.relations.add(name)


def _is_name(token: Token) -> bool:
    return token.raw[:1] == '"' or token.raw[:1].isalpha() or token.raw[:1] == "_"


def _fold(raw: str) -> str:
    return raw[1:-1].replace('""', '"') if raw.startswith('"') else raw.lower()


def _query(connection: psycopg.Connection, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(queries.load(__file__, "restorability")[name].encode(), values).fetchall()
