"""The drill: a backup restored into a scratch database and compared, to prove that it would, and how long it takes.

Owns the order of a drill and its record. Refuses to know whose the scratch server is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from datetime import datetime, timezone

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups import restore, restore_server
from pgratchet.backups.manifest import Manifest, differences, other_versions
from pgratchet.backups.pg_programs import PgRestoreOptions
from pgratchet.backups.restore import BackupArchive
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.backups.store import Store
from pgratchet.database import connection as sessions
from pgratchet.errors import BackupFailed, RatchetError


@dataclass(frozen=True, slots=True)
class DrillRecord:
    """What a drill showed. Durations in milliseconds, sizes in bytes; `problem` is empty where it proved good.

    `notes` say what the scratch server did not have, and was left out of the comparison.
    """

    backup_id: str
    at: str
    backup_size: int
    good: bool = False
    problem: str = ""
    server_version: int = 0
    restore_ms: int = 0
    compare_ms: int = 0
    database_size: int = 0
    tables: int = 0
    rows: int = 0
    notes: tuple[str, ...] = ()


def run(
    site: RestoreServer, archived: BackupArchive, reading: Iterable[events.Event] = (), *, jobs: int, ours: bool
) -> Generator[events.Event, None, DrillRecord]:
    """Let it be read back by `reading`, restore, compare, drop; returns the record, also of one that is not good.

    On a server of `ours`, which goes away with the drill, the roles that are missing are made first.
    """
    made = archived.manifest
    record = DrillRecord(made.backup_id, datetime.now(timezone.utc).isoformat(timespec="seconds"), made.size)
    try:
        yield from reading
        with restore_server.translated(), closing(site.connect(site.maintenance)) as maintenance:
            server = sessions.inspect(maintenance)
            sessions.refuse_other_cluster(server, site.pinned_identifier)
            record = replace(record, server_version=server.version)
            roles = _prepared(maintenance, made, ours=ours)
            record = yield from _restored(site, maintenance, archived, jobs, roles, record)
    except RatchetError as error:
        record = replace(record, problem=f"{error.message}\n{error.detail}".strip())
    return replace(record, good=not record.problem)


def _restored(
    site: RestoreServer,
    maintenance: psycopg.Connection,
    archived: BackupArchive,
    jobs: int,
    lacking: Sequence[str],
    record: DrillRecord,
) -> Generator[events.Event, None, DrillRecord]:
    """The record, once the archive was in a scratch database and was compared; `lacking` are roles."""
    made, name = archived.manifest, restore_server.derived_name("pgratchet", "drill")
    with _scratch(site, maintenance, name, made):
        started = time.monotonic()
        yield from restore.pour(site, archived, PgRestoreOptions(name, jobs, owners=not lacking, subscriptions=False))
        restored = time.monotonic()
        yield events.Restored(name, _ms(started, restored))
        held = restore.measure(site, name)
        compared = time.monotonic()
        size, locale = _size(site, name), _locale(maintenance, name)
    wrong = differences(made.contents, held)
    yield events.Compared(len(held.tables), held.rows, tuple(wrong))
    notes = [f"Owners and privileges: the server lacks {', '.join(lacking)}."] if lacking else []
    if locale != made.database.collate:
        notes.append(f"Locale: it was restored with {locale}, and had {made.database.collate}.")
    return replace(
        record,
        problem="\n".join(wrong),
        restore_ms=_ms(started, restored),
        compare_ms=_ms(restored, compared),
        database_size=size,
        tables=len(held.tables),
        rows=held.rows,
        notes=(*notes, *other_versions(made.contents, held)),
    )


def _ms(since: float, until: float) -> int:
    return round((until - since) * 1000)


@contextmanager
def _scratch(site: RestoreServer, maintenance: psycopg.Connection, name: str, made: Manifest) -> Iterator[None]:
    """A database that is dropped again, whatever comes of it. Its locale need not be the backup's."""
    with restore_server.new_database(site, maintenance, name, made.database, exact=False):
        yield
    maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _prepared(maintenance: psycopg.Connection, made: Manifest, *, ours: bool) -> tuple[str, ...]:
    """See to what the restore needs; the roles that stay missing, without which no owner can be restored."""
    roles, extensions = restore_server.missing(maintenance, made)
    if extensions:
        raise BackupFailed(
            "the scratch server lacks extensions",
            detail=f"They are {', '.join(extensions)}.",
            hint="Name an environment whose server has them as drill_environment in the inventory.",
        )
    if not ours:
        return roles
    for role in roles:
        maintenance.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    return ()


def _locale(maintenance: psycopg.Connection, name: str) -> str:
    row = maintenance.execute("SELECT datcollate FROM pg_database WHERE datname = %s", (name,)).fetchone()
    return str(row[0]) if row else ""


def _size(site: RestoreServer, name: str) -> int:
    with closing(site.connect(name)) as connection:
        return sessions.database_size(connection)


def write_record(store: Store, record: DrillRecord) -> None:
    """Write the record where the backups are."""
    name = record.at.replace(":", "").replace("-", "").replace("+0000", "")
    store.note(f"{name}-{record.backup_id[-4:]}.json", json.dumps(asdict(record), indent=2).encode() + b"\n")


def read_records(store: Store) -> tuple[DrillRecord, ...]:
    """The records of past drills, oldest first; what is none is passed over."""
    found = [record for text in store.notes() if (record := _record(text))]
    return tuple(sorted(found, key=lambda record: record.at))


def _record(text: bytes) -> DrillRecord | None:
    try:
        shape = json.loads(text)
        record = DrillRecord(**{**shape, "notes": tuple(shape["notes"])})
    except (ValueError, TypeError, KeyError):
        return None
    pairs = zip(astuple(record), astuple(DrillRecord("", "", 0)), strict=True)
    return record if all(type(given) is type(usual) for given, usual in pairs) else None


def require_good(record: DrillRecord) -> None:
    """BackupFailed, exit 9, where a drill did not prove its backup good."""
    if not record.good:
        raise BackupFailed(
            f"the drill of backup {record.backup_id} did not prove it good",
            detail=record.problem,
            hint="Take another backup and drill that one; keep this one until you know what is wrong with it.",
        )
