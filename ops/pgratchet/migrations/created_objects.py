"""Finds the names of the objects that a text creates, and whether another text drops one of them. Pure functions.

Names are compared as words: neither schemas nor arguments of functions count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from pgratchet.migrations.lexer import read_tokens, split_statements
from pgratchet.migrations.names import read_name, skip_if_exists
from pgratchet.migrations.statement import Token

_KINDS = ("VIEW", "FUNCTION", "PROCEDURE", "AGGREGATE", "TYPE", "DOMAIN", "SCHEMA", "TABLE", "SEQUENCE", "TRIGGER")
_BETWEEN = ("OR", "REPLACE", "TEMP", "TEMPORARY", "RECURSIVE", "MATERIALIZED", "CONSTRAINT", "UNLOGGED")
"""Words between CREATE and the kind of the object."""
_DROP = re.compile(r"\bdrop\b", re.IGNORECASE)


def created_names(text: bytes) -> Iterator[str]:
    """Yield the names of the objects that a text creates, without schemas and quotes."""
    for statement in split_statements(text):
        if statement.head[0] == "CREATE" and (name := _created_name(read_tokens(text, statement))):
            yield last_part(name)


def may_drop(text: bytes, names: Collection[str]) -> bool:
    """Return whether a text has the word DROP and one of the names: it may drop the object, also in a DO block."""
    content = text.decode()
    if not names or not _DROP.search(content):
        return False
    words = "|".join(map(re.escape, names))
    return bool(re.search(rf"(?<!\w)({words})(?!\w)", content, re.IGNORECASE))


def last_part(name: str) -> str:
    """Return a name without its schema, as the server shows it."""
    last = name.rpartition(".")[2]
    return last[1:-1] if last.startswith('"') else last.lower()


def _created_name(tokens: Sequence[Token]) -> str | None:
    index = 1
    while index < len(tokens) and tokens[index].word in _BETWEEN:
        index += 1
    if index + 1 >= len(tokens) or tokens[index].word not in _KINDS:
        return None
    return read_name(tokens, skip_if_exists(tokens, index + 1))[0]
