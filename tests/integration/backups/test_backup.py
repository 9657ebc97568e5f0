"""Backups on real servers, with the real pg_dump and pg_restore."""

from __future__ import annotations

import subprocess
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.backups import listing, manifest, retention
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs, find_programs
from pgratchet.backups.retention import Retention
from pgratchet.database import connection
from pgratchet.errors import BackupFailed
from tests.integration.backups.helpers import RestorableDatabase, backup_source_of, take, verify
from tests.servers.databases import Database, Server


def test_a_manifest_describes_the_database(
    migrated: Database, backup_source: BackupSource, programs: Programs, disk_store: DiskStore
) -> None:
    migrated.run('CREATE TABLE "odd \'one" (x int); INSERT INTO "odd \'one" SELECT generate_series(1, 7)')
    migrated.run("CREATE EXTENSION citext; SELECT lo_create(4711)")
    manifest = take(backup_source, disk_store, programs, label="before 1.4", keep=True)
    (entry,) = listing.list_backups(disk_store)
    assert entry.manifest == manifest
    assert manifest.contents.tables["public.app_state"] == 2
    assert manifest.contents.tables['public."odd \'one"'] == 7
    assert manifest.contents.large_objects == 1
    assert set(manifest.contents.extensions) == {"citext", "plpgsql"}
    assert list(manifest.contents.history) == ["001_initial_schema"]
    assert (manifest.database.name, manifest.server_version) == (migrated.name, backup_source.server_version)
    assert (manifest.label, manifest.keep, manifest.archive) == ("before 1.4", True, "custom")
    folder = disk_store.root / manifest.backup_id
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert sorted(path.name for path in folder.iterdir()) == ["database.dump", "globals.sql", "manifest.json"]
    assert verify(disk_store, manifest.backup_id, programs) == manifest


