"""goose: the table goose_db_version has a row for each run, up or down.

The newest row decides about a version. goose creates a row for version 0 with the table.
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
    find_files,
    fixed_key,
    read_file,
    with_semicolon,
)

_FILE = re.compile(r"(?P<version>\d+)_(?P<title>.*)\.(?P<kind>sql|go)", re.DOTALL)
_MARK = re.compile(r"--\s*\+goose\s+(?P<words>.*?)\s*")
_UP = re.compile(r"(?m)^--\s*\+goose\s+Up\b")
_SUBSTITUTION = re.compile(r"(?m)^--\s*\+goose\s+ENVSUB(ST)?\s+ON")
_NO_TRANSACTION = re.compile(r"(?m)^--\s*\+goose\s+NO\s+TRANSACTION\b")


def files(folder: Path) -> Sequence[ToolMigration]:
    paths = ((path, match) for path, match in find_files(folder, _FILE) if not path.name.endswith("_test.go"))
    migrations = [file for path, match in paths if (file := _migration(path, match))]
    return sorted(migrations, key=lambda file: int(file.version))


def _migration(path: Path, match: re.Match[str]) -> ToolMigration | None:
    identity = (path.stem, (str(int(match["version"])),), match["version"], match["title"])
    if match["kind"] == "go":
        return ToolMigration(*identity, obstacle="It is Go, not SQL.")
    text = read_file(path)[1]
    if not _UP.search(text):
        return None
    obstacle = "goose fills in environment variables in it." if _SUBSTITUTION.search(text) else ""
    return ToolMigration(*identity, _up(text), not _NO_TRANSACTION.search(text), obstacle=obstacle)


def _up(text: str) -> str:
    """The `Up` part. A statement between StatementBegin and StatementEnd may lack a semicolon."""
    up, block = list[str](), list[str]()
    lines, inside = up, False
    for line in text.split("\n"):
        match = _MARK.fullmatch(line)
        words = match["words"] if match else ""
        if words in ("Up", "Down"):
            inside = words == "Up"
        elif words == "StatementBegin":
            lines = block
        elif words == "StatementEnd":
            up += [with_semicolon("\n".join(block))] if inside else []
            block.clear()
            lines = up
        elif inside and not match:
            lines.append(line)
    return "\n".join(up)


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest = {str(row["version_id"]): row for row in sorted(json_rows, key=lambda row: int(row["id"]))}
    return [_row(version, row) for version, row in latest.items() if version != "0"]


def _row(version: str, row: JsonRow) -> ToolRow:
    if not row["is_applied"]:
        return ToolRow((version,), "undone", remark="goose has taken it back.")
    return ToolRow((version,), moment=row["tstamp"])


TOOL = Tool(
    "goose",
    "goose_db_version",
    frozenset({"id", "version_id", "is_applied", "tstamp"}),
    ("migrations", "db/migrations", "sql/migrations"),
    files,
    rows,
    lock_key=fixed_key(4097083626),
)
