"""node-pg-migrate: the table pgmigrations has file names without their endings and no checksum."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from pgratchet.adopt.tools.tool import JsonRow, Tool, ToolMigration, ToolRow, find_files, fixed_key, read_file

_FILE = re.compile(r"(?P<version>\d+)(?!\d)[_.-]?(?P<title>.+)\.(?P<kind>sql|[cm]?[jt]s)", re.DOTALL)
_UP = re.compile(r"^\s*--[\s-]*up\s+migration.*", re.IGNORECASE | re.MULTILINE)
_DOWN = re.compile(r"^\s*--[\s-]*down\s+migration", re.IGNORECASE | re.MULTILINE)


def files(folder: Path) -> Sequence[ToolMigration]:
    paths = list(find_files(folder, _FILE))
    ups = {path.name.removesuffix(".up.sql") for path, _ in paths if path.name.endswith(".up.sql")}
    migrations = [_migration(path, match) for path, match in paths if path.name.removesuffix(".down.sql") not in ups]
    return sorted(migrations, key=lambda file: (_milliseconds(file.version), file.name))


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    # Its `sql` loader takes X.up.sql and X.down.sql for one migration X; the default loader takes them for two.
    name = path.stem.removesuffix(".up") if match["kind"] == "sql" else path.stem
    keys = tuple(dict.fromkeys((name, path.stem)))
    title = match["title"].removesuffix(".up")
    if match["kind"] != "sql":
        return ToolMigration(name, keys, match["version"], title, obstacle="It is JavaScript, not SQL.", paths=(path,))
    return ToolMigration(name, keys, match["version"], title, _up(read_file(path)[1]), paths=(path,))


def _up(text: str) -> str:
    """The text between the marks of the up and the down migration, or all of a text without a mark."""
    up, down = _UP.search(text), _DOWN.search(text)
    if up is None:
        return text
    return text[up.end() : down.start() if down and down.start() > up.start() else None]


def _milliseconds(version: str) -> int:
    """The version as milliseconds since 1970. 17 digits are a date and time in UTC; others are the number itself."""
    if len(version) == len("20240131120000123"):
        moment = datetime.strptime(version[:14], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
        return int(moment.timestamp()) * 1000 + int(version[14:])
    return int(version)


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [ToolRow((str(row["name"]),), moment=row["run_on"]) for row in json_rows]


TOOL = Tool(
    "node-pg-migrate",
    "pgmigrations",
    frozenset({"id", "name", "run_on"}),
    ("migrations", "db/migrations"),
    files,
    rows,
    lock_key=fixed_key(7241865325823964),
    companions=re.compile(r".*\.down\.sql|.*\.d\.[cm]?ts", re.DOTALL),
    suffixes=(".js", ".cjs", ".mjs", ".ts", ".cts", ".mts"),
)
