"""The manifest of a backup, as a value and as the JSON file manifest.json beside the backup's other files.

A manifest contains a SHA-256 of the rest, so a manifest edited by hand is not read. Sizes are in bytes, durations in
milliseconds, hashes are SHA-256 in hexadecimal, times are ISO 8601 in UTC.
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
DUMP = "database.dump"
FOLDER = "database"
GLOBALS = "globals.sql"
"""The files of a backup: the manifest, a dump in one file or a dump in a folder, and the roles and tablespaces."""
_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{4}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NotAManifest(ValueError):
    """Raised when a text is not a valid manifest. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A stored file of a backup. `stamp` is the store's modification stamp."""

    size: int
    sha256: str
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting made by ALTER DATABASE ... SET, or with a role by ALTER ROLE ... IN DATABASE ... SET."""

    role: str | None
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A privilege on the database. The grantee is None for PUBLIC."""

    grantee: str | None
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class Database:
    """The properties of a database not contained in a dump. `grants` is None for the default privileges.

    `provider` is the locale provider as in pg_database: c for libc, i for ICU, b for builtin. `locale` is the locale
    of ICU or of the builtin provider.
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
    """The contents of a database in a snapshot. A restored database is compared with them.

    `tables` maps tables to numbers of rows, `extensions` maps extensions to versions, `history` maps applied migrations
    to checksums. Names of tables and indexes are quoted as in SQL. `roles` are the owners and grantees of all objects.
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
    """The description of a backup.

    `archive` is the dump's format, custom or directory. Every file is encrypted to the `recipients`, unless empty.
    """

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


def new_id(moment: datetime, digit: int) -> str:
    """Make a backup id. Ids sort by time: date and time, then milliseconds and `digit` (0 to 15) in hexadecimal."""
    return f"{moment.astimezone(timezone.utc):%Y%m%dT%H%M%S}-{moment.microsecond // 1000:03x}{digit:x}"


def moment_of(backup_id: str) -> datetime:
    """The begin of a backup or draft, to the second. Raises ValueError for a malformed id."""
    return datetime.strptime(backup_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def dumps(manifest: Manifest) -> bytes:
    """Encode the manifest as JSON with a hash."""
    shape = asdict(manifest)
    return json.dumps({**shape, "sha256": _hash(shape)}, indent=2, ensure_ascii=False).encode() + b"\n"


def loads(text: bytes) -> Manifest:
    """Decode a manifest. Raises NotAManifest for any other text, and for a changed manifest."""
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


def differences(expected: Contents, actual: Contents) -> list[str]:
    """Describe each difference in a sentence: tables, rows, large objects, INVALID indexes, history."""
    sentences = [
        f"Table {name}: {_rows(actual.tables.get(name))}, and {_rows(rows)} in the backup."
        for name, rows in expected.tables.items()
        if actual.tables.get(name) != rows
    ]
    sentences += [f"Table {name} is not in the backup." for name in actual.tables if name not in expected.tables]
    if expected.large_objects != actual.large_objects:
        sentences.append(f"Large objects: {actual.large_objects}, and {expected.large_objects} in the backup.")
    new_indexes = [name for name in actual.invalid_indexes if name not in expected.invalid_indexes]
    sentences += [f"Index {name} is INVALID." for name in new_indexes]
    if expected.history != actual.history:
        rows = sorted(set(expected.history.items()) ^ set(actual.history.items()))
        sentences.append(f"The history differs: {', '.join(dict.fromkeys(name for name, _ in rows))}.")
    return sentences


def other_versions(expected: Contents, actual: Contents) -> list[str]:
    """Describe each absent extension, or extension of another version, in a sentence. A dump does not fix versions."""
    return [
        f"Extension {name}: {actual.extensions.get(name, 'absent')}, and {version} in the backup."
        for name, version in expected.extensions.items()
        if actual.extensions.get(name) != version
    ]


def _rows(count: int | None) -> str:
    return "absent" if count is None else "1 row" if count == 1 else f"{count} rows"
