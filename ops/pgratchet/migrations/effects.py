"""Finds the object created or dropped by a statement outside a transaction, to look for in the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pgratchet.migrations.classify import concurrent_command, outside_transaction, words_after_options
from pgratchet.migrations.lexer import read_tokens
from pgratchet.migrations.names import find_word, read_name, skip_if_exists
from pgratchet.migrations.statement import Statement, Token

_SIMPLE_KINDS: tuple[Literal["database", "tablespace", "subscription"], ...] = (
    "database",
    "tablespace",
    "subscription",
)


@dataclass(frozen=True, slots=True)
class Effect:
    """An object created or dropped by a statement.

    `name` is as in the file, for the server to read: with dots and quotes, and its case not yet folded. `table` is the
    table of a new index, or the parent of a detached partition; a DROP INDEX has no table.
    """

    kind: Literal["index", "database", "tablespace", "subscription", "partition"]
    creates: bool
    name: str
    table: str = ""


def find_effect(text: bytes, statement: Statement) -> Effect | None:
    """Return the effect of a statement of `text`; None when the catalog cannot show an effect."""
    head = statement.head
    command = concurrent_command(statement)
    if command == "DETACH PARTITION":
        return _detached_partition(read_tokens(text, statement))
    if command in ("CREATE INDEX", "DROP INDEX"):
        return _index(read_tokens(text, statement), creates=head[0] == "CREATE")
    for kind in _SIMPLE_KINDS:
        if head[0] in ("CREATE", "DROP") and head[1:2] == (kind.upper(),) and len(head) > 2:
            tokens = read_tokens(text, statement)
            return Effect(kind, head[0] == "CREATE", read_name(tokens, skip_if_exists(tokens, 2))[0])
    return None


def find_reindexed(text: bytes, statement: Statement) -> tuple[str, str] | None:
    """Return the object of a REINDEX ... CONCURRENTLY: INDEX, TABLE, SCHEMA, DATABASE or SYSTEM, and the name.

    The name can be empty. None for other statements.
    """
    if outside_transaction(statement) != "REINDEX CONCURRENTLY":
        return None
    kind = words_after_options(statement.head)[0]
    tokens = read_tokens(text, statement)
    index = find_word(tokens, kind, find_word(tokens, ")") if tokens[1].word == "(" else 0) + 1
    index += [token.word for token in tokens[index : index + 1]] == ["CONCURRENTLY"]  # or in the options
    return kind, read_name(tokens, index)[0] if index < len(tokens) else ""


def _index(tokens: Sequence[Token], *, creates: bool) -> Effect:
    name, end = read_name(tokens, skip_if_exists(tokens, find_word(tokens, "CONCURRENTLY") + 1))
    if not creates:
        return Effect("index", False, name)
    end += 2 if tokens[end + 1].word == "ONLY" else 1
    return Effect("index", True, name, read_name(tokens, end)[0])


def _detached_partition(tokens: Sequence[Token]) -> Effect:
    start = skip_if_exists(tokens, 2)
    table, end = read_name(tokens, start + 1 if tokens[start].word == "ONLY" else start)
    return Effect("partition", False, read_name(tokens, find_word(tokens, "PARTITION", end) + 1)[0], table)
