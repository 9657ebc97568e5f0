"""Flyway: flyway_schema_history, by version and the CRC32 of the file's lines.

Of a version the row of the highest rank counts; UNDO and DELETE rows take an earlier one back, and what is below a
BASELINE was never run. Repeatable migrations have no version: they follow what is applied.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import HistoryTable, Raw, Tool, ToolMigration, ToolRow, named, read, runs_alone

_FILE = re.compile(r"(?:V(?P<version>[0-9._]*[0-9])|R)__(?P<title>.+)\.sql", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")
_NO_TRANSACTION = re.compile(r"^\s*executeInTransaction\s*=\s*false\s*$", re.IGNORECASE | re.MULTILINE)
_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")


def files(folder: Path) -> Sequence[ToolMigration]:
    found = [_foreign(path, match) for path, match in named(folder, _FILE, deep=True)]
    return sorted(found, key=lambda each: (each.loose, _numbers(each.keys[0]), each.name))


def _foreign(path: Path, match: re.Match[str]) -> ToolMigration:
    raw, text = read(path)
    version = _version(match["version"] or "")
    config = path.with_name(f"{path.name}.conf")
    declared = config.is_file() and _NO_TRANSACTION.search(read(config)[1])
    placeholder = _PLACEHOLDER.search(text)
    title = match["title"].replace(" ", "_")
    return ToolMigration(
        path.stem,
        (version or f"R {title.replace('_', ' ')}",),
        version if version.isdecimal() else "",
        title,
        text,
        transactional=not declared and not runs_alone(text),
        checksums=frozenset({str(checksum(raw))}),
        obstacle=f"It has the placeholder {placeholder.group()}." if placeholder else "",
        remarks=() if version else ("A repeatable migration, which here is run once.",),
        loose=not version,
    )


def checksum(raw: bytes) -> int:
    """One CRC32 over the lines without their ends, as a signed number of 32 bits."""
    crc = 0
    for line in _LINE_END.split(raw.decode("utf-8-sig")):
        crc = zlib.crc32(line.encode(), crc)
    return crc - (1 << 32) if crc >= 1 << 31 else crc


def _version(text: str) -> str:
    """As Flyway compares it: numbers between dots, zeros at the end left out."""
    parts = [str(int(part)) for part in re.split(r"[._]", text) if part]
    while len(parts) > 1 and parts[-1] == "0":
        parts.pop()
    return ".".join(parts)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version[0].isdigit() else ()


def rows(found: Sequence[Raw], given: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest: dict[str, ToolRow] = {}
    baseline: tuple[int, ...] = ()
    for raw in sorted(found, key=lambda raw: int(raw["installed_rank"])):
        kind = str(raw["type"]).upper()
        if kind == "BASELINE":
            baseline = _numbers(_version(str(raw["version"])))
        elif kind != "SCHEMA":
            row = _row(raw, kind)
            latest[row.keys[0]] = row
    below = [each for each in given if not each.loose and _numbers(each.keys[0]) <= baseline]
    return [*latest.values(), *(_below(each) for each in below if each.keys[0] not in latest)]


def _row(raw: Raw, kind: str) -> ToolRow:
    version = _version(str(raw["version"])) if raw["version"] else f"R {str(raw['description']).replace('_', ' ')}"
    if not raw["success"]:
        return ToolRow((version,), "failed", told=f"Flyway's row {raw['installed_rank']} says that it failed.")
    if kind.startswith("UNDO") or kind == "DELETE":
        return ToolRow((version,), "undone", told=f"Taken back by a row of type {kind}.")
    known = None if raw["checksum"] is None else str(raw["checksum"])
    return ToolRow((version,), checksum=known, moment=raw["installed_on"], duration_ms=raw["execution_time"])


def _below(each: ToolMigration) -> ToolRow:
    return ToolRow(each.keys, "failed", told="Below Flyway's baseline, so never run here: leave it out of --files.")


def _lock(table: HistoryTable) -> int:
    """ "Flyway" in bytes, and Java's hash of the table's quoted name."""
    hashed = 0
    for character in f'"{table.schema}"."{table.name}"':
        hashed = (31 * hashed + ord(character)) & 0xFFFFFFFF
    return 0x466C79776179 + (hashed - (1 << 32) if hashed >= 1 << 31 else hashed)


TOOL = Tool(
    "flyway",
    "flyway_schema_history",
    frozenset({"installed_rank", "version", "script", "checksum", "success"}),
    ("src/main/resources/db/migration", "db/migration", "migrations", "flyway/sql"),
    files,
    rows,
    lock=_lock,
)
