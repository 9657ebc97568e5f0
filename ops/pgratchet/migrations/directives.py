"""Directives: `-- migrate:` comments above the first statement, with options for the file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pgratchet.migrations import squashed
from pgratchet.migrations.files import FileMistake

_DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>ms|s|min|h)?")
_UNIT_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, None: 1}
_LARGEST_MS = 2**31 - 1
_REQUIRED = re.compile(r"(?P<name>repeatable/[A-Za-z0-9_.-]+?)(\.sql)?")

_COMMENT = re.compile(r"--\s*(?P<mark>migrate)\s*:\s*(?P<text>.*?)\s*", re.IGNORECASE)
_EXAMPLES = {
    "no-transaction": "no-transaction",
    "lock-timeout": "lock-timeout=10s",
    "statement-timeout": "statement-timeout=0",
    "empty": "empty",
    "after": "after=repeatable/x.sql",
    "phase": "phase=contract",
}
"""The directives that people write, each with an example. `adopt` writes `stand-in`, `squash` writes `replaces`."""


Phase = Literal["expand", "contract"]


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives of a file. Timeouts are in milliseconds; None keeps the default, 0 means no timeout.

    A stand-in keeps the place of an adopted migration that cannot run here. It is never run. An empty file holds no
    statement on purpose. `after` are the names of the repeatables that the file requires. A contract file removes
    what the application used before a release, so it runs after the release.
    """

    transactional: bool = True
    lock_timeout: int | None = None
    statement_timeout: int | None = None
    stand_in: bool = False
    empty: bool = False
    after: tuple[str, ...] = ()
    phase: Phase = "expand"


def find_directive(comment: str) -> str | None:
    """Return the directive in a comment, right or wrong; None for an ordinary comment.

    `-- Migrate: users into accounts` is ordinary. A single word, an option, and what resembles a directive are not, so
    that a slip of the pen is not ignored.
    """
    match = _COMMENT.fullmatch(comment)
    if match is None:
        return None
    text = match["text"]
    is_option = "=" in text or (match["mark"] == "migrate" and " " not in text)
    return text if is_option or _resembles_directive(text) else None


def _resembles_directive(text: str) -> bool:
    import difflib

    words = re.split(r"[\s_-]+", text.lower())
    candidates = [words[0], "-".join(words[:2])] if len(words) > 2 else ["-".join(words)]
    # `Migrate: empty the queue` is a sentence.
    names = [name for name in _EXAMPLES if "-" in name or len(words) == 1]
    return any(difflib.get_close_matches(candidate, names, n=1, cutoff=0.8) for candidate in candidates)


def parse_directives(
    comments: Iterable[tuple[int, str]], first_statement: int
) -> tuple[Directives, list[tuple[int, str]]]:
    """Parse directives, each with a byte offset; returns the result and the mistakes, each with an offset.

    `first_statement` is the offset of the first statement.
    """
    directives, mistakes, names = Directives(), list[tuple[int, str]](), set[str]()
    for offset, text in comments:
        name = directive_name(text)
        if offset > first_statement:
            mistakes.append((offset, "a directive below the first statement. Put it above all statements."))
            continue
        key = text.strip() if name in ("after", "replaces") else name
        if key in names:
            mistakes.append((offset, f'the directive "{key}" is there twice. Remove one of them.'))
        names.add(key)
        try:
            directives = _apply(directives, text)
        except FileMistake as mistake:
            mistakes.append((offset, str(mistake)))
    return directives, mistakes


_WITHOUT_VALUE: dict[str, dict[str, Any]] = {
    "no-transaction": {"transactional": False},
    "stand-in": {"stand_in": True},
    "empty": {"empty": True},
}
"""The fields that a directive without a value sets."""


def directive_name(text: str) -> str:
    return text.partition("=")[0].strip()


def parse_phase(text: str) -> Phase:
    """Return the phase of that name; FileMistake for other texts."""
    for phase in get_args(Phase):
        if text == phase:
            return phase  # type: ignore[no-any-return]
    raise FileMistake(f'"{text}" is not a phase. Write phase=expand or phase=contract.')


def _require_replaced(text: str) -> None:
    """Raise FileMistake for a text that does not name a replaced file."""
    if not squashed.is_valid(text):
        raise FileMistake(f'"{text}" names no replaced file. `invoke squash` writes these lines: put them back.')


def parse_required(text: str) -> str:
    """Return the name of the repeatable that the value of an `after` names; FileMistake for other texts."""
    match = _REQUIRED.fullmatch(text)
    if match is None:
        raise FileMistake(f'"{text}" names no repeatable migration. Write after=repeatable/x.sql.')
    return match["name"]


def _apply(directives: Directives, text: str) -> Directives:
    name, _, value = text.strip().partition("=")
    if name in _WITHOUT_VALUE and not value:
        return replace(directives, **_WITHOUT_VALUE[name])
    if name == "lock-timeout":
        return replace(directives, lock_timeout=parse_duration(value))
    if name == "phase":
        return replace(directives, phase=parse_phase(value))
    if name == "replaces":
        _require_replaced(value)
        return directives  # the plan reads them with the file
    if name == "after":
        return replace(directives, after=(*directives.after, parse_required(value)))
    if name == "statement-timeout":
        return replace(directives, statement_timeout=parse_duration(value))
    raise FileMistake(f'unknown directive "{text.strip()}". Known are {", ".join(_EXAMPLES.values())}.')


def parse_duration(text: str) -> int:
    """Convert a duration such as 500ms, 10s or 5min to milliseconds; FileMistake for other texts."""
    match = _DURATION.fullmatch(text)
    if match is None or int(match["number"]) * _UNIT_MS[match["unit"]] > _LARGEST_MS:
        raise FileMistake(f'"{text}" is not a valid duration. Write 500ms, 10s, 5min or 0 for none.')
    return int(match["number"]) * _UNIT_MS[match["unit"]]
