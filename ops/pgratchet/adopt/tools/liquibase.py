"""Liquibase: databasechangelog, by id, author and file; changelogs in SQL, of which each changeset becomes a file.

Its checksum is of the change as it was parsed, and not of the text, so that nothing is verified by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

from pgratchet.adopt.tools.tool import Raw, Tool, ToolMigration, ToolRow, named, read

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
    return [each for path, _ in named(folder, _FILE, deep=True) for each in _changesets(path, folder)]


def _changesets(path: Path, folder: Path) -> Iterator[ToolMigration]:
    text = _heeded(read(path)[1])
    head = _HEAD.match(text)
    if head is None:
        return
    place = _attributes(head["attributes"]).get("logicalfilepath") or path.relative_to(folder).as_posix()
    marks = list(_CHANGESET.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):
        declared = _attributes(mark["attributes"])
        if _is_for_postgresql(declared.get("dbms", "")) and declared.get("ignore", "").lower() != "true":
            yield _foreign(mark, text[mark.end() : end], place, declared)


def _heeded(text: str) -> str:
    """A text without the lines that Liquibase is told to leave out."""
    kept: list[str] = []
    left_out = 0.0
    for line in text.splitlines(keepends=True):
        if mark := _IGNORE.match(line):
            left_out = inf if mark["all"] else int(mark["count"] or 0)
        elif left_out:
            left_out -= 1
        else:
            kept.append(line)
    return "".join(kept)


def _foreign(mark: re.Match[str], text: str, place: str, declared: dict[str, str]) -> ToolMigration:
    author, identity = (mark[part].strip().strip('"') for part in ("author", "id"))
    return ToolMigration(
        f"{place}: {author}:{identity}",
        _file_keys(identity, author, declared.get("logicalfilepath", place)),
        identity if identity.isdecimal() else "",
        f"{Path(place).stem}_{identity}",
        _MARK.sub("", _ROLLBACK.sub("", text)).lstrip("\n"),
        transactional=declared.get("runintransaction", "true").lower() != "false",
        obstacle=_obstacle(text, declared),
        remarks=tuple(f"{name} is not taken over." for name in _DROPPED if name.lower() in declared),
    )


def _attributes(text: str) -> dict[str, str]:
    return {m["name"].lower(): m["quoted"] or m["value"] or "" for m in _ATTRIBUTE.finditer(text)}


def _is_for_postgresql(dbms: str) -> bool:
    """Whether Liquibase would run it here: a changeset for other databases alone leaves no row."""
    names = {name.strip().lower() for name in dbms.split(",") if name.strip()}
    wanted = {name for name in names if not name.startswith("!")}
    return "!postgresql" not in names and (not wanted or not wanted.isdisjoint({"postgresql", "all"}))


def _obstacle(text: str, declared: dict[str, str]) -> str:
    if parameter := _PARAMETER.search(text):
        return f"It has the parameter {parameter.group()}."
    if declared.get("enddelimiter", ";") != ";":
        return f"Its statements end with {declared['enddelimiter']}."
    return "It has preconditions." if re.search(r"(?im)^--[ \t]*preconditions?\b", text) else ""


def _row_keys(identity: str, author: str, place: str) -> tuple[str, ...]:
    """Liquibase's path begins where it was called, ours at the folder: one is the whole of the other's end."""
    whole = place.removeprefix("classpath:").lstrip("/")
    return (*(f"{identity} {author} {end}" for end in _ends(whole)), f"{identity} {author} .../{whole}")


def _file_keys(identity: str, author: str, place: str) -> tuple[str, ...]:
    whole = place.removeprefix("classpath:").lstrip("/")
    return (f"{identity} {author} {whole}", *(f"{identity} {author} .../{end}" for end in _ends(whole)))


def _ends(path: str) -> list[str]:
    """A path, and what is left of it without one folder after the other."""
    parts = path.split("/")
    return ["/".join(parts[at:]) for at in range(len(parts))]


def rows(found: Sequence[Raw], _: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    return [_row(raw) for raw in sorted(found, key=lambda raw: int(raw["orderexecuted"]))]


def _row(raw: Raw) -> ToolRow:
    keys, kind = _row_keys(str(raw["id"]), str(raw["author"]), str(raw["filename"])), str(raw["exectype"])
    if kind not in _RAN:
        return ToolRow(keys, "undone" if kind == "SKIPPED" else "failed", told=f"Liquibase's row says {kind}.")
    marked = "Marked as run, and not run, by Liquibase." if kind == "MARK_RAN" else ""
    return ToolRow(keys, moment=raw["dateexecuted"], told=marked)


TOOL = Tool(
    "liquibase",
    "databasechangelog",
    frozenset({"id", "author", "filename", "exectype", "md5sum"}),
    ("src/main/resources/db/changelog", "db/changelog", "changelog", "migrations"),
    files,
    rows,
    busy="databasechangeloglock",
)
