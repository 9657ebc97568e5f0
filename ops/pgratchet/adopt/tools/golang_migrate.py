"""golang-migrate: the table schema_migrations has a single row, with the newest version.

The row does not prove the earlier files' runs.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import (
    HistoryTable,
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    find_files,
    read_file,
    refuses_transaction,
)

_FILE = re.compile(r"(?P<version>[0-9]+)_(?P<title>.*)\.up\..*", re.DOTALL)
_LOCK_SALT = 1486364155


def files(folder: Path) -> Sequence[ToolMigration]:
    migrations = [_migration(path, match) for path, match in find_files(folder, _FILE)]
    return sorted(migrations, key=lambda file: int(file.version))


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    text = read_file(path)[1]
    return ToolMigration(
        path.name.removesuffix(".sql"),
        (str(int(match["version"])),),
        match["version"],
        match["title"],
        text,
        transactional=not refuses_transaction(text),
        paths=(path,),
    )


def rows(json_rows: Sequence[JsonRow], migrations: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    if not json_rows or int(json_rows[0]["version"]) < 0:
        return []
    newest = int(json_rows[0]["version"])
    earlier = [ToolRow(file.keys) for file in migrations if int(file.version) < newest]
    return [*earlier, _newest_row(newest, dirty=bool(json_rows[0]["dirty"]))]


def _newest_row(version: int, *, dirty: bool) -> ToolRow:
    if dirty:
        return ToolRow((str(version),), "failed", remark=f"golang-migrate's table is dirty at version {version}.")
    return ToolRow((str(version),))


def _lock_key(table: HistoryTable) -> int:
    identifier = f"{table.schema}\0{table.name}\0{table.database}"
    return zlib.crc32(identifier.encode()) * _LOCK_SALT % (1 << 32)


TOOL = Tool(
    "golang-migrate",
    "schema_migrations",
    frozenset({"version", "dirty"}),
    ("migrations", "db/migrations", "db/migration"),
    files,
    rows,
    lock_key=_lock_key,
    companions=re.compile(r"[0-9]+_.*\.down\..*", re.DOTALL),
)
