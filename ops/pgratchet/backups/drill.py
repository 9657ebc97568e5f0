"""Proves a backup by restoring into a scratch database and comparing with the manifest, and measures the time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import psycopg
from psycopg import sql

from pgratchet import events
from pgratchet.backups.drill_records import DrillRecord
from pgratchet.backups.kept_databases import derive_name
from pgratchet.backups.manifest import Contents, Manifest, differences, other_versions
from pgratchet.backups.pg_programs import PgRestoreOptions
from pgratchet.backups.restore import BackupArchive, load_archive, read_contents
from pgratchet.backups.restore_server import RestoreServer, find_missing, new_database, translate_errors
from pgratchet.database import inspection
from pgratchet.errors import BackupFailed, RatchetError
from pgratchet.formatting import elapsed_ms


@dataclass(slots=True)
class Drill:
    """A drill of a backup. `record` is complete when the events of `run` end.

    `verification` are the events of reading the backup back. They are part of the drill, so a damaged backup is
    recorded. With `create_roles`, roles missing on the server are created; only for a server that ends with the drill.
    """

    server: RestoreServer
    archive: BackupArchive
    verification: Iterable[events.Event] = ()
    jobs: int = field(default=1, kw_only=True)
    create_roles: bool = field(default=False, kw_only=True)
    record: DrillRecord = field(init=False)

    def __post_init__(self) -> None:
        manifest, now = self.archive.manifest, datetime.now(timezone.utc)
        self.record = DrillRecord(manifest.backup_id, now.isoformat(timespec="seconds"), manifest.size)

    def run(self) -> events.Stream:
        """Verify, restore, compare and drop. Errors are recorded as the backup's problem, and not raised."""
        try:
            yield from self.verification
            with translate_errors(), closing(self.server.connect(self.server.maintenance)) as maintenance:
                server = inspection.inspect(maintenance)
                inspection.refuse_other_cluster(server, self.server.pinned_identifier)
                self.record = replace(self.record, server_version=server.version)
                missing_roles = self._prepare(maintenance)
                yield from self._restore(maintenance, missing_roles)
        except RatchetError as error:
            self.record = replace(self.record, problem=f"{error.message}\n{error.detail}".strip())
        self.record = replace(self.record, good=not self.record.problem)

    def _prepare(self, maintenance: psycopg.Connection) -> tuple[str, ...]:
        """Create missing roles if allowed. Returns the roles still missing, without which owners cannot be restored."""
        roles, extensions = find_missing(maintenance, self.archive.manifest)
        if extensions:
            raise BackupFailed(
                "the scratch server lacks extensions",
                detail=f"They are {', '.join(extensions)}.",
                hint="Name an environment whose server has them as drill_environment in the inventory.",
            )
        if not self.create_roles:
            return roles
        for role in roles:
            maintenance.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        return ()

    def _restore(self, maintenance: psycopg.Connection, missing_roles: Sequence[str]) -> events.Stream:
        name = derive_name("pgratchet", "drill")
        options = PgRestoreOptions(name, self.jobs, owners=not missing_roles, subscriptions=False)
        with _scratch_database(self.server, maintenance, name, self.archive.manifest):
            started = time.monotonic()
            yield from load_archive(self.server, self.archive, options)
            restored = time.monotonic()
            yield events.Restored(name, elapsed_ms(started, restored))
            contents = read_contents(self.server, name)
            compared = time.monotonic()
            size, locale = _size(self.server, name), _locale(maintenance, name)
        self.record = replace(
            self.record,
            restore_ms=elapsed_ms(started, restored),
            compare_ms=elapsed_ms(restored, compared),
            database_size=size,
            tables=len(contents.tables),
            rows=contents.rows,
            notes=tuple(self._notes(missing_roles, locale, contents)),
        )
        problems = differences(self.archive.manifest.contents, contents)
        yield events.Compared(len(contents.tables), contents.rows, tuple(problems))
        self.record = replace(self.record, problem="\n".join(problems))

    def _notes(self, missing_roles: Sequence[str], locale: str, contents: Contents) -> Iterator[str]:
        manifest = self.archive.manifest
        if missing_roles:
            yield f"Owners and privileges: the server lacks {', '.join(missing_roles)}."
        if locale != manifest.database.collate:
            yield f"Locale: it was restored with {locale}, and had {manifest.database.collate}."
        yield from other_versions(manifest.contents, contents)


@contextmanager
def _scratch_database(
    server: RestoreServer, maintenance: psycopg.Connection, name: str, manifest: Manifest
) -> Iterator[None]:
    """Create a database for the block. The locale may differ from the backup's locale."""
    with new_database(server, maintenance, name, manifest.database, exact=False):
        yield
    maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _locale(maintenance: psycopg.Connection, name: str) -> str:
    row = maintenance.execute("SELECT datcollate FROM pg_database WHERE datname = %s", (name,)).fetchone()
    return str(row[0]) if row else ""


def _size(server: RestoreServer, name: str) -> int:
    with closing(server.connect(name)) as connection:
        return inspection.database_size(connection)
