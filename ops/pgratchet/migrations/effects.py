"""Finds the object created or dropped by a statement outside a transaction, to look for in the catalog."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pgratchet.migrations.classify import concurrent_command, outside_transaction, reindex_words
from pgratchet.migrations.statement import Statement

_SIMPLE_KINDS: tuple[Literal["database", "tablespace", "subscription"], ...] = (
    "database",
    "tablespace",
    "subscription",
)
_TOKEN = re.compile(r"""--[^\n\r]*|"(?P<quoted>(?:[^"]|"")*)"|(?P<word>[^\W0-9][\w$]*)|(?P<dot>\.)|(?P<other>[^\s])""")
_BLOCK_COMMENT = re.compile(rb"/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Effect:
    """An object created or dropped by a statement.

    `name` has one part for each name between dots, in lower case unless quoted. `table` is the table of a new index, or
    the parent of a detached partition; a DROP INDEX has no table.
    """

    kind: Literal["index", "database", "tablespace", "subscription", "partition"]
    creates: bool
    name: tuple[str, ...]
    table: tuple[str, ...] = ()


class _Token(NamedTuple):
    text: str
    quoted: bool = False


def find_effect(text: bytes, statement: Statement) -> Effect | None:
    """Return the effect of a statement of `text`; None when the catalog cannot show an effect."""
    head = tuple(word for word in statement.head if word != "UNIQUE")
    command = concurrent_command(statement)
    if command == "DETACH PARTITION":
        return _detached_partition(list(_tokens(text, statement)))
    if command in ("CREATE INDEX", "DROP INDEX"):
        return _index(list(_tokens(text, statement)), creates=head[0] == "CREATE")
    for kind in _SIMPLE_KINDS:
        if head[0] in ("CREATE", "DROP") and head[1:2] == (kind.upper(),):
            tokens = list(_tokens(text, statement))
            return Effect(kind, head[0] == "CREATE", (tokens[_skip_if_exists(tokens, 2)].text,))
    return None


def find_reindexed(text: bytes, statement: Statement) -> tuple[str, tuple[str, ...]] | None:
    """Return the object of a REINDEX ... CONCURRENTLY: INDEX, TABLE, SCHEMA, DATABASE or SYSTEM, and the name.

    The name can be empty. None for other statements.
    """
    if outside_transaction(statement) != "REINDEX CONCURRENTLY":
        return None
    kind = reindex_words(statement.head)[0]
    tokens = list(_tokens(text, statement))
    index = tokens.index(_Token(kind.lower())) + 1
    index += tokens[index : index + 1] == [_Token("concurrently")]  # the option list can hold the keyword instead
    return kind, _read_name(tokens, index)[0] if index < len(tokens) else ()


def _index(tokens: list[_Token], *, creates: bool) -> Effect:
    start = _skip_if_exists(tokens, tokens.index(_Token("concurrently")) + 1)
    name, end = _read_name(tokens, start)
    if not creates:
        return Effect("index", False, name)
    end += 2 if tokens[end + 1] == _Token("only") else 1
    return Effect("index", True, name, _read_name(tokens, end)[0])


def _detached_partition(tokens: list[_Token]) -> Effect:
    start = _skip_if_exists(tokens, 2)
    table, end = _read_name(tokens, start + 1 if tokens[start] == _Token("only") else start)
    return Effect("partition", False, _read_name(tokens, tokens.index(_Token("partition"), end) + 1)[0], table)


def _skip_if_exists(tokens: list[_Token], index: int) -> int:
    while tokens[index] in (_Token("if"), _Token("not"), _Token("exists")):
        index += 1
    return index


def _read_name(tokens: list[_Token], index: int) -> tuple[tuple[str, ...], int]:
    """Read a name with dots; returns the parts and the index behind the name."""
    parts = [tokens[index].text]
    while index + 2 < len(tokens) and tokens[index + 1] == _Token("."):
        index += 2
        parts.append(tokens[index].text)
    return tuple(parts), index + 1


def _tokens(text: bytes, statement: Statement) -> Iterator[_Token]:
    """Yield names, dots and the first characters of other tokens of a statement: enough to find names."""
    for match in _TOKEN.finditer(_BLOCK_COMMENT.sub(b" ", text[statement.start : statement.end]).decode()):
        if match["quoted"] is not None:
            yield _Token(match["quoted"].replace('""', '"'), quoted=True)
        elif match["word"]:
            yield _Token(match["word"].lower())
        elif match["dot"] or match["other"]:
            yield _Token(match["dot"] or match["other"])
