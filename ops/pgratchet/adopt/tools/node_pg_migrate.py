"""node-pg-migrate: pgmigrations, by the file's name without its ending; nothing to verify by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, key, named, read

_FILE = re.compile(r"(?P<version>\d+)_(?P<title>.+)\.(?P<kind>sql|[cm]?[jt]s)", re.DOTALL)
_UP = re.compile(r"^\s*--[\s-]*up\s+migration.*", re.IGNORECASE | re.MULTILINE)
_DOWN = re.compile(r"^\s*--[\s-]*down\s+migration", re.IGNORECASE | re.MULTILINE)


def files(folder: Path) -> Sequence[ToolMigration]:
    found = list(named(folder, _FILE))
    ups = {path.name.removesuffix(".up.sql") for path, _ in found if path.name.endswith(".up.sql")}
    kept = [_foreign(path, match) for path, match in found if path.name.removesuffix(".down.sql") not in ups]
    return sorted(kept, key=lambda each: (_moment(each.version), each.name))


def _foreign(path: Path, match: re.Match[str]) -> ToolMigration:
    # By its `sql` loader a pair of files is one migration, named without the way; by the default one they are two.
    name = path.stem.removesuffix(".up") if match["kind"] == "sql" else path.stem
    about = (name, tuple(dict.fromkeys((name, path.stem))), match["version"], match["title"].removesuffix(".up"))
    if match["kind"] != "sql":
        return ToolMigration(*about, obstacle="It is JavaScript, not SQL.")
    return ToolMigration(*about, _up(read(path)[1]))


def _up(text: str) -> str:
    """What is behind the mark, up to the other one; all of a text that has no mark."""
    up, down = _UP.search(text), _DOWN.search(text)
    if up is None:
        return text
    return text[up.end() : down.start() if down and down.start() > up.start() else None]


def _moment(version: str) -> int:
    """Milliseconds since 1970, from 13 digits as they are, from 17 digits as a moment in UTC; else the number."""
    if len(version) == len("20240131120000123"):
        made = datetime.strptime(version[:14], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
        return int(made.timestamp()) * 1000 + int(version[14:])
    return int(version)


def rows(found: Sequence[Raw], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [ToolRow((str(raw["name"]),), moment=raw["run_on"]) for raw in found]


TOOL = Tool(
    "node-pg-migrate",
    "pgmigrations",
    frozenset({"id", "name", "run_on"}),
    ("migrations", "db/migrations"),
    files,
    rows,
    lock=key(7241865325823964),
)
