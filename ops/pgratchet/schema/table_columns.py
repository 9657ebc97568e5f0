"""Splits pg_dump's CREATE TABLE into its columns, its constraints and what remains."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgratchet.migrations.lexer import read_tokens, split_statements
from pgratchet.migrations.statement import Token
from pgratchet.schema.dump_text import unquote

_CONSTRAINT = re.compile(r'CONSTRAINT (?P<name>"(?:[^"]|"")+"|\S+) ')


@dataclass(frozen=True, slots=True)
class TablePart:
    """A column or a constraint of a table. `name` is unquoted; `sql` is the definition."""

    name: str
    sql: str
    is_constraint: bool


def split_table(statement: str) -> tuple[str, tuple[TablePart, ...]]:
    """Split CREATE TABLE; returns the statement with empty parentheses, and the parts in their order."""
    text = statement.encode()
    parsed = split_statements(text, rows=False)[0]
    tokens = read_tokens(text, parsed)
    opening = next((i for i, token in enumerate(tokens) if token.word == "("), None)
    if opening is None or not any(token.word == "TABLE" for token in tokens[:opening]):
        return statement, ()
    commas, closing = _separators(tokens, opening)
    starts = [tokens[opening].start + 1, *(comma + 1 for comma in commas)]
    ends = [*commas, closing]
    definitions = [text[start:end].decode().strip() for start, end in zip(starts, ends, strict=True)]
    rest = text[closing + 1 :].decode().strip()
    head = f"{text[: tokens[opening].start].decode().rstrip()} ()"
    return f"{head} {rest}".rstrip(), tuple(_part(each) for each in definitions if each)


def _separators(tokens: list[Token], opening: int) -> tuple[list[int], int]:
    """The offsets of the commas between the parts, and of the closing parenthesis."""
    depth, commas = 0, list[int]()
    for token in tokens[opening:]:
        depth += (token.word in ("(", "[")) - (token.word in (")", "]"))
        if depth == 0:
            return commas, token.start
        if depth == 1 and token.word == ",":
            commas.append(token.start)
    return commas, tokens[-1].start


def _part(definition: str) -> TablePart:
    if match := _CONSTRAINT.match(definition):
        return TablePart(unquote(match["name"]), definition, is_constraint=True)
    match = re.match(r'"(?:[^"]|"")+"|\S+', definition)
    return TablePart(unquote(match[0]) if match else definition, definition, is_constraint=False)
