"""goose: goose_db_version, a row for each way up and down; of a version the newest row counts, and 0 is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, closed, key, named, read

_FILE = re.compile(r"(?P<version>\d+)_(?P<title>.*)\.(?P<kind>sql|go)", re.DOTALL)
_MARK = re.compile(r"--\s*\+goose\s+(?P<words>.*?)\s*")


def files(folder: Path) -> Sequence[ToolMigration]:
    found = [_foreign(path, match) for path, match in named(folder, _FILE) if not path.name.endswith("_test.go")]
    return sorted((each for each in found if each), key=lambda each: int(each.version))


def _foreign(path: Path, match: re.Match[str]) -> ToolMigration | None:
    about = (path.stem, (str(int(match["version"])),), match["version"], match["title"])
    if match["kind"] == "go":
        return ToolMigration(*about, obstacle="It is Go, not SQL.")
    text = read(path)[1]
    if not re.search(r"(?m)^--\s*\+goose\s+Up\b", text):
        return None
    obstacle = (
        "goose fills in environment variables in it."
        if re.search(r"(?m)^--\s*\+goose\s+ENVSUB(ST)?\s+ON", text)
        else ""
    )
    transactional = not re.search(r"(?m)^--\s*\+goose\s+NO\s+TRANSACTION\b", text)
    return ToolMigration(*about, _up(text), transactional, obstacle=obstacle)


def _up(text: str) -> str:
    """The part that goes up; a statement between marks need not have a semicolon at its end."""
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
            up += [closed("\n".join(block))] if inside else []
            block.clear()
            lines = up
        elif inside and not match:
            lines.append(line)
    return "\n".join(up)


def rows(found: Sequence[Raw], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest = {str(raw["version_id"]): raw for raw in sorted(found, key=lambda raw: int(raw["id"]))}
    return [_row(version, raw) for version, raw in latest.items() if version != "0"]


def _row(version: str, raw: Raw) -> ToolRow:
    if not raw["is_applied"]:
        return ToolRow((version,), "undone", told="goose has taken it back.")
    return ToolRow((version,), moment=raw["tstamp"])


TOOL = Tool(
    "goose",
    "goose_db_version",
    frozenset({"id", "version_id", "is_applied", "tstamp"}),
    ("migrations", "db/migrations", "sql/migrations"),
    files,
    rows,
    lock=key(4097083626),
)
