"""Liquibase: the table databasechangelog has an id, an author and a file for each changeset.

Only changelogs in SQL are read, and every changeset becomes a file. Liquibase's checksum is of the parsed change, not
of the text, so nothing can be verified with it (CheckSum.java).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

from pgratchet.adopt.tools.tool import JsonRow, Tool, ToolMigration, ToolRow, find_files, read_file

_FILE = re.compile(r".+\.sql", re.DOTALL | re.IGNORECASE)
_HEAD = re.compile(r"\s*--\s*liquibase\s*formatted(?P<attributes>.*)", re.IGNORECASE)
_CHANGESET = re.compile(
    r'(?im)^[ \t]*--[ \t]*changeset[ \t]+(?P<author>"[^"\n]+"|[^:\n]+):[ \t]*(?P<id>"[^"\n]+"|\S+)(?P<attributes>.*)$'
)
_ATTRIBUTE = re.compile(r'(?P<name>\w+):(?:"(?P<quoted>[^"]*)"|(?P<value>\S+))')
_ROLLBACK = re.compile(r"/\*\s*liquibase\s+rollback\b.*?\*/", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(r"(?im)^--[ \t]*(rollback|comment|preconditions?(-\S+)?|validCheckSum)\b.*\n?")
_IGNORE = re.compile(r"(?i)[ \t]*--[ \t]*ignoreLines:(?:(?P<count>\d+)|(?P<all>start)|end)\b")
_PARAMETER = re.compile(r"\$\{[^}]*\}")
_DROPPED = ("runOnChange", "runAlways", "context", "contextFilter", "labels")
_RAN = ("EXECUTED", "RERAN", "MARK_RAN")


def files(folder: Path) -> Sequence[ToolMigration]:
    return [changeset for path, _ in find_files(folder, _FILE, deep=True) for changeset in _changesets(path, folder)]


def _changesets(path: Path, folder: Path) -> Iterator[ToolMigration]:
    text = _without_ignored_lines(read_file(path)[1])
    head = _HEAD.match(text)
    if head is None:
        return
    file = _attributes(head["attributes"]).get("logicalfilepath") or path.relative_to(folder).as_posix()
    marks = list(_CHANGESET.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):
        attributes = _attributes(mark["attributes"])
        if _is_for_postgresql(attributes.get("dbms", "")) and attributes.get("ignore", "").lower() != "true":
            yield _migration(mark, text[mark.end() : end], file, attributes)


def _without_ignored_lines(text: str) -> str:
    """The text without the lines marked by `ignoreLines`."""
    lines: list[str] = []
    ignored = 0.0
    for line in text.splitlines(keepends=True):
        if mark := _IGNORE.match(line):
            ignored = inf if mark["all"] else int(mark["count"] or 0)
        elif ignored:
            ignored -= 1
        else:
            lines.append(line)
    return "".join(lines)


def _migration(mark: re.Match[str], text: str, file: str, attributes: dict[str, str]) -> ToolMigration:
    author, identity = (mark[part].strip().strip('"') for part in ("author", "id"))
    return ToolMigration(
        f"{file}: {author}:{identity}",
        _file_keys(identity, author, attributes.get("logicalfilepath", file)),
        identity if identity.isdecimal() else "",
        f"{Path(file).stem}_{identity}",
        _MARK.sub("", _ROLLBACK.sub("", text)).lstrip("\n"),
        transactional=attributes.get("runintransaction", "true").lower() != "false",
        obstacle=_obstacle(text, attributes),
        remarks=tuple(f"{name} is not taken over." for name in _DROPPED if name.lower() in attributes),
    )


def _attributes(text: str) -> dict[str, str]:
    return {m["name"].lower(): m["quoted"] or m["value"] or "" for m in _ATTRIBUTE.finditer(text)}


def _is_for_postgresql(dbms: str) -> bool:
    """Return whether Liquibase would run a changeset here. A changeset only for other databases has no row."""
    names = {name.strip().lower() for name in dbms.split(",") if name.strip()}
    included = {name for name in names if not name.startswith("!")}
    return "!postgresql" not in names and (not included or not included.isdisjoint({"postgresql", "all"}))


def _obstacle(text: str, attributes: dict[str, str]) -> str:
    if parameter := _PARAMETER.search(text):
        return f"It has the parameter {parameter.group()}."
    if attributes.get("enddelimiter", ";") != ";":
        return f"Its statements end with {attributes['enddelimiter']}."
    return "It has preconditions." if re.search(r"(?im)^--[ \t]*preconditions?\b", text) else ""


def _row_keys(identity: str, author: str, file: str) -> tuple[str, ...]:
    """The keys of a row. The keys match a file whose path is an end of the row's path, or the reverse.

    Liquibase's paths begin at its working folder, ours at the folder of files.
    """
    path = file.removeprefix("classpath:").lstrip("/")
    return (*(f"{identity} {author} {end}" for end in _ends(path)), f"{identity} {author} .../{path}")


def _file_keys(identity: str, author: str, file: str) -> tuple[str, ...]:
    path = file.removeprefix("classpath:").lstrip("/")
    return (f"{identity} {author} {path}", *(f"{identity} {author} .../{end}" for end in _ends(path)))


def _ends(path: str) -> list[str]:
    """The path, and the path without its first folder, its first two folders, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def rows(json_rows: Sequence[JsonRow], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [_row(row) for row in sorted(json_rows, key=lambda row: int(row["orderexecuted"]))]


def _row(row: JsonRow) -> ToolRow:
    keys, kind = _row_keys(str(row["id"]), str(row["author"]), str(row["filename"])), str(row["exectype"])
    if kind not in _RAN:
        return ToolRow(keys, "undone" if kind == "SKIPPED" else "failed", remark=f"Liquibase's row says {kind}.")
    remark = "Marked as run, and not run, by Liquibase." if kind == "MARK_RAN" else ""
    return ToolRow(keys, moment=row["dateexecuted"], remark=remark)


TOOL = Tool(
    "liquibase",
    "databasechangelog",
    frozenset({"id", "author", "filename", "exectype", "md5sum"}),
    ("src/main/resources/db/changelog", "db/changelog", "changelog", "migrations"),
    files,
    rows,
    lock_table="databasechangeloglock",
)
