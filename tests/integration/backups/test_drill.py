"""Drills on real servers: good backups pass, bad ones fail, and the scratch server keeps nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet import embedded, events
from pgratchet.backups import drill_records, listing, verification
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.drill import Drill
from pgratchet.backups.drill_records import DrillRecord, NotTestable, Verdict
from pgratchet.backups.loading import BackupArchive
from pgratchet.backups.manifest import Contents
from pgratchet.backups.pg_programs import Programs, find_programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.errors import BackupFailed
from pgratchet.operations.drill import drilling
from pgratchet.variables import DrillVariables
from tests.faults.proxy import Moment, Proxy
from tests.integration.backups.helpers import (
    backup_source_of,
    fake_pg_restore,
    restore_server_of,
    run_drill,
    take,
    temporary_roles,
)
from tests.servers.databases import Database
from tests.support.invoke import COMMAND, Invoke, environment
from tests.support.processes import command_lines
from tests.support.waiting import until

GOOD = 2 + 1
"""Rows of the migrated database: those of the first migration, and that of the history."""


@pytest.fixture
def archive(backup_source: BackupSource, disk_store: DiskStore, programs: Programs) -> BackupArchive:
    return taken(backup_source, disk_store, programs)


def taken(source: BackupSource, bucket_store: DiskStore, programs: Programs) -> BackupArchive:
    manifest = take(source, bucket_store, programs)
    return BackupArchive(manifest, verification.open_content(manifest, bucket_store, None), programs)


def run(site: RestoreServer, archived: BackupArchive, *, ours: bool = False) -> DrillRecord:
    return run_drill(Drill(site, archived, create_roles=ours))


def names(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1")


@contextmanager
def nothing_left(database: Database) -> Iterator[None]:
    before = names(database)
    yield
    assert names(database) == before


def test_a_drill_of_a_good_backup_is_recorded(
    migrated: Database, archive: BackupArchive, disk_store: DiskStore
) -> None:
    drill = Drill(restore_server_of(migrated), archive)
    with nothing_left(migrated):
        (restored,) = [event for event in drill.run() if isinstance(event, events.Restored)]
    record = drill.record
    assert restored.database.startswith("pgratchet_drill_")
    manifest = archive.manifest
    assert (record.backup_id, record.good, record.problem, record.notes) == (manifest.backup_id, True, "", ())
    assert (record.tables, record.rows) == (len(manifest.contents.tables), manifest.contents.rows)
    assert record.rows >= GOOD
    assert record.restore_ms > 0
    assert record.compare_ms >= 0
    assert record.database_size > 5_000_000
    assert record.backup_size == manifest.size
    assert record.server_version == manifest.server_version
    drill_records.require_good(record)
    later = replace(record, at="2099-01-01T00:00:00+00:00")
    drill_records.write_record(disk_store, later)
    drill_records.write_record(disk_store, record)
    assert drill_records.read_records(disk_store) == (record, later)
    assert [each.backup_id for each in listing.list_backups(disk_store)] == [manifest.backup_id], (
        "records are no backups"
    )


BROKEN = {
    "cut": '{"backup_id": "x", "at"',
    "empty": "",
    "list": "[]",
    "null": "null",
    "word": '"notes"',
    "older": json.dumps({"backup_id": "x", "at": "2026", "notes": []}),
    "newer": json.dumps({"backup_id": "x", "at": "2026", "backup_size": 1, "notes": [], "more": 1}),
    "number": json.dumps({"backup_id": "x", "at": 5, "backup_size": 1, "notes": []}),
    "nothing": json.dumps({"backup_id": "x", "at": None, "backup_size": 1, "notes": []}),
    "text": json.dumps({"backup_id": "x", "at": "2026", "backup_size": "1", "notes": []}),
    "truth": json.dumps({"backup_id": "x", "at": "2026", "backup_size": 1, "good": "no", "notes": []}),
}


def test_invalid_drill_records_are_skipped(disk_store: DiskStore) -> None:
    good = DrillRecord("20260101T000000-0000", "2026-01-01T00:00:00+00:00", 7, Verdict.GOOD)
    drill_records.write_record(disk_store, good)
    for name, text in BROKEN.items():
        disk_store.note(f"20250101T000000-{name}.json", text.encode())
    disk_store.note("20250101T000000-bytes.json", b"\xff\xfe{")
    assert len(list(disk_store.notes())) == len(BROKEN) + 2
    assert drill_records.read_records(disk_store) == (good,)


def test_records_without_a_verdict_are_read(disk_store: DiskStore) -> None:
    old = {"backup_id": "x", "at": "2026", "backup_size": 7, "notes": [], "good": True, "problem": ""}
    disk_store.note("1.json", json.dumps(old).encode())
    disk_store.note("2.json", json.dumps({**old, "at": "2027", "good": False, "problem": "rot"}).encode())
    good, bad = drill_records.read_records(disk_store)
    assert (good.verdict, good.reason, bad.verdict, bad.reason) == (Verdict.GOOD, "", Verdict.BAD, "rot")


def with_contents(archived: BackupArchive, **changes: object) -> BackupArchive:
    contents: Contents = replace(archived.manifest.contents, **changes)  # type: ignore[arg-type]
    return replace(archived, manifest=replace(archived.manifest, contents=contents))


def test_a_backup_with_other_contents_fails_the_drill(migrated: Database, archive: BackupArchive) -> None:
    tables = {**archive.manifest.contents.tables, "public.app_state": 99}
    with nothing_left(migrated):
        record = run(restore_server_of(migrated), with_contents(archive, tables=tables))
    assert (record.good, record.problem) == (False, "Table public.app_state: 2 rows, and 99 rows in the backup.")
    assert record.restore_ms > 0
    with pytest.raises(BackupFailed, match=r"the drill of backup .* failed") as caught:
        drill_records.require_good(record)
    assert caught.value.exit_code == 9
    assert "public.app_state" in caught.value.detail


def test_a_backup_that_cannot_be_restored_fails_the_drill(
    migrated: Database, archive: BackupArchive, tmp_path: Path
) -> None:
    script = 'REAL "$@"; echo "pg_restore: error: no more" >&2; exit 1'
    failing = replace(archive, programs=fake_pg_restore(archive.programs, tmp_path / "bin", script))
    with nothing_left(migrated):
        record = run(restore_server_of(migrated), failing)
    assert not record.good
    assert record.problem.startswith("pg_restore failed\n")
    assert "no more" in record.problem


def test_an_extension_of_another_version_is_noted(migrated: Database, archive: BackupArchive) -> None:
    record = run(restore_server_of(migrated), with_contents(archive, extensions={"plpgsql": "0.9"}))
    assert (record.good, record.notes) == (True, ("Extension plpgsql: 1.0, and 0.9 in the backup.",))


def test_a_missing_extension_is_named_before_anything_is_restored(migrated: Database, archive: BackupArchive) -> None:
    with nothing_left(migrated):
        record = run(restore_server_of(migrated), with_contents(archive, extensions={"no_such_extension": "1.0"}))
    assert (record.verdict, record.problem) == (Verdict.UNTESTABLE, "")
    assert record.reason == "the scratch server lacks extensions: no_such_extension"
    assert record.restore_ms == 0
    with pytest.raises(NotTestable, match="could not be tested here") as caught:
        drill_records.require_good(record)
    assert caught.value.exit_code == 10
    assert "drill_environment" in caught.value.hint


def test_a_missing_locale_is_noted(migrated: Database, archive: BackupArchive) -> None:
    manifest = archive.manifest
    odd = replace(manifest, database=replace(manifest.database, collate="xx_XX.utf8", ctype="xx_XX.utf8"))
    with nothing_left(migrated):
        record = run(restore_server_of(migrated), replace(archive, manifest=odd))
    assert (record.good, record.problem) == (True, "")
    assert any("xx_XX.utf8" in note for note in record.notes)


def test_roles_are_created_only_on_a_throwaway_server(
    migrated: Database, backup_source: BackupSource, disk_store: DiskStore, programs: Programs
) -> None:
    role = f"{migrated.name}_role"
    with temporary_roles(migrated, role):
        migrated.run(f"GRANT SELECT ON jobs TO {role}; CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO {role}")
        archived = taken(backup_source, disk_store, programs)
        migrated.run("DROP TABLE theirs")
    with nothing_left(migrated):
        record = run(restore_server_of(migrated), archived)
    assert record.good
    assert record.notes == (f"Owners and privileges: the server lacks {role}.",)
    with embedded.scratch() as server:
        scratch = Database({**server.parameters(), "dbname": "postgres"})
        if archived.manifest.server_version < 180000:
            archived = replace(
                archived, programs=find_programs(180000, archive_version=archived.manifest.client_version)
            )
        record = run(restore_server_of(scratch), archived, ours=True)
        assert (record.good, record.problem, record.notes) == (True, "", ())
        assert scratch.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", role)
    assert not server.root.exists()


def test_objects_of_the_bootstrap_superuser_are_restored_under_another_name(
    migrated: Database, disk_store: DiskStore, programs: Programs
) -> None:
    """The catalog records no dependency on this role."""
    owner = f"{migrated.name}_owner"
    with temporary_roles(migrated, owner):
        migrated.run(f"ALTER DATABASE {migrated.name} OWNER TO {owner}")
        manifest = take(backup_source_of(migrated), disk_store, programs)
        migrated.run(f"ALTER DATABASE {migrated.name} OWNER TO CURRENT_USER")
    entry = listing.inspect_backup(disk_store, manifest.backup_id)
    with drilling(entry, manifest, disk_store, DrillVariables(), None) as drill:
        record = run_drill(drill)
    assert (record.good, record.problem, record.notes) == (True, "", ())


def test_a_subscription_of_a_backup_is_removed_from_the_scratch_server(
    migrated: Database, backup_source: BackupSource, disk_store: DiskStore, programs: Programs
) -> None:
    """A database with a subscription cannot be dropped, and the slot that it names belongs to the live server."""
    migrated.run("CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)")
    try:
        archived = taken(backup_source, disk_store, programs)
        with nothing_left(migrated):
            record = run(restore_server_of(migrated), archived)
        assert (record.good, record.problem) == (True, "")
    finally:
        migrated.run("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
        migrated.run("DROP SUBSCRIPTION s")


def test_a_lost_connection_leaves_no_scratch_database(
    migrated: Database, backup_source: BackupSource, disk_store: DiskStore, programs: Programs
) -> None:
    migrated.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 20000) n")
    archived, proxy = taken(backup_source, disk_store, programs), Proxy(migrated.parameters)
    try:
        proxy.at(b"COPY public.bytes", Moment.SENT, meanwhile=proxy.cut)
        with nothing_left(migrated):
            record = run(restore_server_of(proxy.database), archived)
        assert proxy.sprung == 1
        assert record.verdict is Verdict.UNTESTABLE
    finally:
        proxy.close()


@pytest.mark.parametrize("during", ["initdb", "pg_ctl", "pg_restore --exit-on-error"])
def test_an_interrupted_drill_leaves_nothing(invoke: Invoke, checkout: Path, during: str) -> None:
    rows = "CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 300000) n"
    (checkout / "sql" / "900_rows.sql").write_text(rows)
    invoke("migrate", "--env=dev")
    invoke("backup", "--env=dev")
    drilling = subprocess.Popen(
        [*COMMAND, "drill", "--env=dev"],
        cwd=checkout,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    names: set[str] = set()

    def has_come() -> bool:
        lines = command_lines(drilling.pid)
        names.update(name for line in lines for name in re.findall(r"scratch-[0-9a-f]{8}", line))
        return bool(names) and any(during in line for line in lines)

    try:
        until(has_come, 30)
        drilling.send_signal(signal.SIGINT)
        _, output = drilling.communicate(timeout=30)
    finally:
        drilling.kill()
        drilling.wait()
    assert drilling.returncode == 130, output
    assert "interrupted" in output
    (name,) = names
    until(lambda: not any(name in line for line in command_lines()), 5)
    assert not list(embedded.state_folder().glob(f"{name}*"))
    assert not list((checkout / "backups").rglob("drills/*"))
