"""Liquibase: databasechangelog, by id, author and file; changelogs in SQL, of which each changeset becomes a file.

Its checksum is of the change as it was parsed, and not of the text, so that nothing is verified by it. A changeset that
is to be ignored, or is for another database, is none of its migrations here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path

from ops.tools.foreign import Foreign, Raw, Row, Tool, named, read

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
_AGAIN = ("runOnChange", "runAlways")
_RAN = ("EXECUTED", "RERAN", "MARK_RAN")


def files(folder: Path) -> Sequence[Foreign]:
    return [each for path, _ in named(folder, _FILE, deep=True) for each in _changesets(path, folder)]


def _changesets(path: Path, folder: Path) -> Iterator[Foreign]:
    text = _heeded(read(path)[1])
    head = _HEAD.match(text)
    if head is None:
        return
    place = _attributes(head["attributes"]).get("logicalfilepath") or path.relative_to(folder).as_posix()
    marks = list(_CHANGESET.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):
        if _is_for_us(_attributes(mark["attributes"])):
            yield _foreign(mark, text[mark.end() : end], place)


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


def _is_for_us(declared: Mapping[str, str]) -> bool:
    names = [name.strip() for name in declared.get("dbms", "").lower().split(",") if name.strip()]
    wanted = [name for name in names if not name.startswith("!")]
    is_named = "postgresql" in wanted or "all" in wanted or (not wanted and "!postgresql" not in names)
    return is_named and declared.get("ignore", "false").lower() != "true"


def _foreign(mark: re.Match[str], text: str, place: str) -> Foreign:
    declared = _attributes(mark["attributes"])
    author, identity = mark["author"].strip().strip('"'), mark["id"].strip('"')
    of, ends = f"{identity} {author}", _ends(declared.get("logicalfilepath", place))
    return Foreign(
        f"{place}: {author}:{identity}",
        (f"{of} whole {ends[0]}", *(f"{of} end {end}" for end in ends)),
        identity if identity.isdecimal() else "",
        f"{Path(place).stem}_{identity}",
        _MARK.sub("", _ROLLBACK.sub("", text)).lstrip("\n"),
        transactional=declared.get("runintransaction", "true").lower() != "false",
        obstacle=_obstacle(text, declared),
        remarks=tuple(f"{name} is not taken over." for name in _AGAIN if name.lower() in declared),
    )


def _attributes(text: str) -> dict[str, str]:
    return {m["name"].lower(): m["quoted"] or m["value"] or "" for m in _ATTRIBUTE.finditer(text)}


def _obstacle(text: str, declared: Mapping[str, str]) -> str:
    if parameter := _PARAMETER.search(text):
        return f"It has the parameter {parameter.group()}."
    if declared.get("enddelimiter", ";") != ";":
        return f"Its statements end with {declared['enddelimiter']}."
    return "It has preconditions." if re.search(r"(?im)^--[ \t]*preconditions?\b", text) else ""


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
