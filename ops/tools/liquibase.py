"""Liquibase: databasechangelog, by id, author and file; changelogs in SQL, of which each changeset becomes a file.

Its checksum is of the change as it was parsed, and not of the text, so that nothing is verified by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ops.tools.foreign import Foreign, Raw, Row, Tool, named, read

_FILE = re.compile(r".+\.sql", re.DOTALL | re.IGNORECASE)
_HEAD = re.compile(r"\s*--\s*liquibase\s+formatted\s+sql(?P<attributes>.*)", re.IGNORECASE)
_CHANGESET = re.compile(r"(?im)^--\s*changeset\s+(?P<author>[^:\n]+):(?P<id>\S+)(?P<attributes>.*)$")
_ATTRIBUTE = re.compile(r'(?P<name>\w+):(?:"(?P<quoted>[^"]*)"|(?P<value>\S+))')
_ROLLBACK = re.compile(r"/\*\s*liquibase\s+rollback\b.*?\*/", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(r"(?im)^--\s*(rollback|comment|preconditions?(-\S+)?|validCheckSum|ignoreLines)\b.*\n?")
_PARAMETER = re.compile(r"\$\{[^}]*\}")
_AGAIN = ("runOnChange", "runAlways")
_RAN = ("EXECUTED", "RERAN", "MARK_RAN")


def files(folder: Path) -> Sequence[Foreign]:
    return [each for path, _ in named(folder, _FILE, deep=True) for each in _changesets(path, folder)]


def _changesets(path: Path, folder: Path) -> Iterator[Foreign]:
    text = read(path)[1]
    head = _HEAD.match(text)
    if head is None:
        return
    place = _attributes(head["attributes"]).get("logicalfilepath") or path.relative_to(folder).as_posix()
    marks = list(_CHANGESET.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):
        yield _foreign(mark, text[mark.end() : end], place)


def _foreign(mark: re.Match[str], text: str, place: str) -> Foreign:
    declared, author = _attributes(mark["attributes"]), mark["author"].strip()
    of, ends = f"{mark['id']} {author}", _ends(declared.get("logicalfilepath", place))
    return Foreign(
        f"{place}: {author}:{mark['id']}",
        (f"{of} whole {ends[0]}", *(f"{of} end {end}" for end in ends)),
        mark["id"] if mark["id"].isdecimal() else "",
        f"{Path(place).stem}_{mark['id']}",
        _MARK.sub("", _ROLLBACK.sub("", text)).lstrip("\n"),
        transactional=declared.get("runintransaction", "true").lower() != "false",
        obstacle=_obstacle(text, declared),
        remarks=tuple(f"{name} is not taken over." for name in _AGAIN if name.lower() in declared),
    )


def _attributes(text: str) -> dict[str, str]:
    return {m["name"].lower(): m["quoted"] or m["value"] or "" for m in _ATTRIBUTE.finditer(text)}


def _obstacle(text: str, declared: dict[str, str]) -> str:
    if parameter := _PARAMETER.search(text):
        return f"It has the parameter {parameter.group()}."
    if declared.get("enddelimiter", ";") != ";":
        return f"Its statements end with {declared['enddelimiter']}."
    if "dbms" in declared and "postgresql" not in declared["dbms"].lower():
        return f"It is for {declared['dbms']}."
    return "It has preconditions." if re.search(r"(?im)^--\s*preconditions?\b", text) else ""


def _ends(place: str) -> list[str]:
    """A path, and it again from each of its folders on: Liquibase's begin where it was called, ours elsewhere."""
    parts = place.removeprefix("classpath:").strip("/").split("/")
    return ["/".join(parts[at:]) for at in range(len(parts))]


def rows(found: Sequence[Raw], _: Sequence[Foreign]) -> Sequence[Row]:
    return [_row(raw) for raw in sorted(found, key=lambda raw: int(raw["orderexecuted"]))]


def _row(raw: Raw) -> Row:
    of, ends, kind = f"{raw['id']} {raw['author']}", _ends(str(raw["filename"])), str(raw["exectype"])
    keys = (*(f"{of} whole {end}" for end in ends), f"{of} end {ends[0]}")
    if kind not in _RAN:
        return Row(keys, "undone" if kind == "SKIPPED" else "failed", told=f"Liquibase's row says {kind}.")
    marked = "Marked as run, and not run, by Liquibase." if kind == "MARK_RAN" else ""
    return Row(keys, moment=raw["dateexecuted"], told=marked)


TOOL = Tool(
    "liquibase",
    "databasechangelog",
    frozenset({"id", "author", "filename", "exectype", "md5sum"}),
    ("src/main/resources/db/changelog", "db/changelog", "changelog", "migrations"),
    files,
    rows,
    busy="databasechangeloglock",
)
