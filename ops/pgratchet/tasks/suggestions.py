"""Guesses the meaning of a word of a command line that has none there."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePath

from pgratchet.tasks.flags import flag_name

FindValues = Callable[[str], Sequence[str]]
"""Returns the values that a flag can have in this project, as a shell completes them."""

_TASK_SYNONYMS = {
    **dict.fromkeys(("undo", "revert"), "rollback"),
    **dict.fromkeys(("apply", "deploy", "upgrade"), "migrate"),
    **dict.fromkeys(("create", "add", "make", "generate", "revision"), "new"),
    **dict.fromkeys(("check", "validate", "lint"), "ci"),
    **dict.fromkeys(("history", "info", "current", "log"), "status"),
    **dict.fromkeys(("help", "usage"), "--help"),
    **dict.fromkeys(("list", "tasks"), "--list"),
    "stop": "down",
    "start": "up",
    "dump": "backup",
    "version": "--version",
}
"""Words of other tools for tasks and for flags of the program."""

_FLAG_SYNONYMS = {
    "environment": "--env",
    "delete": "--remove",
    "purge": "--remove",
    "plan": "--dry-run",
    "preview": "--dry-run",
    "simulate": "--dry-run",
    "target": "--limit",
    "dir": "--sql",
    "folder": "--sql",
    "path": "--sql",
}
_NEVER_SIMILAR = (flag_name("yes"),)
"""Flags that answer a question. They are never suggested for another word."""

_FORMS = (
    ("--backup", re.compile(r"\d{8}T\d{6}-[0-9a-f]+")),
    ("--to", re.compile(r"(?P<value>.+)\.sql|\d+(T\d+)?([_-].*)?")),
    ("--run", re.compile(r"[0-9a-f]+")),
    ("--server", re.compile(r"docker:.+|bundled")),
)
"""The flags whose values are known by their form, for the last part of a path; `value` is what the flag takes of it."""


def similar(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was probably mistyped: without regard to dashes, case, the order of letters or an ending."""
    import difflib

    names = {name.lstrip("-"): name for name in words}
    word = word.strip("-_").replace("_", "-").lower()
    near = [name for name in names if sorted(name) == sorted(word)]
    near = near or difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    if not near and len(word) > 2:
        begun = [name for name in names if name.startswith(word)]
        near = begun if len(begun) == 1 else [name for name in names if len(name) > 2 and word.startswith(name)]
    return names[near[0]] if near else None


def similar_task(word: str, tasks: Iterable[str]) -> str | None:
    """Return the task, or the flag of the program, that a word in the place of a task means."""
    return _TASK_SYNONYMS.get(word.lower()) or similar(word, tasks)


def similar_flag(word: str, flags: Collection[str]) -> str | None:
    """Return the long flag that another one means."""
    exact = f"--{word.lstrip('-')}"
    if exact in flags:
        return exact
    known = [flag for flag in flags if flag.startswith("--") and flag not in _NEVER_SIMILAR]
    synonym = _FLAG_SYNONYMS.get(word.lstrip("-").lower())
    return synonym if synonym in known else similar(word, known)


def flag_for(word: str, flags: Sequence[str], find_values: FindValues) -> str | None:
    """Return the flag with its value, such as --env=prod, that a word without a flag means in a task."""
    name, equals, value = word.partition("=")
    if equals and (flag := similar_flag(name, flags)):
        return f"{flag}={value}"
    if flag := _flag_by_value(word, flags, find_values) or _flag_by_form(word, flags):
        return flag
    environment = similar(word, find_values("--env")) if "--env" in flags else None
    return f"--env={environment}" if environment else None


def _flag_by_value(word: str, flags: Sequence[str], find_values: FindValues) -> str | None:
    # --server before --env: `ci` has both, and the second one only for sizes
    known = [flag for flag in ("--server", "--env", "--from", "--template", "--limit") if flag in flags]
    known = [flag for flag in known if word in find_values(flag)]
    known += ["--sql"] if "--sql" in flags and Path(word).is_dir() else []
    known += ["--folder"] if "--folder" in flags else []
    return f"{known[0]}={word}" if known else None


def _flag_by_form(word: str, flags: Sequence[str]) -> str | None:
    last = PurePath(word).name
    for flag, form in _FORMS:
        if flag in flags and (match := form.fullmatch(last)):
            return f"{flag}={match.groupdict().get('value') or last}"
    return None
