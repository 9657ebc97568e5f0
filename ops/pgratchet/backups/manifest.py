"""The manifest of a backup, as a value and as the JSON file manifest.json beside the backup's other files.

A manifest contains a SHA-256 of the rest, so a manifest edited by hand is not read. Sizes are in bytes, durations in
milliseconds, hashes are SHA-256 in hexadecimal, times are ISO 8601 in UTC.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
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
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
"""A file of a backup, or of one folder in it. A manifest may come from a host, and names what is written."""


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
    of ICU or of the builtin provider, `icu_rules` are additional collation rules. `tablespace` is None for the default.
    `removed` are objects of every new database that were dropped, such as `SCHEMA public`.
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
    is_template: bool = False
    tablespace: str | None = None
    icu_rules: str | None = None
    removed: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class SequenceState:
    """The state of a sequence before a dump. Sequences have no snapshot, so the dump may have a later state.

    `latest` is the last value after the dump, if the sequence advanced during the dump. The value in the dump is
    unknown when it `went_back`, by setval() or as a cycle does.
    """

    last_value: int
    is_called: bool
    latest: int | None = None
    went_back: bool = False


@dataclass(frozen=True, slots=True)
class TableSize:
    """The size of a table: its rows, its bytes with TOAST values, and the bytes of its indexes."""

    rows: int
    bytes: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class MaterializedView:
    """A materialized view. `rows` is None when they cannot be counted: it is not populated, not readable or locked."""

    is_populated: bool
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a database in a snapshot. A restored database is compared with them.

    `tables` maps tables to numbers of rows, `extensions` maps extensions to versions, `history` maps applied migrations
    to checksums. Names of tables and indexes are quoted as in SQL. `roles` are the owners and grantees of all objects,
    `owners` the owners alone, `guests` those that own objects in schemas of other roles. `superuser_objects` are
    phrases for objects that only a superuser may create. Manifests of earlier versions have none of the last three.
    `sequences`, `materialized_views` and `schemas` are None in manifests of earlier versions; they are then not
    compared. `left_out` are sentences about objects that the dump lacks. `sizes` are those of the tables; None in
    manifests of earlier versions.
    """

    tables: Mapping[str, int]
    large_objects: int
    extensions: Mapping[str, str]
    invalid_indexes: Sequence[str]
    roles: Sequence[str]
    history: Mapping[str, str]
    owners: Sequence[str] = ()
    guests: Sequence[str] = ()
    superuser_objects: Sequence[str] = ()
    sequences: Mapping[str, SequenceState] | None = None
    materialized_views: Mapping[str, MaterializedView] | None = None
    schemas: Sequence[str] | None = None
    left_out: Sequence[str] = ()
    sizes: Mapping[str, TableSize] | None = None

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


