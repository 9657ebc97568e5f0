"""yoyo: _yoyo_migration, by the id, which is the file's name; the hash in it is of the id and proves nothing more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.alembic import assigned
from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, by_dependence, named, read

_FILE = re.compile(r"(?!post-apply)(?P<id>[^_.].*)\.(?P<kind>sql|py)(?<!\.rollback\.sql)", re.DOTALL)
_ID = re.compile(r"(?P<date>\d+)(?:_(?P<number>\d{2})(?=_))?[_.-]*(?:[A-Za-z0-9]{5}-)?(?P<title>.*)", re.DOTALL)
_HEAD = re.compile(r"(?:[ \t]*(?:--.*)?\n)*")
_DIRECTIVE = re.compile(r"^[ \t]*--[ \t]*(?P<name>depends|transactional)[ \t]*:(?P<value>.*)$\n?", re.MULTILINE)


def files(folder: Path) -> Sequence[ToolMigration]:
    found = {match["id"]: _foreign(path, match) for path, match in named(folder, _FILE)}
    order = by_dependence(sorted(found), {name: needs for name, (_, needs) in found.items()})
    return [found[name][0] for name in order]


def _foreign(path: Path, match: re.Match[str]) -> tuple[ToolMigration, Sequence[str]]:
    """A migration, and the ids of those that it depends on."""
    version, title = _named(match["id"])
    about = (match["id"], (match["id"],), version, title)
    if match["kind"] == "py":
        return ToolMigration(*about, obstacle="It is Python, not SQL."), _needs(assigned(path).get("__depends__"))
    head, sql = _parted(read(path)[1])
    declared: dict[str, list[str]] = {"depends": [], "transactional": []}
    for match in _DIRECTIVE.finditer(head):
        declared[match["name"]] += match["value"].split()
    transactional = " ".join(declared["transactional"]).lower() not in ("false", "no", "off", "0")
    return ToolMigration(*about, _DIRECTIVE.sub("", head) + sql, transactional), declared["depends"]


def _parted(text: str) -> tuple[str, str]:
    """The comments that a text begins with, in which alone yoyo looks for its words; and all that follows."""
    match = _HEAD.match(text)
    end = match.end() if match else 0
    return text[:end], text[end:]


def _needs(given: object) -> Sequence[str]:
    """The ids of Python's __depends__: several, or one as it is."""
    return [given] if isinstance(given, str) else [str(each) for each in given or ()]  # type: ignore[attr-defined]


def _named(identity: str) -> tuple[str, str]:
    """The digits and the rest of an id such as 20240131_01_x7Gq2-add-users or 0001.add-users."""
    match = _ID.fullmatch(identity)
    if match is None:
        return "", identity
    return match["date"] + (match["number"] or ""), match["title"] or identity


def rows(found: Sequence[Raw], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [ToolRow((str(raw["migration_id"]),), moment=_utc(raw["applied_at_utc"])) for raw in found]


def _utc(moment: str | None) -> str | None:
    return f"{moment}+00" if moment else None


TOOL = Tool(
    "yoyo",
    "_yoyo_migration",
    frozenset({"migration_hash", "migration_id", "applied_at_utc"}),
    ("migrations", "db/migrations"),
    files,
    rows,
    busy="yoyo_lock",
)
