"""Writes into adopted files which repeatables they need. Pure.

Liquibase runs a changeset with runOnChange among the others, and so a later changeset can use what it makes. Here
repeatables run behind the versioned files, unless a file requires one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pgratchet.adopt.conversion import ConvertedFile, converted_file
from pgratchet.adopt.tools.tool import ToolMigration, statements_of
from pgratchet.migrations.created_objects import created_names
from pgratchet.migrations.statement import LexicalError


def with_requirements(
    files: Sequence[ToolMigration], converted: Mapping[int, ConvertedFile]
) -> dict[int, ConvertedFile]:
    """Our files by their place in the tool's order, each with a directive for every repeatable before it that it uses.

    `files` are in the tool's order. A file that a person wrote stays as it is.
    """
    creators: list[tuple[str, re.Pattern[str]]] = []
    finished = {}
    for place, file in enumerate(files):
        ours = converted.get(place)
        if ours is None:
            continue
        if ours.is_repeatable:
            creators += [(ours.name, pattern) for pattern in _names_in(ours.body)]
        elif creators and not ours.is_mended:
            required = [name for name, pattern in creators if _uses(file.up, pattern)]
            ours = _requiring(ours, required)
        finished[place] = ours
    return finished


def _names_in(body: bytes) -> list[re.Pattern[str]]:
    """A pattern of the names of all objects that a text creates; none for unreadable SQL and other text."""
    try:
        names = set(created_names(body))
    except LexicalError:
        return []
    return [re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(names)))})(?!\w)", re.IGNORECASE)] if names else []


def _uses(text: str, pattern: re.Pattern[str]) -> bool:
    content = text.encode()
    return any(pattern.search(content[each.start : each.end].decode()) for each in statements_of(text))


def _requiring(file: ConvertedFile, names: Sequence[str]) -> ConvertedFile:
    if not names:
        return file
    head = "".join(f"-- migrate: after={name}.sql\n" for name in names)
    return converted_file(file.name, head.encode() + file.body)
