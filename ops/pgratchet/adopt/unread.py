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
    """Sentences that name the files; none when every file is adopted."""
    read = {path.absolute() for migration in migrations for path in migration.paths}
    names = [
        path.relative_to(folder).as_posix()
        for path in _files(folder, our_folder)
        if path.absolute() not in read and _may_hold_migration(tool, path.name)
    ]
    beside = [path.relative_to(folder.parent).as_posix() for path in _beside(tool, folder, our_folder)]
    sentences = [f"Not adopted, because {tool.name} reads no migration from it: {_shown(names)}."] if names else []
    if beside:
        advice = f"If {tool.name} reads it too, give --files={folder.parent}."
        sentences.append(f"Not adopted, because it is not in {folder}: {_shown(beside)}. {advice}")
    return tuple(sentences)


def _shown(names: Sequence[str]) -> str:
    rest = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*names[:_MOST_NAMES], *rest])


def _beside(tool: Tool, folder: Path, our_folder: Path) -> list[Path]:
    """The files in folders beside the tool's that the tool may be set to read too."""
    if tool.elsewhere is None or not folder.is_dir():
        return []
    own = (folder.resolve(), our_folder.resolve())
    paths = sorted(path for path in folder.parent.glob("*/*.*") if tool.elsewhere.fullmatch(path.name))
    return [path for path in paths if path.parent.resolve() not in own]


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
