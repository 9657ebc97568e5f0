"""The progress that a dump and a restore of one large table report."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from itertools import pairwise

import pytest

from pgratchet import events
from pgratchet.backups import backup, dump_writer, listing, loading, table_progress, verification
from pgratchet.backups.backup import BackupOptions, BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.loading import BackupArchive
from pgratchet.backups.pg_programs import PgRestoreOptions, Programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.backups.throttle import Throttle
from tests.servers.databases import Database, Server

ROWS = 300_000


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_progress, "_INTERVAL", 0.01)
    for module in (dump_writer, loading):
        monkeypatch.setattr(module, "Throttle", partial(Throttle, 0.01))


@pytest.fixture
def large(migrated: Database) -> Database:
    migrated.run(f'CREATE TABLE "Large" AS SELECT n AS id, md5(n::text) FROM generate_series(1, {ROWS}) AS n')
    migrated.run('CREATE INDEX by_md5 ON "Large" (md5)')
    return migrated


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_dump_of_one_large_table_moves(
    large: Database, backup_source: BackupSource, disk_store: DiskStore, programs: Programs, jobs: int
) -> None:
    options = BackupOptions(jobs=jobs, parallel_from=0)
    taken = list(backup.take(backup_source, disk_store, programs, options))
    dumped = [each for each in taken if isinstance(each, events.BackupProgress) and each.phase == "dump"]
    parts = [each.done / each.total for each in dumped if each.item == "public.Large"]
    assert any(0.05 < part < 0.95 for part in parts), dumped
    assert all(part <= 1 for part in parts)
    if jobs == 1:
        assert all(earlier <= later for earlier, later in pairwise(parts))


def test_a_restore_of_one_large_table_moves_and_names_its_indexes(
    large: Database,
    backup_source: BackupSource,
    disk_store: DiskStore,
    programs: Programs,
    scratch_server: RestoreServer,
    server: Server,
) -> None:
    *_, taken = backup.take(backup_source, disk_store, programs, BackupOptions())
    assert isinstance(taken, events.BackupTaken)
    manifest = listing.require_manifest(listing.inspect_backup(disk_store, taken.backup_id))
    archive = BackupArchive(manifest, verification.open_content(manifest, disk_store, None), programs)
    empty = server.create()
    try:
        stream = loading.load_archive(scratch_server, archive, PgRestoreOptions(empty.name))
        shown = [each for each in stream if isinstance(each, events.BackupProgress)]
    finally:
        server.drop(empty)
    parts = [each.done / each.total for each in shown if each.phase == "restore" and each.item == "public.Large"]
    assert any(0.05 < part < 0.95 for part in parts), shown
    assert "INDEX public.by_md5" in {each.item for each in shown if each.phase == "index"}
    assert shown[-1].phase == "analyze"


def test_a_failed_question_about_progress_leaves_the_snapshot_usable(
    migrated: Database, backup_source: BackupSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_progress, "COPIED", "SELECT 1; SELECT 1 / 0")
    with open_snapshot(backup_source.connect) as snapshot:
        snapshot_id = snapshot.id
        watched = table_progress.TableProgress(snapshot.sizes, 1)
        watched.watch(snapshot.read_copied)
        assert snapshot.read_contents(backup_source.history).tables
        with closing(migrated.connect()) as other:
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            other.execute(f"SET TRANSACTION SNAPSHOT '{snapshot_id}'".encode())
