"""The manifest of a backup: what it says of itself, as a value and as the JSON beside its files.

Owns the format and its judgement. Refuses to know stores and programs. A manifest carries the SHA-256 of itself, so
that one that was edited by hand, or belongs to another backup, is none. Sizes are bytes, durations milliseconds,
hashes SHA-256 in hex, moments ISO 8601 in UTC.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

FORMAT = 2
NAME = "manifest.json"
_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{4}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NotAManifest(ValueError):
    """Why a text is no manifest, as a sentence."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A file of a backup as it is stored. `stamp` is the store's own mark of when it was last written."""

    size: int
    sha256: str
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that ALTER DATABASE gave, or ALTER ROLE ... IN DATABASE where there is a role."""

    role: str | None
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A privilege on the database itself; the grantee is null for PUBLIC."""

    grantee: str | None
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class Database:
    """What a dump does not hold of the database itself. `grants` is null where they are the defaults.

    `locale` is that of ICU or the builtin provider; `provider` is pg_database's letter: c, i or b.
    """

    name: str
    owner: str
    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None
    comment: str | None
    connection_limit: int
    settings: Sequence[Setting] = ()
    grants: Sequence[Grant] | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database holds, under one snapshot: what a restored one is compared by.

    `tables` maps each table to its rows, `extensions` each to its version, `history` each applied migration to its
    checksum; names are quoted where SQL would. `roles` are all that objects depend on, as owners or by grants.
    """

    tables: Mapping[str, int]
    large_objects: int
    extensions: Mapping[str, str]
    invalid_indexes: Sequence[str]
    roles: Sequence[str]
    history: Mapping[str, str]

    @property
    def rows(self) -> int:
        return sum(self.tables.values())


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. `archive` is the form of the dump, custom or directory; `recipients` are those
    to whom every file is encrypted."""

    backup_id: str
    environment: str
    target: str
    created_at: str
    server_version: int
    system_identifier: str
    client_version: str
    tool_version: str
    archive: str
    compression: str
    files: Mapping[str, BackupFile]
    database: Database
    database_size: int
    contents: Contents
    dump_ms: int
    verify_ms: int
    label: str | None = None
    keep: bool = False
    recipients: Sequence[str] = ()
    format: int = field(default=FORMAT)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.created_at).astimezone(timezone.utc)


def new_id(moment: datetime, chance: int) -> str:
    """An id that sorts by time: the second, then its milliseconds and a digit of `chance`, 0 to 15, in hexadecimal."""
    return f"{moment.astimezone(timezone.utc):%Y%m%dT%H%M%S}-{moment.microsecond // 1000:03x}{chance:x}"


def moment_of(backup_id: str) -> datetime:
    """When a backup, or a draft of one, was begun, to the second; ValueError where that is no id."""
    return datetime.strptime(backup_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def dumps(manifest: Manifest) -> bytes:
    """The manifest as JSON, its own hash in it."""
    shape = asdict(manifest)
    return json.dumps({**shape, "sha256": _hash(shape)}, indent=2, ensure_ascii=False).encode() + b"\n"


def loads(text: bytes) -> Manifest:
    """The manifest in a text; NotAManifest for anything else, also for one that was changed."""
    try:
        shape = json.loads(text)
    except ValueError:
        raise NotAManifest("Its manifest is no JSON: it was cut short, or written over.") from None
    if not isinstance(shape, dict) or shape.get("format") != FORMAT:
        raise NotAManifest(f"Its manifest is not of the format {FORMAT}, which this version reads.")
    if shape.pop("sha256", None) != _hash(shape):
        raise NotAManifest("Its manifest was changed after it was written.")
    try:
        return _manifest(shape)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise NotAManifest("Its manifest lacks something that this version needs.") from None


def _hash(shape: Mapping[str, Any]) -> str:
    canonical = json.dumps(shape, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _manifest(shape: dict[str, Any]) -> Manifest:
    database = dict(shape["database"])
    grants = database["grants"]
    database["settings"] = tuple(Setting(**each) for each in database["settings"])
    database["grants"] = None if grants is None else tuple(Grant(**each) for each in grants)
    contents: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in shape["contents"].items()}
    files = {name: BackupFile(**each) for name, each in shape["files"].items()}
    if not files or any(not _SHA256.fullmatch(each.sha256) for each in files.values()):
        raise ValueError
    rest = {"files": files, "database": Database(**database), "contents": Contents(**contents)}
    return Manifest(**{**shape, **rest, "recipients": tuple(shape["recipients"])})


def differences(expected: Contents, found: Contents) -> list[str]:
    """What is not as it was, a sentence each: tables, rows, large objects, INVALID indexes, history."""
    told = [
        f"Table {name}: {_rows(found.tables.get(name))}, and {_rows(rows)} in the backup."
        for name, rows in expected.tables.items()
        if found.tables.get(name) != rows
    ]
    told += [f"Table {name} is not in the backup." for name in found.tables if name not in expected.tables]
    if expected.large_objects != found.large_objects:
        told.append(f"Large objects: {found.large_objects}, and {expected.large_objects} in the backup.")
    told += [f"Index {name} is INVALID." for name in found.invalid_indexes if name not in expected.invalid_indexes]
    if expected.history != found.history:
        odd = sorted(set(expected.history.items()) ^ set(found.history.items()))
        told.append(f"The history differs: {', '.join(dict.fromkeys(name for name, _ in odd))}.")
    return told


def other_versions(expected: Contents, found: Contents) -> list[str]:
    """The extensions that are absent or of another version, a sentence each: a dump does not say which it was."""
    return [
        f"Extension {name}: {found.extensions.get(name, 'absent')}, and {version} in the backup."
        for name, version in expected.extensions.items()
        if found.extensions.get(name) != version
    ]


def _rows(count: int | None) -> str:
    return "absent" if count is None else "1 row" if count == 1 else f"{count} rows"


DUMP = "database.dump"


FOLDER = "database"


GLOBALS = "globals.sql"
