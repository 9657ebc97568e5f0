"""Backups and restores for the tests of this folder, and programs that fail."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.backups import (
    backup,
    listing,
    restore,
    verification,
)
from pgratchet.backups.backup import BackupOptions, BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.drill import Drill, UntestableDrill
from pgratchet.backups.drill_records import DrillRecord
from pgratchet.backups.loading import BackupArchive
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.restore import RestoreOptions
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.backups.store import Store
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.database.target import program_environment
from pgratchet.errors import ConfigurationError
from pgratchet.operations.backups import backup_source
from tests.servers.databases import Database
from tests.support.targets import target_of
from tests.support.waiting import until


def backup_source_of(database: Database, **variables: object) -> BackupSource:
    target = target_of(database, **variables)
    with target.connected() as connection:
        return backup_source(target, connection)


def take(source: BackupSource, store: DiskStore, programs: Programs, **options: object) -> Manifest:
    return manifest_of(backup.take(source, store, programs, BackupOptions(**options)), store)  # type: ignore[arg-type]


def manifest_of(stream: Iterable[events.Event], store: Store) -> Manifest:
    """The manifest of the backup that the last event names."""
    *_, event = stream
    assert isinstance(event, events.BackupTaken)
    return listing.require_manifest(listing.inspect_backup(store, event.backup_id))


def verify(store: DiskStore, backup_id: str, programs: Programs) -> Manifest:
    entry = listing.inspect_backup(store, backup_id)
    list(verification.verify(entry, store, programs))
    return listing.require_manifest(entry)


def fake_programs(programs: Programs, folder: Path, pg_dump: str) -> Programs:
    """The real programs with a pg_dump of the test's own. `REAL` in the script is the real pg_dump."""
    folder.mkdir()
    for name in ("pg_restore", "pg_dumpall"):
        (folder / name).symlink_to(programs.folder / name)
    (folder / "pg_dump").write_text("#!/bin/sh\n" + pg_dump.replace("REAL", programs.path("pg_dump")))
    (folder / "pg_dump").chmod(0o755)
    return replace(programs, folder=folder)


def restore_server_of(database: Database) -> RestoreServer:
    """The server of the database, with the database's own parameters."""
    parameters = database.parameters
    environ = functools.partial(_client_environment, parameters)
    return RestoreServer(
        lambda name: connection.connect({**parameters, "dbname": name}), environ, "postgres", History()
    )


@contextmanager
def _client_environment(parameters: Mapping[str, str]) -> Iterator[dict[str, str]]:
    yield {**program_environment(), **{f"PG{key.upper()}": value for key, value in parameters.items()}}


@dataclass(frozen=True)
class RestorableDatabase:
    """A live database, a store for its backups, and programs to restore them."""

    database: Database
    disk_store: DiskStore
    programs: Programs

    @property
    def site(self) -> RestoreServer:
        return restore_server_of(self.database)

    def back_up(self) -> BackupArchive:
        manifest = take(backup_source_of(self.database), self.disk_store, self.programs)
        return BackupArchive(manifest, verification.open_content(manifest, self.disk_store, None), self.programs)

    def restore(self, archived: BackupArchive, **wishes: object) -> list[events.Event]:
        options = RestoreOptions(**wishes)  # type: ignore[arg-type]
        return list(restore.restore(self.site, self.database.name, archived, options))

    def named(self, name: str) -> Database:
        return Database({**self.database.parameters, "dbname": name})

    @property
    def postgres(self) -> Database:
        return self.named("postgres")

    def beside(self) -> list[str]:
        """The databases whose names begin with the name of the live one."""
        start = f"starts_with(datname, '{self.database.name[:30]}') AND datname <> '{self.database.name}'"
        return [str(name) for (name,) in self.postgres.rows(f"SELECT datname FROM pg_database WHERE {start}")]

    def oid(self) -> object:
        ((oid,),) = self.postgres.rows("SELECT oid FROM pg_database WHERE datname = %s", self.database.name)
        return oid

    def is_open(self) -> bool:
        rows = self.postgres.rows("SELECT datallowconn FROM pg_database WHERE datname = %s", self.database.name)
        return rows == [(True,)]

    def likeness(self, name: str | None = None) -> tuple[list[str], dict[str, list[tuple[object, ...]]]]:
        """The schema of a database by pg_dump, without its name; and every row."""
        name = name or self.database.name
        command = [self.programs.path("pg_dump"), "--schema-only", "--create", f"--dbname={name}"]
        with self.site.client_environment() as environ:
            text = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        lines = text.replace(name, "LIVE").splitlines()
        schema = [line for line in lines if line and not line.startswith(("--", "\\restrict", "\\unrestrict"))]
        database = self.named(name)
        tables = database.rows(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.oid >= 16384 ORDER BY 1"
        )
        # What the database itself is like comes as statements in an order of their own.
        return sorted(schema), {str(t): database.rows(f"SELECT x::text FROM {t} AS x ORDER BY 1") for (t,) in tables}


