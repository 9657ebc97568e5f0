"""Prisma: _prisma_migrations, by the folder's name and the SHA-256 of its migration.sql.

A row without an end is a run that failed or goes on. One that was rolled back counts for nothing; there may be another
of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, key, read, runs_alone, sha256

_FOLDER = re.compile(r"(?:(?P<version>\d+)_)?(?P<title>.+)", re.DOTALL)


def files(folder: Path) -> Sequence[ToolMigration]:
    return [_foreign(path) for path in sorted(folder.glob("*/migration.sql"))]


def _foreign(path: Path) -> ToolMigration:
    raw, text = read(path)
    name = path.parent.name
    match = _FOLDER.fullmatch(name)
    assert match is not None  # a folder's name is not empty
    checksums = sha256(raw)
    return ToolMigration(
        name,
        (name,),
        match["version"] or "",
        match["title"],
        text,
        transactional=not runs_alone(text),
        checksums=checksums | {_unpadded(each) for each in checksums},
    )


def _unpadded(checksum: str) -> str:
    """As old versions of Prisma wrote it: each byte without a leading zero."""
    return "".join(f"{byte:x}" for byte in bytes.fromhex(checksum))


def rows(found: Sequence[Raw], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest: dict[str, ToolRow] = {}
    for raw in sorted(found, key=lambda raw: (str(raw["started_at"]), not raw["rolled_back_at"])):
        row = _row(raw)
        if row.outcome != "undone" or row.keys[0] not in latest:
            latest[row.keys[0]] = row
    return list(latest.values())


def _row(raw: Raw) -> ToolRow:
    keys = (str(raw["migration_name"]),)
    if raw["rolled_back_at"]:
        return ToolRow(keys, "undone", told="Prisma has marked it as rolled back.")
    if not raw["finished_at"]:
        return ToolRow(keys, "failed", told="Prisma's row has no end: it failed, or it is still running.")
    return ToolRow(keys, checksum=str(raw["checksum"]), moment=raw["finished_at"])


TOOL = Tool(
    "prisma",
    "_prisma_migrations",
    frozenset({"checksum", "finished_at", "migration_name", "rolled_back_at", "started_at"}),
    ("prisma/migrations", "migrations"),
    files,
    rows,
    lock=key(72707369),
)
