"""Sorts the entries of a migrations folder that are not migrations: mistakes, entries to name, and harmless ones.

A mistake looks like a migration and would not run: a name that begins with a version, or has .sql inside, under another
suffix or in a sub-folder. Documents, leftovers of editors and hidden entries are harmless. All others are named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from pgratchet.migrations.file_names import REPEATABLE_FOLDER, SCHEMA_FILE, right_name

_VERSION = re.compile(r"[vu]?[0-9][0-9t.]*([_. -]|$)", re.IGNORECASE)
_VERSION_FOLDER = re.compile(r"[vu]?[0-9][0-9t.]*(_|$)", re.IGNORECASE)
"""Without a hyphen, which the folders of backups have behind their time."""
_SQL = re.compile(r"\.(sql|pgsql|psql|plpgsql|plsql|ddl|dml)(?![a-z0-9])", re.IGNORECASE)
_LEFTOVERS = (".bak", ".old", ".orig", ".rej", ".save", ".swo", ".swp", ".tmp")
"""Suffixes of copies made by editors, by `patch` and by `git`."""
_DOCUMENTS = (".adoc", ".md", ".pdf", ".png", ".rst", ".svg", ".txt")
_DATA = (".csv", ".json", ".toml", ".tsv", ".yaml", ".yml")
_HARMLESS = re.compile(
    r"readme|license|licence|changelog|codeowners|owners|makefile|thumbs\.db|desktop\.ini|__init__\.py|__pycache__",
    re.IGNORECASE,
)
_CACHE = "__pycache__"
_SIMILAR_FOLDERS = (REPEATABLE_FOLDER, f"{REPEATABLE_FOLDER}s")
_MOST = 20_000
"""Entries of sub-folders to look at."""


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def has_its_own_meaning(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is the folder of the repeatable migrations, or the snapshot of the schema."""
    return entry.name == (REPEATABLE_FOLDER if entry.is_dir() else SCHEMA_FILE)


def mistake(entry: os.DirEntry[str]) -> str | None:
    """Return why an entry that looks like a migration is none, in sentences; None for any other entry."""
    name = entry.name
    if is_hidden(name) or name == _CACHE or has_its_own_meaning(entry):
        return None
    if entry.is_dir():
        if name.lower() in _SIMILAR_FOLDERS and (example := next(sql_below(entry.path), None)):
            return f"not read, and it holds {example}. Rename the folder to {REPEATABLE_FOLDER}."
        example = next(_migrations_below(entry.path), None)
        if example is None and not name.lower().endswith(".sql"):
            return None
        content = f", and {example} looks like a migration" if example else ""
        return f"sub-folders are not read{content}. Move its migrations up, or move it out of the migrations folder."
    if not _looks_like_migration(name):
        return None
    return f"looks like a migration, but its name does not end in .sql. {_advice(name)}"


def is_worth_naming(entry: os.DirEntry[str]) -> bool:
    """Return whether a user may expect that an entry is read, although it is neither a migration nor a mistake."""
    name = entry.name.lower()
    if (
        has_its_own_meaning(entry)
        or is_hidden(name)
        or _HARMLESS.match(name)
        or name.endswith("~")
        or re.fullmatch("#.*#", name)
    ):
        return False
    return entry.is_dir() or not name.endswith((".sql", *_DOCUMENTS))


def named_entries(folder: Path, expected: Collection[Path] = ()) -> tuple[str, ...]:
    """Return the names of the entries that are not read and are no mistakes; those of sub-folders end in a slash.

    `expected` are resolved paths of other folders of the project, which are left out.
    """
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if is_worth_naming(entry) and mistake(entry) is None]
    others = [entry for entry in named if Path(entry.path).resolve() not in expected]
    names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in others]
    if (below := folder / REPEATABLE_FOLDER).is_dir() and folder.name != REPEATABLE_FOLDER:
        names += (f"{REPEATABLE_FOLDER}/{name}" for name in named_entries(below, expected))
    return tuple(sorted(names))


def sql_below(path: str) -> Iterator[str]:
    """Yield the names of the SQL files in a folder and below it."""
    for _, folders, names in os.walk(path):
        folders[:] = sorted(each for each in folders if not is_hidden(each))
        yield from (name for name in sorted(names) if name.lower().endswith(".sql"))


def _looks_like_migration(name: str) -> bool:
    lower = name.lower()
    if lower.endswith(("~", "#", *_LEFTOVERS)):
        return False
    if _SQL.search(lower):
        return True
    suffixes = (*(suffix for suffix in _DOCUMENTS if suffix != ".txt"), *_DATA)
    return bool(_VERSION.match(lower)) and not lower.endswith(suffixes)


def _advice(name: str) -> str:
    stem = _SQL.split(name)[0] if _SQL.search(name) else Path(name).stem
    return f"Rename it to {right_name(f'{stem}.sql') or f'{stem}.sql'}, or move it out of the migrations folder."


def _migrations_below(path: str) -> Iterator[str]:
    """Yield the paths, from the sub-folder on, of files in it that look like migrations."""
    looked_at = 0
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(each for each in folders if not is_hidden(each) and each != _CACHE)
        looked_at += len(names)
        if looked_at > _MOST:
            return
        relative = os.path.relpath(folder, os.path.dirname(path))  # noqa: PTH120
        for name in sorted(names):
            is_versioned = _VERSION.match(name) or any(_VERSION_FOLDER.match(part) for part in relative.split("/"))
            if is_versioned and _SQL.search(name) and _looks_like_migration(name):
                yield f"{relative}/{name}"
