"""Files and rows of other tools for the tests of adopt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgratchet.adopt.matching import match_rows
from pgratchet.adopt.tools.tool import ToolMigration, ToolRow

SQL = "create table t (a int);\n"


def file(version: str, **fields: Any) -> ToolMigration:
    return ToolMigration(
        **{"name": f"{version}_x", "keys": (version,), "version": version, "title": "x", "up": SQL, **fields}
    )


def states(files: Sequence[ToolMigration], rows: Sequence[ToolRow]) -> list[tuple[str | None, str]]:
    items, _ = match_rows("tool", files, rows)
    return [(item.file.name if item.file else None, item.state) for item in items]


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


def ups(files: Sequence[ToolMigration]) -> list[tuple[str, str, bool]]:
    return [(each.version, " ".join(each.up.split()), each.transactional) for each in files]
