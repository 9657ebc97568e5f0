"""Directives: `-- migrate:` comments above the first statement, with options for the file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pgratchet.migrations.files import FileMistake

_DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>ms|s|min|h)?")
_UNIT_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, None: 1}
_LARGEST_MS = 2**31 - 1

DIRECTIVE = re.compile(rb"--\s*migrate\s*:\s*(?P<text>.*)", re.IGNORECASE)
"""Matches a comment with a directive."""


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives of a file. Timeouts are in milliseconds; None keeps the default, 0 means no timeout."""

    transactional: bool = True
    lock_timeout: int | None = None
    statement_timeout: int | None = None


def parse_directives(
    comments: Iterable[tuple[int, str]], first_statement: int
) -> tuple[Directives, list[tuple[int, str]]]:
    """Parse directives, each with a byte offset; returns the result and the mistakes, each with an offset.

    `first_statement` is the offset of the first statement.
    """
    directives, mistakes = Directives(), list[tuple[int, str]]()
    for offset, text in comments:
        if offset > first_statement:
            mistakes.append((offset, "a directive below the first statement. Put it above all statements."))
            continue
        try:
            directives = _apply(directives, text)
        except FileMistake as mistake:
            mistakes.append((offset, str(mistake)))
    return directives, mistakes


def _apply(directives: Directives, text: str) -> Directives:
    name, _, value = text.strip().partition("=")
    if name == "no-transaction" and not value:
        return replace(directives, transactional=False)
    if name == "lock-timeout":
        return replace(directives, lock_timeout=parse_duration(value))
    if name == "statement-timeout":
        return replace(directives, statement_timeout=parse_duration(value))
    raise FileMistake(
        f'unknown directive "{text.strip()}". Known are no-transaction, lock-timeout=10s and statement-timeout=0.'
    )


def parse_duration(text: str) -> int:
    """Convert a duration such as 500ms, 10s or 5min to milliseconds; FileMistake for other texts."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match["number"]) * _UNIT_MS[match["unit"]] > _LARGEST_MS:
        raise FileMistake(f'"{text}" is not a valid duration. Write 500ms, 10s, 5min or 0 for none.')
    return int(match["number"]) * _UNIT_MS[match["unit"]]
