"""Flyway: the table flyway_schema_history has versions and a CRC32 of each file's lines.

The row with the highest rank decides about a version. UNDO and DELETE rows cancel an earlier row. Versions below a
BASELINE row never ran. Repeatable migrations have no version: they run after the others, in order of their
descriptions. Callbacks have no row. Those that follow a migration or end a run become repeatables, since Flyway runs
them again in its next run (org.flywaydb.core.api.callback.Event has the list).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pgratchet.adopt.tools.tool import (
    HistoryTable,
    JsonRow,
    Tool,
    ToolMigration,
    ToolRow,
    find_files,
    read_file,
    refuses_transaction,
    statements_of,
)

_VERSION = r"(?P<version>[0-9._]*[0-9])"
_FILE = re.compile(rf"(?:V{_VERSION}|B(?P<baseline>[0-9._]*[0-9])|R)(?:__(?P<title>.*))?\.(?i:sql)", re.DOTALL)
_CODE = re.compile(
    rf"(?:V{_VERSION}|R)__(?P<title>.+)\.(?:java|kt|groovy|scala|class|sh|bash|ps1|py|cmd|bat)", re.DOTALL
)
_TAKEN = ("afterEachMigrate", "afterVersioned", "afterMigrateApplied", "afterMigrate", "afterMigrateOperationFinish")
"""The events after a migration, in the order in which Flyway runs their callbacks."""
_CALLBACK = re.compile(
    r"(?P<event>(?:before|after)(?:Each)?(?:Migrate|Undo|Clean|Info|Validate|Baseline|Repair|Versioned|Repeatables"
    r"|Connect|CreateSchema)(?:Statement)?(?:Applied|Error|StatementError|OperationFinish)?|createSchema)"
    r"(?:__(?P<title>.*))?\.(?i:sql)",
    re.DOTALL,
)
_COMPANIONS = re.compile(r"U[0-9._]*[0-9](__.*)?\.(?i:sql)|.*\.(?i:sql)\.conf", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")
_SETTING = re.compile(
    r"^\s*(?P<name>executeInTransaction|shouldExecute|placeholderReplacement)\s*=\s*(?P<value>.*?)\s*$", re.MULTILINE
)
_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")
_CODE_TYPES = ("JDBC", "SPRING_JDBC", "CUSTOM", "SCRIPT")
_CALLBACK_REMARK = (
    "Flyway runs this callback in every run, and pgratchet in the next migrate and then when its text has changed."
)
_CALLBACK_ONCE = "Flyway runs this callback in every run, and pgratchet once: it cannot run in a transaction."
_NOT_TAKEN = "Flyway runs this callback at another moment than after a migration, which pgratchet does not have."
_WRITES = ("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "REFRESH", "ANALYZE", "CALL", "DO", "SELECT")
"""The first words of statements that may depend on rows, and not only on the schema."""


def files(folder: Path) -> Sequence[ToolMigration]:
    migrations = [
        *(_migration(path, match) for path, match in find_files(folder, _FILE, deep=True)),
        *(_code(path, match) for path, match in find_files(folder, _CODE, deep=True)),
    ]
    callbacks = [_callback(path, match["event"]) for path, match in find_files(folder, _CALLBACK, deep=True)]
    return _in_order([*migrations, *(callbacks if migrations else [])])


def _in_order(migrations: Sequence[ToolMigration]) -> list[ToolMigration]:
    return sorted(migrations, key=_place)


def _place(file: ToolMigration) -> tuple[bool, int, tuple[int, ...], str, str]:
    """The place of a migration: versions rise, then come descriptions, and then callbacks as Flyway runs them."""
    key = file.keys[0]
    event = file.name.partition("__")[0]
    rank = (*_TAKEN, event).index(event) if _is_callback(file) else -1
    is_behind = file.unordered or file.repeatable
    return is_behind, rank, _numbers(key), key if is_behind else "", file.name


def _migration(path: Path, match: re.Match[str]) -> ToolMigration:
    title = (match["title"] or "").replace(" ", "_")
    description = title.replace("_", " ")
    if match["baseline"]:
        return _sql(path, (f"B {_version(match['baseline'])}",), "", f"baseline_{title}", never=_BASELINE)
    version = _version(match["version"] or "")
    return _sql(path, (version or f"R {description}",), version if version.isdecimal() else "", title)


_BASELINE = "Flyway runs this baseline migration in an empty database only, in place of the versions up to its own."


def _sql(path: Path, keys: tuple[str, ...], version: str, title: str, *, never: str = "") -> ToolMigration:
    content, text = read_file(path)
    config = path.with_name(f"{path.name}.conf")
    settings = {m["name"]: m["value"] for m in _SETTING.finditer(read_file(config)[1])} if config.is_file() else {}
    placeholder = _PLACEHOLDER.search(text) if settings.get("placeholderReplacement", "").lower() != "false" else None
    should_execute = settings.get("shouldExecute", "true")
    condition = "" if should_execute.lower() == "true" else f"Flyway runs it where shouldExecute={should_execute}."
    transactional = settings.get("executeInTransaction", "").lower() != "false" and not refuses_transaction(text)
    is_repeatable = keys[0].startswith(("R ", "callback "))
    return ToolMigration(
        path.stem,
        keys,
        version,
        title,
        text,
        transactional=transactional,
        checksums=frozenset({str(checksum(content))}),
        obstacle=f"It has the placeholder {placeholder.group()}." if placeholder else "",
        remarks=("It runs once here, because it cannot run in a transaction.",)
        if is_repeatable and not transactional
        else (),
        unordered=is_repeatable and not transactional,
        repeatable=is_repeatable and transactional,
        condition=condition,
        never=never,
        paths=(path, config) if settings else (path,),
    )


def _code(path: Path, match: re.Match[str]) -> ToolMigration:
    version = _version(match["version"] or "")
    title = match["title"].replace(" ", "_")
    return ToolMigration(
        path.stem,
        (version or f"R {title.replace('_', ' ')}",),
        version if version.isdecimal() else "",
        title,
        obstacle=f"It is a {path.suffix} file, not SQL.",
        repeatable=not version,
        paths=(path,),
    )


def _callback(path: Path, event: str) -> ToolMigration:
    """The callback of an event. Its name here sorts behind others, since most callbacks end a run."""
    file = _sql(path, (f"callback {path.stem}",), "", f"zz_{path.stem}")
    if event not in _TAKEN:
        return replace(file, checksums=frozenset(), remarks=(), never=_NOT_TAKEN)
    if not file.repeatable:
        return replace(file, checksums=frozenset(), title=path.stem, remarks=(_CALLBACK_ONCE,))
    heads = dict.fromkeys(statement.head[0] for statement in statements_of(file.up) if statement.head[0] in _WRITES)
    review = (f"Review it: its {', '.join(heads)} may depend on rows.",) if heads else ()
    return replace(file, checksums=frozenset(), remarks=(_CALLBACK_REMARK, *review))


def _is_callback(file: ToolMigration) -> bool:
    return file.keys[0].startswith("callback ")


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
    """The numbers of a version, or of a baseline migration's version."""
    digits = version.removeprefix("B ")
    return tuple(int(part) for part in digits.split(".")) if digits[:1].isdigit() else ()