@contextmanager
def assert_untouched(restorable: RestorableDatabase) -> Iterator[None]:
    """Check that the block leaves the live database unchanged and open, and no other database beside it."""
    before, likeness, oid = restorable.database.fingerprint(), restorable.likeness(), restorable.oid()
    yield
    until(lambda: restorable.database.fingerprint() == before)
    assert (restorable.oid(), restorable.beside()) == (oid, [])
    assert restorable.likeness() == likeness


@contextmanager
def temporary_roles(database: Database, *names: str, options: str = "LOGIN PASSWORD 'x'") -> Iterator[None]:
    for name in names:
        database.run(f"CREATE ROLE {name} {options}")
    try:
        yield
    finally:
        for name in names:
            database.run(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@dataclass(frozen=True)
class Owned:
    """A database as its owner, with CREATEDB and no more, and as a superuser. `other` is a role of somebody else."""

    own: RestorableDatabase
    privileged: RestorableDatabase
    other: str

    @property
    def role(self) -> str:
        return self.own.database.parameters["user"]

    def prepare(self, statements: str) -> None:
        """Run statements as the superuser, each by itself."""
        for statement in statements.format(name=self.own.database.name, role=self.role, other=self.other).split(";\n"):
            self.privileged.database.run(statement)

    def assert_refused(self, archive: BackupArchive, *parts: str) -> ConfigurationError:
        refused = pytest.raises(ConfigurationError, match="lacks rights for this restore")
        with assert_untouched(self.privileged), refused as caught:
            self.own.restore(archive)
        for part in parts:
            assert part.format(role=self.role, other=self.other, name=self.own.database.name) in str(caught.value)
        return caught.value


def fake_pg_restore(programs: Programs, folder: Path, script: str) -> Programs:
    """The real programs with a pg_restore of the test's own. `REAL` in the script is the real pg_restore."""
    folder.mkdir()
    (folder / "pg_restore").write_text("#!/bin/sh\n" + script.replace("REAL", programs.path("pg_restore")))
    (folder / "pg_restore").chmod(0o755)
    return replace(programs, folder=folder)


def wait_until_restore_ended(restorable: RestorableDatabase) -> None:
    """Wait until every session of the restore is gone, also one that has not begun the statement sent to it."""
    until(
        lambda: (
            restorable.postgres.rows(
                "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
                f" AND (datname LIKE '{restorable.database.name}%' OR query LIKE '%{restorable.database.name}%'"
                " OR application_name = 'pgratchet')"
            )
            == []
        )
    )


def is_swapped(restorable: RestorableDatabase, live_oid: object) -> bool:
    """Return whether the names are swapped. Checks that both are, or neither."""
    old = [name for name in restorable.beside() if "_old_" in name]
    restored = [name for name in restorable.beside() if "_restore_" in name]
    swapped = restorable.oid() != live_oid
    assert (len(old), len(restored)) == ((1, 0) if swapped else (0, 1))
    return swapped


def run_drill(drill: Drill | UntestableDrill) -> DrillRecord:
    list(drill.run())
    return drill.record