def moment_of(backup_id: str) -> datetime | None:
    """The begin of a backup or draft, to the second; None for another name or an impossible date."""
    if not is_id(backup_id.partition(".")[0]):
        return None
    try:
        return datetime.strptime(backup_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def dumps(manifest: Manifest) -> bytes:
    """Encode the manifest as JSON with a hash."""
    shape = asdict(manifest)
    return json.dumps({**shape, "sha256": content_hash(shape)}, indent=2, ensure_ascii=False).encode() + b"\n"


def loads(text: bytes) -> Manifest:
    """Decode a manifest. Raises NotAManifest for any other text, and for a changed manifest."""
    try:
        shape = json.loads(text)
    except (ValueError, RecursionError):
        raise NotAManifest("Its manifest is no JSON: it was cut short, or written over.") from None
    if not isinstance(shape, dict) or shape.get("format") != FORMAT:
        raise NotAManifest(f"Its manifest is not of the format {FORMAT}, which this version reads.")
    if shape.pop("sha256", None) != content_hash(shape):
        raise NotAManifest("Its manifest was changed after it was written.")
    try:
        return _manifest(shape)
    except NotAManifest:
        raise
    except (TypeError, ValueError, KeyError, AttributeError):
        raise NotAManifest("Its manifest lacks something that this version needs.") from None


def content_hash(shape: Mapping[str, Any]) -> str:
    """The SHA-256 of a value as JSON, whatever the order of its names."""
    canonical = json.dumps(shape, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _manifest(shape: dict[str, Any]) -> Manifest:
    database = dict(shape["database"])
    grants = database["grants"]
    database["settings"] = tuple(Setting(**each) for each in database["settings"])
    database["grants"] = None if grants is None else tuple(Grant(**each) for each in grants)
    database["removed"] = tuple(database.get("removed", ()))
    files = {name: BackupFile(**each) for name, each in shape["files"].items()}
    if not files or any(not _SHA256.fullmatch(each.sha256) for each in files.values()):
        raise ValueError
    if outside := [name for name in files if not _FILE_NAME.fullmatch(name) or name == NAME]:
        raise NotAManifest(f"Its manifest names a file that no backup has: {outside[0]!r}.")
    datetime.fromisoformat(shape["created_at"])
    if not is_id(shape["backup_id"]):
        raise NotAManifest(f"Its manifest has an id that no backup has: {shape['backup_id']!r}.")
    rest = {"files": files, "database": Database(**database), "contents": _contents(shape["contents"])}
    return Manifest(**{**shape, **rest, "recipients": tuple(shape["recipients"])})


def _contents(shape: Mapping[str, Any]) -> Contents:
    values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in shape.items()}
    for key, kind in (("sequences", SequenceState), ("materialized_views", MaterializedView), ("sizes", TableSize)):
        if (states := values.get(key)) is not None:
            values[key] = {name: kind(**state) for name, state in states.items()}
    return Contents(**values)


def differences(expected: Contents, actual: Contents) -> list[str]:
    """Describe each difference in a sentence: tables, rows, sequences, schemas, large objects, indexes, history.

    A restore refreshes materialized views, so only their state is compared, not their rows.
    """
    sentences = [
        f"Table {name}: {_rows(actual.tables.get(name))}, and {_rows(rows)} in the backup."
        for name, rows in expected.tables.items()
        if actual.tables.get(name) != rows
    ]
    sentences += [f"Table {name} is not in the backup." for name in actual.tables if name not in expected.tables]
    sentences += [*_sequence_differences(expected, actual), *_view_differences(expected, actual)]
    sentences += [f"Schema {name} is absent." for name in _missing(expected.schemas, actual.schemas)]
    if expected.large_objects != actual.large_objects:
        sentences.append(f"Large objects: {actual.large_objects}, and {expected.large_objects} in the backup.")
    new_indexes = [name for name in actual.invalid_indexes if name not in expected.invalid_indexes]
    sentences += [f"Index {name} is INVALID." for name in new_indexes]
    if expected.history != actual.history:
        rows = sorted(set(expected.history.items()) ^ set(actual.history.items()))
        sentences.append(f"The history differs: {', '.join(dict.fromkeys(name for name, _ in rows))}.")
    return sentences


def _sequence_differences(expected: Contents, actual: Contents) -> Iterator[str]:
    if expected.sequences is None or actual.sequences is None:
        return
    for name, before in expected.sequences.items():
        now = actual.sequences.get(name)
        if now is None:
            yield f"Sequence {name} is absent."
        elif not _fits(now, before):
            yield f"Sequence {name}: {_state(now)}, and {_state(before)} in the backup."
    yield from (f"Sequence {name} is not in the backup." for name in actual.sequences if name not in expected.sequences)


def _fits(now: SequenceState, before: SequenceState) -> bool:
    """Tell whether a restored sequence has a state that the dump can have."""
    if before.went_back:
        return True
    if before.latest is None:
        return (now.last_value, now.is_called) == (before.last_value, before.is_called)
    first, last = sorted((before.last_value, before.latest))
    return first <= now.last_value <= last


def _state(sequence: SequenceState) -> str:
    if sequence.latest is not None:
        return f"{sequence.last_value} to {sequence.latest}"
    return f"{sequence.last_value}{'' if sequence.is_called else ', not yet used'}"


def _view_differences(expected: Contents, actual: Contents) -> Iterator[str]:
    if expected.materialized_views is None or actual.materialized_views is None:
        return
    names = ("not populated", "populated")
    for name, before in expected.materialized_views.items():
        now = actual.materialized_views.get(name)
        if now is None:
            yield f"Materialized view {name} is absent."
        elif now.is_populated != before.is_populated:
            yield (
                f"Materialized view {name}: {names[now.is_populated]}, and {names[before.is_populated]} in the backup."
            )


def _missing(names: Sequence[str] | None, others: Sequence[str] | None) -> list[str]:
    """The names that the others lack. None for either means that they are not compared."""
    return [name for name in names or () if others is not None and name not in others]


def notes(expected: Contents, actual: Contents) -> list[str]:
    """Describe in sentences what a restore changes: rows of refreshed views, and dropped objects that come back."""
    views = actual.materialized_views or {}
    returned = [f"schema {name}" for name in _missing(actual.schemas, expected.schemas)]
    returned += [f"extension {name}" for name in actual.extensions if name not in expected.extensions]
    sentences = [f"The {name} is not in the backup. This role may not drop it." for name in returned]
    return sentences + [
        f"Materialized view {name}: {_rows(now.rows)}, and {_rows(before.rows)} in the backup. A restore refreshes it."
        for name, before in (expected.materialized_views or {}).items()
        if (now := views.get(name)) and None not in (now.rows, before.rows) and now.rows != before.rows
    ]


def other_versions(expected: Contents, actual: Contents) -> list[str]:
    """Describe each absent extension, or extension of another version, in a sentence. A dump does not fix versions."""
    return [
        f"Extension {name}: {actual.extensions.get(name, 'absent')}, and {version} in the backup."
        for name, version in expected.extensions.items()
        if actual.extensions.get(name) != version
    ]


def _rows(count: int | None) -> str:
    return "absent" if count is None else "1 row" if count == 1 else f"{count} rows"
