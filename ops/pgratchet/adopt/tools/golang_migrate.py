"""golang-migrate: schema_migrations, one row, which says how far it is; that the earlier files ran it cannot prove."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import (
    HistoryTable,
    Raw,
    Tool,
    ToolMigration,
    ToolRow,
    named,
    read,
    runs_alone,
    without_frame,
)

_FILE = re.compile(r"(?P<version>[0-9]+)_(?P<title>.*)\.up\.sql", re.DOTALL)
_SALT = 1486364155


def files(folder: Path) -> Sequence[ToolMigration]:
    found = [_foreign(path, match) for path, match in named(folder, _FILE)]
    return sorted(found, key=lambda each: int(each.version))


def _foreign(path: Path, match: re.Match[str]) -> ToolMigration:
    text = without_frame(read(path)[1])
    key = str(int(match["version"]))
    return ToolMigration(path.stem, (key,), match["version"], match["title"], text, transactional=not runs_alone(text))


def rows(found: Sequence[Raw], given: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    if not found or int(found[0]["version"]) < 0:
        return []
    newest = int(found[0]["version"])
    before = [ToolRow(each.keys) for each in given if int(each.version) < newest]
    return [*before, _newest(newest, dirty=bool(found[0]["dirty"]))]


def _newest(version: int, *, dirty: bool) -> ToolRow:
    if dirty:
        return ToolRow((str(version),), "failed", told=f"golang-migrate's table is dirty at version {version}.")
    return ToolRow((str(version),))


def _lock(table: HistoryTable) -> int:
    named = f"{table.schema}\0{table.name}\0{table.database}"
    return zlib.crc32(named.encode()) * _SALT % (1 << 32)


TOOL = Tool(
    "golang-migrate",
    "schema_migrations",
    frozenset({"version", "dirty"}),
    ("migrations", "db/migrations", "db/migration"),
    files,
    rows,
    lock=_lock,
)
