"""Prisma: the table _prisma_migrations has folder names and the SHA-256 of each migration.sql.

A row without `finished_at` belongs to a failed or unfinished run. A rolled-back row does not count;
another row of the same name may follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import (
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    checksum_variants,
    fixed_key,
    read_file,
    refuses_transaction,
)

_FOLDER = re.compile(r"(?:(?P<version>\d+)_)?(?P<title>.+)", re.DOTALL)


def files(folder: Path) -> Sequence[ToolMigration]:
    return [_migration(path) for path in sorted(folder.glob("*/migration.sql"))]


def _migration(path: Path) -> ToolMigration:
    content, text = read_file(path)
    name = path.parent.name
    match = _FOLDER.fullmatch(name)
    assert match is not None  # a folder's name is not empty
    checksums = checksum_variants(content)
    return ToolMigration(
        name,
        (name,),
        match["version"] or "",
        match["title"],
        text,
        transactional=not refuses_transaction(text),
        checksums=checksums | {_unpadded(checksum) for checksum in checksums},
        paths=(path,),
    )


def _unpadded(checksum: str) -> str:
    """The checksum in the form of old Prisma versions: bytes without leading zeros."""
    return "".join(f"{byte:x}" for byte in bytes.fromhex(checksum))


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest: dict[str, ToolRow] = {}
    for json_row in sorted(json_rows, key=lambda row: (str(row["started_at"]), not row["rolled_back_at"])):
        row = _row(json_row)
        if row.outcome != "undone" or row.keys[0] not in latest:
            latest[row.keys[0]] = row
    return list(latest.values())


def _row(row: JsonRow) -> ToolRow:
    keys = (str(row["migration_name"]),)
    if row["rolled_back_at"]:
        return ToolRow(keys, "undone", remark="Prisma has marked it as rolled back.")
    if not row["finished_at"]:
        return ToolRow(keys, "failed", remark="Prisma's row has no end: it failed, or it is still running.")
    return ToolRow(keys, checksum=str(row["checksum"]), moment=row["finished_at"])


TOOL = Tool(
    "prisma",
    "_prisma_migrations",
    frozenset({"checksum", "finished_at", "migration_name", "rolled_back_at", "started_at"}),
    ("prisma/migrations", "migrations"),
    files,
    rows,
    lock_key=fixed_key(72707369),
)
