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
_MARKS = {"up", "down", "statementbegin", "statementend", "no transaction", "envsub on", "envsub off"}


def files(folder: Path) -> Sequence[ToolMigration]:
    matches = [(path, match) for path, match in find_files(folder, _FILE) if not path.name.endswith("_test.go")]
    migrations = [_migration(path, match) for path, match in matches if int(match["version"])]
    if all(migration.obstacle == _NO_UP for migration in migrations):
        return []  # another tool's folder
    return sorted(migrations, key=lambda file: int(file.version))


_NO_UP = "It has no line `-- +goose Up`."


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    identity = (path.stem, (str(int(match["version"])),), match["version"], match["title"])
    if match["kind"] == "go":
        return ToolMigration(*identity, obstacle="It is Go, not SQL.", paths=(path,))
    script = _Script()
    for line in read_file(path)[1].split("\n"):
        script.read(line)
    obstacle = script.obstacle if script.has_up else _NO_UP
    return ToolMigration(*identity, "\n".join(script.up), script.transactional, obstacle=obstacle, paths=(path,))


def _mark_of(line: str) -> str | None:
    """The annotation in a line, in lower case: goose ignores case (internal/sqlparser/parser.go)."""
    if not line.lstrip().startswith("--") or "+goose" not in line:
        return None
    return " ".join(line.replace("--", "").replace("+goose", "", 1).split()).lower()


class _Script:
    """The `Up` part of a file, read line by line. A statement between two marks may lack a semicolon."""

    def __init__(self) -> None:
        self.up: list[str] = []
        self.transactional = True
        self.has_up = False
        self.obstacle = ""
        self._is_up = self._has_variables = False
        self._block: list[str] | None = None

    def read(self, line: str) -> None:
        mark = _mark_of(line)
        if mark is None:
            self._read_sql(line)
        elif mark in ("up", "down"):
            self._is_up = mark == "up"
            self.has_up = self.has_up or self._is_up
        elif mark == "statementbegin":
            self._block = []
        elif mark == "statementend":
            self.up += [with_semicolon("\n".join(self._block))] if self._block and self._is_up else []
            self._block = None
        elif mark == "no transaction":
            self.transactional = False
        elif mark in _MARKS:
            self._has_variables = mark == "envsub on"
        else:
            self.obstacle = f'goose does not know the annotation "{mark}".'

    def _read_sql(self, line: str) -> None:
        if not self._is_up:
            return
        if self._has_variables and "$" in line:
            self.obstacle = "goose replaces environment variables in it."
        (self.up if self._block is None else self._block).append(line)


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest = {str(row["version_id"]): row for row in sorted(json_rows, key=lambda row: int(row["id"]))}
    return [_row(version, row) for version, row in latest.items() if version != "0"]


def _row(version: str, row: JsonRow) -> ToolRow:
    if not row["is_applied"]:
        return ToolRow((version,), "undone", remark="goose has undone it.")
    return ToolRow((version,), moment=row["tstamp"])


TOOL = Tool(
    "goose",
    "goose_db_version",
    frozenset({"id", "version_id", "is_applied", "tstamp"}),
    ("migrations", "db/migrations", "sql/migrations"),
    files,
    rows,
    lock_key=fixed_key(4097083626),
    companions=re.compile(r".*_test\.go", re.DOTALL),
    suffixes=(".go",),
)
