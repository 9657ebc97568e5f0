"""Backups and restores of databases whose names libpq's programs could read as something else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import sql

from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs
from tests.integration.backups.helpers import RestorableDatabase, backup_source_of, take
from tests.servers.databases import Database, Server

NAMES = {
    "an equals sign": "test_a=b",
    "a connection string": "host=nowhere dbname=postgres",
    "a URL": "postgresql://nowhere/postgres",
    "a short URL": "postgres://",
    "a space": "test a b",
    "quotes": 'it\'s a "test" of `quotes`',
    "a backslash": "test\\' or '1'='1\\",
    "a dash": "--dbname=postgres",
    "a colon and an asterisk": "test:*:#x",
}


@pytest.fixture(params=NAMES)
def unusual(request: pytest.FixtureRequest, server: Server, migrated: Database) -> Iterator[Database]:
    """A copy of the database `migrated` under an unusual name."""
    unusual = Database({**migrated.parameters, "dbname": NAMES[request.param]})
    postgres = Database({**migrated.parameters, "dbname": "postgres"})
    identifiers = sql.Identifier(unusual.name), sql.Identifier(migrated.name)
    with postgres.connect() as session:
        session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*identifiers))
    unusual.run("CREATE TABLE only_here AS SELECT 42 AS answer")
    yield unusual
    with postgres.connect() as session:
        rows = session.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [unusual.name])
        for (name,) in rows.fetchall():
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_a_database_with_an_unusual_name_is_backed_up_and_restored(
    unusual: Database, disk_store: DiskStore, programs: Programs
) -> None:
    restorable = RestorableDatabase(unusual, disk_store, programs)
    archive = restorable.back_up()
    folder = disk_store.folder(archive.manifest.backup_id)
    assert folder is not None
    assert "CREATE ROLE" in (folder / "globals.sql").read_text()
    assert archive.manifest.database.name == unusual.name
    unusual.run("DROP TABLE only_here")
    restorable.restore(archive)
    assert unusual.rows("SELECT answer FROM only_here") == [(42,)]


@pytest.mark.parametrize("unusual", ["an equals sign", "a URL"], indirect=True)
def test_several_workers_dump_a_database_with_an_unusual_name(
    unusual: Database, disk_store: DiskStore, programs: Programs
) -> None:
    manifest = take(backup_source_of(unusual), disk_store, programs, jobs=2, parallel_from=0)
    assert (manifest.archive, manifest.database.name) == ("directory", unusual.name)
    assert "only_here" in str(manifest.contents)
