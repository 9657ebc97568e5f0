"""Flyway: the table flyway_schema_history has versions and a CRC32 of each file's lines.

The row with the highest rank decides about a version. UNDO and DELETE rows cancel an earlier row. Versions below a
BASELINE row never ran. Repeatable migrations have no version and follow the applied ones.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from pgratchet.adopt.tools.tool import (
    HistoryTable,
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    find_files,
    read_file,
    refuses_transaction,
)

_FILE = re.compile(r"(?:V(?P<version>[0-9._]*[0-9])|R)__(?P<title>.+)\.sql", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")
_NO_TRANSACTION = re.compile(r"^\s*executeInTransaction\s*=\s*false\s*$", re.IGNORECASE | re.MULTILINE)
_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")


def files(folder: Path) -> Sequence[ToolMigration]:
    migrations = [_migration(path, match) for path, match in find_files(folder, _FILE, deep=True)]
    return sorted(migrations, key=lambda file: (file.unordered, _numbers(file.keys[0]), file.name))


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    content, text = read_file(path)
    version = _version(match["version"] or "")
    config = path.with_name(f"{path.name}.conf")
    declared = config.is_file() and _NO_TRANSACTION.search(read_file(config)[1])
    placeholder = _PLACEHOLDER.search(text)
    title = match["title"].replace(" ", "_")
    return ToolMigration(
        path.stem,
        (version or f"R {title.replace('_', ' ')}",),
        version if version.isdecimal() else "",
        title,
        text,
        transactional=not declared and not refuses_transaction(text),
        checksums=frozenset({str(checksum(content))}),
        obstacle=f"It has the placeholder {placeholder.group()}." if placeholder else "",
        remarks=() if version else ("A repeatable migration, which here is run once.",),
        unordered=not version,
    )


def checksum(content: bytes) -> int:
    """A CRC32 over all lines without their line ends, as a signed number of 32 bits (ChecksumCalculator.java)."""
    crc = 0
    for line in _LINE_END.split(content.decode("utf-8-sig")):
        crc = zlib.crc32(line.encode(), crc)
    return crc - (1 << 32) if crc >= 1 << 31 else crc


def _version(text: str) -> str:
    """A version as Flyway compares versions: numbers between dots, without zeros at the end."""
    parts = [str(int(part)) for part in re.split(r"[._]", text) if part]
    while len(parts) > 1 and parts[-1] == "0":
        parts.pop()
    return ".".join(parts)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version[0].isdigit() else ()


def rows(json_rows: Sequence[JsonRow], migrations: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest: dict[str, ToolRow] = {}
    baseline: tuple[int, ...] = ()
    for json_row in sorted(json_rows, key=lambda row: int(row["installed_rank"])):
        kind = str(json_row["type"]).upper()
        if kind == "BASELINE":
            baseline = _numbers(_version(str(json_row["version"])))
        elif kind != "SCHEMA":
            row = _row(json_row, kind)
            latest[row.keys[0]] = row
    below = [file for file in migrations if not file.unordered and _numbers(file.keys[0]) <= baseline]
    return [*latest.values(), *(_below_baseline(file) for file in below if file.keys[0] not in latest)]


def _row(row: JsonRow, kind: str) -> ToolRow:
    version = _version(str(row["version"])) if row["version"] else f"R {str(row['description']).replace('_', ' ')}"
    if not row["success"]:
        return ToolRow((version,), "failed", remark=f"Flyway's row {row['installed_rank']} says that it failed.")
    if kind.startswith("UNDO") or kind == "DELETE":
        return ToolRow((version,), "undone", remark=f"Taken back by a row of type {kind}.")
    crc = None if row["checksum"] is None else str(row["checksum"])
    return ToolRow((version,), checksum=crc, moment=row["installed_on"], duration_ms=row["execution_time"])


def _below_baseline(file: ToolMigration) -> ToolRow:
    remark = "Below Flyway's baseline, so never run here: leave it out of --files."
    return ToolRow(file.keys, "failed", remark=remark)


def _lock_key(table: HistoryTable) -> int:
    """The bytes of "Flyway" as a number, plus Java's hashCode of the table's quoted name."""
    hash_code = 0
    for character in f'"{table.schema}"."{table.name}"':
        hash_code = (31 * hash_code + ord(character)) & 0xFFFFFFFF
    return 0x466C79776179 + (hash_code - (1 << 32) if hash_code >= 1 << 31 else hash_code)


TOOL = Tool(
    "flyway",
    "flyway_schema_history",
    frozenset({"installed_rank", "version", "script", "checksum", "success"}),
    ("src/main/resources/db/migration", "db/migration", "migrations", "flyway/sql"),
    files,
    rows,
    lock_key=_lock_key,
)