def test_the_globals_contain_no_password(
    migrated: Database, backup_source: BackupSource, programs: Programs, disk_store: DiskStore
) -> None:
    role = f"{migrated.name}_role"
    migrated.run(f"CREATE ROLE {role} LOGIN PASSWORD 'planted canary'; GRANT SELECT ON jobs TO {role}")
    try:
        hashes = migrated.rows("SELECT rolpassword FROM pg_authid WHERE rolname = %s", role)
        manifest = take(backup_source, disk_store, programs)
        text = (disk_store.root / manifest.backup_id / "globals.sql").read_text()
        assert f"CREATE ROLE {role};" in text
        assert str(hashes[0][0]).startswith(("SCRAM-SHA-256", "md5"))
        assert str(hashes[0][0]) not in text
        assert "planted canary" not in text
        assert role in manifest.contents.roles
    finally:
        migrated.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_row_counts_are_those_of_the_dump_while_others_write(
    migrated: Database, backup_source: BackupSource, programs: Programs, disk_store: DiskStore
) -> None:
    migrated.run("CREATE TABLE busy (x int)")
    stop = threading.Event()

    def write() -> None:
        with migrated.connect() as session:
            while not stop.is_set():
                session.execute("INSERT INTO busy SELECT generate_series(1, 50)")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        manifest = take(backup_source, disk_store, programs)
    finally:
        stop.set()
        thread.join()
    counted = manifest.contents.tables["public.busy"]
    dump = disk_store.root / manifest.backup_id / "database.dump"
    rows = subprocess.run(
        [programs.path("pg_restore"), "--data-only", "--table=busy", "--file=-", str(dump)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    dumped = rows.index("\\.") - next(n for n, line in enumerate(rows) if line.startswith("COPY")) - 1
    assert counted == dumped
    assert migrated.rows("SELECT count(*) FROM busy")[0][0] > counted, "others wrote meanwhile"  # type: ignore[operator]


def test_a_large_database_is_dumped_by_parallel_workers(
    migrated: Database, backup_source: BackupSource, programs: Programs, disk_store: DiskStore
) -> None:
    migrated.run("CREATE TABLE more AS SELECT generate_series(1, 500) AS n")
    manifest = take(backup_source, disk_store, programs, jobs=2, parallel_from=0)
    assert manifest.archive == "directory"
    assert "database/toc.dat" in manifest.files
    assert verify(disk_store, manifest.backup_id, programs) == manifest
    data = next(
        path for path in sorted((disk_store.root / manifest.backup_id / "database").iterdir()) if path.name[0].isdigit()
    )
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    (entry,) = listing.list_backups(disk_store)
    assert "SHA-256" in entry.problem


def test_row_security_never_reduces_a_backup(migrated: Database, disk_store: DiskStore, programs: Programs) -> None:
    role = f"{migrated.name}_role"
    secret = migrated.parameters.get("password", "")
    migrated.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA public, ratchet TO {role}")
    migrated.run(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public, ratchet TO {role};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public, ratchet TO {role};"
        "ALTER TABLE jobs ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON jobs USING (false)"
    )
    other = Database({**migrated.parameters, "user": role, **({"password": "x"} if secret else {})})
    try:
        assert other.rows("SELECT count(*) FROM jobs") == [(0,)], "what the role sees is a subset, and no error"
        with pytest.raises(BackupFailed, match=r"the backup cannot read everything: .*jobs") as caught:
            take(backup_source_of(other), disk_store, programs)
        assert "BYPASSRLS" in caught.value.hint
        assert disk_store.ids() == []
    finally:
        migrated.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_retention_deletes_expired_backups_only(
    backup_source: BackupSource, programs: Programs, disk_store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = take(backup_source, disk_store, programs, keep=True)
    manifests = [take(backup_source, disk_store, programs) for _ in range(3)]
    later = datetime.now(timezone.utc) + timedelta(days=1)
    emitted = list(retention.prune(disk_store, Retention(count=1), later))
    assert emitted == [events.BackupsRemoved((manifests[1].backup_id, manifests[0].backup_id))]
    assert disk_store.ids() == [manifests[2].backup_id, pinned.backup_id]
    assert sorted(path.name for path in disk_store.root.iterdir()) == sorted(disk_store.ids())
    assert list(retention.prune(disk_store, Retention(count=1), later)) == []


def test_ids_sort_by_time() -> None:
    moment = datetime(2026, 11, 24, 10, 15, 0, 7000, tzinfo=timezone.utc)
    first, second = manifest.new_id(moment, 15), manifest.new_id(moment + timedelta(milliseconds=300), 0)
    assert (first, second) == ("20261124T101500-007f", "20261124T101500-1330")
    assert manifest.is_id(first)


def test_a_database_without_an_encoding_is_backed_up_and_restored(server: Server, tmp_path: Path) -> None:
    with connection.connect(server.parameters) as session:
        session.execute("CREATE DATABASE test_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    server.created.append("test_ascii")
    database = Database({**server.parameters, "dbname": "test_ascii"})
    try:
        database.run("CREATE TABLE t AS SELECT E'\\xff'::text AS x")
        found = find_programs(backup_source_of(database).server_version)
        restorable = RestorableDatabase(database, DiskStore(tmp_path / "backups"), found)
        archive = restorable.back_up()
        database.run("TRUNCATE t")
        restorable.restore(archive)
        assert database.rows("SELECT encode(x::bytea, 'escape') FROM t") == [(r"\377",)]
        assert database.rows("SHOW server_encoding") == [("SQL_ASCII",)]
        for name in restorable.beside():
            restorable.postgres.run(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        server.drop(database)


@pytest.mark.parametrize("rows", [0, 50_000], ids=["counted first", "dumped first"])
def test_a_table_that_may_not_be_read_is_named_as_the_cause(
    migrated: Database, disk_store: DiskStore, programs: Programs, rows: int
) -> None:
    """pg_dump, whose snapshot ends with the counting, would report the snapshot."""
    role = f"{migrated.name}_role"
    password = {"password": "x"} if migrated.parameters.get("password") else {}
    migrated.run(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA public, ratchet TO {role};"
        f"CREATE TABLE aa AS SELECT n FROM generate_series(1, {rows}) AS n;"
        f"GRANT ALL ON ALL TABLES IN SCHEMA public, ratchet TO {role}; REVOKE ALL ON TABLE jobs FROM {role};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public, ratchet TO {role}"
    )
    other = Database({**migrated.parameters, "user": role, **password})
    try:
        with pytest.raises(BackupFailed) as caught:
            take(backup_source_of(other), disk_store, programs)
        assert "permission denied for table jobs" in f"{caught.value.message} {caught.value.detail}"
        assert "snapshot" not in caught.value.detail
        assert disk_store.ids() == []
    finally:
        migrated.run(f"DROP OWNED BY {role}; DROP ROLE {role}")
