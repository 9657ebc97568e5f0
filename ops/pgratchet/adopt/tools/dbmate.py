"""dbmate: the table schema_migrations has a version in each row and no checksum.

Rails has a table of the same name and columns. Rails' files differ, so a Rails project has no files for this tool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import JsonRow, Tool, ToolMigration, ToolRow, find_files, read_file

_FILE = re.compile(r"(?P<version>\d+)_?(?P<title>.*)\.sql", re.DOTALL)
_UP = re.compile(r"--\s*migrate:up(?P<options>\s.*)?")
_DOWN = re.compile(r"--\s*migrate:down(\s.*)?")
_NO_TRANSACTION = re.compile(r"(?:^|\s)transaction:false(?:\s|$)")


def files(folder: Path) -> Sequence[ToolMigration]:
    migrations = [_migration(path, match) for path, match in find_files(folder, _FILE)]
    return [] if all(migration.obstacle for migration in migrations) else migrations  # else another tool's folder


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    up, transactional, has_up = _up(read_file(path)[1])
    identity = (path.stem, (match["version"],), match["version"], match["title"])
    obstacle = "" if has_up else "It has no line `-- migrate:up`."
    return ToolMigration(*identity, up, transactional, obstacle=obstacle, paths=(path,))


def _up(text: str) -> tuple[str, bool, bool]:
    """The `up` blocks of a file, whether they run in a transaction, and whether there is any."""
    up: list[str] = []
    inside, transactional, has_up = False, True, False
    for line in text.split("\n"):
        if match := _UP.fullmatch(line.rstrip()):
            inside = has_up = True
            transactional = transactional and not _NO_TRANSACTION.search(match["options"] or "")
        elif _DOWN.fullmatch(line.rstrip()):
            inside = False
        elif inside:
            up.append(line)
    return "\n".join(up), transactional, has_up


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [ToolRow((str(row["version"]),)) for row in json_rows]


TOOL = Tool(
    "dbmate",
    "schema_migrations",
    frozenset({"version"}),
    ("db/migrations", "migrations"),
    files,
    rows,
    excluded_columns=frozenset({"dirty"}),
)
