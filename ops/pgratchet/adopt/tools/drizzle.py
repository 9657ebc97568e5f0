"""Drizzle: the table drizzle.__drizzle_migrations, and files listed in a journal (0.x) or in folders (1.0).

Drizzle runs the journal entries newer than the newest row, and silently skips older entries, so rows must be matched
individually (drizzle-orm/src/pg-core/dialect.ts). `created_at` is the journal's date, not the time of a run. Drizzle
1.0 records the time of a run in `applied_at`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from pgratchet.adopt.tools.tool import (
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    checksum_variants,
    read_file,
    with_semicolon,
)
from pgratchet.errors import ConfigurationError

_TAG = re.compile(r"(?:(?P<version>\d+)_)?(?P<title>.+)", re.DOTALL)
_FOLDER = re.compile(r"\d{14}_.+")
_SQLITE = {
    "backticks": re.compile(r"`"),
    "AUTOINCREMENT": re.compile(r"\bAUTOINCREMENT\b", re.IGNORECASE),
    "PRAGMA": re.compile(r"^\s*PRAGMA\b", re.IGNORECASE | re.MULTILINE),
    "WITHOUT ROWID": re.compile(r"\bWITHOUT\s+ROWID\b", re.IGNORECASE),
    "a function of its own": re.compile(r"\b(strftime|unixepoch|julianday)\s*\(", re.IGNORECASE),
}


def files(folder: Path) -> Sequence[ToolMigration]:
    journal = folder / "meta" / "_journal.json"
    if journal.is_file():
        return [_from_entry(folder, entry) for entry in _entries(journal)]
    paths = sorted(path.parent for path in folder.glob("*/migration.sql") if _FOLDER.fullmatch(path.parent.name))
    return [_from_folder(path) for path in paths]


def _entries(journal: Path) -> list[JsonRow]:
    try:
        entries: list[JsonRow] = json.loads(journal.read_bytes())["entries"]
        return [{"tag": str(entry["tag"]), "when": int(entry["when"])} for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{journal} is not a journal of Drizzle",
            detail=f"{type(error).__name__}: {error}.",
            hint="Restore the file that drizzle-kit wrote from version control.",
        ) from error


def _from_entry(folder: Path, entry: JsonRow) -> ToolMigration:
    path = folder / f"{entry['tag']}.sql"
    if not path.is_file():
        raise ConfigurationError(
            f"{path} does not exist",
            detail="Drizzle's journal has it as a migration.",
            hint="Restore the file from version control.",
        )
    return _migration(path, str(entry["tag"]), (f"when {entry['when']}",))


def _from_folder(folder: Path) -> ToolMigration:
    seconds = datetime.strptime(folder.name[:14], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc).timestamp()
    return _migration(folder / "migration.sql", folder.name, (f"name {folder.name}", f"second {int(seconds)}"))


def _migration(path: Path, tag: str, keys: tuple[str, ...]) -> ToolMigration:
    content, text = read_file(path)
    match = _TAG.fullmatch(tag)
    assert match is not None  # a tag is not empty
    checksums = checksum_variants(content)
    pieces = (with_semicolon(piece) for piece in text.split("--> statement-breakpoint"))
    return ToolMigration(
        tag,
        (*keys, *(f"hash {checksum}" for checksum in sorted(checksums))),
        match["version"] or "",
        match["title"],
        "\n".join(piece for piece in pieces if piece),
        checksums=checksums,
        obstacle=sqlite_obstacle(text),
        paths=(path,),
    )


def sqlite_obstacle(text: str) -> str:
    """A sentence that names the SQLite-only parts of a text, or an empty text. Strings and comments are skipped."""
    plain = re.sub(r"'(?:[^']|'')*'|--[^\n]*|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    words = [word for word, pattern in _SQLITE.items() if pattern.search(plain)]
    return f"It is SQLite's SQL: {', '.join(words)}." if words else ""


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [_row(row) for row in sorted(json_rows, key=lambda row: int(row["id"]))]


def _row(row: JsonRow) -> ToolRow:
    when = int(row["created_at"] or 0)
    name = (f"name {row['name']}",) if row.get("name") else ()
    keys = (*name, f"when {when}", f"second {when // 1000}", f"hash {row['hash']}")
    return ToolRow(keys, checksum=str(row["hash"]), moment=row.get("applied_at"))


TOOL = Tool(
    "drizzle",
    "__drizzle_migrations",
    frozenset({"hash", "created_at"}),
    ("drizzle", "src/drizzle", "migrations", "db/migrations"),
    files,
    rows,
)
