"""Reads the names of objects from a statement's tokens, in a form that the server's own functions understand.

No rule here folds case or shortens a name: this depends on the database's encoding, so `to_regclass` and `parse_ident`
do it (https://www.postgresql.org/docs/current/functions-info.html).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgratchet.migrations.statement import Token


def read_name(tokens: Sequence[Token], index: int) -> tuple[str, int]:
    """Read a name with dots; returns the name, without U&, comments and spaces, and the index behind it."""
    name, index = _read_part(tokens, index)
    while index + 1 < len(tokens) and tokens[index].word == ".":
        part, index = _read_part(tokens, index + 1)
        name += "." + part
    return name, index


def skip_if_exists(tokens: Sequence[Token], index: int) -> int:
    """Return the index behind IF EXISTS or IF NOT EXISTS at `index`, or `index`."""
    words = [token.word for token in tokens[index : index + 3]]
    if words == ["IF", "NOT", "EXISTS"]:
        return index + 3
    return index + 2 if words[:2] == ["IF", "EXISTS"] else index


def find_word(tokens: Sequence[Token], word: str, start: int = 0) -> int:
    """Return the index of a keyword; ValueError when it is missing."""
    return [token.word for token in tokens].index(word, start)


def _read_part(tokens: Sequence[Token], index: int) -> tuple[str, int]:
    raw = tokens[index].raw
    if raw[:3].upper() != 'U&"':
        return raw, index + 1
    escape = "\\"
    if [token.word for token in tokens[index + 1 : index + 3]] == ["UESCAPE", "'"]:
        escape = tokens[index + 2].raw[1:-1]
        index += 2
    name = _unescape(raw[3:-1].replace('""', '"'), escape)
    return '"{}"'.format(name.replace('"', '""')), index + 1


def _unescape(text: str, escape: str) -> str:
    """Replace the escapes of a U&"..." name."""
    mark = re.escape(escape)
    pattern = re.compile(f"{mark}(?:([0-9A-Fa-f]{{4}})|\\+([0-9A-Fa-f]{{6}})|{mark})")
    characters = pattern.sub(lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else escape, text)
    return characters.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