def complete(json_rows: Sequence[JsonRow], migrations: Sequence[ToolMigration]) -> Sequence[ToolMigration]:
    """The files and a stand-in for each migration that has only a row, because it is compiled code."""
    known = {key for file in migrations for key in file.keys}
    compiled = {
        key: row for row in json_rows if str(row["type"]).upper() in _CODE_TYPES and (key := _key(row)) not in known
    }
    return _in_order([*migrations, *(_compiled(key, row) for key, row in compiled.items())])


def _compiled(key: str, row: JsonRow) -> ToolMigration:
    title = re.sub(r"\W+", "_", str(row["description"]))
    kind = str(row["type"]).upper().replace("SPRING_", "")
    is_versioned = not key.startswith("R ")
    return ToolMigration(
        str(row["script"]),
        (key,),
        key if key.isdecimal() else "",
        title,
        obstacle=f"It is code of the type {kind}, not SQL.",
        repeatable=not is_versioned,
    )


def rows(json_rows: Sequence[JsonRow], migrations: Sequence[ToolMigration]) -> Sequence[ToolRow]:
    latest: dict[str, ToolRow] = {}
    baseline: tuple[int, ...] = ()
    outcome: Literal["never", "superseded"] = "never"
    for json_row in sorted(json_rows, key=lambda row: int(row["installed_rank"])):
        kind = str(json_row["type"]).upper()
        if kind in ("BASELINE", "SQL_BASELINE") and json_row["success"]:
            baseline = _numbers(_version(str(json_row["version"])))
            outcome = "never" if kind == "BASELINE" else "superseded"
        if kind not in ("BASELINE", "SCHEMA"):
            row = _row(json_row, kind)
            latest[row.keys[0]] = row
    below = [file for file in migrations if file.keys[0][0].isdigit() and _numbers(file.keys[0]) <= baseline]
    remark = "It is not above Flyway's baseline, so it has never run here."
    never = [ToolRow(file.keys, outcome, remark=remark) for file in below if file.keys[0] not in latest]
    ran = [file for file in migrations if latest and _is_callback(file) and not file.never]
    callbacks = [ToolRow(file.keys, "repeats" if file.repeatable else "applied") for file in ran]
    return [*latest.values(), *never, *callbacks]


def _key(row: JsonRow) -> str:
    """The key of a row's migration."""
    if str(row["type"]).upper() == "SQL_BASELINE":
        return f"B {_version(str(row['version']))}"
    return _version(str(row["version"])) if row["version"] else f"R {str(row['description']).replace('_', ' ')}"


def _row(row: JsonRow, kind: str) -> ToolRow:
    return replace(_outcome(row, kind, _key(row)), repeatable=not row["version"])


def _outcome(row: JsonRow, kind: str, key: str) -> ToolRow:
    if not row["success"]:
        return ToolRow((key,), "failed", remark=f"Flyway's row {row['installed_rank']} says that it failed.")
    if kind.startswith("UNDO") or kind == "DELETE":
        return ToolRow((key,), "undone", remark=f"A row of type {kind} has undone it.")
    crc = None if row["checksum"] is None else str(row["checksum"])
    return ToolRow((key,), checksum=crc, moment=row["installed_on"], duration_ms=row["execution_time"])


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
    complete=complete,
    lock_key=_lock_key,
    companions=_COMPANIONS,
    elsewhere=re.compile(rf"(?:R__.+|(?:{'|'.join(_TAKEN)})(?:__.*)?)\.(?i:sql)", re.DOTALL),
)
