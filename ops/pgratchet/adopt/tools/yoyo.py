"""yoyo: the table _yoyo_migration has ids, the file names. A row's hash is of the id and proves nothing more.

A Python file whose steps are literal SQL is read without running it. The files post-apply run after every run of yoyo
and have no row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pgratchet.adopt.tools.python_files import literal_calls, names_in, read_literals
from pgratchet.adopt.tools.tool import (
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    find_files,
    read_file,
    sort_by_dependency,
    with_semicolon,
)

_FILE = re.compile(r"(?P<id>[^_.].*)\.(?P<kind>sql|py)(?<!\.rollback\.sql)", re.DOTALL)
_ID = re.compile(r"(?P<date>\d+)(?:_(?P<number>\d{2})_(?:[A-Za-z0-9]{5}-)?)?[_.-]*(?P<title>.*)", re.DOTALL)
_HEAD = re.compile(r"(?:[ \t]*(?:--.*)?\n)*")
_DIRECTIVE = re.compile(r"^[ \t]*--[ \t]*(?P<name>depends|transactional)[ \t]*:(?P<value>.*)$\n?", re.MULTILINE)
_HOOK_REMARK = "yoyo runs it after every run, and pgratchet once: copy it into a new migration when it changes."


def files(folder: Path) -> Sequence[ToolMigration]:
    by_name = {match["id"]: _migration(path, match) for path, match in find_files(folder, _FILE)}
    hooks = [file for name, file in by_name.items() if name.startswith("post-apply")]
    migrations = {name: file for name, file in by_name.items() if not name.startswith("post-apply")}
    dependencies = {name: file.depends_on for name, file in migrations.items()}
    ordered = [migrations[name] for name in sort_by_dependency(sorted(migrations), dependencies)]
    return [*ordered, *(replace(hook, unordered=True, remarks=(_HOOK_REMARK,)) for hook in hooks if ordered)]


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    version, title = _version_and_title(match["id"])
    identity = (match["id"], (match["id"],), version, title)
    if match["kind"] == "py":
        return _python(path, identity)
    head, sql = _split_head(read_file(path)[1])
    directives: dict[str, list[str]] = {"depends": [], "transactional": []}
    for directive in _DIRECTIVE.finditer(head):
        directives[directive["name"]] += directive["value"].split()
    transactional = " ".join(directives["transactional"]).lower() not in ("false", "no", "off", "0")
    up = _DIRECTIVE.sub("", head) + sql
    return ToolMigration(*identity, up, transactional, depends_on=tuple(directives["depends"]), paths=(path,))


def _python(path: Path, identity: tuple[str, tuple[str, ...], str, str]) -> ToolMigration:
    values, steps = read_literals(path), literal_calls(path, "step", ("group", "transaction"))
    return ToolMigration(
        *identity,
        "\n".join(with_semicolon(step) for step in steps or ()),
        transactional=values.get("__transactional__", True) is not False,
        obstacle="" if steps is not None else "It is Python, not SQL.",
        depends_on=tuple(names_in(values.get("__depends__"))),
        paths=(path,),
    )


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


def rows(json_rows: Sequence[JsonRow], migrations: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    applied = [ToolRow((str(row["migration_id"]),), moment=_utc(row["applied_at_utc"])) for row in json_rows]
    return [*applied, *(ToolRow(file.keys) for file in migrations if applied and file.unordered)]


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
    other_tables=("_yoyo_log", "_yoyo_version"),
    companions=re.compile(r".*\.rollback\.sql|_.*", re.DOTALL),
    suffixes=(".py",),
)
