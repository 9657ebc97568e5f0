"""Names files beside another tool's migrations that look like SQL and are not adopted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import Tool, ToolMigration

_SQL = re.compile(r".*\.(sql|psql|pgsql|ddl|dml)(\b.*)?", re.IGNORECASE | re.DOTALL)
_MOST_NAMES = 20


def notes(tool: Tool, folder: Path, migrations: Sequence[ToolMigration], our_folder: Path) -> tuple[str, ...]:
    """A sentence that names the files; no sentence when every file is adopted."""
    read = {path.absolute() for migration in migrations for path in migration.paths}
    names = [
        path.relative_to(folder).as_posix()
        for path in _files(folder, our_folder)
        if path.absolute() not in read and _may_hold_migration(tool, path.name)
    ]
    if not names:
        return ()
    shown = [*names[:_MOST_NAMES], *([f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else [])]
    return (f"Not adopted, because {tool.name} reads no migration from it: {', '.join(shown)}.",)


def _may_hold_migration(tool: Tool, name: str) -> bool:
    if tool.companions and tool.companions.fullmatch(name):
        return False
    return bool(_SQL.fullmatch(name)) or name.endswith(tool.suffixes or ("\0",))


def _files(folder: Path, our_folder: Path) -> Iterator[Path]:
    """All files in a folder and below, without hidden ones and without our folder."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")) and f != "node_modules")
        if here.resolve() == our_folder.resolve():
            folders.clear()
            continue
        yield from (here / name for name in sorted(names) if not name.startswith("."))
