"""Drizzle: drizzle.__drizzle_migrations, by hash; files by a journal (0.x) or in folders of their own (1.0).

Its migrator runs what the journal dates behind the newest row, and skips what it dates before it without a word; so
rows are matched one by one. `created_at` is the journal's date, not that of a run; 1.0 keeps `applied_at` beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, closed, read, sha256
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
        return [_of_entry(folder, entry) for entry in _entries(journal)]
    found = sorted(path.parent for path in folder.glob("*/migration.sql") if _FOLDER.fullmatch(path.parent.name))
    return [_of_folder(each) for each in found]


def _entries(journal: Path) -> list[Raw]:
    try:
        entries: list[Raw] = json.loads(journal.read_bytes())["entries"]
        return [{"tag": str(entry["tag"]), "when": int(entry["when"])} for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{journal} is no journal of Drizzle's",
            detail=f"{type(error).__name__}: {error}.",
            hint="Put it back as drizzle-kit wrote it.",
        ) from error


def _of_entry(folder: Path, entry: Raw) -> ToolMigration:
    path = folder / f"{entry['tag']}.sql"
    if not path.is_file():
        raise ConfigurationError(
            f"{path} is in Drizzle's journal, and is not there",
            detail="The journal says that it is a migration.",
            hint="Put the file back from version control.",
        )
    return _foreign(path, str(entry["tag"]), (f"when {entry['when']}",))


def _of_folder(folder: Path) -> ToolMigration:
    seconds = datetime.strptime(folder.name[:14], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc).timestamp()
    return _foreign(folder / "migration.sql", folder.name, (f"name {folder.name}", f"second {int(seconds)}"))


def _foreign(path: Path, tag: str, keys: tuple[str, ...]) -> ToolMigration:
    raw, text = read(path)
    match = _TAG.fullmatch(tag)
    assert match is not None  # a tag is not empty
    checksums = sha256(raw)
    pieces = (closed(piece) for piece in text.split("--> statement-breakpoint"))
    return ToolMigration(
        tag,
        (*keys, *(f"hash {checksum}" for checksum in sorted(checksums))),
        match["version"] or "",
        match["title"],
        "\n".join(piece for piece in pieces if piece),
        checksums=checksums,
        obstacle=of_sqlite(text),
    )


def of_sqlite(text: str) -> str:
    """What of a text only SQLite understands, as a sentence; in strings and comments all may stand."""
    plain = re.sub(r"'(?:[^']|'')*'|--[^\n]*|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    found = [word for word, pattern in _SQLITE.items() if pattern.search(plain)]
    return f"It is SQLite's SQL: {', '.join(found)}." if found else ""


def rows(found: Sequence[Raw], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [_row(raw) for raw in sorted(found, key=lambda raw: int(raw["id"]))]


def _row(raw: Raw) -> ToolRow:
    when = int(raw["created_at"] or 0)
    name = (f"name {raw['name']}",) if raw.get("name") else ()
    keys = (*name, f"when {when}", f"second {when // 1000}", f"hash {raw['hash']}")
    return ToolRow(keys, checksum=str(raw["hash"]), moment=raw.get("applied_at"))


TOOL = Tool(
    "drizzle",
    "__drizzle_migrations",
    frozenset({"hash", "created_at"}),
    ("drizzle", "src/drizzle", "migrations", "db/migrations"),
    files,
    rows,
)
