"""yoyo: the table _yoyo_migration has ids, the file names. A row's hash is of the id and proves nothing more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.python_files import names_in, read_literals
from pgratchet.adopt.tools.tool import (
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    find_files,
    read_file,
    sort_by_dependency,
)

_FILE = re.compile(r"(?!post-apply)(?P<id>[^_.].*)\.(?P<kind>sql|py)(?<!\.rollback\.sql)", re.DOTALL)
_ID = re.compile(r"(?P<date>\d+)(?:_(?P<number>\d{2})(?=_))?[_.-]*(?:[A-Za-z0-9]{5}-)?(?P<title>.*)", re.DOTALL)
_HEAD = re.compile(r"(?:[ \t]*(?:--.*)?\n)*")
_DIRECTIVE = re.compile(r"^[ \t]*--[ \t]*(?P<name>depends|transactional)[ \t]*:(?P<value>.*)$\n?", re.MULTILINE)


def files(folder: Path) -> Sequence[ToolMigration]:
    migrations = {match["id"]: _migration(path, match) for path, match in find_files(folder, _FILE)}
    dependencies = {name: file.depends_on for name, file in migrations.items()}
    return [migrations[name] for name in sort_by_dependency(sorted(migrations), dependencies)]


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    version, title = _version_and_title(match["id"])
    identity = (match["id"], (match["id"],), version, title)
    if match["kind"] == "py":
        dependencies = names_in(read_literals(path).get("__depends__"))
        return ToolMigration(*identity, obstacle="It is Python, not SQL.", depends_on=tuple(dependencies))
    head, sql = _split_head(read_file(path)[1])
    directives: dict[str, list[str]] = {"depends": [], "transactional": []}
    for directive in _DIRECTIVE.finditer(head):
        directives[directive["name"]] += directive["value"].split()
    transactional = " ".join(directives["transactional"]).lower() not in ("false", "no", "off", "0")
    up = _DIRECTIVE.sub("", head) + sql
    return ToolMigration(*identity, up, transactional, depends_on=tuple(directives["depends"]))


def _split_head(text: str) -> tuple[str, str]:
    """The comments at the start, where alone yoyo looks for directives, and the rest."""
    match = _HEAD.match(text)
    end = match.end() if match else 0
    return text[:end], text[end:]


def _version_and_title(identity: str) -> tuple[str, str]:
    """The digits and the rest of an id such as 20240131_01_x7Gq2-add-users or 0001.add-users."""
    match = _ID.fullmatch(identity)
    if match is None:
        return "", identity
    return match["date"] + (match["number"] or ""), match["title"] or identity


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [ToolRow((str(row["migration_id"]),), moment=_utc(row["applied_at_utc"])) for row in json_rows]


def _utc(moment: str | None) -> str | None:
    return f"{moment}+00" if moment else None


TOOL = Tool(
    "yoyo",
    "_yoyo_migration",
    frozenset({"migration_hash", "migration_id", "applied_at_utc"}),
    ("migrations", "db/migrations"),
    files,
    rows,
    lock_table="yoyo_lock",
)
